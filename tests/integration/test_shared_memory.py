"""One truth in several processes: real forks, real kills. What is random has a seed, nothing sleeps."""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, ClassVar

import pytest

from fastgw._core import Cause, Node, NodeTable, Pick, PickKind, Report, Selector
from fastgw._shm import MetricKind, Metrics
from fastgw.balancing.health import HealthPolicy
from fastgw.balancing.upstream import Upstream

FOREVER = 1e6
CAPACITY = 16


@pytest.fixture(autouse=True)
def no_child_outlives_its_test() -> Iterator[None]:
    yield
    for child in [*Child.alive]:
        child.kill()


class Child:
    """A forked process that runs ``work`` and ends; what it sends comes through a pipe."""

    alive: ClassVar[set[Child]] = set()

    def __init__(self, work: Callable[[Child], Any]) -> None:
        from_parent, self._to_child = os.pipe()
        self._from_child, to_parent = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            os.close(from_parent)
            os.close(to_parent)
            Child.alive.add(self)
            return
        status = 1
        try:
            os.close(self._to_child)
            os.close(self._from_child)
            self._from_parent, self._to_parent = from_parent, to_parent
            self.send(work(self))
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)  # without a clean-up: what it has in shared memory stays as it is

    # --- In the child ---

    def send(self, value: Any) -> None:
        data = pickle.dumps(value)
        os.write(self._to_parent, len(data).to_bytes(4, "big") + data)

    def wait_for_parent(self) -> None:
        assert os.read(self._from_parent, 1)

    # --- In the parent ---

    def receive(self) -> Any:
        header = os.read(self._from_child, 4)
        assert header, "the child has died"
        size, data = int.from_bytes(header, "big"), b""
        while len(data) < size:
            data += os.read(self._from_child, size - len(data))
        return pickle.loads(data)

    def go_on(self) -> None:
        os.write(self._to_child, b".")

    def join(self) -> Any:
        """What it returned."""
        result = self.receive()
        assert self._reap() == 0
        return result

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> int:
        Child.alive.discard(self)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._to_child)
        os.close(self._from_child)
        return status


def table_memory(workers: int) -> mmap.mmap:
    return mmap.mmap(-1, NodeTable.bytes_needed(CAPACITY, workers))


def nodes_of(memory: mmap.mmap, worker: int, workers: int, names: str, **options: Any) -> list[Node]:
    table = NodeTable(CAPACITY, memory, worker=worker, workers=workers)
    return [Node(name, 443, name=name, table=table, key=f"up|{name}:443", **options) for name in names]


@contextmanager
def crew(count: int, work: Callable[[int], Any]) -> Iterator[list[Child]]:
    """Workers 0 to ``count - 1``, all begun before the first one may go on."""

    def run(child: Child, worker: int) -> Any:
        child.wait_for_parent()
        return work(worker)

    children = [Child(lambda child, worker=worker: run(child, worker)) for worker in range(count)]
    for child in children:
        child.go_on()
    yield children


# --- Counting and picking ---------------------------------------------------------------------


def test_nothing_is_lost_when_workers_pick_and_report_on_the_same_nodes() -> None:
    workers, rounds = 4, 40_000
    memory = table_memory(workers)
    nodes = nodes_of(memory, 0, workers, "abc")  # keeps the records when the workers have ended

    def work(worker: int) -> tuple[int, int]:
        own = nodes_of(memory, worker, workers, "abc")
        selector = Selector(own)
        failures = 0
        for turn in range(rounds):
            pick = Pick()
            assert selector.pick_into(pick, 1.0)
            if turn % 3 == 0:
                pick.node.report(Report.TCP_FAILURE, 10**9)
                failures += 1
            if turn % 5 == 0:
                pick.node.count_forbidden()
            pick.node.note_result(turn % 2 == 0, 1.0)
            pick.end(1 + turn % 3)
        return failures, (rounds + 4) // 5

    with crew(workers, work) as children:
        results = [child.join() for child in children]
    assert sum(node.counters["tcp_failure"] for node in nodes) == sum(failures for failures, _ in results)
    assert sum(node.count_forbidden() - 1 for node in nodes) == sum(forbidden for _, forbidden in results)
    assert sum(node.picks for node in nodes) == workers * rounds
    assert sum(sum(node.outcomes) for node in nodes) == workers * rounds
    assert [node.failure_ratio(1.0)[0] for node in nodes] == [node.picks for node in nodes]
    assert sum(node.failure_ratio(1.0)[1] for node in nodes) == workers * rounds // 2
    assert [node.in_flight for node in nodes] == [0, 0, 0]
    assert max(node.picks for node in nodes) - min(node.picks for node in nodes) <= workers


