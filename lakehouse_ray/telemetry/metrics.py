"""Every metric that the product exports: its name, what it counts, its labels. Declared here alone.

No label has a value per symbol: thousands of symbols, listed and delisted, would make series without
end. Where a metric is measured, its shape is imported from here; how it gets to Prometheus is
`telemetry.meter`'s and `telemetry.exposition`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

# By the values of the shape's labels.
Samples = Mapping[tuple[str, ...], float]

# Requests take milliseconds, commits tenths of a second, units of work up to minutes.
_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COMMIT_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WORK_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True)
class MetricShape:
    """name: With its unit at the end; of a counter without `_total`.

    labels: Names, in the order of a sample's values. buckets: Upper bounds, of a histogram alone.
    """

    name: str
    kind: Kind
    doc: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        assert bool(self.buckets) == (self.kind == "histogram"), "buckets are a histogram's"

    @property
    def exposed(self) -> str:
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def series(self) -> tuple[str, ...]:
        """Names of what Prometheus stores of it."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))
        return (self.exposed,)


# Runs of workflows, by who drives them: bulk_ingestion, realtime_update, stream_capture, build_gold,
# quality_assessment, maintenance.
RUNS = MetricShape(
    "lakehouse_runs", "counter", "Runs that ended, by outcome: ok, partial, failed, stopped",
    ("workflow", "outcome"),
)  # fmt: skip
RUN_SECONDS = MetricShape(
    "lakehouse_run_seconds",
    "histogram",
    "From the start of a run to its end",
    ("workflow",),
    _WORK_S,
)
RUNS_ACTIVE = MetricShape(
    "lakehouse_runs_active", "gauge", "Runs that this process is at", ("workflow",)
)
RUN_PROGRESS_AT = MetricShape(
    "lakehouse_run_progress_timestamp_seconds", "gauge",
    "When a run last got on: it began, or something of it was done", ("workflow",),
)  # fmt: skip
UNITS = MetricShape(
    "lakehouse_units", "counter",
    "Units of a run's plan that ended, by outcome: done, refused (bad data), failed",
    ("workflow", "outcome"),
)  # fmt: skip
ERRORS = MetricShape(
    "lakehouse_errors", "counter", "What went wrong in runs, by reason", ("workflow", "kind")
)
SOURCE_BYTES = MetricShape(
    "lakehouse_source_bytes", "counter", "Bytes that came from the exchange, as they came",
    ("workflow", "market", "dataset"),
)  # fmt: skip
DECODED_BYTES = MetricShape(
    "lakehouse_decoded_bytes", "counter", "Bytes of them after decompression",
    ("workflow", "market", "dataset"),
)  # fmt: skip
ROWS = MetricShape(
    "lakehouse_committed_rows", "counter", "Rows made visible that were not there before",
    ("workflow", "market", "dataset"),
)  # fmt: skip
ROWS_REFUSED = MetricShape(
    "lakehouse_refused_rows", "counter", "Rows put into quarantine",
    ("workflow", "market", "dataset"),
)  # fmt: skip

# Pools of workers, and commits.
POOL_WORKERS = MetricShape(
    "lakehouse_pool_workers", "gauge", "Workers of the pool: up, starting, wanted",
    ("workload", "state"),
)  # fmt: skip
POOL_IN_FLIGHT = MetricShape("lakehouse_pool_in_flight", "gauge", "Tasks that workers are at")
POOL_QUEUED = MetricShape(
    "lakehouse_pool_queued", "gauge", "Tasks that no worker is at, those of lost workers included"
)
POOL_DECISIONS = MetricShape(
    "lakehouse_pool_decisions", "counter",
    "Times a pool was sized before a run, grown, shrunk, or workers that waited for a node cancelled, and "
    "by which rules (docs/autoscaling.md)",
    ("workload", "action", "rule"),
)  # fmt: skip
POOL_SIZED = MetricShape(
    "lakehouse_pool_sized_workers", "gauge", "Workers that the allocator gave a run before it began",
    ("workload", "executor", "profile"),
)  # fmt: skip
POOL_UNIT_BYTES = MetricShape(
    "lakehouse_pool_unit_bytes",
    "gauge",
    "What a unit of a run should hold, compressed",
    ("workload",),
)
POOL_LOST = MetricShape("lakehouse_pool_workers_lost", "counter", "Workers that died or were late")
TASK_SECONDS = MetricShape(
    "lakehouse_task_seconds", "histogram", "What a task took, its way to the worker included",
    buckets=_WORK_S,
)  # fmt: skip
COMMITS = MetricShape(
    "lakehouse_commits", "counter",
    "Requests to a table's committer, by outcome: committed, conflict, failed",
    ("table", "outcome"),
)  # fmt: skip
COMMIT_SECONDS = MetricShape(
    "lakehouse_commit_seconds", "histogram", "From asking for a commit to its outcome", ("table",),
    _COMMIT_S,
)  # fmt: skip
COMMIT_QUEUE = MetricShape(
    "lakehouse_commit_queue_units", "gauge", "Finished units that wait to be committed"
)

