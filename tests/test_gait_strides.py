"""Strides survive what breaks naive detection, at any rate, and measure what they should."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mjx_exo.gait import contact
from mjx_exo.gait.example import normal_walking
from mjx_exo.gait.strides import Stride, find_strides, of_side, over_cycle, spatiotemporal

RATES = (50.0, 100.0, 200.0, 1000.0)


def stance_train(rate_hz: float, strides: int = 8, stride_s: float = 1.0, stance_s: float = 0.6) -> tuple:
    """Time and a trapezoid load: up in 40 ms, 1 body weight, down in 40 ms; first strike at 0.2 s."""
    time = np.arange(round((strides * stride_s + 0.5) * rate_hz)) / rate_hz
    phase = np.mod(time - 0.2, stride_s)
    load = np.clip(np.minimum(phase / 0.04, (stance_s - phase) / 0.04), 0.0, 1.0)
    load[time < 0.2] = 0.0
    return time, load


@pytest.mark.parametrize("rate_hz", RATES)
def test_contacts_are_found_at_every_rate(rate_hz):
    time, load = stance_train(rate_hz)
    found = contact.contacts(time, load)
    assert len(found) == 8
    np.testing.assert_allclose(found[:, 0], 0.2 + np.arange(8.0), atol=0.005 + 0.5 / rate_hz)
    np.testing.assert_allclose(found[:, 1], 0.8 + np.arange(8.0), atol=0.005 + 0.5 / rate_hz)


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize(
    ("at_s", "length_s", "size_bw"),
    [(0.95, 0.06, 0.5), (0.9, 0.1, 0.15), (1.0, 0.08, 0.3), (0.86, 0.06, 0.8)],
)
def test_a_scuff_in_swing_changes_nothing(rate_hz, at_s, length_s, size_bw):
    time, load = stance_train(rate_hz)
    clean = contact.contacts(time, load)
    scuffed = load.copy()
    for stride in range(8):
        scuffed[(time >= at_s + stride) & (time < at_s + stride + length_s)] += size_bw
    np.testing.assert_allclose(contact.contacts(time, scuffed), clean, atol=1e-9)


def test_a_bounce_at_landing_belongs_to_the_stance():
    time, load = stance_train(200.0)
    clean = contact.contacts(time, load)
    bounced = load.copy()
    bounced[(np.mod(time - 0.2, 1.0) > 0.06) & (np.mod(time - 0.2, 1.0) < 0.1)] = 0.0
    np.testing.assert_allclose(contact.contacts(time, bounced), clean, atol=1e-9)


def test_a_dragging_foot_still_has_strides():
    time, load = stance_train(100.0)
    found = contact.contacts(time, np.maximum(load, 0.1))
    assert len(found) == 8
    # From the crossing of 0.2 body weights, which the trapezoid reaches after 8 ms.
    np.testing.assert_allclose(found[:, 0], 0.208 + np.arange(8.0), atol=0.006)


def test_stances_cut_by_the_trial_are_left_out():
    time, load = stance_train(100.0)
    inside = (time >= 0.5) & (time <= 3.5)
    found = contact.contacts(time[inside], load[inside])
    np.testing.assert_allclose(found[:, 0], [1.2, 2.2], atol=0.01)


def test_standing_and_flying_have_no_contacts():
    time = np.arange(500) / 100.0
    assert contact.contacts(time, np.ones(500)).shape == (0, 2)
    assert contact.contacts(time, np.zeros(500)).shape == (0, 2)
    assert contact.contacts(time, np.full(500, np.nan)).shape == (0, 2)


@pytest.mark.parametrize("rate_hz", RATES)
def test_measures_of_the_example_walker(rate_hz):
    walker = normal_walking(rate_hz=rate_hz, speed_m_s=1.25, stride_time_s=1.1)
    strides = find_strides(walker)
    assert {stride.side for stride in strides} == {"right", "left"}
    measured = {name: np.nanmean(values) for name, values in spatiotemporal(walker, strides).items()}
    assert measured["stride_time_s"] == pytest.approx(1.1, abs=1e-6)
    assert measured["cadence_steps_min"] == pytest.approx(120 / 1.1, abs=1e-3)
    assert measured["stride_length_m"] == pytest.approx(1.375, abs=1e-6)
    assert measured["stance_percent"] == pytest.approx(62.4, abs=1.0)
    # Both phases together: twice the stance beyond half a cycle.
    assert measured["double_support_percent"] == pytest.approx(2 * (measured["stance_percent"] - 50), abs=0.1)
    assert measured["step_time_s"] == pytest.approx(0.55, abs=1e-3)
    assert measured["step_width_m"] == pytest.approx(0.1, abs=1e-9)
    assert 0.55 < measured["step_length_m"] < 0.8


def test_what_was_not_recorded_is_nan():
    walker = dataclasses.replace(
        normal_walking(), foot_position_m=None, pelvis_position_m=None, pelvis_velocity_m_s=None
    )
    measured = spatiotemporal(walker, find_strides(walker))
    for name in ("speed_m_s", "stride_length_m", "step_length_m", "step_width_m"):
        assert np.isnan(measured[name]).all()


def test_a_treadmill_speed_outranks_a_pelvis_that_stays_in_place():
    walker = normal_walking()
    still = np.zeros_like(walker.pelvis_position_m)
    belt = np.full(walker.time_s.size, 0.9)
    walker = dataclasses.replace(walker, pelvis_position_m=still, speed_m_s=belt)
    assert spatiotemporal(walker, find_strides(walker))["speed_m_s"] == pytest.approx(0.9)


def test_settling_time_is_left_out():
    walker = normal_walking(duration_s=12.0)
    assert min(stride.start_s for stride in find_strides(walker, skip_s=5.0)) >= 5.0


def test_over_cycle_follows_a_sine():
    time = np.arange(0.0, 3.0, 0.02)
    strides = [Stride("right", 0.5, 1.5), Stride("right", 1.5, 2.5)]
    cycles = over_cycle(time, np.sin(2 * np.pi * (time - 0.5)), strides)
    assert cycles.shape == (2, 101)
    expected = np.sin(2 * np.pi * np.linspace(0.0, 1.0, 101))
    np.testing.assert_allclose(cycles, np.tile(expected, (2, 1)), atol=2e-3)
    assert over_cycle(time, np.zeros((time.size, 4)), []).shape == (0, 101, 4)


@pytest.mark.parametrize("rate_hz", (50.0, 100.0, 200.0))
@pytest.mark.parametrize("stride_time_s", (0.9, 1.1, 1.5))
def test_gyroscopes_alone_find_every_stride(rate_hz, stride_time_s):
    walker = normal_walking(20.0, rate_hz, stride_time_s=stride_time_s)
    noise = np.random.default_rng(1).normal(0.0, 0.2, walker.thigh_gyro_rad_s.shape)
    noisy = dataclasses.replace(walker, thigh_gyro_rad_s=walker.thigh_gyro_rad_s + noise + 0.1)
    strides = of_side(find_strides(noisy, "gyro"), "right")
    durations = np.array([stride.duration_s for stride in strides])
    assert len(strides) >= 20.0 / stride_time_s - 3
    assert durations.mean() == pytest.approx(stride_time_s, rel=0.005)
    by_force = np.array([stride.start_s for stride in of_side(find_strides(walker, "force"), "right")])
    offsets = [np.min(np.abs(by_force - stride.start_s)) for stride in strides]
    assert np.mean(offsets) < 0.03 * stride_time_s


def test_standing_has_no_gyroscope_strides():
    walker = normal_walking()
    noise = np.random.default_rng(0).normal(0.0, 0.05, walker.thigh_gyro_rad_s.shape)
    assert find_strides(dataclasses.replace(walker, thigh_gyro_rad_s=noise), "gyro") == []


def test_auto_takes_force_where_there_is_some():
    walker = normal_walking()
    assert np.isfinite(find_strides(walker)[0].toe_off_s)
    assert np.isnan(find_strides(dataclasses.replace(walker, ground_force_n=None))[0].toe_off_s)


def test_the_jolt_of_a_heel_strike_does_not_move_strides_from_a_gyroscope():
    time_s = np.arange(0.0, 20.0, 0.01)
    phase = time_s / 1.1 % 1.0
    smooth = 2.5 * np.sin(2.0 * np.pi * phase) - 0.4
    jolt = 3.5 * np.exp(-(((phase - 0.55) / 0.02) ** 2)) - 1.5 * np.exp(-(((phase - 0.48) / 0.02) ** 2))
    plain, jolted = (contact.heel_strikes_from_gyro(time_s, signal) for signal in (smooth, smooth + jolt))
    assert len(plain) == len(jolted) >= 15
    assert np.abs(plain - jolted)[1:-1].max() < 0.04 * 1.1
