"""Reads the few facts the gateway needs from a JSON body, without parsing it.

A request body may be megabytes of conversation of which only ``model`` and ``stream`` matter here.
The scan walks the keys of the top level and steps over every value by its brackets and quotes; it
builds no tree, and its memory does not grow with what a client sends. It does not check what it
steps over: on valid JSON it agrees with a full parser, and an invalid body is for the provider to
refuse. Where parsers are known to differ (a key given twice) it says so instead of choosing; to some
of them, Go's among them, `Model` is `model`, so it is here.
"""

from enum import IntFlag
from typing import Any

import orjson

from . import byte_search

# DeepSeek's finish_reason for "we had to stop in the middle": an ended answer that is not whole.
BROKEN_OFF = "insufficient_system_resource"

_MAX_DEPTH = 64  # of brackets in brackets; a deeper body is not read (the bits of `shape`, too)


class Trait(IntFlag):
    """What is in a request body that some provider speaks differently, or cannot take.

    A trait that is missing is surely not there. One that is set calls for a look: a text that is
    just the word sets it too. Keys that every provider knows (``temperature``, ``stop`` ...) set none.
    A name that is written with escapes inside ``messages`` or ``tools`` is not recognised: no
    encoder writes one.
    """

    # Keys of the top level
    MESSAGES = 1 << 0  # it is a chat
    MAX_TOKENS = 1 << 1
    THINKING = 1 << 2
    REASONING_EFFORT = 1 << 3
    RESPONSE_FORMAT = 1 << 4
    TOOLS = 1 << 5
    TOOL_CHOICE = 1 << 6  # other than "auto" and "none"
    LOGPROBS = 1 << 7
    USER_ID = 1 << 8
    STREAM_OPTIONS = 1 << 9  # other than include_usage
    FOREIGN = 1 << 10  # any other
    # Strings anywhere inside the messages and the tools
    DEVELOPER = 1 << 11
    REASONING_CONTENT = 1 << 12
    TOOL_CALLS = 1 << 13
    IMAGE = 1 << 14
    AUDIO = 1 << 15
    FILE = 1 << 16
    FUNCTION_CALL = 1 << 17  # or the role "function"
    PREFIX = 1 << 18
    STRICT = 1 << 19
    CUSTOM = 1 << 20


EVERY_TRAIT = Trait((1 << 21) - 1)


class BodyFacts:
    """What a request body says of itself at its top level.

    Attributes:
        model: the model's name, None when there is none that is a valid string.
        model_start, model_end: where that JSON string lies, quotes included; -1 when there is none.
        duplicate_model: "model" is there more than once. Parsers differ in which one counts, so
            whoever decides by it must refuse the request.
        stream: is "stream" true?
        include_usage: does "stream_options" ask for the usage chunk?
        traits: bits of `Trait`.
    """

    model: str | None
    model_start: int
    model_end: int
    duplicate_model: bool
    stream: bool
    include_usage: bool
    traits: int

    def __repr__(self) -> str:
        flags = "".join(
            f" {name}" for name in ("duplicate_model", "stream", "include_usage") if getattr(self, name)
        )
        return f"<BodyFacts model={self.model!r}{flags}>"


def _no_facts() -> BodyFacts:
    facts = BodyFacts.__new__(BodyFacts)  # compiled, this is no call from Python
    facts.model = None
    facts.model_start = -1
    facts.model_end = -1
    facts.duplicate_model = False
    facts.stream = False
    facts.include_usage = False
    facts.traits = 0
    return facts


