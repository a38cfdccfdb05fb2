"""Synergy extraction: known factors are found, files are checked, bases are matched, the command holds together."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mjx_exo import synergies as command
from mjx_exo.conventions import MUSCLE_GROUPS
from mjx_exo.errors import UserError, run_command
from mjx_exo.musculoskeletal import synergy_extraction as se
from mjx_exo.musculoskeletal import synergy_files as sf
from mjx_exo.musculoskeletal.bodies import BODIES
from mjx_exo.musculoskeletal.synergy import PUBLISHED_MODULES, synergy_basis

MUSCLES = ("abd", "glutmax", "vasti", "gastroc", "soleus", "fdl", "tibant", "edl", "rectfem")
# Three modules, every muscle in at least one, every module in several muscles.
TRUE = np.array([
    [1.0, 0, 0], [0.8, 0, 0], [0.9, 0, 0.2], [0, 1.0, 0], [0.1, 0.9, 0], [0, 0.7, 0.1], [0, 0, 1.0], [0, 0, 0.8],
    [0.5, 0, 0.6],
])  # fmt: skip


def walking(seconds=8.0, noise=0.01, seed=0):
    """Activations [T, 2, M] of a gait whose strides vary, driven by the TRUE modules, left half a stride late."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(0.0, seconds, 0.02)
    size = 0.5 + 0.15 * np.sin(2 * np.pi * time_s / np.array([[3.0], [4.3], [5.1]]))

    def leg(offset):
        phase = (time_s / 1.1 + offset) % 1.0
        distance = (phase - np.array([[0.1], [0.45], [0.75]]) + 0.5) % 1.0 - 0.5
        return (TRUE @ (size * np.exp(-0.5 * (distance / 0.09) ** 2))).T

    values = np.stack([leg(0.0), leg(0.5)], axis=1)
    return time_s, np.clip(values + noise * rng.standard_normal(values.shape), 0.0, None)


def activations(**kwargs):
    time_s, values = walking(**kwargs)
    return sf.Activations(time_s, MUSCLES, values, "hash")


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "walk.csv"
    path.write_text(sf.activations_csv(walking()[0], MUSCLES, walking()[1]))
    return path


def test_vaf_by_hand():
    matrix = np.array([[3.0, 4.0], [0.0, 0.0]])
    guess = np.array([[3.0, 3.0], [0.0, 0.0]])
    assert se.variance_accounted_for(matrix, guess) == pytest.approx(1 - 1 / 25)
    by_muscle = se.variance_accounted_for(matrix, guess, axis=1)
    assert by_muscle[0] == pytest.approx(0.96) and np.isnan(by_muscle[1])


def test_known_modules_are_found_and_counted():
    extraction = se.extract(activations(), se.ExtractionSettings(max_number=6))
    found = extraction.synergies
    assert found.selection["by_cross_validation"] == 3 and len(found.names) == 3
    result = se.match(found.names, found.weights, ("a", "b", "c"), TRUE, MUSCLES)
    assert min(cosine for _, _, cosine in result.pairs) > 0.98
    assert result.mean_cosine > result.chance_cosine_p95 > result.chance_cosine
    assert found.vaf > 0.98 and np.all(found.vaf_by_muscle > 0.95)
    np.testing.assert_allclose(found.weights.max(axis=0), 1.0)


def test_predicting_held_out_blocks_gets_worse_with_too_many_synergies():
    scores = se.extract(activations(noise=0.05), se.ExtractionSettings(max_number=6)).synergies.selection
    assert np.all(np.diff(scores["vaf"]) > -1e-3)  # fitted VAF only ever grows
    assert int(np.argmax(scores["held_out_vaf_mean"])) + 1 == 3
    assert scores["held_out_vaf_mean"][5] < scores["held_out_vaf_mean"][2] - 0.01


