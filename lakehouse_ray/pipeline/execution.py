"""Where a run's work goes: into this process, or to workers on Ray. What all pipelines share."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import DeniedError, InvalidError, LakehouseError, ResourceError
from lakehouse_ray.runtime.allocator import Allocation
from lakehouse_ray.runtime.cluster import ClusterView, this_machine
from lakehouse_ray.runtime.executor import Executor, LocalExecutor
from lakehouse_ray.runtime.pool import RayExecutor, default_worker_env
from lakehouse_ray.runtime.session import connect
from lakehouse_ray.storage.paths import marker_path

# Times work is done anew because another writer came first.
CONFLICT_ROUNDS_MAX = 10

# How long a pool waits for its first worker: on nodes that are there, and where an autoscaler has to
# bring one (a pod needs a machine, which boots, and pulls an image of a gigabyte).
NODE_S = 60.0
NEW_NODE_S = 900.0


def open_executor(
    writer: Writer, allocate: Callable[[ClusterView], Allocation], stack: ExitStack
) -> tuple[Executor, Allocation]:
    """Choose the executor and start what it needs: Ray only for work that is worth it.

    allocate: Sizes a pool for the work on a cluster.
    """
    settings = writer.settings
    allocation = allocate(this_machine())
    if allocation.executor == "local" and not settings.ray.address:
        return LocalExecutor(), allocation
    env = default_worker_env(allocation.cpus_per_actor)
    session = stack.enter_context(
        connect(
            settings.ray.address,
            object_store_bytes=settings.compute.object_store_mb << 20,
            worker_env=env,
        )
    )
    view = session.view()
    allocation = replace(allocate(view), executor="ray")
    label = "" if session.own else settings.compute.node_label
    # The CPUs that are there may be those of nodes for other profiles.
    grows = view.may_grow and (settings.compute.cpus_max > view.cpus or bool(label))
    executor = RayExecutor(
        inherited_env=session.inherited_env,
        autoscaling=grows,
        start_timeout_s=NEW_NODE_S if grows else NODE_S,
        node_labels={label: allocation.profile} if label else None,
    )
    return executor, allocation


@contextmanager
def store_marker(writer: Writer, run_id: str) -> Iterator[str]:
    """Leave something in the store by which a worker can tell that it sees the same one."""
    path = marker_path(run_id)
    writer.store.put(path, b"")
    try:
        yield path
    finally:
        writer.store.delete(path)


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
