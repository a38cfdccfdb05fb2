"""Would the torque come at the right time on a real person? The student on signals made from people's norm curves.

Nothing of the simulation is in these signals: the thigh turns as the adult norms of hip flexion say, less what the
pelvis does beneath it. A torque that then peaks in the assistive phase, on the right side and with the right sign, was
not an artefact of the simulated gait. Nobody is pushed: the loop is open.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mjx_exo.gait import figures, norms
from mjx_exo.gait.norms import PERCENT
from mjx_exo.gait.profiles import peak_percent
from policies.storage import SavedStudent
from policies.student import Student

STRIDES_PER_S = (0.8, 0.9, 1.0, 1.1, 1.2)
PELVIS_AMPLITUDE_RAD = math.radians(1.5)
"""The pelvis tips twice per stride by about this much either way about its mean (background)."""
PELVIS_FORWARD_PERCENT = 50.0
"""Where it is tipped forward most: about the heel strikes (background); results hardly depend on it."""
EXTENSION_PERCENT = (-5.0, 30.0)
"""Early stance and the loading before it: here a torque that extends the hip supports the leg that has just landed."""
FLEXION_PERCENT = (50.0, 80.0)
"""Around toe-off and in early swing: here a torque that flexes the hip throws the leg forward."""
SETTLE_STRIDES, STRIDES = 3, 6


def thigh_rates(
    strides_per_s: float, rate_hz: float, seconds: float, pelvis_rad: float = PELVIS_AMPLITUDE_RAD,
    pelvis_forward_percent: float = PELVIS_FORWARD_PERCENT,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Gyroscope signals [T, 2] rad/s, flexion positive, [right, left], and each side's percent of the gait cycle.

    The thigh's angle in space is hip flexion less the pelvis's anterior tilt; legs are half a cycle apart.
    """
    percent = 100.0 * strides_per_s * np.arange(round(seconds * rate_hz))[:, None] / rate_hz + np.array([0.0, 50.0])

    def angle(at: np.ndarray) -> np.ndarray:
        hip = np.radians(norms.curve("hip_flexion", at).mean)
        tilt = pelvis_rad * np.cos(4.0 * math.pi * (at - pelvis_forward_percent) / 100.0)
        return hip - tilt

    step = 0.5  # percent; the norm's rows are 4 percent apart
    per_percent = (angle(percent + step) - angle(percent - step)) / (2.0 * step)
    return per_percent * 100.0 * strides_per_s, percent % 100.0


