"""Prints docs/backbones.md: every backbone, what it costs, and which files it starts from.

    python -m tests.models.weights.backbones > docs/backbones.md

Parameters and FLOPs are counted, layouts are read off the tables, and the parity error is measured
against the published networks' answers in tests/goldens.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cxrjax import models, tables
from cxrjax.models import weights
from cxrjax.models.weights.recognise import LAYOUTS
from cxrjax.models.weights.torch_layouts import FAMILIES
from tests.models.weights.test_weights import by_formula, golden_input, logits_of, relative

GOLDENS = pathlib.Path(__file__).parents[2] / "goldens"
# Network -> the golden it is held against, where that is not called as it is.
OF = {
    "convnext_small": "torchvision_convnext_small", "convnext_base": "torchvision_convnext_base",
    "vit_small": "timm_vit_small_patch16", "vit_base": "timm_vit_base_patch16",
    "dinov2_small": "timm_vit_small_patch14_dinov2",
    "dinov2_base": "timm_vit_base_patch14_dinov2",
    "eva_x_small": "eva_x_small_patch16", "eva_x_base": "eva_x_base_patch16",
}
# Family -> who publishes weights that fit, and the licence they state; the numbers are of `NOTES`.
SOURCES = {
    "resnet": "torchvision (BSD-3-Clause [1]), timm (Apache-2.0 [2])",
    "densenet": "torchvision (BSD-3-Clause [1]), timm (Apache-2.0 [2]), torchxrayvision "
                "(Apache-2.0 [3])",
    "convnext": "torchvision (BSD-3-Clause [1]), timm (Apache-2.0 [2])",
    "conformer": "the authors, github.com/pengzhiliang/Conformer (no licence found [4])",
    "vit": "timm (Apache-2.0 [2]), torchvision (BSD-3-Clause [1])",
    "dinov2": "Meta, timm (Apache-2.0 [5]); RAD-DINO, microsoft/rad-dino on the hub (MIT [6])",
    "eva_x": "the authors, MapleF/eva_x on the hub (MIT [7])",
}
NOTES = """
What a licence rests on is in the notes; licences change, so read the card of your file.

1. torchvision's own licence. Its page on pretrained weights adds that the terms of the films they
   were trained on may reach further, and leaves that to whoever uses them.
2. The cards of timm's files on the hub, one each: augreg ViTs and those of the `sbb` series say so,
   as does a second catalogue; others may differ.
3. The LICENSE of mlmed/torchxrayvision: `xrv.models`; its `baseline_models` have their own.
4. Neither the README nor the listing of the authors' repository has one: ask them.
5. README and model card of facebookresearch/dinov2. Until August 2023 they said CC-BY-NC, and old
   copies of the card still do.
6. Its card today; an earlier card said MSRLA (Microsoft's research licence). Both: for research,
   not for clinical practice.
7. The badge in the README of hustvl/EVA-X; no LICENSE file was found there, no second source.
"""
HEAD = """# Backbones and the weights they start from

Made by `python -m tests.models.weights.backbones`. Parameters are those for 14 labels and gray
films, GFLOPs those of one film of 224x224 (2 for a multiply-add, counted in the program before
compilation). Parity is the largest difference of a logit from the published network's, in parts of
the largest one, both with the numbers of tests/goldens; '-' where there is no golden (those are
held against timm's own networks by the slow test of weights). The licence is that of whoever
publishes the weights: the films they were trained on have terms of their own.
"""


def cost(name):
    """(parameters, GFLOPs of a film)."""
    net = models.create(name, 14)
    film = jax.ShapeDtypeStruct((1, 224, 224, 1), jnp.float32)
    tree = jax.eval_shape(functools.partial(net.init, jax.random.key(0)), film)
    flops = jax.jit(net.apply).lower(tree, film).cost_analysis()["flops"]
    return sum(x.size for x in jax.tree.leaves(tree["params"])), flops / 1e9


def parity(name):
    """The largest relative difference of a logit; nan without a golden."""
    golden = OF.get(name, name)
    if not (GOLDENS / f"{golden}.npz").exists():
        return float("nan")
    listed = json.loads((GOLDENS / f"{golden}.state_dict.json").read_text())
    state = {k: by_formula(k, tuple(shape)) for k, shape in listed.items()}
    want = np.load(GOLDENS / f"{golden}.npz")
    net = models.create(name, 14 if name.startswith("eva_x") else 1000)
    image = golden_input()
    tree = jax.eval_shape(net.init, jax.random.key(0), image)
    start = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), tree)
    out = jax.jit(net.apply)(weights.from_torch(name, state, start), image)
    return max(relative(got, answer) for got, answer in logits_of(out, want, ""))


def row(name):
    parameters, gflops = cost(name)
    family, error = FAMILIES[name], parity(name)
    layouts = dict.fromkeys(x.library for x in LAYOUTS if x.family == family)
    shown = "-" if np.isnan(error) else f"{error:.0e}"
    return [f"`{name}`", f"{parameters:,}", f"{gflops:.1f}", ", ".join(layouts), SOURCES[family],
            shown]


if __name__ == "__main__":
    titles = ["backbone", "parameters", "GFLOPs", "layouts", "published weights", "parity"]
    print(HEAD)
    print("\n".join(tables.table(titles, [row(name) for name in FAMILIES], {1, 2, 5})))
    print(NOTES, end="")
