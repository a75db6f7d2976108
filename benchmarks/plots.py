"""The main figures as pictures. Needs matplotlib; without it there are tables only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import Metric, Outcome, median_of, range_of

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
        figure, axes = pyplot.subplots(1, len(found), figsize=(4.2 * len(found), 3.2), squeeze=False)
        for axis, outcome in zip(axes[0], found, strict=True):
            _bars(axis, outcome, titles)
        figure.tight_layout()
        directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
        text = (directory / f"{name}.svg").read_text()
        (directory / f"{name}.svg").write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
        drawn.append(f"{name}.svg")
    return drawn


def _bars(axis: Any, outcome: Outcome, titles: Mapping[str, str]) -> None:
    """One bar per peer with the range of its rounds, the cheapest on top."""
    metric: Metric = outcome.metrics[0]
    known = [peer for peer in outcome.values if outcome.rounds(peer)]
    middles = {peer: median_of(outcome.rounds(peer).values()) or 0.0 for peer in known}
    known.sort(key=lambda peer: -middles[peer])
    for place, peer in enumerate(known):
        low, high = range_of(outcome.rounds(peer).values()) or (0.0, 0.0)
        color = OURS if peer == "fastgw" else FLOOR if peer == "relay" else OTHERS
        axis.barh(place, middles[peer], color=color, height=0.7)
        axis.plot([low, high], [place, place], color="black", linewidth=1)
        label = f" {middles[peer]:,.{metric.digits}f}".replace(",", " ")
        axis.text(max(high, middles[peer]), place, label, va="center", fontsize=8)
    axis.set_yticks(range(len(known)), [titles.get(peer, peer) for peer in known], fontsize=8)
    values = [value for value in middles.values() if value > 0]
    if values and max(values) > 30 * min(values):
        axis.set_xscale("log")
        axis.set_xlim(right=max(values) * 6)
    elif values:
        axis.set_xlim(0, max(values) * 1.3)
    axis.set_title(SHORT.get(outcome.workload, outcome.workload), fontsize=10)
    axis.set_xlabel(f"{metric.title}, {metric.unit}", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
