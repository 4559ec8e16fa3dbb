"""The pieces that every scheme's step is made of, and the compiled loop over steps.

A scheme (`cxrjax/training/schemes/<name>.py`) is four functions:

    make_models(config) -> {network name: module}       the structure, from the config alone
    init(config, rng, batch) -> states                  {network name: TrainState}
    make_step(config) -> (states, batch, rng) -> (states, logs)
    make_predict(config) -> (states, image) -> {name: outputs}

and, where a scheme wants to know something of the films or of another run before it starts,

    complete(config, films) -> fields to add to the config     (nested dictionaries)

    FOUND: those of the added fields that a run which goes on takes from its own config.json, so
    that no other run has to be there any more                 (dotted names)

    prepare(config, films, states, mesh) -> films              (what is done with them once)

    FIELDS, EXAMPLE: the fields of `config.scheme` that it cannot do without, and a config file that
    has them                                                   (for the message where they lack)

so that the checkpoint, which holds the config, is all that evaluation needs. `config` is the
completed config (`experiment.complete`): beside what the user wrote it carries labels, task, masks,
steps_per_epoch and total_steps. The random key of step i is fold_in(rng, i), so that a resumed run
is the same run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from cxrjax import models
from cxrjax.data import augment
from cxrjax.errors import UserError
from cxrjax.training import finetune, losses, warm_start
from cxrjax.training.optim import make_optimizer
from cxrjax.training.state import EvalState, TrainState, averaged

Batch = Mapping[str, Any]
Outputs = Mapping[str, Any]
States = Any
LossFn = Callable[[Outputs, Batch], tuple[Array, dict[str, Array]]]


def make_model(config: Any, model_options: Mapping[str, Any]) -> nn.Module:
    """The network of `model_options` (name and options) for the completed config's labels.

    A network with a decoder is made for as many structures as the films have masks of.
    """
    options = dict(model_options)
    name = options.pop("name")
    if "num_masks" in models.defaults_of(name) and not options.get("num_masks"):
        options["num_masks"] = len(config.masks)
    return models.create(name, len(config.labels), **options)


def create_state(
    config: Any,
    rng: Array,
    batch: Batch,
    model_options: Any = None,
    optimizer_options: Any = None,
    name: str = "",
) -> TrainState:
    """A freshly initialised network with its optimizer.

    Args:
      config: the completed config.
      rng: key of the initial weights.
      batch: gives the films' size and channels; its values are not used.
      model_options: name and options of the network; default `config.model`.
      optimizer_options: see `optim.make_optimizer`; default `config.optimizer`.
      name: of the state in its scheme, by which `config.init_from` is searched; default the
        network's own.
    """
    model_options = dict(model_options or config.model)
    model = make_model(config, model_options)
    optimizer_options = dict(optimizer_options or config.optimizer)
    image = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
    init = functools.partial(model.init, train=False), ({"params": rng}, image)
    if config.init_from:
        # Of a network around an encoder (resunet) the encoder is what others have weights for.
        model_name = model_options.get("encoder", model_options["name"])
        name = name or model_options["name"].rpartition(":")[2]
        variables = warm_start.begin(config.init_from, model_name, config.labels, *init, name)
    else:
        variables = jax.jit(init[0])(*init[1])
    tx, _ = make_optimizer(
        optimizer_options,
        dict(config.schedule),
        config.total_steps,
        config.steps_per_epoch,
    )
    decay = float(optimizer_options["ema_decay"])
    params = variables["params"]
    freeze = finetune.patterns(optimizer_options.get("freeze") or "")
    finetune.check_freeze(params, freeze)
    state = TrainState.create(
        apply_fn=model.apply,
        params=params,
        tx=tx,
        batch_stats=variables.get("batch_stats", {}),
        # A copy: two leaves that share one buffer cannot both be donated.
        ema_params=jax.tree.map(jnp.copy, params) if decay else None,
        ema_decay=decay,
        freeze=freeze,
    )
    average = averaged(state.opt_state, params)
    if average is not None:
        for option, off in (("ema_decay", (0.0,)), ("layer_decay", (0.0, 1.0))):
            if optimizer_options.get(option, 0.0) not in off:
                raise UserError(
                    f"config.optimizer.{option} = {optimizer_options[option]} beside "
                    f"{optimizer_options['name']}, which averages the weights itself: set it to 0"
                )
        state = state.replace(ema_params=average)
    return state.replace(step=jnp.asarray(0, jnp.int32))


def fresh_states(models: Mapping[str, nn.Module], config: Any, rng: Array) -> dict[str, EvalState]:
    """The networks with random weights, ready to predict; a single one is initialised from `rng`.

    Args:
      models: from a scheme's `make_models`.
      config: completed, for the size of the films.
      rng: key; of several networks each has its own, folded from it.
    """
    image = jnp.zeros((1, *config.image_shape), jnp.float32)
    states = {}
    for number, (name, model) in enumerate(models.items()):
        key = rng if len(models) == 1 else jax.random.fold_in(rng, number)
        variables = jax.jit(functools.partial(model.init, train=False))({"params": key}, image)
        states[name] = EvalState(variables["params"], variables.get("batch_stats", {}))
    return states


def to_unit(image: UInt8[Array, "b h w c"] | Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Stored films as float32 in [0, 1]: 8-bit ones are divided by 255, float ones taken as is."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0
    return image.astype(jnp.float32)


def standardize(config: Any, image: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Films in [0, 1] as the network sees them: (x - mean) / std of the config."""
    return (image - config.normalize.mean) / config.normalize.std


