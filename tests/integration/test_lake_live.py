"""`lake.live` on a lake of this machine: every committed row once, whatever becomes of it in the tables."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.following import Mirror, told_now, values_of
from support.live_lake import LiveLake
from support.live_rows import live_rows, version
from support.ticking import TickingClock

from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.streams import STREAM_GAPS
from lakehouse_ray.model.timespan import MINUTE_US, parse_time
from lakehouse_ray.pipeline.folding import fold
from lakehouse_ray.query import follow
from lakehouse_ray.query.follow import Follower, LiveRows, wanted_of
from lakehouse_ray.query.lake import Lake

pytestmark = pytest.mark.integration

KLINES, TRADES = DATASETS["klines"], DATASETS["trades"]
START_US = parse_time("2024-05-31T23:40")
START = datetime(2024, 5, 31, 23, 40, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> LiveLake:
    return LiveLake(tmp_path)


def bars(first: int, last: int, value: float = 1, second: int = 1, **more: Any) -> pl.DataFrame:
    """One for each minute from the first to before the last."""
    rows = [(START_US + n * MINUTE_US, value, version(second)) for n in range(first, last)]
    how = {"source": "stream", "market": "spot", "interval": "1m", **more}
    return live_rows(KLINES, rows, **how)


def follower(lake: Lake, symbols: str | None = "BTCUSDT", resume: str | None = None) -> Follower:
    return Follower(lake._find, lake.engine, wanted_of("klines", symbols, "1m", "spot"), resume)


def minutes(events: Any) -> list[tuple[str, str | None, int]]:
    found = []
    for event in events:
        row = event.row or event.was
        found.append((event.kind, event.cause, (row["open_time"] - START) // timedelta(minutes=1)))
    return found


def test_each_row_is_told_once_and_again_only_as_a_correction(lake: LiveLake) -> None:
    following = follower(lake.connect())
    lake.append(KLINES, bars(0, 3))
    assert minutes(told_now(following)) == [("row", None, n) for n in range(3)]
    lake.append(KLINES, bars(0, 3))
    lake.append(KLINES, bars(1, 4, second=2))
    assert minutes(told_now(following)) == [("row", None, 3)]
    # Merged into the main table, and dropped from the hot one.
    fold(lake.writer())
    assert told_now(following) == []
    # Sealed by rows that say the same, and by one that does not.
    lake.merge(KLINES, bars(0, 2, source="daily", second=5))
    assert told_now(following) == []
    lake.merge(KLINES, bars(2, 3, 7, source="daily", second=6))
    (sealed,) = told_now(following)
    assert (sealed.kind, sealed.cause, sealed.seq) == ("correction", "changed", 5)
    assert sealed.row is not None
    assert sealed.was is not None
    assert (sealed.was["close"], sealed.was["source"]) == (1, "stream")
    assert (sealed.row["close"], sealed.row["source"], sealed.source) == (7, "daily", "daily")
    # Late: before what was told.
    lake.merge(KLINES, bars(-2, -1, source="rest"))
    assert minutes(told_now(following)) == [("correction", "late", -2)]


STEP = st.tuples(
    st.sampled_from(["append", "merge", "fold", "look"]),
    st.integers(0, 8),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["stream", "rest", "daily"]),
)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, min_size=3, max_size=9), cut=st.booleans())
def test_what_was_told_is_what_the_lake_has(
    steps: list[tuple[str, int, int, int, str]], cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is written in which order, and however often is looked."""
    made = LiveLake(tmp_path_factory.mktemp("told"))
    lake = made.connect()
    following, mirror = follower(lake, None), Mirror("symbol", "open_time")
    for second, (what, first, count, value, source) in enumerate(steps):
        symbol = "ETHUSDT" if value == 2 else "BTCUSDT"
        if what == "append":
            made.append(KLINES, bars(first, first + count, value, second, symbol=symbol))
        elif what == "merge":
            frame = bars(first, first + count, value, second, symbol=symbol, source=source)
            made.merge(KLINES, frame)
        elif what == "fold":
            fold(made.writer())
        else:
            mirror.apply(told_now(following))
            if cut:
                following = follower(lake, None, following.token.spell())
    mirror.apply(told_now(following))
    stored = lake.sql("FROM silver.klines WHERE \"interval\" = '1m' AND market = 'spot'").pl()
    wanted = values_of(stored.to_dicts(), "symbol", "open_time")
    assert mirror.values() == wanted


