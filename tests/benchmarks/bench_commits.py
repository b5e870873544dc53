"""What does a commit of live rows cost, and does it cost more where a table has more snapshots?

Three rows at a time into a hot table, as a capture of quiet symbols does every second. Unit of work: a
commit. Expected: CPU milliseconds that stay as the table gathers snapshots, but for what is written of
each in its metadata.

    python tests/benchmarks/bench_commits.py [COMMITS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from bench_live import SYMBOLS, Appending


def measure(commits: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        appending = Appending(Path(folder), SYMBOLS[:3])
        appending.run(10, 0)  # what a process does once
        each = commits // 5
        for turn in range(5):
            cpu_s, wall_s = time.process_time(), time.monotonic()
            appending.run(each, 0, 11 + turn * each)
            cpu_ms = (time.process_time() - cpu_s) / each * 1e3
            wall_ms = (time.monotonic() - wall_s) / each * 1e3
            print(
                f"up to {10 + (turn + 1) * each:>4} snapshots: "
                f"{cpu_ms:5.0f} ms of CPU, {wall_ms:5.0f} ms a commit",
                flush=True,
            )


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 250)
