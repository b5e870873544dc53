"""Days cut out of real files, served by REST alone: the tables are those of the uncut archive.

The uncut archive is ingested into a lake of its own; both are read by PyIceberg.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import ray
from pyiceberg.catalog.sql import SqlCatalog
from support.failing import Crashed, FailingCommitter, FailingWriter, crash
from support.live_lake import LiveLake
from support.live_rows import live_rows
from support.live_rows import version as live_version

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, MINUTE_US, parse_time
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.realtime_plan import UpdateRequest
from lakehouse_ray.pipeline.realtime_update import dry_run, update
from lakehouse_ray.pipeline.repairing import repair
from lakehouse_ray.query.asked import ask_for
from lakehouse_ray.query.verify import verify
from lakehouse_ray.runtime.shared import NAMESPACE
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import (
    Faults,
    FolderArchive,
    RateLimits,
    ReplicaExchange,
    Rule,
)

pytestmark = pytest.mark.integration

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
if not ARCHIVE.is_dir():
    pytest.skip("no real files here", allow_module_level=True)

UM = "data/futures/um/daily"
FOLDERS = (
    f"{UM}/klines/BSVUSDT/1m", f"{UM}/klines/CLUSDT/1m", f"{UM}/aggTrades/BSVUSDT",
    "data/spot/monthly/klines/BTCUSDT/1h",
)  # fmt: skip
CUT = ("2026-04-10", "2026-04-11", "2026-04-15", "2026-04-19", "2025-02", "2024-12", "2025-05")
# Enough of them: each has some ten thousand. The last but one is there, so that its hole is seen at once.
DAYS_OF_TRADES = ("2026-04-09", "2026-04-10", "2026-04-12", "2026-04-18", "2026-04-19")
SERIES = (
    ("um", "klines", "1m"),
    ("um", "aggTrades", None),
    ("spot", "klines", "1h"),
)
TABLES = ("silver.klines_fine", "silver.klines_coarse", "silver.agg_trades")
KEYS = ("market", "symbol", "interval", "open_time", "transact_time", "agg_trade_id")
SOURCES = ("source", "source_key", "source_version")
# Where hours of ten days are asked for twice and it is not about limits: it would wait for minutes.
MUCH = 1_000_000
LIMITS = RateLimits(weight_per_minute=dict.fromkeys(("spot", "um", "cm"), MUCH))


class Then(SystemClock):
    """The exchange's clock: the morning after the last of the days."""

    def __init__(self) -> None:
        self._begun_us = super().now_us()

    def now_us(self) -> int:
        return parse_time("2026-04-20T00:01") + super().now_us() - self._begun_us


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The whole of some folders, and the same without some days."""
    whole, cut = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cut")
    for folder in FOLDERS:
        for file in (ARCHIVE / folder).iterdir():
            if "aggTrades" in folder and not any(day in file.name for day in DAYS_OF_TRADES):
                continue
            (whole / folder).mkdir(parents=True, exist_ok=True)
            (cut / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, whole / folder)
            if not any(day in file.name for day in CUT):
                shutil.copy(file, cut / folder)
    return whole, cut


@pytest.fixture(scope="module")
def truth(roots: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A lake of the uncut archive."""
    with ReplicaExchange(FolderArchive(roots[0])) as exchange:
        lake = writer(exchange.url, tmp_path_factory.mktemp("truth"))
        bring(lake)
    return lake


@pytest.fixture
def exchange(roots: tuple[Path, Path], tmp_path: Path) -> Iterator[ReplicaExchange]:
    """The bucket lacks days that REST has."""
    shutil.copytree(roots[1], tmp_path / "bucket")
    with ReplicaExchange(
        FolderArchive(tmp_path / "bucket"), rest_archive=FolderArchive(roots[0]), clock=Then()
    ) as running:
        yield running


def writer(url: str, home: Path, **more: Any) -> Writer:
    urls = dict.fromkeys(("archive_url", "spot_url", "um_url", "cm_url"), url)
    return Writer(Settings(home=home, binance=urls, compute={"local_bytes_max": 1 << 40}, **more))


def bring(lake: Writer) -> None:
    for market, dataset, interval in SERIES:
        report = ingest(lake, IngestRequest(Selection(DATASETS[dataset], market, interval)))  # type: ignore[arg-type]
        assert not report.partial


def everything(**options: bool) -> UpdateRequest:
    return UpdateRequest(ask_for(end_us=parse_time("2026-04-20")), **options)


