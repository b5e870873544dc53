"""What the latest assessments say of some series and days: what a report of quality is made of.

All of it is read at one state of the lake. Lists are cut to `Limits`; how many there are in all is
in `Verdict.totals`, and `gold.quality` and the views beside it have the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from lakehouse_ray.kernels.crosscheck_bars import UNEXPLAINED
from lakehouse_ray.kernels.recommend import GAPS_SCHEMA, recommend
from lakehouse_ray.query.asked import Asked
from lakehouse_ray.query.pinned import Pinned, Readable
from lakehouse_ray.query.quality_map import map_cells
from lakehouse_ray.query.scan import Where, quoted, text, timestamp
from lakehouse_ray.query.views import VIEWS

_OF = ("market", "dataset", "symbol", "interval")
_SEEN = (
    "gold.quality",
    "silver.gaps",
    "gold.cross_checks",
    "gold.anomalies",
    "gold.alerts",
)
_NAMES = ", ".join(map(quoted, _OF))
_KIND = 'market, dataset, "interval"'
# Runs a query over a view, named in it `{view}`; conditions on its rows are `{day}` (of a day),
# `{days}` (of several, the first and the last), `{time}`, and `{start_time}` (of a gap).
Ask = Callable[[str, str], pl.DataFrame]
_PLACE = re.compile(r"\{(view|day|days|time|start_time)\}")
# Where bars of the distribution end; the threshold is one more.
_EDGES = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
# Scores nearer to 0 and 1 differ from them by the rounding of floats.
_NOTHING, _PERFECT = 1e-9, 1 - 1e-9
# Losses as the sentences tell them, in the order of `codes`.
_LOSSES = r"CAST(regexp_extract_all(reasons, '\(-([0-9.e-]+)\)', 1) AS DOUBLE[])"


@dataclass(frozen=True)
class Limits:
    """Most rows of each list of a verdict."""

    days: int = 10_000
    spans: int = 1_000
    gaps: int = 1_000
    differences: int = 1_000
    anomalies: int = 1_000
    alerts: int = 1_000
    cells: int = 20_000


@dataclass(frozen=True)
class Verdict:
    """What was found. Frames are sorted, what matters most first.

    threshold: Days that score less are poor.
    totals: Numbers of `series, days, scored, poor, spans, gaps, differences, anomalies, alerts` (as
        spans), and `mean`, `least`, `first_day`, `last_day`; None where there is no scored day.
    kinds, series: Mean and least score, days, and poor days, of each market, data set and interval;
        and of each symbol of it.
    poor: Poor days. spans: The same, days in a row that lost by the same causes together, with the
        reasons of the worst of them.
    losses: What was lost by code and kind, in whole days (the sum of losses). Days lose a
        ten-thousandth at least to be counted.
    distribution: Days of each kind by score: `low` (inclusive), `high`, `days`. Days of 0 and of 1
        stand by themselves (`low` is `high`); null: days that have no score.
    cells: `query.quality_map`.
    gap_causes, checks, anomaly_methods: Counts of `gaps`, `differences`, `anomalies`.
    gaps, differences, anomalies: As in `silver.gaps`, `gold.cross_checks`, `gold.anomalies`: the
        longest, the largest, the most unlikely.
    alerts: As `spans`, of days that alerts were raised for, with `raised_at`; the newest first. Those
        that touch are one.
    advice: `kernels.recommend`.
    """

    threshold: float
    totals: Mapping[str, object]
    kinds: pl.DataFrame
    series: pl.DataFrame
    poor: pl.DataFrame
    spans: pl.DataFrame
    losses: pl.DataFrame
    distribution: pl.DataFrame
    cells: pl.DataFrame
    gap_causes: pl.DataFrame
    gaps: pl.DataFrame
    checks: pl.DataFrame
    differences: pl.DataFrame
    anomaly_methods: pl.DataFrame
    anomalies: pl.DataFrame
    alerts: pl.DataFrame
    advice: pl.DataFrame


def judge(lake: Readable, asked: Asked, threshold: float, limits: Limits | None = None) -> Verdict:
    """Sum up what was assessed. Memory: days with a loss, some 500 bytes each."""
    pinned = Pinned(lake, [VIEWS[name] for name in _SEEN])
    return sum_up(_Reader(pinned, asked).ask, threshold, limits or Limits())


def sum_up(ask: Ask, threshold: float, limits: Limits) -> Verdict:
    """The same by questions over each view."""
    kinds = _kinds(ask, threshold)
    under = f"score < {threshold!r}"
    spans, span_count = _spans(ask, under, limits.spans)
    gap_causes, checks, methods = _gap_causes(ask), _checks(ask), _methods(ask)
    alerts, alert_count = _alerts(ask, limits.alerts)
    totals = _totals(kinds) | {
        "poor": int(kinds["poor"].sum()),
        "spans": span_count,
        "gaps": int(gap_causes["gaps"].sum()),
        "differences": int(checks["differences"].sum()),
        "anomalies": int(methods["findings"].sum()),
        "alerts": alert_count,
    }
    return Verdict(
        threshold=threshold,
        totals=totals,
        kinds=kinds,
        series=_series(ask, threshold),
        poor=_poor(ask, threshold, limits.days),
        spans=spans,
        losses=_losses(ask),
        distribution=_distribution(ask, threshold),
        cells=map_cells(kinds, threshold, limits.cells, lambda query: ask("gold.quality", query)),
        gap_causes=gap_causes,
        gaps=_gaps(ask, limits.gaps),
        checks=checks,
        differences=_differences(ask, limits.differences),
        anomaly_methods=methods,
        anomalies=_anomalies(ask, limits.anomalies),
        alerts=alerts,
        advice=_advice(ask, threshold),
    )


class _Reader:
    """Questions about what was asked for."""

    def __init__(self, pinned: Pinned, asked: Asked) -> None:
        self._pinned = pinned
        self._asked = asked
        equal = {"market": asked.market} if asked.market else {}
        if asked.dataset:
            equal["dataset"] = asked.dataset.name
        # Findings are kept by market and data set, so this alone leaves the other ones out, also of
        # the view of cross-checks, which does not name the data set.
        self._where = Where(equal)

    def ask(self, view: str, query: str) -> pl.DataFrame:
        """Put the view's name and conditions on `day`, `time` or a gap's range into a query."""
        names = {"view": view} | {
            name: self._condition(name) for name in ("day", "days", "time", "start_time")
        }
        filled = _PLACE.sub(lambda found: names[found[1]], query)
        return self._pinned.frame(filled, VIEWS[view], self._where)

    def _condition(self, time: str) -> str:
        asked, parts = self._asked, ["true"]
        if asked.interval:
            parts.append(f'"interval" = {text(asked.interval)}')
        if asked.symbols:
            parts.append(f"symbol IN ({', '.join(map(text, asked.symbols))})")
        if asked.start_us is not None:
            # What began before and reaches into the range belongs to it.
            ends = {"start_time": "end_time >", "days": "last_day >="}
            parts.append(f"{ends.get(time, f'{time} >=')} {timestamp(asked.start_us)}")
        if asked.end_us is not None:
            begin = "day" if time == "days" else time
            parts.append(f"{begin} < {timestamp(asked.end_us)}")
        return " AND ".join(parts)


def _summed(names: str, threshold: float) -> str:
    return (
        f"SELECT {names}, count(*) AS days, count(score) AS scored, avg(score) AS mean, "
        f"min(score) AS least, count(*) FILTER (score < {threshold!r}) AS poor, "
        "CAST(min(day) AS DATE) AS first_day, CAST(max(day) AS DATE) AS last_day, "
        "count(DISTINCT symbol) AS symbols "
        f"FROM {{view}} WHERE {{day}} GROUP BY {names} ORDER BY mean NULLS LAST, {names}"
    )


def _kinds(ask: Ask, threshold: float) -> pl.DataFrame:
    return ask("gold.quality", _summed(_KIND, threshold))


def _series(ask: Ask, threshold: float) -> pl.DataFrame:
    return ask("gold.quality", _summed(_NAMES, threshold)).drop("symbols")


def _totals(kinds: pl.DataFrame) -> dict[str, object]:
    scored = int(kinds["scored"].sum())
    mean = (kinds["mean"] * kinds["scored"]).sum() / scored if scored else None
    return {
        "series": int(kinds["symbols"].sum()),
        "days": int(kinds["days"].sum()),
        "scored": scored,
        "mean": mean,
        "least": kinds["least"].min(),
        "first_day": kinds["first_day"].min(),
        "last_day": kinds["last_day"].max(),
    }


def _poor(ask: Ask, threshold: float, rows_max: int) -> pl.DataFrame:
    return ask(
        "gold.quality",
        f"SELECT * FROM {{view}} WHERE {{day}} AND score < {threshold!r} "
        f"ORDER BY score, {_NAMES}, day LIMIT {rows_max}",
    )


def _spans(ask: Ask, condition: str, rows_max: int) -> tuple[pl.DataFrame, int]:
    """Islands: a day less its number within its series and codes is the same for days in a row."""
    found = ask(
        "gold.quality",
        "WITH numbered AS (SELECT *, CAST(day AS DATE) - CAST(row_number() OVER "
        f"(PARTITION BY {_NAMES}, codes ORDER BY day) AS INTEGER) AS island "
        f"FROM {{view}} WHERE {{day}} AND {condition}) "
        f"SELECT {_NAMES}, codes, CAST(min(day) AS DATE) AS first_day, "
        "CAST(max(day) AS DATE) AS last_day, count(*) AS days, min(score) AS least, "
        "avg(score) AS mean, CAST(arg_min(day, score) AS DATE) AS worst_day, "
        "arg_min(reasons, score) AS reasons, count(*) OVER () AS _all "
        f"FROM numbered GROUP BY {_NAMES}, codes, island "
        f"ORDER BY least, days DESC, {_NAMES}, first_day LIMIT {rows_max}",
    )
    return _counted(found)


def _alerts(ask: Ask, rows_max: int) -> tuple[pl.DataFrame, int]:
    """Runs that touch or overlap, whichever rule raised them: what was told again is one."""
    causes = "list_sort(string_split(codes, ','))"
    order = f"(PARTITION BY {_NAMES}, {causes} ORDER BY day, last_day"
    found = ask(
        "gold.alerts",
        f"WITH known AS (SELECT *, {causes} AS causes, max(last_day) OVER {order} ROWS BETWEEN "
        "UNBOUNDED PRECEDING AND 1 PRECEDING) AS reach FROM {view} WHERE {days}), "
        "marked AS (SELECT *, coalesce(day > reach + INTERVAL 1 DAY, true) AS begins FROM known), "
        f"numbered AS (SELECT *, count(*) FILTER (begins) OVER {order} ROWS UNBOUNDED PRECEDING) "
        "AS island FROM marked) "
        f"SELECT {_NAMES}, arg_min(codes, score) AS codes, CAST(min(day) AS DATE) AS first_day, "
        "CAST(max(last_day) AS DATE) AS last_day, "
        "date_diff('day', min(day), max(last_day)) + 1 AS days, min(score) AS least, "
        "max(raised_at) AS raised_at, CAST(arg_min(worst_day, score) AS DATE) AS worst_day, "
        "arg_min(reasons, score) AS reasons, count(*) OVER () AS _all "
        f"FROM numbered GROUP BY {_NAMES}, causes, island "
        f"ORDER BY raised_at DESC, least, days DESC, {_NAMES}, first_day LIMIT {rows_max}",
    )
    return _counted(found)


def _counted(found: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    return found.drop("_all"), int(found["_all"][0]) if found.height else 0


def _losses(ask: Ask) -> pl.DataFrame:
    return ask(
        "gold.quality",
        f"WITH lost AS (SELECT {_KIND}, unnest(string_split(codes, ',')) AS code, "
        f"unnest({_LOSSES}) AS loss FROM {{view}} WHERE {{day}} AND codes IS NOT NULL) "
        f"SELECT {_KIND}, code, count(*) AS days, coalesce(sum(loss), 0) AS lost "
        f"FROM lost WHERE loss > 0 GROUP BY {_KIND}, code ORDER BY lost DESC, {_KIND}, code",
    )


def _distribution(ask: Ask, threshold: float) -> pl.DataFrame:
    edges = [_NOTHING, *sorted({*_EDGES, threshold} - {0.0, 1.0}), _PERFECT]
    bar = " + ".join(f"CAST(score >= {edge!r} AS INTEGER)" for edge in edges)
    found = ask(
        "gold.quality",
        f"SELECT {_KIND}, {bar} AS bar, count(*) AS days FROM {{view}} WHERE {{day}} "
        f"GROUP BY {_KIND}, bar ORDER BY {_KIND}, bar NULLS LAST",
    )
    bars = pl.DataFrame(
        {
            "bar": range(len(edges) + 1),
            "low": [0.0, 0.0, *edges[1:-1], 1.0],
            "high": [0.0, *edges[1:-1], 1.0, 1.0],
        },
        schema={"bar": pl.Int32, "low": pl.Float64, "high": pl.Float64},
    )
    return (
        found.cast({"bar": pl.Int32})
        .join(bars, on="bar", how="left", maintain_order="left")
        .select("market", "dataset", "interval", "low", "high", "days")
    )


def _gap_causes(ask: Ask) -> pl.DataFrame:
    return ask(
        "silver.gaps",
        f"SELECT cause, {_KIND}, count(*) AS gaps, CAST(sum(missing) AS BIGINT) AS missing, "
        "count(DISTINCT symbol) AS symbols, min(start_time) AS first_time, max(end_time) AS last_time "
        f"FROM {{view}} WHERE {{start_time}} GROUP BY cause, {_KIND} "
        f"ORDER BY missing DESC, cause, {_KIND}",
    )


def _gaps(ask: Ask, rows_max: int) -> pl.DataFrame:
    return ask(
        "silver.gaps",
        f"SELECT * FROM {{view}} WHERE {{start_time}} "
        f"ORDER BY missing DESC, {_NAMES}, start_time LIMIT {rows_max}",
    )


def _checks(ask: Ask) -> pl.DataFrame:
    return ask(
        "gold.cross_checks",
        'SELECT market, "check", "interval", "column", count(*) AS differences, '
        "count(DISTINCT symbol) AS symbols, max(relative) AS relative_max, "
        f"count(*) FILTER (reason <> '' AND NOT starts_with(reason, {text(UNEXPLAINED)})) "
        "AS explained FROM {view} WHERE {time} "
        'GROUP BY market, "check", "interval", "column" '
        'ORDER BY differences DESC, market, "check", "interval", "column"',
    )


def _differences(ask: Ask, rows_max: int) -> pl.DataFrame:
    """Rows that are there on one side alone first: their relative difference is null."""
    return ask(
        "gold.cross_checks",
        "SELECT * FROM {view} WHERE {time} ORDER BY relative DESC NULLS FIRST, market, symbol, "
        f'"check", "interval", time, "column" LIMIT {rows_max}',
    )


def _methods(ask: Ask) -> pl.DataFrame:
    return ask(
        "gold.anomalies",
        "SELECT method, count(*) AS findings, "
        f"count(DISTINCT ({_NAMES})) AS series, max(score) AS score_max "
        "FROM {view} WHERE {time} GROUP BY method ORDER BY findings DESC, method",
    )


def _anomalies(ask: Ask, rows_max: int) -> pl.DataFrame:
    """The most unlikely of each method, in turn."""
    return ask(
        "gold.anomalies",
        "SELECT * EXCLUDE (place) FROM (SELECT *, row_number() OVER (PARTITION BY method "
        f"ORDER BY score DESC, {_NAMES}, time) AS place FROM {{view}} WHERE {{time}}) "
        f"ORDER BY place, score DESC, method LIMIT {rows_max}",
    )


def _advice(ask: Ask, threshold: float) -> pl.DataFrame:
    lossy = ask("gold.quality", "SELECT * FROM {view} WHERE {day} AND codes IS NOT NULL")
    gaps = ask(
        "silver.gaps",
        f'SELECT {_NAMES}, start_time AS start, end_time AS "end", missing, cause '
        "FROM {view} WHERE {start_time}",
    )
    listed = lossy.with_columns(pl.col("codes").str.split(","), pl.col("reasons").str.split("; "))
    return recommend(listed, gaps.cast(GAPS_SCHEMA), threshold=threshold)
