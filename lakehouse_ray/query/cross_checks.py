"""Series of bars held against other accounts of the same trades that the lake has.

Only what both accounts have whole is compared: a coarser bar all of whose finer bars are there, a
minute of which there are aggTrades. What one of them lacks is a gap, and found as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.kernels.anomaly import FINDINGS_SCHEMA
from lakehouse_ray.kernels.anomaly_cross import cross_interval
from lakehouse_ray.kernels.crosscheck import RESULT
from lakehouse_ray.kernels.crosscheck_bars import (
    OFF_GRID,
    UNEXPLAINED,
    bars_in,
    finer_against_coarser,
    trades_against_bars,
)
from lakehouse_ray.kernels.grid import divides, slot_starts
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import DAY_US, TimeRange, to_us
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.pinned import PIECE_ROWS, Among, Kind, Pinned
from lakehouse_ray.query.scan import quoted
from lakehouse_ray.query.series_scan import spans_of

# Rows of the finer account read at once, of one symbol; a day of it at least.
_ROWS_MAX = 2 * PIECE_ROWS
# A month is the longest bar.
_LONGEST_US = 31 * DAY_US
_TRADES = (
    "symbol", "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id",
    "transact_time", "is_buyer_maker",
)  # fmt: skip

COMPARED = pl.Schema(
    {
        "symbol": pl.String(),
        "day": pl.Datetime("us", "UTC"),
        "compared": pl.Int64(),
        "differing": pl.Int64(),
    }
)
CONTRADICTED = pl.Schema({"symbol": pl.String(), **FINDINGS_SCHEMA})


@dataclass(frozen=True)
class Account:
    """Another account of some series. lives: `Pinned.lives` of their symbols in it."""

    kind: Kind
    lives: pl.DataFrame


@dataclass(frozen=True)
class CrossChecked:
    """What came of it: values that differ (`kernels.crosscheck.RESULT`), rows compared and differing
    by day (`COMPARED`), and bars that finer ones contradict by more than rounding (`CONTRADICTED`).
    """

    differences: pl.DataFrame
    compared: pl.DataFrame
    contradicted: pl.DataFrame


def accounts_for(kind: Kind, kinds: Sequence[Kind]) -> list[Kind]:
    """Those of `kinds` that bars of `kind` can be held against: the coarsest finer bars first.

    Bars longer than a day are held against days: all of a symbol's are read at once, so that none
    of its weeks and months is cut in two.
    """
    if kind.dataset.name != KLINES.name or kind.interval is None:
        return []
    finer = []
    for other in kinds:
        if other.market != kind.market:
            continue
        if other.dataset.name == AGG_TRADES.name and kind.interval == "1m":
            finer.append((0, other))
        elif other.dataset.name == KLINES.name and other.interval is not None:
            step = INTERVALS[other.interval]
            if step is None or not divides(other.interval, kind.interval):
                continue
            if step == DAY_US or not _is_long(kind.interval):
                finer.append((step, other))
    return [other for _, other in sorted(finer, key=lambda pair: -pair[0])]


def cross_check(
    pinned: Pinned, kind: Kind, lives: pl.DataFrame, accounts: Sequence[Account]
) -> CrossChecked:
    """Hold each symbol against the coarsest finer bars that overlap its own, and aggTrades."""
    differing, compared = [RESULT.to_frame()], [COMPARED.to_frame()]
    contradicted = [CONTRADICTED.to_frame()]
    for symbol, account, span in _pairs(kind, lives, accounts):
        mine = account.lives.filter(symbol=symbol)
        for part in spans_of(mine, _ROWS_MAX):
            start, end = max(part.start_us, span.start_us), min(part.end_us, span.end_us)
            if start >= end:
                continue
            held = _compare(pinned, kind, account.kind, symbol, TimeRange(start, end))
            differing.append(held.found)
            compared.append(_counted(symbol, held.costly, held.times))
            if held.odd is not None:
                name = pl.lit(symbol).alias("symbol")
                contradicted.append(held.odd.select(name, *FINDINGS_SCHEMA.names()))
    return CrossChecked(pl.concat(differing), added_up(compared), pl.concat(contradicted))


def added_up(compared: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Several `COMPARED` as one: what was compared twice counts twice."""
    both = pl.concat(compared).group_by("symbol", "day").agg(pl.sum("compared", "differing"))
    return both.sort("symbol", "day")


def _is_long(interval: str | None) -> bool:
    if interval is None:
        return False
    length = INTERVALS[interval]
    return length is None or length > DAY_US


