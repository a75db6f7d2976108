"""What each provider accepts, refuses and answers; no sockets."""

import struct
from base64 import b64decode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.simulator.connection import Request
from fastgw.simulator.deepseek import DeepSeek
from fastgw.simulator.dialect import Call, Dialect, Settings
from fastgw.simulator.openai import OpenAI, embedding_of
from fastgw.simulator.script import DONE, Answer

OPENAI, DEEPSEEK = OpenAI(), DeepSeek()
CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hello"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CALLED = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "ok"}
THOUGHTLESS: dict[str, Any] = {"thinking": {"type": "disabled"}}


def ask(
    dialect: Dialect,
    path: str = CHAT,
    method: str = "POST",
    *,
    has_key: bool = True,
    settings: Settings | None = None,
    headers: dict[str, str] | None = None,
    raw: bytes | None = None,
    **body: Any,
) -> Answer:
    if method == "POST" and raw is None:
        body.setdefault("model", "gpt-4o" if dialect is OPENAI else "deepseek-flash")
        raw = orjson.dumps(body)
    pairs = {"host": dialect.host, **(headers or {})}
    request = Request(method, path, path, list(pairs.items()), raw or b"")
    return dialect.answer(Call(request, settings or Settings(), 7, 1_800_000_000, has_key))


def error(answer: Answer) -> tuple[int, str, str]:
    body = orjson.loads(answer.body)["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return answer.status, body["type"], body["message"]


def content(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(orjson.loads(answer.body)["choices"][0]["message"]["content"])


def data(answer: Answer) -> list[dict[str, Any]]:
    assert answer.events is not None, answer.body
    assert answer.events[-1] == DONE
    return [orjson.loads(event.removeprefix(b"data: ")) for event in answer.events[:-1]]


# --- Both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
def test_the_root_answers_without_a_key(dialect: Dialect) -> None:
    assert ask(dialect, "/", "GET", has_key=False).status == 200


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
def test_the_models_need_a_key(dialect: Dialect) -> None:
    assert ask(dialect, "/v1/models", "GET", has_key=False).status == 401
    models = orjson.loads(ask(dialect, "/v1/models", "GET").body)
    assert models["object"] == "list"
    assert {model["object"] for model in models["data"]} == {"model"}


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
def test_what_is_not_there_is_404_and_a_wrong_method_405(dialect: Dialect) -> None:
    assert error(ask(dialect, "/v1/nothing"))[:2] == (404, "invalid_request_error")
    assert error(ask(dialect, CHAT, "GET"))[0] == 405


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
def test_another_host_is_misdirected(dialect: Dialect) -> None:
    assert ask(dialect, "/", "GET", headers={"host": "localhost:9080"}).status == 421
    assert ask(dialect, "/", "GET", headers={"host": f"{dialect.host.upper()}:443"}).status == 200


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [USER], "stream": "yes"},
        {"messages": [USER], "max_tokens": 0},
        {"messages": [USER], "stream_options": {}},
        {"messages": [USER], "stream": True, "stream_options": 1},
        {"messages": [USER], "response_format": {"type": "json_object"}},
        {"messages": [USER, RESULT], **THOUGHTLESS},
    ],
)
def test_a_broken_request_is_400(dialect: Dialect, body: dict[str, Any]) -> None:
    assert error(ask(dialect, **body))[:2] == (400, "invalid_request_error")


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_object_is_400(dialect: Dialect, raw: bytes) -> None:
    assert error(ask(dialect, raw=raw))[0] == 400


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
def test_an_answer_repeats_the_request_and_counts_words(dialect: Dialect) -> None:
    answer = orjson.loads(ask(dialect, messages=[USER]).body)
    assert answer["choices"][0]["message"]["content"] == "You said: hello"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 1
    thoughts = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert answer["usage"]["completion_tokens"] == 3 + thoughts
    assert answer["usage"]["total_tokens"] == 4 + thoughts


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
def test_a_stream_says_what_the_document_says(dialect: Dialect) -> None:
    options = {"include_usage": True}
    answer = ask(dialect, messages=[USER], stream=True, stream_options=options, headers={"x-sim-tokens": "9"})
    chunks = data(answer)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    whole = orjson.loads(ask(dialect, messages=[USER], headers={"x-sim-tokens": "9"}).body)
    message = whole["choices"][0]["message"]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]
    reasoning = "".join(delta.get("reasoning_content") or "" for delta in deltas)
    assert reasoning == message.get("reasoning_content", "")
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1] == {**chunks[-1], "choices": [], "usage": whole["usage"]}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert answer.lead + answer.progress + 3 == len(answer.events or [])


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
def test_usage_comes_only_when_asked_for(dialect: Dialect) -> None:
    assert all("usage" not in chunk for chunk in data(ask(dialect, messages=[USER], stream=True)))


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_tool_is_called_and_its_answer_is_taken(dialect: Dialect, is_stream: bool) -> None:
    messages = [{"role": "user", "content": "call f"}]
    answer = ask(dialect, messages=messages, tools=TOOLS, stream=is_stream)
    if is_stream:
        chunks = data(answer)
        calls = [c["choices"][0]["delta"].get("tool_calls", [{}])[0] for c in chunks]
        assert "".join(call.get("function", {}).get("arguments", "") for call in calls) == '{"text":"call f"}'
        assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
        return
    choice = orjson.loads(answer.body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"text":"call f"}'}
    history = [
        *messages,
        message,
        {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "ok"},
    ]
    assert content(ask(dialect, messages=history, tools=TOOLS)) == "You said: call f The tool said: ok"


