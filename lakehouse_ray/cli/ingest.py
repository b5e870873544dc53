"""`lakehouse ingest`: the archive into bronze and silver."""

from __future__ import annotations

import functools
import json
import math
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.plan import FreqPolicy, Plan
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.ingest_instruments import instruments
from lakehouse_ray.cli.options import (
    AddressOption,
    DebugOption,
    HomeOption,
    JsonOption,
    QuietOption,
    settings_of,
)
from lakehouse_ray.cli.progress import BuildProgress, IngestProgress
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.instruments import INSTRUMENTS
from lakehouse_ray.model.timespan import parse_span
from lakehouse_ray.model.venue import parse_market
from lakehouse_ray.model.workflows import LISTED_SPAN, interval_of
from lakehouse_ray.pipeline import bulk_ingestion, gold
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest
from lakehouse_ray.pipeline.execution import planned_allocation
from lakehouse_ray.pipeline.gold_report import BuildReport
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.runtime.allocator import Allocation
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.storage.footprint import footprint


def ingest(
    market: Annotated[str, typer.Option(help="spot, um (USD-M) or cm (COIN-M).")],
    dataset: Annotated[
        str, typer.Option(help="As the archive spells it: klines, aggTrades, …; or instruments.")
    ],
    interval: Annotated[str, typer.Option(help="Of bars: 1s, 1m, … 1mo.")] = "",
    symbols: Annotated[str, typer.Option(help="By commas. Default: everything listed.")] = "",
    quote: Annotated[str, typer.Option(help="Only pairs with this quote asset.")] = "",
    leverage_tokens: Annotated[
        bool, typer.Option(help="Take leveraged tokens such as BTCUPUSDT too.")
    ] = True,
    stable_pairs: Annotated[bool, typer.Option(help="Take pairs of two stablecoins too.")] = True,
    contract: Annotated[str, typer.Option(help="Futures: perpetual or delivery only.")] = "",
    start: Annotated[str, typer.Option(help="First instant, such as 2024-01.")] = "",
    end: Annotated[str, typer.Option(help="End, not included: 2024-07 ends with June.")] = "",
    freq: Annotated[
        str, typer.Option(help="auto: monthly files of closed months, daily for the rest.")
    ] = "auto",
    build: Annotated[
        bool, typer.Option("--build/--no-build", help="Build derived tables of it afterwards.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    profile: Annotated[str, typer.Option(help="small, medium, large or xlarge workers.")] = "",
    actors: Annotated[int, typer.Option(min=0, help="Workers; 0: the allocator chooses.")] = 0,
    address: AddressOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Bring the archive's files into bronze and silver. Running it again changes nothing.

    `--dataset instruments` asks the exchange for its exchangeInfo, and the archive for its symbols.
    With `--build` derived tables of these symbols follow, as by `lakehouse build`, with workers of
    that kind of work.

    Example: lakehouse ingest --market spot --dataset klines --interval 1m
    --symbols BTCUSDT,ETHUSDT --start 2024-01 --end 2024-07
    """
    if dataset == INSTRUMENTS:
        chosen = (interval, symbols, quote, contract, start, end, build)
        if any(chosen) or freq != "auto":
            raise InvalidError(
                "instruments are asked for as a whole", "give --market and --dataset alone"
            )
        writer = Writer(settings_of(home=home))
        return instruments(writer, market, dry_run=dry_run, as_json=json_)
    compute = {k: v for k, v in (("profile", profile), ("actors", actors)) if v}
    writer = Writer(settings_of(home=home, address=address, compute=compute))
    request = IngestRequest(
        _selection(
            market, dataset, interval, symbols, quote, leverage_tokens, stable_pairs, contract,
            start, end,
        ),
        _freq(freq),
    )  # fmt: skip
    with IngestProgress(enabled=not (json_ or quiet)) as progress:
        if dry_run:
            plan = bulk_ingestion.plan_ingestion(writer, request, progress)
            allocation = planned_allocation(
                writer, functools.partial(bulk_ingestion.allocate_ingestion, writer, plan)
            )
            progress.close()
            _print_plan(writer, plan, allocation, build=build, as_json=json_)
            return endings.OK
        report = bulk_ingestion.ingest(writer, request, progress)
    built = _build(writer, request.selection, enabled=not (json_ or quiet)) if build else None
    _print_report(report, built, as_json=json_)
    partial = report.partial or (built is not None and built.partial)
    return endings.PARTIAL if partial else endings.OK


def _build(writer: Writer, selection: Selection, *, enabled: bool) -> BuildReport | None:
    """Whether anything came or not: a run before may have died between the two."""
    with BuildProgress(enabled=enabled) as progress:
        return gold.build_series(writer, (selection.market,), selection.symbols, progress)


def _selection(
    market: str,
    dataset: str,
    interval: str,
    symbols: str,
    quote: str,
    leverage_tokens: bool,
    stable_pairs: bool,
    contract: str,
    start: str,
    end: str,
) -> Selection:
    found = find_dataset(dataset)
    chosen = parse_market(market)
    if contract not in ("", "spot", "perpetual", "delivery"):
        raise InvalidError(f"unknown contract {contract!r}", "perpetual or delivery")
    return Selection(
        found,
        chosen,
        interval_of(found, interval),
        tuple(dict.fromkeys(s.strip() for s in symbols.split(",") if s.strip())),
        quote or None,
        leverage_tokens,
        stable_pairs,
        contract or None,
        parse_span(start, end, *LISTED_SPAN),
    )


def _freq(text: str) -> FreqPolicy:
    if text == "auto":
        return "auto"
    if text == "monthly":
        return "monthly"
    if text == "daily":
        return "daily"
    raise InvalidError(f"unknown frequency {text!r}", "auto, monthly or daily")


def _print_plan(
    writer: Writer, plan: Plan, allocation: Allocation, *, build: bool, as_json: bool
) -> None:
    candidates = plan.todo.filter(role="candidate").height
    # 400 MiB: a worker at rest.
    cost = plan.dataset.cost
    cpus = max(1.0, allocation.actors * allocation.cpus_per_actor)
    seconds = plan.compressed_bytes / 2**20 * cost.cpu_s_per_mib / cpus
    in_work = cost.memory_per_byte * allocation.depth * allocation.batch_bytes
    memory = int(allocation.actors * ((400 << 20) + in_work))
    units = min(allocation.units, plan.files)
    asked = footprint(
        plan.files, plan.compressed_bytes / max(1, plan.files),
        units, plan.compressed_bytes / max(1, units),
        math.ceil(units / writer.settings.ingest.units_per_commit),
    )  # fmt: skip
    document = {
        "market": plan.market,
        "dataset": plan.dataset.name,
        "interval": plan.interval,
        "files": plan.files,
        "candidates": candidates,
        "from_bronze": plan.todo.filter(role="stored").height,
        "bytes": plan.compressed_bytes,
        "rows_estimated": plan.rows_estimated,
        "seconds_estimated": round(seconds, 1),
        "memory_bytes_estimated": memory,
        "store_estimated": asdict(asked),
        "skipped": plan.skipped,
        "left_alone": plan.left_alone,
        "unrecognised": list(plan.unrecognised[:100]),
        "pool": {
            "executor": allocation.executor,
            "profile": allocation.profile,
            "actors": allocation.actors,
            "actors_most": allocation.actors_most,
            "cpus_per_actor": allocation.cpus_per_actor,
            "memory_bytes_per_actor": allocation.memory_bytes_per_actor,
            "depth": allocation.depth,
            "unit_bytes": allocation.batch_bytes,
            "reasons": list(allocation.explain()),
        },
        "build": build,
    }
    if as_json:
        typer.echo(json.dumps(document))
        return
    target = f"{plan.market} {plan.dataset.name} {plan.interval or ''}".strip()
    lines = [
        f"plan for {target}",
        f"  files      {plan.files:,} to fetch ({plan.compressed_bytes / 1e6:,.1f} MB)",
        f"  maybe      {candidates:,} daily files, if their monthly file has holes",
        f"  present    {plan.skipped:,} as listed; {plan.left_alone:,} refused ones left alone",
        f"  rows       about {plan.rows_estimated:,}",
        f"  time       about {seconds:,.0f} s, plus the start of Ray",
        f"  memory     about {memory / 2**30:.1f} GiB",
        f"  store      about {asked.writes:,} writes and {asked.reads:,} reads if it is S3, "
        f"{asked.metadata_bytes / 1e6:,.1f} MB of metadata",
        *(f"  pool       {line}" if i == 0 else f"             {line}"
          for i, line in enumerate(allocation.explain())),
        *["  then       derived tables are built, with a pool of their own"] * build,
    ]  # fmt: skip
    typer.echo("\n".join(lines))


def _print_report(report: IngestReport, built: BuildReport | None, *, as_json: bool) -> None:
    if as_json:
        derived = None if built is None else built.as_dict()
        typer.echo(json.dumps({**report.as_dict(), "built": derived}))
        return
    target = f"{report.market} {report.dataset} {report.interval or ''}".strip()
    speed = report.csv_bytes / 1e6 / report.work_seconds if report.work_seconds else 0.0
    lines = [
        f"{target}: {report.files:,} new files, {report.rows:,} new rows"
        + (f", {report.rows_replaced:,} replaced" if report.rows_replaced else "")
        + (
            f" ({report.live_rows:,} of them live, {report.live_rows_different:,} of these differed)"
            if report.live_rows
            else ""
        ),
        f"  skipped      {report.skipped:,} there already or not needed",
        f"  transferred  {report.bytes / 1e6:,.1f} MB, {report.csv_bytes / 1e6:,.1f} MB of CSV",
        f"  time         {report.seconds:.1f} s, of which work {report.work_seconds:.1f} s "
        f"({speed:.0f} MB/s of CSV)",
    ]
    if report.left_alone:
        lines.append(f"  left alone   {report.left_alone:,} refused before, until they change")
    if report.unrecognised:
        lines.append(f"  unknown      {report.unrecognised:,} listed names that are no files of it")
    if report.partial:
        lines.append(
            f"  refused      {report.quarantined:,} files, {report.rows_quarantined:,} rows; "
            f"failed {report.failed:,} files (the next run tries again)"
        )
        lines += [f"    {n:>6,} {reason}" for reason, n in report.reasons.most_common()]
        lines += [f"    {e['reason']}: {e['key']}: {e['detail']}" for e in report.examples[:5]]
        lines.append('  ask why: lakehouse sql "select * from silver.quarantine"')
    if built is not None:
        lines.append(
            f"  derived      {built.total('built'):,} units built in {built.seconds:.1f} s"
            + (f", {built.total('failed'):,} FAILED" if built.partial else "")
        )
    print("\n".join(lines), file=sys.stdout)  # noqa: T201
