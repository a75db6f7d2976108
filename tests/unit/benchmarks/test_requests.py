"""The requests that are sent."""

import json

import pytest

from benchmarks.requests import chat, large_answer


@pytest.mark.parametrize("size", [300, 4096, 256 * 1024])
def test_chat_has_exactly_the_size_that_was_asked_for(size: int) -> None:
    request = chat(body_bytes=size)
    assert len(request.body) == size
    assert json.loads(request.body)["model"] == "gpt-5.2"


def test_streamed_chat_says_so_and_how_many_chunks() -> None:
    body = json.loads(chat(stream=True, chunks=20).body)
    assert (body["stream"], body["max_tokens"]) == (True, 20)


def test_model_may_come_last() -> None:
    assert list(json.loads(chat(model_last=True).body)) == ["messages", "model"]


def test_request_is_framed_by_its_length() -> None:
    head, _, body = large_answer().to_bytes().partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()
    json.loads(body)
