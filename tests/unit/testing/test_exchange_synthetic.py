"""The synthetic market agrees with itself, to the last digit, as plain Python adds it up."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.testing.exchange import SyntheticArchive, walk, write_archive
from lakehouse_ray.testing.exchange.market import Instrument

ROOT = {"spot": "data/spot", "um": "data/futures/um", "cm": "data/futures/cm"}
SYMBOLS = {"spot": "SOLUSDT", "um": "SOLUSDT", "cm": "BTCUSD_PERP"}
SECONDS = {"1s": 1, "1m": 60, "5m": 300, "1h": 3600, "1d": 86_400}


@pytest.fixture(scope="module")
def market() -> SyntheticArchive:
    return SyntheticArchive(
        seed=11, symbols=["SOLUSDT", "BTCUSD_PERP"], start=date(2024, 12, 20), end=date(2025, 2, 5)
    )


def rows(archive: SyntheticArchive, key: str) -> list[list[str]]:
    blob = archive.read(key)
    assert blob is not None, key
    with zipfile.ZipFile(io.BytesIO(blob.body)) as opened:
        name = key.rpartition("/")[2].removesuffix(".zip")
        assert opened.namelist() == [f"{name}.csv"]
        table = list(csv.reader(io.TextIOWrapper(opened.open(f"{name}.csv"), "utf-8")))
    return table if table[0][0][0].isdigit() else table[1:]


def daily(market: str, dataset: str, day: str, interval: str = "") -> str:
    symbol = SYMBOLS[market]
    folder = f"{ROOT[market]}/daily/{dataset}/{symbol}/"
    return f"{folder}{interval}{'/' if interval else ''}{symbol}-{interval or dataset}-{day}.zip"


def monthly(market: str, dataset: str, month: str, interval: str = "") -> str:
    return daily(market, dataset, month, interval).replace("/daily/", "/monthly/")


def total(rows: Iterable[list[str]], column: int) -> Decimal:
    return sum((Decimal(row[column]) for row in rows), Decimal(0))


def bar_of(rows: list[list[str]]) -> list[Decimal]:
    """Open, high, low, close, volume, amount, count, taker's volume and amount of bars together."""
    return [
        Decimal(rows[0][1]),
        max(Decimal(row[2]) for row in rows),
        min(Decimal(row[3]) for row in rows),
        Decimal(rows[-1][4]),
        *(total(rows, column) for column in (5, 7, 8, 9, 10)),
    ]


def numbers(row: list[str]) -> list[Decimal]:
    return [Decimal(row[column]) for column in (1, 2, 3, 4, 5, 7, 8, 9, 10)]


