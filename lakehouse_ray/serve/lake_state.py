"""What the service says of the lake to Prometheus: its tables, its quality, its jobs.

All of its processes say the same, as it is in the tables. It is looked up now and then, beside what is asked of the service, and shown as it was last found; a lake that does not answer shows
in how old that is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import get_args

import structlog
from prometheus_client import CollectorRegistry

from lakehouse_ray.clock import Clock
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.pins import FindTable
from lakehouse_ray.query.quality_metrics import quality_metrics
from lakehouse_ray.query.table_metrics import TableMetrics
from lakehouse_ray.runtime.jobs import Job, JobState
from lakehouse_ray.telemetry.exposition import registry_of, text_of
from lakehouse_ray.telemetry.metrics import (
    JOBS,
    JOBS_OLDEST_AT,
    PUBLICATION_DUE,
    QUALITY_THRESHOLD,
    STATE_AT,
    TABLE_COMMIT_AT,
    MetricShape,
    Samples,
)

_log = structlog.get_logger()

# How long who asks first waits; later ones are shown what there is.
_FIRST_S = 8.0
_DUE_S_MIN = 2 * 3600.0
# An assessment adds to the first at its end; alerts may be delivered later.
_QUALITY_LOGS = ("gold.assessment_log", "gold.alert_deliveries")

Families = list[tuple[MetricShape, Samples]]


class LakeState:
    """lake: Makes a lake to ask. jobs: Of this lake; None: there are none. threshold: Of scores.

    name: Of the lake, its label. every_s: Between two looks. publish_within_s: For how long nothing
    may be published, as it is configured at a moment (UTC, microseconds); None: as it has been so far.
    """

    def __init__(
        self,
        find: FindTable,
        lake: Callable[[], Lake],
        clock: Clock,
        *,
        name: str,
        threshold: float,
        every_s: float = 30.0,
        jobs: Callable[[], list[Job]] | None = None,
        publish_within_s: Callable[[int], float | None] = lambda now_us: None,
    ) -> None:
        self._tables = TableMetrics(find)
        self._lake = lake
        self._clock = clock
        self._labels = {"lake": name}
        self._threshold = threshold
        self._every_s = every_s
        self._jobs = jobs
        self._publish_within_s = publish_within_s
        self._quality: Families = []
        self._quality_of: Mapping[str, float] = {}
        self._shown = CollectorRegistry()
        self._looked_s = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def text(self) -> str:
        """In Prometheus' format 0.0.4."""
        if self._looking is None and self._clock.monotonic_s() - self._looked_s > self._every_s:
            self._looking = asyncio.create_task(self._look_again())
        if self._looking is not None and self._looked_s == float("-inf"):
            await asyncio.wait([self._looking], timeout=_FIRST_S)
        return text_of(self._shown)

    async def _look_again(self) -> None:
        try:
            self._shown = await asyncio.to_thread(self.look)
            self._looked_s = self._clock.monotonic_s()
        except Exception as error:  # noqa: BLE001 - how old it is says that something is wrong
            _log.warning("the lake does not say how it is", why=str(error))
        finally:
            self._looking = None

    def look(self) -> CollectorRegistry:
        """Raises LakehouseError where the lake does not answer."""
        families: Families = list(self._tables.look())
        commits = dict(families)[TABLE_COMMIT_AT]
        of_quality = {name: commits[(name,)] for name in _QUALITY_LOGS if (name,) in commits}
        if of_quality != self._quality_of:
            # Counted anew only where an assessment has added to it.
            self._quality = list(quality_metrics(self._lake(), self._threshold))
            self._quality_of = of_quality
        families += self._quality
        families.append((QUALITY_THRESHOLD, {(): self._threshold}))
        families.append((PUBLICATION_DUE, self._due()))
        if self._jobs is not None:
            families += _job_metrics(self._jobs())
        families.append((STATE_AT, {(): self._clock.now_us() / 1e6}))
        return registry_of(families, self._labels)

    def _due(self) -> Samples:
        """Nothing where nobody can know: a lake that was filled once is not late."""
        now_us = self._clock.now_us()
        due_s = self._publish_within_s(now_us)
        if due_s is None and (pause_us := self._tables.pause_us(now_us)) is not None:
            due_s = due_after_s(pause_us)
        return {} if due_s is None else {(): due_s}


def due_after_s(pause_us: int) -> float:
    """When the next publication is overdue: one may find nothing new, or be late."""
    return max(_DUE_S_MIN, 2 * pause_us / 1e6)


def _job_metrics(jobs: Iterable[Job]) -> Iterator[tuple[MetricShape, Samples]]:
    known = list(jobs)
    counted = Counter[str](job.state for job in known)
    yield JOBS, {(state,): float(counted[state]) for state in get_args(JobState)}
    oldest: dict[tuple[str, ...], float] = {}
    for job in known:
        if not job.ended and job.started_us is not None:
            at_s = job.started_us / 1e6
            oldest[(job.state,)] = min(at_s, oldest.get((job.state,), at_s))
    yield JOBS_OLDEST_AT, oldest
