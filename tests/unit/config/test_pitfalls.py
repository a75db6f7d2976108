"""Warnings: what loads and bites."""

from __future__ import annotations

import pytest

from fastgw.config import EMBEDDED, Profile, embedded, loads
from fastgw.secret import Secret

KEYS = {"OPENAI_API_KEY": "a", "DEEPSEEK_API_KEY": "b"}


def warnings(text: str, profile: Profile = Profile.LLM) -> str:
    return "\n".join(loads(text, profile=profile, env=KEYS).warnings)


def service(route: str = "", upstream: str = "scheme: https", nodes: str = "", plugins: str = "{}") -> str:
    nodes = (
        nodes
        or "{host: api.openai.com, port: 443, weight: 1}, {host: api.deepseek.com, port: 443, weight: 1}"
    )
    return f"""\
services:
  - name: s
    plugins: {plugins}
    routes: [{{name: r, uris: [/]{route}}}]
    upstream: {{{upstream}, nodes: [{nodes}]}}
"""


NODE = "{host: a, port: 1, weight: 1}"
LITERAL = "{proxy-rewrite: {headers: {authorization: Bearer x}}}"


def test_one_literal_for_two_vendors_is_warned_of_unless_nodes_have_their_own() -> None:
    assert "one authorization is sent to api.deepseek.com and api.openai.com" in warnings(
        service(plugins=LITERAL)
    )
    own = (
        "{host: api.openai.com, port: 443, weight: 1}, "
        "{host: api.deepseek.com, port: 443, weight: 1, auth: {header: {Authorization: x}}}"
    )
    assert warnings(service(plugins=LITERAL, nodes=own)) == ""


@pytest.mark.parametrize(
    "nodes",
    [
        "{host: a.x.example, port: 443, weight: 1}, {host: b.x.example, port: 443, weight: 1}",
        "{host: 10.0.0.1, port: 443, weight: 1}, {host: 10.0.0.2, port: 443, weight: 1}",
        "{host: one, port: 443, weight: 1}, {host: two, port: 443, weight: 1}",
    ],
)
def test_servers_of_one_owner_may_share_a_key(nodes: str) -> None:
    assert warnings(service(plugins=LITERAL, nodes=nodes)) == ""


def test_a_key_that_comes_with_the_request_is_no_literal() -> None:
    plugins = "{proxy-rewrite: {headers: {Authorization: Bearer $http_x_key}}}"
    assert warnings(service(plugins=plugins)) == ""


def test_a_provider_without_any_credential_is_warned_of() -> None:
    assert "no credential is configured for api.openai.com:443" in warnings(service())
    assert warnings(service(route=", passthrough: true")) == ""


def test_plain_http_to_a_provider_is_warned_of() -> None:
    nodes = (
        "{host: api.openai.com, port: 80, weight: 1, auth: {header: {A: b}}}, {host: x, port: 443, weight: 1}"
    )
    found = warnings(service(upstream="scheme: http", nodes=nodes))
    assert "api.openai.com would get its key in clear text" in found
    assert "plain HTTP to port 443" in found


def test_what_never_recovers_in_apisix_is_warned_of_there() -> None:
    nodes = "{host: x, port: 443, weight: 1}"
    text = service(upstream="scheme: https, checks: {active: {healthy: {}}}", nodes=nodes)
    assert warnings(text) == ""
    assert "no unhealthy node is ever probed" in warnings(text, Profile.APISIX)
    assert "probes of an https upstream in plain HTTP" in warnings(text, Profile.APISIX)


def test_routes_that_ask_for_the_same_are_warned_of() -> None:
    text = service(upstream="name: u", nodes=NODE).replace("routes: [", "routes: [{name: q, uris: [/]}, ")
    assert "route r asks for the same as route q: /" in warnings(text)
    assert warnings(text.replace("name: r,", "name: r, methods: [GET],")) == ""


def test_key_auth_without_keys_is_warned_of() -> None:
    text = service(upstream="name: u", nodes=NODE, plugins="{key-auth: {}}")
    assert "every request gets 401" in warnings(text)
    assert warnings(text + "consumers: [{username: u, plugins: {key-auth: {key: k}}}]") == ""
    assert "anonymous_consumer names no consumer" in warnings(
        text.replace("key-auth: {}", "key-auth: {anonymous_consumer: x}")
    )


def test_other_things_worth_a_word() -> None:
    assert "no routes: every request gets 404" in warnings("services: []")
    nodes = "{host: x, port: 443, weight: 1}"
    assert "certificates are verified all the same" in warnings(
        service(upstream="scheme: https, tls: {verify: false}", nodes=nodes)
    )
    found = warnings("fastgw: {listen: '0.0.0.0:80', allow_unauthenticated: true}")
    assert "anybody who reaches this machine" in found


def test_the_embedded_configuration_has_nothing_to_warn_of() -> None:
    assert warnings(EMBEDDED) == ""
    config = loads(EMBEDDED, env=KEYS)
    upstream = config.routes[0].upstream
    assert upstream is not None
    assert config.routes[0].uris == ("/v1/*",)
    assert [node.auth_headers for node in upstream.nodes] == [
        (("Authorization", Secret("Bearer a")),),
        (("Authorization", Secret("Bearer b")),),
    ]


def test_the_embedded_configuration_leaves_out_a_provider_without_a_key() -> None:
    assert embedded(KEYS) == EMBEDDED
    assert embedded({}) == embedded({"OPENAI_API_KEY": ""}) == ""
    for key, host in (("OPENAI_API_KEY", "api.openai.com"), ("DEEPSEEK_API_KEY", "api.deepseek.com")):
        config = loads(embedded({key: "k"}), env={key: "k"})
        assert config.routes[0].upstream is not None
        assert [node.host for node in config.routes[0].upstream.nodes] == [host]
        assert config.warnings == ()
