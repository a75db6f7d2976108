"""Whatever a file holds, loading it gives a Config or problems with a place: never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.config import EMBEDDED, Config, ConfigErrors, Profile, loads
from fastgw.config.fit import Fit
from fastgw.config.schema import DEFINITIONS
from fastgw.config.validate import _validator

EXAMPLES = Path(__file__).parents[2] / "examples"
ENV = {name: f"canary-{name}" for name in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "ALICE_KEY", "CI_KEY", "X")}

APISIX = """
routes:
  - {id: 1, uri: /a, host: a.example, upstream_id: u, plugins: {key-auth: {}}, status: 1}
  - {uris: [/b*], service_id: s, plugin_config_id: p, priority: 3}
services: [{id: s, upstream: {nodes: {"h:80": 1}}, plugins: {proxy-rewrite: {headers: {A: b}}}}]
plugin_configs: [{id: p, plugins: {proxy-rewrite: {regex_uri: [a, b]}}}]
upstreams: [{id: u, type: roundrobin, nodes: [{host: h, weight: 1}], checks: {active: {}, passive: {}}}]
consumers: [{username: c, plugins: {key-auth: {key: k}}}]
profile: apisix
fastgw: {listen: "127.0.0.1:0", connect_to: ["a:1:b:2"], drain: 1}
"""
RICH = """
services:
  - name: s
    hosts: ["*.example"]
    path_prefix: /p
    strip_path_prefix: true
    routes:
      - {name: r, uris: [/], methods: [GET], timeout: {connect: 1, send: 1, read: 1}, deadlines: {head: 1}}
    upstream:
      retries: 1
      tls: {verify: true}
      keepalive_pool: {size: 1}
      nodes: [{host: "::1", port: 1, weight: 1, models: {a: b}, auth: {query: {k: v}}, timeout: {connect: 1}}]
      checks:
        active: {type: https, req_headers: ["A: b"], unhealthy: {interval: 1, http_statuses: [500]}}
        passive: {healthy: {successes: 1}, unhealthy: {tcp_failures: 0}}
"""
SEEDS = [yaml.safe_load(text) for text in (EMBEDDED, APISIX, RICH)] + [
    yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    for name in ("article", "llm", "key-auth", "ai-proxy-multi")
]


def all_keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from all_keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from all_keys(value)


KEYS = sorted(set(all_keys(DEFINITIONS)))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.floats(-5, 1e6, allow_nan=False),
    st.text(max_size=12),
    st.sampled_from(
        ["${X}", "${NONE}", "${X:=d}", "$ENV://X", "${x}", "${", "file://none", "443", "/a*", "http", "GET"]
        + ["a:1", "node", "[::1]", "::", "off", "no", "12:30", "1.5", "e\u0301", "\x7f", "/", "-1", ""]
        + ["Bearer ${X}"]
    ),
)  # fmt: skip
keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values inside data."""
    if isinstance(data, (dict, list)):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield (*path, key)
            yield from places(data[key], (*path, key))


@st.composite
def mutants(draw: st.DrawFn) -> Any:
    """A configuration that was sound, after a few edits anywhere in it."""
    data = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        found = list(places(data))
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        owner = data
        for part in path:
            owner = owner[part]
        edit = draw(st.sampled_from(["replace", "delete", "add", "repeat"]))
        if edit == "replace":
            owner[last] = draw(values)
        elif edit == "delete":
            del owner[last]
        elif isinstance(owner, dict):
            owner[draw(keys)] = draw(values)
        else:
            owner.append(copy.deepcopy(owner[last]) if edit == "repeat" else draw(values))
    return data


def check_problems(errors: ConfigErrors, lines: int) -> None:
    assert errors.problems
    assert list(errors.problems) == sorted(errors.problems)
    for problem in errors.problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert problem.message
        assert "\n" not in str(problem)
    assert "canary" not in str(errors)


def load(text: str, profile: Profile | None = None) -> Config | ConfigErrors:
    """What loading gives. Anything but a Config or well-formed problems fails the test."""
    lines = len(text.splitlines()) + 1
    try:
        config = loads(text, profile=profile, env=ENV)
    except ConfigErrors as errors:
        check_problems(errors, lines)
        return errors
    for route in config.routes:
        assert route.id
        assert all(uri.startswith("/") for uri in route.uris)
        for node in route.upstream.nodes if route.upstream else ():
            assert node.name
            assert 0 < node.port < 65536
            assert node.weight >= 0
    return config


@settings(max_examples=400, deadline=None)
@given(mutants(), st.sampled_from([None, *Profile]), st.booleans())
def test_an_edited_configuration_is_loaded_or_refused_with_places(
    data: Any, profile: Profile | None, as_json: bool
) -> None:
    text = json.dumps(data) if as_json else yaml.safe_dump(data, allow_unicode=True)
    load(text + "\n#END\n" if "routes" in data else text, profile)


@settings(max_examples=400, deadline=None)
@given(mutants())
def test_the_quick_check_says_yes_where_jsonschema_does_and_nowhere_else(data: Any) -> None:
    for form in ("adc", "apisix"):
        fits = Fit(DEFINITIONS).fits(data, DEFINITIONS[f"{form}_file"])
        assert fits == _validator(form).is_valid(data)


@settings(max_examples=200, deadline=None)
@given(values, st.sampled_from(sorted(DEFINITIONS)))
def test_the_quick_check_agrees_with_jsonschema_on_every_definition(value: Any, name: str) -> None:
    validator = _validator("adc").evolve(schema={"$ref": f"#/$defs/{name}", "$defs": DEFINITIONS})
    assert Fit(DEFINITIONS).fits(value, DEFINITIONS[name]) == validator.is_valid(value)


tokens = st.sampled_from(
    ["services", "routes", "nodes", "name", "no", "~", "0o7", "010", "1:30", ".inf", "2020-01-01", "${X}"]
    + ["${NONE}", "{", "}", "[", "]", ":", "'", '"', ">", "@", "`", "\\", "*a", "&a ", "!!str ", "!x "]
    + ["<<: *a", "- ", ": ", "\n", "\n  ", "\n    ", ", ", "|\n", "---\n", "...\n", "%YAML 1.1\n", "\t"]
    + ["# x\n", "? ", "\u2028", "\ufeff", "\x85", "\r"]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.lists(st.one_of(tokens, st.text(max_size=3)), max_size=40))
def test_any_text_is_loaded_or_refused_with_places(parts: list[str]) -> None:
    load("".join(parts))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_a_file_cut_or_spoilt_anywhere_is_loaded_or_refused_with_places(
    seed: Any, data: st.DataObject
) -> None:
    text = yaml.safe_dump(seed)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    load(text[:start] + data.draw(st.one_of(tokens, st.just(""))) + text[end:])
