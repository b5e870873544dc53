"""exchangeInfo as clients of the exchange ask for it, from what is stored.

A symbol that an answer of the exchange had is given as the exchange gave it. One of which only rows
are stored (delisted before anybody asked, or nobody asked) is derived from them and says so.
"""

from __future__ import annotations

from typing import Any

import orjson

from lakehouse_ray.errors import NotFoundError
from lakehouse_ray.kernels.identities import NEVER_US
from lakehouse_ray.model.instrument import contract_size_usd
from lakehouse_ray.model.timespan import DAY_US, format_time, to_us
from lakehouse_ray.model.venue import Market, parse_market
from lakehouse_ray.query.identities import IDENTITY_TABLES, Named, identities, pin_identities
from lakehouse_ray.query.pinned import Among, Pinned, Readable
from lakehouse_ray.query.pins import AsOf
from lakehouse_ray.query.views import VIEWS

# Under this key of a symbol stands what the lake has to say of it; the exchange has no such field.
MARK = "lakehouse"
_DELIVERED_AS = "CURRENT_QUARTER"
# A symbol whose rows reach so near to the last ones of its market is taken to trade.
_STILL_TRADING_US = 2 * DAY_US


def exchange_info(lake: Readable, market: str, as_of: AsOf = None) -> dict[str, Any]:
    """Return the document of a market: every symbol stored, once each.

    `symbols[].lakehouse.derived` is true where the exchange did not say it: status TRADING then means
    that rows reach the last ones of the market give or take two days, BREAK that they do not; there
    are no filters, and precisions are the widest.

    Raises NotFoundError where nothing is known of the market.
    """
    chosen = parse_market(market)
    pinned = pin_identities(lake, as_of)
    # As bytes: who asks may do with the document what he likes.
    told = pinned.derive(
        ("exchange_info", chosen), IDENTITY_TABLES, lambda: _records(pinned, chosen)
    )
    server_time, *records = map(orjson.loads, told)
    if not records:
        raise NotFoundError(
            f"nothing is known of the symbols of {chosen}",
            f"`lakehouse ingest --market {chosen} --dataset instruments`, or bars of it",
        )
    return {
        "timezone": "UTC",
        "serverTime": server_time,
        "rateLimits": [],
        "exchangeFilters": [],
        "symbols": records,
    }


def _records(pinned: Pinned, market: Market) -> tuple[bytes, ...]:
    """The document's time, and its records by symbol, each as JSON."""
    symbols, asked_us = _stored(pinned, market)
    last: dict[str, Named] = {one.symbol: one for one in identities(pinned, market)}
    ends = [life.row_end_us for one in last.values() for life in one.identity.lives]
    latest_us = max(ends, default=0)
    for symbol, one in last.items():
        if symbol not in symbols:
            symbols[symbol] = _derived(one, latest_us)
        symbols[symbol][MARK] = symbols[symbol].get(MARK, {"derived": False}) | _extent(one)
    records = [symbols[name] for name in sorted(symbols)]
    return tuple(map(orjson.dumps, (max(asked_us, latest_us) // 1000, *records)))


def _stored(pinned: Pinned, market: Market) -> tuple[dict[str, dict[str, Any]], int]:
    """Records as the exchange gave them, of its last answer that had them, and when that was."""
    view = VIEWS["silver.instruments"]
    rows = pinned.frame(
        f"SELECT symbol, raw, gone_at, last_seen FROM {view.name} ORDER BY symbol, listing",
        view,
        Among({"market": market}),
    )
    found: dict[str, dict[str, Any]] = {}
    asked_us = 0
    for symbol, raw, gone_at, last_seen in rows.iter_rows():
        record: dict[str, Any] = orjson.loads(raw)
        if gone_at is not None:
            # The last word on it was another; since then the exchange has none.
            record["contractStatus" if market == "cm" else "status"] = "BREAK"
            record[MARK] = {"derived": False, "goneAt": format_time(to_us(gone_at))}
        found[symbol] = record
        asked_us = max(asked_us, to_us(last_seen))
    return found, asked_us


def _extent(one: Named) -> dict[str, Any]:
    lives = one.identity.lives
    told: dict[str, Any] = {"identity": one.name}
    if lives:
        told |= {
            "firstRow": format_time(lives[0].first_us),
            "lastRow": format_time(lives[-1].last_us),
        }
    return told


def _derived(one: Named, latest_us: int) -> dict[str, Any]:
    identity = one.identity
    base, quote = one.assets
    ends_us = identity.ends_us
    trade_end_us = identity.trade_end_us or 0
    trading = ends_us is None and trade_end_us >= latest_us - _STILL_TRADING_US
    status = "TRADING" if trading else "BREAK"
    record: dict[str, Any] = {
        "symbol": one.symbol,
        "baseAsset": base,
        "quoteAsset": quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "orderTypes": [],
        "filters": [],
        MARK: {"derived": True},
    }
    if one.market == "spot":
        return record | {
            "status": status,
            "quoteAssetPrecision": 8,
            "isSpotTradingAllowed": trading,
            "isMarginTradingAllowed": False,
            "permissions": ["SPOT"],
        }
    lives = identity.lives
    begins_us = identity.begins_us or (lives[0].first_us if lives else 0)
    record |= {
        "pair": one.symbol.partition("_")[0],
        "contractType": "PERPETUAL" if one.kind == "perpetual" else _DELIVERED_AS,
        "onboardDate": begins_us // 1000,
        "deliveryDate": (ends_us or NEVER_US) // 1000,
        "pricePrecision": 8,
        "quantityPrecision": 8,
        "marginAsset": base if one.market == "cm" else quote,
        "underlyingType": "COIN",
    }
    if one.market == "um":
        return record | {"status": status}
    return record | {"contractStatus": status, "contractSize": contract_size_usd(one.symbol)}
