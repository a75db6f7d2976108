"""A row per fault of a provider: what the caller sees, who is asked, and what is thought of the node.

Each row runs with one faulty node and a healthy one, streamed and not, and once with the faulty one
alone. The numbers are those of the fault matrix; U01 to U41 are here and in the files beside this one:
``_connect`` has what goes wrong before a request is sent, ``_framing`` what only odd bytes can say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from fault_rig import (
    BRIEF_S,
    DEAD,
    FAILED_HTTP,
    FAILED_TCP,
    IGNORED,
    LIMITED,
    OUT_AT_ONCE,
    OVERLOADED,
    SUCCEEDED,
    TIMED_OUT,
    UNASKED,
    Health,
    asked,
    check_health,
    cooling,
    is_whole_chat,
    limited,
    limits_of,
    matrix_config,
    request_bytes,
)
from rig import DEEPSEEK, KEYS, OPENAI, FaultKind, running, wait_until
from wire_ends import Client, Message

from fastgw.balancing.upstream import AttemptOutcome

SLOWLY = ("x-sim-tokens: 20", "x-sim-delay-ms: 1")  # so that a break comes after what was before it


@dataclass(frozen=True)
class View:
    """How it looks from outside.

    Attributes:
        by: the node whose answer it is; None for the gateway's own.
        asked: requests that the primary and the backup saw.
        replays: requests sent again although the first attempt may have run.
        code: of the error event that ends a stream which is not whole, "" for the provider's own.
    """

    by: str | None = DEEPSEEK
    status: int = 200
    asked: tuple[int, int] = (1, 1)
    replays: int = 0
    code: str | None = None


UNSENT = View(asked=(0, 1))  # R0
MOVED = View()  # R1: the provider said that it did not do the work
REPLAYED = View(replays=1)  # R2: it may have run
ANSWERED = View(by=OPENAI, asked=(1, 0))


def relayed(status: int) -> View:
    """R3: the primary's own words."""
    return View(OPENAI, status, (1, 0))


def cut(code: str) -> View:
    """R3: the honest end of a stream that had begun."""
    return View(OPENAI, 200, (1, 0), code=code)


@dataclass(frozen=True)
class Row:
    """One fault. ``streamed`` and ``streamed_health`` only where they differ from ``view`` and ``health``."""

    name: str  # begins with the row's number
    kind: FaultKind
    fault: dict[str, Any]
    view: View
    health: Health
    alone: tuple[int, ...] = ()  # what the caller may get if there is no other node; nothing: as with one
    streamed: View | None = None
    streamed_health: Health | None = None
    deadlines: dict[str, float] = field(default_factory=dict)


def error(code: str | None, kind: str = "api_error", message: str = "no") -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


BRIEF_HEAD = {"head": BRIEF_S, "head_stream": BRIEF_S}
BRIEF_CONTENT = {"first_content": BRIEF_S, "first_content_stream": BRIEF_S}
PLAIN_QUOTA = error("insufficient_quota", "insufficient_quota", "You exceeded your current quota")
NO_MODEL = error("invalid_request_error", "invalid_request_error", "Model Not Exist")
K = FaultKind

# OpenAI's answers all carry x-ratelimit-reset-*, of a few milliseconds and with much remaining; what a
# provider like DeepSeek says is said without them.
BARE = (("x-ratelimit-reset-requests", ""), ("x-ratelimit-reset-tokens", ""))


def status(number: str, code: int, view: View, health: Health, *alone: int, **fault: Any) -> Row:
    """A row about an answer with an error status."""
    name = f"{number} {fault.pop('name', '') or code}"
    return Row(name, K.STATUS, {"status": code, **fault}, view, health, alone)


