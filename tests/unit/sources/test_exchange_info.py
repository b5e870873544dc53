"""exchangeInfo as it was recorded, and with everything that can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.sources.binance.instruments import read_exchange_info, same_content

RECORDED = Path(__file__).parents[3].parent / "shared/data/recorded/rest_json"
needs_recorded = pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded answers beside")


def body(*symbols: Any, **more: Any) -> bytes:
    return json.dumps({"serverTime": 1, **more, "symbols": list(symbols)}).encode()


def symbol(name: str, **more: Any) -> dict[str, Any]:
    return {"symbol": name, "status": "TRADING", "baseAsset": "A", "quoteAsset": "B", **more}


@needs_recorded
@pytest.mark.parametrize("name", ["BINANCE.0", "BINANCE_FUTURES.0"])
def test_every_record_of_a_recorded_answer_is_read(name: str) -> None:
    line = (RECORDED / "cryptofeed" / name).read_text().splitlines()[0]
    answer = line.partition(" -> ")[2].partition(": ")[2]
    known = {item["symbol"]: item for item in json.loads(answer)["symbols"]}
    info = read_exchange_info(answer.encode())
    assert info.refused == ()
    assert info.states.keys() == known.keys()
    for one, state in info.states.items():
        assert json.loads(state.raw) == known[one]
        assert state.record.base_asset == known[one]["baseAsset"]


def test_only_the_time_of_the_answer_may_differ() -> None:
    one = body(symbol("AB"), serverTime=1)
    assert same_content(one, body(symbol("AB"), serverTime=2))
    assert not same_content(one, body(symbol("AB", status="BREAK"), serverTime=1))
    assert not same_content(one, body(symbol("AB", newField=1), serverTime=1))
    assert not same_content(one, b"<html>")


def test_a_malformed_record_does_not_keep_the_others_from_being_read() -> None:
    broken = {k: v for k, v in symbol("BAD").items() if k != "status"}
    info = read_exchange_info(body(symbol("AB"), broken, symbol("CB", onboardDate="soon")))
    assert info.states.keys() == {"AB"}
    assert [(row.line, row.reason, row.symbol) for row in info.refused] == [
        (2, "MISSING_FIELD", "BAD"),
        (3, "UNTYPED_CELL", "CB"),
    ]
    assert info.doubtful == {"BAD", "CB"}
    assert not info.nameless


@pytest.mark.parametrize("item", [None, 7, [], {}, {"symbol": ""}, {"symbol": 5}])
def test_a_record_that_does_not_tell_its_symbol_is_known_to_be_so(item: Any) -> None:
    info = read_exchange_info(body(symbol("AB"), item))
    assert info.states.keys() == {"AB"}
    assert info.nameless


def test_two_records_of_a_symbol_count_only_where_they_are_the_same() -> None:
    assert read_exchange_info(body(symbol("AB"), symbol("AB"))).states.keys() == {"AB"}
    info = read_exchange_info(body(symbol("AB"), symbol("AB", status="BREAK"), symbol("CB")))
    assert info.states.keys() == {"CB"}
    assert {row.reason for row in info.refused} == {"CONFLICTING_KEY"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "NOT_EXCHANGE_INFO"),
        (b"<html>", "NOT_EXCHANGE_INFO"),
        (b"[]", "NOT_EXCHANGE_INFO"),
        (b"null", "NOT_EXCHANGE_INFO"),
        (b'{"code":-1003,"msg":"Too many requests."}', "NOT_EXCHANGE_INFO"),
        (b'{"symbols":{}}', "NOT_EXCHANGE_INFO"),
        (b'{"symbols":[]}', "EMPTY"),
        (b'{"symbols":[{"symbol":"AB"', "NOT_EXCHANGE_INFO"),
    ],
)
def test_what_is_no_exchange_info_is_refused_as_a_whole(answer: bytes, reason: str) -> None:
    with pytest.raises(BadDataError) as refused:
        read_exchange_info(answer)
    assert refused.value.reason == reason
