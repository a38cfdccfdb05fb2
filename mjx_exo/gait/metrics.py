"""How human and how costly the gait of one condition is: one table of numbers and one set of mean curves.

A condition is a speed and a slope, walked in one or many trials. Falls are counted over all trials; everything else
comes from the trials that did not end in a fall, after the first seconds in which a walker settles. Means over the two
sides are taken last, so that left and right cannot hide each other's errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mjx_exo.gait import norms
from mjx_exo.gait.curves import Curve, mean_curves
from mjx_exo.gait.muscles import on_times
from mjx_exo.gait.power import effort_measures, mechanical_measures, whole_strides_s
from mjx_exo.gait.profiles import peak_lags
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.strides import Stride, find_strides, mean_speed_m_s, spatiotemporal

NAN = float("nan")
SETTLE_S = 3.0

SUMMARY_KEYS = (
    "fall_free_share",
    "speed_error_m_s",
    "r_hip",
    "r_knee",
    "r_ankle",
    "r_vgrf_stance",
    "rmse_hip_deg",
    "rmse_knee_deg",
    "rmse_ankle_deg",
    "stance_percent",
    "cot_J_kg_m",
)
"""Measures that every summary has, null where they could not be computed."""

_SHORT = {"hip_flexion": "hip", "knee_flexion": "knee", "ankle_dorsiflexion": "ankle"}


@dataclass(frozen=True)
class Condition:
    """One speed and slope: `measures` by name (units in the names), `curves` by the names of `curves.side_signals`."""

    speed_m_s: float
    slope_rad: float
    trials: int
    measures: dict[str, float]
    curves: dict[str, Curve] = field(default_factory=dict)
    on_time_overlap: dict[str, float] = field(default_factory=dict)  # by muscle group
    on_time_baseline: dict[str, float] = field(default_factory=dict)
    label: str = ""


def summarise(
    trials: Sequence[Recording],
    speed_m_s: float,
    slope_rad: float,
    settle_s: float = SETTLE_S,
    stride_method: str = "auto",
    label: str = "",
) -> Condition:
    """Reduces the trials of one condition to its measures and mean curves.

    `speed_m_s` is the commanded speed (a measured mean where nobody commanded), `slope_rad` uphill positive. Measures
    that need a signal nobody recorded are absent, except `SUMMARY_KEYS`, which are then nan.
    """
    walked = [trial for trial in trials if not trial.fell]
    with_strides = [(trial, find_strides(trial, stride_method, settle_s)) for trial in walked]
    measures: dict[str, float] = dict.fromkeys(SUMMARY_KEYS, NAN)
    measures["fall_free_share"] = len(walked) / len(trials) if trials else NAN
    measures |= _speed_measures(walked, speed_m_s, settle_s)
    measures |= _stride_measures(with_strides)
    measures |= _cost_measures(with_strides)
    curves = mean_curves(with_strides)
    stance = measures["stance_percent"]
    measures |= norm_measures(curves)
    if "force/vertical" in curves:
        measures |= force_measures(curves["force/vertical"], stance)
    body_mass_kg = float(np.mean([trial.body_mass_kg for trial in trials])) if trials else NAN
    measures |= _joint_measures(curves, stance, body_mass_kg)
    measures |= _timing_measures(curves, measures.get("stride_time_s", NAN))
    active = on_times({name.split("/")[1]: c.both for name, c in curves.items() if name.startswith("activation/")})
    if active is not None:
        measures["on_time_overlap"] = active.mean_overlap
        measures["on_time_overlap_shuffled"] = active.mean_baseline
        measures["on_time_p"] = active.p
    return Condition(
        speed_m_s,
        slope_rad,
        len(trials),
        measures,
        curves,
        active.overlap if active else {},
        active.baseline if active else {},
        label,
    )


def norm_measures(curves: Mapping[str, Curve]) -> dict[str, float]:
    """Distance of hip, knee and ankle angles (degrees) to the norm, each the mean of the two sides' distances.

    `r_JOINT`, `rmse_JOINT_deg` (means removed at the hip only), `rmse_hip_raw_deg`, `rmse_JOINT_centred_deg`,
    `in_band_JOINT` (share of the cycle), `in_band_hip_centred`; and `r_JOINT_right` … for each side.
    """
    measures: dict[str, float] = {}
    for joint, short in _SHORT.items():
        curve = curves.get(f"angle/{joint}")
        if curve is None:
            continue
        norm = norms.curve(joint)
        sides = {s: norms.distance(curve.mean[i], norm) for i, s in enumerate(("right", "left")) if curve.strides[i]}
        if not sides:
            continue
        mean = {
            key: float(np.mean([getattr(side, key) for side in sides.values()]))
            for key in ("r", "rmse", "rmse_centred", "share_in_band", "share_in_band_centred")
        }
        measures[f"r_{short}"] = mean["r"]
        measures[f"rmse_{short}_deg"] = mean["rmse_centred"] if short == "hip" else mean["rmse"]
        measures[f"rmse_{short}_centred_deg"] = mean["rmse_centred"]
        measures[f"in_band_{short}"] = mean["share_in_band"]
        measures |= {f"r_{short}_{side}": value.r for side, value in sides.items()}
        if short == "hip":
            measures["rmse_hip_raw_deg"] = mean["rmse"]
            measures["in_band_hip_centred"] = mean["share_in_band_centred"]
        moment = curves.get(f"moment/{joint}")
        if moment is not None:
            measures[f"moment_in_range_{short}"] = norms.moments_in_range(joint, moment.both)
    return measures


def force_measures(curve: Curve, stance_percent: float) -> dict[str, float]:
    """The vertical ground force [body weights] over stance, each the mean of the two sides.

    `r_vgrf_stance`: correlation with the norm over 0..62 % of the gait cycle, the norm's stance. `vgrf_peak1_bw` and
    `vgrf_peak2_bw`: the largest values in the first and second half of the own stance, `vgrf_valley_bw` the least value
    between them; `vgrf_two_peaks` is 1 where both peaks stand out by 0.02 body weights on both sides, else 0.
    """
    stance_end = round(norms.STANCE_PERCENT)
    norm = norms.curve("vertical_force").mean[: stance_end + 1]
    own_end = round(stance_percent) if np.isfinite(stance_percent) else stance_end
    rows = []
    for load in curve.mean[[bool(count) for count in curve.strides]]:
        middle = own_end // 2
        first = int(np.argmax(load[: middle + 1]))
        second = middle + int(np.argmax(load[middle : own_end + 1]))
        valley = float(load[first : second + 1].min())
        two = min(load[first], load[second]) - valley > 0.02
        rows.append([norms.pearson(load[: stance_end + 1], norm), load[first], load[second], valley, float(two)])
    if not rows:
        return {}
    means = np.mean(rows, axis=0)
    names = ("r_vgrf_stance", "vgrf_peak1_bw", "vgrf_peak2_bw", "vgrf_valley_bw")
    measures = {name: float(value) for name, value in zip(names, means, strict=False)}
    return measures | {"vgrf_two_peaks": float(np.min(rows, axis=0)[-1])}


def _speed_measures(walked: Sequence[Recording], command_m_s: float, settle_s: float) -> dict[str, float]:
    """Mean speed; its distance from the command without and with sign; the mean size of the single trials' errors."""
    speeds = []
    for trial in walked:
        start, end = trial.time_s[0] + settle_s, trial.time_s[-1]
        if start < end:
            speeds.append(float(mean_speed_m_s(trial, np.array([start]), np.array([end]))[0]))
    if not speeds or not np.all(np.isfinite(speeds)):
        return {}
    errors = np.array(speeds) - command_m_s
    return {
        "speed_m_s": float(np.mean(speeds)),
        "speed_error_m_s": float(abs(np.mean(errors))),
        "speed_bias_m_s": float(np.mean(errors)),
        "speed_error_each_m_s": float(np.mean(np.abs(errors))),
    }


