"""What one process knows of single models on single nodes: limited for a while, or not to be had there.

A provider's rate limit may be about one model, and a model may be unknown to one provider: the node is
well, and other models on it are served. Each process learns this by itself. A record is made when a
node says so, keeps requests for that model away for a growing term, and ends with a success; after
the term one request at a time may find out whether the model is back. Times are monotonic seconds.
"""

from __future__ import annotations

MAX_NAME = 256  # of a model, characters; nothing is remembered of a longer one, which a caller made up
CAPACITY = 1024  # records; names come from callers
_LIMIT_MEMORY_S = 60.0  # after the term of a rate limit, in which the next one is not a first one


class ModelRest:
    """One model on one node, which is left alone until a time.

    ``is_limit``: the node asked for it, and the term's end is a promise of its own; otherwise the node
    does not have the model.
    """

    __slots__ = ("is_limit", "lease", "model", "position", "reason", "since", "times", "until")

    def __init__(self, position: int, model: str, reason: str, is_limit: bool) -> None:
        self.position = position
        self.model = model
        self.reason = reason
        self.is_limit = is_limit
        self.since = 0.0  # when it was last heard
        self.until = 0.0
        self.lease = 0.0  # a trial is under way until then
        self.times = 0  # how far the term has grown

    def __repr__(self) -> str:
        return f"<ModelRest {self.model} on {self.position} {self.reason} until {self.until:.1f}s>"

    def ends_at(self, now: float) -> float:
        """When the next request may try it: ``now`` or earlier if this one may."""
        return self.until if now < self.until else self.lease


