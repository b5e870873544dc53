"""The Grafana dashboards, described: `python dashboards.py` writes them as JSON; `--check` compares.

Each panel is a question to Prometheus. A test holds every one against the metrics that there are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent / "grafana/dashboards"
# By what provisioning/datasources calls it.
SOURCE = {"type": "prometheus", "uid": "lakehouse-prometheus"}
_WIDTH, _HEIGHT = 24, 8
_LAKE = 'lake=~"$lake"'


@dataclass(frozen=True)
class Panel:
    """queries: By legend. unit: As Grafana spells units. warn: From which value on it is shown in red;
    below it where `low`. width: Of 24."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "gauge", "table", "bargauge"] = "timeseries"
    warn: float | None = None
    low: bool = False
    width: int = 8
    about: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """of_lake: Whether it can be narrowed to one lake; else it is of a Ray cluster."""

    name: str
    title: str
    about: str
    panels: Sequence[Panel]
    of_lake: bool = True
    tags: Sequence[str] = field(default=("lakehouse",))


def _q(expr: str) -> str:
    """L in a selector: the lake that was chosen."""
    return expr.replace("L}", _LAKE + "}").replace("L,", _LAKE + ",")


OVERVIEW = Dashboard(
    "overview", "Lakehouse: overview", "Whether all is well, on one page.",
    [
        Panel("Service", [("{{instance}}", 'up{job="serve"}')], kind="stat", warn=1, low=True, width=4),
        Panel("Alerts that fire", [("", 'count(ALERTS{alertname=~"Lakehouse.+",alertstate="firing"}) or vector(0)')],
              kind="stat", warn=1, width=4),
        Panel("Since the last publication",
              [("{{lake}}", 'time() - max by (lake) (lakehouse_table_commit_timestamp_seconds{table=~"silver.+",L})')],
              unit="s", kind="stat", warn=7200, width=4),
        Panel("Least mean score", [("{{lake}}", "min by (lake) (lakehouse_quality_score_mean{L})")],
              kind="stat", warn=0.9, low=True, width=4),
        Panel("Completeness", [("{{lake}}", "min by (lake) (lakehouse:completeness:ratio{L})")],
              unit="percentunit", kind="stat", warn=0.99, low=True, width=4),
        Panel("Errors of runs", [("{{workflow}}", "lakehouse:error_ratio:15m{L}")],
              unit="percentunit", kind="stat", warn=0.05, width=4),
        Panel("Rows committed", [("{{workflow}}", "sum by (workflow) (rate(lakehouse_committed_rows_total{L}[5m]))")],
              unit="rowsps", width=8),
        Panel("Bytes from the exchange", [("{{workflow}}", "sum by (workflow) (rate(lakehouse_source_bytes_total{L}[5m]))")],
              unit="Bps", width=8),
        Panel("Answers a second", [("{{status}}", "sum by (status) (lakehouse:requests:rate5m{L})")],
              unit="reqps", width=8, stacked=True),
        Panel("Answers: time of the slowest twentieth", [("{{lake}}", "lakehouse:request_seconds:p95_5m{L}")],
              unit="s", warn=1),
        Panel("How old the newest row is", [("{{market}} {{dataset}} {{interval}}", "lakehouse:age:seconds{L}")], unit="s"),
        Panel("Rows of the lake", [("{{table}}", 'max by (table) (lakehouse_table_rows{table=~"silver.+",L})')],
              stacked=True),
    ],
)  # fmt: skip

