"""What an answer says it cost."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.llm.usage import Usage, usage_of


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        (b'{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":4}}', Usage(3, 4)),
        (b' { "usage" : { "completion_tokens" : 4 , "prompt_tokens" : 3 } } ', Usage(3, 4)),
        (b'{"response":{"usage":{"input_tokens":3,"output_tokens":4}},"type":"x"}', Usage(3, 4)),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}}', Usage(3, -1, 2)),
        (b'{"usage":{"input_tokens_details":{"a":1,"cached_tokens":2},"input_tokens":3}}', Usage(3, -1, 2)),
        (b'{"usage":{"prompt_tokens":3,"prompt_cache_hit_tokens":1}}', Usage(3, -1, 1)),
        (b'{"usage":{"completion_tokens_details":{"prompt_tokens":9},"prompt_tokens":3}}', Usage(3)),
        (b'{"usage":{"costs":[{"prompt_tokens":9}],"prompt_tokens":0}}', Usage(0)),
        (b'{"usage":{"prompt_tokens":true,"completion_tokens":-1}}', Usage()),
        (b'{"usage":{"prompt_tokens":1.5,"completion_tokens":1e3}}', Usage()),
        (b'{"usage":{"prompt_tokens":%d}}' % 10**30, Usage()),
        (b'{"usage":{"note":"prompt_tokens","completion_tokens":"prompt_tokens"}}', Usage()),
        (b'{"usage":{"a\\"b":"}\\\\","prompt_tokens":3}}', Usage(3)),
        (b'{"usage":{"prompt_tokens":3},"title":"usage"}', Usage(3)),
        (b'{"usage":{"prompt_tokens":3},"x":{"usage":null}}', Usage(3)),
        (b'{"usage":{}}', Usage()),
        (b'{"usage":{"prompt_tokens":3', Usage()),
        (b'{"usage":{"prompt_tokens":3,', Usage(3)),
        (b'{"usage":{', Usage()),
        (b'{"text":"\\"usage\\":{\\"prompt_tokens\\":4}"}', None),
        (b'{"model":"m","usage":null}', None),
        (b'{"usage":[3]}', None),
        (b'{"usage":', None),
        (b'{"usage"', None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_usage_is_read_where_there_is_one(document: bytes, usage: Usage | None) -> None:
    assert usage_of(document) == usage


def test_two_usages_are_alike_when_their_figures_are() -> None:
    assert Usage(1, 2, 3) == Usage(1, 2, 3)
    assert hash(Usage(1)) == hash(Usage(1))
    assert Usage(1) != Usage(2)
    assert Usage(1) != "m"
    assert repr(Usage(1, 2)) == "<Usage prompt=1 completion=2 cached=-1>"


NAMES = ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens"]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 2**40) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["model", "choices", "id"]) | st.text(max_size=8), ANY, max_size=5),
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), st.integers(0, 10**12) | ANY, max_size=6),
    st.sampled_from([0, orjson.OPT_INDENT_2]),
)
def test_the_walk_sees_what_a_parser_sees(answer: dict[str, Any], usage: dict[str, Any], form: int) -> None:
    answer.pop("usage", None)
    document = orjson.dumps({**answer, "usage": usage}, option=form)
    found = usage_of(document)
    assert found is not None

    def count(name: str) -> int:
        value = usage.get(name)
        return value if type(value) is int and value >= 0 else -1

    if b'"usage"' not in orjson.dumps(usage):
        assert (found.prompt, found.completion) == (count("prompt_tokens"), count("completion_tokens"))


@given(st.binary(max_size=60), st.integers(0, 90))
def test_any_bytes_are_read_as_far_as_they_go(noise: bytes, cut: int) -> None:
    usage_of(noise)
    whole = b'{"model":"m","usage":{"prompt_tokens":3,"input_tokens_details":{"cached_tokens":1}}}'
    usage_of(whole[:cut] + noise)
