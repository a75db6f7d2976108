"""Who gets in, and what the node learns of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from fake_request import client_request

from fastgw.errors import ConfigError
from fastgw.plugins.key_auth import KeyAuth
from fastgw.proxy.phases import ClientRequest
from fastgw.secret import Secret

CONSUMERS = [("jack", (Secret("key-1"), Secret("key-2"))), ("jill", (Secret("clé"),))]


def request(target: str = "/v1", *fields: str) -> ClientRequest:
    return client_request(f"GET {target}", *fields)


def plugin(conf: dict[str, Any] | None = None, **options: Any) -> KeyAuth:
    return KeyAuth(conf or {}, CONSUMERS, **options)


def let_in(auth: KeyAuth, *args: str) -> ClientRequest:
    asked = request(*args)
    assert auth.on_request(asked) is None
    return asked


@pytest.mark.parametrize(
    ("conf", "args", "consumer"),
    [
        ({}, ("/", "apikey: key-1"), "jack"),
        ({}, ("/", "APIKEY: key-2"), "jack"),
        ({}, ("/", "apikey: clé"), "jill"),
        ({}, ("/?apikey=key-1",), "jack"),
        ({}, ("/?a=b&apikey=cl%C3%A9",), "jill"),
        ({"header": "X-Key"}, ("/", "x-key: key-1"), "jack"),
        ({"query": "k"}, ("/?k=key-1",), "jack"),
        ({"header": "Authorization"}, ("/", "Authorization: Bearer key-1"), "jack"),
        ({"header": "Authorization"}, ("/", "authorization: bearer  key-1 "), "jack"),
        ({"header": "authorization"}, ("/", "Authorization: key-1"), "jack"),
    ],
)
def test_a_known_key_says_who_it_is(conf: dict[str, Any], args: tuple[str, ...], consumer: str) -> None:
    asked = let_in(plugin(conf), *args)
    assert asked.consumer == consumer
    assert asked.added == [(b"x-consumer-username", consumer.encode())]
    assert b"x-consumer-username" in asked.dropped  # the client does not say who it is


@pytest.mark.parametrize(
    ("conf", "args", "message"),
    [
        ({}, ("/",), "Missing API key in request"),
        ({}, ("/", "apikey: "), "Missing API key in request"),
        ({}, ("/", "apikey: key-3"), "Invalid API key in request"),
        ({}, ("/", "apikey: key-"), "Invalid API key in request"),
        ({}, ("/", "apikey: KEY-1"), "Invalid API key in request"),
        ({}, ("/", "apikey: Bearer key-1"), "Invalid API key in request"),
        ({}, ("/", "apikey: jack"), "Invalid API key in request"),
        ({}, ("/?apikey=",), "Missing API key in request"),
        ({}, ("/?apikey=wrong&apikey=key-1",), "Invalid API key in request"),
        ({}, ("/?apikey=key-1", "apikey: wrong"), "Invalid API key in request"),
        ({"header": "Authorization"}, ("/", "Authorization: Basic key-1"), "Invalid API key in request"),
        ({"header": "Authorization"}, ("/", "Authorization: Bearer"), "Invalid API key in request"),
    ],
)
def test_nobody_else_gets_in(conf: dict[str, Any], args: tuple[str, ...], message: str) -> None:
    for like_apisix in (False, True):
        asked = request(*args)
        answer = plugin(conf, errors_like_apisix=like_apisix).on_request(asked)
        assert answer is not None and answer.status == 401
        body = orjson.loads(answer.body)
        assert (body["message"] if like_apisix else body["error"]["message"]) == message
        assert answer.fields == [(b"www-authenticate", b'apikey realm="key"')]
        assert asked.consumer is None and not asked.added


def test_the_anonymous_consumer_is_everybody_else() -> None:
    auth = plugin({"anonymous_consumer": "guest"})
    assert let_in(auth, "/").consumer == "guest"
    assert let_in(auth, "/", "apikey: wrong").consumer == "guest"
    assert let_in(auth, "/", "apikey: key-1").consumer == "jack"


def test_the_key_is_taken_out_where_that_is_asked_for() -> None:
    auth = plugin({"hide_credentials": True})
    assert b"apikey" in let_in(auth, "/", "apikey: key-1").dropped
    asked = let_in(auth, "/v1?a=1&apikey=key-1&b=x%20y")
    assert asked.target == b"/v1?a=1&b=x+y" and b"apikey" not in asked.dropped
    assert let_in(auth, "/v1?apikey=key-1").target == b"/v1"
    kept = let_in(plugin(), "/v1?apikey=key-1", "x: y")
    assert kept.target == b"/v1?apikey=key-1" and b"apikey" not in kept.dropped


def test_a_key_that_is_in_both_places_is_taken_out_of_both() -> None:
    auth = plugin({"hide_credentials": True})
    asked = let_in(auth, "/?a=b&apikey=key-2&c=d", "apikey: key-1")
    assert b"apikey" in asked.dropped
    assert asked.target == b"/?a=b&c=d"
    # What is no key of ours may be meant for the node.
    assert let_in(auth, "/?a=%62&apikey=its-own", "apikey: key-1").target == b"/?a=%62&apikey=its-own"


def test_the_default_for_taking_it_out_is_the_routes() -> None:
    assert b"apikey" in let_in(plugin(hides=True), "/", "apikey: key-1").dropped
    kept = let_in(plugin({"hide_credentials": False}, hides=True), "/", "apikey: key-1")
    assert b"apikey" not in kept.dropped


def test_a_node_that_is_not_to_know_is_not_told() -> None:
    asked = let_in(plugin(tells_node=False), "/", "apikey: key-1", "X-Consumer-Username: root")
    assert asked.consumer == "jack" and asked.added == []
    assert b"x-consumer-username" in asked.dropped


def test_a_name_that_would_end_its_line_is_refused_at_once() -> None:
    for conf, consumers in (({}, [("a\r\nb", (Secret("k"),))]), ({"anonymous_consumer": "a\nb"}, [])):
        with pytest.raises(ConfigError):
            KeyAuth(conf, consumers)


def test_no_key_is_kept_as_it_is() -> None:
    assert b"key-1" not in repr(vars(plugin())).encode() and "key-1" not in repr(plugin())
