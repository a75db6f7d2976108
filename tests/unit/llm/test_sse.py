"""What each kind of event is taken for, and where a stream may be added to."""

import json

import pytest

from fastgw.llm.sse import DELTA_TYPES, PROGRESS, EventKind, EventScanner

HEAD = '"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5"'


def chunk(delta: str, finish: str = "null", more: str = ',"usage":null,"obfuscation":"x7"') -> bytes:
    choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}'
    return f'data: {{{HEAD},"choices":[{choice}]{more}}}\n\n'.encode()


def event(value: object, **options: object) -> bytes:
    return b"data: " + json.dumps(value, **options).encode() + b"\n\n"  # type: ignore[arg-type]


def kinds(*pieces: bytes) -> EventKind:
    scanner = EventScanner()
    total = 0
    for piece in pieces:
        total |= scanner.feed(piece, 0, len(piece))
    assert scanner.seen == total
    return EventKind(total)


K = EventKind

CHAT = {
    "content": (chunk('{"content":"Hi"}'), K.CONTENT),
    "content of one escaped quote": (chunk(r'{"content":"\""}'), K.CONTENT),
    "content in Chinese": (chunk('{"content":"你好"}'), K.CONTENT),
    "first chunk": (chunk('{"role":"assistant","content":"","refusal":null}'), K.ROLE),
    "role and content": (chunk('{"role":"assistant","content":"Hi"}'), K.CONTENT),
    "empty delta": (chunk("{}"), K.ROLE),
    "null delta": (chunk("null"), K.ROLE),
    "refusal": (chunk('{"content":null,"refusal":"No."}'), K.CONTENT),
    "reasoning of DeepSeek": (chunk('{"content":null,"reasoning_content":"Hm"}'), K.REASONING),
    "reasoning of others": (chunk('{"content":"","reasoning":"Hm"}'), K.REASONING),
    "reasoning ends, content begins": (chunk('{"content":"A","reasoning_content":null}'), K.CONTENT),
    "tool call": (chunk('{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}'), K.TOOL_CALL),
    "no tool calls": (chunk('{"content":"","tool_calls":[]}'), K.ROLE),
    "function call": (chunk('{"function_call":{"name":"f"}}'), K.TOOL_CALL),
    "audio": (chunk('{"audio":{"data":"aGk="}}'), K.CONTENT),
    "content in parts": (chunk('{"content":[{"type":"text","text":"Hi"}]}'), K.CONTENT),
    "finish": (chunk("{}", '"stop"'), K.FINISH),
    "finish with content": (chunk('{"content":"."}', '"length"'), K.FINISH | K.CONTENT),
    "empty finish_reason": (chunk('{"content":""}', '""'), K.ROLE),
    "broken off": (chunk("{}", '"insufficient_system_resource"'), K.FINISH | K.ERROR),
    "usage": (event({"model": "m", "choices": [], "usage": {"total_tokens": 3}}), K.USAGE),
    "usage with content": (
        chunk('{"content":"Hi"}', more=',"usage":{"total_tokens":3}'),
        K.USAGE | K.CONTENT,
    ),
    "no choices, no usage": (event({"choices": [], "prompt_filter_results": []}), K.ROLE),
    "old completions": (event({"choices": [{"text": "Hi", "finish_reason": None}]}), K.CONTENT),
    "several choices": (
        event({"choices": [{"delta": {}}, {"index": 1, "delta": {"content": "x"}}]}),
        K.CONTENT,
    ),
    "whole message": (event({"choices": [{"message": {"content": "Hi"}}]}), K.CONTENT),
}


@pytest.mark.parametrize("name", CHAT)
def test_chat_chunk_is_read_as(name: str) -> None:
    data, expected = CHAT[name]
    assert kinds(data) == expected


FOOLING = [
    '"error":{"message":"x"}',
    '"finish_reason":"stop"',
    '"usage":{"total_tokens":1}',
    '"tool_calls":[{"index":0}]',
    '"}],"error":{"code":1},"x":[{"y":"',
    "data: [DONE]\n\n",
    "\\",
    '\\"',
    'event: error\ndata: {"error":1}\n\n',
    "\r\n\r\n: comment\r\n",
    "[DONE]",
]


@pytest.mark.parametrize("text", FOOLING)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_text_inside_content_is_only_content(
    text: str, ascii_only: bool, separators: tuple[str, str]
) -> None:
    body = {
        "id": text,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
        "obfuscation": text,
    }
    assert kinds(event(body, ensure_ascii=ascii_only, separators=separators)) == K.CONTENT


