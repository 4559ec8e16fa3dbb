"""Losses against hand-computed numbers, slow references in NumPy, and numerical gradients."""

import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from cxrjax.errors import UserError
from cxrjax.training import losses, task_weighting

NAN = float("nan")
LN2 = np.log(2.0)


def logit(p):
    return np.log(p) - np.log1p(-p)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def check_grads(f, *args, eps=1e-2, tolerance=2e-2):
    """The reverse-mode gradient of f against finite differences (f compiled: types are traced)."""
    test_util.check_grads(
        jax.jit(f), args, order=1, modes=["rev"], atol=tolerance, rtol=tolerance, eps=eps
    )


def random_batch(seed=0, films=4, labels=5):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (films, labels)).astype(np.float32)
    y = rng.integers(0, 2, (films, labels)).astype(np.float32)
    return z, y


def close(got, want, **kwargs):
    np.testing.assert_allclose(np.asarray(got), want, **{"rtol": 2e-6, "atol": 1e-6, **kwargs})


# --- reductions


def test_masked_mean_by_hand():
    x = jnp.array([[1.0, 3.0, NAN], [5.0, NAN, NAN]])
    where = ~jnp.isnan(x)
    close(losses.masked_mean(x, where), 3.0)
    close(losses.masked_mean(x, where, axis=1), [2.0, 5.0])
    close(losses.masked_mean(x, where, axis=0), [3.0, 3.0, 0.0])


def test_masked_mean_of_nothing_is_zero_with_gradient_zero():
    x = jnp.array([1.0, NAN])
    value, grad = jax.value_and_grad(losses.masked_mean)(x, jnp.array([False, False]))
    assert value == 0
    close(grad, [0.0, 0.0])


def test_batch_mean_leaves_padding_out_even_if_it_is_nan():
    loss, weight = jnp.array([1.0, 4.0, NAN]), jnp.array([1.0, 0.5, 0.0])
    value, grad = jax.value_and_grad(losses.batch_mean)(loss, weight)
    close(value, 3.0 / 1.5)
    close(grad, [1 / 1.5, 0.5 / 1.5, 0.0])
    value, grad = jax.value_and_grad(losses.batch_mean)(loss, jnp.zeros(3))
    assert value == 0 and not grad.any()


# --- elementwise


def test_bce_by_hand():
    z = jnp.array([[0.0, float(logit(0.9)), float(logit(0.2))]])
    close(losses.bce(z, jnp.array([[1.0, 1.0, 0.0]])), [[LN2, -np.log(0.9), -np.log(0.8)]])
    weighted = losses.bce(z, jnp.array([[1.0, 0.0, 1.0]]), jnp.array([3.0, 3.0, 2.0]))
    close(weighted, [[3 * LN2, -np.log(0.1), -2 * np.log(0.2)]])


def test_asymmetric_by_hand():
    z = jnp.array([[float(logit(0.7))] * 2 + [float(logit(0.04))]])
    y = jnp.array([[1.0, 0.0, 0.0]])
    want = [-(0.3**1) * np.log(0.7), -(0.65**4) * np.log(0.35), 0.0]
    close(losses.asymmetric(z, y), [want])
    close(
        losses.asymmetric(z, y, gamma_neg=2, gamma_pos=0.5, clip=0)[0, :2],
        [-(0.3**0.5) * np.log(0.7), -(0.7**2) * np.log(0.3)],
    )


def test_focal_by_hand():
    z = jnp.full((1, 2), float(logit(0.8)))
    y = jnp.array([[1.0, 0.0]])
    close(losses.focal(z, y), [[-0.25 * 0.04 * np.log(0.8), -0.75 * 0.64 * np.log(0.2)]])


def test_asymmetric_and_focal_contain_bce():
    z, y = (jnp.asarray(a) for a in random_batch())
    want = np.asarray(losses.bce(z, y))
    close(losses.asymmetric(z, y, gamma_neg=0, gamma_pos=0, clip=0), want)
    close(losses.focal(z, y, gamma=0, alpha=None), want)


