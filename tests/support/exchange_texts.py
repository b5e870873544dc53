"""Number texts of the exchange held against ours, as far as a double can hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

# From here on doubles lie farther apart than numbers of 8 decimals.
EIGHT_DECIMALS_BELOW = 2**26


def assert_same_texts(found: Sequence[Sequence[Any]], wanted: Sequence[Sequence[Any]]) -> int:
    """Every cell is the same, but for the last digits that no double tells apart.

    Returns how many cells differ in these.
    """
    assert len(found) == len(wanted)
    beyond = 0
    for row, told in zip(found, wanted, strict=True):
        for cell, said in zip(row, told, strict=True):
            if cell == said:
                continue
            assert isinstance(cell, str), (row, told)
            assert float(cell) == float(said) >= EIGHT_DECIMALS_BELOW, (row, told)
            assert abs(Decimal(cell) - Decimal(said)) <= Decimal(math.ulp(float(said)))
            assert len(cell.partition(".")[2]) == len(said.partition(".")[2])
            beyond += 1
    return beyond
