"""What a wearer does, period by period, for whoever plays one: standing, lifting a thigh, sitting, and a drawn walk.

Standing and lifting are scripted for every wearer (a person being still, then raising one knee after the other);
nothing is simulated there because nothing pushes. `ScriptedWearer` walks by the norm curves as well: a gait without
physics, which costs a few microseconds and lets the link, the loop and the safety of both be tested on any computer.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from mjx_exo.device import DeviceProfile
from mjx_exo.gait import norms

Pair = tuple[float, float]

LIFT_RAD = 0.7  # about 40 degrees
LIFT_S = 1.6  # up and down
SWAY_RAD_S = 0.01  # standard deviation of a standing thigh's angular velocity
LEGS_SPEED_M_S = (0.3, 2.2)  # of the drawn walk; slower is no walking, faster is running
_CURVE_POINTS = 512


class Tick(NamedTuple):
    """What happened in one period of the device; pairs are (right, left), flexion positive."""

    gyro_rad_s: Pair  # as the sensors report it
    joint_velocity_rad_s: Pair  # hip flexion
    torque_nm: Pair  # at the hips, after the actuators
    fell: bool = False
    gyro3_rad_s: tuple[float, ...] | None = None  # right (flexion, adduction, internal rotation), then left
    hip_angle_rad: Pair | None = None


class Wearer(Protocol):
    """Somebody in the device. `tick` once per period of the device; the rest is asked for by the host."""

    falls: int
    doing: str  # one word for the screen

    @property
    def command(self) -> Pair | None:
        """Speed in m/s and slope in rad (uphill positive) asked for now; None for somebody who does not walk."""
        ...

    def stand(self) -> None: ...

    def lift(self, side: int) -> None: ...

    def walk(self, speed_m_s: float, slope_rad: float) -> None: ...

    def tick(self, torque_nm: Pair) -> Tick: ...


class StandingScript:
    """Thigh angular velocities of somebody who stands, and raises a thigh when told to."""

    def __init__(self, period_s: float, seed: int):
        self._period_s = period_s
        self._rng = np.random.default_rng(seed)
        self._lift: tuple[int, int] | None = None  # side, period within the lift

    @property
    def lifting(self) -> int | None:
        """The side in the air, or None."""
        return None if self._lift is None else self._lift[0]

    def stand(self) -> None:
        """Both feet on the ground from now on."""
        self._lift = None

    def lift(self, side: int) -> None:
        """Raises one thigh (0 right, 1 left) and puts it down again."""
        self._lift = (side, 0)

    def rates_rad_s(self) -> np.ndarray:
        """[2] flexion rates of the next period."""
        rates = SWAY_RAD_S * self._rng.standard_normal(2)
        if self._lift is not None:
            side, tick = self._lift
            time_s = tick * self._period_s
            # Raised cosine in angle: up and down with velocity zero at both ends.
            rates[side] += 0.5 * LIFT_RAD * (2 * math.pi / LIFT_S) * math.sin(2 * math.pi * time_s / LIFT_S)
            self._lift = (side, tick + 1) if time_s < LIFT_S else None
        return rates


class ScriptedWearer:
    """Walks by the norm of hip flexion, its stride set by the speed; sensors have the profile's noise and a bias."""

    def __init__(self, profile: DeviceProfile, seed: int = 7, speed_m_s: float = 1.25):
        self.falls = 0
        self._speed_m_s = speed_m_s
        self._period_s = 1.0 / profile.link.rate_hz
        self._script = StandingScript(self._period_s, seed)
        self._rng = np.random.default_rng(seed + 1)
        self._noise_rad_s = profile.imu.noise_rad_s
        self._bias = profile.imu.bias_rad_s * self._rng.uniform(-1.0, 1.0, 2)
        self._share = 1.0 - math.exp(-2.0 * math.pi * profile.actuator.bandwidth_hz * self._period_s)
        self._torque_nm = np.zeros(2)
        self._stride_hz, self._size = 0.0, 0.0
        self._asked = (speed_m_s, 0.0)
        self._phase = 0.0
        grid = np.linspace(0.0, 100.0, _CURVE_POINTS + 1)
        self._angle = np.deg2rad(norms.curve("hip_flexion", grid).mean)
        self._slope = np.gradient(self._angle, 0.01 * grid)  # rad per cycle
        self._points = np.arange(_CURVE_POINTS + 1)

    @property
    def doing(self) -> str:
        if self._stride_hz:
            return "walking"
        return "standing" if self._script.lifting is None else f"lifting {('right', 'left')[self._script.lifting]}"

    @property
    def command(self) -> Pair | None:
        """Speed and slope asked for, None while nobody walks."""
        return self._asked if self._stride_hz else None

    def stand(self) -> None:
        """Stands still from now on."""
        self._stride_hz = 0.0
        self._script.stand()

    def lift(self, side: int) -> None:
        """Raises one thigh (0 right, 1 left) and puts it down again."""
        self._stride_hz = 0.0
        self._script.lift(side)

    def walk(self, speed_m_s: float, slope_rad: float) -> None:
        """Walks at that speed; 0 means as set at the start. A slope changes nothing about a drawn walk."""
        speed = float(np.clip(speed_m_s or self._speed_m_s, *LEGS_SPEED_M_S))
        self._asked = (speed, slope_rad if speed_m_s else 0.0)
        self._stride_hz = float(norms.stride_frequency_hz(speed))
        self._size = float(norms.stride_length_m(speed) / norms.stride_length_m(norms.STRIDE_LENGTH_POINTS[0][0]))

    def tick(self, torque_nm: Pair) -> Tick:
        """One period of the device under the torque it applies."""
        self._torque_nm += self._share * (np.asarray(torque_nm) - self._torque_nm)
        angles = np.zeros(2)
        if self._stride_hz:
            self._phase = (self._phase + self._stride_hz * self._period_s) % 1.0
            at = np.array([self._phase, (self._phase + 0.5) % 1.0]) * _CURVE_POINTS
            rates = self._size * self._stride_hz * np.interp(at, self._points, self._slope)
            angles = self._size * np.interp(at, self._points, self._angle)
        else:
            rates = self._script.rates_rad_s()
        gyro = (rates + self._bias + self._noise_rad_s * self._rng.standard_normal(2)).tolist()
        return Tick(
            gyro_rad_s=(gyro[0], gyro[1]),
            joint_velocity_rad_s=tuple(rates.tolist()),
            torque_nm=tuple(self._torque_nm.tolist()),
            hip_angle_rad=tuple(angles.tolist()),
        )
