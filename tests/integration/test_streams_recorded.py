"""Events have the shape of frames recorded from the exchange: the same text, but for what no row has."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from lakehouse_ray.model.venue import Market
from lakehouse_ray.serve.binance.numbers import SPOT, Decimals
from lakehouse_ray.serve.streams.events import Row, series_of
from lakehouse_ray.serve.streams.names import parse_stream

RECORDED = Path(__file__).parents[2].parent / "shared/data/recorded/ws"
FRAMES_MAX = 300

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not RECORDED.is_dir(), reason="the real frames are not on this machine"),
]
FILES: list[tuple[str, Market]] = [
    ("cryptofeed/BINANCE.ws.1.0", "spot"),
    ("cryptofeed/BINANCE_FUTURES.ws.1.0", "um"),
    ("hftbacktest/spot_btcusdt_20240808.gz", "spot"),
    ("hftbacktest/usdm_ethusdt_20240808.gz", "um"),
    ("hftbacktest/cm_btcusd_perp_20240808.gz", "cm"),
]
# What no stored row has, and when a frame was sent.
UNKNOWN = {"f": -1, "L": -1, "x": True, "X": "NA"}


def frames(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    path = RECORDED / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            if '{"stream":' in line:
                frame = json.loads(line[line.index("{") :])
                yield frame["stream"], frame["data"]


def decimals_of(text: str) -> int:
    return len(text.partition(".")[2])


def row_of(kind: str, data: dict[str, Any]) -> tuple[Row, Decimals]:
    """The row that would be stored of it, and the decimals that its numbers are written with."""
    if kind == "kline":
        bar = data["k"]
        row = (
            bar["t"] * 1000, float(bar["o"]), float(bar["h"]), float(bar["l"]), float(bar["c"]),
            float(bar["v"]), bar["T"] * 1000, float(bar["q"]), bar["n"], float(bar["V"]),
            float(bar["Q"]),
        )  # fmt: skip
        return row, Decimals(*(decimals_of(bar[name]) for name in ("o", "v", "q")))
    if kind == "bookTicker":
        row = (
            data["u"], float(data["b"]), float(data["B"]), float(data["a"]), float(data["A"]),
            data["T"] * 1000, data["E"] * 1000,
        )  # fmt: skip
        return row, Decimals(decimals_of(data["b"]), decimals_of(data["B"]))
    decimals = Decimals(decimals_of(data["p"]), decimals_of(data["q"]))
    price, size, moment = float(data["p"]), float(data["q"]), data["T"] * 1000
    if kind == "trade":
        return (data["t"], price, size, moment, data["m"], data.get("M")), decimals
    row = (
        data["a"], price, size, data["f"], data["l"], moment, data["m"], data.get("M"),
    )  # fmt: skip
    return row, decimals


@pytest.mark.parametrize(("file", "market"), FILES)
def test_a_row_becomes_the_frame_that_the_exchange_sent(file: str, market: Market) -> None:
    compared: dict[str, int] = {}
    for name, data in frames(file):
        kind = name.partition("@")[2].partition("_")[0]
        if kind not in ("kline", "aggTrade", "trade", "bookTicker"):
            continue
        if (market == "spot" and kind == "bookTicker") or compared.get(kind, 0) >= FRAMES_MAX:
            continue
        row, decimals = row_of(kind, data)
        stream = parse_stream(name, market)
        series = series_of(stream, SPOT if market == "spot" else decimals, micro=False)
        written = series.shape.write(row)
        wanted = json.loads(json.dumps(data))
        if kind != "bookTicker":
            wanted["E"] = written["E"]
        inner = wanted.get("k", wanted)
        changed = UNKNOWN if kind == "kline" else {"X": "NA"}
        inner.update({key: value for key, value in changed.items() if key in inner})
        assert orjson.dumps(written) == orjson.dumps(wanted)
        compared[kind] = compared.get(kind, 0) + 1
    assert compared, file


def test_a_bar_is_due_when_all_of_its_trades_are_over() -> None:
    stream = parse_stream("btcusdt@kline_1m", "spot")
    series = series_of(stream, SPOT, micro=False)
    bar = [0, 1.0, 1.0, 1.0, 1.0, 0.0, 59_999_000, 0.0, 0, 0.0, 0.0]
    assert series.place(tuple(bar))[:2] == (60_000_000, "btcusdt@kline_1m")
    # Microseconds, an end that outage cut, and one that was cut to nonsense.
    for closed, due in ((59_999_999, 60_000_000), (1_581_000, 1_582_000), (-5, 0)):
        bar[6] = closed
        assert series.place(tuple(bar))[0] == due
