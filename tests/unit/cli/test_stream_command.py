"""What `lakehouse stream` refuses before it opens anything, and how it tells what it did."""

from __future__ import annotations

import json

import pytest

from lakehouse_ray.cli.options import duration_s
from lakehouse_ray.cli.stream import _lines, _streams
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.pipeline.stream_capture import CaptureReport
from lakehouse_ray.pipeline.stream_commits import CaptureTally
from lakehouse_ray.pipeline.stream_worker import CaptureStatus


def test_symbols_and_streams_are_combined() -> None:
    found = _streams("um", "BTCUSDT, ETHUSDT,BTCUSDT", "kline_1m,depth@100ms")
    assert [stream.name for stream in found] == [
        "btcusdt@kline_1m", "btcusdt@depth@100ms", "ethusdt@kline_1m", "ethusdt@depth@100ms",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("market", "symbols", "streams"),
    [
        ("um", "", "trade"),
        ("um", "BTCUSDT", ","),
        ("um", "BTC/USDT", "trade"),
        ("um", "../..", "trade"),
        ("um", "BTCUSDT", "kline_7m"),
        ("um", "BTCUSDT", "ticker"),
        ("spot", "BTCUSDT", "forceOrder"),
        ("margin", "BTCUSDT", "trade"),
    ],
)
def test_what_is_no_stream_is_refused(market: str, symbols: str, streams: str) -> None:
    with pytest.raises(InvalidError):
        _streams(market, symbols, streams)


@pytest.mark.parametrize(
    ("text", "seconds"), [("", None), ("90", 90.0), ("1.5s", 1.5), ("10m", 600.0), ("1d", 86_400.0)]
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1s", "1w", "ten", "1h30m", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        duration_s(text)


def test_a_report_tells_losses_and_refusals() -> None:
    tally = CaptureTally(frames=12, rows={"trades": 10}, gaps=1, missing=3, refused=2)
    report = CaptureReport("run", "um", 1, 2, 5.0, status=CaptureStatus(tally, lost=4))
    text = "\n".join(_lines(report))
    for said in ("12 frames", "10 trades", "3 numbers", "2 frames", "LOST         4"):
        assert said in text
    document = json.loads(json.dumps(report.as_dict()))
    assert (document["rows"], document["lost"], document["frames"]) == ({"trades": 10}, 4, 12)
