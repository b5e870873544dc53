"""How a command ends: exit codes, and errors as people and machines read them."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer
import typer.main

from lakehouse_ray.cli import stopping
from lakehouse_ray.cli.pipes import is_broken
from lakehouse_ray.errors import (
    BadDataError,
    ConflictError,
    DeniedError,
    InvalidError,
    LakehouseError,
    NotFoundError,
    ResourceError,
    UnavailableError,
)
from lakehouse_ray.telemetry.command import GIVEN

OK = 0
UNEXPECTED = 1
USAGE = 2
PARTIAL = 3
NOT_FOUND = 4
QUALITY = 5
DENIED = 6
UNAVAILABLE = 7
CONFLICT = 8
NO_ROOM = 75

# Typer carries its own copy of click, whose base of usage errors has no public name.
_USAGE_ERROR: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

# What went wrong in this process, as it was told.
TOLD: list[str] = []

# The first class that fits decides.
_CODES: tuple[tuple[type[Exception], int], ...] = (
    (NotFoundError, NOT_FOUND),
    (InvalidError, USAGE),
    (DeniedError, DENIED),
    (ResourceError, NO_ROOM),
    (UnavailableError, UNAVAILABLE),
    (ConflictError, CONFLICT),
    (BadDataError, PARTIAL),
    (PermissionError, DENIED),
)


def exit_code(error: BaseException) -> int:
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return UNEXPECTED


def run(load: Callable[[], Any], name: str, arguments: list[str]) -> int:
    """Load a command, run it to its end and return its exit code.

    load: Returns the command's function, or an app of sub-commands.
    """
    GIVEN.set((name, *arguments))
    try:
        command = as_command(load(), name)
        result = command.main(args=arguments, prog_name=f"lakehouse {name}", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except typer.Exit as ended:
        return ended.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _stopped(stopping.INTERRUPTED)
    except _USAGE_ERROR as error:
        message = error.format_message()  # type: ignore[attr-defined]
        # Of the sub-command, or of the job's command, whose options they are.
        context = getattr(error, "ctx", None)
        called = context.command_path if context is not None else f"lakehouse {name}"
        _tell(message, USAGE, "UsageError", f"`{called} --help` shows how it is called")
        return USAGE
    except LakehouseError as error:
        code = exit_code(error)
        _tell(str(error), code, type(error).__name__, error.hint)
        return code
    except SystemExit as ended:
        if is_broken(ended) or not isinstance(ended.__context__, BrokenPipeError):
            raise
        return _unexpected(ended.__context__, arguments)
    except Exception as error:  # the last border: reported, never swallowed
        if is_broken(error):
            raise
        told = stopping.told(error)
        return _unexpected(error, arguments) if told is None else _stopped(told)
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if type(error).__module__ != "pyo3_runtime":
            raise
        return _unexpected(error, arguments)


def _stopped(code: int) -> int:
    print("interrupted; what was committed stays, run it again to go on", file=sys.stderr)  # noqa: T201
    return code


def _unexpected(error: BaseException, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exception(error)
    _tell(
        f"unexpected {type(error).__name__}: {error}",
        UNEXPECTED,
        type(error).__name__,
        "run it again with --debug for the traceback, and report it",
    )
    return UNEXPECTED


def as_command(function: Any, name: str) -> Any:
    """A command that can be called, of its function or of an app of sub-commands."""
    if isinstance(function, typer.Typer):
        return typer.main.get_command(function)
    single = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    single.command(name)(function)
    return typer.main.get_command(single)


def _tell(message: str, code: int, kind: str, hint: str) -> None:
    """Say it on stderr; with --json the one document on stdout says it too."""
    TOLD.append(message)
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    if hint:
        print(f"hint: {hint}", file=sys.stderr)  # noqa: T201
    if "--json" in sys.argv:
        document = {"error": {"code": code, "title": kind, "detail": message, "hint": hint}}
        print(json.dumps(document))  # noqa: T201
