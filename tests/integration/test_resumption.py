"""Another node goes on with a stream that breaks after its first content, where the route asks for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from rig import CONFIG, MESSAGES, FaultKind, Rig, running, wait_until, with_deadlines
from wire_ends import Client, Ended, Message, Peer, ScriptedNode, chunked, config_for, node, post

# Without probes, which would count; the models of both providers' own names on either node. A stream that
# stalls is given up after 3 s.
QUIET = with_deadlines(CONFIG[: CONFIG.index("      checks:")], progress=3, idle=3).replace(
    "uris: [/v1/*]", "uris: [/v1/*]\n        on_stream_failure: resume"
)
# DeepSeek first: what breaks there can only be asked again, for OpenAI continues no prefix.
BACKWARDS = (
    QUIET.replace("weight: 100", "weight: 100\n          priority: -2")
    .replace("host: api.openai.com", 'host: api.openai.com\n          models: {"*": gpt-4o}')
    .replace("host: api.deepseek.com", 'host: api.deepseek.com\n          models: {"*": deepseek-flash}')
)
TOKENS = 60
LONG = {"x-sim-tokens": str(TOKENS), "x-sim-delay-ms": "2"}
WHOLE = "You said: say hello" + "".join(f" w{n}" for n in range(4, TOKENS))

BREAKS: list[tuple[str, FaultKind, dict[str, Any]]] = [
    ("reset", FaultKind.RESET_INSIDE, {"after": 40, "how": "rst"}),
    ("end", FaultKind.RESET_INSIDE, {"after": 40, "how": "fin"}),
    ("clean end", FaultKind.RESET_INSIDE, {"after": 40, "how": "clean"}),
    ("cut in TLS", FaultKind.TRUNCATE_TLS, {"after": 40}),
    ("stall", FaultKind.STALL, {"after": 20}),
    ("error event", FaultKind.ERROR_EVENT, {"after": 20}),
    ("error event without an end", FaultKind.ERROR_EVENT, {"after": 20, "done": False}),
]
ALL_BREAKS = pytest.mark.parametrize(
    ("kind", "parameters"), [row[1:] for row in BREAKS], ids=[row[0] for row in BREAKS]
)


@contextmanager
def sdk(rig: Rig) -> Iterator[OpenAI]:
    with OpenAI(base_url=rig.base_url, api_key="sk-any", max_retries=0, timeout=30) as client:
        yield client


def read_whole(client: OpenAI, **extra: Any) -> tuple[str, list[Any]]:
    messages: Any = MESSAGES
    options: Any = {"model": "gpt-4o", "messages": messages, "extra_headers": LONG, **extra}
    chunks = list(client.chat.completions.create(stream=True, **options))
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices), chunks


def check_is_one_answer(chunks: list[Any]) -> None:
    assert len({chunk.id for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]


# --- By prefix, and by asking again -----------------------------------------------------------


@ALL_BREAKS
def test_a_broken_stream_is_continued_by_a_node_that_takes_a_prefix(
    ca_dir: Path, kind: FaultKind, parameters: dict[str, Any], loop_kind: str
) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig, sdk(rig) as client:
        rig.fault(rig.openai, kind, **parameters)
        text, chunks = read_whole(client)
        assert text == WHOLE
        check_is_one_answer(chunks)
        assert chunks[-1].model == "deepseek-flash"  # the truth about who spoke last
        assert (rig.openai.counters.requests, rig.deepseek.counters.requests) == (1, 1)
        counts = rig.counts()
        assert (counts["streams_resumed"], counts["streams_interrupted"]) == (1, 0)


@ALL_BREAKS
def test_a_broken_stream_is_continued_by_a_node_that_is_asked_again(
    ca_dir: Path, kind: FaultKind, parameters: dict[str, Any]
) -> None:
    with running(ca_dir, BACKWARDS) as rig, sdk(rig) as client:
        rig.fault(rig.deepseek, kind, **parameters)
        text, chunks = read_whole(client)
        assert text == WHOLE
        check_is_one_answer(chunks)
        assert (rig.deepseek.counters.requests, rig.openai.counters.requests) == (1, 1)


def test_a_node_that_refuses_the_prefix_is_asked_again(ca_dir: Path) -> None:
    body = json.dumps({"error": {"message": "prefill is not supported", "type": "invalid_request_error"}})
    with running(ca_dir, QUIET) as rig, sdk(rig) as client:
        rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=20)
        rig.fault(rig.deepseek, FaultKind.STATUS, status=400, body=body, match='"prefix":true')
        text, chunks = read_whole(client)
        assert text == WHOLE
        check_is_one_answer(chunks)
        assert rig.deepseek.counters.requests == 2


def test_a_stream_without_text_yet_is_asked_again(ca_dir: Path) -> None:
    with running(ca_dir, BACKWARDS) as rig, sdk(rig) as client:
        rig.fault(rig.deepseek, FaultKind.RESET_INSIDE, after=1)  # in the middle of its thoughts
        text, _ = read_whole(client)
        assert text == WHOLE


def test_usage_counts_both_generations(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig, sdk(rig) as client:
        rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=20)
        text, chunks = read_whole(client, stream_options={"include_usage": True})
        assert text == WHOLE
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.completion_tokens == TOKENS
        assert usage.total_tokens == usage.prompt_tokens + TOKENS


def test_the_connection_serves_further_requests_after_a_resumption(ca_dir: Path) -> None:
    body = json.dumps({"model": "gpt-4o", "messages": MESSAGES, "stream": True}).encode()
    request = post("/v1/chat/completions", body, f"x-sim-tokens: {TOKENS}", "x-sim-delay-ms: 2")
    with running(ca_dir, QUIET) as rig, Client(rig.port) as client:
        rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=20, count=1)
        got = client.ask(request)
        assert got.is_whole
        assert got.body.count(b": fastgw: resumed by prefix on api.deepseek.com:443\n") == 1
        assert got.body.endswith(b"data: [DONE]\n\n")
        assert client.ask(request).is_whole


def test_tool_calls_are_continued_only_by_the_same_call(ca_dir: Path) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    messages = [{"role": "user", "content": "call weather"}]
    with running(ca_dir, BACKWARDS) as rig, sdk(rig) as client:
        whole = read_whole(client, tools=tools, messages=messages)[1]
        rig.fault(rig.deepseek, FaultKind.RESET_INSIDE, after=len(whole) - 4)
        _, chunks = read_whole(client, tools=tools, messages=messages)
        calls = [call for c in chunks for choice in c.choices for call in choice.delta.tool_calls or ()]
        assert [call.id for call in calls if call.id] == [calls[0].id]
        arguments = "".join(call.function.arguments or "" for call in calls)
        first = [call for c in whole for choice in c.choices for call in choice.delta.tool_calls or ()]
        assert arguments == "".join(call.function.arguments or "" for call in first)


# --- Where nobody can go on -------------------------------------------------------------------


@ALL_BREAKS
def test_the_caller_learns_the_first_error_if_nobody_can_go_on(
    ca_dir: Path, kind: FaultKind, parameters: dict[str, Any]
) -> None:
    with running(ca_dir, QUIET) as rig, sdk(rig) as client:
        rig.fault(rig.openai, kind, **parameters)
        rig.fault(rig.deepseek, FaultKind.STATUS, status=503)
        with pytest.raises(openai.APIError) as caught:
            read_whole(client)
        expected = {FaultKind.STALL: "stream_stalled", FaultKind.ERROR_EVENT: "server_error"}
        assert expected.get(kind, "stream_interrupted") in (caught.value.code, caught.value.type)
        assert rig.counts()["streams_interrupted"] == 1


def events(*texts: str, finish: bool = False, id: str = "one") -> list[bytes]:
    deltas: list[dict[str, Any]] = [{"content": text} for text in texts]
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    if finish:
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return [b"data: %b\n\n" % json.dumps({"id": id, "choices": [choice]}).encode() for choice in choices]


DONE = b"data: [DONE]\n\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def plays(*sent: bytes, whole: bool = False) -> Any:
    """A node whose answer is these events, cut after them unless it is whole."""

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(STREAM + chunked(*sent, end=b""))
            if not whole:
                return
            peer.send(b"0\r\n\r\n")

    return script


def request_bytes(version: str = "1.1") -> bytes:
    body = json.dumps({"model": "m", "messages": MESSAGES, "stream": True}).encode()
    return post("/v1/chat/completions", body, version=version)


def ask(port: int, version: str = "1.1") -> Any:
    with Client(port) as client:
        return client.ask(request_bytes(version))


def chunks_of(got: Message) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in got.body.splitlines() if line.startswith(b"data: {")]


def text_of(got: Message) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(got))


@contextmanager
def resuming(ca_dir: Path, *scripts: Callable[[Peer], None]) -> Iterator[tuple[Rig, list[ScriptedNode]]]:
    """A gateway that resumes, before nodes that play these scripts, the first first."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(node(script)) for script in scripts]
        ports = [one.port for one in nodes]
        config = config_for(*ports, provider="openai-compatible", route="on_stream_failure: resume")
        yield stack.enter_context(running(ca_dir, config)), nodes


