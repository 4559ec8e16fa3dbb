"""The curves of a report: ROC and precision-recall with bootstrap bands, and the first picture.

matplotlib is imported where it draws, as in `plots`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.evaluation import plots
from cxrjax.metrics import ranking

Bands = Mapping[str, Mapping[str, Any] | None]
_AXES = {"roc": ("1 - specificity", "sensitivity"), "pr": ("recall", "precision")}
_FIGURE = {"roc": "AUROC", "pr": "AP"}


def plot_curves(
    path: pathlib.Path,
    labels: Float[np.ndarray, "n k"],
    ranks: Float[np.ndarray, "n k"],
    names: Sequence[str],
    kind: str,
    figures: Mapping[str, Mapping[str, Any]],
    found: Bands,
    mark: str = "",
) -> None:
    """ROC ('roc') or precision-recall ('pr') curves, a panel per label, with their bands.

    Args:
      path: of the picture.
      labels: of the films, NaN = unknown.
      ranks: what the films are ordered by.
      names: of the labels.
      kind: 'roc' or 'pr'.
      figures: {label: {'AUROC', 'AP': figure}}, as `figures.of_labels` gives them.
      found: {label: `bands.bands`}.
      mark: see `plots.save`.
    """
    figure, axes = plots.panels(names, *_AXES[kind])
    for k, (ax, name) in enumerate(zip(axes, names)):
        own = figures[name][_FIGURE[kind]]
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        if found.get(name) is None:
            ax.text(0.5, 0.5, "not judged", ha="center", va="center", fontsize=9, color="0.4")
            continue
        _curve(ax, labels[:, k], ranks[:, k], kind, found[name][kind])
        # Where no curve of a finding that is found runs: below the ROC, above a rare finding's PR.
        high = kind == "pr" and own["value"] < 0.5
        ax.text(0.97, 0.95 if high else 0.05, _words(own, _FIGURE[kind]), fontsize=7,
                ha="right", va="top" if high else "bottom", transform=ax.transAxes,
                bbox={"color": "white", "alpha": 0.75, "pad": 1.5, "linewidth": 0})
    plots.save(figure, path, 130, mark)


def _words(own: Mapping[str, Any], title: str) -> str:
    ends = f"\n{own['low']:.3f} to {own['high']:.3f}" if np.isfinite(own["low"]) else ""
    return (f"{title} {own['value']:.3f}{ends}\n{own['positives']:,} of {own['n']:,} positive")


def _curve(
    ax: Any, labels: np.ndarray, ranks: np.ndarray, kind: str, band: Mapping[str, Any],
    color: str = plots.COLORS[0], label: str | None = None,
) -> None:
    """One curve over its band; between two thresholds no precision is reached: steps."""
    if kind == "roc":
        x, y, _ = ranking.roc_curve(labels, ranks)
        ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    else:
        y, x, _ = ranking.precision_recall_curve(labels, ranks)
        ax.axhline(np.nanmean(labels), color="0.6", linestyle=":", linewidth=1)
    ax.fill_between(band["x"], band["low"], band["high"], color=color, alpha=0.2, linewidth=0)
    ax.plot(x, y, color=color, linewidth=1.4, label=label,
            drawstyle="default" if kind == "roc" else "steps-post")


def plot_front(
    path: pathlib.Path,
    labels: Float[np.ndarray, "n k"],
    ranks: Mapping[str, Float[np.ndarray, "n k"]],
    names: Sequence[str],
    networks: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Mapping[str, Any]],
    mark: str = "",
) -> None:
    """The first picture: every network's ROC curve with its band, and what the figure is made of.

    Of several findings the curve is the mean of theirs at each specificity, and beside it stands
    each finding's AUROC with its interval; of one finding its precision-recall curve.

    Args:
      path: of the picture.
      labels: of the films.
      ranks: of each network.
      names: of the labels shown.
      networks: {name: {label: figures}}.
      curves: {name: {'bands': {label: `bands.bands`}, 'mean': `bands.mean_band` or None}}.
      mark: see `plots.save`.
    """
    from matplotlib.figure import Figure

    judged = [n for n in names if any(own["bands"].get(n) for own in curves.values())]
    if not judged:
        return
    several = len(names) > 1
    tall = max(3.9, 0.26 * len(names) * max(1, 0.6 * len(networks)) + 0.9) if several else 3.9
    figure = Figure(figsize=(9.2, tall), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax, kind in ((left, "roc"), (right, "pr")):
        if kind == "pr" and several:
            continue
        ax.set(xlabel=_AXES[kind][0], ylabel=_AXES[kind][1], xlim=(0, 1), ylim=(0, 1.02))
        ax.set_aspect("equal", adjustable="box", anchor="N")
        for i, (network, own) in enumerate(curves.items()):
            color = plots.COLORS[i % len(plots.COLORS)]
            if not several and own["bands"].get(names[0]):
                _curve(ax, labels[:, 0], ranks[network][:, 0], kind,
                       own["bands"][names[0]][kind], color, network)
            elif own["mean"] is not None:
                band = own["mean"]
                ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
                ax.fill_between(band["x"], band["low"], band["high"], color=color, alpha=0.2,
                                linewidth=0)
                ax.plot(band["x"], band["y"], color=color, linewidth=1.6, label=network,
                        linestyle=plots.style(i)["linestyle"])
        if len(curves) > 1:
            ax.legend(fontsize=8, frameon=False, loc="lower right" if kind == "roc" else "best")
    left.set_title(f"ROC, mean of {len(judged)} findings" if several else f"ROC, {names[0]}",
                   fontsize=10)
    if several:
        _forest(right, names, networks)
    else:
        right.set_title(f"Precision-recall, {names[0]}", fontsize=10)
    plots.save(figure, path, 150, mark)


def _forest(
    ax: Any, names: Sequence[str], networks: Mapping[str, Mapping[str, Any]]
) -> None:
    """Each finding's AUROC with its interval, a row per finding."""
    most, lowest = len(networks), 0.5
    for i, (network, own) in enumerate(networks.items()):
        for k, name in enumerate(names):
            f = own[name]["AUROC"]
            if np.isnan(f["value"]):
                continue
            lowest = min(lowest, f["low"] - 0.02)
            place = k + (i - (most - 1) / 2) * 0.7 / most
            ax.errorbar(f["value"], place, xerr=[[f["value"] - f["low"]], [f["high"] - f["value"]]],
                        color=plots.COLORS[i % len(plots.COLORS)], marker="os^Dv"[i % 5],
                        markersize=4, linewidth=1.2, capsize=2, label=network if not k else None)
    ax.axvline(0.5, color="0.6", linestyle=":", linewidth=1)
    ax.set_yticks(range(len(names)), [n.replace("_", " ") for n in names], fontsize=8)
    ax.set(ylim=(len(names) - 0.4, -0.6), xlim=(max(0.0, lowest), 1.0), xlabel="AUROC")
    ax.set_title("AUROC by finding, 95% intervals", fontsize=10)
