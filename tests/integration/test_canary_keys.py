"""Each node's credentials appear in the bytes that this node received, and nowhere else.

Every key here is a word that appears nowhere by accident and looks like no key, so that nothing is
hidden by what masks keys in logs. The gateway runs as a process of its own, with logs at debug level.
"""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from command import FREE, Process, environment
from fault_rig import CHAT, CHUNKED, EVENTS, chat_answer, is_whole_chat, request_bytes
from wire_ends import Client, Message, Peer, ScriptedNode, answer, chunked, get, node

ADMIN_TOKEN = "canary.of.the.admin.0123456789"
CALLER = "canary.of.the.caller.0123456789"
CONSUMER = "canary.of.the.consumer.0123456789"
ONE = {place: f"canary.of.one.{place}.0123456789" for place in ("bearer", "field", "query")}
TWO = {place: f"canary.of.two.{place}.0123456789" for place in ("bearer", "field", "query")}
NOBODYS = (CALLER, CONSUMER, ADMIN_TOKEN)  # no node's
ENV = {
    f"KEY_{number}_{place.upper()}": key
    for number, keys in (("ONE", ONE), ("TWO", TWO))
    for place, key in keys.items()
}

CONFIG = """\
consumers:
  - username: jack
    plugins: {{key-auth: {{key: {consumer}}}}}
services:
  - name: s
    routes:
      - name: r
        uris: [/v1/*]
        plugins: {{key-auth: {{header: x-consumer-key, hide_credentials: true}}}}
        deadlines: {{first_content: 2, first_content_stream: 2}}
    upstream:
      scheme: http
      nodes:
        - host: 127.0.0.1
          port: {one}
          weight: 1
          provider: openai
          auth:
            header: {{Authorization: "Bearer ${{KEY_ONE_BEARER}}", X-Own: "${{KEY_ONE_FIELD}}"}}
            query: {{own: "${{KEY_ONE_QUERY}}"}}
        - host: 127.0.0.1
          port: {two}
          weight: 1
          priority: -1
          provider: deepseek
          auth:
            header: {{Authorization: "Bearer ${{KEY_TWO_BEARER}}", X-Own: "${{KEY_TWO_FIELD}}"}}
            query: {{own: "${{KEY_TWO_QUERY}}"}}
      checks:
        active: {{type: http, http_path: /health}}
"""


def forms_of(key: str) -> set[bytes]:
    """A key as it could stand somewhere: as it is, in a URL, or in base64 behind any number of bytes."""
    encoded = [base64.b64encode(bytes(shift) + key.encode())[4:-4] for shift in range(3)]
    return {key.encode(), quote(key, safe="").encode(), *encoded}


def assert_clean(where: str, data: bytes, *keys: str) -> None:
    """None of the keys is in what was said there."""
    for key in keys:
        for form in forms_of(key):
            assert form not in data, f"{where} has {key}: {data[max(0, data.find(form) - 200) :][:400]!r}"


def refusal_of(request: Message) -> bytes:
    """Some providers repeat the key that they refuse."""
    message = f"Incorrect API key provided: {request['authorization'].removeprefix('Bearer ')}"
    error = {"message": message, "type": "invalid_request_error", "code": "invalid_api_key"}
    return json.dumps({"error": error}).encode()


def asked_for(request: Message) -> str:
    """What the caller said; "" of a probe."""
    return str(json.loads(request.body)["messages"][-1]["content"]) if request.body else ""


def primary(peer: Peer) -> None:
    """The first node does what its caller says."""
    while True:
        request = peer.request()
        what = asked_for(request)
        if what in ("reset", "all"):
            peer.reset()
        elif what == "no HTTP":
            peer.send(b"HTTP/1.1 2x0 " + request.raw)
            peer.finish()
        elif what == "cut":
            peer.send(CHUNKED + chunked(*EVENTS[:2], end=b""))
            peer.finish()
        elif what == "error event":
            peer.send(CHUNKED + chunked(b"data: " + refusal_of(request) + b"\n\n"))
        elif what.isdigit():
            peer.send(answer(refusal_of(request), "Content-Type: application/json", status=f"{what} No"))
        else:
            peer.send(chat_answer(request))


def backup(peer: Peer) -> None:
    while True:
        request = peer.request()
        if asked_for(request) == "all":
            peer.reset()
        peer.send(chat_answer(request))