ROWS = [
    # --- Before the request is sent
    Row("U01 refused", K.REFUSE, {}, UNSENT, OUT_AT_ONCE, (502, 503)),
    *[
        Row(
            f"U07 certificate {variant}", K.BAD_CERTIFICATE, {"variant": variant}, UNSENT, OUT_AT_ONCE, (502,)
        )
        for variant in ("expired", "wrong_name", "unknown_ca", "self_signed")
    ],
    Row(
        "U08 handshake hangs",
        K.HANDSHAKE_HANG,
        {},
        UNSENT,
        OUT_AT_ONCE,
        (504,),
        deadlines={"connect": BRIEF_S},
    ),
    # --- Before the head
    Row("U14 reset before head", K.RESET_BEFORE_HEAD, {"how": "rst"}, REPLAYED, FAILED_TCP, (502,)),
    Row("U14 end before head", K.RESET_BEFORE_HEAD, {"how": "fin"}, REPLAYED, FAILED_TCP, (502,)),
    Row("U16 hangs", K.HANG_BEFORE_HEAD, {}, REPLAYED, TIMED_OUT, (504,), deadlines=BRIEF_HEAD),
    Row(
        "U17 head drips", K.SLOW_HEAD, {"interval_s": 0.05}, REPLAYED, TIMED_OUT, (504,), deadlines=BRIEF_HEAD
    ),
    Row("U18 not HTTP", K.RAW, {"body": "SSH-2.0-x\r\n\r\n"}, REPLAYED, FAILED_HTTP, (502,)),
    Row("U18 not an answer", K.HTML_200, {}, REPLAYED, FAILED_HTTP, (502,)),
    # --- Inside the answer
    Row(
        "U10 cut in TLS, held",
        K.TRUNCATE_TLS,
        {"after": 0},
        REPLAYED,
        FAILED_TCP,
        (502,),
    ),
    Row(
        "U10 cut in TLS, begun",
        K.TRUNCATE_TLS,
        {"after": 5},
        REPLAYED,
        FAILED_TCP,
        (502,),
        streamed=cut("stream_interrupted"),
    ),
    *[
        Row(f"U24 {how} after the head", K.RESET_AFTER_HEAD, {"how": how}, REPLAYED, health, (502,))
        for how, health in (("rst", FAILED_TCP), ("fin", FAILED_TCP), ("clean", FAILED_HTTP))
    ],
    *[
        Row(
            f"U24 {how} inside the answer",
            K.RESET_INSIDE,
            {"after": 5, "how": how},
            REPLAYED,
            health,
            (502,),
            streamed=cut("stream_interrupted"),
            streamed_health=FAILED_TCP,
        )
        for how, health in (("rst", FAILED_TCP), ("fin", FAILED_TCP), ("clean", FAILED_HTTP))
    ],
    Row("U24 empty 200", K.EMPTY_200, {}, REPLAYED, FAILED_HTTP, (502,)),
    Row(
        "U26 stalls before content",
        K.STALL,
        {"after": 0},
        REPLAYED,
        TIMED_OUT,
        (504,),
        deadlines=BRIEF_CONTENT,
    ),
    *[
        Row(
            f"U26 {how} inside the answer",
            K.STALL,
            {"after": 5},
            REPLAYED,
            TIMED_OUT,
            (504,),
            streamed=cut("stream_stalled"),
            deadlines={"first_content": BRIEF_S, deadline: BRIEF_S},
        )
        for how, deadline in (("stalls", "progress"), ("silent", "idle"))
    ],
    Row(
        "U27 breathes for ever",
        K.KEEPALIVE_FLOOD,
        {"interval_s": 0.02},
        REPLAYED,
        TIMED_OUT,
        (504,),
        deadlines=BRIEF_CONTENT,
    ),
    Row(
        "U27 breathes, then answers",
        K.KEEPALIVE_FLOOD,
        {"interval_s": 0.02, "duration_s": 0.1},
        ANSWERED,
        SUCCEEDED,
    ),
    # --- An error inside a 200: as the status it would have been
    Row("U28 server error", K.ERROR_EVENT, {}, REPLAYED, FAILED_HTTP, (502,)),
    Row(
        "U28 overload",
        K.ERROR_EVENT,
        {"body": error("server_is_overloaded")},
        MOVED,
        OVERLOADED,
        (503,),
    ),
    Row(
        "U28 rate limit",
        K.ERROR_EVENT,
        {"body": error("rate_limit_exceeded")},
        MOVED,
        LIMITED,
        (429,),
    ),
    Row("U28 quota", K.ERROR_EVENT, {"body": PLAIN_QUOTA}, MOVED, DEAD, (429, 502)),
    Row("U28 bad key", K.ERROR_EVENT, {"body": error("invalid_api_key")}, MOVED, DEAD, (502,)),
    Row("U28 unknown model", K.ERROR_EVENT, {"body": error("model_not_found")}, MOVED, IGNORED, (400, 404)),
    Row(
        "U28 the caller's fault",
        K.ERROR_EVENT,
        {"body": error(None, "invalid_request_error")},
        View(None, 400, (1, 0)),
        SUCCEEDED,
    ),
    Row(
        "U28 server error after content",
        K.ERROR_EVENT,
        {"after": 5},
        REPLAYED,
        FAILED_HTTP,
        (502,),
        streamed=cut(""),
    ),
    # --- By status
    status("U30", 500, REPLAYED, FAILED_HTTP, 500, 502),
    *[status("U31", code, REPLAYED, FAILED_HTTP, 502, 504) for code in (502, 504, 520, 522, 524, 526)],
    *[status("U32", code, MOVED, OVERLOADED, 503) for code in (503, 529)],
    *[
        status("U32", code, MOVED, cooling(7), 503, name=f"{code} waits", headers=(("retry-after", "7"),))
        for code in (503, 529)
    ],
    status("U32", 503, MOVED, cooling(60), 503, name="503 long", headers=(("retry-after", "7000"),)),
    *[
        status("U33", 429, MOVED, limited(wait_s), 429, name=f"429 {name}: {told}", headers=((name, told),))
        for name, told, wait_s in (
            ("retry-after", "7", 7.0),
            ("retry-after-ms", "2500", 2.5),
            ("retry-after", "3600", 600.0),
        )
    ],
    status(
        "U33",
        429,
        MOVED,
        limited(360),
        429,
        name="429 x-ratelimit-reset-requests",
        headers=(("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")),
    ),
    status("U34", 429, MOVED, LIMITED, 429, name="429 without a word", headers=BARE),
    status("U34", 429, MOVED, LIMITED, 429, name="429 with limits that are not reached"),
    status("U35", 429, MOVED, DEAD, 429, 502, name="429 no quota", body=PLAIN_QUOTA),
    status("U35", 402, MOVED, DEAD, 402, 502),
    status("U36", 401, MOVED, DEAD, 502),
    status("U36", 403, MOVED, DEAD, 502, name="403 country"),
    status("U36", 403, MOVED, Health("forbidden"), 502, name="403 of a firewall", body="<html>"),
    status("U38", 404, MOVED, IGNORED, 404, name="404 unknown model"),
    status("U38", 400, MOVED, IGNORED, 400, 404, name="400 unknown model", body=NO_MODEL),
    *[status("U39", code, relayed(code), SUCCEEDED) for code in (400, 409, 413, 415, 422)],
    *[
        status("U40", code, relayed(code), SUCCEEDED, headers=(("location", "https://127.0.0.1:1/"),))
        for code in (301, 302, 307, 308)
    ],
    # What the provider says it did not do is R1, whatever the number.
    *[status("U31", code, MOVED, FAILED_HTTP, 502) for code in (408, 421, 425)],
]
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


