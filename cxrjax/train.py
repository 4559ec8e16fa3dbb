"""Training: a thin loop around the scheme's compiled steps.

Where the weights come from, in this order: the workdir's latest checkpoint (the run goes on),
`config.init_from`, fresh initialisation from the seed.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import math
import pathlib
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from clu import parameter_overview
from ml_collections import ConfigDict, FrozenConfigDict
from tqdm import tqdm

from cxrjax import (
    __version__,
    checkpoint,
    datasets,
    input_pipeline,
    losses,
    metrics,
    models,
    report,
    segmentation,
    steps,
    writers,
)
from cxrjax.clock import Clock
from cxrjax.datasets.base import Films
from cxrjax.errors import UserError
from cxrjax.names import resolve_module
from cxrjax.optim import make_optimizer, to_steps

# May differ between a workdir and a command that goes on with it: they do not change the run.
MAY_CHANGE = ("dataset.raw_dir", "dataset.data_dir", "threads", "cache_in_memory", "log_every",
              "eval_batch_size")


def forget_options_of(config: Any, field: str = "config") -> None:
    """Removes `options_of` from every model's options, after it has served.

    It is the name of the network that the options are of. A completed config has none, as those
    of older runs have none.

    Raises:
      UserError: the name was changed and the options were left.
    """
    made_for = config.get("options_of")
    if made_for is not None:
        del config["options_of"]
    if made_for not in (None, config.get("name")):
        models.defaults_of(config.name)  # a name that there is not is said first
        raise UserError(
            f"{field}.name = {config.name!r}, but the other options of {field} are those of "
            f"{made_for!r}: choose the network with --config=FILE:{config.name}"
        )
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            forget_options_of(value, f"{field}.{key}")


_LEAST = {"batch_size": 1, "eval_batch_size": 1, "steps_per_call": 0, "seed": 0, "workers": 0,
          "threads": 0}
_DURATIONS = ("train_for", "evaluate_every", "checkpoint_every")


def check(config: Any) -> None:
    """Raises UserError at the first field that no training can have; absent fields are passed over.

    What a scheme's own fields may be is checked by the scheme.
    """
    for field, least in _LEAST.items():
        if config.get(field, least) < least:
            raise UserError(f"config.{field} = {config[field]} must be {least} or more")
    for field in _DURATIONS:
        # Whatever the films are: in an epoch so long every part of it counts.
        if field in config and to_steps(config[field], 1e12, field) == 0:
            raise UserError(
                f"config.{field} = {config[field]!r} has no length: as in '1 epoch' or '500 steps'"
            )
    places = {"config.optimizer": config.optimizer}
    for name, network in config.get("networks", {}).items():
        places[f"config.networks.{name}.optimizer"] = network.get("optimizer") or {}
    for place, options in places.items():
        if options.get("learning_rate", 1) <= 0:
            raise UserError(f"{place}.learning_rate = {options['learning_rate']} must be above 0")
        if options.get("clip_norm", 0) < 0:
            raise UserError(f"{place}.clip_norm = {options['clip_norm']} is below 0 (0: off)")
        if not 0 <= options.get("ema_decay", 0) < 1:
            raise UserError(
                f"{place}.ema_decay = {options['ema_decay']} must be below 1, as 0.999, or 0: off"
            )
    scheme = resolve_module("schemes", config.scheme.name)
    fields = getattr(scheme, "FIELDS", ())
    if missing := [field for field in fields if field not in config.scheme]:
        raise UserError(
            f"scheme {config.scheme.name!r} needs config.scheme.{', '.join(missing)}, which this "
            f"config has not: start from --config={scheme.EXAMPLE}"
        )


def complete(config: Any, films: Films) -> FrozenConfigDict:
    """The config with what follows from the films: labels, task, masks, and the step counts.

    Args:
      config: as the user wrote it.
      films: the opened data set.

    Raises:
      UserError: see `check`; the training split is empty; options of another network.
    """
    # A copy to the depth: the caller's config may be used again.
    config = ConfigDict(config).copy_and_resolve_references()
    check(config)
    positions = films.splits["train"]
    if not len(positions):
        raise UserError(f"the training split is empty: {films.info.get('protocol', '')}")
    with config.unlocked(), config.ignore_type():
        forget_options_of(config)
        config.labels = films.labels
        config.task = films.task
        config.masks = films.masks
        config.image_shape = tuple(films.source[int(positions[0])]["image"].shape)
        config.steps_per_call = config.steps_per_call or (
            1 if jax.default_backend() == "cpu" else 10
        )
        config.steps_per_epoch = len(positions) / config.batch_size
        total = max(1, to_steps(config.train_for, config.steps_per_epoch, "train_for"))
        config.total_steps = math.ceil(total / config.steps_per_call) * config.steps_per_call
        if config.loss.get("pos_weight") == "balanced":
            labels = input_pipeline.labels_of(films, positions)
            positive, negative = np.nansum(labels == 1, 0), np.nansum(labels == 0, 0)
            # No positive at all: nothing to weigh.
            config.loss.pos_weight = tuple(
                float(n / p) if p else 1.0 for n, p in zip(negative, positive)
            )
        if config.loss.get("class_weights") == "balanced":
            counts = np.maximum(np.nansum(input_pipeline.labels_of(films, positions), 0), 1)
            config.loss.class_weights = tuple((counts.sum() / (len(counts) * counts)).tolist())
        for option in ("pos_weight", "class_weights") if ":" not in config.loss.name else ():
            # Here, and not only in the loss: label groups take their own out of a list.
            if isinstance(text := config.loss.get(option), str) and text:
                config.loss[option] = losses.parse_weights(option, text)
        scheme = resolve_module("schemes", config.scheme.name)
        if hasattr(scheme, "complete"):
            config.update(scheme.complete(config, films))
    if config.augment.get("flip") and not films.allow_flip:
        logging.warning(
            "config.augment.flip mirrors films although the side matters for %s",
            config.dataset.name,
        )
    return FrozenConfigDict(config)


def open_films(config: Any) -> Films:
    """The films of a config, cached in memory where it says so."""
    films = datasets.load(config.dataset.to_dict())
    if config.get("cache_in_memory"):
        films = dataclasses.replace(films, source=input_pipeline.Cached(films.source))
    return films


def config_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON types (tuples become lists)."""
    return json.loads(config.to_json())


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optimizer.name': 'adamw', ...} from nested dictionaries."""
    out = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out


