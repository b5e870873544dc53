"""Days cut out of every data set that REST has, and brought back by it: tables are those of the files.

Real files where there are any, of a market that never was for the others. The files are read by DuckDB
alone, cell by cell. When the files appear they take the place of what REST said.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from support.csv_truth import Stored, differences, truth

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.realtime_plan import UpdateRequest
from lakehouse_ray.pipeline.realtime_update import update
from lakehouse_ray.query.asked import ask_for
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import (
    FolderArchive,
    RateLimits,
    ReplicaExchange,
    SyntheticArchive,
)
from lakehouse_ray.testing.exchange.materialise import write_archive

pytestmark = pytest.mark.integration

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"
UM, CM, SPOT = "data/futures/um", "data/futures/cm", "data/spot"
# Of a made market more than is allowed is asked for at once: this is not about limits.
WEIGHT = 1_000_000
LIMITS = RateLimits(weight_per_minute=dict.fromkeys(("spot", "um", "cm"), WEIGHT))
KEY = "k" * 64
NOT_OF_COIN = "sum_taker_long_short_vol_ratio"


@dataclass(frozen=True)
class Case:
    """Files, some of which the bucket lacks at first.

    files: Patterns of keys that are taken. cut: Of these, what the bucket lacks.
    now: The exchange's time.
    asked: What is asked for, one after the other: market, data set, symbols, start and end.
    """

    files: tuple[str, ...]
    cut: tuple[str, ...]
    now: str
    asked: tuple[tuple[str | None, str | None, str | None, str | None, str], ...]


# What is quick, and the rest of it.
_REAL_QUICK = (
    f"{UM}/daily/klines/BSVUSDT/1m/.*-04-(09|1.).zip", f"{UM}/daily/metrics/BSVUSDT/.*-04-(09|1.).zip",
    f"{UM}/monthly/fundingRate/.*", f"{UM}/daily/aggTrades/BSVUSDT/.*-04-(09|10|11).zip",
    f"{SPOT}/daily/klines/ETHUSDT/5m/.*-11-0.*", f"{SPOT}/monthly/klines/BTCUSDT/1h/.*",
)  # fmt: skip
_REAL = (
    f"{UM}/daily/klines/.*", f"{UM}/daily/metrics/.*-2026-04-(09|[12].).zip",
    f"{UM}/monthly/fundingRate/.*", f"{UM}/daily/aggTrades/BSVUSDT/.*-04-(09|10|11).zip",
    f"{CM}/daily/aggTrades/.*", f"{SPOT}/.*",
)  # fmt: skip
_REAL_ASKED = (
    ("spot", None, None, None, "2026-05-08"),
    ("um", "klines", None, None, "2026-04-23"),
    ("um", "metrics", None, None, "2026-04-23T00:05"),
    ("um", "aggTrades", None, None, "2026-04-12"),
    ("um", "fundingRate", "BTCUSDT", "2026-04-01", "2026-05-01"),
)  # fmt: skip
_REAL_CUT = (
    f"{UM}/.*-2026-04-(10|14|15|19|21).zip", f"{UM}/monthly/.*", f"{CM}/.*",
    f"{SPOT}/.*-2022-(06-1|11-0[34]|12-2|12-30|01-1[57]).*", f"{SPOT}/.*-2020-01-02.zip",
    f"{SPOT}/monthly/.*-(2024-12|2025-02|2025-05).zip",
)  # fmt: skip
# Of each market, by what `write_archive` takes.
_DAYS = "2025-01-2[1-6].zip"
_MADE_QUICK = (
    f"*/um/daily/klines/*/1h/*{_DAYS}", f"*/um/daily/premiumIndexKlines/*/1h/*{_DAYS}",
    f"*/cm/daily/indexPriceKlines/*/5m/*{_DAYS}", f"*/cm/daily/markPriceKlines/*/1h/*{_DAYS}",
    f"*/um/daily/trades/*{_DAYS}", f"*/cm/daily/trades/*{_DAYS}", f"*/spot/daily/trades/*{_DAYS}",
    f"*/daily/aggTrades/*{_DAYS}", f"*/um/daily/metrics/*{_DAYS}", "*/cm/monthly/fundingRate/*",
)  # fmt: skip
_MADE = (
    *(f"*/daily/*{name}/*/{interval}/*{_DAYS}"
      for name in ("klines", "PriceKlines", "premiumIndexKlines") for interval in ("5m", "1h", "1d")),
    *(f"*/daily/{name}/*{_DAYS}" for name in ("aggTrades", "trades", "metrics")),
    *(f"*/monthly/{name}/*/{interval}/*"
      for name in ("klines", "markPriceKlines") for interval in ("3d", "1w", "1mo")),
    "*/monthly/fundingRate/*",
)  # fmt: skip
_MADE_CUT = (r".*-2025-01-2[346]\.zip", r".*-2024-11\.zip", r".*-2025-01\.zip")
_MADE_ASKED = (
    (None, None, None, None, "2025-01-27"),
    # The last sample of a day is of midnight.
    (None, "metrics", None, None, "2025-01-27T00:05"),
    (None, "fundingRate", None, None, "2025-02-01"),
)  # fmt: skip
_MADE_NOW = "2025-02-10T00:10"
CASES = {
    "real": Case(_REAL_QUICK, _REAL_CUT, "2026-05-09T00:01", _REAL_ASKED),
    "all real": Case(
        _REAL, _REAL_CUT, "2026-05-09T00:01",
        (*_REAL_ASKED, ("cm", "aggTrades", "BTCUSD_PERP", "2026-05-08", "2026-05-09")),
    ),
    "made": Case((".*",), _MADE_CUT, _MADE_NOW, _MADE_ASKED),
    "all made": Case(
        (".*",), _MADE_CUT, _MADE_NOW,
        (
            *_MADE_ASKED,
            (None, "klines", None, None, "2025-02-01"),
            (None, "markPriceKlines", None, None, "2025-02-01"),
        ),
    ),
}  # fmt: skip


class Then(SystemClock):
    def __init__(self, now: str) -> None:
        self._ahead_us = parse_time(now) - super().now_us()

    def now_us(self) -> int:
        return super().now_us() + self._ahead_us


class Stage:
    """A bucket that lacks files, REST that has what they say, and a lake."""

    def __init__(self, case: Case, source: Path, folder: Path) -> None:
        self.case = case
        self.whole, self.bucket, self.folder = folder / "whole", folder / "bucket", folder
        wanted = re.compile("|".join(case.files))
        cut = re.compile("|".join(case.cut))
        self.keys = [
            key
            for path in sorted(source.rglob("*.zip"))
            if wanted.fullmatch(key := path.relative_to(source).as_posix())
        ]
        self.cut = [key for key in self.keys if cut.fullmatch(key)]
        for key in self.keys:
            for name in (key, f"{key}.CHECKSUM"):
                for root in (self.whole, self.bucket):
                    if root == self.whole or key not in self.cut:
                        (root / name).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(source / name, root / name)

    def exchange(self) -> ReplicaExchange:
        return ReplicaExchange(
            FolderArchive(self.bucket), rest_archive=FolderArchive(self.whole),
            clock=Then(self.case.now), limits=LIMITS,
        )  # fmt: skip

    def lake(self, url: str) -> Writer:
        urls = dict.fromkeys(("archive_url", "spot_url", "um_url", "cm_url"), url)
        weights = {f"{market}_weight_max": WEIGHT for market in ("spot", "um", "cm")}
        return Writer(
            Settings(
                home=self.folder / "home", binance={**urls, "api_key": KEY}, update=weights,
                compute={"local_bytes_max": 1 << 40},
            ).resolved()
        )  # fmt: skip

    def bring(self, lake: Writer) -> None:
        """Ingest all that the bucket has."""
        present = {Stored.of(key) for key in self.keys if (self.bucket / key).is_file()}
        for market, dataset, interval in sorted(
            {(one.market, one.dataset, one.interval or "") for one in present}
        ):
            selection = Selection(DATASETS[dataset], market, interval or None)  # type: ignore[arg-type]
            assert not ingest(lake, IngestRequest(selection)).partial

    def fill(self, lake: Writer) -> None:
        reports = []
        for market, dataset, symbols, start, end in self.case.asked:
            start_us = parse_time(start) if start else None
            asked = ask_for(market, dataset, None, symbols, start_us, parse_time(end))
            reports.append(update(lake, UpdateRequest(asked, build=False)))
        for report in reports:
            assert not report.partial, report.reasons
            assert not report.refused, report.reasons

    def assert_told_as_by_files(self, lake: Writer) -> pl.DataFrame:
        """Every cell of every data set that its source has; returns how many rows are from where."""
        groups: dict[tuple[str, str], list[str]] = {}
        for key in self.keys:
            one = Stored.of(key)
            groups.setdefault((one.market, one.dataset), []).append(key)
        sources = []
        for (market, dataset), keys in groups.items():
            found = rows_of(lake, dataset).filter(market=market)
            wanted = truth(self.whole, keys, self.folder / "csv" / market / dataset)
            if (market, dataset) == ("cm", "metrics"):
                # REST does not tell it, so nothing is told of it.
                by_rest = found.filter(source="rest").select(own := ["symbol", "create_time"])
                told = wanted.join(by_rest.with_columns(_=True), on=own, how="left")["_"]
                wanted = wanted.with_columns(
                    pl.when(told.is_null()).then(NOT_OF_COIN).alias(NOT_OF_COIN)
                )
            assert differences(found, wanted) == (0, 0), (market, dataset)
            sources.append(
                found.group_by("market", pl.lit(dataset).alias("dataset"), "symbol", "source").len()
            )
        return pl.concat(sources)


def rows_of(lake: Writer, dataset: str) -> pl.DataFrame:
    """Of all tables of a data set, as PyIceberg reads them."""
    catalog = SqlCatalog("lakehouse", uri=lake.settings.catalog_uri)
    frames = [
        pl.scan_iceberg(found.metadata_location, reader_override="pyiceberg").collect()
        for table in DATASETS[dataset].tables
        if (found := lake.catalog.find(table.name) and catalog.load_table(table.name))
    ]
    return pl.concat(frames, how="diagonal")


def made(folder: Path, files: tuple[str, ...] = _MADE) -> Path:
    """A market that never was, of which there are all data sets."""
    archive = SyntheticArchive(
        5, ["BTCUSDT", "BTCUSD_PERP"], start=date(2024, 10, 20), end=date(2025, 2, 10),
        trades_per_minute=1,
    )  # fmt: skip
    for match in files:
        write_archive(archive, folder, "data/", match)
    for path in (folder / UM / "daily/metrics/BTCUSDT").glob("*.zip"):
        as_of_coin(path, folder / CM / "daily/metrics/BTCUSD_PERP")
    return folder


def as_of_coin(path: Path, folder: Path) -> None:
    """The same samples, of COIN-M, of which that market has none."""
    folder.mkdir(parents=True, exist_ok=True)
    name = path.name.replace("BTCUSDT", "BTCUSD_PERP")
    with zipfile.ZipFile(path) as zipped:
        text = zipped.read(zipped.namelist()[0]).replace(b"BTCUSDT", b"BTCUSD_PERP")
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(name.replace(".zip", ".csv"), text)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / f"{name}.CHECKSUM").write_text(f"{digest}  {name}\n")


@pytest.mark.parametrize(
    "name",
    [
        "real",
        "made",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("all real", "all made")),
    ],
)
def test_what_files_lack_comes_by_rest_cell_by_cell_until_files_appear(
    name: str, tmp_path: Path
) -> None:
    if "real" in name and not ARCHIVE.is_dir():
        pytest.skip("no real files here")
    files = _MADE_QUICK if name == "made" else _MADE
    source = ARCHIVE if "real" in name else made(tmp_path / "made", files)
    stage = Stage(CASES[name], source, tmp_path)
    assert stage.cut
    with stage.exchange() as exchange:
        lake = stage.lake(exchange.url)
        stage.bring(lake)
        stage.fill(lake)
        told = stage.assert_told_as_by_files(lake)
        by_rest = told.filter(source="rest").group_by("market", "dataset").agg(pl.col("len").sum())
        print(by_rest.sort("market", "dataset"))
        assert not any(limits["refused"] for limits in exchange.told_limits().values())

        shutil.copytree(stage.whole, stage.bucket, dirs_exist_ok=True)
        stage.bring(lake)
        told = stage.assert_told_as_by_files(lake)
        assert set(told["source"]) <= {"daily", "monthly"}
    sealed = Reader(lake.settings).lake.sql(
        "SELECT market, dataset, sum(rows)::BIGINT AS rows, sum(rows_different)::BIGINT AS different "
        "FROM gold.live_comparisons WHERE source = 'rest' GROUP BY ALL"
    ).pl()  # fmt: skip
    differ = sealed.filter(pl.col("different") > 0)
    assert differ.select("market", "dataset").rows() in ([], [("cm", "metrics")])
    # More are compared: what lies between two gaps comes along, and the files' rows stay.
    compared = sealed.join(by_rest, on=["market", "dataset"], how="full", coalesce=True)
    assert compared.filter(pl.col("rows").fill_null(0) < pl.col("len").fill_null(0)).is_empty()


def test_what_rest_said_otherwise_than_the_file_is_kept_with_both_values(tmp_path: Path) -> None:
    source = tmp_path / "made"
    archive = SyntheticArchive(
        5, ["BTCUSDT"], ["um"], date(2025, 1, 1), date(2025, 1, 4), trades_per_minute=1
    )
    write_archive(archive, source, f"{UM}/daily/klines/", "*/1h/*")
    asked = ((None, None, None, None, "2025-01-04"),)
    case = Case((".*",), (".*-2025-01-02.zip",), "2025-01-04T00:10", asked)
    stage = Stage(case, source, tmp_path)
    [key] = stage.cut
    before = truth(stage.whole, [key], tmp_path / "csv")
    _more_volume(stage.whole / key, lines=(3, 7))
    with stage.exchange() as exchange:
        lake = stage.lake(exchange.url)
        stage.bring(lake)
        stage.fill(lake)
        shutil.copy(source / key, stage.bucket / key)
        shutil.copy(source / f"{key}.CHECKSUM", stage.bucket / f"{key}.CHECKSUM")
        stage.bring(lake)
    found = Reader(lake.settings).lake.sql(
        'SELECT hour(time) AS hour, symbol, "column", live::DOUBLE AS live, final::DOUBLE AS final, '
        "source, final_source FROM gold.live_differences ORDER BY time"
    ).pl()  # fmt: skip
    volumes = dict(before.select(pl.col("open_time").dt.hour(), "volume").iter_rows())
    assert found.rows() == [
        (hour, "BTCUSDT", "volume", volumes[hour] + 1000.0, volumes[hour], "rest", "daily")
        for hour in (3, 7)
    ]


def _more_volume(path: Path, lines: tuple[int, ...]) -> None:
    """Raise the volume of some bars of a file by 1,000."""
    with zipfile.ZipFile(path) as zipped:
        [name] = zipped.namelist()
        rows = [line.split(",") for line in zipped.read(name).decode().splitlines()]
    first = 0 if rows[0][0].isdigit() else 1
    for line in lines:
        cells = rows[first + line]
        cells[5] = str(float(cells[5]) + 1000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(name, "\n".join(map(",".join, rows)) + "\n")
