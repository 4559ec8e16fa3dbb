"""Probabilities and decisions for films on disk, written as they come."""

from __future__ import annotations

import itertools
import os
import pathlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cxrjax import __version__
from cxrjax.data import artifacts, films_on_disk, progress
from cxrjax.data.films_on_disk import (
    Failures,
    Read,
    Unusual,
    find_films,
    picture_names,
    report_facts,
    report_failures,
    report_skipped,
)
from cxrjax.errors import UserError
from cxrjax.evaluation.compare import find_workdirs
from cxrjax.explanation import drawing
from cxrjax.names import program
from cxrjax.serving import exported, sources
from cxrjax.serving.answer_table import Layout, Row, Table, format_of
from cxrjax.serving.sources import Answered, Source
from cxrjax.training import devices, published

NAMED = 20  # failures that are named on the screen; the table names all
CHUNK = 256  # rows that are written together


class Film(NamedTuple):
    """A film and what every network of the source says of it; no answers where it has an error."""

    read: Read
    answers: dict[str, Answered]


def predict_films(
    source: Source, paths: Sequence[pathlib.Path], strict: bool = False,
    done: Collection[str] = (), look: Callable[[Read], None] = lambda read: None,
) -> Iterator[Film]:
    """Every film in order, also those that cannot be read; few are held at a time.

    While a batch is computed the next one is read. Which films make a batch, and their places in
    it, follow from `paths` alone: what is gone on with gives the same numbers, bit for bit.

    Args:
      source: that answers.
      paths: of the films.
      strict: count films that are unusual for a chest radiograph as failures.
      done: names of films that need no answer.
      look: is shown each film as it is, once it was read.
    """
    # One film need not wait for a batch of many.
    size = min(source.batch, -(-len(paths) // source.devices) * source.devices)
    chunks = [paths[i : i + size] for i in range(0, len(paths), size)]
    if done:
        chunks = [chunk for chunk in chunks if not all(str(path) in done for path in chunk)]
    every = films_on_disk.read_each([path for chunk in chunks for path in chunk], source.ways,
                                    strict)
    before: tuple[list[Read], Any] | None = None
    for chunk in chunks:
        reads = []
        for read in itertools.islice(every, len(chunk)):
            look(read)
            reads.append(read._replace(film=None))
        now = reads, _start(source, reads, size)
        if before is not None:
            yield from _answers(source, *before, done)
        before = now
    if before is not None:
        yield from _answers(source, *before, done)


def _start(source: Source, reads: Sequence[Read], size: int) -> Any:
    first = next((read for read in reads if not read.error), None)
    if first is None:
        return None
    # Places without a film are filled with a copy: values that no film has stay out.
    ready = [(first if read.error else read).ready for read in reads]
    ready += [first.ready] * (size - len(ready))
    return source.start([np.stack(way) for way in zip(*ready)])


def _answers(
    source: Source, reads: Sequence[Read], started: Any, done: Collection[str]
) -> Iterator[Film]:
    answered = {} if started is None else source.finish(started, len(reads))
    for place, read in enumerate(reads):
        if str(read.path) in done:
            continue
        own = slice(place, place + 1)
        yield Film(read, {} if read.error else {
            name: Answered(a.probabilities[own], None if a.spread is None else a.spread[own])
            for name, a in answered.items()
        })


def rows_of(source: Source, film: Film) -> list[Row]:
    """The rows of a film: one for each network, whether it could be read or not."""
    file, error = str(film.read.path), " ".join(film.read.error.split())
    if error:
        return [Row(file, name, error=error) for name in source.networks]
    warnings = tuple(dict.fromkeys(" ".join(line.split()) for facts in film.read.facts
                                   for line in facts.warnings))
    return [
        Row(file, name, own.probabilities[0], None if own.spread is None else own.spread[0],
            source.decide(name, own.probabilities)[0], warnings)
        for name, own in ((name, film.answers[name]) for name in source.networks)
    ]


def open_source(
    workdir: str | None, workdirs: str | None, checkpoint: str = "best", tta: bool = False,
    model: str | None = None,
) -> Source:
    """What answers, by the flags that name it.

    Raises:
      UserError: none or several are named, or what `sources` raises.
    """
    if bool(workdir) + bool(workdirs) + bool(model) != 1:
        raise UserError("give one of --workdir=FOLDER of a training, --workdirs=A,B of an ensemble "
                        "and --model=FILE of an export")
    if model:
        if tta:
            raise UserError("--tta is chosen at the export: --model answers as it was exported")
        return exported.source(pathlib.Path(model).expanduser())
    if workdirs:
        folders = find_workdirs(workdirs)
        return sources.of_ensemble([sources.member(f, checkpoint, tta) for f in folders])
    return sources.of_run(sources.member(workdir, checkpoint, tta))


def place_of(output: str | None, workdir: str | None) -> pathlib.Path:
    """The table's file: a name with a suffix, or predictions.csv in a folder.

    Raises:
      UserError: it cannot be written, before hours of work rather than after them.
    """
    if not output and not workdir:
        raise UserError("give --output=TABLE.csv: there is no workdir for it to go to")
    target = published.output(published.located(workdir) if workdir else "", output)
    if target.is_dir() or not output or output.endswith("/"):
        target = target / "predictions.csv"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise UserError(f"{target}: cannot be written (no permission)")
    return target


def main(
    workdir: str | None, images: str | None, checkpoint: str = "best", output: str | None = None,
    layout: str = "wide", show_cleaned: bool = False, tta: bool = False,
    strict: bool = False, workdirs: str | None = None, resume: bool = False,
    overwrite: bool = False, model: str | None = None,
) -> int:
    """`--mode=predict`: a table with a row for every film; status 1 if one could not be read."""
    skipped: Failures = []
    paths = find_films(images, skipped)
    source = open_source(workdir, workdirs, checkpoint, tta, model)
    target = place_of(output, workdir)
    shape = Layout(
        format_of(target, layout), source.labels, len(source.networks), layout == "long",
        source.spread, source.decides, source.thresholds,
    )
    about = _about(source, images, len(paths), strict, tta, layout)
    with Table(target, shape, about, resume, overwrite) as table:
        devices.announce()
        cleaned = _folder_of_cleaned(target) if show_cleaned else None
        names = picture_names(paths) if show_cleaned else {}
        done = table.done.files
        before = sum(str(path) in done for path in paths) if done else 0
        if before:
            print(f"{before:,} of {len(paths):,} films have their rows already")

        def look(read: Read) -> None:
            if cleaned is not None and not read.error:
                after = artifacts.remove_bright_artifacts(read.film)
                picture = drawing.before_and_after(read.film, after)
                picture.save(cleaned / f"{names[read.path]}.png")

        unusual, start, failed = Unusual(), time.monotonic(), table.done.failed
        failures: Failures = [(pathlib.Path(f), why) for f, why in table.done.first]
        bar = progress.of(predict_films(source, paths, strict, done, look), "reading",
                          len(paths), first=before, smoothing=0.05)
        rows: list[Row] = []
        for film in bar:
            rows += rows_of(source, film)
            if film.read.error:
                failed += 1
                if len(failures) < NAMED:
                    failures.append((film.read.path, film.read.error))
            else:
                unusual.add(film.read.path, film.read.facts[0])
            if len(rows) >= CHUNK:
                table.write(rows)
                rows = []
        table.write(rows)
        if len(paths) == 1 and rows and not rows[0].error:
            _print_one(source, rows)
        table.finish()
    seconds = time.monotonic() - start
    new = len(paths) - before
    rate = f" ({new / seconds:,.0f} films/s)" if new > 100 else ""
    print(f"{len(paths) - failed:,} films predicted: {target}{rate}")
    _print_how(source)
    if cleaned is not None:
        print(f"before and after the removal of bright artefacts: {cleaned}")
        if not any(options.get("remove_artifacts", False) for _, options in source.ways):
            print("(the network was trained on films as they are, and read them so)")
    report_skipped(skipped)
    report_facts(unusual, source.ways[0][1])
    return report_failures(failures, len(paths), failed, "the column `error` of the table")


def _folder_of_cleaned(target: pathlib.Path) -> pathlib.Path:
    cleaned = target.parent / "cleaned"
    cleaned.mkdir(parents=True, exist_ok=True)
    return cleaned


def _about(
    source: Source, images: str | None, films: int, strict: bool, tta: bool, layout: str,
) -> dict[str, Any]:
    points = {
        name: {k: None if np.isnan(v) else float(v) for k, v in zip(source.labels, own)}
        for name, own in source.thresholds.items()
    }
    return {
        "cxrjax": __version__, "images": images, "films": films, "layout": layout,
        "labels": list(source.labels), "task": source.task, "networks": list(source.networks),
        "calibrated": source.calibrated or "no", "decided by": source.rule or "nothing",
        "thresholds": points, "spread": source.spread, "strict": strict, "tta": tta,
        "source": dict(source.about),
    }


def _print_how(source: Source) -> None:
    """Says what the numbers are, once."""
    said = "calibrated" if source.calibrated == "yes" else (
        f"calibrated in {source.calibrated} runs" if source.calibrated else
        f"not calibrated ({program()} --mode=calibrate)")
    by = f"decisions by {source.rule}" if source.rule else (
        f"no decisions, as no operating points are stored ({program()} --mode=evaluate)")
    print(f"probabilities are {said}; {by}")


def _print_one(source: Source, rows: Sequence[Row]) -> None:
    print(rows[0].file)
    for row in rows:
        print(f"  {row.network}")
        points: Mapping[str, np.ndarray] = source.thresholds
        for k in sorted(range(len(source.labels)), key=lambda k, p=row.probabilities: -p[k]):
            spread = f" ± {row.spread[k]:.1%}" if row.spread is not None else ""
            point = points[row.network][k] if row.network in points else np.nan
            line = f"    {row.probabilities[k]:6.1%}{spread}  {source.labels[k]}"
            if not np.isnan(point):
                line += f"  ({'positive' if row.decisions[k] else 'negative'}: {point:.1%})"
            elif source.task == "multiclass" and row.decisions[k]:
                line += "  (the answer)"
            print(line)
