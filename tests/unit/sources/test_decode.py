"""CSV to rows: every data set, every spelling, every kind of bad row."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse_ray.errors import BadDataError
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import day_range
from lakehouse_ray.model.venue import Market
from lakehouse_ray.sources.binance import decode as module
from lakehouse_ray.sources.binance.decode import decode
from lakehouse_ray.sources.binance.decode_careful import decode_carefully
from lakehouse_ray.sources.binance.decode_quick import decode_quickly
from lakehouse_ray.sources.binance.layouts import _LAYOUTS
from lakehouse_ray.sources.source import CsvFile, Decoded

DAY = day_range(date(2024, 5, 1))
MS = DAY.start_us // 1000
T0 = datetime(2024, 5, 1, tzinfo=UTC)

BAR = "{t},1.5,4.088E-4,0E-8,2,10,{c},20,7,3,4,0"
BAR_HEADER = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
BAR_VALUES = (1.5, 4.088e-4, 0.0, 2.0, 10.0, 20.0, 7, 3.0, 4.0)
# For each data set and market: its header, one line ({t}: the time as the file spells it), and the
# values of the columns that are not times, in the data set's order.
SAMPLES: dict[tuple[str, Market], tuple[str, str, tuple[object, ...]]] = {
    **{("klines", m): (BAR_HEADER, BAR, BAR_VALUES) for m in ("spot", "um", "cm")},
    **{
        (f"{kind}Klines", m): (BAR_HEADER, BAR, BAR_VALUES)
        for kind in ("markPrice", "indexPrice", "premiumIndex")
        for m in ("um", "cm")
    },
    ("aggTrades", "spot"): (
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker,is_best_match",
        "129579875,4.088E-4,40367.0,1,2,{t},True,False", (129579875, 4.088e-4, 40367.0, 1, 2, True, False)),
    **{("aggTrades", m): (
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker",
        "5,0.7,542.0,1,2,{t},false", (5, 0.7, 542.0, 1, 2, False, None)) for m in ("um", "cm")},
    ("trades", "spot"): ("id,price,qty,quote_qty,time,is_buyer_maker,is_best_match",
        "9,1.5,2,3,{t},True,True", (9, 1.5, 2.0, 3.0, None, True, True)),
    ("trades", "um"): ("id,price,qty,quote_qty,time,is_buyer_maker",
        "9,1.5,2,3,{t},true", (9, 1.5, 2.0, 3.0, None, True, None)),
    ("trades", "cm"): ("id,price,qty,base_qty,time,is_buyer_maker",
        "9,1.5,2,3,{t},false", (9, 1.5, 2.0, None, 3.0, False, None)),
    **{("fundingRate", m): ("calc_time,funding_interval_hours,last_funding_rate",
        "{t},8,-0.00007500", (8, -0.000075)) for m in ("um", "cm")},
    **{("metrics", m): (
        "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
        "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio",
        '{x},BTCUSDT,93450.4830000000000000,0E-16,"","",1.5,0E-8',
        (93450.483, 0.0, None, None, 1.5, 0.0)) for m in ("um", "cm")},
    **{("bookTicker", m): (
        "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time",
        "7,1,2,3,4,{t},{c}", (7, 1.0, 2.0, 3.0, 4.0)) for m in ("um", "cm")},
    **{("bookDepth", m): ("timestamp,percentage,depth,notional",
        "{x},-5.00,1.5,2E+3", (-5.0, 1.5, 2000.0)) for m in ("um", "cm")},
    **{("liquidationSnapshot", m): (
        "time,side,order_type,time_in_force,original_quantity,price,average_price,order_status,"
        "last_fill_quantity,accumulated_fill_quantity",
        "{t},SELL,LIMIT,IOC,1,2,3,FILLED,4,5",
        ("SELL", "LIMIT", "IOC", 1.0, 2.0, 3.0, "FILLED", 4.0, 5.0)) for m in ("um", "cm")},
}  # fmt: skip


def read(name: str, market: Market, data: bytes) -> Decoded:
    file = CsvFile("some/BTCUSDT.zip", "BTCUSDT", DAY, data)
    (decoded,) = decode(DATASETS[name], market, [file])
    return decoded


def line(template: str, second: int, unit: int = 1) -> str:
    """The sample at a second of the day; unit 1000: in microseconds."""
    return template.format(
        t=(MS + second * 1000) * unit,
        c=(MS + second * 1000 + 999) * unit,
        x=f"{T0 + timedelta(seconds=second):%Y-%m-%d %H:%M:%S}",
    )


def test_every_data_set_of_every_market_has_a_sample_here() -> None:
    wanted = {(d.name, market) for d in DATASETS.values() for market in d.archive}
    assert set(SAMPLES) == wanted == set(_LAYOUTS)


@pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
@pytest.mark.parametrize("unit", [1, 1000], ids=["ms", "us"])
@pytest.mark.parametrize(("name", "market"), list(SAMPLES), ids=str)
def test_each_column_of_each_data_set_is_read(
    name: str, market: Market, unit: int, header: bool
) -> None:
    head, template, values = SAMPLES[name, market]
    text = (f"{head}\n" if header else "") + line(template, 5, unit) + "\n"
    decoded = read(name, market, text.encode())
    dataset = DATASETS[name]
    assert decoded.frame.columns == [column.name for column in dataset.columns]
    assert decoded.bad == ((),)
    (row,) = decoded.frame.iter_rows(named=True)
    assert row.pop(dataset.time) == T0 + timedelta(seconds=5)
    for other in ("close_time", "event_time"):
        if other in row:
            assert row.pop(other) == T0 + timedelta(seconds=5, milliseconds=999)
    assert tuple(row.values()) == values


SPELLINGS = {
    "as it is": lambda text: text,
    "CRLF": lambda text: text.replace(b"\n", b"\r\n"),
    "no newline at the end": lambda text: text.rstrip(b"\n"),
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "blank lines": lambda text: text.replace(b"\n", b"\n\n"),
    "blanks at the end": lambda text: text + b"\n  \n",
    "CRLF and no newline at the end": lambda text: text.replace(b"\n", b"\r\n").rstrip(b"\r\n"),
}


@pytest.mark.parametrize("header", [True, False], ids=["header", "no header"])
@pytest.mark.parametrize("spelling", list(SPELLINGS))
@pytest.mark.parametrize(("name", "market"), list(SAMPLES), ids=str)
def test_how_lines_end_makes_no_difference(
    name: str, market: Market, spelling: str, header: bool
) -> None:
    head, template, _ = SAMPLES[name, market]
    rows = [line(template, second) for second in (5, 65)]
    if name in ("aggTrades", "trades", "bookTicker"):
        first, _, rest = rows[1].partition(",")
        rows[1] = f"{int(first) + 1},{rest}"
    text = ("\n".join([head, *rows] if header else rows) + "\n").encode()
    plain = read(name, market, text)
    spelled = read(name, market, SPELLINGS[spelling](text))
    assert plain.frame.height == 2
    assert spelled.frame.equals(plain.frame)
    assert spelled.bad == ((),)


def bars(count: int, unit: int = 1) -> list[str]:
    return [line(BAR, 60 * i, unit) for i in range(count)]


def klines(*rows: str) -> Decoded:
    return read("klines", "um", "".join(f"{row}\n" for row in rows).encode())


BAD = {
    "glued": (lambda rows: rows[0] + rows[1], "WRONG_CELL_COUNT"),
    "short": (lambda rows: rows[0].rpartition(",")[0], "WRONG_CELL_COUNT"),
    "long": (lambda rows: rows[0] + ",0", "WRONG_CELL_COUNT"),
    "word for a number": (lambda rows: rows[0].replace("1.5", "abc"), "UNTYPED_CELL"),
    "empty cell": (lambda rows: rows[0].replace("1.5", ""), "UNTYPED_CELL"),
    "quoted empty cell": (lambda rows: rows[0].replace("1.5", '""'), "UNTYPED_CELL"),
    "not a number": (lambda rows: rows[0].replace("1.5", "NaN"), "UNTYPED_CELL"),
    "infinite": (lambda rows: rows[0].replace("1.5", "inf"), "UNTYPED_CELL"),
    "too large": (lambda rows: rows[0].replace("1.5", "1e400"), "UNTYPED_CELL"),
    "fraction of a count": (lambda rows: rows[0].replace(",7,", ",7.5,"), "UNTYPED_CELL"),
    "time in words": (lambda rows: "noon" + rows[0][13:], "UNTYPED_CELL"),
    "time in nanoseconds": (lambda rows: rows[0][:13] + "000000" + rows[0][13:], "OUTSIDE_PERIOD"),
    "time in seconds": (lambda rows: rows[0][:10] + rows[0][13:], "OUTSIDE_PERIOD"),
    "time of the next day": (lambda rows: line(BAR, 86_400), "OUTSIDE_PERIOD"),
    "time of the day before": (lambda rows: line(BAR, -1), "OUTSIDE_PERIOD"),
    "negative time": (lambda rows: "-" + rows[0], "OUTSIDE_PERIOD"),
}


@pytest.mark.parametrize("at", [0, 1, 3], ids=["first", "middle", "last"])
@pytest.mark.parametrize("kind", list(BAD))
def test_a_bad_row_is_refused_alone_with_its_line_and_its_text(kind: str, at: int) -> None:
    spoil, reason = BAD[kind]
    rows = bars(5)
    bad = spoil(rows[3:])
    good = rows[:3]
    decoded = klines(*good[:at], bad, *good[at:])
    assert decoded.frame.equals(klines(*good).frame)
    assert [(row.line, row.reason, row.raw) for row in decoded.bad[0]] == [(at + 1, reason, bad)]


def test_the_line_of_a_bad_row_counts_header_and_blank_lines() -> None:
    text = "\n".join([BAR_HEADER, bars(1)[0], "", "x,y", ""]).encode()
    assert [row.line for row in read("klines", "um", text).bad[0]] == [4]


def test_rows_alike_in_all_cells_are_one() -> None:
    rows = bars(3)
    decoded = klines(rows[0], rows[1], rows[1], rows[2], rows[0])
    assert decoded.frame.height == 3
    assert (decoded.duplicates, decoded.bad) == ((2,), ((),))


def test_rows_that_share_a_key_and_differ_are_all_refused() -> None:
    rows = bars(3)
    other = rows[1].replace("1.5", "1.6")
    decoded = klines(rows[0], rows[1], other, rows[2])
    assert decoded.frame.height == 2
    assert [(row.line, row.reason) for row in decoded.bad[0]] == [
        (2, "CONFLICTING_KEY"), (3, "CONFLICTING_KEY"),
    ]  # fmt: skip


def test_metrics_may_have_midnight_of_the_next_day_some_seconds_late_and_no_later_time() -> None:
    head, template, _ = SAMPLES["metrics", "um"]
    seconds = (0, 86_400, 86_402, 86_460)
    text = "\n".join([head, *(line(template, s) for s in seconds), ""]).encode()
    decoded = read("metrics", "um", text)
    assert decoded.frame["create_time"].to_list() == [
        T0 + timedelta(seconds=s) for s in seconds[:3]
    ]
    assert [row.reason for row in decoded.bad[0]] == ["OUTSIDE_PERIOD"]


def test_metrics_of_another_symbol_are_refused() -> None:
    head, template, _ = SAMPLES["metrics", "um"]
    text = "\n".join([head, line(template, 0).replace("BTCUSDT", "ETHUSDT"), ""]).encode()
    assert [row.reason for row in read("metrics", "um", text).bad[0]] == ["WRONG_SYMBOL"]


def test_a_file_may_change_from_milliseconds_to_microseconds() -> None:
    mixed = klines(*bars(2), *bars(4, 1000)[2:])
    assert mixed.frame.equals(klines(*bars(4)).frame)


def test_columns_of_a_header_in_another_order_go_by_their_names() -> None:
    head, template, _ = SAMPLES["fundingRate", "um"]
    cells = line(template, 5).split(",")
    turned = ",".join(reversed(head.split(","))) + "\n" + ",".join(reversed(cells)) + "\n"
    straight = f"{head}\n{line(template, 5)}\n"
    one = read("fundingRate", "um", turned.encode())
    assert one.frame.equals(read("fundingRate", "um", straight.encode()).frame)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EMPTY"),
        (b" \n\n", "EMPTY"),
        (BAR_HEADER.replace("count", "trades").encode() + b"\n1\n", "UNKNOWN_COLUMNS"),
        (BAR_HEADER.encode() + b",more\n1\n", "UNKNOWN_COLUMNS"),
        (BAR_HEADER.replace("open,", "", 1).encode() + b"\n", "UNKNOWN_COLUMNS"),
        (BAR_HEADER.replace("high", "open").encode() + b"\n", "UNKNOWN_COLUMNS"),
        (b"1,2,3\n4,5,6\n7,8,9\n", "UNKNOWN_COLUMNS"),
        (b"\xff\xfe1,2\n", "NOT_UTF8"),
        (b"<html><body>Busy</body></html>\n", "UNKNOWN_COLUMNS"),
    ],
)
def test_a_file_of_something_else_is_refused_whole(data: bytes, reason: str) -> None:
    with pytest.raises(BadDataError) as caught:
        read("klines", "um", data)
    assert caught.value.reason == reason


def test_a_header_without_rows_is_a_file_without_rows() -> None:
    for text in (BAR_HEADER, BAR_HEADER + "\n"):
        decoded = read("klines", "um", text.encode())
        assert (decoded.frame.height, decoded.rows, decoded.bad) == (0, (0,), ((),))


def test_text_cells_are_the_same_with_quotes_and_blanks_anywhere() -> None:
    _, template, _ = SAMPLES["liquidationSnapshot", "um"]
    rows = [line(template, i) for i in range(2500)]
    plain = read("liquidationSnapshot", "um", ("\n".join(rows) + "\n").encode())
    rows[-1] = rows[-1].replace("SELL", '"SELL"').replace("LIMIT", " LIMIT")
    spelled = read("liquidationSnapshot", "um", ("\n".join(rows) + "\n").encode())
    assert spelled.frame.equals(plain.frame)
    rows[0] = rows[0].replace("SELL", '""')
    assert len(read("liquidationSnapshot", "um", ("\n".join(rows) + "\n").encode()).bad[0]) == 1


NUMBERS = st.floats(0, 1e12, allow_subnormal=False).map(lambda f: (f, repr(f)))
SPELLED = st.one_of(NUMBERS, NUMBERS.map(lambda n: (n[0], f"{n[0]:.17E}")), st.just((0.0, "0E-16")))
BAR_ROWS = st.lists(
    st.tuples(
        st.integers(0, 1439), st.lists(SPELLED, min_size=8, max_size=8), st.integers(0, 10**12)
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda row: row[0],
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=BAR_ROWS, unit=st.sampled_from([1, 1000]), header=st.booleans(), glued=st.booleans())
def test_what_is_written_is_read_back_whole_by_either_way(
    rows: list[Any], unit: int, header: bool, glued: bool
) -> None:
    """The quick way, and the careful one that a bad row beside them brings about."""
    texts, wanted = [BAR_HEADER] if header else [], []
    for minute, cells, count in rows:
        open_ms = MS + minute * 60_000
        o, h, l, c, v, q, tb, tq = cells  # noqa: E741
        texts.append(
            f"{open_ms * unit},{o[1]},{h[1]},{l[1]},{c[1]},{v[1]},{(open_ms + 59_999) * unit},"
            f"{q[1]},{count},{tb[1]},{tq[1]},0"
        )
        opened = T0 + timedelta(minutes=minute)
        wanted.append((opened, o[0], h[0], l[0], c[0], v[0], q[0], count, tb[0], tq[0],
                       opened + timedelta(milliseconds=59_999)))  # fmt: skip
    if glued:
        texts.append(texts[-1] + texts[-1])
    decoded = read("klines", "um", ("\n".join(texts) + "\n").encode())
    assert decoded.frame.rows() == wanted
    assert len(decoded.bad[0]) == int(glued)


@pytest.mark.parametrize("ignored", ["0", "17928899.62484339", "nan", "9" * 400, "n/a", "é"])
def test_whatever_stands_in_the_ignored_column_is_ignored(ignored: str) -> None:
    rows = [row.rpartition(",")[0] + f",{ignored}" for row in bars(3)]
    file = CsvFile("a.zip", "BTCUSDT", DAY, ("\n".join([*bars(2), *rows[2:]]) + "\n").encode())
    ((layout, parts),) = module._runs(DATASETS["klines"], "um", [file])
    quick = decode_quickly(DATASETS["klines"], layout, parts)
    assert quick is not None
    plain = read("klines", "um", ("\n".join(bars(3)) + "\n").encode())
    assert quick.frame.equals(plain.frame)


@pytest.mark.parametrize(("name", "market"), list(SAMPLES), ids=str)
def test_the_careful_way_equals_the_quick_one_on_good_files(name: str, market: Market) -> None:
    _, template, _ = SAMPLES[name, market]
    dataset = DATASETS[name]
    rows = [line(template, 5 * i) for i in range(50)]
    if dataset.key[0] != dataset.time:
        rows = [f"{i},{row.partition(',')[2]}" if name != "liquidationSnapshot" else row
                for i, row in enumerate(rows)]  # fmt: skip
    file = CsvFile("a.zip", "BTCUSDT", DAY, ("\n".join(rows) + "\n").encode())
    ((layout, parts),) = module._runs(dataset, market, [file])
    quick = decode_quickly(dataset, layout, parts)
    assert quick is not None
    careful = decode_carefully(dataset, layout, parts[0])
    assert careful.frame.equals(quick.frame)
    assert careful.frame.schema == quick.frame.schema
    assert careful.frame.height == 50


def test_times_of_many_files_are_held_to_each_files_own_day() -> None:
    """Parsed together, a row of the wrong day must not pass because another file has that day."""
    next_day = day_range(date(2024, 5, 2))
    files = [
        CsvFile("a", "BTCUSDT", DAY, f"{bars(1)[0]}\n{line(BAR, 86_400)}\n".encode()),
        CsvFile("b", "BTCUSDT", next_day, f"{line(BAR, 86_460)}\n".encode()),
    ]
    results = decode(DATASETS["klines"], "um", files)
    assert sum(d.frame.height for d in results) == 2
    assert [row.reason for d in results for bad in d.bad for row in bad] == ["OUTSIDE_PERIOD"]
    assert pl.concat([d.frame for d in results])["open_time"].to_list() == [
        T0, T0 + timedelta(days=1, minutes=1),
    ]  # fmt: skip
