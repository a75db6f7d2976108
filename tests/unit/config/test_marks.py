"""YAML text -> values with positions: limits, traps, aliases."""

from __future__ import annotations

import pytest

from fastgw.config.marks import MAX_ALIASES, MAX_DEPTH, Document, parse
from fastgw.config.problems import Report


def read(text: str) -> Document:
    report = Report("f")
    document = parse(text, report)
    assert not report.problems, report.problems
    assert document is not None
    return document


def problems(text: str) -> list[str]:
    report = Report("f")
    parse(text, report)
    return [str(problem) for problem in report.problems]


def test_every_value_and_key_keeps_its_place() -> None:
    document = read("a:\n  - b: 1\n    ccc:   [x, y]\n")
    assert document.data == {"a": [{"b": 1, "ccc": ["x", "y"]}]}
    assert document.position(("a", 0, "b")) == (2, 8)
    assert document.key_position(("a", 0, "ccc")) == (3, 5)
    assert document.position(("a", 0, "ccc", 1)) == (3, 16)


def test_a_place_that_was_not_written_is_that_of_what_surrounds_it() -> None:
    document = read("a:\n  b: 1\n")
    assert document.position(("a", "nothing", 3)) == document.position(("a",)) == (2, 3)
    assert not document.is_written(("a", "nothing"))


def test_keys_are_text_as_written() -> None:
    assert read("on: 1\n404: 2\n12:30: 3\n").data == {"on": 1, "404": 2, "12:30": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("off", False),
        ("12", 12),
        ("-1_000", -1000),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("'no'", "no"),
        ('"12:30"', "12:30"),
        ("|\n  x\n  y", "x\ny\n"),
        ("=", "="),
        ("0", 0),
    ],
)
def test_plain_scalars_have_the_values_of_yaml(text: str, value: object) -> None:
    found = read(f"k: {text}\n").data["k"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("12:30", "base 60"),
        ("190:20:30.15", "base 60"),
        ("010", "octal"),
        ("9" * 5000, "too many digits"),
        (".inf", "not a finite number"),
        (".nan", "not a finite number"),
        ("1.0e+999", "not a finite number"),
        ("!!python/name:os.system x", "tag"),
        ("!!str 1", "tag"),
        ("*nowhere", "anchor"),
    ],
)
def test_what_nobody_means_is_a_problem_at_its_place(text: str, reason: str) -> None:
    [problem] = problems(f"k: {text}\n")
    assert problem.startswith("f:1:4: k: ")
    assert reason in problem


def test_duplicate_keys_are_all_reported_with_the_first_line() -> None:
    assert problems("a: 1\nb: {x: 1, x: 2}\na: 2\n") == [
        "f:2:11: b.x: this key is written twice (first in line 2)",
        "f:3:1: a: this key is written twice (first in line 1)",
    ]


def test_aliases_and_merges_give_every_copy_its_own_path() -> None:
    document = read("base: &b {x: 1, y: [2]}\none: *b\ntwo:\n  <<: *b\n  x: 3\nthree:\n  <<: [*b, {z: 4}]\n")
    assert document.data["one"] == {"x": 1, "y": [2]}
    assert document.data["two"] == {"x": 3, "y": [2]}
    assert document.data["three"] == {"x": 1, "y": [2], "z": 4}
    assert document.data["one"]["y"] is not document.data["base"]["y"]
    assert document.position(("two", "y", 0)) == document.position(("base", "y", 0))
    assert document.position(("two", "x")) == (5, 6)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merge_bomb(levels: int) -> str:
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(9), "more than 100000 values"),
        (merge_bomb(40), "more than 100000 values"),
        ("a: &a x\nb: [" + "*a, " * (MAX_ALIASES + 1) + "]", "aliases"),
        ("a: &a [*a]", "no finished anchor"),
        ("a: " + "[" * 500_000, "nested deeper"),
        ("\n".join(" " * depth + "k:" for depth in range(MAX_DEPTH + 2)), "nested deeper"),
        ("a: [" + "x," * 200_000 + "]", "more than 100000 values"),
        ("a: 1\n--- \nb: 2\n", "a second YAML document"),
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n", "expected a mapping"),
        ("a\n", "expected a mapping"),
        ("a: b: c\n", "YAML syntax"),
        ("a: [1\n", "a bracket is never closed"),
        ("a:\n\t- b\n", "indent with spaces"),
        ("a: {b: ${X}}\n", "a variable needs quotes"),
        ("a: \x01\n", "a control character"),
        ("? [x]\n: y\n", "a key must be a word"),
        ("'': x\n", "a key is empty"),
        ("<<: 5\n", "`<<` takes"),
        ("!!str a: b\n", "tag"),
    ],
    ids=range(21),
)
def test_bad_texts_are_refused_with_a_reason(text: str, reason: str) -> None:
    assert reason in "\n".join(problems(text))


def test_the_place_of_a_control_character_counts_characters_not_bytes() -> None:
    [problem] = problems("ä: ü\né: \x01\n")
    assert problem.startswith("f:2:4: ")
