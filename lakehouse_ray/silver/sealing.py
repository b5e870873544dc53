"""Live rows held against the archive's rows that take their place: pure functions, and the logs.

A comparison is recorded before the archive's rows become visible, since afterwards the live ones are
gone. Whoever dies in between compares again, and records the same: all that names a record is in the
rows themselves, so views show each once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.live import LIVE_COMPARISON_LOG, LIVE_DIFFERENCE_LOG, LIVE_SOURCES
from lakehouse_ray.model.table import Column, Table
from lakehouse_ray.model.venue import FREQS
from lakehouse_ray.silver.resolve import SOURCE_NAMES
from lakehouse_ray.storage.committer import CommitRequest
from lakehouse_ray.storage.frames import frame_schema
from lakehouse_ray.storage.ledger import log_request
from lakehouse_ray.storage.objects import ObjectStore

FINAL = "_final"
_NUMBERS = ("double", "long", "int")
_GROUP = (
    "symbol", "day", "source", "source_version", "final_source", "final_key", "final_version",
)  # fmt: skip


@dataclass
class Sealed:
    """What the comparisons of one unit of work found: `model.live`, without what is the same in all
    of it."""

    differences: list[pl.DataFrame] = field(default_factory=list)
    comparisons: list[pl.DataFrame] = field(default_factory=list)
    rows: int = 0
    rows_different: int = 0

    def compare(
        self,
        dataset: Dataset,
        symbol: str,
        live: pl.DataFrame,
        final: pl.DataFrame,
        key: Sequence[str],
    ) -> None:
        """Compare rows of one symbol. Only live rows of `live` and the archive's of `final` count.

        key: Columns by which rows compete (`resolve.key_of`); one row per key in each.
        """
        live = live.filter(pl.col("source").is_in(LIVE_SOURCES))
        if live.is_empty():
            return
        names = [column.name for column in _compared(dataset, key)]
        theirs = final.filter(pl.col("source").is_in(FREQS)).select(
            *key, pl.col(*names, *SOURCE_NAMES).name.suffix(FINAL)
        )
        self.add(dataset, symbol, live.join(theirs, on=list(key), nulls_equal=True), key)

    def add(self, dataset: Dataset, symbol: str, pairs: pl.DataFrame, key: Sequence[str]) -> None:
        """The same of rows that stand beside each other already.

        pairs: The live row, and beside it the archive's values and sources with `FINAL` at the end
            of their names.
        """
        if pairs.is_empty():
            return
        pairs = pairs.with_columns(
            symbol=pl.lit(symbol),
            final_source=pl.col(f"source{FINAL}"),
            final_key=pl.col(f"source_key{FINAL}"),
            final_version=pl.col(f"source_version{FINAL}"),
            day=pl.col(dataset.time).dt.truncate("1d"),
        ).with_row_index("_pair")
        columns = _compared(dataset, key)
        found = [_differing(dataset, pairs, column, key) for column in columns]
        differences = pl.concat(found) if found else _none(pairs)
        worst = differences.group_by("_pair").agg(pl.col("relative").max())
        groups = (
            pairs.select("_pair", *_GROUP)
            .join(worst.with_columns(_differs=1), on="_pair", how="left")
            .group_by(_GROUP)
            .agg(
                rows=pl.len().cast(pl.Int64),
                rows_different=pl.col("_differs").sum().cast(pl.Int64),
                relative_max=pl.col("relative").max(),
            )
        )
        self.differences.append(differences.drop("_pair"))
        self.comparisons.append(groups)
        self.rows += pairs.height
        self.rows_different += worst.height

    def requests(
        self,
        store: ObjectStore,
        dataset: Dataset,
        market: str,
        interval: str | None,
        request_id: str,
        *,
        run_id: str,
        now_us: int,
    ) -> tuple[tuple[Table, CommitRequest], ...]:
        """Write the records, not visible yet; none where nothing was compared."""
        if not self.rows:
            return ()
        common = {
            "market": market,
            "dataset": dataset.name,
            "interval": interval or "",
            "run_id": run_id,
        }
        made = []
        for table, frames in (
            (LIVE_DIFFERENCE_LOG, self.differences),
            (LIVE_COMPARISON_LOG, self.comparisons),
        ):
            rows = pl.concat(frames)
            if rows.is_empty():
                continue
            schema = frame_schema(table)
            rows = _summed(rows) if table is LIVE_COMPARISON_LOG else rows
            rows = rows.with_columns(
                *(pl.lit(value).alias(name) for name, value in common.items()),
                compared_at=pl.lit(now_us).cast(pl.Datetime("us", "UTC")),
            ).select(pl.col(name).cast(kind) for name, kind in schema.items())
            # Each attempt has its own: merged again, a unit may have compared other rows.
            attempt = f"{request_id}-{uuid.uuid4().hex[:8]}"
            request = log_request(table, store, rows, (market, dataset.name), attempt)
            made.append((table, request))
        return tuple(made)


def _summed(groups: pl.DataFrame) -> pl.DataFrame:
    """One row per group: a large symbol is compared in pieces."""
    return groups.group_by(_GROUP).agg(
        pl.col("rows", "rows_different").sum(), pl.col("relative_max").max()
    )


def _compared(dataset: Dataset, key: Iterable[str]) -> list[Column]:
    return [column for column in dataset.columns if column.name not in key]


def _differing(
    dataset: Dataset, pairs: pl.DataFrame, column: Column, key: Sequence[str]
) -> pl.DataFrame:
    """The pairs whose values of a column differ."""
    live, final = pl.col(column.name), pl.col(f"{column.name}{FINAL}")
    rows = pairs.filter(live.ne_missing(final))
    difference = relative = pl.lit(None, pl.Float64)
    if column.type in _NUMBERS:
        a, b = live.cast(pl.Float64), final.cast(pl.Float64)
        difference = a - b
        relative = difference.abs() / pl.max_horizontal(a.abs(), b.abs())
    named = [n for n in dataset.key if n in key and n != dataset.time]
    parts = [pl.format(f"{name}={{}}", pl.col(name)) for name in named]
    return rows.select(
        "_pair",
        *(name for name in _GROUP if name != "day"),
        pl.col(dataset.time).alias("time"),
        (pl.concat_str(parts, separator=",") if parts else pl.lit("")).alias("id"),
        pl.lit(column.name).alias("column"),
        live.cast(pl.String).alias("live"),
        final.cast(pl.String).alias("final"),
        difference.alias("difference"),
        relative.alias("relative"),
    )


def _none(pairs: pl.DataFrame) -> pl.DataFrame:
    """No difference: of data sets whose rows are all key."""
    return pairs.head(0).select(
        "_pair",
        *(name for name in _GROUP if name != "day"),
        time=pl.col("day"),
        id=pl.lit(""),
        column=pl.lit(""),
        live=pl.lit(""),
        final=pl.lit(""),
        difference=pl.lit(None, pl.Float64),
        relative=pl.lit(None, pl.Float64),
    )
