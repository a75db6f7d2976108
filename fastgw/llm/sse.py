"""Tells what the events of a streamed LLM answer mean, incrementally and without changing a byte.

The relay asks of each piece of a stream: was that progress, was that an error, was that the end?
Almost every event is one ``data:`` line with a small JSON object, so a hand-written walker reads
those where they lie: it follows the JSON grammar (a text inside a string can never fool it), knows
the few keys that matter, and gives up on anything unusual; what it gives up on is parsed in full.
Most events of a stream differ from the one before in a text or two only: one that was walked is
remembered, and an event that is alike needs no walk.
All three ways give the same answer for every input; the tests hold them to that.

Source: WHATWG HTML, "Server-sent events" (lines, fields, dispatch); OpenAI's chat completions and
Responses streams, DeepSeek's deviations from them.
"""

import json
from enum import IntFlag
from typing import Any

import orjson

from fastgw.llm.body import BROKEN_OFF


class EventKind(IntFlag):
    """What an event (or a comment, or a blank line) is. One event may be several of them."""

    CONTENT = 1  # text or refusal that is not empty
    REASONING = 2  # the model's thoughts
    TOOL_CALL = 4  # a piece of a tool call
    ROLE = 8  # a chunk that carries nothing yet: role only, empty delta, no choices
    USAGE = 16  # a usage object
    FINISH = 32  # a finish_reason, or a terminal event of the Responses API
    COMMENT = 64  # a line that starts with a colon: keep-alive
    BLANK = 128  # a blank line outside an event: keep-alive
    ERROR = 256  # an error object, `event: error`, or an answer the provider broke off
    DONE = 512  # [DONE]
    MALFORMED = 1024  # data that is not JSON
    LIFECYCLE = 2048  # response.created and its like, and what has no data at all
    OTHER = 4096  # anything else


# Masks are plain integers: operators of IntFlag cost more than reading the event did.
PROGRESS = int(EventKind.CONTENT | EventKind.REASONING | EventKind.TOOL_CALL)

MAX_EVENT_BYTES = 1 << 20

# The same numbers as C integers (see the .pxd).
_CONTENT = int(EventKind.CONTENT)
_REASONING = int(EventKind.REASONING)
_TOOL_CALL = int(EventKind.TOOL_CALL)
_ROLE = int(EventKind.ROLE)
_USAGE = int(EventKind.USAGE)
_FINISH = int(EventKind.FINISH)
_COMMENT = int(EventKind.COMMENT)
_BLANK = int(EventKind.BLANK)
_ERROR = int(EventKind.ERROR)
_DONE = int(EventKind.DONE)
_MALFORMED = int(EventKind.MALFORMED)
_LIFECYCLE = int(EventKind.LIFECYCLE)
_OTHER = int(EventKind.OTHER)

# Keys the walker has met in the object it is in; a second one of the same name makes it give up,
# because then the last one counts.
_SEEN_MODEL = 1
_SEEN_ERROR = 2
_SEEN_USAGE = 4
_SEEN_DELTA = 8
_SEEN_CHOICES = 16
_SEEN_TYPE = 32
_SEEN_OBJECT = 64
_SEEN_TEXT = 128
_SEEN_MESSAGE = 256
_SEEN_FINISH = 512
_SEEN_CONTENT = 1024
_SEEN_REFUSAL = 2048
_SEEN_REASONING = 4096
_SEEN_REASONING_CONTENT = 8192
_SEEN_TOOL_CALLS = 16384

_MAX_MODEL = 256  # characters of a model's name; it will be logged
_MAX_DEPTH = 64  # of nested values the walker follows
_MAX_NUMBER = 32  # digits; longer ones go to the full parse, whose limits then count
_MAX_KNOWN = 2048  # bytes of an event that is remembered

# --- What the types of the Responses API mean ---------------------------------------------------

# Deltas in which the text is in "delta". Those not named here but ending in ".delta" are CONTENT.
DELTA_TYPES: dict[bytes, int] = {
    b"response.output_text.delta": _CONTENT,
    b"response.refusal.delta": _CONTENT,
    b"response.audio.delta": _CONTENT,
    b"response.audio.transcript.delta": _CONTENT,
    b"response.reasoning_text.delta": _REASONING,
    b"response.reasoning_summary_text.delta": _REASONING,
    b"response.reasoning_summary.delta": _REASONING,
    b"response.reasoning.delta": _REASONING,
    b"response.function_call_arguments.delta": _TOOL_CALL,
    b"response.mcp_call_arguments.delta": _TOOL_CALL,
    b"response.custom_tool_call_input.delta": _TOOL_CALL,
    b"response.code_interpreter_call_code.delta": _TOOL_CALL,
}

