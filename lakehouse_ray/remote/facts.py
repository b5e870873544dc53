"""Questions to a query service about what is stored: the local lake's methods, blocking."""

from __future__ import annotations

from typing import Any

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.query.answered import Answered
from lakehouse_ray.query.moments import When
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.remote.answers import read_document, read_frame, read_gaps
from lakehouse_ray.remote.questions import (
    Names,
    Question,
    facts,
    series,
    spell_moment,
    spell_names,
)
from lakehouse_ray.remote.reply import Reply


class RemoteFacts:
    """Asked for and answered like those of the local lake, whose docstrings say more.

    Raises NotFoundError where nothing of it is stored.
    """

    def _ask(self, question: Question) -> Reply:
        raise NotImplementedError

    def gaps(
        self,
        market: str | None = None,
        dataset: str | None = None,
        symbols: Names = None,
        interval: str | None = None,
        start: When = None,
        end: When = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """What is missing and why, one row per gap.

        Raises UnavailableError where files cannot be read: never a part.
        """
        question = series("gaps", market, dataset, symbols, interval, start, end, as_of)
        return read_gaps(self._ask(question))

    def coverage(
        self,
        market: str | None = None,
        dataset: str | None = None,
        symbols: Names = None,
        interval: str | None = None,
        start: When = None,
        end: When = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """How much of each symbol's day is there.

        Raises UnavailableError where files cannot be read: never a part.
        """
        question = series("coverage", market, dataset, symbols, interval, start, end, as_of)
        return read_frame(self._ask(question))

    def find_gaps(
        self,
        market: str | None = None,
        dataset: str | None = None,
        symbols: Names = None,
        interval: str | None = None,
        start: When = None,
        end: When = None,
        *,
        as_of: AsOf = None,
    ) -> Answered:
        """The same as `gaps`; nothing is ever unread."""
        return Answered(self.gaps(market, dataset, symbols, interval, start, end, as_of=as_of))

    def measure_coverage(
        self,
        market: str | None = None,
        dataset: str | None = None,
        symbols: Names = None,
        interval: str | None = None,
        start: When = None,
        end: When = None,
        *,
        as_of: AsOf = None,
    ) -> Answered:
        """The same as `coverage`; nothing is ever unread."""
        return Answered(self.coverage(market, dataset, symbols, interval, start, end, as_of=as_of))

    def quality(
        self,
        market: str | None = None,
        dataset: str | None = None,
        symbols: Names = None,
        interval: str | None = None,
        start: When = None,
        end: When = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """The score of each symbol's days: `gold.quality`."""
        question = series("quality", market, dataset, symbols, interval, start, end, as_of)
        return read_frame(self._ask(question))

    def datasets(
        self,
    ) -> dict[str, Any]:
        """Data sets with what is stored of each, and the tables."""
        return read_document(self._ask(facts("datasets")))

    def snapshots(
        self,
        table: str | None = None,
    ) -> pl.DataFrame:
        """The versions of each table that are kept, or of one."""
        return read_frame(self._ask(facts("snapshots", table=table)))

    def instruments(
        self,
        market: str | None = None,
        symbols: Names = None,
        at: When = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """What exchangeInfo says of each symbol, or said at a moment."""
        question = facts(
            "instruments", as_of, market=market, symbols=spell_names(symbols), at=spell_moment(at)
        )
        return read_frame(self._ask(question))

    def identities(
        self,
        market: str,
        symbols: Names = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """Which assets or contracts each ticker of a market meant."""
        question = facts("identities", as_of, market=market, symbols=spell_names(symbols))
        return read_frame(self._ask(question))

    def universe(
        self,
        market: str = "spot",
        at: When = None,
        quote: Names = None,
        kind: str | None = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """The symbols that traded at a moment, delisted ones too, each with its evidence."""
        quotes, moment = spell_names(quote), spell_moment(at)
        question = facts("universe", as_of, market=market, at=moment, quote=quotes, kind=kind)
        return read_frame(self._ask(question))

    def exchange_info(
        self,
        market: str = "spot",
        *,
        as_of: AsOf = None,
    ) -> dict[str, Any]:
        """exchangeInfo as a client of the exchange reads it."""
        return read_document(self._ask(facts("exchangeInfo", as_of, market=market)))

    def why(
        self,
        symbol: str,
        at: When,
        interval: str | None = None,
        market: str = "spot",
        dataset: str = "klines",
        *,
        gold: str | None = None,
        as_of: AsOf = None,
    ) -> dict[str, Any]:
        """Where the row of a moment is from; the server looks into small files alone."""
        if at is None:
            raise InvalidError("no moment is given", "such as 2022-04-13T05:00")
        question = facts(
            "why", as_of, symbol=symbol, at=spell_moment(at), interval=interval, market=market,
            dataset=dataset, gold=gold,
        )  # fmt: skip
        return read_document(self._ask(question))
