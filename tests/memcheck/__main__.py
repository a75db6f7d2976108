"""Run the tests of the compiled modules on a build that watches every access to memory.

The modules are built apart, in build/memcheck, with gcc's AddressSanitizer and UndefinedBehaviorSanitizer;
each object of Python's has memory of its own, so that a byte too far is seen. First it is shown that it would
be: a copy that writes behind its memory must be reported. Exits with 1 if anything else is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from checkout_copy import apply_patch, build, copy_checkout, environment
from source_graph import ROOT

SANITIZERS = "address,undefined"
COPY = ROOT / "build" / "memcheck"
PROOF = Path(__file__).with_name("write-behind-spans.patch")
PROOF_TEST = "tests/unit/wire/test_body_framer.py::test_thousands_of_chunks_in_one_read"
TESTS = (
    "tests/conformance",
    "tests/fuzz",
    "tests/property",
    "tests/unit/balancing",
    "tests/unit/llm",
    "tests/unit/proxy",
    "tests/unit/wire",
    *(f"tests/unit/test_{name}.py" for name in ("core", "core_shared", "embed", "metrics", "routing", "shm")),
)


def library() -> str:
    """The sanitizer's library, which has to be loaded before everything else."""
    command = [(os.environ.get("CC") or "cc").split()[0], "-print-file-name=libasan.so"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        sys.exit("gcc's AddressSanitizer is missing (Debian: apt install gcc)")
    return path


def watched(root: Path, reports: Path) -> dict[str, str]:
    """The environment of a Python whose modules of ours are watched. ``reports``: where findings go."""
    return environment(
        root,
        LD_PRELOAD=library(),
        PYTHONMALLOC="malloc",
        # Leaks are looked for in tests/integration/test_leaks.py: an interpreter never gives everything back.
        ASAN_OPTIONS=f"detect_leaks=0:detect_stack_use_after_return=1:log_path={reports}",
        UBSAN_OPTIONS=f"print_stacktrace=1:log_path={reports}",
    )


def found(reports: Path) -> list[str]:
    """The reports, one for each process that ended by one."""
    return [path.read_text(errors="replace") for path in sorted(reports.parent.glob(reports.name + ".*"))]


def pytest(root: Path, reports: Path, *arguments: str, limit_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "900", *arguments]
    return subprocess.run(
        command,
        cwd=root,
        env=watched(root, reports),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
    )


def prove(reports: Path) -> str:
    """Whether a write behind an array is found; "" if it is."""
    with TemporaryDirectory(prefix="fastgw-memcheck-") as directory:
        root = Path(directory)
        shutil.copytree(COPY, root, dirs_exist_ok=True)
        if problem := apply_patch(PROOF, root) or build(root, FASTGW_SANITIZERS=SANITIZERS):
            return problem
        done = pytest(root, reports, PROOF_TEST, limit_s=600)
    said = found(reports)
    if done.returncode and any("heap-buffer-overflow" in report and "framing" in report for report in said):
        return ""
    return f"a write behind an array was not reported:\n{done.stdout}\n{said}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make memcheck ARGS=...", description=__doc__)
    parser.add_argument("--at-once", type=int, default=0, help="how many tests run at a time; 0: one")
    parser.add_argument(
        "--fuzz", type=float, default=0.0, metavar="SECONDS", help="and fuzz each target so long"
    )
    parser.add_argument("tests", nargs="*", default=TESTS, help="instead of all that are for it")
    options = parser.parse_args()
    begin = monotonic()
    COPY.mkdir(parents=True, exist_ok=True)
    copy_checkout(COPY, with_built=False)
    if problem := build(COPY, FASTGW_SANITIZERS=SANITIZERS):
        sys.exit(problem)
    print(f"built with {SANITIZERS} ({monotonic() - begin:.0f} s)", flush=True)
    missed = False
    with TemporaryDirectory(prefix="fastgw-reports-") as directory:
        if problem := prove(Path(directory, "proof")):
            sys.exit(problem)
        print(f"a deliberate write behind an array is reported ({monotonic() - begin:.0f} s)", flush=True)
        reports = Path(directory, "report")
        done = pytest(COPY, reports, "-n", str(options.at_once), *options.tests, limit_s=3600)
        missed |= bool(done.returncode)
        print(done.stdout.strip().splitlines()[-1] if not done.returncode else done.stdout, flush=True)
        if options.fuzz:
            command = [sys.executable, "-m", "fuzz", "--seconds", str(options.fuzz), "--any-number"]
            env = watched(COPY, reports)
            env["PYTHONPATH"] += f":{COPY / 'tests'}"
            missed |= bool(subprocess.run(command, cwd=COPY, env=env).returncode)
        said = found(reports)
    for report in said:
        print(report, file=sys.stderr)
    print(f"{len(said)} reports of the sanitizers ({monotonic() - begin:.0f} s)")
    return 1 if said or missed else 0


if __name__ == "__main__":
    sys.exit(main())
