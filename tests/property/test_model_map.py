"""A pattern of a model map matches what a shell's would."""

from __future__ import annotations

import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from fastgw.llm.model_map import ModelMap

PATTERNS = st.text(alphabet="ab*?.\n", max_size=10)
NAMES = st.text(alphabet="ab.\n", max_size=14)


@given(PATTERNS, NAMES)
def test_a_pattern_matches_what_a_shells_would(pattern: str, name: str) -> None:
    matches = fnmatch.fnmatchcase(name, pattern)
    assert ModelMap([(pattern, "found")]).map(name) == ("found" if matches else name)


@given(st.text(alphabet="a*?", max_size=12), st.integers(0, 40))
def test_stars_and_marks_leave_room_for_each_other(pattern: str, size: int) -> None:
    name = "a" * size
    matches = fnmatch.fnmatchcase(name, pattern)
    assert ModelMap([(pattern, "found")]).map(name) == ("found" if matches else name)


def test_a_hostile_name_is_matched_in_linear_time() -> None:
    """With backtracking this would take longer than anybody lives."""
    models = ModelMap([("*a*a*?a*a*b*a*c", "found"), ("*", "other")])
    assert models.map("a" * 100_000) == "other"
    assert models.map("a" * 1000 + "b" + "a" * 1000 + "c") == "found"
