"""Muscle paths as polynomials of the joint angles they cross.

Path geometry with moving points and wrapping is what makes a musculoskeletal model slow. A polynomial L(q) fitted to
the published path over the joint ranges replaces it; the moment arm is its derivative, r(q) = −∂L/∂q, so work is
conserved by construction. Dependent joints of the published model stay on their constraint polynomials while sampling
and their derivatives are chained in.

All muscles of a limb share one table of monomials of the normalised angles, built by one multiplication each, and one
matrix gives lengths and moment arms together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import mujoco
import numpy as np

from mjx_exo.musculoskeletal.bodies import JointSource, range_rad, walking_range_rad

_ARM_FLOOR_M = 5e-4  # a joint a muscle moves by less than this (max over samples) is not crossed
_RANGE_MARGIN_RAD = 0.05


@dataclasses.dataclass(frozen=True)
class PathPolynomials:
    """Lengths and moment arms of the M muscles of one limb over its J joints.

    With x = (q − centre)/half_range (clipped to ±1), monomial k = monomial parent[k] · x[variable[k]] (monomial 0 is
    1), `matrix @ monomials` gives first M lengths (m), then one moment arm (m) per row of `crossings`.
    """

    joints: tuple[str, ...]  # without side
    muscles: tuple[str, ...]  # without side
    centre_rad: np.ndarray  # [J]
    half_range_rad: np.ndarray  # [J]
    parent: np.ndarray  # [K] int
    variable: np.ndarray  # [K] int
    matrix: np.ndarray  # [M + C, K]
    crossings: np.ndarray  # [C, 2] int: muscle, joint

    def evaluate(self, angles_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Path lengths [N, M] in m and moment arms [N, M, J] in m (positive: tension turns the joint positive).

        Args:
          angles_rad: [N, J] joint angles in the order of `joints`.
        """
        x = np.clip((np.asarray(angles_rad) - self.centre_rad) / self.half_range_rad, -1.0, 1.0)
        values = monomials(x, self.parent, self.variable) @ self.matrix.T
        count = len(self.muscles)
        arms = np.zeros((len(x), count, len(self.joints)))
        arms[:, self.crossings[:, 0], self.crossings[:, 1]] = values[:, count:]
        return values[:, :count], arms


def monomials(x: np.ndarray, parent: np.ndarray, variable: np.ndarray) -> np.ndarray:
    """Monomial table [N, K] of normalised angles [N, J]."""
    table = np.empty((len(x), len(parent)))
    table[:, 0] = 1.0
    for k in range(1, len(parent)):
        table[:, k] = table[:, parent[k]] * x[:, variable[k]]
    return table


@dataclasses.dataclass(frozen=True)
class PathSamples:
    """Postures of a published model with the path length and moment arm of every muscle of one limb."""

    joints: tuple[JointSource, ...]
    muscles: tuple[str, ...]
    angles_rad: np.ndarray  # [S, J], our signs
    length_m: np.ndarray  # [S, M]
    arm_m: np.ndarray  # [S, M, J]
    walking: np.ndarray  # [S] bool: inside the walking range


