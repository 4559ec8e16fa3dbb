"""Which devices a command computes on, in one line that a user reads first."""

from __future__ import annotations

import collections
import importlib.metadata
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax


def describe(devices: Sequence[Any], processes: int = 1) -> str:
    """'1 CPU device', '2 CPU devices', '8 x NVIDIA H100 80GB HBM3 of 2 processes'.

    Args:
      devices: as `jax.devices()` gives them: `platform` and `device_kind` are looked at.
      processes: how many processes they are spread over.
    """
    counts = collections.Counter((d.platform, d.device_kind) for d in devices)
    parts = [
        f"{n} CPU device{'s' * (n != 1)}" if platform == "cpu" else f"{n} x {kind}"
        for (platform, kind), n in counts.items()
    ]
    return ", ".join(parts) + (f" of {processes} processes" if processes > 1 else "")


def missing_gpu(
    devices: Sequence[Any], packages: Sequence[str], platforms: str | None
) -> str:
    """What is to be said where a GPU was to be expected and the CPU computes; '' where all is well.

    Args:
      devices: as `jax.devices()` gives them.
      packages: what is installed: a plugin of jax for CUDA or ROCm says that a GPU was meant.
      platforms: JAX_PLATFORMS; whoever names the CPU there means it.
    """
    plugins = [p for p in packages if re.fullmatch(r"jax[-_](cuda|rocm)\d*[-_]plugin", p)]
    if not plugins or any(d.platform != "cpu" for d in devices) or "cpu" in (platforms or ""):
        return ""
    return (
        f"no GPU found, though {plugins[0]} is installed: this will be slow. See whether "
        "nvidia-smi (or rocm-smi) lists one; JAX_PLATFORMS=cpu says that the CPU is meant"
    )


def announce() -> None:
    """Prints the devices, once in a command, and a warning where a GPU was to be expected."""
    devices = jax.devices()
    if jax.process_index():
        return
    print(f"computing on {describe(devices, jax.process_count())}")
    if devices[0].platform == "cpu":
        packages = [d.name or "" for d in importlib.metadata.distributions()]
        if said := missing_gpu(devices, packages, os.environ.get("JAX_PLATFORMS")):
            print(f"warning: {said}", file=sys.stderr)
