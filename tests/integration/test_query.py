"""Reading the lake: against the zips themselves, and against two engines that share no code with it.

The lake is built through HTTP by the real ingestion; then Polars and pyiceberg read the tables from
their metadata alone, and Python's csv module reads the zips.
"""

from __future__ import annotations

import csv
import io
import random
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from polars.testing import assert_frame_equal
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table as IcebergTable
from support.bars import BarLake, bars

import lakehouse_ray as lh
from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.scan import Where, plan_files
from lakehouse_ray.query.verify import verify
from lakehouse_ray.query.views import TABLES, VIEWS
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import (
    Faults,
    FolderArchive,
    ReplicaExchange,
    Rule,
    SyntheticArchive,
)

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"

pytestmark = pytest.mark.integration

START, END = date(2024, 6, 27), date(2024, 7, 4)
REFUSED = "data/spot/daily/klines/ETHUSDT/1m/ETHUSDT-1m-2024-07-02.zip"
REPUBLISHED = "data/spot/daily/klines/ETHUSDT/1m/ETHUSDT-1m-2024-07-03.zip"
KINDS: tuple[tuple[Market, str, str | None], ...] = (
    ("spot", "klines", "1m"),
    ("spot", "klines", "1h"),
    ("cm", "klines", "1h"),
    ("spot", "aggTrades", None),
)


@dataclass(frozen=True)
class Built:
    """A lake, and what was so at the end of its first run."""

    writer: Writer
    lake: Lake
    first_rows: int
    first_snapshot: int
    first_time: datetime

    def table(self, name: str) -> IcebergTable:
        return SqlCatalog("lakehouse", uri=self.writer.settings.catalog_uri).load_table(name)


def settings_at(home: Path, url: str, root: str = "", **s3: str) -> Settings:
    return Settings(
        home=home,
        binance={"archive_url": url},
        compute={"local_bytes_max": 1 << 40},
        storage={"root": root, "s3": s3},
    )


