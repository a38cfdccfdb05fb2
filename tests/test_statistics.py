"""Study statistics against hand arithmetic, and the properties a reviewer would ask about."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mjx_exo.gait import statistics as stat


def test_t_interval_by_hand():
    # 1…5: mean 3, sd √2.5, se √0.5 = 0.70711; t(0.975, 4) = 2.77645 → ± 1.96324.
    interval = stat.t_interval([1, 2, 3, 4, 5])
    np.testing.assert_allclose([interval.mean, interval.low, interval.high], [3, 1.03676, 4.96324], atol=1e-5)
    assert interval.count == 5 and interval.above_zero
    assert not stat.t_interval([-1.0, 0.5, 1.0]).above_zero


def test_t_interval_refuses_one_value_and_nan():
    with pytest.raises(ValueError, match="at least 2"):
        stat.t_interval([1.0])
    with pytest.raises(ValueError, match="1 values that are not finite"):
        stat.t_interval([1.0, np.nan])


def test_t_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(2000):
        interval = stat.t_interval(rng.normal(3.0, 2.0, 5))
        covered.append(interval.low <= 3.0 <= interval.high)
    assert 0.935 < np.mean(covered) < 0.965


def test_pairing_by_seed_removes_what_seeds_share():
    # Seeds differ a lot, the benefit is 10 % in each: the interval collapses onto 10.
    baseline = np.array([[1.0, 2.0], [5.0, 6.0], [0.2, 0.3]])
    per_seed = stat.grid_reduction_percent(baseline, 0.9 * baseline)
    np.testing.assert_allclose(per_seed, 10.0)
    interval = stat.t_interval(per_seed)
    np.testing.assert_allclose([interval.low, interval.high], 10.0)


def test_grid_average_weighs_cells_equally_and_leaves_cells_out():
    # Reductions 50 % and 10 %, whatever the cells' sizes.
    baseline, other = [[1.0, 100.0]], [[0.5, 90.0]]
    np.testing.assert_allclose(stat.grid_reduction_percent(baseline, other), [30.0])
    np.testing.assert_allclose(stat.grid_reduction_percent(baseline, other, [False, True]), [10.0])
    with pytest.raises(ValueError, match="no cell"):
        stat.grid_reduction_percent(baseline, other, [False, False])
    with pytest.raises(ValueError, match="positive baseline"):
        stat.reduction_percent([0.0], [1.0])


def test_a_cell_goes_for_all_arms_when_one_arm_falls():
    shares = [[0.0, 0.05, 0.00, np.nan], [0.0, 0.00, 0.06, 0.0]]
    np.testing.assert_array_equal(stat.kept_cells(shares), [True, True, False, False])


def test_best_cell_is_reported_on_seeds_that_did_not_choose_it():
    baseline = np.full((4, 3), 100.0)
    other = np.array([[90, 70, 95], [90, 80, 95], [89, 94, 95], [91, 96, 95]], float)
    best = stat.best_cell(baseline, other)
    assert (best.cell, best.choosing, best.reporting) == (1, (0, 1), (2, 3))
    np.testing.assert_allclose(best.interval.mean, 5.0)  # 25 on the choosing seeds
    assert stat.best_cell(baseline, other, [True, False, True]).cell == 0
    five = stat.best_cell(np.full((5, 2), 1.0), np.full((5, 2), 0.9))
    assert len(five.choosing) == 2 and len(five.reporting) == 3


def test_best_cell_shows_no_benefit_where_there_is_none():
    rng = np.random.default_rng(2)
    means = []
    for _ in range(300):
        baseline = rng.normal(100, 3, (6, 20))
        means.append(stat.best_cell(baseline, rng.normal(100, 3, (6, 20))).interval.mean)
    assert abs(np.mean(means)) < 0.6  # naive choosing on all seeds would show about 3 %


def test_best_cell_needs_seeds_for_both_halves():
    with pytest.raises(ValueError, match="at least 3 seeds, got 2"):
        stat.best_cell(np.ones((2, 2)), np.ones((2, 2)))


def test_regression_by_hand():
    # Points (0,1) (1,2) (2,4): slope 1.5, intercept 5/6; residuals 1/6, −1/3, 1/6: s² = 1/6, se = √(1/12) = 0.28868;
    # t(0.975, 1) = 12.7062 → ± 3.66796.
    line = stat.regression([0, 1, 2], [1, 2, 4])
    np.testing.assert_allclose([line.slope, line.intercept], [1.5, 5 / 6])
    np.testing.assert_allclose([line.low, line.high], [1.5 - 3.66796, 1.5 + 3.66796], atol=1e-4)
    with pytest.raises(ValueError, match="3 points"):
        stat.regression([1, 1, 1], [1, 2, 3])


def test_slope_over_seeds_by_hand():
    # Slopes 1, 2, 3 per m/s: mean 2, se 1/√3, t(0.975, 2) = 4.30265 → ± 2.48414. Offsets of seeds do not matter.
    speed = np.array([0.8, 1.2, 1.6])
    benefit = np.array([[5.0], [50.0], [-5.0]]) + np.array([[1.0], [2.0], [3.0]]) * speed
    slope = stat.slope_over_seeds(speed, benefit)
    np.testing.assert_allclose([slope.mean, slope.low, slope.high], [2.0, 2 - 2.48414, 2 + 2.48414], atol=1e-4)
    with pytest.raises(ValueError, match="different x"):
        stat.slope_over_seeds([1.0, 1.0], np.ones((3, 2)))


def test_speeds_agree_within_the_tolerance():
    speeds = [[1.000, 1.20], [1.009, 1.22], [1.004, 1.21]]
    np.testing.assert_array_equal(stat.speeds_agree(speeds), [True, False])


def test_value_at_speed_by_hand():
    # Between (1.0, 10) and (1.2, 14): at 1.05 a quarter of the way, 11. Order of the points does not matter.
    np.testing.assert_allclose(stat.value_at_speed([1.2, 1.0], [14, 10], 1.05), [11.0])
    np.testing.assert_allclose(stat.value_at_speed([1.0, 1.2], [10, 14], [0.98, 1.24]), [9.6, 14.8])
    speed = np.array([0.8, 1.0, 1.2, 1.4])
    np.testing.assert_allclose(stat.value_at_speed(speed, 3 * speed**2, [1.1], degree=2), [3.63])


def test_value_at_speed_does_not_extrapolate():
    with pytest.raises(ValueError, match=r"1\.400 m/s is outside the measured 1\.000…1\.200"):
        stat.value_at_speed([1.0, 1.2], [10, 14], 1.4)
    with pytest.raises(ValueError, match="2 different speeds"):
        stat.value_at_speed([1.0, 1.0], [10, 14], 1.0)


def test_walking_slower_is_no_benefit_at_equal_speed():
    # Both arms cost 2·v; the second walks 4 % slower and looks 4 % cheaper until speeds are equal.
    commanded = np.array([0.8, 1.0, 1.2, 1.4])
    speed = np.stack([commanded, 0.96 * commanded])
    np.testing.assert_allclose(stat.reduction_percent(*(2 * speed)), 4.0)
    common, value = stat.at_common_speed(speed, 2 * speed)
    np.testing.assert_allclose(common, 0.98 * commanded)
    np.testing.assert_allclose(stat.reduction_percent(*value), 0.0, atol=1e-9)


def test_step_halving_judges_arms_and_their_difference():
    assert stat.step_is_fine([100.0, 90.0], [100.5, 90.4])  # 0.5 %, 0.44 %; reduction 10 → 10.05 points
    assert not stat.step_is_fine([100.0, 90.0], [101.5, 91.4])  # an arm moves by 1.5 %
    assert not stat.step_is_fine([100.0, 90.0], [100.0, 90.4])  # the reduction moves by 0.4 points


def test_spread_by_hand():
    wearers = stat.spread([-1.0, 1.0, 2.0, 3.0, 5.0])
    assert (wearers.mean, wearers.count, wearers.share_positive) == (2.0, 5, 0.8)
    np.testing.assert_allclose([wearers.sd, wearers.p10, wearers.p90], [np.sqrt(5), -0.2, 4.2])


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8),
    st.floats(0.1, 10.0),
    st.floats(-100, 100),
)
def test_intervals_scale_and_shift_with_their_values(values, scale, shift):
    plain = stat.t_interval(values)
    moved = stat.t_interval(scale * np.array(values) + shift)
    for a, b in ((plain.low, moved.low), (plain.mean, moved.mean), (plain.high, moved.high)):
        assert b == pytest.approx(scale * a + shift, abs=1e-6 * (1 + abs(b)))
