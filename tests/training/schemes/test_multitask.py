"""Two tasks on one film: films without masks, the balance of the tasks, a whole training."""

import csv
import functools
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import covid_radiography, jsrt, phantom
from cxrjax.cli.fields import open_config
from cxrjax.data import sets
from cxrjax.errors import UserError
from cxrjax.evaluation import evaluate, provenance
from cxrjax.metrics import segmentation
from cxrjax.training import checkpoint, experiment, loop, resume, steps
from cxrjax.training.optim import make_optimizer
from cxrjax.training.schemes import multitask, supervised
from tests import toy_masks

TINY = {"width": 8, "depths": (1,)}
PLAIN_SGD = {
    "optimizer.name": "sgd", "optimizer.momentum": 0.0, "optimizer.clip_norm": 0.0,
    "optimizer.weight_decay": 0.0, "optimizer.learning_rate": 0.1, "schedule.name": "constant",
}
KEY = jax.random.key(0)


def toy_config(balance="fixed", model="resunet", **changes):
    """A config for the discs, with a tiny network."""
    config = experiment.base("tests.toy_masks:", model, 16)
    with config.unlocked():
        config.scheme = {"name": "multitask", "balance": balance}
        config.model.update(TINY)
        if model == "resunet":
            config.model.update({"encoder": "resnet18", "decoder_width": 8})
    config.loss.dice_weight = 0.5
    config.batch_size = config.eval_batch_size = 10
    config.train_for, config.schedule.warmup = "24 steps", "0 steps"
    config.evaluate_every = config.checkpoint_every = config.log_every = "12 steps"
    config.optimizer.learning_rate = 0.02
    config.update_from_flattened_dict(changes)
    return config


def completed(config):
    return experiment.complete(config, toy_masks.load(config.dataset.to_dict()))


def a_batch(masked, size=16):
    source = toy_masks.Source(10, size, masked)
    records = [source[i] for i in range(10)]
    keys = ("image", "label", "mask", "has_mask")
    batch = {k: jnp.asarray(np.stack([r[k] for r in records])) for k in keys}
    return {**batch, "weight": jnp.ones(10)}


@functools.cache
def trainer(balance, model, optimizer):
    """(states, compiled step) of a scheme: compiled once for all tests."""
    changes = PLAIN_SGD if optimizer == "sgd" else {}
    config = completed(toy_config(balance, model, **changes))
    scheme = multitask if model == "resunet" else supervised
    return scheme.init(config, KEY, a_batch(1.0)), jax.jit(scheme.make_step(config))


def after(count, batch, balance="fixed", model="resunet", optimizer="sgd"):
    """The network after `count` steps on one batch, and what the last step logged."""
    states, step = trainer(balance, model, optimizer)
    for _ in range(count):
        states, logs = step(states, batch, jax.random.key(1))
    return states[model], logs


# With learned uncertainty the class has a weight that is learned too: it is 1 in the first step
# only, and its gradient would count when the whole gradient is clipped. SGD, because Adam's first
# steps are near lr * sign(gradient): they blow the last bit of two compiled programs up.
@pytest.mark.parametrize(
    "balance, optimizer, count", [("fixed", "sgd", 3), ("pcgrad", "sgd", 3),
                                  ("uncertainty", "sgd", 1)]
)
def test_without_masks_a_batch_is_plain_classification(balance, optimizer, count):
    state, logs = after(count, a_batch(0.0), balance, optimizer=optimizer)
    plain, _ = after(count, a_batch(0.0), model="resnet18", optimizer=optimizer)
    assert float(logs["loss_dice"]) == 0
    for ours, theirs in ((state.params, plain.params), (state.batch_stats, plain.batch_stats)):
        theirs, ours = (flax.traverse_util.flatten_dict(t, sep="/") for t in (theirs, ours))
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, rtol=0, atol=1e-6, err_msg=key)
    start, _ = trainer("fixed", "resnet18", optimizer)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), start["resnet18"].params, plain.params)
    assert max(jax.tree.leaves(moved)) > 1e-3  # there was something to be equal in
    if balance == "uncertainty":
        assert state.params["log_vars"]["dice"] == -np.log(np.float32(0.5))


@pytest.mark.parametrize("balance", ["uncertainty", "pcgrad"])
def test_films_without_a_mask_are_not_looked_at(balance):
    batch = a_batch(0.5)
    assert 0 < batch["has_mask"].sum() < 10
    hidden = ~batch["has_mask"][:, None, None, None]
    other = {**batch, "mask": jnp.where(hidden, 1 - batch["mask"], batch["mask"])}
    (one, _), (two, _) = after(1, batch, balance), after(1, other, balance)
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_uncertainty_moves_the_log_variances_by_the_papers_gradient():
    state, logs = after(1, a_batch(0.5), "uncertainty")
    # d/ds (exp(-s) L + s share / 2), at s_class = 0 and s_dice = -ln(1/2); the share of films with
    # a label is 1, with a mask 1/2
    expected = {
        "class": 0 - 0.1 * (-logs["loss_class"] + 0.5),
        "dice": np.log(2) - 0.1 * (-0.5 * logs["loss_dice"] + 0.25),
    }
    for task, value in expected.items():
        np.testing.assert_allclose(state.params["log_vars"][task], value, rtol=1e-5)
    np.testing.assert_allclose(logs["weight_dice"], 0.5, rtol=1e-6)
    total = logs["loss_class"] + 0.5 * logs["loss_dice"] + np.log(2) / 4
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)


