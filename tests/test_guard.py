"""Every row of the safety table that the host answers for, driven frame by frame; and what no input may ever do."""

import copy
import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
from guard_rig import LIMITS, Rig, config, walking_gyro
from hypothesis import given, settings
from hypothesis import strategies as st

from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from runtime.commission import Commissioning
from runtime.feed import SampleFeed, window_rows
from runtime.guard import Guard
from runtime.messages import LONGEST_ANSWER_US, LatchReason, Sensor, SensorFlag
from runtime.stages import MOVING, Stage
from runtime.walking import WalkingDetector


@functools.cache
def _active() -> Rig:
    return Rig().active()


def active_rig() -> Rig:
    """A rig in ACTIVE: a copy, because getting there takes a thousand frames."""
    return copy.deepcopy(_active())


# The way to torque.


def test_the_whole_way_from_boot_to_active():
    rig = Rig().active()
    stages = [event.stage for event in rig.guard.events]
    order = [Stage.LINK, Stage.CALIBRATE, Stage.COMMISSION, Stage.READY, Stage.RAMP, Stage.ACTIVE]
    assert [s for i, s in enumerate(stages) if i == 0 or s != stages[i - 1]] == order
    assert rig.applied == pytest.approx((15.0, -15.0))


def test_bias_is_taken_off():
    rig = Rig(bias=(0.08, -0.05)).ready()
    assert rig.guard.bias == pytest.approx((0.08, -0.05), abs=0.002)
    seen = rig.send(rig.frame((1.0, -1.0)))
    assert seen.values == pytest.approx((1.0, -1.0), abs=0.03)


def test_nobody_calibrates_while_moving_or_with_a_broken_sensor():
    rig = Rig()
    rig.walk(5.0)
    assert rig.stage == Stage.CALIBRATE and "stand still" in rig.guard.hint
    broken = Rig(bias=(0.0, 0.6))
    broken.stand(5.0)
    assert broken.stage == Stage.CALIBRATE and "left gyroscope reads +0.60" in broken.guard.hint


def test_no_torque_before_arming_whatever_the_policy_wants():
    rig = Rig().ready()
    rig.walk(6.0)
    assert rig.stage == Stage.READY
    assert set(rig.torques) == {(0.0, 0.0)}


def test_arming_is_refused_before_ready():
    rig = Rig()
    assert "stand still" in rig.guard.arm(rig.host_s)
    assert not rig.guard.armed


def test_arming_alone_moves_nothing_and_walking_raises_the_gain_steadily():
    rig = Rig().ready()
    rig.guard.arm(rig.host_s)
    rig.stand(3.0)
    assert rig.stage == Stage.READY and rig.applied == (0.0, 0.0)
    gains = []
    for i in range(800):
        rig.send(rig.frame(walking_gyro(i * rig.period_s)))
        gains.append(rig.decision.gain)
    assert all(b >= a for a, b in itertools.pairwise(gains)) and gains[-1] == 1.0
    assert 0.9 <= sum(0.0 < gain < 1.0 for gain in gains) * rig.period_s <= 1.1


def test_the_window_must_be_full_of_this_walk():
    rig = Rig(window=600).ready()
    rig.guard.arm(rig.host_s)
    rig.sequence += 50
    rig.walk(5.5)
    assert rig.stage == Stage.READY
    rig.walk(1.0)
    assert rig.stage in (Stage.RAMP, Stage.ACTIVE)


def test_a_controller_that_does_not_arm_is_a_fault():
    rig = Rig().ready()
    rig.guard.arm(rig.host_s)
    for _ in range(60):
        rig.send(rig.frame(latch_reason=LatchReason.WATCHDOG), answer=False)
        rig.guard.decide(rig.host_s, rig.student)
    assert rig.stage == Stage.FAULT and "did not arm" in rig.guard.reason


def test_scale_is_zero_until_set_and_bounded():
    rig = Rig(torque_scale=0.0).active()
    assert set(rig.torques) == {(0.0, 0.0)}
    for scale in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="torque scale"):
            config(torque_scale=scale)


