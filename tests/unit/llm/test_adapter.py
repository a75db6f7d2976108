"""What is done to a request for one node: its model, its dialect, and what it cannot take."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from fastgw.llm.adapter import Adapter, Rendering
from fastgw.llm.body import scan
from fastgw.llm.dialect import CAPABILITIES, DIALECTS
from fastgw.llm.model_map import ModelMap

CHAT = b"/v1/chat/completions"
USER = {"role": "user", "content": "hi"}
OPENAI = Adapter(DIALECTS["openai"])
TO_OPENAI = Adapter(DIALECTS["openai"], ModelMap({"gpt-*": None, "*": "gpt-4o"}))
DEEPSEEK = Adapter(DIALECTS["deepseek"], ModelMap(DIALECTS["deepseek"].models))
COMPATIBLE = Adapter(DIALECTS["openai-compatible"])
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
SAID = {"role": "tool", "tool_call_id": "c1", "content": "x"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
WANTS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "A", "strict": True, "schema": SCHEMA}}


def body_of(model: str | None = "gpt-4o", **fields: Any) -> bytes:
    document = {"messages": [USER], **fields}
    return orjson.dumps(document if model is None else {"model": model, **document})


def render(adapter: Adapter, body: bytes, path: bytes = CHAT) -> Rendering | None:
    return adapter.render(body, scan(body), path)


def changed(adapter: Adapter, body: bytes, path: bytes = CHAT) -> tuple[Any, tuple[str, ...]]:
    """(the document that is sent, names of what was changed)."""
    rendering = render(adapter, body, path)
    if rendering is None:
        return orjson.loads(body), ()
    assert rendering.misfit is None
    return orjson.loads(rendering.body), rendering.changes


def misfit(adapter: Adapter, body: bytes, path: bytes = CHAT) -> str | None:
    rendering = render(adapter, body, path)
    return rendering.misfit if rendering is not None else None


# --- What goes as it came ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.2, "max_tokens": 100, "stream": True, "stream_options": {"include_usage": True}},
        {"stop": ["a"], "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "tool_choice": "auto"},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "messages": [USER, SAID]},
        {"messages": [{"role": "system", "content": "a developer"}, USER]},
    ],
)
def test_a_request_that_needs_no_change_is_not_touched(fields: dict[str, Any]) -> None:
    for adapter, model in ((OPENAI, "gpt-4o"), (DEEPSEEK, "deepseek-flash"), (COMPATIBLE, "x")):
        assert render(adapter, body_of(model, **fields)) is None


def test_openai_gets_its_own_parameters_untouched() -> None:
    fields = {"n": 2, "seed": 1, "max_completion_tokens": 3, "reasoning_effort": "minimal", "new": {}}
    fields |= {"messages": [{"role": "developer", "content": "x"}], "response_format": WANTS_SCHEMA}
    assert render(OPENAI, body_of("gpt-5", **fields)) is None


def test_what_is_only_a_word_in_a_text_changes_nothing() -> None:
    messages = [{"role": "user", "content": word} for word in ("developer", "prefix", "reasoning_content")]
    messages += [{"role": "user", "content": '"image_url"'}, {"role": "user", "content": "tool_calls"}]
    for adapter, model in ((OPENAI, "gpt-4o"), (DEEPSEEK, "deepseek-flash")):
        assert render(adapter, body_of(model, messages=messages)) is None


def test_another_model_leaves_every_other_byte() -> None:
    body = (
        b' {"messages":[{"role":"user","content":"\\u00e9 1.0e2"}],  "model" : "gpt-9", "temperature":1.0}\n'
    )
    compatible = Adapter(DIALECTS["openai-compatible"], ModelMap({"*": "llama"}))
    rendering = render(compatible, body)
    assert rendering is not None and rendering.changes == ("model",)
    assert rendering.body == body.replace(b"gpt-9", b"llama")
    rendering = render(DEEPSEEK, body)
    assert rendering is not None and rendering.changes == ("model", "thinking")
    expected = body.replace(b"gpt-9", b"deepseek-flash").replace(
        b" {", b'{"thinking":{"type":"disabled"},', 1
    )
    assert rendering.body == expected


def test_what_some_parsers_refuse_is_adapted_all_the_same() -> None:
    """Half a surrogate pair, and an integer of any size beside it, stay what they are."""
    body = (
        b'{"model":"gpt-4o","messages":[{"role":"developer","content":"\\ud800"}],'
        b'"top_p":123456789012345678901234567890}'
    )
    rendering = render(DEEPSEEK, body)
    assert rendering is not None and rendering.changes == ("model", "thinking", "role")
    assert rendering.body == (
        b'{"model":"deepseek-flash","messages":[{"role":"system","content":"\\ud800"}],'
        b'"top_p":123456789012345678901234567890,"thinking":{"type":"disabled"}}'
    )
    schema = {"type": "json_schema", "json_schema": {"schema": {"title": "\ud800"}}}
    body = json.dumps({"model": "gpt-4o", "messages": [USER], "response_format": schema}).encode()
    rendering = render(DEEPSEEK, body)
    assert rendering is not None
    assert json.loads(rendering.body)["messages"][0]["content"].endswith('{"title":"\\ud800"}')


@pytest.mark.parametrize("value", [b'"\xff"', b"[NaN]", b"nul", b"1e999", b"1" * 5000, b"[1}"])
def test_what_is_no_json_loses_its_model_only(value: bytes) -> None:
    body = b'{"model":"gpt-4o","messages":[{"role":"developer"}],"seed":%b}' % value
    if scan(body) is None:
        assert render(DEEPSEEK, body) is None
        return
    rendering = render(DEEPSEEK, body)
    assert rendering is not None and rendering.body == body.replace(b"gpt-4o", b"deepseek-flash")
    assert render(OPENAI, b'{"model":"gpt-4o","thinking":\xff,"messages":[]}') is None


@pytest.mark.parametrize("value", [b'"\xff"', b"[NaN]", b"nul", b"1e999", b"1" * 5000])
def test_a_caller_cannot_keep_out_what_the_operator_writes_by_writing_no_json(value: bytes) -> None:
    body = b'{"model":"gpt-4o","messages":[],"max_tokens":9999,"seed":%b}' % value
    for written in ({"options": {"temperature": 0}}, {"max_tokens": 7}, {"patch": {"temperature": 0}}):
        adapter = Adapter(DIALECTS["openai-compatible"], **written)  # type: ignore[arg-type]
        assert misfit(adapter, body) == "readable_json"
    forced = Adapter(DIALECTS["openai-compatible"], options={"model": "cheap"})
    assert misfit(forced, body.replace(b'"gpt-4o"', b"4")) == "readable_json"


def test_a_tree_of_too_many_values_is_not_built() -> None:
    """As a tree, 10 MB of empty objects take 350 MB."""
    body = b'{"model":"gpt-4o","messages":[],"seed":[%b1]}' % (b"{}," * 600_000)
    rendering = render(DEEPSEEK, body)
    assert rendering is not None and rendering.changes == ("model",)
    assert rendering.body == body.replace(b"gpt-4o", b"deepseek-flash")
    assert misfit(Adapter(DIALECTS["openai-compatible"], max_tokens=7), body) == "readable_json"
    text = body_of(
        messages=[{"role": "user", "content": "a, {b} [c] and some more words. " * 200_000}], seed=1
    )
    assert "seed" not in changed(DEEPSEEK, text)[0]


def test_half_a_surrogate_pair_does_not_keep_out_what_the_operator_writes() -> None:
    adapter = Adapter(DIALECTS["openai-compatible"], max_tokens=7)
    rendering = render(adapter, b'{"messages":["\\ud800"],"max_tokens":9999}')
    assert rendering is not None and rendering.body == b'{"messages":["\\ud800"],"max_tokens":7}'


def test_what_is_no_json_goes_as_it_came() -> None:
    assert render(DEEPSEEK, b"--boundary\r\n") is None
    assert DEEPSEEK.render(None, None, CHAT) is None


# --- From OpenAI to DeepSeek ------------------------------------------------------------------


def test_parameters_are_renamed_and_dropped_for_deepseek() -> None:
    body = body_of(
        max_completion_tokens=50, n=1, seed=7, store=True, user="u", parallel_tool_calls=False, temperature=1
    )
    sent, changes = changed(DEEPSEEK, body)
    assert sent == {
        "model": "deepseek-flash",
        "messages": [USER],
        "max_tokens": 50,
        "temperature": 1,
        "thinking": {"type": "disabled"},
    }
    assert changes == (
        "model", "max_tokens", "thinking", "n", "seed", "store", "user", "parallel_tool_calls"
    )  # fmt: skip


def test_of_two_limits_the_newer_name_counts() -> None:
    sent, _ = changed(DEEPSEEK, body_of(max_tokens=1, max_completion_tokens=2))
    assert sent["max_tokens"] == 2 and "max_completion_tokens" not in sent
    sent, _ = changed(DEEPSEEK, body_of(max_tokens=1, max_completion_tokens=None))
    assert sent["max_tokens"] == 1


def test_the_model_is_written_once_whatever_its_case_was() -> None:
    assert changed(TO_OPENAI, body_of(None, Model="llama"))[0] == {"messages": [USER], "Model": "gpt-4o"}
    sent, changes = changed(TO_OPENAI, body_of(None, Model="llama", max_tokens=5))
    assert sent == {"messages": [USER], "max_completion_tokens": 5, "model": "gpt-4o"}
    assert changes == ("Model", "model", "max_completion_tokens")


def test_a_limit_that_is_null_does_not_hide_the_other() -> None:
    body = body_of("llama", max_completion_tokens=None, max_tokens=50)
    assert changed(TO_OPENAI, body)[0]["max_completion_tokens"] == 50
    body = body_of("llama", max_completion_tokens=9, max_tokens=50)
    assert changed(TO_OPENAI, body)[0]["max_completion_tokens"] == 9


def test_a_parameter_nobody_knows_is_dropped_only_from_a_request_that_moved() -> None:
    assert render(DEEPSEEK, body_of("deepseek-flash", brand_new=1)) is None
    sent, changes = changed(DEEPSEEK, body_of(brand_new=1))
    assert "brand_new" not in sent and "brand_new" in changes


def test_a_developer_speaks_as_the_system() -> None:
    messages = [{"role": "developer", "content": "be kind"}, USER]
    sent, changes = changed(DEEPSEEK, body_of("deepseek-flash", messages=messages))
    assert sent["messages"] == [{"role": "system", "content": "be kind"}, USER]
    assert changes == ("role",)


def test_a_schema_becomes_an_instruction() -> None:
    rules = [{"role": "developer", "content": "be kind"}, {"role": "system", "content": "and brief"}]
    sent, changes = changed(DEEPSEEK, body_of(messages=[*rules, USER], response_format=WANTS_SCHEMA))
    assert sent["response_format"] == {"type": "json_object"}
    assert [message["role"] for message in sent["messages"]] == ["system", "system", "system", "user"]
    text = sent["messages"][2]["content"]
    assert "json" in text.lower() and orjson.loads(text.partition("\n")[2]) == SCHEMA
    assert changes == ("model", "json_schema", "thinking", "role")


@pytest.mark.parametrize("form", [{"type": "text"}, {"type": "json_object"}, None, "x", {"type": "grammar"}])
def test_other_formats_stay(form: Any) -> None:
    assert render(DEEPSEEK, body_of("deepseek-flash", response_format=form)) is None


def test_a_node_that_has_schemas_gets_them() -> None:
    adapter = Adapter(DIALECTS["deepseek"], capabilities={"json_schema": True})
    assert render(adapter, body_of("deepseek-flash", response_format=WANTS_SCHEMA)) is None


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "medium"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "ultra"}, {"reasoning_effort": "max"}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": None}, {"thinking": {"type": "disabled"}}),
        ({"thinking": {"type": "enabled"}}, {"thinking": {"type": "enabled"}}),
        ({"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
    ],
)
def test_a_request_that_moved_thinks_only_if_it_was_asked_to(
    asked: dict[str, Any], sent: dict[str, Any]
) -> None:
    document, _ = changed(DEEPSEEK, body_of(**asked))
    kept = {name: document[name] for name in ("thinking", "reasoning_effort") if name in document}
    assert kept == sent


FORCED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("choice", ["required", FORCED])
def test_a_forced_tool_stops_the_thinking_nobody_asked_for(choice: Any) -> None:
    sent, changes = changed(DEEPSEEK, body_of("deepseek-flash", tool_choice=choice))
    assert sent["thinking"] == {"type": "disabled"} and sent["tool_choice"] == choice
    assert changes == ("thinking",)
    # Asked for at DeepSeek itself it is the caller's own mistake.
    assert render(DEEPSEEK, body_of("deepseek-flash", tool_choice=choice, reasoning_effort="high")) is None
    # OpenAI can do both.
    sent, _ = changed(DEEPSEEK, body_of(tool_choice=choice, reasoning_effort="high"))
    assert sent["thinking"] == {"type": "disabled"} and "reasoning_effort" not in sent


def test_reasoning_is_padded_where_a_tool_was_called_while_it_thinks() -> None:
    real = {**CALL, "reasoning_content": "because"}
    messages = [USER, CALL, SAID, {"role": "assistant", "content": "so"}, USER, real, SAID, USER]
    sent, changes = changed(DEEPSEEK, body_of("deepseek-flash", messages=messages))
    assert changes == ("reasoning_content",)
    assert sent["messages"] == [messages[0], {**CALL, "reasoning_content": ""}, *messages[2:]]
    # What came from it goes back as it was, and one that does not think wants none.
    assert render(DEEPSEEK, body_of("deepseek-flash", messages=messages[3:])) is None
    assert (
        render(DEEPSEEK, body_of("deepseek-flash", messages=messages, thinking={"type": "disabled"})) is None
    )
    sent, changes = changed(DEEPSEEK, body_of(messages=messages))
    assert sent["messages"] == messages and changes == ("model", "thinking")
    sent, changes = changed(DEEPSEEK, body_of(messages=messages, reasoning_effort="low"))
    assert sent["messages"][1]["reasoning_content"] == ""


def test_strict_tools_are_plain_ones_where_a_request_moved() -> None:
    function = {"name": "f", "strict": True, "parameters": {"type": "object"}}
    tools = [{"type": "function", "function": function}]
    assert render(DEEPSEEK, body_of("deepseek-flash", tools=tools)) is None
    sent, changes = changed(DEEPSEEK, body_of(tools=tools))
    assert sent["tools"][0]["function"] == {"name": "f", "parameters": {"type": "object"}}
    assert changes == ("model", "strict", "thinking")


def test_options_of_a_stream_lose_what_deepseek_has_not() -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    sent, changes = changed(DEEPSEEK, body_of("deepseek-flash", stream=True, stream_options=options))
    assert sent["stream_options"] == {"include_usage": True} and changes == ("stream_options",)
    sent, _ = changed(DEEPSEEK, body_of(stream=True, stream_options={"include_obfuscation": True}))
    assert "stream_options" not in sent


# --- From DeepSeek to OpenAI ------------------------------------------------------------------


def test_openai_gets_nothing_of_deepseeks() -> None:
    messages = [USER, {**CALL, "reasoning_content": "because"}, SAID]
    body = body_of(
        "deepseek-flash",
        messages=messages,
        thinking={"type": "disabled"},
        user_id="u",
        max_tokens=5,
        reasoning_effort="max",
    )
    sent, changes = changed(TO_OPENAI, body)
    assert sent == {
        "model": "gpt-4o",
        "messages": [USER, CALL, SAID],
        "max_completion_tokens": 5,
        "reasoning_effort": "high",
    }
    assert set(changes) == {
        "model", "reasoning_content", "thinking", "user_id", "max_completion_tokens", "reasoning_effort"
    }  # fmt: skip
    # Its own model's requests keep the limit's older name: some of its models know no other.
    sent, changes = changed(TO_OPENAI, body_of("gpt-4o", messages=messages, max_tokens=5))
    assert sent == {"model": "gpt-4o", "messages": [USER, CALL, SAID], "max_tokens": 5}


# --- What a node cannot take ------------------------------------------------------------------


def parts(kind: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": kind}]}]}


@pytest.mark.parametrize(
    ("fields", "lacks"),
    [
        (parts("image_url"), "images"),
        (parts("input_image"), "images"),
        (parts("input_audio"), "audio"),
        (parts("file"), "files"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "audio"),
        ({"modalities": ["text", "audio"]}, "audio"),
        ({"n": 2}, "n"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "functions"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "functions"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "custom_tools"),
        ({"tool_choice": {"type": "allowed_tools"}}, "allowed_tools"),
    ],
)
def test_deepseek_cannot_take_it(fields: dict[str, Any], lacks: str) -> None:
    for model in ("gpt-4o", "deepseek-flash"):
        assert misfit(DEEPSEEK, body_of(model, **fields)) == lacks
    assert render(OPENAI, body_of(**fields)) is None
    assert render(COMPATIBLE, body_of(**fields)) is None


@pytest.mark.parametrize(
    ("capability", "fields"),
    [
        ("images", parts("image_url")),
        ("audio", {"modalities": ["audio"]}),
        ("files", parts("file")),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("n", {"n": 3}),
        ("logprobs", {"logprobs": True}),
        ("logprobs", {"top_logprobs": 2}),
        ("prefix", {"messages": [USER, {"role": "assistant", "content": "x", "prefix": True}]}),
    ],
)
def test_a_configuration_may_deny_what_it_likes_and_grant_it(capability: str, fields: dict[str, Any]) -> None:
    assert capability in CAPABILITIES
    for name in DIALECTS:
        denied = Adapter(DIALECTS[name], capabilities={capability: False})
        granted = Adapter(DIALECTS[name], capabilities={capability: True})
        assert misfit(denied, body_of(**fields)) == capability
        assert misfit(granted, body_of(**fields)) is None


def test_a_denied_schema_is_an_instruction_anywhere() -> None:
    adapter = Adapter(DIALECTS["openai-compatible"], capabilities={"json_schema": False})
    sent, changes = changed(adapter, body_of(response_format=WANTS_SCHEMA, n=2))
    assert changes == ("json_schema",) and sent["n"] == 2


EMBED = b'{"model":"text-embedding-3-small","input":["a"]}'


@pytest.mark.parametrize(
    ("path", "lacks"),
    [
        (b"/v1/embeddings", "embeddings"),
        (b"/v1/moderations", "moderations"),
        (b"/v1/audio/speech", "audio"),
        (b"/v1/images/edits?x=/chat", "images"),
        (b"/llm/v1/files/f-1/content", "files"),
        (b"/v1/batches", "batches"),
        (b"/v1/completions", "completions"),
        (b"/beta/completions", None),
        (b"/v1/models", None),
        (b"/v1/models/audio", None),
        (b"/v1/responses", None),
        (CHAT, None),
        (b"/chat/completions?a=1", None),
        (b"/v1/audios", None),
    ],
)
def test_deepseek_has_not_every_endpoint(path: bytes, lacks: str | None) -> None:
    assert misfit(DEEPSEEK, EMBED, path) == lacks
    rendering = DEEPSEEK.render(None, None, path)  # a form, or a request without a body
    assert (rendering.misfit if rendering is not None else None) == lacks
    assert OPENAI.render(None, None, path) is None


def test_embeddings_may_be_granted_and_denied() -> None:
    granted = Adapter(DIALECTS["deepseek"], capabilities={"embeddings": True})
    assert misfit(granted, EMBED, b"/v1/embeddings") is None
    denied = Adapter(DIALECTS["openai-compatible"], capabilities={"embeddings": False})
    assert misfit(denied, EMBED, b"/v1/embeddings") == "embeddings"
    assert misfit(denied, EMBED, b"/v1/models") is None


def test_what_is_no_chat_gets_another_model_and_no_more() -> None:
    body = b'{"model":"gpt-5","input":"x","reasoning":{},"store":true}'
    sent, changes = changed(DEEPSEEK, body, b"/v1/responses")
    assert sent == {"model": "deepseek-flash", "input": "x", "reasoning": {}, "store": True}
    assert changes == ("model",)


# --- Strict -----------------------------------------------------------------------------------

STRICT = Adapter(DIALECTS["deepseek"], ModelMap(DIALECTS["deepseek"].models), strict=True)


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        ({"seed": 1}, "seed"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"response_format": WANTS_SCHEMA}, "json_schema"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tool_choice": "required", "reasoning_effort": "low"}, "thinking"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "strict"),
        ({"brand_new": 1}, "brand_new"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_a_strict_node_gets_nothing_that_would_lose_its_meaning(fields: dict[str, Any], lost: str) -> None:
    assert misfit(STRICT, body_of(**fields)) == lost
    assert misfit(DEEPSEEK, body_of(**fields)) is None


def test_a_strict_node_gets_what_only_has_another_name() -> None:
    messages = [{"role": "developer", "content": "x"}, USER, CALL, SAID]
    fields = {"max_completion_tokens": 3, "reasoning_effort": "minimal", "seed": None, "user": "u", "n": 1}
    fields |= {"parallel_tool_calls": True, "store": False, "logit_bias": {}}
    sent, _ = changed(STRICT, body_of(messages=messages, **fields))
    assert sent.keys() == {"model", "messages", "max_tokens", "reasoning_effort"}
    assert (
        misfit(Adapter(DIALECTS["openai"], strict=True), body_of(thinking={"type": "enabled"})) == "thinking"
    )


# --- What the operator wants ------------------------------------------------------------------


def test_options_win_over_the_caller() -> None:
    adapter = Adapter(DIALECTS["openai"], options={"model": "gpt-5", "temperature": 0, "seed": 3})
    sent, changes = changed(adapter, body_of("whatever", temperature=1))
    assert sent == {"model": "gpt-5", "messages": [USER], "temperature": 0, "seed": 3}
    assert changes == ("model", "temperature", "seed")
    assert render(adapter, body_of("gpt-5", temperature=0, seed=3)) is None


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("model", ["gpt-4o", "deepseek-flash"])
@pytest.mark.parametrize(
    ("own", "callers"),
    [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")],
)
def test_the_operators_limit_wins_over_the_callers_by_its_other_name(
    dialect: str, model: str, own: str, callers: str
) -> None:
    body = body_of(model, **{callers: 9999})
    models = ModelMap(DIALECTS[dialect].models)
    limits = {"max_tokens", "max_completion_tokens"}
    for adapter in (
        Adapter(DIALECTS[dialect], models, options={own: 7}),
        Adapter(DIALECTS[dialect], models, patch={own: 7}, patch_forced=True),
    ):
        sent, changes = changed(adapter, body)
        assert [sent[name] for name in limits & sent.keys()] == [7]
        assert set(changes) >= {own, callers}
    sent, _ = changed(Adapter(DIALECTS[dialect], models, patch={own: 7}), body)
    assert [sent[name] for name in limits & sent.keys()] == [9999]


def test_both_limits_may_be_the_operators() -> None:
    both = {"max_tokens": 7, "max_completion_tokens": 8}
    for adapter in (
        Adapter(DIALECTS["openai-compatible"], options=both),
        Adapter(DIALECTS["openai-compatible"], patch=both, patch_forced=True),
    ):
        sent, _ = changed(adapter, body_of(max_tokens=1))
        assert {name: sent[name] for name in both} == both


def test_capitals_do_not_hide_a_field_that_the_operator_writes() -> None:
    """To Go's parser `Max_Tokens` is `max_tokens`, and the last one counts; the Kelvin sign is a k."""
    hidden = {"Max_Tokens": 9999, "max_to\u212aens": 9999, "MAX_COMPLETION_TOKENS": 1}
    body = body_of("m", TOP_P=1, **hidden)
    adapter = Adapter(DIALECTS["openai-compatible"], max_tokens=7)
    assert changed(adapter, body)[0] == {"model": "m", "messages": [USER], "max_tokens": 7, "TOP_P": 1}
    for arguments in ({"options": {"top_p": 0}}, {"patch": {"top_p": 0}, "patch_forced": True}):
        adapter = Adapter(DIALECTS["openai-compatible"], **arguments)  # type: ignore[arg-type]
        sent, _ = changed(adapter, body_of("m", TOP_P=1))
        assert sent == {"model": "m", "messages": [USER], "top_p": 0}
    adapter = Adapter(DIALECTS["openai-compatible"], patch={"top_p": 0})
    assert changed(adapter, body_of("m", TOP_P=1))[0]["TOP_P"] == 1


