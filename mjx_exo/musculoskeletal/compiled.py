"""A published body compiled once and kept on disk: segments, path polynomials and muscle constants.

Fitting takes some seconds; the result is cached by a hash of the description, the compiling code and the versions of
MuJoCo and myo-sim, so that changing any of them compiles anew and a stale body is never used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import warnings
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from mjx_exo.cache import cache_dir
from mjx_exo.conventions import SIDE_SUFFIX, SIDES
from mjx_exo.device import DeviceProfile
from mjx_exo.files import write_atomically
from mjx_exo.musculoskeletal import bodies, fixed_axis, muscle, paths, skeleton
from mjx_exo.musculoskeletal.bodies import BodyDescription, JointSource, body_description
from mjx_exo.musculoskeletal.muscle import MuscleParameters
from mjx_exo.musculoskeletal.paths import PathPolynomials
from mjx_exo.musculoskeletal.skeleton import ContactOptions, Hinge, Segment, Sphere
from mjx_exo.musculoskeletal.wearer import Wearer

_SAMPLES = 6000
# Joints of the trunk whose sign flips in the mirror image of the body.
_LATERAL_JOINTS = ("lumbar_bending", "lumbar_rotation")


@dataclasses.dataclass(frozen=True)
class Limb:
    """The muscles of one limb: right polynomials, used on both sides."""

    paths: PathPolynomials
    muscles: MuscleParameters  # [M], of the right side
    left_signs: np.ndarray  # [J] ±1: sign of each joint angle in the mirror image


@dataclasses.dataclass(frozen=True)
class CompiledBody:
    """What every engine needs of a body.

    Joints are ordered as in the skeleton: trunk (if it moves), right leg, left leg. Muscles: right leg, left leg, then
    the trunk's right and left ones.
    """

    name: str
    segments: tuple[Segment, ...]
    leg: Limb
    trunk: Limb | None
    muscle_groups: tuple[str, ...]  # group of each muscle of a leg

    @property
    def hinges(self) -> tuple[Hinge, ...]:
        return tuple(h for s in self.segments for h in s.hinges)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of all hinges in the order of the generalised coordinates after the root's."""
        return tuple(h.name for h in self.hinges)

    @property
    def limbs(self) -> tuple[Limb, ...]:
        return (self.leg,) if self.trunk is None else (self.leg, self.trunk)

    @property
    def muscle_names(self) -> tuple[str, ...]:
        return tuple(m + SIDE_SUFFIX[side] for limb in self.limbs for side in SIDES for m in limb.paths.muscles)

    @property
    def mass_kg(self) -> float:
        """Body mass of the published body, without any device."""
        return sum(s.mass_kg for s in self.segments)

    def joint_index(self, limb: Limb, side: str) -> np.ndarray:
        """Positions of a limb's joints among all hinges, for one side."""
        names = self.joint_names
        return np.array([names.index(j if j in names else j + SIDE_SUFFIX[side]) for j in limb.paths.joints])

    def leg_joint_index(self) -> np.ndarray:
        """[2, J]: positions of the right and left leg's joints among all hinges."""
        return np.stack([self.joint_index(self.leg, side) for side in SIDES])

    def muscle_parameters(self, wearer: Wearer = Wearer()) -> MuscleParameters:
        """Constants of all muscles, [M] in the order of `muscle_names`, for a wearer.

        Lengths scale with height, force with strength and body mass.
        """
        length = self.length_scale(wearer)
        mass = 1.0 if wearer.mass_kg is None else wearer.mass_kg / self.mass_kg
        both_sides = [limb.muscles for limb in self.limbs for _ in SIDES]
        joined = MuscleParameters(*(np.concatenate(column) for column in zip(*both_sides, strict=True)))
        return joined._replace(
            peak_force_n=joined.peak_force_n * wearer.strength * mass,
            optimal_length_m=joined.optimal_length_m * length,
            rest_length_m=joined.rest_length_m * length,
        )

    def length_scale(self, wearer: Wearer) -> float:
        """Segment and path lengths of a wearer relative to the published body."""
        return 1.0 if wearer.height_m is None else wearer.height_m / skeleton.PUBLISHED_HEIGHT_M

    def wearer_segments(self, wearer: Wearer, worn: DeviceProfile | None = None) -> tuple[Segment, ...]:
        """Segments of a wearer, with the device's masses if it is worn."""
        segments = skeleton.scale_segments(self.segments, wearer)
        return segments if worn is None else skeleton.wear_device(segments, worn)

    def model_xml(
        self, wearer: Wearer, timestep_s: float, contact: ContactOptions, worn: DeviceProfile | None = None
    ) -> str:
        """MJCF of the light skeleton of a wearer."""
        return skeleton.skeleton_xml(self.wearer_segments(wearer, worn), timestep_s, contact, wearer.friction)


