"""Rows held against the rules of their data set, all rules in one pass.

Nearly every row is fine, so that is what is quick: piece by piece, small enough for the processor's
cache, one `select` asks of each rule whether any row breaks it. Only rules that are broken are
looked at again, and codes are made only for rows that break one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import polars as pl

from lakehouse_ray.model.checks.rule import Rule

# Rows evaluated at once: some twelve columns of 8 bytes and their temporaries stay within a few MB.
_PIECE_ROWS = 65_536

_PREVIOUS = re.compile(r"\bprev_(\w+)")
_NO_FLAGS = pl.Series("flags", [], pl.String)


def flag_rows(rules: Sequence[Rule], frame: pl.DataFrame) -> pl.Series | None:
    """Return for each row the names of the rules it breaks, joined by commas; null where it is fine.

    None: no row breaks any. `rules`: `rules_of(dataset, market, interval)`; names stand in their
    order. Memory: the result, and temporaries of 65,536 rows.
    """
    pieces: list[pl.Series] = []
    clean = 0
    for piece in _pieces(_prepared(rules, frame)):
        broken = _broken(rules, piece)
        if not broken:
            clean += piece.height
            continue
        if clean:
            pieces.append(_NO_FLAGS.clear(clean))
            clean = 0
        pieces.append(_codes(broken, piece))
    if not pieces:
        return None
    if clean:
        pieces.append(_NO_FLAGS.clear(clean))
    return pl.concat(pieces, rechunk=True)


def count_violations(rules: Sequence[Rule], frame: pl.DataFrame) -> dict[str, int]:
    """Return the number of rows that break each rule, in the rules' order, zeros included."""
    counts = dict.fromkeys((rule.name for rule in rules), 0)
    for piece in _pieces(_prepared(rules, frame)):
        broken = _broken(rules, piece)
        if broken:
            sums = piece.select(_violation(rule).sum().alias(rule.name) for rule in broken)
            for name, count in zip(sums.columns, sums.row(0), strict=True):
                counts[name] += int(count)
    return counts


def flag_sequence(
    rules: Sequence[Rule], frame: pl.DataFrame, carry: pl.DataFrame | None = None
) -> tuple[pl.Series | None, pl.DataFrame | None]:
    """As `flag_rows`, for rules that compare a row with the one before it; and the next carry.

    frame: Rows of one symbol (and interval) in order.
    carry: What the call on the piece before returned, so that pieces give what one run would; None:
        there is nothing before, and the first row has nothing to be compared with. One row.
    """
    if frame.is_empty():
        return None, carry
    needed = frame.select(_previous_columns(rules))
    moved = needed.select(pl.all().shift(1))
    if carry is not None:
        moved = pl.concat([carry, needed.head(frame.height - 1)])
    joined = frame.with_columns(moved.rename(lambda name: f"prev_{name}"))
    return flag_rows(rules, joined), needed.tail(1)


def join_flags(first: pl.Series | None, second: pl.Series | None) -> pl.Series | None:
    """The flags of both, those of `first` first."""
    if first is None or second is None:
        return second if first is None else first
    both = pl.DataFrame([first.alias("a"), second.alias("b")])
    joined = pl.concat_str("a", "b", separator=",", ignore_nulls=True)
    return both.select(
        pl.when(pl.col("a").is_not_null() | pl.col("b").is_not_null()).then(joined).alias("flags")
    ).to_series()


def _pieces(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    return frame.iter_slices(_PIECE_ROWS)


def _prepared(rules: Sequence[Rule], frame: pl.DataFrame) -> pl.DataFrame:
    """Only the columns that the rules name, and their times as integers; views, not copies."""
    names = _names(tuple(rules))
    times = [name.removesuffix("_us") for name in names if name not in frame.columns]
    plain = [name for name in frame.columns if name in names]
    return pl.DataFrame(
        [
            *(frame[name] for name in plain),
            *(_epoch_us(frame[name]).alias(f"{name}_us") for name in sorted(times)),
        ]
    )


def _epoch_us(time: pl.Series) -> pl.Series:
    """A cast costs a tenth of what any expression does."""
    whole = isinstance(time.dtype, pl.Datetime) and time.dtype.time_unit == "us"
    return time.cast(pl.Int64) if whole else time.dt.epoch("us")


def _broken(rules: Sequence[Rule], piece: pl.DataFrame) -> list[Rule]:
    if not rules:
        return []
    found = piece.select(_screen(tuple(rules))).row(0)
    suspect = [rule for rule, any_row in zip(rules, found, strict=True) if any_row]
    if not any(rule.screen for rule in suspect):
        return suspect
    sure = piece.select(_violation(rule).any().alias(str(i)) for i, rule in enumerate(suspect)).row(
        0
    )
    return [rule for rule, any_row in zip(suspect, sure, strict=True) if any_row]


def _codes(broken: Sequence[Rule], piece: pl.DataFrame) -> pl.Series:
    marks = piece.select(
        pl.when(_violation(rule)).then(pl.lit(rule.name)).alias(str(i))
        for i, rule in enumerate(broken)
    )
    joined = pl.concat_str(pl.all(), separator=",", ignore_nulls=True)
    return marks.select(
        pl.when(pl.any_horizontal(pl.all().is_not_null())).then(joined).alias("flags")
    ).to_series()


def _violation(rule: Rule) -> pl.Expr:
    return _expression(rule.where)


@lru_cache(maxsize=1024)
def _expression(where: str) -> pl.Expr:
    return pl.sql_expr(where)


@lru_cache(maxsize=256)
def _screen(rules: tuple[Rule, ...]) -> list[pl.Expr]:
    """Of each rule, whether any row breaks it, or may."""
    return [
        (_expression(rule.screen) if rule.screen else _violation(rule).any()).alias(str(i))
        for i, rule in enumerate(rules)
    ]


@lru_cache(maxsize=256)
def _names(rules: tuple[Rule, ...]) -> frozenset[str]:
    """Columns as the rules spell them."""
    return frozenset(name for rule in rules for name in _expression(rule.where).meta.root_names())


def _previous_columns(rules: Sequence[Rule]) -> list[str]:
    """Columns of the row before that rules ask for, without `prev_` and `_us`."""
    names = {name for rule in rules for name in _PREVIOUS.findall(rule.where)}
    return sorted({name.removesuffix("_us") for name in names})
