"""Listening sockets, the clock that sweeps deadlines, and signals. Knows no routes."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from .errors import ConfigError, FastgwError
from .pem import chain_problem, no_password
from .wire.client_connection import ClientConnection, Listener

logger = logging.getLogger("fastgw.server")

BACKLOG = 4096
LATE_S = 0.5  # a tick that comes later than this judges nothing
SOON_S = 0.001  # until the next tick where a sweep had more to do than it may at a time
RESERVED_DESCRIPTORS = 64  # for nodes, names, files and a reload; never for further clients
OPERATORS_DESCRIPTORS = 16  # of these, for who wants to see whether we live
EVICTED_AT_ONCE = 50  # where there was no room at all
SAY_S = 10.0  # how often a pause is said in the log, at most
SEND_BUFFER_BYTES = 128 * 1024  # of one client connection in the kernel, or a slow one hides megabytes


class ListenFailed(FastgwError):
    """A listening socket could not be made; the message names the address and the reason."""


_TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Certificate:
    """What TLS listeners show: a certificate chain and its key, from PEM files.

    Args:
        least_version: "1.2" or "1.3".
    Raises:
        ConfigError: the files do not hold a chain and its key; the message names them.
    """

    HANDSHAKE_S = 5.0  # a client may take for its handshake
    CLOSING_S = 5.0  # ... to answer our goodbye

    def __init__(self, chain_file: str, key_file: str, least_version: str = "1.2") -> None:
        self.context = self._context_of(chain_file, key_file)
        self.context.minimum_version = _TLS_VERSIONS[least_version]

    def show(self, other: Certificate) -> None:
        """Show what ``other`` holds from the next handshake on."""

        # A context has a certificate for each kind of key: in the old one, that of another kind would stay.
        def switch(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = other.context

        self.context.minimum_version = other.context.minimum_version
        self.context.sni_callback = switch

    @staticmethod
    def _context_of(chain_file: str, key_file: str) -> ssl.SSLContext:
        problem = chain_problem(chain_file, key_file)
        if problem is not None:
            raise ConfigError(
                f"{chain_file} and {key_file} are no certificate chain and its key: {problem[1]}"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(chain_file, key_file, password=no_password)
        return context


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: ``HOST:PORT``, ``[V6]:PORT``, ``unix:PATH`` or ``fd:NUMBER``."""

    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError with what was expected."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path:
                raise ValueError("unix: needs a path")
            return cls(path=path)
        if text.startswith("fd:"):
            number = text.removeprefix("fd:")
            if not number.isdigit():
                raise ValueError("fd: needs the number of an inherited socket")
            return cls(fd=int(number))
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is no address: HOST:PORT, [V6]:PORT, unix:PATH or fd:NUMBER")
        return cls(host=host.strip("[]") or "0.0.0.0", port=int(port))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if self.fd >= 0:
            return f"fd:{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Can only this machine reach it?"""
        return bool(self.path) or self.host in ("localhost", "::1") or self.host.startswith("127.")


def open_socket(address: Address) -> socket.socket:
    """A bound and listening socket. Raises ListenFailed."""
    return _open(address, _listen)


def open_sockets(address: Address, count: int) -> list[socket.socket]:
    """Listening sockets of the same address for a number of processes.

    TCP: one for each, between which the kernel distributes connections; each has a queue of its own.
    unix: and fd: one, the only item, that all share.

    Raises:
        ListenFailed: as for one; an address at which anybody else listens is in use.
    """
    if address.path or address.fd >= 0:
        return [open_socket(address)]
    sockets: list[socket.socket] = []
    try:
        # With SO_REUSEPORT one may join those who listen already. So the port is taken without it
        # first, and held, without listening, until the others are bound: nobody comes in between.
        with _open(address, lambda sock: None) as holder:
            bound = Address(host=address.host, port=holder.getsockname()[1])
            for _ in range(count):
                sockets.append(_open(bound, _listen, shares_port=True))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def hold_port(address: Address) -> socket.socket:
    """A socket that shares a port with ``open_sockets``' and does not listen yet. Raises ListenFailed."""
    return _open(address, lambda sock: None, shares_port=True)


def _listen(sock: socket.socket) -> None:
    sock.listen(BACKLOG)


