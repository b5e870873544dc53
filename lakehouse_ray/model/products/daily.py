"""Days of a symbol, added up from its bars."""

from __future__ import annotations

from lakehouse_ray.model.dataset import INTERVAL, MARKET, SYMBOL
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.product import Input, Product
from lakehouse_ray.model.table import Column, Partition, Table
from lakehouse_ray.model.timespan import DAY_US
from lakehouse_ray.model.venue import INTERVALS

# Bars that several of make a day.
_INTRADAY = tuple(name for name, us in INTERVALS.items() if us is not None and us < DAY_US)

DAILY = Product(
    name="daily",
    table=Table(
        name="gold.daily",
        doc="UTC days of each symbol, added up from its bars of one interval. What is missing is "
        "counted and never made up; a day without bars has no row.",
        columns=(
            MARKET,
            SYMBOL,
            INTERVAL,
            Column("day", "timestamp", "When the day begins", True, "delta"),
            Column("open", "double", "First price", True),
            Column("high", "double", "Highest price", True),
            Column("low", "double", "Lowest price", True),
            Column("close", "double", "Last price", True),
            Column("volume", "double", "In the base asset; cm: in contracts", True),
            Column("quote_volume", "double", "In the quote asset; cm: in the base asset", True),
            Column("trades", "long", "Number of trades", True, "delta"),
            Column("taker_buy_volume", "double", "Part of `volume` bought by takers", True),
            Column(
                "taker_buy_quote_volume", "double", "Part of `quote_volume` bought by takers", True
            ),
            Column(
                "vwap",
                "double",
                "quote_volume / volume. Null without trades, and on cm, where it would take the "
                "value of a contract",
            ),
            Column("bars", "long", "Bars there are", True, "delta"),
            Column("bars_expected", "long", "Bars a whole day has", True, "delta"),
            Column(
                "realized_volatility",
                "double",
                "Root of the sum of squared logarithmic returns from close to close; from its own "
                "open where the bar before is missing or of another day. Per day, not annualised",
            ),
        ),
        key=("market", "symbol", "interval", "day"),
        time="day",
        partitions=(
            Partition("identity", "market"),
            Partition("identity", "interval"),
            Partition("year", "day"),
        ),
        sort=("symbol", "day"),
    ),
    inputs=(
        Input(
            "klines",
            KLINES,
            (
                "open_time", "open", "high", "low", "close", "volume", "quote_volume", "trades",
                "taker_buy_volume", "taker_buy_quote_volume",
            ),
        ),
    ),
    version=1,
    intervals=_INTRADAY,
)  # fmt: skip
