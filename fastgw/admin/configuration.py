"""The configuration that runs, as values for JSON: what was written, what was not, and no key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from ..generation import Generation
from ..redaction import PATTERNS
from ..secret import MASK, Secret


def effective(generation: Generation) -> dict[str, Any]:
    """The whole configuration of a generation with every default in it, keys masked.

    A text that looks like a key is masked wherever it stands: somebody may have put one where none belongs.
    """
    config: dict[str, Any] = shown(generation.config)
    return {"generation": generation.number, **config}


def shown(value: Any) -> Any:
    """A value of the configuration as JSON has it."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, Enum):
        return shown(value.value)
    if isinstance(value, str):
        return PATTERNS.mask(value)
    if isinstance(value, bytes):
        return PATTERNS.mask(value.decode("latin-1"))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {PATTERNS.mask(str(key)): shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((shown(item) for item in value), key=str)
    if is_dataclass(value):
        return {field.name: shown(getattr(value, field.name)) for field in fields(value)}
    return PATTERNS.mask(str(value))
