"""The wearer in muscle-driven simulation, tick by tick in real time, with the device's sensors strapped on.

From the moment the wearer is asked to walk, the teacher's human actor drives the muscles of the body, and the torque
the device applies acts on its hips. A real device does not wait for its simulation, so a period is short: the physics
is called directly (a callback from inside a compiled program takes five times as long), and the small compiled programs
around it return only what changes.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.wearer import Wearer as Person
from mjx_exo.physics.interface import ROOT_QPOS
from mjx_exo.teacher import Teacher, alone
from mjx_exo.virtual.motion import Pair, StandingScript, Tick
from mjx_exo.walking import sensors
from mjx_exo.walking.env import Decision, EnvState, WalkingEnv, merge_readings
from mjx_exo.walking.rollout import start_walking

FOREVER_S = 1e6
WARM_UP_STEPS = 3
# Of the state, besides physics.
_BY_CONTROL_STEP = ("phase", "speed_filtered_m_s", "pacing_m_s", "previous_action", "time_s", "key")
PHYSICS_STEP_S = {"published": 0.002}  # what the engine's muscles and constraints allow; the others take the teacher's


def walking_environment(
    teacher: Teacher,
    profile: DeviceProfile,
    profile_source: str,
    engine: str = "auto",
    person: Person | None = None,
) -> WalkingEnv:
    """One walker in the device, whose controller ticks at the profile's rate.

    Args:
      profile_source: name or path under which the engine finds the profile's masses.
      person: who walks; mass and height both given. None is the body as published.

    Raises UserError for a rate that control and physics steps cannot meet, or an engine that cannot be had.
    """
    rate_hz = profile.link.rate_hz
    base = teacher.config.walking
    ticks = base.control_dt_s * rate_hz
    if abs(ticks - round(ticks)) > 1e-6:
        lowest = 1.0 / base.control_dt_s
        raise UserError(f"rate = {rate_hz:g} Hz: a simulated wearer needs a multiple of {lowest:g} Hz")
    longest_s = min(PHYSICS_STEP_S.get(engine, base.physics_step_s), base.physics_step_s)
    step_s = 1.0 / rate_hz / math.ceil(1.0 / rate_hz / longest_s - 1e-6)
    env = teacher.environment(
        1, FOREVER_S, human_only=True, device=profile_source, device_mode="active", engine=engine, threads=1,
        physics_step_s=step_s, control_dt_s=base.control_dt_s, **alone(person),
    )  # fmt: skip
    return env if env.profile == profile else WalkingEnv(env.config, env.engine, profile)


class SimulatedWearer:
    """Stands, lifts, walks; carries the device's sensors. One call of `tick` per device period."""

    def __init__(
        self,
        teacher: Teacher,
        env: WalkingEnv,
        profile: DeviceProfile,
        seed: int = 7,
        speed_m_s: float = 1.25,
        slope_rad: float = 0.0,
        ranges: sensors.SensorRanges | None = None,
    ):
        self.env, self.falls, self.walking = env, 0, False
        self._speed_m_s, self._slope_rad = speed_m_s, slope_rad
        self._three_axes = "gyro_three_axes" in profile.imu.sensors
        self._script = StandingScript(1.0 / profile.link.rate_hz, seed)
        draw_key, init_key, start_key, self._noise_key = jax.random.split(jax.random.key(seed), 4)
        params = sensors.draw_sensor(draw_key, profile, 1, ranges or sensors.SensorRanges(calibrated=False))
        self._sensor = sensors.init(params, init_key)
        self._state: EnvState | None = None
        self._told = (np.float32(speed_m_s), np.float32(slope_rad))
        self._phase = self._ticks = self._starts = 0
        period_s = 1.0 / profile.link.rate_hz
        hip = [list(env.engine.body.joint_names).index(f"hip_flexion_{side}") for side in "rl"]

        def sense(sensor, count, omega):
            key = jax.random.fold_in(self._noise_key, count)
            sensor, axes = sensors.step_axes(params, sensor, key, omega, period_s)
            return sensor, axes[0].ravel()

        def measure(state, sensor, count):
            sensor, axes = sense(sensor, count, env.kinematics_of(state).thigh_gyro_rad_s)
            angles = state.physics.qpos[0, ROOT_QPOS:][jnp.array(hip)]
            numbers = [axes, env.hip_velocity(state.physics)[0], state.physics.exo_torque_nm[0], angles]
            return sensor, jnp.concatenate(numbers)

        def decide(state) -> Decision:
            return env.decide(state, teacher.policy.act("human", env.observed(state).observation["human"]))

        def settle(moved, readings, decision):
            moved = moved.replace(readings=merge_readings(readings))
            k = env.kinematics_of(moved)
            moved = env.advance(moved, decision, k)
            changed = {name: getattr(moved, name) for name in _BY_CONTROL_STEP}
            return changed, env.fallen(moved, k), decide(moved)

        def set_off(count, speed, slope):
            state = start_walking(env, jax.random.fold_in(start_key, count), speed, slope)
            return state, decide(state)

        self._sense, self._measure, self._drive = jax.jit(sense), jax.jit(measure), jax.jit(env.drive)
        self._settle, self._start = jax.jit(settle), jax.jit(set_off)

    @property
    def doing(self) -> str:
        if self.walking:
            speed, slope = self.command
            return f"walking {speed:.2f} m/s {math.degrees(slope):+.1f}°"
        return "standing" if self._script.lifting is None else f"lifting {('right', 'left')[self._script.lifting]}"

    @property
    def command(self) -> Pair | None:
        """Speed in m/s and slope in rad of this moment: they follow what was asked at a limited rate."""
        if not self.walking:
            return None
        command = self._state.command
        return float(command.speed_m_s[0]), float(command.slope_rad[0])

    def warm_up(self) -> None:
        """Compiles everything before the clock runs."""
        for changes in (0, 1):  # walking off as told at the start, and being told otherwise
            self.walk(0.0, 0.0)
            for _ in range(changes):
                self.walk(self._speed_m_s, self._slope_rad)
            for _ in range(WARM_UP_STEPS * self.env.ticks):
                self.tick((0.0, 0.0))
            self.stand()
            self.tick((0.0, 0.0))
        self.falls = 0

    def stand(self) -> None:
        """Stands still from now on."""
        self.walking = False
        self._script.stand()

    def lift(self, side: int) -> None:
        """Raises one thigh (0 right, 1 left) and puts it down again."""
        self.walking = False
        self._script.lift(side)

    def walk(self, speed_m_s: float, slope_rad: float) -> None:
        """Walks, or changes speed and slope at the environment's limited rate; speed 0 means as set at the start."""
        speed = np.float32(speed_m_s or self._speed_m_s)
        slope = np.float32(slope_rad if speed_m_s else self._slope_rad)
        self._told = (speed, slope)
        if self.walking:
            wanted = {"speed_target_m_s": np.full(1, speed), "slope_target_rad": np.full(1, slope)}
            self._decision = self._decision._replace(command=self._decision.command._replace(**wanted))
            self._state = self._state.replace(command=self._state.command._replace(**wanted))
        else:
            self._set_off()

    def _set_off(self) -> None:
        """Begins walking in a posture of the gait cycle, in motion."""
        self._starts += 1
        self._state, self._decision = self._start(np.int32(self._starts), *self._told)
        self._phase, self.walking = 0, True

    def tick(self, torque_nm: Pair) -> Tick:
        """One device period under the torque its controller commands."""
        self._ticks += 1
        if self.walking:
            return self._step(torque_nm)
        rates = self._script.rates_rad_s()
        omega = np.zeros((1, 2, 3), np.float32)
        omega[0, :, 1] = -rates  # flexion is a turn about −y
        self._sensor, axes = self._sense(self._sensor, np.int32(self._ticks), omega)
        return self._report(np.concatenate([axes, rates, np.zeros(4)]), False)

    def _step(self, torque_nm: Pair) -> Tick:
        env = self.env
        if self._phase == 0:
            self._parts = []
            self._state = self._state.replace(command=self._decision.command)
        wanted = np.array([torque_nm], np.float32)
        exo, drive = self._drive(self._state, self._decision.excitation, wanted)
        self._state = env.moved(self._state, exo, *env.engine.step_numpy(self._state.physics, drive, env.steps))
        self._sensor, numbers = self._measure(self._state, self._sensor, np.int32(self._ticks))
        self._parts.append(self._state.readings)
        self._phase = (self._phase + 1) % env.ticks
        fell = False
        if self._phase == 0:
            changed, fallen, self._decision = self._settle(self._state, self._parts, self._decision)
            self._state, fell = self._state.replace(**changed), bool(fallen[0])
            if fell:  # and is set on its feet again
                self.falls += 1
                self._set_off()
        return self._report(np.asarray(numbers), fell)

    def _report(self, numbers: np.ndarray, fell: bool) -> Tick:
        """`numbers` [12]: gyroscope axes of the right and the left, hip velocities, torques, hip angles."""
        n = [float(x) for x in numbers]
        axes = tuple(n[:6]) if self._three_axes else None
        return Tick((n[0], n[3]), (n[6], n[7]), (n[8], n[9]), fell, axes, (n[10], n[11]))
