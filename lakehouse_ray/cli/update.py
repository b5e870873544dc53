"""`lakehouse update`: what the lake lacks and REST has."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.fill_plan import FillPlan
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.filters import (
    DatasetFilter,
    EndFilter,
    IntervalFilter,
    MarketFilter,
    StartFilter,
    SymbolsFilter,
    read_filters,
)
from lakehouse_ray.cli.options import (
    AddressOption,
    DebugOption,
    HomeOption,
    JsonOption,
    QuietOption,
    settings_of,
)
from lakehouse_ray.cli.progress import UpdateProgress
from lakehouse_ray.model.timespan import format_time
from lakehouse_ray.pipeline import realtime_update
from lakehouse_ray.pipeline.realtime_plan import UpdateRequest
from lakehouse_ray.pipeline.realtime_report import UpdateReport

# Of the ranges of a plan, so many are named.
_NAMED_MAX = 1000


def update(
    market: MarketFilter = "",
    dataset: DatasetFilter = "",
    interval: IntervalFilter = "",
    symbols: SymbolsFilter = "",
    start: StartFilter = "",
    end: EndFilter = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be asked for.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Ask also for what the exchange said it has not.")
    ] = False,
    stream_gaps: Annotated[
        bool,
        typer.Option("--stream-gaps", help="Only gaps that `lakehouse stream` has seen."),
    ] = False,
    build: Annotated[
        bool, typer.Option("--build/--no-build", help="Rebuild derived tables afterwards.")
    ] = True,
    profile: Annotated[str, typer.Option(help="small, medium, large or xlarge workers.")] = "",
    actors: Annotated[int, typer.Option(min=0, help="Workers; 0: the allocator chooses.")] = 0,
    address: AddressOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Fill gaps and the time since the last rows by REST, within the exchange's limits.

    Without options: of everything stored that REST has. Symbols that are not stored are filled from
    --start on. Rows of files win over rows of REST. Running it again changes nothing.

    Example: lakehouse update --market um --dataset klines --interval 1m --dry-run
    """
    compute = {k: v for k, v in (("profile", profile), ("actors", actors)) if v}
    writer = Writer(settings_of(home=home, address=address, compute=compute))
    asked = read_filters(writer.clock, market, dataset, interval, symbols, start, end)
    request = UpdateRequest(asked, again=again, build=build, stream_gaps_only=stream_gaps)
    if dry_run:
        _print_plan(writer, realtime_update.dry_run(writer, request), as_json=json_)
        return endings.OK
    with UpdateProgress(enabled=not (json_ or quiet)) as progress:
        report = realtime_update.update(writer, request, progress)
    _print_report(report, as_json=json_)
    return endings.PARTIAL if report.partial else endings.OK


def _print_plan(writer: Writer, plan: FillPlan, *, as_json: bool) -> None:
    seconds = plan.seconds(writer.limits, writer.settings.update.limit_share)
    costs = {market: dict(found) for market, found in sorted(plan.costs().items())}
    if as_json:
        document = {
            "series": plan.series,
            "current": plan.current,
            "requests": plan.requests,
            "rows_estimated": plan.rows,
            "costs": costs,
            "seconds_estimated": seconds,
            "skipped": dict(plan.skipped),
            "fills": [
                {
                    "kind": one.kind,
                    "market": one.fill.market,
                    "dataset": one.fill.dataset,
                    "symbol": one.fill.symbol,
                    "interval": one.fill.interval,
                    "start": format_time(one.fill.span.start_us),
                    "end": format_time(one.fill.span.end_us),
                    "rows_estimated": one.rows,
                    "ids": one.fill.ids,
                    "requests": one.requests,
                    "costs": dict(one.costs),
                }
                for one in plan.planned[:_NAMED_MAX]
            ],
            "fills_left_out": max(0, len(plan.planned) - _NAMED_MAX),
        }
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    kinds = Counter(one.kind for one in plan.planned)
    lines = [
        f"{plan.series:,} series, {plan.current:,} of them up to date",
        f"  to ask for   {kinds['gap']:,} gaps, {kinds['tail']:,} ranges since the last rows, "
        f"{kinds['stream_gap']:,} ranges that streams have missed",
        f"  requests     about {plan.requests:,}, for about {plan.rows:,} rows",
        *(
            f"  {market:<11}  " + ", ".join(f"{amount:,} {name}" for name, amount in found.items())
            for market, found in costs.items()
        ),
        f"  time         about {seconds:,.0f} s at least, by the exchange's limits",
        *(f"  not asked    {count:,} {reason}" for reason, count in plan.skipped.most_common()),
    ]
    typer.echo("\n".join(lines))


def _print_report(report: UpdateReport, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.as_dict(), ensure_ascii=False))
        return
    lines = [
        f"{report.series:,} series, {report.current:,} up to date before; "
        f"{report.rows:,} new rows"
        + (f", {report.rows_replaced:,} replaced" if report.rows_replaced else ""),
        f"  asked for    {report.gaps:,} gaps, {report.tails:,} ranges since the last rows, "
        f"{report.stream_gaps:,} that streams have missed; {report.requests:,} answers",
        f"  time         {report.seconds:.1f} s, of which asking and merging "
        f"{report.work_seconds:.1f} s",
    ]
    ended = ", ".join(f"{n:,} {state}" for state, n in report.stream_gaps_ended.most_common())
    if ended or report.stream_gaps_open:
        lines.append(f"  of streams   {ended or 'nothing new'}; {report.stream_gaps_open:,} open")
    if report.folded is not None and report.folded.rows:
        lines.append(f"  folded       {report.folded.rows:,} live rows of hours that are over")
    if report.resumed:
        lines.append(
            f"  resumed      {report.resumed:,} fills whose answers were in bronze already"
        )
    if report.absent_seconds:
        lines.append(
            f"  absent       {report.absent_seconds / 3600:,.1f} hours of which the exchange has "
            "nothing"
        )
    lines += [
        f"  not asked    {count:,} {reason}" for reason, count in report.skipped.most_common()
    ]
    lines += [f"  note         {text}" for text in list(report.notes)[:5]]
    if report.built is not None:
        made = sum(product.built for product in report.built.products.values())
        lines.append(f"  derived      {made:,} units built")
    if report.reasons:
        lines.append(
            f"  refused      {report.refused:,} ranges, {report.rows_quarantined:,} records; "
            f"failed {report.failed:,} (the next run goes on)"
        )
        lines += [f"    {n:>6,} {reason}" for reason, n in report.reasons.most_common()]
        lines += [f"    {e['reason']}: {e['key']}: {e['detail']}" for e in report.examples[:5]]
    typer.echo("\n".join(lines))
