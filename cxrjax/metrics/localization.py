"""Scores of heat maps against radiologists' boxes, with the control of a random position (host).

Conventions. A box is (x0, y0, x1, y1) with its edges, so its area is (x1 - x0)(y1 - y0); all boxes
and points of one call share one unit and one film size. One row is one marked box; the rows of one
`case` (a finding on a film that has several boxes of it) share prediction and point. A box counts
for its finding; the mean is over findings that have boxes, each with the same weight.

What is compared with the marked box, where a map yields several regions, is the caller's `rule`:
  'largest'  the region with most pixels, the first of `cam.boxes` (one guess a map; Zhou 2016);
  'any'      the best of all regions, as in Wang 2017: wrong ones cost nothing, so the number of
             regions stands beside the score;
  'hull'     the one box round all regions.
A map without a region scores 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cxrjax.errors import UserError

RULES = ("largest", "any", "hull")
# A marked box counts as found where the overlap is above one of these.
IOU_THRESHOLDS = (0.1, 0.3, 0.5)
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.9)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Localisation of K findings; a finding without boxes has NaN.

    Attributes:
      boxes: marked boxes per finding; cases: films on which the finding is marked.
      iou: part of the boxes found with IoU above each of `IOU_THRESHOLDS`.
      iobb: the same for intersection over the predicted box and `IOBB_THRESHOLDS`. A small region
        inside the box scores 1 here, so it is read together with the IoU.
      pointing: part of the cases whose highest point lies in a box (Zhang et al., ECCV 2016).
      regions: mean number of predicted boxes a map.
    """

    boxes: Int[np.ndarray, " k"]
    cases: Int[np.ndarray, " k"]
    iou: Float[np.ndarray, "k 3"]
    iobb: Float[np.ndarray, "k 4"]
    pointing: Float[np.ndarray, " k"]
    regions: Float[np.ndarray, " k"]

    def mean(self) -> dict[str, Any]:
        """Each score averaged over the findings that have boxes, and how many those are."""
        seen = self.boxes > 0
        names = ("iou", "iobb", "pointing", "regions")
        if not seen.any():
            return {"findings": 0} | {n: np.nan * getattr(self, n)[:1].mean(0) for n in names}
        return {"findings": int(seen.sum())} | {n: getattr(self, n)[seen].mean(0) for n in names}

    def as_dict(self, findings: Sequence[str]) -> dict[str, Any]:
        """JSON-able: {finding: {boxes, cases, iou: {threshold: part}, ...}, 'mean': {...}}."""

        def entry(iou: Any, iobb: Any, pointing: Any, regions: Any) -> dict[str, Any]:
            return {
                "iou": dict(zip(map(str, IOU_THRESHOLDS), map(float, iou))),
                "iobb": dict(zip(map(str, IOBB_THRESHOLDS), map(float, iobb))),
                "pointing": float(pointing),
                "regions": float(regions),
            }

        result = {}
        for i in np.flatnonzero(self.boxes):
            counts = {"boxes": int(self.boxes[i]), "cases": int(self.cases[i])}
            result[findings[i]] = counts | entry(
                self.iou[i], self.iobb[i], self.pointing[i], self.regions[i]
            )
        mean = self.mean()
        number = mean.pop("findings")
        if number:
            result["mean"] = {"findings": number} | entry(**mean)
        return result


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    return _area(np.concatenate([low, high], -1))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)


def iou(
    predicted: Float[np.ndarray, "*b n 4"], truth: Float[np.ndarray, "*b n 4"]
) -> Float[np.ndarray, "*b n"]:
    """Intersection over union, box by box (broadcasts); 0 where both are empty."""
    both = _intersection(predicted, truth)
    return _ratio(both, _area(predicted) + _area(truth) - both)


def iobb(
    predicted: Float[np.ndarray, "*b n 4"], truth: Float[np.ndarray, "*b n 4"]
) -> Float[np.ndarray, "*b n"]:
    """Intersection over the area of the PREDICTED box (Wang et al., CVPR 2017, section 4.2)."""
    return _ratio(_intersection(predicted, truth), _area(predicted))


