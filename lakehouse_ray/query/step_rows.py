"""What a step changed of the rows of one market (of bars, at one interval): those that are new, that are
others, or that are gone.

What a row is told by all tables of its data set: that it is appended again, merged, folded or written
into another file is no change. What is read is bounded by the times of the files that the step added
and took away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl
from pyiceberg.manifest import DataFile

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.table import Column, Table
from lakehouse_ray.model.timespan import HOUR_US, MINUTE_US, SECOND_US, TimeRange, parse_time
from lakehouse_ray.query.conversions import frame_of
from lakehouse_ray.query.live import plan_live, sources_of
from lakehouse_ray.query.pinned import Among
from lakehouse_ray.query.scan import Where, files_sql, quoted
from lakehouse_ray.query.statement import Engine
from lakehouse_ray.query.steps import State, Step
from lakehouse_ray.query.views import VIEWS, copied
from lakehouse_ray.storage.files import Region, file_entry
from lakehouse_ray.storage.schemas import iceberg_schema

# Columns of the frames that tell of changes, before those of the row.
EVENT, CAUSE, TIME_US = "_event", "_cause", "_time_us"
# What a column was called in the earlier state.
WAS = "was."
ROW, CORRECTION = "row", "correction"
CAUSES = ("late", "changed", "removed")

_LATEST_US = parse_time("2200")
# Which rows were the last is asked from a little before a step on, so that the next steps, whose rows
# may be a little older, need not ask again.
_MARGIN_US = MINUTE_US
# Bars of other lengths in the same files are read along within such a range.
_BARS_TOGETHER_US = HOUR_US


@dataclass(frozen=True)
class Wanted:
    """Rows of one market. interval: Of bars. symbols: None: all."""

    dataset: Dataset
    market: str
    interval: str | None = None
    symbols: frozenset[str] | None = None

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Those that have them, the hot one first."""
        hot = self.dataset.hot_table
        main = self.dataset.table(self.interval)
        return (main,) if hot is None else (hot, main)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """As `silver.<view>` has them."""
        view = VIEWS[f"silver.{self.dataset.view}"]
        return (*self.dataset.tables[0].names, *(name for name, _ in view.added))

    def where(self, span: TimeRange | None = None) -> Where:
        equal = {"market": self.market}
        if self.interval is not None:
            equal["interval"] = self.interval
        return Among(equal, span, tuple(sorted(self.symbols or ())))


def step_rows(engine: Engine, step: Step, wanted: Wanted, last: LastRows) -> Iterator[pl.DataFrame]:
    """The changes of a step in the order of time, in frames of some thousand rows.

    Columns: EVENT, CAUSE (of corrections: CAUSES), TIME_US, then the row as it is (`Wanted.columns`)
    and as it was (WAS before each name). A row that is new and later than all that its symbol had is
    a ROW; anything else is a CORRECTION. A value that was null and has become known is no change.

    last: Kept from step to step, or new.
    """
    gone, new = step.files(engine)
    main = wanted.dataset.table(wanted.interval)
    if all(step.moved.name != one.name for one in wanted.tables) or not (gone or new):
        last.pass_by(step)
        return
    span = _span(engine, step.moved, [*gone, *new], wanted)
    if span is not None and not step.moved.live:
        files = [
            f"SELECT * FROM ({files_sql(step.moved, some)}) WHERE {wanted.where(span).sql(main)}"
            for some in (gone, new)
        ]
        if _has_live(engine, step, wanted, wanted.where(span)):
            # Most rows were written into other files as they are: the rest tells where to look.
            engine.verify([*gone, *new])
            span = _times(engine, wanted, _difference(wanted, *files))
    if span is None:
        last.pass_by(step)
        return
    where = wanted.where(_around(wanted.dataset, span))
    if step.moved.live:
        # What the main tables have is the same in both.
        sides = [_live(engine, state, wanted, where) for state in (step.before, step.after)]
    elif _has_live(engine, step, wanted, where):
        sides = [_visible(engine, state, wanted, where) for state in (step.before, step.after)]
    else:
        engine.verify([*gone, *new])
        sides = files
    last.look(engine, step, wanted, span.start_us)
    with engine.run(_difference(wanted, *sides), [], {}) as result:
        for batch in result.fetch_batches():
            if batch.num_rows:
                yield last.judged(frame_of(batch))
    last.over(step)


