"""What can go wrong, one class per thing a caller would do about it.

    LakehouseError
    + UnavailableError   a service did not answer           -> try again later
    + ConflictError      another writer committed first     -> reload, then try again
    + DeniedError        no permission                      -> mend rights or credentials  (also PermissionError)
    + ResourceError      disk or memory is full             -> make room, then run again
    + InvalidError       the request cannot be right        -> change the request          (also ValueError)
      x NotFoundError                                                                      (also LookupError)
    + BadDataError       bytes or rows break their contract -> quarantine, go on

What is answered, but not wholly, comes with an `UnreadWarning`.

Every class hands all its arguments to the base constructor, so that it survives pickling
between processes.
"""

from __future__ import annotations


class LakehouseError(Exception):
    """Base of all errors raised on purpose. `str()` says what happened, why, and what to do."""

    @property
    def hint(self) -> str:
        """What the reader can do next; empty where the message says it already."""
        return ""


class UnavailableError(LakehouseError):
    """A service did not answer in time or refused for now. Trying later may succeed.

    retry_after_s: How long the service asked to be left alone, if it said so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s)
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class ConflictError(LakehouseError):
    """Another writer committed first. Reload, merge again, try again."""


class DeniedError(LakehouseError, PermissionError):
    """The system or the service said no."""


class ResourceError(LakehouseError):
    """No room left: disk or memory. What was committed before stays readable."""


class InvalidError(LakehouseError, ValueError):
    """The request cannot be right, whatever the state of the world."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self._hint = hint

    def __str__(self) -> str:
        return self.message

    @property
    def hint(self) -> str:
        return self._hint


class NotFoundError(InvalidError, LookupError):
    """What was asked for does not exist."""


class BadDataError(LakehouseError):
    """Bytes or rows break their contract.

    reason: Stable code in capitals, the one shown in `silver.quarantine`, such as
        `CHECKSUM_MISMATCH`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class UnreadWarning(UserWarning):
    """An answer leaves out what lies in files that cannot be read; it says which series, and why."""