def test_exactly_one_worker_has_the_trial() -> None:
    workers, rounds = 4, 40_000
    memory, holders = table_memory(workers), mmap.mmap(-1, workers)
    (node,) = nodes_of(memory, 0, workers, "a")
    node.eject(1.0, Cause.PASSIVE)

    def work(worker: int) -> int:
        own = nodes_of(memory, worker, workers, "ab")
        selector = Selector(own, trial_lease_s=FOREVER)
        trials = 0
        for _ in range(rounds):
            picked = selector.pick(2.0)
            assert picked is not None
            kind, lease = selector.picked_kind, selector.picked_lease
            if kind == PickKind.TRIAL:
                trials += 1
                holders[worker] = 1
                assert sum(holders[:]) == 1
                holders[worker] = 0
            picked.release(kind, lease)
        return trials

    with crew(workers, work) as children:
        trials = [child.join() for child in children]
    assert sum(trials) == node.picks
    assert node.is_available(2.0)


def test_in_flight_limit_holds_over_all_workers_and_who_finds_it_reached_goes_elsewhere() -> None:
    workers, rounds, limit = 3, 20_000, 2
    memory, held = table_memory(workers), mmap.mmap(-1, workers)
    narrow, wide = nodes_of(memory, 0, workers, "ab")

    def work(worker: int) -> int:
        (first,) = nodes_of(memory, worker, workers, "a", max_in_flight=limit)
        selector = Selector([first, *nodes_of(memory, worker, workers, "b", priority=-1)])
        count = 0
        for _ in range(rounds):
            pick = Pick()
            assert selector.pick_into(pick, 1.0)
            if pick.node is first:
                count += 1
                held[worker] = 1
                assert sum(held[:]) <= limit
                held[worker] = 0
            pick.end(1)
        return count

    with crew(workers, work) as children:
        assert sum(child.join() for child in children) == narrow.picks
    assert narrow.picks + wide.picks == workers * rounds
    assert (narrow.in_flight, wide.in_flight) == (0, 0)


def test_ejection_by_one_worker_is_seen_by_the_next_pick_of_another() -> None:
    memory = table_memory(2)
    rounds = 200
    primary, backup = nodes_of(memory, 0, 2, "ab")
    selector = Selector([primary, backup])

    def other(child: Child) -> None:
        upstream = Upstream(nodes_of(memory, 1, 2, "ab"), HealthPolicy(ejection_jitter=0.0))
        for turn in range(rounds):
            child.wait_for_parent()
            now = 100.0 * turn + 1.0
            attempt = upstream.start_attempt(now)
            while attempt is not None and attempt.node.name != "a":
                attempt.ignored(now)
                attempt = upstream.start_attempt(now)
            assert attempt is not None
            attempt.failed(Report.TCP_FAILURE, now, at_once=True)
            child.send("ejected")

    child = Child(other)
    for turn in range(rounds):
        now = 100.0 * turn + 1.0
        child.go_on()
        assert child.receive() == "ejected"
        for _ in range(3):
            assert selector.pick(now) is backup
            backup.release(PickKind.NORMAL)
        assert not primary.is_usable()
        primary.heal(now)
    child.join()
    assert primary.generation == rounds


