"""Statistics of open interest and of who is long, below /futures/data: the archive's metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lakehouse_ray.testing.exchange.api.parameters import Parameters
from lakehouse_ray.testing.exchange.api.questions import EVER_US, Answer, Asked
from lakehouse_ray.testing.exchange.api.refusals import Refusal, not_valid
from lakehouse_ray.testing.exchange.api.rows import plain
from lakehouse_ray.testing.exchange.history import Row, Series

# How far back they go.
_REACH_US = 30 * 86_400_000_000
_SHORTEST_S = 300
_PERIODS_S = {
    "5m": _SHORTEST_S, "15m": 900, "30m": 1800, "1h": 3600, "2h": 7200, "4h": 14_400, "6h": 21_600,
    "12h": 43_200, "1d": 86_400,
}  # fmt: skip
Told = dict[str, Any]


def statistics(name: str) -> Answer:
    """Of five minutes; of a longer period those at its end. Of a range the newest are told."""
    column, spell = _ROUTES[name]

    def answer(asked: Asked) -> list[Told]:
        parameters = asked.parameters
        of_pair = parameters.text("symbol") is None and parameters.text("pair") is not None
        if of_pair:
            asked = replace(asked, market="cm")
            if parameters.text("contractType") not in (None, "ALL", "PERPETUAL"):
                raise not_valid("contractType")
        symbol = asked.symbol_of_pair("metrics") if of_pair else asked.symbol()
        period_us = _period_s(parameters) * 1_000_000
        limit = parameters.limit(30, 500)
        start_us, end_us = _range(asked)
        rows = asked.memory.history.rows(Series(asked.market, "metrics", symbol), start_us, end_us)
        found = [
            row
            for row in rows
            # Some rows of the archive are seconds beside their five minutes.
            if row.cells[column]
            and (period_us == _SHORTEST_S * 1_000_000 or row.time_us % period_us == 0)
        ]
        named = {"pair": symbol.removesuffix("_PERP")} if of_pair else {"symbol": symbol}
        return [spell(named, row.cells[column], row) for row in found[-limit:]]

    return answer


def _period_s(parameters: Parameters) -> int:
    period = parameters.required("period")
    if period not in _PERIODS_S:
        raise Refusal(-1130, "parameter 'period' is invalid.")
    return _PERIODS_S[period]


def _range(asked: Asked) -> tuple[int, int]:
    start_us, end_us = asked.parameters.times_us()
    oldest_us = asked.now_us - _REACH_US
    if start_us is not None and start_us < oldest_us:
        raise Refusal(-1130, "parameter 'startTime' is invalid.")
    first_us = oldest_us if start_us is None else start_us
    return first_us, min(EVER_US if end_us is None else end_us, asked.now_us + 1)


def _interest(named: Told, value: str, row: Row) -> Told:
    kind = {"contractType": "PERPETUAL"} if "pair" in named else {}
    return {
        **named, **kind, "sumOpenInterest": plain(value),
        "sumOpenInterestValue": plain(row.cells[3]), "timestamp": row.time_us // 1000,
    }  # fmt: skip


def _long_short(named: Told, value: str, row: Row) -> Told:
    ratio = float(value)
    return {
        **named, "longShortRatio": plain(value), "longAccount": f"{ratio / (1 + ratio):.4f}",
        "shortAccount": f"{1 / (1 + ratio):.4f}", "timestamp": row.time_us // 1000,
    }  # fmt: skip


def _taker(named: Told, value: str, row: Row) -> Told:
    """Whose it is, the exchange does not say here. No metrics tell the volumes."""
    return {"buySellRatio": plain(value), "timestamp": row.time_us // 1000}


# By the column of the metrics.
_ROUTES: dict[str, tuple[int, Callable[[Told, str, Row], Told]]] = {
    "openInterestHist": (2, _interest),
    "topLongShortAccountRatio": (4, _long_short),
    "topLongShortPositionRatio": (5, _long_short),
    "globalLongShortAccountRatio": (6, _long_short),
    "takerlongshortRatio": (7, _taker),
}
NAMES = tuple(_ROUTES)
