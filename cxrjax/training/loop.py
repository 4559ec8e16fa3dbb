"""Training: a thin loop around the scheme's compiled steps.

Where the weights come from, in this order: the workdir's latest checkpoint (the run goes on),
`config.init_from`, fresh initialisation from the seed.
"""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from tqdm import tqdm

from cxrjax.data import input_pipeline
from cxrjax.errors import UserError
from cxrjax.names import scheme_of
from cxrjax.training import checkpoint, steps, validation, writers
from cxrjax.training.clock import Clock
from cxrjax.training.experiment import (
    check_same_config,
    complete,
    config_json,
    make_meta,
    open_films,
)
from cxrjax.training.optim import make_optimizer, to_steps
from cxrjax.training.stopping import StopRequest, fault_of
from cxrjax.training.validation import (
    Validation,
    forget_predictions_after,
    monitored,
    warn_of_idle_decoder,
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
    scheme = scheme_of(config)
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
        converged = validation.convergence(history["evaluations"], config.steps_per_epoch)
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
