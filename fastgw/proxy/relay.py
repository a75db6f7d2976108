"""One answer's body on its way from a node to a client.

The usual read is passed on as the same object: it begins and ends between two chunks and two
events. Otherwise its content is taken out and framed anew, and an event that is not whole yet is
kept until it is. So the client always stands between two events, and an honest error event can
follow at any time.
"""

from __future__ import annotations

from typing import Any

from ..llm.outcome import Outcome, classify_error_event
from ..llm.sse import EventKind, EventScanner
from ..redaction import Redactor
from ..wire.framing import BodyFramer
from ..wire.head import (
    CHUNKED_BODY,
    NO_BODY,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
    chunk_of,
    joined,
    part,
)

TAIL_BYTES = 64 * 1024  # of an event that is not whole; a longer one is passed on in parts
MALFORMED_EVENTS = 3  # dropped from one stream; more of them are no accident

_PROGRESS = int(EventKind.CONTENT | EventKind.REASONING | EventKind.TOOL_CALL)
_RARE = int(EventKind.MALFORMED | EventKind.ERROR)
_MALFORMED = int(EventKind.MALFORMED)
_ERROR = int(EventKind.ERROR)
_END = int(EventKind.FINISH | EventKind.DONE)


def is_opaque(head: ResponseHead) -> bool:
    """Is the body compressed, although nobody asked for that? Then nothing in it can be looked at."""
    coding = head.get(b"content-encoding")
    return coding is not None and coding.lower() != b"identity"


def stream_framing(request: RequestHead) -> int:
    """How a body of unknown length is framed for this client."""
    return CHUNKED_BODY if request.minor_version == 1 else UNTIL_CLOSE


def client_framing(head: ResponseHead, request: RequestHead) -> int:
    """How the body of this answer is framed for this client, if it is relayed as it comes."""
    if request.is_head or head.status == 204 or head.status == 304:
        return NO_BODY
    if not head.is_chunked and head.content_length >= 0:
        return head.content_length
    return stream_framing(request)


