"""ADC files -> the frozen model: defaults per profile, merging, and what must agree."""

from __future__ import annotations

import os
from hashlib import sha1
from pathlib import Path

import pytest
import trustme

from fastgw.config import (
    AccountCheck,
    ActiveCheck,
    Config,
    ConfigErrors,
    Deadlines,
    Keepalive,
    NodeConfig,
    PassiveCheck,
    ProcessConfig,
    Profile,
    RouteConfig,
    Timeouts,
    UpstreamConfig,
    load,
    loads,
)
from fastgw.llm.dialect import DEFAULT_MODELS
from fastgw.secret import Secret

ARTICLE = Path(__file__).parents[3] / "examples" / "article.yaml"
ADC_UNHEALTHY = frozenset((404, 429, 500, 501, 502, 503, 504, 505))


def upstream_of(config: Config) -> UpstreamConfig:
    upstream = config.routes[0].upstream
    assert upstream is not None
    return upstream


def upstream(fields: str, profile: Profile = Profile.LLM, base: Path | str = ".") -> UpstreamConfig:
    text = f"""\
services:
  - name: s
    routes: [{{name: r, uris: [/]}}]
    upstream:
      nodes: [{{host: a.example, port: 80, weight: 1}}]
{fields}
"""
    return upstream_of(loads(text, profile=profile, base=base))


def route(fields: str = "", service: str = "", consumers: str = "") -> RouteConfig:
    text = f"""\
services:
  - name: s
    upstream: {{nodes: [{{host: a.example, port: 80, weight: 1}}]}}
{service}
    routes:
      - name: r
        uris: [/a, /b*]
{fields}
{consumers}
"""
    return loads(text).routes[0]


def with_nodes(nodes: str, upstream: str = "") -> str:
    return f"""\
services:
  - name: s
    routes: [{{name: r, uris: [/]}}]
    upstream: {{{upstream}nodes: [{nodes}]}}
"""


def node(fields: str, profile: Profile = Profile.LLM, base: Path | str = ".", **env: str) -> NodeConfig:
    text = with_nodes(f"{{{fields}}}", "scheme: https, ")
    return upstream_of(loads(text, profile=profile, env=env, base=base)).nodes[0]


def mistakes(text: str, profile: Profile = Profile.LLM) -> str:
    with pytest.raises(ConfigErrors) as caught:
        loads(text, profile=profile, env={})
    return str(caught.value)


# --- The article ---


def test_the_article_in_profile_llm() -> None:
    config = load(ARTICLE)
    [only] = config.routes
    found = upstream_of(config)
    assert (only.name, only.service, only.uris) == ("llm-chat", "LLM Service", ("/v1/chat/completions",))
    assert only.plugins[0].conf == {"headers": {"set": {"Authorization": Secret("LLM-API-KEY")}}}
    assert [(n.name, n.weight, n.priority, n.provider) for n in found.nodes] == [
        ("api.openai.com:443", 100, 0, "openai"),
        ("api.deepseek.com:443", 1, -1, "deepseek"),
    ]
    assert found.nodes[1].models[-1] == ("*", "deepseek-flash")
    assert (found.scheme, found.pass_host, found.retries, found.timeout) == ("https", "node", None, None)
    assert found.active == ActiveCheck(
        type="https",
        healthy_statuses=None,
        unhealthy_statuses=None,
        successes=1,
        http_failures=3,
        tcp_failures=2,
        timeouts=3,
        healthy_interval_s=1.0,
        unhealthy_interval_s=1.0,
    )
    assert found.passive == PassiveCheck(None, 1, None, 3, 2, 3, connect_failure_ejects=True)


def test_the_article_in_profile_apisix() -> None:
    config = load(ARTICLE, profile=Profile.APISIX)
    found = upstream_of(config)
    assert found.pass_host == "pass"
    assert found.nodes[1].provider == "deepseek"
    assert found.nodes[1].models == ()
    assert found.timeout == Timeouts(60.0, 60.0, 60.0)
    assert found.keepalive == Keepalive(320, 60.0, 1000)
    assert found.active is not None
    assert found.active.type == "http"
    assert found.active.healthy_statuses == {200, 302}
    assert found.active.unhealthy_statuses == ADC_UNHEALTHY
    assert found.passive == PassiveCheck(
        frozenset((200, 302)), 1, ADC_UNHEALTHY, 3, 2, 3, connect_failure_ejects=False
    )


