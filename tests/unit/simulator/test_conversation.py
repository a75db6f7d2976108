"""The simulated model says the same to the same request, and shows which request it was."""

from hypothesis import given
from hypothesis import strategies as st

from fastgw.simulator.conversation import (
    Reply,
    broken_tool_history,
    continue_prefix,
    fill_schema,
    last_user_text,
    say,
    text_of,
    tokens_of,
    wanted_call,
)

USER = {"role": "user", "content": "please call look_up now"}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}


@given(st.text())
def test_tokens_joined_give_the_text_back(text: str) -> None:
    assert "".join(tokens_of(text)) == text


def test_an_answer_repeats_the_last_user_message() -> None:
    messages = [{"role": "user", "content": "first"}, USER]
    assert "".join(say(messages)) == "You said: please call look_up now"
    assert "".join(say([USER, CALL, RESULT])).endswith("The tool said: sunny")


def test_an_answer_has_at_least_the_tokens_asked_for() -> None:
    tokens = say([{"role": "user", "content": "hi"}], length=6)
    assert tokens == ["You", " said:", " hi", " w3", " w4", " w5"]
    assert len(say([{"role": "user", "content": "a b c d"}], length=2)) == 6


def test_text_is_found_in_strings_and_in_parts() -> None:
    assert text_of("a") == "a"
    assert text_of([{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}, 3]) == "a b"
    assert text_of(None) == ""
    assert last_user_text([]) == ""


def test_a_limit_cuts_thoughts_before_content() -> None:
    reply = Reply(["a", "b"], ["t", "u"])
    reply.cut(3)
    assert (reply.reasoning, reply.content, reply.finish) == (["t", "u"], ["a"], "length")
    reply.cut(1)
    assert (reply.reasoning, reply.content) == (["t"], [])
    whole = Reply(["a"], [])
    whole.cut(1)
    assert whole.finish == "stop"


@given(st.integers(0, 60))
def test_a_continuation_and_its_prefix_make_the_whole(at: int) -> None:
    tokens = say([{"role": "user", "content": "hello"}], length=20)
    text = "".join(tokens)
    assert text[:at] + "".join(continue_prefix(tokens, text[:at])) == text


def test_a_foreign_prefix_is_followed_by_the_whole_answer() -> None:
    assert continue_prefix(["a", " b"], "x") == ["a", " b"]


def test_a_tool_is_called_when_asked_for_or_forced() -> None:
    other = {"role": "user", "content": "hello"}
    forced = {"type": "function", "function": {"name": "look_up"}}
    assert wanted_call([USER], TOOLS, None) == ("look_up", {"type": "object"})
    assert wanted_call([other], TOOLS, None) is None
    assert wanted_call([other], TOOLS, "required") == ("look_up", {"type": "object"})
    assert wanted_call([other], TOOLS, forced) == ("look_up", {"type": "object"})
    assert wanted_call([USER], TOOLS, "none") is None
    assert wanted_call([USER], [], None) is None
    assert wanted_call([USER, CALL, RESULT], TOOLS, None) is None


def test_a_schema_is_filled_with_the_text() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {"type": ["integer", "null"]},
            "c": {"enum": ["x", "y"]},
            "d": {"type": "array", "items": {"type": "number"}},
            "e": {"const": 5},
            "f": {"type": "boolean"},
        },
    }
    assert fill_schema(schema, "t") == {"a": "t", "b": 1, "c": "x", "d": [1.0], "e": 5, "f": True}


def test_a_schema_without_an_end_is_cut_short() -> None:
    endless: dict[str, object] = {"type": "array"}
    endless["items"] = endless
    assert "t" in str(fill_schema(endless, "t"))


def test_tool_answers_must_follow_their_calls() -> None:
    assert broken_tool_history([USER, CALL, RESULT, USER]) is None
    assert "must be followed" in str(broken_tool_history([USER, CALL]))
    assert "must be followed" in str(broken_tool_history([USER, CALL, USER]))
    assert "must answer" in str(broken_tool_history([USER, RESULT]))
    assert "must answer" in str(broken_tool_history([USER, CALL, RESULT, RESULT]))
