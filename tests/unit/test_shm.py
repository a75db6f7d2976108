"""Metrics in the kernel: registering, counting, summing over workers. Several workers of one process."""

import math
import mmap
from typing import Any

import pytest

from fastgw._shm import MetricKind, Metrics

COUNTER, GAUGE, HISTOGRAM = MetricKind


def crew(workers: int, capacity: int = 8) -> list[Metrics]:
    """The same metrics as seen by each worker."""
    memory = mmap.mmap(-1, Metrics.bytes_needed(capacity, workers))
    return [Metrics(capacity, memory, worker=worker, workers=workers) for worker in range(workers)]


def values(metrics: Metrics) -> dict[tuple[str, ...], Any]:
    return {(name, *labels): value for name, _, labels, value in metrics.collect()}


# --- Counting ---------------------------------------------------------------------------------


def test_counters_gauges_and_histograms_are_collected_in_order() -> None:
    metrics = Metrics()
    requests = metrics.register("requests", COUNTER, ("chat", "200"))
    opened = metrics.register("connections", GAUGE, ("client",))
    seconds = metrics.register("seconds", HISTOGRAM, ("chat",), (0.1, 1))
    metrics.add(requests)
    metrics.add(requests, 4)
    metrics.set(opened, 7)
    metrics.add(opened, -2)
    for value in (0.05, 0.1, 0.5, 1.0, 1.5, 9.0):
        metrics.observe(seconds, value)
    assert metrics.collect() == [
        ("requests", COUNTER, ("chat", "200"), 5),
        ("connections", GAUGE, ("client",), 5),
        ("seconds", HISTOGRAM, ("chat",), ([2, 2, 2], pytest.approx(12.15))),
    ]
    assert metrics.buckets("seconds") == (0.1, 1.0)
    assert metrics.buckets("requests") == ()
    assert repr(metrics) == "<Metrics 3 of 4096 series, worker 0 of 1>"


def test_workers_are_summed() -> None:
    first, second, third = crew(3)
    for weight, metrics in enumerate((first, second, third), start=1):
        metrics.add(metrics.register("requests", COUNTER), weight)
        metrics.set(metrics.register("open", GAUGE), 10 * weight)
        metrics.observe(metrics.register("seconds", HISTOGRAM, (), (1.0,)), float(weight))
    for metrics in (first, second, third):
        assert values(metrics) == {("requests",): 6, ("open",): 60, ("seconds",): ([1, 2], 6.0)}


def test_number_that_nobody_registered_counts_nothing() -> None:
    first, second = crew(2)
    metrics = first
    for slot in (-1, 0, 1, 2**31 - 1):
        metrics.add(slot)
        metrics.set(slot, 3)
        metrics.observe(slot, 1.0)
    assert metrics.collect() == []
    second.add(first.register("requests", COUNTER))  # it has not heard of it
    assert values(second) == {("requests",): 0}
    second.add(0)
    assert values(first) == {("requests",): 1}


def test_each_kind_counts_only_in_its_own_way() -> None:
    metrics = Metrics()
    count = metrics.register("requests", COUNTER)
    seconds = metrics.register("seconds", HISTOGRAM, (), (1.0,))
    metrics.set(count, 9)
    metrics.observe(count, 1.0)
    metrics.add(seconds, 9)
    metrics.set(seconds, 9)
    assert values(metrics) == {("requests",): 0, ("seconds",): ([0, 0], 0.0)}


def test_what_is_not_a_number_is_not_observed_and_infinity_is_above_all() -> None:
    metrics = Metrics()
    seconds = metrics.register("seconds", HISTOGRAM, (), (1.0,))
    metrics.observe(seconds, math.nan)
    assert values(metrics) == {("seconds",): ([0, 0], 0.0)}
    metrics.observe(seconds, math.inf)
    assert values(metrics) == {("seconds",): ([0, 1], math.inf)}


def test_large_counts_do_not_wrap() -> None:
    first, second = crew(2)
    count = first.register("bytes", COUNTER)
    assert second.register("bytes", COUNTER) == count
    first.add(count, 2**60)
    second.add(count, 2**60)
    assert values(first) == {("bytes",): 2**61}


# --- Registering ------------------------------------------------------------------------------


def test_same_labels_have_the_same_number_in_all_workers() -> None:
    first, second = crew(2)
    one = first.register("requests", COUNTER, ("a",))
    other = second.register("requests", COUNTER, ("b",))
    assert one != other
    assert first.register("requests", COUNTER, ["b"]) == other
    assert second.register("requests", COUNTER, ("a",)) == one
    assert first.register("requests", COUNTER, ("a",)) == one
    assert len(first) == len(second) == 2


def test_labels_are_not_confused_with_each_other() -> None:
    metrics = Metrics()
    slots = [
        metrics.register("none", COUNTER),
        metrics.register("one", COUNTER, ("",)),
        metrics.register("two", COUNTER, ("", "")),
        metrics.register("two", COUNTER, ("a", "")),
        metrics.register("two", COUNTER, ("", "a")),
        metrics.register("two", COUNTER, ("ä", "→")),
    ]
    assert slots == list(range(6))
    assert [labels for _, _, labels, _ in metrics.collect()][-1] == ("ä", "→")


