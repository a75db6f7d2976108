"""Attempts and what their outcomes do. Time is a number that the test sets, jitter is off."""

import gc
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from fastgw._core import Cause, HealthState, Node, PickKind, Report, Tried
from fastgw.balancing.health import HealthPolicy, Thresholds
from fastgw.balancing.upstream import Attempt, AttemptOutcome, Upstream
from fastgw.errors import FailureKind

HTTP, TCP, TIMEOUT = FailureKind
NORMAL, TRIAL, PANIC = PickKind


def make(count: int = 2, **policy: object) -> Upstream:
    """Nodes a, b, c ... of falling priority: the first one is the primary."""
    nodes = [Node(name, 443, priority=-index, name=name) for index, name in enumerate("abcdefgh"[:count])]
    policy.setdefault("ejection_jitter", 0.0)
    return Upstream(nodes, HealthPolicy(**policy))  # type: ignore[arg-type]


def start(upstream: Upstream, now: float, tried: Tried | None = None) -> Attempt:
    attempt = upstream.start_attempt(now, tried)
    assert attempt is not None
    return attempt


def on(upstream: Upstream, now: float) -> str:
    """Which node a request that succeeds at once goes to."""
    attempt = start(upstream, now)
    attempt.succeeded(now)
    return attempt.node.name


def eject(upstream: Upstream, now: float) -> Node:
    attempt = start(upstream, now)
    attempt.failed(TCP, now, at_once=True)
    return attempt.node


# --- Making one -------------------------------------------------------------------------------


def test_retries_default_to_one_per_further_node() -> None:
    assert make(3).retries == 2
    assert make(1).retries == 0
    assert Upstream([]).retries == 0
    assert Upstream([Node("a", 1)], retries=5).retries == 5
    with pytest.raises(ValueError):
        Upstream([], retries=-1)
    with pytest.raises(ValueError):
        Upstream([], retry_timeout_s=-1.0)


def test_nodes_are_found_by_name_the_first_of_namesakes() -> None:
    nodes = [Node("a", 1), Node("b", 1), Node("a", 1)]
    upstream = Upstream(nodes)
    assert upstream.nodes == tuple(nodes)
    assert upstream.by_name == {"a:1": nodes[0], "b:1": nodes[1]}


def test_attempt_remembers_what_was_picked() -> None:
    upstream = make()
    tried = Tried()
    attempt = start(upstream, 7.0, tried)
    assert (attempt.node, attempt.position, attempt.kind) == (upstream.nodes[0], 0, NORMAL)
    assert (attempt.started_at, attempt.generation, attempt.outcome) == (7.0, 0, AttemptOutcome.PENDING)
    assert repr(attempt) == "<Attempt a normal pending started_at=7.000>"
    assert 0 in tried
    assert start(upstream, 7.0, tried).node.name == "b"
    assert upstream.start_attempt(7.0, tried) is None


def test_attempt_that_nobody_started_is_inert() -> None:
    attempt = Attempt()
    assert repr(attempt) == "<Attempt not begun>"
    assert not attempt.is_stale()
    for outcome in (attempt.succeeded, attempt.dead, attempt.forbidden, attempt.ignored, attempt.answered):
        assert not outcome(1.0)
    assert not attempt.failed(HTTP, 1.0)
    assert not attempt.busy(0.0, 1.0)


def test_one_attempt_has_one_outcome() -> None:
    upstream = make()
    node = upstream.nodes[0]
    attempt = start(upstream, 1.0)
    assert node.in_flight == 1
    assert attempt.ignored(1.0)
    for _ in range(9):
        assert not attempt.failed(TCP, 1.0, at_once=True)
        assert not attempt.dead(1.0)
        assert not attempt.busy(9.0, 1.0)
        assert not attempt.succeeded(1.0)
    assert (node.in_flight, node.is_available(1.0), attempt.outcome) == (0, True, AttemptOutcome.IGNORED)


def test_attempt_that_is_dropped_gives_its_places_back() -> None:
    upstream = make()
    eject(upstream, 1.0)
    attempt = start(upstream, 3.0)
    assert attempt.kind == TRIAL
    assert start(upstream, 3.0).node.name == "b"
    del attempt
    gc.collect()
    assert upstream.nodes[0].in_flight == 0
    assert upstream.nodes[0].outcomes[AttemptOutcome.ABANDONED] == 1
    assert start(upstream, 3.0).kind == TRIAL


