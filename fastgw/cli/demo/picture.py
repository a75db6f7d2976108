"""The demo's live picture in a terminal. The only module that needs ``rich``."""

import time
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fastgw._core import HealthState, Node
from fastgw.cli.demo.play import Act, Play

BAR_WIDTH = 36
FRAMES_PER_S = 8


class Picture:
    """Draws a play while it goes on. A context manager."""

    def __init__(self, play: Play, console: Console) -> None:
        self.play = play
        self._is_unicode = console.encoding.startswith("utf")
        self._live = Live(
            console=console,
            get_renderable=self.draw,
            refresh_per_second=FRAMES_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.refresh()
        self._live.stop()

    def draw(self) -> RenderableType:
        """The whole picture as it is now."""
        play = self.play
        now = time.monotonic()
        if not play.acts:
            return Text("starting")
        return Group(
            Text(),
            self._headline(now),
            Text(),
            self._nodes(now),
            Text(),
            self._figures(now),
            Text(),
            self._acts(),
            Text(),
        )

    # --- Parts --------------------------------------------------------------------------------

    def _headline(self, now: float) -> Text:
        play = self.play
        act = play.acts[-1]
        line = Text("  ")
        line.append(f"{len(play.acts)}/{len(play.scenes)} ", style="dim")
        if act.mended_at is not None and act.back_after_s is None:
            line.append("OpenAI is mended, and waits for its trial", style="bold cyan")
        else:
            line.append(act.scene.title, style="bold red" if act.scene.fault else "bold green")
        line.append(f"   {now - play.began_at:.0f} s", style="dim")
        return line

    def _nodes(self, now: float) -> Table:
        total = self.play.total
        answered = self.play.acts[-1].tally
        table = Table(box=None, padding=(0, 1), show_header=True, header_style="dim")
        table.add_column(" node")
        table.add_column("answers in this scene")
        table.add_column("", justify="right")
        table.add_column("in all", justify="right")
        table.add_column("health")
        for node in self.play.nodes:
            share = answered.nodes[node.name] / max(1, answered.nodes.total())
            table.add_row(
                f" {node.host}",
                Text(self._bar(share), style="green" if node.name == self.play.primary else "blue"),
                str(answered.nodes[node.name]),
                str(total.nodes[node.name]),
                health(node, now),
            )
        return table

    def _figures(self, now: float) -> Table:
        total = self.play.total
        seconds = max(0.1, now - self.play.began_at)
        table = Table(box=None, padding=(0, 1), show_header=False)
        table.add_column(style="dim")
        table.add_column()
        rate = f"{total.answers}  ({total.answers / seconds:.0f} per second, {total.streams} streamed)"
        table.add_row(" requests", rate)
        table.add_row(" moved in flight", str(total.moved))
        table.add_row(" slowest answer", f"{total.slowest_s:.2f} s")
        table.add_row(" wrong answers", _verdict(total.wrong))
        table.add_row(" errors seen by the callers", _verdict(total.error_count))
        return table

    def _acts(self) -> Table:
        table = Table(box=None, padding=(0, 1), show_header=True, header_style="dim")
        for title in (" scene", "OpenAI", "DeepSeek", "moved", "back after", "errors"):
            table.add_column(title, justify="left" if title == " scene" else "right")
        for act in self.play.acts:
            table.add_row(*self._act_row(act))
        return table

    def _act_row(self, act: Act) -> tuple[RenderableType, ...]:
        tally = act.tally
        by_primary = tally.nodes[self.play.primary]
        back = f"{act.back_after_s:.1f} s" if act.back_after_s is not None else ""
        return (
            f" {act.scene.title}",
            str(by_primary),
            str(tally.nodes.total() - by_primary),
            str(tally.moved),
            back,
            _verdict(tally.error_count),
        )

    def _bar(self, share: float) -> str:
        full, empty = ("█", "░") if self._is_unicode else ("#", ".")
        filled = round(share * BAR_WIDTH)
        return full * filled + empty * (BAR_WIDTH - filled)


def _verdict(errors: int) -> Text:
    return Text(str(errors), style="bold green" if errors == 0 else "bold red")


def health(node: Node, now: float) -> Text:
    """A node's health in two words."""
    for until, word, style in (
        (node.dead_until, "out: its key is refused", "red"),
        (node.cooling_until, "cooling", "yellow"),
    ):
        if until > now:
            return Text(f"{word} {until - now:.1f} s", style=style)
    if node.state in (HealthState.UNHEALTHY, HealthState.MOSTLY_UNHEALTHY):
        left = node.ejected_until - now
        return Text(f"ejected {left:.1f} s" if left > 0 else "ejected, on trial", style="red")
    if node.state == HealthState.MOSTLY_HEALTHY:
        return Text("failing", style="yellow")
    return Text("healthy", style="green")
