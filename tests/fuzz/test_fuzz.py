"""The targets of ``make fuzz``, shortly and with one seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from conformance import harness
from fuzz.mutation import HTTP_TOKENS, Mutator
from fuzz.targets import TARGETS, Answers, Disagreement, Requests, Target

INPUTS = {"requests": 2500, "answers": 2500, "events": 2000, "streams": 400, "configurations": 120}


def many_steps(target: Target, count: int) -> None:
    for _ in range(count):
        target.step()


@pytest.mark.parametrize("make", TARGETS, ids=[target.name for target in TARGETS])  # type: ignore[attr-defined]
def test_no_input_breaks_a_promise(make: Callable[[int], Target]) -> None:
    target = make(0)
    many_steps(target, INPUTS[target.name])
    # Inputs that are all refused show nothing.
    assert target.accepted > INPUTS[target.name] / 20


def test_a_seed_makes_the_same_inputs() -> None:
    first, second = (Mutator(random.Random(7), [b"a: b\r\nc: 5\r\n"], HTTP_TOKENS) for _ in range(2))
    made = [first.make() for _ in range(200)]
    assert made == [second.make() for _ in range(200)]
    assert len(set(made)) > 100


class _Leaky:
    """Writes requests with something behind them, as a gate would that passes a trailer on."""

    def __init__(self, template: Any) -> None:
        self.template = template

    def render(self, *args: Any) -> bytes:
        return bytes(self.template.render(*args)) + b"\r\n"


def test_a_byte_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "TO_NODE", _Leaky(harness.TO_NODE))
    target = Requests(0)
    with pytest.raises(Disagreement):
        many_steps(target, 200)


class _Careless:
    """Passes on a field that is for one hop only: a whole message, and the same one to every reader."""

    def __init__(self, template: Any) -> None:
        self.template = template

    def render(self, *args: Any) -> bytes:
        return bytes(self.template.render(*args)).replace(b"\r\n", b"\r\nkeep-alive: timeout=5\r\n", 1)


def test_a_field_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "TO_NODE", _Careless(harness.TO_NODE))
    target = Requests(0)
    with pytest.raises(Disagreement, match="other fields are sent on"):
        many_steps(target, 200)


def test_a_request_that_is_swallowed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = harness.read_requests

    def forgetful(*args: Any, **options: Any) -> harness.RequestVerdict:
        verdict = read(*args, **options)
        verdict.statuses.pop() if verdict.node else None
        verdict.node[-1:] = []
        return verdict

    monkeypatch.setattr(harness, "read_requests", forgetful)
    target = Requests(0)
    with pytest.raises(Disagreement, match="swallowed"):
        many_steps(target, 200)


def test_an_answer_on_a_connection_that_is_kept_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = harness.read_answer

    def trusting(*args: Any, **options: Any) -> harness.AnswerVerdict:
        verdict = read(*args, **options)
        verdict.is_pooled = verdict.client is not None
        return verdict

    monkeypatch.setattr(harness, "read_answer", trusting)
    target = Answers(0)
    with pytest.raises(Disagreement, match="pooled"):
        many_steps(target, 200)
