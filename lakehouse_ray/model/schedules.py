"""What runs by itself: schedules, their planned times, and the log of what became of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cronsim import CronSim, CronSimError

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.table import Column, Encoding, Partition, Table
from lakehouse_ray.model.timespan import SECOND_US, from_us, to_us
from lakehouse_ray.model.workflows import (
    AnyWorkflow,
    parse_workflow,
)

CatchUp = Literal["none", "last", "all"]
Interrupted = Literal["report", "again"]
# How a run came to be: at its planned time, late, asked for by a person, once more after it was lost.
Trigger = Literal["cron", "catch_up", "manual", "again"]
# What a row of the log says. The first four are of runners and schedules, the others of runs.
State = Literal[
    "leader", "adopted", "retired", "skipped",
    "requested", "started", "succeeded", "failed", "timed_out", "interrupted",
]  # fmt: skip
ENDED: tuple[State, ...] = ("succeeded", "failed", "timed_out", "interrupted")
UNWELL: tuple[State, ...] = ("failed", "timed_out", "interrupted")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Cron:
    """When something is planned, in UTC: there is no daylight saving that could repeat an hour."""

    text: str

    def __post_init__(self) -> None:
        """Raises InvalidError for what is no expression, or never comes."""
        hint = 'five fields, such as "15 6 * * *" (06:15 each day, UTC); six: seconds first'
        try:
            next(CronSim(self.text, from_us(0)))
        except CronSimError as error:
            raise InvalidError(f"cron {self.text[:100]!r}: {error}", hint) from error
        except StopIteration as error:
            raise InvalidError(f"cron {self.text[:100]!r} never comes", hint) from error

    def after(self, moment_us: int) -> Iterator[int]:
        """Yield planned times after a moment, in order; some 16 µs each."""
        # The library drops fractions of a second, so this is "at the next whole one or later".
        begin = moment_us // SECOND_US * SECOND_US
        return (to_us(moment) for moment in CronSim(self.text, from_us(begin)))


@dataclass(frozen=True)
class Schedule:
    """A workflow and when it runs. What each field means is said in docs/schedules.md."""

    name: str
    cron: Cron
    workflow: AnyWorkflow
    catch_up: CatchUp = "last"
    overlap: bool = False
    timeout_s: float = 86_400.0
    interrupted: Interrupted = "report"

    def parameters(self) -> Mapping[str, Any]:
        return self.workflow.model_dump(
            mode="json", exclude={"workflow"}, exclude_defaults=True, exclude_none=True
        )


def make_schedule(
    name: str,
    cron: str,
    workflow: str,
    parameters: Mapping[str, Any],
    *,
    catch_up: CatchUp = "last",
    overlap: bool = False,
    timeout_s: float = 86_400.0,
    interrupted: Interrupted = "report",
) -> Schedule:
    """Raises InvalidError, with the schedule's name, for what cannot be."""
    if not _NAME.fullmatch(name):
        raise InvalidError(
            f"schedule {name[:60]!r}: no name", "letters, digits, _ and -; at most 40"
        )
    try:
        asked = parse_workflow({**parameters, "workflow": workflow})
        when = Cron(cron)
    except InvalidError as error:
        raise InvalidError(f"schedule {name}: {error}", error.hint) from error
    return Schedule(name, when, asked, catch_up, overlap, timeout_s, interrupted)


_DICT: Encoding = "dictionary"

RUN_LOG = Table(
    name="bronze.run_log",
    doc="What became of each planned time of each schedule, one row per event; with it, up to when "
    "each schedule is decided. `bronze.runs` has one row per run.",
    columns=(
        Column("schedule", "string", "Its name; *: of the runner itself", True, _DICT),
        Column("state", "string", "What this row says: " + ", ".join(get_args(State)), True, _DICT),
        Column("at", "timestamp", "When, by the clock of the runner", True, "delta"),
        Column("run_id", "string", "Of the run"),
        Column("workflow", "string", "What was run", False, _DICT),
        Column("parameters", "string", "With which values, as JSON", False, _DICT),
        Column("trigger", "string", "cron, catch_up, manual or again", False, _DICT),
        Column(
            "planned_at",
            "timestamp",
            "The planned time; of skipped ones the first; when it was asked for by a person. "
            "adopted: times after this one count",
            False,
            "delta",
        ),
        Column("planned_last", "timestamp", "Of skipped ones the last", False, "delta"),
        Column("times", "long", "Number of planned times that were skipped", False, "delta"),
        Column("attempt", "int", "1, and one more each time it was interrupted", False, "delta"),
        Column("place", "string", "local (a process of the runner's) or ray (a job)", False, _DICT),
        Column("duration_s", "double", "By the runner's steady clock; null: it was not watched"),
        Column("exit_code", "int", "Of the command; negative: the signal that ended it"),
        Column("error", "string", "What went wrong, in words; why it was skipped"),
        Column("cron", "string", "The expression that counts from here on (adopted)", False, _DICT),
        Column("runner", "string", "Who wrote this row: host, process, and a random part", True),
        Column("epoch", "long", "Number of the runner's lease; 0: of no runner", True, "delta"),
        Column(
            "sequence",
            "long",
            "Orders the rows of runners, whatever their clocks say; 0: of no runner",
            True,
            "delta",
        ),
    ),
    key=(),
    time="at",
    partitions=(Partition("month", "at"),),
    sort=("schedule", "at"),
)

LEASE = Table(
    name="bronze.schedule_lease",
    doc="Has no rows: which runner keeps the schedules stands in its properties, which change "
    "without leaving snapshots behind.",
    columns=(
        Column("runner", "string", "Unused", True),
        Column("at", "timestamp", "Unused", True),
    ),
    key=(),
    time="at",
    partitions=(),
    sort=("runner",),
)

SCHEDULE_ALERTS = Table(
    name="bronze.schedule_alerts",
    doc="Alerts of schedules that the webhook's receiver has taken: runs that went wrong, data sets of "
    "which nothing new is published.",
    columns=(
        Column("fingerprint", "string", "Names the alert by what it is", True),
        Column("rule", "string", "run or stalled", True, _DICT),
        Column("summary", "string", "What was told", True),
        Column("document_id", "string", "Of what was sent: its `webhook-id`", True, _DICT),
        Column("attempts", "int", "Times it was sent until it was taken", True, "delta"),
        Column("runner", "string", "Who sent it", True),
        Column("delivered_at", "timestamp", "When", True, "delta"),
    ),
    key=(),
    time="delivered_at",
    partitions=(Partition("month", "delivered_at"),),
    sort=("rule", "delivered_at"),
)
