"""Do the files that tables and ledger speak of exist, and does anything speak of the others?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from lakehouse_ray.errors import LakehouseError
from lakehouse_ray.query.scan import plan_files, text
from lakehouse_ray.query.verification import EXAMPLES_MAX, Workbench
from lakehouse_ray.query.verify_advice import FETCH_AGAIN, by_remedy
from lakehouse_ray.storage.files import data_files
from lakehouse_ray.storage.paths import BRONZE, TABLES

_HASH_BYTES = 8 << 20


def verify_files(bench: Workbench) -> None:
    """Compare the stored files with those that the tables' snapshots speak of."""
    bench.say("files of the tables")
    bench.fill("stored", "path VARCHAR, size BIGINT", _stored(bench))
    bench.fill(
        "wanted", "name VARCHAR, path VARCHAR, size BIGINT, rows BIGINT, current BOOLEAN",
        _wanted(bench),
    )  # fmt: skip
    counts = bench.ask(
        "SELECT count(DISTINCT name) t, count(*) n, sum(rows)::BIGINT r FROM wanted WHERE current"
    )[0]
    bench.result.tables, bench.result.files = counts["t"], counts["n"]
    bench.result.rows = counts["r"] or 0
    _compare(bench)


def _stored(bench: Workbench) -> Iterator[tuple[str, int]]:
    yield from bench.store.walk(TABLES)
    yield from bench.store.walk(BRONZE)


def _wanted(bench: Workbench) -> Iterator[tuple[str, str, int, int, bool]]:
    """Every data file of every snapshot that is kept, once."""
    for pin in bench.pins.values():
        if pin.table is None:
            continue
        current = {file.file_path for file in plan_files(pin)}
        done: set[str] = set()
        for snapshot in pin.table.snapshots():
            for file in data_files(pin.table, snapshot.snapshot_id):
                path = file.file_path
                if path in done:
                    continue
                done.add(path)
                yield (
                    pin.shape.name, bench.relative(path), file.file_size_in_bytes,
                    file.record_count, path in current,
                )  # fmt: skip


def _compare(bench: Workbench) -> None:
    missing = "SELECT w.path AS example FROM wanted w ANTI JOIN stored s USING (path) WHERE "
    for remedy, names in by_remedy(bench.pins).items():
        among = f"w.current AND w.name IN ({', '.join(map(text, names))})"
        bench.report(
            "file_missing", missing + among, "data files of a table do not exist",
            f"restore the file from a backup; or {remedy}",
        )  # fmt: skip
    bench.report(
        "old_file_missing",
        missing + "NOT w.current",
        "data files of older snapshots do not exist: reads as of then fail",
        "restore them from a backup; what is current is not concerned",
    )
    differs = (
        "SELECT w.path AS example FROM wanted w JOIN stored s USING (path) WHERE w.size <> s.size"
    )
    for remedy, names in by_remedy(bench.pins).items():
        among = f"{differs} AND w.name IN ({', '.join(map(text, names))})"
        bench.report(
            "file_size", among, "data files have another size than the table says",
            f"restore the file from a backup; or {remedy}",
        )  # fmt: skip
    bad = f"{missing}w.current UNION ALL {differs} AND w.current"
    bench.broken |= {row["example"] for row in bench.ask(bad)}
    bench.report(
        "orphan_file",
        f"SELECT s.path AS example FROM stored s ANTI JOIN wanted w USING (path) "
        f"WHERE s.path LIKE '{TABLES}/%/data/%'",
        "files in the tables' folders belong to no snapshot",
        "nothing is wrong: a run that was killed leaves them, and a run in progress has some; "
        "they only take room, and `lakehouse maintain` removes them once they are old",
        note=True,
    )


def verify_objects(bench: Workbench) -> None:
    """Compare the stored raw objects with those that the ledger speaks of."""
    bench.say("files of bronze")
    bench.db.execute(
        "CREATE TABLE kept AS SELECT path, arg_max(key, seen_at) AS key, "
        "arg_max(size, seen_at) AS size, any_value(sha256) AS sha256 "
        "FROM bronze.object_log WHERE path IS NOT NULL GROUP BY path"
    )
    mend = (
        "its rows in silver stay right, but cannot be built anew: restore the file from a backup; "
        f"{FETCH_AGAIN}"
    )
    bench.report(
        "object_missing",
        "SELECT k.path AS example FROM kept k ANTI JOIN stored s USING (path)",
        "raw objects of the ledger do not exist in bronze",
        mend,
    )
    bench.report(
        "object_size",
        "SELECT k.path AS example FROM kept k JOIN stored s USING (path) WHERE k.size <> s.size",
        "raw objects have another size than the ledger says",
        mend,
    )
    bench.report(
        "orphan_object",
        f"SELECT s.path AS example FROM stored s ANTI JOIN kept k USING (path) "
        f"WHERE s.path LIKE '{BRONZE}/%'",
        "raw objects that the ledger does not know",
        "nothing is wrong: a run that was killed leaves them; the next run uses them or fetches anew",
        note=True,
    )
    if bench.deep:
        bench.say("sha256 of bronze")
        _verify_hashes(bench, mend)


def _verify_hashes(bench: Workbench, mend: str) -> None:
    differing: list[str] = []
    count = 0
    reader = bench.db.sql(
        "SELECT k.path, k.sha256 FROM kept k JOIN stored s USING (path) "
        "WHERE k.size = s.size AND k.sha256 IS NOT NULL ORDER BY k.path"
    ).to_arrow_reader(1000)
    for batch in reader:
        for row in batch.to_pylist():
            if _sha256(bench, row["path"]) != row["sha256"]:
                count += 1
                if len(differing) < EXAMPLES_MAX:
                    differing.append(row["path"])
    bench.result.add(
        "object_sha256", "raw objects have other bytes than the ledger says", mend, differing,
        count=count,
    )  # fmt: skip


def _sha256(bench: Workbench, path: str) -> str:
    digest = hashlib.sha256()
    try:
        with bench.store.filesystem.open_input_stream(
            bench.store.locate(path), compression=None
        ) as stream:
            while chunk := stream.read(_HASH_BYTES):
                digest.update(chunk)
    except (OSError, LakehouseError):
        return "unreadable"
    return digest.hexdigest()
