"""What a capture is sent that is wrong is named, and the rest flows on as if it had not been."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from support.captured import assert_whole, captured, gaps
from support.streamed import asked, ended, wait_for

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.clock import SystemClock
from lakehouse_ray.pipeline.realtime_plan import UpdateRequest
from lakehouse_ray.pipeline.realtime_update import update
from lakehouse_ray.pipeline.stream_capture import CaptureRequest, plan_capture
from lakehouse_ray.pipeline.stream_worker import CaptureStatus, capture
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.settings import load_settings
from lakehouse_ray.silver.stream_segment import streams_of
from lakehouse_ray.testing.exchange import Rule

pytestmark = pytest.mark.integration
FORMS = ("truncated", "not_json", "empty", "null", "untyped", "nested", "binary")
NO_ANSWERS = ("html_page", "empty_body", "null_body", "cut_json", "empty_list")
_EVENTFUL = "fapi/ws/*@aggTrade"


def test_nonsense_of_all_kinds_is_told_and_costs_no_row(tmp_path: Path) -> None:
    """Frames that are none, events that nobody knows, a symbol that stops, and a REST that answers
    with everything but an answer when it is asked for what is missing."""
    home = tmp_path / "lake"
    rules = [
        Rule(_EVENTFUL, "unknown_event", probability=0.03),
        *(
            Rule(_EVENTFUL, "message_malformed", probability=0.1, times=2, params={"form": form})
            for form in FORMS
        ),
        Rule("fapi/ws/ethusdt@*", "stream_stops", params={"after": 150}),
        *(Rule("fapi/v1/aggTrades?*", fault, times=1) for fault in NO_ANSWERS),
    ]  # fmt: skip
    with captured(rules, trades_per_minute=120, LAKEHOUSE_STREAM__STALL_S="1") as exchange:
        process = exchange.start(home, "aggTrade", "kline_1m")
        exchange.play(600, 100)

        def settled() -> bool:
            found = gaps(home)
            return bool(found) and all(gap["state"] == "filled" for gap in found)

        exchange.wait_for_last_trade(home)
        wait_for(settled, "gaps that are filled")
        planted = exchange.exchange.streams.planted()
        process.send_signal(signal.SIGTERM)
        report = ended(process, 143)
        rows = assert_whole(home, exchange, ("aggTrades", "klines"))
    assert rows > 200
    assert Counter(one["fault"] for one in planted)["stream_stops"] >= 1
    refused = asked(home, "select reason, count(*) as n from silver.quarantine group by reason")
    assert {row["reason"]: row["n"] for row in refused}["UNKNOWN_EVENT"] > 0
    assert Counter(one["fault"] for one in planted)["message_malformed"] == 2 * 2 * len(FORMS)
    assert report["refused"] > 0
    assert report["replaced"] == 0


class Wrong(SystemClock):
    """A machine's clock that is hours before or behind the exchange's."""

    def __init__(self, hours: float) -> None:
        self._off_us = round(hours * 3_600_000_000)

    def now_us(self) -> int:
        return super().now_us() + self._off_us


@pytest.mark.parametrize("hours", [pytest.param(-7.0, marks=pytest.mark.slow), 30.0])
def test_a_machine_whose_clock_is_wrong_stores_the_exchanges_times(
    tmp_path: Path, hours: float
) -> None:
    skip = Rule(_EVENTFUL, "messages_skipped", probability=0.02)
    with captured((skip,), LAKEHOUSE_HOME=str(tmp_path)) as exchange:
        # The exchange's clock is right: it is the machine's that is not.
        exchange.clock.set_speed(1)
        url = exchange.exchange.url
        settings = load_settings(
            {
                "home": str(tmp_path),
                "binance": {"um_url": url, "um_stream_url": f"ws{url.removeprefix('http')}/fapi"},
                "stream": {"commit_interval_s": 0.3, "connect_spacing_s": 0.1},
            }
        ).resolved()
        writer = Writer(settings)
        writer.__dict__["clock"] = Wrong(hours)
        names = [f"{s.lower()}@{w}" for s in exchange.symbols for w in ("aggTrade", "kline_1m")]
        (task,) = plan_capture(writer, CaptureRequest("um", tuple(streams_of("um", names))))
        stop, seen = threading.Event(), list[CaptureStatus]()
        thread = threading.Thread(target=capture, args=(task, stop, seen.append))
        thread.start()
        wait_for(lambda: bool(exchange.exchange.streams.state()["connections"]), "a connection")
        exchange.play(400, 100)
        time.sleep(1.0)
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        report = update(
            writer, UpdateRequest(Asked(market="um"), build=False, stream_gaps_only=True)
        )
        assert report.stream_gaps_ended == {"filled": seen[-1].tally.gaps}
        assert seen[-1].tally.gaps > 0
        assert_whole(tmp_path, exchange, ("aggTrades", "klines"))
