"""What silver holds is a function of the files that are published, not of how they arrived."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import DAY_US, HOUR_US, TimeRange, day_range, month_range
from lakehouse_ray.model.venue import Freq, Market

MakeLake = Callable[..., Any]
METRICS = DATASETS["metrics"]
KLINES = DATASETS["klines"]
AGG_TRADES = DATASETS["aggTrades"]

SLOW = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# A file is (freq, period), its rows (hour after the period's start, value).
FileId = tuple[Freq, TimeRange]
Rows = tuple[tuple[int, int], ...]

DAYS = [day_range(date(2024, 1, 30) + timedelta(days=n)) for n in range(4)]
MONTHS = [month_range(2024, 1), month_range(2024, 2)]


def moment(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def metrics_csv(period: TimeRange, rows: Rows) -> bytes:
    lines = [
        f"{moment(period.start_us + hour * HOUR_US):%Y-%m-%d %H:%M:%S},BTCUSDT,{value},1,1,1,1,1\n"
        for hour, value in rows
    ]
    return ("create_time,symbol,sum_open_interest,sum_open_interest_value,"
            "count_toptrader_long_short_ratio,sum_toptrader_long_short_ratio,"
            "count_long_short_ratio,sum_taker_long_short_vol_ratio\n" + "".join(lines)).encode()  # fmt: skip


def klines_csv(period: TimeRange, rows: Rows) -> bytes:
    def line(hour: int, value: int) -> str:
        open_ms = (period.start_us + hour * HOUR_US) // 1000
        return f"{open_ms},{value},{value},{value},{value},1,{open_ms + 3_599_999},1,1,1,1,0\n"

    header = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n"
    return (header + "".join(line(*row) for row in rows)).encode()


def own_rows(period: TimeRange, rows: Rows) -> dict[int, int]:
    """Rows of one file by time: repeated ones once, those that contradict each other not at all."""
    values: dict[int, set[int]] = {}
    for hour, value in rows:
        values.setdefault(period.start_us + hour * HOUR_US, set()).add(value)
    return {time: found.pop() for time, found in values.items() if len(found) == 1}


def truth(files: dict[FileId, Rows]) -> dict[int, int]:
    """The rule in plain Python: daily before monthly, then the later file."""
    table: dict[int, int] = {}
    for (_, period), rows in sorted(files.items(), key=lambda f: (f[0][0] == "daily", f[0][1])):
        table.update(own_rows(period, rows))
    return table


def hours(last: int) -> st.SearchStrategy[Rows]:
    row = st.tuples(st.integers(0, last), st.integers(1, 3))
    return st.lists(row, max_size=6).map(tuple)


def edge_hours() -> st.SearchStrategy[Rows]:
    """Rows of a day of metrics: mostly where the days touch."""
    row = st.tuples(st.sampled_from([0, 0, 12, 24, 24]), st.integers(1, 3))
    return st.lists(row, max_size=4).map(tuple)


METRICS_FILES = st.tuples(st.tuples(st.just("daily"), st.sampled_from(DAYS)), edge_hours())
KLINES_FILES = st.one_of(
    st.tuples(st.tuples(st.just("daily"), st.sampled_from(DAYS)), hours(23)),
    st.tuples(st.tuples(st.just("monthly"), st.just(MONTHS[0])), hours(47).map(
        lambda rows: tuple((29 * 24 + hour, value) for hour, value in rows))),
    st.tuples(st.tuples(st.just("monthly"), st.just(MONTHS[1])), hours(47)),
)  # fmt: skip

CASES = [
    (METRICS, "um", None, metrics_csv, "create_time", "sum_open_interest"),
    (KLINES, "um", "1h", klines_csv, "open_time", "open"),
]


def stored(lake: Any, time: str, value: str) -> dict[int, int]:
    frame = lake.frame()
    if frame.is_empty():
        return {}
    keys = frame[time].dt.epoch("us").to_list()
    assert len(set(keys)) == len(keys), "one row per key"
    return dict(zip(keys, map(int, frame[value].to_list()), strict=True))


def run(
    lake: Any,
    waves: list[list[tuple[FileId, Rows]]],
    csv: Callable[[TimeRange, Rows], bytes],
    rng: random.Random,
) -> dict[FileId, Rows]:
    """Publish wave after wave, each followed by a run; units of random size, in random order."""
    now: dict[FileId, Rows] = {}
    for wave in waves:
        for file, rows in wave:
            lake.publish("BTCUSDT", *file, csv(file[1], rows))
            now[file] = rows
        freqs: list[Freq] = ["daily", "monthly"]
        rng.shuffle(freqs)
        for freq in freqs:
            if freq in lake.dataset.archive[lake.market]:
                lake.ingest(
                    freq,
                    unit_bytes=rng.choice([1, 300, 1 << 20]),
                    order=lambda units: rng.sample(units, len(units)),
                )
    return now


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize(("case", "files"), [(CASES[0], METRICS_FILES), (CASES[1], KLINES_FILES)],
                         ids=["metrics", "klines"])  # fmt: skip
@SLOW
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_any_order_and_any_batching_of_files_gives_the_same_table(
    make_lake: MakeLake,
    case: tuple[Dataset, Market, str | None, Callable[[TimeRange, Rows], bytes], str, str],
    files: st.SearchStrategy[tuple[FileId, Rows]],
    large: bool,
    data: st.DataObject,
    seed: int,
) -> None:
    dataset, market, interval, csv, time, value = case
    waves = data.draw(st.lists(st.lists(files, min_size=1, max_size=4), min_size=1, max_size=3))
    lake = make_lake(dataset, market, interval, csv_bytes_in_memory=0 if large else 1 << 30)
    now = run(lake, waves, csv, random.Random(seed))
    assert stored(lake, time, value) == truth(now)
    snapshot = lake.committer.snapshot_id()
    run(lake, [[]], csv, random.Random(seed))
    assert lake.committer.snapshot_id() == snapshot, "a second run changes nothing"


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
def test_a_row_on_the_edge_of_a_month_outlives_the_file_that_had_won_it(
    make_lake: MakeLake, large: bool
) -> None:
    """Both days have 00:00 of 1 February; the later one is published anew without it."""
    lake = make_lake(METRICS, "um", csv_bytes_in_memory=0 if large else 1 << 30)
    last, first = ("daily", DAYS[1]), ("daily", DAYS[2])
    lake.publish("BTCUSDT", *last, metrics_csv(last[1], ((24, 1),)))
    lake.publish("BTCUSDT", *first, metrics_csv(first[1], ((0, 2), (12, 2))))
    lake.ingest()
    edge = DAYS[2].start_us
    assert stored(lake, "create_time", "sum_open_interest")[edge] == 2
    lake.publish("BTCUSDT", *first, metrics_csv(first[1], ((12, 3),)))
    lake.ingest()
    assert stored(lake, "create_time", "sum_open_interest") == {edge: 1, edge + DAY_US // 2: 3}


class NewRules:
    """The decoder with other rules: bars at 05:00 are refused, all others begin one higher."""

    def __init__(self, old: Any) -> None:
        self._old = old
        self.version = old.version + 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._old, name)

    def _changed(self, decoded: Any) -> Any:
        frame = decoded.frame.filter(pl.col("open_time").dt.hour() != 5)
        frame = frame.with_columns(pl.col("open") + 1)
        return replace(decoded, frame=frame, rows=(frame.height,))

    def decode(self, *args: Any) -> list[Any]:
        return [self._changed(decoded) for decoded in self._old.decode(*args)]

    def decode_pieces(self, *args: Any) -> Iterator[Any]:
        return (self._changed(decoded) for decoded in self._old.decode_pieces(*args))


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "on disk"])
def test_objects_read_by_new_rules_give_what_the_new_rules_say(
    make_lake: MakeLake, large: bool
) -> None:
    lake = make_lake(KLINES, "um", "1h", csv_bytes_in_memory=0 if large else 1 << 30)
    lake.publish("BTCUSDT", "daily", DAYS[0], klines_csv(DAYS[0], ((4, 1), (5, 1), (6, 1))))
    lake.ingest()
    lake.decoder = NewRules(lake.decoder)
    (built,) = lake.ingest()
    assert [task.role for task in built.unit.objects] == ["stored"]
    start = DAYS[0].start_us
    assert stored(lake, "open_time", "open") == {start + 4 * HOUR_US: 2, start + 6 * HOUR_US: 2}
    assert lake.ingest() == []
