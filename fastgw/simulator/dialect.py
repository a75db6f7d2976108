"""What the two providers have in common: routes, keys, the checks of a request, the making of an answer.

A provider's own manners are in its subclass: ``openai.py``, ``deepseek.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from fastgw.simulator import chat
from fastgw.simulator.connection import Request
from fastgw.simulator.conversation import (
    MAX_TOKENS,
    Reply,
    ToolCall,
    arguments_for,
    broken_tool_history,
    count_words,
    fill_schema,
    last_user_text,
    say,
    text_of,
    tokens_of,
    told_schema,
    wanted_call,
)
from fastgw.simulator.script import JSON, Answer


@dataclass(slots=True)
class Settings:
    """How a provider's model talks; may be changed at any time.

    A request overrides ``tokens``, ``token_s`` and ``first_s`` with the headers ``x-sim-tokens``,
    ``x-sim-delay-ms`` and ``x-sim-first-ms``, which real providers would ignore.
    """

    tokens: int = 0  # an answer has at least this many (a message to repeat may need more)
    token_s: float = 0.0  # between tokens
    first_s: float = 0.0  # before the first one
    reasoning_tokens: int = 4  # of a model that thinks
    has_money: bool = True  # False: the account behind every key is empty
    voice: str = ""  # put before every answer: makes two providers say different things


@dataclass(slots=True)
class Call:
    """One request as a dialect sees it."""

    request: Request
    settings: Settings
    serial: int
    created: int  # wall time, seconds
    has_key: bool
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """The tokens wanted."""
        asked = self.request.header("x-sim-tokens")
        if asked is not None and asked.isascii() and asked.isdigit():
            return min(int(asked[:9]), MAX_TOKENS)
        return self.settings.tokens


class Refusal(Exception):
    """The provider says no."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param

    def answer(self) -> Answer:
        """The error in OpenAI's shape."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return Answer(self.status, [JSON], orjson.dumps({"error": error}))


class Endpoint(NamedTuple):
    """What serves one path."""

    method: str
    serve: Callable[[Call], Answer]
    needs_key: bool = True


class Dialect:
    """One provider's way to speak. Stateless: the provider keeps the state."""

    name = ""
    host = ""
    roles: frozenset[str] = frozenset()
    limits: tuple[str, ...] = ("max_tokens",)  # the parameters that limit an answer, strongest first

    def __init__(self) -> None:
        self.endpoints = self.make_endpoints()

    # --- A provider's own ---------------------------------------------------------------------

    def make_endpoints(self) -> Mapping[str, Endpoint]:
        """The paths it serves."""
        raise NotImplementedError

    def find(self, path: str) -> Endpoint | None:
        """The endpoint of a path, or None."""
        return self.endpoints.get(path)

    def headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        """What it adds to the head of every answer."""
        raise NotImplementedError

    def refuse_key(self, request: Request) -> Refusal:
        """Its words for a key it does not know."""
        raise NotImplementedError

    def refuse_payment(self) -> Refusal:
        """Its words when the account is empty."""
        raise NotImplementedError

    def served_model(self, body: Mapping[str, Any]) -> str:
        """The model that answers; `Refusal` when the one asked for is unknown."""
        raise NotImplementedError

    def check_chat(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> None:
        """Refuse what this provider refuses."""
        raise NotImplementedError

    def refuse_role(self, index: int, role: object) -> Refusal:
        """Its words for a role it does not know."""
        raise NotImplementedError

    def usage(self, reply: Reply, copies: int = 1) -> dict[str, Any]:
        """The ``usage`` object."""
        return chat.openai_usage(reply, copies)

    def think(self, call: Call) -> list[str]:
        """The reasoning that is shown, in tokens."""
        return []

    def speak(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> list[str]:
        """The tokens of the answer to a conversation."""
        return say(messages, voice=call.settings.voice, length=call.length)

    # --- Answering ----------------------------------------------------------------------------

    def answer(self, call: Call) -> Answer:
        """Answer any request."""
        try:
            answer = self._serve(call)
        except Refusal as refusal:
            answer = refusal.answer()
        answer.headers += self.headers(call)
        return answer

    def _serve(self, call: Call) -> Answer:
        request = call.request
        if (request.header("host") or "").lower().partition(":")[0] != self.host:
            raise Refusal(421, f"This is {self.host}.", code="misdirected_request")
        endpoint = self.find(request.path)
        if endpoint is None:
            raise Refusal(404, f"Invalid URL ({request.method} {request.path})")
        method = "GET" if request.method == "HEAD" else request.method
        if method != endpoint.method:
            raise Refusal(
                405, f"Not allowed to {request.method} on {request.path}", code="method_not_supported"
            )
        if endpoint.needs_key and not call.has_key:
            raise self.refuse_key(request)
        if method == "POST":
            call.body = self._read_object(request)
            if not call.settings.has_money:
                raise self.refuse_payment()
        return endpoint.serve(call)

    @staticmethod
    def _read_object(request: Request) -> dict[str, Any]:
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise Refusal(400, "The body of the request could not be parsed as a JSON object.")
        return body

    def serve_chat(self, call: Call) -> Answer:
        """POST …/chat/completions."""
        body = call.body
        model = self.served_model(body)
        messages = self._messages(body)
        copies = _integer(body, "n", 1, 128) or 1
        limits = [_integer(body, name, 1) for name in self.limits]
        limit = next((limit for limit in limits if limit), None)
        is_stream = _boolean(body, "stream")
        options = stream_options(body)
        self._check_json_object(body, messages)
        self.check_chat(call, messages)
        problem = broken_tool_history(messages)
        if problem:
            raise Refusal(400, problem, param="messages")

        reply = self._reply(call, messages)
        reply.cut(limit)
        id, usage = f"chatcmpl-{self.name}-{call.serial}", self.usage(reply, copies)
        if not is_stream:
            return chat.completion(
                reply, id=id, created=call.created, model=model, usage=usage, copies=copies
            )
        return chat.chunks(
            reply,
            id=id,
            created=call.created,
            model=model,
            usage=usage if options.get("include_usage") else None,
            copies=copies,
            is_obfuscated=self.name == "openai" and options.get("include_obfuscation") is not False,
        )

    def _reply(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> Reply:
        reply = Reply(reasoning=self.think(call), prompt_tokens=count_words(messages))
        wanted = wanted_call(messages, call.body.get("tools"), call.body.get("tool_choice"))
        if wanted is not None:
            name, schema = wanted
            arguments = arguments_for(schema, last_user_text(messages))
            reply.tool_call = ToolCall(f"call_{self.name}_{call.serial}", name, arguments)
            reply.finish = "tool_calls"
            return reply
        reply.content = self.speak(call, messages)
        form = call.body.get("response_format")
        kind = form.get("type") if isinstance(form, Mapping) else None
        if kind in ("json_object", "json_schema"):
            wrapped: object = form.get("json_schema") if isinstance(form, Mapping) else None
            shape: object = wrapped.get("schema") if isinstance(wrapped, Mapping) else told_schema(messages)
            text = "".join(reply.content)
            value = fill_schema(shape, text) if isinstance(shape, Mapping) else {"text": text}
            reply.content = tokens_of(orjson.dumps(value).decode())
        return reply

    def _messages(self, body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        messages = body.get("messages")
        if messages is None:
            raise Refusal(400, "Missing required parameter: 'messages'.", "invalid_request_error",
                          "missing_required_parameter", "messages")  # fmt: skip
        if not isinstance(messages, list) or not messages:
            raise Refusal(400, "'messages' must be an array with at least one message.", param="messages")
        for index, message in enumerate(messages):
            if not isinstance(message, Mapping):
                raise Refusal(400, f"messages[{index}] must be an object.", param="messages")
            role = message.get("role")
            if not isinstance(role, str) or role not in self.roles:
                raise self.refuse_role(index, role)
        return messages

    @staticmethod
    def _check_json_object(body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
        form = body.get("response_format")
        if not isinstance(form, Mapping) or form.get("type") != "json_object":
            return
        if not any("json" in text_of(message.get("content")).lower() for message in messages):
            raise Refusal(
                400, "With response_format 'json_object' the word 'json' must be in the messages.",
                param="messages",
            )  # fmt: skip

    def serve_text(self, call: Call) -> Answer:
        """POST …/completions."""
        body = call.body
        model = self.served_model(body)
        prompt = body.get("prompt", "")
        if not isinstance(prompt, (str, list)):
            raise Refusal(400, "'prompt' must be a string or an array.", param="prompt")
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        reply = Reply(prompt_tokens=len(text.split()))
        messages = [{"role": "user", "content": text}]
        reply.content = self.speak(call, messages)
        reply.cut(_integer(body, "max_tokens", 1))
        id, usage = f"cmpl-{self.name}-{call.serial}", self.usage(reply)
        if not _boolean(body, "stream"):
            return chat.text_completion(
                reply.content, reply.finish, id=id, created=call.created, model=model, usage=usage
            )
        asked = stream_options(body).get("include_usage")
        return chat.text_chunks(
            reply.content,
            reply.finish,
            id=id,
            created=call.created,
            model=model,
            usage=usage if asked else None,
        )


def model_list(models: Sequence[str], owner: str) -> Answer:
    """GET …/models."""
    data = [{"id": model, "object": "model", "created": 1735689600, "owned_by": owner} for model in models]
    return Answer(200, [JSON], orjson.dumps({"object": "list", "data": data}))


def stream_options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object ``stream_options``, or an empty one."""
    options = body.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise Refusal(400, "'stream_options' must be an object.", param="stream_options")
    if not body.get("stream"):
        raise Refusal(400, "'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return options


def _integer(body: Mapping[str, Any], name: str, least: int, most: int = 2**31) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refusal(400, f"Invalid '{name}': expected an integer of at least {least}.", param=name)
    return value


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refusal(400, f"Invalid type for '{name}': expected a boolean.", param=name)
    return bool(value)


def masked(key: str) -> str:
    """A key as error messages show it: its last four characters at most."""
    return "*" * 8 + key[-4:] if len(key) >= 12 else "*" * 8
