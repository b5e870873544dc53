"""Answers as they are spelled elsewhere: read back the same, or not at all."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.query.versions import FixedTables
from lakehouse_ray.serve.answers import key_of
from lakehouse_ray.serve.cache import edition as editions
from lakehouse_ray.serve.cache.edition import edition, hash_of_code
from lakehouse_ray.serve.cache.stored import DamagedError, Written, read_value, spell_head
from lakehouse_ray.serve.formats import Format, Whole, hold_rows
from lakehouse_ray.serve.limits import Limits

KEY, OTHER = "ab" * 16, "cd" * 16
CURSORS = st.none() | st.text("abcXYZ019_-", min_size=1, max_size=60)


def spelled(whole: Whole, following: str | None = None, key: str = KEY) -> bytes:
    assert whole.data is not None
    return spell_head(key, Written(whole, following)) + whole.data


@given(st.binary(max_size=300), st.sampled_from(Format), st.integers(0, 1 << 40), CURSORS)
def test_what_is_spelled_is_read_back(
    data: bytes, form: Format, rows: int, following: str | None
) -> None:
    whole = hold_rows(data, form, rows)
    assert read_value(spelled(whole, following), KEY, form) == Written(whole, following)


@given(st.binary(max_size=100), CURSORS, st.data())
def test_no_changed_or_cut_value_is_an_answer(
    body: bytes, following: str | None, data: st.DataObject
) -> None:
    value = spelled(hold_rows(body, Format.JSON, 3), following)
    place = data.draw(st.integers(0, len(value) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = value[:place] + bytes([value[place] ^ 1 << bit]) + value[place + 1 :]
    for wrong in (changed, value[:place], value + b"\0", value[place + 1 :]):
        with pytest.raises(DamagedError):
            read_value(wrong, KEY, Format.JSON)


@given(st.binary(max_size=200))
def test_no_garbage_is_an_answer(garbage: bytes) -> None:
    for value in (garbage, b"lakeans1" + garbage):
        with pytest.raises(DamagedError):
            read_value(value, KEY, Format.JSON)


def head_with(**changed: object) -> bytes:
    """A value whose sums are right, whatever its head says."""
    body = b"[1]"
    head = {
        "key": KEY, "form": "json", "rows": 1, "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(), "following": None,
    }  # fmt: skip
    told = orjson.dumps({name: v for name, v in (head | changed).items() if v != "gone"})
    return b"lakeans1" + len(told).to_bytes(4, "big") + hashlib.sha256(told).digest() + told + body


@pytest.mark.parametrize(
    "changed",
    [
        {"key": OTHER}, {"form": "csv"}, {"form": "exe"}, {"rows": -1}, {"rows": True},
        {"rows": "1"}, {"size": 2}, {"size": -3}, {"size": 3.0}, {"sha256": "0" * 64},
        {"sha256": "x"}, {"following": "a\r\nSet-Cookie: b"}, {"following": "a" * 4097},
        {"following": ""}, {"following": 5}, {"more": 1}, {"rows": "gone"}, {"following": "gone"},
    ],
)  # fmt: skip
def test_a_head_that_says_what_cannot_be_is_no_answer(changed: dict[str, object]) -> None:
    assert read_value(head_with(), KEY, Format.JSON).whole.data == b"[1]"
    with pytest.raises(DamagedError):
        read_value(head_with(**changed), KEY, Format.JSON)


def test_values_of_other_makers_are_no_answers() -> None:
    value = spelled(hold_rows(b"[]", Format.JSON, 0))
    for wrong in (
        value.replace(b"lakeans1", b"lakeans0"),
        pickle.dumps(hold_rows(b"[]", Format.JSON, 0)),
        spelled(hold_rows(b"[]", Format.JSON, 0), key=OTHER),
        b"",
    ):
        with pytest.raises(DamagedError):
            read_value(wrong, KEY, Format.JSON)
    with pytest.raises(DamagedError):
        read_value(value, KEY, Format.CSV)


def nothing_stored() -> FixedTables:
    return FixedTables(lambda name: None, KLINES.tables)


def test_a_key_names_question_format_and_limits() -> None:
    tables = nothing_stored()
    question = {"symbol": "BTCUSDT", "limit": 5}
    key = key_of(Format.JSON, tables, question, Limits())
    assert key == key_of(Format.JSON, tables, {"limit": 5, "symbol": "BTCUSDT"}, Limits())
    fewer = FixedTables(lambda name: None, KLINES.tables[:1])
    others = {
        key_of(Format.CSV, tables, question, Limits()),
        key_of(Format.JSON, tables, question | {"limit": 6}, Limits()),
        key_of(Format.JSON, tables, question, Limits(rows_max=7)),
        key_of(Format.JSON, fewer, question, Limits()),
    }
    assert len(others | {key}) == 5


def test_other_code_has_other_keys(tmp_path: Path) -> None:
    serve = Path(editions.__file__).parents[1]
    copy = tmp_path / "copy"
    shutil.copytree(serve, copy)
    assert hash_of_code(copy) == hash_of_code(serve)
    with (copy / "cache/edition.py").open("a") as file:
        file.write("\n")
    assert hash_of_code(copy) != hash_of_code(serve)
    assert edition() == edition() != hash_of_code(serve)
