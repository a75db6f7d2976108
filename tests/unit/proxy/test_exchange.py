"""One request's life, step by step: what the nodes do, and what the client sees of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from exchange_bench import (
    BODY,
    COMPLETION,
    DONE,
    END,
    ERROR,
    FINISH,
    KEEP_ALIVE,
    ROLE,
    STREAM_BODY,
    STREAM_HEAD,
    Bench,
    FakeNode,
    chunk,
    content,
    dechunked,
    error_response,
    json_response,
    response,
)

from fastgw._core import Cause
from fastgw.balancing.deadlines import Deadlines
from fastgw.errors import ConnectFailed, ConnectTimeout, TlsFailed
from fastgw.proxy.sending import JOIN_BYTES
from fastgw.wire.client_connection import ClientState

Make = Callable[..., Bench]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda *args, **options: Bench(monkeypatch, *args, **options)


def records(bench: Bench) -> list[tuple[str, str]]:
    return [(name, outcome) for name, outcome, _, _ in bench.finished[-1].records]


# --- The plain way ----------------------------------------------------------------------------


def test_an_answer_goes_to_the_client_when_it_is_whole(make: Make) -> None:
    bench = make()
    bench.ask(BODY, "X-Request-Id: mine", "Accept: a/b")
    node = bench.connect()
    request = node.take()
    assert request.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer a\r\n")
    assert request.endswith(b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY))
    whole = json_response(COMPLETION)
    node.say(whole[:-1])
    assert bench.transport.sent == b""
    node.say(whole[-1:])
    answer = bench.answer()
    assert answer.status == 200 and orjson.loads(answer.body) == COMPLETION
    assert answer.fields["x-fastgw-upstream"] == "a"
    assert answer.fields["x-fastgw-attempts"] == "1"
    assert bench.client_state is ClientState.IDLE
    assert bench.pools[0].idle == [node.connection]
    assert records(bench) == [("a", "succeeded")]
    bench.check_end()


@pytest.mark.parametrize(("more", "writes"), [(0, 1), (JOIN_BYTES, 2)])
def test_each_message_is_one_write_unless_its_body_is_large(make: Make, more: int, writes: int) -> None:
    bench = make()
    bench.ask(BODY[:-1] + b" " * more + b"}")
    node = bench.connect()
    assert len(node.transport.written) == writes
    node.say(json_response({**COMPLETION, "id": "x" * more}))
    assert len(bench.transport.written) == writes
    assert len(orjson.loads(bench.answer().body)["id"]) == more
    bench.check_end()


def test_a_stream_goes_to_the_client_from_its_first_content_on(make: Make) -> None:
    bench = make()
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(KEEP_ALIVE), chunk(ROLE))
    assert bench.transport.sent == b""
    node.say(chunk(content("He")))
    assert dechunked(bench.answer().rest) == (ROLE + content("He"), False)
    node.say(chunk(content("llo")), chunk(FINISH), chunk(DONE), END)
    assert dechunked(bench.transport.take()) == (content("llo") + FINISH + DONE, True)
    assert bench.client_state is ClientState.IDLE
    bench.check_end()


def test_a_connection_is_used_again(make: Make) -> None:
    bench = make()
    node = bench.warm()
    for _ in range(3):
        bench.ask()
        node.say(json_response(COMPLETION))
        assert bench.answer().status == 200
    assert node.connection.served == 4 and not bench.pools[0].tickets
    bench.check_end()


@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_to_head_has_no_body(make: Make, status: int) -> None:
    bench = make(is_llm=False)
    bench.ask(b"", method="HEAD", path="/x")
    node = bench.connect()
    node.say(b"HTTP/1.1 %d X\r\nContent-Length: 12\r\n\r\n" % status)
    answer = bench.answer()
    assert (answer.status, answer.rest, answer.fields["content-length"]) == (status, b"", "12")
    assert bench.pools[0].idle == [node.connection] and bench.client_state is ClientState.IDLE
    bench.check_end()


@pytest.mark.parametrize("is_llm", [True, False])
@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_says_nothing_of_one(make: Make, status: int, is_llm: bool) -> None:
    bench = make(is_llm=is_llm)
    bench.ask(b"", method="GET", path="/x")
    bench.connect().say(b"HTTP/1.1 %d X\r\nETag: x\r\n\r\n" % status)
    answer = bench.answer()
    assert (answer.status, answer.rest) == (status, b"")
    assert answer.fields.keys().isdisjoint({"content-length", "transfer-encoding"})
    bench.check_end()


def test_a_body_without_a_length_is_chunked_for_the_client(make: Make) -> None:
    bench = make(is_llm=False)
    bench.ask(b"", method="GET", path="/x")
    node = bench.connect()
    node.say(b"HTTP/1.1 200 X\r\n\r\nab", b"cd")
    node.close()
    answer = bench.answer()
    assert answer.body == b"abcd" and answer.is_whole
    assert bench.client_state is ClientState.IDLE
    bench.check_end()


def test_an_old_client_gets_a_body_that_ends_with_the_connection(make: Make) -> None:
    bench = make(is_llm=False)
    bench.ask(b"", "Connection: keep-alive", method="GET", path="/x", version="1.0")
    node = bench.connect()
    node.say(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"2\r\ncd\r\n0\r\n\r\n")
    answer = bench.answer()
    assert answer.rest == b"abcd" and answer.fields["connection"] == "close"
    assert "transfer-encoding" not in answer.fields
    assert bench.transport.calls == ["close"]
    bench.check_end()


def test_an_old_client_is_kept_where_the_length_is_known(make: Make) -> None:
    bench = make()
    bench.ask(BODY, "Connection: keep-alive", version="1.0")
    bench.connect().say(json_response(COMPLETION))
    answer = bench.answer()
    assert answer.fields["connection"] == "keep-alive" and answer.is_whole
    assert bench.client_state is ClientState.IDLE


@pytest.mark.parametrize("more", [0, JOIN_BYTES])
def test_the_models_name_is_the_nodes(make: Make, more: int) -> None:
    bench = make(models=[("gpt-*", "deepseek-flash")])
    body = b" " * more + BODY
    bench.ask(body)
    bench.dialled().fail(ConnectFailed())
    node = bench.connect(1)
    head, _, sent = node.take().partition(b"\r\n\r\n")
    assert sent == body.replace(b"gpt-4o", b"deepseek-flash")
    assert b"content-length: %d" % len(sent) in head
    node.say(json_response(COMPLETION))
    assert bench.answer().fields["x-fastgw-adapted"] == "model"


# --- Failover ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectFailed, TlsFailed, ConnectTimeout])
def test_a_node_that_cannot_be_reached_is_not_seen(make: Make, error: type[ConnectFailed]) -> None:
    bench = make()
    bench.ask()
    bench.dialled().fail(error())
    bench.connect(1).say(json_response(COMPLETION))
    answer = bench.answer()
    assert (answer.status, answer.fields["x-fastgw-upstream"]) == (200, "b")
    assert answer.fields["x-fastgw-attempts"] == "2"
    assert not bench.nodes[0].is_available(bench.clock.now)
    bench.check_end()


BROKEN: dict[str, Callable[[Any], None]] = {
    "ends at once": lambda node: node.close(),
    "is reset": lambda node: node.reset(),
    "ends inside its head": lambda node: (node.say(b"HTTP/1.1 200 OK\r\nConte"), node.close()),
    "speaks something else": lambda node: node.say(b"SSH-2.0-x\r\n"),
    "ends inside its answer": lambda node: (node.say(json_response(COMPLETION)[:-1]), node.close()),
    "answers nothing": lambda node: node.say(response(200)),
    "answers half": lambda node: node.say(response(200, b'{"choices":[')),
    "answers an error as a success": lambda node: node.say(json_response({"error": {"message": "no"}})),
    "fails": lambda node: node.say(error_response(500)),
    "fails without a word": lambda node: node.say(response(502)),
    "fails and is cut": lambda node: (node.say(error_response(500)[:-4]), node.reset()),
    "is overloaded": lambda node: node.say(error_response(503)),
    "is busy": lambda node: node.say(error_response(429, "rate_limit_exceeded", "Retry-After: 7")),
    "knows no such key": lambda node: node.say(error_response(401)),
    "wants money": lambda node: node.say(error_response(402)),
    "knows no such model": lambda node: node.say(error_response(404, "model_not_found")),
    "streams an error": lambda node: node.say(STREAM_HEAD, chunk(ERROR)),
    "streams an error after its role": lambda node: node.say(STREAM_HEAD, chunk(ROLE), chunk(ERROR)),
    "streams nothing": lambda node: node.say(STREAM_HEAD, END),
    "streams only comments": lambda node: node.say(STREAM_HEAD, chunk(KEEP_ALIVE), END),
    "ends before its first content": lambda node: (node.say(STREAM_HEAD, chunk(ROLE)), node.close()),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_node_breaks_another_one_mends(make: Make, name: str) -> None:
    for body in (BODY, STREAM_BODY):
        bench = make()
        bench.ask(body)
        BROKEN[name](bench.connect())
        assert bench.transport.sent == b""
        bench.connect(1).say(json_response(COMPLETION))
        answer = bench.answer()
        assert (answer.status, answer.fields["x-fastgw-upstream"]) == (200, "b")
        assert orjson.loads(answer.body) == COMPLETION
        assert len(records(bench)) == 2 and records(bench)[1] == ("b", "succeeded")
        bench.check_end()


def test_a_request_that_may_not_run_twice_is_not_repeated(make: Make) -> None:
    bench = make()
    bench.ask(b"{}", path="/v1/files")
    bench.connect().reset()
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
    assert answer.fields["x-should-retry"] == "false" and int(answer.fields["retry-after"]) >= 1
    assert not bench.pools[1].tickets
    bench.check_end()


def test_a_request_that_may_not_run_twice_still_moves_when_it_has_not_run(make: Make) -> None:
    bench = make()
    bench.ask(b"{}", path="/v1/files")
    bench.dialled().fail(ConnectFailed())
    bench.connect(1).say(json_response({"id": "f"}))
    assert bench.answer().status == 200


def test_an_uncertain_request_is_repeated_once_only(make: Make) -> None:
    bench = make(3)
    bench.ask()
    bench.connect().reset()
    bench.connect(1).reset()
    assert bench.answer().status == 502
    assert not bench.pools[2].tickets and bench.exchanges.uncertain_replays == 1
    bench.check_end()


def test_a_certain_refusal_does_not_use_up_the_one_replay(make: Make) -> None:
    bench = make(4)
    bench.ask()
    bench.connect().say(error_response(429))
    bench.connect(1).reset()
    bench.connect(2).say(error_response(429))
    bench.connect(3).say(json_response(COMPLETION))
    assert bench.answer().fields["x-fastgw-attempts"] == "4"


@pytest.mark.parametrize(
    ("status", "code"), [(400, ""), (413, ""), (422, ""), (400, "context_length_exceeded")]
)
def test_the_callers_own_mistake_is_told_and_not_moved(make: Make, status: int, code: str) -> None:
    bench = make()
    bench.ask()
    node = bench.connect()
    node.say(error_response(status, code))
    answer = bench.answer()
    assert answer.status == status and orjson.loads(answer.body)["error"]["message"] == "no"
    assert not bench.pools[1].tickets
    assert bench.nodes[0].is_available(bench.clock.now)
    assert bench.pools[0].idle == [node.connection]
    bench.check_end()


def test_a_connection_that_was_closed_while_it_was_idle_costs_nothing(make: Make) -> None:
    bench = make()
    stale, elder = bench.warm(), bench.warm()
    bench.ask(b"{}", path="/v1/files")  # not even a request that may not run twice
    elder.close()
    assert stale.is_cut and bench.exchanges.stale_reuses == 1
    node = bench.connect()
    assert node.take().startswith(b"POST /v1/files")
    node.say(json_response({"id": "f"}))
    answer = bench.answer()
    assert (answer.status, answer.fields["x-fastgw-attempts"]) == (200, "1")
    assert records(bench) == [("a", "succeeded")]
    bench.check_end()


def test_the_fresh_connection_is_tried_once_only(make: Make) -> None:
    bench = make()
    stale = bench.warm()
    bench.ask()
    stale.reset()
    bench.connect().reset()
    bench.connect(1).say(json_response(COMPLETION))
    assert bench.answer().fields["x-fastgw-attempts"] == "2"
    bench.check_end()


@pytest.mark.parametrize("sign", ["late", "byte"])
def test_a_reused_connection_that_showed_life_was_not_stale(make: Make, sign: str) -> None:
    bench = make()
    node = bench.warm()
    bench.ask()
    if sign == "late":
        bench.clock.now += 1.5
    else:
        node.say(b"H")
    node.reset()
    assert bench.exchanges.stale_reuses == 0
    assert len(bench.pools[1].tickets) == 1


def test_all_nodes_down_is_a_clear_error(make: Make) -> None:
    bench = make()
    bench.ask()
    bench.dialled().fail(ConnectFailed())
    bench.dialled(1).fail(ConnectTimeout())
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert answer.fields["x-should-retry"] == "false"
    assert bench.client_state is ClientState.IDLE
    bench.check_end()


def test_the_last_refusal_is_the_answer(make: Make) -> None:
    bench = make()
    bench.ask()
    bench.connect().reset()
    bench.connect(1).say(error_response(429, "rate_limit_exceeded", "Retry-After: 7"))
    answer = bench.answer()
    assert answer.status == 429 and int(answer.fields["retry-after"]) >= 1
    bench.check_end()


def test_our_own_refused_key_is_not_the_callers(make: Make) -> None:
    bench = make(1)
    bench.ask()
    bench.connect().say(error_response(401, "invalid_api_key"))
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_auth")


def test_the_callers_own_key_is_the_callers(make: Make) -> None:
    bench = make(passthrough=True)
    bench.ask()
    bench.connect().say(error_response(401, "invalid_api_key"))
    assert bench.answer().status == 401
    assert bench.nodes[0].is_available(bench.clock.now) and not bench.pools[1].tickets


REPEATED = "got secret-of-a, sk-0123456789, secret-of-b"
MASKED = "got ***********, sk-**********, secret-of-b"
QUOTING = {"error": {"message": REPEATED, "type": "invalid_request_error", "code": None}}
EVENT = b"data: " + orjson.dumps(QUOTING) + b"\n\n"


@pytest.mark.parametrize(
    "said",
    [
        [json_response(QUOTING, 422)],
        [json_response(QUOTING, 429)],
        [json_response(QUOTING, 500)],
        [json_response(QUOTING)],
        [json_response({**QUOTING, "more": "x" * 70_000}, 422)],
        [b"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(orjson.dumps(QUOTING)), END],
        [STREAM_HEAD, chunk(EVENT), END],
        [STREAM_HEAD, chunk(ROLE), chunk(content("x")), chunk(EVENT), END],
        [STREAM_HEAD, chunk(content("x")), chunk(EVENT[:50]), chunk(EVENT[50:]), END],
        [STREAM_HEAD, chunk(content("x")), chunk(EVENT[:-2]), END],
    ],
)
def test_a_node_that_repeats_our_key_does_not_tell_it_to_the_caller(make: Make, said: list[bytes]) -> None:
    bench = make(1)
    bench.ask(STREAM_BODY)
    bench.connect().say(*said)
    got = bench.transport.take()
    assert MASKED.encode() in got and b"secret-of-a" not in got and b"sk-0" not in got
    bench.check_end()


@pytest.mark.parametrize("status", [404, 503])
@pytest.mark.parametrize("head", [b"Content-Length: %d", b"Transfer-Encoding: chunked"])
def test_of_a_plain_nodes_error_only_what_is_known_to_be_ours_is_masked(
    make: Make, status: int, head: bytes
) -> None:
    bench = make(1, is_llm=False)
    bench.ask(b"", method="GET", path="/x")
    body = REPEATED.encode()
    is_chunked = b"chunked" in head
    said = b"HTTP/1.1 %d X\r\n%b\r\n\r\n" % (status, head if is_chunked else head % len(body))
    bench.connect().say(said, chunk(body) + END if is_chunked else body)
    answer = bench.answer()
    assert answer.status == status and answer.is_whole
    assert answer.body == b"got ***********, sk-0123456789, secret-of-b"
    bench.check_end()


def test_a_success_is_passed_on_as_it_is_whatever_is_in_it(make: Make) -> None:
    bench = make()
    bench.ask()
    whole = {"id": "c-1", "object": "chat.completion", "choices": [{"message": {"content": REPEATED}}]}
    bench.connect().say(json_response(whole))
    assert orjson.loads(bench.answer().body) == whole


def test_a_plain_nodes_error_is_passed_on_as_it_is(make: Make) -> None:
    bench = make(1, is_llm=False)
    bench.ask(b"", method="GET", path="/x")
    bench.connect().say(response(503, b"<p>later</p>", "Content-Type: text/html", "Retry-After: 3"))
    answer = bench.answer()
    assert (answer.status, answer.body) == (503, b"<p>later</p>")
    assert answer.fields["content-type"] == "text/html" and answer.fields["retry-after"] == "3"
    bench.check_end()


# --- After the commit -------------------------------------------------------------------------


def begun(make: Make, *said: bytes, **options: Any) -> tuple[Bench, Any]:
    """A stream whose first content is with the client."""
    bench = make(**options)
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(ROLE + content("He")))
    bench.transport.take()
    node.say(*said)
    return bench, node


def ended_honestly(bench: Bench, code: str, before: bytes = b"") -> None:
    """The client got ``before``, an error event, and no end."""
    got, is_whole = dechunked(bench.transport.take())
    assert not is_whole
    assert got.startswith(before)
    event = got[len(before) :]
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    assert orjson.loads(event[6:])["error"]["code"] == code
    assert b"[DONE]" not in got
    assert bench.transport.calls == ["close"]
    assert bench.finished[-1].note == code
    bench.check_end()


@pytest.mark.parametrize("how", ["close", "reset", "nonsense", "clean end"])
def test_a_stream_that_breaks_off_ends_honestly(make: Make, how: str) -> None:
    bench, node = begun(make, chunk(content("llo")))
    if how == "nonsense":
        node.say(b"nonsense")
    elif how == "clean end":
        node.say(END)
    else:
        getattr(node, how)()
    ended_honestly(bench, "stream_interrupted", content("llo"))
    assert not bench.pools[1].tickets


def test_half_an_event_never_reaches_the_client(make: Make) -> None:
    for end in ("reset", "clean end"):
        bench, node = begun(make, chunk(content("llo") + content("!")[:-9]))
        node.say(END) if end == "clean end" else node.reset()
        ended_honestly(bench, "stream_interrupted", content("llo"))


def test_an_event_may_come_in_pieces(make: Make) -> None:
    bench, node = begun(make)
    event = content("lo")
    node.say(chunk(event[:7]), chunk(event[7:20])[:4], chunk(event[7:20])[4:])
    assert bench.transport.sent == b""
    node.say(chunk(event[20:] + FINISH))
    assert dechunked(bench.transport.take()) == (event + FINISH, False)


def test_an_error_event_is_passed_on_and_nothing_after_it(make: Make) -> None:
    bench, node = begun(make, chunk(content("l") + ERROR + content("x") + DONE))
    got, is_whole = dechunked(bench.transport.take())
    assert (got, is_whole) == (content("l") + ERROR, False)
    assert bench.transport.calls == ["close"] and node.is_cut
    assert bench.finished[-1].note == "stream_error"
    bench.check_end()


def test_one_malformed_event_is_dropped_and_many_end_the_stream(make: Make) -> None:
    bad = b"data: {bad\n\n"
    bench, node = begun(make, chunk(bad + content("l")), chunk(bad), chunk(bad))
    assert dechunked(bench.transport.take()) == (content("l"), False)
    node.say(chunk(content("o") + bad + content("never")))
    ended_honestly(bench, "stream_interrupted", content("o"))
    assert bench.exchanges.malformed_events == 4


def test_a_stream_without_its_last_word_is_whole_all_the_same(make: Make) -> None:
    bench, node = begun(make, chunk(FINISH), END)
    assert dechunked(bench.transport.take()) == (FINISH, True)
    assert bench.client_state is ClientState.IDLE and bench.pools[0].idle == [node.connection]
    bench.check_end()


def test_a_long_answer_that_breaks_off_has_no_end(make: Make) -> None:
    bench = make(hold_answer_bytes=10)
    bench.ask()
    node = bench.connect()
    node.say(json_response(COMPLETION)[:-3])
    assert bench.transport.sent.startswith(b"HTTP/1.1 200")
    node.reset()
    answer = bench.answer()
    assert not answer.is_whole and bench.transport.calls == ["close"]
    bench.check_end()


def test_where_closing_is_the_end_a_broken_answer_is_reset(make: Make) -> None:
    bench = make(is_llm=False)
    bench.ask(b"", method="GET", path="/x", version="1.0")
    node = bench.connect()
    node.say(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    node.reset()
    assert bench.transport.calls == ["abort"]
    bench.check_end()


def test_more_than_the_declared_length_is_cut_off(make: Make) -> None:
    bench = make(is_llm=False)
    bench.ask(b"", method="GET", path="/x")
    node = bench.connect()
    node.say(response(200, b"abc") + b"HTTP/1.1 200 OK\r\n\r\nsmuggled")
    answer = bench.answer()
    assert answer.body == b"abc" and node.transport.calls == ["close"] and not bench.pools[0].idle
    bench.check_end()


# --- The client leaves ------------------------------------------------------------------------


def phases() -> dict[str, Callable[[Bench], Any]]:
    def holding(bench: Bench) -> Any:
        node = bench.connect()
        node.say(STREAM_HEAD, chunk(ROLE))
        return node

    def refused(bench: Bench) -> Any:
        node = bench.connect()
        node.say(error_response(500)[:-3])
        return node

    def relaying(bench: Bench) -> Any:
        node = bench.connect()
        node.say(STREAM_HEAD, chunk(content("He")))
        return node

    return {
        "connecting": lambda bench: None,
        "waiting": lambda bench: bench.connect(),
        "holding": holding,
        "refused": refused,
        "relaying": relaying,
    }


@pytest.mark.parametrize("phase", phases())
@pytest.mark.parametrize("how", ["eof", "reset"])
def test_a_client_that_leaves_stops_everything_at_once(make: Make, phase: str, how: str) -> None:
    bench = make()
    bench.ask(STREAM_BODY)
    node = phases()[phase](bench)
    bench.client.eof_received() if how == "eof" else bench.client.connection_lost(ConnectionResetError())
    assert bench.finished[-1].note == f"client_gone_{phase}"
    if node is None:
        assert bench.dialled().is_cancelled
    else:
        assert node.is_cut
    assert bench.exchanges.client_gone == 1
    assert bench.nodes[0].is_available(bench.clock.now)
    assert bench.nodes[0].counters["tcp_failure"] == bench.nodes[0].counters["http_failure"] == 0
    bench.client.connection_lost(None)
    bench.check_end()
    bench.wait(1000.0)


def test_a_client_that_leaves_inside_its_body_is_forgotten(make: Make) -> None:
    bench = make()
    bench.client.data_received(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nabc"
    )
    assert bench.exchanges.held_bytes == 3
    bench.client.eof_received()
    assert bench.finished[-1].note == "client_gone_reading" and bench.finished[-1].status == 499
    bench.check_end()


def test_a_connection_that_comes_too_late_goes_to_the_pool(make: Make) -> None:
    bench = make()
    bench.ask()
    ticket = bench.dialled()
    bench.client.eof_received()
    ticket.is_cancelled = False  # it was made in this very moment
    node = ticket.connect()
    assert bench.pools[0].idle == [node.connection] and not bench.pools[0].busy


# --- Bodies -----------------------------------------------------------------------------------

SMALL = {"hold_body_bytes": 100, "hold_total_bytes": 1000, "max_body_bytes": 400}


def test_what_is_held_is_counted_and_given_back_at_the_commit(make: Make) -> None:
    bench = make()
    bench.ask(STREAM_BODY)
    assert bench.exchanges.held_bytes == len(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(ROLE))
    assert bench.exchanges.held_bytes == len(STREAM_BODY)
    node.say(chunk(content("x")))
    assert bench.exchanges.held_bytes == 0


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_too_large_to_hold_goes_through_once(make: Make, is_chunked: bool) -> None:
    bench = make(limits=SMALL)
    pieces = [b"x" * 90, b"y" * 90, b"z" * 90]
    framing = "Transfer-Encoding: chunked" if is_chunked else "Content-Length: 270"
    bench.client.data_received(f"POST /v1/files HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
    send = chunk if is_chunked else bytes
    bench.client.data_received(send(pieces[0]))
    assert bool(bench.pools[0].tickets) is not is_chunked  # a length says it at once
    bench.client.data_received(send(pieces[1]))
    assert bench.transport.is_reading is is_chunked
    node = bench.connect()
    head, _, body = node.take().partition(b"\r\n\r\n")
    assert (b"transfer-encoding: chunked" in head) is is_chunked
    assert bench.transport.is_reading and bench.exchanges.held_bytes == 0
    bench.client.data_received(send(pieces[2]) + (END if is_chunked else b""))
    body += node.take()
    assert (dechunked(body) if is_chunked else (body, True)) == (b"".join(pieces), True)
    node.say(json_response({"id": "f"}))
    assert bench.answer().status == 200 and bench.finished[-1].note == "body_not_held"
    assert bench.pools[0].idle == [node.connection] and bench.client_state is ClientState.IDLE
    bench.check_end()


def test_the_end_of_a_body_that_came_before_the_connection_is_sent(make: Make) -> None:
    bench = make(limits=SMALL)
    bench.client.data_received(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    bench.client.data_received(chunk(b"x" * 120))
    bench.client.data_received(chunk(b"y" * 20) + END)
    node = bench.connect()
    body = node.take().partition(b"\r\n\r\n")[2]
    assert dechunked(body) == (b"x" * 120 + b"y" * 20, True)
    node.say(json_response({"id": "f"}))
    assert bench.pools[0].idle == [node.connection]
    bench.check_end()


def test_a_body_too_large_to_hold_moves_while_nothing_of_it_was_sent(make: Make) -> None:
    bench = make(limits=SMALL)
    bench.ask(b"x" * 150, path="/v1/files")
    bench.dialled().fail(ConnectFailed())
    node = bench.connect(1)
    assert node.take().endswith(b"x" * 150)
    node.reset()
    assert bench.answer().status == 502
    bench.check_end()


def test_an_early_answer_ends_a_body_that_still_goes_up(make: Make) -> None:
    bench = make(limits=SMALL)
    bench.client.data_received(
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n" + b"x" * 90
    )
    node = bench.connect()
    node.say(error_response(413))
    answer = bench.answer()
    assert answer.status == 413 and answer.fields["connection"] == "close"
    assert bench.client_state is ClientState.LINGERING
    assert node.is_cut and not bench.pools[0].idle  # half a request is on it
    bench.client.data_received(b"x" * 90)
    bench.check_end()


def test_a_slow_node_stops_the_client_and_is_given_up_in_the_end(make: Make) -> None:
    bench = make(limits=SMALL, deadlines=Deadlines(node_write_s=30.0))
    bench.client.data_received(
        b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n" + b"x" * 90
    )
    node = bench.connect()
    node.connection.pause_writing()
    bench.client.data_received(b"x" * 90)
    assert not bench.transport.is_reading
    node.connection.resume_writing()
    assert bench.transport.is_reading
    node.connection.pause_writing()
    bench.client.data_received(b"x" * 90)
    bench.wait(29.0)
    assert bench.exchanges.live
    bench.wait(1.0)
    assert bench.answer().status == 504 and node.is_cut
    bench.check_end()


@pytest.mark.parametrize("is_connected", [False, True])
def test_a_body_over_the_limit_is_refused_while_it_comes(make: Make, is_connected: bool) -> None:
    bench = make(limits=SMALL)
    bench.client.data_received(b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    bench.client.data_received(chunk(b"x" * 300))
    node = bench.connect() if is_connected else None
    bench.client.data_received(chunk(b"x" * 101))
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert node.is_cut if node is not None else bench.dialled().is_cancelled
    assert bench.client_state is ClientState.LINGERING
    bench.check_end()


# --- Flow control -----------------------------------------------------------------------------


def test_a_slow_client_stops_the_node(make: Make) -> None:
    bench, node = begun(make)
    bench.client.pause_writing()
    node.say(chunk(content("x")))
    assert not node.transport.is_reading
    bench.wait(100.0)  # neither idle nor without progress: it is the client who is slow
    assert bench.exchanges.live
    bench.client.resume_writing()
    assert node.transport.is_reading
    bench.wait(59.0)
    node.say(chunk(FINISH + DONE), END)
    assert bench.client_state is ClientState.IDLE
    bench.check_end()


def test_a_client_that_takes_nothing_is_given_up(make: Make) -> None:
    bench, node = begun(make)
    bench.client.pause_writing()
    node.say(chunk(content("x")))
    bench.wait(120.0)
    assert bench.transport.calls == ["abort"]
    bench.client.connection_lost(None)
    assert node.is_cut and bench.finished[-1].note == "client_stalled"
    assert bench.nodes[0].is_available(bench.clock.now)
    bench.check_end()


# --- Deadlines --------------------------------------------------------------------------------


def test_a_node_that_is_not_reached_in_time_is_left(make: Make) -> None:
    bench = make(deadlines=Deadlines(connect_s=2.0))
    bench.ask()
    assert bench.dialled().timeout_s == 2.0
    bench.wait(2.4)
    assert not bench.pools[1].tickets
    bench.wait(0.2)
    assert bench.pools[0].tickets[0].is_cancelled
    bench.connect(1).say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()


def test_a_silent_node_is_left(make: Make) -> None:
    bench = make(deadlines=Deadlines(head_stream_s=30.0))
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(b"HTTP/1.1 200 OK\r\n")  # a head that drips is no head
    bench.wait(30.0)
    assert node.is_cut
    bench.connect(1).say(STREAM_HEAD, chunk(content("x") + FINISH + DONE), END)
    assert bench.answer().is_whole
    assert records(bench)[0] == ("a", "upstream_timeout")
    bench.check_end()


def test_a_node_that_only_breathes_is_left(make: Make) -> None:
    bench = make(deadlines=Deadlines(first_content_stream_s=60.0))
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD)
    for _ in range(6):
        node.say(chunk(KEEP_ALIVE))
        bench.wait(10.0)
    assert node.is_cut and len(bench.pools[1].tickets) == 1
    assert bench.transport.sent == b""


def test_a_nodes_error_is_not_waited_for_for_long(make: Make) -> None:
    bench = make()
    bench.ask()
    node = bench.connect()
    node.say(error_response(500)[:-3])
    bench.wait(5.0)
    assert node.is_cut and len(bench.pools[1].tickets) == 1


@pytest.mark.parametrize("kind", ["silence", "comments"])
def test_a_stream_that_stalls_ends_honestly(make: Make, kind: str) -> None:
    bench, node = begun(make, deadlines=Deadlines(progress_s=60.0, idle_s=120.0))
    before = b""
    for _ in range(6):
        if kind == "comments":
            node.say(chunk(KEEP_ALIVE))
            before += KEEP_ALIVE
        bench.wait(10.0)
    ended_honestly(bench, "stream_stalled", before)
    assert node.is_cut


def test_the_whole_request_has_a_time(make: Make) -> None:
    bench, node = begun(make, deadlines=Deadlines(total_s=100.0))
    for _ in range(9):
        bench.wait(10.0)
        node.say(chunk(content("x")))
    bench.transport.take()
    bench.wait(10.0)
    ended_honestly(bench, "deadline_exceeded")
    assert bench.nodes[0].is_available(bench.clock.now)


def test_all_but_the_last_attempt_take_half_of_the_time(make: Make) -> None:
    bench = make(3, deadlines=Deadlines(total_s=100.0, head_s=1000.0))
    bench.ask(b"", method="GET", path="/v1/models")
    node = bench.connect()
    bench.wait(49.9)
    assert not node.is_cut
    bench.wait(0.1)
    assert node.is_cut and len(bench.pools[1].tickets) == 1


def test_a_drain_that_is_over_ends_everything_honestly(make: Make) -> None:
    bench, _ = begun(make)
    bench.exchanges.interrupt_all()
    ended_honestly(bench, "shutting_down")
    bench = make()
    bench.ask()
    node = bench.connect()
    bench.exchanges.interrupt_all()
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (503, "shutting_down")
    assert node.is_cut
    bench.check_end()


def test_a_node_found_out_by_others_is_left_at_once(make: Make) -> None:
    bench = make()
    bench.ask()
    node = bench.connect()
    other = bench.upstream.start_attempt(bench.clock.now)
    assert other is not None
    other.failed(2, bench.clock.now, True)
    bench.wait(0.05)
    assert node.is_cut and len(bench.pools[1].tickets) == 1
    bench.connect(1).say(json_response(COMPLETION))
    assert bench.answer().status == 200
    assert records(bench)[0][0] == "a"
    bench.check_end()


@pytest.mark.parametrize("others", ["none", "dead", "ejected", "on trial"])
def test_a_node_found_out_by_others_is_waited_for_where_no_other_is_well(make: Make, others: str) -> None:
    bench = make(1 if others == "none" else 2)
    bench.ask()
    for node in bench.nodes[1:]:
        if others == "dead":
            node.kill(bench.clock.now + 1.0)
        else:
            node.eject(bench.clock.now + (1.0 if others == "ejected" else 0.0), Cause.PASSIVE)
    only = bench.connect()
    other = bench.upstream.start_attempt(bench.clock.now)
    assert other is not None
    other.failed(2, bench.clock.now, True)
    bench.wait(0.05)
    assert not only.is_cut
    only.say(json_response(COMPLETION))
    assert bench.answer().status == 200
    assert records(bench) == [("a", "succeeded")]
    bench.check_end()


# --- Requests that never reach a node ---------------------------------------------------------


def test_a_model_named_twice_is_refused(make: Make) -> None:
    bench = make()
    bench.ask(b'{"model":"a","model":"b"}')
    assert (bench.answer().status, bench.client_state) == (400, ClientState.IDLE)
    bench.check_end()


def test_a_route_without_an_upstream_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, 0)
    bench.ask()
    assert bench.answer().status == 503
    bench.check_end()


# --- A caller in a hurry ----------------------------------------------------------------------


@pytest.mark.parametrize("seconds", ["0.01", "2"])
def test_a_caller_in_a_hurry_is_no_fault_of_the_nodes(make: Make, seconds: str) -> None:
    for is_connected in (False, True):
        bench = make()
        bench.ask(BODY, f"x-stainless-read-timeout: {seconds}")
        if is_connected:
            bench.connect()
        bench.wait(1.0)
        bench.wait(1.0)
        assert bench.answer().status == 504
        assert all(node.is_available(bench.clock.now) for node in bench.nodes)
        assert all(sum(node.counters.values()) == 0 for node in bench.nodes)
        bench.check_end()


# --- Whatever is wrong before anything was sent -----------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        chunk(content("x") + ERROR),
        chunk(content("x")) + END,
        chunk(b"data: {x\n\n" * 4 + content("x") + FINISH),
    ],
)
def test_a_first_read_that_is_broken_behind_its_content_is_not_seen(make: Make, said: bytes) -> None:
    bench = make()
    bench.ask(STREAM_BODY)
    bench.connect().say(STREAM_HEAD + said)
    assert bench.transport.sent == b""
    bench.connect(1).say(STREAM_HEAD + chunk(content("x") + FINISH + DONE) + END)
    assert bench.answer().is_whole and bench.exchanges.uncertain_replays == 1
    bench.check_end()


def test_a_node_found_out_while_it_is_dialled_has_not_run_anything(make: Make) -> None:
    bench = make()
    bench.ask(b"{}", path="/v1/files")
    other = bench.upstream.start_attempt(bench.clock.now)
    assert other is not None
    other.failed(2, bench.clock.now, True)
    bench.wait(0.05)
    bench.connect(1).say(json_response({"id": "f"}))
    assert bench.answer().status == 200 and bench.exchanges.uncertain_replays == 0
    bench.check_end()


def test_a_node_that_does_not_take_a_held_body_is_left(make: Make) -> None:
    bench = make(deadlines=Deadlines(node_write_s=30.0, head_s=120.0))
    bench.ask()
    ticket = bench.dialled()
    node = FakeNode(ticket.pool)
    bench.pools[0].busy.add(node.connection)
    node.transport.on_write = node.connection.pause_writing
    ticket.exchange.on_node_connected(node.connection)
    bench.wait(29.0)
    assert not node.is_cut
    bench.wait(1.0)
    assert node.is_cut
    bench.wait(4.0)  # which the next one has for itself
    bench.connect(1).say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()


def test_a_compressed_stream_is_passed_on_unseen(make: Make) -> None:
    bench = make()
    bench.ask(STREAM_BODY)
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    bench.connect().say(head + chunk(b"\x1f\x8b\x08" + b"\xaa" * 50) + END)
    answer = bench.answer()
    assert answer.is_whole and answer.body.startswith(b"\x1f\x8b")
    bench.check_end()


# --- A plain node's errors --------------------------------------------------------------------


def test_half_of_an_error_is_not_passed_on_as_the_whole(make: Make) -> None:
    bench = make(1, is_llm=False)
    bench.ask(b"", method="GET", path="/x")
    node = bench.connect()
    node.say(response(503, b"x" * 100)[:-50])
    node.reset()
    answer = bench.answer()
    assert answer.status == 503 and answer.error["code"] == "upstream_error"


def test_an_error_to_head_says_how_long_its_body_would_be(make: Make) -> None:
    bench = make(1, is_llm=False)
    bench.ask(b"", method="HEAD", path="/x")
    bench.connect().say(b"HTTP/1.1 503 X\r\nContent-Length: 12\r\n\r\n")
    answer = bench.answer()
    assert (answer.status, answer.fields["content-length"], answer.rest) == (503, "12", b"")


def test_a_method_rewritten_to_head_has_no_body_to_wait_for(make: Make) -> None:
    bench = make(is_llm=False)
    bench.client.data_received(b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
    bench.live[-1].method = b"HEAD"
    bench.client.data_received(b"x")
    bench.connect().say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    answer = bench.answer()
    assert answer.status == 200 and answer.is_whole
    bench.check_end()


@pytest.mark.loop_errors
def test_one_broken_exchange_does_not_stop_the_clock_of_the_others(make: Make) -> None:
    class Broken:
        def __init__(self, bench: Bench) -> None:
            self.client = bench.listener.make_connection()

        def on_tick(self, now: float) -> None:
            raise ZeroDivisionError

    async def run() -> None:
        reported: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        bench = make(deadlines=Deadlines(connect_s=1.0))
        bench.ask()
        bench.exchanges.live |= {Broken(bench) for _ in range(8)}  # type: ignore[misc]
        bench.wait(5.0)
        assert len(bench.pools[1].tickets) == 1 and len(reported) == 8

    asyncio.run(run())


# --- Bodies that are not held, wherever they are cut ------------------------------------------

LONG_BODY = chunk(b"x" * 20) + chunk(b"GET /admin HTTP/1.1") + END


@pytest.mark.parametrize("at", range(1, len(LONG_BODY)))
def test_a_read_without_content_is_no_last_chunk(make: Make, at: int) -> None:
    """Else what follows would stand on the node's connection as another request."""
    bench = make(1, limits={"hold_body_bytes": 8})
    node = None
    bench.client.data_received(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for piece in (LONG_BODY[:at], LONG_BODY[at:]):
        bench.client.data_received(piece)
        if node is None and bench.pools[0].tickets:
            node = bench.connect()
    assert node is not None
    head, _, sent = node.take().partition(b"\r\n\r\n")
    whole = b"x" * 20 + b"GET /admin HTTP/1.1"
    if b"content-length" in head:  # it was complete before there was too much of it
        assert sent == whole and b"content-length: %d" % len(whole) in head
    else:
        assert dechunked(sent) == (whole, True)
        assert sent.count(END) == 1 and sent.endswith(END)
    node.say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()