def _pairs(
    kind: Kind, lives: pl.DataFrame, accounts: Sequence[Account]
) -> Iterator[tuple[str, Account, TimeRange]]:
    """Symbols, what each is held against, and the whole days in which both have rows."""
    known = [{symbol: _days(a, b) for symbol, a, b in _ends(account.lives)} for account in accounts]
    for symbol, first, last in _ends(lives):
        # The last week or month goes on for some days.
        more = _LONGEST_US if _is_long(kind.interval) else 0
        own, held = _days(first, last + more), False
        for account, others in zip(accounts, known, strict=True):
            if symbol not in others or (held and account.kind.dataset.bars):
                continue
            start = max(own[0], others[symbol][0])
            end = min(own[1], others[symbol][1])
            if start < end:
                held = held or account.kind.dataset.bars
                yield symbol, account, TimeRange(start, end)


def _ends(lives: pl.DataFrame) -> Iterator[tuple[str, int, int]]:
    for symbol, first, last in lives.select("symbol", "first_time", "last_time").iter_rows():
        yield symbol, to_us(first), to_us(last)


def _days(first_us: int, last_us: int) -> tuple[int, int]:
    return first_us // DAY_US * DAY_US, (last_us // DAY_US + 1) * DAY_US


@dataclass(frozen=True)
class _Held:
    """Values that differ, the times of the bars that were compared, and bars contradicted.

    costly: Those of the values by which a bar counts as differing.
    """

    found: pl.DataFrame
    costly: pl.DataFrame
    times: pl.Series
    odd: pl.DataFrame | None = None


def _compare(pinned: Pinned, kind: Kind, other: Kind, symbol: str, span: TimeRange) -> _Held:
    bars = _bars(pinned, kind, symbol, span)
    if other.dataset.name == AGG_TRADES.name:
        trades = _rows(pinned, other, symbol, span, _TRADES)
        minutes = trades.select(open_time=pl.col("transact_time").dt.truncate("1m")).unique()
        held = bars.join(minutes, on="open_time", how="semi").filter(pl.col("trades") > 0)
        found = trades_against_bars(trades, held, kind.market)
        # What the trades themselves explain (one on the edge of a minute, ids that one account
        # leaves out) is how the exchange writes both, and nothing to mend.
        costly = (pl.col("reason") == "") | pl.col("reason").str.starts_with(UNEXPLAINED)
        return _Held(found, found.filter(costly), held["open_time"])
    finer = _bars(pinned, other, symbol, span)
    assert kind.interval is not None
    assert other.interval is not None
    finer = finer.with_columns(slot=slot_starts(finer["open_time"], kind.interval))
    needed = bars_in(finer["slot"], other.interval, kind.interval)
    whole = finer.filter(pl.len().over("slot") == needed)
    held = bars.join(whole.select(open_time="slot").unique(), on="open_time", how="semi")
    # Without a published bar there is nothing to differ from.
    whole = whole.filter(pl.col("slot").is_in(held["open_time"].implode()))
    whole, held = whole.sort("open_time"), held.sort("open_time")
    found = finer_against_coarser(whole, held, kind.market)
    return _Held(
        found,
        # After an outage hours begin at odd minutes: 24 of them are not those of the day.
        found.filter(pl.col("reason") != OFF_GRID),
        held["open_time"],
        cross_interval(whole, held, other.interval, kind.interval),
    )


def _bars(pinned: Pinned, kind: Kind, symbol: str, span: TimeRange) -> pl.DataFrame:
    columns = ("symbol", "interval", *(c.name for c in KLINES.columns), "source_version")
    return _rows(pinned, kind, symbol, span, columns)


def _rows(
    pinned: Pinned, kind: Kind, symbol: str, span: TimeRange, columns: Sequence[str]
) -> pl.DataFrame:
    where = Among(kind.equal, span, (symbol,))
    names = ", ".join(quoted(name) for name in columns)
    query = f"SELECT {names} FROM {kind.view.name} WHERE {where.sql(kind.table)}"
    return pinned.frame(query, kind.view, where)


def _counted(symbol: str, found: pl.DataFrame, times: pl.Series) -> pl.DataFrame:
    day = pl.col("time").dt.truncate("1d")
    bad = found.filter(pl.col("time").is_in(times.implode())).select("time").unique()
    return (
        pl.DataFrame({"time": times})
        .join(bad.with_columns(bad=pl.lit(1, dtype=pl.Int64)), on="time", how="left")
        .group_by(day=day)
        .agg(compared=pl.len().cast(pl.Int64), differing=pl.col("bad").fill_null(0).sum())
        .select(pl.lit(symbol).alias("symbol"), "day", "compared", "differing")
        .cast(COMPARED)
    )