def test_surgery_by_hand():
    by_class = {"trunk": jnp.array([1.0, 0.0]), "head": jnp.array([3.0]), "decoder": jnp.zeros(1)}
    by_mask = {"trunk": jnp.array([-1.0, 1.0]), "head": jnp.zeros(1), "decoder": jnp.array([5.0])}
    grads, cosine = multitask.surgery([by_class, by_mask], KEY)
    # [1, 0] + 1/2 [-1, 1]  and  [-1, 1] + 1/1 [1, 0]
    np.testing.assert_allclose(grads["trunk"], [0.5 + 0, 0.5 + 1], rtol=1e-6)
    assert (grads["head"], grads["decoder"]) == (3.0, 5.0)
    np.testing.assert_allclose(cosine, -np.sqrt(0.5), rtol=1e-6)
    by_mask["trunk"] = jnp.array([1.0, 1.0])  # no conflict: the sum
    grads, _ = multitask.surgery([by_class, by_mask], KEY)
    np.testing.assert_allclose(grads["trunk"], [2.0, 1.0], rtol=1e-6)


def test_a_pcgrad_step_follows_the_operated_gradient():
    batch = a_batch(1.0)
    state, logs = after(1, batch, "pcgrad")
    start = trainer("pcgrad", "resunet", "sgd")[0]["resunet"]
    config = completed(toy_config("pcgrad"))
    loss, ready = steps.make_loss(config), steps.prepare_train(config, KEY, batch)

    @jax.jit
    def gradients(params):
        def objective(params):
            outputs, _ = steps.forward_train(start, params, ready["image"], KEY)
            tasks = loss.tasks(outputs, ready)
            return jnp.mean(tasks["class"]), 0.5 * jnp.mean(tasks["dice"])

        _, pull_back = jax.vjp(objective, params)
        return pull_back((1.0, 0.0))[0], pull_back((0.0, 1.0))[0]

    by_class, by_mask = gradients(start.params)
    moved = jax.tree.map(lambda a, b: (a - b) / 0.1, start.params, state.params)

    def vector(tree):
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

    np.testing.assert_allclose(vector(moved["head"]), vector(by_class["head"]), atol=1e-5)
    np.testing.assert_allclose(vector(moved["decoder"]), vector(by_mask["decoder"]), atol=1e-5)
    a, b = vector(by_class["encoder"]), vector(by_mask["encoder"])
    inner = a @ b
    np.testing.assert_allclose(
        logs["cosine"], inner / np.linalg.norm(a) / np.linalg.norm(b), atol=1e-5
    )
    expected = a + b - (inner / (b @ b) * b + inner / (a @ a) * a if inner < 0 else 0)
    np.testing.assert_allclose(vector(moved["encoder"]), expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"scheme.balance": "uncertain"}, "did you mean 'uncertainty'"),
        ({"loss.dice_weight": 0.0}, "config.loss.dice_weight"),
    ],
)
def test_mistakes_are_named(changes, words):
    config = completed(toy_config("pcgrad", **changes))
    with pytest.raises(UserError, match=words):
        multitask.make_step(config)


def test_a_network_without_decoder_has_nothing_to_balance():
    config = completed(toy_config("pcgrad", model="resnet18"))
    batch = a_batch(1.0)
    states = jax.eval_shape(lambda: multitask.init(config, KEY, batch))
    with pytest.raises(UserError, match="resunet"):
        jax.eval_shape(multitask.make_step(config), states, batch, KEY)


