"""What of an answer's body goes to the client, and in which framing."""

from __future__ import annotations

import pytest
from exchange_bench import DONE, ERROR, FINISH, KEEP_ALIVE, ROLE, chunk, content

from fastgw.llm.sse import EventScanner
from fastgw.proxy.relay import MALFORMED_EVENTS, TAIL_BYTES, Relay
from fastgw.redaction import Redactor
from fastgw.secret import Secret
from fastgw.wire.framing import BodyFramer
from fastgw.wire.head import CHUNKED_BODY, LAST_CHUNK, UNTIL_CLOSE

BAD = b"data: {bad\n\n"


class Bench:
    """A relay between two framings."""

    def __init__(self, node: int = CHUNKED_BODY, client: int = CHUNKED_BODY, *, events: bool = True) -> None:
        self.framer = BodyFramer()
        self.framer.expect(node)
        self.relay = Relay(self.framer, client, EventScanner() if events else None)

    def pass_on(self, data: bytes, start: int = 0) -> bytes:
        end = self.framer.feed(data, start)
        return self.relay.pass_on(data, start, end)

    def finish(self, data: bytes = LAST_CHUNK) -> bytes:
        self.framer.feed(data, 0)
        assert self.framer.complete
        return self.relay.finish(data)


# --- The usual read ---------------------------------------------------------------------------


@pytest.mark.parametrize("events", [True, False])
def test_the_usual_read_is_passed_on_as_the_same_object(events: bool) -> None:
    bench = Bench(events=events)
    for data in (chunk(content("a")), chunk(content("b")) + chunk(content("c") + content("d"))):
        assert bench.pass_on(data) is data
    data = b"head" + chunk(content("e"))
    assert bench.pass_on(data, 4) == data[4:]


def test_a_plain_body_is_passed_on_as_it_is() -> None:
    bench = Bench(10, 10, events=False)
    data = b"hello"
    assert bench.pass_on(data) is data
    assert bench.pass_on(b"wor") == b"wor"
    assert bench.finish(b"ld!next") == b"ld"


# --- Other framings ---------------------------------------------------------------------------


def test_a_body_is_framed_anew_where_the_framings_differ() -> None:
    assert Bench(UNTIL_CLOSE, CHUNKED_BODY, events=False).pass_on(b"abc") == b"3\r\nabc\r\n"
    assert Bench(CHUNKED_BODY, UNTIL_CLOSE, events=False).pass_on(b"3\r\nabc\r\n2\r\nde\r\n") == b"abcde"
    assert Bench(CHUNKED_BODY, UNTIL_CLOSE).pass_on(chunk(content("a"))) == content("a")


def test_half_a_chunk_is_framed_anew() -> None:
    bench = Bench(events=False)
    assert bench.pass_on(b"5\r\nhe") == b"2\r\nhe\r\n"
    assert bench.pass_on(b"llo\r") == b"3\r\nllo\r\n"
    assert bench.pass_on(b"\n") == b""  # an empty chunk would be the last one
    assert bench.pass_on(b"2;x\r\nab\r\n") == b"2\r\nab\r\n"


def test_wrapping() -> None:
    chunked, plain = Bench().relay, Bench(client=UNTIL_CLOSE).relay
    assert chunked.wrap(b"abc", False) == b"3\r\nabc\r\n"
    assert chunked.wrap(b"abc", True) == b"3\r\nabc\r\n0\r\n\r\n"
    assert chunked.wrap(b"", False) == b""
    assert chunked.wrap(b"", True) == LAST_CHUNK
    assert plain.wrap(b"abc", True) == plain.wrap(b"abc", False) == b"abc"


# --- Events -----------------------------------------------------------------------------------


def test_half_an_event_waits_for_its_rest() -> None:
    bench = Bench()
    event = content("hello")
    assert bench.pass_on(chunk(event[:10])) == b""
    assert bench.relay.tail == event[:10] and not bench.relay.shows_progress()
    assert bench.pass_on(chunk(event[10:] + event[:5])) == chunk(event)
    assert bench.relay.shows_progress()
    assert bench.pass_on(chunk(event[5:])) == chunk(event)
    assert bench.relay.tail == b""


def test_an_event_longer_than_what_is_kept_is_passed_on_in_parts() -> None:
    bench = Bench()
    event = content("x" * (3 * TAIL_BYTES))
    sent = b""
    for at in range(0, len(event), 50_000):
        out = bench.pass_on(chunk(event[at : at + 50_000]))
        sent += out.partition(b"\r\n")[2].removesuffix(b"\r\n")
        assert len(bench.relay.tail) <= TAIL_BYTES
        assert bench.relay.is_mid_event is (0 < len(sent) < len(event))
    assert sent == event and not bench.relay.is_mid_event
    assert bench.pass_on(chunk(DONE)) == chunk(DONE)


def test_an_error_in_front_of_a_long_event_is_still_the_last_word() -> None:
    bench = Bench()
    out = bench.pass_on(chunk(content("a") + ERROR + content("x" * (2 * TAIL_BYTES))[:-9]))
    assert out == chunk(content("a") + ERROR)
    assert bench.relay.is_broken() and not bench.relay.is_mid_event


