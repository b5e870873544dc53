"""Everything the exchange can do wrong, and what becomes of it: object by object, row by row."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import polars as pl
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.timespan import day_range
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.settings import Settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.testing.exchange import FAULTS, Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

FOLDER = "data/spot/daily/klines/BTCUSDT/1m"
BAD_DAY, GOOD_DAY = date(2024, 5, 1), date(2024, 5, 2)
ZIP = f"{FOLDER}/BTCUSDT-1m-{BAD_DAY}.zip"
ARCHIVE = SyntheticArchive(
    1, symbols=["BTCUSDT"], markets=["spot"], start=BAD_DAY, end=date(2024, 5, 3)
)
Line = tuple[int, str, str]


@dataclass
class Lake:
    exchange: ReplicaExchange
    writer: Writer
    reports: list[IngestReport] = field(default_factory=list)

    def ingest(self) -> IngestReport:
        request = IngestRequest(Selection(DATASETS["klines"], "spot", "1m"), "daily")
        self.reports.append(ingest(self.writer, request))
        return self.reports[-1]

    @property
    def catalog(self) -> SqlCatalog:
        return SqlCatalog("lakehouse", uri=self.writer.settings.catalog_uri)

    def frame(self, table: str) -> pl.DataFrame:
        found = self.catalog.load_table(table)
        if found.current_snapshot() is None:
            return pl.DataFrame({name: [] for name in found.schema().column_names})
        return pl.scan_iceberg(found.metadata_location, reader_override="pyiceberg").collect()

    def snapshots(self) -> dict[tuple[str, ...], int | None]:
        tables = [t for s in self.catalog.list_namespaces() for t in self.catalog.list_tables(s)]
        assert tables
        return {t: self.catalog.load_table(t).metadata.current_snapshot_id for t in tables}

    def rows(self) -> dict[int, tuple[float, ...]]:
        frame = self.frame("silver.klines_fine")
        if frame.is_empty():
            return {}
        values = ("open", "high", "low", "close", "volume", "quote_volume", "trades")
        keys = frame["open_time"].dt.epoch("us").to_list()
        assert len(set(keys)) == len(keys)
        return dict(zip(keys, frame.select(values).rows(), strict=True))

    def refused_lines(self) -> list[Line]:
        frame = self.frame("silver.quarantine_log").filter(pl.col("line").is_not_null())
        return sorted(frame.select("line", "reason", "raw").rows())


@pytest.fixture
def make_lake(tmp_path: Path) -> Iterator[Any]:
    exchanges: list[ReplicaExchange] = []

    def make(*rules: Rule, archive: Any = ARCHIVE, **ingest_settings: Any) -> Lake:
        exchange = ReplicaExchange(archive, Faults(rules)).start()
        exchanges.append(exchange)
        quick = {"retry_attempts_max": 3, "retry_budget_s": 10.0, "request_timeout_s": 5.0}
        settings = Settings(
            home=tmp_path / "home",
            binance={"archive_url": exchange.url},
            compute={"local_bytes_max": 1 << 40},
            ingest=quick,
        )
        # Below the least that a user may set, so that small files take the path of large ones.
        small = settings.ingest.model_copy(update=ingest_settings)
        return Lake(exchange, Writer(settings.model_copy(update={"ingest": small})))

    yield make
    for exchange in exchanges:
        exchange.stop()


def good_cells(cells: list[str]) -> bool:
    try:
        numbers = [int(cells[0]), int(cells[6]), int(cells[8])]
        numbers += [float(cells[i]) for i in (1, 2, 3, 4, 5, 7, 9, 10)]  # type: ignore[misc]
    except ValueError:
        return False
    return True


def micro(text: str) -> int:
    return int(text) if int(text) > 10**14 else int(text) * 1000


def truth(exchange: ReplicaExchange, day: date) -> tuple[dict[int, tuple[float, ...]], list[Line]]:
    """What Python's csv says of the file that is served: its good rows, and its bad lines."""
    with urlopen(f"{exchange.url}/{FOLDER}/BTCUSDT-1m-{day}.zip") as answer:
        data = answer.read()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        text = archive.read(f"BTCUSDT-1m-{day}.csv").decode()
    period = day_range(day)
    good: dict[int, dict[tuple[float, ...], list[tuple[int, str]]]] = {}
    bad: list[Line] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        (cells,) = csv.reader([raw])
        if cells[0][:1].isalpha():
            continue
        if len(cells) != 12:
            bad.append((number, "WRONG_CELL_COUNT", raw))
        elif not good_cells(cells):
            bad.append((number, "UNTYPED_CELL", raw))
        elif not period.start_us <= micro(cells[0]) < period.end_us:
            bad.append((number, "OUTSIDE_PERIOD", raw))
        else:
            values = tuple(float(cells[i]) for i in (1, 2, 3, 4, 5, 7, 8))
            good.setdefault(micro(cells[0]), {}).setdefault(values, []).append((number, raw))
    rows = {}
    for time, found in good.items():
        if len(found) == 1:
            (rows[time],) = found
        else:
            lines = [line for same in found.values() for line in same]
            bad += [(number, "CONFLICTING_KEY", raw) for number, raw in lines]
    return rows, sorted(bad)


