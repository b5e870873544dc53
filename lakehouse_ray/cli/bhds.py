"""`lakehouse bhds`: BHDS's folders written from the lake, and its bars beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.cli.output import Format, OutputOption, RowsOption, choose_format
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.venue import parse_interval, parse_market

if TYPE_CHECKING:
    from lakehouse_ray.pipeline.bhds import BhdsRequest
    from lakehouse_ray.query.lake import Lake


def bhds(
    action: Annotated[str, typer.Argument(help="export or compare")],
    market: Annotated[str, typer.Option(help="spot, um or cm")],
    interval: Annotated[str, typer.Option(help="Of the bars.")] = "1m",
    symbols: Annotated[str, typer.Option(help="By commas. Default: all stored.")] = "",
    resample: Annotated[
        str, typer.Option(help="Bars made from 1m, and their offsets: 1h, or 1h/5m.")
    ] = "",
    root: Annotated[str, typer.Option(help="export: folder that results_data is put in.")] = "",
    details: Annotated[
        bool, typer.Option("--details", help="compare: every difference, not their summary.")
    ] = False,
    output: OutputOption = None,
    rows: RowsOption = None,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Write the lake's bars in BHDS's folders, or list where its rules give other bars than ours.

    The comparison runs BHDS's rules over the same stored rows and names the reason of each
    difference; docs/bhds.md explains them.

    Example: lakehouse bhds export --market um --interval 1m --root ~/crypto_data/binance_data
    Example: lakehouse bhds compare --market um --interval 1m --resample 1h/5m --symbols BTCUSDT
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.pipeline.bhds import BhdsRequest

    if action not in ("export", "compare"):
        raise InvalidError(f"unknown action {action!r}", "export or compare")
    target, _, step = resample.partition("/")
    request = BhdsRequest(
        parse_market(market),
        parse_interval(interval),
        tuple(part.strip() for part in symbols.split(",") if part.strip()),
        parse_interval(target) if target else "",
        step or "0m",
    )
    lake = Reader(settings_of(home=home)).lake
    if action == "export":
        if not root:
            raise InvalidError("no folder to write to", "--root DIR")
        return _export(lake, request, Path(root), quiet=quiet, as_json=json_)
    form = choose_format(output, None, as_json=json_)
    return _compare(lake, request, form, rows, details=details, quiet=quiet)


def _export(lake: Lake, request: BhdsRequest, root: Path, *, quiet: bool, as_json: bool) -> int:
    from lakehouse_ray.pipeline.bhds import export

    done = []
    for item in export(lake, request, root):
        done.append(item)
        if not quiet and not as_json:
            what = item.error or f"{len(item.files)} files"
            typer.echo(f"{item.symbol}: {what}", err=True)
    failed = [item for item in done if item.error]
    if as_json:
        document = {
            "files": [str(file) for item in done for file in item.files],
            "failed": {item.symbol: item.error for item in failed},
        }
        typer.echo(json.dumps(document, ensure_ascii=False))
    return endings.PARTIAL if failed else endings.OK


def _compare(
    lake: Lake,
    request: BhdsRequest,
    form: Format,
    rows_max: int | None,
    *,
    details: bool,
    quiet: bool,
) -> int:
    import polars as pl

    from lakehouse_ray.cli.rows import write
    from lakehouse_ray.gold.bhds_reasons import summary
    from lakehouse_ray.pipeline.bhds import compare

    frames, failed = [], 0
    for item in compare(lake, request):
        if item.error:
            failed += 1
            typer.echo(f"{item.symbol}: {item.error}", err=True)
            continue
        found = item.differences if details else summary(item.differences)
        frames.append(found.select(pl.lit(item.symbol).alias("symbol"), pl.all()))
    if frames:
        with lake.engine.hold(pl.concat(frames)) as result:
            write(result, form, None, rows_max=rows_max, quiet=quiet)
    return endings.PARTIAL if failed else endings.OK
