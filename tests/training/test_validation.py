"""The loss that is watched, and what chooses the checkpoint where the films lack the figure."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from cxrjax.data.sets.base import Films
from cxrjax.training import losses
from cxrjax.training.validation import choose_monitor, quick_scores

NAN = np.nan


def films(label, has_mask=None):
    label = np.array(label, np.float32)
    count = len(label)
    table = {"id": np.array([f"f{i}" for i in range(count + 2)]),
             "label": np.concatenate([np.eye(2, label.shape[1], dtype=np.float32), label])}
    if has_mask is not None:
        table["has_mask"] = np.array([True, True, *has_mask])
    return Films(
        source=range(count + 2), table=table, labels=tuple("AB"), task="multilabel",
        splits={"train": np.arange(2), "val": np.arange(2, count + 2), "test": np.arange(0)},
    )


@pytest.mark.parametrize("label, chosen", [
    ([[0, 1], [1, 1]], "auroc"),  # one label is enough
    ([[0, 1], [0, 1]], "loss"),
    ([[0, NAN], [NAN, 1]], "loss"),
    ([[0, 0], [NAN, 1]], "auroc"),
])
def test_auroc_needs_both_classes(label, chosen):
    monitor, said = choose_monitor(ConfigDict({"monitor": "auroc"}), films(label))
    assert monitor == chosen
    assert ("chosen by the loss" in said) == (chosen == "loss")
    assert choose_monitor(ConfigDict({"monitor": "loss"}), films(label)) == ("loss", "")


def test_dice_needs_a_mask():
    config = ConfigDict({"monitor": "dice"})
    assert choose_monitor(config, films([[0, 1]], [True])) == ("dice", "")
    assert choose_monitor(config, films([[0, 1]], [False]))[0] == "loss"


def test_loss_is_that_of_training_where_labels_are_unknown():
    rng = np.random.default_rng(0)
    labels = (rng.random((12, 3)) < 0.4).astype(np.float32)
    labels[rng.random((12, 3)) < 0.3] = NAN
    logits = rng.normal(size=(12, 3)).astype(np.float32)
    batch = {"label": jnp.asarray(labels), "weight": jnp.ones(12)}
    films, _ = losses.make("bce", "multilabel")({"logits": jnp.asarray(logits)}, batch)
    want = float(losses.batch_mean(films, batch["weight"]))
    assert quick_scores(labels, logits, "multilabel")["loss"] == pytest.approx(want, rel=1e-6)
