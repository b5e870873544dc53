from __future__ import annotations

import pytest

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.settings import load_settings


def test_a_variable_that_is_no_json_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_COMPUTE__SMALL", "1 CPU and 2 GiB")
    with pytest.raises(InvalidError, match=r"LAKEHOUSE_COMPUTE__SMALL$") as found:
        load_settings()
    assert "2 GiB" not in str(found.value)
