"""A student and its teachers: what it learns from them, and what a run keeps of them."""

import copy
import dataclasses
import pathlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import expit, softmax

from configs import chestxray14_distill, chestxray14_mutual
from cxrjax.errors import UserError
from cxrjax.evaluation import compare, evaluate
from cxrjax.evaluation.compare import Entry
from cxrjax.evaluation.saved import SavedNetwork
from cxrjax.explanation import heatmaps
from cxrjax.training import checkpoint, loop, restored, steps
from cxrjax.training import experiment as experiments
from cxrjax.training.schemes import distill, supervised
from tests import toy


class Plain(nn.Module):
    """Without norm and dropout, so that training and evaluation mode are one."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, image, train):
        x = nn.relu(nn.Dense(self.width)(image.reshape(len(image), -1)))
        return {"logits": nn.Dense(self.num_classes)(x)}


def plain(num_classes, *, width=8):
    return Plain(num_classes, width)


def short(config):
    config.batch_size = config.eval_batch_size = 16
    config.train_for, config.evaluate_every = "4 steps", "2 steps"
    config.checkpoint_every, config.log_every = "2 steps", "2 steps"
    config.schedule.warmup = "0 steps"
    config.normalize.mean, config.normalize.std = 0.4, 0.3
    return config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The workdir of a trained network."""
    workdir = tmp_path_factory.mktemp("teacher")
    own = experiments.base("tests.toy:", f"{__name__}:plain", 16)
    loop.train(short(own), workdir)
    return str(workdir)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """The workdir of two networks that taught each other, with a standardisation of their own."""
    workdir = tmp_path_factory.mktemp("cohort")
    name = "tests.training.schemes.test_distill:plain"
    config = short(chestxray14_mutual.get_config(f"{name},{name},data=tests.toy:,size=16"))
    config.normalize.mean = 0.1
    loop.train(config, workdir)
    return str(workdir)


def experiment(*teachers, **fields):
    config = chestxray14_distill.get_config(
        "tests.training.schemes.test_distill:plain,data=tests.toy:,size=16,teacher=" + teachers[0]
    )
    config.scheme.teachers = teachers
    config.scheme.update(fields)
    return short(config)


def films(**changes):
    opened = toy.load({"films": 96, "image_size": 16, "with_unknown": False})
    return dataclasses.replace(opened, **changes)


def make_batch(size=8):
    source = toy.Source(96, 16, False)
    records = [source[i] for i in range(size)]
    batch = {k: jnp.stack([jnp.asarray(r[k]) for r in records]) for k in ("image", "label")}
    return {**batch, "weight": jnp.ones(size).at[-1].set(0.0)}


def one_step(config):
    """The completed config, the states before and after a step, and its logs."""
    config = experiments.complete(config, films())
    scheme = distill if config.scheme.name == "distill" else supervised
    init_key, step_key = steps.keys_of(config.seed)
    before = scheme.init(config, init_key, make_batch())
    after, logs = jax.jit(scheme.make_step(config))(before, make_batch(), step_key)
    return config, before, after, logs


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_an_identical_teacher_has_nothing_to_teach(teacher):
    config = experiment(teacher, weight=1.0, temperature=3.0)
    config.init_from = teacher
    config.augment.brightness = 0.2  # both see the same augmented films
    config.optimizer.update({"name": "sgd", "weight_decay": 0.0, "learning_rate": 1.0})
    _, before, after, logs = one_step(config)
    equal(before["plain"].params, restored.restore(teacher).states["plain"].params)
    assert float(logs["grad_norm"]) < 1e-6 and float(logs["loss_soft"]) > 0.1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        before["plain"].params, after["plain"].params,
    )


def test_without_the_soft_loss_the_student_is_the_network_trained_alone(teacher):
    config = experiment(teacher, weight=0.0)
    alone = ConfigDict(config.to_dict())
    alone.scheme = ConfigDict({"name": "supervised"})
    _, _, after, _ = one_step(config)
    _, _, expected, _ = one_step(alone)
    np.testing.assert_allclose(*(
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(state["plain"].params)])
        for state in (after, expected)
    ), rtol=0, atol=1e-7)


def test_the_loss_by_hand_with_two_teachers(teacher, cohort):
    config = experiment(teacher, cohort, weight=0.25, temperature=2.0)
    config, before, after, logs = one_step(config)
    batch = make_batch()
    label, kept = np.asarray(batch["label"], float), np.asarray(batch["weight"]) > 0
    unit = batch["image"] / 255.0
    # Each teacher alone, as a user would ask it.
    single, pair = restored.restore(teacher), restored.restore(cohort)
    v1 = np.asarray(single.predict(single.states, unit)["plain"]["logits"], float)
    v2 = np.asarray(pair.predict(pair.states, unit)["ensemble"]["logits"], float)
    p = (expit(v1 / 2) + expit(v2 / 2)) / 2
    image = steps.standardize(config, unit)
    z, _ = steps.forward_train(before["plain"], before["plain"].params, image, jax.random.key(0))
    z = np.asarray(z["logits"], float)
    q, s = expit(z / 2), expit(z)
    soft = -4 * (p * np.log(q) + (1 - p) * np.log(1 - q)).mean(-1)
    hard = -(label * np.log(s) + (1 - label) * np.log(1 - s)).mean(-1)
    np.testing.assert_allclose(logs["loss_soft"], soft[kept].mean(), rtol=1e-4)
    expected = (0.75 * hard + 0.25 * soft)[kept].mean()
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)
    equal(before["teachers"], after["teachers"])