def table(lake: Writer, name: str) -> pl.DataFrame:
    found = SqlCatalog("lakehouse", uri=lake.settings.catalog_uri).load_table(name)
    frame = pl.scan_iceberg(found.metadata_location, reader_override="pyiceberg").collect()
    return frame.sort([key for key in KEYS if key in frame.columns])


def assert_as(lake: Writer, truth: Writer, *, sources: bool = False) -> None:
    for name in TABLES:
        left, right = table(lake, name), table(truth, name)
        assert left.height == right.height, name
        keys = [key for key in KEYS if key in left.columns]
        assert not left.select(keys).is_duplicated().any()
        dropped = () if sources else SOURCES
        assert left.drop(dropped).equals(right.drop(dropped)), name


def times_of_rest(frame: pl.DataFrame) -> pl.Series:
    time = "open_time" if "open_time" in frame.columns else "transact_time"
    return frame.filter(source="rest")[time].dt.strftime("%Y-%m-%d")


def test_days_that_files_lack_come_by_rest_and_files_win_when_they_appear(
    roots: tuple[Path, Path], exchange: ReplicaExchange, truth: Writer, tmp_path: Path
) -> None:
    # What it has no rows of is told at once for good: nothing is left to ask for.
    lake = writer(exchange.url, tmp_path / "home", update={"absent_again_s": 0})
    bring(lake)
    before = {name: table(lake, name).height for name in TABLES}

    plan = dry_run(lake, everything())
    assert plan.series == 4
    assert {one.kind for one in plan.planned} == {"gap", "tail"}
    report = update(lake, everything())
    assert not report.partial
    assert not report.reasons
    assert report.rows == sum(table(lake, name).height - before[name] for name in TABLES)
    assert_as(lake, truth)
    for name in TABLES:
        found = table(lake, name)
        days = times_of_rest(found)
        assert days.len() == found.height - before[name]
        assert all(any(day.startswith(cut) for cut in CUT) for day in days.unique())
    told = exchange.told_limits()
    assert told["um"]["refused"] == told["spot"]["refused"] == 0

    asked = dict(exchange.told_limits()["um"])
    again = update(lake, everything())
    assert (again.rows, again.requests, again.gaps) == (0, 0, 0)
    assert exchange.told_limits()["um"]["requests"] - asked["requests"] <= 1  # the time of day

    shutil.copytree(roots[0], tmp_path / "bucket", dirs_exist_ok=True)
    bring(lake)
    assert_as(lake, truth)
    for name in TABLES:
        assert set(table(lake, name)["source"]) <= {"daily", "monthly"}


def test_every_row_of_rest_leads_to_the_answer_that_gave_it(
    exchange: ReplicaExchange, tmp_path: Path
) -> None:
    lake = writer(exchange.url, tmp_path / "home")
    report = ingest(lake, IngestRequest(Selection(DATASETS["klines"], "um", "1m", ("BSVUSDT",))))
    assert report.rows
    update(lake, UpdateRequest(ask_for("um", "klines", "1m", end_us=parse_time("2026-04-20"))))
    rows = table(lake, "silver.klines_fine").filter(source="rest")
    log = table(lake, "bronze.object_log").filter(freq="rest", state="built")
    for key, version in rows.select("source_key", "source_version").unique().iter_rows():
        [entry] = log.filter(key=key, version=version).head(1).to_dicts()
        data = lake.store.get(entry["path"])
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        lines = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        bodies = [json.loads(line["body"]) for line in lines if "body" in line]
        told = {bar[0]: bar for body in bodies for bar in body}
        mine = rows.filter(source_key=key, source_version=version)
        for row in mine.head(50).iter_rows(named=True):
            bar = told[int(row["open_time"].timestamp() * 1000)]
            assert float(bar[1]) == row["open"]
            assert float(bar[5]) == row["volume"]
    told = Reader(lake.settings.resolved()).lake.why("BSVUSDT", "2026-04-10T12:00", "1m", "um")
    [first, *_] = told["rows"][0]["objects"]
    assert (first["verdict"], first["freq"]) == ("gave the row", "rest")
    [answer] = first["answers"]
    assert "/fapi/v1/klines?symbol=BSVUSDT&interval=1m" in answer["url"]
    assert json.loads(answer["record"])[0] == parse_time("2026-04-10T12:00") // 1000
    assert not verify(Reader(lake.settings.resolved()).lake, deep=True).problems


