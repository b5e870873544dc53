"""What clients say: commands and refusals in the exchange's shape; names of streams; URLs."""

from __future__ import annotations

import contextlib
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import parse_time
from lakehouse_ray.model.venue import Market
from lakehouse_ray.serve.streams.names import parse_stream, split_path
from lakehouse_ray.serve.streams.options import read_options
from lakehouse_ray.serve.streams.protocol import (
    METHODS,
    Command,
    ProtocolError,
    error_of,
    parse_command,
    result_of,
)
from lakehouse_ray.serve.streams.tokens import Token, parse_token


def say(**message: Any) -> Command:
    return parse_command(json.dumps(message))


def test_commands_of_the_exchange_are_understood() -> None:
    asked = ["btcusdt@aggTrade", "btcusdt@kline_1m"]
    assert say(method="SUBSCRIBE", params=asked, id=1) == Command("SUBSCRIBE", 1, tuple(asked))
    assert say(method="UNSUBSCRIBE", params=asked[:1], id="a-1").streams == ("btcusdt@aggTrade",)
    assert say(method="LIST_SUBSCRIPTIONS", id=None) == Command("LIST_SUBSCRIPTIONS", None)
    assert say(method="SET_PROPERTY", params=["combined", True], id=5).combined
    assert say(method="GET_PROPERTY", params=["combined"], id=2).method == "GET_PROPERTY"
    assert result_of(1) == b'{"result":null,"id":1}'


@pytest.mark.parametrize(
    ("said", "code", "text", "message_id"),
    [
        ('{"method":', 3, "Invalid JSON: expected value at line 1 column", None),
        ("[]", 2, "Invalid request: expected an object", None),
        ('{"id": 7}', 2, "Invalid request: missing field `method`", 7),
        ('{"method": "SUB", "id": 7}', 2, "Invalid request: unknown variant `SUB`, expected", 7),
        ('{"method": "SUBSCRIBE", "params": ["a@trade"]}', 2, "request ID must be an uns", None),
        ('{"method": "SUBSCRIBE", "params": ["a@trade"], "id": 1.5}', 2, "request ID", None),
        ('{"method": "SUBSCRIBE", "params": [1], "id": 1}', 2, "names of streams", 1),
        ('{"method": "SUBSCRIBE", "params": "a@trade", "id": 1}', 2, "params is a list", 1),
        ('{"method": "SUBSCRIBE", "id": 1, "parms": []}', 2, "unknown field `parms`", 1),
        ('{"method": "LIST_SUBSCRIPTIONS", "params": ["x"], "id": 1}', 2, "too many param", 1),
        ('{"method": "GET_PROPERTY", "params": [], "id": 1}', 2, "property name must be", 1),
        ('{"method": "GET_PROPERTY", "params": ["speed"], "id": 1}', 0, "Unknown property", 1),
        ('{"method": "SET_PROPERTY", "params": ["combined", 1], "id": 1}', 1, "Boolean", 1),
        ('{"method": "SET_PROPERTY", "params": ["combined", true, 1], "id": 1}', 2, "too many", 1),
    ],
)
def test_what_the_exchange_refuses_is_refused_as_it_does(
    said: str, code: int, text: str, message_id: int | None
) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_command(said)
    error = caught.value
    assert (error.code, error.message_id) == (code, message_id)
    assert text in str(error)
    told = json.loads(error_of(error.code, error.message, error.message_id))
    assert told == {"error": {"code": code, "msg": str(error)}, "id": message_id}
    assert pickle.loads(pickle.dumps(error)).args == error.args


