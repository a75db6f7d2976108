"""Which node an exchange asks next, if any: what it leaves out, and whether it may ask again at all."""

from __future__ import annotations

from .._core import Tried
from ..balancing.retry import is_replayable
from ..balancing.upstream import Attempt, Upstream
from ..errors import RateLimited, Retryable
from ..llm.outcome import Verdict
from .answering import Answering
from .plan import NodeLink


class Choosing(Answering):
    """An exchange's choice of nodes, and what it learns about their models."""

    # --- Nodes --------------------------------------------------------------------------------

    def _start_with_care(self, upstream: Upstream, now: float) -> Attempt | None:
        """An attempt that keeps to the retry budget, and off nodes that are known to refuse the model."""
        exchanges = self.exchanges
        left_out = self.tried.copy() if self.tried is not None else Tried()
        budget = exchanges.budget if self.attempts else None
        kept_from = self._spare(upstream, left_out, now) if budget is not None else None
        facts = self.facts
        if not upstream.models.count or facts is None or facts.model is None:
            attempt = upstream.start_attempt(now, left_out)
        else:
            models = self.plan.models_for(facts.model)
            scopes = self._scopes(facts)
            # Who was refused for nothing else than the model is told so by a node, not by us.
            insists = not self.attempts or (
                self.refusal is not None and self.refusal[3].verdict == Verdict.MISFIT
            )
            attempt = upstream.start_for(now, left_out, models, scopes, insists)
            if attempt is None and not self.attempts and upstream.is_limited(now, models, scopes):
                wait = upstream.next_recovery_for(now, models, scopes) - now
                self.failure = RateLimited(retry_after=wait)
        if kept_from is not None:
            if attempt is None or attempt.node.priority <= kept_from:
                exchanges.budget_refusals += 1
        elif budget is not None and attempt is not None and upstream.is_failing(attempt.node, now):
            budget.spend(now, exchanges.started)
        return attempt

    def _could_move(self, upstream: Upstream, now: float) -> bool:
        """Is there another node, in order, to which ``_start_with_care`` would go? Nothing is begun."""
        left_out = self.tried.copy() if self.tried is not None else Tried()
        self._spare(upstream, left_out, now)
        facts = self.facts
        if upstream.models.count and facts is not None and facts.model is not None:
            upstream.skip_resting(now, left_out, self.plan.models_for(facts.model), self._scopes(facts))
        return upstream.has_open(now, left_out)

    def _spare(self, upstream: Upstream, left_out: Tried, now: float) -> int | None:
        """When the retry budget is used up, leave out what is failing.

        Returns the highest priority of what was left out; None if nothing had to be.
        """
        exchanges = self.exchanges
        budget = exchanges.budget
        if budget is None or budget.is_left(now, exchanges.started):
            return None
        return upstream.skip_failing(now, left_out)

    def _skip_misfit(self, attempt: Attempt, link: NodeLink, misfit: str, now: float) -> None:
        """A node that cannot take this request: nothing was sent, so it is no attempt."""
        attempt.ignored(now)
        if self.tried is None:
            self.tried = Tried()
        self.tried.skip(attempt.position)
        self.misfits = (*self.misfits, misfit)
        self.records = (*self.records, (link.name, "misfit", 0, 0.0))
        if self.link is None:
            self.link = link

    def _exclude(self, position: int) -> None:
        """Do not attempt this node again."""
        if self.tried is None:
            self.tried = Tried()
        self.tried.add(position)

    # --- Models -------------------------------------------------------------------------------

    def _model_sent(self) -> str | None:
        """The model this attempt's node was asked for."""
        facts = self.facts
        link = self.link
        if facts is None or facts.model is None or link is None:
            return None
        return link.model_for(facts.model)

    def _note_model_served(self, attempt: Attempt, now: float) -> None:
        """The node answers with this model: a pause it has had is over."""
        model = self._model_sent()
        if model is not None and self.node.head.status < 400:  # type: ignore[union-attr]
            scopes = self._scopes(self.facts)  # type: ignore[arg-type]  # which named the model
            attempt.owner.models.passed(attempt.position, model, scopes, attempt.started_at, now)

    def _leave_out_this_model(self) -> bool:
        """The request is too long for the model it was sent: may another model have it?

        Then the nodes that would send it to the same one are not asked any more.
        """
        plan = self.plan
        facts = self.facts
        if not plan.moves_too_long or facts is None or facts.model is None:
            return False
        model = self._model_sent()
        is_elsewhere = False
        for link in plan.links:
            if link.model_for(facts.model) == model:
                self._exclude(link.position)
            elif self.tried is None or link.position not in self.tried:
                is_elsewhere = True
        return is_elsewhere

    # --- May it be asked again? ---------------------------------------------------------------

    def _is_replayable(self) -> bool:
        """May this request run twice? Asked while the body is still held."""
        plan = self.plan
        if not plan.replays_uncertain:
            return False
        if plan.replayable is not None:
            return bool(plan.replayable)
        return is_replayable(self.method, self.path, self.body.data)

    def _by_fallback(self, retryable: Retryable, now: float) -> Retryable:
        """What the route's own list of statuses makes of a failure's word."""
        attempt = self.attempt
        assert attempt is not None
        refusal = self.refusal
        if refusal is not None:
            status = refusal[0]
        else:
            status = self.failure.status if self.failure is not None else 500
        judged: Retryable = self.plan.fallback.judge(  # type: ignore[union-attr]
            status, refusal is not None, retryable, now - attempt.started_at
        )
        return judged