class Relay:
    """The body of one answer.

    Args:
        framer: the node connection's; it has just been fed what is passed on.
        framing: how the client's body is framed: its size, CHUNKED_BODY or UNTIL_CLOSE.
        scanner: for an event stream whose events are looked at, else None.
        redactor: of the events that say an error or, without a scanner, of the whole body, which is one: the
            node may repeat its key there. None: there is nothing to hide.
    """

    def __init__(
        self,
        framer: BodyFramer,
        framing: int,
        scanner: EventScanner | None,
        redactor: Redactor | None = None,
    ) -> None:
        self.framer = framer
        self.is_chunked = framing == CHUNKED_BODY
        # Bytes can be passed on as they are only from one framing to the same.
        self.is_same_framing = framer.is_chunked == self.is_chunked
        self.scanner = scanner
        self.redactor = redactor
        self.tail = b""  # of an event that is not whole or, without a scanner, of what may be a secret
        self.pending = 0  # bytes at the end of what was read, tail included, that are no whole event yet
        self.mask = 0  # kinds of event in the last read
        self.rare: list[tuple[int, int, int]] | None = None  # where in it events to drop lie, and their kinds
        self.is_mid_event = False  # the client has got part of an event
        self.has_error = False
        self.before_error = 0  # kinds of the events that stood before it in its read
        self.outcome: Outcome | None = None  # what the error event means, once somebody has asked
        self.malformed = 0
        # Of a route that resumes: what every whole event goes through (a llm.resume.Transcript or
        # Splicer), and the provider's error event, which is not passed on at once.
        self.filter: Any = None
        self.error_event = b""

    # --- Content ------------------------------------------------------------------------------

    def _scan(self, data: bytes) -> None:
        """Look at the events in what the framer was just fed; offsets count from the tail's begin."""
        framer = self.framer
        scanner = self.scanner
        assert scanner is not None
        self.rare = None
        mask = 0
        last = 0  # behind the last whole event
        total = len(self.tail)
        for index in range(framer.count):
            at = framer.span_start(index)
            end = framer.span_end(index)
            total += end - at
            while at < end:
                at = scanner.feed_event(data, at, end)
                kind = scanner.kind
                if scanner.boundary >= 0:
                    if kind & _RARE:
                        self._note_rare(last, total - (end - scanner.boundary), kind, mask)
                    last = total - (end - scanner.boundary)
                mask |= kind
        self.pending = total - last
        self.mask = mask

    def _note_rare(self, start: int, end: int, kind: int, before: int) -> None:
        if self.rare is None:
            self.rare = []
            self.before_error = 0
        self.rare.append((start, end, kind))
        if kind & _ERROR and not self.has_error:
            self.has_error = True
            self.before_error = before

    def take(self, data: bytes) -> bytes:
        """The content of the last read that may go to the client now; whole events only."""
        framer = self.framer
        if self.scanner is None:
            return framer.decoded(data)
        self._scan(data)
        return self._whole_events(framer.decoded(data))

    def _whole_events(self, content: bytes) -> bytes:
        if self.tail:
            content = joined(self.tail, content)
            self.tail = b""
        whole = len(content) - self.pending
        rest = b""
        if self.pending:
            rest = part(content, whole, len(content))
            content = part(content, 0, whole)
        if self.rare is not None:
            content = self._without_rare(content)
            if self.is_broken():
                return self._filtered(content)  # nothing of the node follows
        if whole:
            self.is_mid_event = False
        if rest:
            if len(rest) <= TAIL_BYTES:
                self.tail = rest
            else:
                self.is_mid_event = True
                content += rest
        return self._filtered(content)

    def _filtered(self, content: bytes) -> bytes:
        if self.filter is None or not content:
            return content
        passed: bytes = self.filter.pass_on(content)
        return passed

    def _without_rare(self, content: bytes) -> bytes:
        """Drop events that are not JSON; let nothing follow an error event, or too many of those."""
        assert self.rare is not None
        kept = []
        at = 0
        for start, end, kind in self.rare:
            if kind & _ERROR:
                kept.append(self._with_error(content[at:start], content[start:end]))
                return b"".join(kept)
            if start:
                self.is_mid_event = False
            self.malformed += 1
            if not self.is_mid_event:  # else the client has its beginning already
                kept.append(content[at:start])
                at = end
            if self.malformed > MALFORMED_EVENTS:
                return b"".join(kept)
        kept.append(content[at:])
        return b"".join(kept)

    def _with_error(self, before: bytes, event: bytes) -> bytes:
        """What is passed on of an error event and what stands before it."""
        event = self._masked(event)
        if self.filter is None:
            return before + event
        self.error_event = event
        return before

    def _masked(self, content: bytes) -> bytes:
        if self.redactor is None:
            return content
        masked: bytes = self.redactor.mask_body(content)
        return masked

    def masked_part(self, content: bytes, complete: bool) -> bytes:
        """What may go out now of a body that is one error; the beginning of a secret is kept for its rest."""
        redactor = self.redactor
        if redactor is None:
            return content
        content = self._masked(joined(self.tail, content))
        self.tail = b""
        size = 0 if complete else redactor.unfinished(content)
        if size:
            self.tail = content[-size:]
            content = content[:-size]
        return content

    # --- Framing ------------------------------------------------------------------------------

    def wrap(self, content: bytes, complete: bool) -> bytes:
        """Content in the client's framing, with the end of the body if it is complete."""
        return chunk_of(content, complete) if self.is_chunked else content

    def pass_on(self, data: bytes, start: int, end: int) -> bytes:
        """What to send for a read that does not end the body: mostly the read itself."""
        framer = self.framer
        if self.scanner is None:
            if self.is_same_framing and framer.is_verbatim and self.redactor is None:
                return data if start == 0 and end == len(data) else part(data, start, end)
            return self.wrap(self.masked_part(framer.decoded(data), False), False)
        self._scan(data)
        if (
            self.pending == 0
            and self.is_same_framing
            and framer.is_verbatim
            and not self.tail
            and not self.is_mid_event
            and not self.mask & _RARE
            and self.filter is None
        ):
            return data if start == 0 and end == len(data) else part(data, start, end)
        return self.wrap(self._whole_events(framer.decoded(data)), False)

    def finish(self, data: bytes) -> bytes:
        """The content of the last read of a body that is complete, and all that was kept back."""
        if self.scanner is None:
            return self.masked_part(self.framer.decoded(data), True)
        content = self.take(data)
        if self.is_broken() or not (self.tail or self.is_mid_event):
            return content
        return content + self._filtered(self._last_event())

    def _last_event(self) -> bytes:
        """What stands behind the last empty line: an event whose own is missing, or half of one."""
        scanner = self.scanner
        assert scanner is not None
        kind = scanner.feed_eof()
        tail = self.tail
        self.tail = b""
        if kind & _ERROR:
            self.has_error = True
            self.before_error = self.mask
            tail = self._with_error(b"", tail + b"\n\n")  # or no client would look at it
        elif kind & _MALFORMED:
            self.malformed += 1
            if not self.is_mid_event:
                tail = b""
        elif tail:
            self.is_mid_event = True
        self.mask |= kind
        return tail

    # --- What it was --------------------------------------------------------------------------

    def shows_progress(self) -> bool:
        """Did the last read hold content: text, reasoning or a tool call?"""
        return self.mask & _PROGRESS != 0

    def is_ended(self) -> bool:
        """Has the stream said that its answer is whole?"""
        return self.scanner is None or self.scanner.seen & _END != 0

    def is_broken(self) -> bool:
        """An error event, more malformed ones than an accident explains, or another answer than it was."""
        return (
            self.has_error
            or self.malformed > MALFORMED_EVENTS
            or (self.filter is not None and self.filter.has_diverged)
        )

    def error_outcome(self) -> Outcome:
        """What the provider's error event means."""
        if self.outcome is None:
            assert self.scanner is not None
            self.outcome = classify_error_event(self.scanner.error_data or b"")
        return self.outcome
