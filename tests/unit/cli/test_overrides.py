"""Flags over a configuration: the flag, else the file, else the default."""

from pathlib import Path

import pytest

from fastgw.cli.overrides import Overrides
from fastgw.config.model import Config, ProcessConfig
from fastgw.config.problems import ConfigErrors
from fastgw.secret import Secret

WRITTEN = ProcessConfig(
    listen=(":1", "unix:/a"),
    admin="off",
    admin_token=Secret("of the file"),
    workers=3,
    access_log="log",
    log_level="debug",
    log_format="json",
    drain_s=7.0,
    ca_file="/ca.pem",
)


def settled(overrides: Overrides, process: ProcessConfig, **env: str) -> ProcessConfig:
    return overrides.laid_over(Config(routes=(), process=process), env).process


def test_nothing_said_anywhere_leaves_the_defaults() -> None:
    process = settled(Overrides(), ProcessConfig())
    assert process == ProcessConfig(
        listen=("127.0.0.1:9080",),
        admin="127.0.0.1:9180",
        access_log="-",
        log_level="info",
        log_format="text",
        drain_s=30.0,
    )


def test_the_file_wins_over_the_defaults() -> None:
    process = settled(Overrides(), WRITTEN)
    assert process.listen == ("0.0.0.0:1", "unix:/a")
    assert (process.admin, process.access_log, process.drain_s) == ("off", "log", 7.0)
    assert (process.log_level, process.log_format, process.ca_file) == ("debug", "json", "/ca.pem")
    assert process.workers == 3


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    overrides = Overrides(
        listen=("127.0.0.1:2",),
        admin="127.0.0.1:3",
        workers=2,
        access_log="off",
        log_level="error",
        log_format="text",
        drain_s=0.0,
        ca_file=str(tmp_path / "own.pem"),
    )
    process = settled(overrides, WRITTEN)
    assert process.listen == ("127.0.0.1:2",)
    assert (process.admin, process.access_log, process.drain_s) == ("127.0.0.1:3", "off", 0.0)
    assert (process.log_level, process.log_format) == ("error", "text")
    assert process.workers == 2
    assert process.ca_file == str(tmp_path / "own.pem")


def test_the_admin_token_comes_from_its_file_else_the_environment_else_the_configuration(
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text("of-its-own-file-1\n")
    variable = {"FASTGW_ADMIN_TOKEN": "of-the-environment"}
    file.chmod(0o600)

    def token(overrides: Overrides, **env: str) -> Secret | None:
        return settled(overrides, WRITTEN, **env).admin_token

    assert token(Overrides(admin_token_file=str(file)), **variable) == Secret("of-its-own-file-1")
    assert token(Overrides(), **variable) == Secret("of-the-environment")
    assert token(Overrides()) == Secret("of the file")
    assert settled(Overrides(), ProcessConfig()).admin_token is None


@pytest.mark.parametrize("content", [b"", b"\n", b"short-one\n", b"\xff" * 20, b"x" * 5000])
def test_a_token_file_without_a_token_is_refused_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigErrors) as refused:
        settled(Overrides(admin_token_file=str(file)), ProcessConfig())
    assert str(refused.value).startswith(f"{file}:1:1: ")
    assert "xxx" not in str(refused.value)


def test_a_token_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="cannot be read"):
        settled(Overrides(admin_token_file=str(tmp_path / "none")), ProcessConfig())
