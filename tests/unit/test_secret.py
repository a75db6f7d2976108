"""A value that nobody prints: every way of showing it, and the few ways of using it."""

from __future__ import annotations

import copy
import inspect
import io
import json
import logging
import pickle
import pprint
import string
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from fastgw.config import loads
from fastgw.secret import HiddenMapping, Secret, packed, reveal, secrets_in

KEY = "canary.of.the.secret.0123456789"
CONFIG = """\
services:
  - name: s
    plugins: {proxy-rewrite: {headers: {X-Api-Key: "KEY", X-Other: "${K}"}, uri: "/x?k=${K}"}}
    routes:
      - {name: r, uris: [/]}
      - name: ai
        uris: [/ai]
        plugins:
          proxy-rewrite: {_meta: {disable: true}, host: a}
          ai-proxy:
            provider: openai-compatible
            auth: {header: {A: "KEY"}, query: {b: "KEY"}}
            override: {endpoint: "https://a.example/?key=KEY"}
    upstream:
      checks: {active: {req_headers: ["X-Auth: KEY", "B: ${K}"]}}
      nodes: [{host: a, port: 1, weight: 1, auth: {header: {A: "KEY"}, query: {b: "KEY"}}}]
consumers: [{username: u, plugins: {key-auth: {key: "KEY"}}}]
fastgw: {admin_token: "KEY"}
""".replace("KEY", KEY)


@dataclass(frozen=True, slots=True)
class Holder:
    one: Secret
    many: tuple[tuple[str, Secret], ...] = ()
    more: Any = field(default_factory=dict)


def printed(value: object) -> str:
    stream = io.StringIO()
    print(value, [value], {"a": value}, (value,), file=stream)
    return stream.getvalue()


def logged(value: object) -> str:
    """With everything that a formatter could make of a record."""
    stream = io.StringIO()
    logger = logging.getLogger("fastgw.tests")
    logger.addHandler(handler := logging.StreamHandler(stream))
    logger.error("%s %r %10s", value, value, value)
    logger.error(value)
    try:
        raise ValueError(f"with {value}", value)
    except ValueError as error:
        logger.exception("failed: %s", error, stack_info=True)
    logger.removeHandler(handler)
    return stream.getvalue()


def traced(value: object) -> str:
    """A traceback with the local variables of every frame."""
    try:
        local = [value]
        raise KeyError(value, local)
    except KeyError:
        kind, error, trace = sys.exc_info()
        assert kind is not None and error is not None
        told = traceback.TracebackException(kind, error, trace, capture_locals=True, compact=False)
        return "".join(told.format())


WAYS: dict[str, Callable[[object], str]] = {
    "str": str,
    "repr": repr,
    "ascii": ascii,
    "format": lambda value: format(value) + f"{value}{value!r}{value!s}",
    "%": lambda value: "%s %r %a" % (value, value, value),  # noqa: UP031
    "str.format": lambda value: str.format("{} {!r}", value, value),
    "template": lambda value: string.Template("$a").substitute(a=value),
    "print": printed,
    "pprint": pprint.pformat,
    "json": lambda value: json.dumps({"a": [value]}, default=str),
    "orjson": lambda value: orjson.dumps({"a": [value]}, default=str).decode(),
    "log": logged,
    "traceback": traced,
    "members": lambda value: str(inspect.getmembers(value)) + str(dir(value)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "value",
    [
        Secret(KEY),
        Holder(Secret(KEY), (("a", Secret(KEY)),), {"b": [Secret(KEY)]}),
        {"a": Secret(KEY)},
        HiddenMapping({"A": KEY}),
        loads(CONFIG, env={"K": KEY}),
    ],
    ids=["secret", "dataclass", "mapping", "environment", "configuration"],
)
def test_no_way_of_printing_shows_the_value(way: str, value: object) -> None:
    assert KEY not in WAYS[way](value)


def test_a_width_does_not_show_the_length() -> None:
    assert {f"{Secret(value):>40}|{Secret(value)!s}" for value in ("a", "b" * 30)} == {"***|***"}


def test_what_would_write_it_out_fails_instead() -> None:
    secret: Any = Secret(KEY)
    attempts: list[Callable[[], object]] = [
        lambda: json.dumps(secret),
        lambda: orjson.dumps(secret),
        lambda: pickle.dumps(secret),
        lambda: pickle.dumps([secret], protocol=0),
        secret.__getstate__,
        lambda: secret + "",
        lambda: str.join(" ", ["a", secret]),
        lambda: bytes(secret),
        lambda: list(secret),
        lambda: vars(secret),
        lambda: len(secret),
    ]
    for attempt in attempts:
        with pytest.raises(TypeError) as refused:
            attempt()
        assert KEY not in str(refused.value)
    with pytest.raises(AttributeError):
        secret.value = "x"
    with pytest.raises(AttributeError):
        del secret._Secret__reveal


def test_it_is_compared_and_hashed_by_its_value_and_equal_to_no_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a"), Secret("é"), Secret("\udc80")}) == 3
    assert Secret("a") != "a" and Secret("a") != "a"
    assert Secret("a") and not Secret("")


def test_it_is_revealed_when_asked() -> None:
    assert Secret(KEY).reveal() == reveal(Secret(KEY)) == reveal(KEY) == KEY


def test_copies_are_itself() -> None:
    holder = Holder(Secret(KEY), (("a", Secret(KEY)),))
    assert copy.copy(holder.one) is copy.deepcopy(holder.one) is holder.one
    assert replace(holder, more=1).one is holder.one
    assert asdict(holder)["one"] is holder.one


def test_a_packed_value_comes_out_as_it_went_in() -> None:
    holder = Holder(Secret(KEY), (("a", Secret("\udc80é")),), {"b": [Secret("")]})
    again = pickle.loads(packed(holder))
    assert again == holder
    assert again.one.reveal() == KEY


def test_secrets_are_found_at_any_depth_and_once() -> None:
    shared = {"a": [Secret("one"), {"b": (Secret("two"), "no", 3)}]}
    read_only = MappingProxyType({"x": frozenset({Secret("four")})})
    found = secrets_in(Holder(Secret("three"), more=[shared, shared, read_only]), Secret("one"), None)
    assert {secret.reveal() for secret in found} == {"one", "two", "three", "four"}


def test_every_key_of_a_configuration_is_a_secret() -> None:
    config = loads(CONFIG.replace(KEY, "${K}"), env={"K": KEY})
    values = {secret.reveal() for secret in secrets_in(config)}
    assert KEY in values
    assert values == {KEY, f"/x?k={KEY}"}


def test_a_hidden_mapping_is_a_mapping() -> None:
    hidden = HiddenMapping({"A": KEY, "B": ""})
    assert hidden == {"A": KEY, "B": ""} and dict(hidden)["A"] == KEY
    assert repr(hidden) == "<HiddenMapping of 2>"
