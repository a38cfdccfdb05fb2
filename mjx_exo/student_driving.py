"""The student in the simulated wearer's loop: what its sensors say, what it answers, what the teacher would have done.

At every tick of the device the virtual sensors deliver a sample and the student answers from its history. Who drives is
settled per environment: the student, the teacher, or nobody (the device hangs on the wearer, motors off). The teacher
labels all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from mjx_exo.device import DeviceProfile
from mjx_exo.learning.policy_file import Policy
from mjx_exo.learning.windows import Rollout
from mjx_exo.student_sensing import SensingState, StudentSensors
from mjx_exo.student_standing import StandingPeople, StandingState
from mjx_exo.teacher import Teacher
from mjx_exo.walking import sensors
from mjx_exo.walking.commands import standing
from mjx_exo.walking.env import EnvState, WalkingEnv
from mjx_exo.walking.features import sagittal_gyro
from policies.student import Stream, Student, StudentConfig, init_stream, reset_stream

TEACHER, STUDENT, NOBODY = 0, 1, 2
BEFORE_FALL_S = 0.5
"""What the teacher says this shortly before a fall is nothing to learn."""
STILL_M_S = 0.15
"""Slower than this, with a command to stand, is standing."""


@struct.dataclass
class DrivingState:
    """Everything needed to go on: environments, sensors, the student's memory, and people who only stand."""

    env: EnvState
    parameters: sensors.SensorParameters
    next_parameters: sensors.SensorParameters  # an environment takes these with its next episode
    sensor: SensingState
    stream: Stream
    taught: Array  # [N, 2] Nm, the torque that the teacher wants, whoever drives
    fresh: Array  # [N] bool: the next tick is the first of an episode
    key: Array
    people: StandingState


class Tick(NamedTuple):
    """One tick of the device in N environments; torques in Nm/kg, right and left, flexion positive."""

    signals: Array  # [N, C] what the sensors delivered
    gyro: Array  # [N, 2] rad/s, the truth
    teacher: Array  # [N, 2]
    student: Array  # [N, 2]
    reset: Array  # [N] first tick of an episode
    stands: Array  # [N] told to stand, and standing


