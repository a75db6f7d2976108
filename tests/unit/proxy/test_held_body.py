"""A held body: its parts become the whole of it, and what is held is counted."""

import pytest

from fastgw.proxy.exchanges import Exchanges
from fastgw.proxy.held_body import VIEW_BYTES, HeldBody

LARGE = bytes(range(256)) * (2 * VIEW_BYTES // 256)


@pytest.fixture
def body() -> HeldBody:
    return HeldBody(Exchanges(lambda exchange: None))


def test_body_in_one_piece_is_that_object(body: HeldBody) -> None:
    piece = b"{}" * 20
    body.add_part(piece, 0, len(piece))
    body.join()
    assert body.data is piece


@pytest.mark.parametrize("first", [10, VIEW_BYTES, len(LARGE) - 1])
def test_parts_of_reads_are_joined_in_order(body: HeldBody, first: int) -> None:
    body.add_part(b"head" + LARGE, 4, 4 + first)
    body.add_part(LARGE, first, len(LARGE))
    body.add(b"tail")
    assert body.held == body.exchanges.held_bytes == len(LARGE) + 4
    body.join()
    assert body.data == LARGE + b"tail"
    body.drop()
    assert (body.data, body.held, body.exchanges.held_bytes) == (None, 0, 0)


def test_one_large_part_of_a_read_is_the_whole_body(body: HeldBody) -> None:
    body.add_part(LARGE + b"next request", 0, len(LARGE))
    body.join()
    assert body.data == LARGE
    assert isinstance(body.data, bytes)


def test_taken_pieces_are_bytes_and_held_no_longer(body: HeldBody) -> None:
    body.add(b"a")
    body.add_part(b"head" + LARGE, 4, 4 + len(LARGE))
    pieces = body.take()
    assert pieces == [b"a", LARGE]
    assert all(isinstance(piece, bytes) for piece in pieces)
    assert (body.held, body.exchanges.held_bytes, body.take()) == (0, 0, [])
