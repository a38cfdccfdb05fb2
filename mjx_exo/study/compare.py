"""From rows of trials to the numbers of a study, by rules that were written before there were results.

Below a seed everything is averaged: a wearer's trials, then wearers. A wearer who did not walk to the end in one arm is
left out of that cell in all arms of that seed; a cell in which any arm falls in more than 5 % of its trials is left out
altogether. Two arms are compared at the speed that both achieve, by interpolation over the speeds of one slope. The
primary endpoint is the average over the grid; the best cell is the one of greatest mean of the four reductions on the
first half of the seeds, reported on the rest. Intervals are Student's t over per-seed values and absent below two
seeds. Arrays: S seeds, A arms, C cells, W wearers; what nobody measured is nan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mjx_exo.gait import statistics
from mjx_exo.gait.profiles import peak_lags
from mjx_exo.gait.statistics import Floats, Interval

NAN = float("nan")
FALL_LIMIT = 0.05
SPEED_TOLERANCE_M_S = 0.01
ENDPOINTS = {
    "activation": "activation_mean",
    "hip_activation": "hip_activation_mean",
    "positive_power": "positive_joint_power_W_kg",
    "metabolic": "metabolic_W_kg",
}
"""The four reductions of the summary and the measures they are of."""
FURTHER = {
    "activation_volume_weighted": "activation_mean_volume_weighted",
    "positive_power_with_device": "positive_total_power_W_kg",
    "metabolic_bhargava": "metabolic_bhargava_W_kg",
}
"""The same questions answered another way, reported beside them."""
MEASURES = {**ENDPOINTS, **FURTHER}
ACTIVATION_OF = "activation_of_"
"""The measure of a muscle group's mean activation is this and the group's name."""
DESCRIPTIVE = (
    "speed_m_s", "cot_J_kg_m", "positive_joint_work_J_kg_m", "cadence_steps_min", "trunk_lean_deg",
    "exo_positive_share", "exo_positive_power_W_kg", "exo_negative_power_W_kg", "torque_share_of_limit",
    "rate_share_of_limit", "power_share_of_limit",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Grid:
    """A study's trials as arrays. `by_wearer` and `values` hold only wearers who walked in every arm."""

    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    cells: tuple[tuple[float, float], ...]
    """Commanded speed in m/s and slope in degrees."""
    fall_share: Floats
    """[S, A, C] share of trials that ended in a fall."""
    by_wearer: Mapping[str, Floats]
    """Measure → [S, A, C, W]."""

    def value(self, measure: str, arm: str) -> Floats:
        """[S, C] means over wearers."""
        return mean_known(self.by_wearer[measure][:, self.arms.index(arm)], axis=-1)

    @property
    def muscle_groups(self) -> tuple[str, ...]:
        """Those whose activation was measured."""
        return tuple(name.removeprefix(ACTIVATION_OF) for name in self.by_wearer if name.startswith(ACTIVATION_OF))

    @property
    def kept(self) -> np.ndarray:
        """[C] cells that no arm falls in too often and every arm of every seed was measured in."""
        kept = statistics.kept_cells(self.fall_share.mean(axis=0), FALL_LIMIT)
        speed = mean_known(self.by_wearer["speed_m_s"], axis=-1)
        return kept & np.isfinite(speed).all(axis=(0, 1))


