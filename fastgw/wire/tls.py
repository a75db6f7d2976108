"""TLS toward a node, without a socket: ciphertext in, plaintext out, and back.

A ``TlsContext`` says whom to trust and remembers one session per host name; a ``TlsSession`` is one
connection's TLS state, fed and drained by whoever owns the transport.  Certificates and names are
always verified: there is no switch.

The transport's own TLS is not used because it allocates 256 KiB for every read, and because a
connection that drives the two memory buffers itself makes one system call per message.
"""

import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fastgw.errors import ConfigError, ConnectionLost, NodeError, TlsFailed

RECORD_BYTES = 16 * 1024  # the longest plaintext of one record, hence of one SSL_read
SLICE_BYTES = 32 * 1024  # what OpenSSL's buffers are given at once: they grow, and never shrink again
ALPN = ("http/1.1",)
MAX_REPLY_BYTES = 64 * 1024  # to key updates and requests to renegotiate, over a connection's life

REVERIFY_S = 3600.0  # a resumed handshake shows no certificate: look at one at least this often
# Copying a session out of OpenSSL costs as much as half a handshake, and CPython before 3.12.8 and 3.13.1
# never frees a copy (gh-116810), 6 KB each: not more often, whatever a server does.
REFRESH_S = 600.0
COPY_S = 60.0  # of a name whose session was refused, or never came
MAX_SESSIONS = 1024  # host names

# Where distributions keep their bundle, for an OpenSSL that was built for another one.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

# X509_V_ERR_*: OpenSSL's own words for these name the host or address that was asked for.
MISMATCHES = {62: "hostname mismatch", 63: "email mismatch", 64: "IP address mismatch"}


class HandshakeFailed(TlsFailed):
    """The TLS handshake with the provider failed, or its certificate is not trusted.

    ``reason`` is short and names no host or address: ``verify: certificate has expired``.
    ``is_untrusted``: the peer was reached and its certificate refused, so that another address of
    the same name deserves no try.
    """

    def __init__(self, reason: str, is_untrusted: bool = False) -> None:
        super().__init__(f"TLS with the provider failed ({reason})")
        self.reason = reason
        self.is_untrusted = is_untrusted


def handshake_failure(error: Exception) -> HandshakeFailed:
    """Map an ``ssl`` exception of a handshake, keeping it as ``__cause__``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = MISMATCHES.get(error.verify_code) or error.verify_message
        failure = HandshakeFailed(f"verify: {said}", is_untrusted=True)
    elif isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        failure = HandshakeFailed("closed during the handshake")
    else:
        failure = HandshakeFailed(_words(error))
    failure.__cause__ = error
    return failure


def _words(error: Exception) -> str:
    """OpenSSL's reason in words: ``SSLV3_ALERT_HANDSHAKE_FAILURE`` -> ``alert: handshake failure``."""
    code = getattr(error, "reason", None)
    if not isinstance(code, str) or not code:
        return "protocol error"
    prefix, _, rest = code.partition("_")
    if prefix in ("SSLV3", "TLSV1", "TLSV13"):  # OpenSSL names a received alert by its version
        return "alert: " + rest.removeprefix("ALERT_").replace("_", " ").lower()
    return code.replace("_", " ").lower()


