"""Assessments that hold series against other accounts: monthly files, finer bars, trades, a forest."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import polars as pl
import pytest
from support.bars import BarLake, bars
from support.commands import MANY_BYTES, environment
from support.recorded import publish

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.bronze.plan import FreqPolicy
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.assessment_report import AssessmentReport
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.findings import SEEN
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.daily_monthly import Bronze, hold_files
from lakehouse_ray.query.forest_scan import scan_with_forest
from lakehouse_ray.query.pinned import Kind, Pinned
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import (
    Faults,
    FolderArchive,
    ReplicaExchange,
    Rule,
    SyntheticArchive,
)

pytestmark = pytest.mark.integration

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
MONTHS = SyntheticArchive(
    2, symbols=["BTCUSDT"], markets=["um"], start=date(2024, 5, 1), end=date(2024, 6, 4)
)
DAY_OF = "data/futures/um/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-05-{:02d}.zip"
MONTH = "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-05.zip"
COLUMNS = (
    "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
SUMS = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")


class Lake:
    """A lake that is filled from a replica of the archive."""

    def __init__(self, exchange: ReplicaExchange, home: Path, **quality: object) -> None:
        self.exchange = exchange
        self.writer = Writer(
            Settings(
                home=home,
                binance={"archive_url": exchange.url},
                compute={"local_bytes_max": 1 << 40},
                quality=quality,
            )
        )

    def ingest(
        self, freq: FreqPolicy, dataset: str = "klines", interval: str | None = "1h",
        market: Market = "um",
    ) -> None:  # fmt: skip
        report = ingest(
            self.writer, IngestRequest(Selection(DATASETS[dataset], market, interval), freq)
        )
        assert report.failed == 0

    def assess(self, **asked: Any) -> AssessmentReport:
        report = assess(self.writer, AssessmentRequest(Asked(**asked), again=True))
        assert report.failed == 0, report.examples
        return report

    def ask(self, query: str) -> pl.DataFrame:
        with Reader(self.writer.settings).lake.sql(query) as result:
            return result.pl()

    def served(self, key: str) -> dict[int, dict[str, float]]:
        """Values by open time in ms, as Python reads them from what is served now."""
        with urlopen(f"{self.exchange.url}/{key}") as answer:
            data = answer.read()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            text = archive.read(archive.namelist()[0]).decode()
        rows = [row for row in csv.reader(io.StringIO(text)) if row[0].isdigit()]
        return {int(r[0]): dict(zip(COLUMNS, map(float, r[1:]), strict=False)) for r in rows}


@pytest.fixture
def make_lake(tmp_path: Path) -> Iterator[Any]:
    exchanges: list[ReplicaExchange] = []

    def make(archive: Any, *rules: Rule, **quality: object) -> Lake:
        exchanges.append(ReplicaExchange(archive, Faults(rules)).start())
        return Lake(exchanges[-1], tmp_path / "home", **quality)

    yield make
    for exchange in exchanges:
        exchange.stop()


Line = tuple[int, str, float | None, float | None]


def differences(daily: dict[int, Any], monthly: dict[int, Any]) -> set[Line]:
    """What two files of a day say differently, by a loop over their cells."""
    found: set[Line] = set()
    for time in daily.keys() | monthly.keys():
        ours, theirs = daily.get(time), monthly.get(time)
        if ours is None or theirs is None:
            found.add((time, "*", None, None))
            continue
        # Written in ms: the view has microseconds.
        found |= {
            (time, name, ours[name], theirs[name]) for name in COLUMNS if ours[name] != theirs[name]
        }
    return found


def test_what_daily_and_monthly_files_say_differently_is_told_with_both_values(
    make_lake: Any,
) -> None:
    lake = make_lake(
        MONTHS,
        Rule(MONTH, "stale_values", params={"rows": 40}),
        Rule(DAY_OF.format(7), "missing_rows"),
    )
    lake.ingest("monthly")
    lake.ingest("daily")
    monthly = lake.served(MONTH)
    wanted: set[Line] = set()
    counts: dict[int, tuple[int, int]] = {}
    for day in range(1, 32):
        start = int(datetime(2024, 5, day, tzinfo=UTC).timestamp() * 1000)
        theirs = {t: v for t, v in monthly.items() if start <= t < start + 86_400_000}
        ours = lake.served(DAY_OF.format(day))
        lines = differences(ours, theirs)
        wanted |= lines
        counts[day] = len(ours.keys() | theirs.keys()), len({line[0] for line in lines})
    assert len({column for _, column, *_ in wanted}) > 1
    lake.assess()
    found = lake.ask('select epoch_ms(time), "column", "left", "right" from gold.cross_checks')
    assert set(found.rows()) == wanted
    assert found.height == len(wanted)
    told = lake.ask("select day(day), compared, differing from gold.quality where month(day) = 5")
    assert {day: (a, b) for day, a, b in told.rows()} == counts
    codes = lake.ask("select codes from gold.quality where differing > 0")["codes"]
    assert codes.str.contains("DIFFERS").all()
    reasons = lake.ask("select verdict, any_value(reason) from gold.cross_checks group by 1").rows()
    assert dict(reasons).keys() == {"differs", "missing_left"}
    assert re.fullmatch(
        r"the daily file is of 2024-05-\d\d, the monthly one of 2024-06-\d\d",
        dict(reasons)["differs"],
    )


def test_a_day_that_the_monthly_file_lacks_is_one_line_and_costs_nothing(make_lake: Any) -> None:
    """The first ten days are in no monthly row, so `auto` fetches them as daily files."""
    lake = make_lake(MONTHS, Rule(MONTH, "missing_rows", params={"from": 0.0, "to": 0.3226}))
    lake.ingest("auto")
    lake.assess()
    found = lake.ask('select day(time), "column", verdict, reason from gold.cross_checks')
    assert sorted(found.rows())[0][:3] == (1, "*", "missing_right")
    assert found.height == 10
    assert found["reason"].str.contains("none of 24 of this day is there").all()
    assert lake.ask("select sum(compared) from gold.quality").item() is None


def test_bronze_that_lost_a_file_is_told_and_stops_nothing(make_lake: Any) -> None:
    lake = make_lake(MONTHS)
    lake.ingest("monthly")
    lake.ingest("daily")
    path = lake.ask("select path from bronze.objects where period_start = '2024-05-09'").item()
    (Path(lake.writer.settings.storage_root) / path).write_bytes(b"something else")
    lake.assess()
    (line,) = lake.ask("select day(time), verdict, reason from gold.cross_checks").rows()
    assert line[:2] == (9, "missing_left")
    assert "cannot be read again" in line[2]
    assert lake.ask("select sum(compared) from gold.quality").item() == 30 * 24


def test_of_a_day_that_differs_everywhere_a_part_is_told_and_all_is_counted(
    make_lake: Any, tmp_path: Path
) -> None:
    root, minutes = tmp_path / "archive", 1440
    start = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp() * 1000)
    folder = "data/spot/{}/klines/BTCUSDT/1m/BTCUSDT-1m-{}.zip"
    for freq, period, volume in (("monthly", "2024-05", 7), ("daily", "2024-05-01", 8)):
        lines = [
            f"{t},1,2,1,2,{volume},{t + 59_999},{volume},3,{volume - 5},{volume - 5},0"
            for t in range(start, start + minutes * 60_000, 60_000)
        ]
        publish(root, folder.format(freq, period), lines)
    lake = make_lake(FolderArchive(root))
    for freq in ("monthly", "daily"):
        lake.ingest(freq, "klines", "1m", "spot")
    lake.assess()
    (counts,) = lake.ask("select compared, differing from gold.quality").rows()
    assert counts == (minutes, minutes)
    (rest,) = lake.ask("select reason from gold.cross_checks where \"column\" = '*'").rows()
    told = lake.ask("select count(*) from gold.cross_checks where \"column\" <> '*'").item()
    assert int(rest[0].split()[0]) + told == 4 * minutes
    assert told < 4 * minutes


def trade(number: int, time_ms: int, quantity: float, maker: bool) -> str:
    return f"{number},10.5,{quantity},{number},{number},{time_ms},{str(maker).lower()}"


def two_files_of_trades(root: Path) -> None:
    """Two days of aggTrades, as a monthly file and as daily ones that differ in two trades."""
    start = int(datetime(2024, 5, 1, tzinfo=UTC).timestamp() * 1000)
    # Two trades of each ms: only their numbers tell them apart.
    rows = [(n, start + (n // 2) * 400_000, 1.0 + n, n % 3 == 0) for n in range(800)]
    folder = "data/futures/um/{}/aggTrades/BTCUSDT/BTCUSDT-aggTrades-{}.zip"
    publish(root, folder.format("monthly", "2024-05"), [trade(*row) for row in rows])
    header = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
    for day in (1, 2):
        first = start + (day - 1) * 86_400_000
        mine = [list(row) for row in rows if first <= row[1] < first + 86_400_000]
        if day == 2:
            mine[7][2] = 0.25
            mine[8][3] = not mine[8][3]
            del mine[20]
        lines = [header, *(trade(*row) for row in mine)]  # type: ignore[arg-type]
        publish(root, folder.format("daily", f"2024-05-{day:02d}"), lines)


def test_trades_are_held_together_by_their_numbers(make_lake: Any, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    two_files_of_trades(root)
    lake = make_lake(FolderArchive(root))
    lake.ingest("monthly", "aggTrades", None)
    lake.ingest("daily", "aggTrades", None)
    lake.assess()
    found = lake.ask('select id, "column", "left", "right" from gold.cross_checks order by 1, 2')
    first = 2 * 216  # trades of the first day
    makes = float((first + 8) % 3 == 0)
    assert found.rows() == [
        (first + 7, "quantity", 0.25, 1.0 + first + 7),
        (first + 8, "is_buyer_maker", 1 - makes, makes),
        (first + 20, "*", None, None),
    ]
    counts = lake.ask("select day(day), compared, differing from gold.quality order by 1")
    assert counts.rows() == [(1, first, 0), (2, 800 - first, 3)]
    # The same in pieces, as for files that have no room in memory.
    kind = Kind(DATASETS["aggTrades"], "um", None)
    pinned = Pinned(Reader(lake.writer.settings).lake, SEEN)
    writer = lake.writer
    whole, in_pieces = (
        hold_files(pinned, kind, ("BTCUSDT",), Bronze(writer.store, writer.decoder, limit))
        for limit in (1 << 20, 8_000)
    )
    for one, other in zip(whole, in_pieces, strict=True):
        assert one.equals(other)


def aggregated(rows: pl.DataFrame, interval: str, offset: str = "0d") -> pl.DataFrame:
    """Longer bars by Polars' own calendar, of the bars that traded; those that are whole."""
    traded = pl.col("volume") > 0
    return (
        rows.group_by_dynamic("open_time", every=interval, offset=offset)
        .agg(
            *(pl.col(n).first() for n in rows.columns if n not in (*SUMS, *OWN)),
            pl.col("open").filter(traded).first(), pl.col("high").filter(traded).max(),
            pl.col("low").filter(traded).min(), pl.col("close").filter(traded).last(),
            pl.col("close_time").last(),
            pl.col(*SUMS).sum(),
        )
        .with_columns(interval=pl.lit(interval))
        .select(rows.columns)
    )  # fmt: skip


