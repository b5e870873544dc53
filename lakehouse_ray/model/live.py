"""How right live rows were: what the archive's rows that took their place say otherwise."""

from __future__ import annotations

from lakehouse_ray.model.table import Column, Encoding, Partition, Table

_DICT: Encoding = "dictionary"

# Sources of rows that the archive's later replace.
LIVE_SOURCES = ("rest", "stream")

_OF = (
    Column("market", "string", "spot, um or cm", True, _DICT),
    Column("dataset", "string", "As the archive spells it", True, _DICT),
    Column("symbol", "string", "The exchange's own spelling", True, _DICT),
    Column("interval", "string", "Of bars; empty for none", True, _DICT),
)
_SOURCES = (
    Column("source", "string", "Of the live row: rest or stream", True, _DICT),
    Column("source_version", "string", "Of the live row: the answer or frames", True, _DICT),
    Column("final_source", "string", "Of the archive's row: daily or monthly", True, _DICT),
    Column("final_key", "string", "The archive's object", True, _DICT),
    Column("final_version", "string", "Its version", True, _DICT),
)
_RUN = (
    Column("run_id", "string", "Run that compared them", True, _DICT),
    Column("compared_at", "timestamp", "When", True, "delta"),
)
_LAYOUT = (Partition("identity", "market"), Partition("identity", "dataset"))

LIVE_DIFFERENCE_LOG = Table(
    name="gold.live_difference_log",
    doc="Values of live rows that the archive gives otherwise, one row per value and comparison. "
    "`gold.live_differences` has each once.",
    columns=(
        *_OF,
        Column("time", "timestamp", "Of the live row", True, "delta"),
        Column(
            "id", "string", "What else identifies the row, such as agg_trade_id=7; or empty", True
        ),
        Column("column", "string", "Which value", True, _DICT),
        Column("live", "string", "The live row's value; null: none"),
        Column("final", "string", "The archive's"),
        Column("difference", "double", "live - final, of numbers"),
        Column("relative", "double", "|live - final| / max(|live|, |final|), of numbers"),
        *_SOURCES,
        *_RUN,
    ),
    key=(),
    time="time",
    partitions=_LAYOUT,
    sort=("symbol", "interval", "time", "column"),
)

LIVE_COMPARISON_LOG = Table(
    name="gold.live_comparison_log",
    doc="How many live rows were compared with the archive's, one row per symbol, day, answer or "
    "frames, object and comparison. `gold.live_comparisons` has each once.",
    columns=(
        *_OF,
        Column("day", "timestamp", "Start of the UTC day of the live rows", True, "delta"),
        *_SOURCES,
        Column("rows", "long", "Live rows that an archive's row took the place of", True, "delta"),
        Column("rows_different", "long", "Those of which some value differs", True, "delta"),
        Column("relative_max", "double", "Largest `relative` of their numbers; null: none differs"),
        *_RUN,
    ),
    key=(),
    time="day",
    partitions=_LAYOUT,
    sort=("symbol", "interval", "day"),
)

LIVE_LOGS = (LIVE_DIFFERENCE_LOG, LIVE_COMPARISON_LOG)
