"""Connects of websockets and snapshots of books keep to the limits that all who ask share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.captured import captured
from support.streamed import UM, children, ended, first_lines, played, wait_for

from lakehouse_ray.testing.exchange import Faults, Rule
from lakehouse_ray.testing.exchange.streams import LIMITS

pytestmark = pytest.mark.integration
CONNECTS = 10
SHARE = 8


def kill(process: subprocess.Popen[str]) -> None:
    workers = children(process.pid)
    process.kill()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_connects_stay_below_the_limit_however_often_a_capture_is_killed(tmp_path: Path) -> None:
    limits = {**LIMITS, "um": replace(LIMITS["um"], connects_max=CONNECTS)}
    cut = Rule("fapi/stream", "connection_cut", params={"after_s": 0.05})
    with captured(
        (cut,), stream_limits=limits, LAKEHOUSE_STREAM__WORKERS="2",
        LAKEHOUSE_STREAM__CONNECTS_PER_5MIN=str(CONNECTS),
        LAKEHOUSE_STREAM__CONNECT_SPACING_S="0.05",
    ) as exchange:  # fmt: skip
        exchange.clock.set_speed(1)
        state = exchange.exchange.streams.state
        process = exchange.start(tmp_path, "aggTrade")
        wait_for(lambda: state()["opened"] >= 3, "connections that are cut")
        kill(process)
        opened = state()["opened"]
        process = exchange.start(tmp_path, "aggTrade") if opened < SHARE else None
        wait_for(lambda: state()["opened"] == SHARE, "all connects that there are")
        time.sleep(2.0)
        assert state()["opened"] == SHARE
        if process is not None:
            process.send_signal(signal.SIGTERM)
            report = ended(process, 143)
            assert report["failed"] == 0


def test_a_ban_that_a_handshake_is_told_stops_rest_too_and_outlives_the_capture(
    tmp_path: Path,
) -> None:
    ban = Rule("fapi/stream*", "throttled", params={"status": 418, "retry_after_s": 600})
    with captured((ban,), LAKEHOUSE_UPDATE__QUIET_MAX_S="5") as exchange:
        exchange.clock.set_speed(1)
        arguments = ("--market", "um", "--symbols", "BTCUSDT", "--streams", "trade")
        process = exchange.run(tmp_path, "stream", *arguments)
        wait_for(lambda: bool(blocked(tmp_path)), "the ban")
        kill(process)
        exchange.exchange.set_faults(Faults())
        process = exchange.run(tmp_path, "stream", *arguments)
        filling = exchange.run(
            tmp_path, "update", "--market", "um", "--dataset", "aggTrades", "--symbols", "BTCUSDT",
            "--start", "2024-05-01T09:00",
        )  # fmt: skip
        _, said = filling.communicate(timeout=60)
        assert filling.returncode == 7, said
        assert "left alone" in said
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        ended(process, 143)
        assert exchange.exchange.told_limits()["um"]["requests"] == 0
        assert exchange.exchange.streams.state()["opened"] == 0


def blocked(home: Path) -> dict[str, float]:
    """What this machine's account says is to be left alone."""
    for path in (home / "limits").glob("*.json"):
        found: dict[str, float] = json.loads(path.read_text())["state"]["blocked"]
        return found
    return {}


@pytest.mark.skipif(not UM.is_file(), reason="the real frames are not on this machine")
def test_snapshots_of_books_wait_until_the_exchange_may_be_asked_again(tmp_path: Path) -> None:
    frames = first_lines(UM, 8_000, tmp_path / UM.name)
    rules = [
        Rule("fapi/v1/depth*", "throttled", times=1, params={"retry_after_s": 3}),
        Rule("fapi/v1/depth*", "html_page", times=1),
    ]
    with played(tmp_path, [frames], rules) as exchange:
        home = tmp_path / "lake"
        process = exchange.start(
            home, "--market", "um", "--symbols", "ETHUSDT", "--streams", "depth@0ms"
        )
        exchange.wait_for_connections()
        exchange.clock.set_speed(1.0)
        wait_for(lambda: exchange.exchange.told_limits()["um"]["requests"] >= 3, "three questions")
        time.sleep(2.0)
        process.send_signal(signal.SIGTERM)
        report = ended(process, 143)
        told = exchange.exchange.told_limits()["um"]
    assert told["too_soon"] == 0
    assert report["rows"].get("bookLevels", 0) > 0
    # The page that came instead of a snapshot is told, and costs no frame.
    assert report["refused"] == 1
