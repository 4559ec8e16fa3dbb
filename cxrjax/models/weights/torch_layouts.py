"""Our variables and torch's names: every family's own reference layout, and back into it.

ResNet, DenseNet and ConvNeXt are torchvision's, the transformers timm's, the Conformer its
authors'. The map of names is a chain of substitutions per family, from our path to torch's module
("encoder/stage1/block2/conv1" -> "layer1.1.conv1"): it holds for any width, depth, input and head.
What other libraries call the same tensors is said in the files beside this one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from cxrjax import names
from cxrjax.errors import UserError

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

_TRANSFORMER: tuple[Rule, ...] = (
    (r"^encoder/patch_embed$", "patch_embed/proj"),
    (r"^encoder/block(\d+)", lambda m: f"blocks/{int(m[1]) - 1}"),
    (r"/attention", "/attn"),
    (r"/attn/project$", "/attn/proj"),
    (r"/mlp/expand$", "/mlp/fc1"),
    (r"/mlp/project$", "/mlp/fc2"),
    (r"^encoder/norm$", "norm"),
    (r"^encoder$", ""),
    (r"^head/norm$", "fc_norm"),
    (r"^head/logits$", "head"),
)

_RULES = {
    "resnet": _RESNET,
    "densenet": _DENSENET,
    "convnext": _CONVNEXT,
    "conformer": _CONFORMER,
    "vit": _TRANSFORMER,
    "dinov2": _TRANSFORMER,
    "eva_x": _TRANSFORMER,
}

# Networks that published weights fit, and the family whose names they have.
FAMILIES = {
    "resnet18": "resnet",
    "resnet34": "resnet",
    "resnet50": "resnet",
    "resnet101": "resnet",
    "densenet121": "densenet",
    "densenet169": "densenet",
    "convnext_tiny": "convnext",
    "convnext_small": "convnext",
    "convnext_base": "convnext",
    "conformer_tiny": "conformer",
    "conformer_small": "conformer",
    "vit_small": "vit",
    "vit_base": "vit",
    "dinov2_small": "dinov2",
    "dinov2_base": "dinov2",
    "eva_x_tiny": "eva_x",
    "eva_x_small": "eva_x",
    "eva_x_base": "eva_x",
}

_LEAVES = {
    "kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var",
    "layer_scale1": "ls1.gamma", "layer_scale2": "ls2.gamma", "qkv": "qkv.weight",
}
# Networks whose file has queries, keys and values, gate and value each for themselves.
_APART = ("eva_x_base",)


def family_of(name: str) -> str:
    """The family of the network `name`.

    Raises:
      UserError: no published weights are known for it.
    """
    if name not in FAMILIES:
        raise UserError(f"no torch weights are known for {name!r}" + names.suggest(name, FAMILIES))
    return FAMILIES[name]


def torch_name(name: str, path: str) -> str | None:
    """The torch module that our module at `path` ("encoder/stage1") stands for, None if no such.

    Raises:
      UserError: no network of that name has a map.
    """
    out = path
    for pattern, replacement in _RULES[family_of(name)]:
        out = re.sub(pattern, replacement, out)
    known = out != path and not out.startswith(("encoder/", "head/"))
    return out.replace("/", ".") if known else None


def leaf_name(name: str, key: tuple[str, ...]) -> str | None:
    """Torch's tensor for our leaf (collection, *modules, leaf); None for a part that is ours alone
    (a decoder, say)."""
    _, *modules, leaf = key
    if not modules or modules[0] not in ("encoder", "head"):
        return None
    module = torch_name(name, "/".join(modules))
    if module is None:
        raise UserError(f"{name!r} has no module {'/'.join(modules)!r}: are these its variables?")
    return ".".join(filter(None, (module, _LEAVES.get(leaf, leaf))))


def from_layout(array: np.ndarray, leaf: str) -> np.ndarray:
    """Torch's layout into ours: OIHW -> HWIO, [out, in] -> [in, out], [c, 1, 1] -> [c]."""
    if leaf == "kernel" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if leaf in ("kernel", "qkv") and array.ndim == 2:
        return array.T
    if leaf == "layer_scale" and array.ndim == 3:
        return array.reshape(-1)
    return array


def torch_shape(shape: tuple[int, ...], leaf: str) -> tuple[int, ...]:
    """Our shape in torch's layout."""
    if leaf in ("kernel", "qkv"):
        return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]
    return (*shape, 1, 1) if leaf == "layer_scale" else shape


def _to_layout(array: np.ndarray, leaf: str) -> np.ndarray:
    if leaf in ("kernel", "qkv"):
        return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return array.reshape(-1, 1, 1) if leaf == "layer_scale" else array


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The variables as torch's state dict, names, layouts and step counters (zero) included.

    Raises:
      UserError: no network of that name has a map.
    """
    out = {}
    for key, ours in traverse_util.flatten_dict(dict(variables)).items():
        theirs = leaf_name(name, key)
        if theirs is None:
            continue
        # Contiguous: safetensors writes an array's memory as it lies.
        out[theirs] = np.ascontiguousarray(_to_layout(np.asarray(ours), key[-1]))
        if key[-1] == "var":
            counter = theirs.removesuffix("running_var") + "num_batches_tracked"
            out[counter] = np.zeros((), np.int64)
    return _apart(out) if name in _APART else out


def _apart(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = {}
    for key, value in state.items():
        before, _, leaf = key.rpartition(".")
        if before.endswith("attn.qkv"):
            block = before.removesuffix("qkv")
            for part, array in zip("qkv", np.split(value, 3)):
                out[f"{block}{part}_proj.{leaf}"] = np.ascontiguousarray(array)
        elif leaf in ("q_bias", "v_bias"):
            out[f"{before}.{leaf[0]}_proj.bias"] = value
        elif before.endswith("mlp.fc1"):
            for part, array in zip("gx", np.split(value, 2)):
                out[f"{before}_{part}.{leaf}"] = np.ascontiguousarray(array)
        else:
            out[key] = value
    return out
