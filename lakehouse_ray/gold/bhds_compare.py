"""Ours and BHDS's bars from the same rows: what differs, both values, and why.

One row per difference; bars in a row that differ in one column, by the same values and for the same
reason, are one difference (`bars` of them). Numbers are the same within 1e-9 of their size.

Columns: offset (of resampled bars), column, open_time, last_open_time, bars, ours, bhds, reason,
sentence. `bar` as column: one side has no such bar. `part`: a new part begins on one side alone.
Values are spelled so that numbers read back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from lakehouse_ray.gold.bhds import COLUMNS, bhds_klines, bhds_resampled, vwap_name
from lakehouse_ray.gold.bhds_reasons import first_true, rows, told, unequal
from lakehouse_ray.gold.klines import gold_klines, gold_resampled
from lakehouse_ray.kernels.aggregate import Flags
from lakehouse_ray.kernels.asof import funding_events
from lakehouse_ray.kernels.grid import (
    TIME,
    Times,
    ends,
    format_offset,
    offsets_by,
    parse_offset,
    slots,
    starts,
    times_of,
)
from lakehouse_ray.kernels.resample import Resampling
from lakehouse_ray.model.timespan import DAY_US, MINUTE_US
from lakehouse_ray.model.venue import Market

_VALUES = tuple(name for name in COLUMNS if name != "open_time")
_BACK = {theirs: ours for ours, theirs in COLUMNS.items()}
_OURS = pl.col("segment").is_not_null()
_THEIRS = pl.col("segment_b").is_not_null()


def compare_klines(
    klines: pl.DataFrame,
    funding: pl.DataFrame | None,
    *,
    market: Market,
    symbol: str,
    interval: str,
) -> pl.DataFrame:
    """Return the differences between `gold.klines` and BHDS's `gen_kline` of one symbol.

    klines, funding: Rows of silver. Raises as `gold_klines`. Memory: as many rows as there are
    minutes from the first to the last bar, since BHDS makes them up.
    """
    klines = klines.with_columns(pl.col(pl.Float64).fill_nan(None))
    ours = gold_klines(klines, funding, market=market, symbol=symbol, interval=interval)
    parts = bhds_klines(klines, funding, market=market, symbol=symbol, interval=interval)
    theirs = pl.concat(
        _renamed(part, name, {vwap_name(interval): "vwap"}) for name, part in parts.items()
    )
    both = ours.join(theirs, on="open_time", how="full", coalesce=True, suffix="_b")
    both = both.sort("open_time").with_row_index("_row")
    both = both.with_columns(offset=pl.lit(None, dtype=pl.String))
    both = both.with_columns(*_bar_marks(both, klines, interval), *_funding_marks(both, funding))
    shifted = pl.lit(_shifted(klines))
    other_part = pl.col("segment").forward_fill().ne_missing(pl.col("segment").backward_fill())
    bar = first_true(
        ("SHIFTED_CALENDAR", shifted),
        ("OFF_GRID", _OURS & pl.col("_off")),
        ("MINUTE_CALENDAR", _THEIRS & pl.col("_off")),
        ("OFF_GRID", pl.col("_by_off")),
        ("LONG_GAP_FILLED", _THEIRS & other_part),
    )
    value = first_true(("SHIFTED_CALENDAR", shifted), ("OFF_GRID", pl.col("_after_off")))
    outside = (pl.col("vwap") < pl.col("low")) | (pl.col("vwap") > pl.col("high"))
    vwap = first_true(
        ("VWAP_NO_VOLUME", pl.col("vwap").is_null() & (pl.col("volume") == 0)),
        ("VWAP_COIN_MARGINED", pl.lit(market == "cm")),
        ("VWAP_CLIPPED", outside),
        ("OFF_GRID", pl.col("_after_off")),
    )
    rate = first_true(
        ("FUNDING_LATE", pl.col("_late")),
        ("FUNDING_NONE", pl.col("funding_rate").is_null() & (pl.col("funding_rate_b") == 0)),
        ("FUNDING_SEVERAL", pl.col("funding_events") > 1),
        ("FUNDING_IN_GAP", pl.col("is_filled")),
        ("FUNDING_INSIDE", ~pl.col("_due_at_open")),
    )
    reasons = {**dict.fromkeys(_VALUES, value), "vwap": vwap}
    if market != "spot":
        reasons["funding_rate"] = rate
    return told([*_differences(both, bar, reasons), _splits(both, klines, interval)])


def compare_resampled(
    klines: pl.DataFrame,
    funding: pl.DataFrame | None,
    *,
    market: Market,
    symbol: str,
    target: str,
    step: str,
) -> pl.DataFrame:
    """Return the differences between `gold.resampled_klines` and BHDS's `resample_type`.

    klines: Rows of silver at 1m. BHDS's `vwap1m_open` is the average of a bar's first minute, of
        which ours has no counterpart: it is not compared. Neither are cuts between parts, which
        `compare_klines` tells. Raises and memory: as there.
    """
    klines = klines.with_columns(pl.col(pl.Float64).fill_nan(None))
    plan = Resampling("1m", target, (0,) if step == "0m" else offsets_by(target, step))
    ours = gold_resampled(klines, funding, plan, market=market, symbol=symbol)
    parts = bhds_klines(klines, funding, market=market, symbol=symbol, interval="1m")
    theirs = []
    for name, part in parts.items():
        for offset, frame in bhds_resampled(part, target, step).items():
            spelled = format_offset(parse_offset(offset))
            theirs.append(_renamed(frame, name, {}).with_columns(offset=pl.lit(spelled)))
    key = ["offset", "open_time"]
    both = ours.join(pl.concat(theirs), on=key, how="full", coalesce=True, suffix="_b")
    both = both.sort(key).with_row_index("_row")
    both = both.with_columns(*_window_marks(both, klines, target))
    both = both.with_columns(
        *_payment_marks(both, klines, funding, target), _part_begins_within(both, parts, target)
    )
    shifted = pl.lit(_shifted(klines))
    bar = first_true(
        ("SHIFTED_CALENDAR", shifted),
        ("ONLY_FILLED", _THEIRS & (pl.col("_present") == 0)),
        ("PARTIAL_EDGE", _OURS & pl.col("is_partial")),
        ("PART_WITHIN", _OURS & pl.col("_part_within")),
    )
    value = first_true(("SHIFTED_CALENDAR", shifted), ("OFF_GRID", pl.col("_by_off")))
    price = first_true(
        ("SHIFTED_CALENDAR", shifted),
        ("OFF_GRID", pl.col("_by_off")),
        ("UNTRADED_PRICE", pl.col("_traded") < pl.col("bars_expected")),
    )
    reasons = {name: price if name in ("open", "high", "low") else value for name in _VALUES}
    if market != "spot":
        tiny = (pl.col("funding_rate").abs() <= 1e-6) & pl.col("funding_rate_b").is_null()
        reasons["funding_rate"] = first_true(
            ("SHIFTED_CALENDAR", shifted & pl.col("funding_rate_b").is_null()),
            ("FUNDING_LATE", pl.col("_late")),
            ("FUNDING_SEVERAL", pl.col("funding_events") > 1),
            ("FUNDING_TINY", tiny),
            ("OFF_GRID", pl.col("_hour_off")),
            ("FUNDING_IN_GAP", pl.col("_present") < pl.col("bars_expected")),
        )
    return told(_differences(both, bar, reasons))


def _differences(
    both: pl.DataFrame, bar: pl.Expr, reasons: Mapping[str, pl.Expr]
) -> list[pl.DataFrame]:
    filled = pl.when("is_filled").then(pl.lit("made up")).otherwise(pl.lit("there"))
    ours = pl.when(_OURS).then(filled).otherwise(pl.lit("absent"))
    theirs = pl.when(_THEIRS).then(pl.lit("there")).otherwise(pl.lit("absent"))
    found = [rows(both, _OURS.xor(_THEIRS), "bar", ours, theirs, bar)]
    shared = _OURS & _THEIRS
    # Bars that only one side has do not part the others.
    both = both.with_columns(_row=shared.cum_sum())
    named = pl.col("segment") != pl.col("segment_b")
    found.append(
        rows(
            both,
            shared & named,
            "segment",
            pl.col("segment"),
            pl.col("segment_b"),
            pl.lit("PART_NAMES"),
        )
    )
    for name, reason in reasons.items():
        other = f"{name}_b"
        which = shared & unequal(name, other)
        found.append(rows(both, which, name, pl.col(name), pl.col(other), reason))
    return found


def _renamed(frame: pl.DataFrame, part: str, more: Mapping[str, str]) -> pl.DataFrame:
    """BHDS's frame in our names, with the part it belongs to."""
    names = {**_BACK, **more}
    frame = frame.rename({name: ours for name, ours in names.items() if name in frame.columns})
    return frame.with_columns(pl.col("open_time").cast(TIME), segment=pl.lit(part))


