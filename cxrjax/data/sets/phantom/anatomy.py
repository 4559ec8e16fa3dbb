"""The phantom's body: shapes of the chest in film fractions, and the water they amount to.

Coordinates: u runs to the right of the film (the patient's left), 0 at the midline; v runs down, 0
at the top of the film and 1 at its bottom; the film is 1 wide, about 40 cm of patient. `a = side*u`
is the distance from the midline into the lung of that side. Side 0 is the patient's right lung, on
the left of the film; side 1 the left lung. All shapes are formulas, so a film of any size shows
the same patient. Attenuation adds up in centimetres of water.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SIGN = (-1.0, 1.0)  # of u, by side
CM = 40.0  # centimetres per film width

Grid = np.ndarray | float  # a field over pixels, over points of an outline, or one value


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What a patient looks like on one film; pairs are (side 0, side 1)."""

    # lungs
    width: tuple[float, float]  # largest distance of the lateral wall from the midline
    taper: float  # how much narrower the cage is towards the apex
    apex: tuple[float, float]
    medial: tuple[float, float]
    dome: tuple[float, float]  # top of the diaphragm
    dome_at: float
    dome_bend: tuple[float, float]
    air: float  # cm of air where the lung is deepest
    vessels: tuple[int, int]  # which branching pattern
    vessel_gain: float
    upper_vessel_gain: float
    # heart and great vessels
    heart_at: tuple[float, float]
    heart_axes: tuple[float, float]
    heart_tilt: float
    knob: tuple[float, float, float]  # u, v, radius
    trunk: float
    cava: float
    hilum: float  # cm of vessel in the hila
    # bones and soft tissue
    spine: float  # half width
    vertebra: float  # height
    rib_gap: float
    rib_start: float
    rib_bend: float
    rib_gain: float
    clavicle: tuple[float, float]  # height at the sternum, slope
    scapula: float
    thickness: float  # cm of the trunk
    wall: float  # of the chest, as a fraction of the film
    breast: float  # cm, 0 for none
    breast_at: tuple[float, float]
    arms: float  # how far the arms hang from the trunk
    stomach: tuple[float, float, float, float]  # u, v below the dome, radius, cm of gas


class Pose(NamedTuple):
    """How the patient stands before the film, and how the film was exposed."""

    shift: tuple[float, float]
    angle: float  # radians
    zoom: float
    centre: float  # cm of water shown as mid-gray
    width: float  # cm of water: the slope of the characteristic curve
    peak: float  # gray of a beam that nothing survives
    noise: float
    shutter: tuple[float, float, float, float]  # collimated margin: left, top, right, bottom


