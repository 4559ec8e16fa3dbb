"""One trunk, one branch for each group of labels: what groups share below, what they do not above.

Any encoder of ours is the trunk. A branch is a 3x3 convolution, norm, ReLU, pooling and a linear
layer for the labels of its group; the branches' logits are merged into the order of the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxrjax import models
from cxrjax.errors import UserError
from cxrjax.models import groups
from cxrjax.models.layers import BatchNorm, Classifier, Conv, PoolHead, compute_dtype

NAMES = ("branched",)


class Branches(nn.Module):
    """The heads over the trunk's last map: one branch per group, merged logits in float32."""

    positions: groups.Positions
    width: int = 256
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b k"]:
        logits = []
        for i, group in enumerate(self.positions, start=1):
            y = Conv(self.width, 3, dtype=self.dtype, name=f"conv{i}")(x)
            y = nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(y, train))
            head = PoolHead(len(group), self.dropout, name=f"head{i}")
            logits.append(head(y.astype(jnp.float32), train))
        return groups.merge(logits, self.positions)


def branched(
    num_classes: int,
    *,
    trunk: str = "resnet18",
    positions: Sequence[Sequence[int]] = (),
    branch_width: int = 256,
    **options: Any,
) -> Classifier:
    """A trunk with a branch per group; `features` are the trunk's last map.

    Args:
      trunk: name of the network whose encoder is shared.
      positions: the places of each group's labels (`groups.positions`); one group by default.
      branch_width: channels of a branch.
      **options: of the trunk; `dropout` acts in the branches' heads.

    Raises:
      UserError: the positions are not a partition of the labels, or the trunk has no encoder.
    """
    places = tuple(tuple(group) for group in positions) or (tuple(range(num_classes)),)
    if sorted(p for group in places for p in group) != list(range(num_classes)):
        raise UserError(f"groups {places} do not hold each of {num_classes} labels once")
    network = models.create(trunk, num_classes, **options)
    if not hasattr(network, "encoder"):
        raise UserError(f"model {trunk!r} has no encoder and cannot be the trunk of branches")
    head = Branches(
        places,
        branch_width,
        float(options.get("dropout", 0.0)),
        compute_dtype(options.get("dtype", "float32")),
    )
    return Classifier(encoder=network.encoder, head=head)
