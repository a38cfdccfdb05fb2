"""summary.json of a study: the keys that people and programs look for, and everything they might ask next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mjx_exo.gait.statistics import Interval
from mjx_exo.study import compare as c
from mjx_exo.study.compare import ENDPOINTS, MEASURES, NAN, Comparison, Grid

DEFINITIONS = {
    "positive_joint_power_W_kg": "positive part of (muscle + passive moment) x velocity of every degree of freedom "
    "and instant, device excluded, summed, per kg of body mass",
    "positive_total_power_W_kg": "the same with the device's power added at the hips",
    "activation_mean": "mean over all muscles, unweighted",
    "activation_mean_volume_weighted": "the same weighted by muscle volume",
    "hip_activation_mean": "mean over the muscles that cross the hip",
    "metabolic_W_kg": "muscles and rest, after Umberger 2010 with slow fibres recruited first",
    "metabolic_bhargava_W_kg": "muscles and rest, after Bhargava 2004",
    "reduction": "percent of the baseline at the speed that both arms achieve",
    "primary": "average over the cells that are left, all weighing the same",
    "best": "the cell of greatest mean of the four reductions on the first half of the seeds, reported on the rest",
    "interval": "95 %, Student's t over per-seed paired means",
    "benefit_per_m_s": "percentage points of metabolic reduction per m/s",
    "saving_per_m_s": "what is saved, in the measure's own unit, per m/s",
}


def summarise(grid: Grid, profiles: Mapping[tuple[int, str, int], Any]) -> dict[str, Any]:
    """The whole summary; NaN stands for what could not be computed."""
    main = c.compare(grid, "none", "assisted")
    worn = c.compare(grid, "worn", "assisted")
    extension, flexion = c.lags(profiles, grid, "assisted")
    kept = grid.kept
    growth = {name: c.benefit_per_m_s(grid, main, main.reduction[name]) for name in MEASURES}
    saved = {name: c.benefit_per_m_s(grid, main, main.saving[name]) for name in MEASURES}
    return {
        "primary": averages(main),
        "best": best(grid, main),
        "cells": cells(grid, extension, flexion),
        "lag_extension_ms": _mean(extension[:, kept]),
        "lag_flexion_ms": _mean(flexion[:, kept]),
        "exo_positive_share": positive_share(grid),
        **_said("benefit_per_m_s", growth["metabolic"]),
        "benefit_per_m_s_by_measure": {name: _triple(value) for name, value in growth.items()},
        "saving_per_m_s_by_measure": {name: _triple(value) for name, value in saved.items()},
        "primary_by_seed": averages_by_seed(main),
        "assisted_against_worn": averages(worn),
        "assisted_against_worn_by_seed": averages_by_seed(worn),
        "price_of_the_worn_mass": averages(c.compare(grid, "none", "worn")),
        "references": references(grid, profiles),
        "muscle_groups": muscle_groups(grid),
        "wearers": spreads(grid, main),
        "excluded_cells": excluded(grid, main),
        "fall_share": {arm: _mean(grid.fall_share[:, a]) for a, arm in enumerate(grid.arms)},
        "largest_speed_difference_m_s": speed_difference(grid),
        "largest_torque_share_of_limit": _largest(grid, "torque_share_of_limit"),
        "largest_rate_share_of_limit": _largest(grid, "rate_share_of_limit"),
        "largest_power_share_of_limit": _largest(grid, "power_share_of_limit"),
        "seeds": list(grid.seeds),
        "definitions": DEFINITIONS,
    }


def averages(comparison: Comparison) -> dict[str, float]:
    """Every reduction's grid average with its interval, flat."""
    result: dict[str, float] = {}
    for name in MEASURES:
        result |= _said(f"{name}_reduction_percent", c.grid_average(comparison, name))
    return result


def averages_by_seed(comparison: Comparison) -> dict[str, list[float]]:
    """Every reduction's grid average, a value per seed."""
    return {f"{name}_reduction_percent": c.by_seed(comparison, name).tolist() for name in MEASURES}


def best(grid: Grid, comparison: Comparison) -> dict[str, Any]:
    """The best cell as in `compare.best_cell`; the same keys without numbers below three seeds."""
    found = c.best_cell(comparison)
    result: dict[str, Any] = {}
    for name in MEASURES:
        values = np.empty(0) if found is None else comparison.reduction[name][list(found[2]), found[0]]
        result |= _said(f"{name}_reduction_percent", c.interval(values))
    if found is not None:
        speed, slope = grid.cells[found[0]]
        result |= {
            "speed_command_m_s": speed,
            "slope_deg": slope,
            "chosen_on_seeds": [grid.seeds[i] for i in found[1]],
            "reported_on_seeds": [grid.seeds[i] for i in found[2]],
        }
    return result