def _span(
    engine: Engine, table: Table, files: Sequence[DataFile], wanted: Wanted
) -> TimeRange | None:
    """Times around the wanted rows of some files; None: they have none."""
    regions = [file_entry(table, iceberg_schema(table), file).region for file in files]
    near = [one for one in regions if _may_have(table, one, wanted)]
    if not near:
        return None
    first, last = min(r.time_min_us for r in near), max(r.time_max_us for r in near)
    if not (table.live and wanted.dataset.bars) or last - first < _BARS_TOGETHER_US:
        return TimeRange(first, last + 1)
    # In one file are bars of all lengths, and a day's began long before those of a minute.
    time = quoted(table.time)
    engine.verify(files)
    query = (
        f"SELECT epoch_us(min({time})) AS first, epoch_us(max({time})) AS last "
        f"FROM ({files_sql(table, files)}) WHERE {wanted.where().sql(table)}"
    )
    with engine.run(query, [], {}) as result:
        (row,) = result.rows()
    return None if row["first"] is None else TimeRange(row["first"], row["last"] + 1)


def _may_have(table: Table, region: Region, wanted: Wanted) -> bool:
    equal = wanted.where().equal
    for partition, value in zip(table.partitions, region.partition, strict=True):
        if partition.transform == "identity" and value != equal.get(partition.column, value):
            return False
    some = wanted.symbols
    return some is None or any(region.lead_min <= name <= region.lead_max for name in some)


def _around(dataset: Dataset, span: TimeRange) -> TimeRange:
    """Where a row is known by its number, another account of it may tell a slightly other time."""
    if not dataset.key_within_day:
        return span
    return TimeRange(max(span.start_us - SECOND_US, 0), span.end_us + SECOND_US)


def _times(engine: Engine, wanted: Wanted, difference: str) -> TimeRange | None:
    """Times around the rows of a difference; None: there are none."""
    now, was = quoted(wanted.dataset.time), quoted(f"{WAS}{wanted.dataset.time}")
    query = (
        f"SELECT epoch_us(min(least({now}, {was}))) AS first, "
        f"epoch_us(max(greatest({now}, {was}))) AS last FROM ({difference})"
    )
    with engine.run(query, [], {}) as result:
        (row,) = result.rows()
    return None if row["first"] is None else TimeRange(row["first"], row["last"] + 1)


def _has_live(engine: Engine, step: Step, wanted: Wanted, where: Where) -> bool:
    """Whether live rows have to do with a range: then only all tables tell what a row was."""
    hot = wanted.dataset.hot_table
    if hot is None:
        return False
    planned = plan_live(step.after.of(wanted.tables), where, engine.plan)
    return bool(planned[hot.name])


def _live(engine: Engine, state: State, wanted: Wanted, where: Where) -> str:
    """SELECT of the live rows of a range that count in a state: those that no main table has."""
    hot = wanted.dataset.hot_table
    assert hot is not None
    return (
        f"SELECT * FROM ({_sources(engine, state, wanted, where)[hot.name]}) WHERE {where.sql(hot)}"
    )


def _visible(engine: Engine, state: State, wanted: Wanted, where: Where) -> str:
    """SELECT of all rows of a range in a state, each key once."""
    main = wanted.dataset.table(wanted.interval)
    sources = _sources(engine, state, wanted, where)
    # Of what is not bars the main table's source has the live rows, too.
    names = list(sources) if wanted.dataset.bars else [main.name]
    both = " UNION ALL ".join(sources[name] for name in names)
    return f"SELECT * FROM ({both}) WHERE {where.sql(main)}"


def _sources(engine: Engine, state: State, wanted: Wanted, where: Where) -> dict[str, str]:
    pins = state.of(wanted.tables)
    planned = plan_live(pins, where, engine.plan)
    engine.verify(file for files in planned.values() for file in files)
    return sources_of({name: pin.shape for name, pin in pins.items()}, planned, where)


def _difference(wanted: Wanted, was: str, now: str) -> str:
    dataset, table = wanted.dataset, wanted.dataset.tables[0]
    time = quoted(dataset.time)
    chosen = [f"epoch_us(coalesce(now.{time}, was.{time})) AS {TIME_US}"]
    for side, prefix in (("now", ""), ("was", WAS)):
        chosen += [
            f"{side}.{quoted(copied(name, wanted.market))} AS {quoted(prefix + name)}"
            for name in wanted.columns
        ]
    columns = {column.name: column for column in table.columns}
    key = [columns[name] for name in dict.fromkeys(("symbol", *dataset.key))]
    same = [_same(column) for column in key]
    if dataset.key_within_day:
        day = f"date_trunc('day', {{}}.{time} AT TIME ZONE 'UTC')"
        same.append(f"{day.format('now')} = {day.format('was')}")
    order = [f"coalesce(now.{quoted(c.name)}, was.{quoted(c.name)}) NULLS FIRST" for c in key]
    return (
        f"WITH was AS ({was}), now AS ({now}) SELECT {', '.join(chosen)} "
        f"FROM was FULL JOIN now ON {' AND '.join(same)} "
        f"WHERE was.symbol IS NULL OR now.symbol IS NULL OR {_differs(dataset)} "
        f"ORDER BY {TIME_US}, {', '.join(order)}"
    )


