"""What choosing a node costs, from Cython and from Python, and what looking at a stream's events costs."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType

from .bench import Bench
from .figures import Metric, Outcome
from .processes import GATEWAY_CORE
from .programs import BUILD, SOURCES, CannotCompile

ROOT = Path(__file__).resolve().parent.parent
SIZES = (2, 5, 10, 100, 1000)
CALLS = 100_000


def pick_loop() -> ModuleType:
    """The loops of ``native/pick_loop.pyx``, compiled against the kernel's .pxd. Raises CannotCompile."""
    source = SOURCES / "pick_loop.pyx"
    built = next(BUILD.glob("pick_loop.*.so"), None)
    newest = max(path.stat().st_mtime for path in (source, *(ROOT / "fastgw").rglob("*.pxd")))
    if built is None or built.stat().st_mtime < newest:
        built = _compile(source)
    spec = importlib.util.spec_from_file_location("pick_loop", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compile(source: Path) -> Path:
    said = io.StringIO()
    try:
        from Cython.Build import cythonize
        from setuptools import Distribution, Extension  # type: ignore[import-untyped]

        with redirect_stdout(said), redirect_stderr(said):
            extension = Extension("pick_loop", [str(source)], extra_compile_args=["-O3"])
            modules = cythonize(  # type: ignore[no-untyped-call]
                [extension], include_path=[str(ROOT)], build_dir=str(BUILD), force=True, quiet=True
            )
            command = Distribution({"name": "pick_loop", "ext_modules": modules}).get_command_obj("build_ext")
            command.build_lib, command.build_temp, command.force = str(BUILD), str(BUILD), True
            command.ensure_finalized()
            command.run()
    except Exception as error:
        raise CannotCompile(f"pick_loop.pyx: {error}") from error
    return next(BUILD.glob("pick_loop.*.so"))


def selection(bench: Bench) -> Outcome:
    """Weighted selection among 2 to 1,000 nodes."""
    import os

    from fastgw._core import Node, Selector
    from fastgw.balancing.upstream import Upstream

    from . import micro_pick

    outcome = Outcome(
        "selection",
        "Weighted selection, ns: the kernel's pick and release, and a whole attempt with its outcome",
        (
            Metric("cython_pick", "pick and release, Cython", "ns", 0),
            Metric("python_pick", "pick and release, Python", "ns", 0),
            Metric("cython_attempt", "attempt with outcome, Cython", "ns", 0),
            Metric("python_attempt", "attempt with outcome, Python", "ns", 0),
        ),
        "In this process, warm. From Cython: a loop that cimports the kernel, as a compiled proxy would.",
    )
    try:
        loops: ModuleType | None = pick_loop()
    except CannotCompile as error:
        bench.skip(outcome, "Cython", error)
        loops = None
    cores = os.sched_getaffinity(0)
    if GATEWAY_CORE in cores:
        os.sched_setaffinity(0, {GATEWAY_CORE})
    try:
        for size in SIZES:
            nodes = [Node("10.0.0.1", port, weight=1 + port % 7) for port in range(1, size + 1)]
            selector, upstream = Selector(nodes), Upstream(nodes)
            timed: dict[str, Callable[[int], None]] = {
                "python_pick": micro_pick.kernel_picks(selector),
                "python_attempt": micro_pick.attempts(upstream),
            }
            if loops is not None:
                timed["cython_pick"] = partial(loops.picks, selector)
                timed["cython_attempt"] = partial(loops.attempts, upstream)
            for number in range(bench.plan.many):
                for key, function in timed.items():
                    turns = CALLS if size < 1000 else CALLS // 10
                    outcome.add(f"{size} nodes", number, {key: nanoseconds(function, turns)})
    finally:
        os.sched_setaffinity(0, cores)
    return outcome


def nanoseconds(function: Callable[[int], None], count: int) -> float:
    """Per turn of a loop of ``count``, which is run once before."""
    from time import perf_counter_ns

    function(count)
    begin = perf_counter_ns()
    function(count)
    return (perf_counter_ns() - begin) / count


def scanner(bench: Bench) -> Outcome:
    """The event scanner on typical events."""
    from . import micro_sse

    outcome = Outcome(
        "scanner",
        "Event scanner: one event of a stream",
        (Metric("ns", "alone", "ns", 0), Metric("ns_of_ten", "ten in one read", "ns", 0)),
    )
    for name, event in micro_sse.CASES.items():
        found = {
            "ns": micro_sse.best_ns(event, 1, 3000),
            "ns_of_ten": micro_sse.best_ns(event * 10, 10, 600),
        }
        outcome.add(name, 0, found)
    return outcome


__all__ = ["pick_loop", "scanner", "selection"]
