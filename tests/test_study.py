"""The study: the same human learning in every arm, statistics against arms made by hand, and the whole command once."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mjx_exo.errors import UserError
from mjx_exo.presets import QUICK, WALK
from mjx_exo.study import __main__ as command
from mjx_exo.study import arms, checks, compare, plateau, report, summary, tuning, walk

CELLS = tuple((speed, slope) for slope in (0.0, 4.0) for speed in (0.8, 1.0, 1.2, 1.4))
ARMS = ("none", "worn", "assisted", "bursts")
WEARERS = 6
TRUE = {"none": 0.0, "worn": -4.0, "assisted": 8.0, "bursts": 3.0}  # reduction against none, %


def cost(speed: float, slope: float) -> float:
    """Everything costs this much, at this speed; strongly rising, so that a slow arm would look thrifty."""
    return 2.0 + 1.5 * speed + 0.1 * slope


def made_up_rows(seeds=4, slower=None, growth=0.0, falls=(), wearers=WEARERS):
    """Trials of arms whose true reductions are `TRUE` (+ `growth` per m/s for the assisted arm) at equal speed.

    slower: arm → how much slower than the others it walks, m/s. falls: (seed, arm, cell, wearer) that fall.
    """
    rows = []
    for seed in range(seeds):
        for arm in ARMS:
            for c, (command_speed, slope) in enumerate(CELLS):
                for wearer in range(wearers):
                    row = {"seed": seed, "arm": arm, "cell": c, "speed_command_m_s": command_speed,
                           "slope_deg": slope, "wearer": wearer, "fell": (seed, arm, c, wearer) in falls}  # fmt: skip
                    if not row["fell"]:
                        speed = command_speed - (slower or {}).get(arm, 0.0)
                        percent = TRUE[arm] + (growth * (speed - 1.1) if arm == "assisted" else 0.0)
                        value = cost(speed, slope) * (1 - percent / 100) * (1 + 0.1 * wearer) * (1 + seed)
                        row |= dict.fromkeys(compare.MEASURES.values(), value)
                        row |= {"speed_m_s": speed, "cot_J_kg_m": value / speed, "cadence_steps_min": 110.0,
                                "trunk_lean_deg": 3.0, "exo_positive_share": 0.95,
                                "exo_positive_power_W_kg": 0.19, "exo_negative_power_W_kg": -0.01}  # fmt: skip
                    rows.append(row)
    return rows


def gathered(rows, seeds=4, wearers=WEARERS):
    return compare.gather(rows, range(seeds), ARMS, CELLS, wearers)


def profiles(seeds=4, lag_percent=10):
    """A torque that repeats a quarter of the hip moment later in the cycle, in a stride of 1 s."""
    cycle = np.arange(101)
    moment = np.sin(2 * np.pi * cycle / 100) + 0.3 * np.cos(4 * np.pi * cycle / 100)
    late = 0.25 * np.interp((cycle - lag_percent) % 100, cycle, moment)
    return {
        (s, arm, c): walk.Profile(late if arm not in ("none", "worn") else 0 * late, moment, 1.0)
        for s in range(seeds) for arm in ARMS for c in range(len(CELLS))
    }  # fmt: skip


def plan(**changes):
    return dataclasses.replace(arms.Plan(WALK, "walker", 3, "hip_3200g", 600_000), **changes)


# ------------------------------------------------------------------ arms


def test_the_human_learns_the_same_in_every_arm():
    listed = arms.stages(plan())
    learning = arms.learning_of(listed, plan().arms)
    arms.check_same_human(learning)
    assert set(learning) == {"none", "worn", "assisted", *arms.REFERENCE_ARMS}
    humans = {name: [arms.human_settings(c) for c in configs] for name, configs in learning.items()}
    assert all(human == humans["none"] for human in humans.values())
    # Two trainings, the budget between them, one schedule of the step size, strict from the start.
    first, second = learning["assisted"]
    total = first.ppo.total_steps + second.ppo.total_steps
    assert total == 600_000
    for config in (first, second):
        rate = config.ppo.of("human").learning_rate
        assert config.ppo.of("human").learning_rate_bounds == (rate, rate)
        assert config.ppo.of("human").rate_fall_share == (arms.RATE_FALL_SHARE if config is second else 0.0)
        assert config.walking.curriculum.start_episode_s == 0 and config.walking.curriculum.rise_updates == 1
        assert config.walking.loose == WALK.walking.loose
        paid = dataclasses.replace(WALK.walking.strict, metabolic=arms.METABOLIC, effort=arms.EFFORT)
        assert config.walking.strict == paid  # effort counts for more; everything else is the walker's


def test_everybody_looks_as_far_ahead_as_the_walker_did_and_the_device_no_further_than_it_acts():
    far = WALK.ppo.of("human").discount
    for stage in arms.stages(plan()):
        human, exo = stage.config.ppo.of("human"), stage.config.ppo.of("exo")
        assert human.discount == far
        assert 0.02 / (1.0 - exo.discount) < 0.5  # s, decisions being 20 ms apart


def test_a_study_asks_for_walking_within_what_its_walker_was_asked():
    own = WALK.walking.command
    for stage in arms.stages(plan()):
        asked = stage.config.walking.command
        assert asked.speed_m_s == arms.SPEED_M_S and asked.slope_rad == arms.SLOPE_RAD
        assert asked.stand_share < own.stand_share and asked.resample_s > own.resample_s
        assert asked.push_n == own.push_n and asked.aside_m == own.aside_m
    quick = arms.stages(plan(base=QUICK))[0].config.walking.command  # knows one speed, no slope, no standing
    assert quick == QUICK.walking.command


def test_only_the_device_learns_on_a_steady_person_and_mass_comes_first():
    listed = arms.stages(plan())
    names = [stage.name for stage in arms.chain(listed, "assisted")]
    assert names == ["habituation_worn", "assisted_steady", "assisted"]
    modes = [stage.config.walking.device_mode for stage in arms.chain(listed, "assisted")]
    assert modes == ["worn", "active", "active"]
    steady = next(stage for stage in listed if stage.name == "assisted_steady")
    assert not steady.human_learns and steady.config.ppo.of("human").frozen and not steady.config.ppo.of("exo").frozen
    for name in arms.REFERENCE_ARMS:
        assert [s.name for s in arms.chain(listed, name)] == ["habituation_worn", name]


def test_a_walker_that_comes_as_a_policy_alone_learns_first_what_its_walk_is_worth():
    listed = arms.stages(plan(value_function=False))
    names = [stage.name for stage in arms.chain(listed, "assisted")]
    assert names == ["value_function", "habituation_worn", "assisted_steady", "assisted"]
    assert arms.chain(listed, "none")[0] is listed[0] and not listed[0].human_learns
    # Nobody's human learns there, so it is no part of what the arms have to have in common.
    brought = arms.learning_of(arms.stages(plan()), arms.MAIN_ARMS)
    assert arms.learning_of(listed, arms.MAIN_ARMS) == brought


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda c: dataclasses.replace(c, ppo=dataclasses.replace(c.ppo, total_steps=2 * c.ppo.total_steps)), "total"),
        (
            lambda c: dataclasses.replace(
                c, walking=dataclasses.replace(
                    c.walking, strict=dataclasses.replace(c.walking.strict, effort=-9.0))),
            "effort",
        ),
        (
            lambda c: dataclasses.replace(
                c, ppo=dataclasses.replace(
                    c.ppo, actors={"human": dataclasses.replace(c.ppo.of("human"), learning_rate=1e-3)})),
            "learning_rate",
        ),
        (lambda c: dataclasses.replace(c, walking=dataclasses.replace(c.walking, wearer_seed=9)), "wearer_seed"),
    ],
)  # fmt: skip
def test_an_arm_whose_human_learns_differently_is_refused_by_name(spoil, named):
    learning = arms.learning_of(arms.stages(plan()), arms.MAIN_ARMS)
    learning["assisted"][-1] = spoil(learning["assisted"][-1])
    with pytest.raises(UserError, match=named) as caught:
        arms.check_same_human(learning)
    assert "assisted" in str(caught.value)


def test_an_arm_whose_human_learns_once_more_is_refused():
    learning = arms.learning_of(arms.stages(plan()), arms.MAIN_ARMS)
    learning["assisted"].append(learning["assisted"][-1])
    with pytest.raises(UserError, match="3 trainings"):
        arms.check_same_human(learning)


def test_wearers_of_the_evaluation_are_strangers():
    walking = WALK.walking
    walk.check_held_out(walking, walk.WalkSettings(CELLS))
    with pytest.raises(UserError, match="same people"):
        walk.check_held_out(dataclasses.replace(walking, wearers=1), walk.WalkSettings(CELLS, wearers=1))


# ------------------------------------------------------------------ tuning


def test_the_search_takes_the_cheapest_candidate_that_does_not_fall():
    rates = np.repeat([[3.0], [2.0], [2.5]], 20, axis=1)
    fell = np.zeros((3, 20), bool)
    fell[1, :4] = fell[2, 0] = True
    assert tuning.choose(np.where(fell, np.nan, rates), fell) == 2
    fell[0, :5] = True  # both fall too often now
    assert tuning.choose(np.where(fell, np.nan, rates)[:2], fell[:2]) == 1


def test_the_search_is_not_deceived_by_a_fall_where_walking_is_costly():
    rates = np.linspace(3.0, 9.0, 20) + np.array([[0.0], [0.1]])
    fell = np.zeros((2, 20), bool)
    fell[1, -1] = True
    rates[fell] = np.nan
    assert np.nanmean(rates[1]) < rates[0].mean() and tuning.choose(rates, fell) == 0


def test_candidates_take_turns_over_the_environments():
    spread = tuning.spread_candidates("delayed_feedback", 20)
    gains, delays = np.asarray(spread.gain_nm_kg), np.asarray(spread.delay_s)
    assert gains.shape == (20,) and len({*zip(gains.tolist(), delays.tolist(), strict=True)}) == 9
    assert gains[0] == gains[9] == gains[18] and delays[0] == delays[9]


# ------------------------------------------------------------------ statistics


def test_known_reductions_are_recovered_with_intervals_around_them():
    rng = np.random.default_rng(0)
    rows = made_up_rows()
    for row in rows:
        factor = 1 + 0.002 * rng.standard_normal()
        row |= {m: row[m] * factor for m in compare.MEASURES.values()}
    result = summary.summarise(gathered(rows), profiles())
    for name in compare.ENDPOINTS:
        key = f"{name}_reduction_percent"
        assert result["primary"][f"{key}_low"] < 8.0 < result["primary"][f"{key}_high"]
        assert abs(result["primary"][key] - 8.0) < 0.3
    worn = result["assisted_against_worn"]["metabolic_reduction_percent"]
    assert abs(worn - 100 * (1 - 0.92 / 1.04)) < 0.3
    assert abs(result["price_of_the_worn_mass"]["metabolic_reduction_percent"] + 4.0) < 0.3


def test_a_slower_arm_gains_nothing_from_being_slow():
    grid = gathered(made_up_rows(slower={"assisted": 0.04}))
    as_walked = 1 - grid.value("metabolic_W_kg", "assisted") / grid.value("metabolic_W_kg", "none")
    assert 100 * as_walked.mean() > 9.0
    found = compare.grid_average(compare.compare(grid, "none", "assisted"), "metabolic")
    assert abs(found.mean - 8.0) < 0.1


def test_a_single_speed_counts_only_where_the_arms_agree():
    speed, value = np.array([[1.2], [1.205]]), np.array([[4.0], [3.6]])
    np.testing.assert_array_equal(compare.at_equal_speed(speed, value), value)
    with pytest.raises(ValueError, match=r"0\.030 m/s"):
        compare.at_equal_speed(np.array([[1.2], [1.17]]), value)


def test_a_cell_with_falls_in_one_arm_goes_for_all_and_says_which_arm():
    falls = {(seed, "bursts", 2, 0) for seed in range(2)}  # 2 of 24 trials: 8 %
    grid = gathered(made_up_rows(falls=falls))
    assert list(np.flatnonzero(~grid.kept)) == [2]
    result = summary.summarise(grid, profiles())
    assert [(e["speed_command_m_s"], e["slope_deg"]) for e in result["excluded_cells"]] == [(1.2, 0.0)]
    assert "bursts" in result["excluded_cells"][0]["why"]
    assert all(
        not cell["kept"] for cell in result["cells"] if (cell["speed_command_m_s"], cell["slope_deg"]) == CELLS[2]
    )
    assert abs(result["primary"]["metabolic_reduction_percent"] - 8.0) < 0.05


def test_a_wearer_who_falls_in_one_arm_is_left_out_in_all():
    grid = gathered(made_up_rows(falls={(0, "assisted", 1, 5)}))  # the most expensive wearer; 1 of 24 is under 5 %
    assert grid.kept.all()
    value = grid.by_wearer["metabolic_W_kg"]
    assert np.isnan(value[0, :, 1, 5]).all() and np.isfinite(value[1:, :, 1, 5]).all()
    found = compare.grid_average(compare.compare(grid, "none", "assisted"), "metabolic")
    assert abs(found.mean - 8.0) < 0.05


def test_benefit_that_grows_with_speed_is_measured_within_slopes():
    grid = gathered(made_up_rows(growth=10.0))
    compared = compare.compare(grid, "none", "assisted")
    found = compare.benefit_per_m_s(grid, compared, compared.reduction["metabolic"])
    assert abs(found.mean - 10.0) < 0.2 and found.low > 0


def test_the_same_share_saved_of_a_costlier_walk_is_more():
    grid = gathered(made_up_rows())
    compared = compare.compare(grid, "none", "assisted")
    share = compare.benefit_per_m_s(grid, compared, compared.reduction["metabolic"])
    saving = compare.benefit_per_m_s(grid, compared, compared.saving["metabolic"])
    cost = compare.benefit_per_m_s(grid, compared, grid.value("metabolic_W_kg", "none"))
    assert abs(share.mean) < 0.2
    assert saving.low > 0 and abs(saving.mean - 0.08 * cost.mean) < 0.05 * cost.mean


def test_the_best_cell_is_chosen_on_other_seeds_than_it_is_reported_on():
    rows = made_up_rows()
    for row in rows:  # seeds 0 and 1 flatter the last cell; the others know better
        if row["arm"] == "assisted" and row["cell"] == 7 and row["seed"] < 2:
            row |= {m: 0.8 * row[m] for m in compare.MEASURES.values()}
    best = summary.summarise(gathered(rows), profiles())["best"]
    assert (best["speed_command_m_s"], best["slope_deg"]) == CELLS[7]
    assert best["chosen_on_seeds"] == [0, 1] and best["reported_on_seeds"] == [2, 3]
    assert abs(best["metabolic_reduction_percent"] - 8.0) < 0.05


def test_one_seed_gives_numbers_without_intervals():
    result = summary.summarise(gathered(made_up_rows(seeds=1), seeds=1), profiles(1))
    assert abs(result["primary"]["metabolic_reduction_percent"] - 8.0) < 0.05
    assert np.isnan(result["primary"]["metabolic_reduction_percent_low"])
    assert np.isnan(result["best"]["metabolic_reduction_percent"])


def test_wearers_who_all_fall_leave_an_empty_summary_and_no_crash(tmp_path):
    falls = {(s, a, c, w) for s in range(1) for a in ARMS for c in range(len(CELLS)) for w in range(WEARERS)}
    rows = made_up_rows(seeds=1, falls=falls)
    grid = gathered(rows, seeds=1)
    result = summary.summarise(grid, {})
    assert np.isnan(result["primary"]["metabolic_reduction_percent"])
    assert len(result["excluded_cells"]) == len(CELLS)
    assert report.write_report(tmp_path, grid, {}, rows, result).is_file()


def test_lags_and_shares_of_the_device():
    result = summary.summarise(gathered(made_up_rows()), profiles(lag_percent=12))
    assert abs(result["lag_extension_ms"] - 120) < 15 and abs(result["lag_flexion_ms"] - 120) < 15
    assert abs(result["exo_positive_share"] - 0.95) < 1e-6
    found = result["references"]["bursts"]
    assert abs(found["r_torque_with_assisted"] - 1.0) < 1e-9
    assert found["assisted_is_at_least_as_good"] is True and found["cells_where_it_is_better"] == []


def test_a_plateau_is_a_small_change_of_every_endpoint_over_trials_both_walked():
    def trials(metabolic=4.0, hip=0.02, fell=()):
        values = dict.fromkeys(compare.ENDPOINTS.values(), 2.0) | {"hip_activation_mean": hip, "speed_m_s": 1.2}
        # A trial of another size in the second place: whoever falls there must not change the means.
        rows = [{"fell": False} | values | {"metabolic_W_kg": size * metabolic} for size in (1.0, 50.0, 1.1)]
        return [{"fell": True} if i in fell else row for i, row in enumerate(rows)]

    flat = plateau.change(trials(), trials(metabolic=3.97, fell=(1,)))
    assert flat["reached"] and flat["trials"] == 2
    assert flat["relative_change"]["metabolic"] == pytest.approx(-0.0075)
    assert flat["fall_share_before_and_after"] == pytest.approx([0.0, 1 / 3])
    assert not plateau.change(trials(), trials(hip=0.0197))["reached"]
    assert not plateau.change(trials(), trials(fell=(0, 1, 2)))["reached"]


def test_the_last_fifth_is_of_all_a_human_learns_in_an_arm():
    plan = arms.Plan(WALK, "runs/walk", 0, "hip_3200g", 3_000_000, references=(), num_envs=512)
    listed = arms.stages(plan)
    ends = {arm: plateau.update_before(arms.chain(listed, arm)) for arm in arms.MAIN_ARMS}
    assert len(set(ends.values())) == 1
    whole = sum(config.ppo.updates(512) for config in arms.learning_of(listed, ["none"])["none"])
    own = listed[-1].config.ppo.updates(512)
    assert own - ends["none"] == round(0.2 * whole) and ends["none"] > 0


def test_summary_has_the_promised_keys_and_the_report_stands_alone(tmp_path):
    rows = made_up_rows()
    grid = gathered(rows)
    result = summary.summarise(grid, profiles())
    page = report.write_report(tmp_path, grid, profiles(), rows, result)
    stored = json.loads((tmp_path / "summary.json").read_text())
    wanted = ["activation", "hip_activation", "positive_power", "metabolic"]
    for part in ("primary", "best"):
        for name in wanted:
            for end in ("", "_low", "_high"):
                assert np.isfinite(stored[part][f"{name}_reduction_percent{end}"])
    for key in ("lag_extension_ms", "lag_flexion_ms", "exo_positive_share", "benefit_per_m_s"):
        assert np.isfinite(stored[key])
    assert {"benefit_per_m_s_low", "benefit_per_m_s_high"} <= set(stored)
    assert len(stored["cells"]) == len(ARMS) * len(CELLS)
    for cell in stored["cells"]:
        assert {"activation_mean", "hip_activation_mean", "positive_joint_power_W_kg", "metabolic_W_kg",
                "speed_m_s", "arm"} <= set(cell)  # fmt: skip
    text = page.read_text()
    assert 'src="data:image/png' in text and "http" not in text
    for name in ("cells.csv", "reductions.csv", "trials.csv", "torque.csv", "bars.png", "torque.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert "Muscle by muscle" not in text  # nobody measured any


def test_what_the_device_does_to_each_muscle_group(tmp_path):
    rows = made_up_rows(slower={"assisted": 0.05})
    for row in rows:
        if not row["fell"]:  # the vasti as everything else, the iliopsoas the other way round
            own = row["activation_mean"]
            row |= {f"{compare.ACTIVATION_OF}vasti": own, f"{compare.ACTIVATION_OF}iliopsoas": own**-1.0}
    grid = gathered(rows)
    assert grid.muscle_groups == ("vasti", "iliopsoas")
    result = summary.summarise(grid, profiles())
    found = result["muscle_groups"]
    for arm in ("worn", "assisted", "bursts"):
        mean = found["vasti"][f"{arm}_reduction_percent"]
        assert mean == pytest.approx(TRUE[arm], abs=0.1)
        assert found["vasti"][f"{arm}_reduction_percent_low"] <= mean + 1e-9
        share = found["vasti"][f"{arm}_saving"] / found["vasti"]["activation_none"]
        assert 100 * share == pytest.approx(TRUE[arm], abs=0.3)
        assert found["iliopsoas"][f"{arm}_reduction_percent"] == pytest.approx(
            100 * (1 - 1 / (1 - mean / 100)), abs=0.3
        )
    page = report.write_report(tmp_path, grid, profiles(), rows, result).read_text()
    assert "Across the hip: iliopsoas." in page and (tmp_path / "muscles.png").stat().st_size > 0


def test_half_the_step_is_judged_by_what_it_does_to_the_reductions(tmp_path):
    settings = walk.WalkSettings(((1.2, 0.0),), wearers=WEARERS, step_s=0.001)

    def walked(folder, seed, arm, asked, keep):
        factor = 1.0 - (0.04 if asked.step_s < settings.step_s else 0.03) * (arm == "assisted")
        measured = dict.fromkeys(compare.ENDPOINTS.values(), 2.0 * factor) | {"speed_m_s": 1.2, "fell": False}
        rows = [{"seed": seed, "arm": arm, "cell": 0, "wearer": w} | measured for w in range(WEARERS)]
        return walk.Walked(seed, arm, rows, [None])

    found = checks.step_check(tmp_path, [0, 1], settings, tmp_path, walked)
    moved = {"assisted_against_none": 1.0, "assisted_against_worn": 1.0, "worn_against_none": 0.0}
    assert found["reduction_change_points"]["metabolic"] == pytest.approx(moved)
    assert not found["fine"]

    def chance(folder, seed, arm, asked, keep):
        """The same people with the device, a percent up for one seed and down for the other."""
        result = walked(folder, seed, arm, dataclasses.replace(asked, step_s=settings.step_s), keep)
        if arm == "assisted" and asked.step_s < settings.step_s:
            for row in result.rows:
                row |= {m: row[m] * (1.01 - 0.02 * seed) for m in compare.ENDPOINTS.values()}
        return result

    noisy = checks.step_check(tmp_path, [0, 1], settings, tmp_path, chance)
    assert noisy["fine"] and not checks.step_check(tmp_path, [0], settings, tmp_path, chance)["fine"]
    by_seed = noisy["reduction_change_points_by_seed"]["metabolic"]["assisted_against_none"]
    assert by_seed[0] == pytest.approx(-by_seed[1]) and abs(by_seed[0]) > 0.9

    rows = made_up_rows()
    result = summary.summarise(gathered(rows), profiles())
    result["checks"] = {
        "physics_step": found,
        "plateaus": {f"seed{i}/worn": {"reached": i > 0, "relative_change": {"metabolic": -0.01 * i}} for i in (0, 1)},
    }
    page = report.write_report(tmp_path, gathered(rows), profiles(), rows, result).read_text()
    assert "1 of 2 trainings had not levelled off" in page and "metabolic -0.5 %" in page
    assert "moves reductions with the device by up to 1.00 points" in page
    assert "at least as good as bursts" in page


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--human", "no/such/run"], "no/such/run"),
        (["--seeds", "0,x"], "whole numbers"),
        (["--seeds", "1,1"], "different"),
        (["--human", "a", "b", "--seeds", "0,1,2"], "2 walkers for 3 seeds"),
        (["--references", "magic"], "delayed_feedback"),
        (["--speeds", "fast"], "--speeds"),
        (["--slopes", "40"], "--slopes"),
        (["--budget", "0"], "--budget"),
        (["--settle", "20"], "--settle"),
        (["--evaluate-only", "--out", "OUT"], "no trained arms"),
        (["--out", "OUT"], "--human"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments, named, tmp_path):
    arguments = [str(tmp_path) if word == "OUT" else word for word in arguments]
    with pytest.raises(UserError, match=named) as caught:
        command.main(arguments)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def walker(tmp_path_factory):
    """A person who has not learnt anything yet, saved as a policy."""
    import jax

    from mjx_exo.learning.checkpoint import Manifest
    from mjx_exo.learning.policy_file import export_policy
    from mjx_exo.learning.ppo import PPO
    from mjx_exo.presets import identity
    from mjx_exo.walking.build import build_environment

    walking = dataclasses.replace(QUICK.walking, num_envs=8, wearers=2)
    small = arms.ActorConfig(hidden=(16,))
    ppo = dataclasses.replace(QUICK.ppo, unroll=4, epochs=1, minibatches=1, actor=small)
    env = build_environment(walking)
    learner = PPO(env, ppo)
    settings = {"ppo": dataclasses.asdict(ppo), "walking": dataclasses.asdict(walking), "seed": 0}
    folder = tmp_path_factory.mktemp("walker")
    actors = jax.jit(learner.init)(jax.random.key(0)).actors
    export_policy(folder, learner, actors, Manifest(identity(walking), settings, {}, 0, 0, 0, 0.0))
    return folder


@pytest.fixture
def quick_compiles():
    """Nearly all of the small run's time is compiling; unoptimised programs compile in half of it."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_the_whole_command_small(walker, quick_compiles, tmp_path, capsys, monkeypatch):
    short = walk.WalkSettings(((1.25, 0.0),), wearers=2, seconds=1.0, settle_s=0.2, step_s=0.005)
    monkeypatch.setattr(plateau, "SETTINGS", short)
    out, copy = tmp_path / "study", tmp_path / "pretrained"
    asked = ["--human", str(walker), "--seeds", "4", "--budget", "96", "--references", "none", "--speeds", "1.25",
             "--slopes", "0", "--wearers", "2", "--seconds", "2", "--settle", "0.2", "--step-ms", "5",
             "--no-step-check", "--out", str(out)]  # fmt: skip
    assert command.main([*asked, "--json", str(tmp_path / "s.json"), "--export", str(copy)]) == 0
    stored = json.loads((tmp_path / "s.json").read_text())
    assert stored == json.loads((out / "summary.json").read_text())
    assert [cell["arm"] for cell in stored["cells"]] == ["none", "worn", "assisted"]
    assert stored["primary"]["metabolic_reduction_percent_low"] is None
    ended = stored["checks"]["plateaus"]
    assert set(ended) == {f"seed4/{arm}" for arm in ("none", "worn", "assisted")}
    assert ended["seed4/worn"] == json.loads((copy / "seed4" / "worn" / "plateau.json").read_text())
    assert (out / "report.html").is_file() and (copy / "seed4" / "assisted" / "policy.json").is_file()
    for stage in ("habituation_none", "habituation_worn", "assisted_steady", "none", "worn", "assisted"):
        rows = (out / "seed4" / stage / "log.jsonl").read_text().splitlines()
        expected = 2 if stage in ("none", "worn", "assisted") else 1
        assert len(rows) == expected
        rates = {json.loads(row)["human/learning_rate"] for row in rows}
        assert all(abs(rate / arms.LEARNING_RATE - 1) < 1e-6 for rate in rates)
    # Again: nothing is trained or walked twice; other settings are refused.
    before = {path: path.stat().st_mtime_ns for path in out.glob("seed4/*/policy/policy.npz")}
    assert command.main(asked) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("seed4/*/policy/policy.npz")}
    other = [word if word != "96" else "192" for word in asked]
    with pytest.raises(UserError, match="total_steps"):
        command.main(other)
