"""A workdir as a place to write to: one writer at a time, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator

import filelock

from cxrjax.errors import UserError
from cxrjax.models.weights import hub
from cxrjax.training import published

_LOCK, _HOLDER = ".lock", ".lock.json"
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
