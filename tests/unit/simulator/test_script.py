"""Answers and faults become exactly these bytes, pauses and endings."""

import pytest

from fastgw.simulator.faults import Fault, FaultKind
from fastgw.simulator.script import DONE, Answer, Framing, Op, Pace, Script, Step, compose

HEAD = b"HTTP/1.1 200 OK\r\nx-a: 1\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
ROLE, ONE, TWO, THREE, FINISH = (
    b"data: role\n\n",
    b"data: 1\n\n",
    b"data: 2\n\n",
    b"data: 3\n\n",
    b"data: fin\n\n",
)


def stream() -> Answer:
    events = [ROLE, ONE, TWO, THREE, FINISH, DONE]
    return Answer(200, [(b"x-a", b"1")], events=events, lead=1, progress=3)


def plain(body: bytes = b'{"a": 1}') -> Answer:
    return Answer(200, [(b"x-a", b"1")], body, progress=3)


def chunks(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


def fault(kind: str, **fields: object) -> Fault:
    return Fault.from_json({"kind": kind, **fields})


def sent(script: Script) -> bytes:
    return b"".join(step.data for step in script if step.op is Op.SEND)


def ops(script: Script) -> list[Op]:
    return [step.op for step in script if step.op is not Op.SEND]


def test_an_undisturbed_answer_is_one_write() -> None:
    body = HEAD + b'content-length: 8\r\n\r\n{"a": 1}'
    assert compose(plain(), Framing()) == [Step(0.0, Op.SEND, body, 3), Step(0.0, Op.END)]
    whole = CHUNKED + chunks(ROLE, ONE, TWO, THREE, FINISH, DONE) + LAST
    assert compose(stream(), Framing()) == [Step(0.0, Op.SEND, whole, 3), Step(0.0, Op.END)]


def test_a_pace_puts_waits_before_the_content_only() -> None:
    script = compose(stream(), Framing(), pace=Pace(0.5, 0.1))
    waits = [(step.wait_s, step.data) for step in script if step.wait_s]
    assert waits == [(0.5, chunks(ONE)), (0.1, chunks(TWO)), (0.1, chunks(THREE))]
    assert sent(script) == CHUNKED + chunks(ROLE, ONE, TWO, THREE, FINISH, DONE) + LAST
    assert compose(plain(), Framing(), pace=Pace(0.5, 0.1))[0].wait_s == pytest.approx(0.8)


def test_a_client_that_closes_is_answered_with_a_close() -> None:
    script = compose(plain(), Framing(keep_alive=False))
    assert b"connection: close\r\n" in sent(script)
    assert ops(script) == [Op.END, Op.CLOSE]


def test_an_http_1_0_stream_ends_with_its_connection() -> None:
    script = compose(stream(), Framing(may_chunk=False))
    assert sent(script) == HEAD + b"connection: close\r\n\r\n" + b"".join(stream().events or [])
    assert ops(script) == [Op.END, Op.CLOSE]


def test_an_answer_to_head_has_no_body_under_any_fault_of_bodies() -> None:
    framing = Framing(is_head=True)
    head = HEAD + b"content-length: 8\r\n\r\n"
    assert sent(compose(plain(), framing)) == head
    for kind in ("reset_inside", "stall", "keepalive_flood", "truncate_tls", "close_delimited"):
        assert sent(compose(plain(), framing, fault(kind))) == head


def test_a_hang_says_nothing_or_says_it_later() -> None:
    assert compose(stream(), Framing(), fault("hang_before_head")) == [Step(0.0, Op.HANG)]
    late = compose(stream(), Framing(), fault("hang_before_head", duration_s=2))
    assert late[0].wait_s == 2
    assert sent(late) == sent(compose(stream(), Framing()))


def test_a_slow_head_drips_byte_by_byte() -> None:
    script = compose(plain(), Framing(), fault("slow_head", interval_s=0.25))
    head = HEAD + b"content-length: 8\r\n\r\n"
    assert [step.data for step in script[: len(head)]] == [bytes([byte]) for byte in head]
    assert {step.wait_s for step in script[: len(head)]} == {0.25}
    assert sent(script) == head + b'{"a": 1}'


@pytest.mark.parametrize(("how", "op"), [("rst", Op.RESET), ("fin", Op.CLOSE)])
def test_a_connection_can_end_before_after_and_inside(how: str, op: Op) -> None:
    assert ops(compose(stream(), Framing(), fault("reset_before_head", how=how))) == [op]
    assert sent(compose(stream(), Framing(), fault("reset_before_head", how=how))) == b""
    assert sent(compose(stream(), Framing(), fault("reset_after_head", how=how))) == CHUNKED
    inside = compose(stream(), Framing(), fault("reset_inside", after=2, how=how))
    assert sent(inside) == CHUNKED + chunks(ROLE, ONE, TWO)
    assert ops(inside) == [op]
    assert sum(step.progress for step in inside) == 2
    half = compose(plain(), Framing(), fault("reset_inside", how=how))
    assert sent(half) == HEAD + b'content-length: 8\r\n\r\n{"a"'


def test_a_clean_cut_ends_the_body_properly() -> None:
    script = compose(stream(), Framing(), fault("reset_inside", after=1, how="clean"))
    assert sent(script) == CHUNKED + chunks(ROLE, ONE) + LAST
    assert ops(script) == [Op.END]
    script = compose(plain(), Framing(), fault("reset_inside", after_bytes=3, how="clean"))
    assert sent(script) == CHUNKED + chunks(b'{"a') + LAST


def test_a_cut_never_comes_after_the_last_content() -> None:
    script = compose(stream(), Framing(), fault("reset_inside", after=99))
    assert sent(script) == CHUNKED + chunks(ROLE, ONE, TWO, THREE)


def test_a_stall_falls_silent_or_goes_on() -> None:
    for_ever = compose(stream(), Framing(), fault("stall", after=0))
    assert sent(for_ever) == CHUNKED + chunks(ROLE)
    assert ops(for_ever) == [Op.HANG]
    passing = compose(stream(), Framing(), fault("stall", after=2, duration_s=3))
    assert sent(passing) == CHUNKED + chunks(ROLE, ONE, TWO, THREE, FINISH, DONE) + LAST
    assert [step.wait_s for step in passing if step.wait_s] == [3]


def test_a_flood_of_comments_lasts_for_ever_or_for_a_while() -> None:
    for_ever = compose(stream(), Framing(), fault("keepalive_flood", interval_s=0.1))
    assert for_ever[-1] == Step(0.1, Op.SEND, chunks(b": keep-alive\n\n"), 0, -1)
    passing = compose(stream(), Framing(), fault("keepalive_flood", interval_s=0.1, duration_s=0.35))
    assert passing[1].times == 4
    assert sent(passing).endswith(chunks(ROLE, ONE, TWO, THREE, FINISH, DONE) + LAST)
    blank = compose(plain(), Framing(), fault("keepalive_flood", duration_s=0.5))
    assert sent(blank) == CHUNKED + chunks(b"\n") + chunks(b'{"a": 1}') + LAST


def test_a_status_replaces_the_answer_and_its_headers() -> None:
    script = compose(
        stream(), Framing(), fault("status", status=429, headers={"Retry-After": "3", "X-A": "2"})
    )
    assert sent(script).startswith(b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n")
    assert b"Retry-After: 3\r\n" in sent(script)
    assert b"x-a: 1\r\n" not in sent(script)
    assert b'"code":"rate_limit_exceeded"' in sent(script)
    assert ops(script) == [Op.END]


def test_a_status_without_a_body_has_none() -> None:
    assert sent(compose(plain(), Framing(), fault("status", status=204))).endswith(b"\r\n\r\n")
    assert b"content-length" not in sent(compose(plain(), Framing(), fault("status", status=204)))


def test_an_early_status_closes() -> None:
    assert ops(compose(plain(), Framing(), fault("status", status=413, early=True))) == [Op.END, Op.CLOSE]


def test_a_200_can_be_empty_or_a_page() -> None:
    assert sent(compose(stream(), Framing(), fault("empty_200"))) == CHUNKED + LAST
    assert sent(compose(plain(), Framing(), fault("empty_200"))) == HEAD + b"content-length: 0\r\n\r\n"
    page = sent(compose(stream(), Framing(), fault("html_200", body="<p>")))
    assert page == HEAD + b"content-type: text/html; charset=utf-8\r\ncontent-length: 3\r\n\r\n<p>"


def test_an_error_event_comes_first_or_after_some_content() -> None:
    first = compose(stream(), Framing(), fault("error_event", body='{"error":1}'))
    event = b'data: {"error":1}\n\n'
    assert sent(first) == CHUNKED + chunks(event, DONE) + LAST
    later = compose(stream(), Framing(), fault("error_event", body='{"error":1}', after=1, done=False))
    assert sent(later) == CHUNKED + chunks(ROLE, ONE, event)
    assert ops(later) == [Op.CLOSE]
    body = sent(compose(plain(), Framing(), fault("error_event")))
    assert body.startswith(b"HTTP/1.1 200 OK")
    assert b'"type":"server_error"' in body


def test_one_malformed_event_leaves_the_others_whole() -> None:
    script = compose(stream(), Framing(), fault("malformed_event", after=1, body="{oops"))
    assert sent(script) == CHUNKED + chunks(ROLE, ONE, b"data: {oops\n\n", TWO, THREE, FINISH, DONE) + LAST
    assert sum(step.progress for step in script) == 3


def test_a_missing_done_is_all_that_is_missing() -> None:
    script = compose(stream(), Framing(), fault("missing_done"))
    assert sent(script) == CHUNKED + chunks(ROLE, ONE, TWO, THREE, FINISH) + LAST


def test_a_close_delimited_body_ends_with_or_without_close_notify() -> None:
    head = HEAD + b"connection: close\r\n\r\n"
    cut = compose(stream(), Framing(), fault("truncate_tls", after=2))
    assert sent(cut) == head + ROLE + ONE + TWO
    assert ops(cut) == [Op.DROP]
    assert sent(compose(plain(), Framing(), fault("truncate_tls"))) == head + b'{"a"'
    whole = compose(plain(), Framing(), fault("close_delimited"))
    assert sent(whole) == head + b'{"a": 1}'
    assert ops(whole) == [Op.END, Op.CLOSE]


def test_a_connection_closes_after_its_share_of_requests() -> None:
    closing = fault("close_after", after=2)
    assert ops(compose(plain(), Framing(served=1), closing)) == [Op.END]
    last = compose(plain(), Framing(served=2), closing)
    assert ops(last) == [Op.END, Op.CLOSE]
    assert b"connection: close" in sent(last)
    silent = compose(plain(), Framing(served=2), fault("close_after", after=2, announce=False))
    assert ops(silent) == [Op.END, Op.CLOSE]
    assert b"connection: close" not in sent(silent)


def test_raw_bytes_go_out_as_they_are() -> None:
    script = compose(plain(), Framing(), fault("raw", body="HTP/1 \u00ff", how="keep"))
    assert sent(script) == b"HTP/1 \xff"
    assert ops(script) == [Op.END]


@pytest.mark.parametrize(
    "kind", [kind for kind in FaultKind if not kind.value.startswith(("refuse", "bad_", "handshake"))]
)
@pytest.mark.parametrize(
    "framing", [Framing(), Framing(keep_alive=False), Framing(may_chunk=False), Framing(is_head=True)]
)
@pytest.mark.parametrize("answer", [plain, stream])
def test_every_script_ends(kind: FaultKind, framing: Framing, answer: type) -> None:
    made = Fault(kind, body="x" if kind is FaultKind.RAW else None, delay_s=0.5)
    script = compose(answer(), framing, made)
    last = script[-1]
    assert last.op is not Op.SEND or last.times == -1
    assert script[0].wait_s >= 0.5