def test_softmax_ce_by_hand():
    z = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    y = jnp.eye(3)[jnp.array([1, 2])]
    close(losses.softmax_ce(z, y), [-np.log(0.25), -np.log(0.7)])
    w = jnp.array([1.0, 4.0, 0.5])
    close(losses.softmax_ce(z, y, w), [-4 * np.log(0.25), -0.5 * np.log(0.7)])
    # 0.3 smoothing over three classes: 0.8 for the truth, 0.1 for each of the others.
    smooth = -np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]) * [[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    close(losses.softmax_ce(z, y, None, 0.3), smooth.sum(1))
    close(losses.softmax_ce(z, y, w, 0.3), (smooth * np.asarray(w)).sum(1))


ELEMENTWISE = {
    "bce": lambda z, y: losses.bce(z, y, jnp.arange(1.0, 1.0 + z.shape[1])),
    "asl": losses.asymmetric,
    "asl without clip, broken exponents": lambda z, y: losses.asymmetric(z, y, 1.5, 0.5, 0),
    "focal": losses.focal,
    "softmax_ce": lambda z, y: losses.softmax_ce(z, y, None, 0.1),
}
ELEMENTWISE = {name: jax.jit(f) for name, f in ELEMENTWISE.items()}
GRADIENT = {
    name: jax.jit(jax.grad(lambda z, y, f=f: f(z, y).sum())) for name, f in ELEMENTWISE.items()
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gradients_of_label_losses(name):
    z, y = (jnp.asarray(a) for a in random_batch(1))
    # The corner of the clip in the asymmetric loss has no derivative: keep away from it.
    assert np.abs(sigmoid(np.asarray(z)) - 0.05).min() > 2e-3
    check_grads(lambda z: ELEMENTWISE[name](z, y).sum(), z, eps=1e-3)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_unknown_labels_have_no_loss_and_no_gradient(name):
    z, y = (jnp.asarray(a) for a in random_batch(2))
    holed = y.at[1].set(NAN).at[2].set(NAN)
    f = ELEMENTWISE[name]
    full, grad_full = f(z, y), GRADIENT[name](z, y)
    loss, grad = f(z, holed), GRADIENT[name](z, holed)
    close(loss[jnp.array([1, 2])], np.zeros_like(loss[:2]), atol=0)
    close(grad[jnp.array([1, 2])], np.zeros_like(grad[:2]), atol=0)
    close(loss[jnp.array([0, 3])], full[jnp.array([0, 3])])
    close(grad[jnp.array([0, 3])], grad_full[jnp.array([0, 3])])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_extreme_logits_stay_finite(name):
    z, y = (jnp.asarray(a) for a in random_batch(2))
    z = 150 * jnp.round(z)
    assert np.isfinite(ELEMENTWISE[name](z, y)).all()
    assert np.isfinite(GRADIENT[name](z, y)).all()


# --- divergences


@pytest.mark.parametrize("temperature", [1, 2.5])
def test_kl_softmax_against_numpy(temperature):
    p, q = random_batch(3)[0], random_batch(4)[0]

    def softmax(z):
        e = np.exp(z.astype(np.float64) / temperature)
        return e / e.sum(1, keepdims=True)

    want = [sum(a * np.log(a / b) for a, b in zip(x, y)) for x, y in zip(softmax(p), softmax(q))]
    got = losses.kl_softmax(jnp.asarray(p), jnp.asarray(q), temperature)
    close(got, want)
    assert (np.asarray(got) > 0).all()


@pytest.mark.parametrize("temperature", [1, 2.5])
def test_kl_bernoulli_against_numpy(temperature):
    p, q = random_batch(3)[0], random_batch(4)[0]
    a, b = sigmoid(p.astype(np.float64) / temperature), sigmoid(q.astype(np.float64) / temperature)
    want = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    close(losses.kl_bernoulli(jnp.asarray(p), jnp.asarray(q), temperature), want)


def test_kl_of_two_classes_is_kl_of_bernoulli():
    p, q = jnp.array([[0.3, 0.0], [2.0, 0.0]]), jnp.array([[-1.0, 0.0], [0.5, 0.0]])
    close(losses.kl_softmax(p, q), losses.kl_bernoulli(p[:, :1], q[:, :1])[:, 0])


@pytest.mark.parametrize("kl", [losses.kl_softmax, losses.kl_bernoulli])
def test_kl_of_a_network_with_itself_is_zero_and_flat(kl):
    z = jnp.asarray(random_batch(5)[0])
    assert not np.asarray(kl(z, z)).any()
    for argument in (0, 1):
        close(jax.grad(lambda p, q: kl(p, q).sum(), argument)(z, z), np.zeros(z.shape), atol=1e-6)


@pytest.mark.parametrize("kl", [losses.kl_softmax, losses.kl_bernoulli])
def test_gradients_of_kl_in_both_arguments(kl):
    p, q = (jnp.asarray(random_batch(s)[0]) for s in (6, 7))
    check_grads(lambda p, q: kl(p, q, 2.0).sum(), p, q)


def test_distillation_by_hand():
    teacher = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    student = jnp.log(jnp.array([[0.2, 0.2, 0.6]]))
    want = -(0.5 * np.log(0.2) + 0.25 * np.log(0.2) + 0.25 * np.log(0.6))
    close(losses.distill_softmax(student, teacher), [want])
    # T = 2 takes square roots of the probabilities and scales by 4.
    p = np.sqrt([0.5, 0.25, 0.25]) / np.sqrt([0.5, 0.25, 0.25]).sum()
    q = np.sqrt([0.2, 0.2, 0.6]) / np.sqrt([0.2, 0.2, 0.6]).sum()
    close(losses.distill_softmax(student, teacher, 2), [-4 * (p * np.log(q)).sum()])

    v, z = jnp.array([[float(logit(0.7))]]), jnp.array([[float(logit(0.4))]])
    close(losses.distill_sigmoid(z, v), [[-(0.7 * np.log(0.4) + 0.3 * np.log(0.6))]])
    p, q = sigmoid(logit(0.7) / 3), sigmoid(logit(0.4) / 3)
    close(losses.distill_sigmoid(z, v, 3), [[-9 * (p * np.log(q) + (1 - p) * np.log(1 - q))]])


@pytest.mark.parametrize("distill", [losses.distill_softmax, losses.distill_sigmoid])
def test_distillation_never_moves_the_teacher_and_rests_at_the_teacher(distill):
    student, teacher = (jnp.asarray(random_batch(s)[0]) for s in (8, 9))

    def total(s, t):
        return distill(s, t, 4.0).sum()

    assert not np.asarray(jax.grad(total, 1)(student, teacher)).any()
    assert np.abs(jax.grad(total, 0)(student, teacher)).max() > 0.01
    close(jax.grad(total, 0)(teacher, teacher), np.zeros(teacher.shape), atol=2e-6)


# --- segmentation


def test_dice_by_hand():
    truth = np.zeros((1, 2, 4, 2), np.float32)
    truth[0, 0, :, 0] = 1  # structure 0: the upper row; structure 1: empty
    probability = np.full((1, 2, 4, 2), 0.5, np.float32)
    # |A.B| = 4 * 0.5, |A| = 8 * 0.5, |B| = 4, and for the empty structure nothing in common.
    close(
        losses.dice_loss(jnp.asarray(probability), jnp.asarray(truth)), [[1 - 2 * 2 / (4 + 4), 1.0]]
    )
    close(losses.dice_loss(jnp.asarray(truth), jnp.asarray(truth)), [[0.0, 0.0]])
    close(losses.dice_loss(jnp.asarray(1 - truth[..., :1]), jnp.asarray(truth[..., :1])), [[1.0]])


def test_dice_of_films_without_mask_is_zero_whatever_their_mask_holds():
    rng = np.random.default_rng(0)
    probability = jnp.asarray(rng.uniform(size=(3, 4, 4, 2)), jnp.float32)
    mask = jnp.asarray(rng.integers(0, 2, (3, 4, 4, 2)), jnp.float32)
    full = losses.dice_loss(probability, mask)
    mask = mask.at[1].set(NAN)
    has_mask = jnp.array([True, False, True])
    loss = losses.dice_loss(probability, mask, has_mask)
    close(loss, full * jnp.array([[1.0], [0.0], [1.0]]))
    grad = jax.grad(lambda p: losses.dice_loss(p, mask, has_mask).sum())(probability)
    assert not np.asarray(grad[1]).any() and np.isfinite(grad).all() and np.asarray(grad[0]).any()


def test_gradient_of_dice():
    rng = np.random.default_rng(1)
    z = jnp.asarray(rng.normal(size=(2, 3, 3, 2)), jnp.float32)
    mask = jnp.asarray(rng.integers(0, 2, (2, 3, 3, 2)), jnp.float32)
    check_grads(lambda z: losses.dice_loss(jax.nn.sigmoid(z), mask).sum(), z)


# --- balance between tasks


def test_uncertainty_weighting_by_hand():
    task_losses = {"class": jnp.array(2.0), "dice": jnp.array(0.5)}
    s = {"class": jnp.array(np.log(4.0), jnp.float32), "dice": jnp.array(0.0)}
    close(task_weighting.uncertainty_weighting(task_losses, s), 2 / 4 + np.log(4) / 2 + 0.5)
    zeros = {k: jnp.array(0.0) for k in s}
    close(task_weighting.uncertainty_weighting(task_losses, zeros), 2.5)
    # The best s of a task is ln(2 L): there the derivative 1/2 - exp(-s) L vanishes.
    grad = jax.grad(lambda s: task_weighting.uncertainty_weighting(task_losses, s))(s)
    close(grad["class"], 0.5 - 2 / 4)
    close(grad["dice"], 0.5 - 0.5)
    check_grads(lambda s: task_weighting.uncertainty_weighting(task_losses, s), s)


def test_uncertainty_of_a_task_that_no_film_has_stays():
    task_losses = {"class": jnp.array([2.0, 1.0]), "dice": jnp.array([0.0, 0.0])}
    batch = {"label": jnp.array([[1.0, NAN], [0.0, 1.0]]), "has_mask": jnp.array([False, False])}
    s = {"class": jnp.array(0.3), "dice": jnp.array(0.3)}

    def total(s):
        return task_weighting.uncertainty_weighting(task_losses, s, losses.present(batch)).sum()

    grad = jax.grad(total)(s)
    assert grad["dice"] == 0 and grad["class"] != 0


def test_uncertainty_weighting_needs_the_same_tasks():
    with pytest.raises(ValueError, match="dice"):
        task_weighting.uncertainty_weighting({"class": jnp.array(1.0)}, {"dice": jnp.array(1.0)})


def pcgrad_numpy(grads, order):
    """Algorithm 1 of the paper on vectors; `order[i]` is the order in which task i projects."""
    total = 0
    for i, g in enumerate(grads):
        g = g.copy()
        for j in order[i]:
            if j != i and g @ grads[j] < 0:
                g -= (g @ grads[j]) / (grads[j] @ grads[j]) * grads[j]
        total = total + g
    return total


def test_pcgrad_by_hand():
    key = jax.random.key(0)
    a, b = {"x": jnp.array([1.0, 0.0])}, {"x": jnp.array([-1.0, 1.0])}
    # a.b = -1: a - (-1/2) b = (.5, .5);  b - (-1) a = (0, 1).
    close(task_weighting.pcgrad([a, b], key)["x"], [0.5, 1.5])
    c = {"x": jnp.array([1.0, 1.0])}
    close(task_weighting.pcgrad([a, c], key)["x"], [2.0, 1.0])  # no conflict: the plain sum
    close(task_weighting.pcgrad([a], key)["x"], [1.0, 0.0])
    zero = {"x": jnp.zeros(2)}
    # A task without films adds nothing.
    close(task_weighting.pcgrad([a, zero], key)["x"], [1.0, 0.0])


def test_pcgrad_of_three_tasks_is_the_algorithm_in_some_order():
    rows = np.array([[1, 0, 0, 0], [-1, 1, 0.5, 0], [-0.5, -1, 1, 1]])  # all in conflict
    grads = [{"w": row[:2].reshape(1, 2), "b": row[2:]} for row in rows]
    flat = [np.concatenate([g["w"].ravel(), g["b"]]) for g in grads]
    orders = itertools.product(itertools.permutations(range(3)), repeat=3)
    possible = np.stack([pcgrad_numpy(flat, order) for order in orders])
    as_jax = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads)
    step = jax.jit(task_weighting.pcgrad)
    seen = set()
    for seed in range(12):
        got = step(as_jax, jax.random.key(seed))
        got = np.concatenate([np.ravel(got["w"]), got["b"]])
        distance = np.abs(possible - got).max(axis=1)
        assert distance.min() < 1e-5
        seen.add(int(distance.argmin()))
    assert len(seen) > 1  # the order is drawn


# --- make


def outputs_and_batch(films=3, labels=4, structures=2):
    rng = np.random.default_rng(3)
    outputs = {
        "logits": jnp.asarray(rng.normal(size=(films, labels)), jnp.float32),
        "mask_logits": jnp.asarray(rng.normal(size=(films, 4, 4, structures)), jnp.float32),
    }
    batch = {
        "label": jnp.asarray(rng.integers(0, 2, (films, labels)), jnp.float32),
        "mask": jnp.asarray(rng.integers(0, 2, (films, 4, 4, structures)), jnp.float32),
        "has_mask": jnp.array([True, False, True]),
        "weight": jnp.array([1.0, 1.0, 0.0]),
    }
    return outputs, batch


def test_make_averages_over_the_known_labels_of_each_film():
    outputs, batch = outputs_and_batch()
    batch["label"] = batch["label"].at[0, 1].set(NAN).at[1].set(NAN)
    loss, logs = losses.make("bce", "multilabel")(outputs, batch)
    each = np.asarray(losses.bce(outputs["logits"], batch["label"]))
    close(loss, [each[0, [0, 2, 3]].mean(), 0.0, each[2].mean()])
    assert set(logs) == {"loss_class"}
    close(logs["loss_class"], np.mean(loss[:2]))


def test_make_passes_options_on():
    outputs, batch = outputs_and_batch()
    z, y = outputs["logits"], batch["label"]
    loss, _ = losses.make("bce", "multilabel", pos_weight=[1, 2, 3, 4])(outputs, batch)
    close(loss, losses.bce(z, y, jnp.arange(1.0, 5.0)).mean(axis=1))
    loss, _ = losses.make("asl", "multilabel", gamma_neg=2)(outputs, batch)
    close(loss, losses.asymmetric(z, y, gamma_neg=2).mean(axis=1))
    loss, _ = losses.make("focal", "multilabel", alpha=None)(outputs, batch)
    close(loss, losses.focal(z, y, alpha=None).mean(axis=1))
    batch["label"] = jnp.eye(4)[:3]
    softmax_ce = losses.make("softmax_ce", "multiclass", label_smoothing=0.1)
    close(softmax_ce(outputs, batch)[0], losses.softmax_ce(z, batch["label"], None, 0.1))


def test_report_a_loss_is_the_weighted_sum_of_its_tasks():
    outputs, batch = outputs_and_batch()
    batch["label"] = jnp.eye(4)[:3]
    make = losses.make("softmax_ce", "multiclass", ce_weight=1, dice_weight=0.01)
    loss, logs = make(outputs, batch)
    ce = np.asarray(losses.softmax_ce(outputs["logits"], batch["label"]))
    dice = np.asarray(losses.dice_loss(jax.nn.sigmoid(outputs["mask_logits"]), batch["mask"]))
    dice = dice.mean(axis=1) * [1, 0, 1]
    close(loss, ce + 0.01 * dice)
    tasks = make.tasks(outputs, batch)
    close(tasks["class"], ce)
    close(tasks["dice"], dice)
    close(logs["loss_dice"], dice[:2].mean())  # the third film is padding
    close(logs["loss_class"], ce[:2].mean())


def test_films_without_masks_train_as_plain_classification():
    outputs, batch = outputs_and_batch()
    batch["has_mask"] = jnp.zeros(3, bool)

    def grads(**options):
        loss = losses.make("bce", "multilabel", **options)
        return jax.grad(lambda o: losses.batch_mean(loss(o, batch)[0], batch["weight"]))(outputs)

    with_dice, plain = grads(dice_weight=1.0), grads()
    close(with_dice["logits"], plain["logits"], atol=0)
    assert not np.asarray(with_dice["mask_logits"]).any()


def test_a_network_without_decoder_trains_on_the_class_alone():
    outputs, batch = outputs_and_batch()
    del outputs["mask_logits"]
    loss, logs = losses.make("bce", "multilabel", dice_weight=1.0)(outputs, batch)
    close(loss, losses.make("bce", "multilabel")(outputs, batch)[0])
    assert "loss_dice" not in logs


def test_loss_of_several_heads_is_the_mean():
    outputs, batch = outputs_and_batch()
    heads = jnp.stack([outputs["logits"], 0.5 - outputs["logits"]])
    loss, _ = losses.make("bce", "multilabel")(
        {"logits": heads.mean(0), "head_logits": heads}, batch
    )
    want = sum(losses.bce(z, batch["label"]).mean(axis=1) for z in heads) / 2
    close(loss, want)


def test_make_compiles_with_gradients_free_of_nan():
    outputs, batch = outputs_and_batch()
    batch["label"] = batch["label"].at[1].set(NAN).at[0, 0].set(NAN)
    batch["mask"] = batch["mask"].at[1].set(NAN)
    loss = losses.make("asl", "multilabel", dice_weight=0.5)
    step = jax.jit(jax.grad(lambda o: losses.batch_mean(loss(o, batch)[0], batch["weight"])))
    grad = step(outputs)
    assert all(np.isfinite(g).all() for g in grad.values())
    assert grad["logits"][0, 0] == 0 and np.asarray(grad["logits"][0, 1:]).all()


def test_a_loss_of_the_users_own(monkeypatch):
    module = types.ModuleType("my_lab_losses")
    module.__spec__ = types.SimpleNamespace(name="my_lab_losses")

    def make(task, margin):
        assert task == "multilabel"

        def loss(outputs, batch):
            return jnp.sum(jnp.abs(outputs["logits"]), axis=1) + margin, {"margin": margin}

        return loss

    module.make = make
    monkeypatch.setitem(sys.modules, "my_lab_losses", module)
    outputs, batch = outputs_and_batch()
    loss, logs = losses.make("my_lab_losses:make", "multilabel", margin=2.0)(outputs, batch)
    close(loss, np.abs(outputs["logits"]).sum(1) + 2)
    assert logs == {"margin": 2.0}


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (("bec", "multilabel"), {}, "unknown loss 'bec'; did you mean 'bce'"),
        (("focal", "multilabel"), {"gama": 2}, "'gama'.*did you mean 'gamma'"),
        (("bce", "multilabel"), {"dice_wieght": 1}, "did you mean 'dice_weight'"),
        (("softmax_ce", "multilabel"), {}, "use bce or asl or focal"),
        (("bce", "multiclass"), {}, "use softmax_ce"),
        (("no_such_lab.losses:make", "multilabel"), {}, "no module"),
    ],
)
def test_mistakes_are_named(arguments, options, message):
    with pytest.raises(UserError, match=message):
        losses.make(*arguments, **options)