def test_a_forced_model_needs_no_other_change() -> None:
    adapter = Adapter(DIALECTS["openai"], ModelMap({"*": "never"}), options={"model": "gpt-5"})
    body = b'{"model":"x", "messages":[]}'
    rendering = render(adapter, body)
    assert rendering is not None and rendering.body == b'{"model":"gpt-5", "messages":[]}'
    sent, _ = changed(adapter, body_of(None))
    assert sent == {"model": "gpt-5", "messages": [USER]}


def test_options_are_not_taken_out_again() -> None:
    adapter = Adapter(DIALECTS["deepseek"], options={"seed": 3, "thinking": {"type": "enabled"}}, strict=True)
    sent, _ = changed(adapter, body_of("deepseek-flash", messages=[USER, CALL, SAID]))
    assert sent["seed"] == 3 and sent["thinking"] == {"type": "enabled"}
    assert sent["messages"][1]["reasoning_content"] == ""


@pytest.mark.parametrize(
    ("name", "fields", "limit"),
    [
        ("openai", {"max_tokens": 9}, {"max_completion_tokens": 5}),
        ("deepseek", {"max_completion_tokens": 9}, {"max_tokens": 5}),
        ("openai-compatible", {"max_completion_tokens": 9}, {"max_completion_tokens": 5}),
        ("openai-compatible", {}, {"max_tokens": 5}),
    ],
)
def test_the_operators_limit_has_the_dialects_name(
    name: str, fields: dict[str, Any], limit: dict[str, Any]
) -> None:
    adapter = Adapter(DIALECTS[name], max_tokens=5)
    sent, changes = changed(adapter, body_of("m", **fields))
    assert sent == {"model": "m", "messages": [USER], **limit}
    assert changes == tuple(limit)
    assert render(adapter, body_of("m", **limit)) is None


