"""Streams that break after their first content end honestly, and all others arrive byte for byte."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import openai
import pytest
from openai import OpenAI
from rig import CONFIG, MESSAGES, OPENAI, FaultKind, Rig, running, wait_until, with_deadlines
from wire_ends import Client, Message, Peer, ScriptedNode, chunked, config_for, node, post

UNTOUCHED = {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
# Without probes, which would count. A stream that stalls is given up after 3 s.
QUIET = with_deadlines(CONFIG[: CONFIG.index("      checks:")], progress=3, idle=3)
LONG = {"x-sim-tokens": "40", "x-sim-delay-ms": "2"}  # spread, so that a break comes after what was before it
WHOLE = "You said: say hello" + "".join(f" w{n}" for n in range(4, 40))


@contextmanager
def sdk(rig: Rig) -> Iterator[OpenAI]:
    with OpenAI(base_url=rig.base_url, api_key="sk-any", max_retries=0, timeout=30) as client:
        yield client


def read_stream(client: OpenAI, texts: list[str], **extra: Any) -> None:
    """Read a stream to its end; what came of it is in ``texts`` even if it raises."""
    messages: Any = MESSAGES
    options: Any = {"model": "gpt-4o", "messages": messages, "extra_headers": LONG, **extra}
    for chunk in client.chat.completions.create(stream=True, **options):
        texts += [choice.delta.content or "" for choice in chunk.choices]


def chat_stream(*fields: str, version: str = "1.1") -> bytes:
    body = json.dumps({"model": "gpt-4o", "messages": MESSAGES, "stream": True}).encode()
    return post("/v1/chat/completions", body, *fields, version=version)


def counters_of_openai(rig: Rig) -> dict[str, int]:
    openai_node = rig.nodes()[OPENAI]
    return rig.call(lambda: dict(openai_node.counters))  # in the loop: what follows an answer has been done


# --- Broken by the provider -------------------------------------------------------------------

# (name, fault, its parameters, the code in the error event, the counter it moves)
BREAKS: list[tuple[str, FaultKind, dict[str, Any], str | None, str]] = [
    ("reset", FaultKind.RESET_INSIDE, {"after": 5, "how": "rst"}, "stream_interrupted", "tcp_failure"),
    ("end", FaultKind.RESET_INSIDE, {"after": 5, "how": "fin"}, "stream_interrupted", "tcp_failure"),
    ("clean end", FaultKind.RESET_INSIDE, {"after": 5, "how": "clean"}, "stream_interrupted", "tcp_failure"),
    ("cut in TLS", FaultKind.TRUNCATE_TLS, {"after": 5}, "stream_interrupted", "tcp_failure"),
    ("stall", FaultKind.STALL, {"after": 5}, "stream_stalled", "timeout_failure"),
    ("error event", FaultKind.ERROR_EVENT, {"after": 5}, None, "http_failure"),
    ("error event without an end", FaultKind.ERROR_EVENT, {"after": 5, "done": False}, None, "http_failure"),
]
BREAK_IDS = [row[0] for row in BREAKS]


@pytest.mark.parametrize(("kind", "parameters"), [row[1:3] for row in BREAKS], ids=BREAK_IDS)
def test_the_sdk_never_takes_a_broken_stream_for_a_short_answer(
    ca_dir: Path, kind: FaultKind, parameters: dict[str, Any], loop_kind: str
) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig, sdk(rig) as client:
        rig.fault(rig.openai, kind, **parameters)
        texts: list[str] = []
        with pytest.raises(openai.APIError) as caught:
            read_stream(client, texts)
        assert caught.value.message
        text = "".join(texts)
        assert text  # what had come was not lost
        assert WHOLE.startswith(text)
        assert len(text) < len(WHOLE)
        assert rig.deepseek.counters.requests == 0  # two generations never meet in one answer


@pytest.mark.parametrize(
    ("kind", "parameters", "code", "counter"), [row[1:] for row in BREAKS], ids=BREAK_IDS
)
def test_a_broken_stream_has_an_error_event_no_done_and_no_end(
    ca_dir: Path, kind: FaultKind, parameters: dict[str, Any], code: str | None, counter: str
) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, kind, **parameters)
        with Client(rig.port) as client:
            got = client.ask(chat_stream("x-sim-tokens: 40", "x-sim-delay-ms: 2"))
            assert (got.status, got["transfer-encoding"]) == (200, "chunked")
            assert not got.is_whole
            assert client.rest() == b""
        assert b"[DONE]" not in got.body
        assert b'"finish_reason":"stop"' not in got.body
        events = got.body.split(b"\n\n")
        assert events.pop() == b""
        for event in events:
            assert event.startswith(b"data: {")
        error = json.loads(events[-1].removeprefix(b"data: "))["error"]
        assert error["message"]
        if code is not None:
            assert error["code"] == code
            assert error.keys() == {"message", "type", "param", "code"}
        assert sum(b'"error"' in event for event in events) == 1
        assert counters_of_openai(rig) == {**UNTOUCHED, counter: 1}
        assert rig.counts()["streams_interrupted"] == 1
        assert rig.counts()["exchanges"] == 0
        assert rig.counts()["node_connections"]["busy"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_the_total_deadline_ends_a_stream_honestly(ca_dir: Path, stream: bool) -> None:
    config = with_deadlines(QUIET, total=4)
    with running(ca_dir, config) as rig, sdk(rig) as client:
        texts: list[str] = []
        slow = {"x-sim-tokens": "5000", "x-sim-delay-ms": "5"}
        if stream:
            with pytest.raises(openai.APIError, match="time is over"):
                read_stream(client, texts, extra_headers=slow)
            assert texts
            assert counters_of_openai(rig) == UNTOUCHED  # it did what it could
        else:
            messages: Any = MESSAGES
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(model="gpt-4o", messages=messages, extra_headers=slow)
            assert caught.value.status_code == 504


def test_a_drain_ends_streams_honestly_and_blames_nobody(ca_dir: Path, loop_kind: str) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            client.send(chat_stream("x-sim-tokens: 5000", "x-sim-delay-ms: 5"))
            client.read_until(b'"content":" hello"')
            assert rig.await_(rig.gateway.drain(0.2)) is False
            rest = client.rest()
        assert b'"code":"shutting_down"' in rest
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n")
        assert counters_of_openai(rig) == UNTOUCHED


def test_a_drain_lets_a_stream_finish_within_its_limit(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig, Client(rig.port) as client:
        client.send(chat_stream("x-sim-tokens: 50", "x-sim-delay-ms: 5"))
        client.read_until(b'"content":" hello"')
        assert rig.await_(rig.gateway.drain(100)) is True
        rest = client.rest()
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_a_client_of_http_1_0_gets_the_error_event_too(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig, Client(rig.port) as client:
        got = client.ask(chat_stream(version="1.0"))
        assert got.body.endswith(b"data: [DONE]\n\n")
        assert "transfer-encoding" not in got
    with running(ca_dir, QUIET) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=2)
        got = client.ask(chat_stream("x-sim-delay-ms: 2", version="1.0"))
        assert b'"code":"stream_interrupted"' in got.body
        assert b"[DONE]" not in got.body


# --- Not broken -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (FaultKind.MISSING_DONE, {}),
        (FaultKind.MALFORMED_EVENT, {"after": 3}),
        (FaultKind.KEEPALIVE_FLOOD, {"interval_s": 0.02, "duration_s": 0.1}),
        (FaultKind.CLOSE_DELIMITED, {}),
        (FaultKind.CLOSE_AFTER, {"after": 1}),
        (FaultKind.CLOSE_AFTER, {"after": 1, "announce": False}),
        (FaultKind.STALL, {"after": 5, "duration_s": 0.1}),
    ],
    ids=["no DONE", "malformed event", "comments first", "until close", "close", "close unasked", "pause"],
)
def test_a_stream_that_is_odd_but_whole_is_a_success(
    ca_dir: Path, kind: FaultKind, parameters: dict[str, Any], loop_kind: str
) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig, sdk(rig) as client:
        rig.fault(rig.openai, kind, **parameters)
        texts: list[str] = []
        read_stream(client, texts, extra_headers={"x-sim-tokens": "40"})
        assert "".join(texts) == WHOLE
        with Client(rig.port) as raw:
            for _ in range(2):
                assert raw.ask(chat_stream()).is_whole
        counts = rig.counts()
        assert counts["streams_interrupted"] == 0
        assert counts["malformed_events"] == (3 if kind is FaultKind.MALFORMED_EVENT else 0)
        assert counters_of_openai(rig) == UNTOUCHED
        assert rig.deepseek.counters.requests == 0


def test_a_slow_reader_gets_all_of_a_long_stream(ca_dir: Path) -> None:
    tokens = 20_000
    with running(ca_dir, QUIET) as rig, Client(rig.port, receive_buffer=65536) as client:
        client.send(chat_stream(f"x-sim-tokens: {tokens}"))

        def is_stopped() -> bool:
            return any(connection.is_paused for connection in rig.gateway.server.listeners[0].connections)

        wait_until(lambda: rig.call(is_stopped), "the client's connection is full")
        got = client.answer()
        assert got.is_whole
        assert got.body.endswith(b"data: [DONE]\n\n")
        words = re.findall(rb'"content":" w(\d+)"', got.body)
        assert [int(word) for word in words] == list(range(4, tokens))


# --- Byte for byte ----------------------------------------------------------------------------


def event(content: str | None = None, *, finish: str | None = None, **delta: Any) -> bytes:
    said = delta if content is None else {"content": content, **delta}
    choice = {"index": 0, "delta": said, "finish_reason": finish}
    chunk = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


ROLE = event(role="assistant", content="")
FINISH = event(finish="stop")
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAMS: dict[str, bytes] = {
    "plain": ROLE + event("Hello") + event(", wörld 🌍") + event('a "quoted"\n\\line\r\n') + FINISH + DONE,
    "comments": ROLE
    + event("a")
    + b": keep-alive\n\n"
    + event("b")
    + b"\n\n: x\n"
    + event("c")
    + FINISH
    + DONE,
    "CRLF": (ROLE + event("a") + event("b") + FINISH + DONE).replace(b"\n", b"\r\n"),
    "CR": (ROLE + event("a") + event("b") + FINISH + DONE).replace(b"\n", b"\r"),
    "named": (b"event: message\nid: 7\nretry: 10\n" + event("a") + b"event: message\n" + FINISH + DONE),
    "many lines": b'data: {"choices": [{"delta":\ndata: {"content": "a"}}]}\n\n' + event("b") + FINISH + DONE,
    "no space": (ROLE + event("a") + FINISH + DONE).replace(b"data: ", b"data:"),
}


class Playing:
    """A node whose next answers a test puts together: pieces of bytes, written one by one."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.pause_s = 0.0

    def __call__(self, peer: Peer) -> None:
        while True:
            peer.request()
            for piece in self.pieces:
                peer.send(piece)
                if self.pause_s:
                    sleep(self.pause_s)  # the halves mostly arrive apart then; nothing depends on it


