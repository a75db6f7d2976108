"""TLS sessions on real connections to an asyncio TLS server, on both loops."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self, cast

import pytest
import trustme
import uvloop

from fastgw.errors import ConnectionLost
from fastgw.wire.tls import HandshakeFailed, TlsContext, TlsSession

NAME = "api.openai.com"
LIMIT_S = 60.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client(asyncio.Protocol):
    """The smallest owner of a TlsSession; keeps all it reads."""

    def __init__(self, tls: TlsSession) -> None:
        self.tls = tls
        self.received = bytearray()
        self.established: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.tls.start())

    def data_received(self, data: bytes) -> None:
        self.tls.feed(data)
        try:
            if not self.tls.established and self.tls.handshake():
                self.established.set_result(None)
            self.received += self.tls.read()
        except (HandshakeFailed, ConnectionLost) as error:
            self.end(error)
        if self.tls.at_eof:  # the server waits for the same from us before it closes
            self.transport.write(self.tls.shutdown())
            self.transport.close()
        elif to_send := self.tls.outgoing():
            self.transport.write(to_send)

    def eof_received(self) -> None:
        self.tls.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc or ConnectionLost())

    def end(self, error: Exception) -> None:
        if not self.established.done():
            self.established.set_exception(error)
        if not self.closed.done():
            self.closed.set_result(None)


class Node:
    """A TLS server, one handler per connection, and what it saw."""

    def __init__(self, context: ssl.SSLContext, handler: Handler) -> None:
        self.context = context
        self.handler = handler
        self.reused: list[bool] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(cast("asyncio.Task[None]", asyncio.current_task()))
        self.reused.append(writer.get_extra_info("ssl_object").session_reused)
        await self.handler(reader, writer)

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()
        await asyncio.gather(*self.tasks)

    async def connect(self, context: TlsContext, name: str = NAME) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: Client(context.new_session(name)), "127.0.0.1", self.port
        )
        return client


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes until the client ends, then end too."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LIMIT_S):
                await main

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(bounded())

    return run


@pytest.fixture(params=VERSIONS)
def serving(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = VERSIONS[request.param]
    authority.issue_cert(NAME).configure_cert(context)
    return context


async def until(client: Client, size: int) -> bytes:
    """Wait for ``size`` bytes, or the end of the connection."""
    while len(client.received) < size and not client.closed.done():
        await asyncio.sleep(0.001)
    return bytes(client.received)


Run = Callable[[Coroutine[Any, Any, None]], None]


def test_large_bodies_pass_unharmed_both_ways(run: Run, serving: ssl.SSLContext, ca_file: str) -> None:
    body = bytes(i % 253 for i in range(5_000_000))

    async def main() -> None:
        async with Node(serving, echo) as node:
            client = await node.connect(TlsContext(ca_file))
            await client.established
            client.transport.write(client.tls.encrypt(body))
            assert await until(client, len(body)) == body
            client.transport.write(client.tls.shutdown())
            await client.closed
            client.transport.close()

    run(main())


def test_many_small_messages_keep_their_order(run: Run, serving: ssl.SSLContext, ca_file: str) -> None:
    async def main() -> None:
        async with Node(serving, echo) as node:
            client = await node.connect(TlsContext(ca_file))
            await client.established
            sent = bytearray()
            for i in range(500):
                message = b"data: %d\n\n" % i
                sent += message
                client.transport.write(client.tls.encrypt(message))
            assert await until(client, len(sent)) == sent
            client.transport.write(client.tls.shutdown())
            await client.closed
            client.transport.close()

    run(main())


def test_the_server_resumes_the_session_of_the_last_connection(
    run: Run, serving: ssl.SSLContext, ca_file: str
) -> None:
    async def main() -> None:
        context = TlsContext(ca_file)
        async with Node(serving, echo) as node:
            for _ in range(3):
                client = await node.connect(context)
                await client.established
                client.transport.write(client.tls.encrypt(b"hello"))
                assert await until(client, 5) == b"hello"
                client.tls.save_session()
                client.transport.write(client.tls.shutdown())
                await client.closed
                client.transport.close()
        assert node.reused == [False, True, True]

    run(main())


def test_a_clean_end_is_told_from_a_cut(run: Run, serving: ssl.SSLContext, ca_file: str) -> None:
    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            word = await reader.read(100)
            writer.write(b"half an")
            await writer.drain()
            if word == b"cut":
                writer.transport.abort()
            else:
                writer.close()

        async with Node(serving, hang_up) as node:
            for word, clean in ((b"clean", True), (b"cut", False)):
                client = await node.connect(TlsContext(ca_file))
                await client.established
                client.transport.write(client.tls.encrypt(word))
                await client.closed
                assert client.received == b"half an"
                assert client.tls.at_eof is clean
                client.transport.close()

    run(main())


def test_a_verification_failure_reaches_the_server_as_an_alert(
    run: Run, serving: ssl.SSLContext, ca_file: str
) -> None:
    async def main() -> None:
        said: list[BaseException] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: said.append(context["exception"]))
        async with Node(serving, echo) as node:
            client = await node.connect(TlsContext(ca_file), "api.deepseek.com")
            with pytest.raises(HandshakeFailed, match="verify: hostname mismatch"):
                await client.established
            client.transport.close()
        assert node.reused in ([], [False])  # TLS 1.3: the server has finished before it hears of it

    run(main())
