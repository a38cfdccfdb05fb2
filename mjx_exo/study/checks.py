"""What a reviewer would ask of a study's arms before looking at its results."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.gait.files import write_bytes
from mjx_exo.gait.statistics import REDUCTION_POINTS, reduction_percent, step_is_fine
from mjx_exo.study import plateau
from mjx_exo.study.arms import MAIN_ARMS, check_same_human
from mjx_exo.study.compare import ENDPOINTS, gather
from mjx_exo.study.walk import WalkSettings, check_held_out, walk_arm
from mjx_exo.teacher import find_policy, load_teacher


def check_arms(root: Path, seeds: Sequence[int], arms: Sequence[str], settings: WalkSettings) -> list[str]:
    """Raises `UserError` where stored arms cannot be compared; returns remarks for the report."""
    walkers, remarks = [], []
    for seed in seeds:
        teachers = {arm: load_teacher(root / f"seed{seed}" / arm) for arm in arms}
        check_same_human({arm: [teacher.config] for arm, teacher in teachers.items()})
        check_held_out(teachers["none"].config.walking, settings)
        origins = {arm: teacher.policy.description["settings"].get("study", {}) for arm, teacher in teachers.items()}
        for name in ("walker", "human_learning"):
            if len({origin.get(name) for origin in origins.values()}) > 1:
                raise UserError(f"{root / f'seed{seed}'}: {name} differs between arms; train them in one study")
        walkers.append(origins["none"].get("walker"))
    if len(seeds) < 5:
        remarks.append(f"{len(seeds)} seed(s): a claim needs at least 5, independent from the first training on.")
    if settings.wearers < 20:
        remarks.append(f"{settings.wearers} wearers: a claim needs at least 20.")
    if len(set(walkers)) < len(walkers):
        remarks.append("Some seeds start from the same walker, so they are not independent from the first training on.")
    return remarks


def step_check(
    root: Path,
    seeds: Sequence[int],
    settings: WalkSettings,
    keep: Path,
    walk: Callable[..., Any] = walk_arm,
) -> dict[str, Any] | None:
    """Whether half the physics step changes anything, in the middle cell; None where somebody does not walk there.

    Over all seeds, as the study itself: walking is chaotic, so a few people's trials differ by more than a step's error
    even from one rounding to the next; `reduction_change_points_by_seed` shows how much. What was walked is kept in the
    folder `keep`.
    """
    cell = min(settings.cells, key=lambda c: abs(c[0] - 1.2) + abs(c[1]))
    values = {}
    for name, step_s in (("whole", settings.step_s), ("half", 0.5 * settings.step_s)):
        one = dataclasses.replace(settings, cells=(cell,), step_s=step_s)
        rows = []
        for seed, arm in itertools.product(seeds, MAIN_ARMS):
            file = keep / f"{name}_step-seed{seed}-{arm}.json"
            rows += walk(root / f"seed{seed}" / arm, seed, arm, one, file).rows
            print(f"walked seed {seed}, {arm}, at {1e3 * step_s:g} ms", flush=True)
        grid = gather(rows, seeds, MAIN_ARMS, [cell], settings.wearers)
        values[name] = {
            question: np.array([grid.value(measure, arm)[:, 0] for arm in MAIN_ARMS])
            for question, measure in ENDPOINTS.items()
        }  # [arms, seeds]
    if not all(np.isfinite(v).all() for part in values.values() for v in part.values()):
        return None
    mean = {name: {q: v.mean(axis=1) for q, v in part.items()} for name, part in values.items()}
    pairs = {"assisted_against_none": (0, 2), "assisted_against_worn": (1, 2), "worn_against_none": (0, 1)}
    moved = {
        q: {
            pair: reduction_percent(values["half"][q][base], values["half"][q][arm])
            - reduction_percent(values["whole"][q][base], values["whole"][q][arm])
            for pair, (base, arm) in pairs.items()
        }
        for q in ENDPOINTS
    }
    verdicts = {
        q: step_is_fine(mean["whole"][q], mean["half"][q])
        and all(abs(by_seed.mean()) < REDUCTION_POINTS for by_seed in moved[q].values())
        for q in ENDPOINTS
    }
    return {
        "cell": cell,
        "seeds": list(seeds),
        "step_s": settings.step_s,
        "fine": all(verdicts.values()),
        "by_measure": verdicts,
        "change_percent_none_worn_assisted": {
            q: (100.0 * (mean["half"][q] / mean["whole"][q] - 1.0)).tolist() for q in ENDPOINTS
        },
        "reduction_change_points": {
            q: {pair: float(by_seed.mean()) for pair, by_seed in found.items()} for q, found in moved.items()
        },
        "reduction_change_points_by_seed": {
            q: {pair: by_seed.tolist() for pair, by_seed in found.items()} for q, found in moved.items()
        },
    }


def export_arms(root: Path, target: Path, seeds: Sequence[int], arms: Sequence[str]) -> None:
    """Copies what a report needs, and nothing else, to target/seedS/ARM: policy, description, its last gains."""
    for seed in seeds:
        for arm in arms:
            source, folder = root / f"seed{seed}" / arm, target / f"seed{seed}" / arm
            policy = find_policy(source)
            for name in ("policy.npz", "policy.json"):
                write_bytes(folder / name, (policy / name).read_bytes())
            if (source / plateau.FILE).is_file():
                write_bytes(folder / plateau.FILE, (source / plateau.FILE).read_bytes())