def check_view(got: Message, view: View, row: Row, stream: bool) -> None:
    """Is this what the caller should see?"""
    assert got.status == view.status, got.body
    assert ("x-fastgw-upstream" in got) == (view.by is not None)
    if view.by is not None:
        assert got["x-fastgw-upstream"] == view.by
    assert got["x-fastgw-attempts"] == ("2" if view.by == DEEPSEEK else "1")
    if view.code is None:
        assert got.is_whole
        if view.status == 200:
            assert is_whole_chat(got, stream), got.body
        return
    assert not got.is_whole
    assert b"[DONE]" not in got.body
    last = json.loads(got.body.removesuffix(b"\n\n").rpartition(b"data: ")[2])["error"]
    assert last["message"]
    assert (last["code"] or "") == view.code


@each_row
@both_ways
def test_row_with_a_healthy_backup(ca_dir: Path, row: Row, stream: bool) -> None:
    view = (row.streamed if stream else None) or row.view
    health = (row.streamed_health if stream else None) or row.health
    with running(ca_dir, matrix_config(**row.deadlines)) as rig:
        rig.fault(rig.openai, row.kind, **row.fault)
        with Client(rig.port) as client:
            begin = monotonic()
            got = client.ask(request_bytes(stream, *SLOWLY))
            check_view(got, view, row, stream)
        check_health(rig, OPENAI, health, begin)
        check_health(rig, DEEPSEEK, SUCCEEDED if view.asked[1] else UNASKED, begin)
        assert (len(asked(rig, rig.openai)), len(asked(rig, rig.deepseek))) == view.asked
        counts = rig.counts()
        assert counts["uncertain_replays"] == view.replays
        assert counts["retries"] == (1 if view.by == DEEPSEEK else 0)
        assert counts["node_connections"]["busy"] == counts["node_connections"]["dialling"] == 0
        assert counts["held_bytes"] == 0


