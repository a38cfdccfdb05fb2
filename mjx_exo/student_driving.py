"""The student in the simulated wearer's loop: what its sensors say, what it answers, what the teacher would have done.

At every tick of the device the virtual gyroscopes deliver a sample, the student answers from its history and drives the
hips of its share of the environments; the teacher drives the others and labels all of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from mjx_exo.device import DeviceProfile
from mjx_exo.learning.windows import Rollout
from mjx_exo.teacher import Teacher
from mjx_exo.walking import sensors
from mjx_exo.walking.env import EnvState, WalkingEnv
from policies.student import Stream, Student, StudentConfig, init_stream, reset_stream


@struct.dataclass
class DrivingState:
    """Everything needed to go on: environments, sensors, the student's memory."""

    env: EnvState
    parameters: sensors.SensorParameters
    sensor: sensors.SensorState
    stream: Stream
    fresh: Array  # [N] bool: the next tick is the first of an episode
    key: Array


class Tick(NamedTuple):
    """One tick of the device in N environments; torques in Nm/kg, right and left."""

    signals: Array  # [N, C] what the sensors delivered
    teacher: Array  # [N, 2]
    student: Array  # [N, 2]
    reset: Array  # [N] first tick of an episode


class StudentDriving:
    """Pure functions around one environment with an active device."""

    def __init__(self, env: WalkingEnv, teacher: Teacher, config: StudentConfig, profile: DeviceProfile):
        self.env, self.teacher, self.config, self.profile = env, teacher, config, profile
        self._model = Student(config)

    def init(self, key: Array, ranges: sensors.SensorRanges | None = None) -> DrivingState:
        """N fresh environments at full hardness, each with sensors of its own."""
        env_key, draw_key, sensor_key, key = jax.random.split(key, 4)
        state = self.env.reset(env_key)
        state = state.replace(curriculum=state.curriculum._replace(strictness=jnp.float32(1.0), widen=jnp.float32(1.0)))
        n = self.env.num_envs
        parameters = sensors.draw_sensor(draw_key, self.profile, n, ranges)
        return DrivingState(
            env=state,
            parameters=parameters,
            sensor=sensors.init(parameters, sensor_key),
            stream=init_stream(self.config, n),
            fresh=jnp.ones(n, bool),
            key=key,
        )

    def step(self, params: Any, state: DrivingState, driven: Array) -> tuple[DrivingState, Tick]:
        """One control step; the student drives where `driven` [N] is true. Returns the step's ticks, [ticks, …]."""
        env, mass = self.env, self.env.body_mass_kg[:, None]
        human = self.teacher.policy.act("human", state.env.observation["human"])
        rows: list[Tick] = []

        def controller(carry: tuple, moment: EnvState) -> tuple[Array, tuple]:
            sensor, stream, key, reset = carry
            key, sense_key, start_key = jax.random.split(key, 3)
            omega = env.kinematics_of(moment).thigh_gyro_rad_s
            sensor = sensors.reset(sensor, sensors.init(state.parameters, start_key, omega), reset)
            sensor, signals = sensors.step(state.parameters, sensor, sense_key, omega, env.tick_s)
            stream, student = self._model.apply(params, reset_stream(stream, reset), signals, method="stream")
            teacher = self.teacher_torque(moment)
            rows.append(Tick(signals, teacher, student, reset))
            wanted = jnp.where(driven[:, None], student, teacher) * mass
            return wanted, (sensor, stream, key, jnp.zeros_like(reset))

        carry = (state.sensor, state.stream, state.key, state.fresh)
        after, (sensor, stream, key, _) = env.step_driven(state.env, human, controller, carry)
        fresh = (after.terminated + after.truncated) > 0
        moved = state.replace(env=after, sensor=sensor, stream=stream, key=key, fresh=fresh)
        return moved, jax.tree.map(lambda *x: jnp.stack(x), *rows)

    def teacher_torque(self, moment: EnvState) -> Array:
        """What the teacher's exoskeleton actor asks for in a state, Nm/kg [N, 2]."""
        observed = self.env.observed(moment)
        action = self.teacher.policy.act("exo", observed.observation["exo"])
        return self.env.torque_from_action(moment, action) / self.env.body_mass_kg[:, None]

    def roll(self, params: Any, state: DrivingState, driven: Array, steps: int) -> tuple[DrivingState, Tick]:
        """`steps` control steps; ticks [steps · ticks, N, …]."""

        def one(state: DrivingState, _: None) -> tuple[DrivingState, Tick]:
            return self.step(params, state, driven)

        state, ticks = jax.lax.scan(one, state, None, length=steps)
        return state, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), ticks)

    def collect(
        self, params: Any, state: DrivingState, student_share: Array, steps: int
    ) -> tuple[DrivingState, Rollout]:
        """A labelled roll-out [steps · ticks, N, …]; the student drives the first `student_share` (0…1) of N."""
        n = self.env.num_envs
        driven = jnp.arange(n) < student_share * n
        state, ticks = self.roll(params, state, driven, steps)
        valid = jnp.ones(ticks.reset.shape, bool)
        return state, Rollout(ticks.signals, ticks.teacher, valid, ticks.reset)
