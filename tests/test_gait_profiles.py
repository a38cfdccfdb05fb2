"""Torque comparisons against hand-worked curves: gain, shift, noise."""

from __future__ import annotations

import numpy as np
import pytest

from mjx_exo.gait.profiles import (
    compare_profiles,
    compare_series,
    cross_correlation_lag_percent,
    peak_lags,
    peak_percent,
)

PHASE = 2 * np.pi * np.linspace(0.0, 1.0, 101)


def test_the_same_curve_at_another_gain():
    wave = 0.1 * np.sin(PHASE)
    found = compare_profiles(wave, 0.8 * wave, 1.0)
    assert found.r_mean == pytest.approx(1.0)
    assert found.amplitude_ratio == pytest.approx(0.8)
    assert found.rmse_mean_nm_kg == pytest.approx(0.02 / np.sqrt(2))  # RMS of a sine of 0.02
    assert found.lag_extension_ms == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("lag_percent", (-20.0, -3.0, 0.0, 7.5, 15.0))
def test_a_shift_is_a_lag_in_ms(lag_percent):
    wave = np.sin(PHASE) + 0.3 * np.sin(2 * PHASE)
    later = np.sin(PHASE - 2 * np.pi * lag_percent / 100) + 0.3 * np.sin(2 * (PHASE - 2 * np.pi * lag_percent / 100))
    lags = peak_lags(wave, later, stride_time_s=1.2)
    for found in (lags.extension_ms, lags.flexion_ms, lags.cross_correlation_ms):
        assert found == pytest.approx(12.0 * lag_percent, abs=0.5)


def test_a_quarter_cycle_shift_has_no_correlation():
    assert compare_profiles(np.sin(PHASE), np.cos(PHASE), 1.0).r_mean == pytest.approx(0.0, abs=1e-9)


def test_raw_figures_see_noise_that_the_mean_hides():
    noise = np.random.default_rng(0).normal(0.0, 0.05, (400, 101))
    wave = 0.1 * np.sin(PHASE)
    found = compare_profiles(wave, wave + noise, 1.0)
    assert found.r_mean > 0.99
    assert found.rmse_raw_nm_kg == pytest.approx(0.05, rel=0.02)
    # Signal power 0.005 against noise power 0.0025: r = √(0.005 / 0.0075).
    assert found.r_raw == pytest.approx(np.sqrt(2 / 3), abs=0.02)
    assert found.measured_strides == 400


def test_peaks_lie_between_the_samples():
    assert peak_percent(np.cos(PHASE - 2 * np.pi * 0.333)) == pytest.approx(33.3, abs=0.05)


def test_a_torque_that_never_extends_has_no_extension_lag():
    lags = peak_lags(np.sin(PHASE), 1.0 + 0.5 * np.sin(PHASE), 1.0)
    assert np.isnan(lags.extension_ms)
    assert lags.flexion_ms == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(cross_correlation_lag_percent(np.sin(PHASE), np.ones(101)))


def test_series_in_the_same_states():
    found = compare_series(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.5, 2.5], [3.5, 4.5]]))
    assert (found.r, found.rmse_nm_kg, found.amplitude_ratio) == pytest.approx((1.0, 0.5, 1.0))
    assert np.isnan(compare_series(np.array([np.nan]), np.array([1.0])).r)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="no strides"):
        compare_profiles(np.empty((0, 101)), np.ones((3, 101)), 1.0)
