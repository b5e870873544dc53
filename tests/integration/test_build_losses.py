"""Builds of a lake that lost files: who needs them is told, and everybody else is built."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars
from support.commands import MANY_BYTES, environment
from support.in_process import run_here
from support.products import ALL, only
from support.restored import Restored

from lakehouse_ray.gold.plan import BuildScope
from lakehouse_ray.gold.recipe import Recipe
from lakehouse_ray.pipeline.gold import BuildRequest, build
from lakehouse_ray.pipeline.gold_report import BuildReport

pytestmark = pytest.mark.integration

FINE, COARSE = "silver.klines_fine", "silver.klines_coarse"
SYMBOLS = ("AAA", "BBB", "CCC")
# Of hours, of minutes, of all there is, and of a market: what reads silver in each way there is.
RECIPES = {name: ALL[name] for name in ("daily", "steps", "lives", "ranks")}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_footer(path: Path) -> None:
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[-8:-4], "little")
    data[-8 - length : -8] = b"\xff" * length
    path.write_bytes(data)


LOSSES = [(Path.unlink, "FILE_GONE"), (truncate, "FILE_DAMAGED"), (spoil_footer, "FILE_DAMAGED")]


def fill(home: Path) -> None:
    """A file of hours and one of minutes for each symbol."""
    for symbol in SYMBOLS:
        BarLake(home).put(bars(symbol, "2024-05-20", 20))
        BarLake(home).put(bars(symbol, "2024-05-10", 1, interval="1m"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Restored:
    return Restored(tmp_path_factory.mktemp("filled"), fill)


@pytest.fixture
def lake(filled: Restored) -> BarLake:
    return BarLake(filled.again())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> BarLake:
    """What is built where nothing is lost."""
    lake = BarLake(tmp_path_factory.mktemp("whole"))
    fill(lake.home)
    make(lake)
    return lake


def make(
    lake: BarLake, recipes: Mapping[str, Recipe] = RECIPES, *names: str, **more: Any
) -> BuildReport:
    return build(lake.writer(), BuildRequest(names, **more), recipes=recipes)


def file_of(lake: BarLake, table: str, *symbols: str) -> Path:
    (path,) = [path for path, names in lake.files(table).items() if names == list(symbols)]
    return Path(path)


def rows(lake: BarLake, recipe: Recipe) -> pl.DataFrame:
    table = recipe.product.table
    return lake.rows(table.name).sort(table.key)


def failed(report: BuildReport) -> dict[str, str]:
    """Reasons of the units that failed; few enough that all of them are named."""
    assert report.total("failed") == len(report.examples)
    return {one["unit"]: one["reason"] for one in report.examples}


@pytest.mark.parametrize(("loss", "reason"), LOSSES)
@pytest.mark.parametrize(
    ("table", "interval", "units"),
    [
        (COARSE, "1h", [f"{p} spot 1h BBB 2024-0{m}" for p in ("daily", "steps") for m in (5, 6)]),
        (FINE, "1m", [f"{product} spot 1m BBB 2024-05" for product in ("daily", "steps")]),
    ],
)
def test_who_needs_a_lost_file_fails_and_all_others_are_what_they_would_be(
    lake: BarLake,
    whole: BarLake,
    loss: Callable[[Path], object],
    reason: str,
    table: str,
    interval: str,
    units: list[str],
) -> None:
    path = file_of(lake, table, "BBB")
    kept = path.read_bytes()
    loss(path)
    report = make(lake)
    assert failed(report) == dict.fromkeys([*units, "lives spot BBB all"], reason)
    assert all(path.name in one["detail"] for one in report.examples)
    assert all("lakehouse verify" in one["detail"] for one in report.examples)
    for name in ("daily", "steps", "lives"):
        wanted = rows(whole, RECIPES[name])
        mine = pl.col("symbol") == "BBB"
        if "interval" in wanted.columns:
            mine &= pl.col("interval") == interval
        assert_frame_equal(rows(lake, RECIPES[name]), wanted.filter(~mine))
    # The same again changes nothing.
    before = lake.snapshots()
    assert failed(make(lake)) == failed(report)
    assert lake.snapshots() == before
    path.write_bytes(kept)
    again = make(lake)
    assert (again.partial, again.products["daily"].built) == (False, len(units) // 2)
    for recipe in RECIPES.values():
        assert_frame_equal(rows(lake, recipe), rows(whole, recipe))


@pytest.mark.parametrize(("loss", "reason"), LOSSES)
def test_what_was_built_stays_while_the_file_of_it_is_lost(
    tmp_path: Path, loss: Callable[[Path], object], reason: str
) -> None:
    """One file has all symbols, so nothing else makes their units exist."""
    lake = BarLake(tmp_path / "lake")
    lake.put(*(bars(symbol, "2024-05-20", 20) for symbol in SYMBOLS))
    recipes = only("daily")
    make(lake, recipes)
    before = rows(lake, recipes["daily"])
    path = file_of(lake, COARSE, *SYMBOLS)
    kept = path.read_bytes()
    lake.put(bars("DDD", "2024-05-20", 5))
    loss(path)
    for rebuild in (False, True):
        report = make(lake, recipes, rebuild=rebuild)
        assert failed(report) == {
            f"daily spot 1h {symbol} 2024-0{month}": reason
            for symbol in SYMBOLS
            for month in (5, 6)
        }
        found = rows(lake, recipes["daily"])
        assert_frame_equal(found.filter(pl.col("symbol") != "DDD"), before)
        assert found.filter(symbol="DDD").height == 5
    path.write_bytes(kept)
    report = make(lake, recipes)
    assert (report.products["daily"].current, report.commits) == (7, 0)


def test_a_month_without_rows_between_lost_files_keeps_its_state(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "lake")
    lake.put(*(bars(symbol, "2023-11-20", 5) for symbol in SYMBOLS))
    lake.put(*(bars(symbol, "2024-02-20", 5) for symbol in SYMBOLS))
    recipes = only("daily")
    make(lake, recipes)
    before, kept = rows(lake, recipes["daily"]), {}
    for name in lake.files(COARSE):
        kept[Path(name)] = Path(name).read_bytes()
    for path in kept:
        path.unlink()
    snapshots = lake.snapshots()
    report = make(lake, recipes)
    # AAA and CCC are known to be in both files, so their holes are no loss; BBB may have been
    # anywhere between.
    counted = [report.total(name) for name in ("failed", "current", "built")]
    assert counted == [2 + 2 + 4, 2 + 2, 0]
    assert lake.snapshots() == snapshots
    for path, data in kept.items():
        path.write_bytes(data)
    assert make(lake, recipes).total("current") == 12
    assert_frame_equal(rows(lake, recipes["daily"]), before)


def test_a_file_of_several_symbols_is_needed_by_those_that_may_be_in_it_alone(
    tmp_path: Path,
) -> None:
    lake = BarLake(tmp_path / "lake")
    lake.put(bars("AAA", "2024-05-20", 5), bars("CCC", "2024-05-20", 5))
    for symbol in ("BBB", "DDD"):
        lake.put(bars(symbol, "2024-05-20", 5), bars(symbol, "2024-05-20", 0.1, interval="1m"))
    file_of(lake, COARSE, "AAA", "CCC").unlink()
    # Hours of BBB may be there, too.
    report = make(lake, only("daily"))
    assert set(failed(report)) == {f"daily spot 1h {s} 2024-05" for s in ("AAA", "BBB", "CCC")}
    assert report.total("built") == 3
    scope = BuildScope(symbols=("DDD",))
    assert not make(lake, only("daily"), scope=scope).partial


def test_the_buckets_of_symbols_tell_whom_a_file_of_minutes_concerns(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "lake")
    names = [f"S{number:02}" for number in range(40)]
    lake.put(*(bars(name, "2024-05-20", 0.05, interval="1m") for name in names))
    path, mine = max(lake.files(FINE).items(), key=lambda item: len(item[1]))
    assert 1 < len(mine) < len(names)
    make(lake, only("steps"))
    Path(path).unlink()
    report = make(lake, only("steps"))
    assert set(failed(report)) == {f"steps spot 1m {name} 2024-05" for name in mine}
    assert report.total("current") == len(names) - len(mine)


def test_a_market_is_built_again_only_when_all_of_it_can_be_read(lake: BarLake) -> None:
    make(lake)
    before = rows(lake, RECIPES["ranks"])
    paths = [Path(p) for p in lake.files("gold.daily") if "interval=1m" in p]
    for path in paths:
        path.unlink()
    report = make(lake, RECIPES, "ranks")
    units = failed(report)
    assert "ranks spot 1m * 2024-05" in units
    assert all(" 1m " in unit for unit in units)
    assert_frame_equal(rows(lake, RECIPES["ranks"]), before)


def test_the_command_says_which_units_failed_and_ends_with_its_own_code(lake: BarLake) -> None:
    path = file_of(lake, COARSE, "BBB")
    kept = path.read_bytes()
    truncate(path)
    env = environment(HOME=lake.home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES)
    planned = run_here("build", "daily", "--dry-run", "--json", env=env)
    (plan,) = json.loads(planned.stdout)["products"]
    assert (planned.returncode, plan["units"], plan["stale"], plan["lost"]) == (0, 9, 7, 2)
    assert plan["first_lost"][0]["unit"] == "spot 1h BBB 2024-05"
    done = run_here("build", "daily", "--json", env=env)
    assert (done.returncode, done.stderr) == (3, "")
    report = json.loads(done.stdout)
    assert (report["built"], report["failed"], report["reasons"]) == (7, 2, {"FILE_DAMAGED": 2})
    assert [one["unit"] for one in report["examples"]] == [
        "daily spot 1h BBB 2024-05", "daily spot 1h BBB 2024-06",
    ]  # fmt: skip
    # Nothing else is left to do: still the loss is told.
    told = run_here("build", "daily", env=env)
    assert told.returncode == 3
    assert "2 FAILED" in told.stdout
    assert path.name in told.stdout
    path.write_bytes(kept)
    mended = run_here("build", "daily", "--json", env=env)
    assert (mended.returncode, json.loads(mended.stdout)["built"]) == (0, 2)


def test_what_verify_tells_of_a_lost_file_of_a_derived_table_brings_it_back(lake: BarLake) -> None:
    env = environment(HOME=lake.home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES)
    assert run_here("build", "daily", env=env).returncode == 0
    before = lake.rows("gold.daily").sort(pl.all())
    for path in lake.files("gold.daily"):
        Path(path).unlink()
    told = run_here("verify", "--json", env=env)
    assert told.returncode == 3
    (finding,) = [
        one for one in json.loads(told.stdout)["findings"] if one["check"] == "file_missing"
    ]
    assert "out of the catalog" in finding["mend"]
    assert "`lakehouse build daily --rebuild`" in finding["mend"]
    assert "ingest" not in finding["mend"]
    with closing(sqlite3.connect(lake.home / "catalog.db")) as catalog, catalog:
        catalog.execute("DELETE FROM iceberg_tables WHERE table_name = 'daily'")
    told = run_here("build", "daily", "--rebuild", env=env)
    assert told.returncode == 0, told
    assert_frame_equal(lake.rows("gold.daily").sort(pl.all()), before)
    # There is no ledger here, which is told too.
    assert "file_missing" not in run_here("verify", env=env).stdout