def test_unknown_kind_of_failure_is_refused_and_the_attempt_goes_on() -> None:
    attempt = start(make(), 1.0)
    for kind in (0, 4):
        with pytest.raises(ValueError):
            attempt.failed(kind, 1.0)
    assert attempt.outcome == AttemptOutcome.PENDING
    assert attempt.failed(HTTP, 1.0)


def test_outcomes_are_counted_per_node() -> None:
    upstream = make(1, panic_pause_s=0.0)
    start(upstream, 1.0).succeeded(1.0)
    start(upstream, 1.0).failed(HTTP, 1.0)
    start(upstream, 1.0).forbidden(1.0)
    start(upstream, 1.0).busy(2.0, 1.0)
    start(upstream, 1.0).ignored(1.0)
    start(upstream, 3.0).dead(3.0)
    node = upstream.nodes[0]
    assert {AttemptOutcome(kind).name for kind, count in enumerate(node.outcomes) if count == 1} == {
        "SUCCEEDED",
        "BUSY",
        "FAILED",
        "DEAD",
        "FORBIDDEN",
        "IGNORED",
    }
    assert node.picks == 6


# --- Failing ----------------------------------------------------------------------------------


def test_limit_of_failures_without_a_success_between_ejects() -> None:
    upstream = make(passive=Thresholds(http_failures=3))
    for outcome in "ffsff":
        attempt = start(upstream, 1.0)
        attempt.failed(HTTP, 1.0) if outcome == "f" else attempt.succeeded(1.0)
        assert attempt.node.is_usable()
    start(upstream, 1.0).failed(HTTP, 1.0)
    assert upstream.nodes[0].state == HealthState.UNHEALTHY
    assert upstream.nodes[0].cause == Cause.PASSIVE
    assert on(upstream, 1.0) == "b"


def test_one_connection_that_cannot_be_made_ejects() -> None:
    upstream = make()
    eject(upstream, 1.0)
    assert upstream.nodes[0].ejected_until == 2.0
    gentle = make(eject_on_connect_failure=False)
    eject(gentle, 1.0)
    assert gentle.nodes[0].is_usable()


def test_rate_of_failures_ejects() -> None:
    upstream = make(passive=Thresholds(http_failures=0, tcp_failures=0, timeouts=0))
    for index in range(38):
        attempt = start(upstream, 1.0)
        attempt.failed(HTTP, 1.0) if index % 2 else attempt.succeeded(1.0)
    assert upstream.nodes[0].is_usable()  # half of them
    start(upstream, 1.0).failed(HTTP, 1.0)
    assert not upstream.nodes[0].is_usable()
    off = make(passive=Thresholds(0, 0, 0, 0), rate_percent=0)
    for _ in range(50):
        start(off, 1.0).failed(HTTP, 1.0)
    assert off.nodes[0].is_usable()


def test_no_passive_section_means_that_traffic_never_ejects() -> None:
    upstream = make(passive=None)
    for _ in range(50):
        eject(upstream, 1.0)
    assert upstream.nodes[0].state == HealthState.HEALTHY
    start(upstream, 1.0).busy(2.0, 1.0)
    start(upstream, 3.0).failed(HTTP, 3.0)  # its trial
    assert upstream.nodes[0].is_available(3.0)


def test_failed_trials_make_the_ejection_grow_up_to_its_maximum() -> None:
    upstream = make()
    now = 100.0
    node = eject(upstream, now)
    terms = [node.ejected_until - now]
    for _ in range(4):
        now = node.ejected_until
        assert on(upstream, now - 0.01) == "b"
        attempt = start(upstream, now)
        assert (attempt.node, attempt.kind) == (node, TRIAL)
        attempt.failed(TIMEOUT, now)
        terms.append(node.ejected_until - now)
    assert terms == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_jitter_stays_in_its_bounds_and_is_reproducible() -> None:
    def terms(seed: int) -> list[float]:
        upstream = Upstream([Node("a", 1)], random=Random(seed).random)
        found = []
        now = 0.0
        for _ in range(50):
            node = upstream.nodes[0]
            now = max(node.ejected_until, now + 1)
            attempt = start(upstream, now)
            attempt.failed(TCP, now, at_once=True)
            found.append(node.ejected_until - now)
        return found

    assert terms(1) == terms(1) != terms(2)
    assert 0.9 <= terms(1)[0] <= 1.1
    assert all(3.6 <= term <= 4.4 for term in terms(1)[2:])
    assert len(set(terms(1))) == 50


