"""The command that this process was asked for, for records of its runs."""

from __future__ import annotations

from contextvars import ContextVar

# The arguments of `lakehouse`, the command's name first; empty: it is used as a library.
GIVEN: ContextVar[tuple[str, ...]] = ContextVar("GIVEN", default=())
