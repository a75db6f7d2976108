"""Variables: which references are expanded where, and what a failure says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastgw.config.key_file import MAX_BYTES
from fastgw.config.marks import Document, parse
from fastgw.config.origins import Origins
from fastgw.config.problems import Report
from fastgw.config.variables import expand

ENV = {
    "NAME": "value",
    "EMPTY": "",
    "lower": "small",
    "JSON": '{"key": "inner", "n": 5}',
    "DOLLAR": "a$b${C}",
    "BYTES": os.fsdecode(b"a\xff"),
    "HALVES": r'{"key": "\ud800"}',
}


def expanded(
    text: str, base: Path = Path(), path: tuple[str, ...] = ("k",)
) -> tuple[object, Document, Report]:
    report = Report("f")
    document = parse(text, report)
    assert document is not None
    expand(document, report, Origins(ENV, base))
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
        ("${BYTES}", "BYTES is not text in UTF-8"),
        ("$env://BYTES", "BYTES is not text in UTF-8"),
        ("$env://HALVES/key", 'HALVES has no key "key"'),
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
    expand(document, report, Origins({"OPENAI_API_KEY": "x"}))
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
    expand(document, report, Origins({"F": f"file://{tmp_path}"}, tmp_path))
    assert document.data["k"] == f"file://{tmp_path}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
@pytest.mark.parametrize("text", ["file://secret", "${credential:secret}"])
def test_a_key_file_that_others_can_read_is_refused_unless_they_may(
    tmp_path: Path, mode: int, text: str
) -> None:
    (tmp_path / "secret").write_text("the key itself")
    (tmp_path / "secret").chmod(mode)
    for allowed in (False, True):
        origins = Origins({}, tmp_path, str(tmp_path), allows_exposed=allowed)
        found, _, report = with_credentials(f"a: b\nk: '{text}'", origins)
        if allowed:
            assert found == "the key itself" and not report.problems
        else:
            [problem] = report.problems
            assert str(problem).startswith("f:2:4: k: ")
            assert "others on this machine may read this file (chmod 600;" in str(problem)
            assert "the key itself" not in str(problem)


def test_large_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "fifo")
    for file in tmp_path.iterdir():
        file.chmod(0o600)
    assert "larger than" in str(expanded("k: file://large", tmp_path)[2].problems[0])
    assert "not text in UTF-8" in str(expanded("k: file://binary", tmp_path)[2].problems[0])
    assert "not a regular file" in str(expanded("k: file://fifo", tmp_path)[2].problems[0])


@pytest.mark.parametrize("text", ["${{A" + " " * 200_000, "${A:=" * 40_000, "\\${" * 60_000, "$" * 200_000])
def test_hostile_texts_take_no_time(text: str) -> None:
    expanded(f"k: '{text}'")


# --- Credentials --------------------------------------------------------------------------------


def with_credentials(
    text: str, origins: Origins, path: tuple[str, ...] = ("k",)
) -> tuple[object, Document, Report]:
    document = parse(text, report := Report("f"))
    assert document is not None
    expand(document, report, origins)
    value = document.data
    for part in path:
        value = value[part]
    return value, document, report


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """A directory with one credential in it, in one of its own."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "open-ai.key").write_text("sk-of-the-directory\n")
    (directory / "open-ai.key").chmod(0o400)
    return directory


def test_a_credential_is_the_text_of_a_file_without_its_last_line_break(credentials: Path) -> None:
    origins = Origins({"CREDENTIALS_DIRECTORY": str(credentials)})
    found, document, report = with_credentials("k: 'Bearer ${credential:open-ai.key}'", origins)
    assert found == "Bearer sk-of-the-directory"
    assert not report.problems and not report.warnings
    assert document.expanded == {("k",)}


def test_where_credentials_are_a_flag_says_else_the_file_else_the_environment(credentials: Path) -> None:
    env = {"CREDENTIALS_DIRECTORY": "/no/such/directory", "PLACE": "credentials", "D": "a$b"}
    key = "k: '${credential:open-ai.key}'"
    in_file = f"fastgw: {{credentials_dir: '${{PLACE}}'}}\n{key}"
    of_flag = Origins(env, credentials, str(credentials))
    for text, origins in ((in_file, Origins(env, credentials.parent)), (in_file, of_flag), (key, of_flag)):
        found, document, report = with_credentials(text, origins)
        assert (found, report.problems) == ("sk-of-the-directory", ())
        assert document.data.get("fastgw", {}).get("credentials_dir") in ("credentials", None)
    [problem] = with_credentials(key, Origins(env))[2].problems
    assert "credential open-ai.key: the file cannot be read: No such file or directory" in str(problem)
    # What a variable brings in is not expanded again, here either.
    odd = with_credentials("fastgw: {credentials_dir: '${D}'}\nk: v", Origins(env))[1]
    assert odd.data["fastgw"]["credentials_dir"] == "a$b"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${credential:none}", "credential none: the file cannot be read"),
        ("${credential:..}", "no name of a credential"),
        ("${credential:.}", "no name of a credential"),
        ("${credential:../credentials/open-ai.key}", "no name of a credential"),
        ("${credential:}", "no name of a credential"),
        ("${credential: open-ai.key}", "no name of a credential"),
        ("${credential:open-ai.key:=x}", "no name of a credential"),
    ],
)
def test_a_credential_that_cannot_be_had_is_reported_where_it_stands(
    credentials: Path, text: str, reason: str
) -> None:
    [problem] = with_credentials(f"a: b\nk: '{text}'", Origins({}, Path(), str(credentials)))[2].problems
    assert str(problem).startswith("f:2:4: k: ")
    assert reason in str(problem)


def test_without_a_directory_it_is_said_how_to_name_one() -> None:
    [problem] = with_credentials("k: '${credential:x}'", Origins({}))[2].problems
    assert "no credential directory is known (--credentials-dir" in str(problem)


def test_a_credential_in_a_plugin_is_no_variable_of_the_request(credentials: Path) -> None:
    (credentials / "dollar").write_text("a$b")
    (credentials / "dollar").chmod(0o400)
    path = ("services", 0, "plugins", "proxy-rewrite", "headers", "X-Key")
    text = "services: [{plugins: {proxy-rewrite: {headers: {X-Key: '${credential:dollar}'}}}}]"
    found = with_credentials(text, Origins({}, Path(), str(credentials)), path)[0]  # type: ignore[arg-type]
    assert found == r"a\$b"