def test_failures_of_a_caller_or_of_nobody_do_not_count() -> None:
    upstream = make()
    for _ in range(50):
        start(upstream, 1.0).ignored(1.0)
        start(upstream, 1.0).succeeded(1.0)
    assert upstream.nodes[0].state == HealthState.HEALTHY
    assert upstream.nodes[0].failure_ratio(1.0) == (50, 0)


# --- Coming back ------------------------------------------------------------------------------


def test_one_passed_trial_brings_the_node_back() -> None:
    upstream = make()
    node = eject(upstream, 1.0)
    trial = start(upstream, 2.0)
    assert start(upstream, 2.0).node.name == "b"
    trial.succeeded(2.5)
    assert node.state == HealthState.HEALTHY
    assert (node.ejected_until, node.cause) == (0.0, Cause.NONE)
    assert [on(upstream, 2.5) for _ in range(3)] == ["a", "a", "a"]


def test_several_successes_are_several_trials_without_waiting() -> None:
    upstream = make(passive=Thresholds(successes=3))
    node = eject(upstream, 1.0)
    for number in range(3):
        assert not node.is_usable()
        trial = start(upstream, 2.0)
        assert (trial.node, trial.kind) == (node, TRIAL)
        assert start(upstream, 2.0).node.name == "b"
        assert trial.succeeded(2.0), number
    assert node.is_usable()


def test_trial_between_successes_that_fails_starts_over() -> None:
    upstream = make(passive=Thresholds(successes=2))
    node = eject(upstream, 1.0)
    start(upstream, 2.0).succeeded(2.0)
    assert node.state == HealthState.MOSTLY_UNHEALTHY
    start(upstream, 2.0).failed(HTTP, 2.0)
    assert (node.counters["success"], node.ejected_until) == (0, 4.0)
    start(upstream, 4.0).succeeded(4.0)
    assert not node.is_usable()
    start(upstream, 4.0).succeeded(4.0)
    assert node.is_usable()


def test_trial_heals_even_where_successes_are_not_counted() -> None:
    upstream = make(passive=Thresholds(successes=0))
    eject(upstream, 1.0)
    start(upstream, 2.0).succeeded(2.0)
    assert upstream.nodes[0].is_usable()


def test_trial_that_nobody_is_to_blame_for_is_given_to_the_next_request() -> None:
    upstream = make()
    eject(upstream, 1.0)
    start(upstream, 2.0).ignored(2.0)
    assert start(upstream, 2.0).kind == TRIAL


def test_first_content_passes_the_trial_of_a_long_answer() -> None:
    upstream = make()
    node = eject(upstream, 1.0)
    trial = start(upstream, 2.0)
    assert trial.answered(2.2)
    assert not trial.answered(2.3)
    assert node.is_usable()
    assert node.in_flight == 1
    assert on(upstream, 2.2) == "a"
    before = node.failure_ratio(2.2)
    assert trial.succeeded(60.0)
    assert node.in_flight == 0
    assert node.failure_ratio(2.2) == before  # not counted twice


def test_answer_that_is_cut_after_its_beginning_counts_as_an_ordinary_failure() -> None:
    upstream = make(passive=Thresholds(tcp_failures=2))
    node = eject(upstream, 1.0)
    trial = start(upstream, 2.0)
    trial.answered(2.0)
    trial.failed(TCP, 9.0)
    assert node.state == HealthState.MOSTLY_HEALTHY
    assert node.ejected_until == 0.0


def test_hung_trials_do_not_keep_a_recovered_node_out() -> None:
    """The fault ends at 11.0; trials from before hang for 30 s and then fail."""
    upstream = make()
    node = eject(upstream, 1.0)
    hung = [start(upstream, now) for now in (2.0, 6.0, 10.0)]
    assert [attempt.kind for attempt in hung] == [TRIAL] * 3
    assert on(upstream, 13.9) == "b"
    assert on(upstream, 14.0) == "a"
    assert node.is_usable()
    for attempt in hung:
        attempt.failed(TIMEOUT, 40.0)
    assert node.state == HealthState.HEALTHY
    assert on(upstream, 40.0) == "a"


