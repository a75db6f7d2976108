"""Other clients that people use: curl and httpx."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from rig import MESSAGES, OPENAI, FaultKind, Rig, running
from wire_ends import config_for, echoing, node, serving

CHAT = {"model": "gpt-4o", "messages": MESSAGES}
CURL = ("curl", "--disable", "--silent", "--show-error", "--max-time", "30", "--noproxy", "*")


def curl(*arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run curl with nothing of the user's settings; ``data`` is what @- reads."""
    command = [
        "curl",
        "--disable",
        "--silent",
        "--show-error",
        "--max-time",
        "30",
        "--noproxy",
        "*",
        *arguments,
    ]
    done = subprocess.run(command, input=data or b"", capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done


# --- curl -------------------------------------------------------------------------------------

needs_curl = pytest.mark.needs("curl")
JSON = ("--header", "content-type: application/json", "--data-binary", "@-")


@needs_curl
@pytest.mark.parametrize("broken", [False, True], ids=["healthy", "broken"])
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_gets_its_answer(rig: Rig, broken: bool, version: str) -> None:
    rig.fault(rig.openai, FaultKind.STATUS if broken else None)
    done = curl(version, *JSON, f"{rig.base_url}/chat/completions", data=json.dumps(CHAT).encode())
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "You said: say hello"


@needs_curl
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_gets_a_stream(rig: Rig, version: str) -> None:
    body = json.dumps({**CHAT, "stream": True}).encode()
    done = curl("--no-buffer", version, *JSON, f"{rig.base_url}/chat/completions", data=body)
    assert done.stdout.endswith(b"data: [DONE]\n\n")


@needs_curl
def test_curl_says_that_a_stream_broke_off(rig: Rig) -> None:
    rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=2, how="fin")
    body = json.dumps({**CHAT, "stream": True}).encode()
    command = [*CURL, "--no-buffer", *JSON, f"{rig.base_url}/chat/completions"]
    done = subprocess.run(command, input=body, capture_output=True, timeout=60)
    assert done.returncode == 18, done.stderr  # "partial file"
    assert b'"code":"stream_interrupted"' in done.stdout
    assert b"[DONE]" not in done.stdout


@needs_curl
def test_curl_asks_twice_on_one_connection(rig: Rig) -> None:
    url = f"{rig.base_url}/models"
    done = curl(
        "--write-out", "%{num_connects}\n", "--output", "/dev/null", url, "--output", "/dev/null", url
    )
    assert done.stdout == b"1\n0\n"


@needs_curl
def test_curl_asks_for_the_head(rig: Rig) -> None:
    head = curl("--head", f"{rig.base_url}/models").stdout.decode().lower()
    body = curl(f"{rig.base_url}/models").stdout
    assert head.startswith("http/1.1 200 ok\r\n")
    assert f"content-length: {len(body)}\r\n" in head


@needs_curl
@pytest.mark.parametrize("how", ["length", "chunked", "expect"])
def test_curl_uploads_megabytes(ca_dir: Path, how: str) -> None:
    """Above a megabyte curl asks with Expect: 100-continue by itself."""
    body = bytes(range(256)) * 8192
    header = {
        "length": "Expect:",
        "chunked": "Transfer-Encoding: chunked",
        "expect": "Expect: 100-continue",
    }[how]
    with node(serving(echoing)) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        done = curl("--header", header, "--data-binary", "@-", f"{rig.url}/up", data=body)
        assert done.stdout == b"POST /up " + body
        assert "expect" not in upstream.asked[0]


@needs_curl
def test_curl_sees_the_error_of_an_unknown_path(rig: Rig) -> None:
    done = curl("--write-out", "\n%{http_code}", f"{rig.url}/nowhere")
    body, status = done.stdout.rsplit(b"\n", 1)
    assert status == b"404"
    assert json.loads(body)["error"]["code"] == "route_not_found"


# --- httpx ------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True], ids=["healthy", "broken"])
def test_httpx_gets_its_answers_on_one_connection(rig: Rig, broken: bool) -> None:
    rig.fault(rig.openai, FaultKind.STATUS if broken else None)
    with httpx.Client(timeout=30) as client:
        for _ in range(10):
            got = client.post(f"{rig.base_url}/chat/completions", json=CHAT)
            assert got.status_code == 200
            assert got.json()["choices"][0]["message"]["content"] == "You said: say hello"
            assert (got.headers["x-fastgw-upstream"] == OPENAI) is not broken
        assert rig.counts()["client_connections"] == 1


def test_httpx_reads_a_stream_line_by_line(rig: Rig) -> None:
    with httpx.Client(timeout=30) as client:
        for _ in range(3):
            body = {**CHAT, "stream": True}
            with client.stream("POST", f"{rig.base_url}/chat/completions", json=body) as got:
                lines = [line for line in got.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            assert all(line.startswith("data: ") for line in lines)
        assert rig.counts()["client_connections"] == 1


def test_httpx_cannot_take_a_broken_stream_for_whole(rig: Rig) -> None:
    rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=2, how="fin")
    body = {**CHAT, "stream": True}
    with httpx.Client(timeout=30) as client, pytest.raises(httpx.RemoteProtocolError):
        client.post(f"{rig.base_url}/chat/completions", json=body)


def test_many_httpx_clients_at_once_get_their_own_answers(ca_dir: Path, loop_kind: str) -> None:
    with running(ca_dir, loop_kind=loop_kind) as rig:

        async def one(client: httpx.AsyncClient, number: int) -> None:
            text = f"mark-{number:04d}"
            body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}
            got = await client.post(f"{rig.base_url}/chat/completions", json=body)
            assert got.status_code == 200, got.text
            assert got.json()["choices"][0]["message"]["content"] == f"You said: {text}"

        async def many() -> None:
            limits = httpx.Limits(max_connections=32)
            async with httpx.AsyncClient(timeout=100, limits=limits) as client:
                await asyncio.gather(*(one(client, number) for number in range(150)))

        asyncio.run(many())
        assert rig.counts()["exchanges"] == 0


def test_httpx_uploads_in_chunks(ca_dir: Path) -> None:
    pieces = [b"x" * size for size in (1, 1000, 100_000)]
    with node(serving(echoing)) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with httpx.Client(timeout=30) as client:
            got = client.put(f"{rig.url}/up", content=iter(pieces))
            assert got.content == b"PUT /up " + b"".join(pieces)
