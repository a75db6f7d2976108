"""Fuzz every target for ten minutes: a line for each, and 1 if one of them has missed its goal.

Each target runs in a process of its own, as many at a time as there are cores. A crash is a miss like any
other: the same seed makes the same inputs up to it.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

from .targets import TARGETS, Target

# Inputs in ten minutes: with fewer, little was tried.
WANTED = {"requests": 200_000, "answers": 200_000, "events": 200_000, "streams": 200_000}
NAMES = [target.name for target in TARGETS]  # type: ignore[attr-defined]


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


def fuzz_one(name: str, options: argparse.Namespace) -> int:
    """Fuzz one target in this process and say how it went."""
    target = TARGETS[NAMES.index(name)](options.seed)
    problem = fuzz(target, options.seconds)
    wanted = 0 if options.any_number else int(WANTED.get(name, 0) * min(options.seconds / 600, 1.0))
    is_met = problem is None and target.inputs >= wanted
    figures = f"{target.inputs:,} inputs, {target.accepted:,} accepted".replace(",", " ")
    print(f"{name + ':':<16} {figures:<40} {'ok' if is_met else 'MISSED'}   {target.goal}", flush=True)
    if problem is not None:
        print(f"  seed {options.seed}, input {target.inputs}: {target.last!r}", file=sys.stderr)
        traceback.print_exception(problem)
    elif not is_met:
        print(f"  fewer than {wanted} inputs", file=sys.stderr)
    return 0 if is_met else 1


def fuzz_apart(name: str, arguments: list[str]) -> bool:
    """Fuzz one target in a process of its own. Has it missed its goal?"""
    code = subprocess.run([sys.executable, "-m", "fuzz", *arguments, "--only", name]).returncode
    if code not in (0, 1):
        print(f"{name + ':':<16} CRASHED with {code}", flush=True)
    return code != 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=...", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each target")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs")
    parser.add_argument("--only", choices=NAMES, help="one target, in this process")
    parser.add_argument("--any-number", action="store_true", help="few inputs are no miss: the build is slow")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="how many targets at a time")
    options = parser.parse_args()
    if options.only:
        faulthandler.enable()
        return fuzz_one(options.only, options)
    with ThreadPoolExecutor(max(1, options.at_once)) as pool:
        missed = list(pool.map(lambda name: fuzz_apart(name, sys.argv[1:]), NAMES))
    return 1 if any(missed) else 0


if __name__ == "__main__":
    sys.exit(main())
