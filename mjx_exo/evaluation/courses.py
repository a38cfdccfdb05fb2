"""Commands that change: from standing to walking and back to standing, and new speeds and slopes in mid-walk."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d

from mjx_exo.evaluation.batch import ORDER_S, Batch
from mjx_exo.gait.time_charts import Course
from mjx_exo.walking.commands import SLOWEST_WALK_M_S
from mjx_exo.walking.rollout import Trials

STANDING_M_S = 0.05
"""Who stands moves more slowly than this, horizontally, at every moment of `STAND_S`."""
STAND_S = 5.0
SMOOTHED_S = 0.5
"""Speed is averaged over this time; that of walking rises and falls with every step."""
STRIDE_S = 1.2
REACHED_M_S = 0.1
"""A commanded speed is reached when the mean of the last `REACHED_S` of the walk is as close as this."""
REACHED_S = 4.0
SETTLE_S = 2.0
CHANGE_S = 4.0
CHANGING_S = 30.0
FEWEST_TRIALS = 20


@dataclasses.dataclass(frozen=True)
class Timeline:
    """When a trial stands, walks and stands again; seconds."""

    walk_from_s: float
    stop_from_s: float
    end_s: float

    @classmethod
    def of(cls, fastest_m_s: float, rate_m_s2: float) -> Timeline:
        """Long enough for commands that rise to `fastest_m_s` at `rate_m_s2`, to be held, and to fall again."""
        ramp = math.ceil(max(0.0, fastest_m_s - SLOWEST_WALK_M_S) / rate_m_s2)
        walk_from = SETTLE_S + STAND_S
        stop_from = walk_from + ramp + 2 * REACHED_S
        return cls(walk_from, stop_from, stop_from + ramp + SETTLE_S + 1.0 + STAND_S)


@dataclasses.dataclass(frozen=True)
class Ranges:
    """What a policy was trained on: lowest and highest speed (m/s) and slope (rad)."""

    speed_m_s: tuple[float, float]
    slope_rad: tuple[float, float]

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Speeds and slopes of a shape, uniform over the ranges."""
        return random.uniform(*self.speed_m_s, shape), random.uniform(*self.slope_rad, shape)


def rows(seconds: float) -> int:
    """How many orders a trial of this length has."""
    return math.ceil(seconds / ORDER_S)