def test_a_limit_belongs_to_texts_only() -> None:
    adapter = Adapter(DIALECTS["openai"], max_tokens=5)
    assert changed(adapter, b'{"prompt":"x"}')[0] == {"prompt": "x", "max_tokens": 5}
    assert changed(adapter, b'{"input":"x"}', b"/v1/responses")[0] == {"input": "x", "max_output_tokens": 5}
    assert render(adapter, b'{"x":1}', b"/v1/other") is None


def test_a_patch_fills_in_or_wins() -> None:
    patch = {"metadata": {"a": 1, "b": 2}, "temperature": 0}
    body = body_of(metadata={"a": 0, "c": 3}, temperature=1)
    sent, changes = changed(Adapter(DIALECTS["openai"], patch=patch), body)
    assert sent["metadata"] == {"a": 0, "c": 3, "b": 2} and sent["temperature"] == 1
    assert changes == ("metadata.b",)
    sent, changes = changed(Adapter(DIALECTS["openai"], patch=patch, patch_forced=True), body)
    assert sent["metadata"] == {"a": 1, "c": 3, "b": 2} and sent["temperature"] == 0
    assert changes == ("metadata.a", "metadata.b", "temperature")


def test_an_operators_values_are_not_shared_with_requests() -> None:
    options: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}]
    adapter = Adapter(
        DIALECTS["deepseek"], ModelMap({"*": "deepseek-flash"}), options=options, patch={"tools": tools}
    )
    first = render(adapter, body_of())
    second = render(adapter, body_of())
    assert first is not None and second is not None and first.body == second.body
    assert first.changes == second.changes
    assert tools[0]["function"] == {"name": "f", "strict": True}


