"""The lake's questions about symbols rather than rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.venue import parse_market
from lakehouse_ray.query.exchange_info import exchange_info
from lakehouse_ray.query.identities import frame_of, identities, pin_identities
from lakehouse_ray.query.moments import When, micro
from lakehouse_ray.query.pinned import Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.universe import states_at, universe
from lakehouse_ray.query.why import question, why
from lakehouse_ray.query.why_gold import why_gold
from lakehouse_ray.query.witnesses import Bytes

Names = str | Iterable[str] | None


class LakeInstruments:
    """What `Lake` knows of instruments (docs/instruments.md), and where a value is from (docs/why.md)."""

    def __init__(self, bytes_: Bytes | None) -> None:
        self._bytes = bytes_

    def instruments(
        self: Readable,
        market: str | None = None,
        symbols: Names = None,
        at: When = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """Return what exchangeInfo says of each symbol: `silver.instruments`.

        at: Then what it said at that moment, as far as answers are stored: a state of
            `silver.instrument_log`, whose `seen_until` says until when it was seen.

        Raises InvalidError for an unknown market.
        """
        chosen = parse_market(market) if market else None
        return states_at(self, chosen, _names(symbols), None if at is None else micro(at), as_of)

    def identities(
        self: Readable, market: str, symbols: Names = None, *, as_of: AsOf = None
    ) -> pl.DataFrame:
        """Return which assets or contracts each ticker of a market meant, one row each:
        `query.identities.IDENTITIES`. Reads the times of all their rows.

        Raises InvalidError for an unknown market.
        """
        found = identities(pin_identities(self, as_of), parse_market(market), _names(symbols))
        return frame_of(found)

    def universe(
        self: Readable,
        market: str = "spot",
        at: When = None,
        quote: Names = None,
        kind: str | None = None,
        *,
        as_of: AsOf = None,
    ) -> pl.DataFrame:
        """Return the symbols that traded at a moment, delisted ones too, each with its evidence:
        `query.universe.UNIVERSE`.

        at: None: at the end of what is stored. quote: Such as `"USDT"`, or several.
        kind: spot, perpetual or delivery.

        Raises InvalidError for an unknown market or kind, NotFoundError where nothing is known of
        the market.
        """
        at_us = None if at is None else micro(at)
        return universe(self, market, at_us, _names(quote), kind, as_of)

    def exchange_info(
        self: Readable, market: str = "spot", *, as_of: AsOf = None
    ) -> dict[str, Any]:
        """Return exchangeInfo as a client of the exchange reads it, every stored symbol in it;
        `symbols[].lakehouse` says what is derived from rows.

        Raises InvalidError for an unknown market, NotFoundError where nothing is known of it.
        """
        return exchange_info(self, market, as_of)

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
        """Return where the row of a moment is from: object, version, line, snapshot, what its rules
        say, and what other versions and files say of it; for a row that is not there, the gap.

        gold: A derived table instead (`klines`, `resampled_klines`, `daily`), and the rows of
            silver behind its bar.

        Raises InvalidError for what cannot be, NotFoundError for a symbol of which nothing is
        stored.
        """
        if at is None:
            raise InvalidError("no moment is given", "such as 2022-04-13T05:00")
        lake = cast("Readable", self)
        if gold is not None:
            return why_gold(
                lake, gold, market, symbol, interval or "", micro(at), self._bytes, as_of
            )
        asked = question(market, dataset, symbol, interval, micro(at))
        return why(lake, asked, self._bytes, as_of)


def _names(names: Names) -> tuple[str, ...]:
    parts = names.split(",") if isinstance(names, str) else names or ()
    return tuple(dict.fromkeys(name.strip() for name in parts if name.strip()))
