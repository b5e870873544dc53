"""`lakehouse stream` against the replica's websocket: what was sent is in the tables once, or named."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.streamed import (
    UM,
    Played,
    asked,
    children,
    ended,
    first_lines,
    frames_of,
    played,
    wait_for,
)

from lakehouse_ray.silver.stream_segment import read_records
from lakehouse_ray.testing.exchange.faults import Rule

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not UM.is_file(), reason="the real frames are not on this machine"),
]
OPTIONS = ("--market", "um", "--symbols", "ETHUSDT")
SPEED = 100.0


def start(exchange: Played, home: Path, *streams: str) -> subprocess.Popen[str]:
    process = exchange.start(home, *OPTIONS, "--streams", ",".join(streams))
    try:
        exchange.wait_for_connections()
    except AssertionError:
        process.kill()
        raise
    return process


def stop(process: subprocess.Popen[str]) -> dict[str, Any]:
    process.send_signal(signal.SIGTERM)
    return ended(process, 143)


def ids_of_gaps(home: Path, dataset: str) -> list[int]:
    rows = asked(
        home,
        f"select first_id, last_id from silver.stream_gap_log where dataset = '{dataset}' "
        "order by first_id",
    )
    return [n for row in rows for n in range(row["first_id"], row["last_id"] + 1)]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first minute or so of the recording."""
    return first_lines(UM, 16_000, tmp_path_factory.mktemp("recorded") / UM.name)


