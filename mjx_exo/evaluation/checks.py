"""Does a figure hang on how it was computed? The same trials at half the step, and in the published model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.evaluation.batch import Batch, MakeWalker
from mjx_exo.evaluation.grid import SETTLE_S, Say, nearest, walk_cells
from mjx_exo.evaluation.store import Cell
from mjx_exo.gait.metrics import Condition, summarise
from mjx_exo.gait.recording import Recording

STEP_BAR = 0.01
"""Halving the step may change a figure by this share."""
GROUPS = 4
PUBLISHED_STEP_S = 0.002
PUBLISHED_S = 10.0
FIGURES = (
    "speed_m_s", "r_hip", "r_knee", "r_ankle", "r_vgrf_stance", "rmse_hip_deg", "rmse_knee_deg",
    "rmse_ankle_deg", "stance_percent", "stride_length_m", "vgrf_peak1_bw", "vgrf_valley_bw", "vgrf_peak2_bw",
    "knee_swing_flexion_deg", "activation_mean", "positive_joint_work_J_kg_m", "cot_J_kg_m",
)  # fmt: skip
"""What both checks look at, beside falls. A speed error near zero has no relative change; the speed stands for it."""


def check_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The cell nearest to the reference, the slowest and steepest downhill one, and the fastest and steepest uphill."""
    low = min(cells, key=lambda c: (c[1], c[0]))
    high = max(cells, key=lambda c: (c[1], c[0]))
    return list(dict.fromkeys([nearest(cells), low, high]))


def relative_changes(before: Condition, after: Condition) -> dict[str, float]:
    """Relative change of every figure that both conditions have; nan where it was zero."""
    changes = {}
    for name in FIGURES:
        old, new = before.measures.get(name, math.nan), after.measures.get(name, math.nan)
        if np.isfinite(old) and np.isfinite(new):
            changes[name] = (new - old) / abs(old) if old else math.nan
    return changes


def paired(whole: Sequence[Recording], half: Sequence[Recording]) -> list[tuple[Recording, Recording]]:
    """The trials that fell at neither step: a fall at one of them would compare different trials."""
    return [(a, b) for a, b in zip(whole, half, strict=True) if not (a.fell or b.fell)]


def compare(pairs: Sequence[tuple[Recording, Recording]], cell: Cell) -> dict[str, dict[str, float]]:
    """Relative change of every figure over the pairs, and its standard error from `GROUPS` groups of them.

    Walking is chaotic: a different step sends a trial another way, and few trials differ by chance alone.
    """
    change = relative_changes(*(summarise([pair[i] for pair in pairs], *cell, SETTLE_S) for i in (0, 1)))
    groups = [pairs[start::GROUPS] for start in range(GROUPS)]
    spread: dict[str, list[float]] = {name: [] for name in change}
    for group in groups:
        if group:
            parts = (summarise([pair[i] for pair in group], *cell, SETTLE_S) for i in (0, 1))
            for name, value in relative_changes(*parts).items():
                spread.setdefault(name, []).append(value)
    enough = [name for name, values in spread.items() if len(values) == GROUPS]
    error = {name: float(np.std(spread[name], ddof=1) / math.sqrt(GROUPS)) for name in enough}
    return {"relative_change": change, "standard_error": error}


def half_step(
    make: MakeWalker, cells: Sequence[Cell], trials: int, seconds: float, step_s: float, seed: int, say: Say
) -> dict[str, Any]:
    """Walks `cells` at the step and at half of it from the same starts: the entry `half_step` of summary.json."""
    found: dict[float, list[list[Recording]]] = {}
    for step in (step_s, 0.5 * step_s):
        say(f"step check: {len(cells)} cells at {1e3 * step:g} ms")
        env, act = make(trials * len(cells), seconds, physics_step_s=step)
        batch = Batch(env, act, seconds)
        found[step] = walk_cells(batch, cells, trials, seconds, seed)
    entries = []
    for cell, whole, half in zip(cells, found[step_s], found[0.5 * step_s], strict=True):
        pairs = paired(whole, half)
        entry = {"speed_command_m_s": cell[0], "slope_deg": math.degrees(cell[1]), "pairs": len(pairs)}
        falls = [sum(r.fell for r in recordings) for recordings in (whole, half)]
        entries.append(entry | {"falls": falls} | compare(pairs, cell))
    sizes = [abs(v) for entry in entries for v in entry["relative_change"].values() if np.isfinite(v)]
    worst = max(sizes, default=math.nan)
    return {
        "step_s": step_s,
        "half_step_s": 0.5 * step_s,
        "trials": trials,
        "bar": STEP_BAR,
        "worst_relative_change": worst,
        "within_bar": bool(worst < STEP_BAR),
        "cells": entries,
    }


def published_body(
    make: MakeWalker, cell: Cell, trials: int, step_s: float, seed: int, say: Say
) -> tuple[dict[str, Any], list[Condition]]:
    """The same policy in the compiled and in the published body, one wearer, the same starts.

    Returns the entry `published_body` of summary.json and both conditions, compiled first; no conditions where the body
    has no published counterpart that runs.
    """
    conditions = []
    for name, changes in (
        ("compiled", {"physics_step_s": step_s}),
        ("published", {"physics_step_s": PUBLISHED_STEP_S, "engine": "published"}),
    ):
        say(f"{name} body: {trials} trials of {PUBLISHED_S:g} s")
        try:
            env, act = make(trials, PUBLISHED_S, wearers=1, **changes)
        except UserError as error:
            return {"skipped": str(error)}, []
        recordings = walk_cells(Batch(env, act, PUBLISHED_S), [cell], trials, PUBLISHED_S, seed)[0]
        conditions.append(summarise(recordings, *cell, SETTLE_S, label=f"{name} body"))
    names = ("fall_free_share", *FIGURES)
    compiled, published = ({n: c.measures[n] for n in names if n in c.measures} for c in conditions)
    summary = {
        "trials": trials,
        "seconds": PUBLISHED_S,
        "speed_command_m_s": cell[0],
        "slope_deg": math.degrees(cell[1]),
        "compiled": compiled,
        "published": published,
        "difference": {name: published[name] - compiled[name] for name in compiled if name in published},
    }
    return summary, conditions
