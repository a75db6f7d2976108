"""Files that cannot be read, and what reading costs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastgw.config import Config, ConfigErrors, Profile, load, loads
from fastgw.errors import ConfigError
from fastgw.secret import packed

EXAMPLES = Path(__file__).parents[3] / "examples"
ENV = {name: f"value-of-{name}" for name in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "ALICE_KEY", "CI_KEY")}


def refused(path: Path) -> str:
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    assert isinstance(caught.value, ConfigError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "1:1: the file is empty"),
        (b"services: []\n# ca \xe9\n", "2:6: not text in UTF-8"),
        (b"\xff\xfes\0", "the text is in UTF-16"),
        (b"\x7fELF\0\0", "a binary file"),
        (b"#" * (1024 * 1024 + 1), "larger than 1 MiB"),
        (b"services: [}\n", "1:12: YAML syntax"),
    ],
)
def test_unreadable_content_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    assert refused(file).startswith(f"{file}:")
    assert reason in refused(file)


def test_files_that_are_not_there_or_not_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "No such file" in refused(tmp_path / "missing.yaml")
    assert "it is a directory" in refused(tmp_path)
    assert "not a regular file" in refused(tmp_path / "fifo")
    assert "not a file name" in refused(Path("a\0b"))


@pytest.mark.skipif(os.geteuid() == 0, reason="not applicable: root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "private.yaml"
    file.write_text("services: []")
    file.chmod(0)
    assert "Permission denied" in refused(file)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfservices: []\n")
    assert load(file).routes == ()


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(ConfigErrors, match="not text in UTF-8"):
        loads("\ud800")


@pytest.mark.parametrize("name", ["article", "llm", "key-auth", "ai-proxy-multi"])
def test_the_examples_load_in_both_profiles(name: str) -> None:
    for profile in Profile:
        config = load(EXAMPLES / f"{name}.yaml", profile=profile, env=ENV)
        assert isinstance(config, Config)
        assert config.profile is profile
        assert config.file == str(EXAMPLES / f"{name}.yaml")


@pytest.mark.parametrize("name", ["llm", "key-auth", "ai-proxy-multi"])
def test_our_own_examples_have_nothing_to_warn_of(name: str) -> None:
    assert load(EXAMPLES / f"{name}.yaml", env=ENV).warnings == ()


def test_the_environment_is_that_of_the_process_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in ENV.items():
        monkeypatch.setenv(key, value)
    assert load(EXAMPLES / "llm.yaml") == load(EXAMPLES / "llm.yaml", env=ENV)


def test_the_argument_beats_the_profile_of_the_file() -> None:
    assert loads("profile: apisix").profile is Profile.APISIX
    assert loads("profile: apisix", profile=Profile.LLM).profile is Profile.LLM
    assert loads("services: []").profile is Profile.LLM


def test_bad_files_of_any_size_are_refused_within_a_second(tmp_path: Path) -> None:
    texts = {
        "keys": "".join(f"k{number}: 1\n" for number in range(90_000)),
        "services": "services:\n" + "".join(f"- {number}\n" for number in range(90_000)),
        "list": "services: [" + "a," * 500_000 + "]",
        "deep": "services: " + "[" * 1_000_000,
        "line": "services: " + "a" * 1_000_000,
        "number": "profile: " + "9" * 1_000_000,
        "uris": "services: [{name: a, routes: [{name: b, uris: [" + "{}," * 60_000 + "]}]}]",
    }
    for name, text in texts.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        began = time.process_time()
        refused(file)
        assert time.process_time() - began < 3, name  # a second here, with room for a slow machine


def test_a_sound_file_is_loaded_without_jsonschema() -> None:
    program = (
        "import sys; from fastgw.config import load\n"
        f"load({str(EXAMPLES / 'article.yaml')!r})\n"
        "assert 'yaml' in sys.modules and 'jsonschema' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=EXAMPLES.parent, timeout=60)


def test_a_configuration_survives_the_way_to_another_process() -> None:
    text = (
        "fastgw: {workers: 2}\n"
        "services:\n"
        "  - name: s\n"
        "    routes: [{name: r, uris: [/a]}, {name: t, uris: [/b]}]\n"
        "    plugins: {proxy-rewrite: {headers: {set: {x-a: b}}}}\n"
        "    upstream: {nodes: [{host: a.example, port: 80, weight: 1}]}\n"
    )
    config = loads(text)
    again = pickle.loads(packed(config))
    assert again == config
    assert again.routes[0].upstream is again.routes[1].upstream  # as it was: one upstream, not two
