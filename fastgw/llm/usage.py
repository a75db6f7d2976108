"""What an answer says it cost, and which model gave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them; None where it said nothing."""

    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def usage_of(document: bytes) -> Usage:
    """Read an answer, or the event of a stream that carries the usage. Never raises."""
    try:
        answer: Any = orjson.loads(document)
    except orjson.JSONDecodeError:
        return Usage()
    if not isinstance(answer, dict):
        return Usage()
    if isinstance(answer.get("response"), dict):  # an event of the Responses API
        answer = answer["response"]
    model = answer.get("model")
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        usage = {}
    return Usage(
        model if isinstance(model, str) else None,
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
    )


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
