"""A node that was out for long gets its share back step by step: every turn is accounted for."""

from collections import Counter

import pytest

from fastgw._core import Cause, Node, PickKind, Selector, Tried
from fastgw.balancing.health import HealthPolicy
from fastgw.balancing.upstream import Upstream
from fastgw.errors import FailureKind

S = 10.0  # how long a ramp takes here


def picks(selector: Selector, now: float, count: int, tried: Tried | None = None) -> list[str]:
    names = []
    for _ in range(count):
        node = selector.pick(now, tried)
        assert node is not None
        node.release(selector.picked_kind, selector.picked_lease)
        names.append(node.name)
    return names


def nodes_of(*places: tuple[str, int, int]) -> list[Node]:
    """(name, weight, priority) each."""
    return [Node(name, 1, weight, priority, name=name) for name, weight, priority in places]


def bring_back(node: Node, now: float, outage_s: float = 60.0) -> None:
    node.eject(now - outage_s, Cause.PASSIVE)
    node.note_outage(now - outage_s)
    node.heal(now, 5.0)


def test_a_lone_node_of_its_tier_shares_with_the_next_tier() -> None:
    nodes = nodes_of(("a", 1, 0), ("b", 1, -1))
    selector = Selector(nodes, slow_start_s=S)
    bring_back(nodes[0], 100.0)
    assert selector.pick(100.0) is nodes[0], "the first request is back at once"
    parts = []
    for tenth in range(11):
        counts = Counter(picks(selector, 100.0 + tenth, 1000))
        parts.append(counts["a"])
        assert counts["a"] + counts["b"] == 1000
    assert parts == sorted(parts)
    assert [round(part / 100) for part in parts] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10]
    assert parts[-1] == 1000 and nodes[0].ramp_from == 0.0


def test_inside_a_tier_the_others_take_the_rest_by_their_weights() -> None:
    nodes = nodes_of(("a", 2, 0), ("b", 1, 0), ("c", 1, 0))
    selector = Selector(nodes, slow_start_s=S)
    picks(selector, 1.0, 4)
    bring_back(nodes[0], 100.0)
    counts = Counter(picks(selector, 105.0, 4000))
    assert counts["a"] == pytest.approx(2000 * 0.55, abs=5)
    assert counts["b"] == pytest.approx(counts["c"], abs=3)
    # With its whole share it has its exact turns again.
    picks(selector, 110.0, 1)
    assert Counter(picks(selector, 110.0, 400)) == {"a": 200, "b": 100, "c": 100}


def test_where_nobody_else_is_left_it_takes_all() -> None:
    nodes = nodes_of(("a", 1, 0), ("b", 1, -1))
    selector = Selector(nodes, slow_start_s=S)
    bring_back(nodes[0], 100.0)
    nodes[1].eject(200.0, Cause.PASSIVE)
    assert set(picks(selector, 101.0, 100)) == {"a"}
    assert selector.picked_kind == PickKind.NORMAL


def test_all_coming_back_together_are_all_used() -> None:
    nodes = nodes_of(("a", 1, 0), ("b", 1, 0))
    selector = Selector(nodes, slow_start_s=S)
    for node in nodes:
        bring_back(node, 100.0)
    counts = Counter(picks(selector, 101.0, 1000))
    assert counts["a"] + counts["b"] == 1000
    assert min(counts.values()) > 300


def test_a_node_of_weight_zero_does_not_stand_in_for_one_that_comes_back() -> None:
    nodes = nodes_of(("a", 1, 0), ("spare", 0, 0), ("b", 1, -1))
    selector = Selector(nodes, slow_start_s=S)
    bring_back(nodes[0], 100.0)
    assert set(picks(selector, 101.0, 100)) == {"a", "b"}


def test_a_request_that_failed_elsewhere_is_not_turned_away() -> None:
    nodes = nodes_of(("x", 1, 1), ("a", 1, 0), ("b", 1, -1))
    selector = Selector(nodes, slow_start_s=S)
    bring_back(nodes[1], 100.0)
    tried = Tried()
    tried.add(0)
    assert set(picks(selector, 101.0, 50, tried)) == {"a"}


def test_a_short_outage_costs_nothing_of_the_share() -> None:
    [node] = nodes_of(("a", 1, 0))
    bring_back(node, 100.0, outage_s=4.9)
    assert node.ramp_from == 0.0
    bring_back(node, 200.0, outage_s=5.0)
    assert node.ramp_from == 200.0


def test_one_that_goes_out_inside_its_ramp_begins_anew() -> None:
    [node] = nodes_of(("a", 1, 0))
    bring_back(node, 100.0)
    bring_back(node, 104.0, outage_s=1.0)
    assert node.ramp_from == 104.0


def test_without_a_slow_start_a_ramp_that_another_selector_began_is_over() -> None:
    nodes = nodes_of(("a", 1, 0), ("b", 1, -1))
    bring_back(nodes[0], 100.0)
    assert set(picks(Selector(nodes), 100.0, 20)) == {"a"}
    assert nodes[0].ramp_from == 0.0


def test_nodes_that_two_selectors_share_ramp_in_both() -> None:
    nodes = nodes_of(("a", 1, 0), ("b", 1, -1))
    one, other = Selector(nodes, slow_start_s=S), Selector(nodes, slow_start_s=S)
    bring_back(nodes[0], 100.0)
    for selector in (one, other):
        assert 450 < Counter(picks(selector, 105.0, 1000))["a"] < 650


# --- What begins one --------------------------------------------------------------------------


def upstream_of(slow_start_s: float = S) -> Upstream:
    nodes = nodes_of(("a", 1, 0), ("b", 1, -1))
    return Upstream(nodes, HealthPolicy(ejection_jitter=0.0, slow_start_s=slow_start_s))


@pytest.mark.parametrize("how", ["ejected", "cooling", "overloaded", "dead", "forbidden", "probes"])
@pytest.mark.parametrize("slow_start_s", [0.0, S])
def test_every_long_outage_ends_with_a_ramp(how: str, slow_start_s: float) -> None:
    nodes = nodes_of(("a", 1, 0), ("b", 1, -1))
    policy = HealthPolicy(
        ejection_jitter=0.0,
        slow_start_s=slow_start_s,
        forbidden_needed=1,
        active=HealthPolicy().passive,
    )
    upstream = Upstream(nodes, policy)
    node = nodes[0]
    attempt = upstream.start_attempt(100.0)
    assert attempt is not None
    if how == "ejected":
        attempt.failed(FailureKind.TCP, 100.0, at_once=True)
    elif how in ("cooling", "overloaded"):
        attempt.busy(160.0, 100.0, how == "overloaded")
    elif how == "dead":
        attempt.dead(100.0)
    elif how == "forbidden":
        attempt.forbidden(100.0)
    else:
        attempt.ignored(100.0)
        for _ in range(5):
            upstream.record_probe(node, 1, 100.0)
    assert not node.is_available(100.0)
    if how == "probes":
        upstream.record_probe(node, 0, 170.0)
    else:
        trial = upstream.start_attempt(170.0)
        assert trial is not None and trial.kind == PickKind.TRIAL
        trial.answered(170.0)
        trial.succeeded(170.0)
    assert node.is_available(170.0) and not node.is_dead() and not node.is_cooling()
    assert node.ramp_from == (170.0 if slow_start_s else 0.0)
    counts = Counter()
    for _ in range(100):
        attempt = upstream.start_attempt(171.0)
        assert attempt is not None
        counts[attempt.node.name] += 1
        attempt.succeeded(171.0)
    assert counts["a"] == pytest.approx(19 if slow_start_s else 100, abs=1)
