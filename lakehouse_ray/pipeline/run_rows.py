"""Rows of the log of runs, and the names of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from lakehouse_ray.clock import Clock
from lakehouse_ray.kernels.planning import Skipped
from lakehouse_ray.kernels.run_history import Run
from lakehouse_ray.model.schedules import Schedule, State
from lakehouse_ray.model.timespan import from_us
from lakehouse_ray.storage.event_log import Seen

Row = dict[str, Any]


class RunLog(Protocol):
    """`storage.event_log.EventLog` of `bronze.run_log`."""

    def read(self) -> Seen: ...

    def add(self, rows: Sequence[Mapping[str, object]], seen: Seen | None) -> bool: ...


class RunRows:
    """Makes the rows of one runner. Their place in the log comes when they are added."""

    def __init__(self, clock: Clock, runner: str) -> None:
        self._clock = clock
        self._runner = runner

    def of_schedule(self, schedule: str, state: State, **facts: Any) -> Row:
        return {
            "schedule": schedule, "state": state, "at": self._clock.now_us(),
            "runner": self._runner, **facts,
        }  # fmt: skip

    def of_run(self, run: Run, state: State, epoch: int, **facts: Any) -> Row:
        row = self.of_schedule(
            run.schedule, state, epoch=epoch, run_id=run.run_id, workflow=run.workflow,
            parameters=run.parameters, trigger=run.trigger, planned_at=run.planned_us,
            attempt=run.attempt, place=run.place or None,
        )  # fmt: skip
        return {**row, **facts}

    def passed_over(self, schedule: Schedule, skipped: Skipped, epoch: int) -> Row:
        return self.of_schedule(
            schedule.name, "skipped", epoch=epoch, workflow=schedule.workflow.workflow,
            run_id=f"{run_id_of(schedule.name, skipped.first_us)}-skipped",
            planned_at=skipped.first_us, planned_last=skipped.last_us, times=skipped.times,
            error=f"missed; catch_up is {schedule.catch_up}",
        )  # fmt: skip


def request_run(log_: RunLog, schedule: Schedule, clock: Clock, runner: str, letters: str) -> str:
    """Ask for a run of a schedule now, whoever keeps to it. Returns the run's id.

    letters: Random ones, which tell requests of one second apart.
    """
    now_us = clock.now_us()
    run_id = f"{run_id_of(schedule.name, now_us)}-manual-{letters}"
    row: Row = {
        "schedule": schedule.name, "state": "requested", "at": now_us, "run_id": run_id,
        "workflow": schedule.workflow.workflow,
        "parameters": orjson.dumps(schedule.parameters()).decode(),
        "trigger": "manual", "planned_at": now_us, "attempt": 1, "runner": runner, "epoch": 0,
        "sequence": 0,
    }  # fmt: skip
    log_.add([row], None)
    return run_id


def run_id_of(schedule: str, planned_us: int) -> str:
    return f"{schedule}-{from_us(planned_us):%Y%m%dT%H%M%S}"


def attempt_id_of(run_id: str, attempt: int) -> str:
    base = run_id.removesuffix(f"-attempt{attempt - 1}")
    return f"{base}-attempt{attempt}"