@each_row
def test_row_with_nobody_else(ca_dir: Path, row: Row) -> None:
    """The caller gets an honest error in OpenAI's shape, and no reason to ask three times more."""
    view, health, stream = row.view, row.health, False
    with running(ca_dir, matrix_config(alone=True, **row.deadlines)) as rig:
        rig.fault(rig.openai, row.kind, **row.fault)
        with Client(rig.port) as client:
            begin = monotonic()
            got = client.ask(request_bytes(stream, *SLOWLY))
        if view.by != DEEPSEEK:
            check_view(got, view, row, stream)
        else:
            assert got.status in row.alone, got.body
            assert got.is_whole
            assert got["x-fastgw-attempts"] == "1"
            said = json.loads(got.body)["error"]
            assert said["message"]
            assert "127.0.0.1" not in got.raw.decode()
            assert not any(key in got.raw.decode() for key in KEYS.values())
            assert not any(name.startswith("x-ratelimit") for name, _ in got.fields)
            if health.outcome != "ignored":
                assert got["x-should-retry"] == "false"
                assert int(got["retry-after"]) >= max(1.0, health.wait_s[0])
        check_health(rig, OPENAI, health, begin)
        assert len(asked(rig, rig.openai)) == view.asked[0]
        assert rig.counts()["uncertain_replays"] == 0  # there was nobody to replay it on


# --- Rows that are more than one request ------------------------------------------------------


@both_ways
def test_u16_the_attempt_that_was_left_is_cut_off(ca_dir: Path, stream: bool) -> None:
    """What nobody waits for any more must not go on generating."""
    with running(ca_dir, matrix_config(**BRIEF_HEAD)) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)
        assert is_whole_chat(client.ask(request_bytes(stream)), stream)
        wait_until(lambda: rig.call(lambda: rig.openai.counters.aborted) == 1, "the provider sees the end")
        assert rig.call(lambda: rig.openai.connections_open) == 0


@both_ways
def test_u28_nothing_follows_an_error_event_after_content(ca_dir: Path, stream: bool) -> None:
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.ERROR_EVENT, after=3, done=True)
        got = client.ask(request_bytes(stream, *SLOWLY))
        if stream:
            assert got.body.count(b'"error"') == 1
            assert got.body.rpartition(b"data: ")[2].startswith(b'{"error"')
        else:
            assert is_whole_chat(got, stream)


@both_ways
@pytest.mark.parametrize(
    ("code", "moves", "health"),
    [(413, False, SUCCEEDED), (429, True, LIMITED), (401, True, DEAD)],
    ids=["413", "429", "401"],
)
def test_u29_an_answer_while_the_body_goes_up(
    ca_dir: Path, code: int, moves: bool, health: Health, stream: bool
) -> None:
    body = {"messages": [{"role": "user", "content": "say hello " + "x" * 4_000_000}]}
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.STATUS, status=code, early=True)
        begin = monotonic()
        got = client.ask(request_bytes(stream, **body))
        assert got.status == (200 if moves else code)
        assert got["x-fastgw-upstream"] == (DEEPSEEK if moves else OPENAI)
        check_health(rig, OPENAI, health, begin)
        sent = asked(rig, rig.deepseek)
        assert len(sent) == (1 if moves else 0)
        if moves:
            assert len(sent[0].body) > 4_000_000
        # The connection whose request was not sent whole is not used again.
        assert rig.call(lambda: rig.openai.counters.connections) == 1
        wait_until(lambda: rig.call(lambda: rig.openai.connections_open) == 0, "it is closed")


def test_u33_a_wait_may_be_told_as_a_date(ca_dir: Path) -> None:
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
        rig.fault(rig.openai, FaultKind.STATUS, status=429, headers=(("retry-after", date),))
        begin = monotonic()
        assert is_whole_chat(client.ask(request_bytes(False)), False)
        check_health(rig, OPENAI, limited(20, 40), begin)


def test_u33_when_all_are_rate_limited_the_shortest_wait_is_told(ca_dir: Path) -> None:
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        for provider, wait in ((rig.openai, "400"), (rig.deepseek, "90")):
            rig.fault(provider, FaultKind.STATUS, status=429, headers=(("retry-after", wait),))
        for stream in (False, True):
            got = client.ask(request_bytes(stream))
            assert got.status == 429
            assert 30 <= int(got["retry-after"]) <= 90
            assert not any(name.startswith("x-ratelimit") for name, _ in got.fields)


