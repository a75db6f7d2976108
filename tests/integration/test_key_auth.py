"""key-auth: who has a key gets in, and the key goes no further."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from raw_http import Answer, chat, connected, encode
from rig import CONFIG, KEYS, MESSAGES, FaultKind, Rig, config_of, running, wait_until

from fastgw.access_log import AccessLog

CHAT = "/v1/chat/completions"
JACK = "canary-key-of-jack-0123456789"
JILL = "canary-key-of-jill-0123456789"
CONSUMERS = f"""\
consumers:
  - username: jack
    plugins: {{key-auth: {{key: {JACK}}}}}
  - username: jill
    plugins: {{key-auth: {{key: {JILL}}}}}
  - username: guest
"""


def guarded(conf: str = "{}") -> str:
    """The usual configuration behind key-auth; ``conf`` is the plugin's, in YAML's flow form."""
    return (
        CONFIG.replace("        uris:", f"        plugins: {{key-auth: {conf}}}\n        uris:") + CONSUMERS
    )


def ask(rig: Rig, headers: dict[str, str] | None = None, path: str = CHAT) -> httpx.Response:
    return httpx.post(
        rig.url + path, json={"model": "gpt-4o", "messages": MESSAGES}, headers=headers, timeout=60
    )


def assert_refused(answer: httpx.Response, message: str) -> None:
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'apikey realm="key"'
    error = answer.json()["error"]
    assert error == {
        "message": message,
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert answer.headers["x-fastgw-request-id"]
    assert "x-fastgw-upstream" not in answer.headers


class Node:
    """A plain HTTP server that keeps what it is sent, byte by byte."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.seen.append(head)
                lowered = head.lower()
                if b"content-length: " in lowered:
                    await reader.readexactly(int(lowered.partition(b"content-length: ")[2].split()[0]))
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n"
                )
                writer.write(b'{"choices": [{}]}')
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextmanager
def before_a_plain_node(
    ca_dir: Path, route: str, *, node: str = "", top: str = ""
) -> Iterator[tuple[Rig, Node]]:
    """A gateway before one plain HTTP node. ``route`` are lines of the route, ``node`` fields of the node."""
    plain = Node()
    with running(ca_dir) as helper:  # its loop runs the node

        async def start() -> asyncio.Server:
            return await asyncio.start_server(plain.serve, "127.0.0.1", 0)

        server = helper.await_(start())
        plain.port = server.sockets[0].getsockname()[1]
        text = (
            "fastgw: {account_checks: false}\n"  # they would be seen at the node
            f"{top}services:\n  - name: plain\n    routes:\n      - name: all\n        uris: [/*]\n{route}"
            f"    upstream:\n      scheme: http\n      nodes:\n"
            f"        - {{host: 127.0.0.1, port: {plain.port}, weight: 1{node}}}\n{CONSUMERS}"
        )
        try:
            with running(ca_dir, text) as rig:
                yield rig, plain
        finally:
            helper.call(server.close)


# --- In or out --------------------------------------------------------------------------------


def test_only_a_valid_key_gets_in(ca_dir: Path) -> None:
    with running(ca_dir, guarded()) as rig:
        assert_refused(ask(rig), "Missing API key in request")
        for wrong in ("nobody's", JACK[:-1], JACK + "x", JACK.upper(), "x" * 4000, "Bearer " + JACK):
            assert_refused(ask(rig, {"apikey": wrong}), "Invalid API key in request")
        assert_refused(ask(rig, {"authorization": f"Bearer {JACK}"}), "Missing API key in request")
        assert_refused(ask(rig, {"apikey": ""}), "Missing API key in request")
        for key in (JACK, JILL):
            assert ask(rig, {"apikey": key}).status_code == 200
            assert ask(rig, {"APIKey": key}).status_code == 200
        paths = rig.call(lambda: [record.path for record in rig.openai.requests])
        assert paths.count(CHAT) == 4


def test_other_routes_need_no_key(ca_dir: Path) -> None:
    text = guarded().replace(
        "      - name: llm", "      - {name: open, uris: [/v1/embeddings]}\n      - name: llm"
    )
    with running(ca_dir, text) as rig:
        body = {"model": "text-embedding-3-small", "input": "hello"}
        assert httpx.post(rig.url + "/v1/embeddings", json=body, timeout=60).status_code == 200
        assert ask(rig).status_code == 401


def test_query_argument_serves_as_well(ca_dir: Path) -> None:
    with running(ca_dir, guarded()) as rig:
        assert ask(rig, path=f"{CHAT}?apikey={JACK}").status_code == 200
        assert ask(rig, path=f"{CHAT}?a=b&apikey={JACK.replace('-', '%2D')}&c=d").status_code == 200
        assert_refused(ask(rig, path=f"{CHAT}?apikey=wrong"), "Invalid API key in request")
        assert_refused(ask(rig, path=f"{CHAT}?apikey="), "Missing API key in request")
        # A header is looked at first, and a wrong one is not made good by the query.
        assert_refused(ask(rig, {"apikey": "wrong"}, f"{CHAT}?apikey={JACK}"), "Invalid API key in request")


