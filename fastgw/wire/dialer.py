"""Dial a node: its addresses raced, the connection secured, all inside one deadline.

The race is ours (RFC 8305, section 5) because uvloop's ``create_connection`` has none.  It is decided by TCP
alone; an address that then fails in TLS makes way for the ones that are left.
"""

import asyncio
import errno
import socket
import traceback
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, cast

from fastgw.errors import ConnectFailed, ConnectTimeout, NodeError
from fastgw.wire.resolver import Address, Resolver
from fastgw.wire.tls import HandshakeFailed, TlsSession

KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_PROBES = 4

# We ran out of something ourselves: says nothing of the node.
LOCAL_ERRNOS = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN)
)


class NodeProtocol(Protocol):
    """What the dialer asks of the protocol it connects, besides being an ``asyncio.Protocol``.

    A protocol with ``tls`` sends ``tls.start()`` when the connection is made, drives the handshake
    as bytes arrive, and ends ``wait_established()`` when it is done or has failed.
    """

    @property
    def tls(self) -> TlsSession | None: ...

    async def wait_established(self) -> None:
        """Raises HandshakeFailed, or OSError or a NodeError if the connection was lost."""


AnyProtocol = TypeVar("AnyProtocol", bound=NodeProtocol)


class AddressFailed(ConnectFailed):
    """No connection to an address of the provider could be made.

    ``errno_name`` is the system's word, ``ECONNREFUSED`` say. ``is_local``: the fault is on this
    machine (out of descriptors, ports or memory), so the node should not be blamed.
    """

    def __init__(self, error: OSError) -> None:
        self.errno_name = errno.errorcode.get(error.errno, "unknown") if error.errno else "closed"
        self.is_local = error.errno in LOCAL_ERRNOS
        super().__init__(f"Connecting to the provider failed ({self.errno_name})")
        self.__cause__ = error


class _Opening(asyncio.Protocol):
    """Holds a connection until the race is decided, and what the peer did meanwhile."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.early: list[bytes] = []
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise OSError if the peer hung up meanwhile."""
        if self.error is not None:
            raise self.error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.early.append(data)

    def eof_received(self) -> None:
        self.error = ConnectionResetError(errno.ECONNRESET, "closed as soon as it was made")

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError):
            self.error = exc
        else:
            self.eof_received()


async def dial(
    resolver: Resolver,
    host: str,
    port: int,
    protocol_factory: Callable[[], AnyProtocol],
    *,
    connect_timeout_s: float = 5.0,
    tcp_timeout_s: float = 3.0,
    stagger_s: float = 0.25,
    send_buffer_bytes: int = 0,
) -> tuple[asyncio.Transport, AnyProtocol, Address]:
    """Connect to one of the node's addresses; with TLS if the protocol has it.

    The next address is tried when one fails, or has not answered for ``stagger_s``.

    Args:
        protocol_factory: called once per address that was connected to, so that every one has its
            own TLS state.
        connect_timeout_s: for everything: name, TCP and TLS.
        tcp_timeout_s: for the TCP connection to one address.
        send_buffer_bytes: limit of the kernel's send buffer, 0 for its own choice. A full one is
            how a slow node is noticed.

    Raises:
        ResolveFailed: the name has no address.
        ConnectTimeout: out of time.
        AddressFailed, TlsFailed: what the last address that could be tried said. A certificate
            that is not trusted ends the dial at once: the other addresses have the same.
    """
    try:
        async with asyncio.timeout(connect_timeout_s) as deadline:
            addresses = resolver.lookup(host, port)
            if addresses is None:
                addresses = await resolver.resolve(host, port)
            dialled = await _dial_any(
                addresses, resolver, protocol_factory, deadline, tcp_timeout_s, stagger_s, send_buffer_bytes
            )
    except TimeoutError as error:
        raise ConnectTimeout from error
    except NodeError as error:
        _let_go(error)
        raise
    if len(addresses) > 1:
        resolver.remember(dialled[2])
    return dialled


async def _dial_any(
    addresses: tuple[Address, ...],
    resolver: Resolver,
    protocol_factory: Callable[[], AnyProtocol],
    deadline: asyncio.Timeout,
    tcp_timeout_s: float,
    stagger_s: float,
    send_buffer_bytes: int,
) -> tuple[asyncio.Transport, AnyProtocol, Address]:
    loop = asyncio.get_running_loop()
    left = list(addresses)

    def give_up(address: Address) -> None:
        left.remove(address)
        resolver.forget(address)

    while True:  # each round ends the dial or gives up an address
        opening, address = await _race(tuple(left), tcp_timeout_s, stagger_s, send_buffer_bytes, give_up)
        left.remove(address)
        # A silent peer must not use up the time of the ones that are left.
        ends_at = deadline.when() if left else None
        limit_s = None if ends_at is None else (ends_at - loop.time()) / 2
        try:
            async with asyncio.timeout(limit_s):
                protocol = await _establish(opening, protocol_factory)
        except (ConnectFailed, TimeoutError) as error:
            # A TimeoutError is this address's: the deadline of the whole dial comes as a cancellation.
            _let_go(error)
            resolver.forget(address)
            if not left or (isinstance(error, HandshakeFailed) and error.is_untrusted):
                raise
        else:
            return opening.transport, protocol, address


