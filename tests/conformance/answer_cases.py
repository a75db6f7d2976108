"""What a node may answer, and what becomes of it: one row per rule, and per way to poison a connection.

Sections are of RFC 9110 and RFC 9112. ``own`` marks what the RFCs leave open, or allow a client to
mend, and fastgw refuses.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerCase:
    """The bytes of one answer and their verdict.

    Attributes:
        outcome: "answer", "bad" (not valid: 502), "lost" (broke off) or "waiting" (for more).
        client: what the client gets, byte for byte; None: nothing of it.
        is_pooled: the connection serves another request afterwards.
        is_head: the request was HEAD.
        end: "fin", "reset", or "" while the connection stays open.
    """

    id: str
    rule: str
    data: bytes
    outcome: str
    client: bytes | None = None
    is_pooled: bool = False
    is_head: bool = False
    end: str = ""


CASES: list[AnswerCase] = []


def answer(
    *fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"", end: bytes = b"\r\n"
) -> bytes:
    """The bytes of an answer: its field lines as they are given, each ended by ``end``."""
    return b"".join(line + end for line in (line, *fields)) + end + body


def given(
    *fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes | None = b"hello", length: int = -1
) -> bytes:
    """What the client gets: the node's fields as they were, our framing last."""
    size = length if body is None else len(body)
    framing = [b"content-length: %d" % size] if size >= 0 else []
    return b"\r\n".join([line, *fields, *framing]) + b"\r\n\r\n" + (body or b"")


def passes(
    id: str, rule: str, data: bytes, client: bytes, *, pooled: bool = True, head: bool = False, end: str = ""
) -> None:
    CASES.append(AnswerCase(id, rule, data, "answer", client, pooled, head, end))


def refused(id: str, rule: str, data: bytes, *, head: bool = False, end: str = "") -> None:
    CASES.append(AnswerCase(id, rule, data, "bad", None, False, head, end))


def lost(id: str, rule: str, data: bytes, end: str = "fin") -> None:
    CASES.append(AnswerCase(id, rule, data, "lost", None, False, False, end))


FIVE = b"Content-Length: 5"
OK = answer(FIVE, body=b"hello")
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


# --- The status line --------------------------------------------------------------------------

passes("plain", "9112 2.1", OK, given())
passes(
    "no reason", "9112 4", answer(FIVE, line=b"HTTP/1.1 200 ", body=b"hello"), given(line=b"HTTP/1.1 200 ")
)
passes(
    "no reason and no space",
    "9112 4",
    answer(FIVE, line=b"HTTP/1.1 200", body=b"hello"),
    given(line=b"HTTP/1.1 200 "),
)
passes(
    "obs-text in the reason",
    "9112 4",
    answer(FIVE, line=b"HTTP/1.1 200 \xe4", body=b"hello"),
    given(line=b"HTTP/1.1 200 \xe4"),
)
for status in (b"200", b"201", b"299", b"301", b"400", b"404", b"429", b"499", b"500", b"529", b"599"):
    line = b"HTTP/1.1 " + status + b" X"
    passes(f"status {status.decode()}", "9110 15", answer(FIVE, line=line, body=b"hello"), given(line=line))
for line in (
    b"HTTP/1.1 099 X",
    b"HTTP/1.1 000 X",
    b"HTTP/1.1 600 X",
    b"HTTP/1.1 999 X",
    b"HTTP/1.1 20 X",
    b"HTTP/1.1 2000 X",
    b"HTTP/1.1 2x0 X",
    b"HTTP/1.1 +20 X",
    b"HTTP/1.1 -20 X",
    b"HTTP/1.1  200 X",
    b"HTTP/1.1\t200 X",
    b"HTTP/1.1 200\tX",
    b"HTTP/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1.1 OK",
    b" HTTP/1.1 200 OK",
    b"HTTP/1.1 200 \x00",
    b"HTTP/1.1 200 O\rK",
    b"HTTP/1.1 200 \x7f",
    b"HTTP/1.1 200 \x1b[2J",
    b"HTTP/1.2 200 OK",
    b"HTTP/0.9 200 OK",
    b"HTTP/2 200",
    b"HTTP/2.0 200 OK",
    b"HTTP/11 200 OK",
    b"http/1.1 200 OK",
    b"RTSP/1.0 200 OK",
    b"ICY 200 OK",
    b"ICE/1.0 200 OK",
    b"SIP/2.0 200 OK",
    b"HTTPS/1.1 200 OK",
    b"",
    b"200 OK",
    b"<html>",
    b"SSH-2.0-OpenSSH",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"GET / HTTP/1.1",
    b"X-A: b",
):
    refused(f"status line {line!r}", "9112 4", answer(FIVE, line=line, body=b"hello"))
