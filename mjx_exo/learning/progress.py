"""What a person sees while a policy trains: a live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """How far a run is."""

    env_steps: int
    total_steps: int
    steps_per_second: float
    """Environment steps per second, lately."""
    seconds_left: float
    rollout_share: float
    """Share of an iteration's time that the environment and acting take; the rest is learning."""
    stats: Mapping[str, float]
    """The update's scalars."""


class Display(Protocol):
    """Where a run reports to."""

    def say(self, text: str) -> None:
        """One line that stays."""
        ...

    def show(self, snapshot: Snapshot) -> None:
        """The state of the run; may be called after every update."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it was."""
        ...


def make_display(stream: TextIO | None = None) -> Display:
    """A live table if the stream (standard error by default) is a terminal, else a line every ten seconds."""
    stream = stream or sys.stderr
    return LiveDisplay(stream) if stream.isatty() else PlainDisplay(stream)


class PlainDisplay:
    """One line at most every `every_s` seconds, for logs and pipes."""

    def __init__(self, stream: TextIO, every_s: float = 10.0) -> None:
        self._stream = stream
        self._every_s = every_s
        self._last = -every_s

    def say(self, text: str) -> None:
        """One line that stays."""
        print(text, file=self._stream, flush=True)

    def show(self, snapshot: Snapshot) -> None:
        """The state of the run."""
        if time.monotonic() - self._last >= self._every_s or snapshot.env_steps >= snapshot.total_steps:
            self._last = time.monotonic()
            self.say(", ".join(headline(snapshot)))

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._stream.flush()


class LiveDisplay:
    """A table that is redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._live = Live(console=Console(file=stream), auto_refresh=False)
        self._live.start()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._live.console.print(text, markup=False, highlight=False)

    def show(self, snapshot: Snapshot) -> None:
        """The state of the run."""
        bar = ProgressBar(total=max(1, snapshot.total_steps), completed=snapshot.env_steps, width=60)
        rewards = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        terms = sorted((n, v) for n, v in snapshot.stats.items() if n.startswith("reward/"))
        half = -(-len(terms) // 2)
        for index in range(half):
            pairs = [(name.removeprefix("reward/"), f"{value:+.3f}") for name, value in terms[index::half]]
            rewards.add_row(*(text for pair in pairs for text in pair))
        lines = [bar, Text("  ".join(headline(snapshot))), rewards]
        self._live.update(Group(*lines), refresh=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._live.stop()


def headline(snapshot: Snapshot) -> list[str]:
    """The numbers worth a glance, as short texts with their units."""
    stats = snapshot.stats
    texts = [
        f"{snapshot.env_steps / 1e6:.2f} of {snapshot.total_steps / 1e6:.2f} M steps",
        f"{snapshot.steps_per_second:,.0f} steps/s",
        f"{duration(snapshot.seconds_left)} left",
        f"episodes {stats.get('episode_seconds', 0.0):.1f} s",
    ]
    if "speed_m_s" in stats:
        texts.append(f"speed {stats['speed_m_s']:.2f} m/s")
    if stats.get("commands_open", 1.0) < 1.0:
        texts.append(f"commands {100 * stats['commands_open']:.0f} % open")
    texts += [f"{name.split('/')[0]} return {value:.1f}" for name, value in stats.items() if name.endswith("/return")]
    texts += [f"std {value:.2f}" for name, value in stats.items() if name.endswith("/std")]
    texts.append(f"simulating {100 * snapshot.rollout_share:.0f} % of the time")
    return texts


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s` or `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
