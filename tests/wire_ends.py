"""Both ends of the gateway, byte for byte: a client and a node that send what a test tells them.

Neither uses an HTTP library, so neither mends nor refuses what a test wants to see. Both block:
the client runs in the test, each connection of the node in a thread of its own.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

HANG_GUARD_S = 60.0
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Ended(Exception):
    """The peer closed where more was expected; ``got`` is what came of it."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"the peer closed after {got[-200:]!r}")
        self.got = got


class _Reader:
    """Bytes of one socket, up to a mark, by number, or all of them."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def more(self) -> bool:
        """Read once; False at the end of the stream, however it came."""
        try:
            data = self.sock.recv(1 << 16)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        self.buffer += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        while (at := self.buffer.find(mark)) < 0:
            if not self.more():
                raise Ended(self.buffer)
        at += len(mark)
        data, self.buffer = self.buffer[:at], self.buffer[at:]
        return data

    def exactly(self, size: int) -> bytes:
        pieces = [self.buffer]
        have = len(self.buffer)
        self.buffer = b""
        while have < size:
            if not self.more():
                raise Ended(b"".join(pieces))
            pieces.append(self.buffer)
            have += len(self.buffer)
            self.buffer = b""
        data = b"".join(pieces)
        self.buffer = data[size:]
        return data[:size]

    def rest(self) -> bytes:
        pieces = [self.buffer]
        self.buffer = b""
        while self.more():
            pieces.append(self.buffer)
            self.buffer = b""
        return b"".join(pieces)


@dataclass
class Message:
    """One request or answer. ``start`` is its first line; field names are in lower case."""

    start: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    raw: bytes = b""  # all of it, framing included
    is_whole: bool = True
    connection: int = 0  # of a node: the number of the connection that brought it

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    def __getitem__(self, name: str) -> str:
        (value,) = (value for key, value in self.fields if key == name)
        return value

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self.fields)


def _read_head(reader: _Reader) -> Message:
    head = reader.until(b"\r\n\r\n")
    start, *lines = head[:-4].decode("latin-1").split("\r\n")
    fields = []
    for line in lines:
        name, _, value = line.partition(":")
        fields.append((name.lower(), value.strip()))
    return Message(start, fields, raw=head)


def _read_chunked(reader: _Reader, message: Message) -> None:
    raw = [message.raw]
    pieces = []
    try:
        while True:
            line = reader.until(b"\r\n")
            raw.append(line)
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            data = reader.exactly(size + 2)
            raw.append(data)
            assert data.endswith(b"\r\n"), "a chunk longer than its size"
            pieces.append(data[:-2])
        while line != b"\r\n":
            line = reader.until(b"\r\n")
            raw.append(line)
    except Ended as end:
        raw.append(end.got)
        message.is_whole = False
    message.raw = b"".join(raw)
    message.body = b"".join(pieces)


def _read_sized(reader: _Reader, message: Message, size: int) -> None:
    try:
        message.body = reader.exactly(size)
    except Ended as end:
        message.body = end.got
        message.is_whole = False
    message.raw += message.body


# --- The client -------------------------------------------------------------------------------


class Client:
    """A client connection to the gateway."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(HANG_GUARD_S)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = _Reader(self.sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, method: str = "GET") -> Message:
        """The next answer, interim ones included. Raises Ended if there is none."""
        message = _read_head(self._reader)
        status = message.status
        if method == "HEAD" or status < 200 or status in (204, 304):
            return message
        if "transfer-encoding" in message:
            _read_chunked(self._reader, message)
        elif "content-length" in message:
            _read_sized(self._reader, message, int(message["content-length"]))
        else:
            message.body = self._reader.rest()
            message.raw += message.body
        return message

    def ask(self, data: bytes) -> Message:
        """Send one request and read its answer."""
        self.send(data)
        return self.answer(data.split(b" ", 1)[0].decode("latin-1"))

    def read_until(self, mark: bytes) -> bytes:
        return self._reader.until(mark)

    def wait_for(self, mark: bytes) -> None:
        """Wait until ``mark`` has come; nothing is taken, so ``answer`` still finds it all."""
        self._reader.buffer = self._reader.until(mark) + self._reader.buffer

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must come."""
        return self._reader.rest()

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def get(path: str, *fields: str, version: str = "1.1", method: str = "GET") -> bytes:
    """A request without a body, or the head of one whose body follows."""
    lines = [f"{method} {path} HTTP/{version}", "Host: gateway.test", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def post(path: str, body: bytes, *fields: str, method: str = "POST", version: str = "1.1") -> bytes:
    """A request with a body of a known size."""
    return get(path, f"Content-Length: {len(body)}", *fields, method=method, version=version) + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A chunked body, or a part of one if ``end`` is empty."""
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + end


