"""A method for each data set but klines, for every kind of lake: they ask `rows`."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from lakehouse_ray.query.moments import When
from lakehouse_ray.query.pins import AsOf

Answer_co = TypeVar("Answer_co", covariant=True)


class AsksRows(Protocol[Answer_co]):
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
    ) -> Answer_co: ...


class LakeDatasets(Generic[Answer_co]):
    """Rows of a symbol in `[start, end)`, in the order of time; as of `rows`."""

    def agg_trades(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Trades of one order at one price, added up."""
        return self.rows("aggTrades", symbol, start, end, market=market, as_of=as_of)

    def trades(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Single trades."""
        return self.rows("trades", symbol, start, end, market=market, as_of=as_of)

    def funding_rates(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Funding of perpetuals, by the time it was paid."""
        return self.rows("fundingRate", symbol, start, end, market=market, as_of=as_of)

    def metrics(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Open interest and ratios of long and short accounts."""
        return self.rows("metrics", symbol, start, end, market=market, as_of=as_of)

    def mark_price_klines(
        self: AsksRows[Answer_co],
        symbol: str,
        interval: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Bars of the mark price."""
        return self.rows(
            "markPriceKlines", symbol, start, end, market=market, interval=interval, as_of=as_of
        )

    def index_price_klines(
        self: AsksRows[Answer_co],
        symbol: str,
        interval: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Bars of the index price."""
        return self.rows(
            "indexPriceKlines", symbol, start, end, market=market, interval=interval, as_of=as_of
        )

    def premium_index_klines(
        self: AsksRows[Answer_co],
        symbol: str,
        interval: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Bars of the premium index."""
        return self.rows(
            "premiumIndexKlines", symbol, start, end, market=market, interval=interval, as_of=as_of
        )

    def book_ticker(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Best bid and ask, each time they changed."""
        return self.rows("bookTicker", symbol, start, end, market=market, as_of=as_of)

    def book_depth(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Depth of the book by distance from the price."""
        return self.rows("bookDepth", symbol, start, end, market=market, as_of=as_of)

    def liquidation_snapshot(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Forced orders."""
        return self.rows("liquidationSnapshot", symbol, start, end, market=market, as_of=as_of)

    def mark_prices(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "um",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """Mark price, index and funding rate to come, as streams told them."""
        return self.rows("markPrice", symbol, start, end, market=market, as_of=as_of)

    def book_levels(
        self: AsksRows[Answer_co],
        symbol: str,
        start: When = None,
        end: When = None,
        market: str = "spot",
        *,
        as_of: AsOf = None,
    ) -> Answer_co:
        """The best levels of the book, as streams told them."""
        return self.rows("bookLevels", symbol, start, end, market=market, as_of=as_of)
