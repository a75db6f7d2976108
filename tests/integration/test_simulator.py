"""The simulated providers on real sockets: every fault as a client feels it, on both event loops."""

import asyncio
import contextlib
import gc
import json
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import openai
import pytest
import uvloop

from fastgw.simulator import Ending, Fault, FaultKind, Provider, Simulator, start

Scenario = Callable[[Simulator], Awaitable[None]]
Run = Callable[[Scenario], None]

PATIENCE_S = 60.0  # of the test's client; far above anything that is waited for in order
SILENCE_S = 0.05  # how long nothing has to come for a silence; never waited for something to come
USER = {"role": "user", "content": "hello id-42"}


@pytest.fixture(scope="module")
def ca_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("authority")


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    make = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(main: Any) -> None:
        with asyncio.Runner(loop_factory=make) as inner:
            problems: list[dict[str, Any]] = []
            inner.get_loop().set_exception_handler(lambda loop, context: problems.append(context))
            inner.run(main)
        assert problems == []

    return run


@pytest.fixture
def run(runner: Callable[[Awaitable[None]], None], ca_dir: Path) -> Run:
    """Run a scenario against a fresh simulator, and see that nothing is left of it."""

    def run_scenario(scenario: Scenario) -> None:
        async def main() -> None:
            async with await start(ca_dir=ca_dir, control_port=0) as simulator:
                await scenario(simulator)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert simulator.openai.connections_open == simulator.deepseek.connections_open == 0

        runner(main())

    return run_scenario


