"""Records that several workers share: keys, references, recovery. The workers are of one process here."""

import mmap
from collections import Counter
from math import gcd
from typing import Any

import pytest

from fastgw._core import Cause, HealthState, Node, NodeTable, Pick, PickKind, Report, Selector

CAPACITY = 4


def crew(workers: int, capacity: int = CAPACITY) -> list[NodeTable]:
    """The same table as seen by each worker."""
    memory = mmap.mmap(-1, NodeTable.bytes_needed(capacity, workers))
    return [NodeTable(capacity, memory, worker=worker, workers=workers) for worker in range(workers)]


def named(table: NodeTable, name: str, **options: Any) -> Node:
    return Node(name, 443, name=name, table=table, key=name, **options)


def started(selector: Selector, now: float = 1.0) -> Pick:
    pick = Pick()
    assert selector.pick_into(pick, now)
    return pick


def order_of(selector: Selector, count: int) -> str:
    found = ""
    for _ in range(count):
        pick = started(selector)
        found += pick.node.name
        pick.end(1)
    return found


# --- Keys and references ----------------------------------------------------------------------


def test_same_key_is_the_same_record_in_all_workers() -> None:
    one, two = crew(2)
    first, other = named(one, "a"), named(one, "b")
    there = named(two, "a")
    first.eject(5.0, Cause.PASSIVE)
    assert there.ejected_until == 5.0
    assert other.state == HealthState.HEALTHY
    assert (len(one), len(two)) == (2, 2)
    assert repr(two) == "<NodeTable 2 of 4 nodes, worker 1 of 2>"


def test_key_means_nothing_without_a_table_or_beside_another_node() -> None:
    first, second = Node("a", 1, key="a"), Node("a", 1, key="a")
    first.kill(9.0)
    assert second.dead_until == 0.0
    assert Node("a", 1, key="b", record_of=first).dead_until == 9.0


def test_record_is_vacated_by_its_last_user_of_any_worker() -> None:
    one, two = crew(2)
    mine, again, theirs = named(one, "a"), named(one, "a"), named(two, "a")
    mine.kill(99.0)
    del mine, again
    assert len(one) == 1
    assert named(one, "a").dead_until == 99.0
    del theirs
    assert len(one) == 0
    assert named(one, "a").dead_until == 0.0


def test_vacated_record_is_handed_out_empty() -> None:
    one, two = crew(2, capacity=1)
    node = named(two, "a", max_in_flight=3)
    pick = started(Selector([node]))
    node.note_result(True, 1.0)
    node.kill(99.0)
    pick.end(1)
    del node, pick
    fresh = named(one, "b")
    assert (fresh.dead_until, fresh.max_in_flight, fresh.picks, sum(fresh.outcomes)) == (0.0, 0, 0, 0)
    assert fresh.failure_ratio(1.0) == (0, 0)


def test_record_lives_as_long_as_an_attempt_on_it() -> None:
    (table,) = crew(1, capacity=1)
    node = named(table, "a")
    pick = started(Selector([node]))
    del node
    assert len(table) == 1
    pick.end(1)
    del pick
    assert len(table) == 0


def test_full_table_says_so() -> None:
    one, two = crew(2)
    nodes = [named(one, name) for name in "abcd"]
    with pytest.raises(ValueError, match="full: 4 of 4"):
        named(two, "e")
    assert named(two, "d").state == HealthState.HEALTHY
    del nodes[0]
    assert named(two, "e").state == HealthState.HEALTHY


def test_node_that_was_refused_leaves_no_reference() -> None:
    (table,) = crew(1)
    with pytest.raises(ValueError):
        Node("a", 0, table=table, key="a")
    with pytest.raises(TypeError):
        Node("a", 1, table=table, key=b"a")  # type: ignore[arg-type]
    assert len(table) == 0


def test_nodes_without_a_key_are_matched_by_their_order() -> None:
    one, two = crew(2)
    mine = [Node(name, 1, table=one) for name in "ab"]
    theirs = [Node(name, 1, table=two) for name in "ab"]
    mine[1].cool(7.0)
    assert [node.cooling_until for node in theirs] == [0.0, 7.0]
    del mine[0]
    mine.append(Node("c", 1, table=one))  # the lowest number that is free
    mine[1].cool(9.0)
    assert [node.cooling_until for node in theirs] == [9.0, 7.0]


