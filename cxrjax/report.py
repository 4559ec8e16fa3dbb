"""Reports: the figures of every network of a run as tables, curves and a list of predictions."""

from __future__ import annotations

import csv
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float
from scipy.special import expit, softmax

from cxrjax import bootstrap, losses, metrics

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

# How the figures of `metrics` are called in reports, and by `datasets/_published.py`.
_MACRO = {
    "accuracy": "accuracy", "macro_precision": "macro precision", "macro_recall": "macro recall",
    "macro_f1": "macro F1", "calibration_error": "ECE", "brier": "Brier",
}


def probabilities(logits: Float[np.ndarray, "n k"], task: str) -> Float[np.ndarray, "n k"]:
    """Sigmoids of multi-label logits, the softmax of one-of-N logits; float64."""
    logits = logits.astype(np.float64)
    return expit(logits) if task == "multilabel" else softmax(logits, axis=-1)


def quick_scores(
    labels: Float[np.ndarray, "n k"], logits: Float[np.ndarray, "n k"], task: str
) -> dict[str, float]:
    """What is watched in training: unweighted loss, macro AUROC, and accuracy for one-of-N."""
    scores = probabilities(logits, task)
    auroc = metrics.mean_counted(metrics.auroc(labels, scores))[0]
    answers, truth = jnp.asarray(logits), jnp.asarray(labels)
    if task == "multilabel":
        loss = losses.masked_mean(losses.bce(answers, truth), ~jnp.isnan(truth))
        return {"loss": float(loss), "auroc": auroc}
    accuracy = metrics.multiclass(labels, scores)["accuracy"]
    loss = float(jnp.mean(losses.softmax_ce(answers, truth)))
    return {"loss": loss, "auroc": auroc, "accuracy": accuracy}


def convergence(
    evaluations: Sequence[Mapping[str, Any]], steps_per_epoch: float | int
) -> dict[str, float]:
    """{network: the epoch after which its validation loss hardly ever falls below its best}.

    `metrics.convergence_epoch` over the evaluations, told in epochs. A network without any finite
    validation loss is left out.

    Args:
      evaluations: rows with `step` and 'val/<network>/loss'; other rows are passed over.
      steps_per_epoch: of the training.
    """
    found = {}
    names = dict.fromkeys(
        key.split("/")[1] for row in evaluations for key in row
        if key.startswith("val/") and key.endswith("/loss")
    )
    for name in names:
        rows = [row for row in evaluations if row.get(f"val/{name}/loss") is not None]
        losses = [row[f"val/{name}/loss"] for row in rows]
        if np.isfinite(losses).any():
            found[name] = rows[metrics.convergence_epoch(losses) - 1]["step"] / steps_per_epoch
    return found


