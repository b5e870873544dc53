"""The bar of now and bars without a folder, held against sums over trades and over finer bars."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from lakehouse_ray.testing.exchange import FolderArchive, History, SyntheticArchive, write_archive
from lakehouse_ray.testing.exchange.api.bars import BarHistory, closes_us
from lakehouse_ray.testing.exchange.history import Row, Series, micros

MARKET = SyntheticArchive(
    8, ["BTCUSDT", "BTCUSD_PERP"], start=date(2024, 12, 29), end=date(2025, 1, 12)
)
FOREVER = 2**62
NUMBERS = (1, 2, 3, 4, 5, 7, 8, 9, 10)


def us(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1_000_000


def rows_of(root: Path | SyntheticArchive, key: str) -> list[list[str]]:
    archive = FolderArchive(root) if isinstance(root, Path) else root
    blob = archive.read(key)
    assert blob is not None
    with zipfile.ZipFile(io.BytesIO(blob.bytes())) as opened:
        rows = list(csv.reader(opened.read(opened.namelist()[0]).decode().splitlines()))
    return rows if rows[0][0].isdigit() else rows[1:]


def numbers(row: Row | Sequence[str]) -> list[Decimal]:
    cells = row.cells if isinstance(row, Row) else row
    return [Decimal(cells[at]) for at in NUMBERS]


def totalled(bars: list[list[str]]) -> list[Decimal]:
    columns = [[Decimal(bar[at]) for bar in bars] for at in range(12)]
    return [
        columns[1][0], max(columns[2]), min(columns[3]), columns[4][-1],
        *(sum(columns[at], Decimal(0)) for at in NUMBERS[4:]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of spot 1m and 1h bars and aggregate trades, of um 1h bars and no more."""
    root = tmp_path_factory.mktemp("sparse")
    for match in (
        "data/spot/daily/klines/BTCUSDT/1m/*", "data/spot/daily/klines/BTCUSDT/1h/*",
        "data/spot/daily/aggTrades/BTCUSDT/*2025-01-0[3]*", "data/futures/um/daily/klines/BTCUSDT/1h/*",
        "data/futures/cm/daily/aggTrades/BTCUSD_PERP/*2025-01-03*",
        "data/futures/cm/daily/klines/BTCUSD_PERP/5m/*2025-01-03*",
    ):  # fmt: skip
        write_archive(MARKET, root, match.partition("*")[0], match)
    return root


@pytest.mark.parametrize("interval", ["1m", "1h", "1d", "1w"])
def test_the_open_bar_of_a_whole_archive_is_what_was_traded_until_now(interval: str) -> None:
    now = us(2025, 1, 3, 12, 34) + 30_500_000
    opens = {
        "1m": us(2025, 1, 3, 12, 34), "1h": us(2025, 1, 3, 12), "1d": us(2025, 1, 3),
        "1w": us(2024, 12, 30),
    }  # fmt: skip
    trades = [
        row
        for day in ("2024-12-30", "2024-12-31", "2025-01-01", "2025-01-02", "2025-01-03")
        for row in rows_of(MARKET, f"data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-{day}.zip")
        if opens[interval] <= (micros(row[4]) or 0) <= now
    ]
    prices = [Decimal(row[1]) for row in trades]
    sides = [[row for row in trades if side or row[5] == "False"] for side in (True, False)]
    sums = [[sum(Decimal(row[at]) for row in side) for at in (2, 3)] for side in sides]
    wanted = [prices[0], max(prices), min(prices), prices[-1], *sums[0], len(trades), *sums[1]]
    series = Series("spot", "klines", "BTCUSDT", interval)
    last = BarHistory(History(MARKET)).page(series, 0, FOREVER, 1, now, newest=True)[0]
    assert last.time_us == opens[interval]
    assert numbers(last) == wanted
    assert closes_us(last) > now


def test_aggregate_trades_do_where_there_are_no_trades(sparse: Path) -> None:
    now = us(2025, 1, 3, 12, 0) + 30_500_000
    trades = [
        row
        for row in rows_of(
            sparse, "data/spot/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-01-03.zip"
        )
        if us(2025, 1, 3, 12) <= (micros(row[5]) or 0) <= now
    ]
    series = Series("spot", "klines", "BTCUSDT", "1h")
    last = BarHistory(History(FolderArchive(sparse))).page(series, 0, FOREVER, 1, now, newest=True)
    cells = last[0].cells
    assert Decimal(cells[5]) == sum(Decimal(row[2]) for row in trades)
    assert Decimal(cells[7]) == sum(Decimal(row[1]) * Decimal(row[2]) for row in trades)
    assert int(cells[8]) == sum(int(row[4]) - int(row[3]) + 1 for row in trades)


