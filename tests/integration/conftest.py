"""Fixtures of the tests with real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import Rig, running


@pytest.fixture(scope="session")
def ca_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One private CA for the whole session: making keys is slow."""
    return tmp_path_factory.mktemp("ca")


@pytest.fixture
def rig(ca_dir: Path) -> Iterator[Rig]:
    """A gateway with the article's two nodes, each with its own key, and short deadlines."""
    with running(ca_dir) as started:
        yield started
