"""`lakehouse universe`: which symbols traded at a moment."""

from __future__ import annotations

from typing import Annotated

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
from lakehouse_ray.errors import NotFoundError


def universe(
    market: Annotated[str, typer.Option(help="spot, um (USD-M) or cm (COIN-M).")] = "spot",
    at: Annotated[
        str, typer.Option(help="A moment, such as 2022-05-12. [default: the end of what is stored]")
    ] = "",
    quote: Annotated[str, typer.Option(help="Only pairs with these quote assets, by commas.")] = "",
    kind: Annotated[str, typer.Option(help="Only spot, perpetual or delivery.")] = "",
    output: OutputOption = None,
    out: OutOption = None,
    as_of: AsOfOption = "",
    rows: RowsOption = None,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """List the symbols that traded at a moment, those delisted since too, and what says so.

    Evidence: rows with trades then (`rows`; `rows_around` across a hole that nothing explains), an
    exchangeInfo of that time, or the onboard date in a later one. What nothing stored tells of is
    not listed.

    Example: lakehouse universe --market um --at 2022-05-12 --quote USDT --kind perpetual
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.cli.rows import write

    form = choose_format(output, out, as_json=json_)
    reader = Reader(settings_of(home=home))
    found = reader.lake.universe(
        market, at or None, quote or None, kind or None, as_of=as_of or None
    )
    with reader.lake.engine.hold(found) as result:
        write(result, form, out, rows_max=rows, quiet=quiet, empty=lambda: _nothing(market, at))
    return endings.OK


def _nothing(market: str, at: str) -> NotFoundError:
    when = at or "the end of what is stored"
    return NotFoundError(
        f"nothing stored tells of a symbol of {market} that traded at {when}",
        "`lakehouse coverage` shows of which days there are rows",
    )