def test_same_text_as_a_key_of_nothing_that_matters_is_ignored() -> None:
    inner = {"error": {"message": "x"}, "choices": [{"delta": {"content": "x"}}], "usage": {"a": 1}}
    assert kinds(event({"choices": [{"index": 0, "delta": {}, "error": inner}], "x": inner})) == K.ROLE


ERRORS = [
    event({"error": {"message": "x", "type": "server_error"}}),
    event({"error": "overloaded"}),
    b'event: error\ndata: {"message":"x"}\n\n',
    b"event: error\ndata: not json\n\n",
    b"event:error\n\n",
    event({"object": "error", "message": "x", "code": 400}),
    event({"type": "error", "code": "rate_limit_exceeded", "message": "x"}),
    b"event: response.failed\n" + event({"type": "response.failed", "response": {"error": {}}}),
    event({"type": "response.cancelled", "response": {}}),
    rb'data: {"\u0065rror":{"message":"x"},"choices":[]}' + b"\n\n",
    b'data: {"error":null,"choices":[],"error":{"message":"x"}}\n\n',
]


@pytest.mark.parametrize("data", ERRORS)
def test_error_is_seen(data: bytes) -> None:
    assert EventKind.ERROR in kinds(data)


@pytest.mark.parametrize("nothing", [None, False, "", {}, []])
def test_error_field_with_nothing_in_it_is_no_error(nothing: object) -> None:
    value = {"error": nothing, "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    assert kinds(event(value)) == K.CONTENT


def test_first_error_is_kept() -> None:
    scanner = EventScanner()
    stream = event({"error": {"code": "a"}}) + event({"error": {"code": "b"}})
    scanner.feed(stream, 0, len(stream))
    assert scanner.error_data == b'{"error": {"code": "a"}}'


RESPONSES = {
    "response.created": K.LIFECYCLE,
    "response.in_progress": K.LIFECYCLE,
    "response.output_item.added": K.LIFECYCLE,
    "response.content_part.added": K.LIFECYCLE,
    "response.output_text.done": K.LIFECYCLE,
    "response.something.new": K.LIFECYCLE,
    "keepalive": K.LIFECYCLE,
    "response.completed": K.FINISH,
    "response.incomplete": K.FINISH,
    "response.image_generation_call.partial_image": K.CONTENT,
    "thread.run.created": K.OTHER,
}


@pytest.mark.parametrize("name", RESPONSES)
def test_responses_event_is_read_as(name: str) -> None:
    data = f"event: {name}\n".encode() + event({"type": name, "response": {"model": "gpt-5", "usage": None}})
    assert kinds(data) == RESPONSES[name]


@pytest.mark.parametrize("name", sorted(DELTA_TYPES))
def test_delta_of_the_responses_api_is_progress_unless_empty(name: bytes) -> None:
    base = {"type": name.decode(), "item_id": "m", "output_index": 0}
    assert kinds(event(base | {"delta": "Hi"})) & PROGRESS == DELTA_TYPES[name]
    assert kinds(event(base | {"delta": ""})) == K.ROLE


def test_unknown_delta_is_content() -> None:
    assert kinds(event({"type": "response.future.delta", "delta": "x"})) == K.CONTENT
    assert kinds(event({"type": "response.future.delta", "delta": {"a": 1}})) == K.CONTENT


def test_completed_response_tells_usage_and_model() -> None:
    scanner = EventScanner()
    response = {"model": "gpt-5", "usage": {"total_tokens": 3}, "output": []}
    data = event({"type": "response.completed", "response": response})
    assert scanner.feed(data, 0, len(data)) == K.FINISH | K.USAGE
    assert scanner.usage_data == data[6:-2]
    assert scanner.model == "gpt-5"


def test_model_of_the_first_chunk_that_names_one_is_kept() -> None:
    scanner = EventScanner()
    names = [None, "", 7, "x" * 1000, "gpt-\u00e9", "other"]
    stream = b"".join(event({"model": name, "choices": []}) for name in names)
    scanner.feed(stream, 0, len(stream))
    assert scanner.model == "gpt-\u00e9"


def test_model_with_half_a_surrogate_pair_is_not_taken() -> None:
    scanner = EventScanner()
    data = rb'data: {"model":"\ud800","choices":[]}' + b"\n\n"
    assert scanner.feed(data, 0, len(data)) == K.ROLE
    assert scanner.model is None


def test_last_usage_is_kept() -> None:
    scanner = EventScanner()
    stream = b"".join(event({"choices": [], "usage": {"total_tokens": n}}) for n in (1, 2))
    stream += event({"choices": [], "usage": None})
    scanner.feed(stream, 0, len(stream))
    assert json.loads(scanner.usage_data or b"")["usage"] == {"total_tokens": 2}


MALFORMED = [
    b"data: {\n\n",
    b'data: {"choices":[{"delta":{"content":"Hi"}}]\n\n',
    b'data: {"choices":[{"delta":{"content":"Hi"}}]}}\n\n',
    b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"\xed\xa0\x80"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"\x01"}}]}\n\n',
    rb'data: {"choices":[{"delta":{"content":"\x41"}}]}' + b"\n\n",
    rb'data: {"choices":[{"delta":{"content":"\u00g0"}}]}' + b"\n\n",
    b'data: {"choices":[{"index":01,"delta":{"content":"Hi"}}]}\n\n',
    b'data: {"choices":[{"index":NaN,"delta":{"content":"Hi"}}]}\n\n',
    b'data: {"choices":[],}\n\n',
    b"data:\n\n",
    b"data\n\n",
    b"data: hello\n\n",
    b"data: " + b"[" * 100_000 + b"\n\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda d: d[:50])
