"""Weights in torch's layout into Flax variables and back, loudly.

The map of names is a chain of substitutions per family, from our path to torch's module
("encoder/stage1/block2/conv1" -> "layer1.1.conv1"): it holds for any width, depth, input and head.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cxrjax import names
from cxrjax.errors import UserError
from cxrjax.models.weights.files import as_float32, unwrap

log = logging.getLogger(__name__)

# (pattern in our path, what torch has in its place)
Rule = tuple[str, str | Callable[[re.Match], str]]

_RESNET: tuple[Rule, ...] = (
    (r"^encoder/stem/conv$", "conv1"),
    (r"^encoder/stem/norm$", "bn1"),
    (r"^encoder/stage(\d+)", r"layer\1"),
    (r"/block(\d+)", lambda m: f"/{int(m[1]) - 1}"),
    (r"/norm(\d)$", r"/bn\1"),
    (r"/shortcut_conv$", "/downsample/0"),
    (r"/shortcut_norm$", "/downsample/1"),
    (r"^head/logits$", "fc"),
)

_DENSENET: tuple[Rule, ...] = (
    (r"^encoder/stem/(conv|norm)$", r"features/\g<1>0"),
    (r"^encoder/stage(\d+)", r"features/denseblock\1"),
    (r"/layer(\d+)", r"/denselayer\1"),
    (r"^encoder/transition", "features/transition"),
    (r"^encoder/norm$", "features/norm5"),
    (r"^head/logits$", "classifier"),
)

_CONVNEXT: tuple[Rule, ...] = (
    (r"^encoder/stem/conv$", "features/0/0"),
    (r"^encoder/stem/norm$", "features/0/1"),
    (r"^encoder/stage(\d+)", lambda m: f"features/{2 * int(m[1]) - 1}"),
    (r"^encoder/downsample(\d+)", lambda m: f"features/{2 * int(m[1]) - 2}"),
    (r"^(features/\d*[02468])/norm$", r"\1/0"),
    (r"^(features/\d*[02468])/conv$", r"\1/1"),
    (r"/block(\d+)", lambda m: f"/{int(m[1]) - 1}"),
    (r"/depthwise$", "/block/0"),
    (r"(\d)/norm$", r"\1/block/2"),
    (r"/expand$", "/block/3"),
    (r"/project$", "/block/5"),
    (r"^head/norm$", "classifier/0"),
    (r"^head/logits$", "classifier/2"),
)

_CONFORMER: tuple[Rule, ...] = (
    (r"^encoder/stem/conv$", "conv1"),
    (r"^encoder/stem/norm$", "bn1"),
    (r"^encoder/conv_block1", "conv_1"),
    (r"^encoder/trans_block1", "trans_1"),
    (r"^encoder/patch_embed$", "trans_patch_conv"),
    (r"^encoder/block(\d+)", r"conv_trans_\1"),
    (r"/conv_block", "/cnn_block"),
    (r"/down/conv$", "/squeeze_block/conv_project"),
    (r"/down/norm$", "/squeeze_block/ln"),
    (r"/up/conv$", "/expand_block/conv_project"),
    (r"/up/norm$", "/expand_block/bn"),
    (r"^(conv_1|.*/(?:cnn|fusion)_block)/norm(\d)$", r"\1/bn\2"),
    (r"/shortcut_conv$", "/residual_conv"),
    (r"/shortcut_norm$", "/residual_bn"),
    (r"/attention/qkv$", "/attn/qkv"),
    (r"/attention/project$", "/attn/proj"),
    (r"/mlp/expand$", "/mlp/fc1"),
    (r"/mlp/project$", "/mlp/fc2"),
    (r"^encoder$", ""),
    (r"^head/norm$", "trans_norm"),
    (r"^head/conv_logits$", "conv_cls_head"),
    (r"^head/trans_logits$", "trans_cls_head"),
)

_RULES = {
    "resnet18": _RESNET,
    "resnet50": _RESNET,
    "densenet121": _DENSENET,
    "densenet169": _DENSENET,
    "convnext_tiny": _CONVNEXT,
    "conformer_tiny": _CONFORMER,
    "conformer_small": _CONFORMER,
}

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def torch_name(name: str, path: str) -> str | None:
    """The torch module that our module at `path` ("encoder/stage1") stands for, None if no such.

    Raises:
      UserError: no network of that name has a map.
    """
    if name not in _RULES:
        raise UserError(f"no torch weights are known for {name!r}" + names.suggest(name, _RULES))
    out = path
    for pattern, replacement in _RULES[name]:
        out = re.sub(pattern, replacement, out)
    return None if out.split("/")[0] in ("encoder", "head") else out.replace("/", ".")


def _leaf_name(name: str, key: tuple[str, ...]) -> str | None:
    """Torch's tensor for our leaf (collection, *modules, leaf); None for a part that is ours alone
    (a decoder, say)."""
    _, *modules, leaf = key
    if not modules or modules[0] not in ("encoder", "head"):
        return None
    module = torch_name(name, "/".join(modules))
    if module is None:
        raise UserError(f"{name!r} has no module {'/'.join(modules)!r}: are these its variables?")
    return ".".join(filter(None, (module, _LEAVES.get(leaf, leaf))))


def _from_layout(array: np.ndarray, leaf: str) -> np.ndarray:
    """Torch's layout into ours: OIHW -> HWIO, [out, in] -> [in, out], [c, 1, 1] -> [c]."""
    if leaf == "kernel" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if leaf == "kernel" and array.ndim == 2:
        return array.T
    if leaf == "layer_scale" and array.ndim == 3:
        return array.reshape(-1)
    return array


