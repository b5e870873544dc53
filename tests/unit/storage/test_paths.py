"""The one place that spells a path of bronze."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.storage.paths import BronzePath, validate_key

SEGMENT = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\\@"),
    min_size=1,
    max_size=30,
).filter(lambda text: text not in (".", ".."))


@given(
    folders=st.lists(SEGMENT, max_size=5),
    name=SEGMENT,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
)
def test_a_path_is_read_back_as_what_it_was_made_of(
    folders: list[str], name: str, sha256: str
) -> None:
    path = BronzePath("binance", "/".join([*folders, f"{name}.zip"]), sha256)
    assert BronzePath.parse(str(path)) == path


@pytest.mark.parametrize(
    "key",
    ["../a.zip", "a/../b.zip", "/a.zip", "a//b.zip", "a/", "", "a/./b.zip", "a\\b.zip",
     "a\nb.zip", "a\0.zip", "a\x7f.zip", "a@b.zip", "x" * 201],
)  # fmt: skip
def test_a_key_that_could_lead_elsewhere_is_refused(key: str) -> None:
    with pytest.raises(InvalidError):
        validate_key(key)


@pytest.mark.parametrize(
    "path", ["tables/a.zip", "bronze/binance/a.zip", "bronze/binance/a@1.zip", "bronze/B/a.zip", ""]
)
def test_what_is_no_path_of_bronze_is_not_read_as_one(path: str) -> None:
    with pytest.raises(InvalidError):
        BronzePath.parse(path)
