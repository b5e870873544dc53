"""`lakehouse jobs`: workflows as jobs of a Ray cluster: submitted, watched, heard and stopped."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, settings_of
from lakehouse_ray.cli.table import aligned
from lakehouse_ray.errors import InvalidError, NotFoundError, UnavailableError
from lakehouse_ray.model.timespan import SECOND_US, format_time

if TYPE_CHECKING:
    from lakehouse_ray.runtime.job_watch import JobWatch
    from lakehouse_ray.runtime.jobs import Job
    from lakehouse_ray.runtime.lake_jobs import LakeJobs
    from lakehouse_ray.settings import Settings

_HELP = "Workflows as jobs of a Ray cluster, by its dashboard (docs/jobs.md)."
_TAIL_MAX = 100_000
# Where the last line of progress is looked for.
_PROGRESS_LINES = 200
# Of a failed job that tells of no error: one that ended partial, or below the threshold of quality.
_LAST_LINES = 5
# A shell's words for what a signal ended.
_TERMINATED = 143

DashboardOption = Annotated[
    str,
    typer.Option(
        "--address",
        help="Of the cluster's dashboard. Default: ray.dashboard_url, else http://127.0.0.1:8265.",
    ),
]
JobArgument = Annotated[str, typer.Argument(help="Its id, as `submit` and `list` print it.")]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait for its end; 0: do not wait.")
]

jobs = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=_HELP,
)


@jobs.callback()
def _jobs() -> None:
    """Workflows as jobs of a Ray cluster, by its dashboard (docs/jobs.md)."""


@dataclass(frozen=True)
class _Cluster:
    """The jobs of a cluster, and how long it may be silent."""

    desk: LakeJobs
    jobs: Any
    silence_s_max: float

    def watch(self, job_id: str) -> JobWatch:
        from lakehouse_ray.clock import SystemClock
        from lakehouse_ray.runtime.job_watch import JobWatch

        return JobWatch(self.jobs, job_id, SystemClock(), self.silence_s_max)

    def find(self, job_id: str) -> Job:
        try:
            return self.desk.find(job_id)
        except NotFoundError as error:
            near = difflib.get_close_matches(job_id, [job.id for job in self.desk.all()], n=1)
            hint = f"did you mean {near[0]}?" if near else "`lakehouse jobs list` lists them"
            raise NotFoundError(str(error), hint) from error


@jobs.command()
def submit(
    job: Annotated[
        str,
        typer.Argument(help="Such as bulk-ingestion, or ingest; or a file of Python, sent alone."),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After --: options of its command.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="Its id. Default: what it does, of what, when, and a random part.")
    ] = "",
    wait_s: WaitOption = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Say what it says, and end as it ends.")
    ] = False,
    address: DashboardOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Start a job on a cluster. Prints its id.

    Its options are checked here before it is sent. It has the settings that are set here, but for
    secrets, which the cluster's nodes must have; where the lake's place is not set here, theirs.
    With --wait or --follow the command ends with the job's own exit code. A --name that is taken:
    code 8, and nothing is run twice.

    Examples:
      lakehouse jobs submit bulk-ingestion -- --market um --dataset metrics --start 2024-01
      lakehouse jobs submit build-gold --follow -- daily --market spot
    """
    from lakehouse_ray.cli.job_work import work_of

    if follow and json_:
        raise InvalidError("--follow and --json exclude each other", "--wait SECONDS --json")
    with work_of(job, arguments or ()) as work, _cluster(address, home) as cluster:
        job_id = name or cluster.desk.name(work)
        try:
            started = cluster.desk.start(work, job_id)
        except UnavailableError as error:
            raise UnavailableError(
                f"{error}. Whether {job_id} was started is not known: submit it again with --name "
                f"{job_id}, nothing is run twice then"
            ) from error
        if not json_:
            typer.echo(started.id, err=follow)
        if follow:
            return _follow(cluster, started.id)
        if wait_s:
            started = cluster.watch(started.id).wait(wait_s)
        _tell(cluster, started, json_, brief=True)
        return exit_code(started) if wait_s else endings.OK


