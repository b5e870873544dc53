"""Which nodes live while a bulk ingestion and the build at its end need them, by Ray's own autoscaler.

Not a figure to compare: it shows docs/autoscaling.md on a real cluster whose machines are processes of this
one. What the command said, and a line whenever nodes came or went.

usage: python tests/benchmarks/show_autoscaling.py
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.autoscaled import LABEL, NodeType, autoscaled
from support.commands import KLINES_1M, environment, run, serve
from support.stage import SYMBOLS, write

TYPES = {
    "ingestion": NodeType(cpus=2, memory_gib=4, profile="medium", most=2),
    "processing": NodeType(cpus=4, memory_gib=8, profile="large", most=1),
}
SHOWN = ("executor", "rows", "seconds", "start_seconds", "work_seconds", "actors", "decisions")


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Files and bytes of bronze, of tables and of tables' metadata."""
    found: dict[str, tuple[int, int]] = {}
    for path in root.rglob("*"):
        if path.is_file():
            room = path.relative_to(root).parts[0]
            kind = f"{room} metadata" if "metadata" in path.parts else room
            count, size_bytes = found.get(kind, (0, 0))
            found[kind] = count + 1, size_bytes + path.stat().st_size
    return found


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="as", dir="/tmp") as short:
        folder = Path(short)
        write(folder / "archive", SYMBOLS[:4], date(2025, 1, 1), date(2025, 2, 11))
        with serve(folder / "archive") as url, autoscaled(folder, TYPES) as cluster:
            lake = {
                "HOME": folder / "home",
                "BINANCE__ARCHIVE_URL": url,
                "RAY__ADDRESS": cluster.address,
                "COMPUTE__CPUS_MAX": 8,
                "COMPUTE__NODE_LABEL": LABEL,
                "INGEST__UNIT_BYTES_MAX": 1 << 16,
            }
            told = {f"LAKEHOUSE_{name}": str(value) for name, value in lake.items()}
            env = {**environment(), **cluster.environment, **told}
            command = ("ingest", *KLINES_1M, "--build", "--json")
            code, said = run(*command, env=env, timeout_s=300)
            assert code == 0, said
            report = json.loads(next(x for x in said.splitlines() if x.startswith("{")))
            print("lakehouse", *command, flush=True)
            print("ingested", {name: report[name] for name in SHOWN}, flush=True)
            built = report["built"]
            print("built", {name: built[name] for name in SHOWN if name in built}, flush=True)
            until = time.monotonic() + 60
            while cluster.workers and time.monotonic() < until:
                time.sleep(0.2)
            for at_s, kinds in cluster.seen:
                print(f"{at_s:6.1f} s", ", ".join(kinds) or "nothing yet")
            for kind, (count, size_bytes) in sorted(contents(folder / "home" / "data").items()):
                print(f"{kind}: {count:,} files, {size_bytes / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
