"""The lake as its readers see it: rows, bars, SQL; each read over snapshots pinned when it is asked.

lake = connect()
lake.klines("BTCUSDT", "1m", "2024-01", "2024-02")     a Polars LazyFrame
lake.sql("select count(*) from silver.klines").pl()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl
from polars.io.plugins import register_io_source

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.registry import parse_names
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.timespan import TimeRange, from_us, parse_time
from lakehouse_ray.model.venue import parse_interval, parse_market
from lakehouse_ray.query.asked import Asked, ask_for
from lakehouse_ray.query.coverage import coverage
from lakehouse_ray.query.gaps import gaps
from lakehouse_ray.query.indicators import BarsWithIndicators, ResultWithIndicators, earlier
from lakehouse_ray.query.lake_instruments import LakeInstruments
from lakehouse_ray.query.moments import When
from lakehouse_ray.query.moments import micro as _micro
from lakehouse_ray.query.pins import AsOf, FindTable, Pin, pin_tables
from lakehouse_ray.query.resampled import BarsResampled, last_end, parse_policies, plan_of
from lakehouse_ray.query.scan import EVERYTHING, Where, empty_sql, quoted, scan_sql
from lakehouse_ray.query.statement import Engine, Result
from lakehouse_ray.query.views import VIEWS, View, mentioned
from lakehouse_ray.query.witnesses import Bytes

# Before and after everything that can be stored.
_EARLIEST, _LATEST = parse_time("1970"), parse_time("2200")


class Lake(LakeInstruments):
    """Reads of one lake. Safe for several threads; nothing it does changes the lake."""

    def __init__(self, find: FindTable, engine: Engine, bytes_: Bytes | None = None) -> None:
        """find: Returns a table as it is now, or None. bytes_: For `why` to read files again."""
        super().__init__(bytes_)
        self._find = find
        self._engine = engine
        self._schemas: dict[str, pl.Schema] = {}

    def klines(
        self,
        symbol: str,
        interval: str,
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        as_of: AsOf = None,
    ) -> pl.LazyFrame:
        """Bars of a symbol that open in `[start, end)`, in the order of time."""
        return self.rows(
            "klines", symbol, start, end, market=market, interval=interval, as_of=as_of
        )

    def indicators(
        self,
        symbol: str,
        interval: str,
        names: str | Iterable[str],
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        warmup: int = 0,
        as_of: AsOf = None,
    ) -> pl.LazyFrame:
        """Bars as of `klines`, with a column per output of each indicator (docs/indicators.md).

        names: Such as `["sma_20", "macd_12_26_9"]`, or one text with commas.
        warmup: How many bars before `start` the calculation begins with; they are not shown. Without
            it, it begins at `start`, and values are null until an indicator has seen enough bars.

        Raises InvalidError for an unknown indicator, parameters that cannot be, or a warmup without
        a start.
        """
        asked = self._indicators(symbol, interval, names, start, end, market, warmup, as_of)
        return register_io_source(asked.frames, schema=asked.schema)

    def select_indicators(
        self,
        symbol: str,
        interval: str,
        names: str | Iterable[str],
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        warmup: int = 0,
        as_of: AsOf = None,
    ) -> ResultWithIndicators:
        """The same as `indicators`, to be read in batches."""
        asked = self._indicators(symbol, interval, names, start, end, market, warmup, as_of)
        return asked.result()

    def _indicators(
        self,
        symbol: str,
        interval: str,
        names: str | Iterable[str],
        start: When,
        end: When,
        market: str,
        warmup: int,
        as_of: AsOf,
    ) -> BarsWithIndicators:
        requests = parse_names(names)
        identity(KLINES, symbol, market, interval)
        _span(start, end)
        shown_from = None if start is None else _micro(start)
        read_from: When = start
        if shown_from is not None:
            read_from = from_us(earlier(shown_from, interval, warmup))
        elif warmup:
            raise InvalidError("a warmup needs a start", "without one, all stored bars are read")
        asked = _Rows(self, KLINES.name, symbol, read_from, end, market, interval, as_of)
        return BarsWithIndicators(
            asked.run, requests, interval, shown_from, self._schema(asked.view)
        )

    def resample(
        self,
        symbol: str,
        interval: str,
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        source: str = "1m",
        offset: str | Iterable[str] = "0m",
        partial: str = "keep",
        empty: str = "none",
        as_of: AsOf = None,
    ) -> pl.LazyFrame:
        """Bars made from finer ones that are stored, by offset and time (docs/resampling.md).

        source: Interval of the finer bars. offset: Such as `"5m"`, or several: `["0m", "30m"]`.
        partial: `keep` (marked) or `drop` bars that lack finer ones. empty: `none`, `null` or
            `carry`, for bars without any finer one between two that have some.

        Raises InvalidError for bars that cannot be made so. Memory: the answer, and 500,000 bars.
        """
        plan = plan_of(source, interval, offset, *parse_policies(partial, empty))
        span = _span(start, end)
        until: When = None if end is None else from_us(last_end(_micro(end), plan.target))
        asked = _Rows(self, KLINES.name, symbol, start, until, market, plan.source, as_of)
        first = None if start is None or span is None else span.start_us
        bars = BarsResampled(asked.run, plan, first, None if end is None else _micro(end))
        return register_io_source(bars.frames, schema=bars.schema)

    def rows(
        self,
        dataset: str,
        symbol: str,
        start: When = None,
        end: When = None,
        *,
        market: str = "spot",
        interval: str | None = None,
        as_of: AsOf = None,
    ) -> pl.LazyFrame:
        """Rows of any data set whose time lies in `[start, end)`, in the order of time.

        Snapshots are pinned now, files are read on `collect`: only the columns and the first rows
        that are asked for then. No rows are an empty frame.

        Raises InvalidError for an unknown data set, market or interval.
        """
        asked = _Rows(self, dataset, symbol, start, end, market, interval, as_of)
        return register_io_source(asked.frames, schema=self._schema(asked.view))

    def select(
        self,
        dataset: str,
        symbol: str,
        start: When = None,
        end: When = None,
        *,
        market: str = "spot",
        interval: str | None = None,
        as_of: AsOf = None,
    ) -> Result:
        """The same as `rows`, to be read in batches."""
        return _Rows(self, dataset, symbol, start, end, market, interval, as_of).run(None, None)

    def sql(self, query: str, parameters: object = None, *, as_of: AsOf = None) -> Result:
        """Ask in SQL over `bronze`, `silver` and `gold`; it runs when the result is read.

        parameters: For `?` (a list) or `$name` (a dict) in the statement.
        as_of: What the tables were then: a snapshot's id or a time.

        Raises InvalidError for a statement that cannot be right.
        """
        return self.ask(query, mentioned(query), parameters=parameters, as_of=as_of)

    def gaps(
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
        """Return what is missing and why, one row per gap: `model.gaps.GAPS`.

        What is not given means everything stored; without a range, from the first to the last
        stored row of each symbol.

        Raises InvalidError for an unknown market, data set or interval, NotFoundError where nothing
        of it is stored.
        """
        return gaps(self, _asked(market, dataset, symbols, interval, start, end), as_of)

    def coverage(
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
        """Return how much of each symbol's day is there: `kernels.coverage.COVERAGE`.

        Asked for and answered like `gaps`.
        """
        return coverage(self, _asked(market, dataset, symbols, interval, start, end), as_of)

    def ask(
        self,
        query: str,
        views: Iterable[View],
        where: Where = EVERYTHING,
        *,
        parameters: object = None,
        as_of: AsOf = None,
    ) -> Result:
        """Run a statement over these views, opening only files that may hold wanted rows.

        where: Also to be said in the statement itself: files hold other rows too.
        """
        views = list(views)
        pins = self.pin(views, as_of)
        sources = {name: scan_sql(pin, where) for name, pin in pins.items()}
        return self._engine.run(query, views, sources, parameters, _snapshots(pins))

    def pin(self, views: Iterable[View], as_of: AsOf = None) -> dict[str, Pin]:
        """Find the snapshots of everything behind some views."""
        shapes = {table.name: table for view in views for table in view.tables}
        return pin_tables(self._find, shapes.values(), as_of)

    def _schema(self, view: View) -> pl.Schema:
        """Columns of a view; the same whatever is stored, so worked out once."""
        if view.name not in self._schemas:
            sources = {table.name: empty_sql(table) for table in view.tables}
            with self._engine.run(f"FROM {view.name}", [view], sources) as result:
                self._schemas[view.name] = result.pl().schema
        return self._schemas[view.name]

    @property
    def engine(self) -> Engine:
        return self._engine


class _Rows:
    """One question for the rows of a symbol, its snapshots pinned and its files chosen."""

    def __init__(
        self,
        lake: Lake,
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
        self._where = Where(identity(found, symbol, market, interval), _span(start, end))
        pins = lake.pin([self.view], as_of)
        self._snapshots = _snapshots(pins)
        self._sources = {name: scan_sql(pin, self._where) for name, pin in pins.items()}
        self._engine = lake.engine

    def run(self, columns: list[str] | None, rows_max: int | None) -> Result:
        chosen = "*" if columns is None else ", ".join(quoted(name) for name in columns) or "1 AS _"
        order = ", ".join(quoted(name) for name in self._table.sort if name != "symbol")
        query = (
            f"SELECT {chosen} FROM {self.view.name} WHERE {self._where.sql(self._table)} "
            f"ORDER BY {order}"
        )
        if rows_max is not None:
            query += f" LIMIT {rows_max}"
        return self._engine.run(query, [self.view], self._sources, None, self._snapshots)

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
        with self.run(columns, rows_max) as result:
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


def _asked(
    market: str | None,
    dataset: str | None,
    symbols: str | Iterable[str] | None,
    interval: str | None,
    start: When,
    end: When,
) -> Asked:
    first = None if start is None else _micro(start)
    return ask_for(market, dataset, interval, symbols, first, None if end is None else _micro(end))


def _span(start: When, end: When) -> TimeRange | None:
    if start is None and end is None:
        return None
    first = _EARLIEST if start is None else _micro(start)
    return TimeRange(first, _LATEST if end is None else _micro(end))


def _snapshots(pins: dict[str, Pin]) -> dict[str, int | None]:
    return {name: pin.snapshot_id for name, pin in pins.items()}
