"""The grammar as data: it is a JSON Schema, for editors as for us, and the documentation has all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from fastgw.config import json_schema, loads
from fastgw.config.schema import DEFINITIONS, PROVIDERS
from fastgw.llm.dialect import DEFAULT_MODELS

ROOT = Path(__file__).parents[3]


def test_it_is_a_json_schema() -> None:
    Draft202012Validator.check_schema(json_schema())
    json.dumps(json_schema())


def keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema
        for value in schema.values():
            yield from keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys(value)


def test_editors_get_no_keywords_of_our_own() -> None:
    assert not [key for key in keys(json_schema()) if key.startswith("x-")]


@pytest.mark.parametrize("name", ["article", "llm", "key-auth", "ai-proxy-multi"])
def test_the_examples_fit_the_schema_for_editors(name: str) -> None:
    data = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    Draft202012Validator(json_schema()).validate(data)


def test_editors_accept_variables_for_numbers_and_still_see_wrong_values() -> None:
    validator = Draft202012Validator(json_schema())
    node = {"host": "a", "port": "${PORT}", "weight": "1"}
    data: Any = {"services": [{"name": "s", "upstream": {"nodes": [node]}}]}
    assert validator.is_valid(data)
    for wrong in ("x", 70000):
        node["port"] = wrong  # type: ignore[assignment]
        assert not validator.is_valid(data)
    assert not validator.is_valid({"routes": [{"uris": ["/"], "name": 5}]})


def properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, below in schema.get("properties", {}).items():
            if "x-unsupported" not in below:
                yield name
        for value in schema.values():
            yield from properties(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from properties(value)


def test_every_field_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    named = set(re.findall(r"`([a-z_.A-Z-]+)`", text))
    words = {word for name in named for word in name.split(".")}
    assert set(properties(DEFINITIONS)) - words == set()


def test_the_configurations_in_the_reference_load() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    env = dict.fromkeys(re.findall(r"\$\{+([A-Z_]+)", text), "value")
    assert blocks
    for block in blocks:
        loads(block, env=env)


def test_defaults_in_the_schema_are_those_of_the_model() -> None:
    from fastgw.config import Deadlines, ProcessConfig

    deadlines = DEFINITIONS["adc_route"]["properties"]["deadlines"]["properties"]
    for key, schema in deadlines.items():
        assert getattr(Deadlines(), f"{key}_s") == schema["default"], key
    for key, schema in DEFINITIONS["process"]["properties"].items():
        if "default" in schema and key not in ("listen", "admin"):
            field = key if key in ProcessConfig.__dataclass_fields__ else f"{key}_s"
            assert getattr(ProcessConfig(), field) == schema["default"], key


def test_the_article_is_the_one_that_was_published() -> None:
    text = (ROOT / "examples" / "article.yaml").read_text()
    assert "#" not in text
    assert yaml.safe_load(text)["services"][0]["upstream"]["nodes"][1]["priority"] == -1


def test_the_providers_are_those_whose_dialect_is_known() -> None:
    assert set(DEFAULT_MODELS) == set(PROVIDERS)
