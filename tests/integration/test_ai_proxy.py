"""APISIX's ai-proxy and ai-proxy-multi, before the two simulated providers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rig import MESSAGES, Fault, FaultKind, Rig, running, wait_until

from fastgw.simulator.provider import Record

GPT = """\
              - name: gpt
                provider: openai
                weight: 8
                priority: 1
                auth: {header: {Authorization: "Bearer ${OPENAI_API_KEY}"}}
"""
DEEP = """\
              - name: deep
                provider: deepseek
                weight: 1
                auth: {header: {Authorization: "Bearer ${DEEPSEEK_API_KEY}"}}
                options: {model: deepseek-flash}
"""
DEADLINES = "deadlines: {head: 20, first_content: 20, progress: 20, idle: 20, connect: 20, total: 60}"
CHAT = {"model": "gpt-4o", "messages": MESSAGES}
KEYS = {"openai": "sk-sim-openai", "deepseek": "sk-sim-deepseek"}


def config(fields: str = "", instances: str = GPT + DEEP, top: str = "", deadlines: str = DEADLINES) -> str:
    """A service without upstream: the plugin brings it. ``fields`` stand beside ``instances``."""
    lines = "".join(f"            {line}\n" for line in fields.splitlines())
    return f"""\
fastgw: {{dead_reprobe: 1, account_checks: false}}
{top}
services:
  - name: LLM Service
    routes:
      - name: ai
        uris: [/ai, /v1/*]
        {deadlines}
        plugins:
          ai-proxy-multi:
{lines}            instances:
{instances}"""


@pytest.fixture
def rig(ca_dir: Path) -> Iterator[Rig]:
    with running(ca_dir, config()) as started:
        yield started


def ask(rig: Rig, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
    return httpx.post(f"{rig.url}{path}", json={**CHAT, **fields}, timeout=60)


def cut_off(answer: httpx.Response) -> bytes:
    """What came of a streamed answer that is not ended as it should be."""
    text = b""
    try:
        for piece in answer.iter_raw():
            text += piece
    except httpx.RemoteProtocolError:
        return text
    raise AssertionError("it ended as if it were whole")


def asked(rig: Rig, provider: str) -> list[Record]:
    """What reached a provider; there are no probes unless an instance has checks."""
    simulated = rig.simulator.providers[provider]
    return rig.call(lambda: list(simulated.requests))


# --- The way of a request ---------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (FaultKind.REFUSE, {}),
        (FaultKind.STATUS, {"status": 500}),
        (FaultKind.STATUS, {"status": 429}),
        (FaultKind.STATUS, {"status": 401}),
        (FaultKind.ERROR_EVENT, {}),
    ],
    ids=["refused", "500", "429", "401", "error event"],
)
def test_the_next_instance_answers_without_a_fallback_strategy(
    rig: Rig, kind: FaultKind, parameters: dict[str, Any], stream: bool
) -> None:
    answer = ask(rig, stream=stream)
    assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, "gpt")
    rig.fault(rig.openai, kind, **parameters)
    answer = ask(rig, stream=stream)
    assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, "deep")
    assert stream or answer.json()["choices"][0]["message"]["content"].startswith("You said")
    (record,) = asked(rig, "deepseek")
    assert record.path == "/chat/completions"  # where this provider has it
    assert json.loads(record.body)["model"] == "deepseek-flash"


def test_a_key_goes_to_its_own_instance_only(rig: Rig) -> None:
    headers = {"authorization": "Bearer sk-of-the-caller", "openai-organization": "org", "cookie": "a=b"}
    for fault in (None, FaultKind.RESET_BEFORE_HEAD):
        rig.fault(rig.openai, fault)
        answer = httpx.post(f"{rig.base_url}/chat/completions", json=CHAT, headers=headers, timeout=60)
        assert answer.status_code == 200
    for provider, key in KEYS.items():
        records = asked(rig, provider)
        assert records
        for record in records:
            text = repr(record.headers) + record.path
            assert record.authorization == f"Bearer {key}"
            assert not [other for other in KEYS.values() if other != key and other in text]
            assert "caller" not in text
            assert "cookie" not in text


@pytest.mark.parametrize(
    ("path", "body", "call"),
    [
        ("/ai", CHAT, "/v1/chat/completions"),
        ("/ai?x=1", CHAT, "/v1/chat/completions"),
        ("/ai", {"model": "text-embedding-3-small", "input": "a"}, "/v1/embeddings"),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "a"}, "/v1/embeddings"),
        ("/v1/responses", {"model": "gpt-4o", "input": "a"}, "/v1/responses"),
    ],
)
def test_a_call_is_known_by_its_path_or_its_body(
    rig: Rig, path: str, body: dict[str, Any], call: str
) -> None:
    answer = httpx.post(f"{rig.url}{path}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    (record,) = asked(rig, "openai")
    assert (record.method, record.path) == ("POST", call)
    assert json.loads(record.body) == body
    assert record.header("content-type") == "application/json"


def test_other_calls_pass_as_they_are(rig: Rig) -> None:
    answer = httpx.get(f"{rig.base_url}/models", timeout=60)
    assert answer.status_code == 200
    (record,) = asked(rig, "openai")
    assert (record.method, record.path) == ("GET", "/v1/models")


def test_a_failure_on_a_path_of_our_own_moves_like_the_call_that_it_is(rig: Rig) -> None:
    rig.fault(rig.openai, FaultKind.RESET_BEFORE_HEAD)
    answer = ask(rig, "/ai")
    assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, "deep")


def test_the_path_of_an_endpoint_is_used_as_it_is(ca_dir: Path) -> None:
    instance = """\
              - name: other
                provider: openai-compatible
                weight: 1
                auth:
                  header: {Authorization: "Bearer ${OPENAI_API_KEY}"}
                override: {endpoint: "https://api.openai.com/v1/chat/completions?version=2"}
"""
    with running(ca_dir, config(instances=instance)) as rig:
        assert ask(rig, "/ai?mine=1").status_code == 200
        (record,) = asked(rig, "openai")
        assert record.path == "/v1/chat/completions"


def test_ai_proxy_is_one_instance(ca_dir: Path) -> None:
    text = """\
services:
  - name: LLM Service
    plugins:
      ai-proxy:
        provider: deepseek
        auth: {header: {Authorization: "Bearer ${DEEPSEEK_API_KEY}"}}
        options: {model: deepseek-flash}
    routes:
      - {name: one, uris: [/one]}
      - {name: two, uris: [/two]}
"""
    with running(ca_dir, text) as rig:
        for path in ("/one", "/two"):
            answer = ask(rig, path)
            assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, "ai-proxy-deepseek")
        assert len(rig.nodes()) == 1  # both routes have the plugin of their service, and its health
        rig.fault(rig.deepseek, FaultKind.STATUS, status=500)
        answer = ask(rig, "/one")
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"


def test_two_instances_at_one_place_have_health_of_their_own(ca_dir: Path) -> None:
    twins = GPT + GPT.replace("gpt", "mini").replace("priority: 1", "priority: 0")
    with running(ca_dir, config(instances=twins)) as rig:
        rig.call(lambda: rig.openai.faults.append(Fault(FaultKind.STATUS, status=429)))
        answer = ask(rig)
        assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, "mini")
        assert len(rig.nodes()) == 2


# --- What is written over the body --------------------------------------------------------------


OPTIONS = """\
                options: {model: gpt-4o-mini, temperature: 0.1}
                override:
                  llm_options: {max_tokens: 7}
                  request_body:
                    openai-chat: {user: ours, metadata: {a: b}}
                    openai-embeddings: {user: other}
"""


def test_the_options_of_an_instance_are_written_over_its_requests_alone(ca_dir: Path) -> None:
    with running(ca_dir, config(instances=GPT + OPTIONS + DEEP)) as rig:
        rig.call(lambda: rig.openai.faults.append(Fault(FaultKind.STATUS, status=500)))
        answer = ask(rig, "/ai", temperature=0.9, max_tokens=99, user="mine")
        assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, "deep")
        sent = json.loads(asked(rig, "openai")[0].body)
        assert (sent["model"], sent["temperature"]) == ("gpt-4o-mini", 0.1)
        assert sent["max_completion_tokens"] == 7
        assert "max_tokens" not in sent
        assert (sent["user"], sent["metadata"]) == ("mine", {"a": "b"})  # the client's value wins
        other = json.loads(asked(rig, "deepseek")[0].body)
        assert (other["model"], other["temperature"], other["max_tokens"]) == ("deepseek-flash", 0.9, 99)
        assert "metadata" not in other


def test_what_is_written_depends_on_the_kind_of_call(ca_dir: Path) -> None:
    options = (
        OPTIONS.replace("model: gpt-4o-mini, ", "") + "                  request_body_force_override: true\n"
    )
    with running(ca_dir, config(instances=GPT + options)) as rig:
        assert ask(rig, user="mine").status_code == 200
        vectors = {"model": "text-embedding-3-small", "input": "a", "user": "mine"}
        assert httpx.post(f"{rig.base_url}/embeddings", json=vectors, timeout=60).status_code == 200
        chat, embedding = (json.loads(record.body) for record in asked(rig, "openai"))
        assert (chat["user"], chat["max_completion_tokens"]) == ("ours", 7)
        assert embedding == {**vectors, "user": "other", "temperature": 0.1}


def test_a_model_is_asked_for_even_if_the_client_names_none(ca_dir: Path) -> None:
    with running(ca_dir, config(instances=DEEP)) as rig:
        assert httpx.post(f"{rig.url}/ai", json={"messages": MESSAGES}, timeout=60).status_code == 200
        assert json.loads(asked(rig, "deepseek")[0].body)["model"] == "deepseek-flash"


def test_an_instance_without_the_endpoint_is_passed_over(ca_dir: Path) -> None:
    first = DEEP.replace("weight: 1", "weight: 1\n                priority: 2").replace("deep\n", "first\n")
    with running(ca_dir, config(instances=GPT + first)) as rig:
        answer = httpx.post(
            f"{rig.base_url}/embeddings", json={"model": "text-embedding-3-small", "input": "a"}, timeout=60
        )
        assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, "gpt")
        assert not asked(rig, "deepseek")


# --- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "headers", "status", "says"),
    [
        (b"{}", {"content-type": "text/plain"}, 400, "application/json"),
        (b"", {}, 400, "empty"),
        (b"[]", {}, 400, "not a JSON object"),
        (b'{"messages"', {}, 400, "not a JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    rig: Rig, content: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    answer = httpx.post(f"{rig.url}/ai", content=content, headers=headers, timeout=60)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert not asked(rig, "openai")


def test_a_body_over_the_limit_is_refused(ca_dir: Path) -> None:
    body = json.dumps({**CHAT, "user": "u" * 2000}).encode()

    def pieces() -> Iterator[bytes]:
        yield body[:1000]
        yield body[1000:]

    with running(ca_dir, config("max_req_body_size: 1000")) as rig:
        for content in (body, pieces()):
            answer = httpx.post(
                f"{rig.url}/ai", content=content, headers={"content-type": "application/json"}, timeout=60
            )
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "request_too_large"
        assert ask(rig).status_code == 200


def test_a_body_that_cannot_be_held_is_refused_for_it_cannot_be_changed(ca_dir: Path) -> None:
    text = config().replace("dead_reprobe: 1", "dead_reprobe: 1, hold_body_bytes: 1024")
    with running(ca_dir, text) as rig:
        assert ask(rig, user="u" * 500_000).status_code == 413
        assert not asked(rig, "openai")


# --- Falling back -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected", "node"),
    [
        (429, 200, "deep"),
        (503, 200, "deep"),
        (418, 200, "deep"),  # listed, though it would be the caller's mistake
        (401, 502, None),
        (402, 402, None),
    ],
)
def test_statuses_that_are_written_decide(ca_dir: Path, status: int, expected: int, node: str | None) -> None:
    fields = "fallback_strategy: [rate_limiting, http_429, http_5xx]\nfallback_http_statuses: [418]"
    with running(ca_dir, config(fields)) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=status)
        answer = ask(rig)
        assert (answer.status_code, answer.headers.get("x-fastgw-upstream")) == (expected, node)
        if node is None:
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        rig.fault(rig.openai, FaultKind.REFUSE)
        assert ask(rig).status_code == 200  # no answer at all: nothing is listed that would stop it


def test_a_strategy_that_names_no_status_leaves_it_to_the_meaning(ca_dir: Path) -> None:
    with running(ca_dir, config("fallback_strategy: instance_health_and_rate_limiting")) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=401)
        assert ask(rig).headers["x-fastgw-upstream"] == "deep"


def test_listed_failures_move_as_often_as_there_are_instances(ca_dir: Path) -> None:
    second = GPT.replace("gpt", "second")
    with running(ca_dir, config("fallback_strategy: http_5xx", GPT + second + DEEP)) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        answer = ask(rig)
        assert (answer.status_code, answer.headers["x-fastgw-attempts"]) == (200, "3")


def test_max_retries_bounds_the_attempts(ca_dir: Path) -> None:
    with running(ca_dir, config("max_retries: 0")) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        answer = ask(rig)
        assert (answer.status_code, answer.headers["x-fastgw-attempts"]) == (500, "1")
        assert not asked(rig, "deepseek")


def test_a_failure_that_took_too_long_is_the_last(ca_dir: Path) -> None:
    with running(ca_dir, config("retry_on_failure_within_ms: 3000", deadlines="deadlines: {head: 5}")) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        assert ask(rig).status_code == 200
        rig.fault(rig.openai, None)
        wait_until(lambda: ask(rig).headers.get("x-fastgw-upstream") == "gpt", "the primary is back")
        before = len(asked(rig, "deepseek"))
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)  # 5 s, the deadline of the route
        assert ask(rig).status_code == 504
        assert len(asked(rig, "deepseek")) == before


def test_when_all_were_tried_the_last_error_is_the_answer(rig: Rig) -> None:
    rig.fault(rig.openai, FaultKind.STATUS, status=500)
    rig.fault(rig.deepseek, FaultKind.STATUS, status=429, headers=(("retry-after", "7"),))
    answer = ask(rig)
    assert answer.status_code == 429
    assert answer.json()["error"].keys() >= {"message", "type", "code"}
    assert "sk-" not in answer.text


def test_nothing_is_retried_after_output(ca_dir: Path) -> None:
    with running(ca_dir, config("fallback_strategy: [http_429, http_5xx]")) as rig:
        rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=5)
        with httpx.stream("POST", f"{rig.url}/ai", json={**CHAT, "stream": True}, timeout=60) as answer:
            assert answer.headers["x-fastgw-upstream"] == "gpt"
            text = cut_off(answer)
        assert b'"error"' in text
        assert b"[DONE]" not in text
        assert not asked(rig, "deepseek")


def test_a_stream_ends_honestly_when_its_time_is_over(ca_dir: Path) -> None:
    with running(ca_dir, config("max_stream_duration_ms: 4000")) as rig:
        rig.fault(rig.openai, FaultKind.STALL, after=5)
        with httpx.stream("POST", f"{rig.url}/ai", json={**CHAT, "stream": True}, timeout=60) as answer:
            text = cut_off(answer)
        assert b"deadline_exceeded" in text
        assert b"[DONE]" not in text
        assert rig.nodes()["gpt"].state.name == "HEALTHY"


# --- Profile apisix ---------------------------------------------------------------------------

APISIX = "profile: apisix"


@pytest.mark.parametrize("status", [401, 429, 500])
def test_apisix_passes_an_error_on_where_no_strategy_is_written(ca_dir: Path, status: int) -> None:
    with running(ca_dir, config(top=APISIX)) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=status, body='{"error": {"message": "as it came"}}')
        answer = ask(rig)
        assert (answer.status_code, answer.text) == (status, '{"error": {"message": "as it came"}}')
        rig.fault(rig.openai, FaultKind.REFUSE)
        assert ask(rig).status_code == 502
        assert not asked(rig, "deepseek")


def test_apisix_moves_what_the_strategy_names_and_nothing_else(ca_dir: Path) -> None:
    second = GPT.replace("gpt", "second")
    with running(ca_dir, config("fallback_strategy: [http_5xx]", GPT + second + DEEP, APISIX)) as rig:
        for kind, parameters in (
            (FaultKind.STATUS, {"status": 500}),
            (FaultKind.REFUSE, {}),
            (FaultKind.RESET_BEFORE_HEAD, {}),
        ):
            rig.fault(rig.openai, kind, **parameters)
            answer = ask(rig)
            assert (answer.status_code, answer.headers["x-fastgw-attempts"]) == (200, "3"), kind
        rig.fault(rig.openai, FaultKind.STATUS, status=429, body='{"error": {"message": "as it came"}}')
        answer = ask(rig)
        assert (answer.status_code, answer.text) == (429, '{"error": {"message": "as it came"}}')
        assert answer.headers["x-fastgw-attempts"] == "1"


# --- Probes -----------------------------------------------------------------------------------


def test_the_probes_of_an_instance_carry_its_auth(ca_dir: Path) -> None:
    checked = GPT + "                checks: {active: {http_path: /v1/models, healthy: {successes: 1}}}\n"
    with running(ca_dir, config(instances=checked + DEEP)) as rig:
        wait_until(lambda: bool(asked(rig, "openai")), "a probe")
        record = asked(rig, "openai")[0]
        assert (record.method, record.path) == ("GET", "/v1/models")
        assert record.authorization == "Bearer sk-sim-openai"
        assert not asked(rig, "deepseek")  # no checks, no probes
        rig.fault(rig.openai, FaultKind.REFUSE)
        wait_until(lambda: rig.nodes()["gpt"].state.name == "UNHEALTHY", "the probes find it out")
        found = httpx.get(f"{rig.admin_url}/v1/healthcheck/routes/ai", timeout=60).json()
        assert found["type"] == "https"
        rig.fault(rig.openai, None)
        wait_until(lambda: rig.nodes()["gpt"].state.name == "HEALTHY", "the probes find it well")
        assert ask(rig).headers["x-fastgw-upstream"] == "gpt"
