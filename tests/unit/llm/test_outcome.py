"""The table of outcomes, row by row, and how long a provider asks to wait."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.llm.outcome import (
    TABLE,
    Outcome,
    Rule,
    Verdict,
    classify,
    classify_error_event,
    read_error,
    table_text,
    wait_of,
)

NOW = 1_795_000_000.0  # Wed, 18 Nov 2026 11:06:40 GMT


def error(message: str = "x", **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message} | fields}).encode()


# status, body, verdict, reason
ROWS: list[tuple[int, bytes, Verdict, str]] = [
    (200, b"", Verdict.SUCCEEDED, "ok"),
    (204, b"", Verdict.SUCCEEDED, "ok"),
    (400, error(type="invalid_request_error"), Verdict.CALLER, "caller_error"),
    (400, b"", Verdict.CALLER, "caller_error"),
    (409, b"", Verdict.CALLER, "caller_error"),
    (413, b"", Verdict.CALLER, "caller_error"),
    (415, b"", Verdict.CALLER, "caller_error"),
    (422, error("missing field `messages`"), Verdict.CALLER, "caller_error"),
    (400, error("you must provide a model parameter"), Verdict.CALLER, "caller_error"),
    (400, error(code="content_policy_violation"), Verdict.CALLER, "content_policy"),
    (400, error("Content Exists Risk"), Verdict.CALLER, "content_policy"),
    (307, b"", Verdict.CALLER, "redirect"),
    (401, b"", Verdict.DEAD, "bad_key"),
    (401, error(code="invalid_api_key"), Verdict.DEAD, "bad_key"),
    (400, error("Incorrect API key provided: x***"), Verdict.DEAD, "bad_key"),
    (402, b"", Verdict.DEAD, "no_quota"),
    (402, error("Insufficient Balance"), Verdict.DEAD, "no_quota"),
    (403, b"", Verdict.FORBIDDEN, "forbidden"),
    (403, b"<html>", Verdict.FORBIDDEN, "forbidden"),
    (403, error(code="unsupported_country_region_territory"), Verdict.DEAD, "unsupported_region"),
    (404, b"", Verdict.MISFIT, "not_found"),
    (404, error(code="model_not_found"), Verdict.MISFIT, "unknown_model"),
    (403, error(code="model_not_found"), Verdict.MISFIT, "unknown_model"),
    (400, error("Model Not Exist", type="invalid_request_error"), Verdict.MISFIT, "unknown_model"),
    (400, error("invalid model ID", param="model"), Verdict.MISFIT, "unknown_model"),
    (
        400,
        error("The `reasoning_content` in the thinking mode must be passed back to the API."),
        Verdict.MISFIT,
        "unsupported_capability",
    ),
    (
        422,
        error("messages[0]: unknown variant `image_url`, expected `text`"),
        Verdict.MISFIT,
        "unsupported_capability",
    ),
    (405, b"", Verdict.MISFIT, "unsupported_method"),
    (501, b"", Verdict.MISFIT, "unsupported_method"),
    (
        429,
        error("Request too large for gpt-5", code="rate_limit_exceeded"),
        Verdict.MISFIT,
        "request_over_limit",
    ),
    (400, error(code="context_length_exceeded"), Verdict.REFUSED, "context_length"),
    (400, error("This model's maximum context length is 8 tokens"), Verdict.REFUSED, "context_length"),
    (429, b"", Verdict.BUSY, "rate_limited"),
    (429, error(code="rate_limit_exceeded", type="tokens"), Verdict.BUSY, "rate_limited"),
    (429, error(code="slow_down", type="rate_limit_error"), Verdict.BUSY, "rate_limited"),
    (429, error(code="insufficient_quota", type="insufficient_quota"), Verdict.DEAD, "no_quota"),
    (429, error(type="insufficient_quota", code="credit_balance_exhausted"), Verdict.DEAD, "no_quota"),
    (429, error("You exceeded your current quota, please check"), Verdict.DEAD, "no_quota"),
    (503, b"", Verdict.BUSY, "overloaded"),
    (503, error(code="slow_down"), Verdict.BUSY, "overloaded"),
    (529, b"", Verdict.BUSY, "overloaded"),
    (500, error(code="server_is_overloaded"), Verdict.BUSY, "overloaded"),
    (408, b"", Verdict.FAILED, "provider_timeout"),
    (421, b"", Verdict.FAILED, "connection_refused_by_status"),
    (425, b"", Verdict.FAILED, "connection_refused_by_status"),
    (407, b"", Verdict.FAILED, "bad_gateway_setup"),
    (500, b"", Verdict.FAILED, "server_error"),
    (500, error(type="server_error"), Verdict.FAILED, "server_error"),
    (502, b"<html>", Verdict.FAILED, "bad_gateway"),
    (504, b"", Verdict.FAILED, "bad_gateway"),
    (520, b"", Verdict.FAILED, "bad_gateway"),
    (526, b"", Verdict.FAILED, "bad_gateway"),
    (599, b"", Verdict.FAILED, "server_error"),
    (101, b"", Verdict.FAILED, "unexpected_status"),
    (0, b"", Verdict.FAILED, "unexpected_status"),
    (999, b"", Verdict.FAILED, "unexpected_status"),
    (-1, b"", Verdict.FAILED, "unexpected_status"),
]


@pytest.mark.parametrize(("status", "body", "verdict", "reason"), ROWS)
def test_answer_means(status: int, body: bytes, verdict: Verdict, reason: str) -> None:
    outcome = classify(status, None, body)
    assert (outcome.verdict, outcome.reason) == (verdict, reason)


def test_every_row_of_the_table_is_tested() -> None:
    def first(status: int, body: bytes) -> Rule:
        return next(rule for rule in TABLE if rule.matches(status, read_error(body)))

    assert {first(status, body) for status, body, _, _ in ROWS if status >= 0} == set(TABLE)


def test_every_status_has_an_answer() -> None:
    for status in range(1000):
        assert any(rule.matches(status, read_error(b"")) for rule in TABLE)


def test_only_server_errors_may_have_run() -> None:
    uncertain = {status for status in range(100, 600) if not classify(status).certain}
    assert uncertain == {*range(100, 200), 500, 502, 504, *range(506, 529), *range(530, 600)}


def test_overload_is_told_from_our_own_limits() -> None:
    assert {status for status in range(600) if classify(status).overload} == {503, 529}


def test_only_a_busy_answer_has_a_wait() -> None:
    headers = {"Retry-After": "7"}
    for status in range(100, 600):
        outcome = classify(status, headers)
        assert outcome.wait_s == (7.0 if outcome.verdict is Verdict.BUSY else None)


def test_wait_of_an_overload_is_believed_up_to_a_minute() -> None:
    assert classify(503, {"retry-after": "3600"}).wait_s == 60.0
    assert classify(429, {"retry-after": "3600"}).wait_s == 3600.0


def test_when_our_limits_are_filled_up_says_nothing_of_an_overload() -> None:
    limits = {"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}
    assert classify(429, limits).wait_s == 360.0
    assert classify(503, limits).wait_s is None
    assert classify(503, {**limits, "retry-after-ms": "1500"}).wait_s == 1.5


def test_wait_of_milliseconds_is_no_invitation_to_ask_all_the_time() -> None:
    assert classify(429, {"retry-after-ms": "6"}).wait_s == 0.5
    assert classify(429, {"x-ratelimit-reset-tokens": "6ms"}).wait_s == 0.5


def test_dead_key_is_dead_whatever_it_asks_to_wait() -> None:
    outcome = classify(429, {"retry-after": "1"}, error(code="insufficient_quota"))
    assert outcome == Outcome(Verdict.DEAD, "no_quota")


def test_headers_may_be_a_look_up() -> None:
    fields = {b"retry-after": b"3"}
    assert classify(429, fields.get).wait_s == 3.0
    limits = {b"x-ratelimit-reset-tokens": b"6m0s", b"x-ratelimit-remaining-tokens": b"0"}
    assert classify(429, limits.get).wait_s == 360.0


EVENTS: list[tuple[Any, Verdict, str]] = [
    ({"error": {"code": "rate_limit_exceeded"}}, Verdict.BUSY, "rate_limited"),
    ({"error": {"type": "rate_limit_error"}}, Verdict.BUSY, "rate_limited"),
    ({"error": {"code": "insufficient_quota"}}, Verdict.DEAD, "no_quota"),
    ({"error": {"type": "server_error", "code": None}}, Verdict.FAILED, "server_error"),
    ({"error": {"type": "invalid_request_error"}}, Verdict.CALLER, "caller_error"),
    ({"error": {"message": "x", "code": 429}}, Verdict.BUSY, "rate_limited"),
    ({"error": {"message": "x", "code": "503"}}, Verdict.BUSY, "overloaded"),
    ({"error": {"message": "x"}, "status": 402}, Verdict.DEAD, "no_quota"),
    ({"error": {"message": "x", "code": 200}}, Verdict.FAILED, "server_error"),
    ({"error": {"message": "x", "code": True}}, Verdict.FAILED, "server_error"),
    ({"error": "overloaded_error"}, Verdict.BUSY, "overloaded"),
    ({"error": "Something odd."}, Verdict.FAILED, "server_error"),
    ({"error": 7}, Verdict.FAILED, "server_error"),
    ({"type": "error", "code": "rate_limit_exceeded", "message": "x"}, Verdict.BUSY, "rate_limited"),
    ({"type": "error", "error": {"type": "authentication_error"}}, Verdict.DEAD, "bad_key"),
    (
        {
            "type": "response.failed",
            "response": {"status": "failed", "error": {"code": "insufficient_quota"}},
        },
        Verdict.DEAD,
        "no_quota",
    ),
    (
        {"type": "response.failed", "response": {"error": {"code": "server_error"}}},
        Verdict.FAILED,
        "server_error",
    ),
    (
        {"object": "error", "message": "x", "type": "BadRequestError", "code": 400},
        Verdict.CALLER,
        "caller_error",
    ),
    ({"choices": [{"finish_reason": "insufficient_system_resource"}]}, Verdict.BUSY, "overloaded"),
    ([{"error": {"code": 503, "message": "x"}}], Verdict.BUSY, "overloaded"),
    ([], Verdict.FAILED, "server_error"),
    ("x", Verdict.FAILED, "server_error"),
]


@pytest.mark.parametrize(("event", "verdict", "reason"), EVENTS)
def test_error_inside_a_200_means(event: Any, verdict: Verdict, reason: str) -> None:
    outcome = classify_error_event(json.dumps(event).encode())
    assert (outcome.verdict, outcome.reason) == (verdict, reason)


def test_error_event_that_is_no_json_may_have_run() -> None:
    for data in (b"", b"upstream exploded", b"\xff"):
        assert classify_error_event(data) == Outcome(Verdict.FAILED, "server_error", certain=False)


def test_error_object_that_was_cut_is_still_read() -> None:
    whole = error('You exceeded "code": 1 it' + "y" * 1000, type="insufficient_quota", code="x", param=None)
    body = b'{"error":{"code": "insufficient_quota", "type":"t", "message":"' + b"y" * 5000
    found = read_error(body)
    assert (found.code, found.type, found.message) == ("insufficient_quota", "t", "y" * 500)
    assert classify(429, None, body).verdict is Verdict.DEAD
    assert classify(429, None, whole[:-1]).verdict is Verdict.DEAD
    assert read_error(b'{"error":{"code":503,"mess').status == 503


def test_table_is_printed_one_row_a_line() -> None:
    lines = table_text().splitlines()
    assert len(lines) == len(TABLE)
    assert lines[0] == "200-299                  succeeded  ok"
    assert "500-599                  failed     server_error may-have-run" in lines


# --- Waiting ------------------------------------------------------------------------------------

WAITS: list[tuple[dict[str, str], float | None]] = [
    ({}, None),
    ({"Retry-After": "20"}, 20.0),
    ({"Retry-After": " 1.5 "}, 1.5),
    ({"Retry-After": "0"}, None),
    ({"Retry-After": "-1"}, None),
    ({"Retry-After": "soon"}, None),
    ({"Retry-After": "1e3"}, None),
    ({"Retry-After": "inf"}, None),
    ({"Retry-After": "nan"}, None),
    ({"Retry-After": ""}, None),
    ({"Retry-After": "9" * 400}, None),
    ({"Retry-After": "Wed, 18 Nov 2026 11:07:10 GMT"}, 30.0),
    ({"Retry-After": "Wednesday, 18-Nov-26 11:07:10 GMT"}, 30.0),
    ({"Retry-After": "Wed Nov 18 11:07:10 2026"}, 30.0),
    ({"Retry-After": "Wed, 18 Nov 2026 11:06:40 GMT"}, None),
    ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, None),
    ({"Retry-After": "Sunday, 06-Nov-94 08:49:37 GMT"}, None),
    ({"Retry-After": "Wed, 31 Nov 2026 11:07:10 GMT"}, None),
    ({"Retry-After": "Wed, 18 Foo 2026 11:07:10 GMT"}, None),
    ({"Retry-After": "Wed, 18 Nov 2026 11:07:60 GMT"}, 79.0),
    ({"Retry-After": "1795000060"}, 60.0),
    ({"retry-after-ms": "1500", "Retry-After": "20"}, 1.5),
    ({"retry-after-ms": "-5", "Retry-After": "20"}, 20.0),
    ({"x-ratelimit-reset": "12"}, 12.0),
    ({"x-ratelimit-reset": "1795000060"}, 60.0),
    ({"x-ratelimit-reset": "1795000060000"}, 60.0),
    ({"x-ratelimit-reset": "1794999999"}, None),
    ({"x-ratelimit-reset": "6m0s"}, 360.0),
    ({"x-ratelimit-reset-requests": "12ms"}, 0.012),
    ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
    ({"x-ratelimit-reset-requests": "15"}, 15.0),
    ({"x-ratelimit-reset-requests": "0s"}, None),
    ({"x-ratelimit-reset-requests": "-1"}, None),
    ({"x-ratelimit-reset-requests": "1x"}, None),
    ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "2s"}, 2.0),
    (
        {
            "X-RateLimit-Reset-Requests": "6m0s",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-tokens": "2s",
            "x-ratelimit-remaining-tokens": "17",
        },
        360.0,
    ),
    # A limit that is not reached is not the one that was.
    ({"x-ratelimit-reset-requests": "6ms", "x-ratelimit-remaining-requests": "9999"}, None),
    (
        {
            "x-ratelimit-reset-requests": "6ms",
            "x-ratelimit-remaining-requests": "9999",
            "x-ratelimit-reset-tokens": "2s",
        },
        2.0,
    ),
    ({"x-ratelimit-reset-pixels": "3s"}, 3.0),
    ({"x-ratelimit-reset-requests": "1s", "Retry-After": "20"}, 20.0),
]


@pytest.mark.parametrize(("headers", "expected"), WAITS)
def test_wait_is(headers: dict[str, str], expected: float | None) -> None:
    assert wait_of(headers, NOW) == (None if expected is None else pytest.approx(expected))


def test_date_says_nothing_without_a_clock() -> None:
    for value in ("Wed, 18 Nov 2026 11:07:10 GMT", "1795000060"):
        assert wait_of({"Retry-After": value}) is None


NAMES = st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-tokens"])
PIECES = st.sampled_from(
    ["Wed, ", "18 ", "Nov ", "0000 ", "9999 ", "24:60:99", "1h", "ms", "-", "1e5", ".5", "0"]
)


@given(st.dictionaries(NAMES, st.lists(PIECES).map("".join) | st.text(max_size=30)))
def test_wait_is_positive_and_finite_or_nothing(headers: dict[str, str]) -> None:
    wait_s = wait_of(headers, NOW)
    assert wait_s is None or 0 < wait_s < float("inf")


@given(
    st.integers(-10, 1100),
    st.binary(max_size=60) | st.text(alphabet='{}[]":,codetypmsage12 ').map(str.encode),
)
def test_any_body_has_an_outcome(status: int, body: bytes) -> None:
    assert classify(status, {}, body).verdict in Verdict
    assert classify_error_event(body).verdict in Verdict


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["error", "code", "type", "param", "message", "status", "response", "choices"]
                ),
                inner,
            )
        ),
    )
)
def test_any_shape_of_error_is_read(value: Any) -> None:
    read_error(json.dumps(value).encode())


def test_every_reason_is_in_the_documents() -> None:
    page = (Path(__file__).parents[3] / "docs" / "failover.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for rule in TABLE:
        assert any(
            f"`{rule.reason}`" in row and row.startswith(f"| {rule.verdict.name.lower()} ") for row in rows
        ), rule
