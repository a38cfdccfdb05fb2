"""When muscles are on, against when people's are.

The windows are the modules of walking found in people (Neptune 2009; Allen and Neptune 2012; Clark 2010; Ivanenko
2004); their percentages are common knowledge of the field, not one measurement, so what counts is whether a gait agrees
with them better than the same activations shifted along the cycle would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MODULE_WINDOWS: dict[str, tuple[tuple[float, float], ...]] = {
    "M1 weight acceptance": ((0.0, 20.0),),
    "M2 push-off": ((30.0, 55.0),),
    "M3 foot clearance": ((60.0, 75.0), (95.0, 105.0)),
    "M4 leg deceleration": ((85.0, 110.0),),
    "M5 leg swing": ((50.0, 70.0),),
    "M6 mediolateral": ((0.0, 12.0), (50.0, 62.0)),
}
"""Percent of the gait cycle; beyond 100 is the next cycle's beginning. "Early stance" of M4 is read as 0 to 10 %,
"around double support" of M6 as the two double supports of walking."""

GROUP_MODULES: dict[str, tuple[str, ...]] = {
    "abd": ("M1 weight acceptance",),
    "glutmax": ("M1 weight acceptance",),
    "vasti": ("M1 weight acceptance",),
    "rectfem": ("M1 weight acceptance", "M3 foot clearance"),
    "soleus": ("M2 push-off",),
    "gastroc": ("M2 push-off",),
    "tibant": ("M3 foot clearance",),
    "edl": ("M3 foot clearance",),
    "hamstrings": ("M4 leg deceleration",),
    "iliopsoas": ("M5 leg swing",),
    "add": ("M5 leg swing", "M6 mediolateral"),
}
"""Modules of each muscle group. The table does not name toe flexors and the short head of biceps, so they are not
judged; one group of adductors stands for adductor magnus (M6) and the others (M5)."""

HIP_GROUPS = ("abd", "add", "hamstrings", "glutmax", "iliopsoas", "rectfem")
"""Groups that cross the hip."""

ON_LEVEL = 0.5
"""A muscle is on above this share of the way from its least to its greatest mean activation in the cycle."""
DRAWS = 2000


@dataclass(frozen=True)
class OnTimes:
    """Overlap of on-times with the module windows.

    An overlap is common time over joint time (1: the same, 0: never together). `baseline` is its mean when the
    activations are shifted along the cycle by every possible amount, `p` the share of random shifts, drawn for each
    group on its own, whose mean overlap is at least the one found.
    """

    overlap: dict[str, float]
    baseline: dict[str, float]
    mean_overlap: float
    mean_baseline: float
    p: float


def window_mask(group: str) -> np.ndarray | None:
    """[100] whether people have this muscle group on at 0, 1 … 99 % of the cycle; None when the table is silent."""
    if group not in GROUP_MODULES:
        return None
    mask = np.zeros(100, bool)
    for module in GROUP_MODULES[group]:
        for start, end in MODULE_WINDOWS[module]:
            mask[np.arange(round(start), round(end)) % 100] = True
    return mask


def on_mask(activation: np.ndarray) -> np.ndarray:
    """[100] whether a mean activation curve [101] is above `ON_LEVEL` of its own range; never, when it is flat."""
    cycle = np.asarray(activation, float)[:-1]
    low, high = cycle.min(), cycle.max()
    if high - low < 1e-3:
        return np.zeros(cycle.size, bool)
    return cycle > low + ON_LEVEL * (high - low)


def on_times(curves: Mapping[str, np.ndarray], seed: int = 0) -> OnTimes | None:
    """Judges mean activations [101] by muscle group; groups that the table does not know are left out.

    None when no group is left. Only the probability `p` involves chance, and `seed` fixes it.
    """
    shifted: dict[str, np.ndarray] = {}
    for group, activation in curves.items():
        window = window_mask(group)
        if window is not None:
            on = on_mask(activation)
            shifted[group] = np.array([_overlap(np.roll(on, shift), window) for shift in range(100)])
    if not shifted:
        return None
    table = np.array(list(shifted.values()))
    found = float(table[:, 0].mean())
    shifts = np.random.default_rng(seed).integers(0, 100, (DRAWS, len(table)))
    chance = table[np.arange(len(table)), shifts].mean(axis=1)
    return OnTimes(
        overlap={group: float(row[0]) for group, row in shifted.items()},
        baseline={group: float(row.mean()) for group, row in shifted.items()},
        mean_overlap=found,
        mean_baseline=float(table.mean()),
        p=float((np.count_nonzero(chance >= found - 1e-12) + 1) / (DRAWS + 1)),
    )


def _overlap(on: np.ndarray, window: np.ndarray) -> float:
    return float(np.count_nonzero(on & window) / np.count_nonzero(on | window))
