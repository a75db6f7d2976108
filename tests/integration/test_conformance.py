"""The rows of the conformance tables over real sockets: the whole gateway comes to the same verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance import answer_cases, request_cases
from conformance.answer_cases import AnswerCase
from conformance.request_cases import NODE_HOST, RequestCase
from rig import Rig, running
from wire_ends import Client, Message, Peer, ScriptedNode, answer, config_for, node, serving

NEXT = request_cases.request(line=b"GET /next HTTP/1.1")
ANSWERED = [case for case in request_cases.CASES if case.statuses]
# Each of these needs a gateway of its own: a node that answers nonsense is soon asked no more.
SOME = [case for index, case in enumerate(answer_cases.CASES) if case.outcome != "waiting" and index % 7 == 0]


def plain(request: Message) -> bytes:
    return answer(b"" if request.method == "HEAD" else b"fine")


@pytest.fixture(scope="module")
def shared(ca_dir: Path) -> Iterator[tuple[Rig, ScriptedNode]]:
    with node(serving(plain)) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        yield rig, upstream


def at_node(message: bytes, port: int) -> bytes:
    """A request as ``node`` of a case has it, and without the length 0 that an empty one may say."""
    sent = message.replace(b"host: 127.0.0.1:%d\r\n" % port, b"host: " + NODE_HOST + b"\r\n")
    return sent.replace(b"content-length: 0\r\n", b"")


@pytest.mark.parametrize("case", ANSWERED, ids=[case.id for case in ANSWERED])
def test_a_request_has_the_same_verdict_behind_a_socket(
    shared: tuple[Rig, ScriptedNode], case: RequestCase
) -> None:
    rig, upstream = shared
    before = len(upstream.asked)
    statuses = [*case.statuses, 200] if case.is_kept else list(case.statuses)
    with Client(rig.port) as client:
        client.send(case.data + NEXT)
        for status in statuses:
            got = client.answer("HEAD" if case.id == "HEAD" and status == statuses[0] else "GET")
            while got.status == 100:
                got = client.answer()
            assert got.status == status, got.body
        if not case.is_kept:
            assert got["connection"] == "close"
            assert client.rest() == b""
    asked = [at_node(message.raw, upstream.port) for message in upstream.asked[before:]]
    expected = [message.replace(b"content-length: 0\r\n", b"") for message in case.node]
    if case.is_kept:
        expected.append(request_cases.sent(b"GET /next"))
    assert asked == expected


@pytest.mark.parametrize("case", SOME, ids=[case.id for case in SOME])
def test_an_answer_has_the_same_verdict_behind_a_socket(ca_dir: Path, case: AnswerCase) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(case.data)
        if case.end == "reset":
            peer.reset()
        elif case.end == "fin":
            peer.finish()
        peer.rest()

    with node(script) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            method = "HEAD" if case.is_head else "GET"
            client.send(request_cases.request(line=method.encode() + b" /a HTTP/1.1"))
            got = client.answer(method)
            if case.outcome != "answer":
                # Refused as a whole, or begun before that was seen, and then honestly broken off.
                assert got.status == 502 if got.is_whole else b"\r\n0\r\n\r\n" not in got.raw
                return
            assert case.client is not None
            head, _, body = case.client.partition(b"\r\n\r\n")
            assert (got.start.encode("latin-1"), got.body) == (head.split(b"\r\n")[0], body)
