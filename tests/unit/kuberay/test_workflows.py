"""Each workflow has a job, each schedule a workflow, and their command lines are those of the commands."""

from __future__ import annotations

import importlib
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer.main
from cronsim import CronSim
from support.manifests import Manifest, named, of_kind, rendered

from lakehouse_ray.cli.job_work import work_of
from lakehouse_ray.runtime.kuberay import DELETION_RULES

ROOT = Path(__file__).parents[3]
FOLDER = "/opt/lakehouse/jobs/"
SUBMIT = ["env", "--unset=LAKEHOUSE_HOME", "lakehouse", "jobs", "submit", "--follow"]
COMMANDS = {
    "bulk_ingestion.py": "ingest",
    "realtime_update.py": "update",
    "build_gold.py": "build",
    "quality_assessment.py": "quality",
    "stream_capture.py": "stream",
    "maintenance.py": "maintain",
}


def jobs(name: str = "overlays/production") -> list[Manifest]:
    return of_kind(rendered(name), "RayJob")


def words(job: Manifest) -> list[str]:
    return shlex.split(job["spec"]["entrypoint"])


def parse(arguments: list[str]) -> None:
    """Hold `python /opt/lakehouse/jobs/X.py …` against the options of the command behind it."""
    assert arguments[0] == "python"
    script = arguments[1].removeprefix(FOLDER)
    assert (ROOT / "jobs" / script).is_file(), script
    if script == "scheduler.py":
        assert arguments[2:] == []
        return
    name = COMMANDS[script]
    app = typer.Typer(add_completion=False)
    app.command()(getattr(importlib.import_module(f"lakehouse_ray.cli.{name}"), name))
    command = typer.main.get_command(app)
    command.make_context(name, arguments[2:])  # raises UsageError where it does not know one


def test_each_workflow_of_jobs_has_its_ray_job() -> None:
    scripts = {path.name for path in (ROOT / "jobs").glob("*.py")}
    assert {words(job)[1] for job in jobs()} == {FOLDER + script for script in scripts}


def test_command_lines_are_understood() -> None:
    for job in jobs():
        parse(words(job))
    for schedule in of_kind(rendered("overlays/production"), "CronJob"):
        (container,) = schedule["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert container["command"] == SUBMIT
        name, dashes, *options = container["args"]
        assert dashes == "--"
        # As the pod itself reads them, before it asks a cluster.
        with work_of(name, options) as work:
            assert work.workflow == schedule["metadata"]["labels"]["lakehouse-ray/workflow"]


def test_to_be_applied_starts_no_job() -> None:
    assert jobs()
    for name in ("overlays/dev", "overlays/production", "everything"):
        assert all(job["spec"]["suspend"] for job in jobs(name))


def test_runs_start_at_once_under_names_of_their_own() -> None:
    waiting = {job["metadata"]["name"]: job for job in jobs("overlays/production")}
    started = {job["metadata"]["name"]: job for job in jobs("runs/production")}
    assert set(started) == {f"{name}-run" for name in waiting}
    for name, job in waiting.items():
        run = started[f"{name}-run"]
        assert "suspend" not in run["spec"]
        assert run["metadata"]["labels"]["lakehouse-ray/job"] == name
        for field in ("entrypoint", "backoffLimit", "rayClusterSpec"):
            assert run["spec"][field] == job["spec"][field]


def test_one_label_selects_one_run() -> None:
    objects = rendered("runs/production")
    for job in of_kind(objects, "RayJob"):
        label = job["metadata"]["labels"]["lakehouse-ray/job"]
        assert [found for found in objects if found["metadata"].get("labels", {}).get("lakehouse-ray/job") == label] == [job]  # fmt: skip


def test_jobs_end_by_themselves_but_for_those_that_never_do() -> None:
    endless = {"stream-capture", "scheduler"}
    for job in jobs():
        spec = job["spec"]
        assert ("activeDeadlineSeconds" not in spec) == (job["metadata"]["name"] in endless)
        assert spec["preRunningDeadlineSeconds"] < spec.get("activeDeadlineSeconds", 1 << 30)


def test_runs_are_tried_again_and_leave_nothing_behind() -> None:
    tries = {
        "bulk-ingestion": 3, "realtime-update": 2, "build-gold": 2, "quality-assessment": 0,
        "maintenance": 2, "stream-capture": 100, "scheduler": 100,
    }  # fmt: skip
    for name in ("overlays/dev", "overlays/production"):
        found = {job["metadata"]["name"]: job["spec"]["backoffLimit"] for job in jobs(name)}
        assert found == tries
        for job in jobs(name):
            # Where somebody lets one go that waits: its cluster goes as well.
            assert job["spec"]["shutdownAfterJobFinishes"] is True
            assert job["spec"]["ttlSecondsAfterFinished"] == 600
    specs = [job["spec"] for name in ("runs/dev", "runs/production") for job in jobs(name)]
    crons = of_kind(rendered("everything"), "RayCronJob")
    assert crons
    for spec in (*specs, *(cron["spec"]["jobTemplate"] for cron in crons)):
        assert spec["deletionStrategy"]["deletionRules"] == list(DELETION_RULES)


def test_schedules_tick_and_never_overlap() -> None:
    for schedule in of_kind(rendered("overlays/production"), "CronJob"):
        spec = schedule["spec"]
        assert spec["timeZone"] == "Etc/UTC"
        assert spec["concurrencyPolicy"] == "Forbid"
        ticks = CronSim(spec["schedule"], datetime(2026, 1, 1, tzinfo=UTC))
        first, second = next(ticks), next(ticks)
        pause_s = (second - first).total_seconds()
        assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < pause_s


def test_ray_cron_jobs_are_the_same_schedules() -> None:
    gated = {job["metadata"]["name"]: job for job in of_kind(rendered("everything"), "RayCronJob")}
    assert of_kind(rendered("everything"), "CronJob") == []
    plain = of_kind(rendered("overlays/production"), "CronJob")
    assert set(gated) == {schedule["metadata"]["name"] for schedule in plain}
    for schedule in plain:
        other = gated[schedule["metadata"]["name"]]["spec"]
        spec = schedule["spec"]
        assert (other["schedule"], other["timeZone"]) == (spec["schedule"], spec["timeZone"])
        job = spec["jobTemplate"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        name, _, *options = container["args"]
        script = f"{FOLDER}{name.replace('-', '_')}.py"
        assert shlex.split(other["jobTemplate"]["entrypoint"]) == ["python", script, *options]
        assert other["jobTemplate"]["activeDeadlineSeconds"] == job["activeDeadlineSeconds"]


@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production"])
def test_schedules_submit_to_the_standing_cluster(name: str) -> None:
    objects = rendered(name)
    cluster = named(objects, "RayCluster", "lakehouse")["metadata"]["name"]
    for schedule in of_kind(objects, "CronJob"):
        assert schedule["spec"].get("suspend", False) == (name == "overlays/dev")
        (container,) = schedule["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        env = {one["name"]: one for one in container["env"]}
        # The names that the operator gives a cluster's service and the secret of its token.
        assert env["RAY_API_SERVER_ADDRESS"]["value"] == f"http://{cluster}-head-svc:8265"
        token = env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert token == {"name": cluster, "key": "auth_token"}
