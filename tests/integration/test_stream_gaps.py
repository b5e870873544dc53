"""Gaps that a capture has seen are filled from REST, by the capture itself or by `lakehouse update`."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.captured import Captured, assert_whole, captured, gaps, numbers_of
from support.failing import Crashed, FailingCommitter, FailingWriter, crash
from support.streamed import asked, ended, wait_for

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.pipeline.realtime_plan import UpdateRequest
from lakehouse_ray.pipeline.realtime_update import update
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.settings import load_settings
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


def bounds(home: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """First and last number that is stored of each series."""
    rows = asked(
        home,
        "select 'aggTrades' as d, symbol, min(agg_trade_id) as a, max(agg_trade_id) as b "
        "from silver.agg_trades group by symbol union all "
        "select 'trades', symbol, min(id), max(id) from silver.trades group by symbol",
    )
    return {(row["d"], row["symbol"]): (row["a"], row["b"]) for row in rows}


def last_sent(exchange: Captured, planted: set[tuple[str, str, int]]) -> dict[tuple[str, str], int]:
    """The number of the last message of each series that was sent, by the archive and the clock."""
    now_ms = exchange.clock.now_us() // 1000
    return {
        (dataset, symbol): max(
            int(row[0])
            for row in exchange.truth(dataset, symbol)
            if int(row[column]) <= now_ms and (dataset, symbol, int(row[0])) not in planted
        )
        for dataset, column in (("aggTrades", 5), ("trades", 4))
        for symbol in exchange.symbols
    }


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
        planted = told(exchange)
        last = last_sent(exchange, planted)
        wait_for(lambda: {k: b for k, (_, b) in bounds(home).items()} == last, "the last rows", 60)
        wait_for(lambda: len(gaps(home)) > 0 and settled(home), "gaps that are filled", 60)
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
    # Each one behind the first message and before the last one was seen to be missing.
    ends = bounds(home)
    inside = {one for one in planted if ends[one[:2]][0] < one[2] < ends[one[:2]][1]}
    assert len(inside) > 20
    assert inside <= missed
    states = {gap["state"] for gap in found if gap["dataset"] in DATASETS}
    assert states == {"filled"}
    lost = [gap for gap in found if gap["dataset"] == "markPrice"]
    assert {(gap["state"], gap["detail"]) for gap in lost} == {
        ("no_history", "REST has no history of markPrice")
    }
    assert report["gaps_ended"] == {"filled": len(found) - len(lost)}
    assert (limits["refused"], limits["too_soon"]) == (0, 0)


TABLES = (
    "bronze.object_log", "silver.agg_trades", "silver.klines_fine", "silver.stream_gap_state_log",
)  # fmt: skip
HOOKS = ("before", "after")


def test_what_a_stopped_capture_left_is_filled_by_an_update_killed_at_any_commit(
    tmp_path: Path,
) -> None:
    datasets = ("aggTrades", "klines")
    with captured(RULES[:1], LAKEHOUSE_STREAM__FILL_GAPS="false") as exchange:
        process = exchange.start(tmp_path, "aggTrade", "kline_1m")
        exchange.play(300, 100)
        # However soon they are back: until a minute has ended meanwhile, and with it a bar.
        exchange.clock.set_speed(1000)
        away_us = 0
        while away_us < 180_000_000:  # one of it is how late `cut_all` may see that they are back
            cut_us = exchange.clock.now_us()
            exchange.cut_all()
            away_us = exchange.clock.now_us() - cut_us
        exchange.play(300, 100)
        process.send_signal(signal.SIGTERM)
        ended(process, 143)
        before = gaps(tmp_path)
        assert {gap["state"] for gap in before} == {"open"}
        assert {gap["dataset"] for gap in before} == set(datasets)
        plan = ended(exchange.run(tmp_path, "update", "--stream-gaps", "--dry-run"), 0)
        wanted = [one for one in plan["fills"] if one["kind"] == "stream_gap"]
        assert plan["fills"] == wanted
        assert plan["costs"]["um"]["weight"] == sum(one["costs"]["weight"] for one in wanted) > 0
        ids = [one["ids"] for one in wanted if one["dataset"] == "aggTrades"]
        for gap in before:
            if gap["dataset"] == "aggTrades":
                assert any(a <= gap["first_id"] and gap["last_id"] <= b for a, b in ids)

        request = UpdateRequest(Asked(market="um"), build=False, stream_gaps_only=True)
        settings = load_settings(
            {"home": str(tmp_path), "binance": {"um_url": exchange.exchange.url}}
        )
        crashed: list[tuple[str, str]] = []

        def once(table: str, hook: str) -> Callable[[], None]:
            def crash_or_not() -> None:
                if (table, hook) not in crashed:
                    crashed.append((table, hook))
                    crash()

            return crash_or_not

        # Which data set's answer comes first is nobody's choice: each commit crashes the first time,
        # and two may do so in one update.
        while set(crashed) != {(table, hook) for table in TABLES for hook in HOOKS}:
            dying = FailingWriter(settings.resolved())
            around = {
                table: lambda inner, hooks=hooks: FailingCommitter(inner, 1, **hooks)
                for table in TABLES
                for hooks in ({hook: once(table, hook) for hook in HOOKS},)
            }
            object.__setattr__(dying, "around", around)
            with pytest.raises(Crashed):  # until all have crashed, each update does
                update(dying, request)
        report = update(Writer(settings.resolved()), request)
        assert report.stream_gaps_open == 0
        assert {gap["state"] for gap in gaps(tmp_path)} == {"filled"}
        assert_whole(tmp_path, exchange, datasets)
        requests = exchange.exchange.told_limits()["um"]["requests"]
        again = update(Writer(settings.resolved()), request)
        assert (again.stream_gaps, again.requests, again.rows) == (0, 0, 0)
        assert exchange.exchange.told_limits()["um"]["requests"] == requests