def judge_network(
    labels: Float[np.ndarray, "n k"],
    logits: Float[np.ndarray, "n k"],
    val_labels: Float[np.ndarray, "m k"],
    val_logits: Float[np.ndarray, "m k"],
    names: Sequence[str],
    task: str,
    clusters: np.ndarray | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Every figure of one network on one split.

    Args:
      labels: NaN = unknown; one-hot for one-of-N.
      logits: of the network.
      val_labels: of the validation split, where thresholds are chosen (the highest F1).
      val_logits: of the network there.
      names: of the labels.
      task: 'multilabel' or 'multiclass'.
      clusters: patient (or group of duplicates) of each film: the bootstrap draws these. None
        draws films.
      resamples: of the bootstrap of the 95% intervals.

    Returns:
      {'macro': {figure: value}, 'per_label': {label: {figure: value}}} and, for one-of-N,
      'confusion' (truth by answer). What the films do not define is nan. Means are over the labels
      that have both kinds of films ('classes judged'); those of decisions (F1, sensitivity,
      specificity of multi-label) over those of them that have a threshold ('classes decided').
    """
    scores, val_scores = probabilities(logits, task), probabilities(val_logits, task)
    auroc = metrics.auroc(labels, scores)
    ap = metrics.average_precision(labels, scores)
    one = metrics.multiclass(labels, scores) if task == "multiclass" else {}
    thresholds = metrics.choose_thresholds(val_labels, val_scores, "f1")
    counted_at = metrics.at_thresholds(labels, scores, thresholds)
    # Of one-of-N the class of the highest probability is the answer, and no threshold is used.
    decided = metrics.class_scores(one["confusion"]) if one else counted_at
    counts = bootstrap.resample(len(labels), resamples, seed=0, cluster=clusters)
    samples = bootstrap.auroc(labels, scores, counts)
    means = bootstrap.over_labels(samples, auroc)
    low, high = bootstrap.interval(np.column_stack([samples, means]))
    per_label = {
        name: {
            "AUROC": auroc[k], "AUROC low": low[k], "AUROC high": high[k], "AP": ap[k],
            "F1": decided["f1"][k], "precision": decided["precision"][k],
            "sensitivity": decided["sensitivity"][k], "specificity": decided["specificity"][k],
            **({} if one else {"threshold": thresholds[k]}),
            "positives": int(counted_at["positives"][k]), "films": int(counted_at["films"][k]),
        }
        for k, name in enumerate(names)
    }
    mean, counted = metrics.mean_counted(auroc)
    judged = ~np.isnan(auroc)

    def over(values: np.ndarray, which: np.ndarray = judged) -> float:
        return metrics.mean_counted(np.where(which, values, np.nan))[0]

    macro = {
        "macro AUROC": mean, "macro AUROC low": low[-1], "macro AUROC high": high[-1],
        "classes judged": counted, "classes": len(names),
        "resamples": float(np.isfinite(means).mean()), "macro AP": over(ap),
    }
    out = {"macro": macro, "per_label": per_label}
    if one:
        macro.update({title: one[key] for key, title in _MACRO.items()})
        out["confusion"] = one["confusion"].tolist()
    else:
        known = judged & ~np.isnan(thresholds)
        macro["classes decided"] = int(known.sum())
        for key, title in (("f1", "F1"), ("sensitivity", "sensitivity"),
                           ("specificity", "specificity")):
            macro[f"macro {title}"] = over(decided[key], known)
        macro["Brier"] = over(metrics.brier(labels, scores))
        macro["ECE"] = over(metrics.calibration_error(labels, scores))
    return out


def write(
    folder: str | pathlib.Path,
    report: Mapping[str, Any],
    ids: Sequence[str],
    labels: Float[np.ndarray, "n k"],
    logits: Mapping[str, Float[np.ndarray, "n k"]],
    published: Sequence[Any] = (),
    clusters: Mapping[str, np.ndarray | None] | None = None,
) -> None:
    """Writes report.md, report.json, predictions.csv and the curves of every network.

    Args:
      folder: made where it is missing.
      report: {'run', 'labels', 'task', 'split', 'protocol', 'split_name', 'networks': {name:
        `judge_network`}}.
      ids: of the films.
      labels: of the films.
      logits: of every network.
      published: `datasets._published.Published` figures of the data set.
      clusters: {column: patient or group of each film}, for predictions.csv.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(finite(report), indent=1) + "\n")
    (folder / "report.md").write_text(markdown(report, published))
    scores = {n: probabilities(z, report["task"]) for n, z in logits.items()}
    write_predictions(
        folder / "predictions.csv", ids, report["labels"], scores, labels, clusters
    )
    for name, probs in scores.items():
        plot_curves(folder / f"roc_{name}.png", labels, probs, report["labels"], "roc")
        plot_curves(folder / f"pr_{name}.png", labels, probs, report["labels"], "pr")
        if "confusion" in report["networks"][name]:
            matrix = np.asarray(report["networks"][name]["confusion"])
            plot_confusion(folder / f"confusion_{name}.png", matrix, report["labels"], name)


def headline(report: Mapping[str, Any]) -> str:
    """One line a network: what a user looks for first."""
    lines = [f"{report['split']} split, {report['protocol']}"]
    for name, judged in report["networks"].items():
        m = judged["macro"]
        parts = [
            f"macro AUROC {number(m['macro AUROC'])} (95% {number(m['macro AUROC low'])} to "
            f"{number(m['macro AUROC high'])}; {m['classes judged']} of {m['classes']} classes)"
        ]
        parts += [f"{k} {number(m[k])}" for k in ("accuracy", "macro F1", "Dice") if k in m]
        lines.append(f"{name}: {', '.join(parts)}")
    return "\n".join(lines)


def markdown(report: Mapping[str, Any], published: Sequence[Any] = ()) -> str:
    """The report as a page; published figures only beside ours where the split is the same."""
    run = report["run"]
    lines = [
        f"# {report['split']} split of {run['workdir']}", "",
        f"- protocol: {report['protocol']}",
        f"- checkpoint: {run['checkpoint']}, step {run['step']}, epoch {run['epoch']:.1f}; seed "
        f"{run['seed']}; {run['image_size']} px; weights from {run['init_from'] or 'scratch'}",
        f"- trained with {', '.join(f'{k} {v}' for k, v in run['trained_with'].items())}",
        *_convergence_line(run),
        f"- films: {report['films']:,}; 95% intervals: {report['intervals']}",
        *([f"- {run['changed']}"] if run.get("changed") else []),
        *([f"- {run['recalibrated']}"] if run.get("recalibrated") else []),
        *(["- every answer is the mean over a film and its mirror image"] * bool(run.get("tta"))),
        *_decision_lines(report), "",
    ]
    lines += ["## Networks", "", *_macro_table(report)]
    for name, judged in report["networks"].items():
        m = judged["macro"]
        lines += [
            "", f"## {name}", "",
            _means_line(m), "", *_label_table(judged),
        ]
        if "confusion" in judged:
            lines += ["", "Films by truth (row) and answer (column):", "",
                      *table(["", *report["labels"]],
                              [[label, *row] for label, row in
                               zip(report["labels"], judged["confusion"])])]
        if "masks" in judged:
            lines += ["", *_mask_table(judged), "",
                      f"Film by film in masks.csv; the worst ones in masks_{name}.png."]
    lines += published_tables(report, published)
    return "\n".join(lines) + "\n"


