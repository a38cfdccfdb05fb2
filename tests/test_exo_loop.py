"""The loop as people run it: a process on a port, with a controller and a wearer on the other side.

What is about processes is done to processes: killed, stopped, continued, unplugged. Times are those of the safety
promises (the controller's time to live) or generous.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_policy import torque_of, write_policy

from mjx_exo.device import DeviceProfile
from runtime.feed import window_rows
from runtime.messages import ControllerState, LatchReason
from runtime.policy import Policy
from runtime.recorder import load_recording
from runtime.settings import Settings, guard_config
from runtime.stages import Stage
from runtime.wishes import Wishes, parse_walk

# A controller latches after 50 ms without a command, and is right to do so when a shared machine holds the loop up for
# longer. Such a test is run again; what is broken fails three times.
pytestmark = pytest.mark.flaky(reruns=2)

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


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
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.child.stdout:
            self.lines.append(line.rstrip())

    def tell(self, command: str) -> None:
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()

    def wait_for(self, pattern: str, start: int = 0) -> str:
        """The first line from `start` on that matches."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for line in self.lines[start:]:
                if re.search(pattern, line):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in\n" + "\n".join(self.lines[-30:]))

    def wait(self) -> int:
        code = self.child.wait(PATIENCE_S)
        time.sleep(0.1)
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

    def recording(self):
        """The newest recording."""
        return load_recording(max((self.folder / "log").iterdir()))

    def state(self) -> tuple[int, int]:
        """State and latch reason the controller reported last."""
        return [tuple(map(int, line.split()[2:4])) for line in self.device.lines if " state " in line][-1]

    def torques(self) -> np.ndarray:
        """(n, 3): time in s, right, left in Nm."""
        lines = [line.split() for line in list(self.device.lines) if " torque " in line]
        return np.array([[float(words[0]), float(words[2]), float(words[3])] for words in lines]).reshape(-1, 3)

    def wait_for_torque(self) -> None:
        """The wearer feels something."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if np.abs(self.torques()[-50:, 1:]).max(initial=0.0) > 5.0:
                return
            time.sleep(0.05)
        raise AssertionError("no torque\n" + "\n".join(self.processes[-1].lines))

    def check_zero_within_the_time_to_live(self, moment_s: float) -> None:
        """After `moment_s` plus the time to live (and a slow test device's tick) the torque is zero and stays so."""
        time.sleep(0.3)
        torques = self.torques()
        late = torques[torques[:, 0] > moment_s + 0.05 + 0.05]
        assert not late[:, 1:].any()
        assert not torques[-1, 1:].any()


@pytest.fixture
def bench(tmp_path, request):
    bench = Bench(tmp_path, getattr(request, "param", 100.0))
    yield bench
    for process in bench.processes:
        process.end()


def test_a_session_from_greeting_to_table(bench):
    loop = bench.loop("--arm", "--duration", "12")
    assert loop.wait() == 0, loop.lines
    text = "\n".join(loop.lines)
    for words in ("RIGHT thigh", "LEFT thigh", "armed", "full torque", "0 unaccounted for", "faults +none"):
        assert re.search(words, text), text
    assert bench.state()[0] == ControllerState.DISARMED
    check_recording(bench)


def check_recording(bench: Bench) -> None:
    """The torque in the log is the policy on the samples in the log, within limits, and what the device applied."""
    header, rows, events = bench.recording()
    moving = rows[(rows["stage"] == Stage.ACTIVE) & (rows["answered"] == 1)]
    assert len(moving) > 100 and header["wearer_mass_kg"] == 75.0
    assert {"request", "stage", "end"} <= {event["kind"] for event in events}
    replayed = replay(rows, Policy.load(bench.policy, warm_up=0))
    both = np.isfinite(replayed[:, 0]) & (rows["inferred"] == 1)
    assert both.sum() > 500
    np.testing.assert_allclose(replayed[both, 0], rows["student_r"][both], atol=1e-5)
    np.testing.assert_allclose(replayed[both, 1], rows["student_l"][both], atol=1e-5)
    share = 75.0 * moving["gain"]
    np.testing.assert_allclose(moving["intent_r"], moving["student_r"] * share, atol=1e-4)
    assert np.abs(moving["torque_r"]).max() <= 18.0
    assert np.abs(moving["torque_r"] - moving["applied_r"]).max() <= 150.0 / 100.0 + 1e-4
    profile = DeviceProfile.load("hip_3200g")
    assert header["profile"] == profile.to_dict()
    assert header["contract"]["profile_hash"] == profile.profile_hash()


def replay(rows: np.ndarray, policy: Policy) -> np.ndarray:
    """(n, 2) torque in Nm/kg that the policy gives for a log's samples; NaN while the window fills."""
    torques, last = np.full((len(rows), 2), np.nan), None
    for i, row in enumerate(rows):
        if not row["rows"]:
            continue
        if row["flush"]:
            policy.flush()
            last = None
        new = np.array([row["gyro_r"], row["gyro_l"]])
        for sample in window_rows(last, new, int(row["rows"])):
            policy.push(sample)
        last = new
        if policy.full:
            torques[i] = policy.infer()
    return torques


@pytest.mark.parametrize("bench", [200.0], indirect=True)
def test_a_faster_device_is_decimated_and_every_frame_answered(bench):
    loop = bench.loop("--rate", "200", "--dry-run", "--skip-commissioning", "--duration", "4")
    assert loop.wait() == 0, loop.lines
    rows = bench.recording().rows
    answered = rows[rows["answered"] == 1]
    assert len(answered) > 0.9 * len(rows) > 500
    assert 0.45 < rows["rows"].sum() / len(rows) < 0.55
    assert not bench.torques()[:, 1:].any()


def test_a_device_at_another_rate_is_refused(bench):
    loop = bench.loop("--rate", "200")
    assert loop.wait() == 2
    assert "samples at 100 Hz" in loop.lines[-1]


def test_a_stopped_host_sends_nothing_from_its_backlog_and_needs_a_person(bench):
    loop = bench.loop("--arm")
    bench.wait_for_torque()
    moment_s = time.monotonic()
    loop.child.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    assert bench.state() == (ControllerState.LATCHED, LatchReason.WATCHDOG)
    bench.check_zero_within_the_time_to_live(moment_s)
    loop.child.send_signal(signal.SIGCONT)
    loop.wait_for("fault .*(held up|no fresh)")
    time.sleep(1.0)
    bench.check_zero_within_the_time_to_live(moment_s)
    start = len(loop.lines)
    loop.tell("arm")
    loop.wait_for("type 'reset' first", start)
    loop.tell("reset")
    loop.wait_for("ready .*fault reset", start)
    loop.tell("arm")
    loop.wait_for("full torque", start)
    loop.tell("disarm")
    loop.wait_for("torque is zero, disarmed", start)
    loop.tell("quit")
    assert loop.wait() == 0


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_an_ended_host_leaves_the_device_at_zero(bench, how):
    loop = bench.loop("--arm")
    bench.wait_for_torque()
    moment_s = time.monotonic()
    loop.child.send_signal(getattr(signal, how))
    code = loop.wait()
    bench.check_zero_within_the_time_to_live(moment_s)
    state, reason = bench.state()
    assert state == ControllerState.LATCHED
    if how == "SIGKILL":
        assert code == -signal.SIGKILL and reason == LatchReason.WATCHDOG
    else:
        assert code == 128 + getattr(signal, how) and reason == LatchReason.HOST_STOP
        assert f"by {how}" in "\n".join(loop.lines)
    assert len(bench.recording().rows) > 300


def test_an_exception_stops_the_device_first(bench):
    loop = bench.loop("--arm", module="crashing_loop")
    assert loop.wait() == 1
    assert bench.state() == (ControllerState.LATCHED, LatchReason.HOST_STOP)
    assert "exception: ZeroDivisionError" in "\n".join(loop.lines)
    assert not bench.torques()[-1, 1:].any()


def test_a_loop_that_computes_on_and_on_is_stopped_by_itself_and_by_the_controller(bench, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "SPIN", "1")
    loop = bench.loop("--arm", module="crashing_loop")
    loop.child.stdin.close()
    assert loop.wait() == 3
    assert re.search("computed for too long|held up|controller disarmed", "\n".join(loop.lines))
    assert bench.state()[0] == ControllerState.LATCHED and not bench.torques()[-1, 1:].any()


def test_unplugging_plugging_in_and_arming_again(bench):
    loop = bench.loop("--arm")
    bench.wait_for_torque()
    start = len(loop.lines)
    bench.device.tell("unplug 1")
    loop.wait_for("fault .*cable", start)
    loop.wait_for("the device is back; type 'reset'", start)
    time.sleep(0.5)
    assert not any("ramp" in line for line in loop.lines[start:])
    loop.tell("reset")
    loop.wait_for("lift your RIGHT thigh", start)
    loop.wait_for("ready .*sides and signs are right", start)
    loop.tell("arm")
    loop.wait_for("full torque", start)
    loop.tell("quit")
    assert loop.wait() == 0
    assert "1 reconnects" in "\n".join(loop.lines)


def test_every_harm_is_a_fault_that_a_person_has_to_reset(bench):
    loop = bench.loop("--arm")
    loop.wait_for("full torque")
    for harm, words in (
        ("drop 0.3", "no fresh sensor sample"),
        ("freeze 0.3", "not changed"),
        ("nan 0.3", "no fresh sensor sample"),
        ("corrupt 0.3", "no fresh sensor sample"),
    ):
        start = len(loop.lines)
        bench.device.tell(harm)
        loop.wait_for(f"fault .*({words}|controller disarmed)", start)
        time.sleep(0.4)
        assert bench.state()[0] == ControllerState.LATCHED and not bench.torques()[-1, 1:].any()
        loop.tell("reset")
        loop.wait_for("ready ", start)
        loop.tell("arm")
        loop.wait_for("full torque", start)
    loop.tell("quit")
    assert loop.wait() == 0


def test_a_fault_ends_a_loop_that_nobody_can_reset(bench):
    loop = bench.loop("--arm")
    loop.child.stdin.close()
    bench.wait_for_torque()
    bench.device.tell("estop 0.5")
    assert loop.wait() == 3
    assert "by a fault: the emergency stop is pressed" in "\n".join(loop.lines)
    assert bench.state() == (ControllerState.LATCHED, LatchReason.EMERGENCY_STOP)
    assert not bench.torques()[-1, 1:].any()


@pytest.mark.parametrize(("harm", "words"), [("swap", "swapped sides"), ("mirror", "flipped sign: the right")])
def test_wrong_wiring_is_found_before_arming(bench, harm, words):
    bench.device.tell(harm)
    loop = bench.loop("--arm")
    loop.wait_for(f"fault .*{words}")
    assert not bench.torques()[:, 1:].any()
    loop.tell("quit")
    loop.wait()


def test_a_walking_plan_is_read_or_refused():
    assert parse_walk("0.8:30,1.2@4")[0] == (0.8, 0.0, 30.0)
    assert parse_walk("0.8:30,1.2@-4")[1][1] == pytest.approx(-0.0698, abs=1e-4)


def test_wishes_follow_the_stages_and_the_plan():
    from guard_rig import Rig

    rig, wishes = Rig(), Wishes(parse_walk("0.8:2,1.2@4"))
    asked = []
    for _ in range(1200):
        request = wishes.next(rig.host_s, rig.guard)
        asked += [request] if request else []
        lifting = asked and asked[-1].kind in (2, 3)
        if request and lifting:
            rig.lift(asked[-1].kind - 2)
        rig.stand(0.01)
    kinds = [int(request.kind) for request in asked]
    assert kinds == [1, 2, 3, 0, 0, 0], "and once more, because nobody walks here"
    assert [asked[3].value, asked[4].value] == [0.8, 1.2] and asked[4].second > 0.0


def test_the_guards_limits_come_from_wearer_policy_and_profile(tmp_path):
    policy = Policy.load(write_policy(tmp_path / "student.onnx"), warm_up=0)
    config = guard_config(Settings(port="", wearer_mass_kg=50.0), policy, DeviceProfile.load("hip_3200g"))
    assert config.limits.limit_nm == pytest.approx(12.5) and config.torque_scale == 0.0
    windows = np.random.default_rng(0).normal(0, 50.0, (3, 32, 2)).astype(np.float32)
    assert np.abs(torque_of(windows, 0.25)).max() * 50.0 <= config.limits.limit_nm
