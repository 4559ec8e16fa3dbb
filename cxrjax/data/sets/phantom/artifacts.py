"""Bright things on a phantom that are not the patient: pacemaker, lines and tubes, side letters."""

from __future__ import annotations

import numpy as np

from cxrjax.data.sets.phantom.anatomy import SIGN, ramp
from cxrjax.data.sets.phantom.film import Film

# Strokes of the side letters in a box 1 wide and 1.4 high.
_LETTERS = {
    "L": [[(0.1, 0.0), (0.1, 1.4), (0.9, 1.4)]],
    "R": [
        [(0.1, 1.4), (0.1, 0.0), (0.6, 0.0), (0.85, 0.15), (0.9, 0.38), (0.8, 0.62), (0.55, 0.75),
         (0.1, 0.75)],
        [(0.5, 0.75), (0.95, 1.4)],
    ],
}


def _paint(gray: np.ndarray, rows: slice, columns: slice, cover: np.ndarray, level: float) -> None:
    """Brightens in place, never darkens."""
    patch = gray[rows, columns]
    patch += cover * np.maximum(level - patch, 0.0)


def _window(points: np.ndarray, margin: float, size: int) -> tuple[slice, slice, tuple]:
    low = np.floor((points.min(axis=0) - margin) * size).astype(int).clip(0, size)
    high = np.ceil((points.max(axis=0) + margin) * size).astype(int).clip(0, size)
    x = (np.arange(low[0], high[0]) + 0.5) / size
    y = (np.arange(low[1], high[1]) + 0.5) / size
    return slice(low[1], high[1]), slice(low[0], high[0]), (x[None, :], y[:, None])


def _stroke(gray: np.ndarray, points: np.ndarray, width: float, level: float) -> None:
    """A polyline (x, y) in film fractions, antialiased, one piece at a time."""
    size = gray.shape[0]
    pixel = 1.0 / size
    for start, end in zip(points[:-1], points[1:]):
        rows, columns, (x, y) = _window(np.stack([start, end]), width + 2 * pixel, size)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        d = end - start
        along = ((x - start[0]) * d[0] + (y - start[1]) * d[1]) / max(float(d @ d), 1e-12)
        along = np.clip(along, 0, 1)
        far = np.hypot(x - start[0] - along * d[0], y - start[1] - along * d[1])
        # Metal and printed letters end within a pixel; a thinner wire covers a part of one only.
        cover = ramp(0.5 * width - far, 0.6 * pixel) if width > pixel else (
            np.maximum(1.0 - far * size, 0.0) * (width * size)
        )
        _paint(gray, rows, columns, cover, level)


def _curve(points: list, steps: int = 8) -> np.ndarray:
    """A smooth curve through points (Catmull-Rom), [n, 2]."""
    p = np.asarray(points, float)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
               + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:])
    ]
    return np.concatenate([*pieces, p[-2:-1]])


def _pacemaker(rng: np.random.Generator, film: Film, gray: np.ndarray) -> None:
    side = 1 if rng.random() < 0.8 else 0
    s = SIGN[side]
    at = np.array([s * rng.uniform(0.22, 0.29), rng.uniform(0.2, 0.27)])
    half = np.array([rng.uniform(0.032, 0.042), rng.uniform(0.026, 0.036)])
    x, y = film.heart_tip()
    lead = _curve([
        at - (s * half[0], 0), at + (-s * 0.09, -0.03), (s * 0.06, 0.2), (-0.035, 0.28),
        (-0.045, 0.42), (-0.03, y - 0.06), (0.3 * x, y + 0.015), (0.75 * x, y + 0.01),
    ])
    _stroke(gray, film.to_film(lead), 0.0065, 238.0)
    centre = film.to_film(at[None])[0]
    rows, columns, (px, py) = _window(centre[None], 0.06, film.size)
    dx, dy = np.abs(px - centre[0]) / half[0], np.abs(py - centre[1]) / half[1]
    inside = (1.0 - (dx**4 + dy**4) ** 0.25) * half.min()
    _paint(gray, rows, columns, ramp(inside, 0.6 / film.size), 250.0)


def _tube(rng: np.random.Generator, film: Film, gray: np.ndarray) -> None:
    kind = rng.integers(3)
    if kind == 0:  # central venous line
        s = rng.choice([-1.0, 1.0])
        path = [(s * 0.16, 0.02), (s * 0.11, 0.12), (s * 0.04, 0.21), (-0.04, 0.29), (-0.045, 0.43)]
        width = 0.006
    elif kind == 1:  # tube in the windpipe
        path = [(0.03, -0.05), (0.005, 0.1), (0.0, 0.2), (-0.003, rng.uniform(0.24, 0.31))]
        width = 0.011
    else:  # wire of the monitor across the chest
        side = rng.choice([-1.0, 1.0])
        v = rng.uniform(0.2, 0.5)
        steps = ((0.3, v), (0.2, v + 0.12), (0.24, v + 0.25), (0.1, 0.97))
        path = [(side * a, height) for a, height in steps]
        width = 0.008
        spot = film.to_film(np.array([path[0]]))[0]
        rows, columns, (x, y) = _window(spot[None], 0.03, film.size)
        inside = 0.014 - np.hypot(x - spot[0], y - spot[1])
        _paint(gray, rows, columns, ramp(inside, 1.5 / film.size), 235.0)
    _stroke(gray, film.to_film(_curve(path)), width, 235.0)


def _letter(rng: np.random.Generator, film: Film, gray: np.ndarray) -> None:
    letter = "L" if rng.random() < 0.6 else "R"
    tall = rng.uniform(0.03, 0.045)
    x = rng.uniform(0.86, 0.93) if letter == "L" else rng.uniform(0.04, 0.1)
    corner = np.array([x, rng.uniform(0.03, 0.12)])
    for stroke in _LETTERS[letter]:
        _stroke(gray, corner + tall * np.asarray(stroke), 0.22 * tall, 252.0)


def add_artifacts(rng: np.random.Generator, film: Film, gray: np.ndarray) -> np.ndarray:
    """`gray` f32[H, W] with one to three bright artefacts; no pixel becomes darker."""
    gray = gray.copy()
    wanted = rng.random(3) < (0.4, 0.5, 0.6)
    if not wanted.any():
        wanted[rng.integers(3)] = True
    for draw, there in zip((_pacemaker, _tube, _letter), wanted):
        if there:
            draw(rng, film, gray)
    return gray
