"""The device around a wearer, on a pseudo-terminal, in real time.

The controller is the Python twin of the firmware reference: its clamps, watchdog and latch are the real ones. Time is
real time: one sensor frame per period of the profile's rate, whatever the host does.
"""

from __future__ import annotations

import select
import time
from collections import Counter
from typing import Any

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.virtual.conditions import ConditionsFile
from mjx_exo.virtual.faults import FaultInjector, parse_fault
from mjx_exo.virtual.motion import Tick, Wearer
from mjx_exo.virtual.port import AnswerMeter, PseudoPort
from mjx_exo.virtual.screen import Screen
from runtime.console import Console
from runtime.controller import Controller
from runtime.guard import latch_words
from runtime.link import device_identity
from runtime.messages import ControllerState, Request, RequestKind, Sensor
from runtime.summary import LatencyHistogram

POLL_S = 0.001  # the controller's own loop
SCREEN_S = 1.0
WEARER_SHARE = 0.35  # the wearer moves this far into the period, when the answer to the sample has had time to arrive
AMBIENT_C = 25.0
HEATING_C_PER_NM2 = 0.15  # at rest temperature, above ambient; of the order of small quasi-direct drives (background)
HEATING_S = 120.0  # its time constant
HELP = "commands: KIND[:PARAM][@START[-END]] breaks something, clear [KIND] mends it, replug, quit"