def test_a_symbol_that_is_not_stored_comes_from_its_start_on(
    exchange: ReplicaExchange, truth: Writer, tmp_path: Path
) -> None:
    lake = writer(exchange.url, tmp_path / "home")
    asked = ask_for(
        "um", "klines", "1m", "BSVUSDT,NOSUCHUSDT", parse_time("2026-04-10"), parse_time("2026-04-12")
    )  # fmt: skip
    report = update(lake, UpdateRequest(asked))
    assert report.reasons == {"INVALID_SYMBOL": 1}
    assert not report.partial
    found = table(lake, "silver.klines_fine")
    expected = table(truth, "silver.klines_fine").filter(
        pl.col("symbol") == "BSVUSDT",
        pl.col("open_time").dt.strftime("%Y-%m-%d").is_in(["2026-04-10", "2026-04-11"]),
    )
    assert found.drop(SOURCES).equals(expected.drop(SOURCES))


def test_a_symbol_whose_first_range_was_not_answered_is_gone_on_with(
    roots: tuple[Path, Path], truth: Writer, tmp_path: Path
) -> None:
    """Later ranges are stored by then, and no row tells that there were earlier ones."""
    start_us, end_us = parse_time("2026-04-10"), parse_time("2026-04-12")
    request = UpdateRequest(ask_for("um", "klines", "1m", "BSVUSDT", start_us, end_us), build=False)
    spoiled = Rule(f"fapi/v1/klines?symbol=BSVUSDT&*startTime={start_us // 1000}&*", "html_page")
    archives = FolderArchive(roots[1]), FolderArchive(roots[0])
    few = {"attempts_max": 2, "unit_requests_max": 2}
    name, time = "silver.klines_fine", pl.col("open_time").dt.epoch("us")
    with ReplicaExchange(
        archives[0], Faults((spoiled,)), rest_archive=archives[1], clock=Then()
    ) as exchange:
        lake = writer(exchange.url, tmp_path / "home", update=few)
        assert update(lake, request).partial
        assert table(lake, name)["open_time"].dt.epoch("us").min() > start_us  # type: ignore[operator]
    with ReplicaExchange(archives[0], rest_archive=archives[1], clock=Then()) as exchange:
        lake = writer(exchange.url, tmp_path / "home", update=few)
        later = update(lake, request)
        assert (later.partial, later.skipped) == (False, {})
        asked = sum(exchange.requests().values())
        update(lake, request)
        assert sum(exchange.requests().values()) == asked + 1, "the time alone"
    expected = table(truth, name).filter(
        pl.col("symbol") == "BSVUSDT", time.is_between(start_us, end_us - 1)
    )
    assert table(lake, name).drop(SOURCES).equals(expected.drop(SOURCES))


def test_spoiled_answers_of_one_series_keep_no_other_from_coming(
    roots: tuple[Path, Path], truth: Writer, tmp_path: Path
) -> None:
    rule = Rule("fapi/v1/klines?symbol=CLUSDT*", "html_page")
    archives = FolderArchive(roots[1]), FolderArchive(roots[0])
    with ReplicaExchange(
        archives[0], Faults((rule,)), rest_archive=archives[1], clock=Then()
    ) as exchange:
        lake = writer(exchange.url, tmp_path / "home", update={"attempts_max": 2})
        ingest(lake, IngestRequest(Selection(DATASETS["klines"], "um", "1m")))
        asked = ask_for("um", "klines", "1m", end_us=parse_time("2026-04-20"))
        report = update(lake, UpdateRequest(asked, build=False))
    assert report.partial
    assert report.reasons["NOT_AN_ANSWER"] == report.refused > 0
    refused = table(lake, "silver.quarantine_log")
    assert set(refused["symbol"]) == {"CLUSDT"}
    others = pl.col("symbol") != "CLUSDT"
    name = "silver.klines_fine"
    left, right = table(lake, name).filter(others), table(truth, name).filter(others)
    assert left.drop(SOURCES).equals(right.drop(SOURCES))
    with ReplicaExchange(archives[0], rest_archive=archives[1], clock=Then()) as exchange:
        later = update(
            writer(exchange.url, tmp_path / "home"), UpdateRequest(asked, again=True, build=False)
        )
    assert not later.partial
    assert table(lake, name).drop(SOURCES).equals(table(truth, name).drop(SOURCES))


