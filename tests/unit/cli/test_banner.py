"""What a start shows, for each kind of configuration."""

import io

import pytest

from fastgw.cli.banner import Ink, Started, banner, url
from fastgw.cli.overrides import Overrides
from fastgw.cli.source import Source
from fastgw.config import Config, loads

PLAIN = Ink(is_coloured=False)
FILE = """\
services:
  - name: Chat
    plugins: {key-auth: {header: Authorization}}
    routes:
      - {name: a, uris: [/openai/v1/chat/completions], hosts: [ai.example]}
    upstream:
      scheme: https
      nodes:
        - {host: api.deepseek.com, port: 443, weight: 3, name: main,
           auth: {header: {Authorization: Bearer sk-canary-123456}}}
consumers: [{username: u, plugins: {key-auth: {key: sk-canary-client}}}]
"""


@pytest.fixture(autouse=True)
def no_key_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)


def shown(config: Config, source: Source, started: Started) -> str:
    return banner(config, source, started, PLAIN)


def embedded(**env: str) -> tuple[Config, Source]:
    missing = tuple(name for name in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY") if name not in env)
    source = Source(Overrides(), env, None, missing)
    return source.load(), source


def test_both_keys_show_both_nodes_and_what_to_paste() -> None:
    config, source = embedded(OPENAI_API_KEY="sk-canary-1", DEEPSEEK_API_KEY="sk-canary-2")
    text = shown(config, source, Started(("127.0.0.1:9080",), "127.0.0.1:9180"))
    assert text.splitlines()[1:] == [
        "",
        "  listening on http://127.0.0.1:9080",
        "",
        "  export OPENAI_BASE_URL=http://127.0.0.1:9080/v1",
        "  export OPENAI_API_KEY=unused",
        "  curl http://127.0.0.1:9080/v1/chat/completions -H 'Content-Type: application/json' \\",
        """       -d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}'""",
        "",
        "  LLM Service: /v1/*",
        "    tier 0   api.openai.com:443    weight 100  openai",
        "    tier -1  api.deepseek.com:443  weight 1    deepseek  deepseek-* as is, * -> deepseek-flash",
        "",
        "  admin    http://127.0.0.1:9180",
        "  config   embedded default",
        "",
    ]
    assert "canary" not in text


def test_one_key_is_said_loudly() -> None:
    config, source = embedded(DEEPSEEK_API_KEY="sk-canary-2")
    text = shown(config, source, Started(("127.0.0.1:9080",), None))
    assert "| ONE PROVIDER ONLY" in text
    assert "OPENAI_API_KEY is not set, so only the provider of DEEPSEEK_API_KEY is used" in text
    assert '"model": "deepseek-flash"' in text
    assert "  admin    off\n" in text


def test_simulated_providers_are_said_loudly_with_the_way_to_break_them() -> None:
    config, source = embedded()
    text = shown(config, source, Started(("127.0.0.1:9080",), None, "127.0.0.1:9990"))
    assert "| SIMULATED PROVIDERS" in text
    assert "curl -X PUT http://127.0.0.1:9990/providers/openai/fault -d '{" in text
    assert "curl -X DELETE http://127.0.0.1:9990/providers/openai/fault" in text


def test_a_file_with_keys_hosts_and_paths_of_its_own_shows_what_its_clients_need() -> None:
    config = loads(FILE, file="own.yaml")
    source = Source(Overrides(), {}, "own.yaml")
    text = shown(config, source, Started(("unix:/run/a b.sock", "[::]:80"), None))
    assert "  listening on unix:/run/a b.sock\n  listening on http://[::1]:80\n" in text
    assert "curl --unix-socket '/run/a b.sock' http://localhost/openai/v1/chat/completions" in text
    assert "-H 'Authorization: Bearer <your key>'" in text
    assert "-H 'Host: ai.example'" in text
    assert "OPENAI_BASE_URL" not in text
    assert "    tier 0   main  weight 3    deepseek" in text
    assert "  config   own.yaml" in text
    assert "canary" not in text


def test_a_configuration_without_chat_has_nothing_to_paste() -> None:
    config = loads(FILE.replace("/openai/v1/chat/completions", "/status"), file="own.yaml")
    assert "curl" not in shown(config, Source(Overrides(), {}, "own.yaml"), Started(("127.0.0.1:1",), None))


def test_warnings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", "/tmp/keys")
    config = Config((), warnings=tuple(f"f.yaml:{line}:1: bites" for line in range(30)))
    text = shown(config, Source(Overrides(), {}, "f.yaml"), Started((), None))
    assert text.count("  warning  ") == 20
    assert "and 11 more: fastgw check" in text
    config, source = embedded()
    assert "SSLKEYLOGFILE is set" in shown(config, source, Started((), None))


@pytest.mark.parametrize(
    ("address", "shown_as"),
    [
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("host.example:80", "http://host.example:80"),
        ("fd:3", "fd:3"),
    ],
)
def test_an_address_is_shown_as_it_can_be_used(address: str, shown_as: str) -> None:
    assert url(address) == shown_as


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "env", "is_coloured"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    stream: io.StringIO, env: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    ink = Ink.for_stream(stream)
    assert ink.is_coloured == is_coloured
    assert ("\x1b" in ink.loud("x") + ink.bold("x")) == is_coloured
