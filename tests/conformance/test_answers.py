"""Every row of ``answer_cases``: one verdict, however its bytes come."""

from __future__ import annotations

from collections import Counter

import pytest

from .answer_cases import CASES, AnswerCase
from .harness import AnswerVerdict, read_answer, splits


def test_every_row_has_a_name_of_its_own() -> None:
    assert not [id for id, count in Counter(case.id for case in CASES).items() if count > 1]


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_an_answer_has_one_verdict_in_any_pieces(case: AnswerCase) -> None:
    expected = AnswerVerdict(case.outcome, case.client, case.is_pooled)
    for pieces in splits(case.data):
        assert read_answer(pieces, is_head=case.is_head, end=case.end) == expected, pieces
