"""The unmodified openai SDK for Python; ``base_url`` is the only change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from rig import DEEPSEEK, MESSAGES, OPENAI, PATIENT_S, FaultKind, Rig, running

SAID = "You said: say hello"
ASK: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]

# What the primary is when a test begins; the answer is the same each time.
CONDITIONS: dict[str, tuple[FaultKind | None, dict[str, Any]]] = {
    "healthy": (None, {}),
    "refusing": (FaultKind.REFUSE, {}),
    "500": (FaultKind.STATUS, {"status": 500}),
    "429": (FaultKind.STATUS, {"status": 429}),
    "reset": (FaultKind.RESET_BEFORE_HEAD, {}),
}


@pytest.fixture(params=CONDITIONS)
def condition(request: pytest.FixtureRequest, rig: Rig) -> str:
    """The rig's primary is in this condition."""
    kind, parameters = CONDITIONS[request.param]
    rig.fault(rig.openai, kind, **parameters)
    return str(request.param)


@pytest.fixture
def client(rig: Rig) -> Iterator[OpenAI]:
    with OpenAI(base_url=rig.base_url, api_key="sk-of-the-caller", max_retries=0, timeout=30) as made:
        yield made


# --- Answers ----------------------------------------------------------------------------------


def test_a_chat_completion(client: OpenAI, condition: str) -> None:
    got = client.chat.completions.create(**ASK)
    assert got.choices[0].message.content == SAID
    assert got.choices[0].finish_reason == "stop"
    assert got.usage is not None
    assert got.usage.total_tokens > 0


def test_a_chat_stream(client: OpenAI, condition: str) -> None:
    chunks = list(client.chat.completions.create(**ASK, stream=True))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == SAID
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]


def test_a_chat_stream_with_usage(client: OpenAI, condition: str) -> None:
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options=options))
    used = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert len(used) == 1
    assert used[0].completion_tokens > 0


def test_the_async_client(rig: Rig, condition: str) -> None:
    async def ask() -> list[str]:
        async with AsyncOpenAI(base_url=rig.base_url, api_key="sk-any", max_retries=0, timeout=30) as client:
            whole = await client.chat.completions.create(**ASK)
            stream = await client.chat.completions.create(**ASK, stream=True)
            texts = [c.delta.content or "" async for chunk in stream for c in chunk.choices]
            many = await asyncio.gather(*(client.chat.completions.create(**ASK) for _ in range(20)))
            return [whole.choices[0].message.content or "", "".join(texts)] + [
                one.choices[0].message.content or "" for one in many
            ]

    assert asyncio.run(ask()) == [SAID] * 22


def test_a_tool_call(client: OpenAI, condition: str) -> None:
    messages: Any = [{"role": "user", "content": "call get_weather"}]
    ask: Any = {"model": "gpt-4o", "messages": messages, "tools": TOOLS}
    got = client.chat.completions.create(**ask)
    calls = got.choices[0].message.tool_calls
    assert calls is not None
    assert got.choices[0].finish_reason == "tool_calls"
    call: Any = calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city"}
    # The conversation goes on with what the tool said.
    said = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = client.chat.completions.create(**{**ask, "messages": [*messages, got.choices[0].message, said]})
    assert "The tool said: sunny" in (after.choices[0].message.content or "")


def test_a_streamed_tool_call(client: OpenAI, condition: str) -> None:
    messages: Any = [{"role": "user", "content": "call get_weather"}]
    ask: Any = {"model": "gpt-4o", "messages": messages, "tools": TOOLS}
    name = arguments = ""
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == "get_weather"
    assert json.loads(arguments).keys() == {"city"}


def test_the_stream_helper_puts_the_answer_together(client: OpenAI, condition: str) -> None:
    with client.chat.completions.stream(**ASK) as stream:
        assert any(event.type == "content.delta" for event in stream)
        assert stream.get_final_completion().choices[0].message.content == SAID


class City(BaseModel):
    name: str
    inhabitants: int


def test_an_answer_that_is_parsed(client: OpenAI, condition: str) -> None:
    got = client.chat.completions.parse(**ASK, response_format=City)
    assert isinstance(got.choices[0].message.parsed, City)


def test_a_plain_completion(client: OpenAI) -> None:
    got = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="say hello")
    assert got.choices[0].text.strip() == SAID
    texts = [
        chunk.choices[0].text
        for chunk in client.completions.create(
            model="gpt-3.5-turbo-instruct", prompt="say hello", stream=True
        )
        if chunk.choices
    ]
    assert "".join(texts).strip() == SAID


