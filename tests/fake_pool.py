"""A node's pool without sockets, for requests of our own."""

from __future__ import annotations

import asyncio

from fake_transport import FakeTransport

from fastgw.wire.node_connection import NodeConnection
from fastgw.wire.pool import Pool


class FakePool(Pool):
    """Opens connections to a node that answers, or does not."""

    answers: list[bytes | BaseException | None]
    transports: list[FakeTransport]

    async def open(self, timeout_s: float) -> NodeConnection:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        connection = NodeConnection(self, None, self.limits)
        transport = FakeTransport()
        connection.connection_made(transport)
        self.busy.add(connection)
        self.transports.append(transport)
        loop = asyncio.get_running_loop()
        if answer:
            loop.call_soon(connection.data_received, answer)
        elif answer is not None:
            loop.call_soon(connection.connection_lost, None)
        return connection


def fake_pool(*answers: bytes | BaseException | None) -> FakePool:
    """Each probe gets the next answer, and the last one again and again; b"" is a close, None silence."""
    pool = FakePool(None, "10.0.0.1", 80)  # type: ignore[arg-type]
    pool.answers = list(answers)
    pool.transports = []
    return pool
