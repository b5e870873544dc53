"""Names of streams, addresses of websockets, and what clients say."""

from __future__ import annotations

import json

import pytest

from lakehouse_ray.testing.exchange.streams.commands import Command, CommandError, parse_command
from lakehouse_ray.testing.exchange.streams.connection import Asked
from lakehouse_ray.testing.exchange.streams.frames import encode, envelope, text_frame
from lakehouse_ray.testing.exchange.streams.hub import asked_for
from lakehouse_ray.testing.exchange.streams.limits import Window
from lakehouse_ray.testing.exchange.streams.names import InvalidStreamError, StreamName, parse


def test_a_name_says_what_its_stream_is() -> None:
    assert parse("spot", "btcusdt@kline_1M") == StreamName(
        "spot", "btcusdt@kline_1M", "BTCUSDT", "kline", "1mo"
    )
    book = parse("um", "ethusdt@depth20@100ms")
    assert (book.kind, book.levels, book.option, book.is_book) == ("depth", 20, "100ms", False)
    assert parse("spot", "btcusdt@depth").is_book
    assert parse("cm", "btcusd_perp@markPrice@1s").symbol == "BTCUSD_PERP"
    assert parse("um", "币安人生usdt@aggTrade").key == "fapi/ws/币安人生usdt@aggTrade"
    assert parse("um", "!forceOrder@arr").symbol == ""
    # Accepted, and never anything comes: only small letters are symbols.
    assert parse("spot", "BTCUSDT@trade").symbol == ""


@pytest.mark.parametrize(
    ("market", "text"),
    [
        ("spot", "btcusdt"), ("spot", ""), ("spot", "@trade"), ("spot", "btcusdt@trades"),
        ("spot", "btcusdt@kline"), ("spot", "btcusdt@kline_2m"), ("spot", "btcusdt@kline_1mo"),
        ("um", "btcusdt@kline_1s"), ("spot", "btcusdt@forceOrder"), ("spot", "btcusdt@markPrice"),
        ("spot", "btcusdt@depth7"), ("spot", "btcusdt@trade_1m"), ("um", "btcusdt@trade5"),
        ("spot", "btcusdt@trade/ethusdt@trade"), ("spot", "a b@trade"), ("spot", "x" * 51 + "@trade"),
    ],
)  # fmt: skip
def test_what_is_no_stream_is_refused(market: str, text: str) -> None:
    with pytest.raises(InvalidStreamError):
        parse(market, text)


@pytest.mark.parametrize(
    ("path", "query", "asked"),
    [
        ("ws", "", Asked("spot", "ws", combined=False)),
        ("ws/0", "", Asked("spot", "ws", combined=False)),
        ("ws/a@trade/b@trade", "", Asked("spot", "ws", False, ("a@trade", "b@trade"))),
        ("stream", "streams=a@trade/a@trade", Asked("spot", "stream", True, ("a@trade",))),
        ("fapi/ws/a@trade", "", Asked("um", "fapi/ws", False, ("a@trade",))),
        ("fapi/public/stream", "streams=a@depth", Asked("um", "fapi/public/stream", True, ("a@depth",))),
        ("dapi/stream", "streams=", Asked("cm", "dapi/stream", combined=True)),
        ("ws", "timeUnit=microsecond", Asked("spot", "ws", combined=False, micro=True)),
        ("fapi/ws", "timeUnit=MICROSECOND", Asked("um", "fapi/ws", combined=False)),
        ("stream/a@trade", "", None),
        ("data/spot", "", None),
        ("wsx", "", None),
        ("api/v3/klines", "", None),
    ],
)  # fmt: skip
def test_an_address_says_market_form_and_streams(
    path: str, query: str, asked: Asked | None
) -> None:
    assert asked_for(path, query) == asked


def test_commands_are_read() -> None:
    said = '{"method":"SUBSCRIBE","params":["a@trade"],"id":1}'
    assert parse_command(said) == Command("SUBSCRIBE", 1, ("a@trade",))
    assert parse_command('{"method":"LIST_SUBSCRIPTIONS","id":"x"}').id == "x"
    assert parse_command('{"method":"SET_PROPERTY","params":["combined",true],"id":0}').params


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ('{"method"', 3, "Invalid JSON: expected value at line 1 column"),
        ("[" * 100_000, 3, "Invalid JSON"),
        ("[]", 2, "Invalid request: expected an object"),
        ('{"id":1}', 2, "Invalid request: missing field `method`"),
        ('{"method":"BUY","id":1}', 2, "Invalid request: unknown variant `BUY`, expected one of"),
        ('{"method":"SUBSCRIBE","params":["a@trade"],"id":-1}', 2, "request ID must be an unsigned"),
        ('{"method":"SUBSCRIBE","params":["a@trade"],"id":1.5}', 2, "request ID must be an unsigned"),
        ('{"method":"SUBSCRIBE","params":"a@trade","id":1}', 2, "Invalid request: params"),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2, "Invalid request: params"),
        ('{"method":"LIST_SUBSCRIPTIONS","params":["x"],"id":1}', 2, "too many parameters"),
        ('{"method":"GET_PROPERTY","params":[7],"id":1}', 2, "property name must be a string"),
        ('{"method":"GET_PROPERTY","params":["speed"],"id":1}', 0, "Unknown property"),
        ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1, "Invalid value type"),
    ],
)  # fmt: skip
def test_a_wrong_message_is_answered_as_the_exchange_does(said: str, code: int, words: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(said)
    told = json.loads(caught.value.answer())
    assert told["error"]["code"] == code
    assert words in told["error"]["msg"]
    assert told.get("id", 1) == 1


def test_frames_are_those_of_the_standard() -> None:
    # RFC 6455, 5.7: "Hello" unmasked; 256 bytes and 64 KiB of binary data.
    assert text_frame(b"Hello") == bytes.fromhex("81 05 48 65 6c 6c 6f")
    assert encode(0x82, bytes(256))[:4] == bytes.fromhex("82 7e 01 00")
    assert encode(0x82, bytes(65536))[:10] == bytes.fromhex("82 7f 00 00 00 00 00 01 00 00")
    assert text_frame(bytes(125))[:2] == bytes((0x81, 125))
    assert text_frame(bytes(126))[:4] == bytes((0x81, 126, 0, 126))
    assert envelope("a@trade", b'{"e":1}') == b'{"stream":"a@trade","data":{"e":1}}'


def test_a_window_counts_what_was_not_allowed_too() -> None:
    window = Window(2, 1.0)
    moments = (0.0, 0.1, 0.2, 0.9, 1.15, 2.2, 2.3, 2.4)
    assert [window.allows(moment) for moment in moments] == [
        True, True, False, False, False, True, True, False,
    ]  # fmt: skip
