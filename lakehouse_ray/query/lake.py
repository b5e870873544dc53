"""The lake as its readers see it: rows, bars, SQL; each read over snapshots pinned when it is asked.

lake = connect()
lake.klines("BTCUSDT", "1m", "2024-01", "2024-02")     a Polars LazyFrame
lake.sql("select count(*) from silver.klines").pl()
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.indicators.registry import parse_names
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import from_us
from lakehouse_ray.query.answered import Answered
from lakehouse_ray.query.asked import Asked, ask_for
from lakehouse_ray.query.coverage import coverage
from lakehouse_ray.query.follow import LiveRows, wanted_of
from lakehouse_ray.query.gaps import gaps
from lakehouse_ray.query.indicators import BarsWithIndicators, ResultWithIndicators, earlier
from lakehouse_ray.query.lake_datasets import LakeDatasets
from lakehouse_ray.query.lake_facts import LakeFacts
from lakehouse_ray.query.lake_frame import Frames, LakeFrame, Meta
from lakehouse_ray.query.lake_instruments import LakeInstruments
from lakehouse_ray.query.live import plan_live, sources_of
from lakehouse_ray.query.moments import When, micro
from lakehouse_ray.query.pins import AsOf, FindTable, Pin, pin_tables
from lakehouse_ray.query.plain import PlainReading
from lakehouse_ray.query.resampled import BarsResampled, last_end, parse_policies, plan_of
from lakehouse_ray.query.scan import EVERYTHING, Where, empty_sql
from lakehouse_ray.query.statement import Engine, Result
from lakehouse_ray.query.symbol_rows import (
    SymbolRows,
    identity,
    snapshots_of,
    span_of,
)
from lakehouse_ray.query.versions import FixedTables
from lakehouse_ray.query.views import View, mentioned
from lakehouse_ray.query.witnesses import Bytes


class Lake(LakeInstruments, LakeFacts, LakeDatasets[LakeFrame]):
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
    ) -> LakeFrame:
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
    ) -> LakeFrame:
        """Bars as of `klines`, with a column per output of each indicator (docs/indicators.md).

        names: Such as `["sma_20", "macd_12_26_9"]`, or one text with commas.
        warmup: How many bars before `start` the calculation begins with; they are not shown. Without
            it, it begins at `start`, and values are null until an indicator has seen enough bars.

        Raises InvalidError for an unknown indicator, parameters that cannot be, or a warmup without
        a start.
        """
        rows, asked = self._indicators(symbol, interval, names, start, end, market, warmup, as_of)
        return self._frame(asked.frames, asked.schema, rows, start, end, as_of)

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
        _, asked = self._indicators(symbol, interval, names, start, end, market, warmup, as_of)
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
    ) -> tuple[SymbolRows, BarsWithIndicators]:
        requests = parse_names(names)
        identity(KLINES, symbol, market, interval)
        span_of(start, end)
        shown_from = None if start is None else micro(start)
        read_from: When = start
        if shown_from is not None:
            read_from = from_us(earlier(shown_from, interval, warmup))
        elif warmup:
            raise InvalidError("a warmup needs a start", "without one, all stored bars are read")
        asked = SymbolRows(self, KLINES.name, symbol, read_from, end, market, interval, as_of)
        return asked, BarsWithIndicators(
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
    ) -> LakeFrame:
        """Bars made from finer ones that are stored, by offset and time (docs/resampling.md).

        source: Interval of the finer bars. offset: Such as `"5m"`, or several: `["0m", "30m"]`.
        partial: `keep` (marked) or `drop` bars that lack finer ones. empty: `none`, `null` or
            `carry`, for bars without any finer one between two that have some.

        Raises InvalidError for bars that cannot be made so. Memory: the answer, and 500,000 bars.
        """
        plan = plan_of(source, interval, offset, *parse_policies(partial, empty))
        span = span_of(start, end)
        until: When = None if end is None else from_us(last_end(micro(end), plan.target))
        asked = SymbolRows(self, KLINES.name, symbol, start, until, market, plan.source, as_of)
        first = None if start is None or span is None else span.start_us
        bars = BarsResampled(asked.run, plan, first, None if end is None else micro(end))
        return self._frame(bars.frames, bars.schema, asked, start, end, as_of)

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
    ) -> LakeFrame:
        """Rows of any data set whose time lies in `[start, end)`, in the order of time.

        Snapshots are pinned now, files are read on `collect`: only the columns and the first rows
        that are asked for then. No rows are an empty frame.

        Raises InvalidError for an unknown data set, market or interval.
        """
        asked = SymbolRows(self, dataset, symbol, start, end, market, interval, as_of)
        return self._frame(asked.frames, self._schema(asked.view), asked, start, end, as_of)

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
        return SymbolRows(self, dataset, symbol, start, end, market, interval, as_of).run(
            None, None
        )

    def live(
        self,
        dataset: str = "klines",
        symbols: str | Iterable[str] | None = None,
        interval: str | None = None,
        market: str = "spot",
        *,
        resume: str | None = None,
        timeout_s: float | None = None,
    ) -> LiveRows:
        """Rows as they are committed from now on, each key once (docs/sdk.md).

        symbols: None: all, also those to come. A symbol without rows yet is waited for.
        resume: What an event said: goes on with the next one. Or an answer's `meta.as_of`: begins
            with what was committed after that answer.
        timeout_s: Ends it after so long.

        Raises InvalidError for an unknown data set, market or interval, and for a resume of other
        rows; ExpiredError, a NotFoundError, for versions that are not kept any more.
        """
        wanted = wanted_of(dataset, symbols, interval, market)
        return LiveRows(self._find, self._engine, wanted, resume=resume, timeout_s=timeout_s)

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
        stored row of each symbol. Series with a file that cannot be read are left out, and an
        `UnreadWarning` names them; `find_gaps` returns them as a table.

        Raises InvalidError for an unknown market, data set or interval, NotFoundError where nothing
        of it is stored.
        """
        return gaps(self, _asked(market, dataset, symbols, interval, start, end), as_of).warned()

    def find_gaps(
        self,
        market: str | None = None,
        dataset: str | None = None,
        symbols: str | Iterable[str] | None = None,
        interval: str | None = None,
        start: When = None,
        end: When = None,
        *,
        as_of: AsOf = None,
    ) -> Answered:
        """The same as `gaps`, with what could not be read: `.rows` and `.unread`."""
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
        return coverage(
            self, _asked(market, dataset, symbols, interval, start, end), as_of
        ).warned()

    def measure_coverage(
        self,
        market: str | None = None,
        dataset: str | None = None,
        symbols: str | Iterable[str] | None = None,
        interval: str | None = None,
        start: When = None,
        end: When = None,
        *,
        as_of: AsOf = None,
    ) -> Answered:
        """The same as `coverage`, with what could not be read: `.rows` and `.unread`."""
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
        planned = plan_live(pins, where, self._engine.plan)
        self._engine.verify(file for files in planned.values() for file in files)
        sources = sources_of({n: pin.shape for n, pin in pins.items()}, planned, where)
        plain = None
        if self._engine.kept is not None:
            files = [(pins[name], some) for name, some in planned.items()]
            plain = PlainReading(self._engine.kept, query, parameters, views, files)
        return self._engine.run(query, views, sources, parameters, snapshots_of(pins), plain)

    def pin(self, views: Iterable[View], as_of: AsOf = None) -> dict[str, Pin]:
        """Find the snapshots of everything behind some views."""
        shapes = {table.name: table for view in views for table in view.tables}
        if isinstance(as_of, str) and "@" in as_of:  # exact versions, as answers tell them
            fixed = FixedTables(self._find, shapes.values(), as_of)
            return pin_tables(fixed.find, shapes.values())
        return pin_tables(self._find, shapes.values(), as_of)

    def _frame(
        self,
        frames: Frames,
        schema: pl.Schema,
        rows: SymbolRows,
        start: When,
        end: When,
        as_of: AsOf,
    ) -> LakeFrame:
        asked = {**rows.series, "start": start, "end": end}
        return LakeFrame.over(frames, schema, Meta(self, asked, rows.snapshots, as_of))

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


def _asked(
    market: str | None,
    dataset: str | None,
    symbols: str | Iterable[str] | None,
    interval: str | None,
    start: When,
    end: When,
) -> Asked:
    first = None if start is None else micro(start)
    return ask_for(market, dataset, interval, symbols, first, None if end is None else micro(end))
