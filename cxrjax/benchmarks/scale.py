"""A whole data set's worth of work: `--mode=benchmark --what=scale --films=112120 --output=FOLDER`.

Synthetic films in ChestX-ray14's layout: a few hundred are drawn, and hard links give them as many
names as are asked for, with patients, labels and the three lists in the public set's proportions
(`scale_films`). Each command then runs in a process of its own, which says when it first spoke, how
long it took and how much memory it held; beside it stands the limit of what it does (decoding
alone, reading alone). Networks are small, and what they compute is told apart.

What was made stays in FOLDER, to be measured again by another version of the package. A second size
measured into the same FOLDER stands beside the first: the page then shows how the cost grows.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image

from cxrjax import tables
from cxrjax.benchmarks import machine, scale_table
from cxrjax.benchmarks.scale_films import DRAWN, FILMS, TEST, VAL, make
from cxrjax.benchmarks.table import throughput
from cxrjax.data import input_pipeline, parallel, sets
from cxrjax.errors import UserError
from cxrjax.training.restored import restore

LARGE = 4000  # films of 1024 px at most: they show what decoding costs, not how cost grows
SIZE = 64  # pixels of a side of what is prepared, if nothing is said
READING = 5.0  # seconds for which the input pipeline is read
STEPS = 60  # of a ResNet-18, that shows whether it waits for films


class Told(NamedTuple):
    """What a command cost and said.

    Attributes:
      first: seconds until it first said something.
      seconds: in all.
      cpu: seconds of all cores.
      peak: bytes in memory at most.
      others: cores that the rest of the machine kept busy meanwhile, on average; None if unknown.
      said: its last lines.
    """

    first: float
    seconds: float
    cpu: float
    peak: int
    others: float | None
    said: tuple[str, ...]


def main(output: str | None, films: int = FILMS, size: int = SIZE) -> int:
    """Makes the films, runs the commands, writes FOLDER/scale-N.json and scale.md; 1 if one failed.

    Args:
      output: a folder; what it holds of other sizes is shown beside this one.
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
    own = folder / f"scale-{films}.json"
    for row in measure(folder, films, size):
        rows.append(row)
        failed |= "error" in row
        print(f"{row['what']}: {row.get('error') or throughput(row['rate']) + ' films/s'}",
              flush=True)
        report = {"films": films, "size": size, "cores": parallel.cores(),
                  "device": machine.name(), "load": os.getloadavg()[0], "rows": rows,
                  "command": " ".join(sys.argv[1:]), "date": time.strftime("%Y-%m-%d %H:%M")}
        own.write_text(json.dumps(tables.finite(report), indent=1) + "\n")
    reports = [json.loads(path.read_text()) for path in folder.glob("scale-*.json")]
    (folder / "scale.md").write_text(scale_table.markdown(reports))
    print((folder / "scale.md").read_text())
    return int(failed)


def measure(folder: pathlib.Path, films: int, size: int) -> Iterator[dict[str, Any]]:
    """The rows of the table, one by one.

    {what, films, rate (films/s), limit (films/s, or None), networks (seconds that networks
    computed, where it is known), waiting (share of a training), and the fields of `Told` but for
    `said`}; of one that failed {what, films, error}.
    """
    data = folder / "prepared"
    for side in sorted(DRAWN, reverse=True):
        count = films if side == 256 else min(films, LARGE)
        print(f"films of {side} px: {count:,} names", flush=True)
        raw = make(folder / f"raw-{side}-{count}", count, side)
        limit = decoding(sorted((raw / "images").iterdir())[:2000])
        shutil.rmtree(data, ignore_errors=True)
        argument = f"chestxray14:resnet18,size={size}"
        where = [f"--config.dataset.raw_dir={raw}", f"--config.dataset.data_dir={data}"]
        yield _row(f"prepare, films of {side} px", count, limit,
                   "--mode=prepare", f"--config={argument}", *where)[0]
    batch = ["--config.batch_size=32", "--config.eval_batch_size=256"]
    # A ResNet-18 as it is: does it wait for its films?
    normal = folder / "run_resnet18"
    shutil.rmtree(normal, ignore_errors=True)
    row, said = _row(f"train {STEPS} steps of ResNet-18, validate", STEPS * 32, None,
                     "--mode=train", f"--config={argument}", f"--workdir={normal}", *where, *batch,
                     f"--config.train_for={STEPS} steps", f"--config.evaluate_every={STEPS} steps")
    if speed := re.search(r"([\d,]+) films/s, waiting for data ([\d.]+)%", "\n".join(said)):
        row |= {"rate": float(speed[1].replace(",", "")), "waiting": float(speed[2]) / 100}
    yield row
    # One step of the smallest network: what is asked is what everything else costs.
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    tiny = ["--config.model.width=8", "--config.train_for=1 steps",
            "--config.evaluate_every=1 steps"]
    trained, _ = _row("train a step, validate", round(films * VAL), None, "--mode=train",
                      f"--config={argument}", f"--workdir={run}", *where, *batch, *tiny)
    yield trained
    if "error" in trained:
        return
    options = restore(str(run)).config.dataset.to_dict()
    yield reading(options)
    for place in ("evaluation", "explained"):
        shutil.rmtree(folder / place, ignore_errors=True)
    row, _ = _row("evaluate and report", round(films * TEST), None, "--mode=evaluate",
                  f"--workdir={run}", f"--output={folder / 'evaluation'}")
    if "error" not in row:
        report = json.loads((folder / "evaluation" / "report.json").read_text())
        row |= {"films": report["films"], "networks": report["made"]["network seconds"]}
    yield row
    yield _row("explain", round(films * TEST), None, "--mode=explain", f"--workdir={run}",
               f"--output={folder / 'explained'}", "--findings=Mass")[0]


