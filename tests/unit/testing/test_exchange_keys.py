"""Keys read back as written, and nothing else is taken for one."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse_ray.testing.exchange.keys import (
    FREQUENCIES,
    INTERVAL_SECONDS,
    ROOTS,
    SHAPES,
    ArchiveKey,
    next_month,
)

symbols = st.sampled_from(["BTCUSDT", "BTCUSD_PERP", "币安人生USDT", "BTCUSDT_240628", "1INCHUSDT"])


@st.composite
def keys(draw: st.DrawFn) -> ArchiveKey:
    frequency = draw(st.sampled_from(FREQUENCIES))
    dataset = draw(st.sampled_from(sorted(SHAPES)))
    period = draw(st.dates(date(2017, 1, 1), date(2030, 12, 31)))
    by_interval = SHAPES[dataset].by_interval
    return ArchiveKey(
        draw(st.sampled_from(sorted(ROOTS))),
        frequency,
        dataset,
        draw(symbols),
        draw(st.sampled_from(sorted(INTERVAL_SECONDS))) if by_interval else "",
        period if frequency == "daily" else period.replace(day=1),
    )


@given(keys())
def test_a_key_reads_back_as_written(key: ArchiveKey) -> None:
    assert ArchiveKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-01.zip.CHECKSUM",
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-13-01.zip",
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1h-2024-01-01.zip",
        "data/spot/daily/klines/ETHUSDT/1m/BTCUSDT-1m-2024-01-01.zip",
        "data/spot/weekly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-01.zip",
        "data/spot/daily/candles/BTCUSDT/1m/BTCUSDT-1m-2024-01-01.zip",
        "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-01.zip",
        "data/futures/xm/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-01-01.zip",
    ],
)
def test_what_is_no_zip_of_the_archive_is_no_key(text: str) -> None:
    assert ArchiveKey.parse(text) is None


@pytest.mark.parametrize(
    ("day", "after"),
    [
        (date(2024, 2, 29), date(2024, 3, 1)),
        (date(2024, 12, 31), date(2025, 1, 1)),
        (date(2025, 1, 1), date(2025, 2, 1)),
    ],
)
def test_the_month_after(day: date, after: date) -> None:
    assert next_month(day) == after
