"""Gain and delay of a reference controller: every candidate is tried on a human who has co-adapted with all of them.

One training holds the whole search, a candidate per environment, so the human has met each of them and senses the
torque; the candidates then walk on the level and on a mild slope, the same people with each, and the one with the least
metabolic rate among those that do not fall wins. It gets a co-adaptation of its own at the full budget, from the same
start as every other arm: the search is a gift to the reference controllers, never to the learned one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.gait.files import write_json
from mjx_exo.study import compare
from mjx_exo.study.arms import Stage
from mjx_exo.walking.reference_controllers import candidates, reference_controller

TRIAL_S = 10.0
SETTLE_S = 3.0
SPEEDS_M_S, SLOPES_RAD = (0.8, 1.2, 1.6), (0.0, math.radians(3.0))
WEARERS = 8
FALL_LIMIT = 2.0 * compare.FALL_LIMIT  # who has met nine devices at once stumbles more than with a single one


def spread_candidates(name: str, num_envs: int) -> Any:
    """The search grid as parameters [N], candidates taking turns over the environments."""
    listed = candidates(name)
    rows = [listed[i % len(listed)] for i in range(num_envs)]
    return type(listed[0])(*(jnp.asarray(column, jnp.float32) for column in zip(*rows, strict=True)))


def choose(metabolic_w_kg: np.ndarray, fell: np.ndarray) -> int:
    """The candidate of least metabolic rate [K, P] among those that fall in at most `FALL_LIMIT` of P trials [K, P].

    They are compared on the trials that all of them walk to the end: whoever falls where walking is costly would look
    thrifty. Where all of them fall more often, or there is no such trial, the one that falls least.
    """
    falls = fell.mean(axis=1)
    safe = np.flatnonzero(falls <= FALL_LIMIT)
    common = np.isfinite(metabolic_w_kg[safe]).all(axis=0)
    if not safe.size or not common.any():
        return int(np.argmin(falls))
    return int(safe[np.argmin(metabolic_w_kg[safe][:, common].mean(axis=1))])


def tuned(folder: Path, name: str) -> Any:
    """The parameters that the search in folder/NAME_search chose."""
    path = folder / f"{name}_search" / "tuned.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: the search for {name} was not finished; go on with --resume")
    return type(reference_controller(name).parameters)(**json.loads(path.read_text())["parameters"])


def tune(stage: Stage, folder: Path, say: Callable[[str], None], seconds: float = TRIAL_S) -> None:
    """Walks every candidate with the human of the search and writes tuned.json beside it, unless it is there."""
    path = folder / stage.name / "tuned.json"
    if path.is_file():
        return
    listed = candidates(stage.controller)
    metabolic, fell = walk_candidates(stage, folder / stage.name, seconds)
    best = choose(metabolic, fell)
    means, falls = compare.mean_known(metabolic, axis=1), fell.mean(axis=1)
    rows = [
        row._asdict() | {"metabolic_W_kg": float(m), "fall_share": float(f)}
        for row, m, f in zip(listed, means, falls, strict=True)
    ]
    write_json(path, {"controller": stage.controller, "parameters": listed[best]._asdict(), "candidates": rows})
    say(f"{stage.controller}: {listed[best]} is best of {len(listed)}")


def walk_candidates(stage: Stage, run: Path, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Metabolic rate [K, P] in W/kg (nan where nobody walked to the end) and whether somebody fell [K, P].

    The P trials are the same people in the same cells with every candidate.
    """
    import jax

    from mjx_exo.controllers import ControlledEnv, ReferenceDriver, human_only
    from mjx_exo.study.walk import trial_measures
    from mjx_exo.teacher import load_teacher
    from mjx_exo.walking.rollout import run_trials, start_walking

    teacher = load_teacher(run)
    low, high = stage.config.walking.command.speed_m_s
    speeds = [v for v in SPEEDS_M_S if low <= v <= high] or [0.5 * (low + high)]
    steepest = stage.config.walking.command.slope_rad[1]
    cells = [(v, s) for v in speeds for s in SLOPES_RAD if s <= steepest] or [(v, 0.0) for v in speeds]
    kinds = len(candidates(stage.controller))
    wearers = min(WEARERS, stage.config.walking.wearers)
    count = kinds * len(cells) * wearers * (WEARERS // wearers)
    env = teacher.environment(count, seconds + 1.0, human_only=True, wearers=wearers)
    env = ControlledEnv(env, ReferenceDriver(stage.controller, spread_candidates(stage.controller, count)))
    cell_of = (np.arange(count) // kinds) % len(cells)
    wanted = np.array(cells, np.float32)[cell_of]
    state = start_walking(env, jax.random.key(stage.config.seed), jnp.asarray(wanted[:, 0]), jnp.asarray(wanted[:, 1]))
    trials = run_trials(env, human_only(lambda seen: teacher.policy.act("human", seen)), state, seconds)
    rows = trial_measures(env, trials, min(SETTLE_S, 0.4 * seconds))
    rates = [row.get("metabolic_W_kg", np.nan) for row in rows]
    return np.reshape(rates, (-1, kinds)).T, np.reshape([row["fell"] for row in rows], (-1, kinds)).T
