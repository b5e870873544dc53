"""Which part of an object a GET or HEAD is to be answered with (RFC 9110, as S3 does it)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from lakehouse_ray.testing.exchange.archive import Head

# 18 digits: more than any object has, fewer than Python refuses to read.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True)
class Part:
    """The status to answer with and the bytes `[start, end)` that belong to it."""

    status: int
    start: int
    end: int


def select(headers: Mapping[str, str], head: Head) -> Part:
    """Weigh the conditional and Range headers of a request.

    200 whole, 206 part, 304 not modified, 412 precondition failed, 416 no such range. Several
    ranges or a malformed one are ignored, as S3 does.
    """
    whole = Part(200, 0, head.size_bytes)
    if not headers:
        return whole
    failed = _precondition(headers, head)
    if failed is not None:
        return failed
    asked = headers.get("Range")
    if asked is None or not _range_applies(headers.get("If-Range"), head):
        return whole
    match = _RANGE.fullmatch(asked.strip())
    if match is None or match.groups() == ("", ""):
        return whole
    first, last = match.groups()
    size = head.size_bytes
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return whole
    return Part(206, start, end) if start < end else Part(416, 0, 0)


def http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _precondition(headers: Mapping[str, str], head: Head) -> Part | None:
    if_match = headers.get("If-Match")
    if if_match is not None:
        if not _names(if_match, head.etag):
            return Part(412, 0, 0)
    else:
        unmodified = _seconds(headers.get("If-Unmodified-Since"))
        if unmodified is not None and head.modified_s > unmodified:
            return Part(412, 0, 0)
    if_none_match = headers.get("If-None-Match")
    if if_none_match is not None:
        return Part(304, 0, 0) if _names(if_none_match, head.etag) else None
    modified = _seconds(headers.get("If-Modified-Since"))
    if modified is not None and head.modified_s <= modified:
        return Part(304, 0, 0)
    return None


def _names(header: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    return "*" in tags or etag in tags


def _range_applies(if_range: str | None, head: Head) -> bool:
    if if_range is None:
        return True
    if if_range.startswith('"'):
        return if_range.strip('"') == head.etag
    return _seconds(if_range) == head.modified_s


def _seconds(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
