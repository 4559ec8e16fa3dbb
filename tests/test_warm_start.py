"""Weights from elsewhere: what is taken, what is not, and that a misfit is said."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxrjax import checkpoint, models, train, warm_start, weights
from cxrjax.errors import UserError
from tests.test_train import toy_config


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    """A workdir of a short training, and its best weights."""
    workdir = tmp_path_factory.mktemp("donor")
    train.train(toy_config(train_for="4 steps"), workdir)
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
    train.train(config, tmp_path)
    same(checkpoint.restore_variables(tmp_path, "latest")[2]["create"]["params"], saved["params"])


def test_training_starts_from_a_weights_file(tmp_path):
    from safetensors.numpy import save_file

    options = {"width": 8, "depths": (1, 1, 1, 1)}
    donor = fresh("resnet18", 3, **options)
    save_file(weights.to_torch("resnet18", donor), tmp_path / "w.safetensors")
    ours = warm_start.load(tmp_path / "w.safetensors", "resnet18", ("a", "b", "c"),
                           jax.tree.map(np.zeros_like, donor))
    same(ours["params"], donor["params"])


def test_a_path_with_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no weights at"):
        warm_start.load(tmp_path / "none.safetensors", "resnet18", ("a",), fresh("resnet18", 1))
    with pytest.raises(UserError, match="no checkpoint in"):
        warm_start.load(tmp_path, "resnet18", ("a",), fresh("resnet18", 1))
