"""How a command is told by a signal to end, and how its process then ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
# A signal's exception that came where nothing may raise is raised again after so long.
_AGAIN_S = 0.05
_told: list[int] = []


def listen() -> None:
    """From now on SIGTERM ends the command by an exception, as SIGINT does.

    So commits in progress end and children are ended. Python drops an exception that is raised
    within a destructor or a callback of native code: a signal that comes there is told again.
    """
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGALRM, _again)
    sys.unraisablehook = _dropped


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


def code_of(ended: SystemExit) -> int:
    """The exit code that the interpreter would end with; what is no code it says on stderr."""
    if ended.code is None or isinstance(ended.code, int):
        return ended.code or 0
    print(ended.code, file=sys.stderr)  # noqa: T201
    return 1


class Ending:
    """The process ends as soon as what was to be done at exit is done.

    Not by taking the interpreter apart: until Python 3.14 a native thread that asks for the
    interpreter meanwhile is ended by `pthread_exit`, which C++ (Arrow, DuckDB, Ray) may answer
    with `abort`, and a command that has ended well ends by SIGABRT.

    To be made before anything else registers with `atexit`, which goes from the last to the first.
    """

    def __init__(self) -> None:
        self._code = 1  # where the command ends by an exception that nobody expected
        self._process = os.getpid()
        atexit.register(self._leave)

    def with_code(self, code: int) -> NoReturn:
        """End so; a signal that comes now changes nothing more."""
        self._code = code
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        sys.unraisablehook = sys.__unraisablehook__
        sys.exit(code)

    def _leave(self) -> None:
        if os.getpid() != self._process:  # a fork
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(self._code)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _told.append(128 + number)
    raise SystemExit(_told[0])


def _again(number: int, frame: FrameType | None) -> NoReturn:
    if _told:
        raise SystemExit(_told[0])
    raise KeyboardInterrupt


def _dropped(dropped: sys.UnraisableHookArgs) -> None:
    if dropped.exc_type is KeyboardInterrupt or (_told and dropped.exc_type is SystemExit):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(dropped)
