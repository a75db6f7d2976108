"""What is said between the load and the faulty hosts: so that every byte of an answer can be told from
any other answer's.

A request has an id of its own, in ``x-request-id`` and as ``user`` in its body, and a checksum over its
message. An answer's content is ``STEM|0|...``, ``STEM|1|...`` and so on, STEM being the request's id and
the generation's, and last ``STEM|end|COUNT|CRC`` of all before it. The head of an answer does not matter.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from zlib import crc32

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
_SEPARATOR = " "


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a load.

    Attributes:
        size: of its message, bytes.
        model: whose name the node sees.
    """

    id: str
    stream: bool
    size: int = 64
    model: str = "gpt-4o"
    path: str = CHAT

    def encode(self) -> bytes:
        """The request's bytes, as a client writes them."""
        said = (self.id + " ") * (self.size // (len(self.id) + 1) + 1)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": said}],
            "user": self.id,
            "seed": crc32(said.encode()),
        }
        if self.stream:
            body["stream"] = True
        data = json.dumps(body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: gateway.test\r\nContent-Type: application/json\r\n"
            f"x-request-id: {self.id}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


def is_intact(id: str, body: bytes) -> bool:
    """Is this the body that ``Ask`` has made for the id?"""
    try:
        value = json.loads(body)
        return bool(value["user"] == id and value["seed"] == crc32(value["messages"][0]["content"].encode()))
    except (ValueError, LookupError, TypeError):
        return False


# --- Answers ----------------------------------------------------------------------------------


def contents(id: str, generation: str, count: int, size: int) -> list[str]:
    """The pieces of an answer: ``count`` of about ``size`` characters, and the last."""
    stem = f"{id}|{generation}"
    pieces = [f"{stem}|{number}|{'x' * size}" for number in range(count)]
    pieces.append(f"{stem}|end|{count}|{crc32(_SEPARATOR.join(pieces).encode())}")
    return pieces


def _event(choice: str) -> bytes:
    return (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,%b}]}\n\n'
        % choice.encode()
    )


ROLE = _event('"delta":{"role":"assistant","content":""},"finish_reason":null')
FINISH = _event('"delta":{},"finish_reason":"stop"')


def content_event(piece: str) -> bytes:
    return _event(f'"delta":{{"content":"{piece}"}},"finish_reason":null')


def completion(pieces: list[str]) -> bytes:
    """The same as the body of an answer that is not streamed."""
    return (
        b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"%b"},"finish_reason":"stop"}]}' % _SEPARATOR.join(pieces).encode()
    )


# --- What came of it --------------------------------------------------------------------------


class Content(StrEnum):
    """What the content of a 200 is."""

    WHOLE = "whole"  # all of one generation, and nothing else
    PARTIAL = "partial"  # its beginning
    CORRUPT = "corrupt"  # something else


def generation_of(id: str, body: bytes) -> str:
    """Whose content an answer begins with; "" if it has none."""
    _, _, rest = body.partition(f'"content":"{id}|'.encode())
    return rest.partition(b"|")[0].decode("latin-1")


_CONTENT = re.compile(rb'"content":"([^"]+)"')


def judge(id: str, body: bytes) -> Content:
    """Compare the content in an answer's body, streamed or not, with what one generation says."""
    pieces = _SEPARATOR.join(found.decode("latin-1") for found in _CONTENT.findall(body)).split(_SEPARATOR)
    if pieces == [""]:
        return Content.PARTIAL
    stem = "|".join(pieces[0].split("|")[:2])
    if not stem.startswith(id + "|"):
        return Content.CORRUPT
    for number, piece in enumerate(pieces):
        if not piece.startswith(f"{stem}|{number}|"):
            break
    else:
        return Content.PARTIAL
    is_end = piece == f"{stem}|end|{number}|{crc32(_SEPARATOR.join(pieces[:number]).encode())}"
    return Content.WHOLE if is_end and number == len(pieces) - 1 else Content.CORRUPT