INGESTION = Dashboard(
    "ingestion", "Lakehouse: ingestion", "Runs from the archive and from REST, their workers and commits.",
    [
        Panel("Runs at work", [("{{workflow}}", "sum by (workflow) (lakehouse_runs_active{L})")], kind="stat", width=6),
        Panel("Since a run got on", [("{{workflow}}",
              "min by (workflow) (time() - lakehouse_run_progress_timestamp_seconds{L})")],
              unit="s", kind="stat", warn=2700, width=6),
        Panel("Runs of the last hour", [("{{workflow}} {{outcome}}", "lakehouse:runs:increase1h{L}")],
              kind="bargauge", width=6),
        Panel("Length of runs, median", [("{{workflow}}",
              "histogram_quantile(0.5, sum by (workflow, le) (rate(lakehouse_run_seconds_bucket{L}[1h])))")],
              unit="s", width=6),
        Panel("Units by outcome", [("{{workflow}} {{outcome}}", "lakehouse:units:increase15m{L}")]),
        Panel("Errors by kind", [("{{workflow}} {{kind}}", "lakehouse:errors:increase15m{L}")]),
        Panel("Share of errors", [("{{workflow}}", "lakehouse:error_ratio:15m{L}")], unit="percentunit", warn=0.05),
        Panel("Bytes after decompression", [("{{market}} {{dataset}}",
              "sum by (market, dataset) (rate(lakehouse_decoded_bytes_total{L}[5m]))")], unit="Bps"),
        Panel("Rows committed", [("{{market}} {{dataset}}",
              "sum by (market, dataset) (rate(lakehouse_committed_rows_total{L}[5m]))")], unit="rowsps"),
        Panel("Rows refused", [("{{market}} {{dataset}}",
              "sum by (market, dataset) (rate(lakehouse_refused_rows_total{L}[5m]))")], unit="rowsps"),
        Panel("Workers", [("{{workload}} {{state}}", "sum by (workload, state) (lakehouse_pool_workers{L})")]),
        Panel("Tasks", [("at work", "sum(lakehouse_pool_in_flight{L})"), ("waiting", "sum(lakehouse_pool_queued{L})"),
              ("workers lost", "sum(increase(lakehouse_pool_workers_lost_total{L}[15m]))")]),
        Panel("Pools grown and shrunk", [("{{workload}} {{action}}: {{rule}}",
              "sum by (workload, action, rule) (increase(lakehouse_pool_decisions_total{L, action!='sized'}[15m]))")]),
        Panel("Workers as the allocator sized them", [("{{workload}} {{executor}}, {{profile}}",
              "sum by (workload, executor, profile) (lakehouse_pool_sized_workers{L})")]),
        Panel("Rules that sized runs", [("{{workload}}: {{rule}}",
              "sum by (workload, rule) (increase(lakehouse_pool_decisions_total{L, action='sized'}[15m]))")]),
        Panel("A unit should hold", [("{{workload}}", "max by (workload) (lakehouse_pool_unit_bytes{L})")], unit="bytes"),
        Panel("A task takes", [("median", "histogram_quantile(0.5, sum by (le) (rate(lakehouse_task_seconds_bucket{L}[5m])))"),
              ("slowest twentieth", "histogram_quantile(0.95, sum by (le) (rate(lakehouse_task_seconds_bucket{L}[5m])))")], unit="s"),
        Panel("Commits", [("{{table}} {{outcome}}", "sum by (table, outcome) (rate(lakehouse_commits_total{L}[5m]))")], unit="ops"),
        Panel("A commit takes, slowest twentieth", [("{{table}}",
              "histogram_quantile(0.95, sum by (table, le) (rate(lakehouse_commit_seconds_bucket{L}[5m])))")], unit="s", warn=10),
        Panel("Units that wait to be committed", [("", "sum(lakehouse_commit_queue_units{L})")], warn=100),
        Panel("Requests to the exchange", [("{{market}} {{status}}",
              "sum by (market, status) (rate(lakehouse_exchange_requests_total{L}[5m]))")], unit="reqps"),
        Panel("Weight used", [("{{market}} {{limit}}", "lakehouse:exchange_weight:ratio{L}")], unit="percentunit", warn=0.9),
        Panel("The exchange answers within, slowest twentieth", [("{{market}}",
              "histogram_quantile(0.95, sum by (market, le) (rate(lakehouse_exchange_request_seconds_bucket{L}[5m])))")], unit="s"),
        Panel("Left alone for", [("{{market}}",
              "max by (market) (clamp_min(lakehouse_exchange_quiet_until_timestamp_seconds{L} - time(), 0))")], unit="s", warn=60),
    ],
)  # fmt: skip

