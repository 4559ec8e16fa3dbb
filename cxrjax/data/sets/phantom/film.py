"""From anatomy to film: adds up centimetres of water along the beam and develops them to gray."""

from __future__ import annotations

import functools
import math

import numpy as np

from cxrjax.data.sets.phantom import textures
from cxrjax.data.sets.phantom.anatomy import (
    SIGN,
    Anatomy,
    Pose,
    apex,
    band,
    bell,
    dome,
    ellipse,
    heart_distance,
    line,
    lung_distance,
    pleura_distance,
    ramp,
    wall,
)


@functools.lru_cache(maxsize=8)
def _pixels(size: int) -> np.ndarray:
    x = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    x.setflags(write=False)
    return x


class Lung:
    """One side of the film while it is being painted.

    Attributes:
      a, v: position of the pixels (see _phantom_anatomy); u = SIGN[side] * a.
      inside: distance into the lung field, heart included.
      pleura: distance from the costal pleura, and `edge` the antialiased lung field.
      cover: share of the lung's depth that the heart takes.
      air: cm of air before any finding.
      keep: share of the air that stays air; findings multiply it down.
      add: cm of water that findings bring beside that (negative for more air).
      clear: share of the vessels that still shows.
      open: 1 where the field belongs to aerated lung; findings take pleural space away.
    """

    def __init__(self, anatomy: Anatomy, side: int, columns: slice, u, v, pixel: float):
        self.side, self.columns, self.pixel = side, columns, pixel
        self.a = u[:, columns] * np.float32(SIGN[side])
        self.v = np.ascontiguousarray(v[:, columns])
        self.inside = lung_distance(anatomy, side, self.a, self.v)
        self._anatomy = anatomy
        self.keep = np.ones_like(self.a)
        self.add = np.zeros_like(self.a)
        self.clear = np.ones_like(self.a)
        self.open = np.ones_like(self.a)

    @functools.cached_property
    def edge(self) -> np.ndarray:
        return ramp(self.inside, 0.004 + self.pixel)

    @functools.cached_property
    def pleura(self) -> np.ndarray:
        return pleura_distance(self._anatomy, self.side, self.a, self.v)


