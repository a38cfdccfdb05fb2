"""A walker of one body, handed over to another: what is the same in both moves the same muscles."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo import train
from mjx_exo.errors import UserError
from mjx_exo.learning.policy_file import load_policy
from mjx_exo.teacher import PRETRAINED
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.config import WalkingConfig
from mjx_exo.walking.other_body import handed_over, input_names


@pytest.fixture(scope="module")
def walkers():
    base = WalkingConfig(num_envs=1, threads=1, clock_freedom=0.03)
    return tuple(build_environment(dataclasses.replace(base, body=body)) for body in ("myolegs26", "myolegs"))


@pytest.fixture(scope="module")
def policy():
    return load_policy(PRETRAINED / "walker")


def observed(names, values):
    return jnp.asarray([values.get(name, 0.7) for name in names], jnp.float32)


def test_a_body_with_more_muscles_answers_alike_where_both_feel_the_same(walkers, policy):
    few, many = walkers
    old, new = input_names(few), input_names(many)
    assert [name for name in dict.fromkeys(new) if name not in old] == [
        (feature, side, "subtalar_inversion")
        for feature in ("leg_angles", "leg_velocities")
        for side in ("right", "left")
    ]
    wide = dataclasses.replace(policy, arrays={"human": handed_over(policy.arrays["human"], few, many)})
    seen = dict(zip(old, np.random.default_rng(0).normal(size=len(old)), strict=True))
    alike = np.asarray(wide.act("human", observed(new, seen)))  # the ankle's new joint at 0.7 rad: not listened to yet
    assert alike == pytest.approx(np.asarray(policy.act("human", observed(old, seen))), abs=1e-4)
    seen[("activation", "right", "vasti")] += 0.5
    assert not np.allclose(alike, wide.act("human", observed(new, seen)), atol=1e-3)


def test_one_muscle_of_a_group_counts_for_its_part(walkers, policy):
    few, many = walkers
    names = input_names(many)
    group = [i for i, name in enumerate(names) if name == ("activation", "left", "vasti")]
    assert len(group) == 3
    kernel = handed_over(policy.arrays["human"], few, many)["params"]["params"]["MLP_0"]["hidden_0"]["kernel"]
    before = policy.arrays["human"]["params"]["params"]["MLP_0"]["hidden_0"]["kernel"]
    one = np.asarray(before)[input_names(few).index(("activation", "left", "vasti"))]
    assert kernel[group].sum(axis=0) == pytest.approx(one, abs=1e-6)


def test_a_body_that_is_moved_otherwise_is_refused_in_one_line(policy, walkers):
    other = build_environment(WalkingConfig(num_envs=1, threads=1, synergies="raw"))
    with pytest.raises(UserError, match=r"\(7, 0, \(\)\) and \(13, 0, \(\)\); they must be the same"):
        handed_over(policy.arrays["human"], walkers[0], other)


def test_training_goes_on_from_a_walker_of_another_body(tmp_path, capsys):
    sizes = ["--walking.num-envs", "16", "--ppo.total-steps", "512", "--ppo.unroll", "16"]
    small = ["--preset", "walk", "--walking.body", "myolegs", "--no-check", *sizes]
    assert train.main([*small, "--from", "walker", "--out", str(tmp_path)]) == 0
    assert "handed over from myolegs26 to myolegs" in capsys.readouterr().out
    learned = load_policy(tmp_path / "policy", {"body": "myolegs"})
    assert learned.description["actors"]["human"]["observation_size"] == 144
