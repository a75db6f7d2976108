"""Tokens and model, as a provider says them."""

import pytest

from fastgw.llm.usage import Usage, usage_of


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        (b'{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":4}}', Usage("m", 3, 4)),
        (b'{"response":{"model":"m","usage":{"input_tokens":3,"output_tokens":4}}}', Usage("m", 3, 4)),
        (b'{"model":"m","usage":null}', Usage("m")),
        (b'{"model":7,"usage":{"prompt_tokens":true,"completion_tokens":-1}}', Usage()),
        (b"[]", Usage()),
        (b"", Usage()),
        (b'{"usage":', Usage()),
    ],
)
def test_usage_is_read_where_there_is_one(document: bytes, usage: Usage) -> None:
    assert usage_of(document) == usage
