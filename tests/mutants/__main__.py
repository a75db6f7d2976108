"""Break a copy of the code in each known way, and see that the tests notice: a line for each breakage.

The tests run on the interpreted sources, so that only what has no interpreted form is built. Exits with 1
if a breakage escapes, a patch no longer applies, or a test fails that should not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from checkout_copy import apply_patch, build, copy_checkout, environment

from .patches import Mutant, all_mutants

PASSED, FAILED = 0, 1  # exit codes of pytest; any other one says that the tests did not run
LIMIT_S = 600.0


def run_tests(root: Path, *tests: str) -> tuple[int, str]:
    """The exit code of pytest and what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command,
        cwd=root,
        env=environment(root, FASTGW_PURE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout


def judge(mutant: Mutant, root: Path) -> tuple[str, str]:
    """("", "") if every named test notices the breakage, else (what happened, what was said of it)."""
    if problem := apply_patch(mutant.path, root):
        return "does not apply", problem
    if mutant.needs_build and (problem := build(root)):
        return "does not build", problem
    for test in mutant.tests:
        code, said = run_tests(root, test)
        if code == PASSED:
            return f"ESCAPED {test}", said
        if code != FAILED:
            return f"could not run {test}", said
    return "", ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants ARGS=...", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", help="this one; may be repeated")
    options = parser.parse_args()
    mutants = [mutant for mutant in all_mutants() if not options.only or mutant.name in options.only]
    if unknown := set(options.only or ()) - {mutant.name for mutant in mutants}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    with TemporaryDirectory(prefix="fastgw-mutants-") as directory:
        copy_checkout(Path(directory), with_built=True)
        code, said = run_tests(Path(directory), *dict.fromkeys(test for m in mutants for test in m.tests))
    if code != PASSED:
        print(f"the tests do not pass without a breakage:\n{said}", file=sys.stderr)
        return 1
    missed = 0
    for mutant in mutants:
        begin = monotonic()
        with TemporaryDirectory(prefix="fastgw-mutants-") as directory:
            copy_checkout(Path(directory), with_built=True)
            problem, said = judge(mutant, Path(directory))
        missed += bool(problem)
        verdict = problem or f"caught   {', '.join(mutant.tests)}"
        print(f"{mutant.name + ':':<28} {monotonic() - begin:4.0f} s  {verdict}", flush=True)
        if problem:
            print(f"  {mutant.says}\n{said}", file=sys.stderr)
    print(f"{len(mutants) - missed} of {len(mutants)} deliberate breakages are caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
