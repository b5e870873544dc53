"""`lakehouse live`: rows as they are committed, a line each, until it is told to stop."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import (
    DebugOption,
    HomeOption,
    JsonOption,
    QuietOption,
    duration_s,
    settings_of,
)
from lakehouse_ray.model.timespan import format_time, to_us

if TYPE_CHECKING:
    from lakehouse_ray.query.live_events import LiveEvent


def live(
    dataset: Annotated[str, typer.Option(help="Which data set.")] = "klines",
    symbols: Annotated[str, typer.Option(help="By commas; none: all.")] = "",
    interval: Annotated[str, typer.Option(help="Of bars: 1s, 1m, … 1mo.")] = "",
    market: Annotated[str, typer.Option(help="spot, um (USD-M) or cm (COIN-M).")] = "spot",
    duration: Annotated[
        str, typer.Option(help="Such as 90s, 10m, 24h. Default: until it is told to stop.")
    ] = "",
    resume: Annotated[
        str,
        typer.Option(help="Go on after the event that said this, or after an answer's versions."),
    ] = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Print rows as they are committed, live ones and others, each once: JSON, a line an event.

    Corrections, gaps of the capture and the notice that printing was too slow are events, too.
    Ends by SIGTERM, Ctrl-C or --duration. --json prints the same.

    Example: lakehouse live --market um --symbols BTCUSDT --interval 1m
    """
    # Loaded when it is needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader

    reader = Reader(settings_of(home=home))
    with reader.lake.live(
        dataset, symbols or None, interval or None, market, resume=resume or None,
        timeout_s=duration_s(duration),
    ) as found:  # fmt: skip
        out = sys.stdout.buffer
        for batch in found.batches():
            for event in batch:
                out.write(spelled(event) + b"\n")
            out.flush()
    return endings.OK


def spelled(event: LiveEvent) -> bytes:
    """An event as the websocket spells it, with where to go on."""
    found: dict[str, Any] = {"seq": event.seq, "event": event.kind}
    if event.cause is not None:
        found["cause"] = event.cause
    if event.was is not None:
        found["was"] = event.was
    found |= {"row": event.row, "resume": event.resume}
    return orjson.dumps(found, default=_time, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _time(value: datetime) -> str:
    return format_time(to_us(value))
