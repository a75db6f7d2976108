"""Exchanges whose nodes speak different dialects: what each gets, and which cannot take a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from exchange_bench import BODY, COMPATIBLE, COMPLETION, Bench, error_response, json_response

from fastgw.errors import ConnectFailed
from fastgw.llm.adapter import Adapter
from fastgw.llm.dialect import DIALECTS

Make = Callable[..., Bench]
PICTURE = b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]}'


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda *args, **options: Bench(monkeypatch, *args, **options)


def records(bench: Bench) -> list[tuple[str, str]]:
    return [(name, outcome) for name, outcome, _, _ in bench.finished[-1].records]


def test_what_a_node_cannot_take_goes_to_the_next_without_an_attempt(make: Make) -> None:
    bench = make(adapters=[Adapter(DIALECTS["deepseek"])])
    bench.ask(PICTURE)
    assert not bench.pools[0].tickets
    bench.connect(1).say(json_response(COMPLETION))
    answer = bench.answer()
    assert (answer.status, answer.fields["x-fastgw-upstream"]) == (200, "b")
    assert answer.fields["x-fastgw-attempts"] == "1"
    assert records(bench) == [("a", "misfit"), ("b", "succeeded")]
    assert bench.nodes[0].is_available(bench.clock.now)
    bench.check_end()


def test_what_no_node_can_take_is_the_callers_to_change(make: Make) -> None:
    bench = make(
        adapters=[Adapter(DIALECTS["deepseek"]), Adapter(COMPATIBLE, capabilities={"images": False})]
    )
    bench.ask(PICTURE)
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (400, "unsupported_by_providers")
    assert answer.error["type"] == "invalid_request_error" and "images" in answer.error["message"]
    assert "retry-after" not in answer.fields and answer.fields["x-fastgw-attempts"] == "0"
    assert records(bench) == [("a", "misfit"), ("b", "misfit")]
    bench.check_end()


def test_a_misfit_is_not_blamed_while_the_node_that_fits_is_out(make: Make) -> None:
    bench = make(adapters=[None, Adapter(DIALECTS["deepseek"])])
    bench.ask(PICTURE)
    bench.dialled().fail(ConnectFailed())
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (502, "upstream_connect_failed")
    assert records(bench) == [("a", "upstream_connect_failed"), ("b", "misfit")]
    bench.ask(PICTURE)
    bench.dialled().fail(ConnectFailed())  # nothing else is left, so it was tried once more
    assert bench.answer().status == 502
    bench.ask(PICTURE)
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (503, "no_upstream")
    assert "images" in answer.error["message"] and "retry-after" in answer.fields
    # A request that the other one can take goes to it.
    bench.ask(BODY)
    bench.connect(1).say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()


def test_an_uncertain_attempt_behind_a_misfit_is_the_one_that_is_named(make: Make) -> None:
    bench = make(nodes=3, adapters=[Adapter(DIALECTS["deepseek"])])
    bench.ask(PICTURE)
    bench.connect(1).say(error_response(500))
    bench.connect(2).say(json_response(COMPLETION))
    assert bench.answer().status == 200
    assert records(bench) == [("a", "misfit"), ("b", "server_error"), ("c", "succeeded")]
    assert bench.finished[-1].uncertain == 2
    bench.check_end()


def test_each_node_gets_a_request_of_its_own(make: Make) -> None:
    bench = make(adapters=[Adapter(DIALECTS["deepseek"]), Adapter(DIALECTS["openai"])])
    body = b'{"model":"m","messages":[{"role":"developer","content":"x","reasoning_content":"y"}]}'
    bench.ask(body)
    node = bench.connect()
    assert node.take().endswith(b'[{"role":"system","content":"x","reasoning_content":"y"}]}')
    node.say(error_response(429))
    node = bench.connect(1)
    head, _, sent = node.take().partition(b"\r\n\r\n")
    assert sent.endswith(b'[{"role":"developer","content":"x"}]}')
    assert b"content-length: %d" % len(sent) in head
    node.say(json_response(COMPLETION))
    assert bench.answer().fields["x-fastgw-adapted"] == "reasoning_content"
    bench.check_end()


def test_a_request_that_was_adapted_is_sent_again_on_a_fresh_connection(make: Make) -> None:
    bench = make(adapters=[Adapter(DIALECTS["openai"])])
    warm = bench.warm()
    bench.ask(b'{"model":"m","messages":[],"user_id":"u"}')
    warm.close()
    node = bench.connect()
    assert node.take().endswith(b'{"model":"m","messages":[]}')
    node.say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()
