"""What a capture's spool holds is committed or set aside, and neither stops what comes behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from support.live_lake import LiveLake

from lakehouse_ray.cli.app import dispatch
from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.pipeline.commits import open_committers
from lakehouse_ray.pipeline.stream_commits import SegmentCommits, tables_of_capture
from lakehouse_ray.pipeline.stream_committing import Committing
from lakehouse_ray.pipeline.stream_state import load_state
from lakehouse_ray.silver.stream_segment import read_records, streams_of
from lakehouse_ray.storage.records import FRAME, MARK, Record
from lakehouse_ray.storage.spool import Spool, list_segments

NAMES = ["btcusdt@trade", "btcusdt@bookTicker", "btcusdt@kline_1h"]
HEADER = json.dumps({"v": 1, "market": "um", "streams": NAMES}).encode()
START_US = 1_717_200_000_000_000


def trade(number: int) -> Record:
    told = START_US // 1000 + number
    frame = (
        b'{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"T":%d,"s":"BTCUSDT","t":%d,'
        b'"p":"1.5","q":"2","X":"MARKET","m":true}}' % (told, told, number)
    )
    return Record(told * 1000 + 500, 0, FRAME, frame)


# A trade whose turn it is: none that came before it is waited for any more.
FIRST = [
    trade(1)._replace(received_us=START_US - 10_000_000),
    Record(START_US - 1_000_000, 0, MARK, b"tick"),
]


def spooled(folder: Path, records: Sequence[Record], header: bytes = HEADER) -> None:
    """A segment more."""
    state = load_state(folder)
    spool = Spool(folder, header, bytes_max=1 << 30, number_from=state.capture.segment + 1)
    for record in records:
        spool.append(record.received_us, record.connection, record.data, record.kind)
    spool.close()


def take(lake: LiveLake, folder: Path) -> None:
    """Commit what a spool has, as a worker does when it starts."""
    writer, streams = lake.writer(), streams_of("um", NAMES)
    with open_committers(writer, tables_of_capture(streams), "run", local=True) as committers:
        commits = SegmentCommits(
            writer, committers, market="um", folder=folder, name="run-0", run_id="run", url="",
            state=load_state(folder),
        )  # fmt: skip
        committing = Committing(writer, "um", streams, commits, threading.Event())
        for _, path in list_segments(folder):
            committing.take(path)
            path.unlink()
        commits.write_ledger()


def asked(lake: LiveLake, query: str) -> list[dict[str, Any]]:
    return lake.connect().sql(query).rows()


@pytest.mark.parametrize(
    ("odd", "header", "in_bronze"),
    [
        # A record that is no text, one of a kind that nobody knows, headers of another version.
        (trade(3)._replace(kind=2, data=b"\xff\n" + b'{"lastUpdateId":1,"bids":[],"asks":[]}'), HEADER, True),
        (trade(3)._replace(kind=9), HEADER, False),
        (trade(3), b'{"v":9}', True),
        (trade(3), b"\xff", True),
        (trade(3), b'{"v":9,"market":"um","streams":["btcusdt@mood"]}', True),
    ],
)  # fmt: skip
def test_what_comes_behind_a_segment_that_is_set_aside_flows_on(
    tmp_path: Path, odd: Record, header: bytes, in_bronze: bool
) -> None:
    lake, folder = LiveLake(tmp_path / "home"), tmp_path / "spool"
    spooled(folder, FIRST)
    take(lake, folder)
    spooled(folder, [trade(2), odd, trade(4)], header)
    (data,) = [path.read_bytes() for _, path in list_segments(folder)]
    spooled(folder, [trade(5), trade(6)])
    # Behind it 5 and 6 have waited long enough; it waits itself.
    spooled(folder, [trade(900)])
    take(lake, folder)
    assert (folder / "000000000002.bad").read_bytes() == data
    ids = asked(lake, "SELECT id FROM silver.trades ORDER BY id")
    assert [row["id"] for row in ids] == [1, 5, 6]
    # What it had is missing by its numbers, as what never came is.
    gaps = "SELECT first_id, last_id FROM silver.stream_gaps WHERE first_id IS NOT NULL ORDER BY 1"
    assert asked(lake, gaps)[0] == {"first_id": 2, "last_id": 4}
    (row,) = asked(
        lake,
        "SELECT q.line, q.reason, o.path FROM silver.quarantine q JOIN bronze.objects o "
        "ON o.version = q.source_version",
    )
    assert (row["line"], row["reason"]) == (None, "SEGMENT_SET_ASIDE")
    kept = read_records((tmp_path / "home/data" / row["path"]).read_bytes())
    assert [record.data for record in kept] == (
        [trade(2).data, odd.data, trade(4).data] if in_bronze else []
    )


def test_series_without_numbers_and_those_never_heard_before_have_a_gap_as_long_as_the_segment(
    tmp_path: Path,
) -> None:
    lake, folder = LiveLake(tmp_path / "home"), tmp_path / "spool"
    spooled(folder, [trade(2), trade(3)._replace(kind=9), trade(4)])
    take(lake, folder)
    gaps = asked(
        lake,
        "SELECT dataset, first_id, missing, epoch_us(start_time) AS a, epoch_us(end_time) AS b "
        "FROM silver.stream_gaps ORDER BY 1",
    )
    first_us, last_us = trade(2).received_us, trade(4).received_us
    unknown = {"first_id": None, "missing": None, "b": last_us}
    assert gaps == [
        {"dataset": "bookTicker", **unknown, "a": first_us},
        # A bar is told when it ends.
        {"dataset": "klines", **unknown, "a": first_us - 3_600_000_000},
        {"dataset": "trades", **unknown, "a": first_us},
    ]


def test_gaps_of_captures_are_listed_with_what_became_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, folder = LiveLake(tmp_path / "home"), tmp_path / "spool"
    spooled(folder, [*FIRST, trade(5), trade(900)])
    take(lake, folder)

    def gaps(*more: str) -> tuple[str, str]:
        assert (
            dispatch(["gaps", "--dataset", "trades", "--home", str(tmp_path / "home"), *more]) == 0
        )
        told = capsys.readouterr()
        return told.out, told.err

    (gap,) = json.loads(gaps("--captured", "--json")[0])["captured"]
    assert (gap["symbol"], gap["interval"], gap["first_id"], gap["last_id"]) == (
        "BTCUSDT", None, 2, 4,
    )  # fmt: skip
    assert (gap["missing"], gap["state"], gap["start"]) == (
        3,
        "open",
        "2024-06-01T00:00:00.001000Z",
    )
    out, err = gaps("--captured", "--output", "csv")
    assert len(out.splitlines()) == 2
    assert "(captures of streams saw 1 gap: 1 open)" in err
    # Trades of futures have no rhythm: who asks for their gaps is told where these are.
    assert json.loads(gaps("--json")[0]) == {"gaps": [], "captured": {"open": 1}}
    assert "saw 1 gap: 1 open; `lakehouse gaps --captured` lists them" in gaps()[1]
    assert json.loads(gaps("--captured", "--json", "--symbols", "ETHUSDT")[0]) == {"captured": []}


def test_segments_of_one_number_are_all_kept(tmp_path: Path) -> None:
    lake, folder = LiveLake(tmp_path / "home"), tmp_path / "spool"
    for number in range(3):
        spooled(folder, [trade(1), trade(2 + number)._replace(kind=9)])
        take(lake, folder)
        (folder / "state.json").unlink()
    assert sorted(path.name for path in folder.glob("*.bad")) == [
        "000000000001-2.bad",
        "000000000001-3.bad",
        "000000000001.bad",
    ]


def test_a_lake_that_is_away_sets_nothing_aside(tmp_path: Path) -> None:
    lake, folder = LiveLake(tmp_path / "home"), tmp_path / "spool"
    spooled(folder, FIRST)
    take(lake, folder)
    spooled(folder, [trade(2)])
    # Where bronze would be is a file.
    bronze = tmp_path / "home/data/bronze"
    bronze.rename(tmp_path / "away")
    bronze.write_text("")
    with pytest.raises(LakehouseError):
        take(lake, folder)
    assert [number for number, _ in list_segments(folder)] == [2]
    assert not list(folder.glob("*.bad"))
    bronze.unlink()
    (tmp_path / "away").rename(bronze)
    take(lake, folder)
    assert asked(lake, "SELECT id FROM silver.trades ORDER BY id") == [{"id": 1}, {"id": 2}]
    assert pl.DataFrame(asked(lake, "SELECT * FROM silver.quarantine")).is_empty()
