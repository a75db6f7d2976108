"""`fastgw explain` without a gateway: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastgw.cli import explain, main
from fastgw.cli.options import Exit

FILE = """\
services:
  - name: Chat
    plugins: {proxy-rewrite: {headers: {X-Team: a}}}
    routes:
      - name: chat
        uris: [/v1/chat/completions]
        deadlines: {total: 100, connect: 5, head_stream: 10, first_content_stream: 20}
      - {name: once, uris: [/v1/once], replayable: false}
      - {name: guarded, uris: [/guarded], hosts: [a.example], plugins: {key-auth: {}}}
    upstream:
      name: providers
      scheme: https
      retries: 1
      nodes:
        - {name: backup, host: api.deepseek.com, port: 443, weight: 1, priority: -1}
        - {name: large, host: api.openai.com, port: 443, weight: 3, models: {"gpt-4o*": gpt-5}}
        - {name: small, host: b.example, port: 443, weight: 1}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE)
    return path


def invoke(*arguments: object, input: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, arguments)], input=input)


def told(file: Path, *arguments: object, input: bytes | None = None) -> Any:
    return json.loads(invoke(*arguments, "-c", file, "--format", "json", input=input).stdout)


BODY = b'{"model": "gpt-4o-mini", "stream": true, "messages": []}'


def test_the_plan_names_the_attempts_in_their_order_and_what_each_would_get(file: Path) -> None:
    found = told(file, "post", "/v1/chat/completions?x=1", "--body", "-", input=BODY)
    assert found["health"] == "as configured"
    assert found["request"] == {
        "method": "POST",
        "path": "/v1/chat/completions?x=1",
        "host": None,
        "model": "gpt-4o-mini",
        "stream": True,
    }
    assert found["route"]["name"] == "chat"
    assert found["route"]["written_at"].endswith("gateway.yaml:5:9")
    assert found["plugins"] == [{"name": "proxy-rewrite", "runs": False}]
    first, second = found["attempts"]
    assert (first["node"], first["share"], first["model"], first["model_is_mapped"]) == (
        "large", 0.75, "gpt-5", True,
    )  # fmt: skip
    assert (second["node"], second["share"], second["model"]) == ("small", 0.25, "gpt-4o-mini")
    assert (first["content_within_s"], second["content_within_s"]) == (25.0, 25.0)
    (left,) = found["left_out"]
    assert (left["node"], left["why"]) == ("backup", "a request is attempted 2 times at most")
    assert left["model"] == "deepseek-flash"
    assert found["upstream"]["repeats_what_may_have_run"] is True
    assert found["deadlines"]["first_content"] == 20


def test_a_total_that_is_short_leaves_the_first_attempt_half_of_it(file: Path) -> None:
    file.write_text(FILE.replace("total: 100", "total: 30"))
    first, second = told(file, "POST", "/v1/chat/completions", "--body", "-", input=BODY)["attempts"]
    assert (first["content_within_s"], second["content_within_s"]) == (15.0, 15.0)


def test_what_a_route_says_is_heeded(file: Path) -> None:
    assert told(file, "POST", "/v1/once")["upstream"]["repeats_what_may_have_run"] is False
    guarded = told(file, "GET", "/guarded", "--host", "A.example:9080")
    assert guarded["plugins"][0] == {"name": "key-auth", "runs": True}
    assert invoke("GET", "/guarded", "-c", file).exit_code == Exit.FAILURE


def test_people_get_a_table(file: Path) -> None:
    result = invoke("POST", "/v1/chat/completions", "-c", file, "--body", "-", input=BODY)
    assert result.exit_code == Exit.CLEAN
    assert "large  0     3       gpt-5 (mapped)  healthy  75 %" in result.stdout
    assert "Not in this plan:" in result.stdout
    assert "A request that a node may have run is sent to another one, once." in result.stdout
    assert "as configured: no running gateway was asked" in result.stdout


def test_a_request_that_no_route_takes_is_a_failure(file: Path) -> None:
    result = invoke("GET", "/nowhere", "-c", file)
    assert result.exit_code == Exit.FAILURE
    assert "404: no route takes it" in result.stdout
    assert "200: the gateway is alive" in invoke("GET", "/healthz", "-c", file).stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("POST",), "METHOD and PATH are needed"),
        (("POST", "v1/x"), "does not begin with /"),
        (("PO ST", "/v1/x"), "the method is no word"),
        (("GET", "/a b"), "write %20"),
        (("GET", "/x", "--url", "http://127.0.0.1:1", "-c", "FILE"), "no -c"),
    ],
)
def test_a_bad_command_line_is_told_apart(file: Path, arguments: tuple[str, ...], says: str) -> None:
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    result = invoke(*given) if "-c" in given else invoke(*given, "-c", file)
    assert result.exit_code == Exit.USAGE
    assert says in result.stderr


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[]", "no JSON object"),
        (b'{"model": "a", "model": "b"}', "more than once"),
    ],
)
def test_a_body_that_would_be_refused_is_said_to_be(file: Path, body: bytes, says: str) -> None:
    result = invoke("POST", "/v1/chat/completions", "-c", file, "--body", "-", input=body)
    assert result.exit_code == Exit.FAILURE
    assert says in result.stderr


def test_a_body_without_end_is_not_read_to_its_end(file: Path) -> None:
    result = invoke("POST", "/v1/x", "-c", file, "--body", "/dev/zero")
    assert result.exit_code == Exit.FAILURE
    assert "(413)" in result.stderr


def test_a_body_that_cannot_be_read_is_a_failure(file: Path) -> None:
    result = invoke("POST", "/v1/x", "-c", file, "--body", file.parent / "absent")
    assert result.exit_code == Exit.FAILURE
    assert "cannot read" in result.stderr and "absent" in result.stderr


def test_a_refused_configuration_is_a_refused_configuration(file: Path) -> None:
    file.write_text(FILE.replace("scheme", "shceme"))
    result = invoke("GET", "/v1/x", "-c", file)
    assert result.exit_code == Exit.CONFIG


def test_a_gateway_that_was_named_and_is_not_there_is_a_failure() -> None:
    result = invoke("GET", "/v1/x", "--url", "http://127.0.0.1:1")
    assert result.exit_code == Exit.FAILURE
    assert "cannot be reached" in result.stderr
    assert "expected http://" in invoke("GET", "/v1/x", "--url", "127.0.0.1:1").stderr


def test_the_table_of_outcomes_is_printed() -> None:
    result = invoke("--outcomes")
    assert result.exit_code == Exit.CLEAN
    assert "insufficient_quota" in result.stdout and "rate_limited" in result.stdout


def test_an_explanation_without_a_plan_is_still_text() -> None:
    told = {"request": {"method": "GET", "path": "/", "host": "a", "model": None, "stream": False},
            "route": None, "answer": "404: no route takes it"}  # fmt: skip
    assert explain.text(told) == "GET /, host a\n  answer    404: no route takes it"