def scan(body: bytes) -> BodyFacts | None:
    """Return the facts of a request body; None when it is not a JSON object (or deeper than 64)."""
    p = body
    end = len(body)
    i = _skip_space(p, 0, end)
    if i >= end or p[i] != 0x7B:
        return None
    facts = _no_facts()
    has_model = False
    i = _skip_space(p, i + 1, end)
    if i < end and p[i] == 0x7D:
        return facts if _skip_space(p, i + 1, end) == end else None
    while True:
        if i >= end or p[i] != 0x22:
            return None
        key = i + 1
        i = _skip_string(p, key, end)
        if i < 0:
            return None
        name = _name_of(p, key, i - 1)
        key_end = i - 1
        value = _skip_colon(p, i, end)
        if value < 0:
            return None
        if (name == _MESSAGES or name == _TOOLS) and p[value] == 0x5B:
            i, marks = _skip_nested(p, value, end)
            facts.traits |= marks & ~_IS_BROKEN_OFF
        else:
            i = _skip_value(p, value, end)
        if i < 0:
            return None
        if name == _MESSAGES:
            facts.traits |= _HAS_MESSAGES
        elif name == _TOOLS:
            facts.traits |= _HAS_TOOLS
        elif name == _MODEL:
            facts.duplicate_model = has_model
            has_model = True
            facts.model = None
            facts.model_start = -1
            facts.model_end = -1
            model = _string_of(p, value, i) if p[value] == 0x22 else None
            if model is not None:
                facts.model = model
                facts.model_start = value
                facts.model_end = i
        elif name == _STREAM:
            facts.stream = p[value] == 0x74
        elif name == _STREAM_OPTIONS:
            _read_stream_options(facts, body[value:i])
        elif name == _MAX_TOKENS:
            facts.traits |= _HAS_MAX_TOKENS
        elif name == _NONE:
            facts.traits |= _trait_of_key(p, key, key_end, value, i)
        i = _skip_space(p, i, end)
        if i >= end:
            return None
        if p[i] == 0x7D:
            return facts if _skip_space(p, i + 1, end) == end else None
        if p[i] != 0x2C:
            return None
        i = _skip_space(p, i + 1, end)


def replace_model(body: bytes, facts: BodyFacts, model: str) -> bytes:
    """Return ``body`` with another model name; every other byte stays as it was.

    ``facts`` must come from this body. A body without a model, or with this one, is returned as it is.
    """
    parts = replaced_parts(body, facts, model)
    return body if len(parts) == 1 else b"".join(parts)


def replaced_parts(body: bytes, facts: BodyFacts, model: str) -> list[bytes | memoryview]:
    """As `replace_model`, without a copy of a large body: the parts to be written one after the other."""
    if facts is None:  # compiled, its fields would be read from nowhere
        raise TypeError("no facts")
    start = facts.model_start
    end = facts.model_end
    if start < 0 or facts.model == model:
        return [body]
    if end > len(body) or end - start < 2 or body[start : start + 1] != b'"' or body[end - 1 : end] != b'"':
        raise ValueError("these facts are of another body")
    view = memoryview(body)
    return [view[:start], orjson.dumps(model), view[end:]]


def answer_problem(body: bytes) -> str | None:
    """Say why a whole answer of a 200 is none, or None when it can be given to the caller.

    ``"empty"``: nothing in it, no choices; ``"not_json"``: cut or garbage; ``"error_in_200"``: an
    error object where the answer should be; ``"broken_off"``: the provider says it did not finish.
    Only for answers that are meant to be JSON.
    """
    p = body
    end = len(body)
    i = _skip_space(p, 0, end)
    if i >= end:
        return "empty"
    if p[i] == 0x5B:
        i, marks = _skip_nested(p, i, end)
        return None if i >= 0 and _skip_space(p, i, end) == end else "not_json"
    if p[i] != 0x7B:
        return "not_json"
    has_answer = False
    has_error = False
    has_no_choices = False
    has_failed = False
    may_be_broken_off = False
    i = _skip_space(p, i + 1, end)
    if i < end and p[i] == 0x7D:
        return "empty" if _skip_space(p, i + 1, end) == end else "not_json"
    while True:
        if i >= end or p[i] != 0x22:
            return "not_json"
        key = i + 1
        i = _skip_string(p, key, end)
        if i < 0:
            return "not_json"
        name = _name_of(p, key, i - 1)
        value = _skip_colon(p, i, end)
        if value < 0:
            return "not_json"
        if p[value] == 0x5B:
            i, marks = _skip_nested(p, value, end)
            may_be_broken_off |= marks & _IS_BROKEN_OFF != 0
        else:
            i = _skip_value(p, value, end)
        if i < 0:
            return "not_json"
        if name == _CHOICES or name == _OUTPUT:
            if not _is_nothing(p, value, i):
                has_answer = True
            elif name == _CHOICES:
                has_no_choices = True
        elif name == _ERROR:
            has_error = has_error or not _is_nothing(p, value, i)
        elif name == _OBJECT:
            has_error = has_error or (i - value == 7 and byte_search.is_word(p, value, b'"error"', 7))
        elif name == _STATUS:  # of the Responses API
            has_failed = (i - value == 8 and byte_search.is_word(p, value, b'"failed"', 8)) or (
                i - value == 11 and byte_search.is_word(p, value, b'"cancelled"', 11)
            )
        i = _skip_space(p, i, end)
        if i >= end:
            return "not_json"
        if p[i] == 0x7D:
            break
        if p[i] != 0x2C:
            return "not_json"
        i = _skip_space(p, i + 1, end)
    if _skip_space(p, i + 1, end) != end:
        return "not_json"
    if has_answer:
        if has_failed or (may_be_broken_off and is_broken_off(_parse(body))):
            return "broken_off"
        return None
    if has_error or has_failed:
        return "error_in_200"
    return "empty" if has_no_choices else None


