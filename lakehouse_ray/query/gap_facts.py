"""What the lake tells about the time of a gap: other symbols, other series, files, names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.kernels.causes import alive_around, file_facts, known_outages
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.trades import TRADES
from lakehouse_ray.model.instrument import parse_symbol
from lakehouse_ray.model.lake import OBJECT_LOG
from lakehouse_ray.model.rhythm import Grid, Ids, Months, rhythm_of
from lakehouse_ray.model.table import Table
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, TimeRange, parse_time, to_us
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.pinned import Among, Kind, Pinned
from lakehouse_ray.query.scan import Where, quoted, text, timestamp
from lakehouse_ray.query.views import VIEWS

# Holes compared with the other symbols in one question: of neighbouring times, so that few files
# are opened. Few holes are spelled out, so that only rows in them are joined; many are joined as
# they are (5,000 holes with 700,000 rows: a quarter of a second).
_HOLES_MAX = 5_000
_HOLES_SPELLED_MAX = 32
_HOLES_SPAN_US = 31 * DAY_US
# Holes named in one question: a statement of some MB.
_HOLES_ASKED = 20_000
# Events of the ledger read at once: some 100 MB.
_EVENTS_MAX = 500_000
_SYMBOLS_MIN = 20
# Of a symbol, so many holes are held against its trades: each is held against two days of them.
_HOLES_OF_TRADES_MAX = 200
# Jumps of ids within less are too short for other symbols to tell anything.
_COMPARED_US = MINUTE_US

# Accounts of the same trades: of a row that one of them lacks another one can have the value.
_OF_TRADES = (KLINES, AGG_TRADES, TRADES)

_EXPIRY = re.compile(r"_(\d{2})(\d{2})(\d{2})$")


def gather(pinned: Pinned, kind: Kind, found: pl.DataFrame, lives: pl.DataFrame) -> pl.DataFrame:
    """Add `kernels.causes.FACTS` to gaps of one kind of series.

    found: `symbol, start_time, end_time, missing, place`.
    lives: Of all symbols of the kind.
    """
    span = ["start_time", "end_time"]
    inside = found.filter(place="inside")
    facts = found.join(known_outages(inside, kind.market), on=span, how="left")
    facts = facts.join(alive_around(inside, lives), on=span, how="left")
    facts = facts.join(_showing(pinned, kind, inside), on=span, how="left")
    # Compared and nobody shown: none.
    facts = facts.with_columns(
        showing=pl.when(pl.col("alive").is_not_null()).then(pl.col("showing").fill_null(0)),
        alive=pl.when(pl.col("place") == "inside").then(pl.col("alive").fill_null(0)),
    ).with_columns(showing=pl.when(pl.col("alive") == 0).then(0).otherwise(pl.col("showing")))
    symbols = found["symbol"].unique().sort().to_list()
    together = _symbols_together(pinned, kind, lives.height)
    parts = [
        _of_symbols(pinned, kind, facts.filter(pl.col("symbol").is_in(symbols[at : at + together])))
        for at in range(0, len(symbols), together)
    ]
    return _ended(pl.concat(parts, how="diagonal"), kind, lives)


def _symbols_together(pinned: Pinned, kind: Kind, symbols: int) -> int:
    """Of so many symbols at once the ledger is asked, by the events that it has of all of them."""
    where = Where({"market": kind.market, "dataset": kind.dataset.name})
    events = sum(file.record_count for file in pinned.files(OBJECT_LOG, where))
    return max(_SYMBOLS_MIN, _EVENTS_MAX * symbols // max(1, events))


def _showing(pinned: Pinned, kind: Kind, found: pl.DataFrame) -> pl.DataFrame:
    """How many other symbols have rows in each distinct hole: on a grid, at least half of them."""
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    holes = found.group_by("start_time", "end_time").agg(pl.col("missing").max()).sort("start_time")
    if isinstance(rhythm, Ids):
        long = pl.duration(microseconds=_COMPARED_US)
        holes = holes.filter(pl.col("end_time") - pl.col("start_time") >= long)
    needed = "n * 2 >= missing" if isinstance(rhythm, Grid | Months) else "n > 0"
    schema = {**{name: holes.schema[name] for name in ("start_time", "end_time")}}
    frames = [pl.DataFrame(schema={**schema, "showing": pl.Int64})]
    rows = [(to_us(a), to_us(b), n) for a, b, n in holes.iter_rows()]
    for group in _neighbours(rows):
        span = TimeRange(min(a for a, _, _ in group), max(b for _, b, _ in group))
        where, time = Among(kind.equal, span), quoted(kind.dataset.time)
        values = ", ".join(f"({timestamp(a)}, {timestamp(b)}, {n})" for a, b, n in group)
        near = "true"
        if len(group) <= _HOLES_SPELLED_MAX:
            near = " OR ".join(
                f"({time} >= {timestamp(a)} AND {time} < {timestamp(b)})" for a, b, _ in group
            )
        query = f"""
        WITH holes(start_time, end_time, missing) AS (VALUES {values}),
        near AS (SELECT symbol, {time} AS t FROM {kind.view.name}
                 WHERE {where.sql(kind.table)} AND ({near})),
        each AS (SELECT start_time, end_time, missing, symbol, count(*) AS n
                 FROM near JOIN holes ON t >= start_time AND t < end_time GROUP BY ALL)
        SELECT start_time, end_time, count(*) AS showing FROM each WHERE {needed}
        GROUP BY start_time, end_time
        """
        frames.append(pinned.frame(query, kind.view, where).cast(frames[0].schema))
    return pl.concat(frames)


def _neighbours(holes: Sequence[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Cut holes, in order of their starts, into groups that are asked about together."""
    group: list[tuple[int, int, int]] = []
    for one in holes:
        if group and (len(group) >= _HOLES_MAX or one[1] - group[0][0] > _HOLES_SPAN_US):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _of_symbols(pinned: Pinned, kind: Kind, facts: pl.DataFrame) -> pl.DataFrame:
    """What the ledger and the other series of these symbols tell."""
    key = ["symbol", "start_time"]
    symbols = tuple(facts["symbol"].unique().sort().to_list())
    rhythm = rhythm_of(kind.dataset, kind.market, kind.interval)
    # A file whose rows may lie past its end may begin a step late as well.
    late = isinstance(rhythm, Grid) and kind.dataset.slack_us > 0
    edge_us = rhythm.step_us if isinstance(rhythm, Grid) and late else 0
    objects = _objects(pinned, kind, symbols)
    facts = facts.join(file_facts(facts, objects, edge_us), on=key, how="left")
    open_ = facts.filter(pl.col("outage").is_null() & (pl.col("place") == "inside"))
    holes = open_.select("symbol", "start_time", "end_time")
    others = pl.concat(
        [_other_rows(pinned, kind, holes.head(0))]
        + [_other_rows(pinned, kind, part) for part in holes.iter_slices(_HOLES_ASKED)]
    )
    # Trades tell of metrics that there was something to measure, not that anybody has the rows: only
    # where a file is there and leaves them out is that one to blame.
    blamed = pl.col("other_own") | pl.col("covered") | pl.col("cut")
    return (
        facts.join(others, on=key, how="left")
        .with_columns(pl.when(blamed).then("other").alias("other"))
        .with_columns(pl.when(blamed).then("other_rows").alias("other_rows"))
        .drop("other_own")
    )


