"""Synthetic films with findings, lung masks and boxes, drawn from a seed."""

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