def test_names_of_header_and_query_argument_may_be_others(ca_dir: Path) -> None:
    with running(ca_dir, guarded("{header: X-Team-Key, query: team}")) as rig:
        assert ask(rig, {"x-team-key": JACK}).status_code == 200
        assert ask(rig, path=f"{CHAT}?team={JACK}").status_code == 200
        assert ask(rig, {"apikey": JACK}).status_code == 401
        assert ask(rig, path=f"{CHAT}?apikey={JACK}").status_code == 401


def test_realm_is_the_files(ca_dir: Path) -> None:
    with running(ca_dir, guarded("{realm: llm keys}")) as rig:
        assert ask(rig).headers["www-authenticate"] == 'apikey realm="llm keys"'


def test_disabled_plugin_asks_for_nothing(ca_dir: Path) -> None:
    with running(ca_dir, guarded("{_meta: {disable: true}}")) as rig:
        assert ask(rig).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_openai_sdk_sends_its_key_as_bearer(ca_dir: Path, stream: bool) -> None:
    with running(ca_dir, guarded("{header: Authorization}")) as rig:
        with openai.OpenAI(base_url=rig.base_url, api_key=JACK, max_retries=0) as client:
            messages: Any = MESSAGES
            if stream:
                with client.chat.completions.create(model="gpt-4o", messages=messages, stream=True) as chunks:
                    assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)
            else:
                assert client.chat.completions.create(model="gpt-4o", messages=messages).choices
        with openai.OpenAI(base_url=rig.base_url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                client.chat.completions.create(model="gpt-4o", messages=messages, stream=stream)
            assert refused.value.code == "invalid_api_key"
        assert ask(rig, {"authorization": JACK}).status_code == 200
        assert ask(rig, {"authorization": f"bearer  {JACK}"}).status_code == 200
        assert ask(rig, {"authorization": f"Basic {JACK}"}).status_code == 401


def test_anonymous_consumer_is_let_in(ca_dir: Path, tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log", "json")
    with running(ca_dir, guarded("{anonymous_consumer: guest}"), access_log=log) as rig:
        assert ask(rig).status_code == 200
        assert ask(rig, {"apikey": "wrong"}).status_code == 200
        assert ask(rig, {"apikey": JACK}).status_code == 200
    assert log.close(60)
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert [line["consumer"] for line in lines] == ["guest", "guest", "jack"]


def test_apisix_profile_answers_as_apisix_does(ca_dir: Path) -> None:
    with running(ca_dir, "profile: apisix\n" + guarded()) as rig:
        answer = ask(rig)
        assert (answer.status_code, answer.json()) == (401, {"message": "Missing API key in request"})
        assert ask(rig, {"apikey": "wrong"}).json() == {"message": "Invalid API key in request"}
        assert answer.headers["www-authenticate"] == 'apikey realm="key"'


def test_refusal_reaches_a_client_that_is_still_sending(ca_dir: Path) -> None:
    with running(ca_dir, guarded()) as rig:
        body = chat("x" * 1_000_000)

        async def main() -> Answer:
            async with connected(rig.port) as connection:
                connection.writer.write(encode("POST", CHAT, None, body))
                return await connection.answer()

        answer = asyncio.run(main())
        assert (answer.status, answer.is_whole) == (401, True)
        assert ask(rig, {"apikey": JACK}).status_code == 200


def test_refused_client_is_not_asked_for_its_body(ca_dir: Path) -> None:
    with running(ca_dir, guarded()) as rig:

        async def main() -> Answer:
            async with connected(rig.port) as connection:
                headers = {
                    "expect": "100-continue",
                    "content-length": "1000",
                    "content-type": "application/json",
                }
                connection.writer.write(encode("POST", CHAT, headers))
                return await connection.answer()

        assert asyncio.run(main()).status == 401


# --- Further than the gateway -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("conf", "headers", "query"),
    [
        ("{}", {"apikey": JACK}, ""),
        ("{hide_credentials: true}", {"apikey": JACK}, ""),
        ("{}", {}, f"?a=b&apikey={JACK}&c=d"),
        ("{hide_credentials: true}", {}, f"?a=b&apikey={JACK}&c=d"),
        ("{header: Authorization}", {"authorization": f"Bearer {JACK}"}, ""),
        ("{header: Authorization, hide_credentials: true}", {"authorization": f"Bearer {JACK}"}, ""),
        ("{header: X-Team-Key}", {"x-team-key": JACK}, ""),
    ],
)
def test_clients_key_never_reaches_a_provider(
    ca_dir: Path, conf: str, headers: dict[str, str], query: str
) -> None:
    """Not the first one, and not the one that takes over."""
    route = f"        plugins: {{key-auth: {conf}}}\n"
    node = ', provider: openai, auth: {header: {Authorization: "Bearer sk-of-the-node"}}'
    with before_a_plain_node(ca_dir, route, node=node) as (rig, plain):
        assert ask(rig, headers, CHAT + query).status_code == 200
        (seen,) = plain.seen
        assert b"canary" not in seen
        assert seen.lower().count(b"\r\nauthorization: bearer sk-of-the-node\r\n") == 1
        if query:
            assert b"a=b&c=d" in seen
    with running(ca_dir, guarded(conf)) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500, paths="api")
        assert ask(rig, headers, CHAT + query).status_code == 200
        for provider in (rig.openai, rig.deepseek):
            records = [record for record in list(provider.requests) if record.path.startswith(CHAT)]
            assert len(records) == 1
            assert "canary" not in repr((records[0].path, records[0].headers, records[0].body))
            assert f"Bearer {KEYS[provider.name.upper() + '_API_KEY']}" in repr(records[0].headers)


