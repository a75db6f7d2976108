"""Hosts that speak OpenAI's chat dialect, and do so badly when they are told to.

``BadHosts`` runs some of them in one process of its own, each on a port of its own; this module is that
process too. What they do wrong, and when, is a schedule of plans that is handed over before the load
begins. Everything that reached them is written down: see ``RequestSeen`` and ``ConnectionSeen``.

TLS is driven here over the plain connection, because a fault may be anywhere in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop
from python_process import python_process

from fastgw.simulator.certificates import VARIANTS, Certificates, ensure

from . import conversation
from .faults import FAULTS, FOR_EVER_S, Fault, Strikes

_LINGER_ZERO = struct.pack("ii", 1, 0)
_BEAT_S, _STALL_S = 0.05, 0.25
_AFTER_STALL_S = 5.0  # a host that was late is left alone for 4 s at most


# --- What both sides of the pipe know ---------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What one host does from some moment on.

    Attributes:
        at: seconds from the start of the schedule.
        host: its number.
        faults: names; one is drawn for each request (or connection) that is struck. None: all is well.
        share: of the requests (connections) that are struck.
        is_bad: the host counts as misbehaving; False: what it does is harmless.
    """

    at: float
    host: int
    faults: tuple[str, ...] = ()
    share: float = 1.0
    is_bad: bool = False


@dataclass
class RequestSeen:
    """One request as a host saw it. Times are monotonic seconds.

    Attributes:
        nth: of its connection, from 1.
        fault: that struck it; "" if none.
        got: bytes of it, ``total`` those it should have had.
        is_intact: its body was what its id says.
        sent: bytes of the answer.
        status: of the answer.
        is_complete: all of an answer was sent.
        end: "answered" (the connection goes on), or who ended it then: "host", or "gateway".
    """

    id: str
    host: int
    connection: int
    nth: int
    fault: str
    begun: float
    total: int
    generation: str
    got: int = 0
    is_intact: bool = False
    sent: int = 0
    status: int = 200
    is_complete: bool = False
    end: str = ""
    ended: float = 0.0

    @property
    def is_whole(self) -> bool:
        return self.got >= self.total


@dataclass
class ConnectionSeen:
    """One connection as a host saw it.

    Attributes:
        fault: that struck it when it was accepted; "" if none.
        ended: 0: it is still open.
        unread: bytes behind a request.
    """

    number: int
    host: int
    accepted: float
    fault: str = ""
    requests: int = 0
    ended: float = 0.0
    ended_by: str = ""
    unread: int = 0


@dataclass
class Report:
    """All that the hosts have seen; times are monotonic seconds.

    Attributes:
        windows: (host, begun, ended, faults) of misbehaviour.
        standstills: (begun, ended) of times in which the hosts' process did not get to run, or good hosts
            were out for that.
    """

    requests: list[RequestSeen]
    connections: list[ConnectionSeen]
    windows: list[tuple[int, float, float, tuple[str, ...]]]
    standstills: list[tuple[float, float]] = field(default_factory=list)


# --- The hosts' side --------------------------------------------------------------------------


class _Request(RequestSeen):
    """A request that is being served."""

    def begin(self, head_size: int, is_stream: bool) -> None:
        self.head_size = head_size
        self.body = b""
        self.stream = is_stream
        self.waiters: list[tuple[int, asyncio.Future[None]]] = []
        shape = random.Random(self.id)
        self._count, self._size = shape.randint(2, 8), shape.choice((1, 20, 200))

    def contents(self) -> list[str]:
        return conversation.contents(self.id, self.generation, self._count, self._size)

    def events(self) -> list[bytes]:
        """The events of a streamed answer: role, contents, finish, end."""
        contents = map(conversation.content_event, self.contents())
        return [conversation.ROLE, *contents, conversation.FINISH, conversation.DONE]


