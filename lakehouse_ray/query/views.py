"""What can be asked in SQL: the names, and what stands behind each.

Every physical table has its own name (`silver.klines_fine`). A view (`silver.klines`) is what
people ask: the union of its physical tables, or a log read as its latest state.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lakehouse_ray.model.alerts import ALERT_DELIVERIES
from lakehouse_ray.model.assessment import (
    ALERTS,
    ANOMALY_LOG,
    ASSESSMENT_LOG,
    CROSS_CHECK_LOG,
    GAPS_LOG,
    QUALITY_LOG,
    SERIES,
)
from lakehouse_ray.model.crosschecks import CROSS_CHECKS
from lakehouse_ray.model.dataset import Dataset
from lakehouse_ray.model.datasets.klines import KLINES
from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.model.gaps import GAPS
from lakehouse_ray.model.gold import UNIONS
from lakehouse_ray.model.lake import BUILD_LOG, OBJECT_LOG, QUARANTINE
from lakehouse_ray.model.live import LIVE_COMPARISON_LOG, LIVE_DIFFERENCE_LOG
from lakehouse_ray.model.products.registry import PRODUCTS
from lakehouse_ray.model.quality import ANOMALIES, QUALITY
from lakehouse_ray.model.schedules import LEASE, RUN_LOG, SCHEDULE_ALERTS
from lakehouse_ray.model.streams import FILLED_BY_REST, GAP_KEY, STREAM_GAP_STATES, STREAM_GAPS
from lakehouse_ray.model.table import Table
from lakehouse_ray.query.instrument_views import instrument_views
from lakehouse_ray.query.rule_views import (
    RULES_DOC,
    VIOLATIONS_DOC,
    rules_sql,
    violations_sql,
)
from lakehouse_ray.query.run_views import RUNS, RUNS_DOC
from lakehouse_ray.query.scan import quoted, text

# A statement that asks what there is gets to see everything.
_ASKS_WHAT_THERE_IS = re.compile(r"\b(show|pragma\w*|information_schema|duckdb_\w+)\b", re.I)


@dataclass(frozen=True)
class View:
    """One name of SQL.

    name: `schema.name`.
    tables: Physical tables it reads; none where its rows are facts of this program.
    sql: Its SELECT over these; empty where it is the table of its name.
    added: Columns that it has besides those of its tables, each with what it says.
    union: `sql` gives all rows of its tables and their columns, and what `copied` names.
    """

    name: str
    doc: str
    tables: tuple[Table, ...]
    sql: str = ""
    added: tuple[tuple[str, str], ...] = ()
    union: bool = False

    @property
    def plain(self) -> bool:
        """Whether its rows are those of its tables, one after the other, where none is live."""
        own = not self.sql and bool(self.tables) and self.tables[-1].name == self.name
        return self.union or own


# On COIN-M `volume` counts contracts and `quote_volume` the base asset; elsewhere `volume` is it.
# Each with the column that it is on COIN-M, and the one that it is elsewhere.
_COPIES: Mapping[str, tuple[str, str]] = {
    "base_volume": ("quote_volume", "volume"),
    "taker_buy_base_volume": ("taker_buy_quote_volume", "taker_buy_volume"),
}
_BASE_VOLUMES = tuple(
    f"CASE market WHEN 'cm' THEN {coin} ELSE {other} END AS {name}"
    for name, (coin, other) in _COPIES.items()
)
_BASE_VOLUMES_SAY = (
    ("base_volume", "Base asset traded, on every market: `volume`; on cm `quote_volume`"),
    ("taker_buy_base_volume", "The part of it that takers bought"),
)

# A sighting repeats an object's version without what only reading it could tell, so such values
# are the last ones known; the state and its reason are the last ones said.
_OBJECTS = """
SELECT market, dataset, symbol, "interval", freq, period_start, key,
       arg_max(nullif(url, ''), seen_at) AS url,
       arg_max(etag, seen_at) AS etag,
       arg_max(checksum_etag, seen_at) AS checksum_etag,
       arg_max(last_modified, seen_at) AS last_modified,
       arg_max(size, seen_at) AS size,
       arg_max(published_sha256, seen_at) AS published_sha256,
       sha256,
       arg_max(version, seen_at) AS version,
       arg_max(path, seen_at) AS path,
       arg_max(state, seen_at) AS state,
       arg_max_null(reason, seen_at) AS reason,
       arg_max_null(detail, seen_at) AS detail,
       arg_max_null(days_short, seen_at) AS days_short,
       arg_max(rows, seen_at) AS rows,
       arg_max(rows_quarantined, seen_at) AS rows_quarantined,
       arg_max(decoder_version, seen_at) AS decoder_version,
       min(seen_at) AS first_seen,
       max(seen_at) AS last_seen,
       row_number() OVER (PARTITION BY key ORDER BY max(seen_at) DESC, max(version) DESC) = 1
           AS current
