"""The folder of an own local Ray, and the file beside it that tells Prometheus of its exporter."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import psutil  # type: ignore[import-untyped]

# Sockets live in the temporary folder and their paths may have 107 bytes, of which Ray's own part
# takes about 65.
_LENGTH_MAX = 40
_PREFIX = "lake-ray-"


def make() -> Path:
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LENGTH_MAX - len(_PREFIX) - len("1234567-abcdefgh"):
        base = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))


def tell_prometheus(folder: Path, exporter: str) -> Path:
    """Name the exporter in a file as Prometheus' file_sd reads it; its pattern is /tmp/lake-ray-*.json.

    Ray's own file comes with a dashboard, which not every own Ray has, and lies within the folder,
    whose name nobody knows before.
    """
    written = folder / "targets"
    written.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [exporter]}]))
    written.chmod(0o644)  # Prometheus is another user
    return written.replace(folder.with_name(f"{folder.name}.json"))


def remove_leftovers() -> None:
    """Remove what own local Rays left whose process was killed. This process must have none."""
    for base in {tempfile.gettempdir(), "/tmp"}:
        for left in Path(base).glob(f"{_PREFIX}*-*"):
            pid = left.name.removeprefix(_PREFIX).partition("-")[0]
            with contextlib.suppress(OSError):
                mine = left.stat().st_uid == os.getuid()
                # In a container that was started anew this process has the id of the last one.
                ended = pid.isdigit() and (
                    int(pid) == os.getpid() or not psutil.pid_exists(int(pid))
                )
                if mine and ended and left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                elif mine and ended:
                    left.unlink()
