"""`fastgw explain` asks a running gateway: the plan is the one for the nodes' present health."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from click.testing import CliRunner
from rig import CONFIG, DEEPSEEK, MESSAGES, OPENAI, FaultKind, Rig, running

from fastgw.cli import main
from fastgw.secret import Secret

CHAT = "/v1/chat/completions"
QUIET = CONFIG[: CONFIG.index("      checks:")]  # without probes


def ask(rig: Rig, **asked: str) -> httpx.Response:
    return httpx.get(f"{rig.admin_url}/admin/explain?{urlencode(asked)}", timeout=30)


def plan(rig: Rig, **asked: str) -> Any:
    answer = ask(rig, **{"method": "POST", "path": CHAT, "model": "gpt-4o", **asked})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_command_prints_what_the_gateway_says(rig: Rig) -> None:
    arguments = ["explain", "POST", CHAT, "--url", rig.admin_url, "--body", "-"]
    body = json.dumps({"model": "gpt-4o", "messages": MESSAGES})
    result = CliRunner().invoke(main, arguments, input=body)
    assert result.exit_code == 0, result.stderr
    assert "as the running gateway sees it now" in result.stdout
    assert "deepseek-flash (mapped)" in result.stdout
    assert "Failover would work now." in result.stdout
    told = json.loads(CliRunner().invoke(main, [*arguments, "--format", "json"], input=body).stdout)
    assert [attempt["node"] for attempt in told["attempts"]] == [OPENAI, DEEPSEEK]
    assert told["health"] == "now" and told["upstream"]["backup_ready"] is True


def test_the_plan_follows_the_nodes_health_and_is_the_one_that_is_carried_out(ca_dir: Any) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=503, headers=(("retry-after", "60"),))
        answer = httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
        assert answer.headers["x-fastgw-upstream"] == DEEPSEEK
        found = plan(rig)
        first, last = found["attempts"]
        assert (first["node"], first["share"], first["picked_as"]) == (DEEPSEEK, 1.0, "normal")
        # Better a node that is out than none: what the selector does, and so what is said.
        assert (last["node"], last["share"], last["picked_as"]) == (OPENAI, 0.0, "panic")
        assert last["health"].startswith("busy for ")
        assert found["upstream"]["backup_ready"] is False and found["upstream"]["reasons"]
        answer = httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
        assert answer.headers["x-fastgw-attempts"] == "1"


def test_a_model_that_rests_on_a_node_is_not_planned_there(ca_dir: Any) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=429, headers=(("retry-after", "600"),))
        answer = httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
        assert answer.headers["x-fastgw-upstream"] == DEEPSEEK
        found = plan(rig)
        assert [attempt["node"] for attempt in found["attempts"]] == [DEEPSEEK]
        assert found["attempts"][0]["share"] == 1.0
        [left] = found["left_out"]
        assert left["node"] == OPENAI
        assert left["why"].startswith("gpt-4o is rate_limited there, tried again in ")


def test_asking_changes_nothing(ca_dir: Any) -> None:
    """Not even a trial is taken, and the turn of no node is used up."""
    with running(ca_dir, QUIET) as rig:
        node = rig.nodes()[OPENAI]
        rig.call(lambda: node.eject(0.001, 1))
        before = [(each.picks, each.in_flight, each.verdict, repr(each)) for each in rig.nodes().values()]
        for _ in range(3):
            found = plan(rig)
            assert found["attempts"][0]["picked_as"] == "trial"
        assert before == [
            (each.picks, each.in_flight, each.verdict, repr(each)) for each in rig.nodes().values()
        ]


@pytest.mark.parametrize("until", ["dead", "full"])
def test_a_node_that_is_out_is_left_out_with_its_reason(ca_dir: Any, until: str) -> None:
    text = QUIET.replace("          weight: 100\n", "          weight: 100\n          max_in_flight: 1\n")
    with running(ca_dir, text) as rig:
        node = rig.nodes()[OPENAI]
        if until == "full":
            generation = rig.gateway.generation
            assert generation is not None
            (built,) = generation.upstreams.values()
            held = rig.call(lambda: built.upstream.start_attempt(1.0))
            assert held is not None and held.node is node
        else:
            rig.call(lambda: node.kill(1e12))
        found = plan(rig)
        assert [attempt["node"] for attempt in found["attempts"]] == [DEEPSEEK]
        (left,) = found["left_out"]
        assert {"dead": "key refused", "full": "full with 1"}[until] in left["why"]
        if until == "full":
            rig.call(lambda: held.ignored(1.0))  # type: ignore[union-attr]


@pytest.mark.parametrize("until", ["cooling", "ejected", "probes"])
def test_a_node_that_is_out_comes_last(ca_dir: Any, until: str) -> None:
    with running(ca_dir, QUIET) as rig:
        node = rig.nodes()[OPENAI]
        put_out = {
            "cooling": lambda: node.cool(1e12),
            "ejected": lambda: node.eject(1e12, 1),
            "probes": lambda: (node.eject(0.001, 2), node.note_probe(True, 1e12)),
        }
        rig.call(put_out[until])
        found = plan(rig)
        assert [attempt["node"] for attempt in found["attempts"]] == [DEEPSEEK, OPENAI]
        words = {"cooling": "busy for", "ejected": "found by live traffic, for", "probes": "found by probes"}
        assert words[until] in found["attempts"][1]["health"]


def test_when_no_node_may_be_used_that_is_said(ca_dir: Any) -> None:
    with running(ca_dir, QUIET) as rig:
        for node in rig.nodes().values():
            rig.call(lambda: node.kill(1e12))  # noqa: B023 (called at once)
        found = plan(rig)
        assert found["attempts"] == [] and found["answer"].startswith("503")
        arguments = ["explain", "POST", CHAT, "--url", rig.admin_url]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        assert "no node may be used now" in result.stdout


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "method and path are needed"),
        ({"method": "GET", "path": "v1"}, "does not begin with /"),
        ({"method": "GET", "path": "/v1", "colour": "x"}, "no such argument: colour"),
        ({str(number): "x" for number in range(21)}, "too many arguments"),
    ],
)
def test_a_question_that_is_none_is_refused(rig: Rig, asked: dict[str, str], says: str) -> None:
    answer = ask(rig, **asked)
    assert answer.status_code == 400
    assert says in answer.text


def test_the_admin_token_is_asked_for(ca_dir: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "a-token-of-enough-letters"
    with running(ca_dir, QUIET) as rig:
        rig.call(lambda: setattr(rig.admin, "token", Secret(token)))
        arguments = ["explain", "POST", CHAT, "--url", rig.admin_url]
        monkeypatch.delenv("FASTGW_ADMIN_TOKEN", raising=False)
        refused = CliRunner().invoke(main, arguments)
        assert refused.exit_code == 1 and "FASTGW_ADMIN_TOKEN" in refused.stderr
        monkeypatch.setenv("FASTGW_ADMIN_TOKEN", token)
        assert CliRunner().invoke(main, arguments).exit_code == 0
