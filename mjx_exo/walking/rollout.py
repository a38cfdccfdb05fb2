"""Letting a policy walk and writing down what happened, without resets getting in between.

Training wants fresh episodes all the time; evaluation wants to know whether a walker who starts now is still walking
at the end. A trial here ends with its first fall; what the environment does in that slot afterwards is cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mjx_exo.gait.recording import Recording
from mjx_exo.musculoskeletal import energetics
from mjx_exo.walking.env import EnvState, WalkingEnv
from mjx_exo.walking.features import sagittal_gyro

Act = Callable[[EnvState], dict[str, Array]]
"""Deterministic or sampled actions of all actors for a state."""

_CHUNK_STEPS = 25
_METABOLIC_SERIES = ("excitation", "activation", "fibre_length", "fibre_velocity")


@dataclasses.dataclass(frozen=True)
class Trials:
    """N trials of T control steps. `steps[n]` of them count: up to the fall, or all."""

    control_dt_s: float
    steps: np.ndarray  # [N] int, samples before the fall (T if none)
    fell: np.ndarray  # [N] bool
    series: dict[str, np.ndarray]  # name → [T, N, …]

    def seconds(self) -> np.ndarray:
        """[N] how long each trial lasted."""
        return self.steps * self.control_dt_s


def observe(env: WalkingEnv, state: EnvState) -> dict[str, Array]:
    """What is written down of a state, [N, …] each."""
    k = env.kinematics_of(state)
    r = state.readings
    return {
        "qpos": state.physics.qpos,
        "qvel": state.physics.qvel,
        "activation": state.physics.activation,
        "excitation": env.human_actions.excitation(state.previous_action),
        "exo_torque_nm": state.physics.exo_torque_nm,
        "exo_request_nm": state.exo.applied_nm,
        "thigh_gyro": sagittal_gyro(k.thigh_gyro_rad_s),
        "heel": k.heel_m,
        "toe": k.toe_m,
        "up": k.up,
        "yaw": k.yaw_rad,
        "foot_force": r.foot_force_n,
        "muscle_force": r.muscle_force_n,
        "fibre_length": r.fibre_length,
        "fibre_velocity": r.fibre_velocity,
        "muscle_moment": r.muscle_moment_nm,
        "passive_moment": r.passive_moment_nm,
        "limit_moment": r.limit_moment_nm,
        "positive_power": r.positive_power_w,
        "exo_power": r.exo_power_w,
        "exo_positive_power": r.exo_positive_power_w,
        "speed_command": state.command.speed_m_s,
        "slope": state.command.slope_rad,
        "phase": state.phase,
    }


class TrialRunner:
    """`run_trials` for one environment and one policy, compiled once however often it walks."""

    def __init__(self, env: WalkingEnv, act: Act, edit: Callable[[EnvState, Array, Any], EnvState] | None = None):
        """`edit` is applied before every control step: (state, time in s, what `run` got as `orders`) → state."""
        self.env = env

        def chunk(state: EnvState, start: Array, orders: Any) -> tuple[EnvState, dict[str, Array]]:
            def step(state: EnvState, i: Array) -> tuple[EnvState, dict[str, Array]]:
                if edit is not None:
                    state = edit(state, (start + i) * env.control_dt, orders)
                # Seen is the state the step led to; a slot that fell has restarted by then, so the fall is kept.
                state = env.step(state, act(state))
                return state, observe(env, state) | {
                    "terminated": state.terminated,
                    "truncated": state.truncated,
                }

            return jax.lax.scan(step, state, jnp.arange(_CHUNK_STEPS))

        self._advance = jax.jit(chunk)

    def run(
        self, state: EnvState, seconds: float, orders: Any = None, progress: Callable[[float], None] | None = None
    ) -> Trials:
        """Walks from `state` for `seconds`; `orders` (arrays, always of the same shapes) is handed to `edit`."""
        total = round(seconds / self.env.control_dt)
        # A Python number's weak type differs from what a step gives back, which would compile everything twice.
        state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
        parts = []
        for start in range(0, total, _CHUNK_STEPS):
            state, part = self._advance(state, jnp.int32(start), orders)
            parts.append(jax.device_get(part))
            if progress is not None:
                progress(min(1.0, (start + _CHUNK_STEPS) / total))
        series = {name: np.concatenate([p[name] for p in parts])[:total] for name in parts[0]}
        ended = (series["terminated"] + series["truncated"]) > 0
        steps = np.where(ended.any(axis=0), ended.argmax(axis=0), total)
        fell = np.array([bool(series["terminated"][s, n]) if s < total else False for n, s in enumerate(steps)])
        return Trials(self.env.control_dt, steps, fell, series)


def run_trials(
    env: WalkingEnv,
    act: Act,
    state: EnvState,
    seconds: float,
    edit: Callable[[EnvState, Array], EnvState] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Trials:
    """Walks from `state` for `seconds` and records every control step.

    Args:
      env: its own time limit should lie beyond `seconds`, or slots restart there and count as ended, not fallen.
      act: actions for a state.
      edit: applied before every control step with the time in s: change commands in mid-walk here.
      progress: told the share done, 0…1, now and then.
    """
    ordered = None if edit is None else lambda state, time_s, _: edit(state, time_s)
    return TrialRunner(env, act, ordered).run(state, seconds, progress=progress)


def start_walking(env: WalkingEnv, key: Array, speed_m_s: Any, slope_rad: Any, strictness: float = 1.0) -> EnvState:
    """A fresh state with given commands, [N] or scalars, and no pushes; starts spread over the gait cycle."""
    state = env.reset(key)
    n = env.num_envs
    speed = jnp.broadcast_to(jnp.asarray(speed_m_s, jnp.float32), (n,))
    slope = jnp.broadcast_to(jnp.asarray(slope_rad, jnp.float32), (n,))
    return env.with_command(state, speed, slope, strictness)


def metabolic_power_w(env: WalkingEnv, series: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Metabolic power of each muscle [T, N, M] in W after Umberger 2010, and muscle volumes [N, M] in m³."""
    total = np.empty(np.shape(series["activation"]), np.float32)
    for start in range(0, len(total), _CHUNK_STEPS):  # the model makes some thirty arrays of this size on its way
        part = [series[name][start : start + _CHUNK_STEPS] for name in _METABOLIC_SERIES]
        total[start : start + _CHUNK_STEPS] = env.metabolism.umberger_w(*part)
    return total, env.metabolism.volume_m3


