"""One request's life: the only code that sees both the client and the nodes.

The original request is held, immutable, until the commit; each attempt renders its own copy for
its own node. The commit is the first content of the answer, not its first byte; it is drawn in
one place, ``Exchange._commit``. Until then a failed attempt moves on to the next node and the
caller sees nothing of it. After it the caller gets the rest, or an honest end.

No task, future or timer is made here: ``on_tick`` compares numbers with the clock.
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic, time

from ..balancing.deadlines import attempt_deadline, patience
from ..balancing.retry import (
    computes_answer,
    endpoint_of,
    is_nodes_fault,
    may_attempt_again,
)
from ..errors import (
    BadResponse,
    BodyTooLarge,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    DeadlineExceeded,
    EmptyAnswer,
    FailureKind,
    FoundOut,
    NodeError,
    NodeTimeout,
    NoNodeAvailable,
    Retryable,
)
from ..llm.body import answer_problem, scan
from ..llm.outcome import (
    UNKNOWN_MODEL,
    UNSUPPORTED_CAPABILITY,
    Outcome,
    Verdict,
    classify,
    classify_error_event,
    missing_capability,
)
from ..llm.resume import DONE_EVENT, Transcript
from ..llm.sse import EventKind, EventScanner
from ..wire.head import CHUNKED_BODY, NO_BODY, UNTIL_CLOSE
from . import answers
from .answering import NODES_FAULT, Phase
from .relay import Relay, client_framing, is_opaque, stream_framing
from .resumption import Resumption, can_be_resumed
from .sending import JOIN_BYTES, Sending

HELD_ERROR_BYTES = 64 * 1024  # of an error answer, read to learn what it means
HELD_ERROR_S = 5.0  # ... and for how long
NO_SUCCESS = 300  # from this status on a node may repeat our key: what it was, or where to go with it

_FIRST_CONTENT = int(
    EventKind.CONTENT | EventKind.REASONING | EventKind.TOOL_CALL | EventKind.FINISH | EventKind.OTHER
)
_SILENT = int(EventKind.COMMENT | EventKind.BLANK)
_ERROR = int(EventKind.ERROR)
# As C integers, which imported names are not.
_NO_BODY, _CHUNKED_BODY, _UNTIL_CLOSE = int(NO_BODY), int(CHUNKED_BODY), int(UNTIL_CLOSE)
_JOIN_BYTES, _NO_SUCCESS = JOIN_BYTES, NO_SUCCESS

_READING, _CONNECTING, _WAITING, _HOLDING, _REFUSED, _RELAYING, _DONE = (int(phase) for phase in Phase)


class Exchange(Sending):
    """One client request and the answer it gets.

    Whoever calls one of its callbacks holds a reference of its own: the call may end the exchange,
    and a C method does not keep its object alive.
    """

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
            for plugin in plan.body_plugins:
                refusal = plugin.on_body(self)
                if refusal is not None:
                    self._answer_error(refusal)
                    return
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
        while True:
            if self.attempts or upstream.models.count or self.tried is not None:
                attempt = self._start_with_care(upstream, now)
            else:
                attempt = upstream.start_attempt(now)
            if attempt is None:
                if not self._awaits_verdict(upstream, now):
                    self._give_up(now)
                return
            link = plan.links[attempt.position]
            self.rendering = rendering = None
            adapter = link.adapter
            if link.call_adapters is not None:
                adapter = link.call_adapters.get(self.target, adapter)
            if adapter is not None:
                self.rendering = rendering = adapter.render(self.body.data, self.facts, self.target)
            if rendering is None:
                self.changes = None
                break
            if rendering.misfit is None:
                self.changes = rendering.changes
                break
            self._skip_misfit(attempt, link, rendering.misfit, now)
        self.attempt = attempt
        self.link = link
        if self.attempts == 0:
            self.attempt_started = now
        else:
            self.exchanges.retries += 1
        self.attempts += 1
        self.is_fresh_retry = False
        self.sent_at = self.asked_at = now
        is_last = self.attempts >= plan.max_attempts
        self.share_deadline = attempt_deadline(now, self.total_deadline, is_last)
        self._reach(link, now)

    def on_connect_failed(self, error: NodeError) -> None:
        self.dial = None
        if self.phase == _CONNECTING:
            self._failed(error, monotonic())

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
        if head.status == 408 and self._was_idle(node, now):
            # It was said to nobody, before our request was there.
            self._connect_anew(now)
            return
        self.node_status = head.status
        if head.status >= _NO_SUCCESS:
            head.mask(self.link.redactor.mask_body)  # type: ignore[union-attr]
        if self.resumption is not None and head.status < 400 and not head.is_event_stream:
            self._node_done(False)
            self._failed(BadResponse("the provider's answer is no stream"), now)
            return
        if head.status >= 400 and plan.fails_over_on_status and (plan.is_llm or is_nodes_fault(head.status)):
            self.phase = _REFUSED
            self.answer_held = 0
            self.phase_deadline = min(self.share_deadline, now + HELD_ERROR_S)
        elif plan.is_llm and 200 <= head.status < 300 and not self.head.is_head and not is_opaque(head):
            self.phase = _HOLDING
            self.answer_held = 0
            if head.is_event_stream:
                redactor = self.link.redactor  # type: ignore[union-attr]
                self.relay = Relay(node.framer, stream_framing(self.head), EventScanner(), redactor)
                if plan.resumes:
                    self._watch_stream()
            self.own_limit_s = plan.first_content_stream_s if self.wants_stream else plan.first_content_s
            self.phase_deadline = self._answer_deadline()
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
        if content and mask & _FIRST_CONTENT and self.resumption is not None:
            # Whoever goes on with the answer does so behind this: it must not be lost, whatever follows it.
            self._commit(content, complete, now)
            return
        # Nothing has reached the client yet: whatever is wrong in this read, another node can mend.
        if mask & _ERROR or scanner.error_data is not None:
            self._node_done(complete)
            outcome = relay.error_outcome()
            if relay.before_error & _FIRST_CONTENT and outcome.certain:
                outcome = replace(outcome, certain=False)  # it had begun
            self._refused_by(outcome, scanner.error_data or b"", now)
            return
        if relay.filter is not None and relay.filter.has_diverged:
            self._interrupted(None, now)
            return
        if relay.is_broken() or (complete and mask & _FIRST_CONTENT and not self._is_whole(relay)):
            self._node_done(complete)
            self._failed(BadResponse("the provider's answer broke off"), now)
            return
        if mask & _FIRST_CONTENT:
            self._commit(content, complete, now)
            return
        if complete:
            if (
                scanner.seen & ~_SILENT
                and not computes_answer(self.method, self.path)
                and self._is_whole(relay)
            ):
                self._commit(content, True, now)  # whatever it means
                return
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
            expects_json = head.status != 204 and computes_answer(self.method, self.path)
            problem = answer_problem(body) if expects_json else None
            if problem is not None:
                self.node = None
                if problem == "error_in_200" or problem == "broken_off":
                    outcome = classify_error_event(body)
                    if problem == "broken_off" and outcome.certain:
                        outcome = replace(outcome, certain=False)  # it had begun
                    self._refused_by(outcome, body, now)
                    return
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
        outcome = classify(head.status, getattr(head, "get"), body, now_wall=time())  # noqa: B009
        body = self._masked(body)
        is_callers_own = outcome.verdict == Verdict.CALLER or (
            outcome.verdict == Verdict.REFUSED and not self._leave_out_this_model()
        )
        is_passed_on = is_callers_own or self._is_callers_key(outcome)
        fallback = self.plan.fallback
        if fallback is not None and (fallback.lists(head.status) or fallback.by_status_alone):
            is_passed_on = fallback.passes_on(head.status)
        if self.resumption is not None:
            if self.resumption.by_prefix and (is_callers_own or outcome.verdict == Verdict.MISFIT):
                self._node_done(complete)
                self._ask_whole_question(now)
                return
        elif is_passed_on:
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

    def _masked(self, body: bytes) -> bytes:
        """What the node says when it refuses: some repeat the key, which is ours. Its length stays."""
        masked: bytes = self.link.redactor.mask_body(body)  # type: ignore[union-attr]
        return masked

    def _is_callers_key(self, outcome: Outcome) -> bool:
        return self.plan.passthrough and outcome.verdict in (Verdict.DEAD, Verdict.FORBIDDEN)

    def _node_done(self, complete: bool) -> None:
        """Let go of the node's connection: it is back in the pool already, or cut off."""
        node, self.node = self.node, None
        if node is not None and not complete:
            node.abort()

    def _refused_by(self, outcome: Outcome, body: bytes, now: float) -> None:
        """The node said no (by status, or inside a 200): count it, and move on if that helps."""
        verdict = outcome.verdict
        fallback = self.plan.fallback
        if self.refusal is None or self.refusal[3] is not outcome:
            # An error event in a 200: the status it would have been.
            status = 400 if verdict in (Verdict.CALLER, Verdict.REFUSED, Verdict.MISFIT) else 502
            if verdict == Verdict.BUSY:
                status = 503 if outcome.overload else 429
            self.refusal = (status, answers.JSON, self._masked(body), outcome)
        self._end_attempt_refused(outcome, body, now)
        self.failure = None
        self._record(outcome.reason, now)
        is_final = verdict == Verdict.CALLER or (
            verdict == Verdict.REFUSED and not self._leave_out_this_model()
        )
        if is_final and not (fallback is not None and fallback.lists(self.refusal[0])):
            self._give_up(now)
            return
        self._move_on(Retryable.ALWAYS if outcome.certain else Retryable.UNCERTAIN, now)

    def _end_attempt_refused(self, outcome: Outcome, body: bytes, now: float) -> None:
        """What the node said is about the node, its key, a model of it, or nothing but the request."""
        attempt = self.attempt
        assert attempt is not None
        verdict = outcome.verdict
        fallback = self.plan.fallback
        model = self._model_sent()
        if fallback is not None and fallback.by_status_alone:
            attempt.failed(int(FailureKind.HTTP), now)
        elif verdict == Verdict.BUSY:
            until = now + outcome.wait_s if outcome.wait_s is not None else 0.0
            if model is not None and self.link.limits_per_model and not outcome.overload:  # type: ignore[union-attr]
                attempt.busy_for(model, until, now)
            else:
                attempt.busy(until, now, outcome.overload)
        elif verdict == Verdict.DEAD or verdict == Verdict.FORBIDDEN:
            node = attempt.node
            was_dead = node.is_dead()
            if verdict == Verdict.DEAD:
                attempt.dead(now)
            else:
                attempt.forbidden(now)
            if node.is_dead() and not was_dead:
                self.exchanges.node_died(node, outcome.reason, now)
        elif verdict == Verdict.FAILED:
            attempt.failed(int(FailureKind.HTTP), now)
        elif verdict == Verdict.CALLER:
            attempt.succeeded(now)
        elif model is not None and outcome.reason in (UNKNOWN_MODEL, UNSUPPORTED_CAPABILITY):
            if outcome.reason == UNKNOWN_MODEL:
                scope = endpoint_of(self.method, self.head.path)
            else:
                scope = missing_capability(body, self.facts.traits)  # type: ignore[union-attr]
            if scope:
                attempt.misfit(model, scope, outcome.reason, now)
            else:
                attempt.ignored(now)
        else:
            attempt.ignored(now)

    def _end_attempt_by_event(self, now: float) -> None:
        relay = self.relay
        assert relay is not None and relay.scanner is not None
        data = relay.scanner.error_data or b""
        self._end_attempt_refused(relay.error_outcome(), data, now)

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
            and node.answer_bytes == 0
            and self._was_idle(node, now)
        ):
            self._connect_anew(now)
            return
        self._failed(error, now)

    def _connect_anew(self, now: float) -> None:
        """The connection was closed while idle, and we wrote into the void. Its elders are no better."""
        self._node_done(False)
        self.exchanges.stale_reuses += 1
        self.is_fresh_retry = True
        self.link.pool.flush()  # type: ignore[union-attr]
        self._connect(now)

    def _failed(self, error: NodeError, now: float) -> None:
        """The attempt failed without an answer: count it and move on if that is allowed."""
        attempt = self.attempt
        assert attempt is not None
        is_early = self.is_hurried and now - self.asked_at < self.own_limit_s
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
            if self.plan.fallback is not None:
                retryable = self._by_fallback(retryable, now)
            self._exclude(self.attempt.position)
            self.attempt = None
        if self.resumption is not None:
            retryable = Retryable.ALWAYS  # a route that resumes has agreed to a second generation
        if self.is_streaming_body and not (retryable is Retryable.ALWAYS and self.body.is_all_held()):
            self._give_up(now)
            return
        if not may_attempt_again(retryable, self._is_replayable(), self.uncertain):
            self._give_up(now)
            return
        if retryable is not Retryable.ALWAYS:
            self.uncertain = len(self.records)
        before = self.attempts
        self._attempt_next(now)
        if retryable is not Retryable.ALWAYS and self.attempts > before:
            self.exchanges.uncertain_replays += 1

    # --- The commit ---------------------------------------------------------------------------

    def _commit(self, content: bytes, complete: bool, now: float) -> None:
        """The first content goes to the client. From here on nothing is attempted again.

        ``content``: the newest part of what goes out, behind what was held.
        """
        node = self.node
        assert node is not None
        self.phase = _RELAYING
        self.last_progress_at = now
        self.rendering = None
        attempt = self.attempt
        if attempt is not None:
            attempt.answered(now)
            if self.plan.upstream.models.count:  # type: ignore[union-attr]
                self._note_model_served(attempt, now)
        if self.resumption is not None:
            self._commit_again(content, complete, now)
            return
        self.first_content_at = now
        if not self.plan.resumes:
            self.body.drop()
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
            redactor = self.link.redactor if head.status >= _NO_SUCCESS else None  # type: ignore[union-attr]
            self.relay = relay = Relay(node.framer, framing, None, redactor)
            content = relay.masked_part(content, False)
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

    def _commit_again(self, content: bytes, complete: bool, now: float) -> None:
        """A node goes on with an answer whose beginning the client has."""
        relay = self.relay
        assert relay is not None
        self.exchanges.resumed += 1
        content = self._all_held(content)
        if complete:
            self._finish_relay(b"", content, now)
            return
        if content:
            self._send_to_client(relay.wrap(content, False), now)
        if relay.is_broken():
            self._interrupted(None, now)

    # --- Resumption ---------------------------------------------------------------------------

    def _watch_stream(self) -> None:
        """Keep what the client is given of a stream, or join it to what it has."""
        relay = self.relay
        link = self.link
        assert relay is not None and link is not None
        if self.resumption is not None:
            relay.filter = self.resumption.filter_for(link)
        elif self.facts is not None and can_be_resumed(self.method, self.path):
            relay.filter = Transcript()

    def _resume(self, code: str, now: float) -> bool:
        relay = self.relay
        if relay is None or relay.filter is None or relay.is_mid_event or code not in NODES_FAULT:
            return False
        transcript = relay.filter.transcript
        if self.body.data is None or not transcript.can_resume():
            return False
        if code == "stream_error" and self._is_callers_error(relay):
            return False
        self._end_attempt_by(code, now)
        if transcript.finish_reason is not None or transcript.is_done:
            # All of it was said; only the stream's own end was missing, or the body's.
            self.note = self.note or code
            out = relay.wrap(b"" if transcript.is_done else DONE_EVENT, True)
            self.sent_bytes += len(out)
            self.client.send(out)
            self._end(self.keep_alive, now)
            return True
        if self.resumption is None:
            self.resumption = Resumption(code, relay.error_event, transcript)
        self.exchanges.malformed_events += relay.malformed
        self.note = "resumed"
        self.phase = _CONNECTING
        self._exclude(self.link.position)  # type: ignore[union-attr]
        self._move_on(Retryable.ALWAYS, now)
        return True

    def _is_callers_error(self, relay: Relay) -> bool:
        """Does the error event speak of the request alone? Then no other node is asked behind its back."""
        verdict = relay.error_outcome().verdict
        return verdict == Verdict.CALLER or verdict == Verdict.REFUSED

    def _ask_whole_question(self, now: float) -> None:
        """The node takes no prefix after all: it is asked again, as any other node would be."""
        link = self.link
        assert link is not None
        assert self.resumption is not None
        self.resumption.may_prefix = False
        self._record("prefix_refused", now)
        self.attempts += 1
        self.is_fresh_retry = False
        self._reach(link, now)

    def _relay_first(self, data: bytes, complete: bool, now: float) -> None:
        """A plain answer commits with its head: nothing in it is looked at."""
        node = self.node
        assert node is not None
        content = node.framer.decoded(data)
        status = node.head.status  # type: ignore[union-attr]
        if status == 101:  # it is there, and was asked for
            self._open_tunnel(content, now)
        else:
            self._commit(
                self._masked(content) if complete and status >= _NO_SUCCESS else content, complete, now
            )

    # --- Deadlines ----------------------------------------------------------------------------

    def on_tick(self, now: float) -> None:
        """Compare every deadline with the clock, and the attempt's node with its verdict."""
        phase = self.phase
        if phase == _READING or phase == _DONE:
            return
        if phase == _RELAYING:
            self._tick_relaying(now)
            return
        if self.attempt is None:
            self._attempt_next(now)  # it waits for a verdict
            return
        if now >= self.total_deadline:
            self._failed_by_clock(now)
        elif now >= self.phase_deadline:
            if phase == _REFUSED:
                self._judge_error(False, None, now)
            else:
                self._failed_by_clock(now)
        elif self.node_stalled_at and now - self.node_stalled_at >= self.plan.node_write_s:
            if not self._takes_request(self.node, now):  # type: ignore[arg-type]
                self._failed_by_clock(now)
        elif self.attempt.kind == 0 and self.attempt.is_stale():
            # Others have found the node out: no need to wait for our own deadline, if there is another.
            self._exclude(self.attempt.position)
            if (
                (phase == _CONNECTING or self._may_leave_node())
                and (
                    self.plan.fallback is None or self._by_fallback(Retryable.ALWAYS, now) is Retryable.ALWAYS
                )
                and self.attempts < self.plan.max_attempts
                and self._could_move(self.plan.upstream, now)  # type: ignore[arg-type]
            ):
                self._failed(FoundOut(), now)

    def _may_leave_node(self) -> bool:
        """May a request that its node has, in part or all of it, go to another one without an answer?"""
        return not self.is_streaming_body and not self.uncertain and self._is_replayable()

    def _failed_by_clock(self, now: float) -> None:
        phase = self.phase
        if phase != _CONNECTING and not self.node_stalled_at and self._is_going_out():
            self._stop(DeadlineExceeded())  # the time went by while the client was sending
            return
        node, self.node = self.node, None
        if node is not None:
            node.abort()
        self._failed(ConnectTimeout() if phase == _CONNECTING else NodeTimeout(), now)
