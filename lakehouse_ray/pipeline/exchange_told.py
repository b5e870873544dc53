"""What a plan has to hear from the exchange itself: its time, and when contracts had their first bar."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.model.timespan import HOUR_US, TimeRange
from lakehouse_ray.model.venue import Market


def exchange_times(
    writer: Writer, account: KeptBudget, markets: Iterable[Market]
) -> dict[Market, int]:
    """The exchange's own clock, market by market. Raises DeniedError and UnavailableError."""

    async def ask() -> dict[Market, int]:
        client = writer.rest_client()
        try:
            rest = writer.rest(client, account)
            return {market: await rest.time_us(market) for market in sorted(markets)}
        finally:
            await client.close()

    return asyncio.run(ask())


def since_the_first_bar(
    writer: Writer, account: KeptBudget, spans: Mapping[tuple[Market, str], TimeRange]
) -> dict[tuple[Market, str], TimeRange]:
    """Ranges without what lies before a contract's first bar: futures are asked for trades hour by
    hour, and years before the first one would be as many questions. As it was where nothing tells."""

    async def ask() -> dict[tuple[Market, str], TimeRange]:
        client = writer.rest_client()
        found = dict(spans)
        try:
            rest = writer.rest(client, account)
            for (market, symbol), span in spans.items():
                if market == "spot" or span.end_us - span.start_us <= HOUR_US:
                    continue
                first_us = await rest.first_bar_us(market, symbol, span)
                if first_us is not None and first_us < span.end_us:
                    found[market, symbol] = TimeRange(first_us, span.end_us)
            return found
        finally:
            await client.close()

    return asyncio.run(ask())
