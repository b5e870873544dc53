"""Cross-checks: two accounts of one thing, compared; and the shape of the view that shows where they
differ (`model.assessment`: its log).
"""

from __future__ import annotations

from typing import Literal, get_args

from lakehouse_ray.model.table import Column, Encoding, Partition, Table

# finer_coarser   left: finer bars summed; right: the published coarser bar
# trades_bars     left: aggTrades summed; right: the 1m bar
# daily_monthly   left: the daily file's row; right: the monthly one's
# archive_rest    left: the archive's row; right: that of the REST interface
Check = Literal["finer_coarser", "trades_bars", "daily_monthly", "archive_rest"]
Verdict = Literal["same", "within_tolerance", "differs", "missing_left", "missing_right"]

CHECKS: tuple[Check, ...] = get_args(Check)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

_DICT: Encoding = "dictionary"

CROSS_CHECKS = Table(
    name="gold.cross_checks",
    doc="Values that two sources of one thing give differently, with both of them.",
    columns=(
        Column("market", "string", "spot, um or cm", True, _DICT),
        Column("check", "string", ", ".join(CHECKS), True, _DICT),
        Column("symbol", "string", "The exchange's own spelling", True, _DICT),
        Column("interval", "string", "Of the bars compared; empty for none", True, _DICT),
        Column("time", "timestamp", "Of the row", True, "delta"),
        Column("column", "string", "Which value; `*`: the row as a whole", True, _DICT),
        Column("left", "double", "The first source's value; null: no row"),
        Column("right", "double", "The second's"),
        Column("difference", "double", "left - right"),
        Column("relative", "double", "|left - right| / max(|left|, |right|)"),
        Column("tolerance", "double", "Relative difference up to which it passes", True),
        Column("verdict", "string", ", ".join(VERDICTS), True, _DICT),
        Column("reason", "string", "Why, where the rows themselves tell; else empty", True, _DICT),
        Column(
            "id",
            "long",
            "The row's number, where they are numbered: several of one time",
            False,
            "delta",
        ),
    ),
    key=("market", "check", "symbol", "interval", "time", "column"),
    time="time",
    partitions=(Partition("identity", "market"), Partition("identity", "check")),
    sort=("symbol", "interval", "time", "column"),
)
