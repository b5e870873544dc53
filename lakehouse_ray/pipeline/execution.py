"""Where a run's work goes: into this process, or to workers on Ray. What all pipelines share."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import cast

import structlog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.budget import KeptBudget
from lakehouse_ray.errors import DeniedError, InvalidError, LakehouseError, ResourceError
from lakehouse_ray.pipeline.run_measures import RunMeasures
from lakehouse_ray.pipeline.run_records import begin, end
from lakehouse_ray.runtime.allocator import Allocation, Kind, Workload, allocate
from lakehouse_ray.runtime.cluster import ClusterView, this_machine
from lakehouse_ray.runtime.executor import Executor, LocalExecutor
from lakehouse_ray.runtime.pool import RayExecutor, default_worker_env
from lakehouse_ray.runtime.scaling import Rules
from lakehouse_ray.runtime.session import connect, inside_job
from lakehouse_ray.runtime.shared import shared_by_all, unshared
from lakehouse_ray.telemetry.meter import add, set_to
from lakehouse_ray.telemetry.metrics import POOL_DECISIONS, POOL_SIZED, POOL_UNIT_BYTES

_log = structlog.get_logger(__name__)

# Times work is done anew because another writer came first.
CONFLICT_ROUNDS_MAX = 10
_ACCOUNT_METHODS = ("ask", "settle", "give_back", "used", "blocked_s")


def allocation_for(writer: Writer, work: Workload, view: ClusterView) -> Allocation:
    """Size a pool for `work` on the cluster of `view`, as the settings say."""
    compute = writer.settings.compute
    profile_of: dict[Kind, str] = {
        "ingest": compute.ingestion,
        "process": compute.processing,
        "analytics": compute.analytics,
        "other": compute.other,
    }
    return allocate(
        work,
        view,
        compute.profiles(),
        profile=compute.profile,
        actors=compute.actors,
        cpus_max=compute.cpus_max,
        # On a cluster the work is its workers', however little it is.
        local_bytes_max=0 if view.may_grow else compute.local_bytes_max,
        headroom_cpus=compute.headroom_cpus,
        node_label=compute.node_label if view.may_grow else "",
        elastic=compute.elastic,
        profile_of=profile_of,
    )


def open_executor(
    writer: Writer,
    sized: Callable[[ClusterView], Allocation],
    stack: ExitStack,
    workload: str,
    measures: RunMeasures,
    subject: str = "",
    units: int | None = None,
) -> tuple[Executor, Allocation]:
    """Choose the executor and start what it needs: Ray only for work that is worth it.

    sized: Sizes a pool for the work on a cluster. workload: The work, a word for metrics.
    measures: Of the run, which Ray hears of for as long as `stack` is open. subject: What it is
        about. units: How many tasks there will be; None: about as many as the allocator makes units,
        0: nobody knows. Both are for who looks at Ray's dashboard.
    """
    settings, compute = writer.settings, writer.settings.compute
    env: Mapping[str, str] = {}
    if not settings.ray.address:
        try:
            allocation = sized(this_machine())
        except InvalidError:
            # The cluster that runs this job may hold what this machine does not.
            if not inside_job():
                raise
        else:
            if allocation.executor == "local":
                _tell_size(workload, allocation, stack)
                return LocalExecutor(), allocation
            env = default_worker_env(allocation.cpus_per_actor)
    session = stack.enter_context(
        connect(
            settings.ray.address,
            object_store_bytes=compute.object_store_mb << 20,
            worker_env=env,
        )
    )
    stack.enter_context(measures.heard())
    view = session.view()
    allocation = replace(sized(view), executor="ray")
    _tell_size(workload, allocation, stack)
    label = "" if session.own else compute.node_label
    # The CPUs that are there may be those of nodes for other profiles.
    grows = view.may_grow and (compute.cpus_max > view.cpus or bool(label))
    title = f"{workload} {subject}".rstrip()
    count = _units(allocation.units, about=True) if units is None else _units(units)
    executor = RayExecutor(
        inherited_env=session.inherited_env,
        autoscaling=grows,
        start_timeout_s=compute.node_timeout_s if grows else compute.worker_timeout_s,
        refused_timeout_s=compute.worker_timeout_s,
        node_labels={label: allocation.profile} if label else None,
        rules=Rules(**settings.scaling.model_dump()),
        workload=workload,
        run_name=f"{title} {measures.run_id}",
        task_name=title if units == 0 else f"{title}, of {count}",
    )
    return executor, allocation


def planned_allocation(writer: Writer, sized: Callable[[ClusterView], Allocation]) -> Allocation:
    """Size a pool as a run of now would be: on the cluster that it would join. Starts no Ray.

    Raises what `connect` raises where a cluster is named and cannot be asked.
    """
    settings = writer.settings
    if settings.ray.address in ("", "local"):
        with contextlib.suppress(InvalidError) if inside_job() else contextlib.nullcontext():
            allocation = sized(this_machine())
            if allocation.executor == "local" or not inside_job():
                return allocation
    with connect(
        settings.ray.address, object_store_bytes=settings.compute.object_store_mb << 20
    ) as session:
        return replace(sized(session.view()), executor="ray")


def _units(count: int, *, about: bool = False) -> str:
    return "1 unit" if count == 1 else f"{'about ' * about}{count:,} units"


def _tell_size(workload: str, allocation: Allocation, stack: ExitStack) -> None:
    """Say how a run was sized and by which rules, for as long as `stack` is open."""
    _log.info("pool", workload=workload, decision=" ".join(allocation.explain()))
    for rule in allocation.rules:
        add(POOL_DECISIONS, 1, workload, "sized", rule)
    for shape, value, labels in (
        (POOL_SIZED, allocation.actors, (workload, allocation.executor, allocation.profile)),
        (POOL_UNIT_BYTES, allocation.batch_bytes, (workload,)),
    ):
        set_to(shape, value, *labels)
        stack.callback(set_to, shape, 0, *labels)


@dataclass(frozen=True)
class _MakeAccount:
    """Makes the account where it will live; pickles."""

    writer: Writer

    def __call__(self) -> KeptBudget:
        return self.writer.budget()


def open_account(writer: Writer, *, local: bool) -> AbstractContextManager[KeptBudget]:
    """The account of what the exchange may be asked: of this machine, or the cluster's in an actor."""
    make = _MakeAccount(writer)
    if local:
        return unshared(make, "budget")
    name = f"budget-{writer.exchange_name}"
    return cast(
        "AbstractContextManager[KeptBudget]", shared_by_all(make, name, methods=_ACCOUNT_METHODS)
    )


