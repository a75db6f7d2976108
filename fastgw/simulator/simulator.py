"""Both providers, their certificates and the control listener, started and closed as one."""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastgw.simulator import certificates
from fastgw.simulator.control import Control
from fastgw.simulator.deepseek import DeepSeek
from fastgw.simulator.openai import OpenAI
from fastgw.simulator.provider import Provider

#: The keys accepted when no others are given.
DEFAULT_KEYS: Mapping[str, str] = {"openai": "sk-sim-openai", "deepseek": "sk-sim-deepseek"}

HOSTS = (OpenAI.host, DeepSeek.host)


class Simulator:
    """Two running providers; made by `start`. Also an async context manager that closes them."""

    def __init__(
        self,
        openai: Provider,
        deepseek: Provider,
        ca_file: Path,
        directory: "tempfile.TemporaryDirectory[str] | None" = None,
    ) -> None:
        self.openai = openai
        self.deepseek = deepseek
        self.control: Control | None = None
        self._ca_file = ca_file
        self._directory = directory

    @property
    def providers(self) -> dict[str, Provider]:
        """Both, by name."""
        return {"openai": self.openai, "deepseek": self.deepseek}

    @property
    def ca_file(self) -> str:
        """The certificate to trust, as a path."""
        return str(self._ca_file)

    @property
    def control_port(self) -> int | None:
        """The control listener's port, or None when there is none."""
        return self.control.port if self.control is not None else None

    @property
    def connect_to(self) -> tuple[tuple[str, int, str, int], ...]:
        """For each provider: its name and port, and the address and port where it really is."""
        wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        return tuple(
            (provider.host, 443, wildcards.get(provider.address, provider.address), provider.port)
            for provider in self.providers.values()
        )

    async def close(self) -> None:
        """Close everything; returns when every socket is gone. A second call does nothing."""
        if self.control is not None:
            await self.control.close()
            self.control = None
        for provider in self.providers.values():
            await provider.close()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def start(
    host: str = "127.0.0.1",
    ports: tuple[int, int] = (0, 0),
    control_port: int | None = None,
    accept_keys: Mapping[str, Iterable[str]] | None = None,
    ca_dir: str | Path | None = None,
    *,
    article: bool = False,
    keep_requests: int = 1000,
    seed: int = 0,
) -> Simulator:
    """Start both providers in the running event loop and return them listening.

    Args:
        host: the address to listen on.
        ports: of OpenAI and of DeepSeek; 0: any free one.
        control_port: of the control listener, always on 127.0.0.1; 0: any free one, None: no listener.
        accept_keys: provider name to the keys it accepts; without it, ``DEFAULT_KEYS``.
        ca_dir: where the certificates are kept; without it, the user's cache directory, or a temporary
            one when that cannot be written.
        article: both also accept the literal header ``Authorization: LLM-API-KEY``.
        keep_requests: how many requests each provider remembers.
        seed: of the dice of faults with a probability.

    Raises OSError when an address or ``ca_dir`` cannot be used.
    """
    keys: dict[str, list[str]] = {name: [key] for name, key in DEFAULT_KEYS.items()}
    for name, accepted in (accept_keys or {}).items():
        if name not in keys or isinstance(accepted, str):
            raise ValueError(f"accept_keys: expected provider name to a list of keys, got {name!r}")
        keys[name] = list(accepted)
    made, temporary = _certificates(ca_dir)
    common: dict[str, Any] = {"article": article, "keep_requests": keep_requests, "seed": seed}
    openai = Provider(OpenAI(), made, keys=keys["openai"], **common)
    deepseek = Provider(DeepSeek(), made, keys=keys["deepseek"], **common)
    simulator = Simulator(openai, deepseek, made.ca_file, temporary)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(simulator.close)
        await openai.start(host, ports[0])
        await deepseek.start(host, ports[1])
        if control_port is not None:
            simulator.control = Control(simulator.providers)
            await simulator.control.start(control_port)
        undo.pop_all()
    return simulator


def _certificates(
    ca_dir: str | Path | None,
) -> "tuple[certificates.Certificates, tempfile.TemporaryDirectory[str] | None]":
    if ca_dir is not None:
        return certificates.ensure(Path(ca_dir), HOSTS), None
    try:
        return certificates.ensure(certificates.default_directory(), HOSTS), None
    except OSError:
        # A home that cannot be written, as in a locked-down container, is no reason not to start.
        temporary = tempfile.TemporaryDirectory(prefix="fastgw-simulator-")
        return certificates.ensure(Path(temporary.name), HOSTS), temporary
