"""The resolver with real threads, the system's own name service and both loops."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import uvloop

from fastgw.errors import ResolveFailed
from fastgw.wire.resolver import Resolver

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

HANGING = """
import asyncio, threading
from fastgw.errors import ResolveFailed
from fastgw.wire.resolver import Resolver

async def main():
    resolver = Resolver(query=lambda name: threading.Event().wait(), timeout_s=0.05)
    try:
        await resolver.resolve("node", 443)
    except ResolveFailed as error:
        print(error)
    resolver.close()

asyncio.run(main())
"""


@pytest.fixture(params=LOOPS)
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]


def test_localhost_is_found_by_a_thread_that_ends(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        resolver = Resolver()
        found = await resolver.resolve("localhost", 443)
        assert {address.host for address in found} <= {"127.0.0.1", "::1"}
        assert all(address.port == 443 for address in found)
        assert resolver.lookup("localhost", 443) == found
        resolver.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    for thread in threading.enumerate():
        if thread.name == "fastgw-resolver":
            thread.join(10)
            assert not thread.is_alive()


def test_a_name_that_cannot_exist_fails(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        resolver = Resolver()
        with pytest.raises(ResolveFailed, match="not a valid host name"):
            await resolver.resolve("a" * 64 + ".invalid", 443)
        resolver.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_the_loop_goes_on_while_a_query_blocks(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    answer = threading.Event()

    def query(_name: str) -> list[tuple[int, str]]:
        answer.wait(10)
        return [(int(socket.AF_INET), "192.0.2.1")]

    async def main() -> None:
        resolver = Resolver(query=query, timeout_s=10)
        caller = asyncio.create_task(resolver.resolve("node", 443))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not caller.done()
        answer.set()
        assert [address.host for address in await caller] == ["192.0.2.1"]
        resolver.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_a_hung_query_does_not_hold_up_the_exit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "The provider's name has no address (timeout)\n"
    assert done.returncode == 0


def test_an_answer_after_the_loop_has_closed_is_nobodys_error() -> None:
    answer, raised = threading.Event(), list[object]()

    def query(_name: str) -> list[tuple[int, str]]:
        answer.wait(10)
        return []

    async def main() -> None:
        resolver = Resolver(query=query)
        resolver.watch("node", 443)
        resolver.close()

    hook, threading.excepthook = threading.excepthook, raised.append
    try:
        asyncio.run(main())
        answer.set()
        for thread in threading.enumerate():
            if thread.name == "fastgw-resolver":
                thread.join(10)
    finally:
        threading.excepthook = hook
    assert raised == []
