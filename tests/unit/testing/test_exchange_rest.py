"""Requests and answers of REST, held against the rows of the archive that they are made of."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from lakehouse_ray.testing.exchange import FolderArchive, History, RestAnswers, SyntheticArchive
from lakehouse_ray.testing.exchange.api.market_data import MarketData, Reply, Request

MARKET = SyntheticArchive(
    5, ["BTCUSDT", "ETHUSDT", "BTCUSD_PERP"], start=date(2024, 12, 28), end=date(2025, 2, 3)
)
API = MarketData(History(MARKET))
LATER = datetime(2026, 1, 1, tzinfo=UTC)
HOURS = {"symbol": "BTCUSDT", "interval": "1h"}


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * 1000


def reply(
    path: str,
    query: Mapping[str, object] | None = None,
    at: datetime = LATER,
    api: MarketData = API,
    **headers: str,
) -> Reply:
    pairs = [(name, str(value)) for name, value in (query or {}).items()]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(path, pairs, named, "127.0.0.1")
    return api.answer(request, int(at.timestamp() * 1e6))


def ask(path: str, at: datetime = LATER, api: MarketData = API, **query: object) -> Any:
    found = reply(path, query, at, api)
    assert found.status == 200, found.body
    return json.loads(found.body)


def refused(path: str, at: datetime = LATER, **query: object) -> tuple[int, int, str]:
    found = reply(path, query, at)
    document = json.loads(found.body)
    return found.status, document["code"], document["msg"]


def file_of(key: str) -> list[list[str]]:
    blob = MARKET.read(key)
    assert blob is not None
    with zipfile.ZipFile(io.BytesIO(blob.body)) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    rows = list(csv.reader(text.splitlines()))
    return rows if rows[0][0].isdigit() else rows[1:]


def bars_of(key: str) -> list[list[Any]]:
    """As the exchange would answer them: times in milliseconds, numbers as the file has them."""
    found = []
    for row in file_of(key):
        unit = 1000 if len(row[0]) == 16 else 1
        opened, closed = int(row[0]) // unit, int(row[6]) // unit
        found.append([opened, *row[1:6], closed, row[7], int(row[8]), row[9], row[10], "0"])
    return found


def test_bars_are_those_of_the_files_of_milliseconds_and_of_microseconds() -> None:
    folder = "data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-"
    wanted = bars_of(f"{folder}2024-12-31.zip") + bars_of(f"{folder}2025-01-01.zip")
    start, end = ms(2024, 12, 31), ms(2025, 1, 1, 23)
    assert ask("api/v3/klines", **HOURS, startTime=start, endTime=end) == wanted
    assert ask("api/v3/uiKlines", **HOURS, startTime=start, endTime=end) == wanted
    # Spot takes times of both units.
    micro = {"startTime": start * 1000, "endTime": end * 1000}
    assert ask("api/v3/klines", **HOURS, **micro) == wanted


def test_times_are_in_microseconds_where_spot_is_asked_to() -> None:
    query = {**HOURS, "startTime": ms(2024, 12, 31), "limit": 1}
    found = json.loads(reply("api/v3/klines", query, X_MBX_TIME_UNIT="MICROSECOND").body)
    assert (found[0][0], found[0][6]) == (ms(2024, 12, 31) * 1000, ms(2024, 12, 31, 1) * 1000 - 1)
    futures = json.loads(reply("fapi/v1/klines", query, X_MBX_TIME_UNIT="MICROSECOND").body)
    assert futures[0][0] == ms(2024, 12, 31)


def test_a_page_has_500_bars_and_ends_where_asked() -> None:
    minutes = {"symbol": "BTCUSDT", "interval": "1m"}
    first = ms(2024, 12, 28)
    every = {"startTime": 0, "endTime": ms(2025, 3, 1)}
    assert len(ask("api/v3/klines", **minutes, **every)) == 500
    page = ask("api/v3/klines", **minutes, startTime=first, limit=5000)
    assert (len(page), page[0][0]) == (1000, first)
    assert len(ask("fapi/v1/klines", **minutes, startTime=first, limit=1500)) == 1500
    # From a time on; up to a time, both of them in; and the last ones.
    after = ask("api/v3/klines", **minutes, startTime=first + 1, limit=2)
    assert [bar[0] for bar in after] == [first + 60_000, first + 120_000]
    before = ask("api/v3/klines", **minutes, endTime=first + 180_000, limit=2)
    assert [bar[0] for bar in before] == [first + 120_000, first + 180_000]
    last = ask("api/v3/klines", **minutes, limit=2)
    assert [bar[0] for bar in last] == [ms(2025, 2, 2, 23, 58), ms(2025, 2, 2, 23, 59)]


def test_coin_m_answers_the_newest_bars_of_200_days_at_most() -> None:
    hours = {"symbol": "BTCUSD_PERP", "interval": "1h"}
    start, end = ms(2025, 1, 1), ms(2025, 1, 3)
    page = ask("dapi/v1/klines", **hours, startTime=start, endTime=end, limit=3)
    assert [bar[0] for bar in page] == [end - 7_200_000, end - 3_600_000, end]
    long = {"startTime": start, "endTime": start + 201 * 86_400_000}
    told = (400, -4088, "Maximum time interval is 200 days.")
    assert refused("dapi/v1/klines", **hours, **long) == told
    assert refused("dapi/v1/markPriceKlines", **hours, **long) == told
    um = ask("fapi/v1/klines", **HOURS, **long)
    assert len(um) == 500


def test_prices_that_nobody_trades_at_have_bars_of_their_own() -> None:
    for name, key in (("markPriceKlines", "symbol"), ("premiumIndexKlines", "symbol"), ("indexPriceKlines", "pair")):  # fmt: skip
        wanted = bars_of(f"data/futures/um/daily/{name}/BTCUSDT/1h/BTCUSDT-1h-2025-01-02.zip")
        query = {key: "BTCUSDT", "interval": "1h", "startTime": ms(2025, 1, 2), "limit": 24}
        assert ask(f"fapi/v1/{name}", **query) == wanted
    continuous = {"pair": "BTCUSD", "contractType": "PERPETUAL", "interval": "1d", "limit": 2}
    symbol = {"symbol": "BTCUSD_PERP", "interval": "1d", "limit": 2}
    assert ask("dapi/v1/continuousKlines", **continuous) == ask("dapi/v1/klines", **symbol)


@pytest.mark.parametrize(
    ("market", "path", "symbol"),
    [("spot", "api/v3", "BTCUSDT"), ("futures/um", "fapi/v1", "BTCUSDT"),
     ("futures/cm", "dapi/v1", "BTCUSD_PERP")],
)  # fmt: skip
def test_aggregate_trades_by_id_by_time_and_the_last(market: str, path: str, symbol: str) -> None:
    rows = file_of(f"data/{market}/daily/aggTrades/{symbol}/{symbol}-aggTrades-2025-01-02.zip")
    unit = 1000 if market == "spot" else 1
    wanted = []
    for row in rows:
        told = {
            "a": int(row[0]), "p": row[1], "q": row[2], "f": int(row[3]), "l": int(row[4]),
            "T": int(row[5]) // unit, "m": row[6].lower() == "true",
        }  # fmt: skip
        wanted.append({**told, "M": True} if market == "spot" else told)
    named = {"symbol": symbol}
    by_id = ask(f"{path}/aggTrades", **named, fromId=rows[7][0], limit=1000)
    assert by_id == wanted[7:1007]
    start = ms(2025, 1, 2)
    by_time = ask(f"{path}/aggTrades", **named, startTime=start, limit=1000)
    assert by_time == wanted[:1000]
    end = start + 1_800_000
    within = ask(f"{path}/aggTrades", **named, startTime=start, endTime=end, limit=1000)
    assert within == [told for told in wanted if told["T"] <= end][:1000]
    before = ask(f"{path}/aggTrades", **named, endTime=wanted[-1]["T"], limit=3)
    assert before == wanted[-3:]
    assert len(ask(f"{path}/aggTrades", **named)) == 500


def test_refusals_of_aggregate_trades() -> None:
    both = {"symbol": "BTCUSDT", "startTime": 0, "endTime": 3_600_001}
    told = (400, -1127, "More than 1 hours between startTime and endTime.")
    assert refused("fapi/v1/aggTrades", **both) == told
    assert ask("api/v3/aggTrades", **both) == []
    mixed = {"symbol": "BTCUSDT", "fromId": 1, "startTime": 0}
    assert refused("api/v3/aggTrades", **mixed)[1] == -1128


def test_trades_the_last_and_the_old_ones_which_futures_tell_to_keys_alone() -> None:
    rows = file_of("data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-2025-02-02.zip")
    wanted = [
        {
            "id": int(row[0]), "price": row[1], "qty": row[2], "quoteQty": row[3],
            "time": int(row[4]) // 1000, "isBuyerMaker": row[5] == "True", "isBestMatch": True,
        }
        for row in rows
    ]  # fmt: skip
    assert ask("api/v3/trades", symbol="BTCUSDT", limit=20) == wanted[-20:]
    assert ask("api/v3/historicalTrades", symbol="BTCUSDT", fromId=rows[4][0], limit=9) == wanted[4:13]  # fmt: skip
    old = "fapi/v1/historicalTrades"
    assert refused(old, symbol="BTCUSDT") == (401, -2014, "API-key format invalid.")
    keyed = json.loads(reply(old, {"symbol": "BTCUSDT"}, X_MBX_APIKEY="k" * 64).body)
    assert (len(keyed), "isBestMatch" in keyed[0]) == (100, False)
    coin = json.loads(
        reply("dapi/v1/trades", {"symbol": "BTCUSD_PERP", "limit": 1}, X_MBX_APIKEY="k").body
    )
    assert "baseQty" in coin[0]


def test_funding_with_the_mark_price_of_its_minute() -> None:
    rows = file_of("data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2025-01.zip")
    found = ask("fapi/v1/fundingRate", symbol="BTCUSDT", startTime=ms(2025, 1, 1), limit=5)
    assert [(one["fundingTime"], one["fundingRate"]) for one in found] == [
        (int(row[0]), row[2]) for row in rows[:5]
    ]
    minutes = bars_of("data/futures/um/daily/markPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2025-01-01.zip")
    assert [one["markPrice"] for one in found[:3]] == [minutes[at][1] for at in (0, 480, 960)]
    assert {one["symbol"] for one in ask("fapi/v1/fundingRate", limit=4)} == {"BTCUSDT", "ETHUSDT"}
    coin = ask("dapi/v1/fundingRate", symbol="BTCUSD_PERP", limit=1)
    assert set(coin[0]) == {"symbol", "fundingTime", "fundingRate"}


def test_statistics_of_the_last_30_days() -> None:
    now = datetime(2025, 2, 2, 12, 1, tzinfo=UTC)
    rows = [row for row in file_of("data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2025-02-02.zip") if row[0] <= "2025-02-02 12:01:00"]  # fmt: skip
    query = {"symbol": "BTCUSDT", "period": "5m"}
    columns = {
        "openInterestHist": ("sumOpenInterest", 2), "topLongShortAccountRatio": ("longShortRatio", 4),
        "topLongShortPositionRatio": ("longShortRatio", 5), "takerlongshortRatio": ("buySellRatio", 7),
        "globalLongShortAccountRatio": ("longShortRatio", 6),
    }  # fmt: skip
    for name, (key, column) in columns.items():
        found = ask(f"futures/data/{name}", now, **query)
        assert [one[key] for one in found] == [row[column] for row in rows[-30:]]
        assert found[-1]["timestamp"] == ms(2025, 2, 2, 12)
    hours = ask("futures/data/openInterestHist", now, symbol="BTCUSDT", period="1h", limit=2)
    assert [one["timestamp"] for one in hours] == [ms(2025, 2, 2, 11), ms(2025, 2, 2, 12)]
    month = ask("futures/data/openInterestHist", now, **query, startTime=ms(2025, 1, 4), limit=500)
    assert len(month) == 500
    told = refused("futures/data/openInterestHist", now, **query, startTime=ms(2025, 1, 2))
    assert told == (400, -1130, "parameter 'startTime' is invalid.")


@pytest.mark.parametrize(
    ("path", "query", "told"),
    [
        ("api/v3/klines", {"interval": "1h"}, (-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")),
        ("api/v3/klines", {"symbol": "", "interval": "1h"}, (-1105, "Parameter 'symbol' was empty.")),
        ("api/v3/klines", {"symbol": "NOSUCH", "interval": "1h"}, (-1121, "Invalid symbol.")),
        ("api/v3/klines", {"symbol": "btcusdt", "interval": "1h"}, (-1100, r"Illegal characters found in parameter 'symbol'; legal range is '^[\w\-._&&[^a-z]]{1,50}$'.")),
        ("fapi/v1/klines", {"symbol": "btcusdt", "interval": "1h"}, (-1121, "Invalid symbol.")),
        ("api/v3/klines", {"symbol": "BTCUSDT", "interval": "1mo"}, (-1120, "Invalid interval.")),
        ("fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1s"}, (-1120, "Invalid interval.")),
        ("api/v3/klines", {**HOURS, "limit": "-1"}, (-1100, "Illegal characters found in parameter 'limit'; legal range is '^[0-9]{1,20}$'.")),
        ("fapi/v1/klines", {**HOURS, "limit": 1501}, (-1130, "Data sent for parameter 'limit' is not valid.")),
        ("fapi/v1/klines", {**HOURS, "startTime": 2, "endTime": 1}, (-1023, "Start time is greater than end time.")),
        ("api/v3/klines", {**HOURS, "since": 1}, (-1104, "Not all sent parameters were read; read '2' parameter(s) but was sent '3'.")),
    ],
)  # fmt: skip
def test_what_the_exchange_would_refuse_is_refused(
    path: str, query: dict[str, object], told: tuple[int, str]
) -> None:
    assert refused(path, **query) == (400, *told)


def test_parameters_that_are_sent_twice_and_paths_that_are_none() -> None:
    twice = Request("api/v3/klines", [("symbol", "A"), ("symbol", "B")], {}, "")
    assert json.loads(API.answer(twice, 0).body)["code"] == -1101
    assert refused("fapi/v1/nothing")[:2] == (404, -5000)
    assert ask("api/v3/klines", **HOURS, startTime=2, endTime=1) == []


def test_the_clock_hides_what_is_to_come() -> None:
    now = datetime(2025, 1, 2, 12, 30, 30, tzinfo=UTC)
    stamp = ms(2025, 1, 2, 12, 30) + 30_000
    assert ask("api/v3/time", now) == {"serverTime": stamp}
    assert ask("api/v3/ping", now) == {}
    assert ask("api/v3/klines", now, **HOURS, limit=1)[0][0] == ms(2025, 1, 2, 12)
    assert ask("api/v3/klines", now, **HOURS, startTime=ms(2025, 1, 2, 13)) == []
    assert ask("fapi/v1/aggTrades", now, symbol="BTCUSDT", limit=1)[0]["T"] <= stamp
    assert ask("api/v3/trades", now, symbol="BTCUSDT", limit=1)[0]["time"] <= stamp
    times = [one["fundingTime"] for one in ask("fapi/v1/fundingRate", now, symbol="BTCUSDT")]
    assert max(times) < ms(2025, 1, 2, 8) + 1000
    early = datetime(2024, 12, 1, tzinfo=UTC)
    assert ask("api/v3/klines", early, **HOURS) == []


def test_prices_of_now_and_of_the_day() -> None:
    now = datetime(2025, 1, 2, tzinfo=UTC)
    hours = bars_of("data/spot/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2025-01-01.zip")
    price = ask("api/v3/ticker/price", now, symbol="BTCUSDT")
    assert price == {"symbol": "BTCUSDT", "price": hours[-1][4]}
    day = ask("api/v3/ticker/24hr", now, symbol="BTCUSDT")
    # The bar that opens now is in it, with what was traded so far.
    assert float(day["volume"]) >= sum(float(bar[5]) for bar in hours)
    assert float(day["highPrice"]) >= max(float(bar[2]) for bar in hours)
    assert day["openPrice"] == hours[0][1]
    coin = ask("dapi/v1/ticker/price", now, symbol="BTCUSD_PERP")
    assert [one["ps"] for one in coin] == ["BTCUSD"]
    assert len(ask("fapi/v1/ticker/price", now)) == 2


def test_a_book_is_the_one_that_is_known_or_empty() -> None:
    body = b'{"lastUpdateId": 7, "bids": [["1.0","2"]], "asks": [["1.1","3"]]}'
    api = MarketData(History(MARKET), books=lambda market, symbol, levels: body)
    assert ask("api/v3/depth", api=api, symbol="BTCUSDT") == json.loads(body)
    best = ask("api/v3/ticker/bookTicker", api=api, symbol="BTCUSDT")
    assert (best["bidPrice"], best["askQty"]) == ("1.0", "3")
    assert ask("api/v3/depth", symbol="BTCUSDT") == {"lastUpdateId": 0, "bids": [], "asks": []}
    assert refused("api/v3/depth", symbol="NOSUCH")[1] == -1121


def test_exchange_info_is_the_recorded_one_or_made_of_the_archive() -> None:
    made = ask("api/v3/exchangeInfo")
    assert [one["symbol"] for one in made["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    assert made["rateLimits"][0]["limit"] == 6000
    one = ask("api/v3/exchangeInfo", symbols='["ETHUSDT"]')
    assert [found["symbol"] for found in one["symbols"]] == ["ETHUSDT"]
    assert refused("api/v3/exchangeInfo", symbol="NOSUCH") == (400, -1121, "Invalid symbol.")
    assert refused("api/v3/exchangeInfo", symbols="[")[1] == -1100
    kept = RestAnswers()
    kept.put("api/v3/exchangeInfo", b'{"symbols":[]}')
    assert ask("api/v3/exchangeInfo", api=MarketData(History(MARKET), kept)) == {"symbols": []}


def test_numbers_with_an_exponent_are_written_out(tmp_path: Path) -> None:
    path = tmp_path / "data/futures/um/daily/aggTrades/AUSDT/AUSDT-aggTrades-2024-03-01.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", f"1,4.088E-4,40367.0,1,2,{ms(2024, 3, 1)},true\n")
    api = MarketData(History(FolderArchive(tmp_path)))
    (found,) = ask("fapi/v1/aggTrades", api=api, symbol="AUSDT")
    assert (found["p"], found["q"], found["m"]) == ("0.0004088", "40367.0", True)
