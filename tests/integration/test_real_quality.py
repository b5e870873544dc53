"""Assessments of the exchange's own files: its outages, one hour that two files count differently,
and a second run that has nothing to do.

Hourly bars of BTCUSDT, BTCUSDC and SOLUSDT from recorded CSV files, packed as the archive has them;
all of it through HTTP, bronze and silver.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.findings import findings
from support.recorded import RECORDED, write_monthly

import lakehouse_ray as lh
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.outages import OUTAGES
from lakehouse_ray.model.timespan import HOUR_US
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
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

MARKETS: dict[str, Market] = {"spot": "spot", "futures/um": "um", "futures/cm": "cm"}
# What the notes beside the data name as outages.
DATES = (
    "2018-02-08", "2018-06-26", "2018-07-04", "2019-05-15", "2020-02-19", "2021-04-25",
    "2023-03-24",
)  # fmt: skip


def writer(home: Path, url: str) -> Writer:
    return Writer(
        Settings(home=home, binance={"archive_url": url}, compute={"local_bytes_max": 1 << 40})
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, home = tmp_path_factory.mktemp("archive"), tmp_path_factory.mktemp("real") / "home"
    write_monthly(root, sorted(HOURLY.glob("*.csv")))
    write_monthly(root, sorted((RECORDED / "spot_klines_5m").glob("*.csv")), "5m")
    write_monthly(root, [RECORDED / "spot_klines_1d_year/BTCUSDT-1d-2018-01.csv"], "1d")
    folder = "data/spot/daily/klines/BTCUSDT/15m"
    shutil.copytree(ARCHIVE / folder, root / folder)
    with ReplicaExchange(FolderArchive(root)) as exchange:
        for interval in ("1h", "15m", "5m", "1d"):
            ingest(
                writer(home, exchange.url),
                IngestRequest(Selection(DATASETS["klines"], "spot", interval)),
            )
    report = assess(writer(home, "http://127.0.0.1:1"), AssessmentRequest())
    assert (report.series, report.assessed, report.failed) == (6, 6, 0), report.examples
    return home


def test_the_outages_of_the_exchange_are_findings_with_their_cause(home: Path) -> None:
    gaps = lh.connect(home).sql(
        "select strftime(start_time, '%Y-%m-%d') as day, cause from silver.gaps "
        "where symbol = 'BTCUSDT' and \"interval\" = '1h'"
    ).pl()  # fmt: skip
    causes = dict(gaps.rows())
    assert {day: causes.get(day) for day in DATES} == dict.fromkeys(DATES, "outage")
    assert set(causes.values()) == {"outage"}


def test_every_hour_without_a_bar_in_a_known_outage_is_told_for_each_pair(home: Path) -> None:
    lake = lh.connect(home)
    rows = lake.sql(
        "select symbol, epoch_us(open_time) // 3600000000 as hour from silver.klines "
        "where \"interval\" = '1h'"
    ).pl()  # fmt: skip
    gaps = lake.sql(
        "select symbol, cause, epoch_us(start_time) // 3600000000 as first, "
        "epoch_us(end_time) // 3600000000 as after from silver.gaps where \"interval\" = '1h'"
    ).pl()  # fmt: skip
    told = {
        (symbol, hour): cause
        for symbol, cause, first, after in gaps.iter_rows()
        for hour in range(first, after)
    }
    found: list[str | None] = []
    for (symbol,), mine in rows.partition_by("symbol", as_dict=True).items():
        there = set(mine["hour"].to_list())
        for outage in (one for one in OUTAGES if one.market == "spot"):
            whole = range(-(-outage.start_us // HOUR_US), outage.end_us // HOUR_US)
            found += [
                told.get((str(symbol), hour))
                for hour in whole
                if min(there) < hour < max(there) and hour not in there
            ]
    # A pair that stood still for months did so in the outages of these months, too, and of years
    # nobody has the files.
    assert set(found) <= {"outage", "halted", "unknown"}
    assert found.count("outage") >= 90


def test_the_quarters_of_2022_make_the_published_hours_but_for_one(home: Path) -> None:
    found = lh.connect(home).sql(
        "select strftime(time, '%Y-%m-%d %H:%M') as hour, \"column\", \"left\", \"right\" "
        "from gold.cross_checks where \"interval\" = '1h'"
    ).pl()  # fmt: skip
    # One hour, in which its last price and all its sums differ.
    assert set(found["hour"]) == {"2022-04-13 05:00"}
    assert found["column"].is_unique().all()
    trades = found.filter(column="trades").select("left", "right")
    assert trades.rows() == [(22_852.0, 22_816.0)]
    told = lh.connect(home).sql(
        "select sum(compared), sum(differing), max(codes) filter (differing > 0) from gold.quality "
        "where \"interval\" = '1h' and symbol = 'BTCUSDT'"
    ).pl()  # fmt: skip
    compared, differing, codes = told.row(0)
    assert (compared, differing) == (8688, 1)
    assert "DIFFERS" in codes


def test_hours_that_begin_at_odd_minutes_do_not_make_the_day_differ_at_a_cost(home: Path) -> None:
    lake = lh.connect(home)
    told = lake.sql(
        "select distinct strftime(time, '%Y-%m-%d') as day, reason from gold.cross_checks "
        "where \"interval\" = '1d'"
    ).pl()  # fmt: skip
    assert sorted(told["day"]) == ["2018-02-10", "2018-02-11"]
    assert set(told["reason"]) == {"bars lie off the grid"}
    days = lake.sql(
        "select score, differing from gold.quality where \"interval\" = '1d' "
        "and day >= '2018-02-10' and day < '2018-02-12'"
    ).pl()  # fmt: skip
    assert days.rows() == [(1.0, 0), (1.0, 0)]


def test_hours_of_a_quiet_pair_open_at_their_first_trade_and_agree_with_its_5m_bars(
    home: Path,
) -> None:
    compared, differing = lh.connect(home).sql(
        "select sum(compared), sum(differing) from gold.quality "
        "where \"interval\" = '1h' and symbol = 'BTCUSDC'"
    ).pl().row(0)  # fmt: skip
    assert compared > 300
    assert differing == 0


def test_a_second_run_finds_all_as_it_was(home: Path) -> None:
    before = findings(home)
    again = assess(writer(home, "http://127.0.0.1:1"), AssessmentRequest())
    assert (again.current, again.assessed, again.commits) == (6, 0, 0)
    for view, rows in findings(home).items():
        assert rows.equals(before[view])


def kinds() -> set[tuple[Market, str, str | None]]:
    """What the archive has: market, data set, interval."""
    found: set[tuple[Market, str, str | None]] = set()
    for folder, market in MARKETS.items():
        for path in (ARCHIVE / "data" / folder).glob("*/*/*/**/*.zip"):
            dataset, *rest = path.relative_to(ARCHIVE / "data" / folder).parts[1:-1]
            found.add((market, dataset, rest[1] if len(rest) > 1 else None))
    return found


@pytest.mark.slow
def test_the_whole_archive_is_assessed_once(tmp_path: Path) -> None:
    with ReplicaExchange(FolderArchive(ARCHIVE)) as exchange:
        target = writer(tmp_path, exchange.url)
        for market, dataset, interval in sorted(kinds(), key=str):
            ingest(target, IngestRequest(Selection(DATASETS[dataset], market, interval)))
    first = assess(target, AssessmentRequest())
    assert (first.series, first.assessed, first.failed) == (28, 28, 0), first.examples
    assert first.rows == 1_173_520
    again = assess(target, AssessmentRequest())
    assert (again.current, again.assessed, again.commits) == (28, 0, 0)
