"""Bars against what they are made of: finer bars, and trades.

Bars at the edges of what is handed over must be whole.
"""

from __future__ import annotations

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.crosscheck import RESULT, compare, labelled
from lakehouse_ray.kernels.grid import divides, ends, slot_starts
from lakehouse_ray.model.timespan import MINUTE_US
from lakehouse_ray.model.venue import INTERVALS

# Relative difference that adding up binary fractions in another order may leave.
SUM_TOLERANCE = 1e-9
PRICES = ("open", "high", "low", "close")
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
BAR_VALUES = (*PRICES, *SUMS, "trades")

# The reason of a bar whose finer ones reach over its edges, so that they tell of another time.
OFF_GRID = "bars lie off the grid"
# Begins the reason of a minute whose trades do not tell why its bar differs from them.
UNEXPLAINED = "the bar counts more trades"


def finer_against_coarser(
    finer: pl.DataFrame, coarser: pl.DataFrame, market: str, *, every: bool = False
) -> pl.DataFrame:
    """Hold finer bars, summed, against the published coarser ones.

    finer, coarser: Rows of `silver.klines`, each of one interval; weeks, 3d bars and months go by
        their calendar (`kernels.grid`). A bar off the grid belongs to the coarser bar it lies in.
        Prices are of the finer bars that traded (`traded_prices`).
    every: Also values that agree, exactly or within the tolerance.

    Where finer bars are missing or lie off the grid the reason says so; where all are there it says
    of which days the two files are, since files are made again years later, one interval without
    the other. Raises InvalidError where the intervals do not fit.
    """
    small, large = _interval_of(finer), _interval_of(coarser)
    if not small or not large:
        return RESULT.to_frame()
    step = INTERVALS[small]
    if step is None or not divides(small, large):
        raise InvalidError(f"{large} bars are not made of {small} bars", "take a finer interval")
    sums = (
        finer.with_columns(time=slot_starts(finer["open_time"], large))
        .sort("symbol", "open_time")
        .group_by("symbol", "time", maintain_order=True)
        .agg(
            *traded_prices(), *(pl.col(name).sum() for name in (*SUMS, "trades")),
            bars=pl.len(),
            off=(pl.col("open_time").dt.epoch("us") % step != 0).sum(),
            made=pl.col("source_version").max(),
        )
    )  # fmt: skip
    sums = sums.with_columns(needed=bars_in(sums["time"], small, large))
    reason = (
        pl.when((pl.col("off") > 0) | pl.col("odd"))
        .then(pl.lit(OFF_GRID))
        .when(pl.col("bars") < pl.col("needed"))
        .then(pl.format(f"{{}} of {{}} {small} bars are there", "bars", "needed"))
        .when(pl.col("bars").is_null())
        .then(pl.lit(f"no {small} bars are there"))
        .otherwise(
            pl.format(
                f"all {{}} {small} bars are there; their file is of {{}}, the {large} one of {{}}",
                "needed",
                *(pl.col(name).str.slice(0, len("2022-04-13")) for name in ("made", "made_right")),
            )
        )
    )
    right = coarser.select(
        "symbol", pl.col("open_time").alias("time"), *BAR_VALUES, made="source_version",
        odd=pl.col("open_time") != slot_starts(coarser["open_time"], large),
    )  # fmt: skip
    tolerances = dict.fromkeys(SUMS, SUM_TOLERANCE)
    return labelled(
        compare(sums, right, BAR_VALUES, tolerances, reason=reason, every=every),
        market, "finer_coarser", large,
    )  # fmt: skip


def traded_prices() -> list[pl.Expr]:
    """What the four prices of finer bars, in order, are together: of those that traded.

    A bar without volume carries the price of before on, and the exchange leaves it out of its own
    longer bars. Where none traded, the flat price stays. An unknown volume may be a trade.
    """
    traded = (pl.col("volume") != 0).fill_null(True)
    wholes = {"open": pl.Expr.first, "high": pl.Expr.max, "low": pl.Expr.min, "close": pl.Expr.last}
    return [
        pl.coalesce(whole(pl.col(name).filter(traded)), whole(pl.col(name))).alias(name)
        for name, whole in wholes.items()
    ]


