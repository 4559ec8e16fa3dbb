"""How much of a network's score does not come from the lungs (Maguolo & Nanni 2021).

The same network judges the same films four times: as they are, with the lungs blacked out, with
everything but the lungs blacked out, and with the lungs' bounding box blacked out, so that only the
border is left and not even the lungs' outline. What it still knows then it knows from something
else: the hospital's markers, the exposure, the format.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Real, Shaped

from cxrjax import tables
from cxrjax.data import input_pipeline, progress
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.evaluation import plots
from cxrjax.evaluation.provenance import mark
from cxrjax.metrics import _common, bootstrap, decisions, ranking
from cxrjax.training import steps
from cxrjax.training.restored import Run
from cxrjax.training.workdir import write_text

_NO_MASKS = (
    "--probe: no film of the {split} split has a mask, and the network predicts none: give "
    "--masks_from=WORKDIR of a run with a decoder"
)
WHOLE, BLACKED_OUT, LUNGS, BORDER = (
    "whole film", "lungs blacked out", "lungs alone", "border alone",
)


def variants(
    image: Shaped[np.ndarray, "b h w 1"], lungs: Bool[np.ndarray, "b h w"]
) -> dict[str, Shaped[np.ndarray, "b h w 1"]]:
    """The films as the probe shows them; black is 0.

    'border alone' blacks out the smallest upright rectangle that holds a film's lungs.
    """
    rows, columns = lungs.any(axis=2), lungs.any(axis=1)
    box = _span(rows)[:, :, None] & _span(columns)[:, None, :]
    black = np.zeros((), image.dtype)
    return {
        WHOLE: image,
        BLACKED_OUT: np.where(lungs[..., None], black, image),
        LUNGS: np.where(lungs[..., None], image, black),
        BORDER: np.where(box[..., None], black, image),
    }


def _span(there: Bool[np.ndarray, "b n"]) -> Bool[np.ndarray, "b n"]:
    """From the first to the last True of each row."""
    return np.logical_or.accumulate(there, 1) & np.logical_or.accumulate(there[:, ::-1], 1)[:, ::-1]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the networks said about each variant of the films that have a lung mask.

    Attributes:
      chosen: bool[N], which films of the split these are.
      truth: how many of them have a mask of their own; the others' was predicted.
      logits: {network: {variant: f32[n, K]}}.
      examples: {variant: [few, H, W, 1]} films for the picture.
    """

    chosen: np.ndarray
    truth: int
    logits: dict[str, dict[str, np.ndarray]]
    examples: dict[str, np.ndarray]


def probe(
    run: Run, films: Films, split: str, folder: pathlib.Path, masker: Run | None = None,
    tta: bool = False, seen: str = "",
) -> dict[str, Any]:
    """Judges a run on the variants of one split's films; writes probe.md, probe.json, probe.png.

    Args:
      run: the run.
      films: that it was trained on.
      split: 'train', 'val' or 'test'.
      folder: to write to.
      masker: a run whose masks stand in where a film has none; by default `run` itself, if it has
        a decoder. Films that have neither are left out, and counted.
      tta: whether `run` predicts means over a film and its mirror image, for the page to say.
      seen: from `provenance.refuse_seen`; where films were seen all that is written says so.

    Raises:
      UserError: see `check`; or every mask of the films is empty.
    """
    masker = masker or run
    structures = masker.config.masks
    check(run, films, split, masker)
    answers = ask(run, films, split, masker)
    positions = films.splits[split][answers.chosen]
    if not len(positions):
        raise UserError(_NO_MASKS.format(split=split))
    labels = input_pipeline.labels_of(films, positions)
    _, clusters = films.clusters(positions)
    counts = bootstrap.resample(len(positions), seed=0, cluster=clusters)
    result = {
        "split": split, "tta": tta, "seen": seen, "protocol": films.info.get("protocol", ""),
        "films": len(positions), "films of the split": len(answers.chosen),
        "truth masks": answers.truth, "predicted masks": len(positions) - answers.truth,
        "masks predicted by": masker.config.model.name,
        "structures": list(lung_structures(structures)),
        "chance": chance(labels, films.task),
    }
    result["networks"] = {
        network: judge_variants(labels, own, films.task, counts, result["chance"])
        for network, own in answers.logits.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "probe.json", json.dumps(tables.finite(result), indent=1) + "\n")
    write_text(folder / "probe.md", markdown(result))
    plot(folder / "probe.png", answers.examples, mark(seen))
    return result


