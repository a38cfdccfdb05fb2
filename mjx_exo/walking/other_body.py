"""Handing a walker over to another body: one with more or fewer muscles and joints, the same synergies and actions.

What both bodies know of themselves is read by the same weights. The muscles of a group share what one stood for, in
equal parts, because the same synergies excite them alike. What the walker never had (the subtalar joint) it does not
listen to at first. It is a start: moments and inertias differ, and it has to learn to walk again, but it knows how.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.errors import UserError
from mjx_exo.walking.env import WalkingEnv

_JOINT_FEATURES = {"leg_angles": 0.1, "leg_velocities": 1.0}
"""Features with a number per joint of a leg, and the spread (rad, rad/s) of a joint the walker has not met."""
Name = tuple[str, str, str]


def input_names(env: WalkingEnv) -> list[Name]:
    """(feature, side, joint or muscle group or number) of every input of an environment's human actor, in order."""
    body = env.engine.body
    of_legs = dict.fromkeys(_JOINT_FEATURES, body.leg.paths.joints) | {"activation": body.muscle_groups}
    names: list[Name] = []
    for feature, size, _ in env.describe_observations()["human"]:
        if feature in of_legs:
            names += [(feature, side, part) for side in SIDES for part in of_legs[feature]]
        else:
            names += [(feature, "", str(i)) for i in range(size)]
    return names


def handed_over(arrays: dict[str, Any], before: WalkingEnv, after: WalkingEnv) -> dict[str, Any]:
    """The arrays of a human actor's policy (`Policy.arrays`) for the body of `after` instead of that of `before`.

    Raises `UserError` if the bodies are not moved by the same actions, or if the new one lacks an input that is no
    joint's and no muscle's.
    """
    old, new = input_names(before), input_names(after)
    bodies = f"{before.engine.body.name} to {after.engine.body.name}"
    moved_by = [
        (env.human_actions.synergies, env.walkers.trunk_muscles, env.human_actions.muscle_groups)
        for env in (before, after)
    ]
    if moved_by[0] != moved_by[1]:
        raise UserError(
            f"a walker cannot be handed over from {bodies}: (synergies of a leg, trunk muscles of a side, free "
            f"muscle groups) are {moved_by[0]} and {moved_by[1]}; they must be the same"
        )
    known = {feature for feature, _, _ in old}
    strange = [feature for feature, _, _ in new if feature not in known]
    if strange:
        raise UserError(f"a walker cannot be handed over from {bodies}: it knows no {strange[0]}")
    count = Counter(new)
    spread = np.zeros((len(new), len(old)), np.float32)  # input weights of the new body = spread @ those of the old
    mean, std = np.zeros(len(new), np.float32), np.ones(len(new), np.float32)
    for row, name in enumerate(new):
        alike = [i for i, other in enumerate(old) if other == name]
        spread[row, alike] = 1.0 / count[name]
        if alike:
            mean[row], std[row] = arrays["mean"][alike[0]], arrays["std"][alike[0]]
        else:
            std[row] = _JOINT_FEATURES.get(name[0], 1.0)
    params = arrays["params"]["params"]
    first = params["MLP_0"]["hidden_0"]
    widened = {**first, "kernel": spread @ np.asarray(first["kernel"])}
    hidden = {**params["MLP_0"], "hidden_0": widened}
    return {"params": {"params": {**params, "MLP_0": hidden}}, "mean": mean, "std": std}
