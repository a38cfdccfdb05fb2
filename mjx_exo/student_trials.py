"""Walking with a student in many cells at once, and what is measured of it.

All cells and all three arms (the student drives, the teacher drives, nobody drives) walk in one batch, so that there is
one environment to build and one program to compile. A trial counts up to its first fall.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.gait.profiles import compare_profiles, compare_series
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.strides import find_strides, of_side, over_cycle
from mjx_exo.musculoskeletal.energetics import BASAL_W_KG
from mjx_exo.student_driving import NOBODY, STUDENT, TEACHER, DrivingState, StudentDriving
from mjx_exo.walking.rollout import metabolic_power_w

SETTLE_S = 2.0
ARMS = {"student": STUDENT, "teacher": TEACHER, "nobody": NOBODY}
FEWEST_STRIDES = 3
_CHUNK_STEPS = 25
NAN = float("nan")


@dataclasses.dataclass(frozen=True)
class Trials:
    """N trials. T ticks of the device, K control steps; the first `ticks[n]` ticks of a trial count."""

    tick_s: float
    body_mass_kg: np.ndarray  # [N]
    ticks: np.ndarray  # [N] int, before the first fall
    signals: np.ndarray  # [T, N, C]
    gyro: np.ndarray  # [T, N, 2] rad/s, true
    teacher: np.ndarray  # [T, N, 2] Nm/kg
    student: np.ndarray  # [T, N, 2] Nm/kg
    force_n: np.ndarray  # [T, N, 2] vertical, on the right and left foot
    metabolic_w_kg: np.ndarray  # [K, N] gross
    speed_m_s: np.ndarray  # [K, N]

    @property
    def fell(self) -> np.ndarray:
        """[N] True where a trial ended early."""
        return self.ticks < len(self.gyro)

    def settled(self, trial: int) -> slice:
        """The ticks of a trial that count, its start left out."""
        return slice(round(SETTLE_S / self.tick_s), int(self.ticks[trial]))

    def mean_after_settling(self, series: np.ndarray) -> np.ndarray:
        """[N] mean of [K, N] control steps from the settling to the fall or end; nan for a trial that fell before."""
        share = len(self.gyro) // len(series)
        result = np.full(series.shape[1], NAN)
        for n in range(series.shape[1]):
            part = self.settled(n)
            if part.stop > part.start:
                result[n] = float(series[part.start // share : part.stop // share, n].mean())
        return result


def walk(
    driving: StudentDriving,
    params: Any,
    state: DrivingState,
    driver: np.ndarray,
    seconds: float,
    say: Callable[[float], None] | None = None,
) -> Trials:
    """Walks from `state` for `seconds`; `driver` [N] is of `ARMS`. `say` is told the share done, 0…1."""
    env = driving.env
    who = jnp.asarray(driver)

    def step(state: DrivingState, _: None) -> tuple[DrivingState, dict[str, Any]]:
        state, ticks = driving.step(params, state, who)
        moved, readings = state.env, state.env.readings
        return state, {
            "ticks": ticks._asdict(),
            "ended": (moved.terminated + moved.truncated) > 0,
            "force_n": readings.foot_force_n[:, :, 2],
            "speed_m_s": moved.physics.qvel[:, 0],
            "excitation": env.human_actions.excitation(moved.previous_action),
            "activation": moved.physics.activation,
            "fibre_length": readings.fibre_length,
            "fibre_velocity": readings.fibre_velocity,
        }

    advance = jax.jit(lambda state: jax.lax.scan(step, state, None, length=_CHUNK_STEPS))
    steps, parts = math.ceil(seconds / env.control_dt / _CHUNK_STEPS) * _CHUNK_STEPS, []
    masses = np.asarray(env.body_mass_kg)
    for done in range(0, steps, _CHUNK_STEPS):
        state, rows = advance(state)
        rows = jax.device_get(rows)
        power = metabolic_power_w(env, rows)[0].sum(-1) / masses + BASAL_W_KG
        kept = {name: rows[name] for name in ("ended", "force_n", "speed_m_s")}
        ticks = {name: value.reshape(-1, *value.shape[2:]) for name, value in rows["ticks"].items()}
        parts.append(kept | ticks | {"metabolic_w_kg": power})
        if say is not None:
            say((done + _CHUNK_STEPS) / steps)
    series = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    ended = series["ended"]
    before = np.where(ended.any(axis=0), ended.argmax(axis=0), steps)
    return Trials(
        tick_s=env.tick_s,
        body_mass_kg=masses,
        ticks=before * env.ticks,
        force_n=np.repeat(series["force_n"], env.ticks, axis=0),
        **{name: series[name] for name in ("signals", "gyro", "teacher", "student", "metabolic_w_kg", "speed_m_s")},
    )


def recording(trials: Trials, trial: int, speed_m_s: float, slope_rad: float, label: str) -> Recording | None:
    """One trial after its settling as a `Recording`, the teacher's torque as the command; None when it is too short."""
    part = trials.settled(trial)
    count = part.stop - part.start
    if count * trials.tick_s < 3.0:
        return None
    force = np.zeros((count, 2, 3))
    force[:, :, 2] = trials.force_n[part, trial]
    return Recording(
        time_s=np.arange(count) * trials.tick_s,
        body_mass_kg=float(trials.body_mass_kg[trial]),
        thigh_gyro_rad_s=trials.gyro[part, trial],
        exo_torque_nm_kg=trials.student[part, trial],
        exo_command_nm_kg=trials.teacher[part, trial],
        ground_force_n=force,
        speed_m_s=np.full(count, speed_m_s),
        command_speed_m_s=speed_m_s,
        slope_rad=slope_rad,
        label=label,
    )


