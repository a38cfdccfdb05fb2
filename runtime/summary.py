"""What a session amounted to: rates, latencies, losses, limits and faults, counted in constant memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from runtime.messages import Sensor
from runtime.stages import Stage
from runtime.startup import started

_BIN_S = 5e-6
_BINS = 20_000  # up to 0.1 s; beyond goes to the last bin, the largest value is kept exactly
_NOT_PLAIN = ("latency", "inference", "arrival", "_arrived_echo", "stage_frames", "first_s", "last_s")


class LatencyHistogram:
    """Percentiles to 5 µs of any number of values."""

    def __init__(self) -> None:
        self._bins = np.zeros(_BINS, dtype=np.int64)
        self.count = 0
        self.largest_s = 0.0

    def add(self, seconds: float) -> None:
        """One value."""
        self._bins[min(int(seconds / _BIN_S), _BINS - 1)] += 1
        self.count += 1
        self.largest_s = max(self.largest_s, seconds)

    def percentile(self, share: float) -> float:
        """Upper edge of the bin below which `share` (0..1) of the values lie, s; NaN without values."""
        if not self.count:
            return float("nan")
        index = int(np.searchsorted(np.cumsum(self._bins), share * self.count))
        return min((index + 1) * _BIN_S, self.largest_s)

    def to_dict(self) -> dict[str, float]:
        """p50, p99, p99.9 and the largest, in ms."""
        shares = {"p50_ms": 0.5, "p99_ms": 0.99, "p99_9_ms": 0.999}
        values = {name: 1e3 * self.percentile(share) for name, share in shares.items()}
        return {**values, "max_ms": 1e3 * self.largest_s} if self.count else {}


@dataclasses.dataclass
class Tally:
    """Running counts of one session. Every sensor frame ends in exactly one of answered … rejected."""

    frames: int = 0
    answered: int = 0
    superseded: int = 0  # new, but a newer one came in the same read
    repeated: int = 0  # duplicates, older than one seen, or with a device clock that stood still
    rejected: int = 0  # values that are no measurement
    unsent: int = 0  # answers that the port did not take
    lost: int = 0  # frames the device numbered and nobody got
    inferences: int = 0
    moving: int = 0  # answers with torque allowed (ramp, active, soft stop)
    limited: int = 0  # of those, changed by a limit
    reconnects: int = 0
    timeouts: int = 0  # waits that ended without a frame
    faults: list[str] = dataclasses.field(default_factory=list)
    stage_frames: list[int] = dataclasses.field(default_factory=lambda: [0] * len(Stage))
    latency: LatencyHistogram = dataclasses.field(default_factory=LatencyHistogram)
    inference: LatencyHistogram = dataclasses.field(default_factory=LatencyHistogram)
    arrival: LatencyHistogram = dataclasses.field(default_factory=LatencyHistogram)  # by the device's clock
    _arrived_echo: int = 0
    first_s: float | None = None
    last_s: float = 0.0
    start_s: float | None = None  # from the start of the program until the device had answered

    def arrived(self, sample: Sensor) -> None:
        """Notes how late the newest answer reached the device, once per answer."""
        if sample.applied_echo != self._arrived_echo:
            self._arrived_echo = sample.applied_echo
            self.arrival.add(1e-6 * sample.applied_after_us)

    @property
    def unaccounted(self) -> int:
        """Sensor frames that ended nowhere; 0 unless there is a mistake in the loop."""
        return self.frames - self.answered - self.superseded - self.repeated - self.rejected - self.unsent

    @property
    def rate_hz(self) -> float:
        """Sensor frames per second between the first and the last."""
        seconds = self.last_s - (self.first_s if self.first_s is not None else self.last_s)
        return (self.frames - 1) / seconds if seconds > 0 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: all counts, latencies in ms, shares, seconds in each stage."""
        plain = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in _NOT_PLAIN
        }
        rate = self.rate_hz if self.frames > 1 else 0.0
        return {
            **plain,
            "unaccounted": self.unaccounted,
            "rate_hz": rate,
            "limited_share": self.limited / self.moving if self.moving else 0.0,
            "stage_s": {s.name.lower(): self.stage_frames[s] / rate for s in Stage if rate and self.stage_frames[s]},
            "sensor_to_command": self.latency.to_dict(),
            "inference_time": self.inference.to_dict(),
            "sample_to_device": self.arrival.to_dict(),
        }


def table(summary: dict[str, Any]) -> str:
    """The end-of-run table as text."""
    latency, inference = summary["sensor_to_command"], summary["inference_time"]
    lines = [
        ("start to ready", started(summary["start_s"])),
        ("sensor frames", f"{summary['frames']} at {summary['rate_hz']:.1f} Hz, {summary['lost']} lost on the way"),
        ("answered", f"{summary['answered']}; {summary['superseded']} superseded, {summary['repeated']} repeated"),
        ("not answered", f"{summary['rejected']} rejected, {summary['unsent']} not sent, "
                         f"{summary['unaccounted']} unaccounted for"),
        ("sensor to command", _milliseconds(latency)),
        ("of which inference", _milliseconds(inference)),
        ("answer at the device", _milliseconds(summary["sample_to_device"])),
        ("waits without a frame", str(summary["timeouts"])),
        ("torque limited", f"{100 * summary['limited_share']:.1f} % of {summary['moving']} answers with torque"),
        ("stages", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary["stage_s"].items()) or "none"),
        ("link", f"{summary['link_rejected']} damaged frames, {summary['reconnects']} reconnects"),
        ("scheduling", summary["scheduling"]),
        ("recording", summary["recording"]),
        ("faults", "; ".join(summary["faults"]) or "none"),
        ("ended", summary["ended"]),
    ]  # fmt: skip
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in lines)


def _milliseconds(values: dict[str, float]) -> str:
    if not values:
        return "none"
    return (
        f"p50 {values['p50_ms']:.2f}, p99 {values['p99_ms']:.2f}, p99.9 {values['p99_9_ms']:.2f}, "
        f"max {values['max_ms']:.2f} ms"
    )