FROM bronze.object_log
GROUP BY market, dataset, symbol, "interval", freq, period_start, key, sha256,
         CASE WHEN sha256 IS NULL THEN etag END
"""

_QUARANTINE = """
SELECT * FROM silver.quarantine_log
QUALIFY row_number() OVER (
    PARTITION BY source_key, source_version, line, reason, raw ORDER BY quarantined_at
) = 1
"""


# Which build of a unit is the last is told by the product's snapshots, not by clocks.
_BUILDS = """
SELECT * FROM gold.build_log
QUALIFY row_number() OVER (
    PARTITION BY product, market, "interval", symbol, period ORDER BY output_sequence DESC, built_at DESC
) = 1
"""


_SERIES = ", ".join(quoted(name) for name in SERIES)

# Which is the latest is told by what each one saw, not by clocks of machines. Two of the same number
# were made at once; any one of them will do, if it is always the same: had it seen files that are
# not those of now, the next run assesses the series again.
_ASSESSMENTS = f"""
SELECT * FROM {ASSESSMENT_LOG.name}
QUALIFY row_number() OVER (PARTITION BY {_SERIES} ORDER BY number DESC, run_id DESC) = 1
"""

# Those of completed assessments, the latest or not; two that are made at once raise the same ones.
# Before there were other rules, all were of scores; before there were runs of days, of one day.
_ALERTS = f"""
SELECT * REPLACE (
    coalesce(rule, 'score') AS rule, coalesce(value, score) AS value,
    coalesce(last_day, day) AS last_day, coalesce(days, 1) AS days,
    coalesce(worst_day, day) AS worst_day
)
FROM {ALERTS.name}
SEMI JOIN {ASSESSMENT_LOG.name} USING ({_SERIES}, run_id)
QUALIFY row_number() OVER (
    PARTITION BY {_SERIES}, day, coalesce(last_day, day), coalesce(rule, 'score'), codes
    ORDER BY raised_at, run_id
) = 1
"""


_GAP_KEY = ", ".join(quoted(name) for name in GAP_KEY)
_SAME_GAP = " AND ".join(
    f"gap.{quoted(name)} IS NOT DISTINCT FROM told.{quoted(name)}" for name in GAP_KEY
)
_LOST = f"gap.dataset NOT IN ({', '.join(map(text, FILLED_BY_REST))})"
# A gap that was told twice, since a worker was killed, is one.
_STREAM_GAPS = f"""
SELECT gap.*,
       CASE WHEN {_LOST} THEN 'no_history' ELSE coalesce(told.state, 'open') END AS state,
       coalesce(told.missing_left, gap.missing) AS missing_left,
       CASE WHEN {_LOST} THEN 'REST has no history of ' || gap.dataset ELSE told.detail END AS detail,
       told.told_at