def _open(
    address: Address, use: Callable[[socket.socket], None], *, shares_port: bool = False
) -> socket.socket:
    """A bound socket, after ``use``."""
    try:
        if address.fd >= 0:
            sock = socket.socket(fileno=address.fd)
        elif address.path:
            _remove_stale_socket(address.path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(address.path)
        else:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            # With the protocol's number, or asyncio does not switch Nagle's delay off.
            sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if shares_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            sock.bind((address.host, address.port))
        use(sock)
        sock.setblocking(False)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ListenFailed(f"cannot listen on {address}: {reason}") from error
    return sock


class SocketName:
    """The name in the file system of a socket that was just bound; TCP has none."""

    def __init__(self, address: Address) -> None:
        self._path = address.path
        self._identity = self._look()

    def remove(self) -> None:
        """Nobody listens there any more. A name that another has taken meanwhile is left alone."""
        if self._identity is not None and self._look() == self._identity:
            with suppress(OSError):  # it stays; who listens there next finds nobody behind it
                os.unlink(self._path)

    def _look(self) -> tuple[int, int, int] | None:
        if not self._path:
            return None
        try:
            status = os.lstat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns  # a number may be used again


def _remove_stale_socket(path: str) -> None:
    """Remove the socket a dead process left; one that answers is in use."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


class Ticker:
    """The coarse clock: calls its sweeps in a fixed rhythm while there is anything to sweep.

    Args:
        sweeps: each returns False if it had more to do than it may at a time: then that one is called
            again soon, after what else there is to do.
        is_busy: says whether anything could have a deadline; an idle process sleeps.
        on_tick: called in every tick, also when it is late and the sweeps are not.
    """

    def __init__(
        self,
        sweeps: list[Callable[[float], bool]],
        is_busy: Callable[[], bool],
        interval_s: float = 0.05,
        on_tick: Callable[[float], None] | None = None,
    ) -> None:
        self.sweeps = sweeps
        self.is_busy = is_busy
        self.interval_s = interval_s
        self.on_tick = on_tick
        self._due = 0.0
        self._all_due = 0.0  # all sweeps are; earlier only those that had more to do
        self._unfinished: list[Callable[[float], bool]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = monotonic()
        self._tick()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        assert self._loop is not None
        now = monotonic()
        # Late: the process stood still, and what came meanwhile is still unread. It is read before
        # the next tick; judged by the clock now, our own standing still would be a node's silence.
        is_late = now - self._due > LATE_S
        # Ten times slower without anything to sweep: what begins meanwhile has deadlines of seconds.
        interval_s = self.interval_s if self.is_busy() else self.interval_s * 10
        self._due = now + interval_s
        self._timer = self._loop.call_later(interval_s, self._tick)
        if self.on_tick is not None:
            self.on_tick(now)
        if is_late:
            self._unfinished = []
            return
        sweeps = self._unfinished
        if not sweeps or now >= self._all_due:
            sweeps = self.sweeps
            self._all_due = self._due
        self._unfinished = [sweep for sweep in sweeps if not sweep(now)]
        if self._unfinished:
            self._timer.cancel()
            self._due = now + SOON_S
            self._timer = self._loop.call_later(SOON_S, self._tick)


def descriptor_limit(reserved: int = RESERVED_DESCRIPTORS) -> int:
    """The highest number that a client's descriptor should have: some are kept for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (1 << 30) if soft == resource.RLIM_INFINITY else soft - min(reserved, soft * reserved // 256)


def _has_descriptors(sock: socket.socket, highest: int) -> bool:
    """Would the next descriptor, which a client would get, have a number that is not too high?"""
    try:
        with sock.dup() as probe:
            return probe.fileno() <= highest
    except OSError:
        return False


@dataclass(slots=True)
class _Listening:
    """One address that is listened on.

    What accepts is a copy of ``sock``: while it is closed, accepting is paused, and new connections
    wait in the kernel's queue.
    """

    sock: socket.socket
    accept_on: Callable[[socket.socket], Awaitable[asyncio.Server]]
    listener: Listener
    address: Address
    outlasts_drain: bool
    name: SocketName | None  # None: others listen at the same place, and go on
    server: asyncio.Server | None = None  # None: paused
    resuming: asyncio.Task[None] | None = None
    is_closed: bool = False

    async def accept(self, copy: socket.socket) -> None:
        try:
            server = await self.accept_on(copy)
        except BaseException:
            copy.close()
            raise
        if self.is_closed:
            server.close()
        else:
            self.server = server

    def pause(self) -> bool:
        """Accept nothing more for now; False if it does not anyhow."""
        server, self.server = self.server, None
        if server is not None:
            server.close()
        return server is not None

    def resume(self, now: float) -> None:
        """Accept again if there is room; idle connections make some."""
        if self.server is not None or self.is_closed or (self.resuming and not self.resuming.done()):
            return
        listener = self.listener
        # (What was closed a moment ago is still among them until the loop has turned.)
        taken = len(listener.connections) - listener.closed
        if taken >= listener.max_connections and taken - self._make_room(now) >= listener.max_connections:
            return
        try:
            copy = self.sock.dup()
        except OSError:  # there is no descriptor left
            self._make_room(now)
            return
        if not _has_descriptors(copy, listener.max_descriptor):
            copy.close()
            self._make_room(now)
            return
        self.resuming = asyncio.get_running_loop().create_task(self.accept(copy))

    def _make_room(self, now: float) -> int:
        """Close one that waits, and more of those that hold a request back; returns how many.

        Who waits outside may be many, and is looked at a few times a second only.
        """
        closed = int(self.listener.evict(now))
        while 0 < closed < EVICTED_AT_ONCE and self.listener.evict(now, True):
            closed += 1
        return closed

    def close(self) -> None:
        self.is_closed = True
        self.pause()
        self.sock.close()
        self.listener.drain()
        if self.name is not None:
            self.name.remove()


class Server:
    """The listening sockets of one process, each with its ``Listener``.

    Args:
        inherited: sockets that listen already, and for which address each was made.
    """

    def __init__(self, inherited: Iterable[tuple[Address, socket.socket]] = ()) -> None:
        self._inherited = list(inherited)
        self._listening: list[_Listening] = []
        self.pauses = 0
        self._said_at = 0.0

    @property
    def listeners(self) -> list[Listener]:
        return [listening.listener for listening in self._listening]

    async def listen(
        self,
        address: Address,
        listener: Listener,
        *,
        outlasts_drain: bool = False,
        certificate: Certificate | None = None,
    ) -> Address:
        """Accept connections on an address; returns it with the port that was really taken.

        Args:
            certificate: clients speak TLS.
            outlasts_drain: it goes on while the process drains, so that one can see it drain.
        Raises:
            ListenFailed: with the address and the reason.
        """
        sock = self._take_inherited(address)
        name = None
        if sock is None:
            sock = open_socket(address)
            name = SocketName(address)
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if certificate is not None:
            options = {
                "ssl": certificate.context,
                "ssl_handshake_timeout": certificate.HANDSHAKE_S,
                "ssl_shutdown_timeout": certificate.CLOSING_S,
            }
        is_unix = sock.family == socket.AF_UNIX
        # The path is removed by who made it, not by every process that stops listening there.
        if is_unix and sys.version_info >= (3, 13):
            options["cleanup_socket"] = False

        def make_connection() -> ClientConnection:
            if certificate is not None:
                # The listener counts it after its handshake; it has a descriptor from now on.
                loop.call_soon(self._mind_descriptors, listener, sock)
            return listener.make_connection()

        def accept_on(copy: socket.socket) -> Awaitable[asyncio.Server]:
            if is_unix:
                return loop.create_unix_server(make_connection, sock=copy, **options)
            return loop.create_server(make_connection, sock=copy, backlog=BACKLOG, **options)

        if not is_unix and address.fd < 0:
            address = Address(host=address.host, port=sock.getsockname()[1])
        listening = _Listening(sock, accept_on, listener, address, outlasts_drain, name)
        try:
            await listening.accept(sock.dup())
        except BaseException:
            sock.close()
            raise
        # A crowd of clients must not keep out who asks whether we live.
        listener.max_descriptor = descriptor_limit(
            RESERVED_DESCRIPTORS - OPERATORS_DESCRIPTORS if outlasts_drain else RESERVED_DESCRIPTORS
        )
        listener.on_full = partial(self._pause, listener)
        self._listening.append(listening)
        return address

    def _take_inherited(self, address: Address) -> socket.socket | None:
        """The first one that was made for this address: an address may be written twice."""
        for index, (asked, sock) in enumerate(self._inherited):
            if asked == address:
                del self._inherited[index]
                return sock
        return None

    def _mind_descriptors(self, listener: Listener, sock: socket.socket) -> None:
        """Accept nothing more while handshakes have taken what is kept for nodes, names and files."""
        if not _has_descriptors(sock, listener.max_descriptor):
            self._pause(listener, " and the handshakes under way")

    def _pause(self, listener: Listener, besides: str = "") -> None:
        """A listener has no room: let new connections wait where they cost nothing."""
        paused = [item.pause() for item in self._listening if item.listener is listener]
        if any(paused):
            self.pauses += 1
            now = monotonic()
            if now - self._said_at >= SAY_S:
                self._said_at = now
                logger.warning(
                    "no room for more than %d connections%s: others wait", len(listener.connections), besides
                )

    @property
    def is_paused(self) -> bool:
        """Do new connections wait at any address?"""
        return any(item.server is None and not item.is_closed for item in self._listening)

    def sweep(self, now: float) -> bool:
        """Close what has waited too long, and accept again where there is room again.

        Returns False if there is more of it than may be done at a time.
        """
        is_done = True
        for listener in set(self.listeners):
            is_done &= listener.sweep(now)
        for item in self._listening:
            if item.server is None:
                item.resume(now)
        return is_done

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections go on and close after their answers."""
        for listening in self._listening:
            if not listening.outlasts_drain:
                listening.close()

    def abort(self) -> None:
        """End everything at once."""
        for listening in self._listening:
            listening.close()
            listening.listener.abort_all()

    def connections(self) -> int:
        """All open connections."""
        return sum(len(listener.connections) for listener in self.listeners)

    def clients(self) -> int:
        """The connections that a drain waits for."""
        return sum(len(item.listener.connections) for item in self._listening if not item.outlasts_drain)


def on_signals(handlers: dict[signal.Signals, Callable[[], None]]) -> None:
    """Install signal handlers on the running loop."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
