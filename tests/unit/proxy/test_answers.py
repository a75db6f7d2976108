"""Answers the gateway makes itself."""

from __future__ import annotations

import h11
import orjson
import pytest

from fastgw.errors import BodyTooLarge, NoNodeAvailable
from fastgw.llm.outcome import Outcome, Verdict
from fastgw.proxy import answers


def read(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """The answer as h11 reads it; nothing may be left over."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "gw")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data == (b"", False)
    return head, body


def test_a_whole_answer() -> None:
    head, body = read(answers.answer(404, b"{}", [(b"x-a", b"1")], keep_alive=True))
    assert (head.status_code, head.reason, body) == (404, b"Not Found", b"{}")
    assert list(head.headers) == [
        (b"content-type", b"application/json"),
        (b"x-a", b"1"),
        (b"content-length", b"2"),
    ]


@pytest.mark.parametrize(
    ("keep_alive", "minor", "expected"), [(True, 1, None), (False, 1, b"close"), (True, 0, b"keep-alive")]
)
def test_what_becomes_of_the_connection(keep_alive: bool, minor: int, expected: bytes | None) -> None:
    head, _ = read(answers.answer(200, b"x", [], keep_alive=keep_alive, minor_version=minor))
    assert dict(head.headers).get(b"connection") == expected


def test_an_answer_to_head_says_how_long_its_body_would_be() -> None:
    head, body = read(answers.answer(200, b"abc", [], keep_alive=True, is_head=True), "HEAD")
    assert dict(head.headers)[b"content-length"] == b"3" and body == b""


def test_an_empty_answer_has_no_type() -> None:
    head, _ = read(answers.answer(200, b"", [], keep_alive=True))
    assert list(head.headers) == [(b"content-length", b"0")]


def test_no_content_has_no_length() -> None:
    head, _ = read(answers.answer(204, b"", [], keep_alive=True))
    assert list(head.headers) == []


@pytest.mark.parametrize("field", [(b"x", b"a\r\nset-cookie: b"), (b"x\r\ny", b"a"), (b"x", b"\x00")])
def test_no_field_ends_its_line(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError):
        answers.answer(200, b"", [field], keep_alive=True)


def test_an_unknown_status_has_some_reason() -> None:
    assert answers.answer(418, b"", [], keep_alive=True).startswith(b"HTTP/1.1 418 Status\r\n")


def test_errors_have_openais_shape() -> None:
    body = orjson.loads(answers.error_body('say "no"', "api_error", None))
    assert body == {"error": {"message": 'say "no"', "type": "api_error", "param": None, "code": None}}
    event = answers.error_event("no", "stream_interrupted")
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n") and event.count(b"\n") == 2
    assert orjson.loads(answers.apisix_error_body("no")) == {"error_msg": "no"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.1, b"2"), (59.5, b"60"), (1e12, b"86400")]
)
def test_retry_after_is_whole_seconds_and_at_least_one(seconds: float, text: bytes) -> None:
    assert answers.retry_after(seconds) == text


def test_a_caller_is_told_whether_to_ask_again() -> None:
    assert answers.retry_fields(3.0, 0) == [(b"retry-after", b"3"), (b"x-should-retry", b"true")]
    assert answers.retry_fields(3.0, 2)[1] == (b"x-should-retry", b"false")
    assert answers.fields_for(NoNodeAvailable(retry_after=2.5)) == [(b"retry-after", b"3")]
    assert answers.fields_for(BodyTooLarge()) == []


JSON = b"application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("status", "verdict", "seen", "code"),
    [
        (401, Verdict.DEAD, 502, "upstream_auth"),
        (402, Verdict.DEAD, 502, "upstream_auth"),
        (403, Verdict.FORBIDDEN, 502, "upstream_auth"),
        (500, Verdict.FAILED, 500, "theirs"),
        (504, Verdict.FAILED, 504, "theirs"),
        (503, Verdict.BUSY, 503, "theirs"),
        (529, Verdict.BUSY, 503, "theirs"),
        (429, Verdict.BUSY, 429, "theirs"),
        (404, Verdict.MISFIT, 404, "theirs"),
        (400, Verdict.REFUSED, 400, "theirs"),
    ],
)
def test_a_nodes_last_word_is_made_true_for_the_caller(
    status: int, verdict: Verdict, seen: int, code: str
) -> None:
    body = b'{"error":{"message":"No.","code":"theirs"}}'
    got, said = answers.refusal(status, JSON, body, Outcome(verdict, "test"))
    assert (got, orjson.loads(said)["error"]["code"]) == (seen, code)


def test_an_empty_account_is_told_as_one() -> None:
    body = (
        b'{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}'
    )
    assert answers.refusal(402, JSON, body, Outcome(Verdict.DEAD, "no_quota")) == (402, body)


@pytest.mark.parametrize(
    "body", [b"", b"<h1>Bad Gateway at 10.0.0.1</h1>", b'{"detail":"10.0.0.1"}', b'{"error":"x"}']
)
def test_a_failure_told_in_another_shape_is_told_in_ours(body: bytes) -> None:
    for status, seen in ((500, 502), (502, 502), (503, 503), (504, 504), (529, 503)):
        got, said = answers.refusal(status, JSON, body, Outcome(Verdict.FAILED, "server_error"))
        assert (got, orjson.loads(said)["error"]["code"]) == (seen, "upstream_error")


def test_a_word_that_is_no_json_is_put_in_openais_shape() -> None:
    status, body = answers.refusal(
        429, b"text/html", b"<h1>slow down at 10.0.0.1</h1>", Outcome(Verdict.BUSY, "x")
    )
    assert status == 429 and orjson.loads(body)["error"]["type"] == "api_error" and b"10.0.0.1" not in body
