"""An upstream: the nodes of one service, and attempts on them that end with exactly one outcome.

Late news is dropped. Every attempt remembers its node's generation and verdict as of the pick: an
outcome from before an ejection neither ejects again nor heals, and a trial's failure counts only
if nothing else has been learned about the node meanwhile. Whatever the outcome does, it gives the
node's in-flight place and the trial back.

A node may be shared with other worker processes. An outcome that changes its standing looks and acts
in one step (``Node.enter``), and gives a trial back after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from random import Random

from fastgw._core import Pick, PickKind, Selector, Tried
from fastgw._node import Node
from fastgw.balancing.health import HealthPolicy, Thresholds
from fastgw.balancing.models import ModelTable
from fastgw.balancing.retry import FAILING_MIN_REQUESTS, FAILING_PERCENT


class AttemptOutcome(IntEnum):
    """How an attempt ended; also the index in ``Node.outcomes``."""

    PENDING = 0
    SUCCEEDED = 1
    BUSY = 2
    FAILED = 3
    DEAD = 4
    FORBIDDEN = 5
    IGNORED = 6
    ABANDONED = 7  # dropped without an outcome; the kernel counts it


# The same numbers as C integers (see the .pxd), and those of _core.PickKind and _core.Cause.
_SUCCEEDED = 1
_BUSY = 2
_FAILED = 3
_DEAD = 4
_FORBIDDEN = 5
_IGNORED = 6
_HTTP = 1  # an errors.FailureKind
PANIC_STEPS = 256  # the first pause of panic is this part of the longest: every other request may be answered

_NORMAL = 0
_TRIAL = 1
_PANIC = 2
_ACTIVE = 2

_FAILURE_MEMORY_S = 600.0  # so long a failure of live traffic is not wiped away by a probe's success


class Upstream:
    """A named set of nodes with balancing, health and retry policy.

    Args:
        nodes: at most 1,024; their order is their position.
        health: how outcomes and probes move health; None for the defaults.
        name: for logs and metrics.
        retries: attempts after the first one; None for one per further node.
        retry_timeout_s: no retry begins later than this after the first attempt; 0 = no limit.
        random: returns a number in [0, 1), for jitter. One of its own by default.
        stagger: ``(worker, workers)``, see Selector. None: as the table of the nodes says.
    Raises:
        ValueError: too many nodes, one of them twice, or a negative number.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        health: HealthPolicy | None = None,
        *,
        name: str = "",
        retries: int | None = None,
        retry_timeout_s: float = 0.0,
        random: Callable[[], float] | None = None,
        stagger: tuple[int, int] | None = None,
    ) -> None:
        policy = health if health is not None else HealthPolicy()
        self.name = name
        self.nodes = tuple(nodes)
        self.by_name = {node.name: node for node in reversed(self.nodes)}  # of two namesakes the first
        self.retries = retries if retries is not None else max(0, len(self.nodes) - 1)
        self.retry_timeout_s = retry_timeout_s
        if self.retries < 0 or self.retry_timeout_s < 0:
            raise ValueError("retries and retry_timeout_s must not be negative")
        self.health = policy
        self._random = random if random is not None else Random().random
        self._selector = Selector(
            self.nodes,
            panic=policy.panic,
            panic_in_flight=policy.panic_in_flight,
            trials=policy.trials,
            trial_lease_s=policy.trial_lease_s,
            slow_start_s=policy.slow_start_s,
            stagger=stagger,
        )

        passive = policy.passive if policy.passive is not None else Thresholds(0, 0, 0, 0)
        # Do statuses of answers that were passed on count, other than as successes?
        self.judges_statuses = (
            policy.passive_failure_statuses is not None or policy.passive_success_statuses is not None
        )
        self._counts = policy.passive is not None
        self._limit_success = passive.successes
        self._limit_http = passive.http_failures
        self._limit_tcp = passive.tcp_failures
        self._limit_timeout = passive.timeouts
        active = policy.active if policy.active is not None else Thresholds(0, 0, 0, 0)
        self._probes = policy.active is not None
        self._probe_success = active.successes
        self._probe_http = active.http_failures
        self._probe_tcp = active.tcp_failures
        self._probe_timeout = active.timeouts

        self._counts_late = not policy.trials  # APISIX counts every report, however late
        self._trial_decides = policy.heal_by_probe_only_after_trial
        self._ejects_at_once = policy.eject_on_connect_failure
        self._ejection_s = policy.ejection_s
        self._ejection_max_s = policy.ejection_max_s
        self._jitter = policy.ejection_jitter
        self._rate_min = policy.rate_min_requests if policy.rate_percent else 0
        self._rate_percent = policy.rate_percent
        self._forbidden_needed = policy.forbidden_needed
        self._busy_s = policy.busy_default_s
        self._busy_max_s = policy.busy_max_s
        self._overload_s = policy.overload_default_s
        self._cooling_max_s = policy.cooling_max_s
        self._dead_s = policy.dead_reprobe_s
        self._dead_max_s = policy.dead_reprobe_max_s
        self._panic_pause_s = policy.panic_pause_s
        self._panic_first_s = policy.panic_pause_s / PANIC_STEPS
        self._probe_hold_s = policy.probe_hold_s
        self._ramp_after_s = policy.slow_start_after_s if policy.slow_start_s else 0.0
        self.models = ModelTable(
            busy_s=policy.busy_default_s,
            busy_max_s=policy.busy_max_s,
            cooling_max_s=policy.cooling_max_s,
            misfit_s=policy.misfit_s,
            misfit_max_s=policy.misfit_max_s,
            trial_lease_s=policy.trial_lease_s,
        )

    def __repr__(self) -> str:
        return f"<Upstream {self.name + ' ' if self.name else ''}{list(self.nodes)}>"

    # --- Attempts ---

    def start_attempt(self, now: float, tried: Tried | None = None) -> Attempt | None:
        """Begin an attempt on the next node, or None: nothing may be picked now.

        Args:
            now: monotonic time, seconds.
            tried: what this exchange has tried; the node picked is added to it.
        """
        attempt = Attempt.__new__(Attempt)
        if not self._selector.pick_into(attempt, now, tried):
            return None
        attempt.owner = self
        return attempt

    def has_open(self, now: float, tried: Tried) -> bool:
        """Would ``start_attempt`` begin one now, on a node that is not out itself? Nothing is begun."""
        return self._selector.has_open(now, tried)

    def awaits_verdict(self, now: float, tried: Tried | None) -> bool:
        """Could ``start_attempt`` begin one if requests under way had found out how a node is?"""
        return self._selector.awaits_verdict(now, tried)

    def start_for(
        self, now: float, tried: Tried, models: tuple[str, ...], scopes: tuple[bytes, ...], insists: bool
    ) -> Attempt | None:
        """As ``start_attempt`` for a request of which more is known: nodes that are known to refuse its

        model are left out.

        Args:
            tried: what the exchange has tried; those that are left out are added as skipped.
            models: the model each node would be sent, by position.
            scopes: what else of it a node may refuse: see ``ModelTable``.
            insists: where only nodes are left that do not have the model, they are asked all the same,
                the one first that may have it soonest. A rate limit is never tried against.
        """
        table = self.models
        misfits, is_limited = self.skip_resting(now, tried, models, scopes)
        attempt = self.start_attempt(now, tried)
        if attempt is None and insists and not is_limited:
            for _, position in sorted(misfits):
                alone = Tried()
                for other in range(len(models)):
                    if other != position:
                        alone.skip(other)
                attempt = self.start_attempt(now, alone)
                if attempt is not None:
                    break
        if attempt is not None:
            table.claim(attempt.position, models[attempt.position], scopes, now)
        return attempt

    def skip_resting(
        self, now: float, tried: Tried, models: tuple[str, ...], scopes: tuple[bytes, ...]
    ) -> tuple[list[tuple[float, int]], bool]:
        """Leave out the nodes that are known to refuse a request's model; for the rest see ``start_for``.

        Returns:
            Those that do not have it, as (until when they are thought so, position), and whether a rate
            limit keeps it off a further one.
        """
        misfits = []
        is_limited = False
        for position, model in enumerate(models):
            if position in tried:
                continue
            rest = self.models.rest_of(position, model, scopes, now)
            if rest is None:
                continue
            tried.skip(position)
            if rest.is_limit:
                is_limited = True
            else:
                misfits.append((rest.until, position))
        return misfits, is_limited

    def is_limited(self, now: float, models: tuple[str, ...], scopes: tuple[bytes, ...]) -> bool:
        """Does a rate limit of its model keep a request off any node?"""
        for position, model in enumerate(models):
            rest = self.models.rest_of(position, model, scopes, now)
            if rest is not None and rest.is_limit:
                return True
        return False

    def skip_failing(self, now: float, tried: Tried) -> int | None:
        """Leave out the nodes that fail too often for a retry beyond the budget.

        Returns:
            The highest tier from which one was left out; None: there is none.
        """
        tiers = []
        for position, node in enumerate(self.nodes):
            if position not in tried and self.is_failing(node, now):
                tried.skip(position)
                tiers.append(node.priority)
        return max(tiers, default=None)

    def is_failing(self, node: Node, now: float) -> bool:
        """Has this node failed too much of its last 10 s for a retry to be free of charge?"""
        return node.is_failing(now, FAILING_MIN_REQUESTS, FAILING_PERCENT)

    def next_recovery(self, now: float) -> float:
        """When the first node is expected back, monotonic seconds; ``now`` if one is available."""
        return self._selector.next_recovery(now)

    def next_recovery_for(self, now: float, models: tuple[str, ...], scopes: tuple[bytes, ...]) -> float:
        """As ``next_recovery``, for a request as ``start_for`` knows it."""
        earliest = self.next_recovery(now) if not models else 0.0
        for position, model in enumerate(models):
            at = self.nodes[position].recovery(now, self.health.trials)
            rest = self.models.rest_of(position, model, scopes, now)
            if rest is not None:
                end = rest.ends_at(now)
                if end > at:
                    at = end
            if position == 0 or at < earliest:
                earliest = at
        return earliest

    # --- Probes ---

    def record_probe(self, node: Node, report: int, now: float, thresholds: Thresholds | None = None) -> bool:
        """Count the result of a probe against the active thresholds, or against the node's own.

        Unless the policy says otherwise, a success neither ends an ejection by live traffic (a
        trial does, and a failing probe keeps trials back) nor wipes away the failures that live
        traffic has counted so far.

        Args:
            report: a _core.Report.
            thresholds: of this node; None: those of the policy.
        Returns:
            Whether the node changed between usable and unusable.
        """
        if not self._probes:
            return False
        if report < 0 or report > 3:
            raise ValueError(f"not a kind of report: {report}")
        entered = node.enter()
        try:
            return self._count_probe(node, report, now, thresholds)
        finally:
            node.leave(entered)

    def _count_probe(self, node: Node, report: int, now: float, thresholds: Thresholds | None) -> bool:
        node.note_probe(report != 0, now + self._probe_hold_s)
        limit = self._probe_limit(report) if thresholds is None else thresholds.limit(report)
        if report:
            if not node.report(report, limit):
                return False
            node.eject(now, _ACTIVE)
            node.note_outage(now)
            return True
        if self._trial_decides:
            if not node.is_usable():
                if not node.is_out_by_probes():
                    return False
            elif node.traffic_failed_at and now - node.traffic_failed_at < _FAILURE_MEMORY_S:
                return False
        if not node.report(report, limit):
            return False
        node.heal(now, self._ramp_after_s)
        return True

    # --- Credentials ---

    def refuse_key(self, node: Node, now: float) -> float:
        """A request of our own found the node's credential refused, or its account empty.

        The same as an attempt's ``dead``, unless that is known already.

        Returns:
            The end of the term that this has set, monotonic seconds; 0 if it set none.
        """
        entered = node.enter()
        try:
            if node.dead_until > now:
                return 0.0
            return node.kill_for(now, self._dead_s, self._dead_max_s)
        finally:
            node.leave(entered)

    def accept_key(self, node: Node, until: float, now: float) -> bool:
        """A request of our own found the node's credential good.

        Args:
            until: what ``refuse_key`` returned: that term ends as if it had not been. For what live
                traffic has found since, or before, a trial is due: one request decides.
        Returns:
            Whether that changed anything.
        """
        return node.revive(until, now)

    # --- Policy ---

    def _spread(self) -> float:
        """The factor by which a term is jittered."""
        return 1.0 + self._jitter * (2.0 * self._random() - 1.0)

    def _limit(self, kind: int) -> int:
        if kind == 1:
            return self._limit_http
        return self._limit_tcp if kind == 2 else self._limit_timeout

    def _probe_limit(self, kind: int) -> int:
        if kind == 0:
            return self._probe_success
        if kind == 1:
            return self._probe_http
        return self._probe_tcp if kind == 2 else self._probe_timeout


