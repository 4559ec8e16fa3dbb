"""A data set and a network so small that whole trainings fit into a test.

They are reached by dotted paths, as a user's own would be: 'tests.toy:' and 'tests.toy:create'.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from cxrjax.data.sets.base import Account, Films

LABELS = ("Left", "Right", "Top")
TASK = "multilabel"
MASKS = ()
DEFAULTS = {"films": 96, "with_unknown": False}


class Source:
    """16x16 films u8 with a bright patch at the left, right or top for each label."""

    def __init__(self, count, size, with_unknown):
        self._count, self._size, self._with_unknown = count, size, with_unknown

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        rng = np.random.default_rng([7, index])
        label = (rng.random(3) < 0.5).astype(np.float32)
        n = self._size
        film = rng.normal(90, 25, (n, n))
        film[:, : n // 4] += 60 * label[0]
        film[:, -n // 4 :] += 60 * label[1]
        film[: n // 4] += 60 * label[2]
        if self._with_unknown and index % 5 == 0:
            label[index % 3] = np.nan
        image = np.clip(film, 0, 255).astype(np.uint8)[..., None]
        return {"image": image, "label": label, "id": f"toy{index:04d}"}


def prepare(options):
    return Account(dataset="toy")


def load(options):
    count = options["films"]
    third = count // 3
    positions = np.arange(count)
    return Films(
        source=Source(count, options["image_size"], options["with_unknown"]),
        table={"id": np.array([f"toy{i:04d}" for i in range(count)])},
        splits={"train": positions[: -2 * (third // 2)],
                "val": positions[-2 * (third // 2) : -(third // 2)],
                "test": positions[-(third // 2) :]},
        labels=LABELS,
        task=TASK,
        info={"protocol": "toy films", "split": "only"},
    )


class Net(nn.Module):
    num_classes: int
    width: int = 8
    dropout: float = 0.0

    @nn.compact
    def __call__(self, image, train=False):
        x = nn.Conv(self.width, (3, 3), strides=2, use_bias=False, name="conv1")(image)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm1")(x)
        features = nn.relu(nn.Conv(self.width, (3, 3), strides=2, name="conv2")(nn.relu(x)))
        flat = features.reshape(features.shape[0], -1)
        flat = nn.Dropout(self.dropout, deterministic=not train)(flat)
        logits = nn.Dense(self.num_classes, name="head")(flat)
        return {"logits": logits.astype(jnp.float32), "features": features}


def create(num_classes, *, width=8, dropout=0.0):
    return Net(num_classes, width, dropout)
