"""Which part of an object the conditional and Range headers ask for."""

from __future__ import annotations

import pytest

from lakehouse_ray.testing.exchange.archive import Head
from lakehouse_ray.testing.exchange.conditions import Part, http_date, select

HEAD = Head(100, "abc", 1_700_000_000)
SAME, BEFORE, LATER = (http_date(1_700_000_000 + off) for off in (0, -1, 1))


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({}, Part(200, 0, 100)),
        ({"Range": "bytes=0-0"}, Part(206, 0, 1)),
        ({"Range": "bytes=10-19"}, Part(206, 10, 20)),
        ({"Range": "bytes=90-"}, Part(206, 90, 100)),
        ({"Range": "bytes=90-999"}, Part(206, 90, 100)),
        ({"Range": "bytes=-10"}, Part(206, 90, 100)),
        ({"Range": "bytes=-999"}, Part(206, 0, 100)),
        ({"Range": "bytes=100-"}, Part(416, 0, 0)),
        ({"Range": "bytes=-0"}, Part(416, 0, 0)),
        ({"Range": "bytes=0-1,5-6"}, Part(200, 0, 100)),
        ({"Range": "bytes=9-1"}, Part(200, 0, 100)),
        ({"Range": "bytes=-"}, Part(200, 0, 100)),
        ({"Range": "lines=1-2"}, Part(200, 0, 100)),
        ({"Range": "bytes=0-" + "9" * 5000}, Part(200, 0, 100)),
        ({"Range": "bytes=0-9", "If-Range": '"abc"'}, Part(206, 0, 10)),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, Part(200, 0, 100)),
        ({"Range": "bytes=0-9", "If-Range": SAME}, Part(206, 0, 10)),
        ({"Range": "bytes=0-9", "If-Range": BEFORE}, Part(200, 0, 100)),
        ({"If-None-Match": '"abc"'}, Part(304, 0, 0)),
        ({"If-None-Match": 'W/"abc"'}, Part(304, 0, 0)),
        ({"If-None-Match": '"x", "abc"'}, Part(304, 0, 0)),
        ({"If-None-Match": "*"}, Part(304, 0, 0)),
        ({"If-None-Match": '"x"'}, Part(200, 0, 100)),
        ({"If-None-Match": '"x"', "If-Modified-Since": LATER}, Part(200, 0, 100)),
        ({"If-Modified-Since": SAME}, Part(304, 0, 0)),
        ({"If-Modified-Since": BEFORE}, Part(200, 0, 100)),
        ({"If-Modified-Since": "yesterday"}, Part(200, 0, 100)),
        ({"If-Match": '"abc"'}, Part(200, 0, 100)),
        ({"If-Match": '"x"'}, Part(412, 0, 0)),
        ({"If-Unmodified-Since": SAME}, Part(200, 0, 100)),
        ({"If-Unmodified-Since": BEFORE}, Part(412, 0, 0)),
    ],
)
def test_the_headers_choose_the_part(headers: dict[str, str], part: Part) -> None:
    assert select(headers, HEAD) == part


def test_an_empty_object_has_no_range() -> None:
    assert select({"Range": "bytes=0-"}, Head(0, "abc", 0)) == Part(416, 0, 0)