@pytest.fixture(scope="module")
def played(ca_dir: Path) -> Iterator[tuple[Rig, ScriptedNode, Playing]]:
    playing = Playing()
    with node(playing) as upstream:
        with running(ca_dir, config_for(upstream.port, provider="openai")) as rig:
            yield rig, upstream, playing


def answer_to(client: Client) -> Message:
    got = client.ask(chat_stream())
    assert got.status == 200, got.body
    assert got.is_whole
    return got


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_into_two_chunks_at_any_byte_arrives_unchanged(
    played: tuple[Rig, ScriptedNode, Playing], name: str
) -> None:
    rig, _, playing = played
    stream = STREAMS[name]
    playing.pause_s = 0.0
    with Client(rig.port) as client:
        for at in range(1, len(stream)):
            playing.pieces = [HEAD + chunked(stream[:at], stream[at:])]
            assert answer_to(client).body == stream, at
    assert rig.counts()["streams_interrupted"] == 0


@pytest.mark.parametrize("name", ["plain", "comments", "CRLF"])
def test_a_stream_written_in_two_at_any_byte_arrives_unchanged(
    played: tuple[Rig, ScriptedNode, Playing], name: str
) -> None:
    rig, _, playing = played
    stream = STREAMS[name]
    whole = HEAD + chunked(stream)
    first = whole.index(b"\r\n\r\n") + 4
    playing.pause_s = 0.0002
    with Client(rig.port) as client:
        for at in range(first, len(whole)):
            playing.pieces = [whole[:at], whole[at:]]
            assert answer_to(client).body == stream, at
    assert rig.counts()["streams_interrupted"] == 0


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 17])
def test_a_stream_in_slices_of_any_size_arrives_unchanged(
    played: tuple[Rig, ScriptedNode, Playing], name: str, size: int
) -> None:
    rig, _, playing = played
    stream = STREAMS[name]
    slices = [stream[at : at + size] for at in range(0, len(stream), size)]
    playing.pause_s = 0.0
    with Client(rig.port) as client:
        playing.pieces = [HEAD + chunked(*slices)]
        assert answer_to(client).body == stream
        whole = HEAD + chunked(stream)
        playing.pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert answer_to(client).body == stream
        playing.pieces = [HEAD, *[chunked(piece, end=b"") for piece in slices], b"0\r\n\r\n"]
        assert answer_to(client).body == stream


