"""The private authority is made once, kept to its owner, and remade in time."""

import json
import ssl
import stat
from pathlib import Path

import pytest

from fastgw.simulator.certificates import LIFETIME_S, VARIANTS, default_directory, ensure

HOSTS = ("a.test",)
NOW = 1_800_000_000.0


def test_a_set_is_complete_private_and_without_the_authoritys_key(tmp_path: Path) -> None:
    made = ensure(tmp_path / "simulator", HOSTS, now=NOW)
    for variant in (None, *VARIANTS):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.chain_file("a.test", variant))
    ssl.create_default_context(cafile=made.ca_file)
    assert b"PRIVATE KEY" not in made.ca_file.read_bytes()
    assert stat.S_IMODE(made.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.directory.iterdir()} == {0o600}


def test_a_valid_set_is_used_again_and_an_old_one_is_remade(tmp_path: Path) -> None:
    first = ensure(tmp_path, HOSTS, now=NOW).ca_file.read_bytes()
    assert ensure(tmp_path, HOSTS, now=NOW + LIFETIME_S / 2).ca_file.read_bytes() == first
    second = ensure(tmp_path, HOSTS, now=NOW + LIFETIME_S - 86400).ca_file.read_bytes()
    assert second != first
    assert ensure(tmp_path, HOSTS, now=NOW).ca_file.read_bytes() == second  # a clock a year behind is borne


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"format": 0, "expires": 1e12}', '{"format": 1, "expires": "x"}']
)
def test_a_broken_manifest_is_remade(tmp_path: Path, damage: str) -> None:
    first = ensure(tmp_path, HOSTS, now=NOW).ca_file.read_bytes()
    (tmp_path / "made.json").write_text(damage)
    assert ensure(tmp_path, HOSTS, now=NOW).ca_file.read_bytes() != first
    assert json.loads((tmp_path / "made.json").read_text())["expires"] == NOW + LIFETIME_S


def test_a_missing_file_or_a_new_host_remakes_the_set(tmp_path: Path) -> None:
    made = ensure(tmp_path, HOSTS, now=NOW)
    made.chain_file("a.test").unlink()
    assert ensure(tmp_path, HOSTS, now=NOW).chain_file("a.test").exists()
    assert ensure(tmp_path, ("a.test", "b.test"), now=NOW).chain_file("b.test").exists()


def test_the_cache_directory_follows_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "fastgw" / "simulator"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_directory() == Path("/home/somebody/.cache/fastgw/simulator")


def test_without_a_home_the_error_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(OSError, match="no home directory"):
        default_directory()
