"""What rows tell of tickers is found once for a state of the lake, and anew after each commit."""

from __future__ import annotations

from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from support.bars import BarLake, bars

import lakehouse_ray as lh
from lakehouse_ray.errors import LakehouseError, NotFoundError

pytestmark = pytest.mark.integration


def test_what_tickers_meant_is_read_from_rows_once_and_follows_each_commit(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "home")
    lake.put(bars("OLDUSDT", "2023-11-01", 5))
    reading = lh.connect(lake.home)
    for number in range(3):
        lake.put(bars("BTCUSDT", f"2024-01-{1 + 3 * number:02d}", 3, seed=number))
        fresh = lh.connect(lake.home)
        found = reading.identities("spot")
        assert_frame_equal(found, fresh.identities("spot"))
        stored = lake.rows("silver.klines_coarse").filter(symbol="BTCUSDT")["open_time"].max()
        assert found.filter(symbol="BTCUSDT")["last_row"].to_list() == [stored]
        assert_frame_equal(reading.identities("spot"), found)
        for at in ("2024-01-02", None):
            assert_frame_equal(reading.universe("spot", at), fresh.universe("spot", at))
        document = fresh.exchange_info("spot")
        assert reading.exchange_info("spot") == document
        # Who changes what he was given changes it for nobody else.
        reading.exchange_info("spot")["symbols"][0].clear()
        assert reading.exchange_info("spot") == document
        assert reading.universe("spot", "2023-11-03")["symbol"].to_list() == ["OLDUSDT"]
    for path in (lake.home / "data/tables").rglob("*.parquet"):
        path.unlink()
    # A moment that nobody has asked for yet: what its answer is made of is there.
    assert reading.universe("spot", "2024-01-05")["symbol"].to_list() == ["BTCUSDT"]
    with pytest.raises(LakehouseError):
        lh.connect(lake.home).universe("spot", "2024-01-05")


def test_coverage_and_contents_follow_each_commit(tmp_path: Path) -> None:
    lake = BarLake(tmp_path / "home")
    reading = lh.connect(lake.home)
    chosen = {"symbols": "BTCUSDT", "market": "spot", "interval": "1h"}
    for number in range(3):
        lake.put(bars("BTCUSDT", f"2024-01-{1 + 4 * number:02d}", 3, seed=number))
        lake.put(bars(f"X{number}USDT", "2024-01-01", 1))
        fresh = lh.connect(lake.home)
        for asked in (chosen, {**chosen, "symbols": f"X{number}USDT,BTCUSDT"}, {}):
            found = reading.coverage(**asked)
            assert_frame_equal(found, fresh.coverage(**asked))
            assert_frame_equal(reading.coverage(**asked), found)
        stored = lake.rows("silver.klines_coarse").filter(symbol="BTCUSDT")
        btc = reading.coverage(**chosen)
        assert btc["rows"].sum() == stored.height
        assert btc["day"].max() == stored["open_time"].dt.date().max()
        assert reading.datasets() == fresh.datasets() == reading.datasets()
        (series,) = [
            one
            for d in reading.datasets()["datasets"]
            for one in d["stored"]
            if d["dataset"] == "klines"
        ]
        assert series["symbols"] == number + 2
    with pytest.raises(NotFoundError, match="BTCUSDX") as told:
        reading.coverage(**{**chosen, "symbols": "BTCUSDT,BTCUSDX"})
    assert "BTCUSDT" in told.value.hint
