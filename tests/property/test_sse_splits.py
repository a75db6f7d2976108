"""Any split of any stream gives the same events; the fast reader agrees with a full parse."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from interpreted import interpreted

from fastgw.llm import sse

PURE = interpreted(sse)

# --- Streams ------------------------------------------------------------------------------------

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "model error usage delta choices type object response id index text message finish_reason content",
    "refusal reasoning reasoning_content reasoning_details tool_calls function_call audio role logprobs",
]
KEYS = st.sampled_from(" ".join(NAMES).split()) | st.text(max_size=3)
STRINGS = st.sampled_from(
    ["", "Hi", "error", "stop", "insufficient_system_resource", '"error":', "\\", "response.created", "é"]
    + [name.decode() for name in sse.DELTA_TYPES]
    + list(sse.TYPES)
)
LEAVES: st.SearchStrategy[Any] = STRINGS | st.none() | VALUES | st.just({}) | st.just([]) | st.just([{}])


@st.composite
def pair_texts(draw: st.DrawFn, pairs: list[tuple[str, str]]) -> str:
    """JSON text of an object, in which a key may be there twice or escaped."""
    colon, comma = draw(st.sampled_from([(":", ","), (": ", ", "), (" :\t", " , ")]))
    texts = []
    for key, value in pairs:
        name = json.dumps(key, ensure_ascii=draw(st.booleans()))
        if key and draw(st.integers(0, 30)) == 0:
            name = f'"\\u{ord(key[0]):04x}{name[2:]}' if key[0] in "abcdefghijklmnopqrstuvwxyz" else name
        texts.append(name + colon + value)
    return "{" + comma.join(texts) + "}"


@st.composite
def json_texts(draw: st.DrawFn, values: st.SearchStrategy[Any] = LEAVES) -> str:
    return json.dumps(
        draw(values),
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
    )


def objects(*members: tuple[str, st.SearchStrategy[str]]) -> st.SearchStrategy[str]:
    """Objects with some of these members, and perhaps any other."""
    named = [st.tuples(st.just(name), values) for name, values in members]
    return st.lists(st.one_of(*named, st.tuples(KEYS, json_texts())), max_size=5).flatmap(pair_texts)


DELTAS = objects(
    ("content", json_texts()),
    ("reasoning_content", json_texts()),
    ("tool_calls", json_texts(LEAVES | st.just([{"index": 0}]))),
    ("role", json_texts()),
)
CHOICES = objects(("delta", DELTAS | json_texts()), ("finish_reason", json_texts()), ("index", st.just("0")))
ODD_EVENTS = objects(
    ("choices", st.lists(CHOICES, max_size=2).map(lambda items: "[" + ",".join(items) + "]")),
    ("usage", json_texts()),
    ("type", json_texts(STRINGS)),
    ("delta", json_texts(STRINGS)),
    ("model", json_texts(STRINGS)),
    ("error", json_texts()),
)

# What providers do send.
TEXTS = st.none() | st.text(max_size=8) | STRINGS
USUAL_DELTAS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "role": st.just("assistant"),
        "content": TEXTS,
        "refusal": TEXTS,
        "reasoning_content": TEXTS,
        "reasoning": TEXTS,
        "tool_calls": st.sampled_from([None, [], [{}], [{"index": 0, "function": {"arguments": '{"a'}}]]),
    },
)
USUAL_CHOICES = st.fixed_dictionaries(
    {"index": st.integers(0, 3)},
    optional={
        "delta": USUAL_DELTAS,
        "text": TEXTS,
        "finish_reason": st.sampled_from([None, "stop", "tool_calls", ""]),
        "logprobs": VALUES,
    },
)
USUAL_EVENTS = json_texts(
    st.fixed_dictionaries(
        {"choices": st.lists(USUAL_CHOICES, max_size=2)},
        optional={
            "id": st.text(max_size=5),
            "object": st.sampled_from(["chat.completion.chunk", "text_completion"]),
            "model": TEXTS,
            "usage": st.sampled_from([None, {}, {"total_tokens": 3}]),
            "error": st.none(),
            "other": VALUES,
        },
    )
    | st.fixed_dictionaries(
        {"type": st.sampled_from([name.decode() for name in sse.DELTA_TYPES]), "delta": st.text(max_size=5)},
        optional={"item_id": st.text(max_size=3), "logprobs": VALUES},
    )
)
EVENTS = USUAL_EVENTS | ODD_EVENTS


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An event's JSON with one thing in it changed."""
    text = draw(EVENTS).encode()
    at = draw(st.integers(0, len(text)))
    cut = draw(st.integers(0, 2))
    return (
        text[:at]
        + draw(st.binary(max_size=2) | st.sampled_from([b'"', b"}", b"]", b",", b"\\"]))
        + text[at + cut :]
    )


