"""Which heads are accepted, what is read of them, and what is written."""

from __future__ import annotations

import pytest

from fastgw.errors import BadResponse, ProtocolError
from fastgw.wire.head import (
    CHUNKED_BODY,
    NO_BODY,
    UNTIL_CLOSE,
    FieldFilter,
    Limits,
    RequestHead,
    RequestTemplate,
    ResponseHead,
    ResponseTemplate,
    check_name,
    check_value,
    field_block,
    scan_request,
    scan_response,
)

LIMITS = Limits()


def request(
    *fields: str, line: str = "GET /v1/models HTTP/1.1", host: bool = True, limits: Limits = LIMITS
) -> RequestHead:
    lines = [line, *(["Host: gw"] if host else []), *fields]
    head = scan_request("".join(f"{text}\r\n" for text in lines).encode("latin-1") + b"\r\n", 0, limits)
    assert head is not None
    return head


def response(*fields: str, line: str = "HTTP/1.1 200 OK") -> ResponseHead:
    head = scan_response("".join(f"{text}\r\n" for text in [line, *fields]).encode() + b"\r\n", 0, LIMITS)
    assert head is not None
    return head


def refusal(data: bytes, limits: Limits = LIMITS) -> int:
    """The status with which a request head is refused."""
    with pytest.raises(ProtocolError) as caught:
        scan_request(data, 0, limits)
    assert caught.value.closes
    return caught.value.status


# --- Requests: what is read -------------------------------------------------------------------


def test_a_request_head_is_read() -> None:
    data = (
        b"POST /v1/chat/completions?a=1 HTTP/1.1\r\nHost: gw:9080\r\n"
        b"Content-Length: 12\r\nX-A:  b c \t\r\n\r\nbody"
    )
    head = scan_request(data, 0, LIMITS)
    assert head is not None
    assert (head.method, head.target, head.path) == (
        b"POST",
        b"/v1/chat/completions?a=1",
        b"/v1/chat/completions",
    )
    assert (head.host, head.minor_version, head.content_length) == (b"gw:9080", 1, 12)
    assert head.end == len(data) - 4
    assert head.keep_alive and not head.is_chunked and not head.is_head
    assert head.get(b"x-a") == b"b c"
    assert head.get(b"x-b") is None
    assert head.items() == [(b"host", b"gw:9080"), (b"content-length", b"12"), (b"x-a", b"b c")]
    assert repr(head) == "<RequestHead POST /v1/chat/completions>"


def test_a_head_is_none_until_it_is_whole() -> None:
    data = b"GET / HTTP/1.1\r\nHost: gw\r\nAccept: */*\r\n\r\n"
    for size in range(len(data)):
        assert scan_request(data[:size], 0, LIMITS) is None
    assert scan_request(data, 0, LIMITS) is not None


def test_a_head_may_begin_anywhere_in_the_data() -> None:
    data = b"xxxxGET /a HTTP/1.1\r\nHost: gw\r\n\r\nrest"
    head = scan_request(data, 4, LIMITS)
    assert head is not None
    assert (head.target, data[head.end :]) == (b"/a", b"rest")


