"""The report of quality as a page, as text and as a document."""

from __future__ import annotations

import json
import re
import shlex
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.verdicts import (
    START,
    alert_row,
    anomaly_row,
    difference_row,
    gap_row,
    score_row,
    told_of,
    verdict_of,
)

from lakehouse_ray.cli.markup import Markup, element
from lakehouse_ray.cli.quality_document import document_of, spelled
from lakehouse_ray.cli.quality_html import Shown, html_report
from lakehouse_ray.cli.quality_map_html import level, meanings
from lakehouse_ray.cli.quality_text import WIDTH, text_report
from lakehouse_ray.cli.quality_words import days, reasons_of, score, share, span
from lakehouse_ray.query.quality import Limits, Verdict

HOSTILE = """<script>alert('x')</script>"&amp;\u202e币安'; drop table--"""
_VOID = {"meta", "br"}


class Page(HTMLParser):
    """A page taken apart: elements, texts, attributes, and whether every element ends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def titles(self) -> list[str]:
        """What the pointer is told over a picture, by order."""
        return [text for text in self.texts if "\n" in text]


def full(symbol: str = "AAA") -> Verdict:
    """Something of everything, of one symbol."""
    hole = START + timedelta(days=3)
    return verdict_of(
        [score_row(symbol, day, 1.0) for day in range(3)]
        + [score_row(symbol, day, 0.0) for day in range(3, 34)]
        + [score_row(symbol, 34, 0.8, "FLAGGED", rows_flagged=3), score_row(symbol, 35, None)],
        gaps=[gap_row(symbol, hole, hole + timedelta(days=31), "unknown")],
        differences=[difference_row(symbol, 5)],
        anomalies=[anomaly_row(symbol, 7, "return_z", 3.5)],
        alerts=[alert_row(symbol, 3, 0.0)],
    )


def page_of(verdict: Verdict, **more: Any) -> Page:
    return Page(html_report(told_of(verdict, **more)))


def test_a_page_needs_nothing_from_elsewhere_and_runs_no_script() -> None:
    text = html_report(told_of(full()))
    page = Page(text)
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not re.search(r"https?:|url\(|@import", text)
    assert not [name for _, attrs in page.tags for name in attrs if name in ("src", "href")]


def test_the_first_screen_tells_whether_it_is_fine_what_is_worst_and_what_to_do() -> None:
    top = page_of(full()).text.split("At a glance")[0]
    assert "32 of 35 days score less than 0.9" in top
    assert "31 days have a score of 0." in top
    assert "spot klines 1h AAA, 2024-01-04 to 2024-02-03 (31 days)" in top
    assert "evidence of AAA" in top
    assert "lakehouse ingest --market spot --dataset klines --interval 1h --symbols AAA " in top


def test_a_page_shows_every_kind_of_finding_with_its_numbers() -> None:
    text = page_of(full(), alerts=1).text
    for told in (
        "22,852", "22,816", "finer bars summed", "return_z of AAA", "31 days", "744", "unknown",
        "This run raised 1", "no score",
    ):  # fmt: skip
        assert told in text, told


def test_names_are_text_whatever_they_spell() -> None:
    verdict = full(HOSTILE)
    text = html_report(told_of(verdict, about=HOSTILE))
    page = Page(text)
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in text
    assert not [attrs for _, attrs in page.tags if any(n.startswith("on") for n in attrs)]
    assert "币安" in page.text
    # What turns the line around is shown as a sign that does nothing.
    assert "\u202e" not in text


_SHOWN = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"]))


@given(_SHOWN, _SHOWN)
def test_markup_gives_back_the_texts_that_were_put_in(text: str, value: str) -> None:
    page = Page(str(element("p", text, title=value, class_="a")))
    assert "".join(page.texts) == text
    assert page.tags == [("p", {"title": value, "class": "a"})]


def test_markup_takes_only_markup_as_markup() -> None:
    made = element("p", "<b>", Markup("<i></i>"), ["a", None, 3], data_x=None)
    assert str(made) == "<p>&lt;b&gt;<i></i>a3</p>"


def test_a_bad_day_among_thousands_is_seen_on_the_page() -> None:
    bad = START + timedelta(days=1234)
    rows = [score_row("AAA", day, 0.0 if day == 1234 else 1.0) for day in range(3000)]
    page = page_of(verdict_of(rows))
    (told,) = [text for text in page.titles() if "worst 0.0000" in text]
    assert told.startswith(f"AAA  {bad:%Y-%m}\nworst 0.0000 on {bad:%Y-%m-%d}, mean 0.9")
    assert "1 of 31 days under the threshold" in told
    classes = [attrs.get("class") for tag, attrs in page.tags if tag == "rect"]
    # The months before, the month's mean, its worst day, the months after.
    assert classes == ["full", "high", "none", "full"]
    assert "a cell is a month: its mean, with its worst day at the foot" in page.text


def test_good_days_in_a_row_are_one_box_and_every_bad_one_has_its_own() -> None:
    values = [1.0] * 10 + [0.5, 0.6, 0.6, 0.0] + [1.0] * 10
    page = page_of(verdict_of(score_row("AAA", d, v) for d, v in enumerate(values)))
    classes = [attrs["class"] for tag, attrs in page.tags if tag == "rect"]
    assert classes == ["full", "part", "part", "none", "full"]
    assert "AAA  2024-01-12 to 2024-01-13\nworst 0.6000" in page.text


def axis(page: str) -> list[str]:
    return re.findall(r'class="axis"[^>]*>([^<]*)<', page)


def test_time_is_named_where_months_begin_and_in_long_maps_where_years_do() -> None:
    short = verdict_of(score_row("AAA", day, 1.0) for day in range(70))
    assert axis(html_report(told_of(short))) == ["2024-01-01", "2024-02", "2024-03"]
    weeks = verdict_of(score_row("AAA", day, 1.0) for day in range(700))
    names = axis(html_report(told_of(weeks)))
    assert names[0] == "2024-01-01"
    assert "2024-12" in names or "2025-01" in names
    months = verdict_of(score_row("AAA", 30 * day, 1.0) for day in range(100))
    assert axis(html_report(told_of(months)))[1:3] == ["2025-01", "2026-01"]


def test_a_page_stays_bounded_however_much_there_is() -> None:
    symbols = [f"SYMBOL{k:04}USDT" for k in range(400)]
    kinds = [("spot", "1h"), ("spot", "1m"), ("um", "1m"), ("um", "5m")]
    rows = [
        score_row(s, 3 * day, 0.3 + (day + k) % 7 / 10, market=market, interval=interval)
        for market, interval in kinds
        for k, s in enumerate(symbols)
        for day in range(40)
    ]
    verdict = verdict_of(
        rows,
        gaps=[gap_row(s, START, START + timedelta(days=1), "archive_hole") for s in symbols],
        differences=[difference_row(s, h) for s in symbols for h in range(5)],
        anomalies=[anomaly_row(s, 1, "return_z", 2.0) for s in symbols],
        alerts=[alert_row(s, 1, 0.5) for s in symbols],
        limits=Limits(cells=2000),
    )
    text = html_report(told_of(verdict), Shown(kinds=3, spans=4, tasks=5, rows=6, series=7))
    page = Page(text)
    assert len(text) < 1_500_000
    assert sum(tag == "tr" for tag, _ in page.tags) < 120
    assert sum(tag == "rect" for tag, _ in page.tags) <= 2 * 4 * 4 * 120
    left_out = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) more\b", page.text)]
    poor = verdict.totals["spans"]
    assert isinstance(poor, int)
    for number in (1, poor - 4, 400 - 6, 2000 - 6, 1600 - 7):
        assert number in left_out, number
    assert "396 better symbols not shown" in page.text
    assert (
        "lakehouse sql 'select * from gold.quality where score < 0.9 order by score'" in page.text
    )


def test_both_schemes_give_every_colour_and_paper_is_light() -> None:
    style = re.search(r"<style>(.*?)</style>", html_report(told_of(full())), re.S)
    assert style is not None
    light, dark = style[1].split("@media screen and (prefers-color-scheme: dark)", 1)
    names = {*re.findall(r"var\((--[a-z]+)\)", style[1])}
    for block in (light, dark.split("}", 1)[0]):
        assert names <= set(re.findall(r"(--[a-z]+):", block))
    assert "@media print" in dark


@pytest.mark.parametrize(
    ("value", "threshold", "name"),
    [
        (None, 0.9, "some"), (0.0, 0.9, "none"), (0.4999, 0.9, "low"), (0.5, 0.9, "part"),
        (0.8999, 0.9, "part"), (0.9, 0.9, "high"), (0.99, 0.9, "full"), (1.0, 1.0, "full"),
        (0.995, 0.999, "part"), (0.3, 0.2, "high"), (0.1, 0.2, "low"),
    ],
)  # fmt: skip
def test_a_colour_tells_on_which_side_of_the_threshold_a_score_is(
    value: float | None, threshold: float, name: str
) -> None:
    assert level(value, threshold) == name
    assert name in meanings(threshold)


def test_what_is_not_known_is_no_number() -> None:
    page = page_of(verdict_of([score_row("AAA", 0, None)]))
    assert "No day has a score" in page.text
    classes = [attrs["class"] for tag, attrs in page.tags if tag == "rect"]
    assert classes == ["some"]
    lines = text_report(told_of(verdict_of([score_row("AAA", 0, None)])))
    assert any(re.search(r"^  -       -  +1 +0  spot klines 1h AAA$", line) for line in lines), (
        lines
    )


def test_a_score_is_never_rounded_up_to_one() -> None:
    assert score(0.99999) == "0.9999"
    assert score(1.0) == "1.0000"
    assert score(0.942265) == "0.9422"
    assert score(None) == "-"


def test_a_share_is_neither_nothing_nor_all_by_rounding() -> None:
    assert [share(value) for value in (0.0, 0.0004, 0.5, 0.9994, 0.99996, 1.0)] == [
        "0.0%", "< 0.1%", "50.0%", "99.9%", "> 99.9%", "100.0%",
    ]  # fmt: skip


def test_all_is_well_where_all_is_well() -> None:
    told = told_of(verdict_of([score_row("AAA", day, 1.0) for day in range(5)]))
    page = Page(html_report(told))
    assert "Fine: all 5 days score 0.9 or more" in page.text
    assert "Nothing was lost." in page.text
    assert ("div", {"id": "verdict", "class": "good"}) in page.tags
    assert "Nothing to do." in text_report(told)


def test_what_failed_is_told_first() -> None:
    verdict = verdict_of([score_row("AAA", 0, 1.0)])
    example = {"reason": "OSError", "series": "spot klines 1h <B>", "detail": "gone"}
    told = told_of(verdict, failed=2, examples=[example])
    page = Page(html_report(told))
    assert "2 series could not be assessed" in page.text
    assert "OSError: spot klines 1h <B>: gone" in page.text
    assert ("div", {"id": "verdict", "class": "partial"}) in page.tags
    assert "  OSError: spot klines 1h <B>: gone" in text_report(told)


def test_text_fits_a_terminal_and_tells_a_month_in_one_line() -> None:
    long_ = "VERYLONGNAMEOFASYMBOL" * 4
    rows = [score_row(long_, day, 0.0) for day in range(31)] + [score_row("A\x1b[31m", 0, 0.5)]
    lines = text_report(told_of(verdict_of(rows)))
    assert all(len(line) <= WIDTH for line in lines if not line.startswith("      "))
    month = text_report(told_of(verdict_of([score_row("A", day, 0.0) for day in range(31)])))
    assert "  0.0000  spot klines 1h A  2024-01 (31 days)" in month
    assert "\x1b" not in "".join(lines)


def test_a_thing_to_do_is_told_once_with_the_command_for_it() -> None:
    verdict = verdict_of(
        [score_row(s, 0, 0.5) for s in "ABC"],
        gaps=[
            gap_row(s, START + timedelta(hours=6), START + timedelta(hours=9), "own_loss")
            for s in "ABC"
        ],
    )
    (task,) = told_of(verdict).tasks
    assert (task.action, task.symbols, task.ranges, task.rows) == (
        "fetch_again", ("A", "B", "C"), 3, 9,
    )  # fmt: skip
    assert task.commands == (
        "lakehouse ingest --market spot --dataset klines --interval 1h --symbols A,B,C "
        "--start 2024-01-01 --end 2024-01-02",
    )


def test_many_ranges_have_one_command_that_covers_all() -> None:
    gaps = [
        gap_row("A", START + timedelta(days=5 * k, hours=6), START + timedelta(days=5 * k, hours=9), "unknown")
        for k in range(9)
    ]  # fmt: skip
    (task,) = told_of(verdict_of([score_row("A", 0, 0.5)], gaps=gaps)).tasks
    assert task.ranges == 9
    assert task.commands[0].endswith("--symbols A --start 2024-01-01 --end 2024-02-11")


def test_a_command_is_one_word_for_each_name_in_any_shell() -> None:
    told = told_of(
        verdict_of(
            [score_row("$(rm -rf ~)`x`", 0, 0.5, "FLAGGED", rows_flagged=3)],
            gaps=[gap_row("a b;'", START, START + timedelta(days=1), "own_loss")],
        )
    )
    fetch, look = told.tasks
    words = shlex.split(fetch.commands[0])
    assert words[words.index("--symbols") + 1] == "a b;'"
    words = shlex.split(look.commands[0])
    assert words[:2] == ["lakehouse", "sql"]
    assert len(words) == 3
    assert "symbol IN ('$(rm -rf ~)`x`')" in words[2]
    assert look.commands[0].startswith("lakehouse sql '")


def test_the_document_has_the_same_facts_and_only_what_json_can_say() -> None:
    verdict = full()
    odd = verdict.anomalies.with_columns(value=float("nan"), expected=float("inf"))
    told = told_of(Verdict(**(vars(verdict) | {"anomalies": odd})), assessed=1)
    document = json.loads(spelled(document_of(told)))
    assert (document["v"], document["state"], document["days_under"]) == (1, "poor", 32)
    assert document["run"]["assessed"] == 1
    assert document["anomalies"][0]["value"] is None
    assert document["worst_days"][0]["day"] == "2024-01-04T00:00:00Z"
    assert document["worst_spans"][0]["first_day"] == "2024-01-04"
    assert (document["differences"][0]["left"], document["differences"][0]["right"]) == (
        22852, 22816,
    )  # fmt: skip
    assert (
        document["gap_causes"][0] | {"missing": 744, "cause": "unknown"}
        == document["gap_causes"][0]
    )
    assert document["anomaly_methods"][0]["method"] == "return_z"
    assert document["alerts"][0]["days"] == 1
    assert [task["action"] for task in document["tasks"]] == ["fetch", "inspect"]
    for name in ("series", "kinds", "losses", "distribution", "checks", "recommendations"):
        assert document[name], name


def test_reasons_are_split_where_one_ends_and_not_at_a_semicolon_within() -> None:
    text = (
        "ARCHIVE_HOLE: 6 of 24 rows are missing: not in this archive file; another file has them "
        "(-0.25); LATE: published 80.0 hours after its period (-1e-05); odd"
    )
    assert reasons_of(text) == [
        (
            "ARCHIVE_HOLE",
            "6 of 24 rows are missing: not in this archive file; another file has them",
            0.25,
        ),
        ("", "LATE: published 80.0 hours after its period (-1e-05); odd", None),
    ]
    assert reasons_of(None) == []


def test_ranges_are_as_short_as_they_can_be() -> None:
    assert days(date(2024, 2, 1), date(2024, 2, 29)) == "2024-02 (29 days)"
    assert days(date(2024, 2, 1), date(2024, 2, 28)) == "2024-02-01 to 2024-02-28 (28 days)"
    assert days(date(2024, 2, 1), date(2024, 2, 1)) == "2024-02-01"
    one, two = (
        datetime(2024, 2, 1, 6, tzinfo=START.tzinfo),
        datetime(2024, 3, 1, tzinfo=START.tzinfo),
    )
    assert span(one, one + timedelta(minutes=90)) == "2024-02-01 06:00 to 07:30"
    assert span(two - timedelta(days=29), two) == "2024-02 (29 days)"
    assert span(one, two) == "2024-02-01 06:00 to 2024-03-01 00:00"
