"""A gateway that is short of memory takes nothing new, keeps nothing idle, and then gives something up."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_http import chat
from rig import Rig, running, wait_until
from wire_ends import Client, Ended, Message, Peer, chunked, config_for, get, node, post

from fastgw.memory import MemoryLimit

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"on and on"}}]}\n\n'
CHAT = "/v1/chat/completions"


def endless(peer: Peer) -> None:
    """A stream that begins, and goes on only by what the test lets it; others get an empty list."""
    while True:
        request: Message = peer.request()
        if request.target == CHAT:
            peer.send(HEAD + chunked(EVENT, end=b""))
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]")


def asks(rig: Rig) -> int:
    with Client(rig.port) as client:
        return client.ask(get("/v1/models")).status


class Taken:
    """Says how much of the limit of 100 is taken."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.resident = 10
        rig.gateway.memory = MemoryLimit(100, resident=lambda: self.resident, trim=lambda: None)

    def becomes(self, resident: int, pressure: int) -> None:
        self.resident = resident
        wait_until(lambda: self.rig.counts()["memory_pressure"] == pressure, f"{resident} of 100 were seen")


def test_near_its_limit_it_refuses_what_is_new_and_goes_on_with_what_is_not(
    ca_dir: Path, loop_kind: str
) -> None:
    with (
        node(endless) as upstream,
        running(ca_dir, config_for(upstream.port, provider="openai"), loop_kind=loop_kind) as rig,
        Client(rig.port) as streaming,
        Client(rig.port) as idle,
        Client(rig.port) as late,
    ):
        taken = Taken(rig)
        streaming.send(post(CHAT, chat("go on", stream=True)))
        streaming.read_until(b"on and on")
        assert idle.ask(get("/v1/models")).status == 200
        taken.becomes(85, 1)
        assert idle.rest() == b""
        wait_until(lambda: rig.counts()["node_connections"]["idle"] == 0, "nor is one to the node kept")
        refused = late.ask(post(CHAT, chat("me too")))
        assert (refused.status, refused["retry-after"], refused["x-should-retry"]) == (503, "1", "true")
        assert b'"overloaded"' in refused.body
        assert rig.counts()["exchanges"] == 1
        taken.becomes(70, 0)
        with Client(rig.port) as later:
            assert later.ask(get("/v1/models")).status == 200


def test_at_its_limit_it_ends_the_slowest_answers_honestly(ca_dir: Path, loop_kind: str) -> None:
    with (
        node(endless) as upstream,
        running(ca_dir, config_for(upstream.port, provider="openai"), loop_kind=loop_kind) as rig,
    ):
        taken = Taken(rig)
        streams = [Client(rig.port) for _ in range(2)]
        for stream in streams:
            stream.send(post(CHAT, chat("go on", stream=True)))
            stream.read_until(b"on and on")
        taken.becomes(99, 2)
        for stream in streams:  # one after the other
            with pytest.raises(Ended) as end:
                stream.read_until(b"0\r\n\r\n")
            assert b'"overloaded"' in end.value.got
            assert b"[DONE]" not in end.value.got
            stream.close()
        # With nothing left that could end, refusing would help nobody.
        wait_until(lambda: rig.counts()["exchanges"] == 0, "all answers are ended")
        wait_until(lambda: asks(rig) == 200, "it takes requests")
