"""What a file's mistakes read like: one line each, with place, path, expectation and hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.config import ConfigErrors, loads

HERE = Path(__file__).parent
SOUND = """\
services:
  - name: s
    routes:
      - name: r
        uris: [/v1/*]
    upstream:
      nodes:
        - {host: a.example, port: 80, weight: 1}
"""


def mistakes(text: str, env: dict[str, str] | None = None, base: Path | str = ".") -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        loads(text, file="f", env=env or {}, base=base)
    return str(caught.value).splitlines()


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    text = (HERE / "mistakes.yaml").read_text()
    assert mistakes(text) == (HERE / "mistakes.txt").read_text().splitlines()


def edited(old: str, new: str) -> str:
    assert old in SOUND
    return SOUND.replace(old, new)


def in_upstream(field: str) -> str:
    return edited("    upstream:", f"    upstream:\n      {field}")


def in_route(field: str) -> str:
    return edited("- name: r", f"- name: r\n        {field}")


def on_top(field: str) -> str:
    return edited("services:", f"{field}\nservices:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited("host: a.example", "host: a.example:80"), "the port has a field of its own"),
        (edited("host: a.example", "host: a.example/v1"), "paths are changed with proxy-rewrite"),
        (edited("host: a.example", "host: 300.1.2.3"), 'expected an IP address, got "300.1.2.3"'),
        (edited("host: a.example", "host: '[abc]'"), "expected an IPv6 address in the brackets"),
        (edited("host: a.example", "host: ''"), "expected a host name or IP address"),
        (edited("weight: 1", "weight: 1.5"), "expected a whole number from 0 to 2147483647, got 1.5"),
        (edited("weight: 1", "weight: 'heavy'"), 'got "heavy"'),
        (edited("weight: 1", "weight: "), "got nothing (give it a value or remove the key)"),
        (edited("weight: 1", "weight: 1, weighty: 2"), "did you mean weight?"),
        (edited("weight: 1", "weight: 1, url: x"), "write host and port; the scheme is a field"),
        (edited("port: 80, ", ""), "services[0].upstream.nodes[0]: port is missing"),
        (edited("/v1/*", "https://x/v1"), "the path alone, without scheme and host"),
        (edited("/v1/*", "/a?b=c"), "the query takes no part"),
        (edited("/v1/*", "/users/:id"), "path parameters (:name) are not supported"),
        (edited("uris: [/v1/*]", "uris: []"), "a list with at least one entry, got nothing in it"),
        (edited("uris: [/v1/*]", "uri: /v1"), "write uris: [...]"),
        (edited("uris: [/v1/*]", "uris: /v1"), 'uris: expected a list with at least one entry, got "/v1"'),
        (in_route("vars: [[a, '==', b]]"), "conditions (vars) are not supported yet"),
        (in_route("remote_addrs: ['::1']"), "conditions on the client's address"),
        (in_route("filter_func: function() end"), "Lua is not supported"),
        (in_route("deadlines: {haed: 1}"), "did you mean head?"),
        (in_route("deadlines: {head: 0}"), "a number above 0 and up to 86400, got 0"),
        (in_route("timeout: {connect: 1}"), "send is missing"),
        (in_route("passthrough: 'yes'"), "expected true or false, got \"yes\" (without quotes)"),
        (in_route("on_stream_failure: resum"), "did you mean resume?"),
        (in_upstream("type: chash"), "chash is not supported yet (supported: roundrobin)"),
        (in_upstream("scheme: grpc"), "grpc is not supported yet"),
        (in_upstream("service_name: x"), "service discovery is not supported"),
        (in_upstream("tls: {client_cert: x}"), "client certificates are not supported"),
        (in_upstream("checks: {active: {http_path: x}}"), "the path alone, from /"),
        (in_upstream("checks: {active: {req_headers: [x]}}"), 'expected "Name: value"'),
        (in_upstream("checks: {active: {healthy: {http_statuses: [99]}}}"), "from 200 to 599, got 99"),
        (on_top("profile: aps"), "expected llm or apisix, got \"aps\""),
        (on_top("service: []"), "did you mean services?"),
        (on_top("consumers: [{username: x, plugins: {basic-auth: {}}}]"), "basic-auth is not supported yet"),
        (on_top("fastgw: {listen: nowhere}"), 'expected HOST:PORT or unix:PATH, got "nowhere"'),
        (on_top("fastgw: {listen: 'a:99999'}"), "expected HOST:PORT"),
        (on_top("fastgw: {admin: '0.0.0.0:1'}"), "needs a token"),
        (on_top("fastgw: {admin_token: short}"), "less than 16 characters"),
        (on_top("fastgw: {connect_to: ['a:b']}"), "expected HOST:PORT:HOST2:PORT2"),
        (on_top("fastgw: {ca_file: /no/file}"), "no file that can be read has this name"),
        (on_top("fastgw: {drain: -1}"), "expected a number from 0 to 86400, got -1"),
        (on_top("global_rules: {prometheus: {}}"), "global_rules: not supported yet"),
    ],
    ids=range(43),
)  # fmt: skip
def test_a_mistake_says_what_was_expected(text: str, message: str) -> None:
    assert message in "\n".join(mistakes(text))


def test_one_mistake_is_one_line() -> None:
    for old, new in [
        ("port: 80", "port: x"),
        ("weight: 1", "weights: 1, weight: 1"),
        ("/v1/*", "v1"),
        ("name: s", "name: 5"),
    ]:
        assert len(mistakes(edited(old, new))) == 1


def test_numbers_may_be_quoted_and_switches_may_come_from_variables() -> None:
    text = edited("port: 80", 'port: "8080"').replace("name: r", 'name: r\n        passthrough: "${P}"')
    config = loads(text, env={"P": "true"})
    assert config.routes[0].upstream is not None
    assert config.routes[0].upstream.nodes[0].port == 8080
    assert config.routes[0].passthrough is True


def test_a_value_of_a_variable_is_never_shown() -> None:
    secret = "s3cr3t-value"
    text = """\
services:
  - name: s
    upstream:
      scheme: ${K}
      nodes:
        - {host: "${K}", port: 1, weight: 1}
        - {host: "${K}", port: 1, weight: 1}
        - {host: "${K} x", port: "${K}", weight: "${K}", auth: {header: {A: "${N}"}}}
        - {host: x, port: 1, weight: 1, name: "${K}!", provider: "${K}"}
    plugins: {key-auth: {realm: "${Q}"}}
consumers: [{username: a, plugins: {key-auth: {key: []}}}, {username: "${K}"}, {username: "${K}"}]
fastgw: {admin_token: "${K}", listen: "${K}", connect_to: ["${K}"], log_level: "${K}"}
profile: ${K}
"""
    found = "\n".join(mistakes(text, {"K": secret, "N": secret + "\n", "Q": f'"{secret}"'}))
    assert len(found.splitlines()) >= 10
    assert secret not in found


@pytest.mark.parametrize(
    "secret", ["sk-proj-abcdef0123456789", "Bearer abc", "0123456789abcdef0123456789abcdef"]
)
def test_a_literal_that_looks_like_a_key_is_never_shown(secret: str) -> None:
    text = f"services: {secret!r}\n{secret!r}: 1\nprofile: {secret!r}\nfastgw: {{log_level: {secret!r}}}\n"
    assert secret not in "\n".join(mistakes(text))


@pytest.mark.parametrize(
    "text",
    [
        "consumers: [{username: u, plugins: {key-auth: hunter-2-hunter}}]",
        "consumers:\n  - username: u\n    plugins:\n      key-auth:\n        key:hunter-2-hunter\n",
        "consumers: [{username: u, plugins: {key-auth: {key: !hunter-2-hunter}}}]",
        in_route("plugins: {ai-proxy: {override: {endpoint: 'ftp://a.example/?key=hunter-2-hunter'}}}"),
    ],
    ids=["alone", "without a space", "as a tag", "in an endpoint"],
)
def test_a_key_that_looks_like_none_is_not_shown_where_it_is_written_wrongly(text: str) -> None:
    found = "\n".join(mistakes(text))
    assert found and "hunter" not in found


def test_wrong_values_in_secret_places_are_never_shown() -> None:
    text = edited(
        "weight: 1", 'weight: 1, auth: {header: {A: ["hunter2"], B: "a\\nhunter2"}, query: hunter2}'
    )
    assert "hunter2" not in "\n".join(mistakes(text))


def test_text_that_would_move_the_cursor_of_a_terminal_is_escaped() -> None:
    found = "\n".join(mistakes('services: "\\e[2J\\r\\u202e"\n"\\e[1m": 1\n'))
    assert all(character.isprintable() or character == "\n" for character in found)


def test_many_mistakes_end_with_a_word_that_there_are_more() -> None:
    found = mistakes("".join(f"key{number}: 1\n" for number in range(5000)))
    assert len(found) == 201
    assert "more than 200 problems" in found[-1]
