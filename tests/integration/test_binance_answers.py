"""Answers in the exchange's shape are held against recorded ones of the exchange, and its rules."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.exchange_texts import assert_same_texts
from support.recorded import RECORDED, write_monthly
from support.served import Reply, Served, serving

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.instruments import ingest_instruments
from lakehouse_ray.serve.binance.numbers import spell_with
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange, recorded

REST = RECORDED.parent / "rest_json"
HOUR = 3_600_000
JANUARY = 1640995200000  # 2022-01-01

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not REST.is_dir(), reason="the recorded answers are not on this machine"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Bars whose answers by REST are recorded too, and recorded exchangeInfo of spot and um."""
    folder = tmp_path_factory.mktemp("answers")
    root = folder / "archive"
    hours = RECORDED / "spot_klines_1h_year"
    write_monthly(root, [hours / f"BTCUSDT-1h-{year}-01.csv" for year in (2022, 2023)])
    write_monthly(root, [RECORDED / "spot_klines_1d_year/BTCUSDT-1d-2024-01.csv"], "1d")
    with ReplicaExchange(FolderArchive(root), rest=recorded(REST / "gocryptotrader")) as exchange:
        url = exchange.url
        binance = {"archive_url": url, "spot_url": url, "um_url": url, "cm_url": url}
        settings = Settings(
            home=folder / "home", binance=binance, compute={"local_bytes_max": 1 << 40}
        )
        writer = Writer(settings)
        for interval in ("1h", "1d"):
            report = ingest(writer, IngestRequest(Selection(DATASETS["klines"], "spot", interval)))
            assert report.rows > 300
        for market in ("spot", "um"):
            ingest_instruments(writer, market)  # type: ignore[arg-type]
    with serving(folder / "home") as served:
        yield served


def klines(served: Served, **query: object) -> Reply:
    return served.get("/api/v3/klines", **{"symbol": "BTCUSDT", "interval": "1h", **query})


def opened(reply: Reply) -> list[int]:
    assert reply.status == 200, reply.body
    return [row[0] for row in reply.json]


@pytest.mark.parametrize(
    "name",
    [
        "BTCUSDT-1h-2022-01-01", "BTCUSDT-1h-2022-02-01", "BTCUSDT-1h-2022-03-01",
        "BTCUSDT-1h-2023-03-01", "BTCUSDT-1d-2024-01-01",
    ],
)  # fmt: skip
def test_bars_are_written_as_the_exchange_wrote_them(served: Served, name: str) -> None:
    wanted = json.loads((REST / f"klines_rows/{name}.json").read_bytes())
    if "-1d-" in name:  # the CSV ends before the recorded answers do
        last = served.get("/api/v3/klines", symbol="BTCUSDT", interval="1d", limit=1).json[0][0]
        wanted = [row for row in wanted if row[0] <= last]
    span = {"startTime": wanted[0][0], "endTime": wanted[-1][6], "limit": 1000}
    found = klines(served, interval=name.split("-")[1], **span).json
    assert len(wanted) > 300
    beyond = assert_same_texts(found, wanted)
    # Two volumes a bar could differ; of hours few do, and in two of the months none.
    assert beyond < len(wanted)
    if name in ("BTCUSDT-1h-2022-02-01", "BTCUSDT-1h-2022-03-01"):
        assert found == wanted


