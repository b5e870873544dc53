"""All checks of a lake, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import duckdb

from lakehouse_ray.query.interrupting import interruptible
from lakehouse_ray.query.lake import Lake
from lakehouse_ray.query.verification import Verification, workbench
from lakehouse_ray.query.verify_files import verify_files, verify_objects
from lakehouse_ray.query.verify_ledger import verify_ledger
from lakehouse_ray.query.verify_rows import verify_rows


def verify(
    lake: Lake, *, deep: bool = False, say: Callable[[str], None] = lambda text: None
) -> Verification:
    """Check tables, ledger and files against each other. Changes nothing.

    deep: Also read every byte: all columns of all files, and the sha256 of every raw object.
    say: Is told what is being checked.
    """
    with workbench(lake, deep=deep, say=say) as bench:
        for check in (verify_files, verify_rows, verify_objects, verify_ledger):
            try:
                interruptible(bench.db, partial(check, bench))
            except duckdb.Error as error:
                bench.result.add(
                    "unreadable",
                    "a table could not be read; later checks were left out",
                    "`lakehouse verify --deep` names the file",
                    [str(error)],
                )
                break
        return bench.result
