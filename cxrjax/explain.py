"""`--mode=explain`: where a network looked, in pictures, and how well that agrees with boxes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from cxrjax import datasets, evaluate, gallery, heatmaps, localization, predict, preprocess
from cxrjax import marked as marking
from cxrjax.datasets.base import Films
from cxrjax.errors import UserError
from cxrjax.heatmaps import Explanation
from cxrjax.names import suggest
from cxrjax.trained import Run, restore

SHOWN = 3  # findings of a film that stands alone: its most probable ones


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may choose; see the flags of the same names.

    Attributes:
      network: which answer is explained.
      method: one of `heatmaps.METHODS`.
      threshold: part of a map's maximum from which a region stands out.
      findings: numbers of the labels to show, None for the usual ones.
      max_films: films on a contact sheet.
      finer, spread: see `heatmaps.make`.
    """

    network: str
    method: str
    threshold: int | float
    findings: tuple[int, ...] | None
    max_films: int
    finer: int = 1
    spread: bool = False


def choose(
    run: Run, network: str | None, method: str, threshold: int | float,
    findings: str | None, max_films: int, finer: int = 1, spread: bool = False,
) -> Options:
    """The options as given on the command line, checked against the run.

    Raises:
      UserError: an unknown network, method or finding; a threshold or number out of range.
    """
    labels = list(run.meta["labels"])
    numbers = None
    if findings:
        for name in findings.split(","):
            if name not in labels:
                raise UserError(f"--findings: no finding {name!r}" + suggest(name, labels))
        numbers = tuple(labels.index(name) for name in findings.split(","))
    if not 0 < threshold <= 1:
        raise UserError(
            f"--threshold={threshold:g}: a part of the map's maximum, above 0 and at most 1"
        )
    if max_films < 1:
        raise UserError(f"--max_films={max_films}: at least one film a sheet")
    if method not in heatmaps.METHODS:
        raise UserError(f"unknown method {method!r}" + suggest(method, heatmaps.METHODS))
    answer = heatmaps.choose_network(run, network)
    return Options(answer, method, threshold, numbers, max_films, finer, spread)


def main(
    workdir: str | None, images: str | None = None, checkpoint: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | None = None, config: Any = None,
    method: str = "grad_cam", threshold: int | float = 0.5, network: str | None = None,
    findings: str | None = None, max_films: int = 12, finer: int = 1,
    spread: bool = False,
) -> int:
    """Explains films on disk, else the films of a split; status 1 if a film could not be read.

    Args:
      config: names another data set with the same labels, whose films are explained instead of
        those that the run was trained on.
    """
    paths = predict.find_films(images) if images else []
    run = restore(workdir, checkpoint)
    options = choose(run, network, method, threshold, findings, max_films, finer, spread)
    folder = pathlib.Path(output).expanduser() if output else pathlib.Path(workdir) / "explain"
    folder.mkdir(parents=True, exist_ok=True)
    if paths:
        return explain_paths(run, options, paths, folder)
    if config is not None:
        films = _other_films(run, config, data_dir)
    else:
        films = evaluate.open_films(run, data_dir)
    if split not in films.splits:
        raise UserError(f"unknown split {split!r}" + suggest(split, films.splits))
    name = _dataset_options(run, config, data_dir)["name"]
    published = getattr(datasets.module(name), "PUBLISHED_BOXES", ())
    boxes = _boxes(run, config, data_dir)
    explain_split(run, options, films, boxes, split, folder, published)
    return 0


def _other_films(run: Run, config: Any, data_dir: str | None) -> Films:
    films = datasets.load(_dataset_options(run, config, data_dir))
    if list(films.labels) != list(run.meta["labels"]):
        raise UserError(
            f"the run knows the labels {', '.join(run.meta['labels'])}; the films of --config have "
            f"{', '.join(films.labels)}"
        )
    size = films.source[0]["image"].shape[0]
    if size != run.config.image_shape[0]:
        raise UserError(
            f"the films of --config have {size} pixels, the run takes "
            f"{run.config.image_shape[0]}: prepare them with "
            f"--config.dataset.image_size={run.config.image_shape[0]}"
        )
    evaluate.check_not_trained_on(run, films, "the split of --config is not the run's")
    return films


def _dataset_options(run: Run, config: Any, data_dir: str | None) -> dict[str, Any]:
    options = (run.config if config is None else config).dataset.to_dict()
    return {**options, "data_dir": data_dir} if data_dir else options


def _boxes(run: Run, config: Any, data_dir: str | None) -> list[tuple[str, str, tuple]]:
    """The boxes of the data set; none where it has none, which is said."""
    options = _dataset_options(run, config, data_dir)
    if not hasattr(datasets.module(options["name"]), "boxes"):
        print(f"{options['name']} has no boxes: pictures, but no scores")
        return []
    return datasets.boxes(options)


