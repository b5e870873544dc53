"""Which tests stay together in one process when several run them."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: a file's tests share its fixtures. Those of chaos share their stages
    as well; they mostly wait, which leaves the cores to the others."""
    for item in items:
        folder = item.path.parent.name
        if folder in ("chaos", "integration"):
            name = folder if folder == "chaos" else item.path.stem
            item.add_marker(pytest.mark.xdist_group(name))