@pytest.mark.parametrize("dialect", [OPENAI, DEEPSEEK])
def test_max_tokens_cuts_the_answer(dialect: Dialect) -> None:
    answer = orjson.loads(
        ask(dialect, messages=[USER], max_tokens=2, **(THOUGHTLESS if dialect is DEEPSEEK else {})).body
    )
    assert answer["choices"][0]["message"]["content"] == "You said:"
    assert answer["choices"][0]["finish_reason"] == "length"


def test_settings_make_answers_longer_and_different() -> None:
    settings = Settings(tokens=6, voice="Hm. ")
    assert content(ask(OPENAI, messages=[USER], settings=settings)) == "Hm. You said: hello w4 w5"


def test_an_empty_account_is_said_in_each_providers_way() -> None:
    settings = Settings(has_money=False)
    assert error(ask(OPENAI, messages=[USER], settings=settings))[:2] == (429, "insufficient_quota")
    assert error(ask(DEEPSEEK, messages=[USER], settings=settings))[0] == 402
    balance = orjson.loads(ask(DEEPSEEK, "/user/balance", "GET", settings=settings).body)
    assert balance["is_available"] is False


# fmt: off
NAMES = [
    "model", "messages", "role", "content", "tool_calls", "tool_call_id", "id", "type", "function",
    "name", "parameters", "tools", "tool_choice", "stream", "stream_options", "include_usage",
    "response_format", "json_schema", "schema", "thinking", "prefix", "n", "max_tokens", "input",
    "prompt", "dimensions", "encoding_format", "max_output_tokens", "reasoning_content", "text",
    "properties", "items", "enum", "const",
]
WORDS = [
    "gpt-4o", "deepseek-flash", "user", "assistant", "tool", "json_object", "json_schema", "call f",
    "required", "disabled", "object", "array", "function", "f",
]
# fmt: on
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 5)
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)
BODIES = st.builds(
    lambda valid, body: {**valid, **body},
    st.sampled_from([{}, {"messages": [USER]}, {"messages": [USER], "tools": TOOLS}, {"input": "x"}]),
    st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=6),
)


@given(st.sampled_from([OPENAI, DEEPSEEK]), st.integers(0, 20), BODIES)
def test_any_body_gets_an_answer(dialect: Dialect, place: int, body: dict[str, Any]) -> None:
    paths = sorted(path for path, endpoint in dialect.endpoints.items() if endpoint.method == "POST")
    answer = ask(dialect, paths[place % len(paths)], **body)
    assert answer.status in (200, 400, 404)


# --- OpenAI ---------------------------------------------------------------------------------------