refused("an empty line before it", "9112 2.2, own", b"\r\n" + OK)
refused("a bare LF before it", "9112 2.2, own", b"\n" + OK)
refused("a status line that is too long", "own", answer(FIVE, line=b"HTTP/1.1 200 " + b"a" * 17_000))
refused("a status line without an end", "own", b"HTTP/1.1 200 " + b"a" * 17_000)
refused("no head at all (HTTP/0.9)", "9112 2.1", b"hello, world\n", end="fin")

# --- Fields -----------------------------------------------------------------------------------

for name, field, out in (
    ("no space after the colon", b"X-A:b", b"X-A: b"),
    ("spaces around a value", b"X-A: \t b\t ", b"X-A: b"),
    ("an empty value", b"X-A:", b"X-A: "),
    ("obs-text", b"X-A: \xe4", b"X-A: \xe4"),
):
    passes(name, "9112 5.1", answer(field, FIVE, body=b"hello"), given(out))
for name, field in (
    ("a folded value", b"X-A: b\r\n c"),
    ("a folded value with a tab", b"X-A: b\r\n\tc"),
    ("a space before the colon", b"X-A : b"),
    ("Content-Length with a space before the colon", b"Content-Length : 5"),
    ("no colon", b"X-A"),
    ("no name", b": b"),
    ("a space in a name", b"X A: b"),
    ("a name in Latin-1", b"X\xe4: b"),
    ("a name with a NUL", b"X\x00: b"),
    ("NUL in a value", b"X-A: b\x00"),
    ("DEL in a value", b"X-A: b\x7f"),
    ("escape in a value", b"X-A: \x1b"),
    ("bare CR in a value (splitting)", b"X-A: b\rSet-Cookie: c"),
    ("bare LF in a value (splitting)", b"X-A: b\nSet-Cookie: c"),
    ("a name that is too long", b"X" * 257 + b": a"),
    ("Connection that is no list", b"Connection: close;q=1"),
):
    refused(name, "9112 5", answer(field, FIVE, body=b"hello"))
refused(
    "a field before the first line's end",
    "9112 2.2",
    b"HTTP/1.1 200 OK\nX-A: b\r\nContent-Length: 5\r\n\r\nhello",
)
refused("all lines end in LF", "9112 2.2, own", answer(FIVE, body=b"hello", end=b"\n"))
refused("a folded first field", "9112 2.2", b"HTTP/1.1 200 OK\r\n X: y\r\nContent-Length: 5\r\n\r\nhello")
refused("a large head", "own", answer(b"X-A: " + b"a" * 66_000, FIVE, body=b"hello"))
refused("257 fields", "own", answer(*[b"X: a"] * 256, FIVE, body=b"hello"))
for field in (
    b"Keep-Alive: timeout=5",
    b"Trailer: X-A",
    b"Upgrade: h2c",
    b"Proxy-Authenticate: Basic",
    b"TE: trailers",
    b"Proxy-Connection: keep-alive",
):
    passes(
        f"{field.split(b':')[0].decode()} is dropped",
        "9110 7.6.1",
        answer(field, FIVE, body=b"hello"),
        given(),
    )
passes(
    "a named field is dropped",
    "9110 7.6.1",
    answer(b"X-A: 1", b"Connection: x-a", FIVE, body=b"hello"),
    given(),
)
passes("close", "9112 9.6", answer(b"Connection: close", FIVE, body=b"hello"), given(), pooled=False)
passes(
    "close beside others",
    "9112 9.6",
    answer(b"Connection: x, Close", FIVE, body=b"hello"),
    given(),
    pooled=False,
)
refused("close without a comma", "9110 5.6.1", answer(b"Connection: close x", FIVE, body=b"hello"))
passes("HTTP/1.0", "9112 9.3", answer(FIVE, line=b"HTTP/1.0 200 OK", body=b"hello"), given(), pooled=False)
passes(
    "HTTP/1.0 keep-alive",
    "9112 9.3, own",
    answer(b"Connection: keep-alive", FIVE, line=b"HTTP/1.0 200 OK", body=b"hello"),
    given(),
    pooled=False,
)

# --- The body's length ------------------------------------------------------------------------

