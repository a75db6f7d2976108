"""``GET /metrics``: exact figures after real requests, in a form that Prometheus takes."""

from __future__ import annotations

import mmap
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from quick_probes import quick_probes
from rig import CONFIG, DEEPSEEK, MESSAGES, OPENAI, FaultKind, Rig, config_of, running, wait_until
from scrape import Figures, figures, scrape
from source_graph import ROOT
from worker_rig import Node, configuration, running_workers

from fastgw._shm import Metrics
from fastgw.admin import Admin, exposition
from fastgw.metrics import COUNTED, READ
from fastgw.secret import Secret
from fastgw.server import Address
from fastgw.shared_state import METRIC_SERIES, SharedState

QUIET = CONFIG[: CONFIG.index("      checks:")]  # without probes
UPSTREAM = "LLM Service"


def counted(all_figures: Figures, name: str) -> dict[tuple[str, ...], float]:
    """What is not zero of one metric."""
    return {labels: value for labels, value in all_figures.get(name, {}).items() if value}


def ask(rig: Rig, *, stream: bool = False, model: str = "gpt-4o") -> httpx.Response:
    body = {"model": model, "messages": MESSAGES, "stream": stream}
    return httpx.post(rig.base_url + "/chat/completions", json=body, timeout=30)


def settled(rig: Rig) -> None:
    """The gateway has done with every request: its client may have read the end before that."""
    wait_until(lambda: rig.counts()["exchanges"] == 0, "every exchange ended")


# --- Figures ----------------------------------------------------------------------------------


def test_requests_are_counted_exactly(ca_dir: Path, loop_kind: str) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig:
        for stream in (False, False, True):
            assert ask(rig, stream=stream).status_code == 200
        assert httpx.get(rig.url + "/nowhere/" + "x" * 50, timeout=60).status_code == 404
        assert httpx.get(rig.url + "/healthz", timeout=60).status_code == 200
        settled(rig)
        found = figures(rig)
    assert counted(found, "fastgw_requests_total") == {
        ("200", "llm", "false"): 2,
        ("200", "llm", "true"): 1,
        ("404", "", "false"): 1,
        ("200", "healthz", "false"): 1,
    }
    assert counted(found, "fastgw_upstream_requests_total") == {(OPENAI, "succeeded", UPSTREAM): 3}
    assert found["fastgw_request_duration_seconds_count"] == {("llm",): 3}
    assert found["fastgw_request_duration_seconds_bucket"][("+Inf", "llm")] == 3
    assert found["fastgw_gateway_overhead_seconds_count"] == {(): 3}
    assert counted(found, "fastgw_time_to_first_token_seconds_count") == {(OPENAI, "llm"): 1}
    assert counted(found, "fastgw_upstream_duration_seconds_count") == {(OPENAI, UPSTREAM): 3}
    for name in ("fastgw_retries_total", "fastgw_failovers_total", "fastgw_duplicate_risk_total"):
        assert not counted(found, name)


def test_tokens_are_counted_as_the_provider_told_them(ca_dir: Path) -> None:
    lines = "          models: {gpt-4o: gpt-4.1, gpt-5: null}\n"
    text = QUIET.replace("          weight: 100\n", "          weight: 100\n" + lines)
    told: dict[str, list[int]] = {"gpt-4.1": [], "gpt-5": [], "other": []}
    with running(ca_dir, text) as rig:
        for asked, label in (("gpt-4o", "gpt-4.1"), ("gpt-5", "gpt-5"), ("gpt-4o-mini", "other")):
            body: dict[str, Any] = {"model": asked, "messages": MESSAGES}
            usage = httpx.post(rig.base_url + "/chat/completions", json=body, timeout=30).json()["usage"]
            told[label].append(usage["prompt_tokens"])
            told[label].append(usage["completion_tokens"])
        settled(rig)
        found = figures(rig)
        assert counted(found, "fastgw_tokens_total") == {
            (kind, label, OPENAI): float(figure)
            for label, figures_ in told.items()
            for kind, figure in zip(("prompt", "completion"), figures_, strict=True)
        }
        assert not counted(found, "fastgw_inter_token_seconds_count"), "none was a stream"
        body = {"model": "gpt-5", "messages": MESSAGES, "stream": True}
        body["stream_options"] = {"include_usage": True}
        headers = {"x-sim-tokens": "5", "x-sim-delay-ms": "5"}
        url = rig.base_url + "/chat/completions"
        assert httpx.post(url, json=body, headers=headers, timeout=30).text.endswith("[DONE]\n\n")
        del body["stream_options"]
        assert httpx.post(url, json=body, headers=headers, timeout=30).status_code == 200
        settled(rig)
        after = figures(rig)
    tokens = [found["fastgw_tokens_total"]["completion", "gpt-5", OPENAI],
              after["fastgw_tokens_total"]["completion", "gpt-5", OPENAI]]  # fmt: skip
    assert tokens[1] - tokens[0] >= 5
    assert counted(after, "fastgw_inter_token_seconds_count") == {(OPENAI, "llm"): 1}
    assert after["fastgw_inter_token_seconds_sum"][OPENAI, "llm"] > 0


