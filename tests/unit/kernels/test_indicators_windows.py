"""Windows put together of smaller ones, against every window taken by itself."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lakehouse_ray.kernels.indicators import recursions, windows

Floats = NDArray[np.float64]

PLAIN: dict[str, tuple[Callable[[Floats, int], Floats], Callable[[Floats], float]]] = {
    "sum": (windows.window_sum, lambda w: w.sum()),
    "mean": (windows.window_mean, lambda w: w.mean()),
    "max": (windows.window_max, lambda w: w.max()),
    "min": (windows.window_min, lambda w: w.min()),
    "rows since max": (windows.rows_since_max, lambda w: np.argmax(w[::-1])),
    "rows since min": (windows.rows_since_min, lambda w: np.argmin(w[::-1])),
    "weighted mean": (
        windows.window_weighted_mean,
        lambda w: np.average(w, weights=np.arange(1, w.size + 1)),
    ),
    "variance": (windows.window_variance, lambda w: w.var()),
}


@given(
    st.lists(st.integers(-50, 50), max_size=80), st.integers(1, 40), st.sampled_from(list(PLAIN))
)
def test_every_window_is_what_it_is_alone(values: list[int], n: int, kind: str) -> None:
    ours, alone = PLAIN[kind]
    rows = np.array(values, dtype=np.float64)
    found = ours(rows, n)
    assert found.size == rows.size
    assert np.isnan(found[: n - 1]).all()
    expected = [alone(rows[i - n + 1 : i + 1]) for i in range(n - 1, rows.size)]
    np.testing.assert_allclose(found[n - 1 :], expected, rtol=1e-12, atol=1e-11)


@given(st.lists(st.integers(-50, 50), max_size=60), st.integers(2, 20))
def test_a_slope_is_that_of_the_least_squares_line(values: list[int], n: int) -> None:
    rows = np.array(values, dtype=np.float64)
    found = windows.window_slope(rows, n)
    for i in range(n - 1, rows.size):
        slope = np.polyfit(np.arange(n), rows[i - n + 1 : i + 1], 1)[0]
        assert found[i] == pytest.approx(slope, abs=1e-11)


@given(st.lists(st.integers(-50, 50), max_size=60), st.integers(1, 20))
def test_a_mean_distance_is_taken_from_the_middle_given(values: list[int], n: int) -> None:
    rows = np.array(values, dtype=np.float64)
    middle = windows.window_mean(rows, n)
    found = windows.window_deviation(rows, middle, n)
    expected = [np.abs(rows[i - n + 1 : i + 1] - middle[i]).mean() for i in range(n - 1, rows.size)]
    np.testing.assert_allclose(found[n - 1 :], expected, atol=1e-12)
    assert np.isnan(found[: n - 1]).all()


def exact_slope(rows: Floats) -> float:
    exact = [Fraction(float(value)) for value in rows]
    middle = Fraction(len(exact) - 1, 2)
    products = sum((place - middle) * value for place, value in enumerate(exact))
    squares = sum((place - middle) ** 2 for place in range(len(exact)))
    return float(products / squares)


def test_high_prices_that_move_little_keep_their_digits() -> None:
    chance = np.random.default_rng(1)
    rows = 70_000 + np.cumsum(chance.normal(0, 0.5, 400))
    slopes, variances = windows.window_slope(rows, 14), windows.window_variance(rows, 20)
    largest = np.nanmax(np.abs(slopes))
    for i in range(20, 400, 7):
        slope = exact_slope(rows[i - 13 : i + 1])
        assert abs(slopes[i] - slope) < 1e-9 * max(abs(slope), 1e-3 * largest)
        window = [Fraction(float(value)) for value in rows[i - 19 : i + 1]]
        mean = sum(window) / 20
        variance = float(sum((value - mean) ** 2 for value in window) / 20)
        assert variances[i] == pytest.approx(variance, rel=1e-9)


@given(st.floats(1e-9, 1e6), st.integers(2, 40))
def test_equal_values_have_no_variance_and_no_slope(value: float, n: int) -> None:
    rows = np.full(50, value)
    assert (windows.window_slope(rows, n)[n - 1 :] <= 1e-15 * value).all()
    assert (windows.window_variance(rows, n)[n - 1 :] <= (1e-15 * value) ** 2).all()


def test_a_large_value_leaves_no_trace_once_it_is_out_of_the_window() -> None:
    rows = np.concatenate([[1e18], np.random.default_rng(2).normal(size=100)])
    for ours, _ in PLAIN.values():
        assert np.array_equal(ours(rows, 10)[11:], ours(rows[1:], 10)[10:])


def stepwise(values: Floats, begins: list[int], shares: Floats) -> Floats:
    found = np.full(values.size, np.nan)
    for i in range(values.size):
        if i in begins:
            found[i] = values[i]
        elif np.isnan(values[i]):
            found[i] = found[i - 1]
        else:
            found[i] = found[i - 1] + shares[i] * (values[i] - found[i - 1])
    return found


AVERAGES = {"exponential": recursions.exponential, "decaying": recursions.decaying}


@pytest.mark.parametrize("kind", AVERAGES)
@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=120),
    st.sets(st.integers(0, 119), min_size=1, max_size=20),
    st.sampled_from([1.0, 0.9, 2 / 3, 0.2, 1 / 14, 1e-3]),
    st.sets(st.integers(0, 119), max_size=4),
)
def test_an_average_goes_on_from_each_beginning_and_leaves_out_what_is_missing(
    kind: str, values: list[float], begins: set[int], alpha: float, holes: set[int]
) -> None:
    rows = np.array(values)
    starts = sorted(b for b in begins if b < rows.size)
    rows[[h for h in holes if h < rows.size and h not in begins]] = np.nan
    found = AVERAGES[kind](rows, np.array(starts, dtype=np.int64), alpha)
    expected = stepwise(rows, starts, np.full(rows.size, alpha))
    first = starts[0] if starts else rows.size
    np.testing.assert_allclose(found[first:], expected[first:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("alpha", [0.9, 0.5, 1 / 14, 1e-4])
def test_an_average_is_right_over_many_rows(kind: str, alpha: float) -> None:
    rows = np.random.default_rng(3).lognormal(0, 1, 20_000)
    begins = np.array([5, 9_000])
    found = AVERAGES[kind](rows, begins, alpha)
    expected = stepwise(rows, begins.tolist(), np.full(rows.size, alpha))
    np.testing.assert_allclose(found[5:], expected[5:], rtol=1e-12)


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(0, 1)), min_size=1, max_size=200),
    st.sets(st.integers(0, 199), min_size=1, max_size=5),
)
def test_an_average_with_shares_of_its_own_is_computed_as_row_by_row(
    rows: list[tuple[float, float]], begins: set[int]
) -> None:
    values, shares = (np.array(column) for column in zip(*rows, strict=True))
    starts = sorted(b for b in begins if b < values.size)
    found = recursions.adaptive(values, shares, np.array(starts, dtype=np.int64))
    expected = stepwise(values, starts, shares)
    first = starts[0] if starts else values.size
    np.testing.assert_allclose(found[first:], expected[first:], atol=1e-12)
