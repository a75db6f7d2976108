"""The strict reader takes what the tables pass, and refuses what they refuse by a rule of the RFCs."""

from __future__ import annotations

import re

import pytest
from conformance import answer_cases, request_cases
from conformance.answer_cases import AnswerCase
from conformance.request_cases import RequestCase
from fuzz import reference

# Rows of limits, and of what RFC 9110 and RFC 3986 allow: the reader knows nothing of them.
OURS = re.compile(
    "too large|too long|many extensions|sixteen digits|in the trailers|^Host b|HEAD with|204 with"
)


def is_ours(case: RequestCase | AnswerCase) -> bool:
    return "own" in case.rule or OURS.search(case.id) is not None


@pytest.mark.parametrize("case", request_cases.CASES, ids=[case.id for case in request_cases.CASES])
def test_the_reader_and_the_table_agree_on_a_request(case: RequestCase) -> None:
    sent, is_invalid = reference.read_requests(case.data)
    if case.statuses and case.statuses[-1] >= 400:
        assert len(sent) == len(case.node) or is_ours(case) or case.statuses[-1] != 400
        return
    assert not is_invalid and len(sent) == len(case.node)
    for theirs, passed in zip(sent, case.node, strict=True):
        method, target = theirs.start
        assert passed.startswith(b"%b %b HTTP/1.1\r\n" % (method, target))
        assert passed.endswith(b"\r\n\r\n" + theirs.body)


@pytest.mark.parametrize("case", answer_cases.CASES, ids=[case.id for case in answer_cases.CASES])
def test_the_reader_and_the_table_agree_on_an_answer(case: AnswerCase) -> None:
    try:
        sent = reference.read_answer(case.data, is_head=case.is_head, is_ended=case.end == "fin")
    except reference.Invalid:
        assert case.outcome == "bad"
    except reference.Incomplete:
        assert case.outcome in ("waiting", "lost", "bad")
    else:
        assert case.outcome == "answer" or is_ours(case)
        assert case.client is None or case.client.startswith(b"HTTP/1.1 %d " % sent.start)
