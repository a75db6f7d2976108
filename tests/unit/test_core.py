"""The kernel on its own: state machine, standing, picking, terms. Time is a number that the test sets."""

import gc
import mmap
from collections import Counter

import pytest

from fastgw._core import (
    TRANSITIONS,
    Cause,
    HealthState,
    Node,
    NodeTable,
    Pick,
    PickKind,
    Report,
    Selector,
    Tried,
)

SUCCESS, HTTP, TCP, TIMEOUT = Report
HEALTHY, MOSTLY_HEALTHY, MOSTLY_UNHEALTHY, UNHEALTHY = HealthState


def make(*weights: int, priority: int = 0) -> list[Node]:
    return [
        Node(chr(ord("a") + index), 443, weight, priority, name=chr(ord("a") + index))
        for index, weight in enumerate(weights)
    ]


def names(selector: Selector, count: int, now: float = 1.0) -> str:
    """The next picks, each ended at once; a dot where nothing may be picked."""
    found = ""
    for _ in range(count):
        node = selector.pick(now)
        if node is None:
            found += "."
            continue
        node.release(selector.picked_kind, selector.picked_lease)
        found += node.name
    return found


def tried(*positions: int) -> Tried:
    result = Tried()
    for position in positions:
        result.add(position)
    return result


# --- Nodes and tables -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("", 443), {}),
        (("a", 0), {}),
        (("a", 65536), {}),
        (("a", 443, -1), {}),
        (("a", 443, 2**31), {}),
        (("a", 443, 1, 2**31), {}),
        (("a", 443), {"max_in_flight": -1}),
    ],
)
def test_node_refuses_values_outside_their_range(arguments: tuple, options: dict) -> None:
    with pytest.raises(ValueError):
        Node(*arguments, **options)


def test_node_refuses_a_host_that_is_no_text() -> None:
    with pytest.raises(TypeError):
        Node(None, 443)
    with pytest.raises(TypeError):
        Node(b"a", 443)


def test_node_is_named_by_its_address_unless_told_otherwise() -> None:
    assert Node("10.0.0.7", 443).name == "10.0.0.7:443"
    assert Node("10.0.0.7", 443, name="a").name == "a"


def test_repr_shows_the_state() -> None:
    node = Node("10.0.0.7", 443, 3, name="a")
    assert repr(node) == "<Node a 10.0.0.7:443 tier=0 weight=3 healthy in_flight=0>"
    Selector([node]).pick(1.0)
    node.eject(12.5, Cause.PASSIVE)
    assert repr(node) == "<Node a 10.0.0.7:443 tier=0 weight=3 ejected until 12.5s in_flight=1>"
    node.cool(20.0)
    assert "cooling until 20.0s" in repr(node)
    node.kill(90.0)
    assert "dead until 90.0s" in repr(node)
    other = Node("10.0.0.7", 443, priority=-1)
    other.eject(0.0, Cause.ACTIVE)
    assert repr(other) == "<Node 10.0.0.7:443 tier=-1 weight=1 ejected by probes in_flight=0>"


def test_nodes_of_one_table_lie_in_its_memory() -> None:
    memory = bytearray(NodeTable.bytes_needed(2))
    table = NodeTable(2, memory)
    first, second = Node("a", 1, table=table), Node("b", 1, table=table)
    before = bytes(memory)
    first.report(HTTP, 1)
    ejected = bytes(memory)
    assert before != ejected
    second.report(HTTP, 1)
    assert ejected != bytes(memory)
    with pytest.raises(ValueError, match="full: 2 of 2"):
        Node("c", 1, table=table)


def test_two_tables_over_one_memory_share_what_is_known() -> None:
    with mmap.mmap(-1, NodeTable.bytes_needed(4)) as memory:
        mine, theirs = NodeTable(4, memory), NodeTable(4, memory)
        here, there = Node("a", 1, table=mine), Node("a", 1, table=theirs)
        here.eject(5.0, Cause.PASSIVE)
        assert not there.is_usable()
        assert there.ejected_until == 5.0
        del here, there, mine, theirs


