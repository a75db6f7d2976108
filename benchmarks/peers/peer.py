"""What every peer has to say about itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from ..processes import GATEWAY_CORE, Process, Processes, free_port
from ..upstreams import Upstream

INSTALLED = Path(__file__).resolve().parent.parent / ".peers"


class Unavailable(Exception):
    """It cannot be measured here; the message says why, in one line."""


class Peer(ABC):
    """A gateway, or what stands in for one, with one worker on one core.

    ``start`` writes a configuration, starts the program and returns it with the port it listens on.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # as the tables name it
    has_many_rounds: ClassVar[bool] = False  # seven rounds, else three
    is_http: ClassVar[bool] = True  # else it knows bytes only
    speaks_tls: ClassVar[bool] = True  # to the upstream
    start_limit_s: ClassVar[float] = 15.0
    max_connections: ClassVar[int] = 1_000_000  # it answers too few for more to be worth waiting for
    streams: ClassVar[int] = 200  # at 50 chunks/s each: what it can carry on one core, and more

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    @abstractmethod
    def version(self) -> str:
        """Raises Unavailable."""

    @abstractmethod
    def command(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        """The command that serves ``upstream`` on a port. Writes the configuration it names."""

    def command_alone(self, upstream: Upstream, port: int, *, streams: bool) -> list[str]:
        """The same in one process, for tools that look into one."""
        return self.command(upstream, port, streams=streams)

    def env(self, upstream: Upstream) -> dict[str, str]:
        return {}

    def start(
        self,
        upstream: Upstream,
        *,
        streams: bool = False,
        core: int | None = GATEWAY_CORE,
        under: Callable[[list[str]], list[str]] | None = None,
        limit_s: float | None = None,
    ) -> tuple[Process, int]:
        """Start it and wait until it listens.

        Args:
            streams: it is to pass streams on without delay, if that is a setting.
            under: makes a command that runs it inside a tool, as valgrind.

        Raises:
            Unavailable, StartFailed.
        """
        if upstream.is_tls and not self.speaks_tls:
            raise Unavailable("it does not speak TLS to an upstream")
        port = free_port()
        if under is None:
            command = self.command(upstream, port, streams=streams)
        else:
            command = under(self.command_alone(upstream, port, streams=streams))
        process = self.processes.start(self.name, command, core=core, env=self.env(upstream), cwd=self.cwd())
        try:
            process.wait_listening(port, limit_s or self.start_limit_s)
        except BaseException:
            self.processes.end(process)
            raise
        return process, port

    def cwd(self) -> Path | None:
        return None


def program(name: str, package: str) -> str:
    """The path of a system program. Raises Unavailable."""
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not installed (make bench-peers, or Debian: apt install {package})")
    return found


def installed(peer: str, name: str) -> Path:
    """The path of a program that ``make bench-peers`` installs. Raises Unavailable."""
    found = INSTALLED / peer / "bin" / name
    if not found.exists():
        raise Unavailable(f"{peer} is not installed (make bench-peers)")
    return found


def first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "?"


def package_version(peer: str, package: str) -> str:
    """The version of a package in one of the environments that ``make bench-peers`` makes."""
    python = installed(peer, "python")
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise Unavailable(f"{package} is not installed (make bench-peers)")
    return done.stdout.strip()


def own_python() -> str:
    return sys.executable
