"""The goals of ``make chaos``, short and with one seed; and that what judges them sees what is wrong."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from time import monotonic

import pytest
from chaos.badhost import ConnectionSeen, Plan, Report, RequestSeen, bad_hosts
from chaos.conversation import DONE, Ask, Content, completion, content_event, contents, is_intact, judge
from chaos.failover import breaks, failover, faulty_epochs, never_struck
from chaos.faults import BEFORE_CONTENT
from chaos.goals import Result, all_goals
from chaos.leaving import leaving
from chaos.load import Seen
from chaos.oracle import Verdict
from chaos.oracle import judge as judge_all
from chaos.stage import Line, configuration, stage
from chaos.stale import stale_reuse

pytestmark = pytest.mark.timeout(600)  # a hang guard: alone on two cores each takes some ten seconds


def check(result: Result) -> None:
    print("\n ", result.measured)
    assert result.ok, "\n".join([str(result.measured), *result.notes])


# --- Short runs -------------------------------------------------------------------------------


def test_no_request_fails_while_one_of_two_nodes_misbehaves() -> None:
    check(
        failover(seed=2, count=3000, rate=300, epoch_s=(0.3, 1.2), most_excused=0.05, most_turned_away=0.002)
    )


def test_every_stream_that_breaks_says_so() -> None:
    check(breaks(seed=1, count=400, most_early=0.5))


def test_no_request_fails_in_the_moment_in_which_its_connection_is_closed() -> None:
    check(stale_reuse(seed=1, count=800, most_rounds=5))


def test_whoever_leaves_takes_the_nodes_connection_along() -> None:
    check(leaving(seed=1, count=300, limit_s=30.0, stay_s=0.5))


def test_every_goal_has_a_text_and_an_id_of_its_own() -> None:
    assert {"X01", "X03", "X04", "X14"} <= set(all_goals())


def test_a_host_that_answers_early_reads_the_request_behind_the_rest(tmp_path: Path) -> None:
    first, second = Ask("early-1", False, 5000).encode(), Ask("early-2", False, 5000).encode()
    with bad_hosts(tmp_path, 1, seed=1, tls=False) as hosts:
        hosts.follow([Plan(0.0, 0, ("early_413",))], monotonic())
        with socket.create_connection(("127.0.0.1", hosts.ports[0]), timeout=60) as sock:
            sock.sendall(first[:-1])
            assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
            sock.sendall(first[-1:] + second)
            assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
        read = [(one.id, one.nth, one.got == one.total) for one in hosts.report(tmp_path).requests]
    assert read == [("early-1", 1, True), ("early-2", 2, True)]


# --- What judges them -------------------------------------------------------------------------

ID = "x1-7"
PIECES = contents(ID, "g1", 3, 10)
OTHERS = contents(ID, "g2", 3, 10)


def stream(*pieces: str) -> bytes:
    return b"".join(map(content_event, pieces))


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (stream(*PIECES), Content.WHOLE),
        (completion(PIECES), Content.WHOLE),
        (stream(*PIECES[:2]), Content.PARTIAL),
        (b"", Content.PARTIAL),
        (stream(*PIECES[:2], *OTHERS[2:]), Content.CORRUPT),
        (stream(*PIECES, *OTHERS), Content.CORRUPT),
        (stream(PIECES[0], *PIECES), Content.CORRUPT),
        (stream(PIECES[1]), Content.CORRUPT),
        (stream(PIECES[0], *PIECES[2:]), Content.CORRUPT),
        (stream(PIECES[0].replace("xx", "xy"), *PIECES[1:]), Content.CORRUPT),
        (stream(*contents("x1-8", "g1", 3, 10)), Content.CORRUPT),
    ],
)
def test_content_that_is_not_of_one_generation_is_found(body: bytes, content: Content) -> None:
    assert judge(ID, body) is content


def test_a_request_that_was_changed_on_its_way_is_found() -> None:
    body = Ask(ID, True).encode().partition(b"\r\n\r\n")[2]
    assert is_intact(ID, body)
    assert not is_intact("x1-8", body)
    assert not is_intact(ID, body.replace(b"x1-7 x1-7", b"x1-7 x1-8"))
    assert not is_intact(ID, body[:-1])


def seen(status: int, body: bytes, *, is_whole: bool = True, stream: bool = True) -> Seen:
    one = Seen(Ask(ID, stream), due=1.0, begun=1.0)
    one.judge(status, body, is_whole)
    one.ended = 2.0
    return one


def request(host: int, *, nth: int = 1, fault: str = "", sent: int = 0, end: str = "answered") -> RequestSeen:
    return RequestSeen(
        ID, host, 1, nth, fault, 1.1, 100, "g1", got=100, is_intact=True, sent=sent, end=end, ended=1.2
    )


WHOLE = stream(*PIECES) + DONE
BAD_0, BAD_1 = (0, 0.5, 3.0, ("refuse",)), (1, 0.5, 3.0, ("refuse",))


@pytest.mark.parametrize(
    ("one", "windows", "verdict"),
    [
        (seen(200, WHOLE), [], Verdict.OK),
        (seen(200, completion(PIECES), stream=False), [], Verdict.OK),
        (seen(200, stream(*PIECES)), [], Verdict.CORRUPTED),  # no [DONE], and yet a clean end
        (seen(200, stream(*PIECES[:2]) + DONE, is_whole=False), [], Verdict.CORRUPTED),
        (seen(200, stream(*PIECES[:2]), is_whole=False), [], Verdict.CUT),
        (seen(502, b"{}"), [BAD_0], Verdict.FAILED),
        (seen(502, b"{}"), [BAD_0, (1, 0.1, 0.5, ("refuse",))], Verdict.TURNED_AWAY),
        (seen(502, b"{}"), [BAD_0, (1, -9.0, -8.0, ("refuse",))], Verdict.FAILED),
        (seen(502, b"{}"), [BAD_0, BAD_1], Verdict.EXCUSABLE),
        (seen(0, b"", is_whole=False), [], Verdict.FAILED),
    ],
)
def test_a_request_is_judged_by_what_its_client_saw(
    one: Seen, windows: list[tuple[int, float, float, tuple[str, ...]]], verdict: Verdict
) -> None:
    findings = judge_all(
        [one], Report([], [], windows), {ID: Line(502, [("h0.chaos.test:443", "x")], "-")}, 2
    )
    assert findings.verdicts == {verdict: 1}


def test_every_fault_has_its_turn_in_a_run_of_full_size() -> None:
    for seed in range(100):
        alone = {plan.faults for plan in faulty_epochs(seed, 410.0) if plan.is_bad and len(plan.faults) == 1}
        assert alone == {(name,) for name in BEFORE_CONTENT}, seed


def test_a_fault_that_struck_nobody_is_told() -> None:
    struck = ConnectionSeen(1, 0, 1.0, "accept_and_hang")
    report = Report([request(0, fault="reset_in_head")], [struck], [])
    refused = {ID: Line(200, [("h0.chaos.test:443", "upstream_connect_failed")], "-")}
    names = ["refuse", "huge_head", "accept_and_hang", "reset_in_head"]
    assert never_struck(report, refused, names) == ["huge_head"]
    assert never_struck(report, {}, names) == ["refuse", "huge_head"]


def test_a_dead_worker_and_an_unknown_metric_are_noticed() -> None:
    with stage(1, 1, configuration([("/v1", [0])])) as on:
        assert on.metric("fastgw_node_ejected") == 0
        with pytest.raises(AssertionError, match="no metric"):
            on.metric("fastgw_node_eject")
        assert on.errors == []
        os.kill(on.workers.children()[0], signal.SIGKILL)
        on.workers.process.saw("starting it again")
        assert len(on.errors) == 1


@pytest.mark.parametrize(
    ("requests", "duplicates", "replays"),
    [
        ([request(0, fault="close_before_head", end="host"), request(1)], 1, 1),
        ([request(0, fault="rate_limited", end="answered"), request(1)], 0, 0),
        ([request(0, nth=2, fault="close_before_head", end="host"), request(1)], 0, 0),
        ([request(0, nth=2, fault="reset_in_head", sent=5, end="host"), request(1)], 1, 1),
        ([request(0, fault="reset_before_head", end="host")], 0, 1),
        ([request(1)], 0, 0),
    ],
    ids=["closed", "refused", "stale", "begun", "second node not reached", "only one"],
)
def test_what_may_have_run_twice_is_counted(
    requests: list[RequestSeen], duplicates: int, replays: int
) -> None:
    line = Line(200, [("h0.chaos.test:443", "x"), ("h1.chaos.test:443", "succeeded")], "-")
    findings = judge_all([seen(200, WHOLE)], Report(requests, [], []), {ID: line}, 2)
    assert (findings.duplicates, findings.replays) == (duplicates, replays)