def check(run: Run, films: Films, split: str, masker: Run) -> None:
    """What can be known before any film is read: whether there are masks to black out.

    Raises:
      UserError: no film of the split has a mask and none can be predicted, or the masker's films
        are of another size or its masks of other structures.
    """
    structures = masker.config.masks
    if masker.config.image_shape != run.config.image_shape:
        raise UserError(
            f"--masks_from: its films have {masker.config.image_shape[0]} pixels a side, those of "
            f"the run {run.config.image_shape[0]}"
        )
    if films.masks and tuple(structures) != tuple(films.masks):
        raise UserError(
            f"--masks_from: it knows masks of {', '.join(structures) or 'nothing'}, the films have "
            f"{', '.join(films.masks)}"
        )
    has_mask = films.table.get("has_mask")
    if films.masks and (has_mask is None or has_mask[films.splits[split]].any()):
        return
    image = jax.ShapeDtypeStruct((1, *masker.config.image_shape), np.uint8)
    shapes = jax.eval_shape(masker.predict, masker.states, image)
    if not any("mask_logits" in out for out in shapes.values()):
        raise UserError(_NO_MASKS.format(split=split))


def lung_structures(structures: Sequence[str]) -> Sequence[str]:
    """Those structures that are lungs; all where none is called so."""
    return [s for s in structures if "lung" in s.lower()] or structures