def test_another_answer_is_not_mixed_into_the_first(ca_dir: Path) -> None:
    first = plays(*events("You ", "said"))
    second = plays(*events("They ", "said", finish=True), DONE, whole=True)
    with resuming(ca_dir, first, second) as (rig, nodes):
        got = ask(rig.port)
        assert not got.is_whole
        assert b"They" not in got.body
        assert b'"code":"stream_interrupted"' in got.body
        assert b"[DONE]" not in got.body
        assert len(nodes[1].asked) == 1
        two_node = rig.nodes()[f"127.0.0.1:{nodes[1].port}"]
        assert not any(rig.call(lambda: dict(two_node.counters)).values())  # it did nothing wrong


def test_an_answer_that_was_said_to_its_end_is_ended(ca_dir: Path) -> None:
    with resuming(ca_dir, plays(*events("You ", "said", finish=True)), plays()) as (rig, nodes):
        got = ask(rig.port)
        assert got.is_whole
        assert got.body.endswith(DONE)
        assert nodes[1].asked == []


def test_a_client_of_http_1_0_gets_the_whole_answer(ca_dir: Path) -> None:
    first = plays(*events("You ", "said"))
    second = plays(*events("You said: ", "hello", finish=True), DONE, whole=True)
    with resuming(ca_dir, first, second) as (rig, _):
        got = ask(rig.port, "1.0")
        assert got.body.endswith(DONE)
        assert text_of(got) == "You said: hello"


def test_a_third_node_goes_on_where_the_second_broke_off(ca_dir: Path) -> None:
    scripts = [
        plays(*events("You ")),
        plays(*events("You sa", id="two")),
        plays(*events("You said", finish=True, id="three"), DONE, whole=True),
    ]
    with resuming(ca_dir, *scripts) as (rig, _):
        got = ask(rig.port)
        assert got.is_whole
        assert text_of(got) == "You said"
        assert {chunk["id"] for chunk in chunks_of(got)} == {"one"}


def test_a_client_that_leaves_while_another_node_is_asked_leaves_nothing_behind(ca_dir: Path) -> None:
    asked = threading.Event()

    def silent(peer: Peer) -> None:
        peer.request()
        asked.set()
        with pytest.raises((Ended, OSError)):
            peer.request()

    with resuming(ca_dir, plays(*events("You ")), silent) as (rig, nodes):
        with Client(rig.port) as client:
            client.send(request_bytes())
            assert asked.wait(30)
        assert nodes[1].gone.wait(30)  # the gateway has closed its connection to the second node
        wait_until(lambda: rig.counts()["exchanges"] == 0, "the exchange has ended")
