"""``python -m benchmarks``: measure, print the tables, write them to ``results/``."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import FrameType

from . import machine, plots, report
from .bench import FULL, QUICK, Bench, Failed, Plan
from .figures import Outcome
from .peers import PEERS, Peer, Unavailable
from .processes import Processes
from .targets import verdicts
from .upstreams import Upstreams
from .workloads import WORKLOADS

RESULTS = Path(__file__).resolve().parent / "results"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, few peers: about 3 minutes")
    parser.add_argument("--only", metavar="WORKLOAD,...", help=f"of: {', '.join(WORKLOADS)}")
    parser.add_argument("--peers", metavar="PEER,...", help=f"of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds for every peer")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where the tables go [results/, or results/partial/]"
    )
    parser.add_argument(
        "--again",
        type=Path,
        metavar="DIR",
        help="write DIR's tables and pictures anew from its report.json; with --only, what is measured now "
        "takes the place of what was there",
    )
    options = parser.parse_args(arguments)
    options.only = split(parser, options.only, list(WORKLOADS), "workload")
    options.peers = split(parser, options.peers, names, "peer")
    if options.again is not None and (options.quick or options.output is not None):
        parser.error("--again stands alone, or beside --only, --peers and --rounds")
    if options.again is not None and options.only is None:
        options.only = []
    if options.rounds is not None and not 1 <= options.rounds <= 100:
        parser.error("--rounds: 1 to 100")
    return options


def split(parser: argparse.ArgumentParser, text: str | None, known: list[str], what: str) -> list[str] | None:
    if text is None:
        return None
    names = text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"there is no {what} {name!r}: {', '.join(known)}")
    return names


def plan_of(options: argparse.Namespace) -> Plan:
    from dataclasses import replace

    plan = QUICK if options.quick else FULL
    if options.rounds is not None:
        plan = replace(plan, many=options.rounds, few=options.rounds)
    return plan


def choose(
    processes: Processes, wanted: Sequence[str] | None, plan: Plan
) -> tuple[list[Peer], dict[str, str], dict[str, str]]:
    """The peers that can be measured, why the others cannot, and the versions."""
    peers, missing, versions = [], {}, {}
    for kind in PEERS:
        if wanted is not None and kind.name not in wanted:
            continue
        if wanted is None and plan.peers is not None and kind.name not in plan.peers:
            missing[kind.name] = "not in a quick run (--peers names it)"
            continue
        peer = kind(processes)
        try:
            versions[peer.title] = peer.version()
        except Unavailable as error:
            missing[peer.name] = str(error)
            continue
        peers.append(peer)
    return peers, missing, versions


def run(bench: Bench, only: Sequence[str] | None) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    titles = {peer.name: peer.title for peer in PEERS}
    for name, workload in WORKLOADS.items():
        if name not in only if only is not None else name in bench.plan.without:
            continue
        begin = monotonic()
        bench.say(f"{name} ...")
        try:
            outcome = workload(bench)
        except Failed as error:
            bench.say(f"  {name} could not be measured: {bench.in_one_line(str(error))}")
            continue
        outcomes[name] = outcome
        bench.say(f"  {monotonic() - begin:.0f} s\n\n{report.outcome_to_markdown(outcome, titles)}\n")
    return outcomes


def stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every target that was measured is met, 1 if one is missed, 2 without what --again
    names, 130 if interrupted.
    """
    options = parse(arguments)
    plan = plan_of(options)
    signal.signal(signal.SIGTERM, stop)
    begin = monotonic()
    kept_about: dict[str, str] = {}
    kept: dict[str, Outcome] = {}
    if options.again is not None:
        try:
            kept_about, kept = report.read(options.again)
        except (OSError, ValueError) as error:
            print(f"--again: {error}", file=sys.stderr)
            return 2
        if not options.only:
            return publish(options.again, kept_about, kept)
    warning = machine.warning()
    if warning:
        print(f"note: {warning}", file=sys.stderr)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fastgw-bench-") as scratch,
            Processes(Path(scratch)) as processes,
        ):
            peers, missing, versions = choose(processes, options.peers, plan)
            for name, why in missing.items():
                print(f"{name} is skipped: {why}", file=sys.stderr)
            about = {**machine.describe(), **versions}
            if warning:
                about["note"] = warning
            bench = Bench(processes, Upstreams(processes), peers, plan, missing)
            outcomes = run(bench, options.only)
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been ended", file=sys.stderr)
        return 130
    about["rounds"] = f"{plan.many} of fastgw, nginx, HAProxy; {plan.few} of the others"
    about["took"] = f"{(monotonic() - begin) / 60:.1f} minutes"
    about.update({f"not measured: {name}": why for name, why in missing.items()})
    if options.again is not None:
        note = f"measured again, {about['date']}"
        before = [name for name in kept_about.get(note, "").split(", ") if name]
        kept_about[note] = ", ".join(dict.fromkeys([*before, *outcomes]))
        return publish(options.again, kept_about, in_order({**kept, **outcomes}))
    is_whole = not options.quick and options.only is None and options.peers is None and options.rounds is None
    return publish(options.output or (RESULTS if is_whole else RESULTS / "partial"), about, outcomes)


def in_order(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    return {name: outcomes[name] for name in (*WORKLOADS, *outcomes) if name in outcomes}


def publish(directory: Path, about: Mapping[str, str], outcomes: Mapping[str, Outcome]) -> int:
    """Write tables and pictures; returns what ``main`` does."""
    directory = directory.resolve()
    titles = {peer.name: peer.title for peer in PEERS} | {"direct": "direct, no gateway"}
    try:
        drawn = plots.draw(directory, outcomes, titles)
    except ImportError:
        print("no plots: matplotlib is not installed", file=sys.stderr)
        drawn = []
    report.write(directory, about, outcomes, titles, drawn)
    found = verdicts(outcomes)
    print(report.verdicts_to_markdown(found))
    print(f"\nwritten to {directory}", file=sys.stderr)
    return 0 if all(verdict.is_met for verdict in found) else 1


if __name__ == "__main__":
    sys.exit(main())