@pytest.mark.parametrize(
    "options",
    [{"workers": 0}, {"workers": 65}, {"worker": 2, "workers": 2}, {"worker": -1}, {"capacity": -1}],
)
def test_table_refuses_workers_that_cannot_be(options: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        NodeTable(**options)


def test_memory_laid_out_for_other_numbers_is_refused() -> None:
    memory = mmap.mmap(-1, NodeTable.bytes_needed(64, 8))
    table = NodeTable(4, memory, workers=2)
    with pytest.raises(ValueError, match="laid out for 4 and 2 workers"):
        NodeTable(4, memory, workers=3)
    assert len(table) == 0


def test_sixty_four_workers_have_a_part_each() -> None:
    tables = crew(64)
    nodes = [named(table, "a") for table in tables]
    for node in nodes:
        Selector([node]).pick(1.0)
    assert [node.in_flight for node in (nodes[0], nodes[63])] == [64, 64]
    assert tables[0].recover(63) == 1
    assert nodes[0].in_flight == 63


# --- What workers know of each other ----------------------------------------------------------


def test_counts_are_those_of_all_workers() -> None:
    one, two = crew(2)
    first, second = named(one, "a"), named(two, "a")
    for node in (first, second, second):
        pick = started(Selector([node]))
        node.note_result(node is second, 5.0)
        pick.end(3)
    held = started(Selector([second]))
    assert (first.picks, first.in_flight, first.outcomes[3]) == (4, 1, 3)
    assert first.failure_ratio(5.0) == (3, 2)
    held.end(1)


def test_healing_by_one_worker_makes_all_forget_the_window() -> None:
    one, two = crew(2)
    first, second = named(one, "a"), named(two, "a")
    second.note_result(True, 5.0)
    first.heal(5.0)
    assert second.failure_ratio(5.0) == (0, 0)
    second.note_result(False, 5.0)
    assert first.failure_ratio(5.0) == (1, 0)


def test_in_flight_limit_is_of_all_workers_together() -> None:
    one, two = crew(2)
    first, second = (named(table, "a", max_in_flight=2) for table in (one, two))
    picks = [started(Selector([node])) for node in (first, second)]
    for node in (first, second):
        assert Selector([node]).pick(1.0) is None
        assert not node.is_available(1.0)
    picks[0].end(1)
    assert second.is_available(1.0)


def test_panic_places_are_of_all_workers_together() -> None:
    one, two = crew(2)
    nodes = [named(table, "a") for table in (one, two)]
    nodes[0].eject(50.0, Cause.PASSIVE)
    selectors = [Selector([node], panic_in_flight=2) for node in nodes]
    picks = [started(selector) for selector in selectors]
    assert [pick.kind for pick in picks] == [PickKind.PANIC] * 2
    assert not selectors[0].pick_into(Pick(), 1.0)
    picks[1].end(1)
    assert selectors[0].pick_into(Pick(), 1.0)


def test_one_worker_has_the_trial_and_its_lease_names_it() -> None:
    tables = crew(3)
    nodes = [[named(table, "a"), named(table, "b", priority=-1)] for table in tables]
    nodes[0][0].cool(1.0)
    selectors = [Selector(own) for own in nodes]
    trial = started(selectors[1], 2.0)
    assert (trial.node.name, trial.kind) == ("a", PickKind.TRIAL)
    assert trial.lease == pytest.approx(6.0)
    assert [started(selector, 2.0).node.name for selector in selectors] == ["b", "b", "b"]
    tables[0].recover(2)  # not its trial
    assert not nodes[0][0].is_available(2.0)
    tables[0].recover(1)
    assert nodes[0][0].is_available(2.0)


def test_node_is_entered_once_and_by_its_own_worker_again() -> None:
    one, two = crew(2)
    first, second = named(one, "a"), named(two, "a")
    assert first.enter()
    assert not first.enter()  # it is already ours
    first.leave(False)
    assert not second.enter()  # in vain, and not for long
    second.report(Report.TCP_FAILURE, 1)
    assert not first.is_usable()
    first.leave(True)
    assert second.enter()
    second.leave(True)


def test_node_of_one_process_is_not_locked() -> None:
    assert not Node("a", 1).enter()
    (table,) = crew(1)
    assert not named(table, "a").enter()


# --- One after the other ----------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (5, 1, 1), (2, 2), (7, 3)])
def test_two_workers_do_not_begin_with_the_same_node_and_are_even_together(weights: tuple[int, ...]) -> None:
    tables = crew(2, capacity=8)
    selectors = [
        Selector([named(table, "abc"[index], weight=weight) for index, weight in enumerate(weights)])
        for table in tables
    ]
    cycle = sum(weights) // gcd(*weights)
    plain, later = (order_of(selector, 3 * cycle) for selector in selectors)
    assert later[: 2 * cycle] == plain[cycle // 2 : cycle // 2 + 2 * cycle]
    assert plain[0] != later[0] or weights[0] > cycle // 2 + 1
    for order in (plain, later):
        expected = {"abc"[index]: weight // gcd(*weights) for index, weight in enumerate(weights)}
        assert all(Counter(order[start : start + cycle]) == expected for start in range(2 * cycle))


def test_stagger_can_be_told_and_begins_anew_with_another_set_of_nodes() -> None:
    nodes = [Node(name, 1, name=name) for name in "abcd"]
    orders = [order_of(Selector(nodes, stagger=(worker, 4)), 8) for worker in range(4)]
    assert orders == ["abcdabcd", "bcdabcda", "cdabcdab", "dabcdabc"]
    selector = Selector(nodes, stagger=(1, 3))
    assert order_of(selector, 2) == "bc"
    nodes[3].eject(9.0, Cause.PASSIVE)
    assert order_of(selector, 3) == "bca"


def test_stagger_of_a_long_cycle_is_bounded_and_keeps_weights_exact() -> None:
    weights = [2**31 - 1, 2**31 - 2, 1]
    selector = Selector([Node("a", 1, weight) for weight in weights], stagger=(1, 2))
    positions = []
    for _ in range(1000):
        started(selector).end(1)
        positions.append(selector.picked_position)
    assert positions.count(0) == pytest.approx(500, abs=1)


def test_stagger_leaves_weights_of_zero_out() -> None:
    nodes = [Node("a", 1, 0, name="a"), Node("b", 1, 1, name="b"), Node("c", 1, 1, name="c")]
    assert order_of(Selector(nodes, stagger=(1, 2)), 4) == "cbcb"
    idle = [Node(name, 1, 0, name=name) for name in "ab"]
    assert order_of(Selector(idle, stagger=(1, 2)), 4) == "baba"


@pytest.mark.parametrize("stagger", [(1, 1), (-1, 2), (0, 0)])
def test_stagger_of_no_worker_is_refused(stagger: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="stagger"):
        Selector([Node("a", 1)], stagger=stagger)


# --- Failing in one step ----------------------------------------------------------------------


def test_failure_below_the_limit_is_only_counted() -> None:
    node = Node("a", 1)
    assert not node.fail(Report.HTTP_FAILURE, 2, False, 10.0, 1.0, 4.0, 1.0)
    assert node.state == HealthState.MOSTLY_HEALTHY
    assert node.fail(Report.HTTP_FAILURE, 2, False, 10.0, 1.0, 4.0, 1.0)
    assert (node.state, node.cause, node.ejected_until) == (HealthState.UNHEALTHY, Cause.PASSIVE, 11.0)
    assert (node.generation, node.counters["http_failure"]) == (1, 2)


def test_failure_that_is_enough_ejects_and_again_for_longer() -> None:
    node = Node("a", 1)
    assert node.fail(Report.TIMEOUT, 0, True, 10.0, 1.0, 4.0, 1.0)
    assert not node.fail(Report.TIMEOUT, 1, False, 10.5, 1.0, 4.0, 1.0)  # it is out already
    assert node.ejected_until == 11.0
    assert node.fail(Report.TIMEOUT, 1, True, 12.0, 1.0, 4.0, 1.0)
    assert node.ejected_until == 14.0
    assert node.generation == 1
    for kind in (Report.SUCCESS, 4):
        with pytest.raises(ValueError):
            node.fail(kind, 1, True, 1.0, 1.0, 4.0, 1.0)


def test_trial_is_given_back_only_after_what_it_has_found() -> None:
    node = Node("a", 1)
    node.cool(1.0)
    selector = Selector([node, Node("b", 1, priority=-1)])
    pick = started(selector, 2.0)
    assert pick.settle(3)
    assert not pick.settle(3)
    assert not pick.end(3)
    assert not node.is_available(2.0)
    pick.leave()
    assert node.is_available(2.0)
    assert (node.in_flight, node.outcomes[3]) == (0, 1)


def test_trial_that_answered_does_not_give_back_the_next_one_s_lease() -> None:
    node = Node("a", 1)
    node.cool(1.0)
    selector = Selector([node, Node("b", 1, priority=-1)])
    first = started(selector, 2.0)
    assert first.answer()
    second = started(selector, 2.0)
    assert (second.node, second.lease) == (node, first.lease)
    first.end(1)
    assert not node.is_available(2.0)
    assert second.kind == PickKind.TRIAL


# --- Recovery ---------------------------------------------------------------------------------


def test_recovery_ends_what_a_worker_had_under_way() -> None:
    one, two = crew(2)
    first, second = named(one, "a"), named(two, "a")
    lost = [started(Selector([second])) for _ in range(3)]
    mine = started(Selector([first]))
    lost[0].end(2)
    assert second.enter()  # and then it dies
    assert one.recover(1) == 2
    assert one.recover(1) == 0
    assert first.enter()
    first.leave(True)
    assert (first.in_flight, first.outcomes[7], first.picks) == (1, 2, 4)
    mine.end(1)
    assert sum(first.outcomes) == first.picks


def test_records_of_the_dead_are_kept_for_their_keys_until_the_room_is_needed() -> None:
    one, two = crew(2)
    theirs = [named(two, name) for name in "abc"]
    for node in theirs:
        node.kill(99.0)
    one.recover(1)
    assert len(one) == 0
    back = named(one, "b")
    assert back.dead_until == 99.0
    others = [named(one, name) for name in "xyz"]
    assert [node.dead_until for node in others] == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="full"):
        named(one, "a")


def test_recovery_of_a_worker_that_cannot_be_is_refused() -> None:
    (table,) = crew(1)
    for worker in (-1, 1):
        with pytest.raises(ValueError):
            table.recover(worker)
