"""What a call in another process came to: a result, or the error as it was raised there.

Ray's own errors wrap the original in a class made on the fly. Carrying the outcome as a value keeps
type, message and attributes, whatever Ray does.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import cloudpickle

from lakehouse_ray.errors import LakehouseError


@dataclass(frozen=True)
class Failure:
    """An error on its way to the caller."""

    error: Exception


def attempt(call: Callable[[], Any], where: str) -> Any:
    """Return what `call` returns, or a `Failure` holding what it raised.

    where: Place to name in the note that is added to the error, with the traceback that does not
        pickle.
    """
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - the border: the caller gets it as it is
        error.add_note(f"in {where}:\n{''.join(traceback.format_tb(error.__traceback__))}")
        return Failure(portable(error))


def portable(error: Exception) -> Exception:
    """Return `error` where it survives pickling, else a LakehouseError that tells the same."""
    try:
        copy = cloudpickle.loads(cloudpickle.dumps(error))  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - a class of somebody else may raise anything here
        copy = None
    if type(copy) is type(error):
        return error
    told = LakehouseError(f"{type(error).__qualname__}: {error}")
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told
