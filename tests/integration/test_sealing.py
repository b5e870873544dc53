"""The archive's rows take the place of live ones, and what those said otherwise is kept: all of it,
and nothing twice, wherever a run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.commands import MANY_BYTES
from support.failing import Crashed, FailingCommitter, crash
from support.live_lake import LiveLake
from support.live_rows import version

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.live import LIVE_COMPARISON_LOG, LIVE_DIFFERENCE_LOG
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.commits import TableCommitter
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.settings import load_settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import ReplicaExchange, SyntheticArchive

pytestmark = pytest.mark.integration

KLINES, TRADES = DATASETS["klines"], DATASETS["trades"]
SELECTIONS = {"klines": Selection(KLINES, "spot", "1h"), "trades": Selection(TRADES, "spot", None)}
FINE_OF = {"klines": "silver.klines_coarse", "trades": "silver.trades"}
VALUE = {"klines": "close", "trades": "price"}
RUN = ("run_id", "compared_at")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    archive = SyntheticArchive(
        3, ["BTCUSDT", "ETHUSDT"], ["spot"], date(2025, 1, 30), date(2025, 2, 2),
        trades_per_minute=1,
    )  # fmt: skip
    with ReplicaExchange(archive) as server:
        yield server.url


class Lake(LiveLake):
    """A lake that also ingests from an archive."""

    def __init__(self, home: Path, url: str) -> None:
        super().__init__(home)
        self._settings = {
            "home": home,
            "binance": {"archive_url": url},
            "compute": {"local_bytes_max": MANY_BYTES},
            "ingest": {
                "unit_bytes_max": 1 << 16,
                "units_per_commit": 1,
            },
        }

    def writer(self, around=None):  # type: ignore[no-untyped-def]
        writer = super().writer(around)
        object.__setattr__(writer, "settings", load_settings(self._settings).resolved())
        return writer

    def ingest(self, name: str, around=None) -> IngestReport:  # type: ignore[no-untyped-def]
        return ingest(self.writer(around), IngestRequest(SELECTIONS[name], "daily"))

    def view(self, name: str) -> pl.DataFrame:
        frame = self.connect().sql(f"SELECT * FROM gold.{name}").pl()
        return frame.drop(RUN, strict=False)


@pytest.fixture(scope="module")
def finals(url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """The archive's rows."""
    lake = Lake(tmp_path_factory.mktemp("final"), url)
    found = {}
    for name in SELECTIONS:
        lake.ingest(name)
        rows = lake.connect().sql(f"SELECT * FROM silver.{DATASETS[name].view}").pl()
        found[name] = rows.drop("base_volume", "taker_buy_base_volume", strict=False)
    assert "gold.live_comparison_log" not in lake.writer().catalog.names()
    return found


def as_live(dataset: Dataset, final: pl.DataFrame, source: str) -> pl.DataFrame:
    """Two thirds of the rows as they came live: every tenth of them with another value; those of an
    hour in one answer."""
    time, value = pl.col(dataset.time), VALUE[dataset.name]
    second = time.dt.hour().cast(pl.Int64)
    versions = {n: version(n) for n in range(24)}
    place = pl.int_range(pl.len())
    rows = final.sort("symbol", dataset.time).filter(place % 3 != 0)
    series = [source, "spot", dataset.name]
    return rows.with_columns(
        pl.when(place % 10 == 0).then(pl.col(value) * 1.25).otherwise(value).alias(value),
        source=pl.lit(source),
        source_key=pl.lit("/".join(series) + "/") + pl.col("symbol"),
        source_version=second.replace_strict(versions, return_dtype=pl.String),
    )


def planted(dataset: Dataset, live: pl.DataFrame, final: pl.DataFrame) -> pl.DataFrame:
    value, key = VALUE[dataset.name], ["symbol", *dict.fromkeys((dataset.time, *dataset.key))]
    both = live.join(final, on=key, suffix="_final")
    return both.filter(pl.col(value) != pl.col(f"{value}_final")).select(
        "symbol", pl.col(dataset.time).alias("time"),
        live=pl.col(value).cast(pl.String), final=pl.col(f"{value}_final").cast(pl.String),
    ).sort("symbol", "time", "live")  # fmt: skip


