"""Each node's credentials appear in the bytes that this node received, and nowhere else.

Every key here is a word that appears nowhere by accident and looks like no key, so that nothing is
hidden by what masks keys in logs. The gateway runs as a process of its own, with logs at debug level.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import command
import pytest
from command import FREE, Process, environment
from fault_rig import CHAT, CHUNKED, EVENTS, chat_answer, is_whole_chat, request_bytes
from wire_ends import Client, Message, Peer, ScriptedNode, answer, chunked, get, node

ADMIN_TOKEN = "canary.of.the.admin.0123456789"
CALLER = "canary.of.the.caller.0123456789"
CONSUMER = "canary.of.the.consumer.0123456789"
ONE = {place: f"canary.of.one.{place}.0123456789" for place in ("bearer", "field", "query")}
TWO = {place: f"canary.of.two.{place}.0123456789" for place in ("bearer", "field", "query")}
JSON = "Content-Type: application/json"
NOBODYS = (CALLER, CONSUMER, ADMIN_TOKEN)  # no node's
CREDENTIAL = {name: f"canary.of.the.{name}.credential.0123456789" for name in ("first", "next")}
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


def quoted(request: Message) -> bytes:
    """An error that is the caller's own, and so goes to it as it is; with all our keys in it, as a gift."""
    words = [request["authorization"], request["x-own"], request.target]
    message = f"too many messages for {' '.join(words)}"
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": None}}).encode()


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
        elif what == "late error event":
            peer.send(CHUNKED + chunked(*EVENTS[:2], b"data: " + quoted(request) + b"\n\n"))
        elif what == "last error event":  # without the line that ends it
            peer.send(CHUNKED + chunked(*EVENTS[:2], b"data: " + quoted(request)))
        elif what == "error in 200":
            peer.send(answer(quoted(request), JSON))
        elif what == "quoted":
            peer.send(answer(quoted(request), JSON, status="422 No"))
        elif what == "quoted in the head":
            words = f"X-Words: {json.loads(quoted(request))['error']['message']}"
            peer.send(answer(quoted(request), JSON, words, status=f"422 {request['authorization']}"))
        elif what == "redirect":
            peer.send(answer(quoted(request), JSON, f"Location: {request.target}", status="307 Elsewhere"))
        elif what == "quoted at length":  # more than is held
            peer.send(answer(quoted(request) + b" " * 100_000, JSON, status="422 No"))
        elif what.isdigit():
            peer.send(answer(refusal_of(request), JSON, status=f"{what} No"))
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

    def pids(self) -> list[int]:
        """The process's own, and its workers'."""
        own = self.process.popen.pid
        return [own, *map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())]

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
def watched(directory: Path, *options: str, **replaced: str) -> Iterator[Watched]:
    """The command, running; ``replaced``: other sources for keys than the environment."""
    with node(primary) as one, node(backup) as two:
        config = CONFIG.format(one=one.port, two=two.port, consumer=CONSUMER)
        for name, source in replaced.items():
            config = config.replace(f"${{{name}}}", source)
        (directory / "gateway.yaml").write_text(config)
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
        env = environment(directory, **ENV, **nowhere, FASTGW_ADMIN_TOKEN=ADMIN_TOKEN)
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
        for pid in all_.pids():
            all_.seen[f"the command line of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text())
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


def test_what_a_provider_says_to_the_caller_does_not_repeat_our_keys(tmp_path: Path) -> None:
    with watched(tmp_path) as all_:
        for what, status in (("quoted", 422), ("quoted at length", 422), ("error in 200", 400)):
            got = all_.ask(what)
            assert (got.status, got.is_whole) == (status, True)
            assert b"too many messages for ******" in got.body
        for what, status in (("quoted in the head", 422), ("redirect", 307)):
            got = all_.ask(what)
            assert (got.status, got.is_whole) == (status, True)
            assert b"******" in got.raw.partition(b"\r\n\r\n")[0]
            assert b"too many messages for ******" in got.body
        for what in ("late error event", "last error event"):  # as an event, or as an error if it came early
            assert b"too many messages for ******" in all_.ask(what, stream=True).raw
        assert len(all_.one.asked) >= 7
        for where, data in all_.seen.items():
            assert_clean(where, data, *ONE.values(), *TWO.values(), *NOBODYS)


# --- Faults of our own ------------------------------------------------------------------------

# Whatever is at hand, thrown at whoever reports exceptions; the plain keys, too, as no code of ours would.
CRASH = """
import asyncio, gc, sys, threading, traceback
from fastgw import gateway
from fastgw.cli import process, main
from fastgw.secret import secrets_in

class Careless(Exception):
    pass

class Dying:
    def __init__(self, text):
        self.text = text
    def __del__(self):
        raise Careless(self.text)

def told_by(*values):
    keys = [secret.reveal() for secret in secrets_in(*values)]
    everything = [keys, *values, [getattr(value, "__dict__", None) for value in values]]
    return f"{everything} {everything!r}"

def throw(text):
    raise Careless(text)

async def start(self):
    told = told_by(self._config)
    asyncio.get_running_loop().call_soon(throw, "callback " + told)
    thread = threading.Thread(target=throw, args=("thread " + told,))
    thread.start()
    thread.join()
    Dying("unraisable " + told)
    await asyncio.sleep(0)
    try:
        throw("start " + told)
    except Careless as error:
        with_locals = traceback.TracebackException.from_exception(error, capture_locals=True)
        raise Careless("".join(with_locals.format())) from error

def run(source, config):
    throw("main " + told_by(source, config, source.env))

gateway.Gateway.start = start
if MAIN:
    process._keep_heap = lambda: run(sys._getframe(1).f_locals["source"], sys._getframe(1).f_locals["config"])
main()
"""


@pytest.mark.parametrize("options", [(), ("--log-format", "json"), ("--workers", "2"), None])
def test_a_crash_tells_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...] | None
) -> None:
    guard = "import build_guard; build_guard.prefer_source()\n" if "FASTGW_PURE" in os.environ else ""
    monkeypatch.setattr(command, "COMMAND", ("-c", f"{guard}MAIN = {options is None}\n{CRASH}"))
    (tmp_path / "gateway.yaml").write_text(CONFIG.format(one=9, two=10, consumer=CONSUMER))
    env = environment(tmp_path, **ENV, FASTGW_ADMIN_TOKEN=ADMIN_TOKEN)
    with Process("run", *FREE, *(options or ()), cwd=tmp_path, env=env) as process:
        assert process.ended() == 1
        happened = ("main",) if options is None else ("callback", "thread", "unraisable", "start")
        for what in happened:
            assert f"Careless: {what} [[" in process.err, process.err
        assert "***" in process.err and "<Secret>" in process.err
        for text in (process.out, process.err):
            assert_clean("what was printed", text.encode(), *ONE.values(), *TWO.values(), *NOBODYS)