def test_hung_trials_that_fail_one_after_the_other_extend_the_ejection_once() -> None:
    upstream = make(ejection_s=4.0)
    node = eject(upstream, 1.0)
    hung = [start(upstream, now) for now in (5.0, 9.0)]
    hung[0].failed(TIMEOUT, 35.0)
    assert node.ejected_until == 39.0
    hung[1].failed(TIMEOUT, 38.9)
    assert node.ejected_until == 39.0
    assert on(upstream, 39.0) == "a"


@pytest.mark.parametrize("successes", [1, 2])
@pytest.mark.parametrize("probed", [False, True])
def test_recovered_primary_is_back_within_five_seconds(successes: int, probed: bool) -> None:
    """Whatever has happened before the fault ended, with ten requests each second."""
    active = Thresholds(2, 5, 2, 3) if probed else None
    for seed in range(20):
        random = Random(seed)
        nodes = [Node("a", 1, name="a"), Node("b", 1, priority=-1, name="b")]
        policy = HealthPolicy(passive=Thresholds(successes=successes), active=active)
        upstream = Upstream(nodes, policy, random=random.random)
        end = 60.0 + random.random() * 10
        step = 0
        back: float | None = None
        waiting: list[Attempt] = []
        while back is None:
            now = 50.0 + step / 10
            step += 1
            assert now < end + 5.0, f"seed {seed}"
            if probed and step % 10 == 0:
                upstream.record_probe(nodes[0], Report.SUCCESS if now >= end else Report.TCP_FAILURE, now)
            attempt = start(upstream, now)
            if attempt.node is nodes[1] or now >= end:
                attempt.succeeded(now)
            elif random.random() < 0.2:
                waiting.append(attempt)  # a hung request: its outcome comes late
            else:
                attempt.failed(random.choice(list(FailureKind)), now, at_once=random.random() < 0.5)
            for late in [late for late in waiting if random.random() < 0.02]:
                waiting.remove(late)
                late.failed(TIMEOUT, now)
            if now >= end and nodes[0].is_usable():
                back = now
        assert on(upstream, back) == "a"


# --- Late news --------------------------------------------------------------------------------


def test_outcomes_from_before_an_ejection_change_nothing_and_give_their_places_back() -> None:
    upstream = make()
    before = [start(upstream, 1.0) for _ in range(4)]
    node = eject(upstream, 1.0)
    assert all(attempt.is_stale() for attempt in before)
    seen = (node.state, node.ejected_until, node.counters)
    before[0].failed(TCP, 1.5, at_once=True)
    before[1].succeeded(1.5)
    assert (node.state, node.ejected_until, node.counters) == seen
    start(upstream, 2.0).succeeded(2.0)
    before[2].failed(TCP, 2.0, at_once=True)  # it is back: still late
    assert node.state == HealthState.HEALTHY
    before[3].ignored(2.0)
    assert node.in_flight == 0


def test_attempt_on_a_node_that_heals_is_not_stale() -> None:
    upstream = make(1)
    eject(upstream, 1.0)
    waiting = start(upstream, 1.0)
    assert waiting.kind == PANIC
    start(upstream, 1.1).succeeded(1.1)
    assert upstream.nodes[0].is_usable()
    assert not waiting.is_stale()


def test_cooling_does_not_make_waiting_attempts_stale() -> None:
    upstream = make()
    waiting = start(upstream, 1.0)
    start(upstream, 1.0).busy(9.0, 1.0)
    start(upstream, 1.0).ignored(1.0)
    assert not waiting.is_stale()
    waiting.succeeded(2.0)
    assert upstream.nodes[0].cooling_until == 9.0


def test_requests_refused_together_count_as_one_refusal() -> None:
    upstream = make()
    together = [start(upstream, 1.0) for _ in range(30)]
    for attempt in together[:10]:
        attempt.busy(0.0, 1.0)
    assert upstream.nodes[0].cooling_until == 2.0
    for attempt in together[10:20]:
        attempt.dead(1.0)
    assert upstream.nodes[0].dead_until == 61.0
    for attempt in together[20:]:
        attempt.forbidden(1.0)
    assert upstream.nodes[0].dead_until == 61.0


# --- Busy -------------------------------------------------------------------------------------


def test_node_that_asks_for_rest_gets_it_and_is_not_sick() -> None:
    upstream = make()
    node = upstream.nodes[0]
    start(upstream, 1.0).busy(31.0, 1.0)
    assert node.state == HealthState.HEALTHY
    assert node.failure_ratio(1.0) == (0, 0)
    assert on(upstream, 30.9) == "b"
    trial = start(upstream, 31.0)
    assert (trial.node, trial.kind) == (node, TRIAL)
    assert on(upstream, 31.0) == "b"
    trial.succeeded(31.0)
    assert node.cooling_until == 0.0
    assert on(upstream, 31.0) == "a"


