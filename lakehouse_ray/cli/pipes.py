"""Readers that leave early: `lakehouse … | head`."""

from __future__ import annotations

import os
import select

_STDOUT, _STDERR = 1, 2


def is_broken(error: BaseException | None) -> bool:
    """Whether an error, or the one on which something ended, is that nobody reads what is printed.

    A connection that broke is none of that.
    """
    if isinstance(error, SystemExit):
        error = error.__context__  # click ends with 1, without a word, on any pipe that is broken
    return isinstance(error, BrokenPipeError) and any(map(_unread, (_STDOUT, _STDERR)))


def hush() -> int:
    """Print nothing more; return the exit code: who reads has seen enough, which is no error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (_STDOUT, _STDERR):
        if _unread(stream):
            # What is buffered is written when the interpreter ends.
            os.dup2(nowhere, stream)
    return 0


def _unread(stream: int) -> bool:
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
