"""One walking trial as plain arrays, whoever measured it.

The simulation, a log of the device and a person's own CSV all become a `Recording`, so strides, metrics and figures
never ask where the data came from. Optional signals are None when nobody measured them; a metric that needs one then
reports nothing instead of guessing.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.conventions import MUSCLE_GROUPS, SIDES, joint_name, side_of
from mjx_exo.errors import UserError
from mjx_exo.gait.files import write_bytes

GRAVITY_M_S2 = 9.81
FORMAT = "mjx_exo recording 1"


@dataclasses.dataclass(frozen=True)
class Recording:
    """A trial of T samples at a constant rate, from its first sample to its end or to the fall.

    Signs, sides and axes are those of `mjx_exo.conventions`: right before left, flexion positive on both sides,
    x forward, y left, z up in the frame of the ground (a slope tilts gravity). Per-kg quantities are per kg of the
    wearer's body mass without the device.
    """

    time_s: np.ndarray  # [T], ascending, evenly spaced
    body_mass_kg: float
    joint_names: tuple[str, ...] = ()  # J names with side suffix, e.g. hip_flexion_r
    joint_angle_rad: np.ndarray | None = None  # [T, J]
    joint_velocity_rad_s: np.ndarray | None = None  # [T, J]
    biological_moment_nm_kg: np.ndarray | None = None  # [T, J] muscle + passive + limit moment, device excluded
    limit_moment_nm_kg: np.ndarray | None = None  # [T, J] the part of it that comes from the joints' end stops
    exo_torque_nm_kg: np.ndarray | None = None  # [T, 2] applied by the device at the hips, right and left
    exo_command_nm_kg: np.ndarray | None = None  # [T, 2] what the controller asked for
    thigh_gyro_rad_s: np.ndarray | None = None  # [T, 2] inertial, flexion positive
    ground_force_n: np.ndarray | None = None  # [T, 2, 3] on the right and left foot, z normal to the ground
    muscle_names: tuple[str, ...] = ()  # M names with side suffix
    muscle_groups: tuple[str, ...] = ()  # M group names of `conventions.MUSCLE_GROUPS` (or other, as trunk muscles)
    muscle_volume_m3: np.ndarray | None = None  # [M], weights of the volume-weighted activation
    activation: np.ndarray | None = None  # [T, M] 0..1
    excitation: np.ndarray | None = None  # [T, M] 0..1
    muscle_force_n: np.ndarray | None = None  # [T, M]
    fibre_velocity_m_s: np.ndarray | None = None  # [T, M], lengthening positive
    metabolic_power_w: np.ndarray | None = None  # [T, M]
    metabolic_rest_w: float = 0.0  # of the whole body, not contained in the muscles' sum
    pelvis_position_m: np.ndarray | None = None  # [T, 3]
    pelvis_velocity_m_s: np.ndarray | None = None  # [T, 3]
    pelvis_orientation_rad: np.ndarray | None = None  # [T, 3] roll, anterior tilt, yaw
    foot_position_m: np.ndarray | None = None  # [T, 2, 3] heel points
    point_names: tuple[str, ...] = ()  # P names for stick figures, e.g. hip_r
    point_position_m: np.ndarray | None = None  # [T, P, 3]
    speed_m_s: np.ndarray | None = None  # [T] walking speed where it was measured otherwise (a treadmill's belt)
    command_speed_m_s: float | np.ndarray | None = None  # scalar or [T]
    slope_rad: float | np.ndarray = 0.0  # scalar or [T], uphill positive
    fell: bool = False
    label: str = ""  # where it came from, for reports

    def __post_init__(self) -> None:
        _check(self)

    @property
    def rate_hz(self) -> float:
        """Samples per second, from the first and the last time."""
        return (self.time_s.size - 1) / (self.time_s[-1] - self.time_s[0])

    @property
    def weight_n(self) -> float:
        """Body weight without the device, N."""
        return self.body_mass_kg * GRAVITY_M_S2

    def joint(self, field: str, joint: str, side: str) -> np.ndarray | None:
        """[T] of one joint from a [T, J] field, e.g. `joint("joint_angle_rad", "hip_flexion", "right")`.

        None when the field or the joint was not recorded.
        """
        values, name = getattr(self, field), joint_name(joint, side)
        if values is None or name not in self.joint_names:
            return None
        return values[:, self.joint_names.index(name)]

    def vertical_force_bw(self, side: str) -> np.ndarray | None:
        """[T] force normal to the ground under one foot in body weights, or None."""
        if self.ground_force_n is None:
            return None
        return self.ground_force_n[:, SIDES.index(side), 2] / self.weight_n

    def forward_speed_m_s(self) -> np.ndarray | None:
        """[T] speed along the ground: measured, else pelvis velocity, else from pelvis positions; None if unknown."""
        if self.speed_m_s is not None:
            return self.speed_m_s
        if self.pelvis_velocity_m_s is not None:
            return self.pelvis_velocity_m_s[:, 0]
        if self.pelvis_position_m is not None:
            return np.gradient(self.pelvis_position_m[:, 0], self.time_s)
        return None

    def angular_velocity(self) -> np.ndarray | None:
        """[T, J] joint velocities, rad/s: recorded, else the derivative of the angles; None without angles."""
        if self.joint_velocity_rad_s is not None or self.joint_angle_rad is None:
            return self.joint_velocity_rad_s
        return np.gradient(self.joint_angle_rad, self.time_s, axis=0)

    def groups(self) -> tuple[str, ...]:
        """The M muscle groups: as given, else the muscle's own name where that is a group's, else "other"."""
        if self.muscle_groups:
            return self.muscle_groups
        bare = (name[:-2] if side_of(name) else name for name in self.muscle_names)
        return tuple(name if name in MUSCLE_GROUPS else "other" for name in bare)

    def between(self, start_s: float, end_s: float) -> Recording:
        """The samples with `start_s` ≤ time ≤ `end_s`. Raises UserError when fewer than two are left."""
        keep = (self.time_s >= start_s) & (self.time_s <= end_s)
        if np.count_nonzero(keep) < 2:
            has = f"it has {self.time_s[0]:g}..{self.time_s[-1]:g} s"
            raise UserError(f"{self.label or 'recording'}: nothing between {start_s:g} s and {end_s:g} s, {has}")
        samples = self.time_s.size
        changes = {
            field.name: value[keep]
            for field in dataclasses.fields(self)
            if field.name in _SAMPLED and isinstance(value := getattr(self, field.name), np.ndarray)
            if value.ndim and value.shape[0] == samples
        }
        return dataclasses.replace(self, **changes)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that is not None as arrays, for a npz file; `from_arrays` reads it back."""
        stored = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                stored[field.name] = np.asarray(value)
        return stored

    @classmethod
    def from_arrays(cls, stored: Mapping[str, np.ndarray]) -> Recording:
        """The inverse of `arrays`."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name not in stored:
                continue
            value = stored[field.name]
            if field.name in _NAMES:
                values[field.name] = tuple(str(name) for name in value)
            elif value.ndim == 0:
                values[field.name] = value.item()
            else:
                values[field.name] = value
        return cls(**values)


_NAMES = ("joint_names", "muscle_names", "muscle_groups", "point_names")

# Shape of every sampled field after the T samples; letters are counts that must agree.
_SAMPLED: dict[str, tuple[str | int, ...]] = {
    "time_s": (),
    "joint_angle_rad": ("J",),
    "joint_velocity_rad_s": ("J",),
    "biological_moment_nm_kg": ("J",),
    "limit_moment_nm_kg": ("J",),
    "exo_torque_nm_kg": (2,),
    "exo_command_nm_kg": (2,),
    "thigh_gyro_rad_s": (2,),
    "ground_force_n": (2, 3),
    "activation": ("M",),
    "excitation": ("M",),
    "muscle_force_n": ("M",),
    "fibre_velocity_m_s": ("M",),
    "metabolic_power_w": ("M",),
    "pelvis_position_m": (3,),
    "pelvis_velocity_m_s": (3,),
    "pelvis_orientation_rad": (3,),
    "foot_position_m": (2, 3),
    "point_position_m": ("P", 3),
    "speed_m_s": (),
    "command_speed_m_s": (),
    "slope_rad": (),
}
_MAY_BE_SCALAR = ("command_speed_m_s", "slope_rad")


def _check(recording: Recording) -> None:
    """Refuses arrays whose shapes contradict each other, and time that does not run evenly."""
    where = recording.label or "recording"
    time = recording.time_s
    if not isinstance(time, np.ndarray) or time.ndim != 1 or time.size < 2:
        raise UserError(f"{where}: time_s must be an array of at least two samples")
    steps = np.diff(time)
    if not np.all(steps > 0) or np.max(steps) > 1.5 * np.median(steps):
        at = int(np.argmax((steps <= 0) | (steps > 1.5 * np.median(steps))))
        raise UserError(f"{where}: time_s is not evenly spaced, see {time[at]:g} s to {time[at + 1]:g} s")
    if not recording.body_mass_kg > 0:
        raise UserError(f"{where}: body_mass_kg = {recording.body_mass_kg!r} must be positive")
    counts = {
        "J": len(recording.joint_names),
        "M": len(recording.muscle_names),
        "P": len(recording.point_names),
    }
    for name, rest in _SAMPLED.items():
        value = getattr(recording, name)
        if value is None or (name in _MAY_BE_SCALAR and np.ndim(value) == 0):
            continue
        expected = (time.size, *(counts.get(size, size) for size in rest))
        if np.shape(value) != expected:
            raise UserError(f"{where}: {name} has shape {np.shape(value)}, expected {expected}")
    if recording.muscle_groups and len(recording.muscle_groups) != counts["M"]:
        raise UserError(f"{where}: {len(recording.muscle_groups)} muscle_groups for {counts['M']} muscles")
    if recording.muscle_volume_m3 is not None and np.shape(recording.muscle_volume_m3) != (counts["M"],):
        raise UserError(f"{where}: muscle_volume_m3 needs {counts['M']} values")


def from_batch(
    arrays: Mapping[str, np.ndarray], lengths: Sequence[int], fell: Sequence[bool], **common: Any
) -> list[Recording]:
    """Trials from a batched rollout.

    `arrays` holds sampled fields as [T, N, ...] with time in front, as a scan returns them (`time_s` is [T]; a scalar
    field per trial, such as `body_mass_kg`, is [N]); `lengths` [N] says how many samples of each trial count (up to its
    fall), `fell` [N] whether it ended in one; `common` are fields that all trials share. Trials of fewer than two
    samples are kept as their first two, so that a fall at once is still counted.
    """
    trials = []
    for index, (length, fallen) in enumerate(zip(lengths, fell, strict=True)):
        count = max(int(length), 2)
        fields: dict[str, Any] = dict(common)
        for name, values in arrays.items():
            if name == "time_s":
                fields[name] = np.asarray(values[:count], float)
            elif np.ndim(values) == 1:
                fields[name] = float(values[index])
            else:
                fields[name] = np.asarray(values[:count, index])
        trials.append(Recording(fell=bool(fallen), **fields))
    return trials


def save(path: str | Path, trials: Recording | Sequence[Recording]) -> None:
    """Writes one or more trials to a compressed npz file, atomically."""
    trials = [trials] if isinstance(trials, Recording) else list(trials)
    stored = {f"{i}/{name}": value for i, trial in enumerate(trials) for name, value in trial.arrays().items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, header=np.array(json.dumps({"format": FORMAT, "trials": len(trials)})), **stored)
    write_bytes(path, buffer.getvalue())


def load(path: str | Path) -> list[Recording]:
    """The trials that `save` wrote. Raises UserError when the file is not one of them."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            if header["format"] != FORMAT:
                raise UserError(f"{path}: format {header['format']!r}, this version reads {FORMAT!r}")
            trials: list[dict[str, np.ndarray]] = [{} for _ in range(header["trials"])]
            for key in stored.files:
                if "/" in key:
                    index, name = key.split("/", 1)
                    trials[int(index)][name] = stored[key]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{path}: not a recording ({error})") from None
    return [Recording.from_arrays(trial) for trial in trials]
