"""Gaps that a capture has seen are filled from REST, by the capture itself or by `lakehouse update`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from support.captured import Captured, assert_whole, captured, gaps, numbers_of
from support.streamed import ended, wait_for

from lakehouse_ray.testing.exchange import Rule

pytestmark = pytest.mark.integration
DATASETS = ("aggTrades", "trades", "klines")
STREAMS = ("aggTrade", "trade", "kline_1m", "markPrice@1s")
RULES = (
    Rule("fapi/ws/*@aggTrade", "messages_skipped", probability=0.01, params={"messages": 3}),
    Rule("fapi/ws/*@trade", "messages_skipped", probability=0.01, params={"messages": 4}),
)


def told(exchange: Captured) -> set[tuple[str, str, int]]:
    """What was planted, as data set, symbol and number."""
    found = set()
    for one in exchange.exchange.streams.planted():
        if one["fault"] != "messages_skipped":
            continue
        data = json.loads(one["body"])
        data = data.get("data", data)
        dataset = {"aggTrade": "aggTrades", "trade": "trades"}[data["e"]]
        found.add((dataset, data["s"], data["a" if dataset == "aggTrades" else "t"]))
    return found


def settled(home: Path) -> bool:
    return all(gap["state"] != "open" for gap in gaps(home))


def test_a_capture_fills_what_it_missed(tmp_path: Path) -> None:
    home = tmp_path / "lake"
    with captured(RULES) as exchange:
        process = exchange.start(home, *STREAMS)
        exchange.play(300, 100)
        # All at once, twice: what is sent until they are back, nobody hears.
        for _ in range(2):
            exchange.clock.set_speed(100)
            exchange.cut_all()
            exchange.play(240, 100)
        # The first message behind a gap tells of it.
        exchange.play(90, 100)
        wait_for(lambda: len(gaps(home)) > 0 and settled(home), "gaps that are filled", 60)
        planted = told(exchange)
        process.send_signal(signal.SIGTERM)
        report = ended(process, 143)
        found = gaps(home)
        missed = {
            (gap["dataset"], gap["symbol"], number)
            for gap in found
            if gap["dataset"] in DATASETS
            for number in numbers_of(gap)
        }
        rows = assert_whole(home, exchange, DATASETS)
        limits = exchange.exchange.told_limits()["um"]
    assert rows > 1_000
    # Each one that is behind the first message and before the last one.
    assert len(planted & missed) >= len(planted) - 8
    assert len(planted) > 20
    states = {gap["state"] for gap in found if gap["dataset"] in DATASETS}
    assert states == {"filled"}
    lost = [gap for gap in found if gap["dataset"] == "markPrice"]
    assert {(gap["state"], gap["detail"]) for gap in lost} == {
        ("no_history", "REST has no history of markPrice")
    }
    assert report["gaps_ended"] == {"filled": len(found) - len(lost)}
    assert (limits["refused"], limits["too_soon"]) == (0, 0)
