"""The worst days and what to do about them, as tables of a page."""

from __future__ import annotations

from typing import Any

from lakehouse_ray.cli.markup import Markup, element
from lakehouse_ray.cli.quality_advice import Task
from lakehouse_ray.cli.quality_document import Told, evidence_of
from lakehouse_ray.cli.quality_parts import Column, left_out, more, named, rows_table
from lakehouse_ray.cli.quality_words import days, listed, reasons_of, score, span

# Of a task so many symbols are named, and so many commands told.
_SYMBOLS_MAX, _COMMANDS_MAX = 8, 2


def worst(told: Told, spans_max: int) -> list[Markup]:
    verdict = told.verdict
    head = element(
        "h2", "Worst days ", element("small", "days in a row with the same causes together")
    )
    if verdict.spans.is_empty():
        return [head, element("p", f"No day scores less than {verdict.threshold:g}.")]

    def because(row: dict[str, Any]) -> list[Markup]:
        known = evidence_of(verdict.gaps, row)
        return [*_reasons(row), *([element("div", known, class_="soft")] if known else [])]

    columns = [
        Column("score", lambda row: score(row["least"])),
        Column("series", named, "text name"),
        Column("days", lambda row: days(row["first_day"], row["last_day"], row["days"]), "text when"),
        Column("why", because, "text"),
    ]  # fmt: skip
    return [
        head,
        rows_table(columns, verdict.spans.head(spans_max)),
        *more(
            left_out(told, "spans", spans_max),
            f"select * from gold.quality where score < {verdict.threshold:g} order by score",
        ),
    ]


def _reasons(row: dict[str, Any]) -> list[Markup]:
    """As sentences, a line each."""
    return [
        element(
            "div", text, element("span", f"  −{loss:g} {code}", class_="soft") if code else None
        )
        for code, text, loss in reasons_of(row["reasons"])
    ]


def what_to_do(told: Told, tasks_max: int) -> list[Markup]:
    tasks = told.tasks
    if not tasks:
        return [
            element("h2", "What to do"),
            element("p", "Nothing: what is missing is explained, and nobody has it."),
        ]
    rows = [
        element("tr",
            element("td", task.title, class_="text when"),
            element("td", element("bdi", whom(task, _SYMBOLS_MAX)), class_="text name"),
            element("td", f"{task.rows:,}"),
            element("td", span(task.start, task.end), f" in {task.ranges:,} ranges" if task.ranges > 1 else None, class_="text name"),
            element("td", task.reason,
                [element("pre", line) for line in task.commands[: _COMMANDS_MAX]],
                element("div", f"and {len(task.commands) - _COMMANDS_MAX:,} more like it", class_="soft") if len(task.commands) > _COMMANDS_MAX else None,
                class_="text"),
        )
        for task in tasks[: tasks_max]
    ]  # fmt: skip
    heads = [
        ("", "text"),
        ("series", "text"),
        ("rows", ""),
        ("when", "text"),
        ("why, and the command", "text"),
    ]
    notes = dict.fromkeys(f"{task.title}: {task.note}" for task in tasks if task.note)
    return [
        element("h2", "What to do"),
        element("table", element("tr", [element("th", h, class_=c or None) for h, c in heads]), rows),
        *([element("p", f"{len(tasks) - tasks_max:,} more: --report-json has them")] if len(tasks) > tasks_max else []),
        *[element("p", note) for note in notes],
    ]  # fmt: skip


def whom(task: Task, symbols_max: int) -> str:
    parts = (task.market, task.dataset, task.interval, listed(task.symbols, symbols_max))
    return " ".join(part for part in parts if part)
