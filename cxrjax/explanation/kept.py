"""What is kept of explained films as they go by: all maps of a test set would not fit in memory."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping

from cxrjax.explanation import marked as marking
from cxrjax.explanation.heatmaps import Explanation
from cxrjax.explanation.marked import Marked

Sheets = dict[int, list[int]]  # {finding: the films on its sheet, in order}


def most_probable(
    explanations: Iterable[Explanation], findings: Collection[int], most: int
) -> tuple[list[Explanation], Sheets]:
    """Films without their maps, but for those that are most probable of a finding.

    Args:
      explanations: of films, as they come.
      findings: that have sheets.
      most: films on a sheet.

    Returns:
      The films in order, with the maps of the sheets that they are on; the sheets, the most
      probable film first, of equal ones the first, those without an answer (NaN) last.
    """
    found: list[Explanation] = []
    best: dict[int, list[tuple[float, int]]] = {k: [] for k in findings}
    for number, explanation in enumerate(explanations):
        wanted = []
        for k, heap in best.items():
            p = float(explanation.probabilities[k])
            entry = (-math.inf if math.isnan(p) else p, -number)
            if len(heap) < most:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                _, fallen = heapq.heapreplace(heap, entry)
                found[-fallen].heat.pop(k)
            else:
                continue
            wanted.append(k)
        found.append(explanation.reduced(wanted))
    return found, {k: [-n for _, n in sorted(heap, reverse=True)] for k, heap in best.items()}


def for_boxes(
    explanations: Iterable[Explanation], marked: Marked, number: int, threshold: int | float,
    sheets: Mapping[int, Collection[int]],
) -> list[Explanation]:
    """Films with what is judged of their maps, and the maps of the sheets that they are on.

    Args:
      explanations: of the films of `marked`, in order.
      number: of labels.
      threshold: see `marked.judge`.
      sheets: films of each finding that get pictures.
    """
    judged: dict[int, set[int]] = {}
    for (film, finding), other in marking.others(marked, number).items():
        judged.setdefault(film, set()).update({finding} if other is None else {finding, other})
    shown: dict[int, list[int]] = {}
    for finding, films in sheets.items():
        for film in films:
            shown.setdefault(film, []).append(finding)
    return [e.reduced(shown.get(i, ()), sorted(judged.get(i, ())), threshold)
            for i, e in enumerate(explanations)]
