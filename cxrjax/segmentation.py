"""Scores, tables and pictures of predicted masks.

A pixel is called part of a structure where its logit is above 0. Every score belongs to one film
and one structure; films without a mask have NaN and count nowhere.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Float32, Real

from cxrjax import bootstrap, metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

_SCORES = {"dice": metrics.dice, "iou": metrics.iou, "hd95": metrics.hausdorff95}
TITLES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95 (pixels)"}
COLORS = ("tab:cyan", "tab:orange", "tab:pink", "tab:olive")


def score_batch(
    batch: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    figures: Sequence[str] = tuple(_SCORES),
) -> dict[str, np.ndarray]:
    """A network's outputs with scores f64[B, M] in place of `mask_logits`, for `predict_all`.

    Logits of every pixel of every film would not fit into memory; their scores do.

    Args:
      batch: {mask [B, H, W, M], has_mask bool[B], ...}.
      outputs: of one network; without mask_logits they come back as they are.
      figures: which of 'dice', 'iou', 'hd95'.
    """
    out = {k: v for k, v in outputs.items() if k != "mask_logits"}
    if "mask_logits" not in outputs:
        return out
    known, answer = np.asarray(batch["has_mask"], bool), outputs["mask_logits"] > 0
    for figure in figures:
        out[figure] = np.full((len(known), answer.shape[-1]), np.nan)
        if known.any():
            out[figure][known] = _SCORES[figure](np.asarray(batch["mask"])[known], answer[known])
    return out


def judge(
    scores: Mapping[str, Float[np.ndarray, "n m"]],
    structures: Sequence[str],
    counts: Float32[np.ndarray, "n r"],
    classes: Mapping[str, Bool[np.ndarray, " n"]] | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """The masks' part of a network's report.

    Args:
      scores: 'dice', 'iou' and 'hd95' of every film and structure, NaN where there is no mask.
      structures: names of the M structures.
      counts: how often each film is in each bootstrap resample (`bootstrap.resample`).
      classes: {label: which films have it}; each label with masks gets rows of its own.

    Returns:
      What joins 'macro' (means over the structures of means over the films, Dice with its
      interval), and {structure or 'structure, label': {films, Dice, Dice low, Dice high, ...}}.
    """
    groups = {"": np.ones(len(counts), bool), **(classes or {})}
    rows: dict[str, dict[str, Any]] = {}
    for j, structure in enumerate(structures):
        for label, members in groups.items():
            chosen = {k: np.where(members, v[:, j], np.nan) for k, v in scores.items()}
            films = int((~np.isnan(chosen["dice"])).sum())
            if not films and label:
                continue
            low, high = bootstrap.interval(bootstrap.mean(chosen["dice"], counts))
            rows[f"{structure}, {label}" if label else structure] = {
                "films": films, "Dice": metrics.mean_counted(chosen["dice"])[0],
                "Dice low": float(low), "Dice high": float(high),
                "IoU": metrics.mean_counted(chosen["iou"])[0],
                "HD95 (pixels)": metrics.mean_counted(chosen["hd95"])[0],
            }
    samples = np.stack([bootstrap.mean(d, counts) for d in scores["dice"].T])
    low, high = bootstrap.interval(samples.mean(axis=0))
    macro = {
        title: float(np.mean([rows[s][title] for s in structures])) for title in TITLES.values()
    }
    return {**macro, "Dice low": float(low), "Dice high": float(high)}, rows


def write_scores(
    path: pathlib.Path,
    ids: Sequence[str],
    structures: Sequence[str],
    scores: Mapping[str, Mapping[str, Float[np.ndarray, "n m"]]],
) -> None:
    """One row per film with a mask, network and structure: its Dice, IoU and HD95.

    Args:
      path: of the CSV file.
      ids: of the films.
      structures: names of the M structures.
      scores: {network: {'dice', 'iou', 'hd95': [N, M]}}.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "network", "structure", *_SCORES])
        for network, own in scores.items():
            for i in np.flatnonzero(~np.isnan(own["dice"]).all(axis=1)):
                for j, structure in enumerate(structures):
                    writer.writerow(
                        [ids[i], network, structure, *(repr(float(own[k][i, j])) for k in _SCORES)]
                    )


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
) -> None:
    """Film, truth and prediction of each film, two films a row; the truth is outlined in both."""
    films, white = len(captions), 255 if images.dtype == np.uint8 else 1
    rows = -(-films // 2)
    figure, axes = plt.subplots(
        rows, 6, figsize=(13, 0.6 + 2.45 * rows), layout="constrained", squeeze=False
    )
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
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLORS[j % len(COLORS)], alpha=0.5, label=s)
               for j, s in enumerate(structures)]
    handles.append(plt.Line2D([], [], color="0.7", label="outline of the truth"))
    figure.legend(handles=handles, loc="outside upper right", fontsize=8, frameon=False,
                  ncols=len(handles))
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _fill(ax: Any, mask: np.ndarray, color: str) -> None:
    rgba = np.zeros((*mask.shape, 4))
    rgba[mask] = (*matplotlib.colors.to_rgb(color), 0.35)
    ax.imshow(rgba)


def captions(
    ids: Sequence[str], structures: Sequence[str], dice: Float[np.ndarray, "n m"]
) -> list[str]:
    """'film: lungs 0.91, heart 0.85' for each film."""
    return [
        f"{film}\n" + ", ".join(f"{s} {d:.3f}" for s, d in zip(structures, row))
        for film, row in zip(ids, dice)
    ]
