"""The simulated api.deepseek.com: OpenAI's dialect, and what it does not share with it.

Its models think unless told not to, it knows few model names and fewer parameters, and under load it
answers with comments or blank lines for a while (the fault ``keepalive_flood`` with a duration).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from fastgw.simulator import chat
from fastgw.simulator.connection import Request
from fastgw.simulator.conversation import Reply, continue_prefix, numbered, text_of
from fastgw.simulator.dialect import Call, Dialect, Endpoint, Refusal, masked, model_list
from fastgw.simulator.script import JSON, Answer

MODELS = ("deepseek-flash", "deepseek-v4-pro")
#: Names that are still taken for a while, and the model that answers to them.
ALIASES = {"deepseek-v4-flash": "deepseek-flash", "deepseek-v4-flash-vision-exp": "deepseek-flash"}

_FORMATS = ("text", "json_object")
_IMAGE_PARTS = ("image_url", "input_image", "input_audio", "file")


class DeepSeek(Dialect):
    """DeepSeek's manners."""

    name = "deepseek"
    host = "api.deepseek.com"
    roles = frozenset({"system", "user", "assistant", "tool"})

    def make_endpoints(self) -> Mapping[str, Endpoint]:
        models = Endpoint("GET", lambda call: model_list(MODELS, "deepseek"))
        talk = Endpoint("POST", self.serve_chat)
        return {
            "/": Endpoint("GET", self._welcome, needs_key=False),
            "/models": models,
            "/v1/models": models,
            "/chat/completions": talk,
            "/v1/chat/completions": talk,
            "/beta/chat/completions": talk,
            "/beta/completions": Endpoint("POST", self.serve_text),
            "/user/balance": Endpoint("GET", self._balance),
        }

    def headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        return []

    def refuse_key(self, request: Request) -> Refusal:
        key = (request.header("authorization") or "").rpartition(" ")[2]
        if not key:
            message = "Authentication Fails (auth header format should be Bearer sk-...)"
        else:
            message = f"Authentication Fails, Your api key: {masked(key)} is invalid"
        return Refusal(401, message, "authentication_error", "invalid_request_error")

    def refuse_payment(self) -> Refusal:
        return Refusal(402, "Insufficient Balance", "unknown_error", code="invalid_request_error")

    def served_model(self, body: Mapping[str, Any]) -> str:
        model = body.get("model")
        if isinstance(model, str):
            model = ALIASES.get(model, model)
            if model in MODELS:
                return model
        raise Refusal(400, "Model Not Exist", code="invalid_request_error")

    def refuse_role(self, index: int, role: object) -> Refusal:
        return _unparsable(f"messages[{index}].role: unknown variant `{role}`, expected one of "
                           "`system`, `user`, `assistant`, `tool`")  # fmt: skip

    def check_chat(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> None:
        body = call.body
        for index, message in enumerate(messages):
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                kind = part.get("type") if isinstance(part, Mapping) else None
                if kind in _IMAGE_PARTS:
                    raise _unparsable(f"messages[{index}]: unknown variant `{kind}`, expected `text`")
        tools = body.get("tools")
        for index, tool in enumerate(tools if isinstance(tools, list) else ()):
            kind = tool.get("type") if isinstance(tool, Mapping) else None
            if kind != "function":
                raise _unparsable(f"tools[{index}].type: unknown variant `{kind}`, expected `function`")
        form = body.get("response_format")
        if isinstance(form, Mapping) and form.get("type") not in _FORMATS:
            raise _refused("This response_format type is unavailable now")
        if body.get("n") not in (None, 1):
            raise _refused("Invalid n value (currently only n = 1 is supported)")
        self._check_prefix(call, messages)
        if _is_thinking(body):
            self._check_thinking(body, messages)

    def _check_prefix(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> None:
        for index, message in enumerate(messages):
            if not message.get("prefix"):
                continue
            if not call.request.path.startswith("/beta/"):
                raise _refused("prefix is a beta feature: use the base URL that ends in /beta")
            if index != len(messages) - 1 or message.get("role") != "assistant":
                raise _refused("prefix is only allowed in the last message, of role assistant")

    def _check_thinking(self, body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
        choice = body.get("tool_choice")
        if choice == "required" or isinstance(choice, Mapping):
            raise _refused("The thinking mode does not support this tool_choice")
        for message in messages:
            has_calls = message.get("role") == "assistant" and bool(message.get("tool_calls"))
            if has_calls and not isinstance(message.get("reasoning_content"), str):
                raise _refused("The `reasoning_content` in the thinking mode must be passed back to the API.")

    def think(self, call: Call) -> list[str]:
        if not _is_thinking(call.body) or call.request.path == "/beta/completions":
            return []
        return ["Thinking:", *numbered(1, call.settings.reasoning_tokens)][: call.settings.reasoning_tokens]

    def speak(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> list[str]:
        last = messages[-1]
        if not last.get("prefix"):
            return super().speak(call, messages)
        return continue_prefix(super().speak(call, messages[:-1]), text_of(last.get("content")))

    def usage(self, reply: Reply, copies: int = 1) -> dict[str, Any]:
        usage = chat.openai_usage(reply, copies)
        usage["prompt_tokens_details"] = {"cached_tokens": 0}
        usage["prompt_cache_hit_tokens"] = 0
        usage["prompt_cache_miss_tokens"] = reply.prompt_tokens
        return usage

    # --- Endpoints ----------------------------------------------------------------------------

    def _welcome(self, call: Call) -> Answer:
        welcome = {"message": "Welcome to the simulated DeepSeek API. Nothing here is real."}
        return Answer(200, [JSON], orjson.dumps(welcome))

    def _balance(self, call: Call) -> Answer:
        balance = {
            "currency": "USD",
            "total_balance": "100.00",
            "granted_balance": "0.00",
            "topped_up_balance": "100.00",
        }
        has_money = call.settings.has_money
        if not has_money:
            balance |= {"total_balance": "0.00", "topped_up_balance": "0.00"}
        return Answer(200, [JSON], orjson.dumps({"is_available": has_money, "balance_infos": [balance]}))


def _is_thinking(body: Mapping[str, Any]) -> bool:
    thinking = body.get("thinking")
    return not (isinstance(thinking, Mapping) and thinking.get("type") == "disabled")


def _refused(message: str) -> Refusal:
    return Refusal(400, message, code="invalid_request_error")


def _unparsable(detail: str) -> Refusal:
    return _refused(f"Failed to deserialize the JSON body into the target type: {detail}")
