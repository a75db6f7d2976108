"""What the answers of a provider's free endpoints say of our account: its models, its balance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from fastgw.llm.outcome import Verdict, classify, read_error

# A key may be made for some endpoints only. One that may not list models is no bad key.
_SCOPE_WORDS = ("scope", "insufficient permission", "not allowed to list", "restricted")


class Standing(StrEnum):
    """What is known of one node's account."""

    GOOD = "good"
    BAD_KEY = "bad_key"
    NO_BALANCE = "no_balance"
    MODEL_MISSING = "model_missing"  # the key works; a model that would be sent is not offered to it
    UNREACHABLE = "unreachable"  # no answer, or none that the provider itself has made
    UNKNOWN = "unknown"  # an answer that says nothing of the account


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        missing: which of the models that would be sent are not offered, in the order asked for.
        detail: for people; never a word of the provider's, which might hold a part of the key.
    """

    standing: Standing
    missing: tuple[str, ...] = ()
    detail: str = ""


def read_models(status: int, body: bytes, wanted: Iterable[str]) -> Finding:
    """Read the answer to ``GET .../models``: does the key work, and is each wanted model offered?

    A list that goes on on another page says nothing of the models that are not on the first one.
    """
    if status != 200:
        return _refusal(status, body)
    answer = _object(body)
    entries = answer.get("data") if answer is not None else None
    if not isinstance(entries, list):
        return Finding(Standing.UNKNOWN, detail="the list of models cannot be read")
    offered = {
        entry["id"].removeprefix("models/")
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    }
    if answer is None or answer.get("has_more") is True or not offered:
        return Finding(Standing.GOOD)
    missing = tuple(model for model in wanted if model.removeprefix("models/") not in offered)
    if missing:
        return Finding(Standing.MODEL_MISSING, missing, f"not offered: {', '.join(missing)}")
    return Finding(Standing.GOOD)


def read_balance(status: int, body: bytes) -> Finding:
    """Read the answer to ``GET /user/balance``: can the account pay for a request?"""
    if status != 200:
        return _refusal(status, body)
    answer = _object(body)
    is_available = answer.get("is_available") if answer is not None else None
    if is_available is True:
        return Finding(Standing.GOOD)
    if is_available is False:
        return Finding(Standing.NO_BALANCE, detail="the balance is used up")
    return Finding(Standing.UNKNOWN, detail="the balance cannot be read")


def worse_of(models: Finding, balance: Finding) -> Finding:
    """One finding of two: what keeps requests from being served comes before what says nothing."""
    return min(models, balance, key=lambda finding: _GRAVITY.index(finding.standing))


_GRAVITY = (
    Standing.BAD_KEY,
    Standing.NO_BALANCE,
    Standing.MODEL_MISSING,
    Standing.UNREACHABLE,
    Standing.GOOD,  # one good answer is enough where the other says nothing
    Standing.UNKNOWN,
)


def _refusal(status: int, body: bytes) -> Finding:
    outcome = classify(status, None, body)
    detail = f"answered with status {status}"
    if outcome.verdict is Verdict.DEAD and not _is_about_scope(body):
        standing = Standing.NO_BALANCE if outcome.reason == "no_quota" else Standing.BAD_KEY
        return Finding(standing, detail=detail)
    return Finding(Standing.UNREACHABLE if status >= 500 else Standing.UNKNOWN, detail=detail)


def _is_about_scope(body: bytes) -> bool:
    message = read_error(body).message
    return any(word in message for word in _SCOPE_WORDS)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