def _maps(run: Run, options: Options) -> Any:
    return heatmaps.make(run, options.network, options.method, options.finer, options.spread)


def _how(run: Run, options: Options) -> str:
    size = run.config.image_shape[0]
    method = heatmaps.METHODS[options.method] + f" x{options.finer}" * (options.finer > 1)
    return f"{options.network}, {method}{', spread' * options.spread}, {size} px"


def _style(run: Run, options: Options, fit: str) -> gallery.Style:
    labels = run.meta["labels"]
    return gallery.Style(labels, _how(run, options), options.threshold, fit)


def _most_probable(
    explanations: Sequence[Explanation], options: Options, number: int
) -> dict[int, list[int]]:
    """{finding: the films on its sheet}, the most probable first."""
    probabilities = np.array([e.probabilities for e in explanations])
    order = np.argsort(-probabilities, axis=0, kind="stable")[: options.max_films]
    wanted = range(number) if options.findings is None else options.findings
    return {k: order[:, k].tolist() for k in wanted}


def explain_paths(
    run: Run, options: Options, paths: Sequence[pathlib.Path], folder: pathlib.Path
) -> int:
    """Films on disk: each one's most probable findings, and a sheet for every finding."""
    failures: predict.Failures = []
    compiled = _maps(run, options)
    films = tqdm(predict.read_all(run, paths, failures), "explaining", len(paths), unit="film")
    named = ((str(path), ready) for path, _, ready in films)
    size = min(heatmaps.BATCH, len(paths))
    explanations = list(heatmaps.explain(run, compiled, run.states, named, size))
    if explanations:
        shown = [
            (i, int(k))
            for i, e in enumerate(explanations)
            for k in (options.findings or np.argsort(-e.probabilities, kind="stable")[:SHOWN])
        ]
        shots = gallery.Gallery(
            explanations,
            show=lambda i: preprocess.read_radiograph(explanations[i].name),
            sheets=_most_probable(explanations, options, len(run.meta["labels"])),
            overlays=shown,
        )
        fit = run.config.dataset.get("fit", "stretch")
        note = f"the {options.max_films} most probable of {len(explanations):,} films"
        if len(explanations) <= options.max_films:
            note = "most probable film first"
        sheets = gallery.write_pictures(folder, shots, _style(run, options, fit), note)
        facts = {"films": len(explanations), "source": "files"}
        _write_report(run, options, folder, facts, sheets, explanations)
    print(f"{len(explanations):,} films explained: {folder}")
    return predict.report_failures(failures, len(paths))


def explain_split(
    run: Run, options: Options, films: Films, boxes: Sequence[tuple[str, str, tuple]],
    split: str, folder: pathlib.Path, published: Sequence[Any] = (),
) -> dict[str, Any]:
    """The films of a split: those with boxes, scored; without boxes the most probable ones.

    Returns:
      The report as written to explain.json.
    """
    fit, size = run.config.dataset.get("fit", "stretch"), run.config.image_shape[0]
    marked = marking.find_marked(films, boxes, split, fit, size)
    if boxes and not len(marked.box):
        raise UserError(
            f"none of the {len(boxes):,} boxes is on a film of the {split} split that is at hand"
        )
    if boxes and options.findings is not None and not any(
        k in options.findings for _, k in marked.cases
    ):
        names = ", ".join(films.labels[k] for k in options.findings)
        raise UserError(
            f"--findings: no film of the {split} split has a box of {names} (there are boxes of "
            f"{', '.join(films.labels[k] for k in sorted({k for _, k in marked.cases}))})"
        )
    positions = marked.positions if boxes else films.splits[split]
    compiled = _maps(run, options)

    def explained(states: Any, what: str) -> list[Explanation]:
        named = _records(films, positions, what)
        return list(heatmaps.explain(run, compiled, states, named))

    explanations = explained(run.states, options.network)
    facts = {
        "films": len(explanations), "source": split, "protocol": films.info.get("protocol", ""),
    }
    if boxes:
        fresh = explained(heatmaps.fresh_states(run, seed=1), marking.RANDOM_WEIGHTS)
        number = len(films.labels)
        systems = marking.judge_all(
            marked, options.network, explanations, fresh, number, options.threshold
        )
        facts |= {
            "boxes": len(marked.box), "boxes_left_out": marked.left_out,
            "systems": systems, "published": published,
        }
        cases = [c for c in marked.cases if options.findings is None or c[1] in options.findings]
        sheets = {k: [f for f, g in cases if g == k][: options.max_films] for k in range(number)}
        note = f"the first {options.max_films} marked films of the {split} split"
    else:
        sheets = _most_probable(explanations, options, len(films.labels))
        note = f"the most probable of {len(explanations):,} films of the {split} split"
    shots = gallery.Gallery(
        explanations,
        show=lambda i: films.source[int(positions[i])]["image"][..., 0],
        sheets={k: v for k, v in sheets.items() if v},
        overlays=[(f, k) for k, chosen in sheets.items() for f in chosen],
        marked=marked if boxes else None,
    )
    # The films of a data set are the network's squares already.
    names = gallery.write_pictures(folder, shots, _style(run, options, "stretch"), note)
    report = _write_report(run, options, folder, facts, names, explanations)
    print(f"{len(explanations):,} films explained: {folder / 'explain.md'}")
    return report


