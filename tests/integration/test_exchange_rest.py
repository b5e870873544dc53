"""The replica's REST over real sockets: held against files as DuckDB reads them, against recorded
answers, and read by clients that nobody here wrote."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import duckdb
import pytest
from support.exchange_clients import ccxt_at, loopback_alone, python_binance_at

from lakehouse_ray.testing.exchange import (
    Faults,
    FolderArchive,
    RateLimits,
    ReplayClock,
    ReplicaExchange,
    Series,
    SyntheticArchive,
    made_of,
    recorded,
    write_archive,
)

pytestmark = pytest.mark.integration

SHARED = Path(__file__).parents[2].parent / "shared/data"
ARCHIVE = SHARED / "archive"
REST = SHARED / "recorded/rest_json"
real = pytest.mark.skipif(not ARCHIVE.is_dir(), reason="the real files are not on this machine")

NOW = datetime(2025, 1, 3, 12, 0, 30, tzinfo=UTC)
MARKET = SyntheticArchive(
    5, ["BTCUSDT", "BTCUSD_PERP"], start=date(2024, 12, 30), end=date(2025, 1, 5)
)
MINUTES = {"symbol": "BTCUSDT", "interval": "1m"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def ask(url: str, path: str, query: dict[str, Any] | None = None, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{url}/{path}?{urlencode(query or {})}", headers=names)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return Reply(reply.status, reply.headers, reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())


def clock_at(moment: datetime) -> ReplayClock:
    return ReplayClock(round(moment.timestamp() * 1e6), speed=0)


@pytest.fixture(scope="module")
def clock() -> ReplayClock:
    return clock_at(NOW)


@pytest.fixture(scope="module")
def exchange(clock: ReplayClock) -> Iterator[ReplicaExchange]:
    with ReplicaExchange(MARKET, clock=clock) as served:
        yield served


@pytest.fixture
def rules(exchange: ReplicaExchange) -> Iterator[Any]:
    def put(match: str, fault: str, **params: object) -> None:
        text = json.dumps({"rules": [{"match": match, "fault": fault, **params}]})
        exchange.set_faults(Faults.parse(text, "json"))

    yield put
    exchange.set_faults(Faults())


def test_every_answer_tells_the_weight_and_the_exchange_s_time(exchange: ReplicaExchange) -> None:
    before = ask(exchange.url, "fapi/v1/ping")
    after = ask(exchange.url, "fapi/v1/klines", {**MINUTES, "limit": 499})
    used = [int(one.headers["X-MBX-USED-WEIGHT-1M"]) for one in (before, after)]
    assert used[1] - used[0] == 2
    assert parsedate_to_datetime(after.headers["Date"]) == NOW
    assert after.headers.get_content_type() == "application/json"
    refused = ask(exchange.url, "fapi/v1/klines", {**MINUTES, "interval": "x"})
    assert (refused.status, refused.document["code"]) == (400, -1120)
    assert int(refused.headers["X-MBX-USED-WEIGHT-1M"]) == used[1] + 5
    assert "X-MBX-USED-WEIGHT" in ask(exchange.url, "api/v3/ping").headers
    assert exchange.requests()["fapi/v1/klines"] == 2


@pytest.fixture
def strict() -> Iterator[tuple[ReplicaExchange, ReplayClock]]:
    clock = clock_at(NOW)
    limits = RateLimits({"spot": 6000, "um": 2400, "cm": 60}, refused_max=1, ban_s=120)
    with ReplicaExchange(MARKET, clock=clock, limits=limits) as served:
        yield served, clock


def test_limits_bans_and_what_was_asked_during_them(
    strict: tuple[ReplicaExchange, ReplayClock],
) -> None:
    exchange, clock = strict
    trades = {"symbol": "BTCUSD_PERP", "limit": 1}
    replies = [ask(exchange.url, "dapi/v1/aggTrades", trades) for _ in range(5)]
    assert [one.status for one in replies] == [200, 200, 200, 429, 418]
    assert [one.headers["Retry-After"] for one in replies[3:]] == ["30", "120"]
    assert replies[3].document == {
        "code": -1003,
        "msg": "Too many requests; current limit is 60 requests per minute. "
        "Please use the websocket for live updates to avoid polling the API.",
    }
    until_ms = round(NOW.timestamp() * 1000) + 120_000
    assert replies[4].document == {
        "code": -1003,
        "msg": f"Way too many requests; IP banned until {until_ms}. "
        "Please use the websocket for live updates to avoid bans.",
    }
    assert ask(exchange.url, "dapi/v1/ping").status == 418
    assert ask(exchange.url, "fapi/v1/ping").status == 200
    told = ask(exchange.url, "_control/limits").document["cm"]
    assert told == exchange.told_limits()["cm"]
    assert [told[name] for name in ("requests", "refused", "while_banned", "bans")] == [6, 2, 1, 1]
    assert max(told["windows"].values()) == 100
    clock.advance(120)
    assert ask(exchange.url, "dapi/v1/ping").status == 200


@pytest.mark.parametrize(
    ("fault", "params", "status", "body"),
    [
        ("server_error", {}, 503, b'{"code":-1008'),
        ("server_error", {"status": 502}, 502, b'{"code":-1001'),
        ("throttled", {"retry_after_s": 7}, 429, b'{"code":-1003'),
        ("restricted", {}, 451, b'{"code":0,"msg":"Service unavailable from a restricted location'),
        ("denied", {}, 403, b"<!DOCTYPE html>"),
        ("html_page", {}, 200, b"<!DOCTYPE html>"),
        ("empty_body", {}, 200, b""),
        ("null_body", {}, 200, b"null"),
        ("empty_list", {}, 200, b"[]"),
        ("banned", {"ban_s": 0.5}, 418, b'{"code":-1003,"msg":"Way too much request weight used; IP'),
    ],
)  # fmt: skip
def test_faults_in_the_place_of_answers(
    exchange: ReplicaExchange,
    clock: ReplayClock,
    rules: Any,
    fault: str,
    params: dict[str, object],
    status: int,
    body: bytes,
) -> None:
    rules("api/v3/klines", fault, times=1, **params)
    found = ask(exchange.url, "api/v3/klines", MINUTES)
    assert found.status == status
    assert found.body == body if body in (b"", b"null", b"[]") else found.body.startswith(body)
    assert found.headers["Retry-After"] == {"throttled": "7", "banned": "1"}.get(fault)
    if fault == "throttled":
        before = exchange.told_limits()["spot"]["too_soon"]
        ask(exchange.url, "api/v3/ping")
        assert exchange.told_limits()["spot"]["too_soon"] == before + 1
        clock.advance(7)
    assert "X-MBX-USED-WEIGHT-1M" in found.headers
    if fault == "banned":
        assert ask(exchange.url, "api/v3/ping").status == 418
        clock.advance(1)
    assert len(ask(exchange.url, "api/v3/klines", MINUTES).document) == 500


def test_faults_of_bodies_and_of_connections(exchange: ReplicaExchange, rules: Any) -> None:
    def rows() -> list[Any]:
        found: list[Any] = ask(exchange.url, "api/v3/klines", {**MINUTES, "limit": 50}).document
        return found

    good = rows()
    rules("api/v3/klines", "repeated_rows", rows=3)
    assert len(rows()) == 53
    assert sorted(map(str, set(map(str, rows())))) == sorted(map(str, good))
    rules("api/v3/klines", "shuffled_rows")
    assert (rows() != good, sorted(rows())) == (True, good)
    rules("api/v3/klines", "cut_json", keep=0.5)
    with pytest.raises(json.JSONDecodeError):
        rows()
    rules("api/v3/klines", "short_body", keep=0.5)
    with pytest.raises(http.client.IncompleteRead):
        rows()
    rules("api/v3/klines?symbol=BTCUSDT&*", "slow", first_byte_s=0.05)
    assert rows() == good
    rules("api/v3/klines?symbol=ETHUSDT&*", "null_body")
    assert rows() == good


def test_rest_tells_what_the_bucket_lacks(tmp_path: Path, clock: ReplayClock) -> None:
    days = ("2024-12-30", "2024-12-31", "2025-01-01", "2025-01-02")
    folder = "data/spot/daily/klines/BTCUSDT/1m/"
    for day in days:
        write_archive(MARKET, tmp_path / "whole", folder, f"*-{day}.zip")
    write_archive(MARKET, tmp_path / "cut", folder, f"*-{days[0]}.zip")
    whole, cut = FolderArchive(tmp_path / "whole"), FolderArchive(tmp_path / "cut")
    with ReplicaExchange(cut, rest_archive=whole, clock=clock) as exchange:
        hole = f"{folder}BTCUSDT-1m-{days[2]}.zip"
        assert ask(exchange.url, hole).status == 404
        start = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1000
        page = ask(exchange.url, "api/v3/klines", {**MINUTES, "startTime": start, "limit": 1})
        assert page.document[0][0] == start
        symbols = ask(exchange.url, "api/v3/exchangeInfo").document["symbols"]
        assert [one["symbol"] for one in symbols] == ["BTCUSDT"]


def test_rest_goes_on_where_the_bucket_of_a_synthetic_market_ends() -> None:
    later = MARKET.until(date(2025, 2, 1))
    moment = datetime(2025, 1, 20, 9, 30, tzinfo=UTC)
    with ReplicaExchange(MARKET, rest_archive=later, clock=clock_at(moment)) as exchange:
        bar = ask(exchange.url, "api/v3/klines", {**MINUTES, "limit": 2}).document[0]
        funding = ask(
            exchange.url, "fapi/v1/fundingRate", {"symbol": "BTCUSDT", "limit": 1}
        ).document
        day = "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-{}.zip"
        assert [ask(exchange.url, day.format(one)).status for one in ("04", "05")] == [200, 404]
    assert bar[0] == (int(moment.timestamp()) - 60) * 1000
    # The month is not over: its file of funding is not there, what was paid is.
    hour = int(datetime(2025, 1, 20, 8, tzinfo=UTC).timestamp()) * 1000
    assert hour <= funding[0]["fundingTime"] < hour + 100


def test_the_command_lets_rest_have_what_the_bucket_lacks(tmp_path: Path) -> None:
    folder = "data/spot/daily/klines/BTCUSDT/1h/"
    for root, days in (("whole", "2024-12-3*"), ("cut", "2024-12-30*")):
        write_archive(MARKET, tmp_path / root, folder, f"*{days}.zip")
    program = "import typer; from lakehouse_ray.cli.exchange import exchange; typer.run(exchange)"
    options = ["--root", str(tmp_path / "cut"), "--rest-root", str(tmp_path / "whole"), "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            assert ask(url, f"{folder}BTCUSDT-1h-2024-12-31.zip").status == 404
            hours = ask(url, "api/v3/klines", {"symbol": "BTCUSDT", "interval": "1h"}).document
        finally:
            process.terminate()
    assert len(hours) == 48


def csv_rows(folder: str) -> list[tuple[str, ...]]:
    """All rows of the zips in a folder of the real archive, in order of their first column."""
    texts = []
    for path in sorted((ARCHIVE / folder).glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if not n.startswith("__MACOSX/"))
            lines = archive.read(name).decode().splitlines()
        texts += [line for line in lines if line[:1].isdigit()]
    return distinct(texts)


def distinct(lines: Sequence[str]) -> list[tuple[str, ...]]:
    width = lines[0].count(",") + 1
    parts = ", ".join(f"string_split(line, ',')[{at + 1}]" for at in range(width))
    query = (
        f"select {parts} from (select distinct unnest(?) as line) "
        "order by string_split(line, ',')[1]::bigint"
    )
    with duckdb.connect() as database:
        return database.execute(query, [lines]).fetchall()


@pytest.fixture(scope="module")
def real_exchange() -> Iterator[ReplicaExchange]:
    limits = RateLimits({"spot": 10**6, "um": 10**6, "cm": 10**6})
    rest = recorded(REST / "gocryptotrader")
    with ReplicaExchange(FolderArchive(ARCHIVE), limits=limits, rest=rest) as exchange:
        yield exchange


@real
@pytest.mark.parametrize(
    ("folder", "path", "symbol", "interval"),
    [
        ("data/spot/*/klines/BTCUSDT/1h", "api/v3", "BTCUSDT", "1h"),
        ("data/spot/daily/klines/ETHUSDT/1d", "api/v3", "ETHUSDT", "1d"),
        ("data/futures/um/daily/klines/KITEUSDT/1m", "fapi/v1", "KITEUSDT", "1m"),
    ],
)
def test_pages_of_bars_are_the_archive_s_own_rows(
    real_exchange: ReplicaExchange, folder: str, path: str, symbol: str, interval: str
) -> None:
    folders = [str(found.relative_to(ARCHIVE)) for found in ARCHIVE.glob(folder)]
    wanted = [row for found in sorted(folders) for row in csv_rows(found)]
    unit = {True: 1000, False: 1}
    told = sorted(
        [int(row[0]) // unit[len(row[0]) == 16], *row[1:6], int(row[6]) // unit[len(row[6]) == 16],
         row[7], int(row[8]), row[9], row[10], "0"]
        for row in wanted
    )  # fmt: skip
    query = {"symbol": symbol, "interval": interval, "limit": 1000, "startTime": 0}
    found: list[Any] = []
    while page := ask(real_exchange.url, f"{path}/klines", query).document:
        found += page
        query["startTime"] = page[-1][0] + 1
    assert found == told


@real
def test_pages_of_aggregate_trades_are_the_archive_s_own_rows(
    real_exchange: ReplicaExchange,
) -> None:
    wanted = csv_rows("data/futures/um/daily/aggTrades/ALPINEUSDT")
    query = {"symbol": "ALPINEUSDT", "limit": 1000, "fromId": 0}
    found: list[Any] = []
    while page := ask(real_exchange.url, "fapi/v1/aggTrades", query).document:
        found += page
        query["fromId"] = page[-1]["a"] + 1
    assert [
        (str(t["a"]), t["p"], t["q"], str(t["f"]), str(t["l"]), str(t["T"]), str(t["m"]).lower())
        for t in found
    ] == wanted


@real
def test_hours_made_of_quarters_are_those_that_were_recorded_of_the_exchange(
    tmp_path: Path,
) -> None:
    """The archive beside has the quarters of 2022; REST was recorded in hours."""
    quarters = "data/spot/daily/klines/BTCUSDT/15m"
    (tmp_path / quarters).parent.mkdir(parents=True)
    (tmp_path / quarters).symlink_to(ARCHIVE / quarters)
    told = json.loads((REST / "klines_rows/BTCUSDT-1h-2022-01-01.json").read_text())
    query = {"symbol": "BTCUSDT", "interval": "1h", "limit": 1000, "startTime": told[0][0]}
    with ReplicaExchange(FolderArchive(tmp_path)) as exchange:
        made = ask(exchange.url, "api/v3/klines", query | {"endTime": told[-1][0]}).document
    assert len(made) == len(told)
    assert made == told


def shape(value: Any, path: str = "") -> Iterator[str]:
    """Keys and types of an answer, each once; of texts, whether they are numbers."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from shape(part, f"{path}.{key}")
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield from shape(part, f"{path}[{at if not isinstance(part, dict | list) else ''}]")
    else:
        is_number = isinstance(value, str) and value.replace(".", "").lstrip("-").isdigit()
        yield f"{path}: {'number as text' if is_number else type(value).__name__}"


