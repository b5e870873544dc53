"""Records that come in one by one, held against what the exchange has really answered and sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.records.bars import KlineEvent, KlineRecord
from lakehouse_ray.model.records.base import Record, read_record
from lakehouse_ray.model.records.contracts import FundingRecord, MetricsRecord
from lakehouse_ray.model.records.instruments import InstrumentRecord
from lakehouse_ray.model.records.trades import AggTradeRecord, TradeRecord

RECORDED = Path(__file__).parents[3].parent / "shared/data/recorded"
needs_recorded = pytest.mark.skipif(
    not RECORDED.exists(), reason="no recorded answers at ../shared/data/recorded"
)

ROW = [
    1_640_995_200_000, "46216.93", "46731.39", "46208.37", "46656.13", "1503.33", 1_640_998_799_999,
    "69891258.78", 42_627, "847.33", "39392044.67", "0",
]  # fmt: skip


def answers(route: str) -> Iterator[Any]:
    """The items of every recorded answer of a route that is a list."""
    recorded = json.loads((RECORDED / "rest_json/gocryptotrader/http.json").read_text())
    for entry in recorded["routes"][route]["GET"]:
        data = entry["data"]
        if isinstance(data, list):
            yield from data


def messages(kind: str) -> Iterator[dict[str, Any]]:
    """Every recorded websocket message of a kind."""
    for file in sorted((RECORDED / "ws/cryptofeed").iterdir()):
        for line in file.read_text().splitlines()[1:]:
            text = line.partition(": ")[2]
            data = json.loads(text) if text else {}
            data = data.get("data", data)
            if isinstance(data, dict) and data.get("e") == kind:
                yield data


def test_a_row_of_klines_becomes_columns_in_microseconds() -> None:
    bar = read_record(KlineRecord, ROW)
    assert bar.model_dump() == {
        "open_time": 1_640_995_200_000_000,
        "open": 46216.93,
        "high": 46731.39,
        "low": 46208.37,
        "close": 46656.13,
        "volume": 1503.33,
        "quote_volume": 69891258.78,
        "trades": 42_627,
        "taker_buy_volume": 847.33,
        "taker_buy_quote_volume": 39392044.67,
        "close_time": 1_640_998_799_999_000,
    }


def test_times_in_microseconds_are_left_as_they_are() -> None:
    row = [1_735_689_600_000_000, *ROW[1:6], 1_735_693_199_999_999, *ROW[7:]]
    bar = read_record(KlineRecord, row)
    assert (bar.open_time, bar.close_time) == (1_735_689_600_000_000, 1_735_693_199_999_999)


@pytest.mark.parametrize(
    ("kind", "dataset"),
    [
        (KlineRecord, "klines"),
        (AggTradeRecord, "aggTrades"),
        (TradeRecord, "trades"),
        (FundingRecord, "fundingRate"),
        (MetricsRecord, "metrics"),
    ],
)
def test_fields_are_columns_of_the_data_set(kind: type[Record], dataset: str) -> None:
    columns = {column.name for column in DATASETS[dataset].columns}
    assert set(kind.model_fields) - {"symbol"} == columns


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (0, "1640995200000"),
        (0, 1640995200),
        (0, True),
        (0, 10**18),
        (1, "nan"),
        (1, "1_000"),
        (1, " 1"),
        (1, "1e999"),
        (1, ""),
        (1, None),
        (1, True),
        (5, "-1"),
        (8, "42627"),
        (8, 4.5),
        (8, -1),
    ],
)
def test_a_cell_that_is_no_value_of_its_type_is_refused(cell: int, value: object) -> None:
    with pytest.raises(BadDataError) as caught:
        read_record(KlineRecord, [*ROW[:cell], value, *ROW[cell + 1 :]])
    assert caught.value.reason == "UNTYPED_CELL"


@pytest.mark.parametrize("row", [ROW[:-1], [*ROW, "0"], [], "text", None, 7, {"code": -1121}])
def test_what_is_no_row_is_refused(row: object) -> None:
    with pytest.raises(BadDataError):
        read_record(KlineRecord, row)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(BadDataError, match="MISSING_FIELD: AggTradeRecord: m is missing"):
        read_record(AggTradeRecord, {"a": 1, "p": "1", "q": "1", "f": 1, "l": 1, "T": ROW[0]})


def test_fields_that_are_not_known_do_no_harm() -> None:
    trade = {"id": 1, "price": "2", "qty": "3", "time": ROW[0], "isBuyerMaker": True, "new": {}}
    assert read_record(TradeRecord, trade).qty == 3


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner)))  # fmt: skip
def test_any_json_is_a_record_or_bad_data(data: object) -> None:
    for kind in (
        KlineRecord, KlineEvent, AggTradeRecord, TradeRecord, FundingRecord, MetricsRecord,
        InstrumentRecord,
    ):  # fmt: skip
        with suppress(BadDataError):
            assert isinstance(read_record(kind, data), kind)


@needs_recorded
@pytest.mark.parametrize(
    ("route", "kind", "least"),
    [
        ("/api/v3/klines", KlineRecord, 100),
        ("/fapi/v1/klines", KlineRecord, 10),
        ("/dapi/v1/continuousKlines", KlineRecord, 5),
        ("/dapi/v1/markPriceKlines", KlineRecord, 5),
        ("/dapi/v1/indexPriceKlines", KlineRecord, 5),
        ("/fapi/v1/aggTrades", AggTradeRecord, 5),
        ("/dapi/v1/aggTrades", AggTradeRecord, 5),
        ("/api/v3/trades", TradeRecord, 10),
        ("/api/v3/historicalTrades", TradeRecord, 5),
        ("/fapi/v1/trades", TradeRecord, 10),
        ("/dapi/v1/trades", TradeRecord, 5),
        ("/fapi/v1/fundingRate", FundingRecord, 1),
        ("/dapi/v1/fundingRate", FundingRecord, 5),
        ("/futures/data/openInterestHist", MetricsRecord, 3),
    ],
)
def test_every_recorded_answer_is_read(route: str, kind: type[Record], least: int) -> None:
    items = list(answers(route))
    assert len(items) >= least
    for item in items:
        read_record(kind, item)


@needs_recorded
def test_of_the_recorded_spot_trades_only_those_without_a_side_are_refused() -> None:
    # The recorder blanked the name of `m` in some answers.
    items = list(answers("/api/v3/aggTrades"))
    whole = [item for item in items if "m" in item]
    assert 0 < len(whole) < len(items)
    for item in items:
        if item in whole:
            assert read_record(AggTradeRecord, item).price > 0
        else:
            with pytest.raises(BadDataError, match="m is missing"):
                read_record(AggTradeRecord, item)


@needs_recorded
def test_the_rows_of_a_recorded_answer_are_the_archive_s_bars() -> None:
    rows = json.loads((RECORDED / "rest_json/klines_rows/BTCUSDT-1h-2022-01-01.json").read_text())
    csv = (RECORDED / "csv/spot_klines_1h_year/BTCUSDT-1h-2022-01.csv").read_text().splitlines()
    published = {cells[0]: cells for cells in (line.split(",") for line in csv)}
    assert len(rows) > 500
    for row in rows:
        bar, cells = read_record(KlineRecord, row), published[str(row[0])]
        assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == tuple(map(float, cells[1:6]))
        assert (bar.quote_volume, bar.trades) == (float(cells[7]), int(cells[8]))
        assert (bar.taker_buy_volume, bar.taker_buy_quote_volume) == tuple(map(float, cells[9:11]))


@needs_recorded
@pytest.mark.parametrize("route", ["/api/v3/exchangeInfo", "/fapi/v1/exchangeInfo", "/dapi/v1/exchangeInfo"])  # fmt: skip
def test_every_symbol_of_a_recorded_exchange_info_is_read(route: str) -> None:
    recorded = json.loads((RECORDED / "rest_json/gocryptotrader/http.json").read_text())
    symbols = recorded["routes"][route]["GET"][0]["data"]["symbols"]
    assert len(symbols) == 25
    for item in symbols:
        record = read_record(InstrumentRecord, item)
        assert record.status
        assert record.tick_size
        assert record.step_size
        assert (record.contract_type is None) == route.startswith("/api")
        assert (record.contract_size is not None) == route.startswith("/dapi")


@needs_recorded
@pytest.mark.parametrize("file", ["BINANCE.0", "BINANCE_FUTURES.0"])
def test_every_symbol_of_an_older_exchange_info_is_read(file: str) -> None:
    first = (RECORDED / "rest_json/cryptofeed" / file).read_text().splitlines()[0]
    symbols = json.loads(first.partition(": ")[2])["symbols"]
    assert len(symbols) > 100
    for item in symbols:
        assert read_record(InstrumentRecord, item).tick_size is not None


@needs_recorded
def test_every_recorded_kline_message_is_read() -> None:
    events = [read_record(KlineEvent, message) for message in messages("kline")]
    assert len(events) == 69
    for event, message in zip(events, messages("kline"), strict=True):
        assert event.bar.open_time == message["k"]["t"] * 1000
        assert event.bar.close == float(message["k"]["c"])
        assert event.closed is message["k"]["x"]
        assert event.interval == "1m"


@needs_recorded
def test_every_recorded_joined_trade_message_is_read() -> None:
    trades = [read_record(AggTradeRecord, message) for message in messages("aggTrade")]
    assert len(trades) == 93


def test_a_message_of_another_kind_or_interval_is_refused() -> None:
    bar = {"t": ROW[0], "T": ROW[6], "i": "1m", "f": 1, "L": 2, "o": "1", "c": "1", "h": "1",
           "l": "1", "v": "1", "n": 1, "x": True, "q": "1", "V": "1", "Q": "1"}  # fmt: skip
    event = {"e": "kline", "E": ROW[0], "s": "BTCUSDT", "k": bar}
    assert read_record(KlineEvent, event).closed
    assert read_record(KlineEvent, {**event, "k": {**bar, "i": "1M"}}).interval == "1mo"
    for wrong in ({**event, "e": "trade"}, {**event, "k": {**bar, "i": "7m"}}, {**event, "k": 1}):
        with pytest.raises(BadDataError):
            read_record(KlineEvent, wrong)
