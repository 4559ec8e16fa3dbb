"""Several runs of one config that differ in the seed, trained side by side by one command.

`config.seeds = 3` trains seed, seed + 1 and seed + 2, each in a folder of its own, WORKDIR/seed-0,
... What lies in such a folder is an ordinary run: that of the same config with that seed, as if it
had been trained alone. The runs share films, compiled programs and the devices; each has its own
weights, order, augmentation, validation, best checkpoint and end.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from cxrjax.errors import UserError
from cxrjax.names import scheme_of
from cxrjax.training import abreast, resume, start
from cxrjax.training.workdir import seed_folder, seed_runs

Begun = tuple[start.Setup, Any, start.Progress]


def check(config: Any, workdir: str | pathlib.Path) -> None:
    """Raises UserError where a workdir or a scheme is not for as many seeds as the config says."""
    workdir, number = pathlib.Path(workdir), config.get("seeds", 1)
    there = seed_runs(workdir)
    if number == 1:
        if there:
            raise UserError(
                f"{workdir} holds the runs of {len(there)} seeds: go on with them by "
                f"--config.seeds={len(there)}, or give another --workdir"
            )
        return
    if (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} holds a run of one seed: give another --workdir for "
                        f"config.seeds = {number}")
    if jax.process_count() > 1:
        raise UserError("config.seeds is of one process: with several train one seed after the "
                        "other, each with a --workdir of its own")
    if not getattr(scheme_of(config), "SEEDS", False):
        raise UserError(
            f"config.seeds = {number}: the steps of the scheme {config.scheme.name!r} depend on "
            "the seed, so that its runs cannot share a program: train one seed after the other, "
            "with --config.seed and a --workdir of its own"
        )


def folders(config: Any, workdir: str | pathlib.Path) -> list[pathlib.Path]:
    """The workdirs of the runs, in the order of their seeds."""
    return [seed_folder(workdir, config.seed + i) for i in range(config.get("seeds", 1))]


def way(run: start.Setup) -> Callable:
    """How the runs of a training take their steps; see `abreast`."""
    platform, model = jax.default_backend(), run.config.model
    name = model.get("encoder", model.name)
    if name.startswith(abreast.AT_ONCE.get(platform, ())):
        return abreast.AtOnce(scheme_of(run.config).make_step(run.config), run.mesh)
    return abreast.by_turns


def begin(config: Any, workdir: str | pathlib.Path, allow_changed_films: bool) -> list[Begun]:
    """What `start.begin` gives for each seed; the runs share what does not depend on it.

    Raises:
      UserError: whatever the user can mend.
    """
    begun: list[Begun] = []
    for number, folder in enumerate(folders(config, workdir)):
        own = ConfigDict(config).copy_and_resolve_references()
        own.seed, own.seeds = config.seed + number, 1
        if not begun:
            begun.append(start.begin(own, folder, allow_changed_films))
            continue
        first, structure = begun[0][0], jax.tree.structure(begun[0][1])
        run, states, progress = start.begin(own, folder, allow_changed_films, beside=first)
        _check_same(first, run)
        # With functions of its own in its states each run would have the step compiled anew.
        begun.append((run, jax.tree.unflatten(structure, jax.tree.leaves(states)), progress))
    return begun


def _check_same(first: start.Setup, other: start.Setup) -> None:
    """Raises UserError where a run that went on is not of one config with the first."""
    a, b = resume.flat(first.as_json), resume.flat(other.as_json)
    for field in sorted(a.keys() | b.keys()):
        if field != "seed" and a.get(field) != b.get(field):
            raise UserError(
                f"{first.workdir} and {other.workdir} are not of one config: config.{field} is "
                f"{a.get(field)!r} and {b.get(field)!r}"
            )
