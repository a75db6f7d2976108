"""HTTP/1.1 messages, read as RFC 9110 and RFC 9112 write them and in no other way: the slow, plain reader.

It uses nothing of the gateway, and takes whole connections only. It mends nothing: where the RFCs let a
recipient be lenient it is not, but for one empty line before a request, and a status line without the space
before its missing reason. What it does not know are limits and what fastgw refuses of its own accord, so
fastgw may refuse what is read here, and must not accept what is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# (Brackets, which RFC 3986 does not allow there, and a "%" in a query that encodes nothing are common.)
REQUEST_LINE = re.compile(rb"(%b) ([^\x00-\x20\x7f-\xff\"#<>\\^`{|}]+) HTTP/1\.([01])\Z" % TOKEN)
BROKEN_ENCODING = re.compile(rb"[^?]*%(?![0-9A-Fa-f]{2})")
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\Z")
FIELD_LINE = re.compile(rb"(%b):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*"
                        rb"[\x21-\x7e\x80-\xff])?)?)[ \t]*\Z" % TOKEN)  # fmt: skip
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
TOKENS = re.compile(rb"(?:[ \t]*(?:%b)?[ \t]*(?:,|\Z))*\Z" % TOKEN)
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~!$&'()*+,;=%]+)(?::[0-9]*)?\Z")
ABSOLUTE = re.compile(rb"https?://([^/?#]+)(.*)\Z", re.IGNORECASE | re.DOTALL)

# RFC 9110, 7.6.1, and the fields that frame a message: our own are written instead.
ONE_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
     b"proxy-authenticate", b"proxy-authorization", b"content-length")
)  # fmt: skip

Fields = tuple[tuple[bytes, bytes], ...]


class Invalid(Exception):
    """No HTTP/1.1 message, and no beginning of one."""


class Incomplete(Exception):
    """The beginning of a message: its rest is missing."""


@dataclass(frozen=True)
class Received:
    """One message as it came.

    Attributes:
        start: method and target, or the status.
        fields: names in lower case, values without white space around them.
        minor_version: of HTTP/1.
        keeps_alive: its sender takes, or sends, another one on this connection.
        end: where in the data it ends.
    """

    start: tuple[bytes, bytes] | tuple[int]
    fields: Fields
    body: bytes
    minor_version: int
    keeps_alive: bool
    end: int

    def passed_on(self) -> Fields:
        """The fields that are for more than one hop."""
        named = {token.lower() for value in _all(self.fields, b"connection") for token in _items(value)}
        dropped = ONE_HOP | (named - {b"close"})  # (an option, and no field is called so)
        return tuple((name, value) for name, value in self.fields if name not in dropped)


def _all(fields: Fields, wanted: bytes) -> list[bytes]:
    return [value for name, value in fields if name == wanted]


def _items(value: bytes) -> list[bytes]:
    """A list of tokens: RFC 9110, 5.6.1.2."""
    if not TOKENS.match(value):
        raise Invalid("no list of tokens")
    return [item for part in value.split(b",") if (item := part.strip(b" \t"))]


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    """The line at an offset, and the offset behind its CRLF."""
    end = data.find(b"\r\n", at)
    line = data[at:end] if end >= 0 else data[at:].removesuffix(b"\r")
    if b"\r" in line or b"\n" in line or b"\0" in line:
        raise Invalid("a CR, LF or NUL inside a line")
    if end < 0:
        raise Incomplete
    return line, end + 2


def _fields(data: bytes, at: int) -> tuple[Fields, int]:
    """Field lines up to the empty one."""
    found = []
    while True:
        line, at = _line(data, at)
        if not line:
            return tuple(found), at
        match = FIELD_LINE.match(line)
        if match is None:
            raise Invalid("no field line")
        found.append((match[1].lower(), match[2]))


def _chunks(data: bytes, at: int) -> tuple[bytes, int]:
    """RFC 9112, 7.1. Extensions and trailers are read and ignored."""
    body = b""
    while True:
        line, at = _line(data, at)
        match = CHUNK_LINE.match(line)
        if match is None:
            raise Invalid("no chunk size")
        size = int(match[1], 16)
        if size == 0:
            return body, _fields(data, at)[1]
        body += data[at : at + size]
        at += size
        if not b"\r\n".startswith(data[at : at + 2]):
            raise Invalid("a chunk longer than its size")
        if len(data) < at + 2:
            raise Incomplete
        at += 2


def _is_chunked(fields: Fields, version: bytes) -> bool:
    codings = _all(fields, b"transfer-encoding")
    if not codings:
        return False
    if [coding.lower() for coding in codings] != [b"chunked"]:
        raise Invalid("a coding other than chunked")
    if version == b"0" or _all(fields, b"content-length"):
        raise Invalid("chunks in HTTP/1.0, or with a length")
    return True


def _length(fields: Fields) -> int | None:
    lengths = _all(fields, b"content-length")
    if len(lengths) > 1 or (lengths and not re.fullmatch(rb"[0-9]+", lengths[0])):
        raise Invalid("no one number of bytes")
    return int(lengths[0]) if lengths else None


def _keeps_alive(fields: Fields, version: bytes) -> bool:
    options = {option.lower() for value in _all(fields, b"connection") for option in _items(value)}
    return b"close" not in options and (version == b"1" or b"keep-alive" in options)


def _sized(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if len(data) < at + size:
        raise Incomplete
    return data[at : at + size], at + size


def read_request(data: bytes, at: int = 0) -> Received:
    """The request at an offset. Raises Invalid or Incomplete."""
    if data[at:] in (b"\r", b"\r\n"):
        raise Incomplete
    if data.startswith(b"\r\n", at):
        at += 2
    line, at = _line(data, at)
    match = REQUEST_LINE.match(line)
    if match is None or BROKEN_ENCODING.match(match[2]):
        raise Invalid("no request line")
    method, target, version = match.groups()
    fields, at = _fields(data, at)
    hosts = _all(fields, b"host")
    if len(hosts) > 1 or (version == b"1" and not hosts) or not all(map(HOST.match, hosts)):
        raise Invalid("not one valid Host")
    absolute = ABSOLUTE.match(target)
    if absolute is not None:
        if not HOST.match(absolute[1]):
            raise Invalid("a target with a bad authority")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    elif not target.startswith(b"/"):
        raise Invalid("a target in another form")  # "*" and authorities: not for a gateway of resources
    size = _length(fields)
    keeps_alive = _keeps_alive(fields, version)
    body, at = _chunks(data, at) if _is_chunked(fields, version) else _sized(data, at, size or 0)
    return Received((method, target), fields, body, int(version), keeps_alive, at)


def read_requests(data: bytes) -> tuple[list[Received], bool]:
    """All requests of a connection, up to one that says it is the last; is what follows them invalid?"""
    found: list[Received] = []
    at = 0
    while at < len(data) and (not found or found[-1].keeps_alive):
        try:
            found.append(read_request(data, at))
        except Incomplete:
            break
        except Invalid:
            return found, True
        at = found[-1].end
    return found, False


def read_answer(data: bytes, *, is_head: bool = False, is_ended: bool = False) -> Received:
    """The final answer, behind interim ones. Raises Invalid or Incomplete.

    Args:
        is_head: it answers HEAD.
        is_ended: the connection was closed, in order, behind the data.
    """
    at = 0
    while True:
        line, at = _line(data, at)
        match = STATUS_LINE.match(line)
        if match is None:
            raise Invalid("no status line")
        version, status = match[1], int(match[2])
        fields, at = _fields(data, at)
        if status >= 200:
            break
        if status == 101:
            raise Invalid("an upgrade that nobody asked for")
    keeps_alive = _keeps_alive(fields, version)
    body = b""
    if not (is_head or status in (204, 304)):
        size = _length(fields)
        if _is_chunked(fields, version):
            body, at = _chunks(data, at)
        elif size is not None:
            body, at = _sized(data, at, size)
        elif is_ended:
            body, at, keeps_alive = data[at:], len(data), False
        else:
            raise Incomplete
    return Received((status,), fields, body, int(version), keeps_alive, at)