@given(st.one_of(st.text(), st.binary()))
def test_whatever_is_said_is_a_command_or_a_refusal(said: str | bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert parse_command(said).method in METHODS


def test_names_are_those_of_the_exchange() -> None:
    found = parse_stream("btcusdt@kline_1M", "spot")
    assert (found.symbol, found.interval) == ("BTCUSDT", "1mo")
    assert found.table.name == "silver.klines_coarse"
    assert parse_stream("btcusd_perp@aggTrade", "cm").symbol == "BTCUSD_PERP"
    assert parse_stream("币安人生usdt@trade", "spot").symbol == "币安人生USDT"
    assert parse_stream("btcusd@indexPriceKline_1h", "cm").table.name == (
        "silver.index_price_klines_coarse"
    )
    assert split_path("a@trade/b@trade") == ["a@trade", "b@trade"]
    # ccxt numbers its connections: such a path names no stream.
    assert split_path("/0") == []


@pytest.mark.parametrize(
    ("name", "market", "text"),
    [
        ("btcusdt", "spot", "a stream is <symbol>@<what>"),
        ("BTCUSDT@trade", "spot", "btcusdt@trade"),
        ("btcusdt@depth", "spot", "the lake has @kline_<interval>, @aggTrade, @trade"),
        ("btcusdt@bookTicker", "spot", "the lake has"),
        ("btcusdt@kline_1mo", "spot", "intervals are"),
        ("btcusdt@kline_7m", "spot", "intervals are"),
        ("btcusdt@kline", "spot", "intervals are"),
        ("btcusdt@trade_1m", "spot", "no intervals"),
        ("../x@trade", "spot", "a stream is"),
        ("x'; drop--@trade", "spot", "a stream is"),
    ],
)
def test_what_is_no_stream_is_said_to_be_none(name: str, market: Market, text: str) -> None:
    with pytest.raises(ProtocolError, match="Invalid request: invalid stream") as caught:
        parse_stream(name, market)
    assert text in str(caught.value)


def test_a_url_says_what_is_replayed() -> None:
    found = read_options(
        "spot", "", {"streams": "a@trade/b@trade", "start": "2024-01", "speed": "60"}
    )
    assert (found.streams, found.speed, found.replays, found.ends) == (
        ("a@trade", "b@trade"), 60.0, True, False,
    )  # fmt: skip
    assert read_options("spot", "a@trade", {"end": "2024-02", "speed": "max"}).speed is None
    assert not read_options("spot", "a@trade", {}).replays
    given: list[dict[str, str]] = [{}, {"after": "close"}, {"events": "true"}]
    waits = [read_options("spot", "a@trade", {"end": "2024-02", **one}).waits for one in given]
    assert waits == [True, False, False]
    token = Token(False, 3, {"silver.trades": 1}, start_us=5, end_us=9).spell()
    again = read_options("spot", "a@trade", {"resume": token, "start": "2024-01"})
    assert (again.start_us, again.end_us, again.replays) == (5, 9, True)


@pytest.mark.parametrize(
    "given_",
    [
        {"start": "yesterday"}, {"start": "2024-02", "end": "2024-01"}, {"speed": "60"},
        {"start": "2024", "speed": "-1"}, {"start": "2024", "speed": "nan"}, {"events": "yes"},
        {"api_key": "lk_x"}, {"resume": "x"}, {"timeUnit": "NANOSECOND"}, {"start": "1812"},
        {"start": "2024", "after": "close"}, {"end": "2024", "after": "never"},
        {"end": "2024", "after": "wait", "events": "true"},
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_meant_is_refused(given_: dict[str, str]) -> None:
    with pytest.raises(InvalidError):
        read_options("spot", "btcusdt@trade", given_)


def test_only_spot_writes_microseconds() -> None:
    assert read_options("spot", "", {"timeUnit": "microsecond"}).micro
    with pytest.raises(InvalidError):
        read_options("um", "", {"timeUnit": "MICROSECOND"})


_NAMES = st.sampled_from(["silver.klines_fine", "silver.trades"])
_IDS = st.none() | st.integers(0, 2**63 - 1)


@given(
    live=st.booleans(),
    seq=st.integers(0, 2**60),
    versions=st.dictionaries(_NAMES, _IDS),
    step=st.none() | st.tuples(_NAMES, _IDS),
    place=st.none()
    | st.tuples(st.integers(0, 2**60), st.text(), st.integers(0, 2), st.integers(0, 2**60)),
    start_us=st.none() | st.integers(0, parse_time("2200")),
)
def test_a_token_says_what_it_was_made_of(
    live: bool, seq: int, versions: Any, step: Any, place: Any, start_us: int | None
) -> None:
    token = Token(live, seq, versions, step, place, start_us, None)
    spelled = token.spell()
    assert parse_token(spelled) == token
    assert spelled.isascii()
    assert not set(spelled) & set('"&=+/ ')


@given(st.text() | st.binary().map(lambda data: data.hex()))
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_token(text)


def test_a_token_that_was_cut_or_changed_is_refused() -> None:
    spelled = Token(True, 1, {"silver.trades": 5}).spell()
    for broken in (spelled[:-2], spelled[4:], "A" + spelled[1:], spelled + "AAAA"):
        if broken != spelled:
            with pytest.raises(InvalidError):
                parse_token(broken)