def test_a_slot_that_was_given_back_is_wiped_before_it_is_used_again() -> None:
    table = NodeTable(1)
    node = Node("a", 1, table=table, max_in_flight=3)
    node.kill(99.0)
    assert len(table) == 1
    del node
    assert len(table) == 0
    fresh = Node("b", 1, table=table)
    assert (fresh.dead_until, fresh.max_in_flight) == (0.0, 0)


def test_a_node_that_was_refused_takes_no_slot() -> None:
    table = NodeTable(1)
    with pytest.raises(ValueError):
        Node("a", 0, table=table)
    assert len(table) == 0
    Node("a", 1, table=table)


def test_table_refuses_memory_that_cannot_hold_it() -> None:
    with pytest.raises(ValueError, match="memory"):
        NodeTable(2, bytearray(NodeTable.bytes_needed(2) - 1))
    with pytest.raises(ValueError, match="aligned"):
        NodeTable(1, memoryview(bytearray(NodeTable.bytes_needed(1) + 1))[1:])
    with pytest.raises(BufferError):
        NodeTable(1, bytes(NodeTable.bytes_needed(1)))
    with pytest.raises(ValueError):
        NodeTable(0)


# --- Counters and states ----------------------------------------------------------------------


def test_a_success_means_nothing_while_exactly_healthy() -> None:
    node = Node("a", 1)
    assert node.report(SUCCESS, 1) == 0
    assert node.counters == {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}


def test_failures_below_their_limit_leave_a_node_usable() -> None:
    node = Node("a", 1)
    for _ in range(2):
        assert node.report(HTTP, 3) == 0
    assert (node.state, node.status) == (MOSTLY_HEALTHY, "mostly_healthy")
    assert node.is_usable()
    assert node.report(HTTP, 3) == 1
    assert node.state == UNHEALTHY
    assert node.counters["http_failure"] == 3  # it still shows the limit
    assert node.report(HTTP, 3) == 0
    assert node.counters["http_failure"] == 3


def test_kinds_of_failure_do_not_add_up() -> None:
    node = Node("a", 1)
    for kind, limit in ((HTTP, 3), (HTTP, 3), (TCP, 2), (TIMEOUT, 2)):
        node.report(kind, limit)
    assert node.counters == {"success": 0, "http_failure": 2, "tcp_failure": 1, "timeout_failure": 1}
    assert node.is_usable()


