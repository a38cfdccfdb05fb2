"""One process of a data-parallel training; writes what was learnt. `test_distributed.py` starts it.

Arguments: environment (`toy` or `walking`; `run` trains the toy into the run folder FILE.run, twice as long if that
exists), file to write, number of processes, index of this one, port of process 0.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np

from mjx_exo.learning import parallel, trainer
from mjx_exo.learning.config import ActorConfig, PPOConfig
from mjx_exo.learning.ppo import PPO

ENVS, UPDATES = 8, 2
CONFIG = PPOConfig(
    total_steps=4000, unroll=4, epochs=2, minibatches=2, actor=ActorConfig(hidden=(16, 16), noise_falls_after_s=0.0)
)


def environment(name: str, mesh):
    """The environment under test, on a mesh or on one device."""
    if name == "toy":
        from toy_env import ToyEnv

        return ToyEnv(num_envs=ENVS)
    from mjx_exo.musculoskeletal.compiled import compile_body
    from mjx_exo.musculoskeletal.wearer import WearerRange, draw_wearers
    from mjx_exo.physics.mjx import MjxEngine
    from mjx_exo.walking.config import WalkingConfig
    from mjx_exo.walking.env import WalkingEnv

    wearers = draw_wearers(2, WearerRange(), 0)
    engine = MjxEngine(compile_body("myolegs26"), ENVS, wearers, mesh=mesh)
    return WalkingEnv(WalkingConfig(num_envs=ENVS, wearers=2, engine="mjx"), engine)


def main(name: str, file: str, processes: int, index: int, port: str) -> None:
    """Trains a little and writes actors and losses."""
    if processes > 1:
        parallel.join_processes(f"localhost:{port}", processes, index)
    mesh = parallel.device_mesh(ENVS)
    if name == "run":
        run(Path(file), mesh)
        return
    env = environment(name, mesh)
    if mesh is None:
        ppo = PPO(env, CONFIG)
        init, rollout, update = (jax.jit(f) for f in (ppo.init, ppo.rollout, ppo.update))
    else:
        training = parallel.ParallelTraining(env, CONFIG, mesh)
        init, rollout, update = training.init, training.rollout, training.update
    state = init(jax.random.key(0))
    for _ in range(UPDATES):
        state, batch = rollout(state)
        state, stats = update(state, batch)
    on = len(jax.tree.leaves(state.env.observation)[0].sharding.device_set)
    write(file, {"actors": state.actors, "stats": stats}, on)


def run(file: Path, mesh) -> None:
    """Trains the toy by `trainer.train`, with checkpoints, in a run folder that may hold a run to go on with."""
    folder = file.with_suffix(".run")
    resume = (folder / "config.json").exists()
    parallel.heard(mesh, True)  # nobody trains before everybody has looked
    config = dataclasses.replace(CONFIG, total_steps=ENVS * CONFIG.unroll * UPDATES * (2 if resume else 1))
    placed = []

    def look(moment: trainer.Moment) -> None:
        placed.append(len(moment.state.env.position.sharding.device_set))

    env = environment("toy", mesh)
    options = trainer.RunOptions(checkpoint_every_updates=1)
    result = trainer.train(env, config, folder, resume=resume, mesh=mesh, hooks=(look,), options=options)
    assert result.finished and result.updates == UPDATES * (2 if resume else 1)
    learnt = {"actors": result.state.actors, "episodes": result.state.episodes, "position": result.state.env.position}
    write(str(file), learnt, placed[-1] if placed else 0)


def write(file: str, learnt, devices_used) -> None:
    """Everything learnt by the path of its leaf, written by process 0."""
    flat = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(learnt)}
    if jax.process_index() == 0:
        np.savez(file, **flat, devices=len(jax.devices()), devices_used=devices_used)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
