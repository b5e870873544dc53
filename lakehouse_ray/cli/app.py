"""The command `lakehouse`. A command's module is loaded when it is called, so that help is quick."""

from __future__ import annotations

import difflib
import gc
import importlib
import importlib.metadata
import os
import sys
from typing import NoReturn

from lakehouse_ray.cli import stopping
from lakehouse_ray.cli.pipes import hush, is_broken

# Name of each command: its module and function, and its line of help.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("demo", "demo", "Show the whole way, offline: archive, bronze, silver, an answer."),
    "exchange": ("exchange", "exchange", "Run the replica exchange."),
    "ingest": ("ingest", "ingest", "Bring the archive's files into the lake."),
    "update": ("update", "update", "Fill gaps and the latest rows by the exchange's REST."),
    "stream": ("stream", "stream", "Capture live rows from the websocket."),
    "live": ("live", "live", "Print rows as they are committed."),
    "fold": ("fold", "fold", "Merge live rows of closed hours into the main tables."),
    "build": ("build", "build", "Build derived tables where something has changed."),
    "bhds": ("bhds", "bhds", "Write BHDS's folders from the lake, or list where its bars differ."),
    "sql": ("sql", "sql", "Ask the lake in SQL."),
    "get": ("get", "get", "Print bars or other rows of one symbol."),
    "datasets": ("datasets", "datasets", "List the data sets and what the lake has of them."),
    "universe": ("universe", "universe", "List the symbols that traded at a moment, and why."),
    "gaps": ("gaps", "gaps", "List what is missing in the lake, and why."),
    "coverage": ("coverage", "coverage", "Show how much of each symbol's day is there."),
    "why": ("why", "why", "Say which object, version, line and rule gave a bar its value."),
    "quality": ("quality", "quality", "Score every symbol's day, and say why it is no better."),
    "schedule": (
        "schedule",
        "schedule",
        "Run workflows by the clock, and say what became of them.",
    ),
    "serve": ("serve", "serve", "Answer questions over HTTP."),
    "jobs": ("jobs", "jobs", "Submit workflows to a Ray cluster, watch and stop them."),
    "cluster": ("cluster", "cluster", "Look at, scale and use the lake on KubeRay."),
    "keys": ("keys", "keys", "Make, list or revoke API keys of the service."),
    "verify": ("verify", "verify", "Check tables, ledger and files against each other."),
    "resume": ("resume", "resume", "Go on with what killed runs left."),
    "repair": ("repair", "repair", "Take lost files out of their tables, to be made anew."),
    "maintain": (
        "maintain",
        "maintain",
        "Compact tables, expire snapshots, remove files of nobody.",
    ),
    "doctor": ("doctor", "doctor", "Say what is wrong with this installation and how to mend it."),
    "config": ("config", "config", "Show every setting, its value and where it came from."),
}

_COLLECT_AFTER = 100_000

# Those that run as jobs of a cluster.
JOBS = ("ingest", "update", "fold", "build", "quality", "maintain", "stream", "schedule")
# Ray sets it for the process of a job.
_JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"

_USAGE = """Usage: lakehouse COMMAND [OPTIONS]

A crypto market-data lakehouse on Ray. Data goes to stdout, all else to stderr.
Times are ISO and UTC; ranges are half-open, [start, end): --end 2024-02 ends with January.

Commands:
{commands}

Examples:
  lakehouse demo
  lakehouse ingest --market spot --dataset klines --interval 1m --symbols BTCUSDT --start 2024-01
  lakehouse sql "select symbol, count(*) from silver.klines group by symbol"
  lakehouse COMMAND --help

Exit codes: 0 ok, 1 unexpected, 2 usage, 3 partial, 4 not found, 5 quality, 6 permission,
7 unavailable, 8 conflict, 75 no room, 130 interrupted, 143 terminated."""


def usage() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = (f"  {name:<{width}}  {entry[2]}" for name, entry in COMMANDS.items())
    return _USAGE.format(commands="\n".join(lines))


def main(*arguments: str) -> NoReturn:
    """Run the command line; every end has an exit code and every error a message.

    arguments: Those of the process where none are given.
    """
    # A million objects of libraries stay until the end: looking for circles among them after each 700
    # new ones, as Python does, is a tenth of what a command takes to begin.
    gc.set_threshold(_COLLECT_AFTER, 10, 10)
    ending = stopping.Ending()
    stopping.listen()
    try:
        code = dispatch(list(arguments) or sys.argv[1:])
        sys.stdout.flush()
    except (SystemExit, BrokenPipeError) as ended:
        if is_broken(ended):
            ending.with_code(hush())
        if not isinstance(ended, SystemExit):
            raise
        told = stopping.told()
        ending.with_code(stopping.code_of(ended) if told is None else told)
    ending.with_code(code)


def dispatch(arguments: list[str]) -> int:
    """Run one command with its arguments and return its exit code."""
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        print(usage())  # noqa: T201
        return 0
    if name == "--version":
        print(importlib.metadata.version("lakehouse-ray"))  # noqa: T201
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "`lakehouse --help` lists the commands"
        print(f"error: no command {name!r}\nhint: {hint}", file=sys.stderr)  # noqa: T201
        return 2
    module_name, function_name, _ = COMMANDS[name]
    endings = importlib.import_module("lakehouse_ray.cli.endings")

    def run() -> int:
        code: int = endings.run(
            lambda: getattr(
                importlib.import_module(f"lakehouse_ray.cli.{module_name}"), function_name
            ),
            name,
            arguments[1:],
        )
        return code

    if _JOB_MARK not in os.environ or name not in JOBS:
        return run()
    # Before it is connected to the cluster: nodes that share a machine share the job's working folder, and
    # unpack it anew when they first hear of the job (Ray 2.60).
    importlib.import_module(f"lakehouse_ray.cli.{module_name}")
    # Its cluster may be gone when somebody asks what became of it.
    recorded = importlib.import_module("lakehouse_ray.cli.job_ending").recorded
    code: int = recorded(run, arguments)
    return code
