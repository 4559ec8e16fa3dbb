"""Exact and near duplicates: a perceptual hash, and groups of films that belong together."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32, Int64, Shaped, UInt8
from PIL import Image

SIDE, COEFFICIENTS = 64, 16
HASH_BITS = COEFFICIENTS**2


def perceptual_hash(image: UInt8[np.ndarray, "h w"]) -> str:
    """256 bits of a film that hardly change with its size, compression, brightness or contrast.

    The film as 64x64, its 2-D DCT-II, the 16x16 lowest frequencies without the mean: which of them
    lie above their median (the classic 'pHash' with 16x16 in place of 8x8 coefficients: chest films
    resemble each other too much for 64 bits).

    Returns:
      64 hexadecimal digits.
    """
    from scipy.fft import dctn  # takes a tenth of a second

    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    waves = dctn(np.asarray(small).astype(np.float64), norm="ortho")
    low = waves[:COEFFICIENTS, :COEFFICIENTS].ravel()[1:]
    # Rounding takes the noise out of a blank film, whose coefficients would be signs of 1e-15.
    low = np.round(low, 6)
    return np.packbits(np.append(low > np.median(low), False)).tobytes().hex()


def quick_hash(image: UInt8[np.ndarray, "h w"]) -> str:
    """`perceptual_hash` in a fifth of its time; on real films at most 12 of 256 bits differ.

    The same frequencies, of the film made smaller by the mean of whole pixels: to some 64 to 127,
    where a product of matrices costs nearly nothing.
    """
    factor = _factor(image.shape[1]), _factor(image.shape[0])
    film = image if factor == (1, 1) else np.asarray(Image.fromarray(image).reduce(factor))
    height, width = film.shape
    low = (_waves(height) @ film.astype(np.float32) @ _waves(width).T).ravel()[1:]
    middle = np.partition(low, len(low) // 2)[len(low) // 2]
    bits = np.zeros(HASH_BITS, bool)
    np.greater(low, middle, out=bits[:-1])
    return np.packbits(bits).tobytes().hex()


@functools.lru_cache
def _factor(size: int) -> int:
    """How many pixels become one: a divisor, so that the last one is not of fewer."""
    most = max(1, size // SIDE)
    found = next(k for k in range(most, 0, -1) if size % k == 0)
    return found if size // found < 2 * SIDE else most


@functools.lru_cache
def _waves(size: int) -> Float32[np.ndarray, "k n"]:
    """The lowest rows of the orthonormal DCT-II of `size` samples."""
    place, frequency = np.arange(size), np.arange(COEFFICIENTS)[:, None]
    waves = np.cos(np.pi * (2 * place + 1) * frequency / (2 * size)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


def near_pairs(hashes: Iterable[str], distance: int) -> Int64[np.ndarray, "p 2"]:
    """Pairs (i < j) of hashes that differ in at most `distance` bits.

    Compares all pairs: 21,000 films take about 2 s, 112,000 about a minute.
    """
    hashes = list(hashes)
    if not hashes:
        return np.zeros((0, 2), np.int64)
    words = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(len(hashes), -1)
    words = np.ascontiguousarray(words.T)
    found = []
    step = max(1, 2**21 // len(hashes))
    for start in range(0, len(hashes), step):
        later = words[:, start:]
        apart = np.zeros((min(step, later.shape[1]), later.shape[1]), np.uint16)
        for word in later:
            apart += np.bitwise_count(word[:step, None] ^ word[None])
        i, j = np.nonzero(apart <= distance)
        found.append(np.stack([i, j], 1)[j > i] + start)
    return np.concatenate(found).astype(np.int64)


def join(size: int, pairs: Iterable[Sequence[int]]) -> Int64[np.ndarray, " n"]:
    """Connected components of films 0..size-1 under `pairs`: the lowest member names the group."""
    from scipy import sparse  # the two take a tenth of a second
    from scipy.sparse import csgraph

    edges = np.array([*pairs], np.int64).reshape(-1, 2)
    graph = sparse.coo_array((np.ones(len(edges), bool), tuple(edges.T)), shape=(size, size))
    _, component = csgraph.connected_components(graph, directed=False)
    _, lowest = np.unique(component, return_index=True)
    return lowest[component].astype(np.int64)


def same_value_pairs(column: Shaped[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """Pairs that chain films with the same value together; '' is no value."""
    first: dict[str, int] = {}
    return [
        (first[value], i)
        for i, value in enumerate(column.astype(str).tolist())
        if value and first.setdefault(value, i) != i
    ]


def group_sizes(group: Shaped[np.ndarray, " n"]) -> dict[str, int]:
    """How many groups have how many films: {'1': 2900, '2': 150, ...}."""
    _, counts = np.unique(group, return_counts=True)
    sizes, number = np.unique(counts, return_counts=True)
    return {str(s): int(n) for s, n in zip(sizes, number)}
