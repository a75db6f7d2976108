"""The play: scenes in which one provider breaks in one way each, while the callers go on asking.

A stream that has brought content cannot be given to another provider: when its provider dies, its caller
gets an honest error. That is not what is shown here, so a fault strikes when no stream is under way.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastgw._core import Node
from fastgw.cli.demo.callers import Caller, Tally
from fastgw.simulator import Fault, FaultKind, Provider

CALLERS = 8  # every second one streams
ENOUGH = 10  # answers by the node a scene is about
AT_MOST_S = 25.0  # a scene, or a recovery, that takes longer has failed
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Scene:
    """One act: what is done to OpenAI, and for how long (seconds, before scaling)."""

    title: str
    fault: Fault | None
    lasts_s: float = 6.0


SCENES: tuple[Scene, ...] = (
    Scene("all is well", None),
    Scene("OpenAI answers 500", Fault(FaultKind.STATUS, status=500)),
    Scene("OpenAI refuses connections", Fault(FaultKind.REFUSE)),
    Scene("OpenAI takes requests and says nothing", Fault(FaultKind.HANG_BEFORE_HEAD), 9.0),
    Scene(
        "OpenAI limits the rate: 429, Retry-After: 2",
        Fault(
            FaultKind.STATUS,
            status=429,
            headers=(("Retry-After", "2"), ("Content-Type", "application/json")),
            body='{"error": {"message": "Rate limit reached.", "code": "rate_limit_exceeded"}}',
            paths="api",
        ),
    ),
    Scene("OpenAI shows a wrong certificate", Fault(FaultKind.BAD_CERTIFICATE)),
    Scene("OpenAI says 200, then sends an error", Fault(FaultKind.ERROR_EVENT)),
    Scene("all is well again", None),
)


@dataclass(slots=True)
class Act:
    """A scene as it was played. Times are monotonic seconds."""

    scene: Scene
    began_at: float
    tally: Tally = field(default_factory=Tally)
    mended_at: float | None = None  # when the fault ended
    back_after_s: float | None = None  # from then until OpenAI answered again
    is_stuck: bool = False  # what had to be seen was not seen in time


class Play:
    """Directs the scenes and holds what the picture shows.

    Args:
        nodes: of the gateway, to show their health.
        primary: the name of the node that is broken.
        scale: of the time the scenes take.
    """

    def __init__(
        self,
        openai: Provider,
        nodes: Sequence[Node],
        primary: str,
        address: tuple[str, int],
        *,
        scale: float = 1.0,
        scenes: Sequence[Scene] = SCENES,
    ) -> None:
        self.openai = openai
        self.nodes = nodes
        self.primary = primary
        self.scale = scale
        self.scenes = scenes
        self.acts: list[Act] = []
        self.began_at = time.monotonic()
        self._may_stream = asyncio.Event()
        self._callers = [
            Caller(number, address, Tally(), self._may_stream, is_streaming=number % 2 == 0)
            for number in range(1, CALLERS + 1)
        ]

    @property
    def total(self) -> Tally:
        """All acts so far."""
        total = Tally()
        for act in self.acts:
            total.add(act.tally)
        return total

    @property
    def is_flawless(self) -> bool:
        """Did every caller get every answer, and did the provider come back each time?"""
        total = self.total
        return (
            len(self.acts) == len(self.scenes)
            and total.answers > 0
            and total.error_count == total.wrong == 0
            and not any(act.is_stuck for act in self.acts)
        )

    async def perform(self, on_act: Callable[[Act], None]) -> None:
        """Play all scenes; ``on_act`` is called after each."""
        tasks = [asyncio.create_task(caller.run()) for caller in self._callers]
        try:
            for scene in self.scenes:
                act = Act(scene, time.monotonic())
                self.acts.append(act)
                for caller in self._callers:
                    caller.tally = act.tally
                await self._act(act)
                on_act(act)
        finally:
            self.openai.fault = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _act(self, act: Act) -> None:
        scene = act.scene
        self._may_stream.clear()
        await self._until(act, lambda: not any(caller.is_in_stream for caller in self._callers), 0.0)
        self.openai.fault = scene.fault
        self._may_stream.set()
        await self._until(act, lambda: self._is_seen(act), scene.lasts_s * self.scale)
        if scene.fault is None:
            return
        self.openai.fault = None
        act.mended_at = time.monotonic()
        before = act.tally.nodes[self.primary]
        await self._until(act, lambda: act.tally.nodes[self.primary] >= before + ENOUGH, 0.0)
        act.back_after_s = time.monotonic() - act.mended_at

    def _is_seen(self, act: Act) -> bool:
        """Has the right node given enough answers: OpenAI, or whoever stands in for it?"""
        by_primary = act.tally.nodes[self.primary]
        by_others = act.tally.nodes.total() - by_primary
        return (by_primary if act.scene.fault is None else by_others) >= ENOUGH

    @staticmethod
    async def _until(act: Act, condition: Callable[[], bool], at_least_s: float) -> None:
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < at_least_s or not condition():
            if elapsed > AT_MOST_S + at_least_s:
                act.is_stuck = True
                return
            await asyncio.sleep(LOOK_S)
