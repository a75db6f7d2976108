"""Looks for quotes and brackets in a buffer, 64 bytes at once.

What is here runs when body.py is interpreted. Compiled, body.py takes the C of the same names from
byte_search.pxd, inlined. ``i`` is an offset from 0 to ``end``, which is at most the buffer's end;
nothing from ``end`` on is looked at. A set of bytes is an integer with a bit for each of the 64 at
``i``, the first byte's lowest.
"""

import re

_BRACKETS = re.compile(rb"[\[\]{}]")


def quotes(p: bytes, i: int, end: int) -> int:
    """Which of the 64 bytes are quotes?"""
    return sum(1 << k for k, byte in enumerate(p[i : min(i + 64, end)]) if byte == 0x22)


def brackets(p: bytes, i: int, end: int) -> int:
    """Which of the 64 bytes are brackets?"""
    return sum(1 << found.start() - i for found in _BRACKETS.finditer(p, i, min(i + 64, end)))


def lowest(found: int) -> int:
    """The first byte of a set that is not empty."""
    return (found & -found).bit_length() - 1


def near_quote(p: bytes, i: int, end: int) -> int:
    """The first quote in the next 16 bytes, or -1; also where ``end`` is nearer than that."""
    return p.find(b'"', i, i + 16) if end - i >= 16 else -1


def far(p: bytes, byte: int, i: int, end: int) -> int:
    """The first such byte, or -1: best where it is some hundred bytes away."""
    return p.find(byte, i, end)


def is_word(p: bytes, i: int, word: bytes, size: int) -> bool:
    """Are the ``size`` bytes at ``i``, which are all in the buffer, those of ``word``?"""
    return p[i : i + size] == word
