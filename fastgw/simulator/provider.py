"""A simulated provider: its listener, its connections, its faults, and the record of what reached it."""

import asyncio
import contextlib
import email.utils
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

from fastgw.simulator.certificates import Certificates
from fastgw.simulator.connection import HANG, Connection, Hang, Request
from fastgw.simulator.dialect import Call, Dialect, Settings
from fastgw.simulator.faults import Fault, FaultKind
from fastgw.simulator.script import NO_PACE, Answer, Framing, Pace, Script, compose

#: What one literal of a well-known example configuration sends as the whole Authorization header.
ARTICLE_KEY = "LLM-API-KEY"

BACKLOG = 1024
MAX_RECORD_BYTES = 32 * 1024 * 1024  # of bodies, over all records


class Ending(StrEnum):
    """How a request ended."""

    OPEN = "open"  # not yet
    COMPLETE = "complete"  # a whole answer was written, be it an error
    ABORTED = "aborted"  # the peer left first
    CUT = "cut"  # a fault ended the connection


@dataclass(slots=True, eq=False)
class Record:
    """One request as it reached the provider. Times are ``time.monotonic``, seconds."""

    serial: int
    request_id: str  # the x-request-id of the answer
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes
    model: str | None  # the one asked for
    served: int  # 1 for the first request of its connection
    began_at: float
    fault: FaultKind | None = None
    status: int | None = None  # None: a head was not to be sent
    is_stream: bool = False
    progress: int = 0  # content events written so far (tokens, for a plain answer)
    ending: Ending = Ending.OPEN
    ended_at: float | None = None

    def header(self, name: str) -> str | None:
        """The first value of a header (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def authorization(self) -> str | None:
        """The whole Authorization header."""
        return self.header("authorization")


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    connections: int = 0
    handshakes: int = 0
    handshakes_failed: int = 0
    requests: int = 0
    completed: int = 0
    aborted: int = 0
    cut: int = 0


class FaultQueue:
    """Faults for the next requests, one each; None lets one request through undisturbed.

    A request that the foremost fault is not for leaves the queue as it is. The queue goes before
    `Provider.fault`. Faults of the connection do not belong here: ValueError.
    """

    def __init__(self, faults: Iterable[Fault | None] = ()) -> None:
        self._faults: deque[Fault | None] = deque()
        self.extend(faults)

    def append(self, fault: Fault | None) -> None:
        """Put one more at the end."""
        if fault is not None and fault.is_of_connection:
            raise ValueError(f"{fault.kind.value} strikes connections: set it as the provider's fault")
        if fault is not None and fault.early:
            raise ValueError("early: set it as the provider's fault, the queue waits for whole requests")
        self._faults.append(fault)

    def extend(self, faults: Iterable[Fault | None]) -> None:
        """Put several at the end."""
        for fault in faults:
            self.append(fault)

    def clear(self) -> None:
        """Forget what has not struck yet."""
        self._faults.clear()

    def first(self) -> Fault | None:
        """The foremost one."""
        return self._faults[0] if self._faults else None

    def pop(self) -> Fault | None:
        """Take the foremost one."""
        return self._faults.popleft()

    def __len__(self) -> int:
        return len(self._faults)

    def __bool__(self) -> bool:
        return bool(self._faults)


class _Playback:
    """One answer under way: the script, and its record."""

    __slots__ = ("_provider", "_record", "script")

    def __init__(self, provider: "Provider", record: Record, script: Script) -> None:
        self._provider = provider
        self._record = record
        self.script = script

    def sent(self, progress: int) -> None:
        self._record.progress += progress
        self._provider.changed()

    def ended(self, is_complete: bool, by_peer: bool) -> None:
        ending = Ending.COMPLETE if is_complete else Ending.ABORTED if by_peer else Ending.CUT
        self._provider.finish(self._record, ending)


class Provider:
    """One provider on one port. All of it belongs to the event loop that started it.

    ``settings``, ``keys``, ``faults`` and ``fault`` may be changed at any time.
    """

    def __init__(
        self,
        dialect: Dialect,
        certificates: Certificates,
        *,
        keys: Iterable[str],
        article: bool = False,
        keep_requests: int = 1000,
        seed: int = 0,
    ) -> None:
        self.name = dialect.name
        self.host = dialect.host
        self.settings = Settings()
        self.keys = set(keys)
        self.requests: deque[Record] = deque(maxlen=keep_requests)
        self.counters = Counters()
        self.faults = FaultQueue()
        self.address = ""
        self.port = 0
        self.is_early = False
        self._article = article
        self._dialect = dialect
        self._certificates = certificates
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._random = random.Random(seed)
        self._fault: Fault | None = None
        self._left: int | None = None  # of the fault's count
        self._connections: set[Connection] = set()
        self._record_bytes = 0
        self._waiters: list[tuple[Callable[[], object], asyncio.Future[None]]] = []
        self._is_closed = False
        self._all_gone: asyncio.Future[None] | None = None
        # Listening
        self._loop: asyncio.AbstractEventLoop | None = None
        self._guard: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._openings: set[asyncio.Task[None]] = set()
        self._date = (0, b"")

    def __repr__(self) -> str:
        fault = f" {self._fault.kind.value}" if self._fault else ""
        return (
            f"<Provider {self.name} {self.address}:{self.port}{fault} "
            f"connections={self.connections_open} requests={self.counters.requests}>"
        )

    @property
    def connections_open(self) -> int:
        """TCP connections that are open now."""
        return len(self._connections)

    def status(self) -> dict[str, object]:
        """What the control listener shows."""
        return {
            "name": self.name,
            "host": self.host,
            "port": self.port,
            "fault": self._fault.to_json() if self._fault else None,
            "queued_faults": len(self.faults),
            "connections_open": self.connections_open,
            "counters": asdict(self.counters),
        }

    # --- Faults -------------------------------------------------------------------------------

    @property
    def fault(self) -> Fault | None:
        """What goes wrong until it is set to something else. Taken from the next request on; a fault of
        the connection also resets the connections there are, so that it is felt at once."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._fault = fault
        self._left = fault.count if fault else None
        self.is_early = fault is not None and fault.early
        if self._is_closed or self._loop is None:
            return
        if fault is not None and fault.is_of_connection:
            if fault.kind is FaultKind.REFUSE:
                self._stop_listening()
            for connection in tuple(self._connections):
                connection.reset()
        if fault is None or fault.kind is not FaultKind.REFUSE:
            self._listen()

    def _strikes(self, fault: Fault) -> bool:
        """Throw the dice, and count."""
        if fault.probability < 1.0 and self._random.random() >= fault.probability:
            return False
        if fault is self._fault and self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._fault = None
                self.is_early = False
        return True

    def _choose_fault(self, request: Request, is_stream: bool, *, is_early: bool = False) -> Fault | None:
        is_reused = request.served > 1
        if self.faults:
            first = self.faults.first()
            if first is None or first.fits(
                request.path, request.body, is_stream=is_stream, is_reused=is_reused
            ):
                self.faults.pop()
                return first if first is not None and self._strikes(first) else None
        fault = self._fault
        if fault is None or fault.is_of_connection or fault.early != is_early:
            return None
        if not fault.fits(request.path, request.body, is_stream=is_stream, is_reused=is_reused):
            return None
        return fault if self._strikes(fault) else None

    # --- Listening ----------------------------------------------------------------------------

    async def start(self, address: str, port: int) -> None:
        """Listen. OSError when the address cannot be bound."""
        self._loop = asyncio.get_running_loop()
        self._context(None)  # a broken certificate shows now, not at the first connection
        # The guard is bound and never listens: while connections are refused it keeps the port ours.
        guard = self._bind(address, port)
        self._guard = guard
        self.address, self.port = guard.getsockname()[:2]
        try:
            self._listen()
            await asyncio.gather(*self._openings)
        except BaseException:
            await self.close()
            raise

    @staticmethod
    def _bind(address: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # With the protocol's number, or asyncio does not switch the delay of small writes off.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setblocking(False)
            bound.bind((address, port))
        except OSError as error:
            bound.close()
            raise OSError(error.errno, f"cannot bind {address}:{port}: {error.strerror}") from error
        return bound

    def _listen(self) -> None:
        """Accept from now on: the kernel at once, the event loop a moment later."""
        if self._listener is not None or self._loop is None:
            return
        listener = self._bind(self.address, self.port)
        try:
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        opening = self._loop.create_task(self._open(listener))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)

    async def _open(self, listener: socket.socket) -> None:
        if self._listener is not listener:  # refused again in the meantime
            listener.close()
            return
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: Connection(self, loop), sock=listener, backlog=BACKLOG)
        except BaseException:
            listener.close()
            raise
        if self._listener is listener:
            self._server = server
        else:
            server.close()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        server, self._server = self._server, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # refuses at once; uvloop closes a little later
        if server is not None:
            server.close()
        # Else the task that opens it finds out, and closes it.

    async def close(self) -> None:
        """Close the listener and every connection; returns when all of it is gone."""
        self._is_closed = True
        self._stop_listening()
        await asyncio.gather(*self._openings, return_exceptions=True)
        if self._guard is not None:
            self._guard.close()
            self._guard = None
        if self._connections:
            self._all_gone = asyncio.get_running_loop().create_future()
            for connection in tuple(self._connections):
                connection.abort()
            await self._all_gone
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(RuntimeError("the provider was closed"))
        self._waiters.clear()

    # --- Connections --------------------------------------------------------------------------

    def opened(self, connection: Connection) -> ssl.SSLContext | Hang:
        """A connection was accepted."""
        self._connections.add(connection)
        self.counters.connections += 1
        self.changed()
        fault = self._fault
        if fault is None or not fault.is_of_connection or not self._strikes(fault):
            return self._context(None)
        if fault.kind is FaultKind.HANDSHAKE_HANG:
            return HANG
        return self._context(fault.variant if fault.kind is FaultKind.BAD_CERTIFICATE else None)

    def handshaken(self, succeeded: bool) -> None:
        """A handshake ended."""
        if succeeded:
            self.counters.handshakes += 1
        else:
            self.counters.handshakes_failed += 1
        self.changed()

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self.changed()
        if self._all_gone is not None and not self._connections and not self._all_gone.done():
            self._all_gone.set_result(None)

    def _context(self, variant: str | None) -> ssl.SSLContext:
        context = self._contexts.get(variant)
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            context.load_cert_chain(self._certificates.chain_file(self.host, variant))
            context.sni_callback = self._check_name
            self._contexts[variant] = context
        return context

    def _check_name(self, tls: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        """The real ones find the site by its name, too: without the right one there is no handshake."""
        if name is None or name.lower() != self.host:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    # --- Requests -----------------------------------------------------------------------------

    def respond(self, request: Request) -> _Playback:
        """Answer a request: in order, or as the fault says."""
        call = self._call(request)
        answer = self._dialect.answer(call)
        fault = self._choose_fault(request, answer.events is not None)
        model = call.body.get("model")
        return self._play(call, answer, fault, model if isinstance(model, str) else None)

    def respond_early(self, request: Request) -> _Playback | None:
        """Answer a request of which only the head has come, if the fault wants that."""
        fault = self._fault
        if fault is None or self.faults or self._choose_fault(request, False, is_early=True) is None:
            return None
        return self._play(self._call(request), Answer(fault.status, []), fault, None)

    def _call(self, request: Request) -> Call:
        self.counters.requests += 1
        return Call(
            request, self.settings, self.counters.requests, int(time.time()), self._knows_key(request)
        )

    def _knows_key(self, request: Request) -> bool:
        value = request.header("authorization") or ""
        if self._article and value == ARTICLE_KEY:
            return True
        scheme, _, key = value.partition(" ")
        return scheme.lower() == "bearer" and key.strip() in self.keys

    def _play(self, call: Call, answer: Answer, fault: Fault | None, model: str | None) -> _Playback:
        request = call.request
        request_id = f"req_{self.name}_{call.serial:08d}"
        answer.headers += (
            (b"date", self._date_header(call.created)),
            (b"x-request-id", request_id.encode()),
            (b"x-fastgw-simulated", b"1"),
        )
        record = Record(
            call.serial,
            request_id,
            request.method,
            request.path,
            tuple(request.headers),
            request.body,
            model,
            request.served,
            time.monotonic(),
            fault.kind if fault else None,
            answer.status,
            answer.events is not None,
        )
        self._keep(record)
        framing = Framing(
            request.keep_alive, request.version == "1.1", request.method == "HEAD", request.served
        )
        pace = NO_PACE
        if answer.progress:
            pace = self._pace(request)
        if fault is not None and fault.kind is FaultKind.STATUS:
            record.status = fault.status
        playback = _Playback(self, record, compose(answer, framing, fault, pace))
        self.changed()
        return playback

    def _pace(self, request: Request) -> Pace:
        settings = self.settings
        first_s, token_s = settings.first_s, settings.token_s
        for name, value in request.headers:
            if name == "x-sim-delay-ms" and value.isascii() and value.isdigit():
                token_s = int(value[:9]) / 1000.0
            elif name == "x-sim-first-ms" and value.isascii() and value.isdigit():
                first_s = int(value[:9]) / 1000.0
        return Pace(first_s, token_s) if first_s or token_s else NO_PACE

    def _date_header(self, second: int) -> bytes:
        if self._date[0] != second:
            self._date = (second, email.utils.formatdate(second, usegmt=True).encode())
        return self._date[1]

    # --- Records ------------------------------------------------------------------------------

    def _keep(self, record: Record) -> None:
        records = self.requests
        if len(records) == records.maxlen and records:
            self._record_bytes -= len(records[0].body)
        records.append(record)
        self._record_bytes += len(record.body) if records.maxlen != 0 else 0
        while self._record_bytes > MAX_RECORD_BYTES and len(records) > 1:
            self._record_bytes -= len(records.popleft().body)

    def finish(self, record: Record, ending: Ending) -> None:
        """A request is over."""
        record.ending = ending
        record.ended_at = time.monotonic()
        counters = self.counters
        if ending is Ending.COMPLETE:
            counters.completed += 1
        elif ending is Ending.ABORTED:
            counters.aborted += 1
        else:
            counters.cut += 1
        self.changed()

    def changed(self) -> None:
        """Something a test may wait for has happened."""
        if not self._waiters:
            return
        waiting = []
        for condition, waiter in self._waiters:
            if waiter.done():
                continue
            try:
                is_met = condition()
            except Exception as error:  # it belongs to the one who waits
                waiter.set_exception(error)
                continue
            if is_met:
                waiter.set_result(None)
            else:
                waiting.append((condition, waiter))
        self._waiters = waiting

    async def wait_until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Return as soon as ``condition`` holds; it is asked whenever something happens here.

        TimeoutError after ``timeout_s`` seconds, RuntimeError when the provider is closed first.
        """
        if condition():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((condition, waiter))
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            raise TimeoutError(f"waited {timeout_s} s in vain: {self!r}") from None
