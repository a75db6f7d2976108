"""An agent's conversation, which is moved from provider to provider at every turn of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from rig import CONFIG, FaultKind, Rig, running

TURNS = 21
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "strict": True,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
# What an OpenAI agent of today sends, and DeepSeek does not know.
ASK: dict[str, Any] = {
    "tools": TOOLS,
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "max_completion_tokens": 500,
    "store": False,
}
DEEPSEEK_FIRST = (
    CONFIG.replace("weight: 100\n", "weight: 100\n          priority: -2\n").replace(
        'Bearer ${OPENAI_API_KEY}"}}\n',
        'Bearer ${OPENAI_API_KEY}"}}\n          models: {"deepseek-*": gpt-4o}\n',
    )
)  # fmt: skip

CONVERSATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "made for openai": (CONFIG, {**ASK, "model": "gpt-4o"}),
    "made for openai, with thoughts": (CONFIG, {**ASK, "model": "gpt-5", "reasoning_effort": "medium"}),
    "made for deepseek": (
        DEEPSEEK_FIRST,
        {"model": "deepseek-flash", "tools": TOOLS, "max_tokens": 500, "extra_body": {"user_id": "u-1"}},
    ),
}


@pytest.fixture(params=CONVERSATIONS)
def conversation(request: pytest.FixtureRequest, ca_dir: Path) -> Iterator[tuple[Rig, dict[str, Any]]]:
    config, ask = CONVERSATIONS[request.param]
    with running(ca_dir, config) as rig:
        yield rig, ask


def ask_whole(client: OpenAI, ask: dict[str, Any]) -> dict[str, Any]:
    """The assistant's turn, as a program appends it to its history."""
    return client.chat.completions.create(**ask).choices[0].message.model_dump(exclude_none=True)


def ask_streamed(client: OpenAI, ask: dict[str, Any]) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant", "content": ""}
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            delta: Any = choice.delta.model_dump(exclude_none=True)
            turn["content"] += delta.get("content", "")
            if "reasoning_content" in delta:
                turn["reasoning_content"] = turn.get("reasoning_content", "") + delta["reasoning_content"]
            for part in delta.get("tool_calls", ()):
                calls = turn.setdefault("tool_calls", [])
                if "id" in part:
                    calls.append({"id": part["id"], "type": "function", "function": dict(part["function"])})
                else:
                    calls[-1]["function"]["arguments"] += part["function"]["arguments"]
    return turn


def without_reasoning(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in turn.items() if key != "reasoning_content"} for turn in messages]


@pytest.mark.parametrize("speak", [ask_whole, ask_streamed])
def test_a_conversation_goes_on_wherever_it_is_moved(
    conversation: tuple[Rig, dict[str, Any]], speak: Any
) -> None:
    rig, ask = conversation
    providers = (rig.openai, rig.deepseek)
    history: list[dict[str, Any]] = [{"role": "system", "content": "You are an agent."}]
    if "max_completion_tokens" in ask:
        history[0]["role"] = "developer"
    called: set[str] = set()
    with OpenAI(base_url=rig.base_url, api_key="sk-any", max_retries=0, timeout=30) as client:
        for number in range(TURNS):
            answering = providers[number % 2]
            rig.fault(answering, None)
            rig.fault(providers[1 - number % 2], FaultKind.STATUS, status=500, paths="api")
            last = history[-1]
            if last.get("tool_calls"):
                call = last["tool_calls"][0]
                history.append({"role": "tool", "tool_call_id": call["id"], "content": f"sunny {number}"})
            else:
                wish = f"say {number}" if number % 3 == 2 else f"call get_weather {number}"
                history.append({"role": "user", "content": wish})
            turn = speak(client, {**ask, "messages": history})

            record = rig.call(lambda p=answering: [r for r in p.requests if r.path != "/"][-1])
            sent = json.loads(record.body)["messages"]
            roles = {"developer": "system"} if answering is rig.deepseek else {}
            expected = [{**said, "role": roles.get(said["role"], said["role"])} for said in history]
            assert without_reasoning(sent) == without_reasoning(expected), f"turn {number}"
            if answering is rig.deepseek:  # its own thoughts came back as they were
                for said, got in zip(history, sent, strict=True):
                    assert said.get("reasoning_content", got.get("reasoning_content")) == got.get(
                        "reasoning_content"
                    )
            if turn.get("tool_calls"):
                called.add(answering.name)
                assert json.loads(turn["tool_calls"][0]["function"]["arguments"]).keys() == {"city"}
            else:
                assert str(number) in turn["content"]
            history.append(turn)
    assert called == {"openai", "deepseek"}  # each of them has taken up a call of the other
    assert len(history) == 1 + 2 * TURNS
    records = rig.call(lambda: [r for p in providers for r in p.requests if r.path != "/"])
    assert {record.status for record in records} == {200, 500}
    assert sum(record.status == 200 for record in records) == TURNS
