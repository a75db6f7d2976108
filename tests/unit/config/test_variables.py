"""Variables: which references are expanded where, and what a failure says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastgw.config.marks import Document, parse
from fastgw.config.problems import Report
from fastgw.config.variables import MAX_FILE_BYTES, expand

ENV = {
    "NAME": "value",
    "EMPTY": "",
    "lower": "small",
    "JSON": '{"key": "inner", "n": 5}',
    "DOLLAR": "a$b${C}",
}


def expanded(
    text: str, base: Path = Path(), path: tuple[str, ...] = ("k",)
) -> tuple[object, Document, Report]:
    report = Report("f")
    document = parse(text, report)
    assert document is not None
    expand(document, report, ENV, base)
    value = document.data
    for part in path:
        value = value[part]
    return value, document, report


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${NAME}", "value"),
        ("a ${NAME} b ${NAME}", "a value b value"),
        ("${{NAME}}", "value"),
        ("${{ lower }}", "small"),
        ("${{ NONE := some text }}", " some text "),
        ("${NONE:=default}", "default"),
        ("${NONE:=}", ""),
        ("${NAME:=default}", "value"),
        ("${EMPTY:=default}", ""),
        ("$ENV://NAME", "value"),
        ("$env://JSON/key", "inner"),
        ("$env://JSON/n", "5"),
        ("Bearer $ENV://NAME", "Bearer $ENV://NAME"),
        (r"\${NAME}", "${NAME}"),
        ("$NAME", "$NAME"),
        ("100$", "100$"),
        ("${DOLLAR}", "a$b${C}"),
    ],
)
def test_references_are_replaced(text: str, value: str) -> None:
    found, _, report = expanded(f"k: '{text}'")
    assert found == value
    assert not report.problems


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${NONE}", "NONE is not set"),
        ("${{none}}", "none is not set"),
        ("$ENV://NONE", "NONE is not set"),
        ("$env://JSON/none", 'JSON has no key "none"'),
        ("$env://NAME/key", "must be a JSON object"),
        ("$secret://vault/1/x", "secret managers are not supported"),
        ("${name}", "no variable that is known here"),
        ("${NAME", "no variable that is known here"),
        ("${}", "no variable that is known here"),
        ("${NAMES}", "did you mean NAME?"),
        ("file:///no/such/file", "cannot be read"),
        ("file:///", "not a regular file"),
        ("file://\\0", "not valid"),
    ],
)
def test_failures_are_reported_where_they_stand(text: str, reason: str) -> None:
    _, document, report = expanded(f'a: b\nk: "{text}"' if "\\0" in text else f"a: b\nk: '{text}'")
    [problem] = report.problems
    assert str(problem).startswith("f:2:4: k: ")
    assert reason in str(problem)
    assert ("k",) in document.broken


def test_a_variable_of_another_vendor_is_not_suggested() -> None:
    report = Report("f")
    document = parse("k: ${DEEPSEEK_API_KEY}", report)
    assert document is not None
    expand(document, report, {"OPENAI_API_KEY": "x"}, Path())
    assert "OPENAI" not in str(report.problems[0])


def test_values_of_variables_are_marked_as_not_to_be_shown_and_defaults_are_not() -> None:
    _, document, _ = expanded("k: ${NAME}\nd: ${NONE:=x}")
    assert document.expanded == {("k",)}


def conf(plugin: str, text: str) -> object:
    path = ("services", 0, "plugins", *plugin.split("/"))
    head, *rest = path[3:]
    nested = f"{{{head}: " + "".join(f"{{{part}: " for part in rest) + f"'{text}'" + "}" * len(path[3:])
    value, _, report = expanded(f"services: [{{plugins: {nested}}}]", path=path)  # type: ignore[arg-type]
    assert not report.problems, report.problems
    return value


def test_variables_of_the_request_stay_inside_plugins() -> None:
    assert conf("proxy-rewrite/headers/set/X-A", "${http_x} $arg_y ${uri ?? none}") == (
        "${http_x} $arg_y ${uri ?? none}"
    )
    assert conf("key-auth/header", "${lower}") == "${lower}"


def test_what_is_inserted_into_a_template_is_never_taken_for_a_variable() -> None:
    assert conf("proxy-rewrite/headers/set/Authorization", "Bearer ${DOLLAR}") == r"Bearer a\$b\${C}"
    assert conf("proxy-rewrite/uri", "/${DOLLAR}") == r"/a\$b\${C}"
    assert conf("key-auth/header", "${DOLLAR}") == "a$b${C}"


def test_an_escaped_reference_stays_escaped_where_the_plugin_would_expand_it() -> None:
    assert conf("proxy-rewrite/headers/X-A", r"\${NAME}") == r"\${NAME}"
    assert conf("key-auth/realm", r"\${NAME}") == "${NAME}"


@pytest.mark.parametrize(
    ("content", "value"), [("key", "key"), ("key\n", "key"), ("key\r\n", "key"), ("a\nb\n\n", "a\nb\n")]
)
def test_a_file_gives_its_text_without_the_last_line_break(tmp_path: Path, content: str, value: str) -> None:
    (tmp_path / "secret").write_bytes(content.encode())
    (tmp_path / "secret").chmod(0o600)
    found, document, report = expanded("k: file://secret", tmp_path)
    assert found == value
    assert ("k",) in document.expanded
    assert not report.problems
    assert not report.warnings


def test_the_name_of_a_file_may_hold_variables_and_its_content_may_not(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("${NAME}")
    (tmp_path / "value").chmod(0o600)
    assert expanded("k: file://${NAME}", tmp_path)[0] == "${NAME}"


def test_a_variable_that_holds_a_file_name_reads_no_file(tmp_path: Path) -> None:
    report = Report("f")
    document = parse("k: ${F}", report)
    assert document is not None
    expand(document, report, {"F": f"file://{tmp_path}"}, tmp_path)
    assert document.data["k"] == f"file://{tmp_path}"


def test_a_key_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (tmp_path / "secret").chmod(0o644)
    report = expanded("k: file://secret", tmp_path)[2]
    assert not report.problems
    assert "others on this machine may read this file" in report.warnings[0]


def test_large_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "fifo")
    assert "larger than" in str(expanded("k: file://large", tmp_path)[2].problems[0])
    assert "not text in UTF-8" in str(expanded("k: file://binary", tmp_path)[2].problems[0])
    assert "not a regular file" in str(expanded("k: file://fifo", tmp_path)[2].problems[0])


@pytest.mark.parametrize("text", ["${{A" + " " * 200_000, "${A:=" * 40_000, "\\${" * 60_000, "$" * 200_000])
def test_hostile_texts_take_no_time(text: str) -> None:
    expanded(f"k: '{text}'")
