"""Which requests may be attempted again."""

import pytest

from fastgw.balancing.retry import (
    Fallback,
    computes_answer,
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
