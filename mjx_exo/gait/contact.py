"""When a foot, or a thigh, says that a new stride begins.

From force: a foot counts as loaded above 0.2 body weights, because a scuff in swing is lighter or shorter than that
and would otherwise cut a stride in two; the instant itself is then refined to where the load crosses 0.03 body weights.
From a thigh gyroscope alone: the thigh stops swinging forward a little before heel strike, which shows as a zero
crossing after the large positive swing peak.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import signal

from mjx_exo.gait import norms

LOADED_BW = 0.2
"""A foot carries the body above this load."""
TOUCH_BW = 0.03
"""The refined instants of heel strike and toe off are crossings of this load."""
BOUNCE_S = 0.05
"""A shorter gap in a loaded phase is a bounce of the same contact."""
SCUFF_S = 0.12
"""A shorter loaded phase is a scuff, not a stance."""
SCUFF_SHARE = 0.4
"""So is one shorter than this share of the trial's median stance."""
QUIET_S = 0.16
"""A foot has to be unloaded for so long before a new heel strike: eight samples at 50 Hz."""
REFINE_S = 0.1
"""The refined instant is at most so far from the crossing of LOADED_BW."""

SMOOTH_HZ = 6.0
"""Cut-off of the zero-phase filter on gyroscopes; the swing of a thigh is below it."""
FUNDAMENTAL = 1.2
"""Cut-off, in stride frequencies, of the zero-phase filter that leaves little more than one swing per stride."""
PERIOD_RANGE_S = (0.6, 2.2)
"""Stride times looked for in a gyroscope's signal."""


def contacts(time_s: np.ndarray, load_bw: np.ndarray) -> np.ndarray:
    """[C, 2] heel strike and toe off of every whole stance, seconds.

    `time_s` [T] evenly spaced at 50 Hz or more, `load_bw` [T] force on one foot in body weights. A stance that is cut
    by the start or the end of the trial is left out; not finite load counts as none.
    """
    load = np.nan_to_num(np.asarray(load_bw, float))
    phases = _runs(load > LOADED_BW)
    dt_s = (time_s[-1] - time_s[0]) / (time_s.size - 1)
    phases = _merged(phases, BOUNCE_S / dt_s)
    phases = [phase for phase in phases if (phase[1] - phase[0]) * dt_s >= SCUFF_S or _at_edge(phase, load.size)]
    if phases:
        typical = np.median([end - start for start, end in phases])
        phases = [p for p in phases if p[1] - p[0] >= SCUFF_SHARE * typical or _at_edge(p, load.size)]
    phases = _merged(phases, QUIET_S / dt_s)
    reach = max(1, math.ceil(REFINE_S / dt_s))
    found = [
        (_crossing(time_s, load, start, -1, reach), _crossing(time_s, load, end - 1, 1, reach))
        for start, end in phases
        if start > 0 and end < load.size
    ]
    return np.array(found).reshape(-1, 2)


def _at_edge(phase: tuple[int, int], samples: int) -> bool:
    return phase[0] == 0 or phase[1] == samples


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Half-open index ranges in which `mask` holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _merged(phases: list[tuple[int, int]], shortest_gap: float) -> list[tuple[int, int]]:
    """Joins ranges that are less than `shortest_gap` samples apart."""
    merged: list[tuple[int, int]] = []
    for start, end in phases:
        if merged and start - merged[-1][1] < shortest_gap - 1e-9:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _crossing(time_s: np.ndarray, load: np.ndarray, edge: int, step: int, reach: int) -> float:
    """Time at which the load crosses TOUCH_BW, going outwards from the loaded sample `edge`.

    A foot that drags carries more than TOUCH_BW for long; then the crossing of LOADED_BW is the honest answer.
    """
    for inside in range(edge, edge + step * reach, step):
        outside = inside + step
        if not 0 <= outside < load.size:
            break
        if load[outside] <= TOUCH_BW:
            return _interpolate(time_s, load, inside, outside, TOUCH_BW)
    return _interpolate(time_s, load, edge, edge + step, LOADED_BW)


