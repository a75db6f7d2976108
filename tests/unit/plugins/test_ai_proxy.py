"""What ai-proxy makes of a request before an instance is chosen."""

from __future__ import annotations

import orjson
import pytest
from exchange_bench import BODY, COMPLETION, Bench, json_response
from fake_request import client_request

from fastgw.plugins.ai_proxy import CHAT, EMBEDDINGS, RESPONSES, AiProxy, call_of, paths_of
from fastgw.proxy.phases import ClientRequest


def plugin(max_body_bytes: int = 1000, max_stream_s: float = 0.0, like_apisix: bool = False) -> AiProxy:
    return AiProxy(
        "ai-proxy-multi",
        max_body_bytes=max_body_bytes,
        max_stream_s=max_stream_s,
        errors_like_apisix=like_apisix,
    )


def request(method: str = "POST", *fields: str) -> ClientRequest:
    return client_request(f"{method} /ai", *fields)


@pytest.mark.parametrize(
    ("path", "body", "call"),
    [
        (b"/v1/chat/completions", {}, CHAT),
        (b"/openai/v1/embeddings", {}, EMBEDDINGS),
        (b"/v1/responses", {"messages": []}, RESPONSES),
        (b"/ai", {"messages": []}, CHAT),
        (b"/ai", {"messages": "text"}, None),
        (b"/ai", {"input": "text"}, EMBEDDINGS),
        (b"/ai", {"prompt": "text"}, None),
        (b"/v1/moderations", {"input": "text"}, None),
        (b"/v1/completions", {"prompt": "text"}, None),
        (b"/v1/messages", {"messages": []}, None),
    ],
)
def test_the_kind_of_a_call(path: bytes, body: object, call: bytes | None) -> None:
    assert call_of(path, orjson.dumps(body)) == call


def test_half_a_surrogate_pair_does_not_hide_a_chat() -> None:
    assert call_of(b"/ai", b'{"messages":["\\ud800"]}') == CHAT


def test_what_is_no_json_is_no_call() -> None:
    """Unless the path says which one it is: then the provider may judge the body."""
    body = b'{"messages":["\xff"]}'
    assert call_of(b"/v1/chat/completions", body) == CHAT
    with pytest.raises(ValueError, match="utf-8"):
        call_of(b"/ai", body)


def test_each_provider_has_its_calls_where_it_has_them() -> None:
    assert paths_of("openai", None) == {}
    assert paths_of("deepseek", None) == {CHAT: b"/chat/completions"}
    assert set(paths_of("deepseek", "/x").values()) == {b"/x"}


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("POST", ("Content-Type: application/json; charset=utf-8", "Content-Length: 5"), None),
        ("POST", ("content-type: APPLICATION/JSON", "Content-Length: 5"), None),
        ("POST", ("Content-Length: 5",), None),
        ("POST", ("Content-Type: multipart/form-data", "Content-Length: 5"), 400),
        ("POST", ("Content-Length: 1001",), 413),
        ("GET", ("Content-Type: text/plain",), None),
    ],
)
def test_a_head_alone_may_be_enough_to_refuse(
    method: str, fields: tuple[str, ...], status: int | None
) -> None:
    answer = plugin().on_request(request(method, *fields))
    assert (answer.status if answer is not None else None) == status


def test_errors_have_the_shape_of_the_profile() -> None:
    asked = request("POST", "Content-Type: text/plain", "Content-Length: 5")
    for like_apisix, key in ((False, "error"), (True, "error_msg")):
        answer = plugin(like_apisix=like_apisix).on_request(asked)
        assert answer is not None
        assert list(orjson.loads(answer.body)) == [key]


def test_the_call_is_what_a_node_gets_and_what_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, body_plugins=(plugin(),))
    exchange = bench.ask(BODY, path="/ai?x=1", method="PUT")
    node = bench.connect()
    assert node.take().startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert exchange.path == CHAT
    node.say(json_response(COMPLETION))
    assert bench.answer().status == 200


def test_a_body_that_has_to_be_read_and_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its own path it would pass without what is written into chats; a provider may be lenient."""
    bench = Bench(monkeypatch, body_plugins=(plugin(),))
    bench.ask(b'{"messages":["\xff"],"max_tokens":9999}', path="/ai")
    answer = bench.answer()
    assert answer.status == 400 and b"not valid JSON" in answer.body


def test_a_stream_may_last_so_long_and_its_end_is_not_the_nodes_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, body_plugins=(plugin(max_stream_s=1.0),))
    bench.ask(BODY.replace(b"{", b'{"stream":true,', 1))
    bench.connect()
    bench.wait(1.1)
    assert bench.answer().status == 504
    assert all(node.state.name == "HEALTHY" for node in bench.nodes)
