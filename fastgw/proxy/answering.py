"""The second half of an exchange: what its client gets, from the commit to the end.

``exchange.Exchange`` is the first half: the request, and attempts until one of them shows content.
Here is what both share, the exchange's state, and whatever reaches the client: the answer's head,
its bytes as they come, an honest end if they break off, or an error of ours.
"""

from __future__ import annotations

from enum import IntEnum
from time import monotonic
from typing import Any

from .._core import Tried
from ..balancing.retry import STALE_REUSE_S, computes_answer, endpoint_of
from ..balancing.upstream import Attempt, Upstream
from ..errors import (
    ClientError,
    DeadlineExceeded,
    Draining,
    FailureKind,
    FastgwError,
    NodeTimeout,
    NoNodeAvailable,
    NoNodeFits,
    Overloaded,
)
from ..llm.adapter import Rendering
from ..llm.body import BodyFacts
from ..llm.outcome import Outcome, scopes_of
from ..llm.sse import EventKind
from ..wire.client_connection import ClientConnection
from ..wire.events import ExchangeEvents
from ..wire.head import NO_BODY, UNTIL_CLOSE, RequestHead, ResponseHead, chunk_of
from ..wire.node_connection import NodeConnection
from . import answers
from .exchanges import Exchanges
from .held_body import HeldBody
from .plan import NodeLink, RoutePlan
from .relay import Relay
from .resumption import Resumption
from .tunnel import Tunnel, agrees

VERDICT_S = 0.25  # a request waits for the verdict of others, where every node is out

# How an interruption counts against the node; others are not its fault.
NODES_FAULT = {
    "stream_stalled": int(FailureKind.TIMEOUT),
    "stream_interrupted": int(FailureKind.TCP),
    "stream_error": int(FailureKind.HTTP),
}
# As C integers, which imported names are not.
_NO_BODY, _UNTIL_CLOSE, _MALFORMED = int(NO_BODY), int(UNTIL_CLOSE), int(EventKind.MALFORMED)


class Phase(IntEnum):
    """How far an exchange has come."""

    READING = 0  # the request's body
    CONNECTING = 1
    WAITING = 2  # request sent (or being sent), no head yet
    HOLDING = 3  # head there, nothing committed
    REFUSED = 4  # an error answer is being read
    RELAYING = 5  # committed
    DONE = 6


_READING, _CONNECTING = int(Phase.READING), int(Phase.CONNECTING)
_RELAYING, _DONE = int(Phase.RELAYING), int(Phase.DONE)


def _interruption(code: str) -> bytes:
    return answers.error_event(answers.INTERRUPTIONS[code], code)


