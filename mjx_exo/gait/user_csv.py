"""Your own walking data: a documented CSV becomes a `Recording`.

One line per sample, at an even rate of 50 Hz or more; only `time_s` and one signal are required. A column name says
signal, side and unit, `SIGNAL_SIDE_UNIT`; the side is `r` or `l`:

    time_s
    JOINT_r_deg                 or _rad     joint angle; JOINT is hip_flexion, hip_adduction, hip_rotation,
                                            knee_flexion, ankle_dorsiflexion, subtalar_inversion, mtp_extension
    JOINT_velocity_r_deg_s      or _rad_s   joint velocity, all or none (none: derivatives of the angles)
    JOINT_moment_r_Nm_kg        or _Nm      the body's own joint moment
    grf_vertical_r_N            or _bw      ground force on the foot; also grf_forward, grf_left
    thigh_gyro_r_rad_s          or _deg_s   thigh angular velocity, thigh swinging forward positive
    exo_torque_r_Nm_kg          or _Nm      torque that the device applied at the hip; also exo_command
    activation_MUSCLE_r                     0..1 (normalised EMG too); MUSCLE is one of the groups in
                                            mjx_exo.conventions.MUSCLE_GROUPS, or any name
    foot_forward_r_m                        heel position; also foot_left, foot_up
    pelvis_tilt_deg             or _rad     anterior tilt positive; also pelvis_roll, pelvis_yaw
    speed_m_s                               walking speed (the belt's, on a treadmill)
    slope_deg                   or _rad     uphill positive

Flexion, dorsiflexion, adduction and internal rotation are positive on both sides. Lines before the header may set
`# body_mass_kg = 75`, `# speed_m_s = 1.25`, `# slope_deg = 0`, `# label = Anna, shoes`. Any other column is ignored,
but one that looks like a signal and is misspelt is refused. Gaps of up to 0.1 s are bridged.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.conventions import LEG_JOINTS, SIDE_SUFFIX, SIDES, joint_name
from mjx_exo.errors import UserError
from mjx_exo.gait.recording import GRAVITY_M_S2, Recording
from mjx_exo.gait.table import Table, bridged, even_times, read_table, write_table

_DEG = np.pi / 180.0
_ANGLE = {"deg": _DEG, "rad": 1.0}
_RATE = {"deg_s": _DEG, "rad_s": 1.0}
_FORCE_AXES = ("forward", "left", "vertical")
_FOOT_AXES = ("forward", "left", "up")
_PELVIS_AXES = ("roll", "tilt", "yaw")


def read_csv(path: str | Path, body_mass_kg: float | None = None) -> Recording:
    """The trial in a CSV file as the module describes it.

    `body_mass_kg` overrides the file's. Raises UserError naming file, column and what is allowed.
    """
    known = _known_columns()
    table = read_table(path, lambda name: name in known or name.startswith("activation_"))
    _refuse_misspelt(table, known)
    if "time_s" not in table.columns:
        raise UserError(f"{path}: no column time_s; it has {', '.join([*table.columns, *table.ignored])}")
    mass = body_mass_kg if body_mass_kg is not None else table.number("body_mass_kg")
    if mass is None:
        raise UserError(f"{path}: body mass unknown; add a first line '# body_mass_kg = 75' or say it on the command")
    if not 10.0 <= mass <= 300.0:
        raise UserError(f"{path}: body_mass_kg = {mass:g} is outside 10..300 kg")
    time = table.columns["time_s"]
    even = even_times(time, f"{path}: time_s")
    signals = {
        name: np.interp(even, time, bridged(time, values, f"{path}: {name}"))
        for name, values in table.columns.items()
        if name != "time_s"
    }
    if not signals:
        raise UserError(f"{path}: no known signal; see the column names in mjx_exo/gait/user_csv.py")
    return Recording(time_s=even, body_mass_kg=mass, **_fields(signals, table, mass))


def _known_columns() -> set[str]:
    """Every column name with a meaning, except activations."""
    names = {"time_s", "speed_m_s", "slope_deg", "slope_rad"}
    for suffix in SIDE_SUFFIX.values():
        for joint in LEG_JOINTS:
            names |= {f"{joint}{suffix}_{unit}" for unit in _ANGLE}
            names |= {f"{joint}_velocity{suffix}_{unit}" for unit in _RATE}
            names |= {f"{joint}_moment{suffix}_{unit}" for unit in ("Nm", "Nm_kg")}
        names |= {f"grf_{axis}{suffix}_{unit}" for axis in _FORCE_AXES for unit in ("N", "bw")}
        names |= {f"thigh_gyro{suffix}_{unit}" for unit in _RATE}
        names |= {f"{kind}{suffix}_{unit}" for kind in ("exo_torque", "exo_command") for unit in ("Nm", "Nm_kg")}
        names |= {f"foot_{axis}{suffix}_m" for axis in _FOOT_AXES}
    return names | {f"pelvis_{axis}_{unit}" for axis in _PELVIS_AXES for unit in _ANGLE}


_SIGNAL_BEGINNINGS = (*LEG_JOINTS, "hip_", "knee_", "ankle_", "grf_", "thigh_gyro", "exo_", "foot_", "pelvis_", "slope")


def _refuse_misspelt(table: Table, known: set[str]) -> None:
    for name in table.ignored:
        if name.startswith(_SIGNAL_BEGINNINGS):
            close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
            hint = f"; did you mean {' or '.join(close)}?" if close else "; see mjx_exo/gait/user_csv.py for the names"
            raise UserError(f"{table.path}: unknown column {name!r}{hint}")


def _fields(signals: dict[str, np.ndarray], table: Table, mass_kg: float) -> dict[str, Any]:
    """The fields of a Recording from converted columns."""
    per_kg = {"Nm_kg": 1.0, "Nm": 1.0 / mass_kg}
    newton = {"N": 1.0, "bw": mass_kg * GRAVITY_M_S2}

    def column(name: str, suffix: str, units: dict[str, float]) -> np.ndarray | None:
        for unit, factor in units.items():
            if f"{name}{suffix}_{unit}" in signals:
                return factor * signals[f"{name}{suffix}_{unit}"]
        return None

    def pair(name: str, units: dict[str, float]) -> np.ndarray | None:
        both = [column(name, suffix, units) for suffix in SIDE_SUFFIX.values()]
        if all(side is None for side in both):
            return None
        for side, values in zip(SIDES, both, strict=True):
            if values is None:
                raise UserError(f"{table.path}: {name} is missing for the {side} side")
        return np.stack(both, axis=1)

    fields: dict[str, Any] = {
        "thigh_gyro_rad_s": pair("thigh_gyro", _RATE),
        "exo_torque_nm_kg": pair("exo_torque", per_kg),
        "exo_command_nm_kg": pair("exo_command", per_kg),
        "speed_m_s": signals.get("speed_m_s"),
        "label": table.settings.get("label", table.path.stem),
    }
    samples = next(iter(signals.values())).size
    if fields["speed_m_s"] is None and table.number("speed_m_s") is not None:
        fields["speed_m_s"] = np.full(samples, table.number("speed_m_s"))
    slope = column("slope", "", _ANGLE)
    fields["slope_rad"] = slope if slope is not None else _DEG * (table.number("slope_deg") or 0.0)

    vertical = pair("grf_vertical", newton)
    if vertical is not None:
        others = [pair(f"grf_{axis}", newton) for axis in _FORCE_AXES[:2]]
        axes = [np.zeros_like(vertical) if axis is None else axis for axis in others]
        fields["ground_force_n"] = np.stack([*axes, vertical], axis=2)
    forward = pair("foot_forward", {"m": 1.0})
    if forward is not None:
        others = [pair(f"foot_{axis}", {"m": 1.0}) for axis in _FOOT_AXES[1:]]
        fields["foot_position_m"] = np.stack(
            [forward, *(np.full_like(forward, np.nan) if axis is None else axis for axis in others)], axis=2
        )
    pelvis = [column(f"pelvis_{axis}", "", _ANGLE) for axis in _PELVIS_AXES]
    if any(axis is not None for axis in pelvis):
        filled = [np.zeros(samples) if axis is None else axis for axis in pelvis]
        fields["pelvis_orientation_rad"] = np.stack(filled, axis=1)
    return fields | _joint_fields(column, samples, per_kg) | _muscle_fields(signals)


def _joint_fields(column: Any, samples: int, per_kg: dict[str, float]) -> dict[str, Any]:
    """Angles, velocities and moments; a joint that one of them lacks is nan there."""
    kinds = {
        "joint_angle_rad": ("", _ANGLE),
        "joint_velocity_rad_s": ("_velocity", _RATE),
        "biological_moment_nm_kg": ("_moment", per_kg),
    }
    found: dict[str, dict[str, np.ndarray]] = {field: {} for field in kinds}
    names = [joint_name(joint, side) for side in SIDES for joint in LEG_JOINTS]
    for field, (kind, units) in kinds.items():
        for name in names:
            values = column(f"{name[:-2]}{kind}", name[-2:], units)
            if values is not None:
                found[field][name] = values
    if set(found["joint_angle_rad"]) - set(found["joint_velocity_rad_s"]):
        found["joint_velocity_rad_s"] = {}
    present = tuple(name for name in names if any(name in values for values in found.values()))
    blank = np.full(samples, np.nan)
    stacked = {
        field: np.stack([values.get(name, blank) for name in present], axis=1)
        for field, values in found.items()
        if values
    }
    return {"joint_names": present} | stacked if present else {}


def _muscle_fields(signals: dict[str, np.ndarray]) -> dict[str, Any]:
    names = [name for name in signals if name.startswith("activation_") and name.endswith(("_r", "_l"))]
    if not names:
        return {}
    return {
        "muscle_names": tuple(name.removeprefix("activation_") for name in names),
        "activation": np.stack([signals[name] for name in names], axis=1),
    }


def write_csv(path: str | Path, recording: Recording) -> None:
    """Writes what the CSV format can hold of a recording; `read_csv` gives it back."""
    columns: dict[str, np.ndarray] = {"time_s": recording.time_s}
    joints = (
        ("", "deg", None if recording.joint_angle_rad is None else recording.joint_angle_rad / _DEG),
        ("_velocity", "rad_s", recording.joint_velocity_rad_s),
        ("_moment", "Nm_kg", recording.biological_moment_nm_kg),
    )
    for kind, unit, values in joints:
        if values is not None:
            for index, name in enumerate(recording.joint_names):
                if name[:-2] in LEG_JOINTS:
                    columns[f"{name[:-2]}{kind}{name[-2:]}_{unit}"] = values[:, index]
    pairs = (
        ("thigh_gyro", "rad_s", recording.thigh_gyro_rad_s),
        ("exo_torque", "Nm_kg", recording.exo_torque_nm_kg),
        ("exo_command", "Nm_kg", recording.exo_command_nm_kg),
    )
    for name, unit, values in pairs:
        if values is not None:
            columns |= {f"{name}{suffix}_{unit}": values[:, i] for i, suffix in enumerate(SIDE_SUFFIX.values())}
    for prefix, unit, names, cube in (
        ("grf", "N", _FORCE_AXES, recording.ground_force_n),
        ("foot", "m", _FOOT_AXES, recording.foot_position_m),
    ):
        if cube is not None:
            for side, suffix in enumerate(SIDE_SUFFIX.values()):
                columns |= {f"{prefix}_{axis}{suffix}_{unit}": cube[:, side, i] for i, axis in enumerate(names)}
    if recording.activation is not None:
        columns |= {f"activation_{n}": recording.activation[:, i] for i, n in enumerate(recording.muscle_names)}
    if recording.pelvis_orientation_rad is not None:
        tilted = recording.pelvis_orientation_rad / _DEG
        columns |= {f"pelvis_{axis}_deg": tilted[:, i] for i, axis in enumerate(_PELVIS_AXES)}
    speed = recording.forward_speed_m_s()
    if speed is not None:
        columns["speed_m_s"] = speed
    columns["slope_deg"] = np.broadcast_to(np.asarray(recording.slope_rad) / _DEG, recording.time_s.shape)
    settings = {"body_mass_kg": recording.body_mass_kg, "label": recording.label}
    write_table(path, columns, settings)