def test_a_dry_run_walks_through_everything_and_sends_zero():
    rig = Rig(dry_run=True, skip_commissioning=True)
    rig.stand()
    assert rig.stage == Stage.READY
    rig.guard.arm(rig.host_s)
    rig.walk(8.0)
    assert rig.stage == Stage.ACTIVE and not rig.guard.wants_arm
    assert set(rig.torques) == {(0.0, 0.0)}
    assert rig.decision.intent_nm == pytest.approx((15.0, -15.0))


def test_commissioning_cannot_be_skipped_for_real():
    with pytest.raises(UserError, match="dry run only"):
        config(skip_commissioning=True)


# Commissioning: right is right and plus is plus.


@pytest.mark.parametrize(
    ("wiring", "words"),
    [
        (lambda r, left: (left, r), "swapped sides"),
        (lambda r, left: (-r, left), "flipped sign: the right"),
        (lambda r, left: (-r, -left), "flipped sign"),
        (lambda r, left: (-left, -r), "swapped sides"),
    ],
)
def test_wrong_wiring_is_found_before_arming(wiring, words):
    rig = Rig(wiring=wiring)
    rig.stand()
    rig.lift(0)
    assert rig.stage == Stage.FAULT and words in rig.guard.reason
    assert "reset" in rig.guard.arm(rig.host_s)
    assert rig.guard.reset(rig.host_s) is None and rig.stage == Stage.CALIBRATE


def test_a_left_sensor_upside_down_is_found_at_the_left_lift():
    rig = Rig(wiring=lambda r, left: (r, -left))
    rig.stand()
    rig.lift(0)
    assert rig.stage == Stage.COMMISSION
    rig.lift(1)
    assert rig.stage == Stage.FAULT and "flipped sign: the left" in rig.guard.reason


@pytest.mark.parametrize("motion", [lambda t: (2.0 * math.sin(6.0 * t), 2.0 * math.sin(6.0 * t)), lambda t: (0.1, 0.0)])
def test_sitting_down_or_swaying_proves_nothing(motion):
    rig = Rig()
    rig.stand()
    rig.play(2.0, motion)
    assert rig.guard.commissioning.expected == "right" and not rig.guard.commissioning.done


def test_lifts_count_only_one_side_after_the_other():
    commissioning = Commissioning(100.0)
    assert commissioning.expected == "right"
    for rate in [2.0] * 30 + [-2.0] * 30 + [0.0] * 40:
        commissioning.update(rate, 0.0)
    assert commissioning.expected == "left" and not commissioning.done


# Limits.

ANY = st.floats(allow_nan=True, allow_infinity=True)
PAIR = st.tuples(ANY, ANY)


