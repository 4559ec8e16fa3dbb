"""Reports: the figures of every network of a run as tables, curves and a list of predictions."""

from __future__ import annotations

import csv
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cxrjax.evaluation import beside_home, html, plots, sections, spreadsheets
from cxrjax.evaluation.answers import Answers
from cxrjax.evaluation.judge import positive_labels
from cxrjax.metrics.ranking import log_odds
from cxrjax.tables import finite, interval, number, table
from cxrjax.training.workdir import write_text


def write(
    folder: str | pathlib.Path,
    report: Mapping[str, Any],
    ids: Sequence[str],
    labels: Float[np.ndarray, "n k"],
    logits: Mapping[str, Float[np.ndarray, "n k"]],
    published: Sequence[Any] = (),
    clusters: Mapping[str, np.ndarray | None] | None = None,
    answers: Answers | None = None,
) -> None:
    """Writes the report (.md, .html, .json), its figures and predictions as CSV, its pictures.

    Args:
      folder: made where it is missing.
      report: {'run', 'labels', 'task', 'split', 'protocol', 'split_name', 'networks': {name:
        `judge_network`}}.
      ids: of the films.
      labels: of the films.
      logits: of every network.
      published: `sets._published.Published` figures of the data set.
      clusters: {column: patient or group of each film} for predictions.csv; None where not known.
      answers: that make probabilities of the logits; None: the networks' own.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names, task = report["labels"], report["task"]
    write_text(folder / "report.json", json.dumps(finite(report), indent=1) + "\n")
    answers = answers or Answers(tuple(names), task)
    scores = {n: answers.probabilities(n, z) for n, z in logits.items()}
    write_predictions(folder / "predictions.csv", ids, names, scores, labels, clusters, logits,
                      seen_mark(report["run"]).strip())
    spreadsheets.write(
        folder, {f"{n}{seen_mark(report['run'])}": own for n, own in report["networks"].items()},
        labels, {f"{n}{seen_mark(report['run'])}": own for n, own in scores.items()}, names,
    )
    shown = positive_labels(names, task)
    own = [names[k] for k in shown]
    for name, z in logits.items():
        ranks, judged = log_odds(z, task)[:, shown], report["networks"][name]
        plots.plot_curves(folder / f"roc_{name}.png", labels[:, shown], ranks, own, "roc")
        plots.plot_curves(folder / f"pr_{name}.png", labels[:, shown], ranks, own, "pr")
        points = {label: judged["reliability"][label] for label in own
                  if label in judged.get("reliability", ())}
        if points:
            before = judged.get("before calibration", {}).get("reliability")
            plots.plot_reliability(folder / f"reliability_{name}.png", points, before)
        plots.plot_decisions(
            folder / f"decisions_{name}.png", labels[:, shown], scores[name][:, shown], own
        )
        if "confusion" in judged:
            matrix = np.asarray(judged["confusion"])
            plots.plot_confusion(folder / f"confusion_{name}.png", matrix, names, name)
    text = markdown(report, published)
    write_text(folder / "report.md", text)
    title = f"{report['split']} split of {report['run']['workdir']}{seen_mark(report['run'])}"
    write_text(folder / "report.html", html.page(text, folder, title))


def seen_mark(run: Mapping[str, Any]) -> str:
    """What follows a heading or a name where the films were seen in training; else ''."""
    return " (films SEEN IN TRAINING)" if "SEEN" in run.get("seen", "") else ""


def headline(report: Mapping[str, Any]) -> str:
    """One line a network: what a user looks for first."""
    lines = [f"{report['split']} split, {report['protocol']}"]
    for name, judged in report["networks"].items():
        m = judged["macro"]
        parts = [
            f"macro AUROC {number(m['macro AUROC'])} "
            f"(95% {interval(m['macro AUROC low'], m['macro AUROC high'])}; "
            f"{m['classes judged']} of {m['classes']} classes)"
        ]
        parts += [f"{k} {number(m[k])}" for k in ("accuracy", "macro F1", "Dice") if k in m]
        lines.append(f"{name}{seen_mark(report['run'])}: {', '.join(parts)}")
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
        *([f"- **{run['seen']}**"] if run.get("seen") else []),
        *([f"- {run['changed']}"] if run.get("changed") else []),
        *([f"- {run['recalibrated']}"] if run.get("recalibrated") else []),
        *([f"- calibrated: {run['calibrated']}"] if run.get("calibrated") else []),
        *(f"- {text}" for text in run.get("not used", ())),
        *(["- every answer is the mean over a film and its mirror image"] * bool(run.get("tta"))),
        *_decision_lines(report), *beside_home.head(report), "",
    ]
    mark = seen_mark(run)
    lines += [f"## Networks{mark}", "", *_macro_table(report), *beside_home.section(report, mark)]
    for name, judged in report["networks"].items():
        lines += ["", f"## {name}{mark}", "",
                  *sections.of_network(name, judged, report["labels"], report["task"])]
    lines += published_tables(report, published)
    return "\n".join(lines) + "\n"


def _decision_lines(report: Mapping[str, Any]) -> list[str]:
    """How a probability becomes an answer, and a warning where these films chose it."""
    if report["task"] == "multiclass":
        lines = ["- answers: the class of the highest probability (F1, precision, sensitivity, "
                 "specificity, matrix); AUROC and AP: each class against the rest"]
    else:
        rules = {judged.get("operating point", {}).get("rule", "f1")
                 for judged in report["networks"].values()}
        words = ", ".join(sections.rule(r) for r in sorted(rules))
        lines = [f"- thresholds: {words} on the validation split, applied as they are"]
    if report["split"] == "val":
        too = " and the calibration" if report["run"].get("calibrated") else ""
        lines += [f"- **too good**: the checkpoint and the thresholds{too} were chosen on these "
                  "very films"]
    return lines


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
            f"{number(m[k])} ({interval(m[k + ' low'], m[k + ' high'])})"
            if k + " low" in m else number(m.get(k)) for k in keys
        ]
        rows.append([name, *cells])
    return table(["network", *keys], rows)


def _whose(p: Any, report: Mapping[str, Any]) -> str:
    """Whose published figure it is, and of which labels where ours are others."""
    ours = report.get("labels_version")
    other = p.labels and ours and p.labels != ours
    return f"{p.name} ({p.labels} labels, ours are {ours})" if other else p.name


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
        rows += [[_whose(p, report), *(number(p.figures.get(k, math.nan)) for k in keys),
                  p.protocol] for p in same]
        lines += ["", "## Beside published figures of this split", "",
                  *table(["result", *keys, "protocol"], rows)]
    other = [p for p in published if p not in same]
    if other:
        keys = list(dict.fromkeys(k for p in other for k in p.figures))
        rows = [[_whose(p, report), *(number(p.figures.get(k, math.nan)) for k in keys), p.protocol]
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


def write_predictions(
    path: pathlib.Path,
    ids: Sequence[str],
    names: Sequence[str],
    scores: Mapping[str, Float[np.ndarray, "n k"]],
    labels: Float[np.ndarray, "n k"] | None = None,
    clusters: Mapping[str, np.ndarray | None] | None = None,
    logits: Mapping[str, Float[np.ndarray, "n k"]] | None = None,
    mark: str = "",
) -> None:
    """One row per film and network: id, probabilities; logits, labels and patient where given.

    Numbers are written with all their digits, so that figures made from the file are those of the
    report. Of two probabilities that are 1.0 the logits say which film comes first. A `mark` is a
    column of its own.
    """
    columns = {c: v for c, v in (clusters or {}).items() if v is not None}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        truth = [f"label {n}" for n in names] if labels is not None else []
        marked = ["note"] * bool(mark)
        before = [f"logit {n}" for n in names] if logits is not None else []
        writer.writerow(["id", "network", *names, *before, *marked, *truth, *columns])
        for network, probs in scores.items():
            for i, film in enumerate(ids):
                known = []
                if labels is not None:
                    known = ["" if np.isnan(v) else int(v) for v in labels[i]]
                own = [values[i] for values in columns.values()]
                raw = [] if logits is None else map(repr, logits[network][i].tolist())
                note = [mark] * bool(mark)
                writer.writerow([film, network, *map(repr, probs[i].tolist()), *raw, *note, *known,
                                 *own])
