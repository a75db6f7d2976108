"""What is counted, and under which conditions."""

import json
from pathlib import Path

from benchmarks.counting import NEVER_S, works
from benchmarks.peers.fastgw import Fastgw
from benchmarks.processes import Processes
from benchmarks.upstreams import Upstream, Upstreams


class NoUpstreams(Upstreams):
    """Two ports, and nothing that listens there."""

    def __init__(self) -> None:
        pass

    def answering(self, *, is_tls: bool = False, models: tuple[tuple[str, str], ...] = ()) -> Upstream:
        return Upstream(1, 2, is_tls)

    def streaming(
        self, *, is_tls: bool = False, interval_us: int = 20_000, models: tuple[tuple[str, str], ...] = ()
    ) -> Upstream:
        return Upstream(3, 4, is_tls)


def test_second_run_is_twice_the_work_of_the_first() -> None:
    for work in works(NoUpstreams(), 1000, 50, with_tls_streams=True):
        each = [json.loads(request.body)["max_tokens"] if work.streams else 1 for request in work.requests]
        done = [count * size for count, size in zip(work.counts, each, strict=True)]
        assert done == [work.units, 2 * work.units]


def test_node_is_not_probed_while_a_gateway_is_counted(tmp_path: Path) -> None:
    for work in works(NoUpstreams(), 1000, 50, with_tls_streams=True):
        assert work.upstream.probe_s == NEVER_S
    with Processes(tmp_path) as processes:
        (service,) = Fastgw(processes).config(work.upstream, 8080)["services"]
    active = service["upstream"]["checks"]["active"]
    assert active["healthy"]["interval"] == active["unhealthy"]["interval"] == NEVER_S