@contextmanager
def store_marker(writer: Writer, run_id: str) -> Iterator[str]:
    """Leave something in the store by which a worker can tell that it sees the same one.

    Whoever looks for runs that were killed or interrupted finds it, too.
    """
    path = begin(writer.store, run_id)
    try:
        yield path
    except Exception:
        # It says itself what went wrong.
        end(writer.store, run_id)
        raise
    end(writer.store, run_id)


@contextmanager
def planning(writer: Writer, measures: RunMeasures) -> Iterator[None]:
    """The part of a run before it is connected to Ray: a cluster hears of what fails there, too."""
    try:
        yield
    except Exception as error:
        settings = writer.settings
        # A Ray of its own would be started only to hear of it.
        if settings.ray.address not in ("", "local") or inside_job():
            with (
                contextlib.suppress(LakehouseError),
                connect(
                    settings.ray.address, object_store_bytes=settings.compute.object_store_mb << 20
                ),
            ):
                measures.end(error)
        raise


def check_store(writer: Writer, marker: str) -> None:
    """Raises InvalidError on a node whose store is not the driver's."""
    if not writer.store.exists(marker):
        raise InvalidError(
            f"node {platform.node()} does not see the lake at {writer.store.root}",
            "with several nodes storage.root must be s3://… or a folder that all of them share",
        )


def concerns_all(error: Exception | None) -> bool:
    """Disk full or no permission: every other unit would fail in the same way."""
    return isinstance(error, LakehouseError) and isinstance(error, DeniedError | ResourceError)
