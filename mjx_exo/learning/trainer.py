"""One training run from its first update to its last, whatever interrupts it in between.

The learner (`ppo.py`) is pure; everything that touches the world is here: the folder, the log, the display, signals,
checkpoints and the NaN guard. What the run computes depends only on environment, settings and seed: neither the clock
nor an interruption changes a single bit of the result.

With a mesh of several processes all of them run this loop in step; process 0 alone writes and shows, and what depends
on a clock, a signal or a hook is decided together.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.sharding import Mesh

from mjx_exo.cache import use_jax_cache
from mjx_exo.errors import UserError
from mjx_exo.learning.checkpoint import Checkpoints, Manifest
from mjx_exo.learning.config import PPOConfig
from mjx_exo.learning.contract import Environment
from mjx_exo.learning.nan_guard import NotFiniteError, describe_batch, not_finite, save_replay
from mjx_exo.learning.parallel import ParallelTraining, SingleTraining, heard, leads, make_training
from mjx_exo.learning.ppo import PPO, ActorState, Batch, TrainState
from mjx_exo.learning.progress import Display, Snapshot, make_display
from mjx_exo.learning.run_folder import RunFolder, RunLog, versions

FREE_SETTINGS = ("ppo.total_steps",)
"""Settings that may change when a run is resumed: it may be made longer."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is kept and shown; nothing here changes what is learnt."""

    checkpoint_every_s: float = 60.0
    """Seconds between checkpoints; one is always written at the end."""
    checkpoint_every_updates: int = 0
    """Updates between checkpoints, on top of the seconds; 0 means seconds only."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept."""
    resume_command: str = ""
    """What to type to go on with a stopped run; shown to the user."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a hook is shown after an update."""

    ppo: PPO
    state: TrainState
    stats: Mapping[str, float]
    updates: int
    env_steps: int
    wall_seconds: float
    """Time spent training so far, over all starts, s."""
    folder: RunFolder
    display: Display
    last: bool
    """True after the last update."""


Hook = Callable[[Moment], str | None]
"""Called after every update; a text ends the run, saved and complete, and says why."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    state: TrainState
    updates: int
    env_steps: int
    wall_seconds: float
    finished: bool
    """False if a signal stopped it; it can then be resumed."""
    reason: str
    """`all steps done`, a hook's text, or `stopped by SIGTERM`."""


def train(
    env: Environment[Any],
    config: PPOConfig,
    run_folder: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    identity: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    initial_actors: Mapping[str, ActorState] | None = None,
    hooks: Sequence[Hook] = (),
    options: RunOptions | None = None,
    display: Display | None = None,
    mesh: Mesh | None = None,
) -> TrainResult:
    """Trains the environment's actors into `run_folder`, from scratch or, with `resume`, from its newest checkpoint.

    `identity` says what the arrays belong to (body, device, …) and `settings` what else the environment was made with;
    both are compared when resuming. `initial_actors` replaces freshly made actors at the start (a second stage).
    With a `mesh` its devices share the environments; hooks are then called by process 0 alone. The result is whole.
    Raises `UserError` for a folder or checkpoint that does not fit, and `NotFiniteError` for a NaN.
    """
    options, identity = options or RunOptions(), dict(identity or {})
    settings = {"ppo": dataclasses.asdict(config), "seed": seed, **dict(settings or {})}
    training = make_training(env, config, mesh)
    use_jax_cache()
    folder = _open_folder(run_folder, resume, mesh)
    display = (display or make_display()) if leads(mesh) else _NoDisplay()
    try:
        checkpoints = Checkpoints(folder.checkpoints, options.keep_checkpoints)
        start = Manifest(identity, settings, versions(), seed, 0, 0, 0.0)
        if resume and checkpoints.latest() is not None:
            template = jax.eval_shape(training.ppo.init, jax.random.key(seed))
            state, stored = checkpoints.restore(template, identity, settings, FREE_SETTINGS)
            state = training.place(state)
            start = dataclasses.replace(
                start, updates=stored.updates, env_steps=stored.env_steps, wall_seconds=stored.wall_seconds
            )
            display.say(f"resuming {run_folder} after update {start.updates} ({start.env_steps:,} steps)")
        else:
            folder.write_json(folder.config, dataclasses.asdict(start))
            display.say(f"training into {run_folder}")
            display.say("preparing the environments")
            state = training.init(jax.random.key(seed))
            state = state.replace(actors={**state.actors, **training.place_actors(initial_actors or {})})
        run = _Run(training, mesh, folder, checkpoints, start, options, display, tuple(hooks))
        with _stop_signals() as stop:
            return run.go(state, stop)
    finally:
        display.close()
        folder.close()


