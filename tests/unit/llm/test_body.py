"""The facts of a request body, and which answers are none."""

import json
from typing import Any

import pytest

from fastgw.llm.body import EVERY_TRAIT, BodyFacts, Trait, answer_problem, replace_model, replaced_parts, scan


def facts_of(body: bytes) -> BodyFacts:
    facts = scan(body)
    assert facts is not None
    return facts


def test_model_and_stream_are_found_at_the_top_level_only() -> None:
    body = (
        b'{"messages":[{"role":"user","content":"{\\"model\\":\\"no\\"}","model":"no","stream":true}],\n'
        b' "model" : "gpt-5",\t"tools":{"model":{"model":"no"}},"stream":false }\r\n'
    )
    facts = facts_of(body)
    assert repr(facts) == "<BodyFacts model='gpt-5'>"
    assert body[facts.model_start : facts.model_end] == b'"gpt-5"'


def test_flags_are_read() -> None:
    body = b'{"stream":true,"stream_options":{"include_usage": true},"model":"m"}'
    assert repr(facts_of(body)) == "<BodyFacts model='m' stream include_usage>"


@pytest.mark.parametrize("value", ["false", "null", "1", '"true"', "{}", "[true]"])
def test_stream_is_on_only_when_it_is_true(value: str) -> None:
    assert facts_of(f'{{"stream":{value}}}'.encode()).stream is False


@pytest.mark.parametrize(
    "value", ["null", "{}", '{"include_usage":1}', "[]", '{"include_usage":', '{"x":"' + "y" * 2000 + '"}']
)
def test_usage_is_asked_for_only_when_it_says_so(value: str) -> None:
    facts = scan(f'{{"stream_options":{value}}}'.encode())
    assert facts is None or facts.include_usage is False


def test_a_key_written_with_escapes_is_the_same_key() -> None:
    facts = facts_of(rb'{"\u006d\u006f\u0064\u0065\u006c":"a","str\u0065am":true}')
    assert (facts.model, facts.stream) == ("a", True)


def test_the_model_is_known_in_capitals_too() -> None:
    """Go's parser would read it: the node must not be asked for a model nobody here has seen."""
    for name in (b"Model", b"MODEL", b"mODeL", b"M\\u006fdel"):
        facts = facts_of(b'{"%b":"x"}' % name)
        assert (facts.model, facts.duplicate_model) == ("x", False)
        assert facts_of(b'{"model":"x","%b":"y"}' % name).duplicate_model
    assert facts_of(b'{"m\x0fdel":1,"motel":"x","mod el":"y","-odel":"z"}').model is None


def test_the_role_of_a_function_is_noted_and_no_other_function() -> None:
    for text in (b'"role":"function"', b'"role" :\n "function","name":"f"', b'"x":1,"role":"function"'):
        assert facts_of(b'{"messages":[{%b}]}' % text).traits & Trait.FUNCTION_CALL
    for text in (b'"type":"function"', b'"x":["function"]', b'"rule":"function"', b'"function":"role"'):
        assert not facts_of(b'{"messages":[{%b}],"tools":["function"]}' % text).traits & Trait.FUNCTION_CALL


def test_model_given_twice_is_told() -> None:
    for body in (
        b'{"model":"a","model":"b"}',
        rb'{"model":"a","mod\u0065l":"b"}',
        b'{"model":1,"x":0,"model":"b"}',
    ):
        facts = facts_of(body)
        assert facts.duplicate_model
        assert facts.model == "b"
    assert not facts_of(b'{"x":{"model":"a"},"model":"b"}').duplicate_model


@pytest.mark.parametrize("value", ["null", "1", "{}", '["a"]', r'"\ud800"', '"\\x"', '"\x01"'])
def test_model_that_is_no_text_is_none(value: str) -> None:
    facts = facts_of(f'{{"model":{value}}}'.encode())
    assert (facts.model, facts.model_start, facts.model_end) == (None, -1, -1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"[]",
        b'"model"',
        b"null",
        b"{",
        b'{"model"',
        b'{"model":',
        b'{"model":"a"',
        b'{"model":"a\\"}',
        b'{"model":"a",}',
        b'{"model":"a"} x',
        b'{"model":"a"}}',
        b'{"a":[1}',
        b'{"a":{"b":[}]}',
        b'{"a":"b" "model":"c"}',
        b'{model:"a"}',
        b"\xff\xfe{",
        b"\xef\xbb\xbf{}",
        b"--boundary\r\n",
    ],
)
def test_what_is_no_json_object_has_no_facts(body: bytes) -> None:
    assert scan(body) is None


