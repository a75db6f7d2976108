"""How often the running gateway searches for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from weakref import ref

import pytest

from fastgw.cli import garbage


class Thing:
    """What only a search can free, once it refers to itself."""

    def __init__(self) -> None:
        self.itself: Thing | None = None


@pytest.fixture
def searches() -> Iterator[list[int]]:
    """The generations that were searched since the gateway has settled."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    thresholds = gc.get_threshold()
    garbage.settle()
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_a_crowd_that_comes_and_goes_is_not_searched(searches: list[int]) -> None:
    crowd = [Thing() for _ in range(garbage.YOUNG // 10)]
    for turn in range(garbage.YOUNG * 4):
        crowd[turn % len(crowd)] = Thing()
    assert searches == []


def test_what_refers_to_itself_is_found_before_it_is_much(searches: list[int]) -> None:
    things: list[ref[Thing]] = []
    for _ in range(garbage.YOUNG * 2):
        thing = Thing()
        thing.itself = thing
        things.append(ref(thing))
    assert searches
    assert sum(thing() is not None for thing in things) <= garbage.YOUNG
