"""The tables of a report about one network: ranking, decisions, calibration, subgroups, masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrjax.evaluation.judge import positive_labels
from cxrjax.metrics import intervals
from cxrjax.metrics.decisions import rule_in_words as rule
from cxrjax.tables import figure, interval, number, table

FEW = f"\\* fewer than {intervals.FEW} positives: such a figure says little."
Figures = Mapping[str, Any]
_RANKING = ("AUROC", "AP")
_DECISIONS = ("sensitivity", "specificity", "PPV", "NPV")
_DECISIONS_TOO = ("F1", "MCC", "accuracy", "balanced accuracy")
_CALIBRATION = ("ECE", "ECE equal mass", "Brier", "Brier skill", "calibration slope",
                "calibration intercept", "calibration in the large")


def of_network(name: str, judged: Figures, labels: Sequence[str], task: str) -> list[str]:
    """The lines that follow the network's heading; without the newer tables in older reports."""
    lines = [_means(judged["macro"])]
    if "figures" in judged:
        shown = [labels[k] for k in positive_labels(labels, task)]
        if len(shown) < len(labels):
            lines[0] += (f" Of the two classes {shown[0]} is shown; the other's curve mirrors it, "
                         "and its sensitivity is this one's specificity.")
        lines += ["", "### Ranking", *_ranking(judged, shown), "",
                  f"![ROC curves of {name} with pointwise 95% bands of the bootstrap; dotted: "
                  f"chance](roc_{name}.png)", "",
                  f"![Precision-recall curves of {name}, in steps, with pointwise 95% bands; "
                  f"dotted: the share of positives, which is chance](pr_{name}.png)"]
        lines += ["", "### Decisions", "", *_decisions(judged, shown, task)]
        lines += _operating_point(judged, shown, task)
    if "confusion" in judged:
        lines += ["", "Films by truth (row) and answer (column):", "",
                  *table(["", *labels], [[label, *row] for label, row in
                                         zip(labels, judged["confusion"])]),
                  "", f"![Confusion matrix of {name}: films, and their share of the "
                  f"true class](confusion_{name}.png)"]
    if "figures" in judged:
        lines += ["", "### Calibration", "", *_calibration(judged, shown, task),
                  "", f"![Reliability of {name}: share of positives by predicted probability, "
                  f"with Wilson's 95% intervals; dotted: calibrated](reliability_{name}.png)",
                  "", "### Decision curves", "",
                  "Net benefit (Vickers & Elkin 2006) of acting on the films whose probability "
                  "reaches the threshold, beside acting on all and on none.",
                  "", f"![Decision curves of {name}: net benefit by threshold probability]"
                  f"(decisions_{name}.png)"]
    if judged.get("subgroups"):
        lines += ["", "### Subgroups", "", *_subgroups(judged["subgroups"], shown)]
        lines += _under_diagnosis(judged.get("under-diagnosis", ()))
    if "masks" in judged:
        lines += ["", "### Masks", "", *_masks(judged), "",
                  "Film by film in masks.csv.", "",
                  f"![The masks of {name} that agree least with the truth](masks_{name}.png)"]
    return lines


def _means(m: Figures) -> str:
    line = (
        f"Means over the {m['classes judged']} of {m['classes']} classes that could be judged (a "
        "class without positives, or without negatives, cannot)"
    )
    if m.get("classes decided", m["classes judged"]) != m["classes judged"]:
        line += (f"; F1, sensitivity and specificity over {m['classes decided']}, as the others "
                 "have no threshold: validation has films of one kind only, or none reaches what "
                 "was asked")
    if m.get("resamples", 1.0) < 1.0:
        line += (f"; {m['resamples']:.1%} of the resamples could judge all of them, the intervals "
                 "of all means but that of the AUROC are of these")
    return line + "."


def marked(label: str, own: Figures) -> str:
    """The label, with a star where its figures rest on fewer than 20 positives."""
    return f"{label} \\*" if intervals.few(own) else label


def _explained(lines: list[str]) -> list[str]:
    """The lines of a table, and what the star means where one is in it."""
    return [*lines, "", FEW] if any("\\*" in line for line in lines) else lines