def test_what_the_exchanges_count_is_counted_once(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        exchanges = rig.gateway.exchanges
        rig.call(lambda: setattr(exchanges, "resumed", 2))
        rig.call(lambda: setattr(exchanges, "budget_refusals", 3))
        for _ in range(2):
            assert ask(rig).status_code == 200
        settled(rig)
        found = figures(rig)
    assert found["fastgw_streams_resumed_total"] == {(): 2}
    assert found["fastgw_retry_budget_exhausted_total"] == {(): 3}


def test_a_failover_is_counted_exactly(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        for _ in range(2):
            assert ask(rig).status_code == 200
        settled(rig)
        found = figures(rig)
    assert counted(found, "fastgw_requests_total") == {("200", "llm", "false"): 2}
    assert counted(found, "fastgw_upstream_requests_total") == {
        (OPENAI, "server_error", UPSTREAM): 2,
        (DEEPSEEK, "succeeded", UPSTREAM): 2,
    }
    assert counted(found, "fastgw_retries_total") == {("server_error", UPSTREAM): 2}
    assert counted(found, "fastgw_failovers_total") == {(OPENAI, DEEPSEEK, UPSTREAM): 2}
    assert counted(found, "fastgw_duplicate_risk_total") == {("server_error",): 2}


def test_a_rate_limited_node_rests_and_no_backup_is_ready(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        before = figures(rig)
        assert before["fastgw_node_up"] == {(OPENAI, UPSTREAM): 1, (DEEPSEEK, UPSTREAM): 1}
        assert before["fastgw_backup_ready"] == {(UPSTREAM,): 1}
        rig.fault(rig.openai, FaultKind.STATUS, status=429, headers=(("retry-after", "600"),))
        # The limits of this provider are per model: it takes a second one to see that it is the node's.
        assert ask(rig).status_code == 200
        assert figures(rig)["fastgw_node_up"][(OPENAI, UPSTREAM)] == 1
        assert ask(rig, model="gpt-4o-mini").status_code == 200
        settled(rig)
        found = figures(rig)
    assert counted(found, "fastgw_retries_total") == {("rate_limited", UPSTREAM): 2}
    assert not counted(found, "fastgw_duplicate_risk_total"), "a 429 did not run"
    assert found["fastgw_node_up"] == {(OPENAI, UPSTREAM): 0, (DEEPSEEK, UPSTREAM): 1}
    assert found["fastgw_node_ejected"] == {(OPENAI, UPSTREAM): 0, (DEEPSEEK, UPSTREAM): 0}
    assert found["fastgw_node_dead"] == {(OPENAI, UPSTREAM): 0, (DEEPSEEK, UPSTREAM): 0}
    assert found["fastgw_node_cooling_seconds"][(OPENAI, UPSTREAM)] > 0
    assert found["fastgw_node_cooling_seconds"][(DEEPSEEK, UPSTREAM)] == 0
    assert found["fastgw_backup_ready"] == {(UPSTREAM,): 0}


def test_a_node_whose_key_is_refused_is_dead(ca_dir: Path) -> None:
    with running(ca_dir, QUIET.replace("dead_reprobe: 1", "dead_reprobe: 60")) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=401)
        assert ask(rig).status_code == 200
        found = figures(rig)
    assert found["fastgw_node_dead"] == {(OPENAI, UPSTREAM): 1, (DEEPSEEK, UPSTREAM): 0}
    assert found["fastgw_node_up"] == {(OPENAI, UPSTREAM): 0, (DEEPSEEK, UPSTREAM): 1}


def test_a_broken_stream_and_a_client_that_left_are_counted(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.RESET_INSIDE, after=2)
        with pytest.raises(httpx.RemoteProtocolError):
            ask(rig, stream=True)
        settled(rig)
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)
        with rig.connect() as client:
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: gw\r\n\r\n")
            wait_until(lambda: rig.counts()["exchanges"] == 1, "the request is under way")
        settled(rig)
        found = figures(rig)
    assert counted(found, "fastgw_streams_interrupted_total") == {(): 1}
    assert counted(found, "fastgw_client_disconnects_total") == {("waiting",): 1}
    assert counted(found, "fastgw_requests_total") == {("200", "llm", "true"): 1, ("499", "llm", "false"): 1}
    assert counted(found, "fastgw_upstream_requests_total") == {
        (OPENAI, "stream_interrupted", UPSTREAM): 1,
        (OPENAI, "ignored", UPSTREAM): 1,
    }


def test_probes_are_counted_and_a_node_that_they_find_out_is_ejected(ca_dir: Path) -> None:
    with running(ca_dir, quick_probes(config_of(CONFIG))) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        wait_until(lambda: not rig.nodes()[OPENAI].is_usable(), "the primary is out")
        found = figures(rig)
    checks = counted(found, "fastgw_health_checks_total")
    assert checks[(OPENAI, "failure", UPSTREAM)] >= 3
    assert checks[(DEEPSEEK, "success", UPSTREAM)] >= 1
    assert (DEEPSEEK, "failure", UPSTREAM) not in checks
    assert found["fastgw_node_ejected"] == {(OPENAI, UPSTREAM): 1, (DEEPSEEK, UPSTREAM): 0}
    assert found["fastgw_node_up"] == {(OPENAI, UPSTREAM): 0, (DEEPSEEK, UPSTREAM): 1}


def test_connections_are_those_of_the_moment(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig, rig.connect() as client:
        assert ask(rig).status_code == 200
        settled(rig)
        client.sendall(b"GET /v1/mod")
        wait_until(lambda: figures(rig)["fastgw_connections"][("client", "idle")] == 1, "only it is there")
        assert figures(rig)["fastgw_connections"] == {
            ("client", "busy"): 0,
            ("client", "idle"): 1,
            ("node", "busy"): 0,
            ("node", "idle"): 1,
            ("node", "dialling"): 0,
        }


def test_a_reload_keeps_the_figures_and_tells_whether_it_worked(ca_dir: Path) -> None:
    texts = [QUIET.replace("name: llm", "name: chat")]
    with running(ca_dir, QUIET, reload_config=lambda: config_of(texts[0])) as rig:
        assert ask(rig).status_code == 200
        settled(rig)
        assert figures(rig)["fastgw_config_last_reload_successful"] == {(): 1}
        assert rig.call(rig.gateway.reload)
        assert ask(rig).status_code == 200
        settled(rig)
        found = figures(rig)
        assert found["fastgw_config_last_reload_successful"] == {(): 1}
        assert counted(found, "fastgw_requests_total") == {
            ("200", "llm", "false"): 1,
            ("200", "chat", "false"): 1,
        }
        assert counted(found, "fastgw_upstream_requests_total") == {(OPENAI, "succeeded", UPSTREAM): 2}
        texts[0] = "services: 1"
        assert not rig.call(rig.gateway.reload)
        assert figures(rig)["fastgw_config_last_reload_successful"] == {(): 0}


def test_a_scrape_shows_the_sum_of_all_workers(ca_dir: Path) -> None:
    """Two gateways on one memory: what one has counted, the other shows."""
    memory = mmap.mmap(-1, Metrics.bytes_needed(METRIC_SERIES, 2))
    shares = [SharedState(metrics=memory, worker=worker, workers=2) for worker in (0, 1)]

    with running(ca_dir, QUIET, shared=shares[0]) as one, running(ca_dir, QUIET, shared=shares[1]) as other:
        for rig, times in ((one, 1), (other, 2)):
            for _ in range(times):
                assert ask(rig).status_code == 200
            settled(rig)
        for rig in (one, other):
            assert counted(figures(rig), "fastgw_requests_total") == {("200", "llm", "false"): 3}
        wait_until(lambda: figures(one)["fastgw_connections"][("node", "idle")] == 2, "both count theirs")


def test_what_a_killed_worker_has_counted_stays(tmp_path: Path) -> None:
    node = Node()
    try:
        with running_workers(tmp_path, configuration(node)) as workers:

            def requests() -> float | None:
                """As any of them tells it; None: it was the one that is being killed."""
                try:
                    page = httpx.get("http://{}:{}/metrics".format(*workers.admin), timeout=30)
                except httpx.TransportError:
                    return None
                found = re.search(
                    r'^fastgw_requests_total{code="200",.*} (\S+)$', page.text, flags=re.MULTILINE
                )
                assert found is not None, page.text
                return float(found[1])

            first, second = workers.one_of_each()
            for connection in (first, second, second):
                assert connection.ask() == 200
            expected = sum(counts["requests"] for counts in workers.counts().values())
            # A client has its answer a moment before it is counted.
            wait_until(lambda: requests() == expected, "all of them are counted")
            assert [requests() for _ in range(4)] == [expected] * 4
            victim = workers.pids()[1]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in workers.pids().values(), "another one is in its place")
            assert requests() == expected
    finally:
        node.close()


# --- The endpoint -----------------------------------------------------------------------------


def test_a_scrape_is_well_formed_in_both_formats(ca_dir: Path) -> None:
    with running(ca_dir) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        assert ask(rig, stream=True).status_code == 200
        settled(rig)
        plain = scrape(rig)
        modern = scrape(rig, accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert modern.text.endswith("# EOF\n")
    assert modern.text.count("# EOF") == 1
    old, new = (
        {family.name: family for family in families}
        for families in (
            text_string_to_metric_families(plain.text),
            openmetrics.text_string_to_metric_families(modern.text),
        )
    )
    assert old.keys() == new.keys()
    for line in ("HELP", "TYPE"):
        said = re.findall(rf"^# {line} (\S+) (.+)$", plain.text, flags=re.MULTILINE)
        assert len(said) == len({name for name, _ in said}) == len(old), f"{line} once for each"
    for family in old.values():
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                assert "le" in sample.labels


def test_a_histograms_buckets_add_up(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        assert ask(rig).status_code == 200
        settled(rig)
        families = {family.name: family for family in text_string_to_metric_families(scrape(rig).text)}
    seconds = families["fastgw_request_duration_seconds"]
    buckets = [sample for sample in seconds.samples if sample.name.endswith("_bucket")]
    bounds = [float(sample.labels["le"]) for sample in buckets]
    assert bounds == sorted(bounds)
    assert bounds[-1] == float("inf")
    values = [sample.value for sample in buckets]
    assert values == sorted(values)
    assert values[-1] == 1


def test_many_nodes_are_written_in_pieces_that_make_one_whole(
    ca_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(ca_dir, QUIET) as rig:
        assert ask(rig).status_code == 200
        settled(rig)
        whole = scrape(rig).text
        monkeypatch.setattr(exposition, "PIECE", 1)
        pieces = scrape(rig).text
    drop = re.compile(r"^process_.*$", flags=re.MULTILINE)
    assert drop.sub("", pieces) == drop.sub("", whole)


@pytest.mark.parametrize("version", ["abc", "1.0.x", "9" * 5000])
def test_a_version_that_is_no_number_gets_the_plain_format(ca_dir: Path, version: str) -> None:
    with running(ca_dir, QUIET) as rig:
        page = scrape(rig, accept=f"application/openmetrics-text; version={version}")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert list(text_string_to_metric_families(page.text))


def test_head_says_how_long_it_would_be_and_the_other_name_works(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        for path in ("/metrics", "/apisix/prometheus/metrics"):
            head = httpx.head(rig.admin_url + path, timeout=60)
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) > 1000
            assert head.headers["cache-control"] == "no-store"
            assert httpx.post(rig.admin_url + path, timeout=60).status_code == 405
        with httpx.Client(timeout=60) as client:  # the connection goes on
            for _ in range(2):
                assert client.get(rig.admin_url + "/metrics").status_code == 200


def test_the_admin_token_guards_the_metrics(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        admin = rig.call(lambda: Admin(rig.gateway, token=Secret("a-token-of-the-admin")))
        address = rig.await_(admin.start(Address.parse("127.0.0.1:0")))
        url = f"http://{address}/metrics"
        assert httpx.get(url, timeout=60).status_code == 401
        token = {"authorization": "Bearer a-token-of-the-admin"}
        assert httpx.get(url, headers=token, timeout=60).status_code == 200
        assert httpx.get(url, headers={**token, "origin": "http://elsewhere"}, timeout=60).status_code == 403


def test_a_scraper_that_leaves_at_once_leaves_nothing_behind(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        scrape(rig)
        tasks = rig.counts()["tasks"]
        assert rig.admin.address is not None
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", rig.admin.address.port)) as raw:
                raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: rig.counts()["tasks"] <= tasks, "no scrape goes on")
        scrape(rig)


def test_a_failed_scrape_is_an_error_and_not_half_a_page(
    ca_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("on purpose")

    with running(ca_dir, QUIET) as rig:
        monkeypatch.setattr(exposition, "_metric", fail)
        answer = httpx.get(rig.admin_url + "/metrics", timeout=60)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
    assert "on purpose" in caplog.text


def test_no_label_comes_from_a_client(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        for at in range(3):
            headers = {name: f"chosen-{name}-{at}" for name in ("host", "x-request-id", "user-agent")}
            body = {"model": f"chosen-model-{at}", "messages": MESSAGES, "user": f"chosen-user-{at}"}
            httpx.post(
                rig.base_url + f"/chat/completions?chosen={at}", json=body, headers=headers, timeout=60
            )
            httpx.request(f"CHOSEN{at}", rig.url + f"/chosen/{at}", headers=headers, timeout=60)
        settled(rig)
        assert sum(figures(rig)["fastgw_requests_total"].values()) == 6
        assert "chosen" not in scrape(rig).text.lower()


# --- The page that explains them --------------------------------------------------------------


def documented() -> dict[str, tuple[str, ...]]:
    """Name -> labels, of the tables in docs/metrics.md."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", page, flags=re.MULTILINE)
    return {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_the_page_names_every_metric_with_its_labels_and_no_other() -> None:
    own = {name: labels for name, labels in documented().items() if name.startswith("fastgw_")}
    assert own == {family.name: family.labels for family in (*COUNTED, *READ)}


def test_what_the_page_names_is_exported_and_the_other_way_round(ca_dir: Path) -> None:
    with running(ca_dir) as rig:
        exported = set(re.findall(r"^# TYPE (\S+)", scrape(rig).text, flags=re.MULTILINE))
    assert exported == documented().keys()


def test_alerts_of_the_page_use_metrics_that_there_are() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    used = set(re.findall(r"\bfastgw_\w+", page))
    known = {family.name for family in (*COUNTED, *READ)}
    histograms = {
        family.name + suffix
        for family in COUNTED
        if family.buckets
        for suffix in ("_bucket", "_count", "_sum")
    }
    assert used <= known | histograms


# --- What it costs those who do not ask -------------------------------------------------------


def test_nothing_is_loaded_before_the_first_scrape() -> None:
    code = "import sys, fastgw.admin, fastgw.cli; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
