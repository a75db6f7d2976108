"""The kernel against a plain Python model, and what must hold under any order of events.

The failover machine runs twice: in a process of its own, and as three workers that share their nodes'
records, one of which may die at any time.
"""

import mmap
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastgw._core import TRANSITIONS, Cause, HealthState, Node, NodeTable, PickKind, Report, Selector, Tried
from fastgw.balancing.health import HealthPolicy, Thresholds
from fastgw.balancing.upstream import Attempt, Upstream

weights_of_a_tier = st.lists(st.integers(0, 12), min_size=1, max_size=8)


def selector_of(weights: list[int]) -> Selector:
    return Selector([Node(f"n{index}", 1, weight) for index, weight in enumerate(weights)])


def take(selector: Selector, now: float = 1.0, tried: Tried | None = None) -> int | None:
    """The position picked; the pick ends at once."""
    node = selector.pick(now, tried)
    if node is None:
        return None
    node.release(selector.picked_kind, selector.picked_lease)
    return selector.picked_position


def shares_of(weights: list[int]) -> list[Fraction]:
    """Each node's fair part of the picks."""
    if not any(weights):
        return [Fraction(1, len(weights))] * len(weights)
    return [Fraction(weight, sum(weights)) for weight in weights]


# --- Weights ----------------------------------------------------------------------------------


@given(weights_of_a_tier)
def test_every_window_holds_each_node_exactly_by_its_weight(weights: list[int]) -> None:
    selector = selector_of(weights)
    parts = weights if any(weights) else [1] * len(weights)
    divisor = gcd(*parts)
    window = sum(parts) // divisor
    picks = [take(selector) for _ in range(3 * window)]
    expected = Counter({index: part // divisor for index, part in enumerate(parts) if part})
    for start in range(2 * window + 1):
        assert Counter(picks[start : start + window]) == expected


@given(weights_of_a_tier)
def test_picks_are_evenly_spread(weights: list[int]) -> None:
    """At any moment each node has had its share of the picks so far, to within one turn of the others."""
    selector = selector_of(weights)
    shares = shares_of(weights)
    had = [0] * len(weights)
    for count in range(1, 121):
        position = take(selector)
        assert position is not None
        had[position] += 1
        for index, share in enumerate(shares):
            # The credit of a node is share*count - had, in units of a turn: it never owes a whole one
            # and is never owed more than one per competitor.
            lag = share * count - had[index]
            assert lag > -1
            assert lag <= max(1, len(weights) - 1)
            assert had[index] <= share * count + 1


@given(weights_of_a_tier, st.integers(1, 1000))
def test_weights_matter_only_as_a_ratio(weights: list[int], factor: int) -> None:
    one, other = selector_of(weights), selector_of([weight * factor for weight in weights])
    assert [take(one) for _ in range(60)] == [take(other) for _ in range(60)]


@dataclass
class ModelTier:
    """Smooth weighted round robin, written down once more and as plainly as can be."""

    weights: dict[int, int]  # by position
    members: frozenset[int] = frozenset()
    credits: dict[int, int] = field(default_factory=dict)

    def look(self, usable: frozenset[int]) -> None:
        """A schedule is about one set of nodes: it begins anew with another one."""
        if usable and usable != self.members:
            self.members = usable
            self.credits = dict.fromkeys(usable, 0)

    def taking_part(self, nodes: frozenset[int]) -> list[int]:
        """Those of weight 0 only if there are no others."""
        return [position for position in sorted(nodes) if self.weights[position]] or sorted(nodes)

    def pick(self) -> int:
        """The next one when nobody is left out."""
        gains = {position: self.weights[position] or 1 for position in self.taking_part(self.members)}
        for position, gain in gains.items():
            self.credits[position] += gain
        best = max(gains, key=lambda position: (self.credits[position], -position))
        self.credits[best] -= sum(gains.values())
        return best


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-2, 1)), min_size=1, max_size=7),
    st.lists(st.tuples(st.sampled_from(["pick", "retry", "out", "back"]), st.integers(0, 6)), max_size=80),
)
def test_picks_are_those_of_the_model(places: list[tuple[int, int]], events: list[tuple[str, int]]) -> None:
    """Tiers, exclusions, weights of zero; nodes go out and come back."""
    nodes = [Node(f"n{index}", 1, weight, tier) for index, (weight, tier) in enumerate(places)]
    selector = Selector(nodes, trials=False)
    tiers = {
        tier: ModelTier({index: weight for index, (weight, other) in enumerate(places) if other == tier})
        for tier in {tier for _, tier in places}
    }
    out: set[int] = set()
    for event, argument in events:
        position = argument % len(nodes)
        if event == "out":
            nodes[position].eject(99.0, Cause.PASSIVE)
            out.add(position)
        elif event == "back":
            nodes[position].heal(1.0)
            out.discard(position)
        else:  # a retry leaves one node out
            left_out = frozenset({position} if event == "retry" else ())
            tried = Tried()
            for one in left_out:
                tried.add(one)
            expected: list[int] = []
            for _, tier in sorted(tiers.items(), reverse=True):
                usable = frozenset(tier.weights) - out
                tier.look(usable)
                if left := usable - left_out:
                    if left_out & frozenset(tier.taking_part(usable)):
                        expected = tier.taking_part(left)  # nobody's turn in the schedule changes by that
                    else:
                        expected = [tier.pick()]
                    break
            if expected:
                assert take(selector, 1.0, tried) in expected


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_each_exchange_tries_every_node_once_by_falling_priority(priorities: list[int]) -> None:
    upstream = Upstream([Node(f"n{index}", 1, 1, priority) for index, priority in enumerate(priorities)])
    tried = Tried()
    seen = []
    while (attempt := upstream.start_attempt(1.0, tried)) is not None:
        seen.append(attempt.node.priority)
        attempt.ignored(1.0)
    assert seen == sorted(priorities, reverse=True)
    assert len(tried) == len(priorities)


