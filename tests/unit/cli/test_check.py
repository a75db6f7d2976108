"""What `check` prints, in each of its forms."""

import json
from pathlib import Path

import pytest

from fastgw.cli import check
from fastgw.cli.options import Exit
from fastgw.cli.overrides import Overrides
from fastgw.config.problems import Problem

FILE = """\
services:
  - name: Chat
    routes:
      - {name: a, uris: [/v1/chat/completions], methods: [POST]}
      - {name: b, uris: [/v1/*, /models]}
    upstream:
      scheme: https
      nodes:
        - {host: api.deepseek.com, port: 443, weight: 1, priority: -1}
        - {host: api.openai.com, port: 443, weight: 100}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "FASTGW_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE)
    return path


def test_a_good_file_is_summed_up(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(Overrides(), "text") == Exit.CLEAN
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if ": warning: " not in line] == [
        "gateway.yaml: good: 2 routes, 1 upstream, 2 nodes, 2 warnings (profile llm)",
        "  route a: POST /v1/chat/completions -> Chat",
        "  route b: /v1/* /models -> Chat",
        "  upstream Chat:",
        "    tier 0   api.openai.com:443    weight 100  openai",
        "    tier -1  api.deepseek.com:443  weight 1    deepseek  deepseek-* as is, * -> deepseek-flash",
    ]
    assert lines[0].startswith("gateway.yaml:9:11: warning: services[0].upstream.nodes[0]: no credential")


def test_a_good_file_in_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.run(Overrides(), "json") == Exit.CLEAN
    report = json.loads(capsys.readouterr().out)
    assert (report["good"], report["routes"], report["upstreams"], report["nodes"]) == (True, 2, 1, 2)
    assert [(warning["line"], warning["column"]) for warning in report["warnings"]] == [(9, 11), (10, 11)]


def test_a_bad_file_fails_in_every_form(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(FILE.replace("scheme: https", "shceme: https"))
    for form in ("text", "json", "github"):
        assert check.run(Overrides(), form) == Exit.FAILURE
        assert "shceme" in capsys.readouterr().out


def test_what_run_would_refuse_for_its_address_is_an_error(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.run(Overrides(listen=("0.0.0.0:80",)), "github") == Exit.FAILURE
    assert capsys.readouterr().out.startswith("::error file=gateway.yaml,line=1,col=1::fastgw.listen: ")


def test_without_a_file_the_embedded_default_is_checked(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.unlink()
    assert check.run(Overrides(), "text") == Exit.CLEAN
    assert capsys.readouterr().out.startswith("<embedded>: good: 1 route, 1 upstream, 2 nodes")


def test_a_warning_is_taken_apart() -> None:
    assert check.problem_of("a:b.yaml:3:7: x: bites", "a:b.yaml") == Problem("a:b.yaml", 3, 7, "", "x: bites")
    assert check.problem_of("of no place", "f") == Problem("f", 1, 1, "", "of no place")


def test_annotations_survive_what_a_file_name_or_message_may_hold() -> None:
    text = check.github("f", None, (Problem("a,b:c.yaml", 1, 2, "p", "50% of\nit", "see"),), ())
    assert text == "::error file=a%2Cb%3Ac.yaml,line=1,col=2::p: 50%25 of%0Ait (see)"
