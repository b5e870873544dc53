"""Recorded answers of the exchange, put into files of its archive, come back as they were."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.recorded import RECORDED, publish
from support.served import Served, serving

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.venue import Market
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.instruments import ingest_instruments
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FolderArchive, ReplicaExchange, recorded

RECORDING = RECORDED.parent / "rest_json/gocryptotrader"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not RECORDING.is_dir(), reason="the recorded answers are not here"),
]

FOLDERS = {"/api/v3": "spot", "/fapi/v1": "futures/um", "/dapi/v1": "futures/cm"}
MARKETS: dict[str, Market] = {"/api/v3": "spot", "/fapi/v1": "um", "/dapi/v1": "cm"}
# The members of an object in the order of the archive's columns.
MEMBERS = {
    ("/api/v3", "aggTrades"): "apqflTmM",
    ("/fapi/v1", "aggTrades"): "apqflTm",
    ("/dapi/v1", "aggTrades"): "apqflTm",
}
TRADES = {
    "/api/v3": ("id", "price", "qty", "quoteQty", "time", "isBuyerMaker", "isBestMatch"),
    "/fapi/v1": ("id", "price", "qty", "quoteQty", "time", "isBuyerMaker"),
    "/dapi/v1": ("id", "price", "qty", "baseQty", "time", "isBuyerMaker"),
}


@dataclass(frozen=True)
class Case:
    prefix: str
    name: str
    query: str

    @property
    def path(self) -> str:
        return f"{self.prefix}/{self.name}"

    @property
    def parameters(self) -> dict[str, str]:
        return dict(part.split("=") for part in self.query.split("&"))

    @property
    def symbol(self) -> str:
        return self.parameters.get("symbol") or self.parameters["pair"]

    @property
    def interval(self) -> str | None:
        spelled = self.parameters.get("interval")
        return "1mo" if spelled == "1M" else spelled

    @property
    def dataset(self) -> str:
        return "trades" if self.name == "historicalTrades" else self.name

    def body(self) -> Any:
        routes = json.loads((RECORDING / "http.json").read_bytes())["routes"]
        (found,) = [
            one["data"] for one in routes[self.path]["GET"] if one["queryString"] == self.query
        ]
        return found

    def line(self, row: Any) -> tuple[int, str]:
        """A row's time in milliseconds, and its line in a file of the archive."""
        if isinstance(row, list):
            return row[0], ",".join(map(str, row))
        if self.name == "fundingRate":
            return row["fundingTime"], f"{row['fundingTime']},8,{row['fundingRate']}"
        members = MEMBERS.get((self.prefix, self.name)) or TRADES[self.prefix]
        time = row["T"] if "T" in row else row["time"]
        return time, ",".join(str(row[name]) for name in members)


CASES = [
    Case("/api/v3", "klines", "interval=5m&limit=24&symbol=BTCUSDT"),
    Case("/api/v3", "aggTrades", "limit=5&symbol=BTCUSDT"),
    Case("/api/v3", "historicalTrades", "limit=5&symbol=BTCUSDT"),
    Case("/fapi/v1", "klines", "endTime=1602819948&interval=5m&startTime=1602816348&symbol=LTCUSDT"),
    Case("/fapi/v1", "aggTrades", "limit=5&symbol=BTCUSDT"),
    Case("/fapi/v1", "trades", "limit=5&symbol=BTCUSDT"),
    Case("/fapi/v1", "fundingRate", "endTime=1602820102&limit=1&startTime=1602816502&symbol=LTCUSDT"),
    Case("/dapi/v1", "klines", "interval=1M&limit=5&symbol=BTCUSD_PERP"),
    Case("/dapi/v1", "aggTrades", "limit=5&symbol=BTCUSD_PERP"),
    Case("/dapi/v1", "trades", "limit=5&symbol=BTCUSD_PERP"),
    Case("/dapi/v1", "fundingRate", "limit=5&symbol=BTCUSD_PERP"),
    Case("/dapi/v1", "markPriceKlines", "interval=1M&limit=5&symbol=BTCUSD_PERP"),
    Case("/dapi/v1", "indexPriceKlines", "interval=1M&limit=5&pair=BTCUSD"),
]  # fmt: skip


