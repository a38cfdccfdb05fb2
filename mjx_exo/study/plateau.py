"""Whether a person of an arm had learnt what there was to learn: the person of the last fifth's beginning walks too.

A reward per step says little here: it crosses zero, and commands and people that happen to come up move it by more than
the percent that is asked about. So the policy of four fifths of the human's learning is kept, and both walk the same
cells from the same starts with the same people.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.gait.files import write_json
from mjx_exo.study.arms import Stage
from mjx_exo.study.compare import ENDPOINTS
from mjx_exo.study.walk import Row, WalkSettings, walk_arm

LAST = 0.2  # of all that a human learns in an arm
TOLERANCE = 0.01
FILE = "plateau.json"
CELLS = tuple((v, s) for s in (0.0, 3.0) for v in (0.8, 1.2, 1.6))
SETTINGS = WalkSettings(CELLS, wearers=20, seconds=10.0, step_s=0.0025)


def update_before(trainings: Sequence[Stage]) -> int:
    """The update of an arm's own training after which a fifth of all that its human learns is still to come."""
    updates = [s.config.ppo.updates(s.config.walking.num_envs) for s in trainings if s.human_learns]
    return max(1, updates[-1] - round(LAST * sum(updates)))


def policy_before(run: Path) -> Path:
    """Where a run keeps the policy of that update."""
    return run / "policy_before"


def measure(run: Path, seed: int, arm: str) -> None:
    """Walks the policies of the last fifth's beginning and end and writes plateau.json, unless it is there."""
    if (run / FILE).is_file() or not policy_before(run).is_dir():
        return
    earlier, later = (walk_arm(policy, seed, arm, SETTINGS).rows for policy in (policy_before(run), run))
    write_json(run / FILE, change(earlier, later))


def read(root: Path, seeds: Sequence[int], arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `measure` found, by `seedS/ARM`, for those that were measured."""
    files = {f"seed{seed}/{arm}": root / f"seed{seed}" / arm / FILE for seed in seeds for arm in arms}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.is_file()}


def change(earlier: list[Row], later: list[Row]) -> dict[str, Any]:
    """Relative change of every endpoint, over the trials that both walked to the end, and whether all are small."""
    pairs = [(a, b) for a, b in zip(earlier, later, strict=True) if "speed_m_s" in a and "speed_m_s" in b]
    found: dict[str, float] = {}
    for question, name in ENDPOINTS.items():
        was, became = (float(np.mean([pair[i][name] for pair in pairs])) if pairs else np.nan for i in (0, 1))
        found[question] = became / was - 1.0
    return {
        "reached": bool(pairs) and all(abs(value) < TOLERANCE for value in found.values()),
        "relative_change": found,
        "trials": len(pairs),
        "fall_share_before_and_after": [float(np.mean([row["fell"] for row in rows])) for rows in (earlier, later)],
    }
