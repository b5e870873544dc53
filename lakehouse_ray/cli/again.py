"""Commands that a command runs, in the same lake."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.settings import Settings

# How a command ends that did what it could.
DONE = (endings.OK, endings.PARTIAL, endings.QUALITY)


def run_again(arguments: Sequence[str], settings: Settings, *, silent: bool) -> int:
    """Run `lakehouse` with these arguments in this process; returns the exit code.

    What it prints goes to stderr.
    """
    # It loads commands; who calls this is one.
    from lakehouse_ray.cli.app import dispatch

    left = [word for word in arguments if word != "--json"]
    if silent and "--quiet" not in left:
        left.append("--quiet")
    if not silent:
        typer.echo(f"going on with {shlex.join(['lakehouse', *left])}", err=True)
    with redirect_stdout(sys.stderr):
        return dispatch([*left, f"--home={settings.home}"])