def _by_label(
    judged: Figures, shown: Sequence[str], titles: Sequence[str], first: Mapping[str, Any],
    means: bool = True,
) -> list[str]:
    """A table of figures with intervals, a row per label, with the means over them.

    Args:
      judged: of the network.
      shown: the labels.
      titles: of the figures.
      first: {title of a column: function of (label, its figures)} of the columns before them.
      means: whether to end with a row of the means over the labels, and one of all answers.
    """
    found = judged["figures"]
    rows = []
    for label in shown:
        own = found["labels"][label]
        rows.append([marked(label, own["AUROC"]), *(cell(label, own) for cell in first.values()),
                     *(figure(own[t]) for t in titles)])
    if means and len(found["labels"]) > 1 and len(shown) > 1:
        for what, group in (("mean over the findings", "macro"), ("all answers together", "micro")):
            cells = [figure(found[group].get(t)) for t in titles]
            if any(cell != "-" for cell in cells):
                rows.append([what, *[""] * len(first), *cells])
    return _explained(table(["finding", *first, *titles], rows))


def _count(_: str, own: Figures) -> str:
    return f"{own['AUROC']['positives']:,} of {own['AUROC']['n']:,}"


def _patients(_: str, own: Figures) -> str:
    return "-" if own["AUROC"]["patients"] is None else f"{own['AUROC']['patients']:,}"


def _ranking(judged: Figures, shown: Sequence[str]) -> list[str]:
    first = {"positives": _count, "patients or groups": _patients}
    lines = ["", *_by_label(judged, shown, _RANKING, first)]
    return [*lines, "", "AP is to be read beside the share of positives, which is what chance "
            "gives. Intervals of 95%: docs/intervals.md says how each is made."]


def _decisions(judged: Figures, shown: Sequence[str], task: str) -> list[str]:
    if task == "multiclass":
        own = judged["figures"]["answers"]
        lines = ["The class of the highest probability is the answer.", "",
                 *table(list(own), [[figure(f) for f in own.values()]]), ""]
        first = {"positives": _count}
    else:
        point = judged["operating point"]
        lines = [f"Thresholds: {rule(point['rule'])} on validation, applied as they are.", ""]
        first = {"positives": _count,
                 "threshold": lambda label, _: number(point["labels"][label]["threshold"])}
    lines += _by_label(judged, shown, _DECISIONS, first)
    lines += ["", *_by_label(judged, shown, _DECISIONS_TOO, {"positives": _count})]
    return lines


def _operating_point(judged: Figures, shown: Sequence[str], task: str) -> list[str]:
    """What was asked for by --operating_point or --prevalence; of one-of-N not the answers."""
    point = judged["operating point"]
    asked = point["prevalence"]
    if asked is None and not (point["chosen"] and task == "multiclass"):
        return []
    titles = list(_DECISIONS) if task == "multiclass" else []
    titles += ["PPV at prevalence", "NPV at prevalence"] if asked is not None else []
    rows = []
    for label in shown:
        own = point["labels"][label]
        positives = judged["figures"]["labels"][label]["AUROC"]
        rows.append([marked(label, positives), number(own["threshold"]),
                     *(figure(own.get(t)) for t in titles)])
    words = f"Thresholds: {rule(point['rule'])} on validation"
    words += ", each class against the rest" if task == "multiclass" else ""
    words += "" if asked is None else f". PPV and NPV where {asked:.2%} of the films are positive"
    return ["", "### Operating point", "", words + ".", "",
            *_explained(table(["finding", "threshold", *titles], rows))]


def _calibration(judged: Figures, shown: Sequence[str], task: str) -> list[str]:
    words = ("Calibrated is: error 0, slope 1, intercept 0. Below slope 1 the network is too sure "
             "of itself; the intercept in the large is the shift of all probabilities. ECE on bins "
             "of equal width and of equal mass; Brier skill is against the prevalence.")
    if task == "multiclass":
        words += " Each class against the rest."
    return [words, "", *_before_and_after(judged, task),
            *_by_label(judged, shown, _CALIBRATION[:4], {"positives": _count}), "",
            *_by_label(judged, shown, _CALIBRATION[4:], {"positives": _count}, means=False)]