def cells(grid: Grid, extension: np.ndarray, flexion: np.ndarray) -> list[dict[str, Any]]:
    """One entry per arm and cell: means over seeds and wearers at the speed that was walked."""
    entries = []
    for a, arm in enumerate(grid.arms):
        for i, (speed, slope) in enumerate(grid.cells):
            entry: dict[str, Any] = {
                "arm": arm,
                "speed_command_m_s": speed,
                "slope_deg": slope,
                "kept": bool(grid.kept[i]),
                "fall_share": _mean(grid.fall_share[:, a, i]),
            }
            for measure in (*MEASURES.values(), *c.DESCRIPTIVE):
                entry[measure] = _mean(grid.value(measure, arm)[:, i])
            if arm == "assisted":
                entry |= {"lag_extension_ms": _mean(extension[:, i]), "lag_flexion_ms": _mean(flexion[:, i])}
            entries.append(entry)
    return entries


def positive_share(grid: Grid) -> float:
    """Share of positive device work over the kept cells: work is added up before it is divided."""
    gain = grid.value("exo_positive_power_W_kg", "assisted")[:, grid.kept]
    loss = grid.value("exo_negative_power_W_kg", "assisted")[:, grid.kept]
    total = np.nansum(gain) - np.nansum(loss)
    return float(np.nansum(gain) / total) if total > 1e-9 else NAN


def references(grid: Grid, profiles: Mapping[tuple[int, str, int], Any]) -> dict[str, dict[str, Any]]:
    """Per reference arm: its own reduction against no device, and the learned controller's against it."""
    result = {}
    for arm in grid.arms:
        if arm in ("none", "worn", "assisted"):
            continue
        against = c.compare(grid, arm, "assisted")
        metabolic = c.grid_average(against, "metabolic")
        extension, flexion = c.lags(profiles, grid, arm)
        likeness = c.torque_likeness(profiles, grid, "assisted", arm)
        result[arm] = {
            "against_none": averages(c.compare(grid, "none", arm)),
            "assisted_against_it": averages(against),
            "assisted_is_at_least_as_good": bool(metabolic.mean >= 0.0) if np.isfinite(metabolic.mean) else None,
            "cells_where_it_is_better": [
                list(grid.cells[i])
                for i in np.flatnonzero(against.kept)
                if against.reduction["metabolic"][:, i].mean() < 0.0
            ],
            "lag_extension_ms": _mean(extension[:, grid.kept]),
            "lag_flexion_ms": _mean(flexion[:, grid.kept]),
            "r_torque_with_assisted": _mean(likeness[:, grid.kept]),
        }
    return result


def muscle_groups(grid: Grid) -> dict[str, dict[str, Any]]:
    """Per muscle group its mean activation without a device, 0…1, and what every other arm takes off it, in percent of
    that and as activation, over kept cells."""
    measures = {group: f"{c.ACTIVATION_OF}{group}" for group in grid.muscle_groups}
    result: dict[str, dict[str, Any]] = {
        group: {"activation_none": _mean(grid.value(measure, "none")[:, grid.kept])}
        for group, measure in measures.items()
    }
    for arm in grid.arms:
        if arm != "none":
            found = c.compare(grid, "none", arm, measures)
            for group in measures:
                result[group] |= _said(f"{arm}_reduction_percent", c.grid_average(found, group))
                result[group] |= _said(f"{arm}_saving", c.interval(c.over_cells(found, found.saving[group])))
    return result


def spreads(grid: Grid, comparison: Comparison) -> dict[str, Any]:
    """How wearers differ, apart from the intervals."""
    found = {name: c.wearer_spread(grid, comparison, name) for name in ENDPOINTS}
    return {name: None if s is None else vars(s) for name, s in found.items()}


def excluded(grid: Grid, comparison: Comparison) -> list[dict[str, Any]]:
    """Cells that are left out, and why."""
    shares = grid.fall_share.mean(axis=0)
    result = []
    for i, (speed, slope) in enumerate(grid.cells):
        falling = [arm for a, arm in enumerate(grid.arms) if not shares[a, i] <= c.FALL_LIMIT]
        if falling:
            why = "falls in more than 5 % of the trials: " + ", ".join(falling)
        elif not grid.kept[i]:
            why = "no wearer walked to the end in every arm of every seed"
        elif not comparison.kept[i]:
            why = comparison.left_out[i]
        else:
            continue
        result.append({"speed_command_m_s": speed, "slope_deg": slope, "why": why})
    return result


def speed_difference(grid: Grid) -> float:
    """Largest difference of achieved speed between the main arms in a kept cell, before the regression, m/s."""
    speeds = np.stack([grid.value("speed_m_s", arm)[:, grid.kept] for arm in ("none", "worn", "assisted")])
    return float(np.ptp(speeds, axis=0).max()) if speeds.size else NAN


def _said(name: str, value: Interval) -> dict[str, float]:
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}


def _triple(value: Interval) -> list[float]:
    return [value.mean, value.low, value.high]


def _mean(values: Any) -> float:
    return float(c.mean_known(np.asarray(values, float).ravel(), axis=0))


def _largest(grid: Grid, measure: str) -> float:
    values = grid.by_wearer[measure][:, grid.arms.index("assisted")]
    return float(np.nanmax(values)) if np.isfinite(values).any() else NAN