STREAMS = Dashboard(
    "streams", "Lakehouse: streams", "Captures of the exchange's streams, and those who listen to the lake's own.",
    [
        Panel("Connections to the exchange", [("{{market}} {{state}}", "sum by (market, state) (lakehouse_capture_connections{L})")], width=6),
        Panel("Since the last frame that is committed", [("{{market}}",
              "time() - max by (market) (lakehouse_capture_committed_timestamp_seconds{L})")], unit="s", kind="stat", warn=300, width=6),
        Panel("Frames lost", [("{{market}}", "sum by (market) (increase(lakehouse_capture_frames_lost_total{L}[1h]))")],
              kind="stat", warn=1, width=6),
        Panel("Waiting on disk", [("{{market}}", "sum by (market) (lakehouse_capture_spool_bytes{L})")], unit="bytes", width=6),
        Panel("Frames", [("{{market}}", "sum by (market) (rate(lakehouse_capture_frames_total{L}[1m]))")], unit="ops"),
        Panel("Rows", [("{{market}} {{dataset}}",
              'sum by (market, dataset) (rate(lakehouse_committed_rows_total{workflow="stream",L}[1m]))')], unit="rowsps"),
        Panel("Gaps", [("{{market}}", "sum by (market) (increase(lakehouse_capture_gaps_total{L}[15m]))")]),
        Panel("Connections made", [("{{market}} opened", "sum by (market) (increase(lakehouse_capture_connections_opened_total{L}[15m]))"),
              ("{{market}} failed", "sum by (market) (increase(lakehouse_capture_connections_failed_total{L}[15m]))"),
              ("{{market}} workers replaced", "sum by (market) (increase(lakehouse_capture_workers_replaced_total{L}[15m]))")]),
        Panel("Commits to hot tables", [("{{table}}",
              'sum by (table) (rate(lakehouse_commits_total{table=~".*_hot",outcome="committed",L}[1m]))')], unit="ops"),
        Panel("A commit takes, slowest twentieth", [("{{table}}",
              'histogram_quantile(0.95, sum by (table, le) (rate(lakehouse_commit_seconds_bucket{table=~".*_hot",L}[5m])))')], unit="s", warn=1),
        Panel("Websockets to the lake", [("open", "sum(lakehouse_stream_connections{L})"),
              ("tables watched", "max(lakehouse_stream_tables_watched{L})")]),
        Panel("Events sent", [("{{stream}}", "sum by (stream) (rate(lakehouse_stream_events_total{L}[1m]))")], unit="ops"),
        Panel("Websockets that ended", [("{{code}}", "sum by (code) (increase(lakehouse_stream_connections_closed_total{L}[15m]))")]),
    ],
)  # fmt: skip

QUALITY = Dashboard(
    "quality", "Lakehouse: quality", "Scores, what is missing, how old it is.",
    [
        Panel("Mean score", [("{{market}} {{dataset}} {{interval}}",
              "min by (market, dataset, interval) (lakehouse_quality_score_mean{L})")], kind="bargauge", warn=0.9, low=True, width=12),
        Panel("Completeness", [("{{market}} {{dataset}} {{interval}}", "lakehouse:completeness:ratio{L}")],
              unit="percentunit", kind="bargauge", warn=0.99, low=True, width=12),
        Panel("Least score of a day", [("{{market}} {{dataset}} {{interval}}",
              "min by (market, dataset, interval) (lakehouse_quality_score_min{L})")], warn=0.9, low=True),
        Panel("Days under the threshold", [("{{market}} {{dataset}} {{interval}}",
              "max by (market, dataset, interval) (lakehouse_quality_scores_under_threshold{L})")]),
        Panel("Days with a score", [("{{market}} {{dataset}} {{interval}}",
              "max by (market, dataset, interval) (lakehouse_quality_scores{L})")]),
        Panel("Rows missing, by cause", [("{{cause}}",
              "sum by (cause) (max by (market, dataset, interval, cause) (lakehouse_missing_rows{L}))")], stacked=True),
        Panel("How old the newest row is", [("{{market}} {{dataset}} {{interval}}", "lakehouse:age:seconds{L}")], unit="s"),
        Panel("Alerts raised in an hour", [("{{market}} {{dataset}} {{rule}}", "lakehouse:alerts:increase1h{L}")]),
        Panel("Alerts delivered", [("{{market}} {{dataset}}",
              "max by (market, dataset) (lakehouse_alerts_delivered_total{L})"), ("waiting", "max(lakehouse_alerts_waiting{L})")]),
        Panel("Since the last assessment", [("{{market}} {{dataset}} {{interval}}",
              "time() - max by (market, dataset, interval) (lakehouse_assessment_timestamp_seconds{L})")], unit="s", warn=93600),
        Panel("Series", [("{{market}} {{dataset}} {{interval}}", "max by (market, dataset, interval) (lakehouse_quality_series{L})"),
              ("of the last run: {{state}}", "max by (state) (lakehouse_assessment_run_series{L})")]),
        Panel("Rows refused", [("{{workflow}} {{market}} {{dataset}}",
              "sum by (workflow, market, dataset) (increase(lakehouse_refused_rows_total{L}[1h]))")]),
    ],
)  # fmt: skip

