"""Which symbols traded at a moment: the universe without survivorship bias, each with its evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.kernels.identities import NEVER_US
from lakehouse_ray.model.timespan import format_time, from_us
from lakehouse_ray.model.venue import Market, parse_market
from lakehouse_ray.query.identities import (
    IDENTITIES,
    Named,
    frame_of,
    identities,
    pin_identities,
)
from lakehouse_ray.query.pinned import Among, Pinned, Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.scan import text, timestamp
from lakehouse_ray.query.views import VIEWS

_STATE = ("symbol", "status", "present", "valid_from", "seen_until")
# After everything that can be stored.
_END = "TIMESTAMPTZ '2200-01-01 00:00:00+00'"
KINDS = ("spot", "perpetual", "delivery")

# `status` is that at the moment asked for; evidence: what says that it traded, joined by commas:
# rows          it lies between rows with trades that have no long hole between them
# rows_around   rows of one identity lie before and after it, and around it a long hole of which
#               nothing tells why: whether it traded then is not known
# exchange_info an answer of that time says TRADING
# onboard_date  a later answer says since when the contract trades
UNIVERSE = pl.Schema(
    {
        **{
            name: IDENTITIES[name]
            for name in ("market", "symbol", "identity", "base", "quote", "kind")
        },
        "evidence": pl.String(),
        **{
            name: IDENTITIES[name]
            for name in (
                "status", "first_row", "last_row", "trade_end", "begins", "begin_evidence", "ends",
                "end_evidence", "same_as_before", "renamed_from", "renamed_to",
            )
        },
    }
)  # fmt: skip


def universe(
    lake: Readable,
    market: str,
    at_us: int | None,
    quotes: Iterable[str] = (),
    kind: str | None = None,
    as_of: AsOf = None,
) -> pl.DataFrame:
    """Return `UNIVERSE` of a market at a moment, by symbol.

    at_us: None: the last moment of which anything is stored.
    quotes: Only pairs with one of these quote assets. kind: One of `KINDS`.

    Raises InvalidError for an unknown market or kind, NotFoundError where nothing is known of the
    market.
    """
    chosen = parse_market(market)
    if kind is not None and kind not in KINDS:
        raise InvalidError(f"unknown kind {kind!r}", f"one of {', '.join(KINDS)}")
    pinned = pin_identities(lake, as_of)
    found = identities(pinned, chosen)
    if not found:
        raise NotFoundError(
            f"nothing is known of the symbols of {chosen}",
            f"`lakehouse ingest --market {chosen} --dataset instruments`, or bars of it",
        )
    if at_us is None:
        at_us = _last_moment(found)
    wanted = frozenset(quotes)
    statuses = _statuses(pinned, chosen, at_us)
    rows = []
    for one in found:
        if (wanted and one.assets[1] not in wanted) or kind not in (None, one.kind):
            continue
        status, present = statuses.get(one.symbol, (None, None))
        evidence = _evidence(one, at_us, status, present)
        if evidence:
            rows.append({"identity": one.name, "evidence": ",".join(evidence), "status": status})
    facts = pl.DataFrame(
        rows, schema={"identity": pl.String(), "evidence": pl.String(), "status": pl.String()}
    )
    told = frame_of(found).drop("status").join(facts, on="identity")
    return told.select(UNIVERSE.names()).sort("symbol").cast(UNIVERSE)


def stored_range(found: Sequence[Named]) -> str:
    """In words, from when to when any of them has rows."""
    lives = [life for one in found for life in one.identity.lives]
    if not lives:
        return "no rows are stored"
    first, last = min(a.first_us for a in lives), max(a.row_end_us for a in lives)
    return f"rows are stored from {format_time(first)} to {format_time(last)}"


def _last_moment(found: Sequence[Named]) -> int:
    """When the exchange last answered; else the last moment of stored rows."""
    seen = [one.identity.listing.last_seen_us for one in found if one.identity.listing is not None]
    ends = [life.row_end_us - 1 for one in found for life in one.identity.lives]
    return max(seen, default=0) or max(ends, default=0)


def _evidence(one: Named, at_us: int, status: str | None, present: bool | None) -> list[str]:
    """What says that an identity traded at a moment; nothing where an answer of then denies it."""
    identity = one.identity
    if not identity.holds(at_us):
        return []
    if present is False or (present and status != "TRADING"):
        return []
    evidence = []
    traded = [life for life in identity.lives if life.trade_end_us is not None]
    if any(life.first_us <= at_us < (life.trade_end_us or 0) for life in traded):
        evidence.append("rows")
    elif traded and traded[0].first_us <= at_us < traded[-1].first_us:
        evidence.append("rows_around")
    if present:
        evidence.append("exchange_info")
    listing = identity.listing
    if listing is not None and listing.onboard_us is not None and not present:
        until_us = listing.delivery_us or NEVER_US
        # After the last answer that had it, nothing says that it still traded.
        known_until_us = min(until_us, listing.last_seen_us)
        trading = listing.status == "TRADING" or until_us <= listing.last_seen_us
        if trading and listing.onboard_us <= at_us < known_until_us:
            evidence.append("onboard_date")
    return evidence


def _statuses(pinned: Pinned, market: Market, at_us: int) -> dict[str, tuple[str | None, bool]]:
    """Status of each symbol, and whether it was there, where answers before and after that moment
    agree on it, or one is of that moment."""
    view = VIEWS["silver.instrument_log"]

    def read() -> pl.DataFrame:
        query = f"SELECT {', '.join(_STATE)} FROM {view.name} WHERE market = {text(market)}"
        return pinned.frame(query, view, Among({"market": market}))

    states = pinned.derive(("states", market), view.tables, read)
    moment = pl.lit(from_us(at_us), pl.Datetime("us", "UTC"))
    then = states.filter(moment.is_between("valid_from", "seen_until"))
    return {symbol: (status, there) for symbol, status, there, *_ in then.iter_rows()}


def states_at(
    lake: Readable,
    market: Market | None,
    symbols: Sequence[str],
    at_us: int | None,
    as_of: AsOf = None,
) -> pl.DataFrame:
    """What exchangeInfo said: `silver.instruments`, or the states of a moment.

    at_us: Then `silver.instrument_log` where `valid_from <= at < valid_to`.
    """
    view = VIEWS["silver.instruments" if at_us is None else "silver.instrument_log"]
    equal: dict[str, str] = {} if market is None else {"market": market}
    chosen = Among(equal, None, tuple(symbols))
    condition = chosen.sql(view.tables[0])
    if at_us is not None:
        moment = timestamp(at_us)
        condition += f" AND valid_from <= {moment} AND {moment} < coalesce(valid_to, {_END})"
    pinned = Pinned(lake, [view], as_of)
    order = "listing" if at_us is None else "valid_from"
    query = f"SELECT * FROM {view.name} WHERE {condition} ORDER BY market, symbol, {order}"
    return pinned.frame(query, view, Among(equal))
