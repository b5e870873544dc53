"""How the archive names its objects, and which columns each data set has."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType

ROOTS = MappingProxyType({"spot": "data/spot", "um": "data/futures/um", "cm": "data/futures/cm"})
FREQUENCIES = ("daily", "monthly")
INTERVAL_SECONDS = MappingProxyType(
    {
        "1s": 1,
        "1m": 60,
        "3m": 180,
        "5m": 300,
        "15m": 900,
        "30m": 1800,
        "1h": 3600,
        "2h": 7200,
        "4h": 14_400,
        "6h": 21_600,
        "8h": 28_800,
        "12h": 43_200,
        "1d": 86_400,
        "3d": 259_200,
        "1w": 604_800,
        "1mo": 0,  # the only one without a fixed length
    }
)
# Bars longer than a day are published by the month alone.
LONG_INTERVALS = ("3d", "1w", "1mo")

_KLINE_COLUMNS = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    "taker_buy_volume,taker_buy_quote_volume,ignore"
)


@dataclass(frozen=True)
class Shape:
    """The columns of a data set.

    time_column: Index of the column that places a row in time.
    value_column: Index of a number that a defect may change: neither key nor time, and no
        constraint ties it to another column.
    by_interval: Whether its folders and file names carry an interval.
    """

    columns: tuple[str, ...]
    time_column: int
    value_column: int
    by_interval: bool = False


def _shape(columns: str, time_column: str, value_column: str, by_interval: bool = False) -> Shape:
    names = tuple(columns.split(","))
    return Shape(names, names.index(time_column), names.index(value_column), by_interval)


_KLINES = _shape(_KLINE_COLUMNS, "open_time", "volume", by_interval=True)
SHAPES = MappingProxyType(
    {
        "klines": _KLINES,
        "markPriceKlines": _KLINES,
        "indexPriceKlines": _KLINES,
        "premiumIndexKlines": _KLINES,
        "aggTrades": _shape(
            "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
            "transact_time",
            "quantity",
        ),
        "trades": _shape("id,price,qty,quote_qty,time,is_buyer_maker", "time", "qty"),
        "fundingRate": _shape(
            "calc_time,funding_interval_hours,last_funding_rate", "calc_time", "last_funding_rate"
        ),
        "metrics": _shape(
            "create_time,symbol,sum_open_interest,sum_open_interest_value,"
            "count_toptrader_long_short_ratio,sum_toptrader_long_short_ratio,"
            "count_long_short_ratio,sum_taker_long_short_vol_ratio",
            "create_time",
            "sum_open_interest",
        ),
        "bookTicker": _shape(
            "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,"
            "transaction_time,event_time",
            "transaction_time",
            "best_bid_qty",
        ),
        "bookDepth": _shape("timestamp,percentage,depth,notional", "timestamp", "depth"),
        "liquidationSnapshot": _shape(
            "time,side,order_type,time_in_force,original_quantity,price,average_price,"
            "order_status,last_fill_quantity,accumulated_fill_quantity",
            "time",
            "original_quantity",
        ),
    }
)


def columns(market: str, dataset: str) -> tuple[str, ...]:
    """The header a file of this data set has, or would have."""
    names = SHAPES[dataset].columns
    if dataset == "trades" and market == "cm":
        return tuple("base_qty" if name == "quote_qty" else name for name in names)
    if dataset in ("trades", "aggTrades") and market == "spot":
        return (*names, "is_best_match")
    return names


@dataclass(frozen=True)
class ArchiveKey:
    """One zip of the archive: `parse` reads what `str` writes.

    interval: Empty for data sets that have none.
    period: The day, or the first day of the month where `frequency` is monthly.
    """

    market: str
    frequency: str
    dataset: str
    symbol: str
    interval: str
    period: date

    @property
    def folder(self) -> str:
        """With a final "/"."""
        parts = [ROOTS[self.market], self.frequency, self.dataset, self.symbol]
        return "/".join([*parts, self.interval] if self.interval else parts) + "/"

    @property
    def stem(self) -> str:
        """The file's name without ".zip"."""
        stamp = f"{self.period:%Y-%m-%d}" if self.frequency == "daily" else f"{self.period:%Y-%m}"
        return f"{self.symbol}-{self.interval or self.dataset}-{stamp}"

    def __str__(self) -> str:
        return f"{self.folder}{self.stem}.zip"

    @property
    def end(self) -> date:
        """The day after its last one."""
        if self.frequency == "daily":
            return self.period + timedelta(days=1)
        return next_month(self.period)

    @classmethod
    def parse(cls, text: str) -> ArchiveKey | None:
        """None where `text` is not the key of a zip of the archive."""
        market = next((name for name, root in ROOTS.items() if text.startswith(f"{root}/")), None)
        if market is None:
            return None
        parts = text.removeprefix(f"{ROOTS[market]}/").split("/")
        if len(parts) not in (4, 5) or parts[0] not in FREQUENCIES or parts[1] not in SHAPES:
            return None
        frequency, dataset, symbol = parts[:3]
        interval = parts[3] if len(parts) == 5 else ""
        stamp = re.search(r"-(\d{4}-\d\d(?:-\d\d)?)\.zip$", parts[-1], re.ASCII)
        if stamp is None:
            return None
        try:
            period = date.fromisoformat(f"{stamp[1]}-01"[:10])
        except ValueError:
            return None
        key = cls(market, frequency, dataset, symbol, interval, period)
        return key if str(key) == text else None


def next_month(day: date) -> date:
    """The first day of the month after that of `day`."""
    return day.replace(day=1) + timedelta(days=calendar.monthrange(day.year, day.month)[1])


def seconds_of(day: date) -> int:
    """Seconds from 1970-01-01 UTC to the start of `day`."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