RECORDED_ROUTES = [
    ("api/v3/klines", "api/v3/klines", "symbol=BTCUSDT&interval=1h&limit=5"),
    ("api/v3/aggTrades", "api/v3/aggTrades", "symbol=BTCUSDT&limit=5"),
    ("api/v3/historicalTrades", "api/v3/historicalTrades", "symbol=BTCUSDT&limit=5"),
    ("api/v3/trades", "api/v3/trades", "symbol=BTCUSDT&limit=5"),
    ("api/v3/ticker/price", "api/v3/ticker/price", "symbol=BTCUSDT"),
    ("api/v3/ticker/bookTicker", "api/v3/ticker/bookTicker", "symbol=BTCUSDT"),
    ("fapi/v1/klines", "fapi/v1/klines", "symbol=BTCUSDT&interval=1h&limit=5"),
    ("fapi/v1/aggTrades", "fapi/v1/aggTrades", "symbol=BTCUSDT&limit=5"),
    ("fapi/v1/trades", "fapi/v1/trades", "symbol=BTCUSDT&limit=5"),
    ("fapi/v1/time", "fapi/v1/time", ""),
    ("fapi/v1/openInterest", "fapi/v1/openInterest", "symbol=BTCUSDT"),
    ("futures/data/openInterestHist", "futures/data/openInterestHist", "symbol=BTCUSDT&period=5m"),
    ("dapi/v1/klines", "dapi/v1/klines", "symbol=BTCUSD_PERP&interval=1h&limit=5"),
    ("dapi/v1/markPriceKlines", "dapi/v1/markPriceKlines", "symbol=BTCUSD_PERP&interval=1h"),
    ("dapi/v1/aggTrades", "dapi/v1/aggTrades", "symbol=BTCUSD_PERP&limit=5"),
    ("dapi/v1/trades", "dapi/v1/trades", "symbol=BTCUSD_PERP&limit=5"),
    ("dapi/v1/fundingRate", "dapi/v1/fundingRate", "symbol=BTCUSD_PERP&limit=5"),
    ("dapi/v1/ticker/price", "dapi/v1/ticker/price", "symbol=BTCUSD_PERP"),
]


