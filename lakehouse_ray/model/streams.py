"""What captures of streams leave behind beside rows: gaps, seen when they arose, and their end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lakehouse_ray.model.table import Column, Encoding, Partition, Table
from lakehouse_ray.model.timespan import TimeRange
from lakehouse_ray.model.venue import Market

_DICT: Encoding = "dictionary"

# open        rows may still come: REST is asked
# filled      every row is there, whoever brought it
# absent      REST was asked for all of it and does not have (all of) it
# refused     the exchange refuses the series for now; it is asked again later
# no_history  REST has no past of such rows: what was not heard is lost
GapState = Literal["open", "filled", "absent", "refused", "no_history"]
GAP_STATES: tuple[GapState, ...] = get_args(GapState)

# Of what streams bring, the data sets that REST tells the past of; each with the column that numbers
# its rows, bars with none.
FILLED_BY_REST: dict[str, str | None] = {
    "klines": None, "aggTrades": "agg_trade_id", "trades": "id",
}  # fmt: skip

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

# What makes a gap one and not another.
GAP_KEY = (
    "market", "dataset", "symbol", "interval", "first_id", "last_id", "start_time", "end_time",
    "found_at",
)  # fmt: skip

STREAM_GAP_STATES = Table(
    name="silver.stream_gap_state_log",
    doc="What became of gaps of streams, a row when it changed; `silver.stream_gaps` shows the latest.",
    columns=(
        *(column for column in STREAM_GAPS.columns if column.name in GAP_KEY),
        Column("state", "string", ", ".join(s for s in GAP_STATES if s not in ("open", "no_history")), True, _DICT),
        Column("missing_left", "long", "Rows that are still missing", False, "delta"),
        Column("detail", "string", "Who brought the rows, or why they do not come, in words", False),
        Column("run_id", "string", "Run that saw it", True, _DICT),
        Column("told_at", "timestamp", "When", True, "delta"),
    ),
    key=(),
    time="start_time",
    partitions=(Partition("identity", "market"), Partition("identity", "dataset")),
    sort=("symbol", "interval", "start_time"),
)  # fmt: skip


@dataclass(frozen=True)
class StreamGap:
    """A gap and what became of it. Times are microseconds.

    first_id, last_id: Both missing; None: bars, and what has no numbers.
    missing: Rows, as far as that is known. told_us: When its state was seen; None: never.
    """

    market: Market
    dataset: str
    symbol: str
    interval: str | None
    first_id: int | None
    last_id: int | None
    start_us: int
    end_us: int
    missing: int | None
    found_us: int
    state: GapState = "open"
    missing_left: int | None = None
    detail: str | None = None
    told_us: int | None = None

    @property
    def span(self) -> TimeRange:
        """Where its rows lie; of numbered ones between the rows before and behind it."""
        start_us, end_us = sorted((self.start_us, self.end_us))
        return TimeRange(start_us, max(end_us, start_us + 1))
