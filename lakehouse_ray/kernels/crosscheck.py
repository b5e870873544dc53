"""Compare two accounts of one thing, value by value, and say where and why they differ.

Four comparisons (`model.crosschecks.CHECKS`), each on two frames of any symbols of one market. All
of it is column arithmetic; memory is a few times that of the frames, so a caller bounds it by what
it hands over (a symbol and a month, say). Bars at the edges of what is handed over must be whole.

Nulls and NaN never compare as equal to a number, and equal each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.grid import divides, ends, slot_starts
from lakehouse_ray.model.crosschecks import CROSS_CHECKS, Check
from lakehouse_ray.model.timespan import MINUTE_US, TimeRange
from lakehouse_ray.model.venue import INTERVALS

_TIME = pl.Datetime("us", "UTC")
_TYPES = {"string": pl.String(), "double": pl.Float64(), "long": pl.Int64(), "timestamp": _TIME}
RESULT = pl.Schema({column.name: _TYPES[column.type] for column in CROSS_CHECKS.columns})

# Relative difference that adding up binary fractions in another order may leave.
SUM_TOLERANCE = 1e-9
PRICES = ("open", "high", "low", "close")
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
BAR_VALUES = (*PRICES, *SUMS, "trades")
_IDENTITY = ("symbol", "interval")

# The reason of a bar whose finer ones reach over its edges, so that they tell of another time.
OFF_GRID = "bars lie off the grid"
# Begins the reason of a minute whose trades do not tell why its bar differs from them.
UNEXPLAINED = "the bar counts more trades"


def finer_against_coarser(
    finer: pl.DataFrame, coarser: pl.DataFrame, market: str, *, every: bool = False
) -> pl.DataFrame:
    """Hold finer bars, summed, against the published coarser ones.

    finer, coarser: Rows of `silver.klines`, each of one interval; weeks, 3d bars and months go by
        their calendar (`kernels.grid`). A bar off the grid belongs to the coarser bar it lies in.
        Prices are of the finer bars that traded (`traded_prices`).
    every: Also values that agree, exactly or within the tolerance.

    Where finer bars are missing or lie off the grid the reason says so; where all are there it says
    of which days the two files are, since files are made again years later, one interval without
    the other. Raises InvalidError where the intervals do not fit.
    """
    small, large = _interval_of(finer), _interval_of(coarser)
    if not small or not large:
        return RESULT.to_frame()
    step = INTERVALS[small]
    if step is None or not divides(small, large):
        raise InvalidError(f"{large} bars are not made of {small} bars", "take a finer interval")
    sums = (
        finer.with_columns(time=slot_starts(finer["open_time"], large))
        .sort("symbol", "open_time")
        .group_by("symbol", "time", maintain_order=True)
        .agg(
            *traded_prices(), *(pl.col(name).sum() for name in (*SUMS, "trades")),
            bars=pl.len(),
            off=(pl.col("open_time").dt.epoch("us") % step != 0).sum(),
            made=pl.col("source_version").max(),
        )
    )  # fmt: skip
    sums = sums.with_columns(needed=bars_in(sums["time"], small, large))
    reason = (
        pl.when((pl.col("off") > 0) | pl.col("odd"))
        .then(pl.lit(OFF_GRID))
        .when(pl.col("bars") < pl.col("needed"))
        .then(pl.format(f"{{}} of {{}} {small} bars are there", "bars", "needed"))
        .when(pl.col("bars").is_null())
        .then(pl.lit(f"no {small} bars are there"))
        .otherwise(
            pl.format(
                f"all {{}} {small} bars are there; their file is of {{}}, the {large} one of {{}}",
                "needed",
                *(pl.col(name).str.slice(0, len("2022-04-13")) for name in ("made", "made_right")),
            )
        )
    )
    right = coarser.select(
        "symbol", pl.col("open_time").alias("time"), *BAR_VALUES, made="source_version",
        odd=pl.col("open_time") != slot_starts(coarser["open_time"], large),
    )  # fmt: skip
    tolerances = dict.fromkeys(SUMS, SUM_TOLERANCE)
    return _labelled(
        compare(sums, right, BAR_VALUES, tolerances, reason=reason, every=every),
        market, "finer_coarser", large,
    )  # fmt: skip


def traded_prices() -> list[pl.Expr]:
    """What the four prices of finer bars, in order, are together: of those that traded.

    A bar without volume carries the price of before on, and the exchange leaves it out of its own
    longer bars. Where none traded, the flat price stays. An unknown volume may be a trade.
    """
    traded = (pl.col("volume") != 0).fill_null(True)
    wholes = {"open": pl.Expr.first, "high": pl.Expr.max, "low": pl.Expr.min, "close": pl.Expr.last}
    return [
        pl.coalesce(whole(pl.col(name).filter(traded)), whole(pl.col(name))).alias(name)
        for name, whole in wholes.items()
    ]


def bars_in(opens: pl.Series, finer: str, coarser: str) -> pl.Series:
    """How many finer bars a whole coarser bar that opens at each of these times has."""
    step = INTERVALS[finer]
    assert step is not None
    micro = opens.dt.epoch("us").to_numpy()
    return pl.Series((ends(micro, coarser) - micro) // step)


def trades_against_bars(
    trades: pl.DataFrame, bars: pl.DataFrame, market: str, *, every: bool = False
) -> pl.DataFrame:
    """Hold aggTrades, summed by minute, against the published 1m bars.

    trades: Rows of `silver.agg_trades`. bars: Rows of `silver.klines` at 1m, for the minutes that
        the trades cover; a bar that counts no trade needs none.

    The number of trades of a minute is the sum of `last - first + 1` over the ids of its trades.
    What makes minutes differ, in the order in which it is looked for: the same surplus lacks in the
    minute beside it (a trade on the edge, stamped differently); ids that stand between aggTrades
    are in none of them (trades that the exchange counts and does not list); ids inside an aggTrade
    that the bar does not count. On COIN-M, `quote_volume` (in the base asset) is not compared: the
    size of a contract is not in the rows.
    """
    interval = "1m"
    names = [n for n in BAR_VALUES if market != "cm" or "quote" not in n]
    quote = pl.col("price") * pl.col("quantity")
    bought = ~pl.col("is_buyer_maker")
    minute = pl.col("transact_time").dt.truncate("1m")
    sums = (
        trades.sort("symbol", "agg_trade_id")
        .with_columns(
            between=(pl.col("first_trade_id") - pl.col("last_trade_id").shift(1) - 1)
            .over("symbol")
            .clip(lower_bound=0)
        )
        .group_by("symbol", minute.alias("time"), maintain_order=True)
        .agg(
            open=pl.col("price").first(),
            high=pl.col("price").max(),
            low=pl.col("price").min(),
            close=pl.col("price").last(),
            volume=pl.col("quantity").sum(),
            quote_volume=quote.sum(),
            taker_buy_volume=pl.col("quantity").filter(bought).sum(),
            taker_buy_quote_volume=quote.filter(bought).sum(),
            trades=(pl.col("last_trade_id") - pl.col("first_trade_id") + 1).sum(),
            holes=pl.col("between").sum(),
        )
    )
    # A minute that counts no trade has a price of its own, carried on, and no aggTrades.
    right = bars.filter(pl.col("trades") > 0).select(
        "symbol", pl.col("open_time").alias("time"), *BAR_VALUES
    )
    sums = _with_neighbours(sums, right)
    surplus, holes = pl.col("surplus"), pl.col("holes")
    reason = (
        pl.when((surplus < 0) & (holes == -surplus))
        .then(pl.format("{} trade ids of this minute are in no aggTrade", holes))
        .when(_moved("before") | _moved("after"))
        .then(pl.format("trades stand in the minute beside it: {}", surplus.abs()))
        .when((surplus < 0) & (holes > 0))
        .then(pl.format("{} trade ids of this minute are in no aggTrade", holes))
        .when(surplus > 0)
        .then(pl.format("{} ids inside aggTrades are not counted by the bar", surplus))
        .when(surplus < 0)
        .then(pl.format(f"{UNEXPLAINED}: {{}}", surplus.abs()))
        .when(surplus.is_null())
        .then(pl.lit("no aggTrades of this minute"))
    )
    tolerances = dict.fromkeys(SUMS, SUM_TOLERANCE)
    return _labelled(
        compare(sums, right, names, tolerances, reason=reason, every=every),
        market, "trades_bars", interval,
    )  # fmt: skip


def _with_neighbours(sums: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Add by how many trades and how much volume a minute exceeds its bar, and so for those beside it.

    A minute without trades or without a bar counts as nothing.
    """
    key = ["symbol", "time"]
    both = sums.join(bars, on=key, how="full", coalesce=True).select(
        *key,
        *(
            (pl.col(name).fill_null(0) - pl.col(f"{name}_right").fill_null(0)).alias(surplus)
            for name, surplus in (("trades", "surplus"), ("volume", "surplus_volume"))
        ),
        scale=pl.max_horizontal("volume", "volume_right"),
    )
    minute = pl.duration(microseconds=MINUTE_US)
    values = both.columns[2:]
    for side, moved in (("before", minute), ("after", -minute)):
        beside = both.select(
            "symbol", pl.col("time") + moved, *(pl.col(v).alias(f"{v}_{side}") for v in values)
        )
        sums = sums.join(beside, on=key, how="left")
    return sums.join(both, on=key, how="left")


