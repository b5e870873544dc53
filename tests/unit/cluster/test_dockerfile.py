"""`cluster/Dockerfile`: what it copies and runs is there, pinned, and not root's."""

from __future__ import annotations

import fnmatch
import re
import tomllib

import yaml
from support.start_commands import CLUSTER, ROOT

TEXT = (CLUSTER / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", TEXT)
    lines = [line.strip() for line in joined.splitlines() if line.strip()]
    return [
        (word, rest.strip())
        for word, _, rest in (line.partition(" ") for line in lines if not line.startswith("#"))
    ]


def all_of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def test_what_it_copies_is_there_and_let_through() -> None:
    let_through = [
        line[1:]
        for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = {
        source
        for rest in all_of("COPY")
        if not rest.startswith("--from=build ")
        for source in rest.split()[:-1]
    }
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, one) for one in let_through), source
    assert copied == set(let_through)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # Without these hatchling builds no wheel.
    assert {
        project["readme"],
        *project["license-files"],
        "pyproject.toml",
        "lakehouse_ray",
    } <= copied


def test_what_is_installed_is_pinned_and_comes_from_no_host_that_it_names() -> None:
    (install,) = [rest for rest in all_of("RUN") if "pip install" in rest]
    extras = re.search(r'"\.\[([\w,]+)\]"', install)
    assert extras is not None
    assert "-c constraints.txt" in install
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    images = {rest.split()[0] for rest in all_of("FROM")}
    assert images == {"python:3.11-slim-bookworm"}
    assert "://" not in TEXT


def test_it_runs_as_the_user_and_with_the_files_that_clusters_expect() -> None:
    assert all_of("USER") == ["1000:1000"]
    assert instructions()[-2:] == [("USER", "1000:1000"), ("CMD", '["lakehouse", "--help"]')]
    assert "COPY jobs /opt/lakehouse/jobs" in TEXT
    entrypoints = [
        yaml.safe_load(path.read_text())["spec"]["entrypoint"]
        for path in (ROOT / "kuberay" / "base" / "jobs").glob("*.yaml")
        if "entrypoint:" in path.read_text()
    ]
    assert entrypoints
    for entrypoint in entrypoints:
        script = entrypoint.split()[1]
        assert script.startswith("/opt/lakehouse/jobs/")
        assert (ROOT / "jobs" / script.rpartition("/")[2]).is_file()
