"""Gold bars in BHDS's folders, columns and types, for programs that read them there.

    <root>/results_data/<spot|um_futures|cm_futures>/klines/<interval>/<part>.parquet
    <root>/results_data/<…>/resampled_klines/<target>/<offset>/<part>.parquet

A reader sees each file whole, old or new: it is written aside and moved into place. Only files of
the symbol that is exported are touched, and its outdated parts (`SP3_` of a history that now has
two parts) go last.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.gold.bhds import COLUMNS, FOLDERS, TIME, bhds_resampled, vwap_name
from lakehouse_ray.model.venue import Market


def as_bhds(gold: pl.DataFrame, *, market: Market, interval: str) -> dict[str, pl.DataFrame]:
    """Return rows of `gold.klines` of one symbol as BHDS would name and type them, by part.

    BHDS has no nulls: an average price that is none becomes the open, no funding becomes 0. Made-up
    bars stay, without their mark: BHDS has no column for it.
    """
    name = vwap_name(interval)
    columns = [pl.col(ours).alias(theirs) for ours, theirs in COLUMNS.items()]
    columns.append(pl.col("vwap").fill_null(pl.col("open")).alias(name))
    if market != "spot":
        columns.append(pl.col("funding_rate").fill_null(0.0))
    parts = gold.partition_by("segment", as_dict=True, maintain_order=True)
    return {
        str(key[0]): part.select(columns).with_columns(pl.col(TIME).cast(pl.Datetime("ms", "UTC")))
        for key, part in parts.items()
    }


def export_klines(
    root: Path, gold: pl.DataFrame, *, market: Market, symbol: str, interval: str
) -> list[Path]:
    """Write one symbol's gold bars below `root`; return the files. Safe to repeat."""
    folder = root / "results_data" / FOLDERS[market] / "klines" / interval
    return _replace(folder, symbol, as_bhds(gold, market=market, interval=interval))


def export_resampled(
    root: Path, gold: pl.DataFrame, *, market: Market, symbol: str, target: str, step: str
) -> list[Path]:
    """Write one symbol's bars of `target` at every multiple of `step`; return the files.

    gold: Filled rows of `gold.klines` at 1m, from which BHDS resamples. It leaves out the first and
        the last bar of a part where they are partial.
    Raises InvalidError for intervals that BHDS does not know.
    """
    base = root / "results_data" / FOLDERS[market] / "resampled_klines" / target
    offsets: dict[str, dict[str, pl.DataFrame]] = {}
    for part, bars in as_bhds(gold, market=market, interval="1m").items():
        for offset, frame in bhds_resampled(bars, target, step).items():
            offsets.setdefault(offset, {})[part] = frame
    written = []
    for offset, parts in offsets.items():
        written += _replace(base / offset, symbol, parts)
    return written


def _replace(folder: Path, symbol: str, parts: dict[str, pl.DataFrame]) -> list[Path]:
    if not symbol or "/" in symbol or symbol.startswith("."):
        raise InvalidError(f"not a symbol that can name a file: {symbol!r}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part, frame in parts.items():
        target = folder / f"{part}.parquet"
        aside = folder / f".{part}.{os.getpid()}.aside"
        try:
            frame.write_parquet(aside)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        written.append(target)
    ours = re.compile(rf"(SP\d+_)?{re.escape(symbol)}")
    for file in folder.glob("*.parquet"):
        if ours.fullmatch(file.stem) and file not in written:
            file.unlink(missing_ok=True)
    return written