def test_an_error_behind_a_long_event_is_the_last_word() -> None:
    bench = Bench()
    event = content("x" * (2 * TAIL_BYTES))
    bench.pass_on(chunk(event[:-20]))
    assert bench.relay.is_mid_event
    assert bench.pass_on(chunk(event[-20:] + BAD + ERROR + DONE)) == chunk(event[-20:] + ERROR)
    assert bench.relay.is_broken() and bench.relay.malformed == 1


def test_malformed_events_are_dropped_until_they_are_too_many() -> None:
    bench = Bench()
    for number in range(MALFORMED_EVENTS):
        assert bench.pass_on(chunk(content("a") + BAD + content("b"))) == chunk(content("a") + content("b"))
        assert bench.relay.malformed == number + 1 and not bench.relay.is_broken()
    assert bench.pass_on(chunk(content("a") + BAD + content("b"))) == chunk(content("a"))
    assert bench.relay.is_broken() and not bench.relay.has_error


def test_a_malformed_event_goes_with_the_comment_inside_it() -> None:
    bench = Bench()
    data = b"data: {bad\n: a comment\ndata: bad too\n\n"
    assert bench.pass_on(chunk(data + content("b"))) == chunk(content("b"))
    bench = Bench()
    for at in range(len(data)):
        assert bench.pass_on(chunk(data[at : at + 1])) == b""
    assert bench.pass_on(chunk(content("b"))) == chunk(content("b"))


def test_what_stood_before_an_error_is_known() -> None:
    bench = Bench()
    bench.framer.feed(chunk(ROLE + content("a") + ERROR), 0)
    bench.relay.take(chunk(ROLE + content("a") + ERROR))
    assert bench.relay.before_error & 1
    bench = Bench()
    bench.framer.feed(chunk(ROLE + ERROR + content("a")), 0)
    assert bench.relay.take(chunk(ROLE + ERROR + content("a"))) == ROLE + ERROR
    assert not bench.relay.before_error & 1


# --- The end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [FINISH, DONE, FINISH[:-1], DONE[:-2], DONE.rstrip(b"\n")])
def test_a_stream_is_ended_when_it_has_said_so(last: bytes) -> None:
    bench = Bench()
    bench.pass_on(chunk(content("a") + last))
    assert bench.finish() == (b"" if last.endswith(b"\n\n") else last)
    assert bench.relay.is_ended() and not bench.relay.is_broken()


@pytest.mark.parametrize("rest", [b"", content("b")[:-2], KEEP_ALIVE, b": half"])
def test_a_stream_that_only_stops_is_not_ended(rest: bytes) -> None:
    bench = Bench()
    bench.pass_on(chunk(content("a") + rest))
    out = bench.finish()
    assert not bench.relay.is_ended()
    assert out == (b"" if rest in (b"", KEEP_ALIVE) else rest)
    assert bench.relay.is_mid_event is bool(out)  # what is added now has to begin with an end of this


def test_half_an_event_at_the_end_is_dropped() -> None:
    bench = Bench()
    bench.pass_on(chunk(content("a") + content("b")[:-9]))
    assert bench.finish() == b"" and bench.relay.malformed == 1
    assert not bench.relay.is_mid_event


def test_an_error_at_the_end_is_given_the_empty_line_it_needs() -> None:
    bench = Bench()
    bench.pass_on(chunk(content("a") + ERROR[:-2]))
    assert bench.finish() == ERROR
    assert bench.relay.has_error and bench.relay.is_broken()


def test_the_kinds_of_the_last_read_are_not_those_of_the_one_before() -> None:
    bench = Bench()
    bench.pass_on(chunk(content("a")))
    assert bench.relay.shows_progress()
    bench.finish()
    assert not bench.relay.shows_progress()


def test_a_body_that_is_not_looked_at_has_no_words() -> None:
    bench = Bench(events=False)
    bench.pass_on(chunk(ERROR))
    assert bench.finish(chunk(BAD) + LAST_CHUNK) == BAD
    assert bench.relay.is_ended() and not bench.relay.is_broken() and not bench.relay.shows_progress()


# --- Errors that repeat a key -----------------------------------------------------------------

KEY = b"canary.of.the.node"
REPEATING = b"no: canary.of.what? " + KEY + b", " + KEY


@pytest.mark.parametrize("at", range(1, len(REPEATING)))
@pytest.mark.parametrize("client", [CHUNKED_BODY, UNTIL_CLOSE, len(REPEATING)])
def test_a_key_is_masked_wherever_the_reads_cut_it(at: int, client: int) -> None:
    bench = Bench(len(REPEATING), client, events=False)
    bench.relay.redactor = Redactor([Secret(KEY.decode())], by_shape=False)
    passed = bench.pass_on(REPEATING[:at])
    rest = bench.relay.wrap(bench.finish(REPEATING[at:]), True)
    got = BodyFramer()
    got.expect(client)
    body = b""
    for part in (passed, rest):
        got.feed(part, 0)
        body += got.decoded(part)
    assert body == REPEATING.replace(KEY, b"*" * len(KEY))
