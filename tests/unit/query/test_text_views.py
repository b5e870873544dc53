"""Texts as views are the texts they were, however the dictionary lies."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.query.text_views import DICTIONARY, VIEW, as_views, repeated

_TEXTS = st.lists(st.none() | st.text(max_size=20), max_size=40)


@given(_TEXTS, _TEXTS, st.integers(0, 5), st.integers(0, 30))
def test_views_are_the_same_texts(
    first: list[str | None], second: list[str | None], start: int, length: int
) -> None:
    for kind in (pa.string(), DICTIONARY):
        chunks = [pa.array(texts, pa.string()).cast(kind) for texts in (first, second)]
        column = pa.chunked_array([chunks[0].slice(start, length), chunks[1]], kind)
        views = as_views(column)
        views.validate(full=True)
        assert views.type == VIEW
        assert views.to_pylist() == column.to_pylist()
        frame = pl.from_arrow(pa.table({"t": views}).combine_chunks())
        assert isinstance(frame, pl.DataFrame)
        assert frame["t"].to_list() == column.to_pylist()


@pytest.mark.parametrize("null", [True, False])
def test_a_dictionary_may_be_cut_and_may_hold_null(null: bool) -> None:
    words = pa.array(["x", "longer than twelve", None if null else "", "more than twelve bytes"])
    chunk = pa.DictionaryArray.from_arrays(pa.array([2, 0, None, 1, 2], pa.int32()), words.slice(1))
    views = as_views(pa.chunked_array([chunk]))
    views.validate(full=True)
    assert views.to_pylist() == chunk.cast(pa.string()).to_pylist()


def test_a_repeated_text() -> None:
    assert repeated("spot", 3).to_pylist() == ["spot"] * 3
    assert repeated("spot", 0).to_pylist() == []
    assert repeated("spot", 1).type == DICTIONARY
