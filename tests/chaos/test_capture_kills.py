"""Capture workers that are killed without a word: what they missed is filled, nothing is twice.

python -m pytest tests/chaos/test_capture_kills.py -s -o faulthandler_timeout=900   both: twelve minutes
python -m pytest tests/chaos/test_capture_kills.py -k few   a few kills
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.captured import assert_whole, captured, gaps, numbers_of
from support.streamed import children, ended, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.slow]
DATASETS = ("aggTrades", "trades", "klines")
STREAMS = ("aggTrade", "trade", "kline_1m", "markPrice@1s")


@pytest.mark.parametrize(
    ("seconds", "every_s", "speed", "symbols"),
    [
        pytest.param(9.0, 3.0, 20.0, 2, id="a few"),
        pytest.param(600.0, 30.0, 1.0, 4, id="every 30 s"),
    ],
)
def test_workers_killed_again_and_again_lose_nothing_that_rest_has(
    tmp_path: Path, seconds: float, every_s: float, speed: float, symbols: int
) -> None:
    home, rng = tmp_path / "lake", random.Random(7)
    names = tuple(f"{chr(65 + number)}USDT" for number in range(symbols))
    killed = 0
    # Two trades a second of the test and symbol at least.
    with captured(
        symbols=names, trades_per_minute=600 if speed == 1 else 120,
        LAKEHOUSE_STREAM__WORKERS="2",
    ) as exchange:  # fmt: skip
        process = exchange.start(home, *STREAMS)
        streams = exchange.exchange.streams

        def all_hear() -> None:
            connected = "both workers' connections"
            wait_for(lambda: len(streams.state()["connections"]) >= 2, connected, 120)

        all_hear()
        exchange.clock.set_speed(speed)
        for _ in range(int(seconds / every_s)):
            all_hear()  # whoever has heard nothing yet misses nothing
            time.sleep(every_s)
            # Who captures, or who fills gaps.
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(sorted(children(process.pid))), signal.SIGKILL)
                killed += 1
        time.sleep(every_s)
        all_hear()
        # Each series says something once more, so that the last of its gaps are seen.
        exchange.play(70, max(speed, 10.0))
        process.send_signal(signal.SIGTERM)
        report = ended(process, 143)
        late = exchange.run(home, "update", "--stream-gaps", "--no-build")
        filled = ended(late, 0)
        found = gaps(home)
        rows = assert_whole(home, exchange, DATASETS)
        limits = exchange.exchange.told_limits()["um"]
    numbered = [gap for gap in found if gap["dataset"] in DATASETS]
    assert {gap["state"] for gap in numbered} == {"filled"}
    assert {gap["state"] for gap in found} == {"filled", "no_history"}
    assert killed >= seconds / every_s - 1
    assert report["replaced"] > killed / 3
    assert limits["refused"] == limits["too_soon"] == limits["while_banned"] == 0
    missed = sum(len(numbers_of(gap)) for gap in numbered)
    print(
        f"{killed} kills in {seconds:.0f} s; {report['received']:,} messages received, {rows:,} rows "
        f"as in the archive; {len(numbered)} gaps of {missed:,} rows, of which "
        f"{report['gaps_ended'].get('filled', 0)} were filled while it ran and "
        f"{filled['stream_gaps_ended'].get('filled', 0)} by the update behind it; "
        f"{report['replaced']} workers replaced"
    )
