"""The executor on Ray: pools of actors of one size on the nodes that may hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.runtime.cluster import ClusterView, memory_that_fits
from lakehouse_ray.runtime.executor import PoolSpec
from lakehouse_ray.runtime.ray_pool import Patience, RayPool, Room
from lakehouse_ray.runtime.resizing import (
    DOWN_AFTER_S,
    LOOK_EVERY_S,
    Bounds,
    Governor,
)
from lakehouse_ray.runtime.scaling import Rules
from lakehouse_ray.runtime.session import view_cluster
from lakehouse_ray.runtime.workers import PoolWorker

C = TypeVar("C")
T = TypeVar("T")
R = TypeVar("R")


def default_worker_env(cpus: float) -> dict[str, str]:
    """Environment of workers that reserve `cpus` CPUs each, unless the caller chooses another.

    The malloc settings keep the large buffers of CSV and Parquet in the heap instead of giving
    each back to the kernel and faulting it in again: 7 % of the time of a monthly zip.
    """
    return {
        "POLARS_MAX_THREADS": str(max(1, int(cpus))),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }


class RayExecutor:
    """Runs work on actors of the Ray cluster this process is connected to (see `session.connect`).

    worker_env: Environment of the workers; `default_worker_env` where it is None.
    inherited_env: What Ray's workers have in their environment anyway (`RaySession.inherited_env`).
        What is in both costs nothing; anything more gives each worker a fresh process instead of
        a prestarted one, about 0.2 s each.
    start_timeout_s: How long a pool may be without any worker, at its start and later.
    autoscaling: The cluster may grow: wait for a worker that no node of today could hold.
    refused_timeout_s: How long a pool waits where the cluster's autoscaler says that it has no node for
        its workers.
    node_labels: What a node must have for a worker to run there.
    rules: Of growing and shrinking, for pools that may. look_every_s, down_after_s: How often they are
        applied, and how long a pool is idle before it gets smaller.
    workload: What the pools do, a word for the label of metrics.
    run_name, task_name: For who looks at Ray's dashboard: workers are named by the run, tasks counted by
        their name. Empty: they have no names of their own.
    """

    def __init__(
        self,
        *,
        worker_env: Mapping[str, str] | None = None,
        inherited_env: Mapping[str, str] | None = None,
        start_timeout_s: float = 60.0,
        autoscaling: bool = False,
        refused_timeout_s: float = 60.0,
        node_labels: Mapping[str, str] | None = None,
        rules: Rules | None = None,
        look_every_s: float = LOOK_EVERY_S,
        down_after_s: float = DOWN_AFTER_S,
        workload: str = "other",
        run_name: str = "",
        task_name: str = "",
    ) -> None:
        self._worker_env = worker_env
        self._inherited_env = dict(inherited_env or {})
        self._start_timeout_s = start_timeout_s
        self._autoscaling = autoscaling
        self._refused_timeout_s = refused_timeout_s
        self._node_labels = dict(node_labels or {})
        self._rules = rules or Rules()
        self._look_every_s = look_every_s
        self._down_after_s = down_after_s
        self._workload = workload
        self._run_name = run_name
        self._task_name = task_name

    @contextmanager
    def pool(
        self, setup: Callable[[], C], work: Callable[[C, T], R], spec: PoolSpec
    ) -> Iterator[RayPool[T, R]]:
        """Start workers; the pool is ready with the first, the others join when they are up."""
        view = view_cluster()
        options = self._options(spec, view)
        wanted = default_worker_env(spec.cpus) if self._worker_env is None else self._worker_env
        missing = {k: v for k, v in wanted.items() if self._inherited_env.get(k) != v}
        if missing:
            options["runtime_env"] = {"env_vars": missing}
        actor_class = _worker_class()

        def spawn(number: int) -> Any:
            name = f"{self._run_name} worker {number}" if self._run_name else None
            return actor_class.options(**options, name=name).remote(setup, work)

        pool = RayPool[T, R](
            spawn,
            self._task_name,
            spec,
            Room(self._node_labels, spec.cpus, options["memory"] or 0),
            Patience(self._start_timeout_s, self._refused_timeout_s if self._autoscaling else None),
            Governor(
                Bounds(1, max(spec.actors, spec.actors_most)),
                self._rules,
                every_s=self._look_every_s,
                down_after_s=self._down_after_s,
            ),
            self._workload,
            view,
        )
        try:
            pool.begin()
            yield pool
        finally:
            pool.end()

    def _options(self, spec: PoolSpec, view: ClusterView) -> dict[str, Any]:
        memory_bytes = memory_that_fits(view, spec.cpus, spec.memory_bytes)
        if memory_bytes is None:
            if not self._autoscaling:
                raise UnavailableError(
                    f"no node can hold a worker of {spec.cpus:g} CPUs; the cluster has {view}. "
                    "Choose a smaller profile (compute.profile) or larger nodes; where an autoscaler "
                    "may bring nodes, say up to how many CPUs (compute.cpus_max)"
                )
            memory_bytes = spec.memory_bytes
        return {
            "num_cpus": spec.cpus,
            "memory": memory_bytes or None,
            "label_selector": self._node_labels or None,
            # The pool replaces workers itself, see the top of this module.
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": spec.depth,
            # Each node's network and disk does its part, even where one node could hold all.
            "scheduling_strategy": "SPREAD",
        }


def _worker_class() -> Any:
    # Wrapped when used: Ray exports an actor class once per connection, and this module lives
    # longer than one.
    return ray.remote(PoolWorker)
