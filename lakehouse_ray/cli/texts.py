"""A text to stdout or to a file that appears when it is complete."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

import typer

from lakehouse_ray.storage.objects import explain


def put_text(text: str, out: Path | None) -> None:
    """Write a text and a line's end. Raises LakehouseError where it cannot be written."""
    if out is None:
        typer.echo(text)
        return
    aside = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        aside.write_text(f"{text}\n", encoding="utf-8")
        os.replace(aside, out)
    except OSError as error:
        raise explain(error, f"writing {out}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
