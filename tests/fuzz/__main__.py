"""Fuzz every target for its share of the time: a line for each, and 1 if one of them has missed its goal."""

from __future__ import annotations

import argparse
import sys
import traceback
from time import monotonic

from .targets import TARGETS, Target

SHARES = {"requests": 0.45, "answers": 0.3, "events": 0.1, "configurations": 0.15}
WANTED = {"requests": 200_000, "answers": 200_000}  # inputs in ten minutes: with fewer, little was tried


def fuzz(target: Target, seconds: float) -> BaseException | None:
    """Step until the time is over or a goal is missed; what missed it, or None."""
    end = monotonic() + seconds
    try:
        while monotonic() < end:
            for _ in range(20):
                target.step()
    except Exception as problem:
        return problem
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=...", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs")
    parser.add_argument("--only", choices=sorted(SHARES), help="one target, which gets all the time")
    options = parser.parse_args()
    missed = 0
    for make in TARGETS:
        target = make(options.seed)
        if options.only and target.name != options.only:
            continue
        problem = fuzz(target, options.seconds * (1.0 if options.only else SHARES[target.name]))
        wanted = int(WANTED.get(target.name, 0) * min(options.seconds / 600, 1.0))
        is_met = problem is None and target.inputs >= wanted
        missed += not is_met
        figures = f"{target.inputs:,} inputs, {target.accepted:,} accepted".replace(",", " ")
        print(
            f"{target.name + ':':<16} {figures:<40} {'ok' if is_met else 'MISSED'}   {target.goal}",
            flush=True,
        )
        if problem is not None:
            print(f"  seed {options.seed}, input {target.inputs}: {target.last!r}", file=sys.stderr)
            traceback.print_exception(problem)
        elif not is_met:
            print(f"  fewer than {wanted} inputs", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
