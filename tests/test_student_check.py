"""What a student's figures mean, by hand: match with the teacher, benefit kept, targets, cells, assistive phase."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.errors import UserError
from mjx_exo.student_check import CheckConfig, cells_for, student_profile, summarise, targets_met
from mjx_exo.student_driving import _within, sensor_ranges
from mjx_exo.student_open_loop import OpenLoop, open_loop_on_norms, student_inputs, thigh_rates
from mjx_exo.student_trials import Trials, benefit, match, recording
from mjx_exo.teacher import PRETRAINED
from mjx_exo.walking.config import CommandConfig
from policies.storage import load_student

TICK_S = 0.01


def trials(student_gain: float = 0.8, seconds: float = 10.0, fall_s: float = math.inf) -> Trials:
    """One trial of made-up walking at one stride per second; the student does the teacher's torque, smaller."""
    t = np.arange(round(seconds / TICK_S))[:, None] * TICK_S
    phase = 2.0 * math.pi * (t + np.array([0.0, 0.5]))
    teacher = 0.1 * np.sin(phase)[:, None]
    load = 780.0 * (np.sin(phase) > -0.3)[:, None]
    steps = len(t) // 2
    return Trials(
        tick_s=TICK_S,
        body_mass_kg=np.array([78.0]),
        ticks=np.array([min(len(t), round(min(fall_s, seconds) / TICK_S))]),
        signals=np.cos(phase)[:, None],
        gyro=np.cos(phase)[:, None],
        teacher=teacher,
        student=student_gain * teacher,
        force_n=load,
        metabolic_w_kg=np.linspace(2.0, 4.0, steps)[:, None],
        speed_m_s=np.full((steps, 1), 1.3),
    )


def test_a_weaker_student_of_the_same_shape_is_told_by_its_amplitude():
    row = recording(trials(0.8), 0, 1.3, 0.0, "one")
    found = match([row])
    assert found.r_profile == pytest.approx(1.0, abs=1e-6) and found.r_raw == pytest.approx(1.0)
    assert found.amplitude_ratio == pytest.approx(0.8)
    assert found.rmse_nm_kg == pytest.approx(0.02 / math.sqrt(2), rel=0.01)
    assert found.rmse_profile_nm_kg == pytest.approx(0.02 / math.sqrt(2), rel=0.02)
    assert 12 <= len(found.strides[0]) <= 16
    assert match([recording(trials(-1.0), 0, 1.3, 0.0, "")]).r_profile == pytest.approx(-1.0, abs=1e-6)


def test_what_happened_after_a_fall_or_before_settling_does_not_count():
    fell = trials(fall_s=7.0)
    assert fell.fell[0]
    assert len(recording(fell, 0, 1.3, 0.0, "").time_s) == 500
    assert recording(trials(fall_s=4.0), 0, 1.3, 0.0, "") is None
    whole = trials()
    assert not whole.fell[0]
    assert whole.mean_after_settling(whole.metabolic_w_kg)[0] == pytest.approx(3.2, abs=0.01)
    assert np.isnan(trials(fall_s=1.0).mean_after_settling(whole.metabolic_w_kg)[0])


def test_nothing_walked_gives_nan_and_no_error():
    found = match([])
    assert math.isnan(found.r_profile) and math.isnan(found.r_raw) and found.as_dict()["strides"] == 0


def test_benefit_kept_is_the_share_of_what_the_teacher_saves_over_wearers_who_walked_three_times():
    found = benefit(np.array([4.0, 5.0, 9.0]), np.array([3.0, 4.0, np.nan]), np.array([3.2, 4.1, 5.0]))
    assert found.pairs == 2
    assert found.kept == pytest.approx(0.85)
    assert found.note == ""
    worse = benefit(np.full(4, 4.0), np.full(4, 3.5), np.full(4, 4.1))
    assert worse.kept == pytest.approx(-0.2)