class Link(asyncio.Protocol):
    """One connection that a host has accepted."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.transport: Any = None
        self.seen = ConnectionSeen(next(host.bench.numbers), host.number, monotonic())
        self.request: _Request | None = None
        self._tls: ssl.SSLObject | None = None
        self._buffer = b""
        self._script: asyncio.Task[None] | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._is_deaf = False

    # --- The connection ---

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        host = self.host
        host.links.add(self)
        host.bench.connections.append(self.seen)
        fault = host.draw(Strikes.ACCEPT, f"connection {self.seen.number}")
        variant = None
        if fault is not None:
            self.seen.fault = fault.name
        if fault is not None and fault.name == "bad_certificate":
            variant = VARIANTS[self.seen.number % len(VARIANTS)]
            fault = None
        if fault is not None:
            self._is_deaf = True
            self._play(fault, None)
        elif host.contexts:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = host.contexts[variant].wrap_bio(self._incoming, self._outgoing, server_side=True)
            self._is_greeted = False

    def connection_lost(self, error: Exception | None) -> None:
        self.host.links.discard(self)
        if self._closing is not None:
            self._closing.cancel()
        if self._script is not None:
            self._script.cancel()
        self._ended("gateway")

    def eof_received(self) -> bool:
        return False

    def _ended(self, by: str) -> None:
        if self.seen.ended:
            return
        self.seen.ended, self.seen.ended_by = monotonic(), by
        request, self.request = self.request, None
        if request is not None:
            request.end, request.ended = by, self.seen.ended

    def reset(self) -> None:
        """End it with RST."""
        self._ended("host")
        if not self.transport.is_closing():
            with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            self.transport.abort()

    def close(self, *, goodbye: bool = True) -> None:
        """End it with FIN, behind a close_notify or without one."""
        if goodbye and self._tls is not None and not self.transport.is_closing():
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass
            self._flush()
        self._ended("host")
        self.transport.close()

    def close_when_idle(self, delay_s: float, how: str) -> None:
        """End it after a while if no request comes: "fin", "goodbye", "reset", or a "408" first."""

        def end() -> None:
            if self.request is not None or self.transport.is_closing():
                return
            if how == "reset":
                self.reset()
                return
            if how == "408":
                self.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.close(goodbye=how != "fin")

        self._closing = asyncio.get_running_loop().call_later(delay_s, end)

    # --- Bytes ---

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._tls is not None:
            self._incoming.write(data)
            try:
                data = self._decrypted()
            except ssl.SSLZeroReturnError:
                self._ended("gateway")
                self.close()
                return
            except ssl.SSLError:
                self._flush()
                self._ended("gateway")
                self.transport.close()
                return
            self._flush()
        if data:
            self._read(data)

    def _decrypted(self) -> bytes:
        assert self._tls is not None
        pieces = []
        try:
            if not self._is_greeted:
                self._tls.do_handshake()
                self._is_greeted = True
            while piece := self._tls.read(65536):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            if not pieces:
                raise
        return b"".join(pieces)

    def _flush(self) -> None:
        if (data := self._outgoing.read()) and not self.transport.is_closing():
            self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Send bytes of an answer."""
        if not data or self.transport.is_closing():
            return
        if self.request is not None:
            self.request.sent += len(data)
        if self._tls is not None:
            self._tls.write(data)
            self._flush()
        else:
            self.transport.write(data)

    def send_event(self, data: bytes) -> None:
        """Send a chunk of a stream."""
        if data:
            self.send(b"%x\r\n%b\r\n" % (len(data), data))

    # --- Requests ---

    def _read(self, data: bytes) -> None:
        request = self.request
        if request is not None and request.is_whole:
            self._buffer += data  # the next one: the last of an answer is read before its script has ended
            self.seen.unread = len(self._buffer)
            return
        if request is None:
            self._buffer += data
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._buffer = b""
            request = self._begin(head)
            data = rest
        # Answered early, the next one may be right behind it.
        self._buffer = data[request.total - request.got :]
        data = data[: request.total - request.got]
        request.got += len(data)
        request.body += data
        for need, waiter in request.waiters:
            if request.got >= need and not waiter.done():
                waiter.set_result(None)
        if request.is_whole and self._script is None and self.request is request:
            self._answer(request)

    def _begin(self, head: bytes) -> _Request:
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        self.seen.requests += 1
        self.seen.unread = 0
        if self._closing is not None:
            self._closing.cancel()
        host = self.host
        id = fields.get(b"x-request-id", b"").decode("latin-1")
        fault = host.draw(Strikes.HEAD, id)
        size = len(head) + 4
        request = self.request = _Request(
            id,
            host.number,
            self.seen.number,
            self.seen.requests,
            fault.name if fault is not None else "",
            monotonic(),
            size + int(fields.get(b"content-length", b"0")),
            f"h{host.number}g{self.seen.number}-{self.seen.requests}",
        )
        request.begin(size, False)
        request.got = size
        host.bench.requests.append(request)
        if fault is not None:
            self._play(fault, request)
        return request

    def _answer(self, request: _Request) -> None:
        request.is_intact = conversation.is_intact(request.id, request.body)
        request.stream = b'"stream": true' in request.body or b'"stream":true' in request.body
        request.body = b""
        fault = self.host.draw(Strikes.REQUEST, request.id, request.stream)
        if fault is not None:
            request.fault = fault.name
            self._play(fault, request)
            return
        self.send(self.whole(request))
        self._answered(request)

    def _answered(self, request: _Request) -> None:
        request.is_complete = True
        if self.request is request:  # the script has not ended the connection
            self.request = None
            request.end, request.ended = "answered", monotonic()
            if self._buffer:
                self._read(b"")

    def _play(self, fault: Fault, request: _Request | None) -> None:
        rng = random.Random(f"{self.host.seed}/{request.id if request is not None else self.seen.number}")

        async def play() -> None:
            is_answered = await fault.script(self, request, rng)
            if request is None:
                return
            if is_answered:
                if not request.is_whole:  # it was answered early: the rest of it is taken, and dropped
                    request.is_complete = True
                    await self.until_got(request, request.total)
                self._script = None
                self._answered(request)
            else:
                await asyncio.sleep(FOR_EVER_S)

        def over(task: asyncio.Task[None]) -> None:
            if self._script is task:
                self._script = None
            if not task.cancelled() and (problem := task.exception()) is not None:
                self.host.bench.problems.append(f"{fault.name}: {problem!r}")

        self._script = asyncio.get_running_loop().create_task(play())
        self._script.add_done_callback(over)

    async def until_got(self, request: _Request, size: int) -> None:
        """Wait until so much of a request has come, head included."""
        if request.got < size:
            waiter = asyncio.get_running_loop().create_future()
            request.waiters.append((size, waiter))
            await waiter

    # --- Answers ---

    def head_of(self, request: _Request, length: int | None = None, fields: bytes = b"") -> bytes:
        """The head of a good answer; a length of None: chunked, -1: until the end of the connection."""
        kind = b"text/event-stream" if request.stream else b"application/json"
        framing = b"Transfer-Encoding: chunked\r\n"
        if length is not None:
            framing = b"Content-Length: %d\r\n" % length if length >= 0 else b""
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b%b\r\n" % (kind, fields, framing)

    def whole(self, request: _Request, fields: bytes = b"") -> bytes:
        """A good answer."""
        if not request.stream:
            body = conversation.completion(request.contents())
            return self.head_of(request, len(body), fields) + body
        chunks = b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in request.events()])
        return self.head_of(request, None, fields) + chunks + b"0\r\n\r\n"

    def send_whole(self, request: _Request, pieces: Sequence[bytes]) -> None:
        """An answer whose framing is good, with these pieces as its body."""
        if request.stream:
            self.send(self.head_of(request))
            for piece in pieces:
                self.send_event(piece)
            self.send(b"0\r\n\r\n")
        else:
            body = b"".join(pieces)
            self.send(self.head_of(request, len(body)) + body)


