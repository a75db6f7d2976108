"""The scan of a body agrees with a full parser, whatever is in it."""

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from interpreted import interpreted

from fastgw.llm import body

PURE = interpreted(body)

TEXTS = (
    st.text(max_size=12)
    | st.sampled_from(["model", "stream", '"model":"x"', "\\", '\\"', '"', "{", "]", "gpt-5", "é"])
    | st.text(alphabet='"\\{}[]:,é x', max_size=90)
    # Long ones, so that every combination of quotes and backslashes lies across the blocks of 64 bytes.
    | st.lists(
        st.sampled_from(["x" * 13, "x" * 61, "y" * 64, "z" * 130, '"', "\\", '\\"', "\n", "[", '{"', "é"]),
        max_size=24,
    ).map("".join)
)
KEYS = (
    st.sampled_from(["model", "Model", "stream", "stream_options", "messages", "content", "mode", "models"])
    | TEXTS
)
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)
OPTIONS = st.just({"include_usage": True}) | VALUES
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5) | st.fixed_dictionaries(
    {"model": TEXTS}, optional={"stream": st.booleans(), "messages": VALUES, "stream_options": OPTIONS}
)
LAYOUTS = st.fixed_dictionaries(
    {
        "indent": st.sampled_from([None, None, 0, 2, "\t"]),
        "ensure_ascii": st.booleans(),
        "separators": st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", " :\t")]),
    }
)
SPACE = st.text(alphabet=" \t\r\n", max_size=3)


ANSWERS = OBJECTS | st.dictionaries(
    st.sampled_from(["error", "choices", "data", "output", "object", "id"]),
    VALUES | st.sampled_from(["error", 0, [{"finish_reason": body.BROKEN_OFF}]]),
)


@st.composite
def bodies(
    draw: st.DrawFn, values: st.SearchStrategy[dict[str, Any]] = OBJECTS
) -> tuple[bytes, dict[str, Any]]:
    value = draw(values)
    layout: dict[str, Any] = draw(LAYOUTS)
    return (draw(SPACE) + json.dumps(value, **layout) + draw(SPACE)).encode(), value


@st.composite
def damaged(draw: st.DrawFn, values: st.SearchStrategy[dict[str, Any]] = OBJECTS) -> bytes:
    data, _ = draw(bodies(values))
    at = draw(st.integers(0, len(data)))
    new = draw(st.binary(max_size=2) | st.sampled_from([b'"', b"}", b"]", b",", b"\\", b"{", b'"model":1,']))
    return data[:at] + new + data[at + draw(st.integers(0, 2)) :]


def same(one: Any, other: Any) -> bool:
    names = ("model", "model_start", "model_end", "duplicate_model", "stream", "include_usage")
    if one is None or other is None:
        return one is other
    return all(getattr(one, name) == getattr(other, name) for name in names)


def models_in(names: Any) -> list[str]:
    """The names that are `model` to some parser. The scan knows no letters but ASCII's."""
    return [name for name in names if name.isascii() and name.lower() == "model"]


def agrees(facts: Any, value: dict[str, Any]) -> bool:
    model = next((value[name] for name in models_in(value)), None)
    options = value.get("stream_options")
    asks = isinstance(options, dict) and options.get("include_usage") is True
    found = (facts.model, facts.stream, facts.include_usage)
    return found == (model if isinstance(model, str) else None, value.get("stream") is True, asks)


@given(bodies())
def test_scan_agrees_with_a_full_parser(made: tuple[bytes, dict[str, Any]]) -> None:
    data, value = made
    facts = body.scan(data)
    assert facts is not None
    assert facts.duplicate_model == (len(models_in(value)) > 1)
    assert facts.duplicate_model or agrees(facts, value)
    assert same(facts, PURE.scan(data))


@given(bodies(), TEXTS)
def test_replace_model_changes_the_model_only(made: tuple[bytes, dict[str, Any]], model: str) -> None:
    data, value = made
    facts = body.scan(data)
    assert facts is not None
    names = models_in(value)
    if len(names) > 1:
        return
    changed = body.replace_model(data, facts, model)
    if not names or not isinstance(value[names[0]], str):
        assert changed is data
        return
    assert orjson.loads(changed) == orjson.loads(data) | {names[0]: model}
    assert changed.startswith(data[: facts.model_start])
    assert changed.endswith(data[facts.model_end :])
    after = body.scan(changed)
    assert after is not None
    assert after.model == model
    assert (
        body.replace_model(changed, after, value[names[0]])[: facts.model_start] == data[: facts.model_start]
    )


@given(
    damaged() | st.binary(max_size=40) | st.text(alphabet='{}[]":,\\ modelstru1', max_size=40).map(str.encode)
)
def test_scan_of_anything_is_safe_and_right_where_a_parser_succeeds(data: bytes) -> None:
    facts = body.scan(data)
    assert same(facts, PURE.scan(data))
    try:
        value = orjson.loads(data)
    except ValueError:
        return
    if isinstance(value, dict):
        assert facts is not None
        assert facts.duplicate_model or agrees(facts, value)
        if facts.duplicate_model:
            with_pairs = json.loads(data, object_pairs_hook=lambda pairs: pairs)
            assert len(models_in(key for key, _ in with_pairs)) > 1
    else:
        assert facts is None


def problem_of(answer: dict[str, Any]) -> str | None:
    """`answer_problem` of a parsed answer."""

    def is_something(name: str) -> bool:
        value = answer.get(name)
        return bool(value) or isinstance(value, float)

    if not answer:
        return "empty"
    has_failed = answer.get("status") in ("failed", "cancelled")
    if any(is_something(name) for name in ("choices", "data", "output")):
        return "broken_off" if has_failed or body.is_broken_off(answer) else None
    if has_failed or is_something("error") or answer.get("object") == "error":
        return "error_in_200"
    return "empty" if "choices" in answer else None


@given(bodies(ANSWERS), st.integers(0, 400))
def test_answer_is_judged_as_a_full_parser_would_and_never_used_when_cut(
    made: tuple[bytes, dict[str, Any]], size: int
) -> None:
    data, value = made
    problem = body.answer_problem(data)
    assert problem == PURE.answer_problem(data) == problem_of(value)
    cut = data[:size]
    if len(cut) < len(data.rstrip()):
        assert body.answer_problem(cut) in ("not_json", "empty")
        assert body.answer_problem(cut) == PURE.answer_problem(cut)


@given(damaged(ANSWERS) | st.text(alphabet='{}[]":,\\ choicesr0', max_size=40).map(str.encode))
def test_answer_of_anything_is_judged_right_where_a_parser_succeeds(data: bytes) -> None:
    problem = body.answer_problem(data)
    assert problem == PURE.answer_problem(data)
    try:
        value = orjson.loads(data)
    except ValueError:
        return
    pairs = json.loads(data, object_pairs_hook=lambda pairs: pairs) if isinstance(value, dict) else []
    if isinstance(value, dict) and len(pairs) == len(value):  # no key twice: parsers differ there
        assert problem == problem_of(value)
    elif not isinstance(value, dict):
        assert problem == (None if isinstance(value, list) else "not_json")
