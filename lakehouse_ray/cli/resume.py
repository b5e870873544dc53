"""`lakehouse resume`: what killed runs left is gone on with."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.cli import endings
from lakehouse_ray.cli.again import DONE, run_again
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, QuietOption, settings_of
from lakehouse_ray.pipeline.run_records import RunRecord, end, records

# Commands that go on where they were when they are run again.
RESUMED = ("ingest", "update", "build", "quality")


def resume(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the runs that have not ended.")
    ] = False,
    elsewhere: Annotated[
        bool,
        typer.Option(
            "--elsewhere", help="Also runs of other machines: none of them is at work any more."
        ),
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Take away the records of these runs instead.")
    ] = False,
    home: HomeOption = "",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Run again, one after the other, the commands of runs that were killed or interrupted.

    They go on where they were. Runs whose process is alive are left alone, and so are those of
    other machines, of which that cannot be told. Ends with 3 where a command fails.

    Example: lakehouse resume --dry-run
    """
    writer = Writer(settings_of(home=home))
    told: list[dict[str, object]] = []
    codes: dict[tuple[str, ...], int] = {}
    for record in records(writer.store):
        chosen = record.state in ("killed", "unknown") or (
            elsewhere and record.state == "elsewhere"
        )
        code: int | None = None
        done = "left"
        if chosen and not dry_run and forget:
            end(writer.store, record.run_id)
            done = "forgotten"
        elif chosen and not dry_run and _can_be_run(record):
            # Two runs of one command are gone on with by one.
            if record.arguments not in codes:
                codes[record.arguments] = run_again(
                    record.arguments, writer.settings, silent=quiet or json_
                )
            code = codes[record.arguments]
            done = "resumed" if code in DONE else "failed"
            if code in DONE:
                end(writer.store, record.run_id)
        told.append(
            {
                "run_id": record.run_id,
                "command": shlex.join(["lakehouse", *record.arguments]) if record.arguments else "",
                "state": record.state if done == "left" else done,
                "code": code,
            }
        )
    if json_:
        typer.echo(json.dumps({"v": 1, "dry_run": dry_run, "runs": told}))
    else:
        lines = [f"{one['run_id']}: {one['state']}: {one['command'] or '?'}" for one in told]
        typer.echo("\n".join(lines or ["every run has ended by itself"]))
    return endings.OK if all(code in DONE for code in codes.values()) else endings.PARTIAL


def _can_be_run(record: RunRecord) -> bool:
    return bool(record.arguments) and record.arguments[0] in RESUMED
