"""What is fuzzed, and what must hold of every input.

A target makes one input after the other and raises ``Disagreement`` at the first that breaks its
promise. An exception of any other kind is a crash: no target expects one.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import httptools
import pytest
import yaml
from conformance import answer_cases, harness, request_cases
from exchange_bench import STREAM_BODY, Bench, chunk, content, dechunked

from fastgw.config import ConfigErrors, loads
from fastgw.llm.sse import EventScanner
from fastgw.wire.framing import BodyFramer
from fastgw.wire.head import CHUNKED_BODY, Head, Limits, scan_request, scan_response

from . import reference
from .mutation import HTTP_TOKENS, Mutator
from .reference import Received

EXAMPLES = Path(__file__).parents[2] / "examples"
FRAMING = (b"content-length", b"transfer-encoding")
LARGE = 1 << 20  # h11 stops at 16 KiB of a head otherwise
WRITTEN = Limits(LARGE, LARGE, 1000)  # a field or two of our own may be one more than we accept


class Disagreement(Exception):
    """Two readers of the same bytes saw different things."""


@dataclass(frozen=True)
class Message:
    """One message as some reader saw it. ``start`` is method and target, or the status."""

    start: tuple[Any, ...]
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


def expect(condition: bool, what: str, *seen: object) -> None:
    if not condition:
        raise Disagreement(": ".join([what, *map(repr, seen)]))


def expect_same(whose: str, theirs: Message, ours: Message, sent: bytes) -> None:
    expect(theirs == ours, f"{whose} reads it differently", sent, ours, theirs)


# --- Four readers -----------------------------------------------------------------------------


def _read_body(data: bytes, head: Head) -> tuple[bytes, int]:
    framer = BodyFramer()
    framer.expect(CHUNKED_BODY if head.is_chunked else max(head.content_length, 0))
    end = framer.feed(data, head.end)
    expect(framer.complete, "what fastgw has written is not whole for itself", data)
    return framer.decoded(data), end


def fastgw_request(data: bytes) -> Message:
    head = scan_request(data, 0, WRITTEN)
    assert head is not None
    body, end = _read_body(data, head)
    expect(end == len(data), "fastgw leaves bytes over", data[end:])
    return Message((head.method, head.target), tuple(head.items()), body)


def fastgw_answer(data: bytes, has_body: bool) -> Message:
    head = scan_response(data, 0, WRITTEN)
    assert head is not None
    body, end = _read_body(data, head) if has_body else (b"", head.end)
    expect(end == len(data), "fastgw leaves bytes over", data[end:])
    return Message((head.status,), tuple(head.items()), body)


class _Callbacks:
    def __init__(self) -> None:
        self.url = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.ended = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended += 1


def httptools_request(data: bytes) -> Message:
    seen = _Callbacks()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(data)
    expect(seen.ended == 1, "httptools sees another number of requests", seen.ended, data)
    return Message((parser.get_method(), seen.url), tuple(seen.fields), seen.body)


def httptools_answer(data: bytes) -> Message:
    seen = _Callbacks()
    parser = httptools.HttpResponseParser(seen)
    parser.feed_data(data)
    expect(seen.ended == 1, "httptools sees another number of answers", seen.ended, data)
    return Message((parser.get_status_code(),), tuple(seen.fields), seen.body)


def _h11_body(connection: h11.Connection) -> bytes:
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    expect(isinstance(event, h11.EndOfMessage), "h11 sees no end", event)
    return body


def h11_request(data: bytes) -> tuple[Message, bytes]:
    """The first request, and what h11 leaves over."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGE)
    connection.receive_data(data)
    event = connection.next_event()
    expect(isinstance(event, h11.Request), "h11 sees no request", event, data)
    assert isinstance(event, h11.Request)
    fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    message = Message((event.method, event.target), fields, _h11_body(connection))
    return message, bytes(connection.trailing_data[0])


def h11_answer(data: bytes, method: str) -> tuple[Message, bytes]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGE)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    event = connection.next_event()
    expect(isinstance(event, h11.Response), "h11 sees no answer", event, data)
    assert isinstance(event, h11.Response)
    fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    return Message((event.status_code,), fields, _h11_body(connection)), bytes(connection.trailing_data[0])


def reference_message(received: Received, data: bytes) -> Message:
    """What the reference has read of bytes that are to be one message."""
    expect(received.end == len(data), "the reference leaves bytes over", data[received.end :], data)
    return Message(received.start, received.fields, received.body)


