"""What a session leaves behind: a row per frame for the recorder, curves for the viewer. Both may be absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime.guard import Guard
from runtime.live import LivePlot
from runtime.messages import Pair, Sensor
from runtime.recorder import Recorder
from runtime.stages import Decision, Observation

_NAN_PAIR = (math.nan, math.nan)


class Answer(NamedTuple):
    """What went out for a frame, and how long that took, in s (`inference_s` NaN when the student was not asked)."""

    decision: Decision
    latency_s: float
    inference_s: float


class Witness:
    """Gives every frame to the recorder and some to the viewer."""

    def __init__(self, recorder: Recorder | None, live: LivePlot | None):
        self._recorder, self._live = recorder, live

    def note(self, time_s: float, kind: str, **details: Any) -> None:
        """An event; `details` are JSON values."""
        if self._recorder is not None:
            self._recorder.event(time_s, kind, **details)

    def record(
        self, host_s: float, sample: Sensor, seen: Observation, student: Pair, guard: Guard, answer: Answer | None
    ) -> None:
        """One sensor frame; `student` is the policy's newest torque, `answer` None for a frame without one."""
        if self._live is not None and answer is not None and self._live.due(host_s):
            self._live.send(host_s, _curves(sample, seen, guard, answer))
        if self._recorder is None:
            return
        torque, intent, latency_s, inference_s, limited, armed = _NAN_PAIR, _NAN_PAIR, math.nan, math.nan, False, False
        if answer is not None:
            torque, intent, _, limited, armed = answer.decision
            latency_s, inference_s = answer.latency_s, answer.inference_s
        self._recorder.add(
            host_s, sample.device_time_us, sample.sequence, guard.stage, seen.rows, seen.flush, answer is not None,
            not math.isnan(inference_s), guard.walking.walking, limited, armed, sample.flags, sample.applied_echo,
            sample.applied_after_us,
            *sample.gyro_rad_s, *(seen.values[:2] or _NAN_PAIR), *student, *intent, *torque,
            *sample.applied_torque_nm, *(sample.measured_torque_nm or _NAN_PAIR),
            *(sample.joint_velocity_rad_s or _NAN_PAIR), *(sample.hip_angle_rad or _NAN_PAIR),
            *(sample.temperature_c or _NAN_PAIR), guard.gain, latency_s, inference_s,
        )  # fmt: skip

    @property
    def words(self) -> str:
        """What was recorded, for the table."""
        if self._recorder is None:
            return "none (give --log DIR)"
        words = f"{self._recorder.rows} rows in {self._recorder.folder}"
        return f"{words}; {self._recorder.trouble}" if self._recorder.trouble else words

    def close(self, summary: Mapping[str, Any]) -> None:
        """Writes what is left and the summary."""
        if self._live is not None:
            self._live.close()
        if self._recorder is not None:
            self._recorder.close(summary)


def _curves(sample: Sensor, seen: Observation, guard: Guard, answer: Answer) -> dict[str, float | list[float]]:
    return {
        "stage": float(guard.stage),
        "gyro_rad_s": list(seen.values[:2]),
        "torque_nm": list(answer.decision.torque_nm),
        "intent_nm": list(answer.decision.intent_nm),
        "applied_nm": list(sample.applied_torque_nm),
        "gain": answer.decision.gain,
        "walking": float(guard.walking.walking),
        "latency_ms": 1e3 * answer.latency_s,
    }
