"""From settings to the logs of a process."""

from __future__ import annotations

from lakehouse_ray.settings import Settings, secrets_of
from lakehouse_ray.telemetry.logs import configure


def configure_logs(settings: Settings, **ids: str) -> None:
    """Set up the logs of this process. ids: Those that have a value are in each of its events.

    Raises InvalidError where the file of logs cannot be written.
    """
    log = settings.log
    configure(
        log.level,
        log.format,
        log.file,
        secrets=secrets_of(settings),
        ids={name: value for name, value in ids.items() if value},
    )
