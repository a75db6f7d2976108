"""When the demo may call itself flawless, and how it is told in lines and in a picture."""

import io
from typing import Any

import pytest
from rich.console import Console

from fastgw import Node
from fastgw.cli.demo.callers import Tally
from fastgw.cli.demo.lines import act_line, complaints, summary
from fastgw.cli.demo.picture import Picture, health
from fastgw.cli.demo.play import SCENES, Act, Play, Scene
from fastgw.simulator import Fault, FaultKind

CALM = Scene("all is well", None)
STORM = Scene("it breaks", Fault(FaultKind.REFUSE))


def tally(**figures: Any) -> Tally:
    made = Tally(answers=20, streams=10, moved=2, slowest_s=1.5)
    made.nodes.update({"openai": 12, "deepseek": 8})
    for name, value in figures.items():
        setattr(made, name, value)
    return made


def play_of(*acts: Act, scenes: tuple[Scene, ...] = (CALM, STORM)) -> Play:
    nodes = [Node("api.openai.com", 443, name="openai"), Node("api.deepseek.com", 443, name="deepseek")]
    play = Play(None, nodes, "openai", ("", 0), scenes=scenes)  # type: ignore[arg-type]
    play.acts += acts
    return play


def test_the_play_shows_every_kind_of_failure_it_promises() -> None:
    faults = {scene.fault.kind for scene in SCENES if scene.fault is not None}
    assert faults == {
        FaultKind.STATUS,
        FaultKind.REFUSE,
        FaultKind.HANG_BEFORE_HEAD,
        FaultKind.BAD_CERTIFICATE,
        FaultKind.ERROR_EVENT,
    }
    assert {scene.fault.status for scene in SCENES if scene.fault and scene.fault.kind == "status"} == {
        500,
        429,
    }
    assert SCENES[0].fault is None
    assert SCENES[-1].fault is None


def test_a_play_is_flawless_only_when_it_was_played_whole_and_nobody_saw_an_error() -> None:
    good = Act(CALM, 0.0, tally())
    mended = Act(STORM, 0.0, tally(), mended_at=1.0, back_after_s=1.0)
    assert play_of(good, mended).is_flawless
    assert not play_of(good).is_flawless
    assert not play_of(good, Act(STORM, 0.0, tally(error_count=1))).is_flawless
    assert not play_of(good, Act(STORM, 0.0, tally(wrong=1))).is_flawless
    assert not play_of(good, Act(STORM, 0.0, tally(), is_stuck=True)).is_flawless
    assert not play_of(Act(CALM, 0.0), Act(STORM, 0.0)).is_flawless


def test_lines_tell_each_scene_and_the_whole() -> None:
    act = Act(STORM, 0.0, tally(), mended_at=1.0, back_after_s=1.25)
    play = play_of(Act(CALM, 0.0, tally()), act)
    assert act_line(2, play, act) == (
        "2/2 it breaks    20 answers, OpenAI 12, DeepSeek 8, moved in flight 2, slowest 1.50 s, "
        "OpenAI back after 1.2 s, errors 0"
    )
    assert summary(play) == (
        "40 requests (20 streamed) through 2 scenes, 4 moved to the other provider in flight; "
        "errors seen by the callers: 0, wrong answers: 0"
    )
    assert complaints(play) == []


def test_what_went_wrong_is_told() -> None:
    failed = tally(error_count=1, errors=["caller 1: 500"])
    play = play_of(Act(CALM, 0.0, failed), Act(STORM, 0.0, tally(), is_stuck=True))
    assert complaints(play) == ["  caller 1: 500", "  scene 2 took too long: it breaks"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_picture_shows_nodes_figures_and_scenes(encoding: str) -> None:
    play = play_of(Act(CALM, 0.0, tally()), Act(STORM, 0.0, tally(), mended_at=1.0))
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    console = Console(file=file, width=110, force_terminal=True, no_color=True)
    console.print(Picture(play, console).draw())
    text = file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "OpenAI is mended, and waits for its trial" in text
    assert ("█" * 22 if encoding == "utf-8" else "#" * 22) in text
    for word in ("api.openai.com", "api.deepseek.com", "healthy", "errors seen by the callers", "it breaks"):
        assert word in text


def test_health_is_told_in_words() -> None:
    node = Node("a", 1)
    now = 100.0
    assert health(node, now).plain == "healthy"
    node.cool(now + 3.0)
    assert health(node, now).plain == "cooling 3.0 s"
    node.kill(now + 9.0)
    assert health(node, now).plain.startswith("out: its key is refused 9.0 s")
    ejected = Node("b", 1)
    ejected.eject(now + 2.0, 1)
    assert health(ejected, now).plain == "ejected 2.0 s"
    assert health(ejected, now + 2.5).plain == "ejected, on trial"