passes("chunks", "9112 6.3", answer(b"Transfer-Encoding: chunked", body=CHUNKS), given())
passes("Chunked", "9112 7", answer(b"Transfer-Encoding: Chunked", body=CHUNKS), given())
passes(
    "chunks with extensions and trailers",
    "9112 7.1",
    answer(b"Transfer-Encoding: chunked", body=b"5;a=b\r\nhello\r\n0\r\nX-A: b\r\n\r\n"),
    given(),
)
passes("an empty body", "9112 6.3", answer(b"Content-Length: 0"), given(body=b""))
passes("no chunk", "9112 7.1", answer(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), given(body=b""))
for value in (
    b"5, 5",
    b"5,6",
    b"+5",
    b"-5",
    b"0x5",
    b"",
    b"5 5",
    b"five",
    b"5.0",
    b"9" * 30,
    b"18446744073709551621",
):
    refused(f"Content-Length {value[:24]!r}", "9110 8.6", answer(b"Content-Length: " + value, body=b"hello"))
refused("the same length twice", "9110 8.6, own", answer(FIVE, FIVE, body=b"hello"))
refused("two lengths", "9110 8.6", answer(FIVE, b"Content-Length: 6", body=b"hello!"))
for value in (
    b"gzip, chunked",
    b"gzip",
    b"identity",
    b"chunked, gzip",
    b"chunked, chunked",
    b"xchunked",
    b"",
    b"chunked;q=1",
):
    refused(
        f"Transfer-Encoding {value.decode()}",
        "9112 6.3, own",
        answer(b"Transfer-Encoding: " + value, body=CHUNKS),
    )