class Host:
    """One host: a port, what it does wrong now, and its connections."""

    def __init__(self, bench: Bench, number: int, contexts: dict[str | None, ssl.SSLContext]) -> None:
        self.bench = bench
        self.number = number
        self.contexts = contexts
        self.links: set[Link] = set()
        self.plan = Plan(0.0, number)
        self.seed = ""
        self._server: asyncio.Server | None = None
        # Holds the port while nobody listens on it.
        self._holder = self._bound(0)
        self.port: int = self._holder.getsockname()[1]

    @staticmethod
    def _bound(port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        return sock

    async def listen(self) -> None:
        if self._server is None:
            loop = asyncio.get_running_loop()
            sock = self._bound(self.port)
            self._server = await loop.create_server(lambda: Link(self), sock=sock, backlog=1024)

    async def follow(self, plan: Plan, number: int) -> None:
        """Do as the plan says from now on; ``number``: of the plan, which makes other draws."""
        self.bench.note_window(self.number, plan)
        self.plan = plan
        self.seed = f"{self.bench.seed}/{number}/{self.number}"
        strikes = {FAULTS[name].strikes for name in plan.faults}
        if "refuse" in plan.faults:
            if self._server is not None:
                self._server.close()
                self._server = None
        else:
            await self.listen()
        if Strikes.ACCEPT in strikes:
            # Else there would be no new connections to be struck.
            for link in list(self.links):
                if link.request is None and link._script is None:
                    link.close()

    def draw(self, strikes: Strikes, of: str, stream: bool | None = None) -> Fault | None:
        """The fault that strikes now, if one does; the same for the same seed, plan and id."""
        plan = self.plan
        if not plan.faults:
            return None
        if len(plan.faults) == 1 and plan.share == 1.0:
            fault = FAULTS[plan.faults[0]]
        else:
            rng = random.Random(f"{self.seed}/{of}")
            if rng.random() >= plan.share:
                return None
            fault = FAULTS[rng.choice(plan.faults)]
        at = Strikes.REQUEST if fault.strikes is Strikes.CONTENT else fault.strikes
        if at is not strikes or (fault.stream is not None and fault.stream != stream):
            return None
        return fault


class Bench:
    """All hosts of one process, and what they have seen."""

    def __init__(self, hosts: int, certificates: Certificates | None, seed: int) -> None:
        self.seed = seed
        self.requests: list[_Request] = []
        self.connections: list[ConnectionSeen] = []
        self.numbers = count(1)  # of the connections
        self.windows: list[tuple[int, float, float, tuple[str, ...]]] = []
        self.standstills: list[tuple[float, float]] = []
        self.hosts = [Host(self, n, _contexts(certificates, host_name(n))) for n in range(hosts)]
        self.problems: list[str] = []  # of our own
        self._bad_since = [0.0] * hosts
        self._steps: list[asyncio.Task[None]] = []

    def note_window(self, host: int, plan: Plan | None) -> None:
        """A host's plan ends, and another begins."""
        now = monotonic()
        if self._bad_since[host]:
            self.windows.append((host, self._bad_since[host], now, self.hosts[host].plan.faults))
        self._bad_since[host] = now if plan is not None and plan.is_bad else 0.0

    async def _follow(self, start: float, plans: Sequence[tuple[int, Plan]]) -> None:
        for number, plan in plans:
            await asyncio.sleep(start + plan.at - monotonic())
            await self.hosts[plan.host].follow(plan, number)

    async def watch_clock(self) -> None:
        """Note when this process did not get to run: good hosts were late, by no fault of theirs."""
        last = monotonic()
        while True:
            await asyncio.sleep(_BEAT_S)
            now = monotonic()
            if now - last > _STALL_S:
                self.standstills.append((last, now + _AFTER_STALL_S))
            last = now

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        if "plans" in order:
            plans = [Plan(**{**plan, "faults": tuple(plan["faults"])}) for plan in order["plans"]]
            # What is due is in force when the order has been taken.
            numbered, start = list(enumerate(plans)), order["start"]
            due = [entry for entry in numbered if start + entry[1].at <= monotonic()]
            await self._follow(start, due)
            later = asyncio.get_running_loop().create_task(self._follow(start, numbered[len(due) :]))
            self._steps.append(later)
            return {}
        assert "report" in order
        for host in self.hosts:
            self.note_window(host.number, None)
        kept = RequestSeen.__dataclass_fields__
        report = {
            "requests": [{name: getattr(request, name) for name in kept} for request in self.requests],
            "connections": [asdict(connection) for connection in self.connections],
            "windows": self.windows,
            "standstills": self.standstills,
        }
        Path(order["report"]).write_text(json.dumps(report))
        return {"problems": self.problems}


def host_name(number: int) -> str:
    return f"h{number}.chaos.test"


def _contexts(certificates: Certificates | None, name: str) -> dict[str | None, ssl.SSLContext]:
    if certificates is None:
        return {}
    contexts: dict[str | None, ssl.SSLContext] = {}
    for variant in (None, *VARIANTS):
        context = contexts[variant] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.chain_file(name, variant))
    return contexts


