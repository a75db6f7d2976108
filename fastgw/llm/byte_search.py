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


def backslashes(p: bytes, i: int, end: int) -> int:
    """Which of the 64 bytes are backslashes?"""
    return sum(1 << k for k, byte in enumerate(p[i : min(i + 64, end)]) if byte == 0x5C)


def brackets(p: bytes, i: int, end: int) -> int:
    """Which of the 64 bytes are brackets?"""
    return sum(1 << found.start() - i for found in _BRACKETS.finditer(p, i, min(i + 64, end)))


def lowest(found: int) -> int:
    """The first byte of a set that is not empty."""
    return (found & -found).bit_length() - 1


def find(p: bytes, byte: int, i: int, end: int) -> int:
    """Find the first such byte, near or far; -1 if there is none."""
    return p.find(byte, i, end)


def is_word(p: bytes, i: int, word: bytes, size: int) -> bool:
    """Are the ``size`` bytes at ``i``, which are all in the buffer, those of ``word``?"""
    return p[i : i + size] == word