def test_data_that_is_not_json_is_malformed(data: bytes) -> None:
    assert kinds(data) == K.MALFORMED


@pytest.mark.parametrize(
    "text", [rb"\ud800", rb"\u00e9\n\t\\\/\b\f\r", "é€😀".encode(), b"\x7f", b"\xf4\x8f\xbf\xbf"]
)
def test_text_that_clients_can_read_is_content(text: bytes) -> None:
    assert kinds(b'data: {"choices":[{"delta":{"content":"' + text + b'"}}]}\n\n') == K.CONTENT


def test_json_that_is_no_object_is_something_else() -> None:
    for data in (b"[]", b"1", b'"x"', b"null", b"{}", b'{"detail":"x"}', b'{"type":5}'):
        assert kinds(b"data: " + data + b"\n\n") == K.OTHER


def test_done() -> None:
    assert kinds(b"data: [DONE]\n\n") == K.DONE
    assert kinds(b"data:[DONE]\r\n\r\n") == K.DONE


def test_comments_and_blank_lines_are_told_apart() -> None:
    assert kinds(b": keep-alive\n") == K.COMMENT
    assert kinds(b": keep-alive\n\n") == K.COMMENT | K.BLANK
    assert kinds(b":\n") == K.COMMENT
    assert kinds(b"\n") == K.BLANK
    assert kinds(b"\r\n\r\n") == K.BLANK


def test_events_without_data_say_nothing() -> None:
    assert kinds(b"id: 1\nretry: 5\n\n") == K.LIFECYCLE
    assert kinds(b"event: ping\n\n") == K.LIFECYCLE
    assert kinds(b"nonsense\n\n") == K.LIFECYCLE


def test_data_in_several_lines_is_joined() -> None:
    stream = b'data: {"choices":\ndata:[{"delta":{"content":\ndata: "Hi"}}]}\n\n'
    assert kinds(stream) == K.CONTENT


def test_fields_need_their_whole_name() -> None:
    assert kinds(b'datax: {"error":1}\n\n') == K.LIFECYCLE
    assert kinds(b'data : {"error":1}\n\n') == K.LIFECYCLE
    assert kinds(b'events: error\ndata: {"choices":[]}\n\n') == K.ROLE
    assert kinds(b'event: errors\ndata: {"choices":[]}\n\n') == K.ROLE
    assert kinds(b'event: error\nevent: fine\ndata: {"choices":[]}\n\n') == K.ROLE


def test_event_name_ends_with_its_event() -> None:
    assert kinds(b"event: error\n\n" + chunk('{"content":"Hi"}')) == K.ERROR | K.CONTENT


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_is_understood(newline: bytes) -> None:
    stream = (b": hi\n" + chunk('{"content":"Hi"}') + b"event: x\n" + chunk("{}", '"stop"')).replace(
        b"\n", newline
    )
    assert kinds(stream) == K.COMMENT | K.CONTENT | K.FINISH
    assert kinds(*(bytes([b]) for b in stream)) == K.COMMENT | K.CONTENT | K.FINISH


def test_byte_order_mark_is_skipped_at_the_start_only() -> None:
    mark = b"\xef\xbb\xbf"
    assert kinds(mark + chunk('{"content":"Hi"}')) == K.CONTENT
    assert kinds(mark + b"\n") == K.BLANK
    assert kinds(b"\n" + mark + chunk('{"content":"Hi"}')) == K.BLANK | K.LIFECYCLE


