"""What `lakehouse jobs submit` is asked for, as work of a cluster: checked before it is sent."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.app import COMMANDS
from lakehouse_ray.errors import InvalidError, NotFoundError
from lakehouse_ray.runtime.lake_jobs import Work

# On the head's own path: its Python has this package. -P: no module of the working folder.
PYTHON = "python"
LAKEHOUSE = ("-P", "-m", "lakehouse_ray.cli")

# Names of jobs/ and of kuberay's jobs, and the commands that they are.
_COMMANDS: dict[str, tuple[str, ...]] = {
    "bulk-ingestion": ("ingest",),
    "realtime-update": ("update",),
    "build-gold": ("build",),
    "quality-assessment": ("quality",),
    "maintenance": ("maintain",),
    "stream-capture": ("stream",),
    "scheduler": ("schedule", "run"),
    "fold": ("fold",),
}
NAMES = tuple(_COMMANDS)
_FILE_BYTES_MAX = 1 << 20
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9]+")
# What a name tells of the work, in this order.
_SUBJECT = ("market", "dataset", "interval")


@contextlib.contextmanager
def work_of(job: str, arguments: Sequence[str]) -> Iterator[Work]:
    """The work that a name, or a file of Python, and its arguments mean.

    Raises NotFoundError where there is no such job or file, InvalidError and usage errors for
    arguments that its command would refuse.
    """
    if job.endswith(".py") or "/" in job:
        with _sent(Path(job)) as folder:
            stem = _NOT_IN_NAMES.sub("_", Path(job).stem).strip("_") or "job"
            yield Work(
                "job", stem, {"arguments": list(arguments)}, [Path(job).name, *arguments], folder
            )
        return
    by_command = {" ".join(command): command for command in _COMMANDS.values()}
    command = _COMMANDS.get(job) or by_command.get(job)
    if command is None:
        known = (*_COMMANDS, *by_command)
        near = difflib.get_close_matches(job, known, n=1)
        raise NotFoundError(
            f"there is no job {job[:100]!r}",
            f"did you mean {near[0]}?"
            if near
            else f"one of {', '.join(NAMES)}, or a file of Python",
        )
    given = _checked(command, arguments)
    subject = "-".join(
        _NOT_IN_NAMES.sub("_", str(given[name])) for name in _SUBJECT if given.get(name)
    )
    yield Work(
        command[0], subject[:60].rstrip("-") or "all", given, [*LAKEHOUSE, *command, *arguments]
    )


def _checked(command: Sequence[str], arguments: Sequence[str]) -> dict[str, Any]:
    """The options that are given, by name, as the command reads them."""
    module, function, _ = COMMANDS[command[0]]
    found: Any = endings.as_command(
        getattr(importlib.import_module(f"lakehouse_ray.cli.{module}"), function), command[0]
    )
    for name in command[1:]:
        found = found.commands[name]
    if any(part in ("--help", "-h") for part in arguments):
        raise InvalidError(
            "a job shows no help", f"`lakehouse {' '.join(command)} --help` does, here"
        )
    with found.make_context(f"lakehouse {' '.join(command)}", list(arguments)) as context:
        return {
            name: value
            for name, value in context.params.items()
            if context.get_parameter_source(name).name == "COMMANDLINE"
        }


@contextlib.contextmanager
def _sent(file: Path) -> Iterator[Path]:
    """A folder with this file alone: what lies beside it may be large, and secret."""
    if not file.is_file():
        near = [str(one) for one in sorted(file.parent.glob("*.py"))[:8]]
        raise NotFoundError(
            f"there is no file {str(file)!r} here",
            f"there are {', '.join(near)}" if near else f"or one of {', '.join(NAMES)}",
        )
    if file.stat().st_size > _FILE_BYTES_MAX:
        raise InvalidError(f"{file} is too large to be a job", "one file of Python, 1 MiB at most")
    with tempfile.TemporaryDirectory(prefix="lakehouse-job-") as folder:
        try:
            shutil.copyfile(file, Path(folder) / file.name)
        except OSError as error:
            raise InvalidError(f"{file} cannot be read: {error.strerror}") from error
        yield Path(folder)
