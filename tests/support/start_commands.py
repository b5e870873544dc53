"""Command lines of Ray and of `lakehouse` in files of cluster/, read by the programs' own parsers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.serve import serve

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return found


def options(command: str) -> dict[str, Any]:
    """What `ray start …` or `lakehouse serve …` would be told. Raises where it would be refused."""
    from ray.scripts.scripts import start

    program, verb, *arguments = shlex.split(command)
    reader: Any = {
        ("ray", "start"): start,
        ("lakehouse", "serve"): endings.as_command(serve, "serve"),
    }[program, verb]
    return dict(reader.make_context(verb, arguments).params)
