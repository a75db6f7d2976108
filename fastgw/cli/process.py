"""The life of `fastgw run`: load, listen, serve; reload, drain and end as signals ask for.

With several workers this is the life of each; ``crew.py`` is what they have in common.
"""

import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import math
import os
import pickle
import resource
import signal
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from fastgw._version import __version__
from fastgw.access_log import AccessLog
from fastgw.admin import Admin, AdminRefused
from fastgw.cli import garbage, held_signals, logs
from fastgw.cli.banner import Ink, Started, banner, process_warnings, scheme_of, url
from fastgw.cli.exposure import refuse_exposure
from fastgw.cli.options import Exit
from fastgw.cli.overrides import OFF, Overrides
from fastgw.cli.source import Source
from fastgw.config.model import Config, ProcessConfig
from fastgw.config.problems import ConfigErrors
from fastgw.errors import ConfigError, FastgwError
from fastgw.gateway import Gateway, Settings
from fastgw.secret import Secret, packed, secrets_in
from fastgw.server import Address, ListenFailed, on_signals
from fastgw.shared_state import SharedState
from fastgw.supervisor import DRAIN, READY, REOPEN, STOP, Channel

if TYPE_CHECKING:
    from fastgw.simulator import Simulator

logger = logging.getLogger("fastgw.process")

WANTED_DESCRIPTORS = 65_536  # two per request in flight, and some
LEAST_DESCRIPTORS = 64  # with fewer it would start, and then answer nobody
CONFIGURATION = "configuration"  # a message: what all workers are to have from now on
REFUSED = "refused"  # a message: a reload got no further than the supervisor, and why
_PR_SET_DUMPABLE = 4  # of linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
CONTROL_PORT = 9990  # of the simulated providers, where it is free


def run(overrides: Overrides) -> Exit:
    """Run until a signal ends it; returns the exit code. Says on standard error what is wrong."""
    _open_standard_streams()
    faulthandler.enable()
    logs.hook_exceptions()
    if not overrides.core_dumps:
        _forbid_dumps()
    source = Source.choose(overrides, os.environ)
    try:
        config = source.load()
    except ConfigErrors as errors:
        return refused(errors)
    process = config.process
    logs.hide(secrets_in(config))
    logs.configure(process.log_level or "info", process.log_format or "text")
    descriptors = _adjust_limits()
    if descriptors < LEAST_DESCRIPTORS:
        logs.tell(
            f"fastgw: {descriptors} file descriptors are too few to serve anybody: "
            f"it needs {LEAST_DESCRIPTORS}, and two per request (ulimit -n)\n"
        )
        return Exit.FAILURE
    _keep_heap()
    if process.workers > 1:
        from fastgw.cli import crew  # one process has no use for it

        return crew.run(config, source)
    return serve(Process(config, source))


def serve(process: "Process") -> Exit:
    """Run one gateway on a loop of its own, to its end."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(process.main())
    except KeyboardInterrupt:  # before the signal handlers were in place
        return Exit.CLEAN
    except Exception:
        logger.exception("the gateway ended by a fault of its own")
        return Exit.FAILURE
    finally:
        logs.close()


def refused(error: FastgwError) -> Exit:
    """Every mistake on a line of its own, then what was done about it."""
    count = len(error.problems) if isinstance(error, ConfigErrors) else 1
    errors = "1 error" if count == 1 else f"{count} errors"
    logs.tell(f"{error}\nfastgw: refused the configuration: {errors}\n")
    return Exit.CONFIG


def _open_standard_streams() -> None:
    """Give the numbers of closed streams to nothing: else to a socket, which would get all that is logged."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for number, name in enumerate(("stdout", "stderr"), 1):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def _adjust_limits() -> float:
    """As many descriptors as we may have; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return math.inf if soft == resource.RLIM_INFINITY else soft


def _forbid_dumps() -> None:
    """Let nobody write or read our memory, which holds the providers' keys; children inherit that.

    The limit is for core files. It does not hold where the kernel pipes dumps to a program; there, and
    against a debugger or a reader of /proc/PID/mem or environ of the same user, not being dumpable does.
    """
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None and prctl(_PR_SET_DUMPABLE, *(ctypes.c_ulong(0),) * 4):
        logger.warning("this process can be dumped: %s", os.strerror(ctypes.get_errno()))


def _keep_heap() -> None:
    """Let glibc keep what large bodies took, up to 8 MiB, instead of giving it back after each request.

    Else every large request pays for system calls and page faults: nearly half of what it costs. Both
    values are set because either one ends glibc's own adjustment of the other.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, 8 * 1024 * 1024)
        mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)


