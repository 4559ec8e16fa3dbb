"""The model card of a published network: what it is for, how good it was, on whom, its limits."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cxrjax import __version__
from cxrjax.errors import UserError
from cxrjax.evaluation.answers import Answers
from cxrjax.metrics import intervals
from cxrjax.tables import figure, interval, number, table
from cxrjax.training import provenance
from cxrjax.training.restored import Run

NAME = "README.md"
PURPOSE = "Research and teaching. Not a medical device, not for clinical use."
_SPLITS = ("test", "val")


def purpose_of(run: Run) -> str:
    """What the run is for: `config.intended_use`, or research."""
    return run.config.get("intended_use") or PURPOSE


def reports_of(workdir: pathlib.Path, step: int, checkpoint: str) -> dict[str, dict[str, Any]]:
    """{split: report} of the workdir's evaluations of this checkpoint; others are said.

    Raises:
      UserError: one is damaged.
    """
    found = {}
    for split in _SPLITS:
        path = workdir / "evaluation" / split / "report.json"
        if not path.is_file():
            continue
        try:
            report = json.loads(path.read_text())
            run = report["run"]
            if (run["step"], run["checkpoint"]) != (step, checkpoint):
                print(f"{path} is of another checkpoint: its figures are left out")
                continue
            found[split] = report
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): evaluate again") from None
    return found


def text(
    run: Run, reports: Mapping[str, Mapping[str, Any]], license: str, name: str, answers: Answers
) -> str:
    """The card as Markdown, with the front matter that the hub reads.

    Args:
      run: the published one.
      reports: see `reports_of`.
      license: of the weights, '' where it is not stated.
      name: to load it by.
      answers: thresholds and calibration that go with it.
    """
    title = name.rpartition("/")[2].removeprefix("hub:")
    lines = [
        "---", "library_name: cxrjax", f"license: {license or 'unknown'}",
        "pipeline_tag: image-classification",
        "tags:", "- chest-x-ray", "- radiology", "- medical", "- jax", "---", "",
        f"# {_plain(title)}", "", *_what(run), "",
        "## Intended use", "",
        "For research: to compare methods, to start another network from, to be evaluated on other "
        "films. It is no medical device. Nobody has shown that a patient fares better where it is "
        "asked; it must not decide, alone or first, on anybody's care.", "",
        *([f"Whoever trained it says: {_plain(purpose_of(run))}", ""]
          if purpose_of(run) != PURPOSE else []),
        "## How to use it", "", "```python", "import cxrjax", "",
        f'run = cxrjax.load("{name}")',
        'run.predict("film.png")      # {label: probability}', "```", "",
        f"`cxrjax --mode=predict --workdir={name} --images=FILMS --output=new.csv` does the same "
        "(`evaluate` and `explain` likewise), and `--config.init_from=` starts a training from it. "
        "Loading asks for two drawn films first and compares the answers with the publisher's.", "",
        *_input(run), "", *_answers(answers), "", *_figures(reports), "", *_limits(run, reports),
        "", *_provenance(run), "", *_licence(run, license), "",
        f"Written by cxrjax {__version__}.",
    ]
    return "\n".join(lines) + "\n"


def about(run: Run, reports: Mapping[str, Mapping[str, Any]], answers: Answers) -> str:
    """What a reader of its answers has to know of a run, as Markdown: the card without what is
    about publishing."""
    lines = [*_what(run), "", f"**{_plain(purpose_of(run))}**", "", *_figures(reports), "",
             *_limits(run, reports), "", *_answers(answers), "", *_input(run)]
    return "\n".join(lines) + "\n"


def _plain(text: Any) -> str:
    """Text of a config or file in a line of Markdown."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    return text.replace("|", "\\|").replace("<", "&lt;")