def _before_and_after(judged: Figures, task: str) -> list[str]:
    """The figures of a calibrated network beside those of its own probabilities."""
    before = judged.get("before calibration")
    if not before:
        return []
    rows = [
        [what, title, figure(before[group][title]), figure(judged["figures"][group][title])]
        for what, group in (("the answers", "answers"), ("mean over the findings", "macro"))
        for title in before.get(group, ())
    ]
    for label, own in before["labels"].items():
        after = judged["figures"]["labels"][label]
        rows += [[marked(label, after["AUROC"]), title, figure(own[title]), figure(after[title])]
                 for title in ("ECE", "Brier")]
    words = "Before: the network's own probabilities; calibrated: through the map that validation "
    words += "chose. AUROC, AP and decisions are the same for both."
    left = judged.get("not calibrated", ())
    if left:
        words += " Left as they are: " + "; ".join(f"{label} ({why})" for label, why in left) + "."
    return [words, "", *table(["of", "figure", "before", "calibrated"], rows), "",
            "The calibrated probabilities:", ""]


def _subgroups(own: Figures, shown: Sequence[str]) -> list[str]:
    rows = [
        [row["by"], row["group"], row["label"],
         f"{row['AUROC']['positives']:,} of {row['AUROC']['n']:,}",
         *(figure(row[t]) for t in ("AUROC", "sensitivity", "specificity"))]
        for row in own["rows"] if row["label"] in shown
    ]
    lines = []
    if rows:
        lines += table(["by", "group", "finding", "positives", "AUROC", "sensitivity",
                        "specificity"], rows)
    left = [row for row in own["left out"] if row["label"] in shown]
    if left:
        lines += [""] * bool(lines) + [
            f"Not judged, as they hold fewer than {intervals.FEW} positives or no negatives: "
            f"{len(left):,} groups of a finding ({_shortly(left)}). All are in subgroups.csv."]
    unknown = {k: n for k, n in own["unknown"].items() if n}
    if unknown:
        lines += ["", "In no group, as it is not known: " +
                  ", ".join(f"{k} of {n:,} films" for k, n in unknown.items()) + "."]
    return lines


def _shortly(left: Sequence[Figures], most: int = 6) -> str:
    parts = [f"{row['label']} in {row['by']} {row['group']}: {row['positives']} of {row['films']:,}"
             for row in left[:most]]
    return "; ".join(parts) + ("; ..." if len(left) > most else "")


def _under_diagnosis(found: Sequence[Figures]) -> list[str]:
    found = [row for row in found if row["under-diagnosis"]["n"]]
    if not found:
        return []
    titles = ("under-diagnosis", "over-diagnosis")
    rows = [[row["by"], row["group"], *(
        cell for t in titles for cell in (f"{row[t]['n']:,}", figure(row[t]))
    )] for row in found]
    return ["", "Under-diagnosis: films with a finding that are called free of any; "
            "over-diagnosis: films without one that are not (Seyyed-Kalantari et al., Nat Med "
            "2021).", "",
            *table(["by", "group", "films with a finding", titles[0], "films without one",
                    titles[1]], rows)]


def _masks(judged: Figures) -> list[str]:
    titles = ["structure", "films with a mask", "Dice", "95% interval", "IoU", "HD95 (pixels)"]
    rows = [
        [structure, f["films"], number(f["Dice"]),
         interval(f["Dice low"], f["Dice high"]), number(f["IoU"]),
         f"{f['HD95 (pixels)']:.2f}"] for structure, f in judged["masks"].items()
    ]
    return table(titles, rows)


def recipe(config: Mapping[str, Any]) -> list[str]:
    """The config that a run was trained with: a row for each of its parts."""
    rows = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v not in ("", None))
        if value not in ("", None):
            rows.append([key, _plain(value).replace("|", "\\|")])
    return table(["part", "setting"], rows)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) + ")"
    return " ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)
