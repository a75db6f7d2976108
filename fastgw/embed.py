"""The failover loop for other programs: no I/O, no event loop, no threads, no global state.

    upstream = Upstream([Node("api.openai.com", 443), Node("api.deepseek.com", 443, priority=-1)])
    for attempt in upstream.attempts():
        try:
            reply = call(attempt.node)
        except OSError as error:
            attempt.failed(error)
        else:
            if attempt.finished(reply.status, reply.headers):
                break

The body of the loop may await: nothing here waits or holds a lock.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Self

from fastgw._core import Node, PickKind, Tried
from fastgw.balancing import upstream as balanced
from fastgw.balancing.health import HealthPolicy, Thresholds
from fastgw.errors import ConfigError, ConnectFailed, FailureKind, NodeError, NoNodeAvailable
from fastgw.llm.outcome import Outcome, Verdict
from fastgw.llm.outcome import classify as classify_answer

Headers = (
    Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]]
)

# No connection came about, and the next one will not either.
_CONNECT_ERRNOS = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})
_MAX_CAUSES = 16  # how far a chain of exceptions is followed


class Upstream(balanced.Upstream):
    """A named set of nodes with balancing, health and retry policy, and the loop over them.

    Args:
        nodes, health, name, retries, retry_timeout_s, random: as in ``balancing.upstream``.
        clock: monotonic seconds.
        classify: ``(status, headers, body, now_wall=...)`` to an llm Outcome: what an answer says
            about its node. The default knows the dialects of the LLM providers.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        health: HealthPolicy | None = None,
        *,
        name: str = "",
        retries: int | None = None,
        retry_timeout_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        classify: Callable[..., Outcome] = classify_answer,
        random: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(
            nodes, health, name=name, retries=retries, retry_timeout_s=retry_timeout_s, random=random
        )
        self._clock = clock
        self._classify = classify

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] | None = None,
    ) -> Self:
        """Build one from an APISIX ``upstream`` object.

        Nodes in either form, ``retries``, ``retry_timeout``, ``scheme`` (for the default port) and
        ``checks`` are used; fields about connections are left to the caller. Each node's own object
        is its ``data``.

        Raises:
            ConfigError: a field is unknown, of the wrong type, or asks for what is not offered.
        """
        _check_fields(config, _UPSTREAM_FIELDS, "upstream")
        if config.get("type", "roundrobin") != "roundrobin":
            raise ConfigError(f"upstream.type: only roundrobin is offered, not {config['type']!r}")
        retries = None if config.get("retries") is None else _integer(config, "retries", "upstream", 0, 0)
        try:
            return cls(
                _nodes_of(config),
                _health_of(config.get("checks")),
                name=str(config.get("name") or config.get("id") or ""),
                retries=retries,
                retry_timeout_s=_seconds(config, "retry_timeout", "upstream"),
                clock=clock,
                random=random,
            )
        except ValueError as error:
            raise ConfigError(f"upstream: {error}") from error

    def attempts(self) -> Generator[Attempt]:
        """One attempt after the other, each on a node that this loop has not tried.

        It ends by itself after an attempt that finished. One that is left without an outcome is
        ignored: nobody's fault.

        Raises:
            NoNodeAvailable: no node is left, or the retries or their time are used up.
        """
        clock = self._clock
        began = clock()
        tried = Tried()
        for number in range(1, self.retries + 2):
            now = clock()
            if number > 1 and self.retry_timeout_s and now - began >= self.retry_timeout_s:
                break
            started = self.start_attempt(now, tried)
            if started is None:
                break
            attempt = Attempt(started, self, number)
            try:
                yield attempt
            finally:
                started.ignored(clock())
            if attempt.is_done:
                return
        now = clock()
        raise NoNodeAvailable("no node is left to try", retry_after=max(0.0, self.next_recovery(now) - now))