def test_one_basis_serves_both_legs():
    extraction = se.extract(activations(), se.ExtractionSettings(number=3))
    assert extraction.activations.shape == (3, 400, 2)
    for side in (0, 1):
        rebuilt = (extraction.synergies.weights @ extraction.activations[:, :, side]).T
        np.testing.assert_allclose(rebuilt, activations().values[:, side], atol=0.08)


def test_a_larger_number_is_taken_where_the_variance_asks_for_it():
    careful = se.extract(activations(), se.ExtractionSettings(max_number=6, vaf=0.999)).synergies
    assert careful.selection["by_vaf"] > 3 and len(careful.names) == careful.selection["by_vaf"]


def test_peak_scaling_keeps_weights_in_activation_units():
    data = activations()
    weak = sf.Activations(data.time_s, MUSCLES, data.values * np.where(np.arange(9) == 0, 0.1, 1.0), "hash")
    scaled = se.extract(weak, se.ExtractionSettings(number=3, scaling="peak"))
    rebuilt = np.einsum("mk,kts->tsm", scaled.synergies.weights, scaled.activations)
    np.testing.assert_allclose(rebuilt, weak.values, atol=0.08)
    assert scaled.synergies.vaf_by_muscle[0] > 0.9


def test_extraction_repeats_exactly_and_thins_long_recordings():
    settings = se.ExtractionSettings(number=3, max_samples=300)
    first, second = (se.extract(activations(), settings).synergies for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    assert first.data["thinned_by"] == 3 and first.data["samples_per_leg"] == 134


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (se.ExtractionSettings(number=10), "number of synergies 10 is not between 1 and the 9 muscles"),
        (se.ExtractionSettings(folds=1), "folds at least 2"),
        (se.ExtractionSettings(vaf=1.5), "vaf 1.5 is not between 0 and 1"),
        (se.ExtractionSettings(folds=100), "400 samples are too few; at least 1000"),
    ],
)
def test_settings_that_do_not_fit_the_data(settings, message):
    with pytest.raises(UserError, match=message):
        se.extract(activations(), settings)


def test_silent_data_are_refused():
    data = activations()
    with pytest.raises(UserError, match="every activation is zero"):
        se.extract(sf.Activations(data.time_s, MUSCLES, 0 * data.values, ""), se.ExtractionSettings(number=2))


def test_csv_round_trip_keeps_sides_apart(csv_file):
    data = sf.read_activations(csv_file, exclude=("fdl",))
    assert data.muscles == tuple(m for m in MUSCLES if m != "fdl") and len(data.sha256) == 64
    kept = [MUSCLES.index(m) for m in data.muscles]
    np.testing.assert_allclose(data.values, walking()[1][:, :, kept], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("t,a_r,a_l\n0,1,1\n", "no column 'time_s'"),
        ("time_s,a_r\n0,1\n", "'a_r' has no counterpart 'a_l'"),
        ("time_s,soleus\n0,1\n", "'soleus' is neither time_s nor a muscle"),
        ("time_s,a_r,a_l,a_r\n0,1,1,1\n", "'a_r' appears twice"),
        ("time_s\n0\n", "no muscle columns"),
        ("time_s,a_r,a_l\n0,1,1\n0.1,x,1\n", "line 3: a_r = 'x' is not a number"),
        ("time_s,a_r,a_l\n0,1,1\n0.1,nan,1\n", "line 3: a_r = nan is not a finite number"),
        ("time_s,a_r,a_l\n0,1,-0.5\n", "line 2: a_l = -0.5 is not a finite number of at least 0"),
        ("time_s,a_r,a_l\n0,1\n", "line 2: 2 values, the header has 3"),
        ("time_s,a_r,a_l\n0,1,1\n0,1,1\n", "line 3: time_s 0 does not rise"),
        ("time_s,a_r,a_l\n0,1,1\n", "1 rows of data"),
    ],
)
def test_bad_activations_are_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        sf.read_activations(path)
    assert message in str(error.value) and "bad.csv" in str(error.value) and "\n" not in str(error.value)


