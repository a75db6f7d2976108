"""Dialling real listeners that answer, refuse, hang and lie, on both loops."""

import asyncio
import contextlib
import datetime
import gc
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, cast

import fault_rig
import pytest
import trustme
import uvloop

from fastgw.errors import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    NodeError,
    ResolveFailed,
    Retryable,
    TlsFailed,
)
from fastgw.wire.dialer import AddressFailed, dial
from fastgw.wire.pool import Pool
from fastgw.wire.resolver import Address, Resolver
from fastgw.wire.tls import HandshakeFailed, TlsContext, TlsSession

NAME = "node.example"
LIMIT_S = 60.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
V4 = int(socket.AF_INET)

Run = Callable[[Coroutine[Any, Any, None]], None]


class Connection(asyncio.Protocol):
    """What the dialer expects of a node's connection, and nothing more."""

    made: list["Connection"]

    def __init__(self, tls: TlsSession | None = None) -> None:
        self.tls = tls
        self.is_lost = False
        self._established: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait_established(self) -> None:
        await self._established

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.tls is not None:
            self.transport.write(self.tls.start())

    def data_received(self, data: bytes) -> None:
        assert self.tls is not None
        self.tls.feed(data)
        try:
            if self.tls.handshake() and not self._established.done():
                self._established.set_result(None)
        except HandshakeFailed as error:
            self._fail(error)
        if to_send := self.tls.outgoing():
            self.transport.write(to_send)

    def eof_received(self) -> None:
        if self.tls is not None:
            self.tls.eof_received()
            try:
                self.tls.handshake()
            except HandshakeFailed as error:
                self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._fail(exc or ConnectionLost())

    def _fail(self, error: Exception) -> None:
        if not self._established.done():
            self._established.set_exception(error)
            self._established.exception()  # plain connections have nobody waiting


def plain() -> Connection:
    return Connection()


class Fixed(Resolver):
    """Leads every name to the given places, in this order."""

    def __init__(self, *places: tuple[str, int] | Address) -> None:
        super().__init__()
        self.places = tuple(place if isinstance(place, Address) else Address(V4, *place) for place in places)

    def lookup(self, host: str, port: int) -> tuple[Address, ...]:
        return self._ranked(self.places, self._now())


class Peer(asyncio.Protocol):
    """A connection of the other side; the list of them lets a test end them."""

    def __init__(self, peers: set["Peer"], answer: bytes | None, resets: bool) -> None:
        self.peers = peers
        self.answer = answer
        self.resets = resets

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.peers.add(self)
        if self.resets:
            linger = b"\x01\0\0\0\0\0\0\0"  # on, 0 s: closing resets
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.answer is not None:
            self.transport.write(self.answer)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.peers.discard(self)


