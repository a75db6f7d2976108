"""What became of each request: its client, the hosts and the gateway's log, joined by its id."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from .badhost import Report, RequestSeen, host_name
from .conversation import Content
from .faults import FAULTS, Means
from .load import Seen
from .stage import Line

STALE_S = 1.0  # a reused connection that ends so soon, without a byte, has not taken the request


class Verdict(StrEnum):
    """Of one request."""

    OK = "ok"
    EXCUSABLE = "failed, excusably"  # every node had misbehaved towards it, or it was its caller's fault
    CUT = "cut"  # after its content had begun, and said so
    FAILED = "failed"
    CORRUPTED = "corrupted"  # it has bytes of no one generation, or seems whole and is not


@dataclass
class Findings:
    """All verdicts.

    Attributes:
        duplicates: requests that may have run on two hosts.
        replays: requests that were attempted again after they may have run.
        damaged: requests that reached a host otherwise than they were sent.
    """

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    duplicates: int = 0
    replays: int = 0
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


def judge(seen: Sequence[Seen], report: Report, log: dict[str, Line], *, most_notes: int = 20) -> Findings:
    """Judge every request of a load."""
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
        verdict = _verdict(one, requests, report, log.get(one.ask.id))
        findings.verdicts[verdict] += 1
        if verdict in (Verdict.FAILED, Verdict.CORRUPTED) and len(findings.notes) < most_notes:
            findings.notes += _described(one, requests, report, log.get(one.ask.id), verdict)
        hosts = {host_name(request.host) for request in requests if ran(request)}
        findings.duplicates += sum(map(ran, requests)) > 1
        if (line := log.get(one.ask.id)) is not None:
            findings.replays += any(_host_of(attempt) in hosts for attempt in line.attempts[:-1])
    return findings


def _verdict(one: Seen, requests: list[RequestSeen], report: Report, line: Line | None) -> Verdict:
    if one.is_ok:
        return Verdict.OK
    if one.is_lie:
        return Verdict.CORRUPTED
    if one.status == 200:
        return Verdict.CUT
    if requests and (fault := FAULTS.get(requests[-1].fault)) is not None:
        if fault.means is Means.CALLER and one.status == requests[-1].status and one.is_whole:
            return Verdict.EXCUSABLE
    if line is not None:
        attempted = set(map(_host_of, line.attempts))
        hosts = {
            host_name(host)
            for host, begun, ended, _ in report.windows
            if ended > one.due and begun < one.ended
        }
        if len(hosts) > 1 and hosts <= attempted:
            return Verdict.EXCUSABLE
    return Verdict.FAILED


def _host_of(attempt: tuple[str, ...]) -> str:
    return attempt[0].partition(":")[0]


def _described(
    one: Seen, requests: list[RequestSeen], report: Report, line: Line | None, verdict: Verdict
) -> list[str]:
    kind = "stream" if one.ask.stream else "plain"
    return [
        f"{one.ask.id} {kind} {verdict}: status {one.status}, whole {one.is_whole}, [DONE] {one.is_done},"
        f" content {one.content if one.status == 200 else Content.PARTIAL}, {one.ended - one.begun:.3f} s:"
        f" {one.body[-300:]!r}",
        *(
            f"  host {r.host} connection {r.connection}/{r.nth}: {r.fault or 'no fault'}, got {r.got}/{r.total},"
            f" sent {r.sent}, {r.end or 'open'} after {r.ended - r.begun if r.ended else 0:.3f} s"
            for r in requests
        ),
        *(
            f"  host {host} misbehaved from {begun - one.due:.3f} to {ended - one.due:.3f} s: {', '.join(faults)}"
            for host, begun, ended, faults in report.windows
            if ended > one.due and begun < one.ended
        ),
        *(
            f"  host {link.host} connection {link.number} from {link.accepted - one.due:.3f}"
            f" to {link.ended - one.due if link.ended else 0:.3f} s by {link.ended_by}, {link.requests} requests"
            for link in report.connections
            if not requests and abs(link.ended - one.ended) < 0.05
        ),
        f"  log: {line}",
    ]
