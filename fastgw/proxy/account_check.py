"""Account checks: free requests of our own that find a rotten backup before a caller needs it.

A node without traffic can have lost its key, its balance or its model long ago, and probes of ``/``
would not notice. So each node's provider is asked, with the node's own key, for its list of models
and, where it has that, its balance: at the start, then rarely, and sooner while something is wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from random import random
from time import monotonic
from typing import Any

from ..balancing.upstream import AttemptOutcome, Upstream
from ..errors import NodeError
from ..llm.account import Finding, Standing, read_balance, read_models, worse_of
from ..wire.pool import Pool
from .probe import Watch, ask

logger = logging.getLogger("fastgw.account")

FIRST_PAUSE_S = 5.0  # after a check that found something; doubles up to the interval
MAX_LIST_BYTES = 4 * 1024 * 1024  # of a list of models: brokers offer thousands
CONCURRENCY = 4
_JITTER = 0.1  # a fraction, both ways: gateways that were started together must not ask together
_REFUSED = (Standing.BAD_KEY, Standing.NO_BALANCE)


@dataclass(frozen=True, slots=True)
class CheckedNode:
    """A node, the connections to check it over, and what is asked; an empty request is not sent.

    ``models`` are the ones that its model map sends. Times are seconds.
    """

    node: Any
    pool: Pool
    models_request: bytes = field(repr=False)  # it has the key
    balance_request: bytes = field(default=b"", repr=False)
    models: tuple[str, ...] = ()
    interval_s: float = 60.0
    timeout_s: float = 10.0


class AccountChecker(Watch):
    """Checks the accounts of one upstream's nodes.

    A key that is refused, or an account without money, takes its node out as a live request's
    refusal would, and the next good check brings it back. A model that is not offered is said
    aloud, no more: requests for other models may do well.

    Args:
        on_checked: called with (node, finding) after each check, and with (node, None) when the
            node is no longer checked.
    """

    def __init__(
        self,
        upstream: Upstream,
        nodes: tuple[CheckedNode, ...],
        on_checked: Callable[[Any, Finding | None], None] | None = None,
    ) -> None:
        super().__init__()
        self.upstream = upstream
        self.nodes = nodes
        self.on_checked = on_checked
        self.slots = asyncio.Semaphore(CONCURRENCY)

    def watches(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return [_Account(self, checked).watch for checked in self.nodes]

    async def stop(self) -> None:
        was_running = bool(self._tasks)
        await super().stop()
        if was_running and self.on_checked is not None:
            for checked in self.nodes:
                self.on_checked(checked.node, None)

    async def check(self, checked: CheckedNode) -> Finding:
        """One check now."""
        found: Finding | None = None
        try:
            if checked.models_request:
                status, body = await ask(
                    checked.pool, checked.models_request, checked.timeout_s, MAX_LIST_BYTES
                )
                found = read_models(status, body, checked.models)
            if checked.balance_request and (found is None or found.standing not in _REFUSED):
                status, body = await ask(
                    checked.pool, checked.balance_request, checked.timeout_s, MAX_LIST_BYTES
                )
                balance = read_balance(status, body)
                found = balance if found is None else worse_of(found, balance)
        except TimeoutError:
            found = Finding(Standing.UNREACHABLE, detail="no answer in time")
        except NodeError as error:
            found = Finding(Standing.UNREACHABLE, detail=str(error))
        assert found is not None, "a checked node has a request"
        return found


class _Account:
    """What is known of one node's account from check to check."""

    def __init__(self, checker: AccountChecker, checked: CheckedNode) -> None:
        self.checker = checker
        self.checked = checked
        self.last: Finding | None = None
        self.bad_checks = 0  # in a row
        self.served = 0  # requests until the check before
        self.killed_until = 0.0  # the end of the term that we have set

    async def watch(self) -> None:
        interval = self.checked.interval_s
        self.served = self._succeeded()
        await asyncio.sleep(random() * min(0.1, interval))
        while True:
            async with self.checker.slots:
                try:
                    finding = await self.checker.check(self.checked)
                except Exception:  # a bug of ours must not leave a node without checks
                    logger.exception("an account check failed in an unexpected way")
                    finding = Finding(Standing.UNKNOWN, detail="the check failed")
            pause = self.take(finding, monotonic())
            await asyncio.sleep(pause * (1.0 + _JITTER * (2.0 * random() - 1.0)))

    def take(self, finding: Finding, now: float) -> float:
        """Act on a finding; returns the seconds until the next check."""
        node = self.checked.node
        upstream = self.checker.upstream
        served, self.served = self.served, self._succeeded()
        is_well = finding.standing in (Standing.GOOD, Standing.UNKNOWN)
        if finding.standing in _REFUSED:
            if self.served > served:
                # Requests were served with this very key: they know better. The next check is soon.
                finding = Finding(Standing.UNKNOWN, detail=f"{finding.detail}, but requests are served")
            else:
                self.killed_until = upstream.refuse_key(node, now) or self.killed_until
        elif finding.standing in (Standing.GOOD, Standing.MODEL_MISSING):
            upstream.accept_key(node, self.killed_until, now)
            self.killed_until = 0.0
        self._say(finding)
        self.last = finding
        if self.checker.on_checked is not None:
            self.checker.on_checked(node, finding)
        if is_well:
            self.bad_checks = 0
            return self.checked.interval_s
        self.bad_checks += 1
        return float(min(self.checked.interval_s, FIRST_PAUSE_S * 2 ** min(self.bad_checks - 1, 30)))

    def _succeeded(self) -> int:
        count: int = self.checked.node.outcomes[AttemptOutcome.SUCCEEDED]
        return count

    def _say(self, finding: Finding) -> None:
        """Log what has changed."""
        if finding == self.last:
            return
        place = (self.checker.upstream.name, self.checked.node.name)
        standing = finding.standing
        if standing is Standing.BAD_KEY:
            logger.error("upstream %s, node %s: its key is refused (%s)", *place, finding.detail)
        elif standing is Standing.NO_BALANCE:
            logger.error("upstream %s, node %s: its account is empty (%s)", *place, finding.detail)
        elif standing is Standing.MODEL_MISSING:
            names = ", ".join(finding.missing)
            logger.error("upstream %s, node %s: it does not offer the mapped model %s", *place, names)
        elif standing is Standing.UNREACHABLE:
            logger.warning("upstream %s, node %s: its key cannot be checked: %s", *place, finding.detail)
        elif standing is Standing.UNKNOWN:
            logger.info("upstream %s, node %s: its key cannot be checked: %s", *place, finding.detail)
        else:
            models = f", {len(self.checked.models)} mapped models offered" if self.checked.models else ""
            logger.info("upstream %s, node %s: its key is good%s", *place, models)
