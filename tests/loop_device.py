"""A device process for the tests of the loop: the Python controller behind a pty, worn by somebody who does as asked.

    python loop_device.py RATE_HZ PROFILE [FOLDER]

Prints `port PATH` (a link in FOLDER, so that it keeps its name when plugged in again), then lines that begin with the
time.monotonic: `state STATE REASON` and `torque RIGHT LEFT` at changes, `stop REASON AGE` for stop frames (AGE, ms: how
long ago the sample was sent that the newest command in force answered), and `held GAP 0` when this process itself was
held up for GAP ms. Lines on stdin do harm, for S seconds or for good: `drop S`, `freeze S`, `nan S`, `corrupt S`,
`repeat S`, `unplug S`, `estop S`, `swap S`, `mirror S`, `still S`; `quit` ends it.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import sys
import time
import tty

import numpy as np
from guard_rig import walking_gyro

from mjx_exo.device import DeviceProfile
from runtime import realtime
from runtime.controller import Controller, Health
from runtime.link import device_identity
from runtime.messages import HelloAck, RequestKind, Sensor

NOT_STOPPED = -1
HELD_UP_S = 0.01  # it means to serve every 2 ms
LIFT_S = 0.8
STRIDE_S = 0.9


class Wearer:
    """Thigh gyroscopes of somebody standing, lifting or walking as the last request said."""

    def __init__(self) -> None:
        self.doing, self.since_s = RequestKind.STAND, 0.0
        self.noise = np.random.default_rng(0)

    def ask(self, kind: int, now_s: float) -> None:
        if kind != self.doing:
            self.doing, self.since_s = RequestKind(kind), now_s

    def gyro(self, now_s: float) -> tuple[float, float]:
        t = now_s - self.since_s
        right = left = 0.0
        if self.doing == RequestKind.WALK:
            right, left = walking_gyro(t, STRIDE_S)
        elif self.doing in (RequestKind.LIFT_RIGHT, RequestKind.LIFT_LEFT) and t < LIFT_S:
            rate = 0.9 * math.pi / LIFT_S * math.sin(2.0 * math.pi * t / LIFT_S)
            right, left = (rate, 0.0) if self.doing == RequestKind.LIFT_RIGHT else (0.0, rate)
        noise = self.noise.normal(0.0, 0.005, 2)
        return right + 0.03 + noise[0], left - 0.02 + noise[1]


class Device:
    """One controller, one wearer, one pty, and what is broken until when."""

    def __init__(self, identity: HelloAck):
        self.controller, self.wearer = Controller(identity), Wearer()
        self.period_s = 1.0 / identity.rate_hz
        self.broken: dict[str, float] = {}
        self.master = -1
        self.slave = -1
        self.sent = 0
        self.seen: tuple = ()
        self.served_s = time.monotonic()
        self.last_gyro = (0.0, 0.0)
        self.link = os.path.join(sys.argv[3], "port") if len(sys.argv) > 3 else ""
        self.plug()

    def plug(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        if self.link:
            if os.path.islink(self.link):
                os.unlink(self.link)
            os.symlink(os.ttyname(self.slave), self.link)
        print("port", self.link or os.ttyname(self.slave), flush=True)

    def unplug(self) -> None:
        if self.link:
            os.unlink(self.link)
        os.close(self.master)
        os.close(self.slave)
        self.master = self.slave = -1

    def is_broken(self, what: str, now_s: float) -> bool:
        return self.broken.get(what, -1.0) > now_s

    def command(self, line: str, now_s: float) -> bool:
        what, _, seconds = line.strip().partition(" ")
        if what == "quit":
            return False
        self.broken[what] = now_s + (float(seconds) if seconds else math.inf)
        if what == "unplug":
            self.unplug()
        return True

    def serve(self, now_s: float) -> None:
        """Bytes in, answers out, a controller tick, and the sample that is due."""
        now_us = int(now_s * 1e6)
        if now_s - self.served_s > HELD_UP_S:
            print(f"{now_s:.6f} held {1e3 * (now_s - self.served_s):.3f} 0", flush=True)
        self.served_s = now_s
        if self.master < 0 and not self.is_broken("unplug", now_s):
            self.plug()
        if self.master >= 0:
            self.controller.stop_reason = NOT_STOPPED
            with contextlib.suppress(BlockingIOError):
                self.controller.receive(os.read(self.master, 4096), now_us)
            self.write(self.controller.reply())
            if self.controller.stop_reason != NOT_STOPPED:
                age_ms = 1e-3 * (now_us - self.controller.command_born_us)
                print(f"{now_s:.6f} stop {self.controller.stop_reason} {age_ms:.3f}", flush=True)
        while self.controller.requests:
            request = self.controller.requests.pop(0)
            self.wearer.ask(request.kind, now_s)
        self.controller.tick(Health(emergency_stop=self.is_broken("estop", now_s)), now_us)
        self.report(now_s)

    def sample(self, now_s: float) -> None:
        if self.master < 0 or self.is_broken("drop", now_s):
            return
        gyro = self.wearer.gyro(now_s) if not self.is_broken("still", now_s) else (0.0, 0.0)
        if self.is_broken("swap", now_s):
            gyro = gyro[::-1]
        if self.is_broken("mirror", now_s):
            gyro = (-gyro[0], -gyro[1])
        if self.is_broken("freeze", now_s):
            gyro = self.last_gyro
        self.last_gyro = gyro
        if self.is_broken("nan", now_s):
            gyro = (math.nan, gyro[1])
        frame = self.controller.sample(Sensor(0, 0, gyro, joint_velocity_rad_s=(0.0, 0.0)), int(now_s * 1e6))
        if self.is_broken("corrupt", now_s):
            frame = frame[:7] + bytes([frame[7] ^ 0x55 or 1]) + frame[8:] if frame else frame
        self.sent += bool(frame)
        self.write(frame * (2 if self.is_broken("repeat", now_s) else 1))

    def write(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self.master, data)

    def report(self, now_s: float) -> None:
        state = (int(self.controller.state), int(self.controller.latch_reason))
        torque = self.controller.applied_nm
        if self.seen[:1] != (state,):
            print(f"{now_s:.6f} state {state[0]} {state[1]}", flush=True)
        if self.seen[1:] != (torque,):
            print(f"{now_s:.6f} torque {torque[0]:.4f} {torque[1]:.4f}", flush=True)
        self.seen = (state, torque)


def main() -> None:
    profile = DeviceProfile.load(sys.argv[2])
    identity = device_identity(profile, "loop_device")._replace(rate_hz=float(sys.argv[1]))
    device = Device(identity)
    realtime.enter(lock_memory=False)  # it shares a busy machine with the loop it tests; a real one does not
    next_s = time.monotonic()
    while True:
        readable = [sys.stdin] + ([device.master] if device.master >= 0 else [])
        wait_s = max(0.0, min(next_s - time.monotonic(), 0.002))
        ready, _, _ = select.select(readable, [], [], wait_s)
        now_s = time.monotonic()
        if sys.stdin in ready and not device.command(sys.stdin.readline() or "quit", now_s):
            break
        device.serve(now_s)
        if now_s >= next_s:
            next_s += device.period_s
            device.sample(now_s)
    print(f"sent {device.sent}", flush=True)


if __name__ == "__main__":
    main()
