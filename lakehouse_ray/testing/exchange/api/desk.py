"""REST over HTTP: one request from its admission to the last byte of its answer, faults included."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Any
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from multidict import CIMultiDict

from lakehouse_ray.clock import Clock
from lakehouse_ray.testing.exchange import answers
from lakehouse_ray.testing.exchange.api import spoiled
from lakehouse_ray.testing.exchange.api.market_data import MarketData, Reply, Request, market_of
from lakehouse_ray.testing.exchange.faults import Rule
from lakehouse_ray.testing.exchange.faulty import FaultyArchive


class RestDesk:
    """Answers requests of REST as of the clock's now. To be used from one loop.

    faults: Who has the rules of what goes wrong.
    workers: Where files are read.
    """

    def __init__(
        self, data: MarketData, faults: FaultyArchive, clock: Clock, workers: Executor
    ) -> None:
        self._data = data
        self._faults = faults
        self._clock = clock
        self._workers = workers
        self._spoiled = 0

    def told_limits(self) -> dict[str, dict[str, Any]]:
        return self._data.meter.told()

    async def answer(self, request: web.BaseRequest, path: str, query: str) -> web.StreamResponse:
        """path: Without a "/" before. query: As it was sent."""
        pairs = parse_qsl(query, keep_blank_values=True)
        asked = Request(path, pairs, request.headers, request.remote or "", request.method)
        now_us = self._clock.now_us()
        rule = self._faults.answer_rule(path, f"{path}?{unquote(query)}")
        admission = self._data.admit(asked, now_us)
        if rule is not None and rule.fault == "banned":
            ban_s = float(rule.params["ban_s"])
            admission = self._data.ban(asked, now_us, ban_s)
        if admission.refusal is not None:
            rule, reply = None, Reply(admission.refusal.status, admission.refusal.body)
        else:
            reply = await self._reply(rule, asked, now_us)
        headers = CIMultiDict(self._data.headers(asked, admission, now_us) | reply.headers)
        if rule is None:
            return web.Response(status=reply.status, headers=headers, body=reply.body)
        return await answers.write(rule, request, reply.status, headers, reply.body)

    async def _reply(self, rule: Rule | None, asked: Request, now_us: int) -> Reply:
        market = market_of(asked.path, dict(asked.query))
        if rule is not None:
            if rule.fault == "slow":
                await asyncio.sleep(float(rule.params["first_byte_s"]))
            instead = spoiled.instead(rule, market, self._data.meter.weight_max(market))
            if instead is not None:
                wait_s = float(instead.headers.get("Retry-After", 0))
                self._data.meter.hush(market, asked.address, now_us // 1000, wait_s)
                return instead
        loop = asyncio.get_running_loop()
        good = await loop.run_in_executor(self._workers, self._data.answer, asked, now_us)
        if rule is None:
            return good
        self._spoiled += 1
        chance = self._faults.chance(asked.path, self._spoiled)
        return Reply(good.status, spoiled.spoil(rule, good.body, chance), good.headers)