@pytest.mark.parametrize("teacher", [3.99, 4.0, 4.3])
def test_a_teacher_that_saves_nothing_gives_no_share_but_a_reason(teacher):
    found = benefit(np.full(5, 4.0), np.full(5, teacher), np.full(5, 3.0))
    assert math.isnan(found.kept) and "the teacher saves" in found.note
    noisy = benefit(np.array([4.0, 6.0]), np.array([3.0, 6.9]), np.array([3.0, 6.0]))
    assert math.isnan(noisy.kept)
    none = benefit(*np.full((3, 2), np.nan))
    assert math.isnan(none.kept) and none.pairs == 0 and "no wearer" in none.note


def test_targets_are_met_missed_or_unknown():
    met = targets_met(
        {
            "r_profile_mean": 0.95,
            "rmse_Nm_kg": 0.021,
            "amplitude_ratio": 1.2,
            "benefit_kept": math.nan,
            "r_raw_mean": None,
        }
    )
    assert met["r_profile_mean"] is True and met["rmse_Nm_kg"] is False and met["amplitude_ratio"] is False
    assert met["benefit_kept"] is None and met["r_raw_mean"] is None and met["onnx_max_abs_diff"] is None
    assert targets_met({"amplitude_ratio": 0.86})["amplitude_ratio"] is True


def teacher_with(**command):
    walking = SimpleNamespace(command=CommandConfig(**command), device="hip_3200g")
    return SimpleNamespace(config=SimpleNamespace(walking=walking))


def test_cells_stay_within_what_the_teacher_was_trained_on():
    wide = cells_for(teacher_with(speed_m_s=(0.6, 1.9), slope_rad=(-0.122, 0.122)), CheckConfig())
    held_out = [c for c in wide if c.kind == "held out"]
    assert len(held_out) == 36 and {c.kind for c in wide} == {"held out", "level"}
    assert {round(math.degrees(c.slope_rad)) for c in held_out} == {-5, -3, -1, 1, 3, 5}
    assert set(held_out[0].arms) == {"student", "teacher", "nobody"}
    narrow = cells_for(teacher_with(speed_m_s=(1.0, 1.4), slope_rad=(0.0, 0.0), stand_share=0.1), CheckConfig())
    assert [(c.speed_m_s, c.slope_rad) for c in narrow if c.kind == "held out"] == [(1.1, 0.0), (1.3, 0.0)]
    assert [c.speed_m_s for c in narrow if c.kind == "standing"] == [0.0]


def test_a_cell_in_which_all_fell_is_not_averaged_away():
    cell = cells_for(teacher_with(speed_m_s=(1.0, 1.4)), CheckConfig())[0]
    good = match([recording(trials(), 0, 1.3, 0.0, "")])
    falls = dict.fromkeys(("student", "teacher", "nobody"), 1.0)
    row = SimpleNamespace(cell=cell, torque=good, rates=np.ones((3, 1)), fall_free=falls)
    assert summarise([row])["r_profile_mean"] == pytest.approx(1.0)
    lost = SimpleNamespace(cell=cell, torque=match([]), rates=np.full((3, 1), np.nan), fall_free=falls)
    assert math.isnan(summarise([row, lost])["r_profile_mean"])
    assert math.isnan(summarise([row, lost])["r_profile_worst"])


@pytest.mark.parametrize(("change", "named"), [({"wearers": 0}, "wearers"), ({"seconds": 3.0}, "seconds")])
def test_a_check_that_cannot_be_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        CheckConfig(**change)


def test_a_profile_whose_sensors_the_student_does_not_have_is_refused():
    student = load_student(PRETRAINED / "student")
    teacher = teacher_with()
    profile = student_profile(teacher, student)
    content = profile.to_dict()
    content["imu"]["sensors"] = ["gyro_three_axes", "hip_encoder"]
    richer = dataclasses.replace(student, training={**student.training, "profile": content})
    with pytest.raises(UserError, match=r"measures thigh_gyro_adduction, .* which the student does not take"):
        student_profile(teacher, richer)


def test_only_the_moments_before_a_fall_are_left_out():
    falls = jnp.zeros((8, 2), bool).at[4, 0].set(True)
    before = np.asarray(_within(falls, 2))
    assert before[:, 0].tolist() == [False, False, True, True, True, False, False, False]
    assert not before[:, 1].any()


