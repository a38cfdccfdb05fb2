"""Muscle synergies from walking data: non-negative factors M ≈ W·H of the activations of both legs.

M [muscles, samples] stacks the left leg's samples after the right leg's, so that one basis W [muscles, synergies]
serves both (Park, Choi, Ahn, Ahn 2026 do the same). How many synergies there are is asked of data the fit has not seen:
bi-cross-validation (after Owen & Perry 2009) holds out a stretch of time and some muscles at once, fits W on the other
times, finds H of the held-out times from the other muscles, and predicts the held-out block. The number is the smallest
whose prediction is within one standard error of the best, raised if need be until 90 % of the variance is explained.

A synergy that shows in a single muscle cannot be predicted from the other muscles, so cross-validation does not count
it and its number is a careful one.

VAF is 1 − Σ(M − WH)² / ΣM², about zero and not about the mean, as is usual for synergies.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import NMF, non_negative_factorization
from sklearn.exceptions import ConvergenceWarning

from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.bodies import BODIES
from mjx_exo.musculoskeletal.synergy_files import Activations, Synergies

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ExtractionSettings:
    """How synergies are extracted."""

    number: int | None = None
    """Number of synergies; chosen by cross-validation if not given."""
    max_number: int = 10
    """Most synergies that cross-validation tries."""
    vaf: float = 0.9
    """Share of variance that the chosen number has to account for at least."""
    scaling: Literal["none", "peak"] = "none"
    """`none` factors activations as they are; `peak` gives every muscle the same weight by its largest value."""
    folds: int = 5
    """Stretches of time, and groups of muscles, held out in turn."""
    restarts: int = 5
    """Starts of the final factorisation; the best is kept."""
    max_samples: int = 6000
    """Samples used, of both legs together; longer recordings are thinned evenly."""
    seed: int = 0
    """Seed of restarts and of the grouping of muscles."""


@dataclasses.dataclass(frozen=True)
class Extraction:
    """An artefact and the synergies' activations over time [K, T, 2], right and left, at `time_s` [T]."""

    synergies: Synergies
    time_s: Floats
    activations: Floats


@dataclasses.dataclass(frozen=True)
class Match:
    """Two bases paired one to one for the greatest sum of cosine similarities."""

    pairs: tuple[tuple[str, str, float], ...]  # name, name, cosine; best first
    mean_cosine: float
    chance_cosine: float  # mean cosine when the muscles of one basis are shuffled
    chance_cosine_p95: float
    rows: tuple[str, ...]  # muscles or muscle groups compared


def variance_accounted_for(matrix: Floats, reconstruction: Floats, axis: int | None = None) -> Any:
    """1 − Σ(M − M̂)² / ΣM², over everything or along `axis`; NaN where M is all zero."""
    total = (matrix**2).sum(axis)
    error = ((matrix - reconstruction) ** 2).sum(axis)
    return 1.0 - np.divide(error, total, out=np.full_like(error, np.nan, dtype=float), where=total > 0)


def factorise(matrix: Floats, count: int, restarts: int = 1, seed: int = 0) -> tuple[Floats, Floats]:
    """W [M, K] and H [K, N] of least squared error over `restarts` starts (the first from a singular value
    decomposition, further ones random); the largest weight of each synergy is 1."""
    best: tuple[float, Floats, Floats] | None = None
    for start in range(restarts):
        init = "nndsvda" if start == 0 else "random"
        model = NMF(count, init=init, max_iter=2000, tol=1e-4, random_state=seed + start)
        with warnings.catch_warnings():
            # A slow last digit is no fault: what a factorisation is worth is its VAF, which is reported.
            warnings.simplefilter("ignore", ConvergenceWarning)
            h = model.fit_transform(matrix.T).T
        w = model.components_.T
        error = float(((matrix - w @ h) ** 2).sum())
        if best is None or error < best[0]:
            best = error, w, h
    assert best is not None
    _, w, h = best
    peak = np.where(w.max(axis=0) > 0, w.max(axis=0), 1.0)
    return w / peak, h * peak[:, None]


def activations_given(w: Floats, matrix: Floats, shrinkage: float = 0.01) -> Floats:
    """Non-negative H [K, N] that reconstructs `matrix` [M, N] from given weights [M, K], shrunk a little.

    Minimises Σ(M − WH)² + `shrinkage`·ΣH²: a synergy that these muscles do not show is taken as silent, not at random.
    """
    count = w.shape[1]
    penalised = np.concatenate([w, np.sqrt(shrinkage) * np.eye(count)])
    target = np.concatenate([matrix, np.zeros((count, matrix.shape[1]))])
    h, _, _ = non_negative_factorization(
        np.ascontiguousarray(target.T),
        H=np.ascontiguousarray(penalised.T),
        n_components=count,
        init="custom",
        update_H=False,
        max_iter=500,
        tol=1e-4,
    )
    return h.T


