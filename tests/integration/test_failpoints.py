"""A run ends exactly between two of its steps; the next one leaves what an undisturbed run does.

The steps of a commit: data files are written, silver is committed, then the quarantine log, then
the object log. In this process and without Ray, so that the point is met exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import pytest
from support.commands import MANY_BYTES
from support.failing import Crashed, FailingCommitter, FailingWriter, crash, lose_the_answer
from support.lakes import Contents, assert_same, read_lake

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.model.datasets.registry import find_dataset
from lakehouse_ray.model.lake import OBJECT_LOG, QUARANTINE
from lakehouse_ray.pipeline.bulk_ingestion import IngestRequest, ingest
from lakehouse_ray.pipeline.commits import TableCommitter
from lakehouse_ray.pipeline.report import IngestReport
from lakehouse_ray.settings import load_settings
from lakehouse_ray.sources.source import Selection
from lakehouse_ray.storage.committer import CommitRequest, Outcome
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

KLINES = find_dataset("klines")
REQUEST = IngestRequest(Selection(KLINES, "spot", "1m"))
SILVER = KLINES.table("1m").name
FAULTS = Faults(
    (
        Rule("*/BTCUSDT-1m-2025-01.zip", "corrupt_zip"),
        Rule("*/ETHUSDT-1m-2025-02-03.zip", "untyped_cell"),
    )
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    archive = SyntheticArchive(
        3, ["BTCUSDT", "ETHUSDT", "SOLUSDT"], ["spot"], date(2025, 1, 29), date(2025, 2, 5),
        trades_per_minute=1,
    )  # fmt: skip
    with ReplicaExchange(archive, FAULTS) as server:
        yield server.url


@pytest.fixture(scope="module")
def undisturbed(url: str, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    home = tmp_path_factory.mktemp("undisturbed")
    report = run(writer(url, home))
    assert (report.quarantined, report.rows_quarantined, report.failed) == (1, 1, 0)
    assert report.commits >= 6
    return read_lake(home)


def writer(url: str, home: Path, kind: type[Writer] = Writer) -> Writer:
    return kind(
        load_settings(
            {
                "home": home,
                "binance": {"archive_url": url},
                "compute": {"local_bytes_max": MANY_BYTES},
                "ingest": {
                    "unit_bytes_max": 1 << 16,
                    "units_per_commit": 1,
                    "quarantine_attempts_max": 1,
                },
            }
        ).resolved()
    )


def run(writer: Writer) -> IngestReport:
    return ingest(writer, REQUEST)


def failing(
    url: str, home: Path, table: str, number: int, **hooks: Callable[[], None]
) -> FailingWriter:
    made = writer(url, home, FailingWriter)
    assert isinstance(made, FailingWriter)
    around = {table: lambda inner: FailingCommitter(inner, number, **hooks)}
    object.__setattr__(made, "around", around)
    return made


def assert_settled(url: str, home: Path, wanted: Contents) -> None:
    """Hold a lake to another's contents, and a further run to doing nothing."""
    found = read_lake(home)
    assert_same(found, wanted)
    report = run(writer(url, home))
    assert (report.files, report.rows, report.commits) == (0, 0, 0)
    assert read_lake(home).snapshots == found.snapshots


POINTS = [
    (table, number, when)
    for table, numbers in (
        (SILVER, (1, 2, 5)),
        (QUARANTINE.name, (1, 2)),
        (OBJECT_LOG.name, (1, 4)),
    )
    for number in numbers
    for when in ("before", "after")
]
# Each step once, and each side of it where the other would not do as well.
FIRST = [
    (SILVER, 1, "before"), (SILVER, 2, "after"), (QUARANTINE.name, 1, "after"),
    (OBJECT_LOG.name, 1, "before"), (OBJECT_LOG.name, 4, "after"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "number", "when"),
    [point if point in FIRST else pytest.param(*point, marks=pytest.mark.slow) for point in POINTS],
)
def test_a_run_that_ends_around_a_commit_is_completed_by_the_next(
    url: str, undisturbed: Contents, tmp_path: Path, table: str, number: int, when: str
) -> None:
    with pytest.raises(Crashed):
        run(failing(url, tmp_path, table, number, **{when: crash}))
    assert read_lake(tmp_path).rows(OBJECT_LOG.name) < undisturbed.rows(OBJECT_LOG.name)
    run(writer(url, tmp_path))
    assert_settled(url, tmp_path, undisturbed)


