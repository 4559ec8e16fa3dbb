"""NumPy archives that may be anybody's: what they say of their sizes is believed after a bound."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

_PACKED = 1100  # deflate packs at most 1 : 1032
_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0,
             (2, 0): np.lib.format.read_array_header_2_0}


def read(path: str | Path, largest: int = 2**36) -> dict[str, np.ndarray]:
    """The arrays of an .npz; nothing is unpickled.

    Args:
      path: of the file.
      largest: bytes that it may unpack to.

    Raises:
      ValueError: an entry is no array of numbers or text, is not as long as its header says, or
        the whole unpacks to more than a file so long can; and whatever zipfile and zlib raise.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > min(largest, _PACKED * Path(path).stat().st_size):
            raise ValueError(f"it says that it unpacks to {total:,} bytes")
        for entry in entries:
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                if version not in _VERSIONS:
                    raise ValueError(f"{entry.filename} is of NumPy format {version}")
                shape, _, dtype = _VERSIONS[version](file)
                left = entry.file_size - file.tell()
            if dtype.hasobject or math.prod(shape) * dtype.itemsize != left:
                raise ValueError(f"{entry.filename} says that it holds {dtype}{list(shape)}, which "
                                 f"its {left:,} bytes are not")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