@dataclasses.dataclass(frozen=True)
class TorqueMatch:
    """A student's torque beside the teacher's at the same states. `strides` are [S, 101] Nm/kg, teacher and student."""

    r_profile: float
    r_raw: float
    rmse_nm_kg: float
    rmse_profile_nm_kg: float
    amplitude_ratio: float
    r_profile_worst_trial: float
    strides: tuple[np.ndarray, np.ndarray]
    raw: tuple[np.ndarray, np.ndarray]  # [T, 2] each, all trials in a row

    def as_dict(self) -> dict[str, float]:
        """JSON-ready, the names of summary.json."""
        return {
            "r_profile": self.r_profile,
            "r_raw": self.r_raw,
            "rmse_Nm_kg": self.rmse_nm_kg,
            "rmse_profile_Nm_kg": self.rmse_profile_nm_kg,
            "amplitude_ratio": self.amplitude_ratio,
            "r_profile_worst_trial": self.r_profile_worst_trial,
            "strides": len(self.strides[0]),
        }


def match(recordings: Sequence[Recording], walking: bool = True) -> TorqueMatch:
    """Compares `exo_torque` with `exo_command` of some trials: profiles over both sides' strides, and all samples.

    Without `walking` no strides are looked for.
    """
    reference, measured, times, each = [], [], [], []
    for trial in recordings:
        strides = find_strides(trial, "force") if walking else []
        if walking and len(strides) < FEWEST_STRIDES:
            strides = find_strides(trial, "gyro")
        theirs, ours = [], []
        for i, side in enumerate(SIDES):
            mine = of_side(strides, side)
            theirs.extend(over_cycle(trial.time_s, trial.exo_command_nm_kg[:, i], mine))
            ours.extend(over_cycle(trial.time_s, trial.exo_torque_nm_kg[:, i], mine))
        if ours:
            each.append(compare_profiles(np.array(theirs), np.array(ours), 1.0).r_mean)
        reference += theirs
        measured += ours
        times += [stride.duration_s for stride in strides]
    empty = np.zeros((0, 2))
    raw = tuple(
        np.concatenate([getattr(trial, name) for trial in recordings] or [empty])
        for name in ("exo_command_nm_kg", "exo_torque_nm_kg")
    )
    series = compare_series(*raw)
    if not measured:
        none = np.zeros((0, 101))
        return TorqueMatch(NAN, series.r, series.rmse_nm_kg, NAN, series.amplitude_ratio, NAN, (none, none), raw)
    strides = (np.array(reference), np.array(measured))
    profile = compare_profiles(*strides, float(np.mean(times)))
    return TorqueMatch(
        r_profile=profile.r_mean,
        r_raw=series.r,
        rmse_nm_kg=series.rmse_nm_kg,
        rmse_profile_nm_kg=profile.rmse_mean_nm_kg,
        amplitude_ratio=series.amplitude_ratio,
        r_profile_worst_trial=float(np.min(each)),
        strides=strides,
        raw=raw,
    )


@dataclasses.dataclass(frozen=True)
class Benefit:
    """Gross metabolic rate W/kg with nobody, the teacher and the student driving, and what the student keeps of it.

    `kept` is (nobody - student) / (nobody - teacher); nan, with the reason in `note`, where the teacher saves next to
    nothing or nobody came through.
    """

    nobody_w_kg: float
    teacher_w_kg: float
    student_w_kg: float
    pairs: int
    kept: float
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "metabolic_nobody_W_kg": self.nobody_w_kg,
            "metabolic_teacher_W_kg": self.teacher_w_kg,
            "metabolic_student_W_kg": self.student_w_kg,
            "benefit_trials": self.pairs,
            "benefit_kept": self.kept,
            "benefit_note": self.note,
        }


LEAST_BENEFIT = 0.01
"""A teacher that saves less than this share of the rate saves about nothing: a share of it would be noise."""


def benefit(nobody: np.ndarray, teacher: np.ndarray, student: np.ndarray) -> Benefit:
    """What is kept, from rates [P] W/kg of the same wearers in the same cells; nan is a trial that fell."""
    rows = np.stack([nobody, teacher, student])
    rows = rows[:, np.all(np.isfinite(rows), axis=0)]
    pairs = rows.shape[1]
    if pairs == 0:
        return Benefit(NAN, NAN, NAN, 0, NAN, "no wearer walked to the end in all three arms")
    off, own, ours = rows.mean(axis=1)
    saved = rows[0] - rows[1]
    error = float(saved.std(ddof=1) / math.sqrt(pairs)) if pairs > 1 else 0.0
    if saved.mean() < max(LEAST_BENEFIT * off, 2.0 * error):
        share = 100.0 * saved.mean() / off
        spread = 200.0 * error / off
        note = f"the teacher saves {share:.1f} ± {spread:.1f} % of the rate: too little to take a share of"
        return Benefit(off, own, ours, pairs, NAN, note)
    return Benefit(off, own, ours, pairs, float((off - ours) / (off - own)))