_DELTA_TYPES = DELTA_TYPES  # for the walker: a C variable (see the .pxd)

TYPES: dict[str, int] = {
    "error": _ERROR,
    "response.failed": _ERROR,
    "response.cancelled": _ERROR,
    "response.completed": _FINISH,
    "response.incomplete": _FINISH,  # its own limits, not the provider's trouble
    "response.image_generation_call.partial_image": _CONTENT,
    "keepalive": _LIFECYCLE,
    "ping": _LIFECYCLE,
}


def _load(data: bytes) -> Any:
    """Parse ``data`` as leniently as the SDKs do. ValueError when not even they could."""
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        # Half a surrogate pair, a number out of range: odd, but no reason to lose an event.
        return json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _read_choice(choice: dict[str, Any]) -> int:
    kind = 0
    for name in ("delta", "message"):
        delta = choice.get(name)
        if not isinstance(delta, dict):
            continue
        if delta.get("content") or delta.get("refusal") or delta.get("audio"):
            kind |= _CONTENT
        if delta.get("reasoning_content") or delta.get("reasoning") or delta.get("reasoning_details"):
            kind |= _REASONING
        if delta.get("tool_calls") or delta.get("function_call"):
            kind |= _TOOL_CALL
    if choice.get("text"):
        kind |= _CONTENT
    finish = choice.get("finish_reason")
    if finish:
        kind |= _FINISH
        if finish == BROKEN_OFF:
            kind |= _ERROR
    return kind


def _read_type(name: str, event: dict[str, Any]) -> int:
    if name.endswith(".delta"):
        known = DELTA_TYPES.get(name.encode("utf-8", "replace"))
        if known is None and "delta" not in event:
            return _CONTENT  # under another name, as speech.audio.delta has it
        return (known or _CONTENT) if event.get("delta") else _ROLE
    kind = TYPES.get(name, 0)
    if not kind and name.startswith("response."):
        kind = _LIFECYCLE
    response = event.get("response")
    if isinstance(response, dict) and isinstance(response.get("usage"), dict) and response["usage"]:
        kind |= _USAGE
    return kind


def read_event(event: Any) -> int:
    """Return the kinds of one parsed event: the reference the walker is held to."""
    if not isinstance(event, dict):
        return _OTHER
    kind = 0
    if event.get("error") or event.get("object") == "error":
        kind |= _ERROR
    if isinstance(event.get("usage"), dict) and event["usage"]:
        kind |= _USAGE
    choices = event.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict):
                kind |= _read_choice(choice)
        return kind or _ROLE
    name = event.get("type")
    if isinstance(name, str):
        kind |= _read_type(name, event)
    return kind or _OTHER


def _model_of(event: Any) -> Any:
    """Return what the event says of its model; not checked to be a name."""
    if not isinstance(event, dict):
        return None
    model = event.get("model")
    if model is None:
        response = event.get("response")
        if isinstance(response, dict):
            model = response.get("model")
    return model


# --- JSON, where it lies ------------------------------------------------------------------------
# `p` is the buffer (a C pointer when compiled), `i` where to begin, `end` where to stop looking.
# Each returns the offset after what it read, or -1: not there, not whole, not valid, not sure.


def _skip_space(p: bytes, i: int, end: int) -> int:
    # No line ends: on one line of an event there are none.
    while i < end and (p[i] == 0x20 or p[i] == 0x09):
        i += 1
    return i


def _skip_utf8(p: bytes, i: int, end: int) -> int:
    """``i`` is at a byte >= 0x80. Overlong forms, surrogates and truncated characters are invalid."""
    c = p[i]
    if c < 0xC2 or c > 0xF4:
        return -1
    size = 2 if c < 0xE0 else 3 if c < 0xF0 else 4
    if end - i < size:
        return -1
    low = 0x80
    high = 0xBF
    if c == 0xE0:
        low = 0xA0
    elif c == 0xED:
        high = 0x9F
    elif c == 0xF0:
        low = 0x90
    elif c == 0xF4:
        high = 0x8F
    if p[i + 1] < low or p[i + 1] > high:
        return -1
    if size > 2 and (p[i + 2] & 0xC0) != 0x80:
        return -1
    if size > 3 and (p[i + 3] & 0xC0) != 0x80:
        return -1
    return i + size


