"""BHDS's own rules, generation A (its shell scripts), written anew from a description of them.

So that its users can compare: what they had, bar for bar, beside what `gold.klines` has. Nothing
here is meant to be better; where its rules lose or invent something they do so here too, and
`bhds_compare` says where. Column names and types are BHDS's: times in ms, `candle_begin_time` …

What depends on chance in BHDS is taken at its best: which of two equal times wins does not arise
(one row per time is given), and gaps are taken in time, though its own list of them has no order.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.grid import parse_offset
from lakehouse_ray.kernels.split import part_names
from lakehouse_ray.model.venue import INTERVALS, Market

TIME = "candle_begin_time"

# Ours to BHDS's.
COLUMNS: Mapping[str, str] = {
    "open_time": TIME,
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "volume": "volume",
    "quote_volume": "quote_volume",
    "trades": "trade_num",
    "taker_buy_volume": "taker_buy_base_asset_volume",
    "taker_buy_quote_volume": "taker_buy_quote_asset_volume",
}
SUMS = tuple(COLUMNS.values())[5:]

FOLDERS: Mapping[Market, str] = {"spot": "spot", "um": "um_futures", "cm": "cm_futures"}

_MS = pl.Datetime("ms", "UTC")
_FUNDING_MIN = 1e-6
_CHANGE_MIN = 0.1


def vwap_name(interval: str) -> str:
    return f"vwap{interval}"


def bhds_klines(
    klines: pl.DataFrame,
    funding: pl.DataFrame | None,
    *,
    market: Market,
    symbol: str,
    interval: str,
) -> dict[str, pl.DataFrame]:
    """Return what `gen_kline` makes of one symbol: a frame per part, by the part's name.

    klines: Rows of `silver.klines`, one per time. funding: Of `silver.funding_rates`; not used on
        spot.

    In this order: average price, funding, filling, splitting. Memory: as many rows as there are
    minutes from the first to the last bar, whatever the interval, since the filling counts minutes.
    """
    bars = klines.select(pl.col(ours).alias(theirs) for ours, theirs in COLUMNS.items())
    bars = bars.with_columns(pl.col(TIME).cast(_MS)).sort(TIME)
    name = vwap_name(interval)
    ratio = (pl.col("quote_volume") / pl.col("volume")).fill_nan(pl.col("open"))
    bars = bars.with_columns(ratio.alias(name))
    if market != "spot":
        bars = _with_funding(bars, funding)
    return _split(_filled_by_minutes(bars, name), symbol)


def check_known(interval: str) -> None:
    """Raise InvalidError for intervals that BHDS does not resample: all but minutes and hours."""
    if interval[-1] not in "mh":
        raise InvalidError(f"BHDS cannot resample to or from {interval}", "it knows m and h only")


def bhds_resampled(
    part: pl.DataFrame, target: str, step: str, *, interval: str = "1m"
) -> dict[str, pl.DataFrame]:
    """Return what `resample_type` makes of one part: a frame per offset, by the offset's name.

    part: Of `bhds_klines` at `interval`. step: `5m` for every fifth minute, `0m` for no offsets.
    Raises InvalidError for intervals that BHDS does not know: all but minutes and hours.
    """
    check_known(target)
    check_known(interval)
    length_us, source_us = INTERVALS[target], INTERVALS[interval]
    assert length_us is not None
    assert source_us is not None
    step_us, unit = parse_offset(step), step[-1]
    sets = length_us // step_us if step_us else 1
    length, source = pl.duration(microseconds=length_us), pl.duration(microseconds=source_us)
    made = {}
    for n in range(sets):
        offset = f"{n * int(step[:-1])}{unit}"
        windows = part.group_by_dynamic(TIME, every=target, offset=offset)
        whole = pl.col("_end") - pl.col("_begin") == length
        frame = windows.agg(
            *_aggregates(part, interval),
            pl.col(TIME).first().alias("_begin"),
            (pl.col(TIME).last() + source).alias("_end"),
        )
        made[offset] = frame.filter(whole).drop("_begin", "_end")
    return made


def _aggregates(part: pl.DataFrame, interval: str) -> list[pl.Expr]:
    name = vwap_name(interval)
    aggregates = [
        pl.col("open").first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").last(),
        pl.col(*SUMS).sum(),
        pl.col(name).first().alias(f"{name}_open"),
    ]
    if "funding_rate" in part.columns:
        paid = pl.col("funding_rate").abs() > _FUNDING_MIN
        aggregates += [
            pl.col("funding_rate").filter(paid).first(),
            pl.col("open").filter(paid).first().alias("funding_price"),
            pl.col(TIME).filter(paid).first().alias("funding_time"),
        ]
    return aggregates


def _with_funding(bars: pl.DataFrame, funding: pl.DataFrame | None) -> pl.DataFrame:
    """The rate of the hour in which it was calculated, to the bar that opens with that hour."""
    if funding is None or funding.is_empty():
        return bars.with_columns(funding_rate=pl.lit(0.0))
    rates = (
        funding.sort("calc_time")
        .select(
            pl.col("calc_time").dt.truncate("1h").cast(_MS).alias(TIME),
            pl.col("last_funding_rate").alias("funding_rate"),
        )
        .unique(TIME, keep="last", maintain_order=True)
    )
    joined = bars.join(rates, on=TIME, how="left", maintain_order="left")
    return joined.with_columns(pl.col("funding_rate").fill_null(0.0))


def _filled_by_minutes(bars: pl.DataFrame, vwap: str) -> pl.DataFrame:
    """A row for every minute from the first bar on; bars that open between minutes are passed over."""
    if bars.is_empty():
        return bars
    minutes = bars.select(pl.datetime_range(pl.col(TIME).min(), pl.col(TIME).max(), "1m"))
    filled = minutes.join(bars, on=TIME, how="left", maintain_order="left")
    filled = filled.with_columns(pl.col("close").forward_fill())
    filled = filled.with_columns(
        pl.col("open", "high", "low").fill_null(pl.col("close")), pl.col(*SUMS).fill_null(0)
    )
    if "funding_rate" in bars.columns:
        filled = filled.with_columns(pl.col("funding_rate").fill_null(0.0))
    price = pl.col(vwap).fill_null(pl.col("open"))
    return filled.with_columns(price.clip(pl.col("low"), pl.col("high")).alias(vwap))


def _split(bars: pl.DataFrame, symbol: str) -> dict[str, pl.DataFrame]:
    """Parts begin with the first traded bar after a gap; the filled bars of the gap end the earlier."""
    traded = bars.filter(pl.col("volume") > 0)
    silent = pl.col(TIME).diff()
    moved = (pl.col("open") / pl.col("close").shift() - 1).abs()
    one = (silent > pl.duration(days=1)) & (moved > _CHANGE_MIN)
    two = (silent > pl.duration(days=2)) & (moved > 0)
    begins = traded.filter(one | two)[TIME]
    rows = bars[TIME].search_sorted(begins).to_list()
    edges = [0, *rows, bars.height]
    names = part_names(symbol, len(rows) + 1)
    return {name: bars[edges[n] : edges[n + 1]] for n, name in enumerate(names)}
