"""Faults on command: what cables, sensors, drivers and people do to a device, each one counted.

A fault is written `KIND[:PARAM][@START[-END]]`, in seconds since the first greeting (typed at a running device: from
now). Without END it lasts until `clear` is typed, without START it begins at once. Sensor faults change what is
measured, line faults what becomes of the frame, health faults what the controller sees of itself. Every fault notes
which frames it touched, so that a log of the other side can be held against it frame by frame.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from mjx_exo.errors import UserError
from runtime.controller import Health
from runtime.messages import Sensor

# Kind: (what it does, what PARAM is, its legal range, its default).
KINDS: dict[str, tuple[str, str, tuple[float, float], float]] = {
    "drop": ("sensor frames are lost", "share", (0.0, 1.0), 1.0),
    "corrupt": ("a byte of the frame is changed", "share", (0.0, 1.0), 1.0),
    "duplicate": ("the frame comes twice", "share", (0.0, 1.0), 1.0),
    "reorder": ("the frame comes after the next one", "share", (0.0, 1.0), 1.0),
    "delay": ("frames come late", "ms", (0.0, 1000.0), 30.0),
    "freeze": ("the gyroscopes repeat their last value", "", (0.0, 0.0), 0.0),
    "nan": ("the gyroscopes read not-a-number", "", (0.0, 0.0), 0.0),
    "swap": ("right and left are exchanged", "", (0.0, 0.0), 0.0),
    "flip": ("the gyroscopes sit upside down", "", (0.0, 0.0), 0.0),
    "estop": ("the emergency stop is pressed", "", (0.0, 0.0), 0.0),
    "driver": ("a motor driver reports a fault", "", (0.0, 0.0), 0.0),
    "hot": ("an actuator is too hot", "", (0.0, 0.0), 0.0),
    "deaf": ("the device hears nothing of the host", "", (0.0, 0.0), 0.0),
    "unplug": ("the cable is pulled, and put back at the end", "", (0.0, 0.0), 0.0),
}
ALIASES = {"replug": "unplug", "driver_fault": "driver", "emergency_stop": "estop"}
LINE_FAULTS = ("unplug", "drop", "corrupt", "reorder", "duplicate", "delay")  # the first that strikes decides
RANDOM_EVERY_S = (2.0, 6.0)
RANDOM_LASTS_S = (0.02, 0.8)
RANDOM_UNPLUG_S = (0.3, 2.0)
FAULT_SYNTAX = "KIND[:PARAM][@START[-END]]"


@dataclasses.dataclass
class Fault:
    """One fault. `touched` counts the frames it struck (for `deaf`: bytes), `first` and `last` are their numbers."""

    kind: str
    parameter: float
    start_s: float
    end_s: float = math.inf
    touched: int = 0
    first: int = 0
    last: int = 0
    struck: bool = False  # it has been in force at least once

    def active(self, time_s: float) -> bool:
        """Whether it is in force."""
        return self.start_s <= time_s < self.end_s

    def touch(self, sequence: int, count: int = 1) -> None:
        """Counts a frame."""
        self.first = self.first or sequence
        self.last = sequence
        self.touched += count

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `end_s` is None for a fault that did not end."""
        return {**dataclasses.asdict(self), "end_s": None if math.isinf(self.end_s) else self.end_s}


def parse_fault(text: str, now_s: float = 0.0) -> Fault:
    """`KIND[:PARAM][@START[-END]]`, times counted from `now_s`. Raises UserError naming what is wrong."""
    head, at, when = text.strip().partition("@")
    kind, colon, number = head.partition(":")
    kind = ALIASES.get(kind, kind)
    if kind not in KINDS:
        raise UserError(f"fault {text!r}: {kind!r} is not one of {', '.join(KINDS)}")
    _, unit, (low, high), parameter = KINDS[kind]
    if colon and not unit:
        raise UserError(f"fault {text!r}: {kind} takes no parameter")
    if colon:
        parameter = _number(text, number)
        if not low <= parameter <= high:
            raise UserError(f"fault {text!r}: {parameter:g} is outside {low:g}..{high:g} ({unit})")
    start, dash, end = when.partition("-")
    start_s = _number(text, start) if at else 0.0
    end_s = _number(text, end) if dash else math.inf
    if not 0.0 <= start_s < end_s:
        raise UserError(f"fault {text!r}: times must be 0 <= START < END, in seconds")
    return Fault(kind, parameter, now_s + start_s, now_s + end_s)