def write(root: Path, case: Case) -> None:
    """Monthly files with the rows of a recorded answer."""
    months: dict[str, list[str]] = defaultdict(list)
    for row in case.body():
        time, line = case.line(row)
        months[f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m}"].append(line)
    parts = [case.symbol, *([case.interval] if case.interval else [])]
    folder = "/".join(("data", FOLDERS[case.prefix], "monthly", case.dataset, *parts))
    for month, lines in months.items():
        name = f"{case.symbol}-{case.interval or case.dataset}-{month}"
        publish(root, f"{folder}/{name}.zip", lines)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("recorded")
    for case in CASES:
        write(folder / "archive", case)
    with ReplicaExchange(FolderArchive(folder / "archive"), rest=recorded(RECORDING)) as exchange:
        url = exchange.url
        binance = {"archive_url": url, "spot_url": url, "um_url": url, "cm_url": url}
        settings = Settings(
            home=folder / "home", binance=binance, compute={"local_bytes_max": 1 << 40}
        )
        writer = Writer(settings)
        for case in CASES:
            chosen = Selection(DATASETS[case.dataset], MARKETS[case.prefix], case.interval)
            report = ingest(writer, IngestRequest(chosen))
            assert report.rows == len(case.body()), case
        for market in ("um", "cm"):
            ingest_instruments(writer, market)  # type: ignore[arg-type]
    with serving(folder / "home") as served:
        yield served


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path)
def test_the_body_is_the_recorded_one(served: Served, case: Case) -> None:
    wanted = case.body()
    assert wanted
    asked = {n: v for n, v in case.parameters.items() if n in ("symbol", "pair", "interval")}
    reply = served.get(case.path, **asked, limit=len(wanted))
    assert reply.status == 200, reply.body
    if case.name == "markPriceKlines":
        # Of the bar that was not over the exchange wrote a whole price without its zeros.
        assert wanted[-1][4] == "19128"
        wanted[-1][4] = "19128.00000000"
    assert reply.json == wanted


def test_rows_by_id_and_by_range(served: Served) -> None:
    spot = CASES[2].body()
    after = served.get("/api/v3/historicalTrades", symbol="BTCUSDT", fromId=spot[2]["id"]).json
    assert after == spot[2:]
    assert served.get("/api/v3/trades", symbol="BTCUSDT", limit=2).json == spot[-2:]

    joined = CASES[1].body()
    one = {"symbol": "BTCUSDT", "limit": 2}
    assert served.get("/api/v3/aggTrades", **one, fromId=joined[1]["a"]).json == joined[1:3]
    assert served.get("/api/v3/aggTrades", **one).json == joined[-2:]
    # Both instants belong to the range, and the first ones of it come first.
    first, last = joined[1]["T"], joined[-1]["T"]
    inside = [row for row in joined if first <= row["T"] <= last]
    query = {"symbol": "BTCUSDT", "startTime": first, "endTime": last}
    assert served.get("/api/v3/aggTrades", **query).json == inside
    assert served.get("/api/v3/aggTrades", **query, limit=1).json == inside[:1]

    rates = CASES[10].body()
    assert (
        served.get("/dapi/v1/fundingRate", symbol="BTCUSD_PERP", startTime=0, limit=2).json
        == rates[:2]
    )
    # USD-M gives all symbols where none is named.
    assert served.get("/fapi/v1/fundingRate").json == CASES[6].body()


def test_bars_of_coin_m_are_the_last_ones_of_their_range(served: Served) -> None:
    bars = CASES[7].body()
    query = {"symbol": "BTCUSD_PERP", "interval": "1M"}
    span = {"startTime": bars[0][0], "endTime": bars[3][0]}
    assert served.get("/dapi/v1/klines", **query, **span, limit=2).json == bars[2:4]
    # 200 days from the one end that is given.
    assert (
        served.get("/dapi/v1/klines", **query, startTime=bars[0][0] - 86_400_000 * 180).json
        == bars[:1]
    )
    assert served.get("/dapi/v1/klines", **query, endTime=bars[0][0]).json == bars[:1]
    pair = {"pair": "BTCUSD", "contractType": "PERPETUAL", "interval": "1M"}
    assert served.get("/dapi/v1/continuousKlines", **pair).json == bars
