"""Gaps: their causes, and the shape of the view that shows them (`model.assessment`: its log)."""

from __future__ import annotations

from typing import Literal, get_args

from lakehouse_ray.model.table import Column, Encoding, Partition, Table

# outage        trading on the whole market stood still; there is nothing to fetch
# archive_hole  the rows exist (another interval or data set shows it), the exchange's file lacks them
# no_trades     nothing was traded, and no row was made of it
# not_listed    before the first row ever seen of the symbol
# delisted      after the last one
# halted        this symbol alone stood still, or its ticker was given to another asset
# own_loss      the object for that time is known and its rows are not here: fetch it again
# unknown       what is stored does not tell
Cause = Literal[
    "outage", "archive_hole", "no_trades", "not_listed", "delisted", "halted", "own_loss", "unknown"
]
CAUSES: tuple[Cause, ...] = get_args(Cause)

_DICT: Encoding = "dictionary"

GAPS = Table(
    name="silver.gaps",
    doc="Rows that are missing between the first and the last one stored, and why.",
    columns=(
        Column("market", "string", "spot, um or cm", True, _DICT),
        Column("dataset", "string", "As the archive spells it", True, _DICT),
        Column("symbol", "string", "The exchange's own spelling", True, _DICT),
        Column("interval", "string", "Of bars; empty for other data sets", True, _DICT),
        Column("start_time", "timestamp", "Where the first missing row belongs", True, "delta"),
        Column("end_time", "timestamp", "End of the last missing one, exclusive", True, "delta"),
        Column("missing", "long", "Rows (aggTrades, trades: ids) that are missing", True, "delta"),
        Column("cause", "string", ", ".join(CAUSES), True, _DICT),
        Column("evidence", "string", "What is known about it, in words", True),
    ),
    key=("market", "dataset", "symbol", "interval", "start_time"),
    time="start_time",
    partitions=(Partition("identity", "market"), Partition("identity", "dataset")),
    sort=("symbol", "interval", "start_time"),
)
