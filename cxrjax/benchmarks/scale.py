"""A whole data set's worth of work: `--mode=benchmark --what=scale --films=112120 --output=FOLDER`.

Synthetic films in ChestX-ray14's layout: a few hundred are drawn, and hard links give them as many
names as are asked for, with patients, labels and the three lists in the public set's proportions.
Each command then runs in a process of its own, which says when it first spoke, how long it took and
how much memory it held; beside it stands the limit of what it does (decoding alone, reading alone).
Cost that grows faster than the films shows between two runs of different size.

What was made stays in FOLDER, to be measured again by another version of the package.
"""

from __future__ import annotations

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cxrjax import tables
from cxrjax.benchmarks import machine
from cxrjax.benchmarks.table import throughput
from cxrjax.data import input_pipeline, parallel, sets
from cxrjax.data.sets.chestxray14 import LABELS
from cxrjax.data.sets.phantom.dataset import render
from cxrjax.errors import UserError
from cxrjax.training.restored import restore

FILMS = 112_120
PATIENTS, TEST, VAL = 30_805 / FILMS, 25_596 / FILMS, 11_212 / FILMS  # of ChestX-ray14
# Share of ChestX-ray14's films with each finding, in the order of LABELS.
PREVALENCE = (.103, .025, .119, .177, .052, .056, .013, .047, .042, .021, .022, .015, .030, .002)
DRAWN = {256: 256, 1024: 32}  # distinct films of each size
LARGE = 4000  # films of 1024 px at most: they show what decoding costs, not how cost grows
SIZE = 64  # pixels of a side of what is prepared, if nothing is said
READING = 5.0  # seconds for which the input pipeline is read


class Told(NamedTuple):
    """What a command cost: seconds until it first spoke and in all, CPU seconds, peak bytes."""

    first: float
    seconds: float
    cpu: float
    peak: int


def main(output: str | None, films: int = FILMS, size: int = SIZE) -> int:
    """Makes the films, runs the commands, writes FOLDER/scale.md and scale.json; 1 if one failed.

    Args:
      output: a folder.
      films: how many names, at least 500.
      size: pixels of a side of prepared films.
    """
    if not output:
        raise UserError("--what=scale needs --output=FOLDER")
    if films < 500:
        raise UserError("--films must be at least 500 for --what=scale: splits need positives")
    folder = pathlib.Path(output)
    rows: list[dict[str, Any]] = []
    failed = False
    for row in measure(folder, films, size):
        rows.append(row)
        failed |= "error" in row
        print(f"{row['what']}: {row.get('error') or throughput(row['rate']) + ' films/s'}",
              flush=True)
        report = {"films": films, "size": size, "cores": parallel.cores(),
                  "device": machine.name(), "load": os.getloadavg()[0], "rows": rows}
        (folder / "scale.json").write_text(json.dumps(tables.finite(report), indent=1) + "\n")
        (folder / "scale.md").write_text(markdown(report))
    print((folder / "scale.md").read_text())
    return int(failed)


def measure(folder: pathlib.Path, films: int, size: int) -> Iterator[dict[str, Any]]:
    """The rows of the table, one by one: {what, films, rate, limit, first, seconds, cpu, peak}."""
    data = folder / "prepared"
    for side in sorted(DRAWN, reverse=True):
        count = films if side == 256 else min(films, LARGE)
        raw = make(folder / f"raw-{side}-{count}", count, side)
        limit = decoding(sorted((raw / "images").iterdir())[:2000])
        shutil.rmtree(data, ignore_errors=True)
        argument = f"chestxray14:resnet18,size={size}"
        where = [f"--config.dataset.raw_dir={raw}", f"--config.dataset.data_dir={data}"]
        yield _row(f"prepare, films of {side} px", count, limit,
                   "--mode=prepare", f"--config={argument}", *where)
    # One step of the smallest network: what is asked is what everything else costs.
    run, batch = folder / "run", ["--config.batch_size=32", "--config.eval_batch_size=256"]
    shutil.rmtree(run, ignore_errors=True)
    tiny = ["--config.model.width=8", "--config.train_for=1 steps",
            "--config.evaluate_every=1 steps"]
    trained = _row("train one step, validate", round(films * VAL), None, "--mode=train",
                   f"--config={argument}", f"--workdir={run}", *where, *batch, *tiny)
    yield trained
    if "error" in trained:
        return
    options = restore(str(run)).config.dataset.to_dict()
    yield reading(options)
    yield _row("evaluate and report", round(films * TEST), None, "--mode=evaluate",
               f"--workdir={run}", f"--output={folder / 'evaluation'}")
    shutil.rmtree(folder / "explained", ignore_errors=True)
    yield _row("explain", round(films * TEST), None, "--mode=explain", f"--workdir={run}",
               f"--output={folder / 'explained'}", "--findings=Mass")


