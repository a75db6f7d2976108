"""What is needed to go on with a streamed answer that broke off: what was said, and where to go on.

A `Transcript` keeps what the client has been given of one chat completion. When the stream breaks,
another node is asked to continue it, in one of two ways. A node that takes a *prefix* gets the
answer so far as the last message and gives only what follows. Any other node is asked the whole
question again; a `Splicer` drops the part of its answer that equals what was sent and goes on where
that ends. If the second answer differs, there is nothing honest to join.

Either way the client sees one answer: one id, one role, one finish_reason, and a usage that counts
both generations. No prompt is ever invented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

MAX_TEXT_BYTES = 1 << 20  # of one answer, as its provider sent it: text, arguments
FOLD_BYTES = 64 * 1024  # of events that are kept as they came before they are read

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"


def events_in(content: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield (bytes, data) of each event in whole events; data is None for comments and blank lines."""
    at = 0
    while at < len(content):
        found = _EVENT_END.search(content, at)
        end = found.end() if found is not None else len(content)
        raw = content[at:end]
        yield raw, _data_of(raw)
        at = end


def _data_of(event: bytes) -> bytes | None:
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def _is_plain(choice: Any) -> bool:
    """Is this the one choice of a chat, of the shape that is known? Others cannot be put together."""
    if not isinstance(choice, dict) or choice.get("index", 0) != 0:
        return False
    delta = choice.get("delta") or {}
    if not isinstance(delta, dict) or not isinstance(delta.get("content") or "", str):
        return False
    calls = delta.get("tool_calls") or []
    return isinstance(calls, list) and all(_is_plain_call(call) for call in calls)


def _is_plain_call(call: Any) -> bool:
    if not isinstance(call, dict) or not isinstance(call.get("index", 0), int):
        return False
    function = call.get("function") or {}
    return isinstance(function, dict) and all(
        isinstance(function.get(name) or "", str) for name in ("name", "arguments")
    )


class Transcript:
    """What one client has been given of a streamed chat completion with one choice.

    Events are kept as they came and read only when they are needed, or many. Memory is bounded: an
    answer that grows over ``max_bytes``, or is none of this kind, `can_resume` no more.

    Attributes:
        id, created, model: of the first event that told them.
        has_reasoning: thoughts of the model were among it.
        tools: the tool calls so far, by index: [name, arguments].
        finish_reason: the answer's, None as long as it goes on.
        is_done: the stream's own end, [DONE], was among it.
        pieces: deltas with content; about one token each.
    """

    def __init__(self, max_bytes: int = MAX_TEXT_BYTES) -> None:
        self.id: Any = None
        self.created: Any = None
        self.model: Any = None
        self.has_reasoning = False
        self.tools: dict[int, list[str]] = {}
        self.finish_reason: Any = None
        self.is_done = False
        self.pieces = 0
        self._text: list[str] = []
        self._is_usable = True
        self._size = 0
        self._max_bytes = max_bytes
        self._unread: list[bytes] = []
        self._unread_bytes = 0

    def __repr__(self) -> str:
        return f"<Transcript {self._size} bytes{'' if self._is_usable else ', unusable'}>"

    @property
    def text(self) -> str:
        """The content so far."""
        self._read()
        return "".join(self._text)

    def can_resume(self) -> bool:
        """Is all of it known, and of a kind that can be continued?"""
        self._read()
        return self._is_usable

    def pass_on(self, content: bytes) -> bytes:
        """Keep whole events that the client is given; they are given as they are."""
        if content and self._is_usable:
            self._unread.append(content)
            self._unread_bytes += len(content)
            if self._unread_bytes > FOLD_BYTES:
                self._read()
        return content

    @property
    def transcript(self) -> Transcript:
        return self

    has_diverged = False

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        self._unread_bytes = 0
        for _, data in events_in(b"".join(unread)):
            if data is None:
                continue
            if data == _DONE:
                self.is_done = True
                continue
            try:
                event = orjson.loads(data)
            except orjson.JSONDecodeError:
                self._is_usable = False  # half of an event that was too long, or nonsense
                return
            self.add(event)

    def add(self, event: Any) -> None:
        """Take in one event that the client has been given."""
        if not isinstance(event, dict) or not isinstance(event.get("choices"), list):
            self._is_usable = False
            return
        if self.id is None:
            self.id = event.get("id")
            self.created = event.get("created")
            self.model = event.get("model")
        for choice in event["choices"]:
            if not _is_plain(choice):
                self._is_usable = False
                return
            self._add_delta(choice.get("delta") or {})
            if choice.get("finish_reason"):
                self.finish_reason = choice["finish_reason"]
        if self._size > self._max_bytes:
            self._is_usable = False
            self._text = []
            self.tools = {}

    def _add_delta(self, delta: dict[str, Any]) -> None:
        content = delta.get("content")
        if content:
            self._text.append(content)
            self._size += len(content)
            self.pieces += 1
        if delta.get("reasoning_content") or delta.get("reasoning"):
            self.has_reasoning = True
            self.pieces += 1
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        if delta.get("refusal") or delta.get("audio") or delta.get("function_call"):
            self._is_usable = False  # of a kind nobody continues

    def _add_call(self, call: dict[str, Any]) -> None:
        function = call.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        known = self.tools.setdefault(call.get("index", 0), ["", ""])
        known[0] += name
        known[1] += arguments
        self._size += len(name) + len(arguments)
        self.pieces += 1