def augment_batch(config: Any, rng: Array, batch: Batch) -> dict[str, Array]:
    """The batch augmented, its films in [0, 1]; film and mask move together."""
    mask = batch["mask"].astype(jnp.float32) if "mask" in batch else None
    image, mask = augment.augment(rng, to_unit(batch["image"]), mask, dict(config.augment))
    out = {**batch, "image": image}
    if mask is not None:
        out["mask"] = mask
    return out


def prepare_train(config: Any, rng: Array, batch: Batch) -> dict[str, Array]:
    """The batch as the networks see it in training: augmented and standardised.

    Every scheme calls this once per step, so that all its networks see the same films (Zhang et
    al., CVPR 2018).
    """
    out = augment_batch(config, rng, batch)
    return {**out, "image": standardize(config, out["image"])}


def prepare_eval(config: Any, image: Array) -> Float[Array, "b h w c"]:
    """Films as the networks see them in evaluation: standardised, not augmented."""
    return standardize(config, to_unit(image))


def forward_train(
    state: TrainState, params: Any, image: Float[Array, "b h w c"], rng: Array
) -> tuple[dict[str, Array], Any]:
    """Outputs in training mode with the weights `params`, and the new batch statistics."""
    outputs, updates = state.apply_fn(
        {"params": params, "batch_stats": state.batch_stats},
        image,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": rng},
    )
    return outputs, updates.get("batch_stats", state.batch_stats)


def forward_eval(
    model: nn.Module, state: TrainState | EvalState, image: Float[Array, "b h w c"]
) -> dict[str, Array]:
    """Outputs in evaluation mode, with the EMA of the weights where the state keeps one."""
    params = state.params if state.ema_params is None else state.ema_params
    return model.apply({"params": params, "batch_stats": state.batch_stats}, image, train=False)


def keys_of(seed: int) -> tuple[Array, Array]:
    """The two keys that all randomness of a training with this seed follows from.

    Returns:
      (of the initial weights, of the steps).
    """
    init_key, steps_key = jax.random.split(jax.random.key(seed))
    return init_key, steps_key


def step_key(rng: Array, step: Array) -> Array:
    """The random key of step i: fold_in(rng, i)."""
    return jax.random.fold_in(rng, step)


def make_loss(config: Any) -> LossFn:
    """The LossFn that `config.loss` names, for the completed config's task."""
    options = {k: v for k, v in dict(config.loss).items() if v != ""}  # "" is None in a config
    return losses.make(options.pop("name"), config.task, **options)


