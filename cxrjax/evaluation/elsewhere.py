"""Another hospital: a run judged on films of a data set that it does not know.

    python launch.py --mode=evaluate --workdir=runs/d121 --dataset=configs/vindr_cxr.py

What a network is does not change with the films: they are prepared as those of home (size, fit,
artefacts, gray, normalisation), the thresholds and the calibration of home are applied as they are,
and labels meet by the written table of synonyms. Labels that only one side knows are counted and
named. Films or patients that the run, or what it came from, was trained or tuned on are refused.
The figures stand beside those at home (`beside_home`).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from cxrjax.data import input_pipeline, progress, sets
from cxrjax.data.sets._synonyms import canonical
from cxrjax.data.sets.base import SPLITS, Films
from cxrjax.errors import UserError
from cxrjax.evaluation import answers as own_answers
from cxrjax.evaluation import beside_home, circumstances, cohort, judge, report
from cxrjax.evaluation.answers import Answers, read_answers
from cxrjax.evaluation.outputs import predict_split, run_facts
from cxrjax.evaluation.provenance import refuse_seen
from cxrjax.metrics import subgroups
from cxrjax.metrics.ranking import log_odds
from cxrjax.names import program, suggest
from cxrjax.training import devices, processes, published, steps
from cxrjax.training.restored import Run, restore
from cxrjax.training.workdir import claim

PREPARED = ("image_size", "fit", "remove_artifacts", "reading")  # as at home


@dataclasses.dataclass(frozen=True)
class Met:
    """Labels of two data sets that are the same.

    Attributes:
      home, there: positions in the labels of either, pair by pair.
      names: of the pairs, as home calls them.
      otherwise: those that the other set calls otherwise, 'Effusion = Pleural effusion'.
      only_home, only_there: labels without a partner.
      not_asked: pairs that --labels leaves out.
      whole: whether one of N at home is one of the same N there.
    """

    home: tuple[int, ...]
    there: tuple[int, ...]
    names: tuple[str, ...]
    otherwise: tuple[str, ...]
    only_home: tuple[str, ...]
    only_there: tuple[str, ...]
    not_asked: tuple[str, ...]
    whole: bool


def evaluate(
    workdir: str | pathlib.Path | None, config: Any, which: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | pathlib.Path | None = None, tta: bool = False,
    prevalence: float | None = None, allow_seen: bool = False, labels: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Judges a run on another data set and writes the report, to workdir/evaluation_NAME/<split>.

    Args:
      workdir: of the training; evaluated at home, where its thresholds were chosen.
      config: an experiment's config; its `dataset` names the films.
      which: checkpoint, 'best' or 'latest'.
      split: of the other data set: 'train', 'val', 'test' or 'all'.
      data_dir: where its prepared films are, if not where the config says.
      output: folder of the report.
      tta: average over each film and its mirror image.
      prevalence: PPV and NPV are given where this share of films is positive, too.
      allow_seen: judge it on films that it, or what it came from, was trained or tuned on.
      labels: names of the common labels that are judged, 'Effusion,Mass'; None: all.
      overwrite: whatever the folder holds, see `workdir.claim`.

    Returns:
      The report as written to report.json.

    Raises:
      UserError: no thresholds of home for these weights, no such films, or no common label.
    """
    workdir = published.located(workdir)
    run = restore(workdir, which, tta)
    answers = read_answers(workdir, run)
    options, said = prepared_as_home(run, config, data_dir)
    try:
        films = sets.load(options)
    except UserError as error:
        if "is not prepared" not in str(error):
            raise
        own = " ".join(f"--config.dataset.{key}={options[key]}" for key in PREPARED
                       if key in options)
        raise UserError(f"{error}, prepared as at home: {own}") from None
    met = meet(run, films, labels)
    masks = [name for name in films.masks if name in run.meta.get("masks", ())]
    films = chosen_films(run, films, split)
    seen = refuse_seen(run, films, "test", allow_seen, options["name"], elsewhere=True)
    if not answers.rule:
        raise UserError(
            f"{workdir} has no thresholds for this checkpoint{' with --tta' * tta}: first run "
            f"{program()} --mode=evaluate --workdir={workdir}, which chooses them at home"
            + f" ({'; '.join(answers.said)})" * bool(answers.said))
    name = re.sub(r"[^\w.-]+", "_", options["name"].strip(":"))
    folder = published.output(workdir, output, f"evaluation_{name}/{split}")
    folder = processes.scratch() or folder
    claim(folder, f"an evaluation on {name}'s {split} split", [workdir], "report.json", overwrite)
    devices.announce()
    return _evaluate(run, answers, films, met, folder, prevalence, {
        "workdir": workdir, "which": which, "seen": seen, "said": said, "name": name,
        "split": split, "account": sets.account(options, films), "masks": masks})


