"""Data sets by name: `prepare(options)` reads the raw films once, `load(options)` opens them."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from cxrjax.datasets.base import Account, Films, merge_options
from cxrjax.errors import UserError
from cxrjax.names import resolve_module

__all__ = ["Account", "Films", "load", "module", "prepare"]


def module(name: str) -> ModuleType:
    """The data set's own module: a file of this package, or 'my_lab.films:' of the user's.

    Raises:
      UserError: there is none of that name, or it lacks what a data set must have.
    """
    found = resolve_module("datasets", name, hidden=("base",))
    needed = ("LABELS", "TASK", "MASKS", "DEFAULTS", "prepare", "load")
    lacking = [attribute for attribute in needed if not hasattr(found, attribute)]
    if lacking:
        raise UserError(f"data set {name!r} ({found.__name__}) has no {', '.join(lacking)}")
    return found


def _resolve(options: Mapping[str, Any]) -> tuple[ModuleType, dict[str, Any]]:
    if not options.get("name"):
        raise UserError("the data set has no name: set data.name, for example 'chestxray14'")
    found = module(options["name"])
    return found, merge_options(options, found.DEFAULTS)


def prepare(options: Mapping[str, Any]) -> Account:
    """Reads the raw folder and writes decoded films under `data_dir`; see the data set's file.

    Args:
      options: {name, raw_dir, data_dir, image_size, ...}: what is left out takes the data set's
        DEFAULTS.

    Raises:
      UserError: unknown data set or option, or raw data that cannot be what it should be.
    """
    found, merged = _resolve(options)
    return found.prepare(merged)


def load(options: Mapping[str, Any]) -> Films:
    """Opens what `prepare` wrote with the same options, split as they say.

    Raises:
      UserError: unknown data set or option, or nothing prepared yet (gives the command).
    """
    found, merged = _resolve(options)
    return found.load(merged)
