"""The norms are the printed tables, joined periodically, and distances to them are the ones worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mjx_exo.gait import norms
from mjx_exo.gait.muscles import on_mask, on_times, window_mask


@pytest.mark.parametrize(
    ("name", "percent", "row"),
    [
        ("hip_flexion", 52, (-8.3, -16.1, -0.5)),
        ("knee_flexion", 72, (63.4, 58.5, 68.2)),
        ("ankle_dorsiflexion", 64, (-19.9, -27.7, -12.1)),
        ("vertical_force", 48, (1.14, 1.07, 1.21)),
    ],
)
def test_a_curve_goes_through_the_printed_row(name, percent, row):
    norm = norms.curve(name)
    assert (norm.mean[percent], norm.low[percent], norm.high[percent]) == pytest.approx(row)


def test_the_cycle_closes_on_the_mean_of_both_ends():
    norm = norms.curve("hip_flexion")
    assert norm.mean[0] == norm.mean[100] == pytest.approx((33.0 + 32.0) / 2)
    assert norms.curve("hip_flexion", np.array([-48.0])).mean == pytest.approx(-8.3)


def test_the_force_curve_stays_at_zero_in_swing():
    force = norms.curve("vertical_force", np.arange(68.0, 100.0, 0.1)).mean
    assert np.abs(force).max() < 1e-9


def test_distance_of_a_shifted_curve():
    norm = norms.curve("hip_flexion")
    found = norms.distance(norm.mean + 4.0, norm)
    assert found.r == pytest.approx(1.0)
    assert found.rmse == pytest.approx(4.0)
    assert found.rmse_centred == pytest.approx(0.0, abs=1e-9)
    assert found.share_in_band == 1.0
    assert norms.distance(norm.mean + 20.0, norm).share_in_band == 0.0
    assert norms.distance(norm.mean + 20.0, norm).share_in_band_centred == 1.0


def test_distance_of_a_mirrored_curve_is_negative():
    norm = norms.curve("knee_flexion")
    assert norms.distance(-norm.mean, norm).r == pytest.approx(-1.0)


def test_correlation_of_a_constant_is_undefined():
    assert np.isnan(norms.pearson(np.ones(10), np.arange(10.0)))


def test_the_thigh_turns_back_before_heel_strike():
    norm = norms.curve("hip_flexion")
    percent = np.arange(norm.mean.size - 1)
    shifts = np.arange(0.0, 100.0, 0.25)
    likeness = [norm.mean[:-1] @ np.cos(2 * np.pi * (percent - shift) / percent.size) for shift in shifts]
    assert norms.thigh_reversal_percent() == pytest.approx(shifts[np.argmax(likeness)], abs=0.5)
    assert 85.0 < norms.thigh_reversal_percent() < 100.0


def test_human_stride_frequency_is_near_its_sources():
    for speed, frequency in norms.STRIDE_FREQUENCY_POINTS:
        assert norms.stride_frequency_hz(speed) == pytest.approx(frequency, rel=0.05)
    assert norms.stride_length_m(1.45) == pytest.approx(1.44, rel=0.05)
    assert norms.stride_length_m(0.0) == 0.0


def test_what_walking_costs_people():
    # 1.44 + 1.94 + 0.24 at 1 m/s on the level.
    assert norms.gross_metabolic_rate_w_kg(1.0) == pytest.approx(3.62)
    uphill = norms.gross_metabolic_rate_w_kg(1.25, np.arctan(0.05)) - norms.gross_metabolic_rate_w_kg(1.25)
    assert uphill == pytest.approx(0.34 * 1.25 * 5 * (1 - 1.05 ** (1 - 1.1**37)))
    speeds = np.linspace(0.6, 2.0, 141)
    least = speeds[np.argmin(norms.gross_cost_of_transport_j_kg_m(speeds))]
    assert least == pytest.approx(norms.MOST_ECONOMICAL_SPEED_M_S["gross"], abs=0.05)
    down, level, up = norms.gross_cost_of_transport_j_kg_m(1.25, np.radians([-5.0, 0.0, 5.0]))
    assert down < level < up


def test_moments_at_the_edges_of_the_human_range():
    moment = np.zeros(101)
    moment[[0, 25, 50, 75]] = [-0.11, 0.25, 0.10, 0.18]  # the last is 0.01 too high
    assert norms.moments_in_range("hip_flexion", moment) == 0.75


def test_windows_wrap_into_the_next_cycle():
    mask = window_mask("hamstrings")
    assert mask[85:].all()
    assert mask[:10].all()
    assert not mask[10:85].any()
    assert window_mask("bifemsh") is None


def test_on_times_that_agree_with_people_beat_shifted_ones():
    curves = {group: np.append(window_mask(group), False) * 0.5 for group in ("soleus", "vasti", "iliopsoas", "tibant")}
    found = on_times(curves)
    assert found.mean_overlap == 1.0
    assert found.mean_baseline < 0.3
    assert found.p < 0.01


def test_on_times_half_a_cycle_off_do_not():
    curves = {g: np.append(np.roll(window_mask(g), 50), False) * 0.5 for g in ("soleus", "vasti", "iliopsoas")}
    found = on_times(curves)
    assert found.mean_overlap < 0.2
    assert found.p > 0.2


def test_overlap_worked_by_hand():
    activation = np.zeros(101)
    activation[10:30] = 1.0  # vasti should be on 0..20: 10 common, 30 joint
    assert on_times({"vasti": activation}).overlap["vasti"] == pytest.approx(10 / 30)
    # Any 20 % block against a 20 % window: shifts overlap 20·20/100 on average, but common over joint is its own mean.
    by_hand = np.mean([k / (40 - k) for k in [*range(20), *range(20, 0, -1), *([0] * 60)]])
    assert on_times({"vasti": activation}).baseline["vasti"] == pytest.approx(by_hand)


def test_a_silent_muscle_is_never_on():
    assert not on_mask(np.full(101, 0.02)).any()
    assert on_times({"fdl": np.ones(101)}) is None
