"""The Responses API: its lifecycle is no content, and its last event decides what the answer was."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import Any

import openai
import pytest
from fault_rig import (
    BRIEF_S,
    CHUNKED,
    DEAD,
    FAILED_HTTP,
    FAILED_TCP,
    IGNORED,
    LIMITED,
    OVERLOADED,
    RESPONSES,
    SUCCEEDED,
    TIMED_OUT,
    Health,
    Pair,
    is_streamed,
    request_bytes,
)
from fault_rig import pair as scripted_pair
from openai import OpenAI
from wire_ends import Client, Message, Peer, answer, chunked


def document(status: str = "completed", text: str = "say hello", **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": [part]}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": "gpt-4o",
        "output": [item] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **fields,
    }


def event(type: str, **fields: Any) -> bytes:
    data = json.dumps({"type": type, "sequence_number": 0, **fields})
    return f"event: {type}\ndata: {data}\n\n".encode()


def ended(status: str, **fields: Any) -> bytes:
    """One of the events that end a stream."""
    return event(f"response.{status}", response=document(status, **fields))


def failed(code: str) -> bytes:
    return ended("failed", text="", error={"code": code, "message": "no"})


def error_event(code: str) -> bytes:
    return event("error", code=code, message="no", param=None)


RUNNING = document("in_progress", "")
PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
LIFECYCLE = [
    event("response.created", response=RUNNING),
    event("response.in_progress", response=RUNNING),
    event("response.output_item.added", output_index=0, item={"id": "msg_1", "type": "message"}),
    event("response.content_part.added", **PLACE, part={"type": "output_text", "text": ""}),
]
FIRST = event("response.output_text.delta", **PLACE, delta="say")
SECOND = event("response.output_text.delta", **PLACE, delta=" hello")
WHOLE = [*LIFECYCLE, FIRST, SECOND, ended("completed")]


def healthy(request: Message) -> bytes:
    if is_streamed(request):
        return CHUNKED + chunked(*WHOLE)
    return answer(json.dumps(document()).encode(), "Content-Type: application/json")


def pair(ca_dir: Path, script: Callable[[Peer], None], **config: str) -> AbstractContextManager[Pair]:
    return scripted_pair(ca_dir, script, healthy, **config)


# --- Streamed ---------------------------------------------------------------------------------

BEFORE_CONTENT: list[tuple[str, list[bytes], bool, Health, int]] = [
    # (name, what follows the lifecycle, whether the body is ended, health, replays)
    ("cut", [], False, FAILED_TCP, 1),
    ("ended without a word", [], True, FAILED_HTTP, 1),
    ("failed", [failed("server_error")], True, FAILED_HTTP, 1),
    ("failed, and cut", [failed("server_error")], False, FAILED_HTTP, 1),
    ("failed by a rate limit", [failed("rate_limit_exceeded")], True, LIMITED, 0),
    ("failed for want of money", [failed("insufficient_quota")], True, DEAD, 0),
    ("error", [error_event("server_error")], True, FAILED_HTTP, 1),
    ("error of overload", [error_event("server_is_overloaded")], True, OVERLOADED, 0),
    ("error of an unknown model", [error_event("model_not_found")], True, IGNORED, 0),
    ("cancelled", [ended("cancelled", text="")], True, FAILED_HTTP, 1),
]


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "event by event"])
@pytest.mark.parametrize(
    ("rest", "is_ended", "health", "replays"),
    [row[1:] for row in BEFORE_CONTENT],
    ids=[row[0] for row in BEFORE_CONTENT],
)
def test_what_fails_before_content_moves(
    ca_dir: Path, rest: list[bytes], is_ended: bool, health: Health, replays: int, at_once: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        end = b"0\r\n\r\n" if is_ended else b""
        events = [*LIFECYCLE, *rest]
        if at_once:
            peer.send(CHUNKED + chunked(*events, end=end))
        else:
            for data in (CHUNKED, *[chunked(one, end=b"") for one in events], end):
                peer.send(data)

    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(True, path=RESPONSES))
        assert (got.status, got.is_whole, got.body) == (200, True, b"".join(WHOLE))
        assert got["x-fastgw-upstream"] == f"127.0.0.1:{nodes.backup.port}"
        nodes.check(health, begin, moved=True, replays=replays)


def test_the_lifecycle_alone_does_not_keep_a_caller_waiting(ca_dir: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunked(*LIFECYCLE, end=b""))
        peer.rest()

    deadlines = f"{{first_content_stream: {BRIEF_S}}}"
    with pair(ca_dir, script, deadlines=deadlines) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(True, path=RESPONSES))
        assert got.body == b"".join(WHOLE)
        nodes.check(TIMED_OUT, begin, moved=True, replays=1)


def test_what_the_provider_keeps_is_not_asked_for_twice(ca_dir: Path) -> None:
    """Unless ``store`` is false an answer is stored, so it may not run again where it may have run."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunked(*LIFECYCLE, end=b""))

    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(True, path=RESPONSES, store=True))
        assert got.status == 502
        assert json.loads(got.body)["error"]["message"]
        nodes.check(FAILED_TCP, begin, moved=False)