def _objects(pinned: Pinned, kind: Kind, symbols: tuple[str, ...]) -> pl.DataFrame:
    """The ledger's last word on each object of some symbols, as `file_facts` takes it."""
    where = Among(kind.equal | {"dataset": kind.dataset.name}, None, symbols)
    query = f"""
    SELECT symbol, key, period_start,
           period_start + CASE freq WHEN 'monthly' THEN INTERVAL 1 MONTH ELSE INTERVAL 1 DAY END
               AS period_end,
           bool_or(state = 'built') AS built,
           CASE WHEN arg_max(state, seen_at) <> 'built'
                THEN coalesce(arg_max_null(reason, seen_at), arg_max(state, seen_at)) END AS reason,
           arg_max(rows_quarantined, seen_at) FILTER (state = 'built') AS rows_quarantined
    FROM {OBJECT_LOG.name} WHERE {where.sql(OBJECT_LOG)} AND freq IN ('daily', 'monthly')
    GROUP BY symbol, key, freq, period_start
    """
    found = pinned.frame(query, VIEWS[OBJECT_LOG.name], where)
    return found.with_columns(
        pl.col("period_start", "period_end").cast(pl.Datetime("us", "UTC")),
        pl.col("rows_quarantined").fill_null(0).cast(pl.Int64),
    ).sort("symbol", "period_start", "key")