# The exchange's REST.
EXCHANGE_REQUESTS = MetricShape(
    "lakehouse_exchange_requests", "counter",
    "Requests to REST, by status of the answer; none: there was no answer", ("market", "status"),
)  # fmt: skip
EXCHANGE_SECONDS = MetricShape(
    "lakehouse_exchange_request_seconds", "histogram", "From a request to the end of its answer",
    ("market",), _REQUEST_S,
)  # fmt: skip
WEIGHT_USED = MetricShape(
    "lakehouse_exchange_weight_used", "gauge", "Of a limit, in its window of now",
    ("market", "limit"),
)  # fmt: skip
WEIGHT_MAX = MetricShape(
    "lakehouse_exchange_weight_max", "gauge", "What may be used of a limit in its window",
    ("market", "limit"),
)  # fmt: skip
QUIET_UNTIL = MetricShape(
    "lakehouse_exchange_quiet_until_timestamp_seconds", "gauge",
    "Until when the exchange asked to be left alone (429, or a ban: 418)", ("market",),
)  # fmt: skip

# Captures of streams.
STREAM_FRAMES = MetricShape("lakehouse_capture_frames", "counter", "Frames received", ("market",))
STREAM_LOST = MetricShape(
    "lakehouse_capture_frames_lost",
    "counter",
    "Frames for which the spool had no room",
    ("market",),
)
STREAM_GAPS = MetricShape(
    "lakehouse_capture_gaps", "counter", "Gaps in what streams brought", ("market",)
)
STREAM_OPENED = MetricShape(
    "lakehouse_capture_connections_opened", "counter", "Connections to the exchange", ("market",)
)
STREAM_FAILED = MetricShape(
    "lakehouse_capture_connections_failed", "counter", "Connections that could not be made",
    ("market",),
)  # fmt: skip
STREAM_REPLACED = MetricShape(
    "lakehouse_capture_workers_replaced", "counter", "Workers that died", ("market",)
)
STREAM_UP = MetricShape(
    "lakehouse_capture_connections", "gauge", "Connections: up, wanted", ("market", "state")
)
STREAM_SPOOLED = MetricShape(
    "lakehouse_capture_spool_bytes", "gauge", "Received and not committed", ("market",)
)
STREAM_COMMITTED_AT = MetricShape(
    "lakehouse_capture_committed_timestamp_seconds", "gauge",
    "When the last frame came of those that are committed", ("market",),
)  # fmt: skip

