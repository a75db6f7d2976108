"""What an answer says it cost, read without parsing it.

Every answer of an LLM route is looked at, so nothing is stepped over that need not be: the usage
stands at the end of an answer, and is looked for from there.
"""

from __future__ import annotations

from . import body, byte_search

_MAX_DIGITS = 15
_MAX_BYTES = 4096  # of a usage object


class Usage:
    """Tokens as the provider counted them, -1 where it said nothing.

    ``cached`` are those of ``prompt`` that the provider's cache had.
    """

    def __init__(self, prompt: int = -1, completion: int = -1, cached: int = -1) -> None:
        self.prompt = prompt
        self.completion = completion
        self.cached = cached

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Usage):
            return NotImplemented
        mine = (self.prompt, self.completion, self.cached)
        return mine == (other.prompt, other.completion, other.cached)

    def __hash__(self) -> int:
        return hash((self.prompt, self.completion, self.cached))

    def __repr__(self) -> str:
        return f"<Usage prompt={self.prompt} completion={self.completion} cached={self.cached}>"


def usage_of(document: bytes) -> Usage | None:
    """Read an answer, or the event of a stream that carries the usage; None if it tells none.

    The last member with the name ``usage`` whose value is an object counts. Never raises; what is no
    valid JSON is read as far as it goes.
    """
    at = _find(document, len(document))
    if at < 0:
        return None
    usage = Usage.__new__(Usage)  # compiled, this is no call from Python
    usage.prompt = -1
    usage.completion = -1
    usage.cached = -1
    _read(usage, document, at, min(len(document), at + _MAX_BYTES))
    return usage


def _find(p: bytes, end: int) -> int:
    """Where the last usage object begins, or -1. 64 bytes at a time, from the end."""
    found = -1
    i = end
    while i > 0 and found < 0:
        i = i - 64 if i > 64 else 0
        marks = byte_search.quotes(p, i, end)
        while marks:
            at = i + byte_search.lowest(marks)
            marks &= marks - 1
            if at + 8 < end and p[at + 1] == 0x75 and byte_search.is_word(p, at, b'"usage"', 7):
                value = _value(p, at + 7, end)
                # A text that happens to be this word has no colon behind it.
                if value < end and p[value] == 0x7B:
                    found = value
    return found


def _read(usage: Usage, p: bytes, i: int, end: int) -> None:
    """Read the object at ``i``; of what is nested in it only the cached tokens."""
    depth = 0
    text = 0  # where the string begins in which we are; 0 is outside of strings
    while i < end:
        marks = byte_search.quotes(p, i, end) | byte_search.brackets(p, i, end)
        while marks:
            at = i + byte_search.lowest(marks)
            marks &= marks - 1
            c = p[at]
            if text:
                if c == 0x22 and (p[at - 1] != 0x5C or not body._is_escaped(p, at)):
                    kind = _kind(p, text, at - text, depth)
                    if kind:
                        _take(usage, kind, p, _value(p, at + 1, end), end)
                    text = 0
            elif c == 0x22:
                text = at + 1
            elif c == 0x7B or c == 0x5B:
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    return
        i += 64


_NONE = 0
_PROMPT = 1
_COMPLETION = 2
_CACHED = 3


def _kind(p: bytes, key: int, size: int, depth: int) -> int:
    """Which count has this name?"""
    if size == 13:
        if byte_search.is_word(p, key, b"cached_tokens", 13):
            return _CACHED
        if depth == 1 and byte_search.is_word(p, key, b"prompt_tokens", 13):
            return _PROMPT
        if depth == 1 and byte_search.is_word(p, key, b"output_tokens", 13):
            return _COMPLETION
    elif depth != 1:
        return _NONE
    elif size == 17:
        if byte_search.is_word(p, key, b"completion_tokens", 17):
            return _COMPLETION
    elif size == 12:
        if byte_search.is_word(p, key, b"input_tokens", 12):
            return _PROMPT
    elif size == 23 and byte_search.is_word(p, key, b"prompt_cache_hit_tokens", 23):
        return _CACHED
    return _NONE


def _take(usage: Usage, kind: int, p: bytes, i: int, end: int) -> None:
    """Take the value at ``i`` if it is a count."""
    start = i
    number = 0
    while i < end and i - start < _MAX_DIGITS and 0x30 <= p[i] <= 0x39:
        number = number * 10 + p[i] - 0x30
        i += 1
    if i == start or i >= end or not (p[i] == 0x2C or p[i] == 0x7D or p[i] <= 0x20):
        return
    if kind == _PROMPT:
        usage.prompt = number
    elif kind == _COMPLETION:
        usage.completion = number
    else:
        usage.cached = number


def _value(p: bytes, i: int, end: int) -> int:
    """Where the value begins behind a name that ends at ``i``; ``end`` if there is none."""
    while i < end and p[i] <= 0x20:
        i += 1
    if i >= end or p[i] != 0x3A:
        return end
    i += 1
    while i < end and p[i] <= 0x20:
        i += 1
    return i
