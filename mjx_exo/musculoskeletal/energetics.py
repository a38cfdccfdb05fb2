"""What walking costs: metabolic power of compiled muscles.

Two published models, so that a reduction can be shown not to hang on one of them:

- Umberger 2010 (J R Soc Interface 7:1329; equations of Umberger, Gerritsen, Martin 2003, CMBBE 6:99): heat of
  activation and maintenance, heat of shortening or lengthening, and work. As published it charges a muscle's full share
  of fast fibres at any drive, and its activation heat grows with drive^0.6: `myolegs26` with every muscle idling at
  0.05 costs 4.6 W per kg of body mass. The default therefore recruits slow fibres first (Bhargava 2004), as OpenSim's
  own probe of this model does, and comes to 1.6 W/kg; `UMBERGER_2010` is the model to the letter.
- Bhargava, Pandy, Anderson 2004 (J Biomech 37:81), without its decay of activation heat, as OpenSim computes it.

Constants were read in OpenSim's probes (`Umberger2010MuscleMetabolicsProbe`, `Bhargava2004MuscleMetabolicsProbe`).

Assumptions, to be stated wherever a result is:

- MuJoCo's muscle has no tendon spring: its fibre is the path less a constant, L0 = (lr1 − lr0)/(r1 − r0) and
  rest = lr0 − r0·L0 with lr the actuator's `lengthrange` and r the first two gain parameters. What a long tendon would
  store and return (soleus, gastrocnemius) is fibre work here, so absolute cost is biased upward; compare, do not quote.
- Muscle mass = F0/σ · L0 · ρ with σ = 0.6 MPa: gives 17.6 kg for both legs of `myolegs26` and 18.6 kg for `myolegs`,
  the size of living legs. The 0.25 MPa customary with weaker models would make it 42 kg of 78 kg.
- Velocities are in optimal lengths per second, shortening negative. Forces are active tension (no passive part), N.
- Muscles that a body does not have (arms, most of the trunk) are covered by the basal rate only.

Arrays may be numpy or JAX; the last axis is the muscle.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.bodies import BODIES
from mjx_exo.musculoskeletal.muscle import MuscleParameters, muscle_functions

BASAL_W_KG = 1.2  # standing; OpenSim's default, there referred to Umberger 2003, p. 105
MUSCLE_DENSITY_KG_M3 = 1059.7  # mammalian muscle; OpenSim's default
SPECIFIC_TENSION_PA = 0.6e6  # see the module's assumptions

# Share of slow fibres by muscle: the table of Uchida et al. 2016 ("Stretching your energetic budget", PLoS ONE), which
# largely follows the autopsies of Johnson et al. 1973 (J Neurol Sci 18:111) (background); the figures were read in
# KULeuvenNeuromechanics/MuscleRedundancySolver. 0.5 stands where that table has no data (iliopsoas, sartorius,
# gracilis, short adductors, tensor fasciae latae, piriformis).
SLOW_FIBRE_SHARE = {
    "glmax1": 0.55, "glmax2": 0.55, "glmax3": 0.55, "glmed1": 0.55, "glmed2": 0.55, "glmed3": 0.55, "glmin1": 0.55,
    "glmin2": 0.55, "glmin3": 0.55, "tfl": 0.5, "piri": 0.5, "iliacus": 0.5, "psoas": 0.5, "sart": 0.5, "grac": 0.5,
    "addbrev": 0.5, "addlong": 0.5, "addmagDist": 0.552, "addmagIsch": 0.552, "addmagMid": 0.552,
    "addmagProx": 0.552, "semimem": 0.4925, "semiten": 0.425, "bflh": 0.5425, "bfsh": 0.529, "recfem": 0.3865,
    "vasmed": 0.503, "vasint": 0.543, "vaslat": 0.455, "gasmed": 0.566, "gaslat": 0.507, "soleus": 0.803,
    "tibpost": 0.6, "fdl": 0.6, "fhl": 0.6, "perbrev": 0.6, "perlong": 0.6, "tibant": 0.7, "edl": 0.75, "ehl": 0.75,
    "ercspn": 0.6, "intobl": 0.56, "extobl": 0.58,
}  # fmt: skip


class MuscleEnergetics(NamedTuple):
    """Constants of M muscles, arrays broadcastable to [..., M]."""

    mass_kg: Any
    slow_share: Any
    peak_force_n: Any
    optimal_length_m: Any
    velocity_max: Any  # optimal lengths per second
    length_min: Any  # optimal lengths; active force is zero below
    length_max: Any  # optimal lengths; active force is zero above


class MusclePower(NamedTuple):
    """Power of each muscle, W, [..., M]; `total_w` is what the wearer pays."""

    activation_heat_w: Any
    velocity_heat_w: Any  # of shortening (positive) or lengthening
    work_w: Any  # positive when the muscle shortens
    total_w: Any


class FibreState(NamedTuple):
    """What the energy models ask about a muscle, [..., M]."""

    length: Any  # optimal lengths
    velocity: Any  # optimal lengths per second, shortening negative
    active_force_n: Any  # tension without the passive part


@dataclasses.dataclass(frozen=True)
class UmbergerModel:
    """One reading of Umberger's model."""

    orderly_recruitment: bool = True
    """Slow fibres first (Bhargava 2004) instead of a constant mix at every drive."""
    counts_negative_work: bool = False
    """Umberger 2003: work done on a muscle is subtracted; 2010 leaves it out. A muscle's total never goes below 0."""
    lengthening_factor: float = 0.3
    """Lengthening heat over slow fibres' shortening heat at the same speed: 0.3 in 2010, 4.0 in 2003."""
    aerobic_factor: float = 1.5
    """1.5 for aerobic, 1.0 for anaerobic exercise."""
    minimum_heat_w_kg: float = 1.0
    """Heat of a resting muscle, W per kg of muscle."""