def test_names_of_changes_are_fit_for_a_header() -> None:
    hostile = {"a\r\nb: c": 1, "é, x": 2, "y" * 200: 3}
    _, changes = changed(DEEPSEEK, body_of(**hostile))
    assert changes == ("model", "thinking", "other")
    _, changes = changed(DEEPSEEK, body_of(**{f"p{i}": i for i in range(40)}))
    assert len(changes) == 17 and changes[-1] == "more"


# --- Models -----------------------------------------------------------------------------------


def test_any_number_of_unknown_parameters_costs_no_more_than_reading_them() -> None:
    """Looked for in a list of those before it, each would cost more than the last: hours for this body."""
    body = orjson.dumps({"model": "gpt-4o", "messages": [USER], **{f"p{k}": k for k in range(300_000)}})
    rendering = render(DEEPSEEK, body)
    assert rendering is not None
    assert rendering.changes == ("model", "thinking", *(f"p{k}" for k in range(14)), "more")
    assert set(orjson.loads(rendering.body)) == {"model", "messages", "thinking"}


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        ((), set()),
        ((("*", "x"), ("gpt-*", "y"), ("a", "x")), {"x", "y"}),
        ((("deepseek-*", None), ("exact", None), ("*", "z")), {"exact", "z"}),
    ],
)
def test_the_models_it_names_are_the_configurations(pairs: Any, named: set[str]) -> None:
    assert Adapter(DIALECTS["openai"], ModelMap(pairs)).models_named() == named


def test_the_model_a_node_is_asked_for_is_the_one_it_is_sent() -> None:
    mapping = Adapter(DIALECTS["openai"], ModelMap({"*": "x"}))
    forcing = Adapter(DIALECTS["openai"], ModelMap({"*": "x"}), options={"model": "forced"})
    assert [mapping.model_for(name) for name in ("a", None)] == ["x", None]
    assert [forcing.model_for(name) for name in ("a", None)] == ["forced", "forced"]
    assert forcing.models_named() == {"forced", "x"}
