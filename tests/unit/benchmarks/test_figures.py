"""Medians, ranges and same-round ratios."""

import pytest

from benchmarks.figures import Metric, Outcome, difference, median_of, range_of, ratio, rounds_of

CPU = Metric("cpu_us", "CPU", "µs/request")


def outcome_of(**peers: list[float]) -> Outcome:
    outcome = Outcome("plain", "Plain POST", (CPU,))
    for peer, values in peers.items():
        for number, value in enumerate(values):
            outcome.add(peer, number, {"cpu_us": value})
    return outcome


def test_ratio_is_the_median_of_the_ratios_inside_each_round() -> None:
    # The machine was twice as slow in the second round; the ratio does not notice.
    assert ratio({0: 8.0, 1: 16.0, 2: 8.0}, {0: 10.0, 1: 20.0, 2: 10.0}) == pytest.approx(0.8)


def test_ratio_uses_only_the_rounds_that_both_have() -> None:
    assert ratio({0: 5.0, 3: 30.0}, {0: 10.0, 1: 1.0, 3: 10.0}) == pytest.approx(1.75)


def test_ratio_without_a_common_round_is_unknown() -> None:
    assert ratio({0: 5.0}, {1: 10.0}) is None
    assert ratio({0: 5.0}, {0: 0.0}) is None


def test_difference_is_made_inside_each_round() -> None:
    assert difference({0: 20.0, 1: 40.0}, {0: 18.0, 1: 37.0}) == pytest.approx(2.5)
    assert difference({}, {0: 1.0}) is None


def test_median_and_range_of_nothing_are_unknown() -> None:
    assert median_of([]) is None
    assert range_of([]) is None


def test_range_spans_all_values() -> None:
    assert range_of([3.0, 1.0, 2.0]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [(3, 7, {0, 3, 6}), (1, 3, {1}), (1, 1, {0}), (7, 7, set(range(7))), (9, 3, {0, 1, 2}), (2, 7, {0, 6})],
)
def test_few_rounds_are_spread_over_the_many(few: int, many: int, expected: set[int]) -> None:
    assert rounds_of(few, many) == expected


def test_outcome_gives_median_and_ratio_of_its_first_metric() -> None:
    outcome = outcome_of(fastgw=[9.0, 8.0, 10.0], nginx=[10.0, 10.0, 10.0])
    assert outcome.median("fastgw") == 9.0
    assert outcome.ratio("fastgw") == pytest.approx(0.9)
    assert outcome.ratio("fastgw", "haproxy") is None
    assert outcome.median("envoy") is None


def test_outcome_as_json_keeps_every_round() -> None:
    found = outcome_of(fastgw=[9.0, 8.0], nginx=[10.0, 10.0]).to_json()
    assert found["peers"]["fastgw"]["cpu_us"] == {
        "median": 8.5,
        "range": [8.0, 9.0],
        "ratio_to_nginx": 0.85,
        "rounds": {"0": 9.0, "1": 8.0},
    }
