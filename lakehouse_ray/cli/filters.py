"""Options by which commands choose among all series of the lake."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import format_time, parse_time

if TYPE_CHECKING:
    from lakehouse_ray.clock import Clock
    from lakehouse_ray.query.asked import Asked

MarketFilter = Annotated[str, typer.Option("--market", help="spot, um (USD-M) or cm (COIN-M).")]
DatasetFilter = Annotated[str, typer.Option("--dataset", help="Which data set.")]
IntervalFilter = Annotated[str, typer.Option("--interval", help="Of bars: 1s, 1m, … 1mo.")]
SymbolsFilter = Annotated[
    str, typer.Option("--symbols", help="By commas, in the exchange's own spelling.")
]
StartFilter = Annotated[
    str, typer.Option("--start", help="First instant, such as 2024-01. [default: first row]")
]
EndFilter = Annotated[
    str,
    typer.Option("--end", help="End, not included: 2024-07 ends with June. [default: last row]"),
]


def read_filters(
    clock: Clock, market: str, dataset: str, interval: str, symbols: str, start: str, end: str
) -> Asked:
    """Return what the options ask for; what has not happened yet is left out.

    Raises InvalidError for what cannot be.
    """
    # Loaded when it is needed: help is quick.
    from lakehouse_ray.query.asked import ask_for

    asked = ask_for(
        market or None,
        dataset or None,
        interval or None,
        symbols,
        parse_time(start) if start else None,
        parse_time(end) if end else None,
    )
    now_us = clock.now_us()
    if asked.start_us is not None and asked.start_us >= now_us:
        raise InvalidError(
            f"{format_time(asked.start_us)} has not come yet", "give a --start in the past"
        )
    if asked.end_us is not None and asked.end_us > now_us:
        return dataclasses.replace(asked, end_us=now_us)
    return asked
