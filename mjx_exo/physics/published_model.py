"""The published model prepared for the walking task, and what translates between its coordinates and the project's.

The model keeps its own tendons, muscles, masses, joints, collision geometry and equality constraints. What changes: our
sensors and the device's mass are added, a floor takes the pedestal's place, the hinges get the wearer's passive
properties (the published ones have next to none; their toes flap), and the constraints are stiffened. As shipped they
let the patella's path point slip 11 to 20 mm under load, and massless sliding points allow no more.
"""

from __future__ import annotations

import dataclasses
import warnings

import mujoco
import numpy as np

from mjx_exo.conventions import SIDE_SUFFIX, SIDES, side_of
from mjx_exo.device import DeviceProfile
from mjx_exo.musculoskeletal.bodies import PUBLISHED_TO_WORLD, body_description
from mjx_exo.musculoskeletal.compiled import CompiledBody
from mjx_exo.musculoskeletal.fixed_axis import zero_posture
from mjx_exo.musculoskeletal.skeleton import SENSORS, ContactOptions, Hinge, foot_segment
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.physics.interface import ROOT_QPOS, ROOT_QVEL

TO_PUBLISHED = PUBLISHED_TO_WORLD.T
_SLIDE_ARMATURE_KG = 0.05
_FLOOR = "floor"
_FOOT_BODIES = ("talus", "calcn", "toes")
_CONTACT_FORCE, _NET_FORCE = 2, 3  # what MuJoCo's contact sensor reports, and how it sums up
_SENSOR_KINDS = {
    "gyro": mujoco.mjtSensor.mjSENS_GYRO,
    "force": mujoco.mjtSensor.mjSENS_CONTACT,
    "position": mujoco.mjtSensor.mjSENS_FRAMEPOS,
    "velocity": mujoco.mjtSensor.mjSENS_FRAMELINVEL,
}


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """Where the project's J hinges and M muscles, and the D dependent joints, are in the published model."""

    hinge_qpos: np.ndarray  # [J] address in qpos
    hinge_dof: np.ndarray  # [J]
    sign: np.ndarray  # [J] ±1, published positive is ours
    middle_rad: np.ndarray  # [J] middle of the published range, published sign
    slave_qpos: np.ndarray  # [D]
    slave_dof: np.ndarray  # [D]
    master: np.ndarray  # [D] hinge (0…J−1) a dependent joint follows
    polynomial: np.ndarray  # [D, 5] its constraint polynomial, about the zero posture
    zero: np.ndarray  # [nq] zero posture
    actuators: np.ndarray  # [M] in the order of `CompiledBody.muscle_names`

    @property
    def sizes(self) -> tuple[int, int]:
        """nq and nv of the published model."""
        return len(self.zero), len(self.zero) - 1

    def dependents(self, hinges_rad: np.ndarray, velocities_rad_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Dependent coordinates and velocities, [N, D] each, where the constraints want them; both inputs [N, J]."""
        x = (self.sign * hinges_rad)[:, self.master]
        powers = x[..., None] ** np.arange(5)
        slope = (powers[..., :4] * (self.polynomial[:, 1:] * np.arange(1, 5))).sum(-1)
        place = self.zero[self.slave_qpos] + (powers * self.polynomial).sum(-1)
        return place, slope * (self.sign * velocities_rad_s)[:, self.master]

    def to_published(
        self, qpos: np.ndarray, qvel: np.ndarray, place: np.ndarray, speed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Published qpos [N, nq], qvel [N, nv] from ours and the dependent coordinates [N, D] and their velocities."""
        nq, nv = self.sizes
        q, v = np.zeros((len(qpos), nq)), np.zeros((len(qpos), nv))
        q[:, :3] = qpos[:, :3] @ TO_PUBLISHED.T
        q[:, 3] = qpos[:, 3]
        q[:, 4:7] = qpos[:, 4:7] @ TO_PUBLISHED.T
        q[:, self.hinge_qpos] = self.zero[self.hinge_qpos] + self.sign * qpos[:, ROOT_QPOS:]
        q[:, self.slave_qpos] = place
        v[:, :3] = qvel[:, :3] @ TO_PUBLISHED.T
        v[:, 3:6] = qvel[:, 3:6] @ TO_PUBLISHED.T
        v[:, self.hinge_dof] = self.sign * qvel[:, ROOT_QVEL:]
        v[:, self.slave_dof] = speed
        return q, v

    def from_published(self, q: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Our qpos [N, 7 + J] and qvel [N, 6 + J]."""
        hinges = self.sign * (q[:, self.hinge_qpos] - self.zero[self.hinge_qpos])
        qpos = np.concatenate(
            [q[:, :3] @ PUBLISHED_TO_WORLD.T, q[:, 3:4], q[:, 4:7] @ PUBLISHED_TO_WORLD.T, hinges], axis=1
        )
        hinge_speeds = self.sign * v[:, self.hinge_dof]
        qvel = np.concatenate([v[:, :3] @ PUBLISHED_TO_WORLD.T, v[:, 3:6] @ PUBLISHED_TO_WORLD.T, hinge_speeds], axis=1)
        return qpos, qvel


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """The model and where to find things in it."""

    model: mujoco.MjModel
    coordinates: Coordinates
    sensor_start: int  # address of `skeleton.SENSORS` in sensordata, both sides of each, right first
    limit_start: int  # address of the joint limits' forces, one per hinge
    pelvis: int  # body on which a push acts
    push_arm_m: np.ndarray  # [3] from its centre of mass to where the skeleton is pushed, published pelvis frame


def build_published(
    body: CompiledBody, timestep_s: float, worn: DeviceProfile | None = None, as_shipped: bool = False
) -> PublishedModel:
    """Prepares the published model behind `body`.

    Args:
      body: the compiled body, whose joints, signs and sensor places are taken over.
      timestep_s: physics step.
      worn: adds a device's masses where the skeleton carries them.
      as_shipped: leaves constraints and passive joint properties alone.
    """
    from myo_sim.build.compose import build_spec

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = build_spec(body_description(body.name).source)
        shipped = spec.compile()
        zero = zero_posture(shipped)
        assert np.allclose(zero.xpos[shipped.body("pelvis").id], zero.qpos[:3]), "the root is not at the pelvis"
        skeleton = _skeleton_at_zero(body)
        spec.option.timestep = timestep_s
        # A state that is not finite shall stay so and end the episode, not start again at the origin.
        spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        if not as_shipped:
            _stiffen(spec, shipped, timestep_s)
            for hinge in body.hinges:
                _set_passive(spec.joint(_published_joint(body, hinge.name)), hinge)
        _put_on_floor(spec, _sole_above_skeleton(shipped, skeleton[0], skeleton[1]))
        _add_sensors(spec, shipped, zero, skeleton, body)
        for segment in _device_points(body, worn):
            _add_point(spec, shipped, zero, *segment)
        model = spec.compile()
    coordinates = _coordinates(model, body, zero, skeleton)
    pelvis = model.body("pelvis").id
    segment = body.wearer_segments(Wearer(), worn)[0]
    centre = zero.xipos[shipped.body("pelvis").id] - zero.qpos[:3]
    return PublishedModel(
        model=model,
        coordinates=coordinates,
        sensor_start=int(model.sensor_adr[model.sensor(f"ours_{SENSORS[0][0]}_r").id]),
        limit_start=int(model.sensor_adr[model.sensor(f"ours_limit_{body.joint_names[0]}").id]),
        pelvis=pelvis,
        push_arm_m=TO_PUBLISHED @ np.array(segment.com_m) - centre,
    )


def _skeleton_at_zero(body: CompiledBody) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """The compiled skeleton with its pelvis at the origin."""
    model = mujoco.MjModel.from_xml_string(body.model_xml(Wearer(), 0.005, ContactOptions()))
    data = mujoco.MjData(model)
    data.qpos[:3] = 0.0
    mujoco.mj_kinematics(model, data)
    return model, data


def _stiffen(spec: mujoco.MjSpec, shipped: mujoco.MjModel, timestep_s: float) -> None:
    """Constraints as stiff as the step allows, and mass for the points that slide on them."""
    for equality in spec.equalities:
        equality.solref = [2.0 * timestep_s, 1.0]
    dependents = {shipped.joint(int(j)).name for j in shipped.eq_obj1id}
    for joint in spec.joints:
        if joint.name in dependents and joint.type == mujoco.mjtJoint.mjJNT_SLIDE:
            joint.armature = _SLIDE_ARMATURE_KG


def _set_passive(joint: mujoco.MjsJoint, hinge: Hinge) -> None:
    """Passive stiffness, damping and armature as in the skeleton; they stand for tissue that no muscle path holds."""
    joint.damping[0], joint.stiffness[0] = hinge.damping_nm_s, hinge.stiffness_nm
    joint.armature = hinge.armature_kg_m2


def _sole_above_skeleton(shipped: mujoco.MjModel, skeleton: mujoco.MjModel, at_zero: mujoco.MjData) -> float:
    """How much higher the published sole is than the skeleton's contact spheres, standing, m."""
    spheres = np.flatnonzero(skeleton.geom_type == mujoco.mjtGeom.mjGEOM_SPHERE)
    lowest_sphere = float((at_zero.geom_xpos[spheres, 2] - skeleton.geom_size[spheres, 0]).min())
    data = zero_posture(shipped)
    floor = shipped.geom(_FLOOR).id
    lowest = np.inf
    for geom in range(shipped.ngeom):
        name = shipped.body(shipped.geom_bodyid[geom]).name
        if shipped.geom_contype[geom] and name[:-2] in _FOOT_BODIES:
            above_floor = mujoco.mj_geomDistance(shipped, data, floor, geom, 10.0, None)
            lowest = min(lowest, above_floor + data.geom_xpos[floor, 2] - data.qpos[2])
    return lowest - lowest_sphere


def _put_on_floor(spec: mujoco.MjSpec, height_m: float) -> None:
    """An endless floor at a height instead of the pedestal."""
    for geom in list(spec.worldbody.geoms):
        if geom.name == _FLOOR:
            geom.pos = [0.0, 0.0, height_m]
            geom.size = [0.0, 0.0, 1.0]
        else:
            geom.contype = geom.conaffinity = 0


def _add_sensors(spec, shipped, zero, skeleton, body: CompiledBody) -> None:
    """`skeleton.SENSORS` for both sides and the force of every joint limit; sites where the skeleton has them."""
    skeleton_model, skeleton_at_zero = skeleton
    for i in range(skeleton_model.nsite):
        name = skeleton_model.site(i).name
        segment = skeleton_model.body(skeleton_model.site_bodyid[i]).name
        position, quaternion = _in_body(shipped, zero, segment, skeleton_at_zero.site_xpos[i])
        spec.body(segment).add_site(name=f"ours_{name}", pos=position, quat=quaternion)
    for sensor, _ in SENSORS:
        thing, kind = sensor.split("_")
        for side in SIDES:
            suffix = SIDE_SUFFIX[side]
            options = {"objtype": mujoco.mjtObj.mjOBJ_SITE, "objname": f"ours_{thing}{suffix}"}
            if kind == "force":
                options = {
                    "objtype": mujoco.mjtObj.mjOBJ_GEOM,
                    "objname": _FLOOR,
                    "reftype": mujoco.mjtObj.mjOBJ_XBODY,
                    "refname": foot_segment(body.segments, side),
                    "intprm": [_CONTACT_FORCE, _NET_FORCE, 1],
                }
            spec.add_sensor(name=f"ours_{sensor}{suffix}", type=_SENSOR_KINDS[kind], **options)
    for name in body.joint_names:
        spec.add_sensor(
            name=f"ours_limit_{name}", type=mujoco.mjtSensor.mjSENS_JOINTLIMITFRC,
            objtype=mujoco.mjtObj.mjOBJ_JOINT, objname=_published_joint(body, name),
        )  # fmt: skip


def _in_body(shipped, zero, name: str, place_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A point (our axes, from the pelvis, zero posture) in a published body, and the quaternion of our axes there."""
    index = shipped.body(name).id
    to_body = zero.xmat[index].reshape(3, 3).T
    position = to_body @ (zero.qpos[:3] + TO_PUBLISHED @ place_m - zero.xpos[index])
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, (to_body @ TO_PUBLISHED).ravel())
    return position, quaternion


def _device_points(body: CompiledBody, worn: DeviceProfile | None) -> list[tuple[str, float, np.ndarray]]:
    """Body, kg and place (m, our axes, from the body's origin) of each point mass that wearing the device adds."""
    if worn is None:
        return []
    points = []
    for bare, loaded in zip(body.segments, body.wearer_segments(Wearer(), worn), strict=True):
        added = loaded.mass_kg - bare.mass_kg
        if added > 0.0:
            moment = loaded.mass_kg * np.array(loaded.com_m) - bare.mass_kg * np.array(bare.com_m)
            points.append((bare.name, added, moment / added))
    return points


def _add_point(spec, shipped, zero, name: str, mass_kg: float, place_m: np.ndarray) -> None:
    to_body = zero.xmat[shipped.body(name).id].reshape(3, 3).T
    spec.body(name).add_body(
        name=f"ours_device_{name}", pos=to_body @ TO_PUBLISHED @ place_m, mass=mass_kg, inertia=[1e-6] * 3,
        explicitinertial=True,
    )  # fmt: skip


def _published_joint(body: CompiledBody, name: str) -> str:
    """Name of one of our hinges in the published model."""
    description = body_description(body.name)
    side = side_of(name)
    base = name if side is None else name[: -len(SIDE_SUFFIX[side])]
    source = next(j.source for j in (*description.leg_joints, *description.trunk_joints) if j.name == base)
    return source if side is None else source.format(side=SIDE_SUFFIX[side][1:])


def _coordinates(model: mujoco.MjModel, body: CompiledBody, zero: mujoco.MjData, skeleton) -> Coordinates:
    """Addresses and signs; a joint's sign is that of its axis against the skeleton's, standing at zero."""
    ids = [model.joint(_published_joint(body, name)).id for name in body.joint_names]
    skeleton_model, skeleton_at_zero = skeleton
    ours = np.array([skeleton_at_zero.xaxis[skeleton_model.joint(name).id] for name in body.joint_names])
    along = np.einsum("ji,ji->j", zero.xaxis[ids] @ PUBLISHED_TO_WORLD.T, ours)
    assert np.abs(along).min() > 0.8, f"a joint axis is not the skeleton's: {along}"
    joint_equalities = np.flatnonzero(model.eq_type == mujoco.mjtEq.mjEQ_JOINT)
    slaves, masters = model.eq_obj1id[joint_equalities], model.eq_obj2id[joint_equalities]
    coordinates = Coordinates(
        hinge_qpos=model.jnt_qposadr[ids].astype(np.int64),
        hinge_dof=model.jnt_dofadr[ids].astype(np.int64),
        sign=np.sign(along),
        middle_rad=model.jnt_range[ids].mean(axis=1),
        slave_qpos=model.jnt_qposadr[slaves].astype(np.int64),
        slave_dof=model.jnt_dofadr[slaves].astype(np.int64),
        master=np.array([ids.index(int(j)) for j in masters], dtype=np.int64),
        polynomial=model.eq_data[joint_equalities, :5].copy(),
        zero=model.qpos0.copy(),
        actuators=np.array([model.actuator(name).id for name in body.muscle_names], dtype=np.int64),
    )
    accounted = ROOT_QVEL + len(coordinates.hinge_dof) + len(coordinates.slave_dof)
    assert accounted == model.nv, f"{model.nv - accounted} joints are neither ours nor dependent"
    return coordinates