class Film:
    """A film in the making: `lungs` are painted on by the findings, then `develop` is called."""

    def __init__(self, anatomy: Anatomy, pose: Pose, size: int):
        self.anatomy, self.pose, self.size = anatomy, pose, size
        x = _pixels(size)
        c, s = math.cos(pose.angle) / pose.zoom, math.sin(pose.angle) / pose.zoom
        x, y = x[None, :] - pose.shift[0], x[:, None] - pose.shift[1]
        self.u = (c * x + s * y).astype(np.float32)
        self.v = (c * y - s * x + 0.5).astype(np.float32)
        self.pixel = 1.0 / (size * pose.zoom)
        self.add = np.zeros_like(self.u)  # cm of water that lie behind the heart
        self.heart = heart_distance(anatomy, self.u, self.v)
        ends = self.u[[0, -1]]
        left = slice(0, int(np.sum(ends.min(axis=0) < -0.02)))
        right = slice(size - int(np.sum(ends.max(axis=0) > 0.02)), size)
        self.lungs = tuple(
            Lung(anatomy, side, columns, self.u, self.v, self.pixel)
            for side, columns in enumerate((left, right))
        )
        # A thicker layer of heart lies further in from its rim; some lung stays behind and before.
        cover = 0.55 * ramp(self.heart, 0.006 + self.pixel)
        cover += 0.35 * np.minimum(np.maximum(self.heart, 0.0) * 16.0, 1.0)
        for lung in self.lungs:
            lung.cover = cover[:, lung.columns]
            depth = 0.35 + 0.65 * (1.0 - np.exp(np.maximum(lung.inside, 0.0) * (-1 / 0.06)))
            lung.air = anatomy.air * lung.edge * depth * (1.0 - lung.cover)
            round_off = np.square(lung.a * (1.0 / anatomy.width[lung.side]))
            lung.air *= 1.0 - 0.22 * np.square(round_off)

    def to_film(self, points: np.ndarray) -> np.ndarray:
        """(u, v) [n, 2] to film fractions (x, y) [n, 2]."""
        pose = self.pose
        u, v = points[:, 0], points[:, 1] - 0.5
        c, s = math.cos(pose.angle) * pose.zoom, math.sin(pose.angle) * pose.zoom
        x = c * u - s * v + 0.5 + pose.shift[0]
        y = s * u + c * v + 0.5 + pose.shift[1]
        return np.stack([x, y], axis=1)

    def hilum(self, side: int) -> tuple[float, float]:
        """(a, v) of the lung root; the left one stands higher."""
        return 0.1, self.anatomy.knob[1] + (0.135, 0.115)[side]

    def _trunk(self) -> np.ndarray:
        """Trunk, shoulders and arms without lungs or bones."""
        an, a, v = self.anatomy, np.abs(self.u), self.v
        low = np.minimum(v, 0.72)
        outer = 0.5 * (wall(an, 0, low) + wall(an, 1, low)) + an.wall
        across = np.sqrt(np.maximum(1.0 - np.square(np.square(a / outer)), 0.0))
        along = 0.86 + 0.14 * ramp(v - 0.3, 0.4) + 0.16 * ramp(v - 0.8, 0.25)
        trunk = an.thickness * across * along
        arm_at = outer + an.arms + 0.06 + 0.12 * (v - 0.3)
        arm = np.sqrt(np.maximum(1.0 - np.square((a - arm_at) * (1 / 0.062)), 0.0))
        arm *= 9.0 * ramp(v - 0.14, 0.12)
        axilla = (0.62 * an.thickness) * ramp(0.3 - v + 0.9 * (a - outer), 0.14)
        axilla *= ramp(arm_at + 0.03 - a, 0.05)
        body = np.maximum(np.maximum(trunk, arm), axilla)
        shoulder = 0.33 * np.maximum(a - 0.08, 0.0) + 5.0 * np.square(np.maximum(a - 0.41, 0.0))
        top = v - shoulder - 0.005
        over = 1.0 - np.exp(np.maximum(top, 0.0) * (-1 / 0.04))
        neck = 0.62 * np.sqrt(np.maximum(1.0 - np.square(a * (1 / 0.1)), 0.0))
        return body * np.maximum(over, neck * ramp(0.2 - v, 0.2))

    def _bones(self, lung: Lung) -> np.ndarray:
        an, a, v, px = self.anatomy, lung.a, lung.v, self.pixel
        soft = 0.004 + px
        # Ribs repeat downwards, so that the distance to the nearest one gives them all.
        sag = (an.rib_bend + 1.2 * v + 3.0 * np.maximum(0.25 - v, 0.0)) * np.square(a - 0.11)
        phase = (v - sag) * (1 / an.rib_gap) + an.rib_start
        near = np.abs(phase - np.floor(phase) - 0.5) * an.rib_gap
        rib = 0.5 * ramp(0.0125 - near, 2 * soft) + 0.75 * line(near - 0.0125, 0.0028, px)
        phase = (v + 0.62 * a - 0.5 * a * a) * (1 / an.rib_gap) + 1.6 * an.rib_start + 0.3
        near = np.abs(phase - np.floor(phase) - 0.5) * an.rib_gap
        front = 0.28 * ramp(0.015 - near, 3 * soft) + 0.3 * line(near - 0.0145, 0.0035, px)
        rib += front * ramp(a - 0.16, 0.08) * ramp(v - 0.2, 0.1)
        edge = wall(an, lung.side, v) + 0.012 - a
        cage = ramp(edge, 2 * soft) * ramp(a - 0.045, 0.03)
        cage *= ramp(v - apex(an, lung.side, a) + 0.015, 0.02) * ramp(0.86 - v, 0.26)
        out = an.rib_gain * (rib * cage + 0.8 * line(edge - 0.008, 0.006, px) * ramp(v - 0.2, 0.2))
        # Clavicle: a bar with dense cortex, thicker at the sternum.
        top, slope = an.clavicle
        across = v - top + slope * (a - 0.03) + 0.03 * np.sin((a - 0.03) * 17.0)
        half = 0.012 + 0.006 * np.maximum(1.0 - a * 12.0, 0.0)
        bar = 1.3 * ramp(half - np.abs(across), 2 * soft)
        bar += 1.0 * line(np.abs(across) - half + 0.002, 0.003, px)
        out += bar * ramp(a - 0.022, 0.012) * ramp(0.37 - a, 0.02)
        # Shoulder blade and the head of the humerus.
        edge = a - an.scapula - 0.22 * (v - 0.16)
        blade = 0.5 * ramp(edge, 2 * soft) + 0.6 * line(edge - 0.003, 0.003, px)
        out += blade * ramp(v - 0.15, 0.05) * ramp(0.42 - v + 0.3 * (a - 0.35), 0.05) * ramp(
            0.45 - a, 0.1
        )
        head = ellipse(a, v, (0.445, 0.17), (0.042, 0.048))
        out += 2.2 * np.sqrt(np.maximum(head, 0.0) * (1 / 0.042)) + ramp(head, 2 * soft)
        return out

    def _centre(self) -> np.ndarray:
        """Spine, windpipe and its two main branches."""
        an, u, v, px = self.anatomy, self.u, self.v, self.pixel
        beat = np.abs((v * (1 / an.vertebra)) % 1.0 - 0.5) * an.vertebra
        spine = 1.9 * band(u, an.spine, 0.012 + px)
        spine *= 1.0 - 0.35 * line(beat, 0.005, px)
        pedicles = bell(beat - 0.3 * an.vertebra, 0.006)
        spine += 0.8 * line(np.abs(u) - 0.5 * an.spine, 0.004, px) * pedicles
        carina = an.knob[1] + 0.065
        pipe = 3.0 * band(u - 0.01 * ramp(0.2 - v, 0.3) + 0.006, 0.02, 0.016 + px)
        pipe *= ramp(carina - v, 0.02)
        down = v - carina
        for side, slope in ((-1.0, 0.75), (1.0, 1.1)):
            away = side * (u + 0.006) - slope * (down + 0.012)
            pipe += 1.3 * band(away, 0.014, 0.016 + px) * ramp(down + 0.008, 0.02) * ramp(
                0.055 - down, 0.03
            )
        return spine - pipe

    def _belly(self, lung: Lung) -> np.ndarray:
        """Below the diaphragm: lung in the recess behind it, liver, gas in the stomach."""
        an = self.anatomy
        below = lung.v - dome(an, lung.side, lung.a)
        out = -1.8 * np.exp(np.maximum(below, 0.0) * (-1 / 0.03)) * ramp(lung.a - 0.07, 0.06)
        out *= ramp(below, 0.004 + self.pixel) * ramp(wall(an, lung.side, lung.v) - lung.a, 0.03)
        if lung.side == 0:
            out += 1.5 * ramp(below - 0.02, 0.06) * ramp(0.3 - lung.a, 0.2)
        elif an.stomach[3]:
            at, deep, radius, gas = an.stomach
            at_v = float(dome(an, 1, at)) + deep + 0.4 * radius
            bubble = ellipse(lung.a, lung.v, (at, at_v), (1.5 * radius, radius))
            level = ramp(at_v + 0.45 * radius - lung.v, 0.004 + self.pixel)
            out -= gas * level * ramp(bubble, 0.012 + self.pixel)
        return out

    def develop(self, rng: np.random.Generator, clouds_rng: np.random.Generator) -> np.ndarray:
        """Gray values f32[H, W] in 0..255; `rng` gives the quantum noise only."""
        an, pose, size = self.anatomy, self.pose, self.size
        water = self._trunk() + self._centre() + self.add
        murk = textures.clouds(clouds_rng, size, 24)
        fine = textures.clouds(clouds_rng, size, 60)
        water += 0.35 * textures.clouds(clouds_rng, size, 7) * ramp(self.v - 0.7, 0.2)
        for lung in self.lungs:
            a, v, side = lung.a, lung.v, lung.side
            stays = lung.air * lung.keep
            at, height = self.hilum(side)
            tree = textures.vessels(an.vessels[side], size, a - at, v - height)
            low = ramp(v - height, 0.12)
            gain = an.upper_vessel_gain + (an.vessel_gain - an.upper_vessel_gain) * low
            root = bell(a - at - 0.004, 0.019) * bell(v - height + 0.012, 0.026)
            root += 0.8 * bell(a - at - 0.022 - 0.2 * (v - height), 0.014) * bell(
                v - height - 0.045, 0.032
            )
            flow = (tree * gain + an.hilum * root) * lung.edge * (1.0 - 0.7 * lung.cover)
            haze = (0.22 * murk[:, lung.columns] + 0.15 * fine[:, lung.columns]) * lung.edge
            side_water = (flow * lung.keep + haze) * lung.clear - stays + lung.add
            water[:, lung.columns] += side_water + self._bones(lung) + self._belly(lung)
        if an.breast:
            x, y = an.breast_at
            for lung in self.lungs:
                q = ellipse(lung.a, lung.v, (x, y), (0.17, 0.15)) * (1 / 0.15)
                water[:, lung.columns] += an.breast * np.sqrt(np.maximum(q, 0.0)) * ramp(
                    lung.v - y, 0.2
                )
        gray = 1.0 / (1.0 + np.exp((pose.centre - water) * (1 / pose.width)))
        black = 1.0 / (1.0 + math.exp(pose.centre / pose.width))
        gray = (gray - black) * (pose.peak / (1.0 - black))
        # Coarser pixels gather more quanta; part of the noise is structure that stays.
        sigma = pose.noise * (size / 256.0) ** 0.5
        gray += sigma * rng.standard_normal(gray.shape, np.float32)
        return self._collimate(gray)

    def _collimate(self, gray: np.ndarray) -> np.ndarray:
        left, top, right, bottom = self.pose.shutter
        if max(self.pose.shutter) > 0:
            x = _pixels(self.size) + 0.5
            soft = 0.004 + 1.0 / self.size
            across = ramp(x - left, soft) * ramp(1 - right - x, soft)
            down = ramp(x - top, soft) * ramp(1 - bottom - x, soft)
            gray = gray * across[None, :] * down[:, None]
        return gray

    def lung_mask(self) -> np.ndarray:
        """Aerated lung beside heart, great vessels and pleural disease: u8[H, W] in {0, 1}."""
        mask = np.zeros((self.size, self.size), np.uint8)
        for lung in self.lungs:
            inside = (lung.inside > 0) & (self.heart[:, lung.columns] < 0) & (lung.open > 0.5)
            mask[:, lung.columns] |= inside
        return mask

    def heart_tip(self) -> tuple[float, float]:
        """(u, v) of the apex of the heart."""
        at, (major, _) = self.anatomy.heart_at, self.anatomy.heart_axes
        tilt = self.anatomy.heart_tilt
        return at[0] + 0.75 * major * math.cos(tilt), at[1] + 0.75 * major * math.sin(tilt)
