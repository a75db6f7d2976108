"""TLS between two pairs of buffers: no sockets, a clock that stands still."""

import ctypes
import datetime
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.errors import ConfigError, ConnectionLost, TlsFailed
from fastgw.wire.tls import (
    COPY_S,
    MAX_REPLY_BYTES,
    REFRESH_S,
    REVERIFY_S,
    HandshakeFailed,
    TlsContext,
    TlsSession,
)

NAME = "api.openai.com"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """The node's end: a server-side SSLObject over its own two buffers."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.end = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.error: ssl.SSLError | None = None

    def handshake(self, data: bytes) -> bytes:
        self.incoming.write(data)
        try:
            self.end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error
        return self.outgoing.read()

    def send(self, data: bytes) -> bytes:
        self.end.write(data)
        return self.outgoing.read()

    def receive(self, data: bytes) -> bytes:
        """Return the plaintext of ``data``, which must be whole records."""
        self.incoming.write(data)
        parts = []
        while self.incoming.pending or self.end.pending():
            try:
                parts.append(self.end.read(65536))
            except ssl.SSLWantReadError:
                break
        return b"".join(parts)


def shake_hands(session: TlsSession, server: Server) -> None:
    """Carry bytes back and forth until the client has finished (or raises), and the server too."""
    to_server = session.start()
    for _ in range(8):
        if not to_server:
            break
        to_client = server.handshake(to_server)
        if to_client:
            session.feed(to_client)
        session.handshake()
        to_server = session.outgoing()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trusting(ca_file: str, clock: Clock) -> TlsContext:
    return TlsContext(ca_file, clock=clock)


def server_context(
    issued: trustme.LeafCert, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    issued.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def serving(authority: trustme.CA) -> ssl.SSLContext:
    return server_context(authority.issue_cert(NAME))


def established(context: TlsContext, serving: ssl.SSLContext, name: str = NAME) -> tuple[TlsSession, Server]:
    session, server = context.new_session(name), Server(serving)
    shake_hands(session, server)
    assert session.established
    return session, server


def answered(context: TlsContext, serving: ssl.SSLContext, name: str = NAME) -> tuple[TlsSession, Server]:
    """A connection that has had an answer, so that its tickets have come."""
    session, server = established(context, serving, name)
    session.feed(server.send(b"an answer"))
    assert session.read() == b"an answer"
    return session, server


# --- Handshake ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_bytes_pass_both_ways_after_a_verified_handshake(
    trusting: TlsContext, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    session, server = established(trusting, server_context(authority.issue_cert(NAME), version))
    session.feed(server.send(b"hello"))
    assert session.read() == b"hello"
    assert session.read() == b""
    assert server.receive(session.encrypt(b"good day")) == b"good day"
    assert repr(session) == f"<TlsSession {NAME} established>"


def test_http_1_1_is_the_only_protocol_offered(trusting: TlsContext, authority: trustme.CA) -> None:
    context = server_context(authority.issue_cert(NAME))
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, server = established(trusting, context)
    assert server.end.selected_alpn_protocol() == "http/1.1"


def test_the_server_is_told_the_name(trusting: TlsContext, authority: trustme.CA) -> None:
    asked = []
    context = server_context(authority.issue_cert(NAME))
    context.sni_callback = lambda _end, name, _context: asked.append(name)
    established(trusting, context, "API.OpenAI.com.")
    assert asked == ["API.OpenAI.com"]


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "[::1]"])
def test_an_address_is_verified_as_an_address(trusting: TlsContext, authority: trustme.CA, name: str) -> None:
    established(trusting, server_context(authority.issue_cert("127.0.0.1", "::1")), name)


def refusal(context: TlsContext, serving: ssl.SSLContext, name: str = NAME) -> HandshakeFailed:
    session, server = context.new_session(name), Server(serving)
    with pytest.raises(HandshakeFailed) as caught:
        shake_hands(session, server)
    assert not session.established
    assert isinstance(caught.value, TlsFailed)
    assert session.failure is caught.value
    with pytest.raises(HandshakeFailed):
        session.handshake()
    return caught.value


def test_an_expired_certificate_is_refused(trusting: TlsContext, authority: trustme.CA) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    error = refusal(trusting, server_context(authority.issue_cert(NAME, not_after=past)))
    assert error.reason == "verify: certificate has expired"
    assert error.is_untrusted
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


@pytest.mark.parametrize("name", ["api.deepseek.com", "127.0.0.1"])
def test_a_certificate_of_another_name_is_refused_and_the_message_names_nobody(
    trusting: TlsContext, serving: ssl.SSLContext, name: str
) -> None:
    error = refusal(trusting, serving, name)
    assert error.is_untrusted
    assert error.reason.endswith("mismatch")
    assert name not in str(error)


def test_an_unknown_authority_is_refused_and_told_so(trusting: TlsContext) -> None:
    stranger = server_context(trustme.CA().issue_cert(NAME))
    session, server = trusting.new_session(NAME), Server(stranger)
    with pytest.raises(HandshakeFailed) as caught:
        shake_hands(session, server)
    assert caught.value.reason == "verify: unable to get local issuer certificate"
    server.handshake(session.outgoing())  # the alert
    assert server.error is not None
    assert server.error.reason == "TLSV1_ALERT_UNKNOWN_CA"


def test_an_old_protocol_version_is_refused_by_an_alert(ca_file: str, authority: trustme.CA) -> None:
    newest_only = TlsContext(ca_file, ssl.TLSVersion.TLSv1_3)
    old = server_context(authority.issue_cert(NAME), ssl.TLSVersion.TLSv1_2)
    error = refusal(newest_only, old)
    assert error.reason == "alert: protocol version"
    assert not error.is_untrusted


def test_bytes_that_are_not_tls_are_refused(trusting: TlsContext) -> None:
    session = trusting.new_session(NAME)
    session.start()
    session.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(HandshakeFailed, match="wrong version number"):
        session.handshake()


def test_the_end_of_the_transport_fails_a_handshake(trusting: TlsContext) -> None:
    session = trusting.new_session(NAME)
    session.start()
    assert not session.eof_received()
    with pytest.raises(HandshakeFailed, match="closed during the handshake"):
        session.handshake()


@pytest.mark.parametrize("name", ["", ".", "a" * 64 + ".com", "no\0de"])
def test_a_name_that_cannot_be_is_refused(trusting: TlsContext, name: str) -> None:
    with pytest.raises(HandshakeFailed, match="not a valid host name"):
        trusting.new_session(name)


# --- Whom to trust ------------------------------------------------------------------------------


def test_a_ca_file_replaces_the_system_store(trusting: TlsContext, serving: ssl.SSLContext) -> None:
    assert refusal(TlsContext(), serving).is_untrusted
    established(trusting, serving)


def test_a_ca_file_may_hold_an_authority_that_is_not_a_root(authority: trustme.CA, tmp_path: Path) -> None:
    intermediate = authority.create_child_ca()
    path = tmp_path / "intermediate.pem"
    intermediate.cert_pem.write_to_path(str(path))
    established(TlsContext(str(path)), server_context(intermediate.issue_cert(NAME)))


@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_a_ca_file_without_certificates_is_a_configuration_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="cannot load certificates"):
        TlsContext(str(path))


def test_versions_before_1_2_are_not_to_be_had(ca_file: str) -> None:
    with pytest.raises(ConfigError):
        TlsContext(ca_file, ssl.TLSVersion.MINIMUM_SUPPORTED)


def test_keys_are_not_logged_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ca_file: str, serving: ssl.SSLContext
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    established(TlsContext(ca_file), serving)
    assert not (tmp_path / "keys").exists()


# --- Resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_next_connection_resumes_the_last_one(
    trusting: TlsContext, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    context = server_context(authority.issue_cert(NAME), version)
    first, server = answered(trusting, context)
    assert not server.end.session_reused
    first.save_session()
    for _ in range(3):
        session, server = answered(trusting, context)
        assert server.end.session_reused
        session.save_session()


def test_closing_saves_the_session_too(trusting: TlsContext, serving: ssl.SSLContext) -> None:
    answered(trusting, serving)[0].shutdown()
    assert established(trusting, serving)[1].end.session_reused


def test_without_an_answer_there_is_no_session_to_save(trusting: TlsContext, serving: ssl.SSLContext) -> None:
    session, _ = established(trusting, serving)
    session.save_session()
    assert not established(trusting, serving)[1].end.session_reused


def test_a_session_is_offered_to_its_own_name_only(trusting: TlsContext, authority: trustme.CA) -> None:
    context = server_context(authority.issue_cert("a.example", "b.example"))
    answered(trusting, context, "a.example")[0].save_session()
    assert not established(trusting, context, "b.example")[1].end.session_reused
    assert established(trusting, context, "a.example")[1].end.session_reused


def test_a_server_without_tickets_is_served_all_the_same(trusting: TlsContext, authority: trustme.CA) -> None:
    context = server_context(authority.issue_cert(NAME))
    context.num_tickets = 0
    session, _ = answered(trusting, context)
    for _ in range(5):
        session.save_session()
    assert not answered(trusting, context)[1].end.session_reused


def test_a_session_that_the_server_no_longer_knows_is_replaced(
    trusting: TlsContext, authority: trustme.CA, clock: Clock
) -> None:
    issued = authority.issue_cert(NAME)
    answered(trusting, server_context(issued))[0].save_session()
    restarted = server_context(issued)  # other ticket keys
    for wait_s in (1.0, COPY_S):  # the first one is too soon for another copy
        clock.now += wait_s
        session, server = answered(trusting, restarted)
        assert not server.end.session_reused
        session.save_session()
    assert established(trusting, restarted)[1].end.session_reused


class WithoutTicket:
    """OpenSSL's end of a connection whose server gives nothing to resume."""

    session_reused = has_ticket = False
    id = b""

    def __init__(self) -> None:
        self.copies = 0

    @property
    def session(self) -> "WithoutTicket":
        self.copies += 1
        return self


