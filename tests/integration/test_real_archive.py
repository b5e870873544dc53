"""Real files of the exchange, through HTTP to silver, against an independent reading of the zips.

The independent reading is Python's csv and zipfile, cell by cell; silver is read by Polars from the
table's metadata alone, without this package.
"""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from support.marks import assert_marks_are_those_of_the_rules

from lakehouse_ray.assembly.reader import Reader
from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.query.straight import StraightResult
from lakehouse_ray.query.symbol_rows import SymbolRows
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange

ARCHIVE = Path(__file__).parents[2].parent / "shared/data/archive"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not ARCHIVE.is_dir(), reason="the real files are not on this machine"),
]

MARKETS: dict[str, Market] = {"spot": "spot", "futures/um": "um", "futures/cm": "cm"}
Kind = tuple[Market, str, str | None]
Row = tuple[object, ...]

# How each type of file spells its columns, by their place: the exchange's own order.
BARS = ("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
        "taker_buy_volume", "taker_buy_quote_volume")  # fmt: skip
COLUMNS = {
    "klines": BARS,
    "aggTrades": (
        "agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id", "transact_time",
        "is_buyer_maker",
    ),
    "metrics": (
        "create_time", "symbol", "sum_open_interest", "sum_open_interest_value",
        "count_toptrader_long_short_ratio", "sum_toptrader_long_short_ratio",
        "count_long_short_ratio", "sum_taker_long_short_vol_ratio",
    ),
    "fundingRate": ("calc_time", "funding_interval_hours", "last_funding_rate"),
}  # fmt: skip
TABLES = {
    "klines": "klines",
    "aggTrades": "agg_trades",
    "metrics": "metrics",
    "fundingRate": "funding_rates",
}
WHOLE = {"trades", "agg_trade_id", "first_trade_id", "last_trade_id", "funding_interval_hours"}


