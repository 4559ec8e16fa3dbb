"""Signs of the phantom that lie in the lung itself; see _phantom_signs for what a sign is."""

from __future__ import annotations

import dataclasses

import numpy as np

from cxrjax.data.sets.phantom import textures
from cxrjax.data.sets.phantom.anatomy import (
    CM,
    band,
    bell,
    dome,
    draw_sides,
    in_sight,
    line,
    lung_point,
    ramp,
    ring,
    to_points,
    wall,
    within_lung,
)
from cxrjax.data.sets.phantom.film import Film


def infiltration(rng, anatomy):
    """Faint, ill-defined patches strewn over a zone of one or both lungs."""
    sides = draw_sides(rng, 0.45)
    zones = [(rng.uniform(0.35, 0.65), rng.uniform(0.25, 0.75)) for _ in range(2)]
    wide, tall = rng.uniform(0.06, 0.08), rng.uniform(0.09, 0.13)
    depth = rng.uniform(0.22, 0.42)
    strewn = np.random.default_rng(rng.integers(2**32))

    def paint(film: Film) -> list[np.ndarray]:
        patches = textures.clouds(strewn, film.size, 25)
        patches = np.minimum(np.maximum(patches * 0.9 + 0.2, 0.0), 1.2)
        outlines = []
        for side in sides:
            lung = film.lungs[side]
            a0, v0 = lung_point(film.anatomy, side, *zones[side])
            zone = bell(lung.a - a0, wide) * bell(lung.v - v0, tall)
            lung.keep *= 1.0 - depth * patches[:, lung.columns] * np.minimum(1.6 * zone, 1.0)
            outline = ring(side, (a0, v0), 1.5 * wide, tall / wide)
            outlines.append(within_lung(film.anatomy, side, outline))
        return outlines

    return anatomy, paint


def mass(rng, anatomy):
    """A round or lobed opacity of more than 3 cm."""
    side = int(rng.integers(2))
    radius = rng.uniform(0.048, 0.09)
    place = in_sight(rng, anatomy, side, (0.35, 0.8), (0.15, 0.78), 0.3 * radius)
    lobes = [(0.0, 0.0, 1.0)] + [
        (rng.normal(0, 0.32), rng.normal(0, 0.32), rng.uniform(0.65, 0.9))
        for _ in range(int(rng.integers(3)))
    ]
    solid = rng.uniform(0.95, 1.35)

    def paint(film: Film) -> list[np.ndarray]:
        lung = film.lungs[side]
        chord = np.zeros_like(lung.a)
        outline = []
        for dx, dy, part in lobes:
            r = radius * part
            at = (place[0] + dx * radius, place[1] + dy * radius)
            far = np.square(lung.a - at[0]) + np.square(lung.v - at[1])
            chord = np.maximum(chord, 2 * CM * np.sqrt(np.maximum(r * r - far, 0.0)))
            outline.append(ring(side, at, r))
        # No more water than there was air to make room for, and a little for the chest wall.
        lung.add += solid * np.minimum(chord, lung.air * lung.keep + 1.5) * ramp(lung.inside, 0.03)
        return [np.concatenate(outline)]

    return anatomy, paint


def nodule(rng, anatomy):
    """One to four small round spots."""
    count = 1 + int(np.sum(rng.random(3) < (0.5, 0.3, 0.2)))
    spots = []
    for _ in range(count):
        side = int(rng.integers(2))
        radius = rng.uniform(0.018, 0.034)
        at = in_sight(rng, anatomy, side, (0.3, 0.88), (0.12, 0.85), radius)
        spots.append((side, at, radius, rng.uniform(1.6, 2.5)))

    def paint(film: Film) -> list[np.ndarray]:
        outlines = []
        for side, at, radius, dense in spots:
            lung = film.lungs[side]
            far = np.square(lung.a - at[0]) + np.square(lung.v - at[1])
            spread = radius * radius + 0.15 * film.pixel**2
            chord = 2 * CM * np.sqrt(np.maximum(spread - far, 0.0)) * (radius**2 / spread)
            lung.add += dense * chord * ramp(lung.inside, 0.02)
            outlines.append(ring(side, at, radius))
        return outlines

    return anatomy, paint


def pneumonia(rng, anatomy):
    """One fluffy dense patch that the larger airways cross as dark lines."""
    side = int(rng.integers(2))
    place = in_sight(rng, anatomy, side, (0.35, 0.7), (0.25, 0.82), 0.0)
    wide, tall = rng.uniform(0.065, 0.1), rng.uniform(0.06, 0.1)
    depth = rng.uniform(0.5, 0.8)
    fringe = np.random.default_rng(rng.integers(2**32))

    def paint(film: Film) -> list[np.ndarray]:
        an, lung = film.anatomy, film.lungs[side]
        ragged = textures.clouds(fringe, film.size, 14)[:, lung.columns]
        far = np.square((lung.a - place[0]) / wide) + np.square((lung.v - place[1]) / tall)
        patch = depth * ramp(1.0 - far + 0.4 * ragged, 1.7)
        lung.keep *= 1.0 - patch
        at, height = film.hilum(side)
        airways = textures.vessels(an.vessels[side] + 5, film.size, lung.a - at, lung.v - height)
        lung.add -= 2.5 * airways * patch * lung.edge * (1.0 - lung.cover)
        lung.clear *= 1.0 - 0.8 * patch
        return [within_lung(an, side, ring(side, place, 1.15 * wide, tall / wide))]

    return anatomy, paint


