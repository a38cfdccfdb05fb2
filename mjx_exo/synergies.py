"""`python -m mjx_exo.synergies extract activations.csv`: muscle synergies out of walking data; `compare` two bases.

With `--policy RUN` the data are what a trained policy's muscles do while it walks. Either way the file that is written
can be trained with: `python -m mjx_exo.train --walking.synergies FILE`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from mjx_exo.errors import UserError, run_command
from mjx_exo.musculoskeletal.synergy_extraction import ExtractionSettings
from mjx_exo.musculoskeletal.synergy_files import read_activations, read_synergies
from mjx_exo.synergy_rollouts import Walk

PUBLISHED = "published"


@dataclasses.dataclass(frozen=True)
class Extract:
    """Extract muscle synergies, one basis for both legs, from a CSV of activations or from a policy's own walking.

    The CSV has a header line: time_s, then <muscle>_r and <muscle>_l for every muscle. Writes the synergies as JSON and
    a figure (PNG) beside it; with --policy the activations, too, as such a CSV.
    """

    activations: tyro.conf.Positional[Path | None] = None
    """CSV with columns time_s, <muscle>_r, <muscle>_l, …"""
    policy: str | None = None
    """Instead of a CSV: a run folder, policy folder or pretrained name; best one trained on raw muscles."""
    walk: Walk = dataclasses.field(default_factory=Walk)
    out: Path | None = None
    """Where to write the synergies (JSON); by default <name of the data>_synergies.json in the current folder."""
    exclude: tuple[str, ...] = ()
    """Muscles to leave out, without side: for example trunk muscles, which are driven directly."""
    settings: tyro.conf.OmitArgPrefixes[ExtractionSettings] = dataclasses.field(default_factory=ExtractionSettings)


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare two bases: best one-to-one matching by cosine similarity, beside what shuffled muscles give.

    Bases on different bodies are compared by muscle group.
    """

    first: tyro.conf.Positional[str]
    """A synergy file, or `published` for the published modules."""
    second: tyro.conf.Positional[str] = PUBLISHED
    """A synergy file, or `published`."""
    json: Path | None = None
    """Write the result to this file."""
    figure: Path | None = None
    """Write a picture of the matched synergies (PNG) to this file."""


Command = Annotated[Extract, tyro.conf.subcommand("extract")] | Annotated[Compare, tyro.conf.subcommand("compare")]


def run_extract(command: Extract) -> None:
    """Reads, extracts, writes the artefact and its figure, and says what was found."""
    from mjx_exo.gait.files import write_bytes, write_json
    from mjx_exo.musculoskeletal.synergy_extraction import extract
    from mjx_exo.musculoskeletal.synergy_figures import extraction_figure, png

    if (command.activations is None) == (command.policy is None):
        given = "neither" if command.policy is None else "both"
        raise UserError(f"a CSV of activations or --policy RUN: {given} given; allowed: one of the two")
    data = command.activations
    if data is None:
        data = _walk(command)
    activations = read_activations(data, command.exclude)
    rate_hz = (len(activations.time_s) - 1) / (activations.time_s[-1] - activations.time_s[0])
    print(f"{data}: {len(activations.muscles)} muscles per leg, {len(activations.time_s)} samples at {rate_hz:.4g} Hz")
    extraction = extract(activations, command.settings, lambda line: print(f"  {line}", flush=True))
    synergies = extraction.synergies
    out = command.out or Path(f"{data.stem}_synergies.json")
    picture = out.with_suffix(".png")
    write_json(out, synergies.to_dict())
    write_bytes(picture, png(extraction_figure(extraction)))

    print(f"{len(synergies.names)} synergies account for {100 * synergies.vaf:.1f} % of the variance")
    if synergies.selection:
        print(
            f"  cross-validation asks for {synergies.selection['by_cross_validation']}, "
            f"{command.settings.vaf:.0%} of variance for {synergies.selection['by_vaf']}"
        )
    for name, column in zip(synergies.names, synergies.weights.T, strict=True):
        largest = sorted(zip(synergies.muscles, column, strict=True), key=lambda pair: -pair[1])
        print(f"  {name}: " + ", ".join(f"{muscle} {weight:.2f}" for muscle, weight in largest if weight >= 0.2))
    print(f"wrote {out} and {picture}")


def _walk(command: Extract) -> Path:
    """Lets the policy walk and writes its activations; returns the CSV."""
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.gait.files import write_text
    from mjx_exo.synergy_rollouts import walk_activations

    use_jax_cache()
    assert command.policy is not None
    name = Path(command.policy).name if command.out is None else command.out.stem
    data = (Path() if command.out is None else command.out.parent) / f"{name}_activations.csv"
    text, walked = walk_activations(command.policy, command.walk)
    write_text(data, text)
    print(f"{command.policy}: {walked}")
    return data


def run_compare(command: Compare) -> None:
    """Reads both bases, matches them and prints the pairs; writes what was asked for."""
    from mjx_exo.gait.files import write_bytes, write_json
    from mjx_exo.musculoskeletal.synergy_extraction import common_rows, match, published_synergies
    from mjx_exo.musculoskeletal.synergy_figures import comparison_figure, png

    files = {name: read_synergies(name) for name in (command.first, command.second) if name != PUBLISHED}
    bases = []
    for name, other in ((command.first, command.second), (command.second, command.first)):
        if name in files:
            bases.append((files[name].names, files[name].muscles, files[name].weights))
        else:
            from mjx_exo.conventions import MUSCLE_GROUPS

            muscles = files[other].muscles if other in files else MUSCLE_GROUPS
            names, weights = published_synergies(muscles)
            bases.append((names, muscles, weights))
    (names_a, muscles_a, weights_a), (names_b, muscles_b, weights_b) = bases
    rows, rows_a, rows_b = common_rows(muscles_a, weights_a, muscles_b, weights_b)
    result = match(names_a, rows_a, names_b, rows_b, rows)

    print(f"{command.first} ({len(names_a)}) and {command.second} ({len(names_b)}) on {len(rows)} muscles or groups")
    for name_a, name_b, cosine in result.pairs:
        print(f"  {name_a:24} {name_b:24} {cosine:.3f}")
    print(
        f"mean cosine {result.mean_cosine:.3f}; with shuffled muscles {result.chance_cosine:.3f}, "
        f"95th percentile {result.chance_cosine_p95:.3f}"
    )
    if command.json:
        write_json(command.json, dataclasses.asdict(result))
        print(f"wrote {command.json}")
    if command.figure:
        weights = [(rows_a[:, names_a.index(a)], rows_b[:, names_b.index(b)]) for a, b, _ in result.pairs]
        write_bytes(command.figure, png(comparison_figure(rows, weights, result)))
        print(f"wrote {command.figure}")


def main() -> None:
    """Parses the command line and runs the command it names."""
    command = tyro.cli(Command, prog="python -m mjx_exo.synergies", description=__doc__)
    if isinstance(command, Extract):
        run_extract(command)
    else:
        run_compare(command)


if __name__ == "__main__":
    run_command(main)
