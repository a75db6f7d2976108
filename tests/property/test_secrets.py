"""No value of a secret makes a difference to what is printed of it, and none passes the net."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import traceback
from urllib.parse import quote, quote_plus

from hypothesis import assume, example, given
from hypothesis import strategies as st

from fastgw.redaction import MIN_CHARS, PATTERNS, Redactor
from fastgw.secret import HiddenMapping, Secret, packed

VALUES = st.text(min_size=MIN_CHARS, max_size=60)


def printed(value: object) -> list[str]:
    """What is said of a value, in every way that does not depend on where it lies in memory."""
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "%s %r", (value, [value]), None)
    try:
        raise ValueError(value, {"a": value})
    except ValueError:
        kind, error, trace = sys.exc_info()
        assert kind is not None and error is not None
        told = traceback.TracebackException(kind, error, trace, capture_locals=True)
    frames = "".join(line for line in told.format() if "record = " not in line)
    return [
        str(value),
        repr(value),
        f"{value!s:>30}|{value!r}|{value!a}|{value}",
        json.dumps({"a": value}, default=str),
        record.getMessage(),
        "\n".join(line for line in frames.splitlines() if " at 0x" not in line),
    ]


@given(st.text(), st.text())
def test_what_is_printed_does_not_depend_on_the_value(one: str, other: str) -> None:
    assert printed(Secret(one)) == printed(Secret(other))
    assert printed(HiddenMapping({"A": one})) == printed(HiddenMapping({"A": other}))
    assert printed((Secret(one), [Secret(one)])) == printed((Secret(other), [Secret(other)]))


@given(st.text())
def test_a_secret_comes_out_of_another_process_as_it_was(value: str) -> None:
    again = pickle.loads(packed([Secret(value)]))
    assert again == [Secret(value)] and again[0].reveal() == value
    assert (Secret(value) == Secret(value + "x")) is False


@given(VALUES, st.text(max_size=20), st.text(max_size=20))
@example("Bearer 0123", "Bearer ", "")
@example('"\\/" \x00é0', "", "")
def test_no_known_secret_passes_the_net(value: str, before: str, behind: str) -> None:
    assume("*" not in value)
    redactor = Redactor([Secret(value)])
    text = before + value + behind
    assert value not in redactor.mask(text)
    for ascii_only in (True, False):
        told, hidden = (json.dumps(item, ensure_ascii=ascii_only)[1:-1] for item in (text, value))
        assert hidden not in redactor.mask(told)
    for quoted in (quote(value, safe=""), quote_plus(value)):
        assert quoted not in redactor.mask(f"GET /?a={quoted}&b")
    body = text.encode()
    masked = redactor.mask_body(body)
    assert value.encode() not in masked and len(masked) == len(body)


@given(st.text(alphabet="sk-AIzabern %20*.…_", max_size=200))
def test_masking_again_changes_nothing(text: str) -> None:
    once = PATTERNS.mask(text)
    assert PATTERNS.mask(once) == once
    body = text.encode()
    masked = PATTERNS.mask_body(body)
    assert PATTERNS.mask_body(masked) == masked and len(masked) == len(body)
