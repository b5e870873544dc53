"""`lakehouse quality` as people and schedules call it: what it writes, says, and ends with."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.bars import BarLake, bars
from support.commands import MANY_BYTES, environment
from support.forked import completed
from support.in_process import run_here

pytestmark = pytest.mark.integration

BAD_DAY = datetime(2024, 5, 21, tzinfo=UTC)
ODD = "<b>币安</b>"


def hours(symbol: str) -> pl.DataFrame:
    """Four days of hours that break no rule."""
    return bars(symbol, "2024-05-20", 4, holes=0).with_columns(
        volume=pl.lit(10.0),
        trades=pl.lit(100, dtype=pl.Int64),
        quote_volume=10 * (pl.col("open") + pl.col("close")) / 2,
        taker_buy_volume=pl.lit(4.0),
        taker_buy_quote_volume=4 * (pl.col("open") + pl.col("close")) / 2,
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> BarLake:
    """Two symbols, one with a quarter of a day missing."""
    lake = BarLake(tmp_path_factory.mktemp("quality"))
    time = pl.col("open_time")
    hole = (time.dt.truncate("1d") == BAD_DAY) & time.dt.hour().is_between(6, 11)
    lake.put(hours(ODD).filter(~hole), hours("BBB"))
    return lake


def settings(home: Path) -> dict[str, str]:
    return environment(HOME=home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES)


def call(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own."""
    return completed("quality", *arguments, env=settings(home), text=True)


def call_here(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here("quality", *arguments, env=settings(home))


def told(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def test_page_and_document_are_written_and_text_says_the_same(
    lake: BarLake, tmp_path: Path
) -> None:
    page, document = tmp_path / "q.html", tmp_path / "q.json"
    done = call(lake.home, "--again", "--html", str(page), "--report-json", str(document))
    assert done.returncode == 5, done.stderr
    facts, text = told(document), page.read_text()
    assert facts["headline"] == "1 of 8 days score less than 0.9"
    assert done.stdout.startswith(f"Quality of everything stored: {facts['headline']}.")
    assert facts["headline"] in text
    assert [span["first_day"] for span in facts["worst_spans"]] == ["2024-05-21"]
    (task,) = facts["tasks"]
    assert task["symbols"] == [ODD]
    assert task["commands"][0].endswith("--start 2024-05-21 --end 2024-05-22")
    assert facts["gap_causes"][0]["missing"] == 6
    # Its name is a text of the page.
    assert "<b>" not in text
    assert "&lt;b&gt;币安&lt;/b&gt;" in text
    assert f"  0.7500  spot klines 1h {ODD}  2024-05-21" in done.stdout
    # How it goes on is said aside.
    assert "2 series to assess" in done.stderr
    assert f"wrote {page}" in done.stderr
    assert sorted(tmp_path.iterdir()) == [page, document]


def test_quiet_and_json_say_nothing_aside(lake: BarLake, tmp_path: Path) -> None:
    page = tmp_path / "q.html"
    quiet = call(lake.home, "--again", "--quiet", "--html", str(page))
    assert (quiet.returncode, quiet.stderr) == (5, "")
    assert page.exists()
    spoken = call_here(lake.home, "--again", "--json")
    assert (spoken.returncode, spoken.stderr) == (5, "")
    assert json.loads(spoken.stdout)["days_under"] == 1


def test_where_no_day_is_under_the_threshold_it_ends_well(lake: BarLake, tmp_path: Path) -> None:
    page = tmp_path / "q.html"
    good = call_here(lake.home, "--symbols", "BBB", "--html", str(page))
    assert good.returncode == 0
    assert "Fine: all 4 days score 0.9 or more" in page.read_text()
    assert call_here(lake.home, "--threshold", "0.7").returncode == 0
    later = call_here(lake.home, "--start", "2024-05-22", "--html", str(page))
    assert later.returncode == 0
    assert "before" not in later.stdout
    assert "Nothing to do." in later.stdout


def test_a_range_without_data_is_an_error_and_writes_nothing(lake: BarLake, tmp_path: Path) -> None:
    page = tmp_path / "q.html"
    done = call_here(lake.home, "--start", "2023-01", "--end", "2023-02", "--html", str(page))
    assert done.returncode == 4
    assert "from 2023-01-01T00:00:00Z before 2023-02-01T00:00:00Z" in done.stderr
    assert "lakehouse coverage" in done.stderr
    assert not page.exists()


def test_an_empty_lake_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = call_here(tmp_path / "home", "--html", str(tmp_path / "q.html"))
    assert done.returncode == 4
    assert "nothing is stored yet" in done.stderr
    assert "ingest" in done.stderr
    assert not (tmp_path / "q.html").exists()


def test_a_page_that_cannot_be_written_is_an_error_before_any_work(
    lake: BarLake, tmp_path: Path
) -> None:
    for path in (tmp_path / "missing" / "q.html", tmp_path):
        done = call_here(lake.home, "--again", "--html", str(path))
        assert done.returncode == 2
        assert str(path) in done.stderr
        assert "series to assess" not in done.stderr