def _other_rows(pinned: Pinned, kind: Kind, holes: pl.DataFrame) -> pl.DataFrame:
    """`symbol, start_time, other, other_rows, other_own, idle, ids_joined` of holes that something is
    known of. other_own: The other rows are of the same thing, at another interval or one by one."""
    key = ["symbol", "start_time"]
    time = holes.schema["start_time"]
    seen = [
        pl.DataFrame(
            schema={
                "symbol": pl.String, "start_time": time, "series": pl.String,
                "busy": pl.Int64, "quiet": pl.Int64, "spanned_us": pl.Int64, "own": pl.Boolean,
            }
        )
    ]  # fmt: skip
    ids = pl.DataFrame(schema={"symbol": pl.String, "start_time": time, "ids_joined": pl.Boolean})
    if holes.height:
        for bars in (KLINES, *(() if kind.dataset is KLINES else (kind.dataset,))):
            if steps := _steps(pinned, kind, bars):
                own = pl.lit(kind.dataset in _OF_TRADES or bars is kind.dataset)
                seen.append(_bars(pinned, kind, bars, steps, holes).with_columns(own=own))
        for trades in (AGG_TRADES, TRADES):
            if any(k.dataset is trades and k.market == kind.market for k in pinned.kinds):
                if kind.dataset is not trades:
                    rows = _trades(pinned, Kind(trades, kind.market, None), holes)
                    seen.append(rows.with_columns(own=pl.lit(kind.dataset in _OF_TRADES)))
                if kind.dataset not in (AGG_TRADES, TRADES):
                    joined = _ids_joined(pinned, Kind(trades, kind.market, None), holes)
                    ids = pl.concat([ids, joined.cast(ids.schema)])
    all_seen = pl.concat([frame.cast(seen[0].schema) for frame in seen]).join(holes, on=key)
    # A few rows say little of a hole of months.
    most = (
        pl.col("spanned_us") * 2
        >= (pl.col("end_time") - pl.col("start_time")).dt.total_microseconds()
    )
    busy = (
        all_seen.filter(most, pl.col("busy") > 0)
        .sort("own", "busy", descending=True, maintain_order=True)
        .group_by(key, maintain_order=True)
        .agg(
            other=pl.col("series").first(),
            other_rows=pl.col("busy").first(),
            other_own=pl.col("own").first(),
        )
    )
    idle = (
        all_seen.filter(most, pl.col("busy") == 0, pl.col("quiet") > 0)
        .group_by(key, maintain_order=True)
        .agg(idle=pl.col("series").first())
    )
    joined = ids.group_by(key).agg(pl.col("ids_joined").any())
    return (
        holes.select(key)
        .join(busy, on=key, how="left")
        .join(idle, on=key, how="left")
        .join(joined, on=key, how="left")
    )


def _values(holes: pl.DataFrame) -> str:
    return ", ".join(
        f"({text(symbol)}, {timestamp(to_us(a))}, {timestamp(to_us(b))})"
        for symbol, a, b in holes.select("symbol", "start_time", "end_time").iter_rows()
    )


def _span(holes: pl.DataFrame, wider_us: int) -> TimeRange:
    return TimeRange(
        max(0, to_us(holes["start_time"].min()) - wider_us),  # type: ignore[arg-type]
        to_us(holes["end_time"].max()) + wider_us,  # type: ignore[arg-type]
    )


def _where(other: Kind, holes: pl.DataFrame, wider_us: int) -> Among:
    symbols = tuple(holes["symbol"].unique().sort().to_list())
    return Among(other.equal, _span(holes, wider_us), symbols)


def _steps(pinned: Pinned, kind: Kind, bars: Dataset) -> dict[str, int]:
    """Intervals of the market's other bars that can tell something, with their lengths."""
    found = {}
    for other in pinned.kinds:
        if other.dataset is bars and bars.bars and other.market == kind.market and other != kind:
            assert other.interval is not None
            step = INTERVALS[other.interval]
            if step is not None and step <= DAY_US:
                found[other.interval] = step
    return found


@dataclass(frozen=True)
class _OfIntervals(Among):
    """Also only bars of these intervals."""

    intervals: tuple[str, ...] = ()

    def alternatives(self) -> Sequence[Mapping[str, str]]:
        return [
            {**values, "interval": interval}
            for values in super().alternatives()
            for interval in self.intervals
        ]

    def sql(self, table: Table) -> str:
        return f"{super().sql(table)} AND interval IN ({', '.join(map(text, self.intervals))})"


