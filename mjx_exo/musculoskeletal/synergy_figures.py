"""Pictures of synergies: what each one holds, when it is active, how many there are, and how two bases agree."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mjx_exo.musculoskeletal.synergy_extraction import Extraction, Match

RIGHT, LEFT, FITTED, HELD_OUT = "#1f6f8b", "#e07a3f", "#555555", "#1f6f8b"
SHOWN_S = 4.0  # of the activations


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def extraction_figure(extraction: Extraction) -> Figure:
    """Weights and activations of every synergy; below, VAF against number of synergies and by muscle."""
    synergies = extraction.synergies
    count = len(synergies.names)
    figure = Figure(figsize=(12, 1.15 * count + 4.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.15 * count + 0.9, 3.7])
    axes = top.subplots(count, 2, squeeze=False, width_ratios=[1.2, 1], sharex="col")
    shown = extraction.time_s <= extraction.time_s[0] + SHOWN_S
    positions = np.arange(len(synergies.muscles))
    for row, name in enumerate(synergies.names):
        bars, traces = axes[row]
        bars.bar(positions, synergies.weights[:, row], color=RIGHT, width=0.75)
        bars.set(ylim=(0, 1.08), yticks=(0, 1))
        bars.set_ylabel(name, rotation=0, ha="right", va="center", fontweight="bold")
        for side, colour, label in ((0, RIGHT, "right"), (1, LEFT, "left")):
            time_s, activation = extraction.time_s[shown], extraction.activations[row, shown, side]
            traces.plot(time_s, activation, color=colour, lw=1.3, label=label)
        traces.set_ylim(bottom=0)
        for axis in (bars, traces):
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_title("weight of each muscle, both legs", loc="left")
    axes[0, 1].set_title("activation of the synergy", loc="left")
    axes[0, 1].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, ncols=2, fontsize=8)
    _label_muscles(axes[-1, 0], synergies.muscles)
    axes[-1, 1].set_xlabel("time (s)")

    number, muscles = bottom.subplots(1, 2, width_ratios=[1, 1.2])
    _number_axis(number, extraction)
    muscles.bar(positions, np.nan_to_num(synergies.vaf_by_muscle), color=RIGHT, width=0.75)
    muscles.axhline(synergies.vaf, color=FITTED, lw=1, ls="--")
    muscles.set(ylim=(0, 1.02), ylabel="VAF by muscle")
    muscles.set_title(f"all muscles (dashed): {synergies.vaf:.3f}", loc="right", fontsize=9)
    _label_muscles(muscles, synergies.muscles)
    for axis in (number, muscles):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def comparison_figure(rows: Sequence[str], pairs: Sequence[tuple[NDArray, NDArray]], result: Match) -> Figure:
    """Matched synergies side by side; `pairs` are their weights on `rows`, in the order of `result.pairs`."""
    figure = Figure(figsize=(9, 1.1 * len(pairs) + 1.8), layout="constrained")
    axes = figure.subplots(len(pairs), 1, squeeze=False, sharex=True)[:, 0]
    positions = np.arange(len(rows))
    for axis, (first, second), (name_a, name_b, cosine) in zip(axes, pairs, result.pairs, strict=True):
        axis.bar(positions - 0.2, first / max(first.max(), 1e-12), width=0.38, color=RIGHT)
        axis.bar(positions + 0.2, second / max(second.max(), 1e-12), width=0.38, color=LEFT)
        axis.set(ylim=(0, 1.08), yticks=(0, 1))
        axis.set_title(f"{name_a} (blue) and {name_b} (orange): cosine {cosine:.2f}", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    _label_muscles(axes[-1], rows)
    figure.suptitle(
        f"mean cosine {result.mean_cosine:.2f}; shuffled muscles {result.chance_cosine:.2f} "
        f"(95th percentile {result.chance_cosine_p95:.2f})",
        fontsize=10,
    )
    return figure


def _number_axis(axis, extraction: Extraction) -> None:
    selection, chosen = extraction.synergies.selection, len(extraction.synergies.names)
    if not selection:
        axis.plot([chosen], [extraction.synergies.vaf], "o", color=FITTED, label="fitted")
    else:
        numbers = selection["numbers"]
        axis.plot(numbers, selection["vaf"], "o-", color=FITTED, ms=4, label="fitted")
        axis.errorbar(
            numbers,
            selection["held_out_vaf_mean"],
            selection["held_out_vaf_se"],
            color=HELD_OUT,
            marker="s",
            ms=4,
            capsize=2,
            label="held-out times and muscles (± SE)",
        )
        axis.set_ylim(max(-0.2, min(selection["held_out_vaf_mean"]) - 0.1), 1.02)
    axis.axhline(extraction.synergies.settings["vaf"], color="#999999", lw=0.8, ls=":")
    axis.axvline(chosen, color=LEFT, lw=1.2, label=f"chosen: {chosen}")
    axis.set(xlabel="number of synergies", ylabel="VAF")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="lower center", fontsize=8)


def _label_muscles(axis, muscles: Sequence[str]) -> None:
    axis.set_xticks(np.arange(len(muscles)), muscles, rotation=60, ha="right", fontsize=8 if len(muscles) <= 20 else 6)