def test_the_article_warns_that_one_key_reaches_two_vendors() -> None:
    [warning] = load(ARTICLE).warnings
    assert warning.startswith(f"{ARTICLE}:9:13: services[0].routes[0].plugins.proxy-rewrite: ")
    assert "api.deepseek.com and api.openai.com" in warning
    assert "LLM-API-KEY" not in warning


# --- Upstreams ---


def test_fields_that_are_written_win_over_either_profile() -> None:
    for profile in Profile:
        fields = """\
      pass_host: rewrite
      upstream_host: B.example
      scheme: https
      checks: {active: {type: tcp, healthy: {http_statuses: [204]}}}
      timeout: {connect: 1, send: 2.5, read: 3}
      retries: 0
      retry_timeout: 4
      keepalive_pool: {size: 5}
"""
        found = upstream(fields, profile)
        assert (found.pass_host, found.upstream_host) == ("rewrite", "b.example")
        assert found.timeout == Timeouts(1.0, 2.5, 3.0)
        assert (found.retries, found.retry_timeout_s) == (0, 4.0)
        assert found.keepalive == Keepalive(5, 60.0, 1000)
        assert found.active is not None
        assert found.active.type == "tcp"
        assert found.active.healthy_statuses == {204}


def test_an_upstream_is_named_like_its_service_unless_it_has_a_name() -> None:
    assert upstream("").name == "s"
    assert upstream("      name: u").name == "u"
    assert upstream("").id == sha1(b"s", usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("active", "llm", "apisix"),
    [
        ("{}", (1.0, 1.0), (0.0, 0.0)),
        ("{healthy: {}}", (1.0, 1.0), (1.0, 0.0)),
        ("{healthy: {interval: 7}}", (7.0, 7.0), (7.0, 0.0)),
        ("{unhealthy: {interval: 5}}", (5.0, 5.0), (0.0, 5.0)),
        ("{healthy: {interval: 7}, unhealthy: {interval: 5}}", (7.0, 5.0), (7.0, 5.0)),
    ],
)
def test_probes_go_on_in_profile_llm_when_half_of_the_check_is_absent(
    active: str, llm: tuple[float, float], apisix: tuple[float, float]
) -> None:
    for profile, expected in ((Profile.LLM, llm), (Profile.APISIX, apisix)):
        found = upstream(f"      checks: {{active: {active}}}", profile).active
        assert found is not None
        assert (found.healthy_interval_s, found.unhealthy_interval_s) == expected


def test_probe_headers_are_taken_in_either_spelling() -> None:
    for key in ("req_headers", "http_request_headers"):
        found = upstream(f"      checks: {{active: {{{key}: ['X-A:  b: c ', 'X-D:']}}}}").active
        assert found is not None
        assert found.req_headers == (("X-A", "b: c"), ("X-D", ""))


@pytest.mark.parametrize(
    ("passive", "llm", "apisix"),
    [
        (None, None, None),
        (
            "{}",
            PassiveCheck(None, 1, None, 5, 5, 5, True),
            PassiveCheck(frozenset(), 5, frozenset(), 5, 2, 7, False),
        ),
        (
            "{healthy: {}}",
            PassiveCheck(None, 2, None, 5, 5, 5, True),
            PassiveCheck(frozenset((200, 302)), 2, frozenset(), 5, 2, 7, False),
        ),
        (
            "{unhealthy: {tcp_failures: 4, http_statuses: [500]}}",
            PassiveCheck(None, 1, frozenset((500,)), 5, 4, 3, False),
            PassiveCheck(frozenset(), 5, frozenset((500,)), 5, 4, 3, False),
        ),
    ],
)
def test_passive_checks(passive: str | None, llm: PassiveCheck | None, apisix: PassiveCheck | None) -> None:
    for profile, expected in ((Profile.LLM, llm), (Profile.APISIX, apisix)):
        active = "active: {}, " if passive else ""
        fields = f"      checks: {{{active}passive: {passive}}}" if passive else ""
        assert upstream(fields, profile).passive == expected


def test_active_checks_alone_count_retried_failures_in_profile_apisix() -> None:
    found = upstream("      checks: {active: {}}", Profile.APISIX).passive
    assert found == PassiveCheck(frozenset(), 5, frozenset(), 5, 2, 7, False)
    assert upstream("      checks: {active: {}}").passive is None


