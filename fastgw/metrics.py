"""What is counted of requests, attempts and probes, for ``GET /metrics``.

A ``Recorder`` registers its series when a configuration is loaded and hangs their numbers on the
route plans and node links; a finished exchange is then one call and a handful of additions in
memory that all workers share. What is rare and of a small vocabulary (a status code, an outcome) is
registered when it is first seen. No label comes from a client: routes, upstreams and nodes are the
configuration's, codes and outcomes are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from ._clock import monotonic
from ._shm import MetricKind, Metrics
from .balancing.upstream import Upstream
from .llm.account import Finding, Standing
from .llm.usage import Usage, usage_of
from .proxy.answering import Answering
from .proxy.plan import NodeLink, RoutePlan

logger = logging.getLogger("fastgw.metrics")

# Upper bounds in seconds; a last one without a bound is implied.
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
OVERHEAD_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)

INTER_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, kind, label names and what it says.

    ``is_read``: it is not counted but read from the running configuration when somebody asks.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    is_read: bool = False


_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

REQUESTS = Family(
    "fastgw_requests_total",
    _COUNTER,
    "Requests that ended, by the status the client got; 499: it left before it got one."
    " The route is empty where none matched.",
    ("route", "code", "stream"),
)
REQUEST_DURATION = Family(
    "fastgw_request_duration_seconds",
    _HISTOGRAM,
    "From a request's head to the end of its answer, the client's own slowness included;"
    " without requests that were answered before an attempt was considered.",
    ("route",),
    REQUEST_BUCKETS,
)
OVERHEAD = Family(
    "fastgw_gateway_overhead_seconds",
    _HISTOGRAM,
    "Of each answer that a node gave: from the request's head to the start of its first attempt, with the"
    " time the client took to send the body, and from the last read of the node's answer to the last write.",
    (),
    OVERHEAD_BUCKETS,
)
FIRST_TOKEN = Family(
    "fastgw_time_to_first_token_seconds",
    _HISTOGRAM,
    "From the head of a request for a stream to the first content of its answer, failed attempts included.",
    ("route", "node"),
    FIRST_TOKEN_BUCKETS,
)
INTER_TOKEN = Family(
    "fastgw_inter_token_seconds",
    _HISTOGRAM,
    "Of each whole stream that told its usage: the mean time between two tokens, from the first content to"
    " the last byte.",
    ("route", "node"),
    INTER_TOKEN_BUCKETS,
)
TOKENS = Family(
    "fastgw_tokens_total",
    _COUNTER,
    "Tokens as the providers counted them in their answers; cached ones are prompt tokens too. The model is"
    " the one that the node's model map sends, or other.",
    ("node", "model", "kind"),
)
ATTEMPTS = Family(
    "fastgw_upstream_requests_total",
    _COUNTER,
    "Attempts that ended, by outcome, in the words of the access log.",
    ("upstream", "node", "outcome"),
)
ATTEMPT_DURATION = Family(
    "fastgw_upstream_duration_seconds",
    _HISTOGRAM,
    "From an attempt's request to its end, whatever the outcome; a new connection's making is in it only"
    " where that failed.",
    ("upstream", "node"),
    REQUEST_BUCKETS,
)
RETRIES = Family(
    "fastgw_retries_total",
    _COUNTER,
    "Attempts after the first one of a request, by the outcome of the attempt before.",
    ("upstream", "reason"),
)
FAILOVERS = Family(
    "fastgw_failovers_total",
    _COUNTER,
    "Requests that moved on from one node to another.",
    ("upstream", "from_node", "to_node"),
)
INTERRUPTED = Family(
    "fastgw_streams_interrupted_total",
    _COUNTER,
    "Answers that broke off after their first content had been sent.",
)
RESUMED = Family(
    "fastgw_streams_resumed_total",
    _COUNTER,
    "Answers that broke off after their first content and went on on another node.",
)
BUDGET_EXHAUSTED = Family(
    "fastgw_retry_budget_exhausted_total",
    _COUNTER,
    "Attempts that were not made because too many of late were retries.",
)
DUPLICATE_RISK = Family(
    "fastgw_duplicate_risk_total",
    _COUNTER,
    "Requests sent again although a node may already have run them, by the outcome of that attempt.",
    ("cause",),
)
DISCONNECTS = Family(
    "fastgw_client_disconnects_total",
    _COUNTER,
    "Clients that left before their answer's end: while they sent the request (reading), before the first"
    " content (waiting), after it (relaying).",
    ("phase",),
)
PROBES = Family(
    "fastgw_health_checks_total",
    _COUNTER,
    "Probes that ended, by what they said of the node.",
    ("upstream", "node", "result"),
)
ACCOUNT_CHECKS = Family(
    "fastgw_account_checks_total",
    _COUNTER,
    "Free requests of our own to a node's provider that ended, by what they said of our account there.",
    ("upstream", "node", "result"),
)
MODEL_MISSING = Family(
    "fastgw_model_missing",
    _GAUGE,
    "1 if the provider does not offer a model that the node's model map sends; else 0.",
    ("upstream", "node", "model"),
)
# The worker that checks accounts says what it has found in these; read and shown by ``admin``.
ACCOUNT_STANDING = Family("fastgw_account_standing", _GAUGE, "", ("upstream", "node"))
ACCOUNT_CHECKED_MS = Family("fastgw_account_checked_milliseconds", _GAUGE, "", ("upstream", "node"))
ACCOUNT_GOOD = Family(
    "fastgw_account_good",
    _GAUGE,
    "1 if the last account check found the node's key, balance and mapped models good; else 0."
    " Absent where there is no such check, or it can say nothing.",
    ("upstream", "node"),
    is_read=True,
)
ACCOUNT_CHECKED = Family(
    "fastgw_account_check_timestamp_seconds",
    _GAUGE,
    "When the node's account was checked last, since 1970.",
    ("upstream", "node"),
    is_read=True,
)
CONNECTIONS = Family(
    "fastgw_connections",
    _GAUGE,
    "Open connections to clients (busy: with a request under way) and to nodes.",
    ("side", "state"),
)
EVICTED = Family(
    "fastgw_connections_evicted_total",
    _COUNTER,
    "Client connections closed to make room near max_connections: slow with their first head, or idle.",
    ("reason",),
)
ACCEPT_PAUSES = Family(
    "fastgw_accept_pauses_total",
    _COUNTER,
    "Times that no further connections were accepted, because max_connections was reached or file"
    " descriptors ran short.",
)
STALE_REUSES = Family(
    "fastgw_stale_reuses_total",
    _COUNTER,
    "Requests sent once more to the same node because it had closed their idle connection meanwhile.",
)
LOG_DROPPED = Family(
    "fastgw_access_log_dropped_total",
    _COUNTER,
    "Lines of the access log that are lost: it could not be written, or not as fast as it grew.",
)
OVERLOADED = Family(
    "fastgw_overloaded_workers",
    _GAUGE,
    "Workers that are near their memory_limit and refuse new requests.",
)
REFUSED_SERIES = Family(
    "fastgw_metrics_refused_series_total",
    _COUNTER,
    "Series that found no room in the memory for metrics and are not counted.",
)
# In the shared memory as a gauge of failures, so that one worker's is seen by all.
RELOAD_FAILED = Family("fastgw_config_last_reload_failed", _GAUGE, "")
RELOAD_SUCCESSFUL = Family(
    "fastgw_config_last_reload_successful",
    _GAUGE,
    "1 if the last reload succeeded in every worker, or none was asked for; else 0.",
    is_read=True,
)
NODE_UP = Family(
    "fastgw_node_up",
    _GAUGE,
    "1 if the node takes traffic: not ejected, not resting, its key not refused; else 0.",
    ("upstream", "node"),
    is_read=True,
)
NODE_EJECTED = Family(
    "fastgw_node_ejected",
    _GAUGE,
    "1 if the node is out as unhealthy, by live traffic or by probes, else 0.",
    ("upstream", "node"),
    is_read=True,
)
NODE_DEAD = Family(
    "fastgw_node_dead",
    _GAUGE,
    "1 if the node's key is refused or its account empty, so that it takes no requests; else 0.",
    ("upstream", "node"),
    is_read=True,
)
NODE_COOLING = Family(
    "fastgw_node_cooling_seconds",
    _GAUGE,
    "How long the node still rests because it said that it is busy; 0: it does not.",
    ("upstream", "node"),
    is_read=True,
)
BACKUP_READY = Family(
    "fastgw_backup_ready",
    _GAUGE,
    "1 if another node could take over should the one that is preferred fail now: it is up, and its"
    " account was found good wherever that is checked; else 0.",
    ("upstream",),
    is_read=True,
)
BUILD_INFO = Family(
    "fastgw_build_info", _GAUGE, "Always 1; the version is its label.", ("version",), is_read=True
)

COUNTED = (
    REQUESTS,
    REQUEST_DURATION,
    OVERHEAD,
    FIRST_TOKEN,
    INTER_TOKEN,
    TOKENS,
    ATTEMPTS,
    ATTEMPT_DURATION,
    RETRIES,
    FAILOVERS,
    INTERRUPTED,
    RESUMED,
    BUDGET_EXHAUSTED,
    DUPLICATE_RISK,
    DISCONNECTS,
    PROBES,
    ACCOUNT_CHECKS,
    MODEL_MISSING,
    CONNECTIONS,
    EVICTED,
    ACCEPT_PAUSES,
    STALE_REUSES,
    LOG_DROPPED,
    OVERLOADED,
    REFUSED_SERIES,
)
READ = (
    NODE_UP,
    NODE_EJECTED,
    NODE_DEAD,
    NODE_COOLING,
    BACKUP_READY,
    ACCOUNT_GOOD,
    ACCOUNT_CHECKED,
    RELOAD_SUCCESSFUL,
    BUILD_INFO,
)
HIDDEN = (RELOAD_FAILED, ACCOUNT_STANDING, ACCOUNT_CHECKED_MS)  # in the memory, and shown otherwise

_SUCCEEDED = "succeeded"
_MISFIT = "misfit"  # the record of a node that cannot take the request: no attempt
# A rate sees no first event of a series that was not there before it. Pairs of more nodes than
# this would be too many series to have ready.
MAX_PAIRED = 8
TOKEN_KINDS = ("prompt", "completion", "cached")
OTHER = "other"
PHASES = ("reading", "waiting", "relaying")
PROBE_RESULTS = ("success", "failure", "ignored")
STANDINGS = tuple(Standing)  # in the memory as its place in this, from 1
CONNECTION_STATES = (
    ("client", "busy"),
    ("client", "idle"),
    ("node", "busy"),
    ("node", "idle"),
    ("node", "dialling"),
)


class RouteSeries:
    """The numbers of one route's series; ``codes`` are by status, but for 200."""

    def __init__(self, route: str, ok: int, ok_stream: int, duration: int) -> None:
        self.route = route
        self.ok = ok
        self.ok_stream = ok_stream
        self.duration = duration
        self.codes: dict[int, int] = {}
        self.stream_codes: dict[int, int] = {}


