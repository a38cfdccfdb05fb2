"""Strides of a trial, what they measure, and signals laid over the gait cycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from mjx_exo.conventions import SIDES
from mjx_exo.gait import contact
from mjx_exo.gait.norms import PERCENT
from mjx_exo.gait.recording import Recording

STRIDE_TIME_RANGE_S = (0.4, 2.5)
STANCE_SHARE_RANGE = (0.3, 0.9)
NAN = float("nan")


@dataclass(frozen=True)
class Stride:
    """One stride of one foot, heel strike to heel strike; times in seconds, nan where an event was not seen."""

    side: str
    start_s: float
    end_s: float
    toe_off_s: float = NAN
    opposite_toe_off_s: float = NAN  # ends the first double support
    opposite_strike_s: float = NAN  # begins the second

    @property
    def duration_s(self) -> float:
        """Stride time."""
        return self.end_s - self.start_s


def find_strides(recording: Recording, method: str = "auto", skip_s: float = 0.0) -> list[Stride]:
    """All whole strides of both feet that begin at least `skip_s` after the start of the trial, right ones first.

    `method`: "force" (ground contact), "gyro" (thigh gyroscopes; no toe off then), or "auto" for force where it was
    recorded and else gyro. A trial without the signal has no strides.
    """
    if method not in ("auto", "force", "gyro"):
        raise ValueError(f"method = {method!r}, allowed: auto, force, gyro")
    by_force = recording.ground_force_n is not None if method == "auto" else method == "force"
    found = _force_strides(recording) if by_force else _gyro_strides(recording)
    earliest = recording.time_s[0] + skip_s
    return [stride for stride in found if stride.start_s >= earliest]


def of_side(strides: Sequence[Stride], side: str) -> list[Stride]:
    """The strides of one side."""
    return [stride for stride in strides if stride.side == side]


def _force_strides(recording: Recording) -> list[Stride]:
    loads = {side: recording.vertical_force_bw(side) for side in SIDES}
    if any(load is None for load in loads.values()):
        return []
    stances = {side: contact.contacts(recording.time_s, load) for side, load in loads.items()}
    found = []
    for side, other in (SIDES, SIDES[::-1]):
        for (start, toe_off), (end, _) in pairwise(stances[side]):
            stance_share = (toe_off - start) / (end - start)
            if not _plausible(end - start) or not STANCE_SHARE_RANGE[0] < stance_share < STANCE_SHARE_RANGE[1]:
                continue
            strikes, offs = stances[other][:, 0], stances[other][:, 1]
            found.append(
                Stride(
                    side,
                    float(start),
                    float(end),
                    float(toe_off),
                    opposite_toe_off_s=_only(offs[(offs > start) & (offs < end)]),
                    opposite_strike_s=_only(strikes[(strikes > start) & (strikes < end)]),
                )
            )
    return found


def _gyro_strides(recording: Recording) -> list[Stride]:
    if recording.thigh_gyro_rad_s is None:
        return []
    strikes = [contact.heel_strikes_from_gyro(recording.time_s, recording.thigh_gyro_rad_s[:, i]) for i in range(2)]
    found = []
    for side, own, other in ((SIDES[0], *strikes), (SIDES[1], *strikes[::-1])):
        times = np.diff(own)
        for start, end in pairwise(own):
            usual = 0.6 * np.median(times) < end - start < 1.6 * np.median(times)
            if usual and _plausible(end - start):
                opposite = _only(other[(other > start) & (other < end)])
                found.append(Stride(side, float(start), float(end), opposite_strike_s=opposite))
    return found


def _plausible(duration_s: float) -> bool:
    return STRIDE_TIME_RANGE_S[0] <= duration_s <= STRIDE_TIME_RANGE_S[1]


def _only(times: np.ndarray) -> float:
    """The one event of a kind within a stride, or nan when there are none or several."""
    return float(times[0]) if times.size == 1 else NAN


def over_cycle(time_s: np.ndarray, values: np.ndarray, strides: Sequence[Stride]) -> np.ndarray:
    """[S, 101, ...] the signal `values` [T, ...] at 0..100 % of each stride.

    Interpolated with modified Akima pieces, which follow a peak between samples and do not overshoot after a step.
    """
    values = np.asarray(values, float)
    if not strides:
        return np.empty((0, PERCENT.size, *values.shape[1:]))
    at = np.array([stride.start_s + PERCENT / 100.0 * stride.duration_s for stride in strides])
    return Akima1DInterpolator(time_s, values, axis=0, method="makima", extrapolate=True)(at)


def spatiotemporal(recording: Recording, strides: Sequence[Stride]) -> dict[str, np.ndarray]:
    """Measures of each stride, [S] each, nan where something needed for it was not recorded.

    `stride_time_s`, `cadence_steps_min` (two steps a stride), `stride_frequency_hz`; `speed_m_s`, `stride_length_m`
    (distance the body travels in the stride); `stance_percent`, `double_support_percent` (both phases together);
    `step_time_s` (to the other foot's heel strike); `step_length_m` and `step_width_m` (fore-aft and lateral distance
    of the feet at heel strike; width is negative when the feet cross).
    """
    start = np.array([stride.start_s for stride in strides])
    end = np.array([stride.end_s for stride in strides])
    toe_off = np.array([stride.toe_off_s for stride in strides])
    opposite_off = np.array([stride.opposite_toe_off_s for stride in strides])
    opposite_strike = np.array([stride.opposite_strike_s for stride in strides])
    duration = end - start
    speed = mean_speed_m_s(recording, start, end)
    step_length, step_width = _foot_distance(recording, strides)
    return {
        "stride_time_s": duration,
        "stride_frequency_hz": 1.0 / duration,
        "cadence_steps_min": 120.0 / duration,
        "speed_m_s": speed,
        "stride_length_m": speed * duration,
        "stance_percent": 100.0 * (toe_off - start) / duration,
        "double_support_percent": 100.0 * ((opposite_off - start) + (toe_off - opposite_strike)) / duration,
        "step_time_s": opposite_strike - start,
        "step_length_m": step_length,
        "step_width_m": step_width,
    }


def mean_speed_m_s(recording: Recording, start_s: np.ndarray, end_s: np.ndarray) -> np.ndarray:
    """[S] mean walking speed between two instants: from the distance travelled, or from a measured speed; else nan."""
    time = recording.time_s
    if recording.speed_m_s is None and recording.pelvis_position_m is not None:
        travelled = recording.pelvis_position_m[:, 0]
    else:
        speed = recording.forward_speed_m_s()
        if speed is None:
            return np.full(np.shape(start_s), NAN)
        steps = 0.5 * (speed[1:] + speed[:-1]) * np.diff(time)
        travelled = np.concatenate([[0.0], np.cumsum(steps)])
    return (np.interp(end_s, time, travelled) - np.interp(start_s, time, travelled)) / (end_s - start_s)


def _foot_distance(recording: Recording, strides: Sequence[Stride]) -> tuple[np.ndarray, np.ndarray]:
    """Fore-aft and lateral distance [S] between the landing foot and the other one at heel strike, m."""
    if recording.foot_position_m is None:
        return np.full(len(strides), NAN), np.full(len(strides), NAN)
    length, width = np.empty(len(strides)), np.empty(len(strides))
    for index, stride in enumerate(strides):
        own = SIDES.index(stride.side)
        feet = np.array(
            [
                [
                    np.interp(stride.start_s, recording.time_s, recording.foot_position_m[:, foot, axis])
                    for axis in (0, 1)
                ]
                for foot in (0, 1)
            ]
        )
        length[index] = feet[own, 0] - feet[1 - own, 0]
        width[index] = feet[1, 1] - feet[0, 1]
    return length, width