def _same(column: Column) -> str:
    name = quoted(column.name)
    return f"was.{name} {'=' if column.required else 'IS NOT DISTINCT FROM'} now.{name}"


def _differs(dataset: Dataset) -> str:
    """Values of the exchange alone count: not where they are from, nor what rules say of them."""
    values = [column for column in dataset.columns if column.name not in dataset.key]
    parts = [
        f"(was.{quoted(c.name)} IS NOT NULL AND was.{quoted(c.name)} IS DISTINCT FROM now.{quoted(c.name)})"
        for c in values
    ]
    return " OR ".join(parts) or "false"


class LastRows:
    """The last row of each symbol, from step to step: by it what is new is told from what is late.

    Not for several threads, nor for several `wanted` but for more symbols.
    """

    def __init__(self) -> None:
        # None: of no state.
        self._versions: dict[str, int | None] | None = None
        self._wanted: Wanted | None = None
        # From when on they are known: a symbol that is not among them has none since then.
        self._from_us = 0
        self._last = _NO_LAST
        self._now: list[pl.DataFrame] = []
        self._gone = False

    def look(self, engine: Engine, step: Step, wanted: Wanted, from_us: int) -> None:
        """Know the last rows of before a step, as far as they are of then or later."""
        known = self._versions == step.before.versions and self._covers(wanted, from_us)
        # Until the step is over they are of no state.
        self._versions, self._now, self._gone = None, [], False
        if known:
            return
        self._from_us = max(from_us - _MARGIN_US, 0)
        self._wanted = wanted
        where = wanted.where(TimeRange(self._from_us, _LATEST_US))
        query = (
            f"SELECT symbol, max({_order_sql(wanted.dataset)})::BIGINT AS _last "
            f"FROM ({_visible(engine, step.before, wanted, where)}) GROUP BY symbol"
        )
        with engine.run(query, [], {}) as result:
            self._last = result.pl().cast(_NO_LAST.schema)

    def judged(self, changed: pl.DataFrame) -> pl.DataFrame:
        """Rows of the step with what they are."""
        assert self._wanted is not None
        time, names = self._wanted.dataset.time, changed.columns
        order = pl.col(order_column(self._wanted.dataset))
        order = order.dt.epoch("us") if order.meta.output_name() == time else order
        now, was = pl.col("symbol").is_not_null(), pl.col(f"{WAS}symbol").is_not_null()
        found = changed.with_columns(order.cast(pl.Int64).alias("_order")).join(
            self._last, on="symbol", how="left", maintain_order="left"
        )
        self._gone = self._gone or not changed.select(now.all()).item()
        self._now.append(found.filter(now).select("symbol", pl.col("_order").alias("_last")))
        late = (pl.col("_order") < pl.col("_last")).fill_null(False)
        cause = (
            pl.when(~now).then(pl.lit("removed"))
            .when(was).then(pl.lit("changed"))
            .when(late).then(pl.lit("late"))
        )  # fmt: skip
        return found.with_columns(cause.alias(CAUSE)).select(
            pl.when(pl.col(CAUSE).is_null())
            .then(pl.lit(ROW))
            .otherwise(pl.lit(CORRECTION))
            .alias(EVENT),
            CAUSE,
            *names,
        )

    def over(self, step: Step) -> None:
        """The step is done."""
        if self._gone:
            return  # what was last may be gone: it is looked for again
        every = pl.concat([self._last, *self._now])
        self._last = every.group_by("symbol").agg(pl.col("_last").max())
        self._versions = step.after.versions

    def pass_by(self, step: Step) -> None:
        """The step changed nothing of these rows."""
        if self._versions == step.before.versions:
            self._versions = step.after.versions

    def _covers(self, wanted: Wanted, from_us: int) -> bool:
        known = self._wanted
        if known is None or from_us < self._from_us:
            return False
        if replace(known, symbols=None) != replace(wanted, symbols=None):
            return False
        some, more = wanted.symbols, known.symbols
        return more is None or (some is not None and some <= more)


_NO_LAST = pl.DataFrame(schema={"symbol": pl.String(), "_last": pl.Int64()})


def order_column(dataset: Dataset) -> str:
    """What grows from row to row: their number where they have one, since several share a time."""
    (first, *more) = dataset.key
    kind = next(column.type for column in dataset.columns if column.name == first)
    return first if not more and kind == "long" else dataset.time


def _order_sql(dataset: Dataset) -> str:
    name = order_column(dataset)
    return f"epoch_us({quoted(name)})" if name == dataset.time else quoted(name)
