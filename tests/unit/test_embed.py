"""The embedding interface: the failover loop as another program writes it, on a clock of the test's."""

import asyncio
import errno
import pickle
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import fastgw
from fastgw import HealthPolicy, Node, NoNodeAvailable, Thresholds, Upstream
from fastgw._core import PickKind
from fastgw.balancing.upstream import AttemptOutcome
from fastgw.errors import BadResponse, ConfigError, ConnectFailed, FailureKind, NodeTimeout
from fastgw.llm.outcome import Outcome, Verdict


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, count: int = 2, **options: Any) -> Upstream:
    nodes = [Node(name, 443, priority=-index, name=name) for index, name in enumerate("abcd"[:count])]
    options.setdefault("health", HealthPolicy(ejection_jitter=0.0))
    return Upstream(nodes, clock=clock, **options)


def ask(upstream: Upstream, answer: Callable[[str], int | BaseException]) -> tuple[str, str]:
    """The loop of the documentation; returns the nodes that were called, and the last one's name."""
    called = ""
    for attempt in upstream.attempts():
        called += attempt.node.name
        reply = answer(attempt.node.name)
        if isinstance(reply, BaseException):
            attempt.failed(reply)
        elif attempt.finished(reply, {}):
            return called, attempt.node.name
    raise AssertionError("the loop ended without an answer and without an error")


# --- The loop ---------------------------------------------------------------------------------


def test_first_answer_ends_the_loop(clock: Clock) -> None:
    assert ask(make(clock), lambda name: 200) == ("a", "a")


@pytest.mark.parametrize("reply", [500, 502, 429, 503, 401, 402, 403, ConnectionResetError(), TimeoutError()])
def test_fault_of_one_node_moves_the_request_to_the_next(clock: Clock, reply: int | BaseException) -> None:
    upstream = make(clock)
    assert ask(upstream, lambda name: reply if name == "a" else 200) == ("ab", "b")
    assert all(node.in_flight == 0 for node in upstream.nodes)


def test_refusal_that_is_the_caller_s_own_fault_is_the_answer(clock: Clock) -> None:
    upstream = make(clock)
    for _ in range(20):
        assert ask(upstream, lambda name: 422) == ("a", "a")
    assert upstream.nodes[0].counters["http_failure"] == 0


def test_node_that_refuses_connections_is_not_asked_again_before_its_time(clock: Clock) -> None:
    upstream = make(clock)
    broken = {"a"}

    def answer(name: str) -> int | BaseException:
        return ConnectionRefusedError() if name in broken else 200

    assert ask(upstream, answer) == ("ab", "b")
    assert ask(upstream, answer) == ("b", "b")
    clock.now += 1.0
    assert ask(upstream, answer) == ("ab", "b")  # the trial fails, and the caller does not notice
    broken.clear()
    clock.now += 2.0
    assert ask(upstream, answer) == ("a", "a")
    assert ask(upstream, answer) == ("a", "a")


def test_error_names_the_time_when_no_node_is_left(clock: Clock) -> None:
    upstream = make(clock, classify=lambda *_, now_wall: Outcome(Verdict.BUSY, "busy", wait_s=7.5))
    with pytest.raises(NoNodeAvailable) as caught:
        ask(upstream, lambda name: 429)
    assert caught.value.retry_after == 7.5
    assert caught.value.status == 503


def test_each_node_is_tried_once(clock: Clock) -> None:
    called = []
    try:
        for attempt in make(clock, 4, retries=99).attempts():
            called.append((attempt.number, attempt.node.name))
            attempt.failed(FailureKind.HTTP)
    except NoNodeAvailable:
        called.append((5, "none"))
    assert called == [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "none")]


def test_retries_bound_the_loop(clock: Clock) -> None:
    loop = make(clock, 4, retries=1).attempts()
    for name in "ab":
        attempt = next(loop)
        assert attempt.node.name == name
        assert not attempt.finished(500)
    with pytest.raises(NoNodeAvailable):
        next(loop)


def test_time_for_retries_bounds_the_loop(clock: Clock) -> None:
    loop = make(clock, 4, retry_timeout_s=5.0).attempts()
    for name in "ab":
        attempt = next(loop)
        assert attempt.node.name == name
        clock.now += 2.5
        attempt.failed(TimeoutError())
    with pytest.raises(NoNodeAvailable):
        next(loop)


def test_upstream_without_nodes_has_none_available(clock: Clock) -> None:
    with pytest.raises(NoNodeAvailable):
        next(make(clock, 0).attempts())


def test_attempt_without_an_outcome_is_nobody_s_fault(clock: Clock) -> None:
    upstream = make(clock)
    for attempt in upstream.attempts():
        if attempt.node.name == "b":
            break
    assert [node.in_flight for node in upstream.nodes] == [0, 0]
    assert [node.outcomes[AttemptOutcome.IGNORED] for node in upstream.nodes] == [1, 1]


def test_exception_out_of_the_loop_releases_the_node(clock: Clock) -> None:
    upstream = make(clock)
    loop = upstream.attempts()
    next(loop)
    with pytest.raises(KeyError):
        loop.throw(KeyError())
    assert upstream.nodes[0].in_flight == 0