def _moved(side: str) -> pl.Expr:
    """Whether what a minute has too much (or too little) the one beside it has too little."""
    rest = (pl.col("surplus_volume") + pl.col(f"surplus_volume_{side}")).abs()
    scale = pl.max_horizontal("scale", f"scale_{side}")
    cancels = pl.col("surplus") + pl.col(f"surplus_{side}") == 0
    return (pl.col("surplus") != 0) & cancels & (rest <= SUM_TOLERANCE * scale)


def daily_against_monthly(
    daily: pl.DataFrame,
    monthly: pl.DataFrame,
    market: str,
    time: str,
    *,
    number: str | None = None,
    span: TimeRange | None = None,
    every: bool = False,
) -> pl.DataFrame:
    """Hold the rows of daily files against those of monthly ones: every value must be the same.

    time: Name of the column of the event's time. Frames as `sources` decode them, with `symbol` and,
        for bars, `interval`.
    number: Column that numbers rows, by which they belong together within a UTC day; their times
        are values then. Without one they belong together by time.
    span: What both files tell of. None: from the later of the first to the earlier of the last
        times, since a month may be followed by days whose monthly file is not out yet.

    Numbers, truth values and times are compared; times to the millisecond, as files made before 2025
    give no more. Memory: some three times that of both frames, and that of the rows that differ.
    """
    return _two_files(daily, monthly, market, "daily_monthly", time, number, span, every=every)


