"""How a pool scales with its workers, and what its scheduler costs for each unit.

Two cores cannot show eight workers at work. So the work is simulated: a unit sleeps, as if it worked for
so long on a CPU of its own, and takes no CPU of this machine; everything else is real: Ray, a worker process
for each, the pool, the dispatch, one result for each unit. What is measured is therefore what the scheduler
adds, not what processors, disks or networks do.

efficiency: the time that the units would take on so many workers alone, by the time that the pool took.
driver: CPU of the process that hands out units, for each of them; its inverse is the most units a second
that one driver can hand out.

Expected growth: none, until units a second come near that bound.

usage: python tests/benchmarks/bench_scaling.py [--workers 1,2,4,8] [--unit-s 0.2] [--units 40] [--json F]
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

import psutil

from lakehouse_ray.runtime.executor import PoolSpec
from lakehouse_ray.runtime.pool import RayExecutor, default_worker_env
from lakehouse_ray.runtime.session import connect

DEPTH = 2


def work(_: None, unit_s: float) -> bool:
    # A worker has `DEPTH` places and one CPU: each unit takes as many times as long.
    threading.Event().wait(unit_s * DEPTH)
    return True


def measure(executor: RayExecutor, workers: int, units: int, unit_s: float) -> dict[str, float]:
    total = units * workers
    own = psutil.Process()
    with executor.pool(lambda: None, work, PoolSpec(workers, 1, 0, depth=DEPTH)) as pool:
        while pool.stats().workers < workers:  # its start is another matter
            list(pool.map_unordered([0.05] * workers))
        cpu_s = sum(own.cpu_times()[:2])
        began_s = time.monotonic()
        done = sum(bool(one.result) for one in pool.map_unordered([unit_s] * total))
        took_s = time.monotonic() - began_s
        cpu_s = sum(own.cpu_times()[:2]) - cpu_s
    assert done == total
    return {
        "workers": workers,
        "units": total,
        "seconds": took_s,
        "units_per_s": total / took_s,
        "efficiency": units * unit_s / took_s,
        "driver_cpu_ms_per_unit": cpu_s / total * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--unit-s", type=float, default=0.2)
    parser.add_argument("--units", type=int, default=40, help="for each worker")
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    counts = [int(text) for text in told.workers.split(",")]
    env = default_worker_env(1)
    found = []
    print("workers", "units", "seconds", "units/s", "efficiency", "driver ms/unit", sep="\t")
    with connect("local", num_cpus=max(counts), worker_env=env) as session:
        executor = RayExecutor(inherited_env=session.inherited_env)
        for count in counts:
            one = measure(executor, count, told.units, told.unit_s)
            found.append(one)
            print(
                f"{one['workers']}\t{one['units']}\t{one['seconds']:.2f}\t{one['units_per_s']:.1f}\t"
                f"{one['efficiency']:.0%}\t{one['driver_cpu_ms_per_unit']:.2f}",
                flush=True,
            )
    if told.json:
        told.json.write_text(json.dumps({"unit_s": told.unit_s, "found": found}, indent=1))


if __name__ == "__main__":
    main()
