"""Run a pool on two nodes and cut one off from the network while it works. Prints JSON.

A process of its own, on the host of the head: arguments are the head's address and the name of the
namespace to cut off.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import ray
from support.namespaces import Host

from lakehouse_ray.runtime.executor import PoolSpec
from lakehouse_ray.runtime.pool import RayExecutor
from lakehouse_ray.runtime.session import connect

TASKS = 300


def work(_: None, task: int) -> str:
    threading.Event().wait(0.05)
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def main(address: str, namespace: str) -> None:
    seen: dict[str, Any] = {}
    with connect(address):
        executor = RayExecutor(worker_env={}, look_every_s=1)
        spec = PoolSpec(2, 1, 0, depth=2, actors_most=2, tasks=TASKS)
        with executor.pool(lambda: None, work, spec) as pool:
            seen["before"] = sorted({str(one.result) for one in pool.map_unordered(range(60))})
            began_s = time.monotonic()
            tasks, places, errors = [], [], []
            for count, one in enumerate(pool.map_unordered(range(TASKS)), start=1):
                if count == 50:
                    Host(namespace, "").cut_off()
                tasks.append(one.task)
                places.append(one.result)
                errors.extend([repr(one.error)] if one.error else [])
            stats = pool.stats()
            seen |= {
                "seconds": time.monotonic() - began_s,
                "each_once": sorted(tasks) == list(range(TASKS)),
                "errors": errors,
                "last_place": places[-1],
                "workers_lost": stats.workers_lost,
                "requeued": stats.requeued,
            }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