QUERIES = Dashboard(
    "queries", "Lakehouse: queries", "The service: how much it is asked, how fast it answers, what it remembers.",
    [
        Panel("Answers a second", [("{{route}}", "sum by (route) (rate(lakehouse_requests_total{L}[5m]))")], unit="reqps", stacked=True),
        Panel("Errors of the service", [("{{lake}}", "lakehouse:request_errors:ratio5m{L}")], unit="percentunit", warn=0.05),
        Panel("By status", [("{{status}}", "sum by (status) (rate(lakehouse_requests_total{L}[5m]))")], unit="reqps", stacked=True),
        Panel("Median", [("{{route}}",
              "histogram_quantile(0.5, sum by (route, le) (rate(lakehouse_request_seconds_bucket{L}[5m])))")], unit="s", warn=0.3),
        Panel("Slowest twentieth", [("{{route}}",
              "histogram_quantile(0.95, sum by (route, le) (rate(lakehouse_request_seconds_bucket{L}[5m])))")], unit="s", warn=1),
        Panel("Answered within 250 ms", [("", 'sum(rate(lakehouse_request_seconds_bucket{le="0.25",route!~"/health|/ready|/metrics",L}[5m])) / sum(rate(lakehouse_request_seconds_count{route!~"/health|/ready|/metrics",L}[5m]))')],
              unit="percentunit"),
        Panel("Questions", [("in flight", "sum(lakehouse_questions_in_flight{L})"), ("waiting", "sum(lakehouse_questions_waiting{L})")], warn=100),
        Panel("Found in memory of answers", [("{{level}}",
              "sum by (level) (rate(lakehouse_answers_remembered_hits_total{L}[5m])) / (sum by (level) (rate(lakehouse_answers_remembered_hits_total{L}[5m])) + sum by (level) (rate(lakehouse_answers_remembered_misses_total{L}[5m])))")],
              unit="percentunit"),
        Panel("Levels that answer", [("{{level}}", "min by (level) (lakehouse_answers_remembered_up{L})")], warn=1, low=True),
        Panel("Bytes of answers", [("read from {{level}}", "sum by (level) (rate(lakehouse_answers_remembered_read_bytes_total{L}[5m]))"),
              ("written to {{level}}", "sum by (level) (rate(lakehouse_answers_remembered_written_bytes_total{L}[5m]))")], unit="Bps"),
        Panel("Memory of answers", [("", "sum(lakehouse_answers_remembered_bytes{L})")], unit="bytes"),
        Panel("Levels that fail", [("{{level}} errors", "sum by (level) (increase(lakehouse_answers_remembered_errors_total{L}[15m]))"),
              ("{{level}} skipped", "sum by (level) (increase(lakehouse_answers_remembered_skipped_total{L}[15m]))"),
              ("{{level}} damaged", "sum by (level) (increase(lakehouse_answers_remembered_damaged_total{L}[15m]))")]),
        Panel("Work saved", [("shared", "sum(rate(lakehouse_answers_shared_total{L}[5m]))"),
              ("not kept", "sum(rate(lakehouse_answers_unkept_total{L}[5m]))")], unit="ops"),
        Panel("Tables", [("{{table}}", "max by (table) (lakehouse_table_files{L})")]),
        Panel("Bytes of tables", [("{{table}}", "max by (table) (lakehouse_table_bytes{L})")], unit="bytes", stacked=True),
    ],
)  # fmt: skip

