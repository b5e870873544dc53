"""`lakehouse get`: the rows of one symbol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.output import (
    AsOfOption,
    OutOption,
    OutputOption,
    RowsOption,
    choose_format,
)
from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.timespan import format_time

if TYPE_CHECKING:
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.query.indicators import ResultWithIndicators
    from lakehouse_ray.query.statement import Result

_SYMBOLS_SHOWN_MAX = 10


def get(
    symbol: Annotated[str, typer.Argument(help="The exchange's own spelling: BTCUSDT.")],
    market: Annotated[str, typer.Option(help="spot, um (USD-M) or cm (COIN-M).")] = "spot",
    dataset: Annotated[str, typer.Option(help="Which data set.")] = "klines",
    interval: Annotated[str, typer.Option(help="Of bars: 1s, 1m, … 1mo.")] = "",
    start: Annotated[str, typer.Option(help="First instant, such as 2024-01.")] = "",
    end: Annotated[str, typer.Option(help="End, not included: 2024-07 ends with June.")] = "",
    indicators: Annotated[
        str, typer.Option(help="Of bars, with commas: sma_20,rsi_14,… (docs/indicators.md).")
    ] = "",
    warmup: Annotated[
        int, typer.Option(help="Bars before --start with which indicators begin; not shown.")
    ] = 0,
    source: Annotated[
        str, typer.Option("--from", help="Make bars from stored ones of this interval.")
    ] = "",
    offset: Annotated[
        str, typer.Option(help="With --from: where bars begin, such as 5m or 0m,30m.")
    ] = "",
    partial: Annotated[
        str, typer.Option(help="With --from: keep or drop bars that lack finer ones. [keep]")
    ] = "",
    empty: Annotated[
        str, typer.Option(help="With --from: none, null or carry, for bars without any. [none]")
    ] = "",
    output: OutputOption = None,
    out: OutOption = None,
    as_of: AsOfOption = "",
    rows: RowsOption = None,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Print bars or other rows of one symbol whose time lies in [start, end), in order. UTC.

    Examples: lakehouse get BTCUSDT --market um --interval 1m --start 2024-01-05 --end 2024-01-06

    lakehouse get BTCUSDT --interval 1h --start 2024 --indicators sma_20,macd_12_26_9 --warmup 200

    lakehouse get BTCUSDT --interval 4h --from 15m --offset 0m,1h
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.cli.rows import write

    form = choose_format(output, out, as_json=json_)
    if indicators and dataset != "klines":
        raise InvalidError(f"indicators are of klines, not of {dataset}", "leave --dataset away")
    if (offset or partial or empty) and not source:
        raise InvalidError(
            "--offset, --partial and --empty are for bars made by --from", "--from 1m"
        )
    if source and (indicators or dataset != "klines"):
        raise InvalidError("bars made by --from are of klines, without indicators", "ask twice")
    if warmup and not indicators:
        raise InvalidError("--warmup is for indicators", "--indicators says which")
    reader = Reader(settings_of(home=home))
    span = (start or None, end or None)
    version = as_of or None
    answer: Result | ResultWithIndicators
    if indicators:
        answer = reader.lake.select_indicators(
            symbol, interval, indicators, *span, market, warmup=warmup, as_of=version
        )
    elif source:
        made = reader.lake.resample(
            symbol, interval, *span, market, source=source, offset=offset or "0m",
            partial=partial or "keep", empty=empty or "none", as_of=version,
        )  # fmt: skip
        answer = reader.lake.engine.hold(made.collect())
    else:
        answer = reader.lake.select(
            dataset, symbol, *span, market=market, interval=interval or None, as_of=version
        )
    with answer as result:
        write(
            result,
            form,
            out,
            rows_max=rows,
            quiet=quiet,
            empty=lambda: _nothing(reader, dataset, symbol, market, source or interval, as_of),
        )
    return endings.OK


def _nothing(
    reader: Reader, dataset: str, symbol: str, market: str, interval: str, as_of: str
) -> NotFoundError:
    """Say why there are no rows: no such symbol, or none in this range."""
    from lakehouse_ray.query.asked import unknown_symbol
    from lakehouse_ray.query.contents import extent, intervals, symbols
    from lakehouse_ray.query.symbol_rows import identity

    found = find_dataset(dataset)
    series = identity(found, symbol, market, interval or None)
    what = " ".join((market, found.name, interval)).strip()
    stored = extent(reader.lake, found, series, as_of=as_of or None)
    if stored is not None:
        first, last = stored
        return NotFoundError(
            f"{symbol} has no {what} in this range",
            f"stored are {format_time(first)} to {format_time(last)}; ranges are [start, end)",
        )
    known = symbols(reader.lake, found, market, series.get("interval"), as_of=as_of or None)
    if not known:
        make = f"lakehouse ingest --market {market} --dataset {found.name}"
        make += f" --interval {interval}" if interval else ""
        where = f"nothing of {what} is stored at {reader.settings.home}"
        return NotFoundError(where, f"`{make}` brings it; `lakehouse datasets` lists what there is")
    other = intervals(reader.lake, found, market, symbol, as_of=as_of or None) if found.bars else []
    return unknown_symbol(symbol, known, what, other)