def test_workers_that_fail_together_eject_once() -> None:
    """The first outcome ejects; those that were under way with it find that it is old news."""
    workers, rounds = 3, 300
    memory = table_memory(workers)
    (node,) = nodes_of(memory, 0, workers, "a")

    def work(child: Child, worker: int) -> None:
        upstream = Upstream(nodes_of(memory, worker, workers, "a"), HealthPolicy(ejection_jitter=0.0))
        for turn in range(rounds):
            now = 1000.0 * (turn + 1)
            attempt = upstream.start_attempt(now)
            assert attempt is not None
            child.send("begun")
            child.wait_for_parent()
            attempt.failed(Report.TCP_FAILURE, now, at_once=True)
            child.send("ended")
            child.wait_for_parent()

    children = [Child(lambda child, worker=worker: work(child, worker)) for worker in range(workers)]
    for turn in range(rounds):
        now = 1000.0 * (turn + 1)
        for step in ("begun", "ended"):
            for child in children:
                assert child.receive() == step
            if step == "ended":
                assert node.generation == turn + 1
                assert node.ejected_until == now + 1.0  # the first term, not one that has grown
                node.heal(now + 2.0)
            for child in children:
                child.go_on()
    for child in children:
        child.join()


def test_no_record_is_handed_out_for_two_keys() -> None:
    """Workers make and drop nodes; whoever finds a record used finds the marks of its own key there."""
    workers, rounds, keys = 4, 4000, 6
    memory = table_memory(workers)

    def work(worker: int) -> int:
        random = Random(worker)
        table = NodeTable(CAPACITY, memory, worker=worker, workers=workers)
        nodes: list[Node | None] = [None] * keys
        for _ in range(rounds):
            key = random.randrange(keys)
            node = nodes[key] = Node("a", 1, table=table, key=f"{key}")
            assert node.dead_until in (0.0, 1000.0 + key)
            node.kill(1000.0 + key)
            nodes[random.randrange(keys)] = None
        return table.capacity

    with crew(workers, work) as children:
        assert [child.join() for child in children] == [CAPACITY] * workers
    assert len(NodeTable(CAPACITY, memory, workers=workers)) == 0


# --- Death ------------------------------------------------------------------------------------


def reap_a_worker(memory: mmap.mmap, table: NodeTable, own: list[Node], random: Random) -> None:
    """Kill worker 1 of 2 at any moment of its work while worker 0 works too; then look at what it left."""
    now = 2.0

    def work(child: Child) -> None:
        theirs = nodes_of(memory, 1, 2, "abc", max_in_flight=1000)
        upstream = Upstream(theirs, HealthPolicy(panic_in_flight=1000))
        child.send("working")
        held = []
        for turn in range(10**9):
            attempt = upstream.start_attempt(now)
            if attempt is not None:
                held.append(attempt)
            if len(held) > 5:
                attempt = held.pop(turn % 5)
                outcome = turn % 7
                if outcome == 0:
                    attempt.failed(Report.TCP_FAILURE, now, at_once=True)
                elif outcome == 1:
                    attempt.busy(0.0, now)
                elif outcome == 2:
                    attempt.ignored(now)
                else:
                    attempt.succeeded(now)
            if turn % 3 == 0:
                nodes_of(memory, 1, 2, "vwxyz"[turn % 4 :])
            theirs[turn % 3].heal(now)

    child = Child(work)
    assert child.receive() == "working"
    selector = Selector(own)
    held = []
    for _ in range(random.randrange(200)):
        pick = Pick()
        if selector.pick_into(pick, now):
            held.append(pick)
        if len(held) > 3:
            held.pop(0).end(1)
        own[0].report(Report.HTTP_FAILURE, 3)
        own[0].heal(now)
    child.kill()
    before = {node.name: node.in_flight for node in own}
    lost = table.recover(1)
    assert table.recover(1) == 0
    for node in own:
        mine = sum(pick.node is node for pick in held)
        assert node.in_flight == mine <= before[node.name]
        assert sum(node.outcomes) + mine == node.picks
        entered = node.enter()
        assert entered  # the lock is free
        node.leave(entered)
    assert 0 <= lost <= 8
    for pick in held:
        pick.end(1)
    for node in own:
        node.heal(now)
        node.absolve(FOREVER)
        assert node.is_available(now)
    assert len(table) == len(own)
    rest = [Node(str(number), 1, table=table, key=f"new {number}") for number in range(CAPACITY - len(own))]
    with pytest.raises(ValueError, match="full"):
        Node("more", 1, table=table, key="more")
    del rest