def test_a_server_that_resumes_nothing_costs_one_copy_of_a_session_a_minute(
    trusting: TlsContext, clock: Clock
) -> None:
    """CPython may never free it."""
    end = WithoutTicket()
    for _ in range(600):
        trusting.keep(NAME, end, None)  # type: ignore[arg-type]
        clock.now += 1.0
    assert end.copies == 600 / COPY_S


def test_a_certificate_is_looked_at_again_after_a_while_however_often_resumed(
    trusting: TlsContext, serving: ssl.SSLContext, clock: Clock
) -> None:
    answered(trusting, serving)[0].save_session()
    for _ in range(int(REVERIFY_S / (REFRESH_S + 1))):
        clock.now += REFRESH_S + 1
        session, server = answered(trusting, serving)
        assert server.end.session_reused
        session.save_session()
    clock.now += REFRESH_S + 1
    assert not established(trusting, serving)[1].end.session_reused


def test_a_failed_handshake_forgets_the_session_it_offered(
    trusting: TlsContext, serving: ssl.SSLContext
) -> None:
    answered(trusting, serving)[0].save_session()
    broken = trusting.new_session(NAME)
    broken.start()
    broken.feed(b"\x15\x03\x03\x00\x02\x02\x28")  # a fatal alert: handshake failure
    with pytest.raises(HandshakeFailed, match="alert: handshake failure"):
        broken.handshake()
    assert not established(trusting, serving)[1].end.session_reused