def take(writer: Writer, market: Market, dataset: str, interval: str | None) -> None:
    ingest(writer, IngestRequest(Selection(DATASETS[dataset], market, interval)))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Two runs over a synthetic market: one file is refused in both, one is re-published between."""
    home = tmp_path_factory.mktemp("query") / "home"
    archive = SyntheticArchive(
        5, ["BTCUSDT", "ETHUSDT", "BTCUSD_PERP"], ("spot", "cm"), START, END, trades_per_minute=2
    )
    faults = Faults(
        (
            Rule(REFUSED, "corrupt_zip"),
            Rule(REPUBLISHED, "republished", params={"first": "missing_rows", "then": ""}),
        )
    )
    with ReplicaExchange(archive, faults) as exchange:
        writer = Writer(settings_at(home, exchange.url))
        lake = Reader(writer.settings).lake
        take(writer, *KINDS[0])
        (row,) = lake.sql("select count(*) n from silver.klines").rows()
        snapshot = lake.sql("select 1 from silver.klines").snapshots["silver.klines_fine"]
        assert snapshot is not None
        at = datetime.now(UTC)
        for kind in KINDS:
            take(writer, *kind)
        yield Built(writer, lake, row["n"], snapshot, at)


def iceberg_frame(table: IcebergTable) -> pl.DataFrame:
    return pl.scan_iceberg(table.metadata_location, reader_override="pyiceberg").collect()


@pytest.mark.parametrize("name", sorted(TABLES))
def test_three_engines_read_the_same_rows(built: Built, name: str) -> None:
    ours = built.lake.sql(f"select * from {name}").pl()
    if built.writer.catalog.find(name) is None:
        assert ours.is_empty()
        return
    table = built.table(name)
    arrow = pl.from_arrow(table.scan().to_arrow())
    assert isinstance(arrow, pl.DataFrame)
    order = list(TABLES[name].key) or [n for n in ours.columns if n not in ("raw", "detail")]
    theirs = iceberg_frame(table)
    assert_frame_equal(ours.sort(order), theirs.sort(order))
    assert_frame_equal(ours.sort(order), arrow.sort(order))


def test_a_series_is_what_a_filter_over_everything_gives(built: Built) -> None:
    everything = iceberg_frame(built.table("silver.klines_fine"))
    chance = random.Random(3)
    first = datetime(2024, 6, 26, tzinfo=UTC)
    for _ in range(25):
        symbol = chance.choice(("BTCUSDT", "ETHUSDT", "NONEUSDT"))
        start = first + timedelta(minutes=chance.randrange(12_000))
        end = start + timedelta(minutes=chance.randrange(1, 6_000))
        ours = built.lake.klines(symbol, "1m", start, end).collect()
        wanted = everything.filter(
            (pl.col("symbol") == symbol)
            & (pl.col("open_time") >= start)
            & (pl.col("open_time") < end)
        ).sort("open_time")
        assert_frame_equal(ours.select(wanted.columns), wanted)


def test_files_that_cannot_matter_are_not_read(built: Built) -> None:
    view = VIEWS["silver.klines"]
    pin = built.lake.pin([view])["silver.klines_fine"]
    everything = plan_files(pin)
    one = Where({"market": "spot", "symbol": "BTCUSDT", "interval": "1m"})
    chosen = plan_files(pin, one)
    assert 0 < len(chosen) < len(everything)
    assert not plan_files(pin, Where({"market": "um"}))
    assert built.lake.sql("select count(*) n from silver.klines where market='um'").rows() == [
        {"n": 0}
    ]


def test_lazy_reads_push_down_and_change_nothing(built: Built) -> None:
    lazy = built.lake.klines("BTCUSDT", "1m", "2024-06-28", "2024-06-30")
    eager = lazy.collect()
    assert eager.height == 2 * 1440
    assert eager["open_time"].is_sorted()
    assert eager.schema["open_time"] == pl.Datetime("us", "UTC")
    dear = pl.col("close") > eager["close"].median()
    assert_frame_equal(
        lazy.filter(dear).select("open_time", "high").head(7).collect(),
        eager.filter(dear).select("open_time", "high").head(7),
    )
    assert_frame_equal(lazy.tail(5).collect(), eager.tail(5))
    assert lazy.select(pl.len()).collect().item() == eager.height
    daily = lazy.group_by_dynamic("open_time", every="1d").agg(pl.col("volume").sum())
    assert daily.collect().height == 2
    assert lazy.collect_schema() == eager.schema


def test_a_read_stays_with_its_snapshot_while_others_commit(tmp_path: Path) -> None:
    archive = SyntheticArchive(1, ["BTCUSDT"], ("spot",), START, END, trades_per_minute=1)
    june = TimeRange(parse_time("2024-06"), parse_time("2024-07"))
    with ReplicaExchange(archive) as exchange:
        writer = Writer(settings_at(tmp_path / "home", exchange.url))
        lake = Reader(writer.settings).lake
        ingest(writer, IngestRequest(Selection(KLINES, "spot", "1h", span=june)))
        pinned = lake.klines("BTCUSDT", "1h")
        answer = lake.sql("select count(*) n from silver.klines")
        take(writer, "spot", "klines", "1h")
        assert pinned.collect().height == 4 * 24
        assert answer.rows() == [{"n": 4 * 24}]
        assert lake.klines("BTCUSDT", "1h").collect().height == 7 * 24


def test_as_of_a_snapshot_or_a_time_pins_every_table_behind_a_view(built: Built) -> None:
    count = "select count(*) n, count(distinct interval) i from silver.klines"
    now = built.lake.sql(count).rows()[0]
    for as_of in (built.first_snapshot, str(built.first_snapshot), built.first_time):
        then = built.lake.sql(count, as_of=as_of).rows()[0]
        assert then == {"n": built.first_rows, "i": 1}
    assert now["n"] > built.first_rows
    assert now["i"] == 2
    assert built.lake.sql(count, as_of="2020").rows() == [{"n": 0, "i": 0}]
    pinned = built.lake.klines("BTCUSDT", "1h", as_of=built.first_time).collect()
    assert pinned.is_empty()
    with pytest.raises(lh.NotFoundError, match="has a snapshot 12345"):
        built.lake.sql(count, as_of=12345)
    with pytest.raises(lh.InvalidError, match="time zone"):
        built.lake.sql(count, as_of=datetime(2024, 1, 1))  # noqa: DTZ001 - that is the point


def test_coin_margined_bars_have_their_volume_in_the_base_asset(built: Built) -> None:
    """BTCUSD_PERP: a contract is 100 USD, so contracts = base volume x price / 100, about."""
    frame = built.lake.klines("BTCUSD_PERP", "1h", market="cm").collect()
    assert frame.height == 7 * 24
    assert frame["base_volume"].equals(frame["quote_volume"])
    assert frame["taker_buy_base_volume"].equals(frame["taker_buy_quote_volume"])
    contracts = frame["base_volume"] * frame["close"] / 100
    assert ((contracts / frame["volume"]) - 1).abs().max() < 0.1
    spot = built.lake.klines("BTCUSDT", "1h").collect()
    assert spot["base_volume"].equals(spot["volume"])
    assert spot["taker_buy_base_volume"].equals(spot["taker_buy_volume"])


def test_objects_has_each_version_once_and_says_which_is_current(built: Built) -> None:
    log = iceberg_frame(built.table("bronze.object_log"))
    objects = built.lake.sql("select * from bronze.objects").pl()
    versions = log.select(
        "key", pl.coalesce("sha256", pl.concat_str(pl.lit("etag "), "etag"))
    ).unique()
    assert objects.height == versions.height
    current = objects.filter("current")
    assert current["key"].n_unique() == current.height == objects["key"].n_unique()
    two = objects.filter(key=REPUBLISHED).sort("first_seen")
    assert two["current"].to_list() == [False, True]
    assert two["rows"].to_list()[0] < two["rows"].to_list()[1] == 1440
    assert two["sha256"].n_unique() == 2
    (refused,) = objects.filter(key=REFUSED).iter_rows(named=True)
    assert refused["state"] == "quarantined"
    assert refused["reason"]
    assert refused["first_seen"] < refused["last_seen"]
    built_once = log.filter(state="built").group_by("key", "version").agg(pl.col("rows").max())
    joined = objects.join(built_once, on=["key", "version"])
    assert joined.height == built_once.height
    assert joined["rows"].equals(joined["rows_right"])


def test_quarantine_has_each_refusal_once(built: Built) -> None:
    log = iceberg_frame(built.table("silver.quarantine_log"))
    assert log.filter(source_key=REFUSED).height == 2
    (one,) = built.lake.sql(
        "select * from silver.quarantine where source_key = ?", [REFUSED]
    ).rows()
    assert one["quarantined_at"] == log.filter(source_key=REFUSED)["quarantined_at"].min()
    assert one["run_id"] == log.sort("quarantined_at")["run_id"][0]


def test_a_lake_that_is_not_there_yet_is_empty_and_stays_unmade(tmp_path: Path) -> None:
    lake = lh.connect(tmp_path / "none")
    for name, view in VIEWS.items():
        result = lake.sql(f"select * from {name}")
        assert result.pl().is_empty() == bool(view.tables), name
        assert view.sql or result.columns == list(view.tables[0].names)
    kinds = dict(zip(result.columns, result.types, strict=True))
    assert "TIMESTAMP WITH TIME ZONE" in kinds.values()
    assert lake.klines("BTCUSDT", "1m").collect().is_empty()
    assert not (tmp_path / "none").exists()


def test_columns_are_found_by_field_id(tmp_path: Path) -> None:
    archive = SyntheticArchive(1, ["BTCUSDT"], ("spot",), START, END, trades_per_minute=1)
    with ReplicaExchange(archive) as exchange:
        writer = Writer(settings_at(tmp_path / "home", exchange.url))
        take(writer, "spot", "klines", "1h")
        lake = Reader(writer.settings).lake
        before = lake.klines("BTCUSDT", "1h").collect()
        table = writer.catalog.find("silver.klines_coarse")
        assert table is not None
        # Another engine renames a column and swaps in a new one of its name.
        with table.update_schema() as update:
            update.rename_column("trades", "trade_count")
        assert_frame_equal(lake.klines("BTCUSDT", "1h").collect(), before)


def test_wrong_questions_are_told_what_is_right(built: Built) -> None:
    with pytest.raises(lh.InvalidError) as caught:
        built.lake.sql("select * from silver.klins")
    assert "silver.klines" in caught.value.hint
    with pytest.raises(lh.InvalidError, match="taker_buy_volume"):
        built.lake.sql("select taker_buy_volum from silver.klines")
    with pytest.raises(lh.InvalidError, match="syntax error"):
        built.lake.sql("selec 1")
    with pytest.raises(lh.InvalidError, match="interval"):
        built.lake.rows("klines", "BTCUSDT")
    with pytest.raises(lh.InvalidError, match="no intervals"):
        built.lake.rows("aggTrades", "BTCUSDT", interval="1m")
    with pytest.raises(lh.InvalidError, match="unknown data set"):
        built.lake.rows("kline", "BTCUSDT")
    with pytest.raises(lh.InvalidError, match="before"):
        built.lake.klines("BTCUSDT", "1m", "2024-02", "2024-01")
    with pytest.raises(lh.InvalidError, match="Could not convert"):
        built.lake.sql("select (symbol || 'x')::int from silver.klines").arrow()


@pytest.mark.skipif(not ARCHIVE.is_dir(), reason="the real files are not on this machine")
def test_real_bars_are_those_in_the_zips(tmp_path: Path) -> None:
    with ReplicaExchange(FolderArchive(ARCHIVE)) as exchange:
        writer = Writer(settings_at(tmp_path / "home", exchange.url))
        take(writer, "um", "klines", "1m")
        frame = Reader(writer.settings).lake.klines("ETHUSDT", "1m", market="um").collect()
    rows: list[tuple[float, ...]] = []
    for path in sorted(ARCHIVE.glob("data/futures/um/daily/klines/ETHUSDT/1m/*.zip")):
        with zipfile.ZipFile(path) as packed:
            text = packed.read(packed.namelist()[0]).decode()
        rows += [
            (int(cells[0]) * 1000, *map(float, cells[1:6]))
            for cells in csv.reader(io.StringIO(text))
            if cells and cells[0].isdigit()
        ]
    rows.sort()
    ours = frame.select(
        pl.col("open_time").dt.epoch("us"), "open", "high", "low", "close", "volume"
    )
    assert ours.rows() == rows


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, str]]:
    """A small sound lake, to be copied back to the one place its tables' paths speak of."""
    folder = tmp_path_factory.mktemp("verify")
    archive = SyntheticArchive(
        2, ["BTCUSDT", "ETHUSDT"], ("spot",), START, END, trades_per_minute=1
    )
    with ReplicaExchange(archive) as exchange:
        writer = Writer(settings_at(folder / "home", exchange.url))
        take(writer, "spot", "klines", "1m")
        take(writer, "spot", "aggTrades", None)
        shutil.copytree(folder / "home", folder / "template")
        yield folder / "template", folder / "home", exchange.url


