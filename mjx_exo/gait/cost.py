"""What walking costs against speed and slope, and at which speed it costs least, beside people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mjx_exo.gait import norms
from mjx_exo.gait.metrics import Condition

LEVEL_RAD = 1e-3
"""A slope below this counts as level."""


@dataclass(frozen=True)
class LeastCost:
    """Where the gross cost of transport is least: speed in m/s, cost in J/kg/m.

    `inside` is False when the lowest cost lies at the slowest or fastest speed walked: the true least is beyond it.
    """

    speed_m_s: float
    cost_J_kg_m: float
    inside: bool


def least_cost(speed_m_s: Sequence[float], cost_J_kg_m: Sequence[float]) -> LeastCost | None:
    """The lowest point of a parabola through the cheapest speed and its two neighbours.

    Args:
      speed_m_s, cost_J_kg_m: [K] in any order; what is not finite is left out. None with fewer than three left.
    """
    points = np.array([p for p in zip(speed_m_s, cost_J_kg_m, strict=True) if np.all(np.isfinite(p))], float)
    if len(points) < 3:
        return None
    points = points[np.argsort(points[:, 0])]
    lowest = int(np.argmin(points[:, 1]))
    if lowest in (0, len(points) - 1):
        return LeastCost(float(points[lowest, 0]), float(points[lowest, 1]), False)
    around = points[lowest - 1 : lowest + 2]
    parabola = np.polyfit(around[:, 0] - points[lowest, 0], around[:, 1], 2)
    shift = -parabola[1] / (2.0 * parabola[0]) if parabola[0] > 0 else 0.0
    return LeastCost(float(points[lowest, 0] + shift), float(np.polyval(parabola, shift)), True)


def is_level(condition: Condition) -> bool:
    """Whether a condition was walked on level ground."""
    return abs(float(condition.slope_rad)) < LEVEL_RAD


def achieved_speed(condition: Condition) -> float:
    """Mean speed that was walked, m/s; the command where nobody walked."""
    return float(condition.measures.get("speed_m_s", condition.speed_m_s))


def cost_summary(conditions: Sequence[Condition]) -> dict[str, object]:
    """Speed of least cost on the level and the level cost nearest to 1.25 m/s, each with its human value.

    Keys: `least_cost_speed_m_s`, `least_cost_J_kg_m`, `least_cost_is_inside_the_range`, `human_least_cost_speed_m_s`;
    `cot_J_kg_m`, `human_cot_J_kg_m` and `at_speed_m_s`; empty without level walking.
    """
    level = [c for c in conditions if is_level(c) and np.isfinite(c.measures.get("cot_J_kg_m", np.nan))]
    if not level:
        return {}
    near = min(level, key=lambda c: abs(c.speed_m_s - 1.25))
    speed = achieved_speed(near)
    found: dict[str, object] = {
        "at_speed_m_s": speed,
        "cot_J_kg_m": near.measures["cot_J_kg_m"],
        "human_cot_J_kg_m": float(norms.gross_cost_of_transport_j_kg_m(speed)),
        "human_least_cost_speed_m_s": norms.MOST_ECONOMICAL_SPEED_M_S["gross"],
    }
    least = least_cost([achieved_speed(c) for c in level], [c.measures["cot_J_kg_m"] for c in level])
    if least is not None:
        found |= {
            "least_cost_speed_m_s": least.speed_m_s,
            "least_cost_J_kg_m": least.cost_J_kg_m,
            "least_cost_is_inside_the_range": least.inside,
        }
    return found