@dataclass
class Watched:
    """The running command, its nodes, and all that anybody but the nodes could read."""

    process: Process
    one: ScriptedNode
    two: ScriptedNode
    seen: dict[str, bytes] = field(default_factory=dict)

    def port_of(self, listener: str) -> int:
        """Of ``listen`` or ``admin``, as the log tells it in text or in JSON."""
        text = {"listen": "listening on http", "admin": "  admin    http"}[listener]
        port = r"://127\.0\.0\.1:(\d+)"
        match = self.process.saw(rf'{text}{port}|"{listener}": \[?"http{port}')
        return int(match[1] or match[2])

    def ask(self, what: str, *, stream: bool = False) -> Message:
        """Ask the gateway; whatever comes back is kept."""
        said = (f"Authorization: Bearer {CALLER}", f"X-Own: {CALLER}", f"X-Consumer-Key: {CONSUMER}")
        with Client(self.port_of("listen")) as client:
            messages = [{"role": "user", "content": what}]
            got = client.ask(request_bytes(stream, *said, messages=messages))
        self.seen[f"the answer to {what or 'a request'}"] = got.raw
        return got

    def admin(self, path: str, method: str = "GET") -> Message:
        """Ask the admin listener; the answer is kept, too."""
        token = f"Authorization: Bearer {ADMIN_TOKEN}"
        with Client(self.port_of("admin")) as client:
            got = client.ask(get(path, token, method=method).replace(b"gateway.test", b"localhost"))
        self.seen[f"{method} {path}"] = got.raw
        return got


@contextmanager
def watched(directory: Path, *options: str) -> Iterator[Watched]:
    with node(primary) as one, node(backup) as two:
        config = CONFIG.format(one=one.port, two=two.port, consumer=CONSUMER)
        (directory / "gateway.yaml").write_text(config)
        env = environment(directory, **ENV, FASTGW_ADMIN_TOKEN=ADMIN_TOKEN)
        run = ("run", "-c", "gateway.yaml", *FREE, "--log-level", "debug", "--access-log", "access.log")
        with Process(*run, *options, cwd=directory, env=env) as process:
            yield Watched(process, one, two)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (("--log-format", "json"), "401"),
        (("--log-format", "text"), "error event"),
        (("--log-format", "json", "--workers", "2"), "400"),
    ],
    ids=["json", "text", "workers"],
)
def test_a_nodes_keys_are_in_its_own_bytes_only(
    tmp_path: Path, options: tuple[str, ...], refusal: str
) -> None:
    with watched(tmp_path, *options) as all_:
        for what in ("", "reset", "no HTTP", "500", ""):
            for stream in (False, True):
                assert is_whole_chat(all_.ask(what, stream=stream), stream), what
        assert not all_.ask("cut", stream=True).is_whole
        assert is_whole_chat(all_.ask(refusal, stream=True), True)
        assert all_.ask("all").status in (502, 503)
        listed = json.loads(all_.admin("/").body)["get"]
        for path in [*listed, "/v1/healthcheck/services/s", "/nowhere"]:
            all_.admin(path)
        assert b"fastgw_requests" in all_.seen["GET /metrics"]
        assert all_.admin("/admin/reload", "POST").status == 200
        # A file that is refused: what is wrong in it is told, but not the keys beside it.
        broken = (tmp_path / "gateway.yaml").read_text().replace("scheme: http", "scheme: htps")
        for name, key in ENV.items():
            broken = broken.replace("${" + name + "}", key)
        (tmp_path / "gateway.yaml").write_text(broken.replace("query:", "questions:"))
        refused = all_.admin("/admin/reload", "POST")
        assert refused.status == 400
        assert b"htps" in refused.body
        all_.process.send(signal.SIGTERM)
        assert all_.process.ended() == 0

        assert all_.one.asked and all_.two.asked
        for asked, own, others in ((all_.one.asked, ONE, TWO), (all_.two.asked, TWO, ONE)):
            for request in asked:
                assert_clean(f"a node's {request.start}", request.raw, *others.values(), *NOBODYS)
                if request.target.startswith(CHAT):
                    assert all(key.encode() in request.raw for key in own.values())
        all_.seen["standard output"] = all_.process.out.encode()
        all_.seen["standard error"] = all_.process.err.encode()
        all_.seen["the access log"] = (tmp_path / "access.log").read_bytes()
        assert all_.seen["the access log"].count(b"\n") == 13
        for where, data in all_.seen.items():
            assert_clean(where, data, *ONE.values(), *TWO.values(), *NOBODYS)


@pytest.mark.parametrize("form", ["text", "json", "github"])
@pytest.mark.parametrize("mistake", ["none", "beside the keys", "in the keys", "in YAML"])
def test_check_tells_no_key(tmp_path: Path, form: str, mistake: str) -> None:
    config = CONFIG.format(one=9, two=10, consumer=CONSUMER)
    if mistake == "beside the keys":
        config = config.replace("query:", "questions:").replace("provider: openai", "provider: [openai]")
    if mistake == "in the keys":
        for name, key in ENV.items():
            config = config.replace("${" + name + "}", key + "\\r\\n")
    if mistake == "in YAML":
        config = config.replace(f"key: {CONSUMER}", f"key: {CONSUMER}: :]")
    (tmp_path / "gateway.yaml").write_text(config)
    env = environment(tmp_path, **ENV)
    with Process("check", "-c", "gateway.yaml", "--format", form, cwd=tmp_path, env=env) as process:
        assert process.ended() == (0 if mistake == "none" else 1)
        assert "gateway.yaml" in process.out + process.err or form == "json"
        assert_clean("standard output", process.out.encode(), *ONE.values(), *TWO.values(), CONSUMER)
        assert_clean("standard error", process.err.encode(), *ONE.values(), *TWO.values(), CONSUMER)
