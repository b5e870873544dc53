"""Segments of recorded frames give each message once, whatever the segments and the disorder."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.model.venue import Market
from lakehouse_ray.silver.stream_books import Books
from lakehouse_ray.silver.stream_frames import SNAPSHOT
from lakehouse_ray.silver.stream_segment import (
    CaptureState,
    SegmentWork,
    read_records,
    spell_unheard,
    streams_of,
    work_segment,
)
from lakehouse_ray.storage.records import FRAME, MARK, Record

RECORDED = Path(__file__).parents[3].parent / "shared/data/recorded/ws/hftbacktest"
needs_recorded = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="the real frames are not on this machine"
)
WAIT_US = 500_000
NAMES: dict[Market, tuple[str, list[str]]] = {
    "spot": ("spot_btcusdt_20240808.gz", ["btcusdt@trade", "btcusdt@bookTicker", "btcusdt@depth@100ms"]),
    "um": ("usdm_ethusdt_20240808.gz", ["ethusdt@trade", "ethusdt@bookTicker", "ethusdt@depth@0ms"]),
    "cm": ("cm_btcusd_perp_20240808.gz", ["btcusd_perp@trade", "btcusd_perp@bookTicker", "btcusd_perp@depth@0ms"]),
}  # fmt: skip


@cache
def recorded(market: Market, count: int) -> tuple[list[Record], list[dict[str, Any]]]:
    records, truth = [], []
    with gzip.open(RECORDED / NAMES[market][0]) as lines:
        for line, _ in zip(lines, range(count), strict=False):
            time, _, frame = line.rstrip(b"\n").partition(b" ")
            message = json.loads(frame)
            kind = FRAME
            if "lastUpdateId" in message:
                kind, frame = (
                    SNAPSHOT,
                    NAMES[market][1][0].split("@")[0].upper().encode() + b"\n" + frame,
                )
            else:
                truth.append(message)
            records.append(Record(int(time) // 1000, 0, kind, frame))
    return records, truth


def capture(
    market: Market,
    names: Sequence[str],
    segments: Sequence[list[Record]],
    state: CaptureState | None = None,
) -> tuple[list[SegmentWork], CaptureState]:
    streams = streams_of(market, names)
    books = Books(market, levels=5, every_us=100_000)
    state = state or CaptureState()
    works = []
    for number, records in enumerate(segments, 1):
        work, state = work_segment(market, streams, number, records, state, books, wait_us=WAIT_US)
        works.append(work)
    return works, state


def rows(works: Sequence[SegmentWork], dataset: str) -> pl.DataFrame:
    return pl.concat([work.rows[dataset] for work in works if dataset in work.rows])


def ending(records: list[Record]) -> list[Record]:
    """With a mark long after all others, so that nothing waits any more."""
    last = max(record.received_us for record in records)
    return [*records, Record(last + 10 * WAIT_US, 0, MARK, b"ended")]


def cut(records: list[Record], rng: random.Random) -> list[list[Record]]:
    segments, place = [], 0
    while place < len(records):
        size = rng.randint(1, 900)
        segments.append(records[place : place + size])
        place += size
    return segments


@needs_recorded
@pytest.mark.parametrize("market", ["spot", "um", "cm"])
def test_recorded_frames_in_segments_of_any_size_give_what_plain_json_holds(market: Market) -> None:
    records, truth = recorded(market, 12_000)
    segments = cut(ending(records), random.Random(7))
    works, state = capture(market, NAMES[market][1], segments)
    trades = [message["data"] for message in truth if message["stream"].endswith("@trade")]
    ours = rows(works, "trades")
    assert ours["id"].to_list() == [trade["t"] for trade in trades]
    assert ours["price"].to_list() == [float(trade["p"]) for trade in trades]
    assert ours["time"].cast(pl.Int64).to_list() == [trade["T"] * 1000 for trade in trades]
    # Numbers that the exchange left out are gaps, each once.
    missing = [n for a, b in itertools.pairwise(trades) for n in range(a["t"] + 1, b["t"])]
    told = [g for work in works for s, g, _ in work.gaps if s.kind == "trade"]
    assert [n for g in told for n in range(g.first or 0, (g.last or 0) + 1)] == missing
    assert not [g for work in works for s, g, _ in work.gaps if s.kind == "depth"]
    quotes = [m["data"]["u"] for m in truth if m["stream"].endswith("@bookTicker")]
    assert sum(work.refused for work in works) == (len(quotes) if False else 0)
    if market != "spot":
        assert rows(works, "bookTicker")["update_id"].to_list() == quotes
    assert state.carried == []
    # From each row a way to its bytes.
    for work in works:
        again = read_records(work.body)
        raw = {json.loads(r.data)["data"].get("t") for r in again if b"@trade" in r.data}
        if "trades" in work.rows:
            frame = work.rows["trades"]
            assert set(frame["id"]) <= raw
            assert set(frame["source_version"]) == {work.version}
            assert set(frame["source_key"]) == {f"stream/{market}/trades/{frame['symbol'][0]}"}


@needs_recorded
def test_levels_of_the_book_are_the_best_prices_of_their_moment() -> None:
    records, truth = recorded("um", 12_000)
    works, _ = capture("um", NAMES["um"][1], cut(ending(records), random.Random(3)))
    tops = rows(works, "bookLevels").filter(level=1)
    assert tops.height > 30
    best = {m["data"]["u"]: m["data"] for m in truth if m["stream"].endswith("@bookTicker")}
    numbers = sorted(best)
    for row in tops.iter_rows(named=True):
        before = max(n for n in numbers if n <= row["update_id"])
        quote = best[before]
        assert (row["bid_price"], row["bid_qty"]) == (float(quote["b"]), float(quote["B"]))
        assert (row["ask_price"], row["ask_qty"]) == (float(quote["a"]), float(quote["A"]))


@needs_recorded
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_disorder_loses_nothing_and_doubles_nothing(seed: int) -> None:
    rng = random.Random(seed)
    records = [r for r in recorded("spot", 3_000)[0] if b"@trade" in r.data]
    disturbed: list[Record] = []
    skipped: set[int] = set()
    for place, record in enumerate(records):
        number = json.loads(record.data)["data"]["t"]
        if 0 < place < len(records) - 1 and rng.random() < 0.03:
            skipped.add(number)
            continue
        for _ in range(1 + (rng.random() < 0.1)):
            late = rng.randint(0, WAIT_US - 1) if place and rng.random() < 0.1 else 0
            disturbed.append(Record(record.received_us + late, 1, FRAME, record.data))
    disturbed.sort(key=lambda record: record.received_us)
    works, _ = capture("spot", ["btcusdt@trade"], cut(ending(disturbed), rng))
    came = {json.loads(record.data)["data"]["t"] for record in disturbed}
    assert rows(works, "trades")["id"].to_list() == sorted(came)
    told = [g for work in works for _, g, _ in work.gaps]
    missing = [n for g in told for n in range(g.first or 0, (g.last or 0) + 1)]
    numbers = [json.loads(record.data)["data"]["t"] for record in records]
    assert missing == [n for n in range(numbers[0], numbers[-1] + 1) if n not in came]
    assert skipped <= set(missing)


@needs_recorded
def test_a_worker_that_takes_over_makes_the_same_of_a_segment() -> None:
    records, _ = recorded("um", 4_000)
    segments = cut(ending(records), random.Random(5))
    names = NAMES["um"][1][:2]
    first, _ = capture("um", names, segments)
    state = CaptureState()
    books = Books("um", levels=5, every_us=100_000)
    for number, segment in enumerate(segments, 1):
        for _ in range(2):  # as if the first had been killed before it wrote its state
            work, after = work_segment(
                "um", streams_of("um", names), number, segment, state, books, wait_us=WAIT_US
            )
        state = after
        assert work.version == first[number - 1].version
        assert work.rows.keys() == first[number - 1].rows.keys()
        for name, frame in work.rows.items():
            assert frame.equals(first[number - 1].rows[name])


def bar(open_time: int, *, closed: bool = True, symbol: str = "BTCUSDT") -> bytes:
    done = "true" if closed else "false"
    return (
        f'{{"stream":"{symbol.lower()}@kline_1m","data":{{"e":"kline","E":{open_time + 60_001},'
        f'"s":"{symbol}","k":{{"t":{open_time},"T":{open_time + 59_999},"s":"{symbol}","i":"1m",'
        f'"f":1,"L":2,"o":"1","c":"1","h":"1","l":"1","v":"1","n":2,"x":{done},"q":"1","V":"1",'
        f'"Q":"1","B":"0"}}}}}}'
    ).encode()


def test_a_bar_that_never_was_done_is_a_gap_of_its_minutes() -> None:
    start = 1_700_000_040_000
    assert start % 60_000 == 0
    frames = [bar(start), bar(start + 60_000, closed=False), bar(start + 240_000)]
    records = [Record(1_700_000_000_000_000 + n, 0, FRAME, f) for n, f in enumerate(frames)]
    (work,), state = capture("spot", ["btcusdt@kline_1m"], [ending(records)])
    assert work.rows["klines"].height == 2
    ((_, gap, why),) = work.gaps
    assert (gap.start_us, gap.end_us) == ((start + 60_000) * 1000, (start + 240_000) * 1000)
    assert (gap.missing, gap.first) == (3, None)
    assert "ended" in why
    assert state.series["btcusdt@kline_1m"].last_time_us == (start + 240_000) * 1000


def test_malformed_frames_are_refused_with_their_record_and_the_rest_flows_on() -> None:
    start = 1_700_000_040_000
    frames = [
        b"<html>\x00",
        bar(start),
        b'{"e":"listStatus"}',
        bar(start).replace(b'"1m"', b'"5m"'),
        bytes(range(256)),
    ]
    records = [Record(1_700_000_000_000_000 + n, 0, FRAME, f) for n, f in enumerate(frames)]
    (work,), _ = capture("spot", ["btcusdt@kline_1m"], [ending(records)])
    assert work.rows["klines"].height == 1
    assert [(r.line, r.reason) for r in work.refusals] == [
        (1, "NOT_JSON"),
        (3, "UNKNOWN_EVENT"),
        (4, "WRONG_SYMBOL"),
        (5, "NOT_JSON"),
    ]
    assert work.refusals[0].raw == "<html>�"


def test_a_change_of_a_book_that_ends_before_it_begins_is_refused() -> None:
    """Also as the last message of all, with nothing behind it that could end the gap before it."""
    frame = (
        b'{"stream":"ethusdt@depth@0ms","data":{"e":"depthUpdate","E":1700000000000,'
        b'"T":1700000000000,"s":"ETHUSDT","U":%d,"u":%d,"pu":%d,"b":[],"a":[]}}'
    )
    numbers = [(11, 20, 10), (31, 20, 30), (21, 30, 20), (51, 40, 50), (51, 50, 50)]
    records = [
        Record(1_700_000_000_000_000 + n, 0, FRAME, frame % told) for n, told in enumerate(numbers)
    ]
    (work,), state = capture("um", ["ethusdt@depth@0ms"], [ending(records)])
    assert [(one.line, one.reason) for one in work.refusals] == [
        (2, "UNTYPED_CELL"),
        (4, "UNTYPED_CELL"),
        (5, "UNTYPED_CELL"),
    ]
    assert (work.gaps, state.series["ethusdt@depth@0ms"].last) == ([], 30)


@pytest.mark.parametrize("seed", range(4))
def test_a_few_bad_frames_among_thousands_cost_no_other_its_row(seed: int) -> None:
    """Wherever they stand: frames are read many at once, and looked at singly where that fails."""
    rng = random.Random(seed)
    records = [traded(1 + n, START_MS + n) for n in range(3_000)]
    ruined: dict[int, str] = {}
    for place in rng.sample(range(1, 2_999), 6):
        data, number = records[place].data, b'"t":%d' % (place + 1)
        assert number in data
        ways = [
            ("NOT_JSON", data[: rng.randrange(30, len(data))]),
            ("WRONG_SYMBOL", data.replace(b'"s":"LITUSDT"', b'"s":"LTOUSDT"')),
            ("MISSING_FIELD", data.replace(number, b'"other":1')),
            ("NOT_JSON", data.replace(number, b'"t":\xff')),
            ("UNTYPED_CELL", data.replace(number, b'"t":null')),
            ("OUTSIDE_PERIOD", data.replace(b'"T":1', b'"T":4')),
        ]
        reason, bad = rng.choice(ways)
        assert bad != data
        records[place] = records[place]._replace(data=bad)
        ruined[place] = reason
    (work,), _ = capture("um", ["litusdt@trade"], [ending(records)])
    assert [(r.line - 1, r.reason) for r in work.refusals] == sorted(ruined.items())
    assert work.rows["trades"]["id"].to_list() == [n + 1 for n in range(3_000) if n not in ruined]
    told = [n for _, gap, _ in work.gaps for n in range(gap.first or 0, (gap.last or 0) + 1)]
    assert told == [place + 1 for place in sorted(ruined)]


def test_a_bar_of_an_interval_that_there_is_not_is_refused_alone() -> None:
    start = 1_700_000_040_000
    frames = [bar(start), bar(start + 60_000).replace(b'"1m"', b'"7m"')]
    records = [Record(1_700_000_000_000_000 + n, 0, FRAME, f) for n, f in enumerate(frames)]
    (work,), _ = capture("spot", ["btcusdt@kline_1m"], [ending(records)])
    assert work.rows["klines"].height == 1
    assert [(r.line, r.reason) for r in work.refusals] == [(2, "UNTYPED_CELL")]


def test_a_capture_that_goes_on_tells_what_it_missed_meanwhile() -> None:
    start = 1_700_000_040_000
    one = [Record(1_700_000_000_000_000, 0, FRAME, bar(start))]
    _, state = capture("spot", ["btcusdt@kline_1m"], [ending(one)])
    two = [Record(1_700_001_000_000_000, 0, FRAME, bar(start + 600_000))]
    (work,), _ = capture("spot", ["btcusdt@kline_1m"], [ending(two)], state)
    assert [gap.missing for _, gap, _ in work.gaps] == [9]


@pytest.mark.parametrize("together", [False, True])
def test_a_stream_without_numbers_says_when_nobody_heard_it(together: bool) -> None:
    quote = (
        b'{"e":"bookTicker","u":%d,"s":"ETHUSDT","b":"1","B":"2","a":"3","A":"4",'
        b'"T":1723161256310,"E":1723161256311}'
    )
    start = 1_723_161_256_320_000
    name = "ethusdt@bookTicker"
    first = [
        Record(start, 0, MARK, spell_unheard(0, [name]).encode()),
        Record(start, 0, FRAME, quote % 1),
    ]
    again = [
        Record(start + 9_000_000, 1, MARK, spell_unheard(start + 2_000_000, [name]).encode()),
        Record(start + 9_000_000, 1, FRAME, quote % 2),
    ]
    segments = [first + again] if together else [first, again]
    works, _ = capture("um", [name], segments)
    # Of what was before the first capture nothing is known.
    ((stream, gap, why),) = [gap for work in works for gap in work.gaps]
    assert (stream.name, gap.missing, gap.first) == (name, None, None)
    assert (gap.start_us, gap.end_us) == (1_723_161_256_310_000, start + 9_000_000)
    assert "no connection since 2024-08-08T23:54:18.32" in why


def traded(number: int, time_ms: int) -> Record:
    frame = (
        f'{{"stream":"litusdt@trade","data":{{"e":"trade","E":{time_ms},"T":{time_ms},"s":"LITUSDT",'
        f'"t":{number},"p":"1.0","q":"2.0","X":"MARKET","m":true}}}}'
    )
    return Record(time_ms * 1000, 0, FRAME, frame.encode())


def changed(first: int, before: int, last: int, time_ms: int) -> Record:
    frame = (
        f'{{"stream":"litusdt@depth","data":{{"e":"depthUpdate","E":{time_ms},"T":{time_ms},'
        f'"s":"LITUSDT","U":{first},"u":{last},"pu":{before},"b":[["1.0","{last}"]],"a":[]}}}}'
    )
    return Record(time_ms * 1000, 0, FRAME, frame.encode())


START_MS = 1_700_000_000_000
MONTH_MS = 30 * 86_400_000


@pytest.mark.parametrize("together", [False, True])
def test_numbers_that_begin_anew_are_another_series_behind_a_gap(together: bool) -> None:
    """A ticker that is listed again counts its trades from 1."""
    known = [traded(1_000_000 + n, START_MS + n) for n in range(100)]
    before = [traded(1_000_100 + n, START_MS + 100 + n) for n in range(10)]
    behind = [traded(1 + n, START_MS + MONTH_MS + n) for n in range(50)]
    segments = [before + behind] if together else [before, behind]
    works, state = capture("um", ["litusdt@trade"], [ending(known), *segments, ending(behind[:1])])
    ids = rows(works, "trades")["id"].to_list()
    assert sorted(ids) == [*range(1, 51), *range(1_000_000, 1_000_110)]
    gaps = [gap for work in works for _, gap, _ in work.gaps]
    (gap,) = gaps
    assert (gap.first, gap.last, gap.missing) == (None, None, None), "how many is not known"
    assert (gap.start_us, gap.end_us) == ((START_MS + 109) * 1000, (START_MS + MONTH_MS) * 1000)
    assert state.series["litusdt@trade"].last == 50
    assert works[-1].duplicates == 1, "the same again is the same again"


def test_a_book_whose_numbers_begin_anew_waits_for_a_snapshot() -> None:
    answer = b'{"lastUpdateId":1000,"bids":[["1.0","5"]],"asks":[["2.0","5"]]}'
    first = [
        Record(START_MS * 1000, 0, SNAPSHOT, b"LITUSDT\n" + answer),
        changed(1001, 1000, 1002, START_MS + 1),
    ]
    anew = [changed(3, 2, 4, START_MS + MONTH_MS), changed(5, 4, 6, START_MS + MONTH_MS + 200)]
    works, _ = capture("um", ["litusdt@depth"], [ending(first), anew])
    assert works[0].snapshots_wanted == []
    assert rows(works[:1], "bookLevels")["update_id"].unique().to_list() == [1002]
    assert works[1].snapshots_wanted == ["LITUSDT"]
    assert "bookLevels" not in works[1].rows


def test_what_says_that_it_happens_in_years_is_refused_and_the_rest_flows_on() -> None:
    records = [traded(1, START_MS), traded(2, 4_000_000_000_000), traded(2, START_MS + 5)]
    records[1] = records[1]._replace(received_us=START_MS * 1000 + 1)
    (work,), _ = capture("um", ["litusdt@trade"], [ending(records)])
    assert work.rows["trades"]["id"].to_list() == [1, 2]
    assert work.rows["trades"]["time"].dt.year().unique().to_list() == [2023]
    assert [(r.line, r.reason) for r in work.refusals] == [(2, "OUTSIDE_PERIOD")]


def test_frames_that_are_spelled_otherwise_have_their_turn_among_the_rest() -> None:
    records = [traded(1 + n, START_MS + 400 * n) for n in range(5)]
    records[1] = records[1]._replace(data=b" " + records[1].data)
    (work,), _ = capture("um", ["litusdt@trade"], [ending(records)])
    assert work.rows["trades"]["id"].to_list() == [1, 2, 3, 4, 5]
    assert (work.gaps, work.late) == ([], 0)
