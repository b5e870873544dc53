"""docs/exchange.md names every route of REST and every fault that there is of its answers."""

from __future__ import annotations

import re
from pathlib import Path

from lakehouse_ray.testing.exchange import FAULTS
from lakehouse_ray.testing.exchange.api.routes import routes

PAGE = (Path(__file__).parents[3] / "docs" / "exchange.md").read_text()
NAMED = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))


def test_every_route_is_on_the_page() -> None:
    for path in routes(None):
        name = re.sub(r"^(api/v3|fapi/v1|dapi/v1|futures/data)/", "", path)
        general = re.sub(r"/.*", "/…", name)
        assert {name, general, f"/{path}"} & NAMED, path


def test_every_fault_of_an_answer_is_on_the_page() -> None:
    # What S3 alone says is of the bucket.
    of_rest = {name for name, kind in FAULTS.items() if kind.stage == "answer"} - {"s3_error"}
    assert of_rest <= NAMED
