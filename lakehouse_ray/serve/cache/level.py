"""What a place is that keeps answers for several processes, and what is counted of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lakehouse_ray.serve.cache.stored import Written
from lakehouse_ray.serve.formats import Format

# Small answers go to Redis, larger ones to the store: what it is asked for is worth a file.
SMALL_BYTES_MAX = 1 << 20


@dataclass
class Counts:
    """Of one process since it began.

    skipped: Times it was passed over, being down or busy. damaged: Values that were no answers.
    """

    hits: int = 0
    misses: int = 0
    skipped: int = 0
    errors: int = 0
    damaged: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class Level(Protocol):
    """A place beyond this process. None of its methods raises: an answer can always be made anew."""

    @property
    def name(self) -> str:
        """Label `level` of its metrics."""

    @property
    def counts(self) -> Counts: ...

    @property
    def up(self) -> bool:
        """Whether it answered when it was last asked."""

    def takes(self, size_bytes: int) -> bool:
        """Whether answers of that size are kept here."""

    async def get(self, key: str, form: Format) -> Written | None:
        """The answer under a key, checked; None where there is none, or none in time."""

    async def put(self, key: str, stored: Written) -> None: ...

    async def close(self) -> None: ...
