"""Probes: an outage is found without traffic, ended without a restart, and those who wait are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from quick_probes import quick_probes
from raw_http import Connection, chat, encode
from rig import (
    CONFIG,
    DEADLINES,
    DEEPSEEK,
    MESSAGES,
    OPENAI,
    FaultKind,
    Rig,
    config_of,
    running,
    wait_until,
    with_deadlines,
)

from fastgw import _core
from fastgw.config.model import Config

CHAT = "/v1/chat/completions"
UP = (_core.HealthState.HEALTHY, _core.HealthState.MOSTLY_HEALTHY)
# Nobody waits for a deadline here: only a verdict can move a request.
PATIENT = with_deadlines(CONFIG, **dict.fromkeys(DEADLINES, 100))
# What probes of silent nodes may take: three of a healthy one in a row must not take longer.
SILENT_S = 1.5


@contextmanager
def probing(ca_dir: Path, text: str = CONFIG, **changes: Any) -> Iterator[Rig]:
    """A rig with probes every 20 ms that may take their time."""
    fields = {"timeout_s": 20.0, **changes}
    with running(ca_dir, quick_probes(config_of(text), fields.pop("interval_s", 0.02), **fields)) as rig:
        yield rig


def ask(rig: Rig) -> httpx.Response:
    return httpx.post(rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES}, timeout=60)


def is_up(rig: Rig, name: str = OPENAI) -> bool:
    return rig.nodes()[name].state in UP


def probes_of(rig: Rig, path: str = "/") -> int:
    return rig.call(lambda: sum(record.path == path for record in rig.openai.requests))


def active(**fields: Any) -> str:
    """The configuration with another ``checks.active``; fields in YAML's flow form."""
    begin, end = CONFIG.index("        active:"), CONFIG.index("        passive:")
    lines = "".join(f"          {name}: {value}\n" for name, value in fields.items())
    return CONFIG[:begin] + "        active:\n" + lines + CONFIG[end:]


# --- Running ----------------------------------------------------------------------------------


def test_probes_begin_with_the_start_without_any_traffic(ca_dir: Path, loop_kind: str) -> None:
    with running(ca_dir, quick_probes(config_of(CONFIG)), loop_kind=loop_kind) as rig:
        for provider in (rig.openai, rig.deepseek):
            wait_until(lambda: len(provider.requests) >= 3, "it is probed")  # noqa: B023 (called at once)
            probe = provider.requests[0]
            assert (probe.method, probe.path) == ("GET", "/")
            names = [name.lower() for name, _ in probe.headers]
            assert "host" in names
            assert "authorization" not in names  # no key goes where none is needed
        assert rig.counts()["requests"] == 0
        assert is_up(rig) and is_up(rig, DEEPSEEK)


def test_no_checks_no_probes(ca_dir: Path) -> None:
    with running(ca_dir, CONFIG[: CONFIG.index("      checks:")]) as rig:
        assert ask(rig).status_code == 200
        assert rig.call(lambda: [record.path for record in rig.openai.requests]) == [CHAT]


def test_probe_is_sent_as_the_file_says(ca_dir: Path) -> None:
    text = active(http_path="/v1/models?probe=1", http_method="HEAD", req_headers='["X-Probe: yes"]')
    with probing(ca_dir, text) as rig:
        wait_until(lambda: rig.call(lambda: len(rig.openai.requests)) > 0, "it is probed")
        probe = rig.call(lambda: rig.openai.requests[0])
        assert probe.method == "HEAD"
        assert probe.path.startswith("/v1/models")
        assert ("x-probe", "yes") in [(name.lower(), value) for name, value in probe.headers]


def test_each_node_is_probed_in_its_own_rhythm(ca_dir: Path) -> None:
    """A node whose probes hang does not keep those of the others back."""
    with probing(ca_dir) as rig:
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)
        seen = rig.call(lambda: rig.deepseek.counters.requests)
        wait_until(
            lambda: rig.call(lambda: rig.deepseek.counters.requests) > seen + 10, "the other is probed"
        )


def test_interval_lies_between_probes(ca_dir: Path) -> None:
    with probing(ca_dir, interval_s=0.2) as rig:
        wait_until(lambda: probes_of(rig) >= 6, "six probes")
        times = rig.call(lambda: [record.began_at for record in rig.openai.requests])
        assert all(after - before >= 0.18 for before, after in pairwise(times)), times


def test_probes_leave_no_connection_behind(ca_dir: Path) -> None:
    with probing(ca_dir) as rig:
        wait_until(lambda: probes_of(rig) >= 10, "ten probes")
        assert rig.call(lambda: rig.openai.connections_open) <= 2
        assert rig.counts()["node_connections_opened"] == 0  # requests' own connections are counted there