def _bars(
    pinned: Pinned, kind: Kind, bars: Dataset, steps: Mapping[str, int], holes: pl.DataFrame
) -> pl.DataFrame:
    """Bars of other series that lie wholly in a hole, or cover it.

    Bars of trades tell of every data set; bars of the mark, index and premium only of themselves,
    since they are made without trades.
    """
    counted = "trades > 0" if bars is KLINES else "true"
    quiet = "trades = 0" if bars is KLINES and kind.dataset is KLINES else "false"
    symbols = tuple(holes["symbol"].unique().sort().to_list())
    span = _span(holes, max(steps.values()))
    where = _OfIntervals({"market": kind.market}, span, symbols, tuple(steps))
    lengths = ", ".join(f"({text(name)}, {step})" for name, step in steps.items())
    view = VIEWS[f"silver.{bars.view}"]
    # Holes of a symbol do not overlap: each bar has at most one that began before it.
    query = f"""
    WITH holes(symbol, start_time, end_time) AS (VALUES {_values(holes)}),
    steps(interval, step) AS (VALUES {lengths}),
    bars AS (SELECT symbol, interval, step, open_time, open_time + to_microseconds(step) AS ends,
                    trades
             FROM {view.name} JOIN steps USING (interval) WHERE {where.sql(bars.tables[0])}),
    within AS (SELECT h.symbol, h.start_time, interval, step, trades FROM bars b ASOF JOIN holes h
               ON b.symbol = h.symbol AND b.open_time >= h.start_time WHERE b.ends <= h.end_time),
    asked AS (SELECT * FROM holes CROSS JOIN (SELECT interval FROM steps)),
    over AS (SELECT h.symbol, h.start_time, h.interval, step, trades FROM asked h ASOF JOIN bars b
             ON h.symbol = b.symbol AND h.interval = b.interval AND h.start_time >= b.open_time
             WHERE b.ends >= h.end_time AND {quiet})
    SELECT symbol, start_time, interval || ' bars' AS series,
           count(*) FILTER (inside AND ({counted})) AS busy, count(*) FILTER ({quiet}) AS quiet,
           (count(*) * step)::BIGINT AS spanned_us
    FROM (SELECT *, true AS inside FROM within UNION ALL SELECT *, false FROM over)
    GROUP BY symbol, start_time, interval, step ORDER BY step, symbol, start_time
    """
    return pinned.frame(query, view, where)


def _trades(pinned: Pinned, other: Kind, holes: pl.DataFrame) -> pl.DataFrame:
    """Trades in a hole; they speak for the hours in which they are."""
    where, time = _where(other, holes, 0), quoted(other.dataset.time)
    query = f"""
    WITH holes(symbol, start_time, end_time) AS (VALUES {_values(holes)}),
    rows AS (SELECT symbol, {time} AS t FROM {other.view.name} WHERE {where.sql(other.table)})
    SELECT h.symbol, h.start_time, {text(other.dataset.name)} AS series, count(*) AS busy,
           0 AS quiet, count(DISTINCT date_trunc('hour', r.t)) * {HOUR_US} AS spanned_us
    FROM rows r ASOF JOIN holes h ON r.symbol = h.symbol AND r.t >= h.start_time
    WHERE r.t < h.end_time GROUP BY h.symbol, h.start_time
    """
    return pinned.frame(query, other.view, where)


def _ids_joined(pinned: Pinned, other: Kind, holes: pl.DataFrame) -> pl.DataFrame:
    """Whether the last trade before a hole and the first one after it, each within a day of it,
    bear neighbouring ids."""
    few = (
        holes.sort("start_time").group_by("symbol", maintain_order=True).head(_HOLES_OF_TRADES_MAX)
    )
    where, time = _where(other, few, DAY_US), quoted(other.dataset.time)
    first, last = ("id", "id") if other.dataset is TRADES else ("first_trade_id", "last_trade_id")
    query = f"""
    WITH holes(symbol, start_time, end_time) AS (VALUES {_values(few)}),
    rows AS (SELECT symbol, {time} AS t, {first} AS a, {last} AS b FROM {other.view.name}
             WHERE {where.sql(other.table)})
    SELECT h.symbol, h.start_time,
           max(b) FILTER (t < h.start_time) + 1 = min(a) FILTER (t >= h.end_time) AS ids_joined
    FROM holes h JOIN rows r ON r.symbol = h.symbol
        AND r.t >= h.start_time - INTERVAL 1 DAY AND r.t < h.end_time + INTERVAL 1 DAY
    GROUP BY h.symbol, h.start_time
    """
    return pinned.frame(query, other.view, where)


def _ended(facts: pl.DataFrame, kind: Kind, lives: pl.DataFrame) -> pl.DataFrame:
    """Add what says that a symbol ended before a gap after its last row."""
    after = facts.filter(place="after").select("symbol", "start_time")
    known = lives["symbol"].to_list()
    words: list[str | None] = []
    for symbol, start in after.iter_rows():
        later = lives.filter(pl.col("last_time") > start, pl.col("symbol") != symbol).height
        words.append(_end_of(symbol, kind.market, known, to_us(start), later))
    ended = after.with_columns(ended=pl.Series(words, dtype=pl.String))
    return facts.join(ended, on=["symbol", "start_time"], how="left")


def _end_of(
    symbol: str, market: str, known: Sequence[str], start_us: int, later: int
) -> str | None:
    instrument = parse_symbol(symbol, market)
    if instrument.settled:
        return "its name says that it is settled"
    kept = [name for name in known if name.startswith(symbol) and "SETTLED" in name]
    if kept:
        return f"what was traded before is kept as {', '.join(kept)}"
    expiry = _EXPIRY.search(symbol)
    if instrument.contract == "delivery" and expiry is not None:
        day = "20" + "-".join(expiry.groups())
        if parse_time(day) <= start_us + DAY_US:
            return f"the contract was delivered on {day}"
    if later:
        return f"{later} other symbols of the series go on"
    return None
