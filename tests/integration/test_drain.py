"""A stop is a drain: what runs may finish, nothing new begins, and what must be cut is cut honestly."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop
from gateway_process import Process, gateway_process
from raw_http import Connection, chat, connected, encode
from rig import CONFIG, KEYS, FaultKind, Rig, running, wait_until, with_deadlines
from wire_ends import HANG_GUARD_S, Peer, ScriptedNode, answer, config_for, node

from fastgw.simulator import Simulator
from fastgw.simulator import start as start_simulator

CHAT = "/v1/chat/completions"
PATIENT = with_deadlines(CONFIG, total=1000)  # far behind the limits of the drain


def slow(tokens: int = 40, delay_ms: int = 20) -> dict[str, str]:
    return {"x-sim-tokens": str(tokens), "x-sim-delay-ms": str(delay_ms)}


async def begin_stream(port: int, **pace: int) -> Connection:
    """A stream of which the first content has come."""
    connection = await Connection.open(port)
    connection.writer.write(encode("POST", CHAT, slow(**pace), chat("hello", stream=True)))
    answer = await connection.head()
    assert answer.status == 200
    await connection.until(b'"content"')
    return connection


async def rest(connection: Connection) -> tuple[bytes, bool]:
    """What still comes of an answer, and whether it ended as a whole one."""
    seen = b""
    while piece := await connection.piece():
        seen += piece
    assert connection._answer is not None
    return seen, connection._answer.is_whole


async def is_refused(port: int) -> bool:
    try:
        connection = await Connection.open(port)
    except ConnectionRefusedError:
        return True
    await connection.close()
    return False


def begin_drain(rig: Rig, limit_s: float) -> asyncio.Future[bool]:
    """Drain in the rig's loop; the future is of the test's loop."""
    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(rig.gateway.drain(limit_s), rig.loop))


def test_streams_in_flight_finish_and_nothing_new_begins(ca_dir: Path, loop_kind: str) -> None:
    with running(ca_dir, PATIENT, loop_kind=loop_kind) as rig:

        async def main() -> None:
            streams = [await begin_stream(rig.port, tokens=250) for _ in range(8)]  # which last 5 s
            drained = begin_drain(rig, 100)
            while not rig.gateway.is_draining:
                await asyncio.sleep(0.001)
            rig.call(lambda: None)  # the turn of the loop in which it stopped to listen is over
            assert await is_refused(rig.port)
            assert not drained.done()
            for stream in streams:
                text, is_whole = await rest(stream)
                assert is_whole
                assert text.endswith(b"data: [DONE]\n\n")
                assert await stream.is_at_end()  # it is not kept for another request
                await stream.close()
            assert await drained is True

        asyncio.run(main())
        assert rig.counts()["streams_interrupted"] == 0
        assert rig.gateway.is_draining


@contextmanager
def before_a_held_node(ca_dir: Path) -> Iterator[tuple[Rig, ScriptedNode, Callable[[], None]]]:
    """A gateway before a node that answers at once, but keeps its second answer back until it may go on."""
    may_go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"{}"))
        peer.request()
        assert may_go_on.wait(HANG_GUARD_S)
        peer.send(answer(b"{}"))

    with node(script) as held, running(ca_dir, config_for(held.port)) as rig:
        yield rig, held, may_go_on.set


async def ask_in_vain(connection: Connection, held: ScriptedNode) -> None:
    """Ask twice; the second answer is kept back."""
    first = await connection.ask("POST", CHAT, body=chat("hello"))
    assert not first.closes
    connection.writer.write(encode("POST", CHAT, None, chat("hello")))
    while len(held.asked) < 2:
        await asyncio.sleep(0.005)


def test_answer_that_ends_during_the_drain_says_close(ca_dir: Path) -> None:
    with before_a_held_node(ca_dir) as (rig, held, go_on):

        async def main() -> None:
            async with connected(rig.port) as connection:
                await ask_in_vain(connection, held)
                drained = begin_drain(rig, 100)
                while not rig.gateway.is_draining:
                    await asyncio.sleep(0.001)
                go_on()
                answer = await connection.answer()
                assert (answer.status, answer.is_whole, answer.closes) == (200, True, True)
                assert await drained is True

        asyncio.run(main())


def test_idle_connections_are_closed_at_once(ca_dir: Path) -> None:
    with running(ca_dir, PATIENT) as rig:

        async def main() -> None:
            idle = await Connection.open(rig.port)
            assert (await idle.ask("POST", CHAT, body=chat("hello"))).status == 200
            silent = await Connection.open(rig.port)  # has not asked anything yet
            while rig.counts()["client_connections"] < 2:
                await asyncio.sleep(0.005)
            begin = monotonic()
            assert await begin_drain(rig, 600) is True
            assert monotonic() - begin < 60
            assert await idle.is_at_end() and await silent.is_at_end()
            await idle.close()
            await silent.close()

        asyncio.run(main())


def test_request_behind_the_one_that_ends_the_connection_reaches_no_node(ca_dir: Path) -> None:
    with before_a_held_node(ca_dir) as (rig, held, go_on):

        async def main() -> None:
            async with connected(rig.port) as connection:
                await ask_in_vain(connection, held)
                drained = begin_drain(rig, 100)
                while not rig.gateway.is_draining:
                    await asyncio.sleep(0.001)
                connection.writer.write(encode("POST", CHAT, None, chat("too late")))
                go_on()
                answer = await connection.answer()
                assert (answer.status, answer.closes) == (200, True)
                assert await drained is True
            assert not any(b"too late" in message.body for message in held.asked)
            assert len(held.asked) == 2

        asyncio.run(main())


def test_endless_stream_is_ended_honestly_at_the_limit(ca_dir: Path) -> None:
    with running(ca_dir, PATIENT) as rig:

        async def main() -> None:
            stream = await begin_stream(rig.port, tokens=100_000, delay_ms=20)
            begin = monotonic()
            assert await begin_drain(rig, 0.3) is False
            assert 0.3 <= monotonic() - begin < 60  # the goal is one second more than the limit
            text, is_whole = await rest(stream)
            assert not is_whole
            assert b"[DONE]" not in text
            last = text.rstrip(b"\n").split(b"\n\n")[-1]
            assert last.startswith(b'data: {"error":')
            assert b'"shutting_down"' in last
            assert await stream.is_at_end()
            await stream.close()

        asyncio.run(main())
        assert rig.counts()["streams_interrupted"] == 1
        # Nobody's fault.
        assert all(
            node.counters["tcp_failure"] == node.counters["http_failure"] == 0
            for node in rig.nodes().values()
        )
        wait_until(lambda: rig.call(lambda: rig.openai.counters.aborted) == 1, "the provider is told")


def test_request_without_an_answer_gets_an_error_at_the_limit(ca_dir: Path) -> None:
    with running(ca_dir, PATIENT) as rig:
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD, paths="api")
        rig.fault(rig.deepseek, FaultKind.HANG_BEFORE_HEAD, paths="api")

        async def main() -> None:
            async with connected(rig.port) as connection:
                connection.writer.write(encode("POST", CHAT, None, chat("hello")))
                while rig.counts()["exchanges"] == 0:
                    await asyncio.sleep(0.005)
                assert await begin_drain(rig, 0.2) is False
                answer = await connection.answer()
                assert (answer.status, answer.closes) == (503, True)
                assert answer.json()["error"]["code"] == "shutting_down"

        asyncio.run(main())
        assert rig.counts()["exchanges"] == 0


def test_drain_is_not_ready_and_not_dead(ca_dir: Path) -> None:
    with running(ca_dir, PATIENT) as rig:

        async def main() -> None:
            async with connected(rig.admin.address.port) as admin:  # type: ignore[union-attr]
                assert (await admin.ask("GET", "/readyz")).status == 200
                stream = await begin_stream(rig.port, tokens=250)  # which lasts 5 s
                drained = begin_drain(rig, 100)
                while not rig.gateway.is_draining:
                    await asyncio.sleep(0.001)
                # Those who watch must be able to see it.
                async with connected(rig.admin.address.port) as watcher:  # type: ignore[union-attr]
                    ready = await watcher.ask("GET", "/readyz")
                    assert (ready.status, ready.json()["error"]) == (503, "draining")
                async with connected(rig.admin.address.port) as watcher:  # type: ignore[union-attr]
                    assert (await watcher.ask("GET", "/livez")).status == 200
                await rest(stream)
                await stream.close()
                assert await drained is True

        asyncio.run(main())


# --- The whole process ------------------------------------------------------------------------


Story = Callable[[Simulator, Process], Awaitable[Any]]


def with_process(ca_dir: Path, tmp_path: Path, story: Story, **options: Any) -> tuple[int, str]:
    """Run a story with a gateway in its own process; returns its exit code and what it complained of."""
    config = tmp_path / "gateway.yaml"
    config.write_text(PATIENT)
    errors = tmp_path / "errors"

    async def main() -> int:
        async with await start_simulator(ca_dir=ca_dir) as simulator:
            given = {"config": str(config), "connect_to": simulator.connect_to, "ca_file": simulator.ca_file}
            manager = gateway_process({**given, "env": KEYS, **options}, errors=errors, python=("-X", "dev"))
            process = await asyncio.to_thread(manager.__enter__)
            try:
                await story(simulator, process)
                return await asyncio.to_thread(process.wait)
            finally:
                await asyncio.to_thread(manager.__exit__, None, None, None)

    return uvloop.run(main()), errors.read_text()


def test_sigterm_under_load_loses_nothing_and_exits_zero(ca_dir: Path, tmp_path: Path) -> None:
    async def story(simulator: Simulator, process: Process) -> None:
        streams = [await begin_stream(process.port, tokens=50, delay_ms=20) for _ in range(16)]
        process.signal(signal.SIGTERM)
        ended = await asyncio.gather(*(rest(stream) for stream in streams))
        assert all(is_whole and text.endswith(b"data: [DONE]\n\n") for text, is_whole in ended)
        while not await is_refused(process.port):
            await asyncio.sleep(0.01)
        for stream in streams:
            await stream.close()

    begin = monotonic()
    assert with_process(ca_dir, tmp_path, story, drain_s=1000) == (0, "")
    assert monotonic() - begin < 100  # it ends with the last stream, not with the limit


def test_sigterm_with_an_endless_stream_exits_at_the_limit(ca_dir: Path, tmp_path: Path) -> None:
    async def story(simulator: Simulator, process: Process) -> None:
        stream = await begin_stream(process.port, tokens=100_000, delay_ms=20)
        process.signal(signal.SIGTERM)
        text, is_whole = await rest(stream)
        assert not is_whole
        assert b"shutting_down" in text and b"[DONE]" not in text
        await stream.close()

    begin = monotonic()
    code, errors = with_process(ca_dir, tmp_path, story, drain_s=0.5)
    assert monotonic() - begin < 100  # the goal is a second after the limit
    assert code == 0
    assert "interrupting 1 request" in errors
    assert len(errors.splitlines()) == 1


def test_second_stop_ends_it_now(ca_dir: Path) -> None:
    """``close`` does not wait for the drain that goes on."""
    with running(ca_dir, PATIENT) as rig:

        async def main() -> None:
            stream = await begin_stream(rig.port, tokens=100_000, delay_ms=20)
            drained = begin_drain(rig, 600)
            while not rig.gateway.is_draining:
                await asyncio.sleep(0.001)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(rig.gateway.close(), rig.loop))
            _, is_whole = await rest(stream)
            assert not is_whole
            await asyncio.wait_for(drained, 30)
            await stream.close()

        asyncio.run(main())
        assert rig.counts()["exchanges"] == 0


def test_drain_with_nothing_to_do_is_over_at_once(rig: Rig) -> None:
    begin = monotonic()
    assert rig.await_(rig.gateway.drain(600)) is True
    assert monotonic() - begin < 60


def test_slow_reader_of_the_last_answer_gets_all_of_it(ca_dir: Path) -> None:
    """The answer is whole for us and still on its way: closing must not cut it."""
    with running(ca_dir, PATIENT) as rig:

        async def main() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1024)
            writer.write(encode("POST", CHAT, {"x-sim-tokens": "60000"}, chat("hello")))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            drained = begin_drain(rig, 100)
            while not rig.gateway.is_draining:
                await asyncio.sleep(0.001)
            size, head = 0, await reader.readuntil(b"\r\n\r\n")
            while piece := await reader.read(4096):
                size += len(piece)
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            assert size == length > 300_000
            assert await drained is True
            writer.close()

        asyncio.run(main())