def test_the_range_and_the_limit_are_the_exchanges(served: Served) -> None:
    whole = opened(klines(served, startTime=JANUARY, limit=1000))
    assert whole[:3] == [JANUARY, JANUARY + HOUR, JANUARY + 2 * HOUR]
    assert len(whole) == 1000
    # Both ends belong to the range.
    assert opened(klines(served, startTime=JANUARY, endTime=JANUARY + 5 * HOUR)) == whole[:6]
    assert (
        opened(klines(served, startTime=JANUARY + 1, endTime=JANUARY + 5 * HOUR - 1)) == whole[1:5]
    )
    # Without limit 500, and more than 1,000 are 1,000.
    assert opened(klines(served, startTime=JANUARY)) == whole[:500]
    assert opened(klines(served, startTime=JANUARY, limit=5000)) == whole
    # Without a start the last ones before the end; without both the last ones.
    assert opened(klines(served, endTime=JANUARY + 9 * HOUR, limit=3)) == whole[7:10]
    newest = opened(klines(served))
    assert len(newest) == 500
    assert newest == sorted(newest)
    assert opened(klines(served, limit=1)) == newest[-1:]
    assert opened(klines(served, startTime=newest[-1] + 1)) == []
    assert opened(klines(served, startTime=JANUARY, endTime=JANUARY - 1)) == []
    assert (
        opened(klines(served, startTime=0, limit=1))
        == opened(klines(served, startTime=0, limit=1000))[:1]
    )
    for beyond in (10**19, 1602653012390909500):
        assert opened(klines(served, startTime=beyond)) == []
        assert opened(klines(served, endTime=beyond)) == newest
    same = served.get("/api/v3/uiKlines", symbol="BTCUSDT", interval="1h", startTime=JANUARY)
    assert opened(same) == whole[:500]


def test_microseconds_where_they_are_asked_for(served: Served) -> None:
    query = {"symbol": "BTCUSDT", "interval": "1h", "startTime": JANUARY, "limit": 2}
    micro = served.get("/api/v3/klines", {"X-MBX-TIME-UNIT": "MICROSECOND"}, **query)
    assert opened(micro) == [JANUARY * 1000, (JANUARY + HOUR) * 1000]
    assert opened(klines(served, startTime=JANUARY * 1000, limit=2)) == [JANUARY, JANUARY + HOUR]


def test_time_zones_whose_bars_are_those_of_utc(served: Served) -> None:
    query = {"startTime": JANUARY, "limit": 3}
    for zone in ("0", "8", "+8", "-5", "-12:00", "14:00"):
        assert opened(klines(served, timeZone=zone, **query)) == [
            JANUARY, JANUARY + HOUR, JANUARY + 2 * HOUR
        ]  # fmt: skip
    for interval, zone in (
        ("1h", "05:45"),
        ("1d", "8"),
        ("1h", "15"),
        ("1h", "x"),
        ("1h", "-12:01"),
    ):
        reply = klines(served, interval=interval, timeZone=zone, **query)
        assert (reply.status, reply.json["code"]) == (400, -1130), zone


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("/api/v3/klines", {"symbol": "NOPEUSDT", "interval": "1h"}, 400, -1121),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1mo"}, 400, -1120),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "4h"}, 400, -1120),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1s"}, 400, -1120),
        ("/api/v3/klines", {"interval": "1h"}, 400, -1102),
        ("/api/v3/klines", {"symbol": "", "interval": "1h"}, 400, -1102),
        ("/api/v3/klines", {"symbol": "BTC USDT", "interval": "1h"}, 400, -1100),
        ("/api/v3/klines", {"symbol": "A' OR 1=1", "interval": "1h"}, 400, -1100),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1h", "limit": "-1"}, 400, -1100),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1h", "limit": "٣"}, 400, -1100),
        ("/api/v3/klines", {"symbol": "BTCUSDT", "interval": "1h", "limit": "0"}, 400, -1130),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "1501"}, 400, -1130),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": 9, "endTime": 8}, 400, -1023),
        ("/fapi/v1/continuousKlines", {"pair": "BTCUSDT", "interval": "1m", "contractType": "CURRENT_QUARTER"}, 400, -1130),
        ("/api/v3/aggTrades", {"symbol": "BTCUSDT", "fromId": 1, "startTime": 1}, 400, -1128),
        ("/api/v3/aggTrades", {"symbol": "BTCUSDT"}, 400, -1121),
        ("/fapi/v1/fundingRate", {"symbol": "BTCUSDT"}, 400, -1121),
        ("/api/v3/exchangeInfo", {"symbols": "BTCUSDT"}, 400, -1100),
        ("/api/v3/ping", {"a": 1}, 400, -1104),
        ("/api/v3/depth", {"symbol": "BTCUSDT"}, 404, -5000),
        ("/fapi/v1/order", {}, 404, -5000),
    ],
)  # fmt: skip
def test_what_the_exchange_refuses(
    served: Served, path: str, query: dict[str, object], status: int, code: int
) -> None:
    reply = served.get(path, **query)
    assert (reply.status, reply.json["code"]) == (status, code), reply.body
    assert set(reply.json) == {"code", "msg"}
    assert reply.headers["Content-Type"] == "application/json"


