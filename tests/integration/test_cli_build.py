"""`lakehouse build` as people and scripts call it, and on real bars."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.bars import BarLake, bars
from support.commands import MANY_BYTES, environment
from support.days import assert_days
from support.forked import completed
from support.in_process import run_here
from support.lakes import Contents, assert_same, read_lake

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.settings import load_settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange, SyntheticArchive

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
JOB = Path(__file__).parents[2] / "jobs/build_gold.py"

pytestmark = pytest.mark.integration


@pytest.fixture
def lake(tmp_path: Path) -> BarLake:
    lake = BarLake(tmp_path)
    for symbol in ("AAA", "BBB", "CCC"):  # a file each
        lake.put(bars(symbol, "2024-05-20", 20))
    return lake


def settings(lake: BarLake) -> dict[str, str]:
    return environment(HOME=lake.home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES)


def call(lake: BarLake, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return completed("build", *arguments, env=settings(lake), text=True)


def call_here(
    lake: BarLake, *arguments: str, command: str = "build"
) -> subprocess.CompletedProcess[str]:
    return run_here(command, *arguments, env=settings(lake))


def test_the_command_builds_and_the_job_finds_it_done(lake: BarLake) -> None:
    done = call(lake, "daily", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["built"], report["rows"], report["failed"]) == (6, 60, 0)
    assert report["products"][0]["product"] == "daily"
    assert_days(lake)
    again = subprocess.run(
        [sys.executable, str(JOB), "daily", "--json"],
        env=settings(lake), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert (json.loads(again.stdout)["built"], json.loads(again.stdout)["current"]) == (0, 6)


def test_a_dry_run_tells_and_writes_nothing(lake: BarLake) -> None:
    before = lake.snapshots()
    told = json.loads(call_here(lake, "--dry-run", "--json", "--symbols", "BBB").stdout)
    (daily,) = [one for one in told["products"] if one["product"] == "daily"]
    assert daily["first_stale"] == ["spot 1h BBB 2024-05", "spot 1h BBB 2024-06"]
    assert "2 of 2 units" in call_here(lake, "daily", "--dry-run", "--symbols", "BBB").stdout
    assert lake.snapshots() == before


def test_options_choose_what_is_built(lake: BarLake) -> None:
    chosen = ("--symbols", "AAA,CCC", "--start", "2024-06", "--market", "spot", "--interval", "1h")
    assert json.loads(call_here(lake, "daily", "--json", *chosen).stdout)["built"] == 2
    assert json.loads(call_here(lake, "daily", "--json").stdout)["built"] == 4
    again = call_here(lake, "daily", "--json", "--rebuild", "--symbols", "AAA")
    assert json.loads(again.stdout)["built"] == 2
    assert_days(lake)


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (("dialy",), 2, "did you mean daily?"),
        (("--interval", "7m"), 2, "one of 1s"),
        (("--market", "sport"), 2, "one of spot"),
        (("--start", "2024-13"), 2, ""),
        (("--start", "2024-06", "--end", "2024-05"), 2, "half-open"),
        (("--symbols", "AAB"), 4, "did you mean AAA?"),
        (("daily", "--start", "2031"), 4, "lakehouse datasets"),
    ],
)
def test_what_cannot_be_is_an_error_with_a_code_and_a_hint(
    lake: BarLake, arguments: tuple[str, ...], code: int, hint: str
) -> None:
    done = call_here(lake, *arguments, "--json")
    assert done.returncode == code, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert hint in error["hint"]


def test_a_lake_without_anything_is_built_at_once(tmp_path: Path) -> None:
    done = call_here(BarLake(tmp_path), "--json")
    assert (done.returncode, json.loads(done.stdout)["units"]) == (0, 0)


def test_a_symbol_whose_file_is_damaged_is_told_and_the_others_are_built(lake: BarLake) -> None:
    (path,) = [
        path for path, names in lake.files("silver.klines_coarse").items() if names == ["BBB"]
    ]
    data = bytearray(Path(path).read_bytes())
    data[100 : len(data) // 2] = bytes(len(data) // 2 - 100)
    Path(path).write_bytes(data)
    done = call(lake, "daily", "--json")
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert (report["built"], report["failed"]) == (4, 2)
    assert report["examples"][0]["unit"] == "daily spot 1h BBB 2024-05"
    shown = call_here(lake, "daily")
    assert shown.returncode == 3
    assert "daily spot 1h BBB 2024-05" in shown.stdout


INGEST = ("ingest", "--market", "spot", "--dataset", "klines", "--interval", "1h", "--json")


def ingested(home: Path, url: str, *arguments: str) -> dict[str, Any]:
    env = environment(HOME=home, BINANCE__ARCHIVE_URL=url, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES)
    done = run_here(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_ingestion_that_builds_leaves_what_the_two_commands_leave(tmp_path: Path) -> None:
    archive = SyntheticArchive(
        7, ["BTCUSDT", "ETHUSDT"], ["spot"], date(2025, 1, 1), date(2025, 1, 9)
    )
    with ReplicaExchange(archive) as exchange:
        one, two, url = tmp_path / "one", tmp_path / "two", exchange.url
        planned = ingested(one, url, *INGEST, "--build", "--dry-run")
        assert (planned["build"], planned["files"]) == (True, 16)
        told = ingested(one, url, *INGEST, "--build")
        assert told["rows"] == 2 * 8 * 24
        assert ingested(two, url, *INGEST)["built"] is None
        assert told["built"]["built"] == ingested(two, url, "build", "--json")["built"] > 0
        again = ingested(one, url, *INGEST, "--build")
        assert (again["rows"], again["built"]["built"]) == (0, 0)
        # What a run that died between the two has left.
        ingested(two, url, *INGEST, "--symbols", "BTCUSDT", "--build")
        assert_same(gold_of(one), gold_of(two))


def gold_of(home: Path) -> Contents:
    """Without the log of builds: its fingerprints are of files, whose names are by chance."""
    lake = read_lake(home)
    return replace(lake, tables={k: v for k, v in lake.tables.items() if k != "gold.build_log"})


def test_nothing_is_built_of_instruments(tmp_path: Path) -> None:
    asked = ("ingest", "--market", "spot", "--dataset", "instruments", "--build")
    done = run_here(*asked, env=environment(HOME=tmp_path))
    assert done.returncode == 2
    assert "instruments are asked for as a whole" in done.stderr


REAL: list[tuple[Market, str]] = [("spot", "15m"), ("spot", "1h"), ("spot", "5m"), ("um", "1m")]


@pytest.mark.skipif(not ARCHIVE.is_dir(), reason="the real files are not on this machine")
def test_days_of_real_bars_are_what_duckdb_makes_of_them(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    with ReplicaExchange(FolderArchive(ARCHIVE)) as exchange:
        writer = Writer(
            load_settings(
                {
                    "home": tmp_path,
                    "binance": {"archive_url": exchange.url},
                    "compute": {"local_bytes_max": MANY_BYTES},
                }
            ).resolved()
        )
        for market, interval in REAL:
            ingest(writer, IngestRequest(Selection(KLINES, market, interval)))
    done = call(lake, "daily", "--json")
    assert done.returncode == 0, done.stderr
    assert_days(lake)
    checked = call_here(lake, "--deep", "--json", command="verify")
    assert checked.returncode == 0, checked.stdout
    again = json.loads(call_here(lake, "daily", "--json").stdout)
    assert (again["built"], again["unchanged"], again["commits"]) == (0, 0, 0)
