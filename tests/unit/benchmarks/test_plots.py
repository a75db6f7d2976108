"""Which bars fit a picture."""

import pytest

from benchmarks.plots import longest_whole


@pytest.mark.parametrize(
    ("middles", "longest"),
    [
        ([], 0.0),
        ([12.0], 12.0),
        ([17.2, 16.2, 40.6, 42.2, 8_050.0], 42.2),  # one is far from all others
        ([0.1, 8.0, 18.2, 21.1, 82.3], 82.3),  # a short one is no reason to cut the long ones
        ([120.8, 149.2, 233.0, 735.4], 735.4),  # long, but not out of sight
    ],
)
def test_a_bar_far_longer_than_the_next_is_cut(middles: list[float], longest: float) -> None:
    assert longest_whole(middles) == longest
