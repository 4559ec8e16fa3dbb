"""`--mode=explain`: where a network looked, in pictures, and how well that agrees with boxes."""

from __future__ import annotations

import collections
import functools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cxrjax.data import films_on_disk, parallel, progress, reading, sets
from cxrjax.data.sets.base import Films
from cxrjax.errors import UserError
from cxrjax.evaluation import provenance
from cxrjax.evaluation.answers import read_answers
from cxrjax.explanation import gallery, heatmaps, kept
from cxrjax.explanation import marked as marking
from cxrjax.explanation.heatmaps import Explanation
from cxrjax.explanation.options import Options, choose
from cxrjax.explanation.report import write_report
from cxrjax.names import suggest
from cxrjax.training import devices, published
from cxrjax.training.provenance import check_not_trained_on
from cxrjax.training.restored import Run, restore
from cxrjax.training.workdir import claim

SHOWN = 3  # findings of a film that stands alone: its most probable ones


def main(
    workdir: str | None, images: str | None = None, checkpoint: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | None = None, config: Any = None,
    method: str = "grad_cam", threshold: int | float = 0.5, network: str | None = None,
    findings: str | None = None, max_films: int = 12, finer: int = 1,
    spread: bool = False, strict: bool = False, allow_seen: bool = False, overwrite: bool = False,
) -> int:
    """`--mode=explain`; status 1 if a film could not be read."""
    report, failures = explain(
        workdir, images, checkpoint, split, data_dir, output, config, method, threshold, network,
        findings, max_films, finer, spread, strict, allow_seen, overwrite=overwrite,
    )
    return films_on_disk.report_failures(failures, len(failures) + report.get("films", 0))


def explain(
    workdir: str | None, images: str | None = None, checkpoint: str = "best", split: str = "test",
    data_dir: str | None = None, output: str | None = None, config: Any = None,
    method: str = "grad_cam", threshold: int | float = 0.5, network: str | None = None,
    findings: str | None = None, max_films: int = 12, finer: int = 1,
    spread: bool = False, strict: bool = False, allow_seen: bool = False,
    trust: str | Sequence[str] = (), overwrite: bool = False,
) -> tuple[dict[str, Any], films_on_disk.Failures]:
    """Explains films on disk, else the films of a split, in pictures and scores.

    Args:
      workdir: of the training.
      images: file, folder or pattern; None for the films of the split.
      checkpoint: 'best' or 'latest'.
      split: 'train', 'val' or 'test'.
      data_dir: where the prepared films are now, if they were moved.
      output: folder to write to; by default workdir/explain.
      config: names another data set with the same labels, whose films are explained instead of
        those that the run was trained on.
      method, threshold, network, findings, max_films, finer, spread: see `options.Options`.
      strict: count films that are unusual for a chest radiograph as failures.
      allow_seen: also films that the run, or what it came from, was trained or tuned on; the page
        says so.
      trust: modules outside of cxrjax that the run's config may name.
      overwrite: whatever the folder holds, see `workdir.claim`.

    Returns:
      The report as written to explain.json ({} where no film could be read), and the films that
      could not be read.
    """
    skipped: films_on_disk.Failures = []
    paths = films_on_disk.find_films(images, skipped) if images else []
    workdir = published.located(workdir)
    folder = published.output(workdir, output, "explain")
    run = restore(workdir, checkpoint, trust=trust)
    options = choose(run, network, method, threshold, findings, max_films, finer, spread)
    name = _dataset_options(run, config, data_dir)["name"]
    what = pathlib.Path(images).expanduser().resolve() if images else f"{name}'s {split} split"
    claim(folder, f"an explanation of {what}", [workdir], "explain.json", overwrite)
    devices.announce()
    if paths:
        films_on_disk.report_skipped(skipped)
        return explain_paths(run, options, paths, folder, strict)
    if config is not None:
        films = _other_films(run, config, data_dir)
    else:
        films = provenance.open_films(run, data_dir)
    if split not in films.splits:
        raise UserError(f"unknown split {split!r}" + suggest(split, films.splits))
    seen = provenance.refuse_seen(run, films, split, allow_seen, name)
    of_others = getattr(sets.module(name), "PUBLISHED_BOXES", ())
    boxes = _boxes(run, config, data_dir)
    return explain_split(run, options, films, boxes, split, folder, of_others, seen), []


def _other_films(run: Run, config: Any, data_dir: str | None) -> Films:
    films = sets.load(_dataset_options(run, config, data_dir))
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
    check_not_trained_on(
        run.meta["ids"]["train"], films, "the run", "the split of --config is not the run's"
    )
    return films


def _dataset_options(run: Run, config: Any, data_dir: str | None) -> dict[str, Any]:
    options = (run.config if config is None else config).dataset.to_dict()
    return {**options, "data_dir": data_dir} if data_dir else options


def _boxes(run: Run, config: Any, data_dir: str | None) -> list[tuple[str, str, tuple]]:
    """The boxes of the data set; none where it has none, which is said."""
    options = _dataset_options(run, config, data_dir)
    if not hasattr(sets.module(options["name"]), "boxes"):
        found, where = [], ""
    else:
        found, where = sets.boxes(options), " among its prepared films"
    if not found:
        print(f"{options['name']} has no boxes{where}: pictures, but no scores")
    return found


def _maps(run: Run, options: Options) -> Any:
    return heatmaps.make(run, options.network, options.method, options.finer, options.spread)


def _probabilities(run: Run, options: Options) -> Any:
    """Of logits of the network: calibrated where the run is."""
    return functools.partial(read_answers(run.workdir, run).probabilities, options.network)