class VirtualExo:
    """Device and wearer on one port; `run` returns when the time is up, somebody says quit, or `stop` is set."""

    def __init__(
        self,
        port: PseudoPort,
        wearer: Wearer,
        profile: DeviceProfile,
        injector: FaultInjector,
        console: Console,
        screen: Screen,
        conditions: ConditionsFile | None = None,
    ):
        self._port, self._wearer, self._injector = port, wearer, injector
        self._console, self._screen, self._conditions = console, screen, conditions
        self._period_s = 1.0 / profile.link.rate_hz
        self.controller = Controller(device_identity(profile, "virtual"))
        self.meter = AnswerMeter()
        self.wearer_time = LatencyHistogram()
        self.stop = False
        self._ticks = self._late = self._samples = 0
        self._worst_late_s = 0.0
        self._latches: Counter[str] = Counter()
        self._temperature = [AMBIENT_C, AMBIENT_C]
        self._seen_state: tuple[int, int] = (ControllerState.WAITING, 0)
        self._began = time.monotonic()
        self._greeted_s: float | None = None

    def run(self, duration_s: float) -> dict[str, Any]:
        """Runs until the end; returns the counts."""
        next_tick = self._began = time.monotonic()
        next_screen = self._began + SCREEN_S
        while not self.stop and time.monotonic() - self._began < duration_s:
            next_tick += self._period_s
            self._serve_until(next_tick - (1.0 - WEARER_SHARE) * self._period_s)
            started = time.monotonic()
            tick = self._wearer.tick(self.controller.applied_nm)
            self.wearer_time.add(time.monotonic() - started)
            self._serve_until(next_tick)
            late = time.monotonic() - next_tick
            self._worst_late_s = max(self._worst_late_s, late)
            if late > self._period_s:  # the simulation fell behind: skip, do not hurry
                self._late += 1
                next_tick = time.monotonic()
            self._break_and_mend()
            self._send(tick)
            if self._conditions is not None:
                self._conditions.note(self._now_us(), None if tick.fell else self._wearer.command)
            self._ticks += 1
            if time.monotonic() >= next_screen:
                next_screen += SCREEN_S
                self._show()
        return self.report()

    def report(self) -> dict[str, Any]:
        """What happened, as plain numbers. `samples` = `sound` + those that a fault kept from the line or damaged."""
        controller, injector = self.controller, self._injector
        return {
            "ticks": self._ticks,
            "seconds": round(time.monotonic() - self._began, 3),
            "late_ticks": self._late,
            "worst_late_ms": round(1e3 * self._worst_late_s, 3),
            "wearer_time": self.wearer_time.to_dict(),
            "falls": self._wearer.falls,
            "doing": self._wearer.doing,
            "state": ControllerState(controller.state).name,
            "latches": dict(self._latches),
            "samples": self._samples,
            "sound": injector.sound,
            "waiting": injector.waiting,
            "unsent_writes": self._port.unsent,
            "answered": self.meter.answered,
            "newest_answered": self.meter.newest,
            "sensor_to_command": self.meter.latency.to_dict(),
            "torque_frames_accepted": controller.counters.torque_accepted,
            "host_frames_rejected": controller.decoder.counters.rejected,
            "torque_frames_refused": {
                name.removeprefix("rejected_"): getattr(controller.counters, name)
                for name in ("rejected_session", "rejected_value", "rejected_echo", "rejected_stale")
            },
            "greeted_s": None if self._greeted_s is None else round(self._greeted_s - self._began, 3),
            "faults": injector.report(),
        }

    # The controller's own loop.

    def _serve_until(self, deadline: float) -> None:
        """Bytes in, answers out, watchdog, until `deadline` (monotonic seconds)."""
        while True:
            now = time.monotonic()
            left = deadline - now
            waiting = [self._port.fileno()] if self._port.plugged else []
            if self._console.fileno is not None:
                waiting.append(self._console.fileno)
            nap = min(left, POLL_S, self._injector.next_due_s - now)
            readable, _, _ = select.select(waiting, [], [], max(0.0, nap))
            if self._port.plugged and self._port.fileno() in readable:
                self._listen()
            self.controller.tick(self._injector.health, self._now_us())
            ready = self._injector.due(time.monotonic())
            if ready:
                self._port.write(ready)
            if self._console.fileno in readable:
                for command in self._console.commands():
                    self._obey_person(command)
            if left <= 0:
                return

    def _listen(self) -> None:
        data = self._injector.hear(self._port.read(), self.controller.sequence)
        self.meter.heard(data)
        self.controller.receive(data, self._now_us())
        reply = self.controller.reply()
        if reply:
            self._port.write(reply)
        if self._greeted_s is None and self.controller.state != ControllerState.WAITING:
            self._greeted_s = time.monotonic()
        requests, self.controller.requests = self.controller.requests, []
        for request in requests:
            self._obey(request)

    def _obey(self, request: Request) -> None:
        match request.kind:
            case RequestKind.WALK:
                self._wearer.walk(request.value, request.second)
            case RequestKind.STAND | RequestKind.SIT:
                self._wearer.stand()
            case RequestKind.LIFT_RIGHT:
                self._wearer.lift(0)
            case RequestKind.LIFT_LEFT:
                self._wearer.lift(1)
            case RequestKind.QUIT:
                self.stop = True

    def _obey_person(self, command: str) -> None:
        verb, _, what = command.partition(" ")
        if verb in ("quit", "exit"):
            self.stop = True
        elif verb in ("clear", "replug"):
            self._injector.clear(self._fault_time_s(), what or ("unplug" if verb == "replug" else ""))
        else:
            try:
                self._injector.add(parse_fault(command, self._fault_time_s()))
            except UserError as error:
                self._console.say(f"{error}; {HELP}")

    # Once per period.

    def _break_and_mend(self) -> None:
        for words in self._injector.advance(self._fault_time_s()):
            self._screen.event(time.monotonic() - self._began, words)
        pulled = self._injector.find("unplug") is not None
        if pulled and self._port.plugged:
            self._port.pull_out()
            self._injector.forget()
        elif not pulled and not self._port.plugged:
            self._port.plug_in()
            self._console.say(f"port {self._port.name}")

    def _send(self, tick: Tick) -> None:
        controller = self.controller
        if controller.state == ControllerState.WAITING:
            return
        sequence = controller.sequence + 1
        self._warm(tick)
        measured = Sensor(
            sequence=0,
            device_time_us=0,
            gyro_rad_s=tick.gyro_rad_s,
            joint_velocity_rad_s=tick.joint_velocity_rad_s,
            measured_torque_nm=tick.torque_nm,
            temperature_c=(self._temperature[0], self._temperature[1]),
            gyro3_rad_s=tick.gyro3_rad_s,
            hip_angle_rad=tick.hip_angle_rad,
        )
        frame = controller.sample(self._injector.measure(measured, sequence), self._now_us())
        if not frame:
            return
        self._samples += 1
        now = time.monotonic()
        self.meter.sent(sequence)
        self._injector.dispatch(frame, sequence, now)
        ready = self._injector.due(now)
        if ready:
            self._port.write(ready)
        state = (int(controller.state), int(controller.latch_reason))
        if state != self._seen_state and controller.state == ControllerState.LATCHED:
            words = latch_words(controller.latch_reason)
            self._latches[controller.latch_reason.name] += 1
            self._screen.event(now - self._began, f"latched: {words}")
        self._seen_state = state

    def _warm(self, tick: Tick) -> None:
        """The motors' temperature: losses grow with the square of the torque."""
        share = self._period_s / HEATING_S
        for side, torque in enumerate(tick.torque_nm):
            target = AMBIENT_C + HEATING_C_PER_NM2 * torque * torque
            self._temperature[side] += share * (target - self._temperature[side])

    def _show(self) -> None:
        torque, meter = self.controller.applied_nm, self.meter
        latency = 1e3 * meter.latency.percentile(0.5) if meter.answered else float("nan")
        broken = self._injector.words
        self._screen.state(
            time.monotonic() - self._began,
            ControllerState(self.controller.state),
            f"{self._wearer.doing:14s} torque {torque[0]:+6.2f} {torque[1]:+6.2f} Nm  "
            f"{self._samples} samples, {meter.answered} answered in {latency:.1f} ms  "
            f"falls {self._wearer.falls}  late {self._late}{'  BROKEN: ' + broken if broken else ''}",
        )

    # Clocks.

    def _now_us(self) -> int:
        """Device time since the start."""
        return int((time.monotonic() - self._began) * 1e6)

    def _fault_time_s(self) -> float:
        """Seconds since the first greeting; before it, faults wait."""
        return -1.0 if self._greeted_s is None else time.monotonic() - self._greeted_s
