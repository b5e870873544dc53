"""Binance's REST: fills asked for page by page, within one account of limits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import structlog

from lakehouse_ray.clock import Clock
from lakehouse_ray.errors import BadDataError, UnavailableError
from lakehouse_ray.model.fills import Fill, RawAnswer
from lakehouse_ray.model.timespan import HOUR_US, TimeRange
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance import rest_requests
from lakehouse_ray.sources.binance.rest_answers import hear, read_list
from lakehouse_ray.sources.binance.rest_bars import bar_pages
from lakehouse_ray.sources.binance.rest_contracts import funding_pages, metrics_pages
from lakehouse_ray.sources.binance.rest_trades import agg_trade_pages, trade_pages
from lakehouse_ray.sources.budget import Seen
from lakehouse_ray.sources.http import HttpClient, Spoken
from lakehouse_ray.sources.rest import Answer, Fetched, Pages, Request, Rows
from lakehouse_ray.sources.turns import Account, Turns, pause_s
from lakehouse_ray.telemetry.meter import add, observe
from lakehouse_ray.telemetry.metrics import EXCHANGE_REQUESTS, EXCHANGE_SECONDS

log = structlog.get_logger()

# Raised whenever the same answers could be read differently.
REST_READER_VERSION = 3
# Beyond this it is no page of records.
_BODY_BYTES_MAX = 32 << 20
_PAGES: dict[str, Callable[[Fill, Rows], Pages]] = {
    "klines": bar_pages,
    "markPriceKlines": bar_pages,
    "indexPriceKlines": bar_pages,
    "premiumIndexKlines": bar_pages,
    "aggTrades": agg_trade_pages,
    "trades": trade_pages,
    "fundingRate": funding_pages,
    "metrics": metrics_pages,
}
# Data sets that a market's REST has.
REST_DATASETS: dict[Market, tuple[str, ...]] = {
    "spot": ("klines", "aggTrades", "trades"),
    "um": tuple(_PAGES),
    "cm": tuple(_PAGES),
}


@dataclass(frozen=True)
class RestPolicy:
    """attempts_max: Times a request is sent that fails or is answered with nonsense.

    quiet_max_s: The longest quiet that is waited for; a longer ban ends the run.
    """

    attempts_max: int = 6
    quiet_max_s: float = 3600.0


class BinanceRest:
    """Asks within one event loop.

    account: Of what may be asked, shared by all who ask from this address.
    """

    def __init__(
        self,
        http: HttpClient,
        account: Account,
        bases: Mapping[Market, str],
        clock: Clock,
        *,
        api_key: str = "",
        policy: RestPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._http = http
        self._bases = bases
        self._clock = clock
        self._api_key = api_key
        self._policy = policy or RestPolicy()
        self._rng = rng or random.Random()
        self._turns = Turns(account, self._rng, quiet_max_s=self._policy.quiet_max_s)

    async def fetch(self, fill: Fill) -> Fetched:
        """Ask for everything of a fill.

        What cannot be had is told in the result, beside what was had: UNAVAILABLE where the exchange
        cannot be reached, or asks to be left alone for longer than the policy waits. Raises
        DeniedError where it does not serve this network.
        """
        rows = Rows()
        answers: list[RawAnswer] = []
        pages = pages_of(fill, rows)
        answer: Answer | None = None
        while True:
            try:
                request = next(pages) if answer is None else pages.send(answer)
            except StopIteration:
                return Fetched(fill, rows, tuple(answers))
            except BadDataError as error:
                return Fetched(fill, rows, tuple(answers), None, error.reason, error.detail)
            try:
                raw, items = await self._ask(request)
            except UnavailableError as error:
                return Fetched(fill, rows, tuple(answers), None, "UNAVAILABLE", error.message)
            except _SpoiledError as error:
                return Fetched(fill, rows, tuple(answers), error.raw, error.reason, error.detail)
            answers.append(raw)
            answer = Answer(items, raw.server_us)

    async def time_us(self, market: Market) -> int:
        """The exchange's clock. Raises DeniedError and UnavailableError."""
        spoken, _ = await self._send(rest_requests.clock(market))
        heard = hear(spoken.status, spoken.headers, spoken.body)
        if spoken.status == 451:
            read_list(spoken.status, spoken.body)
        if heard.seen.server_us is None:
            raise UnavailableError(f"{self._bases[market]} does not tell its time")
        return heard.seen.server_us

    async def book(self, market: Market, symbol: str, levels: int) -> bytes:
        """The body of a snapshot of a book, whatever it says. Asked once.

        Raises BadDataError where the exchange refuses it, UnavailableError where it gives no answer,
        DeniedError where it does not serve this network.
        """
        spoken, _ = await self._send(rest_requests.book(market, symbol, levels))
        if spoken.status != 200:
            read_list(spoken.status, spoken.body)
        return spoken.body

    async def first_bar_us(self, market: Market, symbol: str, span: TimeRange) -> int | None:
        """When the first hour of a range begins that has a bar; None: nothing tells of one.

        One request of the least weight, on COIN-M one for 199 days. Raises DeniedError and
        UnavailableError.
        """
        start_us = span.start_us // HOUR_US * HOUR_US
        while start_us < span.end_us:
            end_us = span.end_us
            if market == "cm":
                end_us = min(end_us, start_us + rest_requests.COIN_M_SPAN_US)
            request = rest_requests.bars(market, "klines", symbol, "1h", start_us, end_us, 1)
            try:
                _, items = await self._ask(request)
            except _SpoiledError:
                return None  # who asks for the rows is told why
            opened = [one[0] for one in items if isinstance(one, list) and one]
            first_ms = min((ms for ms in opened if isinstance(ms, int)), default=None)
            if first_ms is not None:
                return max(span.start_us, first_ms * 1000)
            start_us = end_us
        return None

    async def _ask(self, request: Request) -> tuple[RawAnswer, list[Any]]:
        """Return an answer that is a list of records, trying again what may yet become one."""
        for attempt in range(1, self._policy.attempts_max + 1):
            spoken, url = await self._send(request)
            seen = hear(spoken.status, spoken.headers, spoken.body).seen
            now_us = self._clock.now_us()
            raw = RawAnswer(url, now_us, seen.server_us or 0, spoken.body)
            try:
                items = read_list(spoken.status, spoken.body)
                if seen.server_us is None:
                    raise BadDataError("NOT_AN_ANSWER", "it does not tell its time (no Date)")
                return raw, items
            except BadDataError as error:
                final = error.reason != "NOT_AN_ANSWER" or attempt == self._policy.attempts_max
                if final:
                    detail = f"{request.path}: {error.detail}"
                    raise _SpoiledError(error.reason, detail, raw) from error
            await asyncio.sleep(pause_s(self._rng, attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, request: Request) -> tuple[Spoken, str]:
        """Return an answer that concerns the request; what does not, is waited out."""
        url = self.url_of(request)
        headers = self._headers(request)
        attempt, quiet_s = 0, 0.0
        while True:
            ticket = await self._turns.granted(request.market, request.costs)
            seen = Seen()
            failure, status = "", "none"
            begun_s = self._clock.monotonic_s()
            try:
                spoken = await self._http.speak(url, headers, _BODY_BYTES_MAX)
                status = str(spoken.status)
                heard = hear(spoken.status, spoken.headers, spoken.body)
                seen = heard.seen
                if not heard.again:
                    return spoken, url
                failure = f"answers {spoken.status}"
            except UnavailableError as error:
                failure = error.message
            finally:
                add(EXCHANGE_REQUESTS, 1, request.market, status)
                observe(EXCHANGE_SECONDS, self._clock.monotonic_s() - begun_s, request.market)
                await self._turns.settle(ticket, request.market, seen)
            attempt += 1
            if seen.quiet_s > 0:
                log.warning("asked for quiet", market=request.market, quiet_s=seen.quiet_s)
                quiet_s += seen.quiet_s
                if quiet_s <= self._policy.quiet_max_s or attempt == 1:
                    continue  # the turn is waited for, or given up
            if attempt >= self._policy.attempts_max or quiet_s > self._policy.quiet_max_s:
                raise UnavailableError(f"{url}: {failure}; gave up after {attempt} attempts")
            await asyncio.sleep(pause_s(self._rng, attempt))

    def url_of(self, request: Request) -> str:
        """Where a request is sent. It holds no secret: a key goes in a header."""
        return url_of(self._bases[request.market], request)

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {"X-MBX-TIME-UNIT": "MICROSECOND"} if request.micro else {}
        if request.keyed and self._api_key:
            headers["X-MBX-APIKEY"] = self._api_key
        return headers


class _SpoiledError(BadDataError):
    """An answer that is none. raw: As it came."""

    def __init__(self, reason: str, detail: str, raw: RawAnswer) -> None:
        super().__init__(reason, detail)
        self.raw = raw


def url_of(base: str, request: Request) -> str:
    """The address of a request. base: Of the market; empty: below it."""
    return f"{base}/{request.path}?{urlencode(request.params)}"


def pages_of(fill: Fill, rows: Rows) -> Pages:
    """What asks for a fill, page by page."""
    return _PAGES[fill.dataset](fill, rows)


def read_again(fill: Fill, answers: Sequence[RawAnswer]) -> Rows:
    """Return what a fill's answers gave, from the answers alone.

    Raises BadDataError (BROKEN_SEQUENCE) where they are not those that the fill asks for.
    """
    rows = Rows()
    pages = pages_of(fill, rows)
    answer: Answer | None = None
    number = 0
    earlier: dict[str, RawAnswer] = {}
    try:
        while True:
            request = next(pages) if answer is None else pages.send(answer)
            asked = url_of("", request).lstrip("/")
            raw = answers[number] if number < len(answers) else None
            if raw is not None and raw.url.endswith(asked):
                number += 1
                earlier[asked] = raw
            elif asked in earlier:
                # Asked again by now, which it was not when this was had: it says what it said.
                raw = earlier.pop(asked)
            elif raw is None:
                return rows
            else:
                raise _OtherAnswerError(f"{raw.url} is kept where {asked} is asked for")
            answer = Answer(read_list(200, raw.body), raw.server_us)
    except StopIteration:
        return rows
    except _OtherAnswerError as error:
        raise BadDataError("BROKEN_SEQUENCE", str(error)) from error
    except BadDataError:
        return rows  # told already when it was fetched


class _OtherAnswerError(Exception):
    """An answer of another request."""
