"""Whatever happens to exchanges, in whatever order: each ends once, honestly, and gives everything back."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import orjson
import pytest
from exchange_bench import (
    BODY,
    DONE,
    END,
    ERROR,
    KEEP_ALIVE,
    PATH,
    STREAM_BODY,
    STREAM_HEAD,
    Answer,
    Bench,
    FakeNode,
    Ticket,
    chunk,
    dechunked,
    error_response,
    json_response,
)
from fake_transport import FakeTransport

from fastgw.balancing.deadlines import Deadlines
from fastgw.balancing.health import HealthPolicy
from fastgw.balancing.retry import RetryBudget
from fastgw.errors import ConnectFailed, ConnectTimeout, TlsFailed
from fastgw.wire.client_connection import ClientConnection, ClientState

SEEDS = 150
TEXT = "Hello, dear world"
DEADLINES = Deadlines(
    head_s=4.0,
    head_stream_s=3.0,
    first_content_s=6.0,
    first_content_stream_s=5.0,
    progress_s=4.0,
    idle_s=5.0,
    node_write_s=3.0,
    client_write_s=4.0,
    total_s=20.0,
)
REFUSALS = (
    (400, ""),
    (400, "context_length_exceeded"),
    (401, ""),
    (403, ""),
    (404, "model_not_found"),
    (408, ""),
    (429, "rate_limit_exceeded"),
    (429, "insufficient_quota"),
    (500, ""),
    (503, ""),
)
NOISE = (KEEP_ALIVE, b"\n", b"retry: 1\n\n", b"data: {\n\n", ERROR)


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return b"data: %b\n\n" % orjson.dumps({"id": "x", "choices": [choice]})


def cut(random: Random, data: bytes, most: int) -> list[bytes]:
    """The same bytes in a few pieces."""
    at = sorted({random.randrange(len(data)) for _ in range(random.randrange(most))} - {0})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@dataclass
class Script:
    """What one node says to one request, and what it does then."""

    pieces: list[bytes]
    end: str


def script_for(random: Random, request: bytes) -> Script:
    """Anything from a whole answer to a part of nonsense."""
    document = orjson.loads(request.partition(b"\r\n\r\n")[2])
    messages = document.get("messages")
    said = messages[-1]["content"] if messages and messages[-1].get("prefix") else ""
    if random.random() < 0.1:
        raw = error_response(*random.choice(REFUSALS))
    elif document.get("stream"):
        rest = TEXT[len(said) :].encode()
        events = [event(piece.decode()) for piece in (cut(random, rest, 5) if rest else ())]
        events += [event("", "stop"), DONE]
        if random.random() < 0.5:
            events.insert(random.randrange(len(events)), random.choice(NOISE))
        raw = STREAM_HEAD + b"".join(chunk(piece) for piece in cut(random, b"".join(events), 5)) + END
    else:
        whole = {"choices": [{"message": {"content": TEXT}}]}
        raw = json_response(random.choice([whole, whole, whole, {"choices": []}, {"error": {"code": "x"}}]))
    end = random.choice(["", "", "reset", "close", "hang"])
    if end and random.random() < 0.8:
        raw = raw[: random.randrange(1, len(raw))]
    return Script(cut(random, raw, 6), end)


@dataclass
class World:
    """Many clients before a few nodes, and a way to let anything happen."""

    random: Random
    bench: Bench
    clients: list[tuple[ClientConnection, FakeTransport]] = field(default_factory=list)
    nodes: dict[FakeNode, Script | None] = field(default_factory=dict)
    dialled: set[Ticket] = field(default_factory=set)

    def step(self) -> None:
        """One thing happens."""
        random = self.random
        tickets = [ticket for pool in self.bench.pools for ticket in pool.tickets]
        waiting = [t for t in tickets if not t.is_cancelled and t not in self.dialled]
        asked = [node for node in self.nodes if node.connection.exchange is not None]
        may = ["ask", "ask", "wait", "wait", *["dial"] * len(waiting), *["say"] * (3 * len(asked))]
        if random.random() < 0.03:
            may = ["leave", "pause", "resume", "shed"]
        what = random.choice(may)
        if what == "ask":
            self.ask()
        elif what == "wait":
            self.bench.wait(random.choice([0.05, 0.3, 1.2]))
        elif what == "dial":
            self.dial(random.choice(waiting))
        elif what == "say":
            self.say(random.choice(asked))
        elif what == "shed":
            self.bench.exchanges.shed()
        elif self.clients:
            client, _ = random.choice(self.clients)
            if what == "leave":
                client.connection_lost(None)
            elif what == "pause":
                client.pause_writing()
            else:
                client.resume_writing()
        self.lose()

    def ask(self) -> None:
        idle = [one for one in self.clients if one[0].state == ClientState.IDLE and not one[0].is_paused]
        if idle and self.random.random() < 0.5:
            client, transport = self.random.choice(idle)
            self.judge(client, transport)
        else:
            client, transport = self.bench.listener.make_connection(), FakeTransport()
            client.connection_made(transport)
            self.clients.append((client, transport))
        body = self.random.choice([BODY, STREAM_BODY, STREAM_BODY])
        head = f"POST {PATH} HTTP/1.1\r\nHost: gw\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for piece in cut(self.random, head + body, 3):
            if client.state <= ClientState.BODY:
                client.data_received(piece)

    def dial(self, ticket: Ticket) -> None:
        self.dialled.add(ticket)
        if self.random.random() < 0.1:
            ticket.fail(self.random.choice([ConnectFailed, ConnectTimeout, TlsFailed])())
        else:
            self.nodes[ticket.connect()] = None

    def say(self, node: FakeNode) -> None:
        script = self.nodes[node]
        if script is None:
            script = self.nodes[node] = script_for(self.random, node.take())
        if not node.transport.is_reading:
            return
        if script.pieces:
            node.say(script.pieces.pop(0))
        elif script.end == "reset":
            node.reset()
        elif script.end == "close":
            node.close()
        if not script.pieces and not script.end:
            self.nodes[node] = None

    def lose(self) -> None:
        """What was closed is lost, as a loop would do it."""
        for node in list(self.nodes):
            if not node.transport.is_open and node.connection.transport is not None:
                node.connection.connection_lost(None)
            if node.connection.transport is None:
                del self.nodes[node]
        for client, transport in list(self.clients):
            if not transport.is_open and client.state != ClientState.LINGERING:
                client.connection_lost(None)
                self.judge(client, transport)
                self.clients.remove((client, transport))

    def judge(self, client: ClientConnection, transport: FakeTransport) -> None:
        """What reached a client is the answer, the beginning of it with an honest end, or an error."""
        data = transport.take()
        answer = Answer(data)
        if answer.status != 200:
            return
        if "chunked" not in answer.fields.get("transfer-encoding", ""):
            if answer.is_whole:
                assert orjson.loads(answer.body)["choices"][0]["message"]["content"] == TEXT
            return
        body, is_whole = dechunked(answer.rest)
        text = ""
        for line in body.split(b"\n"):
            if line.startswith(b"data: {") and b'"choices"' in line:
                text += orjson.loads(line[6:])["choices"][0]["delta"].get("content", "")
        assert TEXT.startswith(text), "two answers in one"
        if is_whole or DONE in body:
            assert text == TEXT, "a part of an answer, as if it were the whole"

    def end(self) -> None:
        """Time passes, and everybody leaves."""
        for _ in range(60):
            self.bench.wait(1.0)
            self.lose()
        for client, transport in self.clients:
            client.connection_lost(None)
            self.judge(client, transport)
        self.lose()


def world(patch: pytest.MonkeyPatch, random: Random) -> World:
    bench = Bench(
        patch,
        random.randrange(1, 5),
        resumes=random.random() < 0.5,
        limits_per_model=random.random() < 0.5,
        moves_too_long=random.random() < 0.3,
        models=[("gpt-4o", "other")] if random.random() < 0.3 else (),
        prefix_target=b"/beta/chat/completions" if random.random() < 0.5 else b"",
        health=HealthPolicy(trial_lease_s=random.choice([0.5, 4.0]), panic_in_flight=random.choice([1, 8])),
        deadlines=DEADLINES,
    )
    if random.random() < 0.5:
        bench.exchanges.budget = RetryBudget(20.0, 0.1)
    for node in bench.nodes:
        node.max_in_flight = random.choice([0, 0, 1, 2])
    return World(random, bench)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_everything_is_given_back_and_nothing_is_mixed(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    random = Random(seed)
    all_of_it = world(monkeypatch, random)
    bench = all_of_it.bench
    for _ in range(random.randrange(20, 150)):
        all_of_it.step()
        assert all(node.in_flight <= (node.max_in_flight or 1 << 30) for node in bench.nodes)
    all_of_it.end()
    bench.check_end()
    later = bench.clock.now + 700.0
    for node in bench.nodes:
        assert sum(node.outcomes) == node.picks
        assert node.outcomes[0] == 0 and node.outcomes[7] == 0, "an attempt without an outcome"
        assert node.is_available(later), "a trial or a term without an end"
