"""`lakehouse build`: derived tables from silver."""

from __future__ import annotations

import functools
import json
from typing import Annotated

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import (
    AddressOption,
    DebugOption,
    HomeOption,
    JsonOption,
    QuietOption,
    settings_of,
)
from lakehouse_ray.cli.progress import BuildProgress
from lakehouse_ray.gold.plan import BuildScope, ProductPlan
from lakehouse_ray.model.products.registry import find_products
from lakehouse_ray.model.timespan import parse_span
from lakehouse_ray.model.venue import parse_interval, parse_market
from lakehouse_ray.model.workflows import STORED_SPAN
from lakehouse_ray.pipeline import gold
from lakehouse_ray.pipeline.execution import planned_allocation
from lakehouse_ray.pipeline.gold import BuildRequest
from lakehouse_ray.pipeline.gold_report import BuildReport
from lakehouse_ray.runtime.allocator import Allocation

# Of the units of a plan, so many are named.
_NAMED_MAX = 100


def build(
    products: Annotated[
        list[str] | None, typer.Argument(help="Names of derived tables. Default: all.")
    ] = None,
    market: Annotated[str, typer.Option(help="spot, um or cm, by commas. Default: all.")] = "",
    symbols: Annotated[str, typer.Option(help="By commas. Default: all.")] = "",
    interval: Annotated[str, typer.Option(help="Of bars, by commas. Default: all.")] = "",
    start: Annotated[str, typer.Option(help="First instant, such as 2024-01.")] = "",
    end: Annotated[str, typer.Option(help="End, not included: 2024-07 ends with June.")] = "",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build anew what is current, too.")
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
    """Bring derived tables up to what they are made from, and those they need before them.

    Only what has changed is built. Running it again changes nothing.

    Example: lakehouse build daily --market spot --symbols BTCUSDT,ETHUSDT --start 2024-01
    """
    compute = {k: v for k, v in (("profile", profile), ("actors", actors)) if v}
    request = BuildRequest(
        tuple(
            dict.fromkeys(
                product.name for name in products or () for product in find_products(name)
            )
        ),
        _scope(market, symbols, interval, start, end),
        rebuild,
    )
    writer = Writer(settings_of(home=home, address=address, compute=compute))
    with BuildProgress(enabled=not (json_ or quiet)) as progress:
        if dry_run:
            plans = gold.plan_build(writer, request)
            allocation = planned_allocation(
                writer, functools.partial(gold.allocate_build, writer, plans)
            )
            progress.close()
            _print_plans(plans, allocation, as_json=json_)
            return endings.OK
        report = gold.build(writer, request, progress)
    _print_report(report, as_json=json_)
    return endings.PARTIAL if report.partial else endings.OK


def _scope(market: str, symbols: str, interval: str, start: str, end: str) -> BuildScope:
    return BuildScope(
        tuple(parse_market(name) for name in _listed(market)),
        _listed(symbols),
        tuple(parse_interval(name) for name in _listed(interval)),
        parse_span(start, end, *STORED_SPAN),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _print_plans(plans: list[ProductPlan], allocation: Allocation, *, as_json: bool) -> None:
    if as_json:
        document = {
            "products": [
                {
                    "product": plan.product.name,
                    "units": plan.units,
                    "current": plan.current,
                    "stale": len(plan.stale),
                    "lost": len(plan.lost),
                    "rows_to_read": sum(item.rows_read for item in plan.stale),
                    "bytes_to_read": plan.size_bytes,
                    "first_stale": [str(item.unit) for item in plan.stale[:_NAMED_MAX]],
                    "first_lost": [
                        {"unit": str(item.unit), "detail": item.error.detail}
                        for item in plan.lost[:_NAMED_MAX]
                    ],
                }
                for plan in plans
            ],
            "pool": {
                "executor": allocation.executor,
                "profile": allocation.profile,
                "actors": allocation.actors,
                "cpus_per_actor": allocation.cpus_per_actor,
                "memory_bytes_per_actor": allocation.memory_bytes_per_actor,
                "depth": allocation.depth,
                "task_bytes": allocation.batch_bytes,
                "reasons": list(allocation.explain()),
            },
        }
        typer.echo(json.dumps(document))
        return
    lines = [
        f"{plan.product.name}: {len(plan.stale):,} of {plan.units:,} units to build, "
        f"{sum(item.rows_read for item in plan.stale):,} rows to read "
        f"({plan.size_bytes / 1e6:,.1f} MB)"
        for plan in plans
    ]
    lines += [f"  {item.unit}" for plan in plans for item in plan.stale[:5]]
    lines += [
        f"  cannot be built: {plan.product.name} {item.unit}: {item.error.detail}"
        for plan in plans
        for item in plan.lost[:5]
    ]
    lines += [f"pool: {line}" for line in allocation.explain()]
    lines.append("Products made from others may need more once those are built.")
    typer.echo("\n".join(lines))


def _print_report(report: BuildReport, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
        return
    lines = [
        f"{product.product}: {product.built:,} units built ({product.rows:,} rows), "
        f"{product.unchanged:,} found unchanged, {product.current:,} current"
        + (f", {product.failed:,} FAILED" if product.failed else "")
        for product in report.products.values()
    ]
    lines.append(
        f"  time         {report.seconds:.1f} s, of which work {report.work_seconds:.1f} s"
    )
    if report.partial:
        lines += [f"    {n:>6,} {reason}" for reason, n in report.reasons.most_common()]
        lines += [f"    {e['reason']}: {e['unit']}: {e['detail']}" for e in report.examples[:5]]
        lines.append("  rows of before stay where a unit failed; the next run tries again")
    typer.echo("\n".join(lines))
