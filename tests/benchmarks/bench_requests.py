"""What an ingestion asks of S3, and what its metadata takes: by file, data file and commit.

The figures of docs/sizing.md. The real command ingests synthetic daily files of one month into a bucket of
moto's that counts requests: few files and many, in one unit and in many, in one commit and in one of each
unit. What one run asked more than another, by what it had more of, is the cost; what a run asks at rest
drops out. Requests and bytes are counts: whether the machine is busy makes no difference. Expected
growth: requests linear in files, data files and commits; manifests linear in data files; the metadata of
a table linear in its snapshots, and written anew with each. `--root` also ingests real files, into a
folder, and says what a byte of theirs becomes.

usage: python tests/benchmarks/bench_requests.py [--root DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.buckets import Bucket, emptied
from support.commands import MANY_BYTES, environment, run, serve

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.storage.objects import S3Store
from lakehouse_ray.storage.paths import table_folder
from lakehouse_ray.testing.exchange import SyntheticArchive, write_archive

START = date(2024, 6, 1)
# What S3 bills dearly: writing and listing. Reading is cheap, deleting is free.
DEAR = ("PUT", "POST", "COPY", "LIST")


@dataclass(frozen=True)
class Shape:
    """A run. apart: Each symbol is a unit, else all share one. alone: Each unit has its own commit."""

    symbols: int
    days: int
    apart: bool = False
    alone: bool = False


SHAPES = {
    "few": Shape(4, 4),
    "many": Shape(4, 24),
    "units": Shape(12, 4, apart=True),
    "commits": Shape(12, 4, apart=True, alone=True),
}
OBJECTS_MIB = (1, 4, 8, 32, 128)
REAL = (
    ("spot", "klines", "15m"), ("um", "klines", "1m"), ("um", "aggTrades", ""), ("um", "metrics", ""),
)  # fmt: skip


@dataclass
class Seen:
    """What was counted of a run. requests: By (verb, kind of object). sizes: By path, in bytes."""

    files: int
    commits: int
    requests: Counter[tuple[str, str]]
    sizes: dict[str, int]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Files of the archive, data files, commits."""
        return self.files, len(self.of("klines_fine data")), self.commits

    def asked(self, *verbs: str) -> int:
        return sum(n for (verb, _), n in self.requests.items() if verb in verbs)

    def of(self, kind: str) -> list[int]:
        """Sizes of the objects of a kind."""
        return [size for key, size in self.sizes.items() if kind_of(key) == kind]

    def bytes_of(self, kind: str) -> int:
        return sum(self.of(kind))


class Silent(MotoRequestHandler):
    """Its requests are counted, not told."""

    def log_request(self, *_: object) -> None: ...