def test_recorded_frames_become_the_rows_that_they_say_across_a_planned_end(
    tmp_path: Path, frames: Path
) -> None:
    home = tmp_path / "lake"
    log = tmp_path / "log.jsonl"
    with played(
        tmp_path, [frames], LAKEHOUSE_STREAM__OVERLAP_S="0.5",
        LAKEHOUSE_LOG__FILE=str(log), LAKEHOUSE_LOG__LEVEL="info",
    ) as exchange:  # fmt: skip
        process = start(exchange, home, "trade", "bookTicker")
        first, last = exchange.recording.span_us
        exchange.play(first + (last - first) // 4, SPEED)
        # The exchange says that it will end the connection: the next one comes first.
        streams = exchange.exchange.streams
        streams.shut_down(in_s=600.0)
        exchange.clock.set_speed(3.0)
        wait_for(lambda: streams.state()["opened"] == 2, "the next connection")
        wait_for(lambda: len(streams.state()["connections"]) == 1, "one connection alone")
        exchange.play(last, SPEED)
        report = stop(process)
    trades, quotes = frames_of(frames, "trade"), frames_of(frames, "bookTicker")
    assert report["rows"] == {"trades": len(trades), "bookTicker": len(quotes)}
    assert (report["gaps"], report["refused"], report["lost"], report["opened"]) == (0, 0, 0, 2)
    # Both connections brought them for a while.
    assert report["duplicates"] > 0
    found = asked(
        home,
        "select id, price, qty, epoch_ms(time) as ms, is_buyer_maker, source, source_key "
        "from silver.trades order by id",
    )
    assert found == [
        {
            "id": trade["t"], "price": float(trade["p"]), "qty": float(trade["q"]),
            "ms": trade["T"], "is_buyer_maker": trade["m"], "source": "stream",
            "source_key": "stream/um/trades/ETHUSDT",
        }
        for trade in trades
    ]  # fmt: skip
    best = asked(home, "select update_id, best_bid_price as bid from silver.book_ticker order by 1")
    assert best == [{"update_id": q["u"], "bid": float(q["b"])} for q in quotes]
    # From a row to its frame.
    (row,) = asked(
        home,
        "select t.id, o.path, o.sha256 from silver.trades t join bronze.object_log o "
        "on o.version = t.source_version and o.dataset = 'trades' order by t.id limit 1",
    )
    body = (home / "data" / row["path"]).read_bytes()
    assert any(b'"t":%d,' % row["id"] in record.data for record in read_records(body))
    assert gzip.decompress(body).count(b" frame ") > 0
    # Nothing waits any more.
    assert not list((home / "spool/um/0").glob("*.seg")) + list(
        (home / "spool/um/0").glob("*.open")
    )
    # The log has its beginning and its end, as of any workflow.
    told = [json.loads(line) for line in log.read_text().splitlines()]
    began, over = [one for one in told if one["event"].startswith("run ")]
    assert (began["event"], began["workflow"]) == ("run started", "stream")
    assert (over["event"], over["state"], over["run_id"]) == (
        "run ended", "stopped", report["run_id"],
    )  # fmt: skip
    assert (over["rows"], over["frames"]) == (len(trades) + len(quotes), report["received"])


def test_disorder_and_malformed_frames_are_mended_or_named(tmp_path: Path, frames: Path) -> None:
    home = tmp_path / "lake"
    what = "fapi/ws/ethusdt@trade"
    rules = [
        Rule(what, "message_duplicated", probability=0.05),
        Rule(what, "messages_swapped", probability=0.05),
        Rule(what, "messages_skipped", probability=0.01, params={"messages": 3}),
        Rule(what, "message_malformed", probability=0.005),
        Rule(what, "unknown_event", probability=0.005),
    ]
    with played(tmp_path, [frames], rules) as exchange:
        process = start(exchange, home, "trade")
        exchange.play(exchange.recording.span_us[1], SPEED)
        report = stop(process)
        planted = exchange.exchange.streams.planted()
    hit = Counter(one["fault"] for one in planted)
    assert min(hit[name] for name in ("message_duplicated", "messages_swapped")) > 50
    missing = {
        json.loads(one["body"])["t"]
        for one in planted
        if one["fault"] in ("messages_skipped", "message_malformed")
    }
    sent = [trade["t"] for trade in frames_of(frames, "trade")]
    found = [row["id"] for row in asked(home, "select id from silver.trades order by id")]
    assert found == [number for number in sent if number not in missing]
    # The last ones have nobody behind them who could tell.
    assert ids_of_gaps(home, "trades") == sorted(n for n in missing if n < found[-1])
    assert report["duplicates"] == hit["message_duplicated"]
    refused = asked(home, "select reason, count(*) as n from silver.quarantine group by reason")
    counts = {row["reason"]: row["n"] for row in refused}
    assert counts["UNKNOWN_EVENT"] == hit["unknown_event"]
    assert sum(counts.values()) == hit["unknown_event"] + hit["message_malformed"]


def test_what_an_open_connection_did_not_hear_is_named_of_streams_without_numbers(
    tmp_path: Path, frames: Path
) -> None:
    home = tmp_path / "lake"
    rules = [Rule("fapi/*", "connection_stalls", times=1, params={"after_s": 20.0})]
    with played(tmp_path, [frames], rules, LAKEHOUSE_STREAM__STALL_S="1.5") as exchange:
        process = start(exchange, home, "bookTicker")
        exchange.play(exchange.recording.span_us[1] + 1_000_000, 10.0)
        report = stop(process)
        assert [one["fault"] for one in exchange.exchange.streams.planted()] == [
            "connection_stalls"
        ]
    assert report["opened"] == 2
    stored = asked(home, "select update_id as u from silver.book_ticker")
    gaps = asked(
        home,
        "select epoch_us(start_time) as a, epoch_us(end_time) as b from silver.stream_gap_log",
    )
    numbers = {row["u"] for row in stored}
    missed = [e["T"] * 1000 for e in frames_of(frames, "bookTicker") if e["u"] not in numbers]
    assert len(missed) > 100
    assert len(gaps) == 1
    assert all(gaps[0]["a"] <= us <= gaps[0]["b"] for us in missed)


def test_workers_that_are_killed_are_replaced_and_no_row_is_lost_or_doubled(
    tmp_path: Path, frames: Path
) -> None:
    home = tmp_path / "lake"
    with played(tmp_path, [frames]) as exchange:
        process = start(exchange, home, "trade")
        first, last = exchange.recording.span_us
        killed = 0
        for part in range(1, 3):
            exchange.play(first + (last - first) * part // 3, SPEED)
            (pid,) = children(process.pid)
            os.kill(pid, signal.SIGKILL)
            killed += 1
            wait_for(
                lambda pid=pid: bool(set(children(process.pid)) - {pid}),  # type: ignore[misc]
                "another worker",
            )
            # What is sent until it is there, nobody hears.
            exchange.play(exchange.clock.now_us() + 500_000, 1.0)
            opened = exchange.exchange.streams.state()["opened"]
            wait_for(
                lambda killed=killed: (  # type: ignore[misc]
                    exchange.exchange.streams.state()["opened"] > killed
                ),
                "another connection",
            )
            assert opened <= killed + 1
        exchange.play(last, SPEED)
        report = stop(process)
    assert report["replaced"] == killed
    sent = [trade["t"] for trade in frames_of(frames, "trade")]
    found = [row["id"] for row in asked(home, "select id from silver.trades order by id")]
    assert len(found) == len(set(found))
    gaps = ids_of_gaps(home, "trades")
    assert sorted(found + gaps) == sent
    assert len(gaps) < len(sent) / 4


def test_frames_wait_on_disk_for_a_lake_that_is_away(tmp_path: Path, frames: Path) -> None:
    """And the next command commits them before it captures anything."""
    home = tmp_path / "lake"
    with played(tmp_path, [frames]) as exchange:
        first, last = exchange.recording.span_us
        process = start(exchange, home, "trade")
        exchange.play(first + (last - first) // 2, SPEED)
        (worker,) = children(process.pid)
        # Both at once: nobody is left who could commit.
        process.kill()
        os.kill(worker, signal.SIGKILL)
        process.communicate()
        exchange.play(exchange.clock.now_us() + 2_000_000, SPEED)
        process = start(exchange, home, "trade", "bookTicker")
        exchange.play(last, SPEED)
        report = stop(process)
    sent = [trade["t"] for trade in frames_of(frames, "trade")]
    found = [row["id"] for row in asked(home, "select id from silver.trades order by id")]
    gaps = ids_of_gaps(home, "trades")
    assert sorted(found + gaps) == sent
    assert gaps
    assert report["gaps"] == 1
