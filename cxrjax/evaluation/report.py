"""Reports: the figures of every network of a run as tables, curves and a list of predictions."""

from __future__ import annotations

import csv
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from cxrjax.evaluation import (
    beside_home,
    checklist,
    circumstances,
    cohort,
    curves,
    differences,
    html,
    pdf,
    plots,
    probe,
    provenance,
    sections,
    spreadsheets,
    worst,
)
from cxrjax.evaluation.answers import Answers
from cxrjax.evaluation.judge import positive_labels
from cxrjax.metrics import bands, bootstrap
from cxrjax.metrics.ranking import log_odds
from cxrjax.tables import figure, finite, interval, number, table
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
    *,
    show: Callable[[int], np.ndarray] | None = None,
    counts: Float32[np.ndarray, "n r"] | None = None,
) -> None:
    """Writes the report (.md, .html, .pdf, .json), figures and predictions as CSV, and pictures.

    Args:
      folder: made where it is missing.
      report: {'run', 'labels', 'task', 'split', 'protocol', 'split_name', 'networks': {name:
        `judge_network`}}; where they are known 'cohort' (`cohort.describe`), 'made'
        (`circumstances.facts`), 'probe' (`probe.probe`).
      ids: of the films.
      labels: of the films.
      logits: of every network.
      published: `sets._published.Published` figures of the data set.
      clusters: {column: patient or group of each film} for predictions.csv; None where not known.
      answers: that make probabilities of the logits; None: the networks' own.
      show: film of a row of `labels` -> its pixels [h, w], for the pictures of the worst errors.
      counts: the resamples of the figures, for the bands; None draws them again.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names, task, mark = report["labels"], report["task"], seen_mark(report["run"])
    answers = answers or Answers(tuple(names), task)
    scores = {n: answers.probabilities(n, z) for n, z in logits.items()}
    write_predictions(folder / "predictions.csv", ids, names, scores, labels, clusters, logits,
                      mark.strip())
    worst_of = {n: worst.of_network(judged, labels, scores[n], ids, names, task)
                for n, judged in report["networks"].items() if "operating point" in judged}
    report = {**report, "worst": {n: [{k: v for k, v in e.items() if k != "film"} for e in errors]
                                  for n, errors in worst_of.items()}}
    if "made" in report:
        own = {**report["made"]["hashes"],
               "predictions": circumstances.file_hash(folder / "predictions.csv")}
        report["made"] = {**report["made"], "hashes": own}
    write_text(folder / "report.json", json.dumps(finite(report), indent=1) + "\n")
    spreadsheets.write(
        folder, {f"{n}{mark}": own for n, own in report["networks"].items()},
        labels, {f"{n}{mark}": own for n, own in scores.items()}, names,
    )
    worst.write(folder / "worst_errors.csv", worst_of, mark.strip())
    if "cohort" in report:
        spreadsheets.write_tables(folder, cohort.spreadsheets(report["cohort"]), mark.strip())
        cohort.plot_flow(folder / "flow.png", report["cohort"], mark)
    _draw(folder, report, labels, logits, scores, clusters, counts)
    for name, errors in worst_of.items() if show else ():
        if errors:
            worst.plot(folder / f"worst_{name}.png", worst.shown(errors), show, mark)
    text = markdown(report, published)
    write_text(folder / "report.md", text)
    filled = "\n".join(["", f"## Checklist{mark}", "", *checklist.lines(report), ""])
    write_text(folder / "checklist.md", f"# Checklist{mark}\n{filled.partition(chr(10) * 2)[2]}")
    title = f"{report['split']} split of {report['run']['workdir']}{mark}"
    page = html.page(text + filled, folder, title)
    write_text(folder / "report.html", page)
    if said := pdf.write(folder / "report.pdf", page):
        (folder / "report.pdf").unlink(missing_ok=True)  # one of before would say something else
        print(said)


def _draw(
    folder: pathlib.Path, report: Mapping[str, Any], labels: np.ndarray,
    logits: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray],
    clusters: Mapping[str, np.ndarray | None] | None, counts: np.ndarray | None,
) -> None:
    """The pictures of every network, and the first page's."""
    names, task, mark = report["labels"], report["task"], seen_mark(report["run"])
    shown = positive_labels(names, task)
    own, truth = [names[k] for k in shown], labels[:, shown]
    if counts is None:
        units = next((c for c in (clusters or {}).values() if c is not None), None)
        counts = bootstrap.resample(len(labels), seed=0, cluster=units)
    front: dict[str, Any] = {}
    ranks = {name: log_odds(z, task)[:, shown] for name, z in logits.items()}
    for name, judged in report["networks"].items():
        found = {label: bands.bands(truth[:, k], ranks[name][:, k], counts)
                 for k, label in enumerate(own)}
        there = [f["roc"] for f in found.values() if f]
        front[name] = {"bands": found, "mean": bands.mean_band(there) if there else None}
        for kind in ("roc", "pr"):
            curves.plot_curves(folder / f"{kind}_{name}.png", truth, ranks[name], own, kind,
                               judged["figures"]["labels"], found, mark)
        points = {label: judged["reliability"][label] for label in own
                  if label in judged.get("reliability", ())}
        if points:
            before = judged.get("before calibration", {}).get("reliability")
            plots.plot_reliability(folder / f"reliability_{name}.png", points, before, mark)
        plots.plot_decisions(folder / f"decisions_{name}.png", truth, scores[name][:, shown], own,
                             mark)
        if "confusion" in judged:
            matrix = np.asarray(judged["confusion"])
            plots.plot_confusion(folder / f"confusion_{name}.png", matrix, names, name, mark)
    figures = {n: judged["figures"]["labels"] for n, judged in report["networks"].items()}
    curves.plot_front(folder / "front.png", truth, ranks, own, figures, front, mark)


