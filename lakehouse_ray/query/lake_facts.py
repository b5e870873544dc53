"""The lake's questions about what is stored: data sets, versions of tables, scores of days."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import polars as pl
from pyiceberg.table import Table as IcebergTable

from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.model.timespan import from_us
from lakehouse_ray.query.asked import Asked, ask_for
from lakehouse_ray.query.contents import contents
from lakehouse_ray.query.contents_document import contents_document
from lakehouse_ray.query.moments import When, micro
from lakehouse_ray.query.pins import AsOf, FindTable
from lakehouse_ray.query.scan import quoted, text, timestamp
from lakehouse_ray.query.views import TABLES, VIEWS

# Of a table, so many of the latest snapshots are listed.
SNAPSHOTS_MAX = 1000

SNAPSHOTS = pl.Schema(
    {
        "table": pl.String(),
        # As text: a JSON reader may keep 53 bits of a number.
        "snapshot_id": pl.String(),
        "committed_at": pl.Datetime("us", "UTC"),
        "operation": pl.String(),
        "rows": pl.Int64(),
        "current": pl.Boolean(),
    }
)


class LakeFacts:
    """What `Lake` knows of its tables."""

    _find: FindTable

    def datasets(self) -> dict[str, Any]:
        """Return the data sets with what is stored of each, and the tables, as one document."""
        lake: Any = self
        return contents_document(contents(lake))

    def snapshots(self, table: str | None = None) -> pl.DataFrame:
        """Return the versions of each table that are kept, or of one: `SNAPSHOTS`.

        Raises NotFoundError where there is no table of that name.
        """
        names = table_names(table)
        return snapshots_of_tables({name: self._find(name) for name in names})

    def quality(
        self,
        market: str | None = None,
        dataset: str | None = None,
        symbols: str | Iterable[str] | None = None,
        interval: str | None = None,
        start: When = None,
        end: When = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """Return the score of each symbol's days, as the latest assessment of each series gave it:
        `gold.quality`. Empty where none was assessed.

        Raises InvalidError for an unknown market, data set or interval.
        """
        first = None if start is None else micro(start)
        until = None if end is None else micro(end)
        asked = ask_for(market, dataset, interval, symbols, first, until)
        lake: Any = self
        with lake.ask(quality_sql(asked), [VIEWS["gold.quality"]], as_of=as_of) as result:
            found: pl.DataFrame = result.pl()
        return found


def table_names(table: str | None) -> list[str]:
    """One table, or all. Raises NotFoundError where there is none of that name."""
    if table is None:
        return list(TABLES)
    if table not in TABLES:
        near = difflib.get_close_matches(table, TABLES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(TABLES)}"
        raise NotFoundError(f"there is no table {table[:100]!r}", hint)
    return [table]


def snapshots_of_tables(tables: dict[str, IcebergTable | None]) -> pl.DataFrame:
    """`SNAPSHOTS` of these tables as they are."""
    rows: list[dict[str, Any]] = []
    for name, table in tables.items():
        if table is None:
            continue
        current = table.metadata.current_snapshot_id
        for snapshot in sorted(table.snapshots(), key=lambda s: s.timestamp_ms)[-SNAPSHOTS_MAX:]:
            summary = snapshot.summary
            rows.append(
                {
                    "table": name,
                    "snapshot_id": str(snapshot.snapshot_id),
                    "committed_at": from_us(snapshot.timestamp_ms * 1000),
                    "operation": summary.operation.value if summary else None,
                    "rows": int((summary["total-records"] if summary else None) or 0),
                    "current": snapshot.snapshot_id == current,
                }
            )
    return pl.DataFrame(rows, schema=SNAPSHOTS)


def quality_sql(asked: Asked) -> str:
    """The statement for scores of days, by series and day."""
    parts = ["true"]
    name = asked.dataset.name if asked.dataset is not None else None
    for column, value in (
        ("market", asked.market),
        ("dataset", name),
        ("interval", asked.interval),
    ):
        if value is not None:
            parts.append(f"{quoted(column)} = {text(value)}")
    if asked.symbols:
        parts.append(f"symbol IN ({', '.join(map(text, asked.symbols))})")
    if asked.start_us is not None:
        parts.append(f"day >= {timestamp(asked.start_us)}")
    if asked.end_us is not None:
        parts.append(f"day < {timestamp(asked.end_us)}")
    return (
        f"SELECT * FROM gold.quality WHERE {' AND '.join(parts)} "
        "ORDER BY market, dataset, symbol, interval, day"
    )
