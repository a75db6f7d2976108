"""The view of one process on what workers share. Processes: see tests/integration."""

import pytest

from fastgw.shared_state import MAX_NODES, NODE_RECORDS, SharedState, Undertaker


def test_a_process_alone_shares_nothing_and_probes() -> None:
    shared = SharedState()
    shared.beat(1.0)
    assert shared.may_probe()
    assert (shared.node_table().workers, shared.metric_series().workers) == (1, 1)


def test_workers_see_the_same_memory_each_as_itself() -> None:
    first = SharedState.for_workers(2)
    second = first.of_worker(1)
    tables = first.node_table(), second.node_table()
    assert [(table.worker, table.workers, table.capacity) for table in tables] == [
        (0, 2, NODE_RECORDS),
        (1, 2, NODE_RECORDS),
    ]
    counted = second.metric_series()
    counted.add(counted.register("requests_total", 0), 3)
    assert first.metric_series().collect()[0][3] == 3


def test_a_reload_of_everything_fits() -> None:
    assert NODE_RECORDS >= 2 * MAX_NODES


def test_each_worker_beats_for_itself() -> None:
    first = SharedState.for_workers(3)
    heartbeats = first.heartbeats
    assert heartbeats is not None
    first.of_worker(2).beat(12.5)
    first.beat(3.0)
    assert [heartbeats.last(worker) for worker in range(3)] == [3.0, 0.0, 12.5]


def test_the_right_to_probe_stays_with_who_has_it() -> None:
    shared = SharedState.for_workers(2)
    assert shared.may_probe()
    assert shared.may_probe()


def test_what_a_dead_worker_had_registered_is_cleared() -> None:
    shared = SharedState.for_workers(2)
    assert Undertaker(shared).bury(1) == 0
    with pytest.raises(ValueError, match="worker must be"):
        Undertaker(shared).bury(2)