class TokenSeries:
    """The numbers of the series of one node's tokens, of one model."""

    def __init__(self, prompt: int, completion: int, cached: int) -> None:
        self.prompt = prompt
        self.completion = completion
        self.cached = cached


class LinkSeries:
    """The numbers of one node's series, as one route uses it; ``outcomes`` are by name.

    ``models`` are the names that the configuration says are sent; all others are counted as OTHER.
    ``tokens`` are by model.
    """

    def __init__(
        self,
        upstream: str,
        node: str,
        succeeded: int,
        duration: int,
        first_token: int,
        inter_token: int,
        models: frozenset[str],
    ) -> None:
        self.upstream = upstream
        self.node = node
        self.succeeded = succeeded
        self.duration = duration
        self.first_token = first_token
        self.inter_token = inter_token
        self.models = models
        self.outcomes: dict[str, int] = {}
        self.tokens: dict[str, TokenSeries] = {}


class Recorder:
    """Counts what a gateway does.

    Args:
        metrics: where; shared by the workers of one gateway.
        then: called with each finished exchange, and the Usage that its answer told or None, after it was
            counted, for the access log; or None.
        clock: monotonic seconds, as the exchanges have them; None: the process's own.
    """

    def __init__(
        self,
        metrics: Metrics,
        then: Callable[[Answering, Usage | None], None] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.metrics = metrics
        self.then = then
        self.clock = clock
        self.upstreams: tuple[tuple[str, Upstream], ...] = ()
        self._labels: dict[Upstream, str] = {}
        self._rare: dict[tuple[str, ...], int] = {}
        self._accounts: dict[tuple[Upstream, str], str] = {}  # the label of what is checked
        self._missing: dict[tuple[str, str], tuple[str, ...]] = {}
        self._seen_interrupted = 0
        self._seen_gone = 0
        self._seen_resumed = 0
        self._seen_refusals = 0
        self._is_full = False
        self._refused_series = -1
        self._refused_series = self._slot(REFUSED_SERIES)
        self._overhead = self._slot(OVERHEAD)
        self._interrupted = self._slot(INTERRUPTED)
        self._resumed = self._slot(RESUMED)
        self._budget_exhausted = self._slot(BUDGET_EXHAUSTED)
        self._reload_failed = self._slot(RELOAD_FAILED)
        self._overloaded = self._slot(OVERLOADED)
        self._gone = [self._slot(DISCONNECTS, phase) for phase in PHASES]
        self._connections = [self._slot(CONNECTIONS, *labels) for labels in CONNECTION_STATES]
        # In the order of count_defences.
        self._defences = [
            self._slot(EVICTED, "slow"),
            self._slot(EVICTED, "idle"),
            self._slot(ACCEPT_PAUSES),
            self._slot(STALE_REUSES),
            self._slot(LOG_DROPPED),
        ]
        self._seen_defences = [0] * len(self._defences)

    # --- Registering, when a configuration is loaded --------------------------------------------

    def register(self, plans: Iterable[RoutePlan]) -> None:
        """Give a configuration's routes and nodes their series; what is known keeps its figures.

        Series of what is no longer configured stay as they are.
        """
        plans = list(plans)
        self.upstreams = label_upstreams(plan.upstream for plan in plans if plan.upstream is not None)
        self._labels = {upstream: label for label, upstream in self.upstreams}
        for plan in plans:
            plan.metrics = self._route(plan)
            for link in plan.links:
                link.metrics = self._link(plan, link)
        for label, upstream in self.upstreams:
            if len(upstream.nodes) <= MAX_PAIRED:
                for one, other in permutations(upstream.nodes, 2):
                    self._slot(FAILOVERS, label, one.name, other.name)

    def _route(self, plan: RoutePlan) -> RouteSeries:
        name = plan.name
        return RouteSeries(
            name,
            self._slot(REQUESTS, name, "200", "false"),
            self._slot(REQUESTS, name, "200", "true") if plan.is_llm else -1,
            self._slot(REQUEST_DURATION, name),
        )

    def _link(self, plan: RoutePlan, link: NodeLink) -> LinkSeries:
        upstream = self._labels[plan.upstream]  # type: ignore[index]
        return LinkSeries(
            upstream,
            link.name,
            self._slot(ATTEMPTS, upstream, link.name, _SUCCEEDED),
            self._slot(ATTEMPT_DURATION, upstream, link.name),
            self._slot(FIRST_TOKEN, plan.name, link.name) if plan.is_llm else -1,
            self._slot(INTER_TOKEN, plan.name, link.name) if plan.is_llm else -1,
            link.adapter.models_named() if link.adapter is not None else frozenset(),
        )

    def _slot(self, family: Family, *labels: str) -> int:
        """The number of a series; without room for it one that counts nothing, and that is counted."""
        try:
            return self.metrics.register(family.name, family.kind, labels, family.buckets)
        except (ValueError, TimeoutError) as error:  # no room, or its lock's holder stands still
            if not self._is_full:
                logger.error("metrics have no room, what is new is not counted: %s", error)
            self._is_full = True
            self.metrics.add(self._refused_series)
            return -1

    # --- Requests -------------------------------------------------------------------------------

    def on_finished(self, exchange: Answering) -> None:
        """Count an exchange that has ended. This runs for every request."""
        now = monotonic() if self.clock is None else self.clock()
        metrics = self.metrics
        plan = exchange.plan
        route = plan.metrics
        records = exchange.records
        if route is not None:
            if exchange.status == 200 and not exchange.wants_stream:
                metrics.add(route.ok)
            elif exchange.status == 200:
                metrics.add(route.ok_stream)
            else:
                metrics.add(self._code(route, exchange))
            metrics.observe(route.duration, now - exchange.started_at)
            if len(records) == 1:
                self._attempt(exchange.link, records[0])
            elif records:
                self._attempts(exchange)
            if exchange.first_content_at > 0:
                before = exchange.attempt_started - exchange.started_at
                metrics.observe(self._overhead, before + now - exchange.last_byte_at)
                if exchange.wants_stream and exchange.status < 300:
                    self._first_token(exchange)
        exchanges = exchange.exchanges
        if exchanges.interrupted != self._seen_interrupted:
            self._seen_interrupted = exchanges.interrupted
            metrics.add(self._interrupted)
        if exchanges.client_gone != self._seen_gone:
            self._seen_gone = exchanges.client_gone
            self._disconnected(exchange)
        if exchanges.resumed != self._seen_resumed:
            metrics.add(self._resumed, exchanges.resumed - self._seen_resumed)
            self._seen_resumed = exchanges.resumed
        if exchanges.budget_refusals != self._seen_refusals:
            metrics.add(self._budget_exhausted, exchanges.budget_refusals - self._seen_refusals)
            self._seen_refusals = exchanges.budget_refusals
        usage = None
        if plan.is_llm and 200 <= exchange.status < 300:
            usage = self._usage(exchange)
        then = self.then
        if then is not None:
            then(exchange, usage)

    def _usage(self, exchange: Answering) -> Usage | None:
        """What the answer said it cost, once it is counted; None if it said nothing."""
        relay = exchange.relay
        scanner = relay.scanner if relay is not None else None
        document = exchange.answer if scanner is None else scanner.usage_data
        if document is None:
            return None
        usage = usage_of(document)
        link = exchange.link
        if usage is None or link is None or link.metrics is None:
            return usage
        series = link.metrics
        tokens = self._tokens(series, link, exchange)
        metrics = self.metrics
        if usage.prompt > 0:
            metrics.add(tokens.prompt, usage.prompt)
        if usage.cached > 0:
            metrics.add(tokens.cached, usage.cached)
        if usage.completion > 0:
            metrics.add(tokens.completion, usage.completion)
            if exchange.wants_stream and usage.completion > 1 and not exchange.note:
                spent = exchange.last_byte_at - exchange.first_content_at
                metrics.observe(series.inter_token, spent / (usage.completion - 1))
        return usage

    def _tokens(self, series: LinkSeries, link: NodeLink, exchange: Answering) -> TokenSeries:
        """The series of the model that was sent."""
        model = OTHER
        facts = exchange.facts
        if series.models and facts is not None and facts.model is not None:
            sent = link.adapter.model_for(facts.model) if link.adapter is not None else None
            if sent in series.models:
                model = sent
        tokens = series.tokens.get(model)
        if tokens is None:
            tokens = TokenSeries(*[self._slot(TOKENS, link.name, model, kind) for kind in TOKEN_KINDS])
            series.tokens[model] = tokens
        return tokens

    def _code(self, route: RouteSeries, exchange: Answering) -> int:
        """The series of a status that is not 200."""
        codes = route.stream_codes if exchange.wants_stream else route.codes
        slot = codes.get(exchange.status)
        if slot is None:
            is_stream = "true" if exchange.wants_stream else "false"
            slot = self._slot(REQUESTS, route.route, code_of(exchange.status), is_stream)
            codes[exchange.status] = slot
        return slot

    def _attempt(self, link: NodeLink | None, record: tuple[str, str, int, float]) -> None:
        """Count one attempt."""
        series = link.metrics if link is not None else None
        if series is None:
            return
        # Its writer's text is one object with ours: the interpreter keeps one of each.
        if record[1] is _SUCCEEDED:
            self.metrics.add(series.succeeded)
        else:
            self.metrics.add(self._outcome(series, record[1]))
            if record[1] == _MISFIT:
                return  # nothing was sent that could have taken any time
        self.metrics.observe(series.duration, record[3])

    def _outcome(self, series: LinkSeries, outcome: str) -> int:
        """The series of an outcome, whichever it is."""
        slot = series.outcomes.get(outcome)
        if slot is None:
            slot = self._slot(ATTEMPTS, series.upstream, series.node, outcome)
            series.outcomes[outcome] = slot
        return slot

    def _attempts(self, exchange: Answering) -> None:
        """Count the attempts of a request that was retried, and why it was."""
        plan = exchange.plan
        assert plan.upstream is not None
        upstream = self._labels.get(plan.upstream, plan.upstream.name)
        links = {link.name: link for link in plan.links}
        before = None
        for record in exchange.records:
            self._attempt(links.get(record[0]), record)
            if record[1] == _MISFIT:
                continue
            if before is not None:
                self._count(RETRIES, upstream, before[1])
                if before[0] != record[0]:
                    self._count(FAILOVERS, upstream, before[0], record[0])
            before = record
        # The attempt with this number may have run, and another one followed it.
        if 0 < exchange.uncertain < len(exchange.records):
            self._count(DUPLICATE_RISK, exchange.records[exchange.uncertain - 1][1])

    def _first_token(self, exchange: Answering) -> None:
        link = exchange.link
        series = link.metrics if link is not None else None
        if series is not None:
            self.metrics.observe(series.first_token, exchange.first_content_at - exchange.started_at)

    def _disconnected(self, exchange: Answering) -> None:
        phase = 2 if exchange.first_content_at > 0 else 1 if exchange.body_complete else 0
        self.metrics.add(self._gone[phase])

    def _count(self, family: Family, *labels: str) -> None:
        """Add to a series that is not worth a place of its own."""
        key = (family.name, *labels)
        slot = self._rare.get(key)
        if slot is None:
            slot = self._rare[key] = self._slot(family, *labels)
        self.metrics.add(slot)

    def answered(self, route: str, status: int) -> None:
        """Count a request that was answered without an exchange; ``route`` is empty if none matched."""
        self._count(REQUESTS, route, code_of(status), "false")

    # --- Probes, connections, reloads -----------------------------------------------------------

    def probed(self, upstream: Upstream, node: Any, result: str) -> None:
        """Count a probe; ``result`` is one of PROBE_RESULTS."""
        label = self._labels.get(upstream, upstream.name)
        if (PROBES.name, label, node.name, result) not in self._rare:
            for each in PROBE_RESULTS:
                self._slot(PROBES, label, node.name, each)
        self._count(PROBES, label, node.name, result)

    def checked(self, upstream: Upstream, node: Any, finding: Finding | None) -> None:
        """Take down what an account check has found; None: the node is no longer checked."""
        label = self._accounts.get((upstream, node.name)) or self._labels.get(upstream, upstream.name)
        place = (label, node.name)
        if finding is None:
            self._accounts.pop((upstream, node.name), None)
        else:
            self._accounts[upstream, node.name] = label
            self._count(ACCOUNT_CHECKS, *place, finding.standing)
        self._set(STANDINGS.index(finding.standing) + 1 if finding else 0, ACCOUNT_STANDING, *place)
        self._set(int(self._now() * 1000) if finding else 0, ACCOUNT_CHECKED_MS, *place)
        missing = finding.missing if finding is not None else ()
        known = self._missing.get(place, ())
        for model in dict.fromkeys((*known, *missing)):
            self._set(int(model in missing), MODEL_MISSING, *place, model)
        self._missing[place] = missing

    def _now(self) -> float:
        return monotonic() if self.clock is None else self.clock()

    def _set(self, value: int, family: Family, *labels: str) -> None:
        """Set a gauge that is not worth a place of its own."""
        key = (family.name, *labels)
        slot = self._rare.get(key)
        if slot is None:
            slot = self._rare[key] = self._slot(family, *labels)
        self.metrics.set(slot, value)

    def set_connections(self, *, clients: int, requests: int, busy: int, idle: int, dialling: int) -> None:
        """Say how many connections this process has: to clients, of them with a request, and to nodes."""
        figures = (requests, max(0, clients - requests), busy, idle, dialling)
        for slot, figure in zip(self._connections, figures, strict=True):
            self.metrics.set(slot, figure)

    def count_defences(
        self, *, slow_evicted: int, idle_evicted: int, accept_pauses: int, stale_reuses: int, log_dropped: int
    ) -> None:
        """Say how often this process has done, since its start, what it does where something is short."""
        figures = [slow_evicted, idle_evicted, accept_pauses, stale_reuses, log_dropped]
        for slot, figure, seen in zip(self._defences, figures, self._seen_defences, strict=True):
            if figure != seen:
                self.metrics.add(slot, figure - seen)
        self._seen_defences = figures

    def set_overloaded(self, is_overloaded: bool) -> None:
        """Say whether this process refuses new requests for want of memory."""
        self.metrics.set(self._overloaded, int(is_overloaded))

    def set_reload(self, succeeded: bool) -> None:
        """Say how this process's last reload went."""
        self.metrics.set(self._reload_failed, int(not succeeded))


def code_of(status: int) -> str:
    """A status as a label: a node could answer with any number, the label has a bound."""
    return str(status) if 100 <= status <= 599 else "other"


def label_upstreams(upstreams: Iterable[Upstream]) -> tuple[tuple[str, Upstream], ...]:
    """(label, upstream) of each one: its name, with a number behind it if that is taken already."""
    labels: dict[str, Upstream] = {}
    for upstream in dict.fromkeys(upstreams):
        label, number = upstream.name, 1
        while label in labels:
            number += 1
            label = f"{upstream.name}#{number}"
        labels[label] = upstream
    return tuple(labels.items())
