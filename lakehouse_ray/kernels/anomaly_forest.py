"""Bars that look wrong to an isolation forest: odd combinations of values that are each within limits.

A forest isolates a bar by random cuts; the fewer cuts it takes, the odder the bar (Liu, Ting and
Zhou, "Isolation Forest", ICDM 2008; their score s, 0.5 for an ordinary point, towards 1 for an odd
one). It knows nothing of time, so a bar is described by numbers that are already relative to the
bars before it. Needs scikit-learn: the extra `lakehouse-ray[ml]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lakehouse_ray.errors import InvalidError
from lakehouse_ray.kernels.anomaly import FINDINGS_SCHEMA, with_series

# What a bar is to the forest, in this order.
FEATURES = ("return", "range", "volume", "trade size", "taker share")
FOREST_COLUMNS = (
    "open_time", "high", "low", "close", "volume", "trades", "taker_buy_volume",
)  # fmt: skip
# Beyond this many scales a value is simply far; without a bound one wild bar would take all cuts.
_FAR = 50.0


@dataclass(frozen=True)
class ForestLimits:
    """score: Of the paper, above which a bar is a finding.

    window: Bars that the scales look back on.
    trees, sample: Of the forest. fit_rows: Bars it learns from at most, evenly taken.
    fit_least: Windows of bars below which nothing can be said of what is ordinary.
    """

    score: float = 0.75
    window: int = 240
    window_least: int = 60
    trees: int = 100
    sample: int = 512
    fit_rows: int = 50_000
    fit_least: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Forest:
    """A forest that has learned a symbol. It may be pickled and used on later bars."""

    model: Any
    limits: ForestLimits
    interval: str


def forest_installed() -> bool:
    """Whether scikit-learn is there."""
    return find_spec("sklearn") is not None


@dataclass
class Sample:
    """Bars of one symbol that a forest will learn from, taken evenly from pieces of the series.

    rows: About how many bars will come. Memory: 40 bytes for each of `fit_rows` bars, and the
    features of a piece.
    """

    interval: str
    rows: int
    limits: ForestLimits = field(default_factory=ForestLimits)
    _carry: pl.DataFrame | None = None
    _known: int = 0
    _taken: list[npt.NDArray[np.float64]] = field(default_factory=list)

    def take(self, bars: pl.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the features of bars, and which of them are known.

        bars: The next ones in order, as for `find_anomalies`, with trades and taker_buy_volume.
        """
        features, known, self._carry = _of_piece(bars, self._carry, self.interval, self.limits)
        learnt = features[known]
        step = max(1, -(-self.rows // self.limits.fit_rows))
        self._taken.append(learnt[-self._known % step :: step].copy())
        self._known += len(learnt)
        return features, known

    def fit(self) -> Forest | None:
        """Learn what is ordinary; None where there are too few bars (four windows) to say.

        The same bars give the same forest, however they were cut into pieces.
        Raises InvalidError where scikit-learn is not installed.
        """
        try:
            from sklearn.ensemble import IsolationForest  # type: ignore[import-untyped]
        except ImportError as error:
            raise InvalidError(
                "the isolation forest needs scikit-learn, which is not installed",
                "pip install 'lakehouse-ray[ml]', or leave the method out",
            ) from error
        if self._known < self.limits.fit_least * self.limits.window:
            return None
        features = np.concatenate(self._taken)
        model = IsolationForest(
            n_estimators=self.limits.trees,
            max_samples=min(self.limits.sample, len(features)),
            random_state=self.limits.seed,
        )
        return Forest(model.fit(features), self.limits, self.interval)


def fit_forest(
    bars: pl.DataFrame, interval: str, limits: ForestLimits | None = None
) -> Forest | None:
    """The same of a series that is there as a whole."""
    sample = Sample(interval, bars.height, limits or ForestLimits())
    sample.take(bars)
    return sample.fit()


def odd_bars(bars: pl.DataFrame, interval: str, limits: ForestLimits | None = None) -> pl.DataFrame:
    """Learn from a series that is there as a whole, and return its findings in FINDINGS_SCHEMA.

    What `fit_forest` and `forest_findings` find; features, which cost the most, are made once.
    """
    sample = Sample(interval, bars.height, limits or ForestLimits())
    features, known = sample.take(bars)
    forest = sample.fit()
    if forest is None:
        return pl.DataFrame(schema=FINDINGS_SCHEMA)
    return _scored(forest, bars, features, known)


def forest_findings(
    forest: Forest, bars: pl.DataFrame, carry: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return findings in FINDINGS_SCHEMA, and the carry for the next piece.

    carry: What the call on the piece before returned: its last `window` + 2 bars.
    """
    limits = forest.limits
    features, known, rest = _of_piece(bars, carry, forest.interval, limits)
    return _scored(forest, bars, features, known), rest


def _scored(
    forest: Forest,
    bars: pl.DataFrame,
    features: npt.NDArray[np.float64],
    known: npt.NDArray[np.bool_],
) -> pl.DataFrame:
    if not known.any():
        return pl.DataFrame(schema=FINDINGS_SCHEMA)
    # score_samples is the negative of the paper's score.
    scores = -forest.model.score_samples(features[known])
    times = bars["open_time"].filter(pl.Series(known))
    return _findings(times, features[known], scores, forest.limits)


def _of_piece(
    bars: pl.DataFrame, carry: pl.DataFrame | None, interval: str, limits: ForestLimits
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], pl.DataFrame]:
    """Features of a piece's bars, which of them are known, and the carry for the next piece."""
    rows = bars.select(FOREST_COLUMNS)
    before = 0
    if carry is not None:
        before = carry.height
        rows = pl.concat([carry, rows])
    features, known = _features(rows, interval, limits)
    return features[before:], known[before:], rows.tail(limits.window + 2)


def _features(
    bars: pl.DataFrame, interval: str, limits: ForestLimits
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """FEATURES of each bar, in scales of its own past; and which bars have them all."""
    rows = bars.select(FOREST_COLUMNS)
    series = with_series(rows, interval)
    traded = pl.col("traded")
    plain = series.select(
        pl.col("ret").alias("return"),
        (pl.col("high") / pl.col("low")).log().alias("range"),
        traded.log().alias("volume"),
        (traded / pl.when(pl.col("trades") > 0).then(pl.col("trades"))).log().alias("trade size"),
        (pl.col("taker_buy_volume") / traded).alias("taker share"),
    ).with_columns(pl.when(pl.all().is_finite()).then(pl.all()))
    marks = plain.select(
        pl.col(name)
        .shift(1)
        .rolling_quantile(q, "linear", limits.window, min_samples=limits.window_least)
        .alias(f"{name} {q}")
        for name in FEATURES
        for q in (0.25, 0.5, 0.75)
    )
    scaled = pl.concat([plain, marks], how="horizontal").select(map(_scaled, FEATURES))
    known = scaled.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    return scaled.fill_null(0.0).to_numpy(), known.copy()


def _scaled(name: str) -> pl.Expr:
    """A feature in scales of the bars before it, whose quartiles stand beside it."""
    low, middle, high = (pl.col(f"{name} {q}") for q in (0.25, 0.5, 0.75))
    # Half the distance between the quartiles is 0.6745 of a standard deviation in normal data.
    scale = (high - low) * (0.5 / 0.6744897501960817)
    deviation = pl.col(name) - middle
    return (
        pl.when(scale > 0)
        .then(deviation / scale)
        .when(deviation == 0)
        .then(0.0)
        .when(deviation.is_not_null() & scale.is_not_null())
        .then(deviation.sign() * _FAR)
        .clip(-_FAR, _FAR)
        .alias(name)
    )


def _findings(
    times: pl.Series,
    features: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    limits: ForestLimits,
) -> pl.DataFrame:
    odd = np.flatnonzero(scores > limits.score)
    rows = []
    for i in odd:
        order = np.argsort(-np.abs(features[i]), kind="stable")[:3]
        words = ", ".join(f"{FEATURES[j]} {features[i][j]:+.1f}" for j in order)
        rows.append(
            {
                "time": times[int(i)],
                "method": "isolation_forest",
                "score": float(scores[i] / limits.score),
                "value": float(scores[i]),
                "expected": 0.5,
                "reason": f"isolated with a score of {scores[i]:.3f}; farthest from what was usual, "
                f"in scales: {words}",
            }
        )
    return pl.DataFrame(rows, schema=FINDINGS_SCHEMA)
