"""Limits, and the tables of the tools that count."""

import pytest

from benchmarks.counting import Count, parse_strace
from benchmarks.gate import LIMITS, Line, read_limits

STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 55.02    0.000285          20      4012         3 read
 44.98    0.000233          16      4000           write
  0.00    0.000000           0         1           epoll_pwait
------ ----------- ----------- --------- --------- ----------------
100.00    0.000518          19      8013         3 total
"""


def test_calls_are_read_by_name() -> None:
    assert parse_strace(STRACE) == {"read": 4012, "write": 4000, "epoll_pwait": 1}


def test_nothing_was_called() -> None:
    assert parse_strace("") == {}


def test_figure_on_its_limit_is_within() -> None:
    assert Line("system_calls", "plain", "request", Count(4.2), 4.2).is_within
    assert not Line("system_calls", "plain", "request", Count(4.21), 4.2).is_within


def test_miss_says_by_how_much() -> None:
    line = Line("instructions", "plain", "request", Count(24_000.4), 20_000)
    assert str(line).split("  ")[0] == "plain: user instructions/request"
    assert str(line).endswith("24 000   limit   20 000   above the limit by 20 %")


def test_calls_are_named_beside_their_sum() -> None:
    line = Line("system_calls", "sse", "chunk", Count(2.5, {"read": 1.0, "write": 1.5}), 3)
    assert str(line).endswith("ok   (read 1.00, write 1.50)")


def test_limits_in_force_can_be_read() -> None:
    limits = read_limits(LIMITS.read_text())
    assert set(limits["instructions"]) == set(limits["system_calls"]) == {"plain", "tls", "sse"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[instructions]\nplain = 1\n",
        "[instructions]\nplain = 0\n[system_calls]\n",
        "[instructions]\na = true\n[system_calls]",
    ],
)
def test_wrong_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="limits"):
        read_limits(text)
