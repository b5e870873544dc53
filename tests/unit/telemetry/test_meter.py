"""Counting while work is done."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from lakehouse_ray.telemetry.meter import PROCESS, Meters, ProcessMeter, add, show
from lakehouse_ray.telemetry.metrics import ALL, ROWS, MetricShape

COUNTER = MetricShape("lakehouse_things", "counter", "Things", ("kind",))
GAUGE = MetricShape("lakehouse_level", "gauge", "A level")
HISTOGRAM = MetricShape("lakehouse_time_seconds", "histogram", "A time", ("kind",), (0.1, 1.0))


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_several_are_told_the_same() -> None:
    first, second = ProcessMeter(), ProcessMeter()
    meters = Meters(first)
    meters.add(COUNTER, 2, ("a",))
    meters.listen(second)
    meters.add(COUNTER, 3, ("a",))
    meters.add(COUNTER, 0, ("b",))
    meters.set(GAUGE, 0.5, ())
    meters.observe(HISTOGRAM, 0.5, ("a",))
    meters.leave(second)
    meters.set(GAUGE, 0.75, ())
    told = {("lakehouse_time_seconds_bucket", "0.1", "a"): 0.0,
            ("lakehouse_time_seconds_bucket", "1.0", "a"): 1.0,
            ("lakehouse_time_seconds_bucket", "+Inf", "a"): 1.0,
            ("lakehouse_time_seconds_count", "a"): 1.0,
            ("lakehouse_time_seconds_sum", "a"): 0.5}  # fmt: skip
    # What is nought is not told: a counter that stays away has counted nothing.
    assert samples(first.text()) == told | {
        ("lakehouse_things_total", "a"): 5.0, ("lakehouse_level",): 0.75,
    }  # fmt: skip
    assert samples(second.text()) == told | {
        ("lakehouse_things_total", "a"): 3.0, ("lakehouse_level",): 0.5,
    }  # fmt: skip


def test_every_metric_can_be_counted() -> None:
    meter = ProcessMeter()
    for shape in ALL:
        act = {"counter": meter.add, "gauge": meter.set, "histogram": meter.observe}[shape.kind]
        act(shape, 1.0, tuple("x" for _ in shape.labels))
    names = {name for name, *_ in samples(meter.text())}
    assert names == {series for shape in ALL for series in shape.series}


def test_a_process_shows_what_it_counts_to_this_machine() -> None:
    port = show(0)
    before = samples(PROCESS.text()).get(("lakehouse_committed_rows_total", "d", "m", "w"), 0.0)
    add(ROWS, 7, "w", "m", "d")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = samples(answer.read())
    assert found[("lakehouse_committed_rows_total", "d", "m", "w")] == before + 7