def student_inputs(student: SavedStudent, gyro: np.ndarray) -> np.ndarray:
    """The student's inputs [T, C]: the sagittal gyroscope, and what other signals are in a purely sagittal walk.

    An accelerometer reads gravity along a thigh that hangs; a hip encoder the angle that belongs to the rates.
    """
    config = student.config
    angle = np.cumsum(gyro, axis=0) / config.rate_hz
    known = {
        "thigh_gyro": gyro,
        "thigh_accel_up": np.full_like(gyro, 9.81),
        "hip_flexion": angle - angle.mean(axis=0) + np.radians(norms.curve("hip_flexion").mean.mean()),
        "hip_flexion_velocity": gyro,
    }
    rows = [known.get(name, np.zeros_like(gyro)) for name in config.signals]
    return np.stack(rows, axis=1).reshape(len(gyro), -1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class OpenLoop:
    """One stride frequency. `torque` [2, 101] Nm/kg over each side's gait cycle; peaks in percent per side."""

    strides_per_s: float
    torque: np.ndarray
    extension_percent: tuple[float, float]
    flexion_percent: tuple[float, float]
    positive_share: tuple[float, float]  # of the work on the thigh, per side

    @property
    def assistive(self) -> bool:
        """Whether both peaks of both sides fall into their phases."""
        return all(_inside(p, EXTENSION_PERCENT) for p in self.extension_percent) and all(
            _inside(p, FLEXION_PERCENT) for p in self.flexion_percent
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "strides_per_s": self.strides_per_s,
            "extension_peak_percent": list(self.extension_percent),
            "flexion_peak_percent": list(self.flexion_percent),
            "extension_peak_Nm_kg": self.torque.min(axis=1).tolist(),
            "flexion_peak_Nm_kg": self.torque.max(axis=1).tolist(),
            "positive_work_share": list(self.positive_share),
            "assistive": self.assistive,
        }


def _inside(percent: float, span: tuple[float, float]) -> bool:
    """False for nan, which is a torque without such a peak."""
    return math.isfinite(percent) and (percent - span[0]) % 100.0 <= span[1] - span[0]


def open_loop_on_norms(
    student: SavedStudent, strides_per_s: Sequence[float] = STRIDES_PER_S, **pelvis: float
) -> list[OpenLoop]:
    """The student's torque on norm curves walked at several stride frequencies; `pelvis` goes to `thigh_rates`."""
    config = student.config
    lead_s = config.receptive_field / config.rate_hz
    found = []
    for frequency in strides_per_s:
        seconds = lead_s + (SETTLE_STRIDES + STRIDES) / frequency
        gyro, percent = thigh_rates(frequency, config.rate_hz, seconds, **pelvis)
        signals = student_inputs(student, gyro)[None]
        torque = np.asarray(Student(config).apply(student.params, jax.numpy.asarray(signals), method="sequence"))[0]
        gyro, percent = gyro[config.receptive_field - 1 :], percent[config.receptive_field - 1 :]
        last = slice(len(torque) - round(STRIDES / frequency * config.rate_hz), None)
        cycle = np.stack([_over_cycle(percent[last, i], torque[last, i]) for i in (0, 1)])
        power = torque[last] * gyro[last]
        share = np.maximum(power, 0.0).sum(axis=0) / np.maximum(np.abs(power).sum(axis=0), 1e-12)
        found.append(
            OpenLoop(
                frequency,
                cycle,
                tuple(peak_percent(-row) for row in cycle),
                tuple(peak_percent(row) for row in cycle),
                tuple(float(s) for s in share),
            )
        )
    return found


def _over_cycle(percent: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of `values` [T] over the cycle, [101], from samples at `percent` [T] of several strides."""
    order = np.argsort(percent)
    spectrum = np.exp(-2j * math.pi * np.outer(np.arange(13), percent[order]) / 100.0)
    basis = np.concatenate([spectrum.real, spectrum.imag[1:]])
    weights = np.linalg.lstsq(basis.T, values[order], rcond=None)[0]
    grid = np.exp(-2j * math.pi * np.outer(np.arange(13), PERCENT) / 100.0)
    return weights @ np.concatenate([grid.real, grid.imag[1:]])


def open_loop_figure(rows: Sequence[OpenLoop]) -> figures.Figure:
    """Torque over the gait cycle at every stride frequency, right and left, with the assistive phases shaded."""
    colours = figures.shades([row.strides_per_s for row in rows])
    with figures.rc_context(figures.STYLE):
        figure = figures.Figure(figsize=(8.6, 3.2), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for side, (axes, title) in enumerate(zip(panels, ("right", "left"), strict=True)):
            for low, high in (EXTENSION_PERCENT, (100.0 + EXTENSION_PERCENT[0], 100.0)):
                axes.axvspan(max(low, 0.0), high, ymax=0.5, color=figures.NORM_COLOUR, alpha=0.3, linewidth=0)
            axes.axvspan(*FLEXION_PERCENT, ymin=0.5, color=figures.NORM_COLOUR, alpha=0.3, linewidth=0)
            for row, colour in zip(rows, colours, strict=True):
                axes.plot(PERCENT, row.torque[side], color=colour, label=f"{row.strides_per_s:g} strides/s")
            axes.axhline(0.0, color="#666666", linewidth=0.7)
            axes.set_title(title, loc="left")
            axes.set_xlim(0, 100)
            axes.set_xlabel("gait cycle of that side, %")
        reach = 1.15 * max(float(np.abs(row.torque).max()) for row in rows)
        panels[0].set_ylim(-reach, reach)
        panels[0].set_ylabel("torque, Nm/kg (flexion +)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
    return figure