ROWS_ALONE = {
    "glued_line": "WRONG_CELL_COUNT",
    "untyped_cell": "UNTYPED_CELL",
    "blank_cells": "UNTYPED_CELL",
    "conflicting_key": "CONFLICTING_KEY",
    "row_outside_period": "OUTSIDE_PERIOD",
}
HARMLESS = [
    "duplicate_rows", "unordered_rows", "missing_rows", "header_missing", "header_present",
    "other_time_unit", "scientific_notation", "early_close", "off_grid", "stale_values",
    "macosx_member",
]  # fmt: skip
REFUSED = [
    ("missing_checksum", {}, "CHECKSUM_MISSING"),
    ("wrong_checksum", {}, "CHECKSUM_MISMATCH"),
    ("truncated_zip", {}, "CHECKSUM_MISMATCH"),
    ("truncated_zip", {"checksum": "fresh"}, "ZIP_CORRUPT"),
    ("corrupt_zip", {}, "CHECKSUM_MISMATCH"),
    ("corrupt_zip", {"checksum": "fresh", "flips": 20}, "ZIP_CORRUPT"),
    ("empty_zip", {}, "ZIP_MEMBERS"),
    ("extra_member", {}, "ZIP_MEMBERS"),
    ("wrong_member_name", {}, "ZIP_MEMBER_NAME"),
    ("unknown_column", {}, "UNKNOWN_COLUMNS"),
    ("renamed_column", {}, "UNKNOWN_COLUMNS"),
    ("s3_error", {}, "NOT_A_ZIP"),
    ("html_page", {}, "NOT_A_ZIP"),
    ("zip_bomb", {"inflated_bytes": 64 << 20}, "ZIP_BOMB"),
    ("zip_bomb", {"inflated_bytes": 64 << 20, "claims": "small"}, "ZIP_CORRUPT"),
]
UNFETCHED = [("not_found", "NOT_THERE"), ("denied", "UNAVAILABLE"), ("server_error", "UNAVAILABLE"),
             ("reset", "UNAVAILABLE"), ("short_body", "UNAVAILABLE")]  # fmt: skip
PASSING = [
    ("server_error", {}, 2),
    ("throttled", {"retry_after_s": 1}, 1),
    ("reset", {}, 2),
    ("short_body", {}, 2),
    ("not_found", {}, 1),
    ("s3_error", {}, 1),
    ("html_page", {}, 1),
    ("slow", {"first_byte_s": 0.1}, None),
]


def test_every_fault_of_the_exchange_is_tried_here() -> None:
    tried = {*ROWS_ALONE, *HARMLESS, *(name for name, *_ in [*REFUSED, *UNFETCHED, *PASSING])}
    of_files = ("answer", "zip", "content", "checksum")
    assert tried | {"republished"} == {
        name for name, kind in FAULTS.items() if kind.stage in of_files
    }


@pytest.mark.parametrize(
    ("fault", "in_memory"),
    [
        pytest.param(
            fault, in_memory, id=f"{fault}-in {'memory' if in_memory else 'pieces'}",
            # In pieces: what is refused, and what goes over their ends.
            marks=[]
            if in_memory or fault in (*ROWS_ALONE, "duplicate_rows", "unordered_rows")
            else pytest.mark.slow,
        )
        for in_memory in (True, False)
        for fault in (*ROWS_ALONE, *HARMLESS)
    ],
)  # fmt: skip
def test_bad_rows_are_refused_alone_and_all_others_are_in_silver(
    fault: str, in_memory: bool, make_lake: Any
) -> None:
    more = {} if in_memory else {"large_object_bytes": 0}
    lake = make_lake(Rule(ZIP, fault), **more)
    report = lake.ingest()
    rows, bad = truth(lake.exchange, BAD_DAY)
    others, _ = truth(lake.exchange, GOOD_DAY)
    assert lake.rows() == rows | others
    assert lake.refused_lines() == bad
    assert {reason for _, reason, _ in bad} == (
        {ROWS_ALONE[fault]} if fault in ROWS_ALONE else set()
    )
    assert (report.rows, report.rows_quarantined) == (len(rows) + len(others), len(bad))
    assert (report.files, report.quarantined, report.failed) == (2, 0, 0)
    assert report.partial == bool(bad)
    before = lake.snapshots()
    again = lake.ingest()
    assert (again.files, again.rows, again.skipped) == (0, 0, 2)
    assert lake.snapshots() == before


