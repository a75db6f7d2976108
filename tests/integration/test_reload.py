"""A reload is a new generation: nothing in flight notices, and a bad file changes nothing."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
import trustme
from quick_probes import quick_probes
from raw_http import Connection, chat, connected, encode
from rig import CONFIG, DEEPSEEK, KEYS, MESSAGES, OPENAI, FaultKind, Rig, running, wait_until

from fastgw.config import load
from fastgw.config.model import Config

CHAT = "/v1/chat/completions"
THIRD_NODE = """\
        - host: 127.0.0.1
          port: 9
          name: spare
          weight: 1
          priority: -2
"""
DEEPSEEK_NODE = CONFIG[CONFIG.index("        - host: api.deepseek.com") : CONFIG.index("      checks:")]
OPENAI_NODE = CONFIG[
    CONFIG.index("        - host: api.openai.com") : CONFIG.index("        - host: api.deepseek.com")
]
OTHER = (
    CONFIG.replace("weight: 100", "weight: 7")
    .replace("connect: 20", "connect: 30")
    .replace("head_stream: 20", "head_stream: 30")
    .replace("      checks:", "      retries: 1\n      checks:")
)
# What can be wrong with a file, and a word that the message must have.
BROKEN: list[tuple[str, str | bytes | None, str]] = [
    ("syntax", CONFIG + "  - {name: [\n", ""),
    ("unknown key", CONFIG.replace("weight: 100", "weights: 100"), "weight"),
    ("duplicate key", CONFIG.replace("weight: 100", "weight: 100\n          weight: 5"), "weight"),
    ("same node twice", CONFIG.replace("      checks:", OPENAI_NODE + "      checks:"), "api.openai.com"),
    ("bad host", CONFIG.replace("host: api.openai.com", 'host: "http://api.openai.com/"'), "host"),
    ("bad port", CONFIG.replace("port: 443", "port: 70000", 1), "port"),
    ("weight -1", CONFIG.replace("weight: 100", "weight: -1"), "weight"),
    ("missing variable", CONFIG.replace("${OPENAI_API_KEY}", "${NO_SUCH_KEY}"), "NO_SUCH_KEY"),
    (
        "missing key file",
        CONFIG.replace('"Bearer ${OPENAI_API_KEY}"', "file:///no/such/key"),
        "Authorization",
    ),
    (
        "no node",
        CONFIG.replace(OPENAI_NODE, "").replace(DEEPSEEK_NODE, "").replace("nodes:", "nodes: []"),
        "nodes",
    ),
    (
        "unknown plugin",
        CONFIG.replace("        uris:", "        plugins: {no-such: {}}\n        uris:"),
        "no-such",
    ),
    ("empty", "", ""),
    ("not a mapping", "just a text\n", ""),
    ("binary", b"\x00\x01\x02" * 100, "binary"),
    ("not utf-8", CONFIG.encode() + b"# \xff\xfe\n", "UTF-8"),
    ("too large", CONFIG + "# " + "x" * 2**20 + "\n", "larger"),
    ("alias bomb", "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(200)) + CONFIG, ""),
    ("deep", "services: " + "[" * 5000, ""),
    ("half written", CONFIG[: CONFIG.index("      checks:") - 30], ""),
    ("gone", None, "cannot be read"),
]


class File:
    """The configuration file of a rig, and how it is loaded again."""

    def __init__(self, path: Path, **probes: Any) -> None:
        self.path = path
        self.probes = probes

    def write(self, content: str | bytes | None) -> None:
        if content is None:
            self.path.unlink(missing_ok=True)
        elif isinstance(content, bytes):
            self.path.write_bytes(content)
        else:
            self.path.write_text(content)

    def load(self) -> Config:
        config = load(self.path, env=KEYS)
        return quick_probes(config, **self.probes) if self.probes else config


@pytest.fixture
def file(tmp_path: Path) -> File:
    file = File(tmp_path / "gateway.yaml")
    file.write(CONFIG)
    return file


def reload(rig: Rig) -> bool:
    return httpx.post(rig.admin_url + "/admin/reload", timeout=60).status_code == 200


def ask(rig: Rig) -> httpx.Response:
    return httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=30)


def generation(rig: Rig) -> int:
    return int(rig.counts()["generation"])


# --- Under load -------------------------------------------------------------------------------


class Traffic:
    """Requests without a pause, plain and streamed, until it is told to stop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_over = False
        self.answered = 0
        self.problems: list[str] = []

    async def client(self, name: str) -> None:
        connection = await Connection.open(self.port)
        number = 0
        while not self.is_over:
            number += 1
            if connection.is_closed:
                connection = await Connection.open(self.port)
            mark = f"request-{name}-{number:05d}"
            is_stream = number % 3 != 0
            # Every sixth takes longer than several reloads.
            headers = {"x-sim-tokens": "12", "x-sim-delay-ms": "20" if number % 6 == 1 else "0"}
            body = chat(f"please echo {mark}", stream=is_stream)
            answer = await connection.ask("POST", CHAT, headers=headers, body=body)
            fine = answer.status == 200 and answer.is_whole and answer.body.count(mark.encode()) == 1
            if not fine or (is_stream and not answer.body.endswith(b"data: [DONE]\n\n")):
                self.problems.append(f"{mark}: {answer.status} {answer.body!r}")
            self.answered += 1
        await connection.close()