def mean_known(values: Floats, axis: int) -> Floats:
    """Mean of what is known along an axis; nan where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), NAN)


def gather(
    rows: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    arms: Sequence[str],
    cells: Sequence[tuple[float, float]],
    wearers: int,
) -> Grid:
    """Rows of trials (`seed`, `arm`, `cell`, `wearer`, `fell` and measures) as a `Grid`."""
    shape = (len(seeds), len(arms), len(cells), wearers)
    of_groups = dict.fromkeys(name for row in rows for name in row if name.startswith(ACTIVATION_OF))
    names = (*MEASURES.values(), *DESCRIPTIVE, *of_groups)
    sums, counts = {n: np.zeros(shape) for n in names}, {n: np.zeros(shape) for n in names}
    trials, falls, walked = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for row in rows:
        at = (list(seeds).index(row["seed"]), list(arms).index(row["arm"]), row["cell"], row["wearer"])
        trials[at] += 1
        falls[at] += row["fell"]
        walked[at] += np.isfinite(row.get("speed_m_s", NAN))
        row = dict(row) | _per_metre(row)
        for name in names:
            value = row.get(name)
            if value is not None and np.isfinite(value):
                sums[name][at] += value
                counts[name][at] += 1
    # A wearer counts in a cell if every trial in every arm of that seed was walked to the end.
    whole = ((walked == trials) & (trials > 0)).all(axis=1, keepdims=True)
    by_wearer = {
        n: np.where(whole & (counts[n] > 0), sums[n] / np.maximum(counts[n], 1), NAN) for n in names
    }  # fmt: skip
    share = falls.sum(-1) / np.where(trials.sum(-1) > 0, trials.sum(-1), NAN)
    return Grid(tuple(seeds), tuple(arms), tuple(cells), share, by_wearer)


def _per_metre(row: Mapping[str, Any]) -> dict[str, float]:
    speed, power = row.get("speed_m_s", NAN), row.get("positive_joint_power_W_kg", NAN)
    return {"positive_joint_work_J_kg_m": power / speed} if speed > 0.05 else {}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two arms at equal speed. `reduction` maps a question to percent [S, C], nan in cells left out; `saving` to the
    same in the measure's own unit."""

    baseline: str
    other: str
    kept: np.ndarray  # [C] bool
    speed_m_s: Floats  # [S, C] common speed
    reduction: Mapping[str, Floats]
    saving: Mapping[str, Floats]
    left_out: Mapping[int, str]  # cell → why, beyond the grid's own cells


def compare(grid: Grid, baseline: str, other: str, measures: Mapping[str, str] = MEASURES) -> Comparison:
    """Reductions of `other` against `baseline` in every cell that can be compared at equal speed.

    `measures`: question → measure of the grid.
    """
    kept, left_out = grid.kept.copy(), {}
    shape = (len(grid.seeds), len(grid.cells))
    speed = np.stack([grid.value("speed_m_s", arm) for arm in (baseline, other)], axis=1)  # [S, 2, C]
    common = np.full(shape, NAN)
    reduction, saving = ({name: np.full(shape, NAN) for name in measures} for _ in range(2))
    for slope in sorted({slope for _, slope in grid.cells}):
        mine = np.array([i for i, cell in enumerate(grid.cells) if cell[1] == slope and kept[i]], int)
        if not mine.size:
            continue
        try:
            for s in range(len(grid.seeds)):
                common[s, mine] = speed[s][:, mine].mean(axis=0)
                for name, measure in measures.items():
                    pair = np.stack([grid.value(measure, arm)[s, mine] for arm in (baseline, other)])
                    first, second = at_equal_speed(speed[s][:, mine], pair)
                    reduction[name][s, mine] = statistics.reduction_percent(first, second)
                    saving[name][s, mine] = first - second
        except ValueError as error:
            for i in mine:
                kept[i], left_out[int(i)] = False, str(error)
            for values in (common, *reduction.values(), *saving.values()):
                values[:, mine] = NAN
    return Comparison(baseline, other, kept, common, reduction, saving, left_out)


def at_equal_speed(speed_m_s: Floats, value: Floats) -> Floats:
    """[2, C] values of two arms at the mean of their speeds [2, C], cells of one slope and seed.

    A single speed cannot be interpolated: it is taken as it is where the arms agree within `SPEED_TOLERANCE_M_S`.
    Raises ValueError where they do not, or are too far apart.
    """
    if speed_m_s.shape[1] == 1:
        if np.ptp(speed_m_s) > SPEED_TOLERANCE_M_S:
            raise ValueError(f"one speed only, and the arms differ by {np.ptp(speed_m_s):.3f} m/s in it")
        return value
    return statistics.at_common_speed(speed_m_s, value)[1]


def interval(values: Floats) -> Interval:
    """t interval over per-seed values [S]; bounds are nan below two seeds, everything without any."""
    if values.size == 0 or not np.isfinite(values).all():
        return Interval(NAN, NAN, NAN, 0)
    return statistics.t_interval(values) if values.size > 1 else Interval(float(values[0]), NAN, NAN, 1)