def sample_patient(rng: np.random.Generator) -> Anatomy:
    """The patient's own build: everything that stays from film to film."""
    wide = rng.normal(0, 1)
    width = 0.365 + 0.016 * wide
    female = rng.random() < 0.45
    heavy = rng.gamma(3.0, 1 / 3.0)
    dome = 0.7 + rng.normal(0, 0.022)
    ctr = min(max(rng.normal(0.445, 0.022), 0.39), 0.485)  # heart width over cage width
    reach = 2 * width * ctr
    heart_u = 0.052 + rng.normal(0, 0.006)
    return Anatomy(
        width=(width, width * (1 + rng.normal(0, 0.02))),
        taper=0.34 + rng.normal(0, 0.05),
        apex=(0.105 + rng.normal(0, 0.006), 0.105 + rng.normal(0, 0.006)),
        medial=(0.062 + rng.normal(0, 0.004), 0.064 + rng.normal(0, 0.004)),
        dome=(dome, dome + 0.026 + rng.normal(0, 0.012)),
        dome_at=0.165 + rng.normal(0, 0.01),
        dome_bend=(2.7 + rng.normal(0, 0.35), 2.5 + rng.normal(0, 0.35)),
        air=10.0 + rng.normal(0, 0.4),
        vessels=(int(rng.integers(12)), int(rng.integers(12))),
        vessel_gain=rng.uniform(1.5, 2.2),
        upper_vessel_gain=rng.uniform(1.0, 1.4),
        heart_at=(heart_u, dome - 0.085 + rng.normal(0, 0.008)),
        heart_axes=(reach * 0.56, reach * rng.uniform(0.37, 0.41)),
        heart_tilt=rng.uniform(0.55, 0.75),
        knob=(0.052 + rng.normal(0, 0.005), 0.3 + rng.normal(0, 0.012), rng.uniform(0.032, 0.046)),
        trunk=rng.uniform(0.035, 0.05),
        cava=rng.uniform(0.03, 0.045),
        hilum=rng.uniform(3.0, 4.5),
        spine=rng.uniform(0.038, 0.045),
        vertebra=rng.uniform(0.046, 0.054),
        rib_gap=rng.uniform(0.068, 0.078),
        rib_start=rng.uniform(0, 1),
        rib_bend=rng.uniform(1.3, 2.2),
        rib_gain=rng.uniform(0.75, 1.15),
        clavicle=(0.205 + rng.normal(0, 0.012), rng.uniform(0.18, 0.34)),
        scapula=rng.uniform(0.28, 0.34),
        thickness=17.0 + 1.6 * heavy + rng.normal(0, 0.6),
        wall=0.03 + 0.016 * heavy,
        breast=rng.uniform(1.0, 4.0) * (0.6 + 0.4 * heavy) if female else 0.0,
        breast_at=(rng.uniform(0.19, 0.22), rng.uniform(0.6, 0.68)),
        arms=rng.uniform(0.02, 0.09),
        stomach=(
            rng.uniform(0.1, 0.19),
            rng.uniform(0.045, 0.075),
            rng.uniform(0.03, 0.06),
            float(rng.choice([0.0, 5.0, 8.0], p=[0.25, 0.35, 0.4])),
        ),
    )


def sample_pose(rng: np.random.Generator, portable: bool) -> Pose:
    """One exposure; a portable (AP) film is flatter, noisier and less well centred."""
    loose = 1.6 if portable else 1.0
    shutter = np.zeros(4)
    if rng.random() < 0.3:
        shutter = rng.uniform(0.0, 0.03, 4) * (rng.random(4) < 0.6)
    return Pose(
        shift=(rng.normal(0, 0.012) * loose, rng.normal(0, 0.014) * loose),
        angle=math.radians(rng.normal(0, 1.6) * loose),
        zoom=1.0 + rng.normal(0, 0.03),
        centre=rng.normal(10.3, 0.6),
        width=rng.uniform(3.4, 4.6) * (1.12 if portable else 1.0),
        peak=rng.uniform(215, 248),
        noise=rng.uniform(1.5, 3.0) * loose,
        shutter=tuple(float(x) for x in shutter),
    )


def breathe(anatomy: Anatomy, rng: np.random.Generator, portable: bool) -> Anatomy:
    """The same patient on this film: depth of breath, and the larger heart of an AP film."""
    depth = rng.normal(0, 0.01) - (0.022 if portable else 0.0)
    major, minor = anatomy.heart_axes
    larger = 1.05 if portable else 1.0
    return dataclasses.replace(
        anatomy,
        dome=(anatomy.dome[0] + depth, anatomy.dome[1] + depth),
        heart_at=(anatomy.heart_at[0], anatomy.heart_at[1] + 0.8 * depth),
        heart_axes=(major * larger, minor * larger),
        scapula=anatomy.scapula - (0.05 if portable else 0.0),
        clavicle=(anatomy.clavicle[0] - (0.03 if portable else 0.0), anatomy.clavicle[1]),
        rib_start=anatomy.rib_start + rng.normal(0, 0.05),
        arms=anatomy.arms * rng.uniform(0.7, 1.3),
    )


# Small shape tools. `ramp` is the antialiased step that every edge uses.


def ramp(x: Grid, width: float) -> Grid:
    """0 below -width/2, 1 above width/2, straight in between."""
    return np.minimum(np.maximum(x * (1.0 / width) + 0.5, 0.0), 1.0)


