"""Signals of many strides reduced to mean curves over the gait cycle, sides apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.gait.norms import PERCENT
from mjx_exo.gait.power import joint_power_w_kg
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.strides import Stride, of_side, over_cycle


@dataclass(frozen=True)
class Curve:
    """A signal over 0..100 % of the gait cycle: `mean` and `sd` over strides [2, 101], right and left.

    `strides` [2] says how many there were; a side without strides is nan.
    """

    mean: np.ndarray
    sd: np.ndarray
    strides: tuple[int, int]

    @property
    def both(self) -> np.ndarray:
        """[101] mean of the two sides, or of the one that has strides."""
        if all(self.strides):
            return self.mean.mean(axis=0)
        return self.mean[int(self.strides[0] == 0)]


def side_signals(recording: Recording, side: str) -> dict[str, np.ndarray]:
    """Every signal of one leg as [T], in the units people read, by name; signals with missing values are left out.

    `angle/JOINT` degrees, `moment/JOINT` Nm/kg, `limit_size/JOINT` Nm/kg (magnitude of the end stop's moment),
    `power/JOINT` W/kg, `force/vertical`, `force/forward` and `force/outward` body weights, `torque/exo` and
    `torque/command` Nm/kg, `gyro/thigh` rad/s, `activation/GROUP` (mean of the group's muscles), `muscle/NAME` (each
    one, where a group has several).
    """
    signals: dict[str, np.ndarray] = {}
    column, suffix = SIDES.index(side), f"_{side[0]}"
    fields = {
        "angle": np.rad2deg(recording.joint_angle_rad) if recording.joint_angle_rad is not None else None,
        "moment": recording.biological_moment_nm_kg,
        "limit_size": None if recording.limit_moment_nm_kg is None else np.abs(recording.limit_moment_nm_kg),
        "power": joint_power_w_kg(recording),
    }
    for kind, values in fields.items():
        if values is not None:
            for index, name in enumerate(recording.joint_names):
                if name.endswith(suffix):
                    signals[f"{kind}/{name[:-2]}"] = values[:, index]
    if recording.ground_force_n is not None:
        force = recording.ground_force_n[:, column] / recording.weight_n
        outward = -1.0 if side == "right" else 1.0
        signals["force/vertical"], signals["force/forward"] = force[:, 2], force[:, 0]
        signals["force/outward"] = outward * force[:, 1]
    pairs = {
        "torque/exo": recording.exo_torque_nm_kg,
        "torque/command": recording.exo_command_nm_kg,
        "gyro/thigh": recording.thigh_gyro_rad_s,
    }
    signals |= {name: values[:, column] for name, values in pairs.items() if values is not None}
    signals |= _activations(recording, suffix)
    return {name: values for name, values in signals.items() if np.isfinite(values).all()}


def _activations(recording: Recording, suffix: str) -> dict[str, np.ndarray]:
    if recording.activation is None:
        return {}
    groups = recording.groups()
    members: dict[str, list[int]] = {}
    for index, name in enumerate(recording.muscle_names):
        if name.endswith(suffix):
            members.setdefault(groups[index], []).append(index)
    signals = {f"activation/{group}": recording.activation[:, own].mean(axis=1) for group, own in members.items()}
    for own in members.values():
        if len(own) > 1:
            signals |= {f"muscle/{recording.muscle_names[i][:-2]}": recording.activation[:, i] for i in own}
    return signals


def mean_curves(trials: Sequence[tuple[Recording, Sequence[Stride]]]) -> dict[str, Curve]:
    """The mean curves of all strides of several trials; only signals that every trial with strides has."""
    sums: dict[str, list[np.ndarray]] = {}
    names: set[str] | None = None
    for recording, strides in trials:
        if not strides:
            continue
        for column, side in enumerate(SIDES):
            own = of_side(strides, side)
            signals = side_signals(recording, side)
            names = set(signals) if names is None else names & set(signals)
            table = over_cycle(recording.time_s, np.stack(list(signals.values()), axis=1), own)
            for index, name in enumerate(signals):
                total = sums.setdefault(name, [np.zeros(2), np.zeros((2, PERCENT.size)), np.zeros((2, PERCENT.size))])
                total[0][column] += len(own)
                total[1][column] += table[:, :, index].sum(axis=0)
                total[2][column] += np.square(table[:, :, index]).sum(axis=0)
    return {name: _curve(*total) for name, total in sums.items() if names and name in names}


def _curve(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> Curve:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count[:, None]
        variance = squares / count[:, None] - np.square(mean)
    return Curve(mean, np.sqrt(np.maximum(variance, 0.0)), (int(count[0]), int(count[1])))
