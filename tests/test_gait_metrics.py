"""Measures of a condition: the walker made of norm curves is perfect, and deviations show up with their own size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mjx_exo.conventions import SIDES
from mjx_exo.gait.curves import Curve
from mjx_exo.gait.example import ASSIST_DELAY_S, normal_walking
from mjx_exo.gait.metrics import SUMMARY_KEYS, force_measures, overall, summarise, summary
from mjx_exo.gait.power import activation_by_group, effort_measures, mechanical_measures, time_mean
from mjx_exo.gait.recording import Recording


@pytest.fixture(scope="module")
def walker() -> Recording:
    return normal_walking(duration_s=10.0)


@pytest.fixture(scope="module")
def condition(walker):
    return summarise([walker], 1.25, 0.0)


def test_every_promised_measure_is_there(condition):
    for name in SUMMARY_KEYS:
        assert np.isfinite(condition.measures[name]), name


def test_the_norm_walker_is_normal(condition):
    m = condition.measures
    assert min(m["r_hip"], m["r_knee"], m["r_ankle"], m["r_vgrf_stance"]) > 0.99
    assert max(m["rmse_hip_deg"], m["rmse_knee_deg"], m["rmse_ankle_deg"]) < 1.0
    assert m["in_band_hip"] == m["in_band_knee"] == m["in_band_ankle"] == 1.0
    assert m["stance_percent"] == pytest.approx(62.5, abs=0.5)
    assert (m["vgrf_peak1_bw"], m["vgrf_valley_bw"], m["vgrf_peak2_bw"]) == pytest.approx((1.04, 0.80, 1.14), abs=0.01)
    assert m["vgrf_two_peaks"] == 1.0
    assert m["knee_swing_flexion_deg"] == pytest.approx(63.4, abs=0.2)
    assert m["knee_loading_flexion_deg"] == pytest.approx(19.4, abs=0.2)
    assert m["moment_in_range_hip"] == m["moment_in_range_knee"] == m["moment_in_range_ankle"] == 1.0
    assert m["on_time_overlap"] > 0.9 > 0.4 > m["on_time_overlap_shuffled"]
    assert m["on_time_p"] < 0.01


def test_torque_lags_the_hip_moment_by_the_delay_it_was_made_with(condition):
    for name in ("lag_extension_ms", "lag_flexion_ms", "lag_cross_correlation_ms"):
        assert condition.measures[name] == pytest.approx(1000 * ASSIST_DELAY_S, abs=8.0)


def test_a_shifted_hip_counts_only_with_its_mean(walker):
    angle = walker.joint_angle_rad.copy()
    for side in SIDES:
        angle[:, walker.joint_names.index(f"hip_flexion_{side[0]}")] += np.deg2rad(10.0)
    m = summarise([dataclasses.replace(walker, joint_angle_rad=angle)], 1.25, 0.0).measures
    assert m["rmse_hip_deg"] < 1.0
    assert m["rmse_hip_raw_deg"] == pytest.approx(10.0, abs=0.5)


def test_one_bad_side_cannot_hide_behind_the_other(walker):
    angle = walker.joint_angle_rad.copy()
    angle[:, walker.joint_names.index("knee_flexion_r")] += np.deg2rad(8.0)
    angle[:, walker.joint_names.index("knee_flexion_l")] -= np.deg2rad(8.0)
    m = summarise([dataclasses.replace(walker, joint_angle_rad=angle)], 1.25, 0.0).measures
    assert m["rmse_knee_deg"] == pytest.approx(8.0, abs=0.5)


def test_falls_count_and_their_strides_do_not(walker):
    fallen = dataclasses.replace(walker, joint_angle_rad=0.0 * walker.joint_angle_rad, fell=True)
    found = summarise([walker, walker, fallen, walker], 1.25, 0.0)
    assert found.measures["fall_free_share"] == 0.75
    assert found.measures["r_knee"] > 0.99


def test_only_falls_leave_nothing_but_the_share(walker):
    found = summarise([dataclasses.replace(walker, fell=True)], 1.25, 0.0)
    assert found.measures["fall_free_share"] == 0.0
    assert np.isnan(found.measures["r_hip"])
    assert found.curves == {}


def test_speed_errors_of_a_condition_and_of_its_trials(walker):
    position = walker.pelvis_position_m.copy()
    slow, fast = position.copy(), position.copy()
    slow[:, 0], fast[:, 0] = 1.20 * walker.time_s, 1.30 * walker.time_s
    trials = [dataclasses.replace(walker, pelvis_position_m=p) for p in (slow, fast)]
    m = summarise(trials, 1.25, 0.0).measures
    assert m["speed_error_m_s"] == pytest.approx(0.0, abs=1e-9)
    assert m["speed_error_each_m_s"] == pytest.approx(0.05)
    slower = summarise(trials[:1], 1.25, 0.0).measures
    assert slower["speed_error_m_s"] == pytest.approx(0.05)
    assert slower["speed_bias_m_s"] == pytest.approx(-0.05)


def test_a_single_hump_has_no_two_peaks():
    hump = np.zeros((2, 101))
    hump[:, :61] = np.sin(np.pi * np.linspace(0, 1, 61))
    assert force_measures(Curve(hump, 0 * hump, (5, 5)), 60.0)["vgrf_two_peaks"] == 0.0


def test_force_peaks_worked_by_hand():
    load = np.interp(np.arange(101.0), [0, 15, 30, 45, 60, 100], [0, 1.1, 0.7, 1.2, 0, 0])
    found = force_measures(Curve(np.stack([load, load]), np.zeros((2, 101)), (3, 3)), 60.0)
    assert (found["vgrf_peak1_bw"], found["vgrf_valley_bw"], found["vgrf_peak2_bw"]) == pytest.approx((1.1, 0.7, 1.2))


def swinging(amplitude_nm_kg: float = 1.0, exo_nm_kg: float = 0.0) -> Recording:
    """Hips at 1 Hz: angle −cos, velocity sin (rad/s); moments proportional to velocity, on the right only."""
    time = np.linspace(0.0, 4.0, 4001)
    velocity = np.sin(2 * np.pi * time)
    blank = np.zeros_like(time)
    return Recording(
        time_s=time,
        body_mass_kg=70.0,
        joint_names=("hip_flexion_r", "hip_flexion_l"),
        joint_angle_rad=np.stack([-np.cos(2 * np.pi * time), blank], axis=1) / (2 * np.pi),
        joint_velocity_rad_s=np.stack([velocity, blank], axis=1),
        biological_moment_nm_kg=np.stack([amplitude_nm_kg * velocity, blank], axis=1),
        exo_torque_nm_kg=np.stack([exo_nm_kg * np.ones_like(time), blank], axis=1),
        muscle_names=("glutmax_r", "soleus_r"),
        muscle_volume_m3=np.array([3.0, 1.0]),
        activation=np.stack([0.2 + blank, 0.6 + blank], axis=1),
        metabolic_power_w=np.stack([100.0 + blank, 40.0 + blank], axis=1),
        metabolic_rest_w=70.0,
        speed_m_s=1.5 + blank,
    )


def test_joint_power_worked_by_hand():
    m = mechanical_measures(swinging(), (0.0, 4.0))
    assert m["positive_joint_power_W_kg"] == pytest.approx(0.5, rel=1e-3)  # mean of sin²
    assert m["negative_joint_power_W_kg"] == pytest.approx(0.0, abs=1e-9)
    # A constant torque of 0.3 does +0.3·sin and −0.3·sin: 0.3/π each on average.
    m = mechanical_measures(swinging(exo_nm_kg=0.3), (0.0, 4.0))
    assert m["exo_positive_power_W_kg"] == pytest.approx(0.3 / np.pi, rel=1e-3)
    assert m["exo_positive_share"] == pytest.approx(0.5, abs=1e-3)
    # The device is no part of biological power, and is part of the total.
    assert m["positive_joint_power_W_kg"] == pytest.approx(0.5, rel=1e-3)
    assert m["positive_total_power_W_kg"] > 0.5


def test_absorption_is_negative_work_and_does_not_cancel():
    m = mechanical_measures(swinging(amplitude_nm_kg=-2.0), (0.0, 4.0))
    assert (m["positive_joint_power_W_kg"], m["negative_joint_power_W_kg"]) == pytest.approx((0.0, -1.0), abs=1e-3)
    assert m["negative_power_hip_flexion_W_kg"] == pytest.approx(-1.0, abs=1e-3)


def test_effort_worked_by_hand():
    m = effort_measures(swinging(), (1.0, 3.0))
    assert m["activation_mean"] == pytest.approx(0.4)
    assert m["hip_activation_mean"] == pytest.approx(0.2)
    assert m["activation_mean_volume_weighted"] == pytest.approx((3 * 0.2 + 0.6) / 4)
    assert m["metabolic_W_kg"] == pytest.approx(3.0)  # (100 + 40 + 70) W / 70 kg
    assert m["cot_J_kg_m"] == pytest.approx(2.0)
    by_group = activation_by_group(swinging(), (1.0, 3.0))
    assert by_group == pytest.approx(dict(zip(swinging().groups(), (0.2, 0.6), strict=True)))


def test_time_mean_takes_ends_between_samples():
    time = np.array([0.0, 1.0, 2.0])
    assert time_mean(time, time[:, None], (0.5, 1.5)) == pytest.approx([1.0])
    assert time_mean(time, time, (0.25, 0.75)) == pytest.approx(0.5)


def test_summary_holds_cells_and_the_worst(walker, condition):
    worse = summarise([walker, dataclasses.replace(walker, fell=True)], 1.0, np.deg2rad(4.0))
    found = summary([condition, worse])
    assert [cell["slope_deg"] for cell in found["cells"]] == pytest.approx([0.0, 4.0])
    assert found["overall"]["fall_free_share"] == 0.75
    assert found["overall"]["fall_free_share_worst"] == 0.5
    assert found["overall"]["speed_error_m_s_worst"] == pytest.approx(0.25)
    assert set(SUMMARY_KEYS) <= set(found["cells"][1])
    assert overall([condition])["r_hip"] == condition.measures["r_hip"]
