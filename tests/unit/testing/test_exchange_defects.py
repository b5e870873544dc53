"""Each defect does what its name says and nothing else; zips are read with Python's own zipfile."""

from __future__ import annotations

import csv
import hashlib
import io
import random
import zipfile
import zlib
from collections import Counter
from datetime import date
from decimal import Decimal

import pytest

from lakehouse_ray.testing.exchange import Blob, Faults, Head, Rule, SyntheticArchive
from lakehouse_ray.testing.exchange.defects import CONTENT, Table
from lakehouse_ray.testing.exchange.faulty import FaultyArchive
from lakehouse_ray.testing.exchange.keys import ArchiveKey
from lakehouse_ray.testing.exchange.zip_defects import ZIP

SPOT = "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-02.zip"
UM = "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-02.zip"
TRADES = "data/futures/um/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-01-02.zip"
METRICS = "data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2025-01-02.zip"


class FakeClock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.us = 1_800_000_000_000_000

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.us / 1e6

    def sleep(self, seconds: float) -> None:
        self.us += int(seconds * 1e6)


@pytest.fixture(scope="module")
def market() -> SyntheticArchive:
    return SyntheticArchive(
        symbols=["BTCUSDT"], markets=["spot", "um"], start=date(2025, 1, 1), end=date(2025, 1, 4)
    )


def blob_of(archive: FaultyArchive | SyntheticArchive, key: str) -> Blob:
    blob = archive.read(key)
    assert blob is not None
    return blob


