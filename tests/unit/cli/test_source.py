"""Where the configuration comes from when nobody says."""

from pathlib import Path

import pytest

from fastgw.cli.overrides import Overrides
from fastgw.cli.source import Source
from fastgw.config.problems import ConfigErrors

FILE = """\
services:
  - name: s
    routes: [{name: r, uris: [/v1/*]}]
    upstream: {scheme: http, nodes: [{host: 127.0.0.1, port: 9, weight: 1}]}
"""
OPENAI = {"OPENAI_API_KEY": "key-o"}
DEEPSEEK = {"DEEPSEEK_API_KEY": "key-d"}


def hosts(source: Source) -> list[str]:
    (route,) = source.load().routes
    assert route.upstream is not None
    return [node.host for node in route.upstream.nodes]


def test_a_file_that_was_named_is_taken(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("nonsense")
    named = tmp_path / "named.yaml"
    named.write_text(FILE)
    source = Source.choose(Overrides(file=str(named)), OPENAI | DEEPSEEK, tmp_path)
    assert hosts(source) == ["127.0.0.1"]
    assert not source.is_simulated


def test_the_file_of_this_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(FILE)
    assert hosts(Source.choose(Overrides(), OPENAI, tmp_path)) == ["127.0.0.1"]


def test_a_dangling_link_is_not_silently_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(ConfigErrors, match="cannot be read"):
        Source.choose(Overrides(), OPENAI, tmp_path).load()


def test_without_a_file_the_providers_whose_keys_there_are_serve(tmp_path: Path) -> None:
    both = Source.choose(Overrides(), OPENAI | DEEPSEEK, tmp_path)
    assert hosts(both) == ["api.openai.com", "api.deepseek.com"]
    assert both.missing_keys == ()
    one = Source.choose(Overrides(), DEEPSEEK, tmp_path)
    assert hosts(one) == ["api.deepseek.com"]
    assert one.missing_keys == ("OPENAI_API_KEY",)
    assert not one.is_simulated


def test_an_empty_key_is_no_key(tmp_path: Path) -> None:
    source = Source.choose(Overrides(), {"OPENAI_API_KEY": "", "DEEPSEEK_API_KEY": ""}, tmp_path)
    assert source.is_simulated
    assert hosts(source) == ["api.openai.com", "api.deepseek.com"]


def test_a_reload_expands_what_the_start_expanded(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(FILE.replace("127.0.0.1", '"${WHERE}"'))
    env = {"WHERE": "first.example"}
    source = Source.choose(Overrides(), env, tmp_path)
    env["WHERE"] = "second.example"
    assert hosts(source) == ["first.example"]


def test_what_would_be_open_to_everybody_is_refused(tmp_path: Path) -> None:
    source = Source.choose(Overrides(listen=("0.0.0.0:1",)), OPENAI, tmp_path)
    with pytest.raises(ConfigErrors, match="no client key is asked for"):
        source.load()
