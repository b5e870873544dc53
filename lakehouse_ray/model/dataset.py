"""What a data set is: its columns, its key, its rhythm, where the archive keeps it.

Each data set is one declaration in `lakehouse_ray.model.datasets`. What the exchange calls its
columns and how it spells their values is the business of `sources`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lakehouse_ray.model.table import Column, Partition, Table
from lakehouse_ray.model.timespan import SECOND_US
from lakehouse_ray.model.venue import MARKETS, Freq, Market

MARKET = Column(
    "market", "string", "spot, um (USD-M futures) or cm (COIN-M futures)", True, "dictionary"
)
SYMBOL = Column("symbol", "string", "The exchange's own spelling", True, "dictionary")
INTERVAL = Column("interval", "string", "Length of the bar: 1s … 1mo", True, "dictionary")

# Every row of silver says where it came from.
SOURCE_COLUMNS = (
    Column("source", "string", "daily, monthly, rest or stream: the kind of source that won", True, "dictionary"),
    Column("source_key", "string", "The object's key in the archive", True, "dictionary"),
    Column(
        "source_version", "string",
        "When that object was published and the start of its sha256: `bronze.objects.version`",
        True, "dictionary",
    ),
)  # fmt: skip

# What a row breaks of the rules in `model.checks`. No value of the exchange: rows that differ in it
# alone are the same row, and rules may change.
FLAGS = Column(
    "flags", "string",
    "Rules that the row breaks by itself (docs/checks.md), joined by commas; null: none",
    False, "dictionary",
)  # fmt: skip

# Which source wins where several give one row: the smaller number.
PRECEDENCE: Mapping[str, int] = {"daily": 0, "monthly": 1, "rest": 2, "stream": 3}

# Partition layouts of the physical tables (measured: month x 16 buckets of symbols plans a point
# query in 4 ms at 400 symbols x 24 months, symbol x month in 51 ms).
FINE = (Partition("month", ""), Partition("bucket16", "symbol"))
COARSE = (Partition("year", ""),)
# Of rows that come live: whole files of it are dropped when their rows have moved on.
HOT = (Partition("day", ""),)


@dataclass(frozen=True)
class Cost:
    """What a compressed byte of the archive takes of a worker, from its download to its files.

    cpu_s_per_mib: CPU seconds of a mebibyte. memory_per_byte: Bytes of memory while it is worked on.

    The usual one is of monthly 1m klines on a quiet core; others are its multiples, as measured on daily
    files by tests/benchmarks/bench_costs.py, rounded up.
    """

    cpu_s_per_mib: float
    memory_per_byte: float


# Of 1m klines: 5 bytes of CSV, as many as columns, and buffers of Parquet.
USUAL_COST = Cost(0.033, 12)


@dataclass(frozen=True)
class Dataset:
    """One kind of market data.

    name: As the archive spells it (`aggTrades`).
    view: The name asked in SQL, below `silver.` (`agg_trades`).
    columns: Between the identifying columns (market, symbol, interval) and those of the source.
    key: What identifies a row within market, symbol and interval; where the time is not part of it
        (ids), within a UTC day: the exchange has given one id to trades on both sides of midnight.
    time: Column of the event's time; partitions, ranges and order go by it.
    archive: For each market, the frequencies of files that the archive has.
    slack_us: How far past the end of its file's period a row's time may lie. The bound is
        inclusive: a slack of 0 means the period itself, half-open.
    rows_a_day: Rough rows per symbol and day, for estimates in plans; bars count themselves.
    streamed: Whether rows come live, and wait in a table of their own (`hot_table`).
    bytes_a_row: Rough CSV bytes of a row, likewise.
    cost: What ingesting it takes of a worker.
    """

    name: str
    view: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time: str
    archive: Mapping[Market, tuple[Freq, ...]]
    bars: bool = False
    slack_us: int = 0
    fine: bool = True
    bytes_a_row: int = 100
    coarse_intervals: tuple[str, ...] = field(default=())
    streamed: bool = False
    cost: Cost = USUAL_COST

    def table(self, interval: str | None = None) -> Table:
        """The physical table that holds this data set (for bars: at this interval)."""
        if not self.bars:
            return self._table(self.view, FINE if self.fine else COARSE)
        if interval in self.coarse_intervals:
            return self._table(f"{self.view}_coarse", (Partition("identity", "interval"), *COARSE))
        return self._table(f"{self.view}_fine", (Partition("identity", "interval"), *FINE))

    @property
    def markets(self) -> tuple[Market, ...]:
        """Markets that may have rows of it. Of streams alone: any."""
        return tuple(self.archive) or MARKETS

    @property
    def key_within_day(self) -> bool:
        """Whether rows of one key compete only with those of the same UTC day."""
        return self.time not in self.key

    @property
    def edge_us(self) -> int:
        """How far apart the times of one row may lie in two sources.

        What goes by ids has one id everywhere; its time is in µs here and in ms there.
        """
        return SECOND_US if self.key_within_day else 0

    @property
    def tables(self) -> tuple[Table, ...]:
        """The main tables. They and the hot table are what the SQL view `silver.<view>` reads."""
        if not self.bars:
            return (self.table(),)
        return self.table("1m"), self.table(self.coarse_intervals[0])

    @property
    def hot_table(self) -> Table | None:
        """Where live rows wait to be merged into the main tables; None: none come live.

        It may have several rows of a key, and rows of keys that the main tables have.
        """
        if not self.streamed:
            return None
        main = self.tables[0]
        interval = (INTERVAL.name,) if self.bars else ()
        return replace(
            main,
            name=f"silver.{self.view}_hot",
            key=(),
            partitions=(
                Partition("identity", "market"),
                *(Partition(p.transform, self.time) for p in HOT),
            ),
            sort=("symbol", *interval, *main.sort[1:]),
            doc=f"Live rows of `silver.{self.view}` that its main tables do not have yet.",
            live=True,
        )

    @property
    def stored_tables(self) -> tuple[Table, ...]:
        """All physical tables, the hot one first."""
        hot = self.hot_table
        return self.tables if hot is None else (hot, *self.tables)

    def _table(self, name: str, layout: tuple[Partition, ...]) -> Table:
        identity = (MARKET, SYMBOL, INTERVAL) if self.bars else (MARKET, SYMBOL)
        names = tuple(column.name for column in identity)
        partitions = tuple(Partition(p.transform, p.column or self.time) for p in layout)
        order = (self.time, *self.key) if self.key_within_day else self.key
        return Table(
            name=f"silver.{name}",
            columns=(*identity, *self.columns, *SOURCE_COLUMNS, FLAGS),
            key=(*names, *order),
            time=self.time,
            partitions=(Partition("identity", "market"), *partitions),
            sort=("symbol", *order),
            doc=self.doc,
        )
