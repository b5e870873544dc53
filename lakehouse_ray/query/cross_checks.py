"""Series of bars held against other accounts of the same trades that the lake has.

Only what both accounts have whole is compared: a coarser bar all of whose finer bars are there, a
minute of which there are aggTrades. What one of them lacks is a gap, and found as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.kernels.crosscheck import RESULT, finer_against_coarser, trades_against_bars
from lakehouse_ray.model.datasets.agg_trades import AGG_TRADES
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import DAY_US, TimeRange, to_us
from lakehouse_ray.model.venue import INTERVALS
from lakehouse_ray.query.pinned import PIECE_ROWS, Among, Kind, Pinned
from lakehouse_ray.query.scan import quoted
from lakehouse_ray.query.series_scan import spans_of

# Rows of the finer account read at once, of one symbol; a day of it at least.
_ROWS_MAX = 2 * PIECE_ROWS
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


@dataclass(frozen=True)
class Account:
    """Another account of some series. lives: `Pinned.lives` of their symbols in it."""

    kind: Kind
    lives: pl.DataFrame


def accounts_for(kind: Kind, kinds: Sequence[Kind]) -> list[Kind]:
    """Those of `kinds` that bars of `kind` can be held against: the coarsest finer bars first."""
    if kind.dataset.name != KLINES.name:
        return []
    length = INTERVALS[kind.interval or ""]
    if length is None or length > DAY_US:
        return []
    finer = []
    for other in kinds:
        if other.market != kind.market:
            continue
        if other.dataset.name == AGG_TRADES.name and kind.interval == "1m":
            finer.append((0, other))
        elif other.dataset.name == KLINES.name:
            step = INTERVALS[other.interval or ""]
            if step is not None and step < length and length % step == 0:
                finer.append((step, other))
    return [other for _, other in sorted(finer, key=lambda pair: -pair[0])]


def cross_check(
    pinned: Pinned, kind: Kind, lives: pl.DataFrame, accounts: Sequence[Account]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return values that differ (`kernels.crosscheck.RESULT`) and what was compared (`COMPARED`).

    Each symbol is held against the coarsest bars that overlap its own, and aggTrades.
    """
    differing, compared = [RESULT.to_frame()], [COMPARED.to_frame()]
    for symbol, account, span in _pairs(lives, accounts):
        mine = account.lives.filter(symbol=symbol)
        for part in spans_of(mine, _ROWS_MAX):
            start, end = max(part.start_us, span.start_us), min(part.end_us, span.end_us)
            if start >= end:
                continue
            found, times = _compare(pinned, kind, account.kind, symbol, TimeRange(start, end))
            differing.append(found)
            compared.append(_counted(symbol, found, times))
    both = pl.concat(compared).group_by("symbol", "day").agg(pl.sum("compared", "differing"))
    return pl.concat(differing), both.sort("symbol", "day")


def _pairs(
    lives: pl.DataFrame, accounts: Sequence[Account]
) -> Iterator[tuple[str, Account, TimeRange]]:
    """Symbols, what each is held against, and the whole days in which both have rows."""
    known = [{symbol: _days(a, b) for symbol, a, b in _ends(account.lives)} for account in accounts]
    for symbol, first, last in _ends(lives):
        own, held = _days(first, last), False
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


def _compare(
    pinned: Pinned, kind: Kind, other: Kind, symbol: str, span: TimeRange
) -> tuple[pl.DataFrame, pl.Series]:
    """Values that differ, and the times of the bars that were compared."""
    bars = _bars(pinned, kind, symbol, span)
    if other.dataset.name == AGG_TRADES.name:
        trades = _rows(pinned, other, symbol, span, _TRADES)
        minutes = trades.select(open_time=pl.col("transact_time").dt.truncate("1m")).unique()
        held = bars.join(minutes, on="open_time", how="semi").filter(pl.col("trades") > 0)
        return trades_against_bars(trades, held, kind.market), held["open_time"]
    finer = _bars(pinned, other, symbol, span)
    length, step = INTERVALS[kind.interval or ""], INTERVALS[other.interval or ""]
    assert length is not None
    assert step is not None
    slot = pl.col("open_time").dt.truncate(f"{length}us")
    whole = finer.filter(pl.len().over(slot) == length // step)
    slots = whole.select(open_time=slot).unique()
    held = bars.join(slots, on="open_time", how="semi")
    # Without a published bar there is nothing to differ from.
    whole = whole.filter(slot.is_in(held["open_time"].implode()))
    return finer_against_coarser(whole, held, kind.market), held["open_time"]


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