def _stride_measures(trials: Sequence[tuple[Recording, Sequence[Stride]]]) -> dict[str, float]:
    """Means over strides of both sides, their standard deviations, and the difference right minus left."""
    rows = [(spatiotemporal(trial, strides), [s.side for s in strides]) for trial, strides in trials if strides]
    if not rows:
        return {"strides": 0.0}
    right = np.concatenate([np.array(sides) == "right" for _, sides in rows])
    measures = {"strides": float(right.size)}
    for name in rows[0][0]:
        values = np.concatenate([row[name] for row, _ in rows])
        known = np.isfinite(values)
        if name == "speed_m_s" or not known.any():
            continue
        measures[name] = float(values[known].mean())
        measures[f"{name}_sd"] = float(values[known].std())
        if (known & right).any() and (known & ~right).any():
            measures[f"{name}_asymmetry"] = float(values[known & right].mean() - values[known & ~right].mean())
    return measures


def _cost_measures(trials: Sequence[tuple[Recording, Sequence[Stride]]]) -> dict[str, float]:
    """Powers and effort as means over trials; cost of transport and per-metre figures from those means."""
    rows = []
    for trial, strides in trials:
        span = whole_strides_s(strides)
        if span is None:
            continue
        row = mechanical_measures(trial, span) | effort_measures(trial, span)
        row["_speed"] = float(mean_speed_m_s(trial, np.array([span[0]]), np.array([span[1]]))[0])
        rows.append(row)
    if not rows:
        return {}
    shared = set.intersection(*(set(row) for row in rows))
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name in shared}
    speed = means.pop("_speed", NAN)
    if speed > 0.05:
        for power, work in (
            ("metabolic_W_kg", "cot_J_kg_m"),
            ("positive_joint_power_W_kg", "positive_joint_work_J_kg_m"),
            ("negative_joint_power_W_kg", "negative_joint_work_J_kg_m"),
        ):
            if power in means:
                means[work] = means[power] / speed
    return means


