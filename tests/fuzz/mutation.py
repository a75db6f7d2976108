"""New inputs from old ones: what an attacker would try, and what a broken peer would send."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

HTTP_TOKENS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\r\r\n", b"\x00", b" ", b"\t", b"\x0b", b"\x7f",
    b"\x85", b"\xa0", b":", b";", b",", b'"', b"0\r\n\r\n", b"5\r\nhello\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding : chunked\r\n", b"Host: gw\r\n", b"Host: other\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"Connection: content-length, transfer-encoding\r\n",
    b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"chunked", b"gzip", b"identity", b"close",
    b"GET ", b"POST ", b"HEAD ", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http://gw", b"/../", b"//",
    b"%2e", b"%2f", b"%00", b"?", b"#", b"*", b"GET /smuggled HTTP/1.1\r\nHost: gw\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
)  # fmt: skip
NUMBERS = (
    b"0", b"1", b"-1", b"+1", b"00", b"5", b"05", b"10", b"0x5", b"a", b"f", b"255", b"256", b"65535",
    b"65536", b"2147483647", b"2147483648", b"4294967295", b"4294967301", b"9223372036854775807",
    b"18446744073709551621", b"fffffffffffffff", b"10000000000000005", b"1e1", b"1_0", b"\xb2",
)  # fmt: skip


class Mutator:
    """Makes inputs from ``seeds``, the same ones for the same ``rng``.

    Args:
        tokens: what is put in, besides single bytes and numbers at their edges.
        line_end: what lines end with that are moved and repeated as wholes.
    """

    def __init__(
        self, rng: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes], line_end: bytes = b"\r\n"
    ) -> None:
        self.rng = rng
        self.seeds = seeds
        self.tokens = tokens
        self.line_end = line_end
        self.steps: tuple[Callable[[bytes], bytes], ...] = (
            self._flip_bit,
            self._put_token,
            self._put_token,
            self._overwrite_with_token,
            self._cut_out,
            self._cut_off,
            self._splice,
            self._repeat_line,
            self._move_line,
            self._remove_line,
            self._borrow_line,
            self._change_line_end,
            self._change_case,
            self._change_number,
        )

    def make(self) -> bytes:
        """The next input: one seed, changed one to six times; now and then a seed as it is."""
        data = self.rng.choice(self.seeds)
        for _ in range(self.rng.choice((0, 1, 1, 1, 2, 2, 3, 4, 6))):
            data = self.rng.choice(self.steps)(data)
        return data

    def cuts(self, data: bytes) -> list[bytes]:
        """``data`` in pieces: two, a few, or single bytes."""
        if len(data) < 2:
            return [data] if data else []
        count = self.rng.choice((1, 1, 2, 3, 8, len(data)))
        marks = sorted({self.rng.randrange(1, len(data)) for _ in range(count)})
        if count == len(data):
            marks = list(range(1, len(data)))
        return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]

    def _at(self, data: bytes) -> int:
        return self.rng.randrange(len(data) + 1)

    def _flip_bit(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self.rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1 :]

    def _put_token(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self.rng.choice(self.tokens) + data[at:]

    def _overwrite_with_token(self, data: bytes) -> bytes:
        at = self._at(data)
        token = self.rng.choice(self.tokens)
        return data[:at] + token + data[at + len(token) :]

    def _cut_out(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + self.rng.choice((1, 1, 2, 3, 8, 40)) :]

    def _cut_off(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _splice(self, data: bytes) -> bytes:
        other = self.rng.choice(self.seeds)
        return data[: self._at(data)] + other[self._at(other) :]

    def _lines(self, data: bytes) -> list[bytes]:
        return data.split(self.line_end)

    def _repeat_line(self, data: bytes) -> bytes:
        lines = self._lines(data)
        lines.insert(self.rng.randrange(len(lines) + 1), self.rng.choice(lines))
        return self.line_end.join(lines)

    def _move_line(self, data: bytes) -> bytes:
        lines = self._lines(data)
        line = lines.pop(self.rng.randrange(len(lines)))
        lines.insert(self.rng.randrange(len(lines) + 1), line)
        return self.line_end.join(lines)

    def _remove_line(self, data: bytes) -> bytes:
        lines = self._lines(data)
        del lines[self.rng.randrange(len(lines))]
        return self.line_end.join(lines)

    def _borrow_line(self, data: bytes) -> bytes:
        lines = self._lines(data)
        line = self.rng.choice(self._lines(self.rng.choice(self.seeds)))
        lines.insert(self.rng.randrange(len(lines) + 1), line)
        return self.line_end.join(lines)

    def _change_line_end(self, data: bytes) -> bytes:
        parts = self._lines(data)
        if len(parts) < 2:
            return data
        at = self.rng.randrange(1, len(parts))
        end = self.rng.choice(
            (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b" \r\n", b"", b"\x00")
        )
        return self.line_end.join(parts[:at]) + end + self.line_end.join(parts[at:])

    def _change_case(self, data: bytes) -> bytes:
        at = self._at(data)
        end = at + self.rng.choice((1, 4, 16))
        return data[:at] + data[at:end].swapcase() + data[end:]

    def _change_number(self, data: bytes) -> bytes:
        starts = [at for at in range(len(data)) if data[at : at + 1].isdigit()]
        if not starts:
            return data
        start = end = self.rng.choice(starts)
        while end < len(data) and data[end : end + 1].isdigit():
            end += 1
        return data[:start] + self.rng.choice(NUMBERS) + data[end:]