def test_the_number_of_saved_sessions_is_bounded(
    trusting: TlsContext, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgw.wire.tls.MAX_SESSIONS", 2)
    names = ["a.example", "b.example", "c.example"]
    context = server_context(authority.issue_cert(*names))
    for name in names:
        answered(trusting, context, name)[0].save_session()
    reused = [established(trusting, context, name)[1].end.session_reused for name in names]
    assert reused == [False, True, True]


# --- Reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 180, 16_383, 16_384, 16_385, 32_768, 300_000])
def test_one_read_returns_all_that_was_fed(trusting: TlsContext, serving: ssl.SSLContext, size: int) -> None:
    session, server = established(trusting, serving)
    sent = bytes(i % 251 for i in range(size))
    session.feed(server.send(sent))
    assert session.read() == sent
    assert session.read() == b""


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    messages=st.lists(st.integers(1, 40_000), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 70_000), min_size=1, max_size=20),
    reads=st.lists(st.booleans(), min_size=1, max_size=7),
)
def test_any_split_of_the_ciphertext_reads_alike(
    trusting: TlsContext, serving: ssl.SSLContext, messages: list[int], cuts: list[int], reads: list[bool]
) -> None:
    session, server = established(trusting, serving)
    sent = [bytes([65 + i]) * size for i, size in enumerate(messages)]
    cipher = b"".join(server.send(message) for message in sent)
    got, at, turn = [], 0, 0
    while at < len(cipher):
        size = cuts[turn % len(cuts)]
        session.feed(cipher[at : at + size])
        at += size
        if reads[turn % len(reads)]:
            got.append(session.read())
        turn += 1
    got.append(session.read())
    assert b"".join(got) == b"".join(sent)