def _to_layout(array: np.ndarray, leaf: str) -> np.ndarray:
    if leaf == "kernel":
        return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return array.reshape(-1, 1, 1) if leaf == "layer_scale" else array


def _plain(name: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Without the prefixes of wrappers, in today's names, without step counters."""
    out = dict(unwrap(state_dict))
    prefixes = ("module.", "_orig_mod.", "model.", f"{name}.")
    while out and (shared := [p for p in prefixes if all(k.startswith(p) for k in out)]):
        out = {k.removeprefix(shared[0]): v for k, v in out.items()}
    if _RULES[name] is _DENSENET:
        old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
        out = {old.sub(r"\1\2.", k): v for k, v in out.items()}
        # CheXNet's re-implementations put the linear layer into a Sequential with the sigmoid.
        out = {re.sub(r"^classifier\.0\.", "classifier.", k): v for k, v in out.items()}
    return {k: v for k, v in out.items() if not k.endswith("num_batches_tracked")}


def _is_other_head(key: tuple[str, ...], got: np.ndarray, want: tuple[int, ...]) -> bool:
    """Whether a tensor of a linear head differs in the number of classes alone."""
    return key[1] == "head" and key[-2].endswith("logits") and got.shape[:-1] == want[:-1]


def _is_other_stem(key: tuple[str, ...], got: np.ndarray, want: tuple[int, ...]) -> bool:
    """Whether ours is a small (3x3) stem and torch's is the usual, larger one."""
    return (
        key[1:] == ("encoder", "stem", "conv", "kernel")
        and want[:2] == (3, 3)
        and got.ndim == 4
        and got.shape[:2] in ((7, 7), (4, 4))
        and got.shape[3] == want[3]
        and got.shape[2] in (1, 3)
    )


def from_torch(
    name: str, state_dict: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Flax variables with the weights of a torch network of the same architecture.

    Takes torchvision's names (and the Conformer reference's), DenseNet's old ones
    ("denselayer1.norm.1"), a prefix on all names ("module."), and dicts that wrap the tensors
    ("state_dict", "model"). What has no place is never passed over in silence:

    - A head with another number of classes, the 3x3 stem of `small_stem=True`, and parts that no
      torch network has (a decoder) stay as initialised; a warning says so.
    - Weights for 3 channels enter a network of 1 by the sum over channels: a gray film gives what
      its three-fold copy gave.

    Args:
      name: the network's name, as for `models.create`.
      state_dict: torch names to arrays (numpy's or torch's, float of any width).
      variables: the initialised variables {params, batch_stats}; not changed.

    Raises:
      UserError: tensors missing, left over, of the wrong shape or not finite: all in one message.
    """
    if name not in _RULES:
        torch_name(name, "")
    given = _plain(name, state_dict)
    out, kept, missing, wrong = {}, [], [], []
    used = set()
    for key, ours in traverse_util.flatten_dict(dict(variables)).items():
        out[key] = ours
        theirs = _leaf_name(name, key)
        if theirs is None:
            kept.append("/".join(key[1:]))
            continue
        if theirs not in given:
            missing.append(theirs)
            continue
        used.add(theirs)
        array = _from_layout(as_float32(given[theirs]), key[-1])
        shape = tuple(ours.shape)
        is_stem = key[1:] == ("encoder", "stem", "conv", "kernel")
        if is_stem and array.ndim == 4 and (array.shape[2], shape[2]) == (3, 1):
            array = array.sum(2, keepdims=True)
        if array.shape == shape:
            if not np.isfinite(array).all():
                wrong.append(f"{theirs} (not finite)")
            out[key] = jnp.array(array)
        elif _is_other_head(key, array, shape) or _is_other_stem(key, array, shape):
            kept.append("/".join(key[1:]))
        else:
            wrong.append(f"{theirs} ({array.shape} in our layout, not {shape})")
    left = sorted(set(given) - used)
    faults = [("missing", missing), ("left over", left), ("wrong", wrong)]
    if any(found for _, found in faults):
        raise UserError(
            f"these weights do not fit {name!r}: "
            + "; ".join(f"{what}: {', '.join(found)}" for what, found in faults if found)
        )
    if kept:
        log.warning("left as initialised, the weights have nothing for them: %s", ", ".join(kept))
    return traverse_util.unflatten_dict(out)


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The variables as torch's state dict, names, layouts and step counters (zero) included.

    Raises:
      UserError: no network of that name has a map.
    """
    out = {}
    for key, ours in traverse_util.flatten_dict(dict(variables)).items():
        theirs = _leaf_name(name, key)
        if theirs is None:
            continue
        # Contiguous: safetensors writes an array's memory as it lies.
        out[theirs] = np.ascontiguousarray(_to_layout(np.asarray(ours), key[-1]))
        if key[-1] == "var":
            counter = theirs.removesuffix("running_var") + "num_batches_tracked"
            out[counter] = np.zeros((), np.int64)
    return out
