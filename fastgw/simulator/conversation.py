"""What a request says and what a simulated model makes of it: always the same, and always recognisable.

The answer repeats the last user message, so a test can see whether an answer belongs to its request,
and fills up to the wanted length with numbered words, so a hole or a doubling shows at once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

MAX_ECHO_CHARACTERS = 64 * 1024
MAX_TOKENS = 100_000

_TOKEN = re.compile(r"\s*\S+|\s+\Z")
_CALL = re.compile(r"\bcall\s+`?([A-Za-z0-9_-]+)")


@dataclass(slots=True)
class ToolCall:
    """A call the model wants to be made; ``arguments`` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Reply:
    """What the model says, in tokens; joined they are the text."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_call: ToolCall | None = None
    finish: str = "stop"
    prompt_tokens: int = 0

    @property
    def completion_tokens(self) -> int:
        """Everything that is paid for."""
        call = len(tokens_of(self.tool_call.arguments)) + 1 if self.tool_call else 0
        return len(self.content) + len(self.reasoning) + call

    def cut(self, limit: int | None) -> None:
        """Keep the first ``limit`` tokens; thoughts come first, as they do in life."""
        if limit is None or self.tool_call or len(self.reasoning) + len(self.content) <= limit:
            return
        self.reasoning = self.reasoning[:limit]
        self.content = self.content[: limit - len(self.reasoning)]
        self.finish = "length"


def tokens_of(text: str) -> list[str]:
    """Words with the space before them; joined they give ``text`` back."""
    return _TOKEN.findall(text)


def numbered(begin: int, end: int) -> list[str]:
    """Filler tokens `` w<begin>`` to `` w<end - 1>``."""
    return [f" w{index}" for index in range(begin, end)]


def text_of(content: object) -> str:
    """The text in a message's ``content``: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return " ".join(text for text in texts if isinstance(text, str))


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last message of role user, or ""."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return text_of(message.get("content"))[:MAX_ECHO_CHARACTERS]
    return ""


def count_words(messages: Sequence[Mapping[str, Any]]) -> int:
    """The prompt tokens of a conversation."""
    return sum(len(text_of(message.get("content")).split()) for message in messages)


def say(messages: Sequence[Mapping[str, Any]], *, voice: str = "", length: int = 0) -> list[str]:
    """The tokens of the answer to a conversation: its echo, then filler up to ``length`` tokens."""
    text = f"{voice}You said: {last_user_text(messages)}"
    if messages and messages[-1].get("role") == "tool":
        text += f" The tool said: {text_of(messages[-1].get('content'))[:MAX_ECHO_CHARACTERS]}"
    return fill(tokens_of(text), length)


def fill(tokens: list[str], length: int) -> list[str]:
    """``tokens`` and as many numbered words as are missing to ``length``."""
    return tokens + numbered(len(tokens), min(length, MAX_TOKENS))


def continue_prefix(tokens: list[str], prefix: str) -> list[str]:
    """What is left of an answer of which ``prefix`` was already given.

    A prefix that is not the beginning of our own answer is simply followed by the whole of it.
    """
    text = "".join(tokens)
    return tokens_of(text[len(prefix) :]) if text.startswith(prefix) else tokens


def wanted_call(
    messages: Sequence[Mapping[str, Any]], tools: object, tool_choice: object
) -> tuple[str, Mapping[str, Any]] | None:
    """The name and the parameter schema of the tool that this turn calls, or None.

    A user asks for one by saying "call NAME"; a forced ``tool_choice`` calls without being asked.
    """
    offered: dict[str, Mapping[str, Any]] = {}
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            schema = function.get("parameters")
            offered[function["name"]] = schema if isinstance(schema, Mapping) else {}
    if not offered or tool_choice == "none" or not messages or messages[-1].get("role") == "tool":
        return None
    asked = _CALL.search(last_user_text(messages))
    if asked and asked[1] in offered:
        return asked[1], offered[asked[1]]
    if isinstance(tool_choice, Mapping):
        function = tool_choice.get("function")
        forced = function.get("name") if isinstance(function, Mapping) else None
        return (forced, offered[forced]) if isinstance(forced, str) and forced in offered else None
    if tool_choice == "required":
        return next(iter(offered.items()))
    return None


def fill_schema(schema: object, text: str, depth: int = 0) -> Any:
    """A value that fits the common parts of a JSON schema; strings say ``text``."""
    if not isinstance(schema, Mapping) or depth > 16:
        return text
    options = schema.get("enum")
    if isinstance(options, list) and options:
        return options[0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties")
        names = properties.items() if isinstance(properties, Mapping) else ()
        return {name: fill_schema(inner, text, depth + 1) for name, inner in names} or {"text": text}
    if kind == "array":
        return [fill_schema(schema.get("items"), text, depth + 1)]
    return {"integer": 1, "number": 1.0, "boolean": True, "null": None}.get(str(kind), text)


def told_schema(messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """A JSON schema that is the last line of an instruction: this model does as it is told."""
    for message in messages:
        line = text_of(message.get("content")).rpartition("\n")[2]
        if message.get("role") == "system" and line.startswith("{"):
            try:
                schema = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(schema, dict) and "type" in schema:
                return schema
    return None


def arguments_for(schema: Mapping[str, Any], text: str) -> str:
    """The arguments of a tool call, as JSON text."""
    value = fill_schema(schema, text) if schema else {"text": text}
    return orjson.dumps(value).decode()


def broken_tool_history(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the order of tool calls and tool answers, or None."""
    open_calls: set[str] = set()
    for index, message in enumerate(messages):
        if message.get("role") == "tool":
            call_id = message.get("tool_call_id")
            if not isinstance(call_id, str) or call_id not in open_calls:
                return (
                    f"messages[{index}]: a 'tool' message must answer a preceding message with 'tool_calls'."
                )
            open_calls.discard(call_id)
            continue
        if open_calls:
            break
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, Mapping) and isinstance(call.get("id"), str):
                open_calls.add(call["id"])
    if open_calls:
        missing = ", ".join(sorted(open_calls))
        return (
            f"An assistant message with 'tool_calls' must be followed by tool messages; missing: {missing}."
        )
    return None
