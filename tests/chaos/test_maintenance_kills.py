"""A lake is looked after while it is written and read, and whoever looks after it is killed again
and again: in the end it holds what an undisturbed run leaves, and `verify` finds nothing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest
from pyiceberg.table import StaticTable
from support.commands import KLINES_1M, run, running, serve
from support.lakes import Contents, assert_same, metadata_locations, read_lake
from support.stage import SYMBOLS, Stage, write

pytestmark = pytest.mark.chaos

SEED = 41
FINE = "silver.klines_fine"
# Who is killed has loaded itself by then, and is at work.
KILLED_AFTER_S = (0.5, 2.5)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Eight symbols, the ends of two months: a moment of work for each symbol."""
    folder = tmp_path_factory.mktemp("days")
    write(folder / "archive", SYMBOLS, date(2025, 1, 29), date(2025, 2, 6))
    with serve(folder / "archive") as url:
        yield Stage(url, 0, Contents({}, {}, {}))


def count(home: Path) -> int:
    """Rows that the table has now, by its metadata and by its files."""
    while True:
        location = metadata_locations(home).get(FINE)
        if location is None:
            return 0
        try:
            table = StaticTable.from_metadata(location)
        except FileNotFoundError:
            continue  # twenty commits came between the two looks
        rows = table.scan(selected_fields=("symbol",)).to_arrow().num_rows
        assert rows == sum(task.file.record_count for task in table.scan().plan_files())
        return int(rows)


@pytest.mark.parametrize(
    "symbols", [SYMBOLS[-1:], pytest.param(SYMBOLS[-3:], marks=pytest.mark.slow)]
)
def test_maintenance_that_is_killed_beside_a_writer_and_a_reader_loses_nothing(
    days: Stage, tmp_path: Path, symbols: list[str]
) -> None:
    quiet = days.environment(tmp_path / "quiet", on_ray=False)
    code, said = run("ingest", *KLINES_1M, "--symbols", ",".join(symbols), env=quiet)
    assert code == 0, said
    env = days.environment(tmp_path / "home", on_ray=False)
    looking = env | {
        "LAKEHOUSE_MAINTAIN__SMALL_FILES_MIN": "2",
        "LAKEHOUSE_MAINTAIN__MANIFESTS_MAX": "1",
        "LAKEHOUSE_MAINTAIN__SNAPSHOTS_MIN": "1",
        "LAKEHOUSE_MAINTAIN__SNAPSHOT_AGE_DAYS": "0",
        "LAKEHOUSE_MAINTAIN__DAILY_SNAPSHOTS_DAYS": "0",
    }
    rng = random.Random(SEED)
    done = threading.Event()

    def read() -> list[int]:
        counts = []
        while not done.wait(0.5):
            counts.append(count(tmp_path / "home"))
        return counts

    def look_after() -> int:
        kills = 0
        while kills == 0 or not done.is_set():
            with running("maintain", "--quiet", env=looking) as keeper:
                until_s = time.monotonic() + rng.uniform(*KILLED_AFTER_S)
                while time.monotonic() < until_s and keeper.process.poll() is None:
                    time.sleep(0.02)
                kills += keeper.process.poll() is None
        return kills

    with ThreadPoolExecutor(2) as threads:
        counts, kills = threads.submit(read), threads.submit(look_after)
        try:
            for symbol in symbols:
                code, said = run("ingest", *KLINES_1M, "--symbols", symbol, env=env)
                assert code == 0, said
        finally:
            done.set()
        assert counts.result() == sorted(counts.result())
        assert kills.result() > 0
    code, said = run("maintain", "--quiet", env=looking)
    assert code == 0, said
    assert_same(read_lake(tmp_path / "home"), read_lake(tmp_path / "quiet"))
    code, said = run("verify", "--deep", env=env)
    assert code == 0, said
