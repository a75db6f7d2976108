"""The demo in plain lines: what is printed where there is no terminal, and the last word anywhere."""

from fastgw.cli.demo.play import Act, Play


def act_line(number: int, play: Play, act: Act) -> str:
    """One finished scene."""
    tally = act.tally
    by_primary = tally.nodes[play.primary]
    parts = [
        f"{tally.answers} answers",
        f"OpenAI {by_primary}",
        f"DeepSeek {tally.nodes.total() - by_primary}",
        f"moved in flight {tally.moved}",
        f"slowest {tally.slowest_s:.2f} s",
    ]
    if act.is_stuck:
        parts.append("not seen in time")
    elif act.back_after_s is not None:
        parts.append(f"OpenAI back after {act.back_after_s:.1f} s")
    parts.append(f"errors {tally.error_count}")
    width = max(len(scene.title) for scene in play.scenes)
    return f"{number}/{len(play.scenes)} {act.scene.title:{width}}  {', '.join(parts)}"


def summary(play: Play) -> str:
    """The last line."""
    total = play.total
    return (
        f"{total.answers} requests ({total.streams} streamed) through {len(play.acts)} scenes, "
        f"{total.moved} moved to the other provider in flight; "
        f"errors seen by the callers: {total.error_count}, wrong answers: {total.wrong}"
    )


def complaints(play: Play) -> list[str]:
    """What went wrong, when something did."""
    lines = [f"  {error}" for error in play.total.errors]
    lines += [
        f"  scene {number} took too long: {act.scene.title}"
        for number, act in enumerate(play.acts, 1)
        if act.is_stuck
    ]
    return lines
