"""The command line itself: defaults, environment variables, and what is refused."""

from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from fastgw.cli import check as checking
from fastgw.cli import held_signals, main, process
from fastgw.cli.options import Exit
from fastgw.cli.overrides import Overrides
from fastgw.config.model import Profile


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `run` and `check` were asked to do, instead of their doing it."""
    calls: list[Any] = []

    def run(overrides: Overrides) -> Exit:
        calls.append(overrides)
        return Exit.CLEAN

    def check(overrides: Overrides, form: str) -> Exit:
        calls.append((overrides, form))
        return Exit.FAILURE

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(checking, "run", check)
    monkeypatch.setattr(held_signals, "hold", lambda: None)  # nobody would let them go again
    return calls


def invoke(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(main, arguments, env=env)


def test_no_flag_takes_a_key_itself() -> None:
    named = {name for command in main.commands.values() for param in command.params for name in param.opts}
    private = {name for name in named if any(word in name for word in ("key", "token", "secret", "password"))}
    assert private == {"--admin-token-file", "--insecure-key-file"}


def test_every_flag_has_its_variable_and_the_same_one_in_every_command() -> None:
    for name, command in main.commands.items():
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                flag = next(opt for opt in param.opts if opt.startswith("--"))
                assert param.envvar == "FASTGW_" + flag[2:].replace("-", "_").upper(), (name, flag)


def test_every_command_is_listed_in_help_and_says_what_it_does() -> None:
    text = invoke("--help").output
    for name, command in main.commands.items():
        assert name in text
        assert command.help


def test_run_is_the_default_command(seen: list[Any]) -> None:
    assert invoke().exit_code == 0
    assert invoke("--profile", "apisix").exit_code == 0
    assert seen == [Overrides(), Overrides(profile=Profile.APISIX)]


def test_the_commands_own_flags_are_not_taken_for_those_of_run(seen: list[Any]) -> None:
    assert "Commands:" in invoke("--help").output
    assert invoke("--version").output.startswith("fastgw ")
    assert seen == []


def test_an_unknown_command_is_a_bad_command_line(seen: list[Any]) -> None:
    result = invoke("rnu")
    assert result.exit_code == Exit.USAGE
    assert seen == []


def test_flags_become_values(seen: list[Any]) -> None:
    invoke(
        "run", "-c", "f.yaml", "--listen", ":80", "--listen", "[::1]:81", "--admin", "off", "--drain", "2.5",
        "--connect-to", "a.example:443:[::1]:9443", "--log-level", "WARNING", "--log-format", "json",
        "--access-log", "off",
    )  # fmt: skip
    assert seen == [
        Overrides(
            file="f.yaml",
            listen=("0.0.0.0:80", "[::1]:81"),
            admin="off",
            drain_s=2.5,
            connect_to=(("a.example", 443, "::1", 9443),),
            log_level="warning",
            log_format="json",
            access_log="off",
        )
    ]


def test_a_variable_stands_for_a_flag_and_the_flag_wins(seen: list[Any]) -> None:
    invoke("run", FASTGW_LISTEN="127.0.0.1:1 unix:/run/a.sock", FASTGW_CONFIG="env.yaml")
    invoke("run", "--listen", "127.0.0.1:2", FASTGW_LISTEN="127.0.0.1:1")
    invoke("run", FASTGW_WORKERS="4", FASTGW_WORKER_TIMEOUT="2")
    assert seen == [
        Overrides(file="env.yaml", listen=("127.0.0.1:1", "unix:/run/a.sock")),
        Overrides(listen=("127.0.0.1:2",)),
        Overrides(workers=4, worker_timeout_s=2.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--listen", "80"), "'80': expected HOST:PORT or unix:PATH"),
        (("--listen", "127.0.0.1:65536"), "expected HOST:PORT"),
        (("--listen", "fd:x"), "expected fd:NUMBER"),
        (("--connect-to", "a:1:b"), "expected HOST:PORT:HOST2:PORT2"),
        (("--drain", "-1"), "not in the range"),
        (("--drain", "nan"), "'nan' is not a number"),
        (("--worker-timeout", "nan"), "'nan' is not a number"),
        (("--ca-file", "/no/such/file.pem"), "does not exist"),
        (("--workers", "65"), "not in the range"),
        (("--admin-token", "secret"), "No such option"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_was_expected(
    seen: list[Any], arguments: tuple[str, ...], said: str
) -> None:
    result = invoke("run", *arguments)
    assert result.exit_code == Exit.USAGE
    assert said in result.output
    assert seen == []


def test_check_hands_on_its_form_and_ends_with_what_it_found(seen: list[Any]) -> None:
    assert invoke("check", "-c", "f.yaml", "--format", "github").exit_code == Exit.FAILURE
    assert seen == [(Overrides(file="f.yaml"), "github")]
