"""Run a pool on a cluster of three nodes and take one away without a word. Prints JSON.

A process of its own, since a process has one connection to Ray.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

from ray.cluster_utils import Cluster

from lakehouse_ray.runtime.executor import PoolSpec
from lakehouse_ray.runtime.pool import RayExecutor
from lakehouse_ray.runtime.session import connect

TASKS = 300

# A node is dead after three missed checks of half a second, not after Ray's default of minutes.
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


def work(_: None, task: int) -> str:
    threading.Event().wait(0.05)
    return os.environ["NODE_OF_TEST"]


def main() -> None:
    seen: dict[str, Any] = {}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": 100 << 20,
            "_system_config": QUICK_HEALTH_CHECKS,
        },
    )
    try:
        nodes = []
        for name in ("kept", "lost"):
            os.environ["NODE_OF_TEST"] = name
            nodes.append(cluster.add_node(num_cpus=2, object_store_memory=100 << 20))
        with connect(cluster.address) as session:
            seen["own"] = session.own
            executor = RayExecutor(worker_env={})
            with executor.pool(lambda: None, work, PoolSpec(4, 1, 64 << 20)) as pool:
                before = [one.result for one in pool.map_unordered(range(100))]
                seen["nodes_before"] = sorted(set(filter(None, before)))
                started = time.monotonic()
                tasks, places, errors = [], [], []
                for count, one in enumerate(pool.map_unordered(range(TASKS)), start=1):
                    if count == 50:
                        cluster.remove_node(nodes[1], allow_graceful=False)
                    tasks.append(one.task)
                    places.append(one.result)
                    errors.extend([repr(one.error)] if one.error else [])
                seen["seconds"] = time.monotonic() - started
                seen["each_once"] = sorted(tasks) == list(range(TASKS))
                seen["errors"] = errors
                seen["last_place"] = places[-1]
                stats = pool.stats()
                seen["workers_lost"], seen["workers"] = stats.workers_lost, stats.workers
                seen["requeued"] = stats.requeued
            seen["alive"] = len(session.view().alive)
    finally:
        cluster.shutdown()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
