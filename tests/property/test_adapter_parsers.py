"""A node reads what the gateway meant, however its parser chooses.

Bodies here are valid JSON to some parsers only, and name fields twice, in capitals, with escapes. Of
each field that differs in case, and of each copy, a node may take any one.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.llm.adapter import Adapter
from fastgw.llm.body import scan
from fastgw.llm.dialect import DIALECTS
from fastgw.llm.model_map import ModelMap

CHAT = b"/v1/chat/completions"
MODELS = ModelMap({"gpt-*": "mapped", "*": "other"})
COMPATIBLE = DIALECTS["openai-compatible"]
ADAPTERS = {
    "mapped": Adapter(COMPATIBLE, MODELS),
    "forced": Adapter(COMPATIBLE, options={"model": "cheap"}),
    "limited": Adapter(COMPATIBLE, MODELS, max_tokens=7),
    "deepseek": Adapter(
        DIALECTS["deepseek"], ModelMap(DIALECTS["deepseek"].models), options={"max_tokens": 7}
    ),
}
LIMITED = ("limited", "deepseek")
KEYS = st.sampled_from(
    ["model", "Model", "MODEL", "mod\\u0065l", "\\u004dodel", "model ", "\\ud800model", "", "x"]
    + ["max_tokens", "Max_Tokens", "max_to\\u212aens", "max_completion_tokens", "messages", "messages"]
)
VALUES = st.sampled_from(
    [
        '"gpt-4"',
        '"dear"',
        '"g\\u0070t-x"',
        "null",
        "99",
        "[]",
        '{"model":"dear"}',
        '"\\ud800"',
        '"\xff"',
        "1e999",
    ]
    + [
        "NaN",
        "[NaN]",
        "12345678901234567890123",
        '[{"model":"z"}]',
        '"\\"model\\":\\"dear\\""',
        '"dear"x',
        "/**/1",
    ]
)
SPACE = st.sampled_from(["", "", "", " ", "\n", "\ufeff", "/**/", ","])
MEMBERS = st.lists(st.tuples(KEYS, SPACE, VALUES, SPACE), min_size=1, max_size=5)


def members(body: bytes) -> list[tuple[str, Any]] | None:
    """What a lenient parser sees; None if not even that one reads it."""
    try:
        pairs = json.loads(body.decode("utf-8", "replace"), object_pairs_hook=lambda pairs: pairs)
    except ValueError:
        return None
    return pairs if isinstance(pairs, list) else None


@settings(max_examples=500)
@given(st.sampled_from(sorted(ADAPTERS)), MEMBERS, st.sampled_from(["utf-8", "latin-1"]))
def test_every_parser_reads_the_model_and_the_limit_that_were_meant(
    name: str, made: list[tuple[str, str, str, str]], encoding: str
) -> None:
    text = ",".join(f'{before}"{key}"{after}:{value}' for key, before, value, after in made)
    body = f"{{{text}}}".encode(encoding, "replace")
    facts = scan(body)
    if facts is None or facts.duplicate_model:  # where anything is written such a request is refused
        return
    adapter = ADAPTERS[name]
    rendering = adapter.render(body, facts, CHAT)
    if rendering is not None and rendering.misfit is not None:
        return
    sent = members(rendering.body if rendering is not None else body)
    if sent is None:
        return
    models = [value for key, value in sent if key.casefold() == "model" and isinstance(value, str)]
    if facts.model is not None or name == "forced":
        assert set(models) == {adapter.model_for(facts.model)}
    else:  # no name that anybody has
        assert all("\ufffd" in model or "\ud800" in model for model in models)
    limits = [value for key, value in sent if key.casefold() in ("max_tokens", "max_completion_tokens")]
    if name in LIMITED and facts.traits and "messages" in dict(sent):
        assert limits == [7]
