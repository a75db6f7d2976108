"""Puts a parsed chat request into a provider's dialect, by what `dialect.py` says of it.

A change either keeps the meaning (another name for the same thing) or alters it (a parameter is
lost). What cannot be said in the dialect at all is a `Misfit`; so is, where it is strict, what
cannot be said without altering the meaning.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from typing import Any, NoReturn

import orjson

from .dialect import HARMLESS, Dialect

Document = dict[str, Any]

# Types of content parts, and the capability they need.
_PARTS: Mapping[str, str] = {
    "image_url": "images",
    "input_image": "images",
    "input_audio": "audio",
    "file": "files",
    "input_file": "files",
}
# Values by which a parameter says nothing: what every provider does without it.
_DEFAULTS: Mapping[str, object] = {
    "n": 1,
    "parallel_tool_calls": True,
    "logit_bias": {},
    "verbosity": "medium",
}
# The two names that the limit of an answer has.
_OTHER_LIMIT: Mapping[str, str] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
LIMITS = frozenset({*_OTHER_LIMIT, "max_output_tokens"})
# Of a body that is parsed: as a tree a value takes up to 100 bytes more than its text. What stands in
# texts counts as well; the longest conversation that a model has room for stays far below.
_MAX_VALUES = 1 << 20
_MAX_NAMES = 16  # of changes that are told
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_SCHEMA_PROMPT = "Answer with one JSON object and nothing else."
_SCHEMA_RULE = " It must be valid against this JSON schema:\n"


class Misfit(Exception):
    """A node cannot take this request; ``capability`` names what it lacks."""

    def __init__(self, capability: str) -> None:
        super().__init__(f"misfit: {capability}")
        self.capability = capability


class ChatRequest:
    """One request on its way into a dialect.

    Args:
        document: the body, parsed; it is changed in place.
        capabilities: what the node is known to take or not.
        is_moved: the request asks for a model that another provider has.
        strict: refuse what cannot be done without altering the meaning.
        chosen: fields that the operator sets for this node, which are none of the caller's.
    """

    def __init__(
        self,
        document: Document,
        dialect: Dialect,
        capabilities: Mapping[str, bool],
        *,
        is_moved: bool = False,
        strict: bool = False,
        chosen: Collection[str] = (),
    ) -> None:
        self.document = document
        self.dialect = dialect
        self.capabilities = capabilities
        self.is_moved = is_moved
        self.strict = strict
        self.chosen = chosen
        # In order, each once; a dict, for a caller can name any number of parameters.
        self.changes: dict[str, None] = {}

    def adapt(self) -> list[str]:
        """Change what must be changed, and return the names of it.

        Raises:
            Misfit: the node cannot take it.
        """
        self._check()
        self._rename_limit()
        self._adapt_format()
        self._adapt_tools()
        self._adapt_thinking()
        self._adapt_messages()
        self._drop_parameters()
        return list(self.changes)

    def _changed(self, name: str, *, alters: bool = False) -> None:
        if alters and self.strict:
            raise Misfit(name)
        self.changes[name] = None

    def _lacks(self, capability: str) -> bool:
        return self.capabilities.get(capability) is False

    def _require(self, capability: str) -> None:
        if self._lacks(capability):
            raise Misfit(capability)

    def _messages(self) -> Iterator[Document]:
        messages = self.document.get("messages")
        if isinstance(messages, list):
            yield from (message for message in messages if isinstance(message, dict))

    # --- What cannot be said ------------------------------------------------------------------

    def _check(self) -> None:
        document = self.document
        copies = document.get("n")
        if isinstance(copies, int) and copies > 1:
            self._require("n")
        if document.get("logprobs") or document.get("top_logprobs"):
            self._require("logprobs")
        if document.get("tools"):
            self._require("tools")
        if document.get("functions"):
            self._require("functions")
        modalities = document.get("modalities")
        if isinstance(modalities, list) and "audio" in modalities:
            self._require("audio")
        for message in self._messages():
            self._check_message(message)

    def _check_message(self, message: Document) -> None:
        if message.get("prefix"):
            self._require("prefix")
        if message.get("function_call") or message.get("role") == "function":
            self._require("functions")
        if message.get("audio"):
            self._require("audio")
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in _PARTS:
                self._require(_PARTS[kind])

    # --- Parameters ---------------------------------------------------------------------------

    def _rename_limit(self) -> None:
        """One of the two names a limit has; where both are given the newer one counts."""
        name = self.dialect.max_tokens
        document = self.document
        if name == "max_tokens" and "max_completion_tokens" in document:
            limit = document.pop("max_completion_tokens")
            if limit is not None:
                document[name] = limit
            self._changed(name)
        elif name == "max_completion_tokens" and self.is_moved and "max_tokens" in document:
            limit = document.pop("max_tokens")
            if limit is not None and document.get(name) is None:
                document[name] = limit
            self._changed(name)

    def _drop_parameters(self) -> None:
        document = self.document
        dialect = self.dialect
        known = dialect.parameters
        for name in list(document):
            if name in self.chosen:
                continue
            if name in dialect.dropped or (known is not None and self.is_moved and name not in known):
                value = document.pop(name)
                self._changed(name, alters=_matters(name, value))
        options = document.get("stream_options")
        if known is not None and isinstance(options, dict) and "include_obfuscation" in options:
            del options["include_obfuscation"]
            if not options:
                del document["stream_options"]
            self._changed("stream_options")

    def _adapt_format(self) -> None:
        """`json_schema` where there is none: JSON, and the schema in the instructions."""
        form = self.document.get("response_format")
        if not isinstance(form, dict) or form.get("type") != "json_schema" or not self._lacks("json_schema"):
            return
        messages = self.document.get("messages")
        if not isinstance(messages, list):
            return
        self._changed("json_schema", alters=True)
        wrapped = form.get("json_schema")
        schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
        text = _SCHEMA_PROMPT
        if isinstance(schema, dict):
            text += _SCHEMA_RULE + written(schema).decode()
        self.document["response_format"] = {"type": "json_object"}
        # Behind the caller's own instructions: what is cached of them stays valid.
        place = 0
        while place < len(messages) and _is_instruction(messages[place]):
            place += 1
        messages.insert(place, {"role": "system", "content": text})

    def _adapt_tools(self) -> None:
        if not self.dialect.plain_tools:
            return
        document = self.document
        tools = document.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if not isinstance(tool, dict):
                continue
            if tool.get("type") == "custom":
                raise Misfit("custom_tools")
            function = tool.get("function")
            if self.is_moved and isinstance(function, dict) and "strict" in function:
                self._changed("strict", alters=bool(function.pop("strict")))
        choice = document.get("tool_choice")
        kind = choice.get("type") if isinstance(choice, dict) else None
        if kind == "custom":
            raise Misfit("custom_tools")
        if kind == "allowed_tools":
            raise Misfit("allowed_tools")

    # --- Thinking -----------------------------------------------------------------------------

    def _adapt_thinking(self) -> None:
        document = self.document
        dialect = self.dialect
        effort = document.get("reasoning_effort")
        if not dialect.thinks:
            if self.is_moved and isinstance(effort, str) and effort in dialect.efforts:
                document["reasoning_effort"] = dialect.efforts[effort]
                self._changed("reasoning_effort")
            return
        thinking = document.get("thinking")
        if "reasoning_effort" in document and effort in (None, "none"):
            del document["reasoning_effort"]
            self._changed("reasoning_effort")
            if effort == "none" and thinking is None:
                thinking = self._stop_thinking()
            effort = None
        is_asked = thinking is not None or effort is not None
        if self.is_moved:
            if not is_asked:
                thinking = self._stop_thinking()
            elif isinstance(effort, str) and effort in dialect.efforts:
                document["reasoning_effort"] = dialect.efforts[effort]
                self._changed("reasoning_effort")
        if _is_disabled(thinking) or not self._forces_tool():
            return
        # It refuses a forced tool while it thinks. What a program reads is worth more than thoughts
        # nobody asked for; a caller who asks this provider for both has made the mistake himself.
        if self.is_moved or not is_asked:
            self._changed("thinking", alters=is_asked)
            self._stop_thinking()
            if document.pop("reasoning_effort", None) is not None:
                self._changed("reasoning_effort")

    def _stop_thinking(self) -> Document:
        thinking: Document = {"type": "disabled"}
        self.document["thinking"] = thinking
        self._changed("thinking")
        return thinking

    def _forces_tool(self) -> bool:
        choice = self.document.get("tool_choice")
        return choice == "required" or isinstance(choice, dict)

    # --- The history --------------------------------------------------------------------------

    def _adapt_messages(self) -> None:
        dialect = self.dialect
        pads = dialect.thinks and not _is_disabled(self.document.get("thinking"))
        for message in self._messages():
            role = message.get("role")
            if isinstance(role, str) and role in dialect.roles:
                message["role"] = dialect.roles[role]
                self._changed("role")
            if not dialect.keeps_reasoning and "reasoning_content" in message:
                del message["reasoning_content"]
                self._changed("reasoning_content")
            if self._lacks("prefix") and "prefix" in message:
                del message["prefix"]
                self._changed("prefix")
            if (
                pads
                and role == "assistant"
                and message.get("tool_calls")
                and not isinstance(message.get("reasoning_content"), str)
            ):
                message["reasoning_content"] = ""
                self._changed("reasoning_content")


def _matters(name: str, value: object) -> bool:
    """Would the answer be another one if the parameter had not been lost?"""
    if value is None or name in HARMLESS:
        return False
    if name == "thinking":
        return not _is_disabled(value)
    return name not in _DEFAULTS or value != _DEFAULTS[name]


def _is_disabled(thinking: object) -> bool:
    return isinstance(thinking, dict) and thinking.get("type") == "disabled"


def _is_instruction(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in ("system", "developer")


# --- Reading and writing ----------------------------------------------------------------------


def parsed(body: bytes) -> Document:
    """Parse what `body.scan` took for a JSON object.

    A provider may take half a surrogate pair, which orjson does not. Such a request must be read as
    well, or what the operator writes could be kept out of it.

    Raises:
        ValueError: it is not JSON, or has so many values that the tree would take too much memory.
    """
    if len(body) > _MAX_VALUES and sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MAX_VALUES:
        raise ValueError("too many values")
    document: Document
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = json.loads(body.decode(), parse_constant=_refuse, parse_float=_finite)
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return value


def written(value: Any) -> bytes:
    """Write a value that came from `parsed`, or of the operator's, as JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