refused("chunked twice", "9112 7", answer(*[b"Transfer-Encoding: chunked"] * 2, body=CHUNKS))
refused("a length and chunks", "9112 6.3, own", answer(FIVE, b"Transfer-Encoding: chunked", body=CHUNKS))
refused("chunks and a length", "9112 6.3, own", answer(b"Transfer-Encoding: chunked", FIVE, body=CHUNKS))
refused(
    "chunks in HTTP/1.0",
    "9112 6.1",
    answer(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK", body=CHUNKS),
)
for name, body in (
    ("no size", b"\r\nhello\r\n0\r\n\r\n"),
    ("no hexadecimal size", b"xyz\r\n"),
    ("a sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("a space behind the size", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("a huge size", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("bare LF behind the size", b"5\nhello\r\n0\r\n\r\n"),
    ("longer than its size", b"5\r\nhello!\r\n0\r\n\r\n"),
    ("bare LF behind the data", b"5\r\nhello\n0\r\n\r\n"),
    ("bare LF at the end", b"5\r\nhello\r\n0\r\n\n"),
    ("LF in an extension", b"5;a\nhello\r\n0\r\n\r\n"),
    ("too large extensions", b"5;" + b"a" * 17_000 + b"\r\nhello\r\n0\r\n\r\n"),
    ("too large trailers", b"0\r\nX: " + b"a" * 17_000 + b"\r\n\r\n"),
    ("a trailer that is no field", b"0\r\nno field\r\n\r\n"),
    ("an answer for trailers", b"0\r\nHTTP/1.1 200 OK\r\n\r\n"),
):
    refused(f"chunks: {name}", "9112 7.1", answer(b"Transfer-Encoding: chunked", body=body))

# --- Answers without a body -------------------------------------------------------------------

for status in (b"204 No Content", b"304 Not Modified"):
    line = b"HTTP/1.1 " + status
    passes(f"{status[:3].decode()}", "9110 15.3.5", answer(line=line), given(line=line, body=None))
    passes(
        f"{status[:3].decode()} with a length",
        "9112 6.3",
        answer(FIVE, line=line),
        given(line=line, body=None),
    )
    passes(
        f"{status[:3].decode()} with chunks",
        "9112 6.3",
        answer(b"Transfer-Encoding: chunked", line=line),
        given(line=line, body=None),
    )
    passes(
        f"{status[:3].decode()} with a body",
        "9112 6.3",
        answer(FIVE, line=line, body=b"hello"),
        given(line=line, body=None),
        pooled=False,
    )
    passes(
        f"{status[:3].decode()} with a body of chunks",
        "9112 6.3",
        answer(b"Transfer-Encoding: chunked", line=line, body=CHUNKS),
        given(line=line, body=None),
        pooled=False,
    )
for name, fields, length in (
    ("", (FIVE,), 5),
    (" without a length", (), -1),
    (" with chunks", (b"Transfer-Encoding: chunked",), -1),
):
    passes(f"HEAD{name}", "9110 9.3.2", answer(*fields), given(body=None, length=length), head=True)
    passes(
        f"HEAD{name} and a body all the same",
        "9112 6.3",
        answer(*fields, body=b"hello"),
        given(body=None, length=length),
        head=True,
        pooled=False,
    )
refused("HEAD with two lengths", "9110 8.6", answer(FIVE, b"Content-Length: 6"), head=True)
refused("204 with a bad length", "9110 8.6", answer(b"Content-Length: x", line=b"HTTP/1.1 204 No Content"))
passes(
    "205 with a length",
    "9110 15.3.6",
    answer(FIVE, line=b"HTTP/1.1 205 Reset Content", body=b"hello"),
    given(line=b"HTTP/1.1 205 Reset Content"),
)

# --- 1xx --------------------------------------------------------------------------------------

for status in (b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 X"):
    passes(
        f"{status.decode()} first",
        "9110 15.2",
        answer(b"Link: </a>", line=b"HTTP/1.1 " + status) + OK,
        given(),
    )
passes("32 interim answers", "9110 15.2", answer(line=b"HTTP/1.1 100 Continue") * 32 + OK, given())
passes(
    "an interim answer with a length", "9110 15.2", answer(FIVE, line=b"HTTP/1.1 100 Continue") + OK, given()
)
refused(
    "an interim answer with a body",
    "9110 15.2",
    answer(FIVE, line=b"HTTP/1.1 100 Continue", body=b"hello") + OK,
)
refused("33 interim answers", "own", answer(line=b"HTTP/1.1 100 Continue") * 33 + OK)
refused(
    "interim answers of 64 KiB",
    "own",
    answer(b"X: " + b"a" * 14_000, line=b"HTTP/1.1 103 Early Hints") * 5 + OK,
)
refused(
    "101 unasked",
    "9110 15.2.2",
    answer(b"Upgrade: websocket", b"Connection: Upgrade", line=b"HTTP/1.1 101 Switching Protocols"),
)
refused(
    "101 to HEAD",
    "9110 15.2.2",
    answer(b"Upgrade: x", b"Connection: Upgrade", line=b"HTTP/1.1 101 X"),
    head=True,
)
CASES.append(
    AnswerCase("only an interim answer", "9110 15.2", answer(line=b"HTTP/1.1 100 Continue"), "waiting")
)
lost("an interim answer and the end", "9112 8", answer(line=b"HTTP/1.1 100 Continue"))

# --- The end of the connection ----------------------------------------------------------------

passes("until the end", "9112 6.3", answer(body=b"hello"), given(), pooled=False, end="fin")
passes("until the end, nothing", "9112 6.3", answer(), given(body=b""), pooled=False, end="fin")
passes(
    "until the end, HTTP/1.0",
    "9112 6.3",
    answer(line=b"HTTP/1.0 200 OK", body=b"hello"),
    given(),
    pooled=False,
    end="fin",
)
CASES.append(AnswerCase("until an end that does not come", "9112 6.3", answer(body=b"hello"), "waiting"))
lost("until a reset", "9112 8, own", answer(body=b"hello"), "reset")
lost("nothing at all", "9112 8", b"")
lost("nothing, reset", "9112 8", b"", "reset")
for name, data in (
    ("a word", b"HTTP"),
    ("a status line", b"HTTP/1.1 200 OK\r\n"),
    ("half a field", b"HTTP/1.1 200 OK\r\nContent-Le"),
    ("a head without its last line", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"),
    ("a body too short", answer(FIVE, body=b"hell")),
    ("no body", answer(FIVE)),
    ("half a chunk", answer(b"Transfer-Encoding: chunked", body=b"5\r\nhel")),
    ("chunks without the last", answer(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n")),
    ("chunks without the last line", answer(b"Transfer-Encoding: chunked", body=CHUNKS[:-2])),
):
    lost(f"the end behind {name}", "9112 8", data)
    lost(f"a reset behind {name}", "9112 8", data, "reset")

# --- What comes behind ------------------------------------------------------------------------

passes(
    "a body that is longer than its length",
    "9112 6.3",
    answer(FIVE, body=b"hello, world"),
    given(),
    pooled=False,
)
passes("a second answer", "9112 9.2", OK + OK, given(), pooled=False)
passes("CRLF behind the answer", "9112 9.2", OK + b"\r\n", given(), pooled=False)
passes(
    "a second answer behind chunks",
    "9112 9.2",
    answer(b"Transfer-Encoding: chunked", body=CHUNKS) + OK,
    given(),
    pooled=False,
)
passes("408 behind the answer", "9112 9.2", OK + answer(line=b"HTTP/1.1 408 X"), given(), pooled=False)
