"""May a request be attempted again? What is certain, what is not, and what is allowed.

A request that provably was not processed is always attempted again. One that may have run is
repeated at most once, and only where the operator (or the table below, for the calls known to
change no state a caller can see) says that the only effect of running twice is its price.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from ..errors import Retryable

# RFC 9110 §9.2.2: these may be repeated by anyone.
IDEMPOTENT_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})

# POSTs that compute an answer and change nothing else. By the end of the path, because a base
# path may stand before it.
REPLAYABLE_ENDINGS = (
    b"/chat/completions",
    b"/completions",
    b"/embeddings",
    b"/moderations",
    b"/rerank",
)
# Replayable only if the answer is not stored at the provider (``"store": false``).
STORING_ENDINGS = (b"/responses",)

STALE_REUSE_S = 1.0  # a reused connection that ends this soon after the write was dead before


_COMPUTING_ENDINGS = REPLAYABLE_ENDINGS + STORING_ENDINGS


def computes_answer(method: bytes, path: bytes) -> bool:
    """Is this one of the calls whose answer is one JSON document, or a stream of them?"""
    return method == b"POST" and path.endswith(_COMPUTING_ENDINGS)


def is_replayable(method: bytes, path: bytes, body: bytes | None) -> bool:
    """The built-in answer where a route does not say ``replayable`` itself."""
    if method in IDEMPOTENT_METHODS:
        return True
    if method != b"POST":
        return False
    return path.endswith(REPLAYABLE_ENDINGS) or (path.endswith(STORING_ENDINGS) and not _is_stored(body))


def _is_stored(body: bytes | None) -> bool:
    """Does the provider keep the answer? It does unless it is told not to."""
    try:
        request = orjson.loads(body or b"")
    except orjson.JSONDecodeError:
        return True
    return not (isinstance(request, dict) and request.get("store") is False)


def is_nodes_fault(status: int) -> bool:
    """Does an error status of a node that is no LLM provider speak of the node, not the request?

    A page that is not there, or not for this caller, is an answer.
    """
    return status >= 500 or status in (408, 421, 425, 429)


def endpoint_of(method: bytes, path: bytes) -> bytes:
    """Which of the calls that compute an answer this is, by the end of its path; empty: none of them."""
    if method == b"POST":
        for ending in _COMPUTING_ENDINGS:
            if path.endswith(ending):
                return ending
    return b""


def may_attempt_again(retryable: Retryable, replayable: bool, uncertain_replays: int) -> bool:
    """Whether a failed attempt may be followed by one on another node.

    Args:
        retryable: what the failure says about the request.
        replayable: running this request twice does no harm.
        uncertain_replays: replays of a request that may have run, so far.
    """
    if retryable is Retryable.NEVER:
        return False
    if retryable is Retryable.ALWAYS:
        return True
    return replayable and uncertain_replays < 1


@dataclass(frozen=True, slots=True)
class Fallback:
    """Which failed attempts are followed by another, where an operator has listed statuses.

    Attributes:
        statuses: answers with these move the request on, however often; others do not. None: what
            each failure means decides.
        by_status_alone: APISIX's rules. No answer at all counts as a 500, or a 504 if it was for lack
            of time; an answer that is not listed is passed on as it came. Else an attempt without an
            answer is judged by ``may_attempt_again`` alone.
        within_s: an attempt that took longer than this is the last; 0: however long.
    """

    statuses: frozenset[int] | None = None
    by_status_alone: bool = False
    within_s: float = 0.0

    def lists(self, status: int) -> bool:
        """Does an answer with this status move on because it says so here?"""
        return self.statuses is not None and status in self.statuses

    def passes_on(self, status: int) -> bool:
        """Does an error answer go to the client untouched?"""
        return self.by_status_alone and not self.lists(status)

    def judge(self, status: int, is_answer: bool, retryable: Retryable, took_s: float) -> Retryable:
        """What is left of ``retryable``, the word of the failure itself.

        Args:
            status: of the answer, or what the failure would have been as one.
            is_answer: the node said so itself.
            took_s: how long the attempt took, seconds.
        """
        if self.within_s and took_s > self.within_s:
            return Retryable.NEVER
        if self.statuses is None or not (is_answer or self.by_status_alone):
            return retryable
        if not is_answer:
            status = 504 if status == 504 else 500
        return Retryable.ALWAYS if status in self.statuses else Retryable.NEVER


# --- The budget ---------------------------------------------------------------------------------

FAILING_PERCENT = 20  # a node is failing that has failed more than this of its last 10 s
FAILING_MIN_REQUESTS = 5  # ... of at least so many
_WINDOW_S = 10


class RetryBudget:
    """How many retries may go to nodes that are failing themselves: so that an outage does not multiply
    the load on what is left. Moving to a node that is not failing costs nothing of it.

    In any 10 s: ``percent`` of the requests that began in them, and ``per_s`` a second however few
    those are. It is one process's.

    Args of the methods:
        now: monotonic seconds.
        begun: how many requests have begun so far, ever.
    Raises:
        ValueError: a negative number.
    """

    def __init__(self, percent: float = 20.0, per_s: float = 3.0) -> None:
        if percent < 0 or per_s < 0:
            raise ValueError("percent and per_s must not be negative")
        self.percent = float(percent)
        self.per_s = float(per_s)
        # One place for each second: which one, how many requests had begun before it, retries in it.
        self._seconds = [-1] * _WINDOW_S
        self._begun = [0] * _WINDOW_S
        self._spent = [0] * _WINDOW_S

    def __repr__(self) -> str:
        return f"<RetryBudget {self.percent} % and {self.per_s} a second>"

    def note(self, now: float, begun: int) -> int:
        """Remember how many had begun; due in every second. Returns this second's place."""
        second = int(now)
        place = second % _WINDOW_S
        if self._seconds[place] != second:
            self._seconds[place] = second
            self._begun[place] = begun
            self._spent[place] = 0
        return place

    def is_left(self, now: float, begun: int) -> bool:
        """May one more retry go to a failing node?"""
        second = int(now)
        base = begun
        spent = 0
        for place in range(_WINDOW_S):
            if second - _WINDOW_S < self._seconds[place] <= second:
                if self._begun[place] < base:
                    base = self._begun[place]
                spent += self._spent[place]
        return spent < (begun - base) * self.percent / 100 + self.per_s * _WINDOW_S

    def spend(self, now: float, begun: int) -> None:
        """One retry goes to a failing node."""
        self._spent[self.note(now, begun)] += 1
