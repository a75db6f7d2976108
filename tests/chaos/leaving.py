"""Clients that leave in the middle: what becomes of the connections to the nodes."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import defaultdict
from dataclasses import dataclass
from time import monotonic, sleep

from .badhost import ConnectionSeen, Plan, Report, RequestSeen
from .conversation import Ask
from .goals import Figure, Result, goal
from .load import ClientConnection, Clients, percentile
from .stage import PATIENT, Stage, configuration, stage

LIMIT_S = 0.1  # until the node's connection is closed, for 99 of 100
STAY_S = 0.06  # at most, after a request was sent
PATIENCE_S = 10.0  # what is not closed after that stays
HELD_BYTES = 65536
_LINGER_ZERO = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Scene:
    """In which phase clients leave, and what brings a request into it.

    Attributes:
        faults: of the route's hosts, one each.
        part: of the request that is sent.
    """

    phase: str
    faults: tuple[str, ...]
    stream: bool | None = None
    size: int = 300
    part: float = 1.0


SCENES = (
    Scene("sending", ("hang_before_head",), size=HELD_BYTES // 2, part=0.5),
    Scene("sending a body that is not held", ("hang_before_head",), size=8 * HELD_BYTES, part=0.5),
    Scene("connecting", ("accept_and_hang",)),
    Scene("waiting", ("hang_before_head",)),
    Scene("in the head", ("drip_head",)),
    Scene("before the content of a stream", ("stall_before_content",), stream=True),
    Scene("inside a plain answer", ("stall_before_content",), stream=False),
    Scene("inside an error", ("stalled_error",)),
    Scene("on the second node", ("unknown_model", "hang_before_head")),
    Scene("after the content", ("breathing_stream",), stream=True),
)


@dataclass
class Left:
    """A client that has left. Times are monotonic seconds."""

    id: str
    scene: Scene
    begun: float
    left: float


async def _leave(clients: Clients, ask: Ask, scene: Scene, rng: random.Random, stay_s: float) -> Left:
    connection: ClientConnection = await clients.open()
    data = ask.encode()
    begun = monotonic()
    connection.transport.write(data[: round(len(data) * scene.part)])
    await asyncio.sleep(rng.uniform(0.0, stay_s))
    if rng.random() < 0.5:
        sock: socket.socket = connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    left = monotonic()
    connection.transport.abort()
    return Left(ask.id, scene, begun, left)


async def _play(on: Stage, seed: int, number: int, count: int, stay_s: float) -> list[Left]:
    """One client after the other leaves in one scene."""
    scene = SCENES[number]
    clients = Clients(on.address)
    rng = random.Random(f"{seed}/{number}")
    gone = []
    for nth in range(count):
        stream = rng.random() < 0.5 if scene.stream is None else scene.stream
        id = f"x{seed}-{number}-{nth}"
        ask = Ask(id, stream, scene.size, f"gpt-{id}", f"/scene{number}/v1/chat/completions")
        gone.append(await _leave(clients, ask, scene, rng, stay_s))
        if scene.phase == "connecting":
            # No id reaches the host: its connection is told by the time.
            await asyncio.sleep(0.1)
    return gone


def _hosts() -> list[list[int]]:
    """The numbers of each scene's hosts."""
    numbers = iter(range(sum(len(scene.faults) for scene in SCENES)))
    return [[next(numbers) for _ in scene.faults] for scene in SCENES]


HOSTS = _hosts()


class Traces:
    """What the hosts saw of the clients that left."""

    def __init__(self, report: Report) -> None:
        self._links = {link.number: link for link in report.connections}
        self._requests: dict[str, list[RequestSeen]] = defaultdict(list)
        for request in report.requests:
            if request.end != "answered":
                self._requests[request.id].append(request)

    def of(self, one: Left) -> list[ConnectionSeen]:
        """The connections on which a node worked for it when it left."""
        if one.scene.phase == "connecting":
            (host,) = HOSTS[SCENES.index(one.scene)]
            return [
                link
                for link in self._links.values()
                if link.host == host and one.begun <= link.accepted < one.left
            ]
        return [self._links[request.connection] for request in self._requests[one.id]]

    def is_reused(self, one: Left) -> bool:
        """Did another request come on its connection?"""
        return any(
            self._links[request.connection].requests > request.nth for request in self._requests[one.id]
        )


def leaving(seed: int, count: int, limit_s: float = LIMIT_S, stay_s: float = STAY_S) -> Result:
    """X14 with so many clients.

    Args:
        limit_s: until the node's connection is closed, for 99 of 100.
        stay_s: at most, after a request was sent: time enough for some to come into their scene's phase.
    """
    routes = [(f"/scene{number}", hosts) for number, hosts in enumerate(HOSTS)]
    config = configuration(routes, process=f"hold_body_bytes: {HELD_BYTES}", deadlines=PATIENT)
    plans = [
        Plan(0.0, host, (fault,))
        for scene, hosts in zip(SCENES, HOSTS, strict=True)
        for host, fault in zip(hosts, scene.faults, strict=True)
    ]

    async def play(on: Stage) -> list[Left]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_play(on, seed, number, count // len(SCENES), stay_s))
                for number in range(len(SCENES))
            ]
        return [one for task in tasks for one in task.result()]

    with stage(len(plans), seed, config) as on:
        on.hosts.follow(plans, monotonic())
        gone = asyncio.run(play(on))
        begin = monotonic()
        while True:
            traces = Traces(on.report())
            still_open = [
                f"{one}: {link}" for one in gone for link in traces.of(one) if link.ended_by != "gateway"
            ]
            busy = sum(
                counts["exchanges"]
                + counts["node_connections"]["busy"]
                + counts["node_connections"]["dialling"]
                for counts in on.workers.counts().values()
            )
            if not (still_open or busy) or monotonic() - begin > PATIENCE_S:
                break
            sleep(0.1)
        attempts = "fastgw_upstream_requests_total"
        harmless = ("succeeded", "ignored", "unknown_model")
        blamed = on.metric(attempts) - sum(on.metric(attempts, f'outcome="{name}"') for name in harmless)
        errors = on.errors
    closed_after: dict[str, list[float]] = {
        scene.phase: [
            link.ended - one.left
            for one in gone
            if one.scene is scene
            for link in traces.of(one)
            if link.ended_by == "gateway"
        ]
        for scene in SCENES
    }
    times = [time for of in closed_after.values() for time in of]
    p99_ms = percentile(times, 0.99) * 1000
    measured: dict[str, Figure] = {
        "clients": len(gone),
        "connections to close": len(times) + len(still_open),
        "p99 ms": round(p99_ms, 1),
        "worst ms": round(max(times, default=0.0) * 1000, 1),
        "not closed": len(still_open),
        "returned to the pool": sum(map(traces.is_reused, gone)),
        "blamed on a node": int(blamed),
        "left busy": busy,
    }
    unseen = [phase for phase, of in closed_after.items() if not of and phase != "sending"]
    ok = p99_ms <= limit_s * 1000 and not (
        unseen or still_open or measured["returned to the pool"] or blamed or busy or errors
    )
    worst = [
        f"{phase}: {len(of)}, at most {max(of, default=0) * 1000:.1f} ms"
        for phase, of in closed_after.items()
    ]
    return Result(measured, ok, [*worst, *still_open[:10], *errors])


@goal(
    "X14",
    "2,000 clients leave at a random moment of each phase: the node's connection is closed within 100 ms"
    " (p99), none goes back to the pool, no node is blamed",
)
def x14(seed: int, scale: float) -> Result:
    return leaving(seed, round(2_000 * scale))
