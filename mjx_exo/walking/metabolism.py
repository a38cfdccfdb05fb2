"""What the muscles of N walkers spend, from what an engine reads of them; for NumPy and JAX arrays alike."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from mjx_exo.musculoskeletal import energetics
from mjx_exo.musculoskeletal.energetics import FibreState
from mjx_exo.physics.interface import Engine


class Metabolism:
    """Energy models with the muscle constants of each environment's wearer.

    Arrays are [..., N, M]: excitation and activation 0…1, fibre length in optimal lengths, fibre velocity in optimal
    lengths per second, lengthening positive. volume_m3: [N, M].
    """

    def __init__(self, engine: Engine):
        body, of = engine.body, np.asarray(engine.wearer_of)
        rows = [body.muscle_parameters(wearer) for wearer in engine.wearers]
        self._muscles = jax.tree.map(lambda *row: np.stack(row)[of].astype(np.float32), *rows)
        self._constants = energetics.muscle_energetics(body.muscle_names, self._muscles)
        self.volume_m3 = energetics.muscle_volume_m3(self._muscles.peak_force_n, self._muscles.optimal_length_m)

    def umberger_w(self, excitation: Any, activation: Any, fibre_length: Any, fibre_velocity: Any) -> Any:
        """Metabolic power of each muscle after Umberger 2010, W."""
        fibre = self._fibre(activation, fibre_length, fibre_velocity)
        return energetics.umberger_power(excitation, activation, fibre, self._constants).total_w

    def bhargava_w(self, excitation: Any, activation: Any, fibre_length: Any, fibre_velocity: Any) -> Any:
        """The same after Bhargava 2004."""
        fibre = self._fibre(activation, fibre_length, fibre_velocity)
        return energetics.bhargava_power(excitation, activation, fibre, self._constants).total_w

    def _fibre(self, activation: Any, length: Any, velocity: Any) -> FibreState:
        muscles = self._muscles
        path_m = length * muscles.optimal_length_m + muscles.rest_length_m
        return energetics.fibre_state(activation, path_m, velocity * muscles.optimal_length_m, muscles)