def _skip_escape(p: bytes, i: int, end: int) -> int:
    """``i`` is at a backslash."""
    if end - i < 2:
        return -1
    c = p[i + 1]
    if c == 0x75:  # u
        if end - i < 6:
            return -1
        for k in range(i + 2, i + 6):
            c = p[k]
            if not (0x30 <= c <= 0x39 or 0x41 <= c <= 0x46 or 0x61 <= c <= 0x66):
                return -1
        return i + 6
    # " \ / b f n r t
    if c == 0x22 or c == 0x5C or c == 0x2F or c == 0x62 or c == 0x66 or c == 0x6E or c == 0x72 or c == 0x74:
        return i + 2
    return -1


def _skip_plain(p: bytes, i: int, end: int) -> int:
    """Skip blocks of nothing but unescaped ASCII: there may be more of it behind them."""
    while end - i >= 32:
        special = 0
        for k in range(32):
            special |= (p[i + k] == 0x22) | (p[i + k] == 0x5C) | (p[i + k] < 0x20) | (p[i + k] >= 0x80)
        if special:
            break
        i += 32
    return i


def _skip_string(p: bytes, i: int, end: int) -> int:
    """``i`` is after the opening quote."""
    far = i + 24  # blocks cost more than the few bytes of most strings
    while i < end:
        c = p[i]
        if c == 0x22:
            return i + 1
        if c == 0x5C:
            i = _skip_escape(p, i, end)
            if i < 0:
                return -1
        elif c < 0x20:
            return -1
        elif c < 0x80:
            i += 1
            if i >= far:
                i = _skip_plain(p, i, end)
                far = i + 24
        else:
            i = _skip_utf8(p, i, end)
            if i < 0:
                return -1
    return -1


def _skip_key(p: bytes, i: int, end: int) -> int:
    """As `_skip_string`, for a key whose name matters: plain ASCII, no escapes."""
    while i < end:
        c = p[i]
        if c == 0x22:
            return i + 1
        if c < 0x20 or c == 0x5C or c >= 0x80:
            return -1
        i += 1
    return -1


def _skip_colon(p: bytes, i: int, end: int) -> int:
    """Return where the value after the key begins; there is at least one byte of it."""
    i = _skip_space(p, i, end)
    if i >= end or p[i] != 0x3A:
        return -1
    i = _skip_space(p, i + 1, end)
    return i if i < end else -1


def _skip_comma(p: bytes, i: int, end: int) -> int:
    """Return the offset of the comma or closing bracket after a value; there may be neither."""
    i = _skip_space(p, i, end)
    return i if i < end else -1


def _skip_word(p: bytes, i: int, end: int, word: bytes, size: int) -> int:
    if end - i < size:
        return -1
    for k in range(size):
        if p[i + k] != word[k]:
            return -1
    return i + size


def _skip_digits(p: bytes, i: int, end: int) -> int:
    start = i
    while i < end and 0x30 <= p[i] <= 0x39:
        i += 1
    return i if i > start else -1


def _skip_number(p: bytes, i: int, end: int) -> int:
    start = i
    if p[i] == 0x2D:
        i += 1
    if i < end and p[i] == 0x30:
        i += 1
    else:
        i = _skip_digits(p, i, end)
    if i >= 0 and i < end and p[i] == 0x2E:
        i = _skip_digits(p, i + 1, end)
    if i >= 0 and i < end and (p[i] == 0x65 or p[i] == 0x45):
        i += 1
        if i < end and (p[i] == 0x2B or p[i] == 0x2D):
            i += 1
        i = _skip_digits(p, i, end)
    return i if i - start <= _MAX_NUMBER else -1


def _skip_value(p: bytes, i: int, end: int, depth: int) -> int:
    """There is at least one byte at ``i``."""
    c = p[i]
    if c == 0x22:
        return _skip_string(p, i + 1, end)
    if c == 0x7B or c == 0x5B:
        return _skip_container(p, i, end, depth)
    if c == 0x6E:
        return _skip_word(p, i, end, b"null", 4)
    if c == 0x74:
        return _skip_word(p, i, end, b"true", 4)
    if c == 0x66:
        return _skip_word(p, i, end, b"false", 5)
    if c == 0x2D or 0x30 <= c <= 0x39:
        return _skip_number(p, i, end)
    return -1