def test_one_empty_line_before_a_request_is_passed_over() -> None:
    assert request(line="\r\nGET / HTTP/1.1").path == b"/"
    assert refusal(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n") == 400


def test_the_first_of_several_fields_is_got_and_all_are_items() -> None:
    head = request("X-A: 1", "x-a: 2")
    assert head.get(b"x-a") == b"1"
    assert head.items()[1:] == [(b"x-a", b"1"), (b"x-a", b"2")]


def test_many_fields_are_kept() -> None:
    head = request(*(f"X-{number}: {number}" for number in range(99)))
    assert head.get(b"x-98") == b"98"
    assert len(head.items()) == 100


@pytest.mark.parametrize(
    ("fields", "line", "keep_alive"),
    [
        ([], "GET / HTTP/1.1", True),
        (["Connection: close"], "GET / HTTP/1.1", False),
        (["Connection: foo, Close"], "GET / HTTP/1.1", False),
        (["Connection: keep-alive", "Connection: close"], "GET / HTTP/1.1", False),
        ([], "GET / HTTP/1.0", False),
        (["Connection: Keep-Alive"], "GET / HTTP/1.0", True),
        (["Connection: keep-alive, close"], "GET / HTTP/1.0", False),
    ],
)
def test_whether_the_connection_is_kept(fields: list[str], line: str, keep_alive: bool) -> None:
    assert request(*fields, line=line).keep_alive is keep_alive


def test_http_1_0_needs_no_host() -> None:
    head = request(line="GET / HTTP/1.0", host=False)
    assert head.host is None and head.minor_version == 0


def test_expect_is_understood_in_http_1_1_only() -> None:
    assert request("Expect: 100-Continue", "Content-Length: 1").expects_continue
    assert not request("Expect: 100-continue", "Content-Length: 1", line="GET / HTTP/1.0").expects_continue


@pytest.mark.parametrize("fields", [[], ["Content-Length: 0"]])
def test_nothing_is_to_be_continued_where_there_is_no_body(fields: list[str]) -> None:
    assert not request("Expect: 100-continue", *fields).expects_continue
    assert request("Expect: 100-continue", "Transfer-Encoding: chunked").expects_continue


@pytest.mark.parametrize(
    ("line", "target", "path"),
    [
        ("GET http://gw/a?b HTTP/1.1", b"/a?b", b"/a"),
        ("GET https://GW/a HTTP/1.1", b"/a", b"/a"),
        ("GET http://gw HTTP/1.1", b"/", b"/"),
        ("GET http://gw?b=c HTTP/1.1", b"/?b=c", b"/"),
    ],
)
def test_an_absolute_target_becomes_a_path(line: str, target: bytes, path: bytes) -> None:
    head = request(line=line)
    assert (head.target, head.path, head.host) == (target, path, b"gw")


def test_an_absolute_target_of_http_1_0_says_the_host() -> None:
    assert request(line="GET http://gw:80/ HTTP/1.0", host=False).host == b"gw:80"


def test_an_upgrade_is_seen() -> None:
    assert request("Connection: Upgrade", "Upgrade: websocket").wants_upgrade
    assert not request().wants_upgrade


# --- Requests: what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET  / HTTP/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET /", 400),
        ("GET", 400),
        ("", 400),
        (" GET / HTTP/1.1", 400),
        ("G@T / HTTP/1.1", 400),
        ("G" * 33 + " / HTTP/1.1", 501),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1.1\r", 400),
        ("GET / HTTQ/1.1", 400),
        ("GET / HTTP/1.x", 400),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("PRI * HTTP/2.0", 505),
        ("GET / HTTP/0.9", 505),
        ("OPTIONS * HTTP/1.1", 400),
        ("GET http://other/ HTTP/1.1", 400),
        ("GET gw:80 HTTP/1.1", 400),
        ("GET /a\x00b HTTP/1.1", 400),
        ("GET /a\tb HTTP/1.1", 400),
        ("GET /a#b HTTP/1.1", 400),
        ("GET /a\\b HTTP/1.1", 400),
        ("GET /ä HTTP/1.1", 400),
        ("CONNECT / HTTP/1.1", 501),
        ("TRACE / HTTP/1.1", 501),
        ("trace / HTTP/1.1", 501),
    ],
)
def test_a_bad_request_line_is_refused(line: str, status: int) -> None:
    assert refusal(line.encode("latin-1") + b"\r\nHost: gw\r\n\r\n") == status


