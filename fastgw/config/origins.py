"""What a configuration is loaded with beside its own text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Origins:
    """Where values come from that are not in the file itself.

    Args:
        env: the environment. Its repr may be shown: it should be one that shows no values.
        base: the directory that relative paths start from.
        credentials_dir: the credential directory; None: what the file says, else the environment.
        allows_exposed: files with keys are taken also if others may read them.
    """

    env: Mapping[str, str]
    base: Path = Path()
    credentials_dir: str | None = None
    allows_exposed: bool = False
