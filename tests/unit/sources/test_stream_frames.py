"""Frames become typed events or are refused by a reason; held against plain json and pandas."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from lakehouse_ray.errors import BadDataError, InvalidError
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance.streams.decode import Control, FrameReader, Message
from lakehouse_ray.sources.binance.streams.events import Answer, ServerShutdown, Snapshot
from lakehouse_ray.sources.binance.streams.names import Stream, parse_stream
from lakehouse_ray.sources.binance.streams.rows import rows_of

RECORDED = Path(__file__).parents[3].parent / "shared/data/recorded/ws"
needs_recorded = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="the real frames are not on this machine"
)
FILES: list[tuple[str, Market, int]] = [
    ("hftbacktest/spot_btcusdt_20240808.gz", "spot", 41_249),
    ("hftbacktest/usdm_ethusdt_20240808.gz", "um", 74_655),
    ("hftbacktest/cm_btcusd_perp_20240808.gz", "cm", 48_270),
    ("cryptofeed/BINANCE.ws.1.0", "spot", 265),
    ("cryptofeed/BINANCE_FUTURES.ws.1.0", "um", 1_535),
]
TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT",'
    b'"t":3735683259,"p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}}'
)
KLINE = (
    b'{"e":"kline","E":1626992760031,"s":"CTKUSDT","k":{"t":1626992700000,"T":1626992759999,'
    b'"s":"CTKUSDT","i":"1m","f":1,"L":48,"o":"1.01000","c":"1.01100","h":"1.01200","l":"1.00900",'
    b'"v":"3917","n":48,"x":true,"q":"3957.89900","V":"1729","Q":"1748.01900","B":"0"}}'
)


def recorded(name: str) -> Iterator[bytes]:
    path = RECORDED / name
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for line in lines:
            if b"{" in line:
                yield line[line.index(b"{") :].strip()


def reason(frame: bytes, market: Market = "spot", asked: list[Stream] | None = None) -> str:
    with pytest.raises(BadDataError) as caught:
        FrameReader(market, asked).read(frame)
    return caught.value.reason


@needs_recorded
@pytest.mark.parametrize(("name", "market", "count"), FILES)
def test_every_recorded_frame_is_decoded_as_json_and_pandas_read_it(
    name: str, market: Market, count: int
) -> None:
    reader = FrameReader(market)
    events: dict[str, list[Any]] = {}
    plain: dict[str, list[dict[str, Any]]] = {}
    snapshots = 0
    for frame in recorded(name):
        said = reader.read(frame)
        if isinstance(said, Control):
            assert isinstance(said.event, Snapshot)
            snapshots += 1
            continue
        truth = json.loads(frame)
        assert said.stream.name == truth["stream"]
        events.setdefault(said.stream.kind, []).append(said.event)
        plain.setdefault(said.stream.kind, []).append(truth["data"])
    assert sum(map(len, events.values())) + snapshots == count
    for kind, data in plain.items():
        if kind == "depth":
            for event, truth in zip(events[kind], data, strict=True):
                assert (event.U, event.u, event.pu) == (truth["U"], truth["u"], truth.get("pu"))
                levels = [(float(p), float(q)) for p, q in truth["b"]]
                assert event.b == levels
                assert event.a == [(float(p), float(q)) for p, q in truth["a"]]
            continue
        ours = rows_of(kind, market, events[kind])  # type: ignore[arg-type]
        assert ours.refused == ()
        theirs = as_pandas(kind, data)
        assert ours.frame.height + ours.passed == len(data)
        assert ours.frame.height == len(theirs)
        for column in theirs.columns:
            mine = ours.frame[column]
            if mine.dtype == pl.Datetime("us", "UTC"):
                mine = mine.cast(pl.Int64)
            assert mine.to_list() == theirs[column].tolist(), column


def as_pandas(kind: str, data: list[dict[str, Any]]) -> pd.DataFrame:
    """The same columns by other means."""
    if kind == "kline":
        frame = pd.DataFrame([item["k"] for item in data])
        frame = frame[frame["x"]]
    else:
        frame = pd.DataFrame(data)
    names = {
        "trade": {"s": "symbol", "t": "id", "p": "price", "q": "qty", "T": "time", "m": "is_buyer_maker"},
        "aggTrade": {
            "s": "symbol", "a": "agg_trade_id", "p": "price", "q": "quantity",
            "f": "first_trade_id", "l": "last_trade_id", "T": "transact_time",
            "m": "is_buyer_maker",
        },
        "bookTicker": {
            "s": "symbol", "u": "update_id", "b": "best_bid_price", "B": "best_bid_qty",
            "a": "best_ask_price", "A": "best_ask_qty", "T": "transaction_time",
            "E": "event_time",
        },
        "kline": {
            "s": "symbol", "i": "interval", "t": "open_time", "o": "open", "h": "high", "l": "low",
            "c": "close", "v": "volume", "q": "quote_volume", "n": "trades",
            "V": "taker_buy_volume", "Q": "taker_buy_quote_volume", "T": "close_time",
        },
    }[kind]  # fmt: skip
    chosen = frame[[letter for letter in names if letter in frame]].rename(columns=names)
    for column in chosen.columns:
        if column.endswith("time"):
            chosen[column] *= 1000
        elif chosen[column].dtype in (object, "str") and column not in ("symbol", "interval"):
            chosen[column] = chosen[column].astype(float)
    return chosen


@needs_recorded
def test_events_that_are_not_captured_and_times_of_1970_are_named() -> None:
    lines = (RECORDED / "gocryptotrader/wsHandleData.json").read_bytes().splitlines()
    reasons = Counter(reason(line) for line in lines if line.strip())
    assert reasons == {"UNKNOWN_EVENT": 5, "UNTYPED_CELL": 3}


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (b"", "NOT_JSON"),
        (b"<html>403</html>", "NOT_JSON"),
        (TRADE[:-1], "NOT_JSON"),
        (TRADE + b"x", "NOT_JSON"),
        (b"\xff\xfe", "NOT_JSON"),
        (TRADE.replace(b'"s":"BTCUSDT"', b'"s":"\xff\xff"'), "NOT_JSON"),
        (b'{"stream":"btcusdt@trade","data":' + b'{"x":' * 100_000, "NOT_JSON"),
        (b"null", "UNKNOWN_EVENT"),
        (b"[]", "UNKNOWN_EVENT"),
        (b"{}", "UNKNOWN_EVENT"),
        (TRADE.replace(b"@trade", b"@24hrTicker"), "UNKNOWN_EVENT"),
        (b'{"e":"24hrTicker","s":"BTCUSDT"}', "UNKNOWN_EVENT"),
        (b'{"stream":"btcusdt@trade"}', "MISSING_FIELD"),
        (TRADE.replace(b'"t":3735683259,', b""), "MISSING_FIELD"),
        (TRADE.replace(b'"e":"trade"', b'"e":"aggTrade"'), "UNKNOWN_EVENT"),
        (TRADE.replace(b'"e":"trade"', b'"e":"somethingNew"'), "UNKNOWN_EVENT"),
        (TRADE.replace(b'"61837.63000000"', b'"NaN"'), "UNTYPED_CELL"),
        (TRADE.replace(b'"61837.63000000"', b'"inf"'), "UNTYPED_CELL"),
        (TRADE.replace(b'"61837.63000000"', b'"-1"'), "UNTYPED_CELL"),
        (TRADE.replace(b'"61837.63000000"', b'"1e999"'), "UNTYPED_CELL"),
        (TRADE.replace(b'"61837.63000000"', b"null"), "UNTYPED_CELL"),
        (TRADE.replace(b"3735683259", b"9" * 40), "UNTYPED_CELL"),
        (TRADE.replace(b'"T":1723161255342', b'"T":0'), "UNTYPED_CELL"),
        (TRADE.replace(b'"data":{', b'"data":[{').replace(b"}}", b"}]}"), "UNKNOWN_EVENT"),
        (TRADE.replace(b'"s":"BTCUSDT"', b'"s":"ETHUSDT"'), "WRONG_SYMBOL"),
        (KLINE.replace(b'"i":"1m"', b'"i":"7m"'), "UNTYPED_CELL"),
        (b'{"stream":"ctkusdt@kline_5m","data":' + KLINE + b"}", "WRONG_SYMBOL"),
    ],
)
def test_a_malformed_frame_is_refused_by_its_reason(frame: bytes, told: str) -> None:
    assert reason(frame) == told


def test_a_frame_of_a_stream_that_nobody_asked_for_is_refused() -> None:
    asked = [parse_stream("ethusdt@trade", "spot"), parse_stream("ctkusdt@kline_1m", "spot")]
    assert reason(TRADE, asked=asked) == "NOT_ASKED"
    assert reason(TRADE[TRADE.index(b'{"e"') : -1], asked=asked) == "NOT_ASKED"
    assert isinstance(FrameReader("spot", asked).read(KLINE), Message)


def test_single_frames_and_frames_in_another_order_say_the_same_as_combined_ones() -> None:
    combined = FrameReader("spot").read(TRADE)
    body = TRADE[TRADE.index(b'{"e"') : -1]
    assert isinstance(combined, Message)
    for frame in (body, b'{"data":' + body + b',"stream":"btcusdt@trade"}', b" " + TRADE):
        said = FrameReader("spot").read(frame)
        assert isinstance(said, Message)
        assert (said.stream, said.event) == (combined.stream, combined.event)


def test_a_best_price_of_spot_is_known_without_its_kind_being_told() -> None:
    said = FrameReader("spot").read(b'{"u":5,"s":"BTCUSDT","b":"1","B":"2","a":"3","A":"4"}')
    assert isinstance(said, Message)
    assert said.stream == Stream("spot", "bookTicker", "BTCUSDT")


def test_answers_and_warnings_of_the_exchange_are_no_rows() -> None:
    reader = FrameReader("spot", [])
    for frame in (
        b'{"result":null,"id":1}',
        b'{"error":{"code":2,"msg":"Invalid request"},"id":"a"}',
        b'{"code":2,"msg":"Invalid request"}',
    ):
        said = reader.read(frame)
        assert isinstance(said, Control)
        assert isinstance(said.event, Answer)
    said = reader.read(b'{"e":"serverShutdown","E":1770123456789}')
    assert isinstance(said, Control)
    assert isinstance(said.event, ServerShutdown)


def test_a_bar_that_is_not_done_is_no_row() -> None:
    events = []
    for frame in (KLINE, KLINE.replace(b'"x":true', b'"x":false')):
        said = FrameReader("um").read(frame)
        assert isinstance(said, Message)
        events.append(said.event)
    rows = rows_of("kline", "um", events)
    assert (rows.frame.height, rows.passed) == (1, 1)
    bar = rows.frame.row(0, named=True)
    assert (bar["market"], bar["symbol"], bar["interval"]) == ("um", "CTKUSDT", "1m")
    assert (bar["open"], bar["close"], bar["trades"]) == (1.01, 1.011, 48)


def test_times_in_microseconds_stay_and_a_time_between_the_scales_is_refused_alone() -> None:
    frames = [
        TRADE,
        TRADE.replace(b"1723161255342", b"1723161255342001").replace(b"3735683259", b"3735683260"),
        # In ms it is of the year 4137, in µs of 1972.
        TRADE.replace(b"1723161255342", b"68400000000000").replace(b"3735683259", b"3735683261"),
    ]
    events = []
    for frame in frames:
        said = FrameReader("spot").read(frame)
        assert isinstance(said, Message)
        events.append(said.event)
    rows = rows_of("trade", "spot", events)
    assert rows.refused == (2,)
    times = rows.frame["time"].cast(pl.Int64).to_list()
    assert times == [1_723_161_255_342_000, 1_723_161_255_342_001]


def test_a_placeholder_among_futures_trades_is_no_row() -> None:
    frame = (
        b'{"e":"trade","E":1723161257687,"T":1723161257679,"s":"BTCUSDT","t":849714402,"p":"0",'
        b'"q":"0","X":"NA","m":true}'
    )
    said = FrameReader("um").read(frame)
    assert isinstance(said, Message)
    rows = rows_of("trade", "um", [said.event])
    assert (rows.frame.height, rows.passed) == (0, 1)


def test_mark_prices_and_forced_orders_become_rows() -> None:
    reader = FrameReader("um")
    mark = reader.read(
        b'{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15000000",'
        b'"i":"11784.62659091","P":"11784.25641265","r":"-0.00038167","T":1562306400000}'
    )
    delivery = reader.read(
        b'{"e":"markPriceUpdate","E":1562305381000,"s":"BTCUSDT_240628","p":"11794.1",'
        b'"i":"11784.6","P":"11784.2","r":"","T":0}'
    )
    order = reader.read(
        b'{"e":"forceOrder","E":1568014460893,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC",'
        b'"q":"0.014","p":"9910","ap":"9910","X":"FILLED","l":"0.014","z":"0.014",'
        b'"T":1568014460893}}'
    )
    assert isinstance(mark, Message)
    assert isinstance(delivery, Message)
    assert isinstance(order, Message)
    marks = rows_of("markPrice", "um", [mark.event, delivery.event]).frame
    assert marks["funding_rate"].to_list() == [-0.00038167, None]
    assert marks["next_funding_time"].is_null().to_list() == [False, True]
    forced = rows_of("forceOrder", "um", [order.event]).frame.row(0, named=True)
    assert (forced["side"], forced["average_price"], forced["order_type"]) == (
        "SELL", 9910.0, "LIMIT",
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "btcusdt@kline_1m",
        "btcusdt@kline_1M",
        "币安人生usdt@trade",
        "btcusdt@depth@100ms",
        "a@depth",
    ],
)
def test_a_stream_reads_back_as_written(name: str) -> None:
    assert parse_stream(name, "spot").name == name


@pytest.mark.parametrize(
    "name",
    [
        "", "btcusdt", "@trade", "btcusdt@", "btcusdt@kline", "btcusdt@kline_1mo",
        "btcusdt@kline_2m", "btcusdt@trade_1m", "btcusdt@trade@100ms", "btcusdt@depth@7ms",
        "btcusdt@depth5", "../x@trade", "btc/usdt@trade", "btcusdt@forceOrder",
        "btcusdt@markPrice",
    ],
)  # fmt: skip
def test_a_name_that_is_no_stream_of_spot_is_refused(name: str) -> None:
    with pytest.raises(InvalidError):
        parse_stream(name, "spot")