def check_same_config(saved: Mapping[str, Any], given: Mapping[str, Any], workdir: str) -> None:
    """Raises UserError that lists every field in which a workdir's run differs from the config."""
    old, new = flat(saved), flat(given)
    different = [
        f"config.{k} was {old.get(k, '(absent)')!r}, is {new.get(k, '(absent)')!r}"
        for k in sorted(old.keys() | new.keys())
        if old.get(k, None) != new.get(k, None) and k not in MAY_CHANGE
    ]
    if different:
        raise UserError(
            f"{workdir} holds a run of another config: {'; '.join(different)}. "
            "Give another --workdir, or the config of that run"
        )


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("cxrjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    out = {}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            out[name] = __version__ if name == "cxrjax" else "unknown"
    return out


def make_meta(config: Any, films: Films) -> dict[str, Any]:
    """What a checkpoint carries beside arrays and config."""
    return {
        "format": 1,
        "labels": list(films.labels),
        "task": films.task,
        "masks": list(films.masks),
        "dataset": films.info,
        "ids": {name: films.table["id"][p].tolist() for name, p in films.splits.items()},
        "steps_per_epoch": config.steps_per_epoch,
        "devices": jax.device_count(),
        "versions": versions(),
    }


class Validation:
    """Judges states on the validation split; keeps what the best ones predicted."""

    def __init__(self, config: Any, films: Films, mesh: jax.sharding.Mesh, predict: Callable):
        self._config, self._films, self._mesh = config, films, mesh
        self._positions = films.splits["val"]
        keep = ("logits", "mask_logits") if films.masks else ("logits",)
        self._predict = steps.jit_predict(predict, mesh, keep)
        self._labels = input_pipeline.labels_of(films, self._positions)

    def foresee(self, states: Any) -> dict[str, float]:
        """The figures of a call, all 0, without asking the networks."""
        image = jax.ShapeDtypeStruct(
            (self._config.eval_batch_size, *self._config.image_shape), np.uint8
        )
        outputs = jax.eval_shape(self._predict, states, image)
        names = report.quick_scores(
            self._labels, np.zeros_like(self._labels), self._config.task
        )
        scores = {f"val/{name}/{k}": 0.0 for name in outputs for k in names}
        dice = {f"val/{name}/dice": 0.0 for name, out in outputs.items() if "mask_logits" in out}
        return {**scores, **dice}

    def __call__(self, states: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """({'val/<network>/<metric>': value}, {'ids': [N], '<network>': logits [N, K]})."""
        batches = input_pipeline.eval_batches(
            self._films, self._positions, self._config.eval_batch_size, self._config.threads
        )
        only_dice = functools.partial(segmentation.score_batch, figures=("dice",))
        ids, outputs = steps.predict_all(
            self._predict, states, batches, self._mesh, only_dice if self._films.masks else None
        )
        scores = {}
        for name, out in outputs.items():
            summary = report.quick_scores(self._labels, out["logits"], self._config.task)
            if "dice" in out:
                summary["dice"] = metrics.mean_counted(out["dice"])[0]
            scores.update({f"val/{name}/{k}": v for k, v in summary.items()})
        return scores, {"ids": np.asarray(ids), **{n: o["logits"] for n, o in outputs.items()}}


def monitored(scores: Mapping[str, float], monitor: str) -> float:
    """The figure that chooses the best checkpoint: the mean over the networks, larger is better.

    Raises:
      UserError: no network reports `monitor`.
    """
    found = [v for k, v in scores.items() if k.rpartition("/")[2] == monitor]
    if not found:
        known = sorted({k.rpartition("/")[2] for k in scores})
        raise UserError(f"config.monitor = {monitor!r} is not measured (known: {', '.join(known)})")
    value = float(np.mean(found))
    return -value if monitor == "loss" else value


def forget_predictions_after(step: int, workdir: pathlib.Path) -> None:
    """Deletes the workdir's validation predictions that were made after `step`."""
    for path in workdir.glob("val_predictions_*.npz"):
        with np.load(path) as saved:
            stale = int(saved["step"]) > step
        if stale:
            path.unlink()


@jax.jit
def sound(states: Any) -> jax.Array:
    """bool[]: every weight of the states is finite, and nothing else in them is NaN."""
    # An optimizer's state may begin with an infinity.
    weights = [state.params for state in states.values() if hasattr(state, "params")]
    good = [jnp.isfinite(x).all() for x in jax.tree.leaves(weights)]
    numbers = [x for x in jax.tree.leaves(states) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack(good + [~jnp.isnan(x).any() for x in numbers]).all()


def fault_of(logs: Mapping[str, Any], states: Any = None) -> str:
    """What a call left that is not finite, in words; '' where all is well.

    Args:
      logs: of the call: losses and gradient norms.
      states: after it; None to judge by the logs alone. They are needed before a save, because the
        loss is that of the weights before the last update.
    """
    found = {k: np.asarray(v) for k, v in jax.device_get(dict(logs)).items()}
    for what in ("loss", "grad_norm"):
        for key, values in found.items():
            if key.rpartition("/")[2] == what and not np.isfinite(values).all():
                return f"the {key} is {values[~np.isfinite(values)].flat[0]}"
    return "" if states is None or sound(states) else "the weights are not finite"


def warn_of_idle_decoder(config: Any, scores: Mapping[str, float]) -> None:
    """Says so where a Dice will be reported of a decoder that no loss trains."""
    if config.loss.get("dice_weight", 1.0) == 0 and any(k.endswith("/dice") for k in scores):
        logging.warning(
            "config.loss.dice_weight is 0: the decoder of %s is NOT TRAINED and its Dice means "
            "nothing; set --config.loss.dice_weight=1", config.model.name,
        )


def main(config: Any, workdir: str | None) -> None:
    """`--mode=train`: trains the config's experiment in the workdir, or goes on with it."""
    if config is None or not workdir:
        raise UserError("--mode=train needs --config=configs/FILE.py and --workdir=FOLDER")
    train(config, workdir)


def train(config: Any, workdir: str | pathlib.Path, stop_at: int | None = None) -> dict[str, Any]:
    """Trains until `config.train_for`.

    Args:
      config: an experiment's config.
      workdir: made where it is missing; a run in it is continued.
      stop_at: stop at this step, as if killed there: what was saved by then is left; for tests.

    Returns:
      {'step', 'best', 'scores', 'films_per_second', 'waiting_share'}.

    Raises:
      UserError: whatever the user can mend.
    """
    workdir = pathlib.Path(workdir)
    films = open_films(config)
    config = complete(config, films)
    mesh = steps.make_mesh()
    steps.check_batch_size(config.batch_size, mesh.size)
    steps.check_batch_size(config.eval_batch_size, mesh.size, "eval_batch_size")
    if not len(films.splits["val"]):
        raise UserError("the validation split is empty, and it chooses the checkpoint")
    as_json = config_json(config)
    workdir.mkdir(parents=True, exist_ok=True)
    scheme = resolve_module("schemes", config.scheme.name)
    iterator = input_pipeline.train_iterator(
        films, films.splits["train"], config.batch_size, config.steps_per_call, config.seed,
        config.threads, config.workers,
    )
    init_key, step_key = steps.keys_of(config.seed)
    sample = {"image": np.zeros((1, *config.image_shape), np.uint8)}
    states = steps.replicate(scheme.init(config, init_key, sample), mesh)
    validate = Validation(config, films, mesh, scheme.make_predict(config))
    foreseen = validate.foresee(states)
    monitored(foreseen, config.monitor)
    warn_of_idle_decoder(config, foreseen)
    checkpoints = checkpoint.Checkpoints(workdir)
    history = {"best": -math.inf, "best_step": 0, "evaluations": []}
    step = checkpoints.latest_step() or 0
    saved = workdir / "config.json"
    if step and saved.exists():
        check_same_config(json.loads(saved.read_text()), as_json, str(workdir))
    saved.write_text(json.dumps(as_json, indent=1))
    best_steps = checkpoints.forget_best_after(step)
    forget_predictions_after(step, workdir)
    if step:
        states, meta = checkpoints.restore(states, iterator)
        history = meta["history"]
        if history["best_step"] not in best_steps:  # its weights are gone: the next one is the best
            history.update(best=-math.inf, best_step=0)
        print(f"going on with {workdir} at step {step}")
    print(films.info.get("protocol", config.dataset.name))
    print(overview(states))

    run = steps.jit_steps(scheme.make_step(config), mesh)
    writer = writers.Writer(workdir, step)
    every = {
        name: max(1, to_steps(config[name], config.steps_per_epoch, name))
        for name in ("evaluate_every", "checkpoint_every", "log_every")
    }
    _, rate = make_optimizer(
        dict(config.optimizer), dict(config.schedule), config.total_steps, config.steps_per_epoch
    )
    meta = make_meta(config, films)
    end = min(config.total_steps, stop_at or config.total_steps)
    logs: dict[str, Any] = {}
    clock = Clock(config.batch_size)
    stop = StopRequest()
    bar = tqdm(total=config.total_steps, initial=step, unit="step", mininterval=1.0)

    def save(which: str) -> None:
        checkpoints.save(which, step, states, iterator, as_json, {**meta, "history": history})

    def kept() -> str:
        newest = checkpoints.latest_step()
        return f"the checkpoint of step {newest}" if newest else "no checkpoint to go on from"

    def fail(fault: str) -> None:
        raise UserError(
            f"{fault} at step {step}: lower config.optimizer.learning_rate or set "
            f"config.optimizer.clip_norm. {workdir} holds {kept()}"
        )

    try:
        while step < end:
            if stop.requested:
                if fault := fault_of(logs, states):
                    print(f"\nstopped at step {step}, not saved: {fault}. {workdir} holds {kept()}")
                else:
                    print(f"\nstopped at step {step}: saving; the same command goes on from here")
                    save("latest")
                raise SystemExit(130)
            with clock.waiting():
                batch = steps.shard(next(iterator), mesh, axis=1)
            states, logs = run(states, batch, step_key)
            before, step = step, step + config.steps_per_call
            clock.count(config.steps_per_call)
            bar.update(config.steps_per_call)
            last = step >= config.total_steps

            def due(name, before=before, step=step):
                return before // every[name] < step // every[name]

            if due("log_every") or last:
                if fault := fault_of(logs):
                    fail(fault)
                values = {k: float(np.mean(v)) for k, v in jax.device_get(logs).items()}
                speed = clock.read()
                writer.scalars(step, {
                    **{f"train/{k}": v for k, v in values.items()}, **speed,
                    "learning_rate": float(rate(step - 1)), "epoch": step / config.steps_per_epoch,
                })
                bar.set_postfix_str(
                    f"loss {values['loss']:.4f}, {speed['films_per_second']:.0f} films/s, "
                    f"waiting {speed['waiting_share']:.1%}", refresh=False,
                )
            judge, keep = due("evaluate_every") or last, due("checkpoint_every") or last
            if judge or keep:
                jax.block_until_ready(logs)  # the steps before it are no pause
                with clock.paused():
                    if fault := fault_of(logs, states):
                        fail(fault)
            if judge:
                with clock.paused():
                    scores, predictions = validate(states)
                    history["evaluations"].append({"step": step, **scores})
                    writer.scalars(step, scores)
                    figure = monitored(scores, config.monitor)
                    np.savez(workdir / "val_predictions_latest.npz", step=step, **predictions)
                    line = ", ".join(f"{k[4:]} {v:.4f}" for k, v in scores.items())
                    tqdm.write(f"epoch {step / config.steps_per_epoch:.1f}: {line}")
                    # The first one counts even where it could not be judged (nan).
                    if figure > history["best"] or not history["best_step"]:
                        history["best_step"] = step
                        history["best"] = figure if math.isfinite(figure) else -math.inf
                        np.savez(workdir / "val_predictions_best.npz", step=step, **predictions)
                        save("best")
            if keep:
                with clock.paused():
                    save("latest")
    finally:
        stop.forget()
        bar.close()
        checkpoints.close()
        writer.close()
    if step >= config.total_steps:
        converged = report.convergence(history["evaluations"], config.steps_per_epoch)
        each = ", ".join(f"{name} {epoch:.1f}" for name, epoch in converged.items())
        print(f"convergence at epoch: {each} (of {step / config.steps_per_epoch:.1f})")
        print(
            f"done: {step} steps, best {config.monitor} {abs(history['best']):.4f} at step "
            f"{history['best_step']}, {clock.films_per_second:.0f} films/s, waiting for data "
            f"{clock.waiting_share:.1%}. Next: python launch.py --mode=evaluate --workdir={workdir}"
        )
    return {
        "step": step, "best": history["best"], "scores": history["evaluations"],
        "films_per_second": clock.films_per_second, "waiting_share": clock.waiting_share,
    }


def overview(states: Any) -> str:
    """How large every network is, a line each."""
    sizes = {
        name: parameter_overview.count_parameters(state.params)
        for name, state in states.items() if hasattr(state, "params")
    }
    return "\n".join(f"{name}: {count:,} parameters" for name, count in sizes.items())


class StopRequest:
    """Ctrl-C or SIGTERM, kept until the step is done: half a step is no state to save.

    A second Ctrl-C ends the process as usual.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        self.requested = True
        self.forget()

    def forget(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
