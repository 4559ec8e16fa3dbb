"""Batch statistics for the films as they are.

A network with batch normalisation is evaluated with running averages of what it saw in training:
augmented films (turned, so blurred; with black corners), and, where an EMA of the weights is
evaluated, activations of other weights. `--mode=recalibrate` computes the statistics anew, with the
weights that are evaluated and nothing dropped, on films as they are: those of the training split,
or films of one's own (another hospital's, say: adaptive batch normalisation, Li et al. 2016,
arXiv:1603.04779). Labels are not looked at, no weight changes, and the run that it reads stays as
it is.
With `config.recalibrate` a training does the same at every validation (`batch_statistics`).
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from cxrjax.data import films_on_disk, input_pipeline, progress
from cxrjax.errors import UserError
from cxrjax.evaluation import provenance
from cxrjax.names import program, scheme_of
from cxrjax.training import checkpoint as checkpoints
from cxrjax.training import devices, published, steps
from cxrjax.training.batch_statistics import Statistics, some
from cxrjax.training.restored import Run, restore

_FROM_RUN = ("config.json", "metrics.jsonl")


def main(
    workdir: str | None, output: str | None = None, images: str | None = None,
    checkpoint: str = "best", data_dir: str | None = None,
) -> int:
    """`--mode=recalibrate`: writes a run to `output`; status 1 if a film could not be read.

    Args:
      workdir: of the training.
      output: workdir of the new run, which is evaluated like any other.
      images: films of one's own; by default those of the training split.
      checkpoint: which one to read.
      data_dir: where the prepared films are now, if they were moved.
    """
    if not output:
        raise UserError("give --output=FOLDER for the recalibrated run: --workdir stays as it is")
    target = pathlib.Path(output).expanduser()
    if (target / "checkpoints").exists():
        raise UserError(f"{target} holds a run already: choose another --output")
    skipped: films_on_disk.Failures = []
    facts: films_on_disk.Facts = {}
    paths = films_on_disk.find_films(images, skipped) if images else []
    workdir = published.located(workdir)
    run = restore(workdir, checkpoint)
    failures: films_on_disk.Failures = []
    if paths:
        chosen = [paths[i] for i in some(len(paths))]
        side, options = run.config.image_shape[0], run.config.dataset.to_dict()
        read = films_on_disk.read_all(chosen, side, options, failures, facts)
        films = ((str(path), ready) for path, _, ready in read)
        number, source = len(chosen), images
    else:
        data = provenance.open_films(run, data_dir)
        positions = data.splits["train"][some(len(data.splits["train"]))]
        films = ((str(i), data.source[int(i)]["image"]) for i in positions)
        number, source = len(positions), "the training split"
    devices.announce()
    states, used = recalibrate(run, whole_batches(films, run.config.batch_size, number))
    save(run, states, pathlib.Path(workdir), target,
         f"batch statistics of {used:,} films of {source} as they are")
    print(f"batch statistics of {used:,} films: {target}. "
          f"Next: {program()} --mode=evaluate --workdir={target}")
    films_on_disk.report_skipped(skipped)
    films_on_disk.report_facts(facts, run.config.dataset.to_dict())
    return films_on_disk.report_failures(failures, number)


def whole_batches(
    films: Iterable[tuple[str, UInt8[np.ndarray, "h w 1"]]], size: int, number: int
) -> Iterator[UInt8[np.ndarray, "b h w 1"]]:
    """The `number` named films in batches of one size; what is left over is left out.

    Raises:
      UserError: not even one batch.
    """
    shown = progress.of(films, "recalibrating", number)
    whole = 0
    for batch, names in input_pipeline.batches(iter(shown), size):
        if len(names) == size:
            whole += 1
            yield batch["image"]
        elif not whole:
            raise UserError(f"{len(names)} films are too few: a batch of the training has {size}")
    if not whole:
        raise UserError(f"no films: a batch of the training has {size}")


def recalibrate(
    run: Run, films: Iterator[UInt8[np.ndarray, "b h w 1"]]
) -> tuple[dict[str, steps.EvalState], int]:
    """The run's states with new batch statistics, and the number of films that they are of.

    Raises:
      UserError: none of its networks has batch statistics.
    """
    apply = apply_functions(run)
    if not any(run.states[name].batch_stats for name in apply):
        raise UserError("no network of this run has batch normalisation: nothing to recalibrate")
    sums = {
        name: Statistics(function, run.states[name])
        for name, function in apply.items() if run.states[name].batch_stats
    }
    used = 0
    for image in films:
        used += len(image)
        shown = steps.prepare_eval(run.config, jnp.asarray(image))
        for own in sums.values():
            own.add(shown)
    return {
        name: state.replace(batch_stats=sums[name].result()) if name in sums else state
        for name, state in run.states.items()
    }, used


def apply_functions(run: Run) -> dict[str, Callable]:
    """{network: its apply function}, of the networks that were trained, by the run's own scheme."""
    return {n: m.apply for n, m in scheme_of(run.config).make_models(run.config).items()}


def save(
    run: Run, states: Mapping[str, steps.EvalState], workdir: pathlib.Path, target: pathlib.Path,
    what: str,
) -> None:
    """Writes a workdir with the states as its best checkpoint; `what` goes into its reports."""
    variables = {}
    for name, state in states.items():
        parts = {"params": state.params, "batch_stats": state.batch_stats,
                 "ema_params": state.ema_params}
        variables[name] = {k: v for k, v in parts.items() if v is not None}
    target.mkdir(parents=True, exist_ok=True)
    checkpoints.save_variables(
        target, run.config.to_dict(), {**run.meta, "recalibrated": what}, variables, run.step
    )
    for name in _FROM_RUN:
        if (workdir / name).is_file():
            shutil.copyfile(workdir / name, target / name)