def test_u34_the_wait_grows_with_each_429_and_a_success_ends_that(ca_dir: Path) -> None:
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.STATUS, status=429, headers=BARE)
        node = rig.nodes()[OPENAI]
        for number, term_s in ((1, 1.0), (2, 2.0)):
            begin = monotonic()
            assert is_whole_chat(client.ask(request_bytes(number == 2)), number == 2)
            wait_until(lambda n=number: node.outcomes[AttemptOutcome.BUSY] == n, "it is found busy")
            (until,) = limits_of(rig, node, begin)
            assert until - begin >= 0.9 * term_s
            assert until - monotonic() <= 1.1 * term_s
            wait_until(lambda: not limits_of(rig, node, monotonic()), "it may be tried again")
        rig.fault(rig.openai, None)
        assert client.ask(request_bytes(False))["x-fastgw-upstream"] == OPENAI
        assert node.cooling_until == 0


@both_ways
def test_u36_a_second_403_in_a_row_is_no_mood(ca_dir: Path, stream: bool) -> None:
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.STATUS, status=403, body="<html>")
        for number in (1, 2, 2):  # the third request does not ask it any more
            got = client.ask(request_bytes(stream))
            assert got["x-fastgw-upstream"] == DEEPSEEK
            assert len(asked(rig, rig.openai)) == number
        assert rig.nodes()[OPENAI].is_dead()


@both_ways
@pytest.mark.parametrize("code", [401, 403])
def test_u37_the_callers_own_key_is_the_callers_own_affair(ca_dir: Path, code: int, stream: bool) -> None:
    config = matrix_config(route="passthrough: true")
    config = "\n".join(line for line in config.splitlines() if "auth:" not in line)
    with running(ca_dir, config) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.STATUS, status=code)
        begin = monotonic()
        got = client.ask(request_bytes(stream, "Authorization: Bearer sk-of-the-caller"))
        assert (got.status, got["x-fastgw-upstream"]) == (code, OPENAI)
        assert json.loads(got.body)["error"]
        check_health(rig, OPENAI, SUCCEEDED, begin)
        (record,) = asked(rig, rig.openai)
        assert record.authorization == "Bearer sk-of-the-caller"
        assert asked(rig, rig.deepseek) == []


@both_ways
def test_u39_a_mistake_that_the_backup_finds_is_told_in_its_words(ca_dir: Path, stream: bool) -> None:
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        words = error("bad_thing", "invalid_request_error", "of the second")
        rig.fault(rig.deepseek, FaultKind.STATUS, status=400, body=words)
        begin = monotonic()
        got = client.ask(request_bytes(stream))
        assert (got.status, got["x-fastgw-upstream"], got["x-fastgw-attempts"]) == (400, DEEPSEEK, "2")
        assert json.loads(got.body) == json.loads(words)
        check_health(rig, DEEPSEEK, SUCCEEDED, begin)


# --- Stale connections (U11, U12) -------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("announced", [False, True])
def test_u11_a_connection_closed_while_idle_is_not_taken(ca_dir: Path, announced: bool, stream: bool) -> None:
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.CLOSE_AFTER, after=1, announce=announced)
        for number in (1, 2):
            got = client.ask(request_bytes(stream))
            assert (got["x-fastgw-upstream"], got["x-fastgw-attempts"]) == (OPENAI, "1")
            assert is_whole_chat(got, stream)
            assert rig.call(lambda: rig.openai.counters.connections) == number
            wait_until(lambda: rig.counts()["node_connections"]["idle"] == 0, "its end was noticed")
        assert rig.counts()["stale_reuses"] == 0
        assert rig.nodes()[OPENAI].outcomes[1] == 2  # succeeded
        assert asked(rig, rig.deepseek) == []


@both_ways
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_u12_a_connection_closed_while_we_write_costs_a_fresh_one(
    ca_dir: Path, how: str, stream: bool
) -> None:
    """Nothing was processed. What may not run twice is sent again, too: ``test_stale_reuse`` shows it."""
    with running(ca_dir, matrix_config()) as rig, Client(rig.port) as client:
        assert is_whole_chat(client.ask(request_bytes(stream)), stream)
        rig.fault(rig.openai, FaultKind.RESET_BEFORE_HEAD, reused=True, how=how)
        got = client.ask(request_bytes(stream))
        assert is_whole_chat(got, stream)
        assert got["x-fastgw-attempts"] == "1"
        counts = rig.counts()
        assert (counts["stale_reuses"], counts["retries"], counts["uncertain_replays"]) == (1, 0, 0)
        assert [record.served for record in asked(rig, rig.openai)] == [1, 2, 1]
        assert not any(rig.nodes()[OPENAI].counters.values())
        assert asked(rig, rig.deepseek) == []
