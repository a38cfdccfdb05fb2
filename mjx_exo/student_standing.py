"""People who only stand, as far as a student can see them: a swaying thigh with the sensors strapped on, and no torque.

Quiet standing is easy to learn and hard to meet: a walker that falls when it stops gives no examples of it. So some
columns of every roll-out are people who stand, sway, shift their weight and have sensors like everybody else; the right
answer to all of it is nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from mjx_exo.device import DeviceProfile
from mjx_exo.learning.windows import Rollout
from mjx_exo.walking import sensors
from mjx_exo.walking.commands import GRAVITY_M_S2
from policies.student import StudentConfig

SWAY_FACTOR = (0.3, 4.0)
"""Times the sway of quiet standing: from a statue to somebody who shifts from foot to foot."""
_AXES = 3
_UPRIGHT = {"thigh_accel_up": GRAVITY_M_S2}


@struct.dataclass
class StandingState:
    """P people. sway: [P, 2, 3] thigh rates, rad/s, thigh frame. spread: [P] their standard deviation."""

    parameters: sensors.SensorParameters
    sensor: sensors.SensorState
    sway: Array
    spread: Array
    key: Array


class StandingPeople:
    """`count` people who stand, with the sensors of a profile."""

    def __init__(
        self, count: int, profile: DeviceProfile, config: StudentConfig, ranges: sensors.SensorRanges | None = None
    ):
        self.count, self.profile, self.config, self.ranges = count, profile, config, ranges

    def init(self, key: Array) -> StandingState:
        """People who have just begun to stand."""
        draw_key, start_key, spread_key, key = jax.random.split(key, 4)
        parameters = sensors.draw_sensor(draw_key, self.profile, self.count, self.ranges)
        factor = jax.random.uniform(spread_key, (self.count,), minval=SWAY_FACTOR[0], maxval=SWAY_FACTOR[1])
        sway = jnp.zeros((self.count, 2, _AXES))
        state = sensors.init(parameters, start_key)
        return StandingState(parameters, state, sway, sensors.sway_rad_s(self.profile) * factor, key)

    def roll(self, state: StandingState, ticks: int, dt_s: float) -> tuple[StandingState, Rollout]:
        """`ticks` samples of other people, [ticks, P, …], all labelled with no torque."""
        key, fresh_key = jax.random.split(state.key)
        state = self.init(fresh_key).replace(key=key)

        def one(state: StandingState, _: None) -> tuple[StandingState, Array]:
            key, sway_key, sense_key = jax.random.split(state.key, 3)
            sway = sensors.sway_step(sway_key, state.sway, state.spread[:, None, None], dt_s)
            sensor, axes = sensors.step_axes(state.parameters, state.sensor, sense_key, sway, dt_s)
            return state.replace(sensor=sensor, sway=sway, key=key), self._signals(axes)

        state, signals = jax.lax.scan(one, state, None, length=ticks)
        reset = jnp.zeros((ticks, self.count), bool).at[0].set(True)
        return state, Rollout(signals, jnp.zeros((ticks, self.count, 2)), jnp.ones_like(reset), reset)

    def _signals(self, axes: Array) -> Array:
        """The student's inputs [P, C] from gyroscope axes [P, 2, 3]; what is no gyroscope reads as at rest."""
        names = ("thigh_gyro", "thigh_gyro_adduction", "thigh_gyro_rotation")
        columns: dict[str, Any] = {name: axes[..., i] for i, name in enumerate(names)}
        rest = jnp.zeros((self.count, 2))
        rows = [columns.get(name, rest + _UPRIGHT.get(name, 0.0)) for name in self.config.signals]
        return jnp.stack(rows, axis=1).reshape(self.count, 2 * len(rows))
