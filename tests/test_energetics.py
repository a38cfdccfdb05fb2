"""Muscle energetics: numbers worked by hand, signs, limits, and the size of a walking body's cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal import energetics as en
from mjx_exo.musculoskeletal.muscle import MuscleParameters

ONE = np.ones(1)


def constants(mass_kg=2.0, slow=0.6):
    return en.MuscleEnergetics(
        mass_kg=mass_kg * ONE,
        slow_share=slow * ONE,
        peak_force_n=1000.0 * ONE,
        optimal_length_m=0.1 * ONE,
        velocity_max=10.0 * ONE,
        length_min=0.0 * ONE,
        length_max=1.8 * ONE,
    )


def fibre(length=1.0, velocity=0.0, force_n=0.0):
    return en.FibreState(length * ONE, velocity * ONE, force_n * ONE)


def parameters(count=1):
    one = np.ones(count)
    return MuscleParameters(
        peak_force_n=3000.0 * one,
        optimal_length_m=0.1 * one,
        rest_length_m=0.2 * one,
        length_min=0.0 * one,
        length_max=1.8 * one,
        velocity_max=10.0 * one,
        passive_max=1.3 * one,
        eccentric_max=1.4 * one,
        tau_activation_s=0.01 * one,
        tau_deactivation_s=0.04 * one,
    )


def test_isometric_heat_by_hand():
    # (128·0.4 + 25) · 1^0.6 · 1.5 · 2 kg = 228.6 W at full drive.
    power = en.umberger_power(ONE, ONE, fibre(force_n=1000.0), constants(), en.UMBERGER_2010)
    np.testing.assert_allclose(power.total_w, 228.6)
    np.testing.assert_allclose(power.work_w, 0.0)
    # Excitation 0.2 below activation 0.6: drive 0.4, 0.4^0.6 = 0.57708.
    power = en.umberger_power(0.2 * ONE, 0.6 * ONE, fibre(), constants(), en.UMBERGER_2010)
    np.testing.assert_allclose(power.total_w, 228.6 * 0.4**0.6)


def test_beyond_optimal_length_only_the_force_dependent_part_shrinks():
    # At length_max the muscle makes no force: 40 % of the activation heat is left.
    power = en.umberger_power(ONE, ONE, fibre(length=1.8), constants(), en.UMBERGER_2010)
    np.testing.assert_allclose(power.total_w, 0.4 * 228.6)


def test_shortening_by_hand():
    # 2 L0/s: slow 100/(10/2.5)·2 = 50 W/kg, fast 153/10·2 = 30.6 W/kg; mix 0.6·50 + 0.4·30.6 = 42.24.
    # Drive² = 0.25, ·1.5·2 kg → 31.68 W. Work 300 N · 0.2 m/s = 60 W.
    half = 0.5 * ONE
    power = en.umberger_power(half, half, fibre(velocity=-2.0, force_n=300.0), constants(), en.UMBERGER_2010)
    np.testing.assert_allclose(power.velocity_heat_w, 31.68)
    np.testing.assert_allclose(power.work_w, 60.0)
    np.testing.assert_allclose(power.total_w, 228.6 * 0.5**0.6 + 31.68 + 60.0)


def test_slow_fibres_stop_heating_beyond_their_own_top_speed():
    # 8 L0/s is twice the slow fibres' 4 L0/s: their part stays 100 W/kg.
    power = en.umberger_power(ONE, ONE, fibre(velocity=-8.0), constants(), en.UMBERGER_2010)
    np.testing.assert_allclose(power.velocity_heat_w, (0.6 * 100.0 + 0.4 * 15.3 * 8.0) * 1.5 * 2.0)


def test_lengthening_is_cheaper_than_shortening_and_its_work_is_negative():
    half = 0.5 * ONE
    short = en.umberger_power(half, half, fibre(velocity=-1.0, force_n=300.0), constants())
    long = en.umberger_power(half, half, fibre(velocity=1.0, force_n=300.0), constants())
    isometric = en.umberger_power(half, half, fibre(force_n=300.0), constants())
    assert short.work_w > 0 > long.work_w
    assert isometric.total_w < long.total_w < short.total_w
    # 2010: 0.3 · 25 W/kg per L0/s · drive 0.5 · 1.5 · 2 kg, no credit for the work absorbed.
    np.testing.assert_allclose(long.total_w - isometric.total_w, 11.25)


def test_the_2003_reading_credits_work_but_never_pays_a_muscle_out():
    half = 0.5 * ONE
    absorbed = en.umberger_power(half, half, fibre(velocity=1.0, force_n=300.0), constants(), en.UMBERGER_2003)
    np.testing.assert_allclose(absorbed.total_w, 228.6 * 0.5**0.6 + 4.0 * 25.0 * 0.5 * 3.0 - 30.0)
    huge = en.umberger_power(half, half, fibre(velocity=1.0, force_n=1e6), constants(), en.UMBERGER_2003)
    assert huge.total_w == 0.0


@pytest.mark.parametrize("power", [en.umberger_power, en.bhargava_power])
def test_a_resting_muscle_costs_its_resting_heat(power):
    zero = 0.0 * ONE
    np.testing.assert_allclose(power(zero, zero, fibre(), constants()).total_w, 2.0)


@pytest.mark.parametrize("power", [en.umberger_power, en.bhargava_power])
def test_cost_grows_with_drive_force_and_shortening_speed(power):
    drives = np.linspace(0.0, 1.0, 21)
    by_drive = [power(a * ONE, a * ONE, fibre(velocity=-0.5, force_n=500 * a), constants()).total_w for a in drives]
    assert np.all(np.diff(np.ravel(by_drive)) >= 0) and by_drive[-1] > 10 * by_drive[0]
    speeds = np.linspace(0.0, 9.0, 19)
    by_speed = [power(ONE, ONE, fibre(velocity=-v, force_n=500.0), constants()).total_w for v in speeds]
    assert np.all(np.diff(np.ravel(by_speed)) > 0)


def test_orderly_recruitment_is_cheaper_at_low_drive_and_equal_at_full_drive():
    low, full = 0.1 * ONE, ONE
    as_published = en.umberger_power(low, low, fibre(), constants(), en.UMBERGER_2010).total_w
    assert en.umberger_power(low, low, fibre(), constants()).total_w < 0.6 * as_published
    np.testing.assert_allclose(en.umberger_power(full, full, fibre(), constants()).total_w, 228.6)


def test_bhargava_by_hand():
    # Full drive at L0: 2·(40·0.6 + 133·0.4 + 74·0.6 + 111·0.4) = 332 W of heat.
    # Shortening 1 L0/s = 0.1 m/s with 400 N: (0.16·1000 + 0.18·400)·0.1 = 23.2 W heat, 40 W work.
    power = en.bhargava_power(ONE, ONE, fibre(velocity=-1.0, force_n=400.0), constants())
    np.testing.assert_allclose(power.total_w, 332.0 + 23.2 + 40.0)
    # Lengthening gives 0.157·400·0.1 = 6.28 W of heat back, and the 40 W.
    power = en.bhargava_power(ONE, ONE, fibre(velocity=1.0, force_n=400.0), constants())
    np.testing.assert_allclose(power.total_w, 332.0 - 6.28 - 40.0)


def test_fibre_state_by_hand():
    # Path 0.29 m: (0.29 − 0.2)/0.1 = 0.9 L0; shortening at 0.2 m/s = −2 L0/s, FV = (1 − 0.2)² = 0.64.
    # FL at 0.9 with 0…1.8: 1 − ½(0.1/0.5)² = 0.98. Force 3000·0.5·0.98·0.64 = 940.8 N.
    state = en.fibre_state(0.5 * ONE, 0.29 * ONE, -0.2 * ONE, parameters())
    np.testing.assert_allclose([state.length[0], state.velocity[0]], [0.9, -2.0])
    np.testing.assert_allclose(state.active_force_n, 940.8)


def test_work_equals_force_times_path_velocity():
    state = en.fibre_state(0.5 * ONE, 0.29 * ONE, -0.2 * ONE, parameters())
    muscles = en.muscle_energetics(["soleus_r"], parameters())
    np.testing.assert_allclose(en.umberger_power(ONE, ONE, state, muscles).work_w, state.active_force_n * 0.2)


def test_muscle_mass_follows_force_and_length():
    # 3000 N / 0.6 MPa · 0.1 m = 5e-4 m³; · 1059.7 = 0.52985 kg.
    np.testing.assert_allclose(en.muscle_energetics(["soleus_r"], parameters()).mass_kg, 0.52985)


def test_slow_fibre_share_of_muscles_groups_and_sides():
    np.testing.assert_allclose(en.slow_fibre_share(["soleus_r", "soleus_l", "soleus"]), 0.803)
    np.testing.assert_allclose(en.slow_fibre_share(["vasti_r"]), (0.503 + 0.543 + 0.455) / 3)
    with pytest.raises(UserError, match="'biceps_r'"):
        en.slow_fibre_share(["biceps_r"])


def test_every_body_has_a_share_for_every_muscle():
    for body in en.BODIES.values():
        shares = en.slow_fibre_share([*body.muscle_groups, *body.trunk_muscles])
        assert np.all((shares > 0.3) & (shares < 0.9))


def test_jax_under_jit_agrees_with_numpy_for_batches():
    rng = np.random.default_rng(0)
    names = ["soleus_r", "vasti_r", "glutmax_r"]
    muscles = en.muscle_energetics(names, parameters(3))
    excitation, activation = rng.uniform(0, 1, (2, 5, 3))
    path, speed = rng.uniform(0.25, 0.36, (5, 3)), rng.uniform(-0.5, 0.5, (5, 3))

    def both(u, a, length, velocity):
        state = en.fibre_state(a, length, velocity, parameters(3))
        return en.umberger_power(u, a, state, muscles).total_w, en.bhargava_power(u, a, state, muscles).total_w

    for numpy_w, jax_w in zip(
        both(excitation, activation, path, speed),
        jax.jit(both)(*map(jnp.asarray, (excitation, activation, path, speed))),
        strict=True,
    ):
        assert numpy_w.shape == (5, 3)
        np.testing.assert_allclose(jax_w, numpy_w, rtol=2e-4)


def test_a_walking_body_costs_a_plausible_amount():
    # 26 muscles of 0.7 kg (18 kg) in a 75 kg person, drives between 0 and 0.3 over a cycle, fibres at ±1 L0/s.
    count, phase = 26, np.linspace(0, 2 * np.pi, 100, endpoint=False)[:, None] + np.arange(26)
    muscles = en.muscle_energetics(["vasti_r"] * count, parameters(count))
    muscles = muscles._replace(mass_kg=np.full(count, 0.7))
    drive = 0.3 * np.clip(np.sin(phase), 0, None)
    state = en.fibre_state(drive, 0.29 + 0.01 * np.cos(phase), 0.1 * np.cos(phase), parameters(count))
    for power in (en.umberger_power, en.bhargava_power):
        rate = en.metabolic_rate_w_kg(power(drive, drive, state, muscles).total_w, 75.0).mean()
        assert 2.0 < rate < 6.5
        assert en.cost_of_transport_j_kg_m(rate, 1.25) == pytest.approx(rate / 1.25)
    assert en.metabolic_rate_w_kg(np.zeros((4, 26)), 75.0).shape == (4,)
    np.testing.assert_allclose(en.metabolic_rate_w_kg(np.zeros((1, 26)), 75.0), 1.2)
