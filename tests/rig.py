"""A gateway and its two simulated providers, running in a thread of their own.

Tests are plain functions: they talk to the gateway over real sockets, with real clients, and
switch faults through ``Rig.call``, which runs a function in the thread's event loop.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import uvloop

from fastgw.admin import Admin
from fastgw.config import loads
from fastgw.config.model import Config, Profile
from fastgw.gateway import Gateway, Settings
from fastgw.server import Address
from fastgw.shared_state import SharedState
from fastgw.simulator import Fault, FaultKind, Provider, Simulator
from fastgw.simulator import start as start_simulator

T = TypeVar("T")

KEYS = {"OPENAI_API_KEY": "sk-sim-openai", "DEEPSEEK_API_KEY": "sk-sim-deepseek"}

# No test waits for one of these, nor does a busy machine reach it; a test that lets something hang brings
# its own (``with_deadlines``).
PATIENT_S = 20
DEADLINES = {
    **dict.fromkeys(("head", "head_stream", "first_content", "first_content_stream"), PATIENT_S),
    **dict.fromkeys(("progress", "idle", "connect"), PATIENT_S),
    "total": 3 * PATIENT_S,
}

CONFIG = """\
fastgw:
  dead_reprobe: 1
  account_checks: false
services:
  - name: LLM Service
    routes:
      - name: llm
        uris: [/v1/*]
        deadlines: {head: 20, head_stream: 20, first_content: 20, first_content_stream: 20,
                    progress: 20, idle: 20, connect: 20, total: 60}
    upstream:
      scheme: https
      type: roundrobin
      nodes:
        - host: api.openai.com
          port: 443
          weight: 100
          auth: {header: {Authorization: "Bearer ${OPENAI_API_KEY}"}}
        - host: api.deepseek.com
          port: 443
          weight: 1
          priority: -1
          auth: {header: {Authorization: "Bearer ${DEEPSEEK_API_KEY}"}}
      checks:
        active:
          http_path: /
          timeout: 20
          healthy: {successes: 1}
          unhealthy: {http_failures: 3}
        passive:
          healthy: {successes: 1}
          unhealthy: {http_failures: 3}
"""

OPENAI = "api.openai.com:443"
DEEPSEEK = "api.deepseek.com:443"
MESSAGES = [{"role": "user", "content": "say hello"}]


def with_deadlines(text: str, **seconds: float) -> str:
    """A configuration with other deadlines; those that are not named are patient."""
    flow = ", ".join(f"{name}: {limit}" for name, limit in {**DEADLINES, **seconds}.items())
    return re.sub(r"deadlines: \{[^}]*\}", f"deadlines: {{{flow}}}", text)


def brief(text: str, limit_s: float = 5) -> str:
    """A configuration for providers that hang: each part of an answer may take so long.

    It holds for the healthy ones too, so it is no shorter than a busy machine needs.
    """
    return with_deadlines(text, **{name: limit_s for name in DEADLINES if name != "total"})


@dataclass
class Providers:
    """The simulated providers, in a thread of their own loop, behind some gateway at ``url``."""

    loop: asyncio.AbstractEventLoop
    simulator: Simulator

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    @property
    def openai(self) -> Provider:
        return self.simulator.openai

    @property
    def deepseek(self) -> Provider:
        return self.simulator.deepseek

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the loop's thread and return what it returns."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)

    def fault(self, provider: Provider, kind: FaultKind | None, **parameters: Any) -> None:
        """Break a provider from now on; None mends it."""
        fault = Fault(kind, **parameters) if kind is not None else None
        self.call(lambda: setattr(provider, "fault", fault))


@dataclass
class Rig(Providers):
    """What a test uses. ``url`` has no path; ``base_url`` is what an SDK takes."""

    gateway: Gateway
    admin: Admin
    port: int
    problems: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        assert self.admin.address is not None
        return f"http://{self.admin.address}"

    def await_(self, coroutine: Awaitable[T]) -> T:
        """Run a coroutine in the loop's thread."""

        async def run() -> T:
            return await coroutine

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)

    def counts(self) -> dict[str, Any]:
        return self.call(self.gateway.counts)

    def nodes(self) -> dict[str, Any]:
        """The kernel's nodes by name."""
        assert self.gateway.generation is not None
        return {node.name: node for node in self.gateway.generation.nodes.values()}

    def connect(self) -> socket.socket:
        """A raw client connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 100.0) -> float:
    """Look again and again until a condition holds; the limit is only a hang guard.

    Returns how long it took, seconds.
    """
    begin = monotonic()
    while not condition():
        if monotonic() - begin > limit_s:
            raise AssertionError(f"never happened: {what}")
        sleep(0.01)
    return monotonic() - begin


def config_of(text: str, **env: str) -> Config:
    return loads(text, env={**KEYS, **env})


@contextmanager
def running(
    ca_dir: Path,
    config: str | Config = CONFIG,
    *,
    loop_kind: str = "uvloop",
    article: bool = False,
    settings: dict[str, Any] | None = None,
    reload_config: Callable[[], Config] | None = None,
    access_log: Any = None,
    shared: SharedState | None = None,
) -> Iterator[Rig]:
    """A running rig; everything is closed at the end, and nothing may have been left behind."""
    ready: list[Rig | BaseException] = []
    stop: list[Callable[[], None]] = []
    started = threading.Event()
    problems: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        finished = asyncio.Event()
        simulator = await start_simulator(ca_dir=ca_dir, article=article)
        parsed = config_of(config) if isinstance(config, str) else config
        gateway = Gateway(
            parsed,
            Settings(
                listen=("127.0.0.1:0",),
                connect_to=simulator.connect_to,
                ca_file=simulator.ca_file,
                forwards_simulator_fields=True,
                **(settings or {}),
            ),
            reload_config=reload_config,
            access_log=access_log,
            shared=shared,
        )
        await gateway.start()
        admin = Admin(gateway)
        await admin.start(Address.parse("127.0.0.1:0"))
        stop.append(lambda: loop.call_soon_threadsafe(finished.set))
        ready.append(Rig(loop, simulator, gateway, admin, gateway.addresses[0].port, problems))
        started.set()
        await finished.wait()
        await gateway.close()
        await simulator.close()
        left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def run() -> None:
        factory = uvloop.new_event_loop if loop_kind == "uvloop" else asyncio.new_event_loop
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
        except BaseException as error:
            ready.append(error)
            started.set()

    thread = threading.Thread(target=run, name="rig", daemon=True)
    thread.start()
    assert started.wait(60), "the rig did not start"
    rig = ready[0]
    if isinstance(rig, BaseException):
        thread.join(10)
        raise rig
    try:
        yield rig
    finally:
        stop[0]()
        thread.join(60)
    assert not thread.is_alive(), "the rig did not stop"
    if len(ready) > 1:
        raise ready[1]  # type: ignore[misc]
    assert not problems, problems


def client_context(simulator: Simulator) -> ssl.SSLContext:
    """Trusts the simulated providers, for clients that talk to them directly."""
    return ssl.create_default_context(cafile=simulator.ca_file)


__all__ = [
    "CONFIG",
    "DEADLINES",
    "DEEPSEEK",
    "KEYS",
    "MESSAGES",
    "OPENAI",
    "Fault",
    "FaultKind",
    "Profile",
    "Rig",
    "brief",
    "config_of",
    "running",
    "wait_until",
    "with_deadlines",
]
