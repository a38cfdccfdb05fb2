"""How well the student does in the loop: it drives, and is compared with the teacher at the same states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.device import DeviceProfile
from mjx_exo.gait import figures
from mjx_exo.gait.files import write_bytes, write_json
from mjx_exo.gait.profiles import compare_profiles, compare_series
from mjx_exo.gait.recording import Recording, save
from mjx_exo.gait.strides import find_strides, of_side, over_cycle
from mjx_exo.student_driving import StudentDriving
from mjx_exo.teacher import Teacher
from mjx_exo.walking.rollout import start_walking
from policies.storage import load_student

CHECK_SEED = 4242
SPEEDS_M_S = (0.9, 1.1, 1.25, 1.5)
SETTLE_S = 2.0
PER_SPEED = 8


def check_student(teacher: Teacher, student: Path, seconds: float, engine: str, folder: Path) -> dict[str, Any]:
    """Walks with the student driving, on sensors and wearers it was not trained on; writes summary.json and a figure.

    Speeds beyond the teacher's range are left out. Falls count; a trial is used up to its first fall.
    """
    saved = load_student(student)
    profile = DeviceProfile.load(teacher.config.walking.device)
    low, high = teacher.config.walking.command.speed_m_s
    speeds = [s for s in SPEEDS_M_S if low - 1e-6 <= s <= high + 1e-6] or [0.5 * (low + high)]
    count = PER_SPEED * len(speeds)
    env = teacher.environment(count, seconds + 1.0, engine=engine, wearer_seed=CHECK_SEED)
    driving = StudentDriving(env, teacher, saved.config, profile)
    state = jax.jit(driving.init)(jax.random.key(CHECK_SEED))
    speed = np.repeat(np.array(speeds, np.float32), PER_SPEED)
    walking = start_walking(env, jax.random.key(CHECK_SEED + 1), jnp.asarray(speed), 0.0)
    state = state.replace(env=walking)
    steps = round(seconds / env.control_dt)
    roll = jax.jit(lambda state: driving.roll(saved.params, state, jnp.ones(count, bool), steps))
    _, ticks = jax.device_get(roll(state))
    summary, pairs, recordings = compare(ticks, speed, env.tick_s, np.asarray(env.body_mass_kg))
    summary |= {"teacher": teacher.source, "profile": profile.name, "speeds_m_s": speeds, "trials": count}
    if pairs:
        picture = figures.torque_pairs(pairs, names=("teacher", "student"))
        write_bytes(folder / "torque.png", figures.png(picture))
    save(folder / "reference.npz", recordings)
    write_json(folder / "summary.json", summary)
    return summary


def compare(
    ticks: Any, speed_m_s: np.ndarray, tick_s: float, mass_kg: np.ndarray
) -> tuple[dict[str, float], list[figures.TorquePair], list[Recording]]:
    """Figures over all trials, one torque pair per speed, and the student's trials as recordings (a reference).

    `ticks` holds [T, N, …] arrays; rows after a trial's first fall do not count.
    """
    total = ticks.reset.shape[0]
    after_start = ticks.reset.copy()
    after_start[0] = False
    ends = np.where(after_start.any(axis=0), after_start.argmax(axis=0), total)
    settle = round(SETTLE_S / tick_s)
    recordings, by_speed, raw_teacher, raw_student = [], {}, [], []
    for n, end in enumerate(ends):
        if end - settle < round(3.0 / tick_s):
            continue
        part = slice(settle, int(end))
        recording = Recording(
            time_s=np.arange(end - settle) * tick_s,
            body_mass_kg=float(mass_kg[n]),
            thigh_gyro_rad_s=ticks.signals[part, n, :2],
            exo_torque_nm_kg=ticks.student[part, n],
            exo_command_nm_kg=ticks.teacher[part, n],
            speed_m_s=np.full(end - settle, speed_m_s[n]),
            command_speed_m_s=float(speed_m_s[n]),
            label=f"student at {speed_m_s[n]:.1f} m/s",
        )
        recordings.append(recording)
        raw_teacher.append(ticks.teacher[part, n])
        raw_student.append(ticks.student[part, n])
        strides = find_strides(recording, "gyro")
        for i, side in enumerate(SIDES):
            mine = of_side(strides, side)
            if mine:
                rows = by_speed.setdefault(float(speed_m_s[n]), ([], [], []))
                rows[0].extend(over_cycle(recording.time_s, recording.exo_command_nm_kg[:, i], mine))
                rows[1].extend(over_cycle(recording.time_s, recording.exo_torque_nm_kg[:, i], mine))
                rows[2].extend(s.duration_s for s in mine)
    summary: dict[str, float] = {"fall_free_share": float(np.mean(ends == total))}
    if not recordings:
        return summary, [], recordings
    raw = compare_series(np.concatenate(raw_teacher), np.concatenate(raw_student))
    pairs, profiles = [], []
    for speed, (reference, measured, times) in sorted(by_speed.items()):
        reference, measured = np.array(reference), np.array(measured)
        profile = compare_profiles(reference, measured, float(np.mean(times)))
        profiles.append(profile)
        pairs.append(figures.TorquePair(f"{speed:.1f} m/s", measured, reference, f"r {profile.r_mean:.3f}"))
    summary |= {"r_raw_mean": raw.r, "rmse_Nm_kg": raw.rmse_nm_kg, "amplitude_ratio": raw.amplitude_ratio}
    if profiles:
        summary |= {
            "r_profile_mean": float(np.mean([p.r_mean for p in profiles])),
            "r_profile_worst": float(np.min([p.r_mean for p in profiles])),
        }
    return summary, pairs, recordings