# ---- a whole training


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir whose training, with learned uncertainty and an EMA, ran through; its report."""
    workdir = tmp_path_factory.mktemp("discs")
    config = toy_config("uncertainty", monitor="dice", train_for="96 steps",
                        evaluate_every="48 steps")
    config.optimizer.ema_decay = 0.8
    outcome = loop.train(config, workdir)
    return workdir, outcome, evaluate.evaluate(workdir)


def test_it_learns_both_tasks(finished):
    workdir, outcome, report = finished
    assert outcome["scores"][-1]["val/resunet/dice"] == outcome["best"]
    macro = report["networks"]["resunet"]["macro"]
    assert macro["Dice"] > 0.9 and macro["accuracy"] > 0.9
    saved = checkpoint.restore_variables(workdir, "latest")[2]["resunet"]
    assert saved["params"]["log_vars"]["class"] != 0


def test_the_report_scores_every_film_with_a_mask(finished):
    workdir, _, result = finished
    folder = workdir / "evaluation" / "test"
    rows = list(csv.DictReader((folder / "masks.csv").open()))
    run = evaluate.restore(workdir)
    films = provenance.open_films(run)
    known = [i for i in films.splits["test"] if films.source[i]["has_mask"]]
    assert [r["id"] for r in rows[::2]] == [films.source[i]["id"] for i in known]
    image = np.stack([films.source[i]["image"] for i in known])
    logits = run.predict(run.states, jnp.asarray(image))["resunet"]["mask_logits"]
    truth = np.stack([films.source[i]["mask"] for i in known])
    answer = np.asarray(logits) > 0
    for figure in ("dice", "iou"):
        expected = getattr(segmentation, figure)(truth, answer)
        got = np.array([float(r[figure]) for r in rows]).reshape(-1, 2)
        np.testing.assert_allclose(got, expected, atol=0.03)  # a pixel on the edge may flip
    table = result["networks"]["resunet"]["masks"]
    assert table["left disc"]["films"] == len(known) < len(films.splits["test"])
    assert table["left disc, A"]["films"] + table["left disc, B"]["films"] == len(known)
    page = (folder / "report.md").read_text()
    assert "| left disc |" in page and "HD95" in page
    assert json.loads((folder / "report.json").read_text())["structures"] == ["left disc",
                                                                              "right disc"]
    assert (folder / "masks_resunet.png").stat().st_size > 10_000


def test_the_probe_stands_beside_the_report(finished):
    workdir, _, _ = finished
    evaluate.main(str(workdir), probe=True)
    page = (workdir / "evaluation" / "test" / "probe.md").read_text()
    assert "15 of 15 films, lungs by 11 truth masks and 4 masks that resunet predicted" in page
    assert page.count("| lungs blacked out |") == 1
    with pytest.raises(UserError, match="--probe"):
        evaluate.main(str(workdir), masks_from=str(workdir))


# ---- the experiments


def test_the_networks_share_one_recipe():
    fields = {
        name: resume.flat(covid_radiography.get_config(name).to_dict())
        for name in ("resunet", "resnet50", "convnext", "conformer", "cross_stitch", "mtan")
    }
    for other in fields.values():
        own = {k for k in other if not k.startswith(("model.", "scheme."))}
        assert {k: other[k] for k in own} == {k: fields["resunet"][k] for k in own}
    assert {fields[n]["model.name"] for n in fields} == {
        "resunet", "resnet50", "convnext_tiny", "conformer_tiny", "cross_stitch", "mtan"
    }
    other = covid_radiography.get_config("resunet,balance=pcgrad,encoder=densenet121,size=96")
    assert (other.scheme.balance, other.model.encoder, other.dataset.image_size) == (
        "pcgrad", "densenet121", 96
    )


@pytest.mark.parametrize("get_config, model", [
    (covid_radiography.get_config, "resunet"), (phantom.get_config, "resunet"),
    (jsrt.get_config, "mtan"),
])
def test_an_encoder_is_chosen_in_one_way(get_config, model):
    assert get_config(f"{model},encoder=convnext_tiny").model.encoder == "convnext_tiny"
    with pytest.raises(UserError, match="convnext_tiny has no decoder; .* :resunet,encoder=vit"):
        get_config("convnext_tiny,encoder=vit_small")


def test_an_encoder_without_a_decoder_is_answered_with_those_that_have_one():
    config = phantom.get_config("resunet,encoder=conformer_tiny")
    config.dataset.update({"num_train": 2, "num_val": 2, "num_test": 2})
    films = sets.load(config.dataset.to_dict())
    config = experiment.complete(config, films)
    batch = {"image": np.zeros((1, *config.image_shape), np.uint8)}
    with pytest.raises(UserError, match="no decoder fits encoder 'conformer_tiny': .*dinov2_small"):
        supervised.init(config, jax.random.key(0), batch)
    with pytest.raises(UserError, match="'decoder'; a network with a decoder is .*:resunet,enc"):
        open_config("phantom", ["--config.model.decoder=true"])


def test_the_reported_recipe_is_report_as():
    config = covid_radiography.get_config("resunet,reported,split=random")
    assert (config.model.encoder, config.dataset.split) == ("resnet50", "random")
    assert (config.batch_size, config.train_for) == (4, "25 epochs")
    assert (config.loss.ce_weight, config.loss.dice_weight) == (1, 0.01)
    _, rate = make_optimizer(dict(config.optimizer), dict(config.schedule), 100, 10.0)
    assert {round(float(rate(step)), 6) for step in (0, 1, 50, 99)} == {0.1}
    tx, _ = make_optimizer(dict(config.optimizer), dict(config.schedule), 100, 10.0)
    params, grads = {"w": jnp.ones((2, 2))}, {"w": jnp.full((2, 2), 3.0)}
    state = tx.init(params)
    for _ in range(2):  # plain: no momentum, no decay, no clipping
        updates, state = tx.update(grads, state, params)
        np.testing.assert_allclose(updates["w"], -0.3, rtol=1e-6)


def test_jsrt_learns_two_masks_and_is_chosen_by_them():
    config = jsrt.get_config("mtan,balance=uncertainty")
    assert (config.monitor, config.model.name, config.scheme.balance) == (
        "dice", "mtan", "uncertainty"
    )
    assert config.loss.name == "bce" and config.loss.dice_weight > config.loss.ce_weight > 0
