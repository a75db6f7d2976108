"""What is known of single models on single nodes. Time is a number that the test sets, jitter is off."""

import pytest

from fastgw._core import Node, PickKind, Tried
from fastgw.balancing.health import HealthPolicy
from fastgw.balancing.models import CAPACITY, MAX_NAME, ModelTable
from fastgw.balancing.upstream import Attempt, AttemptOutcome, Upstream
from fastgw.errors import FailureKind

CHAT = b"/chat/completions"
EMBEDDINGS = b"/embeddings"
TRIAL = PickKind.TRIAL


def make(count: int = 2) -> Upstream:
    """Nodes a, b, c ... of falling priority: the first one is the primary."""
    nodes = [Node(name, 443, priority=-index, name=name) for index, name in enumerate("abcdefgh"[:count])]
    return Upstream(nodes, HealthPolicy(ejection_jitter=0.0))


def start(
    upstream: Upstream, now: float, model: str = "m", endpoint: bytes = CHAT, insists: bool = True
) -> Attempt | None:
    models = (model,) * len(upstream.nodes)
    return upstream.start_for(now, Tried(), models, (endpoint,), insists)


def on(upstream: Upstream, now: float, model: str = "m", endpoint: bytes = CHAT) -> str:
    """Which node a request for a model goes to, and is answered by."""
    attempt = start(upstream, now, model, endpoint)
    assert attempt is not None
    attempt.succeeded(now)
    upstream.models.passed(attempt.position, model, (endpoint,), attempt.started_at, now)
    return attempt.node.name


def limit(upstream: Upstream, now: float, model: str = "m", until: float = 0.0) -> Attempt:
    attempt = start(upstream, now, model)
    assert attempt is not None
    assert attempt.busy_for(model, until, now)
    assert not attempt.busy_for(model, until, now), "it has ended"
    return attempt


def misfit(upstream: Upstream, now: float, model: str = "m", endpoint: bytes = CHAT) -> Attempt:
    attempt = start(upstream, now, model, endpoint)
    assert attempt is not None
    assert attempt.misfit(model, endpoint, "unknown_model", now)
    assert not attempt.misfit(model, endpoint, "unknown_model", now)
    return attempt


def terms(how: object, count: int) -> list[float]:
    """Ends of the terms of a primary whose every trial is refused, from its beginning."""
    upstream = make()
    now = 100.0
    found = []
    for _ in range(count):
        attempt = how(upstream, now)  # type: ignore[operator]
        assert attempt.node.name == "a"
        [rest] = upstream.models.resting(0, now)
        found.append(rest.until - now)
        now = rest.until
    return found


# --- Rate limits ------------------------------------------------------------------------------


def test_a_limited_model_rests_and_another_one_is_served() -> None:
    upstream = make()
    attempt = limit(upstream, 100.0)
    assert attempt.outcome == AttemptOutcome.BUSY
    assert upstream.nodes[0].is_available(100.0) and not upstream.nodes[0].is_cooling()
    assert on(upstream, 100.5) == "b"
    assert on(upstream, 100.5, "other") == "a"
    assert upstream.start_attempt(100.5).node.name == "a"  # type: ignore[union-attr]


def test_terms_of_a_limit_grow_up_to_their_longest() -> None:
    assert terms(limit, 7) == [1, 2, 4, 8, 16, 30, 30]


def test_after_its_term_one_request_tries_the_model_and_its_success_is_the_end() -> None:
    upstream = make()
    limit(upstream, 100.0)
    trial = start(upstream, 101.0)
    assert trial is not None and trial.node.name == "a"
    assert on(upstream, 101.0) == "b", "one at a time"
    trial.succeeded(101.5)
    upstream.models.passed(0, "m", (CHAT,), trial.started_at, 101.5)
    assert upstream.models.count == 0
    assert on(upstream, 101.5) == "a"