def lines(body: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return archive.read(archive.namelist()[0]).decode().splitlines()


def cells(body: bytes) -> list[list[str]]:
    return list(csv.reader(lines(body)))


def faulty(
    market: SyntheticArchive, key: str, fault: str, **params: str | int | float
) -> FaultyArchive:
    return FaultyArchive(market, Faults((Rule(key, fault, params=params),), 1), FakeClock())


def both(
    market: SyntheticArchive, key: str, fault: str, **params: str | int | float
) -> tuple[list[list[str]], list[list[str]]]:
    return cells(blob_of(market, key).body), cells(
        blob_of(faulty(market, key, fault, **params), key).body
    )


def checksum_holds(archive: FaultyArchive, key: str) -> bool:
    published = blob_of(archive, f"{key}.CHECKSUM").body.decode().split()
    assert published[1] == key.rpartition("/")[2]
    return published[0] == hashlib.sha256(blob_of(archive, key).body).hexdigest()


@pytest.mark.parametrize("key", [SPOT, UM, TRADES, METRICS])
@pytest.mark.parametrize("fault", [*CONTENT, *(name for name in ZIP if name != "zip_bomb")])
def test_all_that_is_said_of_a_defective_object_agrees(
    market: SyntheticArchive, key: str, fault: str
) -> None:
    archive = faulty(market, key, fault)
    blob = blob_of(archive, key)
    assert archive.head(key) == blob.head
    assert blob.head.size_bytes == len(blob.body)
    assert blob.head.etag == hashlib.md5(blob.body).hexdigest()
    assert checksum_holds(archive, key) == (fault not in ("truncated_zip", "corrupt_zip"))
    assert blob.body == blob_of(faulty(market, key, fault), key).body


@pytest.mark.parametrize("fault", ["truncated_zip", "corrupt_zip", "glued_line"])
def test_the_checksum_can_be_that_of_the_good_or_of_the_bad_bytes(
    market: SyntheticArchive, fault: str
) -> None:
    assert checksum_holds(faulty(market, SPOT, fault, checksum="fresh"), SPOT)
    assert not checksum_holds(faulty(market, SPOT, fault, checksum="stale"), SPOT)


def test_a_glued_line_is_two_rows_in_one(market: SyntheticArchive) -> None:
    good, bad = both(market, SPOT, "glued_line", rows=2)
    assert len(bad) == len(good) - 2
    assert Counter(map(len, bad)) == {12: 1436, 23: 2}


def test_an_untyped_cell_is_text_where_a_number_belongs(market: SyntheticArchive) -> None:
    _, bad = both(market, TRADES, "untyped_cell", text="n/a")
    assert sum(row[2] == "n/a" for row in bad) == 1


def test_blank_cells_are_quoted_nothing(market: SyntheticArchive) -> None:
    archive = faulty(market, METRICS, "blank_cells")
    assert sum(',"",' in line for line in lines(blob_of(archive, METRICS).body)) == 3


def test_duplicate_rows_are_equal_and_a_conflicting_key_is_not(market: SyntheticArchive) -> None:
    good, bad = both(market, SPOT, "duplicate_rows")
    twice = [row for row, count in Counter(map(tuple, bad)).items() if count == 2]
    assert (len(twice), len(bad)) == (3, len(good) + 3)
    good, bad = both(market, SPOT, "conflicting_key")
    assert len(set(map(tuple, bad))) == len(good) + 1
    assert sum(count == 2 for count in Counter(row[0] for row in bad).values()) == 1


def test_all_rows_can_be_doubled(market: SyntheticArchive) -> None:
    _, bad = both(market, SPOT, "duplicate_rows", rows=0)
    assert set(Counter(map(tuple, bad)).values()) == {2}


@pytest.mark.parametrize(("key", "unit"), [(SPOT, 1_000_000), (UM, 1000)])
def test_a_row_outside_the_period_lies_a_day_or_more_behind_it(
    market: SyntheticArchive, key: str, unit: int
) -> None:
    good, bad = both(market, key, "row_outside_period")
    assert bad[:-1] == good
    day = 86_400 * unit
    assert int(bad[-1][0]) // day == int(good[-1][0]) // day + 2
    assert (int(bad[-1][6]) + 1 - int(bad[-1][0])) == 60 * unit


def test_a_late_metric_lies_behind_the_slack_of_midnight(market: SyntheticArchive) -> None:
    _, bad = both(market, METRICS, "row_outside_period")
    assert bad[-1][0] > "2025-01-03 00:00:00"


def test_unordered_rows_are_the_same_rows(market: SyntheticArchive) -> None:
    good, bad = both(market, TRADES, "unordered_rows")
    assert bad != good
    assert sorted(bad) == sorted(good)


def test_missing_rows_end_the_day_early_or_leave_a_hole(market: SyntheticArchive) -> None:
    good, bad = both(market, SPOT, "missing_rows")
    assert bad == good[:456]
    good, bad = both(market, SPOT, "missing_rows", **{"from": 0.25, "to": 0.5})
    assert bad == good[:360] + good[720:]


def test_headers_come_and_go(market: SyntheticArchive) -> None:
    good, bad = both(market, UM, "header_missing")
    assert bad == good[1:]
    spot, with_header = both(market, SPOT, "header_present")
    assert with_header == [good[0], *spot]


def test_columns_are_added_and_renamed(market: SyntheticArchive) -> None:
    good, bad = both(market, UM, "unknown_column")
    assert bad == [[*good[0], "mystery"], *([*row, "0"] for row in good[1:])]
    good, bad = both(market, UM, "renamed_column", name="vol")
    assert [name if name != "vol" else "volume" for name in bad[0]] == good[0]
    assert bad[1:] == good[1:]


def test_the_other_unit_of_time_keeps_the_moment(market: SyntheticArchive) -> None:
    good, bad = both(market, SPOT, "other_time_unit")
    assert [int(row[0]) for row in bad] == [int(row[0]) // 1000 for row in good]
    assert all(int(row[6]) - int(row[0]) == 59_999 for row in bad)
    good, bad = both(market, UM, "other_time_unit")
    assert [int(row[0]) for row in bad[1:]] == [int(row[0]) * 1000 for row in good[1:]]
    assert all(int(row[6]) - int(row[0]) == 59_999_999 for row in bad[1:])


def test_scientific_notation_keeps_the_value(market: SyntheticArchive) -> None:
    good, bad = both(market, UM, "scientific_notation")
    assert all("E" in row[5] for row in bad[1:])
    assert [Decimal(row[5]) for row in bad[1:]] == [Decimal(row[5]) for row in good[1:]]


def test_a_bar_cut_by_an_outage_is_empty_and_short_and_the_next_is_absent(
    market: SyntheticArchive,
) -> None:
    good, bad = both(market, SPOT, "early_close")
    assert len(bad) == len(good) - 1
    cut = [row for row in bad if int(row[6]) - int(row[0]) < 59_999_999]
    assert len(cut) == 1
    opened = {row[0] for row in bad}
    assert str(int(cut[0][0]) + 60_000_000) not in opened
    assert (float(cut[0][5]), cut[0][8], len(set(cut[0][1:5]))) == (0.0, "0", 1)


def test_bars_off_the_grid_end_with_a_short_one(market: SyntheticArchive) -> None:
    good, bad = both(market, SPOT, "off_grid")
    off = [row for row in bad if int(row[0]) % 60_000_000]
    assert (len(off), len(bad)) == (43, len(good))
    assert int(off[-1][6]) - int(off[-1][0]) < 59_999_999
    assert (int(off[-1][6]) + 1) % 60_000_000 == 0


def test_stale_values_differ_in_a_few_plausible_numbers(market: SyntheticArchive) -> None:
    good, bad = both(market, SPOT, "stale_values")
    changed = [(g, b) for g, b in zip(good, bad, strict=True) if g != b]
    assert len(changed) == 3
    for was, now in changed:
        assert Decimal(now[5]) - Decimal(was[5]) == Decimal("0.00000001")
        assert now[:5] + now[6:] == was[:5] + was[6:]


def test_klines_defects_leave_other_data_sets_alone(market: SyntheticArchive) -> None:
    for fault in ("early_close", "off_grid"):
        good, bad = both(market, TRADES, fault)
        assert bad == good


def test_a_truncated_or_empty_zip_is_no_zip_with_rows(market: SyntheticArchive) -> None:
    with pytest.raises(zipfile.BadZipFile):
        lines(blob_of(faulty(market, SPOT, "truncated_zip"), SPOT).body)
    with zipfile.ZipFile(
        io.BytesIO(blob_of(faulty(market, SPOT, "empty_zip"), SPOT).body)
    ) as empty:
        assert empty.namelist() == []


def test_a_corrupt_zip_opens_but_does_not_inflate(market: SyntheticArchive) -> None:
    body = blob_of(faulty(market, SPOT, "corrupt_zip"), SPOT).body
    good = blob_of(market, SPOT).body
    assert sum((a ^ b).bit_count() for a, b in zip(body, good, strict=True)) == 1
    with pytest.raises((zipfile.BadZipFile, zlib.error)):
        lines(body)


def test_members_are_added_and_renamed(market: SyntheticArchive) -> None:
    name = "BTCUSDT-1m-2025-01-02.csv"
    expected = {
        "extra_member": [name, "extra.csv"],
        "macosx_member": [name, f"__MACOSX/._{name}"],
        "wrong_member_name": [f"copy-of-{name}"],
    }
    for fault, names in expected.items():
        body = blob_of(faulty(market, SPOT, fault), SPOT).body
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            assert archive.namelist() == names
            assert archive.testzip() is None
        assert lines(body) == lines(blob_of(market, SPOT).body)


@pytest.mark.parametrize("claims", ["honest", "small"])
def test_a_zip_bomb_is_small_and_inflates_far_beyond(market: SyntheticArchive, claims: str) -> None:
    size = 64 * 2**20
    archive = faulty(market, SPOT, "zip_bomb", inflated_bytes=size, claims=claims)
    body = blob_of(archive, SPOT).body
    assert len(body) < size // 50
    with zipfile.ZipFile(io.BytesIO(body)) as opened:
        info = opened.infolist()[0]
        if claims == "small":
            assert info.file_size < 2**20
            # The whole truth is told by inflating alone.
            info.file_size = size
            assert len(opened.open(info).read(2**20)) == 2**20
        else:
            assert opened.testzip() is None
            assert size - 2**21 < info.file_size <= size


def test_a_wrong_checksum_leaves_the_zip_and_a_missing_one_vanishes(
    market: SyntheticArchive,
) -> None:
    wrong = faulty(market, SPOT, "wrong_checksum")
    assert blob_of(wrong, SPOT) == blob_of(market, SPOT)
    assert not checksum_holds(wrong, SPOT)
    missing = faulty(market, SPOT, "missing_checksum")
    folder, _, name = SPOT.rpartition("/")
    assert missing.read(f"{SPOT}.CHECKSUM") is None
    assert missing.head(f"{SPOT}.CHECKSUM") is None
    assert f"{name}.CHECKSUM" not in missing.children(f"{folder}/")
    assert name in missing.children(f"{folder}/")


def test_a_defect_with_times_heals_after_that_many_deliveries(market: SyntheticArchive) -> None:
    rules = Faults((Rule(SPOT, "corrupt_zip", times=2),))
    archive = FaultyArchive(market, rules, FakeClock())
    good = blob_of(market, SPOT)
    states = []
    for _ in range(3):
        states.append(blob_of(archive, SPOT) == good)
        archive.delivered(SPOT)
    assert states == [False, False, True]
    assert archive.head(SPOT) == good.head


def test_a_republished_object_is_new_in_every_respect(market: SyntheticArchive) -> None:
    clock = FakeClock()
    rules = Faults((Rule(SPOT, "republished", params={"first": "missing_rows", "then": ""}),))
    archive = FaultyArchive(market, rules, clock)
    first = blob_of(archive, SPOT)
    version = archive.version(SPOT), archive.version(f"{SPOT}.CHECKSUM")
    assert len(lines(first.body)) == 456
    assert checksum_holds(archive, SPOT)
    archive.delivered(f"{SPOT}.CHECKSUM")
    assert blob_of(archive, SPOT) == first
    archive.delivered(SPOT)
    second = blob_of(archive, SPOT)
    assert second.body == blob_of(market, SPOT).body
    assert second.head.modified_s == clock.us // 1_000_000 > first.head.modified_s
    assert archive.head(SPOT) == second.head
    assert checksum_holds(archive, SPOT)
    assert version[0] != archive.version(SPOT)
    assert version[1] != archive.version(f"{SPOT}.CHECKSUM")


def test_an_object_can_be_republished_at_will_again_and_again(market: SyntheticArchive) -> None:
    archive = FaultyArchive(market, Faults(), FakeClock())
    etags, moments = set(), []
    for _ in range(3):
        blob = blob_of(archive, SPOT)
        etags.add(blob.head.etag)
        moments.append(blob.head.modified_s)
        assert checksum_holds(archive, SPOT)
        archive.republish("*-1m-2025-01-02.zip", "stale_values")
    assert len(etags) == 3
    assert moments == sorted(set(moments))
    other = SPOT.replace("01-02", "01-01")
    assert blob_of(archive, other) == blob_of(market, other)


def test_chance_hits_the_share_of_objects_it_is_told() -> None:
    rules = Faults((Rule("*.zip", "wrong_checksum", probability=0.3),), seed=5)
    hit = sum(rules.draw(0, f"{number}.zip").random() < 0.3 for number in range(2000))
    assert 500 < hit < 700


def test_what_is_no_zip_is_left_as_it_is() -> None:
    class Page:
        def children(self, folder: str) -> list[str]:
            return []

        def inhabited(self, folder: str) -> bool:
            return False

        def version(self, key: str) -> str:
            return ""

        def head(self, key: str) -> Head:
            return Head(5, "", 0)

        def read(self, key: str) -> Blob:
            return Blob(self.head(key), b"<xml>")

    archive = FaultyArchive(Page(), Faults((Rule("*", "glued_line"),)), FakeClock())
    assert blob_of(archive, SPOT).body == b"<xml>"


@pytest.mark.parametrize("fault", sorted(CONTENT))
def test_a_table_without_rows_stays_without(fault: str) -> None:
    key = ArchiveKey.parse(SPOT)
    assert key is not None
    defect = CONTENT[fault]
    table = defect.apply(Table.parse(key, b""), defect.defaults, random.Random(1))
    assert table.rows == []
