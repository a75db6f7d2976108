"""Rows of the fault matrix that only odd bytes can show: a primary that says what a test tells it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest
from fault_rig import (
    BRIEF_S,
    CHUNKED,
    COMPLETION,
    DONE,
    EVENTS,
    FAILED_HTTP,
    FAILED_TCP,
    SUCCEEDED,
    TIMED_OUT,
    chat_answer,
    check_health,
    is_streamed,
    is_whole_chat,
    limited,
    pair,
    request_bytes,
)
from rig import wait_until
from wire_ends import Client, Message, Peer, answer, chunked, get, serving

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
Respond = Callable[[Message], bytes]


def saying(data: bytes) -> Callable[[Peer], None]:
    """The script of a node that answers with these bytes and ends."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)

    return script


# --- U13: bytes on an idle connection ---------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    "extra",
    [answer(b"", status="408 Request Timeout"), chat_answer(Message()), b"x"],
    ids=["408", "an answer", "a byte"],
)
def test_u13_what_comes_unasked_is_nobodys_answer(ca_dir: Path, extra: bytes, stream: bool) -> None:
    speak = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(chat_answer(peer.request()))
        if peer.number == 1:
            speak.wait(30)
            peer.send(extra)
        peer.send(chat_answer(peer.request()))

    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        assert is_whole_chat(client.ask(request_bytes(stream)), stream)
        speak.set()
        wait_until(lambda: nodes.rig.counts()["node_connections"]["idle"] == 0, "the connection is closed")
        assert is_whole_chat(client.ask(request_bytes(stream)), stream)
        assert [message.connection for message in nodes.primary.asked] == [1, 2]
        assert nodes.backup.asked == []
        assert not any(nodes.rig.nodes()[f"127.0.0.1:{nodes.primary.port}"].counters.values())
        assert nodes.rig.counts()["uncertain_replays"] == nodes.rig.counts()["stale_reuses"] == 0


# --- U15: broken off while the body goes up ---------------------------------------------------


@both_ways
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_u15_broken_off_while_the_body_goes_up(ca_dir: Path, how: str, stream: bool) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        if how == "rst":
            peer.reset()

    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(stream, user="x" * 8_000_000))
        assert is_whole_chat(got, stream)
        nodes.check_answer(got, FAILED_TCP, begin, replays=1)
        assert len(nodes.backup.asked[0].body) > 8_000_000