def _number(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise UserError(f"fault {text!r}: {part!r} is not a number; write {FAULT_SYNTAX}") from None


class RandomFaults:
    """One fault after the other, never two at once, so that each has its own consequences."""

    def __init__(self, seed: int, kinds: tuple[str, ...] = tuple(KINDS)):
        self._random = random.Random(seed)
        self._kinds = kinds
        self._free_s = self._random.uniform(*RANDOM_EVERY_S)

    def next(self) -> Fault:
        """The fault after the last one."""
        r, kind = self._random, self._random.choice(self._kinds)
        lasts_s = r.uniform(*(RANDOM_UNPLUG_S if kind == "unplug" else RANDOM_LASTS_S))
        _, unit, _, parameter = KINDS[kind]
        if unit == "share":
            parameter = r.choice((0.2, 1.0))
        elif unit == "ms":
            parameter = r.uniform(5.0, 150.0)
        fault = Fault(kind, parameter, self._free_s, self._free_s + lasts_s)
        self._free_s = fault.end_s + r.uniform(*RANDOM_EVERY_S)
        return fault


class FaultInjector:
    """What is broken now. Times are seconds on the device's own clock since the first greeting."""

    def __init__(self, faults: Sequence[Fault] = (), random_faults: RandomFaults | None = None, delay_s: float = 0.0):
        self.faults = list(faults)  # in force or to come
        self.past: list[Fault] = []
        self.sound = 0  # frames sent on whole, copies not counted
        self._random_faults = random_faults
        self._random_until_s = 0.0
        self._coin = random.Random(0)
        self._active: list[Fault] = []
        self._last_gyro: Sensor | None = None
        self._held: bytes = b""  # a frame waiting to be overtaken
        self._delay_s = delay_s
        self._queue: list[tuple[float, bytes]] = []

    def advance(self, time_s: float) -> list[str]:
        """Takes the time; returns a line for every fault that began or ended."""
        if self._random_faults is not None and time_s >= self._random_until_s:
            self.faults.append(self._random_faults.next())
            self._random_until_s = self.faults[-1].end_s
        self.past += [f for f in self.faults if time_s >= f.end_s]
        self.faults = [f for f in self.faults if time_s < f.end_s]
        before, self._active = self._active, [f for f in self.faults if f.active(time_s)]
        for fault in self._active:
            fault.struck = True
        words = [f"fault {f.kind}: {KINDS[f.kind][0]}" for f in self._active if f not in before]
        return words + [f"fault {f.kind} is over" for f in before if f not in self._active]

    def add(self, fault: Fault) -> None:
        """One more, as typed."""
        self.faults.insert(0, fault)

    def clear(self, time_s: float, kind: str = "") -> None:
        """Ends what is in force, of that kind or all."""
        kind = ALIASES.get(kind, kind)
        for fault in self.faults:
            if fault.active(time_s) and kind in ("", fault.kind):
                fault.end_s = time_s

    def find(self, *kinds: str) -> Fault | None:
        """The first fault in force of one of these kinds."""
        for kind in kinds:
            for fault in self._active:
                if fault.kind == kind:
                    return fault
        return None

    @property
    def words(self) -> str:
        """What is in force, for the screen."""
        return " ".join(f.kind for f in self._active)

    @property
    def health(self) -> Health:
        """The controller's health lines."""
        return Health(
            emergency_stop=self.find("estop") is not None,
            driver_fault=self.find("driver") is not None,
            over_temperature=self.find("hot") is not None,
        )

    def measure(self, measured: Sensor, sequence: int) -> Sensor:
        """The measurement as a broken sensor gives it; `sequence` is the number its frame will have."""
        for fault in self._active:
            if fault.kind in ("estop", "driver", "hot"):
                fault.touch(sequence)
        if frozen := self.find("freeze"):
            frozen.touch(sequence)
            last = self._last_gyro or measured
            measured = measured._replace(gyro_rad_s=last.gyro_rad_s, gyro3_rad_s=last.gyro3_rad_s)
        self._last_gyro = measured
        if swapped := self.find("swap"):
            swapped.touch(sequence)
            measured = _mapped(measured, lambda axes: axes[len(axes) // 2 :] + axes[: len(axes) // 2])
        if flipped := self.find("flip"):
            flipped.touch(sequence)
            measured = _mapped(measured, lambda axes: tuple(-x for x in axes))
        if broken := self.find("nan"):
            broken.touch(sequence)
            measured = _mapped(measured, lambda axes: (math.nan,) * len(axes))
        return measured

    def hear(self, data: bytes, sequence: int) -> bytes:
        """What the controller gets of what the host sent."""
        deaf = self.find("deaf")
        if deaf is None or not data:
            return data
        deaf.touch(sequence, len(data))
        return b""

    def dispatch(self, frame: bytes, sequence: int, now_s: float) -> None:
        """Takes a finished sensor frame; `due` gives what goes on the line."""
        fault = self._struck()
        delay_s = self._delay_s
        if fault is not None:
            fault.touch(sequence)
            if fault.kind in ("unplug", "drop"):
                return
            if fault.kind == "corrupt":
                self._put(now_s + delay_s, _corrupted(frame, self._coin))
                return
            if fault.kind == "reorder" and not self._held:
                self._held = frame
                return
            if fault.kind == "reorder":  # it is the next one itself: it may not overtake twice
                fault.touched -= 1
            frame = frame * 2 if fault.kind == "duplicate" else frame
            delay_s += 1e-3 * fault.parameter if fault.kind == "delay" else 0.0
        self.sound += 1 + bool(self._held)
        self._put(now_s + delay_s, frame + self._held)
        self._held = b""

    def due(self, now_s: float) -> bytes:
        """The bytes whose time has come, in order."""
        ready = b""
        while self._queue and self._queue[0][0] <= now_s:
            ready += self._queue.pop(0)[1]
        return ready

    @property
    def next_due_s(self) -> float:
        """When `due` has something again."""
        return self._queue[0][0] if self._queue else math.inf

    @property
    def waiting(self) -> int:
        """Frames that have not gone out yet."""
        return len(self._queue) + bool(self._held)

    def forget(self) -> None:
        """The port is gone: what waited is gone with it."""
        self._queue, self._held = [], b""

    @property
    def struck(self) -> list[Fault]:
        """All faults that have been in force, in order of their beginning."""
        return sorted((f for f in self.past + self.faults if f.struck), key=lambda f: f.start_s)

    def report(self) -> dict[str, dict[str, int]]:
        """Per kind: how many faults there were and how many frames they touched."""
        struck = self.struck
        kinds = [kind for kind in KINDS if any(f.kind == kind for f in struck)]
        return {
            kind: {
                "faults": sum(f.kind == kind for f in struck),
                "touched": sum(f.touched for f in struck if f.kind == kind),
            }
            for kind in kinds
        }

    def _put(self, when_s: float, data: bytes) -> None:
        """Frames on one line do not overtake each other: later ones wait for earlier ones."""
        self._queue.append((max(when_s, self._queue[-1][0] if self._queue else 0.0), data))

    def _struck(self) -> Fault | None:
        for kind in LINE_FAULTS:
            fault = self.find(kind)
            if fault is None:
                continue
            if KINDS[kind][1] != "share" or self._coin.random() < fault.parameter:
                return fault
        return None


def _mapped(measured: Sensor, change: Callable[[tuple], tuple]) -> Sensor:
    """The gyroscopes' values through `change`, which takes and gives a tuple, right before left."""
    three = measured.gyro3_rad_s
    return measured._replace(
        gyro_rad_s=change(measured.gyro_rad_s), gyro3_rad_s=None if three is None else change(three)
    )


def _corrupted(frame: bytes, coin: random.Random) -> bytes:
    """One byte changed to another that is no delimiter: exactly one block that nobody may accept."""
    at = coin.randrange(len(frame) - 1)
    other = coin.randrange(1, 255)
    return frame[:at] + bytes([other + (other >= frame[at])]) + frame[at + 1 :]
