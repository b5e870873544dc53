"""What the log of runs says of now: up to when each schedule is decided, and which runs are open.

Rows of runners are ordered by their `sequence`, which was given under a lease and by what the log
had then, not by clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from lakehouse_ray.model.schedules import ENDED

_OF_TIMES = ("cron", "catch_up")


@dataclass(frozen=True)
class Standing:
    """A schedule that is being kept to.

    cron: The expression it was taken up with. decided_us: Planned times up to here have been run,
    skipped, or never counted.
    """

    cron: str
    decided_us: int


@dataclass(frozen=True)
class Run:
    """A run that has not ended. epoch: Of the lease under which it was started; 0: it was not.

    planned_us: As the log has it.
    """

    run_id: str
    schedule: str
    workflow: str
    parameters: str
    trigger: str
    planned_us: int
    attempt: int
    place: str = ""
    epoch: int = 0


@dataclass(frozen=True)
class RunHistory:
    """rows: Of `bronze.run_log`, all of it."""

    rows: pl.DataFrame

    @cached_property
    def epoch(self) -> int:
        """The latest lease that anybody has written under; 0: nobody has."""
        return int(self.rows["epoch"].max() or 0)  # type: ignore[arg-type]

    @cached_property
    def sequence(self) -> int:
        return int(self.rows["sequence"].max() or 0)  # type: ignore[arg-type]

    @cached_property
    def standings(self) -> Mapping[str, Standing]:
        """By name; schedules that were given up have none."""
        rows = self.rows.filter(pl.col("state").is_in(["adopted", "retired"]))
        last = rows.sort("sequence").group_by("schedule").last()
        taken_up = last.filter(state="adopted").select("schedule", "cron", since="sequence")
        counts = (
            pl.col("state").is_in(["adopted", "skipped"])
            | (pl.col("state") == "started") & pl.col("trigger").is_in(_OF_TIMES)
        )  # fmt: skip
        decided = (
            self.rows.filter(counts)
            .join(taken_up, on="schedule")
            .filter(pl.col("sequence") >= pl.col("since"))
            .group_by("schedule", "cron_right")
            .agg(pl.max_horizontal("planned_at", "planned_last").max().dt.epoch("us"))
        )
        return {name: Standing(cron, us) for name, cron, us in decided.iter_rows()}

    @cached_property
    def open(self) -> tuple[Run, ...]:
        """Runs that were started and have not ended, in the order of their starts."""
        return self._runs("started", "sequence", ENDED)

    @cached_property
    def requested(self) -> tuple[Run, ...]:
        """Runs that were asked for and have not begun, in the order in which they were."""
        return self._runs("requested", "at", ("started", *ENDED))

    def has(self, run_id: str) -> bool:
        return not self.rows.filter(run_id=run_id).is_empty()

    def _runs(self, state: str, order: str, beyond: tuple[str, ...]) -> tuple[Run, ...]:
        further = self.rows.filter(pl.col("state").is_in(beyond))
        found = (
            self.rows.filter(state=state)
            .join(further, on="run_id", how="anti")
            .sort(order, "run_id")
            .select(
                "run_id", "schedule", "workflow", "parameters", "trigger",
                pl.col("planned_at").dt.epoch("us"), "attempt",
                pl.col("place").fill_null(""), "epoch",
            )
        )  # fmt: skip
        return tuple(Run(*row) for row in found.iter_rows())
