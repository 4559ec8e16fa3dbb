"""Films of two classes with masks of two structures, so small that whole trainings fit into a test.

'tests.toy_masks:' is the data set. A gray disc at the left and a bright one at the right are the
structures; films of class B have the right one lower. Some films have no mask.
"""

import numpy as np

from cxrjax.data.sets.base import Account, Films

LABELS = ("A", "B")
TASK = "multiclass"
MASKS = ("left disc", "right disc")
DEFAULTS = {"films": 60, "masked": 0.8}


class Source:
    """32x32 films u8; film i has a mask if i % 10 < 10 * masked."""

    def __init__(self, count, size, masked):
        self._count, self._size, self._masked = count, size, masked

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        rng = np.random.default_rng([5, index])
        kind, n = index % 2, self._size
        y, x = np.mgrid[:n, :n] / n
        centres = ((0.4, 0.28), (0.4 + 0.25 * kind, 0.72))
        discs = [(y - a) ** 2 + (x - b) ** 2 < 0.2**2 for a, b in centres]
        film = rng.normal(70, 12, (n, n)) + 60 * discs[0] + 130 * discs[1]
        return {
            "image": np.clip(film, 0, 255).astype(np.uint8)[..., None],
            "label": np.eye(2, dtype=np.float32)[kind],
            "mask": np.stack(discs, -1).astype(np.uint8),
            "has_mask": index % 10 < 10 * self._masked,
            "id": f"disc{index:03d}",
        }


def prepare(options):
    return Account(dataset="toy_masks")


def load(options):
    count = options["films"]
    source = Source(count, options["image_size"], options["masked"])
    at = np.arange(count)
    return Films(
        source=source,
        table={"id": np.array([f"disc{i:03d}" for i in range(count)]), "group": at // 2},
        splits={"train": at[: count // 2], "val": at[count // 2 : -count // 4],
                "test": at[-count // 4 :]},
        labels=LABELS,
        task=TASK,
        masks=MASKS,
        info={"protocol": "discs", "split": "only"},
    )