def _what(run: Run) -> list[str]:
    sizes = ", ".join(f"`{n}` ({_size(s.params):,} parameters)" for n, s in run.states.items())
    kind = ("each label a yes or no of its own" if run.meta["task"] == "multilabel"
            else "one class of all")
    labels = ", ".join(_plain(label) for label in run.meta["labels"])
    return [
        f"A network for frontal chest radiographs: {sizes}, trained by the scheme "
        f"`{_plain(run.config.scheme.name)}`, step {run.step:,}.", "",
        f"**{len(run.meta['labels'])} labels** ({kind}): {labels}.",
        *([f"\n**It segments**: {', '.join(map(_plain, run.meta['masks']))}."]
          if _has_decoder(run) else []),
    ]


def _size(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


def _has_decoder(run: Run) -> bool:
    return bool(run.meta["masks"]) and any("decoder" in s.params for s in run.states.values())


def _input(run: Run) -> list[str]:
    side, scale = run.config.image_shape[0], run.config.normalize
    options = run.config.dataset
    rows = [
        ["size", f"{side} x {side} pixels, gray, 8 bits, white is dense"],
        ["fitted to it by", _plain(options.get("fit", "the data set's own way"))],
        ["bright artefacts", "removed" if options.get("remove_artifacts") else "left in"],
        ["scale", f"(film / 255 - {scale['mean']:g}) / {scale['std']:g}"],
        ["dtype", _plain((run.config.get("model") or {}).get("dtype", "float32"))],
    ]
    return ["## Input", "", "Films are read, fitted and scaled by cxrjax itself.", "",
            *table(["films", "as the network takes them"], rows)]


def _answers(answers: Answers) -> list[str]:
    lines = ["## Output", "",
             "Probabilities " + ("are **calibrated**: fitted on " + _plain(answers.fitted) + "."
                                 if answers.calibrated else
                                 "are the network's own, **not calibrated**: at another prevalence "
                                 "they are too high or too low.")]
    if answers.rule:
        lines += ["", f"Thresholds: {answers.rule_in_words}.", ""]
        names = list(answers.cuts)
        found = {n: answers.thresholds(n) or {} for n in names}
        lines += table(["label", *names], [
            [_plain(label), *(number(found[n].get(label)) for n in names)]
            for label in answers.labels], range(1, len(names) + 1))
    else:
        lines += ["", "No thresholds were chosen: a probability alone decides nothing."]
    return lines


def _figures(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["## Figures", ""]
    if not reports:
        return [*lines, "**It was not evaluated** before this was written: how good it is is not "
                        "known."]
    for split, report in reports.items():
        run = report["run"]
        lines += [f"### {split} split", "", f"Protocol: {_plain(report['protocol'])}.", "",
                  f"{report['films']:,} films; 95% intervals: {_plain(report['intervals'])}"
                  + ("; each answer is the mean over a film and its mirror image" * bool(
                      run.get("tta"))) + ".", ""]
        if run.get("seen"):
            lines += [f"**{_plain(provenance.without_folders(run['seen']))}**", ""]
        if split == "val":
            lines += ["**Too good**: these films chose the checkpoint and the thresholds.", ""]
        for network, judged in report["networks"].items():
            lines += _network(network, judged, report["labels"])
    return lines[:-1]


def _network(network: str, judged: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    macro, own = judged["macro"], judged.get("figures", {}).get("labels", {})
    said = ", ".join(
        f"{key} {number(macro[key])} ({interval(macro.get(f'{key} low'), macro.get(f'{key} high'))}"
        ")" for key in ("macro AUROC", "macro AP", "accuracy", "macro F1", "Dice")
        if macro.get(key) is not None)
    rows, few = [], False
    for label in labels:
        found = own.get(label, {})
        auroc = found.get("AUROC") or {}
        star = bool(auroc) and intervals.few(auroc)
        few |= star
        rows.append([_plain(label) + " \\*" * star, figure(auroc or None),
                     *(figure(found.get(key)) for key in ("sensitivity", "specificity")),
                     *(f"{auroc[k]:,}" if auroc.get(k) is not None else "-"
                       for k in ("positives", "n"))])
    lines = [f"**{_plain(network)}**: {said}", ""]
    lines += table(["label", "AUROC", "sensitivity", "specificity", "positives", "films"], rows,
                   range(1, 6))
    return [*lines, *(["", f"\\* fewer than {intervals.FEW} positives: such a figure says little."]
                      * few), ""]


def _limits(run: Run, reports: Mapping[str, Any]) -> list[str]:
    name = run.config.dataset.name
    lines = [
        "- Its figures are those of the films above. Other machines, hospitals, ages and "
        "prevalences give others: evaluate it on your own films before you rely on it.",
        "- It answers on any picture that it is given, also one that is no frontal chest film.",
        "- Labels of public sets are mostly read out of reports by programs, with their errors.",
        "- What a heat map marks is where the network looked, no outline of a disease.",
    ]
    if name == "phantom":
        lines.insert(0, "- **Its films are synthetic**: it knows no patient's film and says "
                        "nothing about one.")
    if name == "covid_radiography":
        lines.append("- In its data the class follows the hospital: it may know hospitals, not "
                     "disease.")
    if not any("subgroups" in n for r in reports.values() for n in r["networks"].values()):
        lines.append("- How it does by sex, age and view was not judged.")
    return ["## Limits", "", *lines]


def _provenance(run: Run) -> list[str]:
    facts, meta = run.meta["dataset"], run.meta
    seen = meta["seen"]
    lines = ["## Where it comes from", "",
             f"- films: `{_plain(run.config.dataset.name)}`, "
             f"{_plain(facts.get('protocol', 'no protocol stated'))}",
             *([f"- fingerprint of the prepared films: `{_plain(facts['fingerprint'])}`"]
               if facts.get("fingerprint") else []),
             f"- weights at the start: {_plain(run.config.get('init_from') or 'random')}",
             f"- seed {run.config.seed}; {run.step / meta['steps_per_epoch']:.1f} epochs; "
             + ", ".join(f"{_plain(k)} {_plain(v)}" for k, v in meta["versions"].items())]
    lines += [f"- {_plain(text)}" for text in (*meta.get("changed", ()), meta.get("recalibrated"))
              if text]
    lines += [f"- it came from {_plain(entry['who'])}" for entry in seen["entries"][1:]]
    lines += [f"- it came from {_plain(text)}" for text in seen["unknown"]]
    rows = [[split, f"{own['films']:,}", f"`{own['sha256'][:16]}...`"]
            for split, own in meta["published"]["ids"].items()]
    lines += ["", *table(["split", "films", "SHA-256 of the sorted film ids"], rows, [1]), "",
              _privacy(run)]
    return lines


def _privacy(run: Run) -> str:
    said = (
        "No film, no patient and no folder is named in these files. `seen.json` holds hashes of "
        "what the network was trained and tuned on, so that cxrjax refuses to judge it on the same "
        "films: of pixels (where they were recorded), "
    )
    if provenance.is_public(run.config.dataset.name):
        return said + ("and of the names that the data set's publisher gave films and patients. "
                       "Whoever has such a name can test whether it is among them.")
    return said + ("and of nothing else. The films are the publisher's own, and a hash of a "
                   "hospital's number would be no secret, as all numbers can be tried: so other "
                   "films of the same patients are not recognised.")


def _licence(run: Run, license: str) -> list[str]:
    own = f"The weights: **{_plain(license)}**." if license else (
        "The publisher **stated no licence** for the weights: ask before you use them.")
    start = run.config.get("init_from")
    lines = [own, "The films that they were trained on have terms of their own, which hold for "
                  "what is made of them too."]
    if start:
        lines.append(f"So have the weights that it began with ({_plain(start)}).")
    return ["## Licence", "", " ".join(lines)]