@real
@pytest.mark.parametrize(("of", "path", "query"), RECORDED_ROUTES)
def test_answers_have_the_shape_of_those_recorded(
    exchange: ReplicaExchange, of: str, path: str, query: str
) -> None:
    """Of a field that only some recorded answers have, the replica may have it or not."""
    routes = json.loads((REST / "gocryptotrader/http.json").read_text())["routes"]
    documents = [one["data"] for one in routes[f"/{of}"]["GET"]]
    answers = [set(shape(one)) for one in documents if one and "code" not in one]
    # The recorder lost a letter of some answers.
    answers = [{line for line in one if "[].: " not in line} for one in answers]
    asked = {name: values[0] for name, values in parse_qs(query).items()}
    reply = ask(exchange.url, path, asked, X_MBX_APIKEY="k" * 64)
    assert reply.status == 200, reply.body
    found = set(shape(reply.document))
    assert found <= set().union(*answers)
    assert found >= set.intersection(*answers)


@real
def test_refusals_are_word_for_word_those_recorded(exchange: ReplicaExchange) -> None:
    routes = json.loads((REST / "gocryptotrader/http.json").read_text())["routes"]
    checked = []
    for route, methods in routes.items():
        for one in methods.get("GET", []):
            data, path = one["data"], route.strip("/")
            if (
                isinstance(data, dict)
                and data.get("code", 0) < 0
                and path.startswith(("fapi", "dapi"))
            ):
                query = {name: parts[0] for name, parts in parse_qs(one["queryString"]).items()}
                if data["code"] == -1121:
                    query["symbol"] = "NOSUCH"
                found = ask(exchange.url, path, query)
                assert found.document == data, (route, query)
                checked.append(data["code"])
    assert {-1121, -4088, -2014} <= set(checked)