def test_rows_that_the_exchange_could_not_tell_for_a_while_are_asked_for_again(
    roots: tuple[Path, Path], truth: Writer, tmp_path: Path
) -> None:
    """An answer without rows is no failure, but of what has just happened it is not the last word."""
    archives = FolderArchive(roots[1]), FolderArchive(roots[0])
    faults = Faults((Rule("fapi/v1/*", "empty_list"),))
    asked = ask_for("um", end_us=parse_time("2026-04-20"))
    more: Any = {"update": {"um_weight_max": MUCH}}
    with ReplicaExchange(
        archives[0], faults, rest_archive=archives[1], clock=Then(), limits=LIMITS
    ) as exchange:
        lake = writer(exchange.url, tmp_path / "home", **more)
        for dataset, interval in (("klines", "1m"), ("aggTrades", None)):
            ingest(lake, IngestRequest(Selection(DATASETS[dataset], "um", interval)))
        empty = update(lake, UpdateRequest(asked, build=False))
    assert (empty.rows, empty.partial) == (0, False)
    assert empty.absent_seconds > 0
    with ReplicaExchange(
        archives[0], rest_archive=archives[1], clock=Then(), limits=LIMITS
    ) as exchange:
        lake = writer(exchange.url, tmp_path / "home", **more)
        later = update(lake, UpdateRequest(asked, build=False))
        assert not later.partial
        asked_us = exchange.clock.now_us()
    for name, time in (("silver.klines_fine", "open_time"), ("silver.agg_trades", "transact_time")):
        since = pl.col(time).dt.epoch("us") >= asked_us - DAY_US + MINUTE_US
        found = table(lake, name).filter(since)
        expected = table(truth, name).filter(since)
        assert found.drop(SOURCES).equals(expected.drop(SOURCES))
        assert set(found["source"]) == {"rest"}