def make(folder: pathlib.Path, films: int, side: int, seed: int = 0) -> pathlib.Path:
    """A raw folder of `films` names in ChestX-ray14's layout; what is there already is kept.

    The names follow NIH's (patient, film), patients do not cross the lists, and the number of
    distinct contents is that of DRAWN.
    """
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    images, drawn = folder / "images", folder / "drawn"
    for place in (images, drawn):
        place.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    count = min(DRAWN[side], films)
    for i in range(count):
        Image.fromarray(render(seed, i, side)["image"][..., 0]).save(drawn / f"{i}.png")
    # Every patient has a film, the others are dealt out: some have dozens, as in the public set.
    patients = max(1, round(films * PATIENTS))
    weights = rng.gamma(0.6, size=patients)
    dealt = rng.multinomial(films - patients, weights / weights.sum()) + 1
    patient = np.repeat(np.arange(patients), dealt)
    number = np.arange(films) - np.repeat(np.cumsum(dealt) - dealt, dealt)
    names = [f"{p + 1:08d}_{n:03d}.png" for p, n in zip(patient, number)]
    positive = rng.random((films, len(LABELS))) < PREVALENCE
    age, sex = rng.integers(5, 95, patients), rng.choice(["M", "F"], patients)
    views = rng.choice(["PA", "AP"], films, p=[.6, .4])
    # Whole patients, the last ones first to the test list.
    held = patient >= patients - round(patients * TEST)
    tuned = ~held & (patient >= patients - round(patients * (TEST + VAL)))
    # Each list has drawings of its own: one film in two splits would be a film seen in training.
    third = count // 3
    drawing = np.arange(films) % third + third * np.where(held, 2, np.where(tuned, 1, 0))
    with (folder / "Data_Entry_2017.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age",
                      "Patient Gender", "View Position", "OriginalImage[Width", "Height]",
                      "OriginalImagePixelSpacing[x", "y]"])
        for i, name in enumerate(names):
            os.link(drawn / f"{drawing[i]}.png", images / name)
            found = "|".join(label for label, yes in zip(LABELS, positive[i]) if yes)
            p = patient[i]
            out.writerow([name, found or "No Finding", number[i], p + 1, age[p], sex[p], views[i],
                          side, side, 0.143, 0.143])
    for list_name, members in (("train_val_list", ~held), ("test_list", held),
                               ("official_val_list", tuned)):
        lines = [name for name, here in zip(names, members) if here]
        (folder / f"{list_name}.txt").write_text("\n".join(lines) + "\n")
    (folder / "complete").touch()
    return folder


def decoding(files: Sequence[pathlib.Path]) -> float:
    """Films/s of decoding alone, on all cores: no reading of facts, no resizing, no writing."""

    def decode(path: pathlib.Path) -> None:
        with Image.open(path) as film:
            film.load()

    begun = time.perf_counter()
    for _ in parallel.ordered_map(decode, files, parallel.cores()):
        pass
    return len(files) / (time.perf_counter() - begun)


def reading(options: dict[str, Any]) -> dict[str, Any]:
    """The row of the input pipeline: training batches on 2 threads, beside records read in order.
    """
    films = sets.load(options)
    iterator = input_pipeline.train_iterator(films, films.splits["train"], 32, 1, 0, threads=2)
    next(iterator)
    begun, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begun) < READING:
        next(iterator)
        count += 32
    positions = iter(range(1_000_000_000))
    limit = machine.rate(lambda: films.source[next(positions) % len(films.source)], 1, 1.0)
    return {"what": "input, shuffled batches", "films": count, "rate": count / seconds,
            "limit": limit, "first": None, "seconds": seconds, "cpu": None, "peak": None}


def _row(what: str, films: int, limit: float | None, *words: str) -> dict[str, Any]:
    print(f"{what}: {films:,} films ...", flush=True)
    try:
        told = command(*words)
    except subprocess.CalledProcessError as error:
        return {"what": what, "films": films, "error": error.output.strip().splitlines()[-1]}
    return {"what": what, "films": films, "rate": films / told.seconds, "limit": limit,
            **told._asdict()}


def command(*words: str) -> Told:
    """Runs `cxrjax WORDS` and watches it.

    Raises:
      subprocess.CalledProcessError: it failed; `output` is what it said.
    """
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "cxrjax", *words], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
    first, said = None, []
    with process.stdout:
        for line in process.stdout:
            first = first or time.perf_counter() - begun
            said = [*said[-20:], line.decode(errors="replace")]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, "".join(said) or "silence")
    scale = 1 if sys.platform == "darwin" else 1024
    return Told(first or seconds, seconds, usage.ru_utime + usage.ru_stime,
                usage.ru_maxrss * scale)


def markdown(report: dict[str, Any]) -> str:
    """The table, with what its columns mean."""
    parts = [f"# {report['films']:,} films, prepared at {report['size']} px\n\n"
             f"{report['device']}, {report['cores']} cores"]
    if report["load"] > 1.5 * report["cores"]:
        parts.append(f"**Other programs were running (load {report['load']:.1f} on "
                     f"{report['cores']} cores): seconds of this run do not hold.**")

    def told(value: float | None, words: str) -> str:
        return "-" if value is None else words.format(value)

    lines = tables.table(
        ["", "films", "films/s", "of the limit", "first word s", "seconds", "CPU s", "peak GB"],
        [[r["what"], f"{r['films']:,}", throughput(r["rate"]),
          told(r["limit"] and r["rate"] / r["limit"], "{:.2f}"), told(r["first"], "{:.1f}"),
          told(r["seconds"], "{:.1f}"), told(r["cpu"], "{:.1f}"),
          told(r["peak"] and r["peak"] / 1e9, "{:.2f}")]
         for r in report["rows"] if "error" not in r], range(1, 8))
    parts.append("\n".join(lines))
    parts.append("The limit of preparation is decoding alone on all cores; that of the input is "
                 "reading records in order on one thread. Training and evaluation include what the "
                 "network itself computes (a ResNet-18 of an eighth of its width).")
    parts += [f"FAILED: {r['what']}: {r['error']}" for r in report["rows"] if "error" in r]
    return "\n\n".join(parts) + "\n"
