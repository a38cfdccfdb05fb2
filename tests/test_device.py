"""A profile is checked field by field, and its limiter means the same in NumPy and in JAX."""

import copy
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mjx_exo.device import (
    DEVICES_DIR,
    DeviceProfile,
    TorqueLimits,
    available_profiles,
    limit_torque,
    limit_torque_pair,
    velocity_ahead,
    velocity_pair_ahead,
)
from mjx_exo.errors import UserError

LIMITS = TorqueLimits(18.0, 150.0, 80.0)
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
PAIR = st.tuples(ANY_FLOAT, ANY_FLOAT).map(np.array)


@pytest.fixture
def table():
    return DeviceProfile.load("hip_3200g").to_dict()


@pytest.mark.parametrize("name", available_profiles())
def test_shipped_profiles_load_under_their_name(name):
    profile = DeviceProfile.load(name)
    assert profile.name == name
    assert DeviceProfile.load(DEVICES_DIR / f"{name}.toml") == profile
    assert DeviceProfile.from_dict(profile.to_dict()) == profile


def test_the_heavy_profile_is_the_published_device():
    profile = DeviceProfile.load("hip_3200g")
    assert profile.mass.total_kg == pytest.approx(3.2)
    assert (profile.torque.limit_nm, profile.torque.rate_limit_nm_s, profile.link.rate_hz) == (18.0, 150.0, 100.0)


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("torque", "limit_nm", -1, "torque.limit_nm = -1 is outside 0.1..60 Nm"),
        ("torque", "limit_nm", math.nan, "torque.limit_nm = nan is outside"),
        ("torque", "limit_nm", "18", "must be a number"),
        ("torque", "limit_nm", True, "must be a number"),
        ("link", "time_to_live_ms", 51, "link.time_to_live_ms = 51 is outside 5..50 ms"),
        ("link", "time_to_live_ms", 12, "shorter than two periods"),
        ("link", "baud", 1e6, "whole number"),
        ("imu", "sensors", ["gyro_yaw"], "not one of gyro_sagittal, gyro_three_axes"),
        ("imu", "sensors", [], "list of one or more"),
        ("imu", "rate_hz", 60.0, "below link.rate_hz"),
        ("imu", "placement", "hat", "lateral, front, back"),
        ("mass", "waist_offset_m", [0.0, 0.0], "list of 3"),
        ("wearer", "mass_kg", [20, 150], "outside 30..150 kg"),
        ("wearer", "mass_kg", [100, 60], "lightest, heaviest"),
        ("torque", "limit", 3, "unknown field torque.limit"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_range(table, section, field, value, words):
    table[section][field] = value
    with pytest.raises(UserError) as error:
        DeviceProfile.from_dict(table, "mine.toml")
    assert words in str(error.value) and "mine.toml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("section", ["mass", "torque", "actuator", "imu", "link", "wearer"])
def test_no_field_may_be_missing(table, section):
    for field in table[section]:
        damaged = copy.deepcopy(table)
        del damaged[section][field]
        with pytest.raises(UserError, match=f"{section}.{field} is missing"):
            DeviceProfile.from_dict(damaged)


def test_files_that_are_not_profiles_are_refused(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(UserError, match="not a TOML file"):
        DeviceProfile.load(broken)
    with pytest.raises(UserError, match="no such file"):
        DeviceProfile.load(tmp_path / "absent.toml")
    with pytest.raises(UserError, match="choose hip_1900g, hip_3200g"):
        DeviceProfile.load("knee")


def test_the_hash_follows_physics_and_not_names():
    profile = DeviceProfile.load("hip_3200g")
    renamed = dataclasses.replace(profile, name="mine", link=dataclasses.replace(profile.link, rate_hz=50.0))
    stronger = dataclasses.replace(profile, torque=dataclasses.replace(profile.torque, limit_nm=17.9))
    assert renamed.profile_hash() == profile.profile_hash() != stronger.profile_hash()
    assert len({DeviceProfile.load(name).profile_hash() for name in available_profiles()}) == len(available_profiles())


def test_limits_take_the_smaller_of_body_and_device():
    profile = DeviceProfile.load("hip_3200g")
    assert profile.limits(40.0).limit_nm == pytest.approx(10.0)
    assert profile.limits(np.array([40.0, 100.0])).limit_nm == pytest.approx([10.0, 18.0])
    with pytest.raises(UserError, match="29 kg is outside 30"):
        profile.check_wearer_mass(29.0)
    with pytest.raises(UserError):
        profile.check_wearer_mass(math.nan)


@pytest.mark.parametrize(
    ("desired", "last", "velocity", "expected"),
    [
        ([30.0, -30.0], [18.0, -18.0], [0.0, 0.0], [18.0, -18.0]),
        ([5.0, -5.0], [0.0, 0.0], [0.0, 0.0], [1.5, -1.5]),
        ([math.nan, math.inf], [1.0, 3.0], [0.0, 0.0], [0.0, 1.5]),
        ([18.0, -18.0], [9.0, -8.5], [10.0, -10.0], [8.0, -8.0]),
        ([1.0, 1.0], [math.nan, 40.0], [math.nan, math.inf], [1.0, 16.5]),
    ],
)
def test_limiter_by_hand(desired, last, velocity, expected):
    out = limit_torque(LIMITS, np.array(desired), np.array(last), np.array(velocity), 0.01)
    np.testing.assert_allclose(out, expected)


@given(desired=PAIR, last=PAIR, velocity=PAIR, dt=ANY_FLOAT)
@settings(max_examples=300, deadline=None)
def test_limiter_holds_for_any_float(desired, last, velocity, dt):
    with np.errstate(all="ignore"):
        out = limit_torque(LIMITS, desired, last, velocity, dt)
    assert np.all(np.abs(out) <= 18.0)
    start = np.clip(np.where(np.isfinite(last), last, 0.0), -18.0, 18.0)
    allowed = 150.0 * (dt if math.isfinite(dt) and dt > 0 else 0.0)
    assert np.all(np.abs(out - start) <= allowed + 1e-9)


@given(desired=PAIR, last=PAIR, velocity=st.none() | PAIR, dt=ANY_FLOAT)
@settings(max_examples=300, deadline=None)
def test_limiter_in_plain_numbers_is_the_limiter(desired, last, velocity, dt):
    with np.errstate(all="ignore"):
        expected = limit_torque(LIMITS, desired, last, velocity, dt)
    velocity = None if velocity is None else tuple(velocity)
    assert limit_torque_pair(LIMITS, tuple(desired), tuple(last), velocity, dt) == tuple(expected)


def test_limiter_in_jit_is_the_limiter_in_numpy():
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    desired, last = rng.normal(0, 15, (2, 64, 2)).astype(np.float32)
    velocity = rng.normal(0, 5, (64, 2)).astype(np.float32)
    desired[0], last[1], velocity[2] = np.nan, np.inf, np.nan
    limits = DeviceProfile.load("hip_3200g").limits(rng.uniform(40, 90, (64, 1)).astype(np.float32))
    fast = jax.jit(limit_torque)(limits, desired, last, velocity, 0.01)
    plain = limit_torque(limits, desired, last, velocity, np.float32(0.01))
    np.testing.assert_allclose(fast, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("velocity", "before", "apart", "expected"),
    [
        ([4.0, -4.0], [3.0, -3.0], 0.01, [8.0, -8.0]),  # 100 rad/s² for 40 ms
        ([4.0, -4.0], [5.0, -5.0], 0.01, [4.0, -4.0]),  # it slows down: the present velocity
        ([0.5, 1.0], [2.5, math.nan], 0.01, [-7.5, 1.0]),  # it turns round and is faster then
        ([4.0, math.inf], [3.0, 3.0], 0.0, [4.0, math.inf]),  # nothing is known of the change
    ],
)
def test_the_velocity_ahead_by_hand(velocity, before, apart, expected):
    out = velocity_ahead(np.array(velocity), np.array(before), apart, 0.04)
    np.testing.assert_allclose(out, expected)
    assert velocity_pair_ahead(tuple(velocity), tuple(before), apart, 0.04) == pytest.approx(tuple(expected))
    assert velocity_pair_ahead(tuple(velocity), None, apart, 0.04) == tuple(velocity)


def test_the_limits_know_how_late_torque_is_applied():
    profile = DeviceProfile.load("hip_3200g")
    assert profile.limits(75.0).lag_s == pytest.approx(0.01 + 1.0 / (2.0 * math.pi * 10.0))
