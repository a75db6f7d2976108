"""``ai-proxy`` and ``ai-proxy-multi``: what they do to a request before any instance is chosen.

The instances themselves are nodes of the route's upstream. Here the request is checked, and the
kind of call is found out, since each provider has paths of its own for them.
"""

from __future__ import annotations

from ..errors import BodyTooLarge, ClientError, FastgwError, NoNodeAvailable
from ..llm.chat_request import parsed
from ..proxy import answers
from ..proxy.exchange import Exchange
from ..proxy.phases import Answer, ClientRequest

# The calls of known kinds, as OpenAI names them; an exchange has one of these as its target.
CHAT = b"/v1/chat/completions"
RESPONSES = b"/v1/responses"
EMBEDDINGS = b"/v1/embeddings"
CALLS = {"openai-chat": CHAT, "openai-responses": RESPONSES, "openai-embeddings": EMBEDDINGS}
# Where a provider has them elsewhere. One that lacks a call says so itself, with a 404.
_CALLS_OF = {"deepseek": {CHAT: b"/chat/completions"}}
LIMITED = frozenset({CHAT, RESPONSES})  # those whose answers have a limit of tokens
_BODILESS = frozenset({b"GET", b"HEAD", b"DELETE", b"OPTIONS"})
_JSON = b"application/json"


def paths_of(provider: str, path: str | None) -> dict[bytes, bytes]:
    """What becomes of the calls' targets at an instance. ``path``: that of its endpoint, if it has one."""
    if path is not None:
        return dict.fromkeys(CALLS.values(), path.encode())
    return _CALLS_OF.get(provider, {})


class AiProxy:
    """One plugin object.

    Args:
        name: "ai-proxy" or "ai-proxy-multi".
        max_body_bytes: larger request bodies are refused.
        max_stream_s: a streamed answer has to be over after this; 0: no limit of its own.
        errors_like_apisix: the shape of what it answers itself.
    """

    def __init__(
        self, name: str, *, max_body_bytes: int, max_stream_s: float, errors_like_apisix: bool = False
    ) -> None:
        self.name = name
        self.priority = 1041 if name == "ai-proxy-multi" else 1040
        self.max_body_bytes = max_body_bytes
        self.max_stream_s = max_stream_s
        self.errors_like_apisix = errors_like_apisix

    def on_request(self, request: ClientRequest) -> Answer | None:
        """By the head alone: is this a request that an instance may get?"""
        head = request.head
        if head.content_length > self.max_body_bytes:
            return self._refuse(BodyTooLarge())
        if request.method in _BODILESS:
            return None
        kind = head.get(b"content-type")
        if kind is not None and not kind.lower().startswith(_JSON):
            return self._refuse(ClientError("the content type is not application/json"))
        return None

    def on_body(self, exchange: Exchange) -> FastgwError | None:
        """By the whole body: check it, and name the call. Returns why the request is refused, if it is."""
        held = exchange.body
        body = held.data
        if exchange.is_streaming_body:
            # It is not held, so it cannot be changed for an instance.
            limit = exchange.exchanges.hold_body_bytes
            if held.size <= limit and exchange.head.content_length <= limit:
                return NoNodeAvailable("the gateway holds as many request bodies as it can")
            return BodyTooLarge()
        if held.size > self.max_body_bytes:
            return BodyTooLarge()
        if not body and exchange.method in _BODILESS:
            return None
        if not body:
            return ClientError("the request body is empty")
        if exchange.facts is None:
            return ClientError("the request body is not a JSON object, or is nested too deeply")
        try:
            call = call_of(exchange.head.path, body)
        except ValueError:
            return ClientError("the request body is not valid JSON, or has too many values")
        if call is not None:
            exchange.method = b"POST"
            exchange.target = exchange.path = call
        if exchange.wants_stream and self.max_stream_s > 0:
            end = exchange.started_at + self.max_stream_s
            if end < exchange.total_deadline:
                exchange.total_deadline = end
                exchange.is_hurried = True
        return None

    def _refuse(self, error: ClientError) -> Answer:
        if self.errors_like_apisix:
            return Answer(error.status, answers.apisix_error_body(str(error)))
        return Answer(error.status, answers.error_body(str(error), error.kind, error.code))


def call_of(path: bytes, body: bytes) -> bytes | None:
    """Which call a request is, by its path or else by its body; None: one to pass on as it is.

    Args:
        path: the client's.
        body: a JSON object, as far as `body.scan` can tell.

    Raises:
        ValueError: the body had to be read, and is no JSON.
    """
    for call in CALLS.values():
        if path.endswith(call.removeprefix(b"/v1")):
            return call
    request = parsed(body)
    if isinstance(request.get("messages"), list):
        return None if path.endswith(b"/messages") else CHAT  # the former is Anthropic's
    # Other calls of the API have an input, too: /v1/moderations.
    return EMBEDDINGS if "input" in request and b"/v1/" not in path else None
