"""`lakehouse keys`: who may ask the service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakehouse_ray.cli import endings
from lakehouse_ray.cli.options import DebugOption, HomeOption, JsonOption, settings_of
from lakehouse_ray.cli.table import aligned
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.model.timespan import format_time

if TYPE_CHECKING:
    from lakehouse_ray.access.keys import Key

# Long enough to be no burden, short enough that a forgotten one ends.
DAYS = 90


def keys(
    action: Annotated[str, typer.Argument(help="create, list or revoke")],
    name: Annotated[
        str, typer.Argument(help="create: whose key it is, in words. revoke: its id.")
    ] = "",
    days: Annotated[int, typer.Option(help="create: days until it expires; 0: never.")] = DAYS,
    may: Annotated[
        str, typer.Option(help="create: what it allows beyond questions: jobs, to submit them.")
    ] = "",
    home: HomeOption = "",
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Make, list or revoke API keys of `lakehouse serve`.

    A key is shown once, on stdout; only its hash is kept. A running service hears of every change.

    Example: lakehouse keys create "research notebook" --days 30
    """
    # Loaded when they are needed: help and usage errors are quick.
    from lakehouse_ray.access.keys import KeyFile
    from lakehouse_ray.clock import SystemClock

    clock = SystemClock()
    file = KeyFile(settings_of(home=home).keys_path, clock)
    now_us = clock.now_us()
    if action == "create":
        made, key = file.create(
            name, days or None, [one.strip() for one in may.split(",") if one.strip()]
        )
        if json_:
            typer.echo(json.dumps({**_facts(made, now_us), "key": key}))
        else:
            typer.echo(key)
            until = "never" if made.expires_us is None else format_time(made.expires_us)
            typer.echo(f"key {made.id} of {made.name}, shown this once; expires: {until}", err=True)
    elif action == "list":
        found = file.all()
        if json_:
            typer.echo(json.dumps({"keys": [_facts(key, now_us) for key in found]}))
        else:
            columns = ("id", "name", "state", "may", "created", "expires")
            rows = [
                tuple(
                    ",".join(value) if isinstance(value, list) else value or ""
                    for value in map(_facts(key, now_us).get, columns)
                )
                for key in found
            ]
            typer.echo("\n".join(aligned(columns, rows)) if rows else "there are no keys yet")
    elif action == "revoke":
        revoked = file.revoke(name)
        if json_:
            typer.echo(json.dumps(_facts(revoked, now_us)))
        else:
            typer.echo(f"key {revoked.id} of {revoked.name} holds no more", err=True)
    else:
        raise InvalidError(f"unknown action {action!r}", "create, list or revoke")
    return endings.OK


def _facts(key: Key, now_us: int) -> dict[str, Any]:
    def told(moment_us: int | None) -> str | None:
        return None if moment_us is None else format_time(moment_us)

    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(now_us),
        "may": list(key.may),
        "created": told(key.created_us),
        "expires": told(key.expires_us),
        "revoked": told(key.revoked_us),
    }
