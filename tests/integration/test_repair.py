"""Files are lost, and `lakehouse repair` brings every row back: from bronze, or by a build.

Runs are killed, and `lakehouse resume` goes on with them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from pyiceberg.table import StaticTable
from support.commands import KLINES_1M, environment, serve
from support.in_process import run_here
from support.lakes import Contents, metadata_locations, read_lake
from support.stage import write

from lakehouse_ray.testing.exchange import SyntheticArchive, write_archive

pytestmark = pytest.mark.integration

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
FINE, COARSE = "silver.klines_fine", "silver.klines_coarse"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("archive")
    start, end = date(2025, 1, 29), date(2025, 2, 3)
    write(folder / "archive", SYMBOLS, start, end)
    hours = SyntheticArchive(7, SYMBOLS, ["spot"], start, end, trades_per_minute=1)
    for freq in ("monthly", "daily"):
        write_archive(hours, folder / "archive", f"data/spot/{freq}/klines/", "*-1h-*")
    with serve(folder / "archive") as served:
        yield served


@pytest.fixture
def env(url: str, tmp_path: Path) -> dict[str, str]:
    return environment(HOME=tmp_path, BINANCE__ARCHIVE_URL=url)


def ingested(env: dict[str, str], home: Path) -> Contents:
    done = run_here("ingest", *KLINES_1M, "--quiet", env=env)
    assert done.returncode == 0, done.stderr
    return read_lake(home)


def data_files(home: Path, table: str) -> list[Path]:
    return sorted((home / "data/tables" / table.replace(".", "/") / "data").rglob("*.parquet"))


def checks(env: dict[str, str]) -> set[str]:
    document = json.loads(run_here("verify", "--deep", "--json", env=env).stdout)
    return {finding["check"] for finding in document["findings"]}


def same_rows(ours: Contents, theirs: Contents, table: str) -> None:
    assert_frame_equal(ours.tables[table], theirs.tables[table])


def test_lost_files_of_silver_are_made_anew_from_bronze(
    env: dict[str, str], tmp_path: Path
) -> None:
    before = ingested(env, tmp_path)
    files = data_files(tmp_path, FINE)
    gone, cut = random.Random(3).sample(files, 2)
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    assert run_here("verify", "--json", env=env).returncode == 3
    planned = run_here("repair", "--dry-run", "--json", env=env)
    assert planned.returncode == 3
    (one,) = json.loads(planned.stdout)["repairs"]
    assert one["lost"] == sorted(str(path.relative_to(tmp_path / "data")) for path in (gone, cut))
    mended = run_here("repair", "--json", env=env)
    assert mended.returncode == 0, mended.stderr
    told = json.loads(mended.stdout)
    assert told["repairs"] == [one]
    assert told["codes"] == {one["then"][0]: 0}
    same_rows(read_lake(tmp_path), before, FINE)
    # Older snapshots speak of the lost files until they expire.
    assert checks(env) <= {"old_file_missing", "file_size", "orphan_file"}
    assert run_here("repair", "--json", env=env).returncode == 0
    again = json.loads(run_here("ingest", *KLINES_1M, "--json", env=env).stdout)
    assert (again["files"], again["rows"]) == (0, 0)


def test_lost_files_of_several_tables_are_mended_in_one_run(
    env: dict[str, str], tmp_path: Path
) -> None:
    ingested(env, tmp_path)
    hours = [*KLINES_1M[:-1], "1h"]
    assert run_here("ingest", *hours, "--quiet", env=env).returncode == 0
    before = read_lake(tmp_path)
    for table in (FINE, COARSE):
        data_files(tmp_path, table)[0].unlink()
    told = json.loads(run_here("repair", "--json", env=env).stdout)
    assert sorted(one["table"] for one in told["repairs"]) == [COARSE, FINE]
    assert all(one["objects"] > 0 for one in told["repairs"])
    for table in (FINE, COARSE):
        same_rows(read_lake(tmp_path), before, table)
    assert checks(env) <= {"old_file_missing", "file_size", "orphan_file"}


def test_a_flipped_bit_is_found_by_reading_and_its_rows_come_back(
    env: dict[str, str], tmp_path: Path
) -> None:
    before = ingested(env, tmp_path)
    path = data_files(tmp_path, FINE)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)
    assert json.loads(run_here("repair", "--json", env=env).stdout)["repairs"] == []
    (one,) = json.loads(run_here("repair", "--deep", "--json", env=env).stdout)["repairs"]
    assert one["lost"] == [str(path.relative_to(tmp_path / "data"))]
    same_rows(read_lake(tmp_path), before, FINE)


def test_lost_files_of_a_derived_table_are_built_anew(env: dict[str, str], tmp_path: Path) -> None:
    ingested(env, tmp_path)
    assert run_here("build", "daily", "--quiet", env=env).returncode == 0
    before = read_lake(tmp_path)
    data_files(tmp_path, "gold.daily")[0].unlink()
    (one,) = json.loads(run_here("repair", "--json", env=env).stdout)["repairs"]
    assert one["then"] == ["lakehouse build daily"]
    assert one["units"] > 0
    same_rows(read_lake(tmp_path), before, "gold.daily")


def test_a_table_whose_metadata_is_lost_is_set_back_and_its_rows_come_back(
    env: dict[str, str], tmp_path: Path
) -> None:
    before = ingested(env, tmp_path)
    newest = Path(metadata_locations(tmp_path)[FINE].removeprefix("file://"))
    newest.write_bytes(newest.read_bytes()[:50])
    done = run_here("repair", "--json", env=env)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["repairs"]
    assert one["table"] == FINE
    assert one["set_back_to"]
    assert one["mended"]
    same_rows(read_lake(tmp_path), before, FINE)
    assert json.loads(run_here("repair", "--json", env=env).stdout)["repairs"] == []


def test_what_bronze_has_lost_too_is_refused_and_nothing_changes(
    env: dict[str, str], tmp_path: Path
) -> None:
    before = ingested(env, tmp_path)
    data_files(tmp_path, FINE)[0].unlink()
    for path in (tmp_path / "data/bronze").rglob("*.zip"):
        path.unlink()
    done = run_here("repair", env=env)
    assert done.returncode == 3
    assert "NOT MENDED" in done.stdout
    assert "not in bronze" in done.stdout
    # The ledger's own files are there, and its snapshots are those of before.
    assert run_here("verify", "--json", env=env).returncode == 3
    assert before.snapshots == {
        name: tuple(sorted(ids)) for name, ids in snapshots(tmp_path).items()
    }


def test_what_bronze_has_lost_comes_from_the_archive_where_it_is_the_same(
    env: dict[str, str], tmp_path: Path
) -> None:
    before = ingested(env, tmp_path)
    data_files(tmp_path, FINE)[0].unlink()
    objects = sorted((tmp_path / "data/bronze").rglob("*.zip"))
    first, second, *_ = objects
    bytes_before = {path: path.read_bytes() for path in objects}
    for path in objects[2:]:
        path.unlink()
    first.write_bytes(bytes_before[first][:-1])
    second.write_bytes(bytes([bytes_before[second][0] ^ 1]) + bytes_before[second][1:])
    elsewhere = env | {
        "LAKEHOUSE_BINANCE__ARCHIVE_URL": f"{env['LAKEHOUSE_BINANCE__ARCHIVE_URL']}/none"
    }
    done = run_here("repair", "--from-archive", "--json", env=elsewhere)
    assert done.returncode == 3
    raw = json.loads(done.stdout)["raw"]
    assert (raw["fetched"], set(raw["refused"])) == ([], set(raw["lost"]))
    assert len(raw["lost"]) == len(objects) - 1, "the flipped bit is seen by --deep alone"
    done = run_here("repair", "--from-archive", "--deep", "--json", env=env)
    assert done.returncode == 0, done.stderr
    raw = json.loads(done.stdout)["raw"]
    names = [str(path.relative_to(tmp_path / "data")) for path in objects]
    assert raw == {"lost": names, "fetched": names, "refused": {}}
    assert {path: path.read_bytes() for path in objects} == bytes_before
    same_rows(read_lake(tmp_path), before, FINE)
    assert checks(env) == {"old_file_missing"}


def snapshots(home: Path) -> dict[str, list[int]]:
    return {
        name: [s.snapshot_id for s in StaticTable.from_metadata(location).metadata.snapshots]
        for name, location in metadata_locations(home).items()
    }


BEGIN = """
import sys, time
from lakehouse_ray.pipeline.run_records import begin
from lakehouse_ray.storage.objects import LocalStore
from lakehouse_ray.telemetry.command import GIVEN
from pathlib import Path
GIVEN.set(tuple(sys.argv[2:]))
begin(LocalStore(Path(sys.argv[1])), "1f-2e")
print("begun", flush=True)
time.sleep(600)
"""


def test_a_killed_run_is_gone_on_with_and_one_at_work_is_not(
    env: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    env = env | {"LAKEHOUSE_HOME": str(home)}
    command = [sys.executable, "-c", BEGIN, str(home / "data"), "ingest", *KLINES_1M, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        told = json.loads(run_here("resume", "--json", env=env).stdout)
        assert [one["state"] for one in told["runs"]] == ["running"]
        assert not (home / "catalog.db").exists()
        process.kill()
    told = json.loads(run_here("resume", "--dry-run", "--json", env=env).stdout)
    (one,) = told["runs"]
    assert (one["state"], one["code"]) == ("killed", None)
    assert one["command"].startswith("lakehouse ingest --market spot")
    done = run_here("resume", "--json", env=env)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["runs"]
    assert (one["state"], one["code"]) == ("resumed", 0)
    assert json.loads(run_here("resume", "--json", env=env).stdout)["runs"] == []
    other = tmp_path / "other"
    run_here("ingest", *KLINES_1M, "--quiet", env=env | {"LAKEHOUSE_HOME": str(other)})
    same_rows(read_lake(home), read_lake(other), FINE)


def test_a_record_that_says_nothing_is_never_run_and_can_be_forgotten(
    env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "data/tmp").mkdir(parents=True)
    (tmp_path / "data/tmp/run-1f-2e").write_bytes(b"")
    told = json.loads(run_here("resume", "--json", env=env).stdout)
    assert [(one["state"], one["code"]) for one in told["runs"]] == [("unknown", None)]
    assert run_here("resume", "--forget", env=env).returncode == 0
    assert json.loads(run_here("resume", "--json", env=env).stdout)["runs"] == []