# One process of the service.
REQUESTS = MetricShape(
    "lakehouse_requests", "counter", "Requests that ended.", ("route", "method", "status")
)
REQUEST_SECONDS = MetricShape(
    "lakehouse_request_seconds", "histogram", "From the request to the end of its answer.",
    ("route",), _REQUEST_S,
)  # fmt: skip
QUESTIONS_IN_FLIGHT = MetricShape("lakehouse_questions_in_flight", "gauge", "Worked on or waiting.")
QUESTIONS_WAITING = MetricShape("lakehouse_questions_waiting", "gauge", "Waiting for a worker.")
SOCKET_EVENTS = MetricShape(
    "lakehouse_stream_events", "counter", "Events sent to websockets.", ("stream",)
)
SOCKETS_CLOSED = MetricShape(
    "lakehouse_stream_connections_closed", "counter", "Websockets that ended, by code.", ("code",)
)
SOCKETS = MetricShape("lakehouse_stream_connections", "gauge", "Open websockets.")
TABLES_WATCHED = MetricShape(
    "lakehouse_stream_tables_watched", "gauge", "Tables looked at for commits."
)
_LEVEL = ("level",)
_REMEMBERED = "lakehouse_answers_remembered"
ANSWERS_COUNTED = {
    field: MetricShape(f"{_REMEMBERED}_{field}", "counter", doc, _LEVEL)
    for field, doc in (
        ("hits", "Questions answered from this level."),
        ("misses", "Questions whose answer this level did not have."),
        ("skipped", "Times this level was not asked, being down or busy."),
        ("errors", "Times this level failed or was too slow."),
        ("damaged", "Values of this level that were no answers; they are misses too."),
        ("read_bytes", "Bytes of answers read from this level."),
        ("written_bytes", "Bytes of answers written to this level."),
    )
}
ANSWERS_UP = MetricShape(
    f"{_REMEMBERED}_up", "gauge", "Whether a level answered when it was last asked.", _LEVEL
)
ANSWERS_BYTES = MetricShape(f"{_REMEMBERED}_bytes", "gauge", "Memory of answers.")
ANSWERS_SHARED = MetricShape(
    "lakehouse_answers_shared", "counter",
    "Questions answered by the work of an equal one at the same time.",
)  # fmt: skip
ANSWERS_UNKEPT = MetricShape(
    "lakehouse_answers_unkept", "counter",
    "Answers kept in memory alone, as too many waited to be written.",
)  # fmt: skip

# The lake itself, as its tables have it.
TABLE_COMMIT_AT = MetricShape(
    "lakehouse_table_commit_timestamp_seconds",
    "gauge",
    "When rows last came to a table; maintenance brings none",
    ("table",),
)
TABLE_ROWS = MetricShape("lakehouse_table_rows", "gauge", "Rows of a table", ("table",))
TABLE_BYTES = MetricShape("lakehouse_table_bytes", "gauge", "Bytes of a table's files", ("table",))
TABLE_FILES = MetricShape("lakehouse_table_files", "gauge", "Files of a table", ("table",))
NEWEST_ROW_AT = MetricShape(
    "lakehouse_newest_row_timestamp_seconds", "gauge", "Time of the newest row of a data set",
    ("market", "dataset", "interval"),
)  # fmt: skip
JOBS = MetricShape(
    "lakehouse_jobs", "gauge", "Jobs that the cluster remembers, by state", ("state",)
)
JOBS_OLDEST_AT = MetricShape(
    "lakehouse_jobs_oldest_timestamp_seconds", "gauge",
    "When the oldest job was submitted that is in a state still", ("state",),
)  # fmt: skip
PUBLICATION_DUE = MetricShape(
    "lakehouse_publication_due_seconds", "gauge",
    "For how long nothing may be published: telemetry.publish_within_s, else twice the pause of the "
    "schedules, or of the last week",
)  # fmt: skip
STATE_AT = MetricShape(
    "lakehouse_state_timestamp_seconds",
    "gauge",
    "When the service last saw the lake as it says it is",
)

# Quality, and the alerts of `lakehouse quality`.
_KIND = ("market", "dataset", "interval")