def update(
    state: TrainState,
    batch: Batch,
    rng: Array,
    loss_fn: LossFn,
) -> tuple[TrainState, dict[str, Array]]:
    """One gradient step of one network on a prepared batch.

    Args:
      state: the network.
      batch: from `prepare_train`.
      rng: key for dropout and stochastic depth.
      loss_fn: (outputs, batch) -> (loss f32[B] per film, logs).

    Returns:
      The new state, and logs with `loss` and `grad_norm` added.
    """

    def objective(params):
        outputs, batch_stats = forward_train(state, params, batch["image"], rng)
        film_losses, logs = loss_fn(outputs, batch)
        return losses.batch_mean(film_losses, batch["weight"]), (logs, batch_stats)

    (loss, (logs, batch_stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    grads = finetune.without(grads, state.freeze)  # what nobody asks for is not computed
    state = state.apply_gradients(grads=grads, batch_stats=batch_stats)
    return state, {**logs, "loss": loss, "grad_norm": optax.global_norm(grads)}


def scan_steps(step: Callable, unroll: bool | None = None) -> Callable:
    """T steps in one compiled call: (states, batches[T, ...], rng) -> (states, logs[T]).

    On the CPU the steps are written out one after the other, because a convolution's gradient
    inside `lax.scan` runs many times slower there than outside it (even with `unroll=True`);
    elsewhere the loop stays rolled, so that it compiles once.

    Args:
      step: (states, batch, rng) -> (states, logs).
      unroll: None chooses by platform.
    """
    if unroll is None:
        unroll = jax.default_backend() == "cpu"

    def rolled(states, batches, rng):
        return jax.lax.scan(lambda s, b: step(s, b, rng), states, batches)

    def written_out(states, batches, rng):
        logs = []
        for i in range(jax.tree.leaves(batches)[0].shape[0]):
            states, log = step(states, jax.tree.map(lambda x, i=i: x[i], batches), rng)
            logs.append(log)
        return states, jax.tree.map(lambda *x: jnp.stack(x), *logs)

    return written_out if unroll else rolled


def make_mesh(devices: list | None = None) -> jax.sharding.Mesh:
    """A one-dimensional mesh, axis 'data', over all devices (or the given ones)."""
    # Each process's devices side by side, so that its share of a batch is one piece of it.
    devices = devices or sorted(jax.devices(), key=lambda device: device.process_index)
    return jax.sharding.Mesh(
        np.asarray(devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )


def check_batch_size(batch_size: int, devices: int, field: str = "batch_size") -> None:
    """Raises UserError where `batch_size` does not divide among the devices."""
    if batch_size < 1 or batch_size % devices:
        raise UserError(
            f"config.{field} = {batch_size} is not divisible by the {devices} devices; "
            f"use {max(devices, round(batch_size / devices) * devices)}"
        )


def shard(batch: Mapping[str, Any], mesh: jax.sharding.Mesh, axis: int = 0) -> dict[str, Array]:
    """This process's part of a batch as global arrays, split along `axis` over the mesh."""
    sharding = NamedSharding(mesh, P(*([None] * axis), "data"))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def shard_whole(array: np.ndarray, mesh: jax.sharding.Mesh) -> Array:
    """An array that every process holds whole, split along its first axis over the mesh.

    What the devices do not divide is filled up with copies of the first film.
    """
    if missing := -len(array) % mesh.size:
        array = np.concatenate([array, np.repeat(array[:1], missing, axis=0)])
    sharding = NamedSharding(mesh, P("data"))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes of arrays as those of arrays that every device of the mesh has whole."""
    whole = NamedSharding(mesh, P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes)


def replicate(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Copies of all arrays on every device of the mesh; every process must hold the same ones."""
    whole = NamedSharding(mesh, P())
    if jax.process_count() == 1:
        return jax.device_put(tree, whole)

    def placed(x):
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x  # it is there already
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, whole, lambda index: x[index])

    return jax.tree.map(placed, tree)


def jit_steps(step: Callable, mesh: jax.sharding.Mesh, unroll: bool | None = None) -> Callable:
    """`scan_steps` compiled for the mesh: states replicated and donated, batches split over films.

    Gradients and batch statistics are those of the whole batch, whatever the number of devices.
    """
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "data"))
    return jax.jit(
        scan_steps(step, unroll),
        in_shardings=(whole, split, whole),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def jit_predict(
    predict: Callable, mesh: jax.sharding.Mesh, keep: Iterable[str] = ("logits",)
) -> Callable:
    """(states, image) -> {name: {key: array}} compiled for the mesh.

    Only the outputs named in `keep` are computed: XLA drops a decoder whose mask nobody asks for.
    """
    keep = tuple(keep)
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))

    def run(states, image):
        outputs = predict(states, image)
        return {n: {k: o[k] for k in keep if k in o} for n, o in outputs.items()}

    return jax.jit(run, in_shardings=(whole, split), out_shardings=whole)