def cross_validated_vaf(
    matrix: Floats, counts: Sequence[int], folds: int, seed: int, report: Callable[[int], None] = lambda count: None
) -> Floats:
    """VAF [counts, folds] of blocks whose times and muscles the fit has not seen.

    Args:
      matrix: [M, 2T], right leg's samples first; both legs' samples of a held-out time are held out together.
      counts: numbers of synergies to try.
      folds: contiguous stretches of time; muscles are held out in as many groups (fewer if there are fewer muscles).
      seed: of the grouping of muscles.
      report: called with each number of synergies before it is tried.
    """
    muscles, samples = matrix.shape
    times = samples // 2
    fold_of_sample = np.tile(np.arange(times) * folds // times, 2)
    groups = np.array_split(np.random.default_rng(seed).permutation(muscles), min(folds, muscles))
    result = np.empty((len(counts), folds))
    for row, count in enumerate(counts):
        report(count)
        for fold in range(folds):
            held = fold_of_sample == fold
            w, _ = factorise(matrix[:, ~held], count)
            test = matrix[:, held]
            predicted = np.empty_like(test)
            for group in groups:
                others = np.setdiff1d(np.arange(muscles), group)
                predicted[group] = w[group] @ activations_given(w[others], test[others])
            result[row, fold] = variance_accounted_for(test, predicted)
    return result


def smallest_within_one_error(counts: Sequence[int], scores: Floats) -> int:
    """The smallest count whose mean score [counts, folds] is within one standard error of the best mean."""
    mean = scores.mean(axis=1)
    best = int(np.argmax(mean))
    error = scores[best].std(ddof=1) / np.sqrt(scores.shape[1])
    return counts[int(np.argmax(mean >= mean[best] - error))]


def extract(
    activations: Activations, settings: ExtractionSettings, report: Callable[[str], None] = lambda line: None
) -> Extraction:
    """Extracts synergies from both legs.

    Raises UserError if the settings do not fit the data (number of synergies, samples, silent data).
    """
    _check(activations, settings)
    stride = max(1, -(-2 * len(activations.time_s) // settings.max_samples))
    time_s, values = activations.time_s[::stride], activations.values[::stride]
    matrix = np.concatenate([values[:, 0], values[:, 1]]).T
    peak = matrix.max(axis=1, keepdims=True)
    scale = np.where(peak > 0, peak, 1.0) if settings.scaling == "peak" else np.ones_like(peak)
    scaled = matrix / scale

    number, selection = settings.number, {}
    if number is None:
        number, selection = _choose_number(scaled, settings, report)
    report(f"factorising into {number} synergies")
    w, h = factorise(scaled, number, settings.restarts, settings.seed)
    order = np.argsort(-(np.linalg.norm(w, axis=0) * np.linalg.norm(h, axis=1)), kind="stable")
    w, h = w[:, order] * scale, h[order]
    largest = np.where(w.max(axis=0) > 0, w.max(axis=0), 1.0)
    w, h = w / largest, h * largest[:, None]
    synergies = Synergies(
        names=tuple(f"S{i + 1}" for i in range(number)),
        muscles=activations.muscles,
        weights=w,
        vaf=float(variance_accounted_for(matrix, w @ h)),
        vaf_by_muscle=variance_accounted_for(matrix, w @ h, axis=1),
        selection=selection,
        data={
            "sha256": activations.sha256,
            "samples_per_leg": len(time_s),
            "thinned_by": stride,
            "duration_s": float(activations.time_s[-1] - activations.time_s[0]),
        },
        settings=dataclasses.asdict(settings),
    )
    half = len(time_s)
    return Extraction(synergies, time_s, np.stack([h[:, :half], h[:, half:]], axis=-1))


def _choose_number(
    matrix: Floats, settings: ExtractionSettings, report: Callable[[str], None]
) -> tuple[int, dict[str, Any]]:
    muscles = len(matrix)
    group = -(-muscles // min(settings.folds, muscles))
    counts = list(range(1, min(settings.max_number, muscles - group) + 1))
    scores = cross_validated_vaf(
        matrix, counts, settings.folds, settings.seed, lambda k: report(f"cross-validating {k} of {counts[-1]}")
    )
    fitted = [float(variance_accounted_for(matrix, np.matmul(*factorise(matrix, k)))) for k in counts]
    by_prediction = smallest_within_one_error(counts, scores)
    enough = [k for k, vaf in zip(counts, fitted, strict=True) if vaf >= settings.vaf]
    by_vaf = enough[0] if enough else counts[-1]
    selection = {
        "numbers": counts,
        "vaf": fitted,
        "held_out_vaf_mean": scores.mean(axis=1).tolist(),
        "held_out_vaf_se": (scores.std(axis=1, ddof=1) / np.sqrt(settings.folds)).tolist(),
        "by_cross_validation": by_prediction,
        "by_vaf": by_vaf,
    }
    return max(by_prediction, by_vaf), selection


def _check(activations: Activations, settings: ExtractionSettings) -> None:
    muscles, samples = len(activations.muscles), len(activations.time_s)
    if settings.number is not None and not 1 <= settings.number <= muscles:
        raise UserError(f"number of synergies {settings.number} is not between 1 and the {muscles} muscles of a leg")
    if muscles < 3:
        raise UserError(f"{muscles} muscles per leg are too few to factorise; at least 3 are needed")
    if settings.max_number < 1 or settings.folds < 2 or settings.restarts < 1:
        raise UserError("max_number and restarts must be at least 1, folds at least 2")
    if not 0.0 < settings.vaf < 1.0:
        raise UserError(f"vaf {settings.vaf:g} is not between 0 and 1")
    if samples < 10 * settings.folds:
        raise UserError(f"{samples} samples are too few; at least {10 * settings.folds} are needed")
    if not activations.values.any():
        raise UserError("every activation is zero")


def published_synergies(muscles: Sequence[str]) -> tuple[tuple[str, ...], Floats]:
    """Names and weights [M, K] of the published modules on muscles or muscle groups (no side suffix)."""
    from mjx_exo.musculoskeletal.synergy import PUBLISHED_MODULES  # pulls in the compiler

    groups = [group_of(muscle) for muscle in muscles]
    weights = np.array([[module.get(group, 0.0) for module in PUBLISHED_MODULES.values()] for group in groups])
    return tuple(PUBLISHED_MODULES), weights


def group_of(muscle: str) -> str:
    """The muscle group of a published leg muscle; UserError for a name no body has."""
    for body in BODIES.values():
        if muscle in body.muscle_groups:
            return body.muscle_groups[muscle]
    known = ", ".join(sorted({m for body in BODIES.values() for m in body.muscle_groups}))
    raise UserError(f"muscle {muscle!r} belongs to no known muscle group; known muscles: {known}")


def common_rows(
    muscles_a: Sequence[str], weights_a: Floats, muscles_b: Sequence[str], weights_b: Floats
) -> tuple[tuple[str, ...], Floats, Floats]:
    """Rows that two bases share: their muscles if these are the same, their muscle groups (mean weight) otherwise."""
    if set(muscles_a) != set(muscles_b):
        muscles_a, weights_a = by_group(muscles_a, weights_a)
        muscles_b, weights_b = by_group(muscles_b, weights_b)
    rows = tuple(m for m in muscles_a if m in muscles_b)
    if len(rows) < 3:
        raise UserError(f"the two bases share {len(rows)} muscles or muscle groups; at least 3 are needed")
    index_a, index_b = [list(muscles_a).index(m) for m in rows], [list(muscles_b).index(m) for m in rows]
    return rows, weights_a[index_a], weights_b[index_b]


def by_group(muscles: Sequence[str], weights: Floats) -> tuple[list[str], Floats]:
    """Muscle groups [G] in the order in which they appear, and their mean weights [G, K], from weights [M, K]."""
    groups = [group_of(m) for m in muscles]
    names = list(dict.fromkeys(groups))
    return names, np.stack([weights[[g == name for g in groups]].mean(axis=0) for name in names])


def cosine_similarity(weights_a: Floats, weights_b: Floats) -> Floats:
    """Cosines [Ka, Kb] between the columns of two bases on the same rows; 0 for an empty synergy."""
    lengths = np.outer(np.linalg.norm(weights_a, axis=0), np.linalg.norm(weights_b, axis=0))
    return np.divide(weights_a.T @ weights_b, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def match(
    names_a: Sequence[str],
    weights_a: Floats,
    names_b: Sequence[str],
    weights_b: Floats,
    rows: Sequence[str],
    shuffles: int = 500,
) -> Match:
    """Pairs synergies of two bases [R, Ka], [R, Kb] on the same rows (Hungarian method) and says what chance gives.

    Non-negative vectors are never far apart, so the mean cosine is shown beside that of bases with shuffled rows.
    """
    cosine = cosine_similarity(weights_a, weights_b)
    chosen_a, chosen_b = linear_sum_assignment(-cosine)
    pairs = sorted(
        ((names_a[i], names_b[j], float(cosine[i, j])) for i, j in zip(chosen_a, chosen_b, strict=True)),
        key=lambda pair: -pair[2],
    )
    rng = np.random.default_rng(0)
    chance = []
    for _ in range(shuffles):
        shuffled = cosine_similarity(weights_a, rng.permutation(weights_b))
        chance.append(shuffled[linear_sum_assignment(-shuffled)].mean())
    return Match(
        tuple(pairs),
        float(np.mean([pair[2] for pair in pairs])),
        float(np.mean(chance)),
        float(np.percentile(chance, 95)),
        tuple(rows),
    )