LINE_ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])
LINES = st.one_of(
    EVENTS.map(lambda text: b"data: " + text.encode()),
    EVENTS.map(lambda text: b"data:" + text.encode()),
    st.sampled_from(
        (
            *(b"", b"", b"", b":", b": ka", b"data: [DONE]", b"event: error", b"event: x", b"id: 1"),
            *(b"data", b"data: {", b"data:}", b"\xef\xbb\xbf", b"event", b"retry: 5", b"data: x"),
        )
    ),
    st.binary(max_size=8),
)
STREAMS = st.lists(st.builds(bytes.__add__, LINES, LINE_ENDS), max_size=12).map(b"".join)
GARBAGE = st.lists(
    st.sampled_from([b"d", b"data:", b"{", b"}", b'"', b"\r", b"\n", b":", b" ", b"\xef"])
).map(b"".join) | st.binary(max_size=60)
LIMITS = st.sampled_from([1 << 20, 1 << 20, 40, 5])


def kinds_of(data: bytes) -> int:
    """The kinds of one event by a full parse: the reference."""
    if data.startswith(b"[DONE]"):
        return int(sse.EventKind.DONE)
    try:
        return int(PURE.read_event(PURE._load(data)))
    except ValueError:
        return int(sse.EventKind.MALFORMED)


def reference(stream: bytes, limit: int) -> list[tuple[int, int]]:
    """(kinds, offset after it) of everything in a stream, read whole and line by line."""
    found: list[tuple[int, int]] = []
    lines: list[bytes] = []
    in_event, name, size = False, b"", 0
    kind = sse.EventKind
    i = 0
    while True:
        ends = [at for at in (stream.find(b"\n", i), stream.find(b"\r", i)) if at >= 0]
        if not ends:
            return found
        end = min(ends)
        after = end + (2 if stream[end : end + 2] == b"\r\n" else 1)
        raw = line = stream[i:end]
        if i == 0 and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        i = after
        if line.startswith(b":"):
            found.append((int(kind.COMMENT), after))
        elif line:
            in_event = True
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                size += len(raw)
                lines.append(value)
            elif field == b"event":
                name = value
        elif not in_event:
            found.append((int(kind.BLANK), after))
        else:
            is_error = name == b"error"
            if size > limit:
                kinds = int(kind.OTHER | kind.ERROR if is_error else kind.OTHER | kind.CONTENT)
            elif not lines:
                kinds = int(kind.ERROR if is_error else kind.LIFECYCLE)
            elif is_error:
                data = b"\n".join(lines)
                try:
                    kinds = int(PURE.read_event(PURE._load(data))) | int(kind.ERROR)
                except ValueError:
                    kinds = int(kind.ERROR)
            else:
                kinds = kinds_of(b"\n".join(lines))
            found.append((kinds, after))
            lines, in_event, name, size = [], False, b"", 0


def step_through(scanner: Any, stream: bytes, cuts: list[int]) -> list[tuple[int, int]]:
    """(kinds, offset after it) as the scanner sees them when fed in pieces."""
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        # Each piece is a buffer of its own, with something around it that is none of its business.
        data = b'}"\n' + stream[start:end] + b'\n\n"'
        i, stop = 3, 3 + end - start
        while True:
            i = scanner.feed_event(data, i, stop)
            if not scanner.kind:
                assert i == stop
                break
            found.append((scanner.kind, start + i - 3))
    return found


def facts(scanner: Any) -> tuple[Any, ...]:
    return (
        scanner.seen,
        scanner.error_data,
        scanner.usage_data,
        scanner.model,
        scanner.is_at_boundary,
        scanner.feed_eof(),
        scanner.seen,
        scanner.error_data,
    )


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    stream = draw(STREAMS | GARBAGE)
    if draw(st.integers(0, 5)) == 0:
        return stream, list(range(len(stream) + 1))
    return stream, sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))


@given(cut_streams(), LIMITS)
@example((b"data: {}\r\n\r\n\r\n", [9, 11]), 1 << 20)
@example((b"\xef\xbb\xbfdata: {}\n\n", [1, 2]), 1 << 20)
def test_any_split_gives_the_same_events(cut: tuple[bytes, list[int]], limit: int) -> None:
    stream, cuts = cut
    whole, split, pure = sse.EventScanner(limit), sse.EventScanner(limit), PURE.EventScanner(limit)
    # A line end cut between CR and LF is complete with its CR: the LF is nobody's event.
    inside = {c for c in cuts if stream[c - 1 : c + 1] == b"\r\n"}
    expected = reference(stream, limit)
    assert step_through(whole, stream, []) == expected
    expected_split = [(kinds, end - 1 if end - 1 in inside else end) for kinds, end in expected]
    assert step_through(split, stream, cuts) == expected_split
    assert step_through(pure, stream, cuts) == expected_split
    assert facts(whole) == facts(split) == facts(pure)


