"""torchxrayvision: torchvision's networks for one channel and 18 findings.

Its films lie in -1024..1024: x = (2 u - 1) 1024 for u in [0, 1], which is (u - 1/2) / (1/2048). Its
files are whole pickled modules, which are not read: convert them to safetensors first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxrjax.models.weights.layout import Layout

SCALE = (0.5, 1 / 2048)


def _mark(tensors: Mapping[str, Any]) -> bool:
    """Its operating points, or its one channel and 18 outputs."""
    ends: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight"):
            ends.setdefault(name.rpartition(".")[0].rpartition(".")[2], tuple(tensor.shape))
    stem = ends.get("conv0") or ends.get("conv1") or ()
    head = ends.get("classifier") or ends.get("fc") or ()
    return any(name.rpartition(".")[2] == "op_threshs" for name in tensors) or (
        stem[1:2] == (1,) and head[:1] == (18,)
    )


LAYOUTS = (
    Layout("torchxrayvision", "densenet", (), SCALE, _mark),
    Layout("torchxrayvision", "resnet", (), SCALE, _mark),
)