def test_loop_ends_by_itself_after_an_answer(clock: Clock) -> None:
    called = []
    for attempt in make(clock).attempts():
        called.append(attempt.node.name)
        attempt.succeeded()
    assert called == ["a"]


def test_first_outcome_counts(clock: Clock) -> None:
    upstream = make(clock)
    for attempt in upstream.attempts():
        assert repr(attempt) == "<Attempt 1 on a pending>"
        assert attempt.kind is PickKind.NORMAL
        attempt.ignored()
        attempt.failed(ConnectionRefusedError())
        assert attempt.outcome is AttemptOutcome.IGNORED
        break
    assert upstream.nodes[0].is_usable()


def test_loop_may_await_in_its_body(clock: Clock) -> None:
    upstream = make(clock, 3)

    async def request(number: int) -> str:
        for attempt in upstream.attempts():
            await asyncio.sleep(0)
            if attempt.finished(500 if attempt.node.name == "a" else 200):
                return attempt.node.name
        raise AssertionError

    async def main() -> list[str]:
        return await asyncio.gather(*(request(number) for number in range(50)))

    assert set(asyncio.run(main())) == {"b"}
    assert [node.in_flight for node in upstream.nodes] == [0, 0, 0]


# --- What an answer says ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "30"},
        {b"RETRY-AFTER": b"30"},
        [("x", "y"), ("retry-after", "30")],
        [(b"retry-after", b"30")],
    ],
)
def test_headers_may_come_in_any_form(clock: Clock, headers: Any) -> None:
    upstream = make(clock)
    loop = upstream.attempts()
    assert not next(loop).finished(429, headers)
    assert upstream.nodes[0].cooling_until == 130.0
    assert upstream.nodes[0].status == "healthy"


def test_statuses_written_by_the_user_replace_the_built_in_ones(clock: Clock) -> None:
    policy = HealthPolicy(
        passive=Thresholds(http_failures=1),
        passive_failure_statuses=frozenset({418}),
        passive_success_statuses=frozenset({200}),
    )
    upstream = make(clock, health=policy)
    assert ask(upstream, lambda name: 502 if name == "a" else 201) == ("ab", "b")
    assert upstream.nodes[0].is_usable()  # moved, but not counted
    assert upstream.nodes[1].outcomes[AttemptOutcome.SUCCEEDED] == 0
    assert ask(upstream, lambda name: 418 if name == "a" else 200) == ("ab", "b")
    assert not upstream.nodes[0].is_usable()


# --- What an exception says -------------------------------------------------------------------


def caused(outer: BaseException, *causes: BaseException) -> BaseException:
    """As a client library raises it: each ``from`` the next."""
    link = outer
    for cause in causes:
        link.__cause__ = cause
        link = cause
    return outer


@pytest.mark.parametrize(
    ("error", "counter", "ejects"),
    [
        (TimeoutError(), "timeout_failure", False),
        (ConnectionResetError(), "tcp_failure", False),
        (BrokenPipeError(), "tcp_failure", False),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "tcp_failure", True),
        (OSError(errno.EHOSTUNREACH, "no route"), "tcp_failure", True),
        (ssl.SSLCertVerificationError("no"), "tcp_failure", True),
        (socket.gaierror("no such name"), "tcp_failure", True),
        (ValueError("not HTTP"), "http_failure", False),
        (caused(RuntimeError(), ValueError(), TimeoutError()), "timeout_failure", False),
        (
            caused(
                RuntimeError(), OSError("all attempts failed"), ConnectionRefusedError(errno.ECONNREFUSED, "")
            ),
            "tcp_failure",
            True,
        ),
        (NodeTimeout(), "timeout_failure", False),
        (BadResponse(), "http_failure", False),
        (ConnectFailed(), "tcp_failure", True),
    ],
)
def test_exception_moves_the_counter_of_its_cause(
    clock: Clock, error: BaseException, counter: str, ejects: bool
) -> None:
    upstream = make(clock)
    loop = upstream.attempts()
    next(loop).failed(error)
    node = upstream.nodes[0]
    assert {name for name, count in node.counters.items() if count} == {counter}
    assert node.is_usable() is not ejects


def test_chain_of_causes_that_bites_its_tail_is_followed_only_so_far(clock: Clock) -> None:
    one, other = ValueError(), RuntimeError()
    one.__cause__, other.__cause__ = other, one
    upstream = make(clock)
    loop = upstream.attempts()
    next(loop).failed(one)
    assert upstream.nodes[0].counters["http_failure"] == 1


# --- Configuration ----------------------------------------------------------------------------


