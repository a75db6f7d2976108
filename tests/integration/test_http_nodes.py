"""Answers of nodes, byte for byte: every way to frame one, and every way to get it wrong."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from rig import Rig, running, wait_until
from wire_ends import (
    Client,
    Peer,
    answer,
    chunked,
    config_for,
    echoing,
    get,
    node,
    post,
    serving,
)

UNTOUCHED = {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def only_node(rig: Rig) -> dict[str, int]:
    """The failure counters of the one node there is."""
    (only,) = rig.nodes().values()
    return rig.call(lambda: dict(only.counters))  # in the loop: what follows an answer has been done then


# --- In order ---------------------------------------------------------------------------------

# (name, answer, body, is the connection to the node used again)
GOOD: list[tuple[str, bytes, bytes, bool]] = [
    ("by length", answer(b"hello world"), b"hello world", True),
    ("empty", answer(b""), b"", True),
    ("chunked", CHUNKED + chunked(b"hello ", b"world"), b"hello world", True),
    ("empty, chunked", CHUNKED + chunked(), b"", True),
    (
        "extensions and trailers",
        CHUNKED + b'6;a=b\r\nhello \r\n5;c="d"\r\nworld\r\n0;e\r\nX-T: 1\r\nX-U: 2\r\n\r\n',
        b"hello world",
        True,
    ),
    ("chunks by the byte", CHUNKED + chunked(*[bytes([c]) for c in b"hello world"]), b"hello world", True),
    ("by the end", b"HTTP/1.1 200 OK\r\n\r\nhello world", b"hello world", False),
    ("announced close", answer(b"hello world", "Connection: close"), b"hello world", False),
    ("HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 11\r\n\r\nhello world", b"hello world", False),
    ("HTTP/1.0 by the end", b"HTTP/1.0 200 OK\r\n\r\nhello world", b"hello world", False),
    (
        "HTTP/1.0 kept alive",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 11\r\n\r\nhello world",
        b"hello world",
        False,  # what such a node means by it is too uncertain
    ),
    ("longer than its length", answer(b"hello world")[:] + b" and more", b"hello world", False),
    ("another answer behind it", answer(b"hello world") + answer(b"stolen"), b"hello world", False),
    ("100 before it", b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello world"), b"hello world", True),
    (
        "102 and 103 before it",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        + answer(b"hello world"),
        b"hello world",
        True,
    ),
    ("no reason", b"HTTP/1.1 200 \r\nContent-Length: 11\r\n\r\nhello world", b"hello world", True),
    ("compressed", answer(b"\x1f\x8b\x08\x00\xff", "Content-Encoding: gzip"), b"\x1f\x8b\x08\x00\xff", True),
]


@pytest.mark.parametrize(
    ("data", "body", "is_reused"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD]
)
@pytest.mark.parametrize("size", [1, 100_000], ids=["by the byte", "at once"])
def test_every_framing_of_an_answer_is_understood(
    ca_dir: Path, data: bytes, body: bytes, is_reused: bool, size: int
) -> None:
    def script(peer: Peer) -> None:
        while True:
            peer.request()
            for at in range(0, len(data), size):
                peer.send(data[at : at + size])
            if b"Content-Length" not in data and b"chunked" not in data:
                peer.finish()

    with node(script) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            for _ in range(3):
                got = client.ask(get("/"))
                assert (got.status, got.body, got.is_whole) == (200, body, True)
                assert "link" not in got
                assert "x-t" not in got
                assert got["x-fastgw-attempts"] == "1"
                if not is_reused:  # what is behind an answer may come after the answer
                    wait_until(lambda: not rig.counts()["node_connections"]["idle"], "it is closed")
        assert upstream.accepted == (1 if is_reused else 3)
        assert only_node(rig) == UNTOUCHED  # counted by nobody while it is healthy
        assert rig.counts()["node_connections"]["busy"] == 0


def test_an_answer_in_chunks_reaches_the_client_as_it_comes(ca_dir: Path, loop_kind: str) -> None:
    """Nothing waits for the end; each piece is there before the next one is sent."""
    steps = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED)
        for piece in (b"one", b"two", b"three"):
            assert steps.acquire(timeout=30)
            peer.send(chunked(piece, end=b""))
        peer.send(b"0\r\n\r\n")

    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            client.send(get("/"))
            for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n", b"5\r\nthree\r\n"):
                steps.release()
                client.read_until(piece)
            assert client.read_until(b"\r\n\r\n") == b"0\r\n\r\n"


def test_hop_by_hop_fields_stay_on_their_hop(ca_dir: Path) -> None:
    fields = ("Connection: x-secret", "X-Secret: 1", "Keep-Alive: timeout=5", "X-Kept: 2", "Set-Cookie: a=b")
    with node(serving(lambda _: answer(b"", *fields))) as upstream:
        with running(ca_dir, config_for(upstream.port)) as rig, Client(rig.port) as client:
            asked = (
                "TE: trailers",
                "Connection: te, x-mine",
                "X-Mine: 1",
                "Proxy-Authorization: Basic x",
                "X-Yours: 2",
            )
            got = client.ask(get("/", *asked))
            for name in ("connection", "x-secret", "keep-alive"):
                assert name not in got
            assert got["x-kept"] == "2"
            assert got["set-cookie"] == "a=b"
            for name in ("te", "x-mine", "proxy-authorization", "connection"):
                assert name not in upstream.asked[0]
            assert upstream.asked[0]["x-yours"] == "2"
            assert upstream.asked[0]["host"] == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_a_redirect_is_passed_on_and_never_followed(ca_dir: Path, status: str) -> None:
    with node(
        serving(lambda _: answer(b"there", "Location: http://127.0.0.1:1/", status=status))
    ) as upstream:
        with running(ca_dir, config_for(upstream.port)) as rig, Client(rig.port) as client:
            got = client.ask(get("/"))
            assert (got.start, got["location"]) == (f"HTTP/1.1 {status}", "http://127.0.0.1:1/")
        assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "status", ["400 Bad Request", "409 Conflict", "418 I'm a teapot", "422 Unprocessable"]
)
def test_an_error_of_the_callers_is_passed_on_unchanged(ca_dir: Path, status: str) -> None:
    page = answer(b"<p>no</p>", "Content-Type: text/html", status=status)
    with node(serving(lambda _: page)) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            for _ in range(2):
                got = client.ask(post("/", b"x"))
                assert got.start == f"HTTP/1.1 {status}"
                assert (got.body, got["content-type"]) == (b"<p>no</p>", "text/html")
        assert upstream.accepted == 1
        assert only_node(rig) == UNTOUCHED


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "410 Gone"])
def test_what_a_plain_node_does_not_have_is_said_in_its_own_words(ca_dir: Path, status: str) -> None:
    page = answer(b"<p>no</p>", "Content-Type: text/html", "Allow: GET", status=status)
    with node(serving(lambda _: page)) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            got = client.ask(get("/"))
            assert got.start == f"HTTP/1.1 {status}"
            assert (got.body, got["content-type"], got["allow"]) == (b"<p>no</p>", "text/html", "GET")
        assert only_node(rig) == UNTOUCHED


# --- Out of order -----------------------------------------------------------------------------

# None of it may reach a client.
BROKEN: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("half a status line", b"HTTP/1.1 20"),
    ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le"),
    ("no empty line", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n"),
    ("garbage", b"\x00\xff garbage LEAKED\r\n\r\n"),
    ("another protocol", b"RTSP/1.0 200 OK\r\n\r\nLEAKED"),
    ("SSH", b"SSH-2.0-LEAKED\r\n"),
    ("HTTP/0.9", b"<html>LEAKED</html>"),
    ("HTTP/2", b"HTTP/2.0 200 OK\r\n\r\nLEAKED"),
    ("HTTP/1.2", b"HTTP/1.2 200 OK\r\nContent-Length: 6\r\n\r\nLEAKED"),
    ("status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 6\r\n\r\nLEAKED"),
    ("status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 6\r\n\r\nLEAKED"),
    ("status 099", b"HTTP/1.1 099 OK\r\nContent-Length: 6\r\n\r\nLEAKED"),
    ("101 unasked", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nLEAKED"),
    ("endless 1xx", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50 + answer(b"LEAKED")),
    ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Length: 7\r\n\r\nLEAKED"),
    ("signed length", b"HTTP/1.1 200 OK\r\nContent-Length: +6\r\n\r\nLEAKED"),
    ("negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -6\r\n\r\nLEAKED"),
    (
        "length and chunks",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"LEAKED"),
    ),
    ("unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunked(b"LEAKED")),
    ("chunked in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"LEAKED")),
    ("folded field", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 6\r\n\r\nLEAKED"),
    ("NUL in a field", b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 6\r\n\r\nLEAKED"),
    ("space before the colon", b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 6\r\n\r\nLEAKED"),
    ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 6\n\nLEAKED"),
    ("bare CR", b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 6\r\n\r\nLEAKED"),
    ("large head", b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"v" * 1000) for n in range(80))),
    ("too many fields", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"Content-Length: 6\r\n\r\nLEAKED"),
]
# On a plain route the head of these is out before their body turns out to be broken.
BROKEN_BODIES: list[tuple[str, bytes]] = [
    ("shorter than its length", b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\nLEAKED"),
    ("chunk without a size", CHUNKED + b"\r\nLEAKED\r\n0\r\n\r\n"),
    ("chunk size that is none", CHUNKED + b"zz\r\nLEAKED\r\n0\r\n\r\n"),
    ("chunk longer than its size", CHUNKED + b"5\r\nLEAKED\r\n0\r\n\r\n"),
    ("no last chunk", CHUNKED + chunked(b"LEAKED", end=b"")),
    ("empty", answer(b"")),
    ("not JSON", answer(b"LEAKED")),
]


@pytest.mark.parametrize("data", [row[1] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_answer_is_502_and_none_of_it_reaches_the_client(ca_dir: Path, data: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)

    with node(script) as upstream, running(ca_dir, config_for(upstream.port, uris="/plain")) as rig:
        with Client(rig.port) as client:
            got = client.ask(get("/plain"))
            assert got.status == 502
            assert b"LEAKED" not in got.raw
            assert b'"error"' in got.body
            assert b"127.0.0.1" not in got.body
            assert got.is_whole
            assert client.ask(get("/healthz")).status == 200  # the client's connection is in order
        counters = only_node(rig)
        assert counters["tcp_failure"] + counters["http_failure"] == 1, counters
        assert rig.counts()["node_connections"] == {"idle": 0, "busy": 0, "dialling": 0}


@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nX: y"], ids=["nothing", "line", "head"]
)
def test_a_reset_before_the_head_is_502(ca_dir: Path, data: bytes, loop_kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        peer.reset()

    with node(script) as upstream:
        with (
            running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig,
            Client(rig.port) as client,
        ):
            assert client.ask(get("/")).status == 502
            assert only_node(rig) == {**UNTOUCHED, "tcp_failure": 1}


@pytest.mark.parametrize(
    "data", [row[1] for row in BROKEN + BROKEN_BODIES], ids=[row[0] for row in BROKEN + BROKEN_BODIES]
)
def test_a_broken_answer_moves_a_repeatable_request_on(ca_dir: Path, data: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)

    body = b'{"model": "m", "messages": []}'
    good = answer(b'{"choices": [{"message": {"content": "fine"}}]}', "Content-Type: application/json")
    with node(script) as first, node(serving(lambda _: good)) as second:
        with running(ca_dir, config_for(first.port, second.port, provider="openai")) as rig:
            with Client(rig.port) as client:
                got = client.ask(post("/v1/chat/completions", body))
                assert (got.status, got["x-fastgw-attempts"]) == (200, "2")
                assert b"fine" in got.body
                assert b"LEAKED" not in got.raw


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhello",
        CHUNKED + chunked(b"hello", end=b""),
        CHUNKED + chunked(b"hello", end=b"5\r\nwor"),
        CHUNKED + chunked(b"hello", end=b"0\r\n"),
        CHUNKED + chunked(b"hello", end=b"zz\r\nworld"),
        CHUNKED + chunked(b"hello", end=b"5\r\nworldX\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunks", "in a chunk", "in the last chunk", "malformed", "longer than its size"],
)
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_cut_answer_is_never_taken_for_whole(ca_dir: Path, data: bytes, how: str, loop_kind: str) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        at = data.index(b"hello") + 5
        peer.send(data[:at])
        go_on.wait(30)
        peer.send(data[at:])
        if how == "rst":
            peer.reset()

    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            client.send(get("/"))
            client.read_until(b"\r\n\r\n")
            go_on.set()
            rest = client.rest()
            assert b"hello" in rest
            assert not rest.endswith(b"0\r\n\r\n")
            assert len(rest) < 20
        assert sum(only_node(rig).values()) == 1
        assert rig.counts()["exchanges"] == 0


def test_an_answer_may_come_while_the_body_still_goes_up(ca_dir: Path, loop_kind: str) -> None:
    """The node refuses after the head and does not read the rest."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(answer(b"too much", "Connection: close", status="413 Content Too Large"))
        peer.finish()
        peer.rest()

    for hold in (16_000_000, 10_000):
        config = config_for
        with (
            node(script) as upstream,
            running(
                ca_dir, config(upstream.port, process=f"hold_body_bytes: {hold}"), loop_kind=loop_kind
            ) as rig,
        ):
            with Client(rig.port) as client:
                body = b"x" * 2_000_000
                if hold > len(body):
                    got = client.ask(post("/up", body))
                else:
                    client.send(post("/up", body)[:100_000])
                    got = client.answer()
                assert (got.status, got.body) == (413, b"too much")
            wait_until(lambda: rig.counts()["node_connections"]["busy"] == 0, "the connection is let go")
            assert only_node(rig) == UNTOUCHED