def test_brackets_are_followed_to_a_depth_of_64() -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        fits = '{"model":"m","x":' + opening * 63 + "1" + closing * 63 + "}"
        assert facts_of(fits.encode()).model == "m"
        deeper = '{"model":"m","x":' + opening * 64 + "1" + closing * 64 + "}"
        assert scan(deeper.encode()) is None
    assert scan(b'{"x":' + b"[" * 1_000_000) is None


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("length", [0, 1, 29, 30, 31, 32, 33, 63, 64, 65, 200])
def test_quotes_after_backslashes_are_told_apart_at_any_offset(count: int, length: int) -> None:
    text = "x" * length + "\\" * count + '"}],"model":"no"' + "\\" * count
    body = json.dumps({"messages": [{"content": text}], text: text, "model": "yes"}).encode()
    facts = facts_of(body)
    assert (facts.model, facts.duplicate_model) == ("yes", False)


def test_only_the_model_is_replaced() -> None:
    body = b'{ "a":1, "model" :  "gpt\\u002d5" , "messages":[{"content":"\xc3\xa9"}] }\n'
    facts = facts_of(body)
    assert facts.model == "gpt-5"
    assert replace_model(body, facts, 'new"é') == (
        b'{ "a":1, "model" :  "new\\"\xc3\xa9" , "messages":[{"content":"\xc3\xa9"}] }\n'
    )


def test_body_that_needs_no_other_model_is_the_same_object() -> None:
    body = b'{"model":"a"}'
    assert replace_model(body, facts_of(body), "a") is body
    without = b'{"messages":[]}'
    assert replace_model(without, facts_of(without), "a") is without


def test_parts_around_another_model_are_views_of_the_body() -> None:
    body = b'{"messages":["' + b"x" * 100_000 + b'"],"model":"a","n":1}'
    facts = facts_of(body)
    before, model, after = replaced_parts(body, facts, "b")
    assert model == b'"b"'
    assert (memoryview(before).obj, memoryview(after).obj) == (body, body)
    assert b"".join([before, model, after]) == replace_model(body, facts, "b")
    assert replaced_parts(body, facts, "a") == [body]


@pytest.mark.parametrize("size", [*range(60, 68), *range(120, 132), 1000])
@pytest.mark.parametrize("text", ['"', "\\", '\\"', 'a"', '"\\', '\\\\"'])
def test_long_texts_of_quotes_and_backslashes_are_stepped_over(size: int, text: str) -> None:
    content = (text * size)[:size]
    body = json.dumps({"a": content, "messages": [{"content": content}], "model": "yes"}).encode()
    assert facts_of(body).model == "yes"
    for cut in range(len(body) - 70, len(body)):
        assert scan(body[:cut]) is None


def test_facts_of_another_body_are_refused() -> None:
    facts = facts_of(b'{"messages":[],"model":"a"}')
    for body in (b'{"model":"b"}', b'{"messages":[],"m":"abcdefgh"}', b""):
        with pytest.raises(ValueError, match="another body"):
            replace_model(body, facts, "c")
    with pytest.raises(TypeError):
        replace_model(b"{}", None, "c")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        scan(None)  # type: ignore[arg-type]


CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"content": "error"}, "finish_reason": "stop"}],
}


@pytest.mark.parametrize(
    "answer",
    [
        CHAT,
        CHAT | {"error": None},
        CHAT | {"error": {"message": "a warning, perhaps"}},
        {"object": "list", "data": []},
        {"object": "list", "data": [{"embedding": [0.1] * 100}]},
        {"object": "response", "error": None, "output": [{"type": "message"}]},
        {"object": "response", "error": {}, "output": "x"},
        {"text": "a transcription"},
        {"choices": [{"message": {"content": '"insufficient_system_resource"'}}]},
        [{"a": 1}],
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_answer_can_be_used(answer: object, indent: int | None) -> None:
    body = json.dumps(answer, indent=indent).encode()
    assert answer_problem(b" \n\n " + body + b"\n") is None


@pytest.mark.parametrize(
    "body", [b"", b" \r\n\n\t", b"{}", b" { } ", b'{"choices":[]}', b'{"choices": null}']
)
def test_answer_is_empty(body: bytes) -> None:
    assert answer_problem(body) == "empty"


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"message": "x", "type": "server_error"}},
        {"error": "overloaded", "choices": []},
        {"object": "error", "message": "x", "code": 400},
        {"object": "response", "status": "failed", "error": {"code": "server_error"}, "output": []},
        {"object": "response", "status": "cancelled", "error": None, "output": []},
    ],
)
def test_answer_is_an_error(answer: object) -> None:
    assert answer_problem(json.dumps(answer).encode()) == "error_in_200"


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>", b"Bad gateway", b'"text"', b"null", b"{} {}", b'{"choices":[{}]', b'{"a":1}}', b"[1"),
        *(b'{"a"', b'{"a":', b'{"a":x}', b'{"a":1,}', b'{"a":"b', b"{a:1}", b'{"a":1 "b":2}', b"[] x"),
    ],
)
def test_answer_is_not_json(body: bytes) -> None:
    assert answer_problem(body) == "not_json"


