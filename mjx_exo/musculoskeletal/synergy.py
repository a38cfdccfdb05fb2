"""Muscle synergies as the action prior: a few activations per leg instead of every muscle.

The published modules of walking (Neptune 2009; Allen & Neptune 2012; Clark 2010) are written by muscle group, so one
definition serves every body, and one basis serves both legs. Raw muscles are kept as an option for comparison, and
synergies extracted from data (`python -m mjx_exo.synergies extract`) take the published ones' place by their file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mjx_exo.conventions import MUSCLE_GROUPS
from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.bodies import BODIES
from mjx_exo.musculoskeletal.compiled import CompiledBody
from mjx_exo.musculoskeletal.synergy_files import Synergies, read_synergies

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


def extracted_basis(synergies: Synergies, body: CompiledBody, source: str) -> SynergyBasis:
    """Synergies from data on the muscles of a body's leg.

    Muscles are found by name; where the data came from another body, each muscle takes the mean weight of its group.
    Trunk muscles in the data are left out, as they are driven directly. Raises `UserError` naming `source` if a muscle
    of the leg has no weight or a synergy none on any.
    """
    muscles = body.leg.paths.muscles
    if set(muscles) <= set(synergies.muscles):
        weights = synergies.weights_for(muscles)
    else:
        from mjx_exo.musculoskeletal.synergy_extraction import by_group  # scikit-learn, needed only here

        trunk = {muscle for description in BODIES.values() for muscle in description.trunk_muscles}
        kept = tuple(m for m in synergies.muscles if m not in trunk)
        groups, rows = by_group(kept, synergies.weights_for(kept))
        missing = sorted(set(body.muscle_groups) - set(groups))
        if missing:
            raise UserError(f"{source}: no weights for the {missing[0]} muscles of body {body.name}")
        weights = rows[[groups.index(group) for group in body.muscle_groups]]
    largest = weights.max(axis=0)
    if not np.all(largest > 0):
        silent = synergies.names[int(np.argmin(largest))]
        raise UserError(f"{source}: synergy {silent} moves no leg muscle of body {body.name}")
    return SynergyBasis(synergies.names, weights / largest)


def synergy_basis(name: str, body: CompiledBody) -> SynergyBasis:
    """The basis called `name` for a body, or the one in the synergy file `name`; `UserError` otherwise."""
    if name in BASES:
        return BASES[name](body)
    if Path(name).suffix != ".json" and not Path(name).is_file():
        raise UserError(f"unknown synergies '{name}'; known: {', '.join(BASES)}, or a synergy file (.json)")
    return extracted_basis(read_synergies(name), body, name)