def is_broken_off(answer: Any) -> bool:
    """Did the provider end this answer, or this chunk of one, for lack of resources? Parsed JSON."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == BROKEN_OFF for choice in choices
    )


# --- Names and small values ---------------------------------------------------------------------

_NONE = 0
_MODEL = 1
_STREAM = 2
_STREAM_OPTIONS = 3
_ERROR = 4
_CHOICES = 5
_OUTPUT = 6  # output or data: what the other endpoints call their answer
_OBJECT = 7
_MESSAGES = 8
_TOOLS = 9
_MAX_TOKENS = 10
_PLAIN = 11  # one that every provider knows
_STATUS = 12

# The traits as C integers.
_HAS_MESSAGES = int(Trait.MESSAGES)
_HAS_MAX_TOKENS = int(Trait.MAX_TOKENS)
_HAS_THINKING = int(Trait.THINKING)
_HAS_REASONING_EFFORT = int(Trait.REASONING_EFFORT)
_HAS_RESPONSE_FORMAT = int(Trait.RESPONSE_FORMAT)
_HAS_TOOLS = int(Trait.TOOLS)
_HAS_TOOL_CHOICE = int(Trait.TOOL_CHOICE)
_HAS_LOGPROBS = int(Trait.LOGPROBS)
_HAS_USER_ID = int(Trait.USER_ID)
_HAS_STREAM_OPTIONS = int(Trait.STREAM_OPTIONS)
_HAS_FOREIGN = int(Trait.FOREIGN)
_HAS_DEVELOPER = int(Trait.DEVELOPER)
_HAS_REASONING_CONTENT = int(Trait.REASONING_CONTENT)
_HAS_TOOL_CALLS = int(Trait.TOOL_CALLS)
_HAS_IMAGE = int(Trait.IMAGE)
_HAS_AUDIO = int(Trait.AUDIO)
_HAS_FILE = int(Trait.FILE)
_HAS_FUNCTION_CALL = int(Trait.FUNCTION_CALL)
_HAS_PREFIX = int(Trait.PREFIX)
_HAS_STRICT = int(Trait.STRICT)
_HAS_CUSTOM = int(Trait.CUSTOM)
_ALL_TRAITS = int(EVERY_TRAIT)
_IS_BROKEN_OFF = 1 << 30  # beside the traits, of answers
# A bit for each length that a word of `_mark_of` has.
_MARK_SIZES = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 17 | 1 << 28


def _name_of(p: bytes, start: int, end: int) -> int:
    """Which key that matters is this one? Quotes excluded."""
    size = end - start
    if size == 5:
        if byte_search.is_word(p, start, b"model", 5):
            return _MODEL
        if byte_search.is_word(p, start, b"error", 5):
            return _ERROR
        if byte_search.is_word(p, start, b"tools", 5):
            return _TOOLS
        if _is_model(p, start):
            return _MODEL
    elif size == 8:
        if byte_search.is_word(p, start, b"messages", 8):
            return _MESSAGES
    elif size == 6:
        if byte_search.is_word(p, start, b"stream", 6):
            return _STREAM
        if byte_search.is_word(p, start, b"object", 6):
            return _OBJECT
        if byte_search.is_word(p, start, b"output", 6):
            return _OUTPUT
        if byte_search.is_word(p, start, b"status", 6):
            return _STATUS
    elif size == 7:
        if byte_search.is_word(p, start, b"choices", 7):
            return _CHOICES
    elif size == 4:
        if byte_search.is_word(p, start, b"data", 4):
            return _OUTPUT
    elif size == 10:
        if byte_search.is_word(p, start, b"max_tokens", 10):
            return _MAX_TOKENS
    elif size == 11:
        if byte_search.is_word(p, start, b"temperature", 11):
            return _PLAIN
    elif size == 14:
        if byte_search.is_word(p, start, b"stream_options", 14):
            return _STREAM_OPTIONS
    # An escaped letter must not hide a key from us that the provider will see. The shortest name
    # with one has nine bytes; the longest form of a name is six bytes a letter.
    if 9 <= size <= 84 and byte_search.find(p, 0x5C, start, end) >= 0:
        return _escaped_name_of(p, start, end)
    return _NONE


def _is_model(p: bytes, i: int) -> bool:
    """Are the five bytes at ``i`` "model", in whatever case?"""
    return (
        p[i] | 0x20 == 0x6D
        and p[i + 1] | 0x20 == 0x6F
        and p[i + 2] | 0x20 == 0x64
        and p[i + 3] | 0x20 == 0x65
        and p[i + 4] | 0x20 == 0x6C
    )


def _escaped_name_of(p: bytes, start: int, end: int) -> int:
    name = _string_of(p, start - 1, end + 1)
    if name is not None and "\\" not in name and name.isascii():
        return _name_of(name.encode(), 0, len(name))
    return _NONE


def _trait_of_key(p: bytes, start: int, end: int, value: int, value_end: int) -> int:
    """Which trait is a key of the top level that `_name_of` does not know? Quotes excluded."""
    size = end - start
    if size == 11:
        if byte_search.is_word(p, start, b"tool_choice", 11):
            is_plain = value_end - value == 6 and (
                byte_search.is_word(p, value, b'"auto"', 6) or byte_search.is_word(p, value, b'"none"', 6)
            )
            return 0 if is_plain else _HAS_TOOL_CHOICE
    elif size == 5:
        if byte_search.is_word(p, start, b"top_p", 5):
            return 0
    elif size == 4:
        if byte_search.is_word(p, start, b"stop", 4):
            return 0
    elif size == 16:
        if byte_search.is_word(p, start, b"presence_penalty", 16):
            return 0
        if byte_search.is_word(p, start, b"reasoning_effort", 16):
            return _HAS_REASONING_EFFORT
    elif size == 17:
        if byte_search.is_word(p, start, b"frequency_penalty", 17):
            return 0
    elif size == 8:
        if byte_search.is_word(p, start, b"thinking", 8):
            return _HAS_THINKING
        if byte_search.is_word(p, start, b"logprobs", 8):
            return _HAS_LOGPROBS
    elif size == 15:
        if byte_search.is_word(p, start, b"response_format", 15):
            return _HAS_RESPONSE_FORMAT
    elif size == 12:
        if byte_search.is_word(p, start, b"top_logprobs", 12):
            return _HAS_LOGPROBS
    elif size == 7 and byte_search.is_word(p, start, b"user_id", 7):
        return _HAS_USER_ID
    # Written with escapes it may be any of them.
    return _ALL_TRAITS if byte_search.find(p, 0x5C, start, end) >= 0 else _HAS_FOREIGN


def _mark_of(p: bytes, start: int, size: int) -> int:
    """Which trait, or `_IS_BROKEN_OFF`, is a string inside an array? Quotes excluded."""
    if size == 4:
        if byte_search.is_word(p, start, b"file", 4):
            return _HAS_FILE
    elif size == 6:
        if byte_search.is_word(p, start, b"prefix", 6):
            return _HAS_PREFIX
        if byte_search.is_word(p, start, b"strict", 6):
            return _HAS_STRICT
        if byte_search.is_word(p, start, b"custom", 6):
            return _HAS_CUSTOM
    elif size == 8:
        if byte_search.is_word(p, start, b"function", 8) and _is_role(p, start - 2):
            return _HAS_FUNCTION_CALL
    elif size == 9:
        if byte_search.is_word(p, start, b"developer", 9):
            return _HAS_DEVELOPER
        if byte_search.is_word(p, start, b"image_url", 9):
            return _HAS_IMAGE
    elif size == 10:
        if byte_search.is_word(p, start, b"tool_calls", 10):
            return _HAS_TOOL_CALLS
        if byte_search.is_word(p, start, b"input_file", 10):
            return _HAS_FILE
    elif size == 11:
        if byte_search.is_word(p, start, b"input_audio", 11):
            return _HAS_AUDIO
        if byte_search.is_word(p, start, b"input_image", 11):
            return _HAS_IMAGE
    elif size == 5:
        if byte_search.is_word(p, start, b"audio", 5):
            return _HAS_AUDIO
    elif size == 17:
        if byte_search.is_word(p, start, b"reasoning_content", 17):
            return _HAS_REASONING_CONTENT
    elif size == 13:
        if byte_search.is_word(p, start, b"function_call", 13):
            return _HAS_FUNCTION_CALL
    elif size == 28:
        if byte_search.is_word(p, start, b"insufficient_system_resource", 28):
            return _IS_BROKEN_OFF
    return 0


def _is_role(p: bytes, i: int) -> bool:
    """Is the string whose opening quote is behind ``i`` the value of a "role"? It is in an array."""
    while p[i] <= 0x20:  # the array's bracket ends this at the latest
        i -= 1
    if p[i] != 0x3A:
        return False
    i -= 1
    while p[i] <= 0x20:
        i -= 1
    return i >= 5 and byte_search.is_word(p, i - 5, b'"role"', 6)


def _parse(text: bytes) -> Any:
    """Return the parsed JSON; None when it is not valid."""
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _string_of(p: bytes, start: int, end: int) -> str | None:
    """Return the value of a JSON string, quotes included; None when it is not valid text."""
    for k in range(start + 1, end - 1):
        if p[k] < 0x20 or p[k] > 0x7E or p[k] == 0x5C:
            value = _parse(p[start:end])
            return value if isinstance(value, str) else None
    return p[start + 1 : end - 1].decode("ascii")


def _read_stream_options(facts: BodyFacts, text: bytes) -> None:
    if len(text) > 1024:  # it has two members; more than this is not worth a parse
        facts.include_usage = False
        facts.traits |= _HAS_STREAM_OPTIONS
        return
    options = _parse(text)
    facts.include_usage = isinstance(options, dict) and options.get("include_usage") is True
    if not facts.include_usage or len(options) > 1:
        facts.traits |= _HAS_STREAM_OPTIONS


def _is_nothing(p: bytes, start: int, end: int) -> bool:
    """Is the value null, false, zero, or an empty string, array or object?"""
    if p[start] == 0x6E or p[start] == 0x66:
        return True
    if end - start == 1:
        return p[start] == 0x30
    # The brackets match; is there anything between them?
    return (p[start] == 0x22 and end - start == 2) or (
        (p[start] == 0x5B or p[start] == 0x7B) and _skip_space(p, start + 1, end) == end - 1
    )


# --- Stepping over values -----------------------------------------------------------------------
# `p` is the buffer (a C pointer when compiled), `i` where to begin, `end` where the buffer ends.
# Each returns the offset after what it stepped over, or -1.


def _skip_space(p: bytes, i: int, end: int) -> int:
    while i < end and p[i] <= 0x20 and (p[i] == 0x20 or p[i] == 0x0A or p[i] == 0x0D or p[i] == 0x09):
        i += 1
    return i


def _skip_colon(p: bytes, i: int, end: int) -> int:
    """Return where the value after the key begins; there is at least one byte of it."""
    i = _skip_space(p, i, end)
    if i >= end or p[i] != 0x3A:
        return -1
    i = _skip_space(p, i + 1, end)
    return i if i < end else -1


def _skip_string(p: bytes, i: int, end: int) -> int:
    """``i`` is after the opening quote. The first quote that is not escaped ends the string."""
    i = byte_search.find(p, 0x22, i, end)
    if i < 0 or p[i - 1] != 0x5C:
        return i + 1 if i >= 0 else -1
    return _skip_escaped_string(p, i, end)


def _skip_escaped_string(p: bytes, i: int, end: int) -> int:
    """As `_skip_string`, best where there are many quotes."""
    while i < end:
        quotes = byte_search.quotes(p, i, end)
        if not quotes:
            i = byte_search.find(p, 0x22, i, end)
            if i < 0:
                return -1
            continue
        while quotes and not _all_escaped(p, i, end, quotes):
            quote = i + byte_search.lowest(quotes)
            if p[quote - 1] != 0x5C or not _is_escaped(p, quote):
                return quote + 1
            quotes &= quotes - 1
        i += 64
    return -1


def _all_escaped(p: bytes, i: int, end: int, quotes: int) -> bool:
    """Is there one backslash before each of these quotes? Says no where it takes a longer look to tell.

    ``i`` is in a string, so there are two bytes before it.
    """
    before = byte_search.backslashes(p, i - 1, end)
    return quotes & ~before == 0 and quotes & (before << 1 | (p[i - 2] == 0x5C)) == 0


def _is_escaped(p: bytes, i: int) -> bool:
    """Is the byte at ``i`` escaped? It is in a string, so the backslashes end at a quote at the latest."""
    k = i
    while p[k - 1] == 0x5C:
        k -= 1
    return (i - k) & 1 == 1


def _skip_value(p: bytes, i: int, end: int) -> int:
    """There is at least one byte at ``i``."""
    c = p[i]
    if c == 0x22:
        return _skip_string(p, i + 1, end)
    if c == 0x7B or c == 0x5B:
        i, _ = _skip_nested(p, i, end)
        return i
    if c == 0x74 or c == 0x66 or c == 0x6E or c == 0x2D or 0x30 <= c <= 0x39:
        while i < end and (0x30 <= p[i] <= 0x39 or not _ends_word(p[i])):
            i += 1
        return i
    return -1


def _ends_word(c: int) -> bool:
    """Does this byte end a number, true, false or null?"""
    return c <= 0x20 or c == 0x2C or c == 0x7D or c == 0x5D


def _skip_nested(p: bytes, i: int, end: int) -> tuple[int, int]:
    """``i`` is at an opening bracket. Each closing one must match, in at most `_MAX_DEPTH` levels.

    Also returns what `_mark_of` says of the strings in it.
    """
    shape = 1  # a bit, and one for each open bracket, the innermost lowest: is it a curly one?
    text = 0  # where the string begins in which we are; 0 is outside of strings
    found = 0
    while i < end:
        marks = byte_search.quotes(p, i, end)
        if text:
            if not marks:
                i = byte_search.find(p, 0x22, i, end)
                if i < 0:
                    return -1, 0
                continue
            if _all_escaped(p, i, end, marks):
                i += 64
                continue
        marks |= byte_search.brackets(p, i, end)
        while marks:
            at = i + byte_search.lowest(marks)
            marks &= marks - 1
            c = p[at]
            if text:
                if c == 0x22 and (p[at - 1] != 0x5C or not _is_escaped(p, at)):
                    size = at - text
                    # Of four letters, which most keys and values have, only "file" counts.
                    if size <= 28 and _MARK_SIZES >> size & 1 and (size != 4 or p[text] == 0x66):
                        found |= _mark_of(p, text, size)
                    text = 0
            elif c == 0x22:
                text = at + 1
            elif c == 0x7B or c == 0x5B:
                if shape >> (_MAX_DEPTH - 1):  # the top level is one, too
                    return -1, 0
                shape = (shape << 1) | (c == 0x7B)
            else:
                if (shape & 1) != (c == 0x7D):
                    return -1, 0
                shape >>= 1
                if shape == 1:
                    return at + 1, found
        i += 64
    return -1, 0
