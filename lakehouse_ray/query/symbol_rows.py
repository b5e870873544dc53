"""The rows of one symbol, asked for by their time: what identifies them, and reading them."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.model.venue import parse_interval, parse_market
from lakehouse_ray.query.live import plan_live, sources_of
from lakehouse_ray.query.moments import When, micro
from lakehouse_ray.query.pinned import Readable
from lakehouse_ray.query.pins import AsOf, Pin
from lakehouse_ray.query.scan import Where, quoted
from lakehouse_ray.query.statement import Result
from lakehouse_ray.query.straight import straight
from lakehouse_ray.query.views import VIEWS

# Before and after everything that can be stored.
_EARLIEST, _LATEST = parse_time("1970"), parse_time("2200")


class SymbolRows:
    """One question for the rows of a symbol, its snapshots pinned and its files chosen."""

    def __init__(
        self,
        lake: Readable,
        dataset: str,
        symbol: str,
        start: When,
        end: When,
        market: str,
        interval: str | None,
        as_of: AsOf,
    ) -> None:
        found = find_dataset(dataset)
        self.view = VIEWS[f"silver.{found.view}"]
        self._table = found.tables[0]
        equal = identity(found, symbol, market, interval)
        # As questions about gaps name it.
        self.series = {
            "market": equal["market"],
            "dataset": found.name,
            "symbols": symbol,
            "interval": equal.get("interval"),
        }
        self._where = Where(equal, span_of(start, end))
        self._engine = lake.engine
        self._pins = lake.pin([self.view], as_of)
        self.snapshots = snapshots_of(self._pins)
        planned = plan_live(self._pins, self._where, self._engine.plan)
        self._planned = [(pin, planned[name]) for name, pin in self._pins.items()]

    def run(
        self, columns: list[str] | None, rows_max: int | None, *, text_views: bool = False
    ) -> Result:
        """text_views: Whether texts may be given as Polars keeps them."""
        found = straight(
            self._engine, self.view, self._pins, self._planned, self._where, columns, rows_max,
            text_views=text_views,
        )  # fmt: skip
        return found if found is not None else self.ask(columns, rows_max)

    def ask(self, columns: list[str] | None, rows_max: int | None) -> Result:
        """The same by a statement: whatever the files are like."""
        chosen = "*" if columns is None else ", ".join(quoted(name) for name in columns) or "1 AS _"
        order = ", ".join(quoted(name) for name in self._table.sort if name != "symbol")
        query = (
            f"SELECT {chosen} FROM {self.view.name} WHERE {self._where.sql(self._table)} "
            f"ORDER BY {order}"
        )
        if rows_max is not None:
            query += f" LIMIT {rows_max}"
        self._engine.verify(file for _, files in self._planned for file in files)
        shapes = {name: pin.shape for name, pin in self._pins.items()}
        planned = {pin.shape.name: files for pin, files in self._planned}
        sources = sources_of(shapes, planned, self._where)
        return self._engine.run(query, [self.view], sources, None, self.snapshots)

    def frames(
        self,
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        """What Polars calls to read: it may ask for fewer columns and rows, and for a filter."""
        columns = with_columns
        if columns is not None and predicate is not None:
            columns = list(dict.fromkeys([*columns, *predicate.meta.root_names()]))
        # Rows are counted after the filter.
        rows_max = n_rows if predicate is None else None
        with self.run(columns, rows_max, text_views=True) as result:
            batches = result.fetch_batches(batch_size) if batch_size else result.fetch_batches()
            left = n_rows
            for batch in batches:
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                if predicate is not None:
                    frame = frame.filter(predicate)
                if with_columns is not None:
                    frame = frame.select(with_columns)
                if left is not None:
                    frame = frame.head(left)
                    left -= frame.height
                yield frame
                if left == 0:
                    return


def identity(dataset: Dataset, symbol: str, market: str, interval: str | None) -> dict[str, str]:
    """What identifies a series: its market, symbol and, for bars, interval."""
    if not symbol:
        raise InvalidError("no symbol is given", "such as BTCUSDT")
    equal: dict[str, str] = {"market": parse_market(market), "symbol": symbol}
    if dataset.bars:
        if not interval:
            raise InvalidError(f"{dataset.name} needs an interval", "such as 1m")
        equal["interval"] = parse_interval(interval)
    elif interval:
        raise InvalidError(f"{dataset.name} has no intervals", "leave the interval away")
    return equal


def span_of(start: When, end: When) -> TimeRange | None:
    if start is None and end is None:
        return None
    first = _EARLIEST if start is None else micro(start)
    return TimeRange(first, _LATEST if end is None else micro(end))


def snapshots_of(pins: dict[str, Pin]) -> dict[str, int | None]:
    return {name: pin.snapshot_id for name, pin in pins.items()}
