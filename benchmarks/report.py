"""What was found, as Markdown and JSON. Pure but for ``write``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .figures import BASE, Metric, Outcome, median_of, range_of
from .targets import Verdict, verdicts


def number(value: float | None, digits: int) -> str:
    """1234.5 as ``1 234``: enough digits to compare, none that mean nothing."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        digits = 0
    return f"{value:,.{digits}f}".replace(",", " ")


def spread(outcome: Outcome, peer: str, metric: Metric) -> str:
    """The median and, of several rounds, the range."""
    values = outcome.rounds(peer, metric.key).values()
    middle = number(median_of(values), metric.digits)
    found = range_of(values)
    if found is None or len(values) < 2:
        return middle
    return f"{middle} ({number(found[0], metric.digits)}..{number(found[1], metric.digits)})"


def rows_to_markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns also line up for whoever reads it as text; all but the first align right."""
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(titles), rule, *map(line, rows)])


def outcome_to_markdown(outcome: Outcome, titles: Mapping[str, str]) -> str:
    """One workload. Ratios are shown where they mean something and nginx was measured too."""
    has_ratio = outcome.compares and bool(outcome.rounds(BASE)) and len(outcome.values) > 1
    head = [
        "",
        *(f"{metric.title}, {metric.unit}" if metric.unit else metric.title for metric in outcome.metrics),
    ]
    if has_ratio:
        head.insert(2, "ratio to nginx")
    rows = []
    for peer in outcome.values:
        if not any(outcome.rounds(peer, metric.key) for metric in outcome.metrics):
            continue
        cells = [titles.get(peer, peer), *(spread(outcome, peer, metric) for metric in outcome.metrics)]
        if has_ratio:
            cells.insert(2, number(outcome.ratio(peer), 2))
        rows.append(cells)
    parts = [f"### {outcome.title}"]
    if outcome.note:
        parts.append(outcome.note)
    if rows:
        parts.append(rows_to_markdown(head, rows))
    skipped = [f"- {titles.get(peer, peer)} was skipped: {why}" for peer, why in outcome.skipped.items()]
    if skipped:
        parts.append("\n".join(skipped))
    return "\n\n".join(parts)


def verdicts_to_markdown(found: Sequence[Verdict]) -> str:
    rows = []
    for verdict in found:
        target = verdict.target
        unit = "" if target.unit in ("", "x") else f" {target.unit}"
        rows.append(
            [
                target.title,
                f"<= {number(target.must, target.digits)}{unit}" if target.must is not None else "",
                f"<= {number(target.aim, target.digits)}{unit}" if target.aim is not None else "",
                number(verdict.measured, target.digits) + (unit if verdict.measured is not None else ""),
                verdict.word,
            ]
        )
    return rows_to_markdown(["metric", "must", "aim", "measured", "verdict"], rows)


def to_markdown(
    machine: Mapping[str, str],
    outcomes: Mapping[str, Outcome],
    titles: Mapping[str, str],
    plots: Sequence[str] = (),
) -> str:
    how = (
        "Written by `python -m benchmarks`; how to read it is in [README.md](../README.md). "
        "A figure is the median of its rounds, with their range in brackets; a ratio is the median of the "
        "ratios inside each round."
    )
    parts = [
        "# fastgw beside its peers",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
        how,
        "## What was to be reached",
        verdicts_to_markdown(verdicts(outcomes)),
        "## What was measured",
        *(f"![{name.partition('.')[0]}]({name})" for name in plots),
        *(outcome_to_markdown(outcome, titles) for outcome in outcomes.values()),
    ]
    return "\n\n".join(parts) + "\n"


def to_json(machine: Mapping[str, str], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    rows = [
        {
            "metric": verdict.target.title,
            "unit": verdict.target.unit,
            "must": verdict.target.must,
            "aim": verdict.target.aim,
            "measured": verdict.measured,
            "verdict": verdict.word,
        }
        for verdict in verdicts(outcomes)
    ]
    return {
        "machine": dict(machine),
        "targets": rows,
        "workloads": [outcome.to_json() for outcome in outcomes.values()],
    }


def read(directory: Path) -> tuple[dict[str, str], dict[str, Outcome]]:
    """(machine, outcomes) of the ``report.json`` that ``write`` left there.

    Raises:
        OSError, ValueError: there is none, or it is of another version.
    """
    kept = json.loads((directory / "report.json").read_text())
    try:
        outcomes = [Outcome.from_json(each) for each in kept["workloads"]]
        return dict(kept["machine"]), {outcome.workload: outcome for outcome in outcomes}
    except (KeyError, TypeError) as error:
        raise ValueError(f"report.json of another version: {error}") from error


def write(
    directory: Path,
    machine: Mapping[str, str],
    outcomes: Mapping[str, Outcome],
    titles: Mapping[str, str],
    plots: Sequence[str] = (),
) -> None:
    """``report.md`` and ``report.json`` in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    # The link to README.md must hold from wherever the report is.
    depth = "../" * (len(directory.parts) - len(Path(__file__).resolve().parent.parts))
    text = to_markdown(machine, outcomes, titles, plots)
    (directory / "report.md").write_text(
        text.replace("(../README.md)", f"({depth}README.md)") if depth else text
    )
    (directory / "report.json").write_text(json.dumps(to_json(machine, outcomes), indent=1) + "\n")
