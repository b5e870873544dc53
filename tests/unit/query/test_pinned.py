"""Kinds of series travel to workers."""

from __future__ import annotations

import pickle

import pytest

from lakehouse_ray.model.datasets.registry import DATASETS
from lakehouse_ray.query.pinned import Kind


@pytest.mark.parametrize("name", DATASETS)
def test_a_kind_has_the_declared_data_set_in_every_process(name: str) -> None:
    kind = Kind(DATASETS[name], "um", "1h" if DATASETS[name].bars else None)
    there = pickle.loads(pickle.dumps(kind))
    assert there == kind
    assert there.dataset is DATASETS[name]
