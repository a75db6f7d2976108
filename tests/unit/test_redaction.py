"""The net below: known secrets, and what looks like one, are masked."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

import pytest

from fastgw.redaction import PATTERNS, Redactor, may_be_key
from fastgw.secret import Secret

KEY = "canary of the/net+0123456789"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("the key sk-proj-0a1b2c3d4e.", "the key sk-***."),
        ("Incorrect: sk-proj-**********wxyz.", "Incorrect: sk-***."),
        ("sk-ab...yz, sk-ab\u2026yz", "sk-***, sk-***"),
        ("gsk_0123456789 and AIzaSyA-0123456789", "gsk_*** and AIza***"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer ***"),
        ("basic  dXNlcjpwYXNz", "basic  ***"),
        ("a=BEARER%20abcdefgh1234&b", "a=BEARER%20***&b"),
        ("a bearer of news", "a bearer of news"),
        ("scikit sk-learn, a task-force, disk-usage", "scikit sk-learn, a task-force, disk-usage"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_what_looks_like_a_key_is_masked(text: str, masked: str) -> None:
    assert PATTERNS.mask(text) == PATTERNS.mask(masked) == masked
    body = PATTERNS.mask_body(text.encode())
    assert len(body) == len(text.encode())
    if "sk-" in text:
        assert body.replace(b"*", b"") == masked.replace("***", "").encode()


@pytest.mark.parametrize("text", ["sk-" * 100_000, "sk-a" * 50_000, "sk-*" * 50_000, "bearer " * 30_000])
def test_hostile_texts_take_no_time(text: str) -> None:
    assert PATTERNS.mask(text) is not None
    assert len(PATTERNS.mask_body(text.encode())) == len(text)


@pytest.mark.parametrize("text", [KEY, quote_plus(KEY), json.dumps({"a": KEY}), f"Bearer {KEY}", repr(KEY)])
def test_a_known_secret_is_masked_in_the_forms_in_which_it_turns_up(text: str) -> None:
    redactor = Redactor([Secret(f"Bearer {KEY}")], by_shape=False)
    for shown in (redactor.mask(f"<{text}>"), redactor.mask_body(f"<{text}>".encode()).decode()):
        assert "canary" not in shown and "0123456789" not in shown and shown[0] == "<" and shown[-1] == ">"
    assert len(redactor.mask_body(text.encode())) == len(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        r"ab\/c&d+e'f0123456789==",  # PHP
        r"ab/c\u0026d+e'f0123456789==",  # Go
        r"ab/c\u0026d\u002Be\u0027f0123456789==",  # .NET
        "ab/c&amp;d+e&#x27;f0123456789==",
        "ab/c&amp;d+e'f0123456789==",
        "ab%2Fc%26d%2Be%27f0123456789%3D%3D",
        "ab%2fc%26d%2be%27f0123456789%3d%3d",
        "ab/c%26d%2Be%27f0123456789%3D%3D",
    ],
)
def test_a_secret_with_punctuation_is_known_in_other_peoples_hands(text: str) -> None:
    redactor = Redactor([Secret("Bearer ab/c&d+e'f0123456789==")], by_shape=False)
    assert redactor.mask(f"<{text}>") == "<***>"


def test_a_secret_within_another_leaves_nothing_of_the_longer_one() -> None:
    assert Redactor([Secret("12345678"), Secret("a-12345678-b")]).mask("a-12345678-b") == "***"


def test_short_values_are_no_secrets() -> None:
    assert Redactor([Secret("1234567"), Secret("")]).mask("at 1234567 s") == "at 1234567 s"


def test_more_can_be_known_and_none_of_it_is_printed() -> None:
    redactor = Redactor([Secret(KEY)])
    redactor.add([Secret("another-one-0")])
    assert redactor.mask(f"{KEY} another-one-0") == "*** ***"
    assert "canary" not in repr(redactor) + str([redactor, redactor._forms])


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (b"", 0),
        (b"the key is abca", 4),
        (b"the key is abcabcd", 7),
        (b"abcabcdx", 4),
        (b"abcabcdef", 0),  # whole: nothing is missing
        (b"nothing", 0),
        (b"xyzabc xyz", 10),  # the longer of two beginnings
    ],
)
def test_what_may_be_the_beginning_of_a_secret_is_known(body: bytes, size: int) -> None:
    redactor = Redactor([Secret("abcabcdef"), Secret("bcdx01234"), Secret("xyzabc xyz-"), Secret("z-012345")])
    assert redactor.unfinished(body) == size
    assert Redactor().unfinished(body) == 0


def test_a_body_without_a_secret_stays_the_same() -> None:
    body = b'{"error": {"message": "too long"}}'
    assert Redactor([Secret(KEY)]).mask_body(body) == body
    assert Redactor([Secret(KEY)], by_shape=False).mask_body(b"sk-0123456789") == b"sk-0123456789"


@pytest.mark.parametrize("text", ["sk-abcd", "Bearer x", "basic y", "0123456789abcdef" * 2, "x AIza0123"])
def test_what_may_be_a_key_is_suspected(text: str) -> None:
    assert may_be_key(text)


def test_plain_words_are_not_suspected() -> None:
    assert not may_be_key("roundrobin") and not may_be_key("a-task-force")
