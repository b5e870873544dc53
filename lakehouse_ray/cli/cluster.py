"""`lakehouse cluster`: the lake on KubeRay: how it is, its sizes, and runs of its jobs."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, JsonOption
from lakehouse_ray.cli.table import aligned
from lakehouse_ray.errors import InvalidError

if TYPE_CHECKING:
    from lakehouse_ray.runtime.kuberay import Job, KubeRay

_HELP = "The lake on KubeRay (kuberay/README.md), by your kubeconfig."

NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Of Kubernetes. Default: the kubeconfig's.")
]
ContextOption = Annotated[str, typer.Option("--context", help="Of the kubeconfig.")]

cluster = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=_HELP,
)


@cluster.callback()
def _cluster() -> None:
    """The lake on KubeRay (kuberay/README.md), by your kubeconfig."""


@cluster.command()
def status(
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Show clusters with their groups of workers, jobs and the service.

    Example: lakehouse cluster status -n lakehouse
    """
    kuberay = _kuberay(namespace, context)
    clusters, jobs, services = kuberay.clusters(), kuberay.jobs(), kuberay.services()
    if json_:
        document = {
            "clusters": [dataclasses.asdict(one) for one in clusters],
            "jobs": [dataclasses.asdict(one) for one in jobs],
            "services": [dataclasses.asdict(one) for one in services],
        }
        typer.echo(json.dumps({"v": 1, **document}))
        return endings.OK
    rows = [
        (one.name, one.state, f"{one.ready}/{one.wanted}", group.name, str(group.replicas), f"{group.least} to {group.most}")
        for one in clusters
        for group in one.groups
    ]  # fmt: skip
    _table(("cluster", "state", "workers", "group", "wanted", "bounds"), rows, "no cluster")
    _table(
        ("job", "state", "cluster", ""),
        [
            (one.name, "waits" if one.waiting else one.state, one.cluster, one.message)
            for one in jobs
        ],
        "no job",
    )
    _table(
        ("service", "state", "pods", ""),
        [
            (one.name, one.state, str(one.endpoints), "a second cluster comes up" * one.upgrading)
            for one in services
        ],
        "no service",
    )
    return endings.OK


@cluster.command()
def scale(
    group: Annotated[str, typer.Argument(help="small, medium, large or xlarge.")],
    least: Annotated[
        int | None, typer.Option("--min", min=0, help="Workers that stay. Default: as it is.")
    ] = None,
    most: Annotated[
        int | None, typer.Option("--max", min=0, help="Workers at most. Default: as it is.")
    ] = None,
    of: Annotated[str, typer.Option("--cluster", help="Whose group.")] = "lakehouse",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Set between how many workers the autoscaler keeps a group of the standing cluster.

    It holds until the manifests are applied again: what is to last belongs there.

    Example: lakehouse cluster scale medium --min 2 --max 40 -n lakehouse
    """
    if least is None and most is None:
        raise InvalidError("nothing to set", "--min, --max, or both")
    found = _kuberay(namespace, context).scale(of, group, least, most)
    if json_:
        typer.echo(json.dumps({"v": 1, "cluster": of, "group": dataclasses.asdict(found)}))
    else:
        typer.echo(f"{of}/{found.name}: {found.least} to {found.most} workers", err=True)
    return endings.OK


@cluster.command()
def submit(
    job: Annotated[str, typer.Argument(help="One that waits, such as bulk-ingestion.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="After --: options of its command, in place of those that it has."),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the run. Default: the job's, and the time.")] = "",
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for its end; 0: do not wait.")
    ] = 0,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Start a run of a job, on a cluster of its own. Prints the run's name.

    A run of the same name is not started twice: code 8. With --wait, code 3 where it failed.

    Example: lakehouse cluster submit bulk-ingestion -n lakehouse -- --market um --dataset metrics
    """
    kuberay = _kuberay(namespace, context)
    run = kuberay.submit(job, name, arguments or ())
    if not json_:
        typer.echo(run.name)
    if wait_s:
        run = kuberay.wait(run.name, wait_s)
        if not json_:
            typer.echo(f"{run.state} {run.message}".rstrip(), err=True)
    if json_:
        typer.echo(json.dumps({"v": 1, "run": dataclasses.asdict(run)}))
    return _code(run) if wait_s else endings.OK


def _code(run: Job) -> int:
    return endings.OK if run.succeeded else endings.PARTIAL


def _kuberay(namespace: str, context: str) -> KubeRay:
    from lakehouse_ray.clock import SystemClock
    from lakehouse_ray.runtime.kuberay import KubeRay
    from lakehouse_ray.runtime.kubernetes import connect

    return KubeRay(connect(namespace, context), SystemClock())


def _table(columns: tuple[str, ...], rows: list[tuple[Any, ...]], none: str) -> None:
    typer.echo("\n".join(aligned(columns, rows)) if rows else none)
    typer.echo("")