OWN = ("open_time", "open", "high", "low", "close", "close_time")


def test_weeks_months_and_three_days_are_held_against_days(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    days = aggregated(bars("AAA", "2024-01-01", 121, holes=0), "1d")
    days = days.filter(pl.col("open_time") != datetime(2024, 3, 20, tzinfo=UTC))
    wrong = pl.col("open_time") == datetime(2024, 2, 5, tzinfo=UTC)
    weeks = aggregated(days, "1w").with_columns(
        trades=pl.when(wrong).then(pl.col("trades") + 7).otherwise("trades"),
        high=pl.when(wrong).then(pl.col("high") * 2).otherwise("high"),
    )
    # The exchange's 3d bars open on days whose number since 1970 leaves 1 when divided by 3.
    threes, months = aggregated(days, "3d", "1d"), aggregated(days, "1mo")
    lake.put(days, weeks, threes, months)
    assess(lake.writer(), AssessmentRequest())
    with Reader(lake.writer().settings).lake.sql(
        'select "interval", sum(compared), sum(differing) from gold.quality '
        "where compared > 0 group by 1 order by 1"
    ) as result:
        # 1 Jan to 30 Apr: 18 weeks with the last one cut short, 41 times three days likewise; one
        # of each holds the day that is missing.
        assert result.pl().rows() == [("1mo", 3, 0), ("1w", 16, 1), ("3d", 39, 0)]
    found = ask(lake, 'select "column", "right" - "left" from gold.cross_checks order by 1')
    assert found["column"].to_list() == ["high", "trades"]
    assert found.row(1)[1] == 7


def ask(lake: BarLake, query: str) -> pl.DataFrame:
    with Reader(lake.writer().settings).lake.sql(query) as result:
        return result.pl()


def test_a_bar_that_finer_ones_contradict_is_an_anomaly_and_costs_once(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    minutes = bars("AAA", "2024-05-20", 1, interval="1m", holes=0)
    fifth = pl.col("open_time").dt.hour() == 5
    hours = aggregated(minutes, "1h").with_columns(
        close=pl.when(fifth).then((pl.col("high") + pl.col("low")) / 2).otherwise("close")
    )
    lake.put(minutes, hours)
    assess(lake.writer(), AssessmentRequest())
    found = ask(lake, "select hour(time), value, expected from gold.anomalies "
                      "where method = 'cross_interval'")  # fmt: skip
    assert found.row(0)[:1] == (5,)
    assert found.row(0)[1] == hours.filter(fifth)["close"].item()
    scored = ask(lake, "select differing, anomalies, normality, codes from gold.quality "
                       "where \"interval\" = '1h'")  # fmt: skip
    assert scored.rows() == [(1, 0, 1.0, "DIFFERS")]


def odd_bars() -> pl.DataFrame:
    """Two months of hours; in three of them everything is a little odd at once."""
    rows = bars("AAA", "2024-04-01", 61, holes=0).with_columns(
        volume=pl.lit(10.0) + pl.col("open_time").dt.hour() / 10,
        trades=pl.lit(100, dtype=pl.Int64),
    )
    rows = rows.with_columns(
        quote_volume=pl.col("volume") * (pl.col("open") + pl.col("close")) / 2,
        taker_buy_volume=pl.col("volume") * (0.45 + pl.col("open_time").dt.hour() / 240),
    )
    odd = pl.int_range(pl.len()).is_in([900, 1100, 1300])
    return rows.with_columns(
        high=pl.when(odd).then(pl.col("high") * 1.02).otherwise("high"),
        low=pl.when(odd).then(pl.col("low") * 0.98).otherwise("low"),
        volume=pl.when(odd).then(pl.col("volume") * 3).otherwise("volume"),
        trades=pl.when(odd).then(3).otherwise("trades"),
        taker_buy_volume=pl.when(odd).then(0.0).otherwise("taker_buy_volume"),
    )


def test_findings_of_the_forest_land_beside_those_of_the_statistics(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    rows = odd_bars()
    lake.put(rows)
    report = assess(lake.writer(), AssessmentRequest())
    assert report.warnings == []
    planted = rows["open_time"].gather([900, 1100, 1300]).to_list()
    found = ask(lake, "select time, score, reason from gold.anomalies "
                      "where method = 'isolation_forest' and time in (select unnest(?))"
                      .replace("?", str([f"{t:%Y-%m-%d %H:%M:%S}+00" for t in planted])
                      + "::timestamptz[]"))  # fmt: skip
    assert found.height == 3
    assert (found["score"] > 1).all()
    assert ask(lake, "select left_out from gold.assessments").item() is None
    # Another choice of methods is another assessment; what they found before is gone.
    settings = lake.writer().settings.model_copy(
        update={"quality": Settings(quality={"forest": "off"}).quality}
    )
    again = assess(Writer(settings), AssessmentRequest())
    assert (again.assessed, again.warnings) == (1, [])
    assert "off" in ask(lake, "select left_out from gold.assessments").item()
    assert ask(lake, "select * from gold.anomalies where method = 'isolation_forest'").is_empty()


def test_a_forest_finds_the_same_in_rows_held_at_once_and_read_twice(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    lake.put(odd_bars(), odd_bars().with_columns(symbol=pl.lit("BBB"), low=pl.col("low") * 0.99))
    pinned, kind = Pinned(Reader(lake.writer().settings).lake, SEEN), Kind(KLINES, "spot", "1h")
    lives = pinned.lives(kind)
    held, twice = (scan_with_forest(pinned, kind, lives, rows_at_once=n) for n in (10_000, 100))
    assert set(held["symbol"]) == {"AAA", "BBB"}
    assert held.equals(twice)


def test_without_scikit_learn_all_else_is_assessed_and_it_is_said_once(tmp_path: Path) -> None:
    lake = BarLake(tmp_path)
    lake.put(odd_bars(), bars("BBB", "2024-04-01", 61, holes=0))
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import sys; sys.modules['sklearn'] = None\n"
            "from lakehouse_ray.cli.app import main\nsys.exit(main())",
            "quality", "--json", "--threshold", "0",
        ],
        env=environment(HOME=tmp_path, COMPUTE__LOCAL_BYTES_MAX=MANY_BYTES),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (warning,) = json.loads(done.stdout)["run"]["warnings"]
    assert "scikit-learn is not installed" in warning
    assert set(ask(lake, "select left_out from gold.assessments")["left_out"]) == {
        "isolation_forest: scikit-learn is not installed"
    }
    methods = set(ask(lake, "select distinct method from gold.anomalies")["method"])
    assert methods
    assert "isolation_forest" not in methods
    # With it the same series are assessed again.
    assert assess(lake.writer(), AssessmentRequest()).assessed == 2


@pytest.mark.skipif(not ARCHIVE.is_dir(), reason="the real files are not on this machine")
def test_real_minutes_differ_from_their_trades_as_often_as_a_plain_count_says(
    make_lake: Any, tmp_path: Path
) -> None:
    root, symbols = tmp_path / "archive", ("ALPINEUSDT", "BSVUSDT", "CLUSDT")
    for symbol in symbols:
        for folder in ("aggTrades", "klines"):
            part = Path("data/futures/um/daily") / folder / symbol
            shutil.copytree(ARCHIVE / part, root / part)
    lake = make_lake(FolderArchive(root), forest="off")
    lake.ingest("daily", "klines", "1m")
    lake.ingest("daily", "aggTrades", None)
    lake.assess(dataset=DATASETS["klines"])
    (counts,) = lake.ask("select sum(compared), sum(differing) from gold.quality").rows()
    quiet = lake.ask(
        "select count(*) from silver.klines where trades = 0 and date_trunc('day', open_time) in "
        "(select date_trunc('day', transact_time) from silver.agg_trades t "
        "where t.symbol = klines.symbol)"
    ).item()
    # Minutes that count no trade have no trades to be held against.
    # What the trades themselves explain costs nothing.
    assert (counts[0] + quiet, counts[1]) == (25_920, 3)
    assert lake.ask("select count(distinct (symbol, time)) from gold.cross_checks").item() == 126
    found = lake.ask("select distinct symbol, time, reason from gold.cross_checks")
    kinds = Counter(re.sub(r"\d+", "n", reason) for reason in found["reason"])
    assert sorted(kinds.values()) == [3, 30, 39, 54]