def test_a_trial_of_which_nothing_is_heard_keeps_the_next_one_back_for_its_lease_only() -> None:
    upstream = make()
    limit(upstream, 100.0)
    trial = start(upstream, 101.0)
    assert trial is not None
    trial.ignored(101.5)
    assert on(upstream, 104.9) == "b"
    assert on(upstream, 105.0) == "a"


def test_a_time_the_node_names_is_kept_to_its_bound_and_never_shortened() -> None:
    upstream = make()
    first, second = start(upstream, 100.0), start(upstream, 100.0)
    assert first is not None and second is not None
    first.busy_for("m", 150.0, 100.0)
    second.busy_for("m", 110.0, 100.1)
    assert [rest.until for rest in upstream.models.resting(0, 100.1)] == [150.0]
    limit(upstream, 150.0, until=1e6)
    assert [rest.until for rest in upstream.models.resting(0, 150.0)] == [750.0]


def test_a_time_too_short_is_believed_once() -> None:
    upstream = make()
    ends = []
    now = 100.0
    for _ in range(3):
        limit(upstream, now, until=now + 0.01)
        [rest] = upstream.models.resting(0, now)
        ends.append(round(rest.until - now, 3))
        now = rest.until
    assert ends == [0.01, 1.0, 1.0]


def test_models_refused_together_are_refused_once() -> None:
    upstream = make()
    attempts = [start(upstream, 100.0) for _ in range(5)]
    for attempt in attempts:
        assert attempt is not None
        attempt.busy_for("m", 0.0, 100.2)
    assert [rest.until for rest in upstream.models.resting(0, 100.2)] == [101.2]


def test_a_success_from_before_does_not_end_a_term() -> None:
    upstream = make()
    early = start(upstream, 100.0)
    assert early is not None
    limit(upstream, 100.1, until=200.0)
    early.succeeded(100.2)
    upstream.models.passed(0, "m", (CHAT,), early.started_at, 100.2)
    assert on(upstream, 101.0) == "b"


def test_a_second_limited_model_makes_the_node_rest() -> None:
    upstream = make()
    limit(upstream, 100.0, "one", until=120.0)
    limit(upstream, 100.1, "two", until=110.0)
    node = upstream.nodes[0]
    assert (node.cooling_until, node.outcomes[AttemptOutcome.BUSY]) == (110.0, 2)
    assert on(upstream, 100.2, "three") == "b"
    # ... but not one that is limited after the term of the first.
    upstream = make()
    limit(upstream, 100.0, "one", until=101.0)
    limit(upstream, 102.0, "two", until=120.0)
    assert upstream.nodes[0].cooling_until == 0.0


def test_a_limit_is_not_tried_against_although_no_other_node_is_left() -> None:
    upstream = make()
    limit(upstream, 100.0, until=130.0)
    assert limit(upstream, 100.1, until=120.0).node.name == "b"
    assert start(upstream, 101.0) is None
    assert upstream.is_limited(101.0, ("m", "m"), (CHAT,))
    assert not upstream.is_limited(101.0, ("x", "x"), (CHAT,))
    assert upstream.next_recovery_for(101.0, ("m", "m"), (CHAT,)) == 120.0
    assert upstream.next_recovery_for(101.0, ("x", "m"), (CHAT,)) == 101.0
    assert on(upstream, 120.0) == "b"


def test_a_limit_told_in_a_panic_makes_a_pause() -> None:
    upstream = make(1)
    first = upstream.start_attempt(100.0)
    assert first is not None
    first.failed(FailureKind.TCP, 100.0, at_once=True)
    limit(upstream, 100.1)
    assert upstream.start_attempt(100.2) is None
    assert upstream.start_attempt(100.7) is not None


# --- Models that are not there ----------------------------------------------------------------


