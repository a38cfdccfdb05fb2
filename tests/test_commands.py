"""What a walker is asked: commands, the pace that follows them, and the gait clock."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.gait.norms import stride_frequency_hz
from mjx_exo.walking.commands import (
    SLOWEST_WALK_M_S,
    STOP_WHEN,
    Command,
    advance_command,
    ask_again,
    draw_command,
    gravity,
    standing,
)
from mjx_exo.walking.config import CommandConfig
from mjx_exo.walking.gait_clock import advance_clock, clock_frequency_hz
from mjx_exo.walking.pacing import PACING_LIMIT_M_S, advance_pacing, aim


def test_pacing_takes_out_a_constant_lag_and_nothing_while_standing():
    still, walk = jnp.zeros(3), jnp.array([0.6, 1.2, 0.0])
    command = Command(walk, walk, still, still, jnp.zeros((3, 3)), still)
    pacing, speed = jnp.zeros(3), jnp.zeros(3)
    for _ in range(750):  # 15 s
        speed += 0.02 / 0.5 * (aim(command, pacing) - jnp.array([0.07, 0.4, 0.0]) - speed)
        pacing = advance_pacing(pacing, command, speed, 0.4, 0.02)
    np.testing.assert_allclose(speed, [0.6, 1.2 - 0.4 + PACING_LIMIT_M_S, 0.0], atol=2e-3)
    assert pacing[2] == 0.0
    crawl = command._replace(speed_m_s=jnp.full(3, 0.4))  # below the slowest walk, asked for on purpose
    np.testing.assert_array_equal(aim(crawl, jnp.zeros(3)), crawl.speed_m_s)
    np.testing.assert_allclose(aim(crawl, jnp.array([-0.1, 0.0, 0.1])), [0.4, 0.4, 0.5])
    assert (advance_pacing(pacing, command, speed, 0.0, 0.02) == pacing).all()


def test_commands_stay_in_their_ranges_and_move_at_a_limited_rate():
    config = CommandConfig(speed_m_s=(0.6, 1.8), slope_rad=(-0.1, 0.1), resample_s=0.5, push_n=80.0, push_every_s=0.5)
    command = draw_command(jax.random.key(0), config, 64, jnp.float32(1.0))
    phase = jnp.zeros(64)
    step = jax.jit(lambda key, c: advance_command(key, c, phase, config, 0.02, jnp.float32(1.0), jnp.float32(1.0)))
    pushed = 0
    for key in jax.random.split(jax.random.key(1), 200):
        after = step(key, command)
        assert float(jnp.abs(after.speed_m_s - command.speed_m_s).max()) <= 0.4 * 0.02 + 1e-6
        assert float(jnp.abs(after.slope_rad - command.slope_rad).max()) <= 0.05 * 0.02 + 1e-6
        assert float(after.speed_m_s.min()) >= 0.6 - 1e-6
        assert float(after.speed_m_s.max()) <= 1.8 + 1e-6
        assert float(jnp.linalg.norm(after.push_n, axis=-1).max()) <= 80.0 + 1e-4
        pushed += int((after.push_n != 0).any())
        command = after
    assert pushed > 20


def test_narrow_commands_come_first():
    config = CommandConfig(speed_m_s=(0.6, 1.8))
    closed = draw_command(jax.random.key(0), config, 64, jnp.float32(0.0))
    np.testing.assert_allclose(np.asarray(closed.speed_m_s), 1.2, rtol=1e-6)


def test_standing_is_asked_for_only_where_it_is_configured():
    config = CommandConfig(speed_m_s=(0.8, 1.6), stand_share=0.25)
    drawn = draw_command(jax.random.key(0), config, 4000, jnp.float32(1.0))
    still = np.asarray(standing(drawn.speed_m_s))
    assert 0.2 < still.mean() < 0.3 and (np.asarray(drawn.speed_m_s)[~still] >= 0.8).all()
    never = draw_command(jax.random.key(0), dataclasses.replace(config, stand_share=0.0), 4000, jnp.float32(1.0))
    assert not standing(never.speed_m_s).any()


def test_what_a_walker_fell_at_is_asked_again():
    config = CommandConfig(speed_m_s=(0.8, 1.6), slope_rad=(-0.1, 0.1))
    fresh, before = (draw_command(jax.random.key(k), config, 2000, jnp.float32(1.0)) for k in (0, 1))
    fell = jnp.arange(2000) % 2.0
    asked = ask_again(jax.random.key(2), fresh, before, fell, 0.5)
    again = np.asarray(asked.speed_target_m_s == before.speed_target_m_s)
    assert not again[::2].any() and 0.4 < again[1::2].mean() < 0.6
    np.testing.assert_array_equal(asked.slope_target_rad[again], before.slope_target_rad[again])
    speed = np.asarray(asked.speed_m_s)[again]  # at once, out of standing, or out of another speed and slope
    from_standing, at_once = speed == 0, speed == np.asarray(asked.speed_target_m_s)[again]
    assert 0.2 < from_standing.mean() < 0.3 and 0.3 < at_once.mean() < 0.4
    elsewhere = ~from_standing & ~at_once
    np.testing.assert_array_equal(speed[elsewhere], np.asarray(fresh.speed_m_s)[again][elsewhere])
    moves = np.asarray(asked.slope_rad != asked.slope_target_rad)[again]
    np.testing.assert_array_equal(moves, elsewhere)
    np.testing.assert_array_equal(asked.speed_target_m_s[~again], fresh.speed_m_s[~again])
    stops = ask_again(jax.random.key(2), fresh, before._replace(speed_target_m_s=jnp.zeros(2000)), fell, 1.0)
    speed = np.asarray(stops.speed_m_s)[1::2]
    assert (np.asarray(stops.speed_target_m_s)[1::2] == 0).all()
    walks, steps = speed >= SLOWEST_WALK_M_S, np.asarray(standing(speed)) & (speed > 0)
    assert (walks ^ steps).all() and 0.4 < walks.mean() < 0.6  # never from standing: out of a walk or of its last step


def test_a_command_goes_between_standing_and_walking_without_creeping():
    config = CommandConfig(speed_m_s=(0.8, 0.8), speed_rate_m_s2=0.5)
    command = draw_command(jax.random.key(0), config, 2, jnp.float32(1.0))
    command = command._replace(speed_m_s=jnp.array([0.0, 0.8]), speed_target_m_s=jnp.array([0.8, 0.0]))
    seen = []
    phases = np.arange(150) * 0.02 * 0.6 % 1.0
    for phase in phases:
        now = jnp.full(2, phase)
        command = advance_command(jax.random.key(1), command, now, config, 0.02, jnp.float32(1.0), jnp.float32(0.0))
        seen.append(np.asarray(command.speed_m_s))
    starting, stopping = np.array(seen).T
    assert starting[0] == pytest.approx(SLOWEST_WALK_M_S) and starting[-1] == pytest.approx(0.8)
    assert (np.diff(starting) >= 0).all() and (np.diff(starting) <= 0.0101).all()
    assert stopping[-1] == 0.0 and not ((stopping > 0) & (stopping < SLOWEST_WALK_M_S)).any()
    in_step = 2.0 * phases[np.argmax(stopping == 0.0)] % 1.0
    assert STOP_WHEN[0] - 1e-6 <= in_step < STOP_WHEN[1]
    assert (np.diff(np.flatnonzero(stopping == 0.0)) == 1).all(), "who stands stays standing, wherever the clock is"


def test_the_clock_goes_on_until_a_foot_lands_beside_the_other_and_goes_on_from_there():
    phase, one = jnp.array([0.0, 0.2, 0.5, 0.97]), jnp.ones(4)
    for _ in range(100):
        last, phase = phase, advance_clock(phase, 0.0 * one, one, one > 0, 0.02)
        ahead = np.asarray(phase - last) % 1.0
        assert (ahead < 0.03).all()
    assert np.asarray(phase).tolist() == [0.0, 0.5, 0.5, 0.0]
    assert (np.asarray(advance_clock(phase, 1.25 * one, one, one > 0, 0.02)) > np.asarray(phase)).all()
    for _ in range(20):  # with one foot in front, another step is due
        phase = advance_clock(phase, 0.0 * one, one, one < 0, 0.02)
    np.testing.assert_allclose(phase, [0.36, 0.86, 0.86, 0.36], atol=1e-4)  # 0.4 s of quick last steps


def test_steps_grow_quicker_with_speed_and_slow_ones_do_not_linger():
    speed = np.array([0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 1.8])
    frequency = np.asarray(clock_frequency_hz(jnp.asarray(speed)))
    assert (np.diff(frequency) > 0).all() and (np.diff(speed / frequency) > 0).all(), "and steps grow longer, too"
    people = stride_frequency_hz(speed)
    np.testing.assert_allclose(frequency[speed >= 1.25], people[speed >= 1.25], rtol=0.05)
    assert (frequency >= people - 0.05).all() and frequency[0] > 0.7


def test_uphill_gravity_pulls_back():
    g = np.asarray(gravity(jnp.array([math.radians(5.0), 0.0])))
    assert g[0, 0] == pytest.approx(-9.81 * math.sin(math.radians(5.0)), rel=1e-5)
    np.testing.assert_allclose(g[1], [0.0, 0.0, -9.81], atol=1e-6)