def test_passive_checks_alone_are_taken_in_profile_llm_only() -> None:
    text = "services: [{name: s, upstream: {nodes: [{host: a, port: 1, weight: 1}], checks: {passive: {}}}}]"
    loads(text)
    assert "passive checks need active ones" in mistakes(text, Profile.APISIX)


def test_an_upstream_without_nodes_is_a_mistake_in_profile_llm_only() -> None:
    text = "services: [{name: s, upstream: {nodes: []}, routes: [{name: r, uris: [/]}]}]"
    assert "an upstream without nodes can answer nothing" in mistakes(text)
    config = loads(text, profile=Profile.APISIX)
    assert upstream_of(config).nodes == ()
    assert "its requests get 503" in config.warnings[0]


# --- Nodes ---


def test_a_node_with_everything(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    fields = """\
        host: Box.Example, port: 8000, weight: 0, priority: -3, name: box, provider: openai,
        auth: {header: {Authorization: "Bearer ${K}", X-N: 5}, query: {key: "${K}"}},
        models: {"gpt-4*": a, b: c, "*": d}, timeout: {connect: 1, send: 2, read: 3},
        capabilities: {images: true, n: false}, strict: true,
        max_in_flight: 9, ca_file: ca.pem, metadata: {x: 1}
"""
    found = node(fields, base=tmp_path, K="secret")
    assert found == NodeConfig(
        host="box.example",
        port=8000,
        weight=0,
        priority=-3,
        name="box",
        provider="openai",
        auth_headers=(("Authorization", Secret("Bearer secret")), ("X-N", Secret("5"))),
        auth_query=(("key", Secret("secret")),),
        dialect="openai",
        models=(("gpt-4*", "a"), ("b", "c"), ("*", "d")),
        capabilities=(("images", True), ("n", False)),
        strict=True,
        timeout=Timeouts(1.0, 2.0, 3.0),
        max_in_flight=9,
        ca_file=str(tmp_path / "ca.pem"),
        account=AccountCheck(models_path="/v1/models"),
        metadata={"x": 1},
    )


ACCOUNT_KEY = 'auth: {header: {Authorization: "Bearer ${K}"}}'


def account(fields: str, checks: str = "", profile: Profile = Profile.LLM) -> AccountCheck | None:
    text = f"""\
services:
  - name: s
    routes: [{{name: r, uris: [/]}}]
    upstream:
      nodes: [{{host: a.example, port: 443, weight: 1, {fields}}}]
      {f"checks: {{account: {checks}}}" if checks else ""}
"""
    return upstream_of(loads(text, profile=profile, env={"K": "sk-1"})).nodes[0].account


def test_accounts_are_checked_where_a_provider_lists_models_for_a_nodes_own_key() -> None:
    deepseek = AccountCheck(models_path="/models", balance_path="/user/balance")
    assert account(f"provider: deepseek, {ACCOUNT_KEY}") == deepseek
    assert account("provider: deepseek") is None, "no key of its own"
    assert account(ACCOUNT_KEY) is None, "nobody we know"
    assert account(f"provider: openai-compatible, {ACCOUNT_KEY}") is None, "its paths are not known"


def test_how_accounts_are_checked_is_written_at_the_upstream_and_the_node_wins() -> None:
    fields = f"provider: openai-compatible, {ACCOUNT_KEY}"
    assert account(fields, "{models_path: /api/models, interval: 5, timeout: 2.5}") == AccountCheck(
        models_path="/api/models", interval_s=5.0, timeout_s=2.5
    )
    of_node = "checks: {account: {models_path: null, balance_path: /credit}}"
    assert account(f"{fields}, {of_node}", "{models_path: /api/models, interval: 5}") == AccountCheck(
        balance_path="/credit", interval_s=5.0
    )
    openai = f"provider: openai, {ACCOUNT_KEY}"
    assert account(openai, "{enabled: false}") is None
    assert account(f"{openai}, checks: {{account: {{enabled: true}}}}", "{enabled: false}") is not None
    assert account(openai, "{models_path: null}") is None, "nothing is left to ask"


def test_profile_apisix_checks_accounts_only_where_the_file_says_so() -> None:
    fields = f"provider: openai, {ACCOUNT_KEY}"
    assert account(fields, profile=Profile.APISIX) is None
    assert account(fields, "{interval: 30}", Profile.APISIX) is not None


def test_keys_are_in_no_repr() -> None:
    text = """\
services:
  - name: s
    plugins: {proxy-rewrite: {headers: {X-Key: secret}}}
    routes: [{name: r, uris: [/]}]
    upstream:
      checks: {active: {req_headers: ["A: secret"]}}
      nodes: [{host: a, port: 1, weight: 1, auth: {header: {A: secret}, query: {b: secret}}}]
consumers: [{username: u, plugins: {key-auth: {key: secret}}}]
fastgw: {admin_token: secret-secret-secret}
"""
    assert "secret" not in repr(loads(text))


@pytest.mark.parametrize(
    ("host", "found", "name"),
    [
        ("10.0.0.1", "10.0.0.1", "10.0.0.1:443"),
        ("'::1'", "::1", "[::1]:443"),
        ("'[2001:DB8::0001]'", "2001:db8::1", "[2001:db8::1]:443"),
        ("localhost", "localhost", "localhost:443"),
        ("API.OpenAI.com", "api.openai.com", "api.openai.com:443"),
        ("my_box-1", "my_box-1", "my_box-1:443"),
    ],
)
def test_hosts_in_their_usual_form(host: str, found: str, name: str) -> None:
    read = node(f"host: {host}, port: 443, weight: 1")
    assert (read.host, read.name) == (found, name)


def test_known_hosts_imply_their_provider_and_in_profile_llm_its_models() -> None:
    fields = "host: api.deepseek.com, port: 443, weight: 1"
    assert node(fields).provider == node(fields, Profile.APISIX).provider == "deepseek"
    assert node(fields).models == DEFAULT_MODELS["deepseek"]
    assert node(fields, Profile.APISIX).models == ()
    assert node(fields).dialect == "deepseek" and node(fields, Profile.APISIX).dialect is None
    assert node(f"{fields}, provider: deepseek", Profile.APISIX).dialect == "deepseek"
    assert node(f"{fields}, models: {{a: b}}").models == (("a", "b"),)
    assert node(f"{fields}, models: {{}}").models == ()
    assert node(f"{fields}, models: {{a: null, '*': b}}").models == (("a", None), ("*", "b"))
    assert node("host: other.example, port: 443, weight: 1").provider is None


def test_the_same_server_twice_is_a_mistake() -> None:
    text = with_nodes("{host: a.b, port: 1, weight: 1}, {host: A.B, port: 1, weight: 5}")
    assert 'the node "a.b:1" is used twice (first in line 4)' in mistakes(text)


def test_two_nodes_of_one_name_are_a_mistake() -> None:
    text = with_nodes("{host: a, port: 1, weight: 1, name: n}, {host: b, port: 1, weight: 1, name: n}")
    assert 'the node name "n" is used twice' in mistakes(text)


@pytest.mark.parametrize("value", ["", "Bearer ", "  ", "bearer"])
def test_an_empty_credential_is_a_mistake(value: str) -> None:
    text = with_nodes(f"{{host: a, port: 1, weight: 1, auth: {{header: {{A: '{value}'}}}}}}")
    assert "this credential is empty" in mistakes(text)


@pytest.mark.parametrize("value", ["a\\nb", "a\\r", "\\0", "a\\n", "\\u2028", "\\u20ac"])
def test_a_credential_that_would_break_a_head_is_a_mistake(value: str) -> None:
    text = with_nodes(f'{{host: a, port: 1, weight: 1, auth: {{header: {{A: "k{value}"}}}}}}')
    assert "without line breaks or control characters" in mistakes(text)


def test_a_ca_file_must_be_there() -> None:
    text = "services: [{name: s, upstream: {nodes: [{host: a, port: 1, weight: 1, ca_file: none.pem}]}}]"
    assert "nodes[0].ca_file: no file that can be read" in mistakes(text)


@pytest.mark.parametrize("weights", [(0, 0), (1, 0)])
def test_weight_zero_is_allowed(weights: tuple[int, int]) -> None:
    nodes = ", ".join(f"{{host: h{i}, port: 1, weight: {weight}}}" for i, weight in enumerate(weights))
    found = upstream_of(loads(with_nodes(nodes)))
    assert tuple(n.weight for n in found.nodes) == weights


# --- Routes ---


def test_a_route_with_everything() -> None:
    found = route(
        """\
        id: x.1
        hosts: [A.example, '*.b.example']
        methods: [GET, POST]
        priority: -2
        timeout: {connect: 1, send: 1, read: 1}
        replayable: false
        passthrough: true
        enable_websocket: true
        on_stream_failure: resume
        deadlines: {total: 9, idle: 1.5}
"""
    )
    assert found == RouteConfig(
        id="x.1",
        name="r",
        uris=("/a", "/b*"),
        upstream=found.upstream,
        service="s",
        hosts=("a.example", "*.b.example"),
        methods=("GET", "POST"),
        priority=-2,
        timeout=Timeouts(1.0, 1.0, 1.0),
        deadlines=Deadlines(total_s=9.0, idle_s=1.5),
        replayable=False,
        passthrough=True,
        enable_websocket=True,
        on_stream_failure="resume",
    )


def test_a_route_with_nothing_has_the_defaults() -> None:
    found = route()
    assert found.id == sha1(b"s.r", usedforsecurity=False).hexdigest()
    assert found.deadlines == Deadlines()
    assert (found.replayable, found.passthrough, found.on_stream_failure, found.hosts) == (
        None,
        False,
        "end",
        (),
    )


def test_the_hosts_of_a_service_hold_for_routes_without_hosts() -> None:
    assert route(service="    hosts: [s.example]").hosts == ("s.example",)
    assert route("        hosts: [r.example]", service="    hosts: [s.example]").hosts == ("r.example",)


@pytest.mark.parametrize(
    ("service", "uris", "strip"),
    [
        ("path_prefix: /p", ("/p/a", "/p/b*"), ""),
        ("path_prefix: /p/", ("/p/a", "/p/b*"), ""),
        ("path_prefix: /p/q\n    strip_path_prefix: true", ("/p/q/a", "/p/q/b*"), "/p/q"),
        ("path_prefix: /\n    strip_path_prefix: true", ("/a", "/b*"), ""),
        ("strip_path_prefix: true", ("/a", "/b*"), ""),
    ],
)
def test_the_path_prefix_of_a_service_goes_before_its_paths(
    service: str, uris: tuple[str, ...], strip: str
) -> None:
    found = route(service=f"    {service}")
    assert (found.uris, found.strip_prefix) == (uris, strip)


def test_a_head_deadline_holds_for_streams_unless_they_have_their_own() -> None:
    assert route("        deadlines: {head: 7, first_content: 8}").deadlines == Deadlines(
        head_s=7.0, head_stream_s=7.0, first_content_s=8.0, first_content_stream_s=8.0
    )
    assert route("        deadlines: {head: 7, head_stream: 2}").deadlines == Deadlines(
        head_s=7.0, head_stream_s=2.0
    )


def test_plugins_of_the_route_win_by_name_whole() -> None:
    found = route(
        "        plugins: {proxy-rewrite: {method: PUT}}",
        "    plugins: {proxy-rewrite: {uri: /x, headers: {A: b}}, key-auth: {}}",
    )
    assert {plugin.name: plugin.conf for plugin in found.plugins} == {
        "proxy-rewrite": {"method": "PUT"},
        "key-auth": {},
    }


def test_a_disabled_plugin_is_gone_and_hides_that_of_the_service() -> None:
    found = route(
        """\
        plugins:
          proxy-rewrite: {method: PUT, _meta: {disable: true}}
          key-auth: {_meta: {priority: 3}}
""",
        "    plugins: {proxy-rewrite: {uri: /x}}",
    )
    assert [(plugin.name, plugin.conf) for plugin in found.plugins] == [
        ("key-auth", {"_meta": {"priority": 3}})
    ]


@pytest.mark.parametrize(
    ("headers", "normal"),
    [
        ("{A: b, C: 5}", {"set": {"A": "b", "C": "5"}}),
        ("{set: {A: [b, 1.5]}}", {"set": {"A": ["b", "1.5"]}}),
        ("{add: {A: b}, remove: [X]}", {"add": {"A": "b"}, "remove": ["X"]}),
        ("{remove: []}", {}),
        ("{set: plain}", {"set": {"set": "plain"}}),
    ],
)
def test_headers_of_proxy_rewrite_come_in_the_form_with_verbs(headers: str, normal: object) -> None:
    assert (
        route(f"        plugins: {{proxy-rewrite: {{headers: {headers}}}}}").plugins[0].conf["headers"]
        == normal
    )


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ("{}", "expected at least one of uri, regex_uri, method, host, headers"),
        ("{headers: {}}", "proxy-rewrite.headers: expected"),
        ("{headers: {set: {A: b}, X: y}}", 'unknown key "X"'),
        ("{headers: {Host: x}}", "Host is not set through headers"),
        ("{headers: {A: \"x\\r\\nB: y\"}}", "without line breaks"),
        ("{regex_uri: [a, b, c]}", "expected pairs"),
        ("{regex_uri: ['(', b]}", "not a regular expression"),
        ("{method: get}", "did you mean GET?"),
        ("{uri: x}", "a path that begins with /"),
        ("{uri: \"/a\\r\\nb\"}", "a path that begins with /"),
        ("{method: GET, _meta: {filter: []}}", "conditions on plugins are not supported yet"),
        ("{method: GET, _meta: {disabled: true}}", "did you mean disable?"),
    ],
)  # fmt: skip
def test_mistakes_in_proxy_rewrite(conf: str, message: str) -> None:
    assert message in mistakes(f"services: [{{name: s, plugins: {{proxy-rewrite: {conf}}}}}]")