def test_what_a_killed_worker_held_is_free_again() -> None:
    random = Random(20240607)
    memory = table_memory(2)
    table = NodeTable(CAPACITY, memory, worker=0, workers=2)
    own = [
        Node(name, 443, name=name, table=table, key=f"up|{name}:443", max_in_flight=1000) for name in "abc"
    ]
    for _ in range(60):
        reap_a_worker(memory, table, own, random)


def test_trial_of_a_killed_worker_is_free_at_once() -> None:
    memory = table_memory(2)
    table = NodeTable(CAPACITY, memory, worker=0, workers=2)
    node = Node("a", 443, table=table, key="a")
    node.eject(1.0, Cause.PASSIVE)

    def work(child: Child) -> None:
        own = Node("a", 443, table=NodeTable(CAPACITY, memory, worker=1, workers=2), key="a")
        selector = Selector([own], trial_lease_s=FOREVER)
        assert selector.pick(2.0) is own
        child.send(selector.picked_kind)
        child.wait_for_parent()

    child = Child(work)
    assert child.receive() == PickKind.TRIAL
    assert not node.is_available(2.0)
    child.kill()
    assert not node.is_available(2.0)
    assert table.recover(1) == 1
    assert node.is_available(2.0)


def test_worker_that_holds_a_node_still_does_not_hold_up_the_others() -> None:
    memory = table_memory(2)
    table = NodeTable(CAPACITY, memory, worker=0, workers=2)
    node = Node("a", 443, table=table, key="a")

    def work(child: Child) -> None:
        own = Node("a", 443, table=NodeTable(CAPACITY, memory, worker=1, workers=2), key="a")
        child.send(own.enter())
        child.wait_for_parent()

    child = Child(work)
    assert child.receive() is True
    assert not node.enter()  # in vain, after a millisecond
    node.eject(5.0, Cause.PASSIVE)
    assert not node.is_usable()
    child.kill()
    table.recover(1)
    assert node.enter()
    node.leave(True)


def test_worker_that_comes_back_finds_its_nodes_as_they_were() -> None:
    memory = table_memory(1)
    supervisor = NodeTable(CAPACITY, memory)

    def first(child: Child) -> None:
        (node,) = nodes_of(memory, 0, 1, "a")
        assert Selector([node]).pick(1.0) is node
        node.kill(99.0)
        child.send("killed")
        child.wait_for_parent()

    child = Child(first)
    assert child.receive() == "killed"
    child.kill()
    assert supervisor.recover(0) == 1
    assert len(supervisor) == 0

    def second(_: Child) -> tuple[float, int, int, tuple[int, ...]]:
        (node,) = nodes_of(memory, 0, 1, "a")
        return node.dead_until, node.in_flight, node.picks, node.outcomes

    assert Child(second).join() == (99.0, 0, 1, (0, 0, 0, 0, 0, 0, 0, 1))


# --- Metrics ----------------------------------------------------------------------------------


def metrics_memory(workers: int, capacity: int = 256) -> mmap.mmap:
    return mmap.mmap(-1, Metrics.bytes_needed(capacity, workers))


def metrics_of(memory: mmap.mmap, worker: int, workers: int, capacity: int = 256) -> Metrics:
    return Metrics(capacity, memory, worker=worker, workers=workers)


