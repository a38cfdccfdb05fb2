"""The average of policies that grew out of one another: often surer of its feet than any of them.

Stopping a training is choosing a point at random from around what it converges to; the average of several lies nearer
the middle (Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018; Wortsman et
al., "Model soups", ICML 2022). It holds for relatives only: policies that were trained apart have nothing in common
between their hidden units, and their average walks nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.learning.policy_file import Policy

_SAME = ("format_version", "actors", "observation_clip", "control_dt_s", "identity")
"""What policies must have in common, as policy.json says it."""
_SAME_ACTIONS = ("synergies", "clock_freedom", "muscle_freedom", "excitation_rest", "excitation_gain")
"""And of the walking task: what an action does to the muscles."""


def average_policies(policies: Sequence[Policy], names: Sequence[str]) -> Policy:
    """The mean of the parameters, each policy weighing the same; settings and the like are the last one's.

    Every policy is first written for the last one's normaliser, so that it computes what it computed (but where inputs
    are clipped). `names` go into `averaged_from` and into errors. Raises `UserError` for fewer than two policies and
    for such as have other actors, sizes, bodies or devices.
    """
    if len(policies) < 2:
        raise UserError(f"an average needs at least two policies, not {len(policies)}")
    last = policies[-1]
    expected = _in_common(last)
    for policy, name in zip(policies, names, strict=True):
        for key, value in _in_common(policy).items():
            if value != expected[key]:
                raise UserError(
                    f"{name} and {names[-1]} cannot be averaged: their {key} differ ({value}, {expected[key]})"
                )
    arrays = {
        actor: {
            "params": _mean([_for_normaliser(policy.arrays[actor], to) for policy in policies]),
            "mean": to["mean"],
            "std": to["std"],
        }
        for actor, to in last.arrays.items()
    }
    parts = [
        {"name": name, **{key: policy.description[key] for key in ("sha256", "settings_hash", "env_steps")}}
        for policy, name in zip(policies, names, strict=True)
    ]
    return Policy(arrays, {**last.description, "averaged_from": parts})


def _in_common(policy: Policy) -> dict[str, Any]:
    walking = policy.description["settings"].get("walking", {})
    return {key: policy.description[key] for key in _SAME} | {key: walking.get(key) for key in _SAME_ACTIONS}


def _for_normaliser(arrays: Mapping[str, Any], to: Mapping[str, Any]) -> Any:
    """Parameters that do with `to`'s normalised inputs what `arrays`' own do with its."""
    params = jax.tree.map(lambda array: np.asarray(array, np.float64), arrays["params"])
    mean, std = np.asarray(arrays["mean"], np.float64), np.asarray(arrays["std"], np.float64)
    first = params["params"]["MLP_0"]["hidden_0"]
    kernel = first["kernel"]
    first["bias"] = first["bias"] + ((np.asarray(to["mean"]) - mean) / std) @ kernel
    first["kernel"] = kernel * (np.asarray(to["std"]) / std)[:, None]
    return params


def _mean(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0).astype(np.float32), *trees)
