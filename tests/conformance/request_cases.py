"""What a client may send, and what becomes of it: one row per rule and per known smuggling technique.

Sections are of RFC 9110 and RFC 9112; those of RFC 3986 say so. ``own`` marks what the RFCs leave
open, or allow, and fastgw refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

NODE_HOST = b"node.test"


@dataclass(frozen=True)
class RequestCase:
    """The bytes of one connection and their verdict.

    Attributes:
        statuses: of the answers, in order; 200 is the node's own.
        node: the messages that reach a node whose Host is ``NODE_HOST``, byte for byte.
        is_kept: the connection serves another request afterwards.
    """

    id: str
    rule: str
    data: bytes
    statuses: tuple[int, ...]
    node: tuple[bytes, ...] = ()
    is_kept: bool = False


CASES: list[RequestCase] = []


def request(
    *fields: bytes,
    line: bytes = b"GET /a HTTP/1.1",
    host: bytes | None = b"gw",
    body: bytes = b"",
    end: bytes = b"\r\n",
) -> bytes:
    """The bytes of a request: its field lines as they are given, each ended by ``end``."""
    lines = [line, *([b"Host: " + host] if host is not None else []), *fields]
    return b"".join(line + end for line in lines) + end + body


def sent(line: bytes, *fields: bytes, body: bytes | None = None) -> bytes:
    """What a node gets: our Host first, the client's fields as they were, our framing last."""
    framing = [b"content-length: %d" % len(body)] if body is not None else []
    lines = [line + b" HTTP/1.1", b"host: " + NODE_HOST, *fields, *framing]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def passes(id: str, rule: str, data: bytes, *node: bytes, kept: bool = True) -> None:
    CASES.append(RequestCase(id, rule, data, (200,) * len(node), node, kept))


def refused(id: str, rule: str, data: bytes, status: int = 400) -> None:
    CASES.append(RequestCase(id, rule, data, (status,)))


POST = b"POST /a HTTP/1.1"
GET_SENT = sent(b"GET /a")
HELLO_SENT = sent(b"POST /a", body=b"hello")
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: gw\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


# --- The request line -------------------------------------------------------------------------

