"""Checksums of what a checkpoint holds: of arrays by their bytes, of facts by their JSON."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np


def checksums_of(tree: Mapping[str, Any]) -> dict[str, int]:
    """{path of an array: CRC-32 of its bytes}."""
    flat = flax.traverse_util.flatten_dict(jax.device_get(dict(tree)), sep="/")
    return {k: zlib.crc32(np.ascontiguousarray(_plain(v)).view(np.uint8)) for k, v in flat.items()}


def checksum_of(fact: Any) -> int:
    """CRC-32 of a JSON-able value."""
    return zlib.crc32(json.dumps(fact, sort_keys=True).encode())


def _plain(array: Any) -> np.ndarray:
    """An array that NumPy can take bytes of: keys of random streams as their numbers."""
    if jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.atleast_1d(np.asarray(array))
    return array if array.dtype.kind != "V" else array.view(np.uint8)