@jobs.command("list")
def list_(
    state: Annotated[str, typer.Option(help="Only jobs in this state, such as RUNNING.")] = "",
    workflow: Annotated[str, typer.Option(help="Only these, such as ingest.")] = "",
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="The latest so many.")] = 50,
    history: Annotated[
        bool, typer.Option("--history", help="Those that the lake remembers; asks no cluster.")
    ] = False,
    address: DashboardOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """List the jobs that a cluster remembers, the latest first; or those of the lake's history.

    Examples:
      lakehouse jobs list --state RUNNING
      lakehouse jobs list --history --json
    """
    if history:
        documents = _history(settings_of(home=home))
        columns = ("id", "state", "exit_code", "submitted", "seconds", "error")
    else:
        with _cluster(address, home) as cluster:
            documents = [_document(cluster, found) for found in cluster.desk.all()]
        columns = ("id", "workflow", "state", "exit_code", "submitted", "seconds")
    found = [
        one
        for one in documents
        if state.upper() in ("", one["state"]) and workflow in ("", one["workflow"])
    ][:rows]
    if json_:
        typer.echo(json.dumps({"v": 1, "jobs": found}))
    else:
        lines = [tuple("" if one[c] is None else one[c] for c in columns) for one in found]
        typer.echo("\n".join(aligned(columns, lines)) if lines else "no job")
    return endings.OK