# --- What the operator writes -----------------------------------------------------------------


def drop_namesakes(document: Document, names: Collection[str], changes: list[str]) -> None:
    """Take out fields whose names differ from one of ``names`` in case only.

    Some parsers, Go's among them, take them for the same field, and the last one counts.
    """
    folded = {name.casefold() for name in names}
    for name in [name for name in document if name not in names and name.casefold() in folded]:
        del document[name]
        changes.append(name)


def write_over(document: Document, options: Mapping[str, Any], changes: list[str]) -> None:
    """Write fields over those of a document; append the names of those that were different.

    A limit that is written takes the caller's away under its other name, too.
    """
    for name, value in options.items():
        other = _other_limit(document, name, options)
        if other is not None:
            del document[other]
            changes.append(other)
        if name not in document or document[name] != value:
            document[name] = deepcopy(value)
            changes.append(name)


def _other_limit(document: Document, name: str, names: Collection[str]) -> str | None:
    """The other name of a limit, where the document has one by it; None if it is one of ``names`` too."""
    other = _OTHER_LIMIT.get(name)
    return other if other is not None and other in document and other not in names else None


def write_limit(document: Document, limit: int, dialect: Dialect, changes: list[str]) -> None:
    """Write the limit of an answer under the name that the dialect, or the kind of request, has for it."""
    name = dialect.max_tokens or "max_tokens"
    other = None
    if "messages" in document:
        if dialect.max_tokens is None and "max_completion_tokens" in document:
            name = "max_completion_tokens"
        other = "max_completion_tokens" if name == "max_tokens" else "max_tokens"
    elif "prompt" in document:
        name = "max_tokens"
    elif "input" in document:
        name = "max_output_tokens"
    else:
        return
    if document.get(name) == limit and other not in document:
        return
    if other is not None:
        document.pop(other, None)
    document[name] = limit
    changes.append(name)


def merge(
    document: Document, patch: Mapping[str, Any], changes: list[str], *, forced: bool, path: str = ""
) -> None:
    """Merge ``patch`` into ``document``, objects member by member; append the names that changed.

    Args:
        forced: the patch's values win, not the document's.
        path: of the document, with a dot at its end; "" at the top.
    """
    for name, value in patch.items():
        other = None if path else _other_limit(document, name, patch)
        if other is not None:
            if not forced:
                continue  # the document has a limit
            del document[other]
            changes.append(other)
        own = document.get(name)
        if name in document and isinstance(own, dict) and isinstance(value, Mapping):
            merge(own, value, changes, forced=forced, path=f"{path}{name}.")
        elif name not in document or (forced and own != value):
            document[name] = deepcopy(value)
            changes.append(path + name)


def told(changes: list[str]) -> tuple[str, ...]:
    """Names of changes as a header field may show them: some of them come from a caller."""
    names: dict[str, None] = {}
    for name in changes:
        names[name if _NAME.fullmatch(name) else "other"] = None
        if len(names) > _MAX_NAMES:
            return (*list(names)[:_MAX_NAMES], "more")
    return tuple(names)