def test_one_success_clears_the_failures_before_the_node_is_healthy_again() -> None:
    node = Node("a", 1)
    node.report(HTTP, 3)
    node.report(HTTP, 3)
    assert node.report(SUCCESS, 2) == 0
    assert node.state == MOSTLY_HEALTHY
    assert node.counters == {"success": 1, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
    node.report(SUCCESS, 2)
    assert node.state == HEALTHY
    assert node.counters["success"] == 2


def test_unhealthy_node_needs_its_successes_in_a_row() -> None:
    node = Node("a", 1)
    node.report(TCP, 1)
    assert node.report(SUCCESS, 2) == 0
    assert node.state == MOSTLY_UNHEALTHY
    assert node.report(TIMEOUT, 3) == 0
    assert node.state == MOSTLY_UNHEALTHY
    assert node.counters["success"] == 0
    node.report(SUCCESS, 2)
    assert node.report(SUCCESS, 2) == 1
    assert node.state == HEALTHY


def test_mostly_unhealthy_node_falls_back_at_the_limit() -> None:
    node = Node("a", 1)
    node.report(TCP, 1)
    node.report(SUCCESS, 3)
    assert node.report(TCP, 1) == 0  # it was not usable before
    assert node.state == UNHEALTHY


def test_limit_zero_switches_a_report_off() -> None:
    node = Node("a", 1)
    for kind in Report:
        assert node.report(kind, 0) == 0
    assert node.state == HEALTHY
    node.report(HTTP, 1)
    node.report(SUCCESS, 0)
    assert (node.state, node.counters["http_failure"]) == (UNHEALTHY, 1)


@pytest.mark.parametrize("kind", [-1, 4, 2**40])
def test_unknown_report_is_refused(kind: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Node("a", 1).report(kind, 1)


def test_generation_counts_the_ways_out_and_not_the_ways_back() -> None:
    node = Node("a", 1)
    node.report(HTTP, 1)
    assert (node.generation, node.verdict) == (1, 1)
    node.report(SUCCESS, 1)
    assert (node.generation, node.verdict) == (1, 2)
    node.eject(5.0, Cause.PASSIVE)
    node.eject(6.0, Cause.PASSIVE)
    assert (node.generation, node.verdict) == (2, 4)


def test_transitions_are_the_four_states_and_their_ways() -> None:
    assert set(TRANSITIONS) == set(HealthState)
    assert all(state not in ways for state, ways in TRANSITIONS.items())


# --- Terms ------------------------------------------------------------------------------------


def test_no_term_is_shortened_by_later_news() -> None:
    node = Node("a", 1)
    node.cool(30.0)
    node.cool(10.0)
    node.kill(60.0)
    node.kill(20.0)
    node.eject(9.0, Cause.PASSIVE)
    node.eject(3.0, Cause.PASSIVE)
    assert (node.cooling_until, node.dead_until, node.ejected_until) == (30.0, 60.0, 9.0)


def test_ejections_grow_and_start_anew_after_a_minute_of_health() -> None:
    node = Node("a", 1)
    terms = []
    now = 100.0
    for _ in range(4):
        terms.append(node.eject_for(now, 1.0, 4.0, 1.0) - now)
        now += 5.0
    assert terms == [1.0, 2.0, 4.0, 4.0]
    node.heal(now)
    assert node.eject_for(now + 59.9, 1.0, 4.0, 1.0) == now + 59.9 + 4.0
    node.heal(now + 70.0)
    assert node.eject_for(now + 130.0, 1.0, 4.0, 1.0) == now + 131.0


def test_growth_ends_at_its_maximum_and_is_spread() -> None:
    node = Node("a", 1)
    assert [node.cool_for(0.0, 1.0, 30.0, 1.0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert [Node("b", 1).cool_for(0.0, 5.0, 3.0, 1.0)] == [3.0]
    assert Node("b", 1).eject_for(0.0, 1.0, 4.0, 1.1) == pytest.approx(1.1)
    assert [node.kill_for(0.0, 60.0, 600.0) for _ in range(5)] == [60, 120, 240, 480, 600]
    assert Node("c", 1).cool_for(1.0, 0.0, 30.0, 1.0) == 1.0  # a base of nothing stays nothing


def test_success_clears_only_terms_that_are_over() -> None:
    node = Node("a", 1)
    node.cool_for(0.0, 1.0, 30.0, 1.0)
    node.kill(9.0)
    node.absolve(5.0)
    assert (node.cooling_until, node.dead_until) == (0.0, 9.0)
    node.absolve(9.0)
    assert node.dead_until == 0.0
    assert node.cool_for(10.0, 1.0, 30.0, 1.0) == 11.0  # the growth is forgotten


def test_healing_forgets_the_window_that_ejected_the_node() -> None:
    node = Node("a", 1)
    for _ in range(30):
        node.note_result(True, 1.0)
    assert node.is_failing(1.0, 20, 50)
    node.eject(2.0, Cause.PASSIVE)
    node.heal(3.0)
    assert node.failure_ratio(3.0) == (0, 0)


def test_window_holds_ten_seconds() -> None:
    node = Node("a", 1)
    for second in range(100, 112):
        node.note_result(second % 2 == 0, second + 0.5)
    assert node.failure_ratio(111.9) == (10, 5)
    assert node.failure_ratio(115.0) == (6, 3)
    assert node.failure_ratio(200.0) == (0, 0)
    assert not node.is_failing(111.9, 10, 50)  # not more than half
    assert node.is_failing(111.9, 10, 49)
    assert not node.is_failing(111.9, 11, 49)


# --- Weights ----------------------------------------------------------------------------------


def test_weights_are_exact_and_evenly_spread() -> None:
    assert names(Selector(make(5, 1, 1)), 14) == "aabacaa" * 2
    assert Counter(names(Selector(make(3, 2, 1)), 12)) == {"a": 6, "b": 4, "c": 2}
    assert names(Selector(make(10, 10)), 6) == "ababab"


def test_window_may_begin_anywhere() -> None:
    picks = names(Selector(make(6, 4, 2)), 60)
    for start in range(54):
        assert Counter(picks[start : start + 6]) == {"a": 3, "b": 2, "c": 1}


def test_large_weights_do_not_overflow() -> None:
    picks = names(Selector(make(*[2**31 - 1] * 26)), 260)
    assert set(Counter(picks).values()) == {10}


def test_weight_zero_is_taken_only_when_nothing_else_is_left() -> None:
    nodes = make(0, 2, 0)
    selector = Selector(nodes)
    assert names(selector, 4) == "bbbb"
    nodes[1].eject(50.0, Cause.PASSIVE)
    assert names(selector, 4) == "acac"
    assert names(Selector(make(0, 0, 0)), 6) == "abcabc"
    assert selector.pick(60.0, tried(1)).name in "ac"


def test_single_node_of_weight_zero_is_used() -> None:
    assert names(Selector(make(0)), 2) == "aa"


def test_half_open_node_of_weight_zero_is_not_tried_beside_one_with_weight() -> None:
    nodes = make(0, 1)
    nodes[0].eject(1.0, Cause.PASSIVE)
    assert names(Selector(nodes), 3, now=2.0) == "bbb"


def test_schedule_restarts_when_the_set_of_healthy_nodes_changes() -> None:
    nodes = make(2, 1, 1)
    selector = Selector(nodes)
    assert names(selector, 1) == "a"
    nodes[2].cool(5.0)
    assert names(selector, 6) == "abaaba"
    nodes[2].absolve(6.0)
    assert names(selector, 4, now=6.0) == "abca"


def test_picks_with_exclusions_do_not_disturb_the_schedule() -> None:
    nodes = make(3, 2, 1)
    plain, disturbed = Selector(nodes), Selector(nodes)
    expected = names(plain, 30)
    found = ""
    for index in range(30):
        found += names(disturbed, 1)
        for _ in range(index % 4):
            disturbed.pick(1.0, tried(index % 3)).release(0)
    assert found == expected


def test_picks_beside_a_full_node_keep_their_weights() -> None:
    nodes = [Node("a", 1, 2, name="a"), Node("b", 1, 2, name="b"), Node("c", 1, 1, max_in_flight=1, name="c")]
    selector = Selector(nodes)
    held = [node for node in (selector.pick(1.0) for _ in range(3)) if node.name == "c"]
    assert len(held) == 1
    assert Counter(names(selector, 20)) == {"a": 10, "b": 10}
    held[0].release(PickKind.NORMAL)
    assert "c" in names(selector, 5)


# --- Tiers and exclusions ---------------------------------------------------------------------


def test_lower_tier_is_used_only_when_the_higher_one_has_nobody() -> None:
    nodes = [*make(1, 1), Node("z", 443, 100, -1, name="z")]
    selector = Selector(nodes)
    assert names(selector, 4) == "abab"
    assert selector.pick(1.0, tried(0, 1)).name == "z"
    assert selector.pick(1.0, tried(0, 1, 2)) is None
    nodes[0].eject(9.0, Cause.PASSIVE)
    assert names(selector, 2) == "bb"
    nodes[1].cool(9.0)
    assert names(selector, 2) == "zz"


def test_priorities_are_sorted_and_positions_are_the_callers() -> None:
    nodes = [Node("low", 1, 1, -5), Node("high", 1, 1, 7), Node("mid", 1, 1, 0)]
    selector = Selector(nodes)
    assert [selector.pick(1.0).host, selector.picked_position] == ["high", 1]
    assert [selector.pick(1.0, tried(1)).host, selector.picked_position] == ["mid", 2]
    assert [selector.pick(1.0, tried(1, 2)).host, selector.picked_position] == ["low", 0]


def test_full_node_is_passed_over_in_every_way() -> None:
    node = Node("a", 1, max_in_flight=2)
    for panic in ("trials", "all"):
        selector = Selector([node], panic=panic)
        assert selector.pick(1.0) is node
        assert selector.pick(1.0) is node
        assert selector.pick(1.0) is None
        assert not node.is_available(1.0)
        node.eject(5.0, Cause.PASSIVE)
        assert selector.pick(1.0) is None
        assert selector.pick(6.0) is None
        node.release(PickKind.NORMAL)
        node.release(PickKind.NORMAL)
        node.heal(6.0)


def test_selector_of_nothing_picks_nothing() -> None:
    selector = Selector([])
    assert selector.pick(1.0) is None
    assert selector.next_recovery(1.0) == 2.0


def test_selector_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="1024"):
        Selector(Node("a", 1) for _ in range(1025))
    node = Node("a", 1)
    with pytest.raises(ValueError, match="once"):
        Selector([node, node])
    with pytest.raises(ValueError, match="panic"):
        Selector([node], panic="maybe")
    with pytest.raises(TypeError):
        Selector([node, None])
    with pytest.raises(TypeError):
        Selector(["a"])


def test_a_thousand_nodes_are_tried_once_each() -> None:
    selector = Selector(Node(str(index), 1, 1, -index // 100) for index in range(1024))
    seen = Tried()
    for _ in range(1024):
        selector.pick(1.0, seen).release(0)
        assert selector.picked_position not in seen
        seen.add(selector.picked_position)
    assert len(seen) == 1024
    assert selector.pick(1.0, seen) is None


def test_tried_is_a_set_of_positions() -> None:
    seen = tried(0, 63, 64, 1023, 63)
    assert len(seen) == 4
    assert [position for position in range(-5, 1100) if position in seen] == [0, 63, 64, 1023]
    seen.clear()
    assert len(seen) == 0
    assert 63 not in seen
    for position in (-1, 1024):
        with pytest.raises(IndexError):
            seen.add(position)


def test_node_shared_by_selectors_has_one_state_and_each_its_own_turn() -> None:
    nodes = make(1, 1)
    one, other = Selector(nodes), Selector(reversed(nodes))
    assert names(one, 3) == "aba"
    assert names(other, 3) == "bab"
    one.pick(1.0)
    assert nodes[1].in_flight == 1
    nodes[0].eject(9.0, Cause.PASSIVE)
    assert names(one, 2) == names(other, 2) == "bb"


# --- Half-open --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ejected", "cooling", "dead"])
def test_node_whose_term_is_over_gets_one_request_at_a_time(how: str) -> None:
    nodes = [Node("a", 1, name="a"), Node("b", 1, priority=-1, name="b")]
    match how:
        case "ejected":
            nodes[0].eject(5.0, Cause.PASSIVE)
        case "cooling":
            nodes[0].cool(5.0)
        case "dead":
            nodes[0].kill(5.0)
    selector = Selector(nodes)
    assert names(selector, 3, now=4.9) == "bbb"
    assert not nodes[0].is_available(4.9)
    assert nodes[0].is_available(5.0)
    assert selector.pick(5.0) is nodes[0]
    assert (selector.picked_kind, selector.picked_lease) == (PickKind.TRIAL, 9.0)
    assert names(selector, 3, now=5.0) == "bbb"  # everybody else goes on
    nodes[0].release(PickKind.TRIAL, 9.0)
    assert selector.pick(5.0) is nodes[0]


def test_lost_trial_does_not_keep_the_node_out() -> None:
    node = Node("a", 1, name="a")
    node.cool(5.0)
    selector = Selector([node, Node("b", 1, priority=-1, name="b")])
    assert selector.pick(5.0) is node
    assert names(selector, 1, now=8.9) == "b"
    assert selector.pick(9.0) is node
    assert selector.picked_lease == 13.0
    node.release(PickKind.TRIAL, 9.0)  # the lost one turns up: the later trial is not given back
    assert names(selector, 1, now=9.0) == "b"


def test_half_open_node_goes_before_its_healthy_neighbours_and_keeps_their_schedule() -> None:
    nodes = make(1, 1, 1)
    nodes[2].cool(5.0)
    selector = Selector(nodes)
    assert names(selector, 3) == "aba"
    assert selector.pick(5.0) is nodes[2]
    assert names(selector, 3, now=5.0) == "bab"


def test_request_that_failed_somewhere_takes_a_usable_node_before_a_trial() -> None:
    nodes = [*make(1, 1), Node("z", 443, 1, -1, name="z")]
    nodes[0].cool(5.0)
    selector = Selector(nodes)
    assert selector.pick(6.0, tried(1)).name == "z"
    assert selector.picked_kind == PickKind.NORMAL
    assert selector.pick(6.0, tried(1, 2)).name == "a"
    assert selector.picked_kind == PickKind.TRIAL


def test_node_found_out_by_probes_waits_for_probes_while_they_speak() -> None:
    node = Node("a", 1, name="a")
    node.note_probe(True, 30.0)
    node.eject(1.0, Cause.ACTIVE)
    selector = Selector([node, Node("b", 1, priority=-1, name="b")])
    assert names(selector, 2, now=29.0) == "bb"
    node.note_probe(False, 32.0)  # one good probe of several that are needed
    assert names(selector, 1, now=31.0) == "b"
    assert selector.pick(32.0) is node  # the probes have fallen silent: traffic decides
    assert selector.picked_kind == PickKind.TRIAL


def test_failing_probe_holds_back_the_trial_of_a_node_that_traffic_found_out() -> None:
    node = Node("a", 1, name="a")
    node.eject(5.0, Cause.PASSIVE)
    node.note_probe(True, 40.0)
    selector = Selector([node, Node("b", 1, priority=-1, name="b")])
    assert names(selector, 2, now=20.0) == "bb"
    node.note_probe(False, 50.0)
    assert selector.pick(20.0) is node


def test_without_trials_only_reports_bring_a_node_back() -> None:
    node = Node("a", 1, name="a")
    node.eject(5.0, Cause.PASSIVE)
    selector = Selector([node, Node("b", 1, priority=-1, name="b")], trials=False)
    assert names(selector, 2, now=99.0) == "bb"
    assert not node.is_available(99.0, trials=False)
    node.report(SUCCESS, 1)
    assert names(selector, 2, now=99.0) == "aa"
    node.cool(100.0)
    assert names(selector, 2, now=99.0) == "bb"
    assert names(selector, 2, now=100.0) == "aa"


# --- All nodes out ----------------------------------------------------------------------------


def test_panic_tries_by_tier_and_cooling_nodes_last() -> None:
    nodes = [Node("cold", 1), Node("sick", 1, priority=-1), Node("dead", 1, priority=9)]
    nodes[0].cool(50.0)
    nodes[1].eject(50.0, Cause.PASSIVE)
    nodes[2].kill(50.0)
    selector = Selector(nodes)
    assert selector.pick(1.0).host == "sick"
    assert selector.picked_kind == PickKind.PANIC
    assert selector.pick(1.0, tried(1)).host == "cold"
    assert selector.pick(1.0, tried(0, 1)) is None


def test_panic_is_bounded_per_node() -> None:
    nodes = make(1, 1)
    for node in nodes:
        node.eject(50.0, Cause.PASSIVE)
    selector = Selector(nodes, panic_in_flight=2)
    assert [selector.pick(1.0).name for _ in range(4)] == ["a", "b", "a", "b"]
    assert selector.pick(1.0) is None
    nodes[1].release(PickKind.PANIC)
    assert selector.pick(1.0) is nodes[1]


def test_requests_from_before_the_ejection_do_not_fill_the_panic_places() -> None:
    node = Node("a", 1)
    selector = Selector([node], panic_in_flight=1)
    for _ in range(5):
        selector.pick(1.0)
    node.eject(50.0, Cause.PASSIVE)
    assert selector.pick(1.0) is node
    assert selector.pick(1.0) is None


def test_panic_pauses_on_a_node_on_which_one_has_just_failed() -> None:
    nodes = make(1, 1)
    for node in nodes:
        node.eject(50.0, Cause.PASSIVE)
    nodes[0].hold_panic(1.0, 0.5, 9.0)
    selector = Selector(nodes)
    assert [selector.pick(1.0).name for _ in range(2)] == ["b", "b"]
    assert selector.pick(1.5) is nodes[0]


def test_a_verdict_is_awaited_while_the_places_of_panic_are_taken_and_only_then() -> None:
    nodes = make(1, 1)
    selector = Selector(nodes, panic_in_flight=1)
    assert not selector.awaits_verdict(1.0)
    for node in nodes:
        node.eject(50.0, Cause.PASSIVE)
    assert not selector.awaits_verdict(1.0)
    picked = [selector.pick(1.0) for _ in range(2)]
    assert selector.pick(1.0) is None
    assert selector.awaits_verdict(1.0)
    assert selector.awaits_verdict(1.0, tried(0))
    assert not selector.awaits_verdict(1.0, tried(0, 1))
    for node in picked:
        node.hold_panic(1.0, 0.5, 0.5)  # one has failed: it is not worth waiting for the others
    assert not selector.awaits_verdict(1.2)
    assert selector.awaits_verdict(1.6)
    for node in nodes:
        node.kill(90.0)
    assert not selector.awaits_verdict(1.6)
    assert not Selector([]).awaits_verdict(1.0)


def test_it_is_told_without_a_pick_whether_a_node_is_in_order() -> None:
    nodes = [Node("a", 1), Node("b", 1, 0, -1, max_in_flight=1)]
    selector = Selector(nodes)
    assert selector.has_open(1.0)
    assert selector.has_open(1.0, tried(0))
    assert not selector.has_open(1.0, tried(0, 1))
    assert Selector(nodes[1:]).pick(1.0) is nodes[1]  # it is full
    assert not selector.has_open(1.0, tried(0))
    nodes[0].eject(50.0, Cause.PASSIVE)
    assert not selector.has_open(1.0)
    assert not selector.has_open(60.0)  # that would be a trial
    assert [node.picks for node in nodes] == [0, 1]
    assert not Selector([]).has_open(1.0)


def test_the_pauses_of_panic_double_until_one_succeeds() -> None:
    node = Node("a", 1)
    node.eject(5000.0, Cause.PASSIVE)
    selector = Selector([node])

    def pause(now: float) -> float:
        """How long nothing is picked after a failure then, in steps of 1/64 s."""
        node.hold_panic(now, 1 / 64, 4.0)
        node.hold_panic(now, 1 / 64, 4.0)  # one that was under way with it changes nothing
        steps = 0
        while (picked := selector.pick(now + steps / 64)) is None:
            steps += 1
        assert picked is node
        node.release(PickKind.PANIC)
        return steps / 64

    assert [pause(10.0 * at) for at in range(1, 12)] == [2.0**n / 64 for n in range(8)] + [4.0] * 3
    node.end_panic_pauses()
    assert pause(200.0) == 1 / 64


def test_panic_prefers_a_node_with_weight() -> None:
    nodes = make(0, 1)
    for node in nodes:
        node.eject(50.0, Cause.PASSIVE)
    selector = Selector(nodes, panic_in_flight=2)
    assert [selector.pick(1.0).name for _ in range(4)] == ["b", "b", "a", "a"]


def test_panic_uses_a_node_that_probes_found_out_but_never_a_dead_one() -> None:
    node = Node("a", 1)
    node.note_probe(True, 99.0)
    node.eject(1.0, Cause.ACTIVE)
    selector = Selector([node])
    assert selector.pick(2.0) is node
    node.kill(50.0)
    assert selector.pick(2.0) is None


def test_panic_uses_a_node_whose_dead_term_is_over_but_not_beside_its_trial() -> None:
    node = Node("a", 1)
    node.kill(5.0)
    selector = Selector([node])
    assert selector.pick(4.9) is None
    assert selector.pick(5.0) is node
    assert selector.picked_kind == PickKind.TRIAL
    assert selector.pick(5.0) is None
    # The trial failed of something else, before anybody looked at the key.
    node.release(PickKind.TRIAL)
    node.eject(9.0, Cause.PASSIVE)
    assert selector.pick(5.1) is node
    assert selector.picked_kind == PickKind.PANIC


def test_panic_of_apisix_takes_all_nodes_by_tier_and_weight() -> None:
    nodes = [*make(3, 1), Node("z", 443, 1, -1, name="z")]
    for node in nodes:
        node.eject(50.0, Cause.ACTIVE)
    selector = Selector(nodes, panic="all", trials=False)
    picks = names(selector, 40)
    assert all(Counter(picks[start : start + 4]) == {"a": 3, "b": 1} for start in range(36))
    assert selector.picked_kind == PickKind.PANIC
    assert selector.pick(1.0, tried(0, 1)).name == "z"
    assert selector.pick(1.0, tried(0, 1, 2)) is None


def test_panic_of_apisix_does_not_begin_while_a_usable_node_was_only_tried() -> None:
    nodes = make(1, 1)
    nodes[1].eject(50.0, Cause.PASSIVE)
    selector = Selector(nodes, panic="all", trials=False)
    assert selector.pick(1.0, tried(0)) is None


# --- Recovery ---------------------------------------------------------------------------------


def test_next_recovery_is_the_earliest_end_of_a_term() -> None:
    nodes = make(1, 1, 1)
    selector = Selector(nodes)
    assert selector.next_recovery(1.0) == 1.0
    nodes[0].cool(30.0)
    nodes[1].kill(60.0)
    assert selector.next_recovery(1.0) == 1.0
    nodes[2].eject(7.0, Cause.PASSIVE)
    assert selector.next_recovery(1.0) == 7.0
    nodes[2].cool(90.0)  # both must be over
    assert selector.next_recovery(1.0) == 30.0
    assert selector.next_recovery(31.0) == 31.0


def test_next_recovery_is_soon_when_nobody_knows() -> None:
    node = Node("a", 1, max_in_flight=1)
    selector = Selector([node])
    selector.pick(1.0)
    assert selector.next_recovery(1.0) == 2.0  # full
    node.release(0)
    node.note_probe(True, 99.0)
    node.eject(1.0, Cause.ACTIVE)
    assert selector.next_recovery(5.0) == 6.0  # probes decide
    assert Selector([node], trials=False).next_recovery(5.0) == 6.0


# --- Picks that are held ----------------------------------------------------------------------


def test_pick_gives_everything_back_exactly_once() -> None:
    node = Node("a", 1)
    node.cool(1.0)
    selector = Selector([node])
    pick, seen = Pick(), Tried()
    assert selector.pick_into(pick, 2.0, seen)
    assert (pick.node, pick.position, pick.kind, pick.lease) == (node, 0, PickKind.TRIAL, 6.0)
    assert (pick.started_at, pick.outcome, len(seen)) == (2.0, 0, 1)
    assert pick.end(3)
    assert not pick.end(4)
    assert node.in_flight == 0
    assert node.outcomes == (0, 0, 0, 1, 0, 0, 0, 0)
    assert node.picks == 1
    assert selector.pick(2.0) is node


def test_dropped_pick_gives_everything_back_and_is_counted() -> None:
    node = Node("a", 1)
    node.eject(50.0, Cause.PASSIVE)
    selector = Selector([node], panic_in_flight=1)
    pick = Pick()
    assert selector.pick_into(pick, 1.0)
    assert not selector.pick_into(Pick(), 1.0)
    del pick
    gc.collect()
    assert node.in_flight == 0
    assert node.outcomes[7] == 1
    assert selector.pick_into(Pick(), 1.0)


def test_pick_that_was_never_filled_is_inert() -> None:
    pick = Pick()
    assert pick.outcome == -1
    assert pick.node is None
    assert not pick.end(1)
    assert not pick.answer()
    assert not pick.is_out_of_date()
    assert not pick.is_overtaken()


def test_pick_can_be_filled_only_once() -> None:
    selector = Selector(make(1))
    pick = Pick()
    selector.pick_into(pick, 1.0)
    with pytest.raises(ValueError):
        selector.pick_into(pick, 1.0)
    with pytest.raises(ValueError):
        selector.pick_into(None, 1.0)


def test_pick_knows_late_news_from_fresh() -> None:
    node = Node("a", 1)
    selector = Selector([node])
    pick = Pick()
    selector.pick_into(pick, 1.0)
    node.cool(5.0)
    assert (pick.is_out_of_date(), pick.is_overtaken()) == (False, True)
    node.eject(5.0, Cause.PASSIVE)
    node.heal(6.0)
    assert (pick.is_out_of_date(), pick.is_overtaken()) == (True, True)


def test_answer_passes_the_trial_before_the_pick_ends() -> None:
    node = Node("a", 1)
    node.cool(1.0)
    selector = Selector([node, Node("b", 1, priority=-1)])
    pick = Pick()
    selector.pick_into(pick, 2.0)
    node.cool(1.5)
    assert selector.pick(2.0).host == "b"
    assert pick.answer()
    assert not pick.answer()
    assert not pick.is_overtaken()
    assert selector.pick(2.0) is node
