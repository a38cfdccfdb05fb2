"""Who walks: height, mass and strength of one person, and the floor under them.

A wearer is drawn at the start of a run and becomes a model; nothing in a finished model is changed later, because
derived constants would go stale and engines would then disagree.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.stats import qmc

from mjx_exo.errors import UserError

MASS_RANGE_KG = (30.0, 150.0)
HEIGHT_RANGE_M = (1.3, 2.2)
STRENGTH_RANGE = (0.3, 3.0)
FRICTION_RANGE = (0.2, 2.0)
PASSIVE_RANGE = (0.0, 3.0)


@dataclasses.dataclass(frozen=True)
class Wearer:
    """One person. `None` keeps the published body's own value."""

    mass_kg: float | None = None  # body mass without device
    height_m: float | None = None  # standing height; segments scale with it
    strength: float = 1.0  # peak muscle force relative to the published body, scaled with body mass
    friction: float = 1.0  # sole on floor, Coulomb
    passive: float = 1.0  # passive joint damping and stiffness relative to the compiled body's

    def __post_init__(self) -> None:
        for field, unit, (low, high) in (
            ("mass_kg", "kg", MASS_RANGE_KG),
            ("height_m", "m", HEIGHT_RANGE_M),
            ("strength", "", STRENGTH_RANGE),
            ("friction", "", FRICTION_RANGE),
            ("passive", "", PASSIVE_RANGE),
        ):
            value = getattr(self, field)
            if value is not None and not low <= value <= high:
                raise UserError(f"wearer {field} = {value:g}{unit} is outside {low:g} to {high:g}{unit}")


@dataclasses.dataclass(frozen=True)
class WearerRange:
    """Uniform ranges wearers are drawn from. Mass is drawn as body-mass index, so that height and mass go together."""

    height_m: tuple[float, float] = (1.55, 1.92)
    body_mass_index: tuple[float, float] = (20.0, 29.0)  # kg/m²
    strength: tuple[float, float] = (0.8, 1.2)
    friction: tuple[float, float] = (0.7, 1.2)
    passive: tuple[float, float] = (1.0, 1.0)


def draw_wearers(count: int, ranges: WearerRange, seed: int) -> tuple[Wearer, ...]:
    """`count` wearers; the same seed draws the same ones."""
    names = [field.name for field in dataclasses.fields(WearerRange)]
    # Latin hypercube: even a few wearers cover every range from end to end.
    shares = qmc.LatinHypercube(len(names), rng=np.random.default_rng(seed)).random(count)
    wearers = []
    for row in shares:
        low_high = {name: getattr(ranges, name) for name in names}
        drawn = {
            name: round(float(low + share * (high - low)), 3)
            for share, (name, (low, high)) in zip(row, low_high.items(), strict=True)
        }
        mass = drawn.pop("body_mass_index") * drawn["height_m"] ** 2
        wearers.append(Wearer(mass_kg=round(mass, 2), **drawn))
    return tuple(wearers)
