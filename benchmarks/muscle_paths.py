"""How well the compiled bodies stand for the published ones: `python -m benchmarks.muscle_paths [--json F]`.

Postures the fit did not see, over the range walking uses: error of path length and moment arm of every muscle about
every joint it crosses, then the torque about the joints in random states (angles, velocities, activations) against
MuJoCo running the published model with its tendons, dependent joints on their constraint polynomials.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

import mujoco
import numpy as np

from benchmarks.common import chosen, describe_hardware, hardware, print_table, write_json
from mjx_exo.errors import run_command
from mjx_exo.musculoskeletal import paths
from mjx_exo.musculoskeletal.bodies import BODIES, JointSource, body_description, walking_range_rad
from mjx_exo.musculoskeletal.compiled import CompiledBody, Limb, compile_body, published_model
from mjx_exo.musculoskeletal.muscle import muscle_functions
from mjx_exo.physics.published_model import PublishedModel, build_published

LENGTH_LIMIT_MM, ARM_LIMIT_MM = 0.5, 2.0
_JUMP_MM = 1.0  # a moment arm that changes by this much within a tenth of a degree has switched its wrapping
_VELOCITY_RAD_S = 4.0  # random joint velocities, either way: what hip and ankle reach in walking
_WORST = 5
_curves = muscle_functions(np)


def body_errors(name: str, postures: int = 900, states: int = 400, seed: int = 7) -> dict[str, Any]:
    """Figures of one body, keys as in the JSON file."""
    body = compile_body(name)
    model = published_model(body_description(name))
    pairs, reasons = [], {}
    for limb, joints in _limbs(body):
        # Some of the samples lie outside the walking range; only the others are compared.
        samples = paths.sample_paths(model, joints, limb.paths.muscles, postures, seed)
        for pair in paths.path_errors(limb.paths, samples):
            pairs.append(pair)
            if _outside(pair):
                reasons[pair.muscle, pair.joint] = _reason(model, limb, joints, samples, pair)
    torque = torque_errors(body, states, seed)
    outside = [p for p in pairs if _outside(p)]
    worst = sorted(pairs, key=lambda p: -p.arm_rms_mm)[:_WORST]
    return {
        "muscles": len(body.muscle_names),
        "pairs": len(pairs),
        "length_rms_mm_p95": float(np.percentile([p.length_rms_mm for p in pairs], 95)),
        "moment_arm_rms_mm_p95": float(np.percentile([p.arm_rms_mm for p in pairs], 95)),
        "share_of_pairs_within": 1.0 - len(outside) / len(pairs),
        **torque,
        "worst_pairs": [dataclasses.asdict(p) for p in worst],
        "pairs_outside": [dataclasses.asdict(p) | {"reason": reasons[p.muscle, p.joint]} for p in outside],
    }


def _limbs(body: CompiledBody) -> list[tuple[Limb, tuple[JointSource, ...]]]:
    description = body_description(body.name)
    sources = (description.leg_joints, description.trunk_joints)
    return list(zip(body.limbs, sources[: len(body.limbs)], strict=True))


def _outside(pair: paths.PathError) -> bool:
    return pair.length_rms_mm > LENGTH_LIMIT_MM or pair.arm_rms_mm > ARM_LIMIT_MM


def _reason(model, limb: Limb, joints, samples: paths.PathSamples, pair: paths.PathError) -> str:
    """Why a polynomial misses this pair: looks at the published moment arm around the posture of the largest error."""
    m, j = limb.paths.muscles.index(pair.muscle), limb.paths.joints.index(pair.joint)
    _, arms = limb.paths.evaluate(samples.angles_rad)
    error = np.where(samples.walking, np.abs(arms[:, m, j] - samples.arm_m[:, m, j]), 0.0)
    centre = samples.angles_rad[error.argmax()]
    published = paths.PublishedPaths(model, joints, (pair.muscle,))
    offsets = np.radians(np.arange(-5.0, 5.05, 0.1))
    for axis in range(len(joints)):
        row = []
        for offset in offsets:
            angles = centre.copy()
            angles[axis] += offset
            row.append(1e3 * published.paths(angles)[1][0, j])
        jump = np.abs(np.diff(row))
        if jump.max() > _JUMP_MM:
            at = np.degrees(centre[axis] + offsets[jump.argmax()])
            return (
                f"wrapping switches: the published arm jumps by {jump.max():.1f} mm at "
                f"{limb.paths.joints[axis]} {at:.0f}°, a polynomial is smooth there"
            )
    spread = 1e3 * np.ptp(samples.arm_m[samples.walking][:, m, j])
    return f"the arm varies by {spread:.0f} mm over the range, faster than the polynomial's degree follows"


def torque_errors(body: CompiledBody, states: int, seed: int) -> dict[str, Any]:
    """Compiled against published muscle torque about every hinge, random states inside the walking range.

    `torque_rms_relative` is the RMS difference over all hinges and states relative to the RMS torque;
    `torque_rms_relative_by_joint` the same for each joint, both sides together, with its own RMS torque as reference.
    """
    published = build_published(body, 0.002)
    angles, velocities, activation = random_states(body, states, seed)
    reference = published_torque(published, angles, velocities, activation)
    difference = compiled_torque(body, angles, velocities, activation) - reference
    names = [name[:-2] if name.endswith(("_r", "_l")) else name for name in body.joint_names]
    by_joint, size = {}, {}
    for name in dict.fromkeys(names):
        columns = [i for i, other in enumerate(names) if other == name]
        size[name] = _rms(reference[:, columns])
        by_joint[name] = _rms(difference[:, columns]) / size[name]
    return {
        "torque_rms_relative": _rms(difference) / _rms(reference),
        "torque_rms_relative_by_joint": by_joint,
        "torque_rms_nm_by_joint": size,
    }


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def random_states(body: CompiledBody, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles (rad) and velocities (rad/s) of all hinges [N, J] and activations [N, M], uniform."""
    rng = np.random.default_rng(seed)
    description = body_description(body.name)
    spans = {j.name: walking_range_rad(j) for j in (*description.leg_joints, *description.trunk_joints)}
    ranges = np.array([spans[n] if n in spans else spans[n[:-2]] for n in body.joint_names])
    angles = rng.uniform(ranges[:, 0], ranges[:, 1], (count, len(ranges)))
    velocities = rng.uniform(-_VELOCITY_RAD_S, _VELOCITY_RAD_S, angles.shape)
    return angles, velocities, rng.uniform(0.0, 1.0, (count, len(body.muscle_names)))