def cell(name: str, text: str) -> object:
    if name == "create_time":
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    if name.endswith("_time"):
        number = int(text)
        micro = number if number > 10**14 else number * 1000
        return datetime.fromtimestamp(micro // 10**6, UTC).replace(microsecond=micro % 10**6)
    if name == "is_buyer_maker":
        return {"true": True, "false": False}[text.lower()]
    if name in WHOLE:
        return int(text)
    return float(text) if text else None


def index() -> list[dict[str, str]]:
    with (ARCHIVE / "INDEX.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def kind_of(key: str) -> Kind:
    parts = key.split("/")
    folder = "spot" if parts[1] == "spot" else "/".join(parts[1:3])
    dataset = parts[3 if folder == "spot" else 4]
    return MARKETS[folder], dataset, parts[-2] if dataset == "klines" else None


def symbol_of(key: str) -> str:
    name = key.split("/")[-1]
    return name.split("-")[0]


def sample(kind: Kind, count: int) -> list[str]:
    """Some of the symbols that there are, the same ones each time."""
    symbols = sorted({symbol_of(row["key"]) for row in index() if kind_of(row["key"]) == kind})
    return random.Random(str(kind)).sample(symbols, min(len(symbols), count))


def read_zip(key: str) -> Iterator[Row]:
    """The rows of one zip as Python values: key columns of identity first."""
    _, dataset, interval = kind_of(key)
    with zipfile.ZipFile(ARCHIVE / key) as archive:
        (name,) = [n for n in archive.namelist() if not n.startswith("__MACOSX/")]
        text = archive.read(name).decode("utf-8-sig")
    for line in csv.reader(io.StringIO(text)):
        if not line or line[0][:1].isalpha():
            continue
        values = {
            n: cell(n, t) for n, t in zip(COLUMNS[dataset], line, strict=False) if n != "symbol"
        }
        yield symbol_of(key), interval, *values.values()


@pytest.fixture(scope="module")
def lake(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Writer, dict[Kind, IngestReport]]]:
    """All of the archive, ingested once."""
    home = tmp_path_factory.mktemp("real") / "home"
    with ReplicaExchange(FolderArchive(ARCHIVE)) as exchange:
        settings = Settings(
            home=home, binance={"archive_url": exchange.url}, compute={"local_bytes_max": 1 << 40}
        )
        writer = Writer(settings)
        yield writer, {kind: run(writer, kind) for kind in kinds()}


def kinds() -> list[Kind]:
    return sorted({kind_of(row["key"]) for row in index()}, key=str)


def run(writer: Writer, kind: Kind) -> IngestReport:
    market, dataset, interval = kind
    return ingest(writer, IngestRequest(Selection(DATASETS[dataset], market, interval)))


def catalog(writer: Writer) -> SqlCatalog:
    return SqlCatalog("lakehouse", uri=writer.settings.catalog_uri)


def scan(writer: Writer, table: str) -> pl.DataFrame:
    metadata = catalog(writer).load_table(f"silver.{table}").metadata_location
    return pl.scan_iceberg(metadata, reader_override="pyiceberg").collect()


def tables_of(kind: Kind) -> str:
    _, dataset, interval = kind
    if dataset != "klines":
        return TABLES[dataset]
    return "klines_fine" if interval in ("1s", "1m", "3m", "5m") else "klines_coarse"


def test_every_file_is_taken_and_none_is_refused(
    lake: tuple[Writer, dict[Kind, IngestReport]],
) -> None:
    _, reports = lake
    files = Counter(kind_of(row["key"]) for row in index())
    assert {kind: r.files + r.skipped for kind, r in reports.items()} == files
    assert sum(r.quarantined + r.failed + r.rows_quarantined for r in reports.values()) == 0


def test_silver_has_the_rows_that_the_index_counts(
    lake: tuple[Writer, dict[Kind, IngestReport]],
) -> None:
    writer, _ = lake
    wanted: Counter[str] = Counter()
    for row in index():
        if kind_of(row["key"])[1] != "klines":
            wanted[tables_of(kind_of(row["key"]))] += int(row["rows"])
    assert {name: scan(writer, name).height for name in wanted} == wanted


@pytest.mark.parametrize("kind", kinds() if ARCHIVE.is_dir() else [], ids=str)
def test_silver_equals_an_independent_reading_of_the_zips_cell_by_cell(
    kind: Kind, lake: tuple[Writer, dict[Kind, IngestReport]]
) -> None:
    """One row per key, the daily file's before the monthly one's, and no row but the files'. Of a
    few symbols: Python takes its time, and of all of them the rows are counted."""
    writer, _ = lake
    market, dataset, interval = kind
    symbols = sample(kind, 2)
    names = [name for name in COLUMNS[dataset] if name != "symbol"]
    key_at = 2  # the first own column is the key of each of these data sets
    wanted: dict[tuple[object, ...], Row] = {}
    keys = [row["key"] for row in index() if kind_of(row["key"]) == kind]
    keys = [key for key in keys if symbol_of(key) in symbols]
    for key in sorted(keys, key=lambda k: ("/monthly/" not in k, k)):
        for row in read_zip(key):
            wanted[row[0], row[key_at]] = row
    frame = scan(writer, tables_of(kind)).filter(pl.col("symbol").is_in(symbols), market=market)
    if interval is not None:
        frame = frame.filter(interval=interval)
    else:
        frame = frame.with_columns(interval=pl.lit(None))
    found = frame.select("symbol", "interval", *names).rows()
    assert len(found) == len(wanted)
    got = {(row[0], row[key_at]): row for row in found}
    different = [(got.get(k), row) for k, row in wanted.items() if got.get(k) != row]
    assert different[:3] == []


def test_every_row_names_the_file_it_came_from(
    lake: tuple[Writer, dict[Kind, IngestReport]],
) -> None:
    writer, _ = lake
    counts: dict[str, int] = {}
    for table in ("klines_fine", "klines_coarse", "agg_trades", "metrics", "funding_rates"):
        frame = scan(writer, table)
        counts |= dict(frame.group_by("source_key").len().iter_rows())
        assert frame.filter(
            ~pl.col("source_key").str.contains("/" + pl.col("source") + "/", literal=False)
        ).is_empty()
    listed = {row["key"]: int(row["rows"]) for row in index()}
    assert set(counts) <= set(listed)
    assert all(rows <= listed[key] for key, rows in counts.items())


def test_a_second_run_adds_no_row_and_no_snapshot_anywhere(
    lake: tuple[Writer, dict[Kind, IngestReport]],
) -> None:
    writer, first = lake

    def snapshots() -> dict[tuple[str, ...], int | None]:
        cat = catalog(writer)
        tables = [t for space in cat.list_namespaces() for t in cat.list_tables(space)]
        return {t: cat.load_table(t).metadata.current_snapshot_id for t in tables}

    before = snapshots()
    assert len(before) >= 6
    again = [run(writer, kind) for kind in first]
    assert sum(r.rows + r.rows_replaced + r.files + r.commits for r in again) == 0
    assert snapshots() == before


def test_rows_are_marked_with_what_the_rules_find_in_them(
    lake: tuple[Writer, dict[Kind, IngestReport]],
) -> None:
    writer, _ = lake
    found = assert_marks_are_those_of_the_rules(Reader(writer.settings).lake)
    by_rule: Counter[tuple[str, str]] = Counter()
    for (dataset, _, _, rule), rows in found.items():
        by_rule[dataset, rule] += rows
    assert by_rule == {
        ("aggTrades", "TRADE_ID_JUMP"): 8312,
        ("metrics", "BLANK"): 328,
        ("metrics", "OPEN_INTEREST"): 4,
    }


@pytest.mark.parametrize("kind", kinds() if ARCHIVE.is_dir() else [], ids=str)
def test_rows_read_straight_are_those_of_a_statement(
    kind: Kind, lake: tuple[Writer, dict[Kind, IngestReport]]
) -> None:
    """All of each symbol, and windows that begin and end at any row."""
    writer, _ = lake
    market, dataset, interval = kind
    reading = Reader(writer.settings).lake
    chance = random.Random(str(kind))
    for symbol in sample(kind, 3):
        whole = SymbolRows(reading, dataset, symbol, None, None, market, interval, None)
        found = whole.run(None, None)
        assert isinstance(found, StraightResult)
        rows = found.arrow()
        assert rows.num_rows > 0
        assert rows.equals(whole.ask(None, None).arrow())
        times = rows[DATASETS[dataset].time]
        for _ in range(3):
            start, end = sorted(times[chance.randrange(rows.num_rows)].as_py() for _ in range(2))
            if start == end:
                continue
            part = SymbolRows(reading, dataset, symbol, start, end, market, interval, None)
            assert part.run(None, None).arrow().equals(part.ask(None, None).arrow())
