from __future__ import annotations

from pathlib import Path

import pytest
from support.openers import open_at_once

pytestmark = pytest.mark.integration


def test_several_processes_may_open_a_lake_that_nobody_has_made_yet(tmp_path: Path) -> None:
    """Eight times: without care about every other one ends in an error of some process."""
    assert open_at_once([tmp_path / str(n) for n in range(8)], processes=4) == []
