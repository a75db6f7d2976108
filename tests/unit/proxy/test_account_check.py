"""Account checks: what they ask, what they find, and what that does to a node. Without sockets."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from fake_pool import FakePool, fake_pool

from fastgw._core import Node
from fastgw.balancing.health import HealthPolicy
from fastgw.balancing.upstream import Upstream
from fastgw.errors import ConnectFailed
from fastgw.llm.account import Finding, Standing
from fastgw.proxy import account_check
from fastgw.proxy.account_check import FIRST_PAUSE_S, AccountChecker, CheckedNode

MODELS = b"GET /models HTTP/1.1\r\nAuthorization: Bearer sk-secret\r\n\r\n"
BALANCE = b"GET /user/balance HTTP/1.1\r\n\r\n"
GOOD, BAD = Finding(Standing.GOOD), Finding(Standing.BAD_KEY, detail="answered with status 401")


def answer(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def checker_of(pool: FakePool, **fields: Any) -> tuple[AccountChecker, CheckedNode]:
    node = Node("10.0.0.1", 80, name="a")
    fields.setdefault("models_request", MODELS)
    checked = CheckedNode(node, pool, **fields)
    return AccountChecker(Upstream([node], HealthPolicy()), (checked,)), checked


def check_once(pool: FakePool, **fields: Any) -> Finding:
    async def run() -> Finding:
        checker, checked = checker_of(pool, **fields)
        finding = await checker.check(checked)
        assert not pool.busy and not pool.idle
        return finding

    return asyncio.run(run())


def account(**fields: Any) -> account_check._Account:
    checker, checked = checker_of(fake_pool(b""), **fields)
    return account_check._Account(checker, checked)


# --- One check --------------------------------------------------------------------------------


def test_the_list_of_models_is_asked_for_and_read_whole() -> None:
    body = b'{"data": [{"id": "a"}]}'
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(body),
        body,
    )
    for bytes_ in (answer(body), chunked):
        pool = fake_pool(bytes_)
        assert check_once(pool, models=("a",)) == GOOD
        assert [transport.sent for transport in pool.transports] == [MODELS]
    assert check_once(fake_pool(answer(body)), models=("b",)).missing == ("b",)


def test_the_balance_is_asked_for_unless_the_key_is_refused() -> None:
    pool = fake_pool(answer(b'{"data": []}'), answer(b'{"is_available": false}'))
    assert check_once(pool, balance_request=BALANCE).standing is Standing.NO_BALANCE
    assert [transport.sent for transport in pool.transports] == [MODELS, BALANCE]
    pool = fake_pool(answer(b"", 401))
    assert check_once(pool, balance_request=BALANCE).standing is Standing.BAD_KEY
    assert len(pool.transports) == 1
    assert check_once(fake_pool(answer(b'{"is_available": true}')), models_request=b"",
                      balance_request=BALANCE) == GOOD  # fmt: skip


@pytest.mark.parametrize("broken", [ConnectFailed(), b"", b"SSH-2.0\r\n", answer(b"", 503)])
def test_a_provider_that_gives_no_answer_says_nothing_of_the_key(broken: bytes | BaseException) -> None:
    assert check_once(fake_pool(broken)).standing is Standing.UNREACHABLE


def test_silence_and_endless_answers_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_once(fake_pool(None), timeout_s=0.01).standing is Standing.UNREACHABLE
    monkeypatch.setattr(account_check, "MAX_LIST_BYTES", 10)
    assert check_once(fake_pool(answer(b" " * 11))).standing is Standing.UNREACHABLE


def test_what_is_shown_of_a_checked_node_has_no_key() -> None:
    _, checked = checker_of(fake_pool(b""))
    assert "secret" not in repr(checked)


# --- What a finding does ----------------------------------------------------------------------


def test_a_refused_key_takes_the_node_out_and_the_next_good_check_brings_it_back() -> None:
    for bad in (BAD, Finding(Standing.NO_BALANCE)):
        known = account()
        node = known.checked.node
        known.take(bad, 100.0)
        assert node.dead_until == 160.0
        known.take(bad, 105.0)
        assert node.dead_until == 160.0, "found again, not found out again"
        known.take(GOOD, 110.0)
        assert not node.is_dead() and node.is_available(110.0)
        known.take(bad, 200.0)
        assert node.dead_until == 260.0, "its term begins anew"


def test_what_live_traffic_found_out_is_left_to_a_trial() -> None:
    known = account()
    node, upstream = known.checked.node, known.checker.upstream
    attempt = upstream.start_attempt(100.0)
    assert attempt is not None
    attempt.dead(100.0)
    known.take(GOOD, 101.0)
    assert node.is_dead() and node.is_available(101.0)
    trial = upstream.start_attempt(101.0)
    assert trial is not None and trial.kind == 1
    assert upstream.start_attempt(101.0) is None, "one request decides"
    trial.dead(102.0)
    assert node.dead_until == 222.0, "and the term still grows"
    known.take(BAD, 103.0)
    assert node.dead_until == 222.0


def test_a_key_that_requests_are_served_with_is_not_refused_by_a_check() -> None:
    known = account()
    node, upstream = known.checked.node, known.checker.upstream
    known.take(GOOD, 100.0)
    attempt = upstream.start_attempt(101.0)
    assert attempt is not None
    attempt.succeeded(101.0)
    assert known.take(BAD, 102.0) == FIRST_PAUSE_S
    assert not node.is_dead()
    known.take(BAD, 107.0)  # nothing was served since
    assert node.is_dead()


def test_a_model_that_is_not_offered_and_silence_change_nothing() -> None:
    known = account()
    node = known.checked.node
    for standing in (Standing.MODEL_MISSING, Standing.UNREACHABLE, Standing.UNKNOWN):
        known.take(Finding(standing, ("m",) if standing is Standing.MODEL_MISSING else ()), 100.0)
        assert node.is_available(100.0) and not node.is_dead()


def test_the_next_check_is_soon_after_a_bad_one_and_ever_later() -> None:
    known = account(interval_s=60.0)
    assert known.take(GOOD, 0.5) == 60.0
    pauses = [known.take(BAD, 1.0 + number) for number in range(6)]
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert known.take(GOOD, 10.0) == 60.0
    assert known.take(Finding(Standing.UNREACHABLE), 11.0) == 5.0
    assert known.take(Finding(Standing.UNKNOWN), 12.0) == 60.0
    assert account(interval_s=2.0).take(BAD, 1.0) == 2.0


def test_only_what_has_changed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    known = account()
    missing = Finding(Standing.MODEL_MISSING, ("deepseek-chat",))
    with caplog.at_level(logging.INFO, "fastgw.account"):
        for finding in (GOOD, GOOD, BAD, BAD, missing, missing, GOOD):
            known.take(finding, 1.0)
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.INFO, logging.ERROR, logging.ERROR, logging.INFO]
    assert "deepseek-chat" in caplog.records[2].getMessage()


# --- Checking on ------------------------------------------------------------------------------


def test_checks_go_on_until_they_are_stopped_and_the_end_is_told() -> None:
    async def run() -> list[Finding | None]:
        pool = fake_pool(answer(b"", 401), answer(b'{"data": []}'))
        checker, _ = checker_of(pool, interval_s=0.001)
        found: list[Finding | None] = []
        enough = asyncio.Event()

        def on_checked(node: Node, finding: Finding | None) -> None:
            found.append(finding)
            if len(found) >= 3:
                enough.set()

        checker.on_checked = on_checked
        await checker.stop()  # never started: nothing to tell
        assert not found
        checker.start()
        checker.start()
        await asyncio.wait_for(enough.wait(), 30)
        await checker.stop()
        assert len(asyncio.all_tasks()) == 1 and not pool.busy
        return found

    found = asyncio.run(run())
    assert [finding.standing for finding in found[:2] if finding] == [Standing.BAD_KEY, Standing.GOOD]
    assert found[-1] is None


def test_a_check_that_fails_in_an_unexpected_way_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[Standing]:
        checker, _ = checker_of(fake_pool(ZeroDivisionError(), answer(b'{"data": []}')), interval_s=0.001)
        found: list[Standing] = []
        enough = asyncio.Event()

        def on_checked(node: Node, finding: Finding | None) -> None:
            if finding is not None:
                found.append(finding.standing)
            if len(found) >= 2:
                enough.set()

        checker.on_checked = on_checked
        checker.start()
        await asyncio.wait_for(enough.wait(), 30)
        await checker.stop()
        return found

    with caplog.at_level(logging.ERROR, "fastgw.account"):
        assert asyncio.run(run())[:2] == [Standing.UNKNOWN, Standing.GOOD]
    assert len(caplog.records) == 1