class Answering(ExchangeEvents):
    """The state of one exchange, and the client's side of it."""

    def __init__(self, *args: Any) -> None:
        self.begin(*args)

    def begin(
        self,
        exchanges: Exchanges,
        client: ClientConnection,
        head: RequestHead,
        plan: RoutePlan,
        request_id: bytes,
        now: float,
    ) -> None:
        """What the constructor does, in C for one who has made the object with ``__new__``."""
        self.exchanges = exchanges
        self.client = client
        self.head = head
        self.plan = plan
        self.request_id = request_id
        self.started_at = now
        self.phase = _READING
        # The request
        self.method = head.method
        self.target = head.target
        self.path = head.path  # of the call, by which it is known what it does
        self.extra: list[tuple[bytes, bytes]] | None = None  # header fields of plugins
        self.extra_drop: Any = None  # client fields that plugins took out
        self.consumer: str | None = None
        self.body = HeldBody(exchanges)
        self.is_streaming_body = False  # too large to hold: goes through once
        self.body_complete = False
        self.facts: BodyFacts | None = None
        self.wants_stream = False
        # The attempt
        self.attempt: Attempt | None = None
        self.link: NodeLink | None = None
        self.node: NodeConnection | None = None
        self.dial: Any = None
        self.tried: Tried | None = None
        self.attempts = 0
        self.uncertain = 0
        self.is_fresh_retry = False
        self.attempt_started = 0.0
        self.sent_at = 0.0
        self.asked_at = 0.0  # when the last of the request had gone out, or some of a larger one
        self.verdict_by = 0.0  # until then it waits for what trials under way find out
        self.share_deadline = 0.0  # of the attempt, by its share of the time left
        self.phase_deadline = 0.0
        self.total_deadline = now + plan.total_s
        self.is_hurried = False  # the caller waits for less than the route allows
        self.own_limit_s = 0.0  # the node's time for the phase, hurry aside
        self.node_stalled_at = 0.0
        self.node_unsent = 0  # of what was sent it had not taken so much then, bytes
        self.rendering: Rendering | None = None  # the request, if this node gets another one
        self.changes: tuple[str, ...] | None = None  # ... and what is different in it
        self.misfits: tuple[str, ...] = ()  # what the nodes lack that cannot take this request
        # The answer
        self.relay: Relay | None = None
        self.held: list[bytes] | None = None
        self.answer_held = 0
        self.status = 0
        self.node_status = 0
        self.sent_bytes = 0
        self.keep_alive = False
        self.ends_by_close = False
        self.first_content_at = 0.0
        self.last_byte_at = 0.0
        self.last_progress_at = 0.0
        self.client_stalled_at = 0.0
        self.failure: FastgwError | None = None
        self.refusal: tuple[int, bytes, bytes, Outcome] | None = None  # status, type, body, meaning
        self.refusal_head: ResponseHead | None = None
        self.answer: bytes | None = None  # the whole of an answer that was held, for the log
        self.records: tuple[tuple[str, str, int, float], ...] = ()
        self.note = ""
        self.resumption: Resumption | None = None
        self.is_upgrade = False  # asks for WebSocket, and may have it
        exchanges.live.add(self)
        exchanges.started += 1

    def __repr__(self) -> str:
        return f"<Exchange {Phase(self.phase).name.lower()} attempts={self.attempts}>"

    def is_relaying(self) -> bool:
        """Does its client get the answer already?"""
        return self.phase == _RELAYING

    # --- The attempt's record ------------------------------------------------------------------

    def _record(self, outcome: str, now: float) -> None:
        link = self.link
        if link is not None:
            record = (link.name, outcome, self.node_status, now - self.sent_at)
            self.records = (*self.records, record) if self.records else (record,)
        self.node_status = 0

    def _end_attempt_ignored(self, now: float) -> None:
        """The attempt ends through nobody's fault."""
        if self.dial is not None:
            self.dial.cancel()
            self.dial = None
        node, self.node = self.node, None
        if node is not None:
            node.abort()
        if self.attempt is not None:
            self.attempt.ignored(now)
            self.attempt = None
            self._record("ignored", now)

    def _was_idle(self, node: NodeConnection, now: float) -> bool:
        """Can the end of this connection be of the time before our request?"""
        return (
            node.served > 1
            and not self.is_fresh_retry
            and not self.is_streaming_body
            and now - self.sent_at < STALE_REUSE_S
        )

    # --- To the client ------------------------------------------------------------------------

    def _render_head(self, head: ResponseHead, framing: int, content: bytes | None) -> bytes:
        """The answer's head, and ``content`` behind it."""
        plan = self.plan
        link = self.link
        assert link is not None
        own = b""
        attempts = 0
        if plan.shows_headers:
            own = link.answer_lines if self.changes is None else link.adapted_lines(self.changes)
            attempts = self.attempts
        self.ends_by_close = framing == _UNTIL_CLOSE
        self.keep_alive = not self.ends_by_close and self.client.keeps_alive()
        self.status = head.status
        if framing == _NO_BODY and head.content_length >= 0 and self.head.is_head and head.status != 204:
            framing = head.content_length
        return plan.answer_template.render(
            head,
            framing,
            self.keep_alive,
            self.head.minor_version,
            own,
            self.request_id,
            attempts,
            content,
        )

    def _send_to_client(self, out: bytes, now: float) -> None:
        client = self.client
        self.sent_bytes += len(out)
        client.send(out)
        if client.is_paused and self.node is not None:
            self.client_stalled_at = now
            self.node.stop_reading()

    def on_client_writable(self) -> None:
        now = monotonic()
        self.client_stalled_at = 0.0
        # Time the client took is not the node's.
        self.last_byte_at = self.last_progress_at = now
        if self.node is not None:
            self.node.go_on_reading()

    # --- After the commit ---------------------------------------------------------------------

    def _relay_read(self, data: bytes, start: int, end: int, complete: bool, now: float) -> None:
        relay = self.relay
        assert relay is not None
        if complete:
            self._finish_relay(b"", relay.finish(data), now)
            return
        out = relay.pass_on(data, start, end)
        if relay.scanner is None or relay.shows_progress():
            self.last_progress_at = now
        if relay.is_broken():
            if out:
                self.sent_bytes += len(out)
                self.client.send(out)
            self._interrupted(None, now)
            return
        if out:
            self._send_to_client(out, now)

    def _finish_relay(self, out: bytes, content: bytes, now: float) -> None:
        """The node's answer is whole. Is it the whole answer?"""
        relay = self.relay
        assert relay is not None
        self.node = None
        if relay.is_broken() or not self._is_whole(relay):
            if content:
                out += relay.wrap(content, False)
            if out:
                self.sent_bytes += len(out)
                self.client.send(out)
            self._interrupted(None, now)
            return
        self._send_whole(out + relay.wrap(content, True), now)

    def _is_whole(self, relay: Relay) -> bool:
        """The body is complete by its framing. Is the stream in it?

        It says so itself, if it is one of the calls whose events we know. Of the others nothing else is
        known than that it was not cut inside an event.
        """
        return relay.is_ended() or not (relay.mask & _MALFORMED or computes_answer(self.method, self.path))

    def _send_whole(self, out: bytes, now: float) -> None:
        """Send the last of an answer, and end the exchange."""
        if out:
            self.sent_bytes += len(out)
            self.client.send(out)
        attempt = self.attempt
        if attempt is not None:
            attempt.passed_on(self.status, now)
            self.attempt = None
        self._record("succeeded" if self.status < 400 else "refused_request", now)
        self._end(self.keep_alive, now)

    def takes_switch(self, head: ResponseHead) -> bool:
        return self.is_upgrade and agrees(head)

    def _open_tunnel(self, first: bytes, now: float) -> None:
        """Commit to a WebSocket: from here on the bytes are a tunnel's."""
        assert self.attempt is not None
        self.attempt.answered(now)
        self.status = 101
        self.first_content_at = now
        self.body.drop()
        Tunnel(self).open(first, now)

    def _tick_relaying(self, now: float) -> None:
        plan = self.plan
        relay = self.relay
        if now >= self.total_deadline:
            self._interrupted(DeadlineExceeded(), now)
        elif self.client_stalled_at:
            if now - self.client_stalled_at >= plan.client_write_s:
                self.note = "client_stalled"
                self.client.abort()
        elif now - self.last_byte_at >= plan.idle_s or (
            relay is not None
            and relay.scanner is not None
            and now - self.last_progress_at >= plan.progress_s
            and computes_answer(self.method, self.path)  # what is content in others nobody can say
        ):
            self._interrupted(NodeTimeout(), now)

    def _interrupted(self, error: FastgwError | None, now: float) -> None:
        """The answer broke off after its first content: end it so that nobody takes it for whole."""
        relay = self.relay
        if relay is not None and relay.has_error:
            code = "stream_error"
        elif relay is not None and relay.filter is not None and relay.filter.has_diverged:
            code = "stream_diverged"
        elif isinstance(error, NodeTimeout):
            code = "stream_stalled"
        elif isinstance(error, DeadlineExceeded):
            code = "deadline_exceeded"
        elif isinstance(error, Draining):
            code = "shutting_down"
        elif isinstance(error, Overloaded):
            code = "overloaded"
        else:
            code = "stream_interrupted"
        self._interrupt(code, now)

    def _interrupt(self, code: str, now: float) -> None:
        """End an answer that cannot go on, unless another node can."""
        if self.plan.resumes and self._resume(code, now):
            return
        self._end_attempt_by(code, now)
        self._end_broken(code)

    def _resume(self, code: str, now: float) -> bool:
        """Let another node go on with the answer, if that is possible."""
        raise NotImplementedError

    def _end_attempt_by(self, code: str, now: float) -> None:
        """The attempt ends inside its answer."""
        node, self.node = self.node, None
        if node is not None:
            node.abort()
        if self.attempt is not None:
            kind = NODES_FAULT.get(code)
            if code == "stream_error":
                self._end_attempt_by_event(now)
            elif kind is not None:
                self.attempt.failed(kind, now)
            else:
                self.attempt.ignored(now)
            self.attempt = None
        self._record(code, now)

    def _end_attempt_by_event(self, now: float) -> None:
        """The attempt ends by what the provider's error event says."""
        raise NotImplementedError

    def _end_broken(self, code: str) -> None:
        """Nobody goes on with the answer: end it so that nobody takes it for whole."""
        relay = self.relay
        resumption = self.resumption
        event = b""
        self.exchanges.interrupted += 1
        if resumption is not None:
            # What broke it first is what the caller should know.
            code = resumption.code
            event = resumption.error_event or _interruption(code)
        elif relay is not None and relay.scanner is not None:
            event = relay.error_event if relay.has_error else _interruption(code)
        self.note = code
        if event:
            if relay is not None and relay.is_mid_event:
                event = b"\n\n" + event
            if not self.ends_by_close:
                event = chunk_of(event, False)
            self.sent_bytes += len(event)
            self.client.send(event)
        if relay is not None:
            self.exchanges.malformed_events += relay.malformed
        self._finished()
        is_stream = resumption is not None or (relay is not None and relay.scanner is not None)
        self.client.end_unclean(self.ends_by_close and not is_stream)

    def on_tick(self, now: float) -> None:
        """Compare every deadline with the clock."""
        raise NotImplementedError

    def on_shutdown(self) -> None:
        """The drain is over."""
        self._stop(Draining())

    def on_overload(self) -> None:
        """What this exchange holds is needed for others."""
        self._stop(Overloaded())
        if self.client.is_paused:
            self.client.abort()  # it would take for ever to read that, and hold on to all before it

    def _stop(self, error: FastgwError) -> None:
        """End it through nobody's fault, honestly."""
        now = monotonic()
        if self.phase == _DONE:
            return
        if self.phase == _RELAYING:
            self._interrupted(error, now)
        else:
            self._end_attempt_ignored(now)
            self._answer_error(error)

    # --- The end ------------------------------------------------------------------------------

    def on_client_gone(self) -> None:
        if self.phase == _DONE:
            return
        now = monotonic()
        self.exchanges.client_gone += 1
        self.note = self.note or "client_gone_" + Phase(self.phase).name.lower()
        self.status = self.status or 499
        self._end_attempt_ignored(now)
        self._finished()

    def on_request_refused(self, error: ClientError) -> bool:
        if self.phase == _DONE:
            return False
        self._end_attempt_ignored(monotonic())
        if self.phase == _RELAYING:
            # A second answer inside the first one would be taken for its content.
            self.note = error.code
            self._finished()
            self.client.abort()
        else:
            self._answer_error(error)
        return True

    def _awaits_verdict(self, upstream: Upstream, now: float) -> bool:
        """Are there trials under way on a node that this request could go to? Then it waits for a moment."""
        if not self.verdict_by:
            self.verdict_by = now + VERDICT_S
        budget = self.exchanges.budget
        if now >= self.verdict_by or not upstream.awaits_verdict(now, self.tried):
            return False
        if self.attempts and budget is not None and not budget.is_left(now, self.exchanges.started):
            return False
        self.phase = _CONNECTING
        return True

    def _give_up(self, now: float) -> None:
        """No further attempt: the caller gets the last node's error, or ours."""
        if self.resumption is not None:
            self._end_broken("")
            return
        refusal = self.refusal
        upstream = self.plan.upstream
        wait = max(0.0, self._next_recovery(upstream, now) - now) if upstream is not None else 1.0
        if refusal is not None:
            self._answer_refusal(refusal, wait)
        elif self.failure is not None:
            self._answer_error(self.failure, wait)
        elif self.misfits:
            self._answer_error(self._misfit_error(wait), wait)
        else:
            self._answer_error(NoNodeAvailable("no provider is available right now", wait), wait)

    def _misfit_error(self, wait: float) -> FastgwError:
        """Some nodes cannot take this request. Are there others, which cannot answer now?"""
        needs = ", ".join(dict.fromkeys(self.misfits))
        if len(self.misfits) < sum(1 for link in self.plan.links if link.node.weight):
            return NoNodeAvailable(f"no provider that takes {needs} is available right now", wait)
        return NoNodeFits(f"no provider of this route can take this request: it needs {needs}")

    def _next_recovery(self, upstream: Upstream, now: float) -> float:
        """When this request may come again, monotonic seconds."""
        facts = self.facts
        if not upstream.models.count or facts is None or facts.model is None:
            return upstream.next_recovery(now)
        return upstream.next_recovery_for(now, self.plan.models_for(facts.model), self._scopes(facts))

    def _scopes(self, facts: BodyFacts) -> tuple[bytes, ...]:
        """What a model may not be able to do of that which this request asks of it."""
        return scopes_of(endpoint_of(self.method, self.head.path), facts.traits)

    def _answer_refusal(self, refusal: tuple[int, bytes, bytes, Outcome], wait: float) -> None:
        """What the last node said, in OpenAI's shape, with a status that is true for the caller."""
        status, content_type, body, outcome = refusal
        if not self.plan.is_llm and self.refusal_head is not None:
            # A plain node's error is its own: it is passed on as it was.
            is_head = self.head.is_head
            out = self._render_head(
                self.refusal_head, _NO_BODY if is_head else len(body), None if is_head else body
            )
            self.sent_bytes += len(out)
            self.client.send(out)
            self._end(self.keep_alive, monotonic())
            return
        status, body = answers.refusal(status, content_type, body, outcome)
        fields: list[tuple[bytes, bytes]] = []
        if outcome.verdict not in answers.CALLERS_OWN:
            fields = answers.retry_fields(wait, self.attempts)
        self._answer(status, body, fields)

    def _answer_error(self, error: FastgwError, wait: float = 0.0) -> None:
        if self.resumption is not None:
            self._end_broken("")
            return
        fields = answers.fields_for(error)
        if error.status in (502, 503, 504) or isinstance(error, NoNodeAvailable):
            fields = answers.retry_fields(wait, self.attempts)
        self.note = self.note or error.code
        self._answer(error.status, answers.error_body(str(error), error.kind, error.code), fields)

    def _answer(self, status: int, body: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        """Send an answer of our own, whole."""
        client = self.client
        keep_alive = client.keeps_alive()
        self.status = status
        fields += [
            (b"x-request-id", self.request_id),
            (b"x-fastgw-request-id", self.request_id),
            (b"x-fastgw-attempts", b"%d" % self.attempts),
        ]
        out = answers.answer(
            status,
            body,
            fields,
            keep_alive=keep_alive,
            minor_version=self.head.minor_version,
            is_head=self.head.is_head,
        )
        self.sent_bytes += len(out)
        client.send(out)
        self._end(keep_alive, monotonic())

    def _end(self, keep_alive: bool, now: float) -> None:
        if self.relay is not None:
            self.exchanges.malformed_events += self.relay.malformed
        self._finished()
        self.client.finish(keep_alive, now)

    def end_tunnel(self, code: str, now: float) -> None:
        """The tunnel that had the connections has closed them; ``code`` is "" where a side wished it."""
        self.note = code
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            kind = NODES_FAULT.get(code)
            if kind is not None:
                attempt.failed(kind, now)
            else:
                attempt.passed_on(self.status, now)
        self._record(code or "succeeded", now)
        self._finished()

    def _finished(self) -> None:
        """Exactly once per exchange."""
        self.phase = _DONE
        self.body.drop()
        self.exchanges.live.discard(self)
        self.exchanges.on_finished(self)