class StudentDriving:
    """Pure functions around one environment with an active device."""

    def __init__(
        self,
        env: WalkingEnv,
        teacher: Teacher,
        config: StudentConfig,
        profile: DeviceProfile,
        ranges: sensors.SensorRanges | None = None,
        people: int = 0,
        human: Policy | None = None,
        unassisted: Policy | None = None,
        label: Callable[[EnvState], Array] | None = None,
    ):
        """
        Args:
          ranges: how widely sensors are drawn; None is the usual.
          people: columns of wearers who only stand, added by `collect` behind the N environments.
          human: who walks; None is the teacher's own.
          unassisted: who walks where nobody drives the device; None is `human`.
          label: torque [N, 2] in Nm that a teacher who knows another body aims at; None asks the teacher.
        """
        self.env, self.teacher, self.config, self.profile, self.ranges = env, teacher, config, profile, ranges
        self.human = human or teacher.policy
        self.unassisted = unassisted or self.human
        self.sensors = StudentSensors(env, config.signals, profile)
        self.people = StandingPeople(people, profile, config, ranges)
        self._model = Student(config)
        self._label = label or self._teachers_own

    def init(self, key: Array, parameters: sensors.SensorParameters | None = None) -> DrivingState:
        """N fresh environments at full hardness, each with sensors of its own, or with given ones."""
        env_key, draw_key, sensor_key, people_key, key = jax.random.split(key, 5)
        state = self.env.reset(env_key)
        state = state.replace(curriculum=state.curriculum._replace(strictness=jnp.float32(1.0), widen=jnp.float32(1.0)))
        n = self.env.num_envs
        if parameters is None:
            parameters = sensors.draw_sensor(draw_key, self.profile, n, self.ranges)
        return DrivingState(
            env=state,
            parameters=parameters,
            next_parameters=parameters,
            sensor=self.sensors.init(parameters, sensor_key, state),
            stream=init_stream(self.config, n),
            taught=jnp.zeros((n, 2)),
            fresh=jnp.ones(n, bool),
            key=key,
            people=self.people.init(people_key),
        )

    def step(self, params: Any, state: DrivingState, driver: Array) -> tuple[DrivingState, Tick]:
        """One control step; `driver` [N] is TEACHER, STUDENT or NOBODY. Returns the step's ticks, [ticks, …]."""
        env, mass = self.env, self.env.body_mass_kg[:, None]
        parameters = _where(state.fresh, state.next_parameters, state.parameters)
        human = self._human(state.env, driver)
        rows: list[Tick] = []

        def controller(carry: tuple, moment: EnvState) -> tuple[Array, tuple]:
            sensor, stream, taught, key, reset = carry
            key, sense_key, start_key = jax.random.split(key, 3)
            sensor = self.sensors.reset(sensor, self.sensors.init(parameters, start_key, moment), reset)
            sensor, signals = self.sensors.step(parameters, sensor, sense_key, moment)
            stream, student = self._model.apply(params, reset_stream(stream, reset), signals, method="stream")
            taught = jnp.where(reset[:, None], 0.0, taught)
            taught = env.device_side.smoothed(taught, self._label(moment), env.tick_s)
            teacher = taught / mass
            still = standing(moment.command.speed_m_s) & (jnp.abs(moment.speed_filtered_m_s) < STILL_M_S)
            gyro = sagittal_gyro(env.kinematics_of(moment).thigh_gyro_rad_s)
            rows.append(Tick(signals, gyro, teacher, student, reset, still))
            wanted = jnp.where((driver == STUDENT)[:, None], student, teacher)
            wanted = jnp.where((driver == NOBODY)[:, None], 0.0, wanted)
            return wanted * mass, (sensor, stream, taught, key, jnp.zeros_like(reset))

        carry = (state.sensor, state.stream, state.taught, state.key, state.fresh)
        after, (sensor, stream, taught, key, _) = env.step_driven(state.env, human, controller, carry)
        fresh = (after.terminated + after.truncated) > 0
        moved = state.replace(
            env=after, parameters=parameters, sensor=sensor, stream=stream, taught=taught, key=key, fresh=fresh
        )
        return moved, jax.tree.map(lambda *x: jnp.stack(x), *rows)

    def _human(self, state: EnvState, driver: Array) -> Array:
        action = self.human.act("human", state.observation["human"])
        if self.unassisted is self.human:
            return action
        alone = self.unassisted.act("human", state.observation["human"])
        return jnp.where((driver == NOBODY)[:, None], alone, action)

    def _teachers_own(self, moment: EnvState) -> Array:
        observed = self.env.observed(moment)
        action = self.teacher.policy.act("exo", observed.observation["exo"])
        return self.env.torque_from_action(moment, action)

    def roll(self, params: Any, state: DrivingState, driver: Array, steps: int) -> tuple[DrivingState, Tick, Array]:
        """`steps` control steps: ticks [steps · ticks, N, …] and falls [steps · ticks, N], true at their last tick."""

        def one(state: DrivingState, _: None) -> tuple[DrivingState, tuple[Tick, Array]]:
            state, ticks = self.step(params, state, driver)
            falls = jnp.zeros_like(ticks.reset).at[-1].set(state.env.terminated > 0)
            return state, (ticks, falls)

        state, rows = jax.lax.scan(one, state, None, length=steps)
        ticks, falls = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
        return state, ticks, falls

    def collect(
        self, params: Any, state: DrivingState, student_share: Array, steps: int, still_is_zero: bool = True
    ) -> tuple[DrivingState, Rollout]:
        """A labelled roll-out [steps · ticks, N + people, …]; the student drives the first `student_share` (0…1) of N.

        Every environment gets new sensors with its next episode. With `still_is_zero` the label of who stands is no
        torque, whatever the teacher says. The last moments before a fall are not learnt from.
        """
        n = self.env.num_envs
        driver = jnp.where(jnp.arange(n) < student_share * n, STUDENT, TEACHER)
        draw_key, key = jax.random.split(state.key)
        fresh = sensors.draw_sensor(draw_key, self.profile, n, self.ranges)
        state, ticks, falls = self.roll(params, state.replace(key=key, next_parameters=fresh), driver, steps)
        label = jnp.where(ticks.stands[..., None] & still_is_zero, 0.0, ticks.teacher)
        valid = ~_within(falls, round(BEFORE_FALL_S / self.env.tick_s))
        rollout = Rollout(ticks.signals, label, valid, ticks.reset)
        if self.people.count == 0:
            return state, rollout
        people, still = self.people.roll(state.people, len(ticks.reset), self.env.tick_s)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), rollout, still)
        return state.replace(people=people), both

    @property
    def columns(self) -> int:
        """Columns of a roll-out: environments and people who only stand."""
        return self.env.num_envs + self.people.count


def _where(done: Array, new: Any, old: Any) -> Any:
    """Leaves of `new` where `done` [N] is set."""
    return jax.tree.map(lambda a, b: jnp.where(done.reshape(-1, *[1] * (b.ndim - 1)), a, b), new, old)


def _within(event: Array, ticks: int) -> Array:
    """[T, N] True at an event's tick and the `ticks` before it."""
    count = jnp.cumsum(event.astype(jnp.int32), axis=0)
    ahead = jnp.concatenate([count, jnp.repeat(count[-1:], ticks, axis=0)])[ticks:]
    before = jnp.concatenate([jnp.zeros_like(count[:1]), count[:-1]])
    return ahead > before


def sensor_ranges(
    misalignment_deg: float | None, latency_s: float | None, lost_share: float | None, profile: DeviceProfile
) -> sensors.SensorRanges:
    """The usual ranges, reaching as far as the given misalignment (°), latency (s) and share of lost samples."""
    imu = profile.imu
    changes: dict[str, tuple[float, float]] = {}
    if misalignment_deg is not None:
        changes["misalignment_factor"] = (0.0, math.radians(misalignment_deg) / max(imu.misalignment_rad, 1e-6))
    if latency_s is not None:
        changes["latency_extra_s"] = (0.0, max(0.0, latency_s - imu.latency_s))
    if lost_share is not None:
        changes["lost_factor"] = (0.0, lost_share / max(imu.lost_share, 1e-6))
    return dataclasses.replace(sensors.SensorRanges(), **changes)