def bars_in(opens: pl.Series, finer: str, coarser: str) -> pl.Series:
    """How many finer bars a whole coarser bar that opens at each of these times has."""
    step = INTERVALS[finer]
    assert step is not None
    micro = opens.dt.epoch("us").to_numpy()
    return pl.Series((ends(micro, coarser) - micro) // step)


def trades_against_bars(
    trades: pl.DataFrame, bars: pl.DataFrame, market: str, *, every: bool = False
) -> pl.DataFrame:
    """Hold aggTrades, summed by minute, against the published 1m bars.

    trades: Rows of `silver.agg_trades`. bars: Rows of `silver.klines` at 1m, for the minutes that
        the trades cover; a bar that counts no trade needs none.

    The number of trades of a minute is the sum of `last - first + 1` over the ids of its trades.
    What makes minutes differ, in the order in which it is looked for: the same surplus lacks in the
    minute beside it (a trade on the edge, stamped differently); ids that stand between aggTrades
    are in none of them (trades that the exchange counts and does not list); ids inside an aggTrade
    that the bar does not count. On COIN-M, `quote_volume` (in the base asset) is not compared: the
    size of a contract is not in the rows.
    """
    interval = "1m"
    names = [n for n in BAR_VALUES if market != "cm" or "quote" not in n]
    quote = pl.col("price") * pl.col("quantity")
    bought = ~pl.col("is_buyer_maker")
    minute = pl.col("transact_time").dt.truncate("1m")
    sums = (
        trades.sort("symbol", "agg_trade_id")
        .with_columns(
            between=(pl.col("first_trade_id") - pl.col("last_trade_id").shift(1) - 1)
            .over("symbol")
            .clip(lower_bound=0)
        )
        .group_by("symbol", minute.alias("time"), maintain_order=True)
        .agg(
            open=pl.col("price").first(),
            high=pl.col("price").max(),
            low=pl.col("price").min(),
            close=pl.col("price").last(),
            volume=pl.col("quantity").sum(),
            quote_volume=quote.sum(),
            taker_buy_volume=pl.col("quantity").filter(bought).sum(),
            taker_buy_quote_volume=quote.filter(bought).sum(),
            trades=(pl.col("last_trade_id") - pl.col("first_trade_id") + 1).sum(),
            holes=pl.col("between").sum(),
        )
    )
    # A minute that counts no trade has a price of its own, carried on, and no aggTrades.
    right = bars.filter(pl.col("trades") > 0).select(
        "symbol", pl.col("open_time").alias("time"), *BAR_VALUES
    )
    sums = _with_neighbours(sums, right)
    surplus, holes = pl.col("surplus"), pl.col("holes")
    reason = (
        pl.when((surplus < 0) & (holes == -surplus))
        .then(pl.format("{} trade ids of this minute are in no aggTrade", holes))
        .when(_moved("before") | _moved("after"))
        .then(pl.format("trades stand in the minute beside it: {}", surplus.abs()))
        .when((surplus < 0) & (holes > 0))
        .then(pl.format("{} trade ids of this minute are in no aggTrade", holes))
        .when(surplus > 0)
        .then(pl.format("{} ids inside aggTrades are not counted by the bar", surplus))
        .when(surplus < 0)
        .then(pl.format(f"{UNEXPLAINED}: {{}}", surplus.abs()))
        .when(surplus.is_null())
        .then(pl.lit("no aggTrades of this minute"))
    )
    tolerances = dict.fromkeys(SUMS, SUM_TOLERANCE)
    return labelled(
        compare(sums, right, names, tolerances, reason=reason, every=every),
        market, "trades_bars", interval,
    )  # fmt: skip


def _with_neighbours(sums: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Add by how many trades and how much volume a minute exceeds its bar, and so for those beside it.

    A minute without trades or without a bar counts as nothing.
    """
    key = ["symbol", "time"]
    both = sums.join(bars, on=key, how="full", coalesce=True).select(
        *key,
        *(
            (pl.col(name).fill_null(0) - pl.col(f"{name}_right").fill_null(0)).alias(surplus)
            for name, surplus in (("trades", "surplus"), ("volume", "surplus_volume"))
        ),
        scale=pl.max_horizontal("volume", "volume_right"),
    )
    minute = pl.duration(microseconds=MINUTE_US)
    values = both.columns[2:]
    for side, moved in (("before", minute), ("after", -minute)):
        beside = both.select(
            "symbol", pl.col("time") + moved, *(pl.col(v).alias(f"{v}_{side}") for v in values)
        )
        sums = sums.join(beside, on=key, how="left")
    return sums.join(both, on=key, how="left")


def _moved(side: str) -> pl.Expr:
    """Whether what a minute has too much (or too little) the one beside it has too little."""
    rest = (pl.col("surplus_volume") + pl.col(f"surplus_volume_{side}")).abs()
    scale = pl.max_horizontal("scale", f"scale_{side}")
    cancels = pl.col("surplus") + pl.col(f"surplus_{side}") == 0
    return (pl.col("surplus") != 0) & cancels & (rest <= SUM_TOLERANCE * scale)


def _interval_of(bars: pl.DataFrame) -> str:
    """The interval of bars; empty where there are none. Raises InvalidError for a mixture."""
    found = bars["interval"].unique().to_list()
    if len(found) > 1:
        raise InvalidError(
            f"bars of one interval are compared, not of {', '.join(map(str, found))}"
        )
    return str(found[0]) if found else ""