def without(fields: tuple[tuple[bytes, bytes], ...], *names: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(field for field in fields if field[0] not in names)


# --- Targets ----------------------------------------------------------------------------------


class Target:
    """One thing that is fuzzed. ``accepted`` counts the inputs that were more than refused."""

    name = ""
    goal = ""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"{self.name} {seed}")
        self.inputs = 0
        self.accepted = 0
        self.last: object = b""

    def step(self) -> None:
        """Make one input and judge it."""
        self.inputs += 1
        self.judge()

    def judge(self) -> None:
        raise NotImplementedError


class Requests(Target):
    name = "requests"
    goal = "each request that is sent on is one and the same to fastgw, httptools, h11 and the reference"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        seeds = [case.data for case in request_cases.CASES if len(case.data) < 2000]
        self.mutator = Mutator(self.rng, seeds, HTTP_TOKENS)

    def judge(self) -> None:
        self.last = data = self.mutator.make()
        with harness.no_loop() as loop:
            whole = harness.read_requests(loop, [data] if data else [])
            pieces = self.mutator.cuts(data)
            expect(harness.read_requests(loop, pieces) == whole, "another verdict in pieces", pieces, whole)
            chunked = harness.read_requests(loop, pieces, as_chunks=True)
        self.accepted += bool(whole.node)
        for length_framed, chunk_framed in zip(whole.node, chunked.node, strict=True):
            bodies = set()
            for sent in (length_framed, chunk_framed):
                seen = fastgw_request(sent)
                expect_same("httptools", httptools_request(sent), seen, sent)
                expect_same(
                    "the reference", reference_message(reference.read_request(sent), sent), seen, sent
                )
                theirs, left = h11_request(sent)
                expect_same("h11", theirs, seen, sent)
                expect(not left, "h11 leaves bytes over", sent, left)
                bodies.add((seen.start, seen.body))
            expect(len(bodies) == 1, "the framing changes the message", bodies)
        passed = [fastgw_request(sent) for sent in whole.node]
        self._compare_all(data, passed, whole)
        if passed:
            self._compare_first(data, passed[0])

    def _compare_all(self, data: bytes, passed: list[Message], verdict: harness.RequestVerdict) -> None:
        """What the client sent must be these very requests to a strict reader, and no one more or less."""
        sent, _ = reference.read_requests(data)
        expect(len(passed) <= len(sent), "the reference sees fewer requests", data, passed, sent)
        for theirs, ours in zip(sent, passed, strict=False):
            expect(theirs.start == ours.start, "another request for the reference", data, theirs, ours)
            expect(theirs.body == ours.body, "another body for the reference", data, theirs, ours)
            # (Host is the node's, and we are who is expected to say 100.)
            kept = without(theirs.passed_on(), b"host", b"expect")
            expect(
                kept == without(ours.fields, b"host", *FRAMING), "other fields are sent on", data, kept, ours
            )
        if len(sent) > len(passed):
            is_refused = len(verdict.statuses) == len(passed) + 1 and verdict.statuses[-1] >= 400
            expect(is_refused, "a request is swallowed", data, sent[len(passed)], verdict)

    def _compare_first(self, data: bytes, ours: Message) -> None:
        """What a client sent must be no other message to h11, if it is one for it at all."""
        try:
            theirs, _ = h11_request(data)
        except (h11.RemoteProtocolError, Disagreement):
            return
        expect(
            (theirs.start[0], theirs.body) == (ours.start[0], ours.body), "h11 reads another request", data
        )


