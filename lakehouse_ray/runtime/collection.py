"""When a worker that holds many objects for moments looks for circles among them."""

from __future__ import annotations

import gc
from types import TracebackType

from lakehouse_ray.clock import Clock


class RareCollection:
    """Within it, circles of objects are looked for when `moment` is called, at most each `every_s`.

    What exists when it begins is not looked through at all. By itself Python looks after every so
    many new objects: again and again while a hundred thousand messages are alive, and finds nothing.
    Concerns the whole process.
    """

    def __init__(self, clock: Clock, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._last_s = clock.monotonic_s()

    def __enter__(self) -> RareCollection:
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        gc.unfreeze()
        gc.enable()

    def moment(self) -> None:
        """It is a good moment: little is alive that does not stay."""
        now_s = self._clock.monotonic_s()
        if now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            gc.collect()