async def _serve(options: dict[str, Any]) -> None:
    certificates = Certificates(Path(options["certificates"])) if options["certificates"] else None
    bench = Bench(options["count"], certificates, options["seed"])
    for host in bench.hosts:
        await host.listen()
    loop = asyncio.get_running_loop()
    watch = loop.create_task(bench.watch_clock())
    orders = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print(json.dumps([host.port for host in bench.hosts]), flush=True)
    while line := await orders.readline():  # its end is ours
        print(json.dumps(await bench.obey(json.loads(line))), flush=True)
    watch.cancel()


# --- Our side ---------------------------------------------------------------------------------


class BadHosts:
    """The process, as a goal sees it. Every order blocks until it was taken."""

    def __init__(
        self, popen: subprocess.Popen[str], ports: list[int], certificates: Certificates | None
    ) -> None:
        self.ports = ports
        self.certificates = certificates
        self._popen = popen

    def _order(self, order: dict[str, Any]) -> None:
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(order) + "\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline()
        assert answer, "the faulty hosts have ended"
        problems = json.loads(answer).get("problems")
        assert not problems, problems

    def follow(self, plans: Sequence[Plan], start: float) -> None:
        """Do as the plans say, whose times count from ``start``, monotonic seconds."""
        self._order({"plans": [asdict(plan) for plan in plans], "start": start})

    def report(self, directory: Path) -> Report:
        """All that was seen so far; ends the last windows."""
        path = directory / "hosts.json"
        self._order({"report": str(path)})
        told = json.loads(path.read_text())
        return Report(
            [RequestSeen(**request) for request in told["requests"]],
            [ConnectionSeen(**connection) for connection in told["connections"]],
            [(host, begun, ended, tuple(faults)) for host, begun, ended, faults in told["windows"]],
            [(begun, ended) for begun, ended in told["standstills"]],
        )


@contextmanager
def bad_hosts(directory: Path, count: int, seed: int, *, tls: bool = True) -> Iterator[BadHosts]:
    """Start so many hosts; they are gone at the end."""
    certificates = ensure(directory / "ca", [host_name(n) for n in range(count)]) if tls else None
    options = {
        "count": count,
        "seed": seed,
        "certificates": str(certificates.directory) if certificates is not None else "",
    }
    with python_process("-m", __name__, options=options) as (popen, ports):
        yield BadHosts(popen, ports, certificates)


if __name__ == "__main__":
    uvloop.run(_serve(json.loads(sys.argv[1])))
