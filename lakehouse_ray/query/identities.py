"""Which asset or contract a ticker meant at which time, as far as what is stored tells.

A ticker is cut where there is evidence that it was given again or stood still alone
(docs/instruments.md). A hole of the rows without evidence cuts nothing and is counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import polars as pl

from lakehouse_ray.kernels.causes import classify
from lakehouse_ray.kernels.identities import Begin, Halt, Identity, Life, Listing, cut
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.instrument import expiry_us, parse_symbol
from lakehouse_ray.model.renames import RENAME_WITHIN_US, RENAMES, REUSED_TICKERS
from lakehouse_ray.model.timespan import DAY_US, from_us, to_us
from lakehouse_ray.model.venue import INTERVALS, Market
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.gap_facts import gather
from lakehouse_ray.query.gaps import find
from lakehouse_ray.query.lives import TRADED_ROWS, runs
from lakehouse_ray.query.pinned import Among, Pinned, Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.views import VIEWS

_TIME = pl.Datetime("us", "UTC")

IDENTITIES = pl.Schema(
    {
        "market": pl.String(),
        "symbol": pl.String(),
        # The ticker, and the day it began to mean this where that is known: LITUSDT@2025-12-23.
        "identity": pl.String(),
        "base": pl.String(),
        "quote": pl.String(),
        "kind": pl.String(),
        "begins": _TIME,
        "begin_evidence": pl.String(),
        "ends": _TIME,
        "end_evidence": pl.String(),
        # no, unknown; null: nothing had the ticker before it, as far as is known.
        "same_as_before": pl.String(),
        "first_row": _TIME,
        "last_row": _TIME,
        # End of the last row with a trade.
        "trade_end": _TIME,
        "unexplained_holes": pl.Int64(),
        # By exchangeInfo, in its last answer that had it; null: no answer is stored.
        "status": pl.String(),
        "onboard_date": _TIME,
        "delivery_date": _TIME,
        "last_seen": _TIME,
        "renamed_from": pl.String(),
        "renamed_to": pl.String(),
    }
)


@dataclass(frozen=True)
class Named:
    """An identity of a symbol. renamed_from, renamed_to: Names of other identities, or empty."""

    market: Market
    symbol: str
    name: str
    identity: Identity
    renamed_from: str = ""
    renamed_to: str = ""

    @cached_property
    def assets(self) -> tuple[str, str]:
        """Base and quote: as exchangeInfo says, else as the name tells."""
        listing = self.identity.listing
        if listing is not None:
            return listing.base, listing.quote
        parsed = parse_symbol(self.symbol, self.market)
        return parsed.base, parsed.quote

    @property
    def kind(self) -> str:
        """spot, perpetual or delivery."""
        listing = self.identity.listing
        if listing is not None and listing.contract_type:
            return "perpetual" if "PERPETUAL" in listing.contract_type else "delivery"
        return parse_symbol(self.symbol, self.market).contract

    def row(self) -> dict[str, Any]:
        one, listing = self.identity, self.identity.listing
        lives = one.lives
        return {
            "market": self.market,
            "symbol": self.symbol,
            "identity": self.name,
            "base": self.assets[0],
            "quote": self.assets[1],
            "kind": self.kind,
            "begins": one.begins_us,
            "begin_evidence": one.begin_evidence or None,
            "ends": one.ends_us,
            "end_evidence": one.end_evidence or None,
            "same_as_before": one.same_as_before,
            "first_row": lives[0].first_us if lives else None,
            "last_row": lives[-1].last_us if lives else None,
            "trade_end": one.trade_end_us,
            "unexplained_holes": one.unexplained_holes,
            "status": listing.status if listing else None,
            "onboard_date": listing.onboard_us if listing else None,
            "delivery_date": listing.delivery_us if listing else None,
            "last_seen": listing.last_seen_us if listing else None,
            "renamed_from": self.renamed_from or None,
            "renamed_to": self.renamed_to or None,
        }


_VIEWS = (*VIEWS.values(), TRADED_ROWS)
IDENTITY_TABLES = tuple({table.name: table for view in _VIEWS for table in view.tables}.values())


def pin_identities(lake: Readable, as_of: AsOf = None) -> Pinned:
    """Pin what identities are found in."""
    return Pinned(lake, _VIEWS, as_of)


def identities(pinned: Pinned, market: Market, symbols: Sequence[str] = ()) -> Sequence[Named]:
    """Return every identity of a market's tickers (or of these), by symbol and time.

    Reads the times of all their rows, unless what they tell is kept from an earlier question.
    """
    chosen = tuple(symbols)
    return pinned.derive(
        ("identities", market, chosen), IDENTITY_TABLES, lambda: _find(pinned, market, chosen)
    )


def _find(pinned: Pinned, market: Market, symbols: tuple[str, ...]) -> tuple[Named, ...]:
    lives = _lives(pinned, market, symbols)
    listings = _listings(pinned, market, symbols)
    halts = _halts(pinned, market, lives)
    found: list[Named] = []
    for symbol in sorted({*lives, *listings}):
        expiry = expiry_us(symbol) if market != "spot" else None
        facts = [
            Begin(fact.begins_us, f"the ticker was given to another asset, {fact.source}", "no")
            for fact in REUSED_TICKERS
            if (fact.market, fact.symbol) == (market, symbol)
        ]
        cuts = cut(lives.get(symbol, []), listings.get(symbol, []), halts[symbol], facts, expiry)
        found += [Named(market, symbol, _name(symbol, one), one) for one in cuts]
    return tuple(_renamed(found))


def frame_of(found: Sequence[Named]) -> pl.DataFrame:
    """Identities as `IDENTITIES`."""
    plain = pl.Schema({n: pl.Int64() if t == _TIME else t for n, t in IDENTITIES.items()})
    rows = [one.row() for one in found]
    return pl.DataFrame(rows, schema=plain, orient="row").cast(IDENTITIES)


def _name(symbol: str, one: Identity) -> str:
    return symbol if one.begins_us is None else f"{symbol}@{from_us(one.begins_us):%Y-%m-%d}"


def _lives(pinned: Pinned, market: Market, symbols: tuple[str, ...]) -> dict[str, list[Life]]:
    found: dict[str, list[Life]] = defaultdict(list)
    for row in runs(pinned, market, symbols).iter_rows(named=True):
        found[row["symbol"]].append(
            Life(
                to_us(row["first_row"]), to_us(row["last_row"]), to_us(row["row_end"]),
                _us(row["trade_end"]), row["days"],
            )
        )  # fmt: skip
    return dict(found)


def _listings(pinned: Pinned, market: Market, symbols: tuple[str, ...]) -> dict[str, list[Listing]]:
    view = VIEWS["silver.instruments"]
    where = Among({"market": market}, None, symbols)
    condition = where.sql(view.tables[0])
    # The ledger has no symbol of these.
    rows = pinned.frame(
        f"SELECT * FROM {view.name} WHERE {condition} ORDER BY symbol, listing",
        view,
        Among({"market": market}),
    )
    found: dict[str, list[Listing]] = defaultdict(list)
    for row in rows.iter_rows(named=True):
        found[row["symbol"]].append(
            Listing(
                row["listing"], to_us(row["first_seen"]), to_us(row["last_seen"]),
                _us(row["gone_at"]), row["base_asset"], row["quote_asset"], row["contract_type"],
                row["status"], _us(row["onboard_date"]), _us(row["delivery_date"]),
            )
        )  # fmt: skip
    return dict(found)


def _halts(
    pinned: Pinned, market: Market, lives: Mapping[str, Sequence[Life]]
) -> dict[str, list[Halt]]:
    """Holes in which a symbol alone stood still, by the gaps of its bars."""
    found: dict[str, list[Halt]] = defaultdict(list)
    left = {symbol for symbol, own in lives.items() if len(own) > 1}
    kinds = [k for k in pinned.kinds if k.dataset is KLINES and k.market == market]
    step = {k.interval: INTERVALS[k.interval or ""] or 31 * DAY_US for k in kinds}
    for kind in sorted(kinds, key=lambda k: -step[k.interval]):
        if step[kind.interval] > DAY_US or not left:
            continue
        stored = pinned.lives(kind)
        asked = tuple(sorted(left.intersection(stored["symbol"])))
        if not asked:
            continue
        gaps = find(pinned, kind, stored, Asked(market, KLINES, kind.interval, asked))
        gaps = gaps.filter(pl.col("end_time") - pl.col("start_time") >= pl.duration(days=6))
        if gaps.is_empty():
            continue
        halted = classify(gather(pinned, kind, gaps, stored)).filter(cause="halted")
        for symbol, start, end, evidence in halted.select(
            "symbol", "start_time", "end_time", "evidence"
        ).iter_rows():
            words = f"the symbol alone stood still: {evidence}"
            found[symbol].append(Halt(to_us(start), to_us(end), words))
            left.discard(symbol)
    return found


def _renamed(found: Sequence[Named]) -> list[Named]:
    """Link identities of renamed assets whose rows follow each other."""
    by_symbol: dict[str, list[int]] = defaultdict(list)
    for place, one in enumerate(found):
        by_symbol[one.symbol].append(place)
    linked = list(found)
    for place, one in enumerate(found):
        for rename in RENAMES:
            end_us = one.identity.trade_end_us
            if one.assets[0] != rename.old or end_us is None:
                continue
            symbol = rename.new + one.symbol.removeprefix(rename.old)
            for other in by_symbol.get(symbol, ()):
                lives = found[other].identity.lives
                near = lives and -DAY_US <= lives[0].first_us - end_us <= RENAME_WITHIN_US
                if near and one.symbol.startswith(rename.old):
                    linked[place] = replace(linked[place], renamed_to=found[other].name)
                    linked[other] = replace(linked[other], renamed_from=one.name)
                    break
    return linked


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)