def _skip_container(p: bytes, i: int, end: int, depth: int) -> int:
    """``i`` is at the opening bracket of an object or array."""
    if depth >= _MAX_DEPTH:
        return -1
    is_object = p[i] == 0x7B
    close = 0x7D if is_object else 0x5D
    i = _skip_space(p, i + 1, end)
    if i < end and p[i] == close:
        return i + 1
    while True:
        if is_object:
            if i >= end or p[i] != 0x22:
                return -1
            i = _skip_string(p, i + 1, end)
            if i < 0:
                return -1
            i = _skip_colon(p, i, end)
            if i < 0:
                return -1
        elif i >= end:
            return -1
        i = _skip_value(p, i, end, depth + 1)
        if i < 0:
            return -1
        i = _skip_comma(p, i, end)
        if i < 0:
            return -1
        if p[i] == close:
            return i + 1
        if p[i] != 0x2C:
            return -1
        i = _skip_space(p, i + 1, end)


def _is_word(p: bytes, i: int, word: bytes, size: int) -> bool:
    """Are the ``size`` bytes at ``i``, known to be there, this word?"""
    k = 0
    while k < size and p[i + k] == word[k]:
        k += 1
    return k == size


def _is_same(p: bytes, i: int, q: bytes, j: int, size: int) -> bool:
    """Are ``size`` bytes of ``p`` at ``i``, known to be there, those of ``q`` at ``j``?"""
    difference = 0
    for k in range(size):
        difference |= p[i + k] ^ q[j + k]
    return difference == 0


def _skip_text(p: bytes, i: int, end: int) -> int:
    """A string or null at ``i``; anything else is left to the full parse."""
    if p[i] == 0x22:
        return _skip_string(p, i + 1, end)
    if p[i] == 0x6E:
        return _skip_word(p, i, end, b"null", 4)
    return -1


def _find_line_end(p: bytes, i: int, end: int) -> int:
    while i < end:
        if p[i] == 0x0A or p[i] == 0x0D:
            return i
        i += 1
    return -1


