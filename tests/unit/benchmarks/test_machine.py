"""What a report says of the machine, and how the command line is read."""

import re
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.__main__ import main, parse, plan_of
from benchmarks.upstreams import ANSWER


def test_machine_is_described_without_naming_it() -> None:
    about = machine.describe()
    assert {"processor", "memory", "kernel", "python"} <= about.keys()
    assert not any(re.search(r"/\w+/\w+", value) for value in about.values())


def test_rounds_hold_for_every_peer() -> None:
    plan = plan_of(parse(["--rounds", "2"]))
    assert (plan.many, plan.few) == (2, 2)


def test_quick_run_has_three_rounds_and_one() -> None:
    plan = plan_of(parse(["--quick"]))
    assert (plan.many, plan.few) == (3, 1)


def test_several_workloads_and_peers_may_be_named() -> None:
    options = parse(["--only", "plain,sse", "--peers", "fastgw,nginx"])
    assert (options.only, options.peers) == (["plain", "sse"], ["fastgw", "nginx"])


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--peers", "apache"], ["--rounds", "0"]])
def test_mistake_on_the_command_line_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert "error" in capsys.readouterr().err


def test_answer_of_the_upstream_has_the_size_that_is_said() -> None:
    assert 430 <= len(ANSWER) <= 470
    assert "'" not in ANSWER and "$" not in ANSWER  # nginx would read them


@pytest.mark.parametrize("more", [["--quick"], ["--output", "x"]])
def test_again_writes_to_where_it_reads(more: list[str]) -> None:
    assert parse(["--again", "x"]).only == []
    with pytest.raises(SystemExit):
        parse(["--again", "x", *more])


def test_again_without_a_report_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--again", str(tmp_path)]) == 2
    assert "report.json" in capsys.readouterr().err