def _decision_lines(report: Mapping[str, Any]) -> list[str]:
    """How a probability becomes an answer, and a warning where these films chose it."""
    if report["task"] == "multiclass":
        lines = ["- answers: the class of the highest probability (F1, precision, sensitivity, "
                 "specificity, matrix); AUROC and AP: each class against the rest"]
    else:
        lines = ["- thresholds: highest F1 on the validation split, applied as they are"]
    if report["split"] == "val":
        lines += ["- **too good**: the checkpoint and the thresholds were chosen on these very "
                  "films"]
    return lines


def _means_line(m: Mapping[str, Any]) -> str:
    line = (
        f"Means over the {m['classes judged']} of {m['classes']} classes that could be judged (a "
        "class without positives, or without negatives, cannot)"
    )
    if m.get("classes decided", m["classes judged"]) != m["classes judged"]:
        line += (f"; F1, sensitivity and specificity over {m['classes decided']}, as the others "
                 "have no threshold: validation has films of one kind only")
    if m.get("resamples", 1.0) < 1.0:
        line += (f"; {m['resamples']:.1%} of the resamples could judge all of them, the interval "
                 "is of these")
    return line + "."


def _convergence_line(run: Mapping[str, Any]) -> list[str]:
    if not run.get("convergence"):
        return []
    # A record at the very last evaluation: the network was still learning when it was stopped.
    ended = run.get("trained_for", math.inf)
    each = ", ".join(
        f"{name} not before the end at {epoch:.1f}" if epoch >= ended - 1e-6
        else f"{name} {epoch:.1f}" for name, epoch in run["convergence"].items()
    )
    return [f"- convergence (the epoch after which the validation loss hardly ever falls below its "
            f"best): {each}"]


def _macro_table(report: Mapping[str, Any]) -> list[str]:
    networks = report["networks"]
    every = dict.fromkeys(k for judged in networks.values() for k in judged["macro"])
    keys = [k for k in every
            if not k.endswith((" low", " high")) and not k.startswith(("classes", "resamples"))]
    rows = []
    for name, judged in networks.items():
        m = judged["macro"]
        cells = [
            f"{number(m[k])} ({number(m[k + ' low'])} to {number(m[k + ' high'])})"
            if k + " low" in m else number(m.get(k)) for k in keys
        ]
        rows.append([name, *cells])
    return table(["network", *keys], rows)


def _label_table(judged: Mapping[str, Any]) -> list[str]:
    last = ["AP", "F1", "precision", "sensitivity", "specificity", "threshold"]
    last = [k for k in last if any(k in f for f in judged["per_label"].values())]
    rows = [
        [label, f"{f['positives']:,} of {f['films']:,}", number(f["AUROC"]),
         f"{number(f['AUROC low'])} to {number(f['AUROC high'])}",
         *(number(f[k]) for k in last)]
        for label, f in judged["per_label"].items()
    ]
    return table(["finding", "positives", "AUROC", "95% interval", *last], rows)


def _mask_table(judged: Mapping[str, Any]) -> list[str]:
    titles = ["structure", "films with a mask", "Dice", "95% interval", "IoU", "HD95 (pixels)"]
    rows = [
        [structure, f["films"], number(f["Dice"]),
         f"{number(f['Dice low'])} to {number(f['Dice high'])}", number(f["IoU"]),
         f"{f['HD95 (pixels)']:.2f}"] for structure, f in judged["masks"].items()
    ]
    return table(titles, rows)


