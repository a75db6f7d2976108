"""What fills in the fields a file leaves out: one table per profile and form.

The two forms differ because ADC writes defaults of its own into every sub-object that a file
writes (passive checks above all), where APISIX's schema has others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fastgw.config.model import Keepalive, Profile, Timeouts


@dataclass(frozen=True, slots=True)
class CheckDefaults:
    """Thresholds and statuses of one kind of check."""

    successes: int
    http_failures: int
    tcp_failures: int
    timeouts: int
    healthy_statuses: frozenset[int]
    unhealthy_statuses: frozenset[int]


_PROBE_UNHEALTHY: Final = frozenset((429, 404, 500, 501, 502, 503, 504, 505))

ACTIVE: Final = CheckDefaults(2, 5, 2, 3, frozenset((200, 302)), _PROBE_UNHEALTHY)
PASSIVE: Final = {
    "adc": CheckDefaults(2, 5, 2, 3, frozenset((200, 302)), _PROBE_UNHEALTHY),
    "apisix": CheckDefaults(
        5, 5, 2, 7, frozenset((*range(200, 209), 226, *range(300, 309))), frozenset((429, 500, 503))
    ),
}
# Profile llm, a `healthy` or `unhealthy` that is not written: as if no passive check were.
BUILT_IN_SUCCESSES: Final = 1
BUILT_IN_FAILURES: Final = 5

PASS_HOST: Final = {Profile.LLM: "node", Profile.APISIX: "pass"}
TIMEOUT: Final = {Profile.LLM: None, Profile.APISIX: Timeouts(60.0, 60.0, 60.0)}
KEEPALIVE: Final = {Profile.LLM: Keepalive(), Profile.APISIX: Keepalive(320, 60.0, 1000)}
# Of the ``fastgw:`` object, where it is not profile llm's.
PROCESS: Final[dict[Profile, dict[str, float]]] = {
    Profile.LLM: {},
    Profile.APISIX: {"retry_budget_percent": 0.0, "slow_start_s": 0.0},
}
KEEPALIVE_WRITTEN: Final = Keepalive(320, 60.0, 1000)  # inside a keepalive_pool that is written

# What an ai-proxy plugin does not say.
AI_TIMEOUT: Final = {Profile.LLM: None, Profile.APISIX: Timeouts(30.0, 30.0, 30.0)}
AI_KEEPALIVE: Final = {Profile.LLM: Keepalive(), Profile.APISIX: Keepalive(30, 60.0, 1000)}
