"""`lakehouse schedule`: what runs by itself, keeping to it, what became of it, and running it now."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import (
    AddressOption,
    DebugOption,
    HomeOption,
    JsonOption,
    QuietOption,
    settings_of,
)
from lakehouse_ray.cli.table import aligned
from lakehouse_ray.errors import InvalidError, UnavailableError
from lakehouse_ray.model.timespan import format_time

if TYPE_CHECKING:
    from lakehouse_ray.settings import Settings

_HELP = "Workflows by the clock: [[schedules]] in lakehouse.toml; docs/schedules.md."
_UNIT_US = 1_000_000

schedule = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=_HELP,
)


@schedule.callback()
def _schedule() -> None:
    """Workflows by the clock: [[schedules]] in lakehouse.toml; docs/schedules.md."""


@schedule.command("list")
def list_(home: HomeOption = "", json_: JsonOption = False, debug: DebugOption = False) -> int:
    """List schedules: when each is next, and how its last run ended.

    Example: lakehouse schedule list --json
    """
    from lakehouse_ray.assembly.reader import Reader
    from lakehouse_ray.assembly.schedules import open_lease, schedules_of
    from lakehouse_ray.assembly.writer import Writer

    settings = settings_of(home=home)
    reader = Reader(settings)
    state = open_lease(Writer(settings), "").state()
    now_us = reader.clock.now_us()
    standings, last = _standings(settings), _last_runs(settings)
    rows = []
    for one in schedules_of(settings).values():
        standing = standings.get(one.name)
        known = standing is not None and standing.cron == one.cron.text
        from_us = standing.decided_us if standing is not None and known else now_us
        rows.append(
            {
                "name": one.name,
                "cron": one.cron.text,
                "workflow": one.workflow.workflow,
                "parameters": one.parameters(),
                "catch_up": one.catch_up,
                "next": format_time(next(one.cron.after(from_us))),
                **last.get(one.name, {"last": None, "state": None, "run_id": None}),
            }
        )
    if json_:
        runner = {"name": state.holder or None, "lease": state.epoch}
        typer.echo(json.dumps({"v": 1, "schedules": rows, "runner": runner}))
        return endings.OK
    columns = ("name", "cron", "workflow", "next", "last", "state")
    lines = [tuple(row[column] or "" for column in columns) for row in rows]
    typer.echo("\n".join(aligned(columns, lines)) if rows else "settings have no [[schedules]]")
    told = f"runner: {state.holder} (lease {state.epoch})" if state.holder else "no runner"
    typer.echo(told, err=True)
    return endings.OK


@schedule.command()
def run(
    on: Annotated[
        str, typer.Option(help="local: processes of this one; ray: jobs of a cluster.")
    ] = "",
    address: AddressOption = "",
    home: HomeOption = "",
    quiet: QuietOption = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Keep to the schedules until it is told to end.

    Start it on as many machines as you like: one at a time keeps to them, and another takes over
    within seconds (scheduler.lease_s) when that one is gone. With --json it says each event as a line.

    Example: lakehouse schedule run --on local
    """
    from lakehouse_ray.assembly.schedules import cluster_jobs, local_processes, schedules_of
    from lakehouse_ray.runtime.session import connect, inside_job

    settings = settings_of(home=home, address=address)
    place = on or ("ray" if settings.ray.address or inside_job() else "local")
    if place not in ("local", "ray"):
        raise InvalidError(f"--on {place}", "local or ray")
    if place == "ray" and not (settings.ray.address or inside_job()):
        raise InvalidError("--on ray needs a cluster", "name it with --address, or submit a job")
    if not schedules_of(settings):
        raise InvalidError("there is no enabled schedule", "add [[schedules]] to lakehouse.toml")

    def tell(line: str) -> None:
        if json_:
            typer.echo(json.dumps({"event": line}))
        elif not quiet:
            typer.echo(line, err=True)

    if place == "local":
        return _keep(settings, local_processes(settings), tell)
    from lakehouse_ray.runtime.ray_jobs import RayJobs

    with connect(settings.ray.address):
        return _keep(settings, cluster_jobs(settings, RayJobs()), tell)


