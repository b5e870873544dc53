"""The same ingestion on 1, 2 and more nodes of a cluster, each behind a link of its own.

Two cores cannot show eight processors at work. So it is the network that bounds this ingestion, by a stated
simulation: the exchange sends each zip slowly, and a worker fetches one at a time. All else is real: a
cluster of so many nodes (processes of this machine, each with one CPU), the command, its downloads, tables
and commits. Ideal is the time of one node by their number; what is missing from it is what the driver, the
commits and this machine's two cores add.

driver: CPU of the command for each object, from the first unit to the last commit: planning is not in it.

Expected growth: none, until the cores of this machine are full.

usage: python tests/benchmarks/bench_nodes.py [--nodes 1,2,4] [--zip-s 1.0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.cluster import cluster
from support.commands import KLINES_1M, environment, run, serve
from support.stage import write

SYMBOLS = [f"{letter}{letter}{letter}USDT" for letter in "ABCDEFGH"]
DAYS = 8
START = date(2024, 6, 1)
COMMAND = ("ingest", *KLINES_1M, "--freq", "daily", "--json")


def ingest(url: str, nodes: int) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="bn-", dir="/tmp") as folder,
        cluster(Path(folder), nodes=nodes, cpus=1) as found,
    ):
        env = environment(
            HOME=Path(folder) / "home",
            BINANCE__ARCHIVE_URL=url,
            RAY__ADDRESS=found.address,
            COMPUTE__PROFILE="small",
            COMPUTE__ACTORS=nodes,
            COMPUTE__ELASTIC="false",
            INGEST__REQUESTS_IN_FLIGHT=1,
            INGEST__UNIT_BYTES_MAX=1 << 16,
        )
        env |= {k: v for k, v in found.environment.items() if k.startswith("RAY_")}
        code, said = run(*COMMAND, env=env, timeout_s=400)
    assert code == 0, said
    report = json.loads(said[said.index('{"') :].splitlines()[0])
    assert report["actors"] == nodes, report["actors"]
    return {
        "seconds": report["work_seconds"],
        "objects": report["files"],
        "rows": report["rows"],
        "driver_s": report["work_cpu_seconds"],
        "commits": report["commits"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", default="1,2,4")
    parser.add_argument("--zip-s", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    found: dict[int, dict[str, float]] = {}
    print("nodes", "seconds", "objects/s", "efficiency", "driver ms/object", "rows", sep="\t")
    with tempfile.TemporaryDirectory(prefix="bench-nodes-", dir="/tmp") as folder:
        root = Path(folder) / "archive"
        write(root, SYMBOLS, START, START + timedelta(days=DAYS))
        slow = f'[[rules]]\nmatch = "*.zip"\nfault = "slow"\nfirst_byte_s = {told.zip_s}\n'
        with serve(root, slow) as url:
            for nodes in map(int, told.nodes.split(",")):
                one = found[nodes] = ingest(url, nodes)
                first = next(iter(found))
                ideal_s = found[first]["seconds"] * first / nodes
                print(
                    nodes, f"{one['seconds']:.1f}", f"{one['objects'] / one['seconds']:.2f}",
                    f"{ideal_s / one['seconds']:.0%}",
                    f"{one['driver_s'] / one['objects'] * 1000:.1f}", f"{one['rows']:,.0f}",
                    sep="\t", flush=True,
                )  # fmt: skip
    if told.json:
        told.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
