"""A faulty node and a healthy one: what the caller saw, what each node saw, and what is thought of it."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from rig import CONFIG, MESSAGES, PATIENT_S, Providers, Rig, running, wait_until, with_deadlines
from wire_ends import Client, Message, Peer, ScriptedNode, answer, chunked, config_for, node, post, serving

from fastgw._core import Node
from fastgw.balancing.upstream import AttemptOutcome
from fastgw.simulator.provider import Provider, Record

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"

# The shortest deadline of a row that is about time. It holds for the healthy node too: a busy machine must
# not reach it there.
BRIEF_S = 2.0


def matrix_config(*, alone: bool = False, route: str = "", **deadlines: float) -> str:
    """The article's two nodes without probes, which would count; ``alone`` leaves the backup out.

    Args:
        route: further fields of the route, as flow YAML.
        deadlines: in seconds, over patient ones.
    """
    text = CONFIG[: CONFIG.index("      checks:")].replace("  dead_reprobe: 1\n", "  drain: 30\n")
    text = with_deadlines(text, **{"node_write": PATIENT_S, **deadlines})
    if route:
        text = text.replace("        deadlines:", f"        {route}\n        deadlines:")
    if alone:
        text = text[: text.index("        - host: api.deepseek.com")]
    return text


def request_bytes(stream: bool, *fields: str, path: str = CHAT, **more: Any) -> bytes:
    """A chat request (or one of the Responses API, by its path)."""
    said: dict[str, Any] = {"model": "gpt-4o", "stream": stream}
    if path == RESPONSES:
        said |= {"input": "say hello", "store": False}
    else:
        said["messages"] = MESSAGES
    return post(path, json.dumps({**said, **more}).encode(), "Content-Type: application/json", *fields)


def asked(rig: Providers, provider: Provider) -> list[Record]:
    """What reached a provider, probes aside."""
    return rig.call(lambda: [record for record in provider.requests if record.path != "/"])


def is_whole_chat(got: Message, stream: bool) -> bool:
    """Is it a complete success, of the kind that was asked for?"""
    if got.status != 200 or not got.is_whole:
        return False
    if stream:
        return got.body.endswith(b"data: [DONE]\n\n") and b'"error"' not in got.body and b"say" in got.body
    return "say hello" in json.loads(got.body)["choices"][0]["message"]["content"]


# --- What is thought of a node ----------------------------------------------------------------


@dataclass(frozen=True)
class Health:
    """A node after one request.

    Attributes:
        outcome: of the attempt on it; "" if there was none.
        standing: healthy (and nothing counted), suspect (counted, still used), ejected, cooling, dead;
            limited: healthy, but for the model that was asked for.
        counter: which failure was counted, if any.
        wait_s: how long it is cooling, limited or dead, at least and at most, from its answer on.
    """

    outcome: str
    standing: str = "healthy"
    counter: str = ""
    wait_s: tuple[float, float] = (0.0, 0.0)


SUCCEEDED = Health("succeeded")
IGNORED = Health("ignored")
FAILED_HTTP = Health("failed", "suspect", "http_failure")
FAILED_TCP = Health("failed", "suspect", "tcp_failure")
TIMED_OUT = Health("failed", "suspect", "timeout_failure")
OUT_AT_ONCE = Health("failed", "ejected", "", (0.9, 1.1))
DEAD = Health("dead", "dead", "", (60.0, 60.0))
UNASKED = Health("")


def cooling(least_s: float, most_s: float | None = None) -> Health:
    """Busy for so long."""
    return Health("busy", "cooling", "", (least_s, least_s if most_s is None else most_s))


def limited(least_s: float, most_s: float | None = None) -> Health:
    """One of its models is limited for so long: what a 429 of OpenAI's means."""
    return Health("busy", "limited", "", (least_s, least_s if most_s is None else most_s))


LIMITED = limited(0.9, 1.1)  # by a 429 that names no time
OVERLOADED = cooling(3.6, 4.4)  # by a 503 that names no time


def admin_json(rig: Rig, path: str) -> Any:
    """What the admin listener says."""
    assert rig.admin.address is not None
    with Client(rig.admin.address.port) as client:
        got = client.ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert got.status == 200, got.body
    return json.loads(got.body)


def limits_of(rig: Rig, node: Node, at: float) -> list[float]:
    """Until when models of a node are limited that were not free again at a time; monotonic seconds."""
    assert rig.gateway.generation is not None
    return [
        rest.until
        for built in rig.gateway.generation.upstreams.values()
        for position, other in enumerate(built.upstream.nodes)
        if other is node
        for rest in built.upstream.models.resting(position, at)
        if rest.is_limit
    ]