def test_boundary_is_after_the_last_thing_that_is_whole() -> None:
    scanner = EventScanner()
    first, second = chunk('{"content":"a"}'), chunk('{"content":"b"}')
    data = b"xx" + first + second[:-1] + b"yy"
    assert scanner.feed(data, 2, len(data) - 2) == K.CONTENT
    assert scanner.boundary == 2 + len(first)
    assert not scanner.is_at_boundary
    assert scanner.feed(b"\n: ka", 0, 5) == K.CONTENT
    assert scanner.boundary == 1
    assert not scanner.is_at_boundary
    assert scanner.feed(b"", 0, 0) == 0
    assert scanner.boundary == -1
    assert scanner.feed(b"\n", 0, 1) == K.COMMENT
    assert scanner.boundary == 1
    assert scanner.is_at_boundary


def test_comment_inside_an_event_is_no_boundary() -> None:
    scanner = EventScanner()
    assert scanner.feed(b"event: x\n: ka\n", 0, 14) == K.COMMENT
    assert scanner.boundary == -1
    assert not scanner.is_at_boundary


def test_line_feed_of_a_split_line_end_belongs_to_the_event_before() -> None:
    scanner = EventScanner()
    assert scanner.feed(b"data: [DONE]\r\n\r", 0, 15) == K.DONE
    assert (scanner.boundary, scanner.is_at_boundary) == (15, True)
    assert scanner.feed(b"\n", 0, 1) == 0
    assert (scanner.boundary, scanner.is_at_boundary) == (1, True)
    assert scanner.feed(b"\n", 0, 1) == K.BLANK


def test_feed_event_stops_after_each_event() -> None:
    scanner = EventScanner()
    pieces = [b": ka\n", chunk('{"content":"Hi"}'), event({"error": {"code": "x"}}), b"data: {"]
    stream = b"".join(pieces)
    i, found = 0, []
    while i < len(stream):
        i = scanner.feed_event(stream, i, len(stream))
        found.append((i, EventKind(scanner.kind)))
    ends = [sum(map(len, pieces[: n + 1])) for n in range(4)]
    assert found == list(zip(ends, [K.COMMENT, K.CONTENT, K.ERROR, EventKind(0)], strict=True))


def test_event_above_the_bound_counts_as_content_and_is_not_kept() -> None:
    big = chunk('{"content":"' + "x" * 500 + '"}')
    broken = b'data: {"error":"' + b"x" * 500 + b'"}\n\n'
    many = b"data: x\n" * 80 + b"\n"
    for data in (big, broken, many):
        for step in (1, 7, 10_000):
            scanner = EventScanner(max_event_bytes=300)
            for i in range(0, len(data), step):
                scanner.feed(data, i, min(i + step, len(data)))
            assert EventKind(scanner.seen) == K.CONTENT | K.OTHER
            assert scanner.is_at_boundary
            assert scanner.error_data is None


def test_memory_of_an_endless_line_is_bounded() -> None:
    scanner = EventScanner(max_event_bytes=1000)
    for _ in range(100):
        scanner.feed(b"data: " + b"x" * 994, 0, 1000)
    assert repr(scanner) == "<EventScanner seen nothing pending=100000>"
    assert scanner.feed(b"\n\n", 0, 2) == K.CONTENT | K.OTHER
    assert repr(scanner) == "<EventScanner seen content, other>"


def test_huge_error_event_is_still_an_error() -> None:
    scanner = EventScanner(max_event_bytes=100)
    data = b"event: error\ndata: " + b"x" * 200 + b"\n\n"
    assert scanner.feed(data, 0, len(data)) == K.ERROR | K.OTHER
    assert scanner.error_data == b""


def test_rest_without_its_line_ends_is_read_at_the_end() -> None:
    for data, expected in [
        (b"data: [DONE]", K.DONE),
        (b"data: [DONE]\n", K.DONE),
        (chunk("{}", '"stop"')[:-1], K.FINISH),
        (chunk('{"content":"Hi"}')[:-9], K.MALFORMED),
        (b": keep", K.COMMENT),
        (b"", EventKind(0)),
        (b"data: [DONE]\n\n", EventKind(0)),
    ]:
        scanner = EventScanner()
        scanner.feed(data, 0, len(data))
        assert EventKind(scanner.feed_eof()) == expected
        assert scanner.is_at_boundary


def test_range_outside_the_buffer_is_refused() -> None:
    scanner = EventScanner()
    for start, end in [(-1, 1), (0, 4), (3, 2), (4, 4)]:
        with pytest.raises(ValueError, match="not in a buffer of 3 bytes"):
            scanner.feed(b"abc", start, end)
    with pytest.raises(TypeError):
        scanner.feed(None, 0, 0)  # type: ignore[arg-type]