@pytest.mark.parametrize(
    ("kind", "labels", "buckets"),
    [
        (GAUGE, ("a",), ()),
        (COUNTER, (), ()),
        (COUNTER, ("a", "b"), ()),
        (HISTOGRAM, ("a",), (1.0,)),
    ],
)
def test_family_is_registered_in_one_way(kind: MetricKind, labels: tuple, buckets: tuple) -> None:
    first, second = crew(2)
    first.register("requests", COUNTER, ("a",))
    for metrics in (second, first):
        with pytest.raises(ValueError, match="registered as a counter with 1 labels"):
            metrics.register("requests", kind, labels, buckets)
    assert len(first) == 1


def test_family_of_histograms_has_one_set_of_buckets() -> None:
    metrics = Metrics()
    metrics.register("seconds", HISTOGRAM, ("a",), (1.0, 2.0))
    metrics.register("seconds", HISTOGRAM, ("b",), (1, 2))
    with pytest.raises(ValueError, match=r"\(1.0, 2.0\)"):
        metrics.register("seconds", HISTOGRAM, ("c",), (1.0,))


@pytest.mark.parametrize(
    ("name", "kind", "labels", "buckets"),
    [
        ("", COUNTER, (), ()),
        ("a\0b", COUNTER, (), ()),
        ("a", COUNTER, ("b\0",), ()),
        ("a", COUNTER, (), (1.0,)),
        ("a", HISTOGRAM, (), ()),
        ("a", HISTOGRAM, (), (1.0, 1.0)),
        ("a", HISTOGRAM, (), (2.0, 1.0)),
        ("a", HISTOGRAM, (), (math.inf,)),
        ("a", HISTOGRAM, (), (math.nan,)),
        ("a", HISTOGRAM, (), range(65)),
        ("a", 3, (), ()),
        ("\ud800", COUNTER, (), ()),
    ],
)
def test_series_that_cannot_be_is_refused(name: str, kind: int, labels: tuple, buckets: tuple) -> None:
    metrics = Metrics()
    with pytest.raises(ValueError):
        metrics.register(name, kind, labels, buckets)
    assert len(metrics) == 0
    assert metrics.register("a", COUNTER) == 0


def test_label_must_be_a_text() -> None:
    with pytest.raises(TypeError):
        Metrics().register("requests", COUNTER, (200,))  # type: ignore[arg-type]


def test_full_metrics_say_what_is_full_and_go_on_counting() -> None:
    metrics = Metrics(2)
    metrics.register("a", HISTOGRAM, (), range(12))
    with pytest.raises(ValueError, match="17 cells of at most 16"):
        metrics.register("b", HISTOGRAM, (), (1.0,))
    with pytest.raises(ValueError, match="bytes of text of at most 320"):
        metrics.register("b", COUNTER, ("x" * 400,))
    slot = metrics.register("b", COUNTER)
    with pytest.raises(ValueError, match=r"no room for the metric c \('d',\): 3 series of at most 2"):
        metrics.register("c", COUNTER, ("d",))
    metrics.add(slot)
    assert values(metrics)[("b",)] == 1


def test_room_for_different_buckets_is_bounded() -> None:
    metrics = Metrics(100)
    for number in range(8):
        metrics.register(f"m{number}", HISTOGRAM, (), range(number, number + 20))
    with pytest.raises(ValueError, match="180 bounds of at most 164"):
        metrics.register("more", HISTOGRAM, (), range(50, 70))


def test_histograms_with_the_same_buckets_share_them() -> None:
    metrics = Metrics(64)
    for number in range(20):
        metrics.register("seconds", HISTOGRAM, (f"{number}",), range(20))
    metrics.observe(19, 3.5)
    assert values(metrics)[("seconds", "19")][0][4] == 1


# --- Memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 0}, "capacity"),
        ({"capacity": 2**20 + 1}, "capacity"),
        ({"workers": 0}, "workers"),
        ({"workers": 65}, "workers"),
        ({"worker": 1}, "worker"),
        ({"worker": -1}, "worker"),
        ({"memory": bytearray(100)}, "memory"),
    ],
)
def test_metrics_refuse_what_they_cannot_be_laid_out_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Metrics(**options)


def test_memory_laid_out_for_other_numbers_is_refused() -> None:
    with mmap.mmap(-1, Metrics.bytes_needed(64, 4)) as memory:
        first = Metrics(8, memory, worker=0, workers=2)
        with pytest.raises(ValueError, match="laid out for 8 and 2 workers"):
            Metrics(8, memory, worker=0, workers=3)
        with pytest.raises(ValueError, match="laid out for 8 and 2 workers"):
            Metrics(16, memory, worker=0, workers=2)
        del first


def test_recovery_keeps_counts_and_drops_gauges() -> None:
    first, second = crew(2)
    for metrics in (first, second):
        metrics.add(metrics.register("requests", COUNTER), 5)
        metrics.set(metrics.register("open", GAUGE), 3)
        metrics.observe(metrics.register("seconds", HISTOGRAM, (), (1.0,)), 2.0)
    first.recover(1)
    first.recover(1)
    assert values(first) == {("requests",): 10, ("open",): 3, ("seconds",): ([0, 2], 4.0)}
    for worker in (-1, 2):
        with pytest.raises(ValueError):
            first.recover(worker)
