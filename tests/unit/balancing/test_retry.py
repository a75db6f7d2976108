"""Which requests may be attempted again."""

import pytest

from fastgw.balancing.retry import (
    Fallback,
    RetryBudget,
    computes_answer,
    endpoint_of,
    is_nodes_fault,
    is_replayable,
    may_attempt_again,
)
from fastgw.errors import Retryable


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        (b"GET", b"/v1/files", None, True),
        (b"HEAD", b"/", None, True),
        (b"PUT", b"/x", b"{}", True),
        (b"DELETE", b"/x", None, True),
        (b"OPTIONS", b"/x", None, True),
        (b"PATCH", b"/v1/chat/completions", b"{}", False),
        (b"get", b"/", None, False),
        (b"POST", b"/v1/chat/completions", b"{}", True),
        (b"POST", b"/openai/v1/embeddings", b"{}", True),
        (b"POST", b"/v1/completions", b"{}", True),
        (b"POST", b"/v1/moderations", b"{}", True),
        (b"POST", b"/v1/files", b"{}", False),
        (b"POST", b"/v1/chat/completions/", b"{}", False),
        (b"POST", b"/v1/chat/completions/cancel", b"{}", False),
        (b"POST", b"/v1/images/generations", b"{}", False),
        (b"POST", b"/v1/responses", b"{}", False),
        (b"POST", b"/v1/responses", b'{"store":true}', False),
        (b"POST", b"/v1/responses", b'{"store":null}', False),
        (b"POST", b"/v1/responses", b'{"store":0}', False),
        (b"POST", b"/v1/responses", b'{"store":false}', True),
        (b"POST", b"/v1/responses", b"not json", False),
        (b"POST", b"/v1/responses", b"[]", False),
        (b"POST", b"/v1/responses", b"", False),
        (b"POST", b"/v1/responses", None, False),
    ],
)
def test_what_changes_nothing_may_run_twice(
    method: bytes, path: bytes, body: bytes | None, expected: bool
) -> None:
    assert is_replayable(method, path, body) is expected


@pytest.mark.parametrize(
    ("retryable", "replayable", "replays", "expected"),
    [
        (Retryable.NEVER, True, 0, False),
        (Retryable.ALWAYS, False, 5, True),
        (Retryable.UNCERTAIN, True, 0, True),
        (Retryable.UNCERTAIN, True, 1, False),
        (Retryable.UNCERTAIN, False, 0, False),
        (Retryable.IF_REUSED, True, 0, True),
        (Retryable.IF_REUSED, True, 1, False),
        (Retryable.IF_REUSED, False, 0, False),
    ],
)
def test_what_may_have_run_is_repeated_once_where_that_is_allowed(
    retryable: Retryable, replayable: bool, replays: int, expected: bool
) -> None:
    assert may_attempt_again(retryable, replayable, replays) is expected


def test_which_calls_answer_with_one_document() -> None:
    assert computes_answer(b"POST", b"/v1/chat/completions") and computes_answer(b"POST", b"/v1/responses")
    assert not computes_answer(b"GET", b"/v1/chat/completions")
    assert not computes_answer(b"POST", b"/v1/audio/speech")


def test_which_statuses_of_a_plain_node_are_its_own_fault() -> None:
    assert [s for s in range(400, 600) if is_nodes_fault(s)] == [408, 421, 425, 429, *range(500, 600)]


LISTED = frozenset({429, *range(500, 600)})