def test_names_and_ids_are_unique() -> None:
    text = """\
services:
  - {name: s, id: i, routes: [{name: r, uris: [/]}, {name: r, uris: [/a]}]}
  - {name: s, id: i}
"""
    found = mistakes(text)
    assert 'services[0].routes[1].name: the route name "r" is used twice (first in line 2)' in found
    assert 'services[1].name: the service name "s" is used twice (first in line 2)' in found
    assert 'services[1].id: the id "i" is used twice' in found
    loads("services: [{name: s, routes: [{name: r, uris: [/]}]}, {name: t, routes: [{name: r, uris: [/a]}]}]")


def test_a_service_without_upstream_is_warned_of() -> None:
    config = loads("services: [{name: s, routes: [{name: r, uris: [/]}]}]")
    assert config.routes[0].upstream is None
    assert "its requests get 503" in config.warnings[0]


# --- Consumers and the process ---


def test_the_keys_of_a_consumer_come_from_plugins_and_credentials() -> None:
    config = loads(
        """\
consumers:
  - username: a
    plugins: {key-auth: {key: one}}
    credentials:
      - {name: x, type: key-auth, config: {key: two}}
      - {name: y, type: key-auth, config: {key: three, _meta: {disable: true}}}
  - username: b
"""
    )
    assert [(consumer.username, consumer.keys) for consumer in config.consumers] == [
        ("a", (Secret("one"), Secret("two"))),
        ("b", ()),
    ]


