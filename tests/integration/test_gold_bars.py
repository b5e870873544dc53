"""Gold bars as the commands build, ask, export and compare them, on a synthetic market."""

from __future__ import annotations

import json
import subprocess
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pytest
from support.commands import MANY_BYTES, environment
from support.forked import completed
from support.in_process import run_here

from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

SYMBOL = "BTCUSDT"
HOLE = "*-1m-2024-05-02.zip"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of minutes of which the second lacks its end."""
    folder = tmp_path_factory.mktemp("gold")
    archive = SyntheticArchive(
        3, symbols=[SYMBOL], markets=["spot"], start=date(2024, 5, 1), end=date(2024, 5, 4)
    )
    faults = Faults((Rule(HOLE, "missing_rows"),))
    with ReplicaExchange(archive, faults) as exchange:
        ingested = run_apart(
            settings(folder, exchange.url), "ingest", "--market", "spot", "--dataset", "klines",
            "--interval", "1m", "--freq", "daily", "--json",
        )  # fmt: skip
        assert ingested["rows"] > 3000
    report = run_apart(settings(folder), "build", "klines", "resampled_klines", "--json")
    assert (report["built"], report["failed"]) == (3, 0)
    return folder


def settings(home: Path, url: str = "http://127.0.0.1:9") -> dict[str, str]:
    return environment(HOME=home, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES, BINANCE__ARCHIVE_URL=url)


def call(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_here(*arguments, env=settings(home))


def run(home: Path, *arguments: str) -> dict[str, object]:
    done = call(home, *arguments)
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def run_apart(env: dict[str, str], *arguments: str) -> dict[str, object]:
    """The same in a process of its own."""
    done = completed(*arguments, env=env, text=True)
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def ask(home: Path, query: str) -> list[dict[str, object]]:
    done = call(home, "sql", query, "--output", "ndjson")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_minute_has_a_bar_and_those_made_up_are_marked(home: Path) -> None:
    (counts,) = ask(
        home,
        "select count(*) n, count(*) filter (is_filled) filled, "
        "(select count(*) from silver.klines) stored from gold.klines",
    )
    assert counts["n"] == 3 * 1440
    assert counts["filled"] == 3 * 1440 - int(str(counts["stored"])) > 0


def test_made_up_bars_carry_the_close_before_and_no_volume(home: Path) -> None:
    rows = ask(
        home,
        "select is_filled, open, close, volume, trades, lag(close) over (order by open_time) before "
        "from gold.klines qualify is_filled",
    )
    assert all(r["open"] == r["close"] == r["before"] for r in rows)
    assert {(r["volume"], r["trades"]) for r in rows} == {(0.0, 0)}


@pytest.mark.parametrize("offset_min", [0, 25])
def test_hours_at_an_offset_are_what_duckdb_makes_of_the_minutes(
    home: Path, offset_min: int, tmp_path: Path
) -> None:
    frames = {}
    for name, query in (
        ("fine", "select * from silver.klines"),
        (
            "coarse",
            f"select * from gold.resampled_klines where interval = '1h' and \"offset\" = '{offset_min}m'",
        ),
    ):
        file = tmp_path / f"{name}.parquet"
        done = call(home, "sql", query, "--output", "parquet", "--out", str(file))
        assert done.returncode == 0, done.stderr
        frames[name] = file
    truth = duckdb.sql(
        f"""
        SELECT time_bucket(INTERVAL 1 HOUR, open_time, INTERVAL {offset_min} MINUTE) AS t,
               first(open ORDER BY open_time) FILTER (trades > 0) AS open, max(high) AS high,
               min(low) AS low, last(close ORDER BY open_time) AS close, sum(trades)::BIGINT AS trades,
               count(*) AS bars
        FROM '{frames["fine"]}' GROUP BY t ORDER BY t
        """
    ).pl()
    made = pl.read_parquet(frames["coarse"]).sort("open_time")
    assert made["open_time"].to_list() == truth["t"].to_list()
    for name in ("open", "close", "trades", "bars"):
        assert made[name].to_list() == truth[name].to_list(), name
    assert made["is_partial"].sum() == (truth["bars"] < 60).sum() > 0


def test_building_again_builds_nothing(home: Path) -> None:
    report = run(home, "build", "klines", "resampled_klines", "--json")
    assert (report["built"], report["current"], report["commits"]) == (0, 3, 0)


def test_an_export_has_the_folders_and_columns_of_bhds(home: Path, tmp_path: Path) -> None:
    export = ("bhds", "export", "--market", "spot", "--root", str(tmp_path), "--json")
    done = run_apart(settings(home), *export)
    file = tmp_path / "results_data/spot/klines/1m" / f"{SYMBOL}.parquet"
    assert done == {"files": [str(file)], "failed": {}}
    frame = pl.read_parquet(file)
    assert frame.height == 3 * 1440
    assert {"candle_begin_time", "open", "close", "volume", "quote_volume"} <= set(frame.columns)
    assert frame.null_count().sum_horizontal().item() == 0


def test_each_difference_from_bhds_has_a_reason(home: Path) -> None:
    done = call(
        home, "bhds", "compare", "--market", "spot", "--resample", "1h/5m", "--output", "ndjson"
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    assert all(row["symbol"] == SYMBOL and row["sentence"] for row in rows)
    assert "UNEXPLAINED" not in {row["reason"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("frob", "--market", "spot"), 2),
        (("export", "--market", "spot"), 2),
        (("compare", "--market", "spot", "--interval", "5m", "--resample", "1h"), 2),
        (("compare", "--market", "spot", "--resample", "1h/7m"), 2),
        (("export", "--market", "spot", "--resample", "1w", "--root", "unused"), 2),
        (("compare", "--market", "spot", "--symbols", "NOSUCH"), 4),
        (("compare", "--market", "um"), 4),
    ],
)
def test_what_cannot_be_is_an_error_with_a_code(
    home: Path, arguments: tuple[str, ...], code: int
) -> None:
    done = call(home, "bhds", *arguments, "--json")
    assert done.returncode == code
    assert json.loads(done.stdout)["error"]["code"] == code


def test_a_symbol_that_is_nearly_a_stored_one_is_suggested(home: Path) -> None:
    done = call(
        home, "bhds", "compare", "--market", "spot", "--symbols", f"{SYMBOL[:-1]}X", "--json"
    )
    assert SYMBOL in json.loads(done.stdout)["error"]["hint"]