def seen_mark(run: Mapping[str, Any]) -> str:
    """What follows a heading or a name where the films were seen in training; else ''."""
    return provenance.mark(run.get("seen", ""))


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
        f"# {report['split']} split of {run['workdir']}", "", *_first_words(report), "",
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
    if any(judged["macro"]["classes judged"] for judged in report["networks"].values()):
        lines += [f"![{_front_words(report)}](front.png)", ""]
    lines += [f"## Networks{mark}", "", *_macro_table(report)]
    lines += differences.lines(report.get("differences", ()))
    lines += beside_home.section(report, mark)
    if "cohort" in report:
        lines += ["", f"## Films{mark}", "", *cohort.lines(report["cohort"], report["split"])]
    for name, judged in report["networks"].items():
        lines += ["", f"## {name}{mark}", "",
                  *sections.of_network(name, judged, report["labels"], report["task"])]
        if name in report.get("worst", ()):
            lines += ["", "### Worst errors", "",
                      *worst.lines(name, report["worst"][name], report.get("films shown", False))]
    if report.get("probe"):
        lines += ["", f"## Probe{mark}", "", *probe.lines(report["probe"], "###")]
    lines += published_tables(report, published)
    if run.get("config"):
        lines += ["", f"## Training{mark}", "", *sections.recipe(run["config"])]
    if "made" in report:
        lines += ["", f"## Provenance{mark}", "", *circumstances.lines(run, report["made"])]
    return "\n".join(lines) + "\n"


def _first_words(report: Mapping[str, Any]) -> list[str]:
    """The figure of every network in a sentence, with what it is of."""
    out = []
    for name, judged in report["networks"].items():
        m = judged["macro"]
        of = f"{report['films']:,} films"
        if judged["figures"]["macro"]["AUROC"]["patients"] is not None:
            unit = "patients" if report.get("cohort", {}).get("unit", "patient") == "patient" \
                else "groups"
            of += f" of {judged['figures']['macro']['AUROC']['patients']:,} {unit}"
        if len(positive_labels(report["labels"], report["task"])) == 1:
            label = report["labels"][positive_labels(report["labels"], report["task"])[0]]
            own = judged["figures"]["labels"][label]["AUROC"]
            what = f"AUROC of {label}"
            value, of = figure(own), of + f", {own['positives']:,} of them positive"
        else:
            what = f"macro AUROC of {m['classes judged']} of {m['classes']} findings"
            value = (f"{number(m['macro AUROC'])} "
                     f"({interval(m['macro AUROC low'], m['macro AUROC high'])})")
        out += [f"**{name}: {what} {value}**, 95% interval in brackets; {of}, {report['split']} "
                f"split{seen_mark(report['run'])}.", ""]
    return out[:-1]


def _front_words(report: Mapping[str, Any]) -> str:
    if len(positive_labels(report["labels"], report["task"])) == 1:
        return "ROC and precision-recall curves with pointwise 95% bands of the bootstrap"
    return ("Left: mean of the findings' ROC curves at each specificity, with its pointwise 95% "
            "band. Right: AUROC of each finding with its 95% interval")


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
    """A row per figure, a column per network: more figures than networks fit a page's width."""
    networks = report["networks"]
    every = dict.fromkeys(k for judged in networks.values() for k in judged["macro"])
    keys = [k for k in every
            if not k.endswith((" low", " high")) and not k.startswith(("classes", "resamples"))]
    rows = []
    for k in keys:
        cells = []
        for m in (judged["macro"] for judged in networks.values()):
            ends = f" ({interval(m[k + ' low'], m[k + ' high'])})" if k + " low" in m else ""
            cells.append(number(m.get(k)) + ends)
        rows.append([k, *cells])
    return table(["figure", *networks], rows)


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
