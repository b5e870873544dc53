"""What the zips of an archive's folder say, read by DuckDB alone: the truth that tables are held against."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

_BARS = (
    "open_time:t open high low close volume close_time:t quote_volume trades:n taker_buy_volume "
    "taker_buy_quote_volume _"
)
_AGG_TRADES = "agg_trade_id:n price quantity first_trade_id:n last_trade_id:n transact_time:t is_buyer_maker:b"
# Columns in the order of the files: :t epoch in ms or µs, :s text of a time, :n whole, :b boolean,
# :w a word, else a double.
_COLUMNS = {
    **dict.fromkeys(("klines", "markPriceKlines", "indexPriceKlines", "premiumIndexKlines"), _BARS),
    "aggTrades": _AGG_TRADES,
    "trades": "id:n price qty quote_qty time:t is_buyer_maker:b",
    "fundingRate": "calc_time:t funding_interval_hours:n last_funding_rate",
    "metrics": "create_time:s _:w sum_open_interest sum_open_interest_value "
    "count_toptrader_long_short_ratio sum_toptrader_long_short_ratio count_long_short_ratio "
    "sum_taker_long_short_vol_ratio",
}  # fmt: skip
_BEST_MATCH = " is_best_match:b"


@dataclass(frozen=True)
class Stored:
    """Series of a folder. interval: Of bars."""

    market: str
    dataset: str
    symbol: str
    interval: str | None

    @classmethod
    def of(cls, key: str) -> Stored:
        """key: `data/futures/um/daily/klines/BTCUSDT/1m/….zip`."""
        parts = key.split("/")
        market = parts[2] if parts[1] == "futures" else "spot"
        after = parts[3:] if parts[1] == "futures" else parts[2:]
        return cls(market, after[1], after[2], after[3] if len(after) == 5 else None)


def columns_of(market: str, dataset: str) -> list[tuple[str, str]]:
    """Name and kind of each column of the files."""
    text = _COLUMNS[dataset]
    if dataset == "trades" and market == "cm":
        text = text.replace("quote_qty", "base_qty")
    if dataset in ("trades", "aggTrades") and market == "spot":
        text += _BEST_MATCH
    return [(name, kind) for name, _, kind in (one.partition(":") for one in text.split())]


def truth(root: Path, keys: Iterable[str], folder: Path) -> pl.DataFrame:
    """Rows of files of one market and data set, with `symbol` and `interval`, each once.

    folder: For their CSVs without header.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[Stored, list[str]] = {}
    for number, key in enumerate(sorted(keys)):
        with zipfile.ZipFile(root / key) as zipped:
            lines = zipped.read(zipped.namelist()[0]).decode().splitlines()
        path = folder / f"{number}.csv"
        path.write_text("\n".join(line for line in lines if line[:1].isdigit()) + "\n")
        paths.setdefault(Stored.of(key), []).append(str(path))
    selects = []
    for series, files in paths.items():
        columns = columns_of(series.market, series.dataset)
        names = [name if name != "_" else f"unused{i}" for i, (name, _) in enumerate(columns)]
        struct = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
        cells = ", ".join(
            _typed(name, kind) for name, (_, kind) in zip(names, columns, strict=True)
            if not name.startswith("unused")
        )  # fmt: skip
        interval = f"'{series.interval}'" if series.interval else "NULL"
        selects.append(
            f"SELECT '{series.symbol}' AS symbol, {interval}::VARCHAR AS interval, {cells} "
            f"FROM read_csv({files}, header=false, auto_detect=false, delim=',', "
            f"columns={{{struct}}})"
        )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        return connection.sql(f"SELECT DISTINCT * FROM ({' UNION ALL '.join(selects)})").pl()


def _typed(name: str, kind: str) -> str:
    if kind == "t":
        micro = f"{name}::BIGINT * CASE WHEN length({name}) >= 16 THEN 1 ELSE 1000 END"
        return f"make_timestamptz({micro}) AS {name}"
    if kind == "s":
        return f"({name} || '+00')::TIMESTAMPTZ AS {name}"
    types = {"n": "BIGINT", "b": "BOOLEAN", "": "DOUBLE"}
    # An empty cell is none.
    return f"nullif({name}, '')::{types[kind]} AS {name}"


def differences(found: pl.DataFrame, wanted: pl.DataFrame) -> tuple[int, int]:
    """How many rows of the truth are not found, and how many are found that it has not."""
    columns = [name for name in wanted.columns if name in found.columns]
    assert set(wanted.columns) - set(columns) <= {"interval"}
    with duckdb.connect() as connection:
        connection.register("found", _arrow(found.select(columns)))
        connection.register("wanted", _arrow(wanted.select(columns)))
        count = "SELECT count(*) FROM (FROM {} EXCEPT ALL FROM {})"
        [missing] = connection.sql(count.format("wanted", "found")).fetchall()[0]
        [surplus] = connection.sql(count.format("found", "wanted")).fetchall()[0]
    return missing, surplus


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