@schedule.command()
def history(
    name: Annotated[str, typer.Argument(help="Of a schedule. Empty: all.")] = "",
    state: Annotated[str, typer.Option(help="Only runs in this state, such as failed.")] = "",
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="The latest so many.")] = 50,
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Show what became of runs, the latest first. In SQL: bronze.runs.

    Example: lakehouse schedule history daily --state failed --json
    """
    from lakehouse_ray.assembly.reader import Reader

    found = (
        Reader(settings_of(home=home))
        .lake.sql(
            "SELECT * FROM bronze.runs WHERE ($name = '' OR schedule = $name) "
            "AND ($state = '' OR state = $state) ORDER BY planned_at DESC, run_id DESC LIMIT $rows",
            {"name": name, "state": state, "rows": rows},
        )
        .pl()
    )
    documents = [{key: _told(value) for key, value in row.items()} for row in found.to_dicts()]
    if json_:
        typer.echo(json.dumps({"v": 1, "runs": documents}))
        return endings.OK
    columns = ("planned_at", "schedule", "state", "trigger", "duration_s", "exit_code", "error")
    lines = [
        tuple("" if row[c] is None else str(row[c]).partition("\n")[0] for c in columns)
        for row in documents
    ]
    typer.echo("\n".join(aligned(columns, lines)) if lines else "nothing has run yet")
    return endings.OK


@schedule.command()
def trigger(
    name: Annotated[str, typer.Argument(help="Of the schedule.")],
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for its end; 0: do not wait.")
    ] = 0,
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Ask for a run now. Whoever keeps to the schedules begins it; else it waits in the lake.

    Example: lakehouse schedule trigger daily --wait 600
    """
    from lakehouse_ray.assembly.schedules import find_schedule, open_run_log, runner_name
    from lakehouse_ray.assembly.writer import Writer
    from lakehouse_ray.pipeline.run_rows import request_run

    settings = settings_of(home=home)
    writer, runner = Writer(settings), runner_name()
    asked = find_schedule(settings, name)
    run_id = request_run(
        open_run_log(writer, runner), asked, writer.clock, runner, secrets.token_hex(4)
    )
    until_s = writer.clock.monotonic_s() + wait_s
    found = _run(settings, run_id)
    while found["ended_at"] is None and writer.clock.monotonic_s() < until_s:
        writer.clock.sleep(0.5)
        found = _run(settings, run_id)
    if json_:
        typer.echo(json.dumps({"v": 1, "run": found}))
    else:
        typer.echo(run_id)
        typer.echo(f"{found['state']} {found['error'] or ''}".rstrip(), err=True)
    if not wait_s or found["state"] == "succeeded":
        return endings.OK
    if found["ended_at"] is None:
        raise UnavailableError(f"{run_id} has not ended within {wait_s:g} s: {found['state']}")
    return endings.PARTIAL


def _keep(settings: Settings, place: Any, tell: Any) -> int:
    from lakehouse_ray.assembly.schedules import (
        open_lease,
        open_run_log,
        runner_name,
        schedules_of,
    )
    from lakehouse_ray.assembly.writer import Writer
    from lakehouse_ray.pipeline.schedule_alerts import ScheduleAlerts
    from lakehouse_ray.pipeline.scheduling import Manner, Scheduler, run_schedules
    from lakehouse_ray.storage.lease import LeaseKeeper

    writer, runner, how = Writer(settings), runner_name(), settings.scheduler
    schedules = schedules_of(settings)
    log = open_run_log(writer, runner)
    keeper = LeaseKeeper(open_lease(writer, runner))
    manner = Manner(how.late_s_max, how.catch_up_max, how.runs_max, how.attempts_max, how.stop_s)
    scheduler = Scheduler(schedules, log, keeper, place, writer.clock, manner, runner, tell)
    tell(f"runner {runner}")
    keeper.start()
    try:
        alerts = ScheduleAlerts(writer, schedules, runner, tell)
        run_schedules(
            scheduler,
            writer.clock,
            how.poll_s,
            tell=tell,
            after=lambda: alerts.look() if scheduler.leading else None,
        )
    finally:
        try:
            scheduler.stop()
        finally:
            keeper.stop()
    return endings.OK


def _standings(settings: Settings) -> Any:
    from lakehouse_ray.assembly.schedules import open_run_log
    from lakehouse_ray.assembly.writer import Writer
    from lakehouse_ray.kernels.run_history import RunHistory

    return RunHistory(open_run_log(Writer(settings), "").read().rows).standings


def _last_runs(settings: Settings) -> dict[str, dict[str, Any]]:
    from lakehouse_ray.assembly.reader import Reader

    found = Reader(settings).lake.sql(
        "SELECT schedule, coalesce(ended_at, started_at) AS last, state, run_id FROM bronze.runs "
        "WHERE started_at IS NOT NULL "
        "QUALIFY row_number() OVER (PARTITION BY schedule ORDER BY started_at DESC) = 1"
    )
    return {
        row.pop("schedule"): {key: _told(value) for key, value in row.items()}
        for row in found.pl().to_dicts()
    }


def _run(settings: Settings, run_id: str) -> dict[str, Any]:
    from lakehouse_ray.assembly.reader import Reader

    found = Reader(settings).lake.sql(
        "SELECT * FROM bronze.runs WHERE run_id = $id", {"id": run_id}
    )
    (row,) = found.pl().to_dicts()
    return {key: _told(value) for key, value in row.items()}


def _told(value: Any) -> Any:
    """In the words of JSON."""
    from datetime import datetime

    from lakehouse_ray.model.timespan import to_us

    return format_time(to_us(value)) if isinstance(value, datetime) else value
