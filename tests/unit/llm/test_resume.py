"""A second generation goes on with the first one, or nothing of it goes out."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fastgw.llm.resume import FOLD_BYTES, Splicer, Transcript, continue_body, events_in


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"id": "one", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: %b\n\n" % orjson.dumps(chunk | fields)


def text(content: str) -> bytes:
    return event({"content": content})


def call(index: int, arguments: str, name: str | None = None, id: str | None = None) -> bytes:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    piece: dict[str, Any] = {"index": index, "function": function}
    if id is not None:
        piece |= {"id": id, "type": "function"}
    return event({"tool_calls": [piece]})


ROLE = event({"role": "assistant", "content": ""})
FINISH = event({}, "stop")
DONE = b"data: [DONE]\n\n"


def after(*events: bytes) -> Transcript:
    transcript = Transcript()
    for one in events:
        assert transcript.pass_on(one) is one
    return transcript


def read(content: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The text of whole events, and all of them but [DONE]."""
    found = [orjson.loads(data) for _, data in events_in(content) if data not in (None, b"[DONE]")]
    deltas = [choice["delta"] for one in found for choice in one["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas), found


def second(*events: bytes, id: str = "two") -> list[bytes]:
    return [one.replace(b'"id":"one"', b'"id":"%b"' % id.encode()) for one in events]


# --- What was said ----------------------------------------------------------------------------


def test_a_transcript_tells_what_the_client_has() -> None:
    transcript = after(
        ROLE, text("You "), b": keep-alive\n\n", event({"reasoning_content": "hm"}), text("said")
    )
    assert transcript.can_resume()
    assert (transcript.text, transcript.id, transcript.created, transcript.model) == (
        "You said",
        "one",
        1,
        "m",
    )
    assert transcript.has_reasoning
    assert transcript.finish_reason is None
    assert transcript.pieces == 3


def test_a_transcript_puts_tool_calls_together() -> None:
    transcript = after(
        call(0, "", "weather", "c1"), call(0, '{"ci'), call(0, 'ty"'), call(1, "{", "time", "c2")
    )
    assert transcript.can_resume()
    assert transcript.tools == {0: ["weather", '{"city"'], 1: ["time", "{"]}


def test_a_transcript_reads_long_answers_on_the_way() -> None:
    transcript = Transcript()
    for _ in range(3 * FOLD_BYTES // len(text("x" * 100))):
        transcript.pass_on(text("x" * 100))
        assert transcript._unread_bytes <= FOLD_BYTES + 200
    assert set(transcript.text) == {"x"}


@pytest.mark.parametrize(
    "odd",
    [
        b"data: no json\n\n",
        b'data: {"type":"response.created"}\n\n',
        b"data: 1\n\n",
        event({"content": "b"}).replace(b'"index":0', b'"index":1'),
        event({"refusal": "no"}),
        event({"audio": {"data": "x"}}),
        b'data: {"choices":[1]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"conte',
    ],
)
def test_what_is_no_answer_of_one_choice_cannot_be_resumed(odd: bytes) -> None:
    assert not after(text("a"), odd, text("b")).can_resume()


def test_an_answer_that_grows_too_long_cannot_be_resumed() -> None:
    transcript = Transcript(max_bytes=100)
    transcript.pass_on(text("x" * 60))
    assert transcript.can_resume()
    transcript.pass_on(text("x" * 60))
    assert not transcript.can_resume()
    assert transcript.text == ""


# --- By prefix --------------------------------------------------------------------------------


def test_a_continuation_goes_out_under_the_first_answers_id() -> None:
    splicer = Splicer(after(ROLE, text("You ")), by_prefix=True, comment="fastgw: resumed")
    out = splicer.pass_on(b"".join(second(ROLE, text("said"), text(": hello"), FINISH, DONE)))
    assert out.startswith(b": fastgw: resumed\ndata: ")
    assert out.count(b": fastgw") == 1
    content, events = read(out)
    assert content == "said: hello"
    assert {one["id"] for one in events} == {"one"}
    assert not any("role" in choice["delta"] for one in events for choice in one["choices"])
    assert [c["finish_reason"] for one in events for c in one["choices"]].count("stop") == 1
    assert out.endswith(DONE)
    assert not splicer.has_diverged
    assert splicer.transcript.text == "You said: hello"
    assert splicer.transcript.finish_reason == "stop"


def test_a_continuation_has_the_usage_of_both_generations() -> None:
    splicer = Splicer(after(ROLE, text("You "), text("said")), by_prefix=True)
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    _, [last] = read(splicer.pass_on(event(None, usage=usage)))
    assert (
        last["usage"]["prompt_tokens"] == 12 + 10
    )  # the second prompt held the two tokens of the first answer
    assert last["usage"]["completion_tokens"] == 5 + 2
    assert last["usage"]["total_tokens"] == 29
    assert last["usage"]["is_estimate"] is True


def test_a_request_for_a_continuation_ends_with_the_answer_so_far() -> None:
    body = orjson.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "max_tokens": 10,
            "reasoning_effort": "high",
        }
    )
    request = orjson.loads(continue_body(body, "You said", 4))
    assert request["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "You said", "prefix": True},
    ]
    assert request["max_tokens"] == 6
    assert request["thinking"] == {"type": "disabled"}
    assert "reasoning_effort" not in request
    assert orjson.loads(continue_body(body, "x", 99))["max_tokens"] == 1


# --- By repetition ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces", [["You said: hello"], ["You", " said", ": ", "hello"], list("You said: hello")]
)
def test_a_repetition_goes_out_from_where_the_first_answer_ended(pieces: list[str]) -> None:
    splicer = Splicer(after(ROLE, text("You "), text("sai")), by_prefix=False)
    out = b"".join(splicer.pass_on(one) for one in second(ROLE, *map(text, pieces), FINISH, DONE))
    content, events = read(out)
    assert content == "d: hello"
    assert {one["id"] for one in events} == {"one"}
    assert not splicer.has_diverged
    assert splicer.transcript.text == "You said: hello"