def assert_told(lake: Lake, dataset: Dataset, live: pl.DataFrame, final: pl.DataFrame) -> None:
    wanted = planted(dataset, live, final)
    assert 3 < wanted.height < live.height / 5
    told = lake.view("live_differences")
    assert told["column"].unique().to_list() == [VALUE[dataset.name]]
    found = told.select("symbol", "time", "live", "final").sort("symbol", "time", "live")
    assert_frame_equal(found, wanted, check_exact=True)
    assert set(told["final_source"]) == {"daily"}
    assert told["relative"].to_list() == pytest.approx([0.2] * told.height)
    groups = lake.view("live_comparisons")
    hours = live.group_by("symbol", pl.col(dataset.time).dt.truncate("1h")).len()
    assert groups.height == hours.height
    (row,) = lake.view("live_accuracy").iter_rows(named=True)
    assert (row["rows"], row["rows_different"]) == (live.height, wanted.height)
    assert row["relative_max"] == pytest.approx(0.2)
    assert row["symbols"] == 2


@pytest.mark.parametrize("name", SELECTIONS)
def test_what_live_rows_said_otherwise_is_kept_and_summed_up(
    url: str, finals: dict[str, pl.DataFrame], tmp_path: Path, name: str
) -> None:
    dataset, final = DATASETS[name], finals[name]
    lake = Lake(tmp_path, url)
    live = as_live(dataset, final, "rest")
    lake.merge(dataset, live)
    report = lake.ingest(name)
    assert (report.live_rows, report.rows_replaced) == (live.height, live.height)
    assert report.live_rows_different == planted(dataset, live, final).height
    assert_told(lake, dataset, live, final)
    rows = lake.connect().sql(f"SELECT * FROM silver.{dataset.view}").pl()
    order = ["symbol", dataset.time, *dataset.key]
    columns = [c for c in final.columns if c != "source_version"]
    assert_frame_equal(rows.select(columns).sort(order), final.select(columns).sort(order))
    assert lake.ingest(name).live_rows == 0


def test_live_rows_that_come_after_the_archives_are_compared_too(
    url: str, finals: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    lake, final = Lake(tmp_path, url), finals["klines"]
    live = as_live(KLINES, final, "stream")
    lake.ingest("klines")
    lake.append(KLINES, live)
    for _ in range(2):
        fold(lake.writer())
        assert_told(lake, KLINES, live, final)


POINTS = [
    (LIVE_DIFFERENCE_LOG.name, "after"),
    (LIVE_COMPARISON_LOG.name, "after"),
    (FINE_OF["klines"], "after"),
    # Just before a commit is just after the one before it.
    *(
        pytest.param(table, "before", marks=pytest.mark.slow)
        for table in (LIVE_DIFFERENCE_LOG.name, LIVE_COMPARISON_LOG.name, FINE_OF["klines"])
    ),
]


@pytest.mark.parametrize(("table", "when"), POINTS)
def test_a_run_that_ends_around_a_commit_loses_no_difference_and_tells_none_twice(
    url: str, finals: dict[str, pl.DataFrame], tmp_path: Path, table: str, when: str
) -> None:
    lake, final = Lake(tmp_path, url), finals["klines"]
    live = as_live(KLINES, final, "rest")
    lake.merge(KLINES, live)
    hooks: dict[str, Callable[[], None]] = {when: crash}

    def failing(inner: TableCommitter) -> TableCommitter:
        return FailingCommitter(inner, 1, **hooks)

    with pytest.raises(Crashed):
        lake.ingest("klines", {table: failing})
    lake.ingest("klines")
    assert_told(lake, KLINES, live, final)


def test_rows_that_came_while_a_run_was_on_its_way_are_compared_as_well(
    url: str, finals: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    lake, final = Lake(tmp_path, url), finals["klines"]
    live = as_live(KLINES, final, "rest")
    first, second = live.filter(symbol="BTCUSDT"), live.filter(symbol="ETHUSDT")
    lake.merge(KLINES, first)

    def overtake() -> None:
        lake.merge(KLINES, second)

    def overtaken(inner: TableCommitter) -> TableCommitter:
        return FailingCommitter(inner, 1, before=overtake)

    report = lake.ingest("klines", {FINE_OF["klines"]: overtaken})
    assert report.conflicts > 0
    assert_told(lake, KLINES, live, final)
