"""Whether a figure meets what was asked of it."""

import pytest

from benchmarks.figures import Metric, Outcome
from benchmarks.targets import TARGETS, Target, Verdict, over, ratio_to, verdicts, worst

CPU = Metric("cpu_us", "CPU", "µs/request")


def target(must: float | None, aim: float | None = None, digits: int = 2) -> Target:
    return Target("a figure", must, aim, "x", digits, lambda outcomes: None)


@pytest.mark.parametrize(
    ("measured", "word"),
    [
        (0.85, "aim"),
        (0.90, "aim"),
        (0.95, "must"),
        (1.00, "must"),
        (1.004, "must"),  # printed as 1.00
        (1.25, "missed by 25 %"),
        (None, "not measured"),
    ],
)
def test_verdict_says_what_was_reached(measured: float | None, word: str) -> None:
    verdict = Verdict(target(1.00, 0.90), measured)
    assert verdict.word == word
    assert verdict.is_met == (not word.startswith("missed"))


def test_row_without_an_aim_is_met_or_missed() -> None:
    assert Verdict(target(0.33), 0.2).word == "must"
    assert Verdict(target(0.33), 0.66).word == "missed by 100 %"


def test_row_without_a_must_is_shown_and_not_judged() -> None:
    verdict = Verdict(target(None), 44.0)
    assert (verdict.word, verdict.is_met) == ("-", True)


def test_nothing_measured_is_nothing_missed() -> None:
    found = verdicts({})
    assert len(found) == len(TARGETS)
    assert all(verdict.word == "not measured" and verdict.is_met for verdict in found)


def test_measures_read_the_outcomes() -> None:
    outcome = Outcome("sse", "Streams", (CPU,))
    for number, (ours, floor) in enumerate([(20.0, 18.0), (30.0, 27.0)]):
        outcome.add("fastgw", number, {"cpu_us": ours})
        outcome.add("relay", number, {"cpu_us": floor})
    assert over("sse", "relay")({"sse": outcome}) == pytest.approx(2.5)
    assert ratio_to("sse", "relay")({"sse": outcome}) == pytest.approx((20 / 18 + 30 / 27) / 2)
    assert ratio_to("sse")({"sse": outcome}) is None


def test_worst_of_several_is_the_largest_that_is_known() -> None:
    assert worst(lambda _: 4.05, lambda _: None, lambda _: 4.2)({}) == 4.2
    assert worst(lambda _: None)({}) is None


def test_titles_are_distinct() -> None:
    assert len({each.title for each in TARGETS}) == len(TARGETS)
