"""What the replica answers at the routes of REST: exchangeInfo, recorded or made of its market."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange.market import Instrument, expiry

# The route of each market's exchangeInfo.
EXCHANGE_INFO = {
    "spot": "api/v3/exchangeInfo",
    "um": "fapi/v1/exchangeInfo",
    "cm": "dapi/v1/exchangeInfo",
}
# What an address may use up in a minute.
WEIGHT_PER_MINUTE = {"spot": 6000, "um": 2400, "cm": 2400}
# When a perpetual contract is said to be delivered: 2100-12-25T08:00Z.
_NEVER_MS = 4_133_404_800_000
_RECEIVED = " -> "

# Gives the body of an answer, at the time of the request in milliseconds.
Body = Callable[[int], bytes]


class RestAnswers:
    """Bodies by route. Safe to change while it is served."""

    def __init__(self, bodies: Mapping[str, Body] | None = None) -> None:
        self._bodies = dict(bodies or {})

    @property
    def routes(self) -> list[str]:
        return sorted(self._bodies)

    def put(self, route: str, body: bytes) -> None:
        """Answer with these bytes from now on."""
        self._bodies[route] = lambda _: body

    def answer(self, route: str, query: Mapping[str, str], now_ms: int) -> tuple[int, bytes] | None:
        """Status and body; None where the route is none.

        `symbol` and `symbols` in the query choose, as they do on spot.
        """
        make = self._bodies.get(route)
        if make is None:
            return None
        body = make(now_ms)
        wanted = _wanted(query)
        if wanted is None or "/v3/" not in route:
            return 200, body
        document = json.loads(body)
        chosen = [item for item in document["symbols"] if item["symbol"] in wanted]
        if len(chosen) != len(wanted):
            return 400, b'{"code":-1121,"msg":"Invalid symbol."}'
        return 200, _json({**document, "symbols": chosen})


def made_of(instruments: Iterable[Instrument], end: date) -> RestAnswers:
    """Answers of a synthetic market as it is at the request's time, or on `end` where that is
    before it, its last day not included.

    Spot keeps what was delisted, as BREAK; futures drop what has ended.
    """
    by_market: dict[str, list[Instrument]] = {market: [] for market in EXCHANGE_INFO}
    for instrument in instruments:
        by_market[instrument.market].append(instrument)

    def body_of(market: str) -> Body:
        return lambda now_ms: _json(_document(market, by_market[market], end, now_ms))

    return RestAnswers({EXCHANGE_INFO[m]: body_of(m) for m, own in by_market.items() if own})


def recorded(path: Path) -> RestAnswers:
    """Answers that were recorded: a file, or a folder of files.

    Read are bodies named by their market (`spot.json`, `um.json`, `cm.json`), recordings of routes
    (`{"routes": {route: {"GET": [{"data": …}]}}}`), and lines of `URL -> received: body`. Of several
    of one route the last file's counts, by name.

    Raises InvalidError where none is found.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    answers = RestAnswers()
    for file in files:
        if file.is_file():
            for route, body in _read(file):
                answers.put(route, body)
    if not answers.routes:
        raise InvalidError(
            f"{path} holds no recorded exchangeInfo", f"known are {', '.join(EXCHANGE_INFO)}.json"
        )
    return answers


def _read(file: Path) -> Iterator[tuple[str, bytes]]:
    data = file.read_bytes()
    if file.stem in EXCHANGE_INFO and file.suffix == ".json":
        yield EXCHANGE_INFO[file.stem], data
        return
    if data.lstrip().startswith(b"{"):
        routes = json.loads(data).get("routes", {})
        for route, methods in routes.items():
            if route.strip("/") in EXCHANGE_INFO.values():
                yield route.strip("/"), _json(methods["GET"][0]["data"])
        return
    for line in data.decode("utf-8", "replace").splitlines():
        url, arrow, rest = line.partition(_RECEIVED)
        route = urlsplit(url).path.strip("/")
        if arrow and route in EXCHANGE_INFO.values():
            yield route, rest.partition(": ")[2].encode()


def _wanted(query: Mapping[str, str]) -> set[str] | None:
    if "symbols" in query:
        return set(json.loads(query["symbols"]))
    return {query["symbol"]} if "symbol" in query else None


def _document(market: str, instruments: list[Instrument], end: date, now_ms: int) -> dict[str, Any]:
    today = datetime.fromtimestamp(now_ms // 1000, UTC).date()
    # One that is delisted tomorrow trades until then.
    end = min(end, date.max if today == date.max else today + timedelta(days=1))
    instruments = [one for one in instruments if one.listed < end]
    if market != "spot":
        instruments = [one for one in instruments if one.delisted is None or one.delisted >= end]
    symbols = [_symbol(one, end) for one in instruments]
    weight = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "rateLimits": [{**weight, "limit": WEIGHT_PER_MINUTE[market]}],
        "exchangeFilters": [],
        "symbols": symbols,
    }


def _symbol(instrument: Instrument, end: date) -> dict[str, Any]:
    base, quote = _assets(instrument)
    trading = instrument.delisted is None or instrument.delisted >= end
    status = "TRADING" if trading else "BREAK"
    tick, lot = _step(instrument.tick_decimals), _step(instrument.lot_decimals)
    common: dict[str, Any] = {
        "symbol": instrument.symbol,
        "baseAsset": base,
        "quoteAsset": quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": "1000000",
                "tickSize": tick,
            },
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000", "stepSize": lot},
        ],
    }
    if instrument.market == "spot":
        return {**common, "status": status, "isSpotTradingAllowed": trading}
    ends = expiry(instrument.symbol)
    contract = {
        "pair": instrument.symbol.partition("_")[0],
        "contractType": "CURRENT_QUARTER" if ends else "PERPETUAL",
        "onboardDate": _ms(instrument.listed),
        "deliveryDate": _ms(ends, 8) if ends else _NEVER_MS,
        "pricePrecision": instrument.tick_decimals,
        "quantityPrecision": instrument.lot_decimals,
        "marginAsset": quote if instrument.market == "um" else base,
    }
    if instrument.market == "um":
        return {**common, **contract, "status": status}
    return {
        **common, **contract, "contractStatus": status, "contractSize": instrument.contract_usd,
    }  # fmt: skip


def _assets(instrument: Instrument) -> tuple[str, str]:
    pair = instrument.symbol.partition("_")[0]
    quotes = ("USD",) if instrument.market == "cm" else ("USDT", "USDC", "FDUSD", "BTC", "ETH")
    quote = next((quote for quote in quotes if pair.endswith(quote) and pair != quote), "USDT")
    return pair.removesuffix(quote), quote


def _step(decimals: int) -> str:
    return f"{10.0**-decimals:.{decimals}f}"


def _ms(day: date, hour: int = 0) -> int:
    return int(datetime.combine(day, time(hour), UTC).timestamp()) * 1000


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
