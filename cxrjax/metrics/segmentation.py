"""Scores of predicted masks: Dice, IoU, Hausdorff distance.

A pixel is called part of a structure where its logit is above 0. Every score belongs to one film
and one structure; films without a mask have NaN and count nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Real
from scipy import ndimage

from cxrjax.metrics import _common, bootstrap

Masks = Bool[np.ndarray, "n h w m"] | Real[np.ndarray, "n h w m"]


def dice(truth: Masks, answer: Masks) -> np.ndarray:
    """Dice coefficient 2 |A.B| / (|A| + |B|) of each film and structure, f64[N, M].

    A pixel belongs to the structure if its value is above 0.5. Both masks empty: 1; one: 0.
    """
    a, b = truth > 0.5, answer > 0.5
    both, total = (a & b).sum(axis=(1, 2)), a.sum(axis=(1, 2)) + b.sum(axis=(1, 2))
    return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)


def iou(truth: Masks, answer: Masks) -> np.ndarray:
    """Intersection over union |A.B| / |A or B|, f64[N, M]; pixels and empty masks as in `dice`."""
    a, b = truth > 0.5, answer > 0.5
    both, either = (a & b).sum(axis=(1, 2)), (a | b).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def hausdorff95(truth: Masks, answer: Masks) -> np.ndarray:
    """95% Hausdorff distance in pixels of each film and structure, f64[N, M].

    The larger of two 95th percentiles: of the distances from each border pixel of one mask to the
    nearest border pixel of the other, and back (Huttenlocher et al. 1993 with the percentile in
    place of the maximum). Border pixels are those of the mask with one of their four neighbours
    outside it; beyond the film is outside. Both masks empty: 0. One empty: the film's diagonal, so
    that a structure missed altogether spoils the average as it should.
    """
    n, height, width, m = truth.shape
    result = np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            a, b = truth[i, :, :, j] > 0.5, answer[i, :, :, j] > 0.5
            if a.any() and b.any():
                result[i, j] = _surface_distance(a, b)
            elif a.any() or b.any():
                result[i, j] = np.hypot(height, width)
    return result


def _surface_distance(
    a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"], percentile: float = 95.0
) -> float:
    # Every border pixel lies in the box around both: the distance transform need not go further.
    box = ndimage.find_objects((a | b).astype(np.int8))[0]
    edge_a, edge_b = (
        x & ~ndimage.binary_erosion(x) for x in (np.pad(a[box], 1), np.pad(b[box], 1))
    )
    to_b = ndimage.distance_transform_edt(~edge_b)[edge_a]
    to_a = ndimage.distance_transform_edt(~edge_a)[edge_b]
    return float(max(np.percentile(to_b, percentile), np.percentile(to_a, percentile)))


SCORES = {"dice": dice, "iou": iou, "hd95": hausdorff95}
TITLES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95 (pixels)"}  # as reports call them


def score_batch(
    batch: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    figures: Sequence[str] = tuple(SCORES),
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
            out[figure][known] = SCORES[figure](np.asarray(batch["mask"])[known], answer[known])
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
                "films": films, "Dice": _common.mean_counted(chosen["dice"])[0],
                "Dice low": float(low), "Dice high": float(high),
                "IoU": _common.mean_counted(chosen["iou"])[0],
                "HD95 (pixels)": _common.mean_counted(chosen["hd95"])[0],
            }
    samples = np.stack([bootstrap.mean(d, counts) for d in scores["dice"].T])
    low, high = bootstrap.interval(samples.mean(axis=0))
    macro = {
        title: float(np.mean([rows[s][title] for s in structures])) for title in TITLES.values()
    }
    return {**macro, "Dice low": float(low), "Dice high": float(high)}, rows