def compiled_torque(
    body: CompiledBody, angles: np.ndarray, velocities: np.ndarray, activation: np.ndarray
) -> np.ndarray:
    """Muscle torque [N, J] of the compiled body, Nm."""
    torque = np.zeros_like(angles)
    muscles = body.muscle_parameters()
    start = 0
    for limb in body.limbs:
        for side in ("right", "left"):
            index = body.joint_index(limb, side)
            signs = limb.left_signs if side == "left" else np.ones_like(limb.left_signs)
            length, arm = limb.paths.evaluate(signs * angles[:, index])
            speed = -np.einsum("nmj,nj->nm", arm, signs * velocities[:, index])
            rows = slice(start, start + length.shape[1])
            constants = [np.asarray(p)[rows] for p in muscles[:8]]
            force, _ = _curves.tension(activation[:, rows], length, speed, *constants)
            np.add.at(torque, (slice(None), index), signs * np.einsum("nmj,nm->nj", arm, force))
            start = rows.stop
    return torque


def published_torque(
    published: PublishedModel, angles: np.ndarray, velocities: np.ndarray, activation: np.ndarray
) -> np.ndarray:
    """Muscle torque [N, J] as MuJoCo computes it in the published model, dependent joints chained in, Nm."""
    model, c = published.model, published.coordinates
    data = mujoco.MjData(model)
    place, speed = c.dependents(angles, velocities)
    count = len(angles)
    upright = np.concatenate([np.tile([0.0, 0, 1, 1, 0, 0, 0], (count, 1)), angles], 1)
    still = np.concatenate([np.zeros((count, 6)), velocities], 1)
    q, v = c.to_published(upright, still, place, speed)
    slope = c.dependents(angles, c.sign * np.ones_like(angles))[1]
    torque = np.empty_like(angles)
    for n in range(count):
        data.qpos[:], data.qvel[:] = q[n], v[n]
        data.act[model.actuator_actadr[c.actuators]] = activation[n]
        mujoco.mj_fwdPosition(model, data)
        mujoco.mj_fwdVelocity(model, data)
        mujoco.mj_fwdActuation(model, data)
        moment = data.qfrc_actuator[c.hinge_dof].copy()
        np.add.at(moment, c.master, slope[n] * data.qfrc_actuator[c.slave_dof])
        torque[n] = c.sign * moment
    return torque


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.muscle_paths", description=__doc__.split("\n")[0])
    parser.add_argument("--bodies", default=",".join(BODIES), help=f"comma-separated, of {', '.join(BODIES)}")
    parser.add_argument("--postures", type=int, default=900, help="postures per limb, two thirds in the walking range")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    names = chosen(arguments.bodies, tuple(BODIES), "body")
    found = hardware()
    print(describe_hardware(found))
    results = {name: body_errors(name, arguments.postures) | {"hardware": found} for name in names}
    columns = ("body", "pairs", "length p95 mm", "arm p95 mm", "pairs within", "torque")
    print_table(
        f"Compiled against published, walking range (limits: {LENGTH_LIMIT_MM} mm, {ARM_LIMIT_MM} mm)", columns,
        [
            (n, r["pairs"], r["length_rms_mm_p95"], r["moment_arm_rms_mm_p95"], f"{r['share_of_pairs_within']:.1%}",
             f"{r['torque_rms_relative']:.2%}")
            for n, r in results.items()
        ],
    )  # fmt: skip
    for name, result in results.items():
        joints = "  ".join(f"{j} {x:.1%}" for j, x in result["torque_rms_relative_by_joint"].items())
        print(f"{name}: torque by joint: {joints}")
        for pair in result["pairs_outside"]:
            print(
                f"{name}: {pair['muscle']} at {pair['joint']}: length {pair['length_rms_mm']:.2f} mm, arm "
                f"{pair['arm_rms_mm']:.2f} mm; {pair['reason']}"
            )
    write_json(arguments.json, results)
    return 0


if __name__ == "__main__":
    run_command(main)