class Attempt:
    """One try on one node; the first outcome given counts, later ones are dropped.

    Attributes:
        node: the Node to call.
        number: 1 for the first attempt; only those after it are retries.
    """

    __slots__ = ("_started", "_upstream", "is_done", "node", "number")

    def __init__(self, started: balanced.Attempt, upstream: Upstream, number: int) -> None:
        self._started = started
        self._upstream = upstream
        self.is_done = False  # the answer is the caller's: nothing more is to be tried
        self.node: Node = started.node
        self.number = number

    def __repr__(self) -> str:
        return f"<Attempt {self.number} on {self.node.name} {self.outcome.name.lower()}>"

    @property
    def outcome(self) -> balanced.AttemptOutcome:
        """PENDING until it has one."""
        return balanced.AttemptOutcome(self._started.outcome)

    @property
    def kind(self) -> PickKind:
        """Why the node was picked: available, on trial, or because all are out."""
        return PickKind(self._started.kind)

    def finished(self, status: int, headers: Headers = (), body: bytes = b"") -> bool:
        """The node has answered. Say what that means for it, and whether to keep the answer.

        Args:
            headers: a mapping or pairs, names in any case.
            body: its beginning, if at hand: it tells a used-up account from a rate limit.
        Returns:
            True: the answer is the caller's. False: try the next node.
        """
        upstream = self._upstream
        fields = _fields_of(headers)
        outcome = upstream._classify(status, fields, body, now_wall=time.time())
        verdict = outcome.verdict
        now = upstream._clock()
        started = self._started
        policy = upstream.health
        if policy.passive_failure_statuses is not None:
            # Statuses written by the user replace the built-in class of the same effect.
            if status in policy.passive_failure_statuses:
                verdict = Verdict.FAILED
            elif verdict == Verdict.FAILED:
                verdict = Verdict.MISFIT
        if verdict in (Verdict.SUCCEEDED, Verdict.CALLER):
            self.is_done = True
            counted = policy.passive_success_statuses
            if counted is None or status in counted:
                started.succeeded(now)
            else:
                started.ignored(now)
        elif verdict == Verdict.REFUSED:
            self.is_done = True
            started.ignored(now)
        elif verdict == Verdict.BUSY:
            started.busy(now + (outcome.wait_s or 0.0), now, outcome.overload)
        elif verdict == Verdict.FAILED:
            started.failed(FailureKind.HTTP, now)
        elif verdict == Verdict.DEAD:
            started.dead(now)
        elif verdict == Verdict.FORBIDDEN:
            started.forbidden(now)
        else:  # misfit: this request does not suit this node
            started.ignored(now)
        return self.is_done

    def succeeded(self) -> None:
        """The node did its work."""
        self.is_done = True
        self._started.succeeded(self._upstream._clock())

    def failed(self, error: BaseException | FailureKind) -> None:
        """The call raised ``error``: count it as what it, or what caused it, says."""
        if isinstance(error, BaseException):
            kind, at_once = _failure_of(error)
        else:
            kind, at_once = error, False
        self._started.failed(kind, self._upstream._clock(), at_once)

    def ignored(self) -> None:
        """Nobody's fault: the caller gave up."""
        self._started.ignored(self._upstream._clock())


# --- Answers and errors -----------------------------------------------------------------------


def _fields_of(headers: Headers) -> dict[bytes, bytes]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return {_as_bytes(name).lower(): _as_bytes(value) for name, value in pairs}


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1", "replace") if isinstance(text, str) else text


def _failure_of(error: BaseException) -> tuple[FailureKind, bool]:
    """The counter an exception moves, and whether it says that no connection can be made.

    HTTP clients wrap what the system told them, so the chain of causes is followed.
    """
    kind: FailureKind | None = None
    at_once = False
    link: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if link is None:
            break
        if isinstance(link, NodeError):
            return link.failure, isinstance(link, ConnectFailed)
        if isinstance(link, TimeoutError):
            kind = kind or FailureKind.TIMEOUT
        elif isinstance(link, OSError):
            kind = kind or FailureKind.TCP
            at_once = at_once or (
                isinstance(link, (ConnectionRefusedError, ssl.SSLError, socket.gaierror))
                or link.errno in _CONNECT_ERRNOS
            )
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return kind or FailureKind.HTTP, at_once


# --- Configuration ----------------------------------------------------------------------------

_UPSTREAM_FIELDS = frozenset(
    {
        "id",
        "name",
        "desc",
        "description",
        "labels",
        "create_time",
        "update_time",
        "type",
        "nodes",
        "retries",
        "retry_timeout",
        "timeout",
        "tls",
        "keepalive_pool",
        "checks",
        "scheme",
        "pass_host",
        "upstream_host",
    }
)
_DEFAULT_PORTS = {"http": 80, "grpc": 80, "https": 443, "grpcs": 443}
_PROBE_DEFAULTS = Thresholds(successes=2, http_failures=5, tcp_failures=2, timeouts=3)


def _nodes_of(config: Mapping[str, Any]) -> list[Node]:
    nodes = config.get("nodes")
    scheme = config.get("scheme", "http")
    if not isinstance(scheme, str):
        raise ConfigError(f"upstream.scheme: a text is needed, not {scheme!r}")
    port = _DEFAULT_PORTS.get(scheme, 80)
    if isinstance(nodes, Mapping):
        return [
            _node_of(
                {"host": host, "port": own_port or port, "weight": weight}, port, f"upstream.nodes.{name}"
            )
            for name, weight in nodes.items()
            for host, own_port in [_split_address(str(name))]
        ]
    if isinstance(nodes, list | tuple):
        return [_node_of(node, port, f"upstream.nodes[{index}]") for index, node in enumerate(nodes)]
    raise ConfigError("upstream.nodes: a list of nodes or a map of host:port to weight is needed")


