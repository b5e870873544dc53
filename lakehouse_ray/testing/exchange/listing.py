"""Bucket listings as S3 gives them: one page of keys and common prefixes, as XML."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote
from xml.sax.saxutils import escape

from lakehouse_ray.testing.exchange.archive import Archive, Head, walk

BUCKET = "data.binance.vision"
PAGE_MAX = 1000
XML_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


class BadQueryError(ValueError):
    """A parameter that S3 answers with 400 InvalidArgument."""


@dataclass(frozen=True)
class ListQuery:
    """What a listing asks for, in either version of the API.

    after: Keys and common prefixes up to and including this one were seen already.
    """

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    keys_max: int = PAGE_MAX
    version: int = 1
    token: str = ""
    start_after: str = ""
    url_encoded: bool = False

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> ListQuery:
        """Read the parameters of a request. Raises BadQueryError."""
        version = 2 if query.get("list-type") == "2" else 1
        token = query.get("continuation-token", "")
        start_after = query.get("start-after", "")
        after = (
            (_key_of(token) if token else start_after) if version == 2 else query.get("marker", "")
        )
        encoding = query.get("encoding-type", "")
        if encoding not in ("", "url"):
            raise BadQueryError("Invalid Encoding Method specified in Request")
        return cls(
            prefix=query.get("prefix", ""),
            delimiter=query.get("delimiter", ""),
            after=after,
            keys_max=_keys_max(query.get("max-keys", "")),
            version=version,
            token=token,
            start_after=start_after,
            url_encoded=encoding == "url",
        )


@dataclass(frozen=True)
class Page:
    """One page of a listing, its entries in UTF-8 byte order within each of the two lists."""

    contents: list[tuple[str, Head]]
    common_prefixes: list[str]
    truncated: bool
    last: str


def list_page(archive: Archive, query: ListQuery) -> Page:
    """Collect the entries (keys, or what they share up to the delimiter) that follow `after`."""
    contents: list[tuple[str, Head]] = []
    prefixes: list[str] = []
    last = ""
    for entry, is_prefix in _entries(archive, query):
        if len(contents) + len(prefixes) == query.keys_max:
            # S3 answers max-keys=0 with an empty page that is not truncated.
            return Page(contents, prefixes, truncated=query.keys_max > 0, last=last)
        if is_prefix:
            prefixes.append(entry)
        else:
            head = archive.head(entry)
            if head is None:  # removed since its folder was read
                continue
            contents.append((entry, head))
        last = entry
    return Page(contents, prefixes, truncated=False, last=last)


def _entries(archive: Archive, query: ListQuery) -> Iterator[tuple[str, bool]]:
    if query.delimiter in ("", "/"):
        descend = query.delimiter == ""
        for path in walk(archive, query.prefix, query.after, descend=descend):
            yield path, path.endswith("/")
        return
    after = query.after.encode()
    previous = ""
    # From the start: a common prefix that sorts after the marker may stand for keys before it.
    for key in walk(archive, query.prefix):
        cut = key.find(query.delimiter, len(query.prefix))
        entry = key if cut < 0 else key[: cut + len(query.delimiter)]
        if entry != previous and entry.encode() > after:
            yield entry, cut >= 0
        previous = entry


def render(query: ListQuery, page: Page) -> str:
    """The ListBucketResult document."""
    spell = _spell_url if query.url_encoded else escape
    parts = [
        XML_HEAD,
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
        f"<Name>{BUCKET}</Name><Prefix>{spell(query.prefix)}</Prefix>",
    ]
    if query.version == 1:
        parts.append(f"<Marker>{spell(query.after)}</Marker>")
        if page.truncated and query.delimiter:
            parts.append(f"<NextMarker>{spell(page.last)}</NextMarker>")
    else:
        if query.token:
            parts.append(f"<ContinuationToken>{escape(query.token)}</ContinuationToken>")
        if page.truncated:
            token = _token_of(page.last)
            parts.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
        if query.start_after:
            parts.append(f"<StartAfter>{spell(query.start_after)}</StartAfter>")
        parts.append(f"<KeyCount>{len(page.contents) + len(page.common_prefixes)}</KeyCount>")
    parts.append(f"<MaxKeys>{query.keys_max}</MaxKeys>")
    if query.delimiter:
        parts.append(f"<Delimiter>{spell(query.delimiter)}</Delimiter>")
    if query.url_encoded:
        parts.append("<EncodingType>url</EncodingType>")
    parts.append(f"<IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>")
    for key, head in page.contents:
        parts.append(
            f"<Contents><Key>{spell(key)}</Key>"
            f"<LastModified>{_iso(head.modified_s)}</LastModified>"
            f"<ETag>&quot;{head.etag}&quot;</ETag><Size>{head.size_bytes}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
    parts += [
        f"<CommonPrefixes><Prefix>{spell(prefix)}</Prefix></CommonPrefixes>"
        for prefix in page.common_prefixes
    ]
    parts.append("</ListBucketResult>")
    return "".join(parts)


def error_xml(code: str, message: str, **fields: str) -> str:
    """An S3 error body. `fields` become elements between Message and RequestId."""
    more = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return (
        f"{XML_HEAD}<Error><Code>{code}</Code><Message>{escape(message)}</Message>{more}"
        "<RequestId>FG563Q23M3FNYPF4</RequestId><HostId>replica-exchange</HostId></Error>"
    )


def no_such_key_xml(key: str) -> str:
    """The body that comes with 404."""
    return error_xml("NoSuchKey", "The specified key does not exist.", Key=key)


@lru_cache(maxsize=10_000)
def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _spell_url(text: str) -> str:
    return quote(text, safe="/")


def _keys_max(text: str) -> int:
    if text == "":
        return PAGE_MAX
    if not re.fullmatch("[0-9]{1,10}", text):
        raise BadQueryError("Provided max-keys not an integer or within integer range")
    return min(int(text), PAGE_MAX)


def _token_of(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _key_of(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise BadQueryError("The continuation token provided is incorrect") from error