FROM (
    SELECT * FROM {STREAM_GAPS.name}
    QUALIFY row_number() OVER (PARTITION BY {_GAP_KEY} ORDER BY run_id) = 1
) AS gap
LEFT JOIN (
    SELECT * FROM {STREAM_GAP_STATES.name}
    QUALIFY row_number() OVER (PARTITION BY {_GAP_KEY} ORDER BY told_at DESC, run_id) = 1
) AS told ON {_SAME_GAP}
"""

_LIVE = 'market, dataset, symbol, "interval", source, source_version, final_key, final_version'

# A comparison that was made again, since a run was killed or overtaken, says the same again.
_LIVE_DIFFERENCES = f"""
SELECT * FROM {LIVE_DIFFERENCE_LOG.name}
QUALIFY row_number() OVER (
    PARTITION BY {_LIVE}, "time", id, "column" ORDER BY compared_at DESC, run_id
) = 1
"""
_LIVE_COMPARISONS = f"""
SELECT * FROM {LIVE_COMPARISON_LOG.name}
QUALIFY row_number() OVER (
    PARTITION BY {_LIVE}, "day" ORDER BY compared_at DESC, run_id
) = 1
"""
_LIVE_ACCURACY = f"""
SELECT market, dataset, "interval", source, sum("rows")::BIGINT AS "rows",
       sum(rows_different)::BIGINT AS rows_different,
       sum(rows_different) / sum("rows") AS share_different, max(relative_max) AS relative_max,
       count(DISTINCT symbol) AS symbols, min("day") AS first_day, max("day") AS last_day
FROM ({_LIVE_COMPARISONS})
GROUP BY market, dataset, "interval", source
"""


def copied(name: str, market: str) -> str:
    """The column of the table whose values a column of the view has; mostly itself."""
    coin, other = _COPIES.get(name, (name, name))
    return coin if market == "cm" else other


def _findings(shape: Table, log: Table) -> View:
    """Of a log of findings, those of each series' latest assessment."""
    chosen = ", ".join(quoted(name) for name in shape.names)
    sql = (
        f"SELECT {chosen} FROM {log.name} "
        f"SEMI JOIN ({_ASSESSMENTS}) AS latest USING ({_SERIES}, run_id)"
    )
    return View(shape.name, shape.doc, (log, ASSESSMENT_LOG), sql)


def _of_dataset(dataset: Dataset) -> View:
    name = f"silver.{dataset.view}"
    if not dataset.bars:
        return View(name, dataset.doc, dataset.stored_tables)
    columns = [quoted(column) for column in dataset.tables[0].names]
    if dataset is KLINES:
        columns += _BASE_VOLUMES
    chosen = ", ".join(columns)
    tables = dataset.stored_tables
    union = " UNION ALL ".join(f"SELECT {chosen} FROM {table.name}" for table in tables)
    added = _BASE_VOLUMES_SAY if dataset is KLINES else ()
    return View(name, dataset.doc, tables, union, added, union=True)


def _live_rows(dataset: Dataset) -> list[View]:
    """The hot table by its name; which of its rows count, the main tables tell."""
    hot = dataset.hot_table
    return [] if hot is None else [View(hot.name, hot.doc, dataset.stored_tables)]


def _union(name: str, tables: tuple[Table, ...]) -> View:
    chosen = ", ".join(quoted(column) for column in tables[0].names)
    sql = " UNION ALL ".join(f"SELECT {chosen} FROM {table.name}" for table in tables)
    return View(name, tables[0].doc, tables, sql, union=True)