def _shifted(klines: pl.DataFrame) -> bool:
    opens = times_of(klines)
    return bool(opens.size) and bool(opens[0] % MINUTE_US)


def _off_grid(opens: Times, interval: str) -> Flags:
    off: Flags = starts(slots(opens, interval), interval) != opens
    return off


def _bar_marks(both: pl.DataFrame, klines: pl.DataFrame, interval: str) -> list[pl.Series]:
    """_off: off the interval's grid. _by_off: shares its slot with a bar that is. _after_off: the
    last bar of the market until then is."""
    opens, times = times_of(klines), times_of(both)
    off = _off_grid(opens, interval)
    last = np.searchsorted(opens, times, side="right") - 1
    occupied = slots(opens[off], interval)
    return [
        pl.Series("_off", _off_grid(times, interval)),
        pl.Series("_by_off", np.isin(slots(times, interval), occupied)),
        pl.Series("_after_off", off[last]),
    ]


def _window_marks(both: pl.DataFrame, klines: pl.DataFrame, target: str) -> list[pl.Series]:
    """_present, _traded: finer bars, and those with volume, within each bar. _by_off: one of them
    lies off the grid, or reaches into it from before."""
    opens = times_of(klines)
    times = both["open_time"].to_physical().to_numpy()
    first, stop = np.searchsorted(opens, times), np.searchsorted(opens, ends(times, target))
    before = np.searchsorted(opens, times - MINUTE_US)

    def within(flags: Times, begin: Times) -> Times:
        below: Times = np.append(0, np.cumsum(flags))
        return np.subtract(below[stop], below[begin])

    traded = (klines["volume"] > 0).fill_null(value=False).to_numpy().astype(np.int64)
    off = _off_grid(opens, "1m").astype(np.int64)
    return [
        pl.Series("_present", stop - first),
        pl.Series("_traded", within(traded, first)),
        pl.Series("_by_off", within(off, before) > 0),
    ]


