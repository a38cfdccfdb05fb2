"""Mechanical and metabolic cost of a trial over whole strides.

Biological joint power is (muscle + passive moment) × joint velocity per degree of freedom, the device left out, per kg
of body mass. Positive and negative parts are taken per degree of freedom and instant before anything is summed, so one
joint's absorption never cancels another's work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mjx_exo.conventions import SIDES, joint_name
from mjx_exo.gait.muscles import HIP_GROUPS
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.strides import Stride, mean_speed_m_s, of_side

NAN = float("nan")


def whole_strides_s(strides: Sequence[Stride]) -> tuple[float, float] | None:
    """Start and end of the time that whole strides of the right foot (else the left) span; None without strides."""
    for side in SIDES:
        own = of_side(strides, side)
        if own:
            return own[0].start_s, own[-1].end_s
    return None


def time_mean(time_s: np.ndarray, values: np.ndarray, span_s: tuple[float, float]) -> np.ndarray:
    """Mean of `values` [T, ...] over a span of time, trapezoidal, with the ends between samples interpolated."""
    start, end = span_s
    inside = (time_s > start) & (time_s < end)
    at = np.concatenate([[start], time_s[inside], [end]])
    flat = np.asarray(values, float).reshape(time_s.size, -1)
    edges = np.array([[np.interp(t, time_s, column) for column in flat.T] for t in (start, end)])
    samples = np.concatenate([edges[:1], flat[inside], edges[1:]])
    mean = np.trapezoid(samples, at, axis=0) / (end - start)
    return mean.reshape(np.shape(values)[1:])


def joint_power_w_kg(recording: Recording) -> np.ndarray | None:
    """[T, J] biological joint power, W/kg, nan for a joint without moment; None without any moments or angles."""
    velocity = recording.angular_velocity()
    if velocity is None or recording.biological_moment_nm_kg is None:
        return None
    return recording.biological_moment_nm_kg * velocity


def device_power_w_kg(recording: Recording) -> np.ndarray | None:
    """[T, 2] power that the device puts into the hips, W/kg of body mass; None without torque or hip angles."""
    velocity = recording.angular_velocity()
    names = [joint_name("hip_flexion", side) for side in SIDES]
    if recording.exo_torque_nm_kg is None or velocity is None or not set(names) <= set(recording.joint_names):
        return None
    return recording.exo_torque_nm_kg * velocity[:, [recording.joint_names.index(name) for name in names]]


def mechanical_measures(recording: Recording, span_s: tuple[float, float]) -> dict[str, float]:
    """Mean powers over `span_s`, both legs together, W/kg.

    `positive_joint_power_W_kg`, `negative_joint_power_W_kg` (a negative number) over all degrees of freedom, the same
    per joint (`positive_power_hip_flexion_W_kg` …), `positive_total_power_W_kg` with the device added to the hips, and
    of the device itself `exo_positive_power_W_kg`, `exo_negative_power_W_kg`, `exo_positive_share` (positive over the
    sum of both magnitudes). What cannot be computed is absent.
    """
    measures: dict[str, float] = {}
    power, device = joint_power_w_kg(recording), device_power_w_kg(recording)
    time = recording.time_s
    if power is not None:
        positive = time_mean(time, np.maximum(power, 0.0), span_s)
        negative = time_mean(time, np.minimum(power, 0.0), span_s)
        measures["positive_joint_power_W_kg"] = float(np.nansum(positive))
        measures["negative_joint_power_W_kg"] = float(np.nansum(negative))
        for index, name in enumerate(recording.joint_names):
            if np.isnan(positive[index]):
                continue
            joint = name[:-2] if name.endswith(("_r", "_l")) else name
            for sign, values in (("positive", positive), ("negative", negative)):
                key = f"{sign}_power_{joint}_W_kg"
                measures[key] = measures.get(key, 0.0) + float(values[index])
    if power is not None and device is not None:
        total = power.copy()
        for column, side in enumerate(SIDES):
            total[:, recording.joint_names.index(joint_name("hip_flexion", side))] += device[:, column]
        measures["positive_total_power_W_kg"] = float(np.nansum(time_mean(time, np.maximum(total, 0.0), span_s)))
    if device is not None:
        gain = float(time_mean(time, np.maximum(device, 0.0), span_s).sum())
        loss = float(time_mean(time, np.minimum(device, 0.0), span_s).sum())
        measures["exo_positive_power_W_kg"], measures["exo_negative_power_W_kg"] = gain, loss
        measures["exo_positive_share"] = gain / (gain - loss) if gain - loss > 1e-9 else NAN
    return measures


def activation_by_group(recording: Recording, span_s: tuple[float, float]) -> dict[str, float]:
    """Mean activation of every muscle group over `span_s`, both legs alike; empty where activation is not known."""
    if recording.activation is None:
        return {}
    each, groups = time_mean(recording.time_s, recording.activation, span_s), np.array(recording.groups())
    return {group: float(each[groups == group].mean()) for group in dict.fromkeys(groups.tolist())}


def effort_measures(recording: Recording, span_s: tuple[float, float]) -> dict[str, float]:
    """Muscle effort and metabolic cost over `span_s`.

    `activation_mean` over all muscles, `activation_mean_volume_weighted`, `hip_activation_mean` (muscles that cross the
    hip), `activation_squared_mean`; `metabolic_W_kg` (muscles and rest together) and `cot_J_kg_m`, gross cost of
    transport. What cannot be computed is absent.
    """
    measures: dict[str, float] = {}
    if recording.activation is not None and recording.muscle_names:
        each = time_mean(recording.time_s, recording.activation, span_s)
        measures["activation_mean"] = float(each.mean())
        hip = [group in HIP_GROUPS for group in recording.groups()]
        if any(hip):
            measures["hip_activation_mean"] = float(each[hip].mean())
        if recording.muscle_volume_m3 is not None:
            weighted = np.average(each, weights=recording.muscle_volume_m3)
            measures["activation_mean_volume_weighted"] = float(weighted)
        squared = time_mean(recording.time_s, np.square(recording.activation), span_s)
        measures["activation_squared_mean"] = float(squared.mean())
    if recording.metabolic_power_w is not None:
        muscles = float(time_mean(recording.time_s, recording.metabolic_power_w.sum(axis=1), span_s))
        measures["metabolic_W_kg"] = (muscles + recording.metabolic_rest_w) / recording.body_mass_kg
        speed = float(mean_speed_m_s(recording, *(np.array([t]) for t in span_s))[0])
        measures["cot_J_kg_m"] = measures["metabolic_W_kg"] / speed if speed > 0.05 else NAN
    return measures