def test_one_of_n_labels_are_taught_by_the_softmax():
    config = ConfigDict({"task": "multiclass", "loss": {"name": "softmax_ce"},
                         "scheme": {"weight": 1.0, "temperature": 2.0}})
    z, v = np.array([[1.0, -1.0, 0.5]], np.float32), np.array([[0.0, 2.0, 1.0]], np.float32)
    batch = {"label": jnp.eye(3)[:1], "weight": jnp.ones(1), "teacher_logits": jnp.asarray(v)}
    loss, _ = distill.make_loss(config)({"logits": jnp.asarray(z)}, batch)
    p, q = softmax(v / 2, -1), softmax(z / 2, -1)
    np.testing.assert_allclose(loss, -4 * (p * np.log(q)).sum(-1), rtol=1e-5)


def test_a_student_goes_on_exactly_and_is_evaluated_without_its_teacher(teacher, tmp_path):
    moved = shutil.copytree(teacher, tmp_path / "teacher")
    config = experiment(str(moved))
    loop.train(config, tmp_path / "whole")
    loop.train(config, tmp_path / "parts", stop_at=2)
    shutil.rmtree(moved)
    loop.train(config, tmp_path / "parts")
    whole, parts = (
        checkpoint.restore_variables(tmp_path / name, "latest")[2] for name in ("whole", "parts")
    )
    equal(whole, parts)
    result = evaluate.evaluate(tmp_path / "whole")
    assert set(result["networks"]) == {"plain"}
    assert set(whole) == {"plain"}  # the teacher's weights are not even read
    run = restored.restore(tmp_path / "whole")
    assert set(heatmaps.fresh_states(run, seed=1)) == {"plain"}  # what explain needs of the scheme


@pytest.mark.parametrize("network, words", [("", None), ("plain_2", None), ("plain_3", "plain_2")])
def test_of_a_teacher_with_several_answers_one_is_chosen(cohort, network, words):
    config = experiments.complete(experiment(cohort, teacher_network=network), films())
    states = distill.init(config, jax.random.key(0), make_batch())
    ask = distill.teach(config)
    unit = make_batch()["image"] / 255.0
    if words:
        with pytest.raises(UserError, match=words):
            ask(states["teachers"], unit)
        return
    run = restored.restore(cohort)
    expected = run.predict(run.states, unit)[network or "ensemble"]["logits"]
    np.testing.assert_allclose(ask(states["teachers"], unit), expected, rtol=1e-6)


def test_runs_of_other_seeds_with_other_teachers_are_one_experiment(teacher):
    def evaluated(config):
        nothing, report = np.zeros((0, 3)), {"run": {"config": config}}
        return SavedNetwork(
            pathlib.Path(), "plain", report, [], nothing, None, nothing, nothing, None
        )

    def fields(config):
        return compare.settings(evaluated(config))

    config = experiments.complete(experiment(teacher), films()).to_dict()
    other = copy.deepcopy(config)
    other["seed"] = other["teachers"]["teacher1"]["config"]["seed"] = 5
    other["teachers"]["teacher1"]["step"], other["scheme"]["teachers"] = 999, ("elsewhere",)
    assert fields(config) == fields(other)
    other["teachers"]["teacher1"]["config"]["model"]["width"] = 9  # another kind of teacher
    assert fields(config) != fields(other)
    shown = compare.differences([Entry("a", (evaluated(config),)), Entry("b", (evaluated(other),))])
    assert set(shown) == {"teachers.teacher1.config.model.width"}
    cohort = chestxray14_mutual.get_config("resnet18,resnet18,data=phantom").to_dict()
    changed = copy.deepcopy(cohort)
    changed["networks"]["resnet18_2"]["seed"] += 1
    assert fields(cohort) == fields(changed)
    changed["dataset"]["seed"] += 1  # other films
    assert fields(cohort) != fields(changed)


def with_test_films(opened):
    """Films whose test split holds what the teacher was trained on."""
    splits = {**opened.splits, "train": opened.splits["test"], "test": opened.splits["train"]}
    return dataclasses.replace(opened, splits=splits)


@pytest.mark.parametrize(
    "fields, change, words",
    [
        ({"teachers": ()}, lambda f: f, "config.scheme.teachers is empty"),
        ({"teachers": ("nowhere",)}, lambda f: f, "no folder nowhere"),
        ({"weight": 1.5}, lambda f: f, "between 0 and 1"),
        ({"temperature": 0.0}, lambda f: f, "above 0"),
        ({}, lambda f: dataclasses.replace(f, labels=("Right", "Left", "Top")),
         "answers to Left, Right, Top"),
        ({}, lambda f: dataclasses.replace(f, source=toy.Source(96, 20, False)),
         "prepared otherwise: image_shape"),
        ({}, with_test_films, "was trained on 64 films of the test split"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(teacher, fields, change, words):
    with pytest.raises(UserError, match=words):
        experiments.complete(experiment(teacher, **fields), change(films()))