def test_following_goes_on_wherever_it_is_cut(lake: LiveLake) -> None:
    begin = follower(lake.connect()).token.spell()
    lake.append(KLINES, bars(0, 6))
    lake.merge(KLINES, bars(2, 4, 5, source="rest", second=2))
    lake.append(KLINES, bars(6, 8))
    whole = told_now(follower(lake.connect(), resume=begin))
    assert len(whole) == 8
    assert [event.seq for event in whole] == list(range(1, 9))
    for cut in random.Random(1).sample(range(8), 4):
        rest = told_now(follower(lake.connect(), resume=whole[cut].resume))
        assert [(e.seq, e.kind, e.row) for e in rest] == [
            (e.seq, e.kind, e.row) for e in whole[cut + 1 :]
        ]


def test_history_and_what_follows_it_have_no_seam(lake: LiveLake) -> None:
    lake.merge(KLINES, bars(0, 4, source="rest"))
    lake.append(KLINES, bars(4, 6))
    history = lake.connect().klines("BTCUSDT", "1m")
    lake.append(KLINES, bars(6, 8))
    fold(lake.writer())
    events = told_now(follower(lake.connect(), resume=history.meta.as_of))
    assert minutes(events) == [("row", None, 6), ("row", None, 7)]
    rows = [*history.collect().to_dicts(), *(dict(event.row or {}) for event in events)]
    assert rows == lake.connect().klines("BTCUSDT", "1m").collect().to_dicts()
    (batch,) = follower_batches(lake, history.meta.as_of)
    assert batch.pl().drop("seq", "event", "cause").to_dicts() == rows[6:]
    assert batch.arrow().num_rows == 2


def follower_batches(lake: LiveLake, resume: str) -> list[Any]:
    following = follower(lake.connect(), resume=resume)
    found: list[Any] = []
    while (step := following.look()) is not None:
        found += following.tell(step)
    return found


def test_trades_of_one_moment_in_two_commits_are_both_new(lake: LiveLake) -> None:
    """Of futures all trades of a millisecond have one time: their numbers tell which is later."""

    def trades(*ids: int) -> pl.DataFrame:
        frame = live_rows(
            TRADES, [(START_US, 1, version(1))] * len(ids), source="stream", market="um"
        )
        return frame.with_columns(id=pl.Series(ids, dtype=pl.Int64))

    found = Follower(
        lake.connect()._find,
        lake.connect().engine,
        wanted_of("trades", "BTCUSDT", None, "um"),
        None,
    )
    for ids in ((10, 11), (12, 13), (9,)):
        lake.append(TRADES, trades(*ids))
    told = []
    lake.append(TRADES, trades(14))
    told += told_now(found)
    lake.append(TRADES, trades(15, 8))
    told += told_now(found)
    ids = [(event.kind, event.row["id"]) for event in told if event.row is not None]
    assert ids == [
        *(("row", n) for n in range(9, 15)), ("correction", 8), ("row", 15),
    ]  # fmt: skip


def test_a_trade_that_another_source_times_more_finely_is_the_same_trade(lake: LiveLake) -> None:
    def trade(time_us: int, source: str) -> pl.DataFrame:
        frame = live_rows(TRADES, [(time_us, 1, version(1))], source=source, market="spot")
        return frame.with_columns(id=pl.lit(7, pl.Int64))

    opened = lake.connect()
    wanted = wanted_of("trades", "BTCUSDT", None, "spot")
    following = Follower(opened._find, opened.engine, wanted, None)
    told = []
    for into, source, more_us in (
        (lake.append, "stream", 0), (lake.append, "rest", 400), (lake.merge, "daily", 417),
    ):  # fmt: skip
        into(TRADES, trade(START_US + more_us, source))
        told += told_now(following)
    assert [(event.kind, event.cause, event.source) for event in told] == [
        ("row", None, "stream"), ("correction", "changed", "rest"),
        ("correction", "changed", "daily"),
    ]  # fmt: skip


