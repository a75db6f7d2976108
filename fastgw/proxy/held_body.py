"""A request's body, held until the commit so that it can be sent again: bounded, and accounted for."""

from __future__ import annotations

from .exchanges import Exchanges


class HeldBody:
    """The body of one request, as its pieces come. ``data`` is the whole of it once ``join`` was called."""

    def __init__(self, exchanges: Exchanges) -> None:
        self.exchanges = exchanges
        self.data: bytes | None = None
        self.pieces: list[bytes] | None = None
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

    def is_too_large(self, content_length: int) -> bool:
        """Too large to hold, by its length or by what all requests hold together?"""
        exchanges = self.exchanges
        return (
            self.size > exchanges.hold_body_bytes
            or content_length > exchanges.hold_body_bytes
            or exchanges.held_bytes > exchanges.hold_total_bytes
        )

    def join(self) -> None:
        """The body is whole."""
        if self.pieces is not None:
            self.data = b"".join(self.pieces)
            self.pieces = None

    def take(self) -> list[bytes]:
        """The pieces held so far; they are held no longer."""
        pieces = self.pieces if self.pieces is not None else [self.data] if self.data is not None else []
        self.drop()
        return pieces

    def drop(self) -> None:
        """The body is no longer needed."""
        self.exchanges.held_bytes -= self.held
        self.held = 0
        self.data = None
        self.pieces = None