def test_upstream_object_of_apisix_is_read(clock: Clock) -> None:
    primary = {"host": "api.openai.com", "port": 443, "weight": 100}
    upstream = Upstream.from_config(
        {
            "name": "llm",
            "scheme": "https",
            "type": "roundrobin",
            "nodes": [primary, {"host": "api.deepseek.com", "weight": 1, "priority": -1}],
            "retries": 3,
            "retry_timeout": 2.5,
            "checks": {
                "active": {
                    "http_path": "/",
                    "healthy": {"successes": 1, "interval": 20},
                    "unhealthy": {"http_failures": 3},
                },
                "passive": {"healthy": {"successes": 2}, "unhealthy": {"http_failures": 3}},
            },
        },
        clock=clock,
    )
    assert [(node.name, node.weight, node.priority) for node in upstream.nodes] == [
        ("api.openai.com:443", 100, 0),
        ("api.deepseek.com:443", 1, -1),
    ]
    assert upstream.nodes[0].data is primary
    assert (upstream.name, upstream.retries, upstream.retry_timeout_s) == ("llm", 3, 2.5)
    policy = upstream.health
    assert policy.active == Thresholds(1, 3, 2, 3)
    assert policy.passive == Thresholds(2, 3, 5, 5)
    assert policy.eject_on_connect_failure
    assert policy.probe_hold_s == 60.0


def test_number_of_connection_failures_written_by_the_user_replaces_one_is_enough() -> None:
    upstream = Upstream.from_config(
        {"nodes": {"a": 1}, "checks": {"active": {}, "passive": {"unhealthy": {"tcp_failures": 4}}}}
    )
    assert not upstream.health.eject_on_connect_failure
    assert upstream.health.passive == Thresholds(1, 5, 4, 5)


def test_upstream_object_without_checks_has_the_defaults() -> None:
    upstream = Upstream.from_config({"nodes": {"a:1": 1}})
    assert upstream.health == HealthPolicy()
    assert upstream.retries == 0


@pytest.mark.parametrize(
    ("address", "scheme", "expected"),
    [
        ("a.example", "https", ("a.example", 443)),
        ("a.example", "http", ("a.example", 80)),
        ("a.example:8080", "https", ("a.example", 8080)),
        ("10.0.0.7:1", "http", ("10.0.0.7", 1)),
        ("[::1]:8080", "http", ("::1", 8080)),
        ("[::1]", "https", ("::1", 443)),
        ("::1", "https", ("::1", 443)),
    ],
)
def test_nodes_may_be_a_map_of_addresses(address: str, scheme: str, expected: tuple[str, int]) -> None:
    upstream = Upstream.from_config({"scheme": scheme, "nodes": {address: 5}})
    (node,) = upstream.nodes
    assert (node.host, node.port) == expected
    assert node.weight == 5


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, "upstream.nodes"),
        ({"nodes": 5}, "upstream.nodes"),
        ({"nodes": [5]}, r"upstream.nodes\[0\]"),
        ({"nodes": [{"port": 1, "weight": 1}]}, r"nodes\[0\].host"),
        ({"nodes": [{"host": "a"}]}, r"nodes\[0\].weight"),
        ({"nodes": [{"host": "a", "weight": -1}]}, r"nodes\[0\].weight"),
        ({"nodes": [{"host": "a", "weight": True}]}, r"nodes\[0\].weight"),
        ({"nodes": [{"host": "a", "weight": 1, "port": 0}]}, r"nodes\[0\].port"),
        ({"nodes": {"a:b": 1}}, "nodes.a:b"),
        ({"nodes": {"a": 1}, "retries": -1}, "upstream.retries"),
        ({"nodes": {"a": 1}, "retry_timeout": "1"}, "upstream.retry_timeout"),
        ({"nodes": {"a": 1}, "type": "chash"}, "upstream.type"),
        ({"nodes": {"a": 1}, "scheme": []}, "upstream.scheme"),
        ({"nodes": {"a": 1}, "nodez": 1}, "nodez"),
        ({"nodes": {"a": 1}, "checks": []}, "upstream.checks"),
        ({"nodes": {"a": 1}, "checks": {"active": 1}}, "upstream.checks.active"),
        (
            {"nodes": {"a": 1}, "checks": {"active": {"healthy": {"successes": 300}}}},
            "active.healthy.successes",
        ),
        (
            {"nodes": {"a": 1}, "checks": {"passive": {"healthy": {"http_statuses": ["200"]}}}},
            "passive.healthy.http_statuses",
        ),
        ([], "upstream"),
    ],
)
def test_mistake_in_an_upstream_object_is_named_by_its_path(config: Any, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        Upstream.from_config(config)


# --- The package ------------------------------------------------------------------------------


def test_importing_the_package_loads_nothing_else() -> None:
    script = (
        "import sys; before = set(sys.modules); import fastgw; "
        "print(*sorted(set(sys.modules) - before - {'fastgw', '__future__', 'typing'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = [name for name in done.stdout.split() if name.startswith("fastgw")]
    assert loaded == []
    assert "asyncio" not in done.stdout.split()


def test_package_hands_on_the_embedding_names_and_no_others() -> None:
    assert set(fastgw.__all__) <= set(dir(fastgw))
    for name in fastgw.__all__:
        assert getattr(fastgw, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fastgw.no_such_name


def test_error_survives_pickling_enough_to_be_raised_elsewhere() -> None:
    error = pickle.loads(pickle.dumps(NoNodeAvailable("none", retry_after=3.0)))
    assert (str(error), error.retry_after) == ("none", 3.0)
