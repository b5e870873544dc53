"""Metrics as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lakehouse_ray.pipeline.metrics_export import SHAPES
from lakehouse_ray.telemetry.exposition import SAMPLES_MAX, registry_of, text_of, write_textfile
from lakehouse_ray.telemetry.metrics import MetricShape

COUNTER = MetricShape("lakehouse_things", "counter", "Things", ("kind",))
GAUGE = MetricShape("lakehouse_level", "gauge", "A level")


def test_what_is_written_is_read_back() -> None:
    families = [(COUNTER, {("a",): 3.0, ('"\n\\',): 4.0}), (GAUGE, {(): 0.5})]
    text = text_of(registry_of(families, {"lake": "main"}))
    read = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    lake = ("lake", "main")
    assert read == {
        ("lakehouse_things_total", ("kind", "a"), lake): 3,
        ("lakehouse_things_total", ("kind", '"\n\\'), lake): 4,
        ("lakehouse_level", lake): 0.5,
    }


def test_names_are_unique_and_follow_the_conventions() -> None:
    names = [shape.exposed for shape in SHAPES]
    assert len(set(names)) == len(names)
    for shape in SHAPES:
        assert shape.exposed.startswith("lakehouse_")
        assert shape.exposed.endswith("_total") == (shape.kind == "counter")
        assert "symbol" not in shape.labels
        assert shape.doc


def test_samples_without_end_are_refused() -> None:
    many = {(str(n),): 1.0 for n in range(SAMPLES_MAX + 1)}
    with pytest.raises(ValueError):
        registry_of([(COUNTER, many)], {})


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "lakehouse.prom"
    write_textfile(path, registry_of([(GAUGE, {(): 1.0})], {}))
    before = path.read_text()

    class Broken:
        def collect(self) -> None:
            raise RuntimeError

    registry = registry_of([(GAUGE, {(): 2.0})], {})
    registry.register(Broken())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        write_textfile(path, registry)
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == ["lakehouse.prom"]
