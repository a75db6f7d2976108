"""One request's life: the only code that sees both the client and the nodes.

The original request is held, immutable, until the commit; each attempt renders its own copy for
its own node. The commit is the first content of the answer, not its first byte; it is drawn in
one place, ``Exchange._commit``. Until then a failed attempt moves on to the next node and the
caller sees nothing of it. After it the caller gets the rest, or an honest end.

No task, future or timer is made here: ``on_tick`` compares numbers with the clock.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from time import monotonic
from typing import Any

from .._core import Tried
from ..balancing.deadlines import attempt_deadline, patience
from ..balancing.retry import STALE_REUSE_S, computes_answer, is_nodes_fault, is_replayable, may_attempt_again
from ..balancing.upstream import Attempt
from ..errors import (
    BadResponse,
    BodyTooLarge,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    Draining,
    EmptyAnswer,
    FailureKind,
    FastgwError,
    FoundOut,
    NodeError,
    NodeTimeout,
    NoNodeAvailable,
    Retryable,
)
from ..llm.body import BodyFacts, answer_problem, replace_model, replaced_parts, scan
from ..llm.outcome import Outcome, Verdict, classify, classify_error_event
from ..llm.sse import EventKind, EventScanner
from ..wire.client_connection import ClientConnection
from ..wire.events import ExchangeEvents
from ..wire.head import CHUNKED_BODY, NO_BODY, UNTIL_CLOSE, RequestHead, ResponseHead, chunk_of
from ..wire.node_connection import NodeConnection
from . import answers
from .exchanges import Exchanges
from .held_body import HeldBody
from .plan import NodeLink, RoutePlan
from .relay import Relay, client_framing, is_opaque, stream_framing

HELD_ERROR_BYTES = 64 * 1024  # of an error answer, read to learn what it means
HELD_ERROR_S = 5.0  # ... and for how long
JOIN_BYTES = 64 * 1024  # a larger body is written apart from its head instead of copied

_FIRST_CONTENT = int(
    EventKind.CONTENT | EventKind.REASONING | EventKind.TOOL_CALL | EventKind.FINISH | EventKind.OTHER
)
# How an interruption counts against the node; others are not its fault.
_NODES_FAULT = {
    "stream_stalled": int(FailureKind.TIMEOUT),
    "stream_interrupted": int(FailureKind.TCP),
    "stream_error": int(FailureKind.HTTP),
}
_SILENT = int(EventKind.COMMENT | EventKind.BLANK)
_ERROR = int(EventKind.ERROR)
# As C integers, which imported names are not.
_NO_BODY, _CHUNKED_BODY, _UNTIL_CLOSE = int(NO_BODY), int(CHUNKED_BODY), int(UNTIL_CLOSE)
_JOIN_BYTES = JOIN_BYTES


class Phase(IntEnum):
    """How far an exchange has come."""

    READING = 0  # the request's body
    CONNECTING = 1
    WAITING = 2  # request sent (or being sent), no head yet
    HOLDING = 3  # head there, nothing committed
    REFUSED = 4  # an error answer is being read
    RELAYING = 5  # committed
    DONE = 6


_READING, _CONNECTING, _WAITING, _HOLDING, _REFUSED, _RELAYING, _DONE = (int(phase) for phase in Phase)


class Exchange(ExchangeEvents):
    """One client request and the answer it gets.

    Whoever calls one of its callbacks holds a reference of its own: the call may end the exchange,
    and a C method does not keep its object alive.
    """

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
        self.share_deadline = 0.0  # of the attempt, by its share of the time left
        self.phase_deadline = 0.0
        self.total_deadline = now + plan.total_s
        self.is_hurried = False  # the caller waits for less than the route allows
        self.own_limit_s = 0.0  # the node's time for the phase, hurry aside
        self.node_stalled_at = 0.0
        self.is_adapted = False
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
        exchanges.live.add(self)
        exchanges.started += 1

    def __repr__(self) -> str:
        return f"<Exchange {Phase(self.phase).name.lower()} attempts={self.attempts}>"

    # --- The request --------------------------------------------------------------------------

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        if self.phase == _DONE:
            return
        if start < end:
            framer = self.client.framer
            if framer.is_chunked or self.is_streaming_body:
                data = framer.decoded(data)
                start, end = 0, len(data)
            self.body.size += end - start
            if self.body.size > self.exchanges.max_body_bytes:
                self._refuse_body()
                return
            if self.is_streaming_body:
                self._send_piece(data)
            else:
                self.body.add_part(data, start, end)
        if complete:
            self.body_complete = True
            if self.is_streaming_body:
                self._end_body()
            else:
                self.body.join()
                self._begin(self.client.read_at)
        elif not self.is_streaming_body and self.body.is_too_large(self.head.content_length):
            self.is_streaming_body = True
            self.note = "body_not_held"
            self.exchanges.unmovable += 1
            self._begin(monotonic())

    def _refuse_body(self) -> None:
        """The body grew over the limit: 413, whatever has become of it so far."""
        if self.phase == _RELAYING:
            self._interrupt("request_too_large", monotonic())
        else:
            self._end_attempt_ignored(monotonic())
            self._answer_error(BodyTooLarge())

    def _begin(self, now: float) -> None:
        """The request is whole, or too large to wait for: understand it, then attempt it."""
        plan = self.plan
        if plan.is_llm:
            told = self.head.get(b"x-stainless-read-timeout")
            if told is not None:
                seconds = patience(told)
                if 0 < seconds < plan.total_s:
                    self.total_deadline = self.started_at + seconds
                    self.is_hurried = True
            body = self.body.data
            if body is not None and not self.is_streaming_body:
                facts = scan(body)
                if facts is not None:
                    if facts.duplicate_model:
                        self._answer_error(ClientError("the field 'model' is there more than once"))
                        return
                    self.facts = facts
                    self.wants_stream = facts.stream
        if plan.upstream is None:
            self._answer_error(NoNodeAvailable("this route has no upstream"))
            return
        self._attempt_next(now)

    # --- Attempts -----------------------------------------------------------------------------

    def _attempt_next(self, now: float) -> None:
        """Begin the next attempt, or give up."""
        plan = self.plan
        if now >= self.total_deadline:
            if self.failure is None:
                self.failure = DeadlineExceeded()
            self._give_up(now)
            return
        upstream = plan.upstream
        assert upstream is not None
        retry_timeout = upstream.retry_timeout_s
        if self.attempts >= plan.max_attempts or (
            self.attempts and retry_timeout > 0 and now - self.attempt_started >= retry_timeout
        ):
            self._give_up(now)
            return
        attempt = upstream.start_attempt(now, self.tried)
        if attempt is None:
            self._give_up(now)
            return
        self.attempt = attempt
        self.link = link = plan.links[attempt.position]
        if self.attempts == 0:
            self.attempt_started = now
        else:
            self.exchanges.retries += 1
        self.attempts += 1
        self.is_fresh_retry = False
        self.sent_at = now
        is_last = self.attempts >= plan.max_attempts
        self.share_deadline = attempt_deadline(now, self.total_deadline, is_last)
        node = link.pool.take(now)
        if node is not None:
            self._send(node, now)
        else:
            self._connect(now)

    def _connect(self, now: float) -> None:
        timeout = min(self.plan.connect_s, self.share_deadline - now)
        self.phase = _CONNECTING
        self.own_limit_s = self.plan.connect_s
        self.phase_deadline = now + timeout + 0.5  # the dialler's own limit comes first
        self.dial = self.link.pool.dial(self, timeout)  # type: ignore[union-attr]

    def on_node_connected(self, connection: NodeConnection) -> None:
        self.dial = None
        if self.phase != _CONNECTING:
            connection.pool.give_back(connection, monotonic())
            return
        self._send(connection, monotonic())

    def on_connect_failed(self, error: NodeError) -> None:
        self.dial = None
        if self.phase == _CONNECTING:
            self._failed(error, monotonic())

    def _send(self, node: NodeConnection, now: float) -> None:
        """Render the request for this attempt's node and send it."""
        link = self.link
        assert link is not None
        plan = self.plan
        self.node = node
        self.phase = _WAITING
        self.sent_at = now
        self.relay = None
        self.held = None
        self.answer_held = 0
        self.node_stalled_at = 0.0
        self.own_limit_s = plan.head_stream_s if self.wants_stream else plan.head_s
        self.phase_deadline = min(self.share_deadline, now + self.own_limit_s)
        body = self._render_body(link)
        joined_body = None
        parts: list[bytes | memoryview] | None = None
        if self.is_streaming_body:
            length = self.head.content_length if self.head.content_length >= 0 else _CHUNKED_BODY
        elif isinstance(body, list):
            parts = body
            length = sum(map(len, body))
        elif body is not None:
            length = len(body)
            if length <= _JOIN_BYTES:
                joined_body = body
            else:
                parts = [body]
        else:
            # A request of a method that may have a body says that it has none.
            length = (
                0 if self.method == b"POST" or self.method == b"PUT" or self.method == b"PATCH" else _NO_BODY
            )
        extra = link.own_over(self.extra) if self.extra is not None else None
        head = link.template.render(
            self.head, self.method, link.target(self.target), length, extra, self.extra_drop, joined_body
        )
        is_head = self.head.is_head or self.method == b"HEAD"
        if not self.is_streaming_body:
            node.start(self, head, parts, is_head)
            if node.is_paused and self.node is node:
                self.node_stalled_at = now
            return
        node.start(self, head, None, is_head)
        node.request_complete = False
        for piece in self.body.take():
            self._send_piece(piece)
        if self.body_complete:
            self._end_body()

    def _render_body(self, link: NodeLink) -> bytes | list[bytes | memoryview] | None:
        """The body for this node, or its parts: the client's own bytes, but for the model's name."""
        body = self.body.data
        facts = self.facts
        self.is_adapted = False
        if facts is None or link.models is None or facts.model is None or body is None:
            return body
        model = link.models.map(facts.model)
        if model == facts.model:
            return body
        self.is_adapted = True
        return (replace_model if len(body) <= _JOIN_BYTES else replaced_parts)(body, facts, model)

    def _send_piece(self, piece: bytes) -> None:
        """Pass on a part of a body that is too large to hold."""
        node = self.node
        if node is None:
            # Not connected yet: the client is stopped, and little more than this comes.
            self.body.add(piece)
            self.client.stop_reading()
            return
        if self.head.content_length < 0:
            piece = chunk_of(piece, False)  # of nothing, nothing: an empty chunk would be the last one
        if piece:
            node.send(piece)
        if node.is_paused:
            self.client.stop_reading()
            self.node_stalled_at = monotonic()
        else:
            self.client.go_on_reading()

    def _end_body(self) -> None:
        if self.node is not None:
            if self.head.content_length < 0:
                self.node.send(b"0\r\n\r\n")
            self.node.request_complete = True

    def on_node_writable(self) -> None:
        self.node_stalled_at = 0.0
        if self.is_streaming_body:
            self.client.go_on_reading()

    # --- The answer, until the commit ---------------------------------------------------------

    def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        node = self.node
        assert node is not None
        now = node.read_at
        self.last_byte_at = now
        if self.phase == _RELAYING:
            self._relay_read(data, start, end, complete, now)
            return
        if self.phase == _WAITING:
            self._on_head(now)
        if self.phase == _HOLDING:
            self._hold(data, start, end, complete, now)
        elif self.phase == _REFUSED:
            self._hold_error(data, complete, now)
        elif self.phase == _RELAYING:
            self._relay_first(data, complete, now)

    def _on_head(self, now: float) -> None:
        """The answer's head is there: is it an answer, an error, or something to pass on?"""
        node = self.node
        plan = self.plan
        assert node is not None
        head = node.head
        assert head is not None
        self.node_status = head.status
        if head.status >= 400 and plan.fails_over_on_status and (plan.is_llm or is_nodes_fault(head.status)):
            self.phase = _REFUSED
            self.answer_held = 0
            self.phase_deadline = min(self.share_deadline, now + HELD_ERROR_S)
        elif plan.is_llm and 200 <= head.status < 300 and not self.head.is_head and not is_opaque(head):
            self.phase = _HOLDING
            self.answer_held = 0
            if head.is_event_stream:
                self.relay = Relay(node.framer, stream_framing(self.head), EventScanner())
            self.own_limit_s = plan.first_content_stream_s if self.wants_stream else plan.first_content_s
            self.phase_deadline = min(self.share_deadline, self.sent_at + self.own_limit_s)
        else:
            self.phase = _RELAYING  # by _relay_first, which has the first bytes too

    def _hold(self, data: bytes, start: int, end: int, complete: bool, now: float) -> None:
        """A success that has not shown content yet: nothing of it reaches the client."""
        if self.relay is not None:
            self._hold_stream(data, complete, now)
        else:
            self._hold_whole(data, complete, now)

    def _hold_stream(self, data: bytes, complete: bool, now: float) -> None:
        relay = self.relay
        assert relay is not None
        scanner = relay.scanner
        assert scanner is not None
        content = relay.finish(data) if complete else relay.take(data)
        mask = relay.mask
        # Nothing has reached the client yet: whatever is wrong in this read, another node can mend.
        if mask & _ERROR or scanner.error_data is not None:
            self._node_done(complete)
            outcome = classify_error_event(scanner.error_data or b"")
            if relay.before_error & _FIRST_CONTENT and outcome.certain:
                outcome = replace(outcome, certain=False)  # it had begun
            self._refused_by(outcome, scanner.error_data or b"", now)
            return
        if relay.is_broken() or (complete and mask & _FIRST_CONTENT and not relay.is_ended()):
            self._node_done(complete)
            self._failed(BadResponse("the provider's answer broke off"), now)
            return
        if mask & _FIRST_CONTENT:
            self._commit(content, complete, now)
            return
        if complete:
            self.node = None
            self._failed(EmptyAnswer(), now)
            return
        if content and not mask & ~_SILENT and mask:
            return  # a provider that only breathes: absorbed, it commits nothing
        self._keep(content)
        if self.answer_held > self.plan.uncommitted_bytes:
            self._commit(b"", False, now)

    def _all_held(self, newest: bytes) -> bytes:
        """What was held, and the newest part; nothing is held any more."""
        held, self.held = self.held, None
        if held is None:
            return newest
        held.append(newest)
        return b"".join(held)

    def _keep(self, content: bytes) -> None:
        """Hold a part of an answer that is not committed."""
        if content:
            if self.held is None:
                self.held = []
            self.held.append(content)
            self.answer_held += len(content)

    def _hold_whole(self, data: bytes, complete: bool, now: float) -> None:
        node = self.node
        assert node is not None
        piece = node.framer.decoded(data)
        if complete:
            head = node.head
            assert head is not None
            body = self._all_held(piece)
            expects_json = head.status != 204 and computes_answer(self.method, self.head.path)
            problem = answer_problem(body) if expects_json else None
            if problem is not None:
                self.node = None
                error = (
                    EmptyAnswer() if problem == "empty" else BadResponse("the provider's answer is no answer")
                )
                self._failed(error, now)
                return
            self._commit(body, True, now)
            return
        self._keep(piece)
        if self.answer_held > self.plan.hold_answer_bytes:
            self._commit(b"", False, now)

    # --- Refusals -----------------------------------------------------------------------------

    def _hold_error(self, data: bytes, complete: bool, now: float) -> None:
        """An error answer: read it, for its body says what it means."""
        node = self.node
        assert node is not None
        self._keep(node.framer.decoded(data))
        if complete or self.answer_held > HELD_ERROR_BYTES:
            self._judge_error(complete, None, now)

    def _judge_error(self, complete: bool, lost: NodeError | None, now: float) -> None:
        """Decide on an error answer with what is there; ``lost``: no more will come."""
        node = self.node
        assert node is not None and node.head is not None
        head = node.head
        body = self._all_held(b"")
        # By name: a C method is no callable of its own.
        outcome = classify(head.status, getattr(head, "get"), body)  # noqa: B009
        if (
            outcome.verdict == Verdict.CALLER
            or outcome.verdict == Verdict.REFUSED
            or self._is_callers_key(outcome)
        ):
            # The caller's own mistake: no node is at fault, and none would answer otherwise.
            if lost is not None:
                self._failed(lost, now)
            else:
                self._commit(body, complete, now)
            return
        self._node_done(complete)
        self.refusal = (head.status, head.get(b"content-type") or b"", body, outcome)
        self.refusal_head = head if complete else None  # half of it is not passed on
        self._refused_by(outcome, body, now)

    def _is_callers_key(self, outcome: Outcome) -> bool:
        return self.plan.passthrough and outcome.verdict in (Verdict.DEAD, Verdict.FORBIDDEN)

    def _node_done(self, complete: bool) -> None:
        """Let go of the node's connection: it is back in the pool already, or cut off."""
        node, self.node = self.node, None
        if node is not None and not complete:
            node.abort()

    def _refused_by(self, outcome: Outcome, body: bytes, now: float) -> None:
        """The node said no (by status, or inside a 200): count it, and move on if that helps."""
        attempt = self.attempt
        assert attempt is not None
        verdict = outcome.verdict
        if self.refusal is None or self.refusal[3] is not outcome:
            # An error event in a 200: the status it would have been.
            status = 400 if verdict in (Verdict.CALLER, Verdict.REFUSED, Verdict.MISFIT) else 502
            self.refusal = (429 if verdict == Verdict.BUSY else status, answers.JSON, body, outcome)
        if verdict == Verdict.BUSY:
            attempt.busy(now + outcome.wait_s if outcome.wait_s is not None else 0.0, now, outcome.overload)
        elif verdict == Verdict.DEAD:
            attempt.dead(now)
        elif verdict == Verdict.FORBIDDEN:
            attempt.forbidden(now)
        elif verdict == Verdict.FAILED:
            attempt.failed(int(FailureKind.HTTP), now)
        elif verdict == Verdict.CALLER:
            attempt.succeeded(now)
        else:
            attempt.ignored(now)
        self.failure = None
        self._record(outcome.reason, now)
        if verdict == Verdict.CALLER or verdict == Verdict.REFUSED:
            self._give_up(now)
            return
        self._move_on(Retryable.ALWAYS if outcome.certain else Retryable.UNCERTAIN, now)

    # --- Failures -----------------------------------------------------------------------------

    def on_node_lost(self, error: NodeError) -> None:
        now = monotonic()
        node, self.node = self.node, None
        if self.phase == _DONE:
            return
        if self.phase == _RELAYING:
            self._interrupted(error, now)
            return
        if self.phase == _REFUSED:
            # The status said enough.
            self.node = node
            self._judge_error(False, error, now)
            return
        if (
            isinstance(error, ConnectionLost)
            and node is not None
            and node.served > 1
            and node.answer_bytes == 0
            and not self.is_fresh_retry
            and not self.is_streaming_body
            and now - self.sent_at < STALE_REUSE_S
        ):
            # It was closed while idle, and we wrote into the void. Its elders are no better.
            self.exchanges.stale_reuses += 1
            self.is_fresh_retry = True
            self.link.pool.flush()  # type: ignore[union-attr]
            self._connect(now)
            return
        self._failed(error, now)

    def _failed(self, error: NodeError, now: float) -> None:
        """The attempt failed without an answer: count it and move on if that is allowed."""
        attempt = self.attempt
        assert attempt is not None
        is_early = self.is_hurried and now - self.sent_at < self.own_limit_s
        if (
            isinstance(error, FoundOut)
            or (isinstance(error, ConnectFailed) and error.is_local)
            or (is_early and isinstance(error, ConnectTimeout | NodeTimeout))
        ):
            attempt.ignored(now)
        else:
            attempt.failed(int(error.failure), now, isinstance(error, ConnectFailed))
        self.failure = error
        self.refusal = None
        self._record(error.code, now)
        self._move_on(Retryable.ALWAYS if self.phase == _CONNECTING else error.retryable, now)

    def _move_on(self, retryable: Retryable, now: float) -> None:
        """Attempt the next node, if this request may be attempted again."""
        node, self.node = self.node, None
        if node is not None:
            node.abort()
        if self.dial is not None:
            self.dial.cancel()
            self.dial = None
        self.relay = None
        self.held = None
        if self.attempt is not None:
            if self.tried is None:
                self.tried = Tried()
            self.tried.add(self.attempt.position)
            self.attempt = None
        if self.is_streaming_body and not (retryable is Retryable.ALWAYS and self.body.held):
            self._give_up(now)
            return
        if not may_attempt_again(retryable, self._is_replayable(), self.uncertain):
            self._give_up(now)
            return
        if retryable is not Retryable.ALWAYS:
            self.uncertain = self.attempts
            self.exchanges.uncertain_replays += 1
        self._attempt_next(now)

    def _is_replayable(self) -> bool:
        """May this request run twice? Asked while the body is still held."""
        plan = self.plan
        if not plan.replays_uncertain:
            return False
        if plan.replayable is not None:
            return bool(plan.replayable)
        return is_replayable(self.method, self.head.path, self.body.data)

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

    # --- The commit ---------------------------------------------------------------------------

    def _commit(self, content: bytes, complete: bool, now: float) -> None:
        """The first content goes to the client. From here on nothing is attempted again.

        ``content``: the newest part of what goes out, behind what was held.
        """
        node = self.node
        assert node is not None
        self.phase = _RELAYING
        self.first_content_at = self.last_progress_at = now
        self.body.drop()
        if self.attempt is not None:
            self.attempt.answered(now)
        head = node.head
        assert head is not None
        content = self._all_held(content)
        relay = self.relay
        if relay is None:
            framing = client_framing(head, self.head)
            if complete:
                self.node = None
                self.answer = content
                if framing != _NO_BODY:
                    framing = len(content)
                if len(content) <= _JOIN_BYTES:
                    self._send_whole(self._render_head(head, framing, content), now)
                    return
                out = self._render_head(head, framing, None)
                self.sent_bytes += len(out)
                self.client.send(out)
                self._send_whole(content, now)
                return
            self.relay = relay = Relay(node.framer, framing, None)
        else:
            framing = _CHUNKED_BODY if relay.is_chunked else _UNTIL_CLOSE
            if complete:
                out = self._render_head(head, framing, None)
                self._finish_relay(out, content, now)
                return
        out = self._render_head(head, framing, relay.wrap(content, False))
        if relay.is_broken():
            self.sent_bytes += len(out)
            self.client.send(out)
            self._interrupted(None, now)
            return
        self._send_to_client(out, now)

    def _relay_first(self, data: bytes, complete: bool, now: float) -> None:
        """A plain answer commits with its head: nothing in it is looked at."""
        node = self.node
        assert node is not None
        self._commit(node.framer.decoded(data), complete, now)

    def _render_head(self, head: ResponseHead, framing: int, content: bytes | None) -> bytes:
        """The answer's head, and ``content`` behind it."""
        plan = self.plan
        link = self.link
        assert link is not None
        own = b""
        attempts = 0
        if plan.shows_headers:
            own = link.adapted_lines if self.is_adapted else link.answer_lines
            attempts = self.attempts
        self.ends_by_close = framing == _UNTIL_CLOSE
        self.keep_alive = not self.ends_by_close and self.client.keeps_alive()
        self.status = head.status
        if framing == _NO_BODY and head.content_length >= 0 and self.head.is_head:
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

    def _finish_relay(self, out: bytes, content: bytes, now: float) -> None:
        """The node's answer is whole. Is it the whole answer?"""
        relay = self.relay
        assert relay is not None
        self.node = None
        if relay.is_broken() or not relay.is_ended():
            if content:
                out += relay.wrap(content, False)
            if out:
                self.sent_bytes += len(out)
                self.client.send(out)
            self._interrupted(None, now)
            return
        self._send_whole(out + relay.wrap(content, True), now)

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

    def _interrupted(self, error: FastgwError | None, now: float) -> None:
        """The answer broke off after its first content: end it so that nobody takes it for whole."""
        relay = self.relay
        if relay is not None and relay.has_error:
            code = "stream_error"
        elif isinstance(error, NodeTimeout):
            code = "stream_stalled"
        elif isinstance(error, DeadlineExceeded):
            code = "deadline_exceeded"
        elif isinstance(error, Draining):
            code = "shutting_down"
        else:
            code = "stream_interrupted"
        self._interrupt(code, now)

    def _interrupt(self, code: str, now: float) -> None:
        relay = self.relay
        self.exchanges.interrupted += 1
        node, self.node = self.node, None
        if node is not None:
            node.abort()
        if self.attempt is not None:
            kind = _NODES_FAULT.get(code)
            if kind is not None:
                self.attempt.failed(kind, now)
            else:
                self.attempt.ignored(now)
            self.attempt = None
        self._record(code, now)
        self.note = code
        if relay is not None and relay.scanner is not None and not relay.has_error:
            event = answers.error_event(answers.INTERRUPTIONS[code], code)
            if relay.is_mid_event:
                event = b"\n\n" + event
            event = relay.wrap(event, False)
            self.sent_bytes += len(event)
            self.client.send(event)
        if relay is not None:
            self.exchanges.malformed_events += relay.malformed
        self._finished()
        self.client.end_unclean(self.ends_by_close and (relay is None or relay.scanner is None))

    # --- Deadlines ----------------------------------------------------------------------------

    def on_tick(self, now: float) -> None:
        """Compare every deadline with the clock, and the attempt's node with its verdict."""
        phase = self.phase
        if phase == _READING or phase == _DONE:
            return
        if phase == _RELAYING:
            self._tick_relaying(now)
            return
        if now >= self.total_deadline:
            self._failed_by_clock(now)
        elif now >= self.phase_deadline:
            if phase == _REFUSED:
                self._judge_error(False, None, now)
            else:
                self._failed_by_clock(now)
        elif self.node_stalled_at and now - self.node_stalled_at >= self.plan.node_write_s:
            self._failed_by_clock(now)
        elif self.attempt is not None and self.attempt.kind == 0 and self.attempt.is_stale():
            # Others have found the node out: this request need not wait for its own deadline.
            if phase == _CONNECTING or (not self.uncertain and self._is_replayable()):
                self._failed(FoundOut(), now)

    def _failed_by_clock(self, now: float) -> None:
        phase = self.phase
        node, self.node = self.node, None
        if node is not None:
            node.abort()
        self._failed(ConnectTimeout() if phase == _CONNECTING else NodeTimeout(), now)

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
            relay is not None and relay.scanner is not None and now - self.last_progress_at >= plan.progress_s
        ):
            self._interrupted(NodeTimeout(), now)

    def on_shutdown(self) -> None:
        """The drain is over."""
        now = monotonic()
        if self.phase == _DONE:
            return
        if self.phase == _RELAYING:
            self._interrupted(Draining(), now)
        else:
            self._end_attempt_ignored(now)
            self._answer_error(Draining())

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

    def _give_up(self, now: float) -> None:
        """No further attempt: the caller gets the last node's error, or ours."""
        refusal = self.refusal
        upstream = self.plan.upstream
        wait = max(0.0, upstream.next_recovery(now) - now) if upstream is not None else 1.0
        if refusal is not None:
            self._answer_refusal(refusal, wait)
        elif self.failure is not None:
            self._answer_error(self.failure, wait)
        else:
            self._answer_error(NoNodeAvailable("no provider is available right now", wait), wait)

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
        status, body = answers.refusal(status, content_type, body, outcome.verdict)
        fields: list[tuple[bytes, bytes]] = []
        if outcome.verdict not in answers.CALLERS_OWN:
            fields = answers.retry_fields(wait, self.attempts)
        self._answer(status, body, fields)

    def _answer_error(self, error: FastgwError, wait: float = 0.0) -> None:
        fields = answers.fields_for(error)
        if error.status in (502, 503, 504):
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

    def _finished(self) -> None:
        """Exactly once per exchange."""
        self.phase = _DONE
        self.body.drop()
        self.exchanges.live.discard(self)
        self.exchanges.on_finished(self)
