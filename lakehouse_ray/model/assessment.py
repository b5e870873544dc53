"""What assessments of quality leave behind: logs of findings, and a row per series and run.

Findings are appended, each with its run; then the row that says what was looked at. The views
`silver.gaps`, `gold.cross_checks`, `gold.anomalies` and `gold.quality` show findings of the latest
such row of each series, so what is gone at the next assessment is gone there too, and what a run
left that ended before its row was never there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from lakehouse_ray.model.alerts import RULES
from lakehouse_ray.model.crosschecks import CROSS_CHECKS
from lakehouse_ray.model.gaps import GAPS
from lakehouse_ray.model.quality import ANOMALIES, QUALITY
from lakehouse_ray.model.table import Column, Encoding, Partition, Table

# Raised when assessments of the same rows would say something else.
VERSION = 3

# Whether an isolation forest looks at bars, where scikit-learn is there. auto: at bars of 15 minutes
# and longer.
ForestPolicy = Literal["auto", "on", "off"]

_DICT: Encoding = "dictionary"
# What a series is. `interval` is empty where there is none.
SERIES = ("market", "dataset", "symbol", "interval")
_OF = (
    Column("market", "string", "spot, um or cm", True, _DICT),
    Column("dataset", "string", "As the archive spells it", True, _DICT),
    Column("symbol", "string", "The exchange's own spelling", True, _DICT),
    Column("interval", "string", "Of bars; empty for other data sets", True, _DICT),
)
_RUN = Column("run_id", "string", "Run that found it", True, _DICT)
_LAYOUT = (Partition("identity", "market"), Partition("identity", "dataset"))


def _log(shape: Table, name: str, *more: Column, younger: tuple[str, ...] = ()) -> Table:
    """The log behind a view: its columns and what tells the series and the run.

    younger: Columns that came later stand last, since columns are told by their place.
    """
    has = set(shape.names)
    columns = (*shape.columns, *(column for column in more if column.name not in has))
    return replace(
        shape,
        name=name,
        doc=f"Behind `{shape.name}`: the same of every assessment ever made.",
        columns=tuple(sorted(columns, key=lambda column: column.name in younger)),
        key=(),
        partitions=_LAYOUT,
    )


GAPS_LOG = _log(GAPS, "silver.gaps_log", _RUN)
CROSS_CHECK_LOG = _log(CROSS_CHECKS, "gold.cross_check_log", _OF[1], _RUN, younger=("id",))
QUALITY_LOG = _log(QUALITY, "gold.quality_log")
ANOMALY_LOG = _log(ANOMALIES, "gold.anomaly_log")

ALERTS = Table(
    name="gold.alert_log",
    doc="Runs of days beyond a threshold for the same reasons, told when they begin and when they have "
    "doubled. `gold.alerts` has those of completed assessments. docs/alerts.md has the rules.",
    columns=(
        *_OF,
        Column("day", "timestamp", "Start of the first UTC day", True, "delta"),
        Column("score", "double", "As in `gold.quality`, of the worst day", True),
        Column("threshold", "double", "Of the rule; what is allowed", True),
        Column("codes", "string", "Names of the losses by commas, the largest first", False, _DICT),
        Column("reasons", "string", "The same as sentences, by semicolons"),
        _RUN,
        Column("raised_at", "timestamp", "When", True, "delta"),
        Column("rule", "string", ", ".join(RULES), False, _DICT),
        Column("value", "double", "What the worst day has, to be held against the threshold"),
        Column(
            "last_day", "timestamp", "Start of the last day, when it was raised", False, "delta"
        ),
        Column("days", "long", "From the first to the last", False, "delta"),
        Column("worst_day", "timestamp", "Whose score, codes, reasons and value these are"),
    ),
    key=(),
    time="day",
    partitions=_LAYOUT,
    sort=("symbol", "interval", "day"),
)

ASSESSMENT_LOG = Table(
    name="gold.assessment_log",
    doc="What each assessment of a series saw and found, one row per series and run. "
    "`gold.assessments` has the latest of each series.",
    columns=(
        *_OF,
        Column("version", "int", "Of the rules of assessment", True, "delta"),
        Column("fingerprint", "string", "Names the files that it saw", True, _DICT),
        Column("rows", "long", "Rows of the series", True, "delta"),
        Column("days", "long", "Days scored", True, "delta"),
        Column("score_mean", "double", "Of these days; null: none"),
        Column("score_min", "double", "Likewise"),
        Column("gaps", "long", "Rows in `silver.gaps`", True, "delta"),
        Column("differences", "long", "Rows in `gold.cross_checks`", True, "delta"),
        Column("anomalies", "long", "Rows in `gold.anomalies`", True, "delta"),
        Column("alerts", "long", "Rows in `gold.alerts`", True, "delta"),
        _RUN,
        Column("assessed_at", "timestamp", "When", True, "delta"),
        Column(
            "left_out", "string", "What was not looked for, and why; null: nothing", False, _DICT
        ),
        Column("number", "long", "One more than the latest assessment that it saw", False, "delta"),
    ),
    key=(),
    time="assessed_at",
    partitions=_LAYOUT,
    sort=("symbol", "interval"),
)

# In the order in which they are committed: the row that makes all others seen comes last.
LOGS = (GAPS_LOG, CROSS_CHECK_LOG, ANOMALY_LOG, QUALITY_LOG, ALERTS, ASSESSMENT_LOG)
