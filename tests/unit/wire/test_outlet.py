"""Bytes leave in order, by the socket while it takes them and by the transport otherwise."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from fake_transport import FakeTransport

from fastgw.wire.outlet import Outlet


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def received(sock: socket.socket) -> bytes:
    pieces = []
    while True:
        try:
            piece = sock.recv(1 << 20)
        except BlockingIOError:
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)


def test_what_the_socket_takes_does_not_pass_through_the_transport(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    transport = FakeTransport(socket=ends[0])
    outlet = Outlet(transport)
    for piece in (b"one ", b"", b"two"):
        outlet.write(piece)
    assert received(ends[1]) == b"one two"
    assert transport.written == [] and outlet.unsent() == 0


def test_what_it_does_not_take_waits_in_the_transport_with_all_that_follows(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    transport = FakeTransport(socket=ends[0])
    outlet = Outlet(transport)
    large = bytes(range(256)) * 40_000
    outlet.write(large)
    transport.unsent = len(transport.sent)
    assert 0 < outlet.unsent() < len(large)
    first = received(ends[1])
    outlet.write(b"more")  # the socket would take it now, but something is before it
    assert first + transport.sent == large + b"more"
    transport.unsent = 0
    transport.take()
    outlet.write(b"again")
    assert received(ends[1]) == b"again" and transport.sent == b""


def test_an_error_is_left_to_the_transport(ends: tuple[socket.socket, socket.socket]) -> None:
    transport = FakeTransport(socket=ends[0])
    outlet = Outlet(transport)
    ends[1].close()
    outlet.write(b"to nobody")
    assert transport.sent == b"to nobody"


def test_a_transport_without_a_socket_takes_everything() -> None:
    transport = FakeTransport()
    outlet = Outlet(transport)
    outlet.write(b"all")
    assert transport.sent == b"all"


def test_nothing_is_written_to_a_descriptor_that_may_be_anothers(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    transport = FakeTransport(socket=ends[0])
    outlet = Outlet(transport)
    outlet.lost()
    outlet.write(b"too late")
    assert received(ends[1]) == b"" and transport.sent == b"" and outlet.unsent() == 0


@pytest.mark.parametrize("has_socket", [True, False])
def test_parts_leave_in_their_order_whatever_the_socket_takes_of_them(
    ends: tuple[socket.socket, socket.socket], has_socket: bool
) -> None:
    transport = FakeTransport(socket=ends[0] if has_socket else None)
    outlet = Outlet(transport)
    large = bytes(range(256)) * 40_000
    parts: list[bytes | memoryview] = [
        b"head ",
        memoryview(large)[:-7],
        b"",
        b"model",
        memoryview(large)[-7:],
    ]
    outlet.write_all(parts)
    first = received(ends[1])
    assert bool(first) == has_socket
    assert first + transport.sent == b"head " + large[:-7] + b"model" + large[-7:]


def test_parts_that_the_socket_takes_are_one_call(ends: tuple[socket.socket, socket.socket]) -> None:
    transport = FakeTransport(socket=ends[0])
    outlet = Outlet(transport)
    outlet.write_all([b"a", memoryview(b"bc"), b"d"])
    assert received(ends[1]) == b"abcd" and transport.written == []
    ends[1].close()
    outlet.write_all([b"e", b"f"])
    assert transport.sent == b"ef"
    outlet.lost()
    outlet.write_all([b"g"])
    assert transport.sent == b"ef"
    with pytest.raises(ValueError, match="8 parts"):
        outlet.write_all([b""] * 9)
