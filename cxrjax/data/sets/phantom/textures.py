"""Patterns that the phantom's lungs are filled with: vessels, a net, clouds. Pure and cached."""

from __future__ import annotations

import functools

import numpy as np
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

TREES = 12
_TREE_X, _TREE_Y = (-0.12, 0.36), (-0.40, 0.46)  # extent of a tree about its hilum
_TREE_ROWS, _TREE_COLUMNS = 387, 216  # both about 450 samples per film width
_NET_EXTENT, _NET_SAMPLES = 0.5, 160


def _branch(rng, segments, at, angle, length, width, depth):
    """Adds one vessel as a curved chain of segments, and its branches."""
    if depth == 0 or width < 0.0012:
        return
    steps = 5
    bend = rng.normal(0, 0.12)
    for i in range(steps):
        step = length / steps
        to = (at[0] + step * np.cos(angle), at[1] + step * np.sin(angle))
        thin = width * (1 - 0.06 * i)
        segments.append((*at, *to, thin))
        at, angle = to, angle + bend
        if i in (1, 3) and depth > 1:
            turn = rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
            _branch(rng, segments, at, angle + turn, length * 0.7, thin * 0.6, depth - 2)
    for turn in (rng.uniform(0.2, 0.5), -rng.uniform(0.2, 0.5)):
        shorter = length * rng.uniform(0.65, 0.85)
        _branch(rng, segments, at, angle + turn, shorter, width * 0.74, depth - 1)


@functools.lru_cache(maxsize=64)
def _tree(variant: int, size: int) -> np.ndarray:
    """Centimetres of vessel in one lung about its hilum, blurred for films of `size` pixels."""
    rng = np.random.default_rng([20, variant])
    segments: list = []
    for angle in (-1.5, -1.05, -0.5, 0.05, 0.55, 0.95, 1.35):
        start = (0.01 + 0.01 * np.cos(angle), 0.03 * np.sin(angle))
        length = 0.115 if abs(angle) > 0.8 else 0.095
        width = 0.012 if angle > 0 else 0.0095
        _branch(rng, segments, start, angle + rng.normal(0, 0.1), length, width, 5)
    tree = np.zeros((_TREE_ROWS, _TREE_COLUMNS), np.float32)
    ys = np.linspace(*_TREE_Y, _TREE_ROWS)
    xs = np.linspace(*_TREE_X, _TREE_COLUMNS)
    for x0, y0, x1, y1, width in segments:
        margin = 2.5 * width
        rows = slice(*np.searchsorted(ys, (min(y0, y1) - margin, max(y0, y1) + margin)))
        columns = slice(*np.searchsorted(xs, (min(x0, x1) - margin, max(x0, x1) + margin)))
        x, y = xs[None, columns] - x0, ys[rows, None] - y0
        dx, dy = x1 - x0, y1 - y0
        along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        far = (x - along * dx) ** 2 + (y - along * dy) ** 2
        part = 70.0 * width * np.exp(-far / (2 * (0.5 * width) ** 2))
        tree[rows, columns] = np.maximum(tree[rows, columns], part)
    tree = gaussian_filter(tree, 0.45 * 450 / size)
    tree.setflags(write=False)
    return tree


def vessels(variant: int, size: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Centimetres of vessel at (x, y), film fractions lateral of and below the hilum."""
    rows = (y - _TREE_Y[0]) * ((_TREE_ROWS - 1) / (_TREE_Y[1] - _TREE_Y[0]))
    columns = (x - _TREE_X[0]) * ((_TREE_COLUMNS - 1) / (_TREE_X[1] - _TREE_X[0]))
    return map_coordinates(_tree(variant % TREES, size), [rows, columns], order=1, mode="constant")


@functools.lru_cache(maxsize=8)
def _net(size: int) -> np.ndarray:
    """One period of a mesh of irregular cells, 1 on the walls."""
    rng = np.random.default_rng(21)
    points = rng.uniform(0, _NET_EXTENT, (230, 2))
    shifts = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) * _NET_EXTENT
    everywhere = (points[None] + shifts[:, None]).reshape(-1, 2)
    at = (np.arange(_NET_SAMPLES) + 0.5) * (_NET_EXTENT / _NET_SAMPLES)
    grid = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1)
    near, _ = cKDTree(everywhere).query(grid, k=2)
    net = np.exp(-(((near[..., 1] - near[..., 0]) / 0.005) ** 2))
    blur = 0.45 / size * (_NET_SAMPLES / _NET_EXTENT)
    net = gaussian_filter(net, blur, mode="wrap").astype(np.float32)
    net.setflags(write=False)
    return net


def net(size: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A reticular pattern in 0..1 at (x, y) in film fractions; periodic."""
    scale = _NET_SAMPLES / _NET_EXTENT
    return map_coordinates(_net(size), [y * scale, x * scale], order=1, mode="grid-wrap")


@functools.lru_cache(maxsize=32)
def _basis(size: int, knots: int) -> np.ndarray:
    """Cubic B-splines at the pixel centres of a film, [size, knots + 3]."""
    t = np.arange(-3, knots + 4) / knots
    x = (np.arange(size) + 0.5) / size
    basis = BSpline.design_matrix(x, t, 3).toarray().astype(np.float32)
    basis.setflags(write=False)
    return basis


def clouds(rng: np.random.Generator, size: int, knots: int) -> np.ndarray:
    """A smooth random field on the film, mean 0 and sd about 1: the same field at every size."""
    values = rng.standard_normal((knots + 3, knots + 3), np.float32)
    basis = _basis(size, knots)
    return (2.1 * basis @ values) @ basis.T


def wave(rng: np.random.Generator, x: np.ndarray, period: float) -> np.ndarray:
    """An irregular curve over x, roughly within -1..1."""
    phase = rng.uniform(0, 2 * np.pi, 3).tolist()
    k = 2 * np.pi / period
    return (
        np.sin(k * x + phase[0]) + 0.6 * np.sin(1.7 * k * x + phase[1])
        + 0.4 * np.sin(3.1 * k * x + phase[2])
    ) / 2.0
