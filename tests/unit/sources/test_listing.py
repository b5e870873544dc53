"""The bucket's answers, as recorded and as broken."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.errors import UnavailableError
from lakehouse_ray.model.timespan import day_range, month_range
from lakehouse_ray.sources.binance.archive import parse_page, parse_period

RECORDED = Path(__file__).parents[3].parent / "shared/data/recorded"
PAGE = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<IsTruncated>{truncated}</IsTruncated>{marker}{contents}</ListBucketResult>"
)
ITEM = (
    "<Contents><Key>{key}</Key><LastModified>2024-01-02T03:04:05.000Z</LastModified>"
    "<ETag>&quot;abc&quot;</ETag><Size>7</Size></Contents>"
)


def page(*keys: str, truncated: bool = False, marker: str = "") -> bytes:
    return PAGE.format(
        truncated=str(truncated).lower(),
        marker=f"<NextMarker>{marker}</NextMarker>" if marker else "",
        contents="".join(ITEM.format(key=key) for key in keys),
    ).encode()


def test_keys_sizes_and_etags_are_read() -> None:
    (item,) = parse_page(page("data/币安人生USDT.zip"), "u").objects
    assert (item.key, item.size, item.etag) == ("data/币安人生USDT.zip", 7, "abc")
    assert item.last_modified == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_page_goes_on_where_it_says_or_after_its_last_key() -> None:
    assert parse_page(page("a", "b", truncated=True), "u").next_marker == "b"
    assert parse_page(page("a", "b", truncated=True, marker="c"), "u").next_marker == "c"
    assert parse_page(page("a", "b", marker="c"), "u").next_marker == ""


def test_the_recorded_listing_is_read() -> None:
    folder = RECORDED / "s3_listing"
    if not folder.is_dir():
        pytest.skip("the recorded answers are not on this machine")
    for file in folder.glob("*.xml"):
        assert (
            parse_page(file.read_bytes(), "u").prefixes
            or parse_page(file.read_bytes(), "u").objects
        )


BROKEN = [
    b"", b"<html><body>Busy</body></html>", b"not xml", page("a")[:-5],
    b"<Error><Code>NoSuchKey</Code></Error>", page(truncated=True),
    b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
    b"<ListBucketResult><Contents><Key>a</Key><Size>x</Size></Contents></ListBucketResult>",
    page("a").replace(b"<Size>7<", b"<Size>-7<"), page("a").replace(b"<Size>7<", b"<Size>7.5<"),
    page("a").replace(b"<Key>a<", b"<Key><"), page("a").replace(b"01-02T03", b"13-02T03"),
    page("a").replace(b"2024-01-02T03:04:05.000Z", b"yesterday"),
    page("a").replace(b"05.000Z", b"05.000"),
]  # fmt: skip


@pytest.mark.parametrize("body", BROKEN)
def test_what_is_no_listing_is_never_taken_for_an_empty_one(body: bytes) -> None:
    with pytest.raises(UnavailableError):
        parse_page(body, "u")


@given(st.dates(date(2017, 1, 1), date(2030, 1, 1)), st.booleans())
def test_the_day_or_month_of_a_name_is_read_with_and_without_zeros(day: date, padded: bool) -> None:
    two = "02d" if padded else "d"
    name = f"A-1d-{day.year}-{day.month:{two}}"
    assert parse_period(f"{name}.zip", "A-1d") == ("monthly", month_range(day.year, day.month))
    assert parse_period(f"{name}-{day.day:{two}}.zip", "A-1d") == ("daily", day_range(day))


@pytest.mark.parametrize(
    "name", ["A-1d-2024.zip", "A-1d-2024-13.zip", "A-1d-2024-02-30.zip", "B-1d-2024-01.zip",
             "A-1d-2024-01.csv", "A-1d-2024-01.zip.CHECKSUM", "A-1d-2024-01 (1).zip"],
)  # fmt: skip
def test_another_name_has_no_period(name: str) -> None:
    assert parse_period(name, "A-1d") is None