def test_embeddings(client: OpenAI) -> None:
    got = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [item.index for item in got.data] == [0, 1]
    assert len(got.data[0].embedding) == len(got.data[1].embedding) > 0
    assert got.data[0].embedding != got.data[1].embedding


def test_models(client: OpenAI) -> None:
    assert "gpt-4o" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"


def test_responses(client: OpenAI) -> None:
    got = client.responses.create(model="gpt-4o", input="say hello")
    assert got.output_text == SAID
    events = list(client.responses.create(model="gpt-4o", input="say hello", stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAID


def test_the_providers_request_id_and_ours_are_there(client: OpenAI, rig: Rig) -> None:
    got = client.chat.completions.with_raw_response.create(**ASK)
    assert got.headers["x-fastgw-upstream"] == OPENAI
    assert got.request_id is not None
    assert got.request_id.startswith("req_openai_")
    assert got.headers["x-fastgw-request-id"]
    rig.fault(rig.openai, FaultKind.STATUS, status=500)
    got = client.chat.completions.with_raw_response.create(**ASK)
    assert got.headers["x-fastgw-upstream"] == DEEPSEEK
    assert got.request_id is not None
    assert got.request_id.startswith("req_deepseek_")


# --- Errors -----------------------------------------------------------------------------------


def test_the_callers_mistakes_raise_what_the_provider_would(client: OpenAI, rig: Rig) -> None:
    wrong: Any = [{"role": "nobody", "content": "x"}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="gpt-4o", messages=wrong, stream=stream)
        assert caught.value.param == "messages[0].role"
        assert caught.value.code == "invalid_value"
        assert "nobody" in caught.value.message
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="text-embedding-3-small", input=[])
    with pytest.raises(openai.NotFoundError):
        client.post("/no/such/path", cast_to=object, body={})
    # (Closed, or its connection is found unclosed by whichever test collects the garbage.)
    with (
        OpenAI(base_url=rig.url + "/v9", api_key="x", max_retries=0) as elsewhere,
        pytest.raises(openai.NotFoundError) as missing,
    ):
        elsewhere.models.list()
    assert missing.value.code == "route_not_found"
    assert all(item.state == 0 for item in rig.nodes().values())


def test_a_model_that_only_the_backup_knows_is_answered_by_it(client: OpenAI, rig: Rig) -> None:
    ask: Any = {**ASK, "model": "deepseek-flash"}
    got = client.chat.completions.with_raw_response.create(**ask)
    assert got.headers["x-fastgw-upstream"] == DEEPSEEK
    assert rig.nodes()[OPENAI].state == 0


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (401, openai.InternalServerError),  # it is the gateway's key: the caller's is fine
    ],
)
def test_both_broken_raise_what_the_sdk_knows(
    client: OpenAI, rig: Rig, status: int, expected: type[openai.APIStatusError]
) -> None:
    for provider in (rig.openai, rig.deepseek):
        rig.fault(provider, FaultKind.STATUS, status=status)
    for stream in (False, True):
        with pytest.raises((expected, openai.InternalServerError)) as caught:
            client.chat.completions.create(**ASK, stream=stream)
        assert caught.value.response.headers["retry-after"]
        assert caught.value.request_id


def test_the_sdks_own_retries_do_not_multiply_ours(rig: Rig) -> None:
    for provider in (rig.openai, rig.deepseek):
        rig.fault(provider, FaultKind.STATUS, status=500, paths="api")
    with OpenAI(base_url=rig.base_url, api_key="sk-any", timeout=30) as client:  # retries twice by default
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**ASK)
    asked = [
        record.path
        for provider in (rig.openai, rig.deepseek)
        for record in rig.call(lambda p=provider: list(p.requests))
        if record.path != "/"
    ]
    assert len(asked) == 2


class Patient(httpx.HTTPTransport):
    """Waits longer than the SDK has told: how late an answer comes here says something of the machine."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["timeout"] = httpx.Timeout(60).as_dict()
        return super().handle_request(request)


def test_the_callers_patience_is_respected(ca_dir: Path) -> None:
    """The SDK tells how long its caller waits; the gateway is done before that."""
    with running(ca_dir) as rig:
        for provider in (rig.openai, rig.deepseek):
            rig.fault(provider, FaultKind.HANG_BEFORE_HEAD, paths="api")
        begin = monotonic()
        with httpx.Client(transport=Patient()) as http:
            client = OpenAI(
                base_url=rig.base_url, api_key="sk-any", max_retries=0, timeout=3, http_client=http
            )
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(**ASK)
        assert caught.value.status_code == 504
        assert 2.6 < monotonic() - begin < PATIENT_S  # before the first deadline
