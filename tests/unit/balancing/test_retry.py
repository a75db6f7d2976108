"""Which requests may be attempted again."""

import pytest

from fastgw.balancing.retry import computes_answer, is_nodes_fault, is_replayable, may_attempt_again
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