def ask(
    predict: Callable, states: States, image: np.ndarray, mesh: jax.sharding.Mesh
) -> dict[str, dict[str, np.ndarray]]:
    """{name: {key: [B, ...]}} on the host, of image [B, H, W, C]; any B, any number of devices.

    `predict` is `jit_predict`'s, states `replicate`'s; each process gives the same image."""
    found = predict(states, shard_whole(image, mesh))
    return {n: {k: np.asarray(v)[: len(image)] for k, v in o.items()} for n, o in found.items()}


def answers_of(predict: Callable, states: Any, config: Any) -> list[str]:
    """Names of the answers to all labels, the merged one of several networks first.

    Args:
      predict: of a scheme.
      states: of its networks.
      config: completed.
    """
    image = jax.ShapeDtypeStruct((1, *config.image_shape), np.uint8)
    shapes = jax.eval_shape(predict, states, image)
    known = [n for n, out in shapes.items() if out["logits"].shape[-1] == len(config.labels)]
    return [n for n in known if n not in states] + [n for n in known if n in states]


def with_mirror(predict: Callable) -> Callable:
    """`predict` averaged over each film and its mirror image (test-time augmentation).

    The mean is of logits; masks of the mirror image are mirrored back. Other outputs are those of
    the film itself.
    """

    def both(states, image):
        outputs, mirror = predict(states, image), predict(states, image[:, :, ::-1])
        for name, out in outputs.items():
            out = dict(out)
            out["logits"] = (out["logits"] + mirror[name]["logits"]) / 2
            if "mask_logits" in out:
                out["mask_logits"] = (
                    out["mask_logits"] + mirror[name]["mask_logits"][:, :, ::-1]
                ) / 2
            outputs = {**outputs, name: out}
        return outputs

    return both


def predict_all(
    predict: Callable,
    states: States,
    batches: Iterator[tuple[Mapping[str, np.ndarray], list[str]]],
    mesh: jax.sharding.Mesh,
    reduce: Callable | None = None,
) -> tuple[list[str], dict[str, dict[str, np.ndarray]]]:
    """Predictions for every film, padding removed.

    Args:
      predict: from `jit_predict`.
      states: what it takes.
      batches: pairs of a padded host batch (image, weight, ...) and the ids of its real films.
      mesh: where it runs.
      reduce: (batch, {key: [B, ...]}) -> {key: [B, ...]} for what is too large to keep of every
        film; called on the host for each network and batch, padding removed.

    Returns:
      The ids in order, and {name: {key: [N, ...]}}.
    """
    ids: list[str] = []
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    states = replicate(states, mesh)
    for batch, batch_ids in batches:
        real = np.asarray(batch["weight"]) > 0
        for name, out in ask(predict, states, batch["image"], mesh).items():
            kept = {key: value[real] for key, value in out.items()}
            if reduce is not None:
                kept = reduce({key: np.asarray(value)[real] for key, value in batch.items()}, kept)
            for key, value in kept.items():
                parts.setdefault(name, {}).setdefault(key, []).append(value)
        ids.extend(batch_ids)
    joined = {n: {k: np.concatenate(v) for k, v in out.items()} for n, out in parts.items()}
    return ids, joined
