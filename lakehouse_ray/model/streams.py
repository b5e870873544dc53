"""What captures of streams leave behind beside rows: the gaps that were seen when they arose."""

from __future__ import annotations

from lakehouse_ray.model.table import Column, Encoding, Partition, Table

_DICT: Encoding = "dictionary"

STREAM_GAPS = Table(
    name="silver.stream_gap_log",
    doc="Messages of streams that did not come, one row per gap, written when it was clear. What REST "
    "has of them is filled by `lakehouse update`.",
    columns=(
        Column("market", "string", "spot, um or cm", True, _DICT),
        Column("dataset", "string", "As the archive spells it; depth: changes of books", True, _DICT),
        Column("symbol", "string", "The exchange's own spelling", True, _DICT),
        Column("interval", "string", "Of bars; empty for other data sets", True, _DICT),
        Column("first_id", "long", "First number that is missing; null: bars, and what has none", False, "delta"),
        Column("last_id", "long", "Last one", False, "delta"),
        Column("start_time", "timestamp", "Of bars, open_time of the first that is missing; else the time of the row before", True, "delta"),
        Column("end_time", "timestamp", "Of bars, open_time of the row behind the gap; else its time", True, "delta"),
        Column("missing", "long", "Rows, or numbers of a book's changes; null: not known", False, "delta"),
        Column("why", "string", "What was seen of the connection meanwhile, in words", True),
        Column("run_id", "string", "Capture that saw it", True, _DICT),
        Column("found_at", "timestamp", "When it was clear that they would not come", True, "delta"),
    ),
    key=(),
    time="start_time",
    partitions=(Partition("identity", "market"), Partition("identity", "dataset")),
    sort=("symbol", "interval", "start_time"),
)  # fmt: skip