@pytest.mark.parametrize("status", ["completed", "incomplete"])
@pytest.mark.parametrize("deltas", [[FIRST, SECOND], []], ids=["deltas", "no deltas"])
def test_a_stream_that_says_it_is_over_is_whole(ca_dir: Path, status: str, deltas: list[bytes]) -> None:
    """No [DONE] is needed, and a limit of its own is no failure."""
    events = [*LIFECYCLE, *deltas, ended(status)]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunked(*events))
        peer.rest()

    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(True, path=RESPONSES))
        assert (got.status, got.is_whole, got.body) == (200, True, b"".join(events))
        nodes.check(SUCCEEDED, begin, moved=False)


AFTER_CONTENT: list[tuple[str, bytes, Health, bytes]] = [
    ("cut", b"", FAILED_TCP, b'"code":"stream_interrupted"'),
    ("ended without its last event", b"0\r\n\r\n", FAILED_TCP, b'"code":"stream_interrupted"'),
    ("failed", chunked(failed("server_error"), SECOND), FAILED_HTTP, b"response.failed"),
    ("error", chunked(error_event("server_error"), SECOND), FAILED_HTTP, b'"type": "error"'),
]


def broken_off(rest: bytes) -> tuple[Callable[[Peer], None], threading.Event]:
    """A script that sends the rest once its event is set: when the first content has arrived."""
    has_content = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunked(*LIFECYCLE, FIRST, end=b""))
        has_content.wait(30)
        peer.send(rest)

    return script, has_content


@pytest.mark.parametrize(
    ("rest", "health", "last"), [row[1:] for row in AFTER_CONTENT], ids=[row[0] for row in AFTER_CONTENT]
)
def test_what_fails_after_content_ends_honestly(
    ca_dir: Path, rest: bytes, health: Health, last: bytes
) -> None:
    script, has_content = broken_off(rest)
    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        client.send(request_bytes(True, path=RESPONSES))
        client.wait_for(FIRST)
        has_content.set()
        got = client.answer()
        assert not got.is_whole
        assert got.body.startswith(b"".join([*LIFECYCLE, FIRST]))
        assert SECOND not in got.body
        assert last in got.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        nodes.check(health, begin, moved=False)


@pytest.mark.parametrize("rest", [row[1] for row in AFTER_CONTENT], ids=[row[0] for row in AFTER_CONTENT])
def test_the_sdk_takes_no_broken_stream_for_a_short_answer(ca_dir: Path, rest: bytes) -> None:
    script, has_content = broken_off(rest)
    with pair(ca_dir, script) as nodes:
        with OpenAI(base_url=nodes.rig.base_url, api_key="sk-any", max_retries=0, timeout=30) as client:
            types = []
            stream = client.responses.create(model="gpt-4o", input="say hello", store=False, stream=True)
            try:
                for item in stream:
                    types.append(item.type)
                    if item.type == "response.output_text.delta":
                        has_content.set()
            except openai.APIError as problem:
                types.append(f"raised {problem!r}")
            assert "response.completed" not in types
            assert types[-1] in ("response.failed", "error") or types[-1].startswith("raised")


# --- Not streamed -----------------------------------------------------------------------------

PLAIN: list[tuple[str, dict[str, Any], Health, int]] = [
    # (name, the document, health, replays); it moves unless the health is that of a success
    ("completed", document(), SUCCEEDED, 0),
    ("incomplete", document("incomplete", incomplete_details={"reason": "max_output_tokens"}), SUCCEEDED, 0),
    ("queued", document("queued", ""), SUCCEEDED, 0),
    ("failed", document("failed", "", error={"code": "server_error", "message": "no"}), FAILED_HTTP, 1),
    (
        "failed inside",
        document("failed", "say", error={"code": "server_error", "message": "no"}),
        FAILED_HTTP,
        1,
    ),
    (
        "rate limit",
        document("failed", "", error={"code": "rate_limit_exceeded", "message": "no"}),
        LIMITED,
        0,
    ),
    ("no money", document("failed", "", error={"code": "insufficient_quota", "message": "no"}), DEAD, 0),
    ("error", {"error": {"code": "server_error", "message": "no"}}, FAILED_HTTP, 1),
]


@pytest.mark.parametrize(
    ("body", "health", "replays"), [row[1:] for row in PLAIN], ids=[row[0] for row in PLAIN]
)
def test_a_document_is_judged_by_its_status(
    ca_dir: Path, body: dict[str, Any], health: Health, replays: int
) -> None:
    data = json.dumps(body).encode()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer(data, "Content-Type: application/json"))
        peer.rest()

    moves = health is not SUCCEEDED
    with pair(ca_dir, script) as nodes, Client(nodes.rig.port) as client:
        begin = monotonic()
        got = client.ask(request_bytes(False, path=RESPONSES))
        assert (got.status, got.is_whole) == (200, True)
        assert json.loads(got.body) == (document() if moves else body)
        nodes.check(health, begin, moved=moves, replays=replays)
