"""A request that is too long for one model goes to another one, where the route asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from rig import CONFIG, MESSAGES, FaultKind, running

TOO_LONG = json.dumps(
    {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}
)
MOVES = CONFIG.replace("uris: [/v1/*]", "uris: [/v1/*]\n        on_context_length: move")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [FaultKind.STATUS, FaultKind.ERROR_EVENT])
def test_another_model_is_asked(ca_dir: Path, kind: FaultKind, stream: bool) -> None:
    parameters = {"status": 400, "body": TOO_LONG} if kind is FaultKind.STATUS else {"body": TOO_LONG}
    with running(ca_dir, MOVES) as rig:
        rig.fault(rig.openai, kind, **parameters)
        answer = httpx.post(
            f"{rig.base_url}/chat/completions",
            json={"model": "gpt-4o", "messages": MESSAGES, "stream": stream},
            timeout=60,
        )
        assert answer.status_code == 200
        assert answer.headers["x-fastgw-upstream"] == "api.deepseek.com:443"
        assert answer.headers["x-fastgw-attempts"] == "2"


def test_a_node_that_has_the_same_model_is_not_asked(ca_dir: Path) -> None:
    same = MOVES.replace("host: api.deepseek.com", 'host: api.deepseek.com\n          models: {"*": gpt-4o}')
    with running(ca_dir, same) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=400, body=TOO_LONG)
        answer = httpx.post(
            f"{rig.base_url}/chat/completions", json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60
        )
        assert (answer.status_code, answer.text) == (400, TOO_LONG)
        assert answer.headers["x-fastgw-attempts"] == "1"


def test_the_caller_learns_it_if_no_other_model_has_it(ca_dir: Path) -> None:
    with running(ca_dir, MOVES) as rig:
        for provider in (rig.openai, rig.deepseek):
            rig.fault(provider, FaultKind.STATUS, status=400, body=TOO_LONG)
        answer = httpx.post(
            f"{rig.base_url}/chat/completions", json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert answer.headers["x-fastgw-attempts"] == "2"


def test_without_the_setting_nobody_else_is_asked(ca_dir: Path) -> None:
    with running(ca_dir) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=400, body=TOO_LONG)
        answer = httpx.post(
            f"{rig.base_url}/chat/completions", json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60
        )
        assert (answer.status_code, answer.text) == (400, TOO_LONG)
        assert answer.headers["x-fastgw-attempts"] == "1"