# --- The state machine ------------------------------------------------------------------------


@dataclass
class ModelNode:
    """The rules of the four states, one line each."""

    state: str = "healthy"
    counters: dict[str, int] = field(
        default_factory=lambda: {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
    )

    def report(self, kind: Report, limit: int) -> bool:
        was_usable = "unhealthy" not in self.state
        success = kind is Report.SUCCESS
        if limit == 0 or self.state == ("healthy" if success else "unhealthy"):
            return False
        name = ("success", "http_failure", "tcp_failure", "timeout_failure")[kind]
        count = self.counters[name] + 1
        if success:
            self.counters = dict.fromkeys(self.counters, 0)
        else:
            self.counters["success"] = 0
        self.counters[name] = count
        if count >= limit:
            self.state = "healthy" if success else "unhealthy"
        elif self.state == "healthy":
            self.state = "mostly_healthy"
        elif self.state == "unhealthy":
            self.state = "mostly_unhealthy"
        return was_usable != ("unhealthy" not in self.state)


reports = st.lists(st.tuples(st.sampled_from(Report), st.integers(0, 4)), max_size=60)


@given(reports)
def test_any_order_of_reports_gives_the_model_s_state_and_counters(events: list[tuple[Report, int]]) -> None:
    node, model = Node("a", 1), ModelNode()
    for kind, limit in events:
        before = node.state
        generation = node.generation
        crossed = node.report(kind, limit)
        assert crossed == model.report(kind, limit)
        assert (node.status, node.counters) == (model.state, model.counters)
        assert node.state == before or node.state in TRANSITIONS[before]
        assert node.generation - generation == (crossed and not node.is_usable())


@given(reports, st.lists(st.integers(0, 1)))
def test_apisix_upstream_is_the_model_whoever_reports(
    events: list[tuple[Report, int]], sources: list[int]
) -> None:
    """Traffic and probes feed one state, each with the thresholds of its own section."""
    passive, active = Thresholds(2, 3, 2, 1), Thresholds(1, 2, 0, 3)
    upstream = Upstream([Node("a", 1)], HealthPolicy.apisix(passive, active))
    node, model = upstream.nodes[0], ModelNode()
    for index, (kind, _) in enumerate(events):
        by_probe = index < len(sources) and sources[index]
        limits = active if by_probe else passive
        limit = (limits.successes, limits.http_failures, limits.tcp_failures, limits.timeouts)[kind]
        model.report(kind, limit)
        if by_probe:
            upstream.record_probe(node, kind, float(index))
        else:
            attempt = upstream.start_attempt(float(index))
            assert attempt is not None
            if kind is Report.SUCCESS:
                attempt.succeeded(float(index))
            else:
                attempt.failed(kind, float(index), at_once=True)
        assert (node.status, node.counters) == (model.state, model.counters)


# --- Ejection, trial, cooling, dead: invariants under any order -------------------------------


class Failover(RuleBasedStateMachine):
    """Attempts begin, end in any way and order, and time passes. Nothing may get lost or stuck."""

    workers = 1

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.under_way: list[Attempt] = []
        self.generations: list[int] = []

    @initialize(
        weights=st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 1)), min_size=1, max_size=4),
        successes=st.integers(0, 3),
        has_probes=st.booleans(),
    )
    def make(self, weights: list[tuple[int, int]], successes: int, has_probes: bool) -> None:
        policy = HealthPolicy(
            passive=Thresholds(successes=successes, http_failures=2, tcp_failures=2, timeouts=2),
            active=Thresholds(2, 2, 2, 2) if has_probes else None,
        )
        self.policy = policy
        self.weights = weights
        self.generations = [0] * len(weights)
        self.lay_out()
        self.upstreams = [self.upstream_of(worker) for worker in range(self.workers)]
        self.upstream = self.upstreams[0]

    def lay_out(self) -> None:
        """Before the first node is made."""

    def options_of(self, worker: int, name: str) -> dict[str, Any]:
        """Where this worker's node of that name has its record."""
        return {}

    def upstream_of(self, worker: int) -> Upstream:
        return Upstream(
            [
                Node(f"n{index}", 1, weight, tier, **self.options_of(worker, f"n{index}"))
                for index, (weight, tier) in enumerate(self.weights)
            ],
            self.policy,
        )

    # --- Events ---

    @rule(step=st.sampled_from([0.0, 0.1, 0.6, 1.0, 4.5, 12.0, 70.0]))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule(tried=st.sets(st.integers(0, 3)), worker=st.integers(0, 2))
    def attempt_begins(self, tried: set[int], worker: int) -> None:
        upstream = self.upstreams[worker % self.workers]
        nodes = upstream.nodes
        positions = Tried()
        for position in tried:
            positions.add(position)
        standing = [node.is_available(self.now) for node in nodes]
        is_open = upstream.has_open(self.now, positions)
        attempt = upstream.start_attempt(self.now, positions)
        left = [index for index in range(len(nodes)) if index not in tried]
        available = [index for index in left if standing[index]]
        if attempt is None:
            assert not available
            assert not is_open
            return
        if tried:  # a first attempt may be a trial instead
            assert is_open == (attempt.kind == PickKind.NORMAL)
        assert is_open or attempt.kind != PickKind.NORMAL
        assert attempt.position in left
        assert attempt.position in positions
        assert attempt.node is nodes[attempt.position]
        if available:
            assert attempt.kind != PickKind.PANIC
            assert attempt.position in available
        else:
            assert attempt.kind == PickKind.PANIC
            assert self.now >= attempt.node.dead_until
        if attempt.kind == PickKind.TRIAL:
            assert not attempt.node.is_available(self.now)  # one at a time
        if attempt.kind == PickKind.NORMAL:
            assert attempt.node.is_usable()
            peers = [nodes[index].priority for index in available]
            assert tried or attempt.node.priority == max(peers)
        self.under_way.append(attempt)

    @precondition(lambda self: self.under_way)
    @rule(
        data=st.data(),
        how=st.sampled_from(
            ["succeed", "fail", "fail at once", "busy", "rest", "overload", "die", "forbid", "ignore", "drop"]
        ),
    )
    def attempt_ends(self, data: st.DataObject, how: str) -> None:
        index = data.draw(st.integers(0, len(self.under_way) - 1))
        attempt = self.under_way.pop(index)
        node = attempt.node
        was_out_of_date = attempt.is_out_of_date()
        before = (node.state, node.ejected_until, node.counters)
        dead_until, cooling_until = node.dead_until, node.cooling_until
        match how:
            case "succeed":
                attempt.succeeded(self.now)
                assert node.is_usable() or not HealthState(before[0]) <= HealthState.MOSTLY_HEALTHY
            case "fail":
                attempt.failed(data.draw(st.integers(1, 3)), self.now)
            case "fail at once":
                attempt.failed(2, self.now, at_once=True)
                assert was_out_of_date or attempt.kind != PickKind.NORMAL or not node.is_usable()
            case "busy":
                attempt.busy(0.0, self.now)
            case "rest":
                attempt.busy(self.now + 20.0, self.now)
                assert node.cooling_until >= self.now + 20.0
            case "overload":
                attempt.busy(0.0, self.now, overload=True)
            case "die":
                attempt.dead(self.now)
                assert node.is_dead()
            case "forbid":
                attempt.forbidden(self.now)
            case "ignore":
                attempt.ignored(self.now)
            case "drop":
                pass
        if was_out_of_date or how in ("busy", "rest", "overload", "die", "forbid", "ignore", "drop"):
            assert (node.state, node.ejected_until, node.counters) == before
        if how != "succeed":
            assert node.dead_until >= dead_until
            assert node.cooling_until >= cooling_until
        assert not attempt.succeeded(self.now) or how == "drop"
        del attempt

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answer_begins(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.under_way))
        attempt.answered(self.now)

    @rule(data=st.data(), report=st.sampled_from(Report), worker=st.integers(0, 2))
    def probe_ends(self, data: st.DataObject, report: Report, worker: int) -> None:
        upstream = self.upstreams[worker % self.workers]
        node = data.draw(st.sampled_from(upstream.nodes))
        was_usable, cause = node.is_usable(), node.cause
        crossed = upstream.record_probe(node, report, self.now)
        assert crossed == (was_usable != node.is_usable())
        if not was_usable and cause == Cause.PASSIVE:
            assert not node.is_usable()  # the trial decides

    # --- What always holds ---

    @invariant()
    def places_are_accounted_for(self) -> None:
        held = Counter(attempt.position for attempt in self.under_way)
        for index, node in enumerate(self.upstream.nodes if hasattr(self, "upstream") else ()):
            assert node.in_flight == held[index]
            assert node.picks == sum(node.outcomes) + held[index]

    @invariant()
    def nodes_out_of_service_have_a_reason_and_an_end(self) -> None:
        for index, node in enumerate(self.upstream.nodes if hasattr(self, "upstream") else ()):
            assert node.is_usable() == (node.cause == Cause.NONE)
            assert not node.is_usable() or node.ejected_until == 0.0
            assert node.ejected_until <= self.now + self.policy.ejection_max_s * 1.1
            assert node.cooling_until <= self.now + self.policy.cooling_max_s * 1.1
            assert node.dead_until <= self.now + self.policy.dead_reprobe_max_s
            assert node.generation >= self.generations[index]
            assert node.verdict >= node.generation
            self.generations[index] = node.generation
            for upstream in self.upstreams:
                assert repr(upstream.nodes[index]) == repr(node)
            recovery = self.upstream.next_recovery(self.now)
            assert recovery >= self.now
            assert (recovery == self.now) == any(node.is_available(self.now) for node in self.upstream.nodes)

    def teardown(self) -> None:
        """Whatever has happened: when all is well again, so is every node, soon."""
        if not hasattr(self, "upstream"):
            return
        for attempt in self.under_way:
            attempt.ignored(self.now)
        now = self.now
        for node in self.upstream.nodes:
            assert node.in_flight == 0
            now = max(now, node.dead_until, node.cooling_until)
        for _ in range(50):
            now += 0.5
            for node in self.upstream.nodes:
                self.upstream.record_probe(node, Report.SUCCESS, now)
            tried = Tried()
            while (attempt := self.upstream.start_attempt(now, tried)) is not None:
                attempt.succeeded(now)
        assert all(node.is_usable() and node.is_available(now) for node in self.upstream.nodes)