def _how(run: Run, options: Options) -> str:
    size = run.config.image_shape[0]
    method = heatmaps.TITLES[options.method] + f" x{options.finer}" * (options.finer > 1)
    return f"{options.network}, {method}{', spread' * options.spread}, {size} px"


def _style(run: Run, options: Options, fit: str, seen: str = "") -> gallery.Style:
    how = _how(run, options) + provenance.mark(seen)  # stands on every picture
    return gallery.Style(run.meta["labels"], how, options.threshold, fit)


def _most_probable(
    explanations: Iterable[Explanation], options: Options, number: int
) -> tuple[list[Explanation], kept.Sheets]:
    """See `kept.most_probable`."""
    wanted = range(number) if options.findings is None else options.findings
    return kept.most_probable(explanations, wanted, options.max_films)


def explain_paths(
    run: Run, options: Options, paths: Sequence[pathlib.Path], folder: pathlib.Path,
    strict: bool = False,
) -> tuple[dict[str, Any], films_on_disk.Failures]:
    """Films on disk: each one's most probable findings, and a sheet for every finding.

    A film's own pictures are made as it goes by.
    """
    report: dict[str, Any] = {}
    failures: films_on_disk.Failures = []
    facts_of: films_on_disk.Facts = {}
    compiled = _maps(run, options)
    side, prepared = run.config.image_shape[0], run.config.dataset.to_dict()
    read = films_on_disk.read_all(paths, side, prepared, failures, facts_of, strict)
    films = progress.of(read, "explaining", len(paths))
    stems = films_on_disk.picture_names(paths)
    style = _style(run, options, run.config.dataset.get("fit", "stretch"))
    pixels: collections.deque[np.ndarray] = collections.deque()  # of films that are being computed
    overlays: list[str] = []

    def named() -> Iterator[tuple[str, np.ndarray]]:
        for path, film, ready in films:
            pixels.append(film)
            yield str(path), ready

    def drawn() -> Iterator[Explanation]:
        size, probabilities = min(heatmaps.BATCH, len(paths)), _probabilities(run, options)
        for e in heatmaps.explain(run, compiled, run.states, named(), size, probabilities):
            film = pixels.popleft()
            for k in options.findings or np.argsort(-e.probabilities, kind="stable")[:SHOWN]:
                overlays.append(gallery.write_overlay(
                    folder, stems[pathlib.Path(e.name)], style, film, e, int(k)))
            yield e

    explanations, sheets = _most_probable(drawn(), options, len(run.meta["labels"]))
    version = reading.version_of(prepared)
    if explanations:
        shots = gallery.Gallery(
            explanations,
            show=lambda i: reading.read_radiograph(explanations[i].name, version),
            sheets=sheets, overlays=(),
        )
        note = f"the {options.max_films} most probable of {len(explanations):,} films"
        if len(explanations) <= options.max_films:
            note = "most probable film first"
        names, _ = gallery.write_pictures(folder, shots, style, note)
        facts = {"films": len(explanations), "source": "files"}
        report = write_report(run, options, folder, facts, names, overlays, explanations)
    print(f"{len(explanations):,} films explained: {folder}")
    films_on_disk.report_facts(facts_of, prepared)
    return report, failures


def explain_split(
    run: Run, options: Options, films: Films, boxes: Sequence[tuple[str, str, tuple]],
    split: str, folder: pathlib.Path, published: Sequence[Any] = (),
    seen: str = "",
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
    compiled, probabilities = _maps(run, options), _probabilities(run, options)

    def explained(states: Any, what: str) -> Iterator[Explanation]:
        named = _records(films, positions, what, run.config.threads)
        return heatmaps.explain(run, compiled, states, named, probabilities=probabilities)

    own, number = explained(run.states, options.network), len(films.labels)
    if boxes:
        cases = [c for c in marked.cases if options.findings is None or c[1] in options.findings]
        sheets = {k: [f for f, g in cases if g == k][: options.max_films] for k in range(number)}
        explanations = kept.for_boxes(own, marked, number, options.threshold, sheets)
        note = f"the first {options.max_films} marked films of the {split} split"
    else:
        explanations, sheets = _most_probable(own, options, number)
        note = f"the most probable of {len(explanations):,} films of the {split} split"
    facts = {
        "films": len(explanations), "source": split, "protocol": films.info.get("protocol", ""),
        **({"seen": seen} if seen else {}),
    }
    if boxes:
        fresh = kept.for_boxes(
            explained(heatmaps.fresh_states(run, seed=1), marking.RANDOM_WEIGHTS),
            marked, number, options.threshold, {},
        )
        systems = marking.judge_all(
            marked, options.network, explanations, fresh, number, options.threshold
        )
        facts |= {
            "boxes": len(marked.box), "boxes_left_out": marked.left_out,
            "systems": systems, "published": published,
        }
    shots = gallery.Gallery(
        explanations,
        show=lambda i: films.source[int(positions[i])]["image"][..., 0],
        sheets={k: v for k, v in sheets.items() if v},
        overlays=[(f, k) for k, chosen in sheets.items() for f in chosen],
        marked=marked if boxes else None,
    )
    # The films of a data set are the network's squares already.
    names, overlays = gallery.write_pictures(
        folder, shots, _style(run, options, "stretch", seen), note)
    report = write_report(run, options, folder, facts, names, overlays, explanations)
    print(f"{len(explanations):,} films explained: {folder / 'explain.md'}")
    return report


def _records(
    films: Films, positions: np.ndarray, what: str, threads: int
) -> Iterator[tuple[str, np.ndarray]]:
    read = parallel.ordered_map(lambda p: films.source[int(p)], positions, max(1, threads))
    for record in progress.of(read, f"heat maps, {what}", len(positions)):
        yield str(record["id"]), record["image"]