@pytest.mark.parametrize("day", ["2024-12-31", "2025-01-01"])
@pytest.mark.parametrize("name", ["spot", "um", "cm"])
def test_minutes_are_the_sum_of_their_trades(market: SyntheticArchive, name: str, day: str) -> None:
    trades = rows(market, daily(name, "trades", day))
    bars = rows(market, daily(name, "klines", day, "1m"))
    minute = int(bars[1][0]) - int(bars[0][0])
    traded = {open_: list(some) for open_, some in groupby(trades, lambda t: int(t[4]) // minute)}
    assert len(bars) == 1440
    last_close = bars[0][1]
    for bar in bars:
        some = traded.pop(int(bar[0]) // minute, [])
        if some:
            prices = [Decimal(trade[1]) for trade in some]
            bought = [trade for trade in some if trade[5].lower() == "false"]
            assert numbers(bar) == [
                prices[0],
                max(prices),
                min(prices),
                prices[-1],
                total(some, 2),
                total(some, 3),
                len(some),
                total(bought, 2),
                total(bought, 3),
            ]
        else:
            assert bar[1:5] == [last_close] * 4
            assert not any(numbers(bar)[4:])
        last_close = bar[4]
    assert traded == {}


@pytest.mark.parametrize("name", ["spot", "um", "cm"])
def test_aggregates_are_runs_of_trades_and_ids_have_no_hole(
    market: SyntheticArchive, name: str
) -> None:
    trades = [
        t for day in ("2024-12-30", "2024-12-31") for t in rows(market, daily(name, "trades", day))
    ]
    aggregates = [
        a
        for day in ("2024-12-30", "2024-12-31")
        for a in rows(market, daily(name, "aggTrades", day))
    ]
    assert all(int(b[0]) == int(a[0]) + 1 for a, b in pairwise(trades))
    assert all(int(b[0]) == int(a[0]) + 1 for a, b in pairwise(aggregates))
    runs = [list(run) for _, run in groupby(trades, lambda t: (t[1], t[4], t[5]))]
    assert len(runs) == len(aggregates) < len(trades)
    for run, aggregate in zip(runs, aggregates, strict=True):
        assert Decimal(aggregate[2]) == total(run, 2)
        assert [aggregate[1], aggregate[3], aggregate[4], aggregate[5], aggregate[6]] == [
            run[0][1],
            run[0][0],
            run[-1][0],
            run[0][4],
            run[0][5],
        ]


@pytest.mark.parametrize(
    ("name", "dataset", "fine", "coarse"),
    [
        ("spot", "klines", "1s", "1m"),
        ("spot", "klines", "1m", "1h"),
        ("um", "klines", "1m", "5m"),
        ("um", "klines", "5m", "1d"),
        ("cm", "klines", "1h", "1d"),
        ("um", "markPriceKlines", "1m", "1h"),
        ("cm", "indexPriceKlines", "1m", "1d"),
        ("um", "premiumIndexKlines", "1m", "1h"),
    ],
)
def test_coarse_bars_are_made_of_fine_ones(
    market: SyntheticArchive, name: str, dataset: str, fine: str, coarse: str
) -> None:
    small = rows(market, daily(name, dataset, "2025-01-01", fine))
    large = rows(market, daily(name, dataset, "2025-01-01", coarse))
    size = SECONDS[coarse] // SECONDS[fine]
    assert len(small) == 86_400 // SECONDS[fine] == len(large) * size
    for number, bar in enumerate(large):
        part = small[number * size : (number + 1) * size]
        assert numbers(bar) == bar_of(part)
        assert [bar[0], bar[6]] == [part[0][0], part[-1][6]]


@pytest.mark.parametrize("interval", ["1s", "3m", "5m", "15m", "30m", "2h", "12h", "1d"])
def test_bars_of_any_length_are_what_their_trades_make(
    market: SyntheticArchive, interval: str
) -> None:
    trades = rows(market, daily("spot", "trades", "2025-01-01"))
    bars = {
        (int(bar[0]), int(bar[6])): bar
        for bar in rows(market, daily("spot", "klines", "2025-01-01", interval))
    }
    size = min(closed + 1 - opened for opened, closed in bars)
    for number, some in groupby(trades, lambda trade: int(trade[4]) // size):
        part = list(some)
        bar = bars.pop((number * size, number * size + size - 1))
        prices = [Decimal(trade[1]) for trade in part]
        assert numbers(bar)[:4] == [prices[0], max(prices), min(prices), prices[-1]]
        assert numbers(bar)[4:7] == [total(part, 2), total(part, 3), len(part)]
    assert all(bar[8] == "0" and len(set(bar[1:5])) == 1 for bar in bars.values())


@pytest.mark.parametrize("dataset", ["klines", "trades", "aggTrades", "markPriceKlines"])
def test_a_month_is_its_days(market: SyntheticArchive, dataset: str) -> None:
    interval = "1h" if "Klines" in dataset or dataset == "klines" else ""
    month = rows(market, monthly("um", dataset, "2025-01", interval))
    days = [
        row
        for number in range(1, 32)
        for row in rows(market, daily("um", dataset, f"2025-01-{number:02d}", interval))
    ]
    assert month == days


@pytest.mark.parametrize("interval", ["3d", "1w", "1mo"])
def test_long_bars_belong_to_the_month_they_open_in(
    market: SyntheticArchive, interval: str
) -> None:
    days = {}
    for month in ("2024-12", "2025-01"):
        for row in rows(market, monthly("um", "klines", month, "1d")):
            days[datetime.fromtimestamp(int(row[0]) // 1000, UTC).date()] = row
    found = 0
    for month in ("2024-12", "2025-01"):
        for bar in rows(market, monthly("um", "klines", month, interval)):
            opened = datetime.fromtimestamp(int(bar[0]) / 1000, UTC).date()
            closed = datetime.fromtimestamp((int(bar[6]) + 1) / 1000, UTC).date()
            assert f"{opened:%Y-%m}" == month
            assert interval != "1w" or opened.weekday() == 0
            part = [day for day in days if opened <= day < closed]
            if closed <= date(2025, 2, 1):
                assert numbers(bar) == bar_of([days[day] for day in sorted(part)])
                found += 1
    assert found >= (2 if interval == "1mo" else 5)


def test_prices_go_on_from_day_to_day(market: SyntheticArchive) -> None:
    closes, opens = [], []
    for day in ("2024-12-30", "2024-12-31", "2025-01-01"):
        bars = rows(market, daily("spot", "klines", day, "1m"))
        closes.append(Decimal(bars[-1][4]))
        opens.append(Decimal(bars[0][1]))
        assert all(Decimal(b[3]) <= min(Decimal(b[1]), Decimal(b[4])) for b in bars)
        assert all(Decimal(b[2]) >= max(Decimal(b[1]), Decimal(b[4])) for b in bars)
    for close, opened in zip(closes, opens[1:], strict=False):
        assert abs(opened / close - 1) < Decimal("0.02")


def test_each_market_and_year_has_its_own_spelling() -> None:
    archive = SyntheticArchive(
        symbols=["BTCUSDT"], markets=["spot", "um"], start=date(2022, 4, 29), end=date(2025, 1, 3)
    )

    def first_line(key: str) -> str:
        blob = archive.read(key)
        assert blob is not None
        with zipfile.ZipFile(io.BytesIO(blob.body)) as opened:
            return opened.read(opened.namelist()[0]).decode().splitlines()[0]

    spot, um = "data/spot/daily", "data/futures/um/daily"
    milliseconds = first_line(f"{spot}/klines/BTCUSDT/1m/BTCUSDT-1m-2024-12-31.zip")
    microseconds = first_line(f"{spot}/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-01.zip")
    assert milliseconds.split(",")[::6] == ["1735603200000", "1735603259999"]
    assert microseconds.split(",")[::6] == ["1735689600000000", "1735689659999999"]
    assert all(len(cell.partition(".")[2]) == 8 for cell in microseconds.split(",")[1:6])
    trade = first_line(f"{spot}/trades/BTCUSDT/BTCUSDT-trades-2025-01-01.zip").split(",")
    assert (len(trade), trade[5] in ("True", "False"), trade[6]) == (7, True, "True")
    aggregate = first_line(f"{spot}/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-01-01.zip").split(",")
    assert (len(aggregate), aggregate[7]) == (8, "True")
    kline = f"{um}/klines/BTCUSDT/1m/BTCUSDT-1m-"
    assert first_line(f"{kline}2022-04-30.zip").startswith("1651276800000,")
    assert first_line(f"{kline}2022-05-01.zip").startswith("open_time,open,high,low,close,volume,")
    assert first_line(f"{kline}2022-05-01.zip").endswith(",taker_buy_quote_volume,ignore")
    aggregates = f"{um}/aggTrades/BTCUSDT/BTCUSDT-aggTrades-"
    assert first_line(f"{aggregates}2022-08-10.zip").endswith((",true", ",false"))
    assert first_line(f"{aggregates}2022-08-11.zip").startswith("agg_trade_id,price,quantity,")
    assert archive.read(f"{um}/klines/BTCUSDT/1s/BTCUSDT-1s-2022-05-01.zip") is None


def test_coin_margined_volume_is_contracts_and_its_amount_is_coins(
    market: SyntheticArchive,
) -> None:
    for trade in rows(market, daily("cm", "trades", "2025-01-01"))[:100]:
        price, contracts, coins = (Decimal(cell) for cell in trade[1:4])
        assert contracts == int(contracts)
        assert coins == (contracts * 100 / price).quantize(Decimal("1e-8"))


def test_metrics_run_to_midnight_of_the_next_day(market: SyntheticArchive) -> None:
    times = [row[0] for row in rows(market, daily("um", "metrics", "2025-01-01"))]
    assert (len(times), times[0], times[-1]) == (288, "2025-01-01 00:05:00", "2025-01-02 00:00:00")
    assert len(set(times)) == 288


def test_funding_is_due_every_eight_hours_and_a_little_late(market: SyntheticArchive) -> None:
    months = rows(market, monthly("um", "fundingRate", "2024-12"))
    assert len(months) == 12 * 3  # listed on the 20th
    assert all(int(row[0]) % (8 * 3_600_000) < 14 and row[1] == "8" for row in months)
    assert market.children("data/futures/um/daily/fundingRate/") == []


def test_listings_name_what_can_be_read_and_sizes_are_true() -> None:
    archive = SyntheticArchive(symbols=None, start=date(2024, 6, 20), end=date(2024, 7, 2))
    keys = [key for key in walk(archive) if "/1s/" not in key]
    assert keys == sorted(keys, key=str.encode)
    for key in keys[::37]:
        head, blob = archive.head(key), archive.read(key)
        assert head is not None
        assert blob is not None
        assert blob.head == head
        assert (head.size_bytes, head.etag) == (len(blob.body), hashlib.md5(blob.body).hexdigest())
        if key.endswith(".CHECKSUM"):
            digest, name = blob.body.decode().split()
            target = archive.read(key.removesuffix(".CHECKSUM"))
            assert target is not None
            assert digest == hashlib.sha256(target.body).hexdigest()
            assert key.endswith(f"/{name}.CHECKSUM")


def test_months_are_published_once_closed_and_long_bars_by_the_month_alone(
    market: SyntheticArchive,
) -> None:
    folder = "data/spot/monthly/klines/SOLUSDT/"
    assert market.children(f"{folder}1h/") == [
        "SOLUSDT-1h-2024-12.zip",
        "SOLUSDT-1h-2024-12.zip.CHECKSUM",
        "SOLUSDT-1h-2025-01.zip",
        "SOLUSDT-1h-2025-01.zip.CHECKSUM",
    ]
    daily_intervals = market.children("data/spot/daily/klines/SOLUSDT/")
    assert set(market.children(folder)) - set(daily_intervals) == {"3d/", "1w/", "1mo/"}
    assert "1s/" not in market.children("data/futures/um/daily/klines/SOLUSDT/")
    last = market.children("data/spot/daily/klines/SOLUSDT/1h/")[-2]
    assert last == "SOLUSDT-1h-2025-02-04.zip"


def test_the_default_market_has_one_of_each_kind() -> None:
    archive = SyntheticArchive()
    spot = archive.children("data/spot/daily/klines/")
    assert {"币安人生USDT/", "BTCUPUSDT/", "USDCUSDT/", "BTCUSDT/"} <= set(spot)
    assert "BTCUSDT_240628/" in archive.children("data/futures/um/daily/klines/")
    assert "BTCUSDT_240628/" not in archive.children("data/futures/um/monthly/fundingRate/")
    assert "BTCUSD_PERP/" in archive.children("data/futures/cm/daily/klines/")
    delivered = archive.children("data/futures/um/daily/klines/BTCUSDT_240628/1h/")
    assert delivered[-2] == "BTCUSDT_240628-1h-2024-06-28.zip"
    delisted = archive.children("data/spot/daily/klines/FTMUSDT/1h/")
    assert 0 < len(delisted) < len(archive.children("data/spot/daily/klines/BTCUSDT/1h/"))


@pytest.mark.parametrize(
    "folder",
    [
        "data/spot/daily/nope/",
        "data/x/",
        "nope/",
        "data/spot/daily/klines/NOPE/",
        "data/spot/daily/klines/SOLUSDT/1h/x/",
        "data/spot/daily/klines/SOLUSDT/9h/",
    ],
)
def test_folders_that_are_not_there_are_empty(market: SyntheticArchive, folder: str) -> None:
    assert market.children(folder) == []


def test_many_symbols_are_counted_per_market() -> None:
    archive = SyntheticArchive(symbols=30, markets=["spot"])
    assert len(archive.children("data/spot/daily/klines/")) == 30


def test_an_instrument_is_taken_as_it_is() -> None:
    listed = date(2024, 6, 3)
    one = Instrument("spot", "NEWUSDT", listed, listed + timedelta(days=2), 1.0, 4, 2, quiet=0.9)
    archive = SyntheticArchive(symbols=[one], start=date(2024, 6, 1), end=date(2024, 7, 1))
    names = archive.children("data/spot/daily/klines/NEWUSDT/1m/")
    assert names[::2] == ["NEWUSDT-1m-2024-06-03.zip", "NEWUSDT-1m-2024-06-04.zip"]
    bars = rows(archive, "data/spot/daily/klines/NEWUSDT/1m/NEWUSDT-1m-2024-06-03.zip")
    assert sum(row[8] == "0" for row in bars) == 1296


def test_another_process_makes_the_same_bytes_and_another_seed_others() -> None:
    keys = [
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-02.zip",
        "data/spot/daily/trades/币安人生USDT/币安人生USDT-trades-2025-01-02.zip",
        "data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2025-01-02.zip",
    ]
    program = (
        "import sys, hashlib\n"
        "from lakehouse_ray.testing.exchange import SyntheticArchive\n"
        "archive = SyntheticArchive(seed=3)\n"
        "for key in reversed(sys.argv[1:]):\n"
        "    print(hashlib.sha256(archive.read(key).body).hexdigest())\n"
    )
    command = [sys.executable, "-c", program, *keys]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    ours, other = SyntheticArchive(seed=3), SyntheticArchive(seed=4)

    def digests(archive: SyntheticArchive) -> list[str]:
        blobs = [archive.read(key) for key in keys]
        return [hashlib.sha256(blob.body).hexdigest() for blob in blobs if blob is not None]

    assert digests(ours) == theirs[::-1]
    assert not set(digests(other)) & set(theirs)


def test_what_is_written_to_a_folder_is_what_is_served(
    market: SyntheticArchive, tmp_path: Path
) -> None:
    prefix = "data/spot/daily/klines/SOLUSDT/1h/"
    written = write_archive(market, tmp_path, prefix, "*-2025-01-0?.zip")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert written.objects == len(files) == 18
    assert written.size_bytes == sum(path.stat().st_size for path in files)
    for path in files:
        blob = market.read(path.relative_to(tmp_path).as_posix())
        assert blob is not None
        assert path.read_bytes() == blob.body
        assert int(path.stat().st_mtime) == blob.head.modified_s


@pytest.mark.parametrize(
    "arguments",
    [
        {"symbols": 0},
        {"symbols": []},
        {"symbols": ["A/B"]},
        {"symbols": ["BTCUSD_PERP"], "markets": ["spot"]},
        {"markets": ["options"]},
        {"start": date(2025, 1, 1), "end": date(2025, 1, 1)},
        {"trades_per_minute": 0},
        {"level": 10},
    ],
)
def test_a_market_that_cannot_be_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        SyntheticArchive(**arguments)  # type: ignore[arg-type]


def test_the_market_of_a_later_day_has_the_same_files_and_more() -> None:
    short = SyntheticArchive(
        4, ["FTMUSDT"], ["spot", "um"], date(2024, 12, 30), date(2025, 1, 9), level=2
    )
    long = short.until(date(2025, 2, 2))
    assert long.instruments == short.instruments
    keys = [key for key in walk(short) if "/daily/" in key]
    later = set(walk(long))
    assert set(keys) < later
    for key in keys[:: len(keys) // 7]:
        assert long.read(key) == short.read(key)
    # One that stops trading stops on the day that both know.
    assert "data/spot/daily/klines/FTMUSDT/1h/FTMUSDT-1h-2025-01-04.zip" in later
    assert "data/spot/daily/klines/FTMUSDT/1h/FTMUSDT-1h-2025-01-05.zip" not in later
