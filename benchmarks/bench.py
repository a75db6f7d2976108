"""A run: which peers, how long, how often; and the rounds in which they take turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import sleep

from .figures import Outcome, rounds_of
from .loads import LoadFailed
from .peers import Peer, Unavailable
from .processes import Process, Processes, StartFailed
from .programs import CannotCompile
from .upstreams import Upstream, Upstreams

Failed = (LoadFailed, Unavailable, StartFailed, CannotCompile)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    many: int  # rounds of fastgw, nginx and HAProxy
    few: int  # rounds of the others
    window_s: float  # of load per round
    stream_window_s: float
    idle_streams: int
    counted_requests: int
    counted_chunks: int  # per stream
    starts: int
    counted_peers: tuple[str, ...]  # under callgrind, which takes its time
    peers: tuple[str, ...] | None = None  # None: all
    without: tuple[str, ...] = ()  # workloads


FULL = Plan(
    many=7,
    few=3,
    window_s=1.0,
    stream_window_s=1.5,
    idle_streams=2000,
    counted_requests=1500,
    counted_chunks=50,
    starts=3,
    counted_peers=("fastgw", "nginx", "haproxy", "relay"),
)
QUICK = Plan(
    many=3,
    few=1,
    window_s=1.0,
    stream_window_s=1.0,
    idle_streams=500,
    counted_requests=1000,
    counted_chunks=30,
    starts=2,
    counted_peers=("fastgw",),
    peers=("fastgw", "nginx", "haproxy", "relay"),
    without=("latency", "mixed", "failover", "scanner", "counts-sse-tls"),
)


@dataclass(slots=True)
class Running:
    """A peer that serves."""

    peer: Peer
    process: Process
    port: int


class Bench:
    """What a workload is given.

    Args:
        peers: those that can be measured, in the order of the tables.
        missing: peer -> why it cannot; these are named under each table.
    """

    def __init__(
        self,
        processes: Processes,
        upstreams: Upstreams,
        peers: Sequence[Peer],
        plan: Plan,
        missing: Mapping[str, str],
    ) -> None:
        self.processes = processes
        self.upstreams = upstreams
        self.peers = list(peers)
        self.plan = plan
        self.missing = dict(missing)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def rounds(self, name: str) -> frozenset[int]:
        """The numbers of the rounds in which a peer is measured."""
        has_many = any(peer.name == name and peer.has_many_rounds for peer in self.peers) or name == "direct"
        return rounds_of(self.plan.many if has_many else self.plan.few, self.plan.many)

    @contextmanager
    def running(
        self,
        outcome: Outcome,
        upstream: Upstream,
        *,
        streams: bool = False,
        peers: Sequence[Peer] | None = None,
    ) -> Iterator[list[Running]]:
        """All peers, started for one upstream; those that cannot be are noted as skipped."""
        found = []
        for peer in self.peers if peers is None else peers:
            try:
                process, port = peer.start(upstream, streams=streams)
            except Failed as error:
                self.skip(outcome, peer.name, error)
                continue
            found.append(Running(peer, process, port))
        try:
            sleep(0.5)  # until the first probes are through
            yield found
        finally:
            for each in found:
                self.processes.end(each.process)

    def take_turns(
        self,
        outcome: Outcome,
        subjects: Sequence[Running],
        measure: Callable[[Running], Mapping[str, float]],
        direct: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Rounds in which each is measured after the other: A B C A B C. One that fails is left out."""
        left = list(subjects)
        for number in range(self.plan.many):
            if direct is not None:
                outcome.add("direct", number, direct())
            for subject in left[:]:
                if number not in self.rounds(subject.peer.name):
                    continue
                try:
                    outcome.add(subject.peer.name, number, measure(subject))
                except Failed as error:
                    self.skip(outcome, subject.peer.name, error)
                    left.remove(subject)

    def skip(self, outcome: Outcome, peer: str, error: Exception) -> None:
        reason = self.in_one_line(str(error))
        outcome.skipped[peer] = reason
        self.say(f"  {peer} skipped: {reason}")

    def in_one_line(self, text: str) -> str:
        """Without the paths of this machine, which are nobody's business."""
        line = " ".join(text.split()).replace(str(self.processes.directory), "...")
        return line if len(line) <= 200 else "... " + line[-196:]