UMBERGER_2010 = UmbergerModel(orderly_recruitment=False)
UMBERGER_2003 = UmbergerModel(orderly_recruitment=False, counts_negative_work=True, lengthening_factor=4.0)


def slow_fibre_share(muscle_names: Sequence[str]) -> np.ndarray:
    """Share of slow fibres [M] of muscles or muscle groups, with or without `_r`/`_l`.

    A group's share is the mean of the muscles that `myolegs` counts to it. Raises UserError for an unknown name.
    """
    groups = BODIES["myolegs"].muscle_groups
    shares = []
    for name in muscle_names:
        stem = name[:-2] if name.endswith(("_r", "_l")) else name
        members = [stem] if stem in SLOW_FIBRE_SHARE else [m for m, group in groups.items() if group == stem]
        if not members:
            known = ", ".join(sorted({*SLOW_FIBRE_SHARE, *groups.values()}))
            raise UserError(f"no share of slow fibres known for muscle {name!r}; known: {known}")
        shares.append(np.mean([SLOW_FIBRE_SHARE[m] for m in members]))
    return np.array(shares)


def muscle_volume_m3(peak_force_n: Any, optimal_length_m: Any, specific_tension_pa: float = SPECIFIC_TENSION_PA) -> Any:
    """Volume F0·L0/σ, m³: the weight of a muscle in volume-weighted mean activation."""
    return peak_force_n * optimal_length_m / specific_tension_pa


def muscle_energetics(
    muscle_names: Sequence[str], muscles: MuscleParameters, specific_tension_pa: float = SPECIFIC_TENSION_PA
) -> MuscleEnergetics:
    """The energy models' constants of M named muscles; parameters of a scaled wearer give a scaled muscle mass."""
    volume_m3 = muscle_volume_m3(muscles.peak_force_n, muscles.optimal_length_m, specific_tension_pa)
    return MuscleEnergetics(
        mass_kg=volume_m3 * MUSCLE_DENSITY_KG_M3,
        slow_share=slow_fibre_share(muscle_names),
        peak_force_n=muscles.peak_force_n,
        optimal_length_m=muscles.optimal_length_m,
        velocity_max=muscles.velocity_max,
        length_min=muscles.length_min,
        length_max=muscles.length_max,
    )


def fibre_state(activation: Any, path_length_m: Any, path_velocity_m_s: Any, muscles: MuscleParameters) -> FibreState:
    """Fibre length, velocity and active tension from activation and path, all [..., M]; lengthening positive."""
    curves = _curves(activation.__array_namespace__())
    length = (path_length_m - muscles.rest_length_m) / muscles.optimal_length_m
    velocity = path_velocity_m_s / muscles.optimal_length_m
    isometric = activation * curves.active_length(length, muscles.length_min, muscles.length_max)
    force = isometric * curves.active_velocity(velocity / muscles.velocity_max, muscles.eccentric_max)
    return FibreState(length, velocity, muscles.peak_force_n * force)


