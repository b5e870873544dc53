"""Settings of what runs by itself: schedules, and how the runner keeps to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lakehouse_ray.settings.section import Section


class ScheduleSettings(Section):
    """One `[[schedules]]`: a workflow, and when it runs."""

    name: str = Field(description="Letters, digits, `_` and `-`; up to 40.")
    cron: str = Field(
        description="Five fields as Debian's cron reads them, or six with seconds first; UTC."
    )
    workflow: str = Field(description="A workflow's name, such as ingest.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Of the workflow, as `POST /v1/jobs` takes them."
    )
    catch_up: Literal["none", "last", "all"] = Field(
        "last", description="Which of the planned times that were missed are run late."
    )
    overlap: bool = Field(
        False, description="Whether a run may begin while one of the same schedule goes on."
    )
    timeout_s: float = Field(
        86_400.0, gt=0, description="A run that takes longer is ended and has failed."
    )
    interrupted: Literal["report", "again"] = Field(
        "report", description="What follows where a run was lost with its runner or was stopped."
    )
    enabled: bool = True


class SchedulerSettings(Section):
    """How `lakehouse schedule run` keeps to `[[schedules]]`."""

    lease_s: float = Field(
        10.0,
        ge=1,
        le=600,
        description="A runner that says nothing for so long is taken to be dead, and another takes "
        "over.",
    )
    poll_s: float = Field(
        1.0, gt=0, le=60, description="Time between two looks at clock, runs and requests."
    )
    late_s_max: float = Field(
        60.0, ge=0, description="A planned time that is later than this has been missed."
    )
    catch_up_max: int = Field(
        100, ge=1, le=1000, description="Missed times that `catch_up = all` runs, the latest."
    )
    runs_max: int = Field(4, ge=1, le=100, description="Runs at once, of all schedules.")
    attempts_max: int = Field(
        3, ge=1, le=100, description="Times a planned time is run where it keeps being interrupted."
    )
    stop_s: float = Field(
        20.0, gt=0, le=600, description="Time a run has to end after it is told to."
    )
    logs_max: int = Field(
        200, ge=1, description="Logs of local runs kept in `$LAKEHOUSE_HOME/schedule-logs`."
    )
    daily_stalled_h: float = Field(
        48.0,
        ge=0,
        description="Alert where a scheduled data set's daily files have brought nothing new for "
        "longer. 0: never.",
    )
    monthly_stalled_h: float = Field(
        960.0, ge=0, description="The same of data sets with monthly files alone. 0: never."
    )