class Splicer:
    """Turns the events of a second generation into the rest of the first one.

    Args:
        transcript: what the client has been given; goes on growing.
        by_prefix: the node was given the answer so far, and gives only what follows.
        comment: one line for the client, without line end, before the first event.

    Attributes:
        has_diverged: the second answer is another one; nothing of it went out that does not fit.
    """

    def __init__(self, transcript: Transcript, *, by_prefix: bool, comment: str = "") -> None:
        self.transcript = transcript
        self.has_diverged = False
        self._by_prefix = by_prefix
        # What is still to be met again before anything new may go out.
        text = transcript.text
        self._text = "" if by_prefix else text
        self._tools = {} if by_prefix else {index: list(call) for index, call in transcript.tools.items()}
        self._lost_pieces = transcript.pieces
        self._comment = b": %b\n" % comment.encode() if comment else b""

    def pass_on(self, content: bytes) -> bytes:
        """Return what the client gets for whole events of the second generation."""
        out = []
        for raw, data in events_in(content):
            if self.has_diverged:
                break
            if data is None:
                out.append(raw)
                continue
            event = self._rest_of(data)
            if event:
                out += (self._comment, event)
                self._comment = b""
        return b"".join(out)

    def _rest_of(self, data: bytes) -> bytes:
        if data == _DONE:
            self.has_diverged = self.has_diverged or self._owes()
            if self.has_diverged or self.transcript.is_done:
                return b""
            self.transcript.is_done = True
            return DONE_EVENT
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.has_diverged = True
            return b""
        if not isinstance(event, dict) or not isinstance(event.get("choices"), list):
            self.has_diverged = True
            return b""
        transcript = self.transcript
        choices = []
        for choice in event["choices"]:
            if not _is_plain(choice):
                self.has_diverged = True
                return b""
            rest = self._rest_of_choice(choice)
            if self.has_diverged:
                return b""
            if rest is not None:
                choices.append(rest)
        usage = event.get("usage")
        if not choices and not usage:
            return b""
        if isinstance(usage, dict):
            event["usage"] = self._whole_usage(usage)
        event["choices"] = choices
        event["id"] = transcript.id
        event["created"] = transcript.created
        event.pop("obfuscation", None)
        transcript.add(event)
        return b"data: %b\n\n" % orjson.dumps(event)

    def _owes(self) -> bool:
        """Has the second answer not yet said all that the first one had?"""
        return bool(self._text) or any(name or arguments for name, arguments in self._tools.values())

    def _rest_of_choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        """The choice without what the client has; None if nothing is left."""
        delta = choice.get("delta") or {}
        rest: dict[str, Any] = {}
        content = delta.get("content")
        if content:
            content = self._rest_of_text(content)
            if content:
                rest["content"] = content
        calls = [self._rest_of_call(call) for call in delta.get("tool_calls") or ()]
        calls = [call for call in calls if call is not None]
        if calls:
            rest["tool_calls"] = calls
        # Its thoughts are another way to the same answer: nobody misses them behind the first one's.
        finish = choice.get("finish_reason")
        if finish and self._owes():
            self.has_diverged = True
        if self.has_diverged or not (rest or finish):
            return None
        return {**choice, "delta": rest}

    def _rest_of_text(self, content: str) -> str:
        known = self._text
        if not known:
            return content
        size = min(len(known), len(content))
        if known[:size] != content[:size]:
            self.has_diverged = True
            return ""
        self._text = known[size:]
        return content[size:]

    def _rest_of_call(self, call: dict[str, Any]) -> dict[str, Any] | None:
        index = call.get("index", 0)
        function = call.get("function") or {}
        known = self._tools.get(index)
        if known is None:
            if self._owes():
                self.has_diverged = True
            return call
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        if not known[0].startswith(name):
            self.has_diverged = True
            return None
        known[0] = known[0][len(name) :]
        size = min(len(known[1]), len(arguments))
        if known[1][:size] != arguments[:size]:
            self.has_diverged = True
            return None
        known[1] = known[1][size:]
        if not arguments[size:]:
            return None
        # The call's id and name are the first one's: the client has them.
        return {"index": index, "function": {"arguments": arguments[size:]}}

    def _whole_usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The usage of both generations; that of the broken one is an estimate, a token a piece."""
        lost = self._lost_pieces
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return usage
        first_prompt = max(0, prompt - lost) if self._by_prefix else prompt
        whole = {"prompt_tokens": prompt + first_prompt, "completion_tokens": completion + lost}
        whole["total_tokens"] = whole["prompt_tokens"] + whole["completion_tokens"]
        return {**usage, **whole, "is_estimate": True}


def continue_body(body: bytes, text: str, pieces: int) -> bytes | None:
    """Return a chat request that asks a node to go on after ``text`` by its prefix completion.

    None where that cannot be written: the request is not what all JSON parsers agree on (half a surrogate
    pair, say, which a provider may well take).

    Args:
        body: the request as it is rendered for that node.
        pieces: about how many tokens the answer has already; a limit of the request counts them.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    messages = request["messages"]
    last = messages[-1] if messages else {}
    if last.get("prefix") and isinstance(last.get("content"), str):
        text = messages.pop()["content"] + text  # the caller himself has begun the answer
    messages.append({"role": "assistant", "content": text, "prefix": True})
    request["thinking"] = {"type": "disabled"}  # a thought in the middle of an answer is none
    request.pop("reasoning_effort", None)
    limit = request.get("max_tokens")
    if isinstance(limit, int):
        request["max_tokens"] = max(1, limit - pieces)
    return orjson.dumps(request)
