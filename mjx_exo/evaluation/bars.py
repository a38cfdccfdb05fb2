"""What a gait has to reach to be believed, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mjx_exo.evaluation.courses import STAND_S, STANDING_M_S
from mjx_exo.gait.metrics import Condition


class Bar(NamedTuple):
    """One demand: what it is, what was found, the range that is allowed (either end may be infinite)."""

    name: str
    found: float
    low: float
    high: float

    @property
    def met(self) -> bool:
        """Whether the figure lies within the range; nan does not."""
        return bool(self.low <= self.found <= self.high)

    @property
    def allowed(self) -> str:
        """E.g. "at least 0.97", "1 to 1.35"."""
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if math.isinf(self.low) else f"{self.low:g} to {self.high:g}"


INFINITE = math.inf
FEWEST_FALL_FREE = 61 / 64
REFERENCE_BARS = (
    ("r_hip", 0.97, INFINITE),
    ("r_knee", 0.95, INFINITE),
    ("r_ankle", 0.85, INFINITE),
    ("rmse_hip_deg", -INFINITE, 6.0),
    ("rmse_knee_deg", -INFINITE, 8.0),
    ("rmse_ankle_deg", -INFINITE, 6.0),
    ("r_vgrf_stance", 0.8, INFINITE),
    ("vgrf_two_peaks", 1.0, INFINITE),
    ("vgrf_peak1_bw", 1.0, 1.35),
    ("vgrf_peak2_bw", 1.0, 1.35),
    ("vgrf_valley_bw", -INFINITE, 0.9),
    ("knee_limit_torque_stance_nm", -INFINITE, 2.0),
    ("hip_rotation_min_deg", -10.0, INFINITE),
    ("hip_rotation_max_deg", -INFINITE, 10.0),
    ("cot_J_kg_m", 2.0, 5.0),
)
"""Demands on the gait at 1.25 m/s on the level: measure, lowest, highest."""


def bars(
    conditions: Sequence[Condition], reference: Condition, transitions: Mapping[str, Any], changing: Mapping[str, Any]
) -> list[Bar]:
    """Every demand for which there is a figure, the worst cell of the grid standing for the grid."""
    found = [
        Bar(
            "trials without a fall, worst cell", _worst(conditions, "fall_free_share", min), FEWEST_FALL_FREE, INFINITE
        ),
        Bar("speed error, worst cell, m/s", _worst(conditions, "speed_error_m_s", max), -INFINITE, 0.05),
    ]
    if "fall_free_share" in changing:
        found.append(Bar("changing commands without a fall", changing["fall_free_share"], FEWEST_FALL_FREE, INFINITE))
    if "success_share" in transitions:
        standing = f"standing under {STANDING_M_S:g} m/s for {STAND_S:g} s"
        found += [
            Bar("from standing to walking and back", transitions["success_share"], 0.95, INFINITE),
            Bar(standing, transitions["standing_share"], 0.95, INFINITE),
        ]
    at = f"{reference.speed_m_s:g} m/s, level: "
    found += [
        Bar(at + name, reference.measures[name], low, high)
        for name, low, high in REFERENCE_BARS
        if name in reference.measures
    ]
    overlap, shuffled = (reference.measures.get(f"on_time_overlap{end}") for end in ("", "_shuffled"))
    if overlap is not None and shuffled is not None:
        found.append(Bar(at + "muscle timing above chance", overlap - shuffled, 0.0, INFINITE))
    uphill = _uphill_costs_more(conditions)
    if math.isfinite(uphill):
        found.append(Bar("share of speeds at which uphill costs more than level", uphill, 1.0, INFINITE))
    return found


def _worst(conditions: Sequence[Condition], name: str, worst: Any) -> float:
    values = [c.measures.get(name, math.nan) for c in conditions]
    return float(worst(values)) if all(np.isfinite(values)) else math.nan


def _uphill_costs_more(conditions: Sequence[Condition]) -> float:
    """Share of speeds at which every uphill cell costs more than the level one; nan without such pairs."""
    cost = {
        (round(c.speed_m_s, 3), round(float(c.slope_rad), 4)): c.measures.get("cot_J_kg_m", math.nan)
        for c in conditions
    }
    level = {speed: value for (speed, slope), value in cost.items() if slope == 0 and np.isfinite(value)}
    more = [
        all(value > level[speed] for (other, slope), value in cost.items() if other == speed and slope > 0)
        for speed in level
        if any(other == speed and slope > 0 for other, slope in cost)
    ]
    return float(np.mean(more)) if more else math.nan
