"""Renders a request for one node: its model, its dialect, and what the operator wants of it.

The usual request is not parsed: `body.scan` has noted what is in it, and where nothing of that
concerns the node it goes out as it came, or with other bytes for the model's name alone. Only a
request that must change further is read as a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .body import BodyFacts, Trait, replaced_parts
from .chat_request import (
    LIMITS,
    ChatRequest,
    Misfit,
    drop_namesakes,
    merge,
    parsed,
    told,
    write_limit,
    write_over,
    written,
)
from .dialect import Dialect
from .model_map import ModelMap

_HAS_MESSAGES = int(Trait.MESSAGES)
_STOP_THINKING = b'{"thinking":{"type":"disabled"},'
_ONLY_MODEL = ("model",)
_MODEL_AND_THINKING = ("model", "thinking")

# Segments of a path behind which an endpoint's name is none: chats, models' names, DeepSeek's betas.
_ENDS_SEARCH = frozenset({b"chat", b"models", b"beta", b"anthropic"})
# Capabilities that are endpoints too.
_ENDPOINTS = ("embeddings", "audio", "images", "files")
# What in a request needs a capability.
_NEEDS = {
    "images": Trait.IMAGE,
    "audio": Trait.AUDIO | Trait.FOREIGN,
    "files": Trait.FILE,
    "functions": Trait.FUNCTION_CALL | Trait.FOREIGN,
    "tools": Trait.TOOLS,
    "json_schema": Trait.RESPONSE_FORMAT,
    "n": Trait.FOREIGN,
    "logprobs": Trait.LOGPROBS,
    "prefix": Trait.PREFIX,
}


class Rendering:
    """A request as one node gets it.

    Attributes:
        parts: the body, to be written one part after the other.
        changes: names of what is different in it, at most 17; printable and without commas.
        misfit: what the node lacks to take this request, None if it can; then there is no body.
    """

    parts: list[bytes | memoryview]
    changes: tuple[str, ...]
    misfit: str | None

    def __repr__(self) -> str:
        if self.misfit is not None:
            return f"<Rendering misfit: {self.misfit}>"
        return f"<Rendering {', '.join(self.changes)}>"

    @property
    def body(self) -> bytes:
        """The parts, joined."""
        return b"".join(self.parts)


class Adapter:
    """What is done to the requests that one node gets.

    Args:
        dialect: how its provider speaks.
        models: the model map; None: names stay.
        strict: a request whose meaning would have to be altered does not go to this node.
        capabilities: what the node can take or not, over what its dialect says.
        options: top-level fields that are written over the caller's; ``model`` forces the model.
        max_tokens: written over the caller's limit, under the name that the dialect has for it.
        patch: merged into the body, objects member by member; the caller's values stay ...
        patch_forced: ... unless this is set.
    """

    def __init__(
        self,
        dialect: Dialect,
        models: ModelMap | None = None,
        *,
        strict: bool = False,
        capabilities: Mapping[str, bool] | None = None,
        options: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        patch: Mapping[str, Any] | None = None,
        patch_forced: bool = False,
    ) -> None:
        self.dialect = dialect
        self.models = models or None
        self.strict = strict
        self.capabilities: dict[str, bool] = {**dialect.capabilities, **(capabilities or {})}
        self.options: dict[str, Any] = dict(options or {})
        model = self.options.get("model")
        self.forced_model: str | None = model if isinstance(model, str) else None
        if self.forced_model is not None:
            del self.options["model"]
        self.max_tokens = max_tokens
        self.patch: dict[str, Any] = dict(patch or {})
        self.patch_forced = patch_forced
        self.absent = _absent_endpoints(dialect, capabilities or {})
        self.concerns = _concerns(dialect, self.capabilities)
        self.concerns_moved = self.concerns | _concerns_moved(dialect)
        if dialect.thinks:
            # A request that moves does not think, unless it says so: that is a trait of its own.
            self.concerns_moved &= ~int(Trait.TOOL_CALLS)
        self.writes = bool(self.options) or max_tokens is not None or bool(self.patch)
        self.stops_thinking = dialect.thinks
        # The fields that the caller may not write, under any name of theirs.
        self.written = frozenset(options or ()) | frozenset(self.patch if patch_forced else ())
        if max_tokens is not None:
            self.written |= LIMITS

    def __repr__(self) -> str:
        return f"<Adapter {self.dialect.name}{' strict' if self.strict else ''} {self.models!r}>"

    def __bool__(self) -> bool:
        """Is there any request that it would change or refuse?"""
        return bool(
            self.models is not None
            or self.forced_model is not None
            or self.writes
            or self.concerns
            or self.concerns_moved
            or self.absent
        )

    def takes(self, capability: str) -> bool:
        """False where the node is known not to take it."""
        return self.capabilities.get(capability) is not False

    def model_for(self, asked: str | None) -> str | None:
        """The model this node is sent for the one a caller asked for; None: the request names none."""
        if self.forced_model is not None:
            return self.forced_model
        if asked is not None and self.models is not None:
            return self.models.map(asked)
        return asked

    def models_named(self) -> frozenset[str]:
        """The models it is configured to send, but for those that only a pattern describes."""
        pairs = self.models.pairs if self.models is not None else ()
        names = {name if target is None else target for name, target in pairs}
        patterns = {name for name, target in pairs if target is None and {"*", "?"} & set(name)}
        forced = {self.forced_model} if self.forced_model is not None else set()
        return frozenset((names - patterns) | forced)

    def render(self, body: bytes | None, facts: BodyFacts | None, path: bytes) -> Rendering | None:
        """Return the request as this node gets it; None: as it came.

        Args:
            body: the caller's; None if it is not held. It is not changed.
            facts: what `body.scan` says of it; None if it is not held, or no JSON object.
            path: of the request, for what a provider has no endpoint for; a query does no harm.
        """
        if self.absent and (facts is None or not facts.traits & _HAS_MESSAGES):
            misfit = self._absent_endpoint(path)
            if misfit is not None:
                return _refused(misfit)
        if body is None or facts is None:
            return None
        asked = facts.model
        model = self.model_for(asked)
        is_moved = model != asked
        traits = facts.traits
        concerns = self.concerns_moved if is_moved else self.concerns
        if (
            self.writes
            or (traits & concerns and traits & _HAS_MESSAGES)
            or (is_moved and facts.model_start < 0)
        ):
            return self._rewritten(body, facts, model, is_moved)
        if not is_moved:
            return None
        assert model is not None
        return self._moved(body, facts, model)

    def _moved(self, body: bytes, facts: BodyFacts, model: str) -> Rendering:
        """With another model; nothing else is read or written anew."""
        parts = replaced_parts(body, facts, model)
        if not self.stops_thinking or not facts.traits & _HAS_MESSAGES:
            return _rendered(parts, _ONLY_MODEL)
        # The first thing in the body is the object's bracket, and a key follows: the scan has seen it.
        parts[0] = memoryview(body)[body.index(b"{") + 1 : facts.model_start]
        parts.insert(0, _STOP_THINKING)
        return _rendered(parts, _MODEL_AND_THINKING)

    def _rewritten(
        self, body: bytes, facts: BodyFacts, model: str | None, is_moved: bool
    ) -> Rendering | None:
        try:
            document = parsed(body)
        except ValueError:
            if self.writes or (is_moved and facts.model_start < 0):
                # What the operator wants cannot be written into it, and a provider may be more lenient.
                return _refused("readable_json")
            # The provider may judge it.
            if not is_moved or model is None:
                return None
            return _rendered(replaced_parts(body, facts, model), _ONLY_MODEL)
        changes: list[str] = []
        if is_moved:
            drop_namesakes(document, _ONLY_MODEL, changes)
            document["model"] = model
            changes.append("model")
        if self.written:
            drop_namesakes(document, self.written, changes)
        if self.writes:
            write_over(document, self.options, changes)
            if self.max_tokens is not None:
                write_limit(document, self.max_tokens, self.dialect, changes)
            merge(document, self.patch, changes, forced=self.patch_forced)
        try:
            if "messages" in document:
                request = ChatRequest(
                    document,
                    self.dialect,
                    self.capabilities,
                    is_moved=is_moved,
                    strict=self.strict,
                    chosen=self.options.keys() | self.patch.keys() if self.writes else (),
                )
                changes += request.adapt()
        except Misfit as misfit:
            return _refused(misfit.capability)
        if not changes:
            return None
        return _rendered([written(document)], told(changes))

    def _absent_endpoint(self, path: bytes) -> str | None:
        """The endpoint that this provider has not, if the path is of one."""
        for segment in path.partition(b"?")[0].split(b"/"):
            if segment in _ENDS_SEARCH:
                return None
            if segment in self.absent:
                return segment.decode("ascii")
        return None


def _rendered(parts: list[bytes | memoryview], changes: tuple[str, ...]) -> Rendering:
    rendering = Rendering.__new__(Rendering)
    rendering.parts = parts
    rendering.changes = changes
    rendering.misfit = None
    return rendering


def _refused(misfit: str) -> Rendering:
    rendering = _rendered([], ())
    rendering.misfit = told([misfit])[0]
    return rendering


def _absent_endpoints(dialect: Dialect, capabilities: Mapping[str, bool]) -> frozenset[bytes]:
    absent = set(dialect.absent)
    for name in _ENDPOINTS:
        if capabilities.get(name) is False:
            absent.add(name.encode())
    if capabilities.get("embeddings"):
        absent.discard(b"embeddings")
    return frozenset(absent)


def _concerns(dialect: Dialect, capabilities: Mapping[str, bool]) -> int:
    """Which traits of a request for its own models call for a look?"""
    found = Trait(0)
    for name, trait in _NEEDS.items():
        if capabilities.get(name) is False:
            found |= trait
    if dialect.max_tokens == "max_tokens" or dialect.dropped - {"thinking", "user_id"}:
        found |= Trait.FOREIGN
    if "thinking" in dialect.dropped:
        found |= Trait.THINKING
    if "user_id" in dialect.dropped:
        found |= Trait.USER_ID
    if dialect.roles:
        found |= Trait.DEVELOPER
    if not dialect.keeps_reasoning:
        found |= Trait.REASONING_CONTENT
    if dialect.plain_tools:
        found |= Trait.CUSTOM | Trait.TOOL_CHOICE
    if dialect.thinks:
        found |= Trait.TOOL_CHOICE | Trait.TOOL_CALLS | Trait.REASONING_EFFORT
    if dialect.parameters is not None:
        found |= Trait.STREAM_OPTIONS
    return int(found)


def _concerns_moved(dialect: Dialect) -> int:
    """Which do besides, if the request asks for another provider's model?"""
    found = Trait(0)
    if dialect.max_tokens == "max_completion_tokens":
        found |= Trait.MAX_TOKENS
    if dialect.parameters is not None:
        found |= Trait.FOREIGN
    if dialect.efforts:
        found |= Trait.REASONING_EFFORT
    if dialect.thinks:
        found |= Trait.THINKING
    if dialect.plain_tools:
        found |= Trait.STRICT
    return int(found)
