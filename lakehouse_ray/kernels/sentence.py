"""Sentences with numbers in them, as columns."""

from __future__ import annotations

import polars as pl


def sentence(template: str, *values: str | pl.Expr) -> pl.Expr:
    """Put values (a name is a column) where the template has `{}`; null where one is null.

    As `polars.format`, which in Polars 2.1 panics on a column whose first chunk is empty: what
    `filter` leaves of one that `shift` made.
    """
    texts = template.split("{}")
    if len(texts) != len(values) + 1:
        raise AssertionError(f"{len(values)} values for {template!r}")
    parts: list[pl.Expr] = [pl.lit(texts[0])]
    for value, text in zip(values, texts[1:], strict=True):
        parts.append((pl.col(value) if isinstance(value, str) else value).cast(pl.String))
        parts.append(pl.lit(text))
    return pl.concat_str(parts)


def worded(count: str | pl.Expr, one: str, many: str) -> pl.Expr:
    """The words that fit a number (a name is a column): `one` for 1; null for null."""
    number = pl.col(count) if isinstance(count, str) else count
    words = pl.when(number == 1).then(pl.lit(one)).otherwise(pl.lit(many))
    return pl.when(number.is_not_null()).then(words)
