"""Figures without a clock: user instructions (callgrind) and system calls (strace) of counted requests.

Both count two runs, one with twice the work of the other, and divide the difference by the additional work:
what it costs to take connections, and to be watched, cancels out. What does not would be counted as work:
a handshake is worth a hundred chunks. So connections to the node are opened before, and the node is not
probed meanwhile: both would be in one run more often than in the other. What a program does by the clock
(sweeps, timers) depends on how long a run takes, and so on what else the machine does: it is counted while
there is no work, and taken off.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep

from .loads import Load, LoadFailed
from .peers import Peer, Unavailable
from .processes import GATEWAY_CORE, LOAD_CORE, Process, Processes, StartFailed, tree, wait_until
from .requests import Request, chat
from .upstreams import Upstream, Upstreams

TLS_STREAMS = 8  # so few that the handshakes end before the first stream does: then each has a connection
NEVER_S = 3600  # between two probes: longer than a run
IDLE_S = 2.0  # for so long it is counted without work
RUNS = 2  # of each length
QUIET_NS = 20_000_000  # of CPU in a tenth of a second: what a program under callgrind takes without work


@dataclass(frozen=True, slots=True)
class Work:
    """What is counted: ``units`` of work are done in the first run, twice as many in the second."""

    name: str  # of the workload
    unit: str  # request or chunk
    units: int
    connections: int
    upstream: Upstream
    requests: tuple[Request, Request]
    counts: tuple[int, int]  # requests of each run
    streams: bool


@dataclass(frozen=True, slots=True)
class Count:
    """What one unit of work cost."""

    per_unit: float
    by_name: dict[str, float] = field(default_factory=dict)


def requests_work(name: str, upstream: Upstream, requests: int, connections: int = 64) -> Work:
    post = chat()
    return Work(
        name, "request", requests, connections, upstream, (post, post), (requests, 2 * requests), False
    )


def chunks_work(name: str, upstream: Upstream, chunks: int, streams: int = 20) -> Work:
    """``streams`` streams, of ``chunks`` each and of twice as many."""
    both = (chat(stream=True, chunks=chunks), chat(stream=True, chunks=2 * chunks))
    return Work(name, "chunk", streams * chunks, streams, upstream, both, (streams, streams), True)


def works(upstreams: Upstreams, requests: int, chunks: int, *, with_tls_streams: bool = False) -> list[Work]:
    """What the gate looks at."""
    found = [
        requests_work("plain", upstreams.answering(), requests),
        requests_work("tls", upstreams.answering(is_tls=True), requests),
        chunks_work("sse", upstreams.streaming(), chunks),
    ]
    if with_tls_streams:
        # Fewer streams that are longer: about as many chunks.
        upstream = upstreams.streaming(is_tls=True)
        found.append(chunks_work("sse-tls", upstream, 2 * chunks, streams=TLS_STREAMS))
    return [replace(work, upstream=replace(work.upstream, probe_s=NEVER_S)) for work in found]


def warm_up(processes: Processes, port: int, work: Work) -> None:
    """Let the gateway do everything once, and open every connection to the node that it will need.

    The first requests wait for handshakes, and some come late enough to find another's connection free:
    only what follows has all of them under way at a time.
    """
    for run in (0, 1):
        drive(processes, port, work, run)


def drive(processes: Processes, port: int, work: Work, run: int) -> None:
    """Do the work of one run. Raises LoadFailed unless every answer was there and whole."""
    load = Load.start(
        processes,
        port,
        work.requests[run],
        connections=work.connections,
        requests=work.counts[run],
        spread_us=2000 if work.streams else 0,
        core=LOAD_CORE,
    )
    answer = load.finish()
    if answer["answers"] != work.counts[run] or answer["other"] or answer["broken"]:
        raise LoadFailed(f"not every request was answered: {dict(answer)}")


def instructions(processes: Processes, peer: Peer, work: Work) -> Count:
    """User instructions per unit of work.

    Raises:
        Unavailable, StartFailed, LoadFailed.
    """
    for tool in ("valgrind", "callgrind_control"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed (Debian: apt install valgrind)")
    output = processes.path(f"callgrind-{peer.name}")
    process, port = peer.start(
        work.upstream, streams=work.streams, under=lambda command: callgrind(command, output), limit_s=120.0
    )
    try:
        control(process, "--instr=on")
        warm_up(processes, port, work)
        process.settle(QUIET_NS)

        def counts(action: Callable[[], None]) -> list[tuple[int, float]]:
            """The instructions of an action and its seconds, each time that it is done."""
            found = []
            for _ in range(RUNS):
                control(process, "--zero")
                begin = monotonic()
                action()
                process.settle(QUIET_NS)
                took_s = monotonic() - begin
                control(process, "--dump")
                found.append((_newest_total(output), took_s))
            return found

        # Now and then something happens besides (a handshake, what is old is closed): the least is right.
        by_the_clock = min(count / took_s for count, took_s in counts(partial(sleep, IDLE_S)))
        once, twice = (
            min(
                count - by_the_clock * took_s
                for count, took_s in counts(partial(drive, processes, port, work, run))
            )
            for run in (0, 1)
        )
    finally:
        processes.end(process)
    return Count((twice - once) / work.units)


def callgrind(command: list[str], output: Path) -> list[str]:
    options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}", "--quiet"]
    return ["valgrind", *options, "--trace-children=no", *command]


def control(process: Process, *words: str) -> None:
    done = subprocess.run(
        ["callgrind_control", *words, str(process.pid)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode or "not found" in done.stdout + done.stderr:
        raise StartFailed(f"callgrind_control: {(done.stdout + done.stderr).strip()[-300:]}")


def _newest_total(output: Path) -> int:
    """The instructions of the last dump, which callgrind numbers: output.1, output.2 ..."""

    def dumps() -> list[Path]:
        found = output.parent.glob(output.name + ".*")
        return sorted(
            (path for path in found if path.suffix[1:].isdigit()), key=lambda path: int(path.suffix[1:])
        )

    if not wait_until(lambda: bool(dumps()), 60):
        raise StartFailed("callgrind wrote no dump")
    newest = dumps()[-1]
    wait_until(lambda: "totals:" in newest.read_text(errors="replace"), 60)
    found = re.search(r"^(?:totals|summary): (\d+)", newest.read_text(errors="replace"), re.MULTILINE)
    if found is None:
        raise StartFailed(f"callgrind's dump has no total: {newest.name}")
    return int(found[1])


def system_calls(processes: Processes, peer: Peer, work: Work) -> Count:
    """System calls per unit of work, also by name.

    Raises:
        Unavailable, StartFailed, LoadFailed.
    """
    if shutil.which("strace") is None:
        raise Unavailable("strace is not installed (Debian: apt install strace)")
    process, port = peer.start(work.upstream, streams=work.streams)
    try:
        warm_up(processes, port, work)
        process.settle()
        counts = [_traced(processes, process, partial(drive, processes, port, work, run)) for run in (0, 1)]
    finally:
        processes.end(process)
    names = {*counts[0], *counts[1]}
    by_name = {name: (counts[1].get(name, 0) - counts[0].get(name, 0)) / work.units for name in sorted(names)}
    total = sum(by_name.values())
    return Count(total, {name: share for name, share in by_name.items() if abs(share) >= 0.005})


def _traced(processes: Processes, process: Process, action: Callable[[], None]) -> dict[str, int]:
    output = processes.path("strace")
    pids = [word for pid in tree(process.pid) for word in ("-p", str(pid))]
    tracer = processes.start("strace", ["strace", "-c", "-f", "-o", str(output), *pids], core=GATEWAY_CORE)
    try:
        if not wait_until(lambda: "attached" in tracer.last_words() or not tracer.is_running(), 20):
            raise StartFailed("strace did not attach")
        if not tracer.is_running():
            raise StartFailed(f"strace: {tracer.last_words()}")
        action()
        process.settle()  # the clients' closing is part of it
        os.kill(tracer.pid, signal.SIGINT)
        tracer.popen.wait(20)
    finally:
        processes.end(tracer)
    return parse_strace(output.read_text())


def parse_strace(summary: str) -> dict[str, int]:
    """Calls by name, of the table that ``strace -c`` writes."""
    found = {}
    for line in summary.splitlines():
        words = line.split()
        if (
            len(words) >= 5
            and re.fullmatch(r"[\d.]+", words[0])
            and words[3].isdigit()
            and words[-1] != "total"
        ):
            found[words[-1]] = int(words[3])
    return found