@pytest.mark.parametrize(
    ("name", "number", "after"),
    [
        ("bronze.object_log", 1, False),
        ("silver.klines_fine", 1, True),
        ("bronze.object_log", 2, False),
        pytest.param("bronze.object_log", 1, True, marks=pytest.mark.slow),
        pytest.param("silver.klines_fine", 1, False, marks=pytest.mark.slow),
        pytest.param("bronze.object_log", 2, True, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_commit_the_next_run_ends_it(
    exchange: ReplicaExchange, truth: Writer, tmp_path: Path, name: str, number: int, after: bool
) -> None:
    lake = writer(exchange.url, tmp_path / "home")
    ingest(lake, IngestRequest(Selection(DATASETS["klines"], "um", "1m", ("BSVUSDT",))))
    request = UpdateRequest(
        ask_for("um", "klines", "1m", end_us=parse_time("2026-04-20")), build=False
    )
    dying = FailingWriter(lake.settings)
    hook = {"after" if after else "before": crash}
    around = {name: lambda inner: FailingCommitter(inner, number, **hook)}
    object.__setattr__(dying, "around", around)
    with pytest.raises(Crashed):
        update(dying, request)
    answered = exchange.told_limits()["um"]["requests"]
    report = update(lake, request)
    assert not report.partial
    symbol = pl.col("symbol") == "BSVUSDT"
    expected = table(truth, "silver.klines_fine").filter(symbol)
    assert table(lake, "silver.klines_fine").drop(SOURCES).equals(expected.drop(SOURCES))
    log = table(lake, "bronze.object_log").filter(freq="rest")
    ended = log.filter(state="built").select("key", "version", "unit_id").unique()
    left = log.filter(state="received").join(ended, on=["key", "version", "unit_id"], how="anti")
    assert left.is_empty()
    if (name, number, after) != ("bronze.object_log", 1, False):
        # Its answers were in the ledger: none is asked for again.
        assert exchange.told_limits()["um"]["requests"] - answered <= 1
    assert update(lake, request).requests == 0


def test_a_ban_that_one_run_was_told_keeps_the_next_from_asking(
    roots: tuple[Path, Path], tmp_path: Path
) -> None:
    # One after the other: what is on its way when the ban comes is told of it as well.
    patience = {"quiet_max_s": 5.0, "requests_in_flight": 1}
    rule = Rule("fapi/v1/klines*", "banned", times=1, params={"ban_s": 600.0})
    with ReplicaExchange(
        FolderArchive(roots[1]), Faults((rule,)), rest_archive=FolderArchive(roots[0]), clock=Then()
    ) as exchange:
        lake = writer(exchange.url, tmp_path / "home", update=patience)
        ingest(lake, IngestRequest(Selection(DATASETS["klines"], "um", "1m", ("BSVUSDT",))))
        request = UpdateRequest(ask_for("um", "klines", "1m", end_us=parse_time("2026-04-20")))
        report = update(lake, request)
        assert report.failed > 0
        asked = exchange.told_limits()["um"]["requests"]
        again = writer(exchange.url, tmp_path / "home", update=patience)
        with pytest.raises(UnavailableError) as caught:
            update(again, request)
        assert caught.value.retry_after_s is not None
        assert exchange.told_limits()["um"]["requests"] == asked
        assert exchange.told_limits()["um"]["while_banned"] == 0


def test_live_rows_of_hours_that_are_over_are_folded_first(
    exchange: ReplicaExchange, tmp_path: Path
) -> None:
    live, klines = LiveLake(tmp_path / "home"), DATASETS["klines"]
    start_us = parse_time("2026-04-09")
    rows = [(start_us + n * MINUTE_US, 1.0, live_version(1)) for n in range(60)]
    frame = live_rows(klines, rows, source="stream", symbol="BSVUSDT", interval="1m")
    live.append(klines, frame)
    lake = writer(exchange.url, tmp_path / "home")
    asked = ask_for(market="um", dataset="klines", end_us=start_us + HOUR_US)
    report = update(lake, UpdateRequest(asked, build=False))
    assert report.folded is not None
    assert (report.folded.rows, report.folded.merged.rows, report.rows) == (60, 60, 0)
    assert table(lake, "silver.klines_fine").height == 60
    assert update(lake, UpdateRequest(asked, build=False)).folded.rows == 0  # type: ignore[union-attr]


def test_lost_rows_of_rest_come_back_from_bronze_and_nobody_is_asked(
    exchange: ReplicaExchange, truth: Writer, tmp_path: Path
) -> None:
    # Nothing is left to ask for, so no row may come from another answer than before.
    lake = writer(exchange.url, tmp_path / "home", update={"absent_again_s": 0})
    bring(lake)
    assert update(lake, everything()).rows > 0
    before = {name: table(lake, name) for name in TABLES}
    gone = [
        path
        for name in TABLES
        for path in (tmp_path / "home/data/tables" / name.replace(".", "/")).rglob("*.parquet")
    ]
    for path in gone:
        path.unlink()
    told = {market: dict(limits) for market, limits in exchange.told_limits().items()}
    crashing = FailingWriter(lake.settings)
    hook = {"silver.agg_trades": lambda c: FailingCommitter(c, 1, after=crash)}
    object.__setattr__(crashing, "around", hook)
    with pytest.raises(Crashed):
        repair(crashing)
    report = repair(lake)
    assert not any(one.refused for one in report.repairs)
    assert sum(one.answers for one in report.repairs) > 0
    assert exchange.told_limits() == told
    # What was told to the ledger by the one that was killed is an update's to end.
    update(lake, everything())
    bring(lake)
    for name in TABLES:
        assert table(lake, name).equals(before[name]), name
    assert_as(lake, truth)
    assert not repair(lake).repairs


@pytest.mark.usefixtures("ray_session")
def test_workers_on_ray_share_one_account(
    exchange: ReplicaExchange, truth: Writer, tmp_path: Path
) -> None:
    lake = writer(exchange.url, tmp_path / "home", update={"unit_requests_max": 3})
    ingest(lake, IngestRequest(Selection(DATASETS["klines"], "um", "1m")))
    on_ray = Writer(
        lake.settings.model_copy(
            update={
                "compute": lake.settings.compute.model_copy(
                    update={"local_bytes_max": 0, "actors": 2, "profile": "small"}
                )
            }
        ).resolved()
    )
    asked = ask_for("um", "klines", "1m", end_us=parse_time("2026-04-20"))
    report = update(on_ray, UpdateRequest(asked, build=False))
    assert (report.executor, report.actors) == ("ray", 2)
    assert not report.partial
    found, expected = (table(one, "silver.klines_fine").drop(SOURCES) for one in (lake, truth))
    assert found.equals(expected)
    name = f"budget-{on_ray.exchange_name}"
    actor = ray.get_actor(name, namespace=NAMESPACE)
    used = ray.get(actor.call.remote("used", ("um",), {}))
    told = exchange.told_limits()["um"]
    # The time of the day was asked for by this process.
    assert used["weight"][0] >= sum(told["windows"].values()) - 1 > 0
    assert told["refused"] == 0
    ray.kill(actor, no_restart=True)