@real
def test_clients_that_nobody_here_wrote_read_it(real_exchange: ReplicaExchange) -> None:
    end = int(datetime(2026, 4, 12, tzinfo=UTC).timestamp()) * 1000
    start = end - 3 * 3_600_000
    with loopback_alone() as tried:
        client = python_binance_at(real_exchange.url)
        bars = client.futures_historical_klines("BTCUSDT", "1m", start, end - 1)
        trades = client.futures_aggregate_trades(symbol="ALPINEUSDT", fromId=0, limit=7)
        spot = client.get_historical_klines(
            "BTCUSDT", "1h", 1_735_689_600_000, 1_735_776_000_000 - 1
        )
        exchange = ccxt_at(real_exchange.url, options={"defaultType": "swap"})
        candles = exchange.fetch_ohlcv("BTC/USDT:USDT", "1m", since=start, limit=180)
    assert tried == []
    rows = csv_rows("data/futures/um/daily/klines/BTCUSDT/1m")
    wanted = [row for row in rows if start <= int(row[0]) < end]
    assert len(wanted) == 180
    assert [(str(bar[0]), *bar[1:6]) for bar in bars] == [row[:6] for row in wanted]
    assert candles == [[int(row[0]), *map(float, row[1:6])] for row in wanted]
    agg = csv_rows("data/futures/um/daily/aggTrades/ALPINEUSDT")[:7]
    assert [(str(one["a"]), one["p"]) for one in trades] == [row[:2] for row in agg]
    assert len(spot) == 24


