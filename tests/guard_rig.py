"""A scripted wearer and an obedient controller around a guard, without clocks, ports or physics."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mjx_exo.device import TorqueLimits
from runtime.guard import Guard
from runtime.messages import Sensor, SensorFlag
from runtime.stages import GuardConfig, Stage

LIMITS = TorqueLimits(18.0, 150.0, 80.0)


def walking_gyro(t_s: float, stride_s: float = 1.1, size: float = 1.0) -> tuple[float, float]:
    """Thigh angular velocity of walking: short strong forward swing, long backward stance; left half a stride later."""

    def thigh(phase: float) -> float:
        phase %= 1.0
        return 3.2 * math.sin(math.pi * phase / 0.4) if phase < 0.4 else -2.1 * math.sin(math.pi * (phase - 0.4) / 0.6)

    return size * thigh(t_s / stride_s), size * thigh(t_s / stride_s + 0.5)


def config(**changes) -> GuardConfig:
    """A 75 kg wearer at full scale on a 100 Hz student with a short window."""
    usual = GuardConfig(LIMITS, wearer_mass_kg=75.0, rate_hz=100.0, window=64, torque_scale=1.0, ramp_s=1.0)
    return dataclasses.replace(usual, **changes)


class Rig:
    """Sends frames to a guard and its torque back. `student` is what the policy would say, Nm/kg."""

    def __init__(self, rate_hz: float = 100.0, bias=(0.02, -0.03), wiring=lambda right, left: (right, left), **changes):
        self.guard = Guard(config(**changes))
        self.period_s = 1.0 / rate_hz
        self.rate_hz = rate_hz
        self.bias, self.wiring = bias, wiring
        self.noise = np.random.default_rng(0)
        self.sequence = 0
        self.host_s = 100.0
        self.applied = (0.0, 0.0)
        self.flags = 0
        self.student = (0.2, -0.2)
        self.torques: list[tuple[float, float]] = []
        self.decision = None
        self.guard.booted(self.host_s)
        self.guard.linked(self.host_s, rate_hz)

    @property
    def stage(self) -> Stage:
        return self.guard.stage

    def frame(self, gyro=(0.0, 0.0), **changes) -> Sensor:
        """The next frame the device would send; advances device and host time by a period."""
        self.sequence += 1
        self.host_s += self.period_s
        right, left = self.wiring(*gyro)
        noise = self.noise.normal(0.0, 0.005, 2)
        values = (right + self.bias[0] + noise[0], left + self.bias[1] + noise[1])
        time_us = round(self.sequence * self.period_s * 1e6)
        frame = Sensor(self.sequence, time_us, values, self.applied, flags=self.flags, joint_velocity_rad_s=(0.0, 0.0))
        return frame._replace(**changes)

    def send(self, frame: Sensor, answer: bool = True):
        """One frame to the guard, the answer back to the device."""
        seen = self.guard.observe(self.host_s, frame)
        if answer:
            self.decision = self.guard.decide(self.host_s, self.student)
            self.applied = self.decision.torque_nm
            self.torques.append(self.applied)
            if self.guard.wants_arm:
                self.flags |= SensorFlag.ARMED
            if not self.guard.armed:
                self.flags &= ~SensorFlag.ARMED
        return seen

    def lose(self, frames: int) -> None:
        """Frames the device sends and nobody gets; the loop's timer ticks meanwhile."""
        for _ in range(frames):
            self.frame()
            self.guard.tick(self.host_s)
            self.applied = self.guard.decide(self.host_s, None).torque_nm
            self.torques.append(self.applied)

    def play(self, seconds: float, gyro=lambda t: (0.0, 0.0)) -> None:
        """Frames of a motion given as a function of time in s."""
        for i in range(round(seconds * self.rate_hz)):
            self.send(self.frame(gyro(i * self.period_s)))

    def stand(self, seconds: float = 2.0) -> None:
        self.play(seconds)

    def walk(self, seconds: float, **how) -> None:
        self.play(seconds, lambda t: walking_gyro(t, **how))

    def lift(self, side: int, rad: float = 0.9) -> None:
        """Thigh up and down again within 1.2 s, then half a second of rest."""

        def motion(t: float) -> tuple[float, float]:
            rate = rad * math.pi / 1.2 * math.sin(2.0 * math.pi * t / 1.2)
            return (rate, 0.05 * rate) if side == 0 else (0.05 * rate, rate)

        self.play(1.2, motion)
        self.stand(0.6)

    def ready(self) -> Rig:
        """Standing, both lifts: READY."""
        self.stand()
        self.lift(0)
        self.lift(1)
        assert self.stage == Stage.READY, self.guard.events
        return self

    def active(self) -> Rig:
        """Armed and walking with full torque."""
        self.ready()
        assert self.guard.arm(self.host_s) is None
        self.walk(8.0)
        assert self.stage == Stage.ACTIVE, self.guard.events
        return self