class Client:
    """A blocking TLS client over memory buffers: it tells every way a connection can end."""

    def __init__(self, provider: Provider, simulator: Simulator, name: str | None = None) -> None:
        self.provider = provider
        context = ssl.create_default_context(cafile=simulator.ca_file)
        context.set_alpn_protocols(["http/1.1"])
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name or provider.host)
        self.socket = socket.create_connection((provider.address, provider.port), PATIENCE_S)
        self.buffer = bytearray()
        self.end = ""
        try:
            self.do(self.tls.do_handshake)
        except BaseException:
            self.socket.close()
            raise

    def do(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """One TLS action with all the bytes it needs. EOFError when TCP ends before TLS does."""
        while True:
            try:
                done = action(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.socket.recv(65536)
                if not data:
                    raise EOFError from None
                self.incoming.write(data)
            else:
                self.flush()
                return done

    def flush(self) -> None:
        if self.outgoing.pending:
            self.socket.sendall(self.outgoing.read())

    def write(self, data: bytes) -> None:
        while data:
            data = data[self.do(self.tls.write, data) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(
        self, path: str = "/v1/chat/completions", method: str = "POST", *headers: str, **body: Any
    ) -> None:
        data = b""
        if method == "POST":
            body.setdefault("model", "gpt-4o" if self.provider.name == "openai" else "deepseek-flash")
            body.setdefault("messages", [USER])
            data = json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.provider.host}",
            f"Authorization: Bearer sk-sim-{self.provider.name}",
            f"Content-Length: {len(data)}",
            *headers,
        ]
        self.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    def receive(
        self, until: Callable[[bytearray], bool] = lambda data: False, wait_s: float = PATIENCE_S
    ) -> bytes:
        """Read until a condition holds or the connection ends; ``end`` says how."""
        self.socket.settimeout(wait_s)
        while not until(self.buffer):
            try:
                data = self.do(self.tls.read, 65536)
            except EOFError:
                self.end = "truncated"
                break
            except ConnectionResetError:
                self.end = "reset"
                break
            except TimeoutError:
                self.end = "silent"
                break
            if not data:
                self.end = "closed"
                break
            self.buffer += data
        received, self.buffer = bytes(self.buffer), bytearray()
        return received

    def answer(self) -> bytes:
        """One whole answer of known framing."""
        return self.receive(is_whole)

    def ask(
        self, path: str = "/v1/chat/completions", method: str = "POST", *headers: str, **body: Any
    ) -> bytes:
        self.send(path, method, *headers, **body)
        return self.answer()


def is_whole(data: bytearray) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    _, found, rest = head.partition(b"content-length: ")
    return bool(found) and len(body) >= int(rest.split(b"\r\n")[0])


async def apart(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Run the blocking client beside the loop."""
    return await asyncio.to_thread(function, *arguments, **named)


async def exchange(simulator: Simulator, provider: Provider, **body: Any) -> tuple[bytes, str]:
    """One request on its own connection: what came, and how the connection ended if it did."""

    def blocking() -> tuple[bytes, str]:
        with Client(provider, simulator) as client:
            return client.ask(**body), client.end

    result: tuple[bytes, str] = await apart(blocking)
    return result


# --- In order -------------------------------------------------------------------------------------


def test_a_connection_serves_many_requests_over_tls(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        def blocking() -> None:
            with Client(simulator.openai, simulator) as client:
                assert client.tls.version() == "TLSv1.3"
                assert client.tls.selected_alpn_protocol() == "http/1.1"
                assert b"Welcome" in client.ask("/", "GET")
                assert b"x-fastgw-simulated: 1\r\n" in client.ask()
                stream = client.ask(stream=True)
                assert b"id-42" in stream
                assert b"[DONE]" in stream
                client.send("/", "HEAD")
                head = client.receive(lambda data: b"\r\n\r\n" in data)
                assert head.endswith(b"\r\n\r\n")
                assert b"content-length: 72" in head
            with Client(simulator.deepseek, simulator) as client:
                assert b"reasoning_content" in client.ask("/chat/completions")

        await apart(blocking)
        provider = simulator.openai
        await provider.wait_until(lambda: provider.connections_open == 0)
        assert [record.served for record in provider.requests] == [1, 2, 3, 4]
        assert {record.ending for record in provider.requests} == {Ending.COMPLETE}
        record = provider.requests[2]
        assert record.authorization == "Bearer sk-sim-openai"
        assert (record.model, record.is_stream, record.progress, record.status) == ("gpt-4o", True, 4, 200)
        assert json.loads(record.body)["messages"] == [USER]
        assert record.ended_at is not None
        assert provider.counters.connections == provider.counters.handshakes == 1
        assert provider.counters.requests == provider.counters.completed == 4

    run(scenario)


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.openai.settings.token_s = 0.002

        def blocking() -> None:
            with Client(simulator.openai, simulator) as client:
                for number in range(5):
                    client.send(
                        messages=[{"role": "user", "content": f"no-{number}"}], stream=number % 2 == 1
                    )
                data = client.receive(lambda data: b"no-4" in data and data.endswith(b"}"))
                places = [data.index(b"no-%d" % number) for number in range(5)]
                assert places == sorted(places)

        await apart(blocking)

    run(scenario)


def test_a_tls_1_2_client_and_a_session_resumption_are_served(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        def blocking() -> None:
            context = ssl.create_default_context(cafile=simulator.ca_file)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            address, name = ("127.0.0.1", simulator.openai.port), "api.openai.com"
            session = None
            for _ in range(2):
                with (
                    socket.create_connection(address) as raw,
                    context.wrap_socket(raw, server_hostname=name, session=session) as wrapped,
                ):
                    assert wrapped.session_reused is (session is not None)
                    session = wrapped.session

        await apart(blocking)

    run(scenario)


@pytest.mark.parametrize("name", ["api.deepseek.com", "localhost"])
def test_a_wrong_server_name_ends_the_handshake(run: Run, name: str) -> None:
    async def scenario(simulator: Simulator) -> None:
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await apart(Client, simulator.openai, simulator, name)
        await simulator.openai.wait_until(lambda: simulator.openai.counters.handshakes_failed == 1)

    run(scenario)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: api.openai.com\r\nX: " + b"x" * 70_000, b"431"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
    ],
)
def test_a_message_that_is_none_is_refused_and_closed(run: Run, request_bytes: bytes, status: bytes) -> None:
    async def scenario(simulator: Simulator) -> None:
        def blocking() -> None:
            with Client(simulator.openai, simulator) as client:
                client.write(request_bytes)
                assert client.receive().startswith(b"HTTP/1.1 " + status)
                assert client.end in ("closed", "truncated")

        await apart(blocking)

    run(scenario)


def test_expect_100_continue_is_answered(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        def blocking() -> None:
            with Client(simulator.openai, simulator) as client:
                body = json.dumps({"model": "gpt-4o", "messages": [USER]}).encode()
                head = (
                    "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nExpect: 100-continue\r\n"
                )
                head += f"Authorization: Bearer sk-sim-openai\r\nContent-Length: {len(body)}\r\n\r\n"
                client.write(head.encode())
                assert client.receive(bool) == b"HTTP/1.1 100 Continue\r\n\r\n"
                client.write(body)
                assert b"id-42" in client.answer()

        await apart(blocking)

    run(scenario)


def test_a_large_body_and_a_large_answer_pass_whole(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        def blocking() -> None:
            text = "word " * 10_000
            with Client(simulator.openai, simulator) as client:
                answer = client.ask(messages=[{"role": "user", "content": text}], stream=True)
                assert answer.count(b'"content":" word"') == 10_000

        await apart(blocking)

    run(scenario)


def test_a_slow_reader_holds_the_stream_back(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        provider.settings.voice = ("x" * 100_000 + " ") * 100
        provider.settings.token_s = 0.001
        client = await apart(Client, provider, simulator)
        with client:
            await apart(client.send, stream=True)
            await provider.wait_until(lambda: provider.connections_open == 1 and provider.requests)
            record = provider.requests[-1]
            (connection,) = provider._connections
            deadline = time.monotonic() + PATIENCE_S
            while not connection._is_write_paused:  # the kernel takes some megabytes first
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)
            assert record.progress < 100
            await asyncio.sleep(0.02)  # twenty times the pace
            paused_at = record.progress
            assert paused_at < 100
            answer = await apart(client.receive, lambda data: data.endswith(b"0\r\n\r\n"))
            assert answer.count(b'"content"') == 104 + 1  # 100 words, the echo of four, the role
            assert record.ending is Ending.COMPLETE

    run(scenario)


# --- Keys -----------------------------------------------------------------------------------------


def test_keys_can_be_chosen_and_revoked(runner: Callable[[Any], None], ca_dir: Path) -> None:
    async def main() -> None:
        keys = {"openai": ["one", "two"]}
        async with await start(ca_dir=ca_dir, accept_keys=keys, article=True) as simulator:

            def status(authorization: str, provider: Provider) -> bytes:
                with Client(provider, simulator) as client:
                    head = f"GET /v1/models HTTP/1.1\r\nHost: {provider.host}\r\n"
                    client.write(f"{head}Authorization: {authorization}\r\n\r\n".encode())
                    return client.answer()[9:12]

            assert await apart(status, "Bearer one", simulator.openai) == b"200"
            assert await apart(status, "Bearer sk-sim-openai", simulator.openai) == b"401"
            assert await apart(status, "Bearer sk-sim-deepseek", simulator.deepseek) == b"200"
            assert await apart(status, "LLM-API-KEY", simulator.openai) == b"200"
            assert await apart(status, "LLM-API-KEY", simulator.deepseek) == b"200"
            assert await apart(status, "Bearer LLM-API-KEY", simulator.openai) == b"401"
            simulator.openai.keys.discard("two")
            assert await apart(status, "Bearer two", simulator.openai) == b"401"

    runner(main())


def test_the_article_key_is_unknown_unless_asked_for(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        def blocking() -> bytes:
            with Client(simulator.openai, simulator) as client:
                head = (
                    b"GET /v1/models HTTP/1.1\r\nHost: api.openai.com\r\nAuthorization: LLM-API-KEY\r\n\r\n"
                )
                client.write(head)
                return client.answer()

        assert (await apart(blocking)).startswith(b"HTTP/1.1 401")

    run(scenario)


# --- Faults of the connection ---------------------------------------------------------------------


def test_a_refused_connection_is_refused_at_once_and_the_port_comes_back(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        port = provider.port
        idle = await apart(Client, provider, simulator)
        await provider.wait_until(lambda: provider.counters.handshakes == 1)
        for _ in range(3):
            provider.fault = Fault(FaultKind.REFUSE)
            with pytest.raises(ConnectionRefusedError):
                await apart(socket.create_connection, ("127.0.0.1", port))
            provider.fault = None
            assert provider.port == port
            assert (await exchange(simulator, provider, path="/", method="GET"))[0][9:12] == b"200"
        assert await apart(idle.receive) == b""
        assert idle.end == "reset"
        idle.socket.close()

    run(scenario)


def test_a_fault_switched_to_and_fro_in_one_tick_leaves_one_listener(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        for _ in range(3):
            provider.fault = Fault(FaultKind.REFUSE)
            provider.fault = None
            provider.fault = Fault(FaultKind.REFUSE)
            await asyncio.sleep(0)
            provider.fault = None
            await asyncio.sleep(0)
        assert b"200" in (await exchange(simulator, provider, path="/", method="GET"))[0]
        provider.fault = Fault(FaultKind.REFUSE)

    run(scenario)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("wrong_name", "Hostname mismatch"),
        ("self_signed", "self-signed certificate"),
        ("expired", "certificate has expired"),
        ("unknown_ca", "unable to get local issuer|self-signed certificate in certificate chain"),
    ],
)
def test_a_bad_certificate_is_not_accepted(run: Run, variant: str, words: str) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.openai.fault = Fault(FaultKind.BAD_CERTIFICATE, variant=variant)
        with pytest.raises(ssl.SSLCertVerificationError, match=words):
            await apart(Client, simulator.openai, simulator)
        assert (await exchange(simulator, simulator.deepseek))[0][9:12] == b"200"

    run(scenario)


def test_a_hanging_handshake_says_nothing_and_can_be_counted(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        provider.fault = Fault(FaultKind.HANDSHAKE_HANG, count=1)

        def blocking() -> None:
            context = ssl.create_default_context(cafile=simulator.ca_file)
            with socket.create_connection(("127.0.0.1", provider.port)) as raw:
                raw.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    context.wrap_socket(raw, server_hostname=provider.host)

        await apart(blocking)
        await provider.wait_until(lambda: provider.connections_open == 0)
        assert provider.fault is None
        assert (await exchange(simulator, provider))[0][9:12] == b"200"

    run(scenario)


@pytest.mark.parametrize("kind", [FaultKind.REFUSE, FaultKind.HANDSHAKE_HANG, FaultKind.BAD_CERTIFICATE])
def test_a_fault_of_the_connection_resets_the_answers_under_way(run: Run, kind: FaultKind) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        provider.fault = Fault(FaultKind.STALL, after=1)
        under_way = asyncio.create_task(exchange(simulator, provider, stream=True))
        await provider.wait_until(lambda: provider.requests and provider.requests[-1].progress == 1)
        provider.fault = Fault(kind)
        assert (await under_way)[1] == "reset"
        assert provider.requests[-1].ending is Ending.CUT

    run(scenario)


# --- Faults of an answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "is_stream", "end", "begins", "holds", "lacks"),
    [
        (Fault(FaultKind.HANG_BEFORE_HEAD), True, "silent", b"", b"", b"HTTP"),
        (Fault(FaultKind.RESET_BEFORE_HEAD), True, "reset", b"", b"", b"HTTP"),
        (Fault(FaultKind.RESET_BEFORE_HEAD, how="fin"), False, "closed", b"", b"", b"HTTP"),
        (Fault(FaultKind.STATUS, status=503), True, "silent", b"HTTP/1.1 503", b"overloaded", b"data:"),
        (Fault(FaultKind.RESET_AFTER_HEAD), True, "reset", b"HTTP/1.1 200", b"chunked", b"data:"),
        (Fault(FaultKind.RESET_AFTER_HEAD), False, "reset", b"HTTP/1.1 200", b"content-length", b"{"),
        (Fault(FaultKind.RESET_INSIDE, after=2), True, "reset", b"HTTP/1.1 200", b'" said:"', b"hello"),
        (Fault(FaultKind.RESET_INSIDE), False, "reset", b"HTTP/1.1 200", b'{"id"', b"usage"),
        (Fault(FaultKind.RESET_INSIDE, how="fin"), True, "closed", b"HTTP/1.1 200", b'"You"', b"\r\n0\r\n"),
        (Fault(FaultKind.RESET_INSIDE, how="clean"), True, "silent", b"HTTP/1.1 200", b"\r\n0\r\n", b"DONE"),
        (Fault(FaultKind.STALL, after=0), True, "silent", b"HTTP/1.1 200", b'"role"', b'"You"'),
        (
            Fault(FaultKind.KEEPALIVE_FLOOD, interval_s=0.001),
            True,
            "",
            b"HTTP/1.1 200",
            b": keep-alive",
            b"data",
        ),
        (
            Fault(FaultKind.KEEPALIVE_FLOOD, interval_s=0.001),
            False,
            "",
            b"HTTP/1.1 200",
            b"\n\r\n1\r\n\n",
            b"{",
        ),
        (Fault(FaultKind.ERROR_EVENT), True, "silent", b"HTTP/1.1 200", b'data: {"error"', b"role"),
        (Fault(FaultKind.MALFORMED_EVENT), True, "silent", b"HTTP/1.1 200", b"choi\n\n", b"\0"),
        (Fault(FaultKind.MISSING_DONE), True, "silent", b"HTTP/1.1 200", b'"finish_reason":"stop"', b"DONE"),
        (Fault(FaultKind.TRUNCATE_TLS), True, "truncated", b"HTTP/1.1 200", b'"You"', b"chunked"),
        (Fault(FaultKind.TRUNCATE_TLS), False, "truncated", b"HTTP/1.1 200", b'{"id"', b"content-length"),
        (Fault(FaultKind.CLOSE_DELIMITED), False, "closed", b"HTTP/1.1 200", b"usage", b"content-length"),
        (Fault(FaultKind.EMPTY_200), False, "silent", b"HTTP/1.1 200", b"content-length: 0", b"{"),
        (Fault(FaultKind.HTML_200), True, "silent", b"HTTP/1.1 200", b"<html>", b"data:"),
        (Fault(FaultKind.RAW, body="RTSP/1.0 200 OK\r\n\r\n"), False, "closed", b"RTSP/1.0", b"", b"HTTP"),
        (Fault(FaultKind.CLOSE_AFTER), False, "closed", b"HTTP/1.1 200", b"connection: close", b"\0"),
        (
            Fault(FaultKind.CLOSE_AFTER, announce=False),
            False,
            "closed",
            b"HTTP/1.1 200",
            b"id-42",
            b"connection:",
        ),
    ],
    ids=lambda value: value.kind.value if isinstance(value, Fault) else None,
)
def test_a_fault_is_felt_as_described(
    run: Run, fault: Fault, is_stream: bool, end: str, begins: bytes, holds: bytes, lacks: bytes
) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        provider.fault = fault

        def blocking() -> tuple[bytes, str]:
            with Client(provider, simulator) as client:
                client.send(stream=is_stream)
                received = client.receive(lambda data: holds in data and data.startswith(begins))
                if end and not client.end:
                    received += client.receive(wait_s=SILENCE_S if end == "silent" else PATIENCE_S)
                return received, client.end

        received, ended = await apart(blocking)
        assert ended == end
        assert received.startswith(begins)
        assert holds in received
        assert lacks not in received
        assert provider.requests[-1].fault is fault.kind

    run(scenario)


def test_a_slow_head_takes_its_time(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.openai.fault = Fault(FaultKind.SLOW_HEAD, interval_s=0.001)

        def blocking() -> tuple[float, bytes]:
            with Client(simulator.openai, simulator) as client:
                began = time.monotonic()
                answer = client.ask("/", "GET")
                return time.monotonic() - began, answer

        took_s, answer = await apart(blocking)
        assert b"Welcome" in answer
        assert took_s >= 0.2

    run(scenario)


def test_an_early_status_comes_while_the_body_is_still_going_up(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        simulator.openai.fault = Fault(FaultKind.STATUS, status=413, early=True)

        def blocking() -> bytes:
            with Client(simulator.openai, simulator) as client:
                head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\n"
                client.write(head + b"Content-Length: 1000000\r\n\r\n{")
                return client.receive()

        assert (await apart(blocking)).startswith(b"HTTP/1.1 413")
        assert len(simulator.openai.requests) == 1

    run(scenario)


def test_an_idle_connection_obeys_the_new_fault(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        client = await apart(Client, provider, simulator)
        with client:
            assert (await apart(client.ask))[9:12] == b"200"
            provider.fault = Fault(FaultKind.STATUS, status=500)
            assert (await apart(client.ask))[9:12] == b"500"
            assert (await apart(client.ask, "/", "GET"))[9:12] == b"500"
            provider.fault = Fault(FaultKind.STATUS, status=500, paths="api")
            assert (await apart(client.ask, "/", "GET"))[9:12] == b"200"
            assert (await apart(client.ask))[9:12] == b"500"
            provider.fault = None
            assert (await apart(client.ask))[9:12] == b"200"

    run(scenario)


def test_faults_can_be_counted_and_queued(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        client = await apart(Client, provider, simulator)

        async def status(**body: Any) -> int:
            return int((await apart(client.ask, **body))[9:12])

        with client:
            provider.fault = Fault(FaultKind.STATUS, status=500, count=2)
            assert [await status() for _ in range(3)] == [500, 500, 200]
            assert provider.fault is None
            streamed = Fault(FaultKind.STATUS, status=503, stream=True)
            provider.faults.extend([Fault(FaultKind.STATUS, status=429), None, streamed])
            provider.fault = Fault(FaultKind.STATUS, status=500)
            assert [await status() for _ in range(3)] == [429, 200, 500]
            assert await status(stream=True) == 503
            assert len(provider.faults) == 0
            provider.fault = Fault(FaultKind.STATUS, probability=0.0)
            assert await status() == 200
            provider.fault = Fault(FaultKind.STATUS, reused=False)
            assert await status() == 200
        with pytest.raises(ValueError, match="strikes connections"):
            provider.faults.append(Fault(FaultKind.REFUSE))
        with pytest.raises(ValueError, match="early"):
            provider.faults.append(Fault(FaultKind.STATUS, early=True))

    run(scenario)


# --- The peer leaves ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "is_stream"),
    [
        (Fault(FaultKind.HANG_BEFORE_HEAD), False),
        (Fault(FaultKind.STALL, after=2), True),
        (Fault(FaultKind.KEEPALIVE_FLOOD, interval_s=0.01), True),
        (None, True),
    ],
)
@pytest.mark.parametrize("way", ["close_notify", "fin", "rst"])
def test_a_peer_that_leaves_is_noticed_at_once(
    run: Run, fault: Fault | None, is_stream: bool, way: str
) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        provider.settings.token_s = 0.02
        provider.settings.tokens = 1000
        provider.fault = fault
        client = await apart(Client, provider, simulator)
        await apart(client.send, stream=is_stream)
        await provider.wait_until(lambda: provider.requests)
        record = provider.requests[-1]
        left_at = time.monotonic()
        if way == "close_notify":
            with contextlib.suppress(ssl.SSLWantReadError):
                client.tls.unwrap()
            client.flush()  # the alert goes out; TCP stays open
        elif way == "fin":
            client.socket.shutdown(socket.SHUT_WR)
        else:
            linger = b"\x01\0\0\0\0\0\0\0"
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.socket.close()
        await provider.wait_until(lambda: record.ending is not Ending.OPEN)
        assert record.ending is Ending.ABORTED
        assert record.ended_at is not None
        assert record.ended_at - left_at < PATIENCE_S
        await provider.wait_until(lambda: provider.connections_open == 0)
        assert provider.counters.aborted == 1
        client.socket.close()

    run(scenario)


# --- Start and end --------------------------------------------------------------------------------


def test_closing_ends_every_kind_of_connection_and_leaves_no_descriptor(
    runner: Callable[[Any], None], ca_dir: Path
) -> None:
    async def main() -> None:
        await (await start(ca_dir=ca_dir)).close()  # what is made once is made
        gc.collect()  # nothing of other tests may go in between
        before = len(os.listdir("/proc/self/fd"))
        simulator = await start(ca_dir=ca_dir, control_port=0)
        provider = simulator.openai
        provider.fault = Fault(FaultKind.HANDSHAKE_HANG)
        hung = socket.create_connection(("127.0.0.1", provider.port))
        await provider.wait_until(lambda: provider.connections_open == 1)
        provider._fault = None
        clients = [await apart(Client, provider, simulator) for _ in range(4)]
        provider.fault = Fault(FaultKind.STALL)
        for client in clients[1:]:
            await apart(client.send, stream=True)
        await provider.wait_until(lambda: len(provider.requests) == 3)
        await simulator.close()
        await simulator.close()
        hung.close()
        for client in clients:
            client.socket.close()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == before

    runner(main())


def test_a_taken_port_is_named_and_nothing_stays_open(runner: Callable[[Any], None], ca_dir: Path) -> None:
    async def main() -> None:
        async with await start(ca_dir=ca_dir) as simulator:
            port = simulator.openai.port
            with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
                await start(ca_dir=ca_dir, ports=(0, port))
            simulator.openai.fault = Fault(FaultKind.REFUSE)
            assert simulator.connect_to[0] == ("api.openai.com", 443, "127.0.0.1", port)
            assert simulator.connect_to[1][:3] == ("api.deepseek.com", 443, "127.0.0.1")

    runner(main())


def test_an_unwritable_home_is_no_reason_not_to_start(
    runner: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgw.simulator.certificates.default_directory", lambda: Path("/dev/null/x"))

    async def main() -> None:
        simulator = await start()
        directory = Path(simulator.ca_file).parent
        assert directory.is_dir()
        await simulator.close()
        assert not directory.exists()

    runner(main())


def test_records_are_bounded(runner: Callable[[Any], None], ca_dir: Path) -> None:
    async def main() -> None:
        async with await start(ca_dir=ca_dir, keep_requests=2) as simulator:

            def blocking() -> None:
                with Client(simulator.openai, simulator) as client:
                    for _ in range(5):
                        client.ask()

            await apart(blocking)
            assert [record.serial for record in simulator.openai.requests] == [4, 5]

    runner(main())


def test_wait_until_gives_up(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        with pytest.raises(TimeoutError, match="in vain"):
            await simulator.openai.wait_until(lambda: False, 0.01)

        def broken() -> bool:
            return bool(simulator.openai.counters.requests and 1 / 0)

        waiting = asyncio.create_task(simulator.openai.wait_until(broken))
        await asyncio.sleep(0)
        await exchange(simulator, simulator.openai, path="/", method="GET")
        with pytest.raises(ZeroDivisionError):
            await waiting

    run(scenario)


# --- The control listener -------------------------------------------------------------------------


def control(
    simulator: Simulator, method: str, path: str, body: bytes = b"", *headers: str
) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", simulator.control_port or 0), PATIENCE_S) as connection:
        names = {header.partition(":")[0].lower() for header in headers}
        host = () if "host" in names else (f"Host: 127.0.0.1:{simulator.control_port}",)
        lines = [
            f"{method} {path} HTTP/1.1",
            *host,
            "Connection: close",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, text = data.partition(b"\r\n\r\n")
    return int(head[9:12]), text.decode()


def test_faults_are_switched_from_outside(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        status, text = await apart(control, simulator, "GET", "/")
        assert status == 200
        assert f"curl http://127.0.0.1:{simulator.control_port}/providers" in text
        assert all(kind.value in text for kind in FaultKind)
        fault = b'{"kind": "status", "status": 503, "paths": "api"}'
        status, text = await apart(control, simulator, "PUT", "/providers/openai/fault", fault)
        assert status == 200
        assert simulator.openai.fault == Fault(FaultKind.STATUS, status=503, paths="api")
        status, text = await apart(control, simulator, "GET", "/providers")
        shown = json.loads(text)
        assert shown["openai"]["fault"] == json.loads(fault)
        assert shown["deepseek"]["fault"] is None
        status, text = await apart(control, simulator, "GET", "/providers/openai/fault")
        assert json.loads(text) == json.loads(fault)
        status, _ = await apart(control, simulator, "DELETE", "/providers/openai/fault")
        assert status == 200
        assert simulator.openai.fault is None

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("GET", "/nothing", b"", (), 404, "GET /"),
        ("GET", "/providers/gemini", b"", (), 404, ""),
        ("POST", "/providers", b"", (), 405, "only GET"),
        ("PUT", "/providers/openai", b"{}", (), 405, "only GET"),
        ("POST", "/providers/openai/fault", b"{}", (), 405, "PUT"),
        ("PUT", "/providers/openai/fault", b"{", (), 400, "no JSON"),
        ("PUT", "/providers/openai/fault", b'{"kind": "x"}', (), 400, "unknown fault"),
        ("PUT", "/providers/openai/fault", b" " * 1_100_000, (), 413, ""),
        ("GET", "/providers", b"", ("Host: evil.example",), 403, "loopback"),
        ("GET", "/providers", b"", ("Origin: http://127.0.0.1",), 403, "web pages"),
        ("GET", "/providers", b"", ("Sec-Fetch-Site: cross-site",), 403, "web pages"),
        ("GET", "/providers", b"", ("Host: localhost:1",), 200, ""),
        ("GET", "/providers", b"", ("Host: [::1]:1",), 200, ""),
    ],
)
def test_the_control_listener_refuses_what_it_should(
    run: Run, method: str, path: str, body: bytes, headers: tuple[str, ...], status: int, words: str
) -> None:
    async def scenario(simulator: Simulator) -> None:
        seen, text = await apart(control, simulator, method, path, body, *headers)
        assert seen == status
        assert words in text
        assert simulator.openai.fault is None

    run(scenario)


# --- A real client --------------------------------------------------------------------------------


class _ToSimulator(httpx.AsyncHTTPTransport):
    """Sends to a provider's own address while the request keeps its name."""

    def __init__(self, provider: Provider, ca_file: str) -> None:
        super().__init__(verify=ssl.create_default_context(cafile=ca_file))
        self._provider = provider

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = self._provider.host
        request.url = request.url.copy_with(host=self._provider.address, port=self._provider.port)
        return await super().handle_async_request(request)


def test_the_openai_sdk_understands_every_answer(run: Run) -> None:
    async def scenario(simulator: Simulator) -> None:
        provider = simulator.openai
        transport = _ToSimulator(provider, simulator.ca_file)
        async with (
            httpx.AsyncClient(transport=transport, timeout=60) as http,
            openai.AsyncOpenAI(
                api_key="sk-sim-openai",
                base_url=f"https://{provider.host}/v1",
                http_client=http,
                max_retries=0,
            ) as client,
        ):
            messages: Any = [USER]
            whole = await client.chat.completions.create(model="gpt-4o", messages=messages)
            assert whole.choices[0].message.content == "You said: hello id-42"
            text = ""
            async for chunk in await client.chat.completions.create(
                model="gpt-4o", messages=messages, stream=True, stream_options={"include_usage": True}
            ):
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            assert text == "You said: hello id-42"
            assert chunk.usage is not None
            assert (await client.models.list()).data[0].id == "gpt-5"
            vectors = await client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
            assert len(vectors.data) == 2
            response = await client.responses.create(model="gpt-4o", input="hello")
            assert response.output_text == "You said: hello"
            text = ""
            async for event in await client.responses.create(model="gpt-4o", input="hello", stream=True):
                text += event.delta if event.type == "response.output_text.delta" else ""
            assert text == "You said: hello"
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="wrong").models.list()
            provider.fault = Fault(FaultKind.ERROR_EVENT, after=1)
            with pytest.raises(openai.APIError, match="had an error"):
                async for _ in await client.chat.completions.create(
                    model="gpt-4o", messages=messages, stream=True
                ):
                    pass

    run(scenario)


@pytest.fixture(autouse=True, scope="module")
def no_waste() -> Iterator[None]:
    """Sockets left to the garbage collector warn in this file, where they belong."""
    yield
    gc.collect()
