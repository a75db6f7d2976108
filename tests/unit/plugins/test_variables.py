"""Values with variables."""

from __future__ import annotations

import pytest
from fake_request import request_of_head

from fastgw.plugins.variables import Template
from fastgw.proxy.phases import ClientRequest

HEAD = (
    b"POST /v1/chat?key=a%20b&empty=&key=second HTTP/1.1\r\nHost: API.example:8080\r\n"
    b"X-Some-Thing: one\r\nX-Some-Thing: two\r\nX-Utf: \xc3\xa4\r\nX-Latin: \xe4\r\n\r\n"
)


def request(head: bytes = HEAD) -> ClientRequest:
    return request_of_head(head, id=b"id-7", consumer="jack")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("$uri", "/v1/chat"),
        ("$request_uri", "/v1/chat?key=a%20b&empty=&key=second"),
        ("$args", "key=a%20b&empty=&key=second"),
        ("$query_string", "key=a%20b&empty=&key=second"),
        ("$arg_key", "a b"),
        ("$arg_empty", ""),
        ("$arg_none", ""),
        ("$request_method", "POST"),
        ("$host", "api.example"),
        ("$http_host", "API.example:8080"),
        ("$http_x_some_thing", "one"),
        ("$http_X_Some_Thing", "one"),
        ("$http_none", ""),
        ("$remote_addr", "10.1.2.3"),
        ("$consumer_name", "jack"),
        ("$request_id", "id-7"),
        ("$scheme", "http"),
        ("$unknown", ""),
        ("a-$host-b", "a-api.example-b"),
        ("${host}name", "api.examplename"),
        ("${ host }", "api.example"),
        ("${none ?? fallback}", "fallback"),
        ("${ http_none ??  two words  }", "two words"),
        ("${host ?? fallback}", "api.example"),
        ("\\$host", "$host"),
        ("$", "$"),
        ("$$host", "$api.example"),
        ("$-", "$-"),
        ("$1 $2 $3", "one  "),
        ("${1}st ${2 ?? none}", "onest none"),
    ],
)
def test_a_template_is_rendered(text: str, value: str) -> None:
    assert Template(text).render(request(), ("one", "")) == value


def test_a_template_without_variables_is_known_beforehand() -> None:
    assert Template("a b").is_static and Template("$").is_static
    assert not Template("$a").is_static and not Template("\\$").is_static and not Template("$1").is_static


def test_the_bytes_of_a_header_survive() -> None:
    for name, value in (("x_utf", b"\xc3\xa4"), ("x_latin", b"\xe4")):
        rendered = Template(f"$http_{name}").render(request())
        assert rendered.encode("utf-8", "surrogateescape") == value


def test_a_variable_is_not_expanded_twice() -> None:
    head = b"GET /?a=%24host HTTP/1.1\r\nHost: gw\r\nX-A: ${host}\r\n\r\n"
    assert Template("$arg_a $http_x_a").render(request(head)) == "$host ${host}"


def test_hosts_of_every_kind() -> None:
    for host, name in ((b"[::1]:80", "[::1]"), (b"[::1]", "[::1]"), (b"GW", "gw"), (b"gw:1", "gw")):
        assert Template("$host").render(request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")) == name
    assert Template("$host").render(request(b"GET / HTTP/1.0\r\n\r\n")) == ""