def inside(
    points: Float[np.ndarray, "*b n 2"],
    truth: Float[np.ndarray, "*b n 4"],
    tolerance: int | float = 0.0,
) -> Bool[np.ndarray, "*b n"]:
    """Whether a point (x, y) is in its box, or at most `tolerance` away from it (Euclidean).

    The pointing game's authors allow 15 pixels (Zhang et al., ECCV 2016); none is the stricter game
    and the default. A NaN point (a map without a highest place) is never inside.
    """
    away = np.maximum(np.maximum(truth[..., :2] - points, points - truth[..., 2:]), 0.0)
    return np.hypot(away[..., 0], away[..., 1]) <= tolerance


def peaks(
    heatmaps: Float[np.ndarray, "n h w"],
    size: tuple[int | float, int | float] | None = None,
) -> Float[np.ndarray, "n 2"]:
    """The centre (x, y) of each map's highest pixel, the first in reading order; NaN if flat.

    Args:
      size: (height, width) of the film in whose units the point is wanted; None for map pixels.
    """
    number, height, width = heatmaps.shape
    flat = heatmaps.reshape(number, -1)
    row, col = np.divmod(flat.argmax(1), width)
    scale_y, scale_x = (1.0, 1.0) if size is None else (size[0] / height, size[1] / width)
    points = np.stack([(col + 0.5) * scale_x, (row + 0.5) * scale_y], -1)
    points[~(flat.max(1) > flat.min(1))] = np.nan
    return points


def _chosen(predicted: np.ndarray, rule: str) -> np.ndarray:
    """The boxes that are compared with the marked one: f64[m, 4]."""
    predicted = np.asarray(predicted, np.float64).reshape(-1, 4)
    if rule == "largest":
        return predicted[:1]
    if rule == "hull" and len(predicted):
        return np.concatenate([predicted[:, :2].min(0), predicted[:, 2:].max(0)])[None]
    return predicted


def _check(
    predicted: Sequence[np.ndarray], truth: np.ndarray, finding: np.ndarray, number: int, rule: str
) -> None:
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}: one of {', '.join(RULES)}")
    if len(predicted) != len(truth):
        raise UserError(f"{len(predicted)} predictions for {len(truth)} marked boxes")
    if len(truth) and not 0 <= finding.min() <= finding.max() < number:
        raise UserError(f"findings are numbered 0 to {number - 1}, not {np.unique(finding)}")
    empty = np.flatnonzero(~(_area(truth) > 0))
    if len(empty):
        raise UserError(f"marked box {empty[0]} has no area: {truth[empty[0]].tolist()}")


