"""Events that mean nothing to us, and streams of them: those are whole when their bodies are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from exchange_bench import (
    COMPLETION,
    DONE,
    END,
    STREAM_BODY,
    STREAM_HEAD,
    Bench,
    chunk,
    content,
    dechunked,
    json_response,
)

from fastgw.balancing.deadlines import Deadlines

Make = Callable[..., Bench]

STREAMS = {
    "/v1/audio/speech": (
        b'data: {"type":"speech.audio.delta","audio":"AAAA"}\n\n',
        b'data: {"type":"speech.audio.done","usage":{"input_tokens":14}}\n\n',
    ),
    "/v1/audio/transcriptions": (
        b'data: {"type":"transcript.text.delta","delta":"I"}\n\n',
        b'data: {"type":"transcript.text.done","text":"I"}\n\n',
    ),
    "/v1/images/generations": (
        b'event: image_generation.partial_image\ndata: {"type":"image_generation.partial_image"}\n\n',
        b'event: image_generation.completed\ndata: {"type":"image_generation.completed","usage":{"a":1}}\n\n',
    ),
    "/anthropic/v1/messages": (
        b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ),
    "/v1/some/usage": (b'data: {"usage":{"tokens":1}}\n\n' + DONE,),
}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda *args, **options: Bench(monkeypatch, *args, **options)


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_stream_that_does_not_say_its_end_as_a_chat_does_is_whole(
    make: Make, path: str, at_once: bool
) -> None:
    bench = make()
    bench.ask(STREAM_BODY, path=path)
    events = STREAMS[path]
    node = bench.connect()
    pieces = [STREAM_HEAD, *map(chunk, events), END]
    node.say(*([b"".join(pieces)] if at_once else pieces))
    assert dechunked(bench.answer().rest) == (b"".join(events), True)
    assert bench.pools[0].idle == [node.connection] and not any(bench.nodes[0].counters.values())
    bench.check_end()


@pytest.mark.parametrize("path", [path for path in STREAMS if len(STREAMS[path]) > 1])
def test_its_first_event_is_its_first_content(make: Make, path: str) -> None:
    bench = make()
    bench.ask(STREAM_BODY, path=path)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(STREAMS[path][0]))
    assert dechunked(bench.answer().rest) == (STREAMS[path][0], False)
    node.reset()
    assert b'"stream_interrupted"' in bench.transport.take()
    bench.check_end()


def test_any_of_its_events_is_progress(make: Make) -> None:
    bench = make(deadlines=Deadlines(progress_s=10.0, idle_s=20.0))
    bench.ask(STREAM_BODY, path="/anthropic/v1/messages")
    node = bench.connect()
    begin, end = STREAMS["/anthropic/v1/messages"]
    node.say(STREAM_HEAD, chunk(begin))
    for _ in range(3):
        bench.wait(15.0)
        node.say(chunk(begin))
    bench.wait(15.0)
    node.say(chunk(end), END)
    assert dechunked(bench.answer().rest) == (4 * begin + end, True)
    bench.check_end()


def test_one_that_is_cut_inside_an_event_is_not_whole(make: Make) -> None:
    bench = make()
    bench.ask(STREAM_BODY, path="/anthropic/v1/messages")
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(STREAMS["/anthropic/v1/messages"][0]), chunk(b'data: {"type":"mess'), END)
    content_of, is_whole = dechunked(bench.answer().rest)
    assert b'"stream_interrupted"' in content_of and not is_whole
    bench.check_end()


@pytest.mark.parametrize("events", [b"", b": hello\n\n"])
def test_one_that_says_nothing_is_no_answer(make: Make, events: bytes) -> None:
    bench = make(replayable=True)
    bench.ask(STREAM_BODY, path="/anthropic/v1/messages")
    bench.connect().say(STREAM_HEAD + (chunk(events) if events else b"") + END)
    bench.connect(1).say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()


def test_a_chat_still_has_to_say_its_end(make: Make) -> None:
    bench = make()
    bench.ask(STREAM_BODY)
    bench.connect().say(STREAM_HEAD + chunk(content("Hi")) + END)
    bench.connect(1).say(STREAM_HEAD + chunk(content("Hi") + DONE) + END)
    assert dechunked(bench.answer().rest) == (content("Hi") + DONE, True)
    bench.check_end()


@pytest.mark.parametrize("event", [b"retry: 3000\n\n", b"id: 7\n\n", b"event: ping\n\n", b'{"error": 1}\n\n'])
def test_an_event_without_data_is_no_content(make: Make, event: bytes) -> None:
    bench = make()
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(event))
    assert bench.transport.sent == b""
    node.reset()
    bench.connect(1).say(STREAM_HEAD, chunk(event + content("Hi") + DONE), END)
    assert dechunked(bench.answer().rest) == (event + content("Hi") + DONE, True)
    bench.check_end()
