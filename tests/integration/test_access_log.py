"""The access log of a running gateway: a line per exchange, nothing secret in it, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from raw_http import Answer, Connection, chat, connected, encode
from rig import CONFIG, DEEPSEEK, KEYS, MESSAGES, OPENAI, FaultKind, Rig, running, wait_until
from wire_ends import Client, Peer, chunked, config_for, get, node

from fastgw.access_log import AccessLog

CHAT = "/v1/chat/completions"
TEXT_LINE = re.compile(
    r"(?P<client>\S+) - (?P<consumer>\S+) \[(?P<time>[^]]+)\] "
    r'"(?P<request>[^"]*)" (?P<status>\d+) (?P<bytes>\d+) '
    r"request_id=(?P<request_id>\S+) route=(?P<route>\S+) "
    r"duration_s=(?P<duration_s>\S+) ttft_s=(?P<ttft_s>\S+) "
    r"model_asked=(?P<model_asked>\S+) model_used=(?P<model_used>\S+) "
    r"prompt_tokens=\S+ completion_tokens=\S+ attempts=(?P<attempts>\S+) note=(?P<note>\S+)"
)


class Log:
    """A rig's access log, and what it has written."""

    def __init__(self, rig: Rig, writer: AccessLog, path: Path) -> None:
        self.rig = rig
        self.writer = writer
        self.path = path

    def text(self) -> str:
        wait_until(lambda: self.rig.counts()["exchanges"] == 0, "every exchange has ended")
        assert self.writer.flush(30)
        return self.path.read_text()

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.text().splitlines()]


@contextmanager
def logging(ca_dir: Path, tmp_path: Path, text: str = CONFIG, format: Any = "json") -> Iterator[Log]:
    """A rig that writes an access log."""
    path = tmp_path / "access.log"
    writer = AccessLog(path, format)
    try:
        with running(ca_dir, text, access_log=writer) as rig:
            yield Log(rig, writer, path)
    finally:
        writer.close()


def ask(rig: Rig, *, stream: bool = False, headers: dict[str, str] | None = None) -> httpx.Response:
    body = {"model": "gpt-4o", "messages": MESSAGES, "stream": stream}
    return httpx.post(rig.url + CHAT, json=body, headers=headers, timeout=60)


# --- What a line says -------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_line_of_an_answered_request(ca_dir: Path, tmp_path: Path, stream: bool) -> None:
    with logging(ca_dir, tmp_path) as log:
        answer = ask(log.rig, stream=stream, headers={"x-sim-first-ms": "50"})
        (line,) = log.lines()
        assert line["method"] == "POST"
        assert (line["path"], line["route"]) == (CHAT, "llm")
        assert (line["client"], line["consumer"]) == ("127.0.0.1", None)
        assert line["status"] == 200
        assert line["bytes"] >= len(answer.content)
        assert line["request_id"] == answer.headers["x-fastgw-request-id"]
        assert (line["model_asked"], line["model_used"]) == ("gpt-4o", answer_model(answer, stream))
        assert 0.045 <= line["ttft_s"] <= line["duration_s"] < 60
        (attempt,) = line["attempts"]
        assert (attempt["node"], attempt["outcome"], attempt["status"]) == (OPENAI, "succeeded", 200)
        assert 0.045 <= attempt["seconds"] <= line["duration_s"]  # the simulator's timer may be early
        assert line["note"] is None
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def answer_model(answer: httpx.Response, stream: bool) -> str:
    if not stream:
        return str(answer.json()["model"])
    return str(json.loads(answer.text.partition("data: ")[2].partition("\n")[0])["model"])


def test_line_names_every_attempt(ca_dir: Path, tmp_path: Path) -> None:
    with logging(ca_dir, tmp_path) as log:
        for kind, parameters, outcome, status in (
            (FaultKind.STATUS, {"status": 500}, "server_error", 500),
            (FaultKind.RESET_BEFORE_HEAD, {}, "upstream_reset", None),
        ):
            log.rig.fault(log.rig.openai, kind, **parameters)
            assert ask(log.rig).headers["x-fastgw-attempts"] == "2"
            line = log.lines()[-1]
            assert [(a["node"], a["outcome"], a["status"]) for a in line["attempts"]] == [
                (OPENAI, outcome, status),
                (DEEPSEEK, "succeeded", 200),
            ]
            assert line["status"] == 200
            assert line["model_asked"] == "gpt-4o"
            assert line["model_used"].startswith("deepseek")
            assert sum(a["seconds"] for a in line["attempts"]) <= line["duration_s"] + 0.01