@jobs.command()
def status(
    job_id: JobArgument,
    wait_s: WaitOption = 0,
    address: DashboardOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Show a job: its state, how far it is, how it ended.

    With --wait the command ends with the job's own exit code, 143 for one that was stopped, 3 for
    one that was lost with its node; with 7 where it has not ended in time: it goes on.

    Example: lakehouse jobs status ingest-um-metrics-20260105T120000-5f0c9a21 --wait 3600
    """
    with _cluster(address, home) as cluster:
        found = cluster.find(job_id)
        if wait_s and not found.ended:
            found = cluster.watch(job_id).wait(wait_s)
        _tell(cluster, found, json_)
        return exit_code(found) if wait_s else endings.OK


@jobs.command()
def logs(
    job_id: JobArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until it has ended, and end as it ends.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option(min=1, max=_TAIL_MAX, help="Only so many of the last lines.")
    ] = None,
    address: DashboardOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Print what a job says, without secrets.

    Examples:
      lakehouse jobs logs --tail 100 ingest-um-metrics-20260105T120000-5f0c9a21
      lakehouse jobs logs --follow ingest-um-metrics-20260105T120000-5f0c9a21
    """
    if follow and (json_ or tail is not None):
        raise InvalidError("--follow prints every line", "without --json and --tail")
    with _cluster(address, home) as cluster:
        found = cluster.find(job_id)
        if follow:
            return _follow(cluster, job_id)
        lines = cluster.desk.last_lines(job_id, tail or _TAIL_MAX)
        if json_:
            typer.echo(json.dumps({"v": 1, "id": job_id, "state": found.state, "lines": lines}))
        else:
            for line in lines:
                typer.echo(line)
        return endings.OK


@jobs.command()
def stop(
    job_id: JobArgument,
    wait_s: WaitOption = 0,
    address: DashboardOption = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Ask a job to end; one that has ended stays as it is. What it has committed stays.

    Example: lakehouse jobs stop ingest-um-metrics-20260105T120000-5f0c9a21 --wait 60
    """
    with _cluster(address, home) as cluster:
        cluster.find(job_id)
        found = cluster.desk.stop(job_id)
        if wait_s and not found.ended:
            found = cluster.watch(job_id).wait(wait_s)
        _tell(cluster, found, json_)
        return endings.OK


def exit_code(job: Job) -> int:
    """The job's own; in a shell's words where a signal ended it."""
    if job.exit_code is not None:
        return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code
    if job.state == "SUCCEEDED":
        return endings.OK
    return _TERMINATED if job.state == "STOPPED" else endings.PARTIAL


@contextlib.contextmanager
def _cluster(address: str, home: str) -> Iterator[_Cluster]:
    from lakehouse_ray.assembly.jobs import job_environment, lake_of
    from lakehouse_ray.cli.job_work import PYTHON
    from lakehouse_ray.runtime.dashboard_jobs import dashboard_at
    from lakehouse_ray.runtime.lake_jobs import LakeJobs
    from lakehouse_ray.settings import origin, secrets_of
    from lakehouse_ray.telemetry.redaction import Redaction

    settings = settings_of(home=home)
    # A home that nobody set here is no place of the cluster.
    is_set = bool(home) or origin("home") != "default"
    knows = is_set or (settings.storage.root and settings.catalog.uri)
    with dashboard_at(address or settings.ray.dashboard_url, settings.ray.silence_s_max) as found:
        desk = LakeJobs(
            found,
            lake=lake_of(settings) if knows else "",
            command=(PYTHON,),
            environment=job_environment(settings, () if is_set else ("LAKEHOUSE_HOME",)),
            redaction=Redaction([*secrets_of(settings), *found.secrets()]),
            own_only=False,
        )
        yield _Cluster(desk, found, settings.ray.silence_s_max)


def _follow(cluster: _Cluster, job_id: str) -> int:
    watch = cluster.watch(job_id)
    for line in watch.lines():
        typer.echo(cluster.desk.redacted(line))
    ended = cluster.find(job_id)
    typer.echo(f"{ended.state}, exit code {exit_code(ended)}", err=True)
    return exit_code(ended)


def _document(cluster: _Cluster, job: Job) -> dict[str, Any]:
    seconds = None
    if job.started_us is not None and job.ended_us is not None:
        seconds = (job.ended_us - job.started_us) / SECOND_US
    return {
        **cluster.desk.document(job),
        "command": cluster.desk.redacted(job.command),
        "seconds": seconds,
    }


def _tell(cluster: _Cluster, job: Job, json_: bool, *, brief: bool = False) -> None:
    from lakehouse_ray.telemetry.progress import last_progress

    document = _document(cluster, job)
    failed = job.state == "FAILED"
    said = cluster.desk.last_lines(job.id, _PROGRESS_LINES) if json_ or failed or not brief else []
    document["error"] = "\n".join(_why(said)) if failed else None
    if json_ or not brief:
        found = last_progress(said)
        document["progress"] = None if found is None else {
            "done": found.done, "total": found.total, "what": found.what, "note": found.note,
        }  # fmt: skip
    if json_:
        typer.echo(json.dumps({"v": 1, "job": document}))
    elif brief:
        typer.echo(f"{job.state} {_rays_words(document['message'])}".rstrip(), err=True)
        for line in _why(said) if failed else ():
            typer.echo(line, err=True)
    else:
        told = document | {"progress": "" if found is None else str(found)}
        names = (
            "id",
            "state",
            "exit_code",
            "progress",
            "submitted",
            "ended",
            "seconds",
            "command",
            "message",
            "error",
        )
        told["message"] = _rays_words(document["message"])
        for name in names:
            if told[name] not in (None, ""):
                typer.echo(f"{name:<9}  {str(told[name]).replace(chr(10), f'{chr(10):<12}')}")


def _rays_words(message: str) -> str:
    """What Ray says of a job, without the end of its log that follows."""
    return message.partition("\n")[0].partition(", last available logs")[0]


def _why(lines: Sequence[str]) -> Sequence[str]:
    """What a job that failed said of it: its error and hint, or else its last lines."""
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith("error: "):
            hints = (line for line in lines[number + 1 : number + 2] if line.startswith("hint: "))
            return [lines[number], *hints]
    return [line for line in lines if line.strip()][-_LAST_LINES:]


def _history(settings: Settings) -> list[dict[str, Any]]:
    """What the lake knows. state: as Ray spells it; UNKNOWN: it has not said how it ended."""
    from lakehouse_ray.assembly.writer import Writer
    from lakehouse_ray.pipeline.job_records import JobRecord, records

    def state(one: JobRecord) -> str:
        if one.exit_code is None:
            return "UNKNOWN"
        if one.exit_code in (_TERMINATED, 130):
            return "STOPPED"
        return "SUCCEEDED" if one.exit_code == 0 else "FAILED"

    return [
        {
            "id": one.job_id,
            "workflow": one.arguments[0] if one.arguments else "",
            "arguments": list(one.arguments),
            "state": state(one),
            "exit_code": one.exit_code,
            "submitted": format_time(one.started_us),
            "ended": None if one.ended_us is None else format_time(one.ended_us),
            "seconds": None
            if one.ended_us is None
            else (one.ended_us - one.started_us) / SECOND_US,
            "error": one.error,
            "node": one.node,
        }
        for one in records(Writer(settings).store)
    ]