def consolidation(rng, anatomy):
    """A homogeneous, vessel-free part of a lobe that ends straight at its fissure."""
    side = int(rng.integers(2))
    way = -1.0 if rng.random() < 0.5 else 1.0  # above or below the fissure
    fissure = rng.uniform(0.42, 0.55) if way < 0 else rng.uniform(0.4, 0.5)
    middle = rng.uniform(0.45, 0.9)
    wide, tall = rng.uniform(0.11, 0.17), rng.uniform(0.15, 0.25)
    tilt = rng.normal(0, 0.1)
    depth = rng.uniform(0.72, 0.97)
    ragged = np.random.default_rng(rng.integers(2**32))

    def paint(film: Film) -> list[np.ndarray]:
        an, lung = film.anatomy, film.lungs[side]
        a0, v0 = lung_point(an, side, middle, fissure)
        beyond = way * (lung.v - v0 - tilt * (lung.a - a0))
        rim = 1.0 - np.square((lung.a - a0) / wide) - np.square(beyond / tall)
        rim += 0.12 * textures.clouds(ragged, film.size, 12)[:, lung.columns]
        part = ramp(beyond, 0.006 + film.pixel) * ramp(rim - 0.1, 0.7)
        lung.keep *= 1.0 - depth * part
        lung.clear *= 1.0 - part
        t = np.linspace(0, np.pi, 17)
        a, up = a0 + wide * np.cos(t), tall * np.sin(t)
        v = v0 + tilt * (a - a0) + way * up
        return [within_lung(an, side, to_points(side, a, v))]

    return anatomy, paint


def edema(rng, anatomy):
    """Bat wings of haze about both hila, wide upper vessels, short lines at the lateral bases."""
    depth = rng.uniform(0.3, 0.62)
    wide, tall = rng.uniform(0.06, 0.085), rng.uniform(0.1, 0.14)
    lines = int(rng.integers(5, 9))
    dense = rng.uniform(0.9, 1.8)
    anatomy = dataclasses.replace(
        anatomy,
        upper_vessel_gain=anatomy.upper_vessel_gain * 1.7,
        hilum=anatomy.hilum * 1.25,
    )
    mottle = np.random.default_rng(rng.integers(2**32))

    def paint(film: Film) -> list[np.ndarray]:
        an = film.anatomy
        texture = np.clip(1.0 + 0.3 * textures.clouds(mottle, film.size, 26), 0.4, 1.6)
        outlines = []
        for side, lung in enumerate(film.lungs):
            at, height = film.hilum(side)
            a0, v0 = at + 0.045, height + 0.04
            wing = bell(lung.a - a0, wide) * bell(lung.v - v0, tall)
            lung.keep *= 1.0 - np.minimum(depth * wing * texture[:, lung.columns], 0.85)
            edge = wall(an, side, lung.v) - lung.a
            foot = an.dome[side] + 0.05
            rung = np.abs(((foot - lung.v) / 0.02) % 1.0 - 0.5) * 0.02
            ladder = ramp(lung.v - foot + 0.02 * lines, 0.003) * ramp(foot - lung.v, 0.003)
            ladder *= band(edge - 0.026, 0.022, 0.01) * lung.edge
            lung.add += dense * line(rung, 0.0028, film.pixel) * ladder
            outlines.append(within_lung(an, side, ring(side, (a0, v0), 1.4 * wide, tall / wide)))
        return outlines

    return anatomy, paint


def fibrosis(rng, anatomy):
    """A net of fine lines in the lower and outer parts of the lungs."""
    sides = draw_sides(rng, 0.8)
    start = rng.uniform(0.35, 0.6)
    dense = rng.uniform(2.0, 3.6)
    shift = rng.uniform(0, 0.5, 2).tolist()
    scale = rng.uniform(0.55, 0.75)

    def paint(film: Film) -> list[np.ndarray]:
        an = film.anatomy
        outlines = []
        for side in sides:
            lung = film.lungs[side]
            from_v = an.apex[side] + start * (an.dome[side] - an.apex[side])
            above = dome(an, side, lung.a) - lung.v
            outer = ramp(0.085 - np.minimum(lung.pleura, above), 0.11)
            part = outer * ramp(lung.v - from_v - 0.06, 0.16) * lung.edge * (1.0 - 0.8 * lung.cover)
            mesh = textures.net(film.size, lung.a * scale + shift[0], lung.v * scale + shift[1])
            lung.add += dense * (mesh - 0.1) * part
            lung.keep *= 1.0 - 0.1 * part
            v = np.linspace(from_v + 0.03, an.dome[side] + 0.06, 9)
            a = np.linspace(an.medial[side] + 0.08, an.width[side] - 0.02, 9)
            outlines.append(
                np.concatenate([to_points(side, wall(an, side, v), v),
                                to_points(side, a, dome(an, side, a))])
            )
        return outlines

    return anatomy, paint
