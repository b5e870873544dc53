"""Pages of a listing against a brute force over all keys, read with Python's own XML parser."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Hashable
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.testing.exchange.archive import Blob, Head, walk
from lakehouse_ray.testing.exchange.listing import (
    BadQueryError,
    ListQuery,
    list_page,
    no_such_key_xml,
    render,
)

_S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class DictArchive:
    """Keys with their own names as bodies."""

    def __init__(self, keys: set[str]) -> None:
        self.keys = keys

    def children(self, folder: str) -> list[str]:
        rests = [key[len(folder) :] for key in self.keys if key.startswith(folder)]
        names = {rest if "/" not in rest else rest[: rest.index("/") + 1] for rest in rests}
        return sorted(names, key=str.encode)

    def inhabited(self, folder: str) -> bool:
        return any(key.startswith(folder) for key in self.keys)

    def version(self, key: str) -> Hashable | None:
        return key if key in self.keys else None

    def head(self, key: str) -> Head | None:
        return Head(len(key.encode()), "0" * 32, 1_700_000_000) if key in self.keys else None

    def read(self, key: str) -> Blob | None:
        head = self.head(key)
        return None if head is None else Blob(head, key.encode())


# Few letters, so that keys share folders and prefixes; a dot and a hyphen sort before "/".
_names = st.text(alphabet="ab.-é币", min_size=1, max_size=3)
_keys = st.sets(st.lists(_names, min_size=1, max_size=4).map("/".join), max_size=30).map(
    # On a disk and in a bucket made from one, no key is a folder of another.
    lambda keys: {key for key in keys if not any(other.startswith(key + "/") for other in keys)}
)


def brute_force(keys: set[str], prefix: str, delimiter: str, after: str) -> list[str]:
    entries = set()
    for key in keys:
        if key.startswith(prefix):
            rest = key[len(prefix) :]
            cut = rest.find(delimiter) if delimiter else -1
            entries.add(key if cut < 0 else prefix + rest[: cut + len(delimiter)])
    return sorted((e for e in entries if e.encode() > after.encode()), key=str.encode)


def listed(document: str) -> tuple[list[str], list[str], ElementTree.Element]:
    root = ElementTree.fromstring(document)
    keys = [element.text or "" for element in root.iter(f"{_S3}Key")]
    prefixes = [e.text or "" for e in root.findall(f"{_S3}CommonPrefixes/{_S3}Prefix")]
    return keys, prefixes, root


@given(
    _keys,
    st.text("ab/.", max_size=3),
    st.sampled_from(["", "/", "b", "-é"]),
    st.text("ab/.", max_size=3),
)
def test_one_page_has_what_brute_force_finds(
    keys: set[str], prefix: str, delimiter: str, after: str
) -> None:
    query = ListQuery(prefix, delimiter, after)
    found, prefixes, _ = listed(render(query, list_page(DictArchive(keys), query)))
    entries = brute_force(keys, prefix, delimiter, after)
    assert sorted(found + prefixes, key=str.encode) == entries
    assert found == [entry for entry in entries if entry in keys and entry not in prefixes]


@given(_keys, st.sampled_from(["", "/"]), st.integers(1, 5), st.sampled_from([1, 2]))
def test_paging_gives_every_entry_once_and_in_order(
    keys: set[str], delimiter: str, size: int, version: int
) -> None:
    seen: list[str] = []
    parameters = {"max-keys": str(size), "delimiter": delimiter, "list-type": str(version)}
    while True:
        query = ListQuery.parse(parameters)
        found, prefixes, root = listed(render(query, list_page(DictArchive(keys), query)))
        page = sorted(found + prefixes, key=str.encode)
        assert len(page) <= size
        seen += page
        if root.findtext(f"{_S3}IsTruncated") == "false":
            break
        if version == 2:
            parameters["continuation-token"] = root.findtext(f"{_S3}NextContinuationToken") or ""
            assert root.findtext(f"{_S3}KeyCount") == str(len(page))
        else:
            marker = root.findtext(f"{_S3}NextMarker")
            # S3 sends it only with a delimiter; without one the last key is the marker.
            assert (marker is None) == (delimiter == "")
            parameters["marker"] = marker or found[-1]
    assert seen == brute_force(keys, "", delimiter, "")


@given(_keys, st.text("ab/.", max_size=3))
def test_a_walk_is_the_sorted_keys_after_a_mark(keys: set[str], after: str) -> None:
    assert list(walk(DictArchive(keys), "", after)) == brute_force(keys, "", "", after)


def test_a_page_has_at_most_a_thousand_entries_whatever_is_asked() -> None:
    archive = DictArchive({f"data/{number:05d}" for number in range(2500)})
    query = ListQuery.parse({"max-keys": "5000"})
    page = list_page(archive, query)
    assert (len(page.contents), page.truncated, query.keys_max) == (1000, True, 1000)


def test_no_keys_asked_for_is_an_empty_page_that_ends() -> None:
    query = ListQuery.parse({"max-keys": "0"})
    page = list_page(DictArchive({"a", "b"}), query)
    assert (page.contents, page.truncated) == ([], False)


def test_signs_of_xml_and_url_are_escaped() -> None:
    keys = {"data/a&b<c>/币 x.zip"}
    plain = ListQuery.parse({"prefix": "data/a&"})
    assert listed(render(plain, list_page(DictArchive(keys), plain)))[0] == sorted(keys)
    encoded = ListQuery.parse({"prefix": "data/a&", "encoding-type": "url"})
    found, _, root = listed(render(encoded, list_page(DictArchive(keys), encoded)))
    assert found == ["data/a%26b%3Cc%3E/%E5%B8%81%20x.zip"]
    assert {unquote(key) for key in found} == keys
    assert root.findtext(f"{_S3}EncodingType") == "url"


@pytest.mark.parametrize(
    "query",
    [
        {"max-keys": "many"},
        {"max-keys": "-1"},
        {"max-keys": "²"},
        {"encoding-type": "base64"},
        {"list-type": "2", "continuation-token": "!"},
    ],
)
def test_parameters_that_s3_refuses_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(BadQueryError):
        ListQuery.parse(query)


def test_the_error_body_has_the_elements_of_a_recorded_one() -> None:
    root = ElementTree.fromstring(no_such_key_xml("data/a&b.zip"))
    assert [child.tag for child in root] == ["Code", "Message", "Key", "RequestId", "HostId"]
    assert root.findtext("Key") == "data/a&b.zip"