def test_line_of_a_request_that_nobody_could_answer(ca_dir: Path, tmp_path: Path) -> None:
    with logging(ca_dir, tmp_path) as log:
        for provider in (log.rig.openai, log.rig.deepseek):
            log.rig.fault(provider, FaultKind.STATUS, status=500)
        answer = ask(log.rig)
        (line,) = log.lines()
        assert line["status"] == answer.status_code == 500
        assert len(line["attempts"]) == 2
        assert line["ttft_s"] is None
        assert line["bytes"] >= len(answer.content)


def test_line_of_a_stream_that_broke(ca_dir: Path, tmp_path: Path) -> None:
    with logging(ca_dir, tmp_path) as log:
        log.rig.fault(log.rig.openai, FaultKind.RESET_INSIDE, after=2)

        async def main() -> None:
            async with connected(log.rig.port) as connection:
                headers = {"x-sim-tokens": "20", "x-sim-delay-ms": "5"}
                answer = await connection.ask("POST", CHAT, headers=headers, body=chat("hello", stream=True))
                assert not answer.is_whole

        asyncio.run(main())
        (line,) = log.lines()
        assert (line["status"], line["note"]) == (200, "stream_interrupted")
        assert [attempt["outcome"] for attempt in line["attempts"]] == ["stream_interrupted"]


def test_refused_requests_have_lines_too(ca_dir: Path, tmp_path: Path) -> None:
    with logging(ca_dir, tmp_path) as log:

        async def main() -> list[Answer]:
            answers = []
            for raw in (
                encode("GET", "/nowhere?secret=1"),
                encode("GET", "/healthz"),
                b"GARBAGE\r\n\r\n",
                b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                encode("POST", CHAT, {"content-length": str(2**40)}),
            ):
                async with connected(log.rig.port) as connection:
                    connection.writer.write(raw)
                    answers.append(await connection.answer())
            return answers

        answers = asyncio.run(main())
        lines = log.lines()
        assert (
            [line["status"] for line in lines]
            == [answer.status for answer in answers]
            == [404, 200, 400, 400, 413]
        )
        assert [line["path"] for line in lines[:2]] == ["/nowhere", "/healthz"]
        assert [line["note"] for line in lines] == [
            "route_not_found",
            None,
            "bad_request",
            "bad_request",
            "request_too_large",
        ]
        assert all(line["attempts"] == [] and line["bytes"] > 0 for line in lines)
        assert [line["request_id"] for line in lines] == [
            answer.headers["x-fastgw-request-id"] for answer in answers
        ]


