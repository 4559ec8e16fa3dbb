"""The fourteen findings of the phantom, one function each.

`sign(rng, anatomy) -> (anatomy, paint)`: the first part bends the anatomy (a raised diaphragm, a
wider heart), `paint(film)` then changes the film's lungs and returns the outline of each place that
it changed, as points (u, v). All of a finding's randomness comes from its own `rng`, so that taking
a finding away leaves everything else on the film as it was.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cxrjax.data.sets.phantom import textures
from cxrjax.data.sets.phantom.anatomy import (
    Anatomy,
    apex,
    band,
    dome,
    draw_sides,
    heart_span,
    line,
    lung_point,
    lung_reach,
    ramp,
    ring,
    to_points,
    wall,
)
from cxrjax.data.sets.phantom.film import Film
from cxrjax.data.sets.phantom.opacities import (
    consolidation,
    edema,
    fibrosis,
    infiltration,
    mass,
    nodule,
    pneumonia,
)


def atelectasis(rng, anatomy):
    """Plate-like bands above a raised half of the diaphragm."""
    side = int(rng.integers(2))
    lift = rng.uniform(0.025, 0.07)
    plates = [
        (rng.uniform(0.3, 0.62), rng.uniform(0.66, 0.92), rng.uniform(0.055, 0.1),
         rng.normal(0, 0.16), rng.uniform(0.0045, 0.009), rng.uniform(2.2, 4.2))
        for _ in range(int(rng.integers(1, 4)))
    ]
    old = anatomy
    domes = list(anatomy.dome)
    domes[side] -= lift
    anatomy = dataclasses.replace(anatomy, dome=tuple(domes))

    def paint(film: Film) -> list[np.ndarray]:
        an, lung = film.anatomy, film.lungs[side]
        outline = []
        for p, q, half, tilt, sigma, water in plates:
            a0, v0 = lung_point(an, side, p, q)
            along = lung.a - a0
            across = lung.v - v0 - tilt * along + 1.2 * np.square(along)
            plate = line(across, sigma, film.pixel) * band(along, half, 0.03) * lung.edge
            lung.add += water * plate * (1.0 - 0.6 * lung.cover)
            ends = np.array([-half, half])
            outline.append(to_points(side, a0 + ends, v0 + tilt * ends - 1.2 * ends**2))
        # Crowded, badly aired lung under the plates.
        base = ramp(lung.v - dome(an, side, lung.a) + 0.06, 0.1)
        lung.keep *= 1.0 - 0.16 * base
        a = np.linspace(an.medial[side] + 0.04, an.width[side], 9)
        outline += [to_points(side, a, dome(an, side, a)), to_points(side, a, dome(old, side, a))]
        return [np.concatenate(outline)]

    return anatomy, paint


def cardiomegaly(rng, anatomy):
    """A heart wider than half of the chest."""
    target = rng.uniform(0.55, 0.68)
    (major, minor), at = anatomy.heart_axes, anatomy.heart_at
    cage = sum(anatomy.width)
    rim = heart_span(anatomy)[:, 0]
    grow = max(target * cage / float(rim.max() - rim.min()), 1.1)
    anatomy = dataclasses.replace(
        anatomy,
        heart_axes=(major * grow, minor * grow**0.75),
        heart_at=(at[0] + 0.03 * (grow - 1), at[1] - 0.03 * (grow - 1)),
    )

    def paint(film: Film) -> list[np.ndarray]:
        points = heart_span(film.anatomy)
        points[:, 1] = np.minimum(points[:, 1], max(film.anatomy.dome) + 0.04)
        return [points]

    return anatomy, paint


def effusion(rng, anatomy):
    """Fluid in the costophrenic angle with a meniscus that climbs the wall."""
    sides = draw_sides(rng, 0.35)
    heights = rng.uniform(0.055, 0.16, 2) + (rng.random(2) < 0.3) * rng.uniform(0.05, 0.22, 2)
    heights = heights.tolist()
    climbs = rng.uniform(0.06, 0.12, 2).tolist()

    def surface(an: Anatomy, side: int, a):
        reach = wall(an, side, np.asarray(0.72))
        angle = dome(an, side, reach - 0.01)
        off = np.maximum(reach - a, 0.0)
        return angle - heights[side] + climbs[side] * (1.0 - np.exp(-off / 0.06))

    def paint(film: Film) -> list[np.ndarray]:
        outlines = []
        for side in sides:
            lung = film.lungs[side]
            level = surface(film.anatomy, side, lung.a)
            fluid = ramp(lung.v - level, 0.022 + film.pixel)
            lung.keep *= 1.0 - 0.97 * fluid
            lung.clear *= 1.0 - fluid
            lung.open *= 1.0 - fluid
            a = np.linspace(film.anatomy.medial[side], film.anatomy.width[side], 25)
            top, floor = surface(film.anatomy, side, a), dome(film.anatomy, side, a)
            wet = top < floor
            a, top, floor = a[wet], top[wet], floor[wet]
            outlines.append(
                np.concatenate([to_points(side, a, top), to_points(side, a, floor)])
            )
        return outlines

    return anatomy, paint


def pneumothorax(rng, anatomy):
    """Black rim without vessels between the wall and the line of the shrunken lung."""
    side = int(rng.integers(2))
    deep = rng.uniform(0.032, 0.1)
    end = rng.uniform(0.45, 0.95)
    darker = rng.uniform(1.6, 2.6)

    def width(an: Anatomy, v):
        foot = an.apex[side] + end * (an.dome[side] - an.apex[side]) + 0.08
        t = np.minimum(np.maximum((foot - v) / 0.5, 0.0), 1.0)
        return deep * t * (2.0 - t)

    def paint(film: Film) -> list[np.ndarray]:
        an, lung = film.anatomy, film.lungs[side]
        depth = width(an, lung.v)
        gap = depth - lung.pleura
        rim = ramp(gap, 0.003 + film.pixel) * (depth > 0.002)
        lung.clear *= 1.0 - rim
        lung.open *= 1.0 - rim
        lung.add -= darker * rim * ramp(lung.inside, 0.008 + film.pixel) * (1.0 - lung.cover)
        pleura = line(gap, 0.0022, film.pixel) * ramp(depth - 0.004, 0.01)
        lung.add += 2.4 * pleura * lung.edge
        lung.keep *= 1.0 - (0.25 * deep / 0.1) * (1.0 - rim)
        v = np.linspace(an.apex[side], an.dome[side] + 0.05, 40)
        v = v[width(an, v) > 0.01]
        outer = wall(an, side, v)
        top = np.linspace(an.medial[side], 0.22, 9)
        return [
            np.concatenate([
                to_points(side, outer, v), to_points(side, outer - width(an, v), v),
                to_points(side, top, apex(an, side, top)),
                to_points(side, top, apex(an, side, top) + deep),
            ])
        ]

    return anatomy, paint


def emphysema(rng, anatomy):
    """Dark, long lungs over a flat diaphragm, few vessels, a narrow heart."""
    much = rng.uniform(0.5, 1.0)
    major, minor = anatomy.heart_axes
    anatomy = dataclasses.replace(
        anatomy,
        dome=tuple(d + 0.065 * much for d in anatomy.dome),
        dome_bend=tuple(b * (1 - 0.72 * much) for b in anatomy.dome_bend),
        heart_axes=(major * (1 - 0.14 * much), minor * (1 - 0.12 * much)),
        heart_at=(anatomy.heart_at[0] - 0.01 * much, anatomy.heart_at[1] + 0.04 * much),
        heart_tilt=anatomy.heart_tilt + 0.2 * much,
        air=anatomy.air * (1 + 0.17 * much),
        vessel_gain=anatomy.vessel_gain * (1 - 0.5 * much),
        upper_vessel_gain=anatomy.upper_vessel_gain * (1 - 0.6 * much),
    )

    def paint(film: Film) -> list[np.ndarray]:
        an = film.anatomy
        outlines = []
        for side in (0, 1):
            v = np.linspace(an.apex[side], an.dome[side], 9)
            a = np.linspace(an.medial[side], an.width[side] - 0.01, 9)
            outlines.append(
                np.concatenate([
                    to_points(side, wall(an, side, v), v), to_points(side, a, dome(an, side, a)),
                    to_points(side, an.medial[side], v),
                ])
            )
        return outlines

    return anatomy, paint


def pleural_thickening(rng, anatomy):
    """A dense, uneven rim along the lateral wall that spares the costophrenic angle."""
    sides = draw_sides(rng, 0.4)
    thick = rng.uniform(0.014, 0.032, 2).tolist()
    first, last = rng.uniform(0.02, 0.3, 2).tolist(), rng.uniform(0.6, 0.85, 2).tolist()
    wavy = np.random.default_rng(rng.integers(2**32))
    dense = rng.uniform(0.4, 1.2)

    def paint(film: Film) -> list[np.ndarray]:
        an = film.anatomy
        outlines = []
        for side in sides:
            lung = film.lungs[side]
            high = an.dome[side] - an.apex[side]
            v0, v1 = an.apex[side] + first[side] * high, an.apex[side] + last[side] * high
            uneven = thick[side] * (1.0 + 0.4 * textures.wave(wavy, lung.v, 0.3))
            uneven *= ramp(lung.v - v0, 0.06) * ramp(v1 - lung.v, 0.06)
            rim = ramp(uneven - lung.pleura, 0.004 + film.pixel) * ramp(uneven, 0.006)
            lung.keep *= 1.0 - 0.9 * rim
            lung.add += dense * rim * lung.edge
            lung.clear *= 1.0 - rim
            lung.open *= 1.0 - rim
            v = np.linspace(v0 - 0.02, v1 + 0.02, 12)
            edge = wall(an, side, v)
            inner = np.minimum(edge, lung_reach(an, side, v)) - 1.3 * thick[side]
            outlines.append(np.concatenate([to_points(side, edge, v), to_points(side, inner, v)]))
        return outlines

    return anatomy, paint


def hernia(rng, anatomy):
    """A round pouch behind the heart: gas over fluid within a wall."""
    u = rng.uniform(-0.015, 0.075)
    radius = rng.uniform(0.042, 0.07)
    tall = rng.uniform(0.85, 1.05)
    gas = rng.uniform(5.0, 9.0)
    fluid = rng.uniform(0.1, 0.55)
    lift = rng.uniform(0.0, 0.03)

    def paint(film: Film) -> list[np.ndarray]:
        an, px = film.anatomy, film.pixel
        v = an.dome[1] - 0.25 * radius - lift
        x, y = (film.u - u) * (1 / radius), (film.v - v) * (1 / (tall * radius))
        inside = (1.0 - np.sqrt(x * x + y * y)) * radius
        pouch = ramp(inside, 0.006 + px)
        level = ramp(fluid * radius - (film.v - v), 0.004 + px)
        film.add += pouch * (2.0 - (gas + 2.0) * level) + 2.5 * line(inside - 0.003, 0.004, px)
        return [ring(1, (u, v), radius, tall)]

    return anatomy, paint


SIGNS = (
    atelectasis, cardiomegaly, effusion, infiltration, mass, nodule, pneumonia, pneumothorax,
    consolidation, edema, emphysema, fibrosis, pleural_thickening, hernia,
)
