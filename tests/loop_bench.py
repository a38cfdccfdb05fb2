"""A device process, a policy and loops on it, for tests of what happens between processes in real time.

The controller's time to live is 50 ms, so on a shared machine it may latch because a process was held up for longer,
and that is the safe answer, not a mistake of the loop. Two things keep such a stall from failing a test, or from hiding
a mistake. `assisted` arms again by hand where a stall (in the loop's own words) ended the assistance. And where a test
asks why the controller latched, `check_host_stop` wants the stop frame with the right reason in any case; latching by
the watchdog before it counts only when the controller's own log says that its command had outlived its time to live.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tiny_policy import write_policy

from runtime.messages import ControllerState, LatchReason, StopReason
from runtime.recorder import Recording, load_recording

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0
TTL_S = 0.05
GAP_S = 0.03
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
HELD_UP = r"held up|no fresh sensor sample|no fresh torque command|did not arm"
ATTEMPTS = 6


class Process:
    """A child whose lines can be waited for."""

    def __init__(self, *command: str):
        self.child = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.child.stdout:
            self.lines.append(line.rstrip())

    def tell(self, command: str) -> None:
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()

    def wait_for(self, pattern: str, start: int = 0, patience_s: float = PATIENCE_S) -> str:
        """The first line from `start` on that matches."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            for line in self.lines[start:]:
                if re.search(pattern, line):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in\n" + "\n".join(self.lines[-30:]))

    def wait(self) -> int:
        """Its exit code, when it has ended and all its lines are there."""
        code = self.child.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.child.kill()
        self.child.wait()


class Bench:
    """A device, a policy and loops on it."""

    def __init__(self, folder: Path, rate_hz: float = 100.0):
        self.folder = folder
        self.policy = write_policy(folder / "student.onnx")
        self.device = Process(str(ROOT / "tests" / "loop_device.py"), str(rate_hz), "hip_3200g", str(folder))
        self.device.wait_for("^port ")
        self.processes = [self.device]

    def loop(self, *options: str, module: str = "runtime.exo_loop") -> Process:
        """A loop on this device."""
        usual = ["--policy", str(self.policy), "--port", str(self.folder / "port"), "--wearer-mass", "75"]
        usual += ["--torque-scale", "1", "--soft-start", "1", "--log", str(self.folder / "log")]
        process = Process("-m", module, *usual, *options)
        self.processes.append(process)
        return process

    def recording(self) -> Recording:
        """The newest recording."""
        return load_recording(max((self.folder / "log").iterdir()))

    # What the controller said.

    def said(self, what: str) -> np.ndarray:
        """(n, 3): time in s and the two numbers of every line of one kind."""
        lines = [line.split() for line in list(self.device.lines) if f" {what} " in line]
        return np.array([[float(words[0]), float(words[2]), float(words[3])] for words in lines]).reshape(-1, 3)

    def state(self) -> tuple[int, int]:
        """State and latch reason the controller reported last."""
        return tuple(int(number) for number in self.said("state")[-1, 1:])

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """A busy machine may keep the device waiting, so nothing is asked of it at once."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"never {what}\n" + "\n".join(self.device.lines[-10:])
            time.sleep(0.02)

    def wait_latched(self) -> LatchReason:
        """The controller has latched and its torque is zero; why."""
        self.wait_until(lambda: self.state()[0] == ControllerState.LATCHED, "latched")
        self.wait_until(lambda: not self.said("torque")[-1, 1:].any(), "at zero")
        return LatchReason(self.state()[1])

    # People.

    def assisted(self, loop: Process, start: int = 0) -> None:
        """Full torque that the wearer feels; armed again by hand as often as the machine held a process up."""
        for _ in range(ATTEMPTS):
            line = loop.wait_for("full torque|fault  ", start)
            if "full torque" in line:
                felt = len(self.said("torque"))
                patient_s = time.monotonic() + 2.0  # over twice a stride
                while time.monotonic() < patient_s:
                    if np.abs(self.said("torque")[max(0, felt - 50) :, 1:]).max(initial=0.0) > 5.0:
                        return
                    time.sleep(0.02)
                fault = [text for text in loop.lines[start:] if "fault  " in text]
                assert fault, "no torque\n" + "\n".join(loop.lines[-30:])
                line = fault[-1]
            assert re.search(HELD_UP, line), line
            start = len(loop.lines)
            self.reset_and_arm(loop)
        raise AssertionError("this machine is too busy for a 50 ms watchdog\n" + "\n".join(loop.lines[-30:]))

    def reset_and_arm(self, loop: Process) -> None:
        """What a person types after a fault."""
        start = len(loop.lines)
        loop.tell("reset")
        loop.wait_for("ready ", start)
        loop.tell("arm")

    def provoke(self, loop: Process, harm: str, words: str) -> None:
        """The device comes to harm while it assists; the loop's fault says `words`, and not that it was held up."""
        for _ in range(ATTEMPTS):
            start = len(loop.lines)
            self.device.tell(harm)
            line = loop.wait_for("fault  ", start)
            if re.search(words, line):
                return
            assert re.search(HELD_UP, line), line
            time.sleep(0.5)  # until the harm is over
            start = len(loop.lines)
            self.reset_and_arm(loop)
            self.assisted(loop, start)
        raise AssertionError(f"never {words!r}\n" + "\n".join(loop.lines[-30:]))

    # Promises.

    def check_faults_are_stalls(self) -> None:
        """The loop had no fault but such as the recording shows the reason of: somebody was held up just before.

        Held up is a gap of more than `GAP_S` between the frames as they were taken (the device was), or as they were
        read (the loop was): the time to live less two sample periods.
        """
        _, rows, events = self.recording()
        read_s = rows["host_time_s"]
        taken_s = read_s[0] + 1e-6 * (rows["device_time_us"] - rows["device_time_us"][0])
        gaps = np.concatenate([times[1:][np.diff(times) > GAP_S] for times in (read_s, taken_s)])
        for event in events:
            if event["kind"] == "stage" and event["stage"] == "FAULT":
                assert re.search(HELD_UP, event["text"]), event
                assert np.any(np.abs(gaps - event["time_s"]) < 0.3), (event, gaps)

    def check_host_stop(self, wanted: StopReason) -> None:
        """The stop frame arrived and latched the controller, unless the command had already outlived its time."""
        latched_by = self.wait_latched()
        self.wait_until(lambda: len(self.said("stop")) > 0, "stopped by the host")
        _, reason, age_ms = self.said("stop")[-1]
        assert reason == wanted
        if latched_by != LatchReason.HOST_STOP:
            assert latched_by == LatchReason.WATCHDOG and age_ms >= 1e3 * TTL_S, (latched_by, age_ms)

    def check_zero_after(self, moment_s: float) -> None:
        """From `moment_s` plus the time to live on the torque is zero and stays so, by the device's own clock.

        `moment_s` is when the host had ended for sure. A test device that was itself held up since then has said so,
        and gets that much longer.
        """
        self.wait_until(lambda: not self.said("torque")[-1, 1:].any(), "at zero")
        time.sleep(0.3)
        torques, held = self.said("torque"), self.said("held")
        allowed_s = TTL_S + 1e-3 * held[held[:, 0] > moment_s, 1].sum()
        late = torques[torques[:, 0] > moment_s + allowed_s]
        assert not late[:, 1:].any(), late
        assert not torques[-1, 1:].any()
