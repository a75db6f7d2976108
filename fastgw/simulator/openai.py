"""The simulated api.openai.com."""

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from fastgw.simulator import responses
from fastgw.simulator.connection import Request
from fastgw.simulator.conversation import Reply, count_words, say
from fastgw.simulator.dialect import Call, Dialect, Endpoint, Refusal, masked, model_list
from fastgw.simulator.script import JSON, Answer

MODELS = (
    "gpt-5",
    "gpt-5-mini",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-3.5-turbo-instruct",
    "o4-mini",
    "text-embedding-3-small",
    "text-embedding-3-large",
)
EMBEDDING_DIMENSIONS = 16  # of ours; the real ones have 1536 and more

_FAMILIES = ("gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-", "ft:")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_FOREIGN = ("thinking", "user_id")
_FOREIGN_IN_MESSAGES = ("prefix", "reasoning_content")


def embedding_of(text: str, dimensions: int = EMBEDDING_DIMENSIONS) -> list[float]:
    """The embedding the simulator gives to a text: the same one every time."""
    digest = hashlib.shake_256(text.encode()).digest(2 * dimensions)
    return [number / 32768.0 for number in struct.unpack(f"<{dimensions}h", digest)]


class OpenAI(Dialect):
    """OpenAI's manners."""

    name = "openai"
    host = "api.openai.com"
    limits = ("max_completion_tokens", "max_tokens")
    roles = frozenset({"developer", "system", "user", "assistant", "tool", "function"})

    def make_endpoints(self) -> Mapping[str, Endpoint]:
        return {
            "/": Endpoint("GET", self._welcome, needs_key=False),
            "/v1/models": Endpoint("GET", lambda call: model_list(MODELS, "openai")),
            "/v1/chat/completions": Endpoint("POST", self.serve_chat),
            "/v1/completions": Endpoint("POST", self.serve_text),
            "/v1/embeddings": Endpoint("POST", self._embeddings),
            "/v1/responses": Endpoint("POST", self._responses),
        }

    def find(self, path: str) -> Endpoint | None:
        if path.startswith("/v1/models/"):
            return Endpoint("GET", self._model)
        return super().find(path)

    def headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        if not call.has_key:
            return []
        return [
            (b"openai-version", b"2020-10-01"),
            (b"openai-processing-ms", b"1"),
            (b"x-ratelimit-limit-requests", b"10000"),
            (b"x-ratelimit-limit-tokens", b"2000000"),
            (b"x-ratelimit-remaining-requests", b"9999"),
            (b"x-ratelimit-remaining-tokens", b"1999900"),
            (b"x-ratelimit-reset-requests", b"6ms"),
            (b"x-ratelimit-reset-tokens", b"3ms"),
        ]

    def refuse_key(self, request: Request) -> Refusal:
        key = (request.header("authorization") or "").rpartition(" ")[2]
        if not key:
            return Refusal(401, "You didn't provide an API key.")
        return Refusal(401, f"Incorrect API key provided: {masked(key)}.", code="invalid_api_key")

    def refuse_payment(self) -> Refusal:
        return Refusal(
            429, "You exceeded your current quota.", "insufficient_quota", code="insufficient_quota"
        )

    def served_model(self, body: Mapping[str, Any]) -> str:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise Refusal(400, "You must provide a model parameter.")
        if not model.startswith(_FAMILIES):
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise Refusal(404, message, code="model_not_found")
        return model

    def refuse_role(self, index: int, role: object) -> Refusal:
        expected = ", ".join(f"'{role}'" for role in sorted(self.roles))
        message = f"Invalid value: '{role}'. Supported values are: {expected}."
        return Refusal(400, message, code="invalid_value", param=f"messages[{index}].role")

    def check_chat(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> None:
        """Refuse what only another vendor knows, so that an adapter that forgets to take it out is seen."""
        for argument in _FOREIGN:
            if argument in call.body:
                raise Refusal(400, f"Unrecognized request argument supplied: {argument}")
        effort = call.body.get("reasoning_effort")
        if effort is not None and effort not in _EFFORTS:
            known = ", ".join(map(repr, _EFFORTS))
            raise Refusal(
                400,
                f"Invalid value: '{effort}'. Supported values are: {known}.",
                code="invalid_value",
                param="reasoning_effort",
            )
        for index, message in enumerate(messages):
            for name in _FOREIGN_IN_MESSAGES:
                if name in message:
                    param = f"messages[{index}].{name}"
                    raise Refusal(
                        400, f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param
                    )

    # --- Endpoints ----------------------------------------------------------------------------

    def _welcome(self, call: Call) -> Answer:
        welcome = {"message": "Welcome to the simulated OpenAI API. Nothing here is real."}
        return Answer(200, [JSON], orjson.dumps(welcome))

    def _model(self, call: Call) -> Answer:
        name = self.served_model({"model": call.request.path.removeprefix("/v1/models/")})
        model = {"id": name, "object": "model", "created": 1735689600, "owned_by": "openai"}
        return Answer(200, [JSON], orjson.dumps(model))

    def _embeddings(self, call: Call) -> Answer:
        body = call.body
        model = self.served_model(body)
        inputs = body.get("input")
        if isinstance(inputs, str) or (inputs and isinstance(inputs, list) and isinstance(inputs[0], int)):
            inputs = [inputs]
        if not isinstance(inputs, list) or not inputs or len(inputs) > 2048:
            raise Refusal(400, "'input' must be a string or an array of 1 to 2048 inputs.", param="input")
        dimensions = body.get("dimensions", EMBEDDING_DIMENSIONS)
        if not isinstance(dimensions, int) or not 1 <= dimensions <= 3072:
            raise Refusal(400, "Invalid 'dimensions'.", param="dimensions")
        data = []
        words = 0
        for index, item in enumerate(inputs):
            if not isinstance(item, (str, list)):
                raise Refusal(400, f"input[{index}] is neither a string nor an array.", param="input")
            text = item if isinstance(item, str) else " ".join(map(str, item))
            words += len(text.split())
            vector: list[float] | str = embedding_of(text, dimensions)
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        usage = {"prompt_tokens": words, "total_tokens": words}
        document = {"object": "list", "data": data, "model": model, "usage": usage}
        return Answer(200, [JSON], orjson.dumps(document))

    def _responses(self, call: Call) -> Answer:
        body = call.body
        model = self.served_model(body)
        messages = body.get("input")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if not isinstance(messages, list) or not all(isinstance(item, Mapping) for item in messages):
            raise Refusal(400, "Missing required parameter: 'input'.", param="input")
        limit = body.get("max_output_tokens")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise Refusal(400, "Invalid 'max_output_tokens'.", param="max_output_tokens")
        reply = Reply(say(messages, voice=call.settings.voice, length=call.length))
        reply.prompt_tokens = count_words(messages)
        reply.cut(limit)
        shape = responses.stream if body.get("stream") is True else responses.whole
        return shape(reply, id=f"resp_openai_{call.serial}", created=call.created, model=model)
