"""Rows of the real files beside the repository, read by the project's own decoder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import polars as pl

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import TimeRange, parse_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.decode import BinanceDecoder
from lakehouse_ray.sources.source import CsvFile

DATA = Path(__file__).parents[2].parent / "shared/data"
ARCHIVE = DATA / "archive"
RECORDED = DATA / "recorded"

# Recorded files hold several years under one name, so their names promise nothing.
_ALL_TIME = TimeRange(parse_time("2010"), parse_time("2100"))
_KEY = re.compile(
    r"data/(?:futures/)?(?P<market>spot|um|cm)/(?P<freq>daily|monthly)/(?P<dataset>\w+)/(?P<symbol>[^/]+)"
    r"/(?:(?P<interval>\w+)/)?[^/]+\.zip"
)


def decoded(
    dataset: str, market: Market, symbol: str, csvs: list[tuple[str, bytes]]
) -> pl.DataFrame:
    """Rows of CSV files of a symbol, one per key, in order."""
    declared = DATASETS[dataset]
    files = [CsvFile(key, symbol, _ALL_TIME, data) for key, data in csvs]
    parts = BinanceDecoder(inflated_bytes_max=1 << 30, inflate_ratio_max=1000).decode(
        declared, market, files
    )
    order = [declared.time, *(name for name in declared.key if name != declared.time)]
    rows = pl.concat([part.frame for part in parts])
    return rows.unique(list(declared.key), keep="last").sort(order)


def recorded_bars(name: str, symbol: str = "BTCUSDT") -> pl.DataFrame:
    """Bars of one recorded CSV, such as `spot_klines_1h_year/BTCUSDT-1h-2018-01.csv`."""
    return decoded("klines", "spot", symbol, [(name, (RECORDED / "csv" / name).read_bytes())])


def archive_rows() -> dict[tuple[str, Market, str, str | None], pl.DataFrame]:
    """All rows of the archive by data set, market, symbol and interval."""
    decoder = BinanceDecoder(inflated_bytes_max=1 << 30, inflate_ratio_max=1000)
    files: dict[tuple[str, Market, str, str | None], list[tuple[str, bytes]]] = {}
    for path in sorted(ARCHIVE.rglob("*.zip")):
        key = path.relative_to(ARCHIVE).as_posix()
        match = _KEY.fullmatch(key)
        assert match is not None, key
        series = (match["dataset"], match["market"], match["symbol"], match["interval"])
        csv = decoder.unpack(key, path.read_bytes(), sys.maxsize)
        assert csv is not None
        files.setdefault(series, []).append((key, csv))  # type: ignore[arg-type]
    return {
        (dataset, market, symbol, interval): decoded(dataset, market, symbol, csvs)
        for (dataset, market, symbol, interval), csvs in files.items()
    }
