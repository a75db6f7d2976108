"""Every row of ``request_cases``: one verdict, however its bytes come."""

from __future__ import annotations

from collections import Counter

import pytest

from .harness import RequestVerdict, no_loop, read_requests, splits
from .request_cases import CASES, RequestCase, request, sent

NEXT = request(line=b"GET /next HTTP/1.1")
NEXT_SENT = sent(b"GET /next")


def test_every_row_has_a_name_of_its_own() -> None:
    assert not [id for id, count in Counter(case.id for case in CASES).items() if count > 1]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_request_has_one_verdict_in_any_pieces(case: RequestCase) -> None:
    expected = RequestVerdict(list(case.statuses), list(case.node), case.is_kept)
    with no_loop() as loop:
        for pieces in splits(case.data):
            assert read_requests(loop, pieces) == expected, pieces
        # What comes behind it is a request of its own, or nobody's.
        if case.statuses and case.is_kept:
            expected = RequestVerdict([*case.statuses, 200], [*case.node, NEXT_SENT], True)
        if case.statuses:
            for pieces in (
                [case.data, NEXT],
                [case.data + NEXT],
                [case.data, *[NEXT[at : at + 1] for at in range(len(NEXT))]],
            ):
                assert read_requests(loop, pieces) == expected, pieces
