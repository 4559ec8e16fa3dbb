"""What a report shows of predicted masks: their scores film by film, and the worst ones."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real

from cxrjax.evaluation import plots
from cxrjax.metrics.segmentation import SCORES

COLORS = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73")  # of Okabe & Ito, as in `plots`


def write_scores(
    path: pathlib.Path,
    ids: Sequence[str],
    structures: Sequence[str],
    scores: Mapping[str, Mapping[str, Float[np.ndarray, "n m"]]],
    mark: str = "",
) -> None:
    """One row per film with a mask, network and structure: its Dice, IoU and HD95.

    Args:
      path: of the CSV file.
      ids: of the films.
      structures: names of the M structures.
      scores: {network: {'dice', 'iou', 'hd95': [N, M]}}.
      mark: a column of its own, if not ''.
    """
    note = [mark] * bool(mark)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "network", "structure", *SCORES, *["note"] * bool(mark)])
        for network, own in scores.items():
            for i in np.flatnonzero(~np.isnan(own["dice"]).all(axis=1)):
                for j, structure in enumerate(structures):
                    figures = (repr(float(own[k][i, j])) for k in SCORES)
                    writer.writerow([ids[i], network, structure, *figures, *note])


def worst_first(dice: Float[np.ndarray, "n m"]) -> np.ndarray:
    """Positions of the films with a mask by rising Dice (mean over the structures)."""
    known = np.flatnonzero(~np.isnan(dice).any(axis=1))
    return known[np.argsort(dice[known].mean(axis=1), kind="stable")]


def plot(
    path: pathlib.Path,
    captions: Sequence[str],
    images: Real[np.ndarray, "n h w 1"],
    truth: Bool[np.ndarray, "n h w m"],
    answer: Bool[np.ndarray, "n h w m"],
    structures: Sequence[str],
    title: str,
    mark: str = "",
) -> None:
    """Film, truth and prediction of each film, two films a row; the truth is outlined in both.

    Where films were seen in training, `mark` is written below them.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    films, white = len(captions), 255 if images.dtype == np.uint8 else 1
    rows = -(-films // 2)
    figure = Figure(figsize=(13, 0.6 + 2.45 * rows), layout="constrained")
    axes = figure.subplots(rows, 6, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for i in range(films):
        panels = axes[i // 2, 3 * (i % 2) : 3 * (i % 2) + 3]
        for ax, what, shown in zip(panels, ("", "truth", "prediction"), (None, truth, answer)):
            ax.imshow(images[i, ..., 0], cmap="gray", vmin=0, vmax=white)
            ax.set_title(what or captions[i], fontsize=7)
            if shown is None:
                continue
            for j in range(len(structures)):
                color = COLORS[j % len(COLORS)]
                _fill(ax, shown[i, ..., j], color)
                if truth[i, ..., j].any():
                    ax.contour(truth[i, ..., j], levels=[0.5], colors="white", linewidths=0.8)
    handles = [Rectangle((0, 0), 1, 1, color=COLORS[j % len(COLORS)], alpha=0.5, label=s)
               for j, s in enumerate(structures)]
    handles.append(Line2D([], [], color="0.7", label="outline of the truth"))
    figure.legend(handles=handles, loc="outside upper right", fontsize=8, frameon=False,
                  ncols=len(handles))
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    plots.save(figure, path, 110, mark)


def _fill(ax: Any, mask: np.ndarray, color: str) -> None:
    from matplotlib.colors import to_rgb

    rgba = np.zeros((*mask.shape, 4))
    rgba[mask] = (*to_rgb(color), 0.35)
    ax.imshow(rgba)


def captions(
    ids: Sequence[str], structures: Sequence[str], dice: Float[np.ndarray, "n m"]
) -> list[str]:
    """'film: lungs 0.91, heart 0.85' for each film."""
    return [
        f"{film}\n" + ", ".join(f"{s} {d:.3f}" for s, d in zip(structures, row))
        for film, row in zip(ids, dice)
    ]
