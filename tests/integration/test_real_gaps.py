"""The exchange's own files: its outages, one hour that two files count differently, and minutes
that do not add up to their trades.

Hourly bars of BTCUSDT, BTCUSDC and SOLUSDT from recorded CSV files, the rest from the archive's own
zips; all of it through HTTP, bronze and silver.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from support.recorded import RECORDED, write_monthly

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.kernels.crosscheck_bars import finer_against_coarser, trades_against_bars
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.outages import OUTAGES
from lakehouse_ray.model.timespan import HOUR_US
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
HOURLY = RECORDED / "spot_klines_1h_year"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not (ARCHIVE.is_dir() and HOURLY.is_dir()), reason="the real files are not on this machine"
    ),
]

KINDS: tuple[tuple[Market, str, str | None], ...] = (
    ("spot", "klines", "1h"),
    ("spot", "klines", "15m"),
    ("um", "klines", "1m"),
    ("um", "aggTrades", None),
    ("um", "metrics", None),
    ("um", "fundingRate", None),
)
# What the notes beside the data name as outages.
DATES = (
    "2018-02-08", "2018-06-26", "2018-07-04", "2019-05-15", "2020-02-19", "2021-04-25",
    "2023-03-24",
)  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    root, home = tmp_path_factory.mktemp("archive"), tmp_path_factory.mktemp("real") / "home"
    write_monthly(root, sorted(HOURLY.glob("*.csv")))
    for folder in ("spot/daily/klines/BTCUSDT/15m", "futures/um"):
        shutil.copytree(ARCHIVE / "data" / folder, root / "data" / folder)
    with ReplicaExchange(FolderArchive(root)) as exchange:
        writer = Writer(
            Settings(
                home=home,
                binance={"archive_url": exchange.url},
                compute={"local_bytes_max": 1 << 40},
            )
        )
        for market, dataset, interval in KINDS:
            ingest(writer, IngestRequest(Selection(DATASETS[dataset], market, interval)))
    return lh.connect(home)


def hours_without_bars(symbol: str) -> set[int]:
    """Hours between the first and the last one in which no bar of the CSV files opens."""
    opens = set()
    for path in HOURLY.glob(f"{symbol}-*.csv"):
        with path.open(newline="") as file:
            for row in csv.reader(file):
                time = int(row[0])
                opens.add((time if time > 10**14 else time * 1000) // HOUR_US)
    return set(range(min(opens), max(opens))) - opens


def test_gaps_are_the_hours_in_which_no_bar_of_the_files_opens(lake: Lake) -> None:
    found = lake.gaps("spot", "klines", interval="1h")
    for symbol in ("BTCUSDT", "BTCUSDC", "SOLUSDT"):
        told: set[int] = set()
        spans = found.filter(symbol=symbol).select(
            pl.col("start_time", "end_time").dt.epoch("us"), "missing"
        )
        for start, end, missing in spans.iter_rows():
            assert missing == (end - start) // HOUR_US
            told |= set(range(start // HOUR_US, end // HOUR_US))
        assert told == hours_without_bars(symbol)


def test_the_known_outages_are_found_and_named(lake: Lake) -> None:
    found = lake.gaps("spot", "klines", "BTCUSDT", "1h")
    days = found.with_columns(day=pl.col("start_time").dt.strftime("%Y-%m-%d"))
    for day in DATES:
        (cause,) = days.filter(day=day)["cause"].to_list()
        assert cause == "outage", day
    assert set(found["cause"]) == {"outage"}
    assert found.height == 27


def test_nothing_was_traded_in_any_whole_hour_of_a_known_outage(lake: Lake) -> None:
    bars = lake.klines("BTCUSDT", "1h").filter(pl.col("trades") > 0)
    bars = bars.select(pl.col("open_time").dt.epoch("us")).collect()
    first = bars["open_time"].min()
    there = set((bars["open_time"] // HOUR_US).to_list())
    long = 0
    for outage in OUTAGES:
        whole = range(-(-outage.start_us // HOUR_US), outage.end_us // HOUR_US)
        if outage.start_us > first and len(whole):  # type: ignore[operator]
            # Off the grid, the first bar after that of 2018-02-08 opens within its last hour.
            last = whole[-1:] if outage.end_us % HOUR_US else []
            assert not there & set(whole).difference(last), outage
            long += 1
    assert long >= 27


def test_a_pair_that_stopped_for_months_was_halted_and_years_without_files_are_not(
    lake: Lake,
) -> None:
    found = lake.gaps("spot", "klines", "BTCUSDC", "1h").select(
        pl.col("start_time", "end_time").dt.strftime("%Y-%m-%d %H"), "cause"
    )
    assert found.rows() == [
        ("2019-01-01 00", "2022-01-01 00", "unknown"),
        ("2022-09-29 03", "2023-03-12 06", "halted"),
        ("2023-03-24 13", "2023-03-24 14", "outage"),
    ]


def test_bars_off_the_grid_make_no_day_look_incomplete(lake: Lake) -> None:
    days = lake.coverage("spot", "klines", "BTCUSDT", "1h", "2018-02-08", "2018-02-12")
    assert days.select("rows", "expected").rows() == [(1, 24), (15, 24), (24, 24), (24, 24)]


def test_funding_and_trades_of_the_archive_have_no_gaps(lake: Lake) -> None:
    for dataset in ("fundingRate", "aggTrades"):
        assert lake.gaps("um", dataset).is_empty()
        assert lake.coverage("um", dataset)["share"].to_list() == [1.0] * len(
            lake.coverage("um", dataset)
        )


def test_five_minutes_of_metrics_that_one_file_lacks_are_found(lake: Lake) -> None:
    found = lake.gaps("um", "metrics", "BSVUSDT").row(0, named=True)
    assert found["start_time"] == datetime(2026, 4, 18, 23, 0, tzinfo=UTC)
    assert (found["missing"], found["cause"]) == (1, "archive_hole")
    assert re.search(r"(1m bars|aggTrades) have \d+ rows then", found["evidence"])


def test_a_year_of_quarters_makes_the_published_hours_but_for_one(lake: Lake) -> None:
    span = ("2022-01-01", "2022-12-29")
    finer = lake.klines("BTCUSDT", "15m", *span).collect()
    coarser = lake.klines("BTCUSDT", "1h", *span).collect()
    assert coarser.height == 362 * 24
    found = finer_against_coarser(finer, coarser, "spot")
    assert set(found["verdict"]) == {"differs"}
    assert found["time"].unique().to_list() == [datetime(2022, 4, 13, 5, tzinfo=UTC)]
    trades = found.filter(column="trades").row(0, named=True)
    assert (trades["left"], trades["right"], trades["difference"]) == (22852.0, 22816.0, 36.0)
    assert trades["reason"].startswith("all 4 15m bars are there")


def test_minutes_agree_with_their_trades_but_for_half_a_percent_each_with_a_reason(
    lake: Lake,
) -> None:
    compared, differing = 0, Counter[str]()
    for symbol in ("ALPINEUSDT", "BSVUSDT", "CLUSDT"):
        trades = lake.rows("aggTrades", symbol, market="um").collect()
        days = trades["transact_time"].dt.date().unique()
        bars = lake.klines(symbol, "1m", market="um").collect()
        bars = bars.filter(pl.col("open_time").dt.date().is_in(days.implode()))
        found = trades_against_bars(trades, bars, "um")
        compared += bars.height
        minutes = found.select("time", "reason").unique()
        assert minutes["time"].is_unique().all()
        differing.update(re.sub(r"\d+", "n", reason) for reason in minutes["reason"])
        assert set(found["verdict"]) <= {"differs"}
        assert found["column"].is_in(["close"]).sum() == 0
    assert compared == 25_920
    assert differing == {
        "trades stand in the minute beside it: n": 54,
        "n ids inside aggTrades are not counted by the bar": 39,
        "n trade ids of this minute are in no aggTrade": 30,
        "the bar counts more trades: n": 3,
    }