async def _establish(opening: _Opening, protocol_factory: Callable[[], AnyProtocol]) -> AnyProtocol:
    """Give a connected transport its protocol, and see the handshake through."""
    transport = opening.transport
    try:
        opening.check()
        protocol = protocol_factory()
        owner = cast("asyncio.Protocol", protocol)
        transport.set_protocol(owner)
        owner.connection_made(transport)
        if opening.early:
            owner.data_received(b"".join(opening.early))
        if protocol.tls is not None:
            await protocol.wait_established()
    except (ConnectFailed, TimeoutError):
        transport.abort()
        raise
    except OSError as error:  # reset
        transport.abort()
        raise AddressFailed(error) from error
    except NodeError as error:  # lost; but nothing was asked yet, so it may always be tried again
        transport.abort()
        raise HandshakeFailed("closed during the handshake") from error
    except BaseException:
        transport.abort()
        raise
    return protocol


async def _race(
    addresses: tuple[Address, ...],
    tcp_timeout_s: float,
    stagger_s: float,
    send_buffer_bytes: int,
    give_up: Callable[[Address], None],
) -> tuple[_Opening, Address]:
    """Return the first connection; raise the last error when there is none.

    Args:
        give_up: told of every address that failed.
    """
    if len(addresses) == 1:  # no race, no task
        try:
            return await _connect(addresses[0], tcp_timeout_s, send_buffer_bytes), addresses[0]
        except NodeError:
            give_up(addresses[0])
            raise
    loop = asyncio.get_running_loop()
    waiting = list(reversed(addresses))
    running: dict[asyncio.Task[_Opening], Address] = {}
    try:
        while True:
            if waiting:
                address = waiting.pop()
                task = loop.create_task(_connect(address, tcp_timeout_s, send_buffer_bytes))
                running[task] = address
            done, _ = await asyncio.wait(
                running, timeout=stagger_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in running if task in done]:  # in the order of their start
                address = running[task]
                error = task.exception()
                if error is None:
                    del running[task]
                    return task.result(), address
                del running[task]
                if not isinstance(error, NodeError):
                    raise error
                _let_go(error)
                give_up(address)
                if not running and not waiting:
                    raise error
    finally:
        _discard(running)


def _let_go(error: BaseException) -> None:
    """Empty the frames that an error has passed: what they hold keeps the error, and would be kept by it.

    Such cycles, an OpenSSL connection in each, would pile up for as long as a provider fails.
    """
    while True:
        traceback.clear_frames(error.__traceback__)
        if error.__cause__ is None:
            return
        error = error.__cause__


def _discard(losers: Iterable[asyncio.Task[_Opening]]) -> None:
    for task in losers:
        task.cancel()
        task.add_done_callback(_abort_result)  # it may have connected in this very moment


def _abort_result(task: asyncio.Task[_Opening]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().transport.abort()


async def _connect(address: Address, timeout_s: float, send_buffer_bytes: int) -> _Opening:
    """Connect to one address. Raises AddressFailed or ConnectTimeout."""
    # Not by a socket of our own: uvloop would close its descriptor, and leave us the stale number,
    # if the peer hung up before it had taken the socket over. Somebody else's would be closed next.
    loop = asyncio.get_running_loop()
    opening = _Opening()
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_connection(
                lambda: opening, address.host, address.port, family=address.family
            )
    except TimeoutError as error:  # ours, or the kernel's own ETIMEDOUT
        raise ConnectTimeout from error
    except OSError as error:
        raise AddressFailed(error) from error
    except BaseException:
        # uvloop never says connection_lost to one that is cancelled as it is made: the two would be a cycle.
        opening.__dict__.pop("transport", None)
        raise
    try:
        opening.check()
        _set_options(transport, send_buffer_bytes)
    except OSError as error:
        transport.abort()
        raise AddressFailed(error) from error
    return opening


def _set_options(transport: asyncio.Transport, send_buffer_bytes: int) -> None:
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # the system's own first probe comes after two hours
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    if send_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
