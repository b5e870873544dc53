"""`lakehouse why`: from a value back to the line of the object that gave it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, settings_of
from lakehouse_ray.cli.output import AsOfOption, Format, OutputOption, choose_format

if TYPE_CHECKING:
    import polars as pl

_LINES_SHOWN_MAX = 3


def why(
    symbol: Annotated[str, typer.Option(help="The exchange's own spelling: BTCUSDT.")],
    at: Annotated[str, typer.Option(help="A moment: of a bar, any within it.")],
    market: Annotated[str, typer.Option(help="spot, um (USD-M) or cm (COIN-M).")] = "spot",
    dataset: Annotated[str, typer.Option(help="Which data set.")] = "klines",
    interval: Annotated[str, typer.Option(help="Of bars: 1s, 1m, … 1mo.")] = "",
    gold: Annotated[
        str, typer.Option(help="A derived table instead: klines, resampled_klines or daily.")
    ] = "",
    output: OutputOption = None,
    as_of: AsOfOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Say why a row is what it is: which object, version and line gave it, in which snapshot, which
    rules it breaks, what other versions and files say; or why there is none.

    JSON is one document; NDJSON, CSV, Parquet and Arrow have a row per version of a file, and line.

    Example: lakehouse why --market spot --interval 1h --symbol BTCUSDT --at 2022-04-13T05:00
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.cli.rows import write

    form = choose_format(output, None, as_json=json_)
    reader = Reader(settings_of(home=home))
    document = reader.lake.why(
        symbol, at, interval or None, market, dataset, gold=gold or None, as_of=as_of or None
    )
    if form is Format.JSON:
        typer.echo(json.dumps(document, ensure_ascii=False))
    elif form is Format.TABLE:
        typer.echo("\n".join(lines_of(document)))
    else:
        with reader.lake.engine.hold(_frame(document)) as result:
            write(result, form, None, rows_max=None, quiet=True)
    return endings.OK


_COLUMNS = (
    "verdict", "key", "version", "freq", "url", "sha256", "etag", "first_seen", "last_seen",
    "reason", "detail",
)  # fmt: skip


def _frame(document: Mapping[str, Any]) -> pl.DataFrame:
    """Every version of every file that was held against the moment, a row per line of it; of a derived
    bar the versions that gave it rows come first, counted."""
    import polars as pl

    asked = document["asked"]
    same = {name: asked.get(name) for name in ("market", "dataset", "interval", "symbol", "at")}
    told: list[dict[str, Any]] = [
        {
            **same, "dataset": item["dataset"], "interval": item["interval"] or None,
            "verdict": "gave rows", "key": one["source_key"], "version": one["source_version"],
            "rows": one["rows"],
        }
        for item in document.get("inputs", ())
        for one in item["objects"]
    ]  # fmt: skip
    silver = document.get("silver", document)
    if not silver.get("found", True):
        gap = silver["gap"] or {"cause": None, "evidence": "none was due"}
        told.append(
            {**same, "verdict": "no row", "reason": gap["cause"], "detail": gap["evidence"]}
        )
    found = [one for row in silver.get("rows", ()) for one in row["objects"]]
    for one in [*found, *silver.get("objects", ())]:
        version = {**same, **{name: one.get(name) for name in _COLUMNS}}
        told += [
            {**version, "line": line["line"], "raw": line["raw"], "refused": line["refused"]}
            for line in one.get("lines") or [{"line": None, "raw": None, "refused": None}]
        ]
    schema = dict.fromkeys((*same, *_COLUMNS, "line", "raw", "refused", "rows"), pl.String())
    return pl.DataFrame(told, schema={**schema, "line": pl.Int64(), "rows": pl.Int64()})


def lines_of(document: Mapping[str, Any]) -> Iterator[str]:
    """The document for people."""
    asked = document["asked"]
    yield " ".join(str(value) for value in asked.values() if value)
    if "inputs" in document:
        yield from _gold(document)
    elif document["found"]:
        for row in document["rows"]:
            yield from _row(row)
    else:
        yield from _absent(document)


def _row(told: Mapping[str, Any]) -> Iterator[str]:
    hidden = ("market", "symbol", "interval", "source", "source_key", "source_version", "flags")
    yield "  " + ", ".join(f"{k} {v}" for k, v in told["row"].items() if k not in hidden)
    for flag in told["flags"]:
        yield f"  breaks {flag['rule']}: {flag['doc']}"
    stored = told["stored"]
    if stored is not None:
        yield f"  in {stored['table']}, row {stored['row']} of {stored['file']}"
        if "written_in_snapshot" in stored:
            yield (
                f"     snapshot {stored['written_in_snapshot']} of {stored['committed_at']}, "
                f"run {stored['run_id']}"
            )
    yield from _objects(told["objects"])


def _objects(objects: list[Mapping[str, Any]]) -> Iterator[str]:
    for one in objects:
        yield f"  {one['verdict']}: {one['key']}"
        yield f"     version {one['version'] or '(none)'}, {one['freq']}, {one['url'] or ''}".rstrip(
            ", "
        )
        yield f"     sha256 {one['sha256']}, etag {one['etag']}, seen {one['first_seen']} to {one['last_seen']}"
        if one["reason"]:
            yield f"     {one['reason']}: {one['detail']}"
        if one.get("unreadable"):
            yield f"     {one['unreadable']}"
        for answer in one.get("answers", ())[:_LINES_SHOWN_MAX]:
            yield f"     {answer['url']}, received {answer['received_at']}"
            yield f"     {answer['record']}"
        for line in one.get("lines", ())[:_LINES_SHOWN_MAX]:
            refused = f"  (refused, {line['refused']})" if line["refused"] else ""
            yield f"     line {line['line']}: {line['raw']}{refused}"


def _absent(document: Mapping[str, Any]) -> Iterator[str]:
    gap = document["gap"]
    if gap is not None:
        yield f"  no row: {gap['cause']}, {gap['start']} to {gap['end']} ({gap['missing']:,} missing)"
        yield f"     {gap['evidence']}"
    elif document["rhythm"]:
        yield "  no row, and none was due"
    else:
        yield "  no row; rows of this data set come when something happens"
    yield f"  stored are {document['first_row']} to {document['last_row']}"
    yield from _objects(document["objects"])


def _gold(document: Mapping[str, Any]) -> Iterator[str]:
    hidden = ("market", "symbol", "interval")
    yield "  " + ", ".join(f"{k} {v}" for k, v in document["row"].items() if k not in hidden)
    if "note" in document:
        yield f"  {document['note']}"
    built = document["built"]
    if built is not None:
        yield f"  built {built['built_at']} by version {built['version']}, run {built['run_id']}"
    for item in document["inputs"]:
        interval = f" {item['interval']}" if item["interval"] else ""
        yield f"  from {item['rows']:,} rows of {item['dataset']}{interval}"
        for one in item["objects"]:
            yield f"     {one['rows']:,} of {one['source_key']}, {one['source_version']}"
    if "silver" in document and document["silver"]["found"]:
        for row in document["silver"]["rows"]:
            yield from _row(row)
