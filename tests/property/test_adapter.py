"""Rendering has no memory, changes nothing twice, and says of every change that it was made."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from fastgw.llm.adapter import Adapter, Rendering
from fastgw.llm.body import EVERY_TRAIT, Trait, scan
from fastgw.llm.chat_request import ChatRequest, Misfit
from fastgw.llm.dialect import DIALECTS
from fastgw.llm.model_map import ModelMap

CHAT = b"/v1/chat/completions"
OPENAI = Adapter(DIALECTS["openai"], ModelMap([("gpt-*", None), ("o*", None), ("*", "gpt-4o")]))
DEEPSEEK = Adapter(DIALECTS["deepseek"], ModelMap(DIALECTS["deepseek"].models))
STRICT = Adapter(DIALECTS["deepseek"], ModelMap(DIALECTS["deepseek"].models), strict=True)
INSTANCE = Adapter(
    DIALECTS["deepseek"],
    options={"model": "deepseek-v4-pro", "temperature": 0, "seed": 1},
    max_tokens=7,
    patch={"stop": ["x"], "stream_options": {"include_usage": True}},
)
ADAPTERS = {
    "openai": OPENAI,
    "deepseek": DEEPSEEK,
    "strict": STRICT,
    "instance": INSTANCE,
    "compatible": Adapter(
        DIALECTS["openai-compatible"], capabilities={"json_schema": False, "images": False}
    ),
}

WORDS = st.sampled_from(
    ["hi", "developer", "prefix", "json", "reasoning_content", "tool_calls", 'a "custom" \\ tool', "é"]
)
ODD: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-3, 3) | WORDS | st.just([]) | st.just({})
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "text", "text", "image_url", "input_audio", "file"])},
    optional={"text": WORDS},
)
CALLS = st.lists(
    st.just({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}), max_size=2
)
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]),
        "content": WORDS | st.lists(PARTS, max_size=2) | st.none(),
    },
    optional={
        "tool_calls": CALLS | ODD,
        "reasoning_content": WORDS | st.none(),
        "function_call": ODD,
        "prefix": ODD,
        "audio": ODD,
        "name": WORDS,
    },
)
TOOLS = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "function", "custom"])},
    optional={"function": st.fixed_dictionaries({"name": WORDS}, optional={"strict": ODD}) | ODD},
)
FORMATS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema", "json_schema"])},
    optional={
        "json_schema": st.fixed_dictionaries({}, optional={"schema": st.just({"type": "object"}) | ODD})
    },
)
CHOICES: st.SearchStrategy[Any] = st.sampled_from(
    ["auto", "none", "required", {"type": "function"}, {"type": "custom"}]
)
EFFORTS = st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"])
STREAM_OPTIONS = st.sampled_from(["include_usage", "include_obfuscation"])
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["gpt-4o", "o3", "deepseek-flash", "deepseek-chat", "llama"]) | ODD,
        "messages": st.lists(MESSAGES | ODD, max_size=4) | ODD,
        "tools": st.lists(TOOLS | ODD, max_size=2) | ODD,
        "tool_choice": CHOICES | ODD,
        "response_format": FORMATS | ODD,
        "thinking": st.sampled_from([{"type": "enabled"}, {"type": "disabled"}]) | ODD,
        "reasoning_effort": EFFORTS | ODD,
        "max_tokens": st.integers(1, 9) | ODD,
        "max_completion_tokens": st.integers(1, 9) | ODD,
        "n": ODD,
        "seed": ODD,
        "logit_bias": ODD,
        "logprobs": ODD,
        "modalities": st.just(["audio"]) | ODD,
        "functions": ODD,
        "parallel_tool_calls": ODD,
        "stream_options": st.dictionaries(STREAM_OPTIONS, ODD) | ODD,
        "stop": ODD,
        "temperature": ODD,
        "user": ODD,
        "user_id": ODD,
        "brand_new": ODD,
        "input": ODD,
    },
)
NAMES = st.sampled_from(sorted(ADAPTERS))


def render(adapter: Adapter, body: bytes) -> Rendering | None:
    return adapter.render(body, scan(body), CHAT)


def sent(adapter: Adapter, body: bytes) -> bytes | None:
    """What goes out, None if nothing can."""
    rendering = render(adapter, body)
    if rendering is None:
        return body
    return None if rendering.misfit is not None else rendering.body


@given(NAMES, REQUESTS)
def test_what_was_rendered_needs_no_rendering(name: str, request: dict[str, Any]) -> None:
    once = sent(ADAPTERS[name], orjson.dumps(request))
    if once is not None:
        assert render(ADAPTERS[name], once) is None


@given(NAMES, NAMES, REQUESTS)
def test_rendering_has_no_memory(before: str, name: str, request: dict[str, Any]) -> None:
    body = orjson.dumps(request)
    fresh = sent(ADAPTERS[name], bytes(bytearray(body)))
    render(ADAPTERS[before], body)
    assert body == orjson.dumps(request)
    assert sent(ADAPTERS[name], body) == fresh


@given(NAMES, REQUESTS)
def test_every_change_is_told(name: str, request: dict[str, Any]) -> None:
    rendering = render(ADAPTERS[name], orjson.dumps(request))
    if rendering is None:
        return
    if rendering.misfit is not None:
        assert not rendering.parts and not rendering.changes
        return
    after = orjson.loads(rendering.body)
    assert after != request and rendering.changes
    assert ("model" in rendering.changes) == (after.get("model") != request.get("model"))
    told = {change.partition(".")[0] for change in rendering.changes}
    if "json_schema" in told:
        told |= {"response_format", "messages"}
    if told & {"role", "reasoning_content", "prefix"}:
        told.add("messages")
    if "strict" in told:
        told.add("tools")
    if told & {"max_tokens", "max_completion_tokens"}:
        told |= {"max_tokens", "max_completion_tokens"}
    missing = object()
    names = request.keys() | after.keys()
    assert {key for key in names if request.get(key, missing) != after.get(key, missing)} <= told


@given(st.sampled_from(["openai", "deepseek", "strict", "compatible"]), REQUESTS)
def test_the_bits_of_the_scan_miss_nothing_that_a_parser_would_find(
    name: str, request: dict[str, Any]
) -> None:
    """Whether the body is looked into is decided by the scan. A look must never have been needed."""
    adapter = ADAPTERS[name]
    body = orjson.dumps(request)
    facts = scan(body)
    if facts is None or "messages" not in request:
        return
    asked = request.get("model")
    model = adapter.models.map(asked) if adapter.models is not None and isinstance(asked, str) else asked
    document = orjson.loads(body)
    if model != asked:
        document["model"] = model
    chat = ChatRequest(
        document, adapter.dialect, adapter.capabilities, is_moved=model != asked, strict=adapter.strict
    )
    try:
        chat.adapt()
    except Misfit:
        document = None
    result = sent(adapter, body)
    assert (orjson.loads(result) if result is not None else None) == document


def test_every_trait_has_a_bit_of_its_own() -> None:
    assert len(Trait) == int(EVERY_TRAIT).bit_length() == int(EVERY_TRAIT).bit_count()
