"""From the human actor's action to muscle excitations: synergies of the leading and the other leg, and the clock."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mjx_exo.musculoskeletal.synergy import synergy_basis
from mjx_exo.physics.interface import Engine
from mjx_exo.walking.config import WalkingConfig

ACTION_CLIP = 4.0


class HumanActions:
    """An action [N, A] is S synergies of one leg, S of the other, T trunk muscles of one side, T of the other, clock.

    The last column is there only where the configuration lets the policy bend the gait clock.
    """

    def __init__(self, config: WalkingConfig, engine: Engine, trunk_muscles: int):
        self.config, self.trunk_muscles = config, trunk_muscles
        basis = synergy_basis(config.synergies, engine.body)
        self.synergies = basis.size
        self._weights = jnp.asarray(basis.weights.T, jnp.float32)  # [S, M]
        self.size = 2 * basis.size + 2 * trunk_muscles + (config.clock_freedom > 0)

    def ordered(self, human: Array, swap: Array) -> Array:
        """The action [N, A] clipped, legs (and trunk muscles) right before left; `swap` [N]: the left leg leads."""
        human = jnp.clip(human, -ACTION_CLIP, ACTION_CLIP)
        n, s, t = human.shape[0], self.synergies, self.trunk_muscles
        pairs = [human[:, : 2 * s].reshape(n, 2, s), human[:, 2 * s : 2 * (s + t)].reshape(n, 2, t)]
        ordered = [jnp.where(swap[:, None, None], pair[:, ::-1], pair).reshape(n, -1) for pair in pairs]
        return jnp.concatenate([*ordered, human[:, 2 * (s + t) :]], -1)

    def excitation(self, action: Array) -> Array:
        """Muscle excitations [N, M], 0…1, of an action in right–left order [N, A]."""
        n, s, t = action.shape[0], self.synergies, self.trunk_muscles
        legs = action[:, : 2 * s].reshape(n, 2, s) @ self._weights
        wanted = jnp.concatenate([legs.reshape(n, -1), action[:, 2 * s : 2 * (s + t)]], -1)
        return jnp.clip(self.config.excitation_rest + self.config.excitation_gain * wanted, 0.0, 1.0)

    def clock_bend(self, action: Array) -> Array:
        """Relative speed [N] of the gait clock that an action [N, A] asks for."""
        if self.config.clock_freedom == 0:
            return jnp.ones(action.shape[0])
        return 1.0 + self.config.clock_freedom * jnp.tanh(action[:, -1])