def _records(films: Films, positions: np.ndarray, what: str) -> Iterator[tuple[str, np.ndarray]]:
    for position in tqdm(positions, what, unit="film"):
        record = films.source[int(position)]
        yield str(record["id"]), record["image"]


# --- the report


def _write_report(
    run: Run, options: Options, folder: pathlib.Path, facts: Mapping[str, Any],
    sheets: Mapping[str, str], explanations: Sequence[Explanation],
) -> dict[str, Any]:
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
        "labels": labels, "sheets": dict(sheets),
        "probabilities": {e.name: [round(float(p), 6) for p in e.probabilities]
                          for e in explanations},
    }
    (folder / "explain.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "explain.md").write_text(_markdown(report, systems, facts, labels))
    return report


def _markdown(
    report: Mapping[str, Any], systems: Mapping[str, marking.Judged], facts: Mapping[str, Any],
    labels: Sequence[str],
) -> str:
    run = report["run"]
    lines = [
        f"# Where {run['network']} looked", "",
        f"- {heatmaps.METHODS[report['method']]}; a region is what reaches "
        f"{report['threshold']:.0%} of its map's maximum"
        + f"; maps {report['finer']} times as fine as the network's last" * (report["finer"] > 1)
        + "; heat spread over what a cell sees" * report["spread"],
        f"- checkpoint at step {run['step']}, seed {run['seed']}, films of {run['image_size']} "
        "pixels",
    ]
    if report.get("protocol"):
        lines.append(f"- {report['protocol']}; {report['source']} split")
    if systems:
        left_out = report["boxes_left_out"]
        lines += [
            f"- {report['boxes']:,} boxes on {report['films']:,} films"
            + (f"; {left_out:,} boxes are on films of other splits, or not at hand" if left_out
               else ""),
            "", "## Agreement with the marked boxes", "", *_explanation_of_scores(),
            "", localization.markdown_table({n: s["largest"] for n, s in systems.items()}, labels),
            "", "## Means by other rules", "",
            "What is compared with a marked box where a map has several regions: `largest` is the "
            "table above; `any` the best of them, so that wrong ones cost nothing (Wang et al. "
            "2017); `hull` the one box round all.", "", *_rules_table(systems),
        ]
    if facts.get("published"):
        lines += ["", *_published_table(facts["published"])]
    lines += ["", "## Pictures", ""]
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


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = "| {} |".format
    return [line(" | ".join(titles)), line(" | ".join("---" for _ in titles)),
            *(line(" | ".join(row)) for row in rows)]


def _rules_table(systems: Mapping[str, marking.Judged]) -> list[str]:
    titles = ["system", "rule", *(f"IoU > {t:g}" for t in localization.IOU_THRESHOLDS),
              *(f"IoBB > {t:g}" for t in localization.IOBB_THRESHOLDS)]
    rows = []
    for name, judged in systems.items():
        for rule, scores in judged.items():
            mean = scores.mean()
            rows.append([name, rule, *(f"{v:.3f}" for v in (*mean["iou"], *mean["iobb"]))])
    return _table(titles, rows)


def _published_table(published: Sequence[Any]) -> list[str]:
    """Figures of others, apart from ours: neither rule nor boxes need be the same."""
    keys = list(dict.fromkeys(k for p in published for k in p.figures))
    rows = [
        [p.name, *(f"{p.figures[k]:.3f}" if k in p.figures else "-" for k in keys), p.protocol]
        for p in published
    ]
    lines = ["## Published figures", "",
             "Of other networks by other protocols, and so in no column with ours.", "",
             *_table(["result", *keys, "protocol"], rows)]
    for p in published:
        if p.per_label:
            lines += ["", f"{p.name}, {p.protocol}, by finding: " + ", ".join(
                f"{name} {value:.3f}" for name, value in p.per_label.items()) + "."]
    return lines