@pytest.mark.parametrize(
    "path",
    [
        "/../admin",
        "/a/..",
        "/a/../b",
        "/.",
        "/a/./b",
        "//a",
        "/a//b",
        "/%2e%2e/a",
        "/a%2Fb",
        "/a%5cb",
        "/a%00",
        "/a%0d%0ab",
        "/a%7f",
        "/a%",
        "/a%2",
        "/a%zz",
        "/..;/a",
        "/.;x=y/a",
        "/a/..;",
    ],
)
def test_a_path_that_a_node_could_read_otherwise_is_refused(path: str) -> None:
    assert refusal(f"GET {path} HTTP/1.1\r\nHost: gw\r\n\r\n".encode()) == 400


@pytest.mark.parametrize(
    "path",
    ["/", "/a/", "/...", "/..a", "/a;b=..", "/a%20b", "/a%C3%A4", "/.well-known/x", "/a?b=../%2e&c=%zz"],
)
def test_a_plain_path_is_accepted(path: str) -> None:
    assert request(line=f"GET {path} HTTP/1.1").path == path.partition("?")[0].encode()


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (b"Host: gw", 400),
        (b"Host: ", 400),
        (b"X-A : b", 400),
        (b" X-A: b", 400),
        (b"\tfolded", 400),
        (b": b", 400),
        (b"X-A", 400),
        (b"X A: b", 400),
        (b"X-\xe4: b", 400),
        (b"X-A: b\x00c", 400),
        (b"X-A: b\rc", 400),
        (b"X-A: b\nX-B: c", 400),
        (b"X-A: b\r\r", 400),
        (b"X-A: b\x7f", 400),
        (b"Content-Length: 5\r\nContent-Length: 5", 400),
        (b"Content-Length: 5, 5", 400),
        (b"Content-Length: +5", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: 0x5", 400),
        (b"Content-Length: 5 5", 400),
        (b"Content-Length: ", 400),
        (b"Content-Length: " + b"9" * 19, 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: gzip, chunked", 501),
        (b"Transfer-Encoding: chunked, identity", 400),
        (b"Transfer-Encoding: xchunked", 400),
        (b"Transfer-Encoding: \x0bchunked", 400),
        (b"Transfer-Encoding: identity", 400),
        (b"Transfer-Encoding : chunked", 400),
        (b"Expect: 200-ok", 417),
        (b"Connection: a b@c", 400),
        (b'Connection: "close"', 400),
        (b"X" * 257 + b": a", 431),
    ],
)
def test_a_bad_field_is_refused(field: bytes, status: int) -> None:
    assert refusal(b"POST / HTTP/1.1\r\nHost: gw\r\n" + field + b"\r\n\r\n") == status


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a/b", "a,b", "user@gw", "gw?x", "gw#x", "ä", "x" * 256]
    + ["gw:", "gw:0", "gw:65536", "gw:1:2", ":1", "[", "[]", "[::1", "[gw]", "::1", "g%77"],
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    assert refusal(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()) == 400


def test_a_request_without_a_host_is_refused() -> None:
    assert refusal(b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n") == 400


def test_chunked_is_refused_in_http_1_0() -> None:
    assert refusal(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n") == 400


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: gw\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: gw\n\r\n",
        b"GET / HTTP/1.1\r\nHost: gw\r\n\n",
        b"GET / HTTP/1.1\n\n",
        b"GET / HTTP/1.1\r\n\n",
        b"\nGET / HTTP/1.1\r\nHost: gw\r\n\r\n",
    ],
)
def test_a_bare_line_feed_ends_no_line(data: bytes) -> None:
    assert refusal(data) == 400


