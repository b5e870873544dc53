"""Pages of REST against an exchange in memory that cuts its answers as it likes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_ray.errors import BadDataError, DeniedError
from lakehouse_ray.model.fills import Fill, RawAnswer
from lakehouse_ray.model.timespan import HOUR_US, MINUTE_US, TimeRange, parse_time
from lakehouse_ray.sources.binance.rest import pages_of, read_again, url_of
from lakehouse_ray.sources.binance.rest_answers import RegionDeniedError, hear, read_list
from lakehouse_ray.sources.rest import Answer, Request, Rows

START_US = parse_time("2026-04-10")
NOW_US = parse_time("2026-04-20")

Exchange = Callable[[Request], list[Any]]


def drive(fill: Fill, exchange: Exchange, now_us: int = NOW_US) -> tuple[Rows, list[Request]]:
    rows, asked = Rows(), []
    pages = pages_of(fill, rows)
    answer: Answer | None = None
    while True:
        try:
            request = next(pages) if answer is None else pages.send(answer)
        except StopIteration:
            return rows, asked
        asked.append(request)
        assert len(asked) < 5000, "it asks without end"
        answer = Answer(exchange(request), now_us)


def bar(open_us: int) -> list[Any]:
    close_ms = (open_us + MINUTE_US) // 1000 - 1
    return [open_us // 1000, "1.5", "2", "1", "1.5", "10", close_ms, "15", 3, "5", "7.5", "0"]


def bars_exchange(minutes: set[int], keep: float, newest: bool) -> Exchange:
    """Cuts every answer that is about anything for the first time."""
    asked: set[int] = set()

    def answer(request: Request) -> list[Any]:
        params = dict(request.params)
        start, end = int(params["startTime"]), int(params["endTime"])
        about = {m for m in range(1200) if start <= (START_US + m * MINUTE_US) // 1000 <= end}
        rows = [bar(START_US + m * MINUTE_US) for m in sorted(about & minutes)]
        limit = int(params["limit"])
        rows = rows[-limit:] if newest else rows[:limit]
        if about <= asked:
            return rows
        asked.update(about)
        return rows[: int(len(rows) * keep)]

    return answer


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.integers(0, 1199), max_size=60),
    st.floats(0, 1),
    st.sampled_from(["um", "cm", "spot"]),
)
def test_bars_that_the_exchange_has_are_never_missed(
    absent: set[int], keep: float, market: Any
) -> None:
    minutes = set(range(1200)) - absent
    span = TimeRange(START_US, START_US + 1200 * MINUTE_US)
    fill = Fill(market, "klines", "BTCUSDT", "1m", span, NOW_US)
    exchange = bars_exchange(minutes, keep, newest=market == "cm")
    rows, asked = drive(fill, exchange)
    found = {
        (us - START_US) // MINUTE_US for f in rows.frames for us in f["open_time"].dt.epoch("us")
    }
    assert found == minutes
    said = {
        (us - START_US) // MINUTE_US
        for span in rows.absent
        for us in range(span.start_us, span.end_us, MINUTE_US)
    }
    assert said == absent
    assert all(int(dict(r.params)["limit"]) <= (1000 if market == "spot" else 499) for r in asked)


def test_before_its_listing_a_symbol_costs_few_requests() -> None:
    span = TimeRange(parse_time("2020"), parse_time("2020") + 3 * 365 * 24 * HOUR_US)
    fill = Fill("um", "klines", "BTCUSDT", "1m", span, NOW_US)
    rows, asked = drive(fill, lambda request: [])
    assert not any(frame.height for frame in rows.frames)
    assert len(asked) == 3
    assert rows.absent == [span]


@pytest.mark.parametrize("interval", ["1mo", "1w"])
def test_long_bars_of_coin_m_are_asked_for_within_200_days(interval: str) -> None:
    span = TimeRange(parse_time("2022-01-03"), parse_time("2026-04"))
    if interval == "1mo":
        span = TimeRange(parse_time("2022"), span.end_us)
        starts = [parse_time(f"{2022 + n // 12}-{n % 12 + 1:02d}") for n in range(52)]
    else:
        starts = list(range(span.start_us, span.end_us + 8 * 24 * HOUR_US, 7 * 24 * HOUR_US))
    closes = dict(itertools.pairwise(starts))

    def exchange(request: Request) -> list[Any]:
        start, end = int(dict(request.params)["startTime"]), int(dict(request.params)["endTime"])
        assert end - start <= 200 * 86_400_000
        return [
            [us // 1000, *["1"] * 5, closes[us] // 1000 - 1, "1", 1, "1", "1", "0"]
            for us in closes
            if start <= us // 1000 <= end
        ]

    fill = Fill("cm", "klines", "BTCUSD_PERP", interval, span, NOW_US)
    rows, asked = drive(fill, exchange)
    found = {us for f in rows.frames for us in f["open_time"].dt.epoch("us")}
    assert sorted(found) == [us for us in closes if us < span.end_us]
    assert rows.absent == []
    assert len(asked) <= 10


def test_what_was_not_asked_for_is_refused() -> None:
    span = TimeRange(START_US, START_US + 10 * MINUTE_US)
    fill = Fill("um", "klines", "BTCUSDT", "1m", span, NOW_US)
    good = [bar(START_US + m * MINUTE_US) for m in range(10)]
    twice = [*good, [*good[3][:1], "1.6", *good[3][2:]]]
    odd: list[Any] = [*twice, bar(START_US + HOUR_US), [1, 2], None, {"a": 1}, "x"]
    rows, _ = drive(fill, lambda request: odd)
    found = pl.concat(rows.frames).unique()
    assert found.height == 9  # of two that contradict each other none can be told to be right
    reasons = {row.reason for row in rows.bad}
    assert reasons == {"OUTSIDE_PERIOD", "CONFLICTING_KEY", "UNTYPED_CELL", "MISSING_FIELD"}


def trade(number: int, us: int) -> dict[str, Any]:
    return {"a": number, "p": "1.5", "q": "2", "f": number, "l": number, "T": us // 1000, "m": True}


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.integers(0, 2500), min_size=1, max_size=4),
    st.integers(1, 1000),
    st.integers(0, 3),
)
def test_trades_that_the_exchange_has_are_never_missed(
    holes: set[int], first_cut: int, hours: int
) -> None:
    """2,500 trades a second apart, after some quiet hours; the first answer of all is cut."""
    begin_us = START_US + hours * HOUR_US
    trades = [(100 + n, begin_us + n * 1_000_000) for n in range(2500) if n not in holes]
    span = TimeRange(START_US, begin_us + 2000 * 1_000_000)
    fill = Fill("um", "aggTrades", "BTCUSDT", None, span, NOW_US)
    answers = 0

    def exchange(request: Request) -> list[Any]:
        nonlocal answers
        params = dict(request.params)
        if "fromId" in params:
            found = [t for t in trades if t[0] >= int(params["fromId"])]
        else:
            start, end = int(params["startTime"]), int(params["endTime"])
            assert end - start < 3_600_000
            found = [t for t in trades if start <= t[1] // 1000 <= end]
        found = found[:1000]
        if found:
            answers += 1
            if answers == 1:
                found = found[:first_cut]
        return [trade(*one) for one in found]

    rows, _ = drive(fill, exchange)
    frame = pl.concat(rows.frames).unique("agg_trade_id")
    assert sorted(frame["agg_trade_id"]) == [n for n, us in trades if us < span.end_us]


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.integers(0, 2500), max_size=4),
    st.integers(0, 2400),
    st.integers(0, 2600),
    st.integers(1, 1000),
    st.sampled_from(["aggTrades", "trades"]),
)
def test_of_ids_that_are_asked_for_all_that_exist_come_and_no_others(
    holes: set[int], first: int, length: int, first_cut: int, dataset: str
) -> None:
    """2,500 ids of which some are in no answer; the first answer is cut."""
    numbers = [n for n in range(2500) if n not in holes]
    span = TimeRange(START_US, START_US + 1)
    fill = Fill("um", dataset, "BTCUSDT", None, span, NOW_US, (first, first + length))
    asked: list[int] = []

    def exchange(request: Request) -> list[Any]:
        params = dict(request.params)
        asked.append(int(params["fromId"]))
        found = [n for n in numbers if n >= asked[-1]][: int(params["limit"])]
        found = found[:first_cut] if len(asked) == 1 else found
        if dataset == "aggTrades":
            return [trade(n, START_US + n * 1_000_000) for n in found]
        return [
            {"id": n, "price": "1.5", "qty": "2", "quoteQty": "3",
             "time": START_US // 1000 + n * 1000, "isBuyerMaker": True}
            for n in found
        ]  # fmt: skip

    rows, _ = drive(fill, exchange)
    key = "id" if dataset == "trades" else "agg_trade_id"
    wanted = [n for n in numbers if first <= n <= first + length]
    found = pl.concat(rows.frames).unique(key)[key].to_list() if rows.frames else []
    assert sorted(found) == wanted
    # Two empty answers at the end of all ids, two for each hole, what was cut: no more.
    assert len(asked) <= length // 500 + 4 + len(holes)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(0, 900),
    st.integers(1, 6_000),
    st.booleans(),
)
def test_rows_that_one_answer_leaves_out_are_had_however_many(
    spoiled: int, kept: int, leap: int, by_ids: bool
) -> None:
    """One answer of several begins as it should, and then leaps, by more than a page."""
    span = TimeRange(START_US, START_US + 3_000 * 1_000_000)
    ids = (0, 2_999) if by_ids else None
    fill = Fill("um", "aggTrades", "BTCUSDT", None, span, NOW_US, ids)
    asked = 0

    def exchange(request: Request) -> list[Any]:
        nonlocal asked
        params = dict(request.params)
        if "fromId" not in params:
            return [trade(n, START_US + n * 1_000_000) for n in range(1000)]
        asked += 1
        first = int(params["fromId"])
        found = list(range(first, min(first + 1000, 5_000)))
        if asked == spoiled and found:
            found = [*found[:kept], first + kept + leap]
        return [trade(n, START_US + n * 1_000_000) for n in found]

    rows, _ = drive(fill, exchange)
    found = {n for frame in rows.frames for n in frame["agg_trade_id"]}
    assert set(range(3_000)) <= found
    # Each page once, and what was left out once more.
    assert asked <= 10


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3_000), min_size=1, max_size=30),
    st.integers(0, 2_999),
    st.integers(1, 3_000),
    st.booleans(),
)
def test_trades_of_a_span_that_begins_and_ends_within_a_millisecond_are_all_had(
    offsets_us: list[int], start_us: int, length_us: int, rounded_up: bool
) -> None:
    """Spot asked for µs: times are asked for in ms, which may count those begun or those whole."""
    trades = [(100 + n, START_US + us) for n, us in enumerate(sorted(offsets_us))]
    span = TimeRange(START_US + start_us, START_US + start_us + length_us)
    fill = Fill("spot", "aggTrades", "BTCUSDT", None, span, NOW_US)

    def exchange(request: Request) -> list[Any]:
        assert request.micro
        params = dict(request.params)
        first = int(params.get("fromId", 0))
        start, end = int(params.get("startTime", 0)), int(params.get("endTime", 1 << 60))
        last_us = end * 1000 + (0 if rounded_up else 999)
        found = [t for t in trades if t[0] >= first and start * 1000 <= t[1] <= last_us]
        return [{**trade(*one), "T": one[1], "M": True} for one in found]

    rows, _ = drive(fill, exchange)
    found = {n for f in rows.frames for n in f["agg_trade_id"]}
    wanted = [n for n, us in trades if span.start_us <= us < span.end_us]
    assert sorted(found) == wanted
    assert not rows.bad, "what comes from beside the span is no mistake"


def test_pages_that_go_back_are_no_pages() -> None:
    span = TimeRange(START_US, START_US + HOUR_US // 2)
    fill = Fill("um", "aggTrades", "BTCUSDT", None, span, NOW_US)
    with pytest.raises(BadDataError, match="BROKEN_SEQUENCE"):
        drive(fill, lambda request: [trade(5, START_US), trade(6, START_US + 1000)])


def test_funding_tells_its_interval_by_its_times() -> None:
    times = [START_US + h * HOUR_US + 3000 for h in (-8, 0, 8, 12, 16)]

    def exchange(request: Request) -> list[Any]:
        start, end = int(dict(request.params)["startTime"]), int(dict(request.params)["endTime"])
        return [
            {"symbol": "BTCUSDT", "fundingTime": us // 1000, "fundingRate": "0.0001"}
            for us in times
            if start <= us // 1000 <= end
        ]

    span = TimeRange(START_US, START_US + 20 * HOUR_US)
    rows, _ = drive(Fill("um", "fundingRate", "BTCUSDT", None, span, NOW_US), exchange)
    assert pl.concat(rows.frames)["funding_interval_hours"].to_list() == [8, 8, 4, 4]
    # The first payment there ever was has the time to the next one.
    times[:] = times[1:]
    rows, _ = drive(Fill("um", "fundingRate", "BTCUSDT", None, span, NOW_US), exchange)
    assert pl.concat(rows.frames)["funding_interval_hours"].to_list() == [8, 8, 4, 4]
    # Alone it is left for later: nothing tells its interval.
    times[:] = times[:1]
    rows, _ = drive(Fill("um", "fundingRate", "BTCUSDT", None, span, NOW_US), exchange)
    assert not any(frame.height for frame in rows.frames)
    assert rows.left_open == 1


def test_metrics_are_joined_from_their_routes() -> None:
    at_ms = (NOW_US - 24 * HOUR_US) // 1000

    def exchange(request: Request) -> list[Any]:
        route = request.path.rpartition("/")[2]
        if route == "openInterestHist":
            return [{"symbol": "BTCUSDT", "sumOpenInterest": "10.5", "sumOpenInterestValue": "99",
                     "timestamp": at_ms}]  # fmt: skip
        if route == "takerlongshortRatio":
            return []
        return [{"symbol": "BTCUSDT", "longShortRatio": "1.25", "timestamp": at_ms}]

    span = TimeRange(NOW_US - 40 * 24 * HOUR_US, NOW_US)
    rows, asked = drive(Fill("um", "metrics", "BTCUSDT", None, span, NOW_US), exchange)
    [row] = pl.concat(rows.frames).unique().rows(named=True)
    assert row["sum_open_interest"] == 10.5
    assert row["count_long_short_ratio"] == 1.25
    assert row["sum_taker_long_short_vol_ratio"] is None
    assert [one.start_us // 1000 for one in rows.partial] == [at_ms - at_ms % 300_000]
    assert rows.notes  # it goes back 30 days
    assert all(
        int(dict(r.params)["startTime"]) > (NOW_US - 30 * 24 * HOUR_US) // 1000 for r in asked
    )


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 8), min_size=1, max_size=7), st.integers(0, 4))
def test_payments_and_samples_that_one_answer_leaves_out_are_had(out: set[int], route: int) -> None:
    """A list with rows missing is no less a list."""
    payments = [START_US + hours * HOUR_US for hours in range(-24, 48, 8)]
    samples = [NOW_US - 12 * HOUR_US + n * 5 * MINUTE_US for n in range(9)]
    answers = 0

    def exchange(request: Request) -> list[Any]:
        nonlocal answers
        params = dict(request.params)
        name = "fundingTime" if request.path.endswith("fundingRate") else "timestamp"
        cells = {"fundingRate": "0.1", "sumOpenInterest": "2", "sumOpenInterestValue": "3",
                 "longShortRatio": "4", "buySellRatio": "5"}  # fmt: skip
        found = [
            {"symbol": "BTCUSDT", name: us // 1000, **cells}
            for us in (payments if name == "fundingTime" else samples)
            if int(params["startTime"]) <= us // 1000 <= int(params["endTime"])
        ]
        answers += 1
        spoiled = answers == (1 if name == "fundingTime" else route + 1)
        return [one for n, one in enumerate(found) if not (spoiled and n in out)]

    span = TimeRange(START_US, START_US + 48 * HOUR_US)
    fill = Fill("um", "fundingRate", "BTCUSDT", None, span, NOW_US)
    rows, asked = drive(fill, exchange)
    found = pl.concat(rows.frames)
    assert found["calc_time"].dt.epoch("us").to_list() == payments[3:]
    assert set(found["funding_interval_hours"]) == {8}
    assert len(asked) <= 6
    answers = 0
    span = TimeRange(samples[0], samples[-1] + 5 * MINUTE_US)
    rows, asked = drive(Fill("um", "metrics", "BTCUSDT", None, span, NOW_US), exchange)
    found = pl.concat(rows.frames)
    assert found.height == len(samples)
    assert not any(found[c].null_count() for c in found.columns if c.startswith(("sum_", "count_")))
    assert len(asked) <= 5 + 1


def test_answers_kept_before_rows_were_asked_for_again_are_still_read() -> None:
    """An earlier reader asked each route once, whatever was missing."""
    span = TimeRange(NOW_US - HOUR_US, NOW_US)
    fill = Fill("um", "metrics", "BTCUSDT", None, span, NOW_US)
    at_ms = (NOW_US - HOUR_US) // 1000
    one = f'[{{"symbol":"BTCUSDT","timestamp":{at_ms},"sumOpenInterest":"2","longShortRatio":"4"}}]'
    _, asked = drive(fill, lambda _: [])
    urls = dict.fromkeys(url_of("http://x", request) for request in asked)
    kept = [RawAnswer(url, 1, NOW_US, one.encode()) for url in urls]
    assert len(kept) == 5
    [row] = pl.concat(read_again(fill, kept).frames).rows(named=True)
    assert (row["sum_open_interest"], row["count_long_short_ratio"]) == (2.0, 4.0)


def test_answers_of_another_question_are_not_read_again() -> None:
    span = TimeRange(START_US, START_US + 10 * MINUTE_US)
    fill = Fill("um", "klines", "BTCUSDT", "1m", span, NOW_US)
    _, [request] = drive(fill, lambda r: [bar(START_US + m * MINUTE_US) for m in range(10)])
    raw = RawAnswer(url_of("http://x", request), 1, NOW_US, b"[]")
    assert read_again(fill, [raw]).frames
    with pytest.raises(BadDataError, match="BROKEN_SEQUENCE"):
        read_again(fill, [RawAnswer("http://x/fapi/v1/klines?symbol=A", 1, NOW_US, b"[]")])


DATE = {"Date": "Fri, 10 Apr 2026 00:00:00 GMT"}


def test_what_the_exchange_says_of_limits_is_heard() -> None:
    heard = hear(200, {**DATE, "X-MBX-USED-WEIGHT-1M": "120"}, b"[]")
    assert (heard.seen.used_weight, heard.seen.server_us, heard.again) == (120, START_US, False)
    assert hear(429, {**DATE, "Retry-After": "17"}, b"").seen.quiet_s == 18
    assert hear(429, DATE, b"").seen.quiet_s == 61
    until_ms = START_US // 1000 + 600_000
    body = b'{"code":-1003,"msg":"Way too many requests; IP banned until %d."}' % until_ms
    ban = hear(418, DATE, body)
    assert (ban.seen.quiet_s, ban.seen.banned, ban.again) == (601, True, True)
    assert hear(418, {}, b"").seen.quiet_s == 121
    # What cannot be meant does not close a market for years, nor end the run as a fault of ours.
    assert hear(429, {**DATE, "Retry-After": "9" * 400}, b"").seen.quiet_s == 3 * 86_400 + 1
    assert hear(418, DATE, b"banned until 9999999999999").seen.quiet_s == 3 * 86_400 + 1
    assert hear(429, {**DATE, "Retry-After": "\u00b2"}, b"").seen.quiet_s == 61
    assert hear(503, DATE, b"").again


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"", "NOT_AN_ANSWER"),
        (200, b"null", "NOT_AN_ANSWER"),
        (200, b"<html>", "NOT_AN_ANSWER"),
        (200, b'[[1, "2"', "NOT_AN_ANSWER"),
        (200, b"{}", "NOT_AN_ANSWER"),
        (400, b'{"code":-1121,"msg":"Invalid symbol."}', "INVALID_SYMBOL"),
        (400, b'{"code":-4088,"msg":"Maximum time interval is 200 days."}', "REQUEST_REFUSED"),
        (401, b'{"code":-2014,"msg":"API-key format invalid."}', "KEY_NEEDED"),
        # A page of whatever stands before the exchange says nothing of the request.
        (404, b"<html>", "NOT_AN_ANSWER"),
        (400, b'{"code":-1001,"msg":"Internal error; unable to process."}', "NOT_AN_ANSWER"),
        (400, b'{"code":-1008,"msg":"Server is currently overloaded."}', "NOT_AN_ANSWER"),
    ],
)
def test_what_is_no_list_says_what_it_is(status: int, body: bytes, reason: str) -> None:
    with pytest.raises(BadDataError) as caught:
        read_list(status, body)
    assert caught.value.reason == reason


def test_a_network_that_is_not_served_is_denied() -> None:
    with pytest.raises(RegionDeniedError) as caught:
        read_list(451, b"")
    assert isinstance(caught.value, DeniedError)
    assert "binance.um_url" in caught.value.hint
    assert read_list(200, b"[]") == []
