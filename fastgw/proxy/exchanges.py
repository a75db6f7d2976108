"""All live exchanges of a process, and what they share: bounds on held bodies, and counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import ceil, inf
from typing import TYPE_CHECKING

from .._core import Node
from ..balancing.retry import RetryBudget

if TYPE_CHECKING:
    from .answering import Answering
    from .tunnel import Tunnel

logger = logging.getLogger("fastgw.nodes")


class Exchanges:
    """All live exchanges of a process, and what they share.

    Args:
        on_finished: called once with each exchange that has ended, for log and counters.
        hold_body_bytes: largest request body that is held, and so can be attempted again.
        hold_total_bytes: of all held bodies together.
        max_body_bytes: larger ones are refused.
        budget: of retries to nodes that are failing themselves; None: no limit.
    """

    def __init__(
        self,
        on_finished: Callable[[Answering], None],
        *,
        hold_body_bytes: int = 16 * 1024 * 1024,
        hold_total_bytes: int = 256 * 1024 * 1024,
        max_body_bytes: int = 64 * 1024 * 1024,
        budget: RetryBudget | None = None,
    ) -> None:
        self.on_finished = on_finished
        self.hold_body_bytes = hold_body_bytes
        self.hold_total_bytes = hold_total_bytes
        self.max_body_bytes = max_body_bytes
        self.budget = budget
        self.live: set[Answering | Tunnel] = set()
        self.held_bytes = 0
        self.started = 0
        self.retries = 0
        self.budget_refusals = 0  # retries that did not go where they would have gone
        self.uncertain_replays = 0
        self.stale_reuses = 0
        self.interrupted = 0
        self.malformed_events = 0
        self.client_gone = 0
        self.unmovable = 0
        self.resumed = 0
        self.tunnels = 0  # open ones
        self.dead_nodes: dict[Node, str] = {}  # whose key was found refused here, and why

    def sweep(self, now: float) -> None:
        """Look at every live exchange's deadlines. Called a few times a second."""
        if self.budget is not None:
            self.budget.note(now, self.started)
        if self.dead_nodes:
            self._look_after_the_dead()
        for exchange in list(self.live):
            try:
                exchange.on_tick(now)
            except Exception as error:  # a bug of ours costs its own request, not everybody's deadlines
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a request could not be continued", "exception": error}
                )
                exchange.client.abort()

    def node_died(self, node: Node, reason: str, now: float) -> None:
        """A node's credential was refused, or its account is empty: somebody must act. Said once."""
        if node not in self.dead_nodes:
            self.dead_nodes[node] = reason
            wait = node.dead_until - now
            logger.error(
                "node %s takes no requests: %s; it is tried again in %.0f s", node.name, reason, wait
            )

    def _look_after_the_dead(self) -> None:
        for node, reason in list(self.dead_nodes.items()):
            if not node.is_dead():
                del self.dead_nodes[node]
                logger.warning("node %s takes requests again: %s is over", node.name, reason)

    def shed(self) -> int:
        """End the slowest streams, a twentieth of them; returns how many.

        Slowest are those whose clients do not take what they asked for, for the longest time first:
        what waits for them is what fills the memory. Then those that have been silent for longest.
        """
        streams = [exchange for exchange in self.live if exchange.is_relaying()]
        streams.sort(key=lambda exchange: (exchange.client_stalled_at or inf, exchange.last_byte_at))
        slowest = streams[: ceil(len(streams) / 20)]
        for exchange in slowest:
            exchange.on_overload()
        return len(slowest)

    def interrupt_all(self) -> None:
        """The drain is over: end what is left, honestly."""
        for exchange in list(self.live):
            exchange.on_shutdown()