def test_the_limits_of_a_head_hold() -> None:
    small = Limits(64, 256, 4)
    assert refusal(b"GET /" + b"a" * 64, small) == 414
    assert refusal(b"GET /" + b"a" * 64 + b" HTTP/1.1\r\nHost: a\r\n\r\n", small) == 414
    assert refusal(b"GET / HTTP/1.1\r\nX: " + b"a" * 256, small) == 431
    assert refusal(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 256 + b"\r\n\r\n", small) == 431
    assert refusal(b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n", small) == 431
    assert request("A: 1", "B: 2", "C: 3", line="GET / HTTP/1.1", limits=small).path == b"/"


def test_a_scan_of_nothing_is_an_error_and_no_crash() -> None:
    for scan in (scan_request, scan_response):
        with pytest.raises(TypeError):
            scan(None, 0, LIMITS)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            scan(b"", 0, None)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            scan(b"abc", -1, LIMITS)
        with pytest.raises(ValueError):
            scan(b"abc", 4, LIMITS)
    head = RequestHead()
    assert head.items() == [] and head.get(b"a") is None
    with pytest.raises(TypeError):
        head.get(None)  # type: ignore[arg-type]


# --- Responses --------------------------------------------------------------------------------


def test_a_response_head_is_read() -> None:
    data = b"HTTP/1.1 404 Not  Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    head = scan_response(data, 0, LIMITS)
    assert head is not None
    assert (head.status, head.content_length, head.end) == (404, 2, len(data) - 2)
    assert head.is_json and not head.is_event_stream and head.keep_alive
    assert repr(head) == "<ResponseHead 404>"


@pytest.mark.parametrize(
    "line",
    ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.0 200 OK", "HTTP/1.1 599 W\xe4rme", "HTTP/1.1 100 Continue"],
)
def test_a_status_line_may_have_any_reason_or_none(line: str) -> None:
    data = line.encode("latin-1") + b"\r\n\r\n"
    head = scan_response(data, 0, LIMITS)
    assert head is not None
    assert head.status == int(line.split()[1])


@pytest.mark.parametrize(
    "line",
    [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 600 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200\rOK",
        "HTTP/1.1 200 O\rK",
        "HTTP/1.1 200 O\x00K",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/1.1",
        "ICY 200 OK",
        "RTSP/1.0 200 OK",
        "<html>",
        "",
    ],
)
def test_a_bad_status_line_is_refused(line: str) -> None:
    with pytest.raises(BadResponse):
        scan_response(line.encode() + b"\r\n\r\n", 0, LIMITS)


def test_what_cannot_become_a_status_line_is_refused_at_once() -> None:
    assert scan_response(b"HT", 0, LIMITS) is None
    with pytest.raises(BadResponse):
        scan_response(b"HX", 0, LIMITS)
    with pytest.raises(BadResponse):
        scan_response(b"\r\nHTTP/1.1 200 OK\r\n\r\n", 0, LIMITS)


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 1", "Content-Length: 1"],
        ["Content-Length: x"],
        ["Content-Length: 1", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip"],
        ["Bad Name: x"],
        [" folded: x"],
    ],
)
def test_a_response_with_a_bad_field_is_refused(fields: list[str]) -> None:
    with pytest.raises(BadResponse):
        response(*fields)


