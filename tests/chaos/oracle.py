"""What became of each request: its client, the hosts and the gateway's log, joined by its id."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from .badhost import Report, RequestSeen, host_name
from .faults import FAULTS, Means
from .load import Seen
from .stage import Line

EJECTED_S = 4.4  # at most, after a host has begun to behave
_BEFORE_S = 3.0  # of what was before a request, as much is told
STALE_S = 1.0  # a reused connection that ends so soon, without a byte, has not taken the request


class Verdict(StrEnum):
    """Of one request."""

    OK = "ok"
    TOLD = "told"  # that it was its caller's own fault, as its node said
    EXCUSABLE = "failed, excusably"  # every node had misbehaved
    TURNED_AWAY = "turned away"  # while all nodes were out for what they had done, and all trials taken
    STANDSTILL = "failed while the machine stood still"
    CUT = "cut"  # after its content had begun, and said so
    FAILED = "failed"
    CORRUPTED = "corrupted"  # it has bytes of no one generation, or seems whole and is not


@dataclass
class Findings:
    """All verdicts.

    Attributes:
        duplicates: requests that may have run on two hosts.
        replays: requests that were attempted again after they may have run.
        unseen: requests that were attempted again that a host had not read, which their sender cannot know.
        damaged: requests that reached a host otherwise than they were sent.
    """

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    duplicates: int = 0
    replays: int = 0
    unseen: int = 0
    damaged: int = 0
    notes: list[str] = field(default_factory=list)


def ran(request: RequestSeen) -> bool:
    """May the host have run it, for all that the gateway can know?

    Not if it said that it did not, and not if it ended a connection that had been used before without
    a byte of an answer: so ends one that was idle for too long.
    """
    fault = FAULTS.get(request.fault)
    if fault is not None and fault.means in (Means.NOT_RUN, Means.CALLER):
        return False
    is_stale = (
        request.nth > 1
        and request.sent == 0
        and request.end == "host"
        and request.ended - request.begun < STALE_S
    )
    return not is_stale


def judge(
    seen: Sequence[Seen], report: Report, log: dict[str, Line], hosts: int, *, most_notes: int = 60
) -> Findings:
    """Judge every request of a load, of which each could have been sent to so many hosts."""
    findings = Findings()
    by_id: dict[str, list[RequestSeen]] = defaultdict(list)
    for request in report.requests:
        by_id[request.id].append(request)
        # A body that was cut off by the host itself is no damage.
        if request.is_whole and request.ended and not request.is_intact and request.end == "answered":
            fault = FAULTS.get(request.fault)
            if fault is None or fault.strikes != "head":
                findings.damaged += 1
    for one in seen:
        requests = by_id.get(one.ask.id, [])
        verdict = _verdict(one, requests, report, log.get(one.ask.id), hosts)
        findings.verdicts[verdict] += 1
        if (
            verdict in (Verdict.FAILED, Verdict.TURNED_AWAY, Verdict.CORRUPTED)
            and len(findings.notes) < most_notes
        ):
            findings.notes += _described(one, requests, report, log.get(one.ask.id), verdict)
        ran_on = {host_name(request.host) for request in requests if ran(request)}
        findings.duplicates += sum(map(ran, requests)) > 1
        if (line := log.get(one.ask.id)) is not None:
            failed = set(map(_host_of, line.attempts[:-1]))
            if failed & ran_on:
                findings.replays += 1
            elif failed - {host_name(request.host) for request in requests}:
                findings.unseen += 1
    return findings


def _verdict(
    one: Seen, requests: list[RequestSeen], report: Report, line: Line | None, hosts: int
) -> Verdict:
    if one.is_ok:
        return Verdict.OK
    if one.is_lie:
        return Verdict.CORRUPTED
    if one.status == 200:
        return Verdict.CUT
    if requests and (fault := FAULTS.get(requests[-1].fault)) is not None:
        if fault.means is Means.CALLER and one.status == requests[-1].status and one.is_whole:
            return Verdict.TOLD
    if line is not None:
        attempted = set(map(_host_of, line.attempts))
        at_fault = {
            host
            for host, begun, ended, _ in report.windows
            # It was tried and failed, or nobody could have expected more of it in the end.
            if ended > one.due and begun < one.ended and (host_name(host) in attempted or ended >= one.ended)
        }
        if len(at_fault) == hosts:
            return Verdict.EXCUSABLE
    if any(begun < one.ended and one.due < ended for begun, ended in report.standstills):
        return Verdict.STANDSTILL
    out = {
        host for host, begun, ended, _ in report.windows if ended + EJECTED_S > one.due and begun < one.ended
    }
    return Verdict.TURNED_AWAY if len(out) == hosts and one.status else Verdict.FAILED


def _host_of(attempt: tuple[str, ...]) -> str:
    return attempt[0].partition(":")[0]


def _described(
    one: Seen, requests: list[RequestSeen], report: Report, line: Line | None, verdict: Verdict
) -> list[str]:
    """What somebody needs who looks for the cause; times count from when the request was due."""
    due = one.due
    notes = [
        f"{one.ask.id} {'stream' if one.ask.stream else 'plain'} {verdict}: status {one.status}, whole"
        f" {one.is_whole}, [DONE] {one.is_done}, content {one.content}, took {one.latency_s:.3f} s:"
        f" {one.body[-300:]!r}"
    ]
    for request in requests:
        taken = f"{request.ended - request.begun:.3f} s" if request.ended else "nothing yet"
        notes.append(
            f"  host {request.host} link {request.connection}/{request.nth} at {request.begun - due:.3f}:"
            f" {request.fault or 'no fault'}, got {request.got}/{request.total}, sent {request.sent},"
            f" {request.end or 'open'} after {taken}"
        )
    attempted = set(map(_host_of, line.attempts)) if line is not None else set()
    for link in report.connections:
        if host_name(link.host) not in attempted or link.accepted > one.ended:
            continue
        if (link.requests == 0 and link.accepted > due - _BEFORE_S) or link.unread:
            left = f"open, {link.unread} bytes unread"
            if link.ended:
                left = f"{link.unread} bytes unread, ended by {link.ended_by} at {link.ended - due:.3f}"
            notes.append(
                f"  host {link.host} link {link.number} accepted at {link.accepted - due:.3f}:"
                f" {link.requests} requests, {left}"
            )
    for host, begun, ended, faults in report.windows:
        if ended > due - _BEFORE_S and begun < one.ended:
            notes.append(
                f"  host {host} misbehaved from {begun - due:.3f} to {ended - due:.3f}: {', '.join(faults)}"
            )
    notes.append(f"  log: {line}")
    return notes
