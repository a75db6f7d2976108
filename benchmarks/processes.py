"""Processes that are pinned to a core, measured from /proc, and ended by their ids whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Self

GATEWAY_CORE = 0  # the process under test has it to itself
LOAD_CORE = 1  # the load and the upstream share the other one
PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class StartFailed(Exception):
    """A program ended, or did not listen, within its time; the message has its last words."""


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago, for programs that must be told one."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], limit_s: float, pause_s: float = 0.02) -> bool:
    """Look again until a condition holds; False when the limit passed first."""
    deadline = monotonic() + limit_s
    while not condition():
        if monotonic() > deadline:
            return False
        sleep(pause_s)
    return True


# --- What /proc says ----------------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def cpu_ns(pid: int) -> int:
    """Nanoseconds on a CPU, of every thread of a process and its descendants that still lives."""
    total = 0
    for process in tree(pid):
        try:
            for task in os.listdir(f"/proc/{process}/task"):
                total += int(Path(f"/proc/{process}/task/{task}/schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def memory_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants, shared pages and all."""
    total = 0
    for process in tree(pid):
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += pages * PAGE_BYTES
    return total


# --- Processes ----------------------------------------------------------------------------------


class Process:
    """One program, in a session of its own so that it ends with all its children."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    def __repr__(self) -> str:
        return f"<Process {self.name} {self.pid}>"

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self.popen.stdin is not None
        return self.popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.popen.stdout is not None
        return self.popen.stdout

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def cpu_ns(self) -> int:
        return cpu_ns(self.pid)

    def memory_bytes(self) -> int:
        return memory_bytes(self.pid)

    def settle(self, quiet_ns: int = 5_000_000, limit_s: float = 10.0) -> None:
        """Wait until it has done what there was to do: hardly any CPU in a tenth of a second."""
        last = self.cpu_ns()

        def is_quiet() -> bool:
            nonlocal last
            sleep(0.1)
            before, last = last, self.cpu_ns()
            return last - before < quiet_ns

        wait_until(is_quiet, limit_s)

    def last_words(self) -> str:
        try:
            return self.log.read_text(errors="replace").strip()[-600:]
        except OSError:
            return ""

    def wait_listening(self, port: int, limit_s: float = 30.0) -> None:
        """Raises StartFailed."""
        if not wait_until(lambda: not self.is_running() or is_listening(port), limit_s, 0.005):
            raise StartFailed(f"{self.name} did not listen within {limit_s:.0f} s: {self.last_words()}")
        if not self.is_running():
            raise StartFailed(f"{self.name} ended: {self.last_words()}")

    def read_port(self) -> int:
        """The port that one of our own programs took, which it prints. Raises StartFailed."""
        words = self.stdout.readline().split()
        if len(words) != 2:
            raise StartFailed(f"{self.name} ended: {self.last_words()}")
        return int(words[1])

    def ask_to_end(self) -> None:
        if self.is_running():
            self.popen.terminate()

    def end(self, limit_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL to it and to whatever of its children is left."""
        family = tree(self.pid)
        if self.is_running():
            self.popen.terminate()
            try:
                self.popen.wait(limit_s)
            except subprocess.TimeoutExpired:
                pass
        for pid in family[1:]:  # children of its own that it left behind
            try:
                if os.getsid(pid) == self.pid:
                    os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        if self.is_running():
            self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


class Processes:
    """All that was started, in a directory of its own; leaving the context ends every one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.live: list[Process] = []
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave half of them behind.
        handlers = {
            number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            for process in self.live:
                process.ask_to_end()
            for process in reversed(self.live[:]):
                self.end(process)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def path(self, name: str) -> Path:
        """A path for a new file."""
        self._started += 1
        return self.directory / f"{self._started:03d}-{name}"

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        core: int | None,
        is_piped: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Start a program on one core.

        Args:
            is_piped: its standard input and output are pipes, else closed and logged.
            env: added to the environment.
        """
        log = self.path(f"{name}.log")
        words = [str(word) for word in command]
        if core is not None and core in os.sched_getaffinity(0):
            words = ["taskset", "-c", str(core), *words]
        if shutil.which("setpriv"):  # it ends with us even if we are killed
            words = ["setpriv", "--pdeathsig", "KILL", *words]
        with log.open("wb") as output:
            popen = subprocess.Popen(
                words,
                stdin=subprocess.PIPE if is_piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if is_piped else output,
                stderr=output,
                env={**os.environ, **(env or {})},
                cwd=cwd or self.directory,
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self.live.append(process)
        return process

    def end(self, process: Process) -> None:
        process.end()
        if process in self.live:
            self.live.remove(process)
