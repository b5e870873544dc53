"""What a worker commits is there, whatever it remembers of what it committed before."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl
from support.live_lake import LiveLake
from support.live_rows import live_rows

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import SECOND_US, format_time, parse_time
from lakehouse_ray.model.work import version_of
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.stream_commits import SegmentCommits, tables_of_capture
from lakehouse_ray.pipeline.stream_state import WorkerState
from lakehouse_ray.silver.stream_segment import CaptureState, SegmentWork, streams_of

TRADES = DATASETS["trades"]
START_US = parse_time("2024-06-01")


def segment(number: int, *seconds: int) -> SegmentWork:
    """One with a trade at each of these seconds, which are their ids too."""
    body = str(seconds).encode()
    sha256 = hashlib.sha256(body).hexdigest()
    received_us = START_US + max(seconds) * SECOND_US
    version = version_of(format_time(received_us), sha256)
    rows = live_rows(
        TRADES,
        [(START_US + second * SECOND_US, 1.0, version) for second in seconds],
        source="stream",
    )
    return SegmentWork(number, body, sha256, version, received_us, rows={"trades": rows})


def commit(lake: LiveLake, folder: Path, *segments: SegmentWork) -> None:
    """By a worker that knows nothing of what another of its name has done."""
    writer, streams = lake.writer(), streams_of("um", ["btcusdt@trade"])
    with open_committers(writer, tables_of_capture(streams), "run", local=True) as committers:
        commits = SegmentCommits(
            writer, committers, market="um", folder=folder, name="run-0", run_id="run", url="",
            state=WorkerState(),
        )  # fmt: skip
        for work in segments:
            commits.commit(work, CaptureState(work.number))
        commits.write_ledger()


def test_a_worker_that_lost_its_state_commits_all_that_it_captures(tmp_path: Path) -> None:
    lake = LiveLake(tmp_path / "home")
    commit(lake, tmp_path, segment(1, 1, 2), segment(2, 3))
    commit(lake, tmp_path, segment(1, 11, 12), segment(2, 13))
    # One that was committed, and is repeated as it was.
    commit(lake, tmp_path, segment(1, 11, 12))
    seen = lake.connect().sql('SELECT "time" FROM silver.trades ORDER BY 1').pl()
    seconds = ((seen["time"].dt.epoch("us") - START_US) // SECOND_US).to_list()
    assert seconds == [1, 2, 3, 11, 12, 13]
    objects = lake.connect().sql("SELECT rows FROM bronze.objects ORDER BY 1").pl()
    assert objects.equals(pl.DataFrame({"rows": [1, 1, 2, 2]}))
