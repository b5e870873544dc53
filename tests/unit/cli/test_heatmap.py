"""The heat map of coverage, in text and as a page."""

from __future__ import annotations

import json
import re
import sys
from datetime import date, timedelta

import polars as pl
import pytest

from lakehouse_ray.cli.coverage import can_draw, may_colour
from lakehouse_ray.cli.heatmap_html import html_map
from lakehouse_ray.cli.heatmap_text import style_of, text_map
from lakehouse_ray.kernels.coverage import COVERAGE

PLAIN = style_of(ascii_only=False, colours=False)
START = date(2024, 1, 1)


def coverage(symbol: str, shares: list[float | None], start: date = START) -> pl.DataFrame:
    """A day for each share: of 100 rows; None: ten rows, nobody knows of how many."""
    rows = [
        ("um", "klines", symbol, "1m", start + timedelta(k), 10 if s is None else round(s * 100),
         None if s is None else 100, s)
        for k, s in enumerate(shares)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=COVERAGE, orient="row")


def lines(frame: pl.DataFrame, width: int = 80, **style: bool) -> list[str]:
    return list(
        text_map(frame, width, style_of(**({"ascii_only": False, "colours": False} | style)))
    )


def test_a_sign_tells_the_state_of_a_day() -> None:
    frame = pl.concat(
        [
            coverage("AUSDT", [1.0, 0.97, 0.5, 0.2, 0.0]),
            coverage("BUSDT", [1.0], START + timedelta(2)),
        ]
    )
    title, axis, first, second, empty, legend = lines(frame)
    assert title == "um klines 1m: 2 symbols, 5 days"
    assert axis.strip() == "2024-01-01"
    assert first == "AUSDT █▓▒░×  53.40%"
    assert second == "BUSDT   █   100.00%"
    assert empty == ""
    assert legend.startswith("█ all rows  ▓ 95 % and more")
    ascii_lines = lines(frame, ascii_only=True)
    assert ascii_lines[2] == "AUSDT #+-.x  53.40%"
    assert all(line.isascii() for line in ascii_lines)


def test_days_are_squeezed_to_the_width_and_no_gap_vanishes() -> None:
    shares = [1.0] * 1000
    shares[500] = 0.99
    title, axis, line, *_ = lines(coverage("AUSDT", shares), width=60)
    assert title.endswith("a sign is 22 days")
    assert len(line) <= 60
    assert line.count("▓") == 1
    assert "2024-01-01" in axis
    assert "2025" in axis
    assert "99.99%" in line  # never 100 % where a row is missing


def test_a_terminal_may_be_as_narrow_as_it_likes() -> None:
    drawn = lines(coverage("A" * 40, [1.0] * 10), width=1)
    assert drawn[2].startswith("A" * 23 + "…")


def test_what_nobody_can_measure_is_shown_as_such() -> None:
    drawn = lines(coverage("AUSDT", [None, None]))
    assert "■■" in drawn[2]
    assert "nobody knows" in drawn[-1]


def test_colours_change_where_the_state_does_and_end_with_the_line() -> None:
    line = lines(coverage("AUSDT", [1.0, 1.0, 0.0]), colours=True)[2]
    assert line.count("\x1b[38;5;32m") == 1
    assert re.sub(r"\x1b\[[\d;]*m", "", line).startswith("AUSDT ██×")
    assert line.rindex("\x1b[0m") > line.index("×")


def test_colours_are_for_terminals_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert may_colour()
    monkeypatch.setenv("TERM", "dumb")
    assert not may_colour()
    assert not can_draw("utf-8")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert may_colour()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not may_colour()
    monkeypatch.setenv("TERM", "xterm")
    assert can_draw("utf-8")
    assert not can_draw("ascii")
    assert not can_draw("latin-1")
    assert not can_draw(None)


def data_of(page: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert match is not None
    found: dict[str, object] = json.loads(match[1])
    return found


def test_a_page_holds_every_day_and_needs_nothing_from_elsewhere() -> None:
    frame = pl.concat(
        [
            coverage("AUSDT", [1.0, 1.0, 0.999, 0.0, None]),
            coverage("BUSDT", [1.0], START + timedelta(3)),
        ]
    )
    page = html_map(frame, "Coverage of <all>", "2026-01-01T00:00:00Z")
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", page)
    data = data_of(page)
    assert data["title"] == "Coverage of <all>"
    (series,) = data["series"]  # type: ignore[misc]
    assert (series["name"], series["first"]) == ("um klines 1m", "2024-01-01")
    first, second = series["symbols"]
    assert first["runs"] == [
        2, 100, 100, 10000,
        1, 100, 100, 9990,
        1, 0, 100, 0,
        1, 10, -1, -1,
    ]  # fmt: skip
    assert (second["name"], second["at"], second["runs"]) == ("BUSDT", 3, [1, 100, 100, 10000])


def test_no_symbol_can_break_out_of_the_data() -> None:
    page = html_map(coverage("</script><b>币安人生", [1.0]), "x", "y")
    assert page.count("</script>") == 2
    (series,) = data_of(page)["series"]  # type: ignore[misc]
    assert series["symbols"][0]["name"] == "</script><b>币安人生"


def test_five_hundred_symbols_with_three_thousand_days_stay_small() -> None:
    one = coverage("A", [1.0] * 3000)
    frame = pl.concat([one.with_columns(symbol=pl.lit(f"S{k:03d}USDT")) for k in range(500)])
    assert len(html_map(frame, "x", "y")) < 200_000


def test_wide_names_do_not_push_their_days_aside() -> None:
    drawn = lines(pl.concat([coverage("币安人生USDT", [1.0]), coverage("BTCUSDT", [1.0])]))
    assert drawn[2:4] == ["币安人生USDT █ 100.00%", "BTCUSDT      █ 100.00%"]
