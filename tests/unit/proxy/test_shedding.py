"""What is given up for want of memory."""

from __future__ import annotations

from typing import Any

import pytest
from exchange_bench import ROLE, STREAM_BODY, STREAM_HEAD, Bench, chunk, content, dechunked


def begun(monkeypatch: pytest.MonkeyPatch) -> tuple[Bench, Any]:
    """A stream whose first content is with the client."""
    bench = Bench(monkeypatch)
    bench.ask(STREAM_BODY)
    node = bench.connect()
    node.say(STREAM_HEAD, chunk(ROLE + content("He")))
    bench.transport.take()
    return bench, node


def test_an_answer_is_ended_honestly(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, node = begun(monkeypatch)
    assert bench.exchanges.shed() == 1
    got, is_whole = dechunked(bench.transport.take())
    assert not is_whole
    assert b'"overloaded"' in got and b"[DONE]" not in got
    assert bench.transport.calls == ["close"]
    assert bench.finished[-1].note == "overloaded"
    assert node.is_cut
    bench.check_end()


def test_who_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, node = begun(monkeypatch)
    bench.client.pause_writing()
    node.say(chunk(content("llo")))
    assert bench.exchanges.shed() == 1
    assert bench.transport.calls == ["close", "abort"]
    assert bench.finished[-1].note == "overloaded"
    assert node.is_cut
    bench.check_end()


def test_what_has_not_begun_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.ask()
    bench.connect()
    assert bench.exchanges.shed() == 0
    assert len(bench.exchanges.live) == 1
