"""The page of an explanation: the scores of its heat maps beside their controls."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxrjax import tables
from cxrjax.errors import UserError
from cxrjax.evaluation import provenance
from cxrjax.explanation import gallery, heatmaps
from cxrjax.explanation import marked as marking
from cxrjax.explanation.heatmaps import Explanation
from cxrjax.explanation.options import Options
from cxrjax.metrics.localization import IOBB_THRESHOLDS, IOU_THRESHOLDS, Scores
from cxrjax.training.restored import Run
from cxrjax.training.workdir import write_text

# Titles of the columns of boxes found.
_ABOVE = (*(f"IoU > {t:g}" for t in IOU_THRESHOLDS), *(f"IoBB > {t:g}" for t in IOBB_THRESHOLDS))


def write_report(
    run: Run, options: Options, folder: pathlib.Path, facts: Mapping[str, Any],
    sheets: Mapping[str, str], overlays: Sequence[str], explanations: Sequence[Explanation],
) -> dict[str, Any]:
    """Writes explain.md and explain.json.

    Args:
      run: that was explained, and how: `options`.
      folder: to write to.
      facts: of the films ('films', 'source', ...) and, where there are boxes, 'systems': {name:
        {rule: scores}}, and 'published' figures.
      sheets: {finding: file of its contact sheet}.
      overlays: files of the single pictures. What an explanation that was there before made, and
        this one did not, is removed.
      explanations: of all films.

    Returns:
      What is in explain.json.
    """
    labels = list(run.meta["labels"])
    systems = facts.get("systems", {})
    report = {
        "run": {"step": run.step, "network": options.network, "seed": run.config.seed,
                "image_size": run.config.image_shape[0]},
        "method": options.method, "finer": options.finer,
        "spread": options.spread, "threshold": options.threshold,
        **{k: v for k, v in facts.items() if k not in ("systems", "published")},
        "scores": {
            name: {rule: scores.as_dict(labels) for rule, scores in judged.items()}
            for name, judged in systems.items()
        },
        "published": [dataclasses.asdict(p) for p in facts.get("published", ())],
        "labels": labels, "sheets": dict(sheets), "pictures": list(overlays),
        "probabilities": {e.name: [round(float(p), 6) for p in e.probabilities]
                          for e in explanations},
    }
    gallery.remove(folder, gallery.of_before(folder) - {*sheets.values(), *overlays})
    write_text(folder / "explain.json", json.dumps(report, indent=1) + "\n")
    write_text(folder / "explain.md", _markdown(report, systems, facts, labels))
    return report


def _markdown(
    report: Mapping[str, Any], systems: Mapping[str, marking.Judged], facts: Mapping[str, Any],
    labels: Sequence[str],
) -> str:
    run, mark = report["run"], provenance.mark(report.get("seen", ""))
    lines = [
        f"# Where {run['network']} looked{mark}", "",
        f"- {heatmaps.TITLES[report['method']]}; a region is what reaches "
        f"{report['threshold']:.0%} of its map's maximum"
        + f"; maps {report['finer']} times as fine as the network's last" * (report["finer"] > 1)
        + "; heat spread over what a cell sees" * report["spread"],
        f"- checkpoint at step {run['step']}, seed {run['seed']}, films of {run['image_size']} "
        "pixels",
    ]
    if report.get("seen"):
        lines.append(f"- **{report['seen']}**")
    if report.get("protocol"):
        lines.append(f"- {report['protocol']}; {report['source']} split")
    if systems:
        left_out = report["boxes_left_out"]
        lines += [
            f"- {report['boxes']:,} boxes on {report['films']:,} films"
            + (f"; {left_out:,} boxes are on films of other splits, or not at hand" if left_out
               else ""),
            "", f"## Agreement with the marked boxes{mark}", "", *_explanation_of_scores(),
            "", scores_table({n: s["largest"] for n, s in systems.items()}, labels),
            "", f"## Means by other rules{mark}", "",
            "What is compared with a marked box where a map has several regions: `largest` is the "
            "table above; `any` the best of them, so that wrong ones cost nothing (Wang et al. "
            "2017); `hull` the one box round all.", "", *_rules_table(systems),
        ]
    if facts.get("published"):
        lines += ["", *_published_table(facts["published"])]
    lines += ["", f"## Pictures{mark}", ""]
    lines += [f"- {name.replace('_', ' ')}: ![{name}](<{file}>)"
              for name, file in report["sheets"].items()]
    return "\n".join(lines) + "\n"


def _explanation_of_scores() -> list[str]:
    return [
        "Parts of the boxes found: intersection over union (IoU) above a threshold, and "
        "intersection over the predicted box (IoBB), by the largest region of the finding's map; "
        "`pointing` is the part of marked films whose highest point lies in a box; `regions` the "
        "number of regions a map. Controls, on the same boxes:", "",
        f"- `{marking.OTHER_FINDING}`: the same network's map of a finding, drawn at random, that "
        "is not marked on the film; a map that shows findings, not merely lungs, beats it",
        f"- `{marking.RANDOM_WEIGHTS}`: the maps of the same network before any training",
        f"- `{marking.RANDOM_POSITION}`: boxes of the same sizes as the map's at random places, "
        "and a random point (expectation over 200 draws)",
    ]


def _rules_table(systems: Mapping[str, marking.Judged]) -> list[str]:
    titles = ["system", "rule", *_ABOVE]
    rows = []
    for name, judged in systems.items():
        for rule, scores in judged.items():
            mean = scores.mean()
            rows.append([name, rule, *(f"{v:.3f}" for v in (*mean["iou"], *mean["iobb"]))])
    return tables.table(titles, rows)


def _published_table(published: Sequence[Any]) -> list[str]:
    """Figures of others, apart from ours: neither rule nor boxes need be the same."""
    keys = list(dict.fromkeys(k for p in published for k in p.figures))
    rows = [
        [p.name, *(f"{p.figures[k]:.3f}" if k in p.figures else "-" for k in keys), p.protocol]
        for p in published
    ]
    lines = ["## Published figures", "",
             "Of other networks by other protocols, and so in no column with ours.", "",
             *tables.table(["result", *keys, "protocol"], rows)]
    for p in published:
        if p.per_label:
            lines += ["", f"{p.name}, {p.protocol}, by finding: " + ", ".join(
                f"{name} {value:.3f}" for name, value in p.per_label.items()) + "."]
    return lines


def scores_table(systems: Mapping[str, Scores], findings: Sequence[str]) -> str:
    """The scores of several systems (model, randomised weights, random position) in one table.

    One line per finding with boxes and system, then the means; findings without a box are named
    below it. All systems must have judged the same boxes.

    Raises:
      UserError: systems that judged different boxes.
    """
    boxes = next(iter(systems.values())).boxes
    if any((scores.boxes != boxes).any() for scores in systems.values()):
        raise UserError("systems in one table must be judged on the same boxes")
    titles, rows = ["finding", "boxes", "system", *_ABOVE, "pointing", "regions"], []

    def numbers(iou: Any, iobb: Any, pointing: Any, regions: Any) -> list[str]:
        return [f"{v:.3f}" for v in (*iou, *iobb, pointing)] + [f"{regions:.1f}"]

    seen = np.flatnonzero(boxes)
    for k in seen:
        for name, scores in systems.items():
            values = numbers(scores.iou[k], scores.iobb[k], scores.pointing[k], scores.regions[k])
            rows.append([findings[k], boxes[k], name, *values])
    for name, scores in systems.items():
        mean = scores.mean()
        label = f"**mean of {mean.pop('findings')}**"
        rows.append([label, boxes.sum(), name, *numbers(**mean)])
    lines = tables.table(titles, rows, right={1, *range(3, len(titles))})
    unseen = [name for k, name in enumerate(findings) if k not in set(seen.tolist())]
    if unseen:
        lines += ["", f"No box, not judged: {', '.join(unseen)}."]
    return "\n".join(lines) + "\n"