def test_longest_rest_is_bounded() -> None:
    upstream = make(cooling_max_s=600.0)
    start(upstream, 1.0).busy(1e12, 1.0)
    assert upstream.nodes[0].cooling_until == 601.0


def test_rest_without_a_time_grows_until_a_success() -> None:
    upstream = make()
    node = upstream.nodes[0]
    now, terms = 1.0, []
    for _ in range(7):
        start(upstream, now).busy(0.0, now)
        terms.append(node.cooling_until - now)
        now = node.cooling_until
    assert terms == [1, 2, 4, 8, 16, 30, 30]
    assert on(upstream, now) == "a"
    start(upstream, now).busy(now - 5, now)  # a time that is past names none
    assert node.cooling_until == now + 1


def test_rest_too_short_is_believed_once() -> None:
    upstream = make()
    node = upstream.nodes[0]
    ends = []
    now = 1.0
    for _ in range(3):
        start(upstream, now).busy(now + 0.01, now)
        ends.append(round(node.cooling_until - now, 3))
        now = node.cooling_until
    assert ends == [0.01, 1.0, 1.0]
    start(upstream, now).succeeded(now)
    start(upstream, now).busy(now + 0.01, now)
    assert node.cooling_until == now + 0.01


def test_overload_without_a_time_does_not_grow() -> None:
    upstream = make()
    node = upstream.nodes[0]
    now = 1.0
    for _ in range(3):
        start(upstream, now).busy(0.0, now, overload=True)
        assert node.cooling_until - now == 4.0
        now = node.cooling_until


def test_failed_trial_of_a_cooled_node_ejects_it() -> None:
    upstream = make()
    node = upstream.nodes[0]
    start(upstream, 1.0).busy(5.0, 1.0)
    start(upstream, 5.0).failed(HTTP, 5.0)
    assert (node.is_usable(), node.ejected_until) == (False, 6.0)
    start(upstream, 6.0).succeeded(6.0)
    assert node.is_usable()
    assert on(upstream, 6.0) == "a"


def test_ejected_node_may_ask_for_rest_in_its_trial() -> None:
    upstream = make()
    node = eject(upstream, 1.0)
    start(upstream, 2.0).busy(10.0, 2.0)
    assert on(upstream, 9.9) == "b"
    start(upstream, 10.0).succeeded(10.0)
    assert (node.is_usable(), node.cooling_until) == (True, 0.0)


# --- Dead -------------------------------------------------------------------------------------


def test_refused_key_is_tried_again_after_a_growing_time() -> None:
    upstream = make()
    node = upstream.nodes[0]
    now, terms = 0.0, []
    for _ in range(6):
        start(upstream, now).dead(now)
        terms.append(node.dead_until - now)
        assert on(upstream, node.dead_until - 0.1) == "b"
        now = node.dead_until
    assert terms == [60, 120, 240, 480, 600, 600]
    assert on(upstream, now) == "a"  # the trial
    assert node.dead_until == 0.0
    start(upstream, now).dead(now)
    assert node.dead_until == now + 60


def test_dead_node_is_not_used_although_all_are_out() -> None:
    upstream = make(1)
    start(upstream, 1.0).dead(1.0)
    assert upstream.start_attempt(2.0) is None
    assert upstream.next_recovery(2.0) == 61.0


def test_single_403_is_forgiven_and_two_in_a_row_are_not() -> None:
    upstream = make()
    node = upstream.nodes[0]
    start(upstream, 1.0).forbidden(1.0)
    start(upstream, 1.0).succeeded(1.0)
    start(upstream, 1.0).forbidden(1.0)
    assert node.is_available(1.0)
    start(upstream, 1.0).forbidden(1.0)
    assert node.dead_until == 61.0


def test_late_success_does_not_revive_a_dead_node() -> None:
    upstream = make()
    old = start(upstream, 1.0)
    start(upstream, 1.0).dead(1.0)
    old.succeeded(99.0)  # its time is over, but this request says nothing about that
    assert upstream.nodes[0].dead_until == 61.0


# --- All out ----------------------------------------------------------------------------------