# After three runs where nothing else is set; how often is the same for all reasons.
THREE_RUNS = ("CHECKSUM_MISSING", "NOT_A_ZIP")


@pytest.mark.parametrize(("fault", "params", "reason"), REFUSED)
def test_an_unreadable_object_is_refused_whole_and_left_alone_after_some_runs(
    fault: str, params: dict[str, Any], reason: str, make_lake: Any
) -> None:
    runs, more = (3, {}) if reason in THREE_RUNS else (1, {"quarantine_attempts_max": 1})
    lake = make_lake(Rule(ZIP, fault, params=params), **more)
    others, _ = truth(lake.exchange, GOOD_DAY)
    for attempt in range(runs):
        report = lake.ingest()
        assert (report.quarantined, report.failed) == (1, 0)
        assert dict(report.reasons) == {reason: 1}
        assert report.partial
        assert report.rows == (len(others) if attempt == 0 else 0)
        assert lake.rows() == others
    log = lake.frame("bronze.object_log").filter(key=ZIP)
    assert log["state"].unique().to_list() == ["quarantined"]
    assert log["reason"].unique().to_list() == [reason]
    refused = lake.frame("silver.quarantine_log")
    assert refused.filter(pl.col("line").is_null())["source_key"].unique().to_list() == [ZIP]
    before, asked = lake.snapshots(), lake.exchange.requests().get(ZIP, 0)
    report = lake.ingest()
    assert (report.left_alone, report.quarantined, report.rows) == (1, 0, 0)
    assert lake.snapshots() == before
    assert lake.exchange.requests().get(ZIP, 0) == asked, "it is not fetched again"


def test_a_refused_object_is_fetched_again_once_it_changes(make_lake: Any) -> None:
    lake = make_lake(Rule(ZIP, "wrong_checksum"))
    for _ in range(4):
        lake.ingest()
    lake.exchange.set_faults(Faults())
    report = lake.ingest()
    assert (report.files, report.quarantined, report.left_alone) == (1, 0, 0)
    assert lake.rows() == truth(lake.exchange, BAD_DAY)[0] | truth(lake.exchange, GOOD_DAY)[0]


@pytest.mark.parametrize(("fault", "reason"), UNFETCHED)
def test_an_object_that_cannot_be_had_fails_and_is_tried_again_by_the_next_run(
    fault: str, reason: str, make_lake: Any
) -> None:
    lake = make_lake(Rule(ZIP, fault))
    report = lake.ingest()
    assert (report.files, report.failed, report.quarantined) == (1, 1, 0)
    assert dict(report.reasons) == {reason: 1}
    assert report.partial
    others, _ = truth(lake.exchange, GOOD_DAY)
    assert lake.rows() == others
    before = lake.snapshots()
    lake.ingest()
    assert lake.snapshots() == before, "a run that brings nothing changes nothing"
    lake.exchange.set_faults(Faults())
    assert lake.ingest().files == 1
    assert lake.rows() == truth(lake.exchange, BAD_DAY)[0] | others


@pytest.mark.parametrize(
    ("fault", "params", "times", "large"),
    [
        pytest.param(
            *one, large, id=f"{one[0]}-{'through disk' if large else 'in memory'}",
            # Through disk: what comes in part, and what is no zip.
            marks=pytest.mark.slow if large and one[0] not in ("short_body", "s3_error") else [],
        )
        for large in (False, True)
        for one in PASSING
    ],
)  # fmt: skip
def test_trouble_that_passes_leaves_no_trace(
    fault: str, params: dict[str, Any], times: int | None, large: bool, make_lake: Any
) -> None:
    more = {"large_object_bytes": 0} if large else {}
    lake = make_lake(Rule(ZIP, fault, times, params=params), **more)
    report = lake.ingest()
    assert (report.files, report.failed, report.quarantined) == (2, 0, 0)
    assert lake.rows() == truth(lake.exchange, BAD_DAY)[0] | truth(lake.exchange, GOOD_DAY)[0]