def test_sums_over_workers_are_exact() -> None:
    workers, rounds = 4, 20_000
    memory = metrics_memory(workers)

    def work(worker: int) -> None:
        metrics = metrics_of(memory, worker, workers)
        count = metrics.register("requests", MetricKind.COUNTER, ("a",))
        seconds = metrics.register("seconds", MetricKind.HISTOGRAM, (), (0.5, 1.0))
        gauge = metrics.register("open", MetricKind.GAUGE)
        for turn in range(rounds):
            metrics.add(count)
            metrics.observe(seconds, (0.25, 1.0, 8.0)[turn % 3])
            metrics.add(gauge, 1)
            metrics.add(gauge, -1)
        metrics.set(gauge, worker)

    with crew(workers, work) as children:
        for child in children:
            child.join()
    third = rounds // 3
    counts = [workers * (third + 1), workers * (third + 1), workers * third]
    found = {name: value for name, _, _, value in metrics_of(memory, 0, workers).collect()}
    assert found == {
        "requests": workers * rounds,
        "seconds": (counts, counts[0] * 0.25 + counts[1] * 1.0 + counts[2] * 8.0),
        "open": 0 + 1 + 2 + 3,
    }


def test_workers_give_the_same_series_the_same_number() -> None:
    workers, series = 4, 1000
    memory = metrics_memory(workers, series)

    def work(worker: int) -> dict[int, int]:
        metrics = metrics_of(memory, worker, workers, series)
        order = list(range(series))
        Random(worker).shuffle(order)
        return {number: metrics.register("requests", MetricKind.COUNTER, (str(number),)) for number in order}

    with crew(workers, work) as children:
        numbers = [child.join() for child in children]
    assert all(found == numbers[0] for found in numbers)
    assert sorted(numbers[0].values()) == list(range(series))


def test_counts_of_a_killed_worker_stay_and_its_successor_goes_on_in_them() -> None:
    memory = metrics_memory(2)
    metrics = metrics_of(memory, 0, 2)
    open_now = metrics.register("open", MetricKind.GAUGE)
    metrics.set(open_now, 4)

    def work(child: Child) -> None:
        own = metrics_of(memory, 1, 2)
        count = own.register("requests", MetricKind.COUNTER)
        own.add(count, 100)
        own.observe(own.register("seconds", MetricKind.HISTOGRAM, (), (1.0,)), 0.5)
        own.set(own.register("open", MetricKind.GAUGE), 7)
        child.send("counted")
        child.wait_for_parent()

    def totals() -> dict[str, Any]:
        return {name: value for name, _, _, value in metrics.collect()}

    for life in (1, 2, 3):
        child = Child(work)
        assert child.receive() == "counted"
        assert totals() == {"open": 11, "requests": 100 * life, "seconds": ([life, 0], 0.5 * life)}
        child.kill()
        metrics.recover(1)
        assert totals() == {"open": 4, "requests": 100 * life, "seconds": ([life, 0], 0.5 * life)}


def test_registry_survives_workers_that_die_while_they_register() -> None:
    random = Random(77)
    capacity = 4096
    memory = metrics_memory(2, capacity)
    metrics = metrics_of(memory, 0, 2, capacity)

    def work(child: Child, life: int) -> None:
        own = metrics_of(memory, 1, 2, capacity)
        child.send("working")
        for number in range(10**9):
            own.add(own.register("requests", MetricKind.COUNTER, (f"{life}", f"{number % 100}")))

    for life in range(30):
        child = Child(lambda child, life=life: work(child, life))
        assert child.receive() == "working"
        for number in range(random.randrange(60)):
            slot = metrics.register("mine", MetricKind.COUNTER, (f"{number}",))
            metrics.add(slot)
        child.kill()
        metrics.recover(1)
        before = len(metrics)
        metrics.register("after", MetricKind.COUNTER, (f"{life}",))
        assert len(metrics) == before + 1
    keys = [(name, labels) for name, _, labels, _ in metrics.collect()]
    assert len(set(keys)) == len(keys) == len(metrics)
    assert [labels for name, labels in keys if name == "after"] == [(f"{life}",) for life in range(30)]