@given(
    outputs=st.lists(PAIR, min_size=1, max_size=30),
    late=st.lists(st.integers(0, 40), max_size=30),
    answered=st.lists(st.integers(0, LONGEST_ANSWER_US), max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_torque_and_its_rate_hold_for_any_policy_output_and_late_ticks(outputs, late, answered):
    rig = active_rig()
    for i, output in enumerate(outputs):
        rig.student = output
        rig.host_s += 1e-3 * (late[i] if i < len(late) else 0)
        before = rig.applied
        after_us = answered[i] if i < len(answered) else 0
        answer_s = rig.period_s + min(1e-6 * after_us, rig.period_s)  # a device cannot ask for more than two periods
        rig.send(rig.frame(walking_gyro(8.0 + i * rig.period_s), applied_after_us=after_us))
        assert max(map(abs, rig.applied)) <= LIMITS.limit_nm
        step = max(abs(a - b) for a, b in zip(rig.applied, before, strict=True))
        assert step <= LIMITS.rate_limit_nm_s * answer_s + 1e-9 or rig.stage == Stage.FAULT
    if not np.all(np.isfinite(outputs)):
        assert rig.stage == Stage.FAULT and rig.applied == (0.0, 0.0)


@pytest.mark.parametrize("mass_kg", [30.0, 60.0, 150.0])
def test_the_limit_is_the_smaller_of_the_wearers_and_the_devices(mass_kg):
    profile = DeviceProfile.load("hip_3200g")
    limits = profile.limits(mass_kg)
    wanted = min(profile.torque.limit_nm_per_kg * mass_kg, profile.torque.limit_nm)
    rig = Rig(limits=limits, wearer_mass_kg=mass_kg).active()
    rig.student = (9.0, -9.0)
    rig.walk(1.0)
    largest = np.abs(rig.torques).max()
    assert largest == pytest.approx(wanted) and {30.0: 7.5, 60.0: 15.0, 150.0: 18.0}[mass_kg] == wanted


def test_the_rate_counts_from_what_the_device_applied():
    rig = active_rig()
    rig.student = (0.2, 0.2)
    rig.send(rig.frame(walking_gyro(8.0), applied_torque_nm=(3.0, -4.0)))
    assert rig.applied == pytest.approx((4.5, -2.5))


def test_power_is_limited_where_the_velocity_is_known():
    rig = active_rig()
    for t in (8.0, 8.01):  # twice: the first time the hip still speeds up
        rig.send(rig.frame(walking_gyro(t), applied_torque_nm=(9.0, -9.0), joint_velocity_rad_s=(10.0, math.nan)))
    assert rig.applied == pytest.approx((8.0, -10.5))


def test_power_is_limited_for_the_velocity_that_the_torque_will_meet():
    rig = active_rig()
    rig.student = (0.2, 0.2)
    rig.guard.config = dataclasses.replace(rig.guard.config, limits=rig.guard.config.limits._replace(lag_s=0.03))
    rig.send(rig.frame(walking_gyro(8.0), applied_torque_nm=(9.0, 9.0), joint_velocity_rad_s=(5.0, 5.0)))
    rig.send(rig.frame(walking_gyro(8.01), applied_torque_nm=(9.0, 9.0), joint_velocity_rad_s=(6.0, 4.0)))
    assert rig.applied[0] == pytest.approx(80.0 / 10.0)  # 100 rad/s² for 10 ms of an answer and 30 ms of lag
    assert rig.applied[1] == pytest.approx(10.5)  # a hip that slows down is not limited


def test_a_device_that_applies_too_much_is_stopped_at_once():
    rig = active_rig()
    for _ in range(3):
        rig.send(rig.frame(walking_gyro(8.0), applied_torque_nm=(30.0, 0.0)))
    assert rig.stage == Stage.FAULT and rig.guard.immediate_stop and rig.applied == (0.0, 0.0)


# Stale, lost, late, frozen.


def test_one_or_two_lost_samples_are_bridged():
    rig = active_rig()
    rig.lose(2)
    seen = rig.send(rig.frame(walking_gyro(8.03)))
    assert seen.rows == 3 and not seen.flush and rig.stage == Stage.ACTIVE


def test_three_lost_samples_flush_the_window_and_stop_softly():
    rig = active_rig()
    rig.lose(3)
    seen = rig.send(rig.frame(walking_gyro(8.04)))
    assert seen.flush and rig.stage == Stage.SOFT_STOP
    rig.walk(0.5)
    assert rig.stage == Stage.READY and rig.applied == (0.0, 0.0) and rig.guard.armed


def test_silence_ramps_down_then_faults_within_100_ms_or_so():
    rig = active_rig()
    stages, torques = [], []
    for _ in range(12):
        rig.lose(1)
        stages.append(rig.stage)
        torques.append(abs(rig.applied[0]))
    assert stages[2] == Stage.ACTIVE and stages[3] == Stage.SOFT_STOP and stages[11] == Stage.FAULT
    assert torques[9] < torques[3] and torques[11] == 0.0


def test_frozen_values_are_stale_although_frames_arrive():
    rig = active_rig()
    frozen = rig.frame(walking_gyro(8.0)).gyro_rad_s
    stages = []
    for _ in range(14):
        rig.send(rig.frame(gyro_rad_s=frozen))
        stages.append(rig.stage)
    assert stages[2] == Stage.ACTIVE and stages[5] == Stage.SOFT_STOP and stages[-1] == Stage.FAULT
    assert "not changed" in rig.guard.reason


def test_one_frozen_side_is_enough():
    rig = active_rig()
    stuck = rig.frame(walking_gyro(8.0)).gyro_rad_s[0]
    for i in range(14):
        frame = rig.frame(walking_gyro(8.0 + 0.01 * i))
        rig.send(frame._replace(gyro_rad_s=(stuck, frame.gyro_rad_s[1])))
    assert rig.stage == Stage.FAULT


def test_duplicates_and_old_frames_are_counted_and_not_used():
    rig = active_rig()
    frame = rig.frame(walking_gyro(8.0))
    assert rig.send(frame).rows == 1
    assert not rig.send(frame, answer=False).fresh
    assert not rig.send(frame._replace(sequence=frame.sequence - 5), answer=False).fresh
    assert (rig.guard.feed.duplicates, rig.guard.feed.old) == (1, 1)


def test_a_device_clock_that_stands_still_is_stale():
    rig = active_rig()
    stuck = rig.frame(walking_gyro(8.0)).device_time_us
    for i in range(13):
        rig.send(rig.frame(walking_gyro(8.0 + 0.01 * i), device_time_us=stuck))
    assert rig.stage == Stage.FAULT and rig.guard.feed.stalled >= 9


def test_a_backlog_is_stale_although_every_frame_is_new():
    rig = active_rig()
    for i in range(30):
        rig.host_s += 0.005
        rig.send(rig.frame(walking_gyro(8.0 + 0.01 * i)))
    assert rig.stage == Stage.FAULT and "no fresh sensor sample" in rig.guard.reason


def test_clocks_that_differ_by_a_third_of_a_percent_are_not_a_delay():
    rig = active_rig()
    for i in range(3000):
        rig.host_s += 0.003 * rig.period_s
        rig.send(rig.frame(walking_gyro(8.0 + 0.01 * i)))
    assert rig.stage == Stage.ACTIVE


def test_a_program_that_was_held_up_faults_and_sends_nothing_from_the_backlog():
    rig = active_rig()
    backlog = [rig.frame(walking_gyro(8.0 + 0.01 * i)) for i in range(50)]
    for frame in backlog:
        rig.send(frame)
        assert rig.applied == (0.0, 0.0)
    assert rig.stage == Stage.FAULT and "held up" in rig.guard.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 40.0])
