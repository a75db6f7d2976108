"""What counts as sick, for how long, and how a node comes back: the policy as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many reports of one kind change a node's state. 0 switches that kind off."""

    successes: int = 1
    http_failures: int = 5
    tcp_failures: int = 5
    timeouts: int = 5

    def __post_init__(self) -> None:
        _check_not_negative(self, "successes", "http_failures", "tcp_failures", "timeouts")

    def limit(self, report: int) -> int:
        """The one for a kind of report, a _core.Report."""
        return (self.successes, self.http_failures, self.tcp_failures, self.timeouts)[report]


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How live outcomes (passive) and probes (active) move a node's health.

    The defaults are made for failover inside a request: a node that live traffic found out stays
    out for a short, growing term, and then a single trial request decides. ``apisix()`` gives the
    rules of APISIX instead.

    Raises:
        ValueError: a time or count is negative, or a rule unknown.
    """

    passive: Thresholds | None = field(default_factory=Thresholds)  # None: traffic never ejects
    active: Thresholds | None = None  # None: probes change nothing

    # Ejection by live traffic: 1, 2, 4, 4 ... seconds. 60 s of health end the growth.
    eject_on_connect_failure: bool = True  # one refused, untrusted or blackholed connect is enough
    ejection_s: float = 1.0
    ejection_max_s: float = 4.0
    ejection_jitter: float = 0.1  # a fraction, both ways: nodes must not return together
    rate_min_requests: int = 20  # of the last 10 s, below which no rate is taken; 0 = off
    rate_percent: int = 50  # more failures than this eject; 0 = off

    # Busy, not sick.
    busy_default_s: float = 1.0  # a 429 that names no time; doubles until a request succeeds
    busy_max_s: float = 30.0
    overload_default_s: float = 4.0  # a 503 or 529 that names no time
    cooling_max_s: float = 600.0  # however long the provider asks for

    # A model that a node does not have; of a model's own rate limit the terms are those above.
    misfit_s: float = 60.0  # doubles while the trials are refused too
    misfit_max_s: float = 600.0

    # A refused credential.
    dead_reprobe_s: float = 60.0  # doubles while the trials are refused too
    dead_reprobe_max_s: float = 600.0
    forbidden_needed: int = 2  # 403 in a row; firewalls send single ones

    # Coming back.
    trials: bool = True  # False: only reports heal, traffic is kept away until then
    trial_lease_s: float = 4.0  # a trial without an end no longer keeps the next one back
    slow_start_s: float = 0.0  # the share grows so long after an outage; 0: it is whole at once
    slow_start_after_s: float = 5.0  # a shorter outage was none
    heal_by_probe_only_after_trial: bool = True  # what traffic found out, probes alone do not heal
    probe_hold_s: float = 30.0  # probes silent for so long no longer keep a node out; > 2 intervals
    panic: str = "trials"  # all nodes out: "trials" or "all"
    panic_in_flight: int = 8  # requests at a time per node in panic "trials"
    panic_pause_s: float = 0.6  # no panic request to a node on which so many have failed; less at first

    # Written by the user; None: the built-in classes of statuses decide.
    passive_success_statuses: frozenset[int] | None = None
    passive_failure_statuses: frozenset[int] | None = None

    def __post_init__(self) -> None:
        _check_not_negative(
            self,
            "ejection_s",
            "ejection_max_s",
            "rate_min_requests",
            "rate_percent",
            "busy_default_s",
            "busy_max_s",
            "overload_default_s",
            "cooling_max_s",
            "misfit_s",
            "misfit_max_s",
            "dead_reprobe_s",
            "dead_reprobe_max_s",
            "trial_lease_s",
            "slow_start_s",
            "slow_start_after_s",
            "probe_hold_s",
            "panic_in_flight",
            "panic_pause_s",
        )
        if not 0 <= self.ejection_jitter < 1:
            raise ValueError(f"ejection_jitter must be at least 0 and below 1, not {self.ejection_jitter}")
        if self.forbidden_needed < 1:
            raise ValueError(f"forbidden_needed must be at least 1, not {self.forbidden_needed}")
        if self.panic not in ("trials", "all"):
            raise ValueError(f"panic must be 'trials' or 'all', not {self.panic!r}")

    @classmethod
    def apisix(
        cls,
        passive: Thresholds | None = None,
        active: Thresholds | None = None,
        *,
        passive_success_statuses: frozenset[int] | None = None,
        passive_failure_statuses: frozenset[int] | None = None,
    ) -> HealthPolicy:
        """APISIX's rules: traffic and probes share the counters, an unhealthy node gets no traffic

        until reports have healed it, late outcomes count, and if no node is usable all are used.
        """
        return cls(
            passive=passive,
            active=active,
            eject_on_connect_failure=False,
            rate_percent=0,
            trials=False,
            heal_by_probe_only_after_trial=False,
            panic="all",
            passive_success_statuses=passive_success_statuses,
            passive_failure_statuses=passive_failure_statuses,
        )


def _check_not_negative(values: object, *names: str) -> None:
    for name in names:
        if getattr(values, name) < 0:
            raise ValueError(f"{name} must not be negative, but is {getattr(values, name)}")
