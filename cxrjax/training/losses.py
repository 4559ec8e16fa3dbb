"""Losses: one elementwise, unreduced function per idea; `make` builds what a training step calls.

Conventions. B films, K labels, M structures; logits and masks are float32. A label that is NaN is
unknown: every function gives it the loss 0 and the gradient 0, and `masked_mean` keeps it out of
the denominator. Nothing here averages over films: a step does that with `batch_mean` and the
batch's weights, so that padding counts nothing.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cxrjax import names
from cxrjax.errors import UserError

Number = float | int
TaskLosses = dict[str, Array]
LossFn = Callable[[Mapping, Mapping], tuple[Array, dict[str, Array]]]


def masked_mean(
    x: Float[Array, "*s"], where: Bool[Array, "*s"], axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Mean of `x` over `axis` (all axes by default) where `where` holds; 0 where nothing does.

    Values that are left out have gradient 0 even if they are NaN, and so has an empty mean. (A NaN
    that arises inside the function that made `x` has to be masked there as well.)
    """
    total = jnp.sum(jnp.where(where, x, 0.0), axis=axis)
    return total / jnp.maximum(jnp.sum(where, axis=axis), 1)


def batch_mean(loss: Float[Array, " b"], weight: Float[Array, " b"]) -> Float[Array, ""]:
    """Weighted mean over the films of a batch: sum(weight * loss) / sum(weight).

    A film of weight 0 (padding) counts nothing whatever its loss is; if all weights are 0 the mean
    is 0.
    """
    counted = weight > 0
    total = jnp.sum(jnp.where(counted, weight * jnp.where(counted, loss, 0.0), 0.0))
    weights = jnp.sum(weight)
    return total / jnp.where(weights > 0, weights, 1.0)


def bce(
    logits: Float[Array, "b k"],
    labels: Float[Array, "b k"],
    pos_weight: Float[Array, " k"] | Number | None = None,
) -> Float[Array, "b k"]:
    """Binary cross-entropy  -(w y ln s(z) + (1 - y) ln(1 - s(z))),  s the sigmoid.

    Args:
      labels: in [0, 1]; NaN = unknown.
      pos_weight: w, the weight of the positives, of each label or of all; 1 by default.
    """
    known, labels = _known(labels)
    positive = -labels * jax.nn.log_sigmoid(logits)
    if pos_weight is not None:
        positive = positive * pos_weight
    negative = -(1 - labels) * jax.nn.log_sigmoid(-logits)
    return jnp.where(known, positive + negative, 0.0)


def asymmetric(
    logits: Float[Array, "b k"],
    labels: Float[Array, "b k"],
    gamma_neg: Number = 4.0,
    gamma_pos: Number = 1.0,
    clip: Number = 0.05,
) -> Float[Array, "b k"]:
    """Asymmetric loss for labels with few positives (Ridnik et al., ICCV 2021, eq. 7).

        -( y (1 - p)^gamma_pos ln p + (1 - y) m^gamma_neg ln(1 - m) ),   m = max(p - clip, 0)

    Easy negatives (p <= clip) are dropped, the others are down-weighted more than the positives.
    The gradient flows through the focusing factors too, as in the paper's analysis (the authors'
    released default cuts it). gamma_neg = gamma_pos = clip = 0 is `bce`.
    """
    known, labels = _known(labels)
    p, q = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)
    positive = -labels * _power(q, gamma_pos) * jax.nn.log_sigmoid(logits)
    if clip:
        margin = jnp.maximum(p - clip, 0.0)
        log_rest = jnp.log(jnp.minimum(q + clip, 1.0))  # at least ln(clip): never -inf
    else:
        margin, log_rest = p, jax.nn.log_sigmoid(-logits)
    negative = -(1 - labels) * _power(margin, gamma_neg) * log_rest
    return jnp.where(known, positive + negative, 0.0)