def test_ccxt_reads_trades_funding_and_statistics(exchange: ReplicaExchange) -> None:
    symbol, since = "BTC/USDT:USDT", int(NOW.timestamp() * 1000) - 600_000
    with loopback_alone() as tried:
        client = ccxt_at(exchange.url, options={"defaultType": "swap"})
        trades = client.fetch_trades(symbol, since=since, limit=5)
        paid = client.fetch_funding_rate_history(symbol, since=1_735_603_200_000, limit=3)
        interest = client.fetch_open_interest_history(symbol, "5m", limit=2)
        ratios = client.fetch_long_short_ratio_history(symbol, "5m", limit=2)
        ticker = client.fetch_ticker(symbol)
    assert tried == []
    history = exchange.history
    rows = history.rows(Series("um", "aggTrades", "BTCUSDT"), since * 1000)
    assert [(one["id"], one["price"]) for one in trades] == [
        (row.cells[0], float(row.cells[1])) for row in islice(rows, 5)
    ]
    months = history.rows(Series("um", "fundingRate", "BTCUSDT"), 1_735_603_200_000_000)
    assert [one["fundingRate"] for one in paid] == [
        float(row.cells[2]) for row in islice(months, 3)
    ]
    metrics = history.last(Series("um", "metrics", "BTCUSDT"), 2, exchange.clock.now_us() + 1)
    assert [one["openInterestAmount"] for one in interest] == [float(r.cells[2]) for r in metrics]
    assert [one["longShortRatio"] for one in ratios] == [float(r.cells[6]) for r in metrics]
    last = history.last(Series("um", "klines", "BTCUSDT", "1m"), 1, exchange.clock.now_us())[0]
    assert ticker["open"] is not None
    assert float(last.cells[3]) <= ticker["last"] <= float(last.cells[2])


def test_a_synthetic_market_has_symbols_that_trade_by_its_clock(clock: ReplayClock) -> None:
    archive = SyntheticArchive(
        symbols=["FTMUSDT", "BTCUSDT"],
        markets=["spot"],
        start=date(2024, 12, 1),
        end=date(2025, 2, 1),
    )
    rest = made_of(archive.instruments, date(2025, 2, 1))
    (delisted,) = (one.delisted for one in archive.instruments if one.symbol == "FTMUSDT")
    assert delisted == date(2025, 1, 11)
    for moment, status in ((NOW, "TRADING"), (datetime(2025, 1, 20, tzinfo=UTC), "BREAK")):
        with ReplicaExchange(archive, clock=clock_at(moment), rest=rest) as exchange:
            symbols = ask(exchange.url, "api/v3/exchangeInfo").document["symbols"]
        assert {one["symbol"]: one["status"] for one in symbols}["FTMUSDT"] == status
