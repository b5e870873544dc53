"""How a command is told by a signal to end, and what it then ends with."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
_told: list[int] = []


def listen() -> None:
    """From now on SIGTERM ends the command by an exception, as SIGINT does.

    So commits in progress end and children are ended.
    """
    signal.signal(signal.SIGTERM, _terminate)


def told(error: BaseException | None = None) -> int | None:
    """The exit code of the signal that the command ends of; None where none came.

    The exception of a signal may come out as another, `error`: where it comes within `ray.wait`,
    Ray 2.60 raises a SystemExit(1) of its own; and where within `threading.Condition.wait`, before
    that has its lock back, leaving the lock is a RuntimeError.
    """
    if _told:
        return _told[0]
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        error = error.__context__
    return None


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _told.append(128 + number)
    raise SystemExit(_told[0])