def band(x: Grid, half: float, width: float) -> Grid:
    """1 where |x| < half, with soft edges of `width`."""
    return ramp(half - np.abs(x), width)


def bell(x: Grid, sigma: float) -> Grid:
    """exp(-x^2 / 2 sigma^2)"""
    return np.exp(np.square(x) * (-0.5 / sigma**2))


def line(x: Grid, sigma: float, pixel: float) -> Grid:
    """A bell whose area stays the same when the pixel is too coarse for it."""
    wide = math.hypot(sigma, 0.45 * pixel)
    return bell(x, wide) * (sigma / wide)


def soft_min(x: Grid, y: Grid, k: float) -> Grid:
    """The smaller of two, rounded over a distance k where they meet."""
    h = np.maximum(k - np.abs(x - y), 0.0)
    return np.minimum(x, y) - h * h * (0.25 / k)


def soft_max(x: Grid, y: Grid, k: float) -> Grid:
    """The larger of two, rounded over a distance k where they meet."""
    h = np.maximum(k - np.abs(x - y), 0.0)
    return np.maximum(x, y) + h * h * (0.25 / k)


def wall(anatomy: Anatomy, side: int, v: Grid) -> Grid:
    """a of the lateral lung border at height v."""
    return anatomy.width[side] * (1.0 - anatomy.taper * np.square((0.7 - v) / 0.6))


def dome(anatomy: Anatomy, side: int, a: Grid) -> Grid:
    """v of the diaphragm at distance a."""
    return anatomy.dome[side] + anatomy.dome_bend[side] * np.square(a - anatomy.dome_at)


def apex(anatomy: Anatomy, side: int, a: Grid) -> Grid:
    """v of the upper lung border at distance a."""
    return anatomy.apex[side] + 3.4 * np.square(a - 0.145)


def lung_distance(anatomy: Anatomy, side: int, a: Grid, v: Grid) -> Grid:
    """Distance into the lung field (heart not yet taken away), negative outside."""
    off = a - anatomy.dome_at
    floor = dome(anatomy, side, a) - v
    floor = floor / np.sqrt(1.0 + np.square(2 * anatomy.dome_bend[side] * off))
    off = a - 0.145
    top = (v - apex(anatomy, side, a)) / np.sqrt(1.0 + np.square(6.8 * off))
    lateral = soft_min(wall(anatomy, side, v) - a, top, 0.05)
    # Fat and the great veins fill the corner between heart and diaphragm.
    corner = 0.045 * ramp(v - anatomy.dome[side] + 0.03, 0.1)
    inner = soft_min(a - anatomy.medial[side] - corner, top, 0.04)
    return soft_min(soft_min(lateral, inner, 0.02), floor, 0.006)


def lung_point(anatomy: Anatomy, side: int, p: float, q: float) -> tuple[float, float]:
    """(a, v) at p from the medial (0) to the lateral (1) border, q from apex (0) to base (1)."""
    v = anatomy.apex[side] + q * (anatomy.dome[side] - anatomy.apex[side])
    a = anatomy.medial[side] + p * (float(wall(anatomy, side, v)) - anatomy.medial[side])
    top, base = float(apex(anatomy, side, a)), float(dome(anatomy, side, a))
    return a, top + q * (base - top)


def ellipse(u, v, at, axes, tilt=0.0):
    """Roughly the distance into an ellipse (exact in sign), in film fractions."""
    x, y = u - at[0], v - at[1]
    if tilt:
        c, s = math.cos(tilt), math.sin(tilt)
        x, y = c * x + s * y, c * y - s * x
    return (1.0 - np.sqrt(np.square(x / axes[0]) + np.square(y / axes[1]))) * min(axes)