def test_gaps_that_a_capture_saw_are_told(lake: LiveLake) -> None:
    following = follower(lake.connect())
    lake.gap("klines", "BTCUSDT", START_US, START_US + 3 * MINUTE_US, interval="1m")
    lake.gap("klines", "ETHUSDT", START_US, START_US + MINUTE_US, interval="1m")
    lake.gap("trades", "BTCUSDT", START_US, START_US + MINUTE_US)
    lake.append(KLINES, bars(3, 4))
    gap, row = told_now(following)
    assert (gap.kind, gap.seq, gap.symbol) == ("gap", 1, "BTCUSDT")
    assert gap.row is not None
    assert (gap.row["missing"], gap.row["start_time"]) == (3, START)
    assert gap.row["why"]
    assert row.seq == 2
    assert lake.connect().sql(f"FROM {STREAM_GAPS.name}").pl().height == 3


def test_it_ends_by_itself_by_its_time_and_when_it_is_closed(lake: LiveLake) -> None:
    assert list(lake.connect().live("klines", "BTCUSDT", "1m", timeout_s=0.05)) == []
    with lake.connect().live("klines", "BTCUSDT", "1m") as live:
        threading.Timer(0.1, live.close).start()
        assert list(live) == []
    with lake.connect().live("klines", ["BTCUSDT"], "1m") as live:
        lake.append(KLINES, bars(0, 2))
        for event in live:
            if event.seq == 1:
                break
        assert next(iter(live)).seq == 2


def test_who_reads_slowly_is_told_so_and_misses_nothing(lake: LiveLake) -> None:
    clock = TickingClock()
    opened = lake.connect()
    wanted = wanted_of("klines", "BTCUSDT", "1m", "spot")
    live = LiveRows(opened._find, opened.engine, wanted, clock=clock, poll_s=0.01)
    lake.append(KLINES, bars(0, 2))
    events = iter(live)
    assert minutes([next(events), next(events)]) == [("row", None, 0), ("row", None, 1)]
    clock.sleep(follow.SLOW_S + 1)
    lake.append(KLINES, bars(2, 3))
    lake.append(KLINES, bars(3, 4))
    slow = next(events)
    assert slow.kind == "slow"
    assert slow.row == {"waited_s": pytest.approx(6.0), "commits_behind": 2}
    assert minutes([next(events), next(events)]) == [("row", None, 2), ("row", None, 3)]


def test_the_command_prints_a_line_an_event_until_it_is_interrupted(lake: LiveLake) -> None:
    lake.append(KLINES, bars(0, 1))
    begin = lake.connect().klines("BTCUSDT", "1m").meta.as_of
    command = [sys.executable, "-m", "lakehouse_ray.cli", "live", "--symbols", "BTCUSDT",
               "--interval", "1m", "--home", str(lake.home), "--resume", begin]  # fmt: skip
    lake.append(KLINES, bars(1, 3))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert [one["seq"] for one in (first, second)] == [1, 2]
    assert first["event"] == "row"
    assert first["row"]["open_time"] == "2024-05-31T23:41:00Z"
    # What it prints is where to go on.
    (event,) = told_now(follower(lake.connect(), resume=first["resume"]))
    assert event.row is not None
    assert event.row["open_time"] == START + timedelta(minutes=2)


def test_what_cannot_be_meant_is_said(lake: LiveLake) -> None:
    lake.append(KLINES, bars(0, 2))
    opened = lake.connect()
    token = opened.live("klines", "BTCUSDT", "1m").resume
    for wrong in (
        {"dataset": "klimes", "interval": "1m"},
        {"dataset": "klines"},
        {"dataset": "trades", "interval": "1m"},
        {"interval": "1m", "market": "moon"},
        {"interval": "1m", "symbols": []},
        {"interval": "1m", "timeout_s": -1},
        {"interval": "1m", "resume": "AAAA"},
        {"interval": "1m", "symbols": "ETHUSDT", "resume": token},
        {"interval": "1m", "resume": "silver.trades@-"},
    ):
        with pytest.raises(InvalidError):
            opened.live(**wrong)  # type: ignore[arg-type]
    gone = "silver.klines_fine@-,silver.klines_coarse@-,silver.klines_hot@123"
    with pytest.raises(NotFoundError, match="no snapshot 123"):
        opened.live("klines", "BTCUSDT", "1m", resume=gone)