def test_a_parameter_given_twice_is_refused(served: Served) -> None:
    reply = served.get("/api/v3/klines?symbol=BTCUSDT&symbol=ETHUSDT&interval=1h")
    assert (reply.status, reply.json["code"]) == (400, -1101)


def test_refusals_are_word_for_word_those_that_were_recorded(served: Served) -> None:
    routes = json.loads((REST / "gocryptotrader/http.json").read_bytes())["routes"]
    bodies = {
        json.dumps(one["data"])
        for answers in routes.values()
        for one in answers.get("GET", [])
        if isinstance(one["data"], dict) and "code" in one["data"]
    }
    unknown = served.get("/api/v3/klines", symbol="NOPEUSDT", interval="1h").json
    assert json.dumps(unknown) in bodies
    asked = {"symbol": "BTCUSD_PERP", "interval": "1d", "limit": 1000}
    too_long = served.get(
        "/dapi/v1/klines", **asked, startTime=1546300800000, endTime=1577836800000
    ).json
    assert json.dumps(too_long) in bodies


def test_exchange_info_is_what_the_exchange_said(served: Served) -> None:
    routes = json.loads((REST / "gocryptotrader/http.json").read_bytes())["routes"]
    for path in ("/api/v3/exchangeInfo", "/fapi/v1/exchangeInfo"):
        told = {one["symbol"]: one for one in routes[path]["GET"][0]["data"]["symbols"]}
        reply = served.get(path)
        found = {one["symbol"]: one for one in reply.json["symbols"]}
        for symbol, one in told.items():
            assert {k: v for k, v in found[symbol].items() if k != "lakehouse"} == one
        assert reply.json["serverTime"] > 1_700_000_000_000
    one = served.get("/api/v3/exchangeInfo", symbol="LTCBTC").json["symbols"]
    assert [item["symbol"] for item in one] == ["LTCBTC"]
    two = served.get("/api/v3/exchangeInfo", symbols='["BTCUSDT","ETHBTC"]').json["symbols"]
    assert [item["symbol"] for item in two] == ["BTCUSDT", "ETHBTC"]
    assert served.get("/api/v3/exchangeInfo", symbol="NOPE").json["code"] == -1121
    # Nothing of it is stored: no symbols, and no failure of who loads all markets.
    assert served.get("/dapi/v1/exchangeInfo").json["symbols"] == []


def test_an_answer_says_what_it_was_read_from(served: Served) -> None:
    reply = klines(served, startTime=JANUARY, limit=10)
    assert reply.headers["Lakehouse-Rows"] == "10"
    assert "silver.klines_coarse@" in reply.headers["Lakehouse-Snapshots"]
    again = served.get(
        "/api/v3/klines", {"If-None-Match": reply.headers["ETag"]},
        symbol="BTCUSDT", interval="1h", startTime=JANUARY, limit=10,
    )  # fmt: skip
    assert again.status == 304


@pytest.mark.parametrize(
    ("decimals", "value", "wanted"),
    [
        (8, 1503.33095, "1503.33095000"), (8, 0.0, "0.00000000"), (8, -0.0, "0.00000000"),
        (8, 69879986.3904993, "69879986.39049930"), (8, 1e-8, "0.00000001"), (8, 1e22, "10000000000000000000000.00000000"),
        (0, 542.0, "542"), (0, 0.0004088, "0.0004088"), (0, 1e-16, "0.0000000000000001"),
        (2, 70524.0, "70524.00"), (2, 0.125, "0.125"), (3, -3.449e-05, "-0.00003449"),
    ],
)  # fmt: skip
def test_numbers_are_never_rounded(decimals: int, value: float, wanted: str) -> None:
    assert spell_with(decimals)(value) == wanted
    assert float(wanted) == value
