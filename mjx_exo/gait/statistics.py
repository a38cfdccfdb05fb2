"""Statistics of a comparison between arms (no device, worn and off, assisted), written before its results are known.

The unit of inference is the training seed: everything below a seed (trials, wearers, strides) is averaged first, seeds
are paired across arms, and an interval is Student's t over per-seed values. Cells of the speed × slope grid are fixed
conditions, not samples. Arms are compared at the speed they achieve, not the one they were told. A best cell is chosen
on one half of the seeds and reported on the other, because the best of many cells always looks good on the data that
chose it.

Arrays are numpy; axes are named in each docstring: S seeds, C cells, A arms, W wearers. Reductions are percent of the
baseline, positive when the other arm is lower. Wrong shapes and too few seeds raise ValueError.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
REDUCTION_POINTS = 0.3  # a physics step is fine if half of it moves no reduction by more, percentage points


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its two-sided interval over `count` independent values."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def above_zero(self) -> bool:
        """The whole interval is on the side of a positive value (for reductions: of a benefit)."""
        return self.low > 0.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A fitted line y = intercept + slope·x and the interval of its slope."""

    slope: float
    intercept: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class BestCell:
    """The cell that looked best on `choosing` seeds, and what the `reporting` seeds say about it."""

    cell: int
    choosing: tuple[int, ...]
    reporting: tuple[int, ...]
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Spread:
    """How wearers differ, shown beside an interval and never mixed into it."""

    mean: float
    sd: float
    p10: float
    p90: float
    share_positive: float
    count: int


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values [S], S ≥ 2."""
    x = _finite(values, 1, "values")
    if x.size < 2:
        raise ValueError(f"an interval needs at least 2 independent values, got {x.size}")
    mean = float(x.mean())
    half = float(stats.t.ppf(0.5 + confidence / 2.0, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def reduction_percent(baseline: ArrayLike, other: ArrayLike) -> Floats:
    """100·(1 − other/baseline), elementwise; a baseline must be positive."""
    base = np.asarray(baseline, np.float64)
    if not np.all(base > 0.0):
        raise ValueError("a reduction in percent needs a positive baseline")
    return 100.0 * (1.0 - np.asarray(other, np.float64) / base)


def grid_reduction_percent(baseline: ArrayLike, other: ArrayLike, kept: ArrayLike | None = None) -> Floats:
    """Per-seed average over the grid [S] of the cells' reductions, from values [S, C] of two arms paired by seed.

    `kept` [C] bool leaves cells out, for all seeds alike; every kept cell weighs the same.
    """
    reduction = reduction_percent(_finite(baseline, 2, "baseline"), _finite(other, 2, "other"))
    mask = np.ones(reduction.shape[1], bool) if kept is None else np.asarray(kept, bool)
    if not mask.any():
        raise ValueError("no cell of the grid is left")
    return reduction[:, mask].mean(axis=1)


def kept_cells(fall_share: ArrayLike, limit: float = 0.05) -> NDArray[np.bool_]:
    """Cells [C] in which no arm falls in more than `limit` of its trials, from shares of trials with a fall [A, C].

    A cell left out is left out for all arms; a cell nobody measured (NaN) is left out too.
    """
    share = np.asarray(fall_share, np.float64)
    if share.ndim != 2:
        raise ValueError(f"fall_share must be [arms, cells], got shape {share.shape}")
    return np.all(share <= limit, axis=0)


def best_cell(baseline: ArrayLike, other: ArrayLike, kept: ArrayLike | None = None) -> BestCell:
    """The cell of greatest mean reduction on the first half of the seeds, reported on the rest, from values [S, C].

    Halves go by order of the seeds (S // 2 choose, the others report), so nothing is drawn and nothing can be redrawn;
    at least 2 seeds must report, so S ≥ 3.
    """
    reduction = reduction_percent(_finite(baseline, 2, "baseline"), _finite(other, 2, "other"))
    seeds, cells = reduction.shape
    if seeds < 3:
        raise ValueError(f"choosing and reporting on different seeds needs at least 3 seeds, got {seeds}")
    mask = np.ones(cells, bool) if kept is None else np.asarray(kept, bool)
    if not mask.any():
        raise ValueError("no cell of the grid is left")
    half = seeds // 2
    cell = int(np.argmax(np.where(mask, reduction[:half].mean(axis=0), -np.inf)))
    return BestCell(cell, tuple(range(half)), tuple(range(half, seeds)), t_interval(reduction[half:, cell]))


def regression(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Line:
    """Least-squares line through points [N] with the t interval of its slope (N ≥ 3, x not all equal)."""
    xs, ys = _finite(x, 1, "x"), _finite(y, 1, "y")
    if xs.size < 3 or np.ptp(xs) == 0.0:
        raise ValueError(f"a slope with an interval needs at least 3 points at different x, got {xs.size}")
    fit = stats.linregress(xs, ys)
    half = float(stats.t.ppf(0.5 + confidence / 2.0, xs.size - 2) * fit.stderr)
    return Line(float(fit.slope), float(fit.intercept), float(fit.slope) - half, float(fit.slope) + half)


def slope_over_seeds(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Interval:
    """Slope of y [S, C] against x [C] or [S, C], fitted within each seed; t interval over the seeds' slopes.

    Points of one seed are not independent of each other, so pooling them would make the interval too narrow.
    """
    ys = _finite(y, 2, "y")
    xs = np.broadcast_to(np.asarray(x, np.float64), ys.shape)
    centred = xs - xs.mean(axis=1, keepdims=True)
    variation = (centred**2).sum(axis=1)
    if np.any(variation == 0.0):
        raise ValueError("a slope needs different x within every seed")
    return t_interval((centred * ys).sum(axis=1) / variation, confidence)


def speeds_agree(speed_m_s: ArrayLike, tolerance_m_s: float = 0.01) -> NDArray[np.bool_]:
    """Cells [C] in which all arms achieve the same speed within `tolerance_m_s`, from mean speeds [A, C]."""
    return np.ptp(_finite(speed_m_s, 2, "speed_m_s"), axis=0) <= tolerance_m_s


def value_at_speed(
    speed_m_s: ArrayLike, value: ArrayLike, target_m_s: ArrayLike, reach_m_s: float = 0.05, degree: int | None = None
) -> Floats:
    """A quantity at the speeds `target_m_s` [T], from what was measured at achieved speeds [C], one slope and seed.

    `degree` None interpolates linearly between neighbouring speeds; an integer fits one polynomial through all of
    them. A target further than `reach_m_s` outside the measured speeds raises ValueError instead of extrapolating.
    """
    speed, y = _finite(speed_m_s, 1, "speed_m_s"), _finite(value, 1, "value")
    target = np.atleast_1d(np.asarray(target_m_s, np.float64))
    order = np.argsort(speed)
    speed, y = speed[order], y[order]
    if speed.size < 2 or np.any(np.diff(speed) <= 0.0):
        raise ValueError(f"comparison at equal speed needs at least 2 different speeds, got {speed.tolist()}")
    outside = (target < speed[0] - reach_m_s) | (target > speed[-1] + reach_m_s)
    if outside.any():
        raise ValueError(
            f"{target[outside][0]:.3f} m/s is outside the measured {speed[0]:.3f}…{speed[-1]:.3f} m/s by more than "
            f"{reach_m_s:g} m/s"
        )
    if degree is not None:
        return np.polynomial.Polynomial.fit(speed, y, degree)(target)
    left = np.clip(np.searchsorted(speed, target) - 1, 0, speed.size - 2)
    share = (target - speed[left]) / (speed[left + 1] - speed[left])
    return (1.0 - share) * y[left] + share * y[left + 1]


def at_common_speed(
    speed_m_s: ArrayLike, value: ArrayLike, reach_m_s: float = 0.05, degree: int | None = None
) -> tuple[Floats, Floats]:
    """Brings arms to the same speeds: per cell the mean of what the arms achieve.

    Args:
      speed_m_s, value: [A, C] of one seed; the C cells are one slope at different commanded speeds.
      reach_m_s, degree: as in `value_at_speed`.

    Returns:
      Common speeds [C] and values there [A, C].
    """
    speed, y = _finite(speed_m_s, 2, "speed_m_s"), _finite(value, 2, "value")
    common = speed.mean(axis=0)
    return common, np.stack([value_at_speed(s, v, common, reach_m_s, degree) for s, v in zip(speed, y, strict=True)])


def step_is_fine(
    value_at_step: ArrayLike,
    value_at_half_step: ArrayLike,
    relative: float = 0.01,
    reduction_points: float = REDUCTION_POINTS,
) -> bool:
    """Whether halving the physics step changes each arm [A] by less than `relative`, and each arm's reduction against
    the first arm by less than `reduction_points` percentage points."""
    whole, half = _finite(value_at_step, 1, "value_at_step"), _finite(value_at_half_step, 1, "value_at_half_step")
    arms = np.all(np.abs(half / whole - 1.0) < relative)
    shift = reduction_percent(whole[0], whole[1:]) - reduction_percent(half[0], half[1:])
    return bool(arms and np.all(np.abs(shift) < reduction_points))


def spread(values: ArrayLike) -> Spread:
    """Mean, standard deviation, 10th and 90th percentile and share above zero of wearers' values [W], W ≥ 2."""
    x = _finite(values, 1, "values")
    if x.size < 2:
        raise ValueError(f"a spread needs at least 2 wearers, got {x.size}")
    p10, p90 = np.percentile(x, [10.0, 90.0])
    return Spread(float(x.mean()), float(x.std(ddof=1)), float(p10), float(p90), float((x > 0).mean()), x.size)


def _finite(values: ArrayLike, dimensions: int, what: str) -> Floats:
    array = np.asarray(values, np.float64)
    if array.ndim != dimensions:
        raise ValueError(f"{what} must have {dimensions} axes, got shape {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{what} holds {np.count_nonzero(~np.isfinite(array))} values that are not finite")
    return array
