"""What fastgw has to reach, and whether it did. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .figures import BASE, Outcome, difference

Outcomes = Mapping[str, Outcome]
OURS = "fastgw"


@dataclass(frozen=True, slots=True)
class Target:
    """One row: a figure that must not be more than ``must`` and should not be more than ``aim``.

    Without a ``must`` it is there to be seen beside one that has it.
    """

    title: str
    must: float | None
    aim: float | None
    unit: str
    digits: int
    measure: Callable[[Outcomes], float | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    target: Target
    measured: float | None

    @property
    def word(self) -> str:
        """aim, must, missed or not measured, or - without a must; a miss says by how much."""
        if self.measured is None:
            return "not measured"
        # As precisely as it is printed, or a row could read "1.00 <= 1.00: missed".
        measured = round(self.measured, self.target.digits)
        if self.target.aim is not None and measured <= self.target.aim:
            return "aim"
        if self.target.must is None:
            return "-"
        if measured <= self.target.must:
            return "must"
        if self.target.must > 0:
            return f"missed by {(measured / self.target.must - 1) * 100:.0f} %"
        return f"missed by {measured - self.target.must:.{self.target.digits}f} {self.target.unit}".rstrip()

    @property
    def is_met(self) -> bool:
        return self.measured is None or not self.word.startswith("missed")


def ratio_to(workload: str, base: str = BASE) -> Callable[[Outcomes], float | None]:
    def measure(outcomes: Outcomes) -> float | None:
        return outcomes[workload].ratio(OURS, base) if workload in outcomes else None

    return measure


def median_in(
    workload: str, metric: str | None = None, peer: str = OURS
) -> Callable[[Outcomes], float | None]:
    def measure(outcomes: Outcomes) -> float | None:
        return outcomes[workload].median(peer, metric) if workload in outcomes else None

    return measure


def over(workload: str, base: str) -> Callable[[Outcomes], float | None]:
    """How much more than another one, in the unit of the workload."""

    def measure(outcomes: Outcomes) -> float | None:
        if workload not in outcomes:
            return None
        return difference(outcomes[workload].rounds(OURS), outcomes[workload].rounds(base))

    return measure


def worst(*measures: Callable[[Outcomes], float | None]) -> Callable[[Outcomes], float | None]:
    def measure(outcomes: Outcomes) -> float | None:
        found = [value for each in measures if (value := each(outcomes)) is not None]
        return max(found) if found else None

    return measure


TARGETS = (
    Target("CPU/request, plain, against nginx", 1.00, 0.90, "x", 2, ratio_to("plain")),
    Target("CPU/request, TLS 1.3 upstream, against nginx", 1.00, 0.88, "x", 2, ratio_to("tls")),
    Target("CPU/SSE chunk, plain, against nginx", 1.05, 0.85, "x", 2, ratio_to("sse")),
    Target("CPU/SSE chunk, TLS upstream, against nginx", 1.15, 1.00, "x", 2, ratio_to("sse-tls")),
    Target(
        "user instructions/request, plain", 20_000, 15_000, "", 0, median_in("counts-plain", "instructions")
    ),
    Target(
        "system calls/request, plain and TLS",
        4.2,
        4.1,
        "",
        2,
        worst(median_in("counts-plain", "system_calls"), median_in("counts-tls", "system_calls")),
    ),
    Target("memory per idle stream, plain", 8, 5, "KB", 1, median_in("streams", "per_stream_kb")),
    Target(
        "memory per idle stream, TLS upstream", 45, 38, "KB", 1, median_in("streams-tls", "per_stream_kb")
    ),
    Target("memory of an idle worker", 40, 30, "MiB", 1, median_in("idle", "memory_mib")),
    Target(
        "kernel pick and release from Cython, 10 nodes",
        20,
        10,
        "ns",
        0,
        median_in("selection", "cython_pick", "10 nodes"),
    ),
    Target(
        "attempt with outcome from Cython, 10 nodes",
        None,
        None,
        "ns",
        0,
        median_in("selection", "cython_attempt", "10 nodes"),
    ),
    Target(
        "attempt with outcome from Python, 10 nodes",
        100,
        60,
        "ns",
        0,
        median_in("selection", "python_attempt", "10 nodes"),
    ),
    Target("start to listening", 0.40, 0.25, "s", 2, median_in("start", "start_s")),
    Target("SSE chunk, over the floor relay", 3.0, 1.5, "µs", 1, over("sse", "relay")),
    Target("256 KB request with model look-up, against nginx", 1.10, 0.80, "x", 2, ratio_to("large-request")),
    Target("64 KB answer, against nginx", 1.00, 0.70, "x", 2, ratio_to("large-answer")),
    Target(
        "added latency, 1 connection, TLS upstream, p50 over nginx's",
        20,
        0,
        "µs",
        0,
        over("latency-tls", BASE),
    ),
    Target("CPU/request, plain, against HAProxy", 1.00, None, "x", 2, ratio_to("plain", "haproxy")),
    Target("CPU/request, TLS upstream, against HAProxy", 1.00, None, "x", 2, ratio_to("tls", "haproxy")),
    Target("CPU/request, plain, against Envoy", 0.33, None, "x", 2, ratio_to("plain", "envoy")),
    Target("CPU/request, TLS upstream, against Envoy", 0.50, None, "x", 2, ratio_to("tls", "envoy")),
    Target(
        "CPU/request, plain, against the Rust LLM router",
        0.25,
        None,
        "x",
        2,
        ratio_to("plain", "vllm-router"),
    ),
    Target("CPU/request, plain, against LiteLLM", 0.01, None, "x", 3, ratio_to("plain", "litellm")),
)


def verdicts(outcomes: Outcomes) -> list[Verdict]:
    return [Verdict(target, target.measure(outcomes)) for target in TARGETS]