class EventScanner:
    """Reads one response body, piece by piece, as server-sent events.

    Attributes:
        seen: kinds of everything completed so far (a mask of `EventKind`).
        kind: kinds of what the last `feed_event` completed; 0 when it completed nothing.
        boundary: offset in the buffer last fed, right after the last completed event, comment or
            blank line that does not lie inside an event; -1 when there is none in it. Whatever the
            gateway wants to add to the stream may be put there.
        error_data: the data of the first error event, None when there was none.
        usage_data: the data of the last event with a usage object.
        model: the first model name the stream told.

    Memory is bounded by ``max_event_bytes``: a longer event is not kept and counts as content.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.seen = 0
        self.kind = 0
        self.boundary = -1
        self.error_data: bytes | None = None
        self.usage_data: bytes | None = None
        self.model: str | None = None
        self._max_event_bytes = max_event_bytes
        # The line that is not whole yet: what is kept of it, and how long it really is.
        self._partial = bytearray()
        self._partial_bytes = 0
        # The event that is not whole yet.
        self._lines: list[bytes] = []
        self._event_bytes = 0
        self._in_event = False
        self._is_oversized = False
        self._is_error_event = False
        self._at_start = True  # a byte order mark may come
        self._after_cr = False  # an LF now belongs to the line end before
        self._found = 0  # kinds of what the walker just read
        # Where the walker found the model name, quotes excluded.
        self._model_start = -1
        self._model_end = -1
        # Where it found the last text that is not empty (or piece of a tool call's arguments), and
        # behind it the last string on the top level that means nothing; quotes excluded.
        self._text_start = -1
        self._text_end = -1
        self._filler_start = -1
        self._filler_end = -1
        # The last event with a text that was walked, its kinds, and where in it these two lie.
        self._known = b""
        self._known_kind = 0
        self._known_text_start = 0
        self._known_text_end = 0
        self._known_filler_start = -1
        self._known_filler_end = -1

    def __repr__(self) -> str:
        kinds = EventKind(self.seen).name or "nothing"
        pending = "" if self.is_at_boundary else f" pending={self._partial_bytes + self._event_bytes}"
        return f"<EventScanner seen {kinds.replace('|', ', ').lower()}{pending}>"

    @property
    def is_at_boundary(self) -> bool:
        """Is nothing pending: no half line, no half event?"""
        return not self._in_event and self._partial_bytes == 0

    # --- Reading ------------------------------------------------------------------------------

    def feed(self, data: bytes, start: int, end: int) -> int:
        """Read ``data[start:end]``; return the kinds of all that became complete in it, or 0.

        The same stream split in any other way gives the same events, boundaries and attributes.
        ValueError when the range is not inside ``data``.
        """
        kinds = 0
        boundary = -1
        i = start
        while True:
            i = self.feed_event(data, i, end)
            kinds |= self.kind
            if self.boundary >= 0:
                boundary = self.boundary
            if self.kind == 0 or i >= end:
                break
        self.boundary = boundary
        return kinds

    def feed_event(self, data: bytes, start: int, end: int) -> int:
        """Read until one event, comment or blank line is complete; return the offset after it.

        ``kind`` says what it was. Without one the whole range is read: ``end`` is returned, and
        ``kind`` is 0.
        """
        if start < 0 or start > end or end > len(data):
            raise ValueError(f"[{start}:{end}] is not in a buffer of {len(data)} bytes")
        p = data
        i = start
        self.kind = 0
        self.boundary = -1
        if self._after_cr and i < end:
            self._after_cr = False
            if p[i] == 0x0A:
                i += 1
                if not self._in_event:
                    self.boundary = i
        while i < end:
            if p[i] == 0x64 and self._may_match():
                after = self._match_event(p, i, end)
                if after >= 0:
                    self.kind = self._found
                    self.seen |= self.kind
                    if self.kind & _USAGE:
                        self.usage_data = data[i + 5 : after].strip()
                    self._in_event = False
                    self.boundary = after
                    return after
            line_end = _find_line_end(p, i, end)
            if line_end < 0:
                self._keep_partial(data, i, end)
                return end
            after = line_end + 1
            if p[line_end] == 0x0D:
                if after == end:
                    self._after_cr = True
                elif p[after] == 0x0A:
                    after += 1
            if self._partial_bytes == 0:
                self.kind = self._read_line(data, i, line_end, line_end - i)
            else:
                size = self._partial_bytes + line_end - i
                self._keep_partial(data, i, line_end)
                line = bytes(self._partial)
                self._partial = bytearray()
                self._partial_bytes = 0
                self.kind = self._read_line(line, 0, len(line), size)
            i = after
            if self.kind:
                self.seen |= self.kind
                if not self._in_event:
                    self.boundary = i
                return i
        return i

    def feed_eof(self) -> int:
        """The body ended: return the kinds of what was left pending, as if it had been terminated.

        A strict reader would ignore that rest. It tells a provider that only forgot the last line
        end from one that was cut; a cut event is `MALFORMED`.
        """
        kind = 0
        if self._partial_bytes:
            line = bytes(self._partial)
            size = self._partial_bytes
            self._partial = bytearray()
            self._partial_bytes = 0
            kind |= self._read_line(line, 0, len(line), size)
        if self._in_event:
            kind |= self._end_event()
        self.kind = kind
        self.seen |= kind
        self.boundary = -1
        return kind

    # --- Lines --------------------------------------------------------------------------------

    def _keep_partial(self, data: bytes, i: int, end: int) -> None:
        """Keep a piece of a line; of one that is too long only the beginning, to know its field."""
        # (An `event:` line must be kept whole, however small the bound.)
        room = max(self._max_event_bytes, 256) + 1 - len(self._partial)
        self._partial_bytes += end - i
        if room > 0:
            self._partial += data[i : end if end - i < room else i + room]

    def _read_line(self, data: bytes, i: int, end: int, size: int) -> int:
        """Take one line without its end. ``size`` is its true length, of which less may be kept."""
        p = data
        if self._at_start:
            self._at_start = False
            if end - i >= 3 and p[i] == 0xEF and p[i + 1] == 0xBB and p[i + 2] == 0xBF:
                i += 3
        if i == end:
            return self._end_event() if self._in_event else _BLANK
        if p[i] == 0x3A:
            return _COMMENT
        self._in_event = True
        if _skip_word(p, i, end, b"data", 4) >= 0 and (i + 4 == end or p[i + 4] == 0x3A):
            self._event_bytes += size
            if self._event_bytes > self._max_event_bytes:
                self._is_oversized = True
                self._lines = []
            else:
                i = self._skip_field_name(p, i + 4, end)
                self._lines.append(data[i:end])
        elif _skip_word(p, i, end, b"event", 5) >= 0 and (i + 5 == end or p[i + 5] == 0x3A):
            i = self._skip_field_name(p, i + 5, end)
            self._is_error_event = end - i == 5 and _is_word(p, i, b"error", 5)
        return 0

    def _skip_field_name(self, p: bytes, i: int, end: int) -> int:
        """``i`` is after the name: skip the colon and one space, where they are."""
        if i < end:
            i += 1
            if i < end and p[i] == 0x20:
                i += 1
        return i

    def _end_event(self) -> int:
        lines = self._lines
        is_error = self._is_error_event
        is_oversized = self._is_oversized
        self._in_event = False
        self._is_error_event = False
        self._is_oversized = False
        self._event_bytes = 0
        if lines:
            self._lines = []
        if is_oversized:
            return self._take_error(b"") | _OTHER if is_error else _CONTENT | _OTHER
        if not lines:
            # An id, a time to wait: no reader is told of an event without data.
            return self._take_error(b"") if is_error else _LIFECYCLE
        data = lines[0] if len(lines) == 1 else b"\n".join(lines)
        return self._classify(data, is_error)

    # --- Meaning ------------------------------------------------------------------------------

    def _classify(self, data: bytes, is_error: bool) -> int:
        """Return the kinds of an event by its data, and keep what it tells."""
        kind = 0
        if not is_error:
            if data.startswith(b"[DONE]"):
                return _DONE
            if self._walk_whole(data, len(data)):
                kind = self._found
                self._take_model(data)
        if kind == 0:
            kind = self._parse(data)
            if is_error:
                kind = kind & ~_MALFORMED | _ERROR
        if kind & _USAGE:
            self.usage_data = data.strip()
        if kind & _ERROR:
            self._take_error(data)
        return kind

    def _parse(self, data: bytes) -> int:
        try:
            event = _load(data)
        except ValueError:
            return _MALFORMED
        if self.model is None:
            self._keep_model(_model_of(event))
        return read_event(event)

    def _take_error(self, data: bytes) -> int:
        if self.error_data is None:
            self.error_data = data.strip()
        return _ERROR

    def _take_model(self, p: bytes) -> None:
        if self.model is None and self._model_end > self._model_start:
            self._keep_model(_load(p[self._model_start - 1 : self._model_end + 1]))

    def _keep_model(self, model: object) -> None:
        if isinstance(model, str) and 0 < len(model) <= _MAX_MODEL:
            try:
                model.encode("utf-8")
            except UnicodeEncodeError:  # half a surrogate pair
                return
            self.model = model

    # --- The walker ---------------------------------------------------------------------------

    def _may_match(self) -> bool:
        """Would a data line that begins here be the only one of its event, and no error by name?"""
        return not (self._partial_bytes or self._event_bytes or self._is_error_event or self._at_start)

    def _match_event(self, p: bytes, i: int, end: int) -> int:
        """Read a whole plain event: ``data:`` with one JSON object, a line end and a blank line.

        Returns the offset after it, with its kinds in ``_found``; or -1.
        """
        start = i
        i = self._match_known(p, start, end)
        if i >= 0:
            return i
        i = _skip_word(p, start, end, b"data:", 5)
        if i < 0:
            return -1
        i = _skip_space(p, i, end)
        if i >= end or p[i] != 0x7B:
            return -1
        i = self._walk(p, i, end)
        if i < 0 or i - start > self._max_event_bytes:
            return -1
        if end - i >= 2 and p[i] == 0x0A and p[i + 1] == 0x0A:
            i += 2
        elif end - i >= 4 and _is_word(p, i, b"\r\n\r\n", 4):
            i += 4
        else:
            return -1
        self._take_model(p)
        if self._text_start >= 0 and i - start <= _MAX_KNOWN:
            self._know(p, start, i)
        return i

    def _know(self, p: bytes, start: int, after: int) -> None:
        """Remember the event the walker has just read; it found a text there."""
        self._known = p[start:after]
        self._known_kind = self._found
        self._known_text_start = self._text_start - start
        self._known_text_end = self._text_end - start
        self._known_filler_start = -1
        if self._filler_start >= 0:
            self._known_filler_start = self._filler_start - start
            self._known_filler_end = self._filler_end - start

    def _match_known(self, p: bytes, i: int, end: int) -> int:
        """As `_match_event`, for an event like the remembered one.

        Alike are events of the same bytes but for the text, which is empty in neither (or the kinds
        might differ), and for the filler: OpenAI's "obfuscation" is as long as it likes to be.
        """
        known = self._known
        q = known
        size = self._known_text_start
        if size == 0 or end - i < size or not _is_same(p, i, q, 0, size):
            return -1
        text = i + size
        after = _skip_string(p, text, end)
        if after < text + 2:
            return -1
        at = self._known_text_end + 1
        if self._known_filler_start >= 0:
            size = self._known_filler_start - at
            if end - after < size or not _is_same(p, after, q, at, size):
                return -1
            after = _skip_string(p, after + size, end)
            if after < 0:
                return -1
            at = self._known_filler_end + 1
        size = len(known) - at
        if end - after < size or not _is_same(p, after, q, at, size):
            return -1
        after += size
        if after - i > self._max_event_bytes:
            return -1
        self._found = self._known_kind
        return after

    def _walk_whole(self, p: bytes, end: int) -> bool:
        """Is the buffer one object the walker understands, and nothing else?"""
        i = _skip_space(p, 0, end)
        if i >= end or p[i] != 0x7B:
            return False
        i = self._walk(p, i, end)
        return i >= 0 and _skip_space(p, i, end) == end

    def _walk(self, p: bytes, i: int, end: int) -> int:
        """Read the event's object; ``i`` is at its brace. Sets ``_found`` and the model's place."""
        seen = 0
        type_start = 0
        type_end = 0
        has_delta = False
        self._found = 0
        self._model_start = -1
        self._model_end = -1
        self._text_start = -1
        self._filler_start = -1
        i += 1
        while True:
            i = _skip_space(p, i, end)
            if i >= end or p[i] != 0x22:
                return -1
            key = i + 1
            i = _skip_key(p, key, end)
            if i < 0:
                return -1
            size = i - 1 - key
            value = _skip_colon(p, i, end)
            if value < 0:
                return -1
            name = 0
            if size == 5:
                if _is_word(p, key, b"model", 5):
                    name = _SEEN_MODEL
                elif _is_word(p, key, b"usage", 5):
                    name = _SEEN_USAGE
                elif _is_word(p, key, b"delta", 5):
                    name = _SEEN_DELTA
                elif _is_word(p, key, b"error", 5) and p[value] != 0x6E:
                    return -1
            elif size == 7:
                if _is_word(p, key, b"choices", 7):
                    name = _SEEN_CHOICES
            elif size == 4:
                if _is_word(p, key, b"type", 4):
                    name = _SEEN_TYPE
            elif size == 6:
                if _is_word(p, key, b"object", 6):
                    name = _SEEN_OBJECT
            elif size == 8 and _is_word(p, key, b"response", 8):
                return -1
            if seen & name:
                return -1
            seen |= name
            i = self._walk_choices(p, value, end) if name == _SEEN_CHOICES else _skip_value(p, value, end, 1)
            if i < 0:
                return -1
            if name == 0:
                if p[value] == 0x22 and self._text_start >= 0:
                    self._filler_start = value + 1
                    self._filler_end = i - 1
            elif name == _SEEN_MODEL:
                if p[value] == 0x22:
                    self._model_start = value + 1
                    self._model_end = i - 1
            elif name == _SEEN_USAGE:
                if p[value] == 0x7B and p[value + 1] == 0x22:
                    self._found |= _USAGE
                elif p[value] != 0x6E:
                    return -1
            elif name == _SEEN_OBJECT:
                # Of five characters: "error", perhaps. Escaped: who knows.
                if p[value] == 0x22 and (i - value == 7 or _skip_key(p, value + 1, end) < 0):
                    return -1
            elif name == _SEEN_TYPE:
                if p[value] != 0x22:
                    return -1
                type_start = value + 1
                type_end = i - 1
            elif name == _SEEN_DELTA:
                if p[value] != 0x22:
                    return -1
                has_delta = i - value > 2
            i = _skip_comma(p, i, end)
            if i < 0:
                return -1
            if p[i] == 0x7D:
                break
            if p[i] != 0x2C:
                return -1
            i += 1
        if seen & _SEEN_CHOICES:
            if self._found == 0:
                self._found = _ROLE
        elif seen & _SEEN_TYPE and seen & _SEEN_DELTA:
            kind = _DELTA_TYPES.get(p[type_start:type_end])
            if kind is None:
                return -1
            self._found |= kind if has_delta else _ROLE
        else:
            return -1
        return i + 1

    def _walk_choices(self, p: bytes, i: int, end: int) -> int:
        if p[i] != 0x5B:
            return -1
        i = _skip_space(p, i + 1, end)
        if i < end and p[i] == 0x5D:
            return i + 1
        while True:
            if i >= end or p[i] != 0x7B:
                return -1
            i = self._walk_choice(p, i, end)
            if i < 0:
                return -1
            i = _skip_comma(p, i, end)
            if i < 0:
                return -1
            if p[i] == 0x5D:
                return i + 1
            if p[i] != 0x2C:
                return -1
            i = _skip_space(p, i + 1, end)

    def _walk_choice(self, p: bytes, i: int, end: int) -> int:
        seen = 0
        i += 1
        while True:
            i = _skip_space(p, i, end)
            if i >= end or p[i] != 0x22:
                return -1
            key = i + 1
            i = _skip_key(p, key, end)
            if i < 0:
                return -1
            size = i - 1 - key
            value = _skip_colon(p, i, end)
            if value < 0:
                return -1
            name = 0
            if size == 5:
                if _is_word(p, key, b"delta", 5):
                    name = _SEEN_DELTA
            elif size == 13:
                if _is_word(p, key, b"finish_reason", 13):
                    name = _SEEN_FINISH
            elif size == 4:
                if _is_word(p, key, b"text", 4):
                    name = _SEEN_TEXT
            elif size == 7 and _is_word(p, key, b"message", 7):
                name = _SEEN_MESSAGE
            if seen & name:
                return -1
            seen |= name
            if name == 0:
                i = _skip_value(p, value, end, 3)
            elif name in (_SEEN_FINISH, _SEEN_TEXT):
                i = _skip_text(p, value, end)
                if i - value > 2 and p[value] == 0x22:
                    if name == _SEEN_TEXT:
                        self._found |= _CONTENT
                        self._text_start = value + 1
                        self._text_end = i - 1
                    elif i - value == 30 or _skip_key(p, value + 1, end) < 0:
                        return -1  # as long as the word for a broken-off answer, or escaped
                    else:
                        self._found |= _FINISH
            elif p[value] == 0x7B:
                i = self._walk_delta(p, value, end)
            else:
                i = _skip_word(p, value, end, b"null", 4)
            if i < 0:
                return -1
            i = _skip_comma(p, i, end)
            if i < 0:
                return -1
            if p[i] == 0x7D:
                return i + 1
            if p[i] != 0x2C:
                return -1
            i += 1

    def _note_arguments(self, p: bytes, i: int) -> None:
        """Tool calls end at ``i``. A string with nothing but brackets behind it may be any other."""
        i -= 1
        while p[i] == 0x5D or p[i] == 0x7D or p[i] == 0x20 or p[i] == 0x09:
            i -= 1
        if p[i] != 0x22:
            return
        last = i
        backslashes = 1
        while backslashes & 1:  # a quote in the string is escaped, the one before it is not
            i -= 1
            while p[i] != 0x22:
                i -= 1
            backslashes = 0
            while p[i - 1 - backslashes] == 0x5C:
                backslashes += 1
        self._text_start = i + 1
        self._text_end = last

    def _walk_delta(self, p: bytes, i: int, end: int) -> int:
        seen = 0
        i = _skip_space(p, i + 1, end)
        if i < end and p[i] == 0x7D:
            return i + 1
        while True:
            if i >= end or p[i] != 0x22:
                return -1
            key = i + 1
            i = _skip_key(p, key, end)
            if i < 0:
                return -1
            size = i - 1 - key
            value = _skip_colon(p, i, end)
            if value < 0:
                return -1
            name = 0
            kind = 0
            if size == 7:
                if _is_word(p, key, b"content", 7):
                    name = _SEEN_CONTENT
                    kind = _CONTENT
                elif _is_word(p, key, b"refusal", 7):
                    name = _SEEN_REFUSAL
                    kind = _CONTENT
            elif size == 17:
                if _is_word(p, key, b"reasoning_content", 17):
                    name = _SEEN_REASONING_CONTENT
                    kind = _REASONING
                elif _is_word(p, key, b"reasoning_details", 17) and p[value] != 0x6E:
                    return -1
            elif size == 9:
                if _is_word(p, key, b"reasoning", 9):
                    name = _SEEN_REASONING
                    kind = _REASONING
            elif size == 10:
                if _is_word(p, key, b"tool_calls", 10):
                    name = _SEEN_TOOL_CALLS
            elif size == 13:
                if _is_word(p, key, b"function_call", 13) and p[value] != 0x6E:
                    return -1
            elif size == 5 and _is_word(p, key, b"audio", 5) and p[value] != 0x6E:
                return -1
            if seen & name:
                return -1
            seen |= name
            if kind:
                i = _skip_text(p, value, end)
                if i - value > 2 and p[value] == 0x22:
                    self._found |= kind
                    self._text_start = value + 1
                    self._text_end = i - 1
            else:
                i = _skip_value(p, value, end, 4)
            if i < 0:
                return -1
            if name == _SEEN_TOOL_CALLS:
                if p[value] == 0x5B and p[value + 1] == 0x7B:
                    self._found |= _TOOL_CALL
                    self._note_arguments(p, i)
                elif p[value] != 0x6E and not (p[value] == 0x5B and p[value + 1] == 0x5D):
                    return -1
            i = _skip_comma(p, i, end)
            if i < 0:
                return -1
            if p[i] == 0x7D:
                return i + 1
            if p[i] != 0x2C:
                return -1
            i = _skip_space(p, i + 1, end)
