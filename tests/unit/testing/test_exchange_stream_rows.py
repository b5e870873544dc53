"""Rows as messages: the same text as frames recorded from the exchange, and its own shapes elsewhere."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Hashable, Iterator
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any

import pytest

from lakehouse_ray.testing.exchange import Blob, Head, History, SyntheticArchive
from lakehouse_ray.testing.exchange.streams.names import parse
from lakehouse_ray.testing.exchange.streams.numbers import plain
from lakehouse_ray.testing.exchange.streams.rows import RowStreams

# Frames as they were recorded (cryptofeed, hftbacktest), each with the line of a file it is from.
RECORDED = [
    (
        "spot", "nknusdt@aggTrade", "spot/daily/aggTrades/NKNUSDT/NKNUSDT-aggTrades-2021-10-12",
        "15683430,0.35280000,58.00000000,19862790,19862790,1633998523963,False,True",
        '{"e":"aggTrade","E":1633998523963,"s":"NKNUSDT","a":15683430,"p":"0.35280000",'
        '"q":"58.00000000","f":19862790,"l":19862790,"T":1633998523963,"m":false,"M":true}',
    ),
    (
        "um", "ctkusdt@aggTrade",
        "futures/um/daily/aggTrades/CTKUSDT/CTKUSDT-aggTrades-2021-07-22",
        "16599292,1.01100,10.0,23961322,23961322,1626992741421,false",
        '{"e":"aggTrade","E":1626992741421,"a":16599292,"s":"CTKUSDT","p":"1.01100","q":"10",'
        '"f":23961322,"l":23961322,"T":1626992741421,"m":false}',
    ),
    (
        "spot", "btcusdt@trade", "spot/daily/trades/BTCUSDT/BTCUSDT-trades-2024-08-08",
        "3735683259,61837.63000000,0.02000000,1236.75260000,1723161255342,True,True",
        '{"e":"trade","E":1723161255342,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000",'
        '"q":"0.02000000","T":1723161255342,"m":true,"M":true}',
    ),
    (
        "cm", "btcusd_perp@trade",
        "futures/cm/daily/trades/BTCUSD_PERP/BTCUSD_PERP-trades-2024-08-08",
        "849714402,61804.8,4,0.00647199,1723161257679,false",
        '{"e":"trade","E":1723161257679,"T":1723161257679,"s":"BTCUSD_PERP","t":849714402,'
        '"p":"61804.8","q":"4","X":"MARKET","m":false}',
    ),
    (
        "um", "sushiusdt@bookTicker",
        "futures/um/daily/bookTicker/SUSHIUSDT/SUSHIUSDT-bookTicker-2021-07-22",
        "600859600576,7.6110,2.0,7.6120,297.0,1626992741012,1626992741017",
        '{"e":"bookTicker","u":600859600576,"s":"SUSHIUSDT","b":"7.6110","B":"2","a":"7.6120",'
        '"A":"297","T":1626992741012,"E":1626992741017}',
    ),
    (
        "cm", "btcusd_perp@bookTicker",
        "futures/cm/daily/bookTicker/BTCUSD_PERP/BTCUSD_PERP-bookTicker-2024-08-08",
        "1007198632021,61804.7,35,61804.8,1645,1723161257465,1723161257476",
        '{"u":1007198632021,"e":"bookTicker","s":"BTCUSD_PERP","ps":"BTCUSD","b":"61804.7",'
        '"B":"35","a":"61804.8","A":"1645","T":1723161257465,"E":1723161257476}',
    ),
]  # fmt: skip
KLINE = "1633998480000,0.35270000,0.35280000,0.35220000,0.35280000,25877.00000000,1633998539999,9116.04600000,30,58.00000000,20.46240000,0"
DAY_US = 86_400_000_000


class OneFile:
    """An archive of one object."""

    def __init__(self, stem: str, text: str) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{stem.rpartition('/')[2]}.csv", text)
        self.key = f"data/{stem}.zip"
        self.blob = Blob(Head(len(packed.getvalue()), "x", 0), packed.getvalue())

    def children(self, folder: str) -> list[str]:
        if not self.key.startswith(folder):
            return []
        name, slash, _ = self.key.removeprefix(folder).partition("/")
        return [name + slash]

    def inhabited(self, folder: str) -> bool:
        return self.key.startswith(folder)

    def version(self, key: str) -> Hashable | None:
        return 1 if key == self.key else None

    def head(self, key: str) -> Head | None:
        return self.blob.head if key == self.key else None

    def read(self, key: str) -> Blob | None:
        return self.blob if key == self.key else None


def told(archive: Any, market: str, name: str, from_us: int = 0, **how: bool) -> Iterator[bytes]:
    pieces = RowStreams(History(archive)).events(parse(market, name, **how), from_us)
    assert pieces is not None
    return (event.body for piece in pieces for event in piece)


@pytest.mark.parametrize(("market", "name", "stem", "line", "frame"), RECORDED)
def test_a_row_becomes_the_text_that_the_exchange_sent(
    market: str, name: str, stem: str, line: str, frame: str
) -> None:
    assert [body.decode() for body in told(OneFile(stem, line), market, name)] == [frame]


def test_a_bar_is_told_open_then_closed() -> None:
    archive = OneFile("spot/daily/klines/NKNUSDT/1m/NKNUSDT-1m-2021-10-12", KLINE)
    pieces = RowStreams(History(archive)).events(parse("spot", "nknusdt@kline_1m"), 0)
    assert pieces is not None
    events = [event for piece in pieces for event in piece]
    assert events[-1].due_us == 1_633_998_540_000_000
    assert events[-1].body.decode() == (
        '{"e":"kline","E":1633998540000,"s":"NKNUSDT","k":{"t":1633998480000,"T":1633998539999,'
        '"s":"NKNUSDT","i":"1m","f":-1,"L":-1,"o":"0.35270000","c":"0.35280000","h":"0.35280000",'
        '"l":"0.35220000","v":"25877.00000000","n":30,"x":true,"q":"9116.04600000",'
        '"V":"58.00000000","Q":"20.46240000","B":"0"}}'
    )
    bars = [json.loads(event.body)["k"] for event in events]
    assert [bar["x"] for bar in bars] == [False] * 4 + [True]
    for before, after in pairwise(bars):
        assert all(float(before[name]) <= float(after[name]) for name in "hvqVQn")
        assert float(before["l"]) >= float(after["l"])
        assert before["t"] == after["t"]
        assert float(before["l"]) <= float(before["c"]) <= float(before["h"])
        assert [len(before[name]) for name in "ochl"] == [len(after[name]) for name in "ochl"]
    assert [event.due_us for event in events] == sorted(event.due_us for event in events)


def test_a_bar_that_was_open_is_told_from_then_on() -> None:
    archive = OneFile("spot/daily/klines/NKNUSDT/1m/NKNUSDT-1m-2021-10-12", KLINE)
    half = list(told(archive, "spot", "nknusdt@kline_1m", 1_633_998_510_000_000))
    assert [json.loads(body)["k"]["x"] for body in half] == [False, False, True]
    assert not list(told(archive, "spot", "nknusdt@kline_1m", 1_633_998_540_000_001))


def test_a_liquidation_is_an_order_within() -> None:
    stem = "futures/um/daily/liquidationSnapshot/BTCUSDT/BTCUSDT-liquidationSnapshot-2023-01-02"
    line = "1672617612345,SELL,LIMIT,IOC,0.014,16500.10,16510.00,FILLED,0.014,0.014"
    assert [body.decode() for body in told(OneFile(stem, line), "um", "btcusdt@forceOrder")] == [
        '{"e":"forceOrder","E":1672617612345,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC",'
        '"q":"0.014","p":"16500.10","ap":"16510.00","X":"FILLED","l":"0.014","z":"0.014",'
        '"T":1672617612345}}'
    ]


def test_numbers_lose_their_exponent_and_nothing_else() -> None:
    texts = ("4.088E-4", "0E-8", "542.0", "0.7", "61837.63000000", "10", "0.10")
    assert [plain(text) for text in texts] == [
        "0.0004088", "0.00000000", "542", "0.7", "61837.63000000", "10", "0.10",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def market() -> SyntheticArchive:
    return SyntheticArchive(
        symbols=["BTCUSDT"], markets=["spot", "um"], start=date(2025, 1, 1), end=date(2025, 2, 1)
    )


def test_spots_microseconds_are_told_as_milliseconds_unless_asked_for(
    market: SyntheticArchive,
) -> None:
    start_us = int(datetime(2025, 1, 2, tzinfo=UTC).timestamp()) * 1_000_000
    in_ms = json.loads(next(told(market, "spot", "btcusdt@aggTrade", start_us)))
    in_us = json.loads(next(told(market, "spot", "btcusdt@aggTrade", start_us, micro=True)))
    assert in_us["T"] // 1000 == in_ms["T"]
    assert start_us <= in_us["T"] < start_us + 60_000_000


def test_mark_prices_come_with_index_and_next_funding(market: SyntheticArchive) -> None:
    start_us = int(datetime(2025, 1, 1, 4, tzinfo=UTC).timestamp()) * 1_000_000
    three, one = ([json.loads(next(found)) for _ in range(100)] for found in (
        told(market, "um", "btcusdt@markPrice", start_us),
        told(market, "um", "btcusdt@markPrice@1s", start_us),
    ))  # fmt: skip
    assert [m["E"] - three[0]["E"] for m in three] == [3000 * n for n in range(100)]
    assert [m["E"] - one[0]["E"] for m in one] == [1000 * n for n in range(100)]
    assert list(three[0]) == ["e", "E", "s", "p", "i", "P", "r", "T"]
    assert three[0]["T"] == (start_us + 4 * 3_600_000_000) // 1000
    assert float(three[0]["p"]) > 0
    assert abs(float(three[0]["p"]) / float(three[0]["i"]) - 1) < 0.001
    assert len(three[0]["p"].partition(".")[2]) == 8


def test_what_an_archive_has_not_is_no_stream_of_it(market: SyntheticArchive) -> None:
    streams = RowStreams(History(market))
    for name in ("ethusdt@aggTrade", "btcusdt@depth", "btcusdt@miniTicker", "btcusdt@bookTicker"):
        assert streams.events(parse("spot", name), 0) is None
    assert streams.events(parse("um", "btcusdt@depth5"), 0) is None
