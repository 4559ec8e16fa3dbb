"""Weights from elsewhere: what is taken, what is not, and that a misfit is said."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import chestxray14_mutual
from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models.weights import torch_layouts
from cxrjax.training import checkpoint, experiment, loop, warm_start
from cxrjax.training.schemes import mutual
from tests import toy
from tests.training.test_loop import toy_config


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    """A workdir of a short training, and its best weights."""
    workdir = tmp_path_factory.mktemp("donor")
    loop.train(toy_config(train_for="4 steps"), workdir)
    return workdir, checkpoint.restore_variables(workdir, "best")[2]["create"]


def fresh(name, classes, **options):
    model = models.create(name, classes, **options)
    variables = jax.jit(model.init)(jax.random.key(5), jnp.zeros((1, 16, 16, 1)))
    return {"params": variables["params"], "batch_stats": variables["batch_stats"]}


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_with_the_same_labels_is_taken_whole(donor):
    workdir, saved = donor
    ours = warm_start.load(workdir, "tests.toy:create", ("Left", "Right", "Top"),
                           fresh("tests.toy:create", 3))
    same(ours["params"], saved["params"])
    same(ours["batch_stats"], saved["batch_stats"])


@pytest.mark.parametrize("labels", [("Left", "Right", "Bottom"), ("Bright", "Dark")])
def test_a_head_for_other_labels_stays_as_initialised_and_is_named(donor, caplog, labels):
    workdir, saved = donor
    start = fresh("tests.toy:create", len(labels))
    with caplog.at_level(logging.WARNING):
        ours = warm_start.load(workdir, "tests.toy:create", labels, start)
    same(ours["params"]["conv2"], saved["params"]["conv2"])
    same(ours["params"]["head"], start["params"]["head"])
    assert "head/kernel" in caplog.text and "Top" in caplog.text


def test_a_run_of_another_network_is_refused(donor):
    with pytest.raises(UserError, match="not a 'tests.toy:create'.*another shape"):
        warm_start.load(donor[0], "tests.toy:create", ("Left", "Right", "Top"),
                        fresh("tests.toy:create", 3, width=4))


def test_training_starts_from_the_weights(donor, tmp_path):
    workdir, saved = donor
    config = toy_config(init_from=str(workdir), train_for="1 step",
                        **{"optimizer.learning_rate": 1e-30, "schedule.name": "constant",
                           "schedule.warmup": "0 steps"})
    loop.train(config, tmp_path)
    same(checkpoint.restore_variables(tmp_path, "latest")[2]["create"]["params"], saved["params"])


def test_training_starts_from_a_weights_file(tmp_path):
    from safetensors.numpy import save_file

    options = {"width": 8, "depths": (1, 1, 1, 1)}
    donor = fresh("resnet18", 3, **options)
    save_file(torch_layouts.to_torch("resnet18", donor), tmp_path / "w.safetensors")
    ours = warm_start.load(tmp_path / "w.safetensors", "resnet18", ("a", "b", "c"),
                           jax.tree.map(np.zeros_like, donor))
    same(ours["params"], donor["params"])


def test_a_path_with_nothing_there(tmp_path):
    start = fresh("tests.toy:create", 1)
    with pytest.raises(UserError, match="no weights at"):
        warm_start.load(tmp_path / "none.safetensors", "tests.toy:create", ("a",), start)
    with pytest.raises(UserError, match="no checkpoint in"):
        warm_start.load(tmp_path, "tests.toy:create", ("a",), start)


def a_run_of(monkeypatch, **networks):
    """Any workdir is taken for that of a run with these networks."""
    run = {}, {"labels": ["a", "b"]}, networks, 3
    monkeypatch.setattr(checkpoint, "restore_variables", lambda *args: run)


def test_of_several_networks_the_one_of_the_same_name_is_taken(tmp_path, monkeypatch):
    start = fresh("tests.toy:create", 2)
    plus = [jax.tree.map(lambda x, k=k: x + k, start) for k in range(3)]
    a_run_of(monkeypatch, create=plus[0], create_2=plus[1], merged=plus[2])

    def load(name):
        return warm_start.load(tmp_path, "tests.toy:create", ("a", "b"), start, name)

    same(load("create"), plus[0])
    same(load("create_2"), plus[1])
    same(load("create_3"), plus[0])  # a run that has no third: the first of this network
    a_run_of(monkeypatch, group1=plus[1], group2=plus[2])
    same(load("group2"), plus[2])
    with pytest.raises(UserError, match="none is called 'group3' or 'create' .they are"):
        load("group3")
    a_run_of(monkeypatch, merged=plus[2])
    same(load("create"), plus[2])


def test_mutual_networks_start_from_those_of_the_same_name(tmp_path, monkeypatch):
    start = fresh("tests.toy:create", 3)
    plus = [jax.tree.map(lambda x, k=k: x + k, start) for k in range(2)]
    a_run_of(monkeypatch, create=plus[0], create_2=plus[1])
    config = chestxray14_mutual.get_config(
        "tests.toy:create,tests.toy:create,data=tests.toy:,size=16"
    )
    config.init_from = str(tmp_path)
    config = experiment.complete(config, toy.load(config.dataset.to_dict()))
    states = mutual.init(config, jax.random.key(0), {"image": np.zeros((1, 16, 16, 1), np.uint8)})
    for name, theirs in zip(("create", "create_2"), plus):
        same(states[name].params["conv2"], theirs["params"]["conv2"])


def test_a_decoder_around_the_network_of_a_run_stays_as_initialised(tmp_path, monkeypatch, caplog):
    options = {"width": 8, "depths": (1, 1, 1, 1)}
    theirs = fresh("resnet18", 2, **options)
    a_run_of(monkeypatch, resnet18=jax.tree.map(lambda x: x + 1, theirs))
    start = jax.tree.map(jnp.copy, theirs)
    start["params"]["decoder"] = {"up": {"kernel": jnp.ones(3)}}
    ours = warm_start.load(tmp_path, "resnet18", ("a", "b"), start, "resunet")
    same(ours["params"]["encoder"], jax.tree.map(lambda x: x + 1, theirs["params"]["encoder"]))
    same(ours["params"]["decoder"], start["params"]["decoder"])
    assert "no decoder" in caplog.text and "decoder/up/kernel" in caplog.text
