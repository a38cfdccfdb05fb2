"""What each of a student's inputs says about a simulated wearer: gyroscope axes, accelerometer, hip encoder.

The gyroscope's errors are those of `mjx_exo.walking.sensors`. An accelerometer sits in the same housing, so it shares
that housing's mounting, slip, latency and lost samples; an encoder sits on the device's joint and has none of the
mounting's errors. Signals are in anatomical axes and count alike on both sides.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from mjx_exo.conventions import SIDE_SUFFIX, SIDES
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.walking import sensors
from mjx_exo.walking.commands import gravity
from mjx_exo.walking.env import WalkingEnv
from mjx_exo.walking.features import rotation_matrix
from mjx_exo.walking.state import EnvState

GYRO = ("thigh_gyro", "thigh_gyro_adduction", "thigh_gyro_rotation")
ACCELEROMETER = ("thigh_accel_forward", "thigh_accel_inward", "thigh_accel_up")
ENCODER = ("hip_flexion", "hip_flexion_velocity")

# Of the class of the ICM-20948's accelerometer (background) and of a motor encoder behind a soft harness.
ACCEL_NOISE_M_S2 = 0.016
ACCEL_BIAS_M_S2 = 0.25
ENCODER_OFFSET_RAD = 0.03
ENCODER_NOISE_RAD = 0.001
ENCODER_NOISE_RAD_S = 0.02


@struct.dataclass
class SensingState:
    """Leaves lead with N. `gyro` as `sensors` keeps it; the others are there only where a signal needs them.

    velocity: [N, 2, 3] of the housings in the world, m/s. offset: [N, 2, E] constant errors of the other signals.
    past: [N, history, 2, E] the other signals before any delay, newest last. delivered: [N, 2, E] what last arrived.
    """

    gyro: sensors.SensorState
    velocity: Array
    offset: Array
    past: Array
    delivered: Array


class StudentSensors:
    """The inputs of a student on the wearers of one environment. Pure functions of their arguments."""

    def __init__(self, env: WalkingEnv, signals: tuple[str, ...], profile: DeviceProfile):
        """Raises `UserError` for a signal that nobody can simulate."""
        unknown = [name for name in signals if name not in (*GYRO, *ACCELEROMETER, *ENCODER)]
        if unknown:
            raise UserError(f"student: input {unknown[0]!r}; known: {', '.join((*GYRO, *ACCELEROMETER, *ENCODER))}")
        self.env, self.signals, self.profile = env, signals, profile
        self.others = tuple(name for name in signals if name not in GYRO)
        self._accelerates = any(name in ACCELEROMETER for name in signals)
        self._outward = jnp.array([1.0, -1.0])
        if self._accelerates:
            self._hips_m, self._axes = self._thighs()
        self._names = [list(env.engine.body.joint_names).index(f"hip_flexion{SIDE_SUFFIX[side]}") for side in SIDES]

    def _thighs(self) -> tuple[Array, Array]:
        """Hip centres in the pelvis [N, 2, 3] m, and the axes of the three hip hinges [2, 3, 3]."""
        body, engine = self.env.engine.body, self.env.engine
        axes, places = [], []
        for side in SIDES:
            hip = next(s for s in body.segments if any(h.name == f"hip_flexion{SIDE_SUFFIX[side]}" for h in s.hinges))
            axes.append([hinge.axis for hinge in hip.hinges[:3]])
            scales = np.array([body.length_scale(w) for w in engine.wearers])
            places.append(scales[:, None] * np.array(hip.offset_m))
        hips = np.stack(places, axis=1)[np.asarray(engine.wearer_of)]
        return jnp.asarray(hips, jnp.float32), jnp.asarray(axes, jnp.float32)

    def init(self, parameters: sensors.SensorParameters, key: Array, moment: EnvState) -> SensingState:
        """The state at the start of episodes that begin in `moment`."""
        gyro_key, offset_key = jax.random.split(key)
        gyro = sensors.init(parameters, gyro_key, self.env.kinematics_of(moment).thigh_gyro_rad_s)
        n, count = self.env.num_envs, len(self.others)
        spread = jnp.array([_OFFSET.get(name, 0.0) for name in self.others])
        offset = spread * jax.random.normal(offset_key, (n, 2, count))
        velocity = self._velocity(moment)
        now = self._other(parameters, gyro, moment, velocity, velocity, 1.0) + offset
        return SensingState(gyro, velocity, offset, jnp.repeat(now[:, None], parameters.history, axis=1), now)

    def step(
        self, parameters: sensors.SensorParameters, state: SensingState, key: Array, moment: EnvState
    ) -> tuple[SensingState, Array]:
        """One sample later: the state and the inputs [N, 2 · signals], signal by signal, right before left."""
        gyro_key, noise_key = jax.random.split(key)
        omega, dt_s = self.env.kinematics_of(moment).thigh_gyro_rad_s, self.env.tick_s
        gyro, axes = sensors.step_axes(parameters, state.gyro, gyro_key, omega, dt_s)
        columns = {name: axes[..., i] for i, name in enumerate(GYRO)}
        velocity, past, delivered = state.velocity, state.past, state.delivered
        if self.others:
            velocity = self._velocity(moment)
            now = self._other(parameters, gyro, moment, velocity, state.velocity, dt_s) + state.offset
            past = jnp.concatenate([past[:, 1:], now[:, None]], axis=1)
            noise = jnp.array([_NOISE[name] for name in self.others]) * jax.random.normal(noise_key, now.shape)
            fresh = _late(parameters, past, dt_s) + noise
            delivered = jnp.where((gyro.held > 0)[:, None, None], delivered, fresh)
            columns |= {name: delivered[..., i] for i, name in enumerate(self.others)}
        signals = jnp.stack([columns[name] for name in self.signals], axis=1)
        return SensingState(gyro, velocity, state.offset, past, delivered), signals.reshape(len(signals), -1)

    def reset(self, state: SensingState, fresh: SensingState, done: Array) -> SensingState:
        """`fresh` where `done` [N] is set, `state` elsewhere."""
        return jax.tree.map(lambda new, old: jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), new, old), fresh, state)

    def _velocity(self, moment: EnvState) -> Array:
        """Velocity [N, 2, 3] of the housings in the world, m/s; zeros where nobody needs it."""
        if not self._accelerates:
            return jnp.zeros((self.env.num_envs, 2, 3))
        k = self.env.kinematics_of(moment)
        pelvis, thigh = self._rotations(moment)
        hip = jnp.cross(k.angular_velocity_rad_s[:, None], self._hips_m)
        arm = jnp.array([0.0, 0.0, -self.profile.imu.below_hip_m])
        housing = jnp.cross(k.thigh_gyro_rad_s, jnp.broadcast_to(arm, k.thigh_gyro_rad_s.shape))
        return (
            k.velocity_m_s[:, None]
            + jnp.einsum("nij,nsj->nsi", pelvis, hip)
            + jnp.einsum("nsij,nsj->nsi", thigh, housing)
        )

    def _rotations(self, moment: EnvState) -> tuple[Array, Array]:
        """Pelvis [N, 3, 3] and thighs [N, 2, 3, 3], each to the world."""
        pelvis = rotation_matrix(moment.physics.qpos[:, 3:7])
        angles = moment.physics.qpos[:, 7:]
        thighs = []
        for side, first in enumerate(self._names):
            thigh = pelvis
            for hinge in range(3):
                half = 0.5 * angles[:, first + hinge, None]
                axis = jnp.broadcast_to(self._axes[side, hinge], (len(angles), 3))
                turn = rotation_matrix(jnp.concatenate([jnp.cos(half), jnp.sin(half) * axis], -1))
                thigh = jnp.einsum("nij,njk->nik", thigh, turn)
            thighs.append(thigh)
        return pelvis, jnp.stack(thighs, axis=1)

    def _other(
        self, parameters: sensors.SensorParameters, gyro: sensors.SensorState, moment: EnvState, velocity: Array,
        before: Array, dt_s: float,
    ) -> Array:  # fmt: skip
        """The true signals besides the gyroscope's, as mounted, [N, 2, E]."""
        if not self.others:
            return jnp.zeros((self.env.num_envs, 2, 0))
        columns: dict[str, Array] = {
            "hip_flexion": self._hip(moment.physics.qpos[:, 7:]),
            "hip_flexion_velocity": self.env.hip_velocity(moment.physics),
        }
        if self._accelerates:
            fall = gravity(moment.command.slope_rad)[:, None]
            felt = (velocity - before) / dt_s - fall
            in_thigh = jnp.einsum("nsji,nsj->nsi", self._rotations(moment)[1], felt)
            turned = sensors.rotate(parameters.mounting + gyro.slip, sensors.anatomical_rates(in_thigh))
            flexion, adduction, rotation = jnp.moveaxis(turned, -1, 0)
            # Back from axes of rotation to directions: forward, towards the other leg, up.
            directions = (adduction * self._outward, -flexion * self._outward, rotation * self._outward)
            columns |= dict(zip(ACCELEROMETER, directions, strict=True))
        return jnp.stack([columns[name] for name in self.others], axis=-1)

    def _hip(self, joints: Array) -> Array:
        return joints[:, jnp.array(self._names)]


_OFFSET = {**dict.fromkeys(ACCELEROMETER, ACCEL_BIAS_M_S2), "hip_flexion": ENCODER_OFFSET_RAD}
_NOISE = {
    **dict.fromkeys(ACCELEROMETER, ACCEL_NOISE_M_S2),
    "hip_flexion": ENCODER_NOISE_RAD,
    "hip_flexion_velocity": ENCODER_NOISE_RAD_S,
}


def _late(parameters: sensors.SensorParameters, past: Array, dt_s: float) -> Array:
    """`past` [N, history, 2, E] one latency back, linear between samples."""
    samples = jnp.clip(parameters.latency_s / dt_s, 0.0, parameters.history - 1.0)
    age = jnp.arange(parameters.history - 1, -1, -1.0)
    weight = jnp.maximum(0.0, 1.0 - jnp.abs(age - samples[:, None]))
    return jnp.sum(weight[:, :, None, None] * past, axis=1)