@contextlib.asynccontextmanager
async def serving(
    context: ssl.SSLContext | None = None, answer: bytes | None = None, resets: bool = False
) -> AsyncIterator[tuple[str, int]]:
    """A server that is silent, or gives everybody the same answer and closes, or resets at once."""
    peers: set[Peer] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(peers, answer, resets), "127.0.0.1", 0, ssl=context)
    try:
        yield ("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        for _ in range(3):  # connections made just now are accepted first
            await asyncio.sleep(0)
        server.close()
        for peer in set(peers):
            peer.transport.abort()
        await server.wait_closed()


@contextlib.contextmanager
def blackhole() -> Iterator[tuple[str, int]]:
    """A listener whose queue is full: the kernel drops every further SYN."""
    with fault_rig.blackhole() as port:
        yield ("127.0.0.1", port)


@contextlib.contextmanager
def silent(host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    """A listener whose connections the kernel accepts and nobody answers."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        yield listener.getsockname()[:2]


def refused() -> tuple[str, int]:
    """A place where nobody listens: TCP port 1 of a loopback address of its own."""
    return ("127.0.0.53", 1)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine to its end and see that it left no task and no descriptor."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            gc.collect()
            before = open_descriptors()
            async with asyncio.timeout(LIMIT_S):
                await main
                while len(asyncio.all_tasks()) > 1 or open_descriptors() > before:
                    await asyncio.sleep(0.001)

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(warm_up())
            runner.run(bounded())

    async def warm_up() -> None:  # loops open descriptors of their own at first use
        with silent() as where:
            transport, _, _ = await dial(Fixed(where), NAME, 443, plain)
            transport.abort()
        await asyncio.sleep(0.01)

    return run


@pytest.fixture(scope="module")
def trusting(ca_file: str) -> TlsContext:
    return TlsContext(ca_file)


@pytest.fixture
def secure(trusting: TlsContext) -> Callable[[], Connection]:
    return lambda: Connection(trusting.new_session(NAME))


def certified(issued: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context


# --- TCP ----------------------------------------------------------------------------------------


def test_a_connection_is_made_with_the_options_it_needs(run: Run) -> None:
    async def main() -> None:
        with silent() as where:
            transport, protocol, address = await dial(
                Fixed(where), NAME, 443, plain, send_buffer_bytes=100_000
            )
            assert address == (V4, *where)
            assert protocol.transport is transport
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 200_000  # the kernel doubles it
            transport.abort()

    run(main())


def test_a_refused_connection_says_so_without_naming_the_address(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(AddressFailed) as caught:
            await dial(Fixed(refused()), NAME, 443, plain)
        error = caught.value
        assert error.errno_name == "ECONNREFUSED"
        assert not error.is_local
        assert str(error) == "Connecting to the provider failed (ECONNREFUSED)"
        assert isinstance(error.__cause__, ConnectionRefusedError)
        assert error.retryable is Retryable.ALWAYS

    run(main())


def test_after_a_refusal_the_next_address_is_tried_at_once(run: Run) -> None:
    async def main() -> None:
        with silent() as where:
            resolver = Fixed(refused(), ("127.0.0.54", 1), where)
            transport, _, address = await dial(resolver, NAME, 443, plain, stagger_s=LIMIT_S * 2)
            assert address.port == where[1]
            transport.abort()
            assert resolver.lookup(NAME, 443)[0] == address  # remembered

    run(main())


def test_the_last_error_is_raised_when_all_addresses_fail(run: Run) -> None:
    async def main() -> None:
        with blackhole() as hole:
            with pytest.raises(ConnectTimeout):
                await dial(Fixed(hole, refused()), NAME, 443, plain, tcp_timeout_s=0.2, stagger_s=0.01)
            with pytest.raises(AddressFailed):
                await dial(Fixed(refused(), ("127.0.0.54", 1)), NAME, 443, plain)

    run(main())


def test_a_blackholed_address_costs_a_moment_and_not_a_timeout(run: Run) -> None:
    async def main() -> None:
        with blackhole() as hole, silent() as where:
            resolver = Fixed(hole, where)
            transport, _, address = await dial(
                resolver, NAME, 443, plain, tcp_timeout_s=LIMIT_S * 2, connect_timeout_s=LIMIT_S * 2
            )
            assert address.port == where[1]
            transport.abort()

    run(main())


def test_connecting_ends_in_time_when_nobody_answers(run: Run) -> None:
    async def main() -> None:
        with blackhole() as hole:
            with pytest.raises(ConnectTimeout):
                await dial(Fixed(hole), NAME, 443, plain, tcp_timeout_s=0.05)
            with pytest.raises(ConnectTimeout):
                await dial(Fixed(hole), NAME, 443, plain, connect_timeout_s=0.05)
            with pytest.raises(ConnectTimeout):
                await dial(Fixed(hole, hole), NAME, 443, plain, connect_timeout_s=0.05, stagger_s=0.01)

    run(main())


def test_a_winner_that_fails_is_a_winner_no_more(run: Run) -> None:
    async def main() -> None:
        with silent() as where:
            resolver = Fixed(where, refused())
            resolver.remember(resolver.places[1])
            transport, _, address = await dial(resolver, NAME, 443, plain)
            assert address == resolver.places[0]
            transport.abort()
            assert resolver.lookup(NAME, 443) == resolver.places

    run(main())


def test_ipv6_is_dialled_where_there_is_one(run: Run) -> None:
    async def main() -> None:
        try:
            listener = silent("::1")
            where = listener.__enter__()
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        with contextlib.ExitStack() as stack:
            stack.push(listener)
            resolver = Resolver(connect_to=[(NAME, 443, "::1", where[1])])
            transport, _, address = await dial(resolver, NAME, 443, plain)
            assert address == (int(socket.AF_INET6), "::1", where[1])
            transport.abort()

    run(main())


def test_a_name_without_address_is_not_dialled(run: Run) -> None:
    def nothing(_name: str) -> Sequence[tuple[int, str]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def main() -> None:
        resolver = Resolver(query=nothing, start=lambda job: job())
        with pytest.raises(ResolveFailed):
            await dial(resolver, NAME, 443, plain)
        resolver.close()

    run(main())


def test_a_hanging_name_service_ends_with_the_dial(run: Run) -> None:
    async def main() -> None:
        resolver = Resolver(start=lambda _job: None)
        with pytest.raises(ConnectTimeout):
            await dial(resolver, NAME, 443, plain, connect_timeout_s=0.05)
        resolver.close()

    run(main())


def test_a_local_shortage_is_not_the_nodes_fault(run: Run) -> None:
    async def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with silent() as where:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those that are open stay open
            try:
                with pytest.raises(AddressFailed) as caught:
                    await dial(Fixed(where), NAME, 443, plain)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.errno_name == "EMFILE"
        assert caught.value.is_local

    run(main())


def test_a_dial_that_is_cancelled_leaves_nothing_behind(run: Run, secure: Callable[[], Connection]) -> None:
    async def main() -> None:
        with blackhole() as hole, silent() as mute:
            for places, factory in (((hole,), plain), ((hole, hole), plain), ((mute,), secure)):
                task = asyncio.create_task(dial(Fixed(*places), NAME, 443, factory, stagger_s=0.001))
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    run(main())


def test_a_loser_that_connects_too_is_closed(run: Run) -> None:
    async def main() -> None:
        with silent() as one, silent() as two:
            for _ in range(20):
                transport, _, _ = await dial(Fixed(one, two), NAME, 443, plain, stagger_s=0.0)
                transport.abort()

    run(main())


def test_a_factory_that_raises_leaves_no_socket_behind(run: Run) -> None:
    def broken() -> Connection:
        raise LookupError

    async def main() -> None:
        with silent() as where, pytest.raises(LookupError):
            await dial(Fixed(where), NAME, 443, broken)

    run(main())


# --- TLS ----------------------------------------------------------------------------------------


def test_tls_is_on_when_the_dial_returns(
    run: Run, authority: trustme.CA, secure: Callable[[], Connection]
) -> None:
    async def main() -> None:
        async with serving(certified(authority.issue_cert(NAME))) as where:
            transport, protocol, _ = await dial(Fixed(where), NAME, 443, secure)
            assert protocol.tls is not None
            assert protocol.tls.established
            transport.abort()

    run(main())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("expired", "verify: certificate has expired"),
        ("another name", "verify: hostname mismatch"),
        ("unknown authority", "verify: unable to get local issuer certificate"),
    ],
)
def test_a_certificate_that_is_not_trusted_ends_the_dial_at_once(
    run: Run, authority: trustme.CA, secure: Callable[[], Connection], fault: str, reason: str
) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    issued = {
        "expired": lambda: authority.issue_cert(NAME, not_after=past),
        "another name": lambda: authority.issue_cert("other.example"),
        "unknown authority": lambda: trustme.CA().issue_cert(NAME),
    }[fault]()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's complaint
        good = certified(authority.issue_cert(NAME))
        async with serving(certified(issued)) as bad, serving(good) as other:
            with pytest.raises(HandshakeFailed) as caught:
                await dial(Fixed(bad, other), NAME, 443, secure)
            assert caught.value.reason == reason
            assert caught.value.is_untrusted
            assert NAME not in str(caught.value)

    run(main())


ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # fatal: handshake failure


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"answer": ALERT}, TlsFailed),
        ({"answer": b"HTTP/1.1 400 Bad\r\n\r\n"}, TlsFailed),
        ({"answer": b""}, TlsFailed),
        ({"resets": True}, ConnectFailed),
    ],
    ids=["alert", "not TLS", "closed", "reset"],
)
def test_a_handshake_that_fails_makes_way_for_the_next_address(
    run: Run,
    authority: trustme.CA,
    secure: Callable[[], Connection],
    answer: dict[str, Any],
    error: type[ConnectFailed],
) -> None:
    async def main() -> None:
        async with serving(**answer) as bad, serving(certified(authority.issue_cert(NAME))) as good:
            transport, _, address = await dial(Fixed(bad, good), NAME, 443, secure, stagger_s=LIMIT_S)
            assert address.port == good[1]
            transport.abort()
            with pytest.raises(error) as caught:
                await dial(Fixed(bad), NAME, 443, secure)
            assert caught.value.retryable is Retryable.ALWAYS

    run(main())


def test_a_handshake_that_hangs_ends_in_time(run: Run, secure: Callable[[], Connection]) -> None:
    async def main() -> None:
        with silent() as mute, pytest.raises(ConnectTimeout):
            await dial(Fixed(mute), NAME, 443, secure, connect_timeout_s=0.1)

    run(main())


def test_a_handshake_that_hangs_leaves_time_for_the_next_address(
    run: Run, authority: trustme.CA, secure: Callable[[], Connection]
) -> None:
    async def main() -> None:
        with silent() as mute:
            async with serving(certified(authority.issue_cert(NAME))) as good:
                transport, _, address = await dial(
                    Fixed(mute, good), NAME, 443, secure, connect_timeout_s=6.0, stagger_s=LIMIT_S
                )
                assert address.port == good[1]
                transport.abort()

    run(main())


@pytest.mark.parametrize("answer", [{"answer": ALERT}, {}, {"resets": True}], ids=["alert", "hangs", "reset"])
def test_a_pool_begins_the_handshake_anew_with_every_address(
    run: Run, authority: trustme.CA, trusting: TlsContext, answer: dict[str, Any]
) -> None:
    async def main() -> None:
        async with serving(**answer) as bad, serving(certified(authority.issue_cert(NAME))) as good:
            pool = Pool(Fixed(bad, good), NAME, 443, tls=trusting)
            connection = await pool.open(6.0)
            assert pool.place_of[connection].port == good[1]
            assert connection.tls is not None and connection.tls.established
            connection.abort()

    run(main())


@pytest.mark.parametrize("fault", ["alert", "closed", "reset", "untrusted", "refused"])
def test_a_dial_that_fails_dies_by_its_last_reference(
    run: Run, authority: trustme.CA, trusting: TlsContext, fault: str
) -> None:
    """The failure, the frames it passed and the connection that keeps it are no cycle."""
    answers: dict[str, dict[str, Any]] = {
        "alert": {"answer": ALERT},
        "closed": {"answer": b""},
        "reset": {"resets": True},
        "untrusted": {"context": certified(trustme.CA().issue_cert(NAME))},
        "refused": {},
    }

    def left() -> set[int]:
        return {id(item) for item in gc.get_objects() if isinstance(item, TlsSession | NodeError)}

    async def main() -> None:
        known = left()
        gc.disable()
        async with (
            serving(**answers[fault]) as bad,
            serving(certified(authority.issue_cert(NAME))) as good,
        ):
            first = refused() if fault == "refused" else bad
            for places in ((first,), (first, first), (first, good)):
                pool = Pool(Fixed(*places), NAME, 443, tls=trusting)
                with contextlib.suppress(ConnectFailed):
                    (await pool.open(LIMIT_S)).abort()
            for _ in range(10):  # what was aborted is told so
                await asyncio.sleep(0.001)
            assert left() <= known

    try:
        run(main())
    finally:
        gc.enable()
