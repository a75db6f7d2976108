"""What the recorder counts of exchanges, probes and connections, and how workers' figures add up."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from exchange_bench import (
    COMPLETION,
    DONE,
    END,
    FINISH,
    ROLE,
    STREAM_BODY,
    STREAM_HEAD,
    Bench,
    chunk,
    content,
    error_response,
    json_response,
)

from fastgw._core import Node
from fastgw._shm import MetricKind, Metrics
from fastgw.balancing.upstream import Upstream
from fastgw.errors import ConnectFailed
from fastgw.llm.account import Finding, Standing
from fastgw.llm.usage import Usage
from fastgw.metrics import COUNTED, READ, STANDINGS, Recorder, code_of, label_upstreams
from fastgw.proxy.plan import RoutePlan

Make = Callable[..., "Counted"]


class Counted:
    """A bench whose exchanges are counted."""

    def __init__(self, bench: Bench, metrics: Metrics) -> None:
        self.bench = bench
        self.metrics = metrics
        self.recorder = Recorder(metrics, lambda exchange, _: bench.finished.append(exchange), bench.clock)
        self.recorder.register([bench.plan])
        bench.exchanges.on_finished = self.recorder.on_finished

    def counts(self, family: str) -> dict[tuple[str, ...], int]:
        """Counters and gauges of a family that are not zero, by their label values."""
        return counts_of(self.metrics, family)

    def histogram(self, family: str, *labels: str) -> tuple[int, float]:
        """How many values there were, and their sum."""
        for name, _, found, value in self.metrics.collect():
            if name == family and found == labels:
                assert isinstance(value, tuple)
                return sum(value[0]), value[1]
        raise KeyError((family, labels))


def counts_of(metrics: Metrics, family: str) -> dict[tuple[str, ...], int]:
    return {
        labels: value
        for name, kind, labels, value in metrics.collect()
        if name == family and kind is not MetricKind.HISTOGRAM and isinstance(value, int) and value
    }


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def made(*args: Any, metrics: Metrics | None = None, **options: Any) -> Counted:
        return Counted(Bench(monkeypatch, *args, **options), Metrics() if metrics is None else metrics)

    return made


# --- Requests ---------------------------------------------------------------------------------


def test_a_request_is_counted_once_by_route_code_and_stream(make: Make) -> None:
    counted = make()
    bench = counted.bench
    bench.ask()
    node = bench.connect()
    node.say(json_response(COMPLETION))
    bench.ask(STREAM_BODY)
    node.say(STREAM_HEAD, chunk(ROLE), chunk(content("hi")), chunk(FINISH), chunk(DONE), END)
    assert counted.counts("fastgw_requests_total") == {
        ("route", "200", "false"): 1,
        ("route", "200", "true"): 1,
    }
    assert counted.counts("fastgw_upstream_requests_total") == {("", "a", "succeeded"): 2}
    assert not counted.counts("fastgw_retries_total")
    bench.check_end()


def test_times_are_those_of_the_clock(make: Make) -> None:
    counted = make()
    bench = counted.bench
    bench.client.data_received(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n\r\n{"
    )
    bench.clock.now += 1.0  # the client takes its time
    bench.client.data_received(b"}")
    bench.clock.now += 2.0  # connecting
    node = bench.connect()
    bench.clock.now += 4.0  # waiting
    node.say(json_response(COMPLETION))
    assert counted.histogram("fastgw_request_duration_seconds", "route") == (1, 7.0)
    assert counted.histogram("fastgw_upstream_duration_seconds", "", "a") == (1, 4.0)
    assert counted.histogram("fastgw_gateway_overhead_seconds") == (1, 1.0)
    assert counted.histogram("fastgw_time_to_first_token_seconds", "route", "a") == (0, 0.0)


def test_time_to_the_first_token_is_the_callers(make: Make) -> None:
    counted = make()
    bench = counted.bench
    bench.ask(STREAM_BODY)
    bench.clock.now += 1.0
    bench.dialled().fail(ConnectFailed())
    node = bench.connect(1)
    bench.clock.now += 0.5
    node.say(STREAM_HEAD, chunk(ROLE))
    bench.clock.now += 0.25
    node.say(chunk(content("hi")))
    bench.clock.now += 8.0
    node.say(chunk(FINISH), chunk(DONE), END)
    assert counted.histogram("fastgw_time_to_first_token_seconds", "route", "a") == (0, 0.0)
    assert counted.histogram("fastgw_time_to_first_token_seconds", "route", "b") == (1, 1.75)


def test_an_error_that_a_node_gave_is_no_first_token(make: Make) -> None:
    counted = make(1)
    bench = counted.bench
    bench.ask(STREAM_BODY)
    bench.connect().say(error_response(400, "bad"))
    assert counted.counts("fastgw_requests_total") == {("route", "400", "true"): 1}
    assert counted.counts("fastgw_upstream_requests_total") == {("", "a", "refused_request"): 1}
    assert counted.histogram("fastgw_time_to_first_token_seconds", "route", "a") == (0, 0.0)


def test_each_status_has_a_series_of_its_own_from_its_first_answer_on(make: Make) -> None:
    counted = make(1, is_llm=False)
    bench = counted.bench
    bench.ask()
    node = bench.connect()
    node.say(json_response({}, 404))
    for status in (201, 404):
        bench.ask()
        node.say(json_response({}, status))
    assert counted.counts("fastgw_requests_total") == {
        ("route", "404", "false"): 2,
        ("route", "201", "false"): 1,
    }


def test_a_status_label_has_a_bound() -> None:
    assert [code_of(status) for status in (100, 599, 99, 600, 0)] == ["100", "599", "other", "other", "other"]


def test_a_request_without_an_exchange_is_counted(make: Make) -> None:
    counted = make()
    counted.recorder.answered("", 404)
    counted.recorder.answered("", 404)
    counted.recorder.answered("route", 401)
    assert counted.counts("fastgw_requests_total") == {("", "404", "false"): 2, ("route", "401", "false"): 1}


def test_an_exchange_of_a_route_that_was_never_registered_is_no_accident(make: Make) -> None:
    counted = make()
    counted.bench.plan.metrics = None
    counted.bench.ask()
    counted.bench.connect().say(json_response(COMPLETION))
    assert not counted.counts("fastgw_requests_total")
    assert len(counted.bench.finished) == 1


# --- Attempts ---------------------------------------------------------------------------------


def test_a_failover_is_counted_with_its_reason_and_its_nodes(make: Make) -> None:
    counted = make()
    bench = counted.bench
    bench.ask()
    bench.connect().say(error_response(429, "rate_limit_exceeded"))
    bench.connect(1).say(json_response(COMPLETION))
    assert counted.counts("fastgw_upstream_requests_total") == {
        ("", "a", "rate_limited"): 1,
        ("", "b", "succeeded"): 1,
    }
    assert counted.counts("fastgw_retries_total") == {("", "rate_limited"): 1}
    assert counted.counts("fastgw_failovers_total") == {("", "a", "b"): 1}
    assert not counted.counts("fastgw_duplicate_risk_total")
    assert counted.counts("fastgw_requests_total") == {("route", "200", "false"): 1}


def test_a_risk_of_running_twice_is_counted_by_the_attempt_that_may_have_run(make: Make) -> None:
    counted = make(3)
    bench = counted.bench
    bench.ask()
    bench.dialled().fail(ConnectFailed())
    bench.connect(1).say(error_response(500))
    bench.connect(2).say(json_response(COMPLETION))
    assert counted.counts("fastgw_duplicate_risk_total") == {("server_error",): 1}
    assert counted.counts("fastgw_failovers_total") == {("", "a", "b"): 1, ("", "b", "c"): 1}
    assert counted.counts("fastgw_retries_total") == {
        ("", "upstream_connect_failed"): 1,
        ("", "server_error"): 1,
    }


def test_no_risk_is_counted_where_no_other_attempt_followed(make: Make) -> None:
    counted = make(1)
    counted.bench.ask()
    counted.bench.connect().say(error_response(500))
    assert counted.counts("fastgw_requests_total") == {("route", "500", "false"): 1}
    assert counted.counts("fastgw_upstream_requests_total") == {("", "a", "server_error"): 1}
    for family in ("fastgw_duplicate_risk_total", "fastgw_retries_total", "fastgw_failovers_total"):
        assert not counted.counts(family)


def test_attempts_of_a_request_that_failed_altogether_are_counted(make: Make) -> None:
    counted = make()
    bench = counted.bench
    bench.ask()
    bench.dialled().fail(ConnectFailed())
    bench.dialled(1).fail(ConnectFailed())
    assert counted.counts("fastgw_requests_total") == {("route", "502", "false"): 1}
    assert counted.counts("fastgw_upstream_requests_total") == {
        ("", "a", "upstream_connect_failed"): 1,
        ("", "b", "upstream_connect_failed"): 1,
    }
    assert counted.histogram("fastgw_gateway_overhead_seconds") == (0, 0.0)


# --- Ends that nobody wanted ------------------------------------------------------------------


def test_an_interrupted_stream_is_counted_once(make: Make) -> None:
    counted = make()
    bench = counted.bench
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(ROLE), chunk(content("hi")))
    node.reset()
    assert counted.counts("fastgw_streams_interrupted_total") == {(): 1}
    assert counted.counts("fastgw_upstream_requests_total") == {("", "a", "stream_interrupted"): 1}
    assert counted.counts("fastgw_requests_total") == {("route", "200", "true"): 1}


def test_a_client_that_leaves_is_counted_by_what_it_waited_for(make: Make) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\nContent-Length: 9\r\n\r\n{"
    reading, streaming, waiting, relaying = make(), make(limits={"hold_body_bytes": 4}), make(), make()
    reading.bench.client.data_received(head)
    streaming.bench.client.data_received(head)  # and is attempted already
    waiting.bench.ask()
    relaying.bench.ask(STREAM_BODY)
    relaying.bench.connect().say(STREAM_HEAD, chunk(ROLE), chunk(content("hi")))
    counted_as = ("reading", reading), ("reading", streaming), ("waiting", waiting), ("relaying", relaying)
    for phase, counted in counted_as:
        counted.bench.client.connection_lost(None)
        assert counted.counts("fastgw_client_disconnects_total") == {(phase,): 1}
    assert waiting.counts("fastgw_requests_total") == {("route", "499", "false"): 1}
    assert waiting.counts("fastgw_upstream_requests_total") == {("", "a", "ignored"): 1}
    assert relaying.counts("fastgw_requests_total") == {("route", "200", "true"): 1}


# --- Loading a configuration ------------------------------------------------------------------


def test_what_a_process_has_done_for_want_of_something_is_counted_once() -> None:
    metrics = Metrics()
    recorder, other = Recorder(metrics), Recorder(metrics)
    told = {"slow_evicted": 5, "idle_evicted": 2, "accept_pauses": 1, "stale_reuses": 3, "log_dropped": 0}
    recorder.count_defences(**told)
    recorder.count_defences(**told | {"slow_evicted": 7})
    other.count_defences(**told)  # of another process
    assert counts_of(metrics, "fastgw_connections_evicted_total") == {("slow",): 12, ("idle",): 4}
    assert counts_of(metrics, "fastgw_accept_pauses_total") == {(): 2}
    assert counts_of(metrics, "fastgw_stale_reuses_total") == {(): 6}
    assert counts_of(metrics, "fastgw_access_log_dropped_total") == {}


def plan(name: str, upstream: Upstream | None) -> RoutePlan:
    return RoutePlan(name, upstream, ())


def test_everything_that_can_be_known_is_there_before_the_first_request(make: Make) -> None:
    found = {(name, labels) for name, _, labels, _ in make().metrics.collect()}
    assert {
        ("fastgw_requests_total", ("route", "200", "false")),
        ("fastgw_requests_total", ("route", "200", "true")),
        ("fastgw_request_duration_seconds", ("route",)),
        ("fastgw_time_to_first_token_seconds", ("route", "b")),
        ("fastgw_upstream_requests_total", ("", "b", "succeeded")),
        ("fastgw_upstream_duration_seconds", ("", "b")),
        ("fastgw_failovers_total", ("", "a", "b")),
        ("fastgw_failovers_total", ("", "b", "a")),
        ("fastgw_streams_interrupted_total", ()),
        ("fastgw_client_disconnects_total", ("waiting",)),
    } <= found


def test_a_reload_registers_what_is_new_and_keeps_the_figures(make: Make) -> None:
    counted = make()
    counted.bench.ask()
    counted.bench.connect().say(json_response(COMPLETION))
    before = len(counted.metrics)
    counted.recorder.register([counted.bench.plan])
    assert len(counted.metrics) == before
    counted.recorder.register([plan("another", None)])
    assert len(counted.metrics) == before + 2
    assert counted.counts("fastgw_requests_total") == {("route", "200", "false"): 1}


def test_a_plain_route_has_no_series_of_streams(make: Make) -> None:
    counted = make(is_llm=False)
    labels = {found for name, _, found, _ in counted.metrics.collect() if name == "fastgw_requests_total"}
    assert labels == {("route", "200", "false")}


def test_namesakes_among_upstreams_are_told_apart() -> None:
    one, other, third = (Upstream([Node("10.0.0.1", 80)], name=name) for name in ("a", "a", "b"))
    assert label_upstreams([one, other, one, third]) == (("a", one), ("a#2", other), ("b", third))


def test_without_room_requests_go_on_and_what_is_missing_is_counted(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "fastgw.metrics"):
        counted = make(metrics=Metrics(8))
        counted.bench.ask()
        counted.bench.connect().say(json_response(COMPLETION))
    assert len(counted.bench.finished) == 1
    assert counted.counts("fastgw_metrics_refused_series_total")[()] > 0
    assert len(caplog.records) == 1, "said once"


# --- Probes, connections, reloads -------------------------------------------------------------


def test_probes_are_counted_by_result_and_all_results_are_there_from_the_first_on(make: Make) -> None:
    counted = make()
    node = counted.bench.nodes[0]
    counted.recorder.probed(counted.bench.upstream, node, "success")
    counted.recorder.probed(counted.bench.upstream, node, "success")
    counted.recorder.probed(counted.bench.upstream, node, "failure")
    assert counted.counts("fastgw_health_checks_total") == {("", "a", "success"): 2, ("", "a", "failure"): 1}
    results = [
        labels for name, _, labels, _ in counted.metrics.collect() if name == "fastgw_health_checks_total"
    ]
    assert results == [("", "a", "success"), ("", "a", "failure"), ("", "a", "ignored")]


def test_a_late_probe_of_an_upstream_that_is_gone_is_counted_under_its_name(make: Make) -> None:
    counted = make()
    gone = Upstream([Node("10.0.0.1", 80, name="n")], name="gone")
    counted.recorder.probed(gone, gone.nodes[0], "success")
    assert counted.counts("fastgw_health_checks_total") == {("gone", "n", "success"): 1}


def test_what_workers_counted_is_summed_and_of_a_dead_one_only_the_gauges_go(make: Make) -> None:
    memory = mmap.mmap(-1, Metrics.bytes_needed(4096, 2))
    one, other = (make(metrics=Metrics(4096, memory, worker=worker, workers=2)) for worker in (0, 1))
    for counted in (one, other):
        counted.bench.ask()
        counted.bench.connect().say(error_response(429, "rate_limit_exceeded"))
        counted.bench.connect(1).say(json_response(COMPLETION))
    for counted in (one, other):
        counted.recorder.set_connections(clients=5, requests=2, busy=1, idle=3, dialling=0)
    other.recorder.set_reload(False)
    for counted in (one, other):
        assert counted.counts("fastgw_requests_total") == {("route", "200", "false"): 2}
        assert counted.counts("fastgw_retries_total") == {("", "rate_limited"): 2}
        assert counted.histogram("fastgw_request_duration_seconds", "route")[0] == 2
        assert counted.counts("fastgw_connections") == {
            ("client", "busy"): 4,
            ("client", "idle"): 6,
            ("node", "busy"): 2,
            ("node", "idle"): 6,
        }
        assert counted.counts("fastgw_config_last_reload_failed") == {(): 1}
    one.metrics.recover(1)
    assert one.counts("fastgw_requests_total") == {("route", "200", "false"): 2}
    assert one.counts("fastgw_connections") == {
        ("client", "busy"): 2,
        ("client", "idle"): 3,
        ("node", "busy"): 1,
        ("node", "idle"): 3,
    }
    assert not one.counts("fastgw_config_last_reload_failed")


# --- The families -----------------------------------------------------------------------------


def test_families_are_named_as_prometheus_wants_it() -> None:
    families = [*COUNTED, *READ]
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("fastgw_")
        assert family.help.endswith(".")
        assert (family.kind is MetricKind.COUNTER) == family.name.endswith("_total")
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb", "_count", "_sum", "_bucket"))
        assert (family.kind is MetricKind.HISTOGRAM) == bool(family.buckets)
        if family.buckets:
            assert family.name.endswith("_seconds")


def test_what_was_lost_on_a_reused_connection_is_one_attempt(make: Make) -> None:
    counted = make()
    bench = counted.bench
    node = bench.warm()
    bench.ask()
    node.connection.served = 2
    node.reset()
    bench.connect().say(json_response(COMPLETION))
    assert counted.counts("fastgw_upstream_requests_total") == {("", "a", "succeeded"): 1}
    assert not counted.counts("fastgw_retries_total")


# --- Tokens -----------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}


def answer_with(usage: object) -> dict[str, object]:
    choices = [{"message": {"content": "hi"}, "finish_reason": "stop"}]
    return {"model": "m", "choices": choices, "usage": usage}


def test_tokens_are_counted_as_the_provider_told_them_and_handed_on(make: Make) -> None:
    counted = make()
    told: list[Usage | None] = []
    counted.recorder.then = lambda _, usage: told.append(usage)
    counted.bench.ask()
    node = counted.bench.connect()
    node.say(json_response(answer_with(USAGE)))
    assert counted.counts("fastgw_tokens_total") == {
        ("a", "other", "prompt"): 7,
        ("a", "other", "completion"): 5,
        ("a", "other", "cached"): 3,
    }
    assert told == [Usage(7, 5, 3)]
    counted.bench.ask()
    node.say(json_response(answer_with(None)))
    assert told[1] is None
    assert sum(counted.counts("fastgw_tokens_total").values()) == 15
    assert counted.histogram("fastgw_inter_token_seconds", "route", "a") == (0, 0.0)


def test_an_error_told_no_usage(make: Make) -> None:
    counted = make(1)
    told: list[Usage | None] = []
    counted.recorder.then = lambda _, usage: told.append(usage)
    counted.bench.ask()
    counted.bench.connect().say(error_response(400, "bad", "invalid_request_error"))
    assert told == [None]
    assert not counted.counts("fastgw_tokens_total")


def test_the_time_between_tokens_is_the_mean_of_a_whole_stream(make: Make) -> None:
    counted = make()
    bench = counted.bench
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(ROLE), chunk(content("hi")))
    bench.clock.now += 2.0
    usage = orjson.dumps({"choices": [], "usage": USAGE})
    node.say(chunk(FINISH), chunk(b"data: " + usage + b"\n\n"), chunk(DONE), END)
    assert counted.histogram("fastgw_inter_token_seconds", "route", "a") == (1, 0.5)
    assert counted.counts("fastgw_tokens_total")["a", "other", "completion"] == 5


# --- Accounts ---------------------------------------------------------------------------------


def test_what_an_account_check_found_is_in_the_memory_until_it_is_withdrawn(make: Make) -> None:
    counted = make()
    recorder, bench = counted.recorder, counted.bench
    upstream = bench.plan.upstream
    assert upstream is not None
    node = upstream.nodes[0]
    bench.clock.now = 100.0
    recorder.checked(upstream, node, Finding(Standing.MODEL_MISSING, ("x", "y")))
    place = ("", node.name)
    assert counted.counts("fastgw_account_standing") == {place: STANDINGS.index(Standing.MODEL_MISSING) + 1}
    assert counted.counts("fastgw_account_checked_milliseconds") == {place: 100_000}
    assert counted.counts("fastgw_model_missing") == {(*place, "x"): 1, (*place, "y"): 1}
    recorder.checked(upstream, node, Finding(Standing.MODEL_MISSING, ("y",)))
    assert counted.counts("fastgw_model_missing") == {(*place, "y"): 1}
    recorder.checked(upstream, node, Finding(Standing.GOOD))
    assert counted.counts("fastgw_account_checks_total") == {
        (*place, "model_missing"): 2,
        (*place, "good"): 1,
    }
    recorder.checked(upstream, node, None)
    for family in ("fastgw_account_standing", "fastgw_account_checked_milliseconds", "fastgw_model_missing"):
        assert not counted.counts(family)
