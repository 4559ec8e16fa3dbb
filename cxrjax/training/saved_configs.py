"""Configs of saved runs in today's names: what a field was called before is known here alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Dotted name before -> name now, in the same place.
RENAMED = {"workers": "reading_processes", "dataset.workers": "preparing_threads"}


def in_todays_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A completed config as it was saved, with its renamed fields, and its teachers', renamed."""
    config = _renamed(config)
    if "teachers" in config:
        config["teachers"] = {
            name: {**teacher, "config": in_todays_names(teacher["config"])}
            for name, teacher in config["teachers"].items()
        }
    return config


def _renamed(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return {
        RENAMED.get(prefix + key, key):
            _renamed(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in tree.items()
    }