@pytest.mark.parametrize("table", [SILVER, QUARANTINE.name, OBJECT_LOG.name])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    url: str, undisturbed: Contents, tmp_path: Path, table: str
) -> None:
    report = run(failing(url, tmp_path, table, 1, after=lose_the_answer))
    assert (report.failed, report.conflicts) == (0, 0)
    assert len(read_lake(tmp_path).snapshots[table]) == len(undisturbed.snapshots[table])
    assert_settled(url, tmp_path, undisturbed)


@pytest.mark.parametrize("number", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_that_another_overtakes_in_its_commit_merges_again(
    url: str, undisturbed: Contents, tmp_path: Path, number: int
) -> None:
    def overtake() -> None:
        run(writer(url, tmp_path))

    report = run(failing(url, tmp_path, SILVER, number, before=overtake))
    assert report.conflicts > 0
    assert report.failed == 0
    assert_settled(url, tmp_path, undisturbed)


def test_a_run_that_another_overtakes_before_it_looks_at_the_table_merges_once(
    url: str, undisturbed: Contents, tmp_path: Path
) -> None:
    """Its committer knows less of the table than its workers have seen."""

    def overtaken(inner: TableCommitter) -> TableCommitter:
        run(writer(url, tmp_path))
        return inner

    late = writer(url, tmp_path, FailingWriter)
    object.__setattr__(late, "around", {SILVER: overtaken})
    report = run(late)
    assert (report.failed, report.conflicts, report.rows) == (0, 0, 0)
    assert_settled(url, tmp_path, undisturbed)


def test_a_dead_runs_late_commit_is_merged_with_not_doubled(
    url: str, undisturbed: Contents, tmp_path: Path
) -> None:
    """The commit of a run that died is held back until the next run has planned and built."""
    held: list[Callable[[], None]] = []

    class Holding(FailingCommitter):
        def commit(self, requests: Sequence[CommitRequest]) -> list[Outcome]:
            held.append(lambda: self.inner.commit(requests) and None)
            raise Crashed

    dead = writer(url, tmp_path, FailingWriter)
    object.__setattr__(dead, "around", {SILVER: lambda inner: Holding(inner, 0)})
    with pytest.raises(Crashed):
        run(dead)
    report = run(failing(url, tmp_path, SILVER, 1, before=held[0]))
    assert report.conflicts == 1
    assert_settled(url, tmp_path, undisturbed)
    held[0]()  # and once more, when all is done
    assert_settled(url, tmp_path, undisturbed)


def test_a_commit_whose_answer_is_lost_counts_though_another_run_replaced_its_files(
    url: str, tmp_path: Path
) -> None:
    """Else they would come back, or be taken for losers and deleted, living ones among them."""
    requests: list[CommitRequest] = []
    table = KLINES.table("1m")

    class Watching(FailingCommitter):
        def commit(self, asked: Sequence[CommitRequest]) -> list[Outcome]:
            requests.extend(asked)
            return super().commit(asked)

    first = writer(url, tmp_path, FailingWriter)
    object.__setattr__(first, "around", {SILVER: lambda inner: Watching(inner, 0)})
    report = run(first)
    asked = next(request for request in requests if not request.empty)
    gone = asked.added[0].file_path

    other = writer(url, tmp_path).committer_factory(table, "another run")()
    assert other.commit([CommitRequest("compaction", (), (gone,))])[0].committed
    left = read_lake(tmp_path)

    again = writer(url, tmp_path).committer_factory(table, report.run_id)()
    assert again.commit([asked])[0].committed
    assert read_lake(tmp_path).snapshots == left.snapshots
    assert read_lake(tmp_path).rows(SILVER) == left.rows(SILVER)
