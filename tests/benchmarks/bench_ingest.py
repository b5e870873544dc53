"""How fast is `lakehouse ingest`, against what one core can do at most?

On the same zips, in one run and in turn (machines are noisy, so read the ratios):

(a) chain    one thread: isal -> Polars -> pyarrow zstd-3, nothing else. The physical limit per core.
(b) ingest   the real command on a local Ray: download over HTTP from the replica exchange,
             verification, bronze, silver and commits; wall and CPU seconds from the first task
             accepted to the last commit. Ray's start stands beside it.
(c) duckdb   COPY (SELECT … FROM read_csv) TO parquet of the unzipped files, 2 threads.

Unit of work: synthetic 1m klines, 20 symbols x 12 months (10.5 million rows), as monthly and as
daily zips. Expected growth: linear in rows.

usage: python tests/benchmarks/bench_ingest.py [--rounds N] [--symbols N] [--months N] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from isal import isal_zlib

from lakehouse_ray.testing.exchange import SyntheticArchive, write_archive

CACHE = Path(".bench")
COLUMNS = [
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "close_time",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "ignore",
]
TYPES = dict.fromkeys(COLUMNS, pl.Float64) | {
    "open_time": pl.Int64, "close_time": pl.Int64, "trades": pl.Int64, "ignore": pl.String,
}  # fmt: skip
LAKEHOUSE = Path(sys.executable).with_name("lakehouse")


def zips(root: Path, freq: str) -> dict[str, list[Path]]:
    """Zips of one symbol and month, in order: what the chain writes as one row group."""
    found: dict[str, list[Path]] = {}
    for path in sorted((root / "data/spot" / freq / "klines").rglob("*.zip")):
        month = re.search(r"\d{4}-\d{2}", path.name)
        assert month is not None
        found.setdefault(f"{path.parts[-3]}-{month[0]}", []).append(path)
    return found


def chain(groups: dict[str, list[Path]], out: Path) -> tuple[float, float, int]:
    """Seconds, CPU seconds and CSV bytes of one thread that only inflates, parses and writes."""
    pa.set_cpu_count(1)
    blobs = {name: [path.read_bytes() for path in paths] for name, paths in groups.items()}
    csv_bytes = 0
    started, cpu = time.perf_counter(), time.process_time()
    for name, packed in blobs.items():
        frames = []
        for blob in packed:
            with zipfile.ZipFile(io.BytesIO(blob)) as archive:
                info = archive.infolist()[0]
            at = info.header_offset + 30 + len(info.filename.encode())
            body = isal_zlib.decompress(blob[at : at + info.compress_size], -15, info.file_size)
            csv_bytes += len(body)
            frames.append(
                pl.read_csv(body, has_header=False, schema=TYPES, columns=list(range(11)))
            )
        frame = pl.concat(frames)
        unit = 1 if frame["open_time"][0] >= 10**15 else 1000
        frame = frame.with_columns(
            (pl.col("open_time", "close_time") * unit).cast(pl.Datetime("us", "UTC"))
        )
        pq.write_table(
            frame.to_arrow(),
            out / f"{name}.parquet",
            compression="zstd",
            compression_level=3,
            use_dictionary=False,
            column_encoding={
                "open_time": "DELTA_BINARY_PACKED",
                "close_time": "DELTA_BINARY_PACKED",
                "trades": "DELTA_BINARY_PACKED",
            },
        )
    return time.perf_counter() - started, time.process_time() - cpu, csv_bytes


def ingest(url: str, freq: str, home: Path) -> dict[str, float]:
    environment = os.environ | {
        "LAKEHOUSE_HOME": str(home),
        "LAKEHOUSE_BINANCE__ARCHIVE_URL": url,
        "LAKEHOUSE_COMPUTE__LOCAL_BYTES_MAX": "0",
    }
    command = [
        str(LAKEHOUSE), "ingest", "--market", "spot", "--dataset", "klines", "--interval", "1m",
        "--freq", freq, "--json",
    ]  # fmt: skip
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"ingest failed: {answer.stderr}")
    return json.loads(answer.stdout)


def duck(folder: Path, out: Path) -> float:
    connection = duckdb.connect(config={"threads": 2})
    names = ", ".join(f"'{n}': '{_sql_type(n)}'" for n in COLUMNS)
    started = time.perf_counter()
    connection.execute(
        f"COPY (SELECT * FROM read_csv('{folder}/*.csv', header=false, columns={{{names}}}, "
        f"filename=true)) TO '{out}/all.parquet' (FORMAT parquet, COMPRESSION zstd)"
    )
    return time.perf_counter() - started


def _sql_type(name: str) -> str:
    return "BIGINT" if TYPES[name] == pl.Int64 else "VARCHAR" if name == "ignore" else "DOUBLE"


def serve(root: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [str(LAKEHOUSE), "exchange", "--root", str(root), "--port", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    urlopen(f"{url}/?prefix=data/&delimiter=/").read()
    return process, url


def measure(freq: str, root: Path, url: str, rounds: int) -> dict[str, object]:
    groups = zips(root, freq)
    files = sum(len(paths) for paths in groups.values())
    warm(root, url, freq)
    rows: list[dict[str, float]] = []
    for number in range(rounds):
        # Deleted when all is measured: ext4 makes files slowly, by a factor of up to ten, for a while
        # after thousands were deleted.
        work = Path(tempfile.mkdtemp(prefix="round-", dir=CACHE))
        (work / "chain").mkdir()
        wall, cpu, size = chain(groups, work / "chain")
        os.sync()
        report = ingest(url, freq, work / "home")
        megabytes = size / 1e6
        rows.append(
            {
                "csv_mb": megabytes,
                "chain_s": wall,
                "chain_cpu_s": cpu,
                "work_s": report["work_seconds"],
                "work_cpu_s": report["work_cpu_seconds"],
                "start_s": report["seconds"] - report["work_seconds"],
                "wall_ratio": wall / report["work_seconds"],
                "cpu_ratio": cpu / report["work_cpu_seconds"],
                "rows": report["rows"],
                "worker_mb": report["worker_rss_bytes_max"] / 1e6,
                "driver_mb": report["driver_rss_bytes_max"] / 1e6,
            }
        )
        print(f"{freq} round {number + 1}: " + _line(rows[-1]), flush=True)
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(f"{freq} median ({files} zips): {_line(middle)}", flush=True)
    return {"files": files, "median": middle, "rounds": rows}


def warm(root: Path, url: str, freq: str) -> None:
    """Let the exchange answer from memory, as a CDN does."""
    for path in (root / "data/spot" / freq / "klines").rglob("*"):
        if path.is_file():
            urlopen(f"{url}/{quote(str(path.relative_to(root)))}").read()


def _line(row: dict[str, float]) -> str:
    size = row["csv_mb"]
    return (
        f"chain {size / row['chain_s']:.0f} MB/s ({size / row['chain_cpu_s']:.0f} per CPU s), "
        f"ingest {size / row['work_s']:.0f} MB/s ({size / row['work_cpu_s']:.0f} per CPU s) in "
        f"{row['work_s']:.1f} s + {row['start_s']:.1f} s start; ratio wall {row['wall_ratio']:.2f}, "
        f"CPU {row['cpu_ratio']:.2f}; worker {row['worker_mb']:.0f} MB, driver "
        f"{row['driver_mb']:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--freq", default="monthly,daily")
    parser.add_argument("--no-duckdb", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    end = f"{2023 + options.months // 12}-{options.months % 12 + 1:02d}-01"
    root = CACHE / f"archive-{options.symbols}x{options.months}"
    if not (root / "complete").exists():
        from datetime import date

        archive = SyntheticArchive(
            seed=7, symbols=options.symbols, markets=("spot",), start=date(2023, 1, 1),
            end=date.fromisoformat(end),
        )  # fmt: skip
        started = time.perf_counter()
        for freq in ("monthly", "daily"):
            write_archive(archive, root, f"data/spot/{freq}/klines/", "*-1m-*")
        (root / "complete").touch()
        print(f"wrote the archive in {time.perf_counter() - started:.0f} s", flush=True)
    process, url = serve(root)
    result: dict[str, object] = {"machine": platform.node(), "cpus": os.cpu_count()}
    try:
        for freq in options.freq.split(","):
            result[freq] = measure(freq, root, url, options.rounds)
    finally:
        process.terminate()
        process.wait()
    if not options.no_duckdb:
        result["duckdb"] = against_duckdb(root)
    for left in CACHE.glob("round-*"):
        shutil.rmtree(left)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def against_duckdb(root: Path) -> dict[str, float]:
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=CACHE))
    try:
        (work / "csv").mkdir()
        for paths in zips(root, "monthly").values():
            for path in paths:
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(work / "csv")
        size = sum(path.stat().st_size for path in (work / "csv").iterdir()) / 1e6
        seconds = duck(work / "csv", work)
        print(
            f"duckdb: {size / seconds:.0f} MB/s in {seconds:.1f} s (without inflating)", flush=True
        )
        return {"csv_mb": size, "seconds": seconds}
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
