"""A segment that nobody can make rows of, by a fault nobody foresaw, costs no other its rows."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.captured import Captured, assert_whole, captured, gaps
from support.streamed import asked, children, ended, wait_for

from lakehouse_ray.silver.stream_frames import SNAPSHOT
from lakehouse_ray.silver.stream_segment import read_records
from lakehouse_ray.storage.records import FRAME
from lakehouse_ray.storage.spool import Spool, list_segments, read_segment

pytestmark = pytest.mark.integration
# A record that no version of this program writes: its symbol is no text.
ODD = b'\xff\n{"lastUpdateId":1,"bids":[],"asks":[]}'


def kill(process: subprocess.Popen[str]) -> None:
    workers = children(process.pid)
    process.kill()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def spoil(folder: Path) -> tuple[int, list[bytes], bytes]:
    """Put the odd record amid the frames that a killed capture has left; returns the segment's number,
    its frames and its bytes."""
    (found,) = list_segments(folder)
    number, path = found
    segment = read_segment(path)
    path.unlink()
    spool = Spool(folder, segment.header, bytes_max=1 << 30, number_from=number)
    half = len(segment.records) // 2
    for place, record in enumerate(segment.records):
        if place == half:
            spool.append(record.received_us, 0, ODD, SNAPSHOT)
        spool.append(record.received_us, record.connection, record.data, record.kind)
    sealed = spool.seal()
    assert sealed is not None
    assert sealed.name.startswith(f"{number:012d}")
    frames = [record.data for record in segment.records if record.kind == FRAME]
    return number, frames, sealed.read_bytes()


def left_by_a_kill(exchange: Captured, home: Path) -> tuple[int, list[bytes], bytes]:
    """What a capture received and never committed, spoiled."""
    exchange.settings["LAKEHOUSE_STREAM__COMMIT_INTERVAL_S"] = "200"
    process = exchange.start(home, "aggTrade", "kline_1m", "bookTicker")
    exchange.play(130, 100)
    kill(process)
    exchange.settings["LAKEHOUSE_STREAM__COMMIT_INTERVAL_S"] = "0.3"
    return spoil(home / "spool/um/0")


def test_a_segment_that_cannot_be_worked_on_is_set_aside_and_its_rows_come_from_rest(
    tmp_path: Path,
) -> None:
    home = tmp_path / "lake"
    with captured() as exchange:
        process = exchange.start(home, "aggTrade", "kline_1m", "bookTicker")
        exchange.play(130, 100)
        process.send_signal(signal.SIGTERM)
        ended(process, 143)
        number, frames, data = left_by_a_kill(exchange, home)
        assert len(frames) > 100
        process = exchange.start(home, "aggTrade", "kline_1m", "bookTicker")
        exchange.play(130, 100)

        def settled() -> bool:
            found = [gap for gap in gaps(home) if gap["dataset"] != "bookTicker"]
            return len(found) >= 4 and all(gap["state"] == "filled" for gap in found)

        wait_for(settled, "gaps that are filled")
        process.send_signal(signal.SIGTERM)
        report = ended(process, 143)
        assert_whole(home, exchange, ("aggTrades", "klines"))
    assert report["recovered_segments"] == 1
    assert report["replaced"] == 0
    # Kept whole, on the disk and in bronze, and said where people look.
    folder = home / "spool/um/0"
    assert [path.name for path in folder.glob("*.bad")] == [f"{number:012d}.bad"]
    assert (folder / f"{number:012d}.bad").read_bytes() == data
    assert list_segments(folder) == []
    (row,) = asked(
        home,
        "select q.detail, o.path, o.state, o.reason from silver.quarantine q join bronze.objects o "
        "on o.version = q.source_version where q.reason = 'SEGMENT_SET_ASIDE'",
    )
    assert "UnicodeDecodeError" in row["detail"]
    assert (row["state"], row["reason"]) == ("quarantined", "SEGMENT_SET_ASIDE")
    kept = [record.data for record in read_records((home / "data" / row["path"]).read_bytes())]
    assert [data for data in kept if data in set(frames)] == frames
    # What no REST has is said to be missing, too.
    unheard = asked(
        home,
        "select symbol, missing, state from silver.stream_gaps where dataset = 'bookTicker' "
        "and why like 'segment % was set aside: UnicodeDecodeError%' order by 1",
    )
    assert unheard == [
        {"symbol": symbol, "missing": None, "state": "no_history"} for symbol in exchange.symbols
    ]
    ended(exchange.run(home, "verify"), 0)
