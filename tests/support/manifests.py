"""The manifests of kuberay/ as kustomize renders them, and ways to look into them."""

from __future__ import annotations

import atexit
import copy
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from support import kubectl

KUBERAY = Path(__file__).parents[2] / "kuberay"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# All that may be put onto a production; the order is that of their own words.
EVERYTHING = """
namespace: lakehouse
resources: [{base}]
components:
- {components}/tls
- {components}/shape
- {components}/query
- {components}/spot
- {components}/redis
- {components}/incremental-upgrade
- {components}/raycronjobs
"""
RENDERED = ("overlays/dev", "overlays/production", "runs/dev", "runs/production", "everything")

Manifest = dict[str, Any]


def rendered(name: str) -> list[Manifest]:
    """The objects of a folder of kuberay/, or of `everything`; fresh ones each time."""
    return copy.deepcopy(_rendered(name))


@cache
def _rendered(name: str) -> list[Manifest]:
    return [found for found in yaml.load_all(_text(name), LOADER) if found]


@cache
def _folder() -> Path:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        alone = tempfile.mkdtemp(prefix="lakehouse-manifests-")
        atexit.register(shutil.rmtree, alone, ignore_errors=True)
        return Path(alone)
    together = Path(tempfile.gettempdir()) / f"lakehouse-manifests-{run}"
    together.mkdir(mode=0o700, exist_ok=True)
    return together


def _text(name: str) -> str:
    """Rendered once for all processes of a run of tests: it takes seconds."""
    folder = _folder()
    kept = folder / f"{name.replace('/', '-')}.yaml"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_text(_render(name, folder))
        return kept.read_text()


def _render(name: str, folder: Path) -> str:
    path = KUBERAY / name
    if name == "everything":
        path = folder / name
        path.mkdir(exist_ok=True)
        relative = os.path.relpath(KUBERAY, path.resolve())
        text = EVERYTHING.format(base=f"{relative}/base", components=f"{relative}/components")
        (path / "kustomization.yaml").write_text(text)
    command = [kubectl.find(), "kustomize", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_kind(objects: list[Manifest], kind: str) -> list[Manifest]:
    return [found for found in objects if found["kind"] == kind]


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (found for found in of_kind(objects, kind) if found["metadata"]["name"] == name)
    return found


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def clusters(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every specification of a Ray cluster, with the title of what holds it."""
    for found in objects:
        spec = found.get("spec", {})
        if found["kind"] == "RayCluster":
            yield title(found), spec
        elif found["kind"] == "RayJob":
            yield title(found), spec["rayClusterSpec"]
        elif found["kind"] == "RayService":
            yield title(found), spec["rayClusterConfig"]
        elif found["kind"] == "RayCronJob":
            yield title(found), spec["jobTemplate"]["rayClusterSpec"]


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every template of a pod (`metadata`, `spec`), the autoscaler's container among a head's."""
    for owner, cluster in clusters(objects):
        head = copy.deepcopy(cluster["headGroupSpec"]["template"])
        options = cluster["autoscalerOptions"]
        ours = ("env", "resources", "securityContext", "volumeMounts")
        # The operator takes the image of Ray beside it.
        autoscaler = {"name": "autoscaler", "image": head["spec"]["containers"][0]["image"]}
        autoscaler |= {name: options[name] for name in ours if name in options}
        head["spec"]["containers"].append(autoscaler)
        yield f"{owner}/head", head
        for group in cluster["workerGroupSpecs"]:
            yield f"{owner}/{group['groupName']}", group["template"]
    for found in of_kind(objects, "CronJob"):
        yield title(found), found["spec"]["jobTemplate"]["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