def _interpolate(time_s: np.ndarray, load: np.ndarray, inside: int, outside: int, level: float) -> float:
    share = np.clip((load[inside] - level) / (load[inside] - load[outside]), 0.0, 1.0)
    return float(time_s[inside] + share * (time_s[outside] - time_s[inside]))


def heel_strikes_from_gyro(time_s: np.ndarray, gyro_rad_s: np.ndarray) -> np.ndarray:
    """[K] estimated heel strikes of one leg from its thigh gyroscope, seconds; empty when nothing is periodic.

    `gyro_rad_s` [T] flexion positive; a constant bias does no harm. The event that is seen is the end of the thigh's
    forward swing; heel strike follows it by the share of the cycle that the norm's hip curve says (about 14 %), so the
    percent axis agrees with one from force to a few percent of the cycle, and exactly between two gyroscopes.
    """
    crossings = thigh_reversals(time_s, gyro_rad_s)
    if crossings.size < 2:
        return np.empty(0)
    after = 1.0 - norms.thigh_reversal_percent() / 100.0
    return crossings[:-1] + after * np.diff(crossings)


def thigh_reversals(time_s: np.ndarray, gyro_rad_s: np.ndarray) -> np.ndarray:
    """[K] instants at which one thigh turns from forwards to backwards, by the fundamental of its motion, seconds.

    The raw signal is no good for this: whether it crosses zero before heel strike or only in the jolt after it differs
    between wearers, and from stride to stride.
    """
    velocity = np.nan_to_num(np.asarray(gyro_rad_s, float))
    dt_s = (time_s[-1] - time_s[0]) / (time_s.size - 1)
    if time_s.size * dt_s < 2 * PERIOD_RANGE_S[0] or dt_s > 0.021:
        return np.empty(0)
    low_pass = signal.butter(2, SMOOTH_HZ, fs=1.0 / dt_s, output="sos")
    velocity = signal.sosfiltfilt(low_pass, velocity - velocity.mean())
    period_s = stride_period_s(dt_s, velocity)
    if period_s is None:
        return np.empty(0)
    narrow = signal.butter(2, FUNDAMENTAL / period_s, fs=1.0 / dt_s, output="sos")
    pad = min(time_s.size - 1, 2 * round(period_s / dt_s))
    velocity = signal.sosfiltfilt(narrow, velocity, padlen=pad)
    before, after = velocity[:-1], velocity[1:]
    falls = np.flatnonzero((before > 0.0) & (after <= 0.0))
    usual = 0.5 * np.percentile(velocity, 98)
    swing = round(0.5 * period_s / dt_s)
    falls = np.array([k for k in falls if velocity[max(0, k - swing) : k + 1].max() >= usual], int)
    return time_s[falls] + dt_s * before[falls] / (before[falls] - after[falls])


def stride_period_s(dt_s: float, velocity: np.ndarray) -> float | None:
    """The stride time of a periodic signal [T], from its autocorrelation; None when it does not repeat itself.

    The shortest lag that is nearly as good as the best one, since two strides repeat as well as one.
    """
    centred = velocity - velocity.mean()
    energy = signal.correlate(centred, centred, method="fft")[velocity.size - 1 :]
    lags = np.arange(energy.size)
    overlap = np.maximum(velocity.size - lags, 1) / velocity.size
    likeness = energy / (overlap * max(energy[0], 1e-12))
    first, last = math.ceil(PERIOD_RANGE_S[0] / dt_s), math.floor(PERIOD_RANGE_S[1] / dt_s)
    last = min(last, int(0.75 * velocity.size))
    if last - first < 3 or energy[0] <= 1e-12:
        return None
    tops = [k for k in range(first, last) if likeness[k - 1] <= likeness[k] >= likeness[k + 1]]
    if not tops:
        return None
    best = max(likeness[k] for k in tops)
    if best < 0.4:
        return None
    return next(k for k in tops if likeness[k] >= 0.85 * best) * dt_s