ALERTS_RAISED = MetricShape(
    "lakehouse_alerts",
    "counter",
    "Alerts ever raised, by rule and largest loss",
    ("market", "dataset", "rule", "code"),
)
ALERTS_DELIVERED = MetricShape(
    "lakehouse_alerts_delivered",
    "counter",
    "Alerts that the webhook's receiver has ever taken",
    ("market", "dataset"),
)
ASSESSMENTS = MetricShape(
    "lakehouse_assessments", "counter", "Assessments of a series ever completed", _KIND
)
ROWS_ASSESSED = MetricShape(
    "lakehouse_assessed_rows", "counter", "Rows of series ever assessed", _KIND
)
SERIES_KNOWN = MetricShape("lakehouse_quality_series", "gauge", "Series that were assessed", _KIND)
ASSESSED_AT = MetricShape(
    "lakehouse_assessment_timestamp_seconds",
    "gauge",
    "When a series was last assessed, successfully; series that did not change are not",
    _KIND,
)
SCORE_MIN = MetricShape(
    "lakehouse_quality_score_min", "gauge", "Least score of a symbol's day, 0 to 1", _KIND
)
SCORE_MEAN = MetricShape(
    "lakehouse_quality_score_mean", "gauge", "Mean score of symbols' days, 0 to 1", _KIND
)
SCORES = MetricShape("lakehouse_quality_scores", "gauge", "Symbols' days with a score", _KIND)
SCORES_UNDER = MetricShape(
    "lakehouse_quality_scores_under_threshold", "gauge", "Those under quality.threshold", _KIND
)
QUALITY_ROWS = MetricShape(
    "lakehouse_quality_rows", "gauge", "Rows of series at their last assessment", _KIND
)
MISSING = MetricShape(
    "lakehouse_missing_rows", "gauge", "Rows missing, by cause (docs/gaps.md)", (*_KIND, "cause")
)
ASSESSMENT_SERIES = MetricShape(
    "lakehouse_assessment_run_series", "gauge", "Series of the last run", ("state",)
)
ASSESSMENT_ENDED_AT = MetricShape(
    "lakehouse_assessment_run_timestamp_seconds", "gauge", "End of the last run that had one"
)
ASSESSMENT_SECONDS = MetricShape(
    "lakehouse_assessment_run_duration_seconds", "gauge", "What the last run took"
)
ALERTS_WAITING = MetricShape(
    "lakehouse_alerts_waiting", "gauge", "Alerts that the webhook's receiver has not taken"
)
QUALITY_THRESHOLD = MetricShape(
    "lakehouse_quality_threshold", "gauge", "quality.threshold, as the last run had it"
)

WORK = (
    RUNS, RUN_SECONDS, RUNS_ACTIVE, RUN_PROGRESS_AT, UNITS, ERRORS, SOURCE_BYTES, DECODED_BYTES, ROWS,
    ROWS_REFUSED, POOL_WORKERS, POOL_IN_FLIGHT, POOL_QUEUED, POOL_LOST, POOL_DECISIONS, POOL_SIZED, POOL_UNIT_BYTES,
    TASK_SECONDS, COMMITS,
    COMMIT_SECONDS, COMMIT_QUEUE,
)  # fmt: skip
EXCHANGE = (EXCHANGE_REQUESTS, EXCHANGE_SECONDS, WEIGHT_USED, WEIGHT_MAX, QUIET_UNTIL)
CAPTURE = (
    STREAM_FRAMES, STREAM_LOST, STREAM_GAPS, STREAM_OPENED, STREAM_FAILED, STREAM_REPLACED, STREAM_UP,
    STREAM_SPOOLED, STREAM_COMMITTED_AT,
)  # fmt: skip
SERVICE = (
    REQUESTS, REQUEST_SECONDS, QUESTIONS_IN_FLIGHT, QUESTIONS_WAITING, SOCKET_EVENTS, SOCKETS_CLOSED,
    SOCKETS, TABLES_WATCHED, *ANSWERS_COUNTED.values(), ANSWERS_UP, ANSWERS_BYTES, ANSWERS_SHARED,
    ANSWERS_UNKEPT,
)  # fmt: skip
LAKE = (
    TABLE_COMMIT_AT, TABLE_ROWS, TABLE_BYTES, TABLE_FILES, NEWEST_ROW_AT, PUBLICATION_DUE, JOBS,
    JOBS_OLDEST_AT, STATE_AT,
)  # fmt: skip
QUALITY_STATE = (
    ALERTS_RAISED, ALERTS_DELIVERED, ASSESSMENTS, ROWS_ASSESSED, SERIES_KNOWN, ASSESSED_AT,
    SCORE_MIN, SCORE_MEAN, SCORES, SCORES_UNDER, QUALITY_ROWS, MISSING,
)  # fmt: skip
ASSESSMENT_RUN = (
    ASSESSMENT_SERIES, ASSESSMENT_ENDED_AT, ASSESSMENT_SECONDS, ALERTS_WAITING, QUALITY_THRESHOLD,
)  # fmt: skip
ALL = (*WORK, *EXCHANGE, *CAPTURE, *SERVICE, *LAKE, *QUALITY_STATE, *ASSESSMENT_RUN)
