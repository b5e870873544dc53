"""Whether a pool at work is to have more workers, or fewer. Pure: its state in, a decision out.

The allocator sizes a pool before it starts; this follows the load, the queue and the nodes while it
runs. A worker that holds a task is never ended: only idle ones, and those that have not come up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lakehouse_ray.runtime.scaling import Load, Rules, judge

# How often a pool looks at itself and at the nodes. Asking for the nodes takes milliseconds.
LOOK_EVERY_S = 5.0

# Low for so long, before workers are ended: one that is missed a moment later costs half a second of a
# CPU to start again, and its node, if that went too, minutes.
DOWN_AFTER_S = 30.0


@dataclass(frozen=True)
class Bounds:
    """least: Workers that stay, however idle. most: Never more, whatever the nodes could hold."""

    least: int
    most: int


@dataclass(frozen=True)
class PoolState:
    """A pool at one moment.

    up: Workers that take tasks; idle: those of them that have none.
    pending: Workers that were asked for and have not come up.
    in_flight: Tasks that are being worked on; a worker takes `depth` at once.
    load: Its CPUs and memory as shares of what its workers reserve; tasks that nobody has begun.
    room: Workers that free CPUs and memory of the nodes would hold now, beside all those.
    """

    up: int
    idle: int
    pending: int
    in_flight: int
    depth: int
    load: Load
    room: int

    @property
    def useful(self) -> int:
        """Workers that the work which is left could keep busy."""
        return math.ceil((self.in_flight + self.load.waiting) / self.depth)


@dataclass(frozen=True)
class Resize:
    """start, end, cancel: How many workers to ask for, to end (idle ones), to ask for no more.

    rule: Which rule decided, a word for a label of a metric. reason: The same as a sentence.
    """

    start: int = 0
    end: int = 0
    cancel: int = 0
    rule: str = "none"
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.start or self.end or self.cancel)


def resize(state: PoolState, bounds: Bounds, rules: Rules) -> Resize:
    """Decide for a pool of this state.

    Up by half, at least by one, by no more than the nodes have room for, the work can use and
    `bounds` allow. Down by half of the idle ones. Workers that wait for a node and that the rest of
    the work does not need any more are cancelled, so that no node comes for nothing.
    """
    asked = state.up + state.pending
    useful = max(bounds.least, state.useful)
    if state.pending and asked > useful:
        surplus = min(state.pending, asked - useful)
        return Resize(
            cancel=surplus,
            rule="surplus",
            reason=f"what is left keeps {_workers(useful)} busy, {state.pending} wait for a node",
        )
    verdict = judge(state.load, rules)
    if verdict.direction == "up":
        step = max(1, math.ceil(state.up / 2))
        more = min(step, state.room, bounds.most - asked, useful - asked)
        if more > 0:
            reason = f"{verdict.reason} and nodes have room for {_workers(state.room)}"
            return Resize(start=more, rule=verdict.rule, reason=reason)
    if verdict.direction == "down" and state.up > useful:
        fewer = min(math.ceil(state.idle / 2), state.up - useful)
        if fewer > 0:
            reason = f"{_workers(state.idle)} of {state.up} without work: {verdict.reason}"
            return Resize(end=fewer, rule=verdict.rule, reason=reason)
    return Resize(rule=verdict.rule if verdict.direction != "stay" else "none")


class Governor:
    """`resize` over time: looks at intervals, and ends workers only where it is low for a while.

    Time is given by the caller, in seconds of any clock that goes on steadily.
    """

    def __init__(
        self,
        bounds: Bounds,
        rules: Rules,
        *,
        every_s: float = LOOK_EVERY_S,
        down_after_s: float = DOWN_AFTER_S,
    ) -> None:
        self._bounds = bounds
        self._rules = rules
        self._every_s = every_s
        self._down_after_s = down_after_s
        self._next_s = -math.inf
        self._low_since_s: float | None = None

    def due(self, now_s: float) -> bool:
        """Whether it is time to look again; if so, the next time is `every_s` from now."""
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True

    def decide(self, now_s: float, state: PoolState) -> Resize:
        found = resize(state, self._bounds, self._rules)
        if not found.end:
            self._low_since_s = None
            return found
        if self._low_since_s is None:
            self._low_since_s = now_s
        if now_s - self._low_since_s < self._down_after_s:
            return Resize(rule="none")
        return found


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
