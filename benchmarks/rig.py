"""A loop, a device and a policy as processes of their own, for the benchmarks that measure them from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FIRMWARE = ROOT / "runtime" / "firmware"
PROFILE = "hip_3200g"
WEARER_MASS_KG = 78.0
FIFO_PRIORITY = 50
START_S = 120.0  # patience with a busy machine
_UNTRAINED = """
import sys, jax
from mjx_exo.device import DeviceProfile
from policies.storage import save_student
from policies.student import StudentConfig, init_params
config = StudentConfig.for_profile(DeviceProfile.load(sys.argv[1]))
save_student(sys.argv[2], config, init_params(config, jax.random.key(0)))
"""


class Child:
    """A process whose lines are collected while it runs; `heed` is called with each."""

    def __init__(self, *command: str, real_time: bool = False, heed: Callable[[str], None] | None = None):
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            preexec_fn=_take_fifo if real_time else None,
        )  # fmt: skip
        self.lines: list[str] = []
        self._heed = heed
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if self._heed is not None:
                self._heed(self.lines[-1])

    def tell(self, text: str) -> None:
        """Types a line."""
        with contextlib.suppress(OSError):
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()

    def wait_for(self, beginning: str, patience_s: float = START_S) -> str:
        """The first line that begins so; raises UserError when the process ends or takes too long."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            for line in list(self.lines):
                if line.startswith(beginning):
                    return line
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        said = self.lines[-1] if self.lines else "nothing"
        raise UserError(f"{Path(self.process.args[0]).name} never said {beginning!r}; it said: {said}")

    def end(self, patience_s: float = 20.0) -> int:
        """Asks it to end, waits; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(patience_s)

    def wait(self, patience_s: float) -> int:
        """Waits for its end and its last lines; returns its exit code. Kills it when it does not end."""
        try:
            code = self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join(timeout=5.0)
        return code

    def rss_mib(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Person:
    """Reads the loop's lines and types what they ask for."""

    def __init__(self) -> None:
        self.loop: Child | None = None
        self.resets = self.arms = 0
        self._stage = ""

    def heed(self, line: str) -> None:
        """A line of the loop."""
        stage = re.match(r" *([a-z_]+)  ", line)
        if stage is not None:
            self._stage = "" if "armed, torque scale" in line else stage[1]

    def act(self) -> None:
        """Now and then: whatever is needed."""
        if self._stage == "fault":
            self.resets += 1
            self.loop.tell("reset")
        elif self._stage == "ready":
            self.arms += 1
            self.loop.tell("arm")


def fifo_permitted() -> bool:
    """Whether this user may run real-time processes; tried on a process that ends at once."""
    return subprocess.run(["true"], preexec_fn=_take_fifo_or_fail, check=False).returncode == 0


def untrained_policy(folder: Path) -> Path:
    """An exported student that nobody trained: the size and the work of a real one."""
    student, onnx = folder / "untrained", folder / "untrained.onnx"
    print("exporting an untrained student", flush=True)
    for command in (
        [sys.executable, "-c", _UNTRAINED, PROFILE, str(student)],
        [sys.executable, "-m", "export.to_onnx", str(student), "--out", str(onnx)],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise UserError(f"no student could be exported ({last}); give one with --policy")
    return onnx


def build_firmware(folder: Path) -> Path:
    """The C reference as a program, without sanitizers: it is timed."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise UserError("--peer c needs a C compiler; there is none")
    program = folder / "host_device"
    sources = [str(FIRMWARE / f"{name}.c") for name in ("host_device", "exo_protocol", "exo_controller")]
    subprocess.run([compiler, "-std=c99", "-O2", *sources, "-o", str(program)], check=True)
    return program


def c_device(program: Path, rate_hz: float, real_time: bool, echo: bool = False) -> Child:
    """The C reference behind a pty; its first line is `port PATH`."""
    profile = DeviceProfile.load(PROFILE)
    digest = "echo" if echo else profile.profile_hash()
    torque = profile.torque
    numbers = [f"{x:g}" for x in (torque.limit_nm, torque.rate_limit_nm_s, profile.link.time_to_live_ms)]
    return Child(str(program), f"{rate_hz:g}", PROFILE, digest, *numbers, real_time=real_time)


def virtual_device(folder: Path, rate_hz: float, real_time: bool, *options: str) -> Child:
    """The virtual device, with a scripted wearer unless `options` name a teacher; leaves `device.json` in `folder`."""
    who = [] if "--teacher" in options else ["--scripted"]
    scheduling = [] if real_time else ["--no-real-time"]
    return Child(
        sys.executable, "-m", "runtime.virtual_exo", *who, "--profile", PROFILE, "--rate", f"{rate_hz:g}",
        "--port-link", str(folder / "port"), "--json", str(folder / "device.json"), *scheduling, *options,
    )  # fmt: skip


def start_loop(
    policy: Path, port: str, rate_hz: float, seconds: float, log: Path, real_time: bool, *options: str,
    heed: Callable[[str], None] | None = None, mass_kg: float = WEARER_MASS_KG,
) -> Child:  # fmt: skip
    """`runtime.exo_loop`, armed as soon as it is ready."""
    scheduling = [] if real_time else ["--no-real-time"]
    return Child(
        sys.executable, "-m", "runtime.exo_loop", "--policy", str(policy), "--port", port, "--rate", f"{rate_hz:g}",
        "--wearer-mass", f"{mass_kg:g}", "--torque-scale", "1", "--arm", "--duration", f"{seconds:g}", "--log",
        str(log), *scheduling, *options, heed=heed,
    )  # fmt: skip


def summary_of(recording: Path, folder: Path) -> dict[str, Any]:
    """The loop's summary; paths in `folder`, which is gone after the run, begin with DIR."""
    return json.loads((recording / "summary.json").read_text().replace(str(folder), "DIR"))


def _take_fifo() -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))


def _take_fifo_or_fail() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
    except OSError:
        os._exit(1)
