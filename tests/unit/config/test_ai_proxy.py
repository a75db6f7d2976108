"""ai-proxy and ai-proxy-multi -> an upstream of their own."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from fastgw.config import Config, ConfigErrors, NodeConfig, Profile, Timeouts, UpstreamConfig, loads
from fastgw.config.model import Fallback
from fastgw.secret import Secret, packed

ENV = {"KEY": "sk-of-the-test-1", "OTHER": "sk-of-the-test-2"}
AUTH = 'auth: {header: {Authorization: "Bearer ${KEY}"}}'


def plugin(instances: str, fields: str = "", profile: Profile = Profile.LLM) -> Config:
    """A route with ai-proxy-multi; ``instances`` are flow mappings, ``fields`` stand beside them."""
    lines = "".join(f"            {line.strip()}\n" for line in fields.splitlines())
    text = f"""\
services:
  - name: s
    routes:
      - name: r
        uris: [/ai]
        plugins:
          ai-proxy-multi:
            instances: [{instances}]
{lines}"""
    return loads(text, profile=profile, env=ENV)


def upstream(instances: str, fields: str = "", profile: Profile = Profile.LLM) -> UpstreamConfig:
    found = plugin(instances, fields, profile).routes[0].upstream
    assert found is not None
    return found


def instance(fields: str = "", provider: str = "openai", name: str = "one") -> str:
    return f"{{name: {name}, provider: {provider}, weight: 1, {AUTH}{', ' if fields else ''}{fields}}}"


def node(fields: str = "", provider: str = "openai", profile: Profile = Profile.LLM) -> NodeConfig:
    (found,) = upstream(instance(fields, provider), profile=profile).nodes
    return found


def mistake(instances: str, fields: str = "") -> str:
    with pytest.raises(ConfigErrors) as caught:
        plugin(instances, fields)
    assert "sk-of-the-test" not in str(caught.value)
    return str(caught.value)


# --- Instances --------------------------------------------------------------------------------


def test_an_instance_becomes_a_node() -> None:
    found = node("priority: -1, max_in_flight: 3")
    assert (found.name, found.host, found.port, found.scheme) == ("one", "api.openai.com", 443, "https")
    assert (found.weight, found.priority, found.max_in_flight, found.provider) == (1, -1, 3, "openai")
    assert found.auth_headers == (("Authorization", Secret("Bearer sk-of-the-test-1")),)
    assert found.instance is not None
    assert (found.instance.path, found.instance.options, found.instance.max_tokens) == (None, {}, None)
    assert "sk-of-the-test" not in repr(found)


def test_a_provider_brings_its_host_and_in_profile_llm_its_model_map() -> None:
    assert node(provider="deepseek").host == "api.deepseek.com"
    assert node(provider="deepseek").models
    assert not node(provider="deepseek", profile=Profile.APISIX).models
    assert node('models: {"*": mine}').models == (("*", "mine"),)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://a.example", ("https", "a.example", 443, None, ())),
        ("http://a.example/", ("http", "a.example", 80, None, ())),
        ("HTTPS://A.Example:8443/x/chat", ("https", "a.example", 8443, "/x/chat", ())),
        (
            "http://[::1]:81/a%20b?v=1&w=",
            ("http", "::1", 81, "/a%20b", (("v", Secret("1")), ("w", Secret("")))),
        ),
    ],
)
def test_an_endpoint_says_where_and_how(endpoint: str, expected: tuple[Any, ...]) -> None:
    found = node(f'override: {{endpoint: "{endpoint}"}}', "openai-compatible")
    assert found.instance is not None
    assert (found.scheme, found.host, found.port, found.instance.path, found.auth_query) == expected


def test_the_arguments_of_an_endpoint_win_over_those_of_auth() -> None:
    fields = """{name: one, provider: openai, weight: 1, auth: {query: {key: "${KEY}", v: 1}},
                 override: {endpoint: "https://a.example/x?v=2"}}"""
    (found,) = upstream(fields).nodes
    assert found.auth_query == (("key", Secret("sk-of-the-test-1")), ("v", Secret("2")))


def test_what_is_written_over_the_body() -> None:
    found = node(
        """options: {model: gpt-4o, temperature: 0.5, stop: [a]},
           override: {llm_options: {max_tokens: 7}, request_body_force_override: true,
                      request_body: {openai-chat: {a: {b: 1}}, openai-embeddings: {}, passthrough: {c: 2}}}"""
    ).instance
    assert found is not None
    assert found.options == {"model": "gpt-4o", "temperature": 0.5, "stop": ["a"]}
    assert (found.max_tokens, found.patch_forced) == (7, True)
    assert found.patches == {"openai-chat": {"a": {"b": 1}}, "passthrough": {"c": 2}}


def test_each_instance_has_checks_of_its_own() -> None:
    checks = "checks: {active: {http_path: /up, unhealthy: {http_failures: 2}}}"
    plain = 'override: {endpoint: "http://a.example"}'
    first, second, third = upstream(
        ", ".join([instance(checks), instance(name="two"), instance(f"{checks}, {plain}", name="three")])
    ).nodes
    assert first.active is not None and third.active is not None
    assert (first.active.type, first.active.http_path, first.active.http_failures) == ("https", "/up", 2)
    assert second.active is None
    assert third.active.type == "http"
    assert upstream(instance(checks)).is_probed
    assert not upstream(instance()).is_probed


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (instance(provider="anthropic"), "anthropic is not supported yet (supported: openai, deepseek or"),
        (instance(provider="opanai"), "did you mean openai?"),
        (instance(provider="openai-compatible"), "openai-compatible needs override.endpoint"),
        (f"{instance()}, {instance()}", 'the instance name "one" is used twice'),
        ("{name: one, provider: openai, weight: 1}", "auth is missing"),
        ("{name: one, provider: openai, auth: {query: {k: v}}}", "weight is missing"),
        (
            "{name: one, provider: openai, weight: 1, auth: {header: {Authorization: Bearer }}}",
            "this credential is empty",
        ),
        (instance("auth: {gcp: {}}").replace(AUTH + ", ", ""), "signing in to Google Cloud"),
        (instance('override: {endpoint: "ftp://a"}'), "expected http:// or https://"),
        (instance('override: {endpoint: "https://u:p@a"}'), "credentials belong in auth"),
        (instance('override: {endpoint: "https://a:99999"}'), "not the address of a provider"),
        (instance('override: {endpoint: "https://a b"}'), "expected http:// or https://"),
        (instance('override: {endpoint: "https:///x"}'), "not the address of a provider"),
        (instance("override: {request_body: {anthropic-messages: {}}}"), "not supported"),
        (instance("options: {model: 5}"), "expected text"),
        (instance("checks: {}"), "active is missing"),
        (instance("checks: {active: {}, passive: {}}"), "live requests are watched"),
        (instance("model: gpt-4o"), "write options: {model: name}"),
        (instance("provider_conf: {region: x}"), "only of providers that are not supported"),
        ("", "nothing in it"),
    ],
)
def test_a_mistake_in_an_instance_is_named(fields: str, says: str) -> None:
    assert says in mistake(fields)


def test_a_path_that_looks_like_a_base_url_is_warned_of() -> None:
    found = plugin(instance('override: {endpoint: "https://a.example/v1"}'))
    assert any("every call goes to the path /v1 itself" in line for line in found.warnings)


# --- The plugin as a whole --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "llm", "apisix"),
    [
        ("", (None, None), (None, 0)),
        ("max_retries: 1", (None, 1), (None, 0)),
        ("fallback_strategy: instance_health_and_rate_limiting", (None, None), (None, 0)),
        ("fallback_strategy: [rate_limiting]", (None, None), (None, 0)),
        ("retry_on_failure_within_ms: 1500", (Fallback(None, False, 1.5), None), (None, 0)),
        (
            "fallback_strategy: http_429",
            (Fallback(frozenset({429})), None),
            (Fallback(frozenset({429}), True), None),
        ),
        (
            "fallback_strategy: [http_429]\nfallback_http_statuses: [404, 500]\nmax_retries: 0",
            (Fallback(frozenset({404, 429, 500})), 0),
            (Fallback(frozenset({404, 429, 500}), True), 0),
        ),
    ],
)
def test_what_is_followed_by_another_attempt(
    fields: str, llm: tuple[Any, Any], apisix: tuple[Any, Any]
) -> None:
    for profile, expected in ((Profile.LLM, llm), (Profile.APISIX, apisix)):
        found = upstream(instance(), fields, profile)
        assert found.ai_proxy is not None
        assert (found.ai_proxy.fallback, found.retries) == expected


def test_a_list_of_statuses_is_warned_of_in_profile_llm_alone() -> None:
    fields = "fallback_strategy: http_5xx"
    assert any("only the statuses" in line for line in plugin(instance(), fields).warnings)
    assert not plugin(instance(), fields, Profile.APISIX).warnings


def test_the_rest_of_the_plugin() -> None:
    fields = """\
        timeout: 1500
        max_req_body_size: 2048
        max_stream_duration_ms: 2500
        keepalive_timeout: 5000
        keepalive_pool: 7
        balancer: {algorithm: roundrobin, hash_on: vars, key: uri}
        streaming_flush_interval_ms: 0"""
    found = upstream(instance(), fields)
    assert found.timeout == Timeouts(1.5, 1.5, 1.5)
    assert (found.keepalive.size, found.keepalive.idle_timeout_s) == (7, 5.0)
    assert found.ai_proxy is not None
    assert (found.ai_proxy.max_body_bytes, found.ai_proxy.max_stream_s) == (2048, 2.5)
    assert (found.name, found.pass_host, found.owner) == ("r", "node", "routes")
    assert upstream(instance(), "keepalive: false").keepalive.requests == 1


def test_what_is_not_written_is_of_the_profile() -> None:
    llm, apisix = upstream(instance()), upstream(instance(), profile=Profile.APISIX)
    assert llm.timeout is None
    assert apisix.timeout == Timeouts(30.0, 30.0, 30.0)
    assert (apisix.keepalive.size, apisix.keepalive.idle_timeout_s) == (30, 60.0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("ssl_verify: false", "certificates are verified all the same"),
        ("logging: {payloads: true}", "without effect"),
        ("semantic_opts: {}", "no semantic balancer"),
    ],
)
def test_what_has_no_effect_is_warned_of(fields: str, says: str) -> None:
    assert any(says in line for line in plugin(instance(), fields).warnings)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("balancer: {algorithm: chash}", "chash is not supported yet (supported: roundrobin)"),
        (
            "fallback_strategy: rate_limiting",
            "expected instance_health_and_rate_limiting, http_429 or http_5xx",
        ),
        ("fallback_strategy: [http_4xx]", "expected rate_limiting, http_429 or http_5xx"),
        ("fallback_http_statuses: [200]", "from 400 to 599"),
        ("timeout: 0", "from 1 to 600000"),
        ("max_response_bytes: 5", "not supported yet"),
        ("instance: []", "did you mean instances?"),
    ],
)
def test_a_mistake_in_the_plugin_is_named(fields: str, says: str) -> None:
    assert says in mistake(instance(), fields)


# --- Routes and services ----------------------------------------------------------------------

ADC = """\
services:
  - name: s
    plugins: {ai-proxy: {provider: openai, auth: {header: {Authorization: "Bearer ${KEY}"}}}}
    routes:
      - {name: a, uris: [/a]}
      - {name: b, uris: [/b]}
      - name: c
        uris: [/c]
        plugins: {ai-proxy: {provider: deepseek, auth: {header: {Authorization: "Bearer ${OTHER}"}}}}
      - name: d
        uris: [/d]
        plugins: {ai-proxy: {provider: openai, auth: {query: {k: v}}, _meta: {disable: true}}}