class TlsContext:
    """Whom to trust, and the session to resume per host name.  Make one per ``ca_file`` and version.

    Args:
        ca_file: PEM file with the only authorities to trust, as curl's ``--cacert``: it replaces the
            system's, and a certificate in it is an anchor even if it is not self-signed.
            None: the system's store.
        minimum_version: TLS 1.2 or later.
        clock: monotonic seconds.

    Raises:
        ConfigError: the file cannot be read or holds no certificate, or the version is too old.
    """

    def __init__(
        self,
        ca_file: str | None = None,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if minimum_version not in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            raise ConfigError("the oldest TLS version spoken to a node is 1.2")
        # Not create_default_context(): that one logs the keys to a file the environment names.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname
        context.minimum_version = minimum_version
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.hostname_checks_common_name = False
        context.set_alpn_protocols(list(ALPN))
        if ca_file is None:
            _trust_system(context)
        else:
            try:
                context.load_verify_locations(cafile=ca_file)
            except (OSError, ValueError) as error:  # SSLError is an OSError
                raise ConfigError(f"cannot load certificates from {ca_file}") from error
            if not context.cert_store_stats()["x509"]:  # a list of revoked ones is loaded without a word
                raise ConfigError(f"cannot load certificates from {ca_file}")
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self.ca_file = ca_file
        self._context = context
        self._clock = clock
        # name -> (SSLSession, when saved, when a certificate was last verified for it)
        self._sessions: dict[str, tuple[ssl.SSLSession, float, float]] = {}
        self._copied_at: dict[str, float] = {}  # when a session of a name was last copied

    def new_session(self, server_hostname: str) -> "TlsSession":
        """Return the TLS state of a new connection to this name, offering to resume the last one.

        The name (or IP address) is sent as SNI and must be in the certificate.

        Raises:
            HandshakeFailed: no certificate could be valid for such a name.
        """
        return TlsSession(self, server_hostname)

    def wrap(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, name: str
    ) -> tuple[ssl.SSLObject, tuple[ssl.SSLSession, float, float] | None]:
        """Return OpenSSL's end over two buffers, and the saved session that it offers."""
        saved = self._sessions.get(name)
        if saved is not None and self._clock() - saved[2] > REVERIFY_S:
            del self._sessions[name]
            saved = None
        try:
            session = None if saved is None else saved[0]
            return self._context.wrap_bio(incoming, outgoing, server_hostname=name, session=session), saved
        except (ValueError, TypeError, ssl.SSLError) as error:  # empty label, NUL, not encodable
            failure = HandshakeFailed("not a valid host name")
            raise failure from error

    def keep(
        self, name: str, end: ssl.SSLObject, offered: tuple[ssl.SSLSession, float, float] | None
    ) -> bool:
        """Keep the session of an established connection, now and then; False if it has none to resume."""
        now = self._clock()
        saved = self._sessions.get(name)
        refused = saved is not None and saved is offered and not end.session_reused
        age = now - self._copied_at.pop(name, float("-inf"))
        if age < COPY_S or (saved is not None and not refused and age < REFRESH_S):
            self._copied_at[name] = now - age
            return True
        self._copied_at[name] = now
        if len(self._copied_at) > MAX_SESSIONS:
            del self._copied_at[next(iter(self._copied_at))]
        session = end.session
        # TLS 1.3 has a session object before any ticket came; it cannot be resumed.
        if session is None or not (session.has_ticket or (session.id and end.version() == "TLSv1.2")):
            return False
        verified_at = offered[2] if end.session_reused and offered is not None else now
        self._sessions.pop(name, None)  # so that the dict's order is that of saving
        self._sessions[name] = (session, now, verified_at)
        if len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return True

    def forget(self, name: str, offered: tuple[ssl.SSLSession, float, float] | None) -> None:
        """Drop a session whose handshake failed, unless a newer one took its place."""
        if offered is not None and self._sessions.get(name) is offered:
            del self._sessions[name]


def _trust_system(context: ssl.SSLContext) -> None:
    context.load_default_certs()
    paths = ssl.get_default_verify_paths()
    if not (paths.cafile or paths.capath or context.cert_store_stats()["x509_ca"]):
        for bundle in BUNDLES:
            if Path(bundle).is_file():
                context.load_verify_locations(cafile=bundle)
                return


class TlsSession:
    """One connection's TLS state.  ``TlsContext.new_session()`` makes it.

    The owner of the transport sends ``start()``; then, for every piece that arrives, calls ``feed()``,
    ``handshake()`` until it is ``established``, and from then on ``read()`` (at once: the last flight
    may have data behind it); and sends what ``outgoing()`` has after that: handshake flights, key
    updates, alerts (also after a failure). At ``at_eof`` it should send ``shutdown()`` and close,
    since servers wait for that.

    Attributes:
        established: the handshake is done and the peer verified.
        at_eof: the peer's close_notify was read; nothing more will come.
        failure: the error that ended the connection, or None.
    """

    def __init__(self, context: TlsContext, server_hostname: str) -> None:
        # A name may be written absolute, an address in brackets; a certificate has neither.
        self.server_hostname = server_hostname.strip("[]").removesuffix(".")
        self.established = False
        self.at_eof = False
        self.failure: NodeError | None = None
        self._context = context
        self._saves_left = 2
        self._has_read = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl, self._offered = context.wrap(self._incoming, self._outgoing, self.server_hostname)
        # The object that the wrapper's methods do no more than call, where there is one: a frame less each.
        bare = getattr(self._ssl, "_sslobj", None) or self._ssl
        self._ssl_read = bare.read
        self._ssl_write = bare.write
        self._ssl_pending = bare.pending
        self._incoming_write = self._incoming.write
        self._outgoing_read = self._outgoing.read
        self._replied = 0
        self._holds_part = False  # OpenSSL has the beginning of a record whose end has not come
        self._backlog: bytes | memoryview | None = None  # fed, and not yet in OpenSSL's buffer
        self._backlog_at = 0

    def __repr__(self) -> str:
        if self.failure is not None:
            state = "failed"
        elif self.at_eof:
            state = "at_eof"
        else:
            state = "established" if self.established else "handshake"
        return f"<TlsSession {self.server_hostname} {state}>"

    # --- Handshake ------------------------------------------------------------------------------

    def start(self) -> bytes:
        """Return the first flight, to be sent as soon as the transport is connected."""
        self.handshake()
        return self.outgoing()

    def handshake(self) -> bool:
        """Go on with the handshake; True once it is done.

        Raises:
            HandshakeFailed: it cannot succeed; ``outgoing()`` may have an alert for the peer.
        """
        if self.established:
            return True
        if self.failure is not None:
            raise self.failure
        try:
            while True:
                try:
                    self._ssl.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    if not self._refill():
                        return False
        except (ssl.SSLError, ValueError, OSError) as error:
            self._context.forget(self.server_hostname, self._offered)  # it may be the session's fault
            self.failure = handshake_failure(error)
            raise self.failure from error
        self.established = True
        return True

    # --- Reading --------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take ciphertext from the transport.  Reading it is ``handshake()`` or ``read()``."""
        if self._backlog is None and len(data) <= SLICE_BYTES:
            self._incoming_write(data)
        elif self._backlog is None:
            self._backlog = memoryview(data)
            self._backlog_at = 0
        else:  # fed twice without reading between: rare, so a copy does
            self._backlog = memoryview(b"".join((self._backlog[self._backlog_at :], data)))
            self._backlog_at = 0

    def read(self) -> bytes:
        """Return all plaintext that can be had now, b"" if there is none.

        Raises:
            ConnectionLost: the bytes are not TLS, or the peer sent a fatal alert.  What came before
                it is returned first; the error is raised by the next call, and is in ``failure``.
        """
        if self.failure is not None:
            raise self.failure
        if not self.established or self.at_eof:
            return b""
        first = b""
        more = None
        full = False
        while True:
            size = self._incoming.pending
            if self._holds_part or size > RECORD_BYTES:
                # A whole record fits, so nothing decrypted is left behind. Otherwise what is pending
                # bounds it well enough: plaintext is shorter than its ciphertext.
                size = RECORD_BYTES
            elif size == 0:
                if full:
                    size = self._ssl_pending()
                if size == 0 and not self._refill():
                    break
                if size == 0:
                    continue
            try:
                chunk = self._ssl_read(size)
            except ssl.SSLWantReadError:  # costs 1.5 us: hence the look at `pending` above
                self._holds_part = True
                if not self._refill():
                    break
                continue
            except ssl.SSLZeroReturnError:
                self.at_eof = True
                break
            except (ssl.SSLError, OSError) as error:
                lost = self._fail(error)
                if not first:
                    raise lost from error
                break
            self._holds_part = False
            if not chunk:
                self.at_eof = True
                break
            full = len(chunk) == size
            if not first:
                first = chunk
            elif more is None:
                more = [first, chunk]
            else:
                more.append(chunk)
        if first:
            self._has_read = True
        return first if more is None else b"".join(more)

    def eof_received(self) -> bool:
        """Note the transport's EOF; True if the peer had said so in TLS, False if it was cut off.

        Before ``established`` the next ``handshake()`` raises.
        """
        self._incoming.write_eof()
        return self.at_eof

    def _refill(self) -> bool:
        """Give OpenSSL the next slice of what was fed; False when there is none."""
        backlog = self._backlog
        if backlog is None:
            return False
        end = self._backlog_at + SLICE_BYTES
        self._incoming_write(backlog[self._backlog_at : end])
        self._backlog_at = end
        if end >= len(backlog):
            self._backlog = None
        return True

    def _fail(self, error: Exception) -> Exception:
        self.failure = ConnectionLost(f"TLS with the provider broke ({_words(error)})")
        self.failure.__cause__ = error
        return self.failure

    # --- Writing --------------------------------------------------------------------------------

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Return the ciphertext of ``data``, after whatever else was to be sent.

        Raises:
            ConnectionLost: the connection has failed or was shut down, or is not established.
        """
        size = len(data)
        if not self.established or size > SLICE_BYTES:
            return self._encrypt_long(data)
        if size == 0:
            return self.outgoing()
        try:
            written = self._ssl_write(data)
        except (ssl.SSLError, OSError) as error:
            raise self._fail(error) from error
        if written != size:  # memory takes all of it; but the contract is SSL_write's
            return self._outgoing_read() + self._encrypt_long(memoryview(data)[written:])
        return self._outgoing_read()

    def _encrypt_long(self, data: bytes | memoryview) -> bytes:
        """Encrypt slice by slice, emptying OpenSSL's buffer between."""
        if not self.established:
            raise self.failure or ConnectionLost("TLS with the provider is not established")
        view = memoryview(data)
        parts = []
        at = 0
        while at < len(view):
            try:
                at += self._ssl_write(view[at : at + SLICE_BYTES])
            except (ssl.SSLError, OSError) as error:
                raise self._fail(error) from error
            parts.append(self._outgoing_read())
        return b"".join(parts)

    def outgoing(self) -> bytes:
        """Return the ciphertext waiting to be sent, b"" if there is none.

        A peer that keeps asking for replies, and need not take them, would fill the owner's buffers:
        after ``MAX_REPLY_BYTES`` of them the connection has failed.
        """
        if not self._outgoing.pending:
            return b""
        out = self._outgoing_read()
        if self.established and self.failure is None:
            self._replied += len(out)
            if self._replied > MAX_REPLY_BYTES:
                self.failure = ConnectionLost("TLS with the provider broke (too many requests for a reply)")
        return out

    # --- Closing --------------------------------------------------------------------------------

    def save_session(self) -> None:
        """Keep the session, to be resumed by the next connection to this name.

        Call it after an answer: TLS 1.3 sends its tickets ahead of the first data. Almost free when
        called again.
        """
        if self._saves_left == 0 or not self._has_read:
            return
        self._saves_left -= 1
        if self._context.keep(self.server_hostname, self._ssl, self._offered):
            self._saves_left = 0

    def shutdown(self) -> bytes:
        """Return what is left to send, with a close_notify; nothing can be written after it."""
        if self.established and self.failure is None:
            self.save_session()
            with suppress(ssl.SSLError, OSError):  # the answer to our close_notify is not waited for
                self._ssl.unwrap()
        return self.outgoing()