def decoding(files: Sequence[pathlib.Path]) -> float:
    """Films/s of decoding alone, on all cores: no reading of facts, no resizing, no writing."""

    def decode(path: pathlib.Path) -> None:
        with Image.open(path) as film:
            film.load()

    begun = time.perf_counter()
    for _ in parallel.ordered_map(decode, files, parallel.cores(), together=8):
        pass
    return len(files) / (time.perf_counter() - begun)


def reading(options: dict[str, Any]) -> dict[str, Any]:
    """The row of the input pipeline: training batches on 2 threads, beside records read in order.
    """
    films = sets.load(options)
    iterator = input_pipeline.train_iterator(films, films.splits["train"], 32, 1, 0, threads=2)
    next(iterator)
    begun, cpu, busy, count = time.perf_counter(), time.process_time(), machine.busy(), 0
    while (seconds := time.perf_counter() - begun) < READING:
        next(iterator)
        count += 32
    cpu = time.process_time() - cpu
    others = _others(busy, cpu, seconds)
    positions = iter(range(1_000_000_000))
    limit = machine.rate(lambda: films.source[next(positions) % len(films.source)], 1, 1.0)
    return {"what": "input, shuffled batches", "films": count, "rate": count / seconds,
            "limit": limit, "first": None, "seconds": seconds, "cpu": cpu, "peak": None,
            "others": others}


def _row(
    what: str, films: int, limit: float | None, *words: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A row, and the last lines that its command said."""
    print(f"{what}: {films:,} films ...", flush=True)
    try:
        told = command(*words)
    except subprocess.CalledProcessError as error:
        return {"what": what, "films": films, "error": error.output.strip().splitlines()[-1]}, ()
    own = told._asdict()
    del own["said"]
    return {"what": what, "films": films, "rate": films / told.seconds, "limit": limit,
            **own}, told.said


# A process is born with the peak memory of the one that starts it: a small one stands between.
_WATCH = """
import os, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    print(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, file=file)
"""


def command(*words: str) -> Told:
    """Runs `cxrjax WORDS` and watches it.

    Raises:
      subprocess.CalledProcessError: it failed; `output` is what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        usage = pathlib.Path(folder) / "usage"
        begun, busy = time.perf_counter(), machine.busy()
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _WATCH, str(usage), sys.executable, "-m", "cxrjax",
             *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"})
        first, said = None, []
        with process.stdout:
            for line in process.stdout:
                first = first or time.perf_counter() - begun
                said = [*said[-20:], line.decode(errors="replace")]
        process.wait()
        seconds = time.perf_counter() - begun
        status, cpu, peak = (float(word) for word in usage.read_text().split())
    if status:
        raise subprocess.CalledProcessError(int(status), words, "".join(said) or "silence")
    scale = 1 if sys.platform == "darwin" else 1024
    return Told(first or seconds, seconds, cpu, int(peak) * scale, _others(busy, cpu, seconds),
                tuple(said))


def _others(before: float | None, own: float, seconds: float) -> float | None:
    """Cores that others kept busy since the machine was at `before` (`machine.busy`)."""
    now = machine.busy()
    if before is None or now is None:
        return None
    return max(0.0, (now - before - own) / seconds)