def test_binary_and_missing_files_and_unknown_exclusions(tmp_path, csv_file):
    binary = tmp_path / "x.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match="not a CSV"):
        sf.read_activations(binary)
    with pytest.raises(UserError, match="cannot be read"):
        sf.read_activations(tmp_path / "none.csv")
    with pytest.raises(UserError, match="no muscle 'psoas' to exclude"):
        sf.read_activations(csv_file, exclude=("psoas",))


def artefact():
    return se.extract(activations(), se.ExtractionSettings(number=3)).synergies


def test_artefact_round_trip(tmp_path):
    before = artefact()
    path = tmp_path / "s.json"
    path.write_text(json.dumps(before.to_dict()))
    after = sf.read_synergies(path)
    np.testing.assert_array_equal(after.weights, before.weights)
    assert after.to_dict() == before.to_dict()
    assert after.to_dict()["format_version"] == 1 and after.data["sha256"] == "hash"
    np.testing.assert_array_equal(after.weights_for(["soleus", "abd"]), before.weights[[4, 0]])
    with pytest.raises(UserError, match="no weights for psoas"):
        after.weights_for(["soleus", "psoas"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a synergy file"),
        ({"format_version": 2}, "format_version 2 cannot be read; this version reads 1"),
        ({"weights": [[1.0]]}, r"expected 9 muscles × 3 synergies"),
        ({"weights": "x"}, "wrong type"),
        ({"weights": (-TRUE).tolist()}, "not negative"),
        ({"muscles": None}, "wrong type"),
    ],
)
def test_damaged_artefacts_are_named(change, message):
    with pytest.raises(UserError, match=message):
        sf.synergies_from_dict(artefact().to_dict() | change, "s.json")
    missing = artefact().to_dict()
    del missing["vaf"]
    with pytest.raises(UserError, match="'vaf' is missing"):
        sf.synergies_from_dict(missing, "s.json")


def test_matching_by_hand():
    # Columns of b are those of a swapped, one tilted by 60°: cosines 1 and 0.5, and no worse pairing is taken.
    a = np.eye(3)[:, :2]
    b = np.stack([[0, 0.5, np.sqrt(0.75)], [2.0, 0, 0]], axis=1)
    result = se.match(("a1", "a2"), a, ("b1", "b2"), b, ("x", "y", "z"))
    assert [pair[:2] for pair in result.pairs] == [("a1", "b2"), ("a2", "b1")]
    np.testing.assert_allclose([pair[2] for pair in result.pairs], [1.0, 0.5])
    assert result.mean_cosine == pytest.approx(0.75)


