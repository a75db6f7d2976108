"""Which node a retry may go to, which model a node is not asked for, and what the caller is told of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from exchange_bench import (
    BODY,
    COMPLETION,
    END,
    STREAM_BODY,
    STREAM_HEAD,
    Bench,
    chunk,
    error_response,
    json_response,
)

from fastgw._core import Tried
from fastgw.balancing.health import HealthPolicy
from fastgw.balancing.retry import RetryBudget
from fastgw.errors import ConnectFailed

Make = Callable[..., Bench]
OTHER_BODY = BODY.replace(b"gpt-4o", b"gpt-5o")
LIMITED = error_response(429, "rate_limit_exceeded")
UNKNOWN = error_response(404, "model_not_found")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda *args, **options: Bench(monkeypatch, *args, **options)


def say(bench: Bench, position: int, *said: bytes) -> None:
    """A node that is being dialled answers, and its connection is not used again."""
    bench.connect(position).say(*said)
    bench.pools[position].flush()


def serve(bench: Bench, position: int, *said: bytes, body: bytes = BODY, **request: Any) -> None:
    """One request that this node is asked first, and answers."""
    dials = len(bench.pools[position].tickets)
    bench.ask(body, **request)
    assert len(bench.pools[position].tickets) == dials + 1, "it was not asked"
    say(bench, position, *said)


def refuse(bench: Bench, *positions: int, said: bytes = LIMITED, body: bytes = BODY, **request: Any) -> None:
    """One request that these nodes refuse one after the other, and the next one serves, if there is any."""
    bench.ask(body, **request)
    for position in positions:
        say(bench, position, said)
    behind = positions[-1] + 1
    if behind < len(bench.nodes):
        say(bench, behind, json_response(COMPLETION))


# --- The retry budget -------------------------------------------------------------------------

NEVER_OUT = HealthPolicy(passive=None)  # both nodes stay where they are, whatever they do
FAILED = error_response(500)
SPENT = RetryBudget(0, per_s=0)


def failing(bench: Bench, position: int) -> None:
    for _ in range(10):
        bench.nodes[position].note_result(True, bench.clock.now)


def test_a_retry_to_a_node_that_is_failing_too_is_not_made_without_a_budget(make: Make) -> None:
    bench = make(health=NEVER_OUT)
    bench.exchanges.budget = RetryBudget(0, per_s=0.2)
    failing(bench, 1)
    for expected in (2, 2, 1):  # the budget of ten seconds is two
        bench.ask()
        say(bench, 0, FAILED)
        if expected == 2:
            say(bench, 1, FAILED)
        answer = bench.answer()
        assert (answer.status, answer.fields["x-fastgw-attempts"]) == (500, str(expected))
        assert answer.fields["x-should-retry"] == "false"
    assert bench.exchanges.budget_refusals == 1
    assert bench.exchanges.retries == 2
    bench.check_end()


def test_moving_to_a_node_that_is_well_costs_no_budget(make: Make) -> None:
    bench = make(3, health=NEVER_OUT, replayable=True)
    bench.exchanges.budget = SPENT
    failing(bench, 1)
    bench.ask()
    say(bench, 0, error_response(408))
    assert not bench.pools[1].tickets, "the failing one is left out"
    say(bench, 2, json_response(COMPLETION))
    assert (bench.answer().status, bench.exchanges.budget_refusals) == (200, 1)
    bench.check_end()


def test_a_budget_that_keeps_from_nothing_refuses_nothing(make: Make) -> None:
    bench = make(3, health=NEVER_OUT)
    bench.exchanges.budget = SPENT
    failing(bench, 2)
    bench.ask()
    bench.dialled(0).fail(ConnectFailed())
    say(bench, 1, json_response(COMPLETION))
    assert (bench.answer().status, bench.exchanges.budget_refusals) == (200, 0)


def test_the_first_attempt_is_never_refused(make: Make) -> None:
    bench = make(1, health=NEVER_OUT)
    bench.exchanges.budget = SPENT
    failing(bench, 0)
    serve(bench, 0, json_response(COMPLETION))
    assert bench.answer().status == 200


def test_an_overloaded_node_is_a_failing_one(make: Make) -> None:
    bench = make(health=HealthPolicy(overload_default_s=0.0))
    bench.exchanges.budget = SPENT
    for _ in range(5):
        bench.upstream.start_attempt(1000.0).busy(0.0, 1000.0, True)  # type: ignore[union-attr]
    assert bench.upstream.is_failing(bench.nodes[0], bench.clock.now)


def test_the_sweep_counts_for_the_budget(make: Make) -> None:
    bench = make(health=NEVER_OUT)
    bench.exchanges.budget = budget = RetryBudget(50, per_s=0)
    bench.wait(0)
    for _ in range(4):
        serve(bench, 0, json_response(COMPLETION))
    assert budget.is_left(bench.clock.now, bench.exchanges.started)
    budget.spend(bench.clock.now, bench.exchanges.started)
    budget.spend(bench.clock.now, bench.exchanges.started)
    assert not budget.is_left(bench.clock.now, bench.exchanges.started)


# --- A limited model --------------------------------------------------------------------------


def test_a_limited_model_is_not_asked_for_while_others_are(make: Make) -> None:
    bench = make(limits_per_model=True)
    refuse(bench, 0)
    assert bench.answer().fields["x-fastgw-upstream"] == "b"
    for _ in range(3):
        serve(bench, 1, json_response(COMPLETION))
        assert bench.answer().fields["x-fastgw-attempts"] == "1"
    serve(bench, 0, json_response(COMPLETION), body=OTHER_BODY)
    assert bench.answer().fields["x-fastgw-upstream"] == "a"
    bench.check_end()


def test_where_limits_are_the_accounts_the_node_rests(make: Make) -> None:
    bench = make(limits_per_model=False)
    refuse(bench, 0)
    assert bench.nodes[0].is_cooling()
    serve(bench, 1, json_response(COMPLETION), body=OTHER_BODY)


@pytest.mark.parametrize("body", [b'{"messages":[]}', b"no json"])
def test_without_a_known_model_the_node_rests(make: Make, body: bytes) -> None:
    bench = make(limits_per_model=True)
    refuse(bench, 0, body=body)
    assert bench.nodes[0].is_cooling() and bench.upstream.models.count == 0


def test_an_overload_is_the_nodes(make: Make) -> None:
    bench = make(limits_per_model=True)
    refuse(bench, 0, said=error_response(503))
    assert bench.nodes[0].is_cooling() and bench.upstream.models.count == 0


def test_a_limited_model_comes_back_through_one_request(make: Make) -> None:
    bench = make(limits_per_model=True)
    refuse(bench, 0)
    bench.wait(1.5)
    bench.ask()
    trial = bench.connect(0)
    models = ("gpt-4o", "gpt-4o")
    meanwhile = bench.upstream.start_for(bench.clock.now, Tried(), models, (b"/chat/completions",), True)
    assert meanwhile is not None and meanwhile.node.name == "b"
    meanwhile.ignored(bench.clock.now)
    trial.say(json_response(COMPLETION))
    assert bench.answer().status == 200
    assert bench.upstream.models.count == 0
    bench.pools[0].flush()
    serve(bench, 0, json_response(COMPLETION))


def test_a_stream_that_says_rate_limited_limits_its_model(make: Make) -> None:
    bench = make(limits_per_model=True)
    event = b'data: {"error":{"message":"no","type":"","code":"rate_limit_exceeded"}}\n\n'
    bench.ask(STREAM_BODY)
    say(bench, 0, STREAM_HEAD, chunk(event), END)
    say(bench, 1, json_response(COMPLETION))
    assert [rest.model for rest in bench.upstream.models.resting(0, bench.clock.now)] == ["gpt-4o"]


def test_a_model_that_is_limited_everywhere_is_429_with_the_earliest_end(make: Make) -> None:
    bench = make(limits_per_model=True)
    bench.ask()
    say(bench, 0, error_response(429, "rate_limit_exceeded", "Retry-After: 30"))
    say(bench, 1, error_response(429, "rate_limit_exceeded", "Retry-After: 20"))
    answer = bench.answer()
    assert (answer.status, answer.fields["retry-after"], answer.fields["x-should-retry"]) == (
        429,
        "20",
        "false",
    )
    bench.wait(5)
    bench.ask()
    answer = bench.answer()
    assert (answer.status, answer.fields["retry-after"], answer.fields["x-should-retry"]) == (
        429,
        "15",
        "true",
    )
    assert answer.error["code"] == "rate_limit_exceeded"
    assert answer.fields["x-fastgw-attempts"] == "0"
    serve(bench, 0, json_response(COMPLETION), body=OTHER_BODY)


def test_the_model_that_counts_is_the_one_the_node_was_sent(make: Make) -> None:
    bench = make(limits_per_model=True, models=[("gpt-*", "deepseek-flash")])
    refuse(bench, 0)
    serve(bench, 1, error_response(429, "rate_limit_exceeded"))
    assert [rest.model for rest in bench.upstream.models.resting(1, bench.clock.now)] == ["deepseek-flash"]
    bench.answer()
    # Another name for the same model of that node.
    bench.ask(OTHER_BODY)
    say(bench, 0, error_response(500))
    assert bench.answer().status == 500


# --- A model that is not there ----------------------------------------------------------------


def test_an_unknown_model_is_not_asked_for_again(make: Make) -> None:
    bench = make()
    refuse(bench, 0, said=UNKNOWN)
    serve(bench, 1, json_response(COMPLETION))
    serve(bench, 0, json_response(COMPLETION), body=OTHER_BODY)
    serve(bench, 0, json_response(COMPLETION), path="/v1/embeddings")
    bench.wait(60)
    serve(bench, 0, json_response(COMPLETION))
    assert bench.upstream.models.count == 0
    bench.check_end()


def test_a_model_nobody_has_is_asked_for_everywhere_each_time(make: Make) -> None:
    bench = make()
    for _ in range(3):
        refuse(bench, 0, 1, said=UNKNOWN)
        answer = bench.answer()
        assert (answer.status, answer.fields["x-fastgw-attempts"]) == (404, "2")
        assert "retry-after" not in answer.fields
        bench.wait(1)


def test_a_failure_is_told_as_it_is_although_another_node_has_no_such_model(make: Make) -> None:
    bench = make()
    bench.upstream.models.misfit(1, "gpt-4o", b"/chat/completions", "unknown_model", 999.0, 999.0)
    bench.ask()
    say(bench, 0, error_response(500))
    assert (bench.answer().status, bench.pools[1].tickets) == (500, [])


NO_IMAGES = json_response({"error": {"message": "this model does not support image input", "code": ""}}, 400)
PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
PICTURE = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": [PART]}]}).encode()


def test_a_picture_that_a_model_cannot_see_keeps_pictures_away_and_no_text(make: Make) -> None:
    bench = make()
    refuse(bench, 0, said=NO_IMAGES, body=PICTURE)
    serve(bench, 1, json_response(COMPLETION), body=PICTURE)
    serve(bench, 0, json_response(COMPLETION))
    bench.wait(60)
    serve(bench, 0, json_response(COMPLETION), body=PICTURE)
    assert bench.upstream.models.count == 0
    bench.check_end()


def test_a_lack_that_the_request_has_nothing_to_do_with_is_not_remembered(make: Make) -> None:
    bench = make()
    refuse(bench, 0, said=NO_IMAGES)
    assert bench.upstream.models.count == 0
    serve(bench, 0, json_response(COMPLETION))


def test_an_endpoint_that_computes_nothing_teaches_nothing(make: Make) -> None:
    bench = make()
    refuse(bench, 0, said=UNKNOWN, path="/v1/threads")
    assert bench.upstream.models.count == 0


# --- Whose rate limits the caller sees --------------------------------------------------------

FIELDS = ("x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 9s", "Retry-After: 9")


def limits_in(fields: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in fields.items()
        if name.startswith(("x-ratelimit", "ratelimit")) or name in ("retry-after", "retry-after-ms")
    }


def test_an_answer_after_a_failover_has_its_own_nodes_limits_only(make: Make) -> None:
    bench = make()
    bench.ask()
    say(bench, 0, error_response(429, "rate_limit_exceeded", *FIELDS))
    say(bench, 1, json_response(COMPLETION, 200, "x-ratelimit-remaining-requests: 5"))
    assert limits_in(bench.answer().fields) == {"x-ratelimit-remaining-requests": "5"}


def test_a_callers_mistake_after_a_failover_has_its_own_nodes_limits_only(make: Make) -> None:
    bench = make()
    bench.ask()
    say(bench, 0, error_response(429, "rate_limit_exceeded", *FIELDS))
    say(bench, 1, error_response(400, "invalid_request_error", "x-ratelimit-limit-tokens: 3"))
    answer = bench.answer()
    assert (answer.status, limits_in(answer.fields)) == (400, {"x-ratelimit-limit-tokens": "3"})


@pytest.mark.parametrize("last", [429, 500, 503, 401])
def test_the_last_error_has_no_nodes_limits_but_a_truthful_time(make: Make, last: int) -> None:
    bench = make()
    bench.ask()
    say(bench, 0, error_response(429, "rate_limit_exceeded", *FIELDS))
    say(
        bench,
        1,
        error_response(
            last, "", "x-ratelimit-remaining-requests: 0", "Retry-After: 40", "retry-after-ms: 40000"
        ),
    )
    answer = bench.answer()
    # Of both nodes the one that is back first, as it is known here.
    expected = "1" if last == 500 else "9"
    assert limits_in(answer.fields) == {"retry-after": expected}
    assert json.loads(answer.body)["error"]


def test_a_plain_nodes_last_error_is_its_own(make: Make) -> None:
    bench = make(is_llm=False)
    bench.ask()
    say(bench, 0, error_response(503, "", "x-ratelimit-limit: 1", "Retry-After: 9"))
    say(bench, 1, error_response(503, "", "Retry-After: 40"))
    assert limits_in(bench.answer().fields) == {"retry-after": "40"}


# --- Alarms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (error_response(401, "invalid_api_key"), "bad_key"),
        (error_response(429, "insufficient_quota"), "no_quota"),
        (error_response(402), "no_quota"),
    ],
)
def test_a_dead_key_is_told_once_and_so_is_its_end(
    make: Make, caplog: pytest.LogCaptureFixture, said: bytes, reason: str
) -> None:
    bench = make()
    bench.ask()
    second = bench.upstream.start_attempt(bench.clock.now)
    assert second is not None
    say(bench, 0, said)
    second.dead(bench.clock.now)
    say(bench, 1, json_response(COMPLETION))
    for _ in range(3):
        bench.wait(60)
        if bench.nodes[0].is_available(bench.clock.now):
            refuse(bench, 0, said=said)
    assert caplog.record_tuples == [
        ("fastgw.nodes", logging.ERROR, f"node a takes no requests: {reason}; it is tried again in 60 s")
    ]
    caplog.clear()
    bench.wait(600)
    serve(bench, 0, json_response(COMPLETION))
    bench.wait(1)
    bench.wait(1)
    assert caplog.record_tuples == [
        ("fastgw.nodes", logging.WARNING, f"node a takes requests again: {reason} is over")
    ]


def test_a_single_403_is_no_alarm(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    bench = make()
    refuse(bench, 0, said=error_response(403))
    assert caplog.record_tuples == []
    refuse(bench, 0, said=error_response(403))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