def test_success_in_panic_heals_like_a_trial() -> None:
    upstream = make(1)
    node = eject(upstream, 1.0)
    attempt = start(upstream, 1.1)
    assert attempt.kind == PANIC
    attempt.succeeded(1.2)
    assert node.state == HealthState.HEALTHY


def test_failure_in_panic_makes_a_pause_and_nothing_longer() -> None:
    upstream = make(1)
    node = eject(upstream, 1.0)
    panics = [start(upstream, 1.1) for _ in range(8)]
    assert upstream.start_attempt(1.1) is None
    for attempt in panics:
        attempt.failed(TCP, 1.2, at_once=True)
    assert node.ejected_until == 2.0
    assert upstream.start_attempt(1.202) is None
    assert start(upstream, 1.21).kind == PANIC
    assert start(upstream, 2.0).kind == TRIAL


def test_rest_asked_for_in_panic_makes_a_pause() -> None:
    upstream = make(1)
    start(upstream, 1.0).busy(30.0, 1.0)
    start(upstream, 1.0).busy(40.0, 1.0)
    assert upstream.start_attempt(1.59) is None
    assert start(upstream, 1.6).kind == PANIC
    assert upstream.next_recovery(1.6) == 40.0


def test_a_node_that_is_overloaded_every_other_time_answers_in_panic_nearly_every_other_request() -> None:
    upstream = make(1)
    start(upstream, 1.0).busy(0.0, 1.0, overload=True)
    answered = 0
    for at in range(200):  # 100 requests a second
        attempt = upstream.start_attempt(1.01 + at / 100)
        if attempt is not None and at % 2:
            attempt.succeeded(1.012 + at / 100)
            answered += 1
        elif attempt is not None:
            attempt.busy(0.0, 1.012 + at / 100, overload=True)
    assert answered > 90


def test_a_node_that_is_always_overloaded_is_asked_less_than_twice_a_second_in_panic() -> None:
    upstream = make(1)
    start(upstream, 1.0).busy(60.0, 1.0, overload=True)
    asked = 0
    for at in range(2000):
        attempt = upstream.start_attempt(1.01 + at / 100)
        if attempt is not None:
            attempt.busy(60.0, 1.012 + at / 100, overload=True)
            asked += 1
    assert 20 < asked < 45


def test_panic_before_the_end_of_a_rest_does_not_end_it() -> None:
    upstream = make(1)
    start(upstream, 1.0).busy(30.0, 1.0)
    start(upstream, 2.0).succeeded(2.0)
    assert upstream.nodes[0].cooling_until == 30.0


def test_request_that_failed_on_the_last_node_standing_tries_one_that_is_out() -> None:
    upstream = make()
    eject(upstream, 1.0)
    tried = Tried()
    start(upstream, 1.0, tried).failed(HTTP, 1.0)
    attempt = start(upstream, 1.0, tried)
    assert (attempt.node.name, attempt.kind) == ("a", PANIC)


# --- Probes -----------------------------------------------------------------------------------


def probed(**policy: object) -> Upstream:
    policy.setdefault("active", Thresholds(successes=2, http_failures=3, tcp_failures=2, timeouts=2))
    return make(**policy)


def test_probes_change_nothing_without_an_active_section() -> None:
    upstream = make()
    for _ in range(9):
        assert not upstream.record_probe(upstream.nodes[0], Report.TCP_FAILURE, 1.0)
    assert upstream.nodes[0].state == HealthState.HEALTHY


def test_probes_find_a_node_out_and_bring_it_back() -> None:
    upstream = probed()
    node = upstream.nodes[0]
    waiting = start(upstream, 1.0)
    assert not upstream.record_probe(node, Report.TIMEOUT, 1.0)
    assert upstream.record_probe(node, Report.TIMEOUT, 2.0)
    assert (node.cause, node.is_out_by_probes()) == (Cause.ACTIVE, True)
    assert waiting.is_stale()
    assert on(upstream, 3.0) == "b"
    assert not upstream.record_probe(node, Report.SUCCESS, 4.0)
    assert upstream.record_probe(node, Report.SUCCESS, 5.0)
    assert on(upstream, 5.0) == "a"


def test_a_node_with_thresholds_of_its_own_is_probed_against_them() -> None:
    upstream = probed()
    node = upstream.nodes[0]
    own = Thresholds(successes=1, http_failures=1, tcp_failures=3, timeouts=1)
    assert not upstream.record_probe(node, Report.TCP_FAILURE, 1.0, own)
    assert not upstream.record_probe(node, Report.TCP_FAILURE, 2.0, own)
    assert upstream.record_probe(node, Report.TCP_FAILURE, 3.0, own)
    assert upstream.record_probe(node, Report.SUCCESS, 4.0, own)