"""


def test_routes_share_the_plugin_of_their_service_and_may_have_their_own() -> None:
    config = loads(ADC, env=ENV)
    first, second, third, fourth = (route.upstream for route in config.routes)
    assert first is second
    assert first is not None and third is not None
    assert (first.owner, first.name, third.owner, third.name) == ("services", "s", "routes", "c")
    assert [node.name for node in third.nodes] == ["ai-proxy-deepseek"]
    assert fourth is None  # the plugin is switched off there, and the service has no other upstream
    assert pickle.loads(packed(config)) == config


def test_an_upstream_is_not_needed_beside_the_plugin() -> None:
    assert not plugin(instance()).warnings
    text = """\
routes:
  - uri: /a
    plugins: {ai-proxy: {provider: openai, auth: {header: {Authorization: "Bearer ${{KEY}}"}}}}
  - uri: /b
    plugin_config_id: p
plugin_configs:
  - {id: p, plugins: {ai-proxy: {provider: deepseek, auth: {header: {Authorization: "Bearer ${{OTHER}}"}}}}}
#END
"""
    first, second = (route.upstream for route in loads(text, env=ENV).routes)
    assert first is not None and second is not None
    assert (first.owner, first.id, second.owner, second.id) == ("routes", "arr_1", "plugin_configs", "p")


def test_both_plugins_on_one_route_are_a_mistake() -> None:
    text = ADC.replace(
        "{name: a, uris: [/a]}", "{name: a, uris: [/a], plugins: {ai-proxy-multi: {instances: [%s]}}}"
    )
    with pytest.raises(ConfigErrors, match="ai-proxy and ai-proxy-multi on one route"):
        loads(text % instance(), env=ENV)