# --- Verdicts ---------------------------------------------------------------------------------

OUTAGES: list[tuple[str, FaultKind, dict[str, Any]]] = [
    ("refuse", FaultKind.REFUSE, {}),
    ("bad certificate", FaultKind.BAD_CERTIFICATE, {}),
    ("handshake hang", FaultKind.HANDSHAKE_HANG, {}),
    ("silent", FaultKind.HANG_BEFORE_HEAD, {}),
    ("500", FaultKind.STATUS, {"status": 500}),
    ("503", FaultKind.STATUS, {"status": 503}),
    ("reset", FaultKind.RESET_BEFORE_HEAD, {}),
    ("no HTTP", FaultKind.RAW, {"body": "220 mail.example ESMTP\r\n"}),
]


@pytest.mark.parametrize(("name", "kind", "parameters"), OUTAGES, ids=[outage[0] for outage in OUTAGES])
def test_outage_is_found_and_ended_by_probes_alone(
    ca_dir: Path, name: str, kind: FaultKind, parameters: dict[str, Any]
) -> None:
    is_silent = kind in (FaultKind.HANDSHAKE_HANG, FaultKind.HANG_BEFORE_HEAD)
    with probing(ca_dir, timeout_s=SILENT_S if is_silent else 20.0) as rig:
        wait_until(lambda: probes_of(rig) >= 1, "it is probed")
        rig.fault(rig.openai, kind, **parameters)
        wait_until(lambda: not is_up(rig), "the outage is found")
        assert is_up(rig, DEEPSEEK)
        answer = ask(rig)
        assert answer.headers["x-fastgw-upstream"] == DEEPSEEK
        assert answer.headers["x-fastgw-attempts"] == "1"  # nobody pays for what is known
        rig.fault(rig.openai, None)
        wait_until(lambda: is_up(rig), "its end is found")
        answer = ask(rig)
        assert (answer.headers["x-fastgw-upstream"], answer.headers["x-fastgw-attempts"]) == (OPENAI, "1")


def test_one_failure_fewer_than_the_threshold_is_no_outage(ca_dir: Path) -> None:
    text = active(type="https", unhealthy="{http_failures: 3}", healthy="{successes: 1}")
    with probing(ca_dir, text) as rig:
        wait_until(lambda: probes_of(rig) >= 1, "it is probed")
        for _ in range(3):
            seen = probes_of(rig)
            rig.fault(rig.openai, FaultKind.STATUS, status=500, count=2)
            wait_until(lambda: probes_of(rig) >= seen + 5, "two failures, then successes")  # noqa: B023
            assert is_up(rig)
        rig.fault(rig.openai, FaultKind.STATUS, status=500, count=3)
        generation = rig.nodes()[OPENAI].generation
        wait_until(lambda: rig.nodes()[OPENAI].generation > generation, "three are an outage")


def test_successes_wanted_are_waited_for(ca_dir: Path) -> None:
    text = active(type="https", unhealthy="{http_failures: 1}", healthy="{successes: 4}")
    with probing(ca_dir, text, interval_s=0.05) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        wait_until(lambda: not is_up(rig), "the outage is found")

        def mend() -> int:
            rig.openai.fault = None
            return rig.openai.counters.requests

        seen = rig.call(mend)  # in one step: there is none in between
        wait_until(lambda: is_up(rig), "its end is found")
        assert rig.call(lambda: rig.openai.counters.requests) - seen >= 4


@pytest.mark.parametrize(
    ("status", "healthy", "unhealthy", "expected"),
    [
        (404, "", "", True),  # it answers: it is there
        (401, "", "", True),
        (429, "", "", True),
        (500, "", "", False),
        (404, "", "[404]", False),
        (418, "[418]", "", True),
        (503, "[503]", "", True),
        (302, "[200]", "", True),  # in neither list: below 500 is up
        (599, "", "[500]", False),
    ],
)
def test_status_of_a_probe_counts_as_the_file_says(
    ca_dir: Path, status: int, healthy: str, unhealthy: str, expected: bool
) -> None:
    text = active(
        type="https",
        healthy="{successes: 1" + (f", http_statuses: {healthy}" if healthy else "") + "}",
        unhealthy="{http_failures: 1" + (f", http_statuses: {unhealthy}" if unhealthy else "") + "}",
    )
    with probing(ca_dir, text) as rig:
        # From the other side, so that the verdict is a change.
        rig.fault(rig.openai, FaultKind.STATUS, status=200 if not expected and not healthy else 500)
        if expected:
            wait_until(lambda: not is_up(rig), "it is out first")
        rig.fault(rig.openai, FaultKind.STATUS, status=status)
        wait_until(lambda: is_up(rig) is expected, f"{status} is {'up' if expected else 'down'}")


