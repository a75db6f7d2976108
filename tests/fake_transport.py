"""A transport without a socket: it remembers what was done to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FakeTransport:
    """Stands in for an asyncio transport.

    ``unsent`` is the size of its write buffer, which a test sets. Closing is remembered only: the
    test calls ``connection_lost`` itself, as a loop would do later.
    """

    def __init__(self, **extra: Any) -> None:
        self.written: list[bytes] = []
        self.calls: list[str] = []
        self.unsent = 0
        self.is_reading = True
        self.extra = extra
        self.on_write: Callable[[], None] | None = None

    @property
    def sent(self) -> bytes:
        return b"".join(self.written)

    def take(self) -> bytes:
        """What was written since the last call."""
        sent = self.sent
        self.written.clear()
        return sent

    @property
    def is_open(self) -> bool:
        return not self.calls

    # --- asyncio's face -----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        assert "write_eof" not in self.calls, "written behind the end"
        self.written.append(bytes(data))
        if self.on_write is not None:
            self.on_write()

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def pause_reading(self) -> None:
        assert self.is_reading, "paused twice"
        self.is_reading = False

    def resume_reading(self) -> None:
        assert not self.is_reading, "resumed, but it was not paused"
        self.is_reading = True

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert 0 < low < high

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.extra.get(name, default)