def test_the_limits_of_a_response_hold_however_it_comes() -> None:
    small = Limits(64, 256, 4)
    line = b"HTTP/1.1 200 " + b"x" * 64
    for data in (line, line + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 256):
        with pytest.raises(BadResponse):
            scan_response(data, 0, small)
    with pytest.raises(BadResponse):
        scan_response(b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\n\r\n", 0, small)


@pytest.mark.parametrize(
    ("kind", "is_stream", "is_json"),
    [
        ("text/event-stream", True, False),
        ("Text/Event-Stream; charset=utf-8", True, False),
        ("text/event-stream;charset=utf-8", True, False),
        ("text/event-streams", False, False),
        ("text/event+stream", False, False),
        ("application/json", False, True),
        ("application/json ; charset=utf-8", False, True),
        ("application/jsonl", False, False),
        ("application/json-seq", False, False),
        ("text/html", False, False),
    ],
)
def test_the_type_of_an_answer(kind: str, is_stream: bool, is_json: bool) -> None:
    head = response(f"Content-Type: {kind}")
    assert (head.is_event_stream, head.is_json) == (is_stream, is_json)


# --- Filters ----------------------------------------------------------------------------------


def test_a_filter_knows_its_names_in_any_case() -> None:
    names = FieldFilter([b"Accept", b"x-a", b"x-b", b"x-fastgw-*", b"n" * 256])
    for name in (b"accept", b"ACCEPT", b"X-B", b"x-fastgw-", b"X-Fastgw-Node", b"n" * 256):
        assert name in names
    for name in (b"", b"accep", b"accepts", b"x-c", b"x-fastg", b"n" * 255, b"m" * 256, b"x" * 300):
        assert name not in names
    assert names.names == {b"accept", b"x-a", b"x-b", b"x-fastgw-*", b"n" * 256}


def test_a_filter_takes_what_a_field_name_may_be_and_no_more() -> None:
    full = [b"%03d" % number for number in range(255)]
    assert all(name in FieldFilter(full) for name in full)
    for names in ([*full, b"one-more"], [b""], [b"x" * 257]):
        with pytest.raises(ValueError):
            FieldFilter(names)
    with pytest.raises(TypeError):
        assert None in FieldFilter([b"a"])  # type: ignore[comparison-overlap]


# --- Writing ----------------------------------------------------------------------------------

HOP_BY_HOP = [
    "Connection: x-named, keep-alive",
    "X-Named: 1",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic x",
    "Proxy-Authenticate: Basic",
    "TE: trailers",
    "Trailer: x",
    "Upgrade: h2c",
]


def lines_of(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def test_a_request_is_written_anew() -> None:
    template = RequestTemplate(b"api.example", [(b"authorization", b"Bearer k")], [b"authorization"])
    head = request("Authorization: Bearer theirs", "ACCEPT:  */* ", *HOP_BY_HOP, line="GET /a?b HTTP/1.1")
    assert lines_of(template.render(head, b"POST", b"/c", 12, b"x-extra: 1\r\n")) == [
        b"POST /c HTTP/1.1",
        b"host: api.example",
        b"authorization: Bearer k",
        b"ACCEPT: */*",
        b"x-extra: 1",
        b"content-length: 12",
    ]
    assert not template.forwards_host


def test_a_request_without_a_body_says_nothing_of_one() -> None:
    head = request()
    template = RequestTemplate(b"a")
    assert lines_of(template.render(head, b"GET", b"/", NO_BODY)) == [b"GET / HTTP/1.1", b"host: a"]
    assert b"content-length: 0" in template.render(head, b"POST", b"/", 0)
    assert b"transfer-encoding: chunked" in template.render(head, b"POST", b"/", CHUNKED_BODY)


def test_the_framing_of_the_client_is_never_passed_on() -> None:
    head = request("Transfer-Encoding: chunked", "Expect: 100-continue", line="POST / HTTP/1.1")
    assert lines_of(RequestTemplate(b"a").render(head, b"POST", b"/", 3)) == [
        b"POST / HTTP/1.1",
        b"host: a",
        b"content-length: 3",
    ]


def test_the_clients_host_is_sent_where_it_is_asked_for() -> None:
    template = RequestTemplate(None)
    assert template.forwards_host
    assert lines_of(template.render(request(), b"GET", b"/", NO_BODY))[1:] == [b"host: gw"]


def test_only_the_kept_fields_are_passed_on() -> None:
    template = RequestTemplate(b"a", keep=[b"accept", b"x-sim-*", b"x-other"])
    head = request("Accept: 1", "Cookie: 2", "X-Sim-Id: 3", "X-Other: 4")
    out = template.render(head, b"GET", b"/", NO_BODY, None, FieldFilter([b"x-other"]))
    assert lines_of(out)[2:] == [b"Accept: 1", b"X-Sim-Id: 3"]


def test_a_large_head_is_written_too() -> None:
    head = request(*(f"X-{number}: {'v' * 200}" for number in range(90)))
    out = RequestTemplate(b"a").render(head, b"GET", b"/" + b"p" * 9000, NO_BODY)
    assert len(lines_of(out)) == 92 and b"x-89: ".upper() + b"v" * 200 in out


@pytest.mark.parametrize(
    "field", [(b"x", b"a\r\nb: c"), (b"x", b"a\x00"), (b"x y", b"a"), (b"", b"a"), (b"x:", b"")]
)
def test_no_template_and_no_block_takes_a_field_that_ends_its_line(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError):
        RequestTemplate(b"a", [field])
    with pytest.raises(ValueError):
        field_block([field])


def test_values_and_names_are_checked() -> None:
    assert check_value(b"a\tb \xff") == b"a\tb \xff"
    assert check_value(b"") == b""
    assert check_name(b"x-a_b") == b"x-a_b"
    for value in (b"\r", b"\n", b"\x00", b"\x7f", b"\x1b"):
        with pytest.raises(ValueError):
            check_value(value)
    for name in (b"", b"a b", b"a:", b"a\n", b"\xe4", b"x" * 257):
        with pytest.raises(ValueError):
            check_name(name)
    with pytest.raises(TypeError):
        check_value(None)  # type: ignore[arg-type]


def test_a_response_is_written_anew() -> None:
    head = response("Server: x", "Content-Length: 5", "X-A: b", *HOP_BY_HOP, line="HTTP/1.0 418 I'm a teapot")
    template = ResponseTemplate([b"server"])
    assert lines_of(template.render(head, 5, True, 1, b"x-ours: 1\r\n")) == [
        b"HTTP/1.1 418 I'm a teapot",
        b"X-A: b",
        b"x-ours: 1",
        b"content-length: 5",
    ]


@pytest.mark.parametrize(
    ("framing", "keep_alive", "minor", "expected"),
    [
        (NO_BODY, True, 1, []),
        (NO_BODY, False, 1, [b"connection: close"]),
        (0, True, 0, [b"content-length: 0", b"connection: keep-alive"]),
        (CHUNKED_BODY, True, 1, [b"transfer-encoding: chunked"]),
        (UNTIL_CLOSE, False, 0, [b"connection: close"]),
        (10**17, False, 1, [b"content-length: 100000000000000000", b"connection: close"]),
    ],
)
def test_a_response_says_how_it_ends(
    framing: int, keep_alive: bool, minor: int, expected: list[bytes]
) -> None:
    out = ResponseTemplate().render(response(line="HTTP/1.1 200"), framing, keep_alive, minor, b"")
    assert lines_of(out) == [b"HTTP/1.1 200 ", *expected]


def test_writing_nothing_is_an_error_and_no_crash() -> None:
    with pytest.raises(TypeError):
        RequestTemplate(b"a").render(None, b"GET", b"/", 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        RequestTemplate(b"a").render(request(), None, b"/", 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ResponseTemplate().render(None, 0, True, 1, b"")  # type: ignore[arg-type]


# --- What a node repeats ----------------------------------------------------------------------


def test_a_masked_head_is_written_with_the_masks() -> None:
    head = response("Location: /?key=abc", "X-abc:abc ", "Content-Length: 3", line="HTTP/1.1 302 to abc")
    head.mask(lambda line: line.replace(b"abc", b"***"))
    assert ResponseTemplate().render(head, head.content_length, True, 1, b"") == (
        b"HTTP/1.1 302 to ***\r\nLocation: /?key=***\r\nX-***: ***\r\ncontent-length: 3\r\n\r\n"
    )
    assert head.get(b"location") == b"/?key=***"


def test_masks_of_another_length_are_refused() -> None:
    head = response("X: abc")
    with pytest.raises(ValueError, match="another length"):
        head.mask(lambda line: line.replace(b"abc", b"*"))
    assert head.get(b"x") == b"abc"
