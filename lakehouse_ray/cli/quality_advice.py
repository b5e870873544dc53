"""What to do, each thing once: recommendations that say the same together, with the command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from lakehouse_ray.cli.quality_words import is_midnight
from lakehouse_ray.query.scan import text

# Of several ranges each has its command; of more one covers all.
_COMMANDS_MAX = 3
# More names would not fit a line of a shell, and the command takes all symbols without.
_SYMBOLS_MAX = 50
_SHELL = re.compile(r'[$`"\\!]')
_TITLES = {
    "fetch_again": "Fetch again",
    "fetch": "Fetch",
    "fill_gap": "Fill the gap",
    "inspect": "Look at it",
}
_NOTES = {
    "fetch_again": "Brings what is listed there and is new, changed or was refused before; "
    "what is as listed stays.",
    "fetch": "Brings files that are listed there and not here. Where there is none, the rows can only "
    "come from REST.",
    "fill_gap": "Brings daily files that a monthly one lacks. Where the archive has no other file, "
    "the rows can only come from REST.",
    "inspect": "",
}


@dataclass(frozen=True)
class Task:
    """One thing to do.

    action: As in `kernels.recommend`. title, reason, note: In words.
    symbols: Whom it is about, sorted. ranges: How many; `start` and `end` cover all of them.
    rows: At stake.
    commands: What to type, one line each.
    """

    action: str
    title: str
    market: str
    dataset: str
    interval: str
    symbols: tuple[str, ...]
    reason: str
    ranges: int
    rows: int
    start: datetime
    end: datetime
    commands: tuple[str, ...]
    note: str


def tasks_of(advice: pl.DataFrame) -> list[Task]:
    """Group `kernels.recommend`'s rows by action, kind of series and reason; their order stays, so
    what concerns the most rows of an action comes first."""
    groups: dict[tuple[str, ...], list[Mapping[str, object]]] = {}
    for row in advice.iter_rows(named=True):
        key = row["action"], row["market"], row["dataset"], row["interval"], row["reason"]
        groups.setdefault(key, []).append(row)
    tasks = [_task(key, pl.DataFrame(rows, schema=advice.schema)) for key, rows in groups.items()]
    order = list(_TITLES)
    return sorted(tasks, key=lambda task: (order.index(task.action), -task.rows))


def _task(key: tuple[str, ...], rows: pl.DataFrame) -> Task:
    action, market, dataset, interval, reason = key
    start, end = rows["start"].min(), rows["end"].max()
    assert isinstance(start, datetime)
    assert isinstance(end, datetime)
    base = Task(
        action, _TITLES[action], market, dataset, interval,
        tuple(rows["symbol"].unique().sort()), reason, rows.height, int(rows["rows"].sum()),
        start, end, (), _NOTES[action],
    )  # fmt: skip
    return Task(**(vars(base) | {"commands": tuple(_commands(base, rows))}))


def _commands(task: Task, rows: pl.DataFrame) -> Iterable[str]:
    if task.action == "inspect":
        yield _question(task)
        return
    # Whole days: files are of days.
    ranges = (
        rows.select("symbol", pl.col("start").dt.truncate("1d"), pl.col("end").dt.offset_by("-1us"))
        .with_columns(pl.col("end").dt.truncate("1d").dt.offset_by("1d"))
        .group_by("start", "end")
        .agg(pl.col("symbol").unique().sort())
        .sort("start", "end")
    )
    if ranges.height > _COMMANDS_MAX:
        yield _ingest(task, task.symbols, ranges["start"].min(), ranges["end"].max())
        return
    for start, end, symbols in ranges.iter_rows():
        yield _ingest(task, symbols, start, end)


def _ingest(task: Task, symbols: Iterable[str], start: object, end: object) -> str:
    assert isinstance(start, datetime)
    assert isinstance(end, datetime)
    names = list(symbols)
    parts = ["lakehouse", "ingest", "--market", task.market, "--dataset", task.dataset]
    parts += ["--interval", task.interval] if task.interval else []
    parts += ["--symbols", ",".join(names)] if len(names) <= _SYMBOLS_MAX else []
    return shlex.join([*parts, "--start", f"{start:%Y-%m-%d}", "--end", f"{end:%Y-%m-%d}"])


def _question(task: Task) -> str:
    """A statement that shows the rows to look at."""
    view = "gold.anomalies" if "anomaly" in task.reason else "silver.violations"
    parts = [
        f"market = {text(task.market)}",
        f"dataset = {text(task.dataset)}",
        *([f"interval = {text(task.interval)}"] if task.interval else []),
        *([f"symbol IN ({', '.join(map(text, task.symbols))})"]
          if len(task.symbols) <= _SYMBOLS_MAX else []),
        f"time >= '{_moment(task.start)}'",
        f"time < '{_moment(task.end)}'",
    ]  # fmt: skip
    query = f"select * from {view} where {' and '.join(parts)} order by symbol, time"
    # Names have no sign that a shell reads within double quotes, or else all is quoted the hard way.
    spelled = shlex.quote(query) if _SHELL.search(query) else f'"{query}"'
    return f"lakehouse sql {spelled}"


def _moment(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%d}" if is_midnight(utc) else f"{utc:%Y-%m-%dT%H:%M:%SZ}"