class Attempt(Pick):
    """One try of an exchange on one node. Made by ``Upstream.start_attempt``.

    Exactly one of ``succeeded``, ``failed``, ``busy``, ``dead``, ``forbidden`` and ``ignored`` ends
    it; they return False, and do nothing, if it has ended before. One that is dropped without an
    outcome is nobody's fault either. ``kind`` is a _core.PickKind, ``outcome`` an AttemptOutcome (0 until
    it ended), ``owner`` its Upstream; times are monotonic seconds.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        if self.outcome < 0:
            return "<Attempt not begun>"
        outcome = AttemptOutcome(self.outcome).name.lower()
        kind = PickKind(self.kind).name.lower()
        return f"<Attempt {self.node.name} {kind} {outcome} started_at={self.started_at:.3f}>"

    # --- Underway ---

    def is_stale(self) -> bool:
        """The node was found out after this attempt had begun: one that still waits should move.

        Never where every report counts, however late (APISIX).
        """
        if not self.is_out_of_date():
            return False
        upstream = self.owner
        return not upstream._counts_late

    def answered(self, now: float) -> bool:
        """The answer's first content is here: a trial is passed now, not with the last of it.

        Optional; the outcome is still due, and a success is not counted twice. Of other attempts
        nothing is counted yet: a node that breaks every answer off must not earn credit by beginning.
        """
        if not self.answer():
            return False
        if self.kind != _NORMAL and self.node.note_result(False, now):
            self._credit(now)
        return True

    # --- The one outcome ---

    def succeeded(self, now: float) -> bool:
        """The node did its work, or refused a request that was the caller's own fault."""
        if not self.end(_SUCCEEDED):
            return False
        if (self.kind == _NORMAL or not self.has_answered) and self.node.note_result(False, now):
            self._credit(now)
        return True

    def passed_on(self, status: int, now: float) -> bool:
        """An answer with this status was passed on, whole: a success, unless the policy judges statuses."""
        upstream = self.owner
        if not upstream.judges_statuses:
            return self.succeeded(now)
        failures = upstream.health.passive_failure_statuses
        successes = upstream.health.passive_success_statuses
        if failures is not None and status in failures:
            return self.failed(_HTTP, now)
        if successes is None or status in successes:
            return self.succeeded(now)
        return self.ignored(now)

    def failed(self, kind: int, now: float, at_once: bool = False) -> bool:
        """The node did not do its work. Ejects it when its policy says that this is enough.

        Args:
            kind: an errors.FailureKind.
            at_once: no connection could be made, which need not be seen twice.
        Raises:
            ValueError: no such kind; the attempt goes on.
        """
        if kind < 1 or kind > 3:
            raise ValueError(f"not a kind of failure: {kind}")
        if not self.settle(_FAILED):
            return False
        entered = self.node.enter()
        try:
            self._blame(kind, now, at_once)
        finally:
            self.node.leave(entered)
            self.leave()
        return True

    def busy(self, until: float, now: float, overload: bool = False) -> bool:
        """The node is well but asks for rest: it cools, and no failure is counted.

        Args:
            until: monotonic seconds; not after ``now`` if the node named no time.
            overload: the node itself is overloaded (503, 529), it is not one key's limit (429).
        """
        if not self.settle(_BUSY):
            return False
        entered = self.node.enter()
        try:
            self._rest(until, now, overload)
        finally:
            self.node.leave(entered)
            self.leave()
        return True

    def busy_for(self, model: str, until: float, now: float) -> bool:
        """The node is well but asks for rest of one model, as ``busy`` otherwise.

        A second model that is limited at the same time makes it ``busy``: the limit is the node's.
        """
        if self.outcome:
            return False
        upstream = self.owner
        is_nodes = upstream.models.limited(
            self.position, model, self.started_at, until, now, upstream._spread()
        )
        if is_nodes:
            return self.busy(until, now)
        if self.kind != _NORMAL or not self.node.is_usable():
            self.node.hold_panic(now, upstream._panic_pause_s, upstream._panic_pause_s)
        return self.end(_BUSY)

    def misfit(self, model: str, scope: bytes, reason: str, now: float) -> bool:
        """The node does not have this model in this scope: ``ignored``, and not asked for it for a while."""
        if self.outcome:
            return False
        self.owner.models.misfit(self.position, model, scope, reason, self.started_at, now)
        return self.ignored(now)

    def dead(self, now: float) -> bool:
        """The node refuses our credential, or its account is empty: out until it is tried again."""
        if not self.settle(_DEAD):
            return False
        upstream = self.owner
        node = self.node
        entered = node.enter()
        try:
            if not (node.is_dead() and self.is_overtaken()):
                node.kill_for(now, upstream._dead_s, upstream._dead_max_s)
                node.note_outage(now)
        finally:
            node.leave(entered)
            self.leave()
        return True

    def forbidden(self, now: float) -> bool:
        """A 403: ``dead`` when it is not the first in a row, else only this request moves on."""
        if not self.settle(_FORBIDDEN):
            return False
        upstream = self.owner
        node = self.node
        entered = node.enter()
        try:
            known = node.is_dead() and self.is_overtaken()
            if not known and node.count_forbidden() >= upstream._forbidden_needed:
                node.kill_for(now, upstream._dead_s, upstream._dead_max_s)
                node.note_outage(now)
        finally:
            node.leave(entered)
            self.leave()
        return True

    def ignored(self, now: float) -> bool:
        """It ended by nobody's fault: the client left, or this kind of request does not suit the node."""
        return self.end(_IGNORED)

    # --- Effects ---

    def _blame(self, kind: int, now: float, at_once: bool) -> None:
        """A failure: count it, and eject the node if that was enough."""
        upstream = self.owner
        node = self.node
        on_probation = self.kind != _NORMAL and not self.has_answered
        is_late = self.is_out_of_date() or (on_probation and self.is_overtaken())
        if is_late and not upstream._counts_late:
            if not node.is_usable():
                node.hold_panic(now, upstream._panic_first_s, upstream._panic_pause_s)
            return
        node.note_result(True, now)
        if on_probation:
            node.hold_panic(now, upstream._panic_first_s, upstream._panic_pause_s)
        if not upstream._counts:
            return
        usable = node.is_usable()
        if usable:
            node.note_traffic_failure(now)
        if on_probation and self.kind == _TRIAL:
            enough = True  # the trial has decided
        elif not usable:
            enough = False  # it is out already
        elif at_once and upstream._ejects_at_once:
            enough = True
        else:
            enough = upstream._rate_min > 0 and node.is_failing(
                now, upstream._rate_min, upstream._rate_percent
            )
        ejects = node.fail(
            kind,
            upstream._limit(kind),
            enough,
            now,
            upstream._ejection_s,
            upstream._ejection_max_s,
            upstream._spread(),
        )
        if ejects:
            node.note_outage(now)

    def _rest(self, until: float, now: float, overload: bool) -> None:
        """A node that is busy: how long it is left alone."""
        upstream = self.owner
        node = self.node
        if overload:
            node.note_result(True, now)  # not sick, but no place for retries either
        # Of the requests that were under way together only the first one makes the term grow.
        known = node.is_cooling() and self.is_overtaken()
        told = min(until, now + upstream._cooling_max_s)
        if told > now and (overload or known):
            node.cool(told)
        elif overload and not known:
            node.cool(now + upstream._overload_s * upstream._spread())
        elif not known:
            node.cool_for(now, upstream._busy_s, upstream._busy_max_s, upstream._spread(), told)
        node.note_outage(now)
        if self.kind != _NORMAL or not node.is_usable():
            # One that is overloaded may have room a moment later; one that counts requests has none.
            first_s = upstream._panic_first_s if overload else upstream._panic_pause_s
            node.hold_panic(now, first_s, upstream._panic_pause_s)

    def _credit(self, now: float) -> None:
        """A success on a node about which there was something to clear."""
        upstream = self.owner
        node = self.node
        entered = node.enter()
        try:
            self._clear(node, upstream, now)
        finally:
            node.leave(entered)

    def _clear(self, node: Node, upstream: Upstream, now: float) -> None:
        if self.kind == _PANIC:
            node.end_panic_pauses()
        if self.is_out_of_date() and not upstream._counts_late:
            return
        if self.kind != _NORMAL or not self.is_overtaken():
            node.absolve(now, upstream._ramp_after_s)
        limit = upstream._limit_success
        if not node.is_usable() and not upstream._counts_late:
            if self.kind != _TRIAL and node.is_out_by_probes():
                return  # probes found it out, and they still watch it
            limit = max(1, limit)  # a passed trial counts even where successes do not
        if node.report(0, limit):
            node.heal(now, upstream._ramp_after_s)
