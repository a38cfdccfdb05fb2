"""Gain and delay of a reference controller: every candidate is tried on a human who has co-adapted with all of them.

One training holds the whole search, a candidate per environment, so the human has met each of them and senses the
torque; the candidates then walk the study's grid, on the training's own wearers, and the one with the least metabolic
rate among those that do not fall wins. It gets a co-adaptation of its own at the full budget, from the same start as
every other arm: the search is a gift to the reference controllers, never to the learned one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.gait.files import write_json
from mjx_exo.study.arms import Stage
from mjx_exo.walking.reference_controllers import candidates, reference_controller

TRIAL_S = 10.0
SETTLE_S = 3.0
SPEEDS_M_S, SLOPES_RAD = (0.8, 1.2, 1.6), (0.0, 0.1)
TRIALS = 4
FALL_LIMIT = 0.05


def spread_candidates(name: str, num_envs: int) -> Any:
    """The search grid as parameters [N], candidates taking turns over the environments."""
    listed = candidates(name)
    rows = [listed[i % len(listed)] for i in range(num_envs)]
    return type(listed[0])(*(jnp.asarray(column, jnp.float32) for column in zip(*rows, strict=True)))


def choose(metabolic_w_kg: np.ndarray, fall_share: np.ndarray) -> int:
    """The candidate of least metabolic rate [K] among those that fall in at most `FALL_LIMIT` of their trials [K].

    Where all of them fall more often, or none of the others has a rate, the one that falls least.
    """
    safe = (fall_share <= FALL_LIMIT) & np.isfinite(metabolic_w_kg)
    if not safe.any():
        return int(np.argmin(fall_share))
    return int(np.argmin(np.where(safe, metabolic_w_kg, np.inf)))


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
    metabolic, falls = walk_candidates(stage, folder / stage.name, seconds)
    best = choose(metabolic, falls)
    rows = [
        row._asdict() | {"metabolic_W_kg": float(m), "fall_share": float(f)}
        for row, m, f in zip(listed, metabolic, falls, strict=True)
    ]
    write_json(path, {"controller": stage.controller, "parameters": listed[best]._asdict(), "candidates": rows})
    say(f"{stage.controller}: {listed[best]} is best of {len(listed)}")


def walk_candidates(stage: Stage, run: Path, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Metabolic rate [K] in W/kg (nan where nobody walked to the end) and share of trials with a fall [K]."""
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
    count = kinds * len(cells) * TRIALS
    env = teacher.environment(count, seconds + 1.0, human_only=True)
    env = ControlledEnv(env, ReferenceDriver(stage.controller, spread_candidates(stage.controller, count)))
    cell_of = (np.arange(count) // kinds) % len(cells)
    wanted = np.array(cells, np.float32)[cell_of]
    state = start_walking(env, jax.random.key(stage.config.seed), jnp.asarray(wanted[:, 0]), jnp.asarray(wanted[:, 1]))
    trials = run_trials(env, human_only(lambda seen: teacher.policy.act("human", seen)), state, seconds)
    rows = trial_measures(env, trials, min(SETTLE_S, 0.4 * seconds))
    metabolic, falls = np.full(kinds, np.nan), np.zeros(kinds)
    for k in range(kinds):
        mine = [row for i, row in enumerate(rows) if i % kinds == k]
        rates = [row["metabolic_W_kg"] for row in mine if "metabolic_W_kg" in row]
        falls[k] = np.mean([row["fell"] for row in mine])
        metabolic[k] = np.mean(rates) if rates else np.nan
    return metabolic, falls
