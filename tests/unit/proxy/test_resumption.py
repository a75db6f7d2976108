"""A stream that breaks is gone on with by the next node: nothing of it is lost, and nothing is said twice."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest
from exchange_bench import (
    DONE,
    END,
    ERROR,
    FINISH,
    STREAM_BODY,
    STREAM_HEAD,
    Bench,
    chunk,
    content,
    dechunked,
)

Make = Callable[..., Bench]


# Deltas of shapes that nobody can put together.
ODD: list[object] = [
    "text",
    7,
    {"content": [{"type": "text", "text": "x"}]},
    {"content": 7},
    {"tool_calls": 7},
    {"tool_calls": {"index": 0}},
    {"tool_calls": ["x"]},
    {"tool_calls": [{"index": [], "function": {"name": "x"}}]},
    {"tool_calls": [{"index": 0, "function": "x"}]},
    {"tool_calls": [{"index": 0, "function": {"name": 7}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": {"x": 1}}}]},
]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda nodes=2, **options: Bench(monkeypatch, nodes, resumes=True, **options)


def broken(bench: Bench, *pieces: bytes) -> None:
    """The first node's stream ends after these pieces, "He" before them."""
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(content("He")), *pieces)
    node.reset()


def text_of(said: bytes) -> str:
    """The text that the events of a body have together."""
    found = ""
    for line in said.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in orjson.loads(line[6:]).get("choices", ()):
                found += choice["delta"].get("content") or ""
    return found


@pytest.mark.parametrize("end", [chunk(ERROR), END, chunk(b'data: {"choices"') + END])
def test_what_came_in_one_read_with_its_end_is_not_lost(make: Make, end: bytes) -> None:
    """The node after it goes on behind that: it has to reach the client."""
    bench = make(3)
    broken(bench)
    bench.connect(1).say(STREAM_HEAD + chunk(content("Hello, ")) + end)
    bench.connect(2).say(STREAM_HEAD + chunk(content("Hello, world") + FINISH + DONE) + END)
    said, is_whole = dechunked(bench.answer().rest)
    assert (text_of(said), is_whole) == ("Hello, world", True)
    bench.check_end()


def test_what_came_with_too_much_nonsense_is_not_lost(make: Make) -> None:
    bench = make(3)
    broken(bench)
    bench.connect(1).say(STREAM_HEAD + chunk(content("Hello, ") + 4 * b"data: {\n\n"))
    bench.connect(2).say(STREAM_HEAD + chunk(content("Hello, world") + FINISH + DONE) + END)
    said, is_whole = dechunked(bench.answer().rest)
    assert (text_of(said), is_whole) == ("Hello, world", True)
    bench.check_end()


def test_a_read_that_only_repeats_what_the_client_has_may_fail_unseen(make: Make) -> None:
    bench = make(3)
    broken(bench)
    bench.connect(1).say(STREAM_HEAD + chunk(content("He") + ERROR))
    bench.connect(2).say(STREAM_HEAD + chunk(content("Hello") + FINISH + DONE) + END)
    said, is_whole = dechunked(bench.answer().rest)
    assert (text_of(said), is_whole) == ("Hello", True)
    bench.check_end()


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("end", [FINISH, FINISH + DONE, DONE, FINISH + DONE + DONE])
def test_an_answer_that_lacks_no_more_than_its_end_is_ended_once(
    make: Make, end: bytes, position: int
) -> None:
    bench = make()
    if position:
        broken(bench)
    else:
        bench.ask(STREAM_BODY)
    node = bench.connect(position)
    node.say(STREAM_HEAD, chunk(content("Hello")), chunk(end))
    node.reset()
    said, is_whole = dechunked(bench.answer().rest)
    assert (text_of(said), is_whole) == ("Hello", True)
    assert said.count(DONE) == (2 if end.count(DONE) == 2 and not position else 1)  # of its own
    assert said.endswith(DONE) and not bench.pools[1].tickets[1:]
    bench.check_end()


def odd_event(delta: object) -> bytes:
    return b"data: %b\n\n" % orjson.dumps({"choices": [{"index": 0, "delta": delta}]})


@pytest.mark.parametrize("delta", ODD)
def test_a_stream_with_something_unknown_in_it_ends_honestly(make: Make, delta: object) -> None:
    bench = make()
    broken(bench, chunk(odd_event(delta)))
    said, is_whole = dechunked(bench.answer().rest)
    assert said.startswith(content("He") + odd_event(delta)) and b'"stream_interrupted"' in said
    assert not is_whole and not bench.pools[1].tickets
    bench.check_end()


@pytest.mark.parametrize("delta", ODD)
def test_something_unknown_in_the_second_stream_is_another_answer(make: Make, delta: object) -> None:
    bench = make()
    broken(bench)
    bench.connect(1).say(STREAM_HEAD, chunk(content("Hello")), chunk(odd_event(delta)))
    said, is_whole = dechunked(bench.answer().rest)
    assert said.count(b"data: ") == 3 and b'"stream_interrupted"' in said and not is_whole
    assert not any(bench.nodes[1].counters.values())
    bench.check_end()


def test_a_request_that_cannot_be_continued_by_prefix_is_asked_again(make: Make) -> None:
    """Half of a surrogate pair: a JavaScript client cuts a text so, and a provider may take it."""
    bench = make(prefix_target=b"/beta/chat/completions")
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"\\ud83d"}]}'
    bench.ask(body)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(content("He")))
    node.reset()
    node = bench.connect(1)
    request = node.take()
    assert request.startswith(b"POST /v1/chat/completions ") and request.endswith(body)
    node.say(STREAM_HEAD, chunk(content("Hello") + FINISH + DONE), END)
    said, is_whole = dechunked(bench.answer().rest)
    assert (text_of(said), is_whole) == ("Hello", True)
    bench.check_end()


@pytest.mark.parametrize("code", ["content_policy_violation", "context_length_exceeded"])
def test_no_other_node_is_asked_behind_the_back_of_a_filter(make: Make, code: str) -> None:
    bench = make()
    bench.ask(STREAM_BODY)
    bench.connect().say(
        STREAM_HEAD, chunk(content("He")), chunk(ERROR.replace(b"server_error", code.encode()))
    )
    said, is_whole = dechunked(bench.answer().rest)
    assert code.encode() in said and not is_whole and not bench.pools[1].tickets
    bench.check_end()
