"""The wearer: stands and lifts a thigh when asked, and walks in muscle-driven simulation, tick by tick in real time.

Standing and lifting are scripted movements of the thighs (a person being still, then raising one knee after the
other); nothing is simulated there because nothing pushes. From the moment the wearer is asked to walk, the teacher's
human actor drives the muscles of the body, and the torque the device applies acts on its hips.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from mjx_exo.device import DeviceProfile
from mjx_exo.teacher import Teacher
from mjx_exo.walking import sensors
from mjx_exo.walking.env import EnvState, merge_readings
from mjx_exo.walking.rollout import start_walking

LIFT_RAD = 0.7  # about 40 degrees
LIFT_S = 1.6  # up and down
SWAY_RAD_S = 0.01
FOREVER_S = 1e6


@dataclasses.dataclass(frozen=True)
class Tick:
    """What happened in one period of the device; right before left."""

    gyro_rad_s: tuple[float, float]  # as the sensors report it
    joint_velocity_rad_s: tuple[float, float]  # hip flexion
    torque_nm: tuple[float, float]  # at the hips
    fell: bool


class WalkingBody:
    """One simulated walker advanced one device period at a time."""

    def __init__(self, teacher: Teacher, profile: DeviceProfile, seed: int, engine: str = "auto", **changes):
        rate = profile.link.rate_hz
        self.env = teacher.environment(
            1, FOREVER_S, human_only=True, device=profile.name, device_mode="active", engine=engine, **changes
        )
        if abs(self.env.tick_s * rate - 1.0) > 1e-6:
            raise ValueError(f"the environment ticks every {self.env.tick_s} s, the device at {rate} Hz")
        self._key = jax.random.key(seed)
        self.state: EnvState | None = None
        self._phase = 0
        self._decide = jax.jit(
            lambda state: self.env.decide(state, teacher.policy.act("human", state.observation["human"]))
        )
        self._tick = jax.jit(lambda state, excitation, torque: self.env.tick(state, excitation, torque))
        self._settle = jax.jit(
            lambda before, moved, readings, decision: self.env.settle(
                before, moved.replace(readings=merge_readings(readings)), decision
            )
        )

    def start(self, speed_m_s: float, slope_rad: float) -> None:
        """Begins walking: a posture of the gait cycle, in motion."""
        self._key, key = jax.random.split(self._key)
        self.state = start_walking(self.env, key, speed_m_s, slope_rad)
        self._phase = 0

    def command(self, speed_m_s: float, slope_rad: float) -> None:
        """Changes speed and slope; the walker gets there at the environment's limited rate."""
        command = self.state.command._replace(
            speed_target_m_s=jnp.full(1, speed_m_s, jnp.float32), slope_target_rad=jnp.full(1, slope_rad, jnp.float32)
        )
        self.state = self.state.replace(command=command)

    def advance(self, torque_nm: tuple[float, float]) -> bool:
        """One device period under the applied torque. Returns True if the walker fell and was set on its feet again."""
        if self._phase == 0:
            self._before, self._decision, self._parts = self.state, self._decide(self.state), []
            self.state = self.state.replace(command=self._decision.command)
        wanted = np.array([torque_nm], np.float32)
        self.state = self._tick(self.state, self._decision.excitation, wanted)
        self._parts.append(self.state.readings)
        self._phase = (self._phase + 1) % self.env.ticks
        if self._phase:
            return False
        self.state = self._settle(self._before, self.state, self._parts, self._decision)
        return bool(self.state.terminated[0])

    def thigh_rates(self) -> np.ndarray:
        """[1, 2, 3] angular velocity of the thighs in their own frames, rad/s."""
        return np.asarray(self.env.kinematics_of(self.state).thigh_gyro_rad_s)


class SimulatedWearer:
    """Stands, lifts, walks; carries the device's sensors. One call of `tick` per device period."""

    def __init__(
        self,
        body: WalkingBody,
        profile: DeviceProfile,
        seed: int,
        speed_m_s: float = 1.25,
        slope_rad: float = 0.0,
        ranges: sensors.SensorRanges | None = None,
    ):
        self.body, self.period_s = body, 1.0 / profile.link.rate_hz
        self.speed_m_s, self.slope_rad = speed_m_s, slope_rad
        self.falls, self.walking = 0, False
        self._lift: tuple[int, int] | None = None  # side, tick within the lift
        self._rng = np.random.default_rng(seed)
        draw_key, init_key, self._key = jax.random.split(jax.random.key(seed), 3)
        params = sensors.draw_sensor(draw_key, profile, 1, ranges or sensors.SensorRanges(calibrated=False))
        self._sensor = sensors.init(params, init_key)
        self._sense = jax.jit(lambda state, key, omega: sensors.step(params, state, key, omega, self.period_s))

    def warm_up(self) -> None:
        """Compiles everything before the clock runs."""
        self.body.start(self.speed_m_s, self.slope_rad)
        for _ in range(3 * self.body.env.ticks):
            self.body.advance((0.0, 0.0))
            self._read(self.body.thigh_rates())
        self.body.state = None

    def stand(self) -> None:
        """Stands still from now on."""
        self.walking, self._lift = False, None

    def lift(self, side: int) -> None:
        """Raises one thigh (0 right, 1 left) and puts it down again."""
        self.walking, self._lift = False, (side, 0)

    def walk(self, speed_m_s: float, slope_rad: float) -> None:
        """Walks, or changes speed and slope; speed 0 means as set at the start."""
        speed = speed_m_s or self.speed_m_s
        slope = slope_rad if speed_m_s else self.slope_rad
        if self.walking:
            self.body.command(speed, slope)
        else:
            self.body.start(speed, slope)
        self.walking = True

    def tick(self, torque_nm: tuple[float, float]) -> Tick:
        """One device period under the applied torque."""
        if self.walking:
            fell = self.body.advance(torque_nm)
            self.falls += fell
            omega = self.body.thigh_rates()
            physics = self.body.state.physics
            hip = self.body.env.hip_velocity(self.body.state)
            torque = tuple(float(t) for t in physics.exo_torque_nm[0])
            return Tick(self._read(omega), tuple(float(v) for v in hip[0]), torque, fell)
        rates = self._scripted_rates()
        omega = np.zeros((1, 2, 3), np.float32)
        omega[0, :, 1] = -rates  # flexion is a turn about −y
        return Tick(self._read(omega), tuple(rates), (0.0, 0.0), False)

    def _read(self, omega: np.ndarray) -> tuple[float, float]:
        self._key, key = jax.random.split(self._key)
        self._sensor, reading = self._sense(self._sensor, key, omega)
        return float(reading[0, 0]), float(reading[0, 1])

    def _scripted_rates(self) -> np.ndarray:
        """Flexion rates [2] of the thighs while standing, lifting included."""
        rates = SWAY_RAD_S * self._rng.standard_normal(2)
        if self._lift is not None:
            side, tick = self._lift
            time_s = tick * self.period_s
            # Raised cosine in angle: up and down with velocity zero at both ends.
            rates[side] += 0.5 * LIFT_RAD * (2 * math.pi / LIFT_S) * math.sin(2 * math.pi * time_s / LIFT_S)
            self._lift = (side, tick + 1) if time_s < LIFT_S else None
        return rates
