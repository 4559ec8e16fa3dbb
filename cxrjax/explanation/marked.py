"""Heat maps against the boxes of a data set, beside three controls.

A heat map that is right by luck, or right for every finding alike, explains nothing. So the score
stands beside controls that are judged by the same rules on the same boxes: a random position, the
same network with fresh random weights, and the map of another finding on the same film.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from cxrjax.data import preprocess
from cxrjax.data.sets.base import Films
from cxrjax.explanation import heatmaps
from cxrjax.explanation.heatmaps import Explanation
from cxrjax.metrics import localization

RANDOM_POSITION, RANDOM_WEIGHTS = "random position", "randomised weights"
OTHER_FINDING = "another finding's map"
FoundOf = Callable[[int, int], heatmaps.Regions]
Judged = dict[str, localization.Scores]


@dataclasses.dataclass(frozen=True)
class Marked:
    """Boxes on the films of one split.

    Attributes:
      positions: of the films that have boxes, in the data set.
      film: for each box which of `positions`.
      finding: for each box which label.
      box: (x0, y0, x1, y1) in fractions of the square that the network sees.
      left_out: boxes on films of other splits, or not at hand.
    """

    positions: Int[np.ndarray, " f"]
    film: Int[np.ndarray, " n"]
    finding: Int[np.ndarray, " n"]
    box: Float[np.ndarray, "n 4"]
    left_out: int

    @property
    def cases(self) -> list[tuple[int, int]]:
        """(film, finding) of every marked finding, in the order of the films."""
        return sorted(set(zip(self.film.tolist(), self.finding.tolist())))

    def boxes(self, film: int, finding: int) -> Float[np.ndarray, "m 4"]:
        """The boxes of one finding on one film; none where it is not marked."""
        return self.box[(self.film == film) & (self.finding == finding)]


def find_marked(
    films: Films, boxes: Sequence[tuple[str, str, tuple]], split: str, fit: str, size: int
) -> Marked:
    """The boxes of `sets.boxes` that lie on films of a split.

    Args:
      fit: how films became squares of `size` pixels; boxes are moved as the films were.
    """
    wanted = {str(films.table["id"][p]): int(p) for p in films.splits[split]}
    there = [b for b in boxes if b[0] in wanted]
    positions = np.array(sorted({wanted[b[0]] for b in there}), np.int64)
    at = {p: i for i, p in enumerate(positions.tolist())}
    moved = []
    for name, _, box in there:
        height, width = (
            int(films.table[k][wanted[name]]) if k in films.table else size
            for k in ("height", "width")
        )
        pixels = np.array(box) * [width, height, width, height]
        moved.append(preprocess.resize_boxes(pixels[None], height, width, size, fit)[0] / size)
    box = np.array(moved, np.float64).reshape(-1, 4)
    seen = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])  # 'crop' may have cut a box off
    return Marked(
        positions=positions,
        film=np.array([at[wanted[b[0]]] for b in there], np.int64)[seen],
        finding=np.array([films.labels.index(b[1]) for b in there], np.int64)[seen],
        box=box[seen],
        left_out=len(boxes) - int(seen.sum()),
    )


def judge(
    marked: Marked,
    found_of: FoundOf,
    number: int,
    random_position: bool = False,
) -> Judged:
    """Scores by each rule of `localization`, of maps against the marked boxes.

    Args:
      found_of: (film, finding) -> the regions and the highest point of its map.
      number: of labels.
      random_position: judge boxes of the maps' sizes at random places, and random points, instead.
    """
    found, points = {}, {}
    for film, finding in marked.cases:
        found[film, finding], points[film, finding] = found_of(film, finding)
    rows = list(zip(marked.film.tolist(), marked.finding.tolist()))
    predicted = [found[row] for row in rows]
    order = {row: i for i, row in enumerate(marked.cases)}
    case = np.array([order[row] for row in rows], np.int64)
    if random_position:
        return {
            rule: localization.random_control(
                predicted, marked.box, marked.finding, number, (1, 1), np.random.default_rng(0),
                case, rule, draws=200,
            )
            for rule in localization.RULES
        }
    where = np.array([points[row] for row in rows], np.float64).reshape(-1, 2)
    return {
        rule: localization.score(predicted, where, marked.box, marked.finding, number, case, rule)
        for rule in localization.RULES
    }


def others(marked: Marked, number: int) -> dict[tuple[int, int], int | None]:
    """{(film, finding): another finding, drawn at random, that is not marked on the film}.

    None where all are.
    """
    rng = np.random.default_rng(0)
    on_film: dict[int, set[int]] = {}
    for film, finding in marked.cases:
        on_film.setdefault(film, set()).add(finding)
    drawn: dict[tuple[int, int], int | None] = {}
    for film, finding in marked.cases:
        rest = [k for k in range(number) if k not in on_film[film]]
        drawn[film, finding] = int(rng.choice(rest)) if rest else None
    return drawn


def judge_all(
    marked: Marked,
    network: str,
    explanations: Sequence[Explanation],
    fresh: Sequence[Explanation],
    number: int,
    threshold: int | float,
) -> dict[str, Judged]:
    """{system: {rule: scores}}: the network, then its controls.

    Args:
      network: what the first system is called.
      explanations: of the films of `marked`, by the network.
      fresh: of the same films, by the network with random weights.
      number: of labels.
      threshold: part of the map's maximum from which a region stands out.
    """
    other = others(marked, number)

    def of(films: Sequence[Explanation]) -> FoundOf:
        def found_of(film: int, finding: int) -> heatmaps.Regions:
            known = films[film].found.get(finding)
            return known or heatmaps.regions(films[film].heat[finding], threshold)

        return found_of

    own = of(explanations)
    judged = {network: judge(marked, own, number)}
    if None not in other.values():  # else some film has no finding that is not marked on it
        judged[OTHER_FINDING] = judge(marked, lambda f, k: own(f, other[f, k]), number)
    return judged | {
        RANDOM_WEIGHTS: judge(marked, of(fresh), number),
        RANDOM_POSITION: judge(marked, own, number, random_position=True),
    }