def test_success_in_panic_does_not_overrule_the_probes() -> None:
    upstream = probed(count=1)
    node = upstream.nodes[0]
    for _ in range(2):
        upstream.record_probe(node, Report.TCP_FAILURE, 1.0)
    attempt = start(upstream, 1.0)
    assert attempt.kind == PANIC
    attempt.succeeded(1.0)
    assert (node.state, node.counters["success"]) == (HealthState.UNHEALTHY, 0)


def test_probes_that_have_fallen_silent_leave_the_decision_to_traffic() -> None:
    upstream = probed(probe_hold_s=10.0)
    node = upstream.nodes[0]
    for _ in range(2):
        upstream.record_probe(node, Report.TCP_FAILURE, 1.0)
    assert on(upstream, 10.9) == "b"
    trial = start(upstream, 11.0)
    assert trial.kind == TRIAL
    trial.succeeded(11.0)
    assert node.is_usable()


def test_good_probes_do_not_end_an_ejection_by_traffic() -> None:
    upstream = probed()
    node = eject(upstream, 1.0)
    for second in range(2, 9):
        assert not upstream.record_probe(node, Report.SUCCESS, float(second))
    assert (node.state, node.counters["success"]) == (HealthState.UNHEALTHY, 0)
    start(upstream, 9.0).failed(HTTP, 9.0)
    assert node.ejected_until == 11.0
    start(upstream, 11.0).succeeded(11.0)
    assert node.is_usable()


def test_bad_probe_holds_the_trial_back_and_a_good_one_lets_it_go() -> None:
    upstream = probed()
    node = eject(upstream, 1.0)
    assert not upstream.record_probe(node, Report.TCP_FAILURE, 1.5)
    assert node.probe_failing
    assert node.cause == Cause.PASSIVE
    assert on(upstream, 9.0) == "b"
    upstream.record_probe(node, Report.SUCCESS, 9.5)
    assert not node.probe_failing
    assert start(upstream, 9.5).kind == TRIAL


def test_good_probes_do_not_wipe_away_what_traffic_has_counted() -> None:
    """A provider whose front page answers while its API is down, at one request a second."""
    upstream = probed(passive=Thresholds(timeouts=3))
    node = upstream.nodes[0]
    for second in range(3):
        assert node.is_usable()
        start(upstream, float(second + 1)).failed(TIMEOUT, float(second + 1))
        upstream.record_probe(node, Report.SUCCESS, second + 1.5)
    assert not node.is_usable()


def test_good_probes_clear_what_probes_have_counted() -> None:
    upstream = probed()
    node = upstream.nodes[0]
    for second in range(9):
        upstream.record_probe(node, Report.TCP_FAILURE, float(second))
        upstream.record_probe(node, Report.SUCCESS, second + 0.5)
    assert node.is_usable()
    start(upstream, 10.0).failed(HTTP, 10.0)
    start(upstream, 10.0).succeeded(10.0)
    upstream.record_probe(node, Report.TCP_FAILURE, 11.0)
    upstream.record_probe(node, Report.SUCCESS, 12.0)
    assert node.counters["tcp_failure"] == 0


def test_old_failures_of_traffic_do_not_bind_the_probes_for_ever() -> None:
    upstream = probed()
    node = upstream.nodes[0]
    start(upstream, 10.0).failed(HTTP, 10.0)
    upstream.record_probe(node, Report.SUCCESS, 609.0)
    assert node.state == HealthState.MOSTLY_HEALTHY
    for _ in range(2):
        upstream.record_probe(node, Report.SUCCESS, 611.0)
    assert node.state == HealthState.HEALTHY


# --- APISIX's rules ---------------------------------------------------------------------------


def apisix(count: int = 2) -> Upstream:
    nodes = [Node(name, 443, priority=-index, name=name) for index, name in enumerate("abc"[:count])]
    return Upstream(nodes, HealthPolicy.apisix(Thresholds(2, 3, 2, 7), Thresholds(2, 5, 2, 3)))