@pytest.mark.parametrize(
    "other",
    [
        [text("They said")],
        [text("You "), text("told")],
        [text("You "), FINISH],
        [text("You "), DONE],
        [text("You "), call(0, "{", "weather")],
        [b"data: {}\n\n"],
        [b"data: no json\n\n"],
        [b"data: []\n\n"],
        [text("You said").replace(b'"index":0', b'"index":1')],
        [b'data: {"choices":[null]}\n\n'],
    ],
)
def test_nothing_of_another_answer_goes_out(other: list[bytes]) -> None:
    splicer = Splicer(after(ROLE, text("You sai")), by_prefix=False)
    out = splicer.pass_on(b"".join([ROLE, *other, text("d: hello"), FINISH, DONE]))
    assert splicer.has_diverged
    assert out == b""
    assert splicer.transcript.text == "You sai"


def test_thoughts_of_the_second_model_do_not_go_out() -> None:
    splicer = Splicer(after(ROLE, text("You ")), by_prefix=False)
    out = splicer.pass_on(b"".join([event({"reasoning_content": "hm"}), text("You said"), FINISH]))
    assert b"hm" not in out
    assert read(out)[0] == "said"


def test_a_tool_call_is_continued_under_its_first_id() -> None:
    splicer = Splicer(after(ROLE, call(0, "", "weather", "c1"), call(0, '{"ci')), by_prefix=False)
    again = [
        ROLE,
        call(0, "", "weather", "d1"),
        call(0, '{"city'),
        call(0, '":1}'),
        event({}, "tool_calls"),
        DONE,
    ]
    out = b"".join(map(splicer.pass_on, again))
    assert not splicer.has_diverged
    pieces = [
        c for one in read(out)[1] for choice in one["choices"] for c in choice["delta"].get("tool_calls", [])
    ]
    assert "".join(piece["function"]["arguments"] for piece in pieces) == 'ty":1}'
    assert all(piece == {"index": 0, "function": piece["function"]} for piece in pieces)
    assert splicer.transcript.tools == {0: ["weather", '{"city":1}']}


@pytest.mark.parametrize(
    "again",
    [[call(0, "", "time", "d1")], [call(0, "", "weather"), call(0, "[")], [call(1, "{", "weather")]],
)
def test_another_tool_call_does_not_go_out(again: list[bytes]) -> None:
    splicer = Splicer(after(ROLE, call(0, "", "weather", "c1"), call(0, '{"ci')), by_prefix=False)
    assert splicer.pass_on(b"".join(again)) == b""
    assert splicer.has_diverged


def test_a_second_break_is_continued_from_all_that_went_out() -> None:
    transcript = after(ROLE, text("You "))
    Splicer(transcript, by_prefix=True).pass_on(text("sai"))
    third = Splicer(transcript, by_prefix=False)
    assert read(third.pass_on(text("You said") + FINISH))[0] == "d"
