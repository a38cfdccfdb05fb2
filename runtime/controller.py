"""The controller's safety machine in Python, so that a virtual device behaves as a real one must.

`firmware/exo_controller.c` is the reference for microcontrollers; this is the same machine, held to it event by event
in `tests/test_firmware.py`. No clock, no port: the caller brings bytes and one monotonic time in microseconds.

A torque lives for its time to live counted from the moment the sample it answers was sent, so a command that waited in
a buffer is as old as what it was computed from. In the second half of that life its magnitude is faded linearly, so
that the torque is zero when it ends and the watchdog latches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from runtime.frames import Decoder, encode
from runtime.link import answer_hello
from runtime.messages import (
    LONGEST_ANSWER_US,
    Arm,
    ControllerState,
    Disarm,
    Hello,
    HelloAck,
    HelloResult,
    LatchReason,
    Message,
    Pair,
    Request,
    Sensor,
    SensorFlag,
    Stop,
    Torque,
)

SENT_MEMORY = 64  # samples whose sending time is remembered
RELEASE_US = 25_000  # disarm and stop bring the torque to zero within this time
MAX_STEP_US = 5_000  # a late tick moves the torque no further than this much time allows


class Health(NamedTuple):
    """Lines read at every tick; each one set latches."""

    emergency_stop: bool = False
    driver_fault: bool = False
    over_temperature: bool = False


@dataclass
class ControllerCounters:
    """What became of the torque and arm frames that arrived."""

    torque_accepted: int = 0
    rejected_session: int = 0
    rejected_value: int = 0
    rejected_echo: int = 0
    rejected_stale: int = 0
    rejected_arm: int = 0
    ignored: int = 0


@dataclass
class Controller:
    """One device. `identity` is what it says about itself (`link.device_identity`), its limits included."""

    identity: HelloAck
    sensor_flags: int = int(SensorFlag.SIMULATED)
    state: ControllerState = ControllerState.WAITING
    latch_reason: LatchReason = LatchReason.NONE
    stop_reason: int = 0
    applied_nm: Pair = (0.0, 0.0)
    decoder: Decoder = field(default_factory=Decoder)
    counters: ControllerCounters = field(default_factory=ControllerCounters)
    requests: list[Request] = field(default_factory=list)  # for a virtual wearer to take; the last few only
    _health: Health = field(default_factory=Health)
    _answer: HelloAck | None = None
    _ack: HelloAck | None = None
    _ack_sequence: int = 0
    _now_us: int | None = None
    _tick_us: int = 0
    _release_us: int | None = None
    _limited: bool = False
    _sent_sequence: int = 0
    _sent_us: dict[int, int] = field(default_factory=dict)
    _arm_floor: int = 0
    _command_echo: int | None = None
    _command_after_us: int = 0
    _command_nm: Pair = (0.0, 0.0)
    _born_us: int = 0
    _ttl_us: int = 0

    def receive(self, data: bytes, now_us: int) -> None:
        """Bytes from the host, as they arrive."""
        self._advance(now_us)
        foreign = self.decoder.foreign_hellos
        for message in self.decoder.feed(data):
            self._on_message(message)
        if self.decoder.foreign_hellos != foreign:
            self._answer = self.identity._replace(result=HelloResult.WRONG_PROTOCOL)

    def reply(self) -> bytes:
        """The frame that answers a hello, if one is due; else nothing."""
        if self._answer is None:
            return b""
        self._ack_sequence += 1
        answer = self._answer._replace(
            state=self.state, latch_reason=self.latch_reason, sequence=self._ack_sequence & 0xFFFFFFFF
        )
        self._answer = None
        return encode(answer)

    def tick(self, health: Health, now_us: int) -> Pair:
        """The torque to command from now on, Nm (right, left); to be called about every millisecond."""
        self._advance(now_us)
        self._check_health(health)
        ceiling = 0.0
        if self.state == ControllerState.ARMED:
            age_us = now_us - self._born_us
            if age_us >= self._ttl_us:
                self._latch(LatchReason.WATCHDOG, at_once=True)
            else:
                ceiling = self._envelope(age_us, self._ttl_us // 2, self._ttl_us)
        elif self._release_us is not None:
            ceiling = self._envelope(now_us - self._release_us, 0, RELEASE_US)
            if ceiling == 0.0:
                self._release_us = None
        rate = self._ack.torque_rate_limit_nm_s if self._ack else 0.0
        step = rate * min(now_us - self._tick_us, MAX_STEP_US) * 1e-6
        self._tick_us = now_us
        right, left = (
            _clamp(applied + _clamp(wanted - applied, step), ceiling)
            for applied, wanted in zip(self.applied_nm, self._command_nm, strict=True)
        )
        self.applied_nm = (right, left)
        return self.applied_nm

    def sample(self, measured: Sensor, now_us: int) -> bytes:
        """The next sensor frame around the measurements in `measured`; nothing until a host has been accepted."""
        self._advance(now_us)
        if self._ack is None:
            return b""
        self._sent_sequence = (self._sent_sequence + 1) & 0xFFFFFFFF
        self._sent_us[self._sent_sequence % SENT_MEMORY] = now_us
        flags = self.sensor_flags
        for is_set, flag in (
            (self.state == ControllerState.ARMED, SensorFlag.ARMED),
            (self.state == ControllerState.LATCHED, SensorFlag.LATCHED),
            (self._health.driver_fault, SensorFlag.DRIVER_FAULT),
            (self._health.emergency_stop, SensorFlag.EMERGENCY_STOP),
            (self._limited, SensorFlag.LIMITED),
            (self._health.over_temperature, SensorFlag.OVER_TEMPERATURE),
        ):
            flags |= int(flag) if is_set else 0
        self._limited = False
        return encode(
            measured._replace(
                sequence=self._sent_sequence,
                device_time_us=now_us,
                applied_torque_nm=self.applied_nm,
                applied_echo=self._command_echo or 0,
                applied_after_us=0 if self._command_echo is None else self._command_after_us,
                flags=flags,
                state=self.state,
                latch_reason=self.latch_reason,
            )
        )

    @property
    def sequence(self) -> int:
        """Of the newest sensor frame; 0 before the first."""
        return self._sent_sequence

    @property
    def command_born_us(self) -> int:
        """When the sample was sent that the newest command taken while armed answers."""
        return self._born_us

    def _advance(self, now_us: int) -> None:
        if self._now_us is not None and now_us < self._now_us:
            self._latch(LatchReason.CLOCK, at_once=True)
        if self._now_us is None or now_us < self._tick_us:
            self._tick_us = now_us
        self._now_us = now_us

    def _on_message(self, message: Message) -> None:
        match message:
            case Hello():
                self._on_hello(message)
            case Torque():
                self._on_torque(message)
            case Arm():
                self._on_arm(message)
            case Disarm():
                if self._ack is None or message.session != self._ack.session:
                    self.counters.rejected_session += 1
                elif self.state == ControllerState.ARMED:
                    self.state = ControllerState.DISARMED
                    self._arm_floor = self._sent_sequence
                    self._release(at_once=False)
            case Stop():
                self.stop_reason = message.reason
                self._arm_floor = self._sent_sequence
                if self.state == ControllerState.ARMED:
                    self._latch(LatchReason.HOST_STOP, at_once=message.immediate)
                elif message.immediate:
                    self._release(at_once=True)
            case _:
                self.counters.ignored += 1
                if isinstance(message, Request):
                    self.requests = [*self.requests[-7:], message]

    def _on_hello(self, hello: Hello) -> None:
        if self.state == ControllerState.ARMED:
            self._latch(LatchReason.NEW_SESSION, at_once=False)
        self._answer = answer_hello(hello, self.identity)
        if self._answer.result != HelloResult.ACCEPTED:
            return
        self._ack = self._answer
        self._command_echo = None
        if self.state == ControllerState.WAITING:
            self.state = ControllerState.DISARMED

    def _on_torque(self, command: Torque) -> None:
        counters = self.counters
        if self._ack is None or command.session != self._ack.session:
            counters.rejected_session += 1
            return
        if not all(math.isfinite(t) for t in command.torque_nm) or command.ttl_ms == 0:
            counters.rejected_value += 1
            if self.state == ControllerState.ARMED:
                self._latch(LatchReason.BAD_COMMAND, at_once=True)
            return
        age_us = self._sample_age(command.echo)
        if age_us is None or (self._command_echo is not None and not _newer(command.echo, self._command_echo)):
            counters.rejected_echo += 1
            return
        ttl_us = min(command.ttl_ms, self._ack.ttl_ms) * 1000
        if age_us >= ttl_us:
            counters.rejected_stale += 1
            return
        counters.torque_accepted += 1
        self._command_echo = command.echo
        self._command_after_us = min(int(age_us), LONGEST_ANSWER_US)
        if self.state != ControllerState.ARMED:
            return
        self._born_us = self._now() - int(age_us)
        self._ttl_us = ttl_us
        self._command_nm = (0.0, 0.0)
        if command.armed and not command.dry_run:
            limit = self._ack.torque_limit_nm
            right, left = (_clamp(torque, limit) for torque in command.torque_nm)
            self._command_nm = (right, left)
            self._limited |= self._command_nm != command.torque_nm

    def _on_arm(self, arm: Arm) -> None:
        cleared = self.state == ControllerState.DISARMED or (self.state == ControllerState.LATCHED and arm.clear_latch)
        age_us = self._sample_age(arm.echo)
        if (
            not cleared
            or self._ack is None
            or arm.session != self._ack.session
            or any(self._health)
            or age_us is None
            or age_us >= self._ack.ttl_ms * 1000
            or not _newer(arm.echo, self._arm_floor)
        ):
            self.counters.rejected_arm += 1
            return
        self.state = ControllerState.ARMED
        self.latch_reason = LatchReason.NONE
        self._arm_floor = self._sent_sequence
        self._release(at_once=True)
        self._born_us = self._now() - int(age_us)
        self._ttl_us = self._ack.ttl_ms * 1000

    def _check_health(self, health: Health) -> None:
        self._health = health
        if health.emergency_stop:
            self._latch(LatchReason.EMERGENCY_STOP, at_once=True)
        elif health.driver_fault:
            self._latch(LatchReason.DRIVER_FAULT, at_once=True)
        elif health.over_temperature:
            self._latch(LatchReason.OVER_TEMPERATURE, at_once=False)

    def _latch(self, reason: LatchReason, at_once: bool) -> None:
        self._release(at_once)
        self._arm_floor = self._sent_sequence
        if self.state != ControllerState.LATCHED:
            self.state = ControllerState.LATCHED
            self.latch_reason = reason

    def _release(self, at_once: bool) -> None:
        self._command_nm = (0.0, 0.0)
        if at_once:
            self.applied_nm = (0.0, 0.0)
            self._release_us = None
        elif self._release_us is None:
            self._release_us = self._now()

    def _envelope(self, elapsed_us: int, hold_us: int, end_us: int) -> float:
        limit = self._ack.torque_limit_nm if self._ack else 0.0
        if elapsed_us >= end_us:
            return 0.0
        return limit if elapsed_us <= hold_us else limit * (end_us - elapsed_us) / (end_us - hold_us)

    def _sample_age(self, echo: int) -> float | None:
        """Microseconds since that sample was sent; None if it never was or is forgotten."""
        back = (self._sent_sequence - echo) & 0xFFFFFFFF
        if self._sent_sequence == 0 or echo == 0 or back >= SENT_MEMORY or back >= self._sent_sequence:
            return None
        age_us = self._now() - self._sent_us[echo % SENT_MEMORY]
        return age_us if age_us >= 0 else math.inf

    def _now(self) -> int:
        return self._now_us or 0


def _clamp(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def _newer(a: int, b: int) -> bool:
    """Whether sequence number `a` comes after `b`, across the wrap at 2^32."""
    return 0 < (a - b) & 0xFFFFFFFF < 0x80000000