def _cases(case: np.ndarray | None, finding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(case number 0..C-1 of each row, finding of each case)."""
    if case is None:
        return np.arange(len(finding)), finding
    _, first, index = np.unique(case, return_index=True, return_inverse=True)
    if (finding[first][index] != finding).any():
        raise UserError("the rows of one case must be of one finding")
    return index, finding[first]


def _summary(
    ious: np.ndarray,
    iobbs: np.ndarray,
    hits: np.ndarray,
    counts: np.ndarray,
    finding: np.ndarray,
    case: np.ndarray | None,
    number: int,
) -> Scores:
    """From one value per row and draw ([n, draws]) to one score per finding."""
    index, finding_of_case = _cases(case, finding)
    case_hits = np.zeros((len(finding_of_case), hits.shape[1]), bool)
    np.logical_or.at(case_hits, index, hits)

    def per_finding(values: np.ndarray, of: np.ndarray) -> np.ndarray:
        rows = [values[of == k] for k in range(number)]
        nothing = np.full(values.shape[1:], np.nan)
        return np.array([r.mean(0) if len(r) else nothing for r in rows], np.float64)

    def above(values: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
        parts = [(values > t).mean(1) for t in thresholds]
        return per_finding(np.stack(parts, 1), finding)

    return Scores(
        boxes=np.bincount(finding, minlength=number),
        cases=np.bincount(finding_of_case, minlength=number),
        iou=above(ious, IOU_THRESHOLDS),
        iobb=above(iobbs, IOBB_THRESHOLDS),
        pointing=per_finding(case_hits.mean(1), finding_of_case),
        regions=per_finding(
            # One map for a case, however many of its boxes are marked.
            counts.astype(np.float64)[np.unique(index, return_index=True)[1]], finding_of_case
        ),
    )


def score(
    predicted: Sequence[Float[np.ndarray, "_ 4"]],
    points: Float[np.ndarray, "n 2"],
    truth: Float[np.ndarray, "n 4"],
    finding: Int[np.ndarray, " n"],
    num_findings: int,
    case: Int[np.ndarray, " n"] | None = None,
    rule: str = "largest",
    tolerance: int | float = 0.0,
) -> Scores:
    """Judges n marked boxes.

    Args:
      predicted: for each row the boxes of its finding's heat map, largest first (`cam.boxes`).
      points: for each row the highest point of that map (`peaks`).
      truth: the marked boxes.
      finding: which of `num_findings` each row is.
      case: rows of the same number are boxes of one finding on one film; None: each its own.
      rule: what of `predicted` is compared: 'largest', 'any' or 'hull' (see the top of this file).
      tolerance: how far a point may lie outside its box and still hit.

    Raises:
      UserError: lengths that differ, an unknown rule or finding, a marked box without area.
    """
    _check(predicted, truth, finding, num_findings, rule)
    best = np.zeros((len(truth), 2))
    for i, boxes in enumerate(predicted):
        chosen = _chosen(boxes, rule)
        if len(chosen):
            marked = np.broadcast_to(truth[i], chosen.shape)
            best[i] = iou(chosen, marked).max(), iobb(chosen, marked).max()
    hits = inside(points, truth, tolerance)[:, None]
    counts = np.array([len(boxes) for boxes in predicted], np.int64)
    return _summary(best[:, :1], best[:, 1:], hits, counts, finding, case, num_findings)


def random_control(
    predicted: Sequence[Float[np.ndarray, "_ 4"]],
    truth: Float[np.ndarray, "n 4"],
    finding: Int[np.ndarray, " n"],
    num_findings: int,
    size: tuple[int | float, int | float],
    rng: np.random.Generator,
    case: Int[np.ndarray, " n"] | None = None,
    rule: str = "largest",
    tolerance: int | float = 0.0,
    draws: int = 1000,
) -> Scores:
    """What a guess without looking scores: the expectation, by `draws` draws a row.

    The point is uniform on the film. Each box keeps the size that the map gave it and gets a place
    that is uniform among those where it lies on the film, so a method does not beat this control by
    the size of its boxes. Other arguments as in `score`; `size` is the film's (height, width).
    """
    _check(predicted, truth, finding, num_findings, rule)
    film = np.array([size[1], size[0]], np.float64)
    ious, iobbs = np.zeros((2, len(truth), draws))
    for i, boxes in enumerate(predicted):
        chosen = _chosen(boxes, rule)
        if len(chosen):
            sides = np.minimum(chosen[:, 2:] - chosen[:, :2], film)
            corner = rng.random((draws, len(chosen), 2)) * (film - sides)
            placed = np.concatenate([corner, corner + sides], -1)
            marked = np.broadcast_to(truth[i], placed.shape)
            ious[i] = iou(placed, marked).max(1)
            iobbs[i] = iobb(placed, marked).max(1)
    index, finding_of_case = _cases(case, finding)
    points = rng.random((len(finding_of_case), draws, 2)) * film
    marked = np.broadcast_to(truth[:, None], (len(truth), draws, 4))
    hits = inside(points[index], marked, tolerance)
    counts = np.array([len(boxes) for boxes in predicted], np.int64)
    return _summary(ious, iobbs, hits, counts, finding, case, num_findings)
