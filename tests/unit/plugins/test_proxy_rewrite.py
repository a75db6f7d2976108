"""What a node gets instead of what the client sent."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from fake_request import client_request

from fastgw.plugins.proxy_rewrite import ProxyRewrite
from fastgw.proxy.phases import Answer, ClientRequest


def request(target: str = "/v1/chat?a=1", *fields: str) -> ClientRequest:
    return client_request(f"GET {target}", *fields)


def rewritten(conf: dict[str, Any], target: str = "/v1/chat?a=1", *fields: str) -> ClientRequest:
    changed = request(target, *fields)
    assert ProxyRewrite(conf).on_request(changed) is None
    return changed


def refused(conf: dict[str, Any], target: str) -> Answer:
    answer = ProxyRewrite(conf).on_request(request(target))
    assert answer is not None and answer.status == 400
    assert orjson.loads(answer.body)["error"]["type"] == "invalid_request_error"
    return answer


# --- The target -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conf", "target", "expected"),
    [
        ({"uri": "/new"}, "/old", "/new"),
        ({"uri": "/new"}, "/old?a=1", "/new?a=1"),
        ({"uri": "/new?b=2"}, "/old?a=1", "/new?b=2&a=1"),
        ({"uri": "/v2$uri"}, "/old?a=1", "/v2/old?a=1"),
        ({"uri": "/$arg_name/x"}, "/old?name=jack", "/jack/x?name=jack"),
        ({"uri": "/$arg_name"}, "/old?name=a%20b%0D%0AX:%20y", "/a%20b%0D%0AX:%20y?name=a%20b%0D%0AX:%20y"),
        ({"uri": "/$arg_name"}, "/old?name=%C3%A4", "/%C3%A4?name=%C3%A4"),
        ({"uri": "/$arg_name"}, "/old?name=%F0%9F%98%80", "/%F0%9F%98%80?name=%F0%9F%98%80"),
        ({"uri": "/$arg_name"}, "/old?name=%23x", "/%23x?name=%23x"),
        ({"uri": "/$arg_name"}, "/old?name=%FF", "/%EF%BF%BD?name=%FF"),
        ({"uri": "/ä"}, "/old", "/%C3%A4"),
        ({"uri": "/$http_x_path"}, "/old", "/"),
        ({"uri": "$arg_path"}, "/old?path=x", "/x?path=x"),
        ({"regex_uri": ["^/v1/(.*)", "/v2/$1"]}, "/v1/chat?a=1", "/v2/chat?a=1"),
        ({"regex_uri": ["^/a", "/b", "^/v1/(.*)/(.*)", "/$2/$1"]}, "/v1/x/y", "/y/x"),
        ({"regex_uri": ["^/a", "/b"]}, "/v1", "/v1"),
        ({"regex_uri": ["^/(a)?b", "/x$1"]}, "/b", "/x"),
        ({"regex_uri": ["^/(.*)", "$1"]}, "/v1", "/v1"),
        ({"uri": "/new", "regex_uri": ["^/v1", "/never"]}, "/v1", "/new"),
    ],
)
def test_the_target_is_rewritten(conf: dict[str, Any], target: str, expected: str) -> None:
    assert rewritten(conf, target).target == expected.encode()


@pytest.mark.parametrize(
    "name", ["..", "../admin", "%2e%2e", "x/../y", ".", "%2E%2e%2Fadmin", "..%3Bx", "..%3Fx", "%252e%252e"]
)
def test_no_value_of_a_request_leaves_its_path(name: str) -> None:
    refused({"uri": "/files/$arg_name"}, f"/old?name={name}")


@pytest.mark.parametrize("name", ["...", "a..b", "..x", ".x"])
def test_a_name_with_dots_is_a_name(name: str) -> None:
    assert rewritten({"uri": "/files/$arg_name"}, f"/?name={name}").target.startswith(
        f"/files/{name}".encode()
    )


def test_the_method_is_rewritten() -> None:
    assert rewritten({"method": "POST"}).method == b"POST"
    assert rewritten({"uri": "/x"}).method == b"GET"


# --- Header fields ----------------------------------------------------------------------------


def test_fields_are_added_set_and_removed() -> None:
    conf = {
        "headers": {
            "add": {"X-Add": "1", "X-Both": "lost"},
            "set": {"X-Set": ["2", "3"], "X-Both": 4},
            "remove": ["X-Gone"],
        }
    }
    changed = rewritten(conf)
    assert changed.added == [(b"x-add", b"1"), (b"x-set", b"2"), (b"x-set", b"3"), (b"x-both", b"4")]
    assert changed.dropped == {b"x-set", b"x-both", b"x-gone"}


def test_a_flat_map_means_set() -> None:
    changed = rewritten({"headers": {"X-A": "1", "add-me": "2"}})
    assert changed.added == [(b"x-a", b"1"), (b"add-me", b"2")]
    assert changed.dropped == {b"x-a", b"add-me"}


def test_removing_comes_last() -> None:
    changed = rewritten({"headers": {"set": {"X-A": "1"}, "remove": ["x-a"]}})
    assert changed.added == [] and changed.dropped == {b"x-a"}


def test_an_empty_value_takes_the_field_away() -> None:
    changed = rewritten({"headers": {"set": {"X-A": "$http_none"}}})
    assert changed.added == [] and changed.dropped == {b"x-a"}


def test_values_may_have_variables_and_groups() -> None:
    conf = {
        "regex_uri": ["^/v1/(.*)", "/$1"],
        "headers": {"set": {"X-Path": "$1", "X-Client": "$remote_addr"}},
    }
    assert rewritten(conf, "/v1/chat").added == [(b"x-path", b"chat"), (b"x-client", b"10.1.2.3")]


def test_the_bytes_of_a_field_survive() -> None:
    changed = rewritten({"headers": {"set": {"X-B": "$http_x_a"}}}, "/", "X-A: ä")
    assert changed.added == [(b"x-b", "ä".encode())]


@pytest.mark.parametrize("value", ["a%0d%0aSet-Cookie:%20b", "a%0ab", "a%00", "%1b"])
def test_no_value_of_a_request_ends_a_line(value: str) -> None:
    refused({"headers": {"set": {"X-A": "$arg_x"}}}, f"/?x={value}")


@pytest.mark.parametrize("field", [{"a b": "1"}, {"a:": "1"}, {"": "1"}])
def test_a_bad_name_is_refused_at_once(field: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        ProxyRewrite({"headers": field})


# --- What is known beforehand -----------------------------------------------------------------


def test_what_does_not_depend_on_the_request_is_known_beforehand() -> None:
    plugin = ProxyRewrite({"host": "api.example", "headers": {"set": {"X-A": "1"}, "remove": ["X-B"]}})
    assert plugin.is_static and plugin.host == b"api.example"
    assert plugin.static_edits() == ([(b"x-a", b"1")], {b"x-a", b"x-b"})
    for conf in (
        {"uri": "/x"},
        {"regex_uri": ["a", "b"]},
        {"method": "GET"},
        {"headers": {"X-A": "$host"}},
        {"headers": {"X-A": "\\$5"}},
    ):
        assert not ProxyRewrite(conf).is_static
    assert rewritten({"headers": {"X-A": "\\$5"}}).added == [(b"x-a", b"$5")]