@pytest.mark.parametrize("bad", [b'data: {"choi\n\n', b"data: oops\n\n", b'data: {"a": 1,}\r\n\r\n'])
def test_a_malformed_event_is_dropped_and_the_rest_is_byte_exact(
    played: tuple[Rig, ScriptedNode, Playing], bad: bytes
) -> None:
    rig, _, playing = played
    good = [ROLE, event("a"), event("b"), b": c\n\n", event("d"), FINISH, DONE]
    before = rig.counts()["malformed_events"]
    dropped = 0
    playing.pause_s = 0.0
    with Client(rig.port) as client:
        for at in range(2, len(good)):
            events = [*good[:at], bad, *good[at:]]
            at_once = [HEAD + chunked(b"".join(events))]
            one_by_one = [HEAD, *map(_chunk, events), b"0\r\n\r\n"]
            for pieces in (at_once, [HEAD + chunked(*events)], one_by_one):
                playing.pieces = pieces
                assert answer_to(client).body == b"".join(good), at
                dropped += 1
    assert rig.counts()["malformed_events"] - before == dropped


def _chunk(data: bytes) -> bytes:
    return chunked(data, end=b"")


def test_many_malformed_events_are_no_accident(ca_dir: Path) -> None:
    rest = chunked(*[b"data: oops\n\n"] * 10, event("b"), FINISH, DONE)
    with begun(ca_dir, [ROLE, event("a")], rest) as got:
        assert not got.is_whole
        assert b"oops" not in got.body
        assert b'"code":"stream_interrupted"' in got.body
        assert b"[DONE]" not in got.body