def test_consumers_share_no_name_and_no_key() -> None:
    found = mistakes(
        "consumers: [{username: a, plugins: {key-auth: {key: hunter2}}},"
        " {username: a, plugins: {key-auth: {key: hunter2}}}]"
    )
    assert 'two consumers have the name "a"' in found
    assert "this key is in use already (first in line 1)" in found
    assert "hunter2" not in found


def test_the_process_has_its_defaults_and_units() -> None:
    assert loads("services: []").process == ProcessConfig()
    config = loads(
        "fastgw: {listen: '[::1]:80', admin: 'off', drain: 5, keepalive: 0, hold_body_bytes: 4096,"
        " connect_to: ['A.b:443:127.0.0.1:8443', '::c:'], response_headers: false}"
    )
    assert config.process == ProcessConfig(
        listen=("[::1]:80",),
        admin="off",
        drain_s=5.0,
        keepalive_s=0.0,
        hold_body_bytes=4096,
        connect_to=(("a.b", 443, "127.0.0.1", 8443), ("", 0, "c", 0)),
        response_headers=False,
    )
    assert loads("fastgw: {listen: ['127.0.0.1:1', 'unix:/run/x']}").process.listen == (
        "127.0.0.1:1",
        "unix:/run/x",
    )


def test_an_open_admin_port_is_taken_with_a_token() -> None:
    config = loads("fastgw: {admin: '0.0.0.0:9180', admin_token: 0123456789abcdef}")
    assert config.process.admin == "0.0.0.0:9180"


def test_values_compare_without_their_marks() -> None:
    text = with_nodes("{host: a, port: 1, weight: 1}")
    assert loads(text).routes == loads("\n\n" + text).routes
    assert loads(text).routes[0].mark != loads("\n\n" + text).routes[0].mark


def test_a_config_holds_no_reference_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "one")
    text = with_nodes("{host: '${K}', port: 1, weight: 1}")
    config = loads(text)
    os.environ["K"] = "two"
    assert upstream_of(config).nodes[0].host == "one"