def _node_of(config: Any, default_port: int, path: str) -> Node:
    if not isinstance(config, Mapping):
        raise ConfigError(f"{path}: a node object is needed, not {config!r}")
    host = config.get("host")
    if not isinstance(host, str) or not host:
        raise ConfigError(f"{path}.host: a name or address is needed, not {host!r}")
    port = _integer(config, "port", path, default_port, 1, 65535)
    if config.get("weight") is None:
        raise ConfigError(f"{path}.weight: missing")
    weight = _integer(config, "weight", path, 1, 0)
    priority = _integer(config, "priority", path, 0)
    node = Node(host, port, weight, priority)
    node.data = config
    return node


def _split_address(address: str) -> tuple[str, int | None]:
    """``host``, ``host:port``, ``[v6]`` or ``[v6]:port``."""
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or (":" in host and not host.endswith("]")):
        return address.strip("[]"), None
    if not port.isdecimal():
        raise ConfigError(f"upstream.nodes.{address}: the port must be a number")
    return host.strip("[]"), int(port)


def _health_of(checks: Any) -> HealthPolicy:
    if checks is None:
        return HealthPolicy()
    _check_fields(checks, frozenset({"active", "passive", "account"}), "upstream.checks")
    active = _section(checks, "active", "upstream.checks")
    passive = _section(checks, "passive", "upstream.checks")
    up = _section(passive, "healthy", "upstream.checks.passive")
    down = _section(passive, "unhealthy", "upstream.checks.passive")
    path = "upstream.checks.active"
    intervals = [
        _integer(_section(active, side, path), "interval", f"{path}.{side}", 1, 1)
        for side in ("healthy", "unhealthy")
    ]
    built_in = HealthPolicy()
    assert built_in.passive is not None
    return HealthPolicy(
        passive=_thresholds(passive, built_in.passive, "upstream.checks.passive"),
        active=_thresholds(active, _PROBE_DEFAULTS, "upstream.checks.active") if "active" in checks else None,
        # A number of connection failures that the user wrote replaces "one is enough".
        eject_on_connect_failure="tcp_failures" not in down,
        probe_hold_s=max(built_in.probe_hold_s, 3.0 * max(intervals)),
        passive_success_statuses=_statuses(up, "upstream.checks.passive.healthy"),
        passive_failure_statuses=_statuses(down, "upstream.checks.passive.unhealthy"),
    )


def _thresholds(section: Mapping[str, Any], defaults: Thresholds, path: str) -> Thresholds:
    up = _section(section, "healthy", path)
    down = _section(section, "unhealthy", path)
    return Thresholds(
        _integer(up, "successes", f"{path}.healthy", defaults.successes, 0, 254),
        _integer(down, "http_failures", f"{path}.unhealthy", defaults.http_failures, 0, 254),
        _integer(down, "tcp_failures", f"{path}.unhealthy", defaults.tcp_failures, 0, 254),
        _integer(down, "timeouts", f"{path}.unhealthy", defaults.timeouts, 0, 254),
    )


def _statuses(section: Mapping[str, Any], path: str) -> frozenset[int] | None:
    statuses = section.get("http_statuses")
    if statuses is None:
        return None
    if not isinstance(statuses, list | tuple) or not all(type(status) is int for status in statuses):
        raise ConfigError(f"{path}.http_statuses: a list of statuses is needed, not {statuses!r}")
    return frozenset(statuses)


def _section(config: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    section = config.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{path}.{name}: an object is needed, not {section!r}")
    return section


def _check_fields(config: Any, known: frozenset[str], path: str) -> None:
    if not isinstance(config, Mapping):
        raise ConfigError(f"{path}: an object is needed, not {config!r}")
    unknown = sorted(str(name) for name in config if name not in known)
    if unknown:
        raise ConfigError(f"{path}: unknown or unsupported: {', '.join(unknown)}")


def _integer(
    config: Mapping[str, Any],
    name: str,
    path: str,
    default: int,
    low: int = -(2**31),
    high: int = 2**31 - 1,
) -> int:
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{path}.{name}: an integer from {low} to {high} is needed, not {value!r}")
    return value


def _seconds(config: Mapping[str, Any], name: str, path: str) -> float:
    value = config.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigError(f"{path}.{name}: a number of seconds is needed, not {value!r}")
    return float(value)