def test_openai_shows_only_the_end_of_a_wrong_key() -> None:
    headers = {"authorization": "Bearer sk-very-secret-1234"}
    status, kind, message = error(ask(OPENAI, messages=[USER], has_key=False, headers=headers))
    assert (status, kind) == (401, "invalid_request_error")
    assert "1234" in message
    assert "secret" not in message


def test_openai_sends_its_rate_limits() -> None:
    names = dict(ask(OPENAI, messages=[USER]).headers)
    assert names[b"x-ratelimit-reset-requests"] == b"6ms"
    assert not any(name.startswith(b"x-ratelimit") for name, _ in ask(DEEPSEEK, messages=[USER]).headers)


def test_openai_does_not_know_foreign_models() -> None:
    assert error(ask(OPENAI, model="deepseek-flash", messages=[USER]))[0] == 404
    assert error(ask(OPENAI, raw=b'{"messages": []}'))[0] == 400
    assert ask(OPENAI, "/v1/models/gpt-4o", "GET").status == 200
    assert ask(OPENAI, "/v1/models/llama", "GET").status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER], "thinking": {"type": "disabled"}},
        {"messages": [USER, {"role": "assistant", "content": "x", "prefix": True}]},
        {"messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": ""}]},
    ],
)
def test_openai_refuses_what_only_deepseek_knows(body: dict[str, Any]) -> None:
    assert error(ask(OPENAI, **body))[0] == 400


def test_openai_answers_several_choices() -> None:
    assert len(orjson.loads(ask(OPENAI, messages=[USER], n=3).body)["choices"]) == 3
    chunks = data(ask(OPENAI, messages=[USER], n=2, stream=True))
    texts = ["", ""]
    for chunk in chunks:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == ["You said: hello"] * 2


def test_openai_fills_a_json_schema() -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    text = content(ask(OPENAI, messages=[{"role": "developer", "content": "x"}, USER], response_format=form))
    assert orjson.loads(text) == {"answer": "You said: hello"}


def test_openai_obfuscates_unless_told_not_to() -> None:
    assert "obfuscation" in data(ask(OPENAI, messages=[USER], stream=True))[0]
    options = {"include_obfuscation": False}
    assert "obfuscation" not in data(ask(OPENAI, messages=[USER], stream=True, stream_options=options))[0]


def test_an_embedding_depends_on_its_text_alone() -> None:
    body = orjson.loads(
        ask(OPENAI, "/v1/embeddings", model="text-embedding-3-small", input=["a b", "c"]).body
    )
    assert [item["embedding"] for item in body["data"]] == [embedding_of("a b"), embedding_of("c")]
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    packed = ask(OPENAI, "/v1/embeddings", input="a b", encoding_format="base64", dimensions=4)
    decoded = b64decode(orjson.loads(packed.body)["data"][0]["embedding"])
    assert list(struct.unpack("<4f", decoded)) == embedding_of("a b", 4)
    assert error(ask(OPENAI, "/v1/embeddings", input=[]))[0] == 400


def test_a_response_is_told_in_lifecycle_events() -> None:
    whole = orjson.loads(ask(OPENAI, "/v1/responses", input="hello").body)
    assert whole["output"][0]["content"][0]["text"] == "You said: hello"
    answer = ask(OPENAI, "/v1/responses", input="hello", stream=True)
    kinds = [event.split(b"\n")[0].removeprefix(b"event: ").decode() for event in answer.events or []]
    assert kinds[0] == "response.created"
    assert kinds[answer.lead : answer.lead + answer.progress] == ["response.output_text.delta"] * 3
    assert kinds[-1] == "response.completed"
    assert answer.error_event(b'{"error":{"code":"x","message":"m"}}').startswith(b"event: error\ndata: {")
    cut = orjson.loads(ask(OPENAI, "/v1/responses", input="hello", max_output_tokens=1).body)
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}
    assert error(ask(OPENAI, "/v1/responses"))[0] == 400


