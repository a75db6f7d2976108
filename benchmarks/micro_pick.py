"""What one decision costs: a pick and its release, and a whole attempt with its outcome, seen from Python.

Each figure includes Python's own calls, whose price is printed beside it as the baseline: the same
number of calls of compiled methods that do next to nothing. Code that cimports the kernel pays only
the difference.

    python benchmarks/micro_pick.py [--rounds 9] [--nodes 1,2,5,10,100]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import timeit
from collections.abc import Callable

from fastgw._core import Node, Selector, Tried
from fastgw.balancing import upstream as upstream_module
from fastgw.balancing.upstream import Upstream

CALLS = 100_000


def measure(function: Callable[[int], None], rounds: int) -> tuple[float, float]:
    """Nanoseconds per turn of the loop in ``function``: the median of the rounds, and the slowest."""
    function(CALLS)  # warm: caches, free lists, the first window slot
    times = [timeit.timeit(lambda: function(CALLS), number=1) / CALLS * 1e9 for _ in range(rounds)]
    return statistics.median(times), max(times)


def baseline(node: Node) -> Callable[[int], None]:
    def run(count: int) -> None:
        pause, usable = node.hold_panic, node.is_usable
        for _ in range(count):
            pause(0.0)
            usable()

    return run


def kernel_picks(selector: Selector) -> Callable[[int], None]:
    def run(count: int) -> None:
        pick = selector.pick
        for _ in range(count):
            pick(5.0).release(0, 0.0, 1)  # type: ignore[union-attr]

    return run


def attempts(upstream: Upstream) -> Callable[[int], None]:
    def run(count: int) -> None:
        start = upstream.start_attempt
        for _ in range(count):
            start(5.0).succeeded(5.0)  # type: ignore[union-attr]

    return run


def attempts_of_exchanges(upstream: Upstream) -> Callable[[int], None]:
    """With a set of tried nodes made per exchange, as the gateway does it."""

    def run(count: int) -> None:
        start = upstream.start_attempt
        for _ in range(count):
            start(5.0, Tried()).succeeded(5.0)  # type: ignore[union-attr]

    return run


def failovers(upstream: Upstream) -> Callable[[int], None]:
    """Two attempts: the first is nobody's fault, the second succeeds."""

    def run(count: int) -> None:
        start = upstream.start_attempt
        for _ in range(count):
            tried = Tried()
            start(5.0, tried).ignored(5.0)  # type: ignore[union-attr]
            start(5.0, tried).succeeded(5.0)  # type: ignore[union-attr]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--nodes", default="1,2,5,10,100", help="sizes of the upstream")
    options = parser.parse_args()

    form = "compiled" if not upstream_module.__file__.endswith(".py") else "interpreted"
    print(f"{platform.machine()} {platform.system()}, Python {sys.version.split()[0]}, balancing {form}")
    print(f"ns per turn, median of {options.rounds} rounds of {CALLS} (slowest round)")
    print(f"{'':28}" + "".join(f"{title:>20}" for title in ("pick", "attempt", "with tried", "fail-over")))
    median, slowest = measure(baseline(Node("a", 1)), options.rounds)
    print(f"{'two calls, as a baseline':28}{f'{median:.0f} ({slowest:.0f})':>20}")
    for size in map(int, options.nodes.split(",")):
        nodes = [Node("10.0.0.1", port, weight=1 + port % 7) for port in range(1, size + 1)]
        cells = []
        for function in (
            kernel_picks(Selector(nodes)),
            attempts(Upstream(nodes)),
            attempts_of_exchanges(Upstream(nodes)),
            *([failovers(Upstream(nodes))] if size > 1 else []),
        ):
            median, slowest = measure(function, options.rounds)
            cells.append(f"{median:.0f} ({slowest:.0f})")
        print(f"{f'{size} nodes':28}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