def test_certificate_of_another_name_or_authority_is_a_failed_probe(ca_dir: Path) -> None:
    text = active(type="https", unhealthy="{tcp_failures: 2}", healthy="{successes: 1}")
    with probing(ca_dir, text) as rig:
        for variant in ("wrong_name", "expired", "unknown_ca"):
            try:
                rig.fault(rig.openai, FaultKind.BAD_CERTIFICATE, variant=variant)
            except ValueError:
                pytest.fail(f"the simulation has no variant {variant}")
            wait_until(lambda: not is_up(rig), f"{variant} is found")
            assert rig.nodes()[OPENAI].cause == _core.Cause.ACTIVE
            rig.fault(rig.openai, None)
            wait_until(lambda: is_up(rig), "and forgiven")


def test_tcp_probe_wants_a_connection_and_no_more(ca_dir: Path) -> None:
    text = active(type="tcp", unhealthy="{tcp_failures: 2}", healthy="{successes: 1}")
    with probing(ca_dir, text) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        seen = rig.call(lambda: rig.openai.counters.connections)
        wait_until(lambda: rig.call(lambda: rig.openai.counters.connections) > seen + 5, "it is probed")
        assert is_up(rig)
        assert rig.call(lambda: len(rig.openai.requests)) == 0  # nothing was asked
        rig.fault(rig.openai, FaultKind.REFUSE)
        wait_until(lambda: not is_up(rig), "the outage is found")
        rig.fault(rig.openai, None)
        wait_until(lambda: is_up(rig), "its end is found")


def test_plain_http_probe_goes_to_its_own_port(ca_dir: Path) -> None:
    """As the literal file of the article would do it: plain HTTP, here to a port that speaks it."""
    with running(ca_dir) as helper:
        # Any HTTP server does: the data port of another gateway answers 404, below 500.
        config = quick_probes(
            config_of(CONFIG), type="http", port=helper.port, host="127.0.0.1", timeout_s=20.0
        )
        there = ("127.0.0.1", helper.port)
        config = with_connect_to(config, there)
        with running(ca_dir, config) as rig:
            before = helper.call(lambda: helper.gateway.answered)
            wait_until(
                lambda: helper.call(lambda: helper.gateway.answered) >= before + 6, "both are probed there"
            )
            assert is_up(rig) and is_up(rig, DEEPSEEK)
            assert ask(rig).status_code == 200
            assert probes_of(rig) == 0


def with_connect_to(config: Config, there: tuple[str, int]) -> Config:
    """Every name with this port is there, whatever it is."""
    from dataclasses import replace

    return replace(config, process=replace(config.process, connect_to=(("", there[1], *there),)))


def test_interval_of_zero_never_probes(ca_dir: Path) -> None:
    with probing(ca_dir, interval_s=0.0) as rig:
        for _ in range(3):
            assert ask(rig).status_code == 200
        assert probes_of(rig) == 0


# --- Those who wait ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_stream", [False, True])
def test_verdict_of_the_probes_reaches_those_who_wait(ca_dir: Path, is_stream: bool, loop_kind: str) -> None:
    """The primary falls silent. Callers pay the probes' time, not a deadline (here 100 s)."""
    config = quick_probes(config_of(PATIENT), 0.1, timeout_s=SILENT_S)
    with running(ca_dir, config, loop_kind=loop_kind) as rig:
        assert ask(rig).headers["x-fastgw-upstream"] == OPENAI
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)

        async def main() -> float:
            connections = [await Connection.open(rig.port) for _ in range(32)]
            for number, connection in enumerate(connections):
                body = chat(f"please echo request-{number:03d}", stream=is_stream)
                connection.writer.write(encode("POST", CHAT, None, body))
            begin = monotonic()
            answers = await asyncio.gather(*(connection.answer() for connection in connections))
            took = monotonic() - begin
            for number, answer in enumerate(answers):
                assert (answer.status, answer.is_whole) == (200, True), answer
                assert answer.headers["x-fastgw-upstream"] == DEEPSEEK
                assert answer.body.count(b"request-%03d" % number) == 1
            for connection in connections:
                await connection.close()
            return took

        assert asyncio.run(main()) < 60  # the goal is a second; a deadline would be 100
        wait_until(lambda: rig.call(lambda: rig.openai.counters.aborted) >= 32, "the silent one is let go")
        assert rig.counts()["exchanges"] == 0


