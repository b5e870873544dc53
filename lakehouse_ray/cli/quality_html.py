"""The report of quality as one HTML file that needs nothing else, not even a script.

Bounded: each table shows so many rows (`Shown`) and says how many more there are and how to ask for
them; pictures have at most `Limits.cells` cells. A page is some 200 kB and never above 10 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lakehouse_ray.cli.markup import Markup, element
from lakehouse_ray.cli.quality_document import Told
from lakehouse_ray.cli.quality_findings_html import findings
from lakehouse_ray.cli.quality_map_html import heat_map, level, meanings
from lakehouse_ray.cli.quality_parts import Column, more, named, rows_table
from lakehouse_ray.cli.quality_tasks_html import what_to_do, whom, worst
from lakehouse_ray.cli.quality_words import (
    CODES,
    count,
    score,
    share,
)

_STYLES = ("page.css", "quality.css")
_KIND = ("market", "dataset", "interval")


@dataclass(frozen=True)
class Shown:
    """Most rows of each table, and of pictures that are a table."""

    kinds: int = 40
    spans: int = 25
    tasks: int = 25
    rows: int = 20
    series: int = 60


def html_report(told: Told, shown: Shown | None = None) -> str:
    """Return the page."""
    shown = shown or Shown()
    title = f"Quality: {told.about}" if told.about else "Quality of the lake"
    style = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _STYLES)
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Markup(style)),
        ),
        element(
            "body",
            element(
                "main",
                _top(told, title),
                _kinds(told, shown),
                element("div", _losses(told), _distribution(told), class_="two"),
                _maps(told),
                worst(told, shown.spans),
                what_to_do(told, shown.tasks),
                findings(told, shown.rows),
                _series(told, shown),
                _foot(told),
            ),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def _top(told: Told, title: str) -> list[Markup]:
    totals, report = told.verdict.totals, told.report
    worst, why = told.worst
    first = told.tasks[:1]
    about = f"{count(_number(totals['series']), 'series', 'series')}"
    if totals["first_day"]:
        about += f", {count(_number(totals['days']), 'day')} from {totals['first_day']} to {totals['last_day']}"
    boxes = [
        element(
            "div",
            element("h2", "Is it fine?"),
            element("strong", told.headline),
            element("p", f"{about}.{_of_nothing(told)}"),
            element("p", "1 is perfect, 0 is nothing; docs/quality.md has the formula."),
        ),
        element(
            "div",
            element("h2", "What is worst?"),
            element("strong", element("bdi", worst or f"nothing under {told.verdict.threshold:g}")),
            element("p", why) if why else _least(told),
        ),
        element(
            "div",
            element("h2", "What to do first?"),
            [element("strong", f"{task.title}: ", element("bdi", whom(task, 3))) for task in first]
            or element("strong", "Nothing"),
            [element("p", task.reason) for task in first],
            [element("pre", task.commands[0]) for task in first if task.commands],
            element("p", f"{count(len(told.tasks) - 1, 'more thing')} to do: see below")
            if len(told.tasks) > 1
            else None,
        ),
    ]
    facts = [
        ("days under", f"{totals['poor']:,}"),
        ("mean score", score(_float(totals["mean"]))),
        ("series with such days", f"{told.verdict.series.filter(pl.col('poor') > 0).height:,}"),
        ("rows missing", f"{int(told.verdict.gap_causes['missing'].sum()):,}"),
        ("cross-check differences", f"{totals['differences']:,}"),
        ("anomalies", f"{totals['anomalies']:,}"),
        ("new alerts", f"{report.alerts:,}"),
    ]
    return [
        element("h1", title),
        element("p", f"Made {told.made_at[:16].replace('T', ' ')} UTC. {_assessed(told)}"),
        element("div", boxes, id="verdict", class_=told.state),
        element("dl", [element("div", element("dt", k), element("dd", v)) for k, v in facts],
                id="numbers"),
    ]  # fmt: skip


def _of_nothing(told: Told) -> str:
    bars = told.verdict.distribution
    number = int(bars.filter((pl.col("low") == 0) & (pl.col("high") == 0))["days"].sum())
    return f" {count(number, 'day has', 'days have')} a score of 0." if number else ""


def _assessed(told: Told) -> str:
    report = told.report
    failed = f", {report.failed:,} failed" if report.failed else ""
    return (
        f"{report.assessed:,} series assessed now ({count(report.rows, 'row')}), {report.current:,} "
        f"have not changed since they were{failed}."
    )


def _least(told: Told) -> Markup | None:
    series = told.verdict.series.filter(pl.col("least").is_not_null()).sort("least")
    if series.is_empty():
        return None
    row = series.row(0, named=True)
    return element("p", "The least score is ", score(row["least"]), ", of ", named(row))


def _kinds(told: Told, shown: Shown) -> list[Markup]:
    verdict, limit = told.verdict, told.verdict.threshold
    if verdict.kinds.is_empty():
        return []
    bars = verdict.distribution.partition_by(_KIND, as_dict=True)
    losses = verdict.losses.partition_by(_KIND, as_dict=True)

    def picture(row: dict[str, Any]) -> Markup:
        return _stacked(bars[tuple(row[name] for name in _KIND)], limit)

    def costs(row: dict[str, Any]) -> Markup | str:
        found = losses.get(tuple(row[name] for name in _KIND))
        return "nothing" if found is None else _costliest(found)

    columns = [
        Column("series", named, "text name"),
        Column("symbols", lambda row: f"{row['symbols']:,}"),
        Column("days", lambda row: f"{row['days']:,}"),
        Column("mean", lambda row: score(row["mean"])),
        Column("least", lambda row: score(row["least"])),
        Column(f"under {limit:g}", lambda row: f"{row['poor']:,}"),
        Column("days by score", picture, "text"),
        Column("costs most", costs, "text"),
    ]
    return [
        element("h2", "At a glance ", element("small", "the lowest mean first")),
        _legend(limit),
        rows_table(columns, verdict.kinds.head(shown.kinds)),
        *more(verdict.kinds.height - shown.kinds, "select distinct market, dataset, \"interval\" from gold.quality"),
    ]  # fmt: skip


def _stacked(bars: pl.DataFrame, threshold: float) -> Markup:
    counts: dict[str, int] = dict.fromkeys(meanings(threshold), 0)
    for low, high, number in bars.select("low", "high", "days").iter_rows():
        counts[level(_middle(low, high), threshold)] += number
    total = sum(counts.values())
    parts = [
        element("i", class_=name, style=f"flex: {number} 0 0")
        for name, number in counts.items()
        if number
    ]
    told = "; ".join(
        f"{meanings(threshold)[name]}: {count(number, 'day')}"
        for name, number in counts.items()
        if number
    )
    return (
        element("div", parts, class_="bar", role="img", title=told, aria_label=told)
        if total
        else element("span")
    )


def _middle(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else (low + high) / 2


def _costliest(losses: pl.DataFrame) -> str:
    all_ = float(losses["lost"].sum())
    if all_ <= 0:
        return "nothing"
    first = losses.head(2).select("code", "lost").iter_rows()
    return ", ".join(f"{code} {share(lost / all_)}" for code, lost in first)


def _legend(threshold: float) -> Markup:
    return element(
        "ul",
        [element("li", element("i", class_=k), text) for k, text in meanings(threshold).items()],
        class_="legend",
    )


def _losses(told: Told) -> Markup:
    summed = (
        told.verdict.losses.group_by("code")
        .agg(pl.sum("lost", "days"))
        .sort("lost", "code", descending=[True, False])
    )
    all_ = float(summed["lost"].sum())
    body: Markup | None = None
    if summed.height:
        body = element("table", [
            element("tr",
                element("td", element("code", code), " ", element("span", CODES.get(code, ""), class_="soft"), class_="text"),
                element("td", element("i", class_="cost", style=f"width: {100 * lost / all_:.2f}%"), class_="drawn text"),
                element("td", share(lost / all_)),
                element("td", count(number, "day"), class_="soft"),
            )
            for code, lost, number in summed.select("code", "lost", "days").iter_rows()
        ], class_="chart")  # fmt: skip
    return element(
        "section",
        element("h2", "What costs most"),
        element("p", "Share of all that was lost, and the days that lost by it."),
        body or element("p", "Nothing was lost."),
    )


def _distribution(told: Told) -> Markup:
    verdict = told.verdict
    bars = (
        verdict.distribution.group_by("low", "high")
        .agg(pl.sum("days"))
        .sort("low", "high", nulls_last=True)
    )
    most = max([int(n) for n in bars["days"]], default=1)
    rows = [
        element("tr",
            element("td", _bin(low, high), class_="text"),
            element("td", element("i", class_=level(_middle(low, high), verdict.threshold),
                                  style=f"width: {100 * number / most:.2f}%"), class_="drawn text"),
            element("td", f"{number:,}"),
            element("td", share(number / max(1, int(bars["days"].sum()))), class_="soft"),
        )
        for low, high, number in reversed(list(bars.iter_rows()))
    ]  # fmt: skip
    return element(
        "section",
        element("h2", "How scores are spread"),
        element("p", "Days by score."),
        element("table", rows, class_="chart"),
    )


def _bin(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "no score"
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _maps(told: Told) -> list[Markup]:
    verdict = told.verdict
    maps = verdict.cells.partition_by(_KIND, as_dict=True, maintain_order=True)
    found = [
        element("h2", "Day by day"),
        element("p", "Symbols down, the worst first; time across. Point at a cell for its reasons."),
        _legend(verdict.threshold),
    ] if maps else []  # fmt: skip
    for row in verdict.kinds.iter_rows(named=True):
        cells = maps.get(tuple(row[name] for name in _KIND))
        if cells is None:
            continue
        unit = cells["unit"][0]
        said = (
            "a cell is a day"
            if unit == "day"
            else f"a cell is a {unit}: its mean, with its worst day at the foot"
        )
        hidden = row["symbols"] - cells["symbol"].n_unique()
        if hidden > 0:
            said += f"; {count(hidden, 'better symbol')} not shown"
        name = " ".join(row[part] for part in _KIND if row[part])
        found.append(element("h3", element("bdi", name), " ", element("small", said)))
        found.append(element("div", heat_map(cells, name, verdict.threshold), class_="map"))
    hidden = verdict.kinds.height - len(maps)
    if hidden > 0:
        found += more(hidden, "select market, dataset, \"interval\", symbol, day, score from gold.quality", "better kind of series is not drawn", "better kinds of series are not drawn")  # fmt: skip
    return found


def _series(told: Told, shown: Shown) -> list[Markup]:
    verdict = told.verdict
    columns = [
        Column("series", named, "text name"),
        Column("mean", lambda row: score(row["mean"])),
        Column("least", lambda row: score(row["least"])),
        Column("days", lambda row: f"{row['days']:,}"),
        Column(f"under {verdict.threshold:g}", lambda row: f"{row['poor']:,}"),
        Column("from", lambda row: str(row["first_day"])),
        Column("to", lambda row: str(row["last_day"])),
    ]
    return [
        element("h2", "All series ", element("small", "the lowest mean first")),
        rows_table(columns, verdict.series.head(shown.series)),
        *more(
            verdict.series.height - shown.series,
            "select market, dataset, \"interval\", symbol, avg(score), min(score), count(*) "
            "from gold.quality group by all order by avg(score)",
        ),
    ]  # fmt: skip


def _foot(told: Told) -> Markup:
    report = told.report
    return element(
        "footer",
        element("p", f"Run {report.run_id}: {report.seconds:,.1f} s, {report.executor or 'no'} "
                     f"workers {report.actors or ''}. Threshold {told.verdict.threshold:g} (quality.threshold)."),
        element("p", "The same in SQL: ", element("code", "gold.quality, silver.gaps, gold.cross_checks, "
                     "gold.anomalies, gold.alerts, gold.assessments"), "; in a file: ",
                     element("code", "lakehouse quality --report-json FILE"), "."),
        [element("p", f"{e['reason']}: {e['series']}: {e['detail']}") for e in report.examples],
        [element("p", warning) for warning in report.warnings],
    )  # fmt: skip


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _float(value: object) -> float | None:
    return value if isinstance(value, float) else None
