"""An exchange that counts what it is asked and when, and workers who share one account of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from threading import Event, Thread

from aiohttp import web

from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.model.fills import Fill
from lakehouse_ray.model.timespan import DAY_US, TimeRange, parse_time
from lakehouse_ray.sources.binance.rest import BinanceRest, RestPolicy
from lakehouse_ray.sources.budget import Limit
from lakehouse_ray.sources.http import HttpClient, RetryPolicy
from lakehouse_ray.storage.objects import LocalStore

SHARE = 0.8
METHODS = ("ask", "settle", "give_back", "used", "blocked_s")
# By how many bars are asked for at most, as the exchange has it.
_WEIGHTS = ((99, 1), (499, 2), (1000, 5), (1500, 10))
_MONDAY_US = parse_time("2026-04-06")
# A bar a minute over some days: pages of weight 2.
_FILL = Fill(
    "um", "klines", "BTCUSDT", "1m", TimeRange(_MONDAY_US, _MONDAY_US + 3 * DAY_US), _MONDAY_US
)


@dataclass
class CountedExchange:
    """Answers every question for bars with none. To be used from any thread.

    arrived: When which weight arrived, by `time.monotonic`.
    latency_s: Before and after a request is counted.
    """

    latency_s: float = 0.1
    url: str = ""
    arrived: list[tuple[float, int]] = field(default_factory=list)
    banned_until_s: float = 0.0
    ban_told_s: float = 0.0
    _ban_next_s: float = 0.0

    def ban(self, seconds: float) -> None:
        """Answer the next request with a ban."""
        self._ban_next_s = seconds

    async def answer(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.latency_s)
        now_s = time.monotonic()
        limit = int(request.query.get("limit", 500))
        self.arrived.append((now_s, next(w for most, w in _WEIGHTS if limit <= most)))
        headers = {"Date": formatdate(usegmt=True)}
        if self._ban_next_s:
            self.ban_told_s, self.banned_until_s = now_s, now_s + self._ban_next_s
            self._ban_next_s = 0.0
        if now_s < self.banned_until_s:
            left_s = self.banned_until_s - now_s
            headers["Retry-After"] = str(int(left_s) + 1)
            return web.json_response({"code": -1003}, status=418, headers=headers)
        await asyncio.sleep(self.latency_s)
        return web.json_response([], headers=headers)

    def most_in_any(self, window_s: float) -> int:
        """The most weight that arrived within any so many seconds."""
        most, total, first = 0, 0, 0
        for at_s, weight in self.arrived:
            total += weight
            while self.arrived[first][0] <= at_s - window_s:
                total -= self.arrived[first][1]
                first += 1
            most = max(most, total)
        return most

    def between(self, start_s: float, end_s: float) -> int:
        """Weight that arrived in [start, end)."""
        return sum(weight for at_s, weight in self.arrived if start_s <= at_s < end_s)


@contextmanager
def counted_exchange(latency_s: float = 0.1) -> Iterator[CountedExchange]:
    """Serve one on a free port of loopback."""
    exchange = CountedExchange(latency_s)
    up, down = Event(), Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", exchange.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        exchange.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        up.set()
        await asyncio.to_thread(down.wait)
        await runner.cleanup()

    thread = Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield exchange
    finally:
        down.set()
        thread.join(10)


@dataclass(frozen=True)
class MakeAccount:
    """Makes the account of a lake's folder; pickles.

    alone: Each process is taken for a machine of its own: nothing but the lake tells of the others.
    """

    folder: Path
    limit: Limit
    alone: bool = False

    def __call__(self) -> KeptBudget:
        return KeptBudget(
            {"um": (self.limit,)}, LocalStore(self.folder), SystemClock(), exchange="a" * 16,
            share=SHARE, lease_s=20.0, machine=None if self.alone else self.folder / "machine.json",
        )  # fmt: skip


class Asker:
    """A worker that asks on and on, several requests beside each other."""

    def __init__(self, url: str, account: KeptBudget) -> None:
        self._bases = {"um": url}
        self._account = account

    def ask_for_s(self, seconds: float) -> int:
        """Return how many fills were answered."""
        return asyncio.run(_ask(self._bases, self._account, time.monotonic() + seconds))


# Not of the class: Ray would run all of an actor that has a coroutine in an event loop.
async def _ask(bases: Mapping[str, str], account: KeptBudget, until_s: float) -> int:
    clock = SystemClock()
    http = HttpClient(8, 10.0, RetryPolicy(), clock)
    rest = BinanceRest(
        http, account, bases, clock, policy=RestPolicy(20, 600.0)  # type: ignore[arg-type]
    )  # fmt: skip

    async def one() -> int:
        done = 0
        while time.monotonic() < until_s:
            done += not (await rest.fetch(_FILL)).reason
        return done

    try:
        return sum(await asyncio.gather(*(one() for _ in range(8))))
    finally:
        await http.close()