def test_a_value_that_is_no_measurement_never_reaches_the_window(value):
    rig = active_rig()
    seen = rig.send(rig.frame(gyro_rad_s=(value, 0.0)))
    assert seen.rows == 0 and seen.values == () and rig.guard.rejected == 1
    for _ in range(15):
        rig.send(rig.frame(gyro_rad_s=(value, 0.0)))
        assert max(map(abs, rig.applied)) <= LIMITS.limit_nm
    assert rig.stage == Stage.FAULT


@pytest.mark.parametrize(("device_hz", "expected"), [(100.0, 1), (200.0, 2), (500.0, 5)])
def test_a_faster_device_is_decimated_evenly(device_hz, expected):
    feed = SampleFeed(device_hz, 100.0)
    rng = np.random.default_rng(1)
    times = [round(1e6 * (i + rng.uniform(-0.2, 0.2)) / device_hz) for i in range(1, 2001)]
    rows = [feed.push(i, t).rows for i, t in enumerate(times)]
    kept = np.flatnonzero(rows)
    assert max(rows) == 1 and np.all(np.diff(kept) == expected)


def test_missing_rows_lie_on_the_line():
    rows = window_rows(np.array([0.0, 3.0]), np.array([3.0, 0.0]), 3)
    np.testing.assert_allclose(rows, [[1.0, 2.0], [2.0, 1.0], [3.0, 0.0]])
    assert len(window_rows(None, np.zeros(2), 3)) == 1 and window_rows(None, np.zeros(2), 0) == []


def test_sequence_numbers_wrap():
    feed = SampleFeed(100.0, 100.0)
    feed.push(0xFFFFFFFF, 10_000)
    assert feed.push(0, 20_000) == (1, False, True, 0)


# Faults latch.


@pytest.mark.parametrize(
    ("flag", "words", "immediate"),
    [
        (SensorFlag.EMERGENCY_STOP, "emergency stop", True),
        (SensorFlag.DRIVER_FAULT, "motor driver", False),
        (SensorFlag.OVER_TEMPERATURE, "too hot", False),
    ],
)
def test_device_faults_stop_at_once_and_persist_while_present(flag, words, immediate):
    rig = active_rig()
    rig.flags |= flag
    rig.send(rig.frame(walking_gyro(8.0)))
    assert rig.stage == Stage.FAULT and rig.applied == (0.0, 0.0)
    assert words in rig.guard.reason and rig.guard.immediate_stop == immediate
    assert "persists" in rig.guard.reset(rig.host_s)
    rig.flags &= ~flag
    rig.send(rig.frame())
    assert rig.guard.reset(rig.host_s) is None and rig.stage == Stage.READY and not rig.guard.armed