@dataclass(frozen=True, slots=True)
class Simulated:
    """Where the simulated providers are, and whom to trust for them."""

    connect_to: tuple[tuple[str, int, str, int], ...]
    ca_file: str
    control_port: int

    @classmethod
    def of(cls, simulator: "Simulator") -> "Simulated":
        assert simulator.control_port is not None
        return cls(simulator.connect_to, simulator.ca_file, simulator.control_port)


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker has from the crew it belongs to."""

    shared: SharedState
    inherited: list[tuple[Address, socket.socket]]
    channel: Channel
    number: int  # of the first generation
    simulated: Simulated | None = None


class Process:
    """One gateway with what surrounds it. Belongs to the loop that runs ``main``.

    Args:
        post: if it is a worker: then the supervisor tells it what signals would.
    """

    def __init__(self, config: Config, source: Source, post: Post | None = None) -> None:
        self._config = config
        self._source = source
        self._post = post
        self._gateway: Gateway | None = None
        self._access_log: AccessLog | None = None
        self._asked_to_end = asyncio.Event()
        self._asked_to_stop_now = asyncio.Event()
        self._is_reload_due = False

    async def main(self) -> Exit:
        asyncio.get_running_loop().set_exception_handler(_report_callback)
        async with contextlib.AsyncExitStack() as undo:
            try:
                started = await self._start(undo)
            except (ConfigError, AdminRefused) as error:
                return refused(error)
            except ListenFailed as error:
                logs.tell(f"fastgw: {error}\n")
                return Exit.LISTEN
            if self._post is None:
                announce(self._config, self._source, started)
                held_signals.release()
            else:
                self._post.channel.send(READY)
            await self._serve()
        return Exit.CLEAN

    # --- Starting -----------------------------------------------------------------------------

    async def _start(self, undo: contextlib.AsyncExitStack) -> Started:
        """Start everything; what was started is put on ``undo``.

        Raises:
            ConfigError, AdminRefused, ListenFailed: nothing of it runs then, once ``undo`` is done.
        """
        overrides = self._source.overrides
        process = self._config.process
        settings = Settings(listen=process.listen, admin=process.admin, connect_to=overrides.connect_to)
        post = self._post
        simulated = post.simulated if post is not None else None
        if self._source.is_simulated and simulated is None:
            simulator = await start_simulator()
            undo.push_async_callback(simulator.close)
            simulated = Simulated.of(simulator)
        if simulated is not None:
            settings = replace(settings, connect_to=simulated.connect_to, forwards_simulator_fields=True)
            self._config = replace(self._config, process=replace(process, ca_file=simulated.ca_file))
        self._access_log = self._open_access_log()
        undo.callback(self._access_log.close)
        gateway = self._gateway = Gateway(
            self._config,
            settings,
            reload_config=self._load_again if self._source.file is not None else None,
            access_log=self._access_log if self._access_log.is_enabled else None,
            shared=post.shared if post is not None else None,
            inherited=post.inherited if post is not None else (),
            announce_reload=self._announce_reload if post is not None else None,
            number=post.number if post is not None else 1,
        )
        undo.push_async_callback(gateway.close)
        if post is None:
            self._handle_signals()
        else:
            asyncio.get_running_loop().add_reader(post.channel.fileno(), self._hear)
        await gateway.start()
        admin_address = None
        if process.admin not in (None, OFF):
            admin = Admin(gateway, token=process.admin_token)
            admin_address = str(await admin.start(Address.parse(process.admin)))
        garbage.settle()
        control = f"127.0.0.1:{simulated.control_port}" if simulated is not None else None
        return Started(tuple(map(str, gateway.addresses)), admin_address, control)

    def _open_access_log(self) -> AccessLog:
        process = self._config.process
        destination = None if process.access_log == OFF else process.access_log
        try:
            return AccessLog(destination, "json" if process.log_format == "json" else "text")
        except OSError as error:
            raise ConfigError(f"access log {destination}: {error.strerror or error}") from error

    # --- Running ------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        on_signals(
            {
                signal.SIGTERM: self._end,
                signal.SIGINT: self._end,
                signal.SIGQUIT: self._stop_now,
                signal.SIGHUP: self._reload_once,
                signal.SIGUSR1: self._reopen,
            }
        )

    async def _serve(self) -> None:
        """Until a signal; then drain. What is still running afterwards is ended by ``undo``."""
        gateway = self._gateway
        assert gateway is not None
        await self._asked_to_end.wait()
        if self._asked_to_stop_now.is_set():
            return
        assert gateway.generation is not None
        limit = gateway.generation.config.process.drain_s  # a reload may have changed it
        draining = asyncio.ensure_future(gateway.drain(limit))
        await asyncio.sleep(0)  # nothing is accepted any more when this is said
        logger.info(
            "draining: requests in flight: %d; they have %g s, a second signal stops at once",
            len(gateway.exchanges.live),
            limit,
        )
        hurried = asyncio.ensure_future(self._asked_to_stop_now.wait())
        await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not draining.done():
            draining.cancel()
            logger.warning("stopping now: interrupting %d requests", len(gateway.exchanges.live))
        with contextlib.suppress(asyncio.CancelledError):
            if await draining:
                logger.info("drained")

    def _end(self) -> None:
        if self._asked_to_end.is_set():
            self._asked_to_stop_now.set()
        self._asked_to_end.set()

    def _stop_now(self) -> None:
        self._asked_to_stop_now.set()
        self._asked_to_end.set()

    def _reload_once(self) -> None:
        """Reload, once for all who ask for it in this turn of the loop: each time nobody is served."""
        if not self._is_reload_due:
            self._is_reload_due = True
            asyncio.get_running_loop().call_soon(self._reload)

    def _reload(self) -> None:
        self._is_reload_due = False
        assert self._gateway is not None
        if self._asked_to_end.is_set() or self._gateway.generation is None:
            return  # too late, or too early
        if self._gateway.reload_config is None:
            logger.warning("there is nothing to reload: the configuration is the embedded default")
            return
        self._gateway.reload()  # says itself what came of it

    def _reopen(self) -> None:
        if self._access_log is not None:
            self._access_log.reopen()
            logger.info("reopened the access log")

    def _load_again(self) -> Config:
        assert self._gateway is not None and self._gateway.generation is not None
        running = self._config.process
        in_force = self._gateway.generation.config
        config = load_again(self._source, running, frozenset(secrets_in(in_force)))
        return config if self._post is None else settled(config, running)

    # --- As a worker --------------------------------------------------------------------------

    def _hear(self) -> None:
        """Do what the supervisor says; without one, drain."""
        assert self._post is not None
        channel = self._post.channel
        while True:
            try:
                message = channel.receive()
            except BlockingIOError:
                return
            except OSError as error:
                logger.error("what the supervisor said is lost (%s): ending", error.strerror)
                if not self._asked_to_end.is_set():
                    self._end()  # another takes this one's place, and knows as much as the others
                return
            if message is None:
                asyncio.get_running_loop().remove_reader(channel.fileno())
                if not self._asked_to_end.is_set():
                    logger.error("the supervisor is gone: ending")
                    self._end()
                return
            if message.word == DRAIN:
                self._end()
            elif message.word == STOP:
                self._stop_now()
            elif message.word == REOPEN:
                self._reopen()
            elif message.word == CONFIGURATION:
                self._take(message.payload)
            elif message.word == REFUSED and self._gateway is not None:
                self._gateway.reload_was_refused(message.payload.decode())

    def _take(self, payload: bytes) -> None:
        """Swap in the configuration that all workers are to have."""
        number, origin, config = unpack_reload(payload)
        gateway = self._gateway
        # Nothing is heard before the gateway has started: until then its loop does nothing else.
        assert self._post is not None and gateway is not None and gateway.generation is not None
        if self._asked_to_end.is_set():
            return
        if origin == self._post.shared.worker and config == gateway.generation.config:
            gateway.generation.number = number  # as the others know it
            return  # it was this worker that was asked to load it
        logs.hide(secrets_in(config))
        logs.configure(config.process.log_level or "info", self._config.process.log_format or "text")
        gateway.take(config, number)

    def _announce_reload(self, config: Config) -> None:
        """This worker was asked to reload, and has: all others must."""
        assert self._post is not None
        self._post.channel.send(CONFIGURATION, packed(config))


def announce(config: Config, source: Source, started: Started) -> None:
    """The banner, or one record where the log is for machines."""
    if config.process.log_format == "json":
        fields: dict[str, Any] = {
            "version": __version__,
            "listen": [url(address, scheme_of(config)) for address in started.listen],
            "admin": url(started.admin) if started.admin else None,
            "config": config.file,
            "profile": config.profile.value,
            "simulated": source.is_simulated,
            "workers": config.process.workers,
        }
        logger.info("started", extra={"fields": fields})
        for warning in (*config.warnings, *process_warnings(config, source)):
            logger.warning("%s", warning)
        for name in source.missing_keys:
            logger.warning("%s is not set", name)
    else:
        logs.tell(banner(config, source, started, Ink.for_stream(sys.stderr)))


def load_again(source: Source, running: ProcessConfig, secrets: frozenset[Secret]) -> Config:
    """The configuration as it is now; says what of it needs a restart.

    Args:
        running: what the process was started with.
        secrets: of the configuration in force.

    Raises:
        ConfigErrors: it is refused.
    """
    config = source.load()
    logs.hide(secrets)  # again, or refused ones would push them out
    logs.hide(secrets_in(config))
    new = config.process
    refuse_exposure(replace(config, process=replace(new, listen=running.listen)))  # where we do listen
    for name in (*_PROCESS, *_LISTENER):
        if getattr(running, name) != getattr(new, name):
            written = name.removesuffix("_s")  # as it stands in the file
            logger.warning("fastgw.%s has changed: a restart is needed for that", written)
    logs.configure(new.log_level or "info", running.log_format or "text")
    for warning in config.warnings:
        logger.warning("%s", warning)
    return config


def settled(config: Config, running: ProcessConfig) -> Config:
    """The configuration with what needs a restart as it is: a worker may be started with it."""
    kept = {name: getattr(running, name) for name in (*_PROCESS, *_LISTENER)}
    return replace(config, process=replace(config.process, **kept))


# What is settled when the process starts.
_PROCESS = ("listen", "admin", "admin_token", "workers", "access_log", "log_format", "connect_to")
# Limits that the listeners took over when they were made.
_LISTENER = (
    "max_line_bytes",
    "max_head_bytes",
    "max_fields",
    "max_connections",
    "max_connections_per_client",
    "head_timeout_s",
    "body_stall_s",
    "min_body_rate",
    "keepalive_s",
)


def pack_reload(number: int, origin: int | None, config: bytes) -> bytes:
    """A message to all workers: a generation's number, the worker it comes from, the packed value."""
    return pickle.dumps((number, origin, config))


def unpack_reload(payload: bytes) -> tuple[int, int | None, Config]:
    number, origin, config = pickle.loads(payload)
    return number, origin, pickle.loads(config)


async def start_simulator(again: Simulated | None = None) -> "Simulator":
    """The built-in providers, with their control port where the documents say it is, if that is free.

    Args:
        again: where they were before, and are to be again.
    """
    from fastgw.simulator import start  # a gateway with real providers has no use for it

    if again is not None:
        openai, deepseek = (port for _, _, _, port in again.connect_to)
        directory = Path(again.ca_file).parent
        return await start(ports=(openai, deepseek), control_port=again.control_port, ca_dir=directory)
    try:
        return await start(control_port=CONTROL_PORT)
    except OSError:
        return await start(control_port=0)


def _report_callback(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception in a callback of the loop: one connection's fault, never the process's end."""
    error = context.get("exception")
    logger.error("%s", context.get("message", "unhandled exception"), exc_info=error)