def test_a_connection_whose_request_was_not_sent_whole_is_not_used_again(ca_dir: Path) -> None:
    """Its node would take the next request for the rest of this one's body."""

    def script(peer: Peer) -> None:
        request = peer.head()
        if "transfer-encoding" in request:
            peer.send(answer(b"early", status="422 Unprocessable"))
            peer.rest()
        else:
            peer.body(request)
            peer.send(answer(b"fresh"))

    with node(script) as upstream:
        config = config_for(upstream.port, process="hold_body_bytes: 10000")
        with running(ca_dir, config) as rig:
            with Client(rig.port) as client:
                head = get("/up", "Transfer-Encoding: chunked", method="POST")
                client.send(head + chunked(b"x" * 20_000, end=b""))
                got = client.answer()
                assert (got.status, got.body) == (422, b"early")
            with Client(rig.port) as client:
                got = client.ask(get("/next"))
                assert (got.status, got.body) == (200, b"fresh")
        assert [message.connection for message in upstream.asked] == [1, 2]


def test_bytes_on_an_idle_connection_are_nobodys_answer(ca_dir: Path, loop_kind: str) -> None:
    late = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"mine"))
        if peer.number == 1:
            late.wait(30)
            peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 6\r\n\r\nSTOLEN")
            peer.rest()

    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            assert client.ask(get("/")).body == b"mine"
            assert rig.counts()["node_connections"]["idle"] == 1
            late.set()
            wait_until(lambda: rig.counts()["node_connections"]["idle"] == 0, "the connection is dropped")
            got = client.ask(post("/", b"x"))
            assert (got.body, got["x-fastgw-attempts"]) == (b"mine", "1")
        assert upstream.accepted == 2
        assert only_node(rig) == UNTOUCHED


