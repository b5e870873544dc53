"""Structured logs on stderr and in a file: text for people, one JSON object a line for machines.

Every event has the ids of its process (command, job, run) and those of what it is at (unit, request).
Known secrets, and what looks like one, are hidden in all of it. stdout is for data.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import structlog

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.telemetry.redaction import Redaction

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["text", "json"]
Event = MutableMapping[str, Any]

_NUMBERS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# Of one line that was no event; the rest of it is dropped.
_LINE_CHARS_MAX = 16_000
# With what our own lines for people begin.
_LEVEL_OF_WORD = {"error": logging.ERROR, "warning": logging.WARNING}

_log = structlog.get_logger(__name__)
# Of this process, whichever thread says something.
_ids: dict[str, str] = {}


def configure(
    level: Level,
    style: Style,
    file: str = "",
    *,
    secrets: Iterable[str] = (),
    ids: dict[str, str] | None = None,
) -> None:
    """Send this process's logs to stderr, and to a file as JSON. Safe to repeat.

    In the style json whatever else is written to stderr becomes an event too, line by line.

    file: Added to; may be that of several processes. Empty: none. ids: Added to those of the
    process. Raises InvalidError where the file cannot be written.
    """
    _ids.update(ids or {})
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _Hiding(Redaction(secrets)),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    stream = sys.stderr.raw if isinstance(sys.stderr, EventLines) else sys.stderr
    text = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    json_ = structlog.processors.JSONRenderer(default=str)
    on_stderr = _AboveBars(stream)
    on_stderr.setFormatter(_formatter(json_ if style == "json" else text, shared))
    handlers: list[logging.Handler] = [on_stderr]
    if file:
        handlers.append(_Appending(file))
        handlers[-1].setFormatter(_formatter(json_, shared))
    # pyiceberg and others use the standard library's logging.
    logging.basicConfig(level=_NUMBERS[level], handlers=handlers, force=True)
    sys.stderr = EventLines(stream) if style == "json" else stream


@contextmanager
def at_work(what: str, **ids: str) -> Iterator[None]:
    """Say that something begins, and how it ended; what is said meanwhile has its ids."""
    with structlog.contextvars.bound_contextvars(**ids):
        began_s = time.monotonic()
        _log.info(f"{what} started")
        try:
            yield
        except Exception as error:
            _log.warning(
                f"{what} failed",
                seconds=round(time.monotonic() - began_s, 3),
                error=f"{type(error).__name__}: {error}",
            )
            raise
        _log.info(f"{what} ended", seconds=round(time.monotonic() - began_s, 3))


class _AboveBars(logging.StreamHandler[TextIO]):
    """stderr; where a bar of progress is drawn there, what is said comes above it, not into its line."""

    def __init__(self, raw: TextIO) -> None:
        super().__init__(raw)
        self._raw = raw

    def emit(self, record: logging.LogRecord) -> None:
        # What rich puts there while it draws. Any other stream in its place may lead back to here.
        drawn = getattr(sys.stderr, "rich_proxied_file", None) is self._raw
        self.stream = sys.stderr if drawn else self._raw
        super().emit(record)


class EventLines(io.TextIOBase):
    """stderr for who writes text to it: each line becomes an event. raw: The stream behind it."""

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw
        self._rest = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self._rest = self._rest[:_LINE_CHARS_MAX]
        for line in lines:
            self._tell(line)
        return len(text)

    def flush(self) -> None:
        self.raw.flush()

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        """It is the process's: the line that was begun is told."""
        if self._rest:
            self._tell(self._rest)
            self._rest = ""

    def _tell(self, line: str) -> None:
        told = line.strip()[:_LINE_CHARS_MAX]
        if told:
            number = _LEVEL_OF_WORD.get(told.partition(": ")[0], logging.INFO)
            # Handed to the handler: it is told whatever the level, as text would be.
            record = logging.LogRecord("stderr", number, "", 0, told, None, None)
            for handler in logging.getLogger().handlers:
                handler.handle(record)


class _Hiding:
    """Hides secrets in every text of an event, however deep."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def __call__(self, logger: object, method: str, event: Event) -> Event:
        for name, value in event.items():
            event[name] = self._hidden(value)
        return event

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redaction(value)
        if isinstance(value, dict):
            return {name: self._hidden(one) for name, one in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._hidden(one) for one in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redaction(str(value))


class _Appending(logging.Handler):
    """Whole lines added in one step each, so that several processes may share the file."""

    def __init__(self, file: str) -> None:
        super().__init__()
        try:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            self._number = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise InvalidError(
                f"log.file {file!r} cannot be written: {error.strerror}", "name another, or none"
            ) from error

    def emit(self, record: logging.LogRecord) -> None:
        # Where the disk is full there is nobody to tell, and the work is not to fail of its log.
        with contextlib.suppress(OSError):
            os.write(self._number, f"{self.format(record)}\n".encode())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._number)
        super().close()


def _formatter(
    renderer: structlog.typing.Processor, shared: list[structlog.typing.Processor]
) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        foreign_pre_chain=shared,
    )


def _with_ids(logger: object, method: str, event: Event) -> Event:
    for name, value in _ids.items():
        event.setdefault(name, value)
    return event