def _funding_marks(both: pl.DataFrame, funding: pl.DataFrame | None) -> list[pl.Expr]:
    """_due_at_open: a payment fell due as the bar opened. _late: one was calculated so late that it
    counts for another bar than its hour's first."""
    if funding is None:
        return [pl.lit(value=False).alias("_due_at_open"), pl.lit(value=False).alias("_late")]
    events = funding_events(funding)["event_time"]
    hours = events.dt.truncate("1h")
    late = events.filter(events != hours)
    opens = both["open_time"].unique().sort()
    rows_of_late = opens.search_sorted(late, side="right").cast(pl.Int64) - 1
    falls_into = opens.gather(rows_of_late.filter(rows_of_late >= 0))
    marked = pl.concat([late.dt.truncate("1h"), falls_into])
    return [
        pl.col("open_time").is_in(events.implode()).alias("_due_at_open"),
        pl.col("open_time").is_in(marked.implode()).alias("_late"),
    ]


def _part_begins_within(
    both: pl.DataFrame, parts: Mapping[str, pl.DataFrame], target: str
) -> pl.Series:
    """_part_within: one of BHDS's parts begins after the bar does, and before it ends."""
    firsts = pl.concat(_renamed(part.head(1), name, {}) for name, part in parts.items())
    begins = times_of(firsts)[1:]
    opens = both["open_time"].to_physical().to_numpy()
    after = np.searchsorted(begins, opens, side="right")
    return pl.Series("_part_within", np.searchsorted(begins, ends(opens, target)) > after)


def _payment_marks(
    both: pl.DataFrame, klines: pl.DataFrame, funding: pl.DataFrame | None, target: str
) -> list[pl.Series]:
    """_late: of a payment that was calculated well past its hour, the bar has either the hour or the
    time of the calculation, not both. _hour_off: the finer bar of a payment's hour is off the grid."""
    if funding is None:
        none = pl.Series([False] * both.height, dtype=pl.Boolean)
        return [none.alias("_late"), none.alias("_hour_off")]
    events = funding_events(funding).select(
        "event_time", hour=pl.col("event_time").dt.truncate("1h")
    )
    late = events.filter(pl.col("event_time") != pl.col("hour"))
    # Both ascend in the same order, so that what falls into a bar is a run of rows in either.
    known, hours = (late[column].to_physical().to_numpy() for column in ("event_time", "hour"))
    begins = both["open_time"].to_physical().to_numpy()
    stops = ends(begins, target)
    known_from, known_to = np.searchsorted(known, begins), np.searchsorted(known, stops)
    hours_from, hours_to = np.searchsorted(hours, begins), np.searchsorted(hours, stops)
    ours_alone = np.minimum(known_to, hours_from) > known_from
    theirs_alone = hours_to > np.maximum(hours_from, known_to)
    opens = times_of(klines)
    missed = starts(slots(opens[_off_grid(opens, "1m")], "1m"), "1m")
    missed = np.intersect1d(missed, events["hour"].to_physical().to_numpy())
    hour_off = np.searchsorted(missed, stops) > np.searchsorted(missed, begins)
    return [
        pl.Series("_late", ours_alone | theirs_alone),
        pl.Series("_hour_off", hour_off),
    ]