@pytest.mark.parametrize("provider", ["", ", provider: openai"])
def test_clients_key_goes_to_no_node_that_was_not_meant_to_get_it(ca_dir: Path, provider: str) -> None:
    route = "        plugins: {key-auth: {header: X-Team-Key}}\n"
    with before_a_plain_node(ca_dir, route, node=provider) as (rig, plain):
        assert ask(rig, {"x-team-key": JACK}, "/v1/x").status_code == 200
        assert ask(rig, None, f"/v1/x?a=1&apikey={JACK}").status_code == 200
        assert not any(b"canary" in seen for seen in plain.seen)


@pytest.mark.parametrize("is_hidden", [True, False])
def test_hide_credentials_takes_the_key_out_of_the_request(ca_dir: Path, is_hidden: bool) -> None:
    """Before a node that is no provider, with ``passthrough`` the key goes on unless it is hidden."""
    conf = f"{{hide_credentials: {str(is_hidden).lower()}}}"
    route = f"        passthrough: true\n        plugins: {{key-auth: {conf}}}\n"
    with before_a_plain_node(ca_dir, route) as (rig, plain):
        assert ask(rig, {"apikey": JACK, "x-other": "stays"}, "/a?x=1").status_code == 200
        assert ask(rig, None, f"/a?x=1&apikey={JACK}&y=%20z").status_code == 200
        by_header, by_query = plain.seen
        assert (JACK.encode() in by_header) is not is_hidden
        assert (JACK.encode() in by_query) is not is_hidden
        assert b"stays" in by_header
        if is_hidden:
            assert by_header.startswith(b"POST /a?x=1 HTTP/1.1\r\n")
            assert by_query.startswith((b"POST /a?x=1&y=%20z HTTP/1.1\r\n", b"POST /a?x=1&y=+z HTTP/1.1\r\n"))


def test_node_learns_the_consumer_from_the_gateway_alone(ca_dir: Path) -> None:
    route = "        plugins: {key-auth: {anonymous_consumer: guest}}\n"
    with before_a_plain_node(ca_dir, route) as (rig, plain):
        for headers, consumer in (
            ({"apikey": JACK}, b"jack"),
            ({"apikey": JILL, "x-consumer-username": "root"}, b"jill"),
            ({"X-Consumer-Username": "root"}, b"guest"),
        ):
            assert ask(rig, headers, "/a").status_code == 200
            seen = plain.seen[-1].lower()
            assert seen.count(b"x-consumer-username:") == 1
            assert b"\r\nx-consumer-username: " + consumer + b"\r\n" in seen
            assert b"root" not in seen


def test_consumer_is_named_in_the_log_and_the_key_is_not(ca_dir: Path, tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log", "json")
    with running(ca_dir, guarded(), access_log=log) as rig:
        ask(rig, {"apikey": JACK})
        ask(rig, path=f"{CHAT}?apikey={JILL}")
        ask(rig, {"apikey": "wrong-canary"})
    assert log.close(60)
    text = (tmp_path / "access.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["consumer"], line["status"]) for line in lines] == [
        ("jack", 200),
        ("jill", 200),
        (None, 401),
    ]
    assert "canary" not in text


def test_keys_follow_the_file(ca_dir: Path) -> None:
    texts = [guarded().replace(JACK, "another-key-0123456789")]
    with running(ca_dir, guarded(), reload_config=lambda: config_of(texts.pop())) as rig:
        assert ask(rig, {"apikey": JACK}).status_code == 200
        assert rig.call(rig.gateway.reload)
        assert ask(rig, {"apikey": JACK}).status_code == 401
        assert ask(rig, {"apikey": "another-key-0123456789"}).status_code == 200
        assert ask(rig, {"apikey": JILL}).status_code == 200
        wait_until(lambda: rig.counts()["exchanges"] == 0, "all has ended")