def by_seed(comparison: Comparison, question: str) -> Floats:
    """[S] the mean over kept cells of a reduction; empty if none is kept."""
    return over_cells(comparison, comparison.reduction[question])


def over_cells(comparison: Comparison, values: Floats) -> Floats:
    """[S] the mean over kept cells of a `reduction` or `saving` [S, C]; empty if none is kept."""
    return values[:, comparison.kept].mean(axis=1) if comparison.kept.any() else np.empty(0)


def grid_average(comparison: Comparison, question: str) -> Interval:
    """The mean over kept cells of a reduction, over seeds."""
    return interval(by_seed(comparison, question))


def best_cell(comparison: Comparison) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """Cell of greatest mean of the four reductions on the first half of the seeds, and both halves; None below 3."""
    if len(next(iter(comparison.reduction.values()))) < 3 or not comparison.kept.any():
        return None
    mean = np.mean([comparison.reduction[name] for name in ENDPOINTS], axis=0)
    score = np.where(comparison.kept, mean, 0.0)
    best = statistics.best_cell(np.full_like(score, 100.0), 100.0 - score, comparison.kept)
    return best.cell, best.choosing, best.reporting


def benefit_per_m_s(grid: Grid, comparison: Comparison, benefit: Floats) -> Interval:
    """Growth per m/s of a `reduction` or `saving` [S, C], fitted within seeds with a level of its own per slope."""
    x, y = [], []
    for slope in sorted({slope for _, slope in grid.cells}):
        mine = [i for i, cell in enumerate(grid.cells) if cell[1] == slope and comparison.kept[i]]
        if len(mine) > 1:
            speed, value = comparison.speed_m_s[:, mine], benefit[:, mine]
            x.append(speed - speed.mean(axis=1, keepdims=True))
            y.append(value - value.mean(axis=1, keepdims=True))
    if not x:
        return Interval(NAN, NAN, NAN, 0)
    xs, ys = np.concatenate(x, axis=1), np.concatenate(y, axis=1)
    return interval((xs * ys).sum(axis=1) / (xs**2).sum(axis=1))


def wearer_spread(grid: Grid, comparison: Comparison, question: str) -> statistics.Spread | None:
    """How wearers differ in the grid average (at the speeds they walked), seeds averaged; None below two wearers."""
    first, second = (
        grid.by_wearer[MEASURES[question]][:, grid.arms.index(arm)][:, comparison.kept]
        for arm in (comparison.baseline, comparison.other)
    )
    percent = mean_known(100.0 * (1.0 - second / first).reshape(-1, first.shape[-1]), axis=0)
    known = percent[np.isfinite(percent)]
    return statistics.spread(known) if known.size > 1 else None


def lags(profiles: Mapping[tuple[int, str, int], Any], grid: Grid, arm: str) -> tuple[Floats, Floats]:
    """Lag [S, C] of the extension and of the flexion torque peak behind the biological hip moment, ms."""
    extension, flexion = (np.full((len(grid.seeds), len(grid.cells)), NAN) for _ in range(2))
    for s, seed in enumerate(grid.seeds):
        for c in range(len(grid.cells)):
            profile = profiles.get((seed, arm, c))
            if profile is not None and np.ptp(profile.torque_nm_kg) > 0:
                found = peak_lags(profile.hip_moment_nm_kg, profile.torque_nm_kg, profile.stride_s)
                extension[s, c], flexion[s, c] = found.extension_ms, found.flexion_ms
    return extension, flexion


def torque_likeness(profiles: Mapping[tuple[int, str, int], Any], grid: Grid, arm: str, other: str) -> Floats:
    """Correlation [S, C] of two arms' mean torque over the gait cycle."""
    r = np.full((len(grid.seeds), len(grid.cells)), NAN)
    for s, seed in enumerate(grid.seeds):
        for c in range(len(grid.cells)):
            pair = [profiles.get((seed, name, c)) for name in (arm, other)]
            if all(p is not None and np.ptp(p.torque_nm_kg) > 0 for p in pair):
                r[s, c] = np.corrcoef(*(p.torque_nm_kg[:-1] for p in pair))[0, 1]
    return r
