"""The loop as people run it: a process on a port, with a controller and a wearer on the other side.

What is about processes is done to processes: killed, stopped, continued, unplugged. Times are those of the safety
promises (the controller's time to live) or generous.
"""

from __future__ import annotations

import os
import re
import signal
import time

import numpy as np
import pytest
from loop_bench import ENVIRONMENT, HELD_UP, PATIENCE_S, Bench
from tiny_policy import torque_of, write_policy

from mjx_exo.device import DeviceProfile
from runtime.feed import window_rows
from runtime.messages import ControllerState, LatchReason, StopReason
from runtime.policy import Policy
from runtime.settings import Settings, guard_config
from runtime.stages import Stage
from runtime.wishes import Wishes, parse_walk

# A controller latches after 50 ms without a command, and is right to do so when a shared machine holds the loop up for
# longer. Such a test is run again; what is broken fails three times.
pytestmark = pytest.mark.flaky(reruns=2)


@pytest.fixture
def bench(tmp_path, request):
    bench = Bench(tmp_path, getattr(request, "param", 100.0))
    yield bench
    for process in bench.processes:
        process.end()


def test_a_session_from_greeting_to_table(bench):
    loop = bench.loop("--arm", "--duration", "17")  # room to be armed again
    bench.assisted(loop)
    assert loop.wait() == 0, loop.lines
    text = "\n".join(loop.lines)
    for words in ("RIGHT thigh", "LEFT thigh", "armed", "full torque", "0 unaccounted for", "after the time asked for"):
        assert re.search(words, text), text
    bench.check_faults_are_stalls()
    bench.wait_until(lambda: bench.state()[0] != ControllerState.ARMED, "disarmed")
    if re.search("faults +none", text):
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
    answer_s = 0.01 + np.minimum(1e-6 * moving["applied_after_us"], 0.01)
    assert np.all(np.abs(moving["torque_r"] - moving["applied_r"]) <= 150.0 * answer_s + 1e-4)
    assert 0.0 < np.median(moving["applied_after_us"]) < 10_000.0
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
    assert not bench.said("torque")[:, 1:].any()


def test_a_device_at_another_rate_is_refused(bench):
    loop = bench.loop("--rate", "200")
    assert loop.wait() == 2
    assert "samples at 100 Hz" in loop.lines[-1]


def test_a_stopped_host_sends_nothing_from_its_backlog_and_needs_a_person(bench):
    loop = bench.loop("--arm")
    bench.assisted(loop)
    loop.child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, loop.child.pid, os.WSTOPPED | os.WNOWAIT)
    moment_s = time.monotonic()
    assert bench.wait_latched() == LatchReason.WATCHDOG
    bench.check_zero_after(moment_s)
    time.sleep(0.5)  # samples pile up
    loop.child.send_signal(signal.SIGCONT)
    loop.wait_for("fault .*(held up|no fresh)")
    time.sleep(1.0)
    bench.check_zero_after(moment_s)
    start = len(loop.lines)
    loop.tell("arm")
    loop.wait_for("type 'reset' first", start)
    loop.tell("reset")
    loop.wait_for("ready .*fault reset", start)
    loop.tell("arm")
    bench.assisted(loop, start)
    loop.tell("disarm")
    loop.wait_for("torque is zero, disarmed", start)
    loop.tell("quit")
    assert loop.wait() == 0


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_an_ended_host_leaves_the_device_at_zero(bench, how):
    loop = bench.loop("--arm")
    bench.assisted(loop)
    loop.child.send_signal(getattr(signal, how))
    code = loop.child.wait(PATIENCE_S)
    bench.check_zero_after(time.monotonic())
    if how == "SIGKILL":
        assert code == -signal.SIGKILL and bench.wait_latched() == LatchReason.WATCHDOG
    else:
        bench.check_host_stop(StopReason.SIGNAL)
        assert loop.wait() == code == 128 + getattr(signal, how)
        assert f"by {how}" in "\n".join(loop.lines)
    assert len(bench.recording().rows) > 300


def test_an_exception_stops_the_device_first(bench):
    loop = bench.loop("--arm", module="crashing_loop")
    assert loop.wait() == 1
    bench.check_host_stop(StopReason.EXCEPTION)
    assert "exception: ZeroDivisionError" in "\n".join(loop.lines)


def test_a_loop_that_computes_on_and_on_is_stopped_by_itself_and_by_the_controller(bench, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "SPIN", "1")
    loop = bench.loop("--arm", module="crashing_loop")
    loop.child.stdin.close()
    assert loop.wait() == 3
    assert re.search("computed for too long|held up|controller disarmed", "\n".join(loop.lines))
    bench.wait_latched()


def test_unplugging_plugging_in_and_arming_again(bench):
    loop = bench.loop("--arm")
    bench.assisted(loop)
    start = len(loop.lines)
    bench.device.tell("unplug 1")
    loop.wait_for("the link is lost: .*look after cable", start)
    loop.wait_for(f"fault  .*(cable|{HELD_UP})", start)
    bench.wait_latched()
    loop.wait_for("the device is back; type 'reset'", start)
    time.sleep(0.5)
    assert not any("ramp" in line for line in loop.lines[start:])
    loop.tell("reset")
    loop.wait_for("lift your RIGHT thigh", start)
    loop.wait_for("ready .*sides and signs are right", start)
    start = len(loop.lines)
    loop.tell("arm")
    bench.assisted(loop, start)
    loop.tell("quit")
    assert loop.wait() == 0
    assert "1 reconnects" in "\n".join(loop.lines)


def test_every_harm_is_a_fault_that_a_person_has_to_reset(bench):
    loop = bench.loop("--arm")
    bench.assisted(loop)
    for harm, words in (
        ("drop 0.3", "no fresh sensor sample"),
        ("freeze 0.3", "not changed"),
        ("nan 0.3", "no fresh sensor sample"),
        ("corrupt 0.3", "no fresh sensor sample"),
    ):
        bench.provoke(loop, harm, words)
        bench.wait_latched()
        time.sleep(0.4)
        assert bench.state()[0] == ControllerState.LATCHED
        start = len(loop.lines)
        bench.reset_and_arm(loop)
        bench.assisted(loop, start)
    loop.tell("quit")
    assert loop.wait() == 0


def test_a_fault_ends_a_loop_that_nobody_can_reset(bench):
    loop = bench.loop("--arm")
    bench.assisted(loop)
    loop.child.stdin.close()
    bench.device.tell("estop 0.5")
    assert loop.wait() == 3
    assert "by a fault: the emergency stop is pressed" in "\n".join(loop.lines)
    assert bench.wait_latched() == LatchReason.EMERGENCY_STOP


@pytest.mark.parametrize(("harm", "words"), [("swap", "swapped sides"), ("mirror", "flipped sign: the right")])
def test_wrong_wiring_is_found_before_arming(bench, harm, words):
    bench.device.tell(harm)
    loop = bench.loop("--arm")
    loop.wait_for(f"fault .*{words}")
    assert not bench.said("torque")[:, 1:].any()
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
