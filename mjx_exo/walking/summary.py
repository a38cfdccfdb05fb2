"""Does it walk? The figures a training ends with, from trials with a deterministic policy."""

from __future__ import annotations

import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.strides import Stride, find_strides, of_side, over_cycle
from mjx_exo.walking.rollout import Trials

_SETTLED_S = 1.0  # the first second belongs to the start posture
_SWING_PERCENT = 55  # knee flexion in swing is looked for from here to the next heel strike


def walking_summary(trials: Trials, recordings: list[Recording]) -> dict[str, float]:
    """Falls, duration, speed, swing knee flexion and whether the feet alternate, over all trials.

    `recordings` are those of the trials that lasted; angles are in degrees because people read this.
    """
    total_s = trials.series["qvel"].shape[0] * trials.control_dt_s
    speeds = [
        float(np.mean(r.forward_speed_m_s()[r.time_s >= _SETTLED_S]))
        for r in recordings
        if r.time_s[-1] > _SETTLED_S + 0.5
    ]
    knees, alternating, strides_seen = [], 0, 0
    for recording in recordings:
        strides = find_strides(recording, skip_s=_SETTLED_S)
        strides_seen += len(strides)
        alternating += sum(_other_foot_once(stride) for stride in strides)
        for side in SIDES:
            mine = of_side(strides, side)
            angle = recording.joint("joint_angle_rad", "knee_flexion", side)
            if mine and angle is not None:
                knees.extend(over_cycle(recording.time_s, angle, mine)[:, _SWING_PERCENT:].max(axis=1))
    return {
        "trials": int(trials.fell.size),
        "trial_seconds": float(total_s),
        "fall_free_share": float(1.0 - trials.fell.mean()),
        "episode_seconds_mean": float(trials.seconds().mean()),
        "speed_mean_m_s": float(np.mean(speeds)) if speeds else float("nan"),
        "knee_swing_deg": float(np.degrees(np.mean(knees))) if knees else float("nan"),
        "strides": strides_seen,
        "alternating_share": alternating / strides_seen if strides_seen else 0.0,
    }


def _other_foot_once(stride: Stride) -> bool:
    """True if the other foot landed exactly once within the stride."""
    return bool(np.isfinite(stride.opposite_strike_s))