def to_recordings(env: WalkingEnv, trials: Trials, label: str = "", skip_s: float = 0.0) -> list[Recording]:
    """One `Recording` per trial, without its first `skip_s` seconds; at least two samples even of an early fall."""
    body = env.engine.body
    names = body.muscle_names
    power, volume = metabolic_power_w(env, trials.series)
    skip = round(skip_s / trials.control_dt_s)
    masses = np.asarray(env.body_mass_kg)
    result = []
    for n in range(env.num_envs):
        stop = max(int(trials.steps[n]), skip + 2)
        part = {name: values[skip:stop, n] for name, values in trials.series.items()}
        mass = float(masses[n])
        up = part["up"]
        orientation = np.stack([np.arctan2(up[:, 1], up[:, 2]), np.arctan2(-up[:, 0], up[:, 2]), part["yaw"]], -1)
        result.append(
            Recording(
                time_s=np.arange(stop - skip) * trials.control_dt_s,
                body_mass_kg=mass,
                joint_names=body.joint_names,
                joint_angle_rad=part["qpos"][:, 7:],
                joint_velocity_rad_s=part["qvel"][:, 6:],
                biological_moment_nm_kg=(part["muscle_moment"] + part["passive_moment"]) / mass,
                limit_moment_nm_kg=part["limit_moment"] / mass,
                exo_torque_nm_kg=part["exo_torque_nm"] / mass,
                exo_command_nm_kg=part["exo_request_nm"] / mass,
                thigh_gyro_rad_s=part["thigh_gyro"],
                ground_force_n=part["foot_force"],
                muscle_names=names,
                muscle_groups=env.muscle_groups,
                activation=part["activation"],
                excitation=part["excitation"],
                metabolic_power_w=power[skip:stop, n],
                metabolic_rest_w=energetics.BASAL_W_KG * mass,
                muscle_volume_m3=volume[n],
                muscle_force_n=part["muscle_force"],
                pelvis_position_m=part["qpos"][:, :3],
                pelvis_velocity_m_s=part["qvel"][:, :3],
                pelvis_orientation_rad=orientation,
                foot_position_m=part["heel"],
                command_speed_m_s=part["speed_command"],
                slope_rad=part["slope"],
                fell=bool(trials.fell[n]),
                label=label,
            )
        )
    return result