def archive_against_rest(
    archive: pl.DataFrame,
    rest: pl.DataFrame,
    market: str,
    time: str,
    *,
    number: str | None = None,
    span: TimeRange | None = None,
    every: bool = False,
) -> pl.DataFrame:
    """The same for rows of the archive and rows that the REST interface gave."""
    return _two_files(archive, rest, market, "archive_rest", time, number, span, every=every)


def _two_files(
    left: pl.DataFrame,
    right: pl.DataFrame,
    market: str,
    check: Check,
    time: str,
    number: str | None,
    span: TimeRange | None,
    *,
    every: bool,
) -> pl.DataFrame:
    span = span or _shared_span(left, right, time)
    if span is None:
        return RESULT.to_frame()
    inside = pl.col(time).is_between(*_edges(span), closed="left")
    left, right = left.filter(inside), right.filter(inside)
    keys = [name for name in _IDENTITY if name in left.columns and name in right.columns]
    if number is not None:
        keys.append("id")
    names = _values(left, right, time, number)
    # Values are apart from what rows go by, which may have their names (`time`, `id`).
    apart = [f"_{name}" for name in names]
    frames = [_as_values(frame, names, time, number) for frame in (left, right)]
    if not every:
        # Mostly all rows are alike, and what follows takes many times their memory.
        on = [*keys, "time", *apart]
        frames = [
            one.join(other, on=on, how="anti", nulls_equal=True)
            for one, other in (frames, frames[::-1])
        ]
    found = compare(frames[0], frames[1], apart, {}, keys=keys, every=every)
    found = found.with_columns(pl.col("column").str.strip_prefix("_"))
    if number is not None:
        # Rows were matched by the day; what is told is when they happened.
        both = pl.concat([frame.select(*keys, "time", "at") for frame in frames])
        on = [*keys, "time"]
        found = found.join(both.unique(on, keep="first", maintain_order=True), on=on, how="left")
        found = found.with_columns(time="at").sort(*keys, "column")
    if "interval" not in found.columns:
        found = found.with_columns(interval=pl.lit(""))
    return _labelled(found, market, check, None)


def _edges(span: TimeRange) -> tuple[pl.Expr, pl.Expr]:
    """Both ends of a range, to compare times with."""
    start, end = (pl.lit(us, dtype=pl.Int64).cast(_TIME) for us in (span.start_us, span.end_us))
    return start, end


def compare(
    left: pl.DataFrame,
    right: pl.DataFrame,
    names: Sequence[str],
    tolerances: Mapping[str, float],
    *,
    keys: Sequence[str] = ("symbol",),
    reason: pl.Expr | None = None,
    every: bool = False,
) -> pl.DataFrame:
    """Compare columns of rows with one key, `keys` and `time`, of two frames.

    tolerances: Relative difference up to which values of a column pass; else they must be equal.
    reason: Why a row differs, over the columns of both, those of `right` with the suffix `_right`;
        where one has no row its values are null.
    every: Also values that agree, exactly or within their tolerance.

    Returns the keys, `time, column, left, right, difference, relative, tolerance, verdict, reason`,
    sorted; a row that one side lacks is one line, of column `*`.
    """
    key = [*keys, "time"]
    joined = (
        left.with_columns(here=True)
        .join(
            right.with_columns(there=True),
            on=key,
            how="full",
            coalesce=True,
            suffix="_right",
        )
        .with_columns(reason=(reason if reason is not None else pl.lit("")).fill_null(""))
    )
    both = joined.filter("here", "there")
    frames = [_of_column(both, key, name, tolerances.get(name, 0.0)) for name in names]
    for present, absent, verdict in (
        ("there", "here", "missing_left"),
        ("here", "there", "missing_right"),
    ):
        alone = joined.filter(pl.col(present) & pl.col(absent).is_null())
        frames.append(_alone(alone, key, verdict))
    found = pl.concat(frames)
    calm = pl.col("verdict").is_in(["same", "within_tolerance"])
    if not every:
        found = found.filter(~calm)
    return found.with_columns(reason=pl.when(calm).then(pl.lit("")).otherwise("reason")).sort(
        *key, "column"
    )