def published_model(body: BodyDescription) -> mujoco.MjModel:
    """The published model of a body, as `myo-sim` ships it."""
    from myo_sim.build.compose import build_spec

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_spec(body.source).compile()


def compile_body(name: str, use_cache: bool = True) -> CompiledBody:
    """The compiled body `name`, from the cache if its sources have not changed.

    Raises `UserError` for an unknown body. Says on stderr when it has to fit one.
    """
    body = body_description(name)
    file = cache_dir() / "bodies" / f"{name}-{_fingerprint(body)}.npz"
    if use_cache and file.exists():
        return load_body(file)
    compiled = _compile(body)
    write_atomically(file, lambda path: save_body(compiled, path))
    return compiled


def _fingerprint(body: BodyDescription) -> str:
    """Hash of everything the compiled body depends on."""
    digest = hashlib.sha256(repr(body).encode())
    for module in (bodies, fixed_axis, skeleton, paths, muscle):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    for package in ("mujoco", "myo-sim"):
        try:
            digest.update(importlib.metadata.version(package).encode())
        except importlib.metadata.PackageNotFoundError:
            digest.update(b"absent")
    return digest.hexdigest()[:16]


def _compile(body: BodyDescription) -> CompiledBody:
    model = published_model(body)
    leg_muscles = tuple(body.muscle_groups)
    trunk = None
    if body.trunk_joints:
        trunk = _compile_limb(model, body.trunk_joints, body.trunk_muscles)
    return CompiledBody(
        name=body.name,
        segments=skeleton.extract_segments(model, body),
        leg=_compile_limb(model, body.leg_joints, leg_muscles),
        trunk=trunk,
        muscle_groups=tuple(body.muscle_groups.values()),
    )


def _compile_limb(model: mujoco.MjModel, joints: tuple[JointSource, ...], muscles: tuple[str, ...]) -> Limb:
    samples = paths.sample_paths(model, joints, muscles, _SAMPLES, seed=0)
    actuators = [model.actuator(f"{m}_r").id for m in muscles]
    return Limb(
        paths=paths.fit_paths(model, samples),
        muscles=muscle.parameters_from_mujoco(model, actuators),
        left_signs=np.array([-1.0 if j.name in _LATERAL_JOINTS else 1.0 for j in joints]),
    )


def save_body(body: CompiledBody, path: Path) -> None:
    """Writes a compiled body as one `.npz`: arrays, and the rest as JSON text."""
    arrays: dict[str, Any] = {}
    header: dict[str, Any] = {
        "name": body.name,
        "muscle_groups": body.muscle_groups,
        "segments": [dataclasses.asdict(s) for s in body.segments],
        "limbs": [],
    }
    for i, limb in enumerate(body.limbs):
        header["limbs"].append({"joints": limb.paths.joints, "muscles": limb.paths.muscles})
        for field in ("centre_rad", "half_range_rad", "parent", "variable", "matrix", "crossings"):
            arrays[f"{i}.paths.{field}"] = getattr(limb.paths, field)
        for field in MuscleParameters._fields:
            arrays[f"{i}.muscles.{field}"] = getattr(limb.muscles, field)
        arrays[f"{i}.left_signs"] = limb.left_signs
    np.savez_compressed(path, header=np.array(json.dumps(header)), **arrays)


def load_body(path: Path) -> CompiledBody:
    """Reads what `save_body` wrote."""
    with np.load(path) as data:
        header = json.loads(str(data["header"]))
        limbs = []
        for i, names in enumerate(header["limbs"]):
            fields = ("centre_rad", "half_range_rad", "parent", "variable", "matrix", "crossings")
            polynomials = PathPolynomials(
                joints=tuple(names["joints"]),
                muscles=tuple(names["muscles"]),
                **{field: data[f"{i}.paths.{field}"] for field in fields},
            )
            parameters = MuscleParameters(*(data[f"{i}.muscles.{field}"] for field in MuscleParameters._fields))
            limbs.append(Limb(polynomials, parameters, data[f"{i}.left_signs"]))
    segments = tuple(_segment_from_json(s) for s in header["segments"])
    return CompiledBody(
        name=header["name"],
        segments=segments,
        leg=limbs[0],
        trunk=limbs[1] if len(limbs) > 1 else None,
        muscle_groups=tuple(header["muscle_groups"]),
    )


def _segment_from_json(data: dict[str, Any]) -> Segment:
    return Segment(
        name=data["name"],
        parent=data["parent"],
        offset_m=tuple(data["offset_m"]),
        mass_kg=data["mass_kg"],
        com_m=tuple(data["com_m"]),
        inertia_kg_m2=tuple(map(tuple, data["inertia_kg_m2"])),
        hinges=tuple(
            Hinge(**{k: tuple(v) if isinstance(v, list) else v for k, v in h.items()}) for h in data["hinges"]
        ),
        spheres=tuple(
            Sphere(**{k: tuple(v) if isinstance(v, list) else v for k, v in x.items()}) for x in data["spheres"]
        ),
    )