def focal(
    logits: Float[Array, "b k"],
    labels: Float[Array, "b k"],
    gamma: Number = 2.0,
    alpha: Number | None = 0.25,
) -> Float[Array, "b k"]:
    """Focal loss  -a (1 - pt)^gamma ln pt  on sigmoids (Lin et al., ICCV 2017, eq. 5).

    pt is the probability given to the truth, `a` is alpha for positives and 1 - alpha for
    negatives (None: 1 for both; then gamma = 0 is `bce`). A label between 0 and 1 mixes the losses
    of its two ends.
    """
    known, labels = _known(labels)
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1.0 - alpha)
    p, q = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)
    positive = -a * labels * _power(q, gamma) * jax.nn.log_sigmoid(logits)
    negative = -b * (1 - labels) * _power(p, gamma) * jax.nn.log_sigmoid(-logits)
    return jnp.where(known, positive + negative, 0.0)


def softmax_ce(
    logits: Float[Array, "b k"],
    labels: Float[Array, "b k"],
    class_weights: Float[Array, " k"] | Number | None = None,
    label_smoothing: Number = 0.0,
) -> Float[Array, " b"]:
    """Cross-entropy  -sum_k w_k y'_k ln softmax(z)_k  with  y' = (1 - e) y + e / K.

    Label smoothing e: Szegedy et al., CVPR 2016. Weights and smoothing combine as in torch's
    cross_entropy(reduction='none').

    Args:
      labels: one-hot (or a distribution). A film with a NaN among them is unknown: loss 0.
      class_weights: w, 1 by default. They scale the loss and are not divided out again.
    """
    known, labels = _known(labels)
    target = (1 - label_smoothing) * labels + label_smoothing / logits.shape[-1]
    if class_weights is not None:
        target = target * class_weights
    loss = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    return jnp.where(jnp.all(known, axis=-1), loss, 0.0)


def kl_softmax(
    p_logits: Float[Array, "b k"], q_logits: Float[Array, "b k"], temperature: Number = 1.0
) -> Float[Array, " b"]:
    """KL(p || q) = sum_k p_k ln(p_k / q_k) of each film, p and q the softmax of logits / T.

    In mutual learning (Zhang et al., CVPR 2018, eq. 5) the network being trained is q and its peer
    is p. Differentiable in both; whoever wants no gradient in the peer stops it.
    """
    log_p = jax.nn.log_softmax(p_logits / temperature)
    log_q = jax.nn.log_softmax(q_logits / temperature)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def kl_bernoulli(
    p_logits: Float[Array, "b k"], q_logits: Float[Array, "b k"], temperature: Number = 1.0
) -> Float[Array, "b k"]:
    """KL of two Bernoulli variables per label:  p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)).

    p and q are the sigmoids of logits / T. The multi-label form of mutual learning is the sum over
    the labels. Differentiable in both arguments, like `kl_softmax`.
    """
    zp, zq = p_logits / temperature, q_logits / temperature
    log_sigmoid = jax.nn.log_sigmoid
    return jax.nn.sigmoid(zp) * (log_sigmoid(zp) - log_sigmoid(zq)) + jax.nn.sigmoid(-zp) * (
        log_sigmoid(-zp) - log_sigmoid(-zq)
    )


def distill_softmax(
    student_logits: Float[Array, "b k"],
    teacher_logits: Float[Array, "b k"],
    temperature: Number = 1.0,
) -> Float[Array, " b"]:
    """Soft-target loss  -T^2 sum_k p_k ln q_k  (Hinton et al. 2015, section 2).

    p = softmax(teacher / T) and q = softmax(student / T). T^2 keeps the size of the gradient as T
    changes. No gradient reaches the teacher.
    """
    p = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits) / temperature)
    log_q = jax.nn.log_softmax(student_logits / temperature)
    return -(temperature**2) * jnp.sum(p * log_q, axis=-1)


def distill_sigmoid(
    student_logits: Float[Array, "b k"],
    teacher_logits: Float[Array, "b k"],
    temperature: Number = 1.0,
) -> Float[Array, "b k"]:
    """`distill_softmax` for independent labels:  -T^2 (p ln q + (1 - p) ln(1 - q)) per label."""
    p = jax.nn.sigmoid(jax.lax.stop_gradient(teacher_logits) / temperature)
    return temperature**2 * bce(student_logits / temperature, p)