def test_a_controller_that_latches_is_believed():
    rig = active_rig()
    rig.flags = int(SensorFlag.LATCHED)
    rig.send(rig.frame(walking_gyro(8.0), latch_reason=LatchReason.WATCHDOG))
    assert rig.stage == Stage.FAULT and "time to live" in rig.guard.reason


def test_after_a_fault_torque_starts_at_zero_and_only_by_hand():
    rig = active_rig()
    rig.guard.fault(rig.host_s, "test")
    rig.walk(4.0)
    assert rig.stage == Stage.FAULT
    rig.guard.reset(rig.host_s)
    rig.walk(4.0)
    assert rig.stage == Stage.READY and rig.applied == (0.0, 0.0)
    rig.guard.arm(rig.host_s)
    rig.send(rig.frame(walking_gyro(0.0)))
    rig.send(rig.frame(walking_gyro(0.01)))
    assert max(map(abs, rig.applied)) < 0.5


def test_after_an_unplug_everything_is_proved_again():
    rig = active_rig()
    rig.guard.link_lost(rig.host_s, "the cable was pulled")
    assert rig.stage == Stage.FAULT
    rig.guard.linked(rig.host_s, 100.0)
    assert rig.stage == Stage.FAULT and rig.guard.reason == "the cable was pulled"
    rig.guard.reset(rig.host_s)
    assert rig.stage == Stage.CALIBRATE
    rig.ready()


def test_disarming_goes_softly_to_zero():
    rig = active_rig()
    rig.guard.disarm(rig.host_s)
    rig.walk(0.5)
    assert rig.stage == Stage.READY and not rig.guard.armed and rig.applied == (0.0, 0.0)
    steps = np.abs(np.diff(np.array(rig.torques[-51:]), axis=0))
    assert steps.max() <= LIMITS.rate_limit_nm_s * rig.period_s + 1e-9


# Is the wearer walking?


def detector(motion, seconds: float, start: bool = False) -> list[bool]:
    """The verdict row by row, at 100 Hz; `start` puts 6 s of walking before."""
    walking = WalkingDetector(100.0)
    for i in range(600 if start else 0):
        walking.update(*walking_gyro(i * 0.01))
    return [walking.update(*motion(i * 0.01)) for i in range(round(seconds * 100))]


@pytest.mark.parametrize("stride_s", [0.8, 1.1, 1.5])
@pytest.mark.parametrize("size", [0.7, 1.0, 1.5])
def test_walking_is_seen_within_four_strides_and_kept(stride_s, size):
    verdicts = detector(lambda t: walking_gyro(t, stride_s, size), 20.0)
    assert all(verdicts[round(4 * stride_s * 100) :])


def jolted_gyro(t: float) -> tuple[float, float]:
    """Steps whose heel strikes throw the thigh back and forth once more, as a hard landing does."""

    def thigh(phase: float) -> float:
        if 0.48 <= phase < 0.54:
            return -1.6
        return 3.0 if 0.54 <= phase < 0.60 else 2.5 * math.sin(2.0 * math.pi * phase)

    return thigh(t / 1.1 % 1.0), thigh((t / 1.1 + 0.5) % 1.0)


def test_a_hard_heel_strike_is_no_swing():
    assert all(detector(jolted_gyro, 20.0)[500:])


