"""Chat completions and plain completions on the wire: one JSON document, or a stream of chunks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from fastgw.simulator.conversation import Reply, tokens_of
from fastgw.simulator.script import DONE, EVENT_STREAM, JSON, Answer

Usage = Callable[[Reply], dict[str, Any]]

_OBFUSCATION = b"kVxPz3mQ9tRbLw7y"  # pads events so that their lengths do not give the words away
_NO_FINISH = b',"logprobs":null,"finish_reason":null}]'


def openai_usage(reply: Reply, copies: int = 1) -> dict[str, Any]:
    """The ``usage`` object in OpenAI's form."""
    completion = reply.completion_tokens * copies
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": reply.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": len(reply.reasoning) * copies},
    }


def completion(
    reply: Reply, *, id: str, created: int, model: str, usage: Mapping[str, Any], copies: int = 1
) -> Answer:
    """A chat completion in one document."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(reply.content)}
    if reply.reasoning:
        message["reasoning_content"] = "".join(reply.reasoning)
    if reply.tool_call is not None:
        call = reply.tool_call
        function = {"name": call.name, "arguments": call.arguments}
        message["content"] = None
        message["tool_calls"] = [{"id": call.id, "type": "function", "function": function}]
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": reply.finish}
        for index in range(copies)
    ]
    document = {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage,
        "system_fingerprint": "fp_simulated",
    }
    return Answer(200, [JSON], orjson.dumps(document), progress=reply.completion_tokens)


def chunks(
    reply: Reply,
    *,
    id: str,
    created: int,
    model: str,
    usage: Mapping[str, Any] | None,
    copies: int = 1,
    is_obfuscated: bool = False,
) -> Answer:
    """A chat completion as a stream. ``usage`` None: the caller did not ask for the usage chunk."""
    dump = orjson.dumps
    begin = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
        dump(id),
        created,
        dump(model),
    )
    begin += b'"system_fingerprint":"fp_simulated","choices":['
    close = b"" if usage is None else b',"usage":null'

    def chunk(delta: bytes, index: int, position: int, finish: bytes = _NO_FINISH) -> bytes:
        padding = b',"obfuscation":"%b"' % _OBFUSCATION[: position % 16 + 1] if is_obfuscated else b""
        return b'%b{"index":%d,"delta":%b%b%b%b}\n\n' % (begin, index, delta, finish, close, padding)

    has_thoughts = bool(reply.reasoning)
    role = {"role": "assistant", "content": None if has_thoughts or reply.tool_call else ""}
    if has_thoughts:
        role["reasoning_content"] = ""
    deltas = [b'{"content":null,"reasoning_content":%b}' % dump(token) for token in reply.reasoning]
    if reply.tool_call is not None:
        deltas += _tool_call_deltas(reply)
    elif has_thoughts:
        deltas += [b'{"content":%b,"reasoning_content":null}' % dump(token) for token in reply.content]
    else:
        deltas += [b'{"content":%b}' % dump(token) for token in reply.content]

    indices = range(copies)
    events = [chunk(dump(role), index, 0) for index in indices]
    events += [chunk(delta, index, position) for position, delta in enumerate(deltas) for index in indices]
    finish = b',"logprobs":null,"finish_reason":%b}]' % dump(reply.finish)
    events += [chunk(b"{}", index, 0, finish) for index in indices]
    if usage is not None:
        events.append(b'%b],"usage":%b}\n\n' % (begin, dump(usage)))
    events.append(DONE)
    return Answer(200, [EVENT_STREAM], events=events, lead=copies, progress=len(deltas) * copies)


def _tool_call_deltas(reply: Reply) -> list[bytes]:
    call = reply.tool_call
    assert call is not None
    first = {"index": 0, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    deltas = [{"tool_calls": [first]}]
    for token in tokens_of(call.arguments):
        deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": token}}]})
    return [orjson.dumps(delta) for delta in deltas]


# --- /v1/completions ------------------------------------------------------------------------------


def text_completion(
    tokens: Sequence[str], finish: str, *, id: str, created: int, model: str, usage: Mapping[str, Any]
) -> Answer:
    """A plain completion in one document."""
    choice = {"text": "".join(tokens), "index": 0, "logprobs": None, "finish_reason": finish}
    document = {"id": id, "object": "text_completion", "created": created, "model": model}
    document |= {"choices": [choice], "usage": usage}
    return Answer(200, [JSON], orjson.dumps(document), progress=len(tokens))


def text_chunks(
    tokens: Sequence[str],
    finish: str,
    *,
    id: str,
    created: int,
    model: str,
    usage: Mapping[str, Any] | None,
) -> Answer:
    """A plain completion as a stream."""
    common = {"id": id, "object": "text_completion", "created": created, "model": model}

    def chunk(**fields: Any) -> bytes:
        return b"data: %b\n\n" % orjson.dumps(common | fields)

    def choice(text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}

    events = [chunk(choices=[choice(token, None)]) for token in tokens]
    events.append(chunk(choices=[choice("", finish)]))
    if usage is not None:
        events.append(chunk(choices=[], usage=usage))
    events.append(DONE)
    return Answer(200, [EVENT_STREAM], events=events, progress=len(tokens))
