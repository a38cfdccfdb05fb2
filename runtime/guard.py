"""What stands between a policy and a person: the stages a session goes through and the limits on every torque.

The guard reads no clock and does no input or output: times come in as arguments, so a recording or a property test can
drive it through anything, and the same inputs give the same torque. It is the host's half; the controller on the device
keeps its own clamps and watchdog, and neither trusts the other.

    BOOT → LINK → CALIBRATE → COMMISSION → READY ⇄ (armed, walking) RAMP → ACTIVE → SOFT_STOP → READY
    any of them → FAULT, which only `reset` leaves, disarmed and with zero torque
"""

from __future__ import annotations

import dataclasses
import math

from mjx_exo.device import TorqueLimits, limit_torque_pair, velocity_pair_ahead
from runtime.channels import read_channels
from runtime.commission import Commissioning, StandingCalibration
from runtime.feed import FreezeWatch, SampleAge, SampleFeed
from runtime.messages import LATCH_TEXT, LatchReason, Sensor, SensorFlag
from runtime.stages import MOVING, Decision, GuardConfig, GuardEvent, Observation, Stage
from runtime.walking import WalkingDetector

FAULT_S = 0.1  # stale for this long while armed is a fault
SILENCE_S = 1.0  # and while not armed
STALE_SAMPLES = 3.5  # three missed samples of the student, and half a period of jitter
ARM_ANSWER_S = 0.5
OVER_TORQUE = 1.25  # an applied torque beyond this share of the limit (plus 1 Nm) is a fault
OVER_TORQUE_SAMPLES = 3
_DEVICE_FAULTS = {
    SensorFlag.EMERGENCY_STOP: "the emergency stop is pressed",
    SensorFlag.DRIVER_FAULT: "a motor driver reports a fault",
    SensorFlag.OVER_TEMPERATURE: "an actuator is too hot",
}


_NOTHING = Observation(0, False, False, ())
_ZERO = (0.0, 0.0)


