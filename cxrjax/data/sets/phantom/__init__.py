"""The data set phantom: synthetic films, see `dataset`."""

from cxrjax.data.sets.phantom.dataset import (
    DEFAULTS,
    LABELS,
    MASKS,
    TASK,
    boxes,
    load,
    prepare,
)

__all__ = ["DEFAULTS", "LABELS", "MASKS", "TASK", "boxes", "load", "prepare"]
