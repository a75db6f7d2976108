"""The admin listener: what it shows, what it does, and whom it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from quick_probes import quick_probes
from raw_http import Answer, connected, encode
from rig import CONFIG, DEEPSEEK, MESSAGES, OPENAI, FaultKind, Rig, config_of, running, wait_until

from fastgw.admin import Admin, AdminRefused
from fastgw.admin.app import Reply
from fastgw.secret import Secret
from fastgw.server import Address

CHAT = "/v1/chat/completions"
TOKEN = "the-admin-token-0123456789"
COUNTER = {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
STATES = {"healthy", "mostly_healthy", "mostly_unhealthy", "unhealthy"}
QUIET = CONFIG[: CONFIG.index("      checks:")]
# The same two providers as APISIX writes them, each form of upstream once.
APISIX = """\
routes:
  - id: 1
    name: inline
    uri: /inline/*
    upstream:
      scheme: https
      nodes: [{host: api.openai.com, port: 443, weight: 1}]
      checks: {active: {type: https, http_path: /, healthy: {successes: 1}, unhealthy: {http_failures: 2}}}
  - id: 2
    name: by-id
    uri: /v1/*
    upstream_id: 1
  - id: 3
    name: of-service
    uri: /service/*
    service_id: s1
  - id: 4
    name: unchecked
    uri: /unchecked/*
    upstream: {scheme: https, nodes: [{host: api.openai.com, port: 443, weight: 1}]}
services:
  - id: s1
    name: a service
    upstream:
      scheme: https
      nodes: [{host: api.deepseek.com, port: 443, weight: 1}]
      checks: {active: {type: tcp, healthy: {successes: 1}, unhealthy: {tcp_failures: 2}}}
upstreams:
  - id: 1
    name: shared
    scheme: https
    nodes:
      - host: api.deepseek.com
        port: 443
        weight: 1
        auth: {header: {Authorization: "Bearer ${DEEPSEEK_API_KEY}"}}
    checks: {active: {type: https, http_path: /, healthy: {successes: 1}, unhealthy: {http_failures: 2}}}
#END
"""


def ask(
    rig: Rig,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    *,
    port: int | None = None,
) -> Answer:
    """One request to the admin listener over a connection of its own."""

    async def main() -> Answer:
        assert rig.admin.address is not None
        async with connected(port or rig.admin.address.port) as connection:
            return await connection.ask(method, path, headers=headers, body=body)

    return asyncio.run(main())


def say(rig: Rig, raw: bytes) -> list[Answer]:
    """Send bytes; every answer until the listener closes."""

    async def main() -> list[Answer]:
        assert rig.admin.address is not None
        async with connected(rig.admin.address.port) as connection:
            connection.writer.write(raw)
            answers = []
            while True:
                try:
                    answers.append(await connection.answer())
                except (asyncio.IncompleteReadError, ConnectionError):
                    return answers
                if connection.is_closed:
                    return answers

    return asyncio.run(main())


def get(rig: Rig, path: str) -> Any:
    answer = ask(rig, "GET", path)
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


# --- Alive and ready --------------------------------------------------------------------------


def test_alive_and_ready(rig: Rig) -> None:
    for path in ("/livez", "/readyz", "/status", "/status/ready"):
        assert get(rig, path) == {"status": "ok"}
        head = ask(rig, "HEAD", path)
        assert (head.status, head.body) == (200, b"")


def test_not_ready_while_every_node_of_an_upstream_is_out(ca_dir: Path) -> None:
    with running(ca_dir, quick_probes(config_of(CONFIG))) as rig:
        rig.fault(rig.openai, FaultKind.REFUSE)
        wait_until(lambda: not rig.nodes()[OPENAI].is_usable(), "the primary is out")
        assert ask(rig, "GET", "/readyz").status == 200  # the backup is there
        rig.fault(rig.deepseek, FaultKind.REFUSE)
        wait_until(lambda: not rig.nodes()[DEEPSEEK].is_usable(), "the backup is out")
        for path in ("/readyz", "/status/ready"):
            answer = ask(rig, "GET", path)
            assert answer.status == 503
            assert answer.json() == {"status": "error", "error": "an upstream has no node available"}
        assert ask(rig, "GET", "/livez").status == 200
        rig.fault(rig.deepseek, None)
        wait_until(lambda: ask(rig, "GET", "/readyz").status == 200, "it is ready again")


def test_dead_keys_and_cooling_nodes_are_not_ready(ca_dir: Path) -> None:
    with running(ca_dir, QUIET.replace("dead_reprobe: 1", "dead_reprobe: 600")) as rig:
        for provider in (rig.openai, rig.deepseek):
            rig.fault(provider, FaultKind.STATUS, status=401)
        httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
        assert ask(rig, "GET", "/readyz").status == 503


# --- Health as APISIX shows it ----------------------------------------------------------------


def test_health_of_an_adc_file(ca_dir: Path) -> None:
    with running(ca_dir, quick_probes(config_of(CONFIG))) as rig:
        wait_until(lambda: rig.call(lambda: rig.deepseek.counters.requests) >= 2, "both are probed")
        assert rig.gateway.generation is not None
        route = rig.gateway.generation.config.routes[0]
        assert route.upstream is not None
        checkers = get(rig, "/v1/healthcheck")
        assert len(checkers) == 1
        assert list(checkers[0]) == ["name", "type", "nodes"]
        assert checkers[0]["name"] == f"/services/{route.upstream.id}"
        assert checkers[0]["type"] == "https"
        for node, host in zip(checkers[0]["nodes"], ("api.openai.com", "api.deepseek.com"), strict=True):
            assert list(node) == ["ip", "port", "hostname", "status", "counter"]
            assert list(node["counter"]) == list(COUNTER)
            assert (node["port"], node["hostname"]) == (443, host)
            assert node["status"] in STATES
        # One by one: by id and by name.
        for path, name in (
            (f"/v1/healthcheck/services/{route.upstream.id}", f"/services/{route.upstream.id}"),
            ("/v1/healthcheck/services/LLM%20Service", f"/services/{route.upstream.id}"),
            (f"/v1/healthcheck/routes/{route.id}", f"/routes/{route.id}"),
            ("/v1/healthcheck/routes/llm", f"/routes/{route.id}"),
            (f"/v1/healthcheck/upstreams/{route.upstream.id}", f"/upstreams/{route.upstream.id}"),
            ("/v1/healthcheck/upstreams/LLM%20Service?pretty=1", f"/upstreams/{route.upstream.id}"),
        ):
            one = get(rig, path)
            assert one["name"] == name
            assert [node["hostname"] for node in one["nodes"]] == ["api.openai.com", "api.deepseek.com"]
        rig.fault(rig.openai, FaultKind.REFUSE)
        wait_until(lambda: get(rig, "/v1/healthcheck")[0]["nodes"][0]["status"] == "unhealthy", "it is shown")
        assert get(rig, "/v1/healthcheck")[0]["nodes"][1]["status"] in ("healthy", "mostly_healthy")


def test_health_of_an_apisix_file(ca_dir: Path) -> None:
    with running(ca_dir, quick_probes(config_of(APISIX), 600)) as rig:
        names = [checker["name"] for checker in get(rig, "/v1/healthcheck")]
        assert sorted(names) == ["/routes/1", "/services/s1", "/upstreams/1"]
        for path, name, kind, host in (
            ("routes/1", "/routes/1", "https", "api.openai.com"),
            ("routes/inline", "/routes/1", "https", "api.openai.com"),
            ("upstreams/1", "/upstreams/1", "https", "api.deepseek.com"),
            ("upstreams/shared", "/upstreams/1", "https", "api.deepseek.com"),
            ("services/s1", "/services/s1", "tcp", "api.deepseek.com"),
            ("services/a%20service", "/services/s1", "tcp", "api.deepseek.com"),
        ):
            one = get(rig, "/v1/healthcheck/" + path)
            node = {"ip": host, "port": 443, "hostname": host, "status": "healthy", "counter": COUNTER}
            assert one == {"name": name, "type": kind, "nodes": [node]}, path
        for path, status, message in (
            ("routes/9", 404, "routes[9] not found"),
            ("services/9", 404, "services[9] not found"),
            ("upstreams/9", 404, "upstreams[9] not found"),
            ("stream_routes/1", 404, "stream_routes[1] not found"),
            ("routes/4", 404, "no checker for routes[4]"),
            ("route/1", 400, "invalid src type route"),
            ("", 400, "invalid src type "),
        ):
            answer = ask(rig, "GET", "/v1/healthcheck/" + path)
            assert (answer.status, answer.json()) == (status, {"error_msg": message}), path


def test_no_checker_is_an_empty_object(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        assert get(rig, "/v1/healthcheck") == {}


def test_port_of_the_probes_is_shown_and_nodes_probed_at_one_place_once(ca_dir: Path) -> None:
    text = CONFIG.replace(
        "          http_path: /\n", "          http_path: /\n          port: 8080\n"
    ).replace(
        "        - host: api.deepseek.com\n          port: 443",
        "        - host: api.openai.com\n          port: 444",
    )
    with running(ca_dir, quick_probes(config_of(text), 600)) as rig:
        nodes = get(rig, "/v1/healthcheck")[0]["nodes"]
        assert [(node["hostname"], node["port"]) for node in nodes] == [("api.openai.com", 8080)]


def test_upstreams_with_the_same_id_are_not_mixed_up(ca_dir: Path) -> None:
    """Route 1 has an upstream of its own, route 2 uses the upstream with the id 1."""
    with running(ca_dir, quick_probes(config_of(APISIX), 600)) as rig:
        answer = httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
        assert (answer.status_code, answer.headers["x-fastgw-upstream"]) == (200, DEEPSEEK)
        assert {
            (node["host"]) for upstream in get(rig, "/admin/upstreams") for node in upstream["nodes"]
        } == {
            "api.openai.com",
            "api.deepseek.com",
        }


# --- Figures ----------------------------------------------------------------------------------


def test_counts_say_what_there_is(rig: Rig) -> None:
    httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
    httpx.get(rig.url + "/nowhere", timeout=60)
    wait_until(lambda: get(rig, "/debug/counts")["client_connections"] == 0, "the clients have gone")
    counts = get(rig, "/debug/counts")
    assert counts["requests"] == 1
    assert counts["answered_without_exchange"] == 1
    assert counts["node_connections"]["idle"] == 1
    assert counts["exchanges"] == counts["held_bytes"] == counts["retries"] == counts["log_dropped"] == 0
    assert counts["tasks"] >= 2 and counts["timers"] >= 1
    assert counts["generation"] == 1


def test_flush_closes_idle_connections(rig: Rig) -> None:
    httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
    wait_until(lambda: get(rig, "/debug/counts")["node_connections"]["idle"] == 1, "it is given back")
    answer = ask(rig, "POST", "/debug/flush")
    assert answer.json()["closed"] == 1
    assert get(rig, "/debug/counts")["node_connections"] == {"idle": 0, "busy": 0, "dialling": 0}


def test_upstreams_are_shown_as_they_are(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=429, headers=(("retry-after", "500"),))
        httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
        (upstream,) = get(rig, "/admin/upstreams")
        assert upstream["name"] == "LLM Service"
        primary, backup = upstream["nodes"]
        # The limit is one model's: the node itself goes on.
        [model] = primary["models"]
        assert (model["model"], model["reason"]) == ("gpt-4o", "rate_limited")
        assert 400 < model["rests_s"] <= 500
        assert (primary["available"], primary["cooling_s"], backup["models"]) == (True, 0, [])
        httpx.post(rig.url + CHAT, json={"model": "gpt-4o-mini", "messages": MESSAGES}, timeout=60)
        (upstream,) = get(rig, "/admin/upstreams")
        primary, backup = upstream["nodes"]
        assert [model["model"] for model in primary["models"]] == ["gpt-4o", "gpt-4o-mini"]
        assert (primary["ramping"], backup["ramping"]) == (False, False)
        assert (primary["name"], primary["tier"], primary["weight"]) == (OPENAI, 0, 100)
        assert (backup["name"], backup["tier"], backup["weight"]) == (DEEPSEEK, -1, 1)
        assert 400 < primary["cooling_s"] <= 500
        assert primary["ejected_s"] == primary["dead_s"] == 0
        assert (primary["available"], backup["available"]) == (False, True)
        assert (primary["picks"], backup["picks"], backup["in_flight"]) == (2, 2, 0)
        assert len(upstream["connections"]) == 2


def test_index_names_every_endpoint(rig: Rig) -> None:
    index = get(rig, "/")
    assert {
        "/livez",
        "/readyz",
        "/v1/healthcheck",
        "/admin/config",
        "/debug/counts",
        "/admin/upstreams",
    } <= set(index["get"])
    assert {"/admin/reload", "/debug/flush"} <= set(index["post"])
    for path in index["get"]:
        is_question = path == "/admin/explain"  # and one without a question is none
        assert ask(rig, "GET", path).status == (400 if is_question else 200)


# --- Reload -----------------------------------------------------------------------------------


def test_reload_says_what_came_of_it(ca_dir: Path) -> None:
    texts = [CONFIG.replace("weight: 100", "weight: -5"), CONFIG.replace("weight: 100", "weight: 5")]
    with running(ca_dir, CONFIG, reload_config=lambda: config_of(texts.pop())) as rig:
        answer = ask(rig, "POST", "/admin/reload")
        assert (answer.status, answer.json()) == (200, {"status": "ok", "generation": 2})
        answer = ask(rig, "POST", "/admin/reload")
        assert answer.status == 400
        assert answer.json()["status"] == "error"
        assert "weight" in answer.json()["error"]
        assert get(rig, "/debug/counts")["generation"] == 2


def test_a_text_that_is_not_in_utf_8_as_the_name_of_a_file_can_be_is_told_of() -> None:
    name = os.fsdecode(b"g\xff.yaml")
    assert json.loads(Reply(200, {"file": name}).body) == {"file": name}


# --- Whom it refuses --------------------------------------------------------------------------


def test_get_changes_nothing(ca_dir: Path) -> None:
    with running(ca_dir, CONFIG, reload_config=lambda: config_of(CONFIG)) as rig:
        httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)
        for path in ("/admin/reload", "/debug/flush"):
            for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
                answer = ask(rig, method, path)
                assert (answer.status, answer.headers["allow"]) == (405, "POST"), (method, path)
        assert rig.gateway.reloads == 0
        wait_until(lambda: rig.counts()["node_connections"]["idle"] == 1, "nothing was flushed")


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/debug/counts", "/v1/healthcheck", "/v1/healthcheck/routes/llm"]
)
def test_what_only_shows_takes_no_post(rig: Rig, path: str) -> None:
    answer = ask(rig, "POST", path, body=b"{}")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/nowhere", "/admin", "/admin/reload/", "/LIVEZ", "/%6civez"])
def test_unknown_path_is_404_in_the_usual_shape(rig: Rig, path: str) -> None:
    for method in ("GET", "POST"):
        answer = ask(rig, method, path)
        assert answer.status == 404
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9180"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_requests_of_web_pages_are_refused(ca_dir: Path, headers: dict[str, str]) -> None:
    with running(ca_dir, CONFIG, reload_config=lambda: config_of(CONFIG)) as rig:
        for method, path in (("POST", "/admin/reload"), ("GET", "/debug/counts"), ("GET", "/livez")):
            answer = ask(rig, method, path, headers)
            assert answer.status == 403
            assert "access-control-allow-origin" not in answer.headers
        assert rig.gateway.reloads == 0


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9180",
        "127.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "0.0.0.0",
    ],
)
def test_foreign_host_is_refused(rig: Rig, host: str) -> None:
    """A page can make its own name lead to this machine; the browser then still says that name."""
    for path in ("/livez", "/debug/counts"):
        assert ask(rig, "GET", path, {"host": host}).status == 421


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9180", "localhost", "LocalHost:1", "[::1]", "[::1]:9180", "127.9.8.7"]
)
def test_own_names_are_served(rig: Rig, host: str) -> None:
    assert ask(rig, "GET", "/livez", {"host": host}).status == 200


def test_other_machines_need_a_token(ca_dir: Path) -> None:
    with running(ca_dir) as rig:
        for text in ("0.0.0.0:0", ":0", "192.0.2.1:0"):
            with pytest.raises(AdminRefused, match="token"):
                rig.await_(Admin(rig.gateway).start(Address.parse(text)))
            with pytest.raises(AdminRefused):
                rig.await_(Admin(rig.gateway, token=Secret("")).start(Address.parse(text)))
        admin = rig.call(lambda: Admin(rig.gateway, token=Secret(TOKEN)))
        port = rig.await_(admin.start(Address.parse("0.0.0.0:0"))).port
        # Behind the token any Host is fine: it may have a name in front of it.
        assert ask(rig, "GET", "/debug/counts", {"host": "admin.example"}, port=port).status == 401
        headers = {"host": "admin.example", "authorization": f"Bearer {TOKEN}"}
        assert ask(rig, "GET", "/debug/counts", headers, port=port).status == 200


def test_token_is_asked_for_and_compared(ca_dir: Path) -> None:
    with running(ca_dir, CONFIG, reload_config=lambda: config_of(CONFIG)) as rig:
        admin = rig.call(lambda: Admin(rig.gateway, token=Secret(TOKEN)))
        port = rig.await_(admin.start(Address.parse("127.0.0.1:0"))).port
        wrong = [
            None,
            TOKEN,
            f"Basic {TOKEN}",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN.upper()}",
            "Bearer ",
            "Bearer",
            "",
            "Bearer \xff\xfe",
        ]
        for value in wrong:
            headers = {"authorization": value} if value is not None else {}
            for method, path in (
                ("GET", "/debug/counts"),
                ("POST", "/admin/reload"),
                ("GET", "/nowhere"),
                ("GET", "/"),
            ):
                answer = ask(rig, method, path, headers, port=port)
                assert answer.status == 401, (value, path)
                assert answer.headers["www-authenticate"].startswith("Bearer")
        assert rig.gateway.reloads == 0
        # Probes of an orchestrator carry no token.
        for path in ("/livez", "/readyz", "/status", "/status/ready"):
            assert ask(rig, "GET", path, port=port).status == 200
        for scheme in ("Bearer", "bearer"):
            headers = {"authorization": f"{scheme} {TOKEN}"}
            assert ask(rig, "GET", "/debug/counts", headers, port=port).status == 200
            assert ask(rig, "POST", "/admin/reload", headers, port=port).status == 200


# --- HTTP -------------------------------------------------------------------------------------


def test_connection_is_kept_alive_and_pipelined(rig: Rig) -> None:
    async def main() -> None:
        assert rig.admin.address is not None
        async with connected(rig.admin.address.port) as connection:
            for _ in range(3):
                answer = await connection.ask("GET", "/livez")
                assert (answer.status, answer.closes) == (200, False)
            assert (await connection.ask("POST", "/debug/flush", body=b'{"a": 1}')).status == 200
            assert (await connection.ask("GET", "/nowhere")).status == 404
            connection.writer.write(
                encode("GET", "/livez") + encode("HEAD", "/readyz") + encode("GET", "/status")
            )
            assert (await connection.answer()).status == 200
            assert (await connection.answer(is_head=True)).body == b""
            assert (await connection.answer()).json() == {"status": "ok"}
            last = await connection.ask("GET", "/livez", headers={"connection": "close"})
            assert last.closes

    asyncio.run(main())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET //livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /a/../livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"POST /debug/flush HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (
            b"POST /debug/flush HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
        (b"POST /debug/flush HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
    ids=[
        "garbage",
        "two slashes",
        "dots",
        "no host",
        "two hosts",
        "bad length",
        "two lengths",
        "long path",
        "long field",
        "many fields",
        "bad chunk",
    ],
)
def test_malformed_request_is_refused_and_the_connection_closed(rig: Rig, raw: bytes, status: int) -> None:
    answers = say(rig, raw + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert [answer.status for answer in answers] == [status]
    assert answers[0].closes
    assert answers[0].json()["error"]["message"]
    assert ask(rig, "GET", "/livez").status == 200


@pytest.mark.parametrize("is_chunked", [False, True])
def test_oversized_body_is_refused(rig: Rig, is_chunked: bool) -> None:
    size = 200_000
    if is_chunked:
        framing, body = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
    else:
        framing, body = b"Content-Length: %d" % size, b"x" * size
    answers = say(rig, b"POST /debug/flush HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n%b" % (framing, body))
    assert [(answer.status, answer.closes) for answer in answers] == [(413, True)]


def test_body_is_read_away_and_100_continue_is_said(rig: Rig) -> None:
    async def main() -> None:
        assert rig.admin.address is not None
        async with connected(rig.admin.address.port) as connection:
            for _ in range(2):
                connection.writer.write(
                    b"POST /debug/flush HTTP/1.1\r\nHost: localhost\r\n"
                    b"Content-Length: 60000\r\nExpect: 100-continue\r\n\r\n"
                )
                assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                connection.writer.write(b"x" * 60000)
                answer = await connection.answer()
                assert (answer.status, answer.closes) == (200, False)

    asyncio.run(main())


def test_bug_in_an_endpoint_is_a_500_and_no_more(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Any:
        raise RuntimeError("sk-canary-of-an-exception")

    rig.admin.get["/broken"] = fail
    answer = ask(rig, "GET", "/broken")
    assert answer.status == 500
    assert b"canary" not in answer.body
    assert "an admin request failed" in caplog.text
    assert ask(rig, "GET", "/livez").status == 200


def test_too_many_connections_wait_and_the_data_port_serves(rig: Rig) -> None:
    assert rig.admin.address is not None
    crowd = [socket.create_connection(("127.0.0.1", rig.admin.address.port)) for _ in range(80)]
    wait_until(lambda: rig.gateway.server.is_paused, "there is no room any more")
    assert len(rig.admin.listener.connections) <= 64
    assert (
        httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60).status_code
        == 200
    )
    for sock in crowd:
        sock.close()
    assert ask(rig, "GET", "/livez").status == 200
    wait_until(lambda: len(rig.admin.listener.connections) == 0, "they are closed")
    assert not rig.gateway.server.is_paused


# --- Secrets ----------------------------------------------------------------------------------


def test_no_answer_shows_a_secret(ca_dir: Path) -> None:
    canaries = {
        "OPENAI_API_KEY": "sk-canary-openai-0123456789",
        "DEEPSEEK_API_KEY": "sk-canary-deepseek-0123456789",
        "CLIENT_KEY": "canary-of-a-client-0123456789",
        "ADMIN_TOKEN": TOKEN,
    }
    text = (
        CONFIG.replace("  dead_reprobe: 1", '  dead_reprobe: 1\n  admin_token: "${ADMIN_TOKEN}"')
        .replace("        uris:", "        plugins: {key-auth: {}}\n        uris:")
        .replace(
            "          http_path: /\n",
            '          http_path: /\n          req_headers: ["X-Probe-Key: ${CLIENT_KEY}"]\n',
        )
    ) + 'consumers:\n  - username: jack\n    plugins: {key-auth: {key: "${CLIENT_KEY}"}}\n'
    bad = text.replace("weight: 100", "weight: -1").replace(
        "Bearer ${DEEPSEEK_API_KEY}", "${DEEPSEEK_API_KEY}\\n"
    )
    texts = [bad, text]
    with running(
        ca_dir, config_of(text, **canaries), reload_config=lambda: config_of(texts.pop(), **canaries)
    ) as rig:
        asked = [ask(rig, "GET", path) for path in get(rig, "/")["get"]]
        asked += [
            ask(rig, "GET", "/v1/healthcheck/routes/llm"),
            ask(rig, "GET", "/v1/healthcheck/routes/" + TOKEN[:5]),
        ]
        # The providers refuse these keys, so failures are shown, too.
        httpx.post(
            rig.url + CHAT,
            json={"model": "gpt-4o", "messages": MESSAGES},
            headers={"apikey": canaries["CLIENT_KEY"]},
            timeout=60,
        )
        asked += [ask(rig, "GET", path) for path in get(rig, "/")["get"]]
        asked += [ask(rig, "POST", path) for path in ("/admin/reload", "/admin/reload", "/debug/flush")]
        assert {answer.status for answer in asked} >= {200, 400, 404}
        for answer in asked:
            for canary in canaries.values():
                assert canary not in answer.text
            assert answer.headers["cache-control"] == "no-store"


def test_the_configuration_that_runs_is_shown_whole_and_without_a_key(rig: Rig) -> None:
    found = get(rig, "/admin/config")
    assert found["generation"] == 1
    assert found["profile"] == "llm"
    (route,) = found["routes"]
    assert route["uris"] == ["/v1/*"]
    assert (route["deadlines"]["total_s"], route["deadlines"]["tunnel_idle_s"]) == (60, 600)
    nodes = route["upstream"]["nodes"]
    assert [node["host"] for node in nodes] == ["api.openai.com", "api.deepseek.com"]
    assert nodes[0]["auth_headers"] == [["Authorization", "***"]]
    assert found["process"]["max_connections"] == 10_000
    assert "sk-" not in str(found)