@given(cut_streams())
def test_boundary_depends_on_what_came_and_not_on_how(cut: tuple[bytes, list[int]]) -> None:
    stream, cuts = cut
    scanner = sse.EventScanner()
    boundary = 0
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        scanner.feed(stream, start, end)
        if scanner.boundary >= 0:
            assert start <= scanner.boundary <= end
            boundary = scanner.boundary
        fresh = sse.EventScanner()
        fresh.feed(stream, 0, end)
        assert boundary == max(fresh.boundary, 0)
        assert scanner.is_at_boundary == fresh.is_at_boundary
        assert scanner.seen == fresh.seen
        if scanner.is_at_boundary:
            assert boundary == end


@given(EVENTS.map(str.encode) | damaged())
def test_fast_reader_agrees_with_a_full_parse(data: bytes) -> None:
    if b"\n" in data or b"\r" in data:
        return
    stream = b": first\ndata: " + data + b"\n\n"
    for module in (sse, PURE):
        scanner = module.EventScanner()
        scanner.feed(stream, 0, 8)
        assert scanner.feed(stream, 8, len(stream)) == kinds_of(data)


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5), st.booleans())
def test_every_text_is_content_and_nothing_else(texts: list[str], ascii_only: bool) -> None:
    scanner = sse.EventScanner()
    for text in texts:
        chunk = {"id": text, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        data = f"data: {json.dumps(chunk, ensure_ascii=ascii_only)}\n\n".encode()
        assert scanner.feed(data, 0, len(data)) == sse.EventKind.CONTENT
        assert scanner.boundary == len(data)


# --- Streams of events that are alike -----------------------------------------------------------


class Walking(PURE.EventScanner):  # type: ignore[name-defined, misc]
    """A scanner that walks each event, however much it is like the one before."""

    def _match_known(self, p: bytes, i: int, end: int) -> int:
        return -1


OPENAI = (
    '{"id":"chatcmpl-7","object":"chat.completion.chunk","created":1795000000,"model":"gpt-5.2",'
    '"service_tier":"default","system_fingerprint":null,"choices":[{"index":0,"delta":{%s},'
    '"logprobs":null,"finish_reason":null}],"usage":null%s}'
)
DEEPSEEK = (
    '{"id": "9f", "object": "chat.completion.chunk", "model": "deepseek-reasoner", '
    '"choices": [{"index": 0, "delta": {%s}, "finish_reason": null}]%s}'
)
OLD = '{"choices":[{%s,"index":0,"finish_reason":null}],"model":"m"%s}'
RARE_USAGE = '{"choices":[{"delta":{%s}}],"usage":{"total_tokens":3}%s}'
RARE_FINISH = '{"choices":[{"delta":{%s},"finish_reason":"stop"}]%s}'
TWO_CHOICES = '{"choices":[{"delta":{"content":"x"}},{"delta":{%s}}]%s}'
SHAPES = st.sampled_from([OPENAI, DEEPSEEK])
RARE_SHAPES = st.sampled_from([OLD, RARE_USAGE, RARE_FINISH, TWO_CHOICES])
DELTA_SHAPES = st.sampled_from(
    [
        '"content":%s',
        '"content":null,"reasoning_content":%s',
        '"content":%s,"reasoning_content":null',
        '"content":"","reasoning":%s',
        '"role":"assistant","content":"x","refusal":%s',
        '"reasoning_content":%s,"content":"x"',
        '"tool_calls":[{"index":0,"function":{"arguments":%s}}]',
        '"tool_calls":[{"type":%s,"index":0}],"content":"x"',
        '"tool_calls":[{"id":"x","function":{"arguments":%s }\t} ],"role":"x"',
        '"text":%s',
    ]
)
FILLERS = st.sampled_from(
    [
        "",
        *(',"obfuscation":%s', ',"obfuscation":%s', ', "p": %s, "q": "abc"', ',"object":%s', ',"error":%s'),
        *(
            ',"x":{"a":"b"},"obfuscation":%s',
            ',"model":%s',
            ',"delta":%s',
            ',"response":%s',
            ',"p":"x","usage":null,"q":%s',
            ',"usage":%s',
        ),
    ]
)
SHORT_TEXTS = st.one_of(
    st.text(min_size=1, max_size=5),
    st.text(min_size=1, max_size=5),
    st.text('a"\\', min_size=1, max_size=5),
    st.text("ab\n", min_size=20, max_size=100),
    STRINGS,
)
BLANK_LINES = st.sampled_from(
    [b"\n\n", b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\n"]
)
BETWEEN = st.sampled_from(
    [b": keep-alive\n\n", b"event: x\n", b"event: error\n", b"id: 1\n", b"\n", b"data: 1\n"]
)


@st.composite
def alike_events(draw: st.DrawFn, shapes: st.SearchStrategy[str]) -> list[bytes]:
    """Events of one shape, most of them; and now and then something else, or damage."""
    shape, delta, filler = draw(shapes), draw(DELTA_SHAPES), draw(FILLERS)
    usual = json.dumps(draw(SHORT_TEXTS))
    start, blank = draw(st.sampled_from([b"data: ", b"data:", b"data:  "])), draw(BLANK_LINES)
    ascii_only = draw(st.booleans())
    pieces = []
    for text in draw(st.lists(SHORT_TEXTS, min_size=3, max_size=8)):
        value = json.dumps(text, ensure_ascii=ascii_only)
        spare = usual if draw(st.booleans()) else json.dumps(draw(SHORT_TEXTS), ensure_ascii=ascii_only)
        json_text = shape % (delta % value, filler % spare if filler else "")
        event = start + json_text.encode("utf-8", "surrogatepass") + blank
        damage = draw(st.integers(0, 15))
        if damage == 14:
            at = draw(st.integers(0, len(event)))
            extra = draw(
                st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"}", b"\xed\xa0\x80", b"\x01"])
            )
            event = event[:at] + extra + event[at + draw(st.integers(0, 2)) :]
        elif damage == 15:
            pieces.append(draw(BETWEEN))
        pieces.append(event)
    return pieces