def _joint_measures(curves: Mapping[str, Curve], stance_percent: float, body_mass_kg: float) -> dict[str, float]:
    """Ranges that a biomechanist looks at first, from mean curves; degrees, and Nm for the knee's end stop."""
    measures: dict[str, float] = {}
    stance_end = round(stance_percent) if np.isfinite(stance_percent) else round(norms.STANCE_PERCENT)
    knee = curves.get("angle/knee_flexion")
    if knee is not None:
        measures["knee_swing_flexion_deg"] = float(np.nanmean(knee.mean[:, stance_end:].max(axis=1)))
        measures["knee_loading_flexion_deg"] = float(np.nanmean(knee.mean[:, : stance_end // 2].max(axis=1)))
    rotation = curves.get("angle/hip_rotation")
    if rotation is not None:
        measures["hip_rotation_min_deg"] = float(np.nanmin(rotation.mean))
        measures["hip_rotation_max_deg"] = float(np.nanmax(rotation.mean))
    stop = curves.get("limit_size/knee_flexion")
    if stop is not None:
        measures["knee_limit_torque_stance_nm"] = float(np.nanmean(stop.mean[:, : stance_end + 1])) * body_mass_kg
    return measures


def _timing_measures(curves: Mapping[str, Curve], stride_time_s: float) -> dict[str, float]:
    """How much later the exoskeleton's torque peaks than the biological hip moment, ms."""
    torque, moment = curves.get("torque/exo"), curves.get("moment/hip_flexion")
    if torque is None or moment is None or not np.any(np.nan_to_num(torque.both)):
        return {}
    lags = peak_lags(moment.both, torque.both, stride_time_s)
    return {
        "lag_extension_ms": lags.extension_ms,
        "lag_flexion_ms": lags.flexion_ms,
        "lag_cross_correlation_ms": lags.cross_correlation_ms,
        "r_torque_moment": norms.pearson(torque.both[:-1], moment.both[:-1]),
    }


def overall(conditions: Sequence[Condition]) -> dict[str, float]:
    """Means over conditions of every measure they share, and the worst `fall_free_share` and `speed_error_m_s`."""
    shared = set.intersection(*(set(condition.measures) for condition in conditions))
    summary = {}
    for name in conditions[0].measures:
        if name in shared:
            values = np.array([condition.measures[name] for condition in conditions], float)
            known = np.isfinite(values)
            summary[name] = float(values[known].mean()) if known.any() else NAN
    summary["fall_free_share_worst"] = float(min(c.measures["fall_free_share"] for c in conditions))
    errors = [c.measures["speed_error_m_s"] for c in conditions]
    summary["speed_error_m_s_worst"] = float(np.nanmax(errors)) if np.any(np.isfinite(errors)) else NAN
    return summary


def cell_summary(condition: Condition) -> dict:
    """One condition as `summary.json` holds it."""
    where = {"speed_command_m_s": condition.speed_m_s, "slope_deg": float(np.rad2deg(condition.slope_rad))}
    by_group = {"on_time_overlap_by_group": condition.on_time_overlap}
    return where | {"trials": condition.trials} | condition.measures | by_group


def summary(conditions: Sequence[Condition]) -> dict:
    """What `summary.json` holds: `cells`, one entry per condition, and `overall`."""
    return {"cells": [cell_summary(c) for c in conditions], "overall": overall(conditions)}
