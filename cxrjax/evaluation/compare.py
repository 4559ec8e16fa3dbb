"""Several evaluated runs on the same films: one table, and how sure each difference is.

Everything is read from the evaluations' own files (report.json, predictions.csv, masks.csv). A run
with several networks contributes each of them. Runs whose configs differ in nothing but the seed
are one experiment: its figures are means over the runs, with their standard deviation.

The interval of a difference is a paired one: what is hard about a film cancels out. For the mean
AUROC it is a closed form (`intervals.paired_mean_auroc`), for the others a bootstrap, both sides
computed from the same resamples of films (of patients, where they are known); with several seeds a
resample's figure is the mean over the runs. Intervals are about the films; how far seeds move a
figure is what the standard deviation says.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from cxrjax import tables
from cxrjax.data import sets
from cxrjax.data.progress import say
from cxrjax.errors import UserError
from cxrjax.evaluation import comparison_plots, report
from cxrjax.evaluation.differences import p_words
from cxrjax.evaluation.saved import MULTICLASS, SavedNetwork, aligned, read_networks, title
from cxrjax.metrics import bootstrap, decisions, intervals, ranking
from cxrjax.metrics import figures as figures_of
from cxrjax.names import suggest, trusting
from cxrjax.training.resume import MAY_CHANGE, flat, with_added
from cxrjax.training.workdir import claim, is_seed_run, seed_runs, write_text

# A field of a member network or of a teacher, and the run's own field that it is a copy of.
_COPY = re.compile(r"(?:teachers\.\w+\.config|networks\.\w+)\.(.+)")
# Fields that name another run, or what was found in it: they change with the seed.
_FOLLOWS = re.compile(r"scheme\.(teachers|workdir|found)|teachers\.\w+\.step")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the comparison: one network of one experiment, trained with one seed or several."""

    name: str
    runs: tuple[SavedNetwork, ...]

    @property
    def seeds(self) -> list[int]:
        return [run.report["run"]["seed"] for run in self.runs]

    def values(self, figure: str) -> list[float]:
        """The figure of each run; empty where they do not have it."""
        found = [run.figures.get(figure) for run in self.runs]
        return [] if None in found else found

    def mean(self, figure: str) -> float:
        return float(np.mean(self.values(figure))) if self.values(figure) else float("nan")

    def spread(self, figure: str) -> float:
        """Standard deviation over the runs (n - 1); NaN for a single one."""
        values = self.values(figure)
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def main(
    workdirs: str | None, split: str = "test", output: str | None = None,
    baseline: str | None = None, allow_seen: bool = False, overwrite: bool = False,
) -> None:
    """`--mode=compare`: writes comparison.md, comparison.json and the pictures."""
    folders = find_workdirs(workdirs)
    place = folders[0].parent
    if is_seed_run(folders[0]) and any(f.parent != place for f in folders):
        place = place.parent  # beside the trainings, not among the seeds of one
    folder = pathlib.Path(output) if output else place / "comparison" / split
    say(f"comparing {len(folders)} runs on the {split} split")
    compare(folders, split, folder, baseline=baseline, allow_seen=allow_seen, overwrite=overwrite)
    page = (folder / "comparison.md").read_text()
    print(page.partition("## Curves")[0].rstrip())
    print(f"comparison: {folder / 'comparison.md'}")


def find_workdirs(workdirs: str | None) -> list[pathlib.Path]:
    """The folders that 'a,b,runs/seed*' means; of a training of several seeds all its runs.

    Raises:
      UserError: fewer than two, one twice, or a pattern that matches nothing.
    """
    found: list[pathlib.Path] = []
    for part in (p.strip() for p in (workdirs or "").split(",")):
        if not part:
            continue
        matches = [part]
        if glob.has_magic(part):  # runs only: a comparison of before lies beside them
            matches = sorted(m for m in glob.glob(part)
                             if seed_runs(m) or any((pathlib.Path(m) / inner).is_dir()
                                    for inner in ("checkpoints", "evaluation")))
        if not matches:
            raise UserError(f"--workdirs: no run matches {part!r}")
        for match in matches:  # a training of several seeds stands for its runs
            found += seed_runs(match) or [pathlib.Path(match)]
    resolved = [f.resolve() for f in found]
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise UserError(f"--workdirs names {folder.name} twice")
    if len(found) < 2:
        raise UserError("give two runs or more: --workdirs=runs/a,runs/b (patterns may be quoted)")
    return found


