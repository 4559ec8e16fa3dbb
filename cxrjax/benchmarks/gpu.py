"""All that wants a GPU, measured within minutes: `--mode=benchmark --what=gpu --output=FOLDER`.

Compiling takes longer than measuring. So every side of every network is a process of its own that
compiles and then waits. They compile side by side, our networks one after the other (XLA times its
candidates as it compiles, and two at once would disturb each other), PyTorch's two at a time,
beside a training on synthetic films whose AUROC is to be the CPU's. Then all stand still but the
one that measures. What has not compiled by then goes on, alone, in the time that is left.

What is found lies in FOLDER/gpu.jsonl as soon as it is known, and in FOLDER/gpu.md as tables.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from cxrjax.benchmarks import gpu_table
from cxrjax.errors import UserError

MODELS = ("resnet50", "convnext_tiny", "resnet18", "densenet121", "conformer_tiny")
SECONDS = 420  # in all
COMPILING = 0.6  # of these at most, before the first is measured
LANES = {"ours": 1, "torch": 2, "training": 1}  # processes that compile at the same time


class Task(NamedTuple):
    """What one process does: see `gpu_sides.main`."""

    kind: str
    name: str

    @property
    def lane(self) -> str:
        """Those of one lane compile one after the other."""
        return self.kind if self.kind in ("torch", "training") else "ours"


def main(output: str | None, models: Sequence[str], size: int | None, batch: int | None,
         repeats: int, seconds: float | int = SECONDS) -> int:
    """Measures until `seconds` are over; the exit status: 1 where something failed or is missing.

    Args:
      output: a folder.
      models: networks, the most important first.
      size, batch, repeats: side of the films, films in a batch, turns.
      seconds: after which everything is stopped; what was found is written by then.
    """
    if not output:
        raise UserError("--what=gpu needs --output=FOLDER")
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [Task("device", "")]
    for name in models:
        tasks += [Task("ours", name), Task("torch", name)]
    tasks[5:5] = [Task("mutual", "resnet18")]
    tasks += [Task("training", "phantom"), Task("layers", ""), Task("scan", models[0])]
    board = Board(folder, size or 224, batch or 256, repeats, time.monotonic() + seconds)
    try:
        board.run(tasks, seconds * COMPILING)
    finally:
        board.close()
    rows = board.rows
    print((folder / "gpu.md").read_text())
    done = {(row["kind"], row["name"]) for row in rows if row["what"] == "result"}
    missing = [task for task in tasks if tuple(task) not in done]
    for task in missing:
        print(f"MISSING: {task.kind} {task.name}")
    return int(bool(missing))


class Side:
    """One process; its lines are read by a thread of ours.

    Args:
      task: what it does.
      arguments: size, batch, repeats.
      folder: its messages go to gpu.log there.
      told: (side, row) is put here for each of its lines, (side, None) at its end.
    """

    def __init__(self, task: Task, arguments: Sequence[int], folder: pathlib.Path,
                 told: queue.Queue):
        self.task, self.ready, self.ended, self.result = task, False, False, False
        words = [sys.executable, "-m", "cxrjax.benchmarks.gpu_sides", task.kind, task.name]
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1",
                       "MPLBACKEND": "Agg", **os.environ}
        if task.kind != "training":
            environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # true compile times
        if task.kind == "torch":
            environment["JAX_PLATFORMS"] = "cpu"  # our package is imported for the labels' names
        with (folder / "gpu.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*words, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, env=environment, process_group=0,
            )
        threading.Thread(target=self._listen, args=(told,), daemon=True).start()

    def _listen(self, told: queue.Queue) -> None:
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                told.put((self, json.loads(line)))
        self._process.wait()
        told.put((self, None))

    def go(self) -> None:
        """It has waited for its turn to measure."""
        self.signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()

    def signal(self, number: int) -> None:
        """To the process and those that it began."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, number)

    @property
    def status(self) -> int | None:
        """Exit status."""
        return self._process.poll()


class Board:
    """All processes, what they said, and the time that is left."""

    def __init__(self, folder: pathlib.Path, size: int, batch: int, repeats: int, end: float):
        self._folder, self._end, self._begun = folder, end, time.monotonic()
        self._arguments = (size, batch, repeats)
        self._told: queue.Queue = queue.Queue()
        self._sides: list[Side] = []
        self.rows: list[dict[str, Any]] = []
        for name in ("gpu.jsonl", "gpu.log"):
            (folder / name).write_text("")

    def run(self, tasks: Sequence[Task], compiling: float) -> None:
        """Compiles all side by side for at most `compiling` seconds, then measures one by one."""
        first, *rest = tasks
        self._until(self._started(first), self._end)  # alone: the card's ceiling
        waiting = list(rest)
        compiled_by = min(self._end, time.monotonic() + compiling)
        while time.monotonic() < compiled_by:
            self._fill(waiting)
            if not waiting and all(s.ready or s.ended for s in self._sides):
                break
            self._hear(compiled_by)
        late = [s for s in self._sides if not (s.ready or s.ended)]
        for side in late:
            side.signal(signal.SIGSTOP)
        order = {task: i for i, task in enumerate(tasks)}
        for side in sorted(self._sides, key=lambda s: order[s.task]):
            if side.ready and not side.ended:
                side.go()
                self._until(side, self._end)
        for side in sorted(late, key=lambda s: order[s.task]):
            self._finish(side)
        # Beside others a side may have found too little memory: once more, alone.
        again = [side.task for side in self._sides if side.ended and not side.result]
        for task in [*waiting, *again]:
            if time.monotonic() < self._end:
                self._finish(self._started(task))

    def _finish(self, side: Side) -> None:
        """Lets one that was stopped, or has just begun, compile and measure, alone."""
        side.signal(signal.SIGCONT)
        while not (side.ready or side.ended) and time.monotonic() < self._end:
            self._hear(self._end)
        if side.ready:
            side.go()
        self._until(side, self._end)

    def _fill(self, waiting: list[Task]) -> None:
        for task in list(waiting):
            busy = sum(s.task.lane == task.lane and not (s.ready or s.ended) for s in self._sides)
            if busy < LANES[task.lane]:
                waiting.remove(task)
                self._started(task)

    def _started(self, task: Task) -> Side:
        side = Side(task, self._arguments, self._folder, self._told)
        self._sides.append(side)
        return side

    def _until(self, side: Side, end: float) -> None:
        while not side.ended and time.monotonic() < end:
            self._hear(end)

    def _hear(self, end: float) -> None:
        """Waits for a line of any process, a second at most, and keeps it."""
        try:
            side, row = self._told.get(timeout=max(0.01, min(1.0, end - time.monotonic())))
        except queue.Empty:
            return
        if row is None:
            side.ended = True
            if side.result:
                return
            row = {"what": "failed", "status": side.status}
        side.ready |= row["what"] == "ready"
        side.result |= row["what"] == "result"
        at = round(time.monotonic() - self._begun, 1)
        row = {"kind": side.task.kind, "name": side.task.name, "at": at, **row}
        self.rows.append(row)
        with (self._folder / "gpu.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        (self._folder / "gpu.md").write_text(gpu_table.markdown(self.rows))
        print(f"{at:6.1f} s  {row['kind']} {row['name']}: {row['what']}", flush=True)

    def close(self) -> None:
        """Ends what still runs."""
        for side in self._sides:
            side.signal(signal.SIGCONT)
            side.signal(signal.SIGKILL)
        (self._folder / "gpu.md").write_text(gpu_table.markdown(self.rows))