@contextmanager
def begun(ca_dir: Path, first: list[bytes], rest: bytes) -> Iterator[Message]:
    """What a client got whose provider sent the rest only once the client had the first events."""
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + chunked(*first, end=b""))
        go_on.wait(30)
        peer.send(rest)

    with node(script) as upstream, running(ca_dir, config_for(upstream.port, provider="openai")) as rig:
        with Client(rig.port) as client:
            client.send(chat_stream())
            client.wait_for(first[-1])
            go_on.set()
            yield client.answer()


@pytest.mark.parametrize("size", [70_000, 300_000, 2_000_000])
def test_a_huge_event_arrives_unchanged(played: tuple[Rig, ScriptedNode, Playing], size: int) -> None:
    rig, _, playing = played
    stream = ROLE + event("a") + event("x" * size) + event("b") + FINISH + DONE
    playing.pause_s = 0.0
    with Client(rig.port) as client:
        playing.pieces = [HEAD + chunked(stream)]
        assert answer_to(client).body == stream
        slices = [stream[at : at + 10_000] for at in range(0, len(stream), 10_000)]
        playing.pieces = [HEAD, *map(_chunk, slices), b"0\r\n\r\n"]
        assert answer_to(client).body == stream


@pytest.mark.parametrize("size", [50, 70_000, 200_000])
def test_half_an_event_is_not_passed_on_or_is_closed_off(ca_dir: Path, size: int) -> None:
    """An error event has to be one: nothing of a broken event may stand on its line."""
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + chunked(ROLE, event("a"), end=b""))
        go_on.wait(30)
        peer.send(_chunk(event("x" * size)[:-20]))

    with node(script) as upstream, running(ca_dir, config_for(upstream.port, provider="openai")) as rig:
        with Client(rig.port) as client:
            client.send(chat_stream())
            client.read_until(event("a"))
            go_on.set()
            rest = client.rest()
            *_, error, last = rest.replace(b"\r\n", b"").split(b"\n\n")
            assert b"[DONE]" not in rest
            assert last == b""
            assert b'"code":"stream_interrupted"' in error
            if size < 1000:
                assert b"xxx" not in rest


@pytest.mark.parametrize("more", [[], [event("b")]])
def test_an_error_event_ends_the_stream_and_nothing_follows_it(ca_dir: Path, more: list[bytes]) -> None:
    failure = b'data: {"error": {"message": "boom", "type": "server_error", "code": null}}\n\n'
    rest = chunked(b"".join([*more, failure, event("c"), FINISH, DONE]))
    with begun(ca_dir, [ROLE, event("a")], rest) as got:
        assert not got.is_whole
        assert got.body == ROLE + event("a") + b"".join(more) + failure


def test_a_provider_that_breaks_streams_is_left_for_the_other(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig, sdk(rig) as client:
        rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=2)
        broken = 0
        while rig.nodes()[OPENAI].is_available(monotonic()):
            assert broken < 10
            with pytest.raises(openai.APIError):
                read_stream(client, [])
            broken += 1
        texts: list[str] = []
        read_stream(client, texts)
        assert "".join(texts) == WHOLE
        assert rig.deepseek.counters.requests == 1