def test_verdict_reaches_those_who_hold_an_answer_without_content(ca_dir: Path) -> None:
    """A provider that only breathes: a 200 and comments, and its probes fail."""
    with probing(ca_dir, PATIENT, timeout_s=SILENT_S) as rig:
        rig.fault(rig.openai, FaultKind.KEEPALIVE_FLOOD, interval_s=0.05, paths="api")
        with httpx.Client(timeout=200) as client:
            request = client.build_request(
                "POST", rig.url + CHAT, json={"model": "gpt-4o", "messages": MESSAGES, "stream": True}
            )

            async def main() -> httpx.Response:
                answer = asyncio.create_task(asyncio.to_thread(client.send, request))
                await asyncio.to_thread(
                    wait_until,
                    lambda: rig.call(lambda: any(r.path == CHAT for r in rig.openai.requests)),
                    "it waits",
                )
                await asyncio.to_thread(rig.fault, rig.openai, FaultKind.HANG_BEFORE_HEAD)
                return await answer

            answer = asyncio.run(main())
        assert answer.headers["x-fastgw-upstream"] == DEEPSEEK
        assert answer.text.endswith("data: [DONE]\n\n")


def test_stream_with_content_is_not_disturbed_by_a_verdict(ca_dir: Path) -> None:
    with probing(ca_dir, PATIENT) as rig:

        async def main() -> None:
            connection = await Connection.open(rig.port)
            headers = {"x-sim-tokens": "60", "x-sim-delay-ms": "20"}
            connection.writer.write(encode("POST", CHAT, headers, chat("hello", stream=True)))
            await connection.head()
            await connection.until(b'"content"')
            await asyncio.to_thread(rig.fault, rig.openai, FaultKind.STATUS, status=500, paths="root")
            await asyncio.to_thread(wait_until, lambda: not is_up(rig), "the probes find it out")
            text = b""
            while piece := await connection.piece():
                text += piece
            assert text.endswith(b"data: [DONE]\n\n")
            await connection.close()

        asyncio.run(main())


# --- Probes and traffic -----------------------------------------------------------------------


def test_probe_does_not_end_what_live_traffic_found(ca_dir: Path) -> None:
    """Its API is down but ``/`` answers 200: the primary must not flap with every probe."""
    with probing(ca_dir) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500, paths="api")
        for _ in range(3):
            assert ask(rig).headers["x-fastgw-upstream"] == DEEPSEEK
        node = rig.nodes()[OPENAI]
        assert not is_up(rig)
        assert node.cause == _core.Cause.PASSIVE
        until, generation = node.ejected_until, node.generation
        seen = probes_of(rig)
        wait_until(
            lambda: probes_of(rig) > seen + 5 or monotonic() > until - 0.05, "probes say that it is well"
        )
        if monotonic() < until - 0.05:
            assert not is_up(rig)
            assert node.generation == generation
        # A trial at the end of each term is all that reaches it, however often it is probed. The terms are of
        # 1, 2, 4, 4 ... s, and a tenth less.
        tried = rig.call(lambda: sum(record.path == CHAT for record in rig.openai.requests))
        begin = monotonic()
        for _ in range(40):
            assert ask(rig).headers["x-fastgw-upstream"] == DEEPSEEK
        most = 3 + (monotonic() - begin) / 3.6
        assert rig.call(lambda: sum(record.path == CHAT for record in rig.openai.requests)) - tried <= most


def test_recovered_primary_gets_its_traffic_back(ca_dir: Path) -> None:
    with probing(ca_dir) as rig:
        for kind, parameters in (
            (FaultKind.STATUS, {"status": 500}),
            (FaultKind.REFUSE, {}),
            (FaultKind.STATUS, {"status": 500, "paths": "api"}),
        ):
            rig.fault(rig.openai, kind, **parameters)
            wait_until(
                lambda: ask(rig).headers["x-fastgw-upstream"] == DEEPSEEK and not is_up(rig), "it is out"
            )
            rig.fault(rig.openai, None)
            wait_until(lambda: ask(rig).headers["x-fastgw-upstream"] == OPENAI, "it is back")
            for _ in range(5):
                assert ask(rig).headers["x-fastgw-upstream"] == OPENAI


def test_failing_probes_keep_trials_back(ca_dir: Path) -> None:
    """No caller's request is spent on a node that a probe has just found silent."""
    with probing(ca_dir) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        for _ in range(3):
            ask(rig)
        wait_until(lambda: not is_up(rig), "it is out")
        wait_until(lambda: rig.nodes()[OPENAI].probe_failing, "and a probe has said so too")
        tried = rig.call(lambda: sum(record.path == CHAT for record in rig.openai.requests))
        over = rig.nodes()[OPENAI].ejected_until
        wait_until(
            lambda: ask(rig).headers["x-fastgw-attempts"] == "1" and monotonic() > over + 0.3,
            "its term is over",
        )
        assert rig.call(lambda: sum(record.path == CHAT for record in rig.openai.requests)) == tried
