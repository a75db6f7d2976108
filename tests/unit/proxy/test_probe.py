"""Health requests of our own: what they send, and what an answer counts as."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fake_pool import FakePool, fake_pool

from fastgw._core import Node, Report
from fastgw.balancing.health import HealthPolicy, Thresholds
from fastgw.balancing.upstream import Upstream
from fastgw.errors import ConnectFailed, ConnectTimeout, TlsFailed
from fastgw.proxy.probe import ProbedNode, Prober, ProbeSettings, judge, probe_request

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def prober(pool: FakePool, node: Node | None = None, **settings: Any) -> tuple[Prober, ProbedNode]:
    node = node or Node("10.0.0.1", 80)
    policy = HealthPolicy(active=Thresholds(successes=1, http_failures=1, tcp_failures=1, timeouts=1))
    probed = ProbedNode(node, pool, REQUEST)
    made = Prober(Upstream([node], policy), (probed,), ProbeSettings(**settings))
    return made, probed


def probe_once(pool: FakePool, **settings: Any) -> int | None:
    async def run() -> int | None:
        made, probed = prober(pool, **settings)
        report = await made.probe(probed)
        assert not pool.busy and not pool.idle
        return report

    return asyncio.run(run())


def ok(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n" % status  # the body is not waited for


# --- One probe --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "report"),
    [
        (ok(200), Report.SUCCESS),
        (b"HTTP/1.1 204 X\r\n\r\n", Report.SUCCESS),
        (ok(404), Report.SUCCESS),
        (ok(500), Report.HTTP_FAILURE),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + ok(503), Report.HTTP_FAILURE),
        (b"SSH-2.0-x\r\n", Report.HTTP_FAILURE),
        (b"", Report.TCP_FAILURE),
        (ConnectFailed(), Report.TCP_FAILURE),
        (TlsFailed(), Report.TCP_FAILURE),
        (ConnectTimeout(), Report.TIMEOUT),
    ],
)
def test_what_a_probe_finds(answer: bytes | BaseException, report: Report) -> None:
    pool = fake_pool(answer)
    assert probe_once(pool) == report
    for transport in pool.transports:
        assert transport.sent == REQUEST


def test_silence_is_a_timeout() -> None:
    pool = fake_pool(None)
    assert probe_once(pool, timeout_s=0.01) == Report.TIMEOUT


def test_a_tcp_probe_sends_nothing() -> None:
    pool = fake_pool(None)
    assert probe_once(pool, is_tcp=True) == Report.SUCCESS
    assert pool.transports[0].sent == b""


@pytest.mark.parametrize(
    ("status", "judges", "report"),
    [
        (200, True, Report.SUCCESS),
        (302, True, Report.SUCCESS),
        (418, True, Report.HTTP_FAILURE),
        (404, True, Report.SUCCESS),
        (500, True, Report.HTTP_FAILURE),
        (503, True, Report.SUCCESS),
        (404, False, None),
        (500, False, None),
        (503, False, Report.SUCCESS),
        (418, False, Report.HTTP_FAILURE),
    ],
)
def test_what_a_status_counts_as(status: int, judges: bool, report: Report | None) -> None:
    settings = ProbeSettings(
        healthy_statuses=frozenset({200, 503}),
        unhealthy_statuses=frozenset({418, 503}),
        judges_unlisted=judges,
    )
    assert judge(status, settings) == report


def test_the_request_of_a_probe() -> None:
    assert probe_request("GET", "/live", b"api.example", (("X-A", "1"),)) == (
        b"GET /live HTTP/1.1\r\nConnection: close\r\nX-A: 1\r\nHost: api.example\r\n\r\n"
    )


def test_a_node_may_be_probed_in_a_way_of_its_own() -> None:
    async def run() -> int | None:
        made, probed = prober(fake_pool(ok(404)), timeout_s=30.0)
        settings = ProbeSettings(timeout_s=30.0, unhealthy_statuses=frozenset({404}))
        return await made.probe(replace(probed, settings=settings))

    assert asyncio.run(run()) == Report.HTTP_FAILURE


# --- Probing on ---------------------------------------------------------------------------------


def watch(
    pool: FakePool, until: int, on_report: Callable[[Node], None] | None = None, **settings: Any
) -> Any:
    """Probe a node until so many results are there; returns it and the results."""

    async def run() -> tuple[Node, list[str]]:
        settings.setdefault("healthy_interval_s", 0.001)
        settings.setdefault("unhealthy_interval_s", 0.001)
        made, probed = prober(pool, **settings)
        results: list[str] = []
        enough = asyncio.Event()

        def on_result(node: Node, result: str) -> None:
            results.append(result)
            if on_report is not None:
                on_report(node)
            if len(results) >= until:
                enough.set()

        made.on_result = on_result
        made.start()
        await asyncio.wait_for(enough.wait(), 30)
        await made.stop()
        assert len(asyncio.all_tasks()) == 1
        return probed.node, results

    return asyncio.run(run())


def test_results_move_the_nodes_health() -> None:
    states: list[bool] = []
    pool = fake_pool(ok(500), ok(500), ok(200))
    node, results = watch(pool, 3, lambda node: states.append(node.is_available(0.0)))
    assert results[:3] == ["failure", "failure", "success"]
    assert states[:3] == [False, False, True] and node.is_available(0.0)


def test_a_result_that_says_nothing_changes_nothing() -> None:
    node, results = watch(fake_pool(ok(404)), 2, judges_unlisted=False)
    assert results[:2] == ["ignored", "ignored"] and node.is_available(0.0)


def test_a_probe_that_fails_in_an_unexpected_way_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "fastgw.probe"):
        _, results = watch(fake_pool(ZeroDivisionError(), ok(500), ok(200)), 3)
    assert results[:3] == ["ignored", "failure", "success"]
    assert len(caplog.records) == 1


def test_a_prober_that_is_started_twice_probes_once() -> None:
    async def run() -> None:
        made, _ = prober(fake_pool(None), timeout_s=30.0)
        made.start()
        made.start()
        assert len(asyncio.all_tasks()) == 2  # this one, and that of its node
        await made.stop()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_a_prober_can_be_stopped_at_any_time() -> None:
    async def run() -> None:
        pool = fake_pool(None)
        made, _ = prober(pool, timeout_s=30.0, healthy_interval_s=0.001)
        made.start()
        while not pool.transports:
            await asyncio.sleep(0)
        await made.stop()
        await made.stop()
        assert not pool.busy and len(asyncio.all_tasks()) == 1

    asyncio.run(run())