def check_health(rig: Rig, name: str, expected: Health, asked_at: float) -> None:
    """Compare a node's health, and the outcome of its one attempt, with what they should be.

    Args:
        asked_at: when the request began, monotonic seconds. The terms are compared with this time and
            the present one, so that it makes no difference how long anything took.
    """
    wait_until(lambda: rig.counts()["exchanges"] == 0, "the exchange has ended")
    now = monotonic()
    node = rig.nodes()[name]
    outcomes = [AttemptOutcome(kind).name.lower() for kind, n in enumerate(node.outcomes) for _ in range(n)]
    assert outcomes == ([expected.outcome] if expected.outcome else [])
    counted = {counter for counter, number in node.counters.items() if number}
    until = 0.0
    limits = limits_of(rig, node, asked_at)
    if node.is_dead():
        standing, until = "dead", node.dead_until
    elif node.is_cooling():
        standing, until = "cooling", node.cooling_until
    elif not node.is_usable():
        standing, until = "ejected", node.ejected_until
    elif limits:
        standing, until = "limited", max(limits)
    else:
        standing = "suspect" if counted else "healthy"
    assert standing == expected.standing, node
    assert node.is_available(asked_at) == (standing in ("healthy", "suspect", "limited"))
    if standing != "ejected":  # which begins to count anew
        assert counted == ({expected.counter} if expected.counter else set())
    if until:
        assert until >= asked_at + expected.wait_s[0]
        assert until <= now + expected.wait_s[1]
    (upstream,) = admin_json(rig, "/admin/upstreams")
    shown = next(node for node in upstream["nodes"] if node["name"] == name)
    assert shown["status"] == node.status
    assert shown["counter"] == node.counters
    assert shown["in_flight"] == 0


# --- Places that are no node ------------------------------------------------------------------


@contextmanager
def blackhole(address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[int]:
    """The port of a listener whose queue is full: the kernel drops every further SYN."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(address)
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        wait_until(lambda: _is_full(listener), "the queue is full")
        yield int(listener.getsockname()[1])


def _is_full(listener: socket.socket) -> bool:
    """Does no further connection fit into a listener's queue? (Of a listener, struct tcp_info tells that.)"""
    waiting, room = struct.unpack_from(
        "II", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24
    )
    return bool(waiting > room)


# --- A provider without a simulator -----------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode() + b"\n\n"


ROLE = _chunk({"role": "assistant", "content": ""})
FINISH = _chunk({}, "stop")
DONE = b"data: [DONE]\n\n"
EVENTS = (ROLE, _chunk({"content": "You said: say hello"}), FINISH, DONE)
COMPLETION = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "You said: say hello"}}]}
).encode()


def is_streamed(request: Message) -> bool:
    """Was a stream asked for?"""
    return bool(request.body) and json.loads(request.body).get("stream") is True


def chat_answer(request: Message, *fields: str) -> bytes:
    """What a provider answers, as bytes."""
    if is_streamed(request):
        return CHUNKED.replace(
            b"\r\n\r\n", "".join(f"\r\n{f}" for f in fields).encode() + b"\r\n\r\n"
        ) + chunked(*EVENTS)
    return answer(COMPLETION, "Content-Type: application/json", *fields)


# --- A primary that plays a script ------------------------------------------------------------


@dataclass
class Pair:
    """A gateway between a primary that plays a script and a healthy backup."""

    rig: Rig
    primary: ScriptedNode
    backup: ScriptedNode

    def check(self, health: Health, begin: float, *, moved: bool, replays: int = 0) -> None:
        """What each node was asked, and what is thought of it."""
        assert (len(self.primary.asked), len(self.backup.asked)) == (1, 1 if moved else 0)
        check_health(self.rig, f"127.0.0.1:{self.primary.port}", health, begin)
        check_health(self.rig, f"127.0.0.1:{self.backup.port}", SUCCEEDED if moved else UNASKED, begin)
        assert self.rig.counts()["uncertain_replays"] == replays

    def check_answer(self, got: Message, health: Health, begin: float, *, replays: int = 0) -> None:
        """... and whose answer it is; it moved unless the primary succeeded."""
        moved = health.outcome != "succeeded"
        by = self.backup if moved else self.primary
        assert (got.status, got["x-fastgw-upstream"]) == (200, f"127.0.0.1:{by.port}"), got.raw
        assert got["x-fastgw-attempts"] == ("2" if moved else "1")
        self.check(health, begin, moved=moved, replays=replays)


@contextmanager
def pair(
    ca_dir: Path,
    script: Callable[[Peer], None],
    healthy: Callable[[Message], bytes] = chat_answer,
    **config: str,
) -> Iterator[Pair]:
    with node(script) as primary, node(serving(healthy)) as backup:
        with running(ca_dir, config_for(primary.port, backup.port, provider="openai", **config)) as rig:
            yield Pair(rig, primary, backup)
