"""A training that a test can run as a process of its own and kill: `toy_training.py DIR [resume] [pause]`.

`pause` sleeps after every update, which makes a moment for a kill easy to hit and changes nothing in the result.
"""

import sys
import time
from pathlib import Path

from mjx_exo.errors import run_command
from mjx_exo.learning.config import ActorConfig, PPOConfig
from mjx_exo.learning.trainer import Moment, RunOptions, TrainResult, train
from tests.toy_env import ToyEnv

UPDATES = 60
PAUSE_S = 0.05
IDENTITY = {"body": "toy", "device": "none"}
OPTIONS = RunOptions(checkpoint_every_updates=7, resume_command="toy_training DIR resume")


def toy_env(**changes: int) -> ToyEnv:
    """Small."""
    return ToyEnv(num_envs=16, **changes)


def toy_config(updates: int = UPDATES) -> PPOConfig:
    """Small networks, every part of the learner in use."""
    actor = ActorConfig(hidden=(16,), learning_rate=3e-3, learning_rate_bounds=(1e-4, 1e-2), noise_falls_after_s=1.5)
    return PPOConfig(total_steps=updates * 8 * 16, unroll=8, minibatches=2, epochs=2, actor=actor)


def run(folder: Path, resume: bool = False, pause_s: float = 0.0) -> TrainResult:
    """Trains into the folder, with the host callback that the native engine has too."""

    def pause(_: Moment) -> None:
        time.sleep(pause_s)

    return train(
        toy_env(callback=True),
        toy_config(),
        folder,
        seed=3,
        resume=resume,
        identity=IDENTITY,
        hooks=(pause,),
        options=OPTIONS,
    )


def main() -> int:
    """0 when the training is done, 130 when a signal stopped it."""
    result = run(Path(sys.argv[1]), "resume" in sys.argv, PAUSE_S * ("pause" in sys.argv))
    return 0 if result.finished else 130


if __name__ == "__main__":
    run_command(main)