@pytest.fixture
def home(template: tuple[Path, Path, str]) -> Path:
    source, home, _ = template
    shutil.rmtree(home)
    shutil.copytree(source, home)
    return home


def checks(home: Path, *, deep: bool = False) -> dict[str, int]:
    lake = Reader(Settings(home=home)).lake
    return {finding.check: finding.count for finding in verify(lake, deep=deep).problems}


def data_file(home: Path, table: str = "klines_fine") -> Path:
    return sorted((home / f"data/tables/silver/{table}/data").rglob("*.parquet"))[0]


def test_a_sound_lake_is_found_sound(home: Path) -> None:
    result = verify(Reader(Settings(home=home)).lake, deep=True)
    assert result.findings == []
    assert result.tables == 3
    assert result.rows > 7 * 1440 * 2
    assert result.objects > 14


def test_missing_and_shortened_files_are_found(home: Path) -> None:
    path = data_file(home)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert checks(home)["file_size"] == 1
    path.unlink()
    found = checks(home)
    assert found["file_missing"] == 1
    assert found["rows_lost"] > 0


def test_flipped_bytes_are_found_by_reading_them(home: Path) -> None:
    path = data_file(home)
    whole = path.read_bytes()
    metadata = pq.ParquetFile(path).metadata
    names = [metadata.schema.column(i).name for i in range(metadata.num_columns)]
    for name in ("open_time", "close", "source_key"):
        chunk = metadata.row_group(0).column(names.index(name))
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        damaged = bytearray(whole)
        damaged[start + chunk.total_compressed_size // 2] ^= 1
        path.write_bytes(damaged)
        found = checks(home, deep=True)
        assert found.get("file_unreadable") == 1, name
    path.write_bytes(whole)
    bronze = sorted((home / "data/bronze").rglob("*.zip"))[0]
    changed = bytearray(bronze.read_bytes())
    changed[20] ^= 1
    bronze.write_bytes(changed)
    assert checks(home, deep=True)["object_sha256"] == 1
    bronze.unlink()
    assert checks(home)["object_missing"] == 1


def test_files_that_nobody_knows_are_noted_and_are_no_problem(home: Path) -> None:
    path = data_file(home)
    shutil.copy(path, path.with_name("stray.parquet"))
    (home / "data/bronze/binance/stray@x.zip").write_bytes(b"x")
    result = verify(Reader(Settings(home=home)).lake)
    assert result.problems == []
    assert {finding.check for finding in result.findings} == {"orphan_file", "orphan_object"}


@pytest.mark.parametrize("table", ["klines_fine", "agg_trades"])
def test_keys_that_occur_twice_are_found(home: Path, table: str) -> None:
    """Another engine appends a file's rows once more."""
    path = data_file(home, table)
    catalog = SqlCatalog("lakehouse", uri=f"sqlite:///{home}/catalog.db")
    iceberg = catalog.load_table(f"silver.{table}")
    copied = path.with_name("again.parquet")
    shutil.copy(path, copied)
    (entry,) = [
        task.file for task in iceberg.scan().plan_files() if task.file.file_path.endswith(path.name)
    ]
    again = type(entry).from_args(
        **{
            name: getattr(entry, name)
            for name in (
                "content", "file_format", "partition", "record_count", "file_size_in_bytes",
                "column_sizes", "value_counts", "null_value_counts", "nan_value_counts",
                "lower_bounds", "upper_bounds", "split_offsets", "equality_ids", "sort_order_id",
                "key_metadata",
            )
        },
        file_path=f"file://{copied}",
        spec_id=0,
    )  # fmt: skip
    with iceberg.transaction() as transaction, transaction.update_snapshot().fast_append() as add:
        add.append_data_file(again)
    found = checks(home)
    assert found["duplicate_key"] == pq.ParquetFile(path).metadata.num_rows
    assert found["source_rows"] > 0


def test_rows_and_ledger_that_do_not_agree_are_found(home: Path) -> None:
    """The ledger loses what it had: rows of objects that nobody fetched, bytes that nobody knows."""
    catalog = SqlCatalog("lakehouse", uri=f"sqlite:///{home}/catalog.db")
    catalog.drop_table("bronze.object_log")
    found = checks(home)
    assert found.keys() == {"source_unknown"}
    assert found["source_unknown"] >= 14


def test_rows_that_another_engine_removed_are_missed(home: Path) -> None:
    catalog = SqlCatalog("lakehouse", uri=f"sqlite:///{home}/catalog.db")
    table = catalog.load_table("silver.klines_fine")
    (first,) = [t.file for t in table.scan().plan_files()][:1]
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as change:
        change.delete_data_file(first)
    assert checks(home)["rows_lost"] > 0


def test_a_lake_in_a_bucket_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No extension of DuckDB is there, and none is needed."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    archive = SyntheticArchive(1, ["BTCUSDT"], ("spot",), START, END, trades_per_minute=1)
    bucket = ThreadedMotoServer(port=0)
    bucket.start()
    try:
        host, port = bucket.get_host_and_port()
        s3 = {
            "endpoint_url": f"http://{host}:{port}",
            "region": "us-east-1",
            "access_key_id": "a",
            "secret_access_key": "b",
        }
        urllib.request.urlopen(
            urllib.request.Request(f"{s3['endpoint_url']}/lake", method="PUT"), timeout=10
        ).close()
        with ReplicaExchange(archive) as exchange:
            local = Writer(settings_at(tmp_path / "local", exchange.url))
            remote = Writer(settings_at(tmp_path / "remote", exchange.url, "s3://lake/x", **s3))
            for writer in (local, remote):
                take(writer, "spot", "klines", "1h")
        here, there = Reader(local.settings).lake, Reader(remote.settings).lake
        assert_frame_equal(
            there.klines("BTCUSDT", "1h").collect(), here.klines("BTCUSDT", "1h").collect()
        )
        count = "select count(*) n from silver.klines where open_time < '2024-07-01'"
        assert there.sql(count).rows() == here.sql(count).rows() == [{"n": 4 * 24}]
        assert verify(there, deep=True).findings == []
    finally:
        bucket.stop()


@pytest.mark.parametrize("cut", [True, False])
def test_a_file_that_is_cut_off_or_gone_is_no_mistake_of_the_one_who_asks(
    tmp_path: Path, cut: bool
) -> None:
    stored = BarLake(tmp_path)
    stored.put(bars("AAA", "2024-05-20", 2))
    (file,) = (stored.home / "data/tables/silver/klines_coarse/data").rglob("*.parquet")
    content = file.read_bytes()
    file.unlink()
    if cut:
        file.write_bytes(content[:-50])
    with (
        pytest.raises(UnavailableError) as caught,
        lh.connect(stored.home).sql("select sum(close) from silver.klines") as result,
    ):
        result.pl()
    assert file.name in str(caught.value)
    assert "LINE 1" not in str(caught.value)
