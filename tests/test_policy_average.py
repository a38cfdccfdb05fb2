"""Policies that grew out of one another become one: same inputs, averaged parameters, nothing for strangers."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.average import main
from mjx_exo.errors import UserError
from mjx_exo.learning.checkpoint import Manifest
from mjx_exo.learning.policy_average import average_policies
from mjx_exo.learning.policy_file import Policy, export_policy, load_policy, write_policy
from mjx_exo.learning.ppo import PPO
from tests.toy_training import IDENTITY, toy_config, toy_env

OBSERVATION = np.asarray(jax.random.normal(jax.random.key(1), (9, 2)))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("average") / "first"
    ppo = PPO(toy_env(), toy_config())
    state = ppo.init(jax.random.key(0))
    export_policy(folder, ppo, state.actors, Manifest(IDENTITY, {}, {}, 0, 1, 500, 0.0))
    return folder


def changed(policy: Policy, **human) -> Policy:
    """The same policy with other arrays of its human actor."""
    return dataclasses.replace(policy, arrays={**policy.arrays, "human": {**policy.arrays["human"], **human}})


def last_layer(policy: Policy, bias: float) -> Policy:
    params = policy.arrays["human"]["params"]["params"]
    layer = {**params["Dense_0"], "bias": params["Dense_0"]["bias"] + bias}
    return changed(policy, params={"params": {**params, "Dense_0": layer}})


def test_the_average_lies_in_the_middle(stored: Path) -> None:
    policy = load_policy(stored)
    middle = average_policies([last_layer(policy, 0.4), last_layer(policy, -0.2)], ["a", "b"])
    expected = policy.act("human", OBSERVATION) + 0.1
    np.testing.assert_allclose(middle.act("human", OBSERVATION), expected, atol=1e-6)
    angle = OBSERVATION[:, :1]
    np.testing.assert_allclose(middle.act("exo", angle), policy.act("exo", angle), atol=1e-6)


def test_a_normaliser_that_has_moved_on_changes_nothing(stored: Path) -> None:
    """Two policies that compute the same with different normalisers average to what both compute."""
    policy = load_policy(stored)
    human = policy.arrays["human"]
    mean, std = human["mean"] + jnp.array([0.3, -0.5]), human["std"] * jnp.array([1.7, 0.6])
    first = human["params"]["params"]["MLP_0"]["hidden_0"]
    kernel = first["kernel"] * (std / human["std"])[:, None]
    bias = first["bias"] + ((mean - human["mean"]) / human["std"]) @ first["kernel"]
    params = human["params"]["params"]
    moved = {"params": {**params, "MLP_0": {**params["MLP_0"], "hidden_0": {"kernel": kernel, "bias": bias}}}}
    later = changed(policy, params=moved, mean=mean, std=std)
    np.testing.assert_allclose(later.act("human", OBSERVATION), policy.act("human", OBSERVATION), atol=1e-5)
    for order in ([policy, later], [later, policy]):
        average = average_policies(order, ["a", "b"])
        np.testing.assert_allclose(average.act("human", OBSERVATION), policy.act("human", OBSERVATION), atol=1e-5)
        np.testing.assert_array_equal(average.arrays["human"]["mean"], order[1].arrays["human"]["mean"])


def test_the_command_writes_a_policy_that_says_what_it_is_made_of(stored: Path, tmp_path: Path, capsys) -> None:
    write_policy(tmp_path / "second", last_layer(load_policy(stored), 1.0))
    out = tmp_path / "average"
    assert main([str(stored), str(tmp_path / "second"), "--out", str(out)]) == 0
    average = load_policy(out, {"body": "toy"})
    expected = load_policy(stored).act("human", OBSERVATION) + 0.5
    np.testing.assert_allclose(average.act("human", OBSERVATION), expected, atol=1e-6)
    assert [part["name"] for part in average.description["averaged_from"]] == [str(stored), str(tmp_path / "second")]
    assert str(out) in capsys.readouterr().out
    with pytest.raises(UserError, match="holds a policy already"):
        main([str(stored), str(tmp_path / "second"), "--out", str(out)])


def test_strangers_and_a_single_policy_are_refused(stored: Path) -> None:
    policy = load_policy(stored)
    other = dataclasses.replace(policy, description={**policy.description, "identity": {"body": "myolegs"}})
    with pytest.raises(UserError, match="a and b cannot be averaged: their identity differ"):
        average_policies([policy, other], ["a", "b"])
    freer = {**policy.description, "settings": {"walking": {"muscle_freedom": 0.3}}}
    with pytest.raises(UserError, match="their muscle_freedom differ"):
        average_policies([policy, dataclasses.replace(policy, description=freer)], ["a", "b"])
    with pytest.raises(UserError, match="at least two"):
        average_policies([policy], ["a"])