def test_contracts_of_coin_m_are_worth_what_they_are(sparse: Path) -> None:
    now = us(2025, 1, 3, 12, 4) + 59_999_999
    series = Series("cm", "klines", "BTCUSD_PERP", "5m")
    bars = BarHistory(History(FolderArchive(sparse)))
    # All but the last microsecond, in which nobody trades: the bar as it will be.
    bar = bars.page(series, 0, FOREVER, 1, now - 1, newest=True)[0]
    key = "data/futures/cm/daily/klines/BTCUSD_PERP/5m/BTCUSD_PERP-5m-2025-01-03.zip"
    (whole,) = (row for row in rows_of(sparse, key) if row[0] == str(us(2025, 1, 3, 12) // 1000))
    got, wanted = numbers(bar), numbers(whole)
    assert got[:5] == wanted[:5]
    # Rounded trade by trade there, once here.
    assert abs(got[5] - wanted[5]) < Decimal("0.000001")
    assert got[6:8] == wanted[6:8]


def test_a_bar_of_which_nothing_finer_is_known_stands_at_its_opening_price(sparse: Path) -> None:
    now = us(2025, 1, 3, 12, 30)
    series = Series("um", "klines", "BTCUSDT", "1h")
    bars = BarHistory(History(FolderArchive(sparse)))
    before, last = bars.page(series, 0, FOREVER, 2, now, newest=True)
    rows = rows_of(sparse, "data/futures/um/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2025-01-03.zip")
    assert list(before.cells) == rows[11]
    assert last.cells[:5] == (rows[12][0], *(rows[12][1],) * 4)
    assert numbers(last)[4:] == [0] * 5
    assert last.cells[6] == rows[12][6]


def test_a_bar_is_closed_when_its_time_is_over() -> None:
    series = Series("spot", "klines", "BTCUSDT", "1h")
    bars = BarHistory(History(MARKET))
    rows = rows_of(MARKET, "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2025-01-03.zip")
    closed = bars.page(series, us(2025, 1, 3, 11), FOREVER, 1, us(2025, 1, 3, 12), newest=False)
    assert list(closed[0].cells) == rows[11]


@pytest.mark.parametrize("newest", [True, False])
def test_an_interval_without_a_folder_is_made_of_the_longest_finer_one(
    sparse: Path, newest: bool
) -> None:
    series = Series("spot", "klines", "BTCUSDT", "4h")
    bars = BarHistory(History(FolderArchive(sparse)))
    start, end = us(2025, 1, 1), us(2025, 1, 3)
    made = bars.page(series, start, end, 5, FOREVER, newest=newest)
    hours = [
        row
        for day in ("2025-01-01", "2025-01-02")
        for row in rows_of(MARKET, f"data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-{day}.zip")
    ]
    wanted = [totalled(hours[at : at + 4]) for at in range(0, 48, 4)]
    assert [numbers(row) for row in made] == (wanted[-5:] if newest else wanted[:5])
    assert [closes_us(row) - row.time_us for row in made] == [4 * 3600 * 1_000_000] * 5


def test_months_and_weeks_are_made_of_days(sparse: Path) -> None:
    bars = BarHistory(History(FolderArchive(sparse)))
    for interval, opened in (
        ("1w", [us(2024, 12, 30), us(2025, 1, 6)]),
        ("1mo", [us(2024, 12, 1), us(2025, 1, 1)]),
    ):
        series = Series("spot", "klines", "BTCUSDT", interval)
        found = bars.page(series, 0, FOREVER, 2, FOREVER, newest=True)
        assert [row.time_us for row in found] == opened


def test_a_series_without_any_bars_has_none(sparse: Path) -> None:
    bars = BarHistory(History(FolderArchive(sparse)))
    for interval in ("1m", "1h"):
        series = Series("spot", "klines", "NOSUCH", interval)
        assert bars.page(series, 0, FOREVER, 9, FOREVER, newest=True) == []