def answer(body: bytes = b"", *fields: str, status: str = "200 OK") -> bytes:
    """An answer with a body of a known size."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


# --- The node ---------------------------------------------------------------------------------


class Peer:
    """One connection that a node has accepted; ``number`` counts from 1."""

    def __init__(self, owner: ScriptedNode, sock: socket.socket, number: int) -> None:
        self.node = owner
        self.sock = sock
        self.number = number
        self._reader = _Reader(sock)

    def head(self) -> Message:
        """The head of the next request; its body is still to come. Raises Ended at the end."""
        message = _read_head(self._reader)
        message.connection = self.number
        self.node.asked.append(message)
        return message

    def body(self, message: Message) -> Message:
        """Read the body of a request."""
        if "transfer-encoding" in message:
            _read_chunked(self._reader, message)
        elif "content-length" in message:
            _read_sized(self._reader, message, int(message["content-length"]))
        return message

    def request(self) -> Message:
        """The next request, whole. Raises Ended at the end of the connection."""
        return self.body(self.head())

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def finish(self) -> None:
        """Send FIN."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.sock.close()

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must come."""
        return self._reader.rest()


class ScriptedNode:
    """A listening socket on a free port of 127.0.0.1; each connection plays ``script`` in a thread.

    A script ends by returning (the connection is closed then), or with Ended or OSError when the
    gateway left. Anything else it raises is raised again when the node is closed.
    """

    def __init__(
        self,
        script: Callable[[Peer], None],
        *,
        receive_buffer: int = 0,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.script = script
        self.asked: list[Message] = []
        self.accepted = 0
        self.gone = threading.Event()  # some connection has played its script to the end
        self._problems: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._peers: list[Peer] = []
        self._is_closed = False
        self._listener = socket.socket()
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(address)
        self._listener.listen(128)
        self.host: str
        self.port: int
        self.host, self.port = self._listener.getsockname()
        self._begin(self._accept)

    def _begin(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="node", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._is_closed:
                sock.close()
                return
            sock.settimeout(HANG_GUARD_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            peer = Peer(self, sock, self.accepted)
            self._peers.append(peer)
            self._begin(self._play, peer)

    def _play(self, peer: Peer) -> None:
        try:
            self.script(peer)
        except (Ended, OSError):
            pass
        except BaseException as problem:
            self._problems.append(problem)
        finally:
            peer.sock.close()
            self.gone.set()

    def close(self) -> None:
        self._is_closed = True
        # accept() does not wake up when its socket is closed: a last connection wakes it.
        with socket.socket() as last:
            last.connect_ex((self.host, self.port))
        self._threads[0].join(HANG_GUARD_S)
        self._listener.close()
        for peer in self._peers:
            try:
                peer.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(HANG_GUARD_S)
        if self._problems:
            raise self._problems[0]


@contextmanager
def node(script: Callable[[Peer], None], **options: Any) -> Iterator[ScriptedNode]:
    """A running node; ``options`` as of ``ScriptedNode``."""
    running = ScriptedNode(script, **options)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def refusing() -> Iterator[int]:
    """A port at which every address of this machine refuses: taken, so that nobody else gets it."""
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        yield int(holder.getsockname()[1])


def serving(respond: Callable[[Message], bytes]) -> Callable[[Peer], None]:
    """The script of a node that answers every request, one after the other."""

    def script(peer: Peer) -> None:
        while True:
            peer.send(respond(peer.request()))

    return script


def echoing(request: Message) -> bytes:
    """An answer that says what was asked."""
    body = f"{request.method} {request.target} ".encode("latin-1") + request.body
    return answer(b"" if request.method == "HEAD" else body)


# --- Configuration ----------------------------------------------------------------------------

# No test waits for one of these.
_DEADLINES = (
    "{head: 20, head_stream: 20, first_content: 20, first_content_stream: 20, connect: 20, total: 60}"
)


def config_for(
    *ports: int,
    process: str = "",
    uris: str = "/*",
    deadlines: str = _DEADLINES,
    provider: str | None = None,
    route: str = "",
) -> str:
    """A configuration with one route to nodes on these ports, in order of priority, over plain HTTP.

    Args:
        process: fields of the object ``fastgw``, as flow YAML without its braces.
        provider: makes it an LLM route.
        route: further fields of the route, as flow YAML.
    """
    said = f", provider: {provider}" if provider else ""
    nodes = [
        f"        - {{host: 127.0.0.1, port: {port}, weight: 1, priority: {-index}{said}}}"
        for index, port in enumerate(ports)
    ]
    more = f", {route}" if route else ""
    return "\n".join(
        [
            f"fastgw: {{{process}}}",
            "services:",
            "  - name: plain",
            "    routes:",
            f"      - {{name: plain, uris: [{uris}], deadlines: {deadlines}{more}}}",
            "    upstream:",
            "      scheme: http",
            "      nodes:",
            *nodes,
            "",
        ]
    )