def test_bases_of_different_bodies_are_compared_by_muscle_group():
    small = tuple(MUSCLE_GROUPS)
    large = tuple(BODIES["myolegs"].muscle_groups)
    names, weights_small = se.published_synergies(small)
    _, weights_large = se.published_synergies(large)
    rows, a, b = se.common_rows(small, weights_small, large, weights_large)
    assert set(rows) == set(MUSCLE_GROUPS)
    result = se.match(names, a, names, b, rows)
    assert result.mean_cosine == pytest.approx(1.0) and all(x == y for x, y, _ in result.pairs)
    with pytest.raises(UserError, match="'biceps' belongs to no known muscle group"):
        se.group_of("biceps")
    with pytest.raises(UserError, match="share 1 muscles"):
        se.common_rows(("soleus",), np.ones((1, 1)), ("soleus", "vasti"), np.ones((2, 1)))


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["synergies", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        run_command(command.main)
    return exit_.value.code


def test_command_extracts_and_compares(monkeypatch, capsys, tmp_path, csv_file):
    out, figure, result = tmp_path / "sub" / "s.json", tmp_path / "c.png", tmp_path / "c.json"
    assert run(monkeypatch, "extract", csv_file, "--out", out, "--max-number", 4, "--folds", 3) == 0
    said = capsys.readouterr().out
    assert "9 muscles per leg, 400 samples at 50 Hz" in said and "cross-validating 4 of 4" in said and str(out) in said
    assert sf.read_synergies(out).data["sha256"] == sf.read_activations(csv_file).sha256
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"

    assert run(monkeypatch, "compare", out, "published", "--json", result, "--figure", figure) == 0
    assert "M2 push-off" in capsys.readouterr().out
    best = json.loads(result.read_text())["pairs"][0]
    assert best[1] in ("M1 weight acceptance", "M2 push-off", "M3 foot clearance") and best[2] > 0.9
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert run(monkeypatch, "compare", out, out) == 0
    assert "mean cosine 1.000" in capsys.readouterr().out


def test_command_names_a_mistake_in_one_line_and_leaves_nothing(monkeypatch, capsys, tmp_path):
    bad, out = tmp_path / "bad.csv", tmp_path / "s.json"
    bad.write_text("time_s,a_r\n0,1\n")
    assert run(monkeypatch, "extract", bad, "--out", out) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "bad.csv" in lines[0] and "'a_l'" in lines[0]
    assert not out.exists()
    assert run(monkeypatch, "compare", tmp_path / "none.json") == 2


# ---------------------------------------------------------------- training with what was extracted


def stored(path, muscles, weights):
    """A synergy file that holds these weights."""
    weights = np.asarray(weights, float)
    names = tuple(f"S{i + 1}" for i in range(weights.shape[1]))
    known = sf.Synergies(names, tuple(muscles), weights, 0.95, np.ones(len(muscles)), {}, {}, {"vaf": 0.9})
    path.write_text(json.dumps(known.to_dict()))
    return path


def test_an_extracted_file_is_a_basis_to_train_with(body, tmp_path):
    from mjx_exo.walking.build import build_environment
    from mjx_exo.walking.config import WalkingConfig

    backwards = MUSCLE_GROUPS[::-1]
    file = stored(tmp_path / "mine.json", backwards, [[0.1 * (i + 1), 1.0, i == 3] for i in range(13)])
    basis = synergy_basis(str(file), body)
    assert basis.names == ("S1", "S2", "S3") and basis.size == 3
    order = [backwards.index(m) for m in body.leg.paths.muscles]
    np.testing.assert_allclose(basis.weights[:, 0], (1.0 + np.array(order)) / 13.0)
    env = build_environment(WalkingConfig(num_envs=2, synergies=str(file), threads=1))
    assert env.human_action_size == 6
    action = np.zeros((2, 6), np.float32)
    action[1, 5] = 1.0  # the third synergy of the left leg holds one muscle
    raised = np.asarray(env.human_actions.excitation(action))
    moved = [body.muscle_names[i] for i in np.flatnonzero(raised[1] != raised[0])]
    assert moved == [f"{backwards[3]}_l"]


def test_a_muscle_group_may_leave_its_synergies_where_it_is_given_the_freedom(body):
    from mjx_exo.walking.build import build_environment
    from mjx_exo.walking.config import WalkingConfig

    task = WalkingConfig(num_envs=2, threads=1, clock_freedom=0.03)
    tied, free = (
        build_environment(dataclasses.replace(task, muscle_freedom=freedom)).human_actions for freedom in (0.0, 0.5)
    )
    groups = free.muscle_groups
    assert sorted(groups) == sorted(MUSCLE_GROUPS) and free.size == tied.size + 2 * len(groups)
    rng, leads = np.random.default_rng(0), np.array([False, True])  # in the second environment the left leg
    action = np.zeros((2, free.size), np.float32)
    action[:, : tied.size] = rng.normal(size=tied.size)
    same = (free.ordered(action, leads), tied.ordered(action[:, : tied.size], leads))
    plain = np.asarray(free.excitation(same[0]))
    np.testing.assert_allclose(plain, tied.excitation(same[1]))
    np.testing.assert_allclose(free.clock_bend(same[0]), tied.clock_bend(same[1]))
    action[:, tied.size + groups.index("glutmax")] = 0.3  # of the leading leg
    raised = np.asarray(free.excitation(free.ordered(action, leads)))
    changed = [[body.muscle_names[i] for i in np.flatnonzero(row)] for row in np.abs(raised - plain) > 1e-6]
    assert changed == [["glutmax_r"], ["glutmax_l"]]
    assert np.ptp(raised - plain, axis=1) == pytest.approx(0.5 * 0.5 * 0.3, abs=1e-5)


def test_synergies_of_another_body_are_taken_over_by_muscle_group(tmp_path):
    large = BODIES["myolegs_abdomen"]
    muscles = [*large.muscle_groups, *large.trunk_muscles]
    group = np.array([MUSCLE_GROUPS.index(large.muscle_groups[m]) if m in large.muscle_groups else 0 for m in muscles])
    file = stored(tmp_path / "large.json", muscles, np.stack([group / 12.0, np.ones(len(muscles))], 1))
    leg = SimpleNamespace(paths=SimpleNamespace(muscles=MUSCLE_GROUPS))
    small = SimpleNamespace(name="small", leg=leg, muscle_groups=MUSCLE_GROUPS)
    np.testing.assert_allclose(synergy_basis(str(file), small).weights[:, 0], np.arange(13) / 12.0, atol=1e-12)


@pytest.mark.parametrize(
    ("muscles", "weights", "message"),
    [
        (MUSCLES, TRUE, "no weights for the add muscles of body myolegs26"),
        (MUSCLE_GROUPS, [[1.0, 0.0]] * 13, "synergy S2 moves no leg muscle"),
        (("biceps", "soleus"), [[1.0], [1.0]], "'biceps' belongs to no known muscle group"),
    ],
)
def test_synergies_that_do_not_fit_a_body_are_refused(body, tmp_path, muscles, weights, message):
    with pytest.raises(UserError, match=message):
        synergy_basis(str(stored(tmp_path / "s.json", muscles, weights)), body)


def test_unknown_synergies_and_missing_files_are_told_apart(body, tmp_path):
    with pytest.raises(UserError, match=r"unknown synergies 'none'; known: published, raw, or a synergy file"):
        synergy_basis("none", body)
    with pytest.raises(UserError, match=r"gone\.json: cannot be read"):
        synergy_basis(str(tmp_path / "gone.json"), body)


def test_a_policys_own_walking_gives_its_synergies_back(monkeypatch, capsys, tmp_path):
    """The pretrained walker was trained on the published modules: what it uses of them is found in its muscles."""
    out, result = tmp_path / "walker.json", tmp_path / "compared.json"
    arguments = ["--walk.trials", 2, "--walk.seconds", 5, "--number", 5, "--out", out]
    assert run(monkeypatch, "extract", "--policy", "teacher", *arguments) == 0
    assert "2 of 2 walks without a fall, 1.25 m/s" in capsys.readouterr().out
    found = sf.read_synergies(out)
    data = sf.read_activations(tmp_path / "walker_activations.csv")
    assert found.data["sha256"] == data.sha256 and data.values.shape == (2 * 150, 2, 13)
    assert found.vaf > 0.9
    assert run(monkeypatch, "compare", out, "published", "--json", result) == 0
    compared = json.loads(result.read_text())
    assert len(compared["pairs"]) == 5 and {pair[1] for pair in compared["pairs"]} <= set(PUBLISHED_MODULES)
    assert compared["mean_cosine"] > max(0.85, compared["chance_cosine_p95"])


def test_what_cannot_be_walked_is_said_before_walking(monkeypatch, capsys, csv_file):
    from mjx_exo.synergy_rollouts import Walk, walk_activations

    for change, named in (({"trials": 0}, "trials 0"), ({"seconds": 3.0}, "seconds 3"), ({"speeds": ()}, "speeds")):
        with pytest.raises(UserError, match=named):
            walk_activations("teacher", dataclasses.replace(Walk(), **change))
    assert run(monkeypatch, "extract") == 2 and run(monkeypatch, "extract", csv_file, "--policy", "teacher") == 2
    said = capsys.readouterr().err
    assert "neither given" in said and "both given" in said
