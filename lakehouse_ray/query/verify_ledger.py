"""Do the rows of silver come from the objects that the ledger says they come from?"""

from __future__ import annotations

from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.lake import OBJECT_LOG
from lakehouse_ray.query.scan import quoted, text
from lakehouse_ray.query.verification import Workbench

# One row per object: its last event, its last version that was built, and the period of its file.
_LEDGER = """
CREATE TABLE ledger AS
SELECT key, any_value(market) AS market, any_value(dataset) AS dataset,
       any_value(symbol) AS symbol, any_value("interval") AS "interval", any_value(freq) AS freq,
       any_value(period_start) AS period_start,
       any_value(CASE freq WHEN 'daily' THEN period_start + INTERVAL 1 DAY
                           ELSE period_start + INTERVAL 1 MONTH END) AS period_end,
       arg_max(state, seen_at) AS state,
       arg_max(version, seen_at) FILTER (state = 'built') AS built
FROM bronze.object_log GROUP BY key
"""

# What is known of the version that is in silver: sightings do not repeat its counts.
_BUILT = """
CREATE TABLE built AS
SELECT l.*, arg_max(o.rows, o.seen_at) AS rows,
       arg_max(o.rows_quarantined, o.seen_at) AS rows_quarantined
FROM ledger l JOIN bronze.object_log o ON o.key = l.key AND o.version = l.built
WHERE o.state = 'built' AND l.freq IN ('daily', 'monthly') GROUP BY ALL
"""


def verify_ledger(bench: Workbench) -> None:
    """Compare the sources of silver's rows with the ledger, and the ledger with quarantine."""
    bench.say("ledger")
    bench.db.execute(_LEDGER)
    bench.db.execute(_BUILT)
    bench.result.objects = bench.count("FROM ledger")
    bench.db.execute(
        "CREATE TABLE sources (dataset VARCHAR, source_key VARCHAR, source_version VARCHAR, "
        "n BIGINT)"
    )
    for dataset in DATASETS.values():
        for table in dataset.tables:
            bench.db.execute(
                f"INSERT INTO sources SELECT {text(dataset.name)}, source_key, source_version, "
                f"count(*) FROM {table.name} WHERE source IN ('daily', 'monthly') GROUP BY ALL"
            )
    _verify_sources(bench)
    bench.say("rows of each object")
    for dataset in DATASETS.values():
        _verify_complete(bench, dataset)
    _verify_quarantine(bench)


def _verify_sources(bench: Workbench) -> None:
    wait = "a run in progress looks like this: verify again when it has ended; else "
    bench.report(
        "source_unknown",
        "SELECT s.source_key || ' ' || s.source_version AS example FROM sources s "
        "ANTI JOIN bronze.object_log o "
        "ON o.key = s.source_key AND o.version = s.source_version AND o.state = 'built'",
        f"objects have rows in silver, but {OBJECT_LOG.name} does not say that they were built",
        wait + "ingest their data set again, which completes the ledger of a run that was killed",
    )
    bench.report(
        "source_outdated",
        "SELECT s.source_key || ' ' || s.source_version AS example FROM sources s "
        "JOIN ledger l ON l.key = s.source_key "
        "JOIN (SELECT DISTINCT key, version FROM bronze.object_log WHERE state = 'built') o "
        "ON o.key = s.source_key AND o.version = s.source_version "
        "WHERE s.source_version <> l.built",
        "rows of silver come from a version that was replaced",
        wait + "move the table's folder and its ledger away and ingest again",
    )
    bench.report(
        "source_rows",
        "SELECT b.key || ': ' || s.n || ' rows of ' || b.rows AS example FROM built b "
        "JOIN sources s ON s.source_key = b.key AND s.source_version = b.built "
        "WHERE s.n > b.rows",
        "objects have more rows in silver than were read from them",
        "see duplicate_key; else move the table's folder and its ledger away and ingest again",
    )


def _verify_complete(bench: Workbench, dataset: Dataset) -> None:
    """Every row that was read from an object is in silver, or another source's row has its place.

    Either way the object's symbol has at least as many rows in the object's period.
    """
    table = dataset.tables[0]
    time = quoted(table.time)
    interval = quoted("interval") if dataset.bars else "NULL"
    union = " UNION ALL ".join(
        f"SELECT symbol, market, {interval} AS iv, {time} AS t FROM {one.name}"
        for one in dataset.tables
    )
    bench.db.execute(
        "CREATE OR REPLACE TABLE short AS SELECT b.* FROM built b LEFT JOIN sources s "
        "ON s.source_key = b.key AND s.source_version = b.built "
        f"WHERE b.dataset = {text(dataset.name)} AND b.rows > coalesce(s.n, 0)"
    )
    if not bench.count("FROM short"):
        return
    slack = f"to_microseconds({dataset.slack_us})"
    bench.report(
        "rows_lost",
        "SELECT s.key || ': ' || count(r.t) || ' rows of ' || any_value(s.rows) AS example "
        f"FROM short s LEFT JOIN ({union}) r ON r.symbol = s.symbol AND r.market = s.market "
        'AND r.iv IS NOT DISTINCT FROM s."interval" '
        f"AND r.t >= s.period_start AND r.t < s.period_end + {slack} "
        "GROUP BY s.key HAVING count(r.t) < any_value(s.rows)",
        f"objects of {dataset.name} were built, but silver has fewer rows in their period",
        "where a file is lost or damaged, `lakehouse repair --deep`; where another engine removed rows, move "
        "the table's folder and its ledger away and ingest again",
    )


def _verify_quarantine(bench: Workbench) -> None:
    bench.report(
        "quarantine_unsaid",
        "SELECT l.key AS example FROM ledger l "
        "ANTI JOIN silver.quarantine_log q ON q.source_key = l.key WHERE l.state = 'quarantined'",
        "the ledger says objects were refused, silver.quarantine does not say why",
        "delete nothing: `bronze.objects` has their reason; the next ingestion tries them again",
    )
    bench.report(
        "quarantine_rows_unsaid",
        "SELECT b.key AS example FROM built b ANTI JOIN silver.quarantine_log q "
        "ON q.source_key = b.key AND q.source_version = b.built WHERE b.rows_quarantined > 0",
        "the ledger says rows of objects were refused, silver.quarantine does not have them",
        "the objects are in bronze: their lines can be read there",
    )
    bench.report(
        "quarantined_in_silver",
        "SELECT DISTINCT s.source_key || ' ' || s.source_version AS example FROM sources s "
        "JOIN bronze.object_log o ON o.key = s.source_key AND o.version = s.source_version "
        "WHERE o.state = 'quarantined' AND NOT EXISTS (SELECT 1 FROM bronze.object_log b WHERE "
        "b.key = o.key AND b.version = o.version AND b.state = 'built')",
        "rows of silver come from versions that were refused as a whole",
        "move the table's folder and its ledger away and ingest again",
    )