def test_apisix_node_stays_out_until_reports_heal_it() -> None:
    upstream = apisix()
    node = upstream.nodes[0]
    for _ in range(2):
        start(upstream, 1.0).failed(TCP, 1.0, at_once=True)
    assert not node.is_usable()
    assert on(upstream, 9999.0) == "b"
    assert not upstream.record_probe(node, Report.SUCCESS, 2.0)
    assert node.state == HealthState.MOSTLY_UNHEALTHY
    assert upstream.record_probe(node, Report.SUCCESS, 3.0)
    assert on(upstream, 3.0) == "a"


def test_apisix_probe_zeroes_what_traffic_has_counted() -> None:
    upstream = apisix()
    node = upstream.nodes[0]
    for second in range(20):
        start(upstream, float(second)).failed(HTTP, float(second))
        start(upstream, float(second)).failed(HTTP, float(second))
        upstream.record_probe(node, Report.SUCCESS, float(second))
    assert node.is_usable()


def test_apisix_counts_outcomes_however_late_they_are() -> None:
    upstream = apisix()
    node = upstream.nodes[0]
    late = [start(upstream, 1.0) for _ in range(2)]
    for _ in range(2):
        start(upstream, 1.0).failed(TCP, 1.0)
    assert not late[0].is_stale()
    for attempt in late:
        attempt.succeeded(2.0)
    assert node.state == HealthState.HEALTHY


def test_apisix_uses_all_nodes_by_priority_when_none_is_usable_and_one_heals_by_success() -> None:
    upstream = apisix()
    for node in upstream.nodes:
        for _ in range(2):
            node.report(Report.TCP_FAILURE, 2)
    attempt = start(upstream, 1.0)
    assert (attempt.node.name, attempt.kind) == ("a", PANIC)
    tried = Tried()
    assert [start(upstream, 1.0, tried).node.name for _ in range(2)] == ["a", "b"]
    attempt.succeeded(1.0)
    assert upstream.nodes[0].state == HealthState.MOSTLY_UNHEALTHY
    start(upstream, 1.0).succeeded(1.0)
    assert upstream.nodes[0].state == HealthState.HEALTHY
    assert upstream.start_attempt(1.0, tried) is None


def test_apisix_single_node_is_always_used() -> None:
    upstream = apisix(1)
    for _ in range(30):
        start(upstream, 1.0).failed(TCP, 1.0, at_once=True)
    assert upstream.nodes[0].state == HealthState.UNHEALTHY
    assert upstream.start_attempt(1.0) is not None


# --- Company ----------------------------------------------------------------------------------


def test_threads_lose_no_attempt() -> None:
    nodes = [Node(name, 443, weight) for weight, name in enumerate("abc", 1)]
    upstream = Upstream(nodes)

    def work(number: int) -> None:
        for index in range(2000):
            attempt = start(upstream, 1.0)
            attempt.succeeded(1.0) if (index + number) % 2 else attempt.ignored(1.0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sum(node.picks for node in nodes) == 8000
    assert [node.in_flight for node in nodes] == [0, 0, 0]
    assert sum(node.outcomes[AttemptOutcome.SUCCEEDED] for node in nodes) == 4000


def test_upstreams_that_share_a_node_share_what_is_known_of_it() -> None:
    node, spare = Node("a", 1), Node("b", 1, priority=-1)
    one, other = Upstream([node]), Upstream([spare, node])
    eject(one, 1.0)
    assert on(other, 1.0) == "b:1"
    start(one, 2.0).succeeded(2.0)
    assert on(other, 2.0) == "a:1"


# --- Credentials ------------------------------------------------------------------------------


def test_a_refused_key_is_dead_until_it_is_accepted() -> None:
    upstream = make(2)
    node = upstream.nodes[0]
    until = upstream.refuse_key(node, 10.0)
    assert until == node.dead_until == 70.0
    assert on(upstream, 11.0) == "b"
    assert upstream.refuse_key(node, 12.0) == 0.0, "it is known"
    assert upstream.accept_key(node, until, 20.0)
    assert not node.is_dead() and on(upstream, 20.0) == "a"
    assert not upstream.accept_key(node, until, 21.0)


def test_an_accepted_key_lets_a_trial_decide_over_what_live_traffic_found() -> None:
    upstream = make(2)
    node = upstream.nodes[0]
    until = upstream.refuse_key(node, 10.0)
    node.kill(100.0)  # by somebody else, and for longer
    assert upstream.accept_key(node, until, 20.0)
    assert node.is_dead() and node.is_available(20.0)
    assert start(upstream, 20.0).kind == TRIAL
    assert not upstream.accept_key(node, until, 21.0), "the trial is due already"
