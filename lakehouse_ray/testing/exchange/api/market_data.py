"""The exchange's REST as one thing: a request and its time in, a status, headers and a body out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from lakehouse_ray.testing.exchange.api import refusals
from lakehouse_ray.testing.exchange.api.bars import BarHistory
from lakehouse_ray.testing.exchange.api.info import HistoryInfo
from lakehouse_ray.testing.exchange.api.limits import Admission, Meter, RateLimits
from lakehouse_ray.testing.exchange.api.parameters import Parameters
from lakehouse_ray.testing.exchange.api.questions import Asked, Memory
from lakehouse_ray.testing.exchange.api.refusals import Refusal
from lakehouse_ray.testing.exchange.api.routes import PREFIXES, Route, routes
from lakehouse_ray.testing.exchange.api.tickers import Books
from lakehouse_ray.testing.exchange.conditions import http_date
from lakehouse_ray.testing.exchange.history import History
from lakehouse_ray.testing.exchange.rest import RestAnswers

_KEY = re.compile("[A-Za-z0-9]{64}", re.ASCII)
_SYMBOLS_RANGE = r'^\["[\w\-._&&[^a-z]]{1,50}"(,"[\w\-._&&[^a-z]]{1,50}"){0,}\]$'
_MICROSECOND = ("microsecond", "microseconds")


@dataclass(frozen=True)
class Request:
    """path: Without a "/" before. query: Pairs as sent, so that repeated names show."""

    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    address: str
    method: str = "GET"


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class MarketData:
    """Answers out of an archive what the exchange's market-data routes answer.

    Nothing that happens after the request's time is told. `admit` is to be called from one thread,
    and before `answer`, which is safe from several.

    info: Bodies of exchangeInfo; of a market without one it is made of the archive.
    books: What the depth route answers.
    """

    def __init__(
        self,
        history: History,
        info: RestAnswers | None = None,
        limits: RateLimits | None = None,
        books: Books | None = None,
    ) -> None:
        self._memory = Memory(history, BarHistory(history))
        self._info = info or RestAnswers()
        self._made_info = HistoryInfo(history)
        self._routes = routes(books)
        self.meter = Meter(limits or RateLimits())

    def admit(self, request: Request, now_us: int) -> Admission:
        """Count the request: whether the exchange lets it in."""
        query = dict(request.query)
        route = self._routes.get(request.path)
        market = market_of(request.path, query)
        weight, counted = (1, None) if route is None else (route.weight(query), route.counted)
        return self.meter.admit(market, request.address, weight, counted, now_us // 1000)

    def ban(self, request: Request, now_us: int, ban_s: float) -> Admission:
        """Ban the address of a request from now on."""
        market = market_of(request.path, dict(request.query))
        return self.meter.ban(market, request.address, now_us // 1000, ban_s)

    def headers(self, request: Request, admission: Admission, now_us: int) -> dict[str, str]:
        """Those of the answer, whatever it is: what the exchange's clock says, and what is used."""
        used = str(admission.used_weight)
        found = {
            "Content-Type": "application/json;charset=UTF-8",
            "Date": http_date(now_us // 1_000_000),
            "X-MBX-USED-WEIGHT-1M": used,
        }
        if market_of(request.path, dict(request.query)) == "spot":
            found["X-MBX-USED-WEIGHT"] = used
        if admission.retry_after_s:
            found["Retry-After"] = str(admission.retry_after_s)
        return found

    def answer(self, request: Request, now_us: int) -> Reply:
        """The answer to a request that was let in."""
        try:
            return Reply(200, self._body(request, now_us))
        except Refusal as refusal:
            return Reply(refusal.status, refusal.body)

    def _body(self, request: Request, now_us: int) -> bytes:
        route = self._routes.get(request.path)
        if route is None or request.method != "GET":
            raise refusals.no_such_path(f"/{request.path}", request.method)
        if route.key and not _KEY.fullmatch(request.headers.get("X-MBX-APIKEY", "")):
            raise Refusal(-2014, "API-key format invalid.", 401)
        query = dict(request.query)
        if len(query) != len(request.query):
            raise Refusal(-1101, "Duplicate values for a parameter detected.")
        if route.answer is None:
            return self._exchange_info(request.path, route, query, now_us)
        unit = request.headers.get("X-MBX-TIME-UNIT", "").lower()
        micro = route.market == "spot" and unit in _MICROSECOND
        parameters = Parameters(route.market, query)
        told: Any = route.answer(Asked(self._memory, route.market, parameters, now_us, micro))
        parameters.end()
        return orjson.dumps(told)

    def _exchange_info(
        self, path: str, route: Route, query: Mapping[str, str], now_us: int
    ) -> bytes:
        try:
            found = self._info.answer(path, query, now_us // 1000)
            if found is None:
                made = self._made_info.answers(route.market)
                found = made.answer(path, query, now_us // 1000)
        except (ValueError, TypeError):
            raise refusals.illegal("symbols", _SYMBOLS_RANGE) from None
        if found is None:
            raise refusals.no_such_path(f"/{path}", "GET")
        status, body = found
        if status != 200:
            raise refusals.bad_symbol()
        return body


def is_rest(path: str) -> bool:
    """Whether a path (without a "/" before) is one of REST."""
    return path.startswith(tuple(PREFIXES))


def market_of(path: str, query: Mapping[str, str]) -> str:
    """Of which market's limits a request takes. Statistics of a pair are COIN-M's."""
    prefix = next(prefix for prefix in PREFIXES if path.startswith(prefix))
    if prefix == "futures/data/" and "pair" in query and "symbol" not in query:
        return "cm"
    return PREFIXES[prefix]