def published_tables(report: Mapping[str, Any], published: Sequence[Any]) -> list[str]:
    """Published figures: those of our split in a column beside ours, the others apart."""
    same = [
        p for p in published
        if report["split"] == "test" and p.split and p.split == report["split_name"]
        and p.films == report["films"]
    ]
    lines = []
    if same:
        keys = list(dict.fromkeys(k for p in same for k in p.figures))
        rows = [
            [f"**ours, {name}**", *(number(judged["macro"].get(k, math.nan)) for k in keys),
             report["protocol"]] for name, judged in report["networks"].items()
        ]
        rows += [[p.name, *(number(p.figures.get(k, math.nan)) for k in keys), p.protocol]
                 for p in same]
        lines += ["", "## Beside published figures of this split", "",
                  *table(["result", *keys, "protocol"], rows)]
    other = [p for p in published if p not in same]
    if other:
        keys = list(dict.fromkeys(k for p in other for k in p.figures))
        rows = [[p.name, *(number(p.figures.get(k, math.nan)) for k in keys), p.protocol]
                for p in other]
        lines += [
            "", "## Published figures on other films", "",
            f"Not comparable with ours ({report['films']:,} {report['split']} films of the split "
            f"{report['split_name']!r}), and so in no column with them.", "",
            *table(["result", *keys, "protocol"], rows),
        ]
        detailed = [p for p in other if p.per_label]
        if detailed:
            rows = [[label, *(number(p.per_label[label]) for p in detailed)]
                    for label in detailed[0].per_label]
            lines += ["", "Their AUROC by finding:", "",
                      *table(["finding", *(p.name for p in detailed)], rows)]
    return lines


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table."""
    line = "| {} |".format
    return [line(" | ".join(titles)), line(" | ".join("---" for _ in titles)),
            *(line(" | ".join(str(cell) for cell in row)) for row in rows)]


def number(value: float | None) -> str:
    """A figure with four digits; '-' for one that could not be judged."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def finite(tree: Any) -> Any:
    """JSON has no nan: null stands for a figure that could not be judged."""
    if isinstance(tree, Mapping):
        return {k: finite(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(v) for v in tree]
    if isinstance(tree, np.generic):
        tree = tree.item()
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def write_predictions(
    path: pathlib.Path,
    ids: Sequence[str],
    names: Sequence[str],
    scores: Mapping[str, Float[np.ndarray, "n k"]],
    labels: Float[np.ndarray, "n k"] | None = None,
    clusters: Mapping[str, np.ndarray | None] | None = None,
) -> None:
    """One row per film and network: id, network, probabilities, labels and patient where given.

    Probabilities are written with all their digits, so that figures made from the file are those
    of the report.
    """
    columns = {c: v for c, v in (clusters or {}).items() if v is not None}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        truth = [f"label {n}" for n in names] if labels is not None else []
        writer.writerow(["id", "network", *names, *truth, *columns])
        for network, probs in scores.items():
            for i, film in enumerate(ids):
                known = []
                if labels is not None:
                    known = ["" if np.isnan(v) else int(v) for v in labels[i]]
                own = [values[i] for values in columns.values()]
                writer.writerow([film, network, *map(repr, probs[i].tolist()), *known, *own])


def plot_curves(
    path: pathlib.Path,
    labels: Float[np.ndarray, "n k"],
    scores: Float[np.ndarray, "n k"],
    names: Sequence[str],
    kind: str,
) -> None:
    """ROC ('roc') or precision-recall ('pr') curves of all labels in one picture."""
    figure, axes = plt.subplots(figsize=(7.5, 6), layout="constrained")
    areas = (metrics.auroc if kind == "roc" else metrics.average_precision)(labels, scores)
    colors = plt.get_cmap("tab20")(np.arange(len(names)) % 20)
    for k, name in enumerate(names):
        if kind == "roc":
            x, y, _ = metrics.roc_curve(labels[:, k], scores[:, k])
        else:
            y, x, _ = metrics.precision_recall_curve(labels[:, k], scores[:, k])
        label = f"{name.replace('_', ' ')} {areas[k]:.3f}" if len(x) else f"{name} not judged"
        axes.plot(x, y, color=colors[k], label=label, linewidth=1.5)
    if kind == "roc":
        axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
        axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC, area under the curve")
    else:
        axes.set(xlabel="recall", ylabel="precision", title="Precision-recall, average precision")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_confusion(
    path: pathlib.Path, matrix: np.ndarray, names: Sequence[str], title: str
) -> None:
    """The confusion matrix of `draw_confusion` as a picture."""
    figure, axes = plt.subplots(figsize=(1.6 + 1.1 * len(names), 1.4 + len(names)),
                                layout="constrained")
    draw_confusion(axes, matrix, names, title)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_confusion(axes: Any, matrix: np.ndarray, names: Sequence[str], title: str) -> None:
    """The confusion matrix [K, K], truth by answer: counts, coloured by share of the row."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(names)):
        for j in range(len(names)):
            count = round(matrix[i, j], 1)
            axes.text(j, i, f"{count:,}\n{share[i, j]:.1%}", ha="center", va="center",
                      color="white" if share[i, j] > 0.55 else "black", fontsize=9)
    shown = [n.replace("_", " ") for n in names]
    axes.set_xticks(range(len(names)), shown, rotation=25, ha="right")
    axes.set_yticks(range(len(names)), shown)
    axes.set(xlabel="answer", ylabel="truth", title=title)