def test_a_clean_end_is_told_from_a_cut(trusting: TlsContext, serving: ssl.SSLContext) -> None:
    session, server = established(trusting, serving)
    last = server.send(b"the last word")
    with pytest.raises(ssl.SSLWantReadError):
        server.end.unwrap()
    session.feed(last + server.outgoing.read())
    assert session.read() == b"the last word"
    assert session.at_eof
    assert session.eof_received()
    assert session.read() == b""
    assert repr(session) == f"<TlsSession {NAME} at_eof>"

    session, server = established(trusting, serving)
    session.feed(server.send(b"the last w"))
    assert session.read() == b"the last w"
    assert not session.eof_received()
    assert not session.at_eof


def test_what_came_before_a_broken_record_is_read_first(
    trusting: TlsContext, serving: ssl.SSLContext
) -> None:
    session, server = established(trusting, serving)
    good, bad = server.send(b"good"), bytearray(server.send(b"bad"))
    bad[-1] ^= 1
    session.feed(good + bytes(bad))
    assert session.read() == b"good"
    assert isinstance(session.failure, ConnectionLost)
    assert isinstance(session.failure.__cause__, ssl.SSLError)
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            session.read()
    assert session.outgoing() != b""  # an alert for the peer
    assert repr(session) == f"<TlsSession {NAME} failed>"


# --- Writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_384, 32_768, 32_769, 1_000_000])
def test_encrypted_bytes_arrive_whole(trusting: TlsContext, serving: ssl.SSLContext, size: int) -> None:
    session, server = established(trusting, serving)
    body = bytes(i % 251 for i in range(size))
    assert server.receive(session.encrypt(body)) == body


def test_nothing_is_written_before_the_handshake_or_after_the_end(
    trusting: TlsContext, serving: ssl.SSLContext
) -> None:
    with pytest.raises(ConnectionLost):
        trusting.new_session(NAME).encrypt(b"too early")
    session, server = established(trusting, serving)
    assert server.receive(session.shutdown()) == b""
    with pytest.raises(ConnectionLost):
        session.encrypt(b"too late")
    assert session.shutdown() == b""


def test_shutdown_tells_the_server_so(trusting: TlsContext, serving: ssl.SSLContext) -> None:
    session, server = established(trusting, serving)
    server.incoming.write(session.encrypt(b"bye") + session.shutdown())
    server.incoming.write_eof()
    assert server.end.read(10) == b"bye"
    assert server.end.read(10) == b""  # close_notify; a cut would raise


def asker(server: Server, version: ssl.TLSVersion) -> Callable[[], None]:
    """What makes the server's OpenSSL ask for a reply: Python has no word for it."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    path = next((line.split()[-1] for line in maps if "libssl" in line), None)
    if path is None:
        pytest.skip("OpenSSL is not a library of its own here")
    library = ctypes.CDLL(path)
    bare: Any = server.end._sslobj  # type: ignore[attr-defined]
    # A Python object's head, the socket, and OpenSSL's own.
    end = ctypes.c_void_p(ctypes.c_void_p.from_address(id(bare) + object.__basicsize__ + 8).value)
    if version is ssl.TLSVersion.TLSv1_3:
        return lambda: library.SSL_key_update(end, 1)
    return lambda: library.SSL_renegotiate(end)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_asks_for_replies_without_end_is_left(
    trusting: TlsContext, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    session, server = established(trusting, server_context(authority.issue_cert(NAME), version))
    ask = asker(server, version)
    replied = 0
    while session.failure is None and replied < MAX_REPLY_BYTES * 2:
        ask()
        session.feed(server.handshake(b""))
        assert session.read() == b""
        replied += len(session.outgoing())
    with pytest.raises(ConnectionLost, match="too many requests for a reply"):
        session.read()
    assert MAX_REPLY_BYTES // 2 < replied < MAX_REPLY_BYTES * 2