@pytest.mark.parametrize("weights", [[2.0], [1.0, 2.0, 3.0]])
def test_as_many_weights_as_labels(weights):
    outputs, batch = outputs_and_batch()
    with pytest.raises(UserError, match=f"pos_weight.*{len(weights)} numbers.*4 labels"):
        losses.make("bce", "multilabel", pos_weight=weights)(outputs, batch)
    one, _ = losses.make("bce", "multilabel", pos_weight=2)(outputs, batch)
    four, _ = losses.make("bce", "multilabel", pos_weight=[2] * 4)(outputs, batch)
    close(one, four)


@pytest.mark.parametrize(
    "text, numbers", [("2.0", 2.0), ("1, 2,0.5,3", [1, 2, 0.5, 3]), ("(1,2,3,4)", [1, 2, 3, 4])]
)
def test_weights_may_come_as_the_text_of_a_flag(text, numbers):
    outputs, batch = outputs_and_batch()
    as_text, _ = losses.make("bce", "multilabel", pos_weight=text)(outputs, batch)
    close(as_text, losses.make("bce", "multilabel", pos_weight=numbers)(outputs, batch)[0])


@pytest.mark.parametrize("text", ["balance", "two", "1,,2", "-1", "nan"])
def test_text_that_is_no_weight_is_refused(text):
    for name, task, option in (("bce", "multilabel", "pos_weight"),
                               ("softmax_ce", "multiclass", "class_weights")):
        with pytest.raises(UserError, match=f"config.loss.{option} = '{text}'.*'balanced'"):
            losses.make(name, task, **{option: text})


def test_dice_on_films_of_a_data_set_without_masks_is_a_mistake():
    outputs, batch = outputs_and_batch()
    del batch["mask"]
    with pytest.raises(UserError, match="has no masks"):
        losses.make("bce", "multilabel", dice_weight=0.01)(outputs, batch)
    losses.make("bce", "multilabel", dice_weight=0)(outputs, batch)


def test_wrong_shapes_are_refused():
    with pytest.raises(Exception, match="(?i)type|shape"):
        losses.bce(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
