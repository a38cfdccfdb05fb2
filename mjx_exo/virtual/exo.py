"""`python -m runtime.virtual_exo`: the device's controller around the simulated wearer, on a pseudo-terminal.

The controller is the Python twin of the firmware reference: its clamps, watchdog and latch are the real ones. Time is
real time: one sensor frame per period of the profile's rate, whatever the host does.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import signal
import sys
import time
import tty
from pathlib import Path

from mjx_exo.cache import use_jax_cache, write_atomically
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.virtual.wearer import SimulatedWearer, Tick, WalkingBody
from runtime.controller import Controller, Health
from runtime.link import device_identity
from runtime.messages import ControllerState, Request, RequestKind, Sensor

POLL_S = 0.001  # the controller's own loop
SCREEN_S = 1.0
PHYSICS_SHARE = 0.35  # physics runs this far into the period, when the answer to the sample has had time to arrive


class VirtualExo:
    """Device and wearer on one descriptor; `run` returns when the time is up, the host says quit, or on a signal."""

    def __init__(self, descriptor: int, wearer: SimulatedWearer, profile: DeviceProfile, quiet: bool = False):
        self.descriptor, self.wearer, self.quiet = descriptor, wearer, quiet
        self.period_s = 1.0 / profile.link.rate_hz
        self.controller = Controller(device_identity(profile, "virtual"))
        self.ticks = self.late = self.unsent = 0
        self.worst_late_s = 0.0
        self.stop = False
        self._began = time.monotonic()

    def now_us(self) -> int:
        """Device time since the start."""
        return int((time.monotonic() - self._began) * 1e6)

    def run(self, duration_s: float) -> dict:
        """Runs until the end; returns the counts."""
        next_tick = self._began = time.monotonic()
        next_screen = self._began + SCREEN_S
        tick = Tick((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), False)
        while not self.stop and time.monotonic() - self._began < duration_s:
            next_tick += self.period_s
            self._serve_until(next_tick - (1.0 - PHYSICS_SHARE) * self.period_s)
            tick = self.wearer.tick(self.controller.applied_nm)
            self._serve_until(next_tick)
            late = time.monotonic() - next_tick
            self.worst_late_s = max(self.worst_late_s, late)
            if late > self.period_s:  # the simulation fell behind: skip, do not hurry
                self.late += 1
                next_tick = time.monotonic()
            self._send(tick)
            self.ticks += 1
            if not self.quiet and time.monotonic() >= next_screen:
                next_screen += SCREEN_S
                self._show()
        return self.report()

    def report(self) -> dict:
        """What happened, as plain numbers."""
        return {
            "ticks": self.ticks,
            "seconds": round(time.monotonic() - self._began, 3),
            "late_ticks": self.late,
            "worst_late_ms": round(1e3 * self.worst_late_s, 3),
            "unsent_frames": self.unsent,
            "falls": self.wearer.falls,
            "walking": self.wearer.walking,
            "state": ControllerState(self.controller.state).name,
            "torque_frames_accepted": self.controller.counters.torque_accepted,
        }

    def _serve_until(self, deadline: float) -> None:
        """The controller's loop: bytes in, answers out, watchdog, until `deadline` (monotonic seconds)."""
        while True:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.descriptor], [], [], max(0.0, min(left, POLL_S)))
            if readable:
                try:
                    data = os.read(self.descriptor, 4096)
                except OSError:  # nobody has the other end open
                    data = b""
                    time.sleep(max(0.0, min(left, POLL_S)))
                self.controller.receive(data, self.now_us())
            reply = self.controller.reply()
            if reply:
                self._write(reply)
            self.controller.tick(Health(), self.now_us())
            for request in self.controller.requests:
                if isinstance(request, Request):
                    self._obey(request)
            self.controller.requests = []
            if left <= 0:
                return

    def _obey(self, request: Request) -> None:
        match request.kind:
            case RequestKind.WALK:
                self.wearer.walk(request.value, request.second)
            case RequestKind.STAND | RequestKind.SIT:
                self.wearer.stand()
            case RequestKind.LIFT_RIGHT:
                self.wearer.lift(0)
            case RequestKind.LIFT_LEFT:
                self.wearer.lift(1)
            case RequestKind.QUIT:
                self.stop = True

    def _send(self, tick: Tick) -> None:
        measured = Sensor(
            sequence=0,
            device_time_us=0,
            gyro_rad_s=tick.gyro_rad_s,
            joint_velocity_rad_s=tick.joint_velocity_rad_s,
            measured_torque_nm=tick.torque_nm,
        )
        frame = self.controller.sample(measured, self.now_us())
        if frame:
            self._write(frame)

    def _write(self, data: bytes) -> None:
        try:
            if os.write(self.descriptor, data) != len(data):
                self.unsent += 1
        except (BlockingIOError, OSError):
            self.unsent += 1

    def _show(self) -> None:
        torque = self.controller.applied_nm
        doing = "walking" if self.wearer.walking else "standing"
        print(
            f"{self.now_us() * 1e-6:7.1f} s  {ControllerState(self.controller.state).name:9s} {doing}  "
            f"torque {torque[0]:+6.2f} {torque[1]:+6.2f} Nm  falls {self.wearer.falls}  late {self.late}",
            flush=True,
        )