ALIKE = st.lists(alike_events(SHAPES) | alike_events(RARE_SHAPES), min_size=1, max_size=3).map(
    lambda groups: [piece for group in groups for piece in group]
)


def each_event(scanner: Any, stream: bytes, cuts: list[int]) -> list[tuple[Any, ...]]:
    """All that the scanner tells, after each event and at the end of each piece."""
    told = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        i = start
        while True:
            i = scanner.feed_event(stream, i, end)
            at = (i, scanner.kind, scanner.boundary, scanner.is_at_boundary, repr(scanner))
            told.append((*at, scanner.seen, scanner.model, scanner.usage_data, scanner.error_data))
            if not scanner.kind:
                assert i == end
                break
    return told


@given(ALIKE, st.data(), st.sampled_from([1 << 20, 1 << 20, 1 << 20, 230, 150]))
def test_events_alike_are_what_a_walk_says(pieces: list[bytes], data: st.DataObject, limit: int) -> None:
    stream = b"".join(pieces)
    between = [0]
    for piece in pieces:
        between.append(between[-1] + len(piece))
    anywhere = st.sampled_from(between) if data.draw(st.booleans()) else st.integers(0, len(stream))
    cuts = sorted(data.draw(st.lists(anywhere, max_size=4)))
    expected = each_event(Walking(limit), stream, cuts)
    assert each_event(sse.EventScanner(limit), stream, cuts) == expected
    assert each_event(PURE.EventScanner(limit), stream, cuts) == expected


ALIKE_DELTAS = ['"content":%s', '"content":null,"reasoning_content":%s', '"tool_calls":[{"index":0,"f":%s}]']


@pytest.mark.parametrize("shape", [OPENAI, DEEPSEEK, OLD.replace("%s", '"delta":{%s}', 1)])
@pytest.mark.parametrize("delta", ALIKE_DELTAS)
@pytest.mark.parametrize("filler", ["", ',"obfuscation":%s'])
@pytest.mark.parametrize("blank", ["\n\n", "\r\n\r\n"])
def test_events_alike_are_walked_once(shape: str, delta: str, filler: str, blank: str) -> None:
    scanner = PURE.EventScanner()
    scanner.feed(b": first\n", 0, 8)
    kinds = set()
    for text in [" a", "\u4f60\u597d", 'quoted "\\', "x" * 100, "."]:
        value = json.dumps(text)
        spare = json.dumps("x" * (len(text) % 16))
        body = shape % (delta % value, filler % spare if filler else "")
        event = f"data: {body}{blank}".encode()
        kinds.add(scanner.feed(event, 0, len(event)))
        scanner._walk = None  # the second one would fail
    assert len(kinds) == 1
