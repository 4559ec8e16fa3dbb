"""Distillation: a student taught by the labels and by frozen, trained networks.

Hinton, Vinyals & Dean 2015 (arXiv:1503.02531). With z the student's logits and v the teacher's,

    (1 - weight) * config.loss(z, y)  +  weight * T^2 * CE(p(v / T), p(z / T)),

p the softmax of one-of-N labels, or sigmoids (then the mean over the labels, as in our label
losses). weight 1 is the soft loss alone, weight 0 the student trained alone, to the last bit.

    config.scheme.teachers            workdirs of trainings of ours, of any scheme
    config.scheme.teacher_checkpoint  'best' or 'latest'
    config.scheme.teacher_network     which answer of a teacher that gives several; '' takes its
                                      only one, else its merged or its ensemble answer
    config.scheme.weight, .temperature

The teachers see the student's augmented films, in evaluation mode and standardised as they were
trained. Of several teachers the mean of the softened probabilities teaches.

The teachers' variables are part of the states, and their configs part of the completed config: a
run goes on from its own checkpoint with the very teachers it began with, and evaluation reads the
student alone and needs no teacher's workdir.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax.errors import UserError
from cxrjax.names import scheme_of, suggest
from cxrjax.training import losses, provenance, restored, steps
from cxrjax.training.schemes import supervised
from cxrjax.training.schemes._answers import mean_probability

FIELDS = ("teachers", "teacher_checkpoint", "teacher_network", "weight", "temperature")
EXAMPLE = "configs/chestxray14_distill.py"
TEACHERS = "teachers"
FOUND = (TEACHERS,)
SEEDS = True  # the step knows no seed but its key: see `training.seeds`
_PREFERRED = ("merged", "ensemble")

make_models = supervised.make_models


class Teachers(flax.struct.PyTreeNode):
    """Frozen variables: {teacher: {network: EvalState}}, carried through every step unchanged."""

    states: Mapping[str, Mapping[str, steps.EvalState]]

    @property
    def params(self) -> Any:
        """The weights of all teachers (for the overview of a run)."""
        return {t: {n: s.params for n, s in nets.items()} for t, nets in self.states.items()}


def complete(config: Any, films: Any) -> dict[str, Any]:
    """The teachers' configs, after checking that they fit the films.

    Raises:
      UserError: no teacher, or one that answers to other labels, saw films prepared in another
        way, or was trained on films of our validation or test split.
    """
    scheme = config.scheme
    if not scheme.teachers:
        raise UserError(
            "config.scheme.teachers is empty: give the workdir of a training, as "
            "--config=configs/chestxray14_distill.py:resnet18,teacher=runs/resnet50"
        )
    if not 0 <= scheme.weight <= 1 or scheme.temperature <= 0:
        raise UserError(
            f"config.scheme.weight = {scheme.weight} must lie between 0 and 1, "
            f"config.scheme.temperature = {scheme.temperature} above 0"
        )
    found = {}
    for number, workdir in enumerate(scheme.teachers, start=1):
        run = restored.restore(workdir, scheme.teacher_checkpoint)
        _check(config, films, run, workdir)
        found[f"teacher{number}"] = {"step": run.step, "config": run.config.to_dict()}
    return {TEACHERS: found}


def _check(config: Any, films: Any, run: restored.Run, workdir: str) -> None:
    if list(run.meta["labels"]) != list(films.labels) or run.meta["task"] != films.task:
        raise UserError(
            f"the teacher in {workdir} answers to {', '.join(run.meta['labels'])} "
            f"({run.meta['task']}), the films have {', '.join(films.labels)} ({films.task})"
        )
    here, there = _preparation(config), _preparation(run.config)
    different = [
        f"{k} {there[k]!r}, here {here[k]!r}" for k in there if k in here and here[k] != there[k]
    ]
    if different:
        raise UserError(
            f"the teacher in {workdir} was trained on films prepared otherwise: "
            f"{'; '.join(different)}"
        )
    provenance.check_not_trained_on(
        run.meta["ids"]["train"], films, f"the teacher in {workdir}",
        "it would tell the student what it shall be tested on",
    )


def _preparation(config: Any) -> dict[str, Any]:
    """How a config's films were prepared before the network's own standardisation."""
    options = ("fit", "remove_artifacts")
    found = {f"dataset.{k}": config.dataset[k] for k in options if k in config.dataset}
    return {"image_shape": tuple(config.image_shape), **found}


def init(config: Any, rng: Array, batch: steps.Batch) -> dict[str, Any]:
    """{student's name: its fresh state, 'teachers': Teachers}.

    Where `config.scheme.teachers` names no folders, the teachers have the structure that their
    configs give them, and random weights: for the shapes that a checkpoint is restored into.
    """
    found = {}
    for number, (name, entry) in enumerate(config[TEACHERS].items()):
        if config.scheme.teachers:
            workdir = config.scheme.teachers[number]
            states = restored.restore(workdir, config.scheme.teacher_checkpoint).states
        else:
            states = steps.fresh_states(make_models_of(entry.config), entry.config, rng)
        # What the teacher predicts with is all that is kept of it.
        found[name] = {
            network: steps.EvalState(
                params=state.params if state.ema_params is None else state.ema_params,
                batch_stats=state.batch_stats,
            )
            for network, state in states.items()
        }
    return {**supervised.init(config, rng, batch), TEACHERS: Teachers(found)}


def make_models_of(config: Any) -> dict[str, nn.Module]:
    """The networks of a teacher, by its own scheme."""
    return scheme_of(config).make_models(config)


def _choose(outputs: Mapping[str, Any], wanted: str) -> Array:
    names = [wanted] if wanted else [n for n in _PREFERRED if n in outputs] or list(outputs)
    if names[0] not in outputs or (len(names) > 1 and names[0] not in _PREFERRED):
        raise UserError(
            f"config.scheme.teacher_network = {wanted!r}: the teacher has several networks"
            + suggest(wanted, outputs)
        )
    return outputs[names[0]]["logits"]


def teach(config: Any) -> Callable:
    """(Teachers, image f32[b, h, w, c] in [0, 1]) -> the teachers' logits f32[b, k]."""
    predictors = {
        name: scheme_of(entry.config).make_predict(entry.config)
        for name, entry in config[TEACHERS].items()
    }

    def logits(teachers: Teachers, image: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        answers = [
            _choose(predict(teachers.states[name], image), config.scheme.teacher_network)
            for name, predict in predictors.items()
        ]
        return mean_probability(jnp.stack(answers), config.task, config.scheme.temperature)

    return logits


def make_loss(config: Any) -> steps.LossFn:
    """The student's LossFn; the batch carries the teachers' logits as `teacher_logits`."""
    hard_fn, scheme = steps.make_loss(config), config.scheme

    def loss_fn(outputs, batch):
        hard, logs = hard_fn(outputs, batch)
        student, teacher = outputs["logits"], batch["teacher_logits"]
        if config.task == "multilabel":
            soft = losses.distill_sigmoid(student, teacher, scheme.temperature).mean(-1)
        else:
            soft = losses.distill_softmax(student, teacher, scheme.temperature)
        logs = {**logs, "loss_soft": losses.batch_mean(soft, batch["weight"])}
        return (1 - scheme.weight) * hard + scheme.weight * soft, logs

    return loss_fn


def make_step(config: Any) -> Callable:
    """(states, batch, rng) -> (states, logs): one step of the student; the teachers stay."""
    name, loss_fn, teachers = supervised.name_of(config), make_loss(config), teach(config)

    def step(states, batch, rng):
        state = states[name]
        augment_key, dropout_key = jax.random.split(steps.step_key(rng, state.step))
        batch = steps.augment_batch(config, augment_key, batch)
        answers = jax.lax.stop_gradient(teachers(states[TEACHERS], batch["image"]))
        image = steps.standardize(config, batch["image"])
        batch = {**batch, "image": image, "teacher_logits": answers}
        state, logs = steps.update(state, batch, dropout_key, loss_fn)
        return {**states, name: state}, logs

    return step


def make_predict(config: Any) -> Callable:
    """(states, image) -> {student's name: outputs}; the teachers are not asked."""
    return supervised.make_predict(config)
