"""The requests that are sent, as bytes, and their bodies for wrk."""

from __future__ import annotations

import json
from dataclasses import dataclass

MODEL = "gpt-5.2"


@dataclass(frozen=True, slots=True)
class Request:
    """One POST in OpenAI's dialect."""

    path: str
    body: bytes

    def to_bytes(self, host: str = "127.0.0.1") -> bytes:
        """As a client sends it."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json\r\nContent-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


def chat(
    *, body_bytes: int = 300, stream: bool = False, chunks: int = 0, model_last: bool = False
) -> Request:
    """A chat request of exactly ``body_bytes`` bytes.

    Args:
        chunks: of the streamed answer; 0: it goes on until the client leaves.
        model_last: ``model`` after ``messages``, as the OpenAI SDK for Python writes it.
    """
    message = {"role": "user", "content": ""}
    fields: dict[str, object] = (
        {"messages": [message]} if model_last else {"model": MODEL, "messages": [message]}
    )
    if model_last:
        fields["model"] = MODEL
    if stream:
        fields["stream"] = True
    if chunks:
        fields["max_tokens"] = chunks
    short = len(json.dumps(fields, separators=(",", ":")))
    words = "Tell me how a gateway decides which node gets a request. "
    message["content"] = (words * (body_bytes // len(words) + 1))[: max(0, body_bytes - short)]
    return Request("/v1/chat/completions", json.dumps(fields, separators=(",", ":")).encode())


def large_answer() -> Request:
    """A small request whose answer has 64 KB."""
    return Request("/v1/responses", b'{"model":"gpt-5.2","input":"' + b"word " * 52 + b'"}')
