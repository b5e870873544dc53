"""A real Prometheus and Alertmanager over a real cluster and service, as cluster/monitoring has them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
import ray
from support.commands import environment
from support.forked import completed
from support.monitoring import FOLDER, OF_RAY, RULE_TESTS, RULES, panel_queries
from support.prometheus import (
    Prometheus,
    alertmanager,
    binary,
    eventually,
    free_port,
    prometheus,
    promtool,
)
from support.promql import named
from support.receiver import Receiver, receiver
from support.served import running

from lakehouse_ray.assembly.writer import Writer
from lakehouse_ray.pipeline.quality_assessment import AssessmentRequest, assess
from lakehouse_ray.runtime.session import RaySession
from lakehouse_ray.runtime.shared import shared
from lakehouse_ray.serve.server import app_of
from lakehouse_ray.settings import load_settings
from lakehouse_ray.telemetry.meter import METERS
from lakehouse_ray.telemetry.metrics import ALL, CAPTURE, EXCHANGE, RUNS_ACTIVE, SERVICE, WORK
from lakehouse_ray.testing.exchange import Faults, ReplicaExchange, Rule, SyntheticArchive

pytestmark = pytest.mark.integration

ARCHIVE = SyntheticArchive(
    3, symbols=["AAAUSDT", "BBBUSDT"], markets=["spot"],
    start=date(2024, 5, 1), end=date(2024, 5, 4),
)  # fmt: skip
# Of six files two are broken: a third of the units.
FAULTS = Faults([Rule("*/BBBUSDT-1h-2024-05-0[12].zip", "corrupt_zip")])


@dataclass
class Watched:
    """metrics_port: Of Ray's exporter."""

    prometheus: Prometheus
    hook: Receiver
    metrics_port: int


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, ray_session: RaySession) -> Iterator[Watched]:
    """A run with broken files on a cluster, a service over its lake, and who watches them."""
    folder = tmp_path_factory.mktemp("monitoring")
    with ExitStack() as stack:
        exchange = stack.enter_context(ReplicaExchange(ARCHIVE, FAULTS))
        settings = load_settings(
            {
                "home": folder / "home",
                "binance": {"archive_url": exchange.url},
                "telemetry": {"state_every_s": 1.0},
            }
        ).resolved()
        hook = stack.enter_context(receiver())
        served = stack.enter_context(running(app_of(settings)))
        port = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]
        service = int(served.url.rsplit(":", 1)[1])
        warner = stack.enter_context(alertmanager(folder / "alertmanager", hook.url))
        config = configuration(folder, ray_port=port, serve_port=service, alertmanager_port=warner)
        watcher = stack.enter_context(prometheus(folder / "prometheus", {}, config))
        # A job comes to a cluster that is watched already.
        env = environment(
            HOME=folder / "home", BINANCE__ARCHIVE_URL=exchange.url, COMPUTE__LOCAL_BYTES_MAX=0
        )
        env |= {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")}
        job = completed(
            "ingest", "--market", "spot", "--dataset", "klines", "--interval", "1h", "--freq", "daily",
            "--symbols", "AAAUSDT,BBBUSDT", "--address", ray_session.address, "--json", env=env,
        )  # fmt: skip
        assert job.returncode == 3, job.stderr
        report = json.loads(job.stdout)
        assert (report["files"], report["quarantined"], report["executor"]) == (4, 2, "ray")
        # One more fails before it has anything to do, and one before it has a worker.
        build = ("build", "--address", ray_session.address)
        lost = completed(*build, "--symbols", "NOSUCH", env=env)
        assert lost.returncode == 4, lost.stderr
        lost = completed(*build, env=env | {"LAKEHOUSE_COMPUTE__PROFILE": "xlarge"})
        assert lost.returncode == 2, lost.stderr
        assess(Writer(settings), AssessmentRequest())
        yield Watched(watcher, hook, port)


def configuration(folder: Path, *, ray_port: int, serve_port: int, alertmanager_port: int) -> str:
    """The configuration as it is shipped, for this test's ports, and with little patience."""
    found = folder / "nodes.json"
    found.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{ray_port}"]}]))
    rules = folder / "rules"
    rules.mkdir()
    for path in RULES:
        text = re.sub(r"(?m)^( +)for: .*$", r"\1for: 0s", path.read_text())
        (rules / path.name).write_text(text)
    text = (FOLDER / "prometheus.yml").read_text()
    # What other tests of this process have counted, and go on to count, is of no run here.
    others = "|".join(sorted(set(re.findall(r'WorkerId="(\w+)"', shown_by_ray(ray_port)))))
    renaming = "    metric_relabel_configs:\n      - source_labels: [__name__]\n"
    assert text.count(renaming) == 2
    text = text.replace(
        renaming,
        "    metric_relabel_configs:\n"
        "      - source_labels: [__name__, WorkerId]\n"
        f"        regex: 'ray_lakehouse_.*_(total|bucket|count|sum);({others})'\n"
        "        action: drop\n"
        "      - source_labels: [__name__]\n",
        1,
    )
    closed = free_port()
    for before, after in (
        ("15s", "1s"), ("scrape_timeout: 10s", "scrape_timeout: 1s"),
        ("/tmp/ray/prom_metrics_service_discovery.json", str(found)),
        ("/tmp/lake-ray-", f"{folder}/lake-ray-"), ("- rules/", f"- {rules}/"),
        ("127.0.0.1:9093", f"127.0.0.1:{alertmanager_port}"),
        ("127.0.0.1:8080", f"127.0.0.1:{serve_port}"),
        ("127.0.0.1:9464", f"127.0.0.1:{closed}"), ("127.0.0.1:9100", f"127.0.0.1:{closed}"),
        ("127.0.0.1:9090", f"127.0.0.1:{closed}"),
    ):  # fmt: skip
        assert before in text, before
        text = text.replace(before, after)
    return text


def shown_by_ray(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def test_an_injected_failure_raises_its_alert_and_reaches_the_webhook(watched: Watched) -> None:
    def told() -> dict[str, str]:
        return {
            alert["labels"]["alertname"]: alert["annotations"]["runbook"]
            for call in watched.hook.received
            for alert in call.document["alerts"]
            if alert["status"] == "firing" and alert["labels"].get("lake") == "main"
        }

    eventually(lambda: "LakehouseErrorRate" in told(), lambda: str(told()))
    assert told()["LakehouseErrorRate"] == "docs/runbooks/LakehouseErrorRate.md"
    # The severity chose the way.
    calls = [c for c in watched.hook.received if b"LakehouseErrorRate" in c.body]
    assert {call.path for call in calls} == {"/lakehouse/critical"}
    ratio = watched.prometheus.value('lakehouse:error_ratio:15m{workflow="ingest"}')
    assert ratio == pytest.approx(2 / 6)
    assert watched.prometheus.value('sum(lakehouse_errors_total{workflow="ingest"})') == 2
    assert (
        watched.prometheus.value(
            'sum(lakehouse_committed_rows_total{workflow="ingest",market="spot",dataset="klines"})'
        )
        == 4 * 24
    )


def test_the_allocator_says_by_which_rules_it_sized_a_run(watched: Watched) -> None:
    sized = 'sum(lakehouse_pool_decisions_total{workload="ingest",action="sized"%s})'
    eventually(lambda: watched.prometheus.value(sized % ',rule="profile_of_kind"') == 1)
    # 4 KiB are worth one worker, whatever there is.
    assert watched.prometheus.value(sized % ',rule="workers_worth"') == 1
    assert watched.prometheus.value(sized % ',rule="local"') is None


def test_runs_that_fail_before_they_are_at_work_raise_their_alert(watched: Watched) -> None:
    failed = 'sum(lakehouse_runs_total{workflow="build",outcome="failed"})'
    eventually(lambda: watched.prometheus.value(failed) == 2)
    alert = 'ALERTS{alertname="LakehouseRunFailed",workflow="build",alertstate="firing"}'
    eventually(lambda: watched.prometheus.value(f"count({alert})") == 1)
    active = watched.prometheus.value('sum(lakehouse_runs_active{workflow="build"})')
    assert not active


def test_the_service_tells_of_tables_and_ray_of_the_rest(watched: Watched) -> None:
    value = watched.prometheus.value
    rows = 'lakehouse_table_rows{job="serve",lake="main",table="silver.klines_coarse"}'
    eventually(lambda: value(rows) == 4 * 24)
    newest = 'lakehouse_newest_row_timestamp_seconds{market="spot",dataset="klines",interval="1h"}'
    assert value(newest) is not None
    eventually(lambda: value('count(lakehouse_quality_score_mean{job="serve"})') == 1)
    # What each process of the service counts is not taken from a random one of them.
    assert value('count(lakehouse_requests_total{job="serve"})') is None


def test_every_metric_goes_through_rays_exporter_as_it_is_declared(watched: Watched) -> None:
    live = (*WORK, *EXCHANGE, *CAPTURE, *SERVICE)
    for shape in live:
        labels = tuple(f"test-{name}" for name in shape.labels)
        act = {"counter": METERS.add, "gauge": METERS.set, "histogram": METERS.observe}[shape.kind]
        act(shape, 1.0, labels)

    def shown() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        text = shown_by_ray(watched.metrics_port)
        for name, labels in re.findall(r"(?m)^([a-z]\w*)\{(.*)\} ", text):
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
        return found

    wanted = {f"ray_{series}" for shape in live for series in shape.series} | set(OF_RAY)
    metrics: dict[str, set[str]] = {}

    def complete() -> bool:
        """All at once: Ray forgets a gauge for a moment where a node is too busy to set it again."""
        metrics.clear()
        metrics.update(shown())
        return wanted <= set(metrics)

    # Ray tells of tasks and actors once there are some.
    with shared(list, "idle", methods=("copy",)) as idle:
        assert idle.copy() == []
        eventually(complete, lambda: str(wanted - set(metrics)))
    for shape in live:
        for series in shape.series:
            assert set(shape.labels) <= metrics[f"ray_{series}"], series
    for name, labels in OF_RAY.items():
        assert labels <= metrics[name], name
    # Ray forgets a gauge that is not set again.
    time.sleep(5)
    assert {f"ray_{shape.name}" for shape in live if shape.kind == "gauge"} <= set(shown())


def test_every_panel_is_answered(watched: Watched) -> None:
    """Each question is one to a real Prometheus; those about what happened here have an answer."""
    METERS.set(RUNS_ACTIVE, 0, ("ingest",))
    here = {"lakehouse_units_total", "lakehouse_table_rows", "lakehouse_quality_score_mean",
            "lakehouse_runs_active", "lakehouse:units:increase15m", "lakehouse:completeness:ratio",
            "lakehouse:age:seconds", "lakehouse_table_files"}  # fmt: skip

    def lacking() -> list[tuple[str, str]]:
        queries = [(where, expr) for where, expr, _ in panel_queries()]
        empty = [one for one in queries if not watched.prometheus.series(one[1])]
        return [one for one in empty if set(named(one[1]).selected) <= here]

    eventually(lambda: not lacking(), lambda: str(lacking()))


def test_rules_are_tested_each() -> None:
    done = promtool("check", "rules", *map(str, RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    done = promtool("test", "rules", *map(str, RULE_TESTS))
    assert done.returncode == 0, done.stdout + done.stderr
    tested = "\n".join(path.read_text() for path in RULE_TESTS)
    names = re.findall(r"alert: (\w+)", "\n".join(path.read_text() for path in RULES))
    assert [name for name in names if f"alertname: {name}\n" not in tested] == []


def test_questions_of_panels_are_promql(tmp_path: Path) -> None:
    groups = [{"record": f"a:{n}", "expr": expr} for n, (_, expr, _) in enumerate(panel_queries())]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": groups}]}))
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_are_as_the_conventions_want_them() -> None:
    names = [shape.name for shape in ALL]
    assert len(set(names)) == len(names)
    assert not any("symbol" in shape.labels for shape in ALL)
    assert all(re.fullmatch(r"lakehouse_[a-z_]+", name) for name in names)
    assert not any(name.endswith("_total") for name in names)


def test_the_configuration_is_one() -> None:
    done = promtool("check", "config", str(FOLDER / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    amtool = binary("amtool", "prometheus-alertmanager")
    checked = subprocess.run(
        [amtool, "check-config", str(FOLDER / "alertmanager.yml")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
