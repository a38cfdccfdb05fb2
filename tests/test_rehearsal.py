"""The rehearsal of an answer: it goes the whole way, and nobody hears of it."""

import math

import pytest
from guard_rig import Rig, walking_gyro

from runtime.messages import SensorFlag
from runtime.rehearsal import Rehearsal
from runtime.stages import Stage

NAN_PAIR = (math.nan, math.nan)


def session(rehearsed: bool) -> tuple[Rig, Rehearsal]:
    """Standing, both lifts, arming and a walk, with a rehearsal before every frame or without one."""
    rig, rehearsal = Rig(), Rehearsal()

    def send(gyro) -> None:
        if rehearsed:
            rehearsal.run(rig.host_s, rig.student if rig.torques else NAN_PAIR, 1, 50)
        frame = rig.frame(gyro, flags=rig.flags)
        rig.send(frame)
        if rehearsed:
            rehearsal.prepare(rig.host_s, rig.guard, frame, rig.period_s)

    for _ in range(250):
        send((0.0, 0.0))
    for side in (0, 1):
        for i in range(140):
            rate = 2.25 * math.sin(2.0 * math.pi * i / 80) if i < 80 else 0.0
            send((rate, 0.0) if side == 0 else (0.0, rate))
    assert rig.stage == Stage.READY and rig.guard.arm(rig.host_s) is None
    for _ in range(900):
        send(walking_gyro(rig.host_s))
    return rig, rehearsal


def test_a_rehearsed_guard_decides_as_one_without_rehearsals():
    plain, _ = session(rehearsed=False)
    rehearsed, rehearsal = session(rehearsed=True)
    assert plain.stage == rehearsed.stage == Stage.ACTIVE
    assert rehearsed.torques == plain.torques and max(abs(t[0]) for t in plain.torques) > 5.0
    assert rehearsed.guard.feed.missed == rehearsed.guard.rejected == 0
    assert rehearsal.stage == Stage.ACTIVE  # it goes the way that the next answer will go


def test_a_rehearsal_follows_to_a_fault_and_is_forgotten_with_the_link():
    rig, rehearsal = session(rehearsed=True)
    frame = rig.frame(walking_gyro(rig.host_s), flags=rig.flags | SensorFlag.EMERGENCY_STOP)
    rig.send(frame)
    rig.host_s += 1.0
    rehearsal.prepare(rig.host_s, rig.guard, frame, rig.period_s)
    rehearsal.run(rig.host_s, rig.student, 1, 50)
    assert rehearsal.stage == rig.stage == Stage.FAULT
    reason = rig.guard.reason
    rehearsal.forget()
    rehearsal.run(rig.host_s, rig.student, 1, 50)
    assert rehearsal.stage is None and rig.guard.reason == reason


@pytest.mark.parametrize("student", [NAN_PAIR, (0.1, -0.1)])
def test_nothing_happens_before_the_first_frame(student):
    Rehearsal().run(0.0, student, 1, 50)
