"""A request's body, held until the commit so that it can be sent again: bounded, and accounted for."""

from __future__ import annotations

from ..wire.head import part
from .exchanges import Exchanges

# A smaller part of a read is copied: the view of one costs more, and holds all of the read.
VIEW_BYTES = 16 * 1024
_VIEW_BYTES = VIEW_BYTES


class HeldBody:
    """The body of one request, as its pieces come. ``data`` is the whole of it once ``join`` was called."""

    def __init__(self, exchanges: Exchanges) -> None:
        self.exchanges = exchanges
        self.data: bytes | None = None
        self.pieces: list[bytes | memoryview] | None = None
        self.size = 0  # of all that came, held or passed on
        self.held = 0

    def add(self, piece: bytes) -> None:
        """Hold a piece."""
        if self.pieces is not None:
            self.pieces.append(piece)
        elif self.data is None:
            self.data = piece
        else:
            self.pieces = [self.data, piece]
            self.data = None
        self.held += len(piece)
        self.exchanges.held_bytes += len(piece)

    def add_part(self, data: bytes, start: int, end: int) -> None:
        """Hold ``data[start:end]``; a large part is not copied before ``join``."""
        size = end - start
        if size == len(data):
            self.add(data)
            return
        if size < _VIEW_BYTES:
            self.add(part(data, start, end))
            return
        if self.pieces is None:
            self.pieces = []
            if self.data is not None:
                self.pieces.append(self.data)
                self.data = None
        self.pieces.append(memoryview(data)[start:end])
        self.held += size
        self.exchanges.held_bytes += size

    def is_too_large(self, content_length: int) -> bool:
        """Too large to hold, by its length or by what all requests hold together?"""
        exchanges = self.exchanges
        return (
            self.size > exchanges.hold_body_bytes
            or content_length > exchanges.hold_body_bytes
            or exchanges.held_bytes > exchanges.hold_total_bytes
        )

    def is_all_held(self) -> bool:
        """Was nothing of it passed on yet?"""
        return self.held == self.size

    def join(self) -> None:
        """The body is whole."""
        if self.pieces is not None:
            self.data = b"".join(self.pieces)
            self.pieces = None

    def take(self) -> list[bytes]:
        """The pieces held so far; they are held no longer."""
        pieces = []
        if self.pieces is not None:
            pieces = [bytes(piece) for piece in self.pieces]
        elif self.data is not None:
            pieces = [self.data]
        self.drop()
        return pieces

    def drop(self) -> None:
        """The body is no longer needed."""
        self.exchanges.held_bytes -= self.held
        self.held = 0
        self.data = None
        self.pieces = None
