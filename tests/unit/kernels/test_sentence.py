"""Sentences from columns, among them such as `filter` and `shift` leave."""

from __future__ import annotations

import polars as pl
import pytest

from lakehouse_ray.kernels.sentence import sentence, worded


def test_values_stand_where_the_template_has_room() -> None:
    frame = pl.DataFrame({"a": [1.5, None], "b": ["x", "y"]})
    texts = frame.select(sentence("{} of {}: {} %", "b", pl.col("a"), pl.lit(3))).to_series()
    assert texts.to_list() == ["x of 1.5: 3 %", None]


def test_columns_of_several_chunks_the_first_of_them_empty_are_written_too() -> None:
    shifted = pl.DataFrame({"a": [1.0, 2.0, 3.0]}).with_columns(b=pl.col("a").shift(1))
    filtered = shifted.filter(pl.col("a") > 1.5)
    assert filtered.select(sentence("{} after {}", "a", "b")).to_series().to_list() == [
        "2.0 after 1.0",
        "3.0 after 2.0",
    ]


def test_a_template_with_other_room_than_values_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        sentence("{}", "a", "b")


def test_words_fit_their_number() -> None:
    frame = pl.DataFrame({"n": [0, 1, 2, None]})
    words = frame.select(sentence("{} {}", "n", worded("n", "row", "rows"))).to_series()
    assert words.to_list() == ["0 rows", "1 row", "2 rows", None]
