"""Gold bars in BHDS's folders."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.made_bars import START_US, TIME, made_bars

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.gold import bhds_export
from lakehouse_ray.gold.bhds import bhds_klines, bhds_resampled
from lakehouse_ray.gold.bhds_export import export_klines, export_resampled
from lakehouse_ray.gold.klines import gold_klines
from lakehouse_ray.model.timespan import HOUR_US

SLOTS = [n for n in range(400) if not 100 < n < 107]
FUNDING = pl.DataFrame(
    {"calc_time": pl.Series([START_US + HOUR_US], dtype=pl.Int64).cast(TIME), "last_funding_rate": [1e-4]}
)  # fmt: skip


def gold(slots: list[int], symbol: str = "LITUSDT") -> pl.DataFrame:
    return gold_klines(made_bars(slots), FUNDING, market="um", symbol=symbol, interval="1m")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_layout_and_the_bars_are_those_of_bhds(tmp_path: Path) -> None:
    bars = made_bars(SLOTS)
    rows = gold(SLOTS, "币安人生USDT")
    written = export_klines(tmp_path, rows, market="um", symbol="币安人生USDT", interval="1m")
    folder = tmp_path / "results_data/um_futures/klines/1m"
    assert written == [folder / "币安人生USDT.parquet"]
    truth = bhds_klines(bars, FUNDING, market="um", symbol="X", interval="1m")["X"]
    assert_frame_equal(pl.read_parquet(written[0]), truth)
    written = export_resampled(
        tmp_path, rows, market="um", symbol="币安人生USDT", target="1h", step="5m"
    )
    folder = tmp_path / "results_data/um_futures/resampled_klines/1h"
    assert names(folder) == sorted(f"{n}m" for n in range(0, 60, 5))
    assert len(written) == 12
    for offset, frame in bhds_resampled(truth, "1h", "5m").items():
        assert_frame_equal(pl.read_parquet(folder / offset / "币安人生USDT.parquet"), frame)


def test_parts_are_files_and_outdated_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "results_data/um_futures/klines/1m"
    three = [*range(5), *range(5000, 5005), *range(10_000, 10_005)]
    export_klines(tmp_path, gold(three), market="um", symbol="LITUSDT", interval="1m")
    # Another symbol, and what is not ours, stay.
    export_klines(tmp_path, gold([1], "SPLITUSDT"), market="um", symbol="SPLITUSDT", interval="1m")
    (folder / "SP0_notes.txt").write_text("mine")
    assert names(folder) == [
        "LITUSDT.parquet", "SP0_LITUSDT.parquet", "SP0_notes.txt", "SP1_LITUSDT.parquet",
        "SPLITUSDT.parquet",
    ]  # fmt: skip
    export_klines(tmp_path, gold(three[:10]), market="um", symbol="LITUSDT", interval="1m")
    assert names(folder) == [
        "LITUSDT.parquet", "SP0_LITUSDT.parquet", "SP0_notes.txt", "SPLITUSDT.parquet",
    ]  # fmt: skip


def test_offsets_written_before_stay_when_others_are_written(tmp_path: Path) -> None:
    rows = gold(SLOTS)
    export_resampled(tmp_path, rows, market="um", symbol="LITUSDT", target="1h", step="5m")
    export_resampled(tmp_path, rows, market="um", symbol="LITUSDT", target="1h", step="0m")
    assert len(names(tmp_path / "results_data/um_futures/resampled_klines/1h")) == 12


def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [file] = export_klines(tmp_path, gold(SLOTS), market="um", symbol="LITUSDT", interval="1m")
    before = file.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bhds_export.os, "replace", full)
    with pytest.raises(OSError, match="space"):
        export_klines(tmp_path, gold(SLOTS[:9]), market="um", symbol="LITUSDT", interval="1m")
    assert file.read_bytes() == before
    assert names(file.parent) == ["LITUSDT.parquet"]


@pytest.mark.parametrize("symbol", ["", "../etc", ".hidden", "a/b"])
def test_a_symbol_that_is_a_path_is_refused(tmp_path: Path, symbol: str) -> None:
    with pytest.raises(InvalidError):
        export_klines(tmp_path, gold([0], symbol), market="um", symbol=symbol, interval="1m")
    assert not list(tmp_path.rglob("*.parquet"))