class Guard:
    """See the module. Call `observe` per frame, `decide` once per answer, `tick` when nothing came."""

    def __init__(self, config: GuardConfig):
        self.config = config
        self.stage = Stage.BOOT
        self.armed = False  # a person wants torque
        self.reason = ""  # of the last fault
        self.events: list[GuardEvent] = []
        self.rejected = 0  # frames with values that are no measurement
        self.gain = 0.0
        self.bias = _ZERO
        self.walking = WalkingDetector(config.rate_hz)
        self.commissioning = Commissioning(config.rate_hz)
        self.feed = SampleFeed(config.rate_hz, config.rate_hz)
        self._calibration = self._new_calibration()
        self._calibrated = False
        self._link_up = False
        self._sample: Sensor | None = None
        self._forget_samples()
        self._last_tick_s: float | None = None
        self._last_decide_s: float | None = None
        self._student = _ZERO
        self._torque = _ZERO
        self._device_armed = False
        self._arm_deadline_s = math.inf
        self._immediate = False

    # What a person or the loop asks for.

    def booted(self, now_s: float) -> None:
        """The policy is loaded and checked."""
        if self.stage == Stage.BOOT:
            self._enter(now_s, Stage.LINK, "waiting for the device")

    def linked(self, now_s: float, device_rate_hz: float, limits: TorqueLimits | None = None) -> None:
        """The device answered the greeting. In FAULT the fault stays; calibration and commissioning start over.

        `limits` replaces those of the configuration, for a device that allows less.
        """
        self._link_up = True
        if limits is not None:
            self.config = dataclasses.replace(self.config, limits=limits)
        self.feed = SampleFeed(device_rate_hz, self.config.rate_hz)
        self._calibrated, self._sample, self._last_tick_s = False, None, now_s
        self.commissioning = Commissioning(self.config.rate_hz)
        self._forget_samples()
        if self.stage in (Stage.BOOT, Stage.LINK):
            self._start_calibration(now_s)

    def link_lost(self, now_s: float, reason: str) -> None:
        """The port failed. Everything learnt about the sensors is forgotten: the cables may come back swapped."""
        self._link_up = self._calibrated = False
        self.fault(now_s, reason)

    def arm(self, now_s: float) -> str | None:
        """A person wants torque. Returns why not, or None when armed."""
        if self.stage == Stage.FAULT:
            return f"there is a fault: {self.reason}; type 'reset' first"
        if self.stage != Stage.READY:
            return f"not ready: {self.hint}"
        if not self.armed:
            self.armed, self._device_armed = True, False
            self._arm_deadline_s = now_s + ARM_ANSWER_S
            self._note(now_s, f"armed, torque scale {self.config.torque_scale:g}; walk to start")
        return None

    def disarm(self, now_s: float) -> None:
        """No more torque: softly down, then READY and disarmed."""
        if self.armed:
            self.armed = False
            self._note(now_s, "disarmed")
        if self.stage in (Stage.RAMP, Stage.ACTIVE):
            self._enter(now_s, Stage.SOFT_STOP, "disarmed")

    def reset(self, now_s: float) -> str | None:
        """A person has seen the fault. Returns why it cannot be left, or None; torque needs `arm` again."""
        if self.stage != Stage.FAULT:
            return "there is no fault to reset"
        for flag, words in _DEVICE_FAULTS.items():
            if self._link_up and self._sample is not None and self._sample.flags & flag:
                return f"the fault persists: {words}"
        if not self._link_up:
            self._enter(now_s, Stage.LINK, "waiting for the device")
        elif self._calibrated and (self.commissioning.done or self.config.skip_commissioning):
            self._enter(now_s, Stage.READY, "fault reset; type 'arm' when you want torque again")
        else:
            self._start_calibration(now_s)
        return None

    def fault(self, now_s: float, reason: str, immediate: bool = False) -> None:
        """Latches: zero torque, disarmed, until `reset`. The first reason is kept."""
        if self.stage == Stage.FAULT:
            return
        self.armed, self.reason, self._immediate = False, reason, immediate
        self._enter(now_s, Stage.FAULT, reason)

    # What the loop does with it.

    @property
    def wants_arm(self) -> bool:
        """The device should be told to arm (until it says that it is)."""
        return self.armed and not self._device_armed and not self.config.dry_run

    @property
    def device_armed(self) -> bool:
        """The controller said so in its last frame."""
        return self._link_up and self._sample is not None and self._sample.armed

    @property
    def immediate_stop(self) -> bool:
        """The fault is one after which even the controller's release ramp is too long."""
        return self._immediate

    @property
    def hint(self) -> str:
        """What the wearer should do now, one sentence."""
        if self.stage == Stage.CALIBRATE:
            return self._calibration.hint
        if self.stage == Stage.COMMISSION:
            return self.commissioning.hint
        if self.stage == Stage.READY:
            return "walk" if self.armed else "type 'arm' when you want torque"
        if self.stage == Stage.FAULT and not self._link_up:
            return f"{self.reason}; plug the device in again, this program keeps looking"
        return {
            Stage.BOOT: "loading the policy",
            Stage.LINK: "plug the device in and switch it on",
            Stage.FAULT: f"{self.reason}; type 'reset' when it is mended",
        }.get(self.stage, "walk on")

    def observe(self, now_s: float, sample: Sensor) -> Observation:
        """Takes one sensor frame, in order of arrival."""
        self._check_hold_up(now_s)
        if not self._link_up:
            return _NOTHING
        values = read_channels(sample, self.config.channels)
        if not self._is_measurement(sample, values):
            self.rejected += 1
            self._check_age(now_s)
            return _NOTHING
        fed = self.feed.push(sample.sequence, sample.device_time_us)
        if not fed.fresh:
            self._check_age(now_s)
            return _NOTHING
        self._elapsed_s += 0.0 if self._sample is None else (sample.device_time_us - self._sample.device_time_us) * 1e-6
        self._sample, self._answers_sample = sample, True
        self._age.arrived(now_s, sample.device_time_us)
        self._frozen_s = self._freeze.update(sample.device_time_us, sample.gyro_rad_s)
        self._check_device(now_s, sample)
        self._check_age(now_s)
        gyro = (sample.gyro_rad_s[0] - self.bias[0], sample.gyro_rad_s[1] - self.bias[1])
        observation = Observation(fed.rows, fed.flush or self._flush_next, True, gyro + values[2:])
        if fed.rows:
            self._flush_next = False
            self._row(now_s, observation)
        return observation

    def tick(self, now_s: float) -> None:
        """Time has passed without a frame."""
        self._check_hold_up(now_s)
        self._check_age(now_s)

    def decide(self, now_s: float, student_nm_per_kg: tuple[float, float] | None) -> Decision:
        """The torque for now. `student_nm_per_kg` is the policy's newest output, None when it has none since.

        It is at most the rate limit times the time that the answer has, from the torque that its sample says is
        applied: until the next sample, and as much longer as the device says answers are late (one period at most). The
        controller keeps the rate itself; without the lateness the torque would wait at each command for the next one.
        """
        period_s = self.feed.device_period_s
        if self._answers_sample:
            dt_s = min(self._elapsed_s, period_s)
            late_s = min(1e-6 * self._sample.applied_after_us, period_s)
            last = self._sample.applied_torque_nm
            velocity = self._velocity_ahead(dt_s + late_s)
        else:
            since = 0.0 if self._last_decide_s is None else now_s - self._last_decide_s
            dt_s, late_s, last, velocity = min(max(since, 0.0), period_s), 0.0, self._torque, None
        self._elapsed_s, self._answers_sample, self._last_decide_s = 0.0, False, now_s
        if student_nm_per_kg is not None:
            right, left = student_nm_per_kg
            self._student = (float(right), float(left))
            if not all(map(math.isfinite, self._student)):
                self.fault(now_s, "the policy's output is not a finite number")
        self._advance_gain(now_s, dt_s, last)
        if self.stage not in MOVING:
            self._torque = _ZERO
            return Decision(_ZERO, self._intent(1.0), 0.0, False, self.armed and self._device_armed)
        wanted = self._intent(self.gain)
        if self.config.dry_run:
            return Decision(_ZERO, wanted, self.gain, False, False)
        self._torque = limit_torque_pair(self.config.limits, wanted, last, velocity, dt_s + late_s)
        limited = any(abs(torque - asked) > 1e-6 for torque, asked in zip(self._torque, wanted, strict=True))
        return Decision(self._torque, wanted, self.gain, limited, True)

    # How it gets there.

    def _velocity_ahead(self, answer_s: float) -> tuple[float, float] | None:
        """The joint velocity that the torque of this answer meets, None where the device does not say."""
        velocity, before = self._sample.joint_velocity_rad_s, self._velocity_before
        self._velocity_before = velocity
        if velocity is None:
            return None
        return velocity_pair_ahead(velocity, before, self._elapsed_s, answer_s + self.config.limits.lag_s)

    def _enter(self, now_s: float, stage: Stage, text: str) -> None:
        self.stage = stage
        if stage not in (Stage.RAMP, Stage.ACTIVE, Stage.SOFT_STOP):
            self.gain = 0.0
            self._torque = _ZERO
        self._note(now_s, text)

    def _note(self, now_s: float, text: str) -> None:
        self.events.append(GuardEvent(now_s, self.stage, text))

    def _forget_samples(self) -> None:
        self.walking.reset()
        self._age, self._freeze, self._frozen_s = SampleAge(), FreezeWatch(), 0.0
        self._window, self._elapsed_s, self._answers_sample, self._velocity_before = 0, 0.0, False, None
        self._flush_next, self._over_torque = True, 0
        self._device_armed = False

    def _new_calibration(self) -> StandingCalibration:
        return StandingCalibration(self.config.rate_hz, self.config.bias_limit_rad_s)

    def _start_calibration(self, now_s: float) -> None:
        self.bias, self._calibrated, self._calibration = _ZERO, False, self._new_calibration()
        self.commissioning = Commissioning(self.config.rate_hz)
        self._enter(now_s, Stage.CALIBRATE, "stand still: the gyroscopes are being zeroed")

    def _is_measurement(self, sample: Sensor, values: tuple[float, ...]) -> bool:
        """Finite everywhere the policy or the limits look, and within what the gyroscope can read."""
        if not all(map(math.isfinite, values)) or not all(map(math.isfinite, sample.applied_torque_nm)):
            return False
        return max(map(abs, sample.gyro_rad_s)) <= self.config.gyro_range_rad_s * 1.001

    def _row(self, now_s: float, seen: Observation) -> None:
        """One or more window rows ending in `seen`: detectors and the stages that live on them."""
        if seen.flush:
            self._window = 0
            self.walking.reset()
            self.commissioning.restart_lift()
            if self.stage == Stage.CALIBRATE:
                self._calibration = self._new_calibration()
            if self.stage in (Stage.RAMP, Stage.ACTIVE):
                self._enter(now_s, Stage.SOFT_STOP, "samples were lost; the window has to fill again")
        self._window += seen.rows
        right, left = seen.values[:2]
        for _ in range(seen.rows):
            self.walking.update(right, left)
            if self.stage == Stage.CALIBRATE:
                self._calibrate(now_s, right, left)
            elif self.stage == Stage.COMMISSION:
                self._commission(now_s, right, left)
        if self.stage in (Stage.RAMP, Stage.ACTIVE) and not self.walking.walking:
            self._enter(now_s, Stage.SOFT_STOP, "the wearer does not walk")
        elif self.stage == Stage.READY and self._may_start():
            self._enter(now_s, Stage.RAMP, "walking: torque comes up")

    def _may_start(self) -> bool:
        armed = self.armed and (self._device_armed or self.config.dry_run)
        return armed and self.walking.walking and self._window >= self.config.window and self._stale_s(0.0) == 0.0

    def _calibrate(self, now_s: float, right: float, left: float) -> None:
        bias = self._calibration.update(right, left)
        if bias is None:
            return
        self.bias, self._calibrated, self._flush_next = bias, True, True
        zeroed = f"gyroscopes zeroed (bias {bias[0]:+.4f}, {bias[1]:+.4f} rad/s)"
        if self.config.skip_commissioning:
            self._enter(now_s, Stage.READY, f"{zeroed}; commissioning skipped in this dry run")
        else:
            self._enter(now_s, Stage.COMMISSION, f"{zeroed}; {self.commissioning.hint}")

    def _commission(self, now_s: float, right: float, left: float) -> None:
        hint = self.commissioning.hint
        self.commissioning.update(right, left)
        if self.commissioning.failure:
            self._calibrated = False
            self.fault(now_s, self.commissioning.failure)
        elif self.commissioning.done:
            self._enter(now_s, Stage.READY, "sides and signs are right; ready")
        elif self.commissioning.hint != hint:
            self._note(now_s, self.commissioning.hint)

    def _check_device(self, now_s: float, sample: Sensor) -> None:
        """What the controller says about itself."""
        for flag, words in _DEVICE_FAULTS.items():
            if sample.flags & flag:
                self.fault(now_s, words, immediate=flag == SensorFlag.EMERGENCY_STOP)
                return
        beyond = OVER_TORQUE * float(self.config.limits.limit_nm) + 1.0
        self._over_torque = self._over_torque + 1 if max(map(abs, sample.applied_torque_nm)) > beyond else 0
        if self._over_torque >= OVER_TORQUE_SAMPLES:
            self.fault(now_s, f"the device applies more than {beyond:.1f} Nm", immediate=True)
        if not self.armed or self.config.dry_run:
            return
        if self._device_armed and not sample.flags & SensorFlag.ARMED:
            self.fault(now_s, f"the controller disarmed: {latch_words(sample.latch_reason)}")
        elif sample.flags & SensorFlag.ARMED:
            self._device_armed = True
        elif now_s > self._arm_deadline_s:
            self.fault(now_s, f"the controller did not arm: {latch_words(sample.latch_reason)}")

    def _stale_s(self, age_s: float) -> float:
        """Seconds without news, 0 while all is well: by arrival (`age_s`) or by values that do not change."""
        stale = max(age_s, self._frozen_s)
        return stale if stale > STALE_SAMPLES / self.config.rate_hz else 0.0

    def _check_age(self, now_s: float) -> None:
        if not self._link_up or self._sample is None:
            return
        age_s = self._age(now_s)
        stale_s = self._stale_s(age_s)
        if stale_s == 0.0:
            return
        what = "the gyroscope values have not changed" if self._frozen_s >= age_s else "no fresh sensor sample"
        if stale_s > (FAULT_S if self.armed or self.stage in MOVING else SILENCE_S):
            self.fault(now_s, f"{what} for {stale_s * 1e3:.0f} ms")
        elif self.stage in (Stage.RAMP, Stage.ACTIVE):
            self._enter(now_s, Stage.SOFT_STOP, f"{what} for {stale_s * 1e3:.0f} ms")

    def _check_hold_up(self, now_s: float) -> None:
        """This program itself was not running: what lies in the buffers is history."""
        held_s = 0.0 if self._last_tick_s is None else now_s - self._last_tick_s
        self._last_tick_s = now_s
        if held_s > FAULT_S and (self.armed or self.stage in MOVING):
            self.fault(now_s, f"this program was held up for {held_s * 1e3:.0f} ms")

    def _intent(self, gain: float) -> tuple[float, float]:
        share = gain * self.config.torque_scale * self.config.wearer_mass_kg
        right, left = (share * value for value in self._student)
        return (right, left) if math.isfinite(right) and math.isfinite(left) else _ZERO

    def _advance_gain(self, now_s: float, dt_s: float, last: tuple[float, float]) -> None:
        if self.stage == Stage.RAMP:
            self.gain = min(1.0, self.gain + dt_s / self.config.ramp_s)
            if self.gain >= 1.0:
                self._enter(now_s, Stage.ACTIVE, "full torque")
        elif self.stage == Stage.SOFT_STOP:
            self.gain = max(0.0, self.gain - dt_s / self.config.soft_stop_s)
            step = float(self.config.limits.rate_limit_nm_s) * self.feed.device_period_s
            if self.gain == 0.0 and max(map(abs, last)) <= step:
                self._enter(now_s, Stage.READY, "torque is zero" if self.armed else "torque is zero, disarmed")


def latch_words(reason: int) -> str:
    """A controller's latch reason in words."""
    return LATCH_TEXT[LatchReason(reason)] if reason in set(LatchReason) else f"unknown reason {reason}"
