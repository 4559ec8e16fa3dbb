"""The same network on the same batch in PyTorch: made equal, proved equal, then timed by others.

torch is imported only inside the functions that were asked for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cxrjax import models
from cxrjax.data import augment, sets
from cxrjax.data.parallel import cores
from cxrjax.errors import UserError
from cxrjax.models import weights
from cxrjax.names import suggest
from cxrjax.training import losses, steps

EQUAL = 1e-4  # of the largest logit


def equalise(config: ConfigDict) -> list[str]:
    """Takes out of the config what the PyTorch side does not do; returns what was changed.

    Raises:
      UserError: a scheme of several networks, or a network that PyTorch's side lacks.
    """
    from cxrjax.benchmarks import torch_reference

    if config.scheme.name != "supervised":
        raise UserError("--against=torch compares supervised training; leave it out for this "
                        f"config ({config.scheme.name}): its cost in single steps is measured")
    name = config.model.name
    if name not in torch_reference.NETWORKS:
        known = suggest(name, torch_reference.NETWORKS)
        raise UserError(f"--against=torch has no {name!r}{known}")
    made_for, size = config.model.get("image_size", 0), config.dataset.image_size
    if made_for not in (0, size):
        raise UserError(f"--against=torch: config.model.image_size={made_for} would resample the "
                        f"position embeddings for films of {size}, PyTorch's side does not")
    changed = []
    loss = "bce" if sets.head(config.dataset.to_dict())[1] == "multilabel" else "softmax_ce"
    plain = {"name": loss, **losses.defaults_of(loss)}
    given = {k: None if v == "" else v for k, v in config.loss.items()}
    if {**plain, **given} != plain:
        changed.append(f"loss: plain {loss}")
    config.loss = ConfigDict({k: "" if v is None else v for k, v in plain.items()})
    for path, off in [("augment", augment.DEFAULTS), ("model", {"drop_path": 0.0, "dropout": 0.0}),
                      ("optimizer", {"name": "adamw", "accumulate": 1, "ema_decay": 0.0})]:
        for key, value in off.items():
            if config[path].get(key, value) != value:
                config[path][key] = value
                changed.append(f"{path}.{key}={value}")
    return changed


def contestants(
    config: FrozenConfigDict, batch: Mapping[str, np.ndarray],
    variables: Mapping[str, Any], gpu: bool,
) -> tuple[float, dict[str, Any]]:
    """(largest difference of the logits relative to the largest, the PyTorch sides by name).

    Raises:
      UserError: the two sides do not give the same logits.
    """
    import torch

    from cxrjax.benchmarks import torch_reference, torch_side

    if gpu and not torch.cuda.is_available():
        raise UserError("--against=torch: this torch sees no GPU; install one that does")
    name, options = config.model.name, {k: v for k, v in config.model.items() if k != "name"}
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in
               weights.to_torch(name, variables).items()}

    def network():
        _, size, _, channels = batch["image"].shape
        made = torch_reference.create(name, len(config.labels), channels, size, **options)
        made.load_state_dict(tensors, strict=True)
        return made

    image = np.asarray(steps.prepare_eval(config, jnp.asarray(batch["image"][:2]))).copy()
    model = models.create(name, len(config.labels), **{**options, "dtype": "float32"})
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda v, x: model.apply(v, x, train=False)["logits"])(variables, image)
    with torch.inference_mode():
        heads = network().eval()(torch.from_numpy(image).permute(0, 3, 1, 2))
        theirs = (sum(heads) / len(heads)).numpy()
    difference = float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
    if not difference <= EQUAL:
        raise UserError(f"{name}: the two sides' logits differ by {difference:.1e} of the largest: "
                        "nothing to compare")
    bfloat16 = options.get("dtype") == "bfloat16"
    variants = {"eager": (False, False), "eager, channels_last": (True, False)}
    if gpu:
        variants = {"eager": (False, False), "compiled, channels_last": (True, True)}
    normalize = (config.normalize.mean, config.normalize.std)
    sides = {
        what: torch_side.Side(
            network(), batch["image"], batch["label"], config.task, normalize,
            dict(config.optimizer), bfloat16, channels_last, compiled,
        )
        for what, (channels_last, compiled) in variants.items()
    }
    set_torch_threads(sides["eager"].infer)
    return difference, sides


def set_torch_threads(run: Callable[[int], Any]) -> None:
    """As many threads for PyTorch as it is fastest with: every core, or one.

    Its threads spin where they wait for each other. With another program on the cores that can
    make two of them a hundred times slower than one, which would be no comparison.
    """
    import torch

    seconds = {}
    for count in sorted({1, cores()}):
        torch.set_num_threads(count)
        run(1)
        begun = time.perf_counter()
        run(2)
        seconds[count] = time.perf_counter() - begun
    torch.set_num_threads(min(seconds, key=seconds.get))


def check_first_step(
    own: Mapping[str, float], sides: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """Loss and gradient norm of every side's first training step.

    Raises:
      UserError: they are not the same up to rounding.
    """
    found = {"ours": (own["loss"], own["grad_norm"])}
    found |= {what: side.train(1) for what, side in sides.items()}
    allowed = (1e-3, 1e-2) if precision == "float32" else (0.05, 0.3)
    for values in found.values():
        for mine, other, limit in zip(found["ours"], values, allowed):
            if not abs(mine - other) <= limit * abs(mine):
                raise UserError(f"the first training steps differ: loss and gradient norm {found}")
    return {what: {"loss": v[0], "grad_norm": v[1]} for what, v in found.items()}