def test_answer_that_was_broken_off_is_told() -> None:
    choices = [{"message": {"content": "Once upon"}, "finish_reason": "insufficient_system_resource"}]
    assert answer_problem(json.dumps({"choices": choices}).encode()) == "broken_off"
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Once upon"}]}]
    for status, problem in (("failed", "broken_off"), ("cancelled", "broken_off"), ("incomplete", None)):
        assert answer_problem(json.dumps({"status": status, "output": output}).encode()) == problem


@pytest.mark.parametrize("size", range(1, len(json.dumps(CHAT))))
def test_answer_cut_anywhere_is_not_json(size: int) -> None:
    assert answer_problem(json.dumps(CHAT).encode()[:size]) == "not_json"


# --- Traits -----------------------------------------------------------------------------------


def traits_of(body: bytes) -> Trait:
    return Trait(facts_of(body).traits)


@pytest.mark.parametrize(
    ("key", "trait"),
    [
        ("temperature", 0),
        ("top_p", 0),
        ("stop", 0),
        ("presence_penalty", 0),
        ("frequency_penalty", 0),
        ("stream", 0),
        ("model", 0),
        ("messages", Trait.MESSAGES),
        ("max_tokens", Trait.MAX_TOKENS),
        ("thinking", Trait.THINKING),
        ("reasoning_effort", Trait.REASONING_EFFORT),
        ("response_format", Trait.RESPONSE_FORMAT),
        ("tools", Trait.TOOLS),
        ("tool_choice", Trait.TOOL_CHOICE),
        ("logprobs", Trait.LOGPROBS),
        ("top_logprobs", Trait.LOGPROBS),
        ("user_id", Trait.USER_ID),
        ("max_completion_tokens", Trait.FOREIGN),
        ("n", Trait.FOREIGN),
        ("", Trait.FOREIGN),
        ("x" * 200, Trait.FOREIGN),
        (r"thin\u006bing", EVERY_TRAIT),
        (r"\u006e", EVERY_TRAIT),
        (r"mess\u0061ges", Trait.MESSAGES),
    ],
)
def test_keys_of_the_top_level_are_noted(key: str, trait: Trait) -> None:
    assert traits_of(b'{"%b": 1}' % key.encode()) == trait
    assert traits_of(b'{"metadata":{"%b":1},"%b":[]}' % (key.encode(), key.encode())) == trait | Trait.FOREIGN


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_plain_choice_of_tools_is_no_trait(choice: str) -> None:
    assert traits_of(b'{"tool_choice":"%b"}' % choice.encode()) == 0
    assert traits_of(b'{"tool_choice":"%b"}' % choice.upper().encode()) == Trait.TOOL_CHOICE
    assert traits_of(b'{"tool_choice":{"%b":1}}' % choice.encode()) == Trait.TOOL_CHOICE


@pytest.mark.parametrize(
    ("word", "trait"),
    [
        ("developer", Trait.DEVELOPER),
        ("reasoning_content", Trait.REASONING_CONTENT),
        ("tool_calls", Trait.TOOL_CALLS),
        ("image_url", Trait.IMAGE),
        ("input_image", Trait.IMAGE),
        ("audio", Trait.AUDIO),
        ("input_audio", Trait.AUDIO),
        ("file", Trait.FILE),
        ("input_file", Trait.FILE),
        ("function_call", Trait.FUNCTION_CALL),
        ("prefix", Trait.PREFIX),
        ("strict", Trait.STRICT),
        ("custom", Trait.CUSTOM),
        ("insufficient_system_resource", 0),
        ("developers", 0),
        ("a developer", 0),
        ("", 0),
    ],
)
def test_words_in_messages_and_tools_are_noted(word: str, trait: Trait) -> None:
    for key, own in (("messages", Trait.MESSAGES), ("tools", Trait.TOOLS)):
        for value in ([{"role": word}], [[{"a": {word: None}}]], ["x" * 100, word, "y" * 100]):
            body = json.dumps({key: value, "stop": word, "model": word}).encode()
            assert traits_of(body) == own | trait
    assert traits_of(json.dumps({"stop": [word]}).encode()) == 0


def test_options_of_a_stream_are_noted_beside_the_usage() -> None:
    assert traits_of(b'{"stream_options":{"include_usage":true}}') == 0
    for options in (b'{"include_usage":true,"x":1}', b'{"include_usage":false}', b"[]", b"null"):
        assert traits_of(b'{"stream_options":%b}' % options) == Trait.STREAM_OPTIONS