class ModelTable:
    """The records of one upstream, by the node's position, the model it was sent and, where that matters,
    a scope: the endpoint, for a model that is unknown to embeddings may be a chat model, or a capability,
    for one that takes no pictures takes text.

    ``count`` is their number: where it is 0, nothing needs to be asked.

    Args:
        busy_s, busy_max_s: first and longest term of a rate limit that names no time.
        cooling_max_s: longest one that is believed.
        misfit_s, misfit_max_s: the same two of a model that is not there.
        trial_lease_s: a trial that has not ended after this time no longer keeps the next one back.
    """

    def __init__(
        self,
        *,
        busy_s: float = 1.0,
        busy_max_s: float = 30.0,
        cooling_max_s: float = 600.0,
        misfit_s: float = 60.0,
        misfit_max_s: float = 600.0,
        trial_lease_s: float = 4.0,
    ) -> None:
        self.count = 0
        self._busy_s = busy_s
        self._busy_max_s = busy_max_s
        self._cooling_max_s = cooling_max_s
        self._misfit_s = misfit_s
        self._misfit_max_s = misfit_max_s
        self._trial_lease_s = trial_lease_s
        self._rests: dict[tuple[int, str, bytes], ModelRest] = {}
        self._prune_at = 0.0

    def __repr__(self) -> str:
        return f"<ModelTable {list(self._rests.values())}>"

    # --- What nodes say -------------------------------------------------------------------------

    def limited(
        self, position: int, model: str, started_at: float, until: float, now: float, spread: float
    ) -> bool:
        """A rate limit of one model.

        Args:
            started_at: of the attempt that was refused.
            until: not after ``now`` if the node named no time.
            spread: the factor by which a term of our own is jittered.
        Returns:
            Whether another model of this node is limited, too: then it is the node's limit.
        """
        rest = self._rest(position, model, b"", "rate_limited", True, now)
        if rest is not None:
            # Of the requests that were under way together only the first one makes the term grow.
            is_known = rest.since > 0.0 and rest.since >= started_at
            end = until
            if end > now + self._cooling_max_s:
                end = now + self._cooling_max_s
            if not is_known:
                if end <= now:
                    end = now + _grown(self._busy_s, self._busy_max_s, rest.times) * spread
                elif rest.times and end < now + self._busy_s:
                    end = now + self._busy_s  # it named a time before, and that was not enough
                rest.times += 1
            self._extend(rest, end, now)
        for other in self._rests.values():
            if other.is_limit and other.position == position and other.model != model and now < other.until:
                return True
        return False

    def misfit(
        self, position: int, model: str, scope: bytes, reason: str, started_at: float, now: float
    ) -> None:
        """The node does not have this model in this scope."""
        rest = self._rest(position, model, scope, reason, False, now)
        if rest is None or (rest.since > 0.0 and rest.since >= started_at):
            return
        end = now + _grown(self._misfit_s, self._misfit_max_s, rest.times)
        rest.times += 1
        self._extend(rest, end, now)

    def passed(
        self, position: int, model: str, scopes: tuple[bytes, ...], started_at: float, now: float
    ) -> None:
        """A request for this model was served. Late news ends nothing, and no term ends before its time."""
        for key in _keys(position, model, scopes):
            rest = self._rests.get(key)
            if rest is not None and rest.since < started_at and (now >= rest.until or not rest.is_limit):
                del self._rests[key]
        self.count = len(self._rests)

    # --- What requests ask ----------------------------------------------------------------------

    def rest_of(self, position: int, model: str, scopes: tuple[bytes, ...], now: float) -> ModelRest | None:
        """The record that keeps a request for this model off this node now; of several the longest one."""
        if now >= self._prune_at:
            self._prune(now)
        found = None
        for key in _keys(position, model, scopes):
            rest = self._rests.get(key)
            if rest is not None and rest.ends_at(now) > now:
                if found is None or rest.ends_at(now) > found.ends_at(now):
                    found = rest
        return found

    def claim(self, position: int, model: str, scopes: tuple[bytes, ...], now: float) -> None:
        """A request for this model goes to this node: if a term is over this is the trial."""
        for key in _keys(position, model, scopes):
            rest = self._rests.get(key)
            if rest is not None and now >= rest.until:
                rest.lease = now + self._trial_lease_s

    def resting(self, position: int, now: float) -> list[ModelRest]:
        """The models that are left alone on this node now, for people to look at."""
        return [rest for rest in self._rests.values() if rest.position == position and now < rest.until]

    # --- Records --------------------------------------------------------------------------------

    def _rest(
        self, position: int, model: str, scope: bytes, reason: str, is_limit: bool, now: float
    ) -> ModelRest | None:
        """The record of this model, made if need be."""
        key = (position, model, scope)
        rest = self._rests.get(key)
        if rest is None and len(model) <= MAX_NAME:
            if len(self._rests) >= CAPACITY:
                self._prune(now)
            if len(self._rests) >= CAPACITY:
                del self._rests[min(self._rests, key=lambda key: self._rests[key].until)]
            rest = self._rests[key] = ModelRest(position, model, reason, is_limit)
            self.count = len(self._rests)
        return rest

    def _extend(self, rest: ModelRest, end: float, now: float) -> None:
        """Let a term end later; an earlier end changes nothing."""
        rest.since = now
        rest.lease = 0.0
        if end > rest.until:
            rest.until = end

    def _prune(self, now: float) -> None:
        """Forget terms that ended long ago, and how far they had grown."""
        self._prune_at = now + _LIMIT_MEMORY_S
        for key, rest in list(self._rests.items()):
            memory_s = _LIMIT_MEMORY_S if rest.is_limit else self._misfit_max_s
            if now - rest.until >= memory_s:
                del self._rests[key]
        self.count = len(self._rests)


def _keys(position: int, model: str, scopes: tuple[bytes, ...]) -> list[tuple[int, str, bytes]]:
    """Where a request of these scopes has to look: what holds for the model as a whole, first."""
    return [(position, model, scope) for scope in (b"", *scopes)]


def _grown(base_s: float, max_s: float, times: int) -> float:
    return float(min(base_s * 2.0 ** min(times, 32), max_s))
