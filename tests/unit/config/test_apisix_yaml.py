"""The flat form: objects that refer to each other by id."""

from __future__ import annotations

import pytest

from fastgw.config import Config, ConfigErrors, PassiveCheck, Profile, loads

FILE = """\
routes:
  - id: 1
    uri: /a
    host: A.example
    upstream_id: u
  - uris: [/b, /c*]
    service_id: s
    plugin_config_id: p
    methods: [GET]
    plugins: {key-auth: {header: x-key}}
  - id: gone
    uri: /gone
    status: 0
    upstream_id: u
services:
  - id: s
    name: service
    hosts: [s.example]
    upstream_id: u
    enable_websocket: true
    plugins: {proxy-rewrite: {uri: /s}, key-auth: {}}
plugin_configs:
  - id: p
    plugins: {proxy-rewrite: {uri: /p}}
upstreams:
  - id: u
    name: shared
    desc: text
    nodes: {"a.example:8080": 1, "b.example": 2, "[::1]:81": 0}
    checks:
      active: {healthy: {}, unhealthy: {}}
      passive: {healthy: {}, unhealthy: {}}
consumers:
  - username: c
    plugins: {key-auth: {key: k}}
plugins: [proxy-rewrite, key-auth]
global_rules: []
#END
"""


def load(text: str = FILE, profile: Profile = Profile.LLM) -> Config:
    return loads(text, profile=profile, env={})


def mistakes(text: str) -> str:
    with pytest.raises(ConfigErrors) as caught:
        load(text)
    return str(caught.value)


def test_routes_services_and_upstreams_are_joined_by_id() -> None:
    first, second = load().routes
    assert (first.id, first.name, first.uris, first.hosts) == ("1", "1", ("/a",), ("a.example",))
    assert (second.id, second.uris, second.hosts) == ("arr_2", ("/b", "/c*"), ("s.example",))
    assert first.upstream is second.upstream
    assert first.upstream is not None
    assert (first.upstream.name, first.upstream.id) == ("shared", "u")
    assert (second.service, second.methods, second.enable_websocket) == ("service", ("GET",), True)


def test_plugins_of_route_plugin_config_and_service_win_in_this_order() -> None:
    assert {plugin.name: plugin.conf for plugin in load().routes[1].plugins} == {
        "proxy-rewrite": {"uri": "/p"},
        "key-auth": {"header": "x-key"},
    }


def test_nodes_may_be_a_mapping_and_ports_follow_the_scheme() -> None:
    upstream = load().routes[0].upstream
    assert upstream is not None
    assert [(node.host, node.port, node.weight, node.priority) for node in upstream.nodes] == [
        ("a.example", 8080, 1, 0),
        ("b.example", 80, 2, 0),
        ("::1", 81, 0, 0),
    ]
    upstream = load(FILE.replace("desc: text", "scheme: https")).routes[0].upstream
    assert upstream is not None
    assert upstream.nodes[1].port == 443


def test_the_defaults_of_checks_are_those_of_apisix() -> None:
    upstream = load(profile=Profile.APISIX).routes[0].upstream
    assert upstream is not None
    assert upstream.passive == PassiveCheck(
        frozenset((*range(200, 209), 226, *range(300, 309))), 5, frozenset((429, 500, 503)), 5, 2, 7, False
    )
    upstream = load().routes[0].upstream
    assert upstream is not None
    assert upstream.passive == PassiveCheck(None, 5, None, 5, 2, 7, True)


def test_a_file_without_its_end_may_be_half_written() -> None:
    assert "an apisix.yaml ends with the line #END" in mistakes(FILE.replace("#END\n", ""))
    load(FILE.rstrip("\n") + "  \n\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("service_id: s", "service_id: t", 'routes[1].service_id: no service has the id "t"'),
        ("upstream_id: u", "upstream_id: v", 'no upstream has the id "v"'),
        ("plugin_config_id: p", "plugin_config_id: q", 'no plugin config has the id "q"'),
        ("- id: gone", "- id: 1", 'the id "1" is used twice (first in line 2)'),
        ("    upstream_id: u\n  - uris", "  - uris", "this route leads nowhere"),
        ("    uri: /a\n", "", "uri is missing"),
        ("uri: /a", "uri: /a\n    uris: [/x]", "uri and uris exclude each other"),
        ("uri: /a", "uri: a", "routes[0].uri: expected /path"),
        ('"b.example"', '"b.example:x"', 'expected host:port, got "b.example:x"'),
        ('"b.example": 2', '"b.example": -2', "from 0 to 2147483647, got -2"),
        ('"b.example"', '"a.example:8080 "', "expected host:port"),
        ("name: service", "routes: []", "here routes stand beside services"),
        ("global_rules: []", "global_rules: [{}]", "global_rules: not supported yet"),
        ("desc: text", "description: text", 'unknown key "description"'),
    ],
)
def test_mistakes_of_this_form(old: str, new: str, message: str) -> None:
    assert old in FILE
    assert message in mistakes(FILE.replace(old, new))


def test_an_inline_upstream_is_beaten_by_an_id() -> None:
    text = """\
routes:
  - {id: 1, uri: /a, upstream: {nodes: {"x:1": 1}}, name: inline}
  - {id: 2, uri: /b, upstream: {nodes: {"x:1": 1}}, upstream_id: 9}
upstreams: [{id: 9, nodes: [{host: y, port: 2, weight: 1}]}]
#END
"""
    inline, shared = load(text).routes
    assert inline.upstream is not None
    assert shared.upstream is not None
    assert (inline.upstream.name, inline.upstream.nodes[0].host) == ("inline", "x")
    assert (shared.upstream.name, shared.upstream.nodes[0].host) == ("9", "y")
