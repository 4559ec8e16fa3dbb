"""Weights of other libraries into our variables: all of them, or one short error.

What has no place is never passed over in silence:

- A head for other labels, with another number of outputs, stays as initialised, as does every part
  that the file has nothing for and no published file would have: a head where it has none, a
  decoder, the 3x3 stem of `small_stem=True`.
- Weights for 3 channels enter a network of 1 by the sum over channels (a gray film gives what its
  three-fold copy gave), those for 1 channel a network of 3 by a third each.
- Position embeddings and patch kernels are resampled to the network's (`resample`).
- What is no part of the network is set aside and named.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cxrjax.models.weights import misfit, recognise, resample
from cxrjax.models.weights.files import as_float32, is_float
from cxrjax.models.weights.recognise import ASIDE, HEADS, LAYOUTS, base
from cxrjax.models.weights.torch_layouts import (
    FAMILIES,
    family_of,
    from_layout,
    leaf_name,
    torch_shape,
)

log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """Variables out of a file, and what was said of it.

    Attributes:
      variables: {params, batch_stats}.
      summary: what the file is.
      notes: what was not taken, what was changed; a line each.
    """

    variables: dict[str, Any]
    summary: str
    notes: list[str]


class Wanted(NamedTuple):
    """One of our arrays: its place, its shape, and what torch calls it."""

    key: tuple[str, ...]
    shape: tuple[int, ...]
    torch: tuple[int, ...]


def from_torch(
    name: str, state_dict: Mapping[Any, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
    """Flax variables with the weights of a torch network of the same architecture.

    Args:
      name: the network's name, as for `models.create`.
      state_dict: torch names to arrays (numpy's or torch's, float of any width), in any of the
        layouts of this package, under any prefix, in any dicts around them.
      variables: the initialised variables {params, batch_stats}; not changed.

    Raises:
      UserError: tensors missing, left over, of the wrong shape or not finite: all in one message.
    """
    reading = read(name, state_dict, variables)
    log.info("%s", reading.summary)
    for note in reading.notes:
        log.warning("%s", note)
    return reading.variables


def read(
    name: str, state_dict: Mapping[Any, Any], variables: Mapping[str, Any], source: str = ""
) -> Reading:
    """As `from_torch`, with what there is to say of the weights.

    Args:
      source: where they came from, for an error: "config.init_from = FILE".
    """
    flat = traverse_util.flatten_dict(dict(variables))
    summary, notes = read_into(name, state_dict, flat, source)
    return Reading(traverse_util.unflatten_dict(flat), summary, notes)


def read_into(
    name: str, state_dict: Mapping[Any, Any], flat: dict[tuple[str, ...], Any], source: str = ""
) -> tuple[str, list[str]]:
    """As `read`, in place: each array is let go as the file's takes its place, so that a network
    and the one it starts from are never in memory both. After an error `flat` is a mixture.

    Args:
      flat: the initialised variables by their path, {("params", "head", "kernel"): array}.

    Returns:
      The summary and the notes of a `Reading`.
    """
    family = family_of(name)
    wanted, ours_alone = _wanted(name, flat)
    layouts = [layout for layout in LAYOUTS if layout.family == family]
    found = recognise.search(
        state_dict, layouts, lambda _, known: known in wanted, max(2, len(wanted) // 4)
    )
    if found is None:
        raise misfit.nothing_fits(name, state_dict, wanted, source)
    head = HEADS[family]
    missing_head = {n for n in wanted if n.startswith(f"{head}.") and n not in found.names}
    if missing_head and f"{head}.weight" in wanted:
        found = recognise.with_heads(found, head, missing_head, wanted[f"{head}.weight"].torch[1])
    return _Fit(name, found, wanted, ours_alone).run(state_dict, flat, source)


def _wanted(
    name: str, flat: Mapping[tuple[str, ...], Any]
) -> tuple[dict[str, Wanted], list[tuple[str, ...]]]:
    """{reference name: what we want of it}, and the places that no torch network has."""
    wanted, alone = {}, []
    for key, ours in flat.items():
        theirs = leaf_name(name, key)
        if theirs is None:
            alone.append(key)
        else:
            shape = tuple(ours.shape)
            wanted[theirs] = Wanted(key, shape, torch_shape(shape, key[-1]))
    return wanted, alone


class _Fit:
    """One attempt to put a file's tensors into their places; collects every fault."""

    def __init__(self, name, found, wanted, ours_alone):
        self.name, self.found, self.wanted = name, found, wanted
        self.kept = ["/".join(key[1:]) for key in ours_alone]
        self.missing: list[str] = []
        self.wrong: list[str] = []
        self.notes: list[str] = []
        self.set_aside: list[str] = []

    def run(
        self, state_dict: Mapping[Any, Any], flat: dict[tuple[str, ...], Any], source: str
    ) -> tuple[str, list[str]]:
        absent = self._absent()
        for theirs, want in self.wanted.items():
            if theirs in absent:
                continue
            array = self._tensor(theirs, want)
            if array is not None:
                flat[want.key] = jnp.array(array)
        left = self._left_over()
        if self.missing or left or self.wrong:
            raise self._error(state_dict, left, source)
        return recognise.in_words(self.found), self._said()

    def _absent(self) -> set[str]:
        """Reference names that the file lacks: parts of a head stay as initialised, others are
        faults."""
        parts = {base(n) for n in self.found.names}
        absent = {n for n in self.wanted if n not in parts}
        modules: dict[str, list[str]] = {}
        for theirs, want in self.wanted.items():
            if want.key[1] == "head":
                modules.setdefault("/".join(want.key[1:-1]), []).append(theirs)
        headless = set()
        logits = [names for path, names in modules.items() if path.endswith("logits")]
        if logits and all(n in absent for names in logits for n in names):
            for names in modules.values():
                headless.update(names if all(n in absent for n in names) else ())
        for theirs in self.wanted:
            if theirs in headless:
                self.kept.append("/".join(self.wanted[theirs].key[1:]))
            elif theirs in absent:
                self.missing.append(theirs)
        return absent

    def _tensor(self, theirs: str, want: Wanted) -> np.ndarray | None:
        """The array for one place in our layout; None where it stays as it is, or is a fault."""
        names = self.found.names
        parts = sorted(n for n in names if base(n) == theirs)
        count = int(parts[0].rpartition("/")[2]) if "@" in parts[0] else 1
        if theirs in parts:
            parts, count = [theirs], 1
        if len(parts) != count:
            self.missing.append(f"{theirs} ({len(parts)} of its {count} parts)")
            return None
        tensors = [self.found.tensors[names[n]] for n in parts]
        label = names[parts[0]].removeprefix(self.found.prefix)
        for tensor in tensors:
            if not is_float(tensor):
                kind = str(tensor.dtype).removeprefix("torch.")
                self.wrong.append(f"{label} ({kind}, not float)")
                return None
        shapes = {tuple(t.shape) for t in tensors}
        if count > 1 and (len(shapes) > 1 or () in shapes):
            self.wrong.append(f"{label} (its {count} parts differ in shape)")
            return None
        arrays = [as_float32(t) for t in tensors]
        array = arrays[0] if count == 1 else np.concatenate(arrays)
        if not np.isfinite(array).all():
            self.wrong.append(f"{label} (not finite)")
            return None
        array = self._folded(theirs, array)
        return self._fitted(theirs, label, array, want)

    def _folded(self, theirs: str, array: np.ndarray) -> np.ndarray:
        """A running mean less the bias of the convolution in front of it."""
        conv, norm = self.found.layout.biases
        if not conv or not theirs.endswith(f"{norm}.running_mean"):
            return array
        wanted = theirs.removesuffix(f"{norm}.running_mean") + conv.replace("\\", "") + ".bias"
        for key in self.found.more:
            if key.removeprefix(self.found.prefix) == wanted:
                bias = as_float32(self.found.tensors[key])
                if bias.shape == array.shape and np.isfinite(bias).all():
                    self.found.more.remove(key)
                    return array - bias
        return array

    def _fitted(
        self, theirs: str, label: str, array: np.ndarray, want: Wanted
    ) -> np.ndarray | None:
        place, leaf = "/".join(want.key[1:]), want.key[-1]
        if array.shape != want.torch and _same_but_for_ones(array.shape, want.torch):
            array = array.reshape(want.torch)
        if leaf == "pos_embed" and array.ndim == 3 and array.shape[2] == want.torch[2]:
            array = self._positions(array, want)
        if len(want.torch) == 4 and array.ndim == 4 and theirs == self._stem():
            array = self._channels(array, want.torch)
            if "patch_embed" in want.key and self._is_patch(array, want.torch):
                self.notes.append(
                    f"patches resampled from {array.shape[2]}x{array.shape[3]} to "
                    f"{want.torch[2]}x{want.torch[3]}"
                )
                array = resample.patch_kernel(array, want.torch[2:])
        array = from_layout(array, leaf)
        if array.shape == want.shape:
            return array
        if self._is_other_head(want, array) or _is_other_stem(want, array):
            self.kept.append(place)
        else:
            self.wrong.append(f"{label} ({array.shape} in our layout, not {want.shape})")
        return None

    def _stem(self) -> str:
        """The reference name of the first convolution."""
        stems = (n for n, w in self.wanted.items() if w.key[1:3] in (
            ("encoder", "stem"), ("encoder", "patch_embed")) and len(w.torch) == 4)
        return next(stems, "")

    def _channels(self, array: np.ndarray, want: tuple[int, ...]) -> np.ndarray:
        if (array.shape[1], want[1]) == (3, 1):
            return array.sum(1, keepdims=True)
        if (array.shape[1], want[1]) == (1, 3):
            self.notes.append("the stem for 1 channel became one for 3: a third each")
            return np.repeat(array / 3, 3, 1)
        return array

    @staticmethod
    def _is_patch(array: np.ndarray, want: tuple[int, ...]) -> bool:
        sides = (*array.shape[2:], *want[2:])
        same = array.shape[:2] == want[:2]
        return same and array.shape != want and min(sides) > 1 and len({*array.shape[2:]}) == 1

    def _positions(self, array: np.ndarray, want: Wanted) -> np.ndarray:
        """Resampled to our grid; without one for the class token it gets zeros, as in timm's
        networks with registers, whose class token carries it."""
        ours = want.torch[1] - 1
        side = math.isqrt(array.shape[1])
        if side * side == array.shape[1] and side > 1:
            array = np.concatenate([np.zeros_like(array[:, :1]), array], 1)
        side = math.isqrt(array.shape[1] - 1)
        if array.shape[1] == want.torch[1] or side * side != array.shape[1] - 1 or side < 2:
            return array
        grid = self._grid(ours)
        if grid is None:
            return array
        self.notes.append(
            f"position embeddings resampled from {side}x{side} to {grid[0]}x{grid[1]}"
        )
        return resample.position_embeddings(array, grid, 1)

    @staticmethod
    def _grid(patches: int) -> tuple[int, int] | None:
        side = math.isqrt(patches)
        return (side, side) if side * side == patches else None

    def _is_other_head(self, want: Wanted, array: np.ndarray) -> bool:
        """Whether a tensor of a linear head differs in the number of classes alone; DINOv2's may
        also read the mean of the patches beside the class token."""
        if want.key[1] != "head" or not want.key[-2].endswith("logits"):
            return False
        if array.ndim != len(want.shape):
            return False
        twice = tuple(2 * n for n in want.shape[:-1])
        doubled = FAMILIES[self.name] == "dinov2" and array.shape[:-1] == twice
        return array.shape[:-1] == want.shape[:-1] or doubled

    def _left_over(self) -> list[str]:
        found, prefix = self.found, self.found.prefix
        heads = set(recognise.other_heads(found)) if self._head_is_fresh() else set()
        own = {
            name[:i] for key in found.names.values()
            for name in [key.removeprefix(prefix)] for i, c in enumerate(name) if c == "."
        }
        left = []
        for key in found.more:
            plain = key.removeprefix(prefix)
            other = not key.startswith(prefix)
            nothing = key.startswith(prefix) and found.layout.translate(plain) == ""
            aside = ASIDE.search(_below(plain, own))
            if other or nothing or key in heads or aside or not found.tensors[key].shape:
                self.set_aside.append(key)
            else:
                left.append(plain)
        self.set_aside += found.beside
        return sorted(left)

    def _head_is_fresh(self) -> bool:
        return any(k.startswith("head/") for k in self.kept)

    def _said(self) -> list[str]:
        notes = list(dict.fromkeys(self.notes))
        aside = misfit.grouped(k for k in self.set_aside if not k.endswith("num_batches_tracked"))
        if aside:
            notes.append(f"set aside, no part of the network: {', '.join(aside)}")
        if self.kept:
            notes.append("left as initialised, the weights have nothing for them: "
                         + ", ".join(sorted(set(self.kept))))
        return notes

    def _error(self, state_dict: Mapping[Any, Any], left: list[str], source: str) -> misfit.Misfit:
        lines = [misfit.first_line(self.name, source)]
        looks = recognise.recognise(state_dict)
        lines.append(f"  it looks like: {misfit.looks(state_dict, looks)}")
        want = [n.partition(" (")[0] for n in self.missing]
        for what, found, others in (
            ("missing", sorted(self.missing), left), ("left over", left, want),
            ("wrong", self.wrong, []),
        ):
            if found:
                lines.append(f"  {what}: {misfit.listed(found)}")
                if near := misfit.nearest(found, others):
                    lines.append(f"  nearest names: {near}")
        lines.append(f"  {self._advice(looks, left)}")
        return misfit.Misfit("\n".join(lines))

    def _advice(self, looks: recognise.Found | None, left: list[str]) -> str:
        if "fc_norm.weight" in left and "norm.weight" in self.missing:
            return "it answers from the mean of its patches: set --config.model.pool=mean"
        if "norm.weight" in left and "fc_norm.weight" in self.missing:
            return "it answers from its class token: set --config.model.pool=cls"
        if any(n.startswith("blocks.") and ".attn.norm." in n for n in left):
            return "it norms inside its attention: set --config.model.attention_norm=True"
        if any(n in ("reg_token", "register_tokens", "embeddings.register_tokens") for n in left):
            return "it has registers: set --config.model.registers to their number"
        only_values = bool(self.wrong and not self.missing and not left)
        return misfit.advice(self.name, looks, only_values)


def _same_but_for_ones(got: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """[c] for [c, 1, 1], a 1x1 convolution for a linear layer, [1, d] for [1, 1, d]; a transposed
    shape is another one."""
    behind, before = ([*got], [*want]), ([*got[::-1]], [*want[::-1]])
    for pair in (behind, before):
        for shape in pair:
            while shape and shape[-1] == 1:
                shape.pop()
    return behind[0] == behind[1] or before[0] == before[1]


def _is_other_stem(want: Wanted, got: np.ndarray) -> bool:
    """Whether ours is a small (3x3) stem and torch's is the usual, larger one."""
    return (
        want.key[1:] == ("encoder", "stem", "conv", "kernel")
        and want.shape[:2] == (3, 3)
        and got.ndim == 4
        and got.shape[:2] in ((7, 7), (4, 4))
        and got.shape[3] == want.shape[3]
        and got.shape[2] in (1, 3)
    )


def _below(name: str, modules: set[str]) -> str:
    """The name without the modules that the network itself has: they say nothing of what is no part
    of it, also where one is called `projection`."""
    parts = name.split(".")
    inside = [i for i in range(1, len(parts)) if ".".join(parts[:i]) in modules]
    return ".".join(parts[max(inside, default=0):])
