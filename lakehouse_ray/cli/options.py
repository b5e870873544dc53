"""Options that several commands share."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

import structlog
import typer

from lakehouse_ray.assembly.logs import configure_logs
from lakehouse_ray.errors import InvalidError
from lakehouse_ray.runtime.jobs import job_id
from lakehouse_ray.settings import Settings, load_settings
from lakehouse_ray.telemetry.command import GIVEN

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Tracebacks of unexpected errors.")]
AddressOption = Annotated[
    str, typer.Option("--address", help="A Ray cluster to use instead of an own local Ray.")
]
HomeOption = Annotated[str, typer.Option("--home", help="Where the lake lives on this machine.")]

_log = structlog.get_logger()

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d)?")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def settings_of(*, home: str = "", address: str = "", **sections: dict[str, Any]) -> Settings:
    """Settings of a command, its own options first, with an absolute home."""
    overrides: dict[str, Any] = {name: values for name, values in sections.items() if values}
    if home:
        overrides["home"] = home
    if address:
        overrides["ray"] = {**overrides.get("ray", {}), "address": address}
    settings = load_settings(overrides)
    if os.environ.get("RAY_JOB_SUBMISSION_ID") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        _refuse_relative_home(settings)
    configure_logs(settings, command=next(iter(GIVEN.get()), ""), job=job_id())
    if settings.telemetry.port:
        _show(settings.telemetry.port)
    return settings.resolved()


def _show(port: int) -> None:
    """Show what this command counts; where another one has the port, it alone is seen."""
    # It brings a web server, which most commands start quicker without.
    from lakehouse_ray.telemetry import meter

    try:
        meter.show(port)
    except OSError as error:
        _log.warning("metrics are not shown", port=port, why=str(error))


def _refuse_relative_home(settings: Settings) -> None:
    """A job's working folder is a copy that Ray throws away."""
    local_data = not settings.storage.root or (
        "://" not in settings.storage.root and not settings.storage.root.startswith("/")
    )
    if not settings.home.is_absolute() and (local_data or not settings.catalog.uri):
        raise InvalidError(
            f"inside a Ray job the lake's home must be absolute, not {str(settings.home)!r}",
            "set LAKEHOUSE_HOME, or LAKEHOUSE_STORAGE__ROOT and LAKEHOUSE_CATALOG__URI, in the "
            "job's runtime environment",
        )


def duration_s(text: str) -> float | None:
    """Seconds of a length of time such as 90s, 10m, 24h; None where none is given."""
    if not text:
        return None
    match = _DURATION.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise InvalidError(f"no duration: {text!r}", "such as 90s, 10m, 24h")
    return float(match[1]) * _UNITS_S[match[2] or "s"]