def compare(
    workdirs: Sequence[pathlib.Path], split: str, folder: pathlib.Path, resamples: int = 1000,
    baseline: str | None = None, allow_seen: bool = False, trust: str | Sequence[str] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Compares evaluated runs and writes the comparison.

    Args:
      workdirs: of the runs, each evaluated on `split`.
      split: 'train', 'val' or 'test'.
      folder: to write to; made where it is missing.
      resamples: of the bootstrap.
      baseline: an entry as the table names it, for differences to it beside those to the best.
      allow_seen: also runs that were judged on films that they had seen; their names say so.
      trust: modules outside of cxrjax that the runs may name as their data set.
      overwrite: whatever the folder holds, see `workdir.claim`.

    Returns:
      What is in comparison.json.

    Raises:
      UserError: a run was not evaluated, or not on the same films, labels, split and masks; there
        is no such entry.
    """
    with trusting(trust):
        networks = [network for workdir in workdirs for network in read_networks(workdir, split)]
    published = getattr(
        sets.module(networks[0].report["run"]["config"]["dataset"]["name"]), "PUBLISHED", ()
    )
    for run in networks:
        if report.seen_mark(run.report["run"]) and not allow_seen:
            raise UserError(f"{run.workdir}: {run.report['run']['seen']}. --allow_seen compares it "
                            "all the same, marked as such")
    networks = aligned(networks)
    entries = group(networks)
    by_name = {entry.name: entry for entry in entries}
    if baseline is not None and baseline not in by_name:
        raise UserError(f"--baseline: no entry {baseline!r}" + suggest(baseline, by_name))
    claim(folder, f"a comparison on the {split} split", workdirs, "comparison.json", overwrite)
    first = networks[0]
    counts = bootstrap.resample(len(first.ids), resamples, seed=0, cluster=first.clusters)
    figures = list(dict.fromkeys(f for run in networks for f in run.figures))
    samples = {entry.name: sample(entry, counts) for entry in entries}
    areas = {entry.name: [intervals.areas(run.labels, run.ranks, run.clusters)
                          for run in entry.runs] for entry in entries}
    result = {
        "split": split, "split_name": first.report["split_name"], "films": len(first.ids),
        "intervals": first.report["intervals"],
        "protocols": {str(n.workdir): n.report["protocol"] for n in networks},
        "baseline": baseline,
        "entries": {
            entry.name: {
                "workdirs": [str(run.workdir) for run in entry.runs], "seeds": entry.seeds,
                "network": entry.runs[0].network,
                "figures": {
                    f: {"mean": entry.mean(f), "sd": entry.spread(f), "values": entry.values(f),
                        **_over_seeds(entry, f, samples[entry.name], areas[entry.name])}
                    for f in figures if entry.values(f)
                },
                "difference to the best": {}, "difference to the baseline": {},
            } for entry in entries
        },
        "configs differ in": differences(entries),
    }
    for figure in figures:
        there = [entry for entry in entries if entry.values(figure)]
        best = max(there, key=lambda entry: entry.mean(figure))
        for other, what in ((best, "best"), (by_name.get(baseline), "baseline")):
            for entry in there if any(other is e for e in there) else ():
                value = entry.mean(figure) - other.mean(figure)
                if figure == "macro AUROC":
                    found = intervals.paired_mean_auroc(areas[entry.name], areas[other.name])
                else:
                    a, b = (samples[e.name][figure] for e in (entry, other))
                    low, high = map(float, bootstrap.difference(a, b))
                    found = {"low": low, "high": high, "p": figures_of.p_value(a - b, value)}
                if entry is other:  # its own difference is none, and so not counted
                    found["p"] = None
                result["entries"][entry.name][f"difference to the {what}"][figure] = {
                    what: other.name, **found, "value": value}
    for what in ("best", "baseline"):
        _correct(result["entries"], f"difference to the {what}")
    write_text(folder / "comparison.json", json.dumps(tables.finite(result), indent=1) + "\n")
    comparison_plots.plot_roc(folder / "roc.png", entries)
    if first.report["task"] == "multiclass":
        comparison_plots.plot_confusions(folder / "confusion.png", entries)
    write_text(folder / "comparison.md", markdown(result, entries, figures, published))
    return result


def _over_seeds(
    entry: Entry, figure: str, samples: Mapping[str, np.ndarray], areas: Sequence[intervals.Areas]
) -> dict[str, float]:
    """{'least', 'most', 'low', 'high'}: the range over the seeds, and the interval over films and
    seeds."""
    if figure == "macro AUROC":
        ends = intervals.mean_auroc_interval([column for run in areas for column in run])
    else:
        ends = bootstrap.interval(samples[figure])
    found = intervals.over_seeds(entry.values(figure), *map(float, ends))
    return {key: found[key] for key in ("least", "most", "low", "high")}


def _correct(entries: Mapping[str, Any], key: str) -> None:
    """Adds Holm's p to the differences of one table, for all of them at once."""
    own = [d for entry in entries.values() for d in entry[key].values()]
    p = intervals.holm(np.array([np.nan if d["p"] is None else d["p"] for d in own], float))
    for difference, corrected in zip(own, p):
        difference["p Holm"] = None if np.isnan(corrected) else float(corrected)


# --- experiments


def settings(run: SavedNetwork) -> dict[str, Any]:
    """The fields of a run's config, and how it was evaluated, that make it another experiment.

    Of the config that is all but the seeds (of the run, of its networks, of its teachers) and what
    follows from them: which run a teacher is, and the groups that were found. Fields that
    are newer than the run have the values that do what it did.
    """
    found = {}
    for key, value in with_added(flat(run.report["run"]["config"])).items():
        own = re.sub(r"^(teachers\.\w+\.config\.)+", "", key)  # a teacher has a config of its own
        seed = own != "dataset.seed" and own.rpartition(".")[2] == "seed"
        if not seed and own not in MAY_CHANGE and not _FOLLOWS.fullmatch(own):
            found[key] = value
    for key in ("checkpoint", "tta", "recalibrated"):  # earlier evaluations do not say all of them
        found[key] = run.report["run"].get(key) or ""
    return found


def group(networks: Sequence[SavedNetwork]) -> list[Entry]:
    """Networks of one name whose runs differ in nothing but the seed, as one entry each."""
    groups: dict[str, list[SavedNetwork]] = {}
    for run in networks:
        key = json.dumps([run.network, settings(run)], sort_keys=True, default=str)
        # A second run of one seed says nothing about seeds: it begins an entry of its own.
        seed = run.report["run"]["seed"]
        while any(other.report["run"]["seed"] == seed for other in groups.get(key, ())):
            key += "'"
        groups.setdefault(key, []).append(run)
    per_workdir: dict[pathlib.Path, int] = {}
    for run in networks:
        per_workdir[run.workdir] = per_workdir.get(run.workdir, 0) + 1

    def names(full: bool) -> list[str]:
        out = []
        for runs in groups.values():
            # The folder of a training of several seeds says more than 'seed-0'.
            places = [run.workdir.parent if is_seed_run(run.workdir) else run.workdir
                      for run in runs]
            folders = [str(place) if full else place.name for place in places]
            name = folders[0]
            if len(runs) > 1:
                shared = os.path.commonprefix(folders)
                if len(set(folders)) > 1:
                    name = re.sub(r"(([-_. ]|^)(seed|s))?[-_. ]*\d*$", "", shared) or name
            several = per_workdir[runs[0].workdir] > 1
            name = f"{name}: {runs[0].network}" if several else name
            out.append(name + report.seen_mark(runs[0].report["run"]))
        return out

    short = names(full=False)
    chosen = short if len(set(short)) == len(short) else names(full=True)
    return [Entry(name, tuple(runs)) for name, runs in zip(chosen, groups.values())]


def differences(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    """{field of the config: its value in each entry} for the fields that are not all the same.

    What a network of several, or a teacher, has in common with its run's own field is left out.
    """

    def telling(fields: Mapping[str, Any]) -> dict[str, Any]:
        copies = {k: _COPY.fullmatch(k) for k in fields}
        return {k: v for k, v in fields.items() if not copies[k] or fields.get(copies[k][1]) != v}

    every = [telling(settings(entry.runs[0])) for entry in entries]
    fields = sorted(set().union(*every))
    values = {f: [own.get(f, "-") for own in every] for f in fields}
    return {f: v for f, v in values.items() if any(x != v[0] for x in v)}


def sample(
    entry: Entry, counts: Float32[np.ndarray, "n r"]
) -> dict[str, Float[np.ndarray, " r"]]:
    """Each figure of an entry but its AUROC in every resample: the mean over its runs."""
    every = [_sample_run(run, counts) for run in entry.runs]
    return {f: np.mean([own[f] for own in every], axis=0) for f in every[0]
            if all(f in own for own in every)}


def _sample_run(run: SavedNetwork, counts: np.ndarray) -> dict[str, np.ndarray]:
    out = {}
    if run.report["task"] == "multiclass":
        matrices = bootstrap.confusion(run.labels, run.scores, counts)
        decided = decisions.confusion_scores(matrices)
        out |= {title(k): decided[k] for k in MULTICLASS}
    else:
        precision = bootstrap.average_precision(run.labels, run.ranks, counts)
        known = ranking.average_precision(run.labels, run.ranks)
        out["macro AP"] = bootstrap.over_labels(precision, known)
    if run.dice is not None:
        out["Dice"] = np.mean([bootstrap.mean(d, counts) for d in run.dice.T], axis=0)
    return out


# --- writing


def markdown(
    result: Mapping[str, Any], entries: Sequence[Entry], figures: Sequence[str],
    published: Sequence[Any],
) -> str:
    """The comparison as a page."""
    best = {f: max((e for e in entries if e.values(f)), key=lambda e, f=f: e.mean(f)).name
            for f in figures}
    several = any(len(entry.runs) > 1 for entry in entries)
    lines = [f"# Comparison on the {result['split']} split", ""]
    lines += [f"- {', '.join(e.name for e in entries if e.runs[0].report['protocol'] == protocol)}"
              f": {protocol}" for protocol in dict.fromkeys(result["protocols"].values())]
    lines += [f"- {result['films']:,} films; 95% intervals: paired {result['intervals']}"]
    if several:
        lines += ["- several seeds: mean ± standard deviation over the runs; the intervals of "
                  "differences are about the films, not the seeds"]
    sizes = {entry.runs[0].report["run"]["image_size"] for entry in entries}
    if "Dice" in figures and len(sizes) > 1:
        lines += ["- Dice: each network is scored on masks of its own resolution"]
    rows = []
    for entry in entries:
        seeds = _shortly(entry.seeds)
        cells = []
        for f in figures:
            cell = tables.number(entry.mean(f))
            if len(entry.values(f)) > 1:
                cell += f" ± {entry.spread(f):.4f}"
            cells.append(f"**{cell}**" if best[f] == entry.name else cell)
        rows.append([entry.name, seeds, *cells])
    lines += ["", *tables.table(["network", "seed" + "s" * several, *figures], rows)]
    if several:
        lines += _seeds_table(result, figures)
    for what, name in (("best", "the best"), ("baseline", result["baseline"])):
        if name is None:
            continue
        lines += ["", f"## Differences to {name}", "",
                  "Difference, its interval, and p (2 Phi(-|difference| / SD of the resamples)) "
                  "with Holm's correction for all differences of this table. Without * the films "
                  "cannot tell the two apart.", ""]
        rows = []
        for entry in entries:
            own = result["entries"][entry.name][f"difference to the {what}"]
            rows.append([entry.name, *(_difference(own.get(f), what) for f in figures)])
        lines += tables.table(["network", *figures], rows)
    lines += ["", "## AUROC by finding", "",
              *tables.table(["finding", *(e.name for e in entries)], _by_label(entries))]
    if result["configs differ in"]:
        lines += ["", "## What else differs between the runs", "",
                  *tables.table(["config", *(e.name for e in entries)],
                                [[f, *map(_short, v)]
                                 for f, v in result["configs differ in"].items()])]
    lines += ["", "## Curves", "", "![ROC curves](roc.png)"]
    if entries[0].runs[0].report["task"] == "multiclass":
        lines += ["", "![Confusion matrices](confusion.png)"]
    ours = {"labels_version": entries[0].runs[0].report.get("labels_version", ""),
            "split": result["split"], "split_name": result["split_name"],
            "films": result["films"],
            "protocol": " / ".join(dict.fromkeys(result["protocols"].values())),
            "networks": {e.name: {"macro": {f: e.mean(f) for f in figures}} for e in entries}}
    lines += report.published_tables(ours, published)
    return "\n".join(lines) + "\n"


def _by_label(entries: Sequence[Entry]) -> list[list[str]]:
    rows = []
    for label in entries[0].runs[0].report["labels"]:
        cells = []
        for entry in entries:
            every = [r.report["networks"][r.network]["per_label"][label]["AUROC"]
                     for r in entry.runs]
            values = [np.nan if v is None else v for v in every]
            mean = tables.number(float(np.mean(values)))
            several = len(values) > 1 and np.isfinite(values).all()
            cells.append(mean + (f" ± {np.std(values, ddof=1):.4f}" if several else ""))
        rows.append([label, *cells])
    return rows


def _difference(own: Mapping[str, Any] | None, what: str) -> str:
    if own is None:
        return "-"
    if own["low"] == own["high"] == own["value"] == 0:
        return what
    star = "*" if own["low"] > 0 or own["high"] < 0 else ""
    p = f"{star}, p {p_words(own['p Holm'])}" if own.get("p Holm") is not None else star
    return tables.signed(own["value"], own["low"], own["high"]) + p


def _seeds_table(result: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    """Mean, range and interval over films and seeds, a row per entry."""
    rows = []
    for name, own in result["entries"].items():
        cells = []
        for f in figures:
            if (found := own["figures"].get(f)) is None:
                cells.append("-")
                continue
            span = f"; {found['least']:.4f} to {found['most']:.4f}" if len(own["seeds"]) > 1 else ""
            cells.append(f"{tables.figure({**found, 'value': found['mean']})}{span}")
        rows.append([name, len(own["seeds"]), *cells])
    return ["", "## Over films and seeds", "",
            "Mean over the runs with its 95% interval, which is about the films and the seeds at "
            "once (their variances added; Welch & Satterthwaite's degrees of freedom), and the "
            "range of the runs.", "", *tables.table(["network", "runs", *figures], rows)]


def _shortly(seeds: Sequence[int]) -> str:
    """'0, 3, 7', and '0-9' for seeds that follow each other."""
    there = sorted(seeds)
    if len(there) > 2 and there == list(range(there[0], there[0] + len(there))):
        return f"{there[0]}-{there[-1]}"
    return ", ".join(map(str, seeds))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