def _of_column(both: pl.DataFrame, key: list[str], name: str, tolerance: float) -> pl.DataFrame:
    left, right = pl.col(name).cast(pl.Float64), pl.col(f"{name}_right").cast(pl.Float64)
    scale = pl.max_horizontal(left.abs(), right.abs())
    same = pl.col(name).eq_missing(pl.col(f"{name}_right"))
    relative = pl.when(same).then(0.0).otherwise((left - right).abs() / scale)
    return both.select(
        *key,
        column=pl.lit(name),
        left=left,
        right=right,
        difference=pl.when(same).then(0.0).otherwise(left - right),
        relative=relative,
        tolerance=pl.lit(tolerance),
        verdict=pl.when(same)
        .then(pl.lit("same"))
        .when((relative <= tolerance).fill_null(False))
        .then(pl.lit("within_tolerance"))
        .otherwise(pl.lit("differs")),
        reason=pl.col("reason"),
    )


def _alone(rows: pl.DataFrame, key: list[str], verdict: str) -> pl.DataFrame:
    nothing = pl.lit(None, dtype=pl.Float64)
    return rows.select(
        *key,
        column=pl.lit("*"),
        left=nothing,
        right=nothing,
        difference=nothing,
        relative=nothing,
        tolerance=pl.lit(0.0),
        verdict=pl.lit(verdict),
        reason=pl.col("reason"),
    )


def _labelled(found: pl.DataFrame, market: str, check: Check, interval: str | None) -> pl.DataFrame:
    named = found.with_columns(market=pl.lit(market), check=pl.lit(check))
    if interval is not None:
        named = named.with_columns(interval=pl.lit(interval))
    if "id" not in named.columns:
        named = named.with_columns(id=None)
    return named.select(pl.col(name).cast(dtype) for name, dtype in RESULT.items())


def _interval_of(bars: pl.DataFrame) -> str:
    """The interval of bars; empty where there are none. Raises InvalidError for a mixture."""
    found = bars["interval"].unique().to_list()
    if len(found) > 1:
        raise InvalidError(
            f"bars of one interval are compared, not of {', '.join(map(str, found))}"
        )
    return str(found[0]) if found else ""


def _shared_span(left: pl.DataFrame, right: pl.DataFrame, time: str) -> TimeRange | None:
    """From the later of the first times of two frames to the earlier of the last, that included."""
    if left.is_empty() or right.is_empty():
        return None
    ends_us = [(f[time].dt.epoch("us").min(), f[time].dt.epoch("us").max()) for f in (left, right)]
    first_us, last_us = max(a for a, _ in ends_us), min(b for _, b in ends_us)  # type: ignore[type-var]
    return TimeRange(first_us, last_us + 1) if first_us <= last_us else None  # type: ignore[arg-type,operator]


def _values(left: pl.DataFrame, right: pl.DataFrame, time: str, number: str | None) -> list[str]:
    """Columns with values to compare that both frames have, in the first one's order."""
    keys = {number} if number is not None else {time}
    return [
        name
        for name, dtype in left.schema.items()
        if name in right.columns
        and name not in keys
        and (dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean)
    ]


def _as_values(
    frame: pl.DataFrame, names: Sequence[str], time: str, number: str | None
) -> pl.DataFrame:
    """Identity, `time` (with numbers: its day, and `at`) and `id`, and columns as numbers."""
    identity = [name for name in _IDENTITY if name in frame.columns]
    when = pl.col(time)
    own = [when.alias("time")]
    if number is not None:
        own = [when.dt.truncate("1d").alias("time"), when.alias("at"), pl.col(number).alias("id")]
    values = []
    for name in names:
        dtype = frame.schema[name]
        value = pl.col(name)
        if dtype.is_temporal():
            # In microseconds, as all times here.
            value = value.dt.truncate("1ms").dt.epoch("us")
        elif dtype == pl.Boolean:
            value = value.cast(pl.Int8)
        values.append(value.alias(f"_{name}"))
    return frame.select(*identity, *own, *values)
