"""What a report of quality says, in words that terminal and page share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

# Between two reasons; a sentence may have a semicolon of its own.
_BETWEEN = re.compile(r"; (?=[A-Z_]+: )")
_REASON = re.compile(r"(?P<code>[A-Z_]+): (?P<text>.*) \(-(?P<loss>[0-9.e-]+)\)", re.DOTALL)
_NAME = ("market", "dataset", "interval", "symbol")

# What a loss is, for those who read its name for the first time.
CODES: Mapping[str, str] = {
    "OWN_LOSS": "rows of a file that is known were refused or lost",
    "UNKNOWN": "rows are missing and nothing stored tells why",
    "REFUSED": "rows are missing because they were refused",
    "ARCHIVE_HOLE": "no file here has rows that another series shows",
    "OUTAGE": "the exchange was down",
    "HALTED": "the symbol was halted",
    "NO_ROWS": "every row was refused",
    "FLAGGED": "rows break a rule",
    "QUARANTINED": "rows were refused",
    "DIFFERS": "values differ from another source",
    "LATE": "the file came late",
    "ANOMALIES": "bars look unlikely",
}
CAUSES: Mapping[str, str] = {
    "outage": "the exchange was down; nobody has the rows",
    "archive_hole": "no file here has them, and another series of the lake shows trading",
    "no_trades": "nothing was traded",
    "not_listed": "the symbol was not listed yet",
    "delisted": "the symbol was not listed any more",
    "halted": "this symbol alone stood still",
    "own_loss": "a file of that time is known, and its rows are not here",
    "unknown": "what is stored does not tell",
}
CHECKS: Mapping[str, tuple[str, str]] = {
    "finer_coarser": ("finer bars summed", "coarser bar"),
    "trades_bars": ("aggTrades summed", "1m bar"),
    "daily_monthly": ("daily file", "monthly file"),
    "archive_rest": ("archive", "REST"),
}


def reasons_of(text: str | None) -> list[tuple[str, str, float | None]]:
    """Return code, sentence and loss of each reason; what is spelled otherwise stays a sentence."""
    found: list[tuple[str, str, float | None]] = []
    for part in _BETWEEN.split(text or ""):
        match = _REASON.fullmatch(part)
        if match is not None:
            found.append((match["code"], match["text"], float(match["loss"])))
        elif part:
            found.append(("", part, None))
    return found


def name_of(row: Mapping[str, Any]) -> str:
    """`spot klines 1h BTCUSDT`; without a symbol, the kind of series."""
    return " ".join(plain(row[name]) for name in _NAME if row.get(name))


def plain(text: str) -> str:
    """A name without what would move the cursor or turn the line around."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def score(value: float | None) -> str:
    """Four digits, rounded down: 0.99999 is not perfect."""
    return "-" if value is None else f"{int(value * 10_000 + 1e-6) / 10_000:.4f}"


def number(value: float | int | None) -> str:
    """As many digits as a person compares."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"


def share(value: float) -> str:
    """Neither nothing nor all by rounding."""
    if 0 < value < 0.001:
        return "< 0.1%"
    return "> 99.9%" if 0.9995 <= value < 1 else f"{value:.1%}"


def count(value: int, one: str, many: str = "") -> str:
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def days(first: date, last: date, number: int | None = None) -> str:
    """`2022-11-05`, or `2022-11 (30 days)` of a whole month, or both ends and how many."""
    total = (last - first).days + 1 if number is None else number
    if first == last:
        return f"{first}"
    following = last + timedelta(days=1)
    whole = first.day == 1 and following.day == 1
    if whole and (first.year, first.month) == (last.year, last.month):
        return f"{first:%Y-%m} ({total:,} days)"
    return f"{first} to {last} ({total:,} days)"


def span(start: datetime, end: datetime) -> str:
    """A half-open range by its days where it is whole ones, else by its minutes."""
    if is_midnight(start) and is_midnight(end):
        return days(start.date(), end.date() - timedelta(days=1))
    if start.date() == end.date():
        return f"{start:%Y-%m-%d %H:%M} to {end:%H:%M}"
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"


def is_midnight(moment: datetime) -> bool:
    return moment.astimezone(UTC).time() == time()


def listed(names: Iterable[str], shown_max: int) -> str:
    """The first names, and how many more."""
    every = [plain(name) for name in names]
    more = f" and {len(every) - shown_max:,} more" if len(every) > shown_max else ""
    return ", ".join(every[:shown_max]) + more