def ask(run: Run, films: Films, split: str, masker: Run) -> Answers:
    """Predicts every variant of every film of a split that has or gets a mask of the lungs."""
    mesh, size = steps.make_mesh(), run.config.eval_batch_size
    predict = steps.jit_predict(run.predict, mesh)
    find_masks = steps.jit_predict(masker.predict, mesh, ("mask_logits",))
    states, masking = (steps.replicate(one.states, mesh) for one in (run, masker))
    structures = list(masker.config.masks)
    channels = [structures.index(s) for s in lung_structures(structures)]
    positions = films.splits[split]
    batches = input_pipeline.eval_batches(films, positions, size, run.config.threads)
    chosen, truth = [], 0
    logits: dict[str, dict[str, list[np.ndarray]]] = {}
    examples: dict[str, list[np.ndarray]] = {}
    number = -(-len(positions) // size)
    for batch, ids in progress.of(batches, "probe", number, "batch"):
        image, real = batch["image"], np.arange(size) < len(ids)
        known = np.asarray(batch.get("has_mask", np.zeros(size)), bool)
        lungs = np.zeros(image.shape[:3], bool)
        if known.any():
            lungs[known] = (batch["mask"][known][..., channels] > 0.5).any(-1)
        if not known.all():
            lungs[~known] = _predicted(find_masks, masking, image, channels, mesh)[~known]
        # A film whose mask is empty (or none was predicted) has no variants.
        keep = real & lungs.any(axis=(1, 2))
        chosen.append(keep[real])
        truth += int((keep & known).sum())
        for variant, shown in variants(image, lungs).items():
            for network, out in steps.ask(predict, states, shown, mesh).items():
                own = logits.setdefault(network, {}).setdefault(variant, [])
                own.append(out["logits"][keep])
            examples.setdefault(variant, []).append(shown[keep][:1])
    return Answers(
        np.concatenate(chosen), truth,
        {n: {v: np.concatenate(x) for v, x in own.items()} for n, own in logits.items()},
        {v: _spread(np.concatenate(x)) for v, x in examples.items()},
    )


def _predicted(
    find_masks: Any, states: Any, image: np.ndarray, channels: Sequence[int],
    mesh: jax.sharding.Mesh,
) -> np.ndarray:
    """Lungs bool[B, H, W] by the first network that predicts masks; none anywhere without one."""
    for out in steps.ask(find_masks, states, image, mesh).values():
        if "mask_logits" in out:
            return (out["mask_logits"][..., channels] > 0).any(-1)
    return np.zeros(image.shape[:3], bool)


def _spread(films: np.ndarray, shown: int = 4) -> np.ndarray:
    """A few films from all over the split."""
    chosen = np.linspace(0, max(len(films) - 1, 0), min(shown, len(films))).astype(int)
    return films[chosen]


def chance(labels: Float[np.ndarray, "n k"], task: str) -> dict[str, float]:
    """What the figures are without any knowledge: AUROC 1/2, accuracy the largest class's share."""
    out = {"macro AUROC": 0.5}
    if task == "multiclass":
        out["accuracy"] = float(np.nanmean(labels, axis=0).max())
    return out


def judge_variants(
    labels: Float[np.ndarray, "n k"],
    logits: Mapping[str, Real[np.ndarray, "n k"]],
    task: str,
    counts: Float32[np.ndarray, "n r"],
    chance: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """{variant: figures} of one network.

    Args:
      labels: NaN = unknown; one-hot for one-of-N.
      logits: of each variant, `WHOLE` among them.
      task: 'multilabel' or 'multiclass'.
      counts: `bootstrap.resample`.
      chance: see `chance`.

    Returns:
      Macro AUROC with its interval and how many classes it is of; accuracy and recall of one-of-N;
      and 'beyond <figure>' as [share, low, high]: how much of the whole film's score beyond chance
      is left. Both are computed from the same resamples, so the interval is of their ratio. What
      the films do not define is nan: shares above all where the interval of the whole film's score
      includes chance.
    """
    figures = {v: _figures(labels, ranking.probabilities(z, task), task) for v, z in logits.items()}
    samples = {
        v: _samples(labels, ranking.probabilities(z, task), task, counts) for v, z in logits.items()
    }
    out = {}
    for variant, own in figures.items():
        low, high = bootstrap.interval(samples[variant]["macro AUROC"])
        out[variant] = {**own, "macro AUROC low": float(low), "macro AUROC high": float(high)}
        for figure, base in chance.items():
            whole = figures[WHOLE][figure] - base
            beyond = samples[WHOLE][figure] - base
            share = [np.nan] * 3
            if bootstrap.interval(beyond)[0] > 0:
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratios = np.where(beyond > 0, (samples[variant][figure] - base) / beyond,
                                      np.nan)
                share = [(own[figure] - base) / whole, *map(float, bootstrap.interval(ratios))]
            out[variant][f"beyond {figure}"] = share
    return out


def _figures(labels: np.ndarray, scores: np.ndarray, task: str) -> dict[str, float]:
    value, classes = _common.mean_counted(ranking.auroc(labels, scores))
    out = {"macro AUROC": value, "classes judged": classes, "classes": labels.shape[1]}
    if task == "multiclass":
        one = decisions.multiclass(labels, scores)
        out |= {"accuracy": one["accuracy"], "macro recall": one["macro_recall"]}
    return out


def _samples(
    labels: np.ndarray, scores: np.ndarray, task: str, counts: np.ndarray
) -> dict[str, np.ndarray]:
    """The figures that have a level of chance, in every resample."""
    areas = bootstrap.auroc(labels, scores, counts)
    out = {"macro AUROC": bootstrap.over_labels(areas, ranking.auroc(labels, scores))}
    if task == "multiclass":
        matrices = bootstrap.confusion(labels, scores, counts)
        out["accuracy"] = decisions.confusion_scores(matrices)["accuracy"]
    return out


def summary(result: Mapping[str, Any]) -> str:
    """What a user reads first: which films, and a sentence for each network."""
    lines = [f"probe on {masks_line(result)}{mark(result['seen'])}"]
    for network, judged in result["networks"].items():
        lines += verdict(network, judged)
    return "\n".join(lines)


def markdown(result: Mapping[str, Any]) -> str:
    """The probe as a page."""
    lines = [
        f"# What the score does not owe to the lungs: {result['split']} split"
        f"{mark(result['seen'])}", "",
        *([f"- **{result['seen']}**"] if result["seen"] else []),
        f"- protocol: {result['protocol']}",
        f"- {masks_line(result)}",
        *(["- every answer is the mean over a film and its mirror image"] * result["tta"]),
        f"- {_beyond_chance(result)}", "",
    ]
    return "\n".join([*lines, *_by_network(result, "##", mark(result["seen"]))]) + "\n"


def lines(result: Mapping[str, Any], heading: str = "##") -> list[str]:
    """The probe as a section of a report."""
    return [*([f"**{result['seen']}**", ""] if result["seen"] else []),
            f"How much of the score is there without the lungs (Maguolo & Nanni 2021), on "
            f"{masks_line(result)}. {_beyond_chance(result)}.", "", *_by_network(result, heading)]


def _beyond_chance(result: Mapping[str, Any]) -> str:
    return ("beyond chance: how much of the whole film's score above chance ("
            + ", ".join(f"{k} {v:.3f}" for k, v in result["chance"].items())
            + ") is left, with its 95% interval; below chance counts as 0%")


def _by_network(result: Mapping[str, Any], heading: str, marked: str = "") -> list[str]:
    lines = []
    for network, judged in result["networks"].items():
        rows = []
        figures = [f for f in ("macro AUROC", "accuracy", "macro recall") if f in judged[WHOLE]]
        for variant, own in judged.items():
            ends = tables.interval(own["macro AUROC low"], own["macro AUROC high"])
            cells = [f"{tables.number(own['macro AUROC'])} ({ends})"]
            cells += [tables.number(own[f]) for f in figures[1:]]
            shares = [own[f"beyond {figure}"] for figure in result["chance"]]
            rows.append([variant, *cells, *map(_percent, shares)])
        titles = ["shown", *figures, *(f"{f}, beyond chance" for f in result["chance"])]
        own = judged[WHOLE]
        lines += [f"{heading} {network}{marked}", "", *verdict(network, judged), "",
                  f"{own['classes judged']} of {own['classes']} classes could be judged.", "",
                  *tables.table(titles, rows), ""]
    return [*lines, "![What the network was shown](probe.png)"]


def masks_line(result: Mapping[str, Any]) -> str:
    """Which films were probed, and by whose masks."""
    left_out = result["films of the split"] - result["films"]
    line = (
        f"{result['films']:,} of {result['films of the split']:,} films, lungs by "
        f"{result['truth masks']:,} truth masks"
    )
    if result["predicted masks"]:
        line += f" and {result['predicted masks']:,} masks that {result['masks predicted by']} " \
                "predicted"
    if left_out:
        line += f"; {left_out:,} films left out, which have no mask and got none"
    return line + f" ({', '.join(result['structures'])})"


def verdict(network: str, judged: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One plain sentence."""
    figure = "macro AUROC"
    left = {variant: _percent(own[f"beyond {figure}"]) for variant, own in judged.items()}
    if np.isnan(judged[WHOLE][f"beyond {figure}"][0]):
        return [f"{network}: nothing can be said, these films do not show any skill to lose (one "
                "class only, or an interval that includes chance)."]
    return [
        f"{network}: with the lungs blacked out {figure} is "
        f"{tables.number(judged[BLACKED_OUT][figure])}, on whole films "
        f"{tables.number(judged[WHOLE][figure])}. {left[BLACKED_OUT]} of what it knows beyond "
        f"chance does not need the lungs; {left[BORDER]} is there in the border alone, "
        f"{left[LUNGS]} in the lungs alone."
    ]


def _percent(share: Sequence[float]) -> str:
    """A share with its interval; below chance there is nothing left."""
    if np.isnan(share[0]):
        return "-"
    value, low, high = (f"{max(0.0, x):.0%}" for x in share)
    return value if low == high == value else f"{value} ({low} to {high})"


def plot(path: pathlib.Path, examples: Mapping[str, np.ndarray], marked: str = "") -> None:
    """A few films as they were shown, a row for each film; `marked`: see `plots.save`."""
    from matplotlib.figure import Figure

    films = len(next(iter(examples.values())))
    figure = Figure(figsize=(2.1 * len(examples), 2.25 * films), layout="constrained")
    axes = figure.subplots(films, len(examples), squeeze=False)
    for column, (variant, shown) in zip(axes.T, examples.items()):
        column[0].set_title(variant, fontsize=9)
        for ax, film in zip(column, shown):
            top = 255 if film.dtype == np.uint8 else 1
            ax.imshow(film[..., 0], cmap="gray", vmin=0, vmax=top)
            ax.set_axis_off()
    plots.save(figure, path, 110, marked)
