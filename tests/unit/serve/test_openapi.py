"""The OpenAPI document says what is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.serve.app import create_app
from lakehouse_ray.serve.service import Source
from lakehouse_ray.storage.objects import LocalStore


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("openapi")
    return create_app(
        Source(lambda name: None, lambda names: {}, LocalStore(folder), folder)
    ).openapi()


def test_every_data_set_has_a_path(document: dict[str, Any]) -> None:
    assert {f"/v1/{name}" for name in DATASETS} <= set(document["paths"])


def test_errors_are_problems(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if status == "400":  # of who speaks HTTP for the application
                    assert "content" not in answer
                elif status > "400":
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)
                    schema = answer["content"]["application/problem+json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ProblemDocument"}
    assert "HTTPValidationError" not in str(document)


def test_what_is_needed_has_an_example(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["required"]:
                    assert parameter["schema"]["examples"], (path, parameter["name"])