def test_a_plain_completion_works_streamed_and_not() -> None:
    body = orjson.loads(ask(OPENAI, "/v1/completions", prompt="hello").body)
    assert body["choices"][0]["text"] == "You said: hello"
    chunks = data(ask(OPENAI, "/v1/completions", prompt="hello", stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "You said: hello"


# --- DeepSeek -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["deepseek-chat", "deepseek-reasoner", "gpt-4o", "", None])
def test_deepseek_knows_few_models(model: str | None) -> None:
    assert error(ask(DEEPSEEK, model=model, messages=[USER])) == (
        400,
        "invalid_request_error",
        "Model Not Exist",
    )


def test_deepseek_answers_an_alias_with_the_real_name() -> None:
    assert (
        orjson.loads(ask(DEEPSEEK, model="deepseek-v4-flash", messages=[USER]).body)["model"]
        == "deepseek-flash"
    )


def test_deepseek_thinks_unless_told_not_to() -> None:
    message = orjson.loads(ask(DEEPSEEK, messages=[USER]).body)["choices"][0]["message"]
    assert message["reasoning_content"] == "Thinking: w1 w2 w3"
    message = orjson.loads(ask(DEEPSEEK, messages=[USER], **THOUGHTLESS).body)["choices"][0]["message"]
    assert "reasoning_content" not in message
    chunks = data(ask(DEEPSEEK, messages=[USER], stream=True))
    assert chunks[1]["choices"][0]["delta"] == {"content": None, "reasoning_content": "Thinking:"}


def test_deepseek_wants_its_thoughts_back() -> None:
    history = [USER, CALLED, RESULT]
    assert error(ask(DEEPSEEK, messages=history)) == (
        400,
        "invalid_request_error",
        "The `reasoning_content` in the thinking mode must be passed back to the API.",
    )
    assert ask(DEEPSEEK, messages=history, **THOUGHTLESS).status == 200
    padded = [USER, {**CALLED, "reasoning_content": ""}, RESULT]
    assert ask(DEEPSEEK, messages=padded).status == 200
    assert ask(DEEPSEEK, messages=[USER, {"role": "assistant", "content": "x"}, USER]).status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format type is unavailable"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"messages": [{"role": "developer", "content": "x"}, USER]}, "unknown variant `developer`"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "unknown variant `image_url`"),
        ({"n": 2}, "n = 1"),
        ({"messages": [USER, {"role": "assistant", "content": "x", "prefix": True}]}, "beta"),
    ],
)
def test_deepseek_refuses_what_it_cannot_do(body: dict[str, Any], words: str) -> None:
    status, kind, message = error(ask(DEEPSEEK, **{"messages": [USER], **body}))
    assert (status, kind) == (400, "invalid_request_error")
    assert words in message


def test_deepseek_forces_a_tool_when_it_does_not_think() -> None:
    answer = ask(DEEPSEEK, messages=[USER], tools=TOOLS, tool_choice="required", **THOUGHTLESS)
    assert orjson.loads(answer.body)["choices"][0]["finish_reason"] == "tool_calls"


def test_deepseek_does_not_know_max_completion_tokens() -> None:
    assert content(ask(DEEPSEEK, messages=[USER], max_completion_tokens=1)) == "You said: hello"


def test_deepseek_continues_a_prefix_in_its_beta() -> None:
    settings = Settings(tokens=6)
    messages = [USER, {"role": "assistant", "content": "You said: hel", "prefix": True}]
    answer = ask(DEEPSEEK, "/beta/chat/completions", messages=messages, settings=settings, **THOUGHTLESS)
    assert content(answer) == "lo w3 w4 w5"
    first = [{"role": "assistant", "content": "x", "prefix": True}, USER]
    assert error(ask(DEEPSEEK, "/beta/chat/completions", messages=first))[0] == 400


def test_deepseek_has_no_embeddings() -> None:
    assert ask(DEEPSEEK, "/v1/embeddings", input="x").status == 404


def test_deepseek_serves_both_base_urls() -> None:
    assert ask(DEEPSEEK, "/chat/completions", messages=[USER]).status == 200
    assert ask(DEEPSEEK, "/models", "GET").status == 200
    assert ask(DEEPSEEK, "/user/balance", "GET").status == 200
    assert ask(DEEPSEEK, "/beta/completions", prompt="x").status == 200
