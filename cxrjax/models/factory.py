"""Networks by name: `create("densenet121", 14, dtype="bfloat16")`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from cxrjax import names
from cxrjax.errors import UserError


def factories() -> dict[str, Callable[..., nn.Module]]:
    """Every network of ours: the functions that the family files list in their `NAMES`."""
    found = {}
    for family in names.public_modules("models"):
        module = names.resolve_module("models", family)
        found.update({name: getattr(module, name) for name in getattr(module, "NAMES", ())})
    return found


def options_of(factory: Callable[..., nn.Module]) -> list[str] | None:
    """The options that a factory takes by keyword, or None if it takes any."""
    parameters = list(inspect.signature(factory).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.name != "num_classes"]


def defaults_of(name: str) -> dict[str, Any]:
    """Every option of the network `name` at its default; those of a dotted path too.

    Raises:
      UserError: unknown name.
    """
    parameters = inspect.signature(_factory(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _factory(name: str) -> Callable[..., nn.Module]:
    if ":" in name:
        return names.resolve_path(name)
    known = factories()
    if name not in known:
        raise UserError(f"unknown model {name!r}" + names.suggest(name, known))
    return known[name]


def create(name: str, num_classes: int, **options: Any) -> nn.Module:
    """The network called `name`, with `num_classes` logits.

    `module.apply(variables, image f32[b, h, w, c], train=bool)` gives {logits f32[b, num_classes],
    features f32[b, h', w', d], ...}; the number of channels c is taken from the image at `init`.
    In training: `mutable=["batch_stats"]` and, where something is dropped, `rngs={"dropout": key}`.

    Args:
      name: a network of ours ("resnet18"), or "my_lab.nets:create", the path of a function
        that is called in the same way, `create(num_classes, **options)`.
      num_classes: how many logits.
      **options: see the functions in the family files.

    Raises:
      UserError: an unknown name or option (lists the known ones), or a value out of range.
    """
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, not {num_classes}")
    factory = _factory(name)
    accepted = options_of(factory)
    unknown = [] if accepted is None else [o for o in options if o not in accepted]
    if unknown:
        raise UserError(
            f"model {name!r} has no option {unknown[0]!r}" + names.suggest(unknown[0], accepted)
        )
    return factory(num_classes, **options)
