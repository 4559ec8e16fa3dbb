"""A workdir as a place to write to: one writer at a time, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import filelock

from cxrjax.errors import UserError
from cxrjax.models.weights import hub
from cxrjax.training import published

_LOCK, _HOLDER = ".lock", ".lock.json"
_CLAIM = ".cxrjax.json"  # in a folder of results: what they are, and of which runs
NO_TRAINING = "no_training.txt"  # beside a checkpoint that a training cannot go on from


def refuse_recalibrated(workdir: str | pathlib.Path) -> None:
    """Raises UserError where `checkpoint.save_variables` wrote, or a published network lies.

    A training would begin anew there and delete it.
    """
    if hub.is_reference(workdir) or published.is_published(workdir):
        raise UserError(
            f"{workdir} is a published network, in which no training runs: give another --workdir "
            f"and --config.init_from={workdir}"
        )
    if (pathlib.Path(workdir) / "checkpoints" / NO_TRAINING).exists():
        raise UserError(
            f"{workdir} holds a recalibrated run, which a training cannot go on from: give "
            "another --workdir (and --config.init_from to start from its weights)"
        )


def seed_folder(workdir: str | pathlib.Path, seed: int) -> pathlib.Path:
    """Where a training of several seeds keeps the run of one of them."""
    return pathlib.Path(workdir) / f"seed-{seed}"


def seed_runs(workdir: str | pathlib.Path | None) -> list[pathlib.Path]:
    """The runs of a training of several seeds, by their seeds; [] of any other folder."""
    folder = pathlib.Path(workdir or "")
    if not workdir or not folder.is_dir() or (folder / "checkpoints").exists():
        return []
    return sorted((run for run in folder.iterdir() if is_seed_run(run)),
                  key=lambda run: int(run.name.partition("-")[2]))


def is_seed_run(workdir: str | pathlib.Path) -> bool:
    """Whether a folder is that of one of the runs of a training of several seeds."""
    folder = pathlib.Path(workdir)
    named = re.fullmatch(r"seed-\d+", folder.name) is not None
    return named and ((folder / "checkpoints").is_dir() or (folder / "evaluation").is_dir())


@contextlib.contextmanager
def only_writer(workdir: str | pathlib.Path) -> Iterator[None]:
    """Makes the workdir and holds it: a second training or recalibration there is refused.

    The lock is the operating system's, so that one of a process that died is free.

    Raises:
      UserError: somebody holds it (who, where, since when), or nothing can be written there.
    """
    workdir = pathlib.Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(workdir / _LOCK)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            f"{workdir} is being written by another training ({_holder(workdir)}): wait for it, "
            f"end it, or give another --workdir{_of_many()}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{workdir}: cannot be written ({error.strerror or error}): give a --workdir that can"
        ) from None
    try:
        write_text(workdir / _HOLDER, json.dumps({
            "host": socket.gethostname(), "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }))
        yield
    finally:
        (workdir / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _of_many() -> str:
    """What is to be said where a scheduler started several processes and none was told so."""
    for program, variable in (("SLURM", "SLURM_NTASKS"), ("Open MPI", "OMPI_COMM_WORLD_SIZE")):
        if (number := os.environ.get(variable, "")).isdigit() and int(number) > 1:
            return (f". {program} started {number} processes: --coordinator=auto trains one run in "
                    "all of them")
    return ""


def _holder(workdir: pathlib.Path) -> str:
    try:
        holder = json.loads((workdir / _HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "which has just begun"


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A name to write to that becomes `path` at the end; an error leaves what was there.

    The name has the suffix of `path`, as some writers go by it.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Writes a text file whole: whoever reads it sees the old or the new one."""
    with replacing(path) as partial:
        partial.write_text(text)


def claim(
    folder: pathlib.Path, what: str, runs: Sequence[str | pathlib.Path], main_file: str,
    overwrite: bool = False,
) -> None:
    """Makes a folder for results; one that holds anything else is not written over in silence.

    The rule: a folder may be new, empty, or hold the same kind of results of the same runs, which
    are then renewed. Others are refused, but for those that lie in the workdir of the only run:
    there it is said what they give way to.

    Args:
      folder: to write to.
      what: 'the evaluation of the test split', ...
      runs: workdirs that the results are of.
      main_file: by which results of before 0.2 are known; they are taken for these.
      overwrite: whatever the folder holds.

    Raises:
      UserError: it holds something else (says what), or nothing can be written there.
    """
    own = {"what": what, "runs": sorted(str(pathlib.Path(run).resolve()) for run in runs)}
    there = sorted(p.name for p in folder.iterdir() if p.name[0] != ".") if folder.is_dir() else []
    if there and not overwrite:
        theirs = _claimed(folder) or (own if main_file in there else None)
        home = pathlib.Path(own["runs"][0])
        if len(own["runs"]) == 1 and home in (folder.resolve(), *folder.resolve().parents):
            if theirs and theirs != own:
                print(f"{folder}: {what} takes the place of {theirs['what']}")
        elif theirs is None:
            raise UserError(f"{folder} holds other files ({there[0]}, ...): give another --output, "
                            "or --overwrite")
        elif theirs != own:
            raise UserError(f"{folder} holds {theirs['what']} ({', '.join(theirs['runs'])}): "
                            "--overwrite replaces it, or give another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _CLAIM, json.dumps(own))


def _claimed(folder: pathlib.Path) -> dict[str, Any] | None:
    """What `claim` wrote there; None where it did not, or somebody else after it."""
    try:
        found = json.loads((folder / _CLAIM).read_text())
        return {"what": f"{found['what']}", "runs": [f"{run}" for run in found["runs"]]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
