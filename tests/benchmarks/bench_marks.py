"""What does it cost to mark rows, next to all else that becomes of a file?

The same monthly zip of 1m klines is made a table's file with and without marking, in turn: inflated,
checked, decoded, written by the builder as a worker does it. Processor seconds of one thread, so
that other work on the machine matters little. The difference of the two is small and noisy: beside
it stands the time that marking takes by itself, measured on the rows of the same month.

Unit of work: a month of 1m klines (44,640 rows). Expected growth: linear in rows; rows that break
rules cost more than those that do not.

usage: POLARS_MAX_THREADS=1 python tests/benchmarks/bench_marks.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import polars as pl
import pyarrow as pa

from lakehouse_ray.kernels.check import flag_rows
from lakehouse_ray.model.checks.registry import rules_of
from lakehouse_ray.model.dataset import FLAGS, Dataset
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.table import Partition, Table
from lakehouse_ray.model.timespan import month_range
from lakehouse_ray.model.work import ObjectResult, ObjectTask, RawObject, Unit
from lakehouse_ray.silver.build import SilverBuilder
from lakehouse_ray.sources.binance.decode import BinanceDecoder
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.testing.exchange import SyntheticArchive

KEY = "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-03.zip"
PERIOD = month_range(2024, 3)


class Unmarked(Dataset):
    """Klines in a table without the column: nothing is held against rules."""

    def _table(self, name: str, layout: tuple[Partition, ...]) -> Table:
        table = super()._table(name, layout)
        return replace(table, columns=tuple(c for c in table.columns if c != FLAGS))


def published() -> bytes:
    archive = SyntheticArchive(
        7, ["BTCUSDT"], ["spot"], start=date(2024, 3, 1), end=date(2024, 4, 1)
    )
    found = archive.read(KEY)
    assert found is not None
    return found.bytes()


def build(dataset: Dataset, zipped: bytes, folder: Path) -> float:
    """Processor seconds from the zip to a closed file."""
    store = LocalStore(folder)
    decoder = BinanceDecoder(inflated_bytes_max=1 << 30, inflate_ratio_max=200)
    builder = SilverBuilder(store, decoder, {dataset.name: dataset}, csv_bytes_in_memory=1 << 30)
    task = ObjectTask(KEY, "BTCUSDT", "monthly", PERIOD, len(zipped), "e", "e", 0, "fetch")
    unit = Unit("u", dataset.name, "spot", "1m", (task,))
    sha256 = hashlib.sha256(zipped).hexdigest()
    raw = RawObject(ObjectResult(task, "built", sha256=sha256, version="v"), data=zipped)
    started = time.process_time()
    built = builder.build(unit, [raw], [], lambda _: [], run_id="r", now_us=0)
    spent = time.process_time() - started
    assert built.rows > 40_000
    return spent


def mark(frame: pl.DataFrame) -> float:
    rules = rules_of("klines", "spot", "1m")
    started = time.process_time()
    flag_rows(rules, frame)
    return time.process_time() - started


def decoded(zipped: bytes) -> pl.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        build(KLINES, zipped, Path(folder))
        (path,) = Path(folder).rglob("*.parquet")
        return pl.read_parquet(path, columns=[column.name for column in KLINES.columns])


def spread(frame: pl.DataFrame) -> pl.DataFrame:
    """One row in a thousand has its high below its low."""
    row = pl.int_range(pl.len())
    return frame.with_columns(
        high=pl.when(row % 1000 == 0).then(pl.col("low") / 2).otherwise("high")
    )


def middle(values: Sequence[float]) -> float:
    return statistics.median(values) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    zipped = published()
    unmarked = Unmarked(**{name: getattr(KLINES, name) for name in Dataset.__match_args__})
    fine = decoded(zipped)
    broken = spread(fine)
    spent: dict[str, list[float]] = {"with": [], "without": [], "fine": [], "broken": []}
    for _ in range(options.rounds):
        for name, dataset in (("without", unmarked), ("with", KLINES)):
            with tempfile.TemporaryDirectory() as folder:
                spent[name].append(build(dataset, zipped, Path(folder)))
        spent["fine"].append(mark(fine))
        spent["broken"].append(mark(broken))
    result = {
        "rows": fine.height,
        "rounds": options.rounds,
        **{f"{name}_ms": middle(values) for name, values in spent.items()},
    }
    result["marking_share"] = result["fine_ms"] / result["without_ms"]
    result["marking_share_broken"] = result["broken_ms"] / result["without_ms"]
    result["build_ratio"] = result["with_ms"] / result["without_ms"]
    print(
        f"a month of {fine.height:,} rows: {result['without_ms']:.1f} ms without marks, "
        f"{result['with_ms']:.1f} ms with them (ratio {result['build_ratio']:.3f}); marking alone "
        f"{result['fine_ms']:.2f} ms ({result['marking_share']:.1%}), with one row in a thousand "
        f"broken {result['broken_ms']:.2f} ms ({result['marking_share_broken']:.1%})"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