def transition_orders(
    timeline: Timeline, speed_m_s: np.ndarray, slope_rad: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Orders [K, N]: stand, walk at `speed_m_s` [N], stand; on slopes [N] that stay."""
    at = np.arange(rows(timeline.end_s)) * ORDER_S
    walks = (at >= timeline.walk_from_s) & (at < timeline.stop_from_s)
    return walks[:, None] * speed_m_s, np.broadcast_to(slope_rad, (at.size, slope_rad.size))


def changing_orders(random: np.random.Generator, ranges: Ranges, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders [K, N]: a new speed and slope from the ranges every `CHANGE_S`."""
    changes = math.ceil(CHANGING_S / CHANGE_S)
    index = (np.arange(rows(CHANGING_S)) * ORDER_S / CHANGE_S).astype(int)
    speed, slope = ranges.draw(random, (changes, count))
    return speed[index], slope[index]


def velocity_of(trials: Trials) -> np.ndarray:
    """[T, N, 2] horizontal velocity of the pelvis, averaged over `SMOOTHED_S`."""
    window = max(1, round(SMOOTHED_S / trials.control_dt_s))
    return uniform_filter1d(trials.series["qvel"][:, :, :2].astype(float), window, axis=0, mode="nearest")


@dataclasses.dataclass(frozen=True)
class Judged:
    """What became of N trials from standing to walking and back; arrays [N]."""

    command_m_s: np.ndarray
    slope_rad: np.ndarray
    fell: np.ndarray
    stood_before: np.ndarray
    reached: np.ndarray
    stood_after: np.ndarray
    standing_m_s: np.ndarray  # mean horizontal speed over the last `STAND_S`

    @property
    def success(self) -> np.ndarray:
        """[N] No fall, the commanded speed reached, and standing still afterwards."""
        return ~self.fell & self.reached & self.stood_after


def judge(trials: Trials, timeline: Timeline, command_m_s: np.ndarray, slope_rad: np.ndarray) -> Judged:
    """Judges trials that walked `transition_orders`; who fell has neither walked nor stood."""
    time = np.arange(1, trials.series["qvel"].shape[0] + 1) * trials.control_dt_s
    velocity = velocity_of(trials)
    horizontal = np.linalg.norm(velocity, axis=-1)

    def within(end_s: float, length_s: float) -> np.ndarray:
        return (time > end_s - length_s) & (time <= end_s + 1e-9)

    # The filter must not look across the end of a phase into the next.
    before = within(timeline.walk_from_s - SMOOTHED_S / 2, STAND_S)
    walking = within(timeline.stop_from_s - SMOOTHED_S / 2, REACHED_S)
    after = within(timeline.end_s, STAND_S)
    lasted = trials.steps * trials.control_dt_s
    mean_speed = velocity[walking, :, 0].mean(axis=0)
    return Judged(
        command_m_s=command_m_s,
        slope_rad=slope_rad,
        fell=trials.fell,
        stood_before=(lasted > timeline.walk_from_s) & (horizontal[before].max(axis=0) < STANDING_M_S),
        reached=(lasted > timeline.stop_from_s) & (np.abs(mean_speed - command_m_s) <= REACHED_M_S),
        stood_after=~trials.fell & (horizontal[after].max(axis=0) < STANDING_M_S),
        standing_m_s=np.where(trials.fell, np.nan, horizontal[after].mean(axis=0)),
    )


def transition_summary(judged: Judged, timeline: Timeline) -> dict[str, Any]:
    """The entry `transitions` of summary.json."""
    level = np.abs(judged.slope_rad) < 1e-6
    return {
        "trials": int(judged.fell.size),
        "seconds": timeline.end_s,
        "success_share": float(judged.success.mean()),
        "fall_free_share": float(1.0 - judged.fell.mean()),
        "standing_share": float(judged.stood_before.mean()),
        "reached_speed_share": float(judged.reached.mean()),
        "standing_again_share": float(judged.stood_after.mean()),
        "standing_speed_m_s": _mean(judged.standing_m_s),
        "on_the_level": {"trials": int(level.sum()), "success_share": _mean(judged.success[level])},
        "on_slopes": {"trials": int((~level).sum()), "success_share": _mean(judged.success[~level])},
        "criteria": {"standing_m_s": STANDING_M_S, "standing_s": STAND_S, "reached_within_m_s": REACHED_M_S},
    }


def changing_summary(trials: Trials, ranges: Ranges) -> dict[str, Any]:
    """The entry `changing_commands` of summary.json; the speed error is against the rate-limited command."""
    window = max(1, round(STRIDE_S / trials.control_dt_s))
    walked = uniform_filter1d(trials.series["qvel"][:, :, 0].astype(float), window, axis=0, mode="nearest")
    error = np.abs(walked - trials.series["speed_command"])[:, ~trials.fell]
    return {
        "trials": int(trials.fell.size),
        "seconds": CHANGING_S,
        "every_s": CHANGE_S,
        "speed_range_m_s": list(ranges.speed_m_s),
        "slope_range_deg": [math.degrees(s) for s in ranges.slope_rad],
        "fall_free_share": float(1.0 - trials.fell.mean()),
        "speed_error_m_s": _mean(error),
    }


def _mean(values: np.ndarray) -> float:
    known = np.asarray(values, float)[np.isfinite(np.asarray(values, float))]
    return float(known.mean()) if known.size else math.nan


@dataclasses.dataclass(frozen=True)
class Courses:
    """Both kinds of courses: entries of summary.json and trials to draw; a kind that was left out says why."""

    transitions: dict[str, Any]
    changing: dict[str, Any]
    transition_courses: list[Course]
    changing_courses: list[Course]


def longest_s(ranges: Ranges, rate_m_s2: float) -> float:
    """The longest trial that `walk_courses` walks."""
    return max(CHANGING_S, Timeline.of(ranges.speed_m_s[1], rate_m_s2).end_s)


def walk_courses(batch: Batch, ranges: Ranges, trials: int, seed: int, stands: bool) -> Courses:
    """Walks at least `trials` of each kind; without `stands`, a policy that never learned to stand is not asked to.

    Every other transition is on the level, the others on slopes of the range.
    """
    random = np.random.default_rng(seed)
    rate = batch.env.config.command.speed_rate_m_s2
    transitions: dict[str, Any] = {"skipped": "the policy was never taught to stand (stand_share 0)"}
    changing: dict[str, Any] = {"skipped": "the policy was trained for one speed and one slope"}
    shown_transitions: list[Course] = []
    shown_changing: list[Course] = []
    if stands:
        timeline = Timeline.of(ranges.speed_m_s[1], rate)
        parts, walked = [], []
        for index in range(math.ceil(trials / batch.size)):
            speed, slope = ranges.draw(random, (batch.size,))
            slope = np.where(random.permutation(batch.size) % 2 == 0, 0.0, slope)
            walked.append(batch.walk(seed + index, *transition_orders(timeline, speed, slope), timeline.end_s))
            parts.append(judge(walked[-1], timeline, speed, slope))
        judged = _joined(parts)
        transitions = transition_summary(judged, timeline)
        shown_transitions = _transition_courses(walked[0], parts[0])
    if ranges.speed_m_s[0] < ranges.speed_m_s[1] or ranges.slope_rad[0] < ranges.slope_rad[1]:
        done = []
        for index in range(math.ceil(trials / batch.size)):
            orders = changing_orders(random, ranges, batch.size)
            done.append(batch.walk(seed + 1000 + index, *orders, CHANGING_S))
        joined = join_trials(done)
        changing = changing_summary(joined, ranges)
        first_fall = np.flatnonzero(joined.fell)[:1]
        picked = list(dict.fromkeys([0, 1, 2, *first_fall.tolist()]))[: joined.fell.size]
        shown_changing = [_course(joined, n, f"trial {n + 1}") for n in picked if n < joined.fell.size]
    return Courses(transitions, changing, shown_transitions, shown_changing)


def join_trials(parts: Sequence[Trials]) -> Trials:
    """Trials of several batches of one length as one; only the series that courses are judged by."""
    series = {
        name: np.concatenate([p.series[name] for p in parts], axis=1) for name in ("qvel", "speed_command", "slope")
    }
    steps, fell = (np.concatenate([getattr(p, name) for p in parts]) for name in ("steps", "fell"))
    return Trials(parts[0].control_dt_s, steps, fell, series)


def _joined(parts: Sequence[Judged]) -> Judged:
    names = [field.name for field in dataclasses.fields(Judged)]
    return Judged(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _transition_courses(trials: Trials, judged: Judged) -> list[Course]:
    """The slowest and the fastest on the level, the steepest, and the first that failed."""
    level = np.flatnonzero(judged.slope_rad == 0.0)
    order = level[np.argsort(judged.command_m_s[level])]
    picked = [*order[:1], *order[-1:], int(np.argmax(np.abs(judged.slope_rad))), *np.flatnonzero(~judged.success)[:1]]
    return [
        _course(trials, n, f"{judged.command_m_s[n]:.2f} m/s, {'succeeds' if judged.success[n] else _why(judged, n)}")
        for n in dict.fromkeys(int(n) for n in picked)
    ]


def _why(judged: Judged, n: int) -> str:
    if judged.fell[n]:
        return "falls"
    return "misses the speed" if not judged.reached[n] else "does not stand still"


def _course(trials: Trials, n: int, title: str) -> Course:
    count = max(2, int(trials.steps[n]))
    window = max(1, round(SMOOTHED_S / trials.control_dt_s))
    return Course(
        title=title,
        time_s=np.arange(1, count + 1) * trials.control_dt_s,
        command_m_s=trials.series["speed_command"][:count, n],
        speed_m_s=uniform_filter1d(trials.series["qvel"][:count, n, 0].astype(float), window, mode="nearest"),
        slope_rad=trials.series["slope"][:count, n],
        fell=bool(trials.fell[n]),
    )