def test_sensors_are_widened_as_far_as_was_asked():
    profile = student_profile(teacher_with(), load_student(PRETRAINED / "student"))
    ranges = sensor_ranges(20.0, 0.05, 0.05, profile)
    assert ranges.misalignment_factor[1] * profile.imu.misalignment_rad == pytest.approx(math.radians(20.0))
    assert profile.imu.latency_s + ranges.latency_extra_s[1] == pytest.approx(0.05)
    assert ranges.lost_factor[1] * profile.imu.lost_share == pytest.approx(0.05)
    assert sensor_ranges(None, None, None, profile) == type(ranges)()


def test_norm_curves_make_a_thigh_that_swings_forward_in_swing_the_left_half_a_stride_later():
    rates, percent = thigh_rates(1.0, 100.0, 2.0)
    swing, stance = (percent[:, 0] > 62) & (percent[:, 0] < 80), (percent[:, 0] > 15) & (percent[:, 0] < 45)
    assert rates[swing, 0].min() > 1.0 and rates[stance, 0].max() < -0.5
    np.testing.assert_allclose(rates[50:, 1], rates[:-50, 0], atol=1e-9)
    assert abs(rates[:100].mean()) < 1e-3
    np.testing.assert_allclose(thigh_rates(1.2, 120.0, 1.0)[0], 1.2 * rates[:120], atol=1e-9)


@pytest.fixture(scope="module")
def pretrained_on_norms():
    return open_loop_on_norms(load_student(PRETRAINED / "student"))


def test_on_peoples_norm_curves_the_committed_student_pushes_in_the_assistive_phase(pretrained_on_norms):
    assert [row.strides_per_s for row in pretrained_on_norms] == [0.8, 0.9, 1.0, 1.1, 1.2]
    for row in pretrained_on_norms:
        assert row.assistive, row.as_dict()
        assert row.torque.max() > 0.02 and row.torque.min() < -0.02
        assert min(row.positive_share) > 0.6
        np.testing.assert_allclose(row.torque[0], row.torque[1], atol=0.01)


def test_the_wrong_side_or_sign_is_not_assistive(pretrained_on_norms):
    row = pretrained_on_norms[2]
    half = tuple((p + 50.0) % 100.0 for p in row.extension_percent), tuple((p + 50) % 100 for p in row.flexion_percent)
    assert not dataclasses.replace(row, extension_percent=half[0], flexion_percent=half[1]).assistive
    swapped = dataclasses.replace(row, extension_percent=row.flexion_percent, flexion_percent=row.extension_percent)
    assert not swapped.assistive
    assert not OpenLoop(1.0, np.zeros((2, 101)), (math.nan,) * 2, (math.nan,) * 2, (0.0, 0.0)).assistive


def test_the_pelvis_hardly_matters_to_the_open_loop():
    student = load_student(PRETRAINED / "student")
    for forward in (0.0, 25.0):
        assert all(row.assistive for row in open_loop_on_norms(student, (1.0,), pelvis_forward_percent=forward))
    assert open_loop_on_norms(student, (1.0,), pelvis_rad=0.0)[0].assistive


def test_richer_inputs_are_those_of_a_sagittal_walk():
    student = load_student(PRETRAINED / "student")
    config = dataclasses.replace(
        student.config, signals=("thigh_gyro", "thigh_gyro_rotation", "hip_flexion"),
        input_scale=(2.0, 1.0, 0.5), mirror_signs=(1, 1, 1),
    )  # fmt: skip
    rates, _ = thigh_rates(1.0, 100.0, 3.0, pelvis_rad=0.0)
    inputs = student_inputs(dataclasses.replace(student, config=config), rates)
    assert inputs.shape == (300, 6)
    np.testing.assert_allclose(inputs[:, :2], rates, atol=1e-6)
    assert not inputs[:, 2:4].any()
    assert 20 < np.degrees(np.ptp(inputs[:, 4])) < 50
