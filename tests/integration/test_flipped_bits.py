"""A bit that has flipped on the disk is no other price: wherever a file is read, it is told."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from support.bars import BarLake, bars
from support.served import serving

import lakehouse_ray as lh
from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.silver.existing import Existing
from lakehouse_ray.storage.files import index_files
from lakehouse_ray.storage.parquet import TableWriter

pytestmark = pytest.mark.integration

TABLE = KLINES.table("1h")
SUMS = "select symbol, sum(close) as closes from silver.klines group by symbol order by symbol"


@pytest.fixture
def stored(tmp_path: Path) -> BarLake:
    made = BarLake(tmp_path / "home")
    made.put(bars("AAA", "2024-05-20", 20), bars("BBB", "2024-05-20", 20))
    return made


def flip(stored: BarLake) -> Path:
    """Change one bit of the closing prices of AAA."""
    (file,) = (stored.home / "data/tables/silver/klines_coarse/data").rglob("*.parquet")
    content = bytearray(file.read_bytes())
    metadata = pq.read_metadata(file)
    column = metadata.row_group(0).column(metadata.schema.names.index("close"))
    content[column.data_page_offset + column.total_compressed_size - 20] ^= 4
    file.write_bytes(content)
    return file


def test_sql_tells_it_where_files_are_verified(
    stored: BarLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_QUERY__VERIFY_FILES", "true")
    wanted = stored.rows("silver.klines_coarse").group_by("symbol").agg(pl.col("close").sum())
    with lh.connect(stored.home).sql(SUMS) as result:
        assert result.pl()["closes"].to_list() == pytest.approx(wanted.sort("symbol")["close"])
    file = flip(stored)
    lake = lh.connect(stored.home)
    for question in (SUMS, "select count(*) from silver.klines"):
        with pytest.raises(UnavailableError, match="checksum") as caught:
            lake.sql(question)
        assert file.name in str(caught.value)
    assert lake.sql("select count(*) as n from silver.trades").rows() == [{"n": 0}]


def test_a_series_in_such_a_file_is_left_out_of_gaps(
    stored: BarLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKEHOUSE_QUERY__VERIFY_FILES", "true")
    assert lh.connect(stored.home).find_gaps(interval="1h").whole
    flip(stored)
    found = lh.connect(stored.home).find_gaps(interval="1h")
    assert found.unread.filter(part="rows")["symbol"].to_list() == ["AAA", "BBB"]


def test_the_service_tells_it_too(stored: BarLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_QUERY__VERIFY_FILES", "true")
    file = flip(stored)
    with serving(stored.home) as served:
        reply = served.post(
            "/v1/sql", json.dumps({"query": SUMS}).encode(), {"Content-Type": "application/json"}
        )
    assert reply.status == 503, reply.body
    assert file.name not in reply.body.decode()


def test_a_merge_does_not_write_it_on(stored: BarLake) -> None:
    """It would get a checksum that is right."""
    flip(stored)
    writer = stored.writer()
    files = index_files(TABLE, writer.catalog.find(TABLE.name))
    span = TimeRange(parse_time("2024-05"), parse_time("2024-07"))
    existing = Existing(TABLE, writer.store, files, span)
    assert existing.rows("BBB").height > 400
    with pytest.raises(UnavailableError, match="CRC"):
        existing.rows("AAA")
    (entry,) = files
    dropped = existing.rows("BBB").head(1)
    target = TableWriter(TABLE, writer.store, entry.region.partition)
    with pytest.raises(UnavailableError, match="CRC"), target:
        existing.rewrite(entry.path, dropped, target, ())
    assert (
        len(list((stored.home / "data/tables/silver/klines_coarse/data").rglob("*.parquet"))) == 1
    )