@both_ways
def test_u15_an_answer_that_came_before_the_reset_wins(ca_dir: Path, stream: bool) -> None:
    """The node refuses, reads no more and resets: its word is in the receive buffer by then."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(
            answer(b'{"error": {"message": "busy"}}', "Retry-After: 30", status="429 Too Many Requests")
        )
        # What is unread when a socket is closed makes the kernel send RST.

    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(stream, user="x" * 8_000_000))
        assert is_whole_chat(got, stream)
        nodes.check_answer(got, limited(30.0), begin)


# --- U18, U19, U21: heads that are none -------------------------------------------------------

ODD_HEADS: list[tuple[str, bytes]] = [
    ("U18 not HTTP", b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    ("U18 HTTP/0.9", b"<html>LEAKED</html>"),
    ("U18 two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    ("U18 length and chunks", CHUNKED[:-2] + b"Content-Length: 2\r\n\r\n" + chunked(b"{}")),
    ("U18 a field without a name", b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\n{}"),
    ("U18 NUL", b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}"),
    ("U19 64 KiB", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 66_000 + b"\r\nContent-Length: 2\r\n\r\n{}"),
    ("U19 a head of many lines", b"HTTP/1.1 200 OK\r\n" + b"X-Y: %b\r\n" % (b"v" * 1000) * 80 + b"\r\n"),
    ("U19 300 fields", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"Content-Length: 2\r\n\r\n{}"),
    ("U20 too many interim heads", b"HTTP/1.1 102 Processing\r\n\r\n" * 33 + answer(COMPLETION)),
    (
        "U21 101 unasked",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nLEAKED",
    ),
    ("U24 a chunk size that is none", CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"),
]


@both_ways
@pytest.mark.parametrize("data", [row[1] for row in ODD_HEADS], ids=[row[0] for row in ODD_HEADS])
def test_an_answer_that_is_no_http(ca_dir: Path, data: bytes, stream: bool) -> None:
    with pair(ca_dir, saying(data)) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(stream))
        assert is_whole_chat(got, stream)
        nodes.check_answer(got, FAILED_HTTP, begin, replays=1)
        wait_until(lambda: nodes.rig.counts()["node_connections"]["idle"] == 1, "only the backup's is kept")


# --- U20, U22, U23, U25, U41: odd, and all right ----------------------------------------------


@both_ways
def test_u20_interim_heads_are_swallowed(ca_dir: Path, stream: bool) -> None:
    heads = (b"100 Continue\r\n\r\n", b"102 Processing\r\n\r\n", b"103 Early Hints\r\nLink: </a>\r\n\r\n")
    interim = b"".join(b"HTTP/1.1 " + head for head in heads)

    def script(peer: Peer) -> None:
        while True:
            peer.send(interim + chat_answer(peer.request()))

    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(stream))
        assert is_whole_chat(got, stream)
        assert "link" not in got
        nodes.check_answer(got, SUCCEEDED, begin)
        assert is_whole_chat(client.ask(request_bytes(stream)), stream)
        assert nodes.primary.accepted == 1


@both_ways
def test_u20_interim_heads_extend_no_deadline(ca_dir: Path, stream: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        while True:
            peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            sleep(BRIEF_S / 10)  # fewer than are too many

    brief = f"{{head: {BRIEF_S}, head_stream: {BRIEF_S}}}"
    with pair(ca_dir, script, deadlines=brief) as nodes:
        with Client(nodes.rig.port) as client:
            begin = monotonic()
            got = client.ask(request_bytes(stream))
            assert is_whole_chat(got, stream)
            nodes.check_answer(got, TIMED_OUT, begin, replays=1)


NO_BODIES: list[tuple[str, bytes, bytes, int]] = [
    ("204", b"DELETE", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    ("204 with a body", b"DELETE", b"HTTP/1.1 204 No Content\r\n\r\nSTRAY", 204),
    ("304", b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304),
    ("304 with a body", b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nSTRAY", 304),
    ("HEAD", b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200),
    ("HEAD with a body", b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSTRAY", 200),
]


@pytest.mark.parametrize(
    ("method", "data", "status"), [row[1:] for row in NO_BODIES], ids=[row[0] for row in NO_BODIES]
)
def test_u22_an_answer_without_a_body(ca_dir: Path, method: bytes, data: bytes, status: int) -> None:
    is_clean = b"STRAY" not in data

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(data)

    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        for number in (1, 2):
            got = client.ask(get("/v1/models", method=method.decode()))
            assert (got.status, got.body) == (status, b"")
            if number == 1:
                check_health(nodes.rig, f"127.0.0.1:{nodes.primary.port}", SUCCEEDED, begin)
            if not is_clean:
                wait_until(lambda: nodes.rig.counts()["node_connections"]["idle"] == 0, "it is closed")
        client.send(get("/v1/models", method="HEAD"))  # nothing of the stray bytes is in the way
        assert client.answer("HEAD").status == status
        assert nodes.primary.accepted == (1 if is_clean else 3)
        assert nodes.backup.asked == []


@both_ways
def test_u23_trailers_are_dropped(ca_dir: Path, stream: bool) -> None:
    trailers = b"0\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n"

    def respond(request: Message) -> bytes:
        head = CHUNKED if is_streamed(request) else CHUNKED.replace(b"text/event-stream", b"application/json")
        return head + chunked(*(EVENTS if is_streamed(request) else (COMPLETION,)), end=trailers)

    with pair(ca_dir, serving(respond)) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(stream))
        assert is_whole_chat(got, stream)
        assert b"Trailer" not in got.raw
        nodes.check_answer(got, SUCCEEDED, begin)
        assert is_whole_chat(client.ask(request_bytes(stream)), stream)
        assert nodes.primary.accepted == 1


@both_ways
def test_u23_trailers_without_end_are_no_answer(ca_dir: Path, stream: bool) -> None:
    """They are read for 16 KiB; the answer before them is not known to be whole then."""

    def respond(request: Message) -> bytes:
        trailers = b"0\r\n" + b"X-Trailer: %b\r\n" % (b"v" * 1000) * 40
        head = CHUNKED if is_streamed(request) else CHUNKED.replace(b"text/event-stream", b"application/json")
        return head + chunked(*(EVENTS if is_streamed(request) else (COMPLETION,)), end=trailers)

    with pair(ca_dir, serving(respond)) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(stream))
        if not stream:
            assert is_whole_chat(got, stream)
            nodes.check_answer(got, FAILED_HTTP, begin, replays=1)
            return
        # All of it may have come in one read, or its content before the trailers.
        if got.is_whole:
            nodes.check_answer(got, FAILED_HTTP, begin, replays=1)
        else:
            assert b'"code":"stream_interrupted"' in got.body


@both_ways
def test_u25_what_stands_behind_an_answer_is_cut_off(ca_dir: Path, stream: bool) -> None:
    def respond(request: Message) -> bytes:
        return chat_answer(request) + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSTOLEN"

    with pair(ca_dir, serving(respond)) as nodes, Client(nodes.rig.port) as client:
        for number in (1, 2):
            begin = monotonic()
            got = client.ask(request_bytes(stream))
            assert is_whole_chat(got, stream)
            assert b"STOLEN" not in got.raw
            if number == 1:
                nodes.check_answer(got, SUCCEEDED, begin)
            wait_until(lambda: nodes.rig.counts()["node_connections"]["idle"] == 0, "it is closed")
        assert nodes.primary.accepted == 2
        assert nodes.backup.asked == []


@both_ways
def test_u41_a_compressed_body_is_passed_on_byte_by_byte(ca_dir: Path, stream: bool) -> None:
    """Nobody asked for it: a node is told that its events have to be read."""
    data = gzip.compress(b"".join(EVENTS) if stream else COMPLETION)

    def respond(request: Message) -> bytes:
        assert request["accept-encoding"] == "identity"
        return answer(
            data, "Content-Type: text/event-stream" if stream else "X-A: b", "Content-Encoding: gzip"
        )

    with pair(ca_dir, serving(respond)) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(stream, "Accept-Encoding: gzip, br"))
        assert (got.status, got["content-encoding"], got.body) == (200, "gzip", data)
        nodes.check_answer(got, SUCCEEDED, begin)


def test_u24_a_stream_that_forgot_its_done_is_whole(ca_dir: Path) -> None:
    """Its finish_reason said so, and its body was ended properly."""
    data = CHUNKED + chunked(*[event for event in EVENTS if event != DONE])
    with pair(ca_dir, saying(data)) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(True))
        assert got.is_whole
        nodes.check_answer(got, SUCCEEDED, begin)