@pytest.mark.parametrize(
    ("fallback", "status", "is_answer", "retryable", "expected"),
    [
        # Nothing is listed: the failure's own word.
        (Fallback(), 401, True, Retryable.ALWAYS, Retryable.ALWAYS),
        (Fallback(), 500, True, Retryable.UNCERTAIN, Retryable.UNCERTAIN),
        # Answers are judged by the list alone ...
        (Fallback(LISTED), 429, True, Retryable.ALWAYS, Retryable.ALWAYS),
        (Fallback(LISTED), 500, True, Retryable.UNCERTAIN, Retryable.ALWAYS),
        (Fallback(LISTED), 401, True, Retryable.ALWAYS, Retryable.NEVER),
        # ... and no answer is none that could be listed.
        (Fallback(frozenset({429})), 502, False, Retryable.ALWAYS, Retryable.ALWAYS),
        (Fallback(frozenset({429})), 504, False, Retryable.UNCERTAIN, Retryable.UNCERTAIN),
        # For APISIX it is a 500, or a 504.
        (Fallback(LISTED, True), 502, False, Retryable.UNCERTAIN, Retryable.ALWAYS),
        (Fallback(frozenset({500}), True), 502, False, Retryable.ALWAYS, Retryable.ALWAYS),
        (Fallback(frozenset({500}), True), 504, False, Retryable.ALWAYS, Retryable.NEVER),
        (Fallback(frozenset({429}), True), 502, False, Retryable.ALWAYS, Retryable.NEVER),
    ],
)
def test_a_list_of_statuses_decides_what_moves(
    fallback: Fallback, status: int, is_answer: bool, retryable: Retryable, expected: Retryable
) -> None:
    assert fallback.judge(status, is_answer, retryable, 1.0) is expected


def test_an_attempt_that_took_too_long_is_the_last_one() -> None:
    for fallback in (Fallback(None, False, 0.5), Fallback(LISTED, True, 0.5)):
        assert fallback.judge(500, True, Retryable.ALWAYS, 0.4) is Retryable.ALWAYS
        assert fallback.judge(500, True, Retryable.ALWAYS, 0.6) is Retryable.NEVER


def test_only_apisix_passes_an_unlisted_error_on_untouched() -> None:
    assert Fallback(LISTED, True).passes_on(401)
    assert not Fallback(LISTED, True).passes_on(500)
    assert not Fallback(LISTED).passes_on(401)
    assert not Fallback().lists(500)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        (b"POST", b"/v1/chat/completions", b"/chat/completions"),
        (b"POST", b"/v1/completions", b"/completions"),
        (b"POST", b"/v1/responses", b"/responses"),
        (b"GET", b"/v1/chat/completions", b""),
        (b"POST", b"/v1/images/generations", b""),
    ],
)
def test_endpoints_are_the_calls_that_compute_an_answer(method: bytes, path: bytes, expected: bytes) -> None:
    assert endpoint_of(method, path) == expected


# --- The budget -------------------------------------------------------------------------------


def spent(budget: RetryBudget, now: float, begun: int, wanted: int) -> int:
    """How many of so many retries are allowed."""
    count = 0
    for _ in range(wanted):
        if budget.is_left(now, begun):
            budget.spend(now, begun)
            count += 1
    return count


def test_a_few_retries_are_always_allowed() -> None:
    budget = RetryBudget(20, per_s=3)
    assert spent(budget, 100.0, 1, 1000) == 30
    assert not budget.is_left(109.9, 1)
    assert budget.is_left(110.0, 1)


def test_retries_are_a_share_of_the_requests_of_the_last_ten_seconds() -> None:
    budget = RetryBudget(20, per_s=0)
    begun = 0
    for second in range(60):
        budget.note(second, begun)
        begun += 300
        assert spent(budget, second + 0.9, begun, 1000) == 60
    # All of it may be spent at once, and what began long ago no longer counts.
    for second in range(60, 75):
        budget.note(second, begun)
        begun += 300
    assert spent(budget, 74.9, begun, 10_000) == 600
    assert spent(budget, 200.0, begun, 10_000) == 0


def test_requests_of_a_second_in_which_nobody_looked_count_with_the_next_look() -> None:
    budget = RetryBudget(10, per_s=0)
    budget.note(0.0, 0)
    assert spent(budget, 5.0, 200, 1000) == 20


def test_budget_refuses_negative_numbers() -> None:
    for arguments in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError):
            RetryBudget(*arguments)
    assert repr(RetryBudget(20, 3)) == "<RetryBudget 20.0 % and 3.0 a second>"