class Counting:
    """A WSGI application that counts what it passes on."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, str]] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        verb, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        if verb == "GET" and "list-type" in query:
            verb = "LIST"
        elif verb == "POST" and query == "delete":
            verb = "DELETE"
        kind = kind_of(environ["PATH_INFO"].removeprefix("/lake/"))
        with self._lock:
            self.requests[verb, kind if verb != "LIST" else "a folder"] += 1
        return self._application(environ, start_response)


def kind_of(key: str) -> str:
    """What an object is, by its path in the lake."""
    if "/metadata/" in key:
        if key.endswith(".json"):
            return "table metadata"
        return "manifest list" if "/metadata/snap-" in key else "manifest"
    if key.startswith("tables/"):
        return f"{key.split('/')[2]} data" if "/data/" in key else "a folder"
    return key.split("/")[0]


@contextmanager
def counted() -> Iterator[tuple[Bucket, Counting]]:
    application = Counting(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield emptied(f"http://127.0.0.1:{server.server_port}"), application
    finally:
        server.shutdown()
        thread.join()


def ingest(shape: Shape) -> Seen:
    archive = SyntheticArchive(
        5, shape.symbols, ["um"], START, START + timedelta(days=shape.days), level=6
    )
    with tempfile.TemporaryDirectory(prefix="requests-", dir="/tmp") as folder:
        root = Path(folder) / "archive"
        for instrument in archive.instruments:
            place = f"data/futures/um/daily/klines/{instrument.symbol}/1m/"
            write_archive(archive, root, place)
        with counted() as (bucket, counting), serve(root) as url:
            told = bucket.settings("")
            told["STORAGE__ROOT"] = "s3://lake"
            env = environment(
                HOME=Path(folder) / "home",
                BINANCE__ARCHIVE_URL=url,
                COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES,
                INGEST__UNIT_BYTES_MAX=65536 if shape.apart else MANY_BYTES,
                INGEST__UNITS_PER_COMMIT=1 if shape.alone else 1000,
                **told,
            )
            command = ["ingest", "--market", "um", "--dataset", "klines", "--interval", "1m"]
            code, said = run(*command, "--freq", "daily", "--json", env=env, timeout_s=400)
            assert code == 0, said
            asked = counting.requests.copy()
            sizes = {k: len(v) for k, v in bucket.objects().items()}
    report = json.loads(said[said.index('{"') :].splitlines()[0])
    return Seen(report["files"], report["commits"], asked, sizes)


def print_costs(seen: dict[str, Seen]) -> None:
    """Solve for what a file, a data file and a commit cost, at which runs differ."""
    pairs = [("few", "many"), ("many", "units"), ("units", "commits")]
    more = np.array([np.subtract(seen[b].counts, seen[a].counts) for a, b in pairs], dtype=float)
    wanted: dict[str, Callable[[Seen], int]] = {
        "PUT, POST, LIST": lambda one: one.asked(*DEAR),
        "GET, HEAD": lambda one: one.asked("GET", "HEAD"),
        "bytes of manifests": lambda one: one.bytes_of("manifest"),
        "bytes of manifest lists": lambda one: one.bytes_of("manifest list"),
        "bytes of the ledger": lambda one: one.bytes_of("object_log data"),
    }
    print("", "a file", "a data file", "a commit", sep="\t")
    for what, count in wanted.items():
        costs = np.linalg.solve(more, [count(seen[b]) - count(seen[a]) for a, b in pairs])
        print(what, *(f"{cost:,.1f}" for cost in costs), sep="\t")
    last = {name: max(one.of("table metadata")) for name, one in seen.items()}
    commits = seen["commits"].commits - seen["units"].commits
    print(
        f"metadata of a table\t{(last['commits'] - last['units']) / commits:,.0f} bytes a snapshot"
    )


def print_objects() -> None:
    with counted() as (bucket, counting):
        store = S3Store(f"s3://{bucket.name}", bucket.access)
        for mib in OBJECTS_MIB:
            counting.requests.clear()
            store.put(f"bronze/{mib}", bytes(mib << 20))
            print(f"an object of {mib} MiB", *counting.requests.items(), sep="\t", flush=True)


def print_real(root: Path) -> None:
    print("data set", "files", "bronze MiB", "silver/bronze", "data files", sep="\t")
    with serve(root) as url:
        for market, dataset, interval in REAL:
            with tempfile.TemporaryDirectory(prefix="requests-", dir="/tmp") as folder:
                env = environment(HOME=folder, BINANCE__ARCHIVE_URL=url)
                command = ["ingest", "--market", market, "--dataset", dataset, "--json"]
                command += ["--interval", interval] if interval else []
                run(*command, env=env, timeout_s=400)
                data = Path(folder, "data")
                bronze = [p.stat().st_size for p in (data / "bronze").rglob("*.zip")]
                silver = [
                    p.stat().st_size
                    for name in DATASETS[dataset].tables
                    for p in (data / table_folder(name.name) / "data").rglob("*.parquet")
                ]
            print(
                f"{market} {dataset} {interval}", len(bronze), f"{sum(bronze) / 2**20:.1f}",
                f"{sum(silver) / sum(bronze):.2f}", len(silver), sep="\t", flush=True,
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path)
    told = parser.parse_args()
    print_objects()
    seen = {name: ingest(shape) for name, shape in SHAPES.items()}
    for name, one in seen.items():
        print(name, *one.counts, dict(one.requests), sep="\t")
    print_costs(seen)
    if told.root:
        print_real(told.root)


if __name__ == "__main__":
    main()
