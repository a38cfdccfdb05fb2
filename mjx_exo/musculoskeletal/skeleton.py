"""From a published model to a light skeleton: independent hinges, fused bodies, spheres under the feet.

The published models spend most of a physics step on tendon paths, moving path points and equality constraints. Here
every body between two independent hinges is fused into one segment with the same mass and inertia, the right leg is
mirrored to the left, all frames are aligned with the world in the zero posture, and a MuJoCo model is written in which
each joint has two controls: a torque, and a damping coefficient that the integrator treats implicitly.
"""

from __future__ import annotations

import dataclasses
import math
from xml.etree import ElementTree

import mujoco
import numpy as np

from mjx_exo.conventions import SIDE_SUFFIX, SIDES
from mjx_exo.device import DeviceProfile
from mjx_exo.musculoskeletal.bodies import PUBLISHED_TO_WORLD, BodyDescription, JointSource, range_rad
from mjx_exo.musculoskeletal.fixed_axis import fixed_axis, zero_posture
from mjx_exo.musculoskeletal.wearer import Wearer

PUBLISHED_HEIGHT_M = 1.75  # standing height of the OpenSim Gait2392 / Rajagopal subjects the bodies descend from
_MIRROR = np.diag([1.0, -1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class Hinge:
    """One joint of the skeleton; `axis` and `anchor_m` in the world-aligned frame of its segment."""

    name: str
    axis: tuple[float, float, float]
    anchor_m: tuple[float, float, float]  # a point on the axis
    range_rad: tuple[float, float]
    damping_nm_s: float
    stiffness_nm: float
    armature_kg_m2: float


@dataclasses.dataclass(frozen=True)
class Sphere:
    """A contact sphere in its segment's frame."""

    name: str
    position_m: tuple[float, float, float]
    radius_m: float


@dataclasses.dataclass(frozen=True)
class Segment:
    """A rigid segment; positions in m relative to its own origin, axes aligned with the world in the zero posture."""

    name: str
    parent: str  # empty for the pelvis
    offset_m: tuple[float, float, float]  # from the parent's origin
    mass_kg: float
    com_m: tuple[float, float, float]
    inertia_kg_m2: tuple[tuple[float, ...], ...]  # about the centre of mass, 3 × 3
    hinges: tuple[Hinge, ...]
    spheres: tuple[Sphere, ...]


def _independent_joints(model: mujoco.MjModel, body: BodyDescription) -> dict[int, tuple[str, JointSource]]:
    """Published joint id → (segment side suffix or '', source) for the right leg and the trunk."""
    named = [(joint.source.format(side="r"), "_r", joint) for joint in body.leg_joints]
    named += [(joint.source, "", joint) for joint in body.trunk_joints]
    return {model.joint(name).id: (side, joint) for name, side, joint in named}


def extract_segments(model: mujoco.MjModel, body: BodyDescription) -> tuple[Segment, ...]:
    """Fuses the published model into segments: pelvis, trunk (if it moves), right leg, and the left as its mirror."""
    data = zero_posture(model)
    rotate = PUBLISHED_TO_WORLD
    joints = _independent_joints(model, body)
    pelvis = model.body("pelvis").id

    owner: dict[int, int] = {}  # published body → published body that owns its segment
    first: dict[int, list[int]] = {}  # owning body → its independent joints
    for b in range(1, model.nbody):
        own = [j for j in range(model.njnt) if model.jnt_bodyid[j] == b and j in joints]
        parent = model.body_parentid[b]
        if own:
            owner[b], first[b] = b, own
        elif parent == 0:
            owner[b] = pelvis
        else:
            owner[b] = owner[parent] if b != pelvis else pelvis

    def is_left(b: int) -> bool:
        while b:
            if model.body(b).name.endswith("_l") and model.body(b).name.startswith("femur"):
                return True
            b = model.body_parentid[b]
        return False

    owners = [pelvis, *(b for b in first if not is_left(b))]
    segments: list[Segment] = []
    names = {pelvis: "pelvis"}
    for b in owners[1:]:
        names[b] = model.body(b).name if joints[first[b][0]][0] else "trunk"

    for b in owners:
        members = [k for k, v in owner.items() if v == b and not is_left(k)]
        origin = rotate @ data.xpos[b]
        mass, com, inertia = _fuse(model, data, members, rotate)
        if not names[b].endswith("_r"):  # the middle of the body is made symmetric
            com = 0.5 * (com + _MIRROR @ com)
            inertia = 0.5 * (inertia + _MIRROR @ inertia @ _MIRROR)
        hinges = []
        for j in first.get(b, []):
            side, source = joints[j]
            axis, anchor = fixed_axis(model, j, b, source)
            hinges.append(
                Hinge(
                    name=source.name + side,
                    axis=tuple(source.sign * (rotate @ axis)),
                    anchor_m=tuple(rotate @ anchor),
                    range_rad=range_rad(source, tuple(model.jnt_range[j])),
                    damping_nm_s=source.damping_nm_s,
                    stiffness_nm=source.stiffness_nm,
                    armature_kg_m2=source.armature_kg_m2,
                )
            )
        spheres = []
        for sphere in body.foot_spheres:
            source_body = model.body(sphere.body.format(side="r")).id
            if owner[source_body] == b:
                place = data.xpos[source_body] + data.xmat[source_body].reshape(3, 3) @ np.array(sphere.position_m)
                spheres.append(Sphere(f"{sphere.name}_r", tuple(rotate @ place - origin), sphere.radius_m))
        parent = model.body_parentid[b]
        parent_owner = owner[parent] if (parent and b != pelvis) else pelvis
        segments.append(
            Segment(
                name=names[b],
                parent="" if b == pelvis else names[parent_owner],
                offset_m=(0.0, 0.0, 0.0) if b == pelvis else tuple(origin - rotate @ data.xpos[parent_owner]),
                mass_kg=mass,
                com_m=tuple(com - origin),
                inertia_kg_m2=tuple(map(tuple, inertia)),
                hinges=tuple(hinges),
                spheres=tuple(spheres),
            )
        )
    return (*segments, *(_mirror(segment) for segment in segments if segment.name.endswith("_r")))


def _fuse(model, data, members: list[int], rotate: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass (kg), centre of mass (m, world) and inertia about it (kg m², world axes) of several published bodies."""
    mass = float(model.body_mass[members].sum())
    com = sum(model.body_mass[k] * (rotate @ data.xipos[k]) for k in members) / mass
    inertia = np.zeros((3, 3))
    for k in members:
        axes = rotate @ data.ximat[k].reshape(3, 3)
        arm = rotate @ data.xipos[k] - com
        inertia += axes @ np.diag(model.body_inertia[k]) @ axes.T
        inertia += model.body_mass[k] * (arm @ arm * np.eye(3) - np.outer(arm, arm))
    return mass, com, inertia


def _mirror(segment: Segment) -> Segment:
    """The left twin of a right segment: same signs of joint angles, mirrored geometry."""

    def other(name: str) -> str:
        return name[:-2] + "_l" if name.endswith("_r") else name

    def point(p: tuple[float, ...]) -> tuple[float, float, float]:
        return p[0], -p[1], p[2]

    return dataclasses.replace(
        segment,
        name=other(segment.name),
        parent=other(segment.parent),
        offset_m=point(segment.offset_m),
        com_m=point(segment.com_m),
        inertia_kg_m2=tuple(map(tuple, _MIRROR @ np.array(segment.inertia_kg_m2) @ _MIRROR)),
        # A rotation axis is a pseudovector: mirroring in y flips its x and z.
        hinges=tuple(
            dataclasses.replace(
                h, name=other(h.name), axis=(-h.axis[0], h.axis[1], -h.axis[2]), anchor_m=point(h.anchor_m)
            )
            for h in segment.hinges
        ),
        spheres=tuple(
            dataclasses.replace(s, name=other(s.name), position_m=point(s.position_m)) for s in segment.spheres
        ),
    )


def scale_segments(segments: tuple[Segment, ...], wearer: Wearer) -> tuple[Segment, ...]:
    """Segments of a wearer: lengths with height, masses with body mass, inertias with both; passive joints."""
    length = 1.0 if wearer.height_m is None else wearer.height_m / PUBLISHED_HEIGHT_M
    total = sum(segment.mass_kg for segment in segments)
    mass = 1.0 if wearer.mass_kg is None else wearer.mass_kg / total

    def point(p: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(length * x for x in p)

    return tuple(
        dataclasses.replace(
            s,
            offset_m=point(s.offset_m),
            mass_kg=mass * s.mass_kg,
            com_m=point(s.com_m),
            inertia_kg_m2=tuple(map(tuple, mass * length**2 * np.array(s.inertia_kg_m2))),
            hinges=tuple(
                dataclasses.replace(
                    h,
                    anchor_m=point(h.anchor_m),
                    damping_nm_s=wearer.passive * h.damping_nm_s,
                    stiffness_nm=wearer.passive * h.stiffness_nm,
                )
                for h in s.hinges
            ),
            spheres=tuple(
                dataclasses.replace(x, position_m=point(x.position_m), radius_m=length * x.radius_m) for x in s.spheres
            ),
        )
        for s in segments
    )


def wear_device(segments: tuple[Segment, ...], profile: DeviceProfile) -> tuple[Segment, ...]:
    """Adds the device's masses (as points) to pelvis and thighs."""
    hips = {side: _segment(segments, f"femur{SIDE_SUFFIX[side]}") for side in SIDES}
    middle = np.mean([np.array(s.offset_m) for s in hips.values()], axis=0)
    loads = {"pelvis": (profile.mass.waist_kg, middle + np.array(profile.mass.waist_offset_m))}
    x, outward, z = profile.mass.thigh_offset_m
    for side, thigh in hips.items():
        place = np.array([x, outward if side == "left" else -outward, z])
        loads[thigh.name] = (profile.mass.thigh_kg, place)
    return tuple(_add_point_mass(s, *loads[s.name]) if s.name in loads else s for s in segments)


def _segment(segments: tuple[Segment, ...], name: str) -> Segment:
    return next(segment for segment in segments if segment.name == name)


def _add_point_mass(segment: Segment, mass_kg: float, place_m: np.ndarray) -> Segment:
    total = segment.mass_kg + mass_kg
    com = np.array(segment.com_m)
    inertia = np.array(segment.inertia_kg_m2)
    new_com = (segment.mass_kg * com + mass_kg * place_m) / total
    for mass, place in ((segment.mass_kg, com), (mass_kg, place_m)):
        arm = place - new_com
        inertia = inertia + mass * (arm @ arm * np.eye(3) - np.outer(arm, arm))
    return dataclasses.replace(segment, mass_kg=total, com_m=tuple(new_com), inertia_kg_m2=tuple(map(tuple, inertia)))


@dataclasses.dataclass(frozen=True)
class ContactOptions:
    """How the sole touches the floor and how the constraint solver works."""

    time_constant_s: float = 0.03  # MuJoCo solref of the contacts
    solver_iterations: int = 4
    line_search_iterations: int = 6


# Every engine reads these, in this order; [right, left] for each.
SENSORS = (
    ("thigh_gyro", 3),  # rad/s in the thigh's frame (x forward, y left, z up)
    ("foot_force", 3),  # N, ground on foot, world
    ("heel_position", 3),  # m, world
    ("toe_position", 3),
    ("heel_velocity", 3),  # m/s, world
    ("toe_velocity", 3),
)


def sensor_slices() -> dict[str, slice]:
    """Where each sensor (both sides, right first) lies in `sensordata`; e.g. `foot_force` → 6 numbers."""
    slices, start = {}, 0
    for name, size in SENSORS:
        slices[name] = slice(start, start + 2 * size)
        start += 2 * size
    return slices


def skeleton_xml(
    segments: tuple[Segment, ...], timestep_s: float, contact: ContactOptions, friction: float = 1.0
) -> str:
    """The MuJoCo model of the segments, as MJCF text.

    Controls, in the order of the hinges: all torques (Nm), then all damping coefficients (Nm·s/rad, given negative,
    as the gain on joint velocity). Sensors as in `SENSORS`. Joint limits are left to the muscle code.
    """
    root = ElementTree.Element("mujoco", model="mjx-exo skeleton")
    ElementTree.SubElement(root, "compiler", angle="radian", autolimits="false")
    option = ElementTree.SubElement(
        root,
        "option",
        timestep=repr(timestep_s),
        integrator="implicitfast",
        solver="Newton",
        iterations=str(contact.solver_iterations),
        ls_iterations=str(contact.line_search_iterations),
        cone="pyramidal",
    )
    ElementTree.SubElement(option, "flag", autoreset="disable")
    world = ElementTree.SubElement(root, "worldbody")
    solref = f"{contact.time_constant_s!r} 1"
    ElementTree.SubElement(
        world, "geom", name="floor", type="plane", size="0 0 1", contype="1", conaffinity="0",
        friction=f"{friction!r} 0.005 0.0001", solref=solref,
    )  # fmt: skip
    elements = {"": world}
    hinges: list[Hinge] = []
    for segment in segments:
        element = ElementTree.SubElement(
            elements[segment.parent], "body", name=segment.name, pos=_text(segment.offset_m)
        )
        elements[segment.name] = element
        i = np.array(segment.inertia_kg_m2)
        ElementTree.SubElement(
            element, "inertial", pos=_text(segment.com_m), mass=repr(float(segment.mass_kg)),
            fullinertia=_text((i[0, 0], i[1, 1], i[2, 2], i[0, 1], i[0, 2], i[1, 2])),
        )  # fmt: skip
        if not segment.parent:
            ElementTree.SubElement(element, "freejoint", name="root")
        for hinge in segment.hinges:
            hinges.append(hinge)
            ElementTree.SubElement(
                element, "joint", name=hinge.name, type="hinge", axis=_text(hinge.axis),
                pos=_text(hinge.anchor_m), range=_text(hinge.range_rad), limited="false",
                damping=repr(hinge.damping_nm_s), stiffness=repr(hinge.stiffness_nm),
                armature=repr(hinge.armature_kg_m2),
            )  # fmt: skip
        for sphere in segment.spheres:
            ElementTree.SubElement(
                element, "geom", name=sphere.name, type="sphere", pos=_text(sphere.position_m),
                size=repr(float(sphere.radius_m)), contype="0", conaffinity="1", condim="3",
                friction=f"{friction!r} 0.005 0.0001", solref=solref, mass="0",
            )  # fmt: skip
        _sites(element, segment)
    actuator = ElementTree.SubElement(root, "actuator")
    for hinge in hinges:
        ElementTree.SubElement(actuator, "motor", name=f"torque_{hinge.name}", joint=hinge.name)
    for hinge in hinges:
        ElementTree.SubElement(
            actuator, "general", name=f"damping_{hinge.name}", joint=hinge.name, gaintype="affine", gainprm="0 0 1",
            biastype="none",
        )  # fmt: skip
    add_sensors(root)
    return ElementTree.tostring(root, encoding="unicode")


def _sites(element: ElementTree.Element, segment: Segment) -> None:
    """Sites the sensors of this segment need: the thigh's frame, heel and toe."""
    base, side = segment.name[:-2], segment.name[-2:]
    if base == "femur":
        ElementTree.SubElement(element, "site", name=f"thigh{side}", pos="0 0 -0.2")
    for kind, sphere_name in (("heel", "heel"), ("toe", "toe")):
        places = [s for s in segment.spheres if s.name.startswith(sphere_name)]
        if places:
            centre = np.mean([s.position_m for s in places], axis=0)
            centre[2] -= max(s.radius_m for s in places)
            ElementTree.SubElement(element, "site", name=f"{kind}{side}", pos=_text(centre))


def foot_segment(segments: tuple[Segment, ...], side: str) -> str:
    """Name of the first segment that carries contact spheres on a side: the root of the foot."""
    suffix = SIDE_SUFFIX[side]
    return next(s.name for s in segments if s.spheres and s.name.endswith(suffix))


def add_sensors(root: ElementTree.Element) -> None:
    """Appends `SENSORS` for both sides. Bodies and sites must already be there; the foot is the heel site's body."""
    foot = {}
    for element in root.iter("body"):
        for site in element.findall("site"):
            if site.get("name", "").startswith("heel"):
                foot[site.get("name")[-2:]] = element.get("name")
    sensor = ElementTree.SubElement(root, "sensor")
    suffixes = [SIDE_SUFFIX[side] for side in SIDES]
    for s in suffixes:
        ElementTree.SubElement(sensor, "gyro", name=f"thigh_gyro{s}", site=f"thigh{s}")
    for s in suffixes:
        ElementTree.SubElement(
            sensor, "contact", name=f"foot_force{s}", geom1="floor", subtree2=foot[s], data="force", reduce="netforce",
            num="1",
        )  # fmt: skip
    for tag, prefix in (("framepos", "position"), ("framelinvel", "velocity")):
        for place in ("heel", "toe"):
            for s in suffixes:
                ElementTree.SubElement(sensor, tag, name=f"{place}_{prefix}{s}", objtype="site", objname=f"{place}{s}")


def _text(values) -> str:
    return " ".join(repr(float(v)) if math.isfinite(v) else "0" for v in values)
