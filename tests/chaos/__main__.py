"""Put every goal to the test: for each a line for people and a line of JSON, and 1 if one was missed."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from time import monotonic

from .goals import Goal, Result, all_goals


def attempt(goal: Goal, seed: int, scale: float) -> Result:
    """Run it; a run that does not come to its end has missed its goal."""
    try:
        return goal.run(seed, scale)
    except Exception as problem:
        return Result({"broke off": repr(problem)}, False, traceback.format_exc().splitlines())


def main() -> int:
    goals = all_goals()
    parser = argparse.ArgumentParser(prog="make chaos ARGS=...", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ID", choices=list(goals), help="these goals")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same faults")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    options = parser.parse_args()
    missed = 0
    for goal in goals.values():
        if options.only and goal.id not in options.only:
            continue
        begin = monotonic()
        result = attempt(goal, options.seed, options.scale)
        missed += not result.ok
        figures = ", ".join(f"{name} {figure}" for name, figure in result.measured.items())
        verdict = "ok" if result.ok else "MISSED"
        print(f"{goal.id}  {verdict:<7} {goal.text}\n     {figures} ({monotonic() - begin:.0f} s)")
        line = {"id": goal.id, "goal": goal.text, "measured": dict(result.measured), "ok": result.ok}
        print(json.dumps({**line, "seed": options.seed, "scale": options.scale}), flush=True)
        if not result.ok:
            again = f"--only {goal.id} --seed {options.seed} --scale {options.scale}"
            print(*result.notes, f'again: make chaos ARGS="{again}"', sep="\n  ", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
