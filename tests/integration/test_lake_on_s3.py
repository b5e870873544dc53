"""The whole ingestion with its data in a bucket and its catalog on this disk."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from support.buckets import SECRET, Bucket, moto, seaweedfs
from support.commands import KLINES_1M, run, serve
from support.in_process import run_here
from support.lakes import Contents, assert_same, read_lake
from support.stage import FAULTS, Stage, write

pytestmark = pytest.mark.integration

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as made:
        yield made


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A small archive, and what it becomes on a local disk."""
    folder = tmp_path_factory.mktemp("local")
    write(folder / "archive", SYMBOLS, date(2025, 1, 25), date(2025, 2, 5))
    with serve(folder / "archive", FAULTS) as url:
        empty = Stage(url, 0, Contents({}, {}, {}))
        code, said = run("ingest", *KLINES_1M, env=empty.environment(folder / "home", on_ray=False))
        assert code == 3, said
        yield Stage(url, code, read_lake(folder / "home"))


def environment(
    local: Stage, home: Path, settings: dict[str, str], *, on_ray: bool
) -> dict[str, str]:
    given = {f"LAKEHOUSE_{name}": value for name, value in settings.items()}
    return local.environment(home, on_ray=on_ray) | given


def read_bucket(bucket: Bucket, prefix: str, home: Path) -> Contents:
    objects = bucket.objects(f"{prefix}/bronze/")
    return read_lake(
        home, bucket.access.iceberg_properties(), {f"bronze/{k}": v for k, v in objects.items()}
    )


@pytest.mark.parametrize("on_ray", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_lake_in_a_bucket_equals_one_on_disk(
    local: Stage, bucket: Bucket, tmp_path: Path, on_ray: bool
) -> None:
    prefix = f"lakes/{'ray' if on_ray else 'here'}"
    env = environment(local, tmp_path, bucket.settings(prefix), on_ray=on_ray)
    code, said = run("ingest", *KLINES_1M, env=env)
    assert code == local.code, said
    assert SECRET not in said
    found = read_bucket(bucket, prefix, tmp_path)
    assert_same(found, local.contents)
    assert not (tmp_path / "data").exists()

    env = environment(local, tmp_path, bucket.settings(prefix), on_ray=False)
    again = run_here("ingest", *KLINES_1M, "--json", env=env)
    assert again.returncode == 0, again.stderr
    then = read_bucket(bucket, prefix, tmp_path)
    assert then.snapshots == found.snapshots
    assert_same(then, local.contents)

    counted = "select count(*) n from silver.klines"
    done = run_here("sql", counted, "--output", "ndjson", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"n": local.contents.rows("silver.klines_fine")}
    shown = run_here("config", "show", env=env)
    assert shown.returncode == 0
    assert SECRET not in shown.stdout + shown.stderr


def test_wrong_credentials_end_a_run_with_one_clear_message(
    local: Stage, bucket: Bucket, tmp_path: Path
) -> None:
    settings = bucket.settings("denied") | {"STORAGE__S3__SECRET_ACCESS_KEY": "not-the-secret"}
    code, said = run("ingest", *KLINES_1M, env=environment(local, tmp_path, settings, on_ray=False))
    assert code == 6, said
    assert said.count("error: ") == 1
    assert "credentials" in said
    assert "not-the-secret" not in said
    assert "Traceback" not in said
    assert bucket.objects("denied/") == {}


def test_a_bucket_that_is_not_there_ends_a_run_with_one_clear_message(
    local: Stage, tmp_path: Path
) -> None:
    with moto() as other:
        missing = Bucket("no-such-bucket", other.endpoint_url)
        env = environment(local, tmp_path, missing.settings("p"), on_ray=False)
        code, said = run("ingest", *KLINES_1M, env=env)
    assert code == 4, said
    assert said.count("error: ") == 1
    assert "no-such-bucket" in said
    assert "Traceback" not in said


def test_an_endpoint_that_is_not_there_ends_a_run_in_time(local: Stage, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        away = Bucket("lake", f"http://127.0.0.1:{closed.getsockname()[1]}")
        env = environment(local, tmp_path, away.settings("away"), on_ray=False)
        started = time.monotonic()
        code, said = run("ingest", *KLINES_1M, env=env)
    assert code == 7, said
    assert time.monotonic() - started < 60
    assert said.count("error: ") == 1
    assert "Traceback" not in said
    assert SECRET not in said