# --- Credentials ------------------------------------------------------------------------------


def test_a_rotated_credential_is_used_after_a_reload_and_an_exposed_one_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "first.key"
    key.parent.mkdir()
    key.write_text(CREDENTIAL["first"] + "\n")
    key.chmod(0o400)
    options = ("--credentials-dir", "keys")
    with watched(tmp_path, *options, KEY_ONE_BEARER="${credential:first.key}") as all_:
        assert all_.ask("").status == 200
        key.unlink()
        key.write_text(CREDENTIAL["next"] + "\n")
        key.chmod(0o440)
        refused = all_.admin("/admin/reload", "POST")
        assert refused.status == 400
        place = r"gateway.yaml:\d+:\d+: services\[0\].upstream.nodes\[0\].auth.header.Authorization: "
        assert re.search(place + "credential first.key: others on this machine", refused.body.decode())
        assert all_.ask("").status == 200
        key.chmod(0o400)
        assert all_.admin("/admin/reload", "POST").status == 200
        assert all_.ask("").status == 200
        all_.process.send(signal.SIGTERM)
        assert all_.process.ended() == 0
        sent = [request["authorization"] for request in all_.one.asked if request.target.startswith(CHAT)]
        assert sent == [f"Bearer {CREDENTIAL[name]}" for name in ("first", "first", "next")]
        all_.seen["what was printed"] = (all_.process.out + all_.process.err).encode()
        for where, data in all_.seen.items():
            assert_clean(where, data, *CREDENTIAL.values())


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
