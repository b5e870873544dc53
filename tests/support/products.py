"""Products of several kinds, small enough to be checked by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from lakehouse_ray.gold.recipe import Derive, Inputs, Recipe
from lakehouse_ray.gold.registry import RECIPES
from lakehouse_ray.model.dataset import INTERVAL, MARKET, SYMBOL
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.product import Input, Product, ProductUnit
from lakehouse_ray.model.products.daily import DAILY
from lakehouse_ray.model.table import Column, Partition, Table
from lakehouse_ray.model.timespan import DAY_US

_MARKET = Partition("identity", "market")
_TIME = Column("open_time", "timestamp", "", True, "delta")

# A row per bar, with the close of the bar before: the first of a month needs the month before.
STEPS = Product(
    name="steps",
    table=Table(
        name="gold.steps",
        columns=(MARKET, SYMBOL, INTERVAL, _TIME, Column("step", "double", "")),
        key=("market", "symbol", "interval", "open_time"),
        time="open_time",
        partitions=(
            _MARKET,
            Partition("identity", "interval"),
            Partition("month", "open_time"),
            Partition("bucket16", "symbol"),
        ),
        sort=("symbol", "open_time"),
    ),
    inputs=(Input("bars", KLINES, ("open_time", "close"), lookback_us=DAY_US),),
    version=1,
    intervals=("1m", "1h"),
)

# Of each symbol's day, its place among all of its market: needs them all at once.
RANKS = Product(
    name="ranks",
    table=Table(
        name="gold.ranks",
        columns=(
            MARKET,
            SYMBOL,
            INTERVAL,
            Column("day", "timestamp", "", True, "delta"),
            Column("rank", "long", "", True),
        ),
        key=("market", "symbol", "interval", "day"),
        time="day",
        partitions=(_MARKET, Partition("identity", "interval"), Partition("year", "day")),
        sort=("symbol", "day"),
    ),
    inputs=(Input("days", DAILY.table, ("symbol", "day", "quote_volume")),),
    version=1,
    of="market",
    intervals=DAILY.intervals,
)

# All there is of a symbol in one row, whatever the interval: no unit of it is cut by time.
LIVES = Product(
    name="lives",
    table=Table(
        name="gold.lives",
        columns=(
            MARKET,
            SYMBOL,
            Column("first", "timestamp", "", True, "delta"),
            Column("last", "timestamp", "", True, "delta"),
            Column("bars", "long", "", True),
        ),
        key=("market", "symbol"),
        time="first",
        partitions=(_MARKET,),
        sort=("symbol",),
    ),
    inputs=(Input("bars", KLINES, ("open_time",), in_pieces=True),),
    version=1,
    period="history",
)


def derive_steps(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame:
    bars = inputs.frame("bars")
    return bars.select("open_time", step=pl.col("close") - pl.col("close").shift())


def derive_ranks(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame:
    days = pl.concat([frame for _, frame in inputs.symbols("days")])
    place = pl.struct("quote_volume", "symbol").rank("ordinal", descending=True).over("day")
    return days.select("symbol", "day", rank=place.cast(pl.Int64))


def derive_lives(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame:
    pieces = [
        piece.select(first=pl.col("open_time").min(), last=pl.col("open_time").max(), bars=pl.len())
        for piece in inputs.pieces("bars")
    ]
    return pl.concat(pieces).select(
        pl.col("first").min(), pl.col("last").max(), pl.col("bars").sum().cast(pl.Int64)
    )


def refuse_bbb(unit: ProductUnit, inputs: Inputs) -> pl.DataFrame:
    if unit.symbol == "BBB":
        raise ZeroDivisionError("BBB does not divide")
    return derive_steps(unit, inputs)


ALL: Mapping[str, Recipe] = {
    **RECIPES,
    "steps": Recipe(STEPS, derive_steps),
    "ranks": Recipe(RANKS, derive_ranks),
    "lives": Recipe(LIVES, derive_lives),
}


def only(name: str, derive: Derive | None = None, **changes: object) -> dict[str, Recipe]:
    """One recipe, or a variant of it."""
    recipe = ALL[name]
    product = replace(recipe.product, **changes)  # type: ignore[arg-type]
    return {name: Recipe(product, derive or recipe.derive)}