ghosts: list[Any] = []  # what a dead worker had: it never lets go of it


class SharedFailover(Failover):
    """The same by three workers over one memory."""

    workers = 3

    def lay_out(self) -> None:
        self.memory = mmap.mmap(-1, NodeTable.bytes_needed(4, self.workers))
        self.tables = [self.table_of(worker) for worker in range(self.workers)]

    def table_of(self, worker: int) -> NodeTable:
        return NodeTable(4, self.memory, worker=worker, workers=self.workers)

    def options_of(self, worker: int, name: str) -> dict[str, Any]:
        return {"table": self.tables[worker], "key": name}

    @precondition(lambda self: hasattr(self, "upstream"))
    @rule(worker=st.integers(1, 2), holds=st.booleans())
    def worker_dies(self, worker: int, holds: bool) -> None:
        upstream = self.upstreams[worker]
        lost = [attempt for attempt in self.under_way if attempt.owner is upstream]
        self.under_way = [attempt for attempt in self.under_way if attempt.owner is not upstream]
        if holds:
            assert upstream.nodes[0].enter()
        ghosts.append((lost, upstream, self.tables[worker]))
        assert self.tables[0].recover(worker) == len(lost)
        self.tables[worker] = self.table_of(worker)
        self.upstreams[worker] = self.upstream_of(worker)


for machine in (Failover, SharedFailover):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestFailover = Failover.TestCase
TestSharedFailover = SharedFailover.TestCase
