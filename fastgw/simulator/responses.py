"""OpenAI's Responses API on the wire: lifecycle events around the text, and no ``[DONE]``."""

from typing import Any

import orjson

from fastgw.simulator.conversation import Reply
from fastgw.simulator.script import EVENT_STREAM, JSON, Answer


def _document(id: str, created: int, model: str, status: str) -> dict[str, Any]:
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }


def _finished(reply: Reply, id: str, created: int, model: str) -> dict[str, Any]:
    is_cut = reply.finish == "length"
    document = _document(id, created, model, "incomplete" if is_cut else "completed")
    if is_cut:
        document["incomplete_details"] = {"reason": "max_output_tokens"}
    document["output"] = [_item(id, "".join(reply.content), document["status"])]
    document["usage"] = {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": len(reply.content),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.prompt_tokens + len(reply.content),
    }
    return document


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _item(id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {
        "id": id.replace("resp_", "msg_"),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def whole(reply: Reply, *, id: str, created: int, model: str) -> Answer:
    """A response in one document."""
    body = orjson.dumps(_finished(reply, id, created, model))
    return Answer(200, [JSON], body, progress=len(reply.content))


def stream(reply: Reply, *, id: str, created: int, model: str) -> Answer:
    """A response as a stream of its typed events."""
    events: list[bytes] = []

    def emit(kind: str, **fields: Any) -> None:
        data = orjson.dumps({"type": kind, "sequence_number": len(events), **fields})
        events.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    running = _document(id, created, model, "in_progress")
    item = _item(id, None, "in_progress")
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    emit("response.created", response=running)
    emit("response.in_progress", response=running)
    emit("response.output_item.added", output_index=0, item=item)
    emit("response.content_part.added", **place, part=_part(""))
    lead = len(events)
    for token in reply.content:
        emit("response.output_text.delta", **place, delta=token, logprobs=[])
    finished = _finished(reply, id, created, model)
    text = "".join(reply.content)
    emit("response.output_text.done", **place, text=text, logprobs=[])
    emit("response.content_part.done", **place, part=_part(text))
    emit("response.output_item.done", output_index=0, item=finished["output"][0])
    emit(f"response.{finished['status']}", response=finished)

    def failed(data: bytes) -> bytes:
        """An error in the middle: the event ``error``, as this API shapes it."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = None
        error = value.get("error") if isinstance(value, dict) else None
        if not isinstance(error, dict):
            return b"event: error\ndata: %b\n\n" % data
        shaped = {
            "type": "error",
            "code": error.get("code") or error.get("type"),
            "message": error.get("message"),
            "param": error.get("param"),
            "sequence_number": 0,
        }
        return b"event: error\ndata: %b\n\n" % orjson.dumps(shaped)

    return Answer(
        200, [EVENT_STREAM], events=events, lead=lead, progress=len(reply.content), error_event=failed
    )