def open_pty(link: Path | None) -> tuple[int, int, str]:
    """A raw pseudo-terminal: our end (non-blocking), the other end kept open, and the name for the host."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    name = os.ttyname(theirs)
    if link is not None:
        if link.is_symlink():
            link.unlink()
        try:
            link.symlink_to(name)
        except OSError as error:
            raise UserError(f"--port-link {link}: cannot be made ({error.strerror})") from None
    return ours, theirs, name


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m runtime.virtual_exo",
        description="A simulated wearer with a simulated exoskeleton behind a pseudo-terminal, in real time.",
    )
    p.add_argument("--teacher", required=True, help="whose human walks: run folder, policy folder or pretrained name")
    p.add_argument("--profile", help="device profile: name or .toml (default: the teacher's, else hip_3200g)")
    p.add_argument("--engine", default="auto", help="auto, native, or published: the published tendon model")
    p.add_argument("--speed", type=float, default=1.25, metavar="M_S", help="walking speed unless the host asks (1.25)")
    p.add_argument("--slope", type=float, default=0.0, metavar="DEG", help="slope, uphill positive (0)")
    p.add_argument("--seed", type=int, default=7, help="of sensors, mounting and start posture (7)")
    p.add_argument("--duration", type=float, default=float("inf"), metavar="S", help="stop after this many seconds")
    p.add_argument("--port-link", type=Path, metavar="PATH", help="symbolic link to make to the pseudo-terminal")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the counts here at the end")
    p.add_argument("--quiet", action="store_true", help="no state on screen")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    import math

    from mjx_exo.teacher import load_teacher

    arguments = parser().parse_args(argv)
    use_jax_cache()
    teacher = load_teacher(arguments.teacher)
    profile = DeviceProfile.load(arguments.profile or teacher.config.walking.device or "hip_3200g")
    print("preparing the wearer", flush=True)
    body = WalkingBody(teacher, profile, arguments.seed, arguments.engine, threads=1)
    wearer = SimulatedWearer(body, profile, arguments.seed, arguments.speed, math.radians(arguments.slope))
    wearer.warm_up()
    ours, theirs, name = open_pty(arguments.port_link)
    device = VirtualExo(ours, wearer, profile, arguments.quiet)

    def ask_to_stop(*_: object) -> None:
        device.stop = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask_to_stop)
    print(f"port {name}", flush=True)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection with JAX loaded stops everything for tens of milliseconds
    try:
        report = device.run(arguments.duration)
    finally:
        os.close(ours)
        os.close(theirs)
        if arguments.port_link is not None and arguments.port_link.is_symlink():
            arguments.port_link.unlink()
    if arguments.json is not None:
        text = json.dumps(report, indent=2) + "\n"
        write_atomically(arguments.json, lambda path: path.write_text(text))
    print(json.dumps(report), file=sys.stderr if arguments.quiet else sys.stdout, flush=True)
    return 0