@pytest.mark.parametrize(
    ("bad", "status", "note"), [(b"zz\r\n", 400, "bad_request"), (b"", 408, "request_timeout")]
)
@pytest.mark.parametrize("is_held", [True, False])
def test_a_body_that_goes_wrong_has_one_line(
    ca_dir: Path, tmp_path: Path, bad: bytes, status: int, note: str, is_held: bool
) -> None:
    """It is no client that has gone, and no second request."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.rest()

    process = f"hold_body_bytes: {100_000 if is_held else 1024}"
    if not bad:  # that the body is on its way must be seen before it has stalled for too long
        process += ", body_stall: 3"
    with node(script) as upstream:
        with logging(ca_dir, tmp_path, config_for(upstream.port, process=process)) as log:
            with Client(log.rig.port) as client:
                head = get("/up", "Transfer-Encoding: chunked", "X-Request-Id: mine", method="POST")
                client.send(head + chunked(b"x" * 5000, end=b""))
                wait_until(lambda: log.rig.counts()["exchanges"] == 1, "the body is on its way")
                client.send(bad)
                answer = client.answer()
            (line,) = log.lines()
            assert answer.status == line["status"] == status
            assert answer["x-fastgw-request-id"] == line["request_id"] == "mine"
            assert (line["route"], line["note"]) == ("plain", note if is_held else "body_not_held")
            assert [attempt["outcome"] for attempt in line["attempts"]] == ([] if is_held else ["ignored"])
            counts = log.rig.counts()
            assert (counts["clients_gone"], counts["answered_without_exchange"]) == (0, 0)


def test_a_body_that_goes_wrong_behind_an_early_answer_is_noted(ca_dir: Path, tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun")
        peer.rest()

    with node(script) as upstream:
        config = config_for(upstream.port, process="hold_body_bytes: 1024")
        with logging(ca_dir, tmp_path, config) as log, Client(log.rig.port) as client:
            head = get("/up", "Transfer-Encoding: chunked", method="POST")
            client.send(head + chunked(b"x" * 5000, end=b""))
            client.read_until(b"begun")
            client.send(b"zz\r\n")
            assert client.rest() == b""
            (line,) = log.lines()
            assert (line["status"], line["note"]) == (200, "bad_request")
            assert log.rig.counts()["clients_gone"] == 0


@pytest.mark.parametrize("phase", ["connecting", "waiting", "holding", "relaying"])
def test_client_that_has_gone_has_a_line(ca_dir: Path, tmp_path: Path, phase: str) -> None:
    faults = {"connecting": FaultKind.HANDSHAKE_HANG, "waiting": FaultKind.HANG_BEFORE_HEAD}
    with logging(ca_dir, tmp_path, CONFIG[: CONFIG.index("      checks:")]) as log:
        log.rig.fault(log.rig.openai, faults.get(phase))
        pace = {
            "x-sim-first-ms": "15000" if phase == "holding" else "0",
            "x-sim-tokens": "5000",
            "x-sim-delay-ms": "20",
        }

        def is_there() -> bool:
            return log.rig.call(
                lambda: any(f" {phase} " in repr(live) for live in log.rig.gateway.exchanges.live)
            )

        async def main() -> None:
            connection = await Connection.open(log.rig.port)
            connection.writer.write(encode("POST", CHAT, pace, chat("hello", stream=True)))
            await asyncio.to_thread(wait_until, is_there, f"it is {phase}")
            connection.abort()

        asyncio.run(main())
        wait_until(lambda: log.writer.recorded == 1, "the line is there")
        (line,) = log.lines()
        assert line["note"] == f"client_gone_{phase}"
        assert line["status"] == (200 if phase == "relaying" else 499)
        assert (line["ttft_s"] is not None) is (phase == "relaying")
        assert [(a["node"], a["outcome"]) for a in line["attempts"]] == [(OPENAI, "ignored")]


def test_every_exchange_has_exactly_one_line(ca_dir: Path, tmp_path: Path) -> None:
    with logging(ca_dir, tmp_path) as log:
        log.rig.fault(log.rig.openai, FaultKind.STATUS, status=500, probability=0.3)

        async def client(name: str) -> None:
            async with connected(log.rig.port) as connection:
                for number in range(20):
                    headers = {"x-request-id": f"{name}-{number}"}
                    if number % 5 == 4:
                        await connection.ask("GET", "/nowhere", headers=headers)
                    else:
                        body = chat("hello", stream=number % 2 == 0)
                        answer = await connection.ask("POST", CHAT, headers=headers, body=body)
                        assert answer.status == 200

        async def main() -> None:
            await asyncio.gather(*(client(f"c{index}") for index in range(10)))

        asyncio.run(main())
        lines = log.lines()
        assert sorted(line["request_id"] for line in lines) == sorted(
            f"c{i}-{n}" for i in range(10) for n in range(20)
        )
        assert log.writer.dropped == 0


def test_text_lines(ca_dir: Path, tmp_path: Path) -> None:
    with logging(ca_dir, tmp_path, format="text") as log:
        log.rig.fault(log.rig.openai, FaultKind.STATUS, status=500)
        assert ask(log.rig, stream=True).status_code == 200
        httpx.get(log.rig.url + "/nowhere?a=b", timeout=60)
        lines = log.text().splitlines()
        found = [TEXT_LINE.fullmatch(line) for line in lines]
        assert len(found) == 2 and all(found), lines
        first, second = (match.groupdict() for match in found if match is not None)
        assert first["request"] == f"POST {CHAT}"
        assert (first["status"], first["route"], first["model_asked"]) == ("200", "llm", "gpt-4o")
        assert re.fullmatch(
            rf'"?{re.escape(OPENAI)}"?:server_error:500:[\d.]+,"?{re.escape(DEEPSEEK)}"?:succeeded:200:[\d.]+',
            first["attempts"],
        )
        assert (second["request"], second["status"], second["attempts"]) == ("GET /nowhere", "404", "-")
        assert second["note"] == "route_not_found"


# --- What no line says ------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_key_and_no_word_of_the_conversation_is_logged(ca_dir: Path, tmp_path: Path, format: str) -> None:
    key = "sk-canary-of-the-client-0123456789"
    word = "canaryword"
    with logging(ca_dir, tmp_path, format=format) as log:
        rig = log.rig
        headers = {
            "authorization": f"Bearer {key}",
            "apikey": key,
            "cookie": f"session={key}",
            "user-agent": word,
        }
        body = {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": f"please echo {word}"}],
            "user": word,
        }
        for path in (CHAT, f"{CHAT}?apikey={key}", f"/v1/{key}/models", f"/{key}", f"/nowhere?key={key}"):
            for stream in (False, True):
                httpx.post(rig.url + path, json={**body, "stream": stream}, headers=headers, timeout=60)
        for kind, parameters in (
            (
                FaultKind.STATUS,
                {"status": 500, "body": json.dumps({"error": {"message": word, "code": word}})},
            ),
            (
                FaultKind.STATUS,
                {"status": 400, "body": json.dumps({"error": {"message": word, "code": word}})},
            ),
            (
                FaultKind.ERROR_EVENT,
                {"body": json.dumps({"error": {"message": word, "code": word, "type": word}})},
            ),
        ):
            rig.fault(rig.openai, kind, **parameters)
            for stream in (False, True):
                httpx.post(rig.url + CHAT, json={**body, "stream": stream}, headers=headers, timeout=60)
        text = log.text()
        assert len(text.splitlines()) == 16
        assert key not in text
        assert word not in text
        for own in KEYS.values():
            assert own not in text


def test_client_cannot_forge_a_line(ca_dir: Path, tmp_path: Path) -> None:
    with logging(ca_dir, tmp_path, format="text") as log:
        model = 'x" note="forged\n127.0.0.1 - root [now] "GET / HTTP/1.1" 200 0'
        httpx.post(log.rig.url + CHAT, json={"model": model, "messages": MESSAGES}, timeout=60)
        httpx.get(
            log.rig.url + "/nowhere%0a127.0.0.1%20-%20root", headers={"x-request-id": "a b\tc"}, timeout=60
        )
        lines = log.text().splitlines()
        assert len(lines) == 2
        assert all(line.startswith("127.0.0.1 - - [") for line in lines)
        assert all(re.search(r" request_id=[0-9a-f-]+ ", line) for line in lines)


# --- A log that cannot be written -------------------------------------------------------------


async def many(port: int, requests: int) -> int:
    """How many of so many requests were answered."""

    async def client(number: int) -> int:
        answered = 0
        async with connected(port) as connection:
            for _ in range(number):
                answer = await connection.ask("POST", CHAT, body=chat("hello"))
                answered += answer.status == 200
        return answered

    return sum(await asyncio.gather(*(client(requests // 10) for _ in range(10))))


def test_blocked_pipe_delays_no_request(ca_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = AccessLog(path, "json", max_buffer_bytes=64 * 1024)
    try:
        with running(ca_dir, access_log=writer) as rig:
            assert asyncio.run(many(rig.port, 800)) == 800
            assert rig.counts()["log_dropped"] > 0
            assert writer.buffered_bytes <= 64 * 1024
            # Somebody reads again: lines come again, and every one is whole.
            seen = b""
            end = b'"x-the-last"'

            def drain() -> bool:
                nonlocal seen
                try:
                    while piece := os.read(reader, 65536):
                        seen += piece
                except BlockingIOError:
                    pass
                return writer.buffered_bytes == 0

            wait_until(drain, "what was buffered is written")
            httpx.get(rig.url + "/nowhere", headers={"x-request-id": "x-the-last"}, timeout=60)
            wait_until(lambda: drain() and end in seen, "the next line is written")
            lines = seen.splitlines()
            assert all(json.loads(line) for line in lines)
            assert len(lines) == writer.written == writer.recorded - writer.dropped
    finally:
        os.close(reader)
        writer.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="not applicable: no /dev/full here")
def test_full_disk_fails_no_request(ca_dir: Path) -> None:
    writer = AccessLog("/dev/full", "json")
    try:
        with running(ca_dir, access_log=writer) as rig:
            assert asyncio.run(many(rig.port, 200)) == 200
            wait_until(lambda: rig.counts()["log_dropped"] == 200, "every line is counted as lost")
    finally:
        writer.close()


def test_reader_of_a_pipe_that_leaves_fails_no_request(ca_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = AccessLog(path, "json")
    try:
        with running(ca_dir, access_log=writer) as rig:
            assert asyncio.run(many(rig.port, 10)) == 10
            os.close(reader)
            assert asyncio.run(many(rig.port, 50)) == 50
            wait_until(lambda: writer.dropped >= 40, "lines are lost and counted")
    finally:
        writer.close()