def test_an_unknown_model_is_not_asked_for_again() -> None:
    upstream = make()
    assert misfit(upstream, 100.0).outcome == AttemptOutcome.IGNORED
    assert on(upstream, 159.0) == "b"
    assert on(upstream, 159.0, "other") == "a"
    assert on(upstream, 159.0, endpoint=EMBEDDINGS) == "a", "known by the endpoint, too"
    assert on(upstream, 160.0) == "a"
    assert upstream.models.count == 0


def test_terms_of_an_unknown_model_grow_up_to_their_longest() -> None:
    assert terms(misfit, 6) == [60, 120, 240, 480, 600, 600]


def test_a_model_nobody_has_is_asked_for_all_the_same_soonest_first() -> None:
    upstream = make(3)
    tried = Tried()
    models = ("m", "m", "m")
    for now, name in ((100.0, "a"), (90.0, "b"), (110.0, "c")):
        upstream.models.misfit("abc".index(name), "m", CHAT, "unknown_model", now, now)
    seen = []
    while attempt := upstream.start_for(120.0, tried.copy(), models, (CHAT,), True):
        seen.append(attempt.node.name)
        attempt.misfit("m", CHAT, "unknown_model", 120.0)
        tried.add(attempt.position)
    assert seen == ["b", "a", "c"]
    assert start(upstream, 121.0, insists=False) is None


def test_a_model_that_takes_no_pictures_is_asked_for_text() -> None:
    upstream = make()
    attempt = start(upstream, 100.0)
    assert attempt is not None and attempt.misfit("m", b"images", "unsupported_capability", 100.0)
    assert on(upstream, 101.0) == "a"
    picture = upstream.start_for(101.0, Tried(), ("m", "m"), (CHAT, b"images"), True)
    assert picture is not None and picture.node.name == "b"
    trial = upstream.start_for(160.0, Tried(), ("m", "m"), (CHAT, b"tools", b"images"), True)
    assert trial is not None and trial.node.name == "a"
    trial.succeeded(160.0)
    upstream.models.passed(0, "m", (CHAT, b"tools", b"images"), trial.started_at, 160.0)
    assert upstream.models.count == 0


def test_a_node_that_rests_for_one_request_still_gets_its_trial_from_another() -> None:
    upstream = make(3)
    misfit(upstream, 100.0)
    tried = start(upstream, 100.0)
    assert tried is not None and tried.node.name == "b"
    tried.failed(FailureKind.TCP, 100.0, at_once=True)
    # All traffic is for this model: b must come back although c could take it.
    back = start(upstream, 105.0)
    assert back is not None and (back.node.name, back.kind) == ("b", TRIAL)


# --- Bounds -----------------------------------------------------------------------------------


def test_names_that_callers_make_up_take_no_more_room_than_there_is() -> None:
    table = ModelTable()
    for number in range(2 * CAPACITY):
        now = 100.0 + number / 1000
        table.misfit(0, f"model-{number}", CHAT, "unknown_model", now, now)
    assert table.count == CAPACITY
    assert table.rest_of(0, f"model-{2 * CAPACITY - 1}", (CHAT,), 110.0) is not None
    assert table.rest_of(0, "model-0", (CHAT,), 110.0) is None
    table.misfit(0, "x" * (MAX_NAME + 1), CHAT, "unknown_model", 110.0, 110.0)
    assert table.count == CAPACITY


@pytest.mark.parametrize(("is_limit", "memory"), [(True, 60.0), (False, 600.0)])
def test_terms_that_ended_long_ago_are_forgotten(is_limit: bool, memory: float) -> None:
    table = ModelTable()
    if is_limit:
        table.limited(0, "m", 100.0, 160.0, 100.0, 1.0)
    else:
        table.misfit(0, "m", CHAT, "unknown_model", 100.0, 100.0)
    assert table.rest_of(0, "m", (CHAT,), 160.0 + memory - 1.0) is None
    assert table.count == 1
    table.rest_of(0, "m", (CHAT,), 160.0 + memory + 60.0)
    assert table.count == 0
    assert repr(table) == "<ModelTable []>"
