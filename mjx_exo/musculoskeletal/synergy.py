"""Muscle synergies as the action prior: a few activations per leg instead of every muscle.

The published modules of walking (Neptune 2009; Allen & Neptune 2012; Clark 2010) are written by muscle group, so one
definition serves every body, and one basis serves both legs. Raw muscles are kept as an option for comparison.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mjx_exo.conventions import MUSCLE_GROUPS
from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.compiled import CompiledBody

# Seven modules per leg, weights by muscle group. The first six follow the published modules; M7 separates the hip
# abductors from the mediolateral module so that balance and weight acceptance can differ.
PUBLISHED_MODULES: dict[str, dict[str, float]] = {
    "M1 weight acceptance": {"glutmax": 0.7, "abd": 0.5, "vasti": 1.0, "rectfem": 0.4},
    "M2 push-off": {"gastroc": 1.0, "soleus": 1.0, "fdl": 0.6},
    "M3 foot clearance": {"tibant": 1.0, "edl": 1.0, "rectfem": 0.4},
    "M4 leg deceleration": {"hamstrings": 1.0, "bifemsh": 0.6, "glutmax": 0.3},
    "M5 leg swing": {"iliopsoas": 1.0, "rectfem": 0.2, "add": 0.2},
    "M6 adduction": {"add": 1.0},
    "M7 abduction": {"abd": 1.0},
}


@dataclasses.dataclass(frozen=True)
class SynergyBasis:
    """Non-negative weights [M, S] from S synergy activations to the M muscles of one leg, largest weight 1."""

    names: tuple[str, ...]
    weights: np.ndarray

    @property
    def size(self) -> int:
        return self.weights.shape[1]


def published_basis(body: CompiledBody) -> SynergyBasis:
    """The published modules on the muscles of a body's leg: each muscle takes its group's weight."""
    unknown = {g for module in PUBLISHED_MODULES.values() for g in module} - set(MUSCLE_GROUPS)
    assert not unknown, unknown
    weights = np.array(
        [[module.get(group, 0.0) for module in PUBLISHED_MODULES.values()] for group in body.muscle_groups]
    )
    return SynergyBasis(tuple(PUBLISHED_MODULES), weights)


def raw_basis(body: CompiledBody) -> SynergyBasis:
    """Every muscle of a leg by itself."""
    names = body.leg.paths.muscles
    return SynergyBasis(names, np.eye(len(names)))


BASES = {"published": published_basis, "raw": raw_basis}


def synergy_basis(name: str, body: CompiledBody) -> SynergyBasis:
    """The basis called `name` for a body; `UserError` naming the known ones otherwise."""
    if name not in BASES:
        raise UserError(f"unknown synergies '{name}'; known: {', '.join(BASES)}")
    return BASES[name](body)