@dataclass(frozen=True)
class _Cuts:
    """ours, theirs: When parts begin. opens: Of the traded bars. same: They open at the very price
    of the close before. seen: They lie on BHDS's calendar; `calendar` is the reason of those that
    do not. every: Openings of all bars, traded or not."""

    ours: set[int]
    theirs: set[int]
    interval: str
    opens: Times
    same: Flags
    seen: Flags
    every: Times
    calendar: str


def _why_ours(cuts: _Cuts, time: int) -> str:
    """Why BHDS begins no part at `time`: it compares the traded bars on its calendar, two by two."""
    row = int(np.searchsorted(cuts.opens, time))
    if row in (0, cuts.opens.size):
        return "SPLIT_NO_TRADE"
    if cuts.opens[row] != time and cuts.opens[row] in cuts.theirs:
        return "SPLIT_FIRST_TRADE"
    if not cuts.seen[row - 1 : row + 1].all():
        return cuts.calendar
    return "SPLIT_EQUAL_PRICE" if cuts.same[row] else "UNEXPLAINED"


def _why_theirs(cuts: _Cuts, time: int) -> str:
    """Why ours begins no part at `time`, a traded bar with another before it."""
    row = int(np.searchsorted(cuts.opens, time))
    before = cuts.opens[row - 1]
    if any(before < other < time for other in cuts.ours):
        return "SPLIT_FIRST_TRADE"
    if not cuts.seen[row - 1]:
        return cuts.calendar
    if _off_grid(cuts.opens[row - 1 : row + 1], cuts.interval).any():
        return "OFF_GRID"
    if time - ends(cuts.opens[row - 1 : row], cuts.interval)[0] < DAY_US:
        return "SPLIT_BAR_LENGTH"
    quiet = ((cuts.every > before) & (cuts.every < time)).any()
    return "SPLIT_QUIET" if quiet else "UNEXPLAINED"


def _splits(both: pl.DataFrame, klines: pl.DataFrame, interval: str) -> pl.DataFrame:
    """Bars with which a part begins on one side alone."""
    ours, theirs = _begins(both, "segment"), _begins(both, "segment_b")
    traded = klines.filter(pl.col("volume") > 0)
    cuts = _Cuts(
        ours=ours,
        theirs=theirs,
        interval=interval,
        opens=times_of(traded),
        same=(traded["open"] == traded["close"].shift()).fill_null(value=False).to_numpy(),
        seen=np.isin(times_of(traded), times_of(both.filter(_THEIRS))),
        every=times_of(klines),
        calendar="SHIFTED_CALENDAR" if _shifted(klines) else "OFF_GRID",
    )
    reasons = {
        time: _why_ours(cuts, time) if time in ours else _why_theirs(cuts, time)
        for time in sorted(ours ^ theirs)
    }
    schema = {"open_time": TIME, "_ours": pl.Boolean(), "_reason": pl.String()}
    told_at = pl.DataFrame(
        {
            "open_time": pl.Series(list(reasons), dtype=pl.Int64).cast(TIME),
            "_ours": pl.Series([time in ours for time in reasons], dtype=pl.Boolean),
            "_reason": pl.Series(list(reasons.values()), dtype=pl.String),
        },
        schema=schema,
    )
    at = both.select("_row", "offset", "open_time").join(told_at, on="open_time")
    side = {True: "begins", False: "goes on"}
    mine = pl.col("_ours").replace_strict(side, return_dtype=pl.String)
    other = pl.col("_ours").not_().replace_strict(side, return_dtype=pl.String)
    return rows(at, pl.lit(value=True), "part", mine, other, pl.col("_reason"))


def _begins(both: pl.DataFrame, segment: str) -> set[int]:
    """When parts begin, but the first."""
    named = both.filter(pl.col(segment).is_not_null())
    begins = named.filter(pl.col(segment) != pl.col(segment).shift())["open_time"]
    return set(begins.to_physical().to_list())