class PublishedPaths:
    """The published model as a function of independent joint angles: posture in, path lengths and moment arms out."""

    def __init__(self, model: mujoco.MjModel, joints: Sequence[JointSource], muscles: Sequence[str], side: str = "r"):
        self.model, self.data = model, mujoco.MjData(model)
        self.joints, self.side = tuple(joints), side
        self.sign = np.array([j.sign for j in joints], dtype=float)
        ids = [model.joint(j.source.format(side=side)).id for j in joints]
        self.qpos_index = np.array([model.jnt_qposadr[i] for i in ids])
        self.dof_index = np.array([model.jnt_dofadr[i] for i in ids])
        suffix = f"_{side}"
        self.actuators = [model.actuator(m + suffix).id for m in muscles]
        self.tendons = np.array([model.actuator_trnid[a, 0] for a in self.actuators])
        self._dependents = []
        for eq in range(model.neq):
            if model.eq_type[eq] == mujoco.mjtEq.mjEQ_JOINT:
                slave, master = model.eq_obj1id[eq], model.eq_obj2id[eq]
                self._dependents.append(
                    (
                        model.jnt_qposadr[slave], model.jnt_dofadr[slave], model.jnt_qposadr[master],
                        model.jnt_dofadr[master], np.polynomial.Polynomial(model.eq_data[eq][:5]),
                    )
                )  # fmt: skip

    def pose(self, angles_rad: np.ndarray) -> None:
        """Puts the model in a posture; dependent joints on their constraint polynomials."""
        q0 = self.model.qpos0
        self.data.qpos[:] = q0
        self.data.qpos[self.qpos_index] = self.sign * angles_rad
        for slave, _, master, _, polynomial in self._dependents:
            self.data.qpos[slave] = q0[slave] + polynomial(self.data.qpos[master] - q0[master])
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_tendon(self.model, self.data)

    def paths(self, angles_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Length [M] and moment arm [M, J] at one posture, moment arms with dependent joints chained in."""
        self.pose(angles_rad)
        jacobian = self._jacobian()
        for _, slave_dof, master, master_dof, polynomial in self._dependents:
            slope = polynomial.deriv()(self.data.qpos[master] - self.model.qpos0[master])
            jacobian[:, master_dof] += jacobian[:, slave_dof] * slope
        return self.data.ten_length[self.tendons].copy(), -self.sign * jacobian[:, self.dof_index]

    def _jacobian(self) -> np.ndarray:
        """d length / d dof of this limb's tendons, dense [M, nv]."""
        model, data = self.model, self.data
        dense = np.zeros((len(self.tendons), model.nv))
        values, columns = np.asarray(data.ten_J).ravel(), np.asarray(model.ten_J_colind).ravel()
        for row, tendon in enumerate(self.tendons):
            start, count = model.ten_J_rowadr[tendon], model.ten_J_rownnz[tendon]
            dense[row, columns[start : start + count]] = values[start : start + count]
        return dense


def sample_paths(
    model: mujoco.MjModel, joints: Sequence[JointSource], muscles: Sequence[str], count: int, seed: int, side: str = "r"
) -> PathSamples:
    """Samples `count` postures: two thirds over the walking range, one third over the whole joint range."""
    published = PublishedPaths(model, joints, muscles, side)
    low, high = _full_range(model, joints, side)
    walk_low, walk_high = np.array([walking_range_rad(j) for j in joints]).T
    rng = np.random.default_rng(seed)
    walking = np.arange(count) % 3 != 0
    # A little beyond each range: a polynomial is worst at the edge of what it saw.
    margin = np.where(walking[:, None], 0.02, _RANGE_MARGIN_RAD)
    lows = np.where(walking[:, None], walk_low, low) - margin
    highs = np.where(walking[:, None], walk_high, high) + margin
    angles = lows + rng.random((count, len(joints))) * (highs - lows)
    lengths = np.empty((count, len(muscles)))
    arms = np.empty((count, len(muscles), len(joints)))
    for i in range(count):
        lengths[i], arms[i] = published.paths(angles[i])
    return PathSamples(tuple(joints), tuple(muscles), angles, lengths, arms, walking)


def _full_range(model, joints: Sequence[JointSource], side: str) -> tuple[np.ndarray, np.ndarray]:
    ranges = [range_rad(j, tuple(model.jnt_range[model.joint(j.source.format(side=side)).id])) for j in joints]
    low, high = np.array(ranges).T
    return low, high


def fit_paths(model: mujoco.MjModel, samples: PathSamples, side: str = "r") -> PathPolynomials:
    """Least squares on lengths and moment arms together, one shared monomial table.

    The degree of each muscle is the smallest that brings its moment arms within 0.5 mm RMS over the walking range, up
    to the largest its number of joints allows.
    """
    low, high = _full_range(model, samples.joints, side)
    centre = 0.5 * (low + high)
    half = 0.5 * (high - low) + _RANGE_MARGIN_RAD
    x = (samples.angles_rad - centre) / half
    crossed = np.abs(samples.arm_m).max(axis=0) > _ARM_FLOOR_M  # [M, J]
    weight = np.where(samples.walking, 1.0, 0.15)

    exponents_per_muscle, coefficients = [], []
    for m in range(len(samples.muscles)):
        exponents, solution = _fit_muscle(x, half, samples, m, np.flatnonzero(crossed[m]), weight)
        exponents_per_muscle.append(exponents)
        coefficients.append(solution)
    return _share_monomials(samples, centre, half, crossed, exponents_per_muscle, coefficients)


_DEGREES = {1: (4, 5, 6, 7, 8, 9), 2: (4, 5, 6, 7, 8), 3: (4, 5, 6, 7), 4: (4, 5), 5: (3, 4), 6: (3,)}
_TARGET_RMS_M = 5e-4


def _fit_muscle(x, half, samples: PathSamples, muscle: int, joints: np.ndarray, weight: np.ndarray):
    """Exponents [K, J] and coefficients [K] of one muscle's length."""
    for degree in _DEGREES[max(1, len(joints))]:
        exponents = _exponents(x.shape[1], joints, degree)
        length_design = _power_products(x, exponents)
        blocks, targets = [length_design], [samples.length_m[:, muscle]]
        for j in joints:
            blocks.append(-_derivative_design(x, exponents, j) / half[j])
            targets.append(samples.arm_m[:, muscle, j])
        # An arm error of 1 mm matters as much as a length error of 0.3 mm.
        scale = [3.0] + [1.0] * len(joints)
        design = np.concatenate([s * weight[:, None] * b for s, b in zip(scale, blocks, strict=True)])
        target = np.concatenate([s * weight * t for s, t in zip(scale, targets, strict=True)])
        solution = np.linalg.solve(design.T @ design + 1e-9 * np.eye(design.shape[1]), design.T @ target)
        residuals = [
            np.sqrt(np.mean((b[samples.walking] @ solution - t[samples.walking]) ** 2))
            for b, t in zip(blocks[1:], targets[1:], strict=True)
        ]
        if not residuals or max(residuals) < _TARGET_RMS_M:
            break
    return exponents, solution


def _exponents(joint_count: int, joints: np.ndarray, degree: int) -> np.ndarray:
    """All exponent tuples over `joints` up to total `degree`, lowest degree first: [K, J]."""
    rows = [np.zeros(joint_count, dtype=int)]
    frontier = {tuple(rows[0])}
    for _ in range(degree):
        grown = set()
        for row in frontier:
            for j in joints:
                new = list(row)
                new[j] += 1
                grown.add(tuple(new))
        rows.extend(np.array(r) for r in sorted(grown))
        frontier = grown
    return np.array(rows)


def _power_products(x: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    powers = np.stack([x**p for p in range(exponents.max() + 1)])  # [P, S, J]
    result = np.ones((len(x), len(exponents)))
    for j in range(x.shape[1]):
        if exponents[:, j].any():
            result *= powers[exponents[:, j], :, j].T
    return result


def _derivative_design(x: np.ndarray, exponents: np.ndarray, joint: int) -> np.ndarray:
    lowered = exponents.copy()
    lowered[:, joint] = np.maximum(lowered[:, joint] - 1, 0)
    return _power_products(x, lowered) * exponents[:, joint]


def _share_monomials(samples, centre, half, crossed, exponents_per_muscle, coefficients) -> PathPolynomials:
    """Merges the muscles' polynomials into one monomial table and one matrix."""
    needed = {tuple(e) for exponents in exponents_per_muscle for e in exponents}
    order = sorted(needed, key=lambda e: (sum(e), e))
    index = {e: k for k, e in enumerate(order)}
    parent, variable = np.zeros(len(order), dtype=np.int64), np.zeros(len(order), dtype=np.int64)
    for e, k in index.items():
        if k == 0:
            continue
        j = max(i for i, p in enumerate(e) if p)
        lower = tuple(p - (i == j) for i, p in enumerate(e))
        parent[k], variable[k] = index[lower], j

    crossings = np.argwhere(crossed)
    muscle_count = len(samples.muscles)
    matrix = np.zeros((muscle_count + len(crossings), len(order)))
    for m, (exponents, solution) in enumerate(zip(exponents_per_muscle, coefficients, strict=True)):
        for e, c in zip(exponents, solution, strict=True):
            matrix[m, index[tuple(e)]] += c
    for row, (m, j) in enumerate(crossings):
        for e, c in zip(exponents_per_muscle[m], coefficients[m], strict=True):
            if e[j]:
                lower = tuple(p - (i == j) for i, p in enumerate(e))
                matrix[muscle_count + row, index[lower]] -= c * e[j] / half[j]
    return PathPolynomials(
        joints=tuple(j.name for j in samples.joints),
        muscles=samples.muscles,
        centre_rad=centre,
        half_range_rad=half,
        parent=parent,
        variable=variable,
        matrix=matrix,
        crossings=crossings,
    )


@dataclasses.dataclass(frozen=True)
class PathError:
    """RMS and largest error of one muscle's length and of its moment arm about one joint, over the walking range."""

    muscle: str
    joint: str
    length_rms_mm: float
    arm_rms_mm: float
    arm_max_mm: float


def path_errors(polynomials: PathPolynomials, samples: PathSamples) -> list[PathError]:
    """One row per muscle–joint pair, measured on samples the fit should not have seen."""
    angles = samples.angles_rad[samples.walking]
    length, arm = polynomials.evaluate(angles)
    length_error = 1e3 * (length - samples.length_m[samples.walking])
    arm_error = 1e3 * (arm - samples.arm_m[samples.walking])
    rows = []
    for m, j in polynomials.crossings:
        rows.append(
            PathError(
                polynomials.muscles[m],
                polynomials.joints[j],
                float(np.sqrt(np.mean(length_error[:, m] ** 2))),
                float(np.sqrt(np.mean(arm_error[:, m, j] ** 2))),
                float(np.abs(arm_error[:, m, j]).max()),
            )
        )
    return rows