@pytest.mark.parametrize(
    "motion",
    [
        lambda t: (0.0, 0.0),
        lambda t: (0.2 * math.sin(3.0 * t), 0.2 * math.cos(2.0 * t)),
        lambda t: walking_gyro(t, 1.2, 0.2),
        lambda t: (walking_gyro(t)[0],) * 2,
        lambda t: (walking_gyro(t)[0], -walking_gyro(t)[1]),
        lambda t: (walking_gyro(t)[0], 0.0),
        lambda t: walking_gyro(t, 0.3),
        lambda t: walking_gyro(t, 2.6),
        lambda t: (3.0 * math.exp(-((t - 2.0) ** 2) * 8.0), 3.0 * math.exp(-((t - 2.0) ** 2) * 8.0)),
    ],
    ids=["stand", "sway", "shuffle", "hop", "left upside down", "one leg", "tremble", "slow motion", "sit down"],
)
def test_what_is_not_walking(motion):
    assert not any(detector(motion, 15.0))


def test_small_steps_keep_walking_up_but_do_not_start_it():
    small = functools.partial(walking_gyro, size=0.3)
    assert not any(detector(small, 15.0)) and all(detector(lambda t: small(6.0 + t), 15.0, start=True))


def test_standing_still_ends_walking_within_a_second():
    assert not any(detector(lambda t: (0.0, 0.0), 3.0, start=True)[80:])


def test_a_stumble_ends_walking():
    rng = np.random.default_rng(3)
    jolts = rng.normal(0.0, 5.0, (300, 2))
    verdicts = detector(lambda t: tuple(jolts[round(t * 100)]), 2.9, start=True)
    assert not verdicts[-1]


def test_torque_goes_when_the_wearer_stops():
    rig = active_rig()
    rig.stand(2.0)
    assert rig.stage == Stage.READY and rig.applied == (0.0, 0.0) and rig.guard.armed
    rig.walk(8.0)
    assert rig.stage == Stage.ACTIVE


# Whatever comes.

REQUESTS = st.sampled_from(["arm", "disarm", "reset", "fault", "unplug", "plug", "tick", "lose", "walk", "stand"])
FRAMES = st.tuples(PAIR, PAIR, st.integers(0, 127), st.integers(0, 2**32 - 1), st.integers(0, 2**40))


@given(st.lists(st.one_of(REQUESTS, FRAMES, PAIR), max_size=40), st.booleans())
@settings(max_examples=120, deadline=None)
def test_no_input_exceeds_a_limit_or_leaves_a_fault_by_itself(inputs, started):
    rig = active_rig() if started else Rig()
    guard = rig.guard
    for item in inputs:
        before, armed = rig.stage, guard.armed
        if isinstance(item, str):
            request(rig, item)
        elif len(item) == 2:
            rig.student = item
            rig.send(rig.frame())
        else:
            gyro, applied, flags, sequence, time_us = item
            rig.send(Sensor(sequence, time_us, gyro, applied, flags=flags, joint_velocity_rad_s=applied))
        assert max(map(abs, rig.applied)) <= LIMITS.limit_nm
        assert rig.applied == (0.0, 0.0) or rig.stage in MOVING
        if before == Stage.FAULT:
            assert rig.stage == Stage.FAULT or item == "reset"
        if guard.armed and not armed:
            assert item == "arm" and before == Stage.READY


def request(rig: Rig, name: str) -> None:
    """One thing a person, a cable or a scheduler does."""
    guard = rig.guard
    {
        "arm": lambda: guard.arm(rig.host_s),
        "disarm": lambda: guard.disarm(rig.host_s),
        "reset": lambda: guard.reset(rig.host_s),
        "fault": lambda: guard.fault(rig.host_s, "test"),
        "unplug": lambda: guard.link_lost(rig.host_s, "test"),
        "plug": lambda: guard.linked(rig.host_s, 100.0),
        "tick": lambda: guard.tick(rig.host_s),
        "lose": lambda: rig.lose(4),
        "walk": lambda: rig.walk(0.3),
        "stand": lambda: rig.stand(0.3),
    }[name]()
    if name != "lose":
        rig.applied = guard.decide(rig.host_s, None).torque_nm


def test_the_same_inputs_give_the_same_torque():
    first, second = Rig().active(), Rig().active()
    assert first.torques == second.torques


def test_boot_waits_for_the_policy():
    guard = Guard(config())
    assert guard.stage == Stage.BOOT and "policy" in guard.hint
    guard.booted(0.0)
    assert guard.stage == Stage.LINK and guard.decide(0.0, (1.0, 1.0)).torque_nm == (0.0, 0.0)