class Answers(Target):
    name = "answers"
    goal = "each answer that is passed on is one and the same to fastgw, httptools, h11 and the reference"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.cases = [case for case in answer_cases.CASES if len(case.data) < 2000]
        self.mutator = Mutator(self.rng, [case.data for case in self.cases], HTTP_TOKENS)

    def judge(self) -> None:
        self.last = data = self.mutator.make()
        is_head = self.rng.random() < 0.1
        end = self.rng.choice(("", "fin", "fin", "reset"))
        as_chunks = self.rng.random() < 0.5
        whole = harness.read_answer([data] if data else [], is_head=is_head, end=end, as_chunks=as_chunks)
        pieces = self.mutator.cuts(data)
        split = harness.read_answer(pieces, is_head=is_head, end=end, as_chunks=as_chunks)
        expect(split == whole, "another verdict in pieces", pieces, is_head, end, whole, split)
        self._compare(data, is_head, end, whole)
        sent = whole.client
        if sent is None:
            return
        self.accepted += 1
        status = int(sent[9:12])
        has_body = not is_head and status not in (204, 304)
        seen = fastgw_answer(sent, has_body)
        if has_body:  # httptools cannot be told what was asked
            expect_same("httptools", httptools_answer(sent), seen, sent)
        theirs, left = h11_answer(sent, "HEAD" if is_head else "GET")
        expect_same("h11", theirs, seen, sent)
        expect(not left, "h11 leaves bytes over", sent, left)
        strict = reference_message(reference.read_answer(sent, is_head=is_head), sent)
        expect_same("the reference", strict, seen, sent)

    @staticmethod
    def _compare(data: bytes, is_head: bool, end: str, verdict: harness.AnswerVerdict) -> None:
        """What the node sent must be this very answer to a strict reader, or none if none was passed on."""
        theirs = None
        try:
            theirs = reference.read_answer(data, is_head=is_head, is_ended=end == "fin")
        except (reference.Invalid, reference.Incomplete):
            pass
        what = (data, is_head, end, verdict, theirs)
        if verdict.client is None:
            expect(theirs is None or verdict.outcome == "bad", "a whole answer is not passed on", *what)
            return
        expect(theirs is not None, "no answer for the reference is passed on", *what)
        assert theirs is not None
        head = scan_response(verdict.client, 0, WRITTEN)
        assert head is not None
        ours = Message((head.status,), tuple(head.items()), b"")
        expect(theirs.start == ours.start, "another status for the reference", *what)
        expect(theirs.passed_on() == without(ours.fields, *FRAMING), "other fields are passed on", *what)
        if not is_head and head.status not in (204, 304):
            body, _ = _read_body(verdict.client, head)
            expect(theirs.body == body, "another body for the reference", *what)
        try:
            lenient, _ = h11_answer(data, "HEAD" if is_head else "GET")
        except (h11.RemoteProtocolError, Disagreement):
            pass  # none for it: it may refuse what we pass on, but must not see another answer
        else:
            seen = (lenient.start, lenient.body)
            expect(seen == (theirs.start, theirs.body), "another answer for h11", *what, lenient)
        is_clean = theirs.keeps_alive and theirs.minor_version == 1 and theirs.end == len(data)
        expect(verdict.is_pooled == (is_clean and not end), "pooled, or not, for no reason", *what)


