"""How a worker that holds many objects for moments treats memory: what it frees stays at hand, and
circles of objects are looked for at moments of its own choice."""

from __future__ import annotations

import ctypes
import gc
from types import TracebackType

from lakehouse_ray.clock import Clock

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Keep what this process frees instead of giving it back to the kernel at once. False: it cannot.

    Buffers of some MiB that come and go each second would be unmapped each time, and cleared and
    faulted in anew, page by page. What is kept is no more than was in use at once. As
    `pool.default_worker_env`, for processes that are not started with an environment. Needs glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: 1 << 30, _TOP_PAD: 64 << 20}
    taken = [mallopt(what, value) == 1 for what, value in wanted.items()]
    return all(taken)


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
