"""Every row of some series read once, in order and in pieces: held against rules, and looked at.

Memory: a piece of `PIECE_ROWS` with the columns of its data set (some 60 MB of bars), and what
DuckDB sorts at once: at most `SORT_ROWS`, spilled to disk beyond its share of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from lakehouse_ray.kernels.anomaly import FINDINGS_SCHEMA, Carry, find_anomalies
from lakehouse_ray.kernels.check import flag_rows, flag_sequence, join_flags
from lakehouse_ray.kernels.day_counts import DAY_COUNTS_SCHEMA, day_counts, rules_together
from lakehouse_ray.model.checks.registry import free_names, rules_of, sequence_rules_of
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import DAY_US, TimeRange, to_us
from lakehouse_ray.query.pinned import PIECE_ROWS, Among, Kind, Pinned
from lakehouse_ray.query.scan import quoted

SORT_ROWS = 4 * PIECE_ROWS

COUNTED = pl.Schema({"symbol": pl.String(), **DAY_COUNTS_SCHEMA})
FOUND = pl.Schema({"symbol": pl.String(), **FINDINGS_SCHEMA})


@dataclass(frozen=True)
class Scanned:
    """What came of it: `COUNTED`, and `FOUND` (None: anomalies are not looked for)."""

    days: pl.DataFrame
    anomalies: pl.DataFrame | None


def scan_series(pinned: Pinned, kind: Kind, lives: pl.DataFrame) -> Scanned:
    """Count rows and flagged rows by day, and find anomalies of bars of trades.

    lives: `Pinned.lives` of the symbols to look at.
    """
    series: dict[str, _Series] = {}
    looks = kind.dataset is KLINES or kind.dataset.name == KLINES.name
    columns = ["symbol", *(column.name for column in kind.dataset.columns)]
    for piece in ordered_pieces(pinned, kind, lives, columns):
        for (symbol,), rows in piece.partition_by(
            "symbol", as_dict=True, maintain_order=True
        ).items():
            one = series.setdefault(str(symbol), _Series(kind, looks))
            one.take(rows)
    days, found = [COUNTED.to_frame()], [FOUND.to_frame()]
    for symbol, one in series.items():
        name = pl.lit(symbol).alias("symbol")
        days.append(one.counted().select(name, *DAY_COUNTS_SCHEMA.names()))
        found.append(one.found().select(name, *FINDINGS_SCHEMA.names()))
    return Scanned(pl.concat(days), pl.concat(found) if looks else None)


def ordered_pieces(
    pinned: Pinned, kind: Kind, lives: pl.DataFrame, columns: list[str]
) -> Iterator[pl.DataFrame]:
    """Rows of some symbols by symbol and time: all at once, or of one symbol by spans of days."""
    symbols = tuple(lives["symbol"].to_list())
    names = ", ".join(quoted(name) for name in columns)
    order = ", ".join(quoted(name) for name in kind.table.sort)
    for span in spans_of(lives, SORT_ROWS) if len(symbols) == 1 else [None]:
        where = Among(kind.equal, span, symbols)
        query = (
            f"SELECT {names} FROM {kind.view.name} WHERE {where.sql(kind.table)} ORDER BY {order}"
        )
        yield from pinned.pieces(query, kind.view, where)


def spans_of(lives: pl.DataFrame, rows_max: int) -> list[TimeRange]:
    """Cut the lives of some symbols into spans of whole days of about so many rows, or one day."""
    if lives.is_empty():
        return []
    first = to_us(lives["first_time"].min()) // DAY_US  # type: ignore[arg-type]
    last = to_us(lives["last_time"].max()) // DAY_US + 1  # type: ignore[arg-type]
    rows = max(1, int(lives["rows"].sum()))
    days = max(1, (last - first) * rows_max // rows)
    return [
        TimeRange(day * DAY_US, min(day + days, last) * DAY_US) for day in range(first, last, days)
    ]


@dataclass
class _Series:
    """One series, as far as it has been read."""

    kind: Kind
    looks: bool
    before: pl.DataFrame | None = None
    carry: Carry | None = None
    waiting: pl.DataFrame | None = None
    days: list[pl.DataFrame] = field(default_factory=list)
    findings: list[pl.DataFrame] = field(default_factory=list)

    def take(self, rows: pl.DataFrame) -> None:
        kind = self.kind
        dataset = kind.dataset.name
        flags = flag_rows(rules_of(dataset, kind.market, kind.interval), rows)
        sequence, self.before = flag_sequence(
            sequence_rules_of(dataset, kind.market), rows, self.before
        )
        self.days.append(
            day_counts(rows[kind.dataset.time], join_flags(flags, sequence), free_names())
        )
        if self.looks:
            self._look(rows, last=False)

    def counted(self) -> pl.DataFrame:
        """Pieces may cut a day in two."""
        return (
            pl.concat([DAY_COUNTS_SCHEMA.to_frame(), *self.days])
            .group_by("day")
            .agg(pl.sum("rows", "rows_flagged", "rows_noted"), rules_together())
            .sort("day")
        )

    def found(self) -> pl.DataFrame:
        if self.waiting is not None:
            self._look(self.waiting.clear(), last=True)
        return pl.concat([FINDINGS_SCHEMA.to_frame(), *self.findings])

    def _look(self, rows: pl.DataFrame, *, last: bool) -> None:
        assert self.kind.interval is not None
        found, self.carry = find_anomalies(rows, self.kind.interval, carry=self.carry, last=last)
        self.waiting = rows.clear()
        self.findings.append(found)