def dice_loss(
    probabilities: Float[Array, "b h w m"],
    mask: Float[Array, "b h w m"],
    has_mask: Bool[Array, " b"] | None = None,
    epsilon: Number = 1e-6,
) -> Float[Array, "b m"]:
    """Soft Dice loss  1 - (2 |A.B| + e) / (|A| + |B| + e)  of each film and structure.

    |A.B| is the sum of probability * mask over the pixels, |A| and |B| the sums of each (Milletari
    et al., 3DV 2016, without their squares). `epsilon`, in pixels, only keeps 0 / 0 away: a
    structure that is empty in truth and prediction has loss 0. Films without a mask have loss 0
    and gradient 0 whatever stands in their `mask`.
    """
    if has_mask is not None:
        mask = jnp.where(has_mask[:, None, None, None], mask, 0.0)
    both = jnp.sum(probabilities * mask, axis=(1, 2))
    total = jnp.sum(probabilities, axis=(1, 2)) + jnp.sum(mask, axis=(1, 2))
    loss = 1 - (2 * both + epsilon) / (total + epsilon)
    return loss if has_mask is None else jnp.where(has_mask[:, None], loss, 0.0)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A LossFn made of tasks: (outputs, batch) -> (loss f32[B] per film, logs).

    `tasks(outputs, batch)` gives the unweighted losses of each task, f32[B] each: 'class', and
    'dice' where the network has a decoder and the weight of Dice is not 0. The call weights them
    by `weights` and adds; schemes that balance the tasks in another way use `tasks` itself.
    logs: 'loss_class', 'loss_dice': their unweighted means over the batch (`batch_mean`), in which
    a film without a mask counts as 0.
    """

    tasks: Callable[[Mapping, Mapping], TaskLosses]
    weights: Mapping[str, float]

    def __call__(self, outputs: Mapping, batch: Mapping) -> tuple[Float[Array, " b"], dict]:
        losses = self.tasks(outputs, batch)
        logs = {f"loss_{task}": batch_mean(x, batch["weight"]) for task, x in losses.items()}
        return sum(self.weights[task] * x for task, x in losses.items()), logs


def present(batch: Mapping) -> dict[str, Float[Array, " b"]]:
    """Which tasks each film has, 1.0 or 0.0: 'class' (a known label) and 'dice' (a mask)."""
    known = jnp.any(~jnp.isnan(batch["label"]), axis=-1)
    has_mask = batch["has_mask"] if "has_mask" in batch else jnp.zeros_like(known)
    return {"class": known.astype(jnp.float32), "dice": has_mask.astype(jnp.float32)}


_ELEMENTWISE = {"bce": bce, "asl": asymmetric, "focal": focal, "softmax_ce": softmax_ce}


def defaults_of(name: str) -> dict[str, Any]:
    """Every option of the loss `name` at its default; {} for a dotted path.

    Raises:
      UserError: unknown name.
    """
    if ":" in name:
        return {}
    if name not in _ELEMENTWISE:
        raise UserError(f"unknown loss {name!r}" + names.suggest(name, _ELEMENTWISE))
    own = list(inspect.signature(_ELEMENTWISE[name]).parameters.values())[2:]
    return {**{p.name: p.default for p in own}, "ce_weight": 1.0, "dice_weight": 0.0}


def parse_weights(option: str, text: str) -> float | tuple[float, ...]:
    """'2.5' or '1,2.5,3', as a flag gives them, in numbers.

    Raises:
      UserError: neither of them ('balanced' is worked out before, from the training films).
    """
    try:
        numbers = tuple(float(part) for part in text.strip("()[] ").rstrip(",").split(","))
        if min(numbers) >= 0 and max(numbers) < np.inf:
            return numbers if "," in text else numbers[0]
    except ValueError:
        pass
    raise UserError(
        f"config.loss.{option} = {text!r}: give a number of 0 or more, one for each label as in "
        "'1,2.5,3', or 'balanced'" + names.suggest(text, ["balanced"])
    )


def make(name: str, task: str, **options: Any) -> LossFn:
    """The loss that `name` stands for, as (outputs, batch) -> (loss f32[B] per film, logs).

    Args:
      name: 'bce', 'asl', 'focal' (task 'multilabel'), 'softmax_ce' (task 'multiclass'), or the
        dotted path of a function of the user's, 'my_lab.losses:make', which is called as
        make(task=task, **options) and returns such a function itself.
      task: 'multilabel' or 'multiclass'.
      **options: the named arguments of the function of that name (lists of numbers for weights
        per label; text is taken apart by `parse_weights`), and
          ce_weight: weight of the classification loss (report A's l1), 1 by default;
          dice_weight: weight of the Dice loss of `mask_logits` (report A's l2), 0 by default.
            Networks without a decoder have no such outputs and train on the classification alone.

    The loss of a film is the mean over its known labels (the softmax loss has one value). For
    networks that are trained through several heads (`head_logits`) it is the mean over the heads,
    so that it weighs as one label loss beside a KL or Dice loss.

    Raises:
      UserError: unknown name or option, text that is no number, a loss that does not fit the task,
        or Dice wanted on films of a data set without masks.
    """
    if ":" in name:
        return names.resolve_path(name)(task=task, **options)
    if name not in _ELEMENTWISE:
        raise UserError(f"unknown loss {name!r}" + names.suggest(name, _ELEMENTWISE))
    wanted = "multiclass" if name == "softmax_ce" else "multilabel"
    if task != wanted:
        fitting = [n for n in _ELEMENTWISE if (n == "softmax_ce") == (task == "multiclass")]
        raise UserError(
            f"loss {name!r} is for {wanted} labels and the data set is {task}: "
            f"use {' or '.join(fitting)}"
        )
    function = _ELEMENTWISE[name]
    weights = {
        "class": float(options.pop("ce_weight", 1.0)),
        "dice": float(options.pop("dice_weight", 0.0)),
    }
    known_options = list(inspect.signature(function).parameters)[2:]
    for option, value in options.items():
        if option not in known_options:
            known_names = [*known_options, "ce_weight", "dice_weight"]
            raise UserError(
                f"unknown option {option!r} of loss {name!r}" + names.suggest(option, known_names)
            )
        if isinstance(value, str):
            value = options[option] = parse_weights(option, value)
        if isinstance(value, list | tuple | np.ndarray):
            options[option] = jnp.asarray(value, jnp.float32)

    def film_loss(logits: Array, label: Array) -> Array:
        for option, value in options.items():
            if isinstance(value, jax.Array) and value.shape != label.shape[-1:]:
                raise UserError(
                    f"{option} of loss {name!r} has {value.size} numbers and the data set "
                    f"{label.shape[-1]} labels"
                )
        loss = function(logits, label, **options)
        return loss if loss.ndim == 1 else masked_mean(loss, ~jnp.isnan(label), axis=-1)

    def tasks(outputs: Mapping, batch: Mapping) -> TaskLosses:
        if "head_logits" in outputs:
            heads = [film_loss(z, batch["label"]) for z in outputs["head_logits"]]
            losses = {"class": sum(heads) / len(heads)}
        else:
            losses = {"class": film_loss(outputs["logits"], batch["label"])}
        if weights["dice"] and "mask_logits" in outputs:
            if "mask" not in batch:
                raise UserError(
                    f"dice_weight is {weights['dice']} but the data set has no masks: "
                    "set dice_weight=0, or choose a network without a decoder"
                )
            probabilities = jax.nn.sigmoid(outputs["mask_logits"])
            dice = dice_loss(probabilities, batch["mask"], batch["has_mask"])
            losses["dice"] = jnp.mean(dice, axis=-1)
        return losses

    return Loss(tasks, weights)


def _known(labels: Array) -> tuple[Array, Array]:
    """Where labels are known, and the labels with 0 in place of NaN.

    Masking the result alone is not enough: the gradient of the branch not taken would be
    0 * NaN = NaN, so the NaN must not enter the formula either.
    """
    known = ~jnp.isnan(labels)
    return known, jnp.where(known, labels, 0.0)


def _power(x: Array, exponent: Number) -> Array:
    """x ** exponent for x >= 0 with gradient 0, not infinity, at x = 0 for exponents below 1."""
    if exponent == 0:
        return jnp.ones_like(x)
    if exponent >= 1:
        return x ** (int(exponent) if float(exponent).is_integer() else exponent)
    return jnp.where(x > 0, jnp.where(x > 0, x, 1.0) ** exponent, 0.0)