class Events(Target):
    name = "events"
    goal = "a stream of events is the same in any pieces"

    SEEDS = (
        b'data: {"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
        b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
        b'data: {"id":"a","choices":[{"index":0,"delta":{"content":" you"}}]}\n\ndata: [DONE]\n\n',
        b': keep-alive\n\ndata: {"choices":[{"delta":{"reasoning_content":"so"}}]}\r\n\r\n'
        b"data: [DONE]\r\n\r\n",
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
        b'event: error\ndata: {"error":{"message":"x","code":"server_error"}}\n\n',
        b"\xef\xbb\xbfevent: response.output_text.delta\n"
        b'data: {"type":"response.output_text.delta","delta":"a"}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]},'
        b'"finish_reason":null}]}\n\n',
        b"data: {\ndata: }\n\nid: 1\nretry: 5\n\n",
    )
    TOKENS = (
        b"\n", b"\r", b"\r\n", b"\n\n", b"data:", b"data: ", b"data: [DONE]", b"event: error\n", b":",
        b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b'"', b"\\", b'"content":"x"', b'"error":{}',
        b'"usage":null', b'"delta":{}', b"null", b"\\u0000", b"\xff",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.mutator = Mutator(self.rng, self.SEEDS, self.TOKENS, b"\n")

    def judge(self) -> None:
        self.last = stream = self.mutator.make()
        limit = self.rng.choice((1 << 20, 1 << 20, 40, 5))
        pieces = self.mutator.cuts(stream)
        whole = self._events([stream], limit)
        split = self._events(pieces, limit)
        expect(whole == split, "other events in pieces", pieces, limit, whole, split)
        self.accepted += bool(whole[0])

    @staticmethod
    def _events(pieces: list[bytes], limit: int) -> tuple[Any, ...]:
        scanner = EventScanner(limit)
        kinds = []
        for piece in pieces:
            at = 0
            while True:
                at = scanner.feed_event(piece, at, len(piece))
                if not scanner.kind:
                    break
                kinds.append(int(scanner.kind))
        return (
            kinds,
            scanner.seen,
            scanner.model,
            scanner.error_data,
            scanner.usage_data,
            scanner.is_at_boundary,
        )


class Streams(Target):
    name = "streams"
    goal = "a stream reaches the client as the same bytes and the same end, in any chunks and any pieces"

    HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.mutator = Mutator(self.rng, Events.SEEDS, Events.TOKENS, b"\n")

    def judge(self) -> None:
        self.last = stream = self.mutator.make()
        end = self.rng.choice((b"0\r\n\r\n", b"0\r\n\r\n", b""))  # without the last chunk it is cut off
        whole = self._seen([self._chunked([stream]) + end])
        pieces = self.mutator.cuts(self._chunked(self.mutator.cuts(stream)) + end)
        split = self._seen(pieces)
        if whole != split:
            # Where an event was dropped or ended the stream, the LF of its CRLF may be a line or be left out.
            is_same = whole[1:] == split[1:] and _events_in(whole[0]) == _events_in(split[0])
            is_odd = whole[2] > 0 or whole[3] != ""
            expect(is_same and is_odd, "other bytes in pieces", stream, pieces, whole, split)
        self.accepted += whole[1]

    @staticmethod
    def _chunked(parts: list[bytes]) -> bytes:
        return b"".join(chunk(part) for part in parts if part)

    def _seen(self, pieces: list[bytes]) -> tuple[bytes, bool, int, str]:
        """What the client has, whether that is all it was told, events dropped, and what the log says."""
        with pytest.MonkeyPatch.context() as patch:
            bench = Bench(patch, 1)
            bench.ask(STREAM_BODY)
            node = bench.connect()
            # From here on the client has content: what follows is not for another node to mend.
            node.say(self.HEAD, chunk(content("!")))
            for piece in pieces:
                node.say(piece)
            if not bench.finished:
                node.close()
            bench.check_end()
            _, _, body = bench.transport.sent.partition(b"\r\n\r\n")
            return *dechunked(body), bench.exchanges.malformed_events, bench.finished[0].note


def _events_in(stream: bytes) -> list[list[bytes]]:
    """The lines of each event, without comments."""
    found: list[list[bytes]] = [[]]
    for line in re.split(rb"\r\n|\r|\n", stream):
        if line.startswith(b":"):
            continue
        if line:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return found


class Configurations(Target):
    name = "configurations"
    goal = "a file is loaded, or refused with places; never a traceback"

    TOKENS = (
        b"services", b"routes", b"nodes", b"name: ", b"no", b"~", b"0o7", b"010", b"1:30", b".inf", b"-1",
        b"2020-01-01", b"${X}", b"${NONE}", b"{", b"}", b"[", b"]", b": ", b"'", b'"', b">", b"@", b"`",
        b"\\", b"*a", b"&a ", b"!!str ", b"<<: *a", b"- ", b"\n", b"\n  ", b"\n    ", b", ", b"|\n",
        b"---\n", b"...\n", b"%YAML 1.1\n", b"\t", b"# x\n", b"? ", b"\xe2\x80\xa8", b"\xef\xbb\xbf",
        b"\xc2\x85", b"\r", b"\x00", b"\xff", b"99999999999999999999", b"1e400",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        texts = [path.read_text() for path in sorted(EXAMPLES.glob("*.yaml"))]
        texts += [json.dumps(yaml.safe_load(text)) for text in texts if "${{" not in text]
        self.mutator = Mutator(self.rng, [text.encode() for text in texts], self.TOKENS, b"\n")

    def judge(self) -> None:
        self.last = data = self.mutator.make()
        try:
            loads(
                data.decode("utf-8", "replace"),
                env={"OPENAI_API_KEY": "a", "DEEPSEEK_API_KEY": "b", "X": "c"},
            )
            self.accepted += 1
        except ConfigErrors as errors:
            expect(bool(errors.problems), "refused without a reason")
            for problem in errors.problems:
                expect(
                    problem.line >= 1 and problem.column >= 1 and bool(problem.message), "no place", problem
                )


TARGETS: tuple[Callable[[int], Target], ...] = (Requests, Answers, Events, Streams, Configurations)