passes("plain", "9112 2.1", request(), GET_SENT)
passes("one empty line before", "9112 2.2", b"\r\n" + request(), GET_SENT)
refused("two empty lines before", "9112 2.2, own", b"\r\n\r\n" + request())
refused("a bare LF before", "9112 2.2, own", b"\n" + request())
refused("no version (HTTP/0.9)", "9112 3", b"GET /a\r\n\r\n")
refused("two spaces", "9112 3", request(line=b"GET  /a HTTP/1.1"))
refused("two spaces before the version", "9112 3", request(line=b"GET /a  HTTP/1.1"))
refused("a tab for a space", "9112 3", request(line=b"GET\t/a HTTP/1.1"))
refused("a space at the end", "9112 3", request(line=b"GET /a HTTP/1.1 "))
refused("a space before the method", "9112 3", request(line=b" GET /a HTTP/1.1"))
refused("a space in the target", "9112 3", request(line=b"GET /a b HTTP/1.1"))
refused("vertical tab in the line", "9112 3", request(line=b"GET\x0b/a HTTP/1.1"))
refused("bare CR in the line", "9112 2.2", request(line=b"GET /a\r HTTP/1.1"))
refused("bare CR at its end", "9112 2.2", request(line=b"GET /a HTTP/1.1\r"))
refused("bare LF at its end", "9112 2.2", b"GET /a HTTP/1.1\nHost: gw\r\n\r\n")
refused("all lines end in LF", "9112 2.2", request(end=b"\n"))
refused("all lines end in CR", "9112 2.2", request(end=b"\r") + b"\n\n")
refused("NUL in the method", "9112 2.2", request(line=b"GE\x00T /a HTTP/1.1"))
refused("NUL at the very beginning", "9112 2.2", b"\x00" + request())
refused("a field line before any request", "9112 2.1", b"Host: gw\r\n" + request())
refused("an answer", "9112 2.1", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
refused(
    "a ClientHello", "9112 2.1", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\x07" * 32 + b"\n\r\n"
)

# --- Methods ----------------------------------------------------------------------------------

for method in (b"GET", b"DELETE", b"OPTIONS", b"PATCH", b"PUT", b"POST", b"PROPFIND"):
    # (Whether an empty body is said is the exchange's to decide: here only one that was said.)
    passes(
        f"method {method.decode()}",
        "9110 9",
        request(b"Content-Length: 2", line=method + b" /a HTTP/1.1", body=b"ok"),
        sent(method + b" /a", body=b"ok"),
    )
passes("HEAD", "9110 9.3.2", request(line=b"HEAD /a HTTP/1.1"), sent(b"HEAD /a"))
refused("lower-case method", "9110 9.1", request(line=b"get /a HTTP/1.1"), 501)
refused("unknown method", "9110 9.1", request(line=b"FROB /a HTTP/1.1"), 501)
refused("a method longer than any", "9112 3", request(line=b"X" * 40 + b" /a HTTP/1.1"), 501)
refused("a method that is no token", "9110 9.1", request(line=b"G@T /a HTTP/1.1"))
refused("a method in quotes", "9110 9.1", request(line=b'"GET" /a HTTP/1.1'))
refused("an empty method", "9110 9.1", b" /a HTTP/1.1\r\nHost: gw\r\n\r\n")
refused("CONNECT", "9110 9.3.6, own", request(line=b"CONNECT gw:443 HTTP/1.1"), 501)
refused("CONNECT with a path", "9110 9.3.6, own", request(line=b"CONNECT /a HTTP/1.1"), 501)
refused("TRACE", "9110 9.3.8, own", request(line=b"TRACE /a HTTP/1.1"), 501)
refused("trace", "9110 9.3.8, own", request(line=b"trace /a HTTP/1.1"), 501)
refused(
    "OPTIONS with Max-Forwards: 0",
    "9110 7.6.2",
    request(b"Max-Forwards: 0", line=b"OPTIONS /a HTTP/1.1"),
    501,
)
refused(
    "OPTIONS with Max-Forwards: 5",
    "9110 7.6.2, own",
    request(b"Max-Forwards: 5", line=b"OPTIONS /a HTTP/1.1"),
    501,
)
passes(
    "GET with Max-Forwards", "9110 7.6.2", request(b"Max-Forwards: 0"), sent(b"GET /a", b"Max-Forwards: 0")
)

# --- Versions ---------------------------------------------------------------------------------

passes("HTTP/1.0", "9112 9.3", request(line=b"GET /a HTTP/1.0"), GET_SENT, kept=False)
passes("HTTP/1.0 without Host", "9112 3.2", request(line=b"GET /a HTTP/1.0", host=None), GET_SENT, kept=False)
passes(
    "HTTP/1.0 keep-alive", "9112 9.3", request(b"Connection: keep-alive", line=b"GET /a HTTP/1.0"), GET_SENT
)
passes("Connection: close", "9112 9.6", request(b"Connection: close"), GET_SENT, kept=False)
passes("Connection: Close, x", "9110 7.6.1", request(b"Connection: Close, x"), GET_SENT, kept=False)
passes(
    "close wins over keep-alive", "9112 9.3", request(b"Connection: keep-alive, close"), GET_SENT, kept=False
)
passes(
    "two Connection fields", "9110 5.3", request(b"Connection: x", b"Connection: close"), GET_SENT, kept=False
)
refused("HTTP/1.2", "9110 2.5, own", request(line=b"GET /a HTTP/1.2"), 505)
refused("HTTP/0.9", "9110 15.6.6", request(line=b"GET /a HTTP/0.9"), 505)
refused("HTTP/2.0", "9110 15.6.6", request(line=b"GET /a HTTP/2.0"), 505)
refused("HTTP/3.0", "9110 15.6.6", request(line=b"GET /a HTTP/3.0"), 505)
refused("the preface of HTTP/2", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)
for version in (
    b"http/1.1",
    b"HTTP/1",
    b"HTTP/11",
    b"HTTP/1.1.1",
    b"HTTP/01.1",
    b"HTTP/1.10",
    b"HTTP /1.1",
    b"HTTP/1,1",
):
    refused(f"version {version.decode()}", "9112 2.3", request(line=b"GET /a " + version))
for version in (b"RTSP/1.0", b"ICE/1.0", b"HTTPS/1.1", b"HTTP/a.b", b"ICY/1.1", b"HTTP/1.\xb1", b"HTTP-1.1"):
    refused(f"version {version!r}", "9112 2.3", request(line=b"GET /a " + version))

# --- Targets ----------------------------------------------------------------------------------

for target in (
    b"/",
    b"/a/",
    b"/a?b=c",
    b"/a?",
    b"/a?b=/../c//d",
    b"/a?%00",
    b"/a?%zz",
    b"/a?b?c",
    b"/a;v=1/b",
    b"/a...",
    b"/.well-known",
    b"/a/...",
    b"/%C3%A4",
    b"/a%20b",
    b"/a%25",
    b"/a:b@c",
    b"/~a",
    b"/a!$&'()*+,=",
):
    passes(
        f"target {target.decode()}",
        "9112 3.2.1",
        request(line=b"GET %b HTTP/1.1" % target),
        sent(b"GET " + target),
    )
for target, rule in (
    (b"*", "9112 3.2.4, own"),
    (b"gw:80", "9112 3.2.3"),
    (b"a", "9112 3.2.1"),
    (b"?a", "9112 3.2.1"),
    (b"//", "own"),
    (b"//gw/a", "own"),
    (b"/a//b", "own"),
    (b"/a//", "own"),
    (b"/.", "RFC 3986 5.2.4, own"),
    (b"/..", "RFC 3986 5.2.4, own"),
    (b"/a/./b", "RFC 3986 5.2.4, own"),
    (b"/a/../b", "RFC 3986 5.2.4, own"),
    (b"/a/..", "RFC 3986 5.2.4, own"),
    (b"/a/..;/b", "own"),
    (b"/a/.;x=y/b", "own"),
    (b"/a/%2e%2e/b", "RFC 3986 6.2.2, own"),
    (b"/a/.%2E/b", "RFC 3986 6.2.2, own"),
    (b"/%2e", "RFC 3986 6.2.2, own"),
    (b"/a%2fb", "own"),
    (b"/a%2Fb", "own"),
    (b"/a%5cb", "own"),
    (b"/a\\b", "RFC 3986 2"),
    (b"/a%00", "own"),
    (b"/a%0d%0ab", "own"),
    (b"/a%7f", "own"),
    (b"/%c0%af", "own"),
    (b"/%c0%ae%c0%ae/", "own"),
    (b"/%c1%9c", "own"),
    (b"/a%", "RFC 3986 2.1"),
    (b"/a%2", "RFC 3986 2.1"),
    (b"/a%zz", "RFC 3986 2.1"),
    (b"/a%u002f", "RFC 3986 2.1"),
    (b"/a#b", "9112 3.2.1"),
    (b"/a?b#c", "9112 3.2.1"),
    (b"/a\x00b", "RFC 3986 2"),
    (b"/a\x7fb", "RFC 3986 2"),
    (b"/\xc3\xa4", "RFC 3986 2"),
    (b'/a"b', "RFC 3986 2"),
    (b"/a<b>", "RFC 3986 2"),
    (b"/a{b}", "RFC 3986 2"),
    (b"/a|b", "RFC 3986 2"),
    (b"/a^b", "RFC 3986 2"),
    (b"/a`b", "RFC 3986 2"),
):
    refused(f"target {target!r}", rule, request(line=b"GET %b HTTP/1.1" % target))
refused("OPTIONS *", "9112 3.2.4, own", request(line=b"OPTIONS * HTTP/1.1"))
for target, origin in (
    (b"http://gw/a", b"/a"),
    (b"HTTP://GW/a?b", b"/a?b"),
    (b"https://gw/a", b"/a"),
    (b"http://gw", b"/"),
    (b"http://gw?b=c", b"/?b=c"),
    (b"http://gw/", b"/"),
):
    passes(
        f"absolute {target.decode()}",
        "9112 3.2.2",
        request(line=b"GET %b HTTP/1.1" % target),
        sent(b"GET " + origin),
    )
passes(
    "absolute with a port",
    "9112 3.2.2",
    request(line=b"GET http://gw:80/a HTTP/1.1", host=b"GW:80"),
    GET_SENT,
)
passes(
    "absolute, HTTP/1.0, no Host",
    "9112 3.2.2",
    request(line=b"GET http://gw/a HTTP/1.0", host=None),
    GET_SENT,
    kept=False,
)
for target in (
    b"http://other/a",
    b"http://gw:80/a",
    b"http://gw@other/a",
    b"http://other@gw/a",
    b"http:///a",
    b"http://",
    b"http:/a",
    b"http:gw/a",
    b"ftp://gw/a",
    b"ws://gw/a",
    b"file:///a",
    b"httpx://gw/a",
    b"http://gw/../a",
    b"http://gw//a",
    b"http://gw/%2e%2e/a",
    b"http://gw#a",
    b"http://gw\\a",
    b"gw/a",
    b"javascript:a",
):
    refused(f"absolute {target.decode()}", "9112 3.2.2, own", request(line=b"GET %b HTTP/1.1" % target))
refused("absolute without Host", "9112 3.2", request(line=b"GET http://gw/a HTTP/1.1", host=None))
refused("absolute OPTIONS without a path", "9112 3.2.4, own", request(line=b"OPTIONS http://gw HTTP/1.1"))

# --- Host -------------------------------------------------------------------------------------

for host in (
    b"gw",
    b"GW.Example",
    b"gw:1",
    b"gw:65535",
    b"127.0.0.1:80",
    b"[::1]",
    b"[2001:db8::1]:443",
    b"a_b",
    b"gw.",
):
    passes(f"Host {host.decode()}", "9110 7.2", request(host=host), GET_SENT)
passes(
    "Host after other fields", "9110 7.2", request(b"A: b", b"Host:gw", host=None), sent(b"GET /a", b"A: b")
)
refused("no Host", "9112 3.2", request(host=None))
refused("two Hosts", "9112 3.2", request(b"Host: other"))
refused("the same Host twice", "9112 3.2", request(b"host: gw"))
refused("two Hosts in HTTP/1.0", "9112 3.2", request(b"Host: gw", line=b"GET /a HTTP/1.0"))
for host in (
    b"",
    b"gw gw",
    b"gw,other",
    b"gw/a",
    b"a@gw",
    b"gw?a",
    b"gw#a",
    b"gw\\a",
    b"http://gw",
    b"gw:",
    b"gw:0",
    b"gw:65536",
    b"gw:80:80",
    b"gw:+80",
    b"gw:8o",
    b"gw: 80",
    b":80",
    b"[::1",
    b"::1",
    b"[]",
    b"[gw]",
    b"[::1]80",
    b"[::1]:",
    b"g%77",
    b"gw\x00",
    b"gw\t.x",
    b"g\xc3\xbc",
    b"*.gw",
    b"gw;a",
    b"'gw'",
    b"a" * 256,
):
    refused(f"Host {host[:20]!r}", "9110 7.2", request(host=host))

# --- Fields -----------------------------------------------------------------------------------

for name, given, out in (
    ("no space after the colon", b"X-A:b", b"X-A: b"),
    ("tabs and spaces around a value", b"X-A: \t b \t ", b"X-A: b"),
    ("an empty value", b"X-A:", b"X-A: "),
    ("a tab in a value", b"X-A: b\tc", b"X-A: b\tc"),
    ("obs-text in a value", b"X-A: \xe4\xff", b"X-A: \xe4\xff"),
    ("a colon in a value", b"X-A: b: c", b"X-A: b: c"),
    ("every token character", b"!#$%&'*+-.^_`|~09azAZ: b", b"!#$%&'*+-.^_`|~09azAZ: b"),
    ("an underscore that looks like a length", b"Content_Length: 5", b"Content_Length: 5"),
):
    passes(name, "9110 5.5" if "value" in name else "9110 5.1", request(given), sent(b"GET /a", out))
passes("a field twice", "9110 5.2", request(b"X-A: 1", b"x-a: 2"), sent(b"GET /a", b"X-A: 1", b"x-a: 2"))
for name, line, rule in (
    ("a folded value", b"X-A: b\r\n c", "9112 5.2"),
    ("a folded value with a tab", b"X-A: b\r\n\tc", "9112 5.2"),
    ("a folded Transfer-Encoding", b"Transfer-Encoding:\r\n chunked", "9112 5.2"),
    ("a line of spaces", b"X-A: b\r\n ", "9112 5.2"),
    ("a space before the colon", b"X-A : b", "9112 5.1"),
    ("a tab before the colon", b"X-A\t: b", "9112 5.1"),
    ("Content-Length with a space before the colon", b"Content-Length : 5", "9112 5.1"),
    ("Transfer-Encoding with a space before the colon", b"Transfer-Encoding : chunked", "9112 5.1"),
    ("no colon", b"X-A", "9112 5"),
    ("no name", b": b", "9112 5"),
    ("a name in parentheses", b"X(A): b", "9110 5.1"),
    ("a name with a slash", b"X/A: b", "9110 5.1"),
    ("a name with a NUL", b"X\x00A: b", "9110 5.1"),
    ("a name with DEL", b"X\x7fA: b", "9110 5.1"),
    ("a name in Latin-1", b"X\xe4: b", "9110 5.1"),
    ("a space in a name", b"X A: b", "9110 5.1"),
    ("NUL in a value", b"X-A: b\x00c", "9110 5.5"),
    ("DEL in a value", b"X-A: b\x7fc", "9110 5.5"),
    ("vertical tab in a value", b"X-A: b\x0bc", "9110 5.5"),
    ("escape in a value", b"X-A: \x1b[2J", "9110 5.5"),
    ("bare CR in a value", b"X-A: b\rc", "9112 2.2"),
    ("bare CR before a field", b"X-A: b\rTransfer-Encoding: chunked", "9112 2.2"),
    ("bare LF in a value", b"X-A: b\nc: d", "9112 2.2"),
    ("bare LF before a field", b"X-A: b\nTransfer-Encoding: chunked", "9112 2.2"),
    ("two CRs", b"X-A: b\r", "9112 2.2"),
    ("a line that begins with LF", b"\nX-A: b", "9112 2.2"),
):
    refused(name, rule, request(line))
refused("a folded first field", "9112 2.2", b"GET /a HTTP/1.1\r\n Host: gw\r\n\r\n")
refused("LF CR LF ends the head", "9112 2.2", b"GET /a HTTP/1.1\r\nHost: gw\n\r\n")
refused("CR LF LF ends the head", "9112 2.2", b"GET /a HTTP/1.1\r\nHost: gw\r\n\n")
refused("LF LF ends the head", "9112 2.2", b"GET /a HTTP/1.1\r\nHost: gw\n\n" + SMUGGLED)

# --- Connection and what is for one hop -------------------------------------------------------

for field in (
    b"Keep-Alive: timeout=5",
    b"TE: trailers",
    b"Trailer: X-A",
    b"Proxy-Connection: keep-alive",
    b"Upgrade: h2c",
    b"Proxy-Authorization: Basic eDp5",
    b"Proxy-Authenticate: Basic",
):
    passes(f"{field.split(b':')[0].decode()} is dropped", "9110 7.6.1", request(field), GET_SENT)
passes(
    "a named field is dropped",
    "9110 7.6.1",
    request(b"X-A: 1", b"Connection: x-a", b"X-B: 2"),
    sent(b"GET /a", b"X-B: 2"),
)
passes(
    "named later, and twice",
    "9110 7.6.1",
    request(b"Connection: a,,b ,", b"A: 1", b"b: 2", b"A: 3"),
    GET_SENT,
)
passes("Connection names Host", "9110 7.6.1", request(b"Connection: host"), GET_SENT)
passes(
    "Connection names Content-Length",
    "9110 7.6.1",
    request(b"Connection: content-length", b"Content-Length: 5", line=POST, body=b"hello"),
    HELLO_SENT,
)
passes(
    "Connection names Transfer-Encoding",
    "9110 7.6.1",
    request(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked", line=POST, body=CHUNKS),
    HELLO_SENT,
)
passes("a request to upgrade", "9110 7.8", request(b"Connection: Upgrade", b"Upgrade: websocket"), GET_SENT)
passes(
    "h2c",
    "9110 7.8",
    request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"),
    GET_SENT,
)
passes(
    "a request to upgrade with a body",
    "9110 7.8",
    request(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5", line=POST, body=b"hello"),
    HELLO_SENT,
)
passes(
    "a request to upgrade, and the next one",
    "9110 7.8",
    request(b"Connection: Upgrade", b"Upgrade: websocket") + request(line=b"GET /b HTTP/1.1"),
    GET_SENT,
    sent(b"GET /b"),
)
refused("Connection with parameters", "9110 7.6.1", request(b"Connection: close;q=1"))
refused("Connection without commas", "9110 5.6.1", request(b"Connection: close x"))
refused("Connection in quotes", "9110 7.6.1", request(b'Connection: "close"'))

# --- Expect -----------------------------------------------------------------------------------

for value in (b"100-continue", b"100-Continue"):
    passes(
        f"Expect {value.decode()}",
        "9110 10.1.1",
        request(b"Expect: " + value, b"Content-Length: 5", line=POST, body=b"hello"),
        HELLO_SENT,
    )
passes("Expect without a body", "9110 10.1.1", request(b"Expect: 100-continue"), GET_SENT)
passes(
    "Expect in HTTP/1.0",
    "9110 10.1.1",
    request(b"Expect: 100-continue", line=b"GET /a HTTP/1.0"),
    GET_SENT,
    kept=False,
)
for value in (b"200-ok", b"", b"100-continue, 100-continue", b"100-continue;a=b", b'"100-continue"', b"100"):
    refused(f"Expect {value.decode()}", "9110 10.1.1", request(b"Expect: " + value), 417)

# --- Content-Length ---------------------------------------------------------------------------

passes("a length", "9112 6.2", request(b"Content-Length: 5", line=POST, body=b"hello"), HELLO_SENT)
passes("no body at all", "9112 6.3", request(b"Content-Length: 0", line=POST), sent(b"POST /a", body=b""))
passes("leading zeros", "9110 8.6", request(b"Content-Length: 0005", line=POST, body=b"hello"), HELLO_SENT)
passes(
    "a body of GET",
    "9110 9.3.1",
    request(b"Content-Length: 5", body=b"hello"),
    sent(b"GET /a", body=b"hello"),
)
passes(
    "a body that looks like a request",
    "9112 6.3",
    request(b"Content-Length: %d" % len(SMUGGLED), line=POST, body=SMUGGLED),
    sent(b"POST /a", body=SMUGGLED),
)
passes(
    "a length of 5 and the next request",
    "9112 6.3",
    request(b"Content-Length: 5", line=POST, body=b"hello" + request()),
    HELLO_SENT,
    GET_SENT,
)
passes("no length and a POST behind", "9112 6.3", request(line=POST) + request(), sent(b"POST /a"), GET_SENT)
for fields in (
    (b"Content-Length: 5", b"Content-Length: 5"),
    (b"Content-Length: 5", b"Content-Length: 6"),
    (b"Content-Length: 0", b"content-length: 5"),
):
    refused(
        "two lengths " + b" and ".join(f.split(b" ")[1] for f in fields).decode(),
        "9110 8.6",
        request(*fields, line=POST, body=b"hello"),
    )
for value in (
    b"5, 5",
    b"5,5",
    b"5, 6",
    b"+5",
    b"-5",
    b"-0",
    b"0x5",
    b"5.0",
    b"5e0",
    b"",
    b"five",
    b"5 5",
    b"5;",
    b"'5'",
    b"5\x00",
    b"\xc2\xb95",
    b"\x0b5",
    b"5_0",
    b"99999999999999999999",
    b"9" * 400,
    b"18446744073709551621",
    b"4294967301a",
):
    refused(
        f"Content-Length {value[:24]!r}",
        "9110 8.6",
        request(b"Content-Length: " + value, line=POST, body=b"hello"),
    )

# --- Transfer-Encoding ------------------------------------------------------------------------

for value in (b"chunked", b" Chunked", b" chunked "):
    passes(
        f"Transfer-Encoding {value!r}",
        "9112 7",
        request(b"Transfer-Encoding:" + value, line=POST, body=CHUNKS),
        HELLO_SENT,
    )
for value in (b"gzip, chunked", b"identity, chunked", b"x, CHUNKED", b"trailers,chunked"):
    refused(
        f"Transfer-Encoding {value.decode()}",
        "9112 6.1",
        request(b"Transfer-Encoding: " + value, line=POST, body=CHUNKS),
        501,
    )
for value in (
    b"",
    b"gzip",
    b"identity",
    b"chunked, gzip",
    b"chunked, chunked",
    b"chunked, identity",
    b"chunked,",
    b",chunked, ,chunked",
    b"xchunked",
    b"chunkedx",
    b"chunked;q=1",
    b'"chunked"',
    b"'chunked'",
    b"chunk",
    b"chun ked",
    b"chunked 0",
    b"0",
    b"cow",
    b"\xe2\x80\x8bchunked",
):
    refused(
        f"Transfer-Encoding {value!r}",
        "9112 6.3",
        request(b"Transfer-Encoding: " + value, line=POST, body=CHUNKS),
    )
refused(
    "Transfer-Encoding between tabs", "own", request(b"Transfer-Encoding:\tchunked\t", line=POST, body=CHUNKS)
)
for value in (b"\x0bchunked", b"\x00chunked", b"chunked\x00", b"\x0cchunked", b"chunked\x0b"):
    refused(
        f"Transfer-Encoding {value!r}",
        "9110 5.5",
        request(b"Transfer-Encoding: " + value, line=POST, body=CHUNKS),
    )
for name, fields, status in (
    ("chunked twice in two fields", (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    ("TE.TE, the other first", (b"Transfer-Encoding: x", b"Transfer-Encoding: chunked"), 501),
    ("TE.TE, the other last", (b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"), 400),
    ("TE.TE, identity last", (b"Transfer-Encoding: chunked", b"transfer-encoding: identity"), 400),
    ("CL.TE", (b"Content-Length: 6", b"Transfer-Encoding: chunked"), 400),
    ("TE.CL", (b"Transfer-Encoding: chunked", b"Content-Length: 6"), 400),
    ("CL.TE of the same length", (b"Content-Length: 15", b"Transfer-Encoding: chunked"), 400),
    ("CL.TE with an unknown coding", (b"Content-Length: 5", b"Transfer-Encoding: x"), 400),
    ("CL.0 and TE", (b"Content-Length: 0", b"Transfer-Encoding: chunked"), 400),
):
    refused(name, "9112 6.1", request(*fields, line=POST, body=CHUNKS + SMUGGLED), status)
refused(
    "chunked in HTTP/1.0",
    "9112 6.1",
    request(b"Transfer-Encoding: chunked", line=b"POST /a HTTP/1.0", body=CHUNKS),
)
passes(
    "a name that is longer",
    "9110 5.1",
    request(b"XTransfer-Encoding: chunked"),
    sent(b"GET /a", b"XTransfer-Encoding: chunked"),
)
passes(
    "an underscore in its name",
    "9110 5.1",
    request(b"Transfer_Encoding: chunked"),
    sent(b"GET /a", b"Transfer_Encoding: chunked"),
)

# --- Chunks -----------------------------------------------------------------------------------


def chunked(body: bytes) -> bytes:
    return request(b"Transfer-Encoding: chunked", line=POST, body=body)


for name, body, content in (
    ("no chunk", b"0\r\n\r\n", b""),
    ("two chunks", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    ("leading zeros in a size", b"00005\r\nhello\r\n000\r\n\r\n", b"hello"),
    ("a size in capitals", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    ("CRLF in a chunk", b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n"),
    ("extensions", b'5;a;b=c;d="e; f"\r\nhello\r\n0;z\r\n\r\n', b"hello"),
    ("trailers", b"5\r\nhello\r\n0\r\nX-A: b\r\nX-C:\r\n\r\n", b"hello"),
    ("a Host in the trailers", b"5\r\nhello\r\n0\r\nHost: other\r\n\r\n", b"hello"),
):
    passes(f"chunks: {name}", "9112 7.1", chunked(body), sent(b"POST /a", body=content))
passes("chunks and the next request", "9112 7.1", chunked(CHUNKS) + request(), HELLO_SENT, GET_SENT)
for name, body in (
    ("no size", b"\r\nhello\r\n0\r\n\r\n"),
    ("no hexadecimal size", b"g\r\n"),
    ("0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("a sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("a negative size", b"-5\r\nhello\r\n0\r\n\r\n"),
    ("a space before the size", b" 5\r\nhello\r\n0\r\n\r\n"),
    ("a space behind the size", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("a space before an extension", b"5 ;a=b\r\nhello\r\n0\r\n\r\n"),
    ("a tab behind the size", b"5\t\r\nhello\r\n0\r\n\r\n"),
    ("an underscore", b"1_0\r\nhello\r\n"),
    ("a size of 2 to the power of 64 and 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("sixteen digits", b"0000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("bare LF behind the size", b"5\nhello\r\n0\r\n\r\n"),
    ("bare CR behind the size", b"5\rhello\r\n0\r\n\r\n"),
    ("CR CR LF behind the size", b"5\r\r\nhello\r\n0\r\n\r\n"),
    ("longer than its size", b"5\r\nhello!\r\n0\r\n\r\n"),
    ("shorter than its size", b"6\r\nhello\r\n0\r\n\r\n"),
    ("nothing behind the data", b"5\r\nhello0\r\n\r\n"),
    ("bare LF behind the data", b"5\r\nhello\n0\r\n\r\n"),
    ("bare CR behind the data", b"5\r\nhello\r0\r\n\r\n"),
    ("LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("TERM.EXT", b"5;\n" + SMUGGLED),
    ("CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("NUL in an extension", b"5;a\x00\r\nhello\r\n0\r\n\r\n"),
    ("too large extensions", b"5;" + b"a" * 17_000 + b"\r\nhello\r\n0\r\n\r\n"),
    ("many extensions", b"1;aaaaaaaaaaaaaaaa\r\nx\r\n" * 1200),
    ("too large trailers", b"0\r\nX-A: " + b"a" * 17_000 + b"\r\n\r\n"),
    ("a trailer that is no field", b"0\r\nno field\r\n\r\n"),
    ("a trailer without a name", b"0\r\n: b\r\n\r\n"),
    ("a folded trailer", b"0\r\nX-A: b\r\n c\r\n\r\n"),
    ("a space before a trailer's colon", b"0\r\nX-A : b\r\n\r\n"),
    ("NUL in a trailer", b"0\r\nX-A: \x00\r\n\r\n"),
    ("bare LF in a trailer", b"0\r\nX-A: b\nX-B: c\r\n\r\n"),
    ("bare LF at the end", b"0\r\n\n"),
    ("bare LF behind the last size", b"0\n\r\n"),
    ("bare CR at the end", b"0\r\n\rG"),
    ("a length in the trailers", b"0\r\nContent-Length: 9\r\n\r\n"),
    ("a coding in the trailers", b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS),
    ("a request for trailers", b"0\r\n" + SMUGGLED),
):
    refused(f"chunks: {name}", "9112 7.1", chunked(body))

# --- Limits -----------------------------------------------------------------------------------

LONG = b"/" + b"a" * 16_000
passes("a long target", "9112 3", request(line=b"GET %b HTTP/1.1" % LONG), sent(b"GET " + LONG))
refused("a target that is too long", "9110 15.5.15", request(line=b"GET /%b HTTP/1.1" % (b"a" * 17_000)), 414)
refused("a line without an end", "9110 15.5.15", b"GET /" + b"a" * 17_000, 414)
passes(
    "99 fields",
    "9110 5.4",
    request(*[b"X-%d: a" % n for n in range(98)]),
    sent(b"GET /a", *[b"X-%d: a" % n for n in range(98)]),
)
refused("101 fields", "RFC 6585 5", request(*[b"X-%d: a" % n for n in range(100)]), 431)
refused("a large head", "RFC 6585 5", request(b"X-A: " + b"a" * 33_000), 431)
refused(
    "a large head of many fields",
    "RFC 6585 5",
    request(*[b"X-%d: %b" % (n, b"a" * 600) for n in range(60)]),
    431,
)
refused("a large head without an end", "RFC 6585 5", request(b"X-A: " + b"a" * 33_000)[:-4], 431)
refused("a long name", "RFC 6585 5", request(b"X" * 257 + b": a"), 431)
passes("a name of 256 bytes", "9110 5.4", request(b"X" * 256 + b": a"), sent(b"GET /a", b"X" * 256 + b": a"))

# --- One behind the other ---------------------------------------------------------------------

passes("two requests", "9112 9.3.2", request() + request(line=b"GET /b HTTP/1.1"), GET_SENT, sent(b"GET /b"))
passes("an empty line between", "9112 2.2", request() + b"\r\n" + request(), GET_SENT, GET_SENT)
passes("nothing behind close", "9112 9.6", request(b"Connection: close") + SMUGGLED, GET_SENT, kept=False)
CASES.append(
    RequestCase(
        "a bad one behind a good one",
        "9112 9.3.2",
        request() + b"X\r\n\r\n" + SMUGGLED,
        (200, 400),
        (GET_SENT,),
    )
)
CASES.append(RequestCase("nothing", "9112 9", b"", (), (), True))
CASES.append(RequestCase("half a head", "9112 8", request()[:-2], (), (), False))
CASES.append(
    RequestCase(
        "half a body", "9112 8", request(b"Content-Length: 9", line=POST, body=b"hello"), (), (), False
    )
)
CASES.append(RequestCase("half a chunk", "9112 8", chunked(b"5\r\nhel"), (), (), False))
CASES.append(RequestCase("chunks without the last", "9112 8", chunked(b"5\r\nhello\r\n"), (), (), False))