@pytest.mark.timeout(600)  # a hang guard: alone on two cores it takes a few seconds
def test_hundred_reloads_under_load_fail_no_request(ca_dir: Path, file: File) -> None:
    with running(ca_dir, file.load(), reload_config=file.load) as rig:

        async def main() -> tuple[Traffic, list[bool]]:
            traffic = Traffic(rig.port)
            clients = [asyncio.create_task(traffic.client(f"{index:02d}")) for index in range(16)]
            results = []
            try:
                for turn in range(100):
                    if turn % 4 == 3:
                        content = BROKEN[turn // 4 % len(BROKEN)][1]
                    else:
                        content = (
                            OTHER,
                            CONFIG,
                            CONFIG.replace("      checks:", THIRD_NODE + "      checks:"),
                        )[turn % 4]
                    file.write(content)
                    seen = traffic.answered
                    results.append(await asyncio.to_thread(rig.call, rig.gateway.reload))
                    while traffic.answered < seen + 8 and not traffic.problems:
                        await asyncio.sleep(0.001)
            finally:
                traffic.is_over = True
                await asyncio.gather(*clients)
            return traffic, results

        traffic, results = asyncio.run(main())
        assert traffic.problems == []
        assert traffic.answered >= 800
        assert results == [turn % 4 != 3 for turn in range(100)]
        assert generation(rig) == 76
        assert rig.counts()["reloads"] == 75
        assert rig.counts()["exchanges"] == 0


def test_stream_begun_before_a_reload_ends_whole_on_its_own_generation(ca_dir: Path, file: File) -> None:
    with running(ca_dir, file.load(), reload_config=file.load) as rig:

        async def main() -> None:
            async with connected(rig.port) as connection:
                headers = {"x-sim-tokens": "240", "x-sim-delay-ms": "25"}  # 6 s
                body = chat("please echo the-first-request", stream=True)
                request = asyncio.create_task(connection.ask("POST", CHAT, headers=headers, body=body))
                await asyncio.to_thread(
                    wait_until,
                    lambda: rig.call(lambda: any(r.progress for r in rig.openai.requests)),
                    "it streams",
                )
                # The node that answers is taken out of the file.
                file.write(CONFIG.replace(OPENAI_NODE, ""))
                assert await asyncio.to_thread(reload, rig)
                after = await asyncio.to_thread(ask, rig)
                assert after.headers["x-fastgw-upstream"] == DEEPSEEK
                assert not request.done()
                answer = await request
                assert answer.status == 200 and answer.is_whole
                assert answer.headers["x-fastgw-upstream"] == OPENAI
                assert answer.body.endswith(b"data: [DONE]\n\n")
                words = [f" w{index}" for index in range(30, 240)]
                assert all(json.dumps(word).encode() in answer.body for word in words)

        asyncio.run(main())
        # The connection that served it belongs to nobody any more.
        wait_until(lambda: rig.call(lambda: rig.openai.connections_open) == 0, "its connection is closed")


# --- Refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content", "word"), BROKEN, ids=[entry[0] for entry in BROKEN])
def test_broken_file_changes_nothing_and_is_reported(
    ca_dir: Path,
    file: File,
    name: str,
    content: str | bytes | None,
    word: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        before = rig.gateway.generation
        file.write(content)
        begin = monotonic()
        answer = httpx.post(rig.admin_url + "/admin/reload", timeout=60)
        assert monotonic() - begin < 60  # the goal is 1 s
        assert answer.status_code == 400
        is_ok, error = rig.gateway.last_reload_ok, rig.gateway.last_reload_error
        assert not is_ok
        assert answer.json()["error"] == error
        for line in error.splitlines():
            place = line.removeprefix(f"{file.path}:").split(":")
            assert line.startswith(f"{file.path}:") and place[0].isdigit() and place[1].isdigit(), line
        assert word in error
        assert "sk-sim" not in error
        assert error in caplog.text
        assert rig.gateway.generation is before
        assert rig.counts()["reloads"] == 0
        assert ask(rig).headers["x-fastgw-upstream"] == OPENAI
        # The next good one is taken, and the state says so.
        file.write(OTHER)
        assert reload(rig)
        assert (rig.gateway.last_reload_ok, rig.gateway.last_reload_error) == (True, "")
        assert generation(rig) == 2


def test_every_mistake_of_the_file_is_reported_at_once(ca_dir: Path, file: File) -> None:
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        file.write(CONFIG.replace("weight: 100", "weight: -1").replace("http_path", "htpt_path"))
        assert not reload(rig)
        assert len(rig.gateway.last_reload_error.splitlines()) == 2
        assert "weight" in rig.gateway.last_reload_error
        assert "http_path" in rig.gateway.last_reload_error


def test_reload_without_a_file_is_refused(rig: Rig) -> None:
    before = rig.gateway.generation
    assert not reload(rig)
    assert rig.gateway.last_reload_error
    assert rig.gateway.generation is before


# --- What stays -------------------------------------------------------------------------------


def test_unchanged_nodes_keep_connections_health_and_counters(ca_dir: Path, file: File) -> None:
    long = CONFIG.replace("dead_reprobe: 1", "dead_reprobe: 600")
    file.write(long)
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        for _ in range(3):
            ask(rig)
        rig.fault(rig.openai, FaultKind.STATUS, status=401)  # its key is dead until the next re-probe
        ask(rig)
        rig.fault(rig.openai, None)
        nodes = rig.nodes()
        picks = {name: node.picks for name, node in nodes.items()}
        counts = rig.counts()
        assert nodes[OPENAI].dead_until > 0
        until = nodes[OPENAI].dead_until
        for turn in range(6):
            file.write((long.replace("total: 60", "total: 59"), long)[turn % 2])
            assert reload(rig)
        assert rig.nodes()[OPENAI] is nodes[OPENAI]
        assert rig.nodes()[DEEPSEEK] is nodes[DEEPSEEK]
        assert rig.nodes()[OPENAI].dead_until == until
        assert {name: node.picks for name, node in rig.nodes().items()} == picks
        assert rig.counts()["node_connections"]["idle"] == counts["node_connections"]["idle"]
        assert rig.counts()["node_connections_opened"] == counts["node_connections_opened"]
        assert ask(rig).headers["x-fastgw-upstream"] == DEEPSEEK  # over the connection there is
        assert rig.counts()["node_connections_opened"] == counts["node_connections_opened"]
        assert rig.counts()["node_connections_reused"] == counts["node_connections_reused"] + 1


def test_changed_weight_keeps_health_and_connections(ca_dir: Path, file: File) -> None:
    quiet = CONFIG[: CONFIG.index("      checks:")].replace("dead_reprobe: 1", "dead_reprobe: 600")
    file.write(quiet)
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        ask(rig)
        rig.fault(rig.openai, FaultKind.STATUS, status=401)
        ask(rig)
        rig.fault(rig.openai, None)
        before = rig.nodes()[OPENAI]
        opened = rig.counts()["node_connections_opened"]
        file.write(quiet.replace("weight: 100", "weight: 50"))
        assert reload(rig)
        after = rig.nodes()[OPENAI]
        assert (before.weight, after.weight) == (100, 50)
        assert after.dead_until == before.dead_until > 0
        assert (after.picks, after.counters) == (before.picks, before.counters)
        assert rig.counts()["node_connections_opened"] == opened
        assert rig.counts()["node_connections"]["idle"] >= 1


def test_new_key_of_a_node_is_used_at_once(ca_dir: Path, file: File) -> None:
    """Its operator has paid, or has mended the file: nobody waits for the re-probe of the old key."""
    wrong = CONFIG.replace("${OPENAI_API_KEY}", "sk-that-is-wrong").replace(
        "dead_reprobe: 1", "dead_reprobe: 600"
    )
    file.write(wrong)
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        assert ask(rig).headers["x-fastgw-upstream"] == DEEPSEEK
        assert rig.nodes()[OPENAI].dead_until > monotonic() + 100
        file.write(CONFIG)
        assert reload(rig)
        assert ask(rig).headers["x-fastgw-upstream"] == OPENAI


def test_changed_weights_take_effect_at_once(ca_dir: Path, file: File) -> None:
    # Both nodes in one tier.
    level = CONFIG[: CONFIG.index("      checks:")].replace("priority: -1", "priority: 0")
    file.write(level.replace("weight: 100", "weight: 3"))
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        assert Counter(ask(rig).headers["x-fastgw-upstream"] for _ in range(8)) == {OPENAI: 6, DEEPSEEK: 2}
        file.write(level.replace("weight: 100", "weight: 0"))
        assert reload(rig)
        assert Counter(ask(rig).headers["x-fastgw-upstream"] for _ in range(4)) == {DEEPSEEK: 4}


def test_removed_node_loses_its_connections_and_its_probes(ca_dir: Path, file: File) -> None:
    file.probes = {"interval_s": 0.02}
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        ask(rig)
        assert rig.call(lambda: rig.openai.connections_open) >= 1
        file.write(CONFIG.replace(OPENAI_NODE, ""))
        assert reload(rig)
        wait_until(lambda: rig.call(lambda: rig.openai.connections_open) == 0, "its connections are closed")
        seen = rig.call(lambda: (rig.openai.counters.connections, rig.deepseek.counters.requests))
        wait_until(
            lambda: rig.call(lambda: rig.deepseek.counters.requests) > seen[1] + 5,
            "the other is still probed",
        )
        assert rig.call(lambda: rig.openai.counters.connections) == seen[0]
        assert list(rig.nodes()) == [DEEPSEEK]
        # And back again: it is probed and takes its traffic.
        file.write(CONFIG)
        assert reload(rig)
        wait_until(lambda: rig.call(lambda: rig.openai.counters.connections) > seen[0], "it is probed again")
        assert ask(rig).headers["x-fastgw-upstream"] == OPENAI


def test_names_are_resolved_before_anybody_asks_and_only_those_of_todays_nodes(
    ca_dir: Path, file: File
) -> None:
    quiet = CONFIG[: CONFIG.index("      checks:")]
    file.write(quiet.replace("host: api.deepseek.com", "host: localhost"))
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        resolver = rig.gateway.resolver
        assert resolver is not None

        def is_known() -> bool:
            return rig.call(lambda: resolver.lookup("localhost", 443)) is not None

        wait_until(is_known, "the name is resolved")
        assert rig.counts()["requests"] == 0
        file.write(quiet)
        assert reload(rig)
        assert not is_known()


# --- What goes --------------------------------------------------------------------------------

KINDS = (
    "Generation",
    "RouteTable",
    "Route",
    "RoutePlan",
    "NodeLink",
    "BuiltUpstream",
    "Upstream",
    "Prober",
    "Selector",
)


def alive(rig: Rig | None) -> Counter[str]:
    """How many objects of a generation there are."""

    def look() -> Counter[str]:
        gc.collect()
        return Counter(
            type(item).__name__
            for item in gc.get_objects()
            if type(item).__name__ in KINDS and type(item).__module__.startswith("fastgw")
        )

    return look() if rig is None else rig.call(look)


def test_old_generations_are_gone_once_their_requests_are(ca_dir: Path, file: File) -> None:
    before = alive(None)  # what other tests have left in this process

    def alive_here() -> Counter[str]:
        return alive(rig) - before

    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        ask(rig)
        baseline = alive_here()
        tasks = rig.counts()["tasks"]
        assert baseline["Generation"] == baseline["Prober"] == 1

        async def main() -> None:
            async with connected(rig.port) as connection:
                headers = {"x-sim-tokens": "5000", "x-sim-delay-ms": "20"}
                body = chat("hello", stream=True)
                connection.writer.write(encode("POST", CHAT, headers, body))
                await connection.head()
                await connection.piece()
                for turn in range(10):
                    file.write((OTHER, CONFIG)[turn % 2])
                    assert await asyncio.to_thread(reload, rig)
                # One plan of the first generation lives on, in the request; its probes do not.
                await asyncio.to_thread(
                    wait_until,
                    lambda: (alive_here()["RoutePlan"], alive_here()["Prober"]) == (2, 1),
                    "what is between the first and the last generation is gone",
                )
                connection.abort()

        asyncio.run(main())
        wait_until(lambda: rig.counts()["exchanges"] == 0, "the request has ended")
        wait_until(lambda: alive_here() == baseline, f"{alive_here()} is {baseline} again")
        wait_until(lambda: rig.counts()["tasks"] == tasks, "no task more than before")


def test_probes_are_not_doubled_by_reloads(ca_dir: Path, file: File) -> None:
    interval_s = 0.1
    file.probes = {"interval_s": interval_s}
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        for turn in range(20):
            file.write((OTHER, CONFIG)[turn % 2])
            assert reload(rig)

        def probes() -> int:
            return rig.call(lambda: rig.deepseek.counters.requests)

        first = probes()
        wait_until(lambda: probes() >= first + 2, "what the former ones have sent has been counted")
        begin, seen = monotonic(), probes()
        wait_until(lambda: probes() >= seen + 8, "probes go on")
        # Between two probes of one prober lies the whole interval: two of them would be twice as quick.
        assert monotonic() - begin >= 6.5 * interval_s


def test_reload_that_arrives_during_another_change_over_is_the_one_that_counts(
    ca_dir: Path, file: File
) -> None:
    file.probes = {"interval_s": 0.02}
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        baseline = rig.counts()["tasks"]

        def twice() -> None:
            for content in (OTHER, CONFIG, OTHER):
                file.write(content)
                assert rig.gateway.reload()

        rig.call(twice)
        assert generation(rig) == 4
        assert rig.nodes()[OPENAI].weight == 7
        wait_until(lambda: rig.counts()["tasks"] == baseline, "one set of probes is left")
        before = rig.call(lambda: rig.openai.counters.requests)
        wait_until(lambda: rig.call(lambda: rig.openai.counters.requests) > before + 3, "and it probes")


def test_limits_of_the_process_follow_the_file(ca_dir: Path, file: File) -> None:
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        body = b'{"model": "gpt-4o", "messages": [], "pad": "' + b"x" * 4000 + b'"}'
        assert httpx.post(rig.url + CHAT, content=body, timeout=60).status_code != 413
        file.write(
            CONFIG.replace(
                "  dead_reprobe: 1", "  dead_reprobe: 1\n  max_body_bytes: 2000\n  hold_body_bytes: 1024"
            )
        )
        assert reload(rig)
        assert httpx.post(rig.url + CHAT, content=body, timeout=60).status_code == 413


def test_certificates_to_trust_follow_the_file(ca_dir: Path, file: File, tmp_path: Path) -> None:
    strangers = tmp_path / "strangers.pem"
    trustme.CA().cert_pem.write_to_path(str(strangers))
    with running(ca_dir, file.load(), reload_config=file.load) as rig:
        assert ask(rig).status_code == 200
        trusting = CONFIG.replace("  dead_reprobe: 1", f"  dead_reprobe: 1\n  ca_file: {strangers}")
        file.write(trusting)
        assert reload(rig)
        assert ask(rig).status_code in (502, 503)
        file.write(CONFIG)
        assert reload(rig)
        wait_until(lambda: ask(rig).status_code == 200, "the providers are trusted again")
        # The same name with other content, as a rotation has it.
        strangers.write_bytes(Path(rig.simulator.ca_file).read_bytes())
        file.write(trusting)
        assert reload(rig)
        assert ask(rig).status_code == 200
