"""What is in a state dict: which library's names, of which network, under which prefix.

Recognised from names and shapes alone. A dict may lie in others ({"epoch": 7, "model": {...}}), its
names may share any prefix, and it may hold more than the network.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cxrjax.models.weights import (
    eva_x,
    monai,
    smp,
    timm,
    torchvision,
    torchxrayvision,
    transformers,
)
from cxrjax.models.weights.files import is_tensor
from cxrjax.models.weights.layout import REFERENCE, Layout

# Of equal fits one that a mark speaks for, else the first.
LAYOUTS: tuple[Layout, ...] = (
    *torchvision.LAYOUTS, *timm.LAYOUTS, *torchxrayvision.LAYOUTS, *smp.LAYOUTS, *monai.LAYOUTS,
    *transformers.LAYOUTS, *eva_x.LAYOUTS,
)
# Words in names of what is no part of a network: losses, optimizers, other networks' copies,
# tables made anew, what pre-training was done with.
ASIDE = re.compile(
    r"(^|\.)(criterion|\w*loss(_\w+)?|pos_weight|class_weights?|op_threshs|optimizers?\w*|"
    r"(lr_)?schedulers?|teacher\w*|momentum_\w+|\w+_momentum|target_\w+|encoder_k|n_averaged|"
    r"rope\w*|rot_pos_embed|freqs\w*|mask_token|num_batches_tracked|position_ids|"
    r"relative_position_index|total_ops|total_params|decoder\w*|segmentation_head|aux\w*|"
    r"projector\w*|projection\w*|proj_head|predictor|prediction_head|dino_head|ibot_head|queue\w*|"
    r"\w*metrics?|\w*auroc\w*|\w*accuracy|f1\w*|confusion\w*|mean|std|(image|pixel)_(mean|std)|"
    r"normalize\w*|epoch|(global_)?step|logit_scale|text\w*|\w*ema|shadow\w*|pooler|lm_head|"
    r"contrastive\w*|prototypes?|temperature)(\.|$)"
)
_HEADS = re.compile(r"(^|_)(fc|heads?|classifiers?|cls|linear|logits|outputs?|out|final|dense)\d*$")
# Copies of a network: one that another one was taught by is the last choice, an average the first.
_OTHERS = re.compile(r"(^|[._])(teacher|momentum|encoder_k|target)")
_AVERAGED = re.compile(r"(^|[._])ema([._]|$)")
_DEEPEST = 4


class Found(NamedTuple):
    """How a file was understood.

    Attributes:
      layout: whose names.
      path: keys of the dicts that the tensors lay in.
      prefix: of the names.
      tensors: all of that dict's.
      names: {reference name, with "@" where it is a part: the file's name}.
      more: the file's other names.
      beside: keys beside `path`.
    """

    layout: Layout
    path: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, Any]
    names: dict[str, str]
    more: list[str]
    beside: list[str]


def state_dicts(
    given: Mapping[Any, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every dict of tensors in nested dicts, with the keys that lead to it."""
    tensors = {k: v for k, v in given.items() if isinstance(k, str) and is_tensor(v)}
    if tensors:
        yield path, tensors
    if len(path) < _DEEPEST:
        for key, value in given.items():
            if isinstance(value, Mapping) and isinstance(key, str):
                yield from state_dicts(value, (*path, key))


def prefixes(names: Sequence[str], least: int) -> list[str]:
    """Beginnings of names up to a dot that at least `least` of them share; '' is always one."""
    shared: dict[str, int] = {}
    for name in names:
        for dot in re.finditer(r"\.", name):
            shared[name[: dot.end()]] = shared.get(name[: dot.end()], 0) + 1
    return ["", *(prefix for prefix, count in shared.items() if count >= least)]


def base(name: str) -> str:
    """The reference name of which `name` may be a part."""
    return name.partition("@")[0]


def search(
    given: Mapping[Any, Any], layouts: Sequence[Layout], known: Callable[[str, str], bool],
    least: int,
) -> Found | None:
    """The layout, dict and prefix under which most names are known; None where none is.

    Args:
      known: (family, reference name) -> whether there is such a tensor.
      least: how many names a prefix must have.
    """
    best, found = (), None
    everything = list(state_dicts(given))
    for path, tensors in everything:
        usable = [layout for layout in layouts if layout.mark is None or layout.mark(tensors)]
        for prefix, layout in itertools.product(prefixes(list(tensors), least), usable):
            hits = _hits(tensors, prefix, layout, known)
            place = ".".join((*path, prefix))
            fit = (
                len({base(name) for name in hits}), not _OTHERS.search(place),
                bool(_AVERAGED.search(place)), layout.mark is not None, -len(layout.rules),
                -len(path), len(prefix),
            )
            if hits and fit > best:
                best = fit
                taken = set(hits.values())
                more = [k for k in tensors if k not in taken]
                found = Found(layout, path, prefix, tensors, hits, more, [])
    if found is None:
        return None
    return found._replace(beside=sorted({
        str(k) for k in _walk(given, found.path) if not is_tensor(_walk(given, found.path)[k])
    } | {str(k) for i, key in enumerate(found.path) for k in _walk(given, found.path[:i])
         if k != key}))


def _walk(given: Mapping[Any, Any], path: Sequence[str]) -> Mapping[Any, Any]:
    return functools.reduce(lambda tree, key: tree[key], path, given)


def _hits(
    tensors: Mapping[str, Any], prefix: str, layout: Layout, known: Callable[[str, str], bool]
) -> dict[str, str]:
    out: dict[str, str] = {}
    for key in tensors:
        if key.startswith(prefix):
            plain = key[len(prefix):]
            name = layout.translate(plain)
            if known(layout.family, base(name)) and (name not in out or name == plain):
                out[name] = key  # of two names for one tensor the reference's own
    return out


def with_heads(found: Found, head: str, missing: set[str], inputs: int) -> Found:
    """`found` with the head that lies outside its prefix or has a name of its own.

    Args:
      head: the reference's module.
      missing: reference names of the head that were not found.
      inputs: of the head.
    """
    names, more = dict(found.names), list(found.more)
    parts = found.prefix.split(".")[:-1]
    outer = [".".join(parts[:i]) + "." * bool(i) for i in range(len(parts), -1, -1)]
    for prefix in outer:
        for key in list(more):
            name = found.layout.translate(key.removeprefix(prefix))
            if key.startswith(prefix) and name in missing and name not in names:
                names[name] = key
                more.remove(key)
    if missing - set(names) != missing:
        return found._replace(names=names, more=more)
    groups: dict[str, list[str]] = {}
    for key in more:
        group = next(
            (prefix + key.removeprefix(prefix).split(".")[0] for prefix in outer
             if key.startswith(prefix)), "")
        if key.count(".") and _HEADS.search(group.split(".")[-1]) and not ASIDE.search(key):
            groups.setdefault(group, []).append(key)
    # One linear layer, its weight as wide as the pooled features, and nothing else.
    fitting = []
    for keys in groups.values():
        weight = [k for k in keys if k.endswith(".weight")]
        shapes = [tuple(found.tensors[k].shape) for k in weight]
        if len(weight) == 1 and len(shapes[0]) >= 2 and shapes[0][1:2] == (inputs,):
            fitting.append(weight[0].removesuffix("weight"))
    if len(fitting) == 1:
        for leaf in ("weight", "bias"):
            key = fitting[0] + leaf
            if f"{head}.{leaf}" in missing and key in more:
                names[f"{head}.{leaf}"] = key
                more.remove(key)
    return found._replace(names=names, more=more)


def other_heads(found: Found) -> list[str]:
    """The file's names that belong to a head of another form than one linear layer."""
    return [k for k in found.more
            if _HEADS.search(k.removeprefix(found.prefix).split(".")[0])]


def recognise(given: Mapping[Any, Any]) -> Found | None:
    """Whose names a file has, whatever network is wanted; None where hardly one is known."""

    def known(family: str, name: str) -> bool:
        return bool(REFERENCE[family].fullmatch(name))

    most = max((len(tensors) for _, tensors in state_dicts(given)), default=0)
    found = search(given, LAYOUTS, known, max(2, most // 4))
    return found if found and len(found.names) >= 4 else None


# ---- in words


_RESNETS = {
    ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50", ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
_DENSENETS = {
    ((6, 12, 24, 16), 32): "densenet121", ((6, 12, 32, 32), 32): "densenet169",
    ((6, 12, 48, 32), 32): "densenet201", ((6, 12, 36, 24), 48): "densenet161",
}
_CONVNEXTS = {
    ((3, 3, 9, 3), 96): "convnext_tiny", ((3, 3, 27, 3), 96): "convnext_small",
    ((3, 3, 27, 3), 128): "convnext_base", ((3, 3, 27, 3), 192): "convnext_large",
}
_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1536: "giant"}
HEADS = {
    "resnet": "fc", "densenet": "classifier", "convnext": "classifier.2",
    "conformer": "trans_cls_head", "vit": "head", "dinov2": "head", "eva_x": "head",
}


def _depths(names: Mapping[str, Any], pattern: str) -> tuple[int, ...]:
    """How many different second numbers the pattern's matches have for each first number."""
    pairs = {m.groups() for m in (re.match(pattern, n) for n in names) if m}
    firsts = sorted({int(a) for a, _ in pairs})
    return tuple(sum(int(a) == first for a, _ in pairs) for first in firsts)


def network_of(family: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The network's name, or its family and sizes where it is not one that has a name."""
    def size(name: str, axis: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if len(shape) > axis else 0

    if family == "resnet":
        depths = _depths(shapes, r"layer(\d)\.(\d+)\.")
        deep = "layer1.0.conv3.weight" in shapes
        usual = size("bn1.weight", 0) == 64 and size("layer1.0.conv2.weight", 0) == 64
        if usual and (depths, deep) in _RESNETS:
            return _RESNETS[depths, deep]
        return f"a ResNet of {depths} blocks, {size('bn1.weight', 0)} channels wide"
    if family == "densenet":
        depths = _depths(shapes, r"features\.denseblock(\d)\.denselayer(\d+)\.")
        growth = size("features.denseblock1.denselayer1.conv2.weight", 0)
        return _DENSENETS.get((depths, growth), f"a DenseNet of {depths} layers, growth {growth}")
    if family == "convnext":
        depths = _depths(shapes, r"features\.([1357])\.(\d+)\.")
        width = size("features.0.0.weight", 0)
        return _CONVNEXTS.get((depths, width), f"a ConvNeXt of {depths} blocks, width {width}")
    if family == "conformer":
        return "a Conformer"
    width, patch = size("patch_embed.proj.weight", 0), size("patch_embed.proj.weight", 3)
    depth = len({m[1] for m in (re.match(r"blocks\.(\d+)\.", n) for n in shapes) if m})
    if width in _WIDTHS and depth == (24 if width == 1024 else 12):
        return f"{family}_{_WIDTHS[width]}_patch{patch}"
    return f"a {family} of {depth} blocks, width {width}, patch {patch}"


def shapes_of(found: Found) -> dict[str, tuple[int, ...]]:
    """{reference name: the file's shape}; of tensors in parts the first one's."""
    return {base(name): tuple(found.tensors[key].shape)
            for name, key in sorted(found.names.items(), reverse=True)}


def in_words(found: Found) -> str:
    """One line: "timm vit_small_patch16, 14 outputs, prefix model_ema."."""
    shapes = shapes_of(found)
    head = shapes.get(f"{HEADS[found.layout.family]}.weight")
    parts = [f"{found.layout.library} {network_of(found.layout.family, shapes)}",
             f"{head[0]} outputs" if head else "no head"]
    place = " in ".join(filter(None, (
        f"prefix {found.prefix.removesuffix('.')}." if found.prefix else "",
        ".".join(found.path))))
    return ", ".join([*parts, *([place] if place else [])])