def test_an_idle_connection_that_the_node_closed_is_not_used(ca_dir: Path, loop_kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"once"))

    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            for number in range(1, 6):
                got = client.ask(post("/", b"x"))
                assert (got.body, got["x-fastgw-attempts"]) == (b"once", "1")
                wait_until(lambda: rig.counts()["node_connections"]["idle"] == 0, "the connection is dropped")
                assert upstream.accepted == number
        assert rig.counts()["stale_reuses"] == 0
        assert only_node(rig) == UNTOUCHED


def test_a_head_that_drips_does_not_outlive_its_deadline(ca_dir: Path) -> None:
    """One byte now and then is not an answer: the deadline is for the whole head."""

    def script(peer: Peer) -> None:
        peer.request()
        for byte in answer(b"late", *[f"X-{n}: {'v' * 100}" for n in range(50)]):
            peer.send(bytes([byte]))
            if upstream.gone.wait(0.05):
                return

    short = "{head: 1, connect: 20, total: 60}"
    with node(script) as upstream, running(ca_dir, config_for(upstream.port, deadlines=short)) as rig:
        with Client(rig.port) as client:
            assert client.ask(get("/")).status == 504
        assert only_node(rig)["timeout_failure"] == 1
        assert rig.counts()["node_connections"]["busy"] == 0


def test_two_clients_never_see_each_others_answers(ca_dir: Path, loop_kind: str) -> None:
    with (
        node(serving(echoing)) as upstream,
        running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig,
    ):
        wrong: list[bytes] = []

        def ask(name: int) -> None:
            with Client(rig.port) as client:
                for number in range(50):
                    body = b"%d-%d" % (name, number)
                    if client.ask(post("/", body)).body != b"POST / " + body:
                        wrong.append(body)

        threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert upstream.accepted <= 8
