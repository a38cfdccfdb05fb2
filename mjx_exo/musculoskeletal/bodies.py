"""The bodies that can be compiled, as data.

Each entry says how a published `myo-sim` model maps to the project's conventions: which of its hinges are independent,
what they are called here and which way they turn. Everything else (masses, axes, ranges, muscles) is read from the
published model itself. Only the right leg is described; the left is its mirror image.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mjx_exo.errors import UserError

# The published models face world −y with the right side at −x; ours walk along +x with the left side at +y.
PUBLISHED_TO_WORLD = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@dataclasses.dataclass(frozen=True)
class JointSource:
    """One independent hinge: where it comes from and its passive properties."""

    name: str  # name here, without side
    source: str  # name in the published model, `{side}` replaced by r or l
    sign: int  # +1 if the published positive direction is ours
    walking_range_deg: tuple[float, float]  # range walking uses; the path fit is most accurate there
    damping_nm_s: float  # viscous damping, Nm·s/rad
    stiffness_nm: float = 0.0  # linear passive stiffness about zero, Nm/rad
    armature_kg_m2: float = 0.005


@dataclasses.dataclass(frozen=True)
class FootSphere:
    """A contact sphere of the right foot, in the OpenSim axes of its body (x forward, y up, z right), metres."""

    name: str
    body: str
    position_m: tuple[float, float, float]
    radius_m: float


@dataclasses.dataclass(frozen=True)
class BodyDescription:
    """A published body in the project's terms."""

    name: str
    source: str  # name known to `myo_sim.build.compose.build_spec`
    leg_joints: tuple[JointSource, ...]
    trunk_joints: tuple[JointSource, ...]
    foot_spheres: tuple[FootSphere, ...]
    muscle_groups: dict[str, str]  # published muscle name without side → group of the synergy definition
    trunk_muscles: tuple[str, ...] = ()  # published names without side, driven directly


_HIP_KNEE_ANKLE = (
    JointSource("hip_flexion", "hip_flexion_{side}", 1, (-20.0, 50.0), 0.5, 0.0, 0.01),
    JointSource("hip_adduction", "hip_adduction_{side}", 1, (-15.0, 15.0), 1.0, 5.0, 0.01),
    JointSource("hip_rotation", "hip_rotation_{side}", 1, (-15.0, 15.0), 2.0, 15.0, 0.01),
)
_KNEE_WALKING = (0.0, 80.0)
_ANKLE = JointSource("ankle_dorsiflexion", "ankle_angle_{side}", 1, (-30.0, 20.0), 0.2, 0.0, 0.005)
_TOES = JointSource("mtp_extension", "mtp_angle_{side}", 1, (-20.0, 30.0), 0.5, 20.0, 0.002)

# Where the sole touches: found in a trial on `myolegs26`; `myolegs` shares the foot's size.
_SPHERES = (
    FootSphere("heel_medial", "calcn_{side}", (0.015, 0.005, -0.020), 0.025),
    FootSphere("heel_lateral", "calcn_{side}", (0.015, 0.005, 0.015), 0.025),
    FootSphere("ball_medial", "calcn_{side}", (0.165, 0.000, -0.030), 0.020),
    FootSphere("ball_lateral", "calcn_{side}", (0.150, 0.000, 0.038), 0.020),
    FootSphere("toe_medial", "toes_{side}", (0.060, -0.003, -0.020), 0.015),
    FootSphere("toe_lateral", "toes_{side}", (0.035, -0.003, 0.035), 0.015),
)

_GROUPS_26 = {
    name: name
    for name in (
        "abd", "add", "hamstrings", "bifemsh", "edl", "fdl", "glutmax", "iliopsoas", "rectfem", "vasti", "gastroc",
        "soleus", "tibant",
    )
}  # fmt: skip

_GROUPS_80 = {
    "addbrev": "add", "addlong": "add", "addmagDist": "add", "addmagIsch": "add", "addmagMid": "add",
    "addmagProx": "add", "grac": "add", "bflh": "hamstrings", "semimem": "hamstrings", "semiten": "hamstrings",
    "bfsh": "bifemsh", "edl": "edl", "ehl": "edl", "perbrev": "fdl", "perlong": "fdl", "fdl": "fdl", "fhl": "fdl",
    "tibpost": "fdl", "gaslat": "gastroc", "gasmed": "gastroc", "glmax1": "glutmax", "glmax2": "glutmax",
    "glmax3": "glutmax", "glmed1": "abd", "glmed2": "abd", "glmed3": "abd", "glmin1": "abd", "glmin2": "abd",
    "glmin3": "abd", "tfl": "abd", "piri": "abd", "iliacus": "iliopsoas", "psoas": "iliopsoas", "sart": "iliopsoas",
    "recfem": "rectfem", "soleus": "soleus", "tibant": "tibant", "vasint": "vasti", "vaslat": "vasti",
    "vasmed": "vasti",
}  # fmt: skip

_LEG_26 = (
    *_HIP_KNEE_ANKLE,
    JointSource("knee_flexion", "knee_angle_{side}", -1, _KNEE_WALKING, 0.5, 0.0, 0.01),
    _ANKLE,
    _TOES,
)
_LEG_80 = (
    *_HIP_KNEE_ANKLE,
    JointSource("knee_flexion", "knee_angle_{side}", 1, _KNEE_WALKING, 0.5, 0.0, 0.01),
    _ANKLE,
    JointSource("subtalar_inversion", "subtalar_angle_{side}", 1, (-10.0, 10.0), 0.5, 20.0, 0.005),
    dataclasses.replace(_TOES, sign=-1),
)
_TRUNK_86 = (
    JointSource("lumbar_flexion", "flex_extension", -1, (-15.0, 25.0), 2.0, 20.0, 0.02),
    JointSource("lumbar_bending", "lat_bending", 1, (-15.0, 15.0), 2.0, 20.0, 0.02),
    JointSource("lumbar_rotation", "axial_rotation", 1, (-15.0, 15.0), 2.0, 20.0, 0.02),
)

BODIES: dict[str, BodyDescription] = {
    body.name: body
    for body in (
        BodyDescription("myolegs26", "myolegs26", _LEG_26, (), _SPHERES, _GROUPS_26),
        BodyDescription("myolegs", "myolegs", _LEG_80, (), _SPHERES, _GROUPS_80),
        BodyDescription(
            "myolegs_abdomen", "myolegs_abdomen", _LEG_80, _TRUNK_86, _SPHERES, _GROUPS_80,
            trunk_muscles=("ercspn", "intobl", "extobl"),
        ),
    )
}  # fmt: skip


def body_description(name: str) -> BodyDescription:
    """The description of body `name`; `UserError` naming the known bodies if there is none."""
    if name not in BODIES:
        raise UserError(f"unknown body '{name}'; known bodies: {', '.join(BODIES)}")
    return BODIES[name]


def range_rad(joint: JointSource, published_range: tuple[float, float]) -> tuple[float, float]:
    """Range of a joint in our sign, radians, from the published one."""
    low, high = published_range
    return (low, high) if joint.sign > 0 else (-high, -low)


def walking_range_rad(joint: JointSource) -> tuple[float, float]:
    """Walking range of a joint in radians."""
    low, high = joint.walking_range_deg
    return math.radians(low), math.radians(high)