def heart_distance(anatomy: Anatomy, u: Grid, v: Grid) -> Grid:
    """Distance into the shadow of heart and great vessels, negative outside."""
    at, (major, minor) = anatomy.heart_at, anatomy.heart_axes
    ventricle = ellipse(u, v, at, (major, minor), anatomy.heart_tilt)
    atrium = ellipse(u, v, (at[0] - 0.62 * minor, at[1] + 0.01), (0.72 * minor, 0.95 * minor))
    heart = soft_max(ventricle, atrium, 0.03)
    x, y, radius = anatomy.knob
    knob = ellipse(u, v, (x, y), (radius, radius))
    trunk = ellipse(u, v, (0.052, y + 0.105), (anatomy.trunk, 0.07))
    cava = ellipse(u, v, (-0.045, y + 0.1), (anatomy.cava, 0.14))
    great = soft_max(soft_max(trunk, cava, 0.01), knob, 0.006)
    return soft_max(heart, great, 0.025)


def heart_span(anatomy: Anatomy) -> Float[np.ndarray, "n 2"]:
    """Points (u, v) on the rim of the heart proper, [n, 2]."""
    at, (major, minor) = anatomy.heart_at, anatomy.heart_axes
    t = np.linspace(0, 2 * np.pi, 33)
    c, s = math.cos(anatomy.heart_tilt), math.sin(anatomy.heart_tilt)
    x, y = major * np.cos(t), minor * np.sin(t)
    rim = np.stack([at[0] + c * x - s * y, at[1] + s * x + c * y], axis=1)
    left = at[0] - 0.62 * minor - 0.72 * minor
    return np.concatenate([rim, [[left, at[1]]]])


# Places for findings, and the outlines that become boxes.


def draw_sides(rng: np.random.Generator, both: float) -> tuple[int, ...]:
    """One side of the chest, or with probability `both` the two."""
    first = int(rng.integers(2))
    return (0, 1) if rng.random() < both else (first,)


def to_points(side: int, a: Grid, v: Grid) -> Float[np.ndarray, "n 2"]:
    """Points (u, v) of an outline, [n, 2], from distances and heights on one side."""
    a, v = np.broadcast_arrays(np.asarray(a, float), np.asarray(v, float))
    return np.stack([SIGN[side] * a.ravel(), v.ravel()], axis=1)


def ring(
    side: int, at: tuple[float, float], radius: float, tall: float = 1.0
) -> Float[np.ndarray, "n 2"]:
    """Points (u, v) of a circle about (a, v), or of an ellipse `tall` times as high as wide."""
    t = np.linspace(0, 2 * np.pi, 17)
    return to_points(side, at[0] + radius * np.cos(t), at[1] + tall * radius * np.sin(t))


def within_lung(
    anatomy: Anatomy, side: int, points: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    """The points (u, v), those outside the lung moved to its border."""
    a, v = SIGN[side] * points[:, 0], points[:, 1]
    a = np.clip(a, anatomy.medial[side], np.maximum(wall(anatomy, side, v), 0.1))
    return to_points(side, a, np.clip(v, apex(anatomy, side, a), dome(anatomy, side, a)))


def in_sight(
    rng: np.random.Generator, anatomy: Anatomy, side: int, p: tuple, q: tuple, margin: float
) -> tuple[float, float]:
    """A place in the lung that the heart does not hide."""
    at = lung_point(anatomy, side, max(p), sum(q) / 2)
    for _ in range(8):
        x, y = rng.uniform(*p), rng.uniform(*q)
        a, v = lung_point(anatomy, side, x, y)
        if heart_distance(anatomy, np.array([SIGN[side] * a]), np.array([v]))[0] < -margin:
            return a, v
    return at


def pleura_distance(anatomy: Anatomy, side: int, a: Grid, v: Grid) -> Grid:
    """Distance from the costal pleura inwards: lateral wall and apex, not the diaphragm."""
    off = a - 0.145
    top = (v - apex(anatomy, side, a)) / np.sqrt(1.0 + np.square(6.8 * off))
    return soft_min(wall(anatomy, side, v) - a, top, 0.06)


def lung_reach(anatomy: Anatomy, side: int, v: np.ndarray) -> np.ndarray:
    """a where the apex' outline meets height v on its lateral slope."""
    return 0.145 + np.sqrt(np.maximum(v - anatomy.apex[side], 0.0) / 3.4)