CLUSTER = Dashboard(
    "cluster", "Lakehouse: cluster", "The machines, Ray's resources, jobs.",
    [
        Panel("Nodes that answer", [("", 'sum(up{job="ray"})')], kind="stat", width=6),
        Panel("Jobs", [("{{state}}", "max by (state) (lakehouse_jobs)")], kind="bargauge", width=6),
        Panel("Oldest job", [("{{state}}", "time() - min by (state) (lakehouse_jobs_oldest_timestamp_seconds)")], unit="s", kind="stat", width=6),
        Panel("Since the service saw the lake", [("{{lake}}", "time() - max by (lake) (lakehouse_state_timestamp_seconds)")],
              unit="s", kind="stat", warn=600, width=6),
        Panel("CPU", [("{{instance}}", "ray_node_cpu_utilization")], unit="percent"),
        Panel("Memory", [("{{instance}}", "100 * ray_node_mem_used / ray_node_mem_total")], unit="percent", warn=90),
        Panel("Disk", [("{{instance}}", "max by (instance) (ray_node_disk_utilization_percentage)")], unit="percent", warn=85),
        Panel("Resources", [("{{Name}} {{State}}", 'sum by (Name, State) (ray_resources{Name=~"CPU|memory"})')]),
        Panel("Tasks", [("{{State}}", "sum by (State) (ray_tasks)")], stacked=True),
        Panel("Actors", [("{{Name}} {{State}}", "sum by (Name, State) (ray_actors)")], stacked=True),
        Panel("Object store", [("{{Location}}", "sum by (Location) (ray_object_store_memory)")], unit="bytes", stacked=True),
        Panel("Network", [("in", "sum(ray_node_network_receive_speed)"), ("out", "sum(ray_node_network_send_speed)")], unit="Bps"),
        Panel("Workers of pools", [("{{state}}", "sum by (state) (lakehouse_pool_workers)")]),
        Panel("Workers that died", [("{{Type}}", "sum by (Type) (increase(ray_node_manager_unexpected_worker_failure_total[15m]))")]),
    ],
    of_lake=False,
)  # fmt: skip

DASHBOARDS = (OVERVIEW, INGESTION, STREAMS, QUALITY, QUERIES, CLUSTER)


def document(board: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana's JSON model has it."""
    return {
        "uid": f"lakehouse-{board.name}",
        "title": board.title,
        "description": board.about,
        "tags": list(board.tags),
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "annotations": {"list": []},
        "links": [
            {"type": "dashboards", "title": "Lakehouse", "tags": ["lakehouse"], "asDropdown": True}
        ],
        "templating": {"list": [_lake_variable()] if board.of_lake else []},
        "panels": list(_panels(board)),
    }


def _panels(board: Dashboard) -> Iterator[dict[str, Any]]:
    x = y = 0
    for number, panel in enumerate(board.panels, start=1):
        if x + panel.width > _WIDTH:
            x, y = 0, y + _HEIGHT
        place = {"x": x, "y": y, "w": panel.width, "h": _HEIGHT}
        x += panel.width
        yield {
            "id": number,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.about,
            "datasource": SOURCE,
            "gridPos": place,
            "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
            "options": _options(panel),
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "datasource": SOURCE,
                    "expr": _q(expr),
                    "legendFormat": legend,
                    "instant": panel.kind in ("stat", "gauge", "table", "bargauge"),
                }
                for index, (legend, expr) in enumerate(panel.queries)
            ],
        }


def _defaults(panel: Panel) -> dict[str, Any]:
    well, ill = ("red", "green") if panel.low else ("green", "red")
    steps: list[dict[str, Any]] = [{"color": well, "value": None}]
    if panel.warn is not None:
        steps.append({"color": ill, "value": panel.warn})
    else:
        steps = [{"color": "blue", "value": None}]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        line = "line" if panel.warn is not None else "off"
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": line},
        }
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }  # fmt: skip
    return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}


def _lake_variable() -> dict[str, Any]:
    return {
        "name": "lake",
        "type": "query",
        "label": "Lake",
        "datasource": SOURCE,
        "query": {"query": "label_values(lakehouse_table_rows, lake)", "refId": "lake"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def text_of(board: Dashboard) -> str:
    return json.dumps(document(board), indent=2) + "\n"


def main(arguments: Sequence[str]) -> int:
    stale = [
        board
        for board in DASHBOARDS
        if not (path := FOLDER / f"{board.name}.json").is_file()
        or path.read_text() != text_of(board)
    ]
    if "--check" in arguments:
        for board in stale:
            print(f"{board.name}.json is not what dashboards.py describes", file=sys.stderr)  # noqa: T201
        return bool(stale)
    for board in stale:
        (FOLDER / f"{board.name}.json").write_text(text_of(board))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