def prepared_as_home(
    run: Run, config: Any, data_dir: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The options of the other data set with home's preparation, and what that overrules."""
    options, said = config.dataset.to_dict(), []
    home = {**run.config.dataset.to_dict(), "image_size": run.config.image_shape[0]}
    for key in PREPARED:
        if home.get(key) is not None and options.get(key, home[key]) != home[key]:
            said.append(f"{key} = {home[key]!r}, not {options[key]!r} of its config")
            options[key] = home[key]
    for key in ("mean", "std"):
        ours, theirs = (c.get("normalize", {}).get(key) for c in (run.config, config))
        if theirs is not None and ours != theirs:
            said.append(f"normalize.{key} = {ours!r}, not {theirs!r} of its config")
    if data_dir:
        options["data_dir"] = data_dir
    return options, said


def meet(run: Run, films: Films, labels: str | None = None) -> Met:
    """Which labels of the run the other films have.

    Raises:
      UserError: none, or one of `labels` is none of them.
    """
    ours = tuple(run.meta["labels"])
    pairs, only_home, only_there = sets.match_labels(ours, films.labels)
    if not pairs:
        raise UserError(f"no label is on both sides: home has {', '.join(ours)}; the other films "
                        f"have {', '.join(films.labels)}")
    wanted = pairs
    if labels:
        by_name = {canonical(ours[i]): (i, j) for i, j in pairs}
        wanted = []
        for name in labels.split(","):
            if canonical(name) not in by_name:
                raise UserError(f"--labels: {name!r} is not on both sides"
                                + suggest(name, [ours[i] for i, _ in pairs]))
            wanted.append(by_name[canonical(name)])
        wanted = sorted(set(wanted))
    one = run.meta["task"] == films.task == "multiclass"
    return Met(
        home=tuple(i for i, _ in wanted), there=tuple(j for _, j in wanted),
        names=tuple(ours[i] for i, _ in wanted),
        otherwise=tuple(f"{ours[i]} = {films.labels[j]}" for i, j in wanted
                        if ours[i] != films.labels[j]),
        only_home=tuple(only_home), only_there=tuple(only_there),
        not_asked=tuple(ours[i] for i, j in pairs if (i, j) not in wanted),
        whole=one and len(wanted) == len(ours) == len(films.labels),
    )


def chosen_films(run: Run, films: Films, split: str) -> Films:
    """The films with those of the split, or 'all', as their test split and no others.

    Raises:
      UserError: there are none, or they have another size than those of home.
    """
    if split == "all":
        at = np.sort(np.concatenate([films.splits[s] for s in SPLITS]))
    elif split in films.splits:
        at = films.splits[split]
    else:
        raise UserError(f"unknown split {split!r}" + suggest(split, [*SPLITS, "all"]))
    if not len(at):
        raise UserError(f"the {split} split has no films: {films.info.get('protocol', '')}; "
                        "--split=all takes every film")
    shape, ours = films.source[int(at[0])]["image"].shape, tuple(run.config.image_shape)
    if tuple(shape) != ours:
        raise UserError(f"the films have {shape[0]}x{shape[1]} pixels, the run takes "
                        f"{ours[0]}x{ours[1]}: prepare them at that size")
    none = np.zeros(0, np.int64)
    return dataclasses.replace(films, splits={"train": none, "val": none, "test": at}, masks=())


def yes_no(
    answers: Answers, met: Met, logits: dict[str, np.ndarray]
) -> tuple[Answers, dict[str, np.ndarray]]:
    """Answers and logits of the common labels, each for itself unless all of N are there."""
    if met.whole:
        return answers, logits
    return answers.of_labels(met.home), {
        name: log_odds(z, answers.task)[:, list(met.home)] for name, z in logits.items()}


def _evaluate(
    run: Run, answers: Answers, films: Films, met: Met, folder: pathlib.Path,
    prevalence: float | None, asked: dict[str, Any],
) -> dict[str, Any]:
    clock = circumstances.Clock()
    mesh, positions = steps.make_mesh(), films.splits["test"]
    ids, outputs = predict_split(
        run, films, "test", steps.jit_predict(run.predict, mesh), mesh, clock)
    progress.say(f"judging {len(ids):,} films by {len(met.names)} labels")
    used, logits = yes_no(answers, met, {name: out["logits"] for name, out in outputs.items()})
    labels = input_pipeline.labels_of(films, positions)[:, list(met.there)]
    unit, clusters = films.clusters(positions)
    own = {c: films.table[c][positions] for c in subgroups.COLUMNS if c in films.table}
    groups = subgroups.groups(own)
    weights = own_answers.weights_of(run)
    judged = {
        name: judge.judge_network(
            labels, z, None, None, met.names, used.task, clusters, prevalence=prevalence,
            groups=groups, answers=used, network=name,
        )
        for name, z in logits.items()
    }
    home, missing = beside_home.read(asked["workdir"], weights, run.tta)
    facts = run_facts(run, asked["workdir"], asked["which"], used, weights, asked["seen"])
    result = {
        "run": facts, "labels": list(met.names), "task": used.task,
        "split": f"{asked['name']} {asked['split']}",
        "labels_version": films.info.get("labels_version", ""),
        "split_name": films.info.get("split", ""), "protocol": films.info.get("protocol", ""),
        "films": len(ids), "intervals": judge.INTERVALS.format(unit),
        "structures": [], "networks": judged,
        "elsewhere": {
            "dataset": asked["name"], "home": run.meta["dataset"].get("protocol", ""),
            "otherwise": list(met.otherwise), "only_home": list(met.only_home),
            "only_there": list(met.only_there), "not_asked": list(met.not_asked),
            "prepared_as_home": asked["said"], "fingerprint": films.info.get("fingerprint"),
            "calibration_left_out": bool(answers.fitted and not used.fitted),
            "not_at_home": missing, "masks_not_judged": asked["masks"],
            "beside": {
                own.network: beside_home.compare(
                    own, answers, used, met.home, labels, logits[own.network], clusters,
                    judged[own.network],
                ) for own in home
            },
        },
    }
    at_home = next((own.report.get("cohort") for own in home), None)
    result["cohort"] = cohort.beside_home(
        at_home, films, asked["account"],
        {films.labels[j]: run.meta["labels"][i] for i, j in zip(met.home, met.there)})
    result |= {"made": circumstances.facts(run, films, clock), "films shown": True}
    progress.say("writing the report")
    report.write(folder, result, ids, labels, logits, (), {unit: clusters}, used,
                 show=lambda i: films.source[int(positions[i])]["image"][..., 0])
    beside_home.write_csv(folder / "beside_home.csv", result, report.seen_mark(facts).strip())
    print(report.headline(result))
    print("\n".join(beside_home.headline(result)))
    print(f"report: {folder / 'report.md'}")
    return result