def _all() -> Mapping[str, View]:
    views = [_of_dataset(dataset) for dataset in DATASETS.values()]
    views.append(
        View(
            "bronze.objects",
            "What the lake has of each version of each object, or why it was refused.",
            (OBJECT_LOG,),
            _OBJECTS,
        )
    )
    views.append(
        View(
            "silver.quarantine",
            "Rows and objects that were refused, each once, and why.",
            (QUARANTINE,),
            _QUARANTINE,
        )
    )
    marked = tuple(table for dataset in DATASETS.values() for table in dataset.tables)
    violations = violations_sql(DATASETS.values(), _QUARANTINE)
    views.append(View("silver.violations", VIOLATIONS_DOC, (*marked, QUARANTINE), violations))
    views.append(View("silver.rules", RULES_DOC, (), rules_sql(DATASETS.values())))
    views += [View(name, doc, tables, sql) for name, doc, tables, sql in instrument_views()]
    views += [_union(name, tables) for name, tables in UNIONS.items()]
    views += [View(p.table.name, p.table.doc, (p.table,)) for p in PRODUCTS.values()]
    views.append(
        View(
            "gold.builds",
            "What each unit of each derived table was last built from.",
            (BUILD_LOG,),
            _BUILDS,
        )
    )
    views += [
        _findings(GAPS, GAPS_LOG),
        _findings(CROSS_CHECKS, CROSS_CHECK_LOG),
        _findings(ANOMALIES, ANOMALY_LOG),
        _findings(QUALITY, QUALITY_LOG),
        View(
            "gold.assessments",
            "What the latest assessment of each series saw and found.",
            (ASSESSMENT_LOG,),
            _ASSESSMENTS,
        ),
        View(
            "gold.alerts",
            "Runs of days beyond a threshold for the same reasons, told when they begin and when they "
            "have doubled.",
            (ALERTS, ASSESSMENT_LOG),
            _ALERTS,
        ),
        View(
            "gold.live_differences",
            "Values of live rows that the archive's rows, which took their place, give otherwise.",
            (LIVE_DIFFERENCE_LOG,),
            _LIVE_DIFFERENCES,
        ),
        View(
            "gold.live_comparisons",
            "How many live rows the archive's took the place of, and how many of them differed.",
            (LIVE_COMPARISON_LOG,),
            _LIVE_COMPARISONS,
        ),
        View(
            "gold.live_accuracy",
            "How right live rows were, by market, data set, interval and source.",
            (LIVE_COMPARISON_LOG,),
            _LIVE_ACCURACY,
        ),
        View(ALERT_DELIVERIES.name, ALERT_DELIVERIES.doc, (ALERT_DELIVERIES,)),
        View("bronze.runs", RUNS_DOC, (RUN_LOG,), RUNS),
        View(LEASE.name, LEASE.doc, (LEASE,)),
        View(STREAM_GAPS.name, STREAM_GAPS.doc, (STREAM_GAPS,)),
        View(
            "silver.stream_gaps",
            "Gaps of streams, each once, and what became of them: "
            "open, filled, absent, refused or no_history.",
            (STREAM_GAPS, STREAM_GAP_STATES),
            _STREAM_GAPS,
        ),
        View(SCHEDULE_ALERTS.name, SCHEDULE_ALERTS.doc, (SCHEDULE_ALERTS,)),
    ]
    views += [view for dataset in DATASETS.values() for view in _live_rows(dataset)]
    known = {view.name: view for view in views}
    physical = [table for view in views for table in view.tables]
    known |= {t.name: View(t.name, t.doc, (t,)) for t in physical if t.name not in known}
    return MappingProxyType(known)


VIEWS = _all()
TABLES: Mapping[str, Table] = MappingProxyType(
    {table.name: table for view in VIEWS.values() for table in view.tables}
)
SCHEMAS = ("bronze", "silver", "gold")


def mentioned(query: str) -> list[View]:
    """Return the views that a statement may read, by the names it spells.

    A name in a comment or a text costs the planning of its files and nothing else.
    """
    if _ASKS_WHAT_THERE_IS.search(query):
        return list(VIEWS.values())
    words = set(re.findall(r"\w+", query.lower()))
    spelled = words.intersection(SCHEMAS) or SCHEMAS
    found = []
    for view in VIEWS.values():
        schema, _, name = view.name.partition(".")
        if name in words and schema in spelled:
            found.append(view)
    return found


def nearest(name: str) -> list[str]:
    """Return known names like this one, the nearest first."""
    bare = name.lower().rpartition(".")[2]
    near = difflib.get_close_matches(
        bare, [known.partition(".")[2] for known in VIEWS], n=3, cutoff=0.6
    )
    return [known for word in near for known in VIEWS if known.partition(".")[2] == word]