def umberger_power(
    excitation: Any,
    activation: Any,
    fibre: FibreState,
    constants: MuscleEnergetics,
    model: UmbergerModel = UmbergerModel(),
) -> MusclePower:
    """Metabolic power of each muscle after Umberger 2010.

    Args:
      excitation, activation: 0…1, [..., M].
      fibre: lengths, velocities (shortening negative) and active forces, [..., M].
      constants: of the M muscles.
      model: which reading; the default recruits slow fibres first.

    Returns:
      `MusclePower`, W. Heat is at least `minimum_heat_w_kg` per kg of muscle.
    """
    xp = activation.__array_namespace__()
    excitation, activation = xp.clip(excitation, 0.0, 1.0), xp.clip(activation, 0.0, 1.0)
    drive = xp.where(excitation > activation, excitation, 0.5 * (excitation + activation))
    slow = constants.slow_share
    if model.orderly_recruitment:
        slow_part, fast_part = _recruitment(xp, excitation, constants.slow_share)
        recruited = slow_part + fast_part
        slow = xp.where(recruited > 1e-6, slow_part / xp.maximum(recruited, 1e-6), 1.0)
    fast = 1.0 - slow

    force_length = _curves(xp).active_length(fibre.length, constants.length_min, constants.length_max)
    beyond_optimum = fibre.length > 1.0
    activation_rate = (128.0 * fast + 25.0) * drive**0.6
    activation_rate = activation_rate * xp.where(beyond_optimum, 0.4 + 0.6 * force_length, 1.0)

    slow_coefficient = 100.0 / (constants.velocity_max / 2.5)
    fast_coefficient = 153.0 / constants.velocity_max
    speed = -fibre.velocity
    shortening = slow * xp.minimum(slow_coefficient * speed, 100.0) + fast * fast_coefficient * speed
    lengthening = model.lengthening_factor * slow_coefficient * fibre.velocity
    velocity_rate = xp.where(fibre.velocity <= 0.0, shortening * drive**2, lengthening * drive)
    velocity_rate = velocity_rate * xp.where(beyond_optimum, force_length, 1.0)

    scale = model.aerobic_factor * constants.mass_kg
    activation_heat, velocity_heat = activation_rate * scale, velocity_rate * scale
    heat = xp.maximum(activation_heat + velocity_heat, model.minimum_heat_w_kg * constants.mass_kg)
    work = _work_w(fibre, constants)
    if model.counts_negative_work:
        total = xp.maximum(heat + work, 0.0)
    else:
        total = heat + xp.maximum(work, 0.0)
    return MusclePower(activation_heat, velocity_heat, work, total)


def bhargava_power(excitation: Any, activation: Any, fibre: FibreState, constants: MuscleEnergetics) -> MusclePower:
    """Metabolic power of each muscle after Bhargava 2004; arguments and result as in `umberger_power`.

    Work done on a muscle counts as negative; a muscle's heat is at least 1 W per kg of it, its total at least 0.
    """
    xp = activation.__array_namespace__()
    excitation, activation = xp.clip(excitation, 0.0, 1.0), xp.clip(activation, 0.0, 1.0)
    slow, fast = _recruitment(xp, excitation, constants.slow_share)
    force_length = _curves(xp).active_length(fibre.length, constants.length_min, constants.length_max)
    rising = xp.clip(fibre.length, 0.5, 1.0)
    maintenance_length = xp.where(fibre.length > 1.0, xp.maximum(3.0 - 2.0 * fibre.length, 0.0), rising)
    activation_heat = constants.mass_kg * (
        40.0 * slow + 133.0 * fast + maintenance_length * (74.0 * slow + 111.0 * fast)
    )

    isometric_n = activation * force_length * constants.peak_force_n
    shortening = 0.16 * isometric_n + 0.18 * fibre.active_force_n
    coefficient = xp.where(fibre.velocity <= 0.0, shortening, 0.157 * fibre.active_force_n)
    velocity_heat = -coefficient * fibre.velocity * constants.optimal_length_m

    heat = xp.maximum(activation_heat + velocity_heat, constants.mass_kg)
    work = _work_w(fibre, constants)
    return MusclePower(activation_heat, velocity_heat, work, xp.maximum(heat + work, 0.0))


def metabolic_rate_w_kg(total_w: Any, body_mass_kg: Any, basal_w_kg: float = BASAL_W_KG) -> Any:
    """Gross metabolic rate, W per kg of body mass [...], from muscle power [..., M].

    `body_mass_kg` [...] is the person's own mass: a worn device shows up in the cost, not in the divisor.
    """
    return total_w.sum(-1) / body_mass_kg + basal_w_kg


def cost_of_transport_j_kg_m(rate_w_kg: Any, speed_m_s: Any) -> Any:
    """Energy per kg and metre, from a mean rate and the mean speed achieved (> 0)."""
    return rate_w_kg / speed_m_s


def _work_w(fibre: FibreState, constants: MuscleEnergetics) -> Any:
    return -fibre.active_force_n * fibre.velocity * constants.optimal_length_m


def _recruitment(xp: ModuleType, excitation: Any, slow_share: Any) -> tuple[Any, Any]:
    """Recruited slow and fast fibres as shares of the whole muscle (Bhargava 2004): slow ones come first."""
    angle = 0.5 * np.pi * excitation
    return slow_share * xp.sin(angle), (1.0 - slow_share) * (1.0 - xp.cos(angle))


@functools.cache
def _curves(xp: ModuleType) -> SimpleNamespace:
    return muscle_functions(xp)
