"""An update is killed at seeded moments: the run after it leaves what an undisturbed one does.

Whoever is killed: the driver, a worker, a committer, the process of the account. The exchange is asked
for days that were cut out of a made archive; its files, read by DuckDB alone, are the truth.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from support.commands import (
    MANY_BYTES,
    Command,
    anything,
    environment,
    is_committer,
    is_worker,
    run,
    running,
)
from support.csv_truth import differences, truth
from support.in_process import run_here
from support.lakes import read_lake

from lakehouse_ray.clock import SystemClock
from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.testing.exchange import (
    FolderArchive,
    ReplicaExchange,
    SyntheticArchive,
    write_archive,
)

pytestmark = pytest.mark.chaos

SEED = 31
ROUNDS = 12
KINDS = ("driver", "worker", "committer", "driver")
SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "BNBUSDT"]
CUT = re.compile(r".*-2025-01-(03|04|06|09|10)\.zip(\.CHECKSUM)?")
END = "2025-01-11"
INGESTED = ("--market", "um", "--dataset", "klines", "--interval", "5m")
UPDATE = ("update", "--market", "um", "--no-build")
METADATA = {
    "rows": "data/tables/silver/klines_fine/metadata",
    "log": "data/tables/bronze/object_log/metadata",
    "answers": "data/bronze/binance/rest/um/klines",
}
LEFTOVERS_TIMEOUT_S = 120


class Then(SystemClock):
    """The exchange's clock: just after the last of the days."""

    def __init__(self) -> None:
        self._ahead_us = parse_time(END) + 60_000_000 - super().now_us()

    def now_us(self) -> int:
        return super().now_us() + self._ahead_us


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The whole, and what the bucket has."""
    whole, bucket = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("bucket")
    archive = SyntheticArchive(
        9, SYMBOLS, ["um"], date(2025, 1, 1), date(2025, 1, 11), trades_per_minute=1
    )
    write_archive(archive, whole, "data/futures/um/daily/klines/", "*/5m/*")
    shutil.copytree(whole, bucket, dirs_exist_ok=True)
    for path in bucket.rglob("*"):
        if CUT.fullmatch(path.name):
            path.unlink()
    return whole, bucket


@pytest.fixture(scope="module")
def url(folders: tuple[Path, Path]) -> Iterator[str]:
    whole, bucket = (FolderArchive(folder) for folder in folders)
    with ReplicaExchange(bucket, rest_archive=whole, clock=Then()) as exchange:
        yield exchange.url


@pytest.fixture(scope="module")
def wanted(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    keys = [path.relative_to(folders[0]).as_posix() for path in folders[0].rglob("*.zip")]
    return truth(folders[0], keys, tmp_path_factory.mktemp("csv"))


def settings(url: str, home: Path, *, on_ray: bool) -> dict[str, str]:
    """Settings that make each symbol a unit, and each unit a commit."""
    return environment(
        HOME=home,
        BINANCE__ARCHIVE_URL=url,
        BINANCE__UM_URL=url,
        COMPUTE__LOCAL_BYTES_MAX=0 if on_ray else MANY_BYTES,
        UPDATE__UNIT_REQUESTS_MAX=2,
        UPDATE__UNITS_PER_COMMIT=1,
    )


def to_its_end(*arguments: str, env: dict[str, str]) -> None:
    done = run_here(*arguments, env=env)
    assert done.returncode == 0, done.stderr


def await_writes(command: Command, home: Path, where: str, number: int, before: int) -> None:
    """Wait for the moment in which so many commits, or answers, have been written."""
    while written(home, where) < before + number:
        if command.process.poll() is not None:
            return
        time.sleep(0.0005)


def written(home: Path, where: str) -> int:
    """Snapshots of a table, or packs of answers."""
    return len(list((home / METADATA[where]).glob("*.gz" if where == "answers" else "snap-*.avro")))


def kill(command: Command, kind: str, rng: random.Random) -> int | None:
    command.offspring(anything)
    if kind == "driver":
        os.kill(command.process.pid, signal.SIGKILL)
        return None
    # The account's process is such as well.
    chosen = command.offspring(is_worker if kind == "worker" else is_committer)
    if chosen:  # else the command is about to end
        os.kill(rng.choice(chosen).pid, signal.SIGKILL)
    return command.wait()


def kill_and_repair(
    url: str, wanted: pl.DataFrame, home: Path, number: int, *, on_ray: bool
) -> None:
    rng = random.Random(SEED + number)
    kind = KINDS[number % len(KINDS)] if on_ray else "driver"
    to_its_end("ingest", *INGESTED, env=settings(url, home, on_ray=False))
    where = rng.choice(sorted(METADATA))
    count, before = rng.randrange(1, len(SYMBOLS)), written(home, where)
    with ExitStack() as stack:
        env = settings(url, home, on_ray=on_ray)
        command = stack.enter_context(running(*UPDATE, env=env))
        stack.callback(assert_gone, command)
        await_writes(command, home, where, count, before)
        time.sleep(rng.uniform(0, 0.1))
        code = kill(command, kind, rng)
        print(f"\nSAW {kind} after {count} of {where}: exit {code}", file=sys.stderr)
        if code is not None:
            assert code in (0, 3), command.said()
        repair(url, wanted, home, on_ray=on_ray and number % 2 == 0)


def repair(url: str, wanted: pl.DataFrame, home: Path, *, on_ray: bool) -> None:
    """Update once more: all rows are there, each once. And once more: nothing happens."""
    env = settings(url, home, on_ray=on_ray)
    if on_ray:
        code, said = run(*UPDATE, env=env)
        assert code == 0, said
    else:
        to_its_end(*UPDATE, env=env)
    lake = read_lake(home)
    assert differences(lake.tables["silver.klines_fine"], wanted) == (0, 0)
    assert lake.rows("silver.quarantine_log") == 0
    to_its_end(*UPDATE, env=settings(url, home, on_ray=False))
    assert read_lake(home).snapshots == lake.snapshots


def assert_gone(command: Command) -> None:
    assert command.leftovers(LEFTOVERS_TIMEOUT_S) == []


@pytest.mark.parametrize("number", range(1))
def test_an_update_in_one_process_is_killed(
    url: str, wanted: pl.DataFrame, tmp_path: Path, number: int
) -> None:
    kill_and_repair(url, wanted, tmp_path / "home", number, on_ray=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, ROUNDS))
def test_an_update_in_one_process_is_killed_more_often(
    url: str, wanted: pl.DataFrame, tmp_path: Path, number: int
) -> None:
    kill_and_repair(url, wanted, tmp_path / "home", number, on_ray=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_an_update_on_ray_is_killed(
    url: str, wanted: pl.DataFrame, tmp_path: Path, number: int
) -> None:
    kill_and_repair(url, wanted, tmp_path / "home", number, on_ray=True)
