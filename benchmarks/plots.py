"""The main figures as pictures. Needs matplotlib; without it there are tables only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .figures import Metric, Outcome, median_of, range_of
from .report import number

OURS, OTHERS, FLOOR = "#c2410c", "#64748b", "#cbd5e1"
PICTURES: dict[str, Sequence[str]] = {
    "cpu": ("plain", "tls", "sse", "sse-tls"),
    "memory": ("streams", "streams-tls", "idle", "start"),
    "large": ("large-request", "large-answer", "mixed", "latency-tls"),
}
SHORT = {
    "plain": "plain POST",
    "tls": "POST, TLS upstream",
    "sse": "SSE",
    "sse-tls": "SSE, TLS upstream",
    "streams": "idle stream",
    "streams-tls": "idle stream, TLS upstream",
    "idle": "idle worker",
    "start": "start to listening",
    "large-request": "256 KB request",
    "large-answer": "64 KB answer",
    "mixed": "mixed requests",
    "latency-tls": "added latency, TLS upstream",
}


COLUMNS = 2  # as wide as a page shows them: four in a row would be too small to read
FAR = 5  # a bar that is so many times the next one would press all others flat: it is cut


def draw(directory: Path, outcomes: Mapping[str, Outcome], titles: Mapping[str, str]) -> list[str]:
    """Write the pictures whose workloads were measured; returns their names.

    Raises:
        ImportError: there is no matplotlib.
    """
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fastgw"  # the same figures give the same file
    from matplotlib import pyplot

    drawn = []
    for name, workloads in PICTURES.items():
        found = [
            outcomes[workload] for workload in workloads if workload in outcomes and outcomes[workload].values
        ]
        if not found:
            continue
        columns = min(COLUMNS, len(found))
        rows = -(-len(found) // columns)
        figure, axes = pyplot.subplots(rows, columns, figsize=(4.8 * columns, 2.9 * rows), squeeze=False)
        for axis, outcome in zip_longest(axes.flat, found):
            if outcome is None:
                axis.set_axis_off()
            else:
                _bars(axis, outcome, titles)
        figure.tight_layout(h_pad=1.5, w_pad=1.5)
        directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
        text = (directory / f"{name}.svg").read_text()
        (directory / f"{name}.svg").write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
        drawn.append(f"{name}.svg")
    return drawn


def longest_whole(middles: Iterable[float]) -> float:
    """The longest bar that is drawn whole: of the longer half, those after a leap by ``FAR`` are not."""
    known = sorted(middles)
    for place in range(max(1, len(known) // 2), len(known)):
        if known[place] > FAR * known[place - 1]:
            return known[place - 1]
    return known[-1] if known else 0.0


def _bars(axis: Any, outcome: Outcome, titles: Mapping[str, str]) -> None:
    """One bar per peer with the range of its rounds, the cheapest on top. A bar too long for it is cut."""
    metric: Metric = outcome.metrics[0]
    known = [peer for peer in outcome.values if outcome.rounds(peer)]
    middles = {peer: median_of(outcome.rounds(peer).values()) or 0.0 for peer in known}
    known.sort(key=lambda peer: -middles[peer])
    longest = longest_whole(middles.values())
    tops = [max(outcome.rounds(peer).values()) for peer in known if middles[peer] <= longest]
    end = 1.2 * max(tops, default=0.0) or 1.0
    axis.set_xlim(0, end)
    for place, peer in enumerate(known):
        low, high = range_of(outcome.rounds(peer).values()) or (0.0, 0.0)
        label = number(middles[peer], metric.digits)
        if middles[peer] > longest:
            axis.barh(place, end, color=OTHERS, height=0.7)
            label, edge, side, color = f"{label}, off the scale \N{RIGHTWARDS ARROW} ", end, "right", "white"
        else:
            ours = OURS if peer == "fastgw" else FLOOR if peer == "relay" else OTHERS
            axis.barh(place, middles[peer], color=ours, height=0.7)
            axis.plot([low, high], [place, place], color="black", linewidth=1)
            label, edge, side, color = f" {label}", max(high, middles[peer]), "left", "black"
        axis.text(edge, place, label, va="center", ha=side, color=color, fontsize=9)
    axis.set_yticks(range(len(known)), [titles.get(peer, peer) for peer in known], fontsize=9)
    axis.set_title(SHORT.get(outcome.workload, outcome.workload), fontsize=11)
    axis.set_xlabel(f"{metric.title}, {metric.unit}", fontsize=9)
    axis.tick_params(axis="x", labelsize=9)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
