"""What a wearer is made of: curves, paths, skeleton. The published model and MuJoCo itself are the reference."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import mujoco
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.muscle_paths import torque_errors
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal import paths
from mjx_exo.musculoskeletal.bodies import BODIES, body_description, walking_range_rad
from mjx_exo.musculoskeletal.compiled import compile_body, load_body, published_model, save_body
from mjx_exo.musculoskeletal.muscle import muscle_functions
from mjx_exo.musculoskeletal.skeleton import ContactOptions
from mjx_exo.musculoskeletal.wearer import Wearer, WearerRange, draw_wearers
from mjx_exo.physics.published_model import build_published

# MuJoCo's gain parameters: operating range, peak force, scale, lmin, lmax, vmax, fpmax, fvmax.
GAIN = np.array([0.4, 1.4, 1500.0, 1.0, 0.5, 1.6, 10.0, 1.3, 1.4])
LENGTH_RANGE = np.array([0.10, 0.30])
OPTIMAL = (LENGTH_RANGE[1] - LENGTH_RANGE[0]) / (GAIN[1] - GAIN[0])
REST = LENGTH_RANGE[0] - GAIN[0] * OPTIMAL
CURVES = muscle_functions(np)


def tension(curves, activation, length_m, velocity_m_s):
    constants = (GAIN[2], OPTIMAL, REST, GAIN[4], GAIN[5], GAIN[6], GAIN[7], GAIN[8])
    return curves.tension(activation, length_m, velocity_m_s, *constants)


@pytest.fixture(scope="module", params=list(BODIES))
def any_body(request):
    return compile_body(request.param)


def skeleton(body, wearer=Wearer(), worn=None):
    model = mujoco.MjModel.from_xml_string(body.model_xml(wearer, 0.001, ContactOptions(), worn))
    return model, mujoco.MjData(model)


# ---------------------------------------------------------------- muscle


@settings(deadline=None, max_examples=200)
@given(
    activation=st.floats(0.0, 1.0),
    length=st.floats(0.02, 0.45),
    velocity=st.floats(-4.0, 4.0),
)
def test_tension_is_mujocos(activation, length, velocity):
    gain = mujoco.mju_muscleGain(length, velocity, LENGTH_RANGE, 1.0, GAIN)
    bias = mujoco.mju_muscleBias(length, LENGTH_RANGE, 1.0, GAIN)
    force, _ = tension(CURVES, activation, length, velocity)
    assert float(force) == pytest.approx(-(gain * activation + bias), rel=1e-9, abs=1e-6)


@settings(deadline=None, max_examples=200)
@given(activation=st.floats(0.0, 1.0), excitation=st.floats(-0.5, 1.5))
def test_activation_starts_at_mujocos_rate_and_never_overshoots(activation, excitation):
    rate = mujoco.mju_muscleDynamics(excitation, activation, np.array([0.01, 0.04, 0.0]))
    after = float(CURVES.activate(activation, excitation, 0.01, 0.04, 1e-6))
    assert (after - activation) / 1e-6 == pytest.approx(rate, rel=1e-3, abs=1e-3)
    target = min(max(excitation, 0.0), 1.0)
    much_later = float(CURVES.activate(activation, excitation, 0.01, 0.04, 1.0))
    assert min(activation, target) - 1e-12 <= much_later <= max(activation, target) + 1e-12
    assert much_later == pytest.approx(target, abs=1e-4)


def test_velocity_slope_is_the_derivative_of_tension():
    velocity = np.linspace(-3.0, 3.0, 41) + 1e-3
    step = 1e-6
    _, slope = tension(CURVES, 0.7, 0.2, velocity)
    numerical = (tension(CURVES, 0.7, 0.2, velocity + step)[0] - tension(CURVES, 0.7, 0.2, velocity - step)[0]) / step
    np.testing.assert_allclose(slope, 0.5 * numerical, rtol=1e-4, atol=1e-3)
    assert np.all(slope >= 0.0)


def test_numpy_jax_and_numba_give_the_same_tension():
    rng = np.random.default_rng(0)
    activation, length = rng.uniform(0, 1, 300), rng.uniform(0.05, 0.4, 300)
    velocity = rng.uniform(-3, 3, 300)
    reference, slope = tension(CURVES, activation, length, velocity)
    in_jax = tension(muscle_functions(jnp), *(jnp.asarray(x, jnp.float32) for x in (activation, length, velocity)))
    np.testing.assert_allclose(np.asarray(in_jax[0]), reference, rtol=2e-4, atol=0.2)
    np.testing.assert_allclose(np.asarray(in_jax[1]), slope, rtol=2e-3, atol=0.5)
    scalars = SimpleNamespace(
        where=numba.njit(lambda c, a, b: a if c else b), minimum=np.minimum, maximum=np.maximum, exp=np.exp
    )
    compiled = muscle_functions(scalars, numba.njit(error_model="numpy"))
    one_by_one = np.array([tension(compiled, *row) for row in zip(activation, length, velocity, strict=True)])
    np.testing.assert_allclose(one_by_one[:, 0], reference, rtol=1e-12, atol=1e-9)


# ---------------------------------------------------------------- paths


def test_every_compiled_path_is_within_the_bar_on_postures_it_has_not_seen(body):
    description = body_description(body.name)
    samples = paths.sample_paths(published_model(description), description.leg_joints, body.leg.paths.muscles, 300, 11)
    errors = paths.path_errors(body.leg.paths, samples)
    assert len(errors) == len(body.leg.paths.crossings)
    assert np.percentile([e.length_rms_mm for e in errors], 95) < 0.5
    assert np.percentile([e.arm_rms_mm for e in errors], 95) < 2.0


def test_joint_torque_is_the_published_models(body):
    result = torque_errors(body, 60, seed=3)
    assert result["torque_rms_relative"] < 0.03
    assert max(result["torque_rms_relative_by_joint"].values()) < 0.03


def test_work_along_a_path_is_the_change_of_length(body):
    """Tension 1 N over any way through the joint angles does the work L(start) − L(end)."""
    limb = body.leg.paths
    rng = np.random.default_rng(5)
    ends = limb.centre_rad + 0.9 * limb.half_range_rad * rng.uniform(-1, 1, (2, len(limb.joints)))
    share, weight = np.polynomial.legendre.leggauss(12)
    way = ends[0] + 0.5 * (share[:, None] + 1.0) * (ends[1] - ends[0])
    _, arms = limb.evaluate(way)
    work = 0.5 * np.einsum("s,smj,j->m", weight, arms, ends[1] - ends[0])
    length, _ = limb.evaluate(ends)
    np.testing.assert_allclose(work, length[0] - length[1], atol=1e-9)


def test_beyond_the_range_a_path_stays_as_at_its_end(body):
    limb = body.leg.paths
    edge = limb.centre_rad + limb.half_range_rad
    at_edge, beyond = limb.evaluate(edge[None]), limb.evaluate(edge[None] + 0.7)
    for a, b in zip(at_edge, beyond, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        assert np.isfinite(a).all()


def test_muscles_pull_where_anatomy_says(body):
    """Signs of moment arms nobody disputes, mid-range."""
    limb = body.leg.paths
    _, arms = limb.evaluate(np.array([[0.2, 0.0, 0.0, 0.4, 0.0, 0.0]]))

    def arm(muscle, joint):
        return arms[0, limb.muscles.index(muscle), limb.joints.index(joint)]

    assert arm("iliopsoas", "hip_flexion") > 0.02 and arm("glutmax", "hip_flexion") < -0.02
    assert arm("abd", "hip_adduction") < -0.02 and arm("add", "hip_adduction") > 0.01
    assert arm("vasti", "knee_flexion") < -0.02 and arm("hamstrings", "knee_flexion") > 0.02
    assert arm("soleus", "ankle_dorsiflexion") < -0.03 and arm("tibant", "ankle_dorsiflexion") > 0.02
    assert arm("edl", "mtp_extension") > 0.0 and arm("fdl", "mtp_extension") < 0.0


def test_toe_muscles_of_the_large_bodies_pull_where_their_names_say():
    limb = compile_body("myolegs_abdomen").leg.paths
    _, arms = limb.evaluate(np.zeros((1, len(limb.joints))))
    toes, subtalar = limb.joints.index("mtp_extension"), limb.joints.index("subtalar_inversion")
    assert arms[0, limb.muscles.index("edl"), toes] > 0.002 > -0.002 > arms[0, limb.muscles.index("fdl"), toes]
    assert arms[0, limb.muscles.index("tibpost"), subtalar] > 0.005 > arms[0, limb.muscles.index("perlong"), subtalar]


# ---------------------------------------------------------------- skeleton


def test_skeleton_keeps_mass_centre_of_mass_and_inertia(any_body):
    model, data = skeleton(any_body)
    mujoco.mj_forward(model, data)
    published = build_published(any_body, 0.002)
    reference = mujoco.MjData(published.model)
    joints = len(any_body.joint_names)
    zeros = np.zeros((1, joints))
    upright = np.concatenate([[[0.0, 0, 0, 1, 0, 0, 0]], zeros], 1)
    still = np.zeros((1, 6 + joints))
    c = published.coordinates
    reference.qpos[:] = c.to_published(upright, still, *c.dependents(zeros, zeros))[0][0]
    mujoco.mj_forward(published.model, reference)
    assert model.body_mass.sum() == pytest.approx(published.model.body_mass.sum(), rel=1e-6)
    centre = c.from_published(
        np.concatenate([reference.subtree_com[[0]], reference.qpos[None, 3:]], 1), np.zeros((1, published.model.nv))
    )[0][0, :3]
    np.testing.assert_allclose(data.subtree_com[0], centre, atol=2e-3)
    np.testing.assert_allclose(root_inertia(model, data), root_inertia(published.model, reference), rtol=0.02)


def root_inertia(model, data):
    """Inertia of the whole body about the pelvis: forward, sideways and vertical axis."""
    unit, momentum = np.zeros(model.nv), np.zeros(model.nv)
    inertia = []
    for axis in (3, 4, 5):
        unit[:] = np.arange(model.nv) == axis
        mujoco.mj_mulM(model, data, momentum, unit)
        inertia.append(momentum[axis])
    return np.sort(inertia)


def test_left_leg_mirrors_the_right(any_body):
    segments = {s.name: s for s in any_body.segments}
    mirror = np.diag([1.0, -1.0, 1.0])
    for name, right in segments.items():
        if not name.endswith("_r"):
            continue
        left = segments[name[:-2] + "_l"]
        assert left.mass_kg == right.mass_kg
        np.testing.assert_allclose(left.com_m, mirror @ right.com_m, atol=1e-12)
        np.testing.assert_allclose(left.inertia_kg_m2, mirror @ right.inertia_kg_m2 @ mirror, atol=1e-12)
        for a, b in zip(right.hinges, left.hinges, strict=True):
            np.testing.assert_allclose(b.axis, -mirror @ a.axis, atol=1e-12)
            np.testing.assert_allclose(b.anchor_m, mirror @ a.anchor_m, atol=1e-12)
            assert a.range_rad == b.range_rad


def test_foot_goes_where_the_published_knee_takes_it(any_body):
    """The published knee slides and turns; one fixed axis must still bring the heel to its place in swing."""
    model, data = skeleton(any_body)
    data.qpos[:3] = 0.0
    published = build_published(any_body, 0.002)
    c, reference = published.coordinates, mujoco.MjData(published.model)
    names = any_body.joint_names
    angles = np.zeros((1, len(names)))
    for side in ("_r", "_l"):
        angles[0, names.index(f"knee_flexion{side}")] = np.radians(60.0)
    upright = np.concatenate([[[0.0, 0, 0, 1, 0, 0, 0]], angles], 1)
    reference.qpos[:] = c.to_published(upright, np.zeros((1, 6 + len(names))), *c.dependents(angles, 0 * angles))[0][0]
    mujoco.mj_kinematics(published.model, reference)
    data.qpos[7:] = angles
    mujoco.mj_kinematics(model, data)
    for side in ("_r", "_l"):
        there = reference.site(f"ours_heel{side}").xpos
        there = np.array([-there[1], there[0], there[2]])
        assert np.abs(data.site(f"heel{side}").xpos - there)[[0, 2]].max() < 0.003
        assert np.abs(data.site(f"heel{side}").xpos - there)[1] < 0.012


def positions(model, data, joint, angle):
    """Places of the named sites and of the trunk with one joint moved, pelvis fixed."""
    data.qpos[:] = model.qpos0
    data.qpos[model.joint(joint).qposadr] = angle
    mujoco.mj_kinematics(model, data)
    places = {model.site(i).name: data.site_xpos[i].copy() for i in range(model.nsite)}
    for side in ("_r", "_l"):  # how far the inner edge of the foot is above the outer one
        places[f"sole{side}"] = data.geom(f"ball_medial{side}").xpos - data.geom(f"ball_lateral{side}").xpos
    return places | {model.body(i).name: data.xipos[i].copy() for i in range(model.nbody)}


def leg_expectations(side):
    """Joint → (point, direction it must move in when the joint turns positive)."""
    inwards = 1.0 if side == "_r" else -1.0
    return {
        "hip_flexion": ("heel", (1, 0, 0)),
        "hip_adduction": ("heel", (0, inwards, 0)),
        "hip_rotation": ("toe", (0, inwards, 0)),
        "knee_flexion": ("heel", (-1, 0, 0)),
        "ankle_dorsiflexion": ("toe", (0, 0, 1)),
        "subtalar_inversion": ("sole", (0, 0, 1)),
        "mtp_extension": ("toe", (0, 0, 1)),
    }


@pytest.mark.parametrize("side", ["_r", "_l"])
def test_positive_angles_move_the_leg_the_way_their_names_say(any_body, side):
    model, data = skeleton(any_body)
    for joint, (point, direction) in leg_expectations(side).items():
        if joint + side not in any_body.joint_names:
            assert joint == "subtalar_inversion"
            continue
        before, after = (positions(model, data, joint + side, a) for a in (0.0, 0.2))
        moved = (after[point + side] - before[point + side]) @ np.array(direction)
        assert moved > 0.003, (joint, moved)
        other = "_l" if side == "_r" else "_r"
        np.testing.assert_allclose(after["heel" + other], before["heel" + other], atol=1e-12)


def test_positive_lumbar_angles_move_the_trunk_forward_right_and_left():
    body = compile_body("myolegs_abdomen")
    model, data = skeleton(body)
    still = positions(model, data, "lumbar_flexion", 0.0)["trunk"]
    assert positions(model, data, "lumbar_flexion", 0.2)["trunk"][0] > still[0] + 0.02
    lateral = positions(model, data, "lumbar_bending", 0.2)["trunk"][1] - still[1]
    assert abs(lateral) > 0.02


def test_pushing_each_control_turns_its_joint_the_positive_way(any_body):
    model, data = skeleton(any_body)
    model.opt.gravity[:] = 0.0
    for name in any_body.joint_names:
        mujoco.mj_resetData(model, data)
        data.qpos[2] = 3.0
        data.ctrl[model.actuator(f"torque_{name}").id] = 1.0
        for _ in range(5):
            mujoco.mj_step(model, data)
        assert data.qvel[model.joint(name).dofadr[0]] > 0.0, name


# ---------------------------------------------------------------- wearers and devices


def test_wearer_scales_lengths_mass_and_force(body):
    wearer = Wearer(mass_kg=60.0, height_m=1.575, strength=0.5)
    model, data = skeleton(body, wearer)
    mujoco.mj_kinematics(model, data)
    average, standing = skeleton(body)
    mujoco.mj_kinematics(average, standing)
    assert model.body_mass.sum() == pytest.approx(60.0, rel=1e-6)
    assert body.length_scale(wearer) == pytest.approx(0.9)
    leg = data.qpos[2] - data.site("heel_r").xpos[2]
    assert leg == pytest.approx(0.9 * (standing.qpos[2] - standing.site("heel_r").xpos[2]), rel=1e-6)
    mine, theirs = body.muscle_parameters(wearer), body.muscle_parameters()
    np.testing.assert_allclose(mine.optimal_length_m, 0.9 * theirs.optimal_length_m)
    np.testing.assert_allclose(mine.peak_force_n, 0.5 * 60.0 / body.mass_kg * theirs.peak_force_n)


@pytest.mark.parametrize(
    ("field", "value"),
    [("mass_kg", -1.0), ("mass_kg", 29.0), ("mass_kg", 151.0), ("height_m", 3.0), ("strength", 0.0), ("friction", 9.0)],
)
def test_an_impossible_wearer_is_refused_in_one_line(field, value):
    with pytest.raises(UserError, match=field) as error:
        Wearer(**{field: value})
    assert "\n" not in str(error.value) and f"{value:g}" in str(error.value)


def test_the_same_seed_draws_the_same_wearers():
    ranges = WearerRange()
    first, again, other = draw_wearers(20, ranges, 3), draw_wearers(20, ranges, 3), draw_wearers(20, ranges, 4)
    assert first == again != other
    assert all(ranges.height_m[0] <= w.height_m <= ranges.height_m[1] for w in first)


def test_wearing_a_device_adds_its_masses_where_they_sit(body):
    profile = DeviceProfile.load("hip_3200g")
    bare, worn = (skeleton(body, worn=p)[0] for p in (None, profile))
    assert worn.body_mass.sum() - bare.body_mass.sum() == pytest.approx(profile.mass.total_kg, rel=1e-6)
    for name in ("femur_r", "femur_l"):
        assert worn.body(name).mass[0] - bare.body(name).mass[0] == pytest.approx(profile.mass.thigh_kg, rel=1e-6)
    right, left = worn.body("femur_r").ipos, worn.body("femur_l").ipos
    np.testing.assert_allclose(right, left * [1.0, -1.0, 1.0], atol=1e-9)


def test_unknown_body_names_the_known_ones():
    with pytest.raises(UserError, match="myolegs26"):
        compile_body("nobody")


def test_a_compiled_body_survives_the_disk(body, tmp_path):
    save_body(body, tmp_path / "body.npz")
    again = load_body(tmp_path / "body.npz")
    assert again.segments == body.segments and again.muscle_names == body.muscle_names
    angles = np.full((1, len(body.leg.paths.joints)), 0.1)
    for a, b in zip(body.leg.paths.evaluate(angles), again.leg.paths.evaluate(angles), strict=True):
        np.testing.assert_array_equal(a, b)


def test_walking_ranges_lie_inside_the_joint_ranges(any_body):
    description = body_description(any_body.name)
    hinges = {h.name: h for h in any_body.hinges}
    for joint in (*description.leg_joints, *description.trunk_joints):
        hinge = hinges.get(joint.name) or hinges[f"{joint.name}_r"]
        low, high = walking_range_rad(joint)
        assert hinge.range_rad[0] - 0.01 <= low < high <= hinge.range_rad[1] + 0.01, joint.name
        assert dataclasses.asdict(hinge)["damping_nm_s"] > 0.0