class _Run:
    """The loop and the clocks around it; made and used once by `train`."""

    def __init__(
        self,
        training: SingleTraining | ParallelTraining,
        mesh: Mesh | None,
        folder: RunFolder,
        checkpoints: Checkpoints,
        start: Manifest,
        options: RunOptions,
        display: Display,
        hooks: tuple[Hook, ...],
    ) -> None:
        self.training, self.ppo, self.mesh = training, training.ppo, mesh
        self.folder, self.checkpoints = folder, checkpoints
        self.start, self.options, self.display, self.hooks = start, options, display, hooks
        self.began = time.monotonic()
        self.saved_at = self.began
        self.speed = 0.0

    def go(self, state: TrainState, stop: list[str]) -> TrainResult:
        done, total = self.start.updates, self.ppo.updates
        log = RunLog(self.folder, self.start.env_steps) if leads(self.mesh) else None
        reason = "all steps done"
        finished = True
        rollout, update = (None, None) if done >= total else self._compile(state)
        try:
            while done < total:
                before, began = state, time.perf_counter()
                state, batch = jax.block_until_ready(rollout(state))
                between = time.perf_counter()
                state, traced = jax.block_until_ready(update(state, batch))
                seconds = {"seconds/rollout": between - began, "seconds/update": time.perf_counter() - between}
                stats = {name: float(value) for name, value in jax.device_get(traced).items()}
                self._guard(before, batch, stats, done)
                done += 1
                row = {"env_steps": self._env_steps(done), "updates": done, "wall_seconds": self._wall()}
                if log:
                    log.write(row | seconds | {n: v for n, v in stats.items() if not n.startswith("finite/")})
                self._show(done, stats, seconds)
                ended = self._call_hooks(state, stats, done) if leads(self.mesh) else None
                said = heard(self.mesh, bool(ended), bool(stop), self._due(done))
                (hook_ended, _, due), stopped = said[0], said[:, 1].any()
                if stopped and done < total and not hook_ended:
                    reason, finished = f"stopped by {stop[0] if stop else 'another process'}", False
                    break
                if hook_ended:
                    reason = ended or "ended by process 0"
                    break
                if due:
                    self._save(state, done)
            self._save(state, done)
        finally:
            if log:
                log.close()
            self.checkpoints.close()
        self._say_goodbye(done, reason, finished)
        return TrainResult(self.training.gather(state), done, self._env_steps(done), self._wall(), finished, reason)

    def _compile(self, state: TrainState) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The two halves of an iteration. No buffer is donated: the state from before is what a NaN replay needs."""
        self.display.say("compiling (a minute at most; what can be kept is kept for the next run)")
        began = time.perf_counter()
        rollout = self.training.rollout.lower(state).compile()
        update = self.training.update.lower(*jax.eval_shape(self.ppo.rollout, state)).compile()
        self.display.say(f"compiled in {time.perf_counter() - began:.0f} s")
        return rollout, update

    def _guard(self, before: TrainState, batch: Batch, stats: Mapping[str, float], done: int) -> None:
        bad = not_finite(stats)
        if not bad:
            return
        folder = self.folder.not_finite
        saved = save_replay(folder, self.training.gather(before), self._manifest(done))
        self.folder.write_json(folder / "batch.json", describe_batch(self.training.gather(batch)))
        self.folder.write_json(folder / "stats.json", dict(stats))
        raise NotFiniteError(
            f"stopped in update {done + 1}: {bad[0]} is not finite; the state before it is in {saved}, what the "
            f"rollout held in {folder / 'batch.json'}, and the checkpoints in {self.folder.checkpoints} are untouched"
        )

    def _call_hooks(self, state: TrainState, stats: Mapping[str, float], done: int) -> str | None:
        last = done >= self.ppo.updates
        moment = Moment(
            self.ppo, state, stats, done, self._env_steps(done), self._wall(), self.folder, self.display, last
        )
        answers = [hook(moment) for hook in self.hooks]
        return next((answer for answer in answers if answer), None)

    def _due(self, done: int) -> bool:
        every = self.options.checkpoint_every_updates
        by_time = time.monotonic() - self.saved_at >= self.options.checkpoint_every_s
        return by_time or (every > 0 and done % every == 0)

    def _save(self, state: TrainState, done: int) -> None:
        self.checkpoints.save(self.training.gather(state), self._manifest(done))
        self.saved_at = time.monotonic()

    def _manifest(self, done: int) -> Manifest:
        return dataclasses.replace(
            self.start, updates=done, env_steps=self._env_steps(done), wall_seconds=round(self._wall(), 3)
        )

    def _env_steps(self, done: int) -> int:
        return done * self.ppo.steps_per_update

    def _wall(self) -> float:
        return self.start.wall_seconds + time.monotonic() - self.began

    def _show(self, done: int, stats: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        spent = sum(seconds.values())
        speed = self.ppo.steps_per_update / spent
        self.speed = 0.9 * self.speed + 0.1 * speed if self.speed else speed
        total = self.ppo.updates * self.ppo.steps_per_update
        left = (total - self._env_steps(done)) / self.speed
        share = seconds["seconds/rollout"] / spent
        self.display.show(Snapshot(self._env_steps(done), total, self.speed, left, share, stats))

    def _say_goodbye(self, done: int, reason: str, finished: bool) -> None:
        steps = f"{self._env_steps(done):,} steps"
        self.display.say(f"{reason}: {steps}, {self._wall():.0f} s; everything is in {self.folder.path}")
        if not finished and self.options.resume_command:
            self.display.say(f"go on with: {self.options.resume_command}")


class _FollowedFolder(RunFolder):
    """The run folder as process 0's companions know it: its paths; nothing is locked or written."""

    def __init__(self, path: Path) -> None:
        self.path, self.config = path, path / "config.json"
        self.checkpoints, self.not_finite = path / "checkpoints", path / "not_finite"

    def write_json(self, path: Path, content: Any) -> None:
        """Nothing: process 0 does."""

    def close(self) -> None:
        """Nothing to let go of."""


class _NoDisplay:
    """What process 0's companions show: nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _open_folder(path: Path, resume: bool, mesh: Mesh | None) -> RunFolder:
    """The run folder for process 0, its paths for the others; all fail together if process 0 cannot have it."""
    if leads(mesh):
        try:
            folder = RunFolder(path, resume)
        except UserError:
            heard(mesh, False)
            raise
        heard(mesh, True)
        return folder
    if not heard(mesh, False)[0, 0]:
        raise UserError(f"process 0 cannot train into {path}; it says why")
    return _FollowedFolder(path)


@contextmanager
def _stop_signals() -> Iterator[list[str]]:
    """A list that the first Ctrl-C or SIGTERM puts its name into; the second one interrupts at once.

    Only the main thread may handle signals; elsewhere the list stays empty.
    """
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
