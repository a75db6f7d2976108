"""How long each part of an exchange may take: the whole table, and an attempt's share of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Time limits of one route, seconds."""

    connect_s: float = 5.0  # resolve, TCP and TLS together
    head_stream_s: float = 30.0  # the whole head of a streamed answer
    head_s: float = 120.0  # ... of another one
    first_content_stream_s: float = 60.0  # from the request sent to the first content
    first_content_s: float = 120.0  # ... to the whole of an answer that is not streamed
    progress_s: float = 60.0  # between content, after the commit; comments are no progress
    idle_s: float = 120.0  # between bytes
    node_write_s: float = 30.0  # the node takes nothing of the request
    client_write_s: float = 120.0  # the client takes nothing of the answer
    total_s: float = 600.0  # everything, all attempts included
    tunnel_idle_s: float = 600.0  # between bytes of a WebSocket connection, which has no other limit


def patience(told: bytes) -> float:
    """How long a caller waits by its own word, seconds; 0 if that is no number.

    A little less, so that an error of ours still reaches a caller who has not given up.
    """
    try:
        seconds = float(told)
    except ValueError:
        return 0.0
    return seconds - min(1.0, 0.1 * seconds) if seconds > 0 else 0.0


def attempt_deadline(now: float, total: float, is_last: bool) -> float:
    """When an attempt that begins now has to have shown content.

    All but the last attempt may use at most half of the time that is left, so that the next
    node always has as much as this one.
    """
    return total if is_last else now + (total - now) / 2
